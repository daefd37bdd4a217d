//! The protocol state of one connection, without its socket: bytes in, calls of the service, bytes out.
//!
//! Bytes that make no whole request yet are kept here; everything else is read where it lies. An
//! idle connection holds no buffer. Requests are served strictly one after the other: while an
//! answer is outstanding, what follows it waits.

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Limits;
use super::chunked::Chunked;
use super::coding::unpack;
use super::counters::HttpCounters;
use super::encode::{self, DateLine, Terms};
use super::head::{self, Framing, HEADERS_MAX, Head, Refusal, Search};
use super::head_cache::{self, HeadCache};
use super::message::{
    Answer, Completion, Deliver, HeaderField, Method, Request, Responder, Service, StreamState,
};
use sigmad_clock::{Clock, Now};

/// Requests of one connection served in one round, so that a flood leaves its neighbours their turn.
const CALLS_PER_ROUND_MAX: usize = 64;
/// A larger unpacking buffer is given back after the request that needed it.
const UNPACKED_KEPT_BYTES: usize = 1024 * 1024;
/// A larger input buffer is given back to the allocator, not to the spare ones.
const INPUT_KEPT_BYTES: usize = 256 * 1024;
/// Input buffers kept for the next request that arrives in pieces.
const SPARE_INPUTS_MAX: usize = 16;
const JSON: &str = "application/json";
/// Low bits of a ticket's serial: the connection's key.
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
    /// Where tickets are answered.
    pub engine: &'a Arc<dyn Deliver>,
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
    tickets: u64,
    known: HeadCache,
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
pub enum Phase {
    /// The first byte of a request.
    Idle,
    /// The rest of a head.
    Head,
    /// The rest of a body.
    Body,
    /// An answer promised by ticket.
    Answer,
    /// Nothing: it closes once its output has left.
    Closing,
}

/// A request whose chunked body is arriving.
#[derive(Debug)]
struct ChunkedRequest {
    head: Vec<u8>,
    chunked: Chunked,
    body: Vec<u8>,
}

/// The protocol state of one connection.
#[derive(Debug)]
pub struct Protocol {
    key: usize,
    is_loopback: bool,
    phase: Phase,
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
    search: Search,
    chunked: Option<Box<ChunkedRequest>>,
    ticket: u64,
    terms: Terms,
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
            phase: Phase::Idle,
            lingers: false,
            has_backlog: false,
            continue_sent: false,
            input: Vec::new(),
            served: 0,
            wanted: 0,
            search: Search::default(),
            chunked: None,
            ticket: u64::MAX,
            terms: Terms { is_http10: false, is_head: false, closes: false },
            stream: None,
            stream_bytes: 0,
        }
    }

    /// What it is waiting for.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// True when the client may still be sending what nobody will read.
    pub fn lingers(&self) -> bool {
        self.lingers
    }

    /// True when whole requests may be waiting to be served.
    pub fn has_backlog(&self) -> bool {
        self.has_backlog && !matches!(self.phase, Phase::Answer | Phase::Closing)
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
        if served < data.len() && self.phase != Phase::Closing {
            self.input = round.buffers.spare_inputs.pop().unwrap_or_default();
            self.input.extend_from_slice(&data[served..]);
        }
    }

    /// Serves what had to wait.
    pub fn resume<S: Service>(&mut self, round: &mut Round<'_, S>) {
        let mut input = std::mem::take(&mut self.input);
        self.served += self.serve(&mut input[self.served..], round);
        if self.served == input.len() || self.phase == Phase::Closing {
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
            Phase::Idle => self.phase = Phase::Closing,
            Phase::Head | Phase::Body => {
                self.refuse(Refusal::Truncated, round.out, round.date, round.counters)
            }
            Phase::Answer | Phase::Closing => {}
        }
    }

    /// Answers with the refusal and ends the conversation.
    pub fn refuse(
        &mut self,
        refusal: Refusal,
        out: &mut Vec<u8>,
        date: &DateLine,
        counters: &HttpCounters,
    ) {
        counters.refusals[refusal as usize].add(1);
        let (code, message) = (refusal.code(), refusal.message());
        let body = format!(r#"{{"error":{{"code":"{code}","message":"{message}"}}}}"#);
        let terms = Terms { is_http10: false, is_head: false, closes: true };
        encode::answer(out, terms, date, refusal.status(), JSON, &[], body.as_bytes());
        self.phase = Phase::Closing;
        self.lingers = true;
    }

    /// Serves whole requests from the front of `data`; returns how many bytes are done with.
    fn serve<S: Service>(&mut self, data: &mut [u8], round: &mut Round<'_, S>) -> usize {
        self.has_backlog = false;
        let mut position = 0;
        let mut calls = 0;
        loop {
            if matches!(self.phase, Phase::Answer | Phase::Closing) || calls == CALLS_PER_ROUND_MAX
            {
                self.has_backlog = position < data.len();
                return position;
            }
            match self.serve_one(&mut data[position..], round) {
                Ok(Step::Served(length)) => {
                    position += length;
                    calls += 1;
                }
                Ok(Step::Skipped(length)) => position += length,
                Ok(Step::Incomplete) => return position,
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
    ) -> Result<Step, Refusal> {
        if self.chunked.is_some() {
            return self.serve_chunked(data, round);
        }
        if data.is_empty() {
            self.phase = Phase::Idle;
            return Ok(Step::Incomplete);
        }
        if data.len() < self.wanted {
            return Ok(Step::Incomplete);
        }
        self.wanted = 0;
        if data.starts_with(b"\r\n") {
            // RFC 9112 section 2.2: empty lines before a request line are ignored.
            self.search = Search::default();
            return Ok(Step::Skipped(2));
        }
        let known = round.buffers.known.find(data);
        let found = match known {
            Some(length) => Some(length),
            None => head::find_end(data, &mut self.search, round.limits.head_bytes_max)?,
        };
        let Some(head_length) = found else {
            if data != b"\r" {
                head::check_partial(data)?;
            }
            self.phase = Phase::Head;
            return Ok(Step::Incomplete);
        };
        self.search = Search::default();
        let (head_bytes, rest) = data.split_at_mut(head_length);
        let mut fields: [httparse::Header<'_>; _] = head_cache::NO_FIELDS;
        let mut slots = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let recalled = known.and_then(|_| round.buffers.known.recall(head_bytes, &mut fields));
        let head = match recalled {
            Some(head) => head,
            None => {
                let head = head::parse(head_bytes, &mut slots, round.limits.body_bytes_max)?;
                round.buffers.known.missed(head_bytes, &head);
                head
            }
        };
        match head.framing {
            Framing::Length(length) if rest.len() >= length => {
                self.call(&head, &mut rest[..length], round)?;
                Ok(Step::Served(head_length + length))
            }
            Framing::Length(length) => {
                self.wanted = head_length + length;
                self.await_body(&head, rest.is_empty(), round);
                Ok(Step::Incomplete)
            }
            Framing::Chunked => {
                self.await_body(&head, rest.is_empty(), round);
                self.chunked = Some(Box::new(ChunkedRequest {
                    head: head_bytes.to_vec(),
                    chunked: Chunked::default(),
                    body: Vec::new(),
                }));
                Ok(Step::Skipped(head_length))
            }
        }
    }

    fn await_body<S>(&mut self, head: &Head<'_, '_>, none_yet: bool, round: &mut Round<'_, S>) {
        self.phase = Phase::Body;
        if head.expects_continue && none_yet && !self.continue_sent {
            self.continue_sent = true;
            round.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }

    fn serve_chunked<S: Service>(
        &mut self,
        data: &[u8],
        round: &mut Round<'_, S>,
    ) -> Result<Step, Refusal> {
        let Some(mut request) = self.chunked.take() else { return Ok(Step::Skipped(0)) };
        let length = request.chunked.feed(data, &mut request.body, round.limits.body_bytes_max)?;
        if !request.chunked.is_done() {
            self.phase = Phase::Body;
            self.chunked = Some(request);
            return Ok(if length == 0 { Step::Incomplete } else { Step::Skipped(length) });
        }
        let mut slots = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let head = head::parse(&request.head, &mut slots, round.limits.body_bytes_max)?;
        self.call(&head, &mut request.body, round)?;
        Ok(Step::Served(length))
    }

    fn call<S: Service>(
        &mut self,
        head: &Head<'_, '_>,
        body: &mut [u8],
        round: &mut Round<'_, S>,
    ) -> Result<(), Refusal> {
        self.continue_sent = false;
        let terms = Terms {
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
        let mut answer = NativeAnswer {
            out: round.out,
            date: round.date,
            terms,
            engine: round.engine,
            tickets: &mut round.buffers.tickets,
            key: self.key,
            given: Given::Nothing,
        };
        round.service.call(request, &mut answer);
        let given = answer.given;
        round.calls += 1;
        if unpacked.capacity() <= UNPACKED_KEPT_BYTES && unpacked.capacity() > 0 {
            round.buffers.unpacked = unpacked;
        }
        self.terms = terms;
        self.phase = match given {
            Given::Answer if terms.closes => Phase::Closing,
            Given::Answer => Phase::Idle,
            Given::Responder(serial) => {
                self.ticket = serial;
                Phase::Answer
            }
            Given::Nothing => unreachable!("a service answers or takes a ticket"),
        };
        Ok(())
    }

    /// Takes what another thread delivered for this connection; writes to `out`. False when the
    /// ticket is not, or no longer, one of this connection.
    pub fn deliver(
        &mut self,
        serial: u64,
        delivery: Completion,
        is_draining: bool,
        date: &DateLine,
        out: &mut Vec<u8>,
    ) -> bool {
        if self.phase != Phase::Answer || self.ticket != serial {
            turn_away(delivery);
            return false;
        }
        match delivery {
            Completion::Whole(response) => {
                self.terms.closes |= is_draining;
                let (kind, fields) = (response.content_type, &response.fields);
                encode::answer(
                    out,
                    self.terms,
                    date,
                    response.status,
                    kind,
                    fields,
                    &response.body,
                );
                self.answered();
            }
            Completion::Begin(response, state) => {
                self.terms.closes |= is_draining || self.terms.is_http10;
                let (kind, fields) = (response.content_type, &response.fields);
                let length = encode::Length::Streamed;
                encode::head(out, self.terms, date, response.status, kind, fields, length);
                encode::part(out, self.terms, &response.body);
                self.stream = Some(state);
                self.stream_bytes = response.body.len();
            }
            Completion::Part(part) => {
                encode::part(out, self.terms, &part);
                self.stream_bytes += part.len();
            }
            Completion::End => {
                encode::end(out, self.terms);
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
        self.phase = if self.terms.closes { Phase::Closing } else { Phase::Idle };
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

/// A delivery whose client has gone: a stream's writer learns of it.
pub fn turn_away(delivery: Completion) {
    if let Completion::Begin(_, state) = delivery {
        state.closed.store(true, Ordering::Relaxed);
    }
}

enum Step {
    /// One request was called; so many bytes are done with.
    Served(usize),
    /// So many bytes are done with, no request yet.
    Skipped(usize),
    /// More must arrive.
    Incomplete,
}

#[derive(Clone, Copy)]
enum Given {
    Nothing,
    Answer,
    Responder(u64),
}

struct NativeAnswer<'a> {
    out: &'a mut Vec<u8>,
    date: &'a DateLine,
    terms: Terms,
    engine: &'a Arc<dyn Deliver>,
    tickets: &'a mut u64,
    key: usize,
    given: Given,
}

impl Answer for NativeAnswer<'_> {
    fn send(
        &mut self,
        status: u16,
        content_type: &'static str,
        fields: &[HeaderField],
        body: &[u8],
    ) {
        debug_assert!(matches!(self.given, Given::Nothing), "one answer for each request");
        encode::answer(self.out, self.terms, self.date, status, content_type, fields, body);
        self.given = Given::Answer;
    }

    fn later(&mut self) -> Responder {
        debug_assert!(matches!(self.given, Given::Nothing), "one answer for each request");
        *self.tickets += 1;
        let serial = (*self.tickets << KEY_BITS) | self.key as u64;
        self.given = Given::Responder(serial);
        Responder::new(serial, self.engine.clone())
    }
}
