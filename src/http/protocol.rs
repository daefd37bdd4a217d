//! The protocol state of one connection, without its socket: bytes in, service calls, bytes out.
//!
//! Only an incomplete request is copied here; everything else is parsed where it was received, so an
//! idle connection holds no buffer. Requests are served one after the other: while a response is
//! outstanding, the next request waits.

mod refusal;
mod response;
mod round;
mod serving;
mod unpacking;
mod unpacking_place;

use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use self::refusal::RefusalWriter;
use self::response::KEY_BITS;
pub use self::response::connection_key;
pub use self::round::{Buffers, Round};
use self::unpacking::Unpacking;
use super::budget::{bytes_taken, reserve_within};
use super::chunked::ChunkedDecoder;
use super::client_address::ClientAddress;
use super::encode::{self, DateLine, ResponseOptions};
use super::head::{HeadSearch, RequestError};
use super::message::{Completion, Service, StreamState};

/// Room for the head of a response.
const HEAD_BYTES: usize = 1024;

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
            self.input = round.buffers.take_input(self.wanted);
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
