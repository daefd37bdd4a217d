//! One worker's cache of series: from the bytes that name a series in a body to its ids.
//!
//! Senders repeat the same bytes, mostly in the same order. So the entry after the last hit is compared first, and
//! a hash is needed only where the order changes. A hit allocates nothing.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::histograms::Part;
use super::rates::{RateSlot, SeriesIds};
use crate::registry::Full;
use sigmad_sample::{DeviceId, MetricId};

/// Series in one cache: those of a hundred hosts with a hundred and sixty each.
const ENTRIES_MAX: usize = 16 * 1024;
/// Bytes of their keys, 192 each: a series of Prometheus with eight labels.
const KEY_BYTES_MAX: usize = ENTRIES_MAX * 192;
/// A full cache takes no more, so that those in it are still found, and is emptied once in a minute: series that are
/// no longer sent make room.
const FULL_S: u32 = 60;
/// Bytes of a full cache; its table has up to two places for each entry.
pub(super) const CACHE_BYTES: usize =
    KEY_BYTES_MAX + ENTRIES_MAX * (size_of::<Entry>() + 4 * size_of::<u32>());

/// What a known series is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Known {
    /// Left out by `--keep` or `--drop`.
    Dropped,
    /// There was no room in that second: of streams, or of names.
    Full { second: u32, full: Full },
    /// Judged as it is.
    Gauge(SeriesIds),
    /// Judged by its rate.
    Counter(SeriesIds, RateSlot),
    /// A whole histogram.
    Histogram(HistogramIds),
    /// A part of a histogram.
    Part(HistogramIds, Part),
}

/// The ids of the series of a histogram; those that it does not have are [`MetricId::NONE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HistogramIds {
    pub(super) device: Option<DeviceId>,
    pub(super) count: MetricId,
    pub(super) mean: MetricId,
    pub(super) p50: MetricId,
    pub(super) p99: MetricId,
}

impl HistogramIds {
    /// The series that stands for all of them.
    pub(super) fn key(self) -> SeriesIds {
        let all = [self.p99, self.p50, self.mean, self.count];
        let metric = all.into_iter().find(|metric| *metric != MetricId::NONE);
        SeriesIds { device: self.device, metric: metric.unwrap_or(MetricId::NONE) }
    }
}

#[derive(Debug)]
struct Entry {
    key_at: u32,
    key_len: u32,
    known: Known,
}

/// The index of an entry, until the next insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryIndex(u32);

/// Recent series of one worker.
#[derive(Debug, Default)]
pub(super) struct SeriesCache {
    hasher: RandomState,
    by_key: HashTable<u32>,
    entries: Vec<Entry>,
    keys: Vec<u8>,
    /// The entry that is expected next.
    next: usize,
    full_since_s: u32,
}

impl SeriesCache {
    /// The entry of a key.
    #[inline]
    pub(super) fn find(&mut self, key: &[u8]) -> Option<EntryIndex> {
        let index = if self.is_key(self.next, key) {
            self.next
        } else {
            let Self { by_key, entries, keys, .. } = self;
            let hash = hash_of(&self.hasher, key);
            *by_key.find(hash, |&index| key_of(&entries[index as usize], keys) == key)? as usize
        };
        self.next = index + 1;
        Some(EntryIndex(index as u32))
    }

    #[inline]
    fn is_key(&self, index: usize, key: &[u8]) -> bool {
        self.entries.get(index).is_some_and(|entry| key_of(entry, &self.keys) == key)
    }

    #[inline]
    pub(super) fn known(&mut self, index: EntryIndex) -> &mut Known {
        &mut self.entries[index.0 as usize].known
    }

    /// Keeps what is known of a key, as far as there is room.
    pub(super) fn insert(&mut self, key: &[u8], known: Known, now_s: u32) {
        if let Some(index) = self.find(key) {
            *self.known(index) = known;
            return;
        }
        if self.entries.len() >= ENTRIES_MAX || self.keys.len() + key.len() > KEY_BYTES_MAX {
            if now_s.saturating_sub(self.full_since_s) < FULL_S {
                return;
            }
            self.clear();
            self.full_since_s = now_s;
            if key.len() > KEY_BYTES_MAX {
                return;
            }
        }
        if self.entries.is_empty() {
            // The system provides it without touching it, and it never moves.
            self.entries.reserve_exact(ENTRIES_MAX);
            self.keys.reserve_exact(KEY_BYTES_MAX);
        }
        let entry = Entry { key_at: self.keys.len() as u32, key_len: key.len() as u32, known };
        self.keys.extend_from_slice(key);
        self.entries.push(entry);
        self.next = self.entries.len();
        let Self { hasher, by_key, entries, keys, .. } = self;
        let index = (entries.len() - 1) as u32;
        by_key.insert_unique(hash_of(hasher, key), index, |&index| {
            hash_of(hasher, key_of(&entries[index as usize], keys))
        });
    }

    /// Forgets all series, and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.by_key.clear();
        self.entries.clear();
        self.keys.clear();
        self.next = 0;
    }
}

#[inline]
fn key_of<'a>(entry: &Entry, keys: &'a [u8]) -> &'a [u8] {
    &keys[entry.key_at as usize..][..entry.key_len as usize]
}

#[inline]
fn hash_of(hasher: &RandomState, key: &[u8]) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write(key);
    hasher.finish()
}

const _: () = assert!(KEY_BYTES_MAX <= u32::MAX as usize);
