//! The names of devices and metrics with their ids, and the number of streams.
//!
//! Shared by all threads. A worker looks up names in its decoder's cache first, and takes the lock only for
//! names that the cache lacks.
//!
//! Every device slot has one atomic word outside the lock: the slot's generation, and the second of the device's
//! last sample. A worker with a cached id calls [`Registry::touch`], which sets the word to the present second
//! or reports that the generation has passed. Eviction sets the word of a device without samples for
//! `stream_idle_s` to the next generation. Both are compare-and-swap on that word, so either the sample keeps
//! the device or the worker learns that the device is gone: a sample never counts for the slot's next device.
//!
//! Evictions are counted: see [`Registry::evicted`].

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use parking_lot::RwLock;

use sigmad_counters::{Families, MetricSource};
use sigmad_sample::{DeviceId, MetricId, NAME_BYTES_MAX, READINGS_MAX};

/// Distinct metric names: each is a label value in the scrape and a window of the fleet.
pub const METRICS_MAX: usize = 1_024;
/// Metrics that fit in the bit mask of a device; ids above it are in a list.
pub const MASKED_METRICS: u16 = 64;
/// A worker that finds its device touched in the present second does not write the word, so a device must not
/// become evictable within that second.
pub const STREAM_IDLE_MIN_S: u32 = 2;

/// No room for another stream or metric, and no silent device to evict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// `--max-streams` are in use.
    Streams,
    /// [`METRICS_MAX`] metrics are known.
    Metrics,
}

/// A device with room for the streams asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The device.
    pub device: DeviceId,
    /// Its metrics below [`MASKED_METRICS`], one bit each.
    pub metrics_mask: u64,
}

/// The names in use.
#[derive(Debug)]
pub struct Registry {
    max_streams: usize,
    stream_idle_s: u32,
    hasher: RandomState,
    /// One for each possible slot: a device has at least one stream.
    words: Box<[AtomicU64]>,
    names: RwLock<NameTable>,
}

#[derive(Debug, Default)]
struct NameTable {
    metrics: Vec<Arc<str>>,
    metrics_by_name: HashTable<u16>,
    slots: Vec<DeviceSlot>,
    devices_by_name: HashTable<u32>,
    /// Slots without a device.
    free: Vec<u32>,
    streams: usize,
    evicted: u64,
    sweep: Sweep,
}

/// One device: 32 bytes, and as much for its name.
#[derive(Debug, Default)]
struct DeviceSlot {
    /// None once evicted.
    name: Option<Arc<str>>,
    metrics_mask: u64,
    /// Ids from [`MASKED_METRICS`] on. Few devices have any, so the others pay a pointer.
    #[expect(clippy::box_collection, reason = "8 bytes in a million slots instead of 24")]
    metrics_above: Option<Box<Vec<u16>>>,
}

/// Bytes of one device at worst: its word, its longest name in a block of the allocator, and a place each in the
/// slots and the table, which double: while they do, the old ones are there too.
pub const DEVICE_BYTES: usize = size_of::<AtomicU64>()
    + (NAME_BYTES_MAX + 2 * size_of::<usize>()).next_multiple_of(32)
    + 3 * size_of::<DeviceSlot>()
    + 4 * size_of::<u32>();

/// The position of the eviction's clock hand.
#[derive(Debug, Default)]
struct Sweep {
    hand: usize,
    /// Slots left to check in `second`. A device cannot become silent within a second, so one turn of the hand
    /// per second is enough, however many samples are refused.
    left: usize,
    second: u32,
}

impl DeviceSlot {
    fn has(&self, metric: MetricId) -> bool {
        match mask_of(metric) {
            0 => self.metrics_above.as_ref().is_some_and(|above| above.contains(&metric.0)),
            bit => self.metrics_mask & bit != 0,
        }
    }

    fn add(&mut self, metric: MetricId) {
        match mask_of(metric) {
            0 => self.metrics_above.get_or_insert_default().push(metric.0),
            bit => self.metrics_mask |= bit,
        }
    }

    fn streams(&self) -> usize {
        let above = self.metrics_above.as_ref().map_or(0, |above| above.len());
        self.metrics_mask.count_ones() as usize + above
    }
}

/// The bit of a metric, 0 for those that have none.
pub fn mask_of(metric: MetricId) -> u64 {
    if metric.0 < MASKED_METRICS { 1 << metric.0 } else { 0 }
}

fn word(generation: u32, seen_s: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(seen_s)
}

fn generation_of(word: u64) -> u32 {
    (word >> 32) as u32
}

fn seen_of(word: u64) -> u32 {
    word as u32
}

impl Registry {
    /// Room for `max_streams` streams (device × metric); a device silent for `stream_idle_s` may be
    /// evicted when a new one needs its room.
    pub fn new(max_streams: usize, stream_idle_s: u32) -> Self {
        debug_assert!(stream_idle_s >= STREAM_IDLE_MIN_S);
        debug_assert!(u32::try_from(max_streams).is_ok());
        // Zeroed by the system, so that a slot takes memory when its device comes, not before.
        let words = Box::<[AtomicU64]>::new_zeroed_slice(max_streams);
        // SAFETY: all bits zero is a valid AtomicU64.
        let words = unsafe { words.assume_init() };
        let registry = Self {
            max_streams,
            stream_idle_s,
            hasher: RandomState::default(),
            words,
            names: RwLock::default(),
        };
        let mut names = registry.names.write();
        let cpu = registry.add_metric(&mut names, "cpu");
        let rps = registry.add_metric(&mut names, "rps");
        debug_assert_eq!((cpu, rps), (MetricId::CPU, MetricId::RPS));
        drop(names);
        registry
    }

    /// The hash by which names are found, here and in the decoders' caches.
    #[inline]
    pub fn hash_name(&self, name: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(name);
        hasher.finish()
    }

    /// The device of that name.
    pub fn find_device(&self, name: &str) -> Option<DeviceId> {
        let hash = self.hash_name(name.as_bytes());
        let names = self.names.read();
        names.device(hash, name).map(|index| self.device_id(index))
    }

    /// The name of a device, None once it has been evicted.
    pub fn device_name(&self, id: DeviceId) -> Option<Arc<str>> {
        // Under the lock no eviction runs, so the generation and the slot belong together.
        let names = self.names.read();
        let slot = names.slots.get(id.index as usize)?;
        if self.device_id(id.index) != id {
            return None;
        }
        slot.name.clone()
    }

    /// The name of a metric.
    pub fn metric_name(&self, id: MetricId) -> Arc<str> {
        self.names.read().metrics[usize::from(id.0)].clone()
    }

    /// Streams (device × metric) in use.
    pub fn streams(&self) -> usize {
        self.names.read().streams
    }

    /// Devices in use.
    pub fn devices(&self) -> usize {
        self.names.read().devices_by_name.len()
    }

    /// Metrics known.
    pub fn metrics(&self) -> usize {
        self.names.read().metrics.len()
    }

    /// Devices evicted since the start.
    pub fn evicted(&self) -> u64 {
        self.names.read().evicted
    }

    /// Records a sample of a device in the second `now_s`. False once the device has been evicted.
    #[inline]
    pub fn touch(&self, device: DeviceId, now_s: u32) -> bool {
        let word_now = &self.words[device.index as usize];
        // Relaxed throughout: workers and eviction share nothing but the word, which each reads and writes in
        // one step. Names and masks are read under the lock.
        let mut seen = word_now.load(Ordering::Relaxed);
        loop {
            if generation_of(seen) != device.generation {
                return false;
            }
            // Another worker's second may be ahead; the word never goes back.
            if seen_of(seen) >= now_s {
                return true;
            }
            let touched = word(device.generation, now_s);
            match word_now.compare_exchange_weak(
                seen,
                touched,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(actual) => seen = actual,
            }
        }
    }

    /// Gives every metric in `metrics` its id (None becomes Some), and the device room for a stream
    /// of each, all or nothing. The names in `metrics` differ from one another.
    ///
    /// # Errors
    /// When there is no room for all of it; nothing is created then.
    pub fn admit(
        &self,
        device: Option<&str>,
        metrics: &mut [(&str, Option<MetricId>)],
        now_s: u32,
    ) -> Result<Option<Admitted>, Full> {
        debug_assert!((1..=READINGS_MAX).contains(&metrics.len()));
        let hash = device.map(|name| self.hash_name(name.as_bytes()));
        {
            let names = self.names.read();
            let missing = self.look_up_metrics(&names, metrics);
            if missing == 0 {
                let Some((name, hash)) = device.zip(hash) else { return Ok(None) };
                if let Some(index) = names.device(hash, name)
                    && names.missing_streams(index, metrics) == 0
                {
                    return Ok(Some(self.touched(&names, index, now_s)));
                }
            }
        }
        let mut names = self.names.write();
        let missing = self.look_up_metrics(&names, metrics);
        if names.metrics.len() + missing > METRICS_MAX {
            return Err(Full::Metrics);
        }
        let mut index = None;
        if let Some((name, hash)) = device.zip(hash) {
            index = names.device(hash, name);
            let needed = match index {
                Some(index) => {
                    // Touched first, so that making room does not evict the device that asks for it.
                    self.touched(&names, index, now_s);
                    names.missing_streams(index, metrics)
                }
                None => metrics.len(),
            };
            while names.streams + needed > self.max_streams {
                if !self.evict_one(&mut names, now_s) {
                    return Err(Full::Streams);
                }
            }
        }
        for (name, id) in metrics.iter_mut() {
            if id.is_none() {
                *id = Some(self.add_metric(&mut names, name));
            }
        }
        let Some((name, hash)) = device.zip(hash) else { return Ok(None) };
        let index = index.unwrap_or_else(|| self.add_device(&mut names, hash, name));
        let added = names.add_streams(index, metrics);
        names.streams += added;
        Ok(Some(self.touched(&names, index, now_s)))
    }

    /// Fills in the ids of known metrics. Returns how many are new.
    fn look_up_metrics(
        &self,
        names: &NameTable,
        metrics: &mut [(&str, Option<MetricId>)],
    ) -> usize {
        let mut missing = 0;
        for (name, id) in metrics {
            if id.is_none() {
                *id = names.metric(self.hash_name(name.as_bytes()), name);
                missing += usize::from(id.is_none());
            }
        }
        missing
    }

    /// Touches a device found under the lock, where no eviction can come between.
    fn touched(&self, names: &NameTable, index: u32, now_s: u32) -> Admitted {
        let device = self.device_id(index);
        let alive = self.touch(device, now_s);
        debug_assert!(alive);
        Admitted { device, metrics_mask: names.slots[index as usize].metrics_mask }
    }

    fn device_id(&self, index: u32) -> DeviceId {
        let word = self.words[index as usize].load(Ordering::Relaxed);
        DeviceId { index, generation: generation_of(word) }
    }

    fn add_metric(&self, names: &mut NameTable, name: &str) -> MetricId {
        let NameTable { metrics, metrics_by_name, .. } = names;
        let id = metrics.len() as u16;
        metrics.push(name.into());
        metrics_by_name.insert_unique(self.hash_name(name.as_bytes()), id, |&id| {
            self.hash_name(metrics[usize::from(id)].as_bytes())
        });
        MetricId(id)
    }

    fn add_device(&self, names: &mut NameTable, hash: u64, name: &str) -> u32 {
        let NameTable { slots, devices_by_name, free, .. } = names;
        let index = free.pop().unwrap_or_else(|| {
            slots.push(DeviceSlot::default());
            slots.len() as u32 - 1
        });
        slots[index as usize].name = Some(name.into());
        devices_by_name.insert_unique(hash, index, |&index| {
            let name = slots[index as usize].name.as_deref().expect("it is in the table");
            self.hash_name(name.as_bytes())
        });
        index
    }

    /// Evicts the first silent device from the clock hand on. False when there is none.
    fn evict_one(&self, names: &mut NameTable, now_s: u32) -> bool {
        if names.sweep.second < now_s {
            names.sweep.second = now_s;
            names.sweep.left = names.slots.len();
        }
        while names.sweep.left > 0 {
            names.sweep.left -= 1;
            let index = names.sweep.hand % names.slots.len();
            names.sweep.hand = index + 1;
            if names.slots[index].name.is_some() && self.evict(names, index, now_s) {
                return true;
            }
        }
        false
    }

    fn evict(&self, names: &mut NameTable, index: usize, now_s: u32) -> bool {
        let seen = self.words[index].load(Ordering::Relaxed);
        if now_s.saturating_sub(seen_of(seen)) <= self.stream_idle_s {
            return false;
        }
        let next = word(generation_of(seen).wrapping_add(1), seen_of(seen));
        // Fails when a worker has just touched the device, which then is not silent.
        let gone =
            self.words[index].compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed);
        if gone.is_err() {
            return false;
        }
        let slot = std::mem::take(&mut names.slots[index]);
        let name = slot.name.as_deref().expect("only a slot in use is evicted");
        match names.devices_by_name.entry(
            self.hash_name(name.as_bytes()),
            |&other| other as usize == index,
            |_| unreachable!("removing needs no growth"),
        ) {
            Entry::Occupied(entry) => drop(entry.remove()),
            Entry::Vacant(_) => unreachable!("a slot in use is in the table"),
        }
        names.streams -= slot.streams();
        names.free.push(index as u32);
        names.evicted += 1;
        true
    }
}

impl NameTable {
    fn metric(&self, hash: u64, name: &str) -> Option<MetricId> {
        let found = |&id: &u16| &*self.metrics[usize::from(id)] == name;
        self.metrics_by_name.find(hash, found).map(|&id| MetricId(id))
    }

    fn device(&self, hash: u64, name: &str) -> Option<u32> {
        let found = |&index: &u32| self.slots[index as usize].name.as_deref() == Some(name);
        self.devices_by_name.find(hash, found).copied()
    }

    fn missing_streams(&self, index: u32, metrics: &[(&str, Option<MetricId>)]) -> usize {
        let slot = &self.slots[index as usize];
        metrics.iter().filter(|(_, id)| id.is_none_or(|id| !slot.has(id))).count()
    }

    /// Adds the streams that the device lacks. Returns how many.
    fn add_streams(&mut self, index: u32, metrics: &[(&str, Option<MetricId>)]) -> usize {
        let slot = &mut self.slots[index as usize];
        let mut added = 0;
        for (_, id) in metrics {
            let id = id.expect("every metric has its id by now");
            if !slot.has(id) {
                slot.add(id);
                added += 1;
            }
        }
        added
    }
}

impl MetricSource for Registry {
    fn collect(&self, families: &mut Families) {
        families
            .counter(
                "sigmad_devices_evicted_total",
                "Silent devices evicted to make room for others.",
            )
            .add(&[], self.evicted() as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(
        registry: &Registry,
        device: &str,
        metrics: &[&str],
        now_s: u32,
    ) -> Result<DeviceId, Full> {
        let mut named: Vec<_> = metrics.iter().map(|&name| (name, None)).collect();
        let admitted = registry.admit(Some(device), &mut named, now_s)?;
        assert!(named.iter().all(|(name, id)| *registry.metric_name(id.expect("given")) == **name));
        Ok(admitted.expect("asked for a device").device)
    }

    #[test]
    fn names_keep_their_ids() {
        let registry = Registry::new(100, 60);
        let mut metrics = ["rps", "cpu", "disk"].map(|name| (name, None));
        assert_eq!(registry.admit(None, &mut metrics, 0), Ok(None));
        let ids = metrics.map(|(_, id)| id.expect("given"));
        assert_eq!(ids, [MetricId::RPS, MetricId::CPU, MetricId(2)]);
        let a = admit(&registry, "a", &["cpu", "rps"], 0).expect("room");
        let b = admit(&registry, "b", &["cpu", "net"], 0).expect("room");
        assert_ne!(a, b);
        assert_eq!(admit(&registry, "a", &["rps"], 5), Ok(a));
        assert_eq!(registry.find_device("a"), Some(a));
        assert_eq!(registry.device_name(b).as_deref(), Some("b"));
        assert_eq!(registry.find_device("c"), None);
        assert_eq!((registry.streams(), registry.devices(), registry.metrics()), (4, 2, 4));
    }

    #[test]
    fn a_refused_sample_creates_nothing() {
        let registry = Registry::new(3, 60);
        admit(&registry, "a", &["cpu", "rps"], 0).expect("room");
        assert_eq!(admit(&registry, "b", &["cpu", "x"], 1), Err(Full::Streams));
        assert_eq!(admit(&registry, "a", &["x", "y"], 1), Err(Full::Streams));
        assert_eq!((registry.streams(), registry.devices(), registry.metrics()), (2, 1, 2));
        admit(&registry, "b", &["x"], 1).expect("room");
        assert_eq!((registry.streams(), registry.devices(), registry.metrics()), (3, 2, 3));
    }

    #[test]
    fn metrics_are_bounded_and_those_above_the_mask_count() {
        let registry = Registry::new(10_000, 60);
        for i in 2..METRICS_MAX {
            admit(&registry, "wide", &[&format!("m{i}")], 0).expect("room");
        }
        assert_eq!(registry.streams(), METRICS_MAX - 2);
        assert_eq!(admit(&registry, "wide", &["m1000"], 0).expect("known").index, 0);
        assert_eq!(registry.streams(), METRICS_MAX - 2);
        assert_eq!(registry.admit(None, &mut [("more", None)], 0), Err(Full::Metrics));
        assert_eq!(registry.admit(None, &mut [("m7", None)], 0), Ok(None));
    }

    #[test]
    fn silent_devices_are_evicted_and_others_stay() {
        let registry = Registry::new(4, 10);
        let ids =
            ["a", "b", "c", "d"].map(|name| admit(&registry, name, &["cpu"], 0).expect("room"));
        assert!(registry.touch(ids[0], 11));
        assert_eq!(admit(&registry, "e", &["cpu"], 10), Err(Full::Streams));
        let e = admit(&registry, "e", &["cpu", "rps"], 11).expect("b and c were silent");
        assert_eq!(registry.evicted(), 2);
        assert_eq!(registry.find_device("b"), None);
        assert_eq!(registry.device_name(ids[1]), None);
        assert!(!registry.touch(ids[1], 11));
        assert!(!registry.touch(ids[2], 11));
        assert!(registry.touch(ids[0], 11));
        assert_eq!(registry.device_name(e).as_deref(), Some("e"));
        assert_eq!(e.generation, 1);
        assert_eq!((registry.streams(), registry.devices()), (4, 3));
        // One turn of the hand in a second, and a new one in the next.
        admit(&registry, "f", &["cpu"], 11).expect("d was silent");
        assert_eq!(admit(&registry, "g", &["cpu"], 11), Err(Full::Streams));
        assert_eq!(admit(&registry, "g", &["cpu"], 21), Err(Full::Streams));
        admit(&registry, "g", &["cpu"], 22).expect("all were silent");
    }

    #[test]
    fn the_asking_device_does_not_evict_itself() {
        let registry = Registry::new(2, 10);
        let a = admit(&registry, "a", &["cpu"], 0).expect("room");
        admit(&registry, "b", &["cpu"], 0).expect("room");
        assert_eq!(admit(&registry, "a", &["rps"], 100), Ok(a));
        assert_eq!(registry.find_device("b"), None);
    }

    #[test]
    fn a_touch_and_an_eviction_never_both_win() {
        // Each round both sides race for the same silent device; exactly one may have it.
        let registry = Registry::new(1, 2);
        let barrier = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let mut kept = Vec::new();
                for round in 1..2_000_u32 {
                    let id = registry.device_id(0);
                    barrier.wait();
                    kept.push(registry.touch(id, round * 10));
                    barrier.wait();
                }
                kept
            });
            admit(&registry, "0", &["cpu"], 0).expect("room");
            let mut evicted = Vec::new();
            for round in 1..2_000_u32 {
                barrier.wait();
                evicted.push(admit(&registry, &format!("{round}"), &["cpu"], round * 10).is_ok());
                barrier.wait();
            }
            let kept = worker.join().expect("no panic");
            assert!(kept.iter().zip(&evicted).all(|(kept, evicted)| kept != evicted));
        });
    }
}
