//! The only reader of the clock. Everything else takes the time as an argument.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// How long the wall clock is carried forward by the monotonic one before it is read again.
const RESYNC_NS: u64 = 1_000_000_000;

/// One moment, on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds since the process started: never steps back.
    pub monotonic_ns: u64,
    /// Microseconds since 1970.
    pub wall_us: i64,
}

impl Now {
    /// Milliseconds since the process started.
    pub fn monotonic_ms(self) -> u64 {
        self.monotonic_ns / 1_000_000
    }

    /// Seconds since 1970.
    pub fn wall_s(self) -> i64 {
        self.wall_us.div_euclid(1_000_000)
    }
}

/// Tells the time to one thread, for one clock read a call.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    synced: Now,
}

impl Clock {
    /// Clocks made from the same `start` agree on monotonic time.
    pub fn new(start: Instant) -> Self {
        let mut clock = Self { start, synced: Now::default() };
        clock.synced = clock.read_both();
        clock
    }

    /// The moment from which monotonic time counts.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// The present moment.
    pub fn now(&mut self) -> Now {
        let monotonic_ns = self.monotonic_ns();
        let elapsed_ns = monotonic_ns - self.synced.monotonic_ns;
        if elapsed_ns >= RESYNC_NS {
            self.synced = self.read_both();
            return self.synced;
        }
        Now { monotonic_ns, wall_us: self.synced.wall_us + (elapsed_ns / 1_000) as i64 }
    }

    /// Nanoseconds since the process started.
    pub fn monotonic_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    #[allow(clippy::disallowed_methods, reason = "this is clock.rs")]
    fn read_both(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall_us = wall.map_or(0, |since| since.as_micros() as i64);
        Now { monotonic_ns: self.monotonic_ns(), wall_us }
    }
}

/// The moment from which all clocks of a process count; taken once, by `main`.
#[allow(clippy::disallowed_methods, reason = "this is clock.rs")]
pub fn start() -> Instant {
    Instant::now()
}
