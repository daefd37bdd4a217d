//! One connection of may_minihttp: its `HttpService`, which calls the service of sigmad.
//!
//! may_minihttp reads heads, splits pipelined requests and writes responses. A call corrects its
//! errors as far as the public API allows; [`super::KNOWN_LIMITS`] lists the rest.

mod answers;

use std::io::{self, BufRead};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use may::coroutine;
use may_minihttp::{HttpService, Request as MayRequest, Response as MayResponse};

use super::monitor::MonitorGuard;
use super::response::{MayResponseState, MayResponseWriter};
use super::slot::{MayShared, ServiceSlot};
use super::socket::{BorrowedSocket, SocketResult};
use super::state::WaitPhase;
use crate::http::client_address::ClientAddress;
use crate::http::coding::{BodyDecoder, ContentCoding};
use crate::http::encode::{self, ResponseOptions};
use crate::http::head::{self, BodyFraming, EMPTY_SLOTS, Head, RequestError};
use crate::http::message::Service;
use crate::http::stages::{StageTimer, StageTimes, TIMED_EVERY};
use sigmad_clock::{Clock, Now};

/// Requests of one connection served before other connections have their turn.
const CALLS_PER_TURN: u64 = 64;
/// A body's buffer begins no larger, whatever the client announces; a larger one is freed.
const BODY_KEPT_BYTES: usize = 64 * 1024;
/// Bytes that decoding a body reads and writes before other connections have their turn.
const DECODED_PER_TURN_BYTES: usize = 512 * 1024;

const NO_CHUNKS: &str = "this engine takes no Transfer-Encoding: send Content-Length";

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
