//! The streams of each device, in a dense table, and the fleet's streams by metric.
//!
//! A device is at its id's index, a metric at its id. The registry gives the index of a silent device to
//! another one under the next generation; the first sample of the new device clears the entry. A sample of a
//! device that has been replaced, or was evicted before its first sample came here, counts for the fleet
//! alone: its device's windows are gone, and it must not enter those of another.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::analytics::anomalies::OpenAnomaly;
use crate::analytics::arena::{Arena, StreamIndex};
use crate::analytics::names::NameLookup;
use crate::judged_queue::JudgedCounts;
use sigmad_detectors::DetectorSettings;
use sigmad_sample::{DeviceId, MetricId};

/// Entries are added this many at a time, so that growth copies none.
pub const DEVICES_PER_CHUNK: usize = 1_024;

/// Bytes of one device here, without its streams.
pub const DEVICE_BYTES: usize = size_of::<DeviceEntry>();

/// One stream of a device, with what `/devices` sorts by, so that sorting reads no stream.
#[derive(Clone, Copy, Debug)]
pub struct DeviceStream {
    /// The score of the last verdict.
    pub score: f64,
    /// The stream.
    pub place: StreamIndex,
    /// Its metric.
    pub metric: MetricId,
    /// Whether the last verdict was an anomaly.
    pub is_anomaly: bool,
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
    /// Takes a sample that arrived here. `others` are the samples of other replicas.
    #[inline]
    pub fn update(&mut self, arrived_us: i64, timestamp_us: i64, others: JudgedCounts) {
        self.own_timestamp_us = timestamp_us;
        // Without other replicas the latest arrival is the last sample, whatever the clock does.
        if arrived_us >= self.seen_us || others.total == 0 {
            (self.seen_us, self.timestamp_us) = (arrived_us, timestamp_us);
        }
    }

    /// Takes the last sample that any replica reports.
    pub fn update_from_replicas(&mut self, seen_us: i64, timestamp_us: i64) {
        if seen_us > self.seen_us {
            (self.seen_us, self.timestamp_us) = (seen_us, timestamp_us);
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
        let place = arena.open();
        self.streams.push(DeviceStream { score: 0.0, place, metric, is_anomaly: false });
        self.streams.len() - 1
    }

    /// The stream with the highest score, the first of equals. None without a stream.
    pub fn highest_score(&self) -> Option<&DeviceStream> {
        self.streams.iter().reduce(|best, next| if next.score > best.score { next } else { best })
    }
}

/// One metric, over all devices.
#[derive(Debug)]
pub struct FleetStream {
    /// The metric's name.
    pub name: Arc<str>,
    /// Its id.
    pub metric: MetricId,
    /// Its stream.
    pub place: StreamIndex,
}

/// All devices and streams.
#[derive(Debug)]
pub struct Streams {
    names: NameLookup,
    devices: Vec<Box<[DeviceEntry]>>,
    occupied: usize,
    fleet: Vec<Option<FleetStream>>,
    fleet_count: usize,
    /// The streams of devices and of the fleet.
    pub arena: Arena,
    /// Open anomalies of devices that have been replaced.
    pub left_open: Vec<(OpenAnomaly, DeviceId, MetricId)>,
}

impl Streams {
    /// Streams with `window` values each, judged by these detectors.
    pub fn new(window: usize, detectors: DetectorSettings, names: NameLookup) -> Self {
        Self {
            names,
            devices: Vec::new(),
            occupied: 0,
            fleet: Vec::new(),
            fleet_count: 0,
            arena: Arena::new(window, detectors),
            left_open: Vec::new(),
        }
    }

    /// Devices with streams.
    pub fn devices(&self) -> usize {
        self.occupied
    }

    /// Streams of devices.
    pub fn device_streams(&self) -> usize {
        self.arena.in_use() - self.fleet_count
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
        for state in streams.filter_map(|stream| self.arena.get(stream.place).0.state) {
            self.arena.states().prefetch(state);
        }
    }

    /// This replica's counts of a device's stream; `hint` as for [`DeviceEntry::stream`].
    #[inline]
    pub fn counts(&self, device: &DeviceEntry, metric: MetricId, hint: usize) -> JudgedCounts {
        let at = device.find(metric, hint);
        at.map_or(JudgedCounts::default(), |at| self.arena.get(device.streams[at].place).0.own)
    }

    /// This replica's counts of the fleet's stream.
    #[inline]
    pub fn fleet_counts(&self, metric: MetricId) -> JudgedCounts {
        let place = self.known_fleet_stream(metric);
        place.map_or(JudgedCounts::default(), |place| self.arena.get(place).0.own)
    }

    /// Whether the registry still knows the device: an evicted one keeps its entry here until another device
    /// takes it.
    pub fn is_current(&self, id: DeviceId) -> bool {
        self.names.device(id).is_some()
    }

    /// The device of that id, which gets its entry when it is new, and the streams. None when the device has
    /// been evicted.
    #[inline]
    pub fn device_mut(&mut self, id: DeviceId) -> Option<(&mut DeviceEntry, &mut Arena)> {
        if self.device(id).is_none() {
            self.occupy(id)?;
        }
        let index = id.index as usize;
        let device = &mut self.devices[index / DEVICES_PER_CHUNK][index % DEVICES_PER_CHUNK];
        Some((device, &mut self.arena))
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
        let name = self.names.device(id)?;
        self.occupied += usize::from(device.name.is_none());
        let gone = DeviceId { index: id.index, generation: device.generation };
        for stream in &device.streams {
            let open = self.arena.give_back(stream.place);
            self.left_open.extend(open.map(|open| (open, gone, stream.metric)));
        }
        let generation = id.generation;
        *device = DeviceEntry { name: Some(name), generation, ..DeviceEntry::default() };
        Some(())
    }

    /// The fleet's stream of that metric, opened when the metric is new.
    #[inline]
    pub fn fleet_stream(&mut self, metric: MetricId) -> StreamIndex {
        self.known_fleet_stream(metric).unwrap_or_else(|| self.open_fleet(metric))
    }

    /// The fleet's stream of that metric, if there is one.
    #[inline]
    pub fn known_fleet_stream(&self, metric: MetricId) -> Option<StreamIndex> {
        Some(self.fleet.get(usize::from(metric.0))?.as_ref()?.place)
    }

    #[cold]
    fn open_fleet(&mut self, metric: MetricId) -> StreamIndex {
        let index = usize::from(metric.0);
        if self.fleet.len() <= index {
            self.fleet.resize_with(index + 1, || None);
        }
        let (name, place) = (self.names.metric(metric), self.arena.open());
        self.fleet[index] = Some(FleetStream { name, metric, place });
        self.fleet_count += 1;
        place
    }

    /// The fleet's streams, in the order of metric ids.
    pub fn fleet(&self) -> impl Iterator<Item = &FleetStream> {
        self.fleet.iter().flatten()
    }

    /// The name of a metric that was judged.
    pub fn metric_name(&self, metric: MetricId) -> Arc<str> {
        let fleet = self.fleet.get(usize::from(metric.0)).and_then(Option::as_ref);
        fleet.map_or_else(|| self.names.metric(metric), |fleet| fleet.name.clone())
    }
}
