//! How often something happens to a stream, in events a day.

/// What happened longer ago than about this counts no more.
const MEMORY_DAYS: f32 = 30.0;
/// A new stream is taken to have been quiet for so long: its first event is not one a minute.
const QUIET_DAYS: f32 = 5.0;

/// Events and the time in which they happened.
#[derive(Clone, Debug, Default)]
pub struct Rate {
    events: f32,
    days: f32,
}

impl Rate {
    /// Time passes.
    #[inline]
    pub fn pass(&mut self, days: f32) {
        self.days += days;
        if self.days > MEMORY_DAYS {
            self.events *= MEMORY_DAYS / self.days;
            self.days = MEMORY_DAYS;
        }
    }

    /// It happens.
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
            rate.pass(0.01);
            rate.count();
        }
        assert!((80.0..=100.0).contains(&rate.per_day()), "{}", rate.per_day());
        for _ in 0..20_000 {
            rate.pass(0.01);
        }
        assert!(rate.per_day() < 0.5);
    }
}
