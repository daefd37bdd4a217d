//! Where a stream has been: a few weighted centres, and how far a point lies from the nearest.
//!
//! Leader clustering (Hartigan, 1975) with forgetting. A point within reach of its nearest centre adds
//! its weight to it and draws it closer; one beyond becomes a centre, in the place of the lightest. What
//! a visit weighs grows a little with every point, so what is not visited again fades against the rest.
//! A centre that a single fading visit made does not count as known.
//!
//! Points come in units chosen by the caller, distances go in deviations. Everything is a float of 32
//! bits in an array of its own, so that the distances to all centres are a few vector operations.

/// Enough for the states of a load curve; 4(D + 1) bytes each.
const CENTRES: usize = 32;
/// The bits of a float that carry its centre's number while the least is sought.
const TAG: u32 = 31;
const _: () = assert!(CENTRES <= TAG as usize + 1);
/// No point comes here, and three squares of it still make a float.
const NOWHERE: f32 = 1e18;
/// A centre is known from so many of the latest visits' weight on.
const KNOWN: f32 = 0.4;
/// A centre goes on moving this far towards each visitor, however heavy it is.
const PULL_MIN: f32 = 0.03;
/// Weights are divided by the gain when it reaches this.
const GAIN_MAX: f32 = 1e6;

/// Searched side by side.
const LANES: usize = 16;
const _: () = assert!(LANES.is_power_of_two() && CENTRES.is_multiple_of(LANES));

/// How a set of centres is kept.
#[derive(Clone, Copy, Debug)]
pub struct Habit {
    /// A point farther than so many deviations from every centre becomes one.
    pub reach: f32,
    /// How much more each visit weighs than the one before it.
    pub fading: f32,
}

/// The centres of points in D dimensions.
#[derive(Clone, Debug)]
pub struct LeaderClusters<const D: usize> {
    centres: [[f32; CENTRES]; D],
    /// 0 where there is no centre yet.
    weights: [f32; CENTRES],
    gain: f32,
}

impl<const D: usize> Default for LeaderClusters<D> {
    fn default() -> Self {
        Self { centres: [[NOWHERE; CENTRES]; D], weights: [0.0; CENTRES], gain: 1.0 }
    }
}

impl<const D: usize> LeaderClusters<D> {
    /// The root mean square distance from `point` to the nearest known centre, in deviations (0 while
    /// nothing is known); then the point is a visit. `inverse` is one over the deviation, 0 of none.
    #[inline]
    pub fn visit(&mut self, habit: Habit, point: [f32; D], inverse: f32) -> f32 {
        let scale = inverse * inverse / D as f32;
        let nearest = self.nearest(&point, |_| true);
        let distance = self.distance(nearest, &point);
        let known = self.known_distance(nearest, distance, &point);
        self.gain *= 1.0 + habit.fading;
        let is_new = self.weights[nearest] == 0.0 || distance * scale > habit.reach * habit.reach;
        if is_new {
            self.found(point);
        } else {
            self.draw(nearest, point);
        }
        if self.gain > GAIN_MAX {
            self.renormalise();
        }
        (known * scale).sqrt()
    }

    /// The squared distance to the nearest known centre, 0 when none is known: mostly that to the nearest.
    #[inline]
    fn known_distance(&self, nearest: usize, distance: f32, point: &[f32; D]) -> f32 {
        let known_from = KNOWN * self.gain;
        if self.weights[nearest] >= known_from {
            return distance;
        }
        let known = self.nearest(point, |weight| weight >= known_from);
        if self.weights[known] >= known_from { self.distance(known, point) } else { 0.0 }
    }

    /// The square of it.
    #[inline]
    fn distance(&self, number: usize, point: &[f32; D]) -> f32 {
        let mut distance = 0.0;
        for (centres, at) in self.centres.iter().zip(point) {
            let apart = at - centres[number];
            distance += apart * apart;
        }
        distance
    }

    /// The nearest centre, of those whose weight counts; any, if none does.
    #[inline(always)] // a loop for each of its two callers: one looks at no weight
    fn nearest(&self, point: &[f32; D], counts: impl Fn(f32) -> bool) -> usize {
        let mut nearest = [f32::MAX; LANES];
        for from in (0..CENTRES).step_by(LANES) {
            for (lane, nearest) in nearest.iter_mut().enumerate() {
                let number = from + lane;
                let counts = counts(self.weights[number]);
                let distance = if counts { self.distance(number, point) } else { f32::MAX };
                *nearest = lesser(*nearest, tagged(distance, number));
            }
        }
        tag(least(nearest))
    }

    fn found(&mut self, point: [f32; D]) {
        let mut lightest = [f32::MAX; LANES];
        for from in (0..CENTRES).step_by(LANES) {
            for (lane, lightest) in lightest.iter_mut().enumerate() {
                let number = from + lane;
                *lightest = lesser(*lightest, tagged(self.weights[number], number));
            }
        }
        let lightest = tag(least(lightest));
        for (centres, at) in self.centres.iter_mut().zip(point) {
            centres[lightest] = at;
        }
        self.weights[lightest] = self.gain;
    }

    #[inline]
    fn draw(&mut self, number: usize, point: [f32; D]) {
        self.weights[number] += self.gain;
        let pull = (self.gain / self.weights[number]).max(PULL_MIN);
        for (centres, at) in self.centres.iter_mut().zip(point) {
            centres[number] += pull * (at - centres[number]);
        }
    }

    #[cold]
    fn renormalise(&mut self) {
        for weight in &mut self.weights {
            *weight /= self.gain;
        }
        self.gain = 1.0;
    }

    /// Moves every centre into other units.
    pub fn convert(&mut self, into: impl Fn(f32) -> f32) {
        for centres in &mut self.centres {
            for (centre, &weight) in centres.iter_mut().zip(&self.weights) {
                if weight > 0.0 {
                    *centre = into(*centre);
                }
            }
        }
    }
}

/// One instruction, where `f32::min` also looks for what is no number.
#[inline]
fn lesser(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// The least of all lanes.
#[inline]
fn least(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = lesser(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// A number of 0 and up with a centre's number in its last bits, so that the least names its centre.
#[inline]
fn tagged(value: f32, number: usize) -> f32 {
    f32::from_bits(value.to_bits() & !TAG | number as u32)
}

#[inline]
fn tag(tagged: f32) -> usize {
    (tagged.to_bits() & TAG) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HABIT: Habit = Habit { reach: 0.4, fading: 2e-3 };

    /// The same without tags, lanes and second thoughts.
    #[derive(Default)]
    struct NaiveClusters {
        centres: Vec<([f32; 2], f32)>,
        gain: f32,
        /// A choice was so close that rounding may make another.
        is_close: bool,
    }

    impl NaiveClusters {
        fn choose(&mut self, one: f32, other: f32) {
            self.is_close |= (one - other).abs() <= 1e-3 * one.abs().max(other.abs());
        }

        /// The least of all, by this measure.
        fn least(&mut self, measure: impl Fn(&([f32; 2], f32)) -> f32) -> Option<usize> {
            let measures: Vec<f32> = self.centres.iter().map(measure).collect();
            let mut order: Vec<usize> = (0..measures.len()).collect();
            order.sort_by(|&a, &b| measures[a].total_cmp(&measures[b]));
            if let [first, second, ..] = order[..] {
                self.choose(measures[first], measures[second]);
            }
            order.first().copied()
        }

        fn visit(&mut self, point: [f32; 2]) -> f32 {
            let squared = |c: &[f32; 2]| (point[0] - c[0]).powi(2) + (point[1] - c[1]).powi(2);
            let known_from = KNOWN * self.gain;
            let known = self.centres.iter().filter(|c| c.1 >= known_from);
            let known = known.map(|c| squared(&c.0)).min_by(f32::total_cmp).unwrap_or(0.0);
            for weight in self.centres.iter().map(|c| c.1).collect::<Vec<_>>() {
                self.choose(weight, known_from);
            }
            let nearest = self.least(|c| squared(&c.0));
            let reach = 2.0 * HABIT.reach * HABIT.reach;
            self.gain *= 1.0 + HABIT.fading;
            if let Some(nearest) = nearest {
                self.choose(squared(&self.centres[nearest].0), reach);
            }
            match nearest {
                Some(i) if squared(&self.centres[i].0) <= reach => {
                    let (centre, weight) = &mut self.centres[i];
                    *weight += self.gain;
                    let pull = (self.gain / *weight).max(PULL_MIN);
                    for (c, at) in centre.iter_mut().zip(point) {
                        *c += pull * (at - *c);
                    }
                }
                _ => {
                    if self.centres.len() == CENTRES {
                        let lightest = self.least(|c| c.1).expect("not empty");
                        self.centres.swap_remove(lightest);
                    }
                    self.centres.push((point, self.gain));
                }
            }
            (known / 2.0).sqrt()
        }
    }

    proptest! {
        #[test]
        fn distances_are_those_of_the_plain_rule(
            points in prop::collection::vec((0.0..7.0f32, 0.0..7.0f32), 1..400),
        ) {
            let mut leaders = LeaderClusters::<2>::default();
            let mut naive = NaiveClusters { gain: 1.0, ..NaiveClusters::default() };
            for (x, y) in points {
                let (got, expected) = (leaders.visit(HABIT, [x, y], 1.0), naive.visit([x, y]));
                prop_assert!((got - expected).abs() <= 1e-3 * expected.max(0.1), "{got} {expected}");
                // From here on both may go their own way.
                if naive.is_close {
                    break;
                }
            }
        }
    }

    /// Far enough to fill the table, and far beyond the first close choice.
    #[test]
    fn the_table_fills_and_forgets() {
        let mut leaders = LeaderClusters::<2>::default();
        let mut naive = NaiveClusters { gain: 1.0, ..NaiveClusters::default() };
        for i in 0..200u32 {
            // A grid of spacing 1, a little off it, each place once in forty.
            let place = i * 7 % 40;
            let off = 1e-2 * (i % 3) as f32;
            let point = [(place % 8) as f32 + off, (place / 8) as f32 * 1.01];
            let (got, expected) = (leaders.visit(HABIT, point, 1.0), naive.visit(point));
            assert!((got - expected).abs() <= 1e-3 * expected.max(0.1), "{i}: {got} {expected}");
        }
        assert_eq!(naive.centres.len(), CENTRES);
    }

    #[test]
    fn what_is_not_visited_again_is_forgotten() {
        let mut leaders = LeaderClusters::<1>::default();
        assert_eq!(leaders.visit(HABIT, [0.0], 1.0), 0.0);
        assert_eq!(leaders.visit(HABIT, [5.0], 1.0), 5.0);
        assert_eq!(leaders.clone().visit(HABIT, [5.0], 1.0), 0.0);
        for _ in 0..2_000 {
            leaders.visit(HABIT, [0.0], 1.0);
        }
        assert_eq!(leaders.visit(HABIT, [5.0], 1.0), 5.0);
    }

    #[test]
    fn weights_stay_finite_for_ever() {
        let mut leaders = LeaderClusters::<1>::default();
        let quick = Habit { reach: 0.4, fading: 0.5 };
        for i in 0..10_000 {
            leaders.visit(quick, [(i % 3) as f32], 1.0);
        }
        assert!(leaders.weights.iter().all(|weight| weight.is_finite()));
        assert_eq!(leaders.visit(quick, [0.0], 1.0), 0.0);
    }
}
