//! The rows of framing: bytes, and the responses that RFC 9112 permits.

use crate::harness::{get, post, request};

/// The sample of the rows: 17 bytes, 0x11.
pub(super) const BODY: &[u8] = br#"{"cpu":1,"rps":1}"#;
const _: () = assert!(BODY.len() == 17);
/// The least number of rows.
pub(super) const CASES_MIN: usize = 150;

/// One row: all bytes are sent, then the answers are read.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    /// The permitted status codes of each response.
    pub(super) answers: Vec<&'static [u16]>,
    pub(super) end: CaseEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CaseEnd {
    /// The server closes the connection after the last response.
    Closes,
    /// The connection stays open until the client has finished.
    Stays,
    /// Both are permitted.
    Any,
}

fn case(name: &str, bytes: Vec<u8>, answers: &[&'static [u16]], end: CaseEnd) -> Case {
    Case { name: name.to_owned(), bytes, answers: answers.to_vec(), end }
}

/// Answered once with one of these, then closed; a request that follows is never executed.
fn refused(name: &str, mut bytes: Vec<u8>, statuses: &'static [u16]) -> Case {
    bytes.extend_from_slice(&smuggled());
    case(name, bytes, &[statuses], CaseEnd::Closes)
}

fn accepted(name: &str, bytes: Vec<u8>) -> Case {
    case(name, bytes, &[&[202]], CaseEnd::Stays)
}

/// RFC 9112 leaves the choice: closing without executing, or serving.
fn either(name: &str, bytes: Vec<u8>) -> Case {
    case(name, bytes, &[&[202, 400]], CaseEnd::Any)
}

pub(super) fn smuggled() -> Vec<u8> {
    post("/ingest", br#"{"device":"smuggled","cpu":99,"rps":99}"#)
}

/// A POST with these header lines as they are, and the body.
pub(super) fn raw(lines: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("POST /ingest HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

pub(super) fn with_length(length: &str) -> Vec<u8> {
    raw(&format!("Content-Length:{length}\r\n"), BODY)
}

/// With a good Content-Length besides these header lines.
pub(super) fn with_lines(lines: &str) -> Vec<u8> {
    raw(&format!("{lines}Content-Length: 17\r\n"), BODY)
}

fn with_lines_bytes(lines: &[u8]) -> Vec<u8> {
    [b"POST /ingest HTTP/1.1\r\nHost: a\r\n", lines, b"Content-Length: 17\r\n\r\n", BODY].concat()
}

/// The whole body in one chunk, for rows about the coding.
pub(super) fn one_chunk() -> Vec<u8> {
    [b"11\r\n", BODY, b"\r\n0\r\n\r\n"].concat()
}

fn with_coding(lines: &str) -> Vec<u8> {
    raw(lines, &one_chunk())
}

/// A chunked body as it is.
pub(super) fn chunks(parts: &[&[u8]]) -> Vec<u8> {
    raw("Transfer-Encoding: chunked\r\n", &parts.concat())
}

/// A chunk whose size line is this.
pub(super) fn sized(line: &[u8]) -> Vec<u8> {
    chunks(&[line, BODY, b"\r\n0\r\n\r\n"])
}

fn with_host(host: &str) -> Vec<u8> {
    let head = format!("POST /ingest HTTP/1.1\r\nHost: {host}\r\nContent-Length: 17\r\n\r\n");
    [head.as_bytes(), BODY].concat()
}

pub(super) fn with_request_line(line: &[u8]) -> Vec<u8> {
    [line, b"Host: a\r\nContent-Length: 17\r\n\r\n", BODY].concat()
}

pub(super) const BAD: &[u16] = &[400];

pub(super) fn length_cases() -> Vec<Case> {
    let chunked = "Transfer-Encoding: chunked\r\n";
    vec![
        accepted("length", with_length(" 17")),
        accepted("length without a space", with_length("17")),
        accepted("length between spaces", with_length("   17  ")),
        accepted("length between tabs", with_length("\t17\t")),
        accepted("length, name in capitals", raw("CONTENT-LENGTH: 17\r\n", BODY)),
        refused(
            "length, then chunked",
            with_coding(&format!("Content-Length: 5\r\n{chunked}")),
            BAD,
        ),
        refused(
            "chunked, then length",
            with_coding(&format!("{chunked}Content-Length: 5\r\n")),
            BAD,
        ),
        refused(
            "length right, then chunked",
            with_coding(&format!("Content-Length: 27\r\n{chunked}")),
            BAD,
        ),
        refused(
            "length zero, then chunked",
            with_coding(&format!("Content-Length: 0\r\n{chunked}")),
            BAD,
        ),
        refused(
            "length and an unknown coding",
            raw("Content-Length: 17\r\nTransfer-Encoding: x\r\n", BODY),
            &[400, 501],
        ),
        refused(
            "two lengths, longer last",
            raw("Content-Length: 5\r\nContent-Length: 17\r\n", BODY),
            BAD,
        ),
        refused(
            "two lengths, longer first",
            raw("Content-Length: 17\r\nContent-Length: 5\r\n", BODY),
            BAD,
        ),
        refused(
            "two lengths, one bad",
            raw("Content-Length: 17\r\nContent-Length: x\r\n", BODY),
            BAD,
        ),
        refused(
            "two lengths, one empty",
            raw("Content-Length: 17\r\nContent-Length:\r\n", BODY),
            BAD,
        ),
        either("two equal lengths", raw("Content-Length: 17\r\nContent-Length: 17\r\n", BODY)),
        either("list of equal lengths", with_length(" 17, 17")),
        refused("list of differing lengths", with_length(" 17, 5"), BAD),
        refused("list with an empty part", with_length(" 17,"), BAD),
        refused("length with plus", with_length(" +17"), BAD),
        refused("length with minus", with_length(" -17"), BAD),
        refused("length minus zero", with_length(" -0"), BAD),
        refused("length with a space inside", with_length(" 1 7"), BAD),
        refused("length in hex", with_length(" 0x11"), BAD),
        refused("length in bare hex", with_length(" 1f"), BAD),
        refused("length with a point", with_length(" 17.0"), BAD),
        refused("length with an exponent", with_length(" 17e0"), BAD),
        refused("length with an underscore", with_length(" 1_7"), BAD),
        refused("length in quotes", with_length(" \"17\""), BAD),
        refused("length with a semicolon", with_length(" 17;x=1"), BAD),
        refused("length empty", with_length(""), BAD),
        refused("length of spaces", with_length("   "), BAD),
        refused("length in words", with_length(" seventeen"), BAD),
        refused("length in wide digits", with_length(" １７"), BAD),
        refused("length of 2^64", with_length(" 18446744073709551616"), &[400, 413]),
        refused("length of 2^64 + 17", with_length(" 18446744073709551633"), &[400, 413]),
        refused("length of 2^63", with_length(" 9223372036854775808"), &[400, 413]),
        refused("length of 40 digits", with_length(&format!(" {}", "9".repeat(40))), &[400, 413]),
        either("length with leading zeros", with_length(" 00017")),
        refused("length after a vertical tab", with_length(" \x0b17"), BAD),
        refused("length with NUL", with_length(" 17\0"), BAD),
        // Without a length there is no body: what follows is the next request, and it is malformed.
        case(
            "length with an underscore in its name",
            raw("Content_Length: 17\r\n", BODY),
            &[&[400, 411]],
            CaseEnd::Any,
        ),
        case("no length", raw("", b""), &[&[400, 411]], CaseEnd::Any),
        case("length zero", raw("Content-Length: 0\r\n", b""), &[BAD], CaseEnd::Stays),
    ]
}

pub(super) fn coding_cases() -> Vec<Case> {
    const UNKNOWN: &[u16] = &[400, 501];
    let coding = |value: &str| with_coding(&format!("Transfer-Encoding:{value}\r\n"));
    vec![
        accepted("chunked", coding(" chunked")),
        accepted("chunked without a space", coding("chunked")),
        accepted("chunked with a capital", coding(" Chunked")),
        accepted("chunked in capitals", coding(" CHUNKED")),
        accepted("chunked between tabs", coding("\tchunked\t")),
        accepted("chunked, name in lower case", with_coding("transfer-encoding: chunked\r\n")),
        refused("chunked twice in a list", coding(" chunked, chunked"), UNKNOWN),
        refused(
            "chunked twice in two fields",
            with_coding("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            UNKNOWN,
        ),
        refused(
            "chunked and identity in two fields",
            with_coding("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
            UNKNOWN,
        ),
        refused(
            "identity and chunked in two fields",
            with_coding("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"),
            UNKNOWN,
        ),
        refused("xchunked", coding(" xchunked"), UNKNOWN),
        refused("chunkedx", coding(" chunkedx"), UNKNOWN),
        refused("chunked not last", coding(" chunked, gzip"), UNKNOWN),
        refused("chunked after gzip", coding(" gzip, chunked"), UNKNOWN),
        refused("gzip as a transfer coding", coding(" gzip"), UNKNOWN),
        refused("identity", coding(" identity"), UNKNOWN),
        refused("empty coding", coding(""), UNKNOWN),
        refused("chunked with a parameter", coding(" chunked;q=1"), UNKNOWN),
        refused("chunked in quotes", coding(" \"chunked\""), UNKNOWN),
        refused("chunked with a space inside", coding(" chun ked"), UNKNOWN),
        refused("chunked after a vertical tab", coding(" \x0bchunked"), UNKNOWN),
        refused("chunked with NUL", coding(" chunked\0"), UNKNOWN),
        refused("chunked with NBSP", coding(" chunked\u{a0}"), UNKNOWN),
        refused("chunked and a word", coding(" chunked x"), UNKNOWN),
        refused("space before the colon of the coding", with_coding("Transfer-Encoding : chunked\r\n"), BAD),
        refused("tab before the colon of the coding", with_coding("Transfer-Encoding\t: chunked\r\n"), BAD),
        refused("coding in a folded line", with_coding("X: a\r\n Transfer-Encoding: chunked\r\n"), BAD),
        refused("coding with a folded value", with_coding("Transfer-Encoding:\r\n chunked\r\n"), BAD),
        refused("coding after a bare LF", with_coding("X: a\nTransfer-Encoding: chunked\r\n"), BAD),
        refused("coding after a bare CR", with_coding("X: a\rTransfer-Encoding: chunked\r\n"), BAD),
        refused(
            "chunked in HTTP/1.0",
            [b"POST /ingest HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", &one_chunk()[..]].concat(),
            BAD,
        ),
        refused(
            "chunked and a length in HTTP/1.0",
            [
                b"POST /ingest HTTP/1.0\r\nContent-Length: 27\r\nTransfer-Encoding: chunked\r\n\r\n",
                &one_chunk()[..],
            ]
            .concat(),
            BAD,
        ),
        case(
            "coding with an underscore in its name",
            with_coding("Transfer_Encoding: chunked\r\n"),
            &[&[400, 411]],
            CaseEnd::Any,
        ),
    ]
}

pub(super) fn chunk_cases() -> Vec<Case> {
    let one = |tail: &[u8]| chunks(&[b"11\r\n", BODY, b"\r\n", tail]);
    let many_trailers: String = (0..101).map(|i| format!("X-{i}: 1\r\n")).collect();
    let long = "x".repeat(64 * 1024);
    vec![
        accepted("one chunk", sized(b"11\r\n")),
        accepted(
            "two chunks",
            chunks(&[b"8\r\n", &BODY[..8], b"\r\n9\r\n", &BODY[8..], b"\r\n0\r\n\r\n"]),
        ),
        accepted("chunk size with zeros", sized(b"00011\r\n")),
        accepted(
            "chunk size in either case",
            chunks(&[b"a\r\n", &BODY[..10], b"\r\n7\r\n", &BODY[10..], b"\r\n0\r\n\r\n"]),
        ),
        accepted(
            "chunk size in capitals",
            chunks(&[b"A\r\n", &BODY[..10], b"\r\n7\r\n", &BODY[10..], b"\r\n0\r\n\r\n"]),
        ),
        accepted("chunk extension", sized(b"11;a=b\r\n")),
        accepted("chunk extension without a value", sized(b"11;a\r\n")),
        accepted("chunk extension in quotes", sized(b"11;a=\"q;r\"\r\n")),
        accepted("extension of the last chunk", one(b"0;a=b\r\n\r\n")),
        accepted("last chunk of many zeros", one(b"000\r\n\r\n")),
        accepted("trailer", one(b"0\r\nX-Checksum: 1\r\n\r\n")),
        accepted("two trailers", one(b"0\r\nX-A: 1\r\nX-B: 2\r\n\r\n")),
        either("chunk size with many zeros", sized(&[&[b'0'; 200][..], b"11\r\n"].concat())),
        refused("space after the chunk size", sized(b"11 \r\n"), BAD),
        accepted("space before the extension", sized(b"11 ;a=b\r\n")),
        accepted("spaces around the parts of an extension", sized(b"11\t; a = \"\\\"\" ;b\r\n")),
        refused("extension without a name", sized(b"11;\r\n"), BAD),
        refused("extension with a space inside", sized(b"11;a b\r\n"), BAD),
        refused("extension with an open quote", sized(b"11;a=\"b\r\n"), BAD),
        refused("extension with text behind its quotes", sized(b"11;a=\"b\"c\r\n"), BAD),
        refused("chunk size empty", sized(b"\r\n"), BAD),
        refused("chunk size of an extension", sized(b";a=b\r\n"), BAD),
        refused("chunk size with minus", sized(b"-11\r\n"), BAD),
        refused("chunk size with plus", sized(b"+11\r\n"), BAD),
        refused("chunk size with 0x", sized(b"0x11\r\n"), BAD),
        refused("chunk size with an underscore", sized(b"1_1\r\n"), BAD),
        refused("chunk size not hex", sized(b"1g\r\n"), BAD),
        refused("chunk size after a space", sized(b" 11\r\n"), BAD),
        refused("chunk size with a space inside", sized(b"1 1\r\n"), BAD),
        refused("chunk size with NUL", sized(b"11\0\r\n"), BAD),
        refused("chunk size of 2^64 + 17", sized(b"10000000000000011\r\n"), &[400, 413]),
        refused("chunk size of 2^64 - 1", sized(b"ffffffffffffffff\r\n"), &[400, 413]),
        refused("chunk size of 2^63 - 1", sized(b"7fffffffffffffff\r\n"), &[400, 413]),
        refused("chunk size of 20 digits", sized(b"fffffffffffffffffff1\r\n"), &[400, 413]),
        refused("chunk size ended by LF", sized(b"11\n"), BAD),
        refused("chunk size ended by CR", sized(b"11\r"), BAD),
        refused("chunk size ended by CR CR LF", sized(b"11\r\r\n"), BAD),
        refused("extension ended by LF", sized(b"11;a=b\n"), BAD),
        refused("extension with a bare CR", sized(b"11;a=\rb\r\n"), BAD),
        refused("extension with NUL", sized(b"11;a=\0\r\n"), BAD),
        refused("extension too long", sized(format!("11;{long}\r\n").as_bytes()), &[400, 413, 431]),
        refused("no line end after a chunk", chunks(&[b"11\r\n", BODY, b"0\r\n\r\n"]), BAD),
        refused("LF after a chunk", chunks(&[b"11\r\n", BODY, b"\n0\r\n\r\n"]), BAD),
        refused("CR after a chunk", chunks(&[b"11\r\n", BODY, b"\r0\r\n\r\n"]), BAD),
        refused("chunk longer than its size", chunks(&[b"10\r\n", BODY, b"\r\n0\r\n\r\n"]), BAD),
        refused("chunk shorter than its size", chunks(&[b"12\r\n", BODY, b"\r\n0\r\n\r\n"]), BAD),
        refused("end of the trailers by LF", one(b"0\r\n\n"), BAD),
        refused("last chunk ended by LF", one(b"0\n\r\n"), BAD),
        refused("trailer without a colon", one(b"0\r\nX-Checksum\r\n\r\n"), BAD),
        refused("trailer with a space before the colon", one(b"0\r\nX : 1\r\n\r\n"), BAD),
        refused("trailer with an empty name", one(b"0\r\n: 1\r\n\r\n"), BAD),
        refused("trailer folded", one(b"0\r\nX: 1\r\n 2\r\n\r\n"), BAD),
        refused("trailer ended by LF", one(b"0\r\nX: 1\n\r\n"), BAD),
        refused("trailer with a bare CR", one(b"0\r\nX: 1\r2\r\n\r\n"), BAD),
        refused("trailer with NUL", one(b"0\r\nX: \0\r\n\r\n"), BAD),
        refused(
            "trailers too large",
            one(format!("0\r\nX: {long}\r\n\r\n").as_bytes()),
            &[400, 431],
        ),
        case(
            "101 trailers",
            one(format!("0\r\n{many_trailers}\r\n").as_bytes()),
            &[&[202, 400, 431]],
            CaseEnd::Any,
        ),
        either("a length as a trailer", one(b"0\r\nContent-Length: 99\r\n\r\n")),
        either("a coding as a trailer", one(b"0\r\nTransfer-Encoding: chunked\r\n\r\n")),
        case("no chunk but the last", chunks(&[b"0\r\n\r\n"]), &[BAD], CaseEnd::Stays),
    ]
}

pub(super) fn head_cases() -> Vec<Case> {
    vec![
        accepted("obs-text in a value", with_lines_bytes(b"X: caf\xe9\r\n")),
        accepted("empty value", with_lines("X:\r\n")),
        accepted("tab in a value", with_lines("X: a\tb\r\n")),
        accepted("every token character in a name", with_lines("!#$%&'*+-.^_`|~09azAZ: x\r\n")),
        accepted("the same field twice", with_lines("X: 1\r\nX: 2\r\n")),
        refused("folded value", with_lines("X: a\r\n b\r\n"), BAD),
        refused("folded with a tab", with_lines("X: a\r\n\tb\r\n"), BAD),
        refused(
            "first line folded",
            [b"POST /ingest HTTP/1.1\r\n Host: a\r\nContent-Length: 17\r\n\r\n", BODY].concat(),
            BAD,
        ),
        refused("bare CR in a value", with_lines("X: a\rb\r\n"), BAD),
        refused("bare LF in a value", with_lines("X: a\nb\r\n"), BAD),
        refused("bare CR before CR LF", with_lines("X: a\r\r\n"), BAD),
        refused("field ended by LF", with_lines("X: a\n"), BAD),
        refused(
            "head ended by LF LF",
            [b"POST /ingest HTTP/1.1\nHost: a\nContent-Length: 17\n\n", BODY].concat(),
            BAD,
        ),
        refused(
            "head ended by CR LF LF",
            [b"POST /ingest HTTP/1.1\r\nHost: a\r\nContent-Length: 17\r\n\n", BODY].concat(),
            BAD,
        ),
        refused("request line ended by LF", with_request_line(b"POST /ingest HTTP/1.1\n"), BAD),
        refused("request line ended by CR", with_request_line(b"POST /ingest HTTP/1.1\r"), BAD),
        refused("NUL in a value", with_lines("X: a\0b\r\n"), BAD),
        refused("NUL in a name", with_lines("X\0: a\r\n"), BAD),
        refused("control character in a value", with_lines("X: a\x01b\r\n"), BAD),
        refused("DEL in a value", with_lines("X: a\x7fb\r\n"), BAD),
        refused("space before the colon", with_lines("X : a\r\n"), BAD),
        refused("tab before the colon", with_lines("X\t: a\r\n"), BAD),
        refused("space in a name", with_lines("X Y: a\r\n"), BAD),
        refused("empty name", with_lines(": a\r\n"), BAD),
        refused("line without a colon", with_lines("X\r\n"), BAD),
        refused("parenthesis in a name", with_lines("X(Y): a\r\n"), BAD),
        refused("at sign in a name", with_lines("X@Y: a\r\n"), BAD),
        refused("quote in a name", with_lines("\"X\": a\r\n"), BAD),
        refused("umlaut in a name", with_lines("Größe: a\r\n"), BAD),
        refused("high byte in a name", with_lines_bytes(b"X\xff: a\r\n"), BAD),
        refused("space before the first name", with_lines(" X: a\r\n"), BAD),
        // Host
        refused(
            "no Host",
            [b"POST /ingest HTTP/1.1\r\nContent-Length: 17\r\n\r\n", BODY].concat(),
            BAD,
        ),
        refused("two Hosts", with_lines("Host: b\r\n"), BAD),
        refused("two equal Hosts", with_lines("Host: a\r\n"), BAD),
        refused(
            "Host with a space",
            [b"POST /ingest HTTP/1.1\r\nHost: a b\r\nContent-Length: 17\r\n\r\n", BODY].concat(),
            BAD,
        ),
        refused(
            "Host with a slash",
            [b"POST /ingest HTTP/1.1\r\nHost: a/b\r\nContent-Length: 17\r\n\r\n", BODY].concat(),
            BAD,
        ),
        refused(
            "Host with user information",
            [b"POST /ingest HTTP/1.1\r\nHost: u@a\r\nContent-Length: 17\r\n\r\n", BODY].concat(),
            BAD,
        ),
        refused("Host empty", with_host(""), BAD),
        refused("Host of a port", with_host(":80"), BAD),
        refused("Host with a bad port", with_host("a:x"), BAD),
        refused("Host with a port above 65535", with_host("a:65536"), BAD),
        refused("Host with brackets inside", with_host("a:b:c[]]:99999"), BAD),
        refused("Host of IPv6 without brackets", with_host("::1"), BAD),
        refused("Host with a bad percent-encoding", with_host("%4"), BAD),
        accepted("Host with an empty port", with_host("a:")),
        accepted(
            "Host with a port",
            [b"POST /ingest HTTP/1.1\r\nHost: a:80\r\nContent-Length: 17\r\n\r\n", BODY].concat(),
        ),
        accepted(
            "Host of IPv6",
            [b"POST /ingest HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 17\r\n\r\n", BODY]
                .concat(),
        ),
        case(
            "no Host in HTTP/1.0",
            [b"POST /ingest HTTP/1.0\r\nContent-Length: 17\r\n\r\n", BODY].concat(),
            &[&[202]],
            CaseEnd::Closes,
        ),
    ]
}

pub(super) fn request_line_cases() -> Vec<Case> {
    const VERSION: &[u16] = &[505];
    let line = with_request_line;
    let long_method = [&[b'M'; 1000][..], b" /ingest HTTP/1.1\r\n"].concat();
    vec![
        refused("two spaces after the method", line(b"POST  /ingest HTTP/1.1\r\n"), BAD),
        refused("two spaces after the target", line(b"POST /ingest  HTTP/1.1\r\n"), BAD),
        refused("tabs in the request line", line(b"POST\t/ingest\tHTTP/1.1\r\n"), BAD),
        refused("space before the method", line(b" POST /ingest HTTP/1.1\r\n"), BAD),
        refused("space after the version", line(b"POST /ingest HTTP/1.1 \r\n"), BAD),
        refused("no target", line(b"POST HTTP/1.1\r\n"), BAD),
        refused("no version", line(b"POST /ingest\r\n"), BAD),
        refused("no method", line(b"/ingest HTTP/1.1\r\n"), BAD),
        refused("version in lower case", line(b"POST /ingest http/1.1\r\n"), BAD),
        refused("version with more", line(b"POST /ingest HTTP/1.1x\r\n"), BAD),
        refused("version of two digits", line(b"POST /ingest HTTP/1.10\r\n"), BAD),
        refused("version with a zero", line(b"POST /ingest HTTP/01.1\r\n"), BAD),
        refused("version without a point", line(b"POST /ingest HTTP/11\r\n"), BAD),
        refused("version without a minor", line(b"POST /ingest HTTP/1.\r\n"), BAD),
        accepted("HTTP/1.2", line(b"POST /ingest HTTP/1.2\r\n")),
        refused("HTTP/2.0", line(b"POST /ingest HTTP/2.0\r\n"), VERSION),
        refused("HTTP/0.9 by name", line(b"POST /ingest HTTP/0.9\r\n"), VERSION),
        refused("HTTP/9.9", line(b"POST /ingest HTTP/9.9\r\n"), VERSION),
        refused("another protocol", line(b"POST /ingest ICAP/1.0\r\n"), BAD),
        refused("HTTP/0.9", b"GET /health\r\n".to_vec(), BAD),
        refused("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), VERSION),
        refused("method with a parenthesis", line(b"PO(ST /ingest HTTP/1.1\r\n"), BAD),
        refused("method with a control character", line(b"PO\x01ST /ingest HTTP/1.1\r\n"), BAD),
        refused("NUL in the target", line(b"POST /in\0gest HTTP/1.1\r\n"), BAD),
        refused("DEL in the target", line(b"POST /in\x7fgest HTTP/1.1\r\n"), BAD),
        refused("CR in the target", line(b"POST /in\rgest HTTP/1.1\r\n"), BAD),
        refused("tab in the target", line(b"POST /in\tgest HTTP/1.1\r\n"), BAD),
        refused("space in the target", line(b"POST /in gest HTTP/1.1\r\n"), BAD),
        refused("high byte in the target", line(b"POST /in\xe9gest HTTP/1.1\r\n"), BAD),
        refused("fragment in the target", line(b"POST /ingest#x HTTP/1.1\r\n"), BAD),
        refused("target without a slash", line(b"POST ingest HTTP/1.1\r\n"), BAD),
        case("method unknown", line(b"BREW /ingest HTTP/1.1\r\n"), &[&[405]], CaseEnd::Stays),
        case("method in lower case", line(b"post /ingest HTTP/1.1\r\n"), &[&[405]], CaseEnd::Stays),
        refused("method of 1,000 characters", line(&long_method), &[501]),
        accepted("absolute form", line(b"POST http://a/ingest HTTP/1.1\r\n")),
        accepted("absolute form with a query", line(b"POST http://a:80/ingest?x=1 HTTP/1.1\r\n")),
        accepted("absolute form, scheme in capitals", line(b"POST HTTP://a/ingest HTTP/1.1\r\n")),
        either("absolute form of another host", line(b"POST http://b.example/ingest HTTP/1.1\r\n")),
        either("absolute form of https", line(b"POST https://a/ingest HTTP/1.1\r\n")),
        case(
            "absolute form without a path",
            line(b"POST http://a HTTP/1.1\r\n"),
            &[&[405]],
            CaseEnd::Stays,
        ),
        refused("absolute form without a host", line(b"POST http:///ingest HTTP/1.1\r\n"), BAD),
        refused("absolute form of ftp", line(b"POST ftp://a/ingest HTTP/1.1\r\n"), BAD),
        refused(
            "absolute form without Host",
            [b"POST http://a/ingest HTTP/1.1\r\nContent-Length: 17\r\n\r\n", BODY].concat(),
            BAD,
        ),
        case(
            "asterisk",
            b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            &[&[204]],
            CaseEnd::Stays,
        ),
        refused("asterisk with POST", line(b"POST * HTTP/1.1\r\n"), BAD),
        refused(
            "authority form",
            b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".to_vec(),
            &[501],
        ),
        refused("CONNECT in origin form", line(b"CONNECT /ingest HTTP/1.1\r\n"), BAD),
        refused("authority form with POST", line(b"POST a:443 HTTP/1.1\r\n"), BAD),
        accepted("an empty line before", [b"\r\n", &with_length(" 17")[..]].concat()),
        accepted("three empty lines before", [b"\r\n\r\n\r\n", &with_length(" 17")[..]].concat()),
        refused("LF before", [b"\n", &with_length(" 17")[..]].concat(), BAD),
        refused("CR before", [b"\r", &with_length(" 17")[..]].concat(), BAD),
        refused("a space before", [b" ", &with_length(" 17")[..]].concat(), BAD),
        case(
            "an empty line between two requests",
            [&with_length(" 17")[..], b"\r\n", &with_length(" 17")].concat(),
            &[&[202], &[202]],
            CaseEnd::Stays,
        ),
        case(
            "garbage between two requests",
            [&with_length(" 17")[..], b"\x00\x01", &with_length(" 17")].concat(),
            &[&[202], BAD],
            CaseEnd::Closes,
        ),
    ]
}

pub(super) fn garbage_cases() -> Vec<Case> {
    let noise: Vec<u8> =
        (0..2048u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 | 0x80).collect();
    vec![
        refused("TLS ClientHello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), BAD),
        refused("noise", noise, BAD),
        refused("NULs", vec![0; 64], BAD),
        refused("SSH banner", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), &[501]),
        refused("SMTP", b"EHLO example.com\r\n".to_vec(), BAD),
        refused("Redis", b"*1\r\n$4\r\nPING\r\n".to_vec(), BAD),
        refused("PROXY protocol", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(), BAD),
        refused("PROXY protocol 2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec(), BAD),
        refused("an answer", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(), BAD),
        refused("JSON", [BODY, b"\r\n\r\n"].concat(), BAD),
    ]
}

/// Bodies on paths or methods that take none.
pub(super) fn body_cases() -> Vec<Case> {
    let inner = smuggled();
    let carried = |method: &str, path: &str| request(method, path, &[], &inner);
    let in_chunks = |method: &str, path: &str| {
        let size = format!("{:x}\r\n", inner.len());
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        [head.as_bytes(), size.as_bytes(), &inner, b"\r\n0\r\n\r\n"].concat()
    };
    let row =
        |name: &str, bytes, status: &'static [u16]| case(name, bytes, &[status], CaseEnd::Stays);
    vec![
        row("GET with a body", carried("GET", "/health"), &[200]),
        row("GET with chunks", in_chunks("GET", "/health"), &[200]),
        row("GET of data with a body", carried("GET", "/stats"), &[200]),
        row("DELETE with a body", carried("DELETE", "/ingest"), &[405]),
        row("DELETE with chunks", in_chunks("DELETE", "/ingest"), &[405]),
        row("unknown path with a body", carried("POST", "/nowhere"), &[404]),
        row("unknown path with chunks", in_chunks("POST", "/nowhere"), &[404]),
        row("a request as the body", post("/ingest", &get("/health")), BAD),
        case(
            "unknown coding of the content",
            request("POST", "/ingest", &[("Content-Encoding", "br")], &inner),
            &[&[415]],
            CaseEnd::Any,
        ),
        case(
            "gzip that is none",
            request("POST", "/ingest", &[("Content-Encoding", "gzip")], &inner),
            &[BAD],
            CaseEnd::Any,
        ),
    ]
}

pub(super) fn framing_cases() -> Vec<Case> {
    [
        length_cases(),
        coding_cases(),
        chunk_cases(),
        head_cases(),
        request_line_cases(),
        garbage_cases(),
        body_cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
