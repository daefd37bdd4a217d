//! The threads behind `/debug/`: they look into the process, and no worker or reader waits for them.
//!
//! One thread, `debug`, takes the requests and counts the answers. It starts another for each request,
//! as many as [`AT_ONCE_MAX`]; who comes then is told to come again.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select, unbounded};

use super::accept::takes_text;
use super::counters::RequestCounters;
use super::errors::ApiError;
use super::query::Query;
use super::routes::{Debug, Label};
use crate::http::message::{
    HeaderField, Method, Responder, Response, StreamSendError, StreamWriter,
};
use crate::http::stages::TIMED_EVERY;
use crate::readiness::{Readiness, ReadinessPhase};
use crate::telemetry::Sources;
use crate::telemetry::latency::LatencyBudget;
use sigmad_clock::Clock;
use sigmad_profile::capture::CUT;
use sigmad_profile::cpu::{CpuProfile, Recording};
use sigmad_profile::memory::{self, View};
use sigmad_profile::proto::{self, ProfileHeader, ProfileSample};
use sigmad_profile::symbols::Symbols;
use sigmad_profile::threads::{self, Thread};
use sigmad_profile::unwind::Unwinder;
use sigmad_profile::{cmdline, flame, heap};

/// Requests that wait for the thread.
pub const DEBUGS_WAITING_MAX: usize = 16;
/// Requests answered at once: a profile, and looks at other things while it is taken.
const AT_ONCE_MAX: usize = 4;
/// Addresses of one request for names; a stack has some fifty.
const ADDRESSES_MAX: usize = 10_000;
/// A part of a streamed answer.
const PART_BYTES: usize = 64 * 1024;
/// While a client has taken none of the last part, or the time of a heap profile is not over.
const PAUSE: Duration = Duration::from_millis(5);
const NS_PER_S: u64 = 1_000_000_000;
const OCTETS: &str = "application/octet-stream";

/// One request to look into the process.
#[derive(Debug)]
pub struct DebugRequest {
    /// What is asked.
    pub debug: Debug,
    /// What it is counted under.
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
    /// When a worker read the request, on the monotonic clock.
    pub read_ns: u64,
    /// Where the answer goes.
    pub responder: Responder,
}

/// An answer that has been given.
struct Answered {
    label: Label,
    method: Method,
    status: u16,
    read_ns: u64,
}

/// What those who look into the process share.
struct DebugShared {
    /// The sources of the latency budget.
    sources: Sources,
    /// Requests that this thread answers.
    counters: Arc<RequestCounters>,
    readiness: Arc<Readiness>,
    /// CPU profiles, one at a time: two would see each other.
    cpu: Permit,
    /// Heap profiles over some seconds.
    heap: Permit,
}

/// Lets one through at a time. Holds when the profile that is being taken ends, on the monotonic clock; 0 while
/// none is.
#[derive(Default)]
struct Permit(AtomicU64);

/// The right to take a profile.
struct Claim<'r>(&'r Permit);

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, Ordering::Release);
    }
}

impl Permit {
    fn claim(&self, now_ns: u64, seconds: u64) -> Result<Claim<'_>, ApiError<'static>> {
        let ends_ns = now_ns + seconds * NS_PER_S;
        let (taken, free) = (Ordering::Acquire, Ordering::Relaxed);
        match self.0.compare_exchange(0, ends_ns, taken, free) {
            Ok(_) => Ok(Claim(self)),
            Err(until_ns) => {
                let left_s = until_ns.saturating_sub(now_ns).div_ceil(NS_PER_S);
                Err(ApiError::ProfileRuns(left_s.max(1)))
            }
        }
    }
}

/// The thread `debug`.
struct DebugThread {
    room: Arc<DebugShared>,
    clock: Clock,
    told: Sender<Answered>,
    /// Threads that answer at present.
    running: usize,
}

/// Starts the thread. It ends when the last worker has gone, and its answers are given.
pub fn start(
    requests: Receiver<DebugRequest>,
    sources: Sources,
    counters: Arc<RequestCounters>,
    readiness: Arc<Readiness>,
    start: Instant,
) -> io::Result<JoinHandle<()>> {
    let (told, answered) = unbounded();
    let clock = Clock::new(start);
    let (cpu, heap) = Default::default();
    let room = Arc::new(DebugShared { sources, counters, readiness, cpu, heap });
    let mut attendant = DebugThread { room, clock, told, running: 0 };
    std::thread::Builder::new().name("debug".into()).spawn(move || {
        loop {
            select! {
                recv(requests) -> request => match request {
                    Ok(request) => attendant.begin(request),
                    Err(_) => break,
                },
                recv(answered) -> one => {
                    attendant.end(one.expect("this thread holds a sender"));
                }
            }
        }
        while attendant.running > 0 {
            attendant.end(answered.recv().expect("this thread holds a sender"));
        }
    })
}

impl DebugThread {
    fn begin(&mut self, request: DebugRequest) {
        let DebugRequest { label, method, read_ns, .. } = request;
        let count = move |status| Answered { label, method, status, read_ns };
        if self.running == AT_ONCE_MAX {
            let error = ApiError::DebugFull;
            request.responder.send(error.debug_response());
            return self.count(&count(error.status()));
        }
        let (told, room) = (self.told.clone(), self.room.clone());
        let clock = Clock::new(self.clock.start());
        let answering = std::thread::Builder::new().name("profile".into()).spawn(move || {
            let status = answer(request, &room, clock);
            // Err: the process is on its way out.
            let _ = told.send(count(status));
        });
        match answering {
            Ok(_) => self.running += 1,
            // The request is gone with its closure, and its responder has answered 500.
            Err(error) => {
                tracing::error!(%error, "no thread to look into the process");
                self.count(&count(500));
            }
        }
    }

    fn end(&mut self, answered: Answered) {
        self.running -= 1;
        self.count(&answered);
    }

    fn count(&self, answered: &Answered) {
        let Answered { label, method, status, read_ns } = *answered;
        let counters = &self.room.counters;
        counters.count(label, method, status);
        counters.time(label, self.clock.monotonic_ns().saturating_sub(read_ns), 1);
    }
}

/// Answers, and returns with what status.
fn answer(request: DebugRequest, room: &DebugShared, clock: Clock) -> u16 {
    // A mistake of ours must not leave the count of running threads wrong; the responder answers for it.
    let answered = catch_unwind(AssertUnwindSafe(|| match request.debug {
        Debug::Profile | Debug::Flamegraph => record(request, room, clock),
        Debug::Heap | Debug::Allocs => {
            let span_s = Query::new(&request.query).span_s();
            match span_s {
                Ok(Some(seconds)) => watch_heap(request, room, clock, seconds),
                Ok(None) => at_once(request, room, clock),
                Err(error) => refuse(request.responder, &error),
            }
        }
        _ => at_once(request, room, clock),
    }));
    answered.unwrap_or(500)
}

fn at_once(request: DebugRequest, room: &DebugShared, clock: Clock) -> u16 {
    let response = whole(&request, room, clock).unwrap_or_else(|error| error.debug_response());
    let status = response.status;
    request.responder.send(response);
    status
}

fn refuse(responder: Responder, error: &ApiError<'_>) -> u16 {
    responder.send(error.debug_response());
    error.status()
}

/// What is answered as soon as it is known.
fn whole(
    request: &DebugRequest,
    room: &DebugShared,
    mut clock: Clock,
) -> Result<Response, ApiError<'static>> {
    let DebugRequest { debug, path, query, accept, body, .. } = request;
    match debug {
        Debug::Index => Ok(index(path)),
        Debug::Cmdline => Ok(text(cmdline::of_this_process())),
        Debug::Symbol => Ok(names(if body.is_empty() { query.as_bytes() } else { body })),
        Debug::Threads => all_threads(&Query::new(query), clock),
        Debug::Heap => Ok(heap(View::InUse, &Query::new(query), &mut clock)),
        Debug::Allocs => Ok(heap(View::Allocated, &Query::new(query), &mut clock)),
        Debug::Latency => latency(&room.sources, &Query::new(query), accept),
        Debug::Profile | Debug::Flamegraph => unreachable!("they are streamed"),
    }
}

/// A CPU profile. The answer begins with it, so that a client that goes away is noticed; its body comes at
/// the end.
fn record(request: DebugRequest, room: &DebugShared, clock: Clock) -> u16 {
    let DebugRequest { debug, method, query, responder, .. } = request;
    let order = match Query::new(&query).order() {
        Ok(order) => order,
        Err(error) => return refuse(responder, &error),
    };
    let head = match debug {
        Debug::Flamegraph => Response {
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
    let claim = match room.cpu.claim(clock.monotonic_ns(), order.seconds) {
        Ok(claim) => claim,
        Err(error) => return refuse(responder, &error),
    };
    let recording = match Recording::begin(order, clock) {
        Ok(recording) => recording,
        Err(error) => {
            let why = format!("backend={} can't: {error}", order.backend.name());
            return refuse(responder, &ApiError::Unprofilable(&why));
        }
    };
    let writer = responder.stream(head);
    let is_over = || writer.is_closed() || room.readiness.phase() == ReadinessPhase::Draining;
    let recorded = recording.record(is_over);
    drop(claim);
    if writer.is_closed() {
        return 200;
    }
    match recorded.and_then(|mut profile| match debug {
        Debug::Flamegraph => picture(&mut profile),
        _ => Ok(profile.encode()),
    }) {
        Ok(body) => send_all(&writer, &body),
        // The head has left: all that can be told is an answer that is no profile.
        Err(error) => tracing::error!(%error, "a CPU profile is lost"),
    }
    200
}

fn picture(profile: &mut CpuProfile) -> io::Result<Vec<u8>> {
    let mut lines = profile.fold();
    if lines.is_empty() {
        lines.push("nothing_was_sampled 1".to_owned());
    }
    let title = format!("sigmad, CPU time in {:.1} s", profile.duration_ns() as f64 / 1e9);
    flame::draw(&lines, title, profile.comments.join("; "))
}

/// Sends as fast as the client takes it. One that takes nothing is closed by the engine.
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

/// Where each thread is.
fn all_threads(query: &Query<'_>, mut clock: Clock) -> Result<Response, ApiError<'static>> {
    let mut symbols = Symbols::of_this_process();
    let mut unwinder = Unwinder::new(&symbols);
    let threads = threads::stacks(&mut unwinder).map_err(|error| {
        tracing::error!(%error, "threads can't be looked at");
        ApiError::Unprofilable("the kernel takes no signals to look at threads with")
    })?;
    let threads = threads.ok_or(ApiError::DebugFull)?;
    if query.is_text() {
        return Ok(text(listing(&threads, &mut symbols).into_bytes()));
    }
    let cut = threads.iter().any(|thread| thread.is_cut).then(|| CUT.to_owned());
    let about = ProfileHeader {
        sample_types: &[("threads", "count")],
        default_sample_type: "threads",
        period_type: ("threads", "count"),
        period: 1,
        wall_us: clock.now().wall_us,
        duration_ns: 0,
        comments: cut.as_slice(),
    };
    let labels: Vec<_> = threads.iter().map(|thread| [("thread", &*thread.name)]).collect();
    let samples = threads.iter().zip(&labels).map(|(thread, labels)| ProfileSample {
        stack: &thread.stack,
        is_leaf_exact: true,
        values: &[1],
        labels,
    });
    Ok(file("threads", proto::encode(&about, samples, &mut symbols)))
}

/// A paragraph for each thread, a line for each function.
fn listing(threads: &[Thread], symbols: &mut Symbols) -> String {
    let mut lines = format!("threads: {}\n", threads.len());
    for Thread { tid, name, state, stack, is_cut } in threads {
        lines += &format!("\n{tid} {name:?} {state}\n");
        if stack.is_empty() {
            lines += "  did not answer: it can't be interrupted at present\n";
        }
        let sample = ProfileSample { stack, is_leaf_exact: true, values: &[], labels: &[] };
        for (place, at) in stack.iter().enumerate() {
            for frame in symbols.resolve(proto::address_at(&sample, place)).iter() {
                lines += &format!("  {at:#018x} {}", frame.function);
                if frame.line > 0 {
                    lines += &format!(" {}:{}", frame.file, frame.line);
                }
                lines.push('\n');
            }
        }
        if *is_cut {
            lines += &format!("  … {CUT}\n");
        }
    }
    lines
}

/// Who holds memory, or took it.
fn heap(view: View, query: &Query<'_>, clock: &mut Clock) -> Response {
    if query.is_text() {
        return text(memory::text(view).into_bytes());
    }
    let name = match view {
        View::InUse => "heap",
        View::Allocated => "allocs",
    };
    file(name, memory::profile(view, clock.now().wall_us))
}

/// The same of some seconds, streamed as [`record`] does.
fn watch_heap(request: DebugRequest, room: &DebugShared, mut clock: Clock, seconds: u64) -> u16 {
    let DebugRequest { debug, method, responder, .. } = request;
    let (view, name) = match debug {
        Debug::Allocs => (View::Allocated, "allocs-delta"),
        _ => (View::InUse, "heap-delta"),
    };
    let head = file(name, Vec::new());
    if method == Method::Head {
        responder.send(head);
        return 200;
    }
    let began = clock.now();
    let claim = match room.heap.claim(began.monotonic_ns, seconds) {
        Ok(claim) => claim,
        Err(error) => return refuse(responder, &error),
    };
    let before = heap::snapshot();
    let writer = responder.stream(head);
    let end_ns = began.monotonic_ns + seconds * NS_PER_S;
    let is_over = || writer.is_closed() || room.readiness.phase() == ReadinessPhase::Draining;
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

/// Where the time of a request goes.
fn latency(
    sources: &Sources,
    query: &Query<'_>,
    accept: &str,
) -> Result<Response, ApiError<'static>> {
    let budget = LatencyBudget::of(sources, TIMED_EVERY);
    if query.wants_text()?.unwrap_or_else(|| takes_text(accept)) {
        return Ok(text(budget.text().into_bytes()));
    }
    let mut fields = nosniff();
    fields.push(("Vary", "Accept".into()));
    Ok(Response { status: 200, content_type: super::JSON, fields, body: budget.json() })
}

fn text(body: Vec<u8>) -> Response {
    Response { status: 200, content_type: super::TEXT, fields: nosniff(), body }
}

/// A profile as a file: what Go says of its own.
pub fn file(name: &str, body: Vec<u8>) -> Response {
    let mut fields = nosniff();
    let disposition = format!("attachment; filename=\"{name}\"");
    fields.push(("Content-Disposition", disposition.into()));
    Response { status: 200, content_type: OCTETS, fields, body }
}

fn nosniff() -> Vec<HeaderField> {
    vec![("X-Content-Type-Options", "nosniff".into()), ("Cache-Control", "no-store".into())]
}

/// What there is: the last part of the path, and a line for each.
const CONTENTS: &[(&str, &str)] = &[
    ("profile?seconds=30", "where CPU time goes; ?seconds= 1 to 300, ?hz= 1 to 1000"),
    ("flamegraph?seconds=10", "the same as a picture (SVG)"),
    ("threads?debug=1", "the stack of every thread; without debug=1 for go tool pprof"),
    ("heap", "who holds memory; ?debug=1 as text, ?seconds=5 what has changed in that time"),
    ("allocs", "who took memory since the start; ?debug=1 as text, ?seconds=5 in that time"),
    ("cmdline", "how the process was started"),
    ("symbol", "names of addresses: ?0x1f+0x2e"),
];

fn index(path: &str) -> Response {
    // Links work behind a prefix too, and from the path without its last slash.
    let prefix = if path.ends_with('/') { "" } else { "pprof/" };
    let row = |(link, line): &(&str, &str)| {
        let name = link.split('?').next().unwrap_or(link);
        format!("<tr><td><a href=\"{prefix}{link}\">{name}</a></td><td>{line}</td></tr>\n")
    };
    let rows: String = CONTENTS.iter().map(row).collect();
    let body = format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>/debug/pprof/</title>\n\
         <h1>/debug/pprof/</h1>\n<table>\n{rows}</table>\n\
         <p><code>go tool pprof -http=: http://localhost:8080/debug/pprof/profile?seconds=30</code></p>\n"
    );
    let content_type = "text/html; charset=utf-8";
    Response { status: 200, content_type, fields: nosniff(), body: body.into_bytes() }
}

/// A line for each address that has a name, as Go's `symbol`.
fn names(addresses: &[u8]) -> Response {
    let mut symbols = Symbols::of_this_process();
    let mut lines = "num_symbols: 1\n".to_owned();
    for word in addresses.split(|byte| *byte == b'+').take(ADDRESSES_MAX) {
        let word = std::str::from_utf8(word).unwrap_or_default().trim();
        let digits = word.strip_prefix("0x").unwrap_or(word);
        let Ok(address) = u64::from_str_radix(digits, 16) else { continue };
        let frames = symbols.resolve(address);
        let function = frames.last().map(|frame| frame.function.clone());
        let function = function.filter(|name| !name.starts_with('['));
        if let Some(function) = function {
            lines += &format!("{address:#x} {function}\n");
        }
    }
    text(lines.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_their_names() {
        let here = addresses_get_their_names as *const () as u64;
        let response = names(format!("{here:#x}+0x1+nonsense").as_bytes());
        let body = String::from_utf8(response.body).expect("text");
        let lines: Vec<_> = body.lines().collect();
        assert_eq!((lines.len(), lines[0]), (2, "num_symbols: 1"));
        assert!(lines[1].starts_with(&format!("{here:#x} ")), "{body}");
        assert!(lines[1].contains("addresses_get_their_names"), "{body}");
    }

    #[test]
    fn the_index_links_to_what_there_is() {
        for (path, prefix) in [("/debug/pprof/", "/debug/pprof/"), ("/debug/pprof", "/debug/")] {
            let body = String::from_utf8(index(path).body).expect("text");
            let links: Vec<_> = body.split("href=\"").skip(1).collect();
            assert_eq!(links.len(), CONTENTS.len());
            for link in links {
                let link = link.split(['"', '?']).next().expect("a link");
                let label = super::super::routes::find(&format!("{prefix}{link}"));
                assert!(label.route().is_some(), "{path} {link}");
            }
        }
    }
}
