//! What the engines and their service say to each other: requests, answers, responders.
//!
//! An engine reads a [`Request`], calls the [`Service`], and writes what it put into the [`ResponseWriter`].
//! A service that cannot answer at once takes a [`Responder`] and answers from another thread, whole or
//! as a stream. Nothing here touches a socket.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sigmad_clock::Now;

/// The method of a request, as far as sigmad tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// HEAD: answered like GET; the engine leaves the body out.
    Head,
    /// POST
    Post,
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
/// For the bytes of a token (RFC 9110 section 5.6.2), of which only capitals become small letters or
/// a hyphen by setting bit 5; without a branch on each byte, which pays on every request.
#[inline]
pub fn is_name(name: &str, lower: &str) -> bool {
    name.len() == lower.len()
        && name
            .bytes()
            .zip(lower.bytes())
            .fold(0, |differing, (one, other)| differing | ((one | 0x20) ^ other))
            == 0
}

/// One request, whole: framing and content coding already undone.
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
    /// The body, unpacked; the service may use it as scratch space.
    pub body: &'a mut [u8],
    /// True when the client's address is a loopback one.
    pub is_loopback: bool,
    /// When the request was read.
    pub now: Now,
    /// True for the one request in N whose stages are timed.
    pub is_timed: bool,
}

/// Extra header fields of an answer.
pub type HeaderField = (&'static str, Cow<'static, str>);

/// Where a service puts its answer: exactly one call for each request.
pub trait ResponseWriter {
    /// Answers now. The engine adds `Date`, `Content-Length` and `Connection`.
    fn send(
        &mut self,
        status: u16,
        content_type: &'static str,
        fields: &[HeaderField],
        body: &[u8],
    );
    /// Promises an answer by responder, from any thread.
    fn defer(&mut self) -> Responder;
}

/// What an engine serves.
pub trait Service {
    /// Answers one request.
    fn call(&mut self, request: Request<'_>, answer: &mut dyn ResponseWriter);
    /// The last request of a round has been called: what was promised in it is handed over now.
    /// No answer of the round has left yet.
    fn round_called(&mut self, now: Now);
    /// The answers of the round have left, `elapsed_ns` after it began.
    fn round_answered(&mut self, elapsed_ns: u64);
}

/// A whole answer, for those who answer by responder.
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

/// What comes back to an engine for a responder.
#[derive(Debug)]
pub enum Completion {
    /// The whole answer.
    Response(Response),
    /// The head of a streamed answer (its `body` is the first part).
    StreamStart(Response, Arc<StreamState>),
    /// A further part of a streamed answer.
    StreamPart(Vec<u8>),
    /// The end of a streamed answer.
    StreamEnd,
}

/// How deliveries reach the engine that gave out a responder.
pub trait CompletionSink: Send + Sync {
    /// Takes one completion for the responder `responder_id`; must not block.
    fn complete(&self, responder_id: u64, completion: Completion);
}

/// The right, and the duty, to answer one request from any thread.
///
/// Dropped unused it answers 500, so that no client waits for ever.
pub struct Responder {
    responder_id: u64,
    sink: Option<Arc<dyn CompletionSink>>,
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Responder").field("responder_id", &self.responder_id).finish()
    }
}

impl Responder {
    /// A responder that its engine knows by `responder_id`.
    pub fn new(responder_id: u64, sink: Arc<dyn CompletionSink>) -> Self {
        Self { responder_id, sink: Some(sink) }
    }

    /// Answers whole.
    pub fn send(mut self, response: Response) {
        if let Some(sink) = self.sink.take() {
            sink.complete(self.responder_id, Completion::Response(response));
        }
    }

    /// Begins a streamed answer of unknown length.
    pub fn stream(mut self, head: Response) -> StreamWriter {
        let state = Arc::new(StreamState::default());
        let sink = self.sink.take().expect("a responder is used once");
        state.queued_bytes.fetch_add(head.body.len(), Ordering::Relaxed);
        sink.complete(self.responder_id, Completion::StreamStart(head, state.clone()));
        StreamWriter { responder_id: self.responder_id, sink, state }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Some(sink) = self.sink.take() {
            let response = Response {
                status: 500,
                content_type: "application/json",
                fields: Vec::new(),
                body: br#"{"error":{"code":"internal","message":"the request was given up"}}"#
                    .to_vec(),
            };
            sink.complete(self.responder_id, Completion::Response(response));
        }
    }
}

/// What the two ends of a streamed answer know of each other.
#[derive(Debug, Default)]
pub struct StreamState {
    /// Bytes accepted from the writer and not yet taken by the kernel.
    pub queued_bytes: AtomicUsize,
    /// Set by the engine when the client has gone.
    pub closed: AtomicBool,
}

/// Bytes a streamed answer may have waiting for its client; past it a part is refused.
pub const STREAM_QUEUE_BYTES_MAX: usize = 256 * 1024;

/// Why a part of a stream was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamSendError {
    /// The client reads too slowly: the part was not queued. Wait, or drop the client.
    Full,
    /// The client has gone.
    Closed,
}

/// Writes a streamed answer from any thread; dropping it ends the answer.
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
