//! Test double of the HTTP engine: keeps the answers for the test to inspect.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use serde_json::Value;

use crate::http::message::{
    Completion, CompletionSink, HeaderField, Headers, Method, Request, Responder, Response,
    ResponseWriter,
};
use crate::http::stages::StageTimer;
use sigmad_clock::Now;

/// An engine with one client that keeps answers in the order in which they were sent.
pub struct FakeEngine {
    sent: VecDeque<Response>,
    sink: Arc<CompletionChannel>,
    completed: Receiver<Response>,
}

struct CompletionChannel(Sender<Response>);

impl CompletionSink for CompletionChannel {
    fn complete(&self, _serial: u64, completion: Completion) {
        let Completion::Response(response) = completion else { panic!("nothing is streamed") };
        // A test may end before its last answer arrives.
        let _ = self.0.send(response);
    }
}

impl Default for FakeEngine {
    fn default() -> Self {
        let (sender, completed) = unbounded();
        Self { sent: VecDeque::new(), sink: Arc::new(CompletionChannel(sender)), completed }
    }
}

impl ResponseWriter for FakeEngine {
    fn send(
        &mut self,
        status: u16,
        content_type: &'static str,
        fields: &[HeaderField],
        body: &[u8],
    ) {
        let fields = fields.to_vec();
        self.sent.push_back(Response { status, content_type, fields, body: body.to_vec() });
    }

    fn defer(&mut self) -> Responder {
        Responder::new(0, self.sink.clone())
    }
}

impl FakeEngine {
    /// The next answer sent at once.
    pub fn sent(&mut self) -> Response {
        self.sent.pop_front().expect("an answer")
    }

    /// The next answer sent through a responder; waits for it.
    pub fn completed(&self) -> Response {
        self.completed.recv().expect("an answer")
    }

    /// True if no answer is waiting.
    pub fn is_silent(&self) -> bool {
        self.sent.is_empty() && self.completed.is_empty()
    }
}

/// A request with this query and body, and nothing else.
pub fn request<'a>(query: &'a str, body: &'a mut [u8]) -> Request<'a> {
    Request {
        method: Method::Post,
        path: "/",
        query,
        headers: Headers(&[]),
        body,
        client: std::net::Ipv4Addr::LOCALHOST.into(),
        is_http10: false,
        now: Now::default(),
        stages: StageTimer::default(),
    }
}

/// The value of a header field.
pub fn field<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    let mut fields = response.fields.iter().filter(|(known, _)| *known == name);
    fields.next().map(|(_, value)| &**value)
}

/// The body, which must be JSON.
pub fn json(response: &Response) -> Value {
    let text = String::from_utf8_lossy(&response.body);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
