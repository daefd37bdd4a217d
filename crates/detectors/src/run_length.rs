//! A spell: how long something has gone on, against the longest that it ever did.
//!
//! A stuck sensor repeats its value and a day that fails to come stays below the usual one, and neither
//! goes where the stream has never been. After n spells, the longest of which took m values, one of l
//! values is as rare as 1 in n (l / (m + 1))^1.5: a power law beyond the longest, as in
//! [`tail`](super::tail), with the exponent of a tail too heavy for a variance. What rests by nature, like
//! counters and states, has rested long before, and rarely in between, so that m is large and n is not.
//! Nothing is said before six times the longest: a weekend is five nights long.

/// So many times the longest is worth saying, and again whenever that doubles: an alarm may be held off.
const TIMES: u32 = 6;
/// TIMES^1.5.
const RARER: f32 = 14.7;
/// The longest of the last ten thousand spells or so.
const FADING: f32 = 1e-4;
const COUNT_MAX: f32 = 1e4;

/// The spells of one stream.
#[derive(Clone, Debug, Default)]
pub struct RunLength {
    length: u32,
    /// Of those that are over.
    longest: f32,
    count: f32,
}

impl RunLength {
    /// Another value, in the running spell or the first of the next. Where a length is reached that is
    /// worth saying, −log₁₀ of how rare that is, else 0.
    #[inline]
    pub fn surprise(&mut self, goes_on: bool) -> f32 {
        if !goes_on {
            self.longest = (self.longest * (1.0 - FADING)).max(self.length as f32);
            self.count = (self.count + 1.0).min(COUNT_MAX);
            self.length = 1;
            return 0.0;
        }
        self.length = self.length.saturating_add(1);
        let long = TIMES.saturating_mul((self.longest as u32).saturating_add(1));
        if self.length < long { 0.0 } else { self.long(long) }
    }

    #[cold]
    fn long(&self, long: u32) -> f32 {
        let is_said = self.length.is_multiple_of(long) && (self.length / long).is_power_of_two();
        if is_said { (RARER * self.count).max(1.0).log10() } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lengths at which a spell of 1,000 is remarked upon, after `count` of `length`.
    fn said(count: usize, length: usize) -> Vec<(usize, f32)> {
        let mut spell = RunLength::default();
        for value in 0..count * length {
            spell.surprise(value % length > 0);
        }
        let surprises = (1..=1_000).map(|value| (value, spell.surprise(value > 1)));
        surprises.filter(|&(_, surprise)| surprise > 0.0).collect()
    }

    #[test]
    fn what_never_stood_still_is_said_to_do_so() {
        let after = said(5_000, 1);
        let lengths: Vec<usize> = after.iter().map(|&(length, _)| length).collect();
        assert_eq!(lengths, [12, 24, 48, 96, 192, 384, 768]);
        assert!(after.iter().all(|&(_, surprise)| (surprise - 4.87).abs() < 0.01), "{after:?}");
        // The less is known, the less is said.
        assert!(said(10, 1).iter().all(|&(_, surprise)| surprise < 2.3));
    }

    #[test]
    fn what_has_rested_before_may_rest() {
        assert_eq!(said(50, 200), []);
        assert_eq!(said(50, 160).len(), 1);
    }

    #[test]
    fn a_constant_stream_is_no_spell_of_anything() {
        let mut spell = RunLength::default();
        assert!((0..100_000).all(|_| spell.surprise(true) == 0.0));
        assert_eq!(spell.surprise(false), 0.0);
        // One other value, and it goes on.
        assert!((0..100_000).all(|_| spell.surprise(true) == 0.0));
    }
}
