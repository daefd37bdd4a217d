//! Tests of [`AnalyticsThread`](super::AnalyticsThread): samples and questions in, answers out.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crossbeam_channel::TryRecvError;

use super::*;
use crate::analytics::names::NameLookup;
use crate::analytics::report::{AnomaliesQuery, DevicesQuery, DevicesSort, Scope, TotalsReport};
use crate::analytics::{AnalyticsSettings, AnomalyNumbers, Asker, KnownSilences, questions};
use crate::judged_queue::{
    self, JudgedChunk, JudgedConsumer, JudgedCounts, ReplicaUpdate, SharedMetric, SharedWindows,
};
use crate::sample_queue::{self, SampleProducer};
use crate::shards::ShardLayout;
use sigmad_sample::{Batch, DeviceId, MetricId, Reading};

/// Threads that do not run: a test takes their turns.
struct AtRest {
    producers: Vec<SampleProducer>,
    asker: Asker,
    counters: Arc<AnalyticsCounters>,
    threads: Vec<AnalyticsThread>,
}

struct Running {
    producers: Vec<SampleProducer>,
    asker: Asker,
    counters: Arc<AnalyticsCounters>,
    thread: thread::JoinHandle<TotalsReport>,
}

fn running(producers: usize) -> Running {
    running_with(producers, ShardLayout::ONE, |_| None)
}

fn at_rest(
    producers: usize,
    layout: ShardLayout,
    judged_producer: impl FnOnce(Arc<Sleeper>) -> Option<JudgedProducer>,
) -> AtRest {
    let sleepers: Vec<Arc<Sleeper>> = (0..layout.threads()).map(|_| Arc::default()).collect();
    let (asker, asked) = questions(layout, &sleepers);
    let (producers, consumers): (_, Vec<_>) =
        (0..producers).map(|_| sample_queue::sharded(layout, &sleepers, Arc::default())).unzip();
    let mut ends: Vec<Vec<SampleConsumer>> = sleepers.iter().map(|_| Vec::new()).collect();
    for consumers in consumers {
        ends.iter_mut().zip(consumers).for_each(|(end, consumer)| end.push(consumer));
    }
    let counters = Arc::<AnalyticsCounters>::default();
    let mut counted = Some(counters.clone());
    let mut judged_producer = judged_producer(sleepers[0].clone());
    let numbers = AnomalyNumbers::default();
    let parts = sleepers.into_iter().zip(asked).zip(ends).enumerate();
    let threads: Vec<_> = parts
        .map(|(shard, ((sleeper, questions), sample_consumers))| {
            let names = NameLookup::new(
                |id| Some(format!("d{}", id.index).into()),
                |id| format!("m{}", id.slot()).into(),
            );
            let (part, settings) = (layout.part(shard), AnalyticsSettings::default());
            AnalyticsThread::new(AnalyticsParts {
                analytics: Analytics::of_part(part, settings, names, numbers.clone()),
                ttl_us: 1_000_000,
                sample_consumers,
                questions,
                judged_producer: judged_producer.take(),
                handover: None,
                events: None,
                state: None,
                journal: None,
                known_silences: KnownSilences::default(),
                past: None,
                sleeper,
                clock: Clock::new(sigmad_clock::start()),
                counters: counted.take().unwrap_or_default(),
            })
        })
        .collect();
    AtRest { producers, asker, counters, threads }
}

fn running_with(
    producers: usize,
    layout: ShardLayout,
    judged_producer: impl FnOnce(Arc<Sleeper>) -> Option<JudgedProducer>,
) -> Running {
    let AtRest { producers, asker, counters, threads } =
        at_rest(producers, layout, judged_producer);
    let thread = thread::spawn(move || {
        let threads: Vec<_> =
            threads.into_iter().map(|thread| thread::spawn(move || thread.run(false))).collect();
        let parts = threads.into_iter().map(|thread| thread.join().expect("no panic"));
        TotalsReport::merge(parts.collect())
    });
    Running { producers, asker, counters, thread }
}

/// With a store, of which this is the end.
fn running_beside_a_store(producers: usize) -> (Running, JudgedConsumer) {
    let mut judged_consumer = None;
    let running = running_with(producers, ShardLayout::ONE, |sleeper| {
        let (judged_producer, other) = judged_queue::channel(64 << 20, sleeper, Arc::default());
        judged_consumer = Some(other);
        Some(judged_producer)
    });
    (running, judged_consumer.expect("made with the judged_producer"))
}

fn device(index: u32) -> DeviceId {
    DeviceId { index, generation: 0 }
}

fn samples(index: u32, values: std::ops::Range<usize>) -> Batch {
    let mut batch = Batch::default();
    for value in values {
        let reading = Reading { metric: MetricId::RPS, value: value as f64 };
        batch.push(value as i64, Some(device(index)), &[reading]);
    }
    batch
}

fn send(producer: &mut SampleProducer, batch: &Batch) {
    while !producer.has_room(batch.len(), batch.readings()) {
        thread::yield_now();
    }
    producer.push(batch, Now::default());
    producer.send(Now::default());
}

fn total(report: &WindowsReport) -> u64 {
    report.metrics.first().map_or(0, |metric| metric.total_count)
}

#[test]
fn an_answer_sees_every_sample_sent_before_its_question() {
    for shards in [1, 2, 4] {
        check_answers(ShardLayout::new(shards));
    }
}

/// Each worker asks after each of its samples, while the others send theirs.
fn check_answers(layout: ShardLayout) {
    const WORKERS: usize = 3;
    let Running { producers, asker, thread, .. } = running_with(WORKERS, layout, |_| None);
    let acknowledged = AtomicU64::new(0);
    thread::scope(|scope| {
        for (index, mut producer) in producers.into_iter().enumerate() {
            let (asker, acknowledged) = (asker.clone(), &acknowledged);
            scope.spawn(move || {
                let mut sent = 0;
                for round in 0..300 {
                    // Bursts of several chunks, and single samples.
                    let size = if round % 50 == 0 { 5_000 } else { 1 + round % 3 };
                    send(&mut producer, &samples(index as u32, sent..sent + size));
                    sent += size;
                    acknowledged.fetch_add(size as u64, Ordering::SeqCst);

                    let before = acknowledged.load(Ordering::SeqCst);
                    let mine = device(index as u32);
                    let report = asker.windows(Some(mine), Scope::Cluster).expect("up");
                    // Only this thread sends for its device: exactly so many, in order.
                    assert_eq!(total(&report), sent as u64);
                    let newest = *report.metrics[0].values.last().expect("not empty");
                    assert_eq!(newest, (sent - 1) as f64);
                    let fleet = asker.windows(None, Scope::Cluster).expect("running");
                    assert!(total(&fleet) >= before);
                    assert!(asker.totals().expect("running").samples >= before);
                }
            });
        }
    });
    let totals = thread.join().expect("no panic");
    assert_eq!(totals.samples, acknowledged.into_inner());
    assert_eq!(totals.devices, WORKERS);
    assert!(asker.totals().is_none());
}

#[test]
fn a_sample_without_a_device_is_counted_and_shown_once() {
    for shards in [1, 3] {
        let layout = ShardLayout::new(shards);
        let Running { mut producers, asker, thread, .. } = running_with(1, layout, |_| None);
        let now = Clock::new(sigmad_clock::start()).now();
        let mut batch = Batch::default();
        for at in 0..30 {
            let reading = Reading { metric: MetricId::RPS, value: f64::from(at % 2) };
            let value = if at == 29 { Reading { value: 1e6, ..reading } } else { reading };
            batch.push(i64::from(at), (at % 3 == 0).then(|| device(at as u32)), &[value]);
        }
        producers[0].push(&batch, now);
        producers[0].send(now);
        let query = RecentQuery { limit: 100, ..RecentQuery::default() };
        let mut times: Vec<_> =
            asker.latest(query).expect("up").iter().map(|sample| sample.timestamp_us).collect();
        times.sort_unstable();
        assert_eq!(times, (0..30).collect::<Vec<_>>());
        let everything =
            AnomaliesQuery { limit: 9, since_us: i64::MIN, ..AnomaliesQuery::default() };
        let report = asker.anomalies(everything).expect("up");
        let found: Vec<_> = report.anomalies.iter().map(|a| (a.serial, a.value)).collect();
        assert_eq!((found, report.begun, report.serial), (vec![(1, 1e6)], 1, 1));
        let (limit, sort) = (4, DevicesSort::LastSeen);
        let (search, after, scope) = (None, None, Scope::Cluster);
        let query = DevicesQuery { limit, sort, search, after, scope };
        let devices = asker.devices(&query).expect("up");
        let names: Vec<_> = devices.iter().map(|device| &*device.device).collect();
        assert_eq!(names, ["d0", "d12", "d15", "d18"]);
        producers.clear();
        let totals = thread.join().expect("no panic");
        assert_eq!((totals.samples, totals.devices, totals.streams), (30, 10, 10));
        assert_eq!(totals.anomalies, [("m1".into(), 1)]);
    }
}

#[test]
fn a_flood_of_questions_and_one_of_samples_both_get_through() {
    let Running { mut producers, asker, counters, thread } = running(1);
    let mut producer = producers.pop().expect("one");
    thread::scope(|scope| {
        let askers: Vec<_> = (0..2)
            .map(|_| {
                let asker = asker.clone();
                scope.spawn(move || {
                    for round in 0..30 {
                        let limit = 10;
                        let since_us = i64::MIN;
                        let query = RecentQuery { limit, since_us, ..RecentQuery::default() };
                        let sort = DevicesSort::LastSeen;
                        let devices = DevicesQuery {
                            limit,
                            sort,
                            search: None,
                            after: None,
                            scope: Scope::Cluster,
                        };
                        match round % 3 {
                            0 => _ = asker.latest(query).expect("up"),
                            1 => _ = asker.devices(&devices).expect("up"),
                            _ => {
                                let query =
                                    AnomaliesQuery { limit, since_us, ..AnomaliesQuery::default() };
                                _ = asker.anomalies(query).expect("up")
                            }
                        }
                    }
                })
            })
            .collect();
        let mut sent = 0;
        while sent < 1_000 || askers.iter().any(|asker| !asker.is_finished()) {
            send(&mut producer, &samples(sent as u32 % 7, sent..sent + 300));
            sent += 300;
        }
        drop(producer);
    });
    let totals = thread.join().expect("no panic");
    // An asker that has waited for long asks whether the thread still runs.
    assert!(counters.questions_total.get() >= 60);
    assert_eq!(counters.samples_total.get(), totals.samples);
}

#[test]
fn a_parked_thread_hears_questions_samples_and_the_end_of_a_worker() {
    let Running { mut producers, asker, counters, thread } = running(2);
    // After each of these the thread parks once more, within milliseconds.
    let parks_after = |act: &mut dyn FnMut()| {
        let before = counters.parks_total.get();
        act();
        while counters.parks_total.get() == before {
            thread::yield_now();
        }
    };
    for _ in 0..3 {
        parks_after(&mut || assert!(asker.totals().is_some()));
        parks_after(&mut || send(&mut producers[0], &samples(1, 0..10)));
    }
    assert_eq!(counters.samples_total.get(), 30);
    parks_after(&mut || _ = producers.pop());
    // It is parked: only the end of its last worker can wake it.
    producers.pop();
    assert_eq!(thread.join().expect("no panic").samples, 30);
    assert!(asker.totals().is_none());
}

#[test]
fn the_latest_samples_carry_names_until_they_are_too_old() {
    let Running { mut producers, asker, thread, .. } = running(1);
    let mut clock = Clock::new(sigmad_clock::start());
    let now = clock.now();
    let old = Now { wall_us: now.wall_us - 2_000_000, ..now };
    for (sent, at) in [(0..3, old), (3..5, now)] {
        producers[0].push(&samples(9, sent), at);
        producers[0].send(at);
    }
    let query = RecentQuery { device: Some(device(9)), limit: 10, ..RecentQuery::default() };
    let ask = |query| asker.latest(query).expect("running");
    let latest = ask(query);
    let expected = |value: f64| SampleReport {
        device: Some("d9".into()),
        timestamp_us: value as i64,
        arrived_us: now.wall_us,
        readings: vec![("m1".into(), value)],
    };
    assert_eq!(latest, [expected(4.0), expected(3.0)]);
    assert_eq!(ask(RecentQuery { limit: 1, ..query }), [expected(4.0)]);
    assert_eq!(ask(RecentQuery { device: Some(device(8)), ..query }), []);
    producers.clear();
    thread.join().expect("no panic");
}

#[test]
fn the_time_to_the_verdict_is_taken_of_timed_blocks() {
    let Running { mut producers, asker, counters, thread } = running(1);
    send(&mut producers[0], &samples(0, 0..1));
    producers[0].push(&samples(0, 1..4), Now::default());
    producers[0].send_timed(Now::default(), 0);
    asker.totals().expect("running");
    let mut lag = sigmad_counters::Counts::default();
    counters.lag.merge_into(&mut lag);
    assert_eq!(lag.count(), 3);
    assert_eq!(counters.chunks_total.get(), 2);
    producers.clear();
    thread.join().expect("no panic");
}

/// All chunks that come, until no shard sends any more.
fn chunks_until_the_end(consumer: &JudgedConsumer) -> impl Iterator<Item = Box<JudgedChunk>> {
    std::iter::from_fn(|| {
        loop {
            match consumer.take() {
                Ok(chunk) => return Some(chunk),
                Err(TryRecvError::Empty) => thread::yield_now(),
                Err(TryRecvError::Disconnected) => return None,
            }
        }
    })
}

#[test]
fn the_store_gets_every_sample_in_order_with_its_counts() {
    let (running, judged_consumer) = running_beside_a_store(2);
    let Running { mut producers, asker, counters, thread } = running;
    let mut sent = [0, 0];
    for round in 0..300 {
        let producer = round % 2;
        let size = if round % 50 == 0 { 1_000 } else { 1 + round % 3 };
        // All at one moment, which is before 1970: the clock may say anything.
        send(
            &mut producers[producer],
            &samples(producer as u32, sent[producer]..sent[producer] + size),
        );
        sent[producer] += size;
    }
    let mut alone = Batch::default();
    alone.push(-7, None, &[Reading { metric: MetricId::CPU, value: 0.5 }]);
    asker.totals().expect("running");
    send(&mut producers[0], &alone);
    producers.clear();
    let (mut order, mut of_devices, mut fleet) = ((i64::MIN, 0), [0, 0], 0);
    let mut last = None;
    for chunk in chunks_until_the_end(&judged_consumer) {
        for sample in chunk.iter() {
            assert!((sample.time_us, sample.sequence) > order && sample.sequence < 1_000);
            order = (sample.time_us, sample.sequence);
            last = Some((sample.timestamp_us, sample.device));
            let Some(id) = sample.device else { continue };
            let count = &mut of_devices[id.index as usize];
            let reading = Reading { metric: MetricId::RPS, value: *count as f64 };
            assert!(sample.readings().eq([reading]));
            assert_eq!(sample.timestamp_us, *count as i64);
            *count += 1;
            fleet += 1;
        }
        for row in chunk.rows() {
            let counts = row.device.map_or(JudgedCounts::default(), |id| JudgedCounts {
                total: of_devices[id.index as usize] as u64,
                anomalies: row.counts.anomalies,
            });
            assert_eq!((row.counts, chunk.streams_of(row)[0].counts), (counts, counts));
        }
        for of_rps in chunk.fleet().iter().filter(|known| known.metric == MetricId::RPS) {
            assert_eq!(of_rps.counts.total, fleet);
        }
        judged_consumer.recycle(chunk);
    }
    assert_eq!(of_devices, sent);
    assert_eq!(last, Some((-7, None)));
    assert_eq!(thread.join().expect("no panic").samples, counters.samples_total.get());
}

#[test]
fn nothing_is_left_behind_while_the_store_lags() {
    let (running, judged_consumer) = running_beside_a_store(1);
    let Running { mut producers, asker, counters, thread } = running;
    let waits = |is_over: &dyn Fn() -> bool| {
        while !is_over() {
            thread::yield_now();
        }
    };
    let mut sent = 0;
    let mut send_one = || {
        send(&mut producers[0], &samples(0, sent..sent + 1));
        sent += 1;
        asker.totals().expect("running");
    };
    // Each in a chunk of its own, until the store is too far behind for that.
    for chunks in 1..=64 {
        send_one();
        waits(&|| judged_consumer.waiting() == chunks);
    }
    send_one();
    let (parks, wakes) = (counters.parks_total.get(), counters.wakes_total.get());
    waits(&|| counters.wakes_total.get() > wakes + 10);
    assert_eq!((judged_consumer.waiting(), counters.parks_total.get()), (64, parks));
    let mut taken = 0;
    while taken < 65 {
        waits(&|| judged_consumer.waiting() > 0);
        let chunk = judged_consumer.take().expect("it waits");
        taken += chunk.len();
        judged_consumer.recycle(chunk);
    }
    waits(&|| counters.parks_total.get() > parks);
    producers.clear();
    assert_eq!(thread.join().expect("no panic").samples, 65);
}

/// The window of a device as others have filled it.
fn of_others(index: u32) -> SharedWindows {
    let others = JudgedCounts { total: 50, anomalies: 2 };
    SharedWindows {
        device: Some(device(index)),
        others,
        own_total: 0,
        last_seen_us: 9,
        last_timestamp_us: 8,
        other_takeover: None,
        metrics: vec![SharedMetric {
            metric: MetricId::RPS,
            others,
            own_total: 0,
            own_values: 0,
            values: (0..50).map(f64::from).collect(),
        }],
    }
}

/// A device that moves to another replica leaves with all values that were acknowledged here.
#[test]
fn what_was_accepted_before_an_update_is_judged_before_it() {
    let mut judged_consumer = None;
    let AtRest { mut producers, mut threads, .. } = at_rest(1, ShardLayout::ONE, |sleeper| {
        let (judged_producer, other) = judged_queue::channel(64 << 20, sleeper, Arc::default());
        judged_consumer = Some(other);
        Some(judged_producer)
    });
    let (thread, judged_consumer) = (&mut threads[0], judged_consumer.expect("made"));
    // More than one turn judges.
    for _ in 0..=CHUNKS_PER_TURN {
        send(&mut producers[0], &samples(0, 0..1));
    }
    let clock = Clock::new(sigmad_clock::start());
    assert!(judged_consumer.send(ReplicaUpdate::Windows(vec![of_others(0)]), &clock));
    let mut samples_of = || {
        thread.turn();
        total(&thread.analytics.windows(Some(device(0)), Scope::Cluster))
    };
    assert_eq!(samples_of(), CHUNKS_PER_TURN as u64, "the update has come too soon");
    assert_eq!(samples_of(), CHUNKS_PER_TURN as u64 + 1 + 50);
}

#[test]
fn an_answer_sees_what_the_store_told_before_its_question() {
    const DEVICES: u32 = 2_000;
    let (running, judged_consumer) = running_beside_a_store(1);
    let Running { mut producers, asker, counters, thread } = running;
    let windows = (0..DEVICES).map(of_others);
    let ask = |index| {
        let device = Some(device(index));
        asker.windows(device, Scope::Cluster).expect("running")
    };
    assert_eq!(ask(0).synced_at_us, None);
    // Let it fall asleep: whoever tells it wakes it.
    while counters.parks_total.get() == 0 {
        thread::yield_now();
    }
    let clock = Clock::new(sigmad_clock::start());
    assert!(judged_consumer.send(ReplicaUpdate::Windows(windows.collect()), &clock));
    judged_consumer.set_synced_at(77);
    // Far more than one turn lets in, and the answer sees it all.
    send(&mut producers[0], &samples(DEVICES, 0..100));
    let report = ask(DEVICES - 1);
    assert_eq!((total(&report), report.last_timestamp_us), (50, Some(8)));
    assert_eq!((report.metrics[0].values.len(), report.synced_at_us), (50, Some(77)));
    assert_eq!(total(&ask(DEVICES)), 100);
    producers.clear();
    let totals = thread.join().expect("no panic");
    assert_eq!((totals.samples, totals.devices), (100, DEVICES as usize + 1));
    assert!(!judged_consumer.send(ReplicaUpdate::Windows(vec![of_others(0)]), &clock));
}
