//! The judged-sample queue, between the analytics threads and the store: judged samples one way, updates
//! from other replicas the other way.
//!
//! Holds the data and the queue, but no logic of either side. Exists only with Redis.
//!
//! Judged samples travel in chunks that are filled, sent, emptied and used again. The chunks of all shards are in one queue,
//! in the order in which they were sent. It holds as many bytes as the store has left of its budget ([`ByteBudget`]).
//! Past that the shard that sends drops the oldest chunk, whosever it is, and counts it, so that a store that hangs
//! never delays a verdict.

mod budget;
mod chunk;
mod update;

use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};

use crate::sample_queue::Sleeper;
use crate::shards::{ShardLayout, ShardPart};
use sigmad_clock::Clock;
use sigmad_counters::{Counter, Families, MetricSource, SampleOutcomes};
use sigmad_sample::{Reading, Sample};

pub use self::budget::ByteBudget;
pub use self::chunk::{
    CHUNK_BYTES, CHUNK_READINGS_MAX, CHUNK_SAMPLES_MAX, ChunkHints, CurrentCounts, FleetCounts,
    JudgedBatch, JudgedChunk, JudgedRow, JudgedSample, MetricCounts, WholeSample,
};
pub use self::update::{OtherTakeover, ReplicaUpdate, SharedMetric, SharedWindows};

/// Emptied chunks that are kept for use again: what comes while the store thread waits for a core for a tenth of a second
/// at half a million samples a second. To take new memory for a chunk costs more than to judge its samples.
const SPARE_CHUNKS_MAX: usize = 128;
/// While fewer chunks of all shards wait, one is sent before it is full.
const SENT_EARLY_MAX: usize = 64;
const _: () = assert!(SENT_EARLY_MAX < SPARE_CHUNKS_MAX);
/// Updates that wait for a shard at most; past it the store waits.
const UPDATES_WAITING_MAX: usize = 64;
/// Messages of a shard's changed anomalies that wait for the store: one, and the last one of all.
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

/// Changes of anomalies of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedChanges {
    /// The anomalies, each as it is now.
    pub changed: Vec<ChangedAnomaly>,
    /// All changes of the shard up to this one have been sent.
    pub until_change: u64,
}

/// Counters of the queue, written by the thread of one shard.
#[derive(Debug, Default)]
pub struct JudgedQueueCounters {
    /// Samples sent to the store.
    pub samples_total: Counter,
    /// Samples that it dropped because the queue was full, of whatever shard.
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
        SampleOutcomes { dropped, ..SampleOutcomes::default() }.collect(families);
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

/// The end of one shard.
#[derive(Debug)]
pub struct JudgedProducer {
    shard: usize,
    full: Sender<Box<JudgedChunk>>,
    /// A second receiver of the same channel: takes back the oldest chunk to make room.
    oldest: Receiver<Box<JudgedChunk>>,
    emptied: Receiver<Box<JudgedChunk>>,
    budget: Arc<ByteBudget>,
    waiting: ChunksWaiting,
    filling: Box<JudgedChunk>,
    /// Four bytes for each device and each metric.
    hints: ChunkHints,
    /// Of the fleet's shard, which is not the only one.
    apart: Option<Box<SamplesApart>>,
    anomalies: Sender<ListedChanges>,
    /// What the store sends.
    pub updates: Receiver<ReplicaUpdate>,
    synced_at_us: Arc<AtomicI64>,
    counters: Arc<JudgedQueueCounters>,
}

/// Samples without a device, which the fleet's shard sends beside the values of all.
#[derive(Debug, Default)]
struct SamplesApart {
    chunk: Box<JudgedChunk>,
    hints: ChunkHints,
    /// The batch that the next sample begins.
    batch: Option<(i64, u64)>,
}

/// How many chunks of each shard wait for the store. Relaxed: they order nothing else.
type ChunksWaiting = Arc<[AtomicUsize]>;

/// The store's end.
#[derive(Debug)]
pub struct JudgedConsumer {
    layout: ShardLayout,
    chunks: Receiver<Box<JudgedChunk>>,
    emptied: Sender<Box<JudgedChunk>>,
    waiting: ChunksWaiting,
    /// Shared with the queue of the store.
    pub budget: Arc<ByteBudget>,
    shards: Vec<ToShard>,
    synced_at_us: Arc<AtomicI64>,
}

/// What the store has of one shard beside its chunks.
#[derive(Debug)]
struct ToShard {
    /// Anomalies that changed.
    anomalies: Receiver<ListedChanges>,
    updates: Sender<ReplicaUpdate>,
    sleeper: Arc<Sleeper>,
}

/// The queue from the only shard, whose thread sleeps in `sleeper`.
pub fn channel(
    bytes_max: usize,
    sleeper: Arc<Sleeper>,
    counters: Arc<JudgedQueueCounters>,
) -> (JudgedProducer, JudgedConsumer) {
    let (mut producers, consumer) = sharded(bytes_max, ShardLayout::ONE, &[sleeper], &[counters]);
    (producers.pop().expect("one shard"), consumer)
}

/// Makes the queue, with a producer for each shard. Its thread sleeps in the sleeper at its place, and writes the counters
/// there.
pub fn sharded(
    bytes_max: usize,
    layout: ShardLayout,
    sleepers: &[Arc<Sleeper>],
    counters: &[Arc<JudgedQueueCounters>],
) -> (Vec<JudgedProducer>, JudgedConsumer) {
    assert_eq!((sleepers.len(), counters.len()), (layout.threads(), layout.threads()));
    let budget = Arc::new(ByteBudget::of_shards(bytes_max, layout));
    // Bounded to the most that it can ever hold: an unbounded channel would allocate as it goes.
    let (full, chunks) = bounded(budget.chunks_max());
    let (emptied_sender, emptied) = bounded(SPARE_CHUNKS_MAX.min(budget.chunks_max()));
    let waiting: ChunksWaiting = sleepers.iter().map(|_| AtomicUsize::new(0)).collect();
    let synced_at_us = Arc::<AtomicI64>::default();
    let ends = sleepers.iter().zip(counters).enumerate().map(|(shard, (sleeper, counters))| {
        let (updates_sender, updates) = bounded(UPDATES_WAITING_MAX);
        let (anomalies_sender, anomalies) = bounded(ANOMALIES_WAITING_MAX);
        let part = layout.part(shard);
        let producer = JudgedProducer {
            shard,
            full: full.clone(),
            oldest: chunks.clone(),
            emptied: emptied.clone(),
            budget: budget.clone(),
            waiting: waiting.clone(),
            filling: Box::new(JudgedChunk::of(shard, part)),
            hints: ChunkHints::default(),
            apart: (part == ShardPart::Fleet).then(|| Box::new(SamplesApart::new(shard))),
            anomalies: anomalies_sender,
            updates,
            synced_at_us: synced_at_us.clone(),
            counters: counters.clone(),
        };
        let sleeper = sleeper.clone();
        (producer, ToShard { anomalies, updates: updates_sender, sleeper })
    });
    let (producers, shards) = ends.unzip();
    let emptied = emptied_sender;
    let consumer =
        JudgedConsumer { layout, chunks, emptied, waiting, budget, shards, synced_at_us };
    (producers, consumer)
}

impl SamplesApart {
    fn new(shard: usize) -> Self {
        let chunk = Box::new(JudgedChunk::of(shard, ShardPart::Devices));
        Self { chunk, ..Self::default() }
    }

    /// Adds those of the samples that have no device. The first readings are theirs, one after another.
    fn add(&mut self, samples: &[Sample], readings: &[Reading]) {
        let mut rest = readings;
        for sample in samples {
            let (of_sample, after) = rest.split_at(sample.readings as usize);
            rest = after;
            if sample.device.is_some() {
                continue;
            }
            if let Some((time_us, before)) = self.batch.take() {
                self.chunk.begin_batch(time_us, before);
            }
            self.chunk.add(std::slice::from_ref(sample), of_sample, &mut self.hints);
        }
    }
}

impl JudgedProducer {
    /// True when the chunk that is filled takes a batch of so many samples and readings, undivided: what it says of
    /// counts is what they are after its last sample.
    #[inline]
    pub fn has_room(&self, samples: usize, readings: usize) -> bool {
        self.filling.is_empty() || self.filling.has_room(samples, readings)
    }

    /// Begins a batch, as [`JudgedChunk::begin_batch`]. `of_shard` and `of_fleet`: the samples before it that this shard
    /// has counted, and those that have entered the fleet's windows.
    #[inline]
    pub fn begin_batch(&mut self, time_us: i64, of_shard: u64, of_fleet: u64) {
        match &mut self.apart {
            None => self.filling.begin_batch(time_us, of_shard),
            Some(apart) => {
                self.filling.begin_batch(time_us, of_fleet);
                apart.batch = Some((time_us, of_shard));
            }
        }
    }

    /// Adds samples to the batch, as [`JudgedChunk::add`].
    #[inline]
    pub fn add(&mut self, samples: &[Sample], readings: &[Reading]) {
        match &mut self.apart {
            None => self.filling.add(samples, readings, &mut self.hints),
            Some(apart) => {
                self.filling.add_to_fleet(samples, readings, &mut self.hints);
                apart.add(samples, readings);
            }
        }
    }

    /// True when samples wait to be sent.
    pub fn has_unsent(&self) -> bool {
        !self.filling.is_empty()
    }

    /// Sends the samples that wait, unless chunks wait for the store: more than a few of this shard, or any where more
    /// samples come soon (`is_fast`). Then the chunk may be filled further, and no other chunk is dropped for one that
    /// still has room. True when nothing is left to send.
    pub fn try_send(&mut self, counts: &impl CurrentCounts, is_fast: bool) -> bool {
        let early_max = (SENT_EARLY_MAX / self.waiting.len()).max(1);
        let waiting_max = if is_fast { 1 } else { early_max };
        if self.has_unsent()
            && self.waiting[self.shard].load(Ordering::Relaxed) < waiting_max
            && self.full.len() < self.budget.chunks_max()
        {
            self.send(counts);
        }
        !self.has_unsent()
    }

    /// True when the store has taken the last changes of anomalies.
    pub fn takes_anomalies(&self) -> bool {
        self.anomalies.is_empty()
    }

    /// Sends changes of anomalies, once it takes them, or as the last thing of all.
    pub fn send_anomalies(&self, changes: ListedChanges) {
        // Err: the store has ended.
        let _ = self.anomalies.try_send(changes);
    }

    /// Notes anomalies that made room in the ring before their last change was sent.
    pub fn set_unlisted(&self, anomalies: u64) {
        self.counters.anomalies_left_out_total.set(anomalies);
    }

    /// All that any replica had written by that time is among the updates; microseconds since 1970. None if there is no
    /// such time so far.
    pub fn synced_at_us(&self) -> Option<i64> {
        // Acquire: with the Release of the store, whoever sees the time sees the updates that were sent before.
        Some(self.synced_at_us.load(Ordering::Acquire)).filter(|&at_us| at_us != 0)
    }

    /// Sends the samples that wait, with the present counts; drops the oldest chunks if the queue is full.
    pub fn send(&mut self, counts: &impl CurrentCounts) {
        if self.filling.is_empty() {
            return;
        }
        self.filling.set_counts(counts, &mut self.hints);
        let empty = self.empty_chunk(self.filling.part);
        let filled = std::mem::replace(&mut self.filling, empty);
        self.push(filled);
        if self.apart.as_ref().is_some_and(|apart| !apart.chunk.is_empty()) {
            let empty = self.empty_chunk(ShardPart::Devices);
            let filled =
                self.apart.as_mut().map(|apart| std::mem::replace(&mut apart.chunk, empty));
            filled.into_iter().for_each(|filled| self.push(filled));
        }
    }

    /// A chunk to fill: one that makes room for the next, or one that the store has emptied.
    fn empty_chunk(&self, part: ShardPart) -> Box<JudgedChunk> {
        let mut dropped = None;
        while self.full.len() >= self.budget.chunks_max()
            && let Some(oldest) = self.drop_oldest()
        {
            dropped = Some(oldest);
        }
        let empty = dropped.or_else(|| self.emptied.try_recv().ok());
        let mut empty = empty.unwrap_or_default();
        (empty.shard, empty.part) = (self.shard, part);
        empty
    }

    /// Drops and counts the oldest chunk. None if the store has just taken it.
    fn drop_oldest(&self) -> Option<Box<JudgedChunk>> {
        let mut oldest = self.oldest.try_recv().ok()?;
        self.waiting[oldest.shard].fetch_sub(1, Ordering::Relaxed);
        self.counters.dropped_total.add(oldest.counted() as u64);
        oldest.clear();
        Some(oldest)
    }

    fn push(&self, mut chunk: Box<JudgedChunk>) {
        self.counters.samples_total.add(chunk.counted() as u64);
        self.waiting[self.shard].fetch_add(1, Ordering::Relaxed);
        // Full: another shard has taken the room. This end holds a receiver too.
        while let Err(TrySendError::Full(unsent)) = self.full.try_send(chunk) {
            self.drop_oldest();
            chunk = unsent;
        }
    }
}

impl JudgedConsumer {
    /// How the shards that send are laid out.
    pub fn layout(&self) -> ShardLayout {
        self.layout
    }

    /// How many chunks wait.
    pub fn waiting(&self) -> usize {
        self.chunks.len()
    }

    /// Takes the oldest chunk.
    ///
    /// # Errors
    /// None waits, or all producers are dropped and all was taken.
    pub fn take(&self) -> Result<Box<JudgedChunk>, TryRecvError> {
        let chunk = self.chunks.try_recv()?;
        self.waiting[chunk.shard].fetch_sub(1, Ordering::Relaxed);
        Ok(chunk)
    }

    /// Takes the chunks that wait.
    pub fn take_all(&self) -> impl Iterator<Item = Box<JudgedChunk>> {
        std::iter::from_fn(|| self.take().ok())
    }

    /// Returns a chunk to the producers once its samples were taken.
    pub fn recycle(&self, mut chunk: Box<JudgedChunk>) {
        chunk.clear();
        match self.emptied.try_send(chunk) {
            // Enough of them are kept, or analytics has ended.
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    /// Takes the changes of anomalies that wait, each with its shard.
    pub fn take_anomalies(&self) -> impl Iterator<Item = (usize, ListedChanges)> {
        let shards = self.shards.iter().enumerate();
        shards.flat_map(|(shard, of)| of.anomalies.try_iter().map(move |changes| (shard, changes)))
    }

    /// Sends an update to the shards that it is for, and waits while too many wait there. False once one of them has ended.
    pub fn send(&self, update: ReplicaUpdate, clock: &Clock) -> bool {
        let parts = update.of_shards(self.layout).into_iter();
        parts.fold(true, |are_there, (shard, part)| {
            self.shards[shard].send(part, clock) && are_there
        })
    }

    /// All that any replica had written by that time has been sent; microseconds since 1970. Wakes nobody: whoever is
    /// asked looks.
    pub fn set_synced_at(&self, at_us: i64) {
        self.synced_at_us.store(at_us, Ordering::Release);
    }
}

impl ToShard {
    fn send(&self, mut update: ReplicaUpdate, clock: &Clock) -> bool {
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
    use sigmad_sample::{DeviceId, MetricId};

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
        producer.begin_batch(time_us, 0, 0);
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
        for chunk in consumer.take_all() {
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
        assert_eq!((consumer.waiting(), producer.has_unsent()), (1, true));
        let wide = CHUNK_READINGS_MAX / 16 + 1;
        for sample in 0..wide as i64 {
            fill(&mut producer, sample, (sample % 2) as u16 * 15 + 16);
        }
        producer.send(&COUNTS);
        assert!(!producer.has_unsent());
        let mut samples = 0;
        for chunk in consumer.take_all() {
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
            let chunk = consumer.take().expect("sent");
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
        drop(consumer.take());
        assert!(producer.try_send(&COUNTS, false));
        assert_eq!(consumer.take_all().last().map_or(0, |chunk| chunk.len()), 2);
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
        assert_eq!((consumer.waiting(), counters.dropped_total.get()), (2, 0));
    }

    /// The producers of two shards of devices and of the fleet's.
    fn of_two_shards(
        bytes_max: usize,
    ) -> (Vec<JudgedProducer>, JudgedConsumer, Vec<Arc<JudgedQueueCounters>>) {
        let sleepers = [(); 3].map(|()| Arc::default());
        let counters: Vec<_> = sleepers.iter().map(|_| Arc::default()).collect();
        let layout = ShardLayout::new(2);
        let (producers, consumer) = sharded(bytes_max, layout, &sleepers, &counters);
        (producers, consumer, counters)
    }

    /// One sample of a device, or without one.
    fn judge(producer: &mut JudgedProducer, time_us: i64, device: Option<u32>) {
        producer.begin_batch(time_us, time_us as u64, time_us as u64);
        let device = device.map(|index| DeviceId { index, generation: 0 });
        let reading = Reading { metric: MetricId::new(0, 0), value: time_us as f64 };
        producer.add(&[Sample { timestamp_us: 0, device, readings: 1 }], &[reading]);
    }

    #[test]
    fn each_sample_is_counted_by_one_chunk_and_the_fleet_has_all_values() {
        let (mut producers, consumer, counters) = of_two_shards(64 << 20);
        let mut fleet = producers.pop().expect("it is last");
        for time_us in 0..9 {
            let device = (time_us % 3 > 0).then_some(time_us as u32 % 3);
            device
                .into_iter()
                .for_each(|at| judge(&mut producers[at as usize % 2], time_us, device));
            judge(&mut fleet, time_us, device);
        }
        producers.iter_mut().chain([&mut fleet]).for_each(|producer| producer.send(&COUNTS));
        let chunks: Vec<_> = consumer.take_all().collect();
        let parts: Vec<_> = chunks.iter().map(|chunk| (chunk.shard, chunk.part)).collect();
        let (devices, of_fleet) = (ShardPart::Devices, ShardPart::Fleet);
        assert_eq!(parts, [(0, devices), (1, devices), (2, of_fleet), (2, devices)]);
        let counted: Vec<_> = chunks.iter().map(|chunk| chunk.counted()).collect();
        assert_eq!((counted, chunks[2].len(), chunks[2].rows().len()), (vec![3, 3, 0, 3], 9, 1));
        assert_eq!((chunks[2].fleet()[0].values, chunks[0].fleet().len()), (9, 0));
        assert!(chunks[3].iter().all(|sample| sample.device.is_none()));
        let samples: Vec<_> = counters.iter().map(|of| of.samples_total.get()).collect();
        assert_eq!(samples, [3, 3, 3]);
    }

    #[test]
    fn the_oldest_chunk_of_all_shards_is_dropped_and_a_shard_never_waits_for_another() {
        let (mut producers, consumer, counters) = of_two_shards(8 * CHUNK_BYTES);
        for time_us in 0..8 {
            judge(&mut producers[0], time_us, Some(0));
            producers[0].send(&COUNTS);
        }
        // One of its own waits: no matter how many others do.
        judge(&mut producers[0], 8, Some(0));
        assert!(!producers[0].try_send(&COUNTS, true));
        judge(&mut producers[1], 9, Some(1));
        producers[1].send(&COUNTS);
        assert_eq!([0, 1].map(|shard| counters[shard].dropped_total.get()), [0, 1]);
        drop(consumer.take());
        judge(&mut producers[2], 10, Some(1));
        assert!(producers[2].try_send(&COUNTS, true));
        let times: Vec<_> = consumer
            .take_all()
            .flat_map(|chunk| chunk.batches().map(|(of, _)| of.time_us).collect::<Vec<_>>())
            .collect();
        assert_eq!(times, [2, 3, 4, 5, 6, 7, 9, 10]);
        assert!(producers[0].try_send(&COUNTS, true), "all were taken");
        producers.truncate(1);
        assert_eq!(consumer.take().map(|chunk| chunk.counted()), Ok(1));
        assert_eq!(consumer.take(), Err(TryRecvError::Empty));
        producers.clear();
        assert_eq!(consumer.take(), Err(TryRecvError::Disconnected), "once all have ended");
    }

    #[test]
    fn an_update_goes_to_the_shards_that_it_is_of() {
        let (producers, consumer, _) = of_two_shards(1 << 20);
        let clock = Clock::new(sigmad_clock::start());
        let of = |device: Option<u32>| SharedWindows {
            device: device.map(|index| DeviceId { index, generation: 0 }),
            others: JudgedCounts::default(),
            own_total: 0,
            last_seen_us: 0,
            last_timestamp_us: 0,
            other_takeover: None,
            metrics: Vec::new(),
        };
        let windows = vec![of(Some(1)), of(None), of(Some(2)), of(Some(3))];
        assert!(consumer.send(ReplicaUpdate::Windows(windows), &clock));
        let received = |shard: usize| producers[shard].updates.try_iter().collect::<Vec<_>>();
        assert_eq!(received(0), [ReplicaUpdate::Windows(vec![of(Some(2))])]);
        assert_eq!(received(1), [ReplicaUpdate::Windows(vec![of(Some(1)), of(Some(3))])]);
        assert_eq!(received(2), [ReplicaUpdate::Windows(vec![of(None)])]);
        let taken_over = ReplicaUpdate::TakenOver(DeviceId { index: 5, generation: 0 }, 1);
        consumer.send(taken_over.clone(), &clock);
        assert_eq!((received(1), received(0), received(2)), (vec![taken_over], vec![], vec![]));
    }

    #[test]
    fn each_end_sees_that_the_other_was_dropped() {
        let (mut producer, consumer, _) = queue(1 << 20);
        let clock = Clock::new(sigmad_clock::start());
        let update = ReplicaUpdate::TakenOver(DeviceId { index: 1, generation: 0 }, 5);
        assert!(consumer.send(update.clone(), &clock));
        assert_eq!(producer.updates.try_recv(), Ok(update.clone()));
        assert_eq!(producer.synced_at_us(), None);
        consumer.set_synced_at(7);
        assert_eq!(producer.synced_at_us(), Some(7));
        send(&mut producer, 1);
        drop(producer);
        assert!(!consumer.send(update, &clock));
        assert_eq!(consumer.take_all().count(), 1, "what was sent is received before the end");
        assert_eq!(consumer.take(), Err(TryRecvError::Disconnected));

        let (mut producer, consumer, _) = queue(1 << 20);
        drop(consumer);
        (0..1_000).for_each(|time_us| send(&mut producer, time_us));
    }
}
