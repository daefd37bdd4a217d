//! Devices by name, each with the metrics that it has streams of.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::hash::hash_name;
use super::words::SlotWords;
use sigmad_sample::{MetricId, NAME_BYTES_MAX};

/// Metrics whose slots fit in the bit mask of a device; those above are in a list.
const MASKED_METRICS: usize = 64;

/// Bytes of one device at worst: its word, its longest name in a block of the allocator, and a place each in the
/// slots and the table, which double: while they do, the old ones are there too.
pub const DEVICE_BYTES: usize = size_of::<AtomicU64>()
    + (NAME_BYTES_MAX + 2 * size_of::<usize>()).next_multiple_of(32)
    + 3 * size_of::<DeviceSlot>()
    + 4 * size_of::<u32>();

/// The bit of a metric, 0 for those that have none.
#[inline]
pub fn mask_of(metric: MetricId) -> u64 {
    if metric.slot() < MASKED_METRICS { 1 << metric.slot() } else { 0 }
}

/// All devices.
#[derive(Debug, Default)]
pub(super) struct DeviceTable {
    slots: Vec<DeviceSlot>,
    by_name: HashTable<u32>,
    /// Slots without a device. [`DeviceTable::claim`] leaves slots here that have one again.
    free: Vec<u32>,
    /// Streams of all devices.
    pub(super) streams: usize,
    pub(super) evicted: u64,
    sweep: Sweep,
}

/// One device: 32 bytes, and as much for its name.
#[derive(Debug, Default)]
struct DeviceSlot {
    /// None once evicted.
    name: Option<Arc<str>>,
    metrics_mask: u64,
    /// Metrics without a bit, sorted. Few devices have any, so the others pay a pointer.
    #[expect(clippy::box_collection, reason = "8 bytes in a million slots instead of 24")]
    metrics_above: Option<Box<Vec<MetricId>>>,
}

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
    fn above(&self) -> &[MetricId] {
        self.metrics_above.as_ref().map_or(&[], |above| above)
    }

    fn has(&self, metric: MetricId) -> bool {
        match mask_of(metric) {
            0 => self.above().binary_search(&metric).is_ok(),
            bit => self.metrics_mask & bit != 0,
        }
    }

    fn add(&mut self, metric: MetricId) {
        match mask_of(metric) {
            0 => {
                let above = self.metrics_above.get_or_insert_default();
                if let Err(at) = above.binary_search(&metric) {
                    above.insert(at, metric);
                }
            }
            bit => self.metrics_mask |= bit,
        }
    }

    fn streams(&self) -> usize {
        self.metrics_mask.count_ones() as usize + self.above().len()
    }
}

impl DeviceTable {
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn name(&self, index: u32) -> Option<&Arc<str>> {
        self.slots.get(index as usize)?.name.as_ref()
    }

    /// The names in a part of the slots; None past the last slot.
    pub(super) fn names(&self, slots: Range<usize>) -> Option<Vec<Arc<str>>> {
        let end = slots.end.min(self.slots.len());
        let slots = self.slots.get(slots.start..end).filter(|slots| !slots.is_empty())?;
        Some(slots.iter().filter_map(|slot| slot.name.clone()).collect())
    }

    pub(super) fn find(&self, hash: u64, name: &str) -> Option<u32> {
        let found = |&index: &u32| self.slots[index as usize].name.as_deref() == Some(name);
        self.by_name.find(hash, found).copied()
    }

    /// The metrics of a device that have a bit.
    pub(super) fn mask(&self, index: u32) -> u64 {
        self.slots[index as usize].metrics_mask
    }

    /// Whether the device has a stream of that metric.
    pub(super) fn has(&self, index: u32, metric: MetricId) -> bool {
        self.slots[index as usize].has(metric)
    }

    /// Gives the device a stream of that metric, unless it has one.
    pub(super) fn add_stream(&mut self, index: u32, metric: MetricId) {
        let slot = &mut self.slots[index as usize];
        let before = slot.streams();
        slot.add(metric);
        self.streams += slot.streams() - before;
    }

    /// Whether there is a slot for another device.
    pub(super) fn has_slot(&mut self, words: &SlotWords) -> bool {
        while let Some(&last) = self.free.last()
            && self.slots[last as usize].name.is_some()
        {
            self.free.pop();
        }
        !self.free.is_empty() || self.slots.len() < words.len()
    }

    /// The slot, if it is free; else another one. There must be one ([`DeviceTable::has_slot`]).
    pub(super) fn claim(&mut self, slot: u32, words: &SlotWords) -> u32 {
        let wanted = slot as usize;
        if wanted < words.len() && wanted >= self.slots.len() {
            self.free.extend(self.slots.len() as u32..slot);
            self.slots.resize_with(wanted + 1, DeviceSlot::default);
            return slot;
        }
        let is_free = self.slots.get(wanted).is_some_and(|slot| slot.name.is_none());
        if is_free { slot } else { self.free_slot() }
    }

    fn free_slot(&mut self) -> u32 {
        while let Some(index) = self.free.pop() {
            if self.slots[index as usize].name.is_none() {
                return index;
            }
        }
        self.slots.push(DeviceSlot::default());
        self.slots.len() as u32 - 1
    }

    pub(super) fn add(&mut self, hasher: &RandomState, name: &str) -> u32 {
        let index = self.free_slot();
        self.add_at(hasher, name, index)
    }

    /// Gives a free slot to a device.
    pub(super) fn add_at(&mut self, hasher: &RandomState, name: &str, index: u32) -> u32 {
        let Self { slots, by_name, .. } = self;
        slots[index as usize].name = Some(name.into());
        by_name.insert_unique(hash_name(hasher, name.as_bytes()), index, |&index| {
            let name = slots[index as usize].name.as_deref().expect("it is in the table");
            hash_name(hasher, name.as_bytes())
        });
        index
    }

    /// Evicts the first silent device from the clock hand on. False when there is none.
    pub(super) fn evict_one(
        &mut self,
        words: &SlotWords,
        hasher: &RandomState,
        now_s: u32,
        idle_s: u32,
    ) -> bool {
        if self.sweep.second < now_s {
            self.sweep.second = now_s;
            self.sweep.left = self.slots.len();
        }
        while self.sweep.left > 0 {
            self.sweep.left -= 1;
            let index = self.sweep.hand % self.slots.len();
            self.sweep.hand = index + 1;
            if self.slots[index].name.is_some() && self.evict(index, words, hasher, now_s, idle_s) {
                return true;
            }
        }
        false
    }

    fn evict(
        &mut self,
        index: usize,
        words: &SlotWords,
        hasher: &RandomState,
        now_s: u32,
        idle_s: u32,
    ) -> bool {
        let is_silent = words.retire(index, now_s, idle_s, |generation| generation.wrapping_add(1));
        if is_silent {
            self.remove(index, hasher);
            self.evicted += 1;
        }
        is_silent
    }

    /// Removes a device, however lately it was heard.
    pub(super) fn forget(&mut self, index: u32, words: &SlotWords, hasher: &RandomState) {
        words.end(index as usize, |generation| generation.wrapping_add(1));
        self.remove(index as usize, hasher);
    }

    /// Frees the slot of a device whose generation has ended.
    fn remove(&mut self, index: usize, hasher: &RandomState) {
        let slot = std::mem::take(&mut self.slots[index]);
        let name = slot.name.as_deref().expect("only a slot in use is evicted");
        // Removing must not grow the table, as `entry` may.
        let hash = hash_name(hasher, name.as_bytes());
        let entry = self.by_name.find_entry(hash, |&other| other as usize == index);
        entry.expect("a slot in use is in the table").remove();
        self.streams -= slot.streams();
        self.free.push(index as u32);
    }

    /// Takes the streams of metrics whose names are gone: `mask` has those with a bit, `metrics` the words of
    /// all. A device without any other stream was as silent as its metrics, and is evicted.
    pub(super) fn drop_metrics(
        &mut self,
        mask: u64,
        metrics: &SlotWords,
        words: &SlotWords,
        hasher: &RandomState,
        (now_s, idle_s): (u32, u32),
    ) {
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            let before = slot.streams();
            slot.metrics_mask &= !mask;
            if let Some(above) = &mut slot.metrics_above {
                above.retain(|metric| metrics.has(metric.slot(), u32::from(metric.generation())));
            }
            let after = slot.streams();
            self.streams -= before - after;
            if after == 0 && slot.name.is_some() {
                self.evict(index, words, hasher, now_s, idle_s);
            }
        }
    }
}
