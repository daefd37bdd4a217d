//! Metrics by name, and who brought each of them.
//!
//! A name counts against the device that brought it until a second one sends it. Once half of the table is
//! taken, a device adds names within its share only, so that none can fill the table alone. What other replicas
//! wrote to Redis adds names only while the table has room to spare for clients of this replica.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::hash::hash_name;
use super::words::SlotWords;
use sigmad_sample::{DeviceId, METRIC_BYTES_MAX, MetricId};

/// The share of the table that one device may hold once half of it is taken: a sixteenth.
pub const DEVICE_SHARE: usize = 16;
/// Bytes of one metric at worst, as of a [device](super::DEVICE_BYTES).
pub const METRIC_BYTES: usize = size_of::<AtomicU64>()
    + (METRIC_BYTES_MAX + 2 * size_of::<usize>()).next_multiple_of(32)
    + 3 * size_of::<MetricSlot>()
    + 4 * size_of::<u16>();
/// `cpu` and `rps` are never evicted.
const KEPT_METRICS: usize = 2;

/// Who sends a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Sender {
    /// A device of a client, or of another replica.
    Device(DeviceId),
    /// Clients that name no device.
    NoDevice,
    /// Other replicas, whose devices have sent it.
    Replicas,
}

#[derive(Debug, Default)]
struct MetricSlot {
    /// None once evicted.
    name: Option<Arc<str>>,
    /// None once there are several, and for `cpu` and `rps`.
    only_sender: Option<Sender>,
}

/// All metrics.
#[derive(Debug, Default)]
pub(super) struct MetricTable {
    pub(super) max: usize,
    slots: Vec<MetricSlot>,
    by_name: HashTable<u16>,
    /// Slots without a name. [`MetricTable::claim`] leaves slots here that have one again.
    free: Vec<u16>,
    /// Names by their only sender.
    held: HashMap<Sender, usize, RandomState>,
    pub(super) evicted: u64,
    swept_s: u32,
}

impl MetricTable {
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn name(&self, slot: usize) -> Option<&Arc<str>> {
        self.slots.get(slot)?.name.as_ref()
    }

    pub(super) fn find(&self, hash: u64, name: &str) -> Option<usize> {
        let found = |&slot: &u16| self.slots[usize::from(slot)].name.as_deref() == Some(name);
        self.by_name.find(hash, found).map(|&slot| usize::from(slot))
    }

    /// How many names `sender` may add; None is a device that is new.
    pub(super) fn room(&self, sender: Option<Sender>, is_foreign: bool) -> usize {
        // A quarter is for the clients of this replica, whatever Redis holds.
        let max = if is_foreign { self.max / 4 * 3 } else { self.max };
        let free = max.saturating_sub(self.len());
        if sender == Some(Sender::Replicas) {
            return free;
        }
        let held = sender.and_then(|sender| self.held.get(&sender)).copied().unwrap_or_default();
        let share = (self.max / DEVICE_SHARE).saturating_sub(held);
        free.min(share.max((self.max / 2).saturating_sub(self.len())))
    }

    pub(super) fn add(
        &mut self,
        words: &SlotWords,
        hasher: &RandomState,
        name: &str,
        only_sender: Option<Sender>,
    ) -> MetricId {
        let slot = self.free_slot();
        self.add_at(words, hasher, name, only_sender, slot)
    }

    fn free_slot(&mut self) -> u16 {
        while let Some(slot) = self.free.pop() {
            if self.slots[usize::from(slot)].name.is_none() {
                return slot;
            }
        }
        self.slots.push(MetricSlot::default());
        (self.slots.len() - 1) as u16
    }

    /// The slot, if it is free; else another one. There must be one.
    pub(super) fn claim(&mut self, slot: usize) -> u16 {
        if slot < self.max && slot >= self.slots.len() {
            self.free.extend(self.slots.len() as u16..slot as u16);
            self.slots.resize_with(slot + 1, MetricSlot::default);
            return slot as u16;
        }
        let is_free = self.slots.get(slot).is_some_and(|slot| slot.name.is_none());
        if is_free { slot as u16 } else { self.free_slot() }
    }

    /// Gives a free slot to a name.
    pub(super) fn add_at(
        &mut self,
        words: &SlotWords,
        hasher: &RandomState,
        name: &str,
        only_sender: Option<Sender>,
        slot: u16,
    ) -> MetricId {
        let Self { slots, by_name, held, .. } = self;
        slots[usize::from(slot)] = MetricSlot { name: Some(name.into()), only_sender };
        by_name.insert_unique(hash_name(hasher, name.as_bytes()), slot, |&slot| {
            let name = slots[usize::from(slot)].name.as_deref().expect("it is in the table");
            hash_name(hasher, name.as_bytes())
        });
        if let Some(sender) = only_sender {
            *held.entry(sender).or_default() += 1;
        }
        MetricId::new(slot, words.generation(usize::from(slot)) as u16)
    }

    /// Whether `sender` changes whom that name counts against. What replicas read back from Redis changes
    /// nothing: it may be what a client of this replica sent.
    pub(super) fn is_of_other(&self, metric: MetricId, sender: Sender) -> bool {
        let only = self.slots[metric.slot()].only_sender;
        sender != Sender::Replicas && only.is_some_and(|only| only != sender)
    }

    /// Takes note that `sender` sends that name. A second one sets it free; the first one that is known takes
    /// it from the replicas.
    pub(super) fn note(&mut self, metric: MetricId, sender: Sender) {
        if !self.is_of_other(metric, sender) {
            return;
        }
        let only = self.slots[metric.slot()].only_sender.take();
        self.release(only);
        if only == Some(Sender::Replicas) {
            self.slots[metric.slot()].only_sender = Some(sender);
            *self.held.entry(sender).or_default() += 1;
        }
    }

    fn release(&mut self, only: Option<Sender>) {
        if let Some(only) = only
            && let Some(held) = self.held.get_mut(&only)
        {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&only);
            }
        }
    }

    /// Evicts all silent names, once a second at most: a name cannot become silent within one. Returns their
    /// ids as they were.
    pub(super) fn evict_silent(
        &mut self,
        words: &SlotWords,
        hasher: &RandomState,
        now_s: u32,
        idle_s: u32,
    ) -> Vec<MetricId> {
        let mut gone = Vec::new();
        if std::mem::replace(&mut self.swept_s, now_s) == now_s {
            return gone;
        }
        for slot in KEPT_METRICS..self.slots.len() {
            let generation = words.generation(slot);
            let next = |generation| (generation + 1) % u32::from(MetricId::GENERATIONS);
            if self.slots[slot].name.is_none() || !words.retire(slot, now_s, idle_s, next) {
                continue;
            }
            self.remove(slot, hasher);
            gone.push(MetricId::new(slot as u16, generation as u16));
        }
        self.evicted += gone.len() as u64;
        gone
    }

    fn remove(&mut self, slot: usize, hasher: &RandomState) {
        let MetricSlot { name, only_sender } = std::mem::take(&mut self.slots[slot]);
        let name = name.expect("only a slot in use is evicted");
        // Removing must not grow the table, as `entry` may.
        let hash = hash_name(hasher, name.as_bytes());
        let entry = self.by_name.find_entry(hash, |&other| usize::from(other) == slot);
        entry.expect("a slot in use is in the table").remove();
        self.release(only_sender);
        self.free.push(slot as u16);
    }
}
