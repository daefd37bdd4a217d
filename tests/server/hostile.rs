//! Hostile input: malformed framing, limits at their edges, slow and greedy clients, signals.
//!
//! Each case is a row: a name, the bytes, and the response that RFC 9112 and the documented limits
//! require. One law holds for every row: the server's count of samples grows by exactly the number
//! that was acknowledged, so no smuggled request is executed.

use std::io::{ErrorKind, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::{
    Connection, End, Engine, FAMILIES, Failure, Family, Launch, Model, Server, WAIT, assert_close,
    eventually, get, post, request, shown,
};
use serde_json::{Value, json};

/// The sample of the rows: 17 bytes, 0x11.
const BODY: &[u8] = br#"{"cpu":1,"rps":1}"#;
const _: () = assert!(BODY.len() == 17);
/// The least number of rows.
const CASES_MIN: usize = 150;

/// One row: all bytes are sent, then the answers are read.
struct Case {
    name: String,
    bytes: Vec<u8>,
    /// The permitted status codes of each response.
    answers: Vec<&'static [u16]>,
    end: CaseEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CaseEnd {
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

fn smuggled() -> Vec<u8> {
    post("/ingest", br#"{"device":"smuggled","cpu":99,"rps":99}"#)
}

/// A POST with these header lines as they are, and the body.
fn raw(lines: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("POST /ingest HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn with_length(length: &str) -> Vec<u8> {
    raw(&format!("Content-Length:{length}\r\n"), BODY)
}

/// With a good Content-Length besides these header lines.
fn with_lines(lines: &str) -> Vec<u8> {
    raw(&format!("{lines}Content-Length: 17\r\n"), BODY)
}

fn with_lines_bytes(lines: &[u8]) -> Vec<u8> {
    [b"POST /ingest HTTP/1.1\r\nHost: a\r\n", lines, b"Content-Length: 17\r\n\r\n", BODY].concat()
}

/// The whole body in one chunk, for rows about the coding.
fn one_chunk() -> Vec<u8> {
    [b"11\r\n", BODY, b"\r\n0\r\n\r\n"].concat()
}

fn with_coding(lines: &str) -> Vec<u8> {
    raw(lines, &one_chunk())
}

/// A chunked body as it is.
fn chunks(parts: &[&[u8]]) -> Vec<u8> {
    raw("Transfer-Encoding: chunked\r\n", &parts.concat())
}

/// A chunk whose size line is this.
fn sized(line: &[u8]) -> Vec<u8> {
    chunks(&[line, BODY, b"\r\n0\r\n\r\n"])
}

fn with_host(host: &str) -> Vec<u8> {
    let head = format!("POST /ingest HTTP/1.1\r\nHost: {host}\r\nContent-Length: 17\r\n\r\n");
    [head.as_bytes(), BODY].concat()
}

fn with_request_line(line: &[u8]) -> Vec<u8> {
    [line, b"Host: a\r\nContent-Length: 17\r\n\r\n", BODY].concat()
}

const BAD: &[u16] = &[400];

fn length_cases() -> Vec<Case> {
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

fn coding_cases() -> Vec<Case> {
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

fn chunk_cases() -> Vec<Case> {
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

fn head_cases() -> Vec<Case> {
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

fn request_line_cases() -> Vec<Case> {
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

fn garbage_cases() -> Vec<Case> {
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
fn body_cases() -> Vec<Case> {
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

fn framing_cases() -> Vec<Case> {
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

/// Sends one row and reads its answers. Returns how many samples were acknowledged.
fn try_case(server: &Server, case: &Case) -> Result<u64, String> {
    let mut connection = server.connect();
    // The server may close before it has read everything: the answer says why.
    let sent = connection.try_send(&case.bytes);
    let mut acknowledged = 0;
    let mut closes = false;
    for (index, statuses) in case.answers.iter().enumerate() {
        let answer = connection
            .read()
            .map_err(|failure| format!("answer {index}: {failure:?} (sent: {sent:?})"))?;
        if !statuses.contains(&answer.status) {
            return Err(format!(
                "answer {index} is {}, not {statuses:?}: {}",
                answer.status,
                shown(&answer.body)
            ));
        }
        closes = answer.closes();
        if answer.status == 202 {
            acknowledged += answer.accepted();
        } else if answer.status >= 400 {
            answer.error(answer.status);
        }
    }
    match case.end {
        CaseEnd::Closes if !closes => return Err("the last answer lacks Connection: close".into()),
        CaseEnd::Stays if closes => return Err("the last answer has Connection: close".into()),
        CaseEnd::Stays | CaseEnd::Any => connection.finish(),
        CaseEnd::Closes => {}
    }
    if case.end == CaseEnd::Any {
        // Further answers are allowed, samples are not.
        let rest = connection.read_rest().map_err(|failure| format!("end: {failure:?}"))?;
        if crate::harness::find(&rest, b"accepted").is_some() {
            return Err(format!("more was accepted: {}", shown(&rest)));
        }
        return Ok(acknowledged);
    }
    match connection.read_end() {
        End::Closed => Ok(acknowledged),
        end => Err(format!("ends with {end:?}")),
    }
}

fn check_framing(cases: &[Case]) {
    check_framing_on(Family::Tcp, cases);
}

fn check_framing_on(family: Family, cases: &[Case]) {
    let server = Server::start_on(family, &["--workers", "1"]);
    let mut failed = Vec::new();
    let mut total = 0;
    for case in cases {
        let outcome =
            catch_unwind(AssertUnwindSafe(|| try_case(&server, case))).unwrap_or_else(|panic| {
                Err(panic.downcast_ref::<String>().cloned().unwrap_or_default())
            });
        let now = server.total();
        match outcome {
            Err(why) => failed.push(format!("{}: {why}", case.name)),
            Ok(acknowledged) if now != total + acknowledged => {
                failed.push(format!(
                    "{}: {} samples, {acknowledged} acknowledged",
                    case.name,
                    now - total
                ));
            }
            Ok(_) => {}
        }
        total = now;
    }
    println!("{} cases", cases.len());
    assert!(
        failed.is_empty(),
        "{} of {} failed:\n{}",
        failed.len(),
        cases.len(),
        failed.join("\n")
    );
    assert_eq!(server.get("/analyze?device=smuggled").json()["totalCount"], 0);
}

#[test]
fn framing_lengths() {
    check_framing(&length_cases());
}

#[test]
fn framing_codings() {
    check_framing(&coding_cases());
}

#[test]
fn framing_chunks() {
    check_framing(&chunk_cases());
}

#[test]
fn framing_heads() {
    check_framing(&head_cases());
}

#[test]
fn framing_request_lines() {
    check_framing(&request_line_cases());
}

#[test]
fn framing_garbage() {
    check_framing(&garbage_cases());
}

#[test]
fn framing_bodies() {
    check_framing(&body_cases());
}

/// The ends of connections are those of another family; the parser is the same.
#[test]
fn framing_on_a_unix_socket() {
    for cases in [chunk_cases(), garbage_cases(), body_cases()] {
        check_framing_on(Family::Unix, &cases);
    }
}

/// Every byte at every place where a grammar decides: refused and closed, or served and kept.
#[test]
fn every_byte_at_every_place_follows_the_grammar() {
    let places: [(&str, &str); 12] = [
        ("", "POST /ingest HTTP/1.1\r\nHost: a\r\nContent-Length: 17\r\n\r\n"),
        ("PO", "ST /ingest HTTP/1.1\r\nHost: a\r\nContent-Length: 17\r\n\r\n"),
        ("POST", " /ingest HTTP/1.1\r\nHost: a\r\nContent-Length: 17\r\n\r\n"),
        ("POST ", "/ingest HTTP/1.1\r\nHost: a\r\nContent-Length: 17\r\n\r\n"),
        ("POST /ing", "est HTTP/1.1\r\nHost: a\r\nContent-Length: 17\r\n\r\n"),
        ("POST http://a", "/ingest HTTP/1.1\r\nHost: a\r\nContent-Length: 17\r\n\r\n"),
        ("POST /ingest HTTP/1.", "\r\nHost: a\r\nContent-Length: 17\r\n\r\n"),
        ("POST /ingest HTTP/1.1", "\r\nHost: a\r\nContent-Length: 17\r\n\r\n"),
        ("POST /ingest HTTP/1.1\r\nHost: a", "\r\nContent-Length: 17\r\n\r\n"),
        ("POST /ingest HTTP/1.1\r\nHost: a\r\nX", ": b\r\nContent-Length: 17\r\n\r\n"),
        ("POST /ingest HTTP/1.1\r\nHost: a\r\nX: b", "\r\nContent-Length: 17\r\n\r\n"),
        ("POST /ingest HTTP/1.1\r\nHost: a\r\nContent-Length: 17", "\r\n\r\n"),
    ];
    let chunk_places: [(&str, &str); 6] = [
        ("11", "\r\n"),
        ("11;a", "\r\n"),
        ("11;a=", "\r\n"),
        ("11;a=\"", "\"\r\n"),
        ("11;a=\"\\", "\"\r\n"),
        ("11 ", ";a\r\n"),
    ];
    let bounds = crate::grammar::Bounds {
        head_bytes: HEAD_BYTES_MAX,
        fields: HEADERS_MAX,
        body_bytes: BODY_BYTES_MAX,
    };
    let server = Server::start(Engine::Native, &["--workers", "1"]);
    let mut failed = Vec::new();
    let mut check = |bytes: Vec<u8>| {
        let expected = crate::grammar::parse(&bytes, bounds);
        let mut connection = server.connect();
        connection.send(&bytes);
        connection.finish();
        let mut refused = false;
        let mut served = 0;
        while let Ok(answer) = connection.read() {
            // The routes' own errors keep the connection, and 202 closes it only in HTTP/1.0.
            refused = answer.closes() && answer.status != 202;
            served += usize::from(!refused);
        }
        if (served, refused) != (expected.accepted.len(), expected.is_refused) {
            failed.push(format!("{served} {refused}: {expected:?}: {}", bytes.escape_ascii()));
        }
    };
    for byte in 0..=u8::MAX {
        for (before, after) in places {
            check([before.as_bytes(), &[byte], after.as_bytes(), BODY].concat());
        }
        for (before, after) in chunk_places {
            check(sized(&[before.as_bytes(), &[byte], after.as_bytes()].concat()));
        }
    }
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn a_refused_head_has_no_body() {
    let server = Server::start(Engine::Native, &[]);
    for bytes in [
        &b"HEAD / HTTP/1.1\r\n\r\n"[..],
        b"HEAD / HTTP/2.0\r\n",
        b"HEAD /health HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx",
    ] {
        let mut connection = server.connect();
        connection.send(bytes);
        let all = connection.read_rest().expect("the refusal, then the end");
        let length = crate::harness::find(&all, b"\r\n\r\n").expect("a head") + 4;
        assert!(all.starts_with(b"HTTP/1.1 4") || all.starts_with(b"HTTP/1.1 505"));
        assert_eq!(all.len(), length, "{}", shown(&all));
    }
}

#[test]
fn refusals_are_counted_as_requests() {
    let server = Server::start(Engine::Native, &["--workers", "1"]);
    server.ask(&raw("Content-Length: x\r\n", b"")).error(400);
    server.ask(b"GET / HTTP/9.9\r\n\r\n").error(505);
    server.ask(&packed("br", BODY)).error(415);
    server.ask(&chunks(&[b"x"])).error(400);
    let answer = server.get("/metrics");
    let scrape = answer.text();
    for line in [
        r#"http_requests_total{method="POST",path="/ingest",code="400"} 2"#,
        r#"http_requests_total{method="other",path="other",code="505"} 1"#,
        r#"http_requests_total{method="POST",path="/ingest",code="415"} 1"#,
    ] {
        assert!(scrape.contains(line), "{line} in {scrape}");
    }
}

#[test]
fn there_are_as_many_rows_as_required() {
    let mut names: Vec<String> = framing_cases().into_iter().map(|case| case.name).collect();
    names.extend(json_cases().into_iter().map(|case| case.name.to_owned()));
    names.extend(limit_cases().into_iter().map(|case| case.name));
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "two cases share a name");
    println!("{count} named cases in tables");
    assert!(count >= CASES_MIN);
}

// ---- every prefix, every split ----

fn valid_requests() -> Vec<Vec<u8>> {
    vec![
        post("/ingest", BODY),
        chunks(&[b"8;x=y\r\n", &BODY[..8], b"\r\n9\r\n", &BODY[8..], b"\r\n0\r\nX-T: 1\r\n\r\n"]),
        request("POST", "/ingest", &[("Expect", "100-continue")], BODY),
        request("POST", "/ingest?a=b", &[("Content-Encoding", "gzip")], &gzip(BODY)),
        packed("snappy", &snappy(BODY)),
        with_lines("X-Forwarded-For: 1.2.3.4\r\nConnection: close\r\n"),
    ]
}

#[test]
fn every_prefix_then_fin() {
    let server = Server::start(Engine::Native, &[]);
    for bytes in valid_requests() {
        for end in 0..bytes.len() {
            let mut connection = server.connect();
            connection.send(&bytes[..end]);
            connection.finish();
            let what = || shown(&bytes[..end]);
            loop {
                match connection.read() {
                    Ok(answer) if answer.status == 100 => {}
                    Ok(answer) => {
                        assert!(
                            (400..500).contains(&answer.status),
                            "{} to {}",
                            answer.status,
                            what()
                        );
                    }
                    Err(failure) => {
                        assert_eq!(failure, Failure::Closed, "after {}", what());
                        break;
                    }
                }
            }
        }
    }
    assert_eq!(server.total(), 0);
    server.ingest(r#"{"rps":1}"#).expect(202);
}

fn expect_accepted(connection: &mut Connection, what: &str) {
    loop {
        match connection.read() {
            Ok(answer) if answer.status == 100 => {}
            Ok(answer) => return assert_eq!(answer.accepted(), 1, "{what}"),
            Err(failure) => panic!("{failure:?}: {what}"),
        }
    }
}

#[test]
fn split_at_every_byte() {
    let server = Server::start(Engine::Native, &[]);
    let mut count = 0;
    for bytes in valid_requests() {
        for at in 1..bytes.len() {
            let mut connection = server.connect();
            connection.send_parts([&bytes[..at], &bytes[at..]]);
            expect_accepted(&mut connection, &format!("split at {at} of {}", shown(&bytes)));
            count += 1;
        }
    }
    assert_eq!(server.total(), count);
}

#[test]
fn byte_by_byte() {
    let server = Server::start(Engine::Native, &[]);
    for bytes in valid_requests() {
        let mut connection = server.connect();
        connection.send_parts(bytes.chunks(1));
        expect_accepted(&mut connection, "byte by byte");
    }
    assert_eq!(server.total(), valid_requests().len() as u64);
}

#[test]
fn two_requests_split_at_every_byte() {
    let server = Server::start(Engine::Native, &[]);
    let bytes = [post("/ingest", BODY), chunks(&[b"11\r\n", BODY, b"\r\n0\r\n\r\n"])].concat();
    let mut connection = server.connect();
    for at in 1..bytes.len() {
        connection.send_parts([&bytes[..at], &bytes[at..]]);
        expect_accepted(&mut connection, "the first");
        expect_accepted(&mut connection, "the second");
    }
    assert_eq!(server.total(), 2 * (bytes.len() as u64 - 1));
}

// ---- limits at their edges ----

const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 100;
const BODY_BYTES_MAX: usize = 8 << 20;

/// One request, sent whole even when the response comes early, and its status code.
struct LimitCase {
    name: String,
    bytes: Vec<u8>,
    status: u16,
}

fn head_of(bytes: usize) -> Vec<u8> {
    let frame = with_lines("X: \r\n").len() - BODY.len();
    with_lines(&format!("X: {}\r\n", "x".repeat(bytes - frame)))
}

fn target_of(bytes: usize) -> Vec<u8> {
    let frame = with_length(" 17").len() - BODY.len() + 1;
    let line = format!("POST /ingest?{} HTTP/1.1\r\n", "x".repeat(bytes - frame));
    with_request_line(line.as_bytes())
}

fn headers_of(count: usize) -> Vec<u8> {
    // Host and Content-Length are two of them.
    with_lines(&(2..count).map(|i| format!("X-{i}: x\r\n")).collect::<String>())
}

/// A sample of that many bytes: the ignored field fills it.
fn body_of(bytes: usize) -> Vec<u8> {
    let frame = br#"{"rps":1,"pad":""}"#.len();
    format!(r#"{{"rps":1,"pad":"{}"}}"#, "x".repeat(bytes - frame)).into_bytes()
}

fn in_chunks_of(body: &[u8], bytes: usize) -> Vec<u8> {
    let mut framed = Vec::with_capacity(body.len() + body.len() / bytes * 12 + 16);
    for part in body.chunks(bytes) {
        framed.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        framed.extend_from_slice(part);
        framed.extend_from_slice(b"\r\n");
    }
    framed.extend_from_slice(b"0\r\n\r\n");
    raw("Transfer-Encoding: chunked\r\n", &framed)
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).expect("memory");
    encoder.finish().expect("memory")
}

fn snappy(body: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(body).expect("memory")
}

fn packed(coding: &str, body: &[u8]) -> Vec<u8> {
    request("POST", "/ingest", &[("Content-Encoding", coding)], body)
}

fn metrics_of(count: usize) -> Vec<u8> {
    let fields: Vec<String> = (0..count).map(|i| format!("\"m{i}\":{i}")).collect();
    post("/ingest", format!(r#"{{"timestamp":1,"device":"wide",{}}}"#, fields.join(",")).as_bytes())
}

fn limit_cases() -> Vec<LimitCase> {
    let mut cases = Vec::new();
    let mut add =
        |name: String, bytes: Vec<u8>, status: u16| cases.push(LimitCase { name, bytes, status });
    for (offset, status) in [(-1_isize, 202), (0, 202), (1, 431)] {
        add(
            format!("head at the limit {offset:+}"),
            head_of(HEAD_BYTES_MAX.strict_add_signed(offset)),
            status,
        );
        add(
            format!("target at the limit {offset:+}"),
            target_of(HEAD_BYTES_MAX.strict_add_signed(offset)),
            status,
        );
        add(
            format!("headers at the limit {offset:+}"),
            headers_of(HEADERS_MAX.strict_add_signed(offset)),
            status,
        );
    }
    add("head of 1 MiB".into(), head_of(1 << 20), 431);
    add("target of 1 MiB".into(), target_of(1 << 20), 414);
    for (length, status) in [(HEAD_BYTES_MAX, 431), (HEAD_BYTES_MAX + 1, 414)] {
        // The line itself: what is behind it never fits.
        let frame = "POST /ingest? HTTP/1.1\r\n".len();
        let line = format!("POST /ingest?{} HTTP/1.1\r\n", "x".repeat(length - frame));
        add(format!("request line of {length} bytes"), with_request_line(line.as_bytes()), status);
    }
    add("headers: a thousand".into(), headers_of(1000), 431);
    for (offset, status) in [(-1_isize, 202), (0, 202), (1, 413)] {
        let body = body_of(BODY_BYTES_MAX.strict_add_signed(offset));
        add(format!("body at the limit {offset:+}"), post("/ingest", &body), status);
        add(
            format!("body in chunks at the limit {offset:+}"),
            in_chunks_of(&body, 64 * 1024),
            status,
        );
        add(format!("gzip at the limit {offset:+}"), packed("gzip", &gzip(&body)), status);
        let zstd = zstd::encode_all(&body[..], 1).expect("memory");
        add(format!("zstd at the limit {offset:+}"), packed("zstd", &zstd), status);
        add(format!("snappy at the limit {offset:+}"), packed("snappy", &snappy(&body)), status);
    }
    add("body of 9 MiB".into(), post("/ingest", &body_of(9 << 20)), 413);
    add("body of 9 MiB in chunks".into(), in_chunks_of(&body_of(9 << 20), 16 * 1024), 413);
    add("body in one-byte chunks".into(), in_chunks_of(&body_of(4096), 1), 202);
    let bomb = vec![b' '; 128 << 20];
    add("gzip bomb".into(), packed("gzip", &gzip(&bomb)), 413);
    add("snappy bomb".into(), packed("snappy", &snappy(&bomb)), 413);
    let lie = [&[0x80, 0x80, 0x80, 0x04][..], &body_of(4096)].concat();
    add("snappy of 8 MiB in 4 KiB".into(), packed("snappy", &lie), 400);
    add("zstd bomb".into(), packed("zstd", &zstd::encode_all(&bomb[..], 1).expect("memory")), 413);
    for (count, status) in [(31, 202), (32, 202), (33, 400)] {
        add(format!("{count} metrics"), metrics_of(count), status);
    }
    for (count, status) in [(127, 202), (128, 202), (129, 400)] {
        let body = format!(r#"{{"device":"{}","cpu":1}}"#, "d".repeat(count));
        add(format!("device of {count} bytes"), post("/ingest", body.as_bytes()), status);
    }
    for (count, status) in [(1_023, 202), (1_024, 202), (1_025, 400)] {
        let body = format!(r#"{{"device":"a","{}":1}}"#, "m".repeat(count));
        add(format!("metric of {count} bytes"), post("/ingest", body.as_bytes()), status);
    }
    for (value, status) in [
        ("999999999999999.9", 202),
        ("1e15", 202),
        ("1000000000000000.2", 400),
        ("-1e15", 202),
        ("-1000000000000000.2", 400),
    ] {
        let body = format!(r#"{{"device":"a","level":{value}}}"#);
        add(format!("value {value}"), post("/ingest", body.as_bytes()), status);
    }
    cases
}

#[test]
fn limits_at_their_edges() {
    let server = Server::start(Engine::Native, &[]);
    let mut failed = Vec::new();
    let cases = limit_cases();
    for case in &cases {
        let mut connection = server.connect();
        // All bytes are written before the response is read, as by curl and requests: a reset must
        // not destroy the response.
        let sent = connection.try_send(&case.bytes);
        match connection.read() {
            Ok(answer) if answer.status == case.status => {
                if answer.status >= 400 {
                    answer.error(case.status);
                }
            }
            Ok(answer) => failed.push(format!(
                "{}: {}, not {}: {}",
                case.name,
                answer.status,
                case.status,
                shown(&answer.body)
            )),
            Err(failure) => failed.push(format!("{}: {failure:?} (sent: {sent:?})", case.name)),
        }
    }
    println!("{} cases", cases.len());
    server.ingest(r#"{"rps":1}"#).expect(202);
    assert!(
        failed.is_empty(),
        "{} of {} failed:\n{}",
        failed.len(),
        cases.len(),
        failed.join("\n")
    );
}

#[test]
fn decompression_bombs_take_little_memory() {
    let server = Server::start(Engine::Native, &["--workers", "1"]);
    server.ingest(r#"{"rps":1}"#).expect(202);
    let before = server.resident_kib();
    let bomb = gzip(&vec![b' '; 256 << 20]);
    for _ in 0..3 {
        server.ask(&packed("gzip", &bomb)).error(413);
    }
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB for 768 MiB of spaces and a limit of 8");
}

#[test]
fn smaller_limits_can_be_set() {
    let server = Server::start(Engine::Native, &["--max-body", "3000", "--max-head", "2000"]);
    server.ask(&post("/ingest", &body_of(3000))).expect(202);
    server.ask(&post("/ingest", &body_of(3001))).error(413);
    server.ask(&head_of(2000)).expect(202);
    server.ask(&head_of(2001)).error(431);
}

// ---- slow clients ----

/// Whole seconds keep the suite quick and leave room for a loaded machine.
const QUICK: [&str; 4] = ["--read-timeout", "1s", "--idle-timeout", "2s"];

fn quick_server() -> Server {
    Server::start(Engine::Native, &QUICK)
}

#[test]
fn slow_head_is_408() {
    for family in FAMILIES {
        let server = Server::start_on(family, &QUICK);
        let mut connection = server.connect();
        connection.send(b"POST /ingest HTTP/1.1\r\nHost: a\r\n");
        let answer = connection.read().expect("an answer");
        answer.error(408);
        assert!(answer.closes());
        assert_eq!(connection.read_end(), End::Closed);
    }
}

#[test]
fn a_head_in_drops_is_408() {
    // A byte is no progress: the whole head must arrive within the limit.
    let server = quick_server();
    let mut connection = server.connect();
    for byte in b"GET /health HTTP/1.1\r\nHost: a\r\nX: ".iter().cycle().take(100) {
        if connection.try_send(&[*byte]).is_err() {
            break;
        }
        connection.timeout = Duration::from_millis(100);
        match connection.read() {
            Err(Failure::Timeout(_)) => {}
            Ok(answer) => {
                answer.error(408);
                return;
            }
            Err(failure) => panic!("{failure:?} instead of 408"),
        }
    }
    panic!("10 s without an answer");
}

#[test]
fn stalled_body_is_408() {
    for family in FAMILIES {
        let server = Server::start_on(family, &QUICK);
        for bytes in [
            raw("Content-Length: 17\r\n", &BODY[..9]),
            raw("Content-Length: 17\r\n", b""),
            chunks(&[b"11\r\n", &BODY[..9]]),
            chunks(&[b"11\r\n", BODY, b"\r\n"]),
        ] {
            let mut connection = server.connect();
            connection.send(&bytes);
            let answer = connection
                .read()
                .unwrap_or_else(|failure| panic!("{failure:?}: {}", shown(&bytes)));
            answer.error(408);
            assert_eq!(connection.read_end(), End::Closed);
        }
        assert_eq!(server.total(), 0);
    }
}

#[test]
fn a_slow_body_with_progress_is_served() {
    let args = ["--read-timeout", "4s", "--body-rate-min", "1"];
    let server = Server::start(Engine::Native, &args);
    let mut connection = server.connect();
    connection.send(&raw("Content-Length: 17\r\n", b""));
    for part in BODY.chunks(1) {
        // Longer than the limit in total, but each pause is far from it.
        thread::sleep(Duration::from_millis(300));
        connection.send(part);
    }
    assert_eq!(connection.read().expect("an answer").accepted(), 1);
}

#[test]
fn a_body_slower_than_its_least_rate_is_408() {
    for family in FAMILIES {
        let server = Server::start_on(family, &[&QUICK[..], &["--body-rate-min", "1KiB"]].concat());
        let long = "x".repeat(100_000);
        for head in [raw("Content-Length: 100000\r\n", b""), chunks(&[b"186A0\r\n"])] {
            let mut connection = server.connect();
            connection.send(&head);
            connection.timeout = Duration::from_millis(50);
            // Each part is progress, and 20 bytes of it a second are too few.
            let answer = long.as_bytes().iter().take(400).find_map(|byte| {
                let sent = connection.try_send(&[*byte]);
                match connection.read() {
                    Ok(answer) => Some(answer),
                    Err(Failure::Timeout(_)) if sent.is_ok() => None,
                    Err(failure) => panic!("{failure:?} instead of 408"),
                }
            });
            answer.expect("refused long before its end").error(408);
        }
    }
}

// ---- what the head decides ----

#[test]
fn a_body_that_the_head_forbids_is_not_waited_for() {
    let server = Server::start(Engine::Native, &["--ingest-token", "s3cret"]);
    let frame = |line: &str, fields: &str| format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let wrong = "Authorization: Bearer 0ther\r\n";
    for (line, fields, status) in [
        ("POST /ingest", "", 401),
        ("POST /metrics", "", 401),
        ("POST /ingest", wrong, 403),
        ("POST /nope", "", 404),
        ("POST /analyze", "", 405),
        ("PUT /ingest", "", 405),
    ] {
        for framing in [
            "Content-Length: 8000000\r\n",
            "Content-Length: 8000000\r\nExpect: 100-continue\r\n",
            "Transfer-Encoding: chunked\r\n",
        ] {
            let head = frame(line, &format!("{fields}{framing}"));
            let mut connection = server.connect();
            connection.send(head.as_bytes());
            let answer = connection.read().unwrap_or_else(|failure| panic!("{failure:?}: {head}"));
            answer.error(status);
            assert!(answer.closes(), "{head}");
            assert_eq!(connection.read_end(), End::Closed, "{head}");
        }
        // The start of a body changes nothing.
        for start in
            ["Content-Length: 8000000\r\n\r\n[", "Transfer-Encoding: chunked\r\n\r\nfffff\r\n["]
        {
            let mut connection = server.connect();
            connection.send(format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}{start}").as_bytes());
            connection.read().expect("an answer").error(status);
        }
    }
    let right = "Authorization: Bearer s3cret\r\nExpect: 100-continue\r\nContent-Length: 17\r\n";
    let mut connection = server.connect();
    connection.send(frame("POST /ingest", right).as_bytes());
    connection.read().expect("100 Continue").expect(100);
    connection.send(BODY);
    assert_eq!(connection.read().expect("an answer").accepted(), 1);
}

#[test]
fn idle_connections_are_closed() {
    for family in FAMILIES {
        let server = Server::start_on(family, &QUICK);
        let mut silent = server.connect();
        let mut idle = server.connect();
        idle.exchange(&get("/health")).expect(200);
        assert_eq!(idle.read_end(), End::Closed, "idle keep-alive");
        match silent.read() {
            Err(Failure::Closed) => {}
            Ok(answer) => {
                answer.error(408);
            }
            Err(failure) => panic!("a connection that never sends: {failure:?}"),
        }
    }
}

#[test]
fn empty_lines_keep_no_connection_open() {
    let server = quick_server();
    for pieces in [&[&b"\r\n"[..]][..], &[b"\r", b"\n"]] {
        let mut connection = server.connect();
        let mut sent = 0;
        // Until it is closed: each piece would have renewed the idle time.
        while connection.try_send(pieces[sent % pieces.len()]).is_ok() {
            sent += 1;
            connection.timeout = Duration::from_millis(100);
            if let Err(Failure::Closed | Failure::Reset) = connection.read() {
                break;
            }
            assert!(sent < 200, "open after {sent} pieces");
        }
    }
}

#[test]
fn requests_keep_a_connection_open() {
    let server = Server::start(Engine::Native, &["--idle-timeout", "6s"]);
    let mut connection = server.connect();
    // Longer than the limit in total, but each pause is far from it.
    for _ in 0..9 {
        connection.timeout = WAIT;
        connection.exchange(&get("/health")).expect(200);
        connection.timeout = Duration::from_millis(800);
        assert_eq!(connection.read_end(), End::Open);
    }
}

#[test]
fn a_thousand_slow_clients_do_not_delay_the_others() {
    let server = Server::start(Engine::Native, &QUICK);
    // Each sends at once: to open a thousand may take longer than the limit.
    let mut slow: Vec<_> = (0..1000)
        .map(|_| {
            let mut connection = server.connect();
            connection.send(b"POST /ingest HTTP/1.1\r\nHost: a\r\nX: ");
            connection
        })
        .collect();
    for _ in 0..100 {
        server.ingest(r#"{"rps":1}"#).expect(202);
    }
    for connection in &mut slow {
        connection.read().expect("an answer").error(408);
    }
    assert_eq!(server.total(), 100);
}

// ---- greedy clients ----

#[test]
fn a_client_that_never_reads_costs_a_bounded_buffer() {
    const REQUESTS: usize = 100_000;
    let server = Server::start(Engine::Native, &["--workers", "1"]);
    server.ingest(r#"{"rps":1}"#).expect(202);
    let before = server.resident_kib();
    let greedy = Connection::open_narrow(server.address, 64 * 1024).expect("connect");
    let mut stream = greedy.stream();
    // More than the kernel holds for both sides.
    let bytes = request("GET", "/health", &[("X-Pad", &"x".repeat(200))], b"").repeat(REQUESTS);
    stream.set_write_timeout(Some(Duration::from_millis(500))).expect("timeout");
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(count) => sent += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(sent < bytes.len(), "the server read everything from a client that reads nothing");
    for _ in 0..100 {
        server.ingest(r#"{"rps":1}"#).expect(202);
    }
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB for one client");

    // Once it reads, it gets every response.
    let sending = thread::spawn(move || {
        let mut stream = greedy.stream();
        stream.set_write_timeout(Some(WAIT)).expect("timeout");
        let mut reader = stream.try_clone().expect("clone");
        let counting = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            let mut answers = 0;
            let mut tail = Vec::new();
            reader.set_read_timeout(Some(WAIT)).expect("timeout");
            loop {
                let count = reader.read(&mut buffer).expect("answers");
                if count == 0 {
                    return answers;
                }
                tail.extend_from_slice(&buffer[..count]);
                const MARK: &[u8] = b"HTTP/1.1 200 OK\r\n";
                answers += memchr::memmem::find_iter(&tail, MARK).count();
                let keep = tail.len().min(MARK.len() - 1);
                tail.drain(..tail.len() - keep);
            }
        });
        stream.write_all(&bytes[sent..]).expect("send");
        stream.shutdown(std::net::Shutdown::Write).expect("FIN");
        counting.join().expect("counting")
    });
    assert_eq!(sending.join().expect("sending"), REQUESTS);
}

#[test]
fn pipelined_posts_do_not_delay_other_connections() {
    let server = Server::start(Engine::Native, &["--workers", "1"]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut flood = server.connect();
                let bytes = post("/ingest", BODY).repeat(500);
                while !stop.load(Ordering::Relaxed) {
                    flood.send(&bytes);
                    for _ in 0..500 {
                        flood.read().expect("an answer").expect(202);
                    }
                }
            });
        }
        let mut polite = server.connect();
        for _ in 0..200 {
            polite.exchange(&get("/health")).expect(200);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_thousand_connections_opened_and_closed() {
    let server = Server::start(Engine::Native, &[]);
    server.get("/health").expect(200);
    let before = server.open_files();
    for round in 0..1000 {
        let mut connection = server.connect();
        match round % 4 {
            0 => {}
            1 => connection.send(b"GET /heal"),
            2 => connection.send(&get("/health")),
            _ => {
                connection.exchange(&get("/health")).expect(200);
            }
        }
    }
    eventually("the descriptors are given back", || server.open_files() <= before + 2);
    server.get("/health").expect(200);
}

#[test]
fn an_idle_server_takes_no_cpu_time() {
    let server = Server::start(Engine::Native, &[]);
    let _idle: Vec<_> = (0..10).map(|_| server.connect()).collect();
    server.ingest(r#"{"rps":1}"#).expect(202);
    // A thread that never sleeps takes a core, or its share of one that others use too, for ever. What the sample has
    // started may take a moment.
    eventually("the server rests", || {
        let before = server.cpu_time();
        thread::sleep(Duration::from_secs(2));
        server.cpu_time() - before <= Duration::from_millis(100)
    });
}

#[test]
fn out_of_descriptors() {
    FAMILIES.into_iter().for_each(check_out_of_descriptors);
}

fn check_out_of_descriptors(family: Family) {
    let args = &["--workers", "2"];
    let server = Launch { family, open_files: Some(256), args, ..Launch::default() }.start();
    server.ingest(r#"{"rps":1}"#).expect(202);
    let mut crowd: Vec<_> = (0..400).map(|_| server.connect()).collect();
    for connection in &mut crowd {
        // Idle, but known to the server: some are closed, some answered.
        drop(connection.try_send(&get("/health")));
    }
    for _ in 0..20 {
        let mut late = server.connect();
        late.send(&post("/ingest", br#"{"rps":1}"#));
        let answer = late.read().expect("an answer while the crowd is there");
        assert!(matches!(answer.status, 202 | 503), "{}", answer.status);
    }
    // What the crowd has asked for may still be on its way; a loop that spins never ends.
    eventually("the accept loop rests", || {
        let busy = server.cpu_time();
        thread::sleep(Duration::from_millis(500));
        server.cpu_time() - busy <= Duration::from_millis(50)
    });
    drop(crowd);
    eventually("recovery", || server.ingest(r#"{"rps":1}"#).status == 202);
    for _ in 0..100 {
        server.ingest(r#"{"rps":1}"#).expect(202);
    }
}

#[test]
fn connections_are_limited() {
    for family in FAMILIES {
        let server = Server::start_on(family, &["--max-connections", "20"]);
        let mut crowd: Vec<_> = (0..60)
            .map(|_| {
                let mut connection = server.connect();
                connection.send(&get("/health"));
                match connection.read() {
                    Ok(answer) => assert!(matches!(answer.status, 200 | 503), "{}", answer.status),
                    Err(failure) => panic!("{failure:?}"),
                }
                connection
            })
            .collect();
        // The last one was served, and the first was evicted.
        crowd[59].exchange(&get("/health")).expect(200);
        assert_eq!(crowd[0].read_end(), End::Closed);
        eventually("the others are closed", || server.open_files() < 60);
    }
}

#[test]
fn health_is_answered_when_all_connections_are_busy() {
    for family in FAMILIES {
        let server = Server::start_on(family, &["--max-connections", "4", "--workers", "1"]);
        let head = request("GET", "/readyz", &[("Expect", "100-continue")], b"cd");
        let mut busy: Vec<_> = (0..4)
            .map(|_| {
                let mut connection = server.connect();
                connection.send(&head[..head.len() - 2]);
                assert_eq!(connection.read().expect("its head has been read").status, 100);
                connection
            })
            .collect();
        let ask = |path: &str| {
            let answer = server.get(path);
            assert!(answer.closes(), "{path}");
            answer
        };
        for _ in 0..20 {
            for path in ["/health", "/healthz", "/livez", "/readyz"] {
                ask(path).expect(200);
            }
            ask("/stats").error(503);
            server.ingest(r#"{"rps":1}"#).error(503);
        }
        // Silent connections take the reserve, but keep it only until others need it.
        let _silent: Vec<_> = (0..40).map(|_| server.connect()).collect();
        for _ in 0..20 {
            let mut connection = server.connect();
            connection.send(&get("/livez"));
            connection.read().expect("an answer beside the silent ones").expect(200);
        }
        for connection in &mut busy {
            connection.send(b"cd");
            connection.read().expect("the busy ones were not disturbed").expect(200);
        }
    }
}

// ---- half closes, pipelines, versions, expectations ----

#[test]
fn a_half_closed_client_gets_its_answers() {
    for family in FAMILIES {
        let server = Server::start_on(family, &[]);
        let mut connection = server.connect();
        connection.send(&[post("/ingest", BODY), get("/analyze"), get("/stats")].concat());
        connection.finish();
        assert_eq!(connection.read().expect("202").accepted(), 1);
        connection.read().expect("analyze").expect(200);
        connection.read().expect("stats").expect(200);
        assert_eq!(connection.read_end(), End::Closed);
    }
}

#[test]
fn a_half_closed_client_gets_a_large_answer() {
    for family in FAMILIES {
        let server = Server::start_on(family, &[]);
        let mut connection = server.connect();
        connection.send(&get("/openapi.json"));
        connection.finish();
        connection.read().expect("the document").expect(200).json();
        assert_eq!(connection.read_end(), End::Closed);
    }
}

#[test]
fn a_client_that_leaves_early_is_told_what_was_missing() {
    let server = Server::start(Engine::Native, &[]);
    let whole = post("/ingest", BODY);
    let head_length = whole.len() - BODY.len();
    for length in [1, 10, head_length - 1, head_length, whole.len() - 1] {
        let mut connection = server.connect();
        connection.send(&whole[..length]);
        connection.finish();
        let answer = connection.read().expect("an answer");
        let message = answer.error(400);
        let code = &answer.json()["error"]["code"];
        let missing = if length < head_length { "truncated_head" } else { "truncated_body" };
        assert_eq!((code, length), (&missing.into(), length), "{message}");
    }
}

#[test]
fn a_body_of_json_that_is_no_object_is_told_so() {
    let server = Server::start(Engine::Native, &[]);
    for body in ["1", "-0.5", "true", "null", "\"cpu\"", " 7 \n", "[1]"] {
        let answer = server.ingest(body);
        let message = answer.error(400);
        assert!(message.contains("object"), "{body}: {message}");
    }
}

#[test]
fn a_thousand_pipelined_requests_in_one_write() {
    for family in FAMILIES {
        let server = Server::start_on(family, &[]);
        let mut bytes = Vec::new();
        for i in 0..1000 {
            // The size of the batch comes back: answers out of order would show.
            let batch = format!("[{}]", vec![r#"{"rps":1}"#; i % 7 + 1].join(","));
            bytes.extend_from_slice(&post("/ingest", batch.as_bytes()));
        }
        let mut connection = server.connect();
        connection.send(&bytes);
        for i in 0..1000 {
            let answer =
                connection.read().unwrap_or_else(|failure| panic!("answer {i}: {failure:?}"));
            assert_eq!(answer.accepted(), i % 7 + 1, "answer {i}");
        }
        connection.finish();
        assert_eq!(connection.read_end(), End::Closed);
    }
}

#[test]
fn a_mixed_pipeline() {
    let server = Server::start(Engine::Native, &[]);
    let kinds: [(Vec<u8>, u16); 9] = [
        (post("/ingest", BODY), 202),
        (get("/analyze"), 200),
        (request("HEAD", "/health", &[], b""), 200),
        (post("/ingest", b"not json"), 400),
        (get("/nowhere"), 404),
        (request("DELETE", "/ingest", &[], b"x"), 405),
        (chunks(&[b"11\r\n", BODY, b"\r\n0\r\n\r\n"]), 202),
        (get("/metrics"), 200),
        (request("HEAD", "/stats", &[], b""), 200),
    ];
    let order: Vec<usize> = (0..999).map(|i| (i * i + i / 3) % kinds.len()).collect();
    let bytes: Vec<u8> = order.iter().flat_map(|&kind| kinds[kind].0.clone()).collect();
    let mut connection = server.connect();
    thread::scope(|scope| {
        let stream = connection.stream().try_clone().expect("clone");
        scope.spawn(move || (&stream).write_all(&bytes).expect("send"));
        for (index, &kind) in order.iter().enumerate() {
            let (request, status) = &kinds[kind];
            let answer = connection
                .read_answer(request.starts_with(b"HEAD"))
                .unwrap_or_else(|failure| panic!("answer {index}: {failure:?}"));
            assert_eq!(answer.status, *status, "answer {index} to {}", shown(request));
        }
    });
}

/// RFC 9112 section 9.3.2: only requests with safe methods may be served out of their order.
#[test]
fn a_pipelined_read_sees_the_posts_before_it() {
    const PAIRS: u64 = 500;
    let server = Server::start(Engine::Native, &["--workers", "2"]);
    let mut connection = server.connect();
    let bytes = [post("/ingest", BODY), get("/analyze")].concat().repeat(PAIRS as usize);
    thread::scope(|scope| {
        let stream = connection.stream().try_clone().expect("clone");
        scope.spawn(move || (&stream).write_all(&bytes).expect("send"));
        for pair in 1..=PAIRS {
            connection.read().expect("202").expect(202);
            let report = connection.read().expect("the report").expect(200).json();
            assert_eq!(report["totalCount"].as_u64(), Some(pair));
        }
    });
}

#[test]
fn a_refusal_ends_a_pipeline_after_the_answers_before_it() {
    let server = Server::start(Engine::Native, &[]);
    let mut connection = server.connect();
    let bad = raw("Content-Length: x\r\n", b"");
    connection.send(&[post("/ingest", BODY).repeat(50), bad, smuggled()].concat());
    for _ in 0..50 {
        connection.read().expect("an answer").expect(202);
    }
    connection.read().expect("the refusal").error(400);
    assert_eq!(connection.read_end(), End::Closed);
    assert_eq!(server.total(), 50);
}

#[test]
fn expect_continue() {
    let server = Server::start(Engine::Native, &[]);
    for value in ["100-continue", "100-Continue"] {
        let bytes = request("POST", "/ingest", &[("Expect", value)], BODY);
        let (head, body) = bytes.split_at(bytes.len() - BODY.len());
        let mut connection = server.connect();
        connection.send(head);
        assert_eq!(connection.read().expect("100").status, 100);
        connection.send(body);
        assert_eq!(connection.read().expect("202").accepted(), 1);
        // Again on the same connection, chunked.
        connection.send(&raw("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", b""));
        assert_eq!(connection.read().expect("100").status, 100);
        connection.send(&one_chunk());
        assert_eq!(connection.read().expect("202").accepted(), 1);
    }
}

#[test]
fn expect_continue_with_too_large_a_body() {
    let server = Server::start(Engine::Native, &[]);
    let mut connection = server.connect();
    connection.send(&raw("Expect: 100-continue\r\nContent-Length: 8388609\r\n", b""));
    connection.read().expect("no 100 before it").error(413);
    assert_eq!(connection.read_end(), End::Closed);
}

#[test]
fn expect_something_else() {
    let server = Server::start(Engine::Native, &[]);
    let mut connection = server.connect();
    connection.send(&with_lines("Expect: nonsense\r\n"));
    connection.read().expect("an answer").error(417);
    assert_eq!(server.total(), 0);
}

#[test]
fn expect_is_ignored_in_http_1_0() {
    let server = Server::start(Engine::Native, &[]);
    let mut connection = server.connect();
    connection.send(b"POST /ingest HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 17\r\n\r\n");
    connection.send(BODY);
    connection.read().expect("no 100").expect(202);
    assert_eq!(connection.read_end(), End::Closed);
}

#[test]
fn http_1_0() {
    let server = Server::start(Engine::Native, &[]);
    let mut connection = server.connect();
    connection.send(b"GET /health HTTP/1.0\r\n\r\n");
    assert!(connection.read().expect("an answer").expect(200).closes());
    assert_eq!(connection.read_end(), End::Closed);

    let mut connection = server.connect();
    for _ in 0..3 {
        connection.send(b"GET /health HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
        let answer = connection.read().expect("an answer").expect(200);
        let value = answer.header("connection").expect("ab looks for it");
        assert!(value.eq_ignore_ascii_case("keep-alive"), "{value}");
    }
    connection.send(b"GET /health HTTP/1.0\r\n\r\n");
    connection.read().expect("an answer").expect(200);
    assert_eq!(connection.read_end(), End::Closed);
}

#[test]
fn connection_close() {
    let server = Server::start(Engine::Native, &[]);
    for line in [
        "Connection: close",
        "Connection: Close",
        "connection: keep-alive, close",
        "Connection: close, keep-alive",
        "Connection: te,close",
        "Connection: x\r\nConnection: close",
    ] {
        let mut connection = server.connect();
        let first = with_lines(&format!("{line}\r\n"));
        connection.send(&[first, smuggled()].concat());
        let answer = connection.read().expect("an answer").expect(202);
        assert!(answer.closes(), "{line}");
        assert_eq!(connection.read_end(), End::Closed, "{line}");
    }
    assert_eq!(server.get("/analyze?device=smuggled").json()["totalCount"], 0);
    for line in
        ["Connection: keep-alive", "Connection: upgrade", "Connection: closed", "Connection:"]
    {
        let mut connection = server.connect();
        let answer = connection.exchange(&with_lines(&format!("{line}\r\n"))).expect(202);
        assert!(!answer.closes(), "{line}");
        connection.exchange(&get("/health")).expect(200);
    }
}

// ---- signals ----

/// The samples accepted and judged, from the last line of the log.
fn final_totals(log: &str) -> (u64, u64) {
    let last =
        log.lines().rev().find(|line| line.contains("\"stopped\"")).expect("totals in the log");
    let totals: Value = serde_json::from_str(last).expect("JSON");
    let number = |name: &str| totals[name].as_u64().unwrap_or_else(|| panic!("{name} in {last}"));
    (number("accepted"), number("judged"))
}

#[test]
fn terminated_under_load() {
    let mut server = Server::start(Engine::Native, &["--workers", "2"]);
    let acknowledged = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let mut connection = server.connect();
                let bytes = post("/ingest", br#"[{"rps":1},{"rps":2},{"rps":3}]"#).repeat(16);
                'load: loop {
                    if connection.try_send(&bytes).is_err() {
                        break;
                    }
                    for _ in 0..16 {
                        match connection.read() {
                            Ok(answer) if answer.status == 202 => {
                                acknowledged.fetch_add(answer.accepted(), Ordering::Relaxed);
                            }
                            Ok(answer) => panic!("{} while draining", answer.status),
                            Err(Failure::Closed | Failure::Reset) => break 'load,
                            Err(failure) => panic!("{failure:?}"),
                        }
                    }
                }
            });
        }
        eventually("load", || acknowledged.load(Ordering::Relaxed) > 1000);
        server.terminate();
    });
    let status = server.wait_exit(WAIT).expect("exits");
    assert_eq!(status.code(), Some(0), "{}", server.log_text());
    let acknowledged = acknowledged.into_inner();
    let (accepted, judged) = final_totals(&server.log_text());
    assert_eq!(accepted, judged);
    assert!(judged >= acknowledged, "{acknowledged} samples acknowledged, {judged} judged");
}

#[test]
fn terminated_at_rest() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut server = Server::start(Engine::Native, &[]);
        let mut idle = server.connect();
        idle.exchange(&post("/ingest", BODY)).expect(202);
        server.signal(signal);
        assert_eq!(idle.read_end(), End::Closed, "idle connections are closed soon");
        let status = server.wait_exit(WAIT).expect("exits soon");
        assert_eq!(status.code(), Some(0));
        assert_eq!(final_totals(&server.log_text()), (1, 1));
    }
}

/// A connection with an incomplete request, for which the drain waits.
fn begun(server: &Server) -> Connection {
    let mut connection = server.connect();
    connection.exchange(&get("/health")).expect(200);
    connection.send(b"GET /readyz HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab");
    // Answered on the same worker or not, this returns after the bytes above have arrived.
    server.get("/health").expect(200);
    connection
}

fn wait_until_it_drains(server: &Server) {
    eventually("no more connections are accepted", || Connection::open(server.address).is_err());
}

#[test]
fn a_request_that_has_begun_is_answered_while_draining() {
    let mut server = Server::start(Engine::Native, &["--workers", "1"]);
    let mut ready = begun(&server);
    let mut slow = server.connect();
    slow.send(&raw("Content-Length: 17\r\n", &BODY[..3]));
    server.get("/health").expect(200);
    server.terminate();
    wait_until_it_drains(&server);
    ready.send(b"cd");
    let answer = ready.read().expect("an answer").expect(503);
    assert!(answer.closes(), "draining answers close");
    slow.send(&BODY[3..]);
    let answer = slow.read().expect("an answer");
    assert_eq!(answer.accepted(), 1);
    assert!(answer.closes());
    assert_eq!(slow.read_end(), End::Closed);
    let status = server.wait_exit(WAIT).expect("exits once all is answered");
    assert_eq!(status.code(), Some(0));
    assert_eq!(final_totals(&server.log_text()), (1, 1));
}

#[test]
fn the_drain_is_bounded() {
    let mut server = Server::start(Engine::Native, &["--drain", "1s"]);
    let _held = begun(&server);
    server.terminate();
    let status = server.wait_exit(WAIT).expect("exits after the drain time");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_second_signal_exits_at_once() {
    let mut server = Server::start(Engine::Native, &[]);
    let _held = begun(&server);
    server.terminate();
    wait_until_it_drains(&server);
    assert!(server.is_running(), "it waits for the request that has begun");
    // A signal at the moment of the first one belongs to it.
    eventually("a later signal ends the process", || {
        server.terminate();
        server.wait_exit(Duration::from_millis(20)).is_some()
    });
}

// ---- JSON ----

struct JsonCase {
    name: &'static str,
    /// `DEVICE` stands for the device of the row.
    body: Vec<u8>,
    statuses: &'static [u16],
    /// Values of `rps` that enter the device's window.
    enters: &'static [f64],
}

fn json_cases() -> Vec<JsonCase> {
    fn row(
        name: &'static str,
        body: &str,
        statuses: &'static [u16],
        enters: &'static [f64],
    ) -> JsonCase {
        JsonCase { name, body: body.as_bytes().to_vec(), statuses, enters }
    }
    fn bytes(name: &'static str, body: &[u8], statuses: &'static [u16]) -> JsonCase {
        JsonCase { name, body: body.to_vec(), statuses, enters: &[] }
    }
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"device":"DEVICE","extra":{open}{close},"rps":10}}"#)
    };
    let objects = |depth: usize| {
        let (open, close) = (r#"{"a":"#.repeat(depth), "}".repeat(depth));
        format!(r#"{{"device":"DEVICE","extra":{open}1{close},"rps":10}}"#)
    };
    // Deeper nesting may be refused; where it is served the value is the usual one.
    let deep = |name: &'static str, body: String| JsonCase {
        name,
        body: body.replace(r#""rps":10"#, r#""other":10"#).into_bytes(),
        statuses: &[202, 400],
        enters: &[],
    };
    let wide = |count: usize| {
        let fields: Vec<String> = (0..count).map(|i| format!("\"m{i}\":1")).collect();
        format!(r#"{{"device":"DEVICE",{}}}"#, fields.join(","))
    };
    vec![
        row("1e308", r#"{"device":"DEVICE","rps":1e308}"#, BAD, &[]),
        row("1e309", r#"{"device":"DEVICE","rps":1e309}"#, BAD, &[]),
        row("-1e308", r#"{"device":"DEVICE","level":-1e308}"#, BAD, &[]),
        row("1e400", r#"{"device":"DEVICE","rps":1e400}"#, BAD, &[]),
        row(
            "1e99999999999999999999",
            r#"{"device":"DEVICE","rps":1e99999999999999999999}"#,
            BAD,
            &[],
        ),
        row("NaN", r#"{"device":"DEVICE","rps":NaN}"#, BAD, &[]),
        row("Infinity", r#"{"device":"DEVICE","rps":Infinity}"#, BAD, &[]),
        row("-Infinity", r#"{"device":"DEVICE","rps":-Infinity}"#, BAD, &[]),
        row("Infinity as a string", r#"{"device":"DEVICE","rps":"Infinity"}"#, BAD, &[]),
        row("NaN as a string", r#"{"device":"DEVICE","rps":"NaN"}"#, BAD, &[]),
        row("a number as a string", r#"{"device":"DEVICE","rps":"10"}"#, BAD, &[]),
        row("40 levels in an ignored field", &nested(40), &[202], &[10.0]),
        row("40 objects in an ignored field", &objects(40), &[202], &[10.0]),
        deep("300 levels", nested(300)),
        deep("10,000 levels", nested(10_000)),
        deep("100,000 levels", nested(100_000)),
        deep("100,000 objects", objects(100_000)),
        row("brackets without an end", &"[".repeat(100_000), BAD, &[]),
        row("objects without an end", &r#"{"a":"#.repeat(100_000), BAD, &[]),
        row("a sample of 32 metrics", &wide(32), &[202], &[]),
        row("a sample of 33 metrics", &wide(33), BAD, &[]),
        row("a sample of 10,000 metrics", &wide(10_000), BAD, &[]),
        row("lone surrogate in a device", r#"{"device":"\ud800","rps":10}"#, BAD, &[]),
        row("low surrogate first", r#"{"device":"\udc00\ud800","rps":10}"#, BAD, &[]),
        row(
            "lone surrogate in an ignored field",
            r#"{"device":"DEVICE","x":"\ud800","other":1}"#,
            &[202, 400],
            &[],
        ),
        row(
            "surrogate pair",
            r#"{"device":"DEVICE","x":"\ud83d\ude00","rps":10}"#,
            &[202],
            &[10.0],
        ),
        row("bad escape", r#"{"device":"DEVICE","x":"\q","rps":10}"#, BAD, &[]),
        row("short escape", r#"{"device":"DEVICE","x":"\u12","rps":10}"#, BAD, &[]),
        bytes("invalid UTF-8 in a device", b"{\"device\":\"\xff\xfe\",\"rps\":10}", BAD),
        bytes("overlong UTF-8 in a device", b"{\"device\":\"\xc0\xaf\",\"rps\":10}", BAD),
        bytes("surrogate in UTF-8", b"{\"device\":\"\xed\xa0\x80\",\"rps\":10}", BAD),
        bytes(
            "invalid UTF-8 in an ignored field",
            b"{\"device\":\"DEVICE\",\"x\":\"\xff\",\"rps\":10}",
            BAD,
        ),
        bytes("invalid UTF-8 in a name", b"{\"device\":\"DEVICE\",\"\xff\":1,\"rps\":10}", BAD),
        bytes(
            "control character in a string",
            b"{\"device\":\"DEVICE\",\"x\":\"a\nb\",\"rps\":10}",
            BAD,
        ),
        bytes("NUL after the end", b"{\"device\":\"DEVICE\",\"rps\":10}\0", BAD),
        bytes(
            "UTF-16",
            &"{\"rps\":10}".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>(),
            BAD,
        ),
        row("the same metric twice", r#"{"device":"DEVICE","rps":900,"rps":10}"#, &[202], &[10.0]),
        row(
            "the same metric escaped",
            r#"{"device":"DEVICE","rps":900,"\u0072ps":10}"#,
            &[202],
            &[10.0],
        ),
        row(
            "the same device twice",
            r#"{"device":"another","device":"DEVICE","rps":10}"#,
            &[202],
            &[10.0],
        ),
        row(
            "device and device_id agree",
            r#"{"device":"DEVICE","device_id":"DEVICE","rps":10}"#,
            &[202],
            &[10.0],
        ),
        row(
            "huge integer",
            r#"{"device":"DEVICE","rps":123456789012345678901234567890}"#,
            BAD,
            &[],
        ),
        row("2^64", r#"{"device":"DEVICE","rps":18446744073709551616}"#, BAD, &[]),
        row(
            "huge timestamp",
            r#"{"device":"DEVICE","timestamp":1e300,"other":1}"#,
            &[202, 400],
            &[],
        ),
        row(
            "negative timestamp",
            r#"{"device":"DEVICE","timestamp":-1,"other":1}"#,
            &[202, 400],
            &[],
        ),
        row(
            "many digits",
            r#"{"device":"DEVICE","rps":10.00000000000000000000000000000000000000000001}"#,
            &[202],
            &[10.0],
        ),
        row("a smallest number", r#"{"device":"DEVICE","other":5e-324}"#, &[202], &[]),
        row("leading zero", r#"{"device":"DEVICE","rps":010}"#, BAD, &[]),
        row("leading plus", r#"{"device":"DEVICE","rps":+10}"#, BAD, &[]),
        row("hex number", r#"{"device":"DEVICE","rps":0x10}"#, BAD, &[]),
        row("trailing comma", r#"{"device":"DEVICE","rps":10,}"#, BAD, &[]),
        row("single quotes", "{'device':'DEVICE','rps':10}", BAD, &[]),
        row("comment", r#"{"device":"DEVICE",/*x*/"rps":10}"#, BAD, &[]),
        row("no quotes around names", r#"{device:"DEVICE","rps":10}"#, BAD, &[]),
        row("text after the end", r#"{"device":"DEVICE","rps":10}]"#, BAD, &[]),
        row("an empty name", r#"{"device":"DEVICE","":1,"rps":-1}"#, BAD, &[]),
        row("negative rps", r#"{"device":"DEVICE","rps":-1}"#, BAD, &[]),
        row(
            "1e400 inside a batch",
            r#"[{"device":"DEVICE","rps":10},{"device":"DEVICE","rps":1e400},{"device":"DEVICE","rps":12}]"#,
            &[202],
            &[10.0, 12.0],
        ),
        row(
            "33 metrics inside a batch",
            &format!(r#"[{{"device":"DEVICE","rps":10}},{}]"#, wide(33)),
            &[202],
            &[10.0],
        ),
        row(
            "strangers inside a batch",
            r#"[null,1,"x",[],[{"rps":1}],{"device":"DEVICE","rps":10},true,{}]"#,
            &[202],
            &[10.0],
        ),
        row(
            "a batch that ends early",
            r#"[{"device":"DEVICE","rps":10},{"device":"DEVICE","rps":"#,
            BAD,
            &[],
        ),
        row(
            "a batch in a batch",
            r#"{"metrics":{"metrics":[{"device":"DEVICE","rps":10}]}}"#,
            BAD,
            &[],
        ),
        row(
            "white space of every kind",
            " \t\r\n{ \"device\"\t:\n\"DEVICE\" , \"rps\" : 10 }\r\n\t ",
            &[202],
            &[10.0],
        ),
    ]
}

#[test]
fn hostile_json() {
    let server = Server::start(Engine::Native, &["--workers", "1"]);
    let mut connection = server.connect();
    let mut failed = Vec::new();
    let cases = json_cases();
    for (index, case) in cases.iter().enumerate() {
        let device = format!("json-{index}");
        let mut model = Model::default();
        let mut batch = Vec::new();
        for i in 0..12 {
            let value = f64::from(9 + 2 * (i % 2));
            model.push(value);
            batch.push(json!({"device": device, "rps": value}));
        }
        connection
            .exchange(&post("/ingest", Value::from(batch).to_string().as_bytes()))
            .expect(202);
        let body = replaced(&case.body, b"DEVICE", device.as_bytes());
        connection.send(&post("/ingest", &body));
        let answer = match connection.read() {
            Ok(answer) => answer,
            Err(failure) => {
                failed.push(format!("{}: {failure:?}", case.name));
                connection = server.connect();
                continue;
            }
        };
        if !case.statuses.contains(&answer.status) {
            failed.push(format!("{}: {}: {}", case.name, answer.status, shown(&answer.body)));
            continue;
        }
        answer.json();
        // The next good sample's verdict is right, and so is the window.
        for &value in case.enters.iter().chain(&[50.0]) {
            model.push(value);
        }
        let good = format!(r#"{{"device":"{device}","rps":50}}"#);
        connection.exchange(&post("/ingest", good.as_bytes())).expect(202);
        let report = connection.exchange(&get(&format!("/analyze?device={device}"))).json();
        let outcome = catch_unwind(|| {
            assert_eq!(report["totalCount"], model.total, "{report}");
            assert_eq!(report["isAnomaly"], true);
            assert_close(&report["zScore"], model.z_score, "zScore");
        });
        if outcome.is_err() {
            failed.push(format!("{}: then the verdict is wrong: {report}", case.name));
        }
    }
    println!("{} cases", cases.len());
    assert!(
        failed.is_empty(),
        "{} of {} failed:\n{}",
        failed.len(),
        cases.len(),
        failed.join("\n")
    );
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = crate::harness::find(rest, from) {
        result.extend_from_slice(&rest[..at]);
        result.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    result.extend_from_slice(rest);
    result
}
