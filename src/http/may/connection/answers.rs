//! Writes the responses of one connection: those of may_minihttp, refusals, and streams past it.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use may::coroutine;
use may_minihttp::Response as MayResponse;

use super::{MayConnection, pause};
use crate::http::encode::{self, BodyLength, DateLine, ResponseOptions};
use crate::http::head::RequestError;
use crate::http::may::completions::{CompletionQueue, StreamCloseGuard};
use crate::http::may::monitor::{LINGER_MS, refusal};
use crate::http::may::response::{
    MayResponseState, ResponseParts, framing_bytes, write as write_response,
};
use crate::http::may::socket::SocketResult;
use crate::http::may::state::WaitPhase;
use crate::http::message::{Completion, Method, Response, Service, StreamState};
use crate::http::request_line;
use sigmad_clock::Now;

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
const NO_STREAM: &[u8] = br#"{"error":{"code":"stream_behind_answers","message":"this engine streams no answer while earlier ones are unsent"}}"#;

impl<S: Service> MayConnection<S> {
    pub(super) fn conclude(
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

    pub(super) fn await_completion(
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

    pub(super) fn refuse(
        &mut self,
        error: RequestError,
        message: &str,
        response: &mut MayResponse<'_>,
    ) {
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
    pub(super) fn answer_too_late(&mut self, response: &mut MayResponse<'_>) {
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
    pub(super) fn has_room(&mut self) -> bool {
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
