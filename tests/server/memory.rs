//! What the real binary takes of memory: at rest, after large bodies, and at its limits.
//!
//! Anonymous memory is judged, not the mapped file of the binary: a debug build maps three times as much of it.

#![allow(clippy::disallowed_methods, reason = "tests bound their waits on real sockets")]

use crate::harness::{Connection, Engine, Response, Server, eventually, get, post};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// With the 7 MiB that a release build maps of its file, 16 MiB at rest.
const REST_BYTES_MAX: u64 = 9 * MIB;
const LARGE_BODIES: usize = 24;
const LARGE_BODY_BYTES: usize = 8 << 20;

/// Memory of the process that no file backs.
fn anonymous_bytes(server: &Server) -> u64 {
    let path = format!("/proc/{}/status", server.pid());
    let status = std::fs::read_to_string(path).expect("the server runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    let kib = line.split_ascii_whitespace().next().and_then(|kib| kib.parse::<u64>().ok());
    kib.expect("a number") * 1024
}

/// A figure of the line that logs the division of memory.
fn planned(server: &Server, name: &str) -> u64 {
    let line = server.wait_for_log(&["max_streams", "bodies_bytes"]).expect("the plan is logged");
    let line: Value = serde_json::from_str(&line).expect("a line of JSON");
    let fields = line.get("fields").unwrap_or(&line);
    fields[name].as_u64().unwrap_or_else(|| panic!("{name} in {line}"))
}

fn padded(bytes: usize) -> Vec<u8> {
    let mut body = br#"{"cpu":1,"pad":""#.to_vec();
    body.resize(bytes - 2, b'x');
    body.extend_from_slice(b"\"}");
    body
}

#[test]
fn little_memory_is_taken_at_rest() {
    let server = Server::start(Engine::Native, &[]);
    server.get("/livez").expect(200);
    let bytes = anonymous_bytes(&server);
    assert!(bytes <= REST_BYTES_MAX, "{bytes} bytes at rest");
}

#[test]
fn memory_of_large_bodies_is_returned() {
    // A loaded machine takes a while for so many bytes: no client that waits for its turn is ended meanwhile.
    let flags = ["--memory-limit", "8GiB", "--read-timeout", "10m", "--idle-timeout", "10m"];
    let server = Server::start(Engine::Native, &flags);
    let body = padded(LARGE_BODY_BYTES);
    let request = post("/ingest", &body);
    let (most, rest) = request.split_at(request.len() - 10);
    let mut clients: Vec<Connection> = (0..LARGE_BODIES).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(most);
    }
    let held = (LARGE_BODIES * LARGE_BODY_BYTES) as u64;
    eventually("all bodies are held", || anonymous_bytes(&server) > held * 9 / 10);
    for client in &mut clients {
        client.exchange(rest).expect(202);
    }
    eventually("their memory is returned", || anonymous_bytes(&server) < 64 * MIB);
}

/// Posts new devices until one is refused. `pad` lengthens their names.
fn fill_streams(server: &Server, pad: &str) -> Response {
    const BATCH: usize = 1_000;
    let mut client = server.connect();
    for batch in 0.. {
        let samples: Vec<_> = (0..BATCH)
            .map(|i| format!(r#"{{"device":"{pad}-{}","cpu":{i}}}"#, batch * BATCH + i))
            .collect();
        let response = client.exchange(&post("/ingest", samples.join("\n").as_bytes()));
        if response.status == 429 {
            return response;
        }
        assert_eq!(response.status, 202, "{}", response.text());
    }
    unreachable!("the streams are bounded")
}

#[test]
fn streams_end_before_the_memory_does() {
    let pad = "x".repeat(100);
    for (limit, extra) in [("64MiB", &[][..]), ("128MiB", &["--detector", "zscore,pager"])] {
        let flags = [&["--memory-limit", limit, "--workers", "1"], extra].concat();
        let server = Server::start(Engine::Native, &flags);
        let limit_bytes = planned(&server, "limit_bytes");
        let before = anonymous_bytes(&server);
        let refused = fill_streams(&server, &pad);
        assert!(refused.text().contains("stream"), "{}", refused.text());
        server.get("/livez").expect(200);
        // A read sees everything that was acknowledged.
        server.get("/devices?limit=1").expect(200);
        let (streams, used) = (planned(&server, "max_streams"), anonymous_bytes(&server));
        assert!(used < limit_bytes / 2 + before, "{used} bytes of {limit_bytes}: {limit}");
        let each = (used - before) / streams;
        // Measured with what all streams share, so a little more than the bound of one. Streams of one value keep nothing
        // for incidents.
        let bound = planned(&server, "stream_bytes") * 11 / 10;
        assert!(each <= bound, "{each} bytes a stream, planned {bound}");
        let mut client = server.connect();
        client.exchange(&get("/readyz")).expect(200);
    }
}

/// Room for four megabytes of bodies.
const TIGHT: [&str; 6] = ["--memory-limit", "32MiB", "--max-body", "1MiB", "--workers", "1"];

fn refused_for_memory(server: &Server) -> u64 {
    let scrape = server.get("/metrics").expect(200);
    let lines = scrape.text().lines().filter(|line| line.contains(r#"reason="too_many_bodies""#));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[test]
fn bodies_past_their_share_are_503_and_come_again() {
    const CLIENTS: usize = 20;
    let server = Server::start(Engine::Native, &TIGHT);
    let before = anonymous_bytes(&server);
    let bodies_bytes = planned(&server, "bodies_bytes");
    assert!(bodies_bytes <= 4 * MIB);
    let request = post("/ingest", &padded(1 << 20));
    let (most, rest) = request.split_at(request.len() - 10);
    let mut clients: Vec<Connection> = (0..CLIENTS).map(|_| server.connect()).collect();
    for client in &mut clients {
        // Err: it was refused before its end.
        let _ = client.try_send(most);
    }
    // Refused, all of them: what each of them held must have gone.
    let mut others: Vec<Connection> = (0..300).map(|_| server.connect()).collect();
    for client in &mut others {
        let _ = client.try_send(&most[..60_000]);
    }
    eventually("a client is refused", || refused_for_memory(&server) > 200);
    let held = anonymous_bytes(&server).saturating_sub(before);
    assert!(held < bodies_bytes + 4 * MIB, "{held} bytes of bodies");
    let mut accepted = 0;
    for client in &mut clients {
        let _ = client.try_send(rest);
        let Ok(answer) = client.read() else { continue };
        if answer.status == 503 {
            assert_eq!(answer.header("retry-after"), Some("1"));
            answer.error(503);
        } else {
            accepted += answer.expect(202).accepted();
        }
    }
    let refused = refused_for_memory(&server);
    assert!(refused > 0 && accepted + refused >= CLIENTS as u64, "{accepted} and {refused}");
    // Which of them stay depends on how fast they were. Without the others there is room for one that comes again.
    drop((clients, others));
    eventually("room", || server.connect().exchange(&request).status == 202);
}

#[test]
fn slow_bodies_make_room_for_others() {
    let server = Server::start(Engine::Native, &TIGHT);
    let request = post("/ingest", &padded(1 << 20));
    let mut slow: Vec<Connection> = (0..8).map(|_| server.connect()).collect();
    for client in &mut slow {
        client.send(&request[..request.len() - 1_000]);
    }
    eventually("they take all the room", || refused_for_memory(&server) > 0);
    eventually("another body has room", || {
        // Those that are left make progress, a byte at a time.
        for client in &mut slow {
            let _ = client.try_send(b"x");
        }
        let mut client = server.connect();
        let _ = client.try_send(&request);
        client.read().is_ok_and(|answer| answer.status == 202)
    });
}
