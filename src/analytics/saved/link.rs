//! What analytics and the thread `state` send each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_channel::{Receiver, Sender};
use sigmad_counters::Histogram;
use sigmad_sample::Batch;

use super::export::Export;
use super::restore::NotRestored;
use crate::shards::ShardPart;

/// Blocks on their way from all shards to the disk: 2 MiB.
pub const SNAPSHOT_MESSAGES_MAX: usize = 16;
/// Blocks on their way from the disk to one shard: 1 MiB.
pub const RESTORE_MESSAGES_MAX: usize = 8;

/// A part of a snapshot, on its way to the disk.
#[derive(Debug)]
pub enum SnapshotMessage {
    /// A snapshot begins. One of this shard that has not ended is given up.
    Begin {
        /// The shard.
        shard: usize,
        /// Chunks that the shard has judged since the start.
        position: u64,
        /// The shard ends with it: all workers have ended.
        is_last: bool,
    },
    /// Its next block.
    Block {
        /// The shard.
        shard: usize,
        /// Records, as of [`form`](super::form).
        block: Vec<u8>,
    },
    /// It is whole.
    End {
        /// The shard.
        shard: usize,
    },
    /// It will not be whole: the disk is slower than the snapshot needs.
    GivenUp {
        /// The shard.
        shard: usize,
        /// What was taken: to give its memory back takes longer than a turn may.
        rest: Box<Export>,
    },
}

/// What a shard is restored from, on its way from the disk.
#[derive(Debug)]
pub enum RestoreMessage {
    /// Records, as of [`form`](super::form), with the ids of this process.
    Block(Vec<u8>),
    /// A chunk of the journal, with the ids of this process. Those come after the blocks.
    Chunk(ReplayedChunk),
    /// That is all. Missing where the drain ends the start.
    Whole,
}

/// A chunk that is judged again.
#[derive(Debug)]
pub struct ReplayedChunk {
    /// The windows by which it is judged. With another number of shards each chunk is judged by several, in parts.
    pub part: ShardPart,
    /// When it arrived, microseconds since 1970.
    pub arrived_us: i64,
    /// Its samples.
    pub batch: Batch,
}

/// A shard's ends of the ways to and from the thread `state`.
#[derive(Debug)]
pub struct StateLink {
    /// The shard.
    pub shard: usize,
    /// What it knew before the restart. Disconnected once that is all.
    pub restore: Receiver<RestoreMessage>,
    /// Takes one report, once it is restored.
    pub restored: Sender<NotRestored>,
    /// The way to the disk.
    pub snapshots: Sender<SnapshotMessage>,
    /// Until when it waits for the disk.
    pub deadline: DrainDeadline,
    /// How long its turns have taken for snapshots.
    pub pauses: Arc<Histogram>,
}

/// When the drain ends, on the monotonic clock. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct DrainDeadline(Arc<AtomicU64>);

impl DrainDeadline {
    /// Sets it. No deadline is 0.
    pub fn set(&self, deadline_ns: u64) {
        // Relaxed: no other data depends on it; those who wait read it again and again.
        self.0.store(deadline_ns.max(1), Relaxed);
    }

    /// Whether it was set, and has passed.
    pub fn has_passed(&self, now_ns: u64) -> bool {
        let deadline_ns = self.0.load(Relaxed);
        deadline_ns > 0 && now_ns >= deadline_ns
    }
}
