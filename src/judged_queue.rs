//! The judged-sample queue, between the analytics thread and the store: judged samples one way, updates
//! from other replicas the other way.
//!
//! Holds the data and the queue, but no logic of either thread. Exists only with Redis.
//!
//! Judged samples travel in chunks that are filled, sent, emptied and used again. The queue holds as many
//! bytes as the store has left of its budget ([`ByteBudget`]). Past that it drops and counts the oldest
//! chunk, so that a store that hangs never delays a verdict.

mod chunk;

use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::handover::FoundStates;
use crate::sample_queue::Sleeper;
use sigmad_clock::Clock;
use sigmad_counters::{Counter, Families, MetricSource, SampleOutcomes};
use sigmad_sample::{DeviceId, MetricId, Reading, Sample};

pub use self::chunk::{
    CHUNK_BYTES, CHUNK_READINGS_MAX, CHUNK_SAMPLES_MAX, ChunkHints, CurrentCounts, FleetCounts,
    JudgedBatch, JudgedChunk, JudgedRow, JudgedSample, MetricCounts, WholeSample,
};

/// Emptied chunks that are kept for use again: what comes while the store thread waits for a core for a tenth of a second
/// at half a million samples a second. To take new memory for a chunk costs more than to judge its samples.
const SPARE_CHUNKS_MAX: usize = 128;
/// While fewer chunks wait, one is sent before it is full.
const SENT_EARLY_MAX: usize = 64;
const _: () = assert!(SENT_EARLY_MAX < SPARE_CHUNKS_MAX);
/// One part in 16 of the budget is reserved for chunks in flight, so that a full store still takes newer
/// samples while it drops its oldest.
const IN_FLIGHT_PART: usize = 16;
/// Updates that wait for analytics at most; past it the store waits.
const UPDATES_WAITING_MAX: usize = 64;
/// Messages of changed anomalies that wait for the store: one, and the last one of all.
const ANOMALIES_WAITING_MAX: usize = 2;
/// Between two attempts to send an update past that: analytics applies one in some milliseconds.
const UPDATES_FULL_PAUSE: Duration = Duration::from_millis(1);

/// Values of a stream, or samples of a device, and the anomalies among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JudgedCounts {
    /// Values, or samples.
    pub total: u64,
    /// Anomalies among them.
    pub anomalies: u64,
}

impl Add for JudgedCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        // Saturating: counts of other replicas come from Redis and may be any number.
        Self {
            total: self.total.saturating_add(other.total),
            anomalies: self.anomalies.saturating_add(other.anomalies),
        }
    }
}

/// The windows of all replicas for one device, or for the fleet, as the store read them.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedWindows {
    /// None for the fleet.
    pub device: Option<DeviceId>,
    /// Samples and anomalies that the other replicas counted.
    pub others: JudgedCounts,
    /// Samples that this replica had counted when it last wrote. The last sample of all is among them, or is of
    /// another replica: Redis has their order.
    pub own_total: u64,
    /// When any replica last received a sample, microseconds since 1970, by the clock of this replica; 0 when
    /// that is not known.
    pub last_seen_us: i64,
    /// The timestamp of that sample.
    pub last_timestamp_us: i64,
    /// That by another replica which has the detector states of the device. None if this one has them, or nobody.
    pub other_takeover: Option<OtherTakeover>,
    /// Its metrics.
    pub metrics: Vec<SharedMetric>,
}

/// A takeover of a device by another replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherTakeover {
    /// Its number.
    pub number: u32,
    /// The other replica waits for the states that this one had.
    pub is_from_here: bool,
}

/// One stream as all replicas see it.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedMetric {
    /// Which metric.
    pub metric: MetricId,
    /// What the other replicas counted.
    pub others: JudgedCounts,
    /// Values that this replica had counted when it last wrote; later ones are not in `values`.
    pub own_total: u64,
    /// Number of `values` that this replica wrote.
    pub own_values: usize,
    /// The newest values, oldest first: one more than a window, so that the last one can be judged.
    pub values: Vec<f64>,
}

/// A change of an anomaly of this replica, for the list of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedAnomaly {
    /// Its number at this replica.
    pub serial: u64,
    /// The number of the change.
    pub change: u64,
    /// When its first value arrived, microseconds since 1970, by the clock of this replica.
    pub began_us: i64,
    /// The rest, in the form of analytics.
    pub body: Vec<u8>,
}

/// What the store sends to analytics.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplicaUpdate {
    /// Windows that other replicas have changed. If samples of ours were in flight when they were read, they
    /// are sent again once those are written: only then is the order of all samples known.
    Windows(Vec<SharedWindows>),
    /// All that any replica had written by that time has been sent; microseconds since 1970.
    SyncedAt(i64),
    /// Redis has this replica's takeover of that number of a device.
    TakenOver(DeviceId, u32),
    /// The detector states of a device that was wanted.
    States(FoundStates),
}

/// The bytes that the store and the queue may hold together, and how many the store holds now.
#[derive(Debug)]
pub struct ByteBudget {
    bytes_max: usize,
    /// Written by the store, read by the queue. Relaxed: it orders nothing else.
    store_bytes: AtomicUsize,
}

impl ByteBudget {
    /// A budget of `bytes_max`, of which nothing is used.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, store_bytes: AtomicUsize::new(0) }
    }

    /// Sets the bytes that the store holds now.
    pub fn set_store_bytes(&self, bytes: usize) {
        self.store_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The budget.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// The part of the budget that the store may use.
    pub fn store_bytes_max(&self) -> usize {
        self.bytes_max - self.bytes_max / IN_FLIGHT_PART
    }

    /// Chunks that may wait in the queue: at least two, one that arrives and one that leaves.
    fn chunks_max(&self) -> usize {
        let store_bytes = self.store_bytes.load(Ordering::Relaxed);
        (self.bytes_max.saturating_sub(store_bytes) / CHUNK_BYTES).max(2)
    }
}

/// Counters of the queue, written by the analytics thread.
#[derive(Debug, Default)]
pub struct JudgedQueueCounters {
    /// Samples sent to the store.
    pub samples_total: Counter,
    /// Samples dropped because the queue was full.
    pub dropped_total: Counter,
    /// Anomalies that made room here before the store took their last change.
    pub anomalies_left_out_total: Counter,
}

impl MetricSource for JudgedQueueCounters {
    fn collect(&self, families: &mut Families) {
        // The store exports the other reasons of this family.
        families
            .counter(STORE_DROPPED, STORE_DROPPED_HELP)
            .add_counter(&[("reason", "queue_full")], &self.dropped_total);
        families.counter(LIST_ENTRIES, LIST_ENTRIES_HELP).add_counter(
            &[("list", "anomalies"), ("result", "left_out")],
            &self.anomalies_left_out_total,
        );
        let dropped = self.dropped_total.get();
        SampleOutcomes { dropped, finished: dropped, ..SampleOutcomes::default() }
            .collect(families);
    }
}

/// The family of entries of the cluster's lists.
pub const LIST_ENTRIES: &str = "sigmad_store_list_entries_total";
/// Its help.
pub const LIST_ENTRIES_HELP: &str = "Entries of the cluster's lists of anomalies and samples, by result: written, left_out for want of room or refused by Redis, read, unreadable because they are damaged or of another version.";

/// The family of samples dropped on the way to Redis.
pub const STORE_DROPPED: &str = "sigmad_store_dropped_total";
/// Its help.
pub const STORE_DROPPED_HELP: &str = "Samples dropped, by reason: queue_full during an outage of Redis, refused by Redis for good, shutdown before Redis had them.";

/// The analytics thread's end.
#[derive(Debug)]
pub struct JudgedProducer {
    full: Sender<Box<JudgedChunk>>,
    /// A second receiver of the same channel: takes back the oldest chunk to make room.
    oldest: Receiver<Box<JudgedChunk>>,
    emptied: Receiver<Box<JudgedChunk>>,
    budget: Arc<ByteBudget>,
    filling: Box<JudgedChunk>,
    /// Four bytes for each device and each metric.
    hints: ChunkHints,
    anomalies: Sender<Vec<ChangedAnomaly>>,
    /// What the store sends.
    pub updates: Receiver<ReplicaUpdate>,
    counters: Arc<JudgedQueueCounters>,
}

/// The store's end.
#[derive(Debug)]
pub struct JudgedConsumer {
    /// Chunks to take; disconnected once the producer is dropped and all were taken.
    pub chunks: Receiver<Box<JudgedChunk>>,
    emptied: Sender<Box<JudgedChunk>>,
    /// Shared with the queue of the store.
    pub budget: Arc<ByteBudget>,
    /// Anomalies that changed.
    pub anomalies: Receiver<Vec<ChangedAnomaly>>,
    updates: Sender<ReplicaUpdate>,
    sleeper: Arc<Sleeper>,
}

/// Makes the queue. The analytics thread sleeps in `sleeper`.
pub fn channel(
    bytes_max: usize,
    sleeper: Arc<Sleeper>,
    counters: Arc<JudgedQueueCounters>,
) -> (JudgedProducer, JudgedConsumer) {
    let budget = Arc::new(ByteBudget::new(bytes_max));
    // Bounded to the most that it can ever hold: an unbounded channel would allocate as it goes.
    let (full, chunks) = bounded(budget.chunks_max());
    let (emptied_sender, emptied_receiver) = bounded(SPARE_CHUNKS_MAX.min(budget.chunks_max()));
    let (updates_sender, updates_receiver) = bounded(UPDATES_WAITING_MAX);
    let (anomalies_sender, anomalies) = bounded(ANOMALIES_WAITING_MAX);
    let producer = JudgedProducer {
        full,
        oldest: chunks.clone(),
        emptied: emptied_receiver,
        budget: budget.clone(),
        filling: Box::default(),
        hints: ChunkHints::default(),
        anomalies: anomalies_sender,
        updates: updates_receiver,
        counters,
    };
    let consumer = JudgedConsumer {
        chunks,
        emptied: emptied_sender,
        budget,
        anomalies,
        updates: updates_sender,
        sleeper,
    };
    (producer, consumer)
}

impl JudgedProducer {
    /// True when the chunk that is filled takes a batch of so many samples and readings, undivided: what it says of
    /// counts is what they are after its last sample.
    #[inline]
    pub fn has_room(&self, samples: usize, readings: usize) -> bool {
        self.filling.is_empty() || self.filling.has_room(samples, readings)
    }

    /// Begins a batch, as [`JudgedChunk::begin_batch`].
    #[inline]
    pub fn begin_batch(&mut self, time_us: i64, of_replica: u64) {
        self.filling.begin_batch(time_us, of_replica);
    }

    /// Adds samples to the batch, as [`JudgedChunk::add`].
    #[inline]
    pub fn add(&mut self, samples: &[Sample], readings: &[Reading]) {
        self.filling.add(samples, readings, &mut self.hints);
    }

    /// True when samples wait to be sent.
    pub fn has_unsent(&self) -> bool {
        !self.filling.is_empty()
    }

    /// Sends the samples that wait, unless chunks wait for the store: more than a few, or any where more samples come
    /// soon (`is_fast`). Then the chunk may be filled further, and no other chunk is dropped for one that still has room.
    /// True when nothing is left to send.
    pub fn try_send(&mut self, counts: &impl CurrentCounts, is_fast: bool) -> bool {
        let waiting_max = if is_fast { 1 } else { SENT_EARLY_MAX };
        if self.has_unsent() && self.full.len() < self.budget.chunks_max().min(waiting_max) {
            self.send(counts);
        }
        !self.has_unsent()
    }

    /// True when the store has taken the last changes of anomalies.
    pub fn takes_anomalies(&self) -> bool {
        self.anomalies.is_empty()
    }

    /// Sends changes of anomalies, once it takes them, or as the last thing of all.
    pub fn send_anomalies(&self, changed: Vec<ChangedAnomaly>) {
        // Err: the store has ended.
        let _ = self.anomalies.try_send(changed);
    }

    /// Notes anomalies that made room in the ring before their last change was sent.
    pub fn set_unlisted(&self, anomalies: u64) {
        self.counters.anomalies_left_out_total.set(anomalies);
    }

    /// Sends the samples that wait, with the present counts; drops the oldest chunks if the queue is full.
    pub fn send(&mut self, counts: &impl CurrentCounts) {
        if self.filling.is_empty() {
            return;
        }
        self.filling.set_counts(counts, &mut self.hints);
        let mut dropped = None;
        while self.full.len() >= self.budget.chunks_max() {
            // Err: the store has just made room.
            let Ok(mut oldest) = self.oldest.try_recv() else { break };
            self.counters.dropped_total.add(oldest.len() as u64);
            oldest.clear();
            dropped = Some(oldest);
        }
        let empty = dropped.or_else(|| self.emptied.try_recv().ok());
        let chunk = std::mem::replace(&mut self.filling, empty.unwrap_or_default());
        self.counters.samples_total.add(chunk.len() as u64);
        self.full.try_send(chunk).expect("there is room, and this end holds a receiver too");
    }
}

impl JudgedConsumer {
    /// Returns a chunk to the producer once its samples were taken.
    pub fn recycle(&self, mut chunk: Box<JudgedChunk>) {
        chunk.clear();
        match self.emptied.try_send(chunk) {
            // Enough of them are kept, or analytics has ended.
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    /// Sends an update to analytics, and waits while too many wait there. False once analytics has ended.
    pub fn send(&self, mut update: ReplicaUpdate, clock: &Clock) -> bool {
        loop {
            let result = self.updates.try_send(update);
            self.sleeper.wake();
            match result {
                Ok(()) => return true,
                Err(TrySendError::Full(unsent)) => update = unsent,
                Err(TrySendError::Disconnected(_)) => return false,
            }
            clock.sleep(UPDATES_FULL_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use sigmad_sample::MetricId;

    use super::*;

    /// Nobody looks at them.
    const COUNTS: JudgedCounts = JudgedCounts { total: 0, anomalies: 0 };

    fn queue(bytes_max: usize) -> (JudgedProducer, JudgedConsumer, Arc<JudgedQueueCounters>) {
        let counters = Arc::<JudgedQueueCounters>::default();
        let (producer, consumer) = channel(bytes_max, Arc::default(), counters.clone());
        (producer, consumer, counters)
    }

    fn fill(producer: &mut JudgedProducer, time_us: i64, readings: u16) {
        if !producer.has_room(1, usize::from(readings)) {
            producer.send(&COUNTS);
        }
        producer.begin_batch(time_us, 0);
        let sample = Sample { timestamp_us: 0, device: None, readings: u32::from(readings) };
        let reading = |at| Reading { metric: MetricId::new(at, 0), value: time_us as f64 };
        producer.add(&[sample], &(0..readings).map(reading).collect::<Vec<_>>());
    }

    fn send(producer: &mut JudgedProducer, time_us: i64) {
        fill(producer, time_us, 1);
        producer.send(&COUNTS);
    }

    fn times(consumer: &JudgedConsumer) -> Vec<i64> {
        let mut times = Vec::new();
        for chunk in consumer.chunks.try_iter() {
            times.extend(chunk.iter().map(|sample| sample.time_us));
            consumer.recycle(chunk);
        }
        times
    }

    #[test]
    fn samples_keep_their_readings_and_full_chunks_are_sent_at_once() {
        let (mut producer, consumer, counters) = queue(1 << 20);
        for sample in 0..CHUNK_SAMPLES_MAX as i64 + 1 {
            fill(&mut producer, sample, 1);
        }
        assert_eq!((consumer.chunks.len(), producer.has_unsent()), (1, true));
        let wide = CHUNK_READINGS_MAX / 16 + 1;
        for sample in 0..wide as i64 {
            fill(&mut producer, sample, (sample % 2) as u16 * 15 + 16);
        }
        producer.send(&COUNTS);
        assert!(!producer.has_unsent());
        let mut samples = 0;
        for chunk in consumer.chunks.try_iter() {
            for sample in chunk.iter() {
                for (at, reading) in sample.readings().enumerate() {
                    assert_eq!(reading.metric, MetricId::new(at as u16, 0));
                    assert_eq!(reading.value, sample.time_us as f64);
                }
                samples += 1;
            }
        }
        assert_eq!(samples, CHUNK_SAMPLES_MAX + 1 + wide);
        assert_eq!(counters.samples_total.get(), samples as u64);
        assert_eq!(counters.dropped_total.get(), 0);
    }

    #[test]
    fn chunks_are_used_again() {
        let (mut producer, consumer, _) = queue(1 << 20);
        let mut seen = std::collections::HashSet::new();
        for time_us in 0..100 {
            send(&mut producer, time_us);
            let chunk = consumer.chunks.try_recv().expect("sent");
            seen.insert(&raw const *chunk);
            consumer.recycle(chunk);
        }
        assert_eq!(seen.len(), 2, "one that is filled, one in flight");
    }

    #[test]
    fn past_the_budget_the_oldest_are_dropped_and_counted() {
        let (mut producer, consumer, counters) = queue(4 * CHUNK_BYTES);
        // A send that blocked would block for ever: the consumer takes nothing.
        (0..10_000).for_each(|time_us| send(&mut producer, time_us));
        assert_eq!(counters.dropped_total.get(), 9_996);
        assert_eq!(times(&consumer), [9_996, 9_997, 9_998, 9_999]);
        consumer.budget.set_store_bytes(CHUNK_BYTES);
        (0..4).for_each(|time_us| send(&mut producer, time_us));
        assert_eq!(times(&consumer), [1, 2, 3]);
        // However much the store holds, two may be in flight.
        consumer.budget.set_store_bytes(usize::MAX);
        (0..4).for_each(|time_us| send(&mut producer, time_us));
        assert_eq!(times(&consumer), [2, 3]);
        assert_eq!(counters.samples_total.get(), 10_008);
        assert_eq!(counters.dropped_total.get(), 9_999);
    }

    #[test]
    fn a_full_store_leaves_room_for_chunks_in_flight() {
        let (mut producer, consumer, counters) = queue(64 * CHUNK_BYTES);
        consumer.budget.set_store_bytes(consumer.budget.store_bytes_max());
        (0..4).for_each(|time_us| send(&mut producer, time_us));
        assert_eq!((times(&consumer), counters.dropped_total.get()), (vec![0, 1, 2, 3], 0));
    }

    #[test]
    fn a_store_that_lags_gets_fuller_chunks() {
        let (mut producer, consumer, _) = queue(1 << 30);
        assert!(producer.try_send(&COUNTS, false), "nothing to send");
        for time_us in 0..SENT_EARLY_MAX as i64 {
            fill(&mut producer, time_us, 1);
            assert!(producer.try_send(&COUNTS, false));
        }
        fill(&mut producer, -1, 1);
        assert!(!producer.try_send(&COUNTS, false));
        fill(&mut producer, -2, 1);
        drop(consumer.chunks.try_recv());
        assert!(producer.try_send(&COUNTS, false));
        assert_eq!(consumer.chunks.try_iter().last().map_or(0, |chunk| chunk.len()), 2);
        // Where more comes soon, it need not lag for that.
        fill(&mut producer, -3, 1);
        assert!(producer.try_send(&COUNTS, true));
        fill(&mut producer, -4, 1);
        assert!(!producer.try_send(&COUNTS, true));
    }

    #[test]
    fn no_chunk_is_dropped_for_one_that_has_room() {
        let (mut producer, consumer, counters) = queue(1);
        for time_us in 0..2 {
            fill(&mut producer, time_us, 1);
            assert!(producer.try_send(&COUNTS, false));
        }
        fill(&mut producer, 2, 1);
        assert!(!producer.try_send(&COUNTS, false), "two chunks wait");
        assert_eq!((consumer.chunks.len(), counters.dropped_total.get()), (2, 0));
    }

    #[test]
    fn each_end_sees_that_the_other_was_dropped() {
        let (mut producer, consumer, _) = queue(1 << 20);
        let clock = Clock::new(sigmad_clock::start());
        assert!(consumer.send(ReplicaUpdate::SyncedAt(5), &clock));
        assert_eq!(producer.updates.try_recv(), Ok(ReplicaUpdate::SyncedAt(5)));
        send(&mut producer, 1);
        drop(producer);
        assert!(!consumer.send(ReplicaUpdate::SyncedAt(6), &clock));
        assert_eq!(consumer.chunks.iter().count(), 1, "what was sent is received before the end");

        let (mut producer, consumer, _) = queue(1 << 20);
        drop(consumer);
        (0..1_000).for_each(|time_us| send(&mut producer, time_us));
    }
}
