//! Signals: what a drain answers, and how long it may take.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::cases::{BODY, raw};
use crate::harness::{Connection, End, Engine, Failure, Server, WAIT, eventually, get, post};
use serde_json::Value;

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
