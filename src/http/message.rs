//! Requests, responses and responders: the interface between an engine and its service.
//!
//! An engine reads a [`Request`], calls the [`Service`], and sends what it put into the
//! [`ResponseWriter`]. A service that cannot respond at once takes a [`Responder`] and responds from
//! another thread, with a whole response or a stream. Nothing here touches a socket.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::client_address::ClientAddress;
use super::stages::StageTimer;
use sigmad_clock::Now;

/// The methods that sigmad distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// HEAD: as GET; the engine leaves the body out.
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// DELETE
    Delete,
    /// OPTIONS: what a path allows.
    Options,
    /// Any other: 405 on every known path.
    Other,
}

/// The header fields of a request.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a>(pub &'a [httparse::Header<'a>]);

impl<'a> Headers<'a> {
    /// The first field of that name (any case); `name` in lower case.
    #[inline]
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.0.iter().find(|header| is_name(header.name, name)).map(|header| header.value)
    }
}

/// True when `name`, in any case, is the name given in lower case.
///
/// Among the bytes of a token (RFC 9110 section 5.6.2), setting bit 5 turns only capitals into small
/// letters or a hyphen. There is no branch on each byte, which pays on every request.
#[inline]
pub fn is_name(name: &str, lower: &str) -> bool {
    name.len() == lower.len()
        && name
            .bytes()
            .zip(lower.bytes())
            .fold(0, |differing, (one, other)| differing | ((one | 0x20) ^ other))
            == 0
}

/// One complete request, without its framing and its content coding.
#[derive(Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// The path of the target, as sent (percent-encoding kept), never empty.
    pub path: &'a str,
    /// What follows the `?`, as sent.
    pub query: &'a str,
    /// The header fields.
    pub headers: Headers<'a>,
    /// The decoded body; the service may use it as scratch space.
    pub body: &'a mut [u8],
    /// The client's address.
    pub client: ClientAddress,
    /// True when the request is HTTP/1.0.
    pub is_http10: bool,
    /// When the request was read.
    pub now: Now,
    /// Times the stages, for one request in many.
    pub stages: StageTimer<'a>,
}

/// A header field of a response.
pub type HeaderField = (&'static str, Cow<'static, str>);

/// Where a service puts its response: exactly one call for each request.
pub trait ResponseWriter {
    /// Responds now. The engine adds `Date`, `Content-Length` and `Connection`.
    fn send(
        &mut self,
        status: u16,
        content_type: &'static str,
        fields: &[HeaderField],
        body: &[u8],
    );
    /// Promises a response from any thread.
    fn defer(&mut self) -> Responder;
}

/// What an engine serves.
pub trait Service {
    /// Answers one request.
    fn call(&mut self, request: Request<'_>, response: &mut dyn ResponseWriter);
    /// Answers a request whose head alone decides that its body is not wanted; false when it is. Asked before a body
    /// that has not arrived with its head is kept: the request comes without it, and the connection closes after the
    /// answer.
    fn refuse_by_head(&mut self, _: Request<'_>, _: &mut dyn ResponseWriter) -> bool {
        false
    }
    /// True for a path that is served also when no further connection may be open.
    fn serves_when_full(&self, _path: &str) -> bool {
        false
    }
    /// The engine has answered a request with `status` without a call. `path` is empty if unknown.
    fn refused(&mut self, _method: Method, _path: &str, _status: u16) {}
    /// All requests of a round have been called, and none of their responses has been sent: what they
    /// promise is done now. `stages` are those of the round's timed request.
    fn round_called(&mut self, now: Now, stages: StageTimer<'_>);
    /// The responses of the round have been sent, `elapsed_ns` after it began.
    fn round_answered(&mut self, elapsed_ns: u64);
}

/// A whole response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The media type of the body.
    pub content_type: &'static str,
    /// Further header fields.
    pub fields: Vec<HeaderField>,
    /// The body.
    pub body: Vec<u8>,
}

/// A finished response, or a part of a streamed one, on its way to the engine.
#[derive(Debug)]
pub enum Completion {
    /// The whole response.
    Response(Response),
    /// The head of a streamed response; its `body` is the first part.
    StreamStart(Response, Arc<StreamState>),
    /// A further part of a streamed response.
    StreamPart(Vec<u8>),
    /// The end of a streamed response.
    StreamEnd,
}

impl Completion {
    /// The client has gone: drops the completion and closes the stream that it starts.
    pub fn reject(self) {
        if let Self::StreamStart(_, state) = self {
            // Relaxed: the writer only learns that it may stop.
            state.closed.store(true, Ordering::Relaxed);
        }
    }
}

/// Takes completions to the engine that gave out their responder.
pub trait CompletionSink: Send + Sync {
    /// Takes one completion; must not block.
    fn complete(&self, responder_id: u64, completion: Completion);
}

/// The right and the duty to answer one request, from any thread, exactly once.
///
/// Dropped unused it answers 500, so that no client waits for ever.
pub struct Responder {
    id: u64,
    sink: Option<Arc<dyn CompletionSink>>,
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Responder").field("id", &self.id).finish()
    }
}

impl Responder {
    /// A responder that its engine knows by `id`.
    pub fn new(id: u64, sink: Arc<dyn CompletionSink>) -> Self {
        Self { id, sink: Some(sink) }
    }

    /// Sends a whole response.
    pub fn send(mut self, response: Response) {
        if let Some(sink) = self.sink.take() {
            sink.complete(self.id, Completion::Response(response));
        }
    }

    /// Starts a streamed response of unknown length.
    pub fn stream(mut self, head: Response) -> StreamWriter {
        let state = Arc::new(StreamState::default());
        let sink = self.sink.take().expect("a responder is used once");
        state.queued_bytes.fetch_add(head.body.len(), Ordering::Relaxed);
        sink.complete(self.id, Completion::StreamStart(head, state.clone()));
        StreamWriter { responder_id: self.id, sink, state }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Some(sink) = self.sink.take() {
            let response = Response {
                status: 500,
                content_type: "application/json",
                fields: Vec::new(),
                body: br#"{"error":{"code":"internal","message":"internal error"}}"#.to_vec(),
            };
            sink.complete(self.id, Completion::Response(response));
        }
    }
}

/// What the writer of a stream and its connection share.
#[derive(Debug, Default)]
pub struct StreamState {
    /// Bytes accepted from the writer that the kernel has not taken yet.
    pub queued_bytes: AtomicUsize,
    /// Set by the engine when the client has gone.
    pub closed: AtomicBool,
}

/// Bytes of a stream that may wait for their client; past it a part is refused.
pub const STREAM_QUEUE_BYTES_MAX: usize = 256 * 1024;

/// Why a part of a stream was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamSendError {
    /// The client reads too slowly: wait, or close the stream.
    Full,
    /// The client has gone.
    Closed,
}

/// Writes a streamed response from any thread; dropping it ends the response.
pub struct StreamWriter {
    responder_id: u64,
    sink: Arc<dyn CompletionSink>,
    state: Arc<StreamState>,
}

impl StreamWriter {
    /// Queues one part; never blocks.
    pub fn send(&self, part: Vec<u8>) -> Result<(), StreamSendError> {
        if self.is_closed() {
            return Err(StreamSendError::Closed);
        }
        if self.state.queued_bytes.load(Ordering::Relaxed) + part.len() > STREAM_QUEUE_BYTES_MAX {
            return Err(StreamSendError::Full);
        }
        self.state.queued_bytes.fetch_add(part.len(), Ordering::Relaxed);
        self.sink.complete(self.responder_id, Completion::StreamPart(part));
        Ok(())
    }

    /// True once the client has gone.
    pub fn is_closed(&self) -> bool {
        self.state.closed.load(Ordering::Relaxed)
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        self.sink.complete(self.responder_id, Completion::StreamEnd);
    }
}
