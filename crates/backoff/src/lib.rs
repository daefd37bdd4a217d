//! Exponential backoff with jitter between attempts. Pure: no clock, no sleep, seeded.

use std::hash::BuildHasher;
use std::time::Duration;

use foldhash::fast::FixedState;

/// The waits between attempts.
///
/// The n-th wait is random in the upper half of first · 2^n, of `longest` at most. Processes that lose the same peer at
/// the same time therefore do not all return at the same time.
#[derive(Clone, Debug)]
pub struct Backoff {
    random: FixedState,
    /// Number of waits so far, successes or not, so that no two use the same random number.
    drawn: u64,
    first: Duration,
    longest: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// Each process needs a different seed.
    pub fn new(seed: u64, first: Duration, longest: Duration) -> Self {
        Self { random: FixedState::with_seed(seed), drawn: 0, first, longest, ceiling: first }
    }

    /// The wait after a failure.
    pub fn after_failure(&mut self) -> Duration {
        let half = self.ceiling / 2;
        self.ceiling = (self.ceiling * 2).min(self.longest);
        self.drawn += 1;
        let fraction = self.random.hash_one(self.drawn) as f64 / u64::MAX as f64;
        half + half.mul_f64(fraction)
    }

    /// Starts again with the first wait.
    pub fn succeeded(&mut self) {
        self.ceiling = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(2);

    #[test]
    fn waits_double_up_to_the_longest_and_restart_after_a_success() {
        let mut backoff = Backoff::new(7, FIRST, LONGEST);
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
    fn seeds_spread_over_the_whole_range() {
        let first_wait = |seed| Backoff::new(seed, FIRST, LONGEST).after_failure();
        let mut waits: Vec<_> = (0..1_000).map(first_wait).collect();
        waits.sort();
        waits.dedup();
        assert!(waits.len() > 990, "{}", waits.len());
        let (first, last) = (waits[0], waits[waits.len() - 1]);
        assert!(first < FIRST * 51 / 100 && last > FIRST * 99 / 100, "{first:?} to {last:?}");
        // The same seed gives the same waits.
        assert_eq!(first_wait(3), first_wait(3));
    }
}
