//! The sample queue: chunks of samples on their way from one worker to the analytics threads.
//!
//! Each worker owns a [`SampleProducer`]. It has a lane to each shard ([`crate::shards`]): a bounded crossbeam channel of
//! chunks, and a second channel that returns emptied chunks. A worker fills a chunk and sends it when it is full or when
//! its round ends, so that the cost of the queue is shared by many samples. Once the chunks in flight exist, nothing is
//! allocated.
//!
//! With one shard there is one lane, and each sample takes it. With several, a sample goes to the shard of its device and
//! to that of the fleet.
//!
//! A queue holds [`QUEUE_SAMPLES_MAX`] samples at most, and no more readings than it is told: once on all lanes to shards
//! of devices together, and once on that to the fleet's. The worker asks [`SampleProducer::has_room`] before it
//! accepts a request; [`SampleProducer::push`] never fails after that.
//!
//! Under load an analytics thread dozes: a timed park that producers do not end, so that a request costs
//! no system call. When idle it parks, and the next producer wakes it. See [`Sleeper`].

mod sleeper;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

pub use sleeper::Sleeper;

use crate::acknowledgement::AckRight;
use crate::shards::ShardLayout;
use sigmad_clock::Now;
use sigmad_counters::{Counter, Families, MetricSource, SampleOutcomes};
use sigmad_sample::{Batch, QUEUE_READINGS_MAX, QUEUE_SAMPLES_MAX};

/// Samples in one chunk: enough that the queue costs 2–3 ns a sample, few enough for the cache.
pub const CHUNK_SAMPLES: usize = 128;
/// A chunk with so many readings is full: those of wide samples must not keep the memory of a wide chunk each.
pub const CHUNK_READINGS: usize = 512;
/// Chunks in flight: rounds of one sample each can stay unread for 40 ms before one is refused.
pub const CHUNKS_MAX: usize = 8_192;
/// Times that a worker without room yields its core before it refuses. Costs some microseconds where the
/// analytics thread has its own core and is behind nevertheless.
const YIELDS_MAX: usize = 4;
const _: () = assert!(CHUNKS_MAX * CHUNK_SAMPLES >= 2 * QUEUE_SAMPLES_MAX);

/// Samples that are sent together.
#[derive(Debug, Default)]
pub struct SampleChunk {
    /// The samples.
    pub batch: Batch,
    /// When the round began in which the worker sent them.
    pub sent: Now,
    /// When they were sent, on the monotonic clock, if this chunk is timed.
    pub sent_ns: Option<u64>,
    /// Must be durable before these samples are acknowledged, with `--ack disk`.
    pub right: Option<AckRight>,
}

/// How many copies of a sample are on their way: the memory of a queue is that many times its readings.
pub fn copies(layout: ShardLayout) -> usize {
    if layout.threads() == 1 { 1 } else { 2 }
}

/// The worker's end of a queue.
#[derive(Debug)]
pub struct SampleProducer {
    layout: ShardLayout,
    /// The only lane, or that to the fleet's shard: each sample takes it.
    all: SampleLane,
    /// Those to the shards of devices, if these are others.
    of_devices: Vec<SampleLane>,
    readings_max: usize,
    /// What each chunk takes along.
    right: Option<AckRight>,
    counters: Arc<SampleQueueCounters>,
}

/// Counters of one queue, written by its worker.
#[derive(Debug, Default)]
pub struct SampleQueueCounters {
    /// The index of the worker, for the label `worker`.
    pub worker: usize,
    /// Samples taken since the start.
    pub samples_total: Counter,
    /// Samples in chunks that have not come back.
    pub samples_in_flight: Counter,
}

impl MetricSource for SampleQueueCounters {
    fn collect(&self, families: &mut Families) {
        families
            .gauge(
                "sigmad_analytics_queue_samples",
                "Samples in the queue from this worker to analytics, as the worker last saw it.",
            )
            .add_counter(&[("worker", &self.worker.to_string())], &self.samples_in_flight);
        let queued = self.samples_total.get();
        SampleOutcomes { queued, ..SampleOutcomes::default() }.collect(families);
    }
}

/// The analytics thread's end of one lane.
#[derive(Debug)]
pub struct SampleConsumer {
    full: Receiver<Box<SampleChunk>>,
    emptied: Sender<Box<SampleChunk>>,
    closed: Arc<AtomicBool>,
}

/// A queue to one shard, whose thread sleeps in `sleeper`.
pub fn channel(
    sleeper: Arc<Sleeper>,
    counters: Arc<SampleQueueCounters>,
) -> (SampleProducer, SampleConsumer) {
    let (producer, mut consumers) = sharded(ShardLayout::ONE, &[sleeper], counters);
    (producer, consumers.pop().expect("one shard"))
}

/// A queue to all shards, with a consumer for each. Its thread sleeps in the sleeper at its place.
pub fn sharded(
    layout: ShardLayout,
    sleepers: &[Arc<Sleeper>],
    counters: Arc<SampleQueueCounters>,
) -> (SampleProducer, Vec<SampleConsumer>) {
    assert_eq!(sleepers.len(), layout.threads());
    let (mut lanes, consumers): (Vec<_>, _) =
        sleepers.iter().map(|sleeper| SampleLane::new(sleeper.clone())).unzip();
    let all = lanes.pop().expect("the layout has a shard of the fleet");
    let readings_max = QUEUE_READINGS_MAX;
    let producer =
        SampleProducer { layout, all, of_devices: lanes, readings_max, right: None, counters };
    (producer, consumers)
}

impl SampleProducer {
    /// Bounds the readings of the queue, for their memory.
    pub fn set_readings_max(&mut self, readings_max: usize) {
        self.readings_max = readings_max;
    }

    /// True when there is room for `samples` more with `readings`. Called before any of them is pushed.
    #[inline]
    pub fn has_room(&mut self, samples: usize, readings: usize) -> bool {
        if self.fits(samples, readings) {
            return true;
        }
        for _ in 0..YIELDS_MAX {
            self.reclaim();
            if self.fits(samples, readings) {
                return true;
            }
            // When an analytics thread shares our core, it may wait for us to leave it.
            self.lanes().for_each(|lane| lane.sleeper.wake());
            std::thread::yield_now();
        }
        self.reclaim();
        self.fits(samples, readings)
    }

    /// Any lane may get all samples: which one is known only as they are pushed.
    fn fits(&self, samples: usize, readings: usize) -> bool {
        let Self { all, of_devices, readings_max, .. } = self;
        if !all.waiting().plus(samples, readings).fits(*readings_max)
            || !all.has_chunks(samples, readings)
        {
            return false;
        }
        if of_devices.is_empty() {
            return true;
        }
        let waiting = of_devices.iter().fold(LaneFill::default(), |sum, lane| {
            let LaneFill { samples, readings } = lane.waiting();
            sum.plus(samples, readings)
        });
        waiting.plus(samples, readings).fits(*readings_max)
            && of_devices.iter().all(|lane| lane.has_chunks(samples, readings))
    }

    /// From here on each chunk that is sent takes this right along.
    pub fn carry(&mut self, right: AckRight) {
        debug_assert!(self.lanes().all(|lane| lane.filling.batch.is_empty()), "nobody else's");
        self.set_right(Some(right));
    }

    /// All chunks that were to take the right along have been sent.
    pub fn carried(&mut self) {
        self.set_right(None);
    }

    fn set_right(&mut self, right: Option<AckRight>) {
        if let Some(before) = std::mem::replace(&mut self.right, right) {
            // It stands for no chunk.
            before.durable();
        }
    }

    fn lanes(&self) -> impl Iterator<Item = &SampleLane> {
        self.of_devices.iter().chain(std::iter::once(&self.all))
    }

    /// Takes the samples, in order. Full chunks are sent at once, the last ones by [`SampleProducer::send`].
    #[inline]
    pub fn push(&mut self, batch: &Batch, now: Now) {
        // Before any of them can be judged, so that no reader counts more judged than sent.
        self.counters.samples_total.add(batch.len() as u64);
        if !self.of_devices.is_empty() {
            self.push_to_devices(batch, now);
        }
        let mut samples = batch.iter();
        while samples.len() > 0 {
            let filling = &mut self.all.filling.batch;
            filling.take_from(&mut samples, CHUNK_SAMPLES, CHUNK_READINGS);
            if self.all.is_full() {
                self.send_to_all(now, None);
            }
        }
    }

    /// Takes the samples of devices for their shards.
    fn push_to_devices(&mut self, batch: &Batch, now: Now) {
        for (sample, readings) in batch.iter() {
            let Some(id) = sample.device else { continue };
            let lane = &mut self.of_devices[self.layout.of_device(id)];
            lane.filling.batch.push(sample.timestamp_us, sample.device, readings);
            if lane.is_full() {
                lane.send(now, None, self.right.as_ref());
            }
        }
    }

    /// Sends what was pushed. Called before the responses that acknowledge it.
    #[inline]
    pub fn send(&mut self, now: Now) {
        self.dispatch(now, None);
    }

    /// [`SampleProducer::send`] for chunks whose time to the verdict is measured; `sent_ns` is the time now.
    pub fn send_timed(&mut self, now: Now, sent_ns: u64) {
        self.dispatch(now, Some(sent_ns));
    }

    #[inline]
    fn dispatch(&mut self, now: Now, sent_ns: Option<u64>) {
        if !self.of_devices.is_empty() {
            self.dispatch_to_devices(now, sent_ns);
        }
        if !self.all.filling.batch.is_empty() {
            self.send_to_all(now, sent_ns);
        }
    }

    #[inline(never)] // so that one shard pays for one check
    fn dispatch_to_devices(&mut self, now: Now, sent_ns: Option<u64>) {
        for lane in &mut self.of_devices {
            if !lane.filling.batch.is_empty() {
                lane.send(now, sent_ns, self.right.as_ref());
            }
        }
    }

    #[inline]
    fn send_to_all(&mut self, now: Now, sent_ns: Option<u64>) {
        self.all.send(now, sent_ns, self.right.as_ref());
        let mut in_flight = self.all.in_flight.samples;
        if !self.of_devices.is_empty() {
            let to_devices = self.of_devices.iter().map(|lane| lane.in_flight.samples);
            in_flight = in_flight.max(to_devices.sum());
        }
        self.counters.samples_in_flight.set(in_flight as u64);
    }

    fn reclaim(&mut self) {
        self.of_devices.iter_mut().for_each(SampleLane::reclaim);
        self.all.reclaim();
    }
}

/// Samples and readings on a lane.
#[derive(Clone, Copy, Debug, Default)]
struct LaneFill {
    samples: usize,
    readings: usize,
}

impl LaneFill {
    fn plus(self, samples: usize, readings: usize) -> Self {
        Self { samples: self.samples + samples, readings: self.readings + readings }
    }

    fn fits(self, readings_max: usize) -> bool {
        self.samples <= QUEUE_SAMPLES_MAX && self.readings <= readings_max
    }
}

/// The way to one shard.
#[derive(Debug)]
struct SampleLane {
    full: Sender<Box<SampleChunk>>,
    emptied: Receiver<Box<SampleChunk>>,
    closed: Arc<AtomicBool>,
    sleeper: Arc<Sleeper>,
    /// Last in, first out: the chunk used most recently is still in the cache.
    #[expect(clippy::vec_box, reason = "boxes are what the channels carry")]
    spare: Vec<Box<SampleChunk>>,
    filling: Box<SampleChunk>,
    in_flight: LaneFill,
    chunks_in_flight: usize,
}

impl SampleLane {
    fn new(sleeper: Arc<Sleeper>) -> (Self, SampleConsumer) {
        let (full_sender, full_receiver) = bounded(CHUNKS_MAX);
        let (emptied_sender, emptied_receiver) = bounded(CHUNKS_MAX);
        let closed = Arc::new(AtomicBool::new(false));
        let lane = Self {
            full: full_sender,
            emptied: emptied_receiver,
            closed: closed.clone(),
            sleeper,
            spare: Vec::new(),
            filling: Box::default(),
            in_flight: LaneFill::default(),
            chunks_in_flight: 0,
        };
        (lane, SampleConsumer { full: full_receiver, emptied: emptied_sender, closed })
    }

    /// Samples and readings that are in flight, or not sent so far.
    fn waiting(&self) -> LaneFill {
        self.in_flight.plus(self.filling.batch.len(), self.filling.batch.readings())
    }

    /// Whether the channel has room for the chunks of so many samples.
    fn has_chunks(&self, samples: usize, readings: usize) -> bool {
        // Two chunks may be partly filled: the first that takes samples and the last.
        let chunks = samples / CHUNK_SAMPLES + readings / CHUNK_READINGS + 2;
        self.chunks_in_flight + chunks <= CHUNKS_MAX
    }

    /// Whether the chunk that is filled must be sent.
    fn is_full(&self) -> bool {
        let batch = &self.filling.batch;
        batch.len() == CHUNK_SAMPLES || batch.readings() >= CHUNK_READINGS
    }

    /// Sends what waits.
    #[inline]
    fn send(&mut self, now: Now, sent_ns: Option<u64>, right: Option<&AckRight>) {
        debug_assert!(!self.filling.batch.is_empty());
        self.reclaim();
        let empty = self.spare.pop().unwrap_or_default();
        let mut chunk = std::mem::replace(&mut self.filling, empty);
        chunk.sent = now;
        chunk.sent_ns = sent_ns;
        chunk.right = right.map(AckRight::share);
        self.in_flight = self.in_flight.plus(chunk.batch.len(), chunk.batch.readings());
        self.chunks_in_flight += 1;
        // has_room() keeps chunks in flight below the channel's capacity, and the consumer outlives us.
        self.full
            .try_send(chunk)
            .expect("the analytics thread outlives its workers, and the channel has room");
        self.sleeper.wake_if_parked();
    }

    /// Takes back the chunks that the consumer has recycled.
    fn reclaim(&mut self) {
        // To see that there is none costs a fence in try_recv(), and two loads here. One that is missed is not lost.
        while !self.emptied.is_empty()
            && let Ok(mut chunk) = self.emptied.try_recv()
        {
            self.in_flight.samples -= chunk.batch.len();
            self.in_flight.readings -= chunk.batch.readings();
            self.chunks_in_flight -= 1;
            chunk.batch.clear();
            self.spare.push(chunk);
        }
    }
}

impl Drop for SampleLane {
    /// Wakes a consumer that sleeps. The channel itself closes only after this, so a flag announces it.
    fn drop(&mut self) {
        // Release, for the Acquire in receive(): a consumer that sees the flag sees every chunk.
        self.closed.store(true, Ordering::Release);
        self.sleeper.wake_if_parked();
    }
}

impl SampleConsumer {
    /// The next chunk, if there is one. `Err` once the producer is dropped and all chunks are read.
    #[inline]
    pub fn receive(&self) -> Result<Option<Box<SampleChunk>>, QueueClosed> {
        // Loaded first: after the close, a chunk that is not there will never come.
        let closed = self.closed.load(Ordering::Acquire);
        match self.full.try_recv() {
            Ok(chunk) => Ok(Some(chunk)),
            Err(TryRecvError::Empty) if !closed => Ok(None),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => Err(QueueClosed),
        }
    }

    /// True when [`SampleConsumer::receive`] has a result: a chunk, or the close.
    pub fn is_ready(&self) -> bool {
        !self.full.is_empty() || self.closed.load(Ordering::Acquire)
    }

    /// Returns a chunk to its worker once it was read.
    #[inline]
    pub fn recycle(&self, chunk: Box<SampleChunk>) {
        // Err: the worker has gone, and needs no chunks.
        let _ = self.emptied.try_send(chunk);
    }

    /// Chunks that wait to be received.
    pub fn waiting(&self) -> usize {
        self.full.len()
    }
}

/// The producer was dropped and everything it sent was read.
#[derive(Debug, PartialEq, Eq)]
pub struct QueueClosed;

#[cfg(test)]
mod tests {
    use super::*;
    use sigmad_sample::{MetricId, Reading};

    fn batch(values: std::ops::Range<usize>) -> Batch {
        let mut batch = Batch::default();
        for value in values {
            batch.push(0, None, &[Reading { metric: MetricId::RPS, value: value as f64 }]);
        }
        batch
    }

    fn values(chunk: &SampleChunk) -> Vec<usize> {
        chunk.batch.iter().map(|(_, readings)| readings[0].value as usize).collect()
    }

    #[test]
    fn samples_arrive_in_order_and_full_blocks_leave_at_once() {
        let (mut producer, consumer) = channel(Arc::default(), Arc::default());
        producer.push(&batch(0..CHUNK_SAMPLES + 5), Now::default());
        assert_eq!(consumer.waiting(), 1);
        producer.push(&batch(CHUNK_SAMPLES + 5..CHUNK_SAMPLES + 7), Now::default());
        producer.send(Now::default());
        let mut seen = Vec::new();
        while let Ok(Some(chunk)) = consumer.receive() {
            seen.extend(values(&chunk));
            consumer.recycle(chunk);
        }
        assert_eq!(seen, (0..CHUNK_SAMPLES + 7).collect::<Vec<_>>());
        drop(producer);
        assert_eq!(consumer.receive().err(), Some(QueueClosed));
    }

    #[test]
    fn a_full_lane_refuses_until_blocks_come_back() {
        let (mut producer, consumer) = channel(Arc::default(), Arc::default());
        assert!(producer.has_room(QUEUE_SAMPLES_MAX, QUEUE_SAMPLES_MAX));
        producer.push(&batch(0..QUEUE_SAMPLES_MAX), Now::default());
        assert!(!producer.has_room(1, 1));
        let chunk = consumer.receive().expect("open").expect("full");
        consumer.recycle(chunk);
        assert!(producer.has_room(CHUNK_SAMPLES, CHUNK_SAMPLES));
        assert!(!producer.has_room(CHUNK_SAMPLES + 1, CHUNK_SAMPLES + 1));
    }

    #[test]
    fn wide_samples_are_bounded_by_their_readings() {
        let (mut producer, consumer) = channel(Arc::default(), Arc::default());
        producer.set_readings_max(1_000);
        let wide = vec![Reading { metric: MetricId::RPS, value: 1.0 }; 32];
        let mut batch = Batch::default();
        for _ in 0..30 {
            batch.push(0, None, &wide);
        }
        assert!(producer.has_room(batch.len(), batch.readings()));
        producer.push(&batch, Now::default());
        producer.send(Now::default());
        assert!(!producer.has_room(2, 64));
        let mut sizes = Vec::new();
        while let Ok(Some(chunk)) = consumer.receive() {
            sizes.push(chunk.batch.readings());
            consumer.recycle(chunk);
        }
        assert_eq!(sizes, [CHUNK_READINGS, 960 - CHUNK_READINGS]);
        assert!(producer.has_room(2, 64));
    }

    #[test]
    fn rounds_of_one_sample_are_bounded_too() {
        let (mut producer, _consumer) = channel(Arc::default(), Arc::default());
        let mut sent = 0;
        while producer.has_room(1, 1) {
            producer.push(&batch(0..1), Now::default());
            producer.send(Now::default());
            sent += 1;
        }
        assert!((CHUNKS_MAX - 2..=CHUNKS_MAX).contains(&sent), "{sent}");
    }

    #[test]
    fn a_parked_consumer_is_woken_by_every_sample() {
        let sleeper = Arc::new(Sleeper::default());
        let (mut producer, consumer) = channel(sleeper.clone(), Arc::default());
        let thread = std::thread::spawn(move || {
            sleeper.register();
            let mut seen = 0;
            loop {
                match consumer.receive() {
                    Ok(Some(chunk)) => {
                        seen += chunk.batch.len();
                        consumer.recycle(chunk);
                    }
                    Ok(None) if seen == 10_000 => return,
                    Ok(None) => sleeper.park(|| consumer.is_ready()),
                    Err(QueueClosed) => return,
                }
            }
        });
        for _ in 0..10_000 {
            while !producer.has_room(1, 1) {
                std::thread::yield_now();
            }
            producer.push(&batch(0..1), Now::default());
            producer.send(Now::default());
        }
        thread.join().expect("every sample was seen");
    }
}
