//! The hand-over of samples from the workers to the analytics thread.
//!
//! Each worker owns a [`SampleProducer`]: a bounded crossbeam channel of blocks, and a second one on which
//! emptied blocks come back. A worker fills a block and sends it when it is full or its round ends,
//! so a sample crosses threads in company. Nothing is allocated once the blocks in flight have been.
//!
//! A lane holds [`QUEUE_SAMPLES_MAX`] samples at most; [`SampleProducer::has_room`] is asked before a request is
//! kept, and [`SampleProducer::push`] never fails after it.
//!
//! Sleeping: the analytics thread dozes under load (a timed park that no sender ends, so that a
//! request costs no system call) and parks when idle (which the next sender ends). See [`Sleeper`].

mod sleeper;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

pub use sleeper::Sleeper;

use sigmad_clock::Now;
use sigmad_counters::Counter;
use sigmad_sample::{Batch, QUEUE_SAMPLES_MAX};

/// Samples in one block: enough that its hand-over costs 2–3 ns a sample, few enough for the cache.
pub const BLOCK_SAMPLES: usize = 128;
/// Blocks on their way: rounds of one sample each can stay unread for 40 ms before one is refused.
pub const BLOCKS_MAX: usize = 8_192;
/// Turns that a worker without room leaves to others before it refuses: some microseconds, where the
/// analytics thread has a core of its own and is behind all the same.
const YIELDS_MAX: usize = 4;
const _: () = assert!(BLOCKS_MAX * BLOCK_SAMPLES >= 2 * QUEUE_SAMPLES_MAX);

/// Samples that travel together.
#[derive(Debug, Default)]
pub struct SampleChunk {
    /// The samples.
    pub batch: Batch,
    /// When the round began in which the worker sent it.
    pub sent: Now,
    /// When it was sent, if that is timed.
    pub sent_ns: Option<u64>,
}

/// The worker's end.
#[derive(Debug)]
pub struct SampleProducer {
    full: Sender<Box<SampleChunk>>,
    emptied: Receiver<Box<SampleChunk>>,
    closed: Arc<AtomicBool>,
    sleeper: Arc<Sleeper>,
    /// Last in, first out: the block most recently used is the one still in the cache.
    #[expect(clippy::vec_box, reason = "boxes are what the channels carry")]
    spare: Vec<Box<SampleChunk>>,
    filling: Box<SampleChunk>,
    samples_in_flight: usize,
    blocks_in_flight: usize,
    counters: Arc<SampleQueueCounters>,
}

/// What is counted of a lane; written by its worker.
#[derive(Debug, Default)]
pub struct SampleQueueCounters {
    /// Samples handed over since the start.
    pub samples_total: Counter,
    /// Blocks handed over since the start.
    pub blocks_total: Counter,
    /// Samples sent and not yet seen to be judged.
    pub samples_in_flight: Counter,
}

/// The analytics thread's end of one lane.
#[derive(Debug)]
pub struct SampleConsumer {
    full: Receiver<Box<SampleChunk>>,
    emptied: Sender<Box<SampleChunk>>,
    closed: Arc<AtomicBool>,
}

/// A lane whose reader sleeps in `sleeper`.
pub fn lane(
    sleeper: Arc<Sleeper>,
    counters: Arc<SampleQueueCounters>,
) -> (SampleProducer, SampleConsumer) {
    let (full, full_end) = bounded(BLOCKS_MAX);
    let (emptied_end, emptied) = bounded(BLOCKS_MAX);
    let closed = Arc::new(AtomicBool::new(false));
    let lane = SampleProducer {
        full,
        emptied,
        closed: closed.clone(),
        sleeper,
        spare: Vec::new(),
        filling: Box::default(),
        samples_in_flight: 0,
        blocks_in_flight: 0,
        counters,
    };
    (lane, SampleConsumer { full: full_end, emptied: emptied_end, closed })
}

impl SampleProducer {
    /// True when `samples` more can be kept. Asked before any of them is.
    #[inline]
    pub fn has_room(&mut self, samples: usize) -> bool {
        if self.fits(samples) {
            return true;
        }
        for _ in 0..YIELDS_MAX {
            self.reclaim();
            if self.fits(samples) {
                return true;
            }
            // Where the analytics thread has to share our core, it may be waiting for its turn.
            self.sleeper.wake();
            std::thread::yield_now();
        }
        self.reclaim();
        self.fits(samples)
    }

    fn fits(&self, samples: usize) -> bool {
        // Two blocks may be partly filled: the first that takes samples and the last.
        let blocks = samples / BLOCK_SAMPLES + 2;
        self.samples_in_flight + self.filling.batch.len() + samples <= QUEUE_SAMPLES_MAX
            && self.blocks_in_flight + blocks <= BLOCKS_MAX
    }

    /// Keeps the samples, in order; full blocks leave at once, the last at [`SampleProducer::send`].
    #[inline]
    pub fn push(&mut self, batch: &Batch, now: Now) {
        let mut samples = batch.iter();
        while samples.len() > 0 {
            self.filling.batch.take_from(&mut samples, BLOCK_SAMPLES);
            if self.filling.batch.len() == BLOCK_SAMPLES {
                self.send(now);
            }
        }
    }

    /// Sends what has been kept: called before the answers that promise it.
    #[inline]
    pub fn send(&mut self, now: Now) {
        self.dispatch(now, None);
    }

    /// [`SampleProducer::send`], for a block whose time to the verdict is taken: `sent_ns` is this moment.
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
        let mut block = std::mem::replace(&mut self.filling, empty);
        block.sent = now;
        block.sent_ns = sent_ns;
        self.samples_in_flight += samples;
        self.blocks_in_flight += 1;
        self.counters.samples_total.add(samples as u64);
        self.counters.blocks_total.add(1);
        self.counters.samples_in_flight.set(self.samples_in_flight as u64);
        // has_room() keeps blocks in flight below the channel's capacity, and the reader outlives us.
        self.full
            .try_send(block)
            .expect("the analytics thread outlives its lanes, which have room");
        self.sleeper.wake_if_parked();
    }

    /// Takes back the blocks that have been read.
    fn reclaim(&mut self) {
        while let Ok(mut block) = self.emptied.try_recv() {
            self.samples_in_flight -= block.batch.len();
            self.blocks_in_flight -= 1;
            block.batch.clear();
            self.spare.push(block);
        }
    }
}

impl Drop for SampleProducer {
    /// Says so to a reader that sleeps; the channel itself closes a moment later, too late for that.
    fn drop(&mut self) {
        // Release, for the Acquire in receive(): who sees it sees every block.
        self.closed.store(true, Ordering::Release);
        self.sleeper.wake_if_parked();
    }
}

impl SampleConsumer {
    /// The next block, if one is there. `Err` once the worker has gone and all is read.
    #[inline]
    pub fn receive(&self) -> Result<Option<Box<SampleChunk>>, QueueClosed> {
        // Asked first: what is not there after the close will never be.
        let closed = self.closed.load(Ordering::Acquire);
        match self.full.try_recv() {
            Ok(block) => Ok(Some(block)),
            Err(TryRecvError::Empty) if !closed => Ok(None),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => Err(QueueClosed),
        }
    }

    /// True when [`SampleConsumer::receive`] has something to say: a block, or that the worker has gone.
    pub fn has_news(&self) -> bool {
        !self.full.is_empty() || self.closed.load(Ordering::Acquire)
    }

    /// Gives a block back to its worker once it has been read.
    #[inline]
    pub fn give_back(&self, block: Box<SampleChunk>) {
        // Err: the worker has gone, and its blocks with it.
        let _ = self.emptied.try_send(block);
    }

    /// Blocks waiting.
    pub fn len(&self) -> usize {
        self.full.len()
    }

    /// True when no block waits.
    pub fn is_empty(&self) -> bool {
        self.full.is_empty()
    }
}

/// The worker of a lane has gone and everything it sent was read.
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

    fn values(block: &SampleChunk) -> Vec<usize> {
        block.batch.iter().map(|(_, readings)| readings[0].value as usize).collect()
    }

    #[test]
    fn samples_arrive_in_order_and_full_blocks_leave_at_once() {
        let (mut lane, end) = lane(Arc::default(), Arc::default());
        lane.push(&batch(0..BLOCK_SAMPLES + 5), Now::default());
        assert_eq!(end.len(), 1);
        lane.push(&batch(BLOCK_SAMPLES + 5..BLOCK_SAMPLES + 7), Now::default());
        lane.send(Now::default());
        let mut seen = Vec::new();
        while let Ok(Some(block)) = end.receive() {
            seen.extend(values(&block));
            end.give_back(block);
        }
        assert_eq!(seen, (0..BLOCK_SAMPLES + 7).collect::<Vec<_>>());
        drop(lane);
        assert_eq!(end.receive().err(), Some(QueueClosed));
    }

    #[test]
    fn a_full_lane_refuses_until_blocks_come_back() {
        let (mut lane, end) = lane(Arc::default(), Arc::default());
        assert!(lane.has_room(QUEUE_SAMPLES_MAX));
        lane.push(&batch(0..QUEUE_SAMPLES_MAX), Now::default());
        assert!(!lane.has_room(1));
        let block = end.receive().expect("open").expect("full");
        end.give_back(block);
        assert!(lane.has_room(BLOCK_SAMPLES));
        assert!(!lane.has_room(BLOCK_SAMPLES + 1));
    }

    #[test]
    fn rounds_of_one_sample_are_bounded_too() {
        let (mut lane, _end) = lane(Arc::default(), Arc::default());
        let mut sent = 0;
        while lane.has_room(1) {
            lane.push(&batch(0..1), Now::default());
            lane.send(Now::default());
            sent += 1;
        }
        assert!((BLOCKS_MAX - 2..=BLOCKS_MAX).contains(&sent), "{sent}");
    }

    #[test]
    fn a_parked_reader_is_woken_by_every_sample() {
        let sleeper = Arc::new(Sleeper::default());
        let (mut lane, end) = lane(sleeper.clone(), Arc::default());
        let reader = std::thread::spawn(move || {
            sleeper.adopt();
            let mut seen = 0;
            loop {
                match end.receive() {
                    Ok(Some(block)) => {
                        seen += block.batch.len();
                        end.give_back(block);
                    }
                    Ok(None) if seen == 10_000 => return,
                    Ok(None) => sleeper.park(|| end.has_news()),
                    Err(QueueClosed) => return,
                }
            }
        });
        for _ in 0..10_000 {
            while !lane.has_room(1) {
                std::thread::yield_now();
            }
            lane.push(&batch(0..1), Now::default());
            lane.send(Now::default());
        }
        reader.join().expect("every sample was seen");
    }
}
