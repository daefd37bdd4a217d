//! `sigmad load` against real servers: sigmad itself, and toys that stall, refuse, close and are slow.

#![allow(clippy::disallowed_methods, reason = "the toy server records when it stalled")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, mpsc};
use std::time::{Duration, Instant};

use crate::harness::{Engine, Server, SocketDirectory, WAIT};
use crate::redis_server::unused_port;
use serde_json::Value;

/// No run of these tests takes longer, on the slowest machine.
const PATIENCE_S: &str = "60";

struct Run {
    code: Option<i32>,
    summary: Value,
    table: String,
}

impl Run {
    fn count(&self, name: &str) -> u64 {
        let count = &self.summary["requests"][name];
        count.as_u64().unwrap_or_else(|| panic!("requests.{name} is {count}"))
    }

    fn latency_ms(&self, quantile: &str) -> f64 {
        let us = &self.summary["latency_us"][quantile];
        us.as_f64().unwrap_or_else(|| panic!("latency_us.{quantile} is {us}")) / 1e3
    }

    /// Each request that was due is in one place.
    fn adds_up(&self) {
        assert_eq!(
            self.count("answered") + self.unanswered(),
            self.count("sent"),
            "{}",
            self.table
        );
        assert_eq!(self.count("good") + self.count("failed"), self.count("sent"));
        let by_status = self.summary["status"].as_object().expect("an object").values();
        let answered: u64 = by_status.map(|n| n.as_u64().expect("a count")).sum();
        assert_eq!(answered, self.count("answered"));
        if let Some(due) = self.summary["requests"]["due"].as_u64() {
            assert_eq!(self.count("sent") + self.count("unsent"), due);
        }
    }

    fn unanswered(&self) -> u64 {
        self.count("lost") + self.count("timeouts") + self.count("malformed")
    }
}

fn load_command(address: SocketAddr, args: &[&str]) -> Command {
    load_command_at(&format!("http://{address}/ingest"), args)
}

fn load_command_at(url: &str, args: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.arg(PATIENCE_S).arg(env!("CARGO_BIN_EXE_sigmad")).arg("load").env_clear();
    command.arg(format!("--url={url}")).args(args);
    command
}

fn load(address: SocketAddr, args: &[&str]) -> Run {
    run(load_command(address, args))
}

fn run(mut command: Command) -> Run {
    let output = command.arg("--json=-").output().expect("it runs");
    let table = String::from_utf8(output.stderr).expect("UTF-8");
    let summary = serde_json::from_slice(&output.stdout);
    let summary = summary.unwrap_or_else(|error| panic!("{error}, {:?}\n{table}", output.status));
    let run = Run { code: output.status.code(), summary, table };
    run.adds_up();
    run
}

const ACCEPTED: &str = r#"{"status":"accepted","accepted":1}"#;
const REFUSED: &str = r#"{"error":{"code":"queue_full","message":"later"}}"#;

fn answer(status: &str, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// A server that gives each request, numbered from 0, the bytes that `reply` says; none: it closes.
fn toy(reply: impl Fn(u64) -> Option<String> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (reply, number) = (Arc::new(reply), Arc::new(AtomicU64::new(0)));
    // Ends with the process: nobody waits for it.
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let (reply, number) = (reply.clone(), number.clone());
            std::thread::spawn(move || converse(socket, &*reply, &number));
        }
    });
    address
}

/// Until either side has had enough.
fn converse(
    socket: TcpStream,
    reply: &dyn Fn(u64) -> Option<String>,
    number: &AtomicU64,
) -> Option<()> {
    socket.set_nodelay(true).ok()?;
    let mut requests = BufReader::new(socket.try_clone().ok()?);
    let mut socket = socket;
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if requests.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(text) = line.strip_prefix("Content-Length: ") {
                length = text.trim().parse().ok()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        requests.read_exact(&mut vec![0; length]).ok()?;
        let text = reply(number.fetch_add(1, Ordering::Relaxed))?;
        socket.write_all(text.as_bytes()).ok()?;
    }
}

/// The sum of the samples of that family whose labels hold all these.
fn scraped(server: &Server, family: &str, labels: &[&str]) -> u64 {
    let scrape = server.get("/metrics");
    let lines = scrape.text().lines().filter(|line| {
        let rest = line.strip_prefix(family);
        rest.is_some_and(|rest| rest.starts_with('{') && labels.iter().all(|l| rest.contains(l)))
    });
    lines.map(|line| line.rsplit_once(' ').expect("a value").1.parse::<u64>().expect("whole")).sum()
}

fn file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("sigmad-load-{}-{name}", std::process::id()))
}

fn taken(path: &PathBuf) -> String {
    let text = std::fs::read_to_string(path).expect("it was written");
    std::fs::remove_file(path).expect("it was written");
    text
}

#[test]
fn what_it_counts_is_what_the_server_counts() {
    for engine in [Engine::Native, Engine::May] {
        let server = Server::start(engine, &[]);
        let (mut requests, mut samples) = (0, 0);
        for args in [
            &["--rate=500", "--profile=devices", "--batch=10", "--connections=4"][..],
            &["--connections=3", "--pipeline=4", "--threads=2"],
            &["--rate=300", "--connections=5", "--threads=3"],
            &["--connections=2", "--profile=anomalies", "--batch=2", "--devices=5"],
        ] {
            let pid = server.pid().to_string();
            let more = [args, &["--duration=500ms", "--pid", &pid]].concat();
            let run = load(server.address, &more);
            assert_eq!((run.code, run.count("failed")), (Some(0), 0), "{}", run.table);
            requests += run.count("good");
            let of_run = &run.summary["samples"];
            assert_eq!(of_run["sent"], of_run["accepted"]);
            samples += of_run["accepted"].as_u64().expect("a count");
            let by_code = ["code=\"202\"", "path=\"/ingest\""];
            assert_eq!(scraped(&server, "http_requests_total", &by_code), requests);
            let accepted = ["result=\"accepted\""];
            assert_eq!(scraped(&server, "ingest_samples_total", &accepted), samples);
            if let Some(rate) = run.summary["rate"].as_u64() {
                assert_eq!(run.count("due"), rate / 2);
            }
            let cpu = &run.summary["server_cpu"];
            assert!(cpu["ns_per_request"].as_f64().is_some_and(|ns| ns > 100.0), "{cpu}");
        }
    }
}

/// The stall that a toy server made, by the clock of this process.
#[derive(Clone, Copy)]
struct Stall {
    begin: Instant,
    end: Instant,
}

#[test]
fn a_unix_socket_is_a_target() {
    let directory = SocketDirectory::default();
    let address = directory.address();
    let server = Server::start(Engine::Native, &["--listen", "127.0.0.1:0", "--listen", &address]);
    let mut samples = 0;
    // The second one fills the buffers of the sockets, in both directions.
    for args in [
        &["--connections=8", "--rate=500", "--duration=500ms"][..],
        &["--connections=2", "--pipeline=256", "--batch=100", "--duration=500ms"],
    ] {
        let run = run(load_command_at(&address, args));
        assert_eq!(run.code, Some(0), "{}", run.table);
        assert!(run.table.contains(&format!("{address}:/ingest")), "{}", run.table);
        assert_eq!(run.unanswered(), 0, "{}", run.table);
        samples += run.summary["samples"]["accepted"].as_u64().expect("a count");
        assert_eq!(scraped(&server, "ingest_samples_total", &["result=\"accepted\""]), samples);
    }
    drop(server);
    let output = load_command_at(&address, &[]).output().expect("it runs");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains(&format!("can't connect to {address}")), "{message}");
}

/// Samples of a percentile table, as `--hgrm` writes it: value in milliseconds and share of requests.
fn percentiles(text: &str) -> Vec<(f64, f64)> {
    let rows = text.lines().skip(2).take_while(|line| !line.starts_with('#'));
    let number = |text: &str| text.parse::<f64>().expect("a number");
    rows.map(|row| row.split_whitespace().collect::<Vec<_>>())
        .map(|row| (number(row[0]), number(row[1])))
        .collect()
}

#[test]
fn a_stall_is_seen_by_every_request_that_was_due_in_it() {
    const STALL: Duration = Duration::from_millis(500);
    const RATE: f64 = 400.0;
    const RUN: Duration = Duration::from_secs(2);
    const CONNECTIONS: f64 = 8.0;
    // Rounding at both ends of an interval, in requests; and the histogram's: a thousandth, in steps of
    // a microsecond.
    const ROUNDING: f64 = 2.0;
    const PRECISION: f64 = 0.998;
    // One request stops the server for `STALL`. The toy records how long the stall really took.
    let gate = Arc::new(RwLock::new(()));
    let recorded = Arc::new(Mutex::new(None));
    let record = recorded.clone();
    let address = toy(move |number| {
        if number == 100 {
            let closed = gate.write().expect("gate");
            let begin = Instant::now();
            std::thread::sleep(STALL);
            *record.lock().expect("record") = Some(Stall { begin, end: Instant::now() });
            drop(closed);
        }
        drop(gate.read().expect("gate"));
        Some(answer("202 Accepted", "", ACCEPTED))
    });
    let hgrm = file("stall.hgrm");
    let args = ["--rate=400", "--duration=2s", "--connections=8", "--timeout=30s"];
    let spawned = Instant::now();
    let run = load(address, &[&args[..], &["--hgrm", hgrm.to_str().expect("UTF-8")]].concat());
    let ended = Instant::now();
    let text = taken(&hgrm);
    assert_eq!((run.code, run.count("due"), run.count("failed")), (Some(0), 800, 0));
    assert_eq!(run.summary["rate_held"], run.count("unsent") == 0);

    // Requests were due in the stall until it ended, or until the run did: not before this moment.
    let stall: Stall = recorded.lock().expect("record").expect("100 requests were sent");
    let length_s = (stall.end - stall.begin).as_secs_f64();
    let due_until = stall.end.min(spawned + RUN);
    let due_in_stall = RATE * due_until.saturating_duration_since(stall.begin).as_secs_f64();
    // The k-th of them was due k / RATE after its begin, and was not answered before its end. So the
    // k-th longest latency is at least the rest of the stall; a closed loop would see one for each
    // connection. Requests that never left have no latency.
    let (sent, unsent) = (run.count("sent") as f64, run.count("unsent") as f64);
    for (quantile, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)] {
        let rank = sent * (1.0 - share) + unsent + ROUNDING;
        if rank <= due_in_stall {
            let least_ms = (length_s - rank / RATE) * 1e3;
            let measured_ms = run.latency_ms(quantile);
            let law = format!("{quantile} is {measured_ms} ms, at least {least_ms} expected");
            assert!(measured_ms >= least_ms * PRECISION, "{law}\n{}", run.table);
        }
    }
    let latencies = ["p50", "p90", "p99", "max"].map(|quantile| run.latency_ms(quantile));
    assert!(latencies.is_sorted(), "{}", run.table);
    let longest_ms = (ended - spawned).as_secs_f64() * 1e3;
    assert!(latencies[3] * PRECISION <= longest_ms, "{}", run.table);

    // Each connection had one request under way, and could take one more as the stall ended.
    let held_back = due_in_stall - ROUNDING - 2.0 * CONNECTIONS;
    assert!(run.count("waited") as f64 + unsent >= held_back, "{}", run.table);
    // The generator's own part of a delay is never more than the delay.
    for quantile in ["p50", "p90", "p99", "max"] {
        let lateness = |key: &str| run.summary[key][quantile].as_f64().expect("there is lateness");
        assert!(lateness("own_lateness_us") <= lateness("lateness_us"), "{}", run.table);
    }

    let rows = percentiles(&text);
    let total = format!("Total count    = {:12}]", run.count("good"));
    assert!(text.contains(&total), "{text}");
    for (quantile, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
        let at = rows.iter().position(|(_, row_share)| *row_share >= share).expect("it ends at 1");
        let (below, above) = (rows[at.saturating_sub(1)].0, rows[at].0);
        let between = below * PRECISION - 1e-3..=above / PRECISION + 1e-3;
        let value = run.latency_ms(quantile);
        assert!(at == 0 || between.contains(&value), "{quantile} is {value}, not in {between:?}");
    }
}

#[test]
fn a_503_is_not_throughput() {
    let address = toy(|_| Some(answer("503 Service Unavailable", "", REFUSED)));
    let run = load(address, &["--connections=2", "--duration=300ms"]);
    assert_eq!((run.code, run.count("good")), (Some(1), 0));
    assert!(run.count("answered") > 0 && run.summary["status"]["503"] == run.count("answered"));
    assert_eq!(run.summary["requests"]["good_per_s"], 0.0);
    assert_eq!(run.summary["samples"]["accepted"], 0);
    assert!(run.summary["latency_us"].is_null());
    assert!(run.summary["refusal_latency_us"]["p50"].is_number());
    assert!(run.table.contains("NO REQUEST SUCCEEDED"), "{}", run.table);

    let every_second = toy(|number| {
        let (status, body) =
            if number % 2 == 0 { ("202 Accepted", ACCEPTED) } else { ("503 Busy", REFUSED) };
        Some(answer(status, "", body))
    });
    let run = load(every_second, &["--connections=1", "--rate=200", "--duration=500ms"]);
    assert_eq!((run.code, run.count("due"), run.unanswered()), (Some(0), 100, 0));
    let sent = run.count("sent");
    assert_eq!((run.count("good"), run.count("failed")), (sent.div_ceil(2), sent / 2));
    assert_eq!(run.summary["status"]["503"].as_u64().unwrap_or(0), sent / 2);
    assert_eq!(run.summary["samples"]["accepted"], run.count("good"));
}

#[test]
fn a_rate_that_cannot_be_held_is_said() {
    let address = toy(|_| {
        std::thread::sleep(Duration::from_millis(20));
        Some(answer("202 Accepted", "", ACCEPTED))
    });
    // Two connections get a hundred answers a second at most, and those in flight count too.
    let run = load(address, &["--rate=2000", "--connections=2", "--duration=500ms"]);
    assert_eq!((run.code, run.count("due")), (Some(0), 1000));
    assert_eq!(run.summary["rate_held"], false);
    assert!(run.count("sent") <= 60, "{}", run.table);
    assert!(
        run.table.contains("THE RATE WAS NOT HELD: asked for 2,000 requests/s"),
        "{}",
        run.table
    );
    assert!(run.table.contains("waited for responses: the server"), "{}", run.table);
}

#[test]
fn connections_that_end_are_opened_again() {
    const CONNECTIONS: u64 = 2;
    let args = ["--connections=2", "--rate=100", "--duration=500ms"];
    let closing = toy(|_| Some(answer("202 Accepted", "Connection: close\r\n", ACCEPTED)));
    let run = load(closing, &args);
    assert_eq!((run.code, run.count("due"), run.count("failed")), (Some(0), 50, 0));
    let connected =
        |run: &Run, name: &str| run.summary["connected"][name].as_u64().expect("a count");
    // Each answer ends its connection, so each request has had its own.
    let sent = run.count("sent");
    let opened = connected(&run, "opened");
    assert!((sent..=sent + CONNECTIONS).contains(&opened), "{}", run.table);
    assert_eq!(connected(&run, "reopened"), opened - CONNECTIONS, "{}", run.table);

    // Each fifth request loses its connection.
    let broken = Arc::new(AtomicU64::new(0));
    let count = broken.clone();
    let breaking = toy(move |number| {
        if number % 5 == 4 {
            count.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(answer("202 Accepted", "", ACCEPTED))
    });
    let run = load(breaking, &args);
    let broken = broken.load(Ordering::Relaxed);
    let sent = run.count("sent");
    assert_eq!((run.code, run.count("due"), broken), (Some(0), 50, sent / 5), "{}", run.table);
    assert_eq!((run.count("lost"), run.count("good")), (broken, sent - broken), "{}", run.table);
    // None is opened again once the run ends, and at most one a connection was being opened.
    let reopened = connected(&run, "reopened");
    assert!((broken.saturating_sub(CONNECTIONS)..=broken).contains(&reopened), "{}", run.table);
}

#[test]
fn what_is_late_or_no_http_is_counted_apart() {
    let slow = toy(|number| {
        if number == 3 {
            std::thread::sleep(Duration::from_secs(2));
        }
        Some(answer("202 Accepted", "", ACCEPTED))
    });
    let args = ["--connections=1", "--rate=50", "--duration=500ms", "--timeout=200ms"];
    let run = load(slow, &args);
    // On a slow machine more than this one answer may come too late; no connection is ever lost.
    let timeouts = run.count("timeouts");
    assert!(timeouts >= 1 && run.count("lost") == 0, "{}", run.table);
    assert_eq!(run.count("good"), run.count("sent") - timeouts);
    let reopened = run.summary["connected"]["reopened"].as_u64().expect("a count");
    assert!((timeouts - 1..=timeouts).contains(&reopened), "{}", run.table);

    let chatty = toy(|_| Some("220 mail.example ESMTP\r\n".to_owned()));
    let run = load(chatty, &["--connections=1", "--duration=300ms"]);
    assert_eq!((run.code, run.count("good")), (Some(1), 0));
    assert_eq!(run.count("malformed"), run.count("sent"));
}

#[test]
fn the_truth_scores_a_detector() {
    let server = Server::start(Engine::Native, &["--threshold=4"]);
    let truth = file("truth.ndjson");
    let run = load(
        server.address,
        &[
            "--profile=anomalies",
            "--devices=10",
            "--anomaly-rate=0.02",
            // A thousand samples, in few requests.
            "--rate=100",
            "--batch=10",
            "--duration=1s",
            // One connection keeps the order, and with it every window.
            "--connections=1",
            "--pipeline=64",
            "--seed=7",
            "--truth",
            truth.to_str().expect("UTF-8"),
        ],
    );
    let text = taken(&truth);
    let injected: BTreeSet<_> = text
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            let name = |key: &str| line[key].as_str().expect("a name").to_owned();
            (name("device"), name("metric"), line["timestamp"].as_i64().expect("whole"))
        })
        .collect();
    assert_eq!(run.summary["anomalies"]["accepted"], injected.len());
    // A fiftieth of the samples; a slow machine sends fewer.
    let samples = run.summary["samples"]["accepted"].as_u64().expect("a count") as usize;
    assert!((samples * 8 / 1000..=samples * 25 / 1000 + 1).contains(&injected.len()), "{text}");
    let found: BTreeSet<_> = server.get("/anomalies?limit=1000").json()["anomalies"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|anomaly| {
            let name = |key: &str| anomaly[key].as_str().map(str::to_owned);
            let timestamp = (anomaly["timestamp"].as_f64()? * 1e6).round() as i64;
            Some((name("device")?, name("metric")?, timestamp))
        })
        .collect();
    let hits = injected.intersection(&found).count();
    assert!(hits * 10 >= injected.len() * 9, "{hits} of {}: {found:?}", injected.len());
    // Noise never passes 3.5 deviations of its own, but the window only estimates them.
    assert!(found.len() - hits <= 10, "{} false", found.len() - hits);
}

#[test]
fn a_signal_ends_the_run_with_its_results() {
    let (answered, requests) = mpsc::channel();
    let address = toy(move |number| {
        // Err: the test has seen enough.
        let (Ok(()) | Err(_)) = answered.send(number);
        Some(answer("202 Accepted", "", ACCEPTED))
    });
    let mut child = load_command(address, &["--rate=100", "--duration=1h", "--json=-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    // The second request comes after the first answer.
    for _ in 0..2 {
        requests.recv_timeout(WAIT).expect("requests come");
    }
    // `timeout` passes it on twice: to its child, and to its process group.
    // SAFETY: a plain system call; the child has not been waited for, so the pid is ours.
    assert_eq!(unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) }, 0);
    let (mut json, mut table) = (String::new(), String::new());
    child.stdout.take().expect("piped").read_to_string(&mut json).expect("UTF-8");
    child.stderr.take().expect("piped").read_to_string(&mut table).expect("UTF-8");
    let status = child.wait().expect("it ends");
    let summary = serde_json::from_str::<Value>(&json);
    let summary = summary.unwrap_or_else(|error| panic!("{status}, {error}: {table}"));
    assert!(summary["requests"]["good"].as_u64().is_some_and(|n| n > 0), "{table}");
    assert!(table.contains("STOPPED EARLY"), "{table}");
}

#[test]
fn what_cannot_run_says_why() {
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, unused_port()));
    let everybody = toy(|_| Some(answer("202 Accepted", "", ACCEPTED)));
    for (address, args, code, words) in [
        (nobody, &["--duration=1s"][..], 1, "can't connect to 127.0.0.1"),
        (everybody, &["--pid=1073741824"], 2, "--pid 1073741824"),
        (everybody, &["--hgrm=/no/such/folder/a"], 2, "/no/such/folder/a can't be written"),
        (everybody, &["--rate=0"], 2, "--rate"),
    ] {
        let output = load_command(address, args).output().expect("it runs");
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{message}");
        assert!(message.contains(words), "{message}");
        assert!(output.stdout.is_empty());
    }
}
