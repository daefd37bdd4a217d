//! Replicas share windows through one Redis: with clocks that are wrong, with what wrong clocks have left behind,
//! with different `--window`, and with a Redis that refuses what sharing needs.

#![allow(clippy::disallowed_methods, reason = "tests bound their waits on real processes")]

use std::time::{Duration, Instant};

use crate::fault_proxy::{Fault, Proxy};
use crate::harness::{Launch, Server, eventually, now_s};
use crate::redis_server::{Redis, until};
use crate::replica::Replica;
use crate::store_ledger::Scrape;
use serde_json::Value;

const DAY_US: i64 = 86_400_000_000;
/// Values that replicas with a wrong clock have written.
const WRONG: f64 = 9_000.0;
const FLEET_RPS: &str = "sigmad:fleet:window:rps";
const DEVICE_RPS: &str = "sigmad:{edge-1}:window:rps";

fn start(url: &str, flags: &[&str]) -> Server {
    let args = [&["--redis-url", url, "--workers", "1"], flags].concat();
    let server = Launch { args: &args, ..Launch::default() }.start();
    eventually("/readyz is 200", || server.get("/readyz").status == 200);
    server
}

/// The state of Redis in `/readyz`.
fn redis_part(server: &Server) -> String {
    let answer = server.get("/readyz").expect(200).json();
    answer["parts"]["redis"].as_str().expect("a state").to_owned()
}

/// Posts values of one device, and waits until Redis has them.
fn post(server: &Server, values: impl IntoIterator<Item = f64>) {
    let samples: Vec<String> =
        values.into_iter().map(|value| format!(r#"{{"device":"edge-1","rps":{value}}}"#)).collect();
    server.ingest(&format!("[{}]", samples.join(","))).expect(202);
    eventually("the samples are written", || Scrape::of(server).get("sigmad_pending_samples") == 0);
}

fn ordinary(count: usize) -> impl Iterator<Item = f64> {
    (0..count).map(|at| 10.0 + (at % 3) as f64)
}

fn analyze(server: &Server, query: &str) -> Value {
    server.get(&format!("/analyze{query}")).expect(200).json()
}

/// Waits until the windows of the fleet and of the device are ordinary on that replica.
#[track_caller]
fn expect_ordinary(server: &Server, count: u64) {
    for query in ["", "?device=edge-1"] {
        eventually("the window is ordinary", || {
            let report = &analyze(server, query)["metrics"]["rps"];
            report["count"] == count
                && report["mean"].as_f64().is_some_and(|mean| (10.0..=12.0).contains(&mean))
                && report["max"].as_f64() == Some(12.0)
        });
    }
}

fn redis_us(redis: &Redis) -> i64 {
    let (seconds, micros): (i64, i64) = redis.ask(&["TIME"]);
    seconds * 1_000_000 + micros
}

/// Writes values as a replica of an earlier version does whose clock is ahead, marks them, and leaves.
fn write_ahead(redis: &Redis, ahead_us: i64, count: i64) {
    let from_us = redis_us(redis) + ahead_us;
    for key in [FLEET_RPS, DEVICE_RPS] {
        for at in 0..count {
            let time = (from_us + at).to_string();
            let member = format!("{:016}:0000dead:000:{WRONG}", from_us + at);
            redis.ask::<()>(&["ZADD", key, &time, &member]);
        }
        redis.ask::<()>(&["ZREMRANGEBYRANK", key, "0", "-52"]);
        redis.ask::<()>(&["PEXPIRE", key, "3600000"]);
    }
    for key in ["sigmad:fleet:counts", "sigmad:{edge-1}:counts"] {
        let counts = format!("{}:{from_us}:{count}:0", from_us + count);
        redis.ask::<()>(&["HSET", key, "0000dead", &counts, "0000dead:rps", &format!("{count}:0")]);
    }
    mark(redis, &["", "edge-1"]);
}

/// Marks names as changed now, in one step: a replica that marks in between would have read past them.
fn mark(redis: &Redis, names: &[&str]) {
    let script = "local time = redis.call('TIME')
        local last = tonumber(redis.call('GET', KEYS[1]) or '0')
        local number = string.format('%.0f', math.max(last + 1, time[1] * 1000000 + time[2]))
        redis.call('SET', KEYS[1], number, 'PX', 3600000)
        for i = 1, #ARGV do redis.call('ZADD', KEYS[2], number, ARGV[i]) end";
    let marked = [&["EVAL", script, "2", "{sigmad}:change", "{sigmad}:changed"], names].concat();
    redis.ask::<()>(&marked);
}

/// Members of a window that a replica with a wrong clock has written.
fn wrong_members(redis: &Redis, key: &str) -> usize {
    let members: Vec<String> = redis.ask(&["ZRANGE", key, "0", "-1"]);
    members.iter().filter(|member| member.ends_with(":9000")).count()
}

#[test]
fn what_a_clock_ahead_has_left_is_left_out_and_removed() {
    for ahead_us in [DAY_US, 30_000_000, 20_000_000] {
        let redis = Redis::start(&[]);
        let running = start(&redis.url(), &[]);
        post(&running, ordinary(60));
        write_ahead(&redis, ahead_us, 60);
        // One that runs already, and keeps its own values.
        for key in [FLEET_RPS, DEVICE_RPS] {
            until("the values are removed", || (wrong_members(&redis, key) == 0).then_some(()));
        }
        expect_ordinary(&running, 50);
        post(&running, ordinary(60));
        expect_ordinary(&running, 50);
        assert!(Scrape::of(&running).get("sigmad_store_future_values_total") >= 102);
        let anomalies = analyze(&running, "")["metrics"]["rps"]["anomalyCount"].clone();
        assert_eq!(anomalies, 0, "{ahead_us}");
        // One that starts later.
        let later = start(&redis.url(), &[]);
        expect_ordinary(&later, 50);
        let devices = later.get("/devices").expect(200).json();
        let seen = devices["devices"][0]["lastSeen"].as_f64().expect("a time");
        assert!((seen - now_s()).abs() < 60.0, "{devices}");
    }
}

#[test]
fn a_replica_that_starts_with_nothing_but_wrong_values_shows_its_own() {
    let redis = Redis::start(&[]);
    write_ahead(&redis, DAY_US, 60);
    // The same replica, whose clock was set right while it was down.
    let server = start(&redis.url(), &[]);
    post(&server, ordinary(60));
    expect_ordinary(&server, 50);
    server.stop();
    let again = start(&redis.url(), &[]);
    expect_ordinary(&again, 50);
}

fn values_in(redis: &Redis) -> Vec<f64> {
    let members: Vec<String> = redis.ask(&["ZRANGE", FLEET_RPS, "0", "-1"]);
    let value = |member: &String| member.rsplit(':').next().expect("a value").parse();
    members.iter().map(value).collect::<Result<_, _>>().expect("numbers")
}

#[test]
fn values_are_ordered_as_they_arrived_whatever_the_wall_clocks_say() {
    let redis = Redis::start(&[]);
    let offsets = [DAY_US, 0, -DAY_US, 30_000_000, -20_000_000];
    let mut replicas: Vec<Replica> =
        (0..).zip(offsets).map(|(at, off_us)| Replica::start(&redis, at, off_us)).collect();
    for value in 0..40 {
        let at = value % offsets.len();
        replicas[at].send(value as f64);
        until("the value is written", || {
            replicas.iter_mut().for_each(Replica::take_updates);
            (replicas[at].stored() == replicas[at].written).then_some(())
        });
    }
    let expected: Vec<f64> = (0..40).map(f64::from).collect();
    assert_eq!(values_in(&redis), expected);
    for (replica, off_us) in replicas.iter_mut().zip(offsets) {
        let offset_us = replica.counters.clock_offset_us.get().cast_signed();
        assert!((offset_us - off_us).abs() < 1_000_000, "{offset_us} of {off_us}");
        assert_eq!(replica.counters.future_values_total.get(), 0);
        // The last change of others that it reads may be followed by changes of its own.
        until("the others are read", || {
            replica.take_updates();
            (replica.shared.len() >= 40 - offsets.len()).then_some(())
        });
        assert_eq!(replica.shared, expected[..replica.shared.len()]);
    }
    replicas.into_iter().for_each(Replica::stop);
    // Restarted, with a wall clock that has stepped back by a day and more.
    let mut again = Replica::start(&redis, 9, -3 * DAY_US);
    again.send(40.0);
    again.stop();
    assert_eq!(values_in(&redis).last(), Some(&40.0));
}

#[test]
fn a_clock_that_is_off_by_more_than_a_second_is_warned_of() {
    const WARNING: &str = "the clock of this replica differs from that of Redis";
    let redis = Redis::start(&[]);
    for (at, off_us) in [(1, 2_000_000), (2, -2_000_000), (3, 0)] {
        let mut replica = Replica::start(&redis, at, off_us);
        // Redis' time comes with the reply that a mark of changes has.
        replica.send(1.0);
        until("the value is written", || (replica.stored() == 1).then_some(()));
        if off_us == 0 {
            assert!(!replica.log.has(WARNING), "the clock is right");
        } else {
            // A reply that takes a second says too little, and another one comes.
            until("the warning", || replica.log.has(WARNING).then_some(()));
        }
        replica.stop();
    }
}

#[test]
fn values_from_before_the_first_contact_get_the_time_of_their_arrival() {
    let mut redis = Redis::start(&[]);
    let mut present = Replica::start(&redis, 1, 0);
    present.send(1.0);
    until("written", || (present.stored() == 1).then_some(()));
    present.stop();
    redis.pause();
    let mut waiting = Replica::start(&redis, 2, DAY_US);
    let arrived_us = now_s() * 1e6;
    waiting.send(2.0);
    let away = || waiting.counters.errors_total.iter().map(|kind| kind.get()).sum::<u64>() > 0;
    eventually("Redis is away", away);
    redis.resume();
    until("written", || (waiting.stored() == 1).then_some(()));
    waiting.stop();
    let members: Vec<(String, f64)> = redis.ask(&["ZRANGE", FLEET_RPS, "0", "-1", "WITHSCORES"]);
    assert_eq!(values_in(&redis), [1.0, 2.0]);
    // Redis was away for two seconds and more; the estimate is as good as a round trip.
    assert!((members[1].1 - arrived_us).abs() < 1_500_000.0, "{members:?} at {arrived_us}");
    redis.stop();
}

#[test]
fn a_refused_script_degrades_and_its_marks_are_made_up_for() {
    let redis = Redis::start(&[]);
    let (writer, reader) = (start(&redis.url(), &[]), start(&redis.url(), &[]));
    post(&writer, ordinary(20));
    expect_ordinary(&reader, 20);
    redis.ask::<()>(&["DEL", "{sigmad}:changed"]);
    redis.ask::<()>(&["SET", "{sigmad}:changed", "not ours"]);
    for server in [&writer, &reader] {
        eventually("degraded", || redis_part(server) == "degraded");
        assert_eq!(Scrape::of(server).get("sigmad_store_up"), 0);
    }
    let synced_at = || analyze(&reader, "")["syncedAt"].clone();
    let before = synced_at();
    // Samples are stored; only their windows are not shared.
    post(&writer, ordinary(60));
    let refusals = Scrape::of(&reader).errors("wrong_type");
    eventually("some flushes later", || Scrape::of(&reader).errors("wrong_type") > refusals + 3);
    assert_eq!(synced_at(), before);
    for server in [&writer, &reader] {
        let log = server.log_text();
        assert_eq!(log.matches("Redis refuses a command").count(), 1, "{log}");
    }
    redis.ask::<()>(&["DEL", "{sigmad}:changed"]);
    for server in [&writer, &reader] {
        eventually("ok again", || redis_part(server) == "ok");
    }
    expect_ordinary(&reader, 50);
    eventually("synced", || synced_at() != before);
    assert_eq!(writer.log_text().matches("windows are shared again").count(), 1);
}

#[test]
fn a_user_without_scripts_is_degraded_until_it_may() {
    let redis = Redis::with_user("u", "secret", "~* +@all -eval");
    let server = start(&redis.url(), &[]);
    eventually("refused", || Scrape::of(&server).errors("auth") > 1);
    assert_eq!(redis_part(&server), "degraded");
    assert_eq!(analyze(&server, "")["syncedAt"], Value::Null);
    redis.ask::<()>(&["ACL", "SETUSER", "u", "+eval"]);
    eventually("ok", || redis_part(&server) == "ok");
}

#[test]
fn a_refused_read_is_no_empty_window() {
    for (key, words) in [(DEVICE_RPS, "window"), ("sigmad:{edge-1}:counts", "counts")] {
        let redis = Redis::start(&[]);
        let writer = start(&redis.url(), &[]);
        post(&writer, ordinary(20));
        let kept = format!("{key}:kept");
        redis.ask::<()>(&["RENAME", key, &kept]);
        redis.ask::<()>(&["SET", key, "not ours"]);
        let reader = start(&redis.url(), &[]);
        eventually("degraded", || redis_part(&reader) == "degraded");
        eventually("the fleet is read", || analyze(&reader, "")["metrics"]["rps"]["count"] == 20);
        let report = analyze(&reader, "?device=edge-1");
        assert_eq!((&report["count"], &report["totalCount"]), (&0.into(), &0.into()), "{words}");
        assert_eq!(report["syncedAt"], Value::Null, "{words}: {report}");
        redis.ask::<()>(&["RENAME", &kept, key]);
        eventually("ok", || redis_part(&reader) == "ok");
        expect_ordinary(&reader, 20);
    }
}

#[test]
fn the_largest_window_in_use_is_kept() {
    let redis = Redis::start(&[]);
    let (small, large) =
        (start(&redis.url(), &["--window", "50"]), start(&redis.url(), &["--window", "100"]));
    for (server, words) in [
        (&small, r#""own":50,"other":100,"kept":100"#),
        (&large, r#""own":100,"other":50,"kept":100"#),
    ] {
        eventually("the difference is logged", || server.log_text().contains(words));
    }
    // The one with the small window writes last, and more than its window.
    post(&large, ordinary(30));
    post(&small, ordinary(120));
    let kept: usize = redis.ask(&["ZCARD", FLEET_RPS]);
    assert_eq!(kept, 101);
    expect_ordinary(&large, 100);
    expect_ordinary(&small, 50);
    for server in [&small, &large] {
        let log = server.log_text();
        assert_eq!(log.matches("different --window").count(), 1, "{log}");
    }
}

#[test]
fn the_first_read_of_a_large_fleet_over_a_slow_link_is_whole() {
    /// Devices of the fleet; each has two windows.
    const DEVICES: usize = 8_000;
    let redis = Redis::start(&[]);
    let writer = start(&redis.url(), &[]);
    for from in (0..DEVICES).step_by(1_000) {
        let samples: Vec<String> = (from..from + 1_000)
            .map(|at| format!(r#"{{"device":"d{at}","cpu":1,"rps":{at}}}"#))
            .collect();
        writer.ingest(&format!("[{}]", samples.join(","))).expect(202);
    }
    eventually("written", || Scrape::of(&writer).get("sigmad_pending_samples") == 0);
    let proxy = Proxy::start(([127, 0, 0, 1], redis.port()).into());
    let delay = Duration::from_millis(50);
    proxy.set(Fault::Delay { requests: delay, replies: delay });
    let begun = Instant::now();
    let reader = start(&format!("redis://{}", proxy.address), &[]);
    println!("{DEVICES} devices at 100 ms: ready after {:?}", begun.elapsed());
    let scrape = Scrape::of(&reader);
    assert_eq!(scrape.get("sigmad_store_windows_read_total"), 2 * DEVICES as u64 + 2);
    assert_eq!(analyze(&reader, "?device=d7999")["lastRps"], 7_999);
}
