//! Detector states follow their device from one replica to another through Redis: after a move, `pager` judges as in one
//! process that has had all samples.

#![allow(clippy::disallowed_methods, reason = "tests bound their waits on real processes")]

use std::time::{Duration, Instant};

use crate::fault_proxy::{Fault, Proxy};
use crate::harness::{Launch, Server};
use crate::redis_server::Redis;
use crate::store_ledger::Scrape;
use serde_json::Value;

/// Far past what a loaded machine needs: a wait ends as soon as its condition holds.
const PATIENCE: Duration = Duration::from_secs(120);
/// The detectors of all replicas: `robust` has a score for each value, and so shows at once whether states are whole. Values
/// wait for states far longer than a loaded machine takes.
const FLAGS: &[&str] = &["--workers", "1", "--detector", "pager,zscore,robust"];
const WITH_REDIS: &[&str] = &["--handover-wait", "60s", "--redis-url"];
/// Values of one device, a minute apart.
const VALUES: u64 = 900;
const FIRST_S: u64 = 1_767_225_600;

#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn alone() -> Server {
    Launch { args: FLAGS, ..Launch::default() }.start()
}

pub fn replica(redis: &Redis) -> Server {
    replica_with(redis, &[])
}

/// The same with further flags.
pub fn replica_with(redis: &Redis, flags: &[&str]) -> Server {
    let url = redis.url();
    let args = [FLAGS, WITH_REDIS, &[&url], flags].concat();
    let server = Launch { args: &args, ..Launch::default() }.start();
    until("/readyz is 200", || server.get("/readyz").status == 200);
    server
}

/// Noise around a level, with events after the warm-up of `pager`, each after its hold.
fn value(at: u64) -> f64 {
    let noise = f64::from((at as u32).wrapping_mul(2_654_435_761) >> 16) / 65_536.0;
    let is_event = [160, 430, 700].iter().any(|&from| (from..from + 12).contains(&at));
    100.0 + noise + if is_event { 60.0 } else { 0.0 }
}

/// Posts values of a device, and waits until they are judged.
pub fn post(server: &Server, device: &str, values: std::ops::Range<u64>) {
    let samples: Vec<String> = values
        .map(|at| {
            let second = FIRST_S + 60 * at;
            format!(r#"{{"timestamp":{second},"device":"{device}","rps":{}}}"#, value(at))
        })
        .collect();
    for some in samples.chunks(100) {
        server.ingest(&format!("[{}]", some.join(","))).expect(202);
    }
}

pub fn written(server: &Server) {
    until("the samples are written", || Scrape::of(server).get("sigmad_pending_samples") == 0);
}

pub fn waits(server: &Server, outcome: &str) -> u64 {
    Scrape::of(server).get(&format!("sigmad_handover_waits_total{{outcome=\"{outcome}\"}}"))
}

/// Waits until the states of that many devices have come to a replica, and no values wait any more.
#[track_caller]
pub fn received(server: &Server, devices: u64) {
    until("the states have come", || {
        waits(server, "received") == devices
            && Scrape::of(server).get("sigmad_handover_waiting_devices") == 0
    });
    assert_eq!((waits(server, "late"), waits(server, "no_room")), (0, 0));
}

/// What the detectors say of the last value of a device.
pub fn findings(server: &Server, device: &str) -> Value {
    let report = server.get(&format!("/analyze?device={device}&scope=local")).expect(200).json();
    let found = &report["metrics"]["rps"]["detectors"];
    Value::from(["pager", "robust"].map(|detector| found[detector].clone()).to_vec())
}

/// The anomalies of a device that began from a value on: times, scores and lengths.
fn anomalies(server: &Server, device: &str, from: u64) -> Vec<Value> {
    let report =
        server.get(&format!("/anomalies?device={device}&limit=1000&scope=local")).expect(200);
    let report = report.json();
    let list = report["anomalies"].as_array().expect("a list").clone();
    let since = FIRST_S + 60 * from;
    let is_since = |anomaly: &&Value| anomaly["start"].as_f64().expect("a time") >= since as f64;
    // Serials and times of arrival are a replica's own; so is the window, which lags by a flush.
    let fields = ["metric", "value", "score", "timestamp", "detector", "start", "end", "flags"];
    let kept = list.iter().filter(is_since).map(|anomaly| {
        let fields = fields.iter().map(|&field| (field.to_owned(), anomaly[field].clone()));
        Value::Object(fields.collect())
    });
    kept.collect()
}

#[track_caller]
fn expect_as_alone(alone: &Server, replica: &Server, device: &str, from: u64) {
    assert_eq!(findings(replica, device), findings(alone, device), "{device}");
    let expected = anomalies(alone, device, from);
    assert!(!expected.is_empty(), "there is an event after the move");
    assert_eq!(anomalies(replica, device, from), expected, "{device}");
}

#[test]
fn states_of_a_replica_that_ends_are_used_by_the_next() {
    let redis = Redis::start(&[]);
    let (alone, mut first) = (alone(), replica(&redis));
    post(&alone, "edge-1", 0..VALUES);
    post(&first, "edge-1", 0..500);
    let second = replica(&redis);
    first.terminate();
    let status = first.wait_exit(PATIENCE).expect("exits after SIGTERM");
    assert_eq!(status.code(), Some(0));
    let states: usize = redis.ask(&["HLEN", "sigmad:{edge-1}:states"]);
    assert_eq!(states, 2, "a stream and the header");
    let life_ms: i64 = redis.ask(&["PTTL", "sigmad:{edge-1}:states"]);
    assert!(life_ms > 0, "it expires: {life_ms}");
    post(&second, "edge-1", 500..VALUES);
    received(&second, 1);
    expect_as_alone(&alone, &second, "edge-1", 500);
    until("the states are here and nowhere else", || {
        redis.ask::<usize>(&["EXISTS", "sigmad:{edge-1}:states"]) == 0
    });
}

#[test]
fn states_of_a_device_that_moves_between_living_replicas_go_there_and_back() {
    let redis = Redis::start(&[]);
    let (alone, first, second) = (alone(), replica(&redis), replica(&redis));
    post(&alone, "edge-1", 0..300);
    post(&first, "edge-1", 0..300);
    written(&first);
    post(&alone, "edge-1", 300..600);
    post(&second, "edge-1", 300..600);
    received(&second, 1);
    written(&second);
    expect_as_alone(&alone, &second, "edge-1", 300);
    post(&alone, "edge-1", 600..VALUES);
    post(&first, "edge-1", 600..VALUES);
    received(&first, 1);
    expect_as_alone(&alone, &first, "edge-1", 600);
}

#[test]
fn a_replica_that_ends_while_states_come_takes_them_and_hands_them_on() {
    let redis = Redis::start(&[]);
    let (alone, (first, first_id), mut second) = (alone(), replica_and_id(&redis), replica(&redis));
    post(&alone, "edge-1", 0..VALUES);
    post(&first, "edge-1", 0..500);
    written(&first);
    taken_over(&redis, "edge-1", &first_id);
    // It learns of the move once the other one drains already.
    first.signal(libc::SIGSTOP);
    post(&second, "edge-1", 500..520);
    until("values wait", || Scrape::of(&second).get("sigmad_handover_waiting_devices") == 1);
    second.terminate();
    second.wait_for_log(&["draining"]).expect("it drains");
    first.signal(libc::SIGCONT);
    let status = second.wait_exit(PATIENCE).expect("exits after SIGTERM");
    assert_eq!(status.code(), Some(0));
    let third = replica(&redis);
    post(&third, "edge-1", 520..VALUES);
    received(&third, 1);
    expect_as_alone(&alone, &third, "edge-1", 520);
}

const ALIVE: &str = "{sigmad}:alive";

/// The ids of the replicas that have said that they live.
pub fn ids(redis: &Redis) -> Vec<String> {
    redis.ask(&["ZRANGE", ALIVE, "0", "-1"])
}

/// The id of a replica that starts now.
fn replica_and_id(redis: &Redis) -> (Server, String) {
    let before = ids(redis);
    let server = replica(redis);
    let id = ids(redis).into_iter().find(|id| !before.contains(id)).expect("it says that it lives");
    (server, id)
}

pub fn kill(server: &mut Server) {
    server.signal(libc::SIGKILL);
    assert!(server.wait_exit(PATIENCE).is_some());
}

/// As if the replica of that id had died long ago.
fn outlive(redis: &Redis, id: &str) {
    redis.ask::<()>(&["ZADD", ALIVE, "1", id]);
}

pub fn taken_over(redis: &Redis, device: &str, id: &str) {
    let key = format!("sigmad:{{{device}}}:counts");
    until("the device is taken over", || {
        let owner: Option<String> = redis.ask(&["HGET", &key, "owner"]);
        owner.is_some_and(|owner| owner.starts_with(id))
    });
}

/// Each replica waits for the one before it, whichever is heard first, and what is written when.
#[test]
fn a_device_that_moves_on_before_its_states_have_come_is_judged_by_all_its_values() {
    let redis = Redis::start(&[]);
    let (alone, (first, first_id)) = (alone(), replica_and_id(&redis));
    let ((second, second_id), (third, third_id)) = (replica_and_id(&redis), replica_and_id(&redis));
    post(&alone, "edge-1", 0..VALUES);
    post(&first, "edge-1", 0..500);
    written(&first);
    taken_over(&redis, "edge-1", &first_id);
    first.signal(libc::SIGSTOP);
    post(&second, "edge-1", 500..505);
    taken_over(&redis, "edge-1", &second_id);
    post(&third, "edge-1", 505..VALUES);
    taken_over(&redis, "edge-1", &third_id);
    first.signal(libc::SIGCONT);
    received(&second, 1);
    received(&third, 1);
    expect_as_alone(&alone, &third, "edge-1", 505);
}

#[test]
fn nobody_waits_for_a_replica_that_has_died() {
    let redis = Redis::start(&[]);
    let (mut first, first_id) = replica_and_id(&redis);
    post(&first, "edge-1", 0..300);
    taken_over(&redis, "edge-1", &first_id);
    written(&first);
    // Values wait for a minute, and nothing else here takes so long.
    kill(&mut first);
    let second = replica(&redis);
    post(&second, "edge-1", 300..310);
    until("it goes on without", || waits(&second, "unknown") == 1);
    assert_eq!((waits(&second, "late"), waits(&second, "received")), (0, 0));
}

/// Its connection stays open at Redis, as nobody closes it.
#[test]
fn nobody_waits_for_a_machine_that_is_lost() {
    let redis = Redis::start(&[]);
    let (first, first_id) = replica_and_id(&redis);
    post(&first, "edge-1", 0..300);
    taken_over(&redis, "edge-1", &first_id);
    written(&first);
    first.signal(libc::SIGSTOP);
    let second = replica(&redis);
    outlive(&redis, &first_id);
    post(&second, "edge-1", 300..310);
    until("it goes on without", || waits(&second, "unknown") == 1);
    assert_eq!((waits(&second, "late"), waits(&second, "received")), (0, 0));
}

#[test]
fn states_that_a_replica_died_before_it_took_are_used_by_the_next() {
    let redis = Redis::start(&[]);
    let (alone, (first, first_id), (mut second, second_id)) =
        (alone(), replica_and_id(&redis), replica_and_id(&redis));
    // But for those that the second one has had.
    post(&alone, "edge-1", 0..500);
    post(&alone, "edge-1", 510..VALUES);
    post(&first, "edge-1", 0..500);
    written(&first);
    taken_over(&redis, "edge-1", &first_id);
    first.signal(libc::SIGSTOP);
    post(&second, "edge-1", 500..510);
    taken_over(&redis, "edge-1", &second_id);
    // And marked: or the first one hears of the takeover with the next mark alone.
    written(&second);
    kill(&mut second);
    first.signal(libc::SIGCONT);
    until("they are written", || redis.ask(&["HEXISTS", "sigmad:{edge-1}:states", ""]));
    let third = replica(&redis);
    post(&third, "edge-1", 510..VALUES);
    until("they are used", || waits(&third, "older") == 1);
    expect_as_alone(&alone, &third, "edge-1", 510);
}

#[test]
fn a_device_that_nobody_had_waits_for_nothing() {
    let redis = Redis::start(&[]);
    let (alone, server) = (alone(), replica(&redis));
    for server in [&alone, &server] {
        post(server, "edge-1", 0..VALUES);
    }
    until("nobody has it", || waits(&server, "unknown") == 1);
    expect_as_alone(&alone, &server, "edge-1", 0);
    assert_eq!(Scrape::of(&server).get("sigmad_handover_waiting_devices"), 0);
}

/// A device that is back before its replica has learned of the takeover is judged there at once, and its earlier values later.
#[test]
fn a_device_that_moves_faster_than_takeovers_are_learned_is_counted() {
    let crossed = |server: &Server| Scrape::of(server).get("sigmad_store_states_crossed_total");
    let redis = Redis::start(&[]);
    let begun = Instant::now();
    // It learns of takeovers so seldom.
    let url = redis.url();
    let args = [FLAGS, WITH_REDIS, &[&url, "--flush-interval", "5s"]].concat();
    let first = Launch { args: &args, ..Launch::default() }.start();
    until("/readyz is 200", || first.get("/readyz").status == 200);
    let first_id = ids(&redis).pop().expect("it says that it lives");
    let (second, second_id) = replica_and_id(&redis);
    // With a machine that is slow enough, it learns of one in between: then another device tries.
    for turn in 1.. {
        let device = format!("edge-{turn}");
        post(&first, &device, 0..300);
        written(&first);
        taken_over(&redis, &device, &first_id);
        post(&second, &device, 300..310);
        taken_over(&redis, &device, &second_id);
        post(&first, &device, 310..320);
        received(&second, turn);
        if crossed(&second) > 0 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "it always learns of it in between");
    }
    assert_eq!(crossed(&first), 0);
}

/// A replica that is slow deletes what it was waiting for, and nothing that others wait for now.
#[test]
fn states_of_a_later_takeover_stay_when_earlier_ones_have_come() {
    const RECEIVED: &str = include_str!("../../src/store/scripts/received.lua");
    let redis = Redis::start(&[]);
    let (counts, states) = ("sigmad:{edge-1}:counts", "sigmad:{edge-1}:states");
    for (header, owner, is_deleted) in [
        (Some("2:0000feed:9:4"), "aaaa0000:5:0000feed", true),
        (Some("2:0000feed:9:4:00017f80ff0910"), "0000cccc:6:aaaa0000", true),
        (Some("1:0000feed:9"), "aaaa0000:5:0000feed", true),
        (Some("2:0000feed:9:6"), "0000cccc:7:0000feed", false),
        (Some("2:aaaa0000:9:5"), "0000cccc:6:aaaa0000", false),
        (None, "0000cccc:7:0000feed", false),
    ] {
        redis.ask::<()>(&["HSET", counts, "owner", owner]);
        redis.ask::<()>(&["DEL", states]);
        redis.ask::<()>(&["HSET", states, "rps", "packed"]);
        if let Some(header) = header {
            redis.ask::<()>(&["HSET", states, "", header]);
        }
        let deleted: i64 = redis.ask(&["EVAL", RECEIVED, "2", counts, states, "aaaa0000", "5"]);
        assert_eq!(deleted, i64::from(is_deleted), "{header:?}");
        assert_eq!(redis.ask::<bool>(&["EXISTS", states]), !is_deleted, "{header:?}");
        let is_own = owner.starts_with("aaaa0000:5:");
        let expected = if is_own { "aaaa0000:5:" } else { owner };
        assert_eq!(redis.ask::<String>(&["HGET", counts, "owner"]), expected);
    }
}

/// The states are found, and the connection ends before all of them have come.
#[test]
fn states_whose_reading_is_cut_are_read_again() {
    /// The windows and counts of so many streams take a part of it, and their states several times as much.
    const CUT_AFTER: u64 = 640 * 1024;
    const STREAMS: u64 = 960;
    let redis = Redis::start(&[]);
    let proxy = Proxy::start(([127, 0, 0, 1], redis.port()).into());
    let first = replica_with(&redis, &["--window", "2"]);
    let post = |server: &Server, values: std::ops::Range<u64>| {
        for at in values {
            let sample = |metrics: std::ops::Range<u64>| {
                let readings: String =
                    metrics.map(|m| format!(r#","m{m}":{}"#, value(at * (m + 1)))).collect();
                format!(r#"{{"timestamp":{},"device":"edge-1"{readings}}}"#, FIRST_S + 60 * at)
            };
            let samples = (0..STREAMS).step_by(32).map(|from| sample(from..from + 32));
            server.ingest(&format!("[{}]", samples.collect::<Vec<_>>().join(","))).expect(202);
        }
    };
    post(&first, 0..20);
    written(&first);
    let url = format!("redis://{}", proxy.address);
    let args = [FLAGS, WITH_REDIS, &[&url, "--window", "2"]].concat();
    let second = Launch { args: &args, ..Launch::default() }.start();
    until("/readyz is 200", || second.get("/readyz").status == 200);
    proxy.set(Fault::CutReplies { after: CUT_AFTER });
    post(&second, 20..21);
    received(&second, 1);
    println!("{:?}", proxy.counters());
    assert_eq!(proxy.counters().cuts, 1);
}

#[test]
fn states_of_another_version_are_neither_read_nor_replaced() {
    let redis = Redis::start(&[]);
    let mut first = replica(&redis);
    post(&first, "edge-1", 0..300);
    first.terminate();
    assert!(first.wait_exit(PATIENCE).is_some(), "exits after SIGTERM");
    let key = "sigmad:{edge-1}:states";
    redis.ask::<()>(&["HSET", key, "", "3:0000feed:300"]);
    let mut second = replica(&redis);
    post(&second, "edge-1", 300..310);
    until("it goes on without", || waits(&second, "unknown") == 1);
    let lost = "sigmad_store_states_lost_total{reason=\"other_version\"}";
    assert_eq!(Scrape::of(&second).get(lost), 1);
    second.terminate();
    assert!(second.wait_exit(PATIENCE).is_some(), "exits after SIGTERM");
    assert_eq!(redis.ask::<String>(&["HGET", key, ""]), "3:0000feed:300");
}
