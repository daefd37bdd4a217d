//! What one connection and the monitor share: what the connection waits for, and since when.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::socket::BorrowedSocket;
use sigmad_clock::Now;

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum WaitPhase {
    /// A whole request head.
    Waiting,
    /// A further part of a body.
    Body,
    /// Its service, or a deferred response.
    Busy,
    /// The parts of a streamed response.
    Stream,
    /// The end of its last response.
    Closing,
    /// Nothing: the monitor has cut it.
    Cut,
}

const PHASES: [WaitPhase; 6] = [
    WaitPhase::Waiting,
    WaitPhase::Body,
    WaitPhase::Busy,
    WaitPhase::Stream,
    WaitPhase::Closing,
    WaitPhase::Cut,
];
const PHASE_BITS: u32 = 3;
const _: () = assert!(PHASES.len() <= 1 << PHASE_BITS);

/// A phase and the nanosecond in which it began, so that no two waits are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PhaseWord(u64);

impl PhaseWord {
    fn new(phase: WaitPhase, since_ns: u64) -> Self {
        Self(since_ns << PHASE_BITS | phase as u64)
    }

    pub fn phase(self) -> WaitPhase {
        PHASES[(self.0 & ((1 << PHASE_BITS) - 1)) as usize]
    }

    pub fn since_ns(self) -> u64 {
        self.0 >> PHASE_BITS
    }

    pub fn waited_ms(self, now: Now) -> u64 {
        now.monotonic_ns.saturating_sub(self.since_ns()) / 1_000_000
    }
}

/// Written by the connection and the monitor.
#[derive(Debug)]
pub(super) struct SharedState {
    /// The descriptor.
    pub socket: BorrowedSocket,
    word: AtomicU64,
    /// Response bytes passed to may_minihttp or sent past it.
    answered_bytes: AtomicU64,
    /// Reading a body may have left bytes in the kernel that the poller does not report again.
    pub may_hold_unread: AtomicBool,
}

impl SharedState {
    // Relaxed throughout: no word publishes another. A call and a cut change the same word, whose
    // changes have one order, so exactly one of them succeeds.

    pub fn new(socket: BorrowedSocket, phase: WaitPhase, now: Now) -> Self {
        Self {
            socket,
            word: AtomicU64::new(PhaseWord::new(phase, now.monotonic_ns).0),
            answered_bytes: AtomicU64::new(0),
            may_hold_unread: AtomicBool::new(false),
        }
    }

    pub fn word(&self) -> PhaseWord {
        PhaseWord(self.word.load(Relaxed))
    }

    pub fn phase(&self) -> WaitPhase {
        self.word().phase()
    }

    /// Begins another wait; false when the monitor has cut the connection.
    pub fn enter(&self, phase: WaitPhase, now_ns: u64) -> bool {
        let next = PhaseWord::new(phase, now_ns).0;
        let entered = self.word.fetch_update(Relaxed, Relaxed, |word| {
            (PhaseWord(word).phase() != WaitPhase::Cut).then_some(next)
        });
        entered.is_ok()
    }

    /// Cuts the connection if it is still in the wait `word`; true when it was.
    pub fn cut(&self, word: PhaseWord, now: Now) -> bool {
        let next = PhaseWord::new(WaitPhase::Cut, now.monotonic_ns).0;
        self.word.compare_exchange(word.0, next, Relaxed, Relaxed).is_ok()
    }

    /// Counts response bytes; only the connection calls it.
    pub fn add_answered(&self, bytes: u64) {
        self.answered_bytes.store(self.answered() + bytes, Relaxed);
    }

    /// Response bytes so far.
    pub fn answered(&self) -> u64 {
        self.answered_bytes.load(Relaxed)
    }

    /// True when the kernel has taken all responses, so that bytes sent past may_minihttp follow them.
    pub fn is_flushed(&self) -> bool {
        self.socket.written() == Some(self.answered())
    }
}
