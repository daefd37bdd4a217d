//! One worker's caches of the registry, so that a known name takes no lock.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::series_cache::is_same;
use crate::registry::{Admitted, Registry};
use sigmad_sample::{DeviceId, METRICS_MAX, MetricId};

/// Cached devices: 2 MiB, of which only the entries in use are touched.
const DEVICES_CACHED: usize = 32 * 1024;
/// One cache line.
const ENTRY_BYTES: usize = 64;
/// Longer names are looked up in the registry each time.
const NAME_BYTES_CACHED: usize = ENTRY_BYTES - NAME_AT;
/// Places that a name may be in. With one, a quarter of 10,000 devices would share theirs; with four, 4 in 100 do.
const WAYS: usize = 4;
const SETS: usize = DEVICES_CACHED / WAYS;
const TAG_BITS: usize = u64::BITS as usize / WAYS;
/// The lowest bit of each tag.
const ONE_EACH: u64 = u64::MAX / u16::MAX as u64;
const _: () = assert!(SETS.is_power_of_two());

/// Offsets of the fields of an entry.
const MASK_AT: usize = 0;
const INDEX_AT: usize = 8;
const GENERATION_AT: usize = 12;
const LENGTH_AT: usize = 16;
const NAME_AT: usize = 17;

/// Cached streams of metrics without a bit in the mask of their device: those of a hundred devices with a hundred and
/// sixty each. Past it the cache is emptied.
const STREAMS_CACHED: usize = 16 * 1024;

/// Bytes of the caches of devices and streams when every entry is in use; a table has up to two places for each, and a
/// byte beside each place.
pub(super) const CACHE_BYTES: usize = DEVICES_CACHED * (ENTRY_BYTES + size_of::<u16>())
    + 2 * STREAMS_CACHED * (size_of::<(DeviceId, MetricId)>() + 1);

/// Recent devices: a name has a set of [`WAYS`] entries, and takes one of them in turn when all are in use.
pub(super) struct DeviceCache {
    /// Of each entry of a set some bits of its hash, so that a name touches the line of one entry; 0 for an empty one.
    tags: Vec<u64>,
    /// Bytes and not entries: the system provides zeroed bytes without touching them.
    memory: Vec<u8>,
    /// Offset of the first entry, so that no entry crosses a cache line.
    first: usize,
    /// Which entry of a full set is replaced next.
    turn: usize,
}

impl DeviceCache {
    pub(super) fn new() -> Self {
        let memory = vec![0_u8; DEVICES_CACHED * ENTRY_BYTES + ENTRY_BYTES];
        let first = memory.as_ptr().align_offset(ENTRY_BYTES).min(ENTRY_BYTES);
        Self { tags: vec![0; SETS], memory, first, turn: 0 }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }

    /// The set of a name, and its tag.
    #[inline]
    fn place(hash: u64) -> (usize, u16) {
        /// Of Fibonacci hashing: names that differ in their last digits alone have hashes that agree in many bits.
        const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
        let place = hash.wrapping_mul(SPREAD) >> 32;
        (place as usize % SETS, (place >> 16) as u16 | 1)
    }

    fn offset(&self, set: usize, way: usize) -> usize {
        self.first + (set * WAYS + way) * ENTRY_BYTES
    }

    /// The offset of the entry with a name.
    #[inline]
    fn find(&self, (set, tag): (usize, u16), name: &[u8]) -> Option<usize> {
        let mut left = ways_with(self.tags[set], tag);
        while left != 0 {
            let offset = self.offset(set, first_way(left));
            let length = usize::from(self.memory[offset + LENGTH_AT]);
            if is_same(&self.memory[offset + NAME_AT..][..length], name) {
                return Some(offset);
            }
            left &= left - 1;
        }
        None
    }

    #[inline]
    pub(super) fn get(&self, hash: u64, name: &[u8]) -> Option<Admitted> {
        let offset = self.find(Self::place(hash), name)?;
        let entry: &[u8; ENTRY_BYTES] = self.memory[offset..].first_chunk()?;
        let (mask, rest) = entry.split_first_chunk::<{ INDEX_AT - MASK_AT }>()?;
        let (index, rest) = rest.split_first_chunk::<{ GENERATION_AT - INDEX_AT }>()?;
        let generation = rest.first_chunk::<{ LENGTH_AT - GENERATION_AT }>()?;
        Some(Admitted {
            device: DeviceId {
                index: u32::from_ne_bytes(*index),
                generation: u32::from_ne_bytes(*generation),
            },
            metrics_mask: u64::from_ne_bytes(*mask),
        })
    }

    pub(super) fn insert(&mut self, hash: u64, name: &[u8], admitted: Admitted) {
        if name.len() > NAME_BYTES_CACHED {
            return;
        }
        let (set, tag) = Self::place(hash);
        let offset = self.find((set, tag), name).unwrap_or_else(|| {
            let tags = &mut self.tags[set];
            let way = match ways_with(*tags, 0) {
                0 => {
                    self.turn = (self.turn + 1) % WAYS;
                    self.turn
                }
                empty => first_way(empty),
            };
            let place = way * TAG_BITS;
            *tags = *tags & !(u64::from(u16::MAX) << place) | u64::from(tag) << place;
            self.offset(set, way)
        });
        let entry = &mut self.memory[offset..offset + ENTRY_BYTES];
        entry[MASK_AT..INDEX_AT].copy_from_slice(&admitted.metrics_mask.to_ne_bytes());
        entry[INDEX_AT..GENERATION_AT].copy_from_slice(&admitted.device.index.to_ne_bytes());
        entry[GENERATION_AT..LENGTH_AT].copy_from_slice(&admitted.device.generation.to_ne_bytes());
        entry[LENGTH_AT] = name.len() as u8;
        entry[NAME_AT..NAME_AT + name.len()].copy_from_slice(name);
    }
}

/// The highest bit of each tag that is `tag`. Those after the first may be others, by one: their names tell.
#[inline]
fn ways_with(tags: u64, tag: u16) -> u64 {
    let differing = tags ^ (ONE_EACH * u64::from(tag));
    differing.wrapping_sub(ONE_EACH) & !differing & (ONE_EACH << (TAG_BITS - 1))
}

fn first_way(ways: u64) -> usize {
    ways.trailing_zeros() as usize / TAG_BITS
}

/// Known streams of metrics whose slots are past the mask of a device.
///
/// An id that was evicted is not found here by its successor: the generations differ.
#[derive(Debug, Default)]
pub(super) struct StreamCache {
    hasher: RandomState,
    streams: HashTable<(DeviceId, MetricId)>,
}

impl StreamCache {
    #[inline]
    pub(super) fn has(&self, device: DeviceId, metric: MetricId) -> bool {
        let stream = (device, metric);
        self.streams.find(self.hasher.hash_one(stream), |known| *known == stream).is_some()
    }

    pub(super) fn insert(&mut self, device: DeviceId, metric: MetricId) {
        if self.has(device, metric) {
            return;
        }
        if self.streams.len() >= STREAMS_CACHED {
            self.clear();
        }
        let Self { hasher, streams } = self;
        let stream = (device, metric);
        streams.insert_unique(hasher.hash_one(stream), stream, |known| hasher.hash_one(known));
    }

    /// Forgets all streams, and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.streams.clear();
    }
}

/// Known metrics. An id is checked and touched at each use, so that a stale one is not found.
pub(super) struct MetricCache {
    registry: Arc<Registry>,
    /// The second of the body that is read.
    pub(super) now_s: u32,
    hasher: RandomState,
    /// Grows to the names in use, and is emptied when names are evicted.
    by_name: HashTable<(Arc<str>, MetricId)>,
}

impl MetricCache {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        let by_name = HashTable::new();
        Self { registry, now_s: 0, hasher: RandomState::default(), by_name }
    }

    fn hash(&self, name: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(name);
        hasher.finish()
    }

    #[inline]
    pub(super) fn get(&self, name: &[u8]) -> Option<MetricId> {
        let (_, id) = self.by_name.find(self.hash(name), |(known, _)| known.as_bytes() == name)?;
        self.touch(*id).then_some(*id)
    }

    /// Records a value of a metric. False once its name is gone.
    #[inline]
    pub(super) fn touch(&self, id: MetricId) -> bool {
        self.registry.touch_metric(id, self.now_s)
    }

    /// Takes a metric that [`MetricCache::get`] has not found.
    pub(super) fn insert(&mut self, name: &str, id: MetricId) {
        if self.by_name.len() >= METRICS_MAX {
            self.clear();
        }
        let Some(shared) = self.registry.metric_name(id) else { return };
        let hash = self.hash(name.as_bytes());
        if let Some((_, known)) = self.by_name.find_mut(hash, |(known, _)| **known == *name) {
            *known = id;
            return;
        }
        let hasher = &self.hasher;
        self.by_name.insert_unique(hash, (shared, id), |(known, _)| {
            let mut state = hasher.build_hasher();
            state.write(known.as_bytes());
            state.finish()
        });
    }

    pub(super) fn clear(&mut self) {
        self.by_name = HashTable::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_found_until_there_are_too_many() {
        let mut cache = StreamCache::default();
        let device = |index| DeviceId { index, generation: 0 };
        let metric = MetricId::new(70, 0);
        for index in 0..STREAMS_CACHED as u32 {
            cache.insert(device(index), metric);
            cache.insert(device(index), metric);
        }
        assert!((0..STREAMS_CACHED as u32).all(|index| cache.has(device(index), metric)));
        assert!(!cache.has(DeviceId { index: 0, generation: 1 }, metric));
        assert!(!cache.has(device(0), MetricId::new(70, 1)));
        cache.insert(device(u32::MAX), metric);
        assert!(cache.has(device(u32::MAX), metric) && !cache.has(device(0), metric));
    }

    #[test]
    fn a_name_is_found_unless_it_is_too_long_or_has_lost_its_turn() {
        let mut cache = DeviceCache::new();
        let admitted =
            Admitted { device: DeviceId { index: 7, generation: 3 }, metrics_mask: u64::MAX };
        for length in 1..=NAME_BYTES_CACHED {
            let name = vec![b'x'; length];
            cache.insert(u64::MAX, &name, admitted);
            assert_eq!(cache.get(u64::MAX, &name), Some(admitted));
            assert_eq!(cache.get(u64::MAX, &vec![b'y'; length]), None);
            assert_eq!(cache.get(0, &name), None);
        }
        for (kept, name) in [b"a", b"b", b"c"].into_iter().enumerate() {
            let of_name = Admitted { metrics_mask: kept as u64, ..admitted };
            cache.insert(1, name, of_name);
            cache.insert(1, name, of_name);
        }
        for name in [b"a", b"b", b"c", b"d", b"e"] {
            assert_eq!(cache.get(1, name).is_some(), name < b"d");
        }
        let others: Vec<_> = (0..2 * WAYS).map(|other| format!("{other}")).collect();
        for name in &others {
            cache.insert(1, name.as_bytes(), admitted);
            assert_eq!(cache.get(1, name.as_bytes()), Some(admitted));
        }
        let found = others.iter().filter(|name| cache.get(1, name.as_bytes()).is_some());
        assert_eq!(found.count(), WAYS);
        let long = [b'x'; NAME_BYTES_CACHED + 1];
        cache.insert(1, &long, admitted);
        assert_eq!(cache.get(1, &long), None);
    }
}
