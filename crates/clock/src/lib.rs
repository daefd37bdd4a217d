//! The only reader of the clock. Everything else takes the time as an argument.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The wall clock is read again after this time; until then the monotonic clock carries it forward.
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

/// The time for one thread: each call reads one clock.
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
        elapsed(self.start).as_nanos() as u64
    }

    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    fn read_both(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall_us = wall.map_or(0, |since| since.as_micros() as i64);
        Now { monotonic_ns: self.monotonic_ns(), wall_us }
    }
}

/// The moment from which all clocks of a process count; taken once, by `main`.
#[allow(clippy::disallowed_methods, reason = "this is the clock")]
pub fn start() -> Instant {
    Instant::now()
}

/// The time that has passed since `start`.
#[allow(clippy::disallowed_methods, reason = "this is the clock")]
pub fn elapsed(start: Instant) -> Duration {
    start.elapsed()
}
