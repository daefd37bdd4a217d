//! How long to wait before the next attempt: longer each time, never alike for two replicas.
//!
//! Pure: no clock, no sleep; the randomness comes from a seed.

use std::hash::BuildHasher;
use std::time::Duration;

use foldhash::fast::FixedState;

/// A Redis that restarts is away for less than this; a busy loop would find nothing more.
const FIRST: Duration = Duration::from_millis(50);
/// Windows are this much staler than they need to be, at most, once Redis is back.
const LONGEST: Duration = Duration::from_secs(2);

/// The waits between attempts.
///
/// The n-th is drawn from the upper half of 50 ms · 2^n, at most of 2 s: replicas that lost the same
/// Redis at the same moment do not return to it together.
#[derive(Debug)]
pub struct Backoff {
    random: FixedState,
    /// All so far, whatever succeeded in between: no two draws are alike.
    drawn: u64,
    ceiling: Duration,
}

impl Backoff {
    /// Replicas need different seeds.
    pub fn new(seed: u64) -> Self {
        Self { random: FixedState::with_seed(seed), drawn: 0, ceiling: FIRST }
    }

    /// After a failure: how long to wait now.
    pub fn after_failure(&mut self) -> Duration {
        let half = self.ceiling / 2;
        self.ceiling = (self.ceiling * 2).min(LONGEST);
        self.drawn += 1;
        let fraction = self.random.hash_one(self.drawn) as f64 / u64::MAX as f64;
        half + half.mul_f64(fraction)
    }

    /// After a success: the next failure waits as the first did.
    pub fn succeeded(&mut self) {
        self.ceiling = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_again_after_a_success() {
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
        // The same seed tells the same story.
        assert_eq!(Backoff::new(3).after_failure(), Backoff::new(3).after_failure());
    }
}
