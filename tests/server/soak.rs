//! Redis is stopped and continued, three seconds each, for a minute or for `SOAK_SECONDS`.
//!
//! Clients send 5,000 samples a second all the time. Memory stays within the bound, no response waits for
//! Redis, and at the end every sample has its outcome.

#![allow(clippy::disallowed_methods, reason = "tests bound their waits on real processes")]

use std::time::Duration;

use crate::harness::Launch;
use crate::redis_server::Redis;
use crate::store_ledger::{Excuse, Keys, Ledger, Phase, Plan, Scrape, Watch};

/// How long Redis is stopped; then it runs for as long.
const TURN: Duration = Duration::from_secs(3);
/// The default of `SOAK_SECONDS`.
const SECONDS: u64 = 60;
/// 4 clients × 50 requests × 25 samples a second.
const SAMPLES_PER_S: u64 = 5_000;
const REQUESTS_PER_S: u64 = 200;
const PLAN: Plan = Plan {
    clients: 4,
    interval: Duration::from_millis(20),
    sizes: &[25],
    // As from devices that send whole seconds: about fifty samples share each key.
    keys: Keys::Runs(400),
    is_stepped: false,
};
const _: () =
    assert!(PLAN.clients * 1_000 / 20 == REQUESTS_PER_S && REQUESTS_PER_S * 25 == SAMPLES_PER_S);

/// `--redis-queue`. Six seconds of this load take less than half of it, so nothing is dropped.
const QUEUE_BYTES: u64 = 16 << 20;
/// Allowed growth once windows and buffers exist: the queue, half as much again that the allocator keeps of
/// freed memory, and the buffers of one batch.
const SLACK_KIB: u64 = 8 << 10;
const GROWTH_KIB_MAX: u64 = QUEUE_BYTES * 3 / 2 / 1024 + SLACK_KIB;
/// Allowed growth from the first half to the last. A leak of 50 bytes for each sample would be 7 MiB in one
/// minute and 70 in ten; the allocator varies by 3.
const DRIFT_KIB_MAX: u64 = 7 << 10;

fn seconds() -> u64 {
    std::env::var("SOAK_SECONDS")
        .map_or(SECONDS, |text| text.parse().expect("SOAK_SECONDS is a number of seconds"))
}

/// The first half of the rounds fills the memory that is used again; the second half finds it filled.
#[track_caller]
fn assert_flat(largest_kib: &[u64]) {
    let (first, last) = largest_kib.split_at(largest_kib.len() / 2);
    let (first, last) = (first.iter().max(), last.iter().max());
    let (first, last) = (*first.expect("rounds"), *last.expect("rounds"));
    assert!(last < first + DRIFT_KIB_MAX, "{first} KiB in the first half, {last} KiB in the last");
}

#[test]
fn redis_is_stopped_and_continued_repeatedly() {
    let redis = Redis::start(&[]);
    let queue = QUEUE_BYTES.to_string();
    // No key may expire before the end, when all are compared.
    let args = ["--redis-url", &redis.url(), "--redis-queue", &queue, "--ttl", "1h"];
    let server = Launch { args: &args, ..Launch::default() }.start();

    let watch = Watch::resident_kib(server.pid());
    let load = Ledger::new(PLAN).post_to(&server);
    load.run(Phase::Control, REQUESTS_PER_S * TURN.as_secs());
    let base_kib = watch.take();

    let rounds = (seconds() / (2 * TURN.as_secs())).max(2);
    let requests = REQUESTS_PER_S * TURN.as_secs();
    let mut largest_kib = Vec::new();
    for _ in 0..rounds {
        redis.pause();
        load.run(Phase::Fault, requests);
        redis.resume();
        load.run(Phase::Fault, requests);
        largest_kib.push(watch.take());
        server.get("/readyz").expect(200);
    }
    let ledger = load.stop();
    println!("{} samples; {base_kib} KiB, then {largest_kib:?}", ledger.accepted());

    ledger.assert_all_answered();
    ledger.settle(&server);
    let scrape = Scrape::of(&server);
    assert_eq!(scrape.sum("sigmad_store_dropped_total"), 0, "dropped");
    let findings = ledger.check(&redis, &Excuse::NONE);
    ledger.check_answers(&server, &findings.contents);
    ledger.assert_not_held_up();

    let largest = *largest_kib.iter().max().expect("rounds");
    assert!(largest < base_kib + GROWTH_KIB_MAX, "{base_kib} KiB, then {largest} KiB");
    assert_flat(&largest_kib);
}

/// A bound that the load fills in seconds, so that most samples are dropped. Its part for chunks in flight is
/// nearly half a second of the load, so that a store that waits for a core still drops only the oldest.
const SMALL_QUEUE: &str = "8MiB";

#[test]
fn away_all_the_time() {
    let mut redis = Redis::start(&[]);
    redis.stop();
    let args = ["--redis-url", &redis.url(), "--redis-queue", SMALL_QUEUE];
    let server = Launch { args: &args, ..Launch::default() }.start();
    let plan = Plan { keys: Keys::Unique, ..PLAN };
    let load = Ledger::new(plan).post_to(&server);
    let watch = Watch::resident_kib(server.pid());
    let rounds = (seconds() / TURN.as_secs()).max(4);
    let largest_kib: Vec<u64> = (0..rounds)
        .map(|_| {
            load.run(Phase::Fault, REQUESTS_PER_S * TURN.as_secs());
            watch.take()
        })
        .collect();
    let ledger = load.stop();
    redis.restart();
    ledger.assert_all_answered();
    let dropped = ledger.settle(&server).dropped("queue_full");
    println!("{dropped} of {} dropped; {largest_kib:?} KiB", ledger.accepted());
    let findings = ledger.check(&redis, &Excuse { dropped, ..Excuse::NONE });
    ledger.check_answers(&server, &findings.contents);
    // The first seconds fill the windows and the ring of latest samples.
    assert_flat(&largest_kib[1..]);
}
