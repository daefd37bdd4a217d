//! One worker: a listener, a poller, connections, and the loop that serves them.
//!
//! A worker shares nothing with its neighbours but the count of open connections. It blocks in one
//! place, [`Worker::wait`]; other threads reach it through its [`WorkerHandle`].

use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;

use super::Limits;
use super::counters::HttpCounters;
use super::encode::DateLine;
use super::head::RequestError;
use super::message::{Completion, CompletionSink, Service};
use super::protocol::{self, Buffers, ConnectionPhase, KEY_BITS, Protocol, Round, Timed};
use sigmad_clock::{Clock, Now};

/// One read: room for a whole head and a batch of a thousand samples.
pub const READ_BYTES: usize = 64 * 1024;
const _: () = assert!(READ_BYTES >= 2 * 16 * 1024, "a whole head and the start of a body");
/// Ready sockets taken from the poller at once: the first of them waits for the last to be read.
const EVENTS_PER_ROUND_MAX: usize = 256;
/// Connections accepted in one round, so that a storm of them leaves the others their turn.
const ACCEPTS_PER_ROUND_MAX: usize = 256;
/// An answer that its client does not take: long enough for any network, not for ever.
const WRITE_STALL_MS: u64 = 30_000;
/// After a refusal, what is on its way is read and dropped, so that no reset overtakes the answer.
const LINGER_MS: u64 = 2_000;
/// After accept failed for want of descriptors and nobody idle could make room.
const ACCEPT_PAUSE_MS: u64 = 20;
/// Deadlines are looked at no more often: a scan of 20,000 connections takes 0.1 ms.
const EXPIRY_SCAN_MS: u64 = 100;
/// Connections above the limit that are told so; past them new ones are just closed.
pub const REFUSED_CONNECTIONS_MAX: usize = 16;
/// Stages are timed for the first request of one read in so many, and of one in a round at most.
pub const TIMED_EVERY: u64 = 64;

const LISTENER: Token = Token(usize::MAX);
const WAKE: Token = Token(usize::MAX - 1);
const NEVER: u64 = u64::MAX;

enum WorkerCommand {
    Completion(u64, Completion),
    Drain { limit: Duration },
}

/// How other threads reach a worker.
pub struct WorkerHandle {
    commands: Sender<WorkerCommand>,
    waker: Waker,
}

impl WorkerHandle {
    fn send(&self, command: WorkerCommand) {
        // Err: the worker has gone, and the client with it.
        if self.commands.send(command).is_ok() {
            self.waker.wake().expect("an eventfd takes a wake-up");
        }
    }

    /// Stops accepting, answers what is under way with `Connection: close`, and ends the worker when
    /// the last connection has gone, or after `limit`.
    pub fn drain(&self, limit: Duration) {
        self.send(WorkerCommand::Drain { limit });
    }
}

impl CompletionSink for WorkerHandle {
    fn complete(&self, responder_id: u64, completion: Completion) {
        self.send(WorkerCommand::Completion(responder_id, completion));
    }
}

struct WorkerConnection {
    socket: TcpStream,
    protocol: Protocol,
    /// Bytes that the kernel did not take yet, from `sent` on.
    output: Vec<u8>,
    sent: usize,
    deadline_ms: u64,
    /// There may be something to read.
    is_readable: bool,
    /// The poller said that the client sends no more.
    is_half_closed: bool,
    /// We have read the end.
    has_ended: bool,
    /// The answer was a refusal and has left; what comes is dropped.
    is_lingering: bool,
    /// Already in the list of the next round.
    is_listed: bool,
}

impl WorkerConnection {
    fn has_output(&self) -> bool {
        self.sent < self.output.len()
    }

    fn is_idle(&self) -> bool {
        self.protocol.phase() == ConnectionPhase::Idle && !self.has_output() && !self.is_lingering
    }

    /// True when it could be served without waiting for the poller.
    fn wants_turn(&self) -> bool {
        !self.has_output()
            && self.protocol.phase() != ConnectionPhase::Response
            && (self.is_readable || self.protocol.has_backlog() || self.has_ended)
    }
}

/// One worker; `run` returns when it has drained.
pub struct Worker<S> {
    poll: Poll,
    listener: Option<TcpListener>,
    commands: Receiver<WorkerCommand>,
    handle: Arc<WorkerHandle>,
    sink: Arc<dyn CompletionSink>,
    connections: Slab<WorkerConnection>,
    open: Arc<AtomicUsize>,
    limits: Limits,
    counters: Arc<HttpCounters>,
    service: S,
    clock: Clock,
    date: DateLine,
    now: Now,
    scratch: Box<[u8]>,
    buffers: Buffers,
    /// The answers of this round, one connection's after the other's.
    out: Vec<u8>,
    answers: Vec<(usize, Range<usize>)>,
    /// Whom to serve in this round, and whom in the next.
    turns: Vec<usize>,
    next_turns: Vec<usize>,
    calls: usize,
    reads: u64,
    timed_write: Option<TimedWrite>,
    can_accept: bool,
    accept_after_ms: u64,
    next_expiry_ms: u64,
    drain: Option<DrainDeadlines>,
}

/// A timed request whose answer is written in this round.
#[derive(Clone, Copy)]
struct TimedWrite {
    key: usize,
    timed: Timed,
    parsed_ns: u64,
}

#[derive(Clone, Copy)]
struct DrainDeadlines {
    idle_close_ms: u64,
    end_ms: u64,
}

impl<S: Service> Worker<S> {
    /// A worker on `listener`. `open` counts the connections of all workers; `start` is the moment
    /// from which all clocks count.
    ///
    /// # Errors
    /// When the kernel gives no poller.
    pub fn new(
        listener: std::net::TcpListener,
        limits: Limits,
        open: Arc<AtomicUsize>,
        counters: Arc<HttpCounters>,
        start: Instant,
        service: S,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::from_std(listener);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let (sender, commands) = unbounded();
        let handle = Arc::new(WorkerHandle { commands: sender, waker });
        let mut clock = Clock::new(start);
        let now = clock.now();
        Ok(Self {
            poll,
            listener: Some(listener),
            commands,
            sink: handle.clone(),
            handle,
            connections: Slab::new(),
            open,
            limits,
            counters,
            service,
            clock,
            date: DateLine::default(),
            now,
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            buffers: Buffers::default(),
            out: Vec::new(),
            answers: Vec::new(),
            turns: Vec::new(),
            next_turns: Vec::new(),
            calls: 0,
            reads: 0,
            timed_write: None,
            can_accept: true,
            accept_after_ms: 0,
            next_expiry_ms: NEVER,
            drain: None,
        })
    }

    /// How other threads reach this worker.
    pub fn handle(&self) -> Arc<WorkerHandle> {
        self.handle.clone()
    }

    /// Serves until drained.
    ///
    /// # Errors
    /// When the poller fails, which leaves nothing to wait with.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_ROUND_MAX);
        while self.listener.is_some() || !self.connections.is_empty() {
            self.wait(&mut events)?; // the only place where a worker blocks
            self.take_commands();
            self.accept();
            self.read(); // sockets -> requests -> samples; answers queued
            self.end_calls(); // what the answers promise leaves before them
            self.answer(); // queued answers -> sockets, one write each
            self.expire();
        }
        Ok(())
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let timeout = self.wait_limit();
        match self.poll.poll(events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
            Err(error) => return Err(error),
        }
        self.now = self.clock.now();
        self.date.update(self.now.wall_s());
        std::mem::swap(&mut self.turns, &mut self.next_turns);
        for event in &*events {
            match event.token() {
                LISTENER => self.can_accept = true,
                WAKE => {}
                Token(key) => {
                    let Some(connection) = self.connections.get_mut(key) else { continue };
                    connection.is_readable |= event.is_readable() || event.is_error();
                    connection.is_half_closed |= event.is_read_closed();
                    let is_waiting = connection.protocol.phase() == ConnectionPhase::Response;
                    let has_gone = event.is_error() || event.is_write_closed();
                    let is_streaming = connection.protocol.stream().is_some();
                    if is_waiting && (has_gone || (is_streaming && connection.is_half_closed)) {
                        self.close(key);
                    } else if connection.has_output() {
                        self.answers.push((key, 0..0));
                    } else {
                        list(connection, key, &mut self.turns);
                    }
                }
            }
        }
        Ok(())
    }

    fn wait_limit(&self) -> Option<Duration> {
        let may_accept = self.can_accept && self.listener.is_some();
        if !self.next_turns.is_empty() || (may_accept && self.accept_after_ms == 0) {
            return Some(Duration::ZERO);
        }
        let accept_ms = if may_accept { self.accept_after_ms } else { NEVER };
        let next_ms = self.next_expiry_ms.min(accept_ms);
        let now_ms = self.now.monotonic_ms();
        // One more, so that the deadline has passed when we wake.
        (next_ms != NEVER).then(|| Duration::from_millis(next_ms.saturating_sub(now_ms) + 1))
    }

    fn take_commands(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                WorkerCommand::Completion(responder_id, completion) => {
                    self.complete(responder_id, completion)
                }
                WorkerCommand::Drain { limit } => {
                    let now_ms = self.now.monotonic_ms();
                    let end_ms = now_ms + limit.as_millis() as u64;
                    let idle_close_ms = end_ms.min(now_ms + self.limits.drain_idle_ms);
                    self.drain = Some(DrainDeadlines { idle_close_ms, end_ms });
                    self.next_expiry_ms = self.next_expiry_ms.min(idle_close_ms);
                    self.can_accept = true;
                }
            }
        }
    }

    fn complete(&mut self, responder_id: u64, completion: Completion) {
        let key = (responder_id & ((1 << KEY_BITS) - 1)) as usize;
        let is_draining = self.drain.is_some();
        let Some(connection) = self.connections.get_mut(key) else {
            return protocol::reject(completion);
        };
        let output = &mut connection.output;
        if connection.protocol.complete(responder_id, completion, is_draining, &self.date, output) {
            self.answers.push((key, 0..0));
        }
    }

    fn accept(&mut self) {
        if !self.can_accept || self.now.monotonic_ms() < self.accept_after_ms {
            return;
        }
        self.accept_after_ms = 0;
        for _ in 0..ACCEPTS_PER_ROUND_MAX {
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok((socket, address)) => {
                    self.admit(socket, address.ip().to_canonical().is_loopback())
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.can_accept = false;
                    if self.drain.is_some() {
                        // Closed only now that nobody waits in its queue.
                        self.listener = None;
                    }
                    return;
                }
                // The client gave up before we came.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.counters.accept_failures_total.add(1);
                    if !self.evict_oldest_idle() {
                        self.accept_after_ms = self.now.monotonic_ms() + ACCEPT_PAUSE_MS;
                        return;
                    }
                }
            }
        }
    }

    fn admit(&mut self, mut socket: TcpStream, is_loopback: bool) {
        self.counters.accepted_total.add(1);
        let limit = self.limits.connections_max;
        let is_over = self.open.load(Ordering::Relaxed) >= limit && !self.evict_oldest_idle();
        if is_over && self.open.load(Ordering::Relaxed) >= limit + REFUSED_CONNECTIONS_MAX {
            self.counters.refusals[RequestError::TooManyConnections as usize].add(1);
            return;
        }
        let entry = self.connections.vacant_entry();
        let key = entry.key();
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(&mut socket, Token(key), interest).is_err() {
            self.counters.accept_failures_total.add(1);
            return;
        }
        entry.insert(WorkerConnection {
            socket,
            protocol: Protocol::new(key, is_loopback),
            output: Vec::new(),
            sent: 0,
            deadline_ms: NEVER,
            is_readable: true,
            is_half_closed: false,
            has_ended: false,
            is_lingering: false,
            is_listed: false,
        });
        self.counters.open.set(self.connections.len() as u64);
        // Relaxed: a limit, not an order; workers that race for the last place may both get it.
        self.open.fetch_add(1, Ordering::Relaxed);
        if is_over {
            self.refuse(key, RequestError::TooManyConnections);
        } else {
            self.set_deadline(key);
            list(&mut self.connections[key], key, &mut self.turns);
        }
    }

    fn read(&mut self) {
        let mut turns = std::mem::take(&mut self.turns);
        for key in turns.drain(..) {
            if let Some(connection) = self.connections.get_mut(key) {
                connection.is_listed = false;
                self.take_turn(key);
            }
        }
        self.turns = turns;
    }

    fn take_turn(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        if connection.is_lingering {
            return self.discard(key);
        }
        if connection.has_output() || connection.protocol.phase() == ConnectionPhase::Response {
            return;
        }
        let start = self.out.len();
        let is_timed = self.reads.is_multiple_of(TIMED_EVERY) && self.timed_write.is_none();
        let mut round = Round {
            service: &mut self.service,
            out: &mut self.out,
            buffers: &mut self.buffers,
            date: &self.date,
            limits: &self.limits,
            counters: &self.counters,
            sink: &self.sink,
            clock: &self.clock,
            now: self.now,
            is_draining: self.drain.is_some(),
            calls: 0,
            timed: None,
        };
        let phase = connection.protocol.phase();
        let mut has_progressed = false;
        if connection.protocol.has_backlog() {
            connection.protocol.resume(&mut round);
            has_progressed = true;
        } else if connection.is_readable {
            let read_since_ns = if is_timed { self.clock.monotonic_ns() } else { 0 };
            match connection.socket.read(&mut self.scratch) {
                Ok(0) => {
                    connection.has_ended = true;
                    connection.is_readable = false;
                }
                Ok(length) => {
                    self.reads += 1;
                    if is_timed {
                        let read_ns = self.clock.monotonic_ns();
                        round.timed = Some(Timed { read_since_ns, read_ns, parsed_ns: None });
                    }
                    // A short read has emptied the socket (epoll(7)); an end would still be unread.
                    connection.is_readable = length == READ_BYTES || connection.is_half_closed;
                    connection.protocol.receive(&mut self.scratch[..length], &mut round);
                    // Without answer: the request is not whole, or answered by responder.
                    if let Some(timed @ Timed { parsed_ns: Some(parsed_ns), .. }) = round.timed
                        && round.out.len() > start
                    {
                        self.timed_write = Some(TimedWrite { key, timed, parsed_ns });
                    }
                    has_progressed = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    connection.is_readable = false;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.close(key),
            }
        }
        if connection.has_ended && !connection.protocol.has_backlog() {
            connection.protocol.finish(&mut round);
        }
        self.calls += round.calls;
        if self.out.len() > start || connection.protocol.phase() == ConnectionPhase::Closing {
            self.answers.push((key, start..self.out.len()));
        } else if connection.wants_turn() {
            list(connection, key, &mut self.next_turns);
        }
        let is_same_head =
            phase == ConnectionPhase::Head && connection.protocol.phase() == ConnectionPhase::Head;
        if has_progressed && !is_same_head {
            self.set_deadline(key);
        }
    }

    /// Reads and drops what a refused client still sends.
    fn discard(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        match connection.socket.read(&mut self.scratch) {
            Ok(length) if length > 0 => list(connection, key, &mut self.next_turns),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => self.close(key),
        }
    }

    fn end_calls(&mut self) {
        if self.calls > 0 {
            self.service.round_called(self.now);
        }
    }

    fn answer(&mut self) {
        let mut answers = std::mem::take(&mut self.answers);
        for (key, range) in answers.drain(..) {
            if self.connections.contains(key) {
                self.write(key, range);
            }
        }
        self.answers = answers;
        self.out.clear();
        // Its connection may have gone.
        self.timed_write = None;
        if std::mem::take(&mut self.calls) > 0 {
            self.service.round_answered(self.clock.monotonic_ns() - self.now.monotonic_ns);
        }
    }

    fn write(&mut self, key: usize, range: Range<usize>) {
        let connection = &mut self.connections[key];
        let timed = self.timed_write.take_if(|write| write.key == key);
        let since_ns = if timed.is_some() { self.clock.monotonic_ns() } else { 0 };
        let written = if connection.has_output() {
            connection.output.extend_from_slice(&self.out[range]);
            write_all(&mut connection.socket, &connection.output[connection.sent..])
                .map(|length| connection.sent += length)
        } else {
            let bytes = &self.out[range];
            write_all(&mut connection.socket, bytes)
                .map(|length| connection.output.extend_from_slice(&bytes[length..]))
        };
        if let Some(TimedWrite { timed: Timed { read_since_ns, read_ns, .. }, parsed_ns, .. }) =
            timed
        {
            let (begun_ns, written_ns) = (self.now.monotonic_ns, self.clock.monotonic_ns());
            let counters = &self.counters;
            counters.queue_wait_ns.record(read_since_ns - begun_ns, 1);
            counters.read_ns.record(read_ns - read_since_ns, 1);
            counters.parse_ns.record(parsed_ns - read_ns, 1);
            counters.write_ns.record(written_ns - since_ns, 1);
            counters.whole_ns.record(written_ns - begun_ns, 1);
        }
        if written.is_err() {
            return self.close(key);
        }
        if connection.has_output() {
            return self.set_deadline(key);
        }
        if connection.sent > 0 {
            connection.output = Vec::new();
            connection.sent = 0;
        }
        connection.protocol.flushed();
        if connection.protocol.phase() == ConnectionPhase::Closing {
            return if connection.protocol.lingers() && !connection.has_ended {
                self.linger(key)
            } else {
                self.close(key)
            };
        }
        if connection.wants_turn() {
            list(connection, key, &mut self.next_turns);
        }
        self.set_deadline(key);
    }

    fn linger(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        connection.is_lingering = true;
        if connection.socket.shutdown(std::net::Shutdown::Write).is_err() {
            return self.close(key);
        }
        list(connection, key, &mut self.next_turns);
        self.set_deadline(key);
    }

    fn refuse(&mut self, key: usize, refusal: RequestError) {
        let start = self.out.len();
        let connection = &mut self.connections[key];
        connection.protocol.refuse(refusal, &mut self.out, &self.date, &self.counters);
        self.write(key, start..self.out.len());
    }

    fn set_deadline(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        let now_ms = self.now.monotonic_ms();
        connection.deadline_ms = if connection.is_lingering {
            // Set once, in linger(): a client that keeps sending does not keep us.
            now_ms + LINGER_MS
        } else if connection.has_output() {
            now_ms + WRITE_STALL_MS
        } else {
            match connection.protocol.phase() {
                ConnectionPhase::Idle => now_ms + self.limits.idle_timeout_ms,
                ConnectionPhase::Head | ConnectionPhase::Body => {
                    now_ms + self.limits.read_timeout_ms
                }
                ConnectionPhase::Response | ConnectionPhase::Closing => NEVER,
            }
        };
        self.next_expiry_ms = self.next_expiry_ms.min(connection.deadline_ms);
    }

    fn expire(&mut self) {
        let now_ms = self.now.monotonic_ms();
        if now_ms < self.next_expiry_ms {
            return;
        }
        let mut next_ms = self.drain.map_or(NEVER, |drain| {
            if now_ms < drain.idle_close_ms { drain.idle_close_ms } else { drain.end_ms }
        });
        if self.drain.is_some_and(|drain| now_ms >= drain.end_ms) {
            self.listener = None;
        }
        let mut due = Vec::new();
        for (key, connection) in &self.connections {
            let is_cut = self.drain.is_some_and(|drain| {
                let may_go = connection.is_idle() || connection.protocol.stream().is_some();
                now_ms >= drain.end_ms || (now_ms >= drain.idle_close_ms && may_go)
            });
            if is_cut || connection.deadline_ms <= now_ms {
                due.push((key, is_cut));
            } else {
                next_ms = next_ms.min(connection.deadline_ms);
            }
        }
        self.next_expiry_ms = next_ms.max(now_ms + EXPIRY_SCAN_MS);
        for (key, is_cut) in due {
            self.expire_one(key, is_cut);
        }
    }

    fn expire_one(&mut self, key: usize, is_cut: bool) {
        let connection = &self.connections[key];
        let is_lingering = connection.is_lingering;
        match connection.protocol.phase() {
            _ if is_cut => self.counters.closed_drain_total.add(1),
            _ if is_lingering => {}
            _ if connection.has_output() => self.counters.closed_stalled_total.add(1),
            ConnectionPhase::Head | ConnectionPhase::Body => {
                return self.refuse(key, RequestError::Timeout);
            }
            ConnectionPhase::Idle | ConnectionPhase::Response | ConnectionPhase::Closing => {
                self.counters.closed_idle_total.add(1)
            }
        }
        self.close(key);
    }

    /// Closes the connection that has been idle for longest; false when there is none.
    fn evict_oldest_idle(&mut self) -> bool {
        let idle = self.connections.iter().filter(|(_, connection)| connection.is_idle());
        let Some((key, _)) = idle.min_by_key(|(_, connection)| connection.deadline_ms) else {
            return false;
        };
        self.counters.closed_evicted_total.add(1);
        self.close(key);
        true
    }

    fn close(&mut self, key: usize) {
        // Dropping the socket takes it out of the poller, dropping the protocol ends its stream.
        drop(self.connections.remove(key));
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.counters.open.set(self.connections.len() as u64);
    }
}

fn list(connection: &mut WorkerConnection, key: usize, turns: &mut Vec<usize>) {
    if !connection.is_listed {
        connection.is_listed = true;
        turns.push(key);
    }
}

/// Writes as much as the kernel takes; returns how much that was.
pub fn write_all(socket: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match socket.write(&bytes[written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => written += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
