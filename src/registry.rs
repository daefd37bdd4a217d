//! The names of devices and metrics with their ids, and the number of streams.
//!
//! Shared by all threads. A worker looks up names in its decoder's caches first, and takes the lock only for
//! names that they lack.
//!
//! Every slot, of a device or a metric, has an atomic word outside the lock ([`words`]): its generation, and the
//! second in which its name was last sent. A worker with a cached id touches the word, or learns that the
//! generation has passed. Names that nobody has sent for `stream_idle_s` are evicted when others need their
//! room: devices one by one, metrics all at once, with the streams that live devices have of them.
//!
//! Evictions are counted: see [`Registry::devices_evicted`] and [`Registry::metrics_evicted`].

mod devices;
mod hash;
mod metrics;
mod restore;
mod words;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use parking_lot::RwLock;

use self::devices::DeviceTable;
use self::hash::hash_name;
use self::metrics::{MetricTable, Sender};
use self::words::SlotWords;
use sigmad_counters::{Families, MetricSource};
use sigmad_sample::{DeviceId, METRICS_MAX, MetricId, READINGS_MAX};

pub use self::devices::{DEVICE_BYTES, mask_of};
pub use self::metrics::METRIC_BYTES;

/// A worker that finds its device touched in the present second does not write the word, so a device must not
/// become evictable within that second.
pub const STREAM_IDLE_MIN_S: u32 = 2;

/// Each metric has a stream of the fleet and a name of up to a kilobyte, which count against no device: with
/// little memory there are few streams, and one metric for fifteen of them at most.
pub const STREAMS_PER_METRIC: usize = 15;
/// But as many metrics as that, however few streams there are.
pub const METRICS_FEW: usize = 1_024;
const _: () = assert!(1_000_000 / STREAMS_PER_METRIC >= METRICS_MAX, "the default has all of them");

/// Why nothing of a sample was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// `--max-streams` are in use, and no device is silent.
    Streams,
    /// None of its metrics is known or has room: the table is full, or the device holds its share.
    Metrics,
}

/// A device with room for the streams asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The device.
    pub device: DeviceId,
    /// Its metrics that have a bit ([`mask_of`]).
    pub metrics_mask: u64,
}

/// Where names come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameSource {
    /// A client of this replica.
    Client,
    /// Another replica, by way of Redis.
    Replica,
}

/// The names in use.
#[derive(Debug)]
pub struct Registry {
    max_streams: usize,
    metrics_max: usize,
    stream_idle_s: u32,
    hasher: RandomState,
    /// One for each possible slot: a device has at least one stream.
    device_words: SlotWords,
    metric_words: SlotWords,
    /// How often metrics were evicted: caches of names are stale once it has changed.
    evictions: AtomicU64,
    names: RwLock<NameTables>,
}

#[derive(Debug, Default)]
struct NameTables {
    metrics: MetricTable,
    devices: DeviceTable,
}

impl Registry {
    /// Room for `max_streams` streams (device × metric); a name silent for `stream_idle_s` may be evicted when
    /// another one needs its room.
    pub fn new(max_streams: usize, stream_idle_s: u32) -> Self {
        debug_assert!(stream_idle_s >= STREAM_IDLE_MIN_S);
        debug_assert!(u32::try_from(max_streams).is_ok());
        let metrics_max = (max_streams / STREAMS_PER_METRIC).clamp(METRICS_FEW, METRICS_MAX);
        let registry = Self {
            max_streams,
            metrics_max,
            stream_idle_s,
            hasher: RandomState::default(),
            device_words: SlotWords::new(max_streams),
            metric_words: SlotWords::new(metrics_max),
            evictions: AtomicU64::new(0),
            names: RwLock::default(),
        };
        let mut names = registry.names.write();
        names.metrics.max = metrics_max;
        for (name, id) in [("cpu", MetricId::CPU), ("rps", MetricId::RPS)] {
            let NameTables { metrics, .. } = &mut *names;
            let (words, hasher) = (&registry.metric_words, &registry.hasher);
            let added = metrics.add(words, hasher, name, None);
            debug_assert_eq!(added, id);
        }
        drop(names);
        registry
    }

    /// The hash by which names are found, here and in the decoders' caches.
    #[inline]
    pub fn hash_name(&self, name: &[u8]) -> u64 {
        hash_name(&self.hasher, name)
    }

    /// The device of that name.
    pub fn find_device(&self, name: &str) -> Option<DeviceId> {
        let hash = self.hash_name(name.as_bytes());
        let names = self.names.read();
        names.devices.find(hash, name).map(|index| self.device_id(index))
    }

    /// The name of a device, None once it has been evicted.
    pub fn device_name(&self, id: DeviceId) -> Option<Arc<str>> {
        // Under the lock no eviction runs, so the generation and the slot belong together.
        let names = self.names.read();
        let name = names.devices.name(id.index)?;
        (self.device_id(id.index) == id).then(|| name.clone())
    }

    /// The names of the devices in a part of the slots, so that no reader locks the table for long. None past the
    /// last slot.
    pub fn device_names(&self, slots: Range<usize>) -> Option<Vec<Arc<str>>> {
        self.names.read().devices.names(slots)
    }

    /// The metric of that name.
    pub fn find_metric(&self, name: &str) -> Option<MetricId> {
        let hash = self.hash_name(name.as_bytes());
        let names = self.names.read();
        names.metrics.find(hash, name).map(|slot| self.metric_id(slot))
    }

    /// The name of a metric, None once it has been evicted.
    pub fn metric_name(&self, id: MetricId) -> Option<Arc<str>> {
        let names = self.names.read();
        let name = names.metrics.name(id.slot())?;
        self.is_metric(id).then(|| name.clone())
    }

    /// Whether the name of a metric has not been evicted.
    #[inline]
    pub fn is_metric(&self, id: MetricId) -> bool {
        self.metric_words.has(id.slot(), u32::from(id.generation()))
    }

    /// Whether the device has not been evicted.
    pub fn is_device(&self, id: DeviceId) -> bool {
        self.device_words.has(id.index as usize, id.generation)
    }

    /// How often metrics were evicted since the start.
    #[inline]
    pub fn metric_evictions(&self) -> u64 {
        // Relaxed: a cache that is stale for a moment longer finds its stale ids by their words.
        self.evictions.load(Ordering::Relaxed)
    }

    /// Streams (device × metric) in use.
    pub fn streams(&self) -> usize {
        self.names.read().devices.streams
    }

    /// Devices in use.
    pub fn devices(&self) -> usize {
        self.names.read().devices.len()
    }

    /// Streams that have room.
    pub fn max_streams(&self) -> usize {
        self.max_streams
    }

    /// Metrics that have room: [`METRICS_MAX`], fewer with few streams.
    pub fn metrics_max(&self) -> usize {
        self.metrics_max
    }

    /// Metrics in use.
    pub fn metrics(&self) -> usize {
        self.names.read().metrics.len()
    }

    /// Devices evicted since the start.
    pub fn devices_evicted(&self) -> u64 {
        self.names.read().devices.evicted
    }

    /// Metrics evicted since the start.
    pub fn metrics_evicted(&self) -> u64 {
        self.names.read().metrics.evicted
    }

    /// Records a sample of a device in the second `now_s`. False once the device has been evicted.
    #[inline]
    pub fn touch(&self, device: DeviceId, now_s: u32) -> bool {
        self.device_words.touch(device.index as usize, device.generation, now_s)
    }

    /// Records a value of a metric in the second `now_s`. False once the metric has been evicted.
    #[inline]
    pub fn touch_metric(&self, metric: MetricId, now_s: u32) -> bool {
        self.metric_words.touch(metric.slot(), u32::from(metric.generation()), now_s)
    }

    /// Forgets a device and its streams; false when there is none of that name. The next sample makes it a new one.
    pub fn forget_device(&self, name: &str) -> bool {
        let hash = self.hash_name(name.as_bytes());
        let mut names = self.names.write();
        let Some(index) = names.devices.find(hash, name) else { return false };
        names.devices.forget(index, &self.device_words, &self.hasher);
        true
    }

    /// Gives the metrics in `metrics` their ids (None becomes Some), and the device room for a stream of each.
    /// A metric whose name finds no room stays None. The names in `metrics` differ from one another, and come from
    /// `source`.
    ///
    /// # Errors
    /// When no metric has room, or the streams do not all have room; nothing is created then.
    pub fn admit(
        &self,
        source: NameSource,
        device: Option<&str>,
        metrics: &mut [(&str, Option<MetricId>)],
        now_s: u32,
    ) -> Result<Option<Admitted>, Full> {
        debug_assert!((1..=READINGS_MAX).contains(&metrics.len()));
        let hash = device.map(|name| self.hash_name(name.as_bytes()));
        {
            let names = self.names.read();
            if self.look_up_metrics(&names, metrics, now_s) == 0 {
                let index = device.zip(hash).map(|(name, hash)| names.devices.find(hash, name));
                if index != Some(None) && self.is_known(&names, source, index.flatten(), metrics) {
                    return Ok(index.flatten().map(|index| self.touched(&names, index, now_s)));
                }
            }
        }
        let mut names = self.names.write();
        let missing = self.look_up_metrics(&names, metrics, now_s);
        let mut index = None;
        if let Some((name, hash)) = device.zip(hash) {
            index = names.devices.find(hash, name);
            // Touched first, so that making room does not evict the device that asks for it.
            index.map(|index| self.touched(&names, index, now_s));
        }
        let room = self.metric_room(&mut names, source, (device, index), missing, now_s);
        if metrics.len() - missing + room == 0 {
            return Err(Full::Metrics);
        }
        if let Some(name) = device {
            self.make_stream_room(&mut names, index, metrics, room, now_s)?;
            index = index.or_else(|| Some(names.devices.add(&self.hasher, name)));
        }
        self.add_metrics(&mut names, self.sender(source, index), metrics, (room, now_s));
        let Some(index) = index else { return Ok(None) };
        metrics.iter().filter_map(|(_, id)| *id).for_each(|id| names.devices.add_stream(index, id));
        Ok(Some(self.touched(&names, index, now_s)))
    }

    /// Fills in the ids of known metrics, and touches them. Returns how many are new.
    fn look_up_metrics(
        &self,
        names: &NameTables,
        metrics: &mut [(&str, Option<MetricId>)],
        now_s: u32,
    ) -> usize {
        let mut missing = 0;
        for (name, id) in metrics {
            if id.is_none() {
                let slot = names.metrics.find(self.hash_name(name.as_bytes()), name);
                *id = slot.map(|slot| self.metric_id(slot));
                match *id {
                    // No eviction runs under the lock, so it is still there.
                    Some(id) => _ = self.touch_metric(id, now_s),
                    None => missing += 1,
                }
            }
        }
        missing
    }

    /// Whether a sample of known metrics changes nothing in the tables. `index` is its device's.
    fn is_known(
        &self,
        names: &NameTables,
        source: NameSource,
        index: Option<u32>,
        metrics: &[(&str, Option<MetricId>)],
    ) -> bool {
        let sender = self.sender(source, index);
        metrics.iter().filter_map(|(_, id)| *id).all(|id| {
            index.is_none_or(|index| names.devices.has(index, id))
                && !names.metrics.is_of_other(id, sender)
        })
    }

    fn sender(&self, source: NameSource, index: Option<u32>) -> Sender {
        match (index, source) {
            (Some(index), _) => Sender::Device(self.device_id(index)),
            (None, NameSource::Client) => Sender::NoDevice,
            (None, NameSource::Replica) => Sender::Replicas,
        }
    }

    /// How many of `missing` new metrics have room, after the eviction of silent ones.
    fn metric_room(
        &self,
        names: &mut NameTables,
        source: NameSource,
        (device, index): (Option<&str>, Option<u32>),
        missing: usize,
        now_s: u32,
    ) -> usize {
        let is_new = device.is_some() && index.is_none();
        let sender = (!is_new).then(|| self.sender(source, index));
        let room = |names: &NameTables| names.metrics.room(sender, source == NameSource::Replica);
        if room(names) < missing {
            self.evict_metrics(names, now_s);
        }
        room(names).min(missing)
    }

    /// Makes room for the streams of a sample, of which `new_metrics` are of metrics that are new. `index` is
    /// its device's, None for a new one.
    fn make_stream_room(
        &self,
        names: &mut NameTables,
        index: Option<u32>,
        metrics: &[(&str, Option<MetricId>)],
        new_metrics: usize,
        now_s: u32,
    ) -> Result<(), Full> {
        let known = metrics.iter().filter_map(|(_, id)| *id);
        let lacks = |id: &MetricId| index.is_none_or(|index| !names.devices.has(index, *id));
        let needed = known.filter(lacks).count() + new_metrics;
        let (words, hasher, idle_s) = (&self.device_words, &self.hasher, self.stream_idle_s);
        while names.devices.streams + needed > self.max_streams
            || index.is_none() && !names.devices.has_slot(words)
        {
            let has_evicted = names.devices.evict_one(words, hasher, now_s, idle_s)
                || self.evict_metrics(names, now_s);
            if !has_evicted {
                return Err(Full::Streams);
            }
        }
        Ok(())
    }

    /// Gives the first `room` new metrics their ids, and notes that `sender` sends all.
    fn add_metrics(
        &self,
        names: &mut NameTables,
        sender: Sender,
        metrics: &mut [(&str, Option<MetricId>)],
        (room, now_s): (usize, u32),
    ) {
        let (words, hasher) = (&self.metric_words, &self.hasher);
        let mut room = room;
        for (name, id) in metrics {
            match *id {
                Some(id) => names.metrics.note(id, sender),
                None if room > 0 => {
                    room -= 1;
                    let added = names.metrics.add(words, hasher, name, Some(sender));
                    self.touch_metric(added, now_s);
                    *id = Some(added);
                }
                None => {}
            }
        }
    }

    /// Evicts silent metrics, and with each the streams of all devices that have sent it. False if there are
    /// none.
    fn evict_metrics(&self, names: &mut NameTables, now_s: u32) -> bool {
        let NameTables { metrics, devices } = names;
        let Self { metric_words, device_words, hasher, stream_idle_s, .. } = self;
        let gone = metrics.evict_silent(metric_words, hasher, now_s, *stream_idle_s);
        if gone.is_empty() {
            return false;
        }
        let mask = gone.iter().fold(0, |mask, &metric| mask | mask_of(metric));
        devices.drop_metrics(mask, metric_words, device_words, hasher, (now_s, *stream_idle_s));
        self.evictions.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Touches a device found under the lock, where no eviction can come between.
    fn touched(&self, names: &NameTables, index: u32, now_s: u32) -> Admitted {
        let device = self.device_id(index);
        let alive = self.touch(device, now_s);
        debug_assert!(alive);
        Admitted { device, metrics_mask: names.devices.mask(index) }
    }

    fn device_id(&self, index: u32) -> DeviceId {
        DeviceId { index, generation: self.device_words.generation(index as usize) }
    }

    fn metric_id(&self, slot: usize) -> MetricId {
        MetricId::new(slot as u16, self.metric_words.generation(slot) as u16)
    }
}

impl MetricSource for Registry {
    fn collect(&self, families: &mut Families) {
        families
            .counter(
                "sigmad_devices_evicted_total",
                "Silent devices evicted to make room for others.",
            )
            .add(&[], self.devices_evicted() as f64);
        families.gauge("sigmad_metrics", "Metric names in use.").add(&[], self.metrics() as f64);
        families
            .counter(
                "sigmad_metrics_evicted_total",
                "Silent metric names evicted to make room for others.",
            )
            .add(&[], self.metrics_evicted() as f64);
    }
}

#[cfg(test)]
mod tests;
