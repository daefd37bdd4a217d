//! The journal: judged chunks on their way from the analytics threads to the state directory, in the order judged.
//!
//! Judging is a function of its input in order, so what a shard knows is its last snapshot and the chunks after it,
//! judged again by the same code. An analytics thread copies each chunk into a buffer and passes it on; it does no I/O
//! and takes no lock. The thread `journal` writes records ([`record`]) and makes them durable ([`thread`]).
//!
//! A queue holds [`CHUNKS_MAX`] chunks. What a slow disk can't take is dropped and counted: the positions of the records
//! show the gap, nothing after it is used without a snapshot, and the thread asks for one.

pub mod counters;
pub mod record;
pub mod thread;

use std::sync::Arc;

use crate::acknowledgement::AckRight;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use sigmad_counters::Counter;
use sigmad_sample::Batch;

/// Chunks of one shard on their way to the disk: a quarter of a second of a million samples a second. Full ones take
/// 20 MB.
pub const CHUNKS_MAX: usize = 2_048;

/// A chunk that was judged.
#[derive(Debug, Default)]
pub struct JudgedInput {
    /// How many chunks the shard had judged before.
    pub position: u64,
    /// When it arrived, microseconds since 1970.
    pub arrived_us: i64,
    /// Its samples.
    pub batch: Batch,
    /// With `--ack disk`: a response waits for it.
    pub right: Option<AckRight>,
}

/// What a shard counts of its journal.
#[derive(Debug, Default)]
pub struct JournalQueueCounters {
    /// Samples passed on.
    pub samples_total: Counter,
    /// Samples that found the queue full.
    pub dropped_total: Counter,
}

/// The analytics thread's end.
#[derive(Debug)]
pub struct JournalProducer {
    full: Sender<Box<JudgedInput>>,
    emptied: Receiver<Box<JudgedInput>>,
    counters: Arc<JournalQueueCounters>,
}

/// The journal thread's end, of one shard.
#[derive(Debug)]
pub struct JournalConsumer {
    /// Chunks in order. Disconnected when the shard has ended.
    pub full: Receiver<Box<JudgedInput>>,
    emptied: Sender<Box<JudgedInput>>,
}

/// The queue of one shard.
pub fn channel(counters: Arc<JournalQueueCounters>) -> (JournalProducer, JournalConsumer) {
    let (full_sender, full) = bounded(CHUNKS_MAX);
    let (emptied_sender, emptied) = bounded(CHUNKS_MAX);
    let producer = JournalProducer { full: full_sender, emptied, counters };
    (producer, JournalConsumer { full, emptied: emptied_sender })
}

impl JournalProducer {
    /// Passes on a chunk that was judged at `position`.
    #[inline]
    pub fn push(&self, position: u64, arrived_us: i64, batch: &Batch, right: Option<AckRight>) {
        // Err: the first chunks have no buffer that was used before.
        let mut input = self.emptied.try_recv().unwrap_or_default();
        input.position = position;
        input.arrived_us = arrived_us;
        input.batch.copy_from(batch);
        input.right = right;
        match self.full.try_send(input) {
            Ok(()) => self.counters.samples_total.add(batch.len() as u64),
            // The right is dropped with its chunk.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.counters.dropped_total.add(batch.len() as u64);
            }
        }
    }
}

impl JournalConsumer {
    /// Returns a buffer.
    pub fn recycle(&self, input: Box<JudgedInput>) {
        // Err: the shard has ended, or has enough of them.
        let _ = self.emptied.try_send(input);
    }
}
