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
    /// No series: what the keys of some series have in common.
    Common,
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

/// What names a series in one worker's cache: some bytes, and the scope within which they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeriesKey<'k> {
    pub(super) scope: Scope,
    pub(super) bytes: &'k [u8],
}

/// Whose names the bytes of a key are: those of a format, or those within another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scope(u64);

impl Scope {
    /// Keys whose first byte is that of their format.
    pub(super) const TAGGED: Self = Self(0);
    const WITHIN: u64 = 1 << 63;
    const KIND_BITS: u32 = 48;

    /// Keys of one kind of a format.
    #[inline(always)]
    pub(super) const fn of_format(tag: u8, kind: u64) -> Self {
        debug_assert!(tag < 0x80 && kind < 1 << Self::KIND_BITS);
        Self((tag as u64) << Self::KIND_BITS | kind)
    }

    /// Keys of one kind within that of an entry. When the entry is gone, no other one has the same scope.
    #[inline(always)]
    pub(super) const fn within(index: EntryIndex, kind: u16) -> Self {
        let place = (kind as u64) << 16 | index.at as u64;
        Self(Self::WITHIN | (index.generation as u64) << 32 | place)
    }
}
const _: () = assert!(ENTRIES_MAX <= 1 << 16, "a scope has 16 bits for an entry");

#[derive(Debug)]
struct Entry {
    scope: Scope,
    key_at: u32,
    key_len: u32,
    known: Known,
}

/// An entry, for as long as the cache is not emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryIndex {
    at: u32,
    generation: u32,
}

/// Recent series of one worker.
#[derive(Debug, Default)]
pub(super) struct SeriesCache {
    hasher: RandomState,
    by_key: HashTable<u32>,
    entries: Vec<Entry>,
    keys: Vec<u8>,
    /// The entry that is expected next.
    next: usize,
    /// How often the cache was emptied, modulo 2^31: 68 years at once a second.
    generation: u32,
    full_since_s: u32,
}

impl SeriesCache {
    /// The entry of a key.
    #[inline(always)]
    pub(super) fn find(&mut self, key: SeriesKey<'_>) -> Option<EntryIndex> {
        let at = if self.is_key(self.next, key) { self.next } else { self.search(key)? };
        let index = self.index(at);
        self.found(index);
        Some(index)
    }

    #[inline(never)]
    fn search(&self, key: SeriesKey<'_>) -> Option<usize> {
        let Self { by_key, entries, keys, .. } = self;
        let is_key = |&at: &u32| {
            let entry = &entries[at as usize];
            entry.scope == key.scope && key_of(entry, keys) == key.bytes
        };
        by_key.find(hash_of(&self.hasher, key), is_key).map(|&at| at as usize)
    }

    #[inline(always)]
    fn is_key(&self, at: usize, key: SeriesKey<'_>) -> bool {
        let Some(entry) = self.entries.get(at) else { return false };
        entry.scope == key.scope && is_same(key_of(entry, &self.keys), key.bytes)
    }

    /// The entry that is expected next, if it has that scope, and the bytes of its key.
    #[inline]
    pub(super) fn expected(&self, scope: Scope) -> Option<(EntryIndex, &[u8])> {
        self.entry(self.next, scope)
    }

    /// The entry after another one, in the same way.
    #[inline]
    pub(super) fn expected_after(
        &self,
        index: EntryIndex,
        scope: Scope,
    ) -> Option<(EntryIndex, &[u8])> {
        self.entry(index.at as usize + 1, scope)
    }

    #[inline]
    fn entry(&self, at: usize, scope: Scope) -> Option<(EntryIndex, &[u8])> {
        let entry = self.entries.get(at).filter(|entry| entry.scope == scope)?;
        Some((self.index(at), key_of(entry, &self.keys)))
    }

    /// Takes note that the series after this one are expected; after the last one the sender begins anew.
    #[inline]
    pub(super) fn found(&mut self, index: EntryIndex) {
        let next = index.at as usize + 1;
        self.next = if next < self.entries.len() { next } else { 0 };
    }

    #[inline]
    fn index(&self, at: usize) -> EntryIndex {
        EntryIndex { at: at as u32, generation: self.generation }
    }

    /// What is known of an entry; None once the cache has been emptied.
    #[inline]
    pub(super) fn known(&mut self, index: EntryIndex) -> Option<&mut Known> {
        if index.generation != self.generation {
            return None;
        }
        Some(&mut self.entries.get_mut(index.at as usize)?.known)
    }

    /// Keeps what is known of a key, as far as there is room.
    pub(super) fn insert(
        &mut self,
        key: SeriesKey<'_>,
        known: Known,
        now_s: u32,
    ) -> Option<EntryIndex> {
        if let Some(index) = self.find(key) {
            *self.known(index)? = known;
            return Some(index);
        }
        let key_len = key.bytes.len();
        if self.entries.len() >= ENTRIES_MAX || self.keys.len() + key_len > KEY_BYTES_MAX {
            if now_s.saturating_sub(self.full_since_s) < FULL_S {
                return None;
            }
            self.clear();
            self.full_since_s = now_s;
            if key_len > KEY_BYTES_MAX {
                return None;
            }
        }
        if self.entries.is_empty() {
            // The system provides it without touching it, and it never moves.
            self.entries.reserve_exact(ENTRIES_MAX);
            self.keys.reserve_exact(KEY_BYTES_MAX);
        }
        let (key_at, key_len) = (self.keys.len() as u32, key_len as u32);
        self.keys.extend_from_slice(key.bytes);
        self.entries.push(Entry { scope: key.scope, key_at, key_len, known });
        self.next = self.entries.len();
        let Self { hasher, by_key, entries, keys, .. } = self;
        let at = (entries.len() - 1) as u32;
        by_key.insert_unique(hash_of(hasher, key), at, |&at| {
            let entry = &entries[at as usize];
            hash_of(hasher, SeriesKey { scope: entry.scope, bytes: key_of(entry, keys) })
        });
        Some(self.index(at as usize))
    }

    /// Forgets all series, and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.by_key.clear();
        self.entries.clear();
        self.keys.clear();
        self.next = 0;
        self.generation = (self.generation + 1) % (1 << 31);
    }
}

#[inline]
fn key_of<'a>(entry: &Entry, keys: &'a [u8]) -> &'a [u8] {
    &keys[entry.key_at as usize..][..entry.key_len as usize]
}

/// Whether two keys are equal; short ones are compared in place, without a call.
#[inline(always)]
pub(super) fn is_same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    match a.len() {
        4..=7 => have_same_ends::<4>(a, b),
        8..=15 => have_same_ends::<8>(a, b),
        16..=32 => have_same_ends::<16>(a, b),
        _ => a == b,
    }
}

/// Whether two texts of one length begin and end with the same bytes.
#[inline(always)]
fn have_same_ends<const N: usize>(a: &[u8], b: &[u8]) -> bool {
    a.first_chunk::<N>() == b.first_chunk::<N>() && a.last_chunk::<N>() == b.last_chunk::<N>()
}

/// What follows `start` in `text`, if it begins so.
#[inline(always)]
pub(super) fn strip<'t>(text: &'t [u8], start: &[u8]) -> Option<&'t [u8]> {
    let (first, rest) = text.split_at_checked(start.len())?;
    is_same(first, start).then_some(rest)
}

#[inline]
fn hash_of(hasher: &RandomState, key: SeriesKey<'_>) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write_u64(key.scope.0);
    hasher.write(key.bytes);
    hasher.finish()
}

const _: () = assert!(KEY_BYTES_MAX <= u32::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn key(bytes: &[u8]) -> SeriesKey<'_> {
        SeriesKey { scope: Scope::TAGGED, bytes }
    }

    #[test]
    fn a_full_cache_takes_no_more_and_begins_anew_after_a_minute() {
        let mut cache = SeriesCache::default();
        let name = |at: usize| at.to_ne_bytes();
        let first = cache.insert(key(&name(0)), Known::Common, 100).expect("room");
        for at in 1..ENTRIES_MAX {
            assert!(cache.insert(key(&name(at)), Known::Common, 100).is_some(), "{at}");
        }
        // What is there is found and changed, and nothing is new, until a minute after the cache was emptied last.
        assert_eq!(cache.find(key(&name(0))), Some(first));
        assert_eq!(cache.insert(key(&name(0)), Known::Dropped, 100), Some(first));
        assert_eq!(cache.known(first), Some(&mut Known::Dropped));
        cache.full_since_s = 100;
        assert_eq!(cache.insert(key(b"new"), Known::Common, 100 + FULL_S - 1), None);
        assert_eq!(cache.find(key(b"new")), None);
        let new = cache.insert(key(b"new"), Known::Common, 100 + FULL_S).expect("room");
        assert_eq!(cache.find(key(b"new")), Some(new));
        assert_eq!((cache.find(key(&name(0))), cache.known(first)), (None, None));
        assert_ne!(new, first, "another one in the same place");
        assert_ne!(Scope::within(new, 0), Scope::within(first, 0));
        assert_eq!(cache.full_since_s, 100 + FULL_S);
    }

    #[test]
    fn the_bytes_of_all_keys_are_bounded() {
        let mut cache = SeriesCache::default();
        let large = vec![b'x'; KEY_BYTES_MAX];
        assert!(cache.insert(key(&large), Known::Common, 100).is_some());
        assert!(cache.insert(key(b"y"), Known::Common, 100 + FULL_S - 1).is_some(), "emptied");
        assert_eq!(cache.insert(key(&large), Known::Common, 101 + FULL_S), None);
        assert!(cache.find(key(b"y")).is_some());
        let too_large = vec![b'x'; KEY_BYTES_MAX + 1];
        assert_eq!(cache.insert(key(&too_large), Known::Common, 1_000), None);
        assert_eq!(cache.find(key(&too_large)), None);
    }

    #[test]
    fn the_generation_changes_each_time_the_cache_is_emptied() {
        let mut cache = SeriesCache::default();
        let mut seen = Vec::new();
        for _ in 0..3 {
            let index = cache.insert(key(b"x"), Known::Common, 1).expect("room");
            assert!(!seen.contains(&index));
            seen.push(index);
            cache.clear();
        }
        cache.generation = (1 << 31) - 1;
        cache.clear();
        assert_eq!(cache.generation, 0, "a scope has 31 bits for it");
    }
}
