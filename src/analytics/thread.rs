//! The thread that drives [`Analytics`]. It takes chunks from the workers, questions from readers and windows
//! from the store, publishes what it has judged, and sleeps when there is nothing to do.
//!
//! A question is answered once two things are done: every chunk that was in a sample queue when the question
//! was taken is judged, and every update that the store had sent by then is applied. So an answer always
//! includes what came before its question. The work of one turn is bounded, so that nothing starves the rest.
//!
//! Under load the thread dozes between turns, so that no worker pays for waking it. After a few milliseconds
//! without work it parks until a worker, a reader or the store wakes it.

use std::sync::Arc;
use std::time::Duration;
use std::vec;

use crossbeam_channel::{Receiver, Sender, TryRecvError};

use crate::analytics::Analytics;
use crate::analytics::latest::LatestSamples;
use crate::analytics::report::{
    Question, RecentQuery, SAMPLES_REPORTED_MAX, SampleReport, TotalsReport, WindowsReport,
};
use crate::judged_queue::{JudgedProducer, ReplicaUpdate, SharedWindows};
use crate::sample_queue::{QueueClosed, SampleChunk, SampleConsumer, Sleeper};
use sigmad_clock::{Clock, Now};
use sigmad_counters::{Counter, Histogram};
use sigmad_sample::Reading;

/// Chunks of one sample queue judged before the next queue has its turn: half a millisecond of full ones.
const CHUNKS_PER_TURN: usize = 64;
/// Questions answered before samples have their turn again: 10 ms of the slowest, 1 ms of usual ones.
const QUESTIONS_PER_TURN: usize = 64;
/// Values of the store applied before samples have their turn again; a device is never divided. Some hundred
/// windows of usual size hold as many.
const SHARED_VALUES_PER_TURN: usize = 16_384;
/// The longest doze. A verdict comes within a millisecond, and the thread wakes no more often than that: a
/// wake-up costs more than judging a hundred samples.
const DOZE: Duration = Duration::from_micros(900);
/// The thread parks after this long without work: by then dozing has cost more than a wake-up. Above some 250
/// samples a second it hardly ever parks.
const PARK_AFTER_NS: u64 = 4_000_000;

/// What the analytics thread counts and times.
#[derive(Debug, Default)]
pub struct AnalyticsCounters {
    /// Samples judged.
    pub samples_total: Counter,
    /// Chunks judged.
    pub chunks_total: Counter,
    /// Questions answered.
    pub questions_total: Counter,
    /// Ends of a sleep.
    pub wakes_total: Counter,
    /// Sleeps without a limit.
    pub parks_total: Counter,
    /// Time from the sending of a chunk to its last verdict, per sample; of chunks with a request whose stages
    /// are timed.
    pub lag: Histogram,
    /// Time of judging, per sample; of the same chunks.
    pub judge: Histogram,
}

/// What an [`AnalyticsThread`] is made of.
#[derive(Debug)]
pub struct AnalyticsParts {
    /// The windows.
    pub analytics: Analytics,
    /// How long `/latest` shows a sample.
    pub ttl_us: i64,
    /// The sample queue of each worker.
    pub sample_consumers: Vec<SampleConsumer>,
    /// What readers ask.
    pub questions: Receiver<Question>,
    /// The way to the store and back, if there is one.
    pub judged_producer: Option<JudgedProducer>,
    /// Where the thread sleeps; workers, readers and the store wake it.
    pub sleeper: Arc<Sleeper>,
    /// Reads the time.
    pub clock: Clock,
    /// What the thread counts.
    pub counters: Arc<AnalyticsCounters>,
}

/// The state of the thread; [`AnalyticsThread::run`] is its loop.
#[derive(Debug)]
pub struct AnalyticsThread {
    analytics: Analytics,
    latest: LatestSamples,
    ttl_us: i64,
    sources: Vec<SampleSource>,
    questions: Receiver<Question>,
    /// Questions that wait for the chunks and updates before them.
    taken: Vec<Question>,
    store: Option<StoreUpdates>,
    sleeper: Arc<Sleeper>,
    clock: Clock,
    counters: Arc<AnalyticsCounters>,
}

/// What a turn has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Something: there may be more to do.
    Worked,
    /// Nothing, until a worker, a reader or the store sends something.
    Idle {
        /// False while the store lags: then the last judged samples wait here.
        all_sent: bool,
    },
    /// Every worker has gone, all samples are judged and all questions are answered.
    Ended,
}

/// What goes to the store and comes back.
#[derive(Debug)]
struct StoreUpdates {
    judged_producer: JudgedProducer,
    /// The time of the last chunk that was published, on the monotonic clock: grows with each chunk.
    time_us: i64,
    /// Windows from the store that are not applied so far.
    windows: vec::IntoIter<SharedWindows>,
    /// Updates to apply before the questions taken are answered.
    pending: usize,
    synced_at_us: Option<i64>,
}

impl StoreUpdates {
    fn new(judged_producer: JudgedProducer) -> Self {
        Self {
            judged_producer,
            time_us: 0,
            windows: Vec::new().into_iter(),
            pending: 0,
            synced_at_us: None,
        }
    }
}

/// One worker's samples.
#[derive(Debug)]
struct SampleSource {
    consumer: SampleConsumer,
    /// Chunks to judge before the questions taken are answered.
    pending: usize,
}

impl AnalyticsThread {
    /// A thread that has judged nothing so far.
    pub fn new(parts: AnalyticsParts) -> Self {
        let sources = parts.sample_consumers.into_iter();
        Self {
            analytics: parts.analytics,
            latest: LatestSamples::default(),
            ttl_us: parts.ttl_us,
            sources: sources.map(|consumer| SampleSource { consumer, pending: 0 }).collect(),
            questions: parts.questions,
            taken: Vec::with_capacity(QUESTIONS_PER_TURN),
            store: parts.judged_producer.map(StoreUpdates::new),
            sleeper: parts.sleeper,
            clock: parts.clock,
            counters: parts.counters,
        }
    }

    /// Runs on the calling thread until every worker has gone, all samples are judged and all questions are
    /// answered.
    pub fn run(mut self) -> TotalsReport {
        self.sleeper.register();
        let mut busy_ns = self.clock.monotonic_ns();
        loop {
            match self.turn() {
                Turn::Worked => busy_ns = self.clock.monotonic_ns(),
                Turn::Idle { all_sent } => self.sleep(busy_ns, all_sent),
                Turn::Ended => return self.totals(),
            }
        }
    }

    /// Does a bounded part of the work that waits.
    pub fn turn(&mut self) -> Turn {
        let asked = self.take_questions();
        let judged = self.judge();
        let applied = self.apply_updates();
        self.answer();
        let scanned = self.analytics.advance();
        if asked || judged || applied || scanned {
            return Turn::Worked;
        }
        if self.sources.is_empty() {
            if let Some(store) = &mut self.store {
                store.judged_producer.send();
            }
            return Turn::Ended;
        }
        let all_sent = self.store.as_mut().is_none_or(|store| store.judged_producer.try_send());
        Turn::Idle { all_sent }
    }

    /// What was counted so far.
    pub fn totals(&self) -> TotalsReport {
        self.analytics.totals()
    }

    /// Takes the questions that wait, unless earlier ones are still unanswered.
    fn take_questions(&mut self) -> bool {
        if !self.taken.is_empty() {
            return true;
        }
        self.taken.extend(self.questions.try_iter().take(QUESTIONS_PER_TURN));
        if self.taken.is_empty() {
            return false;
        }
        // Counted after the questions were taken, so that everything sent before them is included.
        for source in &mut self.sources {
            source.pending = source.consumer.waiting();
        }
        if let Some(store) = &mut self.store {
            store.pending =
                store.judged_producer.updates.len() + usize::from(store.windows.len() > 0);
        }
        true
    }

    /// Judges a bounded number of chunks from each sample queue.
    fn judge(&mut self) -> bool {
        let Self { analytics, latest, sources, store, clock, counters, .. } = self;
        let mut any = false;
        sources.retain_mut(|source| {
            for _ in 0..CHUNKS_PER_TURN {
                match source.consumer.receive() {
                    Ok(Some(chunk)) => {
                        judge_chunk(analytics, latest, store.as_mut(), &chunk, clock, counters);
                        source.consumer.recycle(chunk);
                        source.pending = source.pending.saturating_sub(1);
                        any = true;
                    }
                    Ok(None) => return true,
                    Err(QueueClosed) => return false,
                }
            }
            true
        });
        any
    }

    /// Applies a bounded number of updates from the store.
    fn apply_updates(&mut self) -> bool {
        let Some(store) = &mut self.store else {
            return false;
        };
        let mut applied = 0;
        while applied < SHARED_VALUES_PER_TURN {
            if let Some(shared) = store.windows.next() {
                self.analytics.apply(&shared);
                applied += shared.metrics.iter().map(|stream| stream.values.len()).sum::<usize>();
            } else {
                match store.judged_producer.updates.try_recv() {
                    Ok(ReplicaUpdate::Windows(windows)) => store.windows = windows.into_iter(),
                    Ok(ReplicaUpdate::SyncedAt(at_us)) => store.synced_at_us = Some(at_us),
                    // No more updates, or the store has stopped.
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            // Counts without values take time too.
            applied += 1;
            if store.windows.len() == 0 {
                store.pending = store.pending.saturating_sub(1);
            }
        }
        applied > 0
    }

    /// Answers the questions taken, once nothing before them is pending.
    fn answer(&mut self) {
        let is_applied = self.store.as_ref().is_none_or(|store| store.pending == 0);
        let is_judged = self.sources.iter().all(|source| source.pending == 0);
        if self.taken.is_empty() || !is_applied || !is_judged {
            return;
        }
        let now = self.clock.now();
        self.counters.questions_total.add(self.taken.len() as u64);
        let Self { analytics, latest, store, ttl_us, taken, .. } = self;
        for question in taken.drain(..) {
            match question {
                Question::Windows(device, scope, to) => {
                    let report = analytics.windows(device, scope);
                    let synced_at_us = store.as_ref().and_then(|store| store.synced_at_us);
                    reply(&to, WindowsReport { synced_at_us, ..report });
                }
                Question::Series(query, to) => {
                    let report = analytics.series(&query);
                    let synced_at_us = store.as_ref().and_then(|store| store.synced_at_us);
                    reply(&to, WindowsReport { synced_at_us, ..report });
                }
                Question::Devices(query, to) => analytics.scan_devices(query, to),
                Question::Anomalies(query, to) => reply(&to, analytics.anomalies(&query)),
                Question::Latest(query, to) => {
                    reply(&to, latest_samples(latest, analytics, &query, now, *ttl_us));
                }
                Question::Totals(to) => reply(&to, analytics.totals()),
            }
        }
    }

    fn sleep(&mut self, busy_ns: u64, all_sent: bool) {
        let has_work = || {
            self.sources.iter().any(|source| source.consumer.is_ready())
                || !self.questions.is_empty()
                || self
                    .store
                    .as_ref()
                    .is_some_and(|store| !store.judged_producer.updates.is_empty())
        };
        // A chunk that the store has not taken waits here, and nothing would end a park for it.
        if !all_sent || self.clock.monotonic_ns() - busy_ns < PARK_AFTER_NS {
            self.sleeper.doze(DOZE, has_work);
        } else {
            self.counters.parks_total.add(1);
            self.sleeper.park(has_work);
        }
        self.counters.wakes_total.add(1);
    }
}

fn judge_chunk(
    analytics: &mut Analytics,
    latest: &mut LatestSamples,
    store: Option<&mut StoreUpdates>,
    chunk: &SampleChunk,
    clock: &Clock,
    counters: &AnalyticsCounters,
) {
    let begun_ns = if chunk.sent_ns.is_some() { clock.monotonic_ns() } else { 0 };
    let arrived_us = chunk.sent.wall_us;
    match store {
        None => analytics.judge(&chunk.batch, arrived_us),
        Some(StoreUpdates { judged_producer, time_us, .. }) => {
            let sent_us = (chunk.sent.monotonic_ns / 1_000) as i64;
            *time_us = sent_us.max(*time_us + 1);
            analytics.judge_and_publish(&chunk.batch, arrived_us, *time_us, judged_producer);
        }
    }
    latest.keep(&chunk.batch, arrived_us);
    let samples = chunk.batch.len() as u64;
    counters.samples_total.add(samples);
    counters.chunks_total.add(1);
    if let Some(sent_ns) = chunk.sent_ns {
        let judged_ns = clock.monotonic_ns();
        counters.lag.record(judged_ns.saturating_sub(sent_ns), samples);
        counters.judge.record((judged_ns - begun_ns) / samples, samples);
    }
}

/// The samples that `query` asks for, without devices and metrics that have been evicted since.
fn latest_samples(
    latest: &LatestSamples,
    analytics: &Analytics,
    query: &RecentQuery,
    now: Now,
    ttl_us: i64,
) -> Vec<SampleReport> {
    let since_us = query.since_us.max(now.wall_us - ttl_us);
    latest
        .newest_first(query.device, since_us)
        .filter_map(|kept| {
            let device = match kept.sample.device {
                Some(id) => Some(analytics.device_name(id)?.clone()),
                None => None,
            };
            let named = |r: Reading| Some((analytics.metric_name(r.metric)?, r.value));
            let readings: Vec<_> = kept.readings().filter_map(named).collect();
            (!readings.is_empty()).then_some(SampleReport {
                device,
                timestamp_us: kept.sample.timestamp_us,
                arrived_us: kept.arrived_us,
                readings,
            })
        })
        .take(query.limit.min(SAMPLES_REPORTED_MAX))
        .collect()
}

fn reply<T>(to: &Sender<T>, report: T) {
    // Err: the reader has gone.
    let _ = to.try_send(report);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use super::*;
    use crate::analytics::AnalyticsSettings;
    use crate::analytics::names::NameLookup;
    use crate::analytics::report::{
        AnomaliesQuery, Asker, DevicesQuery, DevicesSort, Scope, questions,
    };
    use crate::judged_queue::{self, JudgedConsumer, JudgedCounts, SharedMetric};
    use crate::sample_queue::{self, SampleProducer};
    use sigmad_sample::{Batch, DeviceId, MetricId, Reading};

    struct Running {
        producers: Vec<SampleProducer>,
        asker: Asker,
        counters: Arc<AnalyticsCounters>,
        thread: thread::JoinHandle<TotalsReport>,
    }

    fn running(producers: usize) -> Running {
        running_with(producers, |_| None)
    }

    fn running_with(
        producers: usize,
        judged_producer: impl FnOnce(Arc<Sleeper>) -> Option<JudgedProducer>,
    ) -> Running {
        let sleeper = Arc::new(Sleeper::default());
        let (asker, asked) = questions(sleeper.clone());
        let (producers, ends) =
            (0..producers).map(|_| sample_queue::channel(sleeper.clone(), Arc::default())).unzip();
        let names = NameLookup::new(
            |id| Some(format!("d{}", id.index).into()),
            |id| format!("m{}", id.slot()).into(),
        );
        let analytics = Analytics::new(AnalyticsSettings::default(), names);
        let counters = Arc::<AnalyticsCounters>::default();
        let counted = counters.clone();
        let judged_producer = judged_producer(sleeper.clone());
        let thread = thread::spawn(move || {
            let clock = Clock::new(sigmad_clock::start());
            AnalyticsThread::new(AnalyticsParts {
                analytics,
                ttl_us: 1_000_000,
                sample_consumers: ends,
                questions: asked,
                judged_producer,
                sleeper,
                clock,
                counters: counted,
            })
            .run()
        });
        Running { producers, asker, counters, thread }
    }

    /// With a store, of which this is the end.
    fn running_beside_a_store(producers: usize) -> (Running, JudgedConsumer) {
        let mut judged_consumer = None;
        let running = running_with(producers, |sleeper| {
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
        const WORKERS: usize = 3;
        let Running { producers, asker, thread, .. } = running(WORKERS);
        let acknowledged = AtomicU64::new(0);
        thread::scope(|scope| {
            for (index, mut producer) in producers.into_iter().enumerate() {
                let (asker, acknowledged) = (asker.clone(), &acknowledged);
                scope.spawn(move || {
                    let mut sent = 0;
                    for round in 0..1_500 {
                        // Bursts of several chunks, and single samples.
                        let size = if round % 50 == 0 { 5_000 } else { 1 + round % 3 };
                        send(&mut producer, &samples(index as u32, sent..sent + size));
                        sent += size;
                        acknowledged.fetch_add(size as u64, Ordering::SeqCst);

                        let before = acknowledged.load(Ordering::SeqCst);
                        let mine = device(index as u32);
                        let report = asker
                            .ask(|to| Question::Windows(Some(mine), Scope::Cluster, to))
                            .expect("up");
                        // Only this thread sends for its device: exactly so many, in order.
                        assert_eq!(total(&report), sent as u64);
                        let newest = *report.metrics[0].values.last().expect("not empty");
                        assert_eq!(newest, (sent - 1) as f64);
                        let fleet = asker
                            .ask(|to| Question::Windows(None, Scope::Cluster, to))
                            .expect("running");
                        assert!(total(&fleet) >= before);
                    }
                });
            }
        });
        let totals = thread.join().expect("no panic");
        assert_eq!(totals.samples, acknowledged.into_inner());
        assert_eq!(totals.devices, WORKERS);
        assert!(asker.ask(Question::Totals).is_none());
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
                        for round in 0..600 {
                            let limit = 10;
                            let query = RecentQuery { device: None, limit, since_us: i64::MIN };
                            let sort = DevicesSort::LastSeen;
                            let devices = DevicesQuery { limit, sort, search: None };
                            match round % 3 {
                                0 => _ = asker.ask(|to| Question::Latest(query, to)).expect("up"),
                                1 => {
                                    _ = asker.ask(|to| Question::Devices(devices, to)).expect("up")
                                }
                                _ => {
                                    let RecentQuery { device, limit, since_us } = query;
                                    let after_change = 0;
                                    let query =
                                        AnomaliesQuery { device, limit, since_us, after_change };
                                    _ = asker.ask(|to| Question::Anomalies(query, to)).expect("up")
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
        assert!(counters.questions_total.get() >= 1_200);
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
            parks_after(&mut || assert!(asker.ask(Question::Totals).is_some()));
            parks_after(&mut || send(&mut producers[0], &samples(1, 0..10)));
        }
        assert_eq!(counters.samples_total.get(), 30);
        parks_after(&mut || _ = producers.pop());
        // It is parked: only the end of its last worker can wake it.
        producers.pop();
        assert_eq!(thread.join().expect("no panic").samples, 30);
        assert!(asker.ask(Question::Totals).is_none());
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
        let query = RecentQuery { device: Some(device(9)), limit: 10, since_us: 0 };
        let ask = |query| asker.ask(|to| Question::Latest(query, to)).expect("running");
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
        asker.ask(Question::Totals).expect("running");
        let mut lag = sigmad_counters::Counts::default();
        counters.lag.merge_into(&mut lag);
        assert_eq!(lag.count(), 3);
        assert_eq!(counters.chunks_total.get(), 2);
        producers.clear();
        thread.join().expect("no panic");
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
        asker.ask(Question::Totals).expect("running");
        send(&mut producers[0], &alone);
        producers.clear();
        let (mut order, mut of_devices, mut fleet) = ((i64::MIN, 0), [0, 0], 0);
        let mut last = None;
        for chunk in judged_consumer.chunks.iter() {
            for (sample, readings) in chunk.iter() {
                assert!((sample.time_us, sample.sequence) > order && sample.sequence < 1_000);
                order = (sample.time_us, sample.sequence);
                last = Some(*sample);
                let Some(id) = sample.device else {
                    assert_eq!(readings[0].stream, JudgedCounts::default());
                    continue;
                };
                let count = &mut of_devices[id.index as usize];
                assert_eq!(readings.len(), 1);
                assert_eq!((readings[0].metric, readings[0].value), (MetricId::RPS, *count as f64));
                assert_eq!(sample.timestamp_us, *count as i64);
                *count += 1;
                fleet += 1;
                assert_eq!(readings[0].stream.total, *count as u64);
                assert_eq!(sample.of_device, readings[0].stream);
                assert_eq!(readings[0].fleet.total, fleet);
            }
            judged_consumer.recycle(chunk);
        }
        assert_eq!(of_devices, sent);
        let last = last.expect("not empty");
        assert_eq!((last.timestamp_us, last.device, last.of_device.total), (-7, None, 0));
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
            asker.ask(Question::Totals).expect("running");
        };
        // Each in a chunk of its own, until the store is too far behind for that.
        for chunks in 1..=64 {
            send_one();
            waits(&|| judged_consumer.chunks.len() == chunks);
        }
        send_one();
        let (parks, wakes) = (counters.parks_total.get(), counters.wakes_total.get());
        waits(&|| counters.wakes_total.get() > wakes + 10);
        assert_eq!((judged_consumer.chunks.len(), counters.parks_total.get()), (64, parks));
        let mut taken = 0;
        while taken < 65 {
            let chunk = judged_consumer.chunks.recv().expect("running");
            taken += chunk.len();
            judged_consumer.recycle(chunk);
        }
        waits(&|| counters.parks_total.get() > parks);
        producers.clear();
        assert_eq!(thread.join().expect("no panic").samples, 65);
    }

    #[test]
    fn an_answer_sees_what_the_store_told_before_its_question() {
        const DEVICES: u32 = 2_000;
        let (running, judged_consumer) = running_beside_a_store(1);
        let Running { mut producers, asker, counters, thread } = running;
        let counts = JudgedCounts { total: 50, anomalies: 2 };
        let windows = (0..DEVICES).map(|index| SharedWindows {
            device: Some(device(index)),
            others: counts,
            own_total: 0,
            last_seen_us: 9,
            last_timestamp_us: 8,
            metrics: vec![SharedMetric {
                metric: MetricId::RPS,
                others: counts,
                own_total: 0,
                own_values: 0,
                values: (0..50).map(f64::from).collect(),
            }],
        });
        let ask = |index| {
            let device = Some(device(index));
            asker.ask(|to| Question::Windows(device, Scope::Cluster, to)).expect("running")
        };
        assert_eq!(ask(0).synced_at_us, None);
        // Let it fall asleep: whoever tells it wakes it.
        while counters.parks_total.get() == 0 {
            thread::yield_now();
        }
        let clock = Clock::new(sigmad_clock::start());
        assert!(judged_consumer.send(ReplicaUpdate::Windows(windows.collect()), &clock));
        assert!(judged_consumer.send(ReplicaUpdate::SyncedAt(77), &clock));
        // Far more than one turn lets in, and the answer sees it all.
        send(&mut producers[0], &samples(DEVICES, 0..100));
        let report = ask(DEVICES - 1);
        assert_eq!((total(&report), report.last_timestamp_us), (50, Some(8)));
        assert_eq!((report.metrics[0].values.len(), report.synced_at_us), (50, Some(77)));
        assert_eq!(total(&ask(DEVICES)), 100);
        producers.clear();
        let totals = thread.join().expect("no panic");
        assert_eq!((totals.samples, totals.devices), (100, DEVICES as usize + 1));
        assert!(!judged_consumer.send(ReplicaUpdate::SyncedAt(78), &clock));
    }
}
