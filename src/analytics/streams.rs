//! The streams of each device, in a dense table, and the fleet's streams by metric.
//!
//! A device is at its id's index, a metric at its id's slot. The registry gives the index of a silent device to
//! another one under the next generation; the first sample of the new device clears the entry. A sample of a
//! device that has been replaced, or was evicted before its first sample came here, counts for the fleet
//! alone: its device's windows are gone, and it must not enter those of another.
//!
//! The same holds for metrics: a value whose name has been evicted enters no window. The streams of evicted
//! names are given back in steps ([`Streams::free_stale`]), and the fleet's also when its slot is taken.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::analytics::anomalies::{OpenAnomaly, Subject};
use crate::analytics::arena::{Arena, FlaggedIndex, StreamIndex};
use crate::analytics::fleet::{FleetStream, FleetStreams};
use crate::analytics::names::NameLookup;
use crate::judged_queue::{JudgedCounts, SharedWindows};
use sigmad_detectors::DetectorSettings;
use sigmad_sample::{DeviceId, MetricId, Verdict};

/// Entries are added this many at a time, so that growth copies none.
pub const DEVICES_PER_CHUNK: usize = 1_024;
/// Streams of devices that one step of [`Streams::free_stale`] checks: some 20 µs.
const CHECKED_PER_STEP: usize = 4_096;

/// Bytes of one device here, without its streams.
pub const DEVICE_BYTES: usize = size_of::<DeviceEntry>();

/// One stream of a device, with what `/devices` sorts by, so that sorting reads no stream.
#[derive(Clone, Copy, Debug)]
pub struct DeviceStream {
    /// The score of the last verdict.
    pub score: f64,
    /// Its metric.
    pub metric: MetricId,
    /// The stream, and whether the last verdict was an anomaly.
    flagged: FlaggedIndex,
}

impl DeviceStream {
    /// The stream.
    #[inline]
    pub fn place(&self) -> StreamIndex {
        self.flagged.index()
    }

    /// Whether the last verdict was an anomaly.
    pub fn is_anomaly(&self) -> bool {
        self.flagged.flag()
    }

    /// Takes the last verdict.
    #[inline]
    pub fn set_verdict(&mut self, verdict: &Verdict) {
        self.score = verdict.score;
        self.flagged = self.place().with_flag(verdict.is_anomaly);
    }
}

/// The last sample of a device or of the fleet.
#[derive(Clone, Copy, Debug, Default)]
pub struct LastSample {
    /// When it arrived at any replica, by this replica's clock.
    pub seen_us: i64,
    /// Its timestamp.
    pub timestamp_us: i64,
    /// The timestamp of the last sample that arrived here.
    pub own_timestamp_us: i64,
}

impl LastSample {
    /// Takes a sample that arrived here. It is the last one, whatever the clocks say: if Redis' order differs,
    /// the store reads it again once the sample is written.
    #[inline]
    pub fn update(&mut self, arrived_us: i64, timestamp_us: i64) {
        self.own_timestamp_us = timestamp_us;
        (self.seen_us, self.timestamp_us) = (arrived_us, timestamp_us);
    }

    /// Takes the last sample of all replicas, in Redis' order. Samples that Redis does not have come after it.
    pub fn update_from_replicas(&mut self, shared: &SharedWindows, is_all_written: bool) {
        if is_all_written && shared.others.total > 0 && shared.last_seen_us > 0 {
            (self.seen_us, self.timestamp_us) = (shared.last_seen_us, shared.last_timestamp_us);
        }
    }

    /// A time in whole seconds, to save space; works until 2106.
    pub fn seconds(at_us: i64) -> u32 {
        (at_us / 1_000_000) as u32
    }
}

/// One device, or an entry without a device so far. Two cache lines.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct DeviceEntry {
    /// None before the first device.
    pub name: Option<Arc<str>>,
    /// The generation of the device's id.
    pub generation: u32,
    /// In the order in which they were first sent.
    pub streams: SmallVec<[DeviceStream; 2]>,
    /// Samples that this replica judged since the start, and anomalies in them.
    pub own: JudgedCounts,
    /// The same of other replicas, as last reported.
    pub others: JudgedCounts,
    /// The last sample.
    pub last: LastSample,
    /// When its last sample arrived here, by [`LastSample::seconds`].
    pub own_seen_s: u32,
}

const _: () = assert!(size_of::<DeviceEntry>() == 128);

impl DeviceEntry {
    /// Its stream of that metric, opened when the metric is new. `hint` is its probable position: most samples
    /// of a device name the same metrics in the same order.
    #[inline]
    pub fn stream(
        &mut self,
        metric: MetricId,
        hint: usize,
        arena: &mut Arena,
    ) -> &mut DeviceStream {
        let at = self.find(metric, hint).unwrap_or_else(|| self.open(metric, arena));
        &mut self.streams[at]
    }

    /// The position of its stream of that metric; `hint` as for [`DeviceEntry::stream`].
    #[inline]
    pub fn find(&self, metric: MetricId, hint: usize) -> Option<usize> {
        if self.streams.get(hint).is_some_and(|stream| stream.metric == metric) {
            return Some(hint);
        }
        self.streams.iter().position(|stream| stream.metric == metric)
    }

    #[cold]
    fn open(&mut self, metric: MetricId, arena: &mut Arena) -> usize {
        let flagged = arena.open().with_flag(false);
        self.streams.push(DeviceStream { score: 0.0, metric, flagged });
        self.streams.len() - 1
    }

    /// The stream with the highest score, the first of equals. None without a stream.
    pub fn highest_score(&self) -> Option<&DeviceStream> {
        self.streams.iter().reduce(|best, next| if next.score > best.score { next } else { best })
    }
}

/// All devices and streams.
#[derive(Debug)]
pub struct Streams {
    names: NameLookup,
    devices: Vec<Box<[DeviceEntry]>>,
    occupied: usize,
    /// The fleet's streams.
    pub fleet: FleetStreams,
    /// The streams of devices and of the fleet.
    pub arena: Arena,
    /// Open anomalies of streams that were given back.
    pub left_open: Vec<(OpenAnomaly, Subject)>,
    stale: StaleScan,
}

/// How far the search for streams of evicted metrics has come.
#[derive(Debug, Default)]
struct StaleScan {
    /// The evictions that it began after.
    evictions: u64,
    /// The next entry of a device; None when there is nothing to search for.
    next: Option<usize>,
}

impl Streams {
    /// Streams with `window` values each, judged by these detectors.
    pub fn new(window: usize, detectors: DetectorSettings, names: NameLookup) -> Self {
        Self {
            names,
            devices: Vec::new(),
            occupied: 0,
            fleet: FleetStreams::default(),
            arena: Arena::new(window, detectors),
            left_open: Vec::new(),
            stale: StaleScan::default(),
        }
    }

    /// Devices with streams.
    pub fn devices(&self) -> usize {
        self.occupied
    }

    /// Streams of devices.
    pub fn device_streams(&self) -> usize {
        self.arena.in_use() - self.fleet.len()
    }

    /// Entries of devices, occupied or not.
    pub fn entries(&self) -> usize {
        self.devices.len() * DEVICES_PER_CHUNK
    }

    /// The entries from `from` to the end of their chunk.
    pub fn chunk_from(&self, from: usize) -> &[DeviceEntry] {
        let chunk = self.devices.get(from / DEVICES_PER_CHUNK);
        chunk.map_or(&[], |devices| &devices[from % DEVICES_PER_CHUNK..])
    }

    /// The device of that id. None once it has been replaced.
    #[inline]
    pub fn device(&self, id: DeviceId) -> Option<&DeviceEntry> {
        let index = id.index as usize;
        let device = &self.devices.get(index / DEVICES_PER_CHUNK)?[index % DEVICES_PER_CHUNK];
        (device.generation == id.generation && device.name.is_some()).then_some(device)
    }

    /// Prefetches the detectors' states of a device whose sample is next.
    pub fn prefetch(&self, id: DeviceId) {
        let streams = self.device(id).into_iter().flat_map(|device| &device.streams);
        for state in streams.filter_map(|stream| self.arena.get(stream.place()).0.state) {
            self.arena.states().prefetch(state);
        }
    }

    /// This replica's counts of a device's stream; `hint` as for [`DeviceEntry::stream`].
    #[inline]
    pub fn counts(&self, device: &DeviceEntry, metric: MetricId, hint: usize) -> JudgedCounts {
        let at = device.find(metric, hint);
        at.map_or(JudgedCounts::default(), |at| self.arena.get(device.streams[at].place()).0.own)
    }

    /// This replica's counts of the fleet's stream.
    #[inline]
    pub fn fleet_counts(&self, metric: MetricId) -> JudgedCounts {
        let stream = self.fleet.get(metric);
        stream.map_or(JudgedCounts::default(), |stream| self.arena.get(stream.place).0.own)
    }

    /// Whether the registry still knows the device: an evicted one keeps its entry here until another device
    /// takes it.
    pub fn is_current(&self, id: DeviceId) -> bool {
        self.names.0.device(id).is_some()
    }

    /// The device of that id, which gets its entry when it is new, the streams, and the fleet's. None when the
    /// device has been evicted.
    #[inline]
    pub fn device_mut(
        &mut self,
        id: DeviceId,
    ) -> Option<(&mut DeviceEntry, &mut Arena, &mut FleetStreams)> {
        if self.device(id).is_none() {
            self.occupy(id)?;
        }
        let index = id.index as usize;
        let device = &mut self.devices[index / DEVICES_PER_CHUNK][index % DEVICES_PER_CHUNK];
        Some((device, &mut self.arena, &mut self.fleet))
    }

    /// Gives the entry to a new device.
    #[cold]
    fn occupy(&mut self, id: DeviceId) -> Option<()> {
        let index = id.index as usize;
        while self.devices.len() <= index / DEVICES_PER_CHUNK {
            let chunk = std::iter::repeat_with(DeviceEntry::default).take(DEVICES_PER_CHUNK);
            self.devices.push(chunk.collect());
        }
        let device = &mut self.devices[index / DEVICES_PER_CHUNK][index % DEVICES_PER_CHUNK];
        if device.name.is_some() && device.generation > id.generation {
            return None;
        }
        let name = self.names.0.device(id)?;
        self.occupied += usize::from(device.name.is_none());
        let gone = DeviceId { index: id.index, generation: device.generation };
        for stream in &device.streams {
            let open = self.arena.give_back(stream.place());
            self.left_open.extend(open.map(|open| (open, (Some(gone), stream.metric))));
        }
        let generation = id.generation;
        *device = DeviceEntry { name: Some(name), generation, ..DeviceEntry::default() };
        Some(())
    }

    /// The fleet's stream of that metric, opened when the metric is new. None when its name has been evicted.
    #[inline]
    pub fn fleet_stream(&mut self, metric: MetricId) -> Option<StreamIndex> {
        match self.fleet.get(metric) {
            Some(stream) => Some(stream.place),
            None => self.open_fleet(metric),
        }
    }

    #[cold]
    fn open_fleet(&mut self, metric: MetricId) -> Option<StreamIndex> {
        let name = self.names.0.metric(metric)?;
        let place = self.arena.open();
        let gone = self.fleet.insert(FleetStream { name, metric, place, anomalies: 0 });
        if let Some(FleetStream { metric, place, .. }) = gone {
            let open = self.arena.give_back(place);
            self.left_open.extend(open.map(|open| (open, (None, metric))));
        }
        Some(place)
    }

    /// Whether the name of a metric has not been evicted.
    pub fn is_metric(&self, metric: MetricId) -> bool {
        self.names.0.is_metric(metric)
    }

    /// The name of a metric, None once it has been evicted.
    pub fn metric_name(&self, metric: MetricId) -> Option<Arc<str>> {
        let fleet = self.fleet.get(metric).map(|stream| stream.name.clone());
        fleet.or_else(|| self.names.0.metric(metric))
    }

    /// Takes one step in giving back the streams whose metrics were evicted. False if there is nothing to do.
    pub fn free_stale(&mut self) -> bool {
        let Self { names, devices, fleet, arena, left_open, stale, .. } = self;
        let is_current = |metric| names.0.is_metric(metric);
        let Some(next) = stale.next else {
            let evictions = names.0.evictions();
            if stale.evictions == evictions {
                return false;
            }
            *stale = StaleScan { evictions, next: Some(0) };
            fleet.retain(is_current, |stream| {
                let open = arena.give_back(stream.place);
                left_open.extend(open.map(|open| (open, (None, stream.metric))));
            });
            return true;
        };
        let mut entries = devices.iter_mut().flatten().enumerate().skip(next);
        let mut checked = 0;
        stale.next = loop {
            let Some((index, device)) = entries.next() else { break None };
            if checked >= CHECKED_PER_STEP {
                break Some(index);
            }
            checked += 1 + device.streams.len();
            let id = DeviceId { index: index as u32, generation: device.generation };
            device.streams.retain(|stream| {
                let stays = is_current(stream.metric);
                if !stays {
                    let open = arena.give_back(stream.place());
                    left_open.extend(open.map(|open| (open, (Some(id), stream.metric))));
                }
                stays
            });
        };
        true
    }
}
