//! Limits one below, at and one past their edges; decompression bombs.

use std::io::Write;

use super::assert_none_failed;
use super::cases::{BODY, raw, with_length, with_lines, with_request_line};
use crate::harness::{Engine, Server, post, request, shown};

pub(super) const HEAD_BYTES_MAX: usize = 16 * 1024;
pub(super) const HEADERS_MAX: usize = 100;
pub(super) const BODY_BYTES_MAX: usize = 8 << 20;

/// One request, sent whole even when the response comes early, and its status code.
pub(super) struct LimitCase {
    pub(super) name: String,
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

pub(super) fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).expect("memory");
    encoder.finish().expect("memory")
}

pub(super) fn snappy(body: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(body).expect("memory")
}

pub(super) fn packed(coding: &str, body: &[u8]) -> Vec<u8> {
    request("POST", "/ingest", &[("Content-Encoding", coding)], body)
}

fn metrics_of(count: usize) -> Vec<u8> {
    let fields: Vec<String> = (0..count).map(|i| format!("\"m{i}\":{i}")).collect();
    post("/ingest", format!(r#"{{"timestamp":1,"device":"wide",{}}}"#, fields.join(",")).as_bytes())
}

pub(super) fn limit_cases() -> Vec<LimitCase> {
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
    assert_none_failed(&failed, cases.len());
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
