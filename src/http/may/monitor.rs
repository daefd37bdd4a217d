//! The deadlines that may_minihttp does not have: one thread looks at all connections from outside.
//!
//! A connection says in one atomic word what it waits for and since when; the monitor cuts those that
//! wait too long by shutting their descriptor down. It does so under the lock that a connection
//! takes to unregister, and may_minihttp closes the descriptor after that: what is cut is never a
//! descriptor that has been outcome to somebody else.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use slab::Slab;

use super::socket::{BorrowedSocket, SocketResult};
use crate::http::Limits;
use crate::http::counters::HttpCounters;
use crate::http::encode::{self, DateLine, ResponseOptions};
use crate::http::head::RequestError;
use sigmad_clock::{Clock, Now};

/// Deadlines are late by this much at most, and an answer that is too large to close behind at once
/// is closed behind so much later.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Connections asked of the kernel in one look whether a head is arriving: 20,000 idle ones take
/// turns within 4 s, at 10,000 system calls a second.
const PROBES_PER_LOOK: usize = 256;
/// may_minihttp reads so much at most before it looks for a head in it.
const READ_BYTES_MAX: usize = 64 * 1024;
/// How long a connection that was cut, or whose last answer has left, may still be read from.
pub const LINGER_MS: u64 = 2_000;
/// How long a client may take to read its last answer.
const LAST_ANSWER_MS: u64 = 30_000;
/// Connections above the limit that are told so; past them new ones are just closed.
const REFUSED_CONNECTIONS_MAX: usize = 16;
/// Descriptors above the limit: those that are told, and as many that are about to close.
pub const CONNECTIONS_OVER_MAX: usize = 2 * REFUSED_CONNECTIONS_MAX;

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum WaitPhase {
    /// A parts request head.
    Waiting,
    /// A further part of a body.
    Body,
    /// Its service, or a responder.
    Busy,
    /// The parts of a streamed answer.
    Stream,
    /// Its last answer to leave.
    Closing,
    /// Nothing: the monitor has cut it.
    Cut,
}

const WAIT_PHASES: [WaitPhase; 6] = [
    WaitPhase::Waiting,
    WaitPhase::Body,
    WaitPhase::Busy,
    WaitPhase::Stream,
    WaitPhase::Closing,
    WaitPhase::Cut,
];
const PHASE_BITS: u32 = 3;
const _: () = assert!(WAIT_PHASES.len() <= 1 << PHASE_BITS);

/// A phase and the nanosecond in which it began, so that no two waits look alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PhaseWord(u64);

impl PhaseWord {
    fn new(phase: WaitPhase, since_ns: u64) -> Self {
        Self(since_ns << PHASE_BITS | phase as u64)
    }

    fn phase(self) -> WaitPhase {
        WAIT_PHASES[(self.0 & ((1 << PHASE_BITS) - 1)) as usize]
    }

    fn since_ns(self) -> u64 {
        self.0 >> PHASE_BITS
    }

    fn waited_ms(self, now: Now) -> u64 {
        now.monotonic_ns.saturating_sub(self.since_ns()) / 1_000_000
    }
}

/// What a connection and the monitor know of each other.
#[derive(Debug)]
pub struct SharedState {
    /// The descriptor.
    pub socket: BorrowedSocket,
    word: AtomicU64,
    /// Bytes of answers handed to may_minihttp, and sent past it.
    answered_bytes: AtomicU64,
    /// Reading a body may have left bytes in the kernel of which the poller will not tell again.
    pub may_hold_unread: AtomicBool,
}

impl SharedState {
    // Relaxed throughout: each word stands for itself. What decides between a call and a cut is that
    // both change the same word, which has one order of changes.

    fn word(&self) -> PhaseWord {
        PhaseWord(self.word.load(Relaxed))
    }

    /// The present phase.
    pub fn phase(&self) -> WaitPhase {
        self.word().phase()
    }

    /// Says what the connection waits for now; false when the monitor has cut it.
    pub fn enter(&self, phase: WaitPhase, now_ns: u64) -> bool {
        let next = PhaseWord::new(phase, now_ns).0;
        let entered = self.word.fetch_update(Relaxed, Relaxed, |word| {
            (PhaseWord(word).phase() != WaitPhase::Cut).then_some(next)
        });
        entered.is_ok()
    }

    /// True when the connection was still in that very wait, and is cut now.
    fn cut(&self, word: PhaseWord, now: Now) -> bool {
        let next = PhaseWord::new(WaitPhase::Cut, now.monotonic_ns).0;
        self.word.compare_exchange(word.0, next, Relaxed, Relaxed).is_ok()
    }

    /// Counts bytes of answers; only the connection calls it.
    pub fn add_answered(&self, bytes: u64) {
        self.answered_bytes.store(self.answered() + bytes, Relaxed);
    }

    /// Bytes of answers so far.
    pub fn answered(&self) -> u64 {
        self.answered_bytes.load(Relaxed)
    }

    /// True when the kernel has taken all answers, so that bytes sent past may_minihttp follow them.
    pub fn is_flushed(&self) -> bool {
        self.socket.written() == Some(self.answered())
    }
}

/// One registered connection, as the monitor alone knows it.
struct MonitorEntry {
    state: Arc<SharedState>,
    /// The wait in which the following was found.
    word: PhaseWord,
    /// Bytes taken from the kernel when the wait began.
    taken_before: Option<u64>,
    /// When the first bytes of a head had been taken.
    head_since_ms: Option<u64>,
}

#[derive(Clone, Copy)]
struct DrainDeadlines {
    idle_close_ms: u64,
    end_ms: u64,
}

#[derive(Default)]
struct MonitorTable {
    connections: Slab<MonitorEntry>,
    /// Where the next look goes on asking the kernel.
    next_probe: usize,
    drain: Option<DrainDeadlines>,
    has_ended: bool,
}

/// All connections of the engine.
pub struct ConnectionMonitor {
    table: Mutex<MonitorTable>,
    /// There is something to look at, or nothing any more.
    begun: Condvar,
    emptied: Condvar,
    limits: Limits,
    is_draining: AtomicBool,
    /// Written under the lock of the table.
    counters: Arc<HttpCounters>,
}

impl ConnectionMonitor {
    /// Watches connections by those limits.
    pub fn new(limits: Limits, counters: Arc<HttpCounters>) -> Self {
        Self {
            table: Mutex::default(),
            begun: Condvar::new(),
            emptied: Condvar::new(),
            limits,
            is_draining: AtomicBool::new(false),
            counters,
        }
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// True once the engine is stopping: answers say `Connection: close`.
    pub fn is_draining(&self) -> bool {
        // Relaxed: a request more or less on a connection that is about to close.
        self.is_draining.load(Relaxed)
    }

    /// True when no further descriptor may be opened until one has closed.
    pub fn is_full(&self) -> bool {
        let most = self.limits.connections_max + CONNECTIONS_OVER_MAX;
        self.table.lock().connections.len() >= most
    }

    /// Registers a connection, at the cost of the oldest idle one where it is one too many. When
    /// there is none it is refused, and returned cut.
    pub fn admit(self: &Arc<Self>, socket: BorrowedSocket, clock: &mut Clock) -> MonitorGuard {
        let now = clock.now();
        let mut table = self.table.lock();
        let over = table.connections.len().checked_sub(self.limits.connections_max);
        let is_refused = over.is_some() && !self.evict_oldest_idle(&table, now);
        let word = PhaseWord::new(
            if is_refused { WaitPhase::Cut } else { WaitPhase::Waiting },
            now.monotonic_ns,
        );
        let state = Arc::new(SharedState {
            socket,
            word: AtomicU64::new(word.0),
            answered_bytes: AtomicU64::new(0),
            may_hold_unread: AtomicBool::new(false),
        });
        if is_refused {
            self.tell(&state, RequestError::TooManyConnections, now.wall_s());
            let is_told = over.is_some_and(|over| over < REFUSED_CONNECTIONS_MAX);
            // With the read side open its request is read and dropped, so that no reset overtakes
            // the answer.
            socket.shut(if is_told { Shutdown::Write } else { Shutdown::Both });
        }
        let entry =
            MonitorEntry { state: state.clone(), word, taken_before: Some(0), head_since_ms: None };
        let key = table.connections.insert(entry);
        self.counters.accepted_total.add(1);
        self.counters.open.set(table.connections.len() as u64);
        if table.connections.len() == 1 {
            self.begun.notify_one();
        }
        MonitorGuard { monitor: self.clone(), key, state }
    }

    /// Counts a refusal.
    pub fn count(&self, refusal: RequestError) {
        let _registry = self.table.lock();
        self.counters.refusals[refusal as usize].add(1);
    }

    /// From now on connections close behind their next answer, idle ones a moment later, all of them
    /// after `limit`.
    pub fn drain(&self, limit: Duration, now_ms: u64) {
        let end_ms = now_ms + limit.as_millis() as u64;
        self.is_draining.store(true, Relaxed);
        self.table.lock().drain = Some(DrainDeadlines {
            idle_close_ms: end_ms.min(now_ms + self.limits.drain_idle_ms),
            end_ms,
        });
    }

    /// Blocks until the last connection has gone, or for `limit`.
    pub fn wait_until_empty(&self, limit: Duration) {
        let mut table = self.table.lock();
        self.emptied.wait_while_for(&mut table, |r| !r.connections.is_empty(), limit);
    }

    /// Ends [`Self::run`].
    pub fn end(&self) {
        self.table.lock().has_ended = true;
        self.begun.notify_one();
    }

    /// Looks at all connections, again and again, as long as there are any.
    pub fn run(&self, mut clock: Clock) {
        let mut table = self.table.lock();
        while !table.has_ended {
            if table.connections.is_empty() {
                self.begun.wait(&mut table);
            } else {
                self.begun.wait_for(&mut table, LOOK_EVERY);
                self.look(&mut table, &mut clock);
            }
        }
    }

    fn look(&self, table: &mut MonitorTable, clock: &mut Clock) {
        let now = clock.now();
        let drain = table.drain;
        let mut probes = PROBES_PER_LOOK;
        let first_probe = std::mem::take(&mut table.next_probe);
        for (key, entry) in &mut table.connections {
            let word = entry.state.word();
            if drain.is_some_and(|drain| now.monotonic_ms() >= drain.end_ms) {
                if word.phase() == WaitPhase::Cut || entry.state.cut(word, now) {
                    self.counters.closed_drain_total.add(1);
                    entry.state.socket.shut(Shutdown::Both);
                }
                continue;
            }
            let can_probe = key >= first_probe && probes > 0;
            if word.phase() == WaitPhase::Waiting && key >= first_probe {
                if can_probe {
                    probes -= 1;
                } else if table.next_probe == 0 {
                    table.next_probe = key;
                }
            }
            self.look_at(entry, word, drain, can_probe, now);
        }
    }

    fn look_at(
        &self,
        entry: &mut MonitorEntry,
        word: PhaseWord,
        drain: Option<DrainDeadlines>,
        can_probe: bool,
        now: Now,
    ) {
        let now_ms = now.monotonic_ms();
        let waited_ms = word.waited_ms(now);
        let state = &entry.state;
        let socket = state.socket;
        let may_go = drain.is_some_and(|drain| now_ms >= drain.idle_close_ms);
        match word.phase() {
            WaitPhase::Waiting => {
                if state.may_hold_unread.swap(false, Relaxed) {
                    socket.report_again();
                }
                let refusal =
                    if can_probe { entry.look_for_head(word, &self.limits, now_ms) } else { None };
                let state = &entry.state;
                let is_idle = entry.head_since_ms.is_none();
                if let Some(refusal) = refusal {
                    if state.cut(word, now) {
                        self.tell(state, refusal, now.wall_s());
                        socket.shut(Shutdown::Both);
                    }
                } else if is_idle
                    && (may_go || waited_ms >= self.limits.idle_timeout_ms)
                    && state.cut(word, now)
                {
                    self.counters.closed_idle_total.add(u64::from(!may_go));
                    socket.shut(Shutdown::Both);
                }
            }
            // The connection finds itself cut and its body short, and answers 408.
            WaitPhase::Body => {
                if waited_ms >= self.limits.read_timeout_ms && state.cut(word, now) {
                    socket.shut(Shutdown::Read);
                }
            }
            WaitPhase::Stream => {
                if may_go && state.cut(word, now) {
                    self.counters.closed_drain_total.add(1);
                    socket.shut(Shutdown::Both);
                }
            }
            WaitPhase::Closing => {
                if waited_ms >= LAST_ANSWER_MS && state.cut(word, now) {
                    self.counters.closed_stalled_total.add(1);
                    socket.shut(Shutdown::Both);
                } else if state.is_flushed() {
                    socket.shut(Shutdown::Read);
                }
            }
            WaitPhase::Cut if waited_ms >= LINGER_MS => socket.shut(Shutdown::Both),
            WaitPhase::Cut | WaitPhase::Busy => {}
        }
    }

    /// Sends a refusal past may_minihttp, where no answer is on its way, and counts it.
    fn tell(&self, state: &SharedState, refusal: RequestError, wall_s: i64) {
        self.counters.refusals[refusal as usize].add(1);
        if state.is_flushed() {
            // SocketResult::Nothing and End: this client takes no bytes, and is let go without.
            let (SocketResult::Bytes(_) | SocketResult::Nothing | SocketResult::End) =
                state.socket.send(&refusal_answer(refusal, refusal.message(), wall_s));
        }
    }

    fn evict_oldest_idle(&self, table: &MonitorTable, now: Now) -> bool {
        let idle = table.connections.iter().filter_map(|(_, entry)| {
            let word = entry.state.word();
            let is_idle = word.phase() == WaitPhase::Waiting && entry.head_since_ms.is_none();
            is_idle.then_some((word, &entry.state))
        });
        let Some((word, state)) = idle.min_by_key(|(word, _)| word.since_ns()) else {
            return false;
        };
        let is_cut = state.cut(word, now);
        if is_cut {
            self.counters.closed_evicted_total.add(1);
            state.socket.shut(Shutdown::Both);
        }
        is_cut
    }
}

impl MonitorEntry {
    /// Tells whether bytes have come that make no parts head yet, and when that has become too much.
    fn look_for_head(
        &mut self,
        word: PhaseWord,
        limits: &Limits,
        now_ms: u64,
    ) -> Option<RequestError> {
        if self.word != word {
            self.word = word;
            self.taken_before = None;
            self.head_since_ms = None;
        }
        let taken = self.state.socket.taken()?;
        let before = *self.taken_before.get_or_insert(taken);
        if taken == before {
            return None;
        }
        let head_since_ms = *self.head_since_ms.get_or_insert(now_ms);
        if taken.saturating_sub(before) > (limits.head_bytes_max + READ_BYTES_MAX) as u64 {
            Some(RequestError::HeadTooLarge)
        } else if now_ms - head_since_ms >= limits.read_timeout_ms {
            Some(RequestError::Timeout)
        } else {
            None
        }
    }
}

/// A connection's place in the monitor.
pub struct MonitorGuard {
    monitor: Arc<ConnectionMonitor>,
    key: usize,
    /// What it tells the monitor.
    pub state: Arc<SharedState>,
}

impl Drop for MonitorGuard {
    fn drop(&mut self) {
        let mut table = self.monitor.table.lock();
        drop(table.connections.remove(self.key));
        self.monitor.counters.open.set(table.connections.len() as u64);
        if table.connections.is_empty() {
            self.monitor.emptied.notify_all();
        }
    }
}

/// The bytes of a refusal behind which the connection closes.
pub fn refusal_answer(refusal: RequestError, message: &str, wall_s: i64) -> Vec<u8> {
    let mut date = DateLine::default();
    date.update(wall_s);
    let options = ResponseOptions { is_http10: false, is_head: false, closes: true };
    let mut out = Vec::new();
    let body = refusal_body(refusal, message);
    encode::answer(
        &mut out,
        options,
        &date,
        refusal.status(),
        "application/json",
        &[],
        body.as_bytes(),
    );
    out
}

/// The body of a refusal.
pub fn refusal_body(refusal: RequestError, message: &str) -> String {
    format!(r#"{{"error":{{"code":"{}","message":"{message}"}}}}"#, refusal.code())
}
