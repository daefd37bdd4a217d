//! Responses to bytes: heads, chunks, the Date line.

use std::borrow::Cow;

use super::Limits;
use super::cors::{self, CorsPolicy, FixedFields};
use super::head::{Head, RequestError};
use super::message::{HeaderField, Method};

/// The interim response for a client that waits before it sends its body.
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The status of a response that has no body.
pub(super) const NO_CONTENT: u16 = 204;

/// What a response takes over from its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ResponseOptions {
    /// HTTP/1.0: keep-alive needs a header field, and there are no chunks.
    pub is_http10: bool,
    /// HEAD: no body is sent.
    pub is_head: bool,
    /// The connection closes after the response.
    pub closes: bool,
    /// Further fields, whatever the response.
    pub fields: FixedFields,
}

impl ResponseOptions {
    /// Those of a request that is served.
    #[inline]
    pub fn new(head: &Head<'_, '_>, closes: bool, limits: &Limits) -> Self {
        let origin = |cors: &CorsPolicy| cors.fields(head.headers.get("origin"), head.method);
        Self {
            is_http10: head.is_http10,
            is_head: head.method == Method::Head,
            closes,
            fields: limits.cors.map_or(&[], origin),
        }
    }

    /// Those of the refusal of a request of which `data` has arrived.
    #[cold]
    pub fn refusing(data: &[u8], limits: &Limits) -> Self {
        // Of a HEAD whose line is invalid or incomplete, too, a body would be taken for the next response.
        let is_head = data.starts_with(b"HEAD ");
        let fields = |cors: &CorsPolicy| cors.fields(cors::origin_in(data), Method::Other);
        Self { fields: limits.cors.map_or(&[], fields), ..Self::closing(is_head) }
    }

    fn is_same(&self, other: &Self) -> bool {
        let flags = |one: &Self| (one.is_http10, one.is_head, one.closes);
        flags(self) == flags(other) && std::ptr::eq(self.fields, other.fields)
    }

    /// Those of the last response of a connection.
    pub const fn closing(is_head: bool) -> Self {
        Self { is_http10: false, is_head, closes: true, fields: &[] }
    }
}

/// How a response announces the length of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyLength {
    /// Content-Length.
    Known(usize),
    /// Chunked, or to the end of the connection for HTTP/1.0.
    Streamed,
}

/// The `Date` line, written once a second.
#[derive(Debug)]
pub struct DateLine {
    wall_s: i64,
    line: [u8; 37],
}

impl Default for DateLine {
    fn default() -> Self {
        let mut line = Self { wall_s: -1, line: *b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n" };
        line.update(0);
        line
    }
}

impl DateLine {
    /// Sets the line to that second since 1970.
    pub fn update(&mut self, wall_s: i64) {
        if wall_s == self.wall_s {
            return;
        }
        self.wall_s = wall_s;
        let Ok(date) = time::OffsetDateTime::from_unix_timestamp(wall_s) else { return };
        const DAYS: [&[u8; 3]; 7] = [b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun"];
        const MONTHS: [&[u8; 3]; 12] = [
            b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov",
            b"Dec",
        ];
        let line = &mut self.line;
        line[6..9].copy_from_slice(DAYS[usize::from(date.weekday().number_days_from_monday())]);
        two_digits(&mut line[11..13], date.day());
        line[14..17].copy_from_slice(MONTHS[usize::from(u8::from(date.month())) - 1]);
        two_digits(&mut line[18..20], (date.year() / 100) as u8);
        two_digits(&mut line[20..22], (date.year() % 100) as u8);
        two_digits(&mut line[23..25], date.hour());
        two_digits(&mut line[26..28], date.minute());
        two_digits(&mut line[29..31], date.second());
    }

    /// `date: …\r\n`
    pub fn as_bytes(&self) -> &[u8] {
        &self.line
    }
}

fn two_digits(into: &mut [u8], number: u8) {
    into[0] = b'0' + number / 10;
    into[1] = b'0' + number % 10;
}

/// What a head without fields of its response says.
#[derive(Clone, Copy, Debug)]
struct PlainHead {
    wall_s: i64,
    status: u16,
    content_type: &'static str,
    body_bytes: usize,
    options: ResponseOptions,
}

impl PlainHead {
    /// False also for some that would be equal: texts are compared by their place.
    fn is_same(&self, other: &Self) -> bool {
        self.wall_s == other.wall_s
            && self.status == other.status
            && self.body_bytes == other.body_bytes
            && std::ptr::eq(self.content_type, other.content_type)
            && self.options.is_same(&other.options)
    }
}

/// The head of the last response without fields of its own. Most responses of a second have the same, and to make it
/// costs more than to judge a sample.
#[derive(Debug, Default)]
pub(super) struct LastHead {
    says: Option<PlainHead>,
    bytes: Vec<u8>,
}

impl LastHead {
    /// Writes the head of a response without fields of its own.
    #[inline]
    pub fn write(
        &mut self,
        out: &mut Vec<u8>,
        options: ResponseOptions,
        date: &DateLine,
        status: u16,
        content_type: &'static str,
        body_bytes: usize,
    ) {
        let wall_s = date.wall_s;
        let says = PlainHead { wall_s, status, content_type, body_bytes, options };
        if !self.says.is_some_and(|last| last.is_same(&says)) {
            self.bytes.clear();
            let length = BodyLength::Known(body_bytes);
            head(&mut self.bytes, options, date, status, content_type, &[], length);
            self.says = Some(says);
        }
        out.extend_from_slice(&self.bytes);
    }
}

/// Writes a response whose body is known.
pub(super) fn response(
    out: &mut Vec<u8>,
    options: ResponseOptions,
    date: &DateLine,
    status: u16,
    content_type: &str,
    fields: &[HeaderField],
    body: &[u8],
) {
    head(out, options, date, status, content_type, fields, BodyLength::Known(body.len()));
    if !options.is_head {
        out.extend_from_slice(body);
    }
}

/// Writes the head of a response.
pub(super) fn head(
    out: &mut Vec<u8>,
    options: ResponseOptions,
    date: &DateLine,
    status: u16,
    content_type: &str,
    fields: &[HeaderField],
    length: BodyLength,
) {
    out.extend_from_slice(status_line(status));
    out.extend_from_slice(date.as_bytes());
    if status != NO_CONTENT {
        line(out, "content-type", content_type);
    }
    for (name, value) in fields {
        line(out, name, value);
    }
    for (name, value) in options.fields {
        line(out, name, value);
    }
    match length {
        // RFC 9110 section 8.6: no length, not even 0.
        _ if status == NO_CONTENT => {}
        BodyLength::Known(bytes) => {
            out.extend_from_slice(b"content-length: ");
            out.extend_from_slice(itoa::Buffer::new().format(bytes).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        BodyLength::Streamed if options.is_http10 => {}
        BodyLength::Streamed => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    if options.closes {
        out.extend_from_slice(b"connection: close\r\n");
    } else if options.is_http10 {
        out.extend_from_slice(b"connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

#[inline]
fn line(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes one part of a streamed response.
pub(super) fn part(out: &mut Vec<u8>, options: ResponseOptions, part: &[u8]) {
    if options.is_head || part.is_empty() {
        return;
    }
    if options.is_http10 {
        out.extend_from_slice(part);
        return;
    }
    out.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
    out.extend_from_slice(part);
    out.extend_from_slice(b"\r\n");
}

/// Writes the end of a streamed response.
pub(super) fn end(out: &mut Vec<u8>, options: ResponseOptions) {
    if !options.is_head && !options.is_http10 {
        out.extend_from_slice(b"0\r\n\r\n");
    }
}

/// Writes the refusal of a request, after which the connection closes.
#[cold]
pub(super) fn refusal(
    out: &mut Vec<u8>,
    options: ResponseOptions,
    date: &DateLine,
    error: RequestError,
    message: &str,
) {
    let body = refusal_body(error, message);
    let again = [("Retry-After", Cow::Borrowed("1"))];
    let fields = if error == RequestError::Memory { &again[..] } else { &[] };
    response(out, options, date, error.status(), "application/json", fields, body.as_bytes());
}

/// The body of a refusal.
pub(super) fn refusal_body(error: RequestError, message: &str) -> String {
    format!(r#"{{"error":{{"code":"{}","message":"{message}"}}}}"#, error.code())
}

/// The status line (RFC 9110 section 15). A code that sigmad does not send becomes 500.
pub(super) fn status_line(status: u16) -> &'static [u8] {
    match status {
        200 => b"HTTP/1.1 200 OK\r\n",
        201 => b"HTTP/1.1 201 Created\r\n",
        202 => b"HTTP/1.1 202 Accepted\r\n",
        204 => b"HTTP/1.1 204 No Content\r\n",
        400 => b"HTTP/1.1 400 Bad Request\r\n",
        401 => b"HTTP/1.1 401 Unauthorized\r\n",
        403 => b"HTTP/1.1 403 Forbidden\r\n",
        404 => b"HTTP/1.1 404 Not Found\r\n",
        405 => b"HTTP/1.1 405 Method Not Allowed\r\n",
        406 => b"HTTP/1.1 406 Not Acceptable\r\n",
        408 => b"HTTP/1.1 408 Request Timeout\r\n",
        409 => b"HTTP/1.1 409 Conflict\r\n",
        413 => b"HTTP/1.1 413 Content Too Large\r\n",
        414 => b"HTTP/1.1 414 URI Too Long\r\n",
        415 => b"HTTP/1.1 415 Unsupported Media Type\r\n",
        417 => b"HTTP/1.1 417 Expectation Failed\r\n",
        429 => b"HTTP/1.1 429 Too Many Requests\r\n",
        431 => b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
        501 => b"HTTP/1.1 501 Not Implemented\r\n",
        503 => b"HTTP/1.1 503 Service Unavailable\r\n",
        505 => b"HTTP/1.1 505 HTTP Version Not Supported\r\n",
        _ => b"HTTP/1.1 500 Internal Server Error\r\n",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: ResponseOptions =
        ResponseOptions { is_http10: false, is_head: false, closes: false, fields: &[] };

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn the_date_is_an_imf_fixdate() {
        let mut date = DateLine::default();
        date.update(784_111_777); // the example of RFC 9110 section 5.6.7
        assert_eq!(date.as_bytes(), b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
    }

    #[test]
    fn responses_follow_their_options() {
        let date = DateLine::default();
        let one = |options| {
            text(|out| response(out, options, &date, 202, "a/b", &[("x", "y".into())], b"{}"))
        };
        assert_eq!(
            one(PLAIN),
            "HTTP/1.1 202 Accepted\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
             content-type: a/b\r\nx: y\r\ncontent-length: 2\r\n\r\n{}"
        );
        assert!(
            one(ResponseOptions { is_head: true, ..PLAIN }).ends_with("content-length: 2\r\n\r\n")
        );
        assert_eq!(
            text(|out| response(out, PLAIN, &date, 204, "a/b", &[("x", "y".into())], b"")),
            "HTTP/1.1 204 No Content\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\nx: y\r\n\r\n"
        );
        assert!(
            one(ResponseOptions { closes: true, ..PLAIN }).contains("\r\nconnection: close\r\n")
        );
        assert!(
            one(ResponseOptions { is_http10: true, ..PLAIN })
                .contains("\r\nconnection: keep-alive\r\n")
        );
    }

    #[test]
    fn the_last_head_is_written_again_only_where_it_says_the_same() {
        const VARY: FixedFields = &[("vary", "origin")];
        let mut date = DateLine::default();
        let mut last = LastHead::default();
        for wall_s in [0, 1] {
            date.update(wall_s);
            for options in [
                PLAIN,
                ResponseOptions { is_http10: true, ..PLAIN },
                ResponseOptions { is_head: true, ..PLAIN },
                ResponseOptions { closes: true, ..PLAIN },
                ResponseOptions { fields: VARY, ..PLAIN },
            ] {
                for (status, kind, bytes) in [
                    (202, "a/b", 2),
                    (202, "a/b", 3),
                    (400, "a/b", 3),
                    (400, "c/d", 3),
                    (204, "c/d", 0),
                ] {
                    let length = BodyLength::Known(bytes);
                    let made = text(|out| head(out, options, &date, status, kind, &[], length));
                    for _ in 0..2 {
                        let written =
                            text(|out| last.write(out, options, &date, status, kind, bytes));
                        assert_eq!(written, made);
                    }
                }
            }
        }
    }

    #[test]
    fn streams_are_chunked_but_for_http10() {
        let date = DateLine::default();
        let stream = |options| {
            text(|out| {
                head(out, options, &date, 200, "a/b", &[], BodyLength::Streamed);
                out.clear();
                part(out, options, b"0123456789abcdef");
                part(out, options, b"");
                end(out, options);
            })
        };
        assert_eq!(stream(PLAIN), "10\r\n0123456789abcdef\r\n0\r\n\r\n");
        assert_eq!(stream(ResponseOptions { is_http10: true, ..PLAIN }), "0123456789abcdef");
        assert_eq!(stream(ResponseOptions { is_head: true, ..PLAIN }), "");
    }
}
