//! Run length: how long a condition has held, compared with its longest run so far.
//!
//! A stuck sensor repeats its value, and a missing daily cycle stays below its baseline; neither takes a value
//! that the stream has never had. After n runs, the longest of which took m values, a run of l values has a
//! probability of 1 in n (l / (m + 1))^1.5: a power law beyond the longest, as in
//! [`tail_probability`](super::tail_probability), with the exponent of a tail without a variance. Streams that
//! rest by nature, like counters, have rested for long before, so m is large and n is small. A run has no
//! surprise before six times the longest, because a weekend is five nights long.

use crate::saved::saved;

/// A run has a surprise at this many times the longest, and again at each doubling, in case of a cooldown.
const TIMES: u32 = 6;
/// `TIMES^1.5`.
const RARER: f32 = 14.7;
/// By which fraction the longest run shrinks with each run, so that about ten thousand runs count.
const DECAY: f32 = 1e-4;
const COUNT_MAX: f32 = 1e4;

/// The runs of one condition of a stream.
#[derive(Clone, Debug, Default)]
pub struct RunLength {
    length: u32,
    /// The longest run that has ended.
    longest: f32,
    count: f32,
}

saved!(RunLength { length, longest, count });

impl RunLength {
    /// Values of the current run.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// Takes a value that continues the run, or begins the next one. Returns −log₁₀ of the probability of the
    /// run at the lengths where it has a surprise, else 0.
    #[inline]
    pub fn surprise(&mut self, continues: bool) -> f32 {
        if !continues {
            self.longest = (self.longest * (1.0 - DECAY)).max(self.length as f32);
            self.count = (self.count + 1.0).min(COUNT_MAX);
            self.length = 1;
            return 0.0;
        }
        self.length = self.length.saturating_add(1);
        let long = TIMES.saturating_mul((self.longest as u32).saturating_add(1));
        if self.length < long { 0.0 } else { self.surprise_of(long) }
    }

    #[cold]
    fn surprise_of(&self, long: u32) -> f32 {
        let is_due = self.length.is_multiple_of(long) && (self.length / long).is_power_of_two();
        if is_due { (RARER * self.count).max(1.0).log10() } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lengths at which a run of 1,000 has a surprise, after `count` runs of `length`.
    fn surprises(count: usize, length: usize) -> Vec<(usize, f32)> {
        let mut run = RunLength::default();
        for value in 0..count * length {
            run.surprise(value % length > 0);
        }
        let surprises = (1..=1_000).map(|value| (value, run.surprise(value > 1)));
        surprises.filter(|&(_, surprise)| surprise > 0.0).collect()
    }

    #[test]
    fn what_never_stood_still_is_due_to_do_so() {
        let after = surprises(5_000, 1);
        let lengths: Vec<usize> = after.iter().map(|&(length, _)| length).collect();
        assert_eq!(lengths, [12, 24, 48, 96, 192, 384, 768]);
        assert!(after.iter().all(|&(_, surprise)| (surprise - 4.87).abs() < 0.01), "{after:?}");
        // Fewer runs give less surprise.
        assert!(surprises(10, 1).iter().all(|&(_, surprise)| surprise < 2.3));
    }

    #[test]
    fn a_run_no_longer_than_before_is_no_surprise() {
        assert_eq!(surprises(50, 200), []);
        assert_eq!(surprises(50, 160).len(), 1);
    }

    #[test]
    fn a_constant_stream_has_no_surprise() {
        let mut run = RunLength::default();
        assert!((0..100_000).all(|_| run.surprise(true) == 0.0));
        assert_eq!(run.surprise(false), 0.0);
        // The same after one other value.
        assert!((0..100_000).all(|_| run.surprise(true) == 0.0));
    }
}
