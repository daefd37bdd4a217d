//! How many bytes of judged samples may wait for Redis.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::chunk::CHUNK_BYTES;
use crate::shards::ShardLayout;

/// One part in 16 of the budget is reserved for chunks in flight, so that a full store still takes newer
/// samples while it drops its oldest.
const IN_FLIGHT_PART: usize = 16;

/// The bytes that the store and the queue may hold together, and how many the store holds now.
#[derive(Debug)]
pub struct ByteBudget {
    bytes_max: usize,
    /// Chunks that may wait however much the store holds.
    chunks_min: usize,
    /// Written by the store, read by the queue. Relaxed: it orders nothing else.
    store_bytes: AtomicUsize,
}

impl ByteBudget {
    /// A budget of `bytes_max`, of which nothing is used.
    pub fn new(bytes_max: usize) -> Self {
        Self::of_shards(bytes_max, ShardLayout::ONE)
    }

    /// The same, where so many shards send chunks: two of each may always wait, one that arrives and one that leaves.
    pub(super) fn of_shards(bytes_max: usize, layout: ShardLayout) -> Self {
        let (chunks_min, store_bytes) = (2 * layout.threads(), AtomicUsize::new(0));
        Self { bytes_max, chunks_min, store_bytes }
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

    /// Chunks that may wait in the queue.
    pub(super) fn chunks_max(&self) -> usize {
        let store_bytes = self.store_bytes.load(Ordering::Relaxed);
        (self.bytes_max.saturating_sub(store_bytes) / CHUNK_BYTES).max(self.chunks_min)
    }
}
