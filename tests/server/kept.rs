//! Incidents outlive the process: the same ids, states and silences, and each target is told once.

#![allow(clippy::disallowed_methods, reason = "tests bound their waits on a real process")]

use std::path::PathBuf;
use std::process;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Engine, Server, now_s, request};
use crate::webhook::Webhook;

/// What a busy machine needs for a start, a notification, or a writing: the wait ends as soon as it has happened.
const PATIENCE: Duration = Duration::from_secs(240);
const JSON: (&str, &str) = ("Content-Type", "application/json");

/// The device of silences that come and go.
const PASSING: &str = "nobody";

/// A directory that is removed with what is in it.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Starts of one directory.
struct Kept {
    directory: Directory,
    webhook: Webhook,
    /// Values sent so far.
    sent: u32,
}

impl Kept {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("sigmad-kept-{name}-{}", process::id()));
        Self { directory: Directory(directory), webhook: Webhook::start(), sent: 0 }
    }

    fn start(&self) -> Server {
        self.start_with(&[])
    }

    fn start_with(&self, more: &[&str]) -> Server {
        let directory = self.directory.0.display().to_string();
        let webhook = format!("http://127.0.0.1:{}", self.webhook.port);
        let args = [
            "--workers=1",
            "--state-dir",
            &directory,
            "--incident-interval=100ms",
            // A machine that stalls must not make a device a silent one.
            "--silence-ignore=*",
            "--webhook",
            &webhook,
        ];
        let server = Server::start(Engine::Native, &[&args, more].concat());
        let deadline = Instant::now() + PATIENCE;
        while server.get("/readyz").status != 200 {
            assert!(Instant::now() < deadline, "not ready: {}", server.log_text());
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// A value of each device, one an interval: the pace is the server's clock of arrivals.
    fn post(&mut self, server: &Server, levels: [u32; 2]) {
        self.sent += 1;
        let [a, b] = levels.map(|level| level + self.sent * 7 % 10);
        let body = json!([{"device": "ams-1-edge-17", "rps": a}, {"device": "lab", "temp": b}]);
        server.ingest(&body.to_string()).expect(202);
        std::thread::sleep(Duration::from_millis(105));
    }

    /// Posts until an incident is in that state, and returns it.
    fn post_until(
        &mut self,
        server: &Server,
        levels: [u32; 2],
        state: &str,
        device: &str,
    ) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.post(server, levels);
            let found = incidents(server)
                .into_iter()
                .find(|one| one["state"] == state && one["suspect"]["device"] == device);
            if let Some(found) = found {
                return found;
            }
            assert!(Instant::now() < deadline, "{state}: {:?}", incidents(server));
        }
    }
}

fn incidents(server: &Server) -> Vec<Value> {
    let list = server.get("/incidents").expect(200).json();
    list["incidents"].as_array().expect("a list").clone()
}

fn kill(mut server: Server) {
    server.signal(libc::SIGKILL);
    server.wait_exit(PATIENCE).expect("it is killed");
}

fn stop(mut server: Server) {
    server.terminate();
    let status = server.wait_exit(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", server.log_text());
}

/// The silences, without those that a wait has added: its last one may be kept, or its end.
fn silences(server: &Server) -> Vec<Value> {
    let list = server.get("/silences").expect(200).json();
    let all = list["silences"].as_array().expect("a list").clone();
    all.into_iter().filter(|one| one["device"] != PASSING).collect()
}

fn add_silence(server: &Server, device: &str) -> String {
    let silence = json!({"device": device, "endsAt": now_s() + 36_000.0, "createdBy": "ann"});
    let body = silence.to_string().into_bytes();
    let added = server.ask(&request("POST", "/silences", &[JSON], &body)).expect(201).json();
    added["id"].as_str().expect("an id").to_owned()
}

/// A value of the scrape, of the series with that result.
fn scraped(server: &Server, name: &str, result: &str) -> f64 {
    let text = server.get("/metrics").expect(200).text().to_owned();
    let result = format!("result=\"{result}\"");
    let mut lines = text.lines().filter(|line| line.starts_with(name) && line.contains(&result));
    let value = lines.next().and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("{name} {result} in {text}"))
}

/// Waits until all that has happened up to now is in the directory.
fn wait_until_kept(server: &Server) {
    let written = || scraped(server, "sigmad_incidents_written_total{", "written");
    let (before, deadline) = (written(), Instant::now() + PATIENCE);
    // The first may have begun before: the second has it all.
    while written() < before + 2.0 {
        assert!(Instant::now() < deadline, "not written: {}", server.log_text());
        // Nothing is written without a change.
        let id = add_silence(server, PASSING);
        server.ask(&request("DELETE", &format!("/silences/{id}"), &[], b"")).expect(204);
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until so many notifications are noted as sent by this process.
fn wait_until_sent(server: &Server, count: f64) {
    let deadline = Instant::now() + PATIENCE;
    while scraped(server, "sigmad_notifications_total{", "sent") < count {
        assert!(Instant::now() < deadline, "not sent: {}", server.log_text());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn incidents_go_on_after_a_kill_and_a_restart_and_each_is_told_once() {
    let mut kept = Kept::new("told");
    let server = kept.start();
    (0..170).for_each(|_| kept.post(&server, [100, 100]));
    assert_eq!(incidents(&server), [] as [Value; 0]);
    let opened = kept.post_until(&server, [900, 100], "open", "ams-1-edge-17");
    let id = opened["id"].as_str().expect("an id").to_owned();
    let path = format!("/incidents/{id}");
    assert_eq!(kept.webhook.next(), ("opened".to_owned(), id.clone()));
    wait_until_sent(&server, 1.0);
    // What the target was told is kept within a second. The rest is kept when it is answered.
    wait_until_kept(&server);
    add_silence(&server, "other-*");
    let ack = br#"{"by":"ann","comment":"known"}"#;
    server.ask(&request("POST", &format!("{path}/ack"), &[JSON], ack)).expect(200);
    let (before, rules) = (server.get(&path).expect(200).json(), silences(&server));
    kill(server);

    let server = kept.start();
    assert_eq!((server.get(&path).expect(200).json(), silences(&server)), (before, rules.clone()));
    // It deviates still, and that is not another incident.
    (0..10).for_each(|_| kept.post(&server, [900, 100]));
    let found = incidents(&server);
    assert_eq!((found.len(), &found[0]["state"]), (1, &json!("acknowledged")), "{found:?}");
    // The way back shows at once: nothing is learned anew.
    kept.post_until(&server, [100, 100], "resolved", "ams-1-edge-17");
    assert_eq!(kept.webhook.next(), ("resolved".to_owned(), id.clone()));
    let other = kept.post_until(&server, [100, 900], "open", "lab");
    let other = other["id"].as_str().expect("an id").to_owned();
    assert!(other > id, "{other} {id}");
    stop(server);

    let server = kept.start();
    // At the end of the process before, or by this one where there was no time for it.
    assert_eq!(kept.webhook.next(), ("opened".to_owned(), other.clone()));
    let states: Vec<_> =
        incidents(&server).iter().map(|one| (one["id"].clone(), one["state"].clone())).collect();
    assert_eq!(states, [(json!(other), json!("open")), (json!(id), json!("resolved"))]);
    assert_eq!(silences(&server), rules);
    kept.post_until(&server, [100, 100], "resolved", "lab");
    assert_eq!(kept.webhook.next(), ("resolved".to_owned(), other));
    stop(server);
    assert_eq!(kept.webhook.rest(), [], "nothing is told twice");
}

#[test]
fn what_an_operator_was_answered_outlives_a_kill() {
    let kept = Kept::new("orders");
    let server = kept.start();
    let id = add_silence(&server, "ams-*");
    kill(server);
    let server = kept.start();
    assert_eq!(silences(&server)[0]["id"], *id);
    server.ask(&request("DELETE", &format!("/silences/{id}"), &[], b"")).expect(204);
    kill(server);
    assert_eq!(silences(&kept.start()), [] as [Value; 0]);
}

#[test]
fn a_damaged_file_is_named_and_replaced_and_stays_without_incidents() {
    let kept = Kept::new("damaged");
    let file = kept.directory.0.join("incidents");
    let server = kept.start();
    let id = add_silence(&server, "ams-*");
    stop(server);
    let whole = std::fs::read(&file).expect("it was written");
    let server = kept.start_with(&["--incidents=off"]);
    assert_eq!(silences(&server), [] as [Value; 0]);
    stop(server);
    assert_eq!(std::fs::read(&file).expect("it is there"), whole);

    // Other shards have the same book.
    let server = kept.start_with(&["--analytics=3"]);
    assert_eq!(silences(&server)[0]["id"], *id);
    stop(server);
    let mut damaged = std::fs::read(&file).expect("it was written");
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&file, damaged).expect("writable");
    let server = kept.start();
    assert_eq!(silences(&server), [] as [Value; 0]);
    assert!(server.log_text().contains("the kept incidents can't be read"));
    let text = server.get("/metrics").expect(200).text().to_owned();
    let counted = "sigmad_state_damaged_files_total{kind=\"bad_checksum\"} 1";
    assert!(text.contains(counted), "{text}");
    let id = add_silence(&server, "fra-*");
    stop(server);
    let server = kept.start();
    assert_eq!(silences(&server)[0]["id"], *id);
}
