//! The sample queue: chunks of samples on their way from one worker to the analytics thread.
//!
//! Each worker owns a [`SampleProducer`]: a bounded crossbeam channel of chunks, and a second channel that
//! returns emptied chunks. A worker fills a chunk and sends it when it is full or when its round ends, so
//! that the cost of the queue is shared by many samples. Once the chunks in flight exist, nothing is allocated.
//!
//! A queue holds [`QUEUE_SAMPLES_MAX`] samples at most, and no more readings than it is told. The worker asks [`SampleProducer::has_room`] before it
//! accepts a request; [`SampleProducer::push`] never fails after that.
//!
//! Under load the analytics thread dozes: a timed park that producers do not end, so that a request costs
//! no system call. When idle it parks, and the next producer wakes it. See [`Sleeper`].

mod sleeper;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

pub use sleeper::Sleeper;

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
}

/// The worker's end of a queue.
#[derive(Debug)]
pub struct SampleProducer {
    full: Sender<Box<SampleChunk>>,
    emptied: Receiver<Box<SampleChunk>>,
    closed: Arc<AtomicBool>,
    sleeper: Arc<Sleeper>,
    /// Last in, first out: the chunk used most recently is still in the cache.
    #[expect(clippy::vec_box, reason = "boxes are what the channels carry")]
    spare: Vec<Box<SampleChunk>>,
    filling: Box<SampleChunk>,
    samples_in_flight: usize,
    readings_in_flight: usize,
    readings_max: usize,
    chunks_in_flight: usize,
    counters: Arc<SampleQueueCounters>,
}

/// Counters of one queue, written by its worker.
#[derive(Debug, Default)]
pub struct SampleQueueCounters {
    /// The index of the worker, for the label `worker`.
    pub worker: usize,
    /// Samples sent since the start.
    pub samples_total: Counter,
    /// Chunks sent since the start.
    pub chunks_total: Counter,
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

/// The analytics thread's end of one queue.
#[derive(Debug)]
pub struct SampleConsumer {
    full: Receiver<Box<SampleChunk>>,
    emptied: Sender<Box<SampleChunk>>,
    closed: Arc<AtomicBool>,
}

/// A queue whose consumer sleeps in `sleeper`.
pub fn channel(
    sleeper: Arc<Sleeper>,
    counters: Arc<SampleQueueCounters>,
) -> (SampleProducer, SampleConsumer) {
    let (full_sender, full_receiver) = bounded(CHUNKS_MAX);
    let (emptied_sender, emptied_receiver) = bounded(CHUNKS_MAX);
    let closed = Arc::new(AtomicBool::new(false));
    let producer = SampleProducer {
        full: full_sender,
        emptied: emptied_receiver,
        closed: closed.clone(),
        sleeper,
        spare: Vec::new(),
        filling: Box::default(),
        samples_in_flight: 0,
        readings_in_flight: 0,
        readings_max: QUEUE_READINGS_MAX,
        chunks_in_flight: 0,
        counters,
    };
    (producer, SampleConsumer { full: full_receiver, emptied: emptied_sender, closed })
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
            // When the analytics thread shares our core, it may wait for us to leave it.
            self.sleeper.wake();
            std::thread::yield_now();
        }
        self.reclaim();
        self.fits(samples, readings)
    }

    fn fits(&self, samples: usize, readings: usize) -> bool {
        // Two chunks may be partly filled: the first that takes samples and the last.
        let chunks = samples / CHUNK_SAMPLES + readings / CHUNK_READINGS + 2;
        self.samples_in_flight + self.filling.batch.len() + samples <= QUEUE_SAMPLES_MAX
            && self.readings_in_flight + self.filling.batch.readings() + readings
                <= self.readings_max
            && self.chunks_in_flight + chunks <= CHUNKS_MAX
    }

    /// Takes the samples, in order. Full chunks are sent at once, the last one by [`SampleProducer::send`].
    #[inline]
    pub fn push(&mut self, batch: &Batch, now: Now) {
        let mut samples = batch.iter();
        while samples.len() > 0 {
            self.filling.batch.take_from(&mut samples, CHUNK_SAMPLES, CHUNK_READINGS);
            let batch = &self.filling.batch;
            if batch.len() == CHUNK_SAMPLES || batch.readings() >= CHUNK_READINGS {
                self.send(now);
            }
        }
    }

    /// Sends what was pushed. Called before the responses that acknowledge it.
    #[inline]
    pub fn send(&mut self, now: Now) {
        self.dispatch(now, None);
    }

    /// [`SampleProducer::send`] for a chunk whose time to the verdict is measured; `sent_ns` is the time now.
    pub fn send_timed(&mut self, now: Now, sent_ns: u64) {
        self.dispatch(now, Some(sent_ns));
    }

    #[inline]
    fn dispatch(&mut self, now: Now, sent_ns: Option<u64>) {
        if self.filling.batch.is_empty() {
            return;
        }
        self.reclaim();
        let samples = self.filling.batch.len();
        let empty = self.spare.pop().unwrap_or_default();
        let mut chunk = std::mem::replace(&mut self.filling, empty);
        chunk.sent = now;
        chunk.sent_ns = sent_ns;
        self.samples_in_flight += samples;
        self.readings_in_flight += chunk.batch.readings();
        self.chunks_in_flight += 1;
        self.counters.samples_total.add(samples as u64);
        self.counters.chunks_total.add(1);
        self.counters.samples_in_flight.set(self.samples_in_flight as u64);
        // has_room() keeps chunks in flight below the channel's capacity, and the consumer outlives us.
        self.full
            .try_send(chunk)
            .expect("the analytics thread outlives its workers, and the channel has room");
        self.sleeper.wake_if_parked();
    }

    /// Takes back the chunks that the consumer has recycled.
    fn reclaim(&mut self) {
        while let Ok(mut chunk) = self.emptied.try_recv() {
            self.samples_in_flight -= chunk.batch.len();
            self.readings_in_flight -= chunk.batch.readings();
            self.chunks_in_flight -= 1;
            chunk.batch.clear();
            self.spare.push(chunk);
        }
    }
}

impl Drop for SampleProducer {
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
