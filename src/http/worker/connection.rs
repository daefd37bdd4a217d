//! One connection of a worker: its socket, its protocol state and its unsent output.

use crate::http::poller::PolledSocket;
use crate::http::protocol::{ConnectionPhase, Protocol};

/// A deadline that is not set.
pub(super) const NEVER: u64 = u64::MAX;

pub(super) struct WorkerConnection<T> {
    pub socket: T,
    pub protocol: Protocol,
    /// Bytes that the kernel has not taken yet, from `sent` on.
    pub output: Vec<u8>,
    pub sent: usize,
    /// The monotonic millisecond at which it is closed or refused unless it makes progress.
    pub deadline_ms: u64,
    /// The end of the peer's bytes has been received.
    pub has_ended: bool,
    /// Set once the last response has been sent: how many arriving bytes are still read and dropped.
    pub linger_bytes: Option<usize>,
    /// It is in the list of the next round.
    is_listed: bool,
}

impl<T: PolledSocket> WorkerConnection<T> {
    pub fn new(socket: T, protocol: Protocol) -> Self {
        Self {
            socket,
            protocol,
            output: Vec::new(),
            sent: 0,
            deadline_ms: NEVER,
            has_ended: false,
            linger_bytes: None,
            is_listed: false,
        }
    }

    pub fn has_output(&self) -> bool {
        self.sent < self.output.len()
    }

    pub fn is_idle(&self) -> bool {
        self.protocol.phase() == ConnectionPhase::Idle && !self.has_output()
    }

    pub fn is_lingering(&self) -> bool {
        self.linger_bytes.is_some()
    }

    pub fn is_streaming(&self) -> bool {
        self.protocol.stream().is_some()
    }

    /// True when it can be served without waiting for the poller.
    pub fn wants_turn(&self) -> bool {
        !self.has_output()
            && self.protocol.phase() != ConnectionPhase::Response
            && (self.socket.has_input() || self.protocol.has_backlog() || self.has_ended)
    }

    /// Adds itself to the turns of a round, once.
    pub fn list(&mut self, key: usize, turns: &mut Vec<usize>) {
        if !self.is_listed {
            self.is_listed = true;
            turns.push(key);
        }
    }

    /// Its turn begins: it may be listed again.
    pub fn unlist(&mut self) {
        self.is_listed = false;
    }
}
