//! Requests through all that sigmad does with them in user space, for an instrument that counts
//! instructions: bytes to head, router, decoder, sample queue, verdicts, answer.
//!
//! One thread, no sockets, no waiting, and every input the same in each run: what is left is the work.
//! `instructions.py` runs it under callgrind, which counts in [`measured`] alone.
//!
//! Usage: `requests single|pipelined|batch|thousand|incidents [SHARDS [plain|journal [ROUNDS]]]`; prints requests and samples
//! that were measured. `incidents` is `thousand` as the server judges it by default: for incidents, too, and ten rounds a second.
//! With several shards the one thread does the work of each in turn: what dividing costs, without what threads cost each other. With `journal` each shard passes its chunks on as with a state directory, and takes the buffers back.
//! `requests values FORMAT STREAMS` does what values.rs says, and prints bodies and values.

mod bodies;
mod values;

use std::hint::black_box;
use std::sync::Arc;

use crossbeam_channel::bounded;
use mimalloc::MiMalloc;
use sigmad::analytics::latest::LatestSamples;
use sigmad::analytics::report::TotalsReport;
use sigmad::analytics::{Analytics, AnalyticsSettings, AnomalyNumbers, OnsetSettings};
use sigmad::api::router::{Router, RouterParts};
use sigmad::api::tokens::Tokens;
use sigmad::decode::Decoder;
use sigmad::http::Limits;
use sigmad::http::counters::HttpCounters;
use sigmad::http::encode::DateLine;
use sigmad::http::message::{Completion, CompletionSink, Service as _};
use sigmad::http::protocol::{Buffers, Protocol, Round};
use sigmad::http::stages::StageTimer;
use sigmad::journal::{self, JournalConsumer, JournalProducer};
use sigmad::registry::Registry;
use sigmad::reloadable::Reloadable;
use sigmad::sample_queue::{self, SampleConsumer};
use sigmad::shards::ShardLayout;
use sigmad_clock::{self, Clock, Now};
use sigmad_profile::heap::Sampled;

#[global_allocator]
static ALLOCATOR: Sampled<MiMalloc> = Sampled(MiMalloc);

/// Rounds before it counts: streams open, buffers find their size, windows fill.
const ROUNDS_WARM: usize = 200;
const ROUNDS_MEASURED: usize = 500;
/// As the server has them by default.
const INTERVAL_US: u64 = 10_000_000;
const STREAM_IDLE_US: i64 = 3_600_000_000;
/// More than there are.
const STREAMS_MAX: usize = 1_000;

/// Nobody asks for a responder here.
struct NoDeferred;

impl CompletionSink for NoDeferred {
    fn complete(&self, _: u64, _: Completion) {
        unreachable!("samples are answered at once")
    }
}

/// The work of one analytics thread.
struct Shard {
    consumer: SampleConsumer,
    analytics: Analytics,
    latest: LatestSamples,
    journal: Option<(JournalProducer, JournalConsumer)>,
    judged_chunks: u64,
}

impl Shard {
    fn judge(&mut self) {
        while let Ok(Some(chunk)) = self.consumer.receive() {
            let arrived_us = chunk.sent.wall_us;
            self.analytics.tick(arrived_us);
            self.analytics.judge(&chunk.batch, arrived_us);
            self.latest.keep_of(self.analytics.part(), &chunk.batch, arrived_us);
            self.analytics.pass_events(drop);
            if let Some((producer, consumer)) = &self.journal {
                producer.push(self.judged_chunks, arrived_us, &chunk.batch, None);
                consumer.full.try_iter().for_each(|input| consumer.recycle(input));
            }
            self.judged_chunks += 1;
            self.consumer.recycle(chunk);
        }
    }
}

/// One connection, its worker, and the work of the analytics threads, by turns.
struct Bench {
    protocol: Protocol,
    router: Router,
    shards: Vec<Shard>,
    out: Vec<u8>,
    buffers: Buffers,
    date: DateLine,
    counters: HttpCounters,
    engine: Arc<dyn CompletionSink>,
    clock: Clock,
    round: u64,
    /// Milliseconds from one round to the next, on a clock of its own.
    round_ms: u64,
}

impl Bench {
    fn new(layout: ShardLayout, has_journal: bool, has_incidents: bool) -> Self {
        let sleepers: Vec<_> = (0..layout.threads()).map(|_| Arc::default()).collect();
        let (samples, consumers) = sample_queue::sharded(layout, &sleepers, Arc::default());
        let registry = Arc::new(Registry::new(STREAMS_MAX, (STREAM_IDLE_US / 1_000_000) as u32));
        let start = sigmad_clock::start();
        let router = Router::new(RouterParts {
            decoder: Decoder::new(registry.clone()),
            samples,
            acknowledger: None,
            clock: Clock::new(start),
            counters: Arc::default(),
            reads: bounded(1).0,
            debug: bounded(1).0,
            tokens: Reloadable::new(Tokens::default()).reader(),
            readiness: Arc::default(),
        });
        let numbers = AnomalyNumbers::default();
        let onsets = has_incidents.then(|| {
            OnsetSettings::new(INTERVAL_US, STREAM_IDLE_US, STREAMS_MAX, layout.of_devices())
        });
        let of_shard = |(shard, consumer)| {
            let part = layout.part(shard);
            let settings =
                AnalyticsSettings { onsets: onsets.clone(), ..AnalyticsSettings::default() };
            let names = registry.clone().into();
            let analytics = Analytics::of_part(part, settings, names, numbers.clone());
            let journal = has_journal.then(|| journal::channel(Arc::default()));
            let latest = LatestSamples::default();
            Shard { consumer, analytics, latest, journal, judged_chunks: 0 }
        };
        Self {
            protocol: Protocol::new(0, std::net::Ipv4Addr::LOCALHOST.into(), false),
            router,
            shards: consumers.into_iter().enumerate().map(of_shard).collect(),
            out: Vec::new(),
            buffers: Buffers::default(),
            date: DateLine::default(),
            counters: HttpCounters::default(),
            engine: Arc::new(NoDeferred),
            clock: Clock::new(start),
            round: 0,
            round_ms: if has_incidents { 100 } else { 1 },
        }
    }

    /// What a worker and the analytics thread do with one read; returns the bytes of the answers.
    fn round(&mut self, bytes: &mut [u8]) -> usize {
        self.round += 1;
        self.out.clear();
        let since_ms = self.round * self.round_ms;
        let wall_us = 1_735_100_000_000_000 + since_ms as i64 * 1_000;
        let now = Now { monotonic_ns: since_ms * 1_000_000, wall_us };
        self.date.update(now.wall_s());
        self.buffers.begin_round();
        let limits = Limits {
            head_bytes_max: 16 << 10,
            body_bytes_max: 8 << 20,
            connections_max: 1,
            memory_bytes_max: 64 << 20,
            read_timeout_ms: 10_000,
            body_rate_min: 1024,
            write_stall_ms: 30_000,
            idle_timeout_ms: 75_000,
            drain_idle_ms: 1_000,
            cors: None,
        };
        let mut round = Round {
            service: &mut self.router,
            out: &mut self.out,
            buffers: &mut self.buffers,
            date: &self.date,
            limits: &limits,
            counters: &self.counters,
            sink: &self.engine,
            clock: &self.clock,
            now,
            is_draining: false,
            calls: 0,
            stages: None,
        };
        self.protocol.receive(bytes, &mut round);
        self.router.round_called(now, StageTimer::default());
        self.router.round_answered(40_000);
        self.shards.iter_mut().for_each(Shard::judge);
        self.out.len()
    }
}

/// The rounds that count. `scratch` takes the bytes anew for each, as a read does: they are parsed in place.
#[inline(never)]
fn measured(bench: &mut Bench, bytes: &[u8], scratch: &mut Vec<u8>, rounds: usize) -> usize {
    let mut answered = 0;
    for _ in 0..rounds {
        scratch.clear();
        scratch.extend_from_slice(bytes);
        answered += black_box(bench.round(scratch));
    }
    answered
}

fn request(body: &str) -> String {
    let length = body.len();
    // As usual clients send it.
    format!(
        "POST /ingest HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

fn main() {
    let case = std::env::args().nth(1).unwrap_or_default();
    let counted = if case == "values" { run_values() } else { run_requests(&case) };
    let Some((requests, samples)) = counted else {
        eprintln!(
            "usage: requests single|pipelined|batch|thousand|incidents [SHARDS [plain|journal [ROUNDS]]] | values FORMAT STREAMS"
        );
        std::process::exit(2);
    };
    println!("{requests} {samples}");
}

fn run_values() -> Option<(usize, usize)> {
    let streams = std::env::args().nth(3)?.parse().ok()?;
    values::run(&std::env::args().nth(2)?, streams)
}

/// A body as `sigmad load --batch 1000 --profile devices` sends it: no two samples have the same time or values, and each
/// device has its own level.
fn thousand() -> String {
    const DEVICES: u64 = 100;
    let mut state = 1_u64;
    // Sums of four uniform numbers: some values are outside of two deviations, as those of the load are.
    let mut noise = |spread: u64| {
        let mut sum = 0;
        for _ in 0..4 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            sum += (state >> 33) % spread;
        }
        sum
    };
    let mut sample = |n: u64| {
        let (device, timestamp) = (n % DEVICES, 1_735_100_000_000_123 + 1_017 * n);
        let (cpu, rps) = (1_500 + 70 * device + noise(100), 1_000 + 80 * device + noise(50));
        let (whole, hundredths) = (cpu / 100, cpu % 100);
        format!(
            r#"{{"timestamp":{timestamp},"device":"edge-{device:02}","cpu":{whole}.{hundredths:02},"rps":{rps}}}"#
        )
    };
    let samples: Vec<_> = (0..1_000).map(&mut sample).collect();
    format!("[{}]", samples.join(","))
}

/// Requests and samples that were measured; None without such a case.
fn run_requests(case: &str) -> Option<(usize, usize)> {
    const SINGLE: &str = r#"{"timestamp":1735100000,"cpu":60.5,"rps":2000}"#;
    let (bytes, requests, samples) = match case {
        "single" => (request(SINGLE), 1, 1),
        "pipelined" => (request(SINGLE).repeat(16), 16, 16),
        "batch" => {
            let body = |n| format!(r#"{{"device":"edge-{:02}",{}"#, n % 50, &SINGLE[1..]);
            let bodies: Vec<_> = (0..100).map(body).collect();
            (request(&format!("[{}]", bodies.join(","))), 1, 100)
        }
        "thousand" | "incidents" => (request(&thousand()), 1, 1_000),
        _ => return None,
    };
    let shards =
        std::env::args().nth(2).map_or(1, |text| text.parse().expect("a number of shards"));
    let has_journal = std::env::args().nth(3).is_some_and(|text| text == "journal");
    let rounds = std::env::args()
        .nth(4)
        .map_or(ROUNDS_MEASURED, |text| text.parse().expect("a number of rounds"));
    let mut bench = Bench::new(ShardLayout::new(shards), has_journal, case == "incidents");
    let mut scratch = Vec::new();
    for _ in 0..ROUNDS_WARM {
        scratch.clear();
        scratch.extend_from_slice(bytes.as_bytes());
        bench.round(&mut scratch);
    }
    let answered = measured(&mut bench, bytes.as_bytes(), &mut scratch, rounds);
    // The answer: every request got a 202, and every sample was judged.
    let answers = std::str::from_utf8(&bench.out).expect("text");
    assert_eq!(answers.matches("HTTP/1.1 202 ").count(), requests, "{answers}");
    let body = format!(r#"{{"status":"accepted","accepted":{}}}"#, samples / requests);
    assert_eq!(answers.matches(&body).count(), requests, "{answers}");
    assert_eq!(answered, rounds * bench.out.len());
    let parts = bench.shards.iter().map(|shard| shard.analytics.part_totals());
    let judged = TotalsReport::merge(parts.collect()).samples;
    assert_eq!(judged, ((ROUNDS_WARM + rounds) * samples) as u64);
    Some((rounds * requests, rounds * samples))
}
