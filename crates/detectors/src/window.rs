//! The window of one stream: its last N values and their running sums.
//!
//! Pure, and without memory of its own: the values are in a ring of length N that the caller passes, always
//! the same one. A push costs the same however large N is.
//!
//! The sums are taken of `d = x − offset`, with an offset close to the mean, so that values near 1e9
//! with a spread of 1 lose no digits: `sum = Σd`, `square_sum = Σd²`, from which
//! `mean = offset + sum/n` and `squares = Σ(x − mean)² = square_sum − sum²/n`.
//!
//! # Why the sums never drift
//!
//! They are computed again from the ring (a *rebase*, around the current mean) once per turn of the ring, so
//! they never hold the rounding of more than N pushes. They are also rebased whenever `squares` has fallen
//! below `peak / 1024`, where `peak` is the largest `square_sum` since the last rebase. That bounds the error.
//! With `u = 2⁻⁵³`: every `d²` that was added or removed is at most `peak`, so each push errs by at most
//! `2u·peak` in `square_sum` and by `u(√n + 2)√peak` in `sum`, which by Cauchy–Schwarz is at most
//! `√(n·peak)`; the rebase itself is a sum of n terms. Together `squares` is off by at most
//! `(7N + 4√N + 8)u·peak`, and, as `squares ≥ peak/1024`, by `(7N + 4√N + 8)·1024u` of itself; the
//! deviation by half of that: 2.2e-11 for N = 50, 4.0e-9 for [`WINDOW_MAX`]. The same steps
//! bound the error of the mean by `(2N + 2√N + 1)·32u` deviations, beside its own rounding.
//! Both hold whatever the values before: one value of 1e15 forces a rebase when it leaves.
//!
//! A constant stream forces no rebase: all its `d` are 0, and so is `peak`.

use crate::saved::saved;
use sigmad_sample::VALUE_MAX;

/// The largest window: keeps the error bound of the deviation below 1e-8.
pub const WINDOW_MAX: usize = 10_000;

/// The smallest ratio of `squares` and peak at which `squares` still has enough digits.
const CANCELLATION_MAX: f64 = 1.0 / 1024.0;

/// Mean and variance of the values in a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moments {
    /// How many values it holds.
    pub count: u32,
    /// Their mean; 0 without values.
    pub mean: f64,
    /// Their population variance; exactly 0 when all are equal.
    pub variance: f64,
    /// What the mean lost to rounding: the two together are the mean to twice the digits.
    pub mean_rest: f64,
}

impl Moments {
    /// The moments of these values, in two passes.
    pub fn of(values: &[f64]) -> Self {
        let mut window = Window::default();
        if !values.is_empty() {
            window.count_as(values);
        }
        window.moments()
    }

    /// Population standard deviation.
    #[inline]
    pub fn std_dev(&self) -> f64 {
        self.variance.sqrt()
    }
}

saved!(Moments { count, mean, variance, mean_rest });

/// Running sums over the values in a ring.
#[derive(Clone, Debug, Default)]
pub struct Window {
    offset: f64,
    sum: f64,
    square_sum: f64,
    /// Largest `square_sum` since the last rebase.
    peak: f64,
    /// Σ(x − mean)², never negative.
    squares: f64,
    /// 1 / count.
    count_inverse: f64,
    count: u32,
    /// The index of the next value: that of the oldest once the ring is full.
    next: u32,
}

saved!(Window { offset, sum, square_sum, peak, squares, count_inverse, count, next });

impl Window {
    /// How many values it holds.
    #[inline]
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Mean and variance of the values it holds.
    #[inline]
    pub fn moments(&self) -> Moments {
        let from_offset = self.sum * self.count_inverse;
        let mean = self.offset + from_offset;
        Moments {
            count: self.count,
            mean,
            variance: self.squares * self.count_inverse,
            // Exact where the offset is the larger part (Dekker, 1971), as it is where the spread is small.
            mean_rest: (self.offset - mean) + from_offset,
        }
    }

    /// The place of the next value in the ring.
    #[inline]
    pub fn next_place(&self) -> usize {
        self.next as usize
    }

    /// Whether its counts are those of a ring of `len` values.
    pub fn fits(&self, len: usize) -> bool {
        let (count, next) = (self.count(), self.next as usize);
        count <= len && next < len && (count == len || next == count)
    }

    /// The newest value. None without values.
    pub fn last(&self, ring: &[f64]) -> Option<f64> {
        let newest = (self.next as usize).checked_sub(1).unwrap_or(ring.len() - 1);
        (self.count > 0).then(|| ring[newest])
    }

    /// The values, oldest first.
    pub fn values<'a>(&self, ring: &'a [f64]) -> impl Iterator<Item = f64> + use<'a> {
        let (older, newer) = if self.count() == ring.len() {
            let (newer, older) = ring.split_at(self.next as usize);
            (older, newer)
        } else {
            (&ring[..self.count()], &ring[..0])
        };
        older.iter().chain(newer).copied()
    }

    /// Adds a value, in place of the oldest when the ring is full.
    #[inline(always)] // between judging and what is left to do, so that the sums stay in registers
    pub fn push(&mut self, ring: &mut [f64], value: f64) {
        debug_assert!(value.abs() <= VALUE_MAX, "the decoder refuses {value}");
        debug_assert!((1..=WINDOW_MAX).contains(&ring.len()));
        let place = &mut ring[self.next as usize];
        let gone = std::mem::replace(place, value);
        let full = self.count() == ring.len();
        if full {
            let (come, gone) = (value - self.offset, gone - self.offset);
            self.sum += come - gone;
            self.square_sum += come * come - gone * gone;
        } else {
            self.grow(value);
        }
        self.next += 1;
        let turned = self.next as usize == ring.len();
        if turned {
            self.next = 0;
        }
        // Both are finite: no case for NaN.
        self.peak = if self.square_sum > self.peak { self.square_sum } else { self.peak };
        self.squares = self.square_sum - self.sum * self.sum * self.count_inverse;
        if turned || self.squares < self.peak * CANCELLATION_MAX {
            // By value, so that a caller may keep the sums of many pushes in registers.
            *self = self.clone().rebased(&ring[..self.count as usize]);
        }
    }

    /// Replaces all values by these, oldest first: at least one, and no more than fit the ring.
    pub fn refill(&mut self, ring: &mut [f64], values: &[f64]) {
        ring[..values.len()].copy_from_slice(values);
        self.next = (values.len() % ring.len()) as u32;
        self.count_as(values);
    }

    fn count_as(&mut self, values: &[f64]) {
        self.count = values.len() as u32;
        self.count_inverse = 1.0 / f64::from(self.count);
        *self = self.clone().rebased(values);
    }

    fn grow(&mut self, value: f64) {
        if self.count == 0 {
            self.offset = value;
        }
        let come = value - self.offset;
        self.sum += come;
        self.square_sum += come * come;
        self.count += 1;
        self.count_inverse = 1.0 / f64::from(self.count);
    }

    /// Computes the sums again. The mean is computed from the first value, so that equal values give exactly
    /// that value and no spread.
    #[inline(never)]
    fn rebased(mut self, values: &[f64]) -> Self {
        let first = values[0];
        let (from_first, _) = sums_around(first, values);
        self.offset = first + from_first * self.count_inverse;
        (self.sum, self.square_sum) = sums_around(self.offset, values);
        self.peak = self.square_sum;
        let squares = self.square_sum - self.sum * self.sum * self.count_inverse;
        self.squares = squares.max(0.0);
        self
    }
}

/// `Σd` and `Σd²` of `d = v − offset`, in four lanes that the CPU adds at once.
#[inline(always)] // so that a caller without use for one of the sums does not pay for it
fn sums_around(offset: f64, values: &[f64]) -> (f64, f64) {
    const LANES: usize = 4;
    let mut sums = [0.0; LANES];
    let mut square_sums = [0.0; LANES];
    let (wide, rest) = values.as_chunks::<LANES>();
    for four in wide {
        for lane in 0..LANES {
            let d = four[lane] - offset;
            sums[lane] += d;
            square_sums[lane] += d * d;
        }
    }
    for (lane, value) in rest.iter().enumerate() {
        let d = value - offset;
        sums[lane] += d;
        square_sums[lane] += d * d;
    }
    ((sums[0] + sums[1]) + (sums[2] + sums[3]), square_sums.iter().sum())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// Two passes in plain order, with which the running sums must agree. The second corrects the rounding of
    /// the mean, which matters where the spread is a few units in its last place.
    fn two_pass(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
        let n = values.clone().count() as f64;
        let first = values.clone().next().expect("not empty");
        let rough = first + values.clone().map(|v| v - first).sum::<f64>() / n;
        let mean = rough + values.clone().map(|v| v - rough).sum::<f64>() / n;
        let squares = values.clone().map(|v| (v - mean) * (v - mean)).sum::<f64>();
        let rest = values.map(|v| v - mean).sum::<f64>();
        (mean, ((squares - rest * rest / n) / n).sqrt())
    }

    #[test]
    fn a_refilled_window_continues_as_if_the_values_had_been_pushed() {
        let value = |i: usize| 1e9 + (i * i % 23) as f64;
        for (size, held, more) in [(50, 50, 120), (50, 7, 120), (1, 1, 3), (5, 4, 12)] {
            let (mut window, mut ring) = (Window::default(), vec![7e14; size]);
            for _ in 0..size + 2 {
                window.push(&mut ring, -7e14);
            }
            let values: Vec<_> = (0..held).map(value).collect();
            window.refill(&mut ring, &values);
            let of = Moments::of(&values);
            assert_eq!(window.moments(), of);
            for i in held..held + more {
                assert!(window.values(&ring).eq((i.saturating_sub(size)..i).map(value)));
                assert_eq!(window.last(&ring), Some(value(i - 1)));
                assert_agrees(&window, &ring, 1e-9);
                window.push(&mut ring, value(i));
            }
        }
        assert_eq!(Moments::of(&[]), Window::default().moments());
    }

    #[test]
    fn an_empty_window_has_no_last_value() {
        assert_eq!(Window::default().last(&[7.0; 3]), None);
    }

    /// Below it the squares are subnormal and lose digits.
    const DEVIATION_MIN: f64 = 1e-150;

    fn assert_agrees(window: &Window, ring: &[f64], relative: f64) {
        let (mean, std_dev) = two_pass(window.values(ring).collect::<Vec<_>>().into_iter());
        let got = window.moments();
        let mean_error = (got.mean - mean).abs();
        assert!(
            mean_error <= relative * std_dev + 4.0 * f64::EPSILON * mean.abs() + DEVIATION_MIN,
            "mean {} instead of {mean}, deviation {std_dev}",
            got.mean
        );
        let deviation_error = (got.std_dev() - std_dev).abs();
        assert!(
            deviation_error <= relative * std_dev + DEVIATION_MIN,
            "deviation {} instead of {std_dev}",
            got.std_dev()
        );
    }

    /// Pushes all values; after each the window holds the right values and moments.
    fn check(window_size: usize, values: &[f64]) {
        let mut window = Window::default();
        let mut ring = vec![0.0; window_size];
        let mut naive = VecDeque::new();
        for &value in values {
            window.push(&mut ring, value);
            naive.push_back(value);
            if naive.len() > window_size {
                naive.pop_front();
            }
            assert!(window.values(&ring).eq(naive.iter().copied()));
            assert_eq!(window.last(&ring), Some(value));
            assert!(window.squares >= window.square_sum * CANCELLATION_MAX, "lost digits");
            assert_agrees(&window, &ring, 1e-9);
        }
    }

    fn any_stretch() -> impl Strategy<Value = Vec<f64>> {
        let noise = |level: f64, spread: f64| {
            prop::collection::vec((-1.0..1.0f64).prop_map(move |r| level + spread * r), 1..120)
        };
        prop_oneof![
            4 => (-1e3..1e3f64, 1e-3..10.0f64).prop_flat_map(move |(l, s)| noise(l, s)),
            2 => (1e8..1e10f64, 0.1..10.0f64).prop_flat_map(move |(l, s)| noise(l, s)),
            1 => Just(()).prop_flat_map(move |()| noise(0.0, 1e-100)),
            1 => Just(()).prop_flat_map(move |()| noise(1.0, 1e-14)),
            1 => (-1e6..1e6f64, 1..120usize).prop_map(|(v, n)| vec![v; n]),
            1 => (-1e9..1e9f64, 1..120usize)
                .prop_map(|(v, n)| (0..n).map(|i| if i % 2 == 0 { v } else { -v }).collect()),
            1 => (0.0..1.0f64, 2.0..1e4f64, 1..60usize)
                .prop_map(|(v, q, n)| (0..n).map(|i| 1e15 * v / q.powi(i as i32)).collect()),
            2 => prop_oneof![Just(1e15), Just(-1e15), -1e15..1e15f64].prop_map(|v| vec![v]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn agrees_with_two_passes(
            window_size in prop_oneof![3 => Just(50usize), 1 => 1..130usize],
            stretches in prop::collection::vec(any_stretch(), 1..6),
        ) {
            check(window_size, &stretches.concat());
        }
    }

    #[test]
    fn a_level_shift_is_followed_exactly() {
        let step = |i: usize| if i < 70 { 0.0 } else { 1e9 } + (i % 7) as f64;
        check(50, &(0..300).map(step).collect::<Vec<_>>());
    }

    /// The squares of the new values are many times those of the last sum; only one of the old values is like them.
    #[test]
    fn sums_that_rise_and_cancel_are_made_again() {
        for size in [2, 3, 50, 1_000] {
            let mut values = vec![0.0; 2 * size - 1];
            values[size - 1] = 1.0;
            values[size..].fill(1.0 + 1.0 / 31.0);
            check(size, &values);
        }
    }

    #[test]
    fn a_huge_value_leaves_no_trace_at_any_position() {
        for place in 0..50 {
            let mut window = Window::default();
            let mut ring = [0.0; 50];
            for i in 0..50 + place {
                window.push(&mut ring, (i % 11) as f64);
            }
            window.push(&mut ring, 1e15);
            for i in 0..50 {
                assert!(window.moments().std_dev() > 1e13);
                window.push(&mut ring, 0.1 * (i % 13) as f64);
            }
            assert!(window.values(&ring).all(|v| v < 2.0));
            assert_agrees(&window, &ring, 1e-13);
        }
    }

    #[test]
    fn equal_values_have_exactly_no_spread_and_force_no_rebase() {
        for value in [0.1, 1.0 / 3.0, 1e9 + 0.1, -7e14, 1e-300] {
            let mut window = Window::default();
            let mut ring = [0.0; 50];
            window.push(&mut ring, 12.5);
            for pushed in 0..500 {
                window.push(&mut ring, value);
                if pushed >= 50 {
                    assert_eq!((window.moments().mean, window.moments().variance), (value, 0.0));
                    assert!(window.peak == 0.0, "a rebase could be forced again");
                }
            }
        }
    }

    /// A cheap generator, so that a billion updates take seconds.
    struct Normal(u64);

    impl Normal {
        fn next(&mut self) -> f64 {
            // Sum of four uniforms of 16 bits: normal enough, deviation 1 after scaling.
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            let sum = (0..4).map(|i| (self.0 >> (16 * i) & 0xffff) as f64).sum::<f64>();
            (sum / 65_536.0 - 2.0) * 3f64.sqrt()
        }
    }

    #[test]
    fn values_with_spread_are_summed_again_once_a_turn() {
        let mut normal = Normal(0x9e37_79b9_7f4a_7c15);
        let mut window = Window::default();
        let mut ring = [0.0; 50];
        for pushed in 1..=500 {
            let before = window.offset;
            window.push(&mut ring, 10.0 + normal.next());
            // The first value is the first offset.
            let may_move = pushed == 1 || pushed % ring.len() == 0;
            assert!(may_move || window.offset == before, "{pushed}");
            // Sums around the mean lose the fewest digits.
            assert!(pushed % ring.len() != 0 || window.sum.abs() < 1e-9, "{pushed}");
        }
    }

    fn drift(updates: u64) {
        let mut normal = Normal(0x9e37_79b9_7f4a_7c15);
        let mut window = Window::default();
        let mut ring = [0.0; 50];
        let mut worst: f64 = 0.0;
        for update in 1..=updates {
            window.push(&mut ring, 1e9 + normal.next());
            if update % 4_099 == 0 {
                let (mean, std_dev) = two_pass(ring.iter().copied());
                let got = window.moments();
                worst = worst.max((got.mean / mean - 1.0).abs());
                worst = worst.max((got.std_dev() / std_dev - 1.0).abs());
            }
        }
        println!("after {updates} updates: {worst:e} at worst");
        assert!(worst < 1e-12, "{worst:e}");
    }

    #[test]
    fn no_drift_in_twenty_million_updates() {
        drift(20_000_000);
    }

    #[test]
    #[ignore = "a billion updates take seconds in a release build, minutes in this one"]
    fn no_drift_in_a_billion_updates() {
        drift(1_000_000_000);
    }

    #[test]
    fn counts_fit_a_ring_that_they_can_be_of() {
        let of = |pushed: usize, len: usize| {
            let mut window = Window::default();
            (0..pushed).for_each(|value| window.push(&mut vec![0.0; len], value as f64));
            window
        };
        for (pushed, len, fitting) in [
            (0, 3, &[1, 2, 3, 4][..]),
            (1, 3, &[2, 3, 4]),
            (2, 3, &[3, 4]),
            (3, 3, &[3]),
            (5, 3, &[3]),
        ] {
            let window = of(pushed, len);
            let fits: Vec<_> = (1..=4).filter(|len| window.fits(*len)).collect();
            assert_eq!(fits, fitting, "{pushed} of {len}");
        }
        let window = Window { next: 3, ..of(3, 3) };
        assert!(!window.fits(3), "the next place is past the ring");
    }
}
