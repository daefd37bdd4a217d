//! One thread of a load run: a poller, a timer, connections, and the loop that drives them.
//!
//! In an open loop a request is sent when it is due, on the connection that has been free longest. If none is free
//! it is sent late, and its latency still counts from the time when it was due. In a closed loop every connection
//! has `--pipeline` requests in flight, and latency counts from the time of sending.

mod connecting;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use mio::{Events, Poll, Token};

use super::answer::{self, MalformedResponse, ParsedResponse};
use super::connection::{LoadConnection, PendingRequest};
use super::outcome::{GOOD, LoadOutcome};
use super::requests::RequestBodies;
use super::schedule::Schedule;
use super::settings::LoadSettings;
use super::socket::ServerAddress;
use super::timer::WakeTimer;
use super::{LiveCounters, ThreadMessage};
use sigmad_clock::Clock;

/// One read holds the responses to a whole pipeline.
const READ_BYTES: usize = 64 * 1024;
/// Events taken from the poller at once. Few, as the last response waits until all others are read.
const EVENTS_PER_ROUND_MAX: usize = 64;
/// Requests sent before responses are read again, for the same reason.
const SENDS_PER_ROUND_MAX: usize = 16;
/// Concurrent attempts to connect: fewer than the queue of any listener holds.
const CONNECTING_MAX: usize = 64;
/// The pause before the next attempt, after one that failed or a connection without a response.
const RETRY_NS: u64 = 100_000_000;
/// The interval between two checks of deadlines.
const SCAN_NS: u64 = 50_000_000;
/// The last requests are due just before the end: a thread that wakes this late can still send them.
const END_GRACE_NS: u64 = 5_000_000;
/// Lines for `--truth` are sent to the main thread in pieces of this size.
const TRUTH_BYTES: usize = 64 * 1024;

/// A sleeping thread wakes about 50 µs late, which would add to every latency. So it wakes this long before a
/// request is due, and stays awake …
const AWAKE_NS: u64 = 70_000;
/// … but at most this part of the time, as the server can need the core.
const AWAKE_PART: u64 = 8;

const TIMER: Token = Token(usize::MAX);

/// Why requests get no response.
#[derive(Clone, Copy, Debug)]
enum LossReason {
    Ended,
    Timeout,
    Malformed,
}

enum LoopMode {
    Open(Schedule),
    Closed { next: u64, step: u64 },
}

/// The share of the load that one thread has.
#[derive(Clone, Copy, Debug)]
pub struct ThreadShare {
    /// The index of the thread.
    pub index: usize,
    /// The number of threads.
    pub of: usize,
}

impl ThreadShare {
    fn share(self, whole: usize) -> usize {
        whole / self.of + usize::from(self.index < whole % self.of)
    }
}

/// One thread of a run.
pub struct Driver {
    part: ThreadShare,
    rate: Option<u64>,
    pipeline: usize,
    batch: u64,
    timeout_ns: u64,
    address: ServerAddress,
    poll: Poll,
    timer: WakeTimer,
    /// The thread stays awake for this time before a request is due.
    awake_ns: u64,
    /// The time for which the timer is set.
    timer_ns: u64,
    clock: Clock,
    connections: Vec<LoadConnection>,
    connecting: usize,
    in_flight: usize,
    pace: LoopMode,
    bodies: RequestBodies,
    /// The request in the buffer of `bodies`, not yet sent.
    prepared: Option<u64>,
    /// Open loop: connections with room for a request.
    free: VecDeque<usize>,
    /// When a connection became free while no other was.
    free_since_ns: u64,
    start_ns: u64,
    end_ns: u64,
    next_scan_ns: u64,
    /// No more requests are sent.
    is_ending: bool,
    stop: Arc<AtomicBool>,
    scratch: Box<[u8]>,
    outcome: LoadOutcome,
    live: Arc<LiveCounters>,
    /// None without `--truth`.
    truth: Option<Vec<u8>>,
    messages: Sender<ThreadMessage>,
}

/// What all threads of a run have in common.
#[derive(Clone)]
pub struct LoadShared {
    /// The address of the server.
    pub address: ServerAddress,
    /// The requests.
    pub bodies: RequestBodies,
    /// Set to end the run early.
    pub stop: Arc<AtomicBool>,
    /// Messages to the main thread.
    pub messages: Sender<ThreadMessage>,
}

impl Driver {
    /// One `part` of the run. All clocks count from `start`.
    ///
    /// # Errors
    /// When the kernel has no poller or timer.
    pub fn new(
        settings: &LoadSettings,
        part: ThreadShare,
        shared: LoadShared,
        live: Arc<LiveCounters>,
        start: Instant,
    ) -> io::Result<Self> {
        let LoadShared { address, bodies, stop, messages } = shared;
        let poll = Poll::new()?;
        let timer = WakeTimer::new(poll.registry(), TIMER)?;
        let count = part.share(settings.connections);
        Ok(Self {
            part,
            rate: settings.rate.map(|rate| rate as u64),
            pipeline: settings.pipeline,
            batch: settings.batch as u64,
            timeout_ns: settings.timeout.as_nanos() as u64,
            address,
            poll,
            timer,
            awake_ns: settings.rate.map_or(0, |rate| {
                let gap_ns = 1_000_000_000 * part.of as u64 / rate as u64;
                AWAKE_NS.min(gap_ns / AWAKE_PART)
            }),
            timer_ns: 0,
            clock: Clock::new(start),
            connections: (0..count)
                .map(|key| LoadConnection::new(settings.pipeline, Token(key)))
                .collect(),
            connecting: 0,
            in_flight: 0,
            pace: LoopMode::Closed { next: part.index as u64, step: part.of as u64 },
            bodies,
            prepared: None,
            free: VecDeque::with_capacity(count),
            free_since_ns: 0,
            start_ns: 0,
            end_ns: 0,
            next_scan_ns: 0,
            is_ending: false,
            stop,
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            outcome: LoadOutcome::default(),
            live,
            truth: settings.truth.as_ref().map(|_| Vec::new()),
            messages,
        })
    }

    /// Ends before the first request.
    pub fn give_up(self) -> LoadOutcome {
        self.outcome
    }

    /// Sends from `start_ns` on for `duration`, then waits for the responses in flight.
    ///
    /// # Errors
    /// When the poller fails.
    pub fn run(mut self, start_ns: u64, duration: Duration) -> io::Result<LoadOutcome> {
        self.start_ns = start_ns;
        self.end_ns = start_ns + duration.as_nanos() as u64;
        if let Some(rate) = self.rate {
            let ThreadShare { index, of } = self.part;
            self.pace = LoopMode::Open(Schedule::new(start_ns, rate, index as u64, of as u64));
        }
        let mut events = Events::with_capacity(EVENTS_PER_ROUND_MAX);
        self.begin();
        while !(self.is_ending && self.in_flight == 0) {
            self.wait(&mut events)?; // the only place where this thread blocks
            self.read(&events); // answers are counted; a closed loop sends anew
            self.send(); // what is due, of an open loop
            self.expire(); // late answers, lost connections
            self.end(); // when it is time
        }
        if let Some(lines) = self.truth.take() {
            self.post_truth(lines);
        }
        Ok(self.outcome)
    }

    fn begin(&mut self) {
        let is_open_loop = matches!(self.pace, LoopMode::Open(_));
        if !is_open_loop {
            // A closed loop begins when an open loop sends its first request.
            let wait_ns = self.start_ns.saturating_sub(self.clock.monotonic_ns());
            std::thread::sleep(Duration::from_nanos(wait_ns));
        }
        for key in 0..self.connections.len() {
            self.employ(key);
        }
    }

    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        self.prepare();
        let now_ns = self.clock.monotonic_ns();
        let mut wait_ns = self.next_scan_ns.saturating_sub(now_ns);
        if let LoopMode::Open(schedule) = &self.pace
            && !self.is_ending
            && !self.free.is_empty()
        {
            let due_ns = schedule.due_ns();
            let wake_ns = due_ns - self.awake_ns;
            if due_ns >= self.end_ns {
                // No more requests are due.
            } else if wake_ns <= now_ns {
                wait_ns = 0;
            } else if self.timer_ns != wake_ns {
                self.timer.set(wake_ns - now_ns);
                self.timer_ns = wake_ns;
            }
        }
        poll(&mut self.poll, events, wait_ns)
    }

    /// Prepares the next request while there is time.
    fn prepare(&mut self) {
        if let LoopMode::Open(schedule) = &self.pace {
            let number = schedule.next_number();
            if self.prepared != Some(number) && !self.is_ending {
                self.bodies.prepare(number);
                self.prepared = Some(number);
            }
        }
    }

    fn read(&mut self, events: &Events) {
        for event in events {
            let Token(key) = event.token();
            if event.token() == TIMER {
                continue;
            }
            if !self.connections[key].is_open() {
                self.finish_connecting(key);
                continue;
            }
            if self.connections[key].has_output() && event.is_writable() {
                self.flush(key);
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.read_answers(key, event.is_read_closed() || event.is_error());
            }
            self.employ(key);
        }
    }

    fn read_answers(&mut self, key: usize, to_the_end: bool) {
        let mut has_ended = self.connections[key].read(&mut self.scratch, to_the_end);
        let now_ns = self.clock.monotonic_ns();
        let mut taken = 0;
        let mut loss = LossReason::Ended;
        while !self.connections[key].in_flight.is_empty() {
            match answer::parse(&self.connections[key].input[taken..], has_ended) {
                Ok(None) => break,
                Ok(Some(answer)) => {
                    taken += answer.bytes;
                    self.count(key, answer, now_ns);
                    if answer.is_last {
                        has_ended = true;
                        break;
                    }
                }
                Err(MalformedResponse) => {
                    (has_ended, loss) = (true, LossReason::Malformed);
                    break;
                }
            }
        }
        let connection = &mut self.connections[key];
        connection.input.drain(..taken);
        // A response without a request (408) announces the end.
        has_ended |= connection.in_flight.is_empty() && !connection.input.is_empty();
        if has_ended {
            self.lose(key, loss, now_ns);
        }
    }

    fn count(&mut self, key: usize, answer: ParsedResponse, now_ns: u64) {
        let connection = &mut self.connections[key];
        connection.answers += 1;
        let request = connection.in_flight.pop_front().expect("looked at by the caller");
        self.in_flight -= 1;
        let outcome = &mut self.outcome;
        outcome.last_answer_ns = now_ns;
        *outcome.statuses.entry(answer.status).or_default() += 1;
        let latency_ns = now_ns.saturating_sub(request.due_ns);
        self.live.latency.record(latency_ns, 1);
        if !GOOD.contains(&answer.status) {
            outcome.refusal_latency.saturating_record(latency_ns);
            self.live.failed.add(1);
            return;
        }
        outcome.latency.saturating_record(latency_ns);
        outcome.accepted += answer.accepted.unwrap_or(0);
        self.live.good.add(1);
        if answer.accepted == Some(self.batch) {
            self.keep_truth(request.number);
        } else {
            self.doubt_truth(request.number);
        }
    }

    fn keep_truth(&mut self, number: u64) {
        let Some(lines) = &mut self.truth else { return };
        let samples = self.bodies.samples(number);
        self.outcome.anomalies += self.bodies.fleet().truth(samples, lines);
        if lines.len() >= TRUTH_BYTES {
            let lines = std::mem::take(lines);
            self.post_truth(lines);
        }
    }

    fn doubt_truth(&mut self, number: u64) {
        if self.truth.is_some() {
            let samples = self.bodies.samples(number);
            self.outcome.anomalies_unknown += self.bodies.fleet().truth(samples, &mut Vec::new());
        }
    }

    fn post_truth(&self, lines: Vec<u8>) {
        self.messages.send(ThreadMessage::Truth(lines)).expect("the run waits for every thread");
    }

    /// Uses a connection with room: a closed loop sends at once, an open loop when the next request is due.
    fn employ(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        let room = self.pipeline - connection.in_flight.len();
        if self.is_ending || !connection.is_open() || connection.has_output() || room == 0 {
            return;
        }
        match &mut self.pace {
            LoopMode::Open(_) if connection.is_listed => {}
            LoopMode::Open(_) => {
                connection.is_listed = true;
                if self.free.is_empty() {
                    self.free_since_ns = self.clock.monotonic_ns();
                }
                self.free.push_back(key);
            }
            LoopMode::Closed { next, step } => {
                let now_ns = self.clock.monotonic_ns();
                for _ in 0..room {
                    let number = *next;
                    *next += *step;
                    self.bodies.prepare(number);
                    if room > 1 {
                        connection.queue(self.bodies.request());
                    }
                    let sent = PendingRequest { number, due_ns: now_ns, sent_ns: now_ns };
                    connection.in_flight.push_back(sent);
                }
                self.outcome.sent += room as u64;
                self.live.sent.add(room as u64);
                self.in_flight += room;
                // One request needs no copy; several need one write.
                let sent = match room {
                    1 => connection.send(self.bodies.request(), self.poll.registry()),
                    _ => connection.flush(self.poll.registry()),
                };
                if sent.is_err() {
                    self.lose(key, LossReason::Ended, now_ns);
                }
            }
        }
    }

    fn send(&mut self) {
        for _ in 0..SENDS_PER_ROUND_MAX {
            let LoopMode::Open(schedule) = &mut self.pace else { return };
            let due_ns = schedule.due_ns();
            let now_ns = self.clock.monotonic_ns();
            if due_ns > now_ns || due_ns >= self.end_ns || self.is_ending {
                return;
            }
            let Some(key) = self.free.pop_front() else { return };
            let connection = &mut self.connections[key];
            connection.is_listed = false;
            if !connection.is_open() || connection.has_output() {
                // Lost since then; it reconnects.
                continue;
            }
            let number = schedule.take();
            if self.prepared != Some(number) {
                self.bodies.prepare(number);
            }
            connection.in_flight.push_back(PendingRequest { number, due_ns, sent_ns: now_ns });
            self.in_flight += 1;
            self.live.sent.add(1);
            let outcome = &mut self.outcome;
            outcome.sent += 1;
            outcome.waited += u64::from(due_ns < self.free_since_ns);
            outcome.lateness.saturating_record(now_ns - due_ns);
            let could_ns = due_ns.max(self.free_since_ns);
            outcome.own_lateness.saturating_record(now_ns.saturating_sub(could_ns));
            let sent = connection.send(self.bodies.request(), self.poll.registry());
            if sent.is_err() {
                self.lose(key, LossReason::Ended, now_ns);
            } else if connection.in_flight.len() < self.pipeline && !connection.has_output() {
                connection.is_listed = true;
                self.free.push_back(key);
            }
        }
    }

    fn flush(&mut self, key: usize) {
        if self.connections[key].flush(self.poll.registry()).is_err() {
            let now_ns = self.clock.monotonic_ns();
            self.lose(key, LossReason::Ended, now_ns);
        }
    }

    fn end(&mut self) {
        let now_ns = self.clock.monotonic_ns();
        let is_stopped = self.stop.load(Ordering::Relaxed);
        let grace_ns = if matches!(self.pace, LoopMode::Open(_)) { END_GRACE_NS } else { 0 };
        if self.is_ending || (now_ns < self.end_ns + grace_ns && !is_stopped) {
            return;
        }
        self.is_ending = true;
        self.outcome.end_ns = self.end_ns.min(now_ns);
        if let LoopMode::Open(schedule) = &self.pace {
            self.outcome.unsent = schedule.left_before(self.outcome.end_ns);
        }
    }
}

/// Waits for events, at most `wait_ns`; a signal ends the wait.
fn poll(poll: &mut Poll, events: &mut Events, wait_ns: u64) -> io::Result<()> {
    match poll.poll(events, Some(Duration::from_nanos(wait_ns))) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            events.clear();
            Ok(())
        }
        Err(error) => Err(error),
    }
}
