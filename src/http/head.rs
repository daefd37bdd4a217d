//! The head of a request: where it ends, whether it is valid, and how its body is framed.
//!
//! Pure and allocation-free. [`request_line`] parses the first line, and `httparse` the syntax of the
//! fields. This file adds the rules of RFC 9112 on which two parsers of the same bytes must agree: line
//! ends, lengths, codings, Host. An ambiguous head is refused and its connection closed.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::client_address::ClientAddress;
use super::message::{Headers, Method, Request, is_name};
pub use super::request_error::RequestError;
use super::request_line::{self, is_authority};
use super::stages::StageTimer;
use sigmad_clock::Now;

/// A request with more header fields is answered 431.
pub const HEADERS_MAX: usize = 100;

/// Room for the header fields of one head.
pub type HeaderSlots<'b> = [httparse::Header<'b>; HEADERS_MAX];
/// Slots before a head is parsed.
pub const EMPTY_SLOTS: HeaderSlots<'static> = [httparse::EMPTY_HEADER; HEADERS_MAX];

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// A fixed length in bytes; 0 without a body.
    Length(usize),
    /// Chunked (RFC 9112 section 7.1).
    Chunked,
}

/// A valid head.
#[derive(Debug)]
pub struct Head<'h, 'b> {
    /// The method.
    pub method: Method,
    /// The path of the target, as sent.
    pub path: &'b str,
    /// What follows the `?`, as sent.
    pub query: &'b str,
    /// The fields.
    pub headers: Headers<'h>,
    /// How the body is framed.
    pub framing: BodyFraming,
    /// True when the client keeps the connection open after the response.
    pub keep_alive: bool,
    /// True for HTTP/1.0, where the response must announce keep-alive.
    pub is_http10: bool,
    /// True when the client waits for `100 Continue`.
    pub expects_continue: bool,
    /// The value of Content-Encoding, if there is one.
    pub content_encoding: Option<&'h [u8]>,
}

impl Head<'_, '_> {
    /// The request with this head.
    #[inline]
    pub fn request<'a>(
        &'a self,
        body: &'a mut [u8],
        client: ClientAddress,
        now: Now,
        stages: StageTimer<'a>,
    ) -> Request<'a> {
        let Self { method, path, query, headers, is_http10, .. } = *self;
        Request { method, path, query, headers, body, client, is_http10, now, stages }
    }
}

/// The bytes of a head that have been searched for its end; a search starts with the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadSearch(usize);

const HEAD_END: &[u8] = b"\r\n\r\n";
static HEAD_END_FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(HEAD_END));

/// The length of the head at the start of `buffer`, with its empty line. None when more must arrive.
/// `search` keeps the position, so that a head that arrives in pieces is searched once.
///
/// # Errors
/// When there are more than `head_bytes_max` without an end, or the request line is invalid.
pub fn find_end(
    buffer: &[u8],
    search: &mut HeadSearch,
    head_bytes_max: usize,
) -> Result<Option<usize>, RequestError> {
    let from = search.0;
    let end = HEAD_END_FINDER.find(&buffer[from..]).map(|at| from + at + HEAD_END.len());
    // The last bytes may be the start of the end.
    search.0 = buffer.len().saturating_sub(HEAD_END.len() - 1);
    match end {
        Some(length) if length <= head_bytes_max => Ok(Some(length)),
        None if buffer.len() < head_bytes_max => Ok(None),
        Some(_) | None => Err(too_large(&buffer[..head_bytes_max])),
    }
}

/// Why a head that does not fit into `start` is refused.
#[cold]
fn too_large(start: &[u8]) -> RequestError {
    match request_line::parse(start) {
        Ok(Some(_)) => RequestError::HeadTooLarge,
        Ok(None) => RequestError::TargetTooLong,
        Err(error) => error,
    }
}

/// Refuses an incomplete head that cannot become valid, without waiting for the rest of it.
///
/// # Errors
/// As [`parse`], for the bytes so far.
pub fn check_partial(buffer: &[u8]) -> Result<(), RequestError> {
    let Some(line) = request_line::parse(buffer)? else { return Ok(()) };
    let mut slots = EMPTY_SLOTS;
    match httparse::parse_headers(&buffer[line.length..], &mut slots) {
        Ok(httparse::Status::Partial) => Ok(()),
        // httparse accepts an empty line that find_end does not.
        Ok(httparse::Status::Complete(_)) => Err(RequestError::LineEnd),
        Err(error) => Err(refusal_of(error)),
    }
}

fn refusal_of(error: httparse::Error) -> RequestError {
    match error {
        httparse::Error::TooManyHeaders => RequestError::TooManyHeaders,
        httparse::Error::NewLine => RequestError::LineEnd,
        httparse::Error::HeaderName
        | httparse::Error::HeaderValue
        | httparse::Error::Token
        | httparse::Error::Status
        | httparse::Error::Version => RequestError::HeaderField,
    }
}

/// Parses a whole head, whose length [`find_end`] has found.
///
/// # Errors
/// A [`RequestError`] when it breaks a rule of RFC 9112 or a limit.
pub fn parse<'h, 'b>(
    head: &'b [u8],
    slots: &'h mut HeaderSlots<'b>,
    body_bytes_max: usize,
) -> Result<Head<'h, 'b>, RequestError> {
    if has_bare_line_feed(head) {
        return Err(RequestError::LineEnd);
    }
    let line = request_line::parse(head)?.ok_or(RequestError::RequestLine)?;
    let fields = &head[line.length..];
    let headers: &'h [httparse::Header<'b>] = match httparse::parse_headers(fields, slots) {
        Ok(httparse::Status::Complete((length, headers))) if length == fields.len() => headers,
        // Both parsers must find the same end.
        Ok(_) => return Err(RequestError::HeaderField),
        Err(error) => return Err(refusal_of(error)),
    };
    let is_http10 = line.is_http10;
    let known = KnownFields::parse(headers, is_http10)?;
    let framing = known.framing(is_http10, body_bytes_max)?;
    Ok(Head {
        method: line.method,
        path: line.path,
        query: line.query,
        headers: Headers(headers),
        framing,
        keep_alive: !known.says_close && (!is_http10 || known.says_keep_alive),
        is_http10,
        expects_continue: known.expects_continue,
        content_encoding: known.content_encoding,
    })
}

/// The fields that the engine itself needs.
#[derive(Default)]
struct KnownFields<'h> {
    hosts: usize,
    content_length: Option<u64>,
    /// None without transfer codings, then true while the list is exactly `chunked`.
    chunked: Option<bool>,
    says_close: bool,
    says_keep_alive: bool,
    expects_continue: bool,
    content_encoding: Option<&'h [u8]>,
}

impl<'h> KnownFields<'h> {
    #[inline]
    fn parse(headers: &'h [httparse::Header<'_>], is_http10: bool) -> Result<Self, RequestError> {
        let mut known = Self::default();
        for header in headers {
            let (name, value) = (header.name, header.value);
            match name.len() {
                4 if is_name(name, "host") => {
                    known.hosts += 1;
                    if !is_authority(value) {
                        return Err(RequestError::Host);
                    }
                }
                6 if is_name(name, "expect") && !is_http10 => {
                    if !value.eq_ignore_ascii_case(b"100-continue") {
                        return Err(RequestError::Expectation);
                    }
                    known.expects_continue = true;
                }
                10 if is_name(name, "connection") => {
                    for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                        known.says_close |= option.eq_ignore_ascii_case(b"close");
                        known.says_keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                14 if is_name(name, "content-length") => {
                    // Two fields, even with one value, are a sign of request smuggling.
                    let length = decimal(value)?;
                    set_once(&mut known.content_length, length, RequestError::ContentLength)?;
                }
                16 if is_name(name, "content-encoding") => {
                    set_once(&mut known.content_encoding, value, RequestError::ContentCoding)?;
                }
                17 if is_name(name, "transfer-encoding") => {
                    transfer_encoding(value, &mut known.chunked)?;
                }
                _ => {}
            }
        }
        if known.hosts > 1 || (known.hosts == 0 && !is_http10) {
            return Err(RequestError::Host);
        }
        Ok(known)
    }

    #[inline]
    fn framing(&self, is_http10: bool, body_bytes_max: usize) -> Result<BodyFraming, RequestError> {
        match (self.chunked, self.content_length) {
            (None, length) => {
                let length = length.unwrap_or(0);
                if length > body_bytes_max as u64 {
                    return Err(RequestError::BodyTooLarge);
                }
                Ok(BodyFraming::Length(length as usize))
            }
            (Some(_), Some(_)) => Err(RequestError::TwoFramings),
            (Some(_), None) if is_http10 => Err(RequestError::TwoFramings),
            (Some(true), None) => Ok(BodyFraming::Chunked),
            (Some(false), None) => Err(RequestError::TransferCoding),
        }
    }
}

/// True when a LF has no CR before it. No branch on a byte: the compiler compares sixteen at once.
fn has_bare_line_feed(head: &[u8]) -> bool {
    let pairs = head.iter().zip(&head[1..]);
    pairs.fold(false, |found, (&before, &byte)| found | ((byte == b'\n') & (before != b'\r')))
}

fn set_once<T>(slot: &mut Option<T>, value: T, refusal: RequestError) -> Result<(), RequestError> {
    if slot.replace(value).is_some() { Err(refusal) } else { Ok(()) }
}

fn decimal(value: &[u8]) -> Result<u64, RequestError> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(RequestError::ContentLength);
    }
    Ok(value.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// Reads more of the list of transfer codings. `chunked` is None before the first coding, then true
/// while the list is exactly `chunked`.
fn transfer_encoding(value: &[u8], chunked: &mut Option<bool>) -> Result<(), RequestError> {
    for coding in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
        let is_chunked = coding.eq_ignore_ascii_case(b"chunked");
        *chunked = match *chunked {
            // A parser that stops at `chunked` would see another body.
            Some(true) => return Err(RequestError::TransferEncoding),
            None => Some(is_chunked),
            Some(false) => Some(false),
        };
        if coding.is_empty() {
            return Err(RequestError::TransferEncoding);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY_MAX: usize = 1000;

    fn read(text: &str) -> Result<(Method, String, String, BodyFraming, bool), RequestError> {
        let mut search = HeadSearch::default();
        let Some(length) = find_end(text.as_bytes(), &mut search, 16_384)? else {
            check_partial(text.as_bytes())?;
            return Err(RequestError::Timeout);
        };
        let mut slots = EMPTY_SLOTS;
        let head = parse(&text.as_bytes()[..length], &mut slots, BODY_MAX)?;
        Ok((head.method, head.path.into(), head.query.into(), head.framing, head.keep_alive))
    }

    #[test]
    fn valid_heads_are_parsed() {
        let (method, path, query, framing, keep) =
            read("POST /ingest?a=1 HTTP/1.1\r\nHost: x:80\r\nContent-Length: 47\r\n\r\n")
                .expect("valid");
        assert_eq!((method, path.as_str(), query.as_str()), (Method::Post, "/ingest", "a=1"));
        assert_eq!((framing, keep), (BodyFraming::Length(47), true));
        let keeps = |text: &str| read(text).expect("valid").4;
        assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
        assert!(keeps("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.1\r\nHost: x\r\nConnection: te, close\r\n\r\n"));
        let path = |text: &str| read(text).expect("valid").1;
        assert_eq!(path("GET http://a.b:1/stats?x HTTP/1.1\r\nHost: c\r\n\r\n"), "/stats");
        assert_eq!(path("GET HTTP://a.b?x HTTP/1.1\r\nHost: c\r\n\r\n"), "/");
        assert_eq!(path("OPTIONS * HTTP/1.1\r\nHost: c\r\n\r\n"), "*");
        assert_eq!(
            read("POST / HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: Chunked\r\n\r\n")
                .map(|r| r.3),
            Ok(BodyFraming::Chunked)
        );
    }

    #[test]
    fn a_head_has_the_largest_length_at_most() {
        let head_of = |length: usize, end: &str| {
            let start = "GET / HTTP/1.1\r\nA: ";
            format!("{start}{}{end}", "a".repeat(length - start.len() - end.len()))
        };
        let find = |text: String| find_end(text.as_bytes(), &mut HeadSearch::default(), 100);
        assert_eq!(find(head_of(100, "\r\n\r\n")), Ok(Some(100)));
        assert_eq!(find(head_of(101, "\r\n\r\n")), Err(RequestError::HeadTooLarge));
        assert_eq!(find(head_of(99, "")), Ok(None));
        assert_eq!(find(head_of(100, "")), Err(RequestError::HeadTooLarge));
        assert_eq!(find(head_of(101, "")), Err(RequestError::HeadTooLarge));
    }

    #[test]
    fn a_field_is_known_by_its_name_and_not_by_its_length() {
        let fields = "Date: a/b\r\nCookie: a\r\nUser-Agent: close\r\nAccept-Charset: a\r\n\
            Content-Language: a\r\nContent-Language: b\r\nIf-Modified-Since: a\r\n";
        let (.., framing, keep) =
            read(&format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n")).expect("valid");
        assert_eq!((framing, keep), (BodyFraming::Length(0), true));
        assert!(read("GET / HTTP/1.0\r\nExpect: a\r\n\r\n").is_ok());
    }

    #[test]
    fn invalid_heads_are_refused() {
        for (text, refusal) in [
            ("GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", RequestError::LineEnd),
            ("GET / HTTP/1.1\r\nHost: x\nA: b\nC: d\r\n\r\n", RequestError::LineEnd),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000000000\r\n\r\n",
                RequestError::BodyTooLarge,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Encoding: br\r\n\r\n",
                RequestError::ContentCoding,
            ),
            ("GET  / HTTP/1.1\r\nHost: x\r\n\r\n", RequestError::RequestLine),
            ("GET x HTTP/1.1\r\nHost: x\r\n\r\n", RequestError::RequestLine),
            ("GET /#a HTTP/1.1\r\nHost: x\r\n\r\n", RequestError::RequestLine),
            ("GET * HTTP/1.1\r\nHost: x\r\n\r\n", RequestError::RequestLine),
            ("\x16\x03\x01\x02", RequestError::RequestLine),
            ("GET / HTTP/3.2\r\nHost: x\r\n\r\n", RequestError::Version),
            ("CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n", RequestError::Method),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", RequestError::Host),
            ("PRI * HTTP/2.0\r\n\r\n", RequestError::Version),
            ("GET / HTTP/1.1\nHost: x\n\n", RequestError::LineEnd),
            ("GET / HTTP/1.1x\nHost: x\n\n", RequestError::RequestLine),
            ("GET / HTTP/1.1\r\nHost: x\n\r\n", RequestError::LineEnd),
            ("GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", RequestError::HeaderField),
            ("GET / HTTP/1.1\r\nHost : x\r\n\r\n", RequestError::HeaderField),
            ("GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", RequestError::HeaderField),
            ("GET / HTTP/1.1\r\n\r\n", RequestError::Host),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", RequestError::Host),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", RequestError::Host),
            ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", RequestError::Host),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n",
                RequestError::ContentLength,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\n",
                RequestError::ContentLength,
            ),
            ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: \r\n\r\n", RequestError::ContentLength),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
                RequestError::ContentLength,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                RequestError::ContentLength,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                RequestError::TwoFramings,
            ),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", RequestError::TwoFramings),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
                RequestError::TransferEncoding,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                RequestError::TransferEncoding,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                RequestError::TransferCoding,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n",
                RequestError::BodyTooLarge,
            ),
            ("POST / HTTP/1.1\r\nHost: x\r\nExpect: a miracle\r\n\r\n", RequestError::Expectation),
        ] {
            assert_eq!(read(text).map(|_| ()), Err(refusal), "{text:?}");
        }
    }

    #[test]
    fn limits_are_exact() {
        let head = |size: usize| {
            let base = "GET / HTTP/1.1\r\nHost: x\r\nA: \r\n\r\n";
            format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(size - base.len()))
        };
        assert!(read(&head(16_384)).is_ok());
        assert_eq!(read(&head(16_385)).map(|_| ()), Err(RequestError::HeadTooLarge));
        let target = |size: usize| format!("GET /{} HTTP/1.1\r\n", "a".repeat(size - 16));
        let line = |size: usize| read(&format!("{}Host: x\r\n\r\n", target(size))).map(|_| ());
        assert_eq!(line(16_384), Err(RequestError::HeadTooLarge));
        assert_eq!(line(16_385), Err(RequestError::TargetTooLong));
        let body = |length: usize| {
            read(&format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"))
                .map(|r| r.3)
        };
        assert_eq!(body(BODY_MAX), Ok(BodyFraming::Length(BODY_MAX)));
        assert_eq!(body(BODY_MAX + 1), Err(RequestError::BodyTooLarge));
        let fields = |count: usize| {
            format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(count - 1))
        };
        assert!(read(&fields(100)).is_ok());
        assert_eq!(read(&fields(101)).map(|_| ()), Err(RequestError::TooManyHeaders));
    }

    #[test]
    fn a_head_in_pieces_ends_where_the_whole_one_does() {
        let text = b"POST /ingest HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1";
        let mut search = HeadSearch::default();
        for end in 0..text.len() - 1 {
            assert_eq!(find_end(&text[..end], &mut search, 100), Ok(None), "{end}");
            assert_eq!(check_partial(&text[..end]), Ok(()), "{end}");
        }
        assert_eq!(find_end(text, &mut search, 100), Ok(Some(text.len() - 1)));
    }
}
