//! Responses of a service, in the forms that may_minihttp can send.

use std::collections::HashSet;
use std::sync::Arc;

use may_minihttp::Response as MayResponse;

use super::completions::CompletionQueue;
use crate::http::encode::{self, DateLine, ResponseOptions};
use crate::http::message::{HeaderField, Responder, ResponseWriter};

/// Larger bodies are moved, not copied.
const COPIED_BODY_BYTES: usize = 4096;
/// may_minihttp's `Response` has room for this many header lines, and panics past them.
const HEADER_LINES_MAX: usize = 16;
/// Distinct header lines kept; past them a line that was never sent before is left out.
const LINES_MAX: usize = 1024;

/// The header lines that were ever sent: `Response::header` takes only `&'static str`.
#[derive(Debug, Default)]
pub(super) struct HeaderLines {
    known: HashSet<&'static str>,
    scratch: String,
}

impl HeaderLines {
    fn get(&mut self, name: &str, value: &str) -> Option<&'static str> {
        self.scratch.clear();
        self.scratch.push_str(name);
        self.scratch.push_str(": ");
        self.scratch.push_str(value);
        if let Some(line) = self.known.get(self.scratch.as_str()) {
            return Some(line);
        }
        if self.known.len() == LINES_MAX {
            return None;
        }
        let line: &'static str = Box::leak(self.scratch.clone().into_boxed_str());
        self.known.insert(line);
        Some(line)
    }
}

/// A borrowed response.
pub(super) struct ResponseParts<'a> {
    pub status: u16,
    pub content_type: &'static str,
    pub fields: &'a [HeaderField],
    pub body: &'a [u8],
}

/// What a service has done with a request.
pub(super) enum MayResponseState {
    Pending,
    /// may_minihttp's response is filled in: this many bytes on the wire.
    Filled(u64),
    /// To be sent past may_minihttp, which cannot leave a body out, as the last response of its
    /// connection: its status and its bytes.
    Direct(u16, Vec<u8>),
    Deferred(Arc<CompletionQueue>),
}

/// Takes one response.
pub(super) struct MayResponseWriter<'a, 'r> {
    pub response: &'a mut MayResponse<'r>,
    pub lines: &'a mut HeaderLines,
    pub options: ResponseOptions,
    pub wall_s: i64,
    pub state: MayResponseState,
}

impl ResponseWriter for MayResponseWriter<'_, '_> {
    fn send(
        &mut self,
        status: u16,
        content_type: &'static str,
        fields: &[HeaderField],
        body: &[u8],
    ) {
        let parts = ResponseParts { status, content_type, fields, body };
        self.state = write(self.response, self.lines, self.options, &parts, self.wall_s);
    }

    fn defer(&mut self) -> Responder {
        let completions = Arc::new(CompletionQueue::new());
        self.state = MayResponseState::Deferred(completions.clone());
        // Each responder has its own queue, so its id is not used.
        Responder::new(0, completions)
    }
}

/// Fills in may_minihttp's response, or encodes the response to a HEAD.
pub(super) fn write(
    response: &mut MayResponse<'_>,
    lines: &mut HeaderLines,
    options: ResponseOptions,
    parts: &ResponseParts<'_>,
    wall_s: i64,
) -> MayResponseState {
    if !options.is_head {
        return MayResponseState::Filled(fill(response, lines, options, parts));
    }
    let mut out = Vec::new();
    let mut date = DateLine::default();
    date.update(wall_s);
    let options = ResponseOptions { closes: true, ..options };
    let ResponseParts { status, content_type, fields, body } = *parts;
    encode::response(&mut out, options, &date, status, content_type, fields, body);
    MayResponseState::Direct(status, out)
}

/// Fills in may_minihttp's response; returns how many bytes it will be on the wire.
fn fill(
    response: &mut MayResponse<'_>,
    lines: &mut HeaderLines,
    options: ResponseOptions,
    parts: &ResponseParts<'_>,
) -> u64 {
    debug_assert!(parts.fields.len() <= HEADER_LINES_MAX - 2, "no route sets as many");
    let status_line = encode::status_line(parts.status);
    let reason = str::from_utf8(&status_line["HTTP/1.1 200 ".len()..status_line.len() - 2])
        .expect("status lines are text");
    response.status_code(usize::from(parts.status), reason);
    let mut wire_bytes = framing_bytes(parts.status, reason, parts.body.len());
    let mut add = |name, value| {
        if let Some(line) = lines.get(name, value) {
            response.header(line);
            wire_bytes += "\r\n".len() + line.len();
        }
    };
    if parts.status != encode::NO_CONTENT {
        add("content-type", parts.content_type);
    }
    for (name, value) in parts.fields.iter().take(HEADER_LINES_MAX - 2) {
        add(name, value);
    }
    for (name, value) in options.fields {
        add(name, value);
    }
    if options.closes {
        add("connection", "close");
    } else if options.is_http10 {
        add("connection", "keep-alive");
    }
    if parts.body.len() <= COPIED_BODY_BYTES {
        response.body_mut().extend_from_slice(parts.body);
    } else {
        response.body_vec(parts.body.to_vec());
    }
    wire_bytes as u64
}

/// The bytes that may_minihttp 0.1.11 writes besides the header lines.
pub(super) fn framing_bytes(status: u16, reason: &str, body_bytes: usize) -> usize {
    let reason = if status == 200 { "Ok" } else { reason };
    "HTTP/1.1 200 ".len()
        + reason.len()
        + "\r\nServer: M\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: \r\n\r\n".len()
        + itoa::Buffer::new().format(body_bytes).len()
        + body_bytes
}
