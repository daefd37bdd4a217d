//! The rate of events of a stream, in events a day.

use crate::saved::saved;

/// Events older than about this no longer count.
const MEMORY_DAYS: f32 = 30.0;
/// A new stream starts as if it had been without events for this long, so its first event is no high rate.
const QUIET_DAYS: f32 = 5.0;

/// A number of events, and the days in which they happened.
#[derive(Clone, Debug, Default)]
pub struct Rate {
    events: f32,
    days: f32,
}

saved!(Rate { events, days });

impl Rate {
    /// Advances the time.
    #[inline]
    pub fn advance(&mut self, days: f32) {
        self.days += days;
        if self.days > MEMORY_DAYS {
            self.events *= MEMORY_DAYS / self.days;
            self.days = MEMORY_DAYS;
        }
    }

    /// Counts an event.
    #[inline]
    pub fn count(&mut self) {
        self.events += 1.0;
    }

    /// Events a day.
    #[inline]
    pub fn per_day(&self) -> f32 {
        self.events / (self.days + QUIET_DAYS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_rate_of_the_last_month() {
        let mut rate = Rate::default();
        rate.count();
        assert!((rate.per_day() - 0.2).abs() < 1e-6);
        for _ in 0..100_000 {
            rate.advance(0.01);
            rate.count();
        }
        assert!((80.0..=100.0).contains(&rate.per_day()), "{}", rate.per_day());
        for _ in 0..20_000 {
            rate.advance(0.01);
        }
        assert!(rate.per_day() < 0.5);
    }
}
