//! The thread that drives [`Analytics`]. It takes chunks from the workers, questions from readers and windows
//! from the store, publishes what it has judged, and sleeps when there is nothing to do.
//!
//! A question is answered once two things are done: every chunk that was in a sample queue when the question
//! was taken is judged, and every update that the store had sent by then is applied. So an answer always
//! includes what came before its question. The work of one turn is bounded, so that nothing starves the rest.
//!
//! Under load the thread dozes between turns, so that no worker pays for waking it. When chunks come further apart it
//! parks until a worker, a reader or the store wakes it (`thread/pace.rs`).

mod handing;
mod pace;
mod preemption;
mod snapshots;
mod stating;
mod store_updates;
mod updating;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use crate::analytics::latest::LatestSamples;
use crate::analytics::report::{
    PartTotals, Question, RecentQuery, SAMPLES_REPORTED_MAX, SampleReport, WindowsReport,
};
use crate::analytics::saved::link::StateLink;
use crate::analytics::{Analytics, KnownSilences};
use crate::handover::HandoverProducer;
use crate::incidents::events::EventSender;
use crate::journal::JournalProducer;
use crate::judged_queue::JudgedProducer;
use crate::sample_queue::{QueueClosed, SampleChunk, SampleConsumer, Sleeper};
use sigmad_clock::{Clock, Now};
use sigmad_counters::{Counter, Histogram};
use sigmad_sample::{Batch, Reading};

use self::pace::{ChunkPace, DOZE};
use self::preemption::{Preemption, SHORT_ROUND_SAMPLES};
use self::snapshots::{Exported, Snapshots};
use self::stating::Stating;
use self::store_updates::StoreUpdates;

/// Chunks of one sample queue judged before the next queue has its turn: half a millisecond of full ones.
const CHUNKS_PER_TURN: usize = 64;
/// Questions answered before samples have their turn again: 10 ms of the slowest, 1 ms of usual ones.
const QUESTIONS_PER_TURN: usize = 64;
/// The longest park while devices are watched for silence.
const TICK: Duration = Duration::from_secs(1);

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

/// Samples from before the start, with their arrivals in microseconds since 1970.
pub struct Past(pub Box<dyn Iterator<Item = (i64, Batch)> + Send>);

impl fmt::Debug for Past {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Past")
    }
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
    /// The way of detector states to the store, if there is one.
    pub handover: Option<HandoverProducer>,
    /// The way to the incidents, if there are any.
    pub events: Option<EventSender>,
    /// The way to and from the state directory, if there is one.
    pub state: Option<StateLink>,
    /// The way to the journal, if there is one.
    pub journal: Option<JournalProducer>,
    /// Which silences were known of before the restart.
    pub known_silences: KnownSilences,
    /// Samples from before the start, with their arrivals; without any there is nothing to learn.
    pub past: Option<Past>,
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
    /// None where no detector keeps states, and once all of them are stated.
    handover: Option<HandoverProducer>,
    stating: Option<Stating>,
    events: Option<EventSender>,
    snapshots: Option<Snapshots>,
    /// Chunks judged since the start.
    judged_chunks: u64,
    /// Samples of the last one.
    last_samples: usize,
    pace: ChunkPace,
    journal: Option<JournalProducer>,
    known_silences: KnownSilences,
    past: Option<Past>,
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
        /// False while the store or the disk lags: then the last judged samples, changed anomalies, values without
        /// their detector states, or a part of a snapshot wait here.
        all_sent: bool,
    },
    /// Every worker has gone, all samples are judged and all questions are answered.
    Ended,
}

/// One worker's samples.
#[derive(Debug)]
struct SampleSource {
    consumer: SampleConsumer,
    /// Chunks to judge before the questions taken are answered.
    pending: usize,
    /// Chunks to judge before the updates counted are applied.
    before_updates: usize,
}

impl AnalyticsThread {
    /// A thread that has judged nothing so far.
    pub fn new(parts: AnalyticsParts) -> Self {
        let sources = parts.sample_consumers.into_iter();
        let mut analytics = parts.analytics;
        let handover = parts.handover.filter(|way| analytics.hand_over(way.counters.clone()));
        Self {
            analytics,
            latest: LatestSamples::default(),
            ttl_us: parts.ttl_us,
            sources: sources
                .map(|consumer| SampleSource { consumer, pending: 0, before_updates: 0 })
                .collect(),
            questions: parts.questions,
            taken: Vec::with_capacity(QUESTIONS_PER_TURN),
            store: parts.judged_producer.map(StoreUpdates::new),
            handover,
            stating: None,
            events: parts.events,
            snapshots: parts.state.map(Snapshots::new),
            judged_chunks: 0,
            last_samples: 0,
            pace: ChunkPace::default(),
            journal: parts.journal,
            known_silences: parts.known_silences,
            past: parts.past,
            sleeper: parts.sleeper,
            clock: parts.clock,
            counters: parts.counters,
        }
    }

    /// Runs on the calling thread until every worker has gone, all samples are judged and all questions are
    /// answered. With `shares_core` no worker has another core.
    pub fn run(mut self, shares_core: bool) -> PartTotals {
        self.sleeper.register();
        let mut preemption = Preemption::new(shares_core);
        if let Some(snapshots) = &self.snapshots {
            let events = self.events.as_ref();
            // Those of the journal once more: the incidents know which of them they were told.
            let judged = |analytics: &mut Analytics| pass_events(analytics, events);
            let (clock, latest) = (&self.clock, &mut self.latest);
            // The journal has what was judged here: nobody is asked for states, or given some.
            let handover = self.analytics.pause_handover();
            let is_whole = snapshots.restore(&mut self.analytics, latest, clock, judged);
            self.analytics.go_on_with(handover);
            if self.store.is_some() {
                self.analytics.go_on_as_replica();
            }
            if is_whole {
                self.begin_again();
            }
        }
        if let Some(past) = self.past.take()
            && self.analytics.learn(past.0)
            && let Some(snapshots) = &mut self.snapshots
        {
            // No journal has the past: until there is a snapshot a crash loses it.
            let (analytics, latest) = (&mut self.analytics, &self.latest);
            snapshots.begin(analytics, latest, self.judged_chunks, &self.clock);
        }
        loop {
            match self.turn() {
                Turn::Worked => {}
                Turn::Idle { all_sent } => self.sleep(all_sent, &mut preemption),
                Turn::Ended => {
                    let Self { analytics, latest, judged_chunks, snapshots, clock, .. } = &mut self;
                    if let Some(snapshots) = snapshots {
                        snapshots.last(analytics, latest, *judged_chunks, clock);
                    }
                    return self.totals();
                }
            }
        }
    }

    /// Everything is restored: says what is wrong now.
    fn begin_again(&mut self) {
        let at_us = self.clock.now().wall_us;
        let standing = self.analytics.begin_again(at_us, &self.known_silences);
        pass_events(&mut self.analytics, self.events.as_ref());
        if let Some(events) = &self.events {
            events.send_restored(standing, at_us);
        }
    }

    /// Does a bounded part of the work that waits.
    pub fn turn(&mut self) -> Turn {
        let asked = self.take_questions();
        self.count_updates();
        let judged = self.judge();
        let applied = self.apply_updates();
        let handed_over = self.hand_over();
        self.answer();
        if let Some(store) = &self.store {
            store.list_anomalies(&mut self.analytics);
        }
        let scanned = self.analytics.advance();
        let exported = match &mut self.snapshots {
            Some(snapshots) => snapshots.export(&mut self.analytics, &self.clock),
            None => Exported::Idle,
        };
        if asked || judged || applied || handed_over || scanned || exported == Exported::Worked {
            return Turn::Worked;
        }
        if self.sources.is_empty() && !self.is_drain_waiting() {
            // The store sees that no more samples come. They are written first, then the states.
            if let Some(mut store) = self.store.take() {
                store.list_last_anomalies(&mut self.analytics);
                store.judged_producer.send(&self.analytics);
            }
            return self.state_all();
        }
        let Self { store, analytics, pace, .. } = self;
        let all_sent = store
            .as_mut()
            .is_none_or(|store| store.judged_producer.try_send(analytics, pace.is_fast()));
        let all_listed = self.store.is_none() || !self.analytics.has_unlisted_anomalies();
        let all_sent =
            all_sent && all_listed && exported == Exported::Idle && !self.is_handing_over();
        Turn::Idle { all_sent }
    }

    /// What was counted so far.
    pub fn totals(&self) -> PartTotals {
        self.analytics.part_totals()
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
            // First: the updates that it promises are among those counted.
            store.synced_at_us = store.judged_producer.synced_at_us();
            store.pending =
                store.judged_producer.updates.len() + usize::from(store.windows.len() > 0);
        }
        true
    }

    /// Judges a bounded number of chunks from each sample queue.
    fn judge(&mut self) -> bool {
        let Self { analytics, latest, sources, store, events, journal, .. } = self;
        let Self { judged_chunks, last_samples, clock, counters, .. } = self;
        let mut any = false;
        sources.retain_mut(|source| {
            for _ in 0..CHUNKS_PER_TURN {
                match source.consumer.receive() {
                    Ok(Some(mut chunk)) => {
                        judge_chunk(analytics, latest, store.as_mut(), &chunk, clock, counters);
                        pass_events(analytics, events.as_ref());
                        // Without a journal it is lost.
                        let right = chunk.right.take();
                        if let Some(journal) = journal {
                            let arrived_us = chunk.sent.wall_us;
                            journal.push(*judged_chunks, arrived_us, &chunk.batch, right);
                        }
                        *judged_chunks += 1;
                        *last_samples = chunk.batch.len();
                        source.consumer.recycle(chunk);
                        source.pending = source.pending.saturating_sub(1);
                        source.before_updates = source.before_updates.saturating_sub(1);
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

    /// Answers the questions taken, once nothing before them is pending.
    fn answer(&mut self) {
        let is_applied = self.store.as_ref().is_none_or(|store| store.pending == 0);
        let is_judged = self.sources.iter().all(|source| source.pending == 0);
        if self.taken.is_empty() || !is_applied || !is_judged {
            return;
        }
        let now = self.clock.now();
        self.counters.questions_total.add(self.taken.len() as u64);
        let Self { analytics, latest, store, ttl_us, taken, snapshots, clock, .. } = self;
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
                Question::Totals(to) => reply(&to, analytics.part_totals()),
                Question::Snapshot => {
                    if let Some(snapshots) = snapshots {
                        snapshots.begin(analytics, latest, self.judged_chunks, clock);
                    }
                }
            }
        }
    }

    fn sleep(&mut self, all_sent: bool, preemption: &mut Preemption) {
        let now = self.clock.now();
        self.analytics.tick(now.wall_us);
        pass_events(&mut self.analytics, self.events.as_ref());
        let has_work = || {
            self.sources.iter().any(|source| source.consumer.is_ready())
                || !self.questions.is_empty()
                || self
                    .store
                    .as_ref()
                    .is_some_and(|store| !store.judged_producer.updates.is_empty())
        };
        // A chunk that the store has not taken waits here, and nothing would end a park for it.
        let dozes = self.pace.dozes(now.monotonic_ns, self.judged_chunks) || !all_sent;
        preemption.set_batch(!dozes && self.last_samples <= SHORT_ROUND_SAMPLES);
        if dozes {
            self.sleeper.doze(DOZE, has_work);
        } else {
            self.counters.parks_total.add(1);
            if self.analytics.needs_ticks() {
                self.sleeper.park_for(TICK, has_work);
            } else {
                self.sleeper.park(has_work);
            }
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
    analytics.tick(arrived_us);
    match store {
        None => analytics.judge(&chunk.batch, arrived_us),
        Some(StoreUpdates { judged_producer, time_us, .. }) => {
            let sent_us = (chunk.sent.monotonic_ns / 1_000) as i64;
            *time_us = sent_us.max(*time_us + 1);
            analytics.judge_and_publish(&chunk.batch, arrived_us, *time_us, judged_producer);
        }
    }
    latest.keep_of(analytics.part(), &chunk.batch, arrived_us);
    let samples = chunk.batch.len() as u64;
    counters.samples_total.add(analytics.samples_counted(&chunk.batch) as u64);
    counters.chunks_total.add(1);
    if let Some(sent_ns) = chunk.sent_ns {
        let judged_ns = clock.monotonic_ns();
        counters.lag.record(judged_ns.saturating_sub(sent_ns), samples);
        counters.judge.record((judged_ns - begun_ns) / samples, samples);
    }
}

/// Sends what began and ended to be wrong to the incidents.
#[inline]
fn pass_events(analytics: &mut Analytics, events: Option<&EventSender>) {
    if let Some(events) = events {
        analytics.pass_events(|event| events.send(event));
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
    let listed = query.listed_samples.map(|samples| samples.max(analytics.samples_listed_before()));
    let samples = listed.map_or(u64::MAX, |listed| analytics.samples().saturating_sub(listed));
    latest
        .newest_first(query.device, since_us, samples)
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
mod tests;
