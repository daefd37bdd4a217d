//! The state directory: a restart changes no answer.

#![allow(clippy::disallowed_methods, reason = "tests bound their waits on a real process")]

use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Engine, Launch, Server, WAIT, now_s, post, request};

/// What a start reads and what a snapshot takes is milliseconds; the machine may be busy with other builds.
const STATE_WAIT: Duration = Duration::from_secs(60);

/// A directory that is removed with what is in it.
pub(crate) struct StateDirectory(PathBuf);

impl StateDirectory {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("sigmad-state-{}-{number}", process::id())))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn start(&self, args: &[&str]) -> Server {
        self.start_on(Engine::Native, args)
    }

    pub(crate) fn start_on(&self, engine: Engine, args: &[&str]) -> Server {
        let directory = self.0.display().to_string();
        let mut all = vec!["--state-dir", &directory, "--workers", "1"];
        all.extend(args);
        let server = Server::start(engine, &all);
        server.wait_for_log(&["\"restored\""]).expect("a line");
        server
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.0).expect("it exists");
        let mut files: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
        files.sort();
        files
    }
}

impl Drop for StateDirectory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Rounds of a small fleet, with an outlier of one device in each tenth.
fn send(server: &Server, rounds: std::ops::Range<u32>) {
    for round in rounds {
        // Detectors judge intervals too: without a timestamp they would be those of arrivals, which differ.
        let at = 1_735_100_000 + round;
        let value =
            |device| if round % 10 == 9 && round / 10 % 5 == device { 900 } else { round % 7 };
        let mut rows: Vec<String> = (0..5)
            .map(|device| {
                let (rps, cpu) = (value(device), f64::from(round % 3) + 0.1 * f64::from(device));
                format!(
                    r#"{{"timestamp":{at},"device":"d{device}","rps":{rps},"cpu":{cpu},"disk_{device}":{rps}}}"#
                )
            })
            .collect();
        rows.push(format!(r#"{{"timestamp":{at},"rps":{}}}"#, round % 4));
        server.ingest(&format!("[{}]", rows.join(","))).expect(202);
    }
}

/// Everything that readers see of what was learned.
fn answers(server: &Server) -> Vec<(String, Value)> {
    let mut paths: Vec<String> =
        ["/analyze", "/stats", "/devices", "/anomalies?limit=1000", "/latest?limit=1000"]
            .map(str::to_owned)
            .into();
    paths.extend((0..5).map(|device| format!("/analyze?device=d{device}")));
    let answer = |path: String| {
        let mut answer = server.get(&path).expect(200).json();
        // The time of the answer.
        if let Some(fields) = answer.as_object_mut() {
            fields.remove("computedAt");
        }
        (path, answer)
    };
    paths.into_iter().map(answer).collect()
}

/// A value of the scrape.
pub(crate) fn scraped(server: &Server, series: &str) -> f64 {
    let text = server.get("/metrics").expect(200).text().to_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("{series} in {text}"))
}

/// With several shards each has devices, and the counters are in the snapshot of one.
#[test]
fn a_counter_loses_no_rate_by_a_restart_and_one_by_a_kill() {
    let directory = StateDirectory::new();
    let send = |server: &Server, second: u32| {
        let lines: Vec<String> = (0..5)
            .map(|device| {
                format!(
                    "reqs_total{{instance=\"d{device}\"}} {} 17351000{second:02}000\n",
                    second * 30
                )
            })
            .collect();
        let request = request("POST", "/api/v1/import/prometheus", &[], lines.concat().as_bytes());
        server.ask(&request).expect(204);
    };
    let firsts = |server: &Server| scraped(server, r#"ingest_values_total{result="first"}"#);
    let rates = |server: &Server| {
        let analyzed = server.get("/analyze?device=d3").expect(200).json();
        (analyzed["metrics"]["reqs_total"]["count"].as_u64(), firsts(server))
    };
    let server = directory.start(&["--analytics=2"]);
    send(&server, 10);
    send(&server, 11);
    assert_eq!(rates(&server), (Some(1), 5.0));
    server.stop();
    let server = directory.start(&["--analytics=2"]);
    send(&server, 12);
    assert_eq!(rates(&server), (Some(2), 0.0));
    // Nothing is judged by this one, and its counters are kept all the same.
    server.stop();
    directory.start(&["--analytics=1"]).stop();
    let server = directory.start(&["--analytics=2"]);
    send(&server, 13);
    assert_eq!(rates(&server), (Some(3), 0.0));
    // Until it is in the journal for good, of devices and of the fleet: then that has rates which the counters lack.
    let deadline = Instant::now() + STATE_WAIT;
    while scraped(&server, "sigmad_state_synced_samples_total") < 10.0 {
        assert!(Instant::now() < deadline, "not durable: {}", server.log_text());
        std::thread::sleep(Duration::from_millis(20));
    }
    kill(server);
    let server = directory.start(&["--analytics=2"]);
    send(&server, 14);
    assert_eq!(rates(&server), (Some(3), 5.0));
}

#[test]
fn the_history_outlives_a_restart() {
    let directory = StateDirectory::new();
    let server = directory.start(&[]);
    server.ingest(r#"[{"rps":5},{"device":"d","rps":7}]"#).expect(202);
    let day = |server: &Server, from: u64| {
        let path = format!("/history?from={from}&to={}", from + 600);
        server.get(&path).expect(200).json()
    };
    let from = now_s() as u64 - 300;
    // What is recorded so far: each column that has a value.
    let deadline = Instant::now() + STATE_WAIT;
    while day(&server, from)["series"]["rps"]["mean"]
        .as_array()
        .is_none_or(|mean| mean.iter().all(Value::is_null))
    {
        assert!(Instant::now() < deadline, "not recorded: {}", day(&server, from));
        std::thread::sleep(Duration::from_millis(20));
    }
    let before = day(&server, from)["series"].clone();
    let (code, log) = server.stop();
    assert_eq!(code, Some(0), "{log}");
    // Without new values there is nothing to add.
    assert_eq!(day(&directory.start(&[]), from)["series"], before);
}

#[test]
fn a_restart_changes_no_answer_and_no_later_verdict() {
    let detectors = "--detector=zscore,pager,novelty,residual,robust";
    let uninterrupted = Server::start(Engine::Native, &["--workers", "1", detectors]);
    let directory = StateDirectory::new();
    let server = directory.start(&[detectors]);
    for server in [&uninterrupted, &server] {
        send(server, 0..180);
    }
    let before = answers(&server);
    let judged = scraped(&server, "sigmad_samples_judged_total");
    let (code, log) = server.stop();
    assert_eq!(code, Some(0), "{log}");

    let server = directory.start(&[detectors]);
    assert_eq!(answers(&server), before);
    assert_eq!(scraped(&server, "sigmad_samples_judged_total"), judged);
    assert_eq!(scraped(&server, "sigmad_state_restored_devices"), 5.0);
    for kind in ["device", "record", "detector_state"] {
        let left_out = format!(r#"sigmad_state_not_restored_total{{kind="{kind}"}}"#);
        assert_eq!(scraped(&server, &left_out), 0.0, "{kind}");
    }
    let ready = server.get("/readyz").expect(200).json();
    assert_eq!(ready["parts"]["state"], "ok");
    for server in [&uninterrupted, &server] {
        send(server, 180..230);
    }
    assert_eq!(answers_without_times(&server), answers_without_times(&uninterrupted));
    let (code, log) = server.stop();
    assert_eq!(code, Some(0), "{log}");
}

/// What two servers answer alike that were sent the same one after the other.
fn answers_without_times(server: &Server) -> Vec<(String, Value)> {
    let times = ["timestamp", "arrivedAt", "lastSeen", "start", "end", "changedAt"];
    let without_times = |(path, mut answer): (String, Value)| {
        remove(&mut answer, &|name| times.contains(&name) || name.contains("imestamp"));
        (path, answer)
    };
    answers(server).into_iter().map(without_times).collect()
}

/// Removes members by name.
fn remove(value: &mut Value, is_removed: &dyn Fn(&str) -> bool) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !is_removed(name));
            fields.values_mut().for_each(|field| remove(field, is_removed));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| remove(item, is_removed)),
        _ => {}
    }
}

#[test]
fn another_number_of_shards_goes_on_as_well() {
    let directory = StateDirectory::new();
    let mut before = None;
    for shards in ["--analytics=1", "--analytics=3", "--analytics=2", "--analytics=1"] {
        let server = directory.start(&[shards]);
        let sorted = |mut answers: Vec<(String, Value)>| {
            // Samples of one moment have no order among several shards.
            answers.retain(|(path, _)| !path.starts_with("/latest"));
            answers
        };
        let found = sorted(answers(&server));
        if let Some(before) = before {
            assert_eq!(found, before, "{shards}");
        }
        send(&server, 0..40);
        before = Some(sorted(answers(&server)));
        let (code, log) = server.stop();
        assert_eq!(code, Some(0), "{log}");
    }
}

#[test]
fn a_kill_loses_no_more_than_came_after_the_last_snapshot() {
    let directory = StateDirectory::new();
    let server = directory.start(&["--snapshot-interval=1s"]);
    send(&server, 0..50);
    let written = r#"sigmad_state_snapshots_total{result="written"}"#;
    let before = scraped(&server, written);
    let deadline = Instant::now() + STATE_WAIT;
    // The second one from here on began after the last sample.
    while scraped(&server, written) < before + 2.0 {
        assert!(Instant::now() < deadline, "no snapshot: {}", server.log_text());
        // A snapshot without new samples is not written again.
        server.ingest(r#"{"device":"later","rps":1}"#).expect(202);
        std::thread::sleep(Duration::from_millis(20));
    }
    let path = "/analyze?device=d3";
    let devices = server.get(path).expect(200).json();
    server.signal(libc::SIGKILL);
    let mut server = server;
    server.wait_exit(WAIT).expect("it is killed");
    let again = directory.start(&[]);
    let mut restored = again.get(path).expect(200).json();
    restored["computedAt"] = devices["computedAt"].clone();
    assert_eq!(restored, devices);
}

/// Waits until so many samples can't be lost any more.
fn wait_for_synced(server: &Server, samples: f64) {
    let deadline = Instant::now() + STATE_WAIT;
    while scraped(server, "sigmad_state_synced_samples_total") < samples {
        assert!(Instant::now() < deadline, "not durable: {}", server.log_text());
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn kill(mut server: Server) {
    server.signal(libc::SIGKILL);
    server.wait_exit(WAIT).expect("it is killed");
}

/// How often a server is killed: more in `make verify-long`.
pub(crate) fn kill_rounds() -> u32 {
    std::env::var("SIGMAD_KILL_ROUNDS").map_or(20, |rounds| rounds.parse().expect("a number"))
}

#[test]
fn kills_change_no_answer_and_no_later_verdict() {
    let detectors = "--detector=zscore,pager,novelty,residual,robust";
    let uninterrupted = Server::start(Engine::Native, &["--workers", "1", detectors]);
    let directory = StateDirectory::new();
    for round in 0..kill_rounds() {
        // Some have a snapshot before the kill, and some of these have one that is under way.
        let interval = ["--snapshot-interval=60s", "--snapshot-interval=1s"][round as usize % 2];
        let server = directory.start(&[detectors, interval]);
        let expected = answers_without_times(&uninterrupted);
        assert_eq!(answers_without_times(&server), expected, "round {round}");
        for server in [&uninterrupted, &server] {
            send(server, round * 20..round * 20 + 20);
        }
        wait_for_synced(&server, 20.0 * 6.0);
        kill(server);
    }
    let server = directory.start(&[detectors]);
    assert_eq!(answers_without_times(&server), answers_without_times(&uninterrupted));
}

#[test]
fn a_kill_and_another_number_of_shards_change_no_window() {
    let directory = StateDirectory::new();
    let mut before = None;
    // The fleet's shard has each sample, and those of devices have five of six once more.
    for (shards, of_round) in [
        ("--analytics=1", 6.0),
        ("--analytics=3", 11.0),
        ("--analytics=2", 11.0),
        ("--analytics=1", 6.0),
    ] {
        let server = directory.start(&[shards]);
        let windows = |server: &Server| {
            let mut found = answers(server);
            // Several shards have no order among one another, so serials differ.
            found.retain(|(path, _)| path.starts_with("/analyze") || path == "/devices");
            found
        };
        if let Some(before) = before {
            assert_eq!(windows(&server), before, "{shards}");
        }
        send(&server, 0..40);
        wait_for_synced(&server, 40.0 * of_round);
        before = Some(windows(&server));
        kill(server);
    }
}

#[test]
fn a_kill_under_load_loses_nothing_that_was_durable() {
    let directory = StateDirectory::new();
    let (mut least, mut most) = (0.0, 0);
    for round in 0..kill_rounds() {
        let server = directory.start(&["--analytics=1", "--snapshot-interval=1s"]);
        let judged = server.total();
        assert!(judged as f64 >= least, "round {round}: {judged} of {least} that were durable");
        assert!(judged <= most, "round {round}: {judged} of {most} that were sent");
        most = judged;
        let sent = std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                let (mut connection, mut sent) = (server.connect(), 0);
                let sample = post("/ingest", br#"{"device":"d","rps":1}"#);
                while connection.try_send(&sample).is_ok()
                    && connection.read().is_ok_and(|answer| answer.status == 202)
                {
                    sent += 1;
                }
                sent
            });
            wait_for_synced(&server, f64::from(round % 5) * 40.0 + 1.0);
            least = judged as f64 + scraped(&server, "sigmad_state_synced_samples_total");
            server.signal(libc::SIGKILL);
            load.join().expect("it ends with the server")
        });
        // The last one may have been judged without an answer.
        most += sent + 1;
        kill(server);
    }
}

#[test]
fn damaged_files_never_end_the_start() {
    let directory = StateDirectory::new();
    let server = directory.start(&[]);
    send(&server, 0..20);
    let before = answers(&server);
    server.stop();
    let is_snapshot = |path: &&PathBuf| name(path).starts_with("snapshot-");
    let snapshot = directory.files().iter().find(is_snapshot).expect("one was written").clone();
    let mut bytes = std::fs::read(&snapshot).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&snapshot, bytes).expect("writable");

    let server = directory.start(&[]);
    server.wait_for_log(&["damaged", &name(&snapshot)]).expect("a line");
    assert_eq!(answers(&server), before, "the journal has it all");
}

fn name(path: &Path) -> String {
    path.file_name().expect("a file").to_string_lossy().into_owned()
}

#[test]
fn one_process_has_the_directory() {
    let directory = StateDirectory::new();
    let server = directory.start(&[]);
    let flag = directory.0.display().to_string();
    let args = ["--state-dir", &flag, "--listen", "127.0.0.1:0"];
    let (code, _, log) = Launch { args: &args, ..Launch::default() }.run();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains(&format!("process {}", server.pid())), "{log}");
    assert!(log.contains("--state-dir"), "{log}");
}
