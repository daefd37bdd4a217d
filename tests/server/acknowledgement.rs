//! `--ack disk`: a 202 is worth what it says, whatever happens to the process or to the disk.

#![allow(clippy::disallowed_methods, reason = "tests bound their waits on a real process")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::harness::{Connection, Engine, Failure, Server, get, post};
use crate::state::{StateDirectory, kill, kill_rounds, scraped};

/// Each answer needs syncs of a disk that others use as well. The waits end at the answer.
const DISK_WAIT: Duration = Duration::from_secs(120);

/// What a client knows at the end.
#[derive(Clone, Copy, Debug, Default)]
struct Ledger {
    sent: u64,
    acknowledged: u64,
}

fn start(directory: &StateDirectory, engine: Engine, args: &[&str]) -> Server {
    directory.start_on(engine, &[&["--ack=disk"], args].concat())
}

fn connect(server: &Server) -> Connection {
    let mut connection = server.connect();
    connection.timeout = DISK_WAIT;
    connection
}

fn sample(device: &str) -> Vec<u8> {
    post("/ingest", format!(r#"{{"device":"{device}","rps":1}}"#).as_bytes())
}

/// A client that sends one sample after the other until its connection ends.
fn client(server: &Server, device: String) -> JoinHandle<Ledger> {
    let mut connection = connect(server);
    std::thread::spawn(move || {
        let (sample, mut ledger) = (sample(&device), Ledger::default());
        while connection.try_send(&sample).is_ok() {
            ledger.sent += 1;
            match connection.read() {
                Ok(answer) if answer.status == 202 => {
                    ledger.acknowledged += 1;
                    // What follows it is not served.
                    if answer.header("connection") == Some("close") {
                        break;
                    }
                }
                Ok(answer) => panic!("{answer:?}"),
                Err(Failure::Timeout(_)) => panic!("neither an answer nor a close"),
                Err(_) => break,
            }
        }
        ledger
    })
}

fn wait_until(server: &Server, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DISK_WAIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "not {what}: {}", server.log_text());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn durable(server: &Server) -> f64 {
    scraped(server, r#"sigmad_acknowledgements_total{result="durable"}"#)
}

#[test]
fn a_kill_under_load_loses_nothing_that_was_acknowledged() {
    let directory = StateDirectory::new();
    let mut all = Ledger::default();
    for round in 0..kill_rounds() / 2 {
        let engine = [Engine::Native, Engine::May][round as usize % 2];
        let shards = ["--analytics=1", "--analytics=2"][round as usize / 2 % 2];
        let server = start(&directory, engine, &[shards, "--snapshot-interval=1s"]);
        let clients: Vec<_> = (0..4).map(|device| client(&server, format!("d{device}"))).collect();
        let wanted = f64::from(round % 5) * 10.0 + 4.0;
        wait_until(&server, "durable", || durable(&server) >= wanted);
        kill(server);
        for client in clients {
            let Ledger { sent, acknowledged } = client.join().expect("it ends with the server");
            all.sent += sent;
            all.acknowledged += acknowledged;
        }
        let server = start(&directory, Engine::Native, &["--analytics=1"]);
        let found = server.total();
        assert!(found >= all.acknowledged, "round {round}: {found} of {all:?}");
        assert!(found <= all.sent, "round {round}: {found} of {all:?}");
        kill(server);
        // What came without an answer is known now.
        all = Ledger { sent: found, acknowledged: found };
    }
}

#[test]
fn a_drain_answers_what_it_has_read() {
    for engine in [Engine::Native, Engine::May] {
        let directory = StateDirectory::new();
        let mut server = start(&directory, engine, &["--drain=60s"]);
        let clients: Vec<_> = (0..4).map(|device| client(&server, format!("d{device}"))).collect();
        wait_until(&server, "durable", || durable(&server) >= 8.0);
        server.terminate();
        let exit = server.wait_exit(DISK_WAIT).expect("it ends");
        assert_eq!(exit.code(), Some(0), "{}", server.log_text());
        let ledgers = clients.into_iter().map(|client| client.join().expect("its ledger"));
        let all = ledgers.fold(Ledger::default(), |all, one| Ledger {
            sent: all.sent + one.sent,
            acknowledged: all.acknowledged + one.acknowledged,
        });
        let found = start(&directory, Engine::Native, &[]).total();
        assert!((all.acknowledged..=all.sent).contains(&found), "{engine:?}: {found} of {all:?}");
    }
}

#[test]
fn pipelined_requests_keep_their_order() {
    for engine in [Engine::Native, Engine::May] {
        let directory = StateDirectory::new();
        let server = start(&directory, engine, &[]);
        let mut connection = connect(&server);
        let requests = [
            sample("a"),
            post("/metrics", br#"{"rps":1}"#),
            post("/ingest", b"{"),
            get("/health"),
            sample("b"),
            get("/nowhere"),
            post("/ingest", br#"[{"device":"a","rps":1},{"device":"a","rps":"x"}]"#),
        ];
        connection.send(&requests.concat());
        for status in [202, 200, 400, 200, 202, 404, 202] {
            assert_eq!(connection.read().expect("an answer").status, status, "{engine:?}");
        }
        // Those that bring samples have waited for the disk.
        assert_eq!(durable(&server), 4.0);
        let counted = r#"http_requests_total{method="POST",path="/ingest",code="202"}"#;
        assert_eq!(scraped(&server, counted), 3.0);
    }
}

#[test]
fn a_disk_that_refuses_is_answered_503_until_it_takes_samples_again() {
    for engine in [Engine::Native, Engine::May] {
        let directory = StateDirectory::new();
        // The first segment can't be created: its name is taken. A later one has another name.
        let taken = directory.path().join("journal-00000001-000-000000000000");
        fs::create_dir_all(taken).expect("its parent is there");
        let server = start(&directory, engine, &["--analytics=1"]);
        let mut connection = connect(&server);
        let refused = connection.exchange(&sample("d"));
        assert_eq!(refused.status, 503);
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(refused.json()["error"]["code"], "not_durable");
        assert!(scraped(&server, r#"sigmad_acknowledgements_total{result="lost"}"#) >= 1.0);
        assert!(scraped(&server, r#"sigmad_state_lost_samples_total{reason="disk"}"#) >= 1.0);

        wait_until(&server, "taken again", || connection.exchange(&sample("d")).status == 202);
        let before = server.total();
        kill(server);
        let again = start(&directory, Engine::Native, &[]);
        assert_eq!(again.total(), before, "the refused ones were judged, and are in the snapshot");
    }
}

/// A file whose opening never ends: the disk hangs.
fn hanging(directory: &Path, name: &str) {
    fs::create_dir_all(directory).expect("its parent is there");
    let made = Command::new("mkfifo").arg(directory.join(name)).status().expect("mkfifo");
    assert!(made.success());
}

#[test]
fn a_disk_that_hangs_holds_no_drain() {
    for (file, incidents) in [
        ("journal-00000001-000-000000000000", "--incidents=on"),
        ("journal-00000001-000-000000000000", "--incidents=off"),
        ("snapshot-00000001-000-000000000001.tmp", "--incidents=on"),
        ("snapshot-00000001-000-000000000001.tmp", "--incidents=off"),
    ] {
        let directory = StateDirectory::new();
        hanging(directory.path(), file);
        let mut server =
            start(&directory, Engine::Native, &[incidents, "--drain=3s", "--analytics=1"]);
        let mut connection = connect(&server);
        connection.send(&sample("d"));
        // By then it is past the journal, or waits there.
        wait_until(&server, "judged", || server.total() >= 1);
        server.terminate();
        server.wait_exit(DISK_WAIT).unwrap_or_else(|| panic!("{file}: it hangs"));
    }
}
