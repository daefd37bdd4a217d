//! One worker: its connections, and the loop that serves them.
//!
//! The worker decides: which connection has its turn, when one is refused, closed or evicted, and in
//! which order a round proceeds. Its [`Poller`] moves the bytes. A worker shares nothing with its
//! neighbours but the [`ConnectionBudget`]; other threads reach it through its [`WorkerHandle`].

mod connection;
mod deadlines;
mod eviction;
mod handle;
mod output;

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam_channel::Receiver;
use slab::Slab;

use self::connection::{NEVER, WorkerConnection};
use self::deadlines::Deadlines;
use self::handle::WorkerCommand;
pub use self::handle::WorkerHandle;
use super::Limits;
use super::budget::{ConnectionBudget, WorkerMemory, bytes_taken};
use super::counters::HttpCounters;
use super::encode::DateLine;
use super::head::RequestError;
use super::message::{Completion, CompletionSink, Service};
use super::poller::{Accepted, PolledSocket, Poller, Received};
use super::protocol::{self, Buffers, ConnectionPhase, Protocol, Round};
use super::stages::{Stage, StageTimer, StageTimes, TIMED_EVERY};
use sigmad_clock::{Clock, Now};

/// Connections accepted in one round, so that a burst does not delay the others.
const ACCEPTS_PER_ROUND_MAX: usize = 256;
/// The pause after accept failed for want of descriptors while no idle connection could be evicted.
const ACCEPT_PAUSE_MS: u64 = 20;
/// Connections of one worker in their TLS handshake: each can hold 30 kB that its client has sent or caused. Past
/// it the oldest ones make room. A handshake of an honest client is over long before so many others have begun.
const HANDSHAKES_MAX: usize = 512;

/// One worker; `run` returns when it has drained.
pub struct Worker<S, P: Poller> {
    poller: P,
    commands: Receiver<WorkerCommand>,
    handle: Arc<WorkerHandle>,
    /// The handle, in the form that a responder takes.
    sink: Arc<dyn CompletionSink>,
    connections: Slab<WorkerConnection<P::Socket>>,
    /// What all workers share.
    budget: Arc<ConnectionBudget>,
    memory: WorkerMemory,
    limits: Limits,
    deadlines: Deadlines,
    counters: Arc<HttpCounters>,
    service: S,
    clock: Clock,
    date: DateLine,
    now: Now,
    buffers: Buffers,
    /// The responses of this round, one connection's after the other's.
    out: Vec<u8>,
    /// Connections with something to write, and their part of `out`.
    responses: Vec<(usize, Range<usize>)>,
    /// The connections to serve in this round, and in the next one.
    turns: Vec<usize>,
    next_turns: Vec<usize>,
    /// Requests called in this round.
    calls: usize,
    reads: u64,
    timed: Option<TimedRequest>,
    accept_after_ms: u64,
}

/// A timed request whose response is written in this round.
struct TimedRequest {
    key: usize,
    times: StageTimes,
}

impl<S: Service, P: Poller> Worker<S, P> {
    /// A worker on the listener of `poller`. All workers share the `budget`; `start` is the moment from which all
    /// clocks count.
    pub fn new(
        poller: P,
        limits: Limits,
        budget: Arc<ConnectionBudget>,
        counters: Arc<HttpCounters>,
        start: Instant,
        service: S,
    ) -> Self {
        let (handle, commands) = WorkerHandle::new(poller.waker());
        let handle = Arc::new(handle);
        let mut clock = Clock::new(start);
        let now = clock.now();
        Self {
            poller,
            commands,
            sink: handle.clone(),
            handle,
            connections: Slab::new(),
            memory: WorkerMemory::new(budget.clone()),
            budget,
            limits,
            deadlines: Deadlines::new(&limits),
            counters,
            service,
            clock,
            date: DateLine::default(),
            now,
            buffers: Buffers::default(),
            out: Vec::new(),
            responses: Vec::new(),
            turns: Vec::new(),
            next_turns: Vec::new(),
            calls: 0,
            reads: 0,
            timed: None,
            accept_after_ms: 0,
        }
    }

    /// Reaches this worker from other threads.
    pub fn handle(&self) -> Arc<WorkerHandle> {
        self.handle.clone()
    }

    /// Serves until drained.
    ///
    /// # Errors
    /// When the poller fails.
    pub fn run(mut self) -> io::Result<()> {
        while self.poller.is_listening() || !self.connections.is_empty() {
            self.wait()?; // the only place where a worker blocks
            self.take_commands();
            self.accept();
            self.take_turns(); // sockets -> requests -> samples; responses are collected
            self.end_calls(); // samples reach their queue before a response promises it
            self.respond(); // collected responses -> sockets, one write each
            self.relieve(); // too much memory -> the slowest and the newest go
            self.expire();
        }
        Ok(())
    }

    fn wait(&mut self) -> io::Result<()> {
        self.poller.wait(self.now.monotonic_ms(), self.wait_until_ms())?;
        self.now = self.clock.now();
        self.date.update(self.now.wall_s());
        self.buffers.begin_round();
        std::mem::swap(&mut self.turns, &mut self.next_turns);
        let mut gone = Vec::new();
        for progress in self.poller.progress() {
            let key = progress.key;
            let Some(connection) = self.connections.get_mut(key) else { continue };
            connection.socket.update(progress);
            let is_waiting = connection.protocol.phase() == ConnectionPhase::Response;
            let has_left = connection.is_streaming() && connection.socket.is_half_closed();
            // Lingering until now: both sides have ended, and the client has the whole response.
            let has_parted = connection.is_lingering() && progress.is_broken;
            if has_parted || (is_waiting && (progress.is_broken || has_left)) {
                gone.push(key);
            } else if connection.has_output() {
                self.responses.push((key, 0..0));
            } else {
                connection.list(key, &mut self.turns);
            }
        }
        for key in gone {
            self.close(key);
        }
        Ok(())
    }

    fn wait_until_ms(&self) -> u64 {
        if !self.next_turns.is_empty() {
            return self.now.monotonic_ms();
        }
        // Zero unless accept has failed, and so at once.
        let accept_ms = if self.poller.may_accept() { self.accept_after_ms } else { NEVER };
        self.deadlines.next_scan_ms().min(accept_ms)
    }

    fn take_commands(&mut self) {
        // Asked first, because try_recv() needs a fence to say no. A command is sent before the wake-up that brings us here.
        while !self.commands.is_empty()
            && let Ok(command) = self.commands.try_recv()
        {
            match command {
                WorkerCommand::Complete { responder_id, completion } => {
                    self.complete(responder_id, completion);
                }
                WorkerCommand::Drain { limit } => {
                    self.poller.empty_listener();
                    self.deadlines.drain(self.now.monotonic_ms(), limit);
                }
            }
        }
    }

    fn complete(&mut self, responder_id: u64, completion: Completion) {
        let key = protocol::connection_key(responder_id);
        let is_draining = self.deadlines.is_draining();
        let Some(connection) = self.connections.get_mut(key) else {
            return completion.reject();
        };
        let WorkerConnection { protocol, output, .. } = connection;
        if protocol.complete(responder_id, completion, is_draining, &self.date, output) {
            self.responses.push((key, 0..0));
        }
    }

    fn accept(&mut self) {
        let is_closing = self.deadlines.is_draining() && self.poller.is_listening();
        let may_accept = self.poller.may_accept() || is_closing;
        if !may_accept || self.now.monotonic_ms() < self.accept_after_ms {
            return;
        }
        self.accept_after_ms = 0;
        for _ in 0..ACCEPTS_PER_ROUND_MAX {
            if self.is_reserve_unserved() {
                // After this round's turns there is room again.
                return;
            }
            match self.poller.accept() {
                Ok(Some(accepted)) => self.admit(accepted),
                Ok(None) => {
                    if is_closing {
                        // Not before: connections in its queue would be reset.
                        self.poller.close_listener();
                    }
                    return;
                }
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

    fn admit(&mut self, accepted: Accepted<P::Socket>) {
        self.counters.accepted_total.add(1);
        if self.poller.handshakes() > HANDSHAKES_MAX {
            self.evict_oldest_handshakes();
        }
        let Accepted { mut socket, client } = accepted;
        let limit = self.limits.connections_max;
        // Relaxed: limits, not orders; workers that race for the last place may both get it.
        let is_over =
            self.budget.open.load(Ordering::Relaxed) >= limit && !self.evict_oldest_idle();
        if is_over && self.is_reserve_full() && !self.evict_oldest_reserved() {
            self.counters.refusals[RequestError::TooManyConnections as usize].add(1);
            RequestError::TooManyConnections.log(client);
            return self.poller.close(socket);
        }
        let entry = self.connections.vacant_entry();
        let key = entry.key();
        if self.poller.register(&mut socket, key).is_err() {
            self.counters.accept_failures_total.add(1);
            return self.poller.close(socket);
        }
        let protocol = Protocol::new(key, client, is_over);
        let connection = entry.insert(WorkerConnection::new(socket, protocol));
        self.budget.places(is_over).fetch_add(1, Ordering::Relaxed);
        self.deadlines.set(connection, self.now.monotonic_ms());
        connection.list(key, &mut self.turns);
        self.counters.open.set(self.connections.len() as u64);
    }

    fn take_turns(&mut self) {
        let mut turns = std::mem::take(&mut self.turns);
        let mut taken = 0;
        for &key in &turns {
            if self.memory.is_short() {
                break;
            }
            taken += 1;
            if let Some(connection) = self.connections.get_mut(key) {
                connection.unlist();
                if connection.is_lingering() {
                    self.discard(key);
                } else if !connection.has_output()
                    && connection.protocol.phase() != ConnectionPhase::Response
                {
                    self.take_turn(key);
                }
            }
        }
        // What the others bring would need more memory. They stay listed.
        self.next_turns.extend(turns.drain(taken..));
        turns.clear();
        self.turns = turns;
    }

    /// Serves what one receive brings, or what an earlier one has left.
    fn take_turn(&mut self, key: usize) {
        let start = self.out.len();
        let connection = &mut self.connections[key];
        let phase = connection.protocol.phase();
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
            is_draining: self.deadlines.is_draining(),
            calls: 0,
            stages: None,
        };
        let mut has_progressed = false;
        let (mut received, mut has_shaken_hands) = (0, false);
        if connection.protocol.has_backlog() {
            connection.protocol.resume(&mut round);
            has_progressed = true;
        } else if connection.socket.has_input() {
            if self.reads.is_multiple_of(TIMED_EVERY) && self.timed.is_none() {
                let mut times = StageTimes::new(self.now.monotonic_ns);
                times.end(Stage::QueueWait, self.clock.monotonic_ns());
                round.stages = Some(times);
            }
            let was_handshaking = connection.socket.is_handshaking();
            match self.poller.receive(&mut connection.socket) {
                Received::Bytes(bytes) => {
                    self.reads += 1;
                    received = bytes.len();
                    if let Some(times) = &mut round.stages {
                        times.end(Stage::Read, self.clock.monotonic_ns());
                    }
                    connection.protocol.receive(bytes, &mut round);
                    has_progressed = true;
                }
                Received::Nothing => {}
                Received::End => connection.has_ended = true,
                Received::NotTls => return self.refuse(key, RequestError::PlainHttp),
                Received::Failed => return self.close(key),
            }
            // The time for the handshake is over, that for a request begins.
            has_shaken_hands = was_handshaking && !connection.socket.is_handshaking();
        }
        if connection.has_ended && !connection.protocol.has_backlog() {
            connection.protocol.finish(&mut round);
        }
        let calls = round.calls;
        self.calls += calls;
        // Without a response the request is incomplete or deferred, and its times are dropped.
        if let Some(times) = &round.stages
            && times.has(Stage::Parse)
            && round.out.len() > start
        {
            self.timed = Some(TimedRequest { key, times: *times });
        }
        let next_phase = connection.protocol.phase();
        if matches!(next_phase, ConnectionPhase::Head | ConnectionPhase::Body) {
            let is_new = calls > 0 || phase != next_phase;
            connection.count_received(received, is_new, self.now.monotonic_ms());
        }
        // A further part of a head, or an empty line before one, is no progress.
        let waits_for_head = matches!(phase, ConnectionPhase::Idle | ConnectionPhase::Head);
        let is_same_wait = waits_for_head && calls == 0 && next_phase == phase;
        self.end_turn(key, start, has_shaken_hands || (has_progressed && !is_same_wait));
    }

    fn end_turn(&mut self, key: usize, start: usize, has_progressed: bool) {
        let connection = &mut self.connections[key];
        if self.out.len() > start || connection.protocol.phase() == ConnectionPhase::Closing {
            self.responses.push((key, start..self.out.len()));
        } else if connection.wants_turn() {
            connection.list(key, &mut self.next_turns);
        }
        if has_progressed {
            self.deadlines.set(connection, self.now.monotonic_ms());
        }
        self.count_memory(key);
    }

    fn end_calls(&mut self) {
        if self.calls > 0 {
            let times = self.timed.as_mut().map(|timed| &mut timed.times);
            self.service.round_called(self.now, StageTimer(times));
        }
    }

    /// Takes note of what the connection holds now.
    #[inline]
    fn count_memory(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        let holds = connection.protocol.held_bytes()
            + bytes_taken(&connection.output)
            + connection.socket.held_bytes();
        if holds != connection.held_bytes {
            let held = std::mem::replace(&mut connection.held_bytes, holds);
            self.memory.change(key, held, holds);
        }
    }

    fn expire(&mut self) {
        let now_ms = self.now.monotonic_ms();
        if now_ms < self.deadlines.next_scan_ms() {
            return;
        }
        if self.deadlines.is_past_drain(now_ms) {
            self.poller.close_listener();
        }
        for expired in self.deadlines.scan(&self.connections, now_ms) {
            self.expire_one(expired.key, expired.is_drained);
        }
    }

    fn expire_one(&mut self, key: usize, is_drained: bool) {
        let connection = &self.connections[key];
        let counters = &self.counters;
        let has_output = connection.has_output();
        match connection.protocol.phase() {
            _ if connection.is_lingering() => return self.close(key),
            _ if is_drained => counters.closed_drain_total.add(1),
            _ if has_output => counters.closed_stalled_total.add(1),
            _ if connection.socket.is_handshaking() => {
                counters.closed_handshake_total.add(1);
                return self.close(key);
            }
            ConnectionPhase::Head | ConnectionPhase::Body => {
                return self.refuse(key, RequestError::Timeout);
            }
            ConnectionPhase::Idle | ConnectionPhase::Response | ConnectionPhase::Closing => {
                counters.closed_idle_total.add(1);
            }
        }
        if has_output || self.deadlines.is_past_drain(self.now.monotonic_ms()) {
            self.close(key);
        } else {
            // A response before the idle time may be on its way.
            self.linger(key);
        }
    }

    fn close(&mut self, key: usize) {
        // Dropping its protocol state ends its stream.
        let connection = self.connections.remove(key);
        if connection.held_bytes > 0 {
            self.memory.change(key, connection.held_bytes, 0);
        }
        self.budget.places(connection.protocol.is_reserved()).fetch_sub(1, Ordering::Relaxed);
        self.poller.close(connection.socket);
        self.counters.open.set(self.connections.len() as u64);
    }
}
