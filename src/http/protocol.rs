//! The protocol state of one connection, without its socket: bytes in, calls of the service, bytes out.
//!
//! Bytes that make no whole request yet are kept here; everything else is read where it lies. An
//! idle connection holds no buffer. Requests are served strictly one after the other: while an
//! answer is outstanding, what follows it waits.

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Limits;
use super::chunked::ChunkedDecoder;
use super::coding::unpack;
use super::counters::HttpCounters;
use super::encode::{self, DateLine, ResponseOptions};
use super::head::{self, BodyFraming, HEADERS_MAX, Head, HeadSearch, RequestError};
use super::head_cache::{self, HeadCache};
use super::message::{
    Completion, CompletionSink, HeaderField, Method, Request, Responder, ResponseWriter, Service,
    StreamState,
};
use sigmad_clock::{Clock, Now};

/// Requests of one connection served in one round, so that a flood leaves its neighbours their turn.
const CALLS_PER_ROUND_MAX: usize = 64;
/// A larger unpacking buffer is returned after the request that needed it.
const UNPACKED_KEPT_BYTES: usize = 1024 * 1024;
/// A larger input buffer is returned to the allocator, not to the spare ones.
const INPUT_KEPT_BYTES: usize = 256 * 1024;
/// Input buffers kept for the next request that arrives in pieces.
const SPARE_INPUTS_MAX: usize = 16;
const JSON: &str = "application/json";
/// Low bits of a responder's responder_id: the connection's key.
pub const KEY_BITS: u32 = 24;

/// What all connections of a worker use in turn.
pub struct Round<'a, S> {
    /// Who answers.
    pub service: &'a mut S,
    /// Takes the answers.
    pub out: &'a mut Vec<u8>,
    /// Kept from round to round.
    pub buffers: &'a mut Buffers,
    /// The present second.
    pub date: &'a DateLine,
    /// What may be sent to us.
    pub limits: &'a Limits,
    /// Takes the refusals.
    pub counters: &'a HttpCounters,
    /// Where responders are answered.
    pub sink: &'a Arc<dyn CompletionSink>,
    /// For stages that are timed.
    pub clock: &'a Clock,
    /// When the round began.
    pub now: Now,
    /// Every answer closes its connection.
    pub is_draining: bool,
    /// Requests called in this round, over all connections.
    pub calls: usize,
    /// Set when the stages of the next request are timed.
    pub timed: Option<Timed>,
}

/// The read that brought a request whose stages are timed.
#[derive(Clone, Copy, Debug)]
pub struct Timed {
    /// When the call began.
    pub read_since_ns: u64,
    /// When it had returned.
    pub read_ns: u64,
    /// When the request was whole, and about to be called.
    pub parsed_ns: Option<u64>,
}

/// Buffers that outlive the connection that filled them.
#[derive(Debug, Default)]
pub struct Buffers {
    unpacked: Vec<u8>,
    spare_inputs: Vec<Vec<u8>>,
    deferred_total: u64,
    head_cache: HeadCache,
}

impl Buffers {
    fn give_back(&mut self, mut input: Vec<u8>) {
        if input.capacity() <= INPUT_KEPT_BYTES && self.spare_inputs.len() < SPARE_INPUTS_MAX {
            input.clear();
            self.spare_inputs.push(input);
        }
    }
}

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionPhase {
    /// The first byte of a request.
    Idle,
    /// The rest of a head.
    Head,
    /// The rest of a body.
    Body,
    /// An answer promised by responder.
    Response,
    /// Nothing: it closes once its output has left.
    Closing,
}

/// A request whose chunked body is arriving.
#[derive(Debug)]
struct ChunkedRequest {
    head: Vec<u8>,
    chunked: ChunkedDecoder,
    body: Vec<u8>,
}

/// The protocol state of one connection.
#[derive(Debug)]
pub struct Protocol {
    key: usize,
    is_loopback: bool,
    phase: ConnectionPhase,
    /// True when the last answer was a refusal: more may be on its way that nobody will read.
    lingers: bool,
    /// True when whole requests may be waiting in `input`.
    has_backlog: bool,
    continue_sent: bool,
    input: Vec<u8>,
    /// Bytes of `input` that have been served.
    served: usize,
    /// No use looking at the input before so many bytes are there.
    wanted: usize,
    search: HeadSearch,
    chunked: Option<Box<ChunkedRequest>>,
    responder_id: u64,
    options: ResponseOptions,
    stream: Option<Arc<StreamState>>,
    /// Bytes of the stream's parts in the connection's output.
    stream_bytes: usize,
}

impl Protocol {
    /// The state of a fresh connection, known to its worker by `key`.
    pub fn new(key: usize, is_loopback: bool) -> Self {
        debug_assert!(key < 1 << KEY_BITS);
        Self {
            key,
            is_loopback,
            phase: ConnectionPhase::Idle,
            lingers: false,
            has_backlog: false,
            continue_sent: false,
            input: Vec::new(),
            served: 0,
            wanted: 0,
            search: HeadSearch::default(),
            chunked: None,
            responder_id: u64::MAX,
            options: ResponseOptions { is_http10: false, is_head: false, closes: false },
            stream: None,
            stream_bytes: 0,
        }
    }

    /// What it is waiting for.
    pub fn phase(&self) -> ConnectionPhase {
        self.phase
    }

    /// True when the client may still be sending what nobody will read.
    pub fn lingers(&self) -> bool {
        self.lingers
    }

    /// True when whole requests may be waiting to be served.
    pub fn has_backlog(&self) -> bool {
        self.has_backlog
            && !matches!(self.phase, ConnectionPhase::Response | ConnectionPhase::Closing)
    }

    /// The streamed answer that is under way.
    pub fn stream(&self) -> Option<&Arc<StreamState>> {
        self.stream.as_ref()
    }

    /// Takes bytes from the client; serves what is whole.
    pub fn receive<S: Service>(&mut self, data: &mut [u8], round: &mut Round<'_, S>) {
        if !self.input.is_empty() {
            self.input.extend_from_slice(data);
            return self.resume(round);
        }
        let served = self.serve(data, round);
        if served < data.len() && self.phase != ConnectionPhase::Closing {
            self.input = round.buffers.spare_inputs.pop().unwrap_or_default();
            self.input.extend_from_slice(&data[served..]);
        }
    }

    /// Serves what had to wait.
    pub fn resume<S: Service>(&mut self, round: &mut Round<'_, S>) {
        let mut input = std::mem::take(&mut self.input);
        self.served += self.serve(&mut input[self.served..], round);
        if self.served == input.len() || self.phase == ConnectionPhase::Closing {
            self.served = 0;
            round.buffers.give_back(input);
            return;
        }
        // Moving the rest down costs a copy: only when that is the smaller part.
        if self.served > input.len() / 2 {
            input.drain(..self.served);
            self.served = 0;
        }
        self.input = input;
    }

    /// The client sends no more: what is whole has been served.
    pub fn finish<S: Service>(&mut self, round: &mut Round<'_, S>) {
        match self.phase {
            ConnectionPhase::Idle => self.phase = ConnectionPhase::Closing,
            ConnectionPhase::Head | ConnectionPhase::Body => {
                self.refuse(RequestError::Truncated, round.out, round.date, round.counters)
            }
            ConnectionPhase::Response | ConnectionPhase::Closing => {}
        }
    }

    /// Answers with the refusal and ends the conversation.
    pub fn refuse(
        &mut self,
        refusal: RequestError,
        out: &mut Vec<u8>,
        date: &DateLine,
        counters: &HttpCounters,
    ) {
        counters.refusals[refusal as usize].add(1);
        let (code, message) = (refusal.code(), refusal.message());
        let body = format!(r#"{{"error":{{"code":"{code}","message":"{message}"}}}}"#);
        let options = ResponseOptions { is_http10: false, is_head: false, closes: true };
        encode::answer(out, options, date, refusal.status(), JSON, &[], body.as_bytes());
        self.phase = ConnectionPhase::Closing;
        self.lingers = true;
    }

    /// Serves whole requests from the front of `data`; returns how many bytes are done with.
    fn serve<S: Service>(&mut self, data: &mut [u8], round: &mut Round<'_, S>) -> usize {
        self.has_backlog = false;
        let mut position = 0;
        let mut calls = 0;
        loop {
            if matches!(self.phase, ConnectionPhase::Response | ConnectionPhase::Closing)
                || calls == CALLS_PER_ROUND_MAX
            {
                self.has_backlog = position < data.len();
                return position;
            }
            match self.serve_one(&mut data[position..], round) {
                Ok(ServeStep::Served(length)) => {
                    position += length;
                    calls += 1;
                }
                Ok(ServeStep::Skipped(length)) => position += length,
                Ok(ServeStep::Incomplete) => return position,
                Err(refusal) => {
                    self.refuse(refusal, round.out, round.date, round.counters);
                    return data.len();
                }
            }
        }
    }

    fn serve_one<S: Service>(
        &mut self,
        data: &mut [u8],
        round: &mut Round<'_, S>,
    ) -> Result<ServeStep, RequestError> {
        if self.chunked.is_some() {
            return self.serve_chunked(data, round);
        }
        if data.is_empty() {
            self.phase = ConnectionPhase::Idle;
            return Ok(ServeStep::Incomplete);
        }
        if data.len() < self.wanted {
            return Ok(ServeStep::Incomplete);
        }
        self.wanted = 0;
        if data.starts_with(b"\r\n") {
            // RFC 9112 section 2.2: empty lines before a request line are ignored.
            self.search = HeadSearch::default();
            return Ok(ServeStep::Skipped(2));
        }
        let cached_length = round.buffers.head_cache.find(data);
        let found = match cached_length {
            Some(length) => Some(length),
            None => head::find_end(data, &mut self.search, round.limits.head_bytes_max)?,
        };
        let Some(head_length) = found else {
            if data != b"\r" {
                head::check_partial(data)?;
            }
            self.phase = ConnectionPhase::Head;
            return Ok(ServeStep::Incomplete);
        };
        self.search = HeadSearch::default();
        let (head_bytes, rest) = data.split_at_mut(head_length);
        let mut fields: [httparse::Header<'_>; _] = head_cache::EMPTY_FIELDS;
        let mut slots = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let cached =
            cached_length.and_then(|_| round.buffers.head_cache.get(head_bytes, &mut fields));
        let head = match cached {
            Some(head) => head,
            None => {
                let head = head::parse(head_bytes, &mut slots, round.limits.body_bytes_max)?;
                round.buffers.head_cache.insert(head_bytes, &head);
                head
            }
        };
        match head.framing {
            BodyFraming::Length(length) if rest.len() >= length => {
                self.call(&head, &mut rest[..length], round)?;
                Ok(ServeStep::Served(head_length + length))
            }
            BodyFraming::Length(length) => {
                self.wanted = head_length + length;
                self.await_body(&head, rest.is_empty(), round);
                Ok(ServeStep::Incomplete)
            }
            BodyFraming::Chunked => {
                self.await_body(&head, rest.is_empty(), round);
                self.chunked = Some(Box::new(ChunkedRequest {
                    head: head_bytes.to_vec(),
                    chunked: ChunkedDecoder::default(),
                    body: Vec::new(),
                }));
                Ok(ServeStep::Skipped(head_length))
            }
        }
    }

    fn await_body<S>(&mut self, head: &Head<'_, '_>, none_yet: bool, round: &mut Round<'_, S>) {
        self.phase = ConnectionPhase::Body;
        if head.expects_continue && none_yet && !self.continue_sent {
            self.continue_sent = true;
            round.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }

    fn serve_chunked<S: Service>(
        &mut self,
        data: &[u8],
        round: &mut Round<'_, S>,
    ) -> Result<ServeStep, RequestError> {
        let Some(mut request) = self.chunked.take() else { return Ok(ServeStep::Skipped(0)) };
        let length = request.chunked.feed(data, &mut request.body, round.limits.body_bytes_max)?;
        if !request.chunked.is_done() {
            self.phase = ConnectionPhase::Body;
            self.chunked = Some(request);
            return Ok(if length == 0 {
                ServeStep::Incomplete
            } else {
                ServeStep::Skipped(length)
            });
        }
        let mut slots = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let head = head::parse(&request.head, &mut slots, round.limits.body_bytes_max)?;
        self.call(&head, &mut request.body, round)?;
        Ok(ServeStep::Served(length))
    }

    fn call<S: Service>(
        &mut self,
        head: &Head<'_, '_>,
        body: &mut [u8],
        round: &mut Round<'_, S>,
    ) -> Result<(), RequestError> {
        self.continue_sent = false;
        let options = ResponseOptions {
            is_http10: head.is_http10,
            is_head: head.method == Method::Head,
            closes: !head.keep_alive || round.is_draining,
        };
        let is_timed = match &mut round.timed {
            Some(timed) if timed.parsed_ns.is_none() => {
                timed.parsed_ns = Some(round.clock.monotonic_ns());
                true
            }
            Some(_) | None => false,
        };
        let mut unpacked = Vec::new();
        let body = match head.content_encoding {
            None => body,
            Some(value) => {
                unpacked = std::mem::take(&mut round.buffers.unpacked);
                unpack(value, body, round.limits.body_bytes_max, &mut unpacked)?;
                &mut unpacked
            }
        };
        let request = Request {
            method: head.method,
            path: head.path,
            query: head.query,
            headers: head.headers,
            body,
            is_loopback: self.is_loopback,
            now: round.now,
            is_timed,
        };
        let mut answer = NativeResponseWriter {
            out: round.out,
            date: round.date,
            options,
            sink: round.sink,
            deferred_total: &mut round.buffers.deferred_total,
            key: self.key,
            state: ResponseState::Pending,
        };
        round.service.call(request, &mut answer);
        let state = answer.state;
        round.calls += 1;
        if unpacked.capacity() <= UNPACKED_KEPT_BYTES && unpacked.capacity() > 0 {
            round.buffers.unpacked = unpacked;
        }
        self.options = options;
        self.phase = match state {
            ResponseState::Sent if options.closes => ConnectionPhase::Closing,
            ResponseState::Sent => ConnectionPhase::Idle,
            ResponseState::Deferred(responder_id) => {
                self.responder_id = responder_id;
                ConnectionPhase::Response
            }
            ResponseState::Pending => unreachable!("a service answers or takes a responder"),
        };
        Ok(())
    }

    /// Takes what another thread delivered for this connection; writes to `out`. False when the
    /// responder is not, or no longer, one of this connection.
    pub fn complete(
        &mut self,
        responder_id: u64,
        completion: Completion,
        is_draining: bool,
        date: &DateLine,
        out: &mut Vec<u8>,
    ) -> bool {
        if self.phase != ConnectionPhase::Response || self.responder_id != responder_id {
            reject(completion);
            return false;
        }
        match completion {
            Completion::Response(response) => {
                self.options.closes |= is_draining;
                let (kind, fields) = (response.content_type, &response.fields);
                encode::answer(
                    out,
                    self.options,
                    date,
                    response.status,
                    kind,
                    fields,
                    &response.body,
                );
                self.answered();
            }
            Completion::StreamStart(response, state) => {
                self.options.closes |= is_draining || self.options.is_http10;
                let (kind, fields) = (response.content_type, &response.fields);
                let length = encode::BodyLength::Streamed;
                encode::head(out, self.options, date, response.status, kind, fields, length);
                encode::part(out, self.options, &response.body);
                self.stream = Some(state);
                self.stream_bytes = response.body.len();
            }
            Completion::StreamPart(part) => {
                encode::part(out, self.options, &part);
                self.stream_bytes += part.len();
            }
            Completion::StreamEnd => {
                encode::end(out, self.options);
                self.answered();
            }
        }
        true
    }

    /// All output has been taken by the kernel.
    pub fn flushed(&mut self) {
        if let Some(stream) = &self.stream {
            stream
                .queued_bytes
                .fetch_sub(std::mem::take(&mut self.stream_bytes), Ordering::Relaxed);
        }
    }

    fn answered(&mut self) {
        self.stream = None;
        self.phase =
            if self.options.closes { ConnectionPhase::Closing } else { ConnectionPhase::Idle };
    }
}

impl Drop for Protocol {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            // Relaxed: the writer only looks whether to go on.
            stream.closed.store(true, Ordering::Relaxed);
        }
    }
}

/// A completion whose client has gone: a stream's writer learns of it.
pub fn reject(completion: Completion) {
    if let Completion::StreamStart(_, state) = completion {
        state.closed.store(true, Ordering::Relaxed);
    }
}

enum ServeStep {
    /// One request was called; so many bytes are done with.
    Served(usize),
    /// So many bytes are done with, no request yet.
    Skipped(usize),
    /// More must arrive.
    Incomplete,
}

#[derive(Clone, Copy)]
enum ResponseState {
    Pending,
    Sent,
    Deferred(u64),
}

struct NativeResponseWriter<'a> {
    out: &'a mut Vec<u8>,
    date: &'a DateLine,
    options: ResponseOptions,
    sink: &'a Arc<dyn CompletionSink>,
    deferred_total: &'a mut u64,
    key: usize,
    state: ResponseState,
}

impl ResponseWriter for NativeResponseWriter<'_> {
    fn send(
        &mut self,
        status: u16,
        content_type: &'static str,
        fields: &[HeaderField],
        body: &[u8],
    ) {
        debug_assert!(matches!(self.state, ResponseState::Pending), "one answer for each request");
        encode::answer(self.out, self.options, self.date, status, content_type, fields, body);
        self.state = ResponseState::Sent;
    }

    fn defer(&mut self) -> Responder {
        debug_assert!(matches!(self.state, ResponseState::Pending), "one answer for each request");
        *self.deferred_total += 1;
        let responder_id = (*self.deferred_total << KEY_BITS) | self.key as u64;
        self.state = ResponseState::Deferred(responder_id);
        Responder::new(responder_id, self.sink.clone())
    }
}
