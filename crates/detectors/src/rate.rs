//! The rate of events of a stream, in events a day.
//!
//! [`SpacedRate`] counts what follows an event closely as the same event.

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
        self.per_day_beyond(0.0, 1.0)
    }

    /// Events a day without the first few, with so many times the days without events at the start.
    #[inline]
    pub fn per_day_beyond(&self, events: f32, quiet: f32) -> f32 {
        (self.events - events).max(0.0) / (self.days + quiet * QUIET_DAYS)
    }
}

/// A rate of events that are some time apart.
#[derive(Clone, Debug, Default)]
pub struct SpacedRate {
    rate: Rate,
    /// The time since the last event or what followed it, in the caller's unit.
    ago: f32,
}

saved!(SpacedRate { rate, ago });

impl SpacedRate {
    /// Advances the time: in days, and in the unit of the gap.
    #[inline]
    pub fn advance(&mut self, days: f32, elapsed: f32) {
        self.rate.advance(days);
        self.ago += elapsed;
    }

    /// Counts an event, unless the last one was no longer than `gap` ago.
    #[inline]
    pub fn count(&mut self, gap: f32) {
        if self.ago > gap {
            self.rate.count();
        }
        self.ago = 0.0;
    }

    /// The rate.
    #[inline]
    pub fn rate(&self) -> &Rate {
        &self.rate
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

    #[test]
    fn the_first_events_are_no_rate() {
        let mut rate = Rate::default();
        rate.advance(5.0);
        for (count, expected) in [(1, 0.0), (2, 0.0), (3, 0.05), (4, 0.1)] {
            rate.count();
            let beyond = rate.per_day_beyond(2.0, 3.0);
            assert!((beyond - expected).abs() < 1e-6, "{count}: {beyond}");
        }
    }

    #[test]
    fn what_follows_an_event_closely_is_the_same_event() {
        let mut rate = SpacedRate::default();
        let mut events = Vec::new();
        for elapsed in [1.0, 0.5, 0.5, 0.8, 0.9] {
            rate.advance(0.0, elapsed);
            rate.count(0.8);
            events.push((rate.rate().per_day() * QUIET_DAYS).round());
        }
        assert_eq!(events, [1.0, 1.0, 1.0, 1.0, 2.0]);
    }
}
