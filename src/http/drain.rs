//! The deadlines of a drain.

use std::time::Duration;

/// The moments at which a draining engine closes connections, in monotonic milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct DrainDeadlines {
    /// From then on idle connections and streams are closed.
    pub idle_close_ms: u64,
    /// From then on all connections are closed.
    pub end_ms: u64,
}

impl DrainDeadlines {
    /// A drain that begins at `now_ms` and ends after `limit`; a connection may stay idle for `idle_ms`.
    pub fn new(now_ms: u64, limit: Duration, idle_ms: u64) -> Self {
        let end_ms = now_ms + limit.as_millis() as u64;
        Self { idle_close_ms: end_ms.min(now_ms + idle_ms), end_ms }
    }
}
