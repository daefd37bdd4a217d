//! Several analytics threads share one store thread: what one does, two and four do.

#![allow(clippy::disallowed_methods, reason = "tests bound their waits on real processes")]

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use serde_json::{Value, json};

use crate::handover::{self, alone, findings, received, replica_with, waits, written};
use crate::harness::{Launch, Server, eventually};
use crate::redis_server::Redis;
use crate::store_ledger::Scrape;

const SHARDS: [usize; 3] = [1, 2, 4];
const DEVICES: usize = 10;
const FIRST_S: usize = 1_767_225_600;
/// Rounds while Redis is away.
const ROUNDS: usize = 2_000;
const EXIT: Duration = Duration::from_secs(60);

fn start(redis: &Redis, shards: usize, flags: &[&str]) -> Server {
    let (url, shards) = (redis.url(), format!("--analytics={shards}"));
    let args = [&["--redis-url", &url, "--workers=2", &shards], flags].concat();
    let server = Launch { args: &args, ..Launch::default() }.start();
    eventually("/readyz is 200", || server.get("/readyz").status == 200);
    server
}

/// Rounds of samples, each one of each device, and two without one. No two rounds have a timestamp in common.
fn rounds(which: Range<usize>) -> String {
    Value::from(which.flat_map(round).collect::<Vec<_>>()).to_string()
}

fn round(at: usize) -> Vec<Value> {
    let value = |subject: usize| if at == 20 + subject { 900 } else { 100 + at % 3 };
    let samples = (0..DEVICES + 2).map(|subject| {
        let timestamp = FIRST_S + at * 100 + subject;
        let device = (subject < DEVICES).then(|| format!("edge-{subject}"));
        json!({"timestamp": timestamp, "device": device, "rps": value(subject)})
    });
    samples.collect()
}

fn rows(server: &Server, path: &str, list: &str) -> Vec<Value> {
    server.get(path).expect(200).json()[list].as_array().expect("a list").clone()
}

/// The times of all samples in `/latest`.
fn latest(server: &Server) -> Vec<u64> {
    let rows = rows(server, "/latest?limit=1000", "samples");
    rows.iter().map(|row| row["timestamp"].as_f64().expect("a time") as u64).collect()
}

/// The windows of a device, or of the fleet, without what a replica says of itself.
fn window(server: &Server, device: Option<usize>) -> Value {
    let of = device.map_or_else(String::new, |device| format!("?device=edge-{device}"));
    let mut report = server.get(&format!("/analyze{of}")).expect(200).json();
    let totals = [report["totalCount"].take(), report["lastTimestamp"].take()];
    json!([totals[0], totals[1], report["metrics"]["rps"].take()])
}

/// What was found wrong, whichever shard has numbered it.
fn anomalies(server: &Server) -> BTreeSet<String> {
    let rows = rows(server, "/anomalies?limit=1000", "anomalies");
    let fields = ["device", "metric", "value", "score", "timestamp", "start", "end", "flags"];
    let shown = |row: &Value| Value::from(fields.map(|field| row[field].clone()).to_vec());
    rows.iter().map(|row| shown(row).to_string()).collect()
}

#[test]
fn a_read_after_a_202_sees_it_and_verdicts_are_the_same_for_each_number_of_shards() {
    let mut expected = None;
    for shards in SHARDS {
        let redis = Redis::start(&[]);
        let server = start(&redis, shards, &["--incidents=off"]);
        for at in 0..40 {
            server.ingest(&rounds(at..at + 1)).expect(202);
            let samples = (at + 1) * (DEVICES + 2);
            assert_eq!(server.total(), samples as u64, "{shards}");
            // Each once, whether the list of the cluster has it or not.
            let found: BTreeSet<u64> = latest(&server).into_iter().collect();
            assert_eq!((latest(&server).len(), found.len()), (samples, samples), "{shards}");
            let begun = (at + 1).saturating_sub(20).min(DEVICES);
            assert!(anomalies(&server).len() >= begun, "{shards} shards, round {at}");
        }
        written(&server);
        let verdicts = (0..DEVICES).map(|device| window(&server, Some(device)));
        let seen = (verdicts.collect::<Vec<_>>(), window(&server, None), anomalies(&server));
        assert!(seen.2.len() >= DEVICES);
        match &expected {
            None => expected = Some(seen),
            Some(expected) => assert_eq!(&seen, expected, "{shards} shards"),
        }
        assert_eq!(server.stop().0, Some(0), "{shards}");
        // All shards were drained.
        let keys: Vec<String> = redis.ask(&["KEYS", "metric:edge-*"]);
        assert_eq!(keys.len(), 40 * DEVICES, "{shards}");
    }
}

#[test]
fn replicas_of_different_numbers_of_shards_have_the_same_windows_and_lists() {
    let redis = Redis::start(&[]);
    let replicas = SHARDS.map(|shards| start(&redis, shards, &["--incidents=off"]));
    for at in 0..60 {
        replicas[at % 3].ingest(&rounds(at..at + 1)).expect(202);
    }
    replicas.iter().for_each(written);
    for device in (0..DEVICES).map(Some).chain([None]) {
        let samples = if device.is_some() { 60 } else { 60 * (DEVICES as u64 + 2) };
        eventually("all have the same windows", || {
            let seen = replicas.each_ref().map(|server| window(server, device));
            seen[0][0] == samples
                && seen.iter().all(|of| (&of[0], &of[1]) == (&seen[0][0], &seen[0][1]))
                && ["mean", "stdDev", "min", "max", "last", "count", "totalCount"]
                    .iter()
                    .all(|field| seen.iter().all(|of| of[2][field] == seen[0][2][field]))
        });
    }
    for path in ["/latest?limit=1000", "/anomalies?limit=1000"] {
        let list = if path.starts_with("/latest") { "samples" } else { "anomalies" };
        eventually("all have the same list", || {
            let lists = replicas.each_ref().map(|server| rows(server, path, list));
            !lists[0].is_empty() && lists.iter().all(|rows| *rows == lists[0])
        });
    }
    assert_eq!(latest(&replicas[0]).len(), 60 * (DEVICES + 2));
}

#[test]
fn outcomes_add_up_after_an_outage_and_each_shard_writes_what_it_had() {
    for shards in SHARDS {
        let mut redis = Redis::start(&[]);
        let server = start(&redis, shards, &["--redis-queue=1MiB"]);
        redis.stop();
        for at in (0..ROUNDS).step_by(5) {
            server.ingest(&rounds(at..at + 5)).expect(202);
        }
        redis.restart();
        written(&server);
        let scrape = Scrape::of(&server);
        let of = |outcome| scrape.get(&format!(r#"sigmad_samples_total{{outcome="{outcome}"}}"#));
        let outcomes = of("stored") + of("coalesced") + of("dropped");
        let accepted = (ROUNDS * (DEVICES + 2)) as u64;
        assert_eq!((outcomes, of("coalesced")), (accepted, 0), "{shards} shards");
        assert!(of("dropped") > 0, "{shards} shards: more than a megabyte has waited");
        // The newest of each device is there, and the counts of all.
        for device in 0..DEVICES {
            let key = format!("metric:edge-{device}:{}", FIRST_S + (ROUNDS - 1) * 100 + device);
            assert!(redis.ask::<bool>(&["EXISTS", &key]), "{shards} shards: {key}");
            let counts: Vec<String> =
                redis.ask(&["HVALS", &format!("sigmad:{{edge-{device}}}:counts")]);
            let all = format!(":{ROUNDS}:");
            assert!(counts.iter().any(|of| of.contains(&all)), "{shards} shards: {counts:?}");
        }
    }
}

#[test]
fn a_sigterm_drains_all_shards() {
    for shards in SHARDS {
        let redis = Redis::start(&[]);
        // Nothing is written before the end.
        let mut server = start(&redis, shards, &["--flush-interval=10s"]);
        for at in 0..30 {
            server.ingest(&rounds(at..at + 1)).expect(202);
        }
        server.terminate();
        assert_eq!(server.wait_exit(EXIT).and_then(|status| status.code()), Some(0), "{shards}");
        let keys: Vec<String> = redis.ask(&["KEYS", "metric:*"]);
        // One of the timestamp each, and with a device another one.
        assert_eq!(keys.len(), 30 * (2 * DEVICES + 2), "{shards} shards");
    }
}

#[test]
fn devices_of_each_shard_move_between_replicas_with_their_states() {
    let redis = Redis::start(&[]);
    let (alone, mut first) = (alone(), replica_with(&redis, &["--analytics=2"]));
    let devices = ["edge-1", "edge-2", "edge-3"];
    for device in devices {
        handover::post(&alone, device, 0..500);
        handover::post(&first, device, 0..480);
    }
    let second = replica_with(&redis, &["--analytics=2"]);
    // One moves while both run, the others as the first one ends.
    handover::post(&second, devices[0], 480..500);
    received(&second, 1);
    first.terminate();
    assert_eq!(first.wait_exit(EXIT).and_then(|status| status.code()), Some(0));
    for device in &devices[1..] {
        handover::post(&second, device, 480..500);
    }
    received(&second, 3);
    for device in devices {
        assert_eq!(findings(&second, device), findings(&alone, device), "{device}");
    }
    assert_eq!(waits(&second, "unknown"), 0);
}
