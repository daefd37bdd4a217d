//! The last N values, and their order: medians without a sort.
//!
//! A new value finds its rank by bisection, and each rank above it moves by a byte.

use crate::saved::{Saved, saved};

/// The last N values of a stream, at most 255.
#[derive(Clone, Debug)]
pub struct Ranked<T, const N: usize> {
    values: [T; N],
    /// Places in `values`, smallest value first.
    order: [u8; N],
    count: u8,
    next: u8,
}

// A place past the values would panic.
saved!(impl [T: Copy + Default + Saved, const N: usize] Ranked<T, N> { values, order, count, next } if |it| {
    let places = [it.next, it.count.saturating_sub(1)];
    it.order.iter().chain(&places).all(|&place| usize::from(place) < N)
});

impl<T: Copy + Default, const N: usize> Default for Ranked<T, N> {
    fn default() -> Self {
        const { assert!(N <= u8::MAX as usize) };
        Self { values: [T::default(); N], order: [0; N], count: 0, next: 0 }
    }
}

impl<T: Copy + PartialOrd + Into<f64>, const N: usize> Ranked<T, N> {
    /// How many values it holds.
    #[inline]
    pub fn count(&self) -> usize {
        usize::from(self.count)
    }

    /// Adds a value, in place of the oldest when it is full.
    pub fn take(&mut self, value: T) {
        let place = self.next;
        let mut count = self.count();
        if count == N {
            let rank = self.rank(place);
            self.order.copy_within(rank + 1.., rank);
            count -= 1;
        }
        let rank = self.below(value, count);
        self.order.copy_within(rank..count, rank + 1);
        self.order[rank] = place;
        self.values[usize::from(place)] = value;
        self.count = count as u8 + 1;
        self.next = ((usize::from(place) + 1) % N) as u8;
    }

    /// How many of the first `count` ranks are below a value.
    #[inline]
    fn below(&self, value: T, count: usize) -> usize {
        self.order[..count].partition_point(|&p| self.values[usize::from(p)] < value)
    }

    /// The rank of the value at `place`: after smaller values, among equal ones.
    fn rank(&self, place: u8) -> usize {
        let mut rank = self.below(self.values[usize::from(place)], self.count());
        while self.order[rank] != place {
            rank += 1;
        }
        rank
    }

    /// Converts every value by a function that keeps their order.
    pub fn convert(&mut self, into: impl Fn(T) -> T) {
        let count = self.count();
        for value in &mut self.values[..count] {
            *value = into(*value);
        }
    }

    #[inline]
    fn ranked(&self, rank: usize) -> f64 {
        self.values[usize::from(self.order[rank])].into()
    }

    /// The middle value, or the mean of the two. There must be a value.
    #[inline]
    pub fn median(&self) -> f64 {
        let count = self.count();
        0.5 * (self.ranked((count - 1) / 2) + self.ranked(count / 2))
    }

    /// The median of the distances from the median. Distances grow with the rank's distance from the middle,
    /// so bisection finds how many of the closer half are below the median.
    pub fn median_distance(&self, median: f64) -> f64 {
        let count = self.count();
        let (lower, upper) = (count / 2, count - count / 2);
        let down = |i: usize| median - self.ranked(lower - 1 - i);
        let up = |i: usize| self.ranked(lower + i) - median;
        let half = count.div_ceil(2);
        let (mut below, mut most) = (half.saturating_sub(upper), half.min(lower));
        while below < most {
            let middle = (below + most) / 2;
            if down(middle) < up(half - middle - 1) {
                below = middle + 1;
            } else {
                most = middle;
            }
        }
        let above = half - below;
        let last_below = if below > 0 { down(below - 1) } else { 0.0 };
        let last_above = if above > 0 { up(above - 1) } else { 0.0 };
        let last = last_below.max(last_above);
        if !count.is_multiple_of(2) {
            return last;
        }
        let next_below = if below < lower { down(below) } else { f64::INFINITY };
        let next_above = if above < upper { up(above) } else { f64::INFINITY };
        0.5 * (last + next_below.min(next_above))
    }

    /// The mean of the distances from the median.
    pub fn mean_distance(&self, median: f64) -> f64 {
        let count = self.count();
        let distances = self.values[..count].iter().map(|&v| (v.into() - median).abs());
        distances.sum::<f64>() / count as f64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn median(mut values: Vec<f64>) -> f64 {
        values.sort_by(f64::total_cmp);
        let n = values.len();
        0.5 * (values[(n - 1) / 2] + values[n / 2])
    }

    proptest! {
        #[test]
        fn medians_equal_those_of_a_sort(
            values in prop::collection::vec(
                prop_oneof![3 => -50..50i32, 1 => Just(7), 1 => -1_000_000..1_000_000i32], 1..120),
        ) {
            let mut ranked = Ranked::<f64, 10>::default();
            let mut last = VecDeque::new();
            for value in values.into_iter().map(f64::from) {
                ranked.take(value);
                last.push_back(value);
                if last.len() > 10 {
                    last.pop_front();
                }
                let middle = median(last.iter().copied().collect());
                let distances: Vec<f64> = last.iter().map(|v| (v - middle).abs()).collect();
                prop_assert_eq!(ranked.count(), last.len());
                prop_assert_eq!(ranked.median(), middle);
                let mean = distances.iter().sum::<f64>() / distances.len() as f64;
                prop_assert!((ranked.mean_distance(middle) - mean).abs() <= 1e-12 * mean);
                prop_assert_eq!(ranked.median_distance(middle), median(distances));
            }
        }
    }
}
