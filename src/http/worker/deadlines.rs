//! When a worker closes a connection that makes no progress.

use std::time::Duration;

use slab::Slab;

use super::connection::{NEVER, Transfer, WorkerConnection};
use crate::http::Limits;
use crate::http::drain::DrainDeadlines;
use crate::http::poller::PolledSocket;
use crate::http::protocol::ConnectionPhase;

/// After the last response, what still arrives is read and dropped for this time.
const LINGER_MS: u64 = 2_000;
/// The least time between two scans: one of 20,000 connections takes 0.1 ms.
const SCAN_INTERVAL_MS: u64 = 100;

/// A connection whose deadline has passed.
pub(super) struct Expired {
    pub key: usize,
    /// The drain closes it, whatever it is waiting for.
    pub is_drained: bool,
}

/// The deadlines of all connections of a worker.
pub(super) struct Deadlines {
    read_timeout_ms: u64,
    body_rate_min: u64,
    write_stall_ms: u64,
    idle_timeout_ms: u64,
    drain_idle_ms: u64,
    next_scan_ms: u64,
    drain: Option<DrainDeadlines>,
}

impl Deadlines {
    pub fn new(limits: &Limits) -> Self {
        Self {
            read_timeout_ms: limits.read_timeout_ms,
            body_rate_min: limits.body_rate_min,
            write_stall_ms: limits.write_stall_ms,
            idle_timeout_ms: limits.idle_timeout_ms,
            drain_idle_ms: limits.drain_idle_ms,
            next_scan_ms: NEVER,
            drain: None,
        }
    }

    /// The worker is to finish within `limit`.
    pub fn drain(&mut self, now_ms: u64, limit: Duration) {
        let drain = DrainDeadlines::new(now_ms, limit, self.drain_idle_ms);
        self.drain = Some(drain);
        self.next_scan_ms = self.next_scan_ms.min(drain.idle_close_ms);
    }

    pub fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    pub fn is_past_drain(&self, now_ms: u64) -> bool {
        self.drain.is_some_and(|drain| now_ms >= drain.end_ms)
    }

    /// The moment of the next scan, or [`NEVER`].
    pub fn next_scan_ms(&self) -> u64 {
        self.next_scan_ms
    }

    /// Sets the deadline of a connection that has made progress.
    pub fn set<T: PolledSocket>(&mut self, connection: &mut WorkerConnection<T>, now_ms: u64) {
        connection.deadline_ms = if connection.is_lingering() {
            // Set once: a client that keeps sending does not extend it.
            now_ms + LINGER_MS
        } else if connection.has_output() {
            now_ms + self.write_stall_ms
        } else {
            match connection.protocol.phase() {
                ConnectionPhase::Idle if connection.socket.is_handshaking() => {
                    now_ms + self.read_timeout_ms
                }
                // A health check sends its request at once.
                ConnectionPhase::Idle if connection.protocol.is_reserved() => {
                    now_ms + self.read_timeout_ms
                }
                ConnectionPhase::Idle => now_ms + self.idle_timeout_ms,
                ConnectionPhase::Head => now_ms + self.read_timeout_ms,
                // It waits for this worker, not for its client.
                ConnectionPhase::Body if connection.protocol.has_backlog() => NEVER,
                ConnectionPhase::Body => {
                    (now_ms + self.read_timeout_ms).min(self.too_slow_ms(connection.transfer))
                }
                ConnectionPhase::Response | ConnectionPhase::Closing => NEVER,
            }
        };
        self.next_scan_ms = self.next_scan_ms.min(connection.deadline_ms);
    }

    /// When a body that brings no more bytes falls below `--body-rate-min`.
    fn too_slow_ms(&self, body: Transfer) -> u64 {
        body.since_ms + self.read_timeout_ms + body.bytes as u64 * 1_000 / self.body_rate_min
    }

    /// Looks at all connections for those whose deadline has passed, and plans the next scan.
    pub fn scan<T: PolledSocket>(
        &mut self,
        connections: &Slab<WorkerConnection<T>>,
        now_ms: u64,
    ) -> Vec<Expired> {
        let mut next_ms = self.drain.map_or(NEVER, |drain| {
            if now_ms < drain.idle_close_ms { drain.idle_close_ms } else { drain.end_ms }
        });
        let mut expired = Vec::new();
        for (key, connection) in connections {
            let is_drained = self.drain.is_some_and(|drain| {
                let may_close = connection.is_idle() || connection.is_streaming();
                now_ms >= drain.end_ms || (now_ms >= drain.idle_close_ms && may_close)
            });
            if is_drained || connection.deadline_ms <= now_ms {
                expired.push(Expired { key, is_drained });
            } else {
                next_ms = next_ms.min(connection.deadline_ms);
            }
        }
        self.next_scan_ms = next_ms.max(now_ms + SCAN_INTERVAL_MS);
        expired
    }
}
