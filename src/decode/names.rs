//! One worker's caches of the registry, so that a known name takes no lock.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use memchr::memchr2;

use super::series_cache::is_same;
use crate::registry::{Admitted, Registry};
use sigmad_sample::{DeviceId, METRICS_MAX, MetricId};

/// Cached devices: 2 MiB, of which only the entries in use are touched.
const DEVICES_CACHED: usize = 32 * 1024;
/// Longer names are looked up in the registry each time: an entry is one cache line.
const NAME_BYTES_CACHED: usize = 44;
/// Places that a name may be in. With one, a quarter of 10,000 devices would share theirs; with four, 4 in 100 do.
const WAYS: usize = 4;
const SETS: usize = DEVICES_CACHED / WAYS;
const TAG_BITS: usize = u64::BITS as usize / WAYS;
/// The lowest bit of each tag.
const ONE_EACH: u64 = u64::MAX / u16::MAX as u64;
const _: () = assert!(SETS.is_power_of_two() && DEVICES_CACHED <= 1 << u16::BITS);

/// Cached streams of metrics without a bit in the mask of their device: those of a hundred devices with a hundred and
/// sixty each. Past it the cache is emptied.
const STREAMS_CACHED: usize = 16 * 1024;

/// Bytes of the caches of devices and streams when every entry is in use; a table has up to two places for each, and a
/// byte beside each place.
pub(super) const CACHE_BYTES: usize = DEVICES_CACHED
    * (size_of::<CachedDevice>() + size_of::<u16>())
    + 2 * STREAMS_CACHED * (size_of::<(DeviceId, MetricId)>() + 1);

/// What is known of one device.
#[repr(C, align(64))] // so that no entry crosses a cache line
struct CachedDevice {
    metrics_mask: u64,
    device: DeviceId,
    /// The entry of the device that was asked for after this one.
    next: u16,
    /// JSON writes the name with escapes.
    needs_escapes: bool,
    /// 0 for an empty entry.
    name_length: u8,
    name: [u8; NAME_BYTES_CACHED],
}
const _: () = assert!(size_of::<CachedDevice>() == 64);

impl CachedDevice {
    #[inline(always)]
    fn has(&self, name: &[u8]) -> bool {
        is_same(&self.name[..usize::from(self.name_length)], name)
    }

    #[inline(always)]
    fn admitted(&self) -> Admitted {
        Admitted { device: self.device, metrics_mask: self.metrics_mask }
    }
}

/// Recent devices: a name has a set of [`WAYS`] entries, and takes one of them in turn when all are in use.
///
/// Senders repeat their devices in the same order, so the one that followed the last time is compared first, and a hash is
/// needed only where the order changes.
pub(super) struct DeviceCache {
    /// Of each entry of a set some bits of its hash, so that a name touches the line of one entry; 0 for an empty one.
    tags: Box<[u64; SETS]>,
    entries: Box<[CachedDevice; DEVICES_CACHED]>,
    /// The entry that was found last.
    last: u16,
    /// Which entry of a full set is replaced next.
    turn: usize,
}

impl DeviceCache {
    pub(super) fn new() -> Self {
        // Zeroed by the system, so that an entry takes memory when its device comes, not before.
        let (tags, entries) = (Box::new_zeroed(), Box::new_zeroed());
        // SAFETY: all bits zero are a valid u64 and a valid `CachedDevice`, which has numbers and a bool.
        let (tags, entries) = unsafe { (tags.assume_init(), entries.assume_init()) };
        Self { tags, entries, last: 0, turn: 0 }
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

    /// The index of the entry with a name.
    #[inline]
    fn find(&self, (set, tag): (usize, u16), name: &[u8]) -> Option<u16> {
        let mut left = ways_with(self.tags[set], tag);
        while left != 0 {
            let at = set * WAYS + first_way(left);
            if self.entries[at].has(name) {
                return Some(at as u16);
            }
            left &= left - 1;
        }
        None
    }

    /// The device that is expected next, if it has that name.
    #[inline(always)]
    pub(super) fn expected(&mut self, name: &[u8]) -> Option<Admitted> {
        let next = self.entries[usize::from(self.last)].next;
        let entry = &self.entries[usize::from(next)];
        // An empty entry has an empty name.
        if name.is_empty() || !entry.has(name) {
            return None;
        }
        self.last = next;
        Some(entry.admitted())
    }

    #[inline]
    pub(super) fn get(&mut self, hash: u64, name: &[u8]) -> Option<Admitted> {
        let at = self.find(Self::place(hash), name)?;
        self.follow(at);
        Some(self.entries[usize::from(at)].admitted())
    }

    /// Whether JSON writes the name that was found last with escapes.
    #[inline(always)]
    pub(super) fn needs_escapes(&self) -> bool {
        self.entries[usize::from(self.last)].needs_escapes
    }

    /// Takes note that this entry comes after the last one.
    #[inline]
    fn follow(&mut self, at: u16) {
        self.entries[usize::from(self.last)].next = at;
        self.last = at;
    }

    pub(super) fn insert(&mut self, hash: u64, name: &[u8], admitted: Admitted) {
        if name.len() > NAME_BYTES_CACHED {
            return;
        }
        let (set, tag) = Self::place(hash);
        let at = match self.find((set, tag), name) {
            Some(at) => at,
            None => self.take_entry(set, tag),
        };
        let Admitted { device, metrics_mask } = admitted;
        let entry = &mut self.entries[usize::from(at)];
        (entry.device, entry.metrics_mask) = (device, metrics_mask);
        entry.needs_escapes = memchr2(b'"', b'\\', name).is_some();
        entry.name_length = name.len() as u8;
        entry.name[..name.len()].copy_from_slice(name);
    }

    /// An entry of the set for another name: an empty one, or that which has its turn.
    fn take_entry(&mut self, set: usize, tag: u16) -> u16 {
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
        let at = (set * WAYS + way) as u16;
        self.follow(at);
        at
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
    fn the_device_that_came_next_is_expected_again() {
        let mut cache = DeviceCache::new();
        let admitted = |index| Admitted {
            device: DeviceId { index, generation: 1 },
            metrics_mask: u64::from(index),
        };
        assert_eq!((cache.expected(b"a"), cache.expected(b"")), (None, None), "it is empty");
        for (index, name) in [b"a", b"b", b"c"].into_iter().enumerate() {
            cache.insert(index as u64, name, admitted(index as u32));
        }
        assert_eq!(cache.get(0, b"a"), Some(admitted(0)));
        for _ in 0..2 {
            assert_eq!(cache.expected(b"c"), None, "it comes later");
            assert_eq!(cache.expected(b"b"), Some(admitted(1)));
            assert_eq!(cache.expected(b"c"), Some(admitted(2)));
            assert_eq!(cache.expected(b"a"), Some(admitted(0)));
        }
        // Another order.
        assert_eq!(cache.get(2, b"c"), Some(admitted(2)));
        assert_eq!(cache.get(2, b"c"), Some(admitted(2)));
        assert_eq!(cache.expected(b"c"), Some(admitted(2)), "it came after itself");
        assert_eq!(cache.get(0, b"a"), Some(admitted(0)));
        assert_eq!(cache.expected(b"c"), Some(admitted(2)));
    }

    #[test]
    fn names_that_json_escapes_are_told() {
        let mut cache = DeviceCache::new();
        let admitted = Admitted { device: DeviceId::default(), metrics_mask: 1 };
        for (hash, name, expected) in [(1, "a-b", false), (2, "a\"b", true), (3, "a\\", true)] {
            cache.insert(hash, name.as_bytes(), admitted);
            assert_eq!(cache.get(hash, name.as_bytes()), Some(admitted));
            assert_eq!(cache.needs_escapes(), expected, "{name}");
        }
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
