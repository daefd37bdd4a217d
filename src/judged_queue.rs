//! What the analytics thread and the store tell each other: judged samples one way, the windows of all
//! replicas the other.
//!
//! Data and the queue between two threads, no logic of either. Used only when there is a store beyond
//! this process.
//!
//! Judged samples travel in blocks that are filled, sent, emptied and used again. The queue holds as
//! many bytes as the store has left of its bound ([`Held`]); past it the oldest block goes, counted, so
//! that a store which hangs never holds up a verdict.

use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::sample_queue::Sleeper;
use sigmad_counters::Counter;
use sigmad_sample::{DeviceId, MetricId};

/// Readings in one block at most: what a few hundred samples have.
pub const BLOCK_READINGS_MAX: usize = 512;
/// Samples in one block at most.
pub const BLOCK_SAMPLES_MAX: usize = 256;
/// Bytes that a block stands for, however full it is.
pub const BLOCK_BYTES: usize =
    BLOCK_SAMPLES_MAX * size_of::<JudgedSample>() + BLOCK_READINGS_MAX * size_of::<JudgedReading>();
/// Emptied blocks kept for use again.
const SPARE_BLOCKS_MAX: usize = 64;
/// This part of the bound is left to blocks on their way: a full store drops its oldest samples, and
/// takes newer ones at its leisure.
const ON_THEIR_WAY_PART: usize = 16;
/// Messages to analytics on their way; past it the store waits.
const SHARED_WAITING_MAX: usize = 64;

/// How many values a stream has seen, and how many of them were anomalies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Values, or samples of a device.
    pub total: u64,
    /// Anomalies among them.
    pub anomalies: u64,
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        // Saturating: what other replicas are said to have counted may be any number.
        Self {
            total: self.total.saturating_add(other.total),
            anomalies: self.anomalies.saturating_add(other.anomalies),
        }
    }
}

/// One value that has entered its windows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JudgedReading {
    /// Which metric.
    pub metric: MetricId,
    /// The value.
    pub value: f64,
    /// This replica's of the device's stream, after this value; zeros without a device.
    pub stream: Counts,
    /// This replica's of the fleet's stream, after this value.
    pub fleet: Counts,
}

/// One judged sample; its readings stand in the block that holds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JudgedSample {
    /// When it arrived, microseconds since 1970, by our clock. Together with `sequence` it grows from
    /// each sample of this replica to the next, whatever the clock does.
    pub time_us: i64,
    /// Tells samples of one `time_us` apart, in order: below 1,000.
    pub sequence: u16,
    /// How many readings it has.
    pub readings: u16,
    /// As the client said, microseconds since 1970.
    pub timestamp_us: i64,
    /// None for a sample that counts for the fleet alone.
    pub device: Option<DeviceId>,
    /// This replica's samples and anomalies of the device, after this one; zeros without a device.
    pub of_device: Counts,
    /// Samples of this replica after this one.
    pub of_replica: u64,
}

/// Judged samples that travel together, in order.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    samples: Vec<JudgedSample>,
    readings: Vec<JudgedReading>,
}

impl Judged {
    /// True when it takes a sample of `readings` more.
    pub fn has_room(&self, readings: usize) -> bool {
        self.samples.len() < BLOCK_SAMPLES_MAX
            && self.readings.len() + readings <= BLOCK_READINGS_MAX
    }

    /// Adds one reading of the sample that [`Judged::complete`] will add.
    #[inline]
    pub fn draft(&mut self, reading: JudgedReading) {
        self.readings.push(reading);
    }

    /// Adds a sample with the readings drafted for it, of which `sample.readings` tells the number.
    #[inline]
    pub fn complete(&mut self, sample: JudgedSample) {
        self.samples.push(sample);
        debug_assert_eq!(
            self.readings.len(),
            self.samples.iter().map(|s| usize::from(s.readings)).sum::<usize>()
        );
    }

    /// How many samples.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// True without samples.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Forgets the samples, keeps the memory.
    pub fn clear(&mut self) {
        self.samples.clear();
        self.readings.clear();
    }

    /// The samples with their readings, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&JudgedSample, &[JudgedReading])> {
        let mut rest = &*self.readings;
        self.samples.iter().map(move |sample| {
            let (readings, after) = rest.split_at(usize::from(sample.readings));
            rest = after;
            (sample, readings)
        })
    }
}

/// The windows of all replicas for one device, or for the fleet, as the store read them.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedWindows {
    /// None for the fleet.
    pub device: Option<DeviceId>,
    /// Samples and anomalies that the other replicas counted.
    pub others: Counts,
    /// When any replica last heard from it, microseconds since 1970, by that replica's clock.
    pub last_seen_us: i64,
    /// The timestamp of that sample.
    pub last_timestamp_us: i64,
    /// Its metrics.
    pub metrics: Vec<SharedMetric>,
}

/// One stream as all replicas see it.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedMetric {
    /// Which metric.
    pub metric: MetricId,
    /// What the other replicas counted.
    pub others: Counts,
    /// How many values this replica had counted when it last wrote: what came after is not in `values`.
    pub own_total: u64,
    /// How many of `values` are this replica's own.
    pub own_values: usize,
    /// The newest values, oldest first; one more than a window, so that the last can be judged.
    pub values: Vec<f64>,
}

/// What the store tells analytics.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplicaUpdate {
    /// What other replicas have changed. What is told while samples of ours are on their way has to be
    /// told again once they are written: only then is their place among the others' known.
    Windows(Vec<SharedWindows>),
    /// Whatever any replica had written until then has been told; microseconds since 1970.
    SyncedAt(i64),
}

/// Bytes that the store holds, shared with the queue in front of it.
#[derive(Debug)]
pub struct Held {
    bytes_max: usize,
    /// Written by the store, read by the queue; Relaxed, for it orders nothing else.
    bytes: AtomicUsize,
}

impl Held {
    /// Nothing so far, of at most `bytes_max`.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: AtomicUsize::new(0) }
    }

    /// Says how many bytes the store holds now.
    pub fn set(&self, bytes: usize) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// The bound.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// What the store itself may hold of it.
    pub fn store_bytes_max(&self) -> usize {
        self.bytes_max - self.bytes_max / ON_THEIR_WAY_PART
    }

    /// Blocks that may wait in the queue: at least two, one on its way in, one on its way out.
    fn blocks_max(&self) -> usize {
        let held = self.bytes.load(Ordering::Relaxed);
        (self.bytes_max.saturating_sub(held) / BLOCK_BYTES).max(2)
    }
}

/// What is counted at the analytics thread's end.
#[derive(Debug, Default)]
pub struct JudgedQueueCounters {
    /// Samples handed to the store.
    pub samples_total: Counter,
    /// Samples dropped because the store took none for too long.
    pub dropped_total: Counter,
}

/// The analytics thread's end.
#[derive(Debug)]
pub struct JudgedProducer {
    full: Sender<Box<Judged>>,
    /// The store's own receiver: the oldest block can be taken back.
    oldest: Receiver<Box<Judged>>,
    emptied: Receiver<Box<Judged>>,
    held: Arc<Held>,
    filling: Box<Judged>,
    /// What the store tells.
    pub shared: Receiver<ReplicaUpdate>,
    counters: Arc<JudgedQueueCounters>,
}

/// The store's end.
#[derive(Debug)]
pub struct JudgedConsumer {
    /// Blocks to take; closed once analytics has gone and all were taken.
    pub full: Receiver<Box<Judged>>,
    emptied: Sender<Box<Judged>>,
    /// How much the store holds.
    pub held: Arc<Held>,
    shared: Sender<ReplicaUpdate>,
    sleeper: Arc<Sleeper>,
}

/// Both ends; the analytics thread sleeps in `sleeper`.
pub fn exchange(
    bytes_max: usize,
    sleeper: Arc<Sleeper>,
    counters: Arc<JudgedQueueCounters>,
) -> (JudgedProducer, JudgedConsumer) {
    let held = Arc::new(Held::new(bytes_max));
    // Places for as many as there can ever be: an unbounded queue would ask for memory as it goes.
    let (full, taken) = bounded(held.blocks_max());
    let (emptied_end, emptied) = bounded(SPARE_BLOCKS_MAX);
    let (shared_end, shared) = bounded(SHARED_WAITING_MAX);
    let outlet = JudgedProducer {
        full,
        oldest: taken.clone(),
        emptied,
        held: held.clone(),
        filling: Box::default(),
        shared,
        counters,
    };
    (
        outlet,
        JudgedConsumer { full: taken, emptied: emptied_end, held, shared: shared_end, sleeper },
    )
}

impl JudgedProducer {
    /// The block that takes a sample of `readings` more; a full one leaves first.
    #[inline]
    pub fn block(&mut self, readings: usize) -> &mut Judged {
        if !self.filling.has_room(readings) {
            self.send();
        }
        &mut self.filling
    }

    /// True when samples wait to be sent.
    pub fn has_unsent(&self) -> bool {
        !self.filling.is_empty()
    }

    /// Sends what was filled, if the store keeps up; else it may as well be filled further, and no block
    /// has to go for one that has room left. True when nothing is left.
    pub fn send_if_taken(&mut self) -> bool {
        let places = self.held.blocks_max().min(SPARE_BLOCKS_MAX);
        if self.has_unsent() && self.full.len() < places {
            self.send();
        }
        !self.has_unsent()
    }

    /// Sends what was filled, in the place of the oldest blocks when there is no room.
    pub fn send(&mut self) {
        if self.filling.is_empty() {
            return;
        }
        let mut dropped = None;
        while self.full.len() >= self.held.blocks_max() {
            // Err: the store has just made room.
            let Ok(mut oldest) = self.oldest.try_recv() else { break };
            self.counters.dropped_total.add(oldest.len() as u64);
            oldest.clear();
            dropped = Some(oldest);
        }
        let empty = dropped.or_else(|| self.emptied.try_recv().ok());
        let block = std::mem::replace(&mut self.filling, empty.unwrap_or_default());
        self.counters.samples_total.add(block.len() as u64);
        self.full.try_send(block).expect("room was made, and this end holds a receiver too");
    }
}

impl JudgedConsumer {
    /// Gives a block back once its samples were taken.
    pub fn give_back(&self, mut block: Box<Judged>) {
        block.clear();
        match self.emptied.try_send(block) {
            // Enough of them are kept, or analytics has gone.
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    /// Tells analytics. False once it has gone.
    pub fn tell(&self, news: ReplicaUpdate) -> bool {
        let told = self.shared.send(news).is_ok();
        self.sleeper.wake();
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(bytes_max: usize) -> (JudgedProducer, JudgedConsumer, Arc<JudgedQueueCounters>) {
        let counters = Arc::<JudgedQueueCounters>::default();
        let (outlet, inlet) = exchange(bytes_max, Arc::default(), counters.clone());
        (outlet, inlet, counters)
    }

    fn fill(outlet: &mut JudgedProducer, time_us: i64, readings: u16) {
        let block = outlet.block(usize::from(readings));
        for at in 0..readings {
            block.draft(JudgedReading {
                metric: MetricId(at),
                value: time_us as f64,
                stream: Counts::default(),
                fleet: Counts::default(),
            });
        }
        block.complete(JudgedSample {
            time_us,
            sequence: 0,
            readings,
            timestamp_us: 0,
            device: None,
            of_device: Counts::default(),
            of_replica: 1,
        });
    }

    fn send(outlet: &mut JudgedProducer, time_us: i64) {
        fill(outlet, time_us, 1);
        outlet.send();
    }

    fn times(inlet: &JudgedConsumer) -> Vec<i64> {
        let mut times = Vec::new();
        for block in inlet.full.try_iter() {
            times.extend(block.iter().map(|(sample, _)| sample.time_us));
            inlet.give_back(block);
        }
        times
    }

    #[test]
    fn samples_keep_their_readings_and_full_blocks_leave_at_once() {
        let (mut outlet, inlet, counters) = ends(1 << 20);
        for sample in 0..BLOCK_SAMPLES_MAX as i64 + 1 {
            fill(&mut outlet, sample, 1);
        }
        assert_eq!((inlet.full.len(), outlet.has_unsent()), (1, true));
        let wide = BLOCK_READINGS_MAX / 16 + 1;
        for sample in 0..wide as i64 {
            fill(&mut outlet, sample, (sample % 2) as u16 * 15 + 16);
        }
        outlet.send();
        assert!(!outlet.has_unsent());
        let mut samples = 0;
        for block in inlet.full.try_iter() {
            for (sample, readings) in block.iter() {
                assert_eq!(readings.len(), usize::from(sample.readings));
                for (at, reading) in readings.iter().enumerate() {
                    assert_eq!(reading.metric, MetricId(at as u16));
                    assert_eq!(reading.value, sample.time_us as f64);
                }
                samples += 1;
            }
        }
        assert_eq!(samples, BLOCK_SAMPLES_MAX + 1 + wide);
        assert_eq!(counters.samples_total.get(), samples as u64);
        assert_eq!(counters.dropped_total.get(), 0);
    }

    #[test]
    fn blocks_are_used_again() {
        let (mut outlet, inlet, _) = ends(1 << 20);
        let mut seen = std::collections::HashSet::new();
        for time_us in 0..100 {
            send(&mut outlet, time_us);
            let block = inlet.full.try_recv().expect("sent");
            seen.insert(&raw const *block);
            inlet.give_back(block);
        }
        assert_eq!(seen.len(), 2, "one being filled, one on its way");
    }

    #[test]
    fn past_the_bound_the_oldest_go_and_are_counted() {
        let (mut outlet, inlet, counters) = ends(4 * BLOCK_BYTES);
        // A send that waited would wait for ever: nobody takes anything.
        (0..10_000).for_each(|time_us| send(&mut outlet, time_us));
        assert_eq!(counters.dropped_total.get(), 9_996);
        assert_eq!(times(&inlet), [9_996, 9_997, 9_998, 9_999]);
        inlet.held.set(BLOCK_BYTES);
        (0..4).for_each(|time_us| send(&mut outlet, time_us));
        assert_eq!(times(&inlet), [1, 2, 3]);
        // Whatever the store holds, two may be on their way.
        inlet.held.set(usize::MAX);
        (0..4).for_each(|time_us| send(&mut outlet, time_us));
        assert_eq!(times(&inlet), [2, 3]);
        assert_eq!(counters.samples_total.get(), 10_008);
        assert_eq!(counters.dropped_total.get(), 9_999);
    }

    #[test]
    fn a_full_store_leaves_room_for_what_is_on_its_way() {
        let (mut outlet, inlet, counters) = ends(64 * BLOCK_BYTES);
        inlet.held.set(inlet.held.store_bytes_max());
        (0..4).for_each(|time_us| send(&mut outlet, time_us));
        assert_eq!((times(&inlet), counters.dropped_total.get()), (vec![0, 1, 2, 3], 0));
    }

    #[test]
    fn a_store_that_lags_gets_fuller_blocks() {
        let (mut outlet, inlet, _) = ends(1 << 30);
        assert!(outlet.send_if_taken(), "nothing to send");
        for time_us in 0..SPARE_BLOCKS_MAX as i64 {
            fill(&mut outlet, time_us, 1);
            assert!(outlet.send_if_taken());
        }
        fill(&mut outlet, -1, 1);
        assert!(!outlet.send_if_taken());
        fill(&mut outlet, -2, 1);
        drop(inlet.full.try_recv());
        assert!(outlet.send_if_taken());
        assert_eq!(inlet.full.try_iter().last().map_or(0, |block| block.len()), 2);
    }

    #[test]
    fn no_block_goes_for_one_that_has_room_left() {
        let (mut outlet, inlet, counters) = ends(1);
        for time_us in 0..2 {
            fill(&mut outlet, time_us, 1);
            assert!(outlet.send_if_taken());
        }
        fill(&mut outlet, 2, 1);
        assert!(!outlet.send_if_taken(), "two places are taken");
        assert_eq!((inlet.full.len(), counters.dropped_total.get()), (2, 0));
    }

    #[test]
    fn each_end_sees_that_the_other_has_gone() {
        let (mut outlet, inlet, _) = ends(1 << 20);
        assert!(inlet.tell(ReplicaUpdate::SyncedAt(5)));
        assert_eq!(outlet.shared.try_recv(), Ok(ReplicaUpdate::SyncedAt(5)));
        send(&mut outlet, 1);
        drop(outlet);
        assert!(!inlet.tell(ReplicaUpdate::SyncedAt(6)));
        assert_eq!(inlet.full.iter().count(), 1, "what was sent is there, then comes the end");

        let (mut outlet, inlet, _) = ends(1 << 20);
        drop(inlet);
        (0..1_000).for_each(|time_us| send(&mut outlet, time_us));
    }
}
