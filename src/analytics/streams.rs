//! Who has which streams: a dense table of devices, and the fleet's streams by metric.
//!
//! A device stands at its id's index, a metric at its id. The registry gives a silent device's index to
//! another under the next generation; the first sample of the new occupant clears the place. A sample
//! of an occupant that has already been replaced, or that was evicted before it was ever heard here,
//! counts for the fleet alone: its device's windows are gone, and it must not enter another's.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::analytics::anomalies::OpenAnomaly;
use crate::analytics::arena::{Arena, StreamIndex};
use crate::analytics::names::NameLookup;
use crate::judged_queue::JudgedCounts;
use sigmad_detectors::DetectorSettings;
use sigmad_sample::{DeviceId, MetricId};

/// Devices are added so many at a time, so that growing never copies them.
pub const DEVICES_PER_CHUNK: usize = 1_024;

/// One stream of a device, with what `/devices` orders by, so that ordering touches no stream.
#[derive(Clone, Copy, Debug)]
pub struct DeviceStream {
    /// Score of the last verdict.
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
    /// When any replica heard it, by that replica's clock.
    pub seen_us: i64,
    /// Its timestamp.
    pub timestamp_us: i64,
    /// The timestamp of the last one that was heard here.
    pub own_timestamp_us: i64,
}

impl LastSample {
    /// A sample was heard here, after those that any of `others` heard before it.
    #[inline]
    pub fn update(&mut self, arrived_us: i64, timestamp_us: i64, others: JudgedCounts) {
        self.own_timestamp_us = timestamp_us;
        // With nobody else to compare with, what came last is the last, whatever the clock says.
        if arrived_us >= self.seen_us || others.total == 0 {
            (self.seen_us, self.timestamp_us) = (arrived_us, timestamp_us);
        }
    }

    /// Any replica may have heard it.
    pub fn update_from_replicas(&mut self, seen_us: i64, timestamp_us: i64) {
        if seen_us > self.seen_us {
            (self.seen_us, self.timestamp_us) = (seen_us, timestamp_us);
        }
    }

    /// A moment in whole seconds, for places where there is room for no more; until 2106.
    pub fn seconds(at_us: i64) -> u32 {
        (at_us / 1_000_000) as u32
    }
}

/// One device, or a place without an occupant so far. Two cache lines, never three.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct DeviceEntry {
    /// None: nobody yet.
    pub name: Option<Arc<str>>,
    /// Which occupant of its place it is.
    pub generation: u32,
    /// In the order in which they were first sent.
    pub streams: SmallVec<[DeviceStream; 2]>,
    /// Samples heard here since the start, and anomalies in them.
    pub own: JudgedCounts,
    /// What other replicas heard, as they last said.
    pub others: JudgedCounts,
    /// The last sample.
    pub last: LastSample,
    /// When it was last heard from here, by [`LastSample::seconds`].
    pub own_seen_s: u32,
}

const _: () = assert!(size_of::<DeviceEntry>() == 128);

impl DeviceEntry {
    /// Its stream of that metric, taken when the metric is new. `hint`: where it probably stands, for
    /// most samples of a device name the same metrics in the same order.
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

    /// Where its stream of that metric stands; `hint` as for [`DeviceEntry::stream`].
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

    /// The stream with the largest score, the earliest of equals. None of an empty place.
    pub fn strangest(&self) -> Option<&DeviceStream> {
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
    /// Anomalies that had not ended when their device lost its place.
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

    /// Places of devices, occupied or not.
    pub fn places(&self) -> usize {
        self.devices.len() * DEVICES_PER_CHUNK
    }

    /// The devices from place `from` to the end of their chunk.
    pub fn chunk_from(&self, from: usize) -> &[DeviceEntry] {
        let chunk = self.devices.get(from / DEVICES_PER_CHUNK);
        chunk.map_or(&[], |devices| &devices[from % DEVICES_PER_CHUNK..])
    }

    /// The device of that id, while it has its place.
    #[inline]
    pub fn device(&self, id: DeviceId) -> Option<&DeviceEntry> {
        let index = id.index as usize;
        let device = &self.devices.get(index / DEVICES_PER_CHUNK)?[index % DEVICES_PER_CHUNK];
        (device.generation == id.generation && device.name.is_some()).then_some(device)
    }

    /// Brings what detectors remember of a device near, which is soon to be judged.
    pub fn prefetch(&self, id: DeviceId) {
        let streams = self.device(id).into_iter().flat_map(|device| &device.streams);
        for state in streams.filter_map(|stream| self.arena.get(stream.place).0.state) {
            self.arena.states().prefetch(state);
        }
    }

    /// What was judged here of a device's stream; `hint` as for [`DeviceEntry::stream`].
    #[inline]
    pub fn counts(&self, device: &DeviceEntry, metric: MetricId, hint: usize) -> JudgedCounts {
        let at = device.find(metric, hint);
        at.map_or(JudgedCounts::default(), |at| self.arena.get(device.streams[at].place).0.own)
    }

    /// What was judged here of the fleet's stream.
    #[inline]
    pub fn fleet_counts(&self, metric: MetricId) -> JudgedCounts {
        let place = self.known_fleet_stream(metric);
        place.map_or(JudgedCounts::default(), |place| self.arena.get(place).0.own)
    }

    /// True while the registry still knows the device: an evicted one keeps its place here until
    /// another takes it.
    pub fn is_current(&self, id: DeviceId) -> bool {
        self.names.device(id).is_some()
    }

    /// The device of that id, which takes its place when it is new, and the streams. None when it has
    /// been evicted in the meantime.
    #[inline]
    pub fn device_mut(&mut self, id: DeviceId) -> Option<(&mut DeviceEntry, &mut Arena)> {
        if self.device(id).is_none() {
            self.occupy(id)?;
        }
        let index = id.index as usize;
        let device = &mut self.devices[index / DEVICES_PER_CHUNK][index % DEVICES_PER_CHUNK];
        Some((device, &mut self.arena))
    }

    /// Gives the place to a new occupant.
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

    /// The fleet's stream of that metric, taken when the metric is new.
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

    /// The metrics that were ever judged, in the order of their ids.
    pub fn fleet(&self) -> impl Iterator<Item = &FleetStream> {
        self.fleet.iter().flatten()
    }

    /// The name of a metric that was judged.
    pub fn metric_name(&self, metric: MetricId) -> Arc<str> {
        let fleet = self.fleet.get(usize::from(metric.0)).and_then(Option::as_ref);
        fleet.map_or_else(|| self.names.metric(metric), |fleet| fleet.name.clone())
    }
}
