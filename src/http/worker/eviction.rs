//! Which connection of a worker goes where memory, places or handshakes run short.

use std::sync::atomic::Ordering;

use super::connection::WorkerConnection;
use super::{HANDSHAKES_MAX, Worker};
use crate::http::message::Service;
use crate::http::poller::{PolledSocket, Poller};
use crate::http::request_error::RequestError;

/// Connections above the limit: on them health checks are served, and all else is answered 503.
const RESERVED_CONNECTIONS_MAX: usize = 16;
/// Closed at once, so that the search for the oldest is rare.
const HANDSHAKES_EVICTED: usize = HANDSHAKES_MAX / 8;
/// Where memory is short, a slower transfer goes before others: at this pace the largest body takes two minutes.
const EVICTED_BYTES_PER_S: u64 = 64 * 1024;

/// Idle connections in the order in which they are evicted: a handshake, whose deadline is shorter, after the others.
fn eviction_order<T: PolledSocket>(connection: &WorkerConnection<T>) -> (bool, u64) {
    (connection.socket.is_handshaking(), connection.deadline_ms)
}

impl<S: Service, P: Poller> Worker<S, P> {
    /// Ends connections where all together hold too much: the slowest, then
    /// idle ones, then the one that has grown last. It runs
    /// when all responses of the round have been passed on, so that a refusal follows them.
    pub(super) fn relieve(&mut self) {
        let newest = self.memory.take_short();
        // Also for other workers, whose own connections may all be faster.
        if self.memory.has_shortage()
            && let Some(key) = self.slowest()
        {
            self.evict(key);
        }
        let Some(newest) = newest else { return };
        while self.memory.is_over() {
            let Some(key) = self.slowest().or_else(|| self.oldest_idle_holder()) else {
                let holds = self.connections.get(newest).is_some_and(|one| one.held_bytes > 0);
                if holds {
                    self.evict(newest);
                }
                return;
            };
            self.evict(key);
        }
    }

    /// The slowest transfer that holds memory; None where all are fast enough or have just begun.
    pub(super) fn slowest(&self) -> Option<usize> {
        if self.memory.held() == 0 {
            return None;
        }
        let now_ms = self.now.monotonic_ms();
        let holding = self.connections.iter().filter(|(_, one)| one.held_bytes > 0);
        let paces = holding.filter(|(_, one)| one.is_in_transfer()).filter_map(|(key, one)| {
            let pace = one.transfer.pace(now_ms).filter(|&pace| pace < EVICTED_BYTES_PER_S)?;
            Some((pace, key))
        });
        paces.min().map(|(_, key)| key)
    }

    /// The connection that holds memory, as a session of TLS does, and has been idle for longest.
    pub(super) fn oldest_idle_holder(&self) -> Option<usize> {
        let idle = self.connections.iter().filter(|(_, one)| one.is_idle() && one.held_bytes > 0);
        idle.min_by_key(|(_, one)| eviction_order(one)).map(|(key, _)| key)
    }

    /// Ends a connection for the memory that it holds.
    pub(super) fn evict(&mut self, key: usize) {
        let connection = &self.connections[key];
        if connection.has_output() || connection.is_idle() {
            self.counters.closed_evicted_total.add(1);
            self.close(key);
        } else {
            self.refuse(key, RequestError::Memory);
        }
    }

    /// Closes the connection that has been idle or has lingered for longest; false when there is none.
    pub(super) fn evict_oldest_idle(&mut self) -> bool {
        let idle = self.connections.iter().filter(|(_, one)| {
            !one.protocol.is_reserved() && (one.is_idle() || one.is_lingering())
        });
        let Some((key, connection)) = idle.min_by_key(|(_, one)| eviction_order(one)) else {
            return false;
        };
        if !connection.is_lingering() {
            self.counters.closed_evicted_total.add(1);
        }
        self.close(key);
        true
    }

    pub(super) fn is_reserve_full(&self) -> bool {
        self.budget.above_limit.load(Ordering::Relaxed) >= RESERVED_CONNECTIONS_MAX
    }

    /// The reserved connections of this worker that have had their turn, and wait for nothing but their client.
    pub(super) fn served_reserved(
        &self,
    ) -> impl Iterator<Item = (usize, &WorkerConnection<P::Socket>)> {
        let reserved = self.connections.iter().filter(|(_, one)| one.protocol.is_reserved());
        reserved.filter(|(_, one)| !one.is_listed() && !one.has_output())
    }

    /// True while the reserve is full of connections whose requests may be unread.
    pub(super) fn is_reserve_unserved(&self) -> bool {
        let is_unread =
            |one: &WorkerConnection<P::Socket>| one.protocol.is_reserved() && one.is_listed();
        self.is_reserve_full()
            && self.served_reserved().next().is_none()
            && self.connections.iter().any(|(_, one)| is_unread(one))
    }

    /// Closes the reserved connection that has kept its place for longest, but none whose request may be unread.
    pub(super) fn evict_oldest_reserved(&mut self) -> bool {
        let reserved = self.served_reserved();
        let Some((key, connection)) = reserved.min_by_key(|(_, one)| one.deadline_ms) else {
            return false;
        };
        if !connection.is_lingering() {
            self.counters.closed_evicted_total.add(1);
        }
        self.close(key);
        true
    }

    /// Closes the connections that have been in their handshake for longest.
    pub(super) fn evict_oldest_handshakes(&mut self) {
        let handshakes = self.connections.iter().filter(|(_, one)| one.socket.is_handshaking());
        let mut oldest: Vec<_> = handshakes.map(|(key, one)| (one.deadline_ms, key)).collect();
        oldest.sort_unstable();
        for (_, key) in oldest.into_iter().take(HANDSHAKES_EVICTED) {
            self.counters.closed_evicted_total.add(1);
            self.close(key);
        }
    }
}
