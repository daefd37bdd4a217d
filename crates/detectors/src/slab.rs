//! The states that one detector keeps of all streams, by index.
//!
//! A slab grows by chunks that never move.

use crate::detector::Detector;
use crate::saved::{Saved, saved};

/// log₂ of the states in a chunk: some 800 kB of the largest.
const CHUNK_BITS: u32 = 8;

/// A detector's state of one stream.
#[derive(Debug, Default)]
struct SlabEntry<D> {
    detector: D,
    /// The score of the last value.
    score: f64,
}

saved!(impl [D: Saved] SlabEntry<D> { detector, score });

/// The states of one detector.
#[derive(Debug)]
pub(crate) struct Slab<D> {
    chunks: Vec<Vec<SlabEntry<D>>>,
}

impl<D> Default for Slab<D> {
    fn default() -> Self {
        Self { chunks: Vec::new() }
    }
}

impl<D> Slab<D> {
    /// Bytes of one state.
    pub(crate) const STATE_BYTES: usize = size_of::<SlabEntry<D>>();
}

impl<D: Detector> Slab<D> {
    /// Makes a new state at `index`, which was in use before or is the next.
    pub(crate) fn take(&mut self, index: usize) {
        let (chunk, within) = (index >> CHUNK_BITS, index & ((1 << CHUNK_BITS) - 1));
        if chunk == self.chunks.len() {
            self.chunks.push(Vec::with_capacity(1 << CHUNK_BITS));
        }
        match self.chunks[chunk].get_mut(within) {
            Some(entry) => *entry = SlabEntry::default(),
            None => self.chunks[chunk].push(SlabEntry::default()),
        }
    }

    /// Judges a value. Returns its score, and whether it is an anomaly.
    #[inline]
    pub(crate) fn observe(&mut self, index: usize, timestamp_us: i64, value: f64) -> (f64, bool) {
        let entry = &mut self.chunks[index >> CHUNK_BITS][index & ((1 << CHUNK_BITS) - 1)];
        entry.score = entry.detector.observe(timestamp_us, value);
        (entry.score, entry.score >= D::THRESHOLD)
    }

    pub(crate) fn prefetch(&self, index: usize) {
        prefetch(&self.chunks[index >> CHUNK_BITS][index & ((1 << CHUNK_BITS) - 1)]);
    }

    /// Appends the state as [`Saved`] writes it.
    pub(crate) fn write(&self, index: usize, to: &mut Vec<u8>) {
        self.chunks[index >> CHUNK_BITS][index & ((1 << CHUNK_BITS) - 1)].write(to);
    }

    /// Replaces the state by one that was written. False, and nothing is replaced, if it can't be read.
    pub(crate) fn read(&mut self, index: usize, mut from: &[u8]) -> bool {
        let entry = SlabEntry::read(&mut from).filter(|_| from.is_empty());
        let is_read = entry.is_some();
        if let Some(entry) = entry {
            self.chunks[index >> CHUNK_BITS][index & ((1 << CHUNK_BITS) - 1)] = entry;
        }
        is_read
    }

    /// The bytes of each state that was written.
    pub(crate) fn saved_bytes() -> usize {
        let mut bytes = Vec::new();
        SlabEntry::<D>::default().write(&mut bytes);
        bytes.len()
    }

    /// The score of the last value.
    pub(crate) fn score(&self, index: usize) -> f64 {
        self.chunks[index >> CHUNK_BITS][index & ((1 << CHUNK_BITS) - 1)].score
    }
}

/// Prefetches every cache line of a value.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn prefetch<T>(value: &T) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    const LINE_BYTES: usize = 64;
    let first = std::ptr::from_ref(value).cast::<i8>();
    for offset in (0..size_of::<T>()).step_by(LINE_BYTES) {
        // SAFETY: a prefetch reads and writes nothing, and the address lies within `value`.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(offset)) };
    }
}

/// Stable Rust has no prefetch for other architectures.
#[cfg(not(target_arch = "x86_64"))]
pub fn prefetch<T>(_value: &T) {}
