//! The windows of devices: the streams of each, in a dense table.
//!
//! A device is at its id's index. The registry gives the index of a silent device to another one under the next
//! generation; the first sample of the new device clears the entry. A sample of a device that has been replaced, or
//! was evicted before its first sample came here, counts for the fleet alone: its device's windows are gone, and it
//! must not enter those of another.
//!
//! A value whose metric has been evicted enters no window. The streams of evicted metrics are given back in steps
//! ([`DeviceWindows::free_stale`]).

mod entry;
mod handover;
mod saved;

use std::ops::Range;

pub use self::entry::DeviceEntry;

use crate::analytics::anomalies::{AnomalyLog, OpenAnomaly, Subject};
use crate::analytics::arena::{Arena, MetricStream};
use crate::analytics::handover::Handover;
use crate::analytics::last_sample::{LastSample, was_sent};
use crate::analytics::merge::ReplicaMerge;
use crate::analytics::metrics::KnownMetrics;
use crate::analytics::onsets::Onsets;
use crate::judged_queue::{JudgedCounts, SharedWindows};
use sigmad_detectors::prefetch;
use sigmad_sample::{DeviceId, MetricId, Reading, Sample};

/// Entries are added this many at a time, so that growth copies none.
pub const DEVICES_PER_CHUNK: usize = 1_024;
/// Streams of devices that one step of [`DeviceWindows::free_stale`] checks: some 20 µs.
const CHECKED_PER_STEP: usize = 4_096;

/// How many samples ahead the entry of a device, its streams, and the places in their rings are prefetched. Four samples take
/// as long as memory does, so each step finds what the one before it has fetched.
const PREFETCHED_AHEAD: [usize; 3] = [12, 8, 4];

/// Bytes of one device here, without its streams.
pub const DEVICE_BYTES: usize = size_of::<DeviceEntry>();

/// All devices and their streams.
#[derive(Debug)]
pub struct DeviceWindows {
    devices: Vec<Box<[DeviceEntry; DEVICES_PER_CHUNK]>>,
    occupied: usize,
    /// The streams' memory.
    pub arena: Arena,
    /// Open anomalies of streams that were given back.
    pub left_open: Vec<(OpenAnomaly, Subject)>,
    /// What begins and ends to be wrong.
    pub onsets: Onsets,
    /// The next entry that the search for streams of evicted metrics checks; None when there is nothing to search
    /// for.
    next_stale: Option<usize>,
    /// Who has the detector states of each device. None where they stay here.
    pub handover: Option<Box<Handover>>,
}

impl DeviceWindows {
    /// Windows in this memory, which has no streams.
    pub fn new(arena: Arena) -> Self {
        Self {
            devices: Vec::new(),
            occupied: 0,
            arena,
            left_open: Vec::new(),
            onsets: Onsets::default(),
            next_stale: None,
            handover: None,
        }
    }

    /// Devices with streams.
    pub fn occupied(&self) -> usize {
        self.occupied
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
    pub fn get(&self, id: DeviceId) -> Option<&DeviceEntry> {
        let index = id.index as usize;
        let device = &self.devices.get(index / DEVICES_PER_CHUNK)?[index % DEVICES_PER_CHUNK];
        device.is(id).then_some(device)
    }

    /// The entry at an index, whichever device has it.
    pub fn at(&self, index: u32) -> Option<&DeviceEntry> {
        let index = index as usize;
        Some(&self.devices.get(index / DEVICES_PER_CHUNK)?[index % DEVICES_PER_CHUNK])
    }

    /// Whether prefetching is worth its instructions.
    pub fn prefetches(&self) -> bool {
        // With windows alone it saved nothing: benches/batches.py, 10,000 and a million streams.
        self.arena.states().keeps_states()
    }

    /// Prefetches what judging the sample at `at` and those after it needs. Called for each place in turn, from 0 on.
    #[inline]
    pub fn prefetch(&self, samples: &[Sample], at: usize) {
        // Each step reads what the one before it has fetched.
        let [entry, streams, ring] = PREFETCHED_AHEAD;
        if at == 0 {
            self.prefetch_steps(samples, [0..entry, 0..streams, 0..ring]);
        }
        let at = |ahead: usize| at + ahead..at + ahead + 1;
        self.prefetch_steps(samples, [at(entry), at(streams), at(ring)]);
    }

    #[inline(always)] // in the loops over the samples of a batch
    fn prefetch_steps(&self, samples: &[Sample], [entry, streams, ring]: [Range<usize>; 3]) {
        let of = |places: Range<usize>| {
            let places = places.filter_map(|at| samples.get(at)?.device);
            places.filter_map(|id| self.at(id.index))
        };
        of(entry).for_each(prefetch);
        let streams_of = |places| of(places).flat_map(|entry: &DeviceEntry| &entry.streams);
        streams_of(streams).for_each(|stream| self.arena.prefetch(stream.place));
        streams_of(ring).for_each(|stream| self.arena.prefetch_ring(stream.place));
    }

    /// This replica's counts of a device's stream; `hint` as for [`DeviceEntry::find`].
    #[inline]
    pub fn counts(&self, device: &DeviceEntry, metric: MetricId, hint: usize) -> JudgedCounts {
        let at = device.find(metric, hint);
        at.map_or(JudgedCounts::default(), |at| self.arena.get(device.streams[at].place).0.own)
    }

    /// Judges a sample of a device, unless the device has been evicted. True when it is the first of its second.
    #[inline(always)] // in the loops over the samples of a batch
    pub fn judge(
        &mut self,
        id: DeviceId,
        sample: &Sample,
        readings: &[Reading],
        arrived_us: i64,
        metrics: &mut KnownMetrics,
        anomalies: &mut AnomalyLog,
    ) -> bool {
        if self.handover.is_some() && self.hear(id, arrived_us, metrics) {
            return self.judge_early(id, sample, readings, arrived_us, metrics, anomalies);
        }
        let Self { arena, onsets, .. } = self;
        let index = id.index as usize;
        if let Some(devices) = self.devices.get_mut(index / DEVICES_PER_CHUNK) {
            let device = &mut devices[index % DEVICES_PER_CHUNK];
            if device.is(id) {
                let of = (id, sample.timestamp_us, arrived_us);
                return device.judge(of, readings, (arena, onsets), metrics, anomalies);
            }
        }
        self.judge_new(id, sample, readings, arrived_us, metrics, anomalies)
    }

    /// Judges a sample of a device without an entry, unless the device has been evicted.
    #[cold]
    fn judge_new(
        &mut self,
        id: DeviceId,
        sample: &Sample,
        readings: &[Reading],
        arrived_us: i64,
        metrics: &mut KnownMetrics,
        anomalies: &mut AnomalyLog,
    ) -> bool {
        let Some((device, arena, onsets)) = self.get_mut(id, metrics) else { return false };
        let of = (id, sample.timestamp_us, arrived_us);
        device.judge(of, readings, (arena, onsets), metrics, anomalies)
    }

    /// Counts each device and its streams anew, from its last sample.
    pub fn count_anew(&mut self) {
        for device in self.devices.iter_mut().flat_map(|chunk| chunk.iter_mut()) {
            device.own = JudgedCounts { total: device.own.total.min(1), anomalies: 0 };
        }
        self.arena.count_anew();
    }

    /// Applies what other replicas have changed. A device that is new here is opened, unless it has been evicted.
    pub fn apply(
        &mut self,
        id: DeviceId,
        shared: &SharedWindows,
        metrics: &mut KnownMetrics,
        merge: &mut ReplicaMerge,
    ) {
        let is_empty = shared.metrics.iter().all(|stream| stream.values.is_empty());
        if is_empty && self.get(id).is_none() {
            return;
        }
        let Some((device, arena, _)) = self.get_mut(id, metrics) else {
            return;
        };
        device.others = shared.others;
        // Redis has more after a restart whose disk lacked the last samples.
        device.own.total = device.own.total.max(shared.own_total);
        let all_sent = was_sent(device.own_seen_s, shared);
        device.last.update_from_replicas(shared, all_sent || device.own.total == shared.own_total);
        for (at, stream) in shared.metrics.iter().enumerate() {
            let opens = !stream.values.is_empty() && metrics.is_current(stream.metric);
            if !opens && device.find(stream.metric, at).is_none() {
                continue;
            }
            let of_device = device.stream(stream.metric, at, arena, metrics);
            let Some(MetricStream { place, .. }) = of_device else { continue };
            merge.stream(arena, place, stream, all_sent);
        }
        if let (Some(takeover), Some(handover)) = (shared.other_takeover, &mut self.handover) {
            let now_s = LastSample::seconds(shared.last_seen_us);
            handover.taken_over_elsewhere(id, takeover, now_s);
        }
    }

    /// The device of that id, which gets its entry when it is new, the streams' memory, and where events go. None
    /// when the device has been evicted.
    #[inline]
    fn get_mut(
        &mut self,
        id: DeviceId,
        metrics: &KnownMetrics,
    ) -> Option<(&mut DeviceEntry, &mut Arena, &mut Onsets)> {
        if self.get(id).is_none() {
            self.occupy(id, metrics)?;
        }
        let index = id.index as usize;
        let device =
            &mut self.devices.get_mut(index / DEVICES_PER_CHUNK)?[index % DEVICES_PER_CHUNK];
        Some((device, &mut self.arena, &mut self.onsets))
    }

    /// Gives the entry to a new device.
    #[cold]
    fn occupy(&mut self, id: DeviceId, metrics: &KnownMetrics) -> Option<()> {
        let index = id.index as usize;
        while self.devices.len() <= index / DEVICES_PER_CHUNK {
            let chunk = std::iter::repeat_with(DeviceEntry::default).take(DEVICES_PER_CHUNK);
            let chunk: Box<[_]> = chunk.collect();
            self.devices.push(chunk.try_into().expect("it has as many"));
        }
        let device = &mut self.devices[index / DEVICES_PER_CHUNK][index % DEVICES_PER_CHUNK];
        if device.name.is_some() && device.generation > id.generation {
            return None;
        }
        let name = metrics.device_name(id)?;
        self.occupied += usize::from(device.name.is_none());
        let gone = DeviceId { index: id.index, generation: device.generation };
        for stream in &device.streams {
            let open = self.arena.give_back(stream.place);
            self.left_open.extend(open.map(|open| (open, (Some(gone), stream.metric))));
        }
        let generation = id.generation;
        *device = DeviceEntry { name: Some(name), generation, ..DeviceEntry::default() };
        if let Some(handover) = &mut self.handover {
            handover.clear(id);
        }
        Some(())
    }

    /// Begins a search for streams of evicted metrics.
    pub fn begin_free_stale(&mut self) {
        self.next_stale = Some(0);
    }

    /// Takes one step in giving back the streams whose metrics were evicted. False if there is nothing to do.
    pub fn free_stale(&mut self, metrics: &KnownMetrics) -> bool {
        let Self { devices, arena, left_open, next_stale, .. } = self;
        let Some(next) = *next_stale else { return false };
        let entries = devices.iter_mut().flat_map(|chunk| chunk.iter_mut());
        let mut entries = entries.enumerate().skip(next);
        let mut checked = 0;
        *next_stale = loop {
            let Some((index, device)) = entries.next() else { break None };
            if checked >= CHECKED_PER_STEP {
                break Some(index);
            }
            checked += 1 + device.streams.len();
            let id = DeviceId { index: index as u32, generation: device.generation };
            device.streams.retain(|stream| {
                let stays = metrics.is_current(stream.metric);
                if !stays {
                    let open = arena.give_back(stream.place);
                    left_open.extend(open.map(|open| (open, (Some(id), stream.metric))));
                }
                stays
            });
        };
        true
    }
}
