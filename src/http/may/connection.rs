//! One connection under may_minihttp: what its `HttpService` must do around a call of ours.
//!
//! may_minihttp reads heads, splits pipelined requests and writes answers. What it gets wrong and
//! can be put right from inside a call is put right here; see [`super::KNOWN_LIMITS`] for the rest.

use std::collections::{HashSet, VecDeque};
use std::io::{self, BufRead};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use may::coroutine;
use may::sync::Blocker;
use may_minihttp::{HttpService, Request as MayRequest, Response as MayResponse};
use parking_lot::Mutex;

use super::monitor::{LINGER_MS, MonitorGuard, WaitPhase, refusal_answer, refusal_body};
use super::socket::{BorrowedSocket, SocketResult};
use super::{MayShared, ServiceSlot};
use crate::http::coding::unpack;
use crate::http::encode::{self, BodyLength, DateLine, ResponseOptions};
use crate::http::head::{self, BodyFraming, HEADERS_MAX, RequestError};
use crate::http::message::{
    Completion, CompletionSink, HeaderField, Method, Request, Responder, ResponseWriter, Service,
    StreamState,
};
use crate::http::protocol::reject;
use crate::http::worker::TIMED_EVERY;
use sigmad_clock::{Clock, Now};

/// Requests of one connection served before others that are ready have their turn.
const CALLS_PER_TURN: u64 = 64;
/// A body's buffer begins no larger, whatever the client announces; a larger one is outcome back.
const BODY_KEPT_BYTES: usize = 64 * 1024;
/// So many bytes of answers any send buffer takes: behind them the connection may be shut at once.
const SENT_AT_ONCE_BYTES: u64 = 16 * 1024;
/// Answers between two looks at whether the client takes them.
const ROOM_CHECK_BYTES: u64 = 64 * 1024;
/// Answers of which the kernel has taken nothing yet; a client that asks for more of them at once
/// is cut.
const PENDING_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// An answer that its client does not take: long enough for any network, not for ever.
const WRITE_STALL_MS: u64 = 30_000;
/// Between two looks at a socket that can only be polled.
const PAUSE: Duration = Duration::from_millis(5);
/// Between two looks at whether the client of a silent stream is still there.
const STREAM_LOOK: Duration = Duration::from_millis(50);
/// Larger bodies of answers are moved, not copied.
const COPIED_BODY_BYTES: usize = 4096;
/// may_minihttp's `Response` has room for so many header lines, and panics past them.
const HEADER_LINES_MAX: usize = 16;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const NO_CHUNKS: &str = "this engine takes no Transfer-Encoding: send Content-Length";

/// Sleeps without blocking the thread.
pub fn pause(duration: Duration) {
    coroutine::sleep(duration);
    // may runs what has slept on its timer thread, until it next yields.
    coroutine::yield_now();
}

/// The header lines that were ever sent: `Response::header` takes only what lives for ever.
#[derive(Debug, Default)]
pub struct HeaderLines {
    known: HashSet<&'static str>,
    scratch: String,
}

/// Distinct header lines kept; past them a line that was never sent before is left out.
pub const LINES_MAX: usize = 1024;

impl HeaderLines {
    fn get(&mut self, name: &str, value: &str) -> Option<&'static str> {
        self.scratch.clear();
        self.scratch.push_str(name);
        self.scratch.push_str(": ");
        self.scratch.push_str(value);
        if let Some(line) = self.known.get(self.scratch.as_str()) {
            return Some(line);
        }
        if self.known.len() == LINES_MAX {
            return None;
        }
        let line: &'static str = Box::leak(self.scratch.clone().into_boxed_str());
        self.known.insert(line);
        Some(line)
    }
}

/// An answer, borrowed from whoever made it.
struct ResponseParts<'a> {
    status: u16,
    content_type: &'static str,
    fields: &'a [HeaderField],
    body: &'a [u8],
}

/// Puts an answer into may_minihttp's response; returns how many bytes it will be on the wire.
fn fill(
    response: &mut MayResponse<'_>,
    lines: &mut HeaderLines,
    options: ResponseOptions,
    parts: &ResponseParts<'_>,
) -> u64 {
    debug_assert!(parts.fields.len() <= HEADER_LINES_MAX - 2, "no answer of ours has so many");
    let status_line = encode::status_line(parts.status);
    let reason = str::from_utf8(&status_line["HTTP/1.1 200 ".len()..status_line.len() - 2])
        .expect("status lines are text");
    response.status_code(usize::from(parts.status), reason);
    let mut wire_bytes = framing_bytes(parts.status, reason, parts.body.len());
    let mut add = |name, value| {
        if let Some(line) = lines.get(name, value) {
            response.header(line);
            wire_bytes += "\r\n".len() + line.len();
        }
    };
    add("content-type", parts.content_type);
    for (name, value) in parts.fields.iter().take(HEADER_LINES_MAX - 2) {
        add(name, value);
    }
    if options.closes {
        add("connection", "close");
    } else if options.is_http10 {
        add("connection", "keep-alive");
    }
    if parts.body.len() <= COPIED_BODY_BYTES {
        response.body_mut().extend_from_slice(parts.body);
    } else {
        response.body_vec(parts.body.to_vec());
    }
    wire_bytes as u64
}

/// What may_minihttp 0.1.11 writes around the header lines, and the body.
fn framing_bytes(status: u16, reason: &str, body_bytes: usize) -> usize {
    let reason = if status == 200 { "Ok" } else { reason };
    "HTTP/1.1 200 ".len()
        + reason.len()
        + "\r\nServer: M\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: \r\n\r\n".len()
        + itoa::Buffer::new().format(body_bytes).len()
        + body_bytes
}

/// What a service left behind for one request.
enum MayResponseState {
    Pending,
    /// Filled into may_minihttp's response: so many bytes on the wire.
    Filled(u64),
    /// To be sent past may_minihttp, and the last of its connection: it can't leave a body out.
    Direct(u16, Vec<u8>),
    Deferred(Arc<CompletionQueue>),
}

struct MayResponseWriter<'a, 'r> {
    response: &'a mut MayResponse<'r>,
    lines: &'a mut HeaderLines,
    options: ResponseOptions,
    wall_s: i64,
    outcome: MayResponseState,
}

impl ResponseWriter for MayResponseWriter<'_, '_> {
    fn send(
        &mut self,
        status: u16,
        content_type: &'static str,
        fields: &[HeaderField],
        body: &[u8],
    ) {
        let parts = ResponseParts { status, content_type, fields, body };
        self.outcome = give(self.response, self.lines, self.options, &parts, self.wall_s);
    }

    fn defer(&mut self) -> Responder {
        let completions = Arc::new(CompletionQueue::new());
        self.outcome = MayResponseState::Deferred(completions.clone());
        // One completions for one responder: the serial says nothing here.
        Responder::new(0, completions)
    }
}

fn give(
    response: &mut MayResponse<'_>,
    lines: &mut HeaderLines,
    options: ResponseOptions,
    parts: &ResponseParts<'_>,
    wall_s: i64,
) -> MayResponseState {
    if !options.is_head {
        return MayResponseState::Filled(fill(response, lines, options, parts));
    }
    let mut out = Vec::new();
    let mut date = DateLine::default();
    date.update(wall_s);
    let options = ResponseOptions { closes: true, ..options };
    let ResponseParts { status, content_type, fields, body } = *parts;
    encode::answer(&mut out, options, &date, status, content_type, fields, body);
    MayResponseState::Direct(status, out)
}

/// Where the queue for one responder wait; its coroutine parks, not the thread.
struct CompletionQueue {
    queue: Mutex<VecDeque<Completion>>,
    blocker: Blocker,
}

impl CompletionQueue {
    /// To be called in the coroutine that will receive.
    fn new() -> Self {
        Self { queue: Mutex::default(), blocker: Blocker::new(false) }
    }

    fn receive(&self) -> Completion {
        loop {
            if let Some(completion) = self.receive_within(None) {
                return completion;
            }
        }
    }

    /// None when nothing came, or before it did: to look again is right in any case.
    fn receive_within(&self, patience: Option<Duration>) -> Option<Completion> {
        if let Some(completion) = self.queue.lock().pop_front() {
            return Some(completion);
        }
        let (Ok(()) | Err(_)) = self.blocker.park(patience);
        self.queue.lock().pop_front()
    }
}

impl CompletionSink for CompletionQueue {
    fn complete(&self, _responder_id: u64, completion: Completion) {
        self.queue.lock().push_back(completion);
        self.blocker.unpark();
    }
}

/// Sets the stream's `closed` when its connection goes, whichever way.
struct StreamCloseGuard(Arc<StreamState>);

impl Drop for StreamCloseGuard {
    fn drop(&mut self) {
        // Relaxed: a hint to stop writing; nothing is published with it.
        self.0.closed.store(true, Ordering::Relaxed);
    }
}

/// Why a request is not served, in one word and one sentence.
struct MayRequestError(RequestError, &'static str);

impl From<RequestError> for MayRequestError {
    fn from(refusal: RequestError) -> Self {
        Self(refusal, refusal.message())
    }
}

/// The service object of one connection.
pub struct MayConnection<S: Service> {
    shared: Arc<MayShared<S>>,
    guard: MonitorGuard,
    socket: BorrowedSocket,
    is_loopback: bool,
    clock: Clock,
    calls: u64,
    /// Answered bytes at the last look at whether the client takes them.
    room_checked_bytes: u64,
    head: Vec<u8>,
    body: Vec<u8>,
    unpacked: Vec<u8>,
}

impl<S: Service> HttpService for MayConnection<S> {
    fn call(&mut self, request: MayRequest, response: &mut MayResponse) -> io::Result<()> {
        self.calls += 1;
        if self.calls.is_multiple_of(CALLS_PER_TURN) {
            coroutine::yield_now();
        }
        let state = &self.guard.state;
        let is_over = state.phase() == WaitPhase::Closing
            || !state.enter(WaitPhase::Busy, self.clock.monotonic_ns())
            || !self.has_room();
        if is_over {
            self.answer_too_late(response);
        } else if let Err(MayRequestError(refusal, message)) = self.serve(request, response) {
            self.refuse(refusal, message, response);
        }
        Ok(())
    }
}

impl<S: Service> MayConnection<S> {
    /// The service of the connection registered there.
    pub fn new(shared: Arc<MayShared<S>>, guard: MonitorGuard, clock: Clock) -> Self {
        let socket = guard.state.socket;
        Self {
            shared,
            guard,
            socket,
            is_loopback: socket.is_loopback(),
            clock,
            calls: 0,
            room_checked_bytes: 0,
            head: Vec::new(),
            body: Vec::new(),
            unpacked: Vec::new(),
        }
    }

    /// A connection stays with one slot, so that its samples are handed over in its order; may wakes
    /// it on the thread of the same number, so that the slot is free as a rule.
    fn slot(shared: &MayShared<S>, socket: BorrowedSocket) -> &Mutex<ServiceSlot<S>> {
        &shared.slots[socket.number() % shared.slots.len()]
    }

    fn serve(
        &mut self,
        request: MayRequest<'_, '_, '_>,
        response: &mut MayResponse<'_>,
    ) -> Result<(), MayRequestError> {
        let shared = self.shared.clone();
        let limits = shared.monitor.limits();
        let mut head_bytes = std::mem::take(&mut self.head);
        copy_head(&request, &mut head_bytes);
        if head_bytes.len() > limits.head_bytes_max {
            return Err(RequestError::HeadTooLarge.into());
        }
        // may_minihttp has read this head; reading it again gives both engines one set of rules.
        let mut slots = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let head = head::parse(&head_bytes, &mut slots, limits.body_bytes_max)?;
        let BodyFraming::Length(length) = head.framing else {
            return Err(MayRequestError(RequestError::TransferCoding, NO_CHUNKS));
        };
        self.read_body(request, length, head.expects_continue)?;
        let mut body = &mut self.body;
        if let Some(value) = head.content_encoding {
            unpack(value, body, limits.body_bytes_max, &mut self.unpacked)
                .map_err(RequestError::from)?;
            body = &mut self.unpacked;
        }

        let now = self.clock.now();
        let options = ResponseOptions {
            is_http10: head.is_http10,
            is_head: head.method == Method::Head,
            closes: !head.keep_alive || shared.monitor.is_draining(),
        };
        let outcome = {
            let mut slot = Self::slot(&shared, self.socket).lock();
            let ServiceSlot { service, lines, calls } = &mut *slot;
            let Some(service) = service else {
                drop(slot);
                self.answer_too_late(response);
                return Ok(());
            };
            *calls += 1;
            let request = Request {
                method: head.method,
                path: head.path,
                query: head.query,
                headers: head.headers,
                body,
                is_loopback: self.is_loopback,
                now,
                is_timed: calls.is_multiple_of(TIMED_EVERY),
            };
            let wall_s = now.wall_s();
            let mut answer = MayResponseWriter {
                response,
                lines,
                options,
                wall_s,
                outcome: MayResponseState::Pending,
            };
            // A panic in here unwinds past the lock, which opens, and ends this connection without
            // an answer. The service must be sound then: what the request left in its buffers is
            // handed over with the next round, as if acknowledged.
            service.call(request, &mut answer);
            let outcome = answer.outcome;
            service.round_called(now);
            service.round_answered(self.clock.monotonic_ns() - now.monotonic_ns);
            outcome
        };
        self.head = head_bytes;
        for buffer in [&mut self.body, &mut self.unpacked] {
            if buffer.capacity() > BODY_KEPT_BYTES {
                *buffer = Vec::new();
            }
        }
        self.conclude(outcome, options, now, response);
        Ok(())
    }

    fn read_body(
        &mut self,
        request: MayRequest<'_, '_, '_>,
        length: usize,
        expects_continue: bool,
    ) -> Result<(), RequestError> {
        self.body.clear();
        if length == 0 {
            return Ok(());
        }
        let state = &self.guard.state;
        if expects_continue
            && state.is_flushed()
            && self.socket.send(CONTINUE) != SocketResult::Nothing
        {
            state.add_answered(CONTINUE.len() as u64);
        }
        self.body.reserve(length.min(BODY_KEPT_BYTES));
        // Its own length is the first Content-Length, which head::parse has found to be the only one
        // and a number.
        let mut reader = request.body();
        let mut reads = 0;
        while self.body.len() < length {
            if !state.enter(WaitPhase::Body, self.clock.monotonic_ns()) {
                return Err(RequestError::Timeout);
            }
            let part = reader.fill_buf().map_err(|_: io::Error| RequestError::Truncated)?;
            if part.is_empty() {
                let is_cut = state.phase() == WaitPhase::Cut;
                return Err(if is_cut { RequestError::Timeout } else { RequestError::Truncated });
            }
            self.body.extend_from_slice(part);
            let taken = part.len();
            reader.consume(taken);
            reads += 1;
        }
        // Reading here, past may_minihttp's own reading, uses up the event that told of the bytes
        // behind the body. Certain after two reads; after one it may have been the buffer's.
        if reads > 1 {
            self.socket.report_again();
        } else {
            state.may_hold_unread.store(true, Ordering::Relaxed);
        }
        if state.enter(WaitPhase::Busy, self.clock.monotonic_ns()) {
            Ok(())
        } else {
            Err(RequestError::Timeout)
        }
    }

    fn conclude(
        &mut self,
        outcome: MayResponseState,
        mut options: ResponseOptions,
        now: Now,
        response: &mut MayResponse<'_>,
    ) {
        match outcome {
            MayResponseState::Pending => unreachable!("a service answers or takes a responder"),
            MayResponseState::Filled(bytes) => self.settle(bytes, options.closes),
            MayResponseState::Direct(_, head) if self.guard.state.is_flushed() => {
                self.send_last(&head)
            }
            MayResponseState::Direct(status, _) => {
                // Earlier answers are still with may_minihttp, so this one must follow them there,
                // with the length of no body.
                let nothing =
                    ResponseParts { status, content_type: "text/plain", fields: &[], body: b"" };
                self.give_later(
                    &nothing,
                    ResponseOptions { is_head: false, ..options },
                    now,
                    response,
                );
            }
            MayResponseState::Deferred(completions) => match completions.receive() {
                Completion::Response(answer) => {
                    options.closes |= self.shared.monitor.is_draining();
                    let parts = ResponseParts {
                        status: answer.status,
                        content_type: answer.content_type,
                        fields: &answer.fields,
                        body: &answer.body,
                    };
                    self.give_later(&parts, options, now, response);
                }
                begin @ Completion::StreamStart(..) if !self.guard.state.is_flushed() => {
                    reject(begin);
                    let body = br#"{"error":{"code":"stream_behind_answers","message":"this engine streams no answer while earlier ones are unsent"}}"#;
                    let parts = ResponseParts {
                        status: 503,
                        content_type: "application/json",
                        fields: &[],
                        body,
                    };
                    self.give_later(&parts, options, now, response);
                }
                Completion::StreamStart(answer, state) => {
                    options.closes = true;
                    let mut date = DateLine::default();
                    date.update(now.wall_s());
                    let mut out = Vec::new();
                    let (kind, fields) = (answer.content_type, &answer.fields);
                    encode::head(
                        &mut out,
                        options,
                        &date,
                        answer.status,
                        kind,
                        fields,
                        BodyLength::Streamed,
                    );
                    encode::part(&mut out, options, &answer.body);
                    self.stream(&completions, state, options, out, answer.body.len());
                }
                Completion::StreamPart(_) | Completion::StreamEnd => {
                    unreachable!("a stream begins with Begin")
                }
            },
        }
    }

    /// Answers what had to wait, as if the service had done so at once.
    fn give_later(
        &mut self,
        parts: &ResponseParts<'_>,
        options: ResponseOptions,
        now: Now,
        response: &mut MayResponse<'_>,
    ) {
        let shared = self.shared.clone();
        let outcome = {
            let lines = &mut Self::slot(&shared, self.socket).lock().lines;
            give(response, lines, options, parts, now.wall_s())
        };
        match outcome {
            MayResponseState::Filled(bytes) => self.settle(bytes, options.closes),
            outcome => self.conclude(outcome, options, now, response),
        }
    }

    /// The response is filled: the connection waits for the next request, or closes behind it.
    fn settle(&mut self, bytes: u64, closes: bool) {
        let state = &self.guard.state;
        state.add_answered(bytes);
        let next = if closes { WaitPhase::Closing } else { WaitPhase::Waiting };
        // False: cut meanwhile, and nothing is left to say.
        let is_open = state.enter(next, self.clock.monotonic_ns());
        // may_minihttp closes when it reads the end; what it has not written by then is lost. So
        // where the answer may be larger than the send buffer, the monitor shuts when it has left.
        if is_open && closes && state.answered() <= SENT_AT_ONCE_BYTES {
            self.socket.shut(Shutdown::Read);
        }
    }

    fn refuse(&mut self, refusal: RequestError, message: &str, response: &mut MayResponse<'_>) {
        self.shared.monitor.count(refusal);
        if self.guard.state.is_flushed() {
            let now = self.clock.now();
            return self.send_last(&refusal_answer(refusal, message, now.wall_s()));
        }
        let options = ResponseOptions { is_http10: false, is_head: false, closes: true };
        let body = refusal_body(refusal, message);
        let parts = ResponseParts {
            status: refusal.status(),
            content_type: "application/json",
            fields: &[],
            body: body.as_bytes(),
        };
        let now = self.clock.now();
        self.give_later(&parts, options, now, response);
    }

    /// The request came behind one after which the connection was to close: it is not served, but
    /// may_minihttp writes something in any case.
    fn answer_too_late(&mut self, response: &mut MayResponse<'_>) {
        response.status_code(503, "Service Unavailable").header("connection: close");
        let bytes = framing_bytes(503, "Service Unavailable", 0) + "\r\nconnection: close".len();
        self.guard.state.add_answered(bytes as u64);
    }

    /// Sends an answer past may_minihttp and ends the conversation: what may_minihttp adds after
    /// this call finds the socket shut.
    fn send_last(&mut self, bytes: &[u8]) {
        // False: cut meanwhile; the client may still be told why.
        let (true | false) = self.guard.state.enter(WaitPhase::Closing, self.clock.monotonic_ns());
        if self.send_all(bytes) {
            self.hang_up();
        }
    }

    fn stream(
        &mut self,
        completions: &CompletionQueue,
        state: Arc<StreamState>,
        options: ResponseOptions,
        mut out: Vec<u8>,
        mut queued_bytes: usize,
    ) {
        let state = StreamCloseGuard(state);
        let mut has_ended = false;
        while self.guard.state.enter(WaitPhase::Stream, self.clock.monotonic_ns())
            && self.send_all(&out)
        {
            // Relaxed: a level; the parts themselves come through the completions.
            state.0.queued_bytes.fetch_sub(queued_bytes, Ordering::Relaxed);
            if has_ended {
                return self.hang_up();
            }
            out.clear();
            queued_bytes = 0;
            let Some(completion) = self.next_part(completions) else { break };
            match completion {
                Completion::StreamPart(part) => {
                    encode::part(&mut out, options, &part);
                    queued_bytes = part.len();
                }
                Completion::StreamEnd => {
                    encode::end(&mut out, options);
                    has_ended = true;
                }
                Completion::Response(_) | Completion::StreamStart(..) => {
                    unreachable!("a stream begins once")
                }
            }
        }
        self.socket.shut(Shutdown::Both);
    }

    /// The next part of a stream; None when the client has gone meanwhile. What it sends behind its request
    /// is dropped: a stream is the last answer of its connection.
    fn next_part(&self, completions: &CompletionQueue) -> Option<Completion> {
        loop {
            if let Some(completion) = completions.receive_within(Some(STREAM_LOOK)) {
                return Some(completion);
            }
            if self.socket.discard() == SocketResult::End {
                return None;
            }
        }
    }

    /// Sends everything, waiting for the client to take it; false when it does not.
    fn send_all(&self, mut bytes: &[u8]) -> bool {
        let mut progress_ms = self.clock.monotonic_ns() / 1_000_000;
        while !bytes.is_empty() {
            let now_ms = self.clock.monotonic_ns() / 1_000_000;
            match self.socket.send(bytes) {
                SocketResult::Bytes(length) => {
                    bytes = &bytes[length..];
                    progress_ms = now_ms;
                }
                SocketResult::Nothing if now_ms - progress_ms < WRITE_STALL_MS => pause(PAUSE),
                SocketResult::Nothing | SocketResult::End => {
                    self.socket.shut(Shutdown::Both);
                    return false;
                }
            }
        }
        true
    }

    /// Closes behind the last answer: what the client is still sending is read and dropped, so that
    /// no reset overtakes the answer.
    fn hang_up(&self) {
        self.socket.shut(Shutdown::Write);
        let since_ns = self.clock.monotonic_ns();
        while self.clock.monotonic_ns() - since_ns < LINGER_MS * 1_000_000 {
            match self.socket.discard() {
                SocketResult::Bytes(_) => coroutine::yield_now(),
                SocketResult::Nothing => pause(PAUSE),
                SocketResult::End => break,
            }
        }
        self.socket.shut(Shutdown::Both);
    }

    /// False when the client asks for more and more and takes nothing.
    ///
    /// may_minihttp keeps what the kernel does not take, without a bound. So now and then a call
    /// waits here until the kernel takes bytes again.
    fn has_room(&mut self) -> bool {
        let state = &self.guard.state;
        if state.answered() - self.room_checked_bytes < ROOM_CHECK_BYTES {
            return true;
        }
        self.room_checked_bytes = state.answered();
        let since_ns = self.clock.monotonic_ns();
        while !self.socket.is_writable() {
            if self.clock.monotonic_ns() - since_ns >= WRITE_STALL_MS * 1_000_000 {
                self.socket.shut(Shutdown::Both);
                return false;
            }
            pause(PAUSE);
        }
        let pending = self.socket.written().map_or(0, |written| state.answered() - written);
        if pending > PENDING_BYTES_MAX {
            self.socket.shut(Shutdown::Both);
            return false;
        }
        true
    }
}

/// The head as the client may have sent it.
fn copy_head(request: &MayRequest<'_, '_, '_>, into: &mut Vec<u8>) {
    into.clear();
    for piece in [request.method(), " ", request.path(), " HTTP/1."] {
        into.extend_from_slice(piece.as_bytes());
    }
    into.extend_from_slice(if request.version() == 0 { b"0\r\n" } else { b"1\r\n" });
    for header in request.headers() {
        into.extend_from_slice(header.name.as_bytes());
        into.extend_from_slice(b": ");
        into.extend_from_slice(header.value);
        into.extend_from_slice(b"\r\n");
    }
    into.extend_from_slice(b"\r\n");
}
