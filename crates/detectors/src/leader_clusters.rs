//! Clusters of the points where a stream has been, and the distance of a point from the nearest.
//!
//! Leader clustering (Hartigan, *Clustering Algorithms*, 1975) with forgetting. A point within the radius of
//! its nearest centre adds weight to the centre and moves it closer. A point outside replaces the lightest
//! centre. The weight of a point grows a little with every point, so a centre without new points fades.
//! A centre made by a single point that has faded does not count as known.
//!
//! The caller chooses the units of points; distances are in deviations. All numbers are 32-bit floats in
//! separate arrays, so that the distances to all centres take a few vector operations.

use crate::saved::saved;

/// Enough for the states of a load curve; a centre takes 4(D + 1) bytes.
const CENTRES: usize = 32;
/// The bits of a float that carry the number of its centre during a search for the smallest.
const TAG: u32 = 31;
const _: () = assert!(CENTRES <= TAG as usize + 1);
/// The coordinate of an unused centre: no point is near it, and the sum of three squares is a finite float.
const NOWHERE: f32 = 1e18;
/// The weight, in those of the latest point, from which a centre is known.
const KNOWN: f32 = 0.4;
/// A centre moves at least this fraction of the way towards each of its points, however heavy it is.
const PULL_MIN: f32 = 0.03;
/// When the gain exceeds this, all weights are divided by it.
const GAIN_MAX: f32 = 1e6;

/// A growth of less would be lost in the rounding of a float.
const FASTER_MAX: f32 = 10.0;

/// Centres that a search compares at once.
const LANES: usize = 16;
const _: () = assert!(LANES.is_power_of_two() && CENTRES.is_multiple_of(LANES));

/// The parameters of a set of clusters.
#[derive(Clone, Copy, Debug)]
pub struct LeaderParameters {
    /// The radius of a cluster, in deviations: a point outside all of them becomes a centre.
    pub radius: f32,
    /// By which fraction the weight of each point exceeds that of the point before it.
    pub growth: f32,
}

impl LeaderParameters {
    /// For a stream that is so many times faster, but forgets no sooner. Up to ten times.
    #[inline]
    pub fn slower(self, faster: f32) -> Self {
        Self { growth: self.growth / faster.min(FASTER_MAX), ..self }
    }
}

/// The centres of points in D dimensions.
#[derive(Clone, Debug)]
pub struct LeaderClusters<const D: usize> {
    centres: [[f32; CENTRES]; D],
    /// 0 where there is no centre yet.
    weights: [f32; CENTRES],
    gain: f32,
}

saved!(impl [const D: usize] LeaderClusters<D> { centres, weights, gain });

impl<const D: usize> Default for LeaderClusters<D> {
    fn default() -> Self {
        Self { centres: [[NOWHERE; CENTRES]; D], weights: [0.0; CENTRES], gain: 1.0 }
    }
}

impl<const D: usize> LeaderClusters<D> {
    /// The root mean square distance from `point` to the nearest known centre, in deviations; 0 while no
    /// centre is known. Then the point is added. `inverse` is one over the deviation, 0 without spread.
    #[inline]
    pub fn add(&mut self, parameters: LeaderParameters, point: [f32; D], inverse: f32) -> f32 {
        let scale = inverse * inverse / D as f32;
        let nearest = self.nearest(&point, |_| true);
        let distance = self.distance(nearest, &point);
        let known = self.known_distance(nearest, distance, &point);
        self.gain *= 1.0 + parameters.growth;
        let is_new = self.weights[nearest] == 0.0
            || distance * scale > parameters.radius * parameters.radius;
        if is_new {
            self.replace_lightest(point);
        } else {
            self.pull_centre(nearest, point);
        }
        if self.gain > GAIN_MAX {
            self.renormalise();
        }
        (known * scale).sqrt()
    }

    /// The squared distance to the nearest known centre, 0 when none is known. Mostly that is the nearest
    /// centre, whose distance is `distance`.
    #[inline]
    fn known_distance(&self, nearest: usize, distance: f32, point: &[f32; D]) -> f32 {
        let known_from = KNOWN * self.gain;
        if self.weights[nearest] >= known_from {
            return distance;
        }
        let known = self.nearest(point, |weight| weight >= known_from);
        if self.weights[known] >= known_from { self.distance(known, point) } else { 0.0 }
    }

    /// The squared distance of a point from a centre.
    #[inline]
    fn distance(&self, number: usize, point: &[f32; D]) -> f32 {
        let mut distance = 0.0;
        for (centres, at) in self.centres.iter().zip(point) {
            let difference = at - centres[number];
            distance += difference * difference;
        }
        distance
    }

    /// The nearest of the centres whose weight counts; any centre, if none does.
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

    fn replace_lightest(&mut self, point: [f32; D]) {
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
    fn pull_centre(&mut self, number: usize, point: [f32; D]) {
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

    /// Converts every centre to other units.
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

/// One instruction, where `f32::min` also checks for NaN.
#[inline]
fn lesser(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// The smallest of all lanes.
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

/// A value, 0 and up, with the number of a centre in its last bits, so that the smallest names its centre.
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

    const PARAMETERS: LeaderParameters = LeaderParameters { radius: 0.4, growth: 2e-3 };

    /// The same rule without tags and lanes.
    #[derive(Default)]
    struct NaiveClusters {
        centres: Vec<([f32; 2], f32)>,
        gain: f32,
        /// Whether a choice was so close that rounding may decide it.
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

        fn add(&mut self, point: [f32; 2]) -> f32 {
            let squared = |c: &[f32; 2]| (point[0] - c[0]).powi(2) + (point[1] - c[1]).powi(2);
            let known_from = KNOWN * self.gain;
            let known = self.centres.iter().filter(|c| c.1 >= known_from);
            let known = known.map(|c| squared(&c.0)).min_by(f32::total_cmp).unwrap_or(0.0);
            for weight in self.centres.iter().map(|c| c.1).collect::<Vec<_>>() {
                self.choose(weight, known_from);
            }
            let nearest = self.least(|c| squared(&c.0));
            let radius = 2.0 * PARAMETERS.radius * PARAMETERS.radius;
            self.gain *= 1.0 + PARAMETERS.growth;
            if let Some(nearest) = nearest {
                self.choose(squared(&self.centres[nearest].0), radius);
            }
            match nearest {
                Some(i) if squared(&self.centres[i].0) <= radius => {
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
            let mut clusters = LeaderClusters::<2>::default();
            let mut naive = NaiveClusters { gain: 1.0, ..NaiveClusters::default() };
            for (x, y) in points {
                let (got, expected) = (clusters.add(PARAMETERS, [x, y], 1.0), naive.add([x, y]));
                prop_assert!((got - expected).abs() <= 1e-3 * expected.max(0.1), "{got} {expected}");
                // From here on the two may differ.
                if naive.is_close {
                    break;
                }
            }
        }
    }

    /// Far enough to fill the table, and far beyond the first close choice.
    #[test]
    fn the_table_fills_and_forgets() {
        let mut clusters = LeaderClusters::<2>::default();
        let mut naive = NaiveClusters { gain: 1.0, ..NaiveClusters::default() };
        for i in 0..200u32 {
            // A grid of spacing 1, a little off it, each place once in forty.
            let place = i * 7 % 40;
            let off = 1e-2 * (i % 3) as f32;
            let point = [(place % 8) as f32 + off, (place / 8) as f32 * 1.01];
            let (got, expected) = (clusters.add(PARAMETERS, point, 1.0), naive.add(point));
            assert!((got - expected).abs() <= 1e-3 * expected.max(0.1), "{i}: {got} {expected}");
        }
        assert_eq!(naive.centres.len(), CENTRES);
    }

    #[test]
    fn a_centre_without_new_points_is_forgotten() {
        let mut clusters = LeaderClusters::<1>::default();
        assert_eq!(clusters.add(PARAMETERS, [0.0], 1.0), 0.0);
        assert_eq!(clusters.add(PARAMETERS, [5.0], 1.0), 5.0);
        assert_eq!(clusters.clone().add(PARAMETERS, [5.0], 1.0), 0.0);
        for _ in 0..2_000 {
            clusters.add(PARAMETERS, [0.0], 1.0);
        }
        assert_eq!(clusters.add(PARAMETERS, [5.0], 1.0), 5.0);
    }

    #[test]
    fn weights_stay_finite() {
        let mut clusters = LeaderClusters::<1>::default();
        let fast = LeaderParameters { radius: 0.4, growth: 0.5 };
        for i in 0..10_000 {
            clusters.add(fast, [(i % 3) as f32], 1.0);
        }
        assert!(clusters.weights.iter().all(|weight| weight.is_finite()));
        assert_eq!(clusters.add(fast, [0.0], 1.0), 0.0);
    }
}
