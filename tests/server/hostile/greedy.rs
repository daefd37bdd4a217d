//! Clients that never read, that pipeline without end, and that take every connection.

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::cases::BODY;
use crate::harness::{
    Connection, End, Engine, FAMILIES, Family, Launch, Server, WAIT, eventually, get, post, request,
};

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
