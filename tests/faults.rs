//! Redis goes wrong in every way there is, and nobody who posts to sigmad notices.
//!
//! Each test lets clients post all the time, breaks something, mends it, and then holds three things
//! against each other: what the clients were promised, what the scrape counts, and what Redis holds.
//! While it is broken no answer waits for it, `/readyz` says `degraded`, and the log says so once.

#![allow(clippy::disallowed_methods, reason = "tests bound their waits on real processes")]

mod fault_proxy;
mod harness;
mod redis_server;
mod store_ledger;
#[path = "fault_proxy/tests.rs"]
mod tests_of_the_proxy;

use std::time::{Duration, Instant};

use fault_proxy::{Fault, Proxy};
use harness::{Launch, Server, eventually};
use redis_server::{Redis, ask, unused_port};
use serde_json::Value;
use store_ledger::{Excuse, Keys, Ledger, Load, Phase, Plan, Scrape};

/// Requests before the fault, and while it lasts: a second of each by plan.
const REQUESTS: u64 = 400;
/// Requests after it, for what comes through again.
const REQUESTS_AFTER: u64 = 100;
/// What the proxy is waited for.
const STRIKE: Duration = Duration::from_secs(10);
/// Redis that is away is noticed within it: what a batch may take, and a busy machine.
const NOTICED: Duration = Duration::from_secs(10);
/// Redis that is back is found, and what has queued is written, within it.
const BACK: Duration = Duration::from_secs(15);

/// Default of `--flush-interval`.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// Failed attempts in each second while Redis is away: the backoff (`src/store/backoff.rs`) waits for at
/// least 25 ms, and soon for a second and more.
const ATTEMPTS_PER_S: u64 = 2;
/// Failed attempts before the backoff has grown to a second: 25, 50, … 800 ms; and those of a batch that
/// fails on a connection that works.
const ATTEMPTS_AT_ONCE: u64 = 20;

/// sigmad before a Redis.
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

    /// Without anything in between.
    fn new(flags: &[&str]) -> Self {
        let redis = Redis::start(&[]);
        Self::before(redis, flags)
    }

    fn before(redis: Redis, flags: &[&str]) -> Self {
        let server = start(&redis.url(), flags);
        Self { server, proxy: None, redis }.ready()
    }

    /// Waits until `/readyz` says so, and Redis is in use.
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

    /// Posts begin, and Redis is well for a while.
    fn post(&self, plan: Plan) -> Load {
        let load = Ledger::new(plan).post_to(&self.server);
        load.run(Phase::Control, REQUESTS);
        load
    }

    /// Waits until sigmad has noticed; it is alive and takes requests.
    #[track_caller]
    fn expect_away(&self, kind: &str) {
        let deadline = Instant::now() + NOTICED;
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

    /// Waits until sigmad does what it should with Redis.
    #[track_caller]
    fn expect_back(&self) {
        let deadline = Instant::now() + BACK;
        while Scrape::of(&self.server).get("sigmad_store_up") == 0 {
            assert!(Instant::now() < deadline, "Redis is back, and not found");
            std::thread::sleep(Duration::from_millis(10));
        }
        eventually("/readyz says ok", || self.redis_part() == "ok");
        self.server.get("/livez").expect(200);
    }

    /// What `/readyz` says of Redis; it is 200 whatever that is.
    #[track_caller]
    fn redis_part(&self) -> &'static str {
        let answer = self.server.get("/readyz").expect(200).json();
        match (answer["status"].as_str(), answer["parts"]["redis"].as_str()) {
            (Some("ready"), Some("ok")) => "ok",
            (Some("degraded"), Some("degraded")) => "degraded",
            _ => panic!("{answer}"),
        }
    }

    /// The whole of it: control, fault until it is noticed, well again, at rest, compared.
    #[track_caller]
    fn survives(&self, kind: &str, strike: impl FnOnce(), mend: impl FnOnce()) {
        let load = self.post(Plan::default());
        let errors_before = Scrape::of(&self.server).errors(kind);
        let since = Instant::now();
        strike();
        load.run(Phase::Fault, REQUESTS);
        self.expect_away(kind);
        // Attempts are spaced by the backoff, whatever they cost.
        let errors = Scrape::of(&self.server).errors(kind) - errors_before;
        let most = ATTEMPTS_AT_ONCE + since.elapsed().as_secs() * ATTEMPTS_PER_S;
        assert!(errors <= most, "{errors} failed attempts while Redis was away, at most {most}");
        mend();
        self.expect_back();
        load.run(Phase::After, REQUESTS_AFTER);
        let ledger = load.stop();
        self.compare(&ledger, &Excuse::NONE);
        ledger.assert_not_held_up();
        self.expect_named(kind, 1);
    }

    /// What was slow, and never away, is over: nothing is lost, and no answer waited for it.
    #[track_caller]
    fn expect_nothing_lost(&self, load: Load) {
        load.run(Phase::After, REQUESTS_AFTER);
        self.expect_back();
        let ledger = load.stop();
        self.compare(&ledger, &Excuse::NONE);
        ledger.assert_not_held_up();
    }

    /// At rest everything adds up.
    #[track_caller]
    fn compare(&self, ledger: &Ledger, excuse: &Excuse) -> store_ledger::Findings {
        ledger.assert_all_answered();
        let scrape = ledger.settle(&self.server);
        assert_eq!(scrape.sum("sigmad_store_dropped_total"), excuse.dropped, "dropped");
        let findings = ledger.check(&self.redis, excuse);
        ledger.check_answers(&self.server, &findings.contents);
        findings
    }

    /// Waits until everything received so far is written; returns a moment before which that was received.
    #[track_caller]
    fn written_until(&self) -> Instant {
        let moment = Instant::now();
        let received = Scrape::of(&self.server).get("sigmad_samples_received_total");
        eventually("what was received is written", || {
            Scrape::of(&self.server).sum("sigmad_samples_total") >= received
        });
        moment
    }

    /// The log names the fault, so many times at most, and that it is over as often.
    #[track_caller]
    fn expect_named(&self, kind: &str, times: usize) {
        let lines = log_of_redis(&self.server);
        let (away, back): (Vec<_>, Vec<_>) = lines.iter().partition(|line| is_warning(line));
        let named = away.iter().filter(|line| line.to_string().contains(kind)).count();
        assert!((1..=times).contains(&named), "{kind} is named {named} times: {lines:#?}");
        assert!(away.len() <= times + 2, "{} lines of what is wrong: {lines:#?}", away.len());
        assert!(back.len() <= times + 2, "{} lines of what is well: {lines:#?}", back.len());
    }
}

fn start(url: &str, flags: &[&str]) -> Server {
    let args = [&["--redis-url", url, "--workers", "1"], flags].concat();
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

/// Samples with keys of their own: what became of each can be seen.
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

/// A check that passes whatever Redis holds would pass all tests below.
#[test]
fn the_ledger_sees_every_difference() {
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

/// Cuts one connection after the other, at these places, while clients post.
#[track_caller]
fn cut(flags: &[&str], plan: Plan, cuts: &[Fault]) {
    let scene = Scene::with_proxy(flags);
    let load = scene.post(plan);
    let proxy = scene.proxy();
    for cut in cuts {
        let before = proxy.counters();
        proxy.set(*cut);
        proxy.wait(STRIKE, "a cut", |counters| counters.cuts > before.cuts);
        // The next one strikes a connection that works: attempts that fail are made ever more seldom.
        proxy.wait(STRIKE, "another connection", |counters| {
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
    // What lasts for a moment need not be seen as a change of state; nothing is named more often.
    scene.expect_named("broken", cuts.len());
}

/// In the middle of a command, between commands, batches later.
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
fn half_a_second_of_delay_each_way() {
    let scene = Scene::with_proxy(&[]);
    let load = scene.post(Plan::default());
    let delay = Duration::from_millis(500);
    scene.proxy().set(Fault::Delay { requests: delay, replies: delay });
    load.run(Phase::Fault, REQUESTS * 3);
    scene.server.get("/readyz").expect(200);
    scene.proxy().set(Fault::None);
    scene.expect_nothing_lost(load);
    // Slow is not away, unless a second is more than what is waited for: then it is said once.
    let lines = log_of_redis(&scene.server);
    assert!(lines.len() <= 5, "{lines:#?}");
}

/// The network keeps a batch for longer than sigmad waits, and delivers it after the next ones.
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
    scene.expect_named("timeout", 1);
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
fn replies_come_in_drops() {
    let scene = Scene::with_proxy(&[]);
    let proxy = scene.proxy();
    // None of them late, and all together far too late.
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
    scene.expect_named("broken", KILLS);
}

#[test]
fn redis_pauses_its_clients() {
    let scene = Scene::new(&[]);
    let load = scene.post(Plan::default());
    scene.redis.ask::<()>(&["CLIENT", "PAUSE", "2500", "ALL"]);
    load.run(Phase::Fault, REQUESTS * 5 / 2);
    scene.server.get("/readyz").expect(200);
    scene.expect_nothing_lost(load);
    let lines = log_of_redis(&scene.server);
    assert!(lines.len() <= 5, "{lines:#?}");
}

#[test]
fn redis_turns_into_a_replica() {
    let scene = Scene::new(&[]);
    let nobody = unused_port().to_string();
    let follow = |host: &str, port: &str| scene.redis.ask::<()>(&["REPLICAOF", host, port]);
    scene.survives("read_only", || follow("127.0.0.1", &nobody), || follow("NO", "ONE"));
}

#[test]
fn redis_takes_no_more_clients() {
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
    scene.expect_named("connect", 1);
}

#[test]
fn redis_has_no_memory_left() {
    let scene = Scene::new(&[]);
    let set = |bytes: &str| scene.redis.ask::<()>(&["CONFIG", "SET", "maxmemory", bytes]);
    scene.survives("out_of_memory", || set("1"), || set("0"));
}

#[test]
fn the_password_changes_and_changes_back() {
    let scene = Scene::before(Redis::with_password("first"), &[]);
    // A connection that is in stays in.
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
    scene.expect_named("auth", 1);
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
    // What came after it had died is there; of what came before, what was still queued.
    let may_miss = |sample: &store_ledger::Sample| sample.sent <= killed;
    ledger.assert_all_answered();
    ledger.settle(&scene.server);
    ledger.check(&scene.redis, &Excuse { may_miss: &may_miss, ..Excuse::NONE });
    ledger.assert_not_held_up();
    // Broken at first, refused then.
    scene.expect_named("connect", 1);
}

#[test]
fn redis_loads_its_data() {
    let mut scene = Scene::new(&[]);
    let load = scene.post(unique());
    // Written after the snapshot and before the kill: in neither life of this Redis.
    let written = scene.written_until();
    scene.redis.restart_loading(Duration::from_secs(2));
    let loading = Instant::now();
    scene.expect_away("loading");
    load.run(Phase::Fault, REQUESTS);
    scene.expect_back();
    load.run(Phase::After, REQUESTS_AFTER);
    let ledger = load.stop();
    let may_miss = |sample: &store_ledger::Sample| {
        sample.sent < loading && sample.accepted.is_none_or(|accepted| accepted > written)
    };
    ledger.assert_all_answered();
    ledger.settle(&scene.server);
    ledger.check(&scene.redis, &Excuse { may_miss: &may_miss, ..Excuse::NONE });
    ledger.assert_not_held_up();
    scene.expect_named("loading", 1);
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
    scene.expect_named("connect", 1);
}

#[test]
fn sigmad_terminated_under_load_leaves_everything_in_redis() {
    let mut scene = Scene::new(&[]);
    let load = scene.post(unique());
    scene.server.terminate();
    let status = scene.server.wait_exit(BACK).expect("exits after SIGTERM");
    assert_eq!(status.code(), Some(0));
    let ledger = load.join();
    ledger.assert_answers();
    let findings = ledger.check(&scene.redis, &Excuse::NONE);
    assert!(findings.missing.is_empty());
}

#[test]
fn sigmad_terminated_without_redis_says_what_is_lost() {
    let mut scene = Scene::with_proxy(&["--drain", "1s"]);
    let load = scene.post(unique());
    scene.proxy().set(Fault::BlackHole);
    load.run(Phase::Fault, REQUESTS_AFTER);
    scene.server.terminate();
    let status = scene.server.wait_exit(BACK).expect("exits after SIGTERM");
    assert_eq!(status.code(), Some(0));
    load.join().assert_answers();
    let lines = log_of_redis(&scene.server);
    let lost = lines.iter().filter_map(|line| line["samples"].as_u64());
    assert!(lost.sum::<u64>() > 0, "nobody is told that samples are lost: {lines:#?}");
}

#[test]
fn sigmad_terminated_before_a_redis_that_dribbles_ends_in_time() {
    let mut scene = Scene::with_proxy(&["--drain", "1s"]);
    let load = scene.post(unique());
    scene.proxy().set(Fault::Dribble { bytes: 1, pause: Duration::from_millis(300) });
    load.run(Phase::Fault, REQUESTS_AFTER);
    scene.server.terminate();
    // A reply takes minutes; the drain, the last flush and an attempt that had begun take seconds.
    let status = scene.server.wait_exit(BACK).expect("exits after SIGTERM");
    assert_eq!(status.code(), Some(0));
    load.join().assert_answers();
}

#[test]
fn sigmad_killed_loses_one_flush_at_most() {
    let mut scene = Scene::new(&[]);
    let load = scene.post(unique());
    let written = scene.written_until();
    scene.server.signal(libc::SIGKILL);
    let killed = Instant::now();
    scene.server.wait_exit(BACK).expect("killed");
    let mut ledger = load.join();
    ledger.assert_answers();

    // The next one goes on with what Redis has.
    scene.server = start(&scene.redis.url(), &[]);
    scene.wait_until_ready();
    scene.expect_back();
    ledger.forget_counts();
    let load = ledger.post_to(&scene.server);
    load.run(Phase::After, REQUESTS);
    let ledger = load.stop();
    ledger.assert_all_answered();
    ledger.settle(&scene.server);
    let may_miss = |sample: &store_ledger::Sample| {
        sample.sent < killed && sample.accepted.is_none_or(|accepted| accepted > written)
    };
    let findings = ledger.check(&scene.redis, &Excuse { may_miss: &may_miss, ..Excuse::NONE });
    assert_eq!(findings.contents.replicas(), 2);
    ledger.check_answers(&scene.server, &findings.contents);
}

#[test]
fn a_full_queue_drops_its_oldest_first() {
    const QUEUE_BYTES: u64 = 4 << 20;
    let mut redis = Redis::start(&[]);
    redis.stop();
    let server = start(&redis.url(), &["--redis-queue", &QUEUE_BYTES.to_string()]);
    let mut scene = Scene { server, proxy: None, redis };
    scene.wait_until_ready();
    // One client: its order is the order of the queue. Few and full blocks find room on their way
    // even if the store's thread does not run for a while.
    let interval = Duration::from_millis(16);
    let plan = Plan { clients: 1, interval, sizes: &[200], keys: Keys::Unique };
    let load = Ledger::new(plan).post_to(&scene.server);
    load.run(Phase::Fault, 120);
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
    // What is written now is dropped on one end and flushed on the other.
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

#[test]
fn a_key_of_the_wrong_type_harms_its_own_stream_alone() {
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
    scene.expect_named("wrong_type", 1);
    let kept: String = scene.redis.ask(&["GET", spoiled]);
    assert_eq!(kept, "not ours");

    // Once the key is gone the stream is like any other.
    scene.redis.ask::<()>(&["DEL", spoiled]);
    let load = ledger.post_to(&scene.server);
    load.run(Phase::After, REQUESTS * 3);
    scene.compare(&load.stop(), &Excuse::NONE);
}
