//! Parses responses: their end, status and accepted count. Pure; incomplete is not an error.

use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::sync::LazyLock;

use memchr::memmem::{self, Finder};

/// A larger response to a POST of samples is malformed.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;
/// A response with more header fields is malformed.
const HEADERS_MAX: usize = 64;

/// One response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsedResponse {
    /// 200 to 999.
    pub status: u16,
    /// The number of accepted samples, if the body has it.
    pub accepted: Option<u64>,
    /// The server closes the connection after it.
    pub is_last: bool,
    /// Its length in the buffer, with interim responses before it.
    pub bytes: usize,
}

/// Bytes that are no HTTP/1 response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedResponse;

/// The first response in `input`; None while it is incomplete. `has_ended`: no bytes follow `input`.
///
/// # Errors
/// When the bytes can't become a response.
pub fn parse(input: &[u8], has_ended: bool) -> Result<Option<ParsedResponse>, MalformedResponse> {
    let mut start = 0;
    loop {
        // Uninitialized: clearing it would take longer than the parsing.
        let mut fields = [MaybeUninit::uninit(); HEADERS_MAX];
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let parsed =
            config.parse_response_with_uninit_headers(&mut response, &input[start..], &mut fields);
        let head = match parsed.map_err(|_| MalformedResponse)? {
            httparse::Status::Partial if input.len() > ANSWER_BYTES_MAX => {
                return Err(MalformedResponse);
            }
            httparse::Status::Partial => return Ok(None),
            httparse::Status::Complete(length) => start + length,
        };
        let status = response.code.ok_or(MalformedResponse)?;
        if status < 200 {
            start = head;
            continue;
        }
        let FramingFields { mut framing, closes, keeps } = FramingFields::of(response.headers)?;
        if matches!(status, 204 | 304) {
            framing = ResponseFraming::Length(0);
        }
        let is_http_10 = response.version == Some(0);
        let found = body(&input[head..], framing, has_ended)?;
        return Ok(found.map(|(body, length)| ParsedResponse {
            status,
            accepted: accepted(&body),
            is_last: closes || (is_http_10 && !keeps) || framing == ResponseFraming::Rest,
            bytes: head + length,
        }));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResponseFraming {
    Length(usize),
    Chunked,
    /// Until the connection ends.
    Rest,
}

/// What the header fields say about the body and the connection.
struct FramingFields {
    framing: ResponseFraming,
    closes: bool,
    keeps: bool,
}

impl FramingFields {
    fn of(headers: &[httparse::Header<'_>]) -> Result<Self, MalformedResponse> {
        let mut fields = Self { framing: ResponseFraming::Rest, closes: false, keeps: false };
        for httparse::Header { name, value } in headers {
            if name.eq_ignore_ascii_case("content-length") {
                let text = std::str::from_utf8(value).map_err(|_| MalformedResponse)?;
                let length = text.trim().parse().map_err(|_| MalformedResponse)?;
                if length > ANSWER_BYTES_MAX {
                    return Err(MalformedResponse);
                }
                fields.framing = ResponseFraming::Length(length);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(MalformedResponse);
                }
                fields.framing = ResponseFraming::Chunked;
            } else if name.eq_ignore_ascii_case("connection") {
                for word in value.split(|byte| *byte == b',') {
                    fields.closes |= word.trim_ascii().eq_ignore_ascii_case(b"close");
                    fields.keeps |= word.trim_ascii().eq_ignore_ascii_case(b"keep-alive");
                }
            }
        }
        Ok(fields)
    }
}

/// A body without its framing, and its length with it.
type UnframedBody<'a> = (Cow<'a, [u8]>, usize);

fn body(
    input: &[u8],
    framing: ResponseFraming,
    has_ended: bool,
) -> Result<Option<UnframedBody<'_>>, MalformedResponse> {
    match framing {
        ResponseFraming::Length(length) => {
            Ok(input.get(..length).map(|body| (body.into(), length)))
        }
        ResponseFraming::Chunked => chunked(input),
        ResponseFraming::Rest if input.len() > ANSWER_BYTES_MAX => Err(MalformedResponse),
        ResponseFraming::Rest => Ok(has_ended.then_some((input.into(), input.len()))),
    }
}

/// Reads a chunked body from its first byte: most arrive in one or two pieces. Trailers are dropped.
fn chunked(input: &[u8]) -> Result<Option<UnframedBody<'_>>, MalformedResponse> {
    const LINE_END: &[u8] = b"\r\n";
    let incomplete =
        || if input.len() > ANSWER_BYTES_MAX { Err(MalformedResponse) } else { Ok(None) };
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let parsed = httparse::parse_chunk_size(&input[at..]).map_err(|_| MalformedResponse)?;
        let httparse::Status::Complete((line, size)) = parsed else { return incomplete() };
        at += line;
        if size == 0 {
            break;
        }
        if size > (ANSWER_BYTES_MAX - body.len()) as u64 {
            return Err(MalformedResponse);
        }
        let end = at + size as usize;
        let Some(line_end) = input.get(end..end + LINE_END.len()) else { return incomplete() };
        if line_end != LINE_END {
            return Err(MalformedResponse);
        }
        body.extend_from_slice(&input[at..end]);
        at = end + LINE_END.len();
    }
    loop {
        let Some(line) = memmem::find(&input[at..], LINE_END) else { return incomplete() };
        at += line + LINE_END.len();
        if line == 0 {
            return Ok(Some((body.into(), at)));
        }
    }
}

static ACCEPTED: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"accepted\":"));

/// The number after `"accepted":` in compact JSON.
fn accepted(body: &[u8]) -> Option<u64> {
    let key = ACCEPTED.find(body)?;
    let rest = body[key + ACCEPTED.needle().len()..].trim_ascii_start();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 35\r\n\r\n\
                        {\"status\":\"accepted\",\"accepted\":12}";

    fn answer(status: u16, accepted: Option<u64>, is_last: bool, bytes: usize) -> ParsedResponse {
        ParsedResponse { status, accepted, is_last, bytes }
    }

    #[test]
    fn an_answer_is_read_once_it_is_whole() {
        let pipelined = [GOOD, GOOD].concat();
        for end in 0..GOOD.len() {
            assert_eq!(parse(&pipelined.as_bytes()[..end], false), Ok(None), "{end}");
        }
        let expected = answer(202, Some(12), false, GOOD.len());
        assert_eq!(parse(pipelined.as_bytes(), false), Ok(Some(expected)));
    }

    #[test]
    fn every_framing_is_understood() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                       6\r\n{\"acce\r\ne\r\npted\":\t7,     \r\n1\r\n}\r\n0\r\n\r\n";
        for end in 0..chunked.len() {
            assert_eq!(parse(&chunked.as_bytes()[..end], false), Ok(None), "{end}");
        }
        let expected = answer(200, Some(7), false, chunked.len());
        assert_eq!(parse(chunked.as_bytes(), false), Ok(Some(expected)));

        let rest = "HTTP/1.0 503 Busy\r\n\r\nbusy";
        assert_eq!(parse(rest.as_bytes(), false), Ok(None));
        let expected = answer(503, None, true, rest.len());
        assert_eq!(parse(rest.as_bytes(), true), Ok(Some(expected)));

        let empty = "HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(parse(empty.as_bytes(), false), Ok(Some(answer(204, None, false, empty.len()))));
    }

    #[test]
    fn the_last_answer_of_a_connection_says_so() {
        for (head, is_last) in [
            ("HTTP/1.1 200 OK\r\nConnection: close", true),
            ("HTTP/1.1 200 OK\r\nconnection: x, Close", true),
            ("HTTP/1.0 200 OK", true),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive", false),
            ("HTTP/1.1 200 OK", false),
        ] {
            let text = format!("{head}\r\nContent-Length: 0\r\n\r\n");
            let expected = answer(200, None, is_last, text.len());
            assert_eq!(parse(text.as_bytes(), false), Ok(Some(expected)), "{head}");
        }
    }

    #[test]
    fn interim_answers_are_passed_over() {
        let text = format!("HTTP/1.1 100 Continue\r\n\r\n{GOOD}");
        let expected = answer(202, Some(12), false, text.len());
        assert_eq!(parse(text.as_bytes(), false), Ok(Some(expected)));
    }

    #[test]
    fn what_is_no_answer_is_malformed() {
        for text in [
            "SSH-2.0-OpenSSH",
            "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno\r\n",
        ] {
            assert_eq!(parse(text.as_bytes(), true), Err(MalformedResponse), "{text}");
        }
    }
}
