//! One connection of a worker: its socket, its protocol state and its unsent output.

use crate::http::poller::PolledSocket;
use crate::http::protocol::{ConnectionPhase, Protocol};

/// A deadline that is not set.
pub(super) const NEVER: u64 = u64::MAX;
/// The pace of a transfer is that of its last spell of this length, or more where nothing moves.
const SPELL_MS: u64 = 1_000;

/// What a connection has moved of an incomplete request, or of a response that waits for its client.
#[derive(Clone, Copy, Default)]
pub(super) struct Transfer {
    /// When it began.
    pub since_ms: u64,
    /// Bytes so far.
    pub bytes: usize,
    /// The same of its present spell.
    spell_since_ms: u64,
    spell_bytes: usize,
    /// Bytes per second of the spell before.
    last_pace: Option<u64>,
}

impl Transfer {
    pub fn begin(now_ms: u64) -> Self {
        Self { since_ms: now_ms, spell_since_ms: now_ms, ..Self::default() }
    }

    pub fn add(&mut self, bytes: usize, now_ms: u64) {
        if let Some(pace) = self.spell_pace(now_ms) {
            (self.last_pace, self.spell_since_ms, self.spell_bytes) = (Some(pace), now_ms, 0);
        }
        self.bytes += bytes;
        self.spell_bytes += bytes;
    }

    /// Bytes per second of late: a burst at first does not count for ever. None while it is too young to be judged.
    pub fn pace(self, now_ms: u64) -> Option<u64> {
        self.spell_pace(now_ms).or(self.last_pace)
    }

    fn spell_pace(self, now_ms: u64) -> Option<u64> {
        let elapsed_ms = now_ms - self.spell_since_ms;
        (elapsed_ms >= SPELL_MS).then(|| self.spell_bytes as u64 * 1_000 / elapsed_ms)
    }
}

pub(super) struct WorkerConnection<T> {
    pub socket: T,
    pub protocol: Protocol,
    /// Bytes that the kernel has not taken yet, from `sent` on.
    pub output: Vec<u8>,
    pub sent: usize,
    /// The kernel did not take all output at the last write.
    pub is_stalled: bool,
    /// Bytes that the worker's memory counts for it.
    pub held_bytes: usize,
    /// Of its incomplete request, or of its unsent output.
    pub transfer: Transfer,
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
            is_stalled: false,
            held_bytes: 0,
            transfer: Transfer::default(),
            deadline_ms: NEVER,
            has_ended: false,
            linger_bytes: None,
            is_listed: false,
        }
    }

    pub fn has_output(&self) -> bool {
        self.sent < self.output.len()
    }

    /// True while its client decides how long it holds memory.
    pub fn is_in_transfer(&self) -> bool {
        let phase = self.protocol.phase();
        let is_awaited = matches!(phase, ConnectionPhase::Head | ConnectionPhase::Body);
        self.has_output() || (is_awaited && !self.protocol.has_backlog())
    }

    /// Takes note of bytes of a request that is still incomplete.
    pub fn count_received(&mut self, bytes: usize, is_new: bool, now_ms: u64) {
        if is_new {
            self.transfer = Transfer::begin(now_ms);
        }
        self.transfer.add(bytes, now_ms);
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

    pub fn is_listed(&self) -> bool {
        self.is_listed
    }

    /// Its turn begins: it may be listed again.
    pub fn unlist(&mut self) {
        self.is_listed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::Transfer;

    #[test]
    fn the_pace_is_that_of_late() {
        let mut transfer = Transfer::begin(5_000);
        transfer.add(1_000_000, 5_000);
        assert_eq!(transfer.pace(5_999), None, "too young");
        assert_eq!(transfer.pace(6_000), Some(1_000_000));
        for at in 0..20 {
            transfer.add(10, 6_000 + at * 500);
        }
        assert_eq!(transfer.pace(15_500), Some(20));
        assert_eq!((transfer.bytes, transfer.since_ms), (1_000_200, 5_000));
        assert_eq!(transfer.pace(115_500), Some(0), "nothing moves");
    }
}
