//! Serves the requests of one connection: finds each, waits for its body, and calls the service.

use super::response::{NativeResponseWriter, ResponseState};
use super::round::{Buffers, Round};
use super::{ChunkedRequest, ConnectionPhase, Protocol};
use crate::http::chunked::ChunkedDecoder;
use crate::http::coding::ContentCoding;
use crate::http::encode::{self, ResponseOptions};
use crate::http::head::{self, BodyFraming, EMPTY_SLOTS, Head, HeadSearch, RequestError};
use crate::http::head_cache;
use crate::http::message::Service;
use crate::http::stages::{Stage, StageTimer};

/// Requests of one connection served in one round, so that pipelining does not delay the others.
const CALLS_PER_ROUND_MAX: usize = 64;
/// Longer bodies are heavy: a round serves so many of them that the other connections wait for 10 ms at most.
const LIGHT_BYTES_MAX: usize = 64 * 1024;

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
    length > LIGHT_BYTES_MAX || head.content_encoding.is_some()
}

impl Protocol {
    /// Serves complete requests at the front of `data`; returns how many bytes are served.
    pub(super) fn serve<S: Service>(&mut self, data: &mut [u8], round: &mut Round<'_, S>) -> usize {
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
        let mut fields: [httparse::Header<'_>; _] = head_cache::EMPTY_FIELDS;
        match round.buffers.head_cache.split(data, &mut fields) {
            Ok((head, head_bytes, rest)) => {
                self.search = HeadSearch::default();
                self.serve_head(&head, head_bytes, rest, round)
            }
            Err(data) => self.serve_uncached(data, round),
        }
    }

    fn serve_uncached<S: Service>(
        &mut self,
        data: &mut [u8],
        round: &mut Round<'_, S>,
    ) -> Result<ServeStep, RequestError> {
        let limit = round.limits.head_bytes_max;
        let Some(head_length) = head::find_end(data, &mut self.search, limit)? else {
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
        let mut slots = EMPTY_SLOTS;
        let head = head::parse(head_bytes, &mut slots, round.limits.body_bytes_max)?;
        round.buffers.head_cache.insert(head_bytes, &head);
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
            last_head: &mut round.buffers.last_head,
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
        let Buffers { decoded, deferred_total, round_bytes, last_head, .. } = &mut *round.buffers;
        let body = if coding.is_some() { &mut decoded[..] } else { body };
        *round_bytes += body.len();
        let request = head.request(body, self.client, round.now, stages);
        let mut response = NativeResponseWriter {
            out: round.out,
            date: round.date,
            last_head,
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
}
