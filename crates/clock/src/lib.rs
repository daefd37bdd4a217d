//! The only reader of the clock. Everything else takes the time as an argument.

use std::fmt::Debug;
use std::sync::Arc;
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

/// Time from elsewhere than the system: a simulation decides what time it is, and when a sleep ends.
pub trait TimeSource: Debug + Send + Sync {
    /// Nanoseconds since the process started: never steps back.
    fn monotonic_ns(&self) -> u64;
    /// Microseconds since 1970.
    fn wall_us(&self) -> i64;
    /// Returns once `duration` has passed.
    fn sleep(&self, duration: Duration);
}

/// The time for one thread: each call reads one clock.
#[derive(Clone, Debug)]
pub struct Clock {
    source: Source,
    synced: Now,
}

#[derive(Clone, Debug)]
enum Source {
    /// The clocks of the system; monotonic time counts from that moment.
    System(Instant),
    Simulated(Arc<dyn TimeSource>),
}

impl Clock {
    /// Clocks made from the same `start` agree on monotonic time.
    pub fn new(start: Instant) -> Self {
        Self::with(Source::System(start))
    }

    /// Takes the time from `source`.
    pub fn simulated(source: Arc<dyn TimeSource>) -> Self {
        Self::with(Source::Simulated(source))
    }

    fn with(source: Source) -> Self {
        let mut clock = Self { source, synced: Now::default() };
        clock.synced = clock.read_both();
        clock
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
        match &self.source {
            Source::System(start) => elapsed(*start).as_nanos() as u64,
            Source::Simulated(source) => source.monotonic_ns(),
        }
    }

    /// Returns once `duration` has passed.
    pub fn sleep(&self, duration: Duration) {
        match &self.source {
            Source::System(_) => std::thread::sleep(duration),
            Source::Simulated(source) => source.sleep(duration),
        }
    }

    fn read_both(&self) -> Now {
        let wall_us = match &self.source {
            Source::System(_) => system_wall_us(),
            Source::Simulated(source) => source.wall_us(),
        };
        Now { monotonic_ns: self.monotonic_ns(), wall_us }
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the clock")]
fn system_wall_us() -> i64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
    wall.map_or(0, |since| since.as_micros() as i64)
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
