//! One connection of may_minihttp: its `HttpService`, which calls the service of sigmad.
//!
//! may_minihttp reads heads, splits pipelined requests and writes responses. A call corrects its
//! errors as far as the public API allows; [`super::KNOWN_LIMITS`] lists the rest.

use std::io::{self, BufRead};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use may::coroutine;
use may_minihttp::{HttpService, Request as MayRequest, Response as MayResponse};

use super::completions::{CompletionQueue, StreamCloseGuard};
use super::monitor::{LINGER_MS, MonitorGuard, refusal};
use super::response::{
    MayResponseState, MayResponseWriter, ResponseParts, framing_bytes, write as write_response,
};
use super::slot::{MayShared, ServiceSlot};
use super::socket::{BorrowedSocket, SocketResult};
use super::state::WaitPhase;
use crate::http::client_address::ClientAddress;
use crate::http::coding::{BodyDecoder, ContentCoding};
use crate::http::encode::{self, BodyLength, DateLine, ResponseOptions};
use crate::http::head::{self, BodyFraming, EMPTY_SLOTS, Head, RequestError};
use crate::http::message::{Completion, Method, Response, Service, StreamState};
use crate::http::request_line;
use crate::http::stages::{StageTimer, StageTimes, TIMED_EVERY};
use sigmad_clock::{Clock, Now};

/// Requests of one connection served before other connections have their turn.
const CALLS_PER_TURN: u64 = 64;
/// A body's buffer begins no larger, whatever the client announces; a larger one is freed.
const BODY_KEPT_BYTES: usize = 64 * 1024;
/// Bytes that decoding a body reads and writes before other connections have their turn.
const DECODED_PER_TURN_BYTES: usize = 512 * 1024;
/// Any send buffer takes this many bytes, so the connection may be shut right after them.
const SENT_AT_ONCE_BYTES: u64 = 16 * 1024;
/// Response bytes between two checks that the client takes them.
const ROOM_CHECK_BYTES: u64 = 64 * 1024;
/// Response bytes that the kernel has not taken yet; past it the connection is cut.
const PENDING_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The client does not take a response: long enough for any network, but not unlimited.
const WRITE_STALL_MS: u64 = 30_000;
/// Between two looks at a socket whose readiness is not reported.
const PAUSE: Duration = Duration::from_millis(5);
/// Between two checks that the client of a silent stream is still there.
const STREAM_CHECK: Duration = Duration::from_millis(50);

const NO_CHUNKS: &str = "this engine takes no Transfer-Encoding: send Content-Length";
const NO_STREAM: &[u8] = br#"{"error":{"code":"stream_behind_answers","message":"this engine streams no answer while earlier ones are unsent"}}"#;

/// Sleeps without blocking the thread.
pub(super) fn pause(duration: Duration) {
    coroutine::sleep(duration);
    // may resumes a sleeper on its timer thread; the next yield moves it back to a worker.
    coroutine::yield_now();
}

/// Why a request is not served: the error and the message of its response.
struct MayRequestError(RequestError, &'static str);

impl From<RequestError> for MayRequestError {
    fn from(error: RequestError) -> Self {
        Self(error, error.message())
    }
}

/// The service object of one connection.
pub(super) struct MayConnection<S: Service> {
    shared: Arc<MayShared<S>>,
    guard: MonitorGuard,
    socket: BorrowedSocket,
    client: ClientAddress,
    clock: Clock,
    calls: u64,
    /// Response bytes at the last check that the client takes them.
    room_checked_bytes: u64,
    head: Vec<u8>,
    body: Vec<u8>,
    decoded: Vec<u8>,
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
        } else if let Err(MayRequestError(error, message)) = self.serve(request, response) {
            self.refuse(error, message, response);
        }
        Ok(())
    }
}

impl<S: Service> MayConnection<S> {
    /// The service of a connection that the monitor has admitted.
    pub fn new(shared: Arc<MayShared<S>>, guard: MonitorGuard, clock: Clock) -> Self {
        let socket = guard.state.socket;
        Self {
            shared,
            guard,
            socket,
            client: socket.client(),
            clock,
            calls: 0,
            room_checked_bytes: 0,
            head: Vec::new(),
            body: Vec::new(),
            decoded: Vec::new(),
        }
    }

    fn serve(
        &mut self,
        request: MayRequest<'_, '_, '_>,
        response: &mut MayResponse<'_>,
    ) -> Result<(), MayRequestError> {
        copy_head(&request, &mut self.head);
        let head_bytes = std::mem::take(&mut self.head);
        let served = self.serve_head(&head_bytes, request, response);
        self.head = head_bytes;
        served
    }

    fn serve_head(
        &mut self,
        head_bytes: &[u8],
        request: MayRequest<'_, '_, '_>,
        response: &mut MayResponse<'_>,
    ) -> Result<(), MayRequestError> {
        let shared = self.shared.clone();
        let limits = shared.monitor.limits();
        if head_bytes.len() > limits.head_bytes_max {
            return Err(RequestError::HeadTooLarge.into());
        }
        // may_minihttp has parsed this head; parsing it again gives both engines the same rules.
        let mut slots = EMPTY_SLOTS;
        let head = head::parse(head_bytes, &mut slots, limits.body_bytes_max)?;
        let BodyFraming::Length(length) = head.framing else {
            return Err(MayRequestError(RequestError::TransferCoding, NO_CHUNKS));
        };
        let now = self.clock.now();
        if length > 0
            && let Some((state, options)) = self.refusal_by_head(&head, now, response)
        {
            // may_minihttp would take the body for the next request.
            if !head.expects_continue {
                self.read_body(request, length, false, false)?;
            }
            self.conclude(state, options, now, response);
            return Ok(());
        }
        self.read_body(request, length, head.expects_continue, true)?;
        let now = self.clock.now();
        let closes = !head.keep_alive || shared.monitor.is_draining();
        let options = ResponseOptions::new(&head, closes, limits);
        let state = self.call_service(&head, now, options, response)?;
        for buffer in [&mut self.body, &mut self.decoded] {
            if buffer.capacity() > BODY_KEPT_BYTES {
                *buffer = Vec::new();
            }
        }
        match state {
            Some(state) => self.conclude(state, options, now, response),
            None => self.answer_too_late(response),
        }
        Ok(())
    }

    /// One request is a round. None when the engine has stopped.
    fn call_service(
        &mut self,
        head: &Head<'_, '_>,
        now: Now,
        options: ResponseOptions,
        response: &mut MayResponse<'_>,
    ) -> Result<Option<MayResponseState>, RequestError> {
        let coding = head.content_encoding.map(ContentCoding::parse).transpose()?.flatten();
        let body = match coding {
            None => &mut self.body,
            Some(coding) => {
                self.decode_body(coding)?;
                &mut self.decoded
            }
        };
        let mut slot = self.shared.slot(self.socket).lock();
        let ServiceSlot { service, lines, calls } = &mut *slot;
        let Some(service) = service else { return Ok(None) };
        *calls += 1;
        let is_timed = calls.is_multiple_of(TIMED_EVERY);
        let mut times = is_timed.then(|| StageTimes::new(now.monotonic_ns));
        let request = head.request(body, self.client, now, StageTimer(times.as_mut()));
        let wall_s = now.wall_s();
        let state = MayResponseState::Pending;
        let mut writer = MayResponseWriter { response, lines, options, wall_s, state };
        // A panic in here unwinds past the lock, which opens, and ends this connection without a
        // response. The service must stay sound: samples that the request left in its buffers
        // leave with the next round, as if acknowledged.
        service.call(request, &mut writer);
        let state = writer.state;
        service.round_called(now, StageTimer(times.as_mut()));
        service.round_answered(self.clock.monotonic_ns() - now.monotonic_ns);
        drop(slot);
        if let Some(times) = times {
            self.shared.monitor.record(&times);
        }
        Ok(Some(state))
    }

    /// Decodes the body in pieces, between which other connections have their turn.
    fn decode_body(&mut self, coding: ContentCoding) -> Result<(), RequestError> {
        let mut decoder = BodyDecoder::new(coding, self.shared.monitor.limits().body_bytes_max)?;
        self.decoded.clear();
        while !decoder.advance(&self.body, &mut self.decoded, &mut { DECODED_PER_TURN_BYTES })? {
            coroutine::yield_now();
        }
        Ok(())
    }

    /// The response of a service that does not want the body behind this head.
    fn refusal_by_head(
        &mut self,
        head: &Head<'_, '_>,
        now: Now,
        response: &mut MayResponse<'_>,
    ) -> Option<(MayResponseState, ResponseOptions)> {
        // Its client may send the body nevertheless, or not.
        let closes = !head.keep_alive || head.expects_continue || self.shared.monitor.is_draining();
        let options = ResponseOptions::new(head, closes, self.shared.monitor.limits());
        let mut slot = self.shared.slot(self.socket).lock();
        let ServiceSlot { service, lines, .. } = &mut *slot;
        let service = service.as_mut()?;
        let request = head.request(&mut [], self.client, now, StageTimer::default());
        let (wall_s, state) = (now.wall_s(), MayResponseState::Pending);
        let mut writer = MayResponseWriter { response, lines, options, wall_s, state };
        if !service.refuse_by_head(request, &mut writer) {
            return None;
        }
        let state = writer.state;
        service.round_called(now, StageTimer::default());
        service.round_answered(self.clock.monotonic_ns() - now.monotonic_ns);
        Some((state, options))
    }

    fn read_body(
        &mut self,
        request: MayRequest<'_, '_, '_>,
        length: usize,
        expects_continue: bool,
        is_kept: bool,
    ) -> Result<(), RequestError> {
        self.body.clear();
        if length == 0 {
            return Ok(());
        }
        let state = &self.guard.state;
        if expects_continue
            && state.is_flushed()
            && self.socket.send(encode::CONTINUE) != SocketResult::Nothing
        {
            state.add_answered(encode::CONTINUE.len() as u64);
        }
        if is_kept {
            self.body.reserve(length.min(BODY_KEPT_BYTES));
        }
        // may_minihttp uses the first Content-Length, which head::parse has checked to be the only
        // one and a number.
        let mut reader = request.body();
        let (mut reads, mut received) = (0, 0);
        while received < length {
            if !state.enter(WaitPhase::Body, self.clock.monotonic_ns()) {
                return Err(RequestError::Timeout);
            }
            let part = reader.fill_buf().map_err(|_: io::Error| RequestError::TruncatedBody)?;
            if part.is_empty() {
                let is_cut = state.phase() == WaitPhase::Cut;
                return Err(if is_cut {
                    RequestError::Timeout
                } else {
                    RequestError::TruncatedBody
                });
            }
            if is_kept {
                self.body.extend_from_slice(part);
            }
            let taken = part.len();
            received += taken;
            reader.consume(taken);
            reads += 1;
        }
        // A read here consumes the event that reported the bytes behind the body. The first part may
        // come from may_minihttp's buffer, so only a second one is certainly a read.
        if reads > 1 {
            self.socket.report_again();
        } else {
            state.may_hold_unread.store(true, Ordering::Relaxed);
        }
        let is_open = state.enter(WaitPhase::Busy, self.clock.monotonic_ns());
        is_open.then_some(()).ok_or(RequestError::Timeout)
    }

    fn conclude(
        &mut self,
        state: MayResponseState,
        options: ResponseOptions,
        now: Now,
        response: &mut MayResponse<'_>,
    ) {
        match state {
            MayResponseState::Pending => unreachable!("a service responds or takes a responder"),
            MayResponseState::Filled(bytes) => self.settle(bytes, options.closes),
            MayResponseState::Direct(_, bytes) if self.guard.state.is_flushed() => {
                self.send_last(&bytes);
            }
            MayResponseState::Direct(status, _) => {
                // may_minihttp still holds earlier responses, so this one must follow them there,
                // with an empty body.
                let empty =
                    ResponseParts { status, content_type: "text/plain", fields: &[], body: b"" };
                let options = ResponseOptions { is_head: false, ..options };
                self.respond(&empty, options, now, response);
            }
            MayResponseState::Deferred(completions) => {
                self.await_completion(&completions, options, now, response);
            }
        }
    }

    fn await_completion(
        &mut self,
        completions: &CompletionQueue,
        mut options: ResponseOptions,
        now: Now,
        response: &mut MayResponse<'_>,
    ) {
        match completions.receive() {
            Completion::Response(Response { status, content_type, fields, body }) => {
                options.closes |= self.shared.monitor.is_draining();
                let parts = ResponseParts { status, content_type, fields: &fields, body: &body };
                self.respond(&parts, options, now, response);
            }
            start @ Completion::StreamStart(..) if !self.guard.state.is_flushed() => {
                start.reject();
                let content_type = "application/json";
                let parts =
                    ResponseParts { status: 503, content_type, fields: &[], body: NO_STREAM };
                self.respond(&parts, options, now, response);
            }
            Completion::StreamStart(head, state) => {
                options.closes = true;
                let mut date = DateLine::default();
                date.update(now.wall_s());
                let mut out = Vec::new();
                let (status, kind) = (head.status, head.content_type);
                let length = BodyLength::Streamed;
                encode::head(&mut out, options, &date, status, kind, &head.fields, length);
                encode::part(&mut out, options, &head.body);
                self.stream(completions, state, options, out, head.body.len());
            }
            Completion::StreamPart(_) | Completion::StreamEnd => {
                unreachable!("a stream begins with its head")
            }
        }
    }

    /// Sends a response that the service did not give at once.
    fn respond(
        &mut self,
        parts: &ResponseParts<'_>,
        options: ResponseOptions,
        now: Now,
        response: &mut MayResponse<'_>,
    ) {
        let state = {
            let lines = &mut self.shared.slot(self.socket).lock().lines;
            write_response(response, lines, options, parts, now.wall_s())
        };
        self.conclude(state, options, now, response);
    }

    /// may_minihttp's response is filled in: the connection waits for the next request, or closes.
    fn settle(&mut self, bytes: u64, closes: bool) {
        let state = &self.guard.state;
        state.add_answered(bytes);
        let next = if closes { WaitPhase::Closing } else { WaitPhase::Waiting };
        // False: the monitor has cut the connection, so nothing is left to do.
        let is_open = state.enter(next, self.clock.monotonic_ns());
        // may_minihttp closes when it reads the end, and drops what it has not written by then. Where
        // the response may exceed the send buffer, the monitor shuts the socket once it has left.
        if is_open && closes && state.answered() <= SENT_AT_ONCE_BYTES {
            self.socket.shut(Shutdown::Read);
        }
    }

    fn refuse(&mut self, error: RequestError, message: &str, response: &mut MayResponse<'_>) {
        self.shared.monitor.count(error);
        error.log(self.client);
        let line = request_line::parse(&self.head).ok().flatten();
        let (method, path) = line.map_or((Method::Other, ""), |line| (line.method, line.path));
        if let Some(service) = &mut self.shared.slot(self.socket).lock().service {
            service.refused(method, path, error.status());
        }
        let now = self.clock.now();
        let options = ResponseOptions::refusing(&self.head, self.shared.monitor.limits());
        if self.guard.state.is_flushed() {
            return self.send_last(&refusal(error, message, now.wall_s(), options));
        }
        let options = ResponseOptions { is_head: false, ..options };
        let body = encode::refusal_body(error, message);
        let (status, content_type) = (error.status(), "application/json");
        let parts = ResponseParts { status, content_type, fields: &[], body: body.as_bytes() };
        self.respond(&parts, options, now, response);
    }

    /// The request follows one after which the connection was to close: it is not served, but
    /// may_minihttp writes a response in any case.
    fn answer_too_late(&mut self, response: &mut MayResponse<'_>) {
        response.status_code(503, "Service Unavailable").header("connection: close");
        let bytes = framing_bytes(503, "Service Unavailable", 0) + "\r\nconnection: close".len();
        self.guard.state.add_answered(bytes as u64);
    }

    /// Sends the last response past may_minihttp, which then finds the socket shut.
    fn send_last(&mut self, bytes: &[u8]) {
        // False: the monitor has cut the connection; the client may still learn the reason.
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
            // Relaxed: a level; the parts themselves come through the queue.
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

    /// The next part of a stream; None when the client has gone. Bytes that follow its request are
    /// dropped: a stream is the last response of its connection.
    fn next_part(&self, completions: &CompletionQueue) -> Option<Completion> {
        loop {
            if let Some(completion) = completions.receive_within(Some(STREAM_CHECK)) {
                return Some(completion);
            }
            if self.socket.discard() == SocketResult::End {
                return None;
            }
        }
    }

    /// Sends all bytes, at the client's pace; false when it takes none for too long.
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

    /// Closes after the last response. Bytes that still arrive are read and dropped, so that no reset
    /// overtakes the response.
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

    /// False when the client keeps sending requests and does not take the responses.
    ///
    /// may_minihttp queues what the kernel does not take, without a bound. Every
    /// [`ROOM_CHECK_BYTES`] a call waits here until the kernel takes bytes again.
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

/// Writes the head that may_minihttp has parsed, in an equivalent form.
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
