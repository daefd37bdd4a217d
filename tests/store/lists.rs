//! The lists of anomalies and samples are the cluster's: the same from each replica, those of replicas that ended
//! included, while Redis goes and comes back.

#![allow(clippy::disallowed_methods, reason = "tests bound their waits on real processes")]

use serde_json::Value;

use crate::harness::{Launch, Server, eventually};
use crate::redis_server::Redis;
use crate::store_ledger::Scrape;

fn start(redis: &Redis) -> Server {
    start_with(redis, "--incidents=off")
}

fn start_with(redis: &Redis, incidents: &str) -> Server {
    let url = redis.url();
    let args = ["--redis-url", &url, "--workers=1", incidents];
    let server = Launch { args: &args, ..Launch::default() }.start();
    eventually("/readyz is 200", || server.get("/readyz").status == 200);
    server
}

/// Posts samples of a device: usual ones, then two anomalies with a usual one between them.
fn post(server: &Server, device: &str, rps: f64) {
    let usual = (0..12).map(|at| rps + f64::from(at % 3));
    let values = usual.chain([10.0 * rps, rps, 11.0 * rps]);
    for (at, value) in values.enumerate() {
        let sample =
            serde_json::json!({"device": device, "rps": value, "timestamp": 1_735_100_000 + at});
        server.ingest(&sample.to_string()).expect(202);
    }
}

fn answer(server: &Server, path: &str) -> Value {
    server.get(path).expect(200).json()
}

/// The rows of a list once it is the cluster's.
fn rows(server: &Server, path: &str) -> Option<Vec<Value>> {
    let answer = answer(server, path);
    let is_cluster = answer["scope"] == "cluster" && answer["degradedSince"].is_null();
    let list = if path.starts_with("/latest") { "samples" } else { "anomalies" };
    is_cluster.then(|| answer[list].as_array().expect("a list").clone())
}

/// Waits until all replicas have the same lists, with as many samples and anomalies.
#[track_caller]
fn expect_same(servers: &[&Server], query: &str, samples: usize, anomalies: usize) {
    for (path, count) in [("/latest", samples), ("/anomalies", anomalies)] {
        let path = format!("{path}?limit=1000{query}");
        eventually("all replicas have the same list", || {
            let lists: Vec<_> = servers.iter().map(|server| rows(server, &path)).collect();
            lists.iter().all(|list| list.as_ref().is_some_and(|list| list.len() == count))
                && lists.windows(2).all(|pair| pair[0] == pair[1])
        });
    }
}

#[test]
fn each_replica_lists_the_anomalies_and_samples_of_all() {
    let redis = Redis::start(&[]);
    let (one, two) = (start(&redis), start(&redis));
    post(&one, "edge-1", 100.0);
    // What is only here is seen here at once.
    assert_eq!(answer(&one, "/latest")["count"], 15);
    assert_eq!(answer(&one, "/anomalies")["count"], 2);
    post(&two, "edge-2", 200.0);
    expect_same(&[&one, &two], "", 30, 4);
    expect_same(&[&one, &two], "&device=edge-2", 15, 2);
    expect_same(&[&one, &two], "&device=edge-3", 0, 0);
    let newest = &rows(&one, "/latest?limit=1").expect("the cluster's")[0];
    assert_eq!((&newest["device"], &newest["rps"]), (&"edge-2".into(), &2_200.into()));

    for (server, device) in [(&one, "edge-1"), (&two, "edge-2")] {
        for path in ["/latest?scope=local", "/anomalies?scope=local"] {
            let list = answer(server, path);
            assert_eq!(list["scope"], "local");
            let rows = list["samples"].as_array().or(list["anomalies"].as_array()).expect("one");
            assert!(!rows.is_empty() && rows.iter().all(|row| row["device"] == device));
        }
    }

    // Page by page, each from another replica.
    let page = |server: &Server, after: &str| {
        let page = answer(server, &format!("/devices?sort=device&limit=1{after}"));
        assert_eq!(page["scope"], "cluster");
        (page["devices"][0]["device"].clone(), page["next"].clone())
    };
    assert_eq!(page(&one, ""), ("edge-1".into(), "edge-1".into()));
    assert_eq!(page(&two, "&after=edge-1"), ("edge-2".into(), "edge-2".into()));
    assert_eq!(page(&one, "&after=edge-2"), (Value::Null, Value::Null));
    for (server, device) in [(&one, "edge-1"), (&two, "edge-2")] {
        let local = answer(server, "/devices?scope=local");
        assert_eq!((&local["scope"], &local["count"]), (&"local".into(), &1.into()));
        assert_eq!(local["devices"][0]["device"], device);
        assert_eq!(local["devices"][0]["totalCount"], 15);
    }

    // An open anomaly ends: it is changed, and stays one.
    two.ingest(r#"{"device":"edge-2","rps":201}"#).expect(202);
    expect_same(&[&one, &two], "", 31, 4);
    eventually("it has ended", || {
        let listed = rows(&one, "/anomalies?device=edge-2").unwrap_or_default();
        listed.len() == 2 && listed.iter().all(|anomaly| anomaly["isOpen"] == false)
    });

    // Those of a replica that ended stay, also for one that starts later.
    assert_eq!(two.stop().0, Some(0));
    let three = start(&redis);
    expect_same(&[&one, &three], "", 31, 4);
    assert_eq!(
        Scrape::of(&three).get(r#"sigmad_store_list_entries_total{list="samples",result="read"}"#),
        31
    );
}

#[test]
fn a_replica_without_redis_lists_what_it_has_and_says_since_when() {
    let mut redis = Redis::start(&[]);
    let (one, two) = (start(&redis), start(&redis));
    post(&one, "edge-1", 100.0);
    post(&two, "edge-2", 200.0);
    expect_same(&[&one, &two], "", 30, 4);
    redis.stop();
    for (server, device) in [(&one, "edge-1"), (&two, "edge-2")] {
        for path in ["/latest", "/anomalies"] {
            eventually("it is degraded", || answer(server, path)["degradedSince"].is_number());
            let list = answer(server, path);
            assert_eq!(list["scope"], "local");
            let rows = list["samples"].as_array().or(list["anomalies"].as_array()).expect("one");
            assert!(!rows.is_empty() && rows.iter().all(|row| row["device"] == device));
        }
    }
    post(&one, "edge-3", 300.0);
    assert_eq!(answer(&one, "/latest?device=edge-3")["count"], 15);
    // It comes back without its data: they give it what they know, for those who come later.
    redis.restart();
    let three = start(&redis);
    expect_same(&[&one, &two, &three], "", 45, 6);
}

/// The points of a device with values, once the history is the cluster's.
fn history(server: &Server, query: &str) -> Option<Vec<Value>> {
    let history = answer(server, &format!("/history?points=1440{query}"));
    if history["scope"] != "cluster" || !history["degradedSince"].is_null() {
        return None;
    }
    let columns = &history["series"]["rps"];
    let column = |name: &str| columns[name].as_array().cloned().unwrap_or_default();
    let at = history["at"].as_array().expect("times").iter();
    let points = at.zip(column("min")).zip(column("max")).zip(column("flags"));
    let points = points.filter(|(((_, min), _), _)| !min.is_null());
    Some(points.map(|(((at, min), max), flags)| serde_json::json!([at, min, max, flags])).collect())
}

#[test]
fn each_replica_has_the_history_of_all_and_of_those_that_ended() {
    let redis = Redis::start(&[]);
    let one = start_with(&redis, "--incidents=on");
    assert!(answer(&one, "/history?device=edge-1")["series"].is_object(), "asked for");
    post(&one, "edge-1", 100.0);
    assert!(answer(&one, "/history?device=edge-1")["series"].is_object(), "recorded from now on");
    let flags = |points: &[Value]| points.iter().filter_map(|point| point[3].as_u64()).sum::<u64>();
    eventually("it is recorded", || {
        history(&one, "&device=edge-1").is_some_and(|points| !points.is_empty())
    });
    // Another one, which starts later and has recorded nothing of it itself.
    let two = start_with(&redis, "--incidents=on");
    // Its own load has none: the sum over all replicas is that of the first one.
    let flagged = |server: &Server, query: &str| {
        let history = answer(server, &format!("/history?points=1440{query}"));
        let flagged = history["anomalies"].as_array().expect("of the fleet");
        flagged.iter().filter_map(Value::as_u64).sum::<u64>()
    };
    eventually("what another one has flagged is known", || flagged(&two, "") == 2);
    assert_eq!((flagged(&one, ""), flagged(&two, "&scope=local")), (2, 0));
    assert_eq!(answer(&two, "/history?scope=local")["scope"], "local");
    let device = history(&one, "&device=edge-1").expect("the cluster's");
    assert!(device.iter().any(|point| point[2].as_f64() == Some(1_100.0)));
    assert!(flags(&device) <= 2);
    one.stop();
    eventually("what ended is known", || {
        history(&two, "&device=edge-1")
            .is_some_and(|points| points.iter().any(|point| point[2].as_f64() == Some(1_100.0)))
    });
    assert_eq!(flagged(&two, ""), 2);
    // Redis goes: what is known stays, and the answer says since when.
    drop(redis);
    eventually("it says that Redis is away", || {
        answer(&two, "/history?device=edge-1")["degradedSince"].is_number()
    });
    let known = answer(&two, "/history?device=edge-1");
    assert!(!known["series"]["rps"]["max"].as_array().expect("a column").is_empty());
}
