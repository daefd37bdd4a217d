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
