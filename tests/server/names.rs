//! Metric names that strangers invent lock nobody out: SPEC section 4.
//!
//! With `--max-streams 15360` the table has 1,024 names, so that some dozens of posts fill it.

#![allow(clippy::disallowed_methods, reason = "tests bound their waits on real processes")]

use crate::harness::{Engine, Server};
use crate::redis_server::{Redis, until};
use serde_json::Value;

/// One for fifteen streams.
const NAMES: usize = 1_024;
const STREAMS: &str = "--max-streams=15360";
/// The shortest `--stream-idle`.
const IDLE: &str = "--stream-idle=10s";

/// A sample of 32 metrics that no other has.
fn garbage(device: &str, post: usize) -> String {
    let fields: Vec<_> = (0..32).map(|at| format!(r#""g{device}_{post}_{at}":1"#)).collect();
    format!(r#"{{"device":"{device}",{}}}"#, fields.join(","))
}

/// Fills the table from as many devices as that takes.
fn fill(server: &Server) {
    let mut connection = server.connect();
    for post in 0..NAMES / 32 + 1 {
        let body = garbage(&format!("stranger-{post}"), post);
        connection.exchange(&crate::harness::post("/ingest", body.as_bytes()));
    }
    assert_eq!(scraped(server, "sigmad_metrics"), NAMES);
}

fn scraped(server: &Server, name: &str) -> usize {
    let scrape = server.get("/metrics").expect(200);
    let line = scrape.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse::<f64>().ok()).expect(name) as usize
}

/// The metrics of a device.
fn metrics(server: &Server, device: &str) -> Vec<String> {
    let answer = server.get(&format!("/analyze?device={device}")).expect(200).json();
    answer["metrics"].as_object().expect("an object").keys().cloned().collect()
}

#[test]
fn known_metrics_are_kept_when_a_name_has_no_room() {
    let server = Server::start(Engine::Native, &[STREAMS]);
    server.ingest(r#"{"device":"edge","cpu":1,"disk":2}"#).expect(202);
    fill(&server);
    let body = r#"{"device":"edge","cpu":1,"late":5,"rps":3,"disk":2}"#;
    let answer = server.ingest(body).expect(202).json();
    assert_eq!((&answer["status"], &answer["accepted"]), (&"partial".into(), &1.into()));
    assert_eq!(
        (&answer["rejected"], answer["errors"].as_array().map(Vec::len)),
        (&0.into(), Some(1))
    );
    let message = answer["errors"][0]["message"].as_str().expect("text");
    assert!(message.contains("late") && message.contains("1024"), "{message}");
    assert_eq!(metrics(&server, "edge"), ["cpu", "disk", "rps"]);
    // Another device, and a batch.
    server.ingest(r#"[{"device":"new","cpu":1},{"device":"new","x":1}]"#).expect(202);
    let alone = server.ingest(r#"{"device":"new","x":1}"#).expect(429).json();
    assert_eq!(alone["error"]["code"], "too_many_metrics");
    let scrape = server.get("/metrics").expect(200);
    assert!(scrape.text().contains("ingest_samples_total{result=\"too_many_metrics\"} 3"));
    assert!(scraped(&server, "ingest_values_refused_total") >= 3);
}

#[test]
fn one_device_leaves_half_of_the_names_to_others() {
    let server = Server::start(Engine::Native, &[STREAMS]);
    let mut connection = server.connect();
    for post in 0..NAMES / 16 {
        connection.exchange(&crate::harness::post("/ingest", garbage("greedy", post).as_bytes()));
    }
    assert_eq!(scraped(&server, "sigmad_metrics"), NAMES / 2);
    for device in 0..8 {
        let mut mine = garbage(&format!("other-{device}"), 0);
        assert_eq!(server.ingest(&mine).expect(202).json()["status"], "accepted");
        mine = garbage(&format!("other-{device}"), 1);
        assert_eq!(server.ingest(&mine).expect(202).json()["status"], "accepted");
        // Its share is full.
        server.ingest(&garbage(&format!("other-{device}"), 2)).expect(429);
    }
}

#[test]
fn silent_names_make_room() {
    let server = Server::start(Engine::Native, &[STREAMS, IDLE]);
    server.ingest(r#"{"device":"edge","cpu":1,"disk":2}"#).expect(202);
    fill(&server);
    until("the garbage is gone", || {
        // A name that somebody sends stays, with its window.
        server.ingest(r#"{"device":"edge","cpu":1,"disk":2}"#).expect(202);
        (server.ingest(r#"{"device":"late","mine":1}"#).status == 202).then_some(())
    });
    // What was sent a second later may still be there.
    let left = scraped(&server, "sigmad_metrics");
    assert_eq!(left + scraped(&server, "sigmad_metrics_evicted_total"), NAMES + 1);
    assert!((4..NAMES).contains(&left), "{left}");
    assert_eq!(metrics(&server, "late"), ["mine"]);
    assert_eq!(metrics(&server, "edge"), ["cpu", "disk"]);
    until("the streams of the garbage are freed", || {
        (scraped(&server, "sigmad_streams") == left - 1).then_some(())
    });
    let fleet = server.get("/analyze").expect(200).json();
    assert_eq!(fleet["metrics"].as_object().map(serde_json::Map::len), Some(left - 1));
    let edge = server.get("/analyze?device=edge").expect(200).json();
    assert!(edge["metrics"]["disk"]["count"].as_u64() > Some(2), "{edge}");
    assert_eq!(metrics(&server, "stranger-0"), [""; 0]);
}

#[test]
fn garbage_of_one_replica_fills_no_other() {
    let redis = Redis::start(&[]);
    let url = format!("--redis-url={}", redis.url());
    let flags = [STREAMS, IDLE, &*url];
    let first = Server::start(Engine::Native, &flags);
    let other = Server::start(Engine::Native, &flags);
    fill(&first);
    first.ingest(r#"{"device":"edge","cpu":1}"#).expect(202);
    until("the other replica has read it", || {
        (scraped(&other, "sigmad_metrics") == NAMES / 4 * 3).then_some(())
    });
    other.ingest(r#"{"device":"late","cpu":1,"mine":1}"#).expect(202);
    assert_eq!(metrics(&other, "late"), ["cpu", "mine"]);
    // A process that starts later.
    let third = Server::start(Engine::Native, &flags);
    until("it has read the windows", || {
        (scraped(&third, "sigmad_metrics") >= NAMES / 4 * 3).then_some(())
    });
    assert_eq!(
        third.ingest(r#"{"device":"new","cpu":1,"own":1}"#).expect(202).json()["status"],
        "accepted"
    );
    drop(third);
    until("Redis has forgotten the garbage", || {
        first.ingest(r#"{"device":"edge","cpu":1}"#).expect(202);
        other.ingest(r#"{"device":"late","cpu":1,"mine":1}"#).expect(202);
        let fields: usize = redis.ask(&["HLEN", "sigmad:fleet:counts"]);
        (fields < 32).then_some(())
    });
    let last = Server::start(Engine::Native, &flags);
    until("a later process has read the rest", || {
        let answer: Value = last.get("/analyze?device=late").json();
        answer["metrics"]["mine"]["count"].is_number().then_some(())
    });
    assert!(scraped(&last, "sigmad_metrics") < 16);
}
