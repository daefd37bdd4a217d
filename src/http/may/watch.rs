//! The deadlines that may_minihttp does not have: one thread looks at all connections from outside.
//!
//! A connection says in one atomic word what it waits for and since when; the watch cuts those that
//! wait too long by shutting their descriptor down. It does so under the lock that a connection
//! takes to unregister, and may_minihttp closes the descriptor after that: what is cut is never a
//! descriptor that has been given to somebody else.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use slab::Slab;

use super::socket::{Found, Socket};
use crate::http::Limits;
use crate::http::counters::HttpCounters;
use crate::http::encode::{self, DateLine, Terms};
use crate::http::head::Refusal;
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
pub enum Phase {
    /// A whole request head.
    Waiting,
    /// A further part of a body.
    Body,
    /// Its service, or a ticket.
    Busy,
    /// The parts of a streamed answer.
    Stream,
    /// Its last answer to leave.
    Closing,
    /// Nothing: the watch has cut it.
    Cut,
}

const PHASES: [Phase; 6] =
    [Phase::Waiting, Phase::Body, Phase::Busy, Phase::Stream, Phase::Closing, Phase::Cut];
const PHASE_BITS: u32 = 3;
const _: () = assert!(PHASES.len() <= 1 << PHASE_BITS);

/// A phase and the nanosecond in which it began, so that no two waits look alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word(u64);

impl Word {
    fn new(phase: Phase, since_ns: u64) -> Self {
        Self(since_ns << PHASE_BITS | phase as u64)
    }

    fn phase(self) -> Phase {
        PHASES[(self.0 & ((1 << PHASE_BITS) - 1)) as usize]
    }

    fn since_ns(self) -> u64 {
        self.0 >> PHASE_BITS
    }

    fn waited_ms(self, now: Now) -> u64 {
        now.monotonic_ns.saturating_sub(self.since_ns()) / 1_000_000
    }
}

/// What a connection and the watch know of each other.
#[derive(Debug)]
pub struct Seen {
    /// The descriptor.
    pub socket: Socket,
    word: AtomicU64,
    /// Bytes of answers handed to may_minihttp, and sent past it.
    answered_bytes: AtomicU64,
    /// Reading a body may have left bytes in the kernel of which the poller will not tell again.
    pub may_hold_unread: AtomicBool,
}

impl Seen {
    // Relaxed throughout: each word stands for itself. What decides between a call and a cut is that
    // both change the same word, which has one order of changes.

    fn word(&self) -> Word {
        Word(self.word.load(Relaxed))
    }

    /// The present phase.
    pub fn phase(&self) -> Phase {
        self.word().phase()
    }

    /// Says what the connection waits for now; false when the watch has cut it.
    pub fn enter(&self, phase: Phase, now_ns: u64) -> bool {
        let next = Word::new(phase, now_ns).0;
        let entered = self.word.fetch_update(Relaxed, Relaxed, |word| {
            (Word(word).phase() != Phase::Cut).then_some(next)
        });
        entered.is_ok()
    }

    /// True when the connection was still in that very wait, and is cut now.
    fn cut(&self, word: Word, now: Now) -> bool {
        let next = Word::new(Phase::Cut, now.monotonic_ns).0;
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

/// One registered connection, as the watch alone knows it.
struct Watched {
    seen: Arc<Seen>,
    /// The wait in which the following was found.
    word: Word,
    /// Bytes taken from the kernel when the wait began.
    taken_before: Option<u64>,
    /// When the first bytes of a head had been taken.
    head_since_ms: Option<u64>,
}

#[derive(Clone, Copy)]
struct Drain {
    idle_close_ms: u64,
    end_ms: u64,
}

#[derive(Default)]
struct Registry {
    connections: Slab<Watched>,
    /// Where the next look goes on asking the kernel.
    next_probe: usize,
    drain: Option<Drain>,
    has_ended: bool,
}

/// All connections of the engine.
pub struct Watch {
    registry: Mutex<Registry>,
    /// There is something to look at, or nothing any more.
    begun: Condvar,
    emptied: Condvar,
    limits: Limits,
    is_draining: AtomicBool,
    /// Written under the lock of the registry.
    counters: Arc<HttpCounters>,
}

impl Watch {
    /// Watches connections by those limits.
    pub fn new(limits: Limits, counters: Arc<HttpCounters>) -> Self {
        Self {
            registry: Mutex::default(),
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
        self.registry.lock().connections.len() >= most
    }

    /// Registers a connection, at the cost of the oldest idle one where it is one too many. When
    /// there is none it is refused, and returned cut.
    pub fn admit(self: &Arc<Self>, socket: Socket, clock: &mut Clock) -> Registered {
        let now = clock.now();
        let mut registry = self.registry.lock();
        let over = registry.connections.len().checked_sub(self.limits.connections_max);
        let is_refused = over.is_some() && !self.evict_oldest_idle(&registry, now);
        let word =
            Word::new(if is_refused { Phase::Cut } else { Phase::Waiting }, now.monotonic_ns);
        let seen = Arc::new(Seen {
            socket,
            word: AtomicU64::new(word.0),
            answered_bytes: AtomicU64::new(0),
            may_hold_unread: AtomicBool::new(false),
        });
        if is_refused {
            self.tell(&seen, Refusal::TooManyConnections, now.wall_s());
            let is_told = over.is_some_and(|over| over < REFUSED_CONNECTIONS_MAX);
            // With the read side open its request is read and dropped, so that no reset overtakes
            // the answer.
            socket.shut(if is_told { Shutdown::Write } else { Shutdown::Both });
        }
        let watched =
            Watched { seen: seen.clone(), word, taken_before: Some(0), head_since_ms: None };
        let key = registry.connections.insert(watched);
        self.counters.accepted_total.add(1);
        self.counters.open.set(registry.connections.len() as u64);
        if registry.connections.len() == 1 {
            self.begun.notify_one();
        }
        Registered { watch: self.clone(), key, seen }
    }

    /// Counts a refusal.
    pub fn count(&self, refusal: Refusal) {
        let _registry = self.registry.lock();
        self.counters.refusals[refusal as usize].add(1);
    }

    /// From now on connections close behind their next answer, idle ones a moment later, all of them
    /// after `limit`.
    pub fn drain(&self, limit: Duration, now_ms: u64) {
        let end_ms = now_ms + limit.as_millis() as u64;
        self.is_draining.store(true, Relaxed);
        self.registry.lock().drain =
            Some(Drain { idle_close_ms: end_ms.min(now_ms + self.limits.drain_idle_ms), end_ms });
    }

    /// Blocks until the last connection has gone, or for `limit`.
    pub fn wait_until_empty(&self, limit: Duration) {
        let mut registry = self.registry.lock();
        self.emptied.wait_while_for(&mut registry, |r| !r.connections.is_empty(), limit);
    }

    /// Ends [`Self::run`].
    pub fn end(&self) {
        self.registry.lock().has_ended = true;
        self.begun.notify_one();
    }

    /// Looks at all connections, again and again, as long as there are any.
    pub fn run(&self, mut clock: Clock) {
        let mut registry = self.registry.lock();
        while !registry.has_ended {
            if registry.connections.is_empty() {
                self.begun.wait(&mut registry);
            } else {
                self.begun.wait_for(&mut registry, LOOK_EVERY);
                self.look(&mut registry, &mut clock);
            }
        }
    }

    fn look(&self, registry: &mut Registry, clock: &mut Clock) {
        let now = clock.now();
        let drain = registry.drain;
        let mut probes = PROBES_PER_LOOK;
        let first_probe = std::mem::take(&mut registry.next_probe);
        for (key, watched) in &mut registry.connections {
            let word = watched.seen.word();
            if drain.is_some_and(|drain| now.monotonic_ms() >= drain.end_ms) {
                if word.phase() == Phase::Cut || watched.seen.cut(word, now) {
                    self.counters.closed_drain_total.add(1);
                    watched.seen.socket.shut(Shutdown::Both);
                }
                continue;
            }
            let can_probe = key >= first_probe && probes > 0;
            if word.phase() == Phase::Waiting && key >= first_probe {
                if can_probe {
                    probes -= 1;
                } else if registry.next_probe == 0 {
                    registry.next_probe = key;
                }
            }
            self.look_at(watched, word, drain, can_probe, now);
        }
    }

    fn look_at(
        &self,
        watched: &mut Watched,
        word: Word,
        drain: Option<Drain>,
        can_probe: bool,
        now: Now,
    ) {
        let now_ms = now.monotonic_ms();
        let waited_ms = word.waited_ms(now);
        let seen = &watched.seen;
        let socket = seen.socket;
        let may_go = drain.is_some_and(|drain| now_ms >= drain.idle_close_ms);
        match word.phase() {
            Phase::Waiting => {
                if seen.may_hold_unread.swap(false, Relaxed) {
                    socket.report_again();
                }
                let refusal = if can_probe {
                    watched.look_for_head(word, &self.limits, now_ms)
                } else {
                    None
                };
                let seen = &watched.seen;
                let is_idle = watched.head_since_ms.is_none();
                if let Some(refusal) = refusal {
                    if seen.cut(word, now) {
                        self.tell(seen, refusal, now.wall_s());
                        socket.shut(Shutdown::Both);
                    }
                } else if is_idle
                    && (may_go || waited_ms >= self.limits.idle_timeout_ms)
                    && seen.cut(word, now)
                {
                    self.counters.closed_idle_total.add(u64::from(!may_go));
                    socket.shut(Shutdown::Both);
                }
            }
            // The connection finds itself cut and its body short, and answers 408.
            Phase::Body => {
                if waited_ms >= self.limits.read_timeout_ms && seen.cut(word, now) {
                    socket.shut(Shutdown::Read);
                }
            }
            Phase::Stream => {
                if may_go && seen.cut(word, now) {
                    self.counters.closed_drain_total.add(1);
                    socket.shut(Shutdown::Both);
                }
            }
            Phase::Closing => {
                if waited_ms >= LAST_ANSWER_MS && seen.cut(word, now) {
                    self.counters.closed_stalled_total.add(1);
                    socket.shut(Shutdown::Both);
                } else if seen.is_flushed() {
                    socket.shut(Shutdown::Read);
                }
            }
            Phase::Cut if waited_ms >= LINGER_MS => socket.shut(Shutdown::Both),
            Phase::Cut | Phase::Busy => {}
        }
    }

    /// Sends a refusal past may_minihttp, where no answer is on its way, and counts it.
    fn tell(&self, seen: &Seen, refusal: Refusal, wall_s: i64) {
        self.counters.refusals[refusal as usize].add(1);
        if seen.is_flushed() {
            // Found::Nothing and End: this client takes no bytes, and is let go without.
            let (Found::Bytes(_) | Found::Nothing | Found::End) =
                seen.socket.send(&refusal_answer(refusal, refusal.message(), wall_s));
        }
    }

    fn evict_oldest_idle(&self, registry: &Registry, now: Now) -> bool {
        let idle = registry.connections.iter().filter_map(|(_, watched)| {
            let word = watched.seen.word();
            let is_idle = word.phase() == Phase::Waiting && watched.head_since_ms.is_none();
            is_idle.then_some((word, &watched.seen))
        });
        let Some((word, seen)) = idle.min_by_key(|(word, _)| word.since_ns()) else {
            return false;
        };
        let is_cut = seen.cut(word, now);
        if is_cut {
            self.counters.closed_evicted_total.add(1);
            seen.socket.shut(Shutdown::Both);
        }
        is_cut
    }
}

impl Watched {
    /// Tells whether bytes have come that make no whole head yet, and when that has become too much.
    fn look_for_head(&mut self, word: Word, limits: &Limits, now_ms: u64) -> Option<Refusal> {
        if self.word != word {
            self.word = word;
            self.taken_before = None;
            self.head_since_ms = None;
        }
        let taken = self.seen.socket.taken()?;
        let before = *self.taken_before.get_or_insert(taken);
        if taken == before {
            return None;
        }
        let head_since_ms = *self.head_since_ms.get_or_insert(now_ms);
        if taken.saturating_sub(before) > (limits.head_bytes_max + READ_BYTES_MAX) as u64 {
            Some(Refusal::HeadTooLarge)
        } else if now_ms - head_since_ms >= limits.read_timeout_ms {
            Some(Refusal::Timeout)
        } else {
            None
        }
    }
}

/// A connection's place in the watch.
pub struct Registered {
    watch: Arc<Watch>,
    key: usize,
    /// What it tells the watch.
    pub seen: Arc<Seen>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut registry = self.watch.registry.lock();
        drop(registry.connections.remove(self.key));
        self.watch.counters.open.set(registry.connections.len() as u64);
        if registry.connections.is_empty() {
            self.watch.emptied.notify_all();
        }
    }
}

/// The bytes of a refusal behind which the connection closes.
pub fn refusal_answer(refusal: Refusal, message: &str, wall_s: i64) -> Vec<u8> {
    let mut date = DateLine::default();
    date.update(wall_s);
    let terms = Terms { is_http10: false, is_head: false, closes: true };
    let mut out = Vec::new();
    let body = refusal_body(refusal, message);
    encode::answer(
        &mut out,
        terms,
        &date,
        refusal.status(),
        "application/json",
        &[],
        body.as_bytes(),
    );
    out
}

/// The body of a refusal.
pub fn refusal_body(refusal: Refusal, message: &str) -> String {
    format!(r#"{{"error":{{"code":"{}","message":"{message}"}}}}"#, refusal.code())
}
