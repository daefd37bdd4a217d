//! Exponential backoff with jitter between attempts to connect. Pure: no clock, no sleep, seeded.

use std::hash::BuildHasher;
use std::time::Duration;

use foldhash::fast::FixedState;

/// The first wait. Some restarts of Redis are that short; trying sooner gains nothing.
const FIRST: Duration = Duration::from_millis(50);
/// The longest wait: windows are at most this much staler than necessary once Redis is back.
const LONGEST: Duration = Duration::from_secs(2);

/// The waits between attempts.
///
/// The n-th wait is random in the upper half of 50 ms · 2^n, of 2 s at most. Replicas that lose Redis at the
/// same time therefore do not all return at the same time.
#[derive(Debug)]
pub struct Backoff {
    random: FixedState,
    /// Number of waits so far, successes or not, so that no two use the same random number.
    drawn: u64,
    ceiling: Duration,
}

impl Backoff {
    /// Each replica needs a different seed.
    pub fn new(seed: u64) -> Self {
        Self { random: FixedState::with_seed(seed), drawn: 0, ceiling: FIRST }
    }

    /// The wait after a failure.
    pub fn after_failure(&mut self) -> Duration {
        let half = self.ceiling / 2;
        self.ceiling = (self.ceiling * 2).min(LONGEST);
        self.drawn += 1;
        let fraction = self.random.hash_one(self.drawn) as f64 / u64::MAX as f64;
        half + half.mul_f64(fraction)
    }

    /// Starts again with the first wait.
    pub fn succeeded(&mut self) {
        self.ceiling = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_restart_after_a_success() {
        let mut backoff = Backoff::new(7);
        let mut ceiling = FIRST;
        for _ in 0..100 {
            let wait = backoff.after_failure();
            assert!(ceiling / 2 <= wait && wait <= ceiling, "{wait:?} for {ceiling:?}");
            ceiling = (ceiling * 2).min(LONGEST);
        }
        assert_eq!(ceiling, LONGEST);
        backoff.succeeded();
        assert!(backoff.after_failure() <= FIRST);
    }

    #[test]
    fn replicas_spread_over_the_whole_range() {
        let mut waits: Vec<_> = (0..1_000).map(|seed| Backoff::new(seed).after_failure()).collect();
        waits.sort();
        waits.dedup();
        assert!(waits.len() > 990, "{}", waits.len());
        let (first, last) = (waits[0], waits[waits.len() - 1]);
        assert!(first < FIRST * 51 / 100 && last > FIRST * 99 / 100, "{first:?} to {last:?}");
        // The same seed gives the same waits.
        assert_eq!(Backoff::new(3).after_failure(), Backoff::new(3).after_failure());
    }
}
