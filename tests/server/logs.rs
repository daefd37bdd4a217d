//! Log lines that cannot be written: the server starts, serves and drains all the same.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::harness::{Connection, eventually, get, post, request};
use crate::redis_server::{Redis, unused_port};

/// A server whose stderr is `stderr`. Its port is chosen before, as its log can't tell it.
struct Unheard {
    child: Child,
    address: SocketAddr,
}

impl Unheard {
    fn start(args: &[&str], stderr: Stdio) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, unused_port()));
        let child = Command::new(env!("CARGO_BIN_EXE_sigmad"))
            .args(["--workers", "1", "--listen", &address.to_string()])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("sigmad starts");
        let mut server = Self { child, address };
        eventually("it serves", || {
            assert_eq!(server.child.try_wait().expect("wait"), None, "it serves");
            Connection::open(address).is_ok()
        });
        server
    }

    fn connect(&self) -> Connection {
        Connection::open(self.address).expect("it listens")
    }

    fn lines_lost(&self) -> u64 {
        let scrape = self.connect().exchange(&get("/metrics"));
        let line =
            scrape.text().lines().find(|line| line.starts_with("sigmad_log_lines_lost_total "));
        let (_, count) = line.expect("the metric").split_once(' ').expect("a value");
        count.parse().expect("a count")
    }

    /// SIGTERM, then the exit.
    fn terminate(mut self) -> ExitStatus {
        // SAFETY: plain system call; the child has not been waited for, so the pid is ours.
        let sent = unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGTERM) };
        assert_eq!(sent, 0);
        let mut exit = None;
        eventually("it exits", || {
            exit = self.child.try_wait().expect("wait");
            exit.is_some()
        });
        exit.expect("it has exited")
    }
}

impl Drop for Unheard {
    fn drop(&mut self) {
        // It may have exited before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pipe() -> (std::io::PipeReader, Stdio) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    (reader, Stdio::from(OwnedFd::from(writer)))
}

#[test]
fn every_refusal_is_a_line_at_debug() {
    for engine in ["native", "may"] {
        let (mut reader, stderr) = pipe();
        let server = Unheard::start(&["--engine", engine, "--log", "debug"], stderr);
        // Of the engine, of the router, and of a reader.
        let coded = request("POST", "/ingest", &[("Content-Encoding", "br")], b"x");
        server.connect().exchange(&coded).error(415);
        server.connect().exchange(&get("/nowhere")).error(404);
        server.connect().exchange(&get("/devices?limit=x")).error(400);
        assert_eq!(server.terminate().code(), Some(0));
        let mut written = String::new();
        reader.read_to_string(&mut written).expect("lines");
        let refused: Vec<_> = written.lines().filter(|line| line.contains("refused")).collect();
        assert_eq!(refused.len(), 3, "{engine}: {written}");
        for (line, status) in refused.iter().zip([415, 404, 400]) {
            assert!(
                line.contains("127.0.0.1") && line.contains(&format!(r#""status":{status}"#)),
                "{line}"
            );
        }
    }
}

#[test]
fn a_full_disk_stops_neither_start_nor_service() {
    let full = std::fs::File::create("/dev/full").expect("Linux has it");
    let server = Unheard::start(&[], full.into());
    server.connect().exchange(&post("/ingest", br#"{"rps":1}"#)).expect(202);
    eventually("lost lines are counted", || server.lines_lost() > 0);
    assert_eq!(server.terminate().code(), Some(0));
}

#[test]
fn a_reader_that_goes_away_costs_no_sample() {
    // As `sigmad | head -1`, with Redis away: the drain writes log lines, and the samples wait for Redis.
    let mut redis = Redis::start(&[]);
    let url = redis.url();
    let (reader, stderr) = pipe();
    let server = Unheard::start(&["--redis-url", &url], stderr);
    let mut reader = BufReader::new(reader);
    let mut first = String::new();
    reader.read_line(&mut first).expect("a first line");
    drop(reader);
    redis.stop();
    for at in 0..100 {
        let sample = format!(r#"{{"timestamp":{},"device":"a","rps":1}}"#, 1_735_100_000 + at);
        server.connect().exchange(&post("/ingest", sample.as_bytes())).expect(202);
    }
    eventually("lost lines are counted", || server.lines_lost() > 0);
    redis.restart();
    assert_eq!(server.terminate().code(), Some(0));
    let stored = redis.ask::<Vec<String>>(&["KEYS", "metric:a:*"]).len();
    assert_eq!(stored, 100, "the drain has stored what waited");
}

#[test]
fn a_reader_that_blocks_delays_nobody() {
    let (mut reader, stderr) = pipe();
    let server = Unheard::start(&["--log", "debug", "--read-token", "s3cret"], stderr);
    let mut connection = server.connect();
    // Each refusal is a line at debug: the pipe fills, then the queue, and then lines are lost.
    let refused = get("/analyze");
    let mut refusals = 0;
    let mut lost = 0;
    while lost == 0 {
        for _ in 0..1_000 {
            connection.exchange(&refused).expect(401);
        }
        refusals += 1_000;
        assert!(refusals < 100_000, "the queue of lines has a bound");
        let with_token = request("GET", "/metrics", &[("Authorization", "Bearer s3cret")], b"");
        let scrape = connection.exchange(&with_token);
        let line =
            scrape.text().lines().find(|line| line.starts_with("sigmad_log_lines_lost_total "));
        lost = line.and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
    }
    assert_eq!(server.terminate().code(), Some(0), "it waits for the reader only for a moment");
    let mut written = String::new();
    reader.read_to_string(&mut written).expect("lines");
    assert!(written.lines().count() > 10, "{} bytes", written.len());
}
