//! Slow clients, idle connections, and bodies that the head forbids.

use std::thread;
use std::time::Duration;

use super::cases::{BODY, chunks, raw};
use crate::harness::{End, Engine, FAMILIES, Failure, Server, WAIT, get, shown};

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
