//! The threads behind `/debug/`: no worker or reader waits for a profile.
//!
//! One thread, `debug`, takes the requests and counts the answers. It starts a thread for each request,
//! at most [`AT_ONCE_MAX`] at once; further requests are answered 503.

mod responses;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select, unbounded};

use self::responses::{
    file, flame_graph, heap, index, latency, nosniff, symbols, text, thread_stacks,
};
use crate::api::actions::DebugRead;
use crate::api::counters::RequestCounters;
use crate::api::errors::ApiError;
use crate::api::query::Query;
use crate::api::routes::Label;
use crate::http::message::{Method, Responder, Response, StreamSendError, StreamWriter};
use crate::readiness::{Readiness, ReadinessPhase};
use crate::telemetry::Sources;
use sigmad_clock::Clock;
use sigmad_profile::cmdline;
use sigmad_profile::cpu::Recording;
use sigmad_profile::memory::{self, View};

/// Queued requests, then 503.
pub const DEBUGS_WAITING_MAX: usize = 16;
/// Concurrent requests: one profile, and a few quick requests while it runs.
const AT_ONCE_MAX: usize = 4;
/// A part of a streamed answer.
const PART_BYTES: usize = 64 * 1024;
/// Wait between attempts to send a part, and between checks of a heap profile.
const PAUSE: Duration = Duration::from_millis(5);
const NS_PER_S: u64 = 1_000_000_000;

/// One request to a path below `/debug/`.
#[derive(Debug)]
pub struct DebugRequest {
    /// The action of its path.
    pub debug: DebugRead,
    /// Its metric label.
    pub label: Label,
    /// GET, HEAD or POST.
    pub method: Method,
    /// The path, as sent.
    pub path: String,
    /// The query string, as sent.
    pub query: String,
    /// The field `Accept`, empty without one.
    pub accept: String,
    /// The body.
    pub body: Vec<u8>,
    /// When a worker read the request, by the monotonic clock.
    pub read_ns: u64,
    /// Sends the answer.
    pub responder: Responder,
}

/// A finished answer, to be counted.
struct FinishedAnswer {
    label: Label,
    method: Method,
    status: u16,
    read_ns: u64,
}

/// What the threads of all requests share.
struct DebugShared {
    /// The sources of the latency budget.
    sources: Sources,
    /// Requests that this thread answers.
    counters: Arc<RequestCounters>,
    readiness: Arc<Readiness>,
    /// For CPU profiles: two at once would profile each other.
    cpu: ProfilePermit,
    /// For heap profiles over some seconds.
    heap: ProfilePermit,
}

/// Permits one profile at a time. Holds the end of the running profile by the monotonic clock, or 0.
#[derive(Default)]
struct ProfilePermit(AtomicU64);

/// A claimed permit; dropping it releases the permit.
struct ClaimedPermit<'r>(&'r ProfilePermit);

impl Drop for ClaimedPermit<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, Ordering::Release);
    }
}

impl ProfilePermit {
    fn claim(&self, now_ns: u64, seconds: u64) -> Result<ClaimedPermit<'_>, ApiError<'static>> {
        let ends_ns = now_ns + seconds * NS_PER_S;
        // Acquire pairs with the Release of the drop before.
        let (claimed, busy) = (Ordering::Acquire, Ordering::Relaxed);
        match self.0.compare_exchange(0, ends_ns, claimed, busy) {
            Ok(_) => Ok(ClaimedPermit(self)),
            Err(until_ns) => {
                let left_s = until_ns.saturating_sub(now_ns).div_ceil(NS_PER_S);
                Err(ApiError::ProfileRuns(left_s.max(1)))
            }
        }
    }
}

/// The thread `debug`.
struct DebugThread {
    shared: Arc<DebugShared>,
    clock: Clock,
    finished: Sender<FinishedAnswer>,
    /// Threads that are answering.
    running: usize,
}

/// Starts the thread. It ends after the last worker, when all answers are finished.
pub fn start(
    requests: Receiver<DebugRequest>,
    sources: Sources,
    counters: Arc<RequestCounters>,
    readiness: Arc<Readiness>,
    start: Instant,
) -> io::Result<JoinHandle<()>> {
    let (finished, answers) = unbounded();
    let clock = Clock::new(start);
    let (cpu, heap) = Default::default();
    let shared = Arc::new(DebugShared { sources, counters, readiness, cpu, heap });
    let mut thread = DebugThread { shared, clock, finished, running: 0 };
    std::thread::Builder::new().name("debug".into()).spawn(move || {
        loop {
            select! {
                recv(requests) -> request => match request {
                    Ok(request) => thread.begin(request),
                    Err(_) => break,
                },
                recv(answers) -> answer => {
                    thread.end(answer.expect("this thread holds a sender"));
                }
            }
        }
        while thread.running > 0 {
            thread.end(answers.recv().expect("this thread holds a sender"));
        }
    })
}

impl DebugThread {
    fn begin(&mut self, request: DebugRequest) {
        let DebugRequest { label, method, read_ns, .. } = request;
        let count = move |status| FinishedAnswer { label, method, status, read_ns };
        if self.running == AT_ONCE_MAX {
            let error = ApiError::DebugFull;
            request.responder.send(error.debug_response());
            return self.count(&count(error.status()));
        }
        let (finished, shared) = (self.finished.clone(), self.shared.clone());
        let clock = self.clock.clone();
        let answering = std::thread::Builder::new().name("profile".into()).spawn(move || {
            let status = answer(request, &shared, clock);
            // Err: the process is ending.
            let _ = finished.send(count(status));
        });
        match answering {
            Ok(_) => self.running += 1,
            // The request was dropped with its closure, and its responder has answered 500.
            Err(error) => {
                tracing::error!(%error, "cannot start a thread for a debug request");
                self.count(&count(500));
            }
        }
    }

    fn end(&mut self, answer: FinishedAnswer) {
        self.running -= 1;
        self.count(&answer);
    }

    fn count(&self, answer: &FinishedAnswer) {
        let FinishedAnswer { label, method, status, read_ns } = *answer;
        let counters = &self.shared.counters;
        counters.count(label, method, status);
        counters.time(label, self.clock.monotonic_ns().saturating_sub(read_ns), 1);
    }
}

/// Answers, and returns the status.
fn answer(request: DebugRequest, shared: &DebugShared, clock: Clock) -> u16 {
    // After a panic the thread must still be counted as ended; the responder answers 500.
    let answered = catch_unwind(AssertUnwindSafe(|| match request.debug {
        DebugRead::Profile | DebugRead::Flamegraph => cpu_profile(request, shared, clock),
        DebugRead::Heap | DebugRead::Allocs => {
            let span_s = Query::new(&request.query).span_s();
            match span_s {
                Ok(Some(seconds)) => heap_difference(request, shared, clock, seconds),
                Ok(None) => respond(request, shared, clock),
                Err(error) => refuse(request.responder, &error),
            }
        }
        _ => respond(request, shared, clock),
    }));
    answered.unwrap_or(500)
}

fn respond(request: DebugRequest, shared: &DebugShared, clock: Clock) -> u16 {
    let response = response(&request, shared, clock).unwrap_or_else(|error| error.debug_response());
    let status = response.status;
    request.responder.send(response);
    status
}

fn refuse(responder: Responder, error: &ApiError<'_>) -> u16 {
    responder.send(error.debug_response());
    error.status()
}

/// The answer to a request that needs no waiting.
fn response(
    request: &DebugRequest,
    shared: &DebugShared,
    mut clock: Clock,
) -> Result<Response, ApiError<'static>> {
    let DebugRequest { debug, path, query, accept, body, .. } = request;
    match debug {
        DebugRead::Index => Ok(index(path)),
        DebugRead::Cmdline => Ok(text(cmdline::of_this_process())),
        DebugRead::Symbol => Ok(symbols(if body.is_empty() { query.as_bytes() } else { body })),
        DebugRead::Threads => thread_stacks(&Query::new(query), clock),
        DebugRead::Heap => Ok(heap(View::InUse, &Query::new(query), &mut clock)),
        DebugRead::Allocs => Ok(heap(View::Allocated, &Query::new(query), &mut clock)),
        DebugRead::Latency => latency(&shared.sources, &Query::new(query), accept),
        DebugRead::Profile | DebugRead::Flamegraph => unreachable!("profiles are streamed"),
    }
}

/// A CPU profile. The head is sent first, so that a closed connection ends the profile; the body follows
/// at the end.
fn cpu_profile(request: DebugRequest, shared: &DebugShared, clock: Clock) -> u16 {
    let DebugRequest { debug, method, query, responder, .. } = request;
    let order = match Query::new(&query).order() {
        Ok(order) => order,
        Err(error) => return refuse(responder, &error),
    };
    let head = match debug {
        DebugRead::Flamegraph => Response {
            status: 200,
            content_type: "image/svg+xml",
            fields: nosniff(),
            body: Vec::new(),
        },
        _ => file("profile", Vec::new()),
    };
    if method == Method::Head {
        responder.send(head);
        return 200;
    }
    let claim = match shared.cpu.claim(clock.monotonic_ns(), order.seconds) {
        Ok(claim) => claim,
        Err(error) => return refuse(responder, &error),
    };
    let recording = match Recording::begin(order, clock) {
        Ok(recording) => recording,
        Err(error) => {
            let why = format!("backend={} is not available: {error}", order.backend.name());
            return refuse(responder, &ApiError::Unprofilable(&why));
        }
    };
    let writer = responder.stream(head);
    let is_over = || writer.is_closed() || shared.readiness.phase() == ReadinessPhase::Draining;
    let recorded = recording.record(is_over);
    drop(claim);
    if writer.is_closed() {
        return 200;
    }
    match recorded.and_then(|mut profile| match debug {
        DebugRead::Flamegraph => flame_graph(&mut profile),
        _ => Ok(profile.encode()),
    }) {
        Ok(body) => send_all(&writer, &body),
        // The head was sent, so the client gets an empty body.
        Err(error) => tracing::error!(%error, "CPU profile failed"),
    }
    200
}

/// Sends as fast as the client reads. The engine closes a client that does not read.
fn send_all(writer: &StreamWriter, body: &[u8]) {
    for part in body.chunks(PART_BYTES) {
        loop {
            match writer.send(part.to_vec()) {
                Ok(()) => break,
                Err(StreamSendError::Full) => std::thread::sleep(PAUSE),
                Err(StreamSendError::Closed) => return,
            }
        }
    }
}

/// A heap profile of some seconds, streamed as [`cpu_profile`] is.
fn heap_difference(
    request: DebugRequest,
    shared: &DebugShared,
    mut clock: Clock,
    seconds: u64,
) -> u16 {
    let DebugRequest { debug, method, responder, .. } = request;
    let (view, name) = match debug {
        DebugRead::Allocs => (View::Allocated, "allocs-delta"),
        _ => (View::InUse, "heap-delta"),
    };
    let head = file(name, Vec::new());
    if method == Method::Head {
        responder.send(head);
        return 200;
    }
    let began = clock.now();
    let claim = match shared.heap.claim(began.monotonic_ns, seconds) {
        Ok(claim) => claim,
        Err(error) => return refuse(responder, &error),
    };
    let before = sigmad_profile::heap::snapshot();
    let writer = responder.stream(head);
    let end_ns = began.monotonic_ns + seconds * NS_PER_S;
    let is_over = || writer.is_closed() || shared.readiness.phase() == ReadinessPhase::Draining;
    while clock.monotonic_ns() < end_ns && !is_over() {
        std::thread::sleep(PAUSE);
    }
    drop(claim);
    if !writer.is_closed() {
        let duration_ns = clock.monotonic_ns() - began.monotonic_ns;
        send_all(&writer, &memory::difference(view, &before, began.wall_us, duration_ns));
    }
    200
}
