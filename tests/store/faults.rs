//! Redis fails in every known way, and clients of sigmad do not notice.
//!
//! In each test clients post all the time while something is broken and repaired. Then three things must agree:
//! the responses that the clients got, the counters of the scrape, and the contents of Redis. During the fault
//! no response waits for Redis, `/readyz` says `degraded`, and the log has one line about it.

#![allow(clippy::disallowed_methods, reason = "tests bound their waits on real processes")]

use std::collections::HashSet;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::fault_proxy::{Fault, Proxy};
use crate::harness::{Launch, Server, eventually};
use crate::redis_server::{Redis, ask, until, unused_port};
use crate::replica::Replica;
use crate::store_ledger::{Excuse, Keys, Ledger, Load, Phase, Plan, Scrape};
use serde_json::{Value, json};
use sigmad_counters::Counter;

/// Requests before the fault, and during it: for about a second each.
const REQUESTS: u64 = 400;
/// Requests after the fault.
const REQUESTS_AFTER: u64 = 100;
/// Time limit for the proxy to reach a state, to detect a Redis that is down, to find one that is back and to write the
/// queued samples, and to exit. Each takes seconds; nothing here judges how many.
const LIMIT: Duration = Duration::from_secs(180);

/// Default of `--flush-interval`.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// Failed attempts per second while Redis is down: the backoff (`src/store/backoff.rs`) waits at least 25 ms,
/// and soon a second and more.
const ATTEMPTS_PER_S: u64 = 2;
/// Failed attempts before the backoff has grown to a second (25, 50, … 800 ms), and those of batches that
/// fail on a working connection.
const ATTEMPTS_AT_ONCE: u64 = 20;

/// A sigmad that uses a Redis.
struct Scene {
    server: Server,
    proxy: Option<Proxy>,
    redis: Redis,
}

impl Scene {
    /// With a proxy in between.
    fn with_proxy(flags: &[&str]) -> Self {
        let redis = Redis::start(&[]);
        let proxy = Proxy::start(([127, 0, 0, 1], redis.port()).into());
        let server = start(&format!("redis://{}", proxy.address), flags);
        Self { server, proxy: Some(proxy), redis }.ready()
    }

    /// Without a proxy.
    fn new(flags: &[&str]) -> Self {
        let redis = Redis::start(&[]);
        Self::before(redis, flags)
    }

    fn before(redis: Redis, flags: &[&str]) -> Self {
        let server = start(&redis.url(), flags);
        Self { server, proxy: None, redis }.ready()
    }

    /// Waits until `/readyz` says that Redis is in use.
    fn ready(self) -> Self {
        self.wait_until_ready();
        self.expect_back();
        self
    }

    fn wait_until_ready(&self) {
        eventually("/readyz is 200", || self.server.get("/readyz").status == 200);
    }

    fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("with a proxy")
    }

    /// Starts the clients; Redis works for a while.
    fn post(&self, plan: Plan) -> Load {
        let load = Ledger::new(plan).post_to(&self.server);
        load.run(Phase::Control, REQUESTS);
        load
    }

    /// Waits until sigmad has detected the fault; it still accepts requests.
    #[track_caller]
    fn expect_away(&self, kind: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let scrape = Scrape::of(&self.server);
            if scrape.get("sigmad_store_up") == 0 && scrape.errors(kind) > 0 {
                break;
            }
            assert!(Instant::now() < deadline, "{kind} is not noticed");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(self.redis_part(), "degraded");
        self.server.get("/livez").expect(200);
    }

    /// Waits until sigmad uses Redis again.
    #[track_caller]
    fn expect_back(&self) {
        let deadline = Instant::now() + LIMIT;
        while Scrape::of(&self.server).get("sigmad_store_up") == 0 {
            assert!(Instant::now() < deadline, "Redis is back, and sigmad has not found it");
            std::thread::sleep(Duration::from_millis(10));
        }
        eventually("/readyz says ok", || self.redis_part() == "ok");
        self.server.get("/livez").expect(200);
    }

    /// The state of Redis in `/readyz`, whose status is always 200.
    #[track_caller]
    fn redis_part(&self) -> &'static str {
        let answer = self.server.get("/readyz").expect(200).json();
        match (answer["status"].as_str(), answer["parts"]["redis"].as_str()) {
            (Some("ready"), Some("ok")) => "ok",
            (Some("degraded"), Some("degraded")) => "degraded",
            _ => panic!("{answer}"),
        }
    }

    /// A whole test: control, fault until it is detected, recovery, rest, comparison.
    #[track_caller]
    fn survives(&self, kind: &str, strike: impl FnOnce(), mend: impl FnOnce()) {
        let load = self.post(Plan::default());
        let errors_before = Scrape::of(&self.server).errors(kind);
        let since = Instant::now();
        strike();
        load.run(Phase::Fault, REQUESTS);
        self.expect_away(kind);
        // The backoff spaces attempts, however long they take.
        let errors = Scrape::of(&self.server).errors(kind) - errors_before;
        let most = ATTEMPTS_AT_ONCE + since.elapsed().as_secs() * ATTEMPTS_PER_S;
        assert!(errors <= most, "{errors} failed attempts while Redis was away, at most {most}");
        mend();
        self.expect_back();
        load.run(Phase::After, REQUESTS_AFTER);
        let ledger = load.stop();
        self.compare(&ledger, &Excuse::NONE);
        ledger.assert_not_held_up();
        self.expect_named(kind);
    }

    /// The end of a fault in which Redis was slow but never down: nothing is lost, no response waited.
    #[track_caller]
    fn expect_nothing_lost(&self, load: Load) {
        load.run(Phase::After, REQUESTS_AFTER);
        self.expect_back();
        let ledger = load.stop();
        self.compare(&ledger, &Excuse::NONE);
        ledger.assert_not_held_up();
    }

    /// Waits for rest, and compares everything.
    #[track_caller]
    fn compare(&self, ledger: &Ledger, excuse: &Excuse) -> crate::store_ledger::Findings {
        ledger.assert_all_answered();
        let scrape = ledger.settle(&self.server);
        assert_eq!(scrape.sum("sigmad_store_dropped_total"), excuse.dropped, "dropped");
        let findings = ledger.check(&self.redis, excuse);
        ledger.check_answers(&self.server, &findings.contents);
        findings
    }

    /// Waits until everything received so far is written; returns a time after its reception.
    #[track_caller]
    fn written_until(&self) -> Instant {
        let moment = Instant::now();
        let received = Scrape::of(&self.server).get("sigmad_samples_received_total");
        eventually("what was received is written", || {
            Scrape::of(&self.server).sum("sigmad_samples_total") >= received
        });
        moment
    }

    /// The log names the fault.
    #[track_caller]
    fn expect_named(&self, kind: &str) {
        let lines = self.expect_each_outage_named_once();
        let is_named = lines.iter().any(|line| is_warning(line) && line["kind"] == kind);
        assert!(is_named, "{kind} is not named: {lines:#?}");
    }

    /// From the first failure until Redis is back, the log names each kind once, and the end once. How many outages
    /// there are depends on the machine too: Redis and the proxy have to be served in time.
    #[track_caller]
    fn expect_each_outage_named_once(&self) -> Vec<Value> {
        let lines = log_of_redis(&self.server);
        let mut named = HashSet::new();
        for line in &lines {
            match line["message"].as_str() {
                Some("Redis fails; samples wait for it") => {
                    assert!(
                        named.insert(line["kind"].to_string()),
                        "{line} comes twice: {lines:#?}"
                    )
                }
                Some("Redis is back") => {
                    assert!(!named.is_empty(), "{line} comes twice: {lines:#?}");
                    named.clear();
                }
                Some("Redis refuses a command") => {}
                _ => assert!(!is_warning(line), "{line} in {lines:#?}"),
            }
        }
        lines
    }
}

/// Without incidents: their thread has a connection of its own, and a fault is to be one of the store's.
fn start(url: &str, flags: &[&str]) -> Server {
    let args = [&["--redis-url", url, "--workers", "1", "--incidents", "off"], flags].concat();
    Launch { args: &args, ..Launch::default() }.start()
}

/// Lines of the log about Redis.
fn log_of_redis(server: &Server) -> Vec<Value> {
    let log = server.log_text();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["target"].as_str().is_some_and(|at| at.contains("store"))).collect()
}

fn is_warning(line: &Value) -> bool {
    matches!(line["level"].as_str(), Some("WARN" | "ERROR"))
}

/// Samples with distinct keys, so that the outcome of each is visible.
fn unique() -> Plan {
    Plan { keys: Keys::Unique, ..Plan::default() }
}

#[test]
fn nothing_is_wrong() {
    let scene = Scene::new(&[]);
    let load = scene.post(Plan::default());
    let ledger = load.stop();
    let findings = scene.compare(&ledger, &Excuse::NONE);
    let (shortest_s, longest_s) = findings.contents.lives_s();
    assert!(shortest_s > 200 && longest_s <= 300, "{shortest_s} to {longest_s} s of 300");
    let lines = log_of_redis(&scene.server);
    assert!(!lines.iter().any(is_warning), "{lines:#?}");
    assert_eq!(Scrape::of(&scene.server).sum("sigmad_store_errors_total"), 0);
}

/// Tests the ledger itself: a check that always passes would pass all tests below.
#[test]
fn the_ledger_finds_every_difference() {
    let scene = Scene::new(&[]);
    let ledger = scene.post(Plan::default()).stop();
    scene.compare(&ledger, &Excuse::NONE);
    let mut admin = scene.redis.connection();
    let window = "sigmad:{edge-1-1}:window:rps";
    let fleet = "sigmad:fleet:window:cpu";
    let counts = "sigmad:{edge-1-1}:counts";
    let members: Vec<(String, f64)> =
        ask(&mut admin, &["ZRANGE", window, "-2", "-1", "WITHSCORES"]);
    let [(before, _), (newest, score)] = &members[..] else { panic!("{members:?}") };
    let sample: String = ask(&mut admin, &["RANDOMKEY"]);
    let sample = if sample.starts_with("metric:") {
        sample
    } else {
        ask::<Vec<String>>(&mut admin, &["KEYS", "metric:edge-1-*"]).remove(0)
    };
    let again = format!("{newest}.0");
    let of_fleet: Vec<String> = ask(&mut admin, &["ZRANGE", fleet, "25", "25"]);
    let replica = newest.split(':').nth(1).expect("replica");
    let score = score.to_string();
    let differences: [&[&str]; 11] = [
        &["DEL", &sample],
        &["SET", &sample, r#"{"timestamp":1,"cpu":1.5,"rps":1}"#, "EX", "250"],
        &["PERSIST", &sample],
        &["SET", "metric:edge-1-1:17", "{}", "EX", "250"],
        &["ZREM", window, newest],
        &["ZREM", window, before],
        &["ZADD", window, &score, &again],
        &["DEL", window],
        &["ZREM", fleet, &of_fleet[0]],
        &["HSET", counts, "01234567", "1:1:1:0"],
        &["HSET", counts, &format!("{replica}:rps"), "1:0"],
    ];
    for difference in differences {
        let key = difference[1];
        let kept: Option<Vec<u8>> = ask(&mut admin, &["DUMP", key]);
        let life: i64 = ask(&mut admin, &["PTTL", key]);
        ask::<redis::Value>(&mut admin, difference);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            ledger.check(&scene.redis, &Excuse::NONE);
        }));
        assert!(outcome.is_err(), "{difference:?} was not seen");
        ask::<i64>(&mut admin, &["DEL", key]);
        if let Some(kept) = kept {
            let mut restore = redis::cmd("RESTORE");
            restore.arg(key).arg(life).arg(kept);
            restore.query::<()>(&mut admin).expect("RESTORE");
        }
    }
    ledger.check(&scene.redis, &Excuse::NONE);
}

/// Cuts one connection after the other at these offsets, while clients post.
#[track_caller]
fn cut(flags: &[&str], plan: Plan, cuts: &[Fault]) {
    let scene = Scene::with_proxy(flags);
    let load = scene.post(plan);
    let proxy = scene.proxy();
    for cut in cuts {
        let before = proxy.counters();
        proxy.set(*cut);
        proxy.wait(LIMIT, "a cut", |counters| counters.cuts > before.cuts);
        // The next cut waits for a working connection: failed attempts become ever rarer.
        proxy.wait(LIMIT, "another connection", |counters| {
            counters.connections > before.connections
        });
        load.run(Phase::Fault, REQUESTS / cuts.len() as u64 + 1);
    }
    scene.expect_back();
    let ledger = load.stop();
    let findings = scene.compare(&ledger, &Excuse::NONE);
    ledger.assert_not_held_up();
    if flags.contains(&"stream") {
        assert_eq!(findings.contents.history, ledger.accepted(), "each sample once in the history");
    }
    let errors = Scrape::of(&scene.server).errors("broken");
    assert!(errors > 0, "no broken connection counted");
    scene.expect_named("broken");
}

/// Cuts in the middle of a command, between commands, and some batches later.
const REQUEST_BYTES: [u64; 12] =
    [0, 1, 17, 100, 999, 3_000, 7_777, 15_000, 30_000, 60_001, 5, 20_000];

#[test]
fn requests_are_cut_in_the_middle() {
    cut(&[], Plan::default(), &REQUEST_BYTES.map(|after| Fault::CutRequest { after }));
}

#[test]
fn replies_are_cut() {
    let places = [0, 1, 4, 5, 100, 1_000, 2_500, 0, 7, 300];
    cut(&[], Plan::default(), &places.map(|after| Fault::CutReplies { after }));
}

#[test]
fn a_history_survives_cuts_without_a_copy() {
    let cuts = [
        Fault::CutReplies { after: 0 },
        Fault::CutRequest { after: 5_000 },
        Fault::CutReplies { after: 100 },
        Fault::CutRequest { after: 20_000 },
        Fault::CutReplies { after: 1_000 },
    ];
    cut(&["--redis-history", "stream"], unique(), &cuts);
}

#[test]
fn a_delay_of_half_a_second_each_way() {
    let scene = Scene::with_proxy(&[]);
    let load = scene.post(Plan::default());
    let delay = Duration::from_millis(500);
    scene.proxy().set(Fault::Delay { requests: delay, replies: delay });
    load.run(Phase::Fault, REQUESTS * 3);
    scene.server.get("/readyz").expect(200);
    scene.proxy().set(Fault::None);
    scene.expect_nothing_lost(load);
    // Slow is not down, unless a second exceeds a timeout: then it is logged once.
    scene.expect_each_outage_named_once();
}

/// The network delays a batch beyond the timeout, and delivers it after later ones.
#[test]
fn a_batch_arrives_after_its_successors() {
    let scene = Scene::with_proxy(&[]);
    let load = scene.post(Plan { keys: Keys::Runs(1_000), ..Plan::default() });
    let requests = Duration::from_secs(4);
    scene.proxy().set(Fault::Delay { requests, replies: Duration::ZERO });
    let since = Instant::now();
    scene.expect_away("timeout");
    scene.proxy().set(Fault::None);
    scene.expect_back();
    while since.elapsed() < requests + FLUSH_INTERVAL {
        load.run(Phase::Fault, REQUESTS_AFTER);
    }
    let ledger = load.stop();
    scene.compare(&ledger, &Excuse::NONE);
    scene.expect_named("timeout");
}

#[test]
fn replies_come_half_a_second_late() {
    let scene = Scene::with_proxy(&[]);
    let load = scene.post(Plan::default());
    let replies = Duration::from_millis(500);
    scene.proxy().set(Fault::Delay { requests: Duration::ZERO, replies });
    load.run(Phase::Fault, REQUESTS * 2);
    scene.proxy().set(Fault::None);
    scene.expect_nothing_lost(load);
}

#[test]
fn a_black_hole() {
    let scene = Scene::with_proxy(&[]);
    let proxy = scene.proxy();
    scene.survives("timeout", || proxy.set(Fault::BlackHole), || proxy.set(Fault::None));
}

#[test]
fn replies_come_a_few_bytes_at_a_time() {
    let scene = Scene::with_proxy(&[]);
    let proxy = scene.proxy();
    // None of them is late, but all together are far too late.
    let dribble = Fault::Dribble { bytes: 32, pause: Duration::from_millis(200) };
    scene.survives("timeout", || proxy.set(dribble), || proxy.set(Fault::None));
}

#[test]
fn every_connection_is_reset() {
    let scene = Scene::with_proxy(&[]);
    let proxy = scene.proxy();
    scene.survives("broken", || proxy.set(Fault::Reset), || proxy.set(Fault::None));
}

#[test]
fn redis_is_stopped_and_continued() {
    let scene = Scene::new(&[]);
    scene.survives("timeout", || scene.redis.pause(), || scene.redis.resume());
}

#[test]
fn clients_are_killed() {
    const KILLS: usize = 10;
    let scene = Scene::new(&[]);
    let load = scene.post(Plan::default());
    let mut admin = scene.redis.connection();
    for _ in 0..KILLS {
        ask::<u64>(&mut admin, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        load.run(Phase::Fault, REQUESTS / KILLS as u64);
    }
    scene.expect_back();
    let ledger = load.stop();
    scene.compare(&ledger, &Excuse::NONE);
    ledger.assert_not_held_up();
    assert!(Scrape::of(&scene.server).errors("broken") > 0);
    scene.expect_named("broken");
}

#[test]
fn redis_pauses_its_clients() {
    let scene = Scene::new(&[]);
    let load = scene.post(Plan::default());
    scene.redis.ask::<()>(&["CLIENT", "PAUSE", "2500", "ALL"]);
    load.run(Phase::Fault, REQUESTS * 5 / 2);
    scene.server.get("/readyz").expect(200);
    scene.expect_nothing_lost(load);
    scene.expect_each_outage_named_once();
}

#[test]
fn redis_becomes_a_replica() {
    let scene = Scene::new(&[]);
    let nobody = unused_port().to_string();
    let follow = |host: &str, port: &str| scene.redis.ask::<()>(&["REPLICAOF", host, port]);
    scene.survives("read_only", || follow("127.0.0.1", &nobody), || follow("NO", "ONE"));
}

#[test]
fn redis_accepts_no_more_clients() {
    let scene = Scene::new(&[]);
    let mut admin = scene.redis.connection();
    let load = scene.post(Plan::default());
    ask::<()>(&mut admin, &["CONFIG", "SET", "maxclients", "1"]);
    ask::<u64>(&mut admin, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    load.run(Phase::Fault, REQUESTS);
    scene.expect_away("connect");
    ask::<()>(&mut admin, &["CONFIG", "SET", "maxclients", "1000"]);
    scene.expect_back();
    let ledger = load.stop();
    scene.compare(&ledger, &Excuse::NONE);
    ledger.assert_not_held_up();
    scene.expect_named("connect");
}

#[test]
fn redis_is_out_of_memory() {
    let scene = Scene::new(&[]);
    let set = |bytes: &str| scene.redis.ask::<()>(&["CONFIG", "SET", "maxmemory", bytes]);
    scene.survives("out_of_memory", || set("1"), || set("0"));
}

#[test]
fn the_password_changes_and_changes_back() {
    let scene = Scene::before(Redis::with_password("first"), &[]);
    // An existing connection stays authenticated.
    let mut admin = scene.redis.connection();
    let mut set = |password: &str| {
        ask::<()>(&mut admin, &["CONFIG", "SET", "requirepass", password]);
        ask::<u64>(&mut admin, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    };
    let load = scene.post(Plan::default());
    set("second");
    load.run(Phase::Fault, REQUESTS);
    scene.expect_away("auth");
    set("first");
    scene.expect_back();
    load.run(Phase::After, REQUESTS_AFTER);
    let ledger = load.stop();
    scene.compare(&ledger, &Excuse::NONE);
    ledger.assert_not_held_up();
    scene.expect_named("auth");
}

/// A mounted Secret changes in place, some time after Redis has the new password.
#[test]
fn the_file_of_the_password_changes_and_nothing_is_lost() {
    let redis = Redis::with_password("admin");
    let mut admin = redis.connection();
    ask::<()>(&mut admin, &["ACL", "SETUSER", "sigmad", "on", ">first", "~*", "+@all"]);
    let secret = std::env::temp_dir().join(format!("sigmad-secret-{}", std::process::id()));
    std::fs::write(&secret, "first\n").expect("a temporary file");
    let password = format!("@{}", secret.display());
    let url = format!("redis://sigmad@127.0.0.1:{}", redis.port());
    let server = start(&url, &["--redis-password", &password]);
    let scene = Scene { server, proxy: None, redis }.ready();

    let load = scene.post(Plan::default());
    ask::<()>(&mut admin, &["ACL", "SETUSER", "sigmad", "resetpass", ">second"]);
    ask::<u64>(&mut admin, &["CLIENT", "KILL", "USER", "sigmad"]);
    load.run(Phase::Fault, REQUESTS);
    scene.expect_away("auth");
    std::fs::write(&secret, "second\n").expect("a temporary file");
    scene.expect_back();
    load.run(Phase::After, REQUESTS_AFTER);
    let ledger = load.stop();
    std::fs::remove_file(&secret).expect("it was written");
    scene.compare(&ledger, &Excuse::NONE);
    ledger.assert_not_held_up();
    scene.expect_named("auth");
    let log = scene.server.log_text();
    assert!(!log.contains("first") && !log.contains("second"), "{log}");
}

#[test]
fn sighup_logs_in_with_the_password_of_that_moment() {
    let redis = Redis::with_password("admin");
    let mut admin = redis.connection();
    ask::<()>(&mut admin, &["ACL", "SETUSER", "sigmad", "on", ">first", ">second", "~*", "+@all"]);
    let secret = std::env::temp_dir().join(format!("sigmad-login-{}", std::process::id()));
    std::fs::write(&secret, "first\n").expect("a temporary file");
    let password = format!("@{}", secret.display());
    let url = format!("redis://sigmad@127.0.0.1:{}", redis.port());
    let server = start(&url, &["--redis-password", &password]);
    let scene = Scene { server, proxy: None, redis }.ready();
    std::fs::write(&secret, "second\n").expect("a temporary file");
    scene.server.signal(libc::SIGHUP);
    scene.server.wait_for_log(&["logged in to redis again"]).expect("a line");
    // A wrong one is named, and the connection stays.
    std::fs::write(&secret, "third\n").expect("a temporary file");
    scene.server.signal(libc::SIGHUP);
    let line = scene.server.wait_for_log(&["refuses the password", "wrongpass"]).expect("a line");
    assert!(!line.contains("third"), "{line}");
    std::fs::remove_file(&secret).expect("it was written");
    scene.server.ingest(r#"{"rps":1}"#).expect(202);
    eventually("stored", || {
        Scrape::of(&scene.server).get("sigmad_samples_total{outcome=\"stored\"}") == 1
    });
    assert_eq!(Scrape::of(&scene.server).get("sigmad_store_connections_total"), 1);
}

#[test]
fn a_password_never_reaches_the_log() {
    let redis = Redis::with_password("hidden-word");
    let scene = Scene::before(redis, &["--log", "debug"]);
    let mut admin = scene.redis.connection();
    ask::<()>(&mut admin, &["CONFIG", "SET", "requirepass", "other"]);
    ask::<u64>(&mut admin, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    scene.server.ingest(r#"{"rps":1}"#).expect(202);
    scene.expect_away("auth");
    assert!(!scene.server.log_text().contains("hidden-word"));
}

#[test]
fn redis_comes_back_without_its_data() {
    let mut scene = Scene::new(&[]);
    let load = scene.post(unique());
    scene.redis.kill();
    let killed = Instant::now();
    load.run(Phase::Fault, REQUESTS);
    scene.expect_away("connect");
    scene.redis.restart();
    scene.expect_back();
    load.run(Phase::After, REQUESTS_AFTER);
    let ledger = load.stop();
    // Samples that arrived after its death are there; of earlier ones, those still queued.
    let may_miss = |sample: &crate::store_ledger::Sample| sample.sent <= killed;
    ledger.assert_all_answered();
    ledger.settle(&scene.server);
    ledger.check(&scene.redis, &Excuse { may_miss: &may_miss, ..Excuse::NONE });
    ledger.assert_not_held_up();
    // First broken, then refused.
    scene.expect_named("connect");
}

#[test]
fn redis_loads_its_data() {
    let mut scene = Scene::new(&[]);
    let load = scene.post(unique());
    // Written after the snapshot and before the kill: lost by Redis.
    let written = scene.written_until();
    scene.redis.restart_loading(Duration::from_secs(2));
    let loading = Instant::now();
    scene.expect_away("loading");
    load.run(Phase::Fault, REQUESTS);
    scene.expect_back();
    load.run(Phase::After, REQUESTS_AFTER);
    let ledger = load.stop();
    let may_miss = |sample: &crate::store_ledger::Sample| {
        sample.sent < loading && sample.accepted.is_none_or(|accepted| accepted > written)
    };
    ledger.assert_all_answered();
    ledger.settle(&scene.server);
    ledger.check(&scene.redis, &Excuse { may_miss: &may_miss, ..Excuse::NONE });
    ledger.assert_not_held_up();
    scene.expect_named("loading");
}

#[test]
fn redis_is_not_there_at_the_start() {
    let mut redis = Redis::start(&[]);
    redis.stop();
    let server = start(&redis.url(), &[]);
    let mut scene = Scene { server, proxy: None, redis };
    scene.wait_until_ready();
    scene.expect_away("connect");
    let load = Ledger::new(Plan::default()).post_to(&scene.server);
    load.run(Phase::Control, REQUESTS);
    scene.redis.restart();
    scene.expect_back();
    load.run(Phase::After, REQUESTS_AFTER);
    let ledger = load.stop();
    scene.compare(&ledger, &Excuse::NONE);
    scene.expect_named("connect");
}

#[test]
fn sigmad_terminated_under_load_writes_everything_to_redis() {
    let mut scene = Scene::new(&[]);
    let load = scene.post(unique());
    scene.server.terminate();
    let status = scene.server.wait_exit(LIMIT).expect("exits after SIGTERM");
    assert_eq!(status.code(), Some(0));
    let ledger = load.join();
    ledger.assert_answers();
    let findings = ledger.check(&scene.redis, &Excuse::NONE);
    assert!(findings.missing.is_empty());
}

#[test]
fn sigmad_terminated_without_redis_counts_the_lost_samples() {
    let mut scene = Scene::with_proxy(&["--drain", "1s"]);
    let load = scene.post(unique());
    scene.proxy().set(Fault::BlackHole);
    load.run(Phase::Fault, REQUESTS_AFTER);
    scene.server.terminate();
    let status = scene.server.wait_exit(LIMIT).expect("exits after SIGTERM");
    assert_eq!(status.code(), Some(0));
    load.join().assert_answers();
    let lines = log_of_redis(&scene.server);
    let lost = lines.iter().filter_map(|line| line["samples"].as_u64());
    assert!(lost.sum::<u64>() > 0, "nobody is told that samples are lost: {lines:#?}");
}

/// By itself: the main thread, which waits no longer than the drain, is not there.
#[test]
fn a_store_ends_by_its_deadline_and_counts_what_it_holds() {
    let redis = Redis::start(&[]);
    redis.pause();
    let mut replica = Replica::start(&redis, 1, 0);
    (0..10).for_each(|value| replica.send(f64::from(value)));
    let Replica { producer, thread, counters, deadline_ns, .. } = replica;
    // Analytics has ended, and so has the time for the drain.
    drop(producer);
    deadline_ns.store(1, Ordering::Relaxed);
    until("the store ends", || thread.is_finished().then_some(()));
    assert_eq!(counters.dropped_total.iter().map(Counter::get).sum::<u64>(), 10);
}

#[test]
fn sigmad_terminated_with_a_very_slow_redis_exits_in_time() {
    let mut scene = Scene::with_proxy(&["--drain", "1s"]);
    let load = scene.post(unique());
    scene.proxy().set(Fault::Dribble { bytes: 1, pause: Duration::from_millis(300) });
    load.run(Phase::Fault, REQUESTS_AFTER);
    scene.server.terminate();
    // A reply takes minutes; the drain, the last flush and an attempt in progress take seconds.
    let status = scene.server.wait_exit(LIMIT).expect("exits after SIGTERM");
    assert_eq!(status.code(), Some(0));
    load.join().assert_answers();
}

#[test]
fn samples_have_as_many_keys_as_told() {
    for (keys, expected) in [
        ("two", &["metric:1735100000", "metric:1735100001", "metric:d:1735100000"][..]),
        ("one", &["metric:1735100001", "metric:d:1735100000"]),
        ("none", &[]),
    ] {
        let scene = Scene::new(&["--redis-keys", keys]);
        let body =
            r#"[{"timestamp":1735100000,"device":"d","rps":1},{"timestamp":1735100001,"rps":2}]"#;
        scene.server.ingest(body).expect(202);
        eventually("stored", || {
            Scrape::of(&scene.server).get("sigmad_samples_total{outcome=\"stored\"}") == 2
        });
        let mut found: Vec<String> = scene.redis.ask(&["KEYS", "metric:*"]);
        found.sort();
        assert_eq!(found, expected, "{keys}");
        assert_eq!(scene.redis.ask::<u64>(&["ZCARD", "sigmad:fleet:window:rps"]), 2);
    }
}

#[test]
fn without_keys_a_sample_whose_window_is_refused_is_dropped() {
    let scene = Scene::new(&["--redis-keys", "none"]);
    scene.redis.ask::<()>(&["SET", "sigmad:{taken}:window:rps", "of another client"]);
    scene
        .server
        .ingest(r#"[{"device":"taken","rps":1,"cpu":2},{"device":"free","rps":3},{"rps":4}]"#);
    eventually("each has its outcome", || {
        let scrape = Scrape::of(&scene.server);
        scrape.get("sigmad_store_dropped_total{reason=\"refused\"}") == 1
            && scrape.get("sigmad_samples_total{outcome=\"stored\"}") == 2
    });
}

#[test]
fn the_memory_of_redis_and_its_evictions_are_exported() {
    let redis = Redis::start(&["--maxmemory", "3mb", "--maxmemory-policy", "volatile-ttl"]);
    let scene = Scene::before(redis, &[]);
    post_distinct(&scene.server, 20);
    eventually("evictions are seen", || {
        Scrape::of(&scene.server).get("sigmad_store_redis_evicted_keys_total") > 0
    });
    let scrape = Scrape::of(&scene.server);
    assert_eq!(scrape.get("sigmad_store_redis_maxmemory_bytes"), 3 << 20);
    assert!(scrape.get("sigmad_store_redis_used_memory_bytes") > 1 << 20);
}

/// Samples accepted, and those with an outcome: stored, coalesced, dropped. By the last log lines.
fn last_counts(server: &Server) -> (u64, [u64; 3]) {
    let log = server.log_text();
    let lines: Vec<Value> =
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let count = |message: &str, name: &str| {
        let line = lines.iter().find(|line| line["message"] == message);
        line.and_then(|line| line[name].as_u64()).unwrap_or_else(|| panic!("no {name}: {log}"))
    };
    let outcomes = ["stored", "coalesced", "dropped"].map(|name| count("store stopped", name));
    (count("stopped", "accepted"), outcomes)
}

/// Posts samples with distinct keys.
fn post_distinct(server: &Server, requests: u64) -> u64 {
    const SAMPLES: u64 = 1_000;
    for request in 0..requests {
        let sample = |device: u64| json!({"timestamp": 1_735_100_000 + request, "device": format!("d-{device}"), "rps": 1});
        let samples: Vec<Value> = (0..SAMPLES).map(sample).collect();
        let body = Value::from(samples).to_string();
        // Where analytics does not get a core for a while, its queue fills. Then nothing of the request is kept.
        eventually("there is room for a request", || {
            let response = server.ingest(&body);
            assert!(matches!(response.status, 202 | 503), "{}", response.text());
            response.status == 202
        });
    }
    requests * SAMPLES
}

/// Each sample has one outcome in the last lines, and each loss is named once. After the drain of a moment the process
/// does not wait for the store thread, which counts at the same time.
#[test]
fn sigmad_terminated_with_a_distant_redis_counts_every_sample() {
    terminated_with_a_distant_redis("3s", 200);
    for _ in 0..5 {
        terminated_with_a_distant_redis("20ms", 20);
    }
}

fn terminated_with_a_distant_redis(drain: &str, requests: u64) {
    // Room for all samples: those that a full queue drops are counted, and not named.
    let mut scene = Scene::with_proxy(&["--drain", drain, "--redis-queue", "512MiB"]);
    let way = Duration::from_millis(200);
    scene.proxy().set(Fault::Delay { requests: way, replies: way });
    let posted = post_distinct(&scene.server, requests);
    scene.server.terminate();
    let status = scene.server.wait_exit(LIMIT).expect("exits after SIGTERM");
    assert_eq!(status.code(), Some(0));
    let (accepted, outcomes) = last_counts(&scene.server);
    assert_eq!(accepted, posted);
    assert_eq!(outcomes.iter().sum::<u64>(), posted, "stored, coalesced, dropped: {outcomes:?}");
    let lines = log_of_redis(&scene.server);
    let named = lines.iter().filter_map(|line| line["samples"].as_u64()).sum::<u64>();
    assert_eq!(named, outcomes[2], "the log names what is dropped: {lines:#?}");
}

#[test]
fn a_second_sigterm_says_how_many_samples_are_lost() {
    let mut scene = Scene::with_proxy(&[]);
    scene.proxy().set(Fault::BlackHole);
    let posted = post_distinct(&scene.server, 3);
    // Signals of one moment are one request: the second one is sent until it counts.
    let mut status = None;
    while status.is_none() {
        scene.server.terminate();
        status = scene.server.wait_exit(Duration::from_millis(150));
    }
    assert_eq!(status.and_then(|status| status.code()), Some(1));
    let log = scene.server.log_text();
    let line = log.lines().find(|line| line.contains("second signal")).expect("a line");
    let line: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(line["lost"], posted, "{line}");
}

/// Accepts any number of clients and sends them these bytes again and again.
fn babble(bytes: &'static [u8]) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().filter_map(Result::ok) {
            std::thread::spawn(move || while client.write_all(bytes).is_ok() {});
        }
    });
    port
}

#[test]
fn a_reply_without_an_end_takes_no_memory() {
    for (bytes, named) in [
        (&b"$2147483647\r\n"[..], "a reply of Redis is too long"),
        (b"*1000000000\r\n", "a reply of Redis has too many values"),
        (b"*1000\r\n", "a reply of Redis has too many values"),
        (b"+aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "a reply of Redis has an endless line"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "an HTTP server answers at this address"),
    ] {
        let server = start(&format!("redis://127.0.0.1:{}", babble(bytes)), &[]);
        let line = server.wait_for_log(&["redis fails", &named.to_ascii_lowercase()]);
        assert!(line.is_some(), "{named}: {}", server.log_text());
        let held = server.resident_kib();
        assert!(held < 200 << 10, "{held} KiB are in use");
    }
}

#[test]
fn sigmad_killed_loses_one_flush_at_most() {
    let mut scene = Scene::new(&[]);
    let load = scene.post(unique());
    let written = scene.written_until();
    scene.server.signal(libc::SIGKILL);
    let killed = Instant::now();
    scene.server.wait_exit(LIMIT).expect("killed");
    let mut ledger = load.join();
    ledger.assert_answers();

    // The next process continues with the contents of Redis.
    scene.server = start(&scene.redis.url(), &[]);
    scene.wait_until_ready();
    scene.expect_back();
    ledger.forget_counts();
    let load = ledger.post_to(&scene.server);
    load.run(Phase::After, REQUESTS);
    let ledger = load.stop();
    ledger.assert_all_answered();
    ledger.settle(&scene.server);
    let may_miss = |sample: &crate::store_ledger::Sample| {
        sample.sent < killed && sample.accepted.is_none_or(|accepted| accepted > written)
    };
    let findings = ledger.check(&scene.redis, &Excuse { may_miss: &may_miss, ..Excuse::NONE });
    assert_eq!(findings.contents.replicas(), 2);
    ledger.check_answers(&scene.server, &findings.contents);
}

#[test]
fn a_full_queue_drops_its_oldest_first() {
    const QUEUE_BYTES: u64 = 4 << 20;
    const SAMPLES: u64 = 200;
    const REQUESTS: u64 = 120;
    let mut redis = Redis::start(&[]);
    redis.stop();
    let server = start(&redis.url(), &["--redis-queue", &QUEUE_BYTES.to_string()]);
    let mut scene = Scene { server, proxy: None, redis };
    scene.wait_until_ready();
    // One client: its order is the order of the queue. It waits until the store has taken each request: what is dropped
    // on the way there, while the store thread does not run, is younger.
    let interval = Duration::from_millis(2);
    let plan =
        Plan { clients: 1, interval, sizes: &[SAMPLES], keys: Keys::Unique, is_stepped: true };
    let load = Ledger::new(plan).post_to(&scene.server);
    for request in 1..=REQUESTS {
        load.step(Phase::Fault);
        eventually("the store has taken the request", || {
            let scrape = Scrape::of(&scene.server);
            let taken = scrape.get("sigmad_store_queue_samples") + scrape.dropped("queue_full");
            taken == request * SAMPLES
        });
    }
    let ledger = load.stop();
    let held = Scrape::of(&scene.server).get("sigmad_store_queue_bytes");
    assert!(held <= QUEUE_BYTES, "{held} bytes are held, of {QUEUE_BYTES}");
    scene.redis.restart();
    scene.expect_back();
    let dropped = ledger.settle(&scene.server).dropped("queue_full");
    let findings = ledger.check(&scene.redis, &Excuse { dropped, ..Excuse::NONE });
    ledger.check_answers(&scene.server, &findings.contents);
    let oldest: Vec<(u64, u64)> = (1..=dropped).map(|number| (0, number)).collect();
    assert!(dropped > 0 && dropped < ledger.accepted(), "{dropped} of {}", ledger.accepted());
    assert!(findings.missing == oldest, "{dropped} were dropped, but not the oldest");
}

#[test]
fn a_full_queue_before_a_black_hole_counts_every_drop() {
    let scene = Scene::with_proxy(&["--redis-queue", "1MiB"]);
    scene.proxy().set(Fault::BlackHole);
    let plan = Plan { sizes: &[1, 30, 5], keys: Keys::Unique, ..Plan::default() };
    let load = Ledger::new(plan).post_to(&scene.server);
    load.run(Phase::Fault, REQUESTS * 3);
    // Of the samples sent now the oldest are dropped, the others are flushed.
    scene.proxy().set(Fault::None);
    scene.expect_back();
    load.run(Phase::After, REQUESTS_AFTER);
    let ledger = load.stop();
    ledger.assert_all_answered();
    let dropped = ledger.settle(&scene.server).dropped("queue_full");
    assert!(dropped > 0, "nothing was dropped");
    let findings = ledger.check(&scene.redis, &Excuse { dropped, ..Excuse::NONE });
    ledger.check_answers(&scene.server, &findings.contents);
}

/// Samples come faster than Redis takes them, and nothing of what others write is left unread.
#[test]
fn a_queue_that_is_never_empty_holds_up_no_reading() {
    let scene = Scene::with_proxy(&["--redis-queue", "1MiB"]);
    let other = start(&scene.redis.url(), &[]);
    let delay = Duration::from_millis(200);
    scene.proxy().set(Fault::Delay { requests: delay, replies: delay });
    let plan = Plan { sizes: &[50], keys: Keys::Unique, ..Plan::default() };
    let load = Ledger::new(plan).post_to(&scene.server);
    eventually("the queue is full", || Scrape::of(&scene.server).dropped("queue_full") > 0);
    other.ingest(r#"{"device":"elsewhere","rps":7}"#).expect(202);
    eventually("it is read", || {
        let report = scene.server.get("/analyze?device=elsewhere").expect(200).json();
        report["totalCount"] == 1
    });
    scene.proxy().set(Fault::None);
    let ledger = load.stop();
    ledger.assert_all_answered();
    ledger.settle(&scene.server);
}

#[test]
fn a_key_of_the_wrong_type_affects_its_own_stream_only() {
    let scene = Scene::new(&[]);
    let spoiled = "sigmad:{edge-0-0}:window:rps";
    scene.redis.ask::<()>(&["SET", spoiled, "not ours"]);
    let load = scene.post(Plan::default());
    load.run(Phase::Fault, REQUESTS);
    assert_eq!(scene.redis_part(), "ok");
    let ledger = load.stop();
    scene.compare(&ledger, &Excuse { spoiled: &[spoiled], ..Excuse::NONE });
    ledger.assert_not_held_up();
    let scrape = Scrape::of(&scene.server);
    assert!(scrape.errors("wrong_type") > 0);
    assert_eq!(scrape.get("sigmad_store_up"), 1);
    scene.expect_named("wrong_type");
    let kept: String = scene.redis.ask(&["GET", spoiled]);
    assert_eq!(kept, "not ours");

    // Once the key is deleted, the stream works like any other.
    scene.redis.ask::<()>(&["DEL", spoiled]);
    let load = ledger.post_to(&scene.server);
    load.run(Phase::After, REQUESTS * 3);
    scene.compare(&load.stop(), &Excuse::NONE);
}
