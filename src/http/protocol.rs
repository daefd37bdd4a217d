//! The protocol state of one connection, without its socket: bytes in, service calls, bytes out.
//!
//! Only an incomplete request is copied here; everything else is parsed where it was received, so an
//! idle connection holds no buffer. Requests are served one after the other: while a response is
//! outstanding, the next request waits.

mod refusal;
mod response;
mod round;
mod unpacking;
mod unpacking_place;

use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use self::refusal::RefusalWriter;
pub use self::response::connection_key;
use self::response::{KEY_BITS, NativeResponseWriter, ResponseState};
pub use self::round::{Buffers, Round};
use self::unpacking::Unpacking;
use super::budget::{bytes_taken, reserve_within};
use super::chunked::ChunkedDecoder;
use super::client_address::ClientAddress;
use super::coding::ContentCoding;
use super::encode::{self, DateLine, ResponseOptions};
use super::head::{self, BodyFraming, EMPTY_SLOTS, Head, HeadSearch, RequestError};
use super::head_cache;
use super::message::{Completion, Service, StreamState};
use super::poller::RECEIVE_BYTES_MAX;
use super::stages::{Stage, StageTimer};

/// Room for the head of a response.
const HEAD_BYTES: usize = 1024;
/// Requests of one connection served in one round, so that pipelining does not delay the others.
const CALLS_PER_ROUND_MAX: usize = 64;

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionPhase {
    /// The first byte of a request.
    Idle,
    /// The rest of a head.
    Head,
    /// The rest of a body.
    Body,
    /// A deferred response.
    Response,
    /// Nothing: it closes once its output has been sent.
    Closing,
}

/// A request whose chunked body is arriving.
#[derive(Debug)]
struct ChunkedRequest {
    head: Vec<u8>,
    /// The service wants the body.
    is_wanted: bool,
    decoder: ChunkedDecoder,
    body: Vec<u8>,
}

/// What became of the front of the input.
enum ServeStep {
    /// One request was called; this many bytes are served.
    Served(usize),
    /// This many bytes are served, and no request was complete.
    Skipped(usize),
    /// More must arrive.
    Incomplete,
    /// This many bytes are served, and a complete request waits for the next round.
    Later(usize),
}

/// True for a body that can be much more work than a usual one.
fn is_heavy(head: &Head<'_, '_>, length: usize) -> bool {
    length > RECEIVE_BYTES_MAX || head.content_encoding.is_some()
}

/// The protocol state of one connection.
#[derive(Debug)]
pub struct Protocol {
    key: usize,
    client: ClientAddress,
    /// It is one connection too many: only what the service serves in any case is served.
    is_reserved: bool,
    phase: ConnectionPhase,
    /// True when complete requests may be waiting in `input`.
    has_backlog: bool,
    continue_sent: bool,
    input: Vec<u8>,
    /// Bytes of `input` that have been served.
    served: usize,
    /// The length of the incomplete request; the input is not parsed before it is there.
    wanted: usize,
    search: HeadSearch,
    chunked: Option<Box<ChunkedRequest>>,
    unpacking: Unpacking,
    /// The responder that owes the outstanding response.
    responder_id: u64,
    /// Those of the outstanding response.
    options: ResponseOptions,
    stream: Option<Arc<StreamState>>,
    /// Bytes of the stream's parts in the connection's output.
    stream_bytes: usize,
}

impl Protocol {
    /// The state of a new connection from `client`, which its worker knows by `key`.
    pub fn new(key: usize, client: ClientAddress, is_reserved: bool) -> Self {
        debug_assert!(key < 1 << KEY_BITS);
        Self {
            key,
            client,
            is_reserved,
            phase: ConnectionPhase::Idle,
            has_backlog: false,
            continue_sent: false,
            input: Vec::new(),
            served: 0,
            wanted: 0,
            search: HeadSearch::default(),
            chunked: None,
            unpacking: Unpacking::default(),
            responder_id: u64::MAX,
            options: ResponseOptions::closing(false),
            stream: None,
            stream_bytes: 0,
        }
    }

    /// True for a connection above the limit.
    pub fn is_reserved(&self) -> bool {
        self.is_reserved
    }

    /// What it is waiting for.
    pub fn phase(&self) -> ConnectionPhase {
        self.phase
    }

    /// True when complete requests may be waiting to be served.
    pub fn has_backlog(&self) -> bool {
        self.has_backlog
            && !matches!(self.phase, ConnectionPhase::Response | ConnectionPhase::Closing)
    }

    /// The streamed response in progress.
    pub fn stream(&self) -> Option<&Arc<StreamState>> {
        self.stream.as_ref()
    }

    /// Bytes of memory that incomplete requests take.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        let chunked = self.chunked.as_ref();
        bytes_taken(&self.input)
            + chunked.map_or(0, |request| request.head.capacity() + bytes_taken(&request.body))
    }

    /// Takes bytes from the client and serves complete requests.
    pub fn receive<S: Service>(&mut self, data: &mut [u8], round: &mut Round<'_, S>) {
        if !self.input.is_empty() {
            reserve_within(&mut self.input, data.len(), self.served + self.wanted);
            self.input.extend_from_slice(data);
            return self.resume(round);
        }
        let served = self.serve(data, round);
        if served < data.len() && self.phase != ConnectionPhase::Closing {
            self.input = round.buffers.take_input();
            reserve_within(&mut self.input, data.len() - served, self.wanted);
            self.input.extend_from_slice(&data[served..]);
        }
    }

    /// Serves requests that had to wait.
    pub fn resume<S: Service>(&mut self, round: &mut Round<'_, S>) {
        let mut input = std::mem::take(&mut self.input);
        self.served += self.serve(&mut input[self.served..], round);
        if self.served == input.len() || self.phase == ConnectionPhase::Closing {
            self.served = 0;
            round.buffers.return_input(input);
            return;
        }
        // Moving the rest to the front costs a copy: only when it is the smaller part.
        if self.served > input.len() / 2 {
            input.drain(..self.served);
            self.served = 0;
        }
        self.input = input;
    }

    /// The client sends no more; complete requests have been served.
    pub fn finish<S: Service>(&mut self, round: &mut Round<'_, S>) {
        match self.phase {
            ConnectionPhase::Idle => self.phase = ConnectionPhase::Closing,
            ConnectionPhase::Head => self.refuse(RequestError::TruncatedHead, round.refusal()),
            ConnectionPhase::Body => self.refuse(RequestError::TruncatedBody, round.refusal()),
            ConnectionPhase::Response | ConnectionPhase::Closing => {}
        }
    }

    /// Answers the incomplete request with the error and closes the connection.
    pub fn refuse<S: Service>(&mut self, error: RequestError, refusal: RefusalWriter<'_, S>) {
        let input = std::mem::take(&mut self.input);
        self.refuse_request(error, &input[self.served..], refusal);
    }

    /// Answers the request at the start of `data` with the error and closes the connection.
    #[cold]
    fn refuse_request<S: Service>(
        &mut self,
        error: RequestError,
        data: &[u8],
        refusal: RefusalWriter<'_, S>,
    ) {
        self.unpacking = Unpacking::default();
        let chunked = self.chunked.take();
        let data = chunked.as_ref().map_or(data, |request| &request.head);
        refusal.write(error, data, self.client);
        self.phase = ConnectionPhase::Closing;
        // What has arrived of it is not needed any more, and the client may take its time to leave.
        (self.input, self.served) = (Vec::new(), 0);
    }

    /// Serves complete requests at the front of `data`; returns how many bytes are served.
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
                Ok(ServeStep::Later(length)) => {
                    self.has_backlog = true;
                    self.phase = ConnectionPhase::Body;
                    return position + length;
                }
                Err(error) => {
                    self.refuse_request(error, &data[position..], round.refusal());
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
            if data == b"\r" {
                // Perhaps an empty line, which begins no request.
                self.phase = ConnectionPhase::Idle;
                return Ok(ServeStep::Incomplete);
            }
            head::check_partial(data)?;
            self.phase = ConnectionPhase::Head;
            return Ok(ServeStep::Incomplete);
        };
        self.search = HeadSearch::default();
        let (head_bytes, rest) = data.split_at_mut(head_length);
        let mut fields: [httparse::Header<'_>; _] = head_cache::EMPTY_FIELDS;
        // Filled only for a head that is not cached.
        let mut slots;
        let cached =
            cached_length.and_then(|_| round.buffers.head_cache.get(head_bytes, &mut fields));
        let head = match cached {
            Some(head) => head,
            None => {
                slots = EMPTY_SLOTS;
                let head = head::parse(head_bytes, &mut slots, round.limits.body_bytes_max)?;
                round.buffers.head_cache.insert(head_bytes, &head);
                head
            }
        };
        self.serve_head(&head, head_bytes, rest, round)
    }

    /// Serves the request with this head as far as its body has arrived.
    #[inline]
    fn serve_head<S: Service>(
        &mut self,
        head: &Head<'_, '_>,
        head_bytes: &[u8],
        rest: &mut [u8],
        round: &mut Round<'_, S>,
    ) -> Result<ServeStep, RequestError> {
        let head_length = head_bytes.len();
        if self.is_reserved && !round.service.serves_when_full(head.path) {
            return Err(RequestError::TooManyConnections);
        }
        match head.framing {
            BodyFraming::Length(length) if rest.len() >= length => {
                if is_heavy(head, length) && round.buffers.is_round_spent() {
                    return Ok(ServeStep::Later(0));
                }
                let is_called = self.call(head, &mut rest[..length], round)?;
                Ok(if is_called {
                    ServeStep::Served(head_length + length)
                } else {
                    ServeStep::Later(0)
                })
            }
            BodyFraming::Length(length) => {
                if self.is_refused_by_head(head, round) {
                    return Ok(ServeStep::Served(head_length));
                }
                self.wanted = head_length + length;
                self.await_body(head, rest.is_empty(), round);
                Ok(ServeStep::Incomplete)
            }
            BodyFraming::Chunked => {
                // A body that is here already is dropped with its request, and the connection stays.
                let is_wanted = rest.is_empty();
                if is_wanted && self.is_refused_by_head(head, round) {
                    return Ok(ServeStep::Served(head_length));
                }
                self.await_body(head, rest.is_empty(), round);
                self.chunked = Some(Box::new(ChunkedRequest {
                    head: head_bytes.to_vec(),
                    is_wanted,
                    decoder: ChunkedDecoder::default(),
                    body: Vec::new(),
                }));
                Ok(ServeStep::Skipped(head_length))
            }
        }
    }

    fn await_body<S>(&mut self, head: &Head<'_, '_>, is_empty: bool, round: &mut Round<'_, S>) {
        self.phase = ConnectionPhase::Body;
        if head.expects_continue && is_empty && !self.continue_sent {
            self.continue_sent = true;
            round.out.extend_from_slice(encode::CONTINUE);
        }
    }

    /// Asks the service whether it wants the body that follows this head. A refusal is the last response.
    #[cold]
    fn is_refused_by_head<S: Service>(
        &mut self,
        head: &Head<'_, '_>,
        round: &mut Round<'_, S>,
    ) -> bool {
        let options = ResponseOptions::new(head, true, round.limits);
        let request = head.request(&mut [], self.client, round.now, StageTimer::default());
        let mut response = NativeResponseWriter {
            out: round.out,
            date: round.date,
            options,
            sink: round.sink,
            deferred_total: &mut round.buffers.deferred_total,
            key: self.key,
            state: ResponseState::Pending,
        };
        let is_refused = round.service.refuse_by_head(request, &mut response);
        if is_refused {
            debug_assert!(matches!(response.state, ResponseState::Sent), "it answers at once");
            round.calls += 1;
            self.phase = ConnectionPhase::Closing;
        }
        is_refused
    }

    fn serve_chunked<S: Service>(
        &mut self,
        data: &[u8],
        round: &mut Round<'_, S>,
    ) -> Result<ServeStep, RequestError> {
        let Some(mut request) = self.chunked.take() else { return Ok(ServeStep::Skipped(0)) };
        let fed = request.decoder.feed(data, &mut request.body, round.limits.body_bytes_max);
        let length = match fed {
            Ok(length) => length,
            Err(error) => {
                // The refusal asks for its head.
                self.chunked = Some(request);
                return Err(error);
            }
        };
        if !request.decoder.is_done() {
            if !request.is_wanted {
                request.is_wanted = true;
                let mut slots = EMPTY_SLOTS;
                let head = head::parse(&request.head, &mut slots, round.limits.body_bytes_max)?;
                if self.is_refused_by_head(&head, round) {
                    return Ok(ServeStep::Served(length));
                }
            }
            self.phase = ConnectionPhase::Body;
            self.chunked = Some(request);
            let is_empty = length == 0;
            return Ok(if is_empty { ServeStep::Incomplete } else { ServeStep::Skipped(length) });
        }
        let mut slots = EMPTY_SLOTS;
        let head = head::parse(&request.head, &mut slots, round.limits.body_bytes_max)?;
        if is_heavy(&head, request.body.len()) && round.buffers.is_round_spent() {
            self.chunked = Some(request);
            return Ok(ServeStep::Later(length));
        }
        if !self.call(&head, &mut request.body, round)? {
            self.chunked = Some(request);
            return Ok(ServeStep::Later(length));
        }
        Ok(ServeStep::Served(length))
    }

    /// Calls the service with a complete request. False when decoding its body takes a further round.
    fn call<S: Service>(
        &mut self,
        head: &Head<'_, '_>,
        body: &mut [u8],
        round: &mut Round<'_, S>,
    ) -> Result<bool, RequestError> {
        self.continue_sent = false;
        let closes = !head.keep_alive || round.is_draining || self.is_reserved;
        let options = ResponseOptions::new(head, closes, round.limits);
        // Only the first request of the read is timed.
        let untimed = round.stages.as_mut().filter(|times| !times.has(Stage::Parse));
        let mut stages = StageTimer(untimed);
        stages.end(Stage::Parse, round.clock);
        let coding = head.content_encoding.map(ContentCoding::parse).transpose()?.flatten();
        if let Some(coding) = coding {
            let limit = round.limits.body_bytes_max;
            if !self.unpacking.advance(coding, body, limit, round.buffers)? {
                return Ok(false);
            }
        }
        let Buffers { decoded, deferred_total, round_bytes, .. } = &mut *round.buffers;
        let body = if coding.is_some() { &mut decoded[..] } else { body };
        *round_bytes += body.len();
        let request = head.request(body, self.client, round.now, stages);
        let mut response = NativeResponseWriter {
            out: round.out,
            date: round.date,
            options,
            sink: round.sink,
            deferred_total,
            key: self.key,
            state: ResponseState::Pending,
        };
        round.service.call(request, &mut response);
        let state = response.state;
        round.calls += 1;
        round.buffers.release_decoded();
        self.options = options;
        self.phase = match state {
            ResponseState::Sent if options.closes => ConnectionPhase::Closing,
            ResponseState::Sent => ConnectionPhase::Idle,
            ResponseState::Deferred(responder_id) => {
                self.responder_id = responder_id;
                ConnectionPhase::Response
            }
            ResponseState::Pending => unreachable!("a service responds or takes a responder"),
        };
        Ok(true)
    }

    /// Writes what another thread has completed to `out`. False when the responder does not, or no
    /// longer, owe this connection a response.
    pub fn complete(
        &mut self,
        responder_id: u64,
        completion: Completion,
        is_draining: bool,
        date: &DateLine,
        out: &mut Vec<u8>,
    ) -> bool {
        if self.phase != ConnectionPhase::Response || self.responder_id != responder_id {
            completion.reject();
            return false;
        }
        match completion {
            Completion::Response(response) => {
                self.options.closes |= is_draining;
                let (status, kind) = (response.status, response.content_type);
                let (fields, body) = (&response.fields, &response.body);
                reserve_within(out, HEAD_BYTES + body.len(), 0);
                encode::response(out, self.options, date, status, kind, fields, body);
                self.end_response();
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
                self.end_response();
            }
        }
        true
    }

    /// The kernel has taken all output.
    pub fn flushed(&mut self) {
        if let Some(stream) = &self.stream {
            let sent_bytes = std::mem::take(&mut self.stream_bytes);
            // Relaxed: a level; the parts themselves come through the queue of commands.
            stream.queued_bytes.fetch_sub(sent_bytes, Ordering::Relaxed);
        }
    }

    /// The connection closes: nothing is read or written any more, and a stream ends.
    pub fn abandon(&mut self) {
        self.phase = ConnectionPhase::Closing;
        (self.input, self.served) = (Vec::new(), 0);
        self.unpacking = Unpacking::default();
        self.close_stream();
    }

    fn close_stream(&mut self) {
        if let Some(stream) = self.stream.take() {
            // Relaxed: the writer only learns that it may stop.
            stream.closed.store(true, Ordering::Relaxed);
        }
    }

    fn end_response(&mut self) {
        self.stream = None;
        let closes = self.options.closes;
        self.phase = if closes { ConnectionPhase::Closing } else { ConnectionPhase::Idle };
    }
}

impl Drop for Protocol {
    fn drop(&mut self) {
        self.close_stream();
    }
}
