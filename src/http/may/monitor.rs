//! The deadlines that may_minihttp does not have: one thread looks at all connections from outside.
//!
//! A connection publishes in one atomic word what it waits for and since when. The monitor shuts the
//! descriptor of one that waits too long, under the lock that a connection takes to unregister.
//! may_minihttp closes the descriptor after that, so the monitor never shuts a reused one.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use slab::Slab;

use super::socket::{BorrowedSocket, SocketResult};
use super::state::{PhaseWord, SharedState, WaitPhase};
use crate::http::Limits;
use crate::http::counters::HttpCounters;
use crate::http::drain::DrainDeadlines;
use crate::http::encode::{self, DateLine, ResponseOptions};
use crate::http::head::RequestError;
use crate::http::stages::StageTimes;
use sigmad_clock::{Clock, Now};

/// The interval of the monitor. Deadlines are late by at most this much, and so is the close after a
/// response that exceeds the send buffer.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Connections for which one look asks the kernel whether a head is arriving. 20,000 idle connections
/// are asked within 4 s, with 10,000 system calls a second.
const PROBES_PER_LOOK: usize = 256;
/// may_minihttp reads at most this many bytes before it parses a head.
const READ_BYTES_MAX: usize = 64 * 1024;
/// The time in which bytes are still read after a cut or the last response.
pub(super) const LINGER_MS: u64 = 2_000;
/// The time in which a client must read its last response.
const LAST_RESPONSE_MS: u64 = 30_000;
/// Connections above the limit that are answered 503; further ones are closed at once.
const REFUSED_CONNECTIONS_MAX: usize = 16;
/// Descriptors above the limit: those that are answered 503, and as many that are about to close.
pub const CONNECTIONS_OVER_MAX: usize = 2 * REFUSED_CONNECTIONS_MAX;

/// What only the monitor knows of a connection.
struct MonitorEntry {
    state: Arc<SharedState>,
    /// The wait to which the fields below belong.
    word: PhaseWord,
    /// Bytes taken from the kernel when the wait began.
    taken_before: Option<u64>,
    /// When bytes of a head were first seen.
    head_since_ms: Option<u64>,
}

#[derive(Default)]
struct MonitorTable {
    connections: Slab<MonitorEntry>,
    /// The key at which the next look continues to ask the kernel.
    next_probe: usize,
    drain: Option<DrainDeadlines>,
    has_ended: bool,
}

/// All connections of the engine.
pub(super) struct ConnectionMonitor {
    table: Mutex<MonitorTable>,
    /// The first connection has been admitted, or the monitor is to end.
    begun: Condvar,
    emptied: Condvar,
    limits: Limits,
    is_draining: AtomicBool,
    /// Written under the lock of the table.
    counters: Arc<HttpCounters>,
}

impl ConnectionMonitor {
    /// Applies `limits` to all connections.
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

    /// The limits that it applies.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// True once the engine is stopping: responses carry `Connection: close`.
    pub fn is_draining(&self) -> bool {
        // Relaxed: one request more on a connection that is about to close does no harm.
        self.is_draining.load(Relaxed)
    }

    /// True when no further descriptor may be opened until one has closed.
    pub fn is_full(&self) -> bool {
        let most = self.limits.connections_max + CONNECTIONS_OVER_MAX;
        self.table.lock().connections.len() >= most
    }

    /// Registers a connection. Past the limit the oldest idle one is evicted; when there is none, the
    /// new connection is refused and returned cut.
    pub fn admit(self: &Arc<Self>, socket: BorrowedSocket, clock: &mut Clock) -> MonitorGuard {
        let now = clock.now();
        let mut table = self.table.lock();
        let over = table.connections.len().checked_sub(self.limits.connections_max);
        let is_refused = over.is_some() && !self.evict_oldest_idle(&table, now);
        let phase = if is_refused { WaitPhase::Cut } else { WaitPhase::Waiting };
        let state = Arc::new(SharedState::new(socket, phase, now));
        let word = state.word();
        if is_refused {
            self.send_refusal(&state, RequestError::TooManyConnections, now.wall_s());
            let is_answered = over.is_some_and(|over| over < REFUSED_CONNECTIONS_MAX);
            // The read side stays open: the request is read and dropped, so that no reset overtakes
            // the response.
            socket.shut(if is_answered { Shutdown::Write } else { Shutdown::Both });
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
    pub fn count(&self, error: RequestError) {
        let _guard = self.table.lock();
        self.counters.refusals[error as usize].add(1);
    }

    /// Counts the stages of a timed request.
    pub fn record(&self, times: &StageTimes) {
        let _guard = self.table.lock();
        self.counters.stages.record(times);
    }

    /// From now on connections close after their next response, idle ones after a moment, and all of
    /// them after `limit`.
    pub fn drain(&self, limit: Duration, now_ms: u64) {
        self.is_draining.store(true, Relaxed);
        let drain = DrainDeadlines::new(now_ms, limit, self.limits.drain_idle_ms);
        self.table.lock().drain = Some(drain);
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

    /// Looks at all connections at intervals, until [`Self::end`].
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
                        self.send_refusal(state, refusal, now.wall_s());
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
            // The connection finds itself cut and its body incomplete, and answers 408.
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
                if waited_ms >= LAST_RESPONSE_MS && state.cut(word, now) {
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

    /// Counts a refusal, and sends it past may_minihttp if no response is on its way.
    fn send_refusal(&self, state: &SharedState, error: RequestError, wall_s: i64) {
        self.counters.refusals[error as usize].add(1);
        error.log(state.socket.client());
        if state.is_flushed() {
            let options = ResponseOptions::refusing(&[], &self.limits);
            // Nothing or End: this client takes no bytes, and is closed without a response.
            let (SocketResult::Bytes(_) | SocketResult::Nothing | SocketResult::End) =
                state.socket.send(&refusal(error, error.message(), wall_s, options));
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
    /// Checks an incomplete head: the error once it is too large or too late.
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

/// The registration of a connection; it ends when this is dropped.
pub(super) struct MonitorGuard {
    monitor: Arc<ConnectionMonitor>,
    key: usize,
    /// Shared with the monitor.
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

/// The bytes of a refusal, after which the connection closes.
pub(super) fn refusal(
    error: RequestError,
    message: &str,
    wall_s: i64,
    options: ResponseOptions,
) -> Vec<u8> {
    let mut date = DateLine::default();
    date.update(wall_s);
    let mut out = Vec::new();
    encode::refusal(&mut out, options, &date, error, message);
    out
}
