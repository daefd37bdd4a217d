//! sigmad with sentinels whose master is killed under load, and with a cluster.
//!
//! Redis loses commands that a master had acknowledged and not yet replicated. After a failover the outcomes
//! must therefore add up, and all later samples must be there; with a cluster, all samples must be.

#![allow(clippy::disallowed_methods, reason = "tests bound their waits on real processes")]

use crate::harness::{Launch, Server, eventually};
use crate::redis_server::{Cluster, DOWN_AFTER_MS, MASTER_NAME, Redis, Sentinels};
use crate::store_ledger::{Excuse, Keys, Ledger, Phase, Plan, Scrape};
use serde_json::{Value, json};

/// Requests before the fault, and again after the failover.
const REQUESTS: u64 = 200;
/// Requests while there is no master: for more than the second that the sentinels wait.
const REQUESTS_WITHOUT: u64 = 800;
/// A time that no test takes: the sentinels do nothing.
const DOWN_AFTER_THE_TEST_MS: &str = "3600000";

fn start(url: &str) -> Server {
    let server =
        Launch { args: &["--redis-url", url, "--workers", "1"], ..Launch::default() }.start();
    eventually("Redis is in use", || Scrape::of(&server).get("sigmad_store_up") == 1);
    server
}

/// Posts one sample and waits until Redis has it.
fn comes_through<'a>(server: &Server, device: &str, find: impl Fn(&str) -> &'a Redis) {
    let sample = json!({"timestamp": 1_735_100_000, "device": device, "rps": 7});
    server.ingest(&sample.to_string()).expect(202);
    let key = format!("metric:{device}:1735100000");
    eventually("the sample is in Redis", || {
        let found: Option<String> = find(&key).ask(&["GET", &key]);
        found.is_some_and(|text| serde_json::from_str::<Value>(&text).expect("JSON") == sample)
    });
}

#[test]
fn a_master_is_killed_under_load() {
    let mut group = Sentinels::start();
    let server = start(&group.url());
    let master = group.master_port();
    comes_through(&server, "before", |_| group.master());

    let load = Ledger::new(Plan::default()).post_to(&server);
    load.run(Phase::Control, REQUESTS);
    // The sentinels wait until the test has seen the state without a master.
    group.set_down_after(DOWN_AFTER_THE_TEST_MS);
    let node =
        group.nodes.iter_mut().find(|node| node.port() == master).expect("a node of the group");
    node.kill();
    load.run(Phase::Fault, REQUESTS_WITHOUT);
    eventually("/readyz says degraded", || {
        server.get("/readyz").expect(200).json()["parts"]["redis"] == "degraded"
    });
    group.set_down_after(DOWN_AFTER_MS);
    let successor = group.wait_for_failover(master);
    eventually("the successor is in use", || Scrape::of(&server).get("sigmad_store_up") == 1);
    load.run(Phase::After, REQUESTS);
    let ledger = load.stop();

    ledger.assert_all_answered();
    eventually("at rest", || Scrape::of(&server).get("sigmad_pending_samples") == 0);
    let scrape = Scrape::of(&server);
    let received = scrape.get("sigmad_samples_received_total");
    assert!(received > ledger.accepted(), "one more was posted beside the ledger");
    assert_eq!(received, scrape.sum("sigmad_samples_total"), "the outcomes add up");
    assert_eq!(scrape.sum("sigmad_store_dropped_total"), 0, "dropped");
    ledger.assert_not_held_up();
    comes_through(&server, "after", |_| successor);
    let fleet: u64 = successor.ask(&["ZCARD", "sigmad:fleet:window:rps"]);
    assert_eq!(fleet, 51, "a window and one more");
}

/// A planned failover: the old master takes writes for seconds after its replica was promoted.
#[test]
fn a_planned_failover_under_load_loses_no_stored_sample() {
    let group = Sentinels::start();
    let server = start(&group.url());
    let master = group.master_port();
    let load = Ledger::new(Plan { keys: Keys::Unique, ..Plan::default() }).post_to(&server);
    load.run(Phase::Control, REQUESTS);
    group.sentinels[1].ask::<()>(&["SENTINEL", "FAILOVER", MASTER_NAME]);
    load.run(Phase::Fault, REQUESTS_WITHOUT);
    let successor = group.wait_for_failover(master);
    eventually("the last samples are written again", || {
        Scrape::of(&server).get("sigmad_store_rewritten_samples_total") > 0
    });
    load.run(Phase::After, REQUESTS);
    let ledger = load.stop();

    ledger.assert_all_answered();
    let scrape = ledger.settle(&server);
    assert_eq!(scrape.sum("sigmad_store_dropped_total"), 0, "dropped");
    assert_eq!(scrape.get("sigmad_store_unconfirmed_samples_total"), 0);
    ledger.check(successor, &Excuse::NONE);
    ledger.assert_not_held_up();
}

/// The old master keeps its role and all connections: what the sentinels say is all that tells of the new one.
#[test]
fn a_master_that_only_sentinels_name_is_used() {
    let group = Sentinels::start();
    let other = Redis::start(&[]);
    let server = start(&group.url());
    comes_through(&server, "before", |_| group.master());
    for sentinel in &group.sentinels {
        let port = other.port().to_string();
        sentinel.ask::<()>(&["SENTINEL", "REMOVE", MASTER_NAME]);
        sentinel.ask::<()>(&["SENTINEL", "MONITOR", MASTER_NAME, "127.0.0.1", &port, "2"]);
    }
    // What is posted before all sentinels know of it may be on the old master, and be confirmed there.
    eventually("samples go to the other", || {
        server.ingest(r#"{"timestamp":1735100000,"device":"after","rps":7}"#).expect(202);
        other.ask::<Option<String>>(&["GET", "metric:after:1735100000"]).is_some()
    });
}

#[test]
fn a_cluster_has_all_samples_each_key_on_its_node() {
    const DEVICES: usize = 60;
    let cluster = Cluster::start();
    let server = start(&cluster.url());
    let owner = |key: &str| &cluster.nodes[cluster.first_owner(key)];
    for round in 0..3 {
        let samples: Vec<Value> = (0..DEVICES)
            .map(|device| {
                json!({"timestamp": 1_735_200_000 + round, "device": format!("edge-{device}"), "rps": device})
            })
            .collect();
        server.ingest(&Value::from(samples).to_string()).expect(202);
    }
    comes_through(&server, "last", owner);
    for device in 0..DEVICES {
        let window = format!("sigmad:{{edge-{device}}}:window:rps");
        let counts = format!("sigmad:{{edge-{device}}}:counts");
        let values: u64 = owner(&window).ask(&["ZCARD", &window]);
        let fields: Vec<String> = owner(&counts).ask(&["HKEYS", &counts]);
        // The takeover may be on its way.
        let fields = fields.iter().filter(|field| *field != "owner").count();
        assert_eq!((values, fields), (3, 2), "edge-{device}");
        for round in 0..3 {
            let key = format!("metric:edge-{device}:{}", 1_735_200_000 + round);
            assert_eq!(owner(&key).ask::<u64>(&["EXISTS", &key]), 1, "{key}");
        }
    }
    let used = cluster.nodes.iter().filter(|node| node.ask::<u64>(&["DBSIZE"]) > 0).count();
    assert_eq!(used, cluster.nodes.len(), "every node has its share");

    // A second replica reads everything before it reports ready.
    let second = start(&cluster.url());
    eventually("ready", || second.get("/readyz").status == 200);
    let report = second.get("/analyze?device=edge-59").expect(200).json();
    assert_eq!((&report["count"], &report["scope"]), (&json!(3), &json!("cluster")));
}
