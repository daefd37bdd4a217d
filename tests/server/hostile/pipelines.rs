//! Half closes, pipelines, versions and expectations.

use std::io::Write;
use std::thread;

use super::cases::{BODY, chunks, one_chunk, raw, smuggled, with_lines};
use crate::harness::{End, Engine, FAMILIES, Server, get, post, request, shown};

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
