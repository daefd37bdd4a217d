//! A snapshot under way: what is taken already, and the blocks that wait to be written.
//!
//! When it begins, each metric, each stream and each device is *pending*. Taking one writes its record; what is opened later is
//! not pending, and so no part of the snapshot. Nor is a device that the registry has evicted, unless it was taken
//! before: then all its streams are, so that it is restored whole or not at all. A batch first takes what is pending of
//! all that it would change ([`Export::take_before`]); the rest is taken in steps, in the order of the devices.

use std::collections::VecDeque;

use crate::analytics::arena::{Arena, MetricStream, StreamIndex};
use crate::analytics::devices::{DeviceEntry, DeviceWindows};
use crate::analytics::fleet::FleetWindows;
use crate::analytics::latest::LatestSamples;
use crate::analytics::metrics::KnownMetrics;
use crate::analytics::saved::form::{RecordKind, SavedAnomaly, SavedDevice, SavedMetric, push};
use crate::analytics::silence::SilenceWatch;
use sigmad_detectors::saved::Saved;
use sigmad_sample::{Batch, DeviceId, MetricId};

/// A block is complete from this length on: few messages, little memory.
pub const BLOCK_BYTES: usize = 128 * 1024;
/// What one step takes: some 0.2 ms, of streams that are in no cache.
const STEP_BYTES: usize = 128 * 1024;
/// What looking at an entry without a device costs, in bytes taken.
const ENTRY_COST: usize = 16;
/// Blocks that may wait when batches take devices faster than the disk writes them. With more the snapshot is given
/// up: memory is bounded, and judging waits for a moment a turn at most.
pub const WAITING_BYTES_MAX: usize = 128 * 1024 * 1024;
/// From here on each turn gives the disk a moment.
const LATE_BYTES: usize = WAITING_BYTES_MAX / 4;

/// A set of small numbers.
#[derive(Debug)]
struct NumberSet(Vec<u64>);

impl NumberSet {
    /// All numbers below `len`.
    fn below(len: usize) -> Self {
        let mut words = vec![u64::MAX; len.div_ceil(64)];
        if let Some(last) = words.last_mut()
            && !len.is_multiple_of(64)
        {
            *last = (1 << (len % 64)) - 1;
        }
        Self(words)
    }

    /// None of the numbers below `len`.
    fn none(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    /// All streams in use.
    fn streams(arena: &Arena) -> Self {
        let mut pending = Self::below(arena.places());
        arena.free_places().for_each(|place| _ = pending.take(place.number()));
        // Each is written with the stream that it is of.
        pending.0.iter_mut().zip(arena.own_copies()).for_each(|(word, copies)| *word &= !copies);
        pending
    }

    /// Adds a number, which is below the length that the set was made with.
    fn add(&mut self, number: usize) {
        self.0[number / 64] |= 1 << (number % 64);
    }

    /// Whether a number is there.
    fn has(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|word| word & 1 << (number % 64) != 0)
    }

    /// Removes a number. True if it was there.
    fn take(&mut self, number: usize) -> bool {
        let Some(word) = self.0.get_mut(number / 64) else { return false };
        let bit = 1 << (number % 64);
        let was_pending = *word & bit != 0;
        *word &= !bit;
        was_pending
    }
}

/// What every batch changes. It is copied at the beginning, and written in the first steps.
#[derive(Debug)]
pub struct Rings {
    anomalies: std::vec::IntoIter<SavedAnomaly>,
    latest: LatestSamples,
    /// The number of the next of the latest samples.
    next: u64,
}

impl Rings {
    /// Anomalies, oldest first, and the latest samples.
    pub fn new(anomalies: Vec<SavedAnomaly>, latest: LatestSamples) -> Self {
        Self { anomalies: anomalies.into_iter(), latest, next: 0 }
    }
}

/// Where the steps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sweep {
    /// The copied rings.
    Rings,
    /// The next metric, by its slot.
    Metric(usize),
    /// The next stream of the fleet, by its place among them.
    Fleet(usize),
    /// The next device.
    Device(usize),
    /// Everything is taken.
    Done,
}

/// A snapshot under way.
#[derive(Debug)]
pub struct Export {
    /// None once they are taken.
    rings: Option<Box<Rings>>,
    pending_metrics: NumberSet,
    pending_fleet: NumberSet,
    pending_devices: NumberSet,
    pending_streams: NumberSet,
    /// Entries whose device at the beginning has its record.
    taken_devices: NumberSet,
    /// Entries of devices when it began.
    entries: usize,
    sweep: Sweep,
    /// The block that is being filled.
    block: Vec<u8>,
    complete: VecDeque<Vec<u8>>,
    complete_bytes: usize,
    /// Bytes of the step or the batch so far.
    taken_bytes: usize,
}

impl Export {
    /// Begins. All metrics, streams and devices are pending.
    pub fn begin(
        devices: &DeviceWindows,
        fleet: &FleetWindows,
        metrics: &KnownMetrics,
        rings: Rings,
    ) -> Self {
        Self {
            rings: Some(Box::new(rings)),
            pending_metrics: NumberSet::below(metrics.slots()),
            pending_fleet: NumberSet::streams(&fleet.arena),
            pending_devices: NumberSet::below(devices.entries()),
            pending_streams: NumberSet::streams(&devices.arena),
            taken_devices: NumberSet::none(devices.entries()),
            entries: devices.entries(),
            sweep: Sweep::Rings,
            block: Vec::new(),
            complete: VecDeque::new(),
            complete_bytes: 0,
            taken_bytes: 0,
        }
    }

    /// Takes what is no stream and no device.
    pub fn take_value(&mut self, kind: RecordKind, value: &impl Saved) {
        self.record(kind, |to| value.write(to));
    }

    /// A block to be written.
    pub fn next_block(&mut self) -> Option<Vec<u8>> {
        let block = self.complete.pop_front()?;
        self.complete_bytes -= block.len();
        Some(block)
    }

    /// Whether everything is taken, and all of it is in blocks that were handed out.
    pub fn is_done(&self) -> bool {
        self.sweep == Sweep::Done && self.complete.is_empty() && self.block.is_empty()
    }

    /// Whether so many blocks wait that more than may will.
    pub fn is_late(&self) -> bool {
        self.complete_bytes > LATE_BYTES
    }

    /// Whether more blocks wait than may.
    pub fn is_behind(&self) -> bool {
        self.complete_bytes > WAITING_BYTES_MAX
    }

    /// Takes what the batch would change.
    pub fn take_before(
        &mut self,
        batch: &Batch,
        devices: &DeviceWindows,
        fleet: &FleetWindows,
        metrics: &KnownMetrics,
        silence: Option<&SilenceWatch>,
    ) {
        for (sample, readings) in batch.iter() {
            for reading in readings {
                // Before its anomalies are counted.
                self.take_metric(reading.metric.slot(), metrics);
                if let Some(stream) = fleet.in_slot(reading.metric) {
                    self.take_fleet(fleet, stream, metrics);
                }
            }
            let Some(id) = sample.device else { continue };
            let touched = |metric| readings.iter().any(|reading| reading.metric == metric);
            self.take_of_device(id, touched, devices, metrics, silence);
        }
    }

    /// Takes a device, and the streams of it that are about to change.
    pub fn take_of_device(
        &mut self,
        id: DeviceId,
        touched: impl Fn(MetricId) -> bool,
        devices: &DeviceWindows,
        metrics: &KnownMetrics,
        silence: Option<&SilenceWatch>,
    ) {
        let Some(device) = devices.entry(id.index as usize) else { return };
        self.take_device(id.index, device, metrics, silence);
        // Otherwise evicted: its entry may be given to this device, and its streams to any.
        let is_present = device.generation == id.generation;
        let of = DeviceId { index: id.index, generation: device.generation };
        let is_taken = self.taken_devices.has(id.index as usize);
        for stream in &device.streams {
            if is_present && !touched(stream.metric) {
                continue;
            }
            if is_taken {
                self.take_stream(&devices.arena, of, stream.metric, stream.place);
            } else {
                self.pending_streams.take(stream.place.number());
            }
        }
    }

    /// Takes a bounded part of what is left. False when there is nothing left.
    pub fn step(
        &mut self,
        devices: &DeviceWindows,
        fleet: &FleetWindows,
        metrics: &KnownMetrics,
        silence: Option<&SilenceWatch>,
    ) -> bool {
        if self.sweep == Sweep::Done {
            return false;
        }
        self.taken_bytes = 0;
        while self.taken_bytes < STEP_BYTES {
            match self.sweep {
                Sweep::Rings => {
                    if !self.take_of_rings() {
                        self.sweep = Sweep::Metric(0);
                    }
                }
                Sweep::Metric(slot) if slot < metrics.slots() => {
                    self.take_metric(slot, metrics);
                    self.taken_bytes += ENTRY_COST;
                    self.sweep = Sweep::Metric(slot + 1);
                }
                Sweep::Metric(_) => self.sweep = Sweep::Fleet(0),
                Sweep::Fleet(at) => {
                    self.sweep = match fleet.stream_from(at) {
                        Some((at, stream)) => {
                            self.take_fleet(fleet, stream, metrics);
                            Sweep::Fleet(at + 1)
                        }
                        None => Sweep::Device(0),
                    };
                }
                Sweep::Device(index) if index < self.entries => {
                    if let Some(device) = devices.entry(index) {
                        self.take_device(index as u32, device, metrics, silence);
                        if !self.take_streams(index as u32, device, &devices.arena) {
                            break;
                        }
                    }
                    // A step over entries without devices takes time too.
                    self.taken_bytes += ENTRY_COST;
                    self.sweep = Sweep::Device(index + 1);
                }
                Sweep::Device(_) => {
                    self.sweep = Sweep::Done;
                    self.complete_block(1);
                    break;
                }
                Sweep::Done => break,
            }
        }
        true
    }

    /// Takes one anomaly or sample. False if none is left.
    fn take_of_rings(&mut self) -> bool {
        let Some(mut rings) = self.rings.take() else { return false };
        if let Some(anomaly) = rings.anomalies.next() {
            self.take_value(RecordKind::Anomaly, &anomaly);
        } else if let Some((next, sample)) = rings.latest.saved_from(rings.next) {
            rings.next = next;
            self.take_value(RecordKind::Sample, &sample);
        } else {
            return false;
        }
        self.rings = Some(rings);
        true
    }

    /// Takes the metric of a slot. Before what names it.
    fn take_metric(&mut self, slot: usize, metrics: &KnownMetrics) {
        if self.pending_metrics.take(slot)
            && let Some(known) = metrics.in_slot(slot)
            && metrics.is_current(known.metric)
        {
            let (metric, anomalies, name) = (known.metric, known.anomalies, known.name.clone());
            self.take_value(RecordKind::Metric, &SavedMetric { metric, anomalies, name });
        }
    }

    fn take_fleet(&mut self, fleet: &FleetWindows, stream: MetricStream, metrics: &KnownMetrics) {
        if self.pending_fleet.take(stream.place.number()) && metrics.is_current(stream.metric) {
            self.take_metric(stream.metric.slot(), metrics);
            self.record(RecordKind::FleetStream, |to| {
                stream.metric.write(to);
                fleet.arena.write(stream.place, to);
            });
            if fleet.arena.is_watched() {
                self.record(RecordKind::FleetWatch, |to| {
                    stream.metric.write(to);
                    fleet.arena.write_watch(stream.place, to);
                });
            }
        }
    }

    fn take_device(
        &mut self,
        index: u32,
        device: &DeviceEntry,
        metrics: &KnownMetrics,
        silence: Option<&SilenceWatch>,
    ) {
        // Also without a device so far: the next one is opened after the beginning.
        let was_pending = self.pending_devices.take(index as usize);
        let id = DeviceId { index, generation: device.generation };
        let Some(name) = device.name.as_ref() else { return };
        // Of one that was never heard here Redis knows all.
        if !was_pending || !metrics.is_device(id) || device.own.total == 0 {
            return;
        }
        self.taken_devices.add(index as usize);
        device.streams.iter().for_each(|stream| self.take_metric(stream.metric.slot(), metrics));
        let saved = SavedDevice {
            device: id,
            name: name.clone(),
            own: device.own,
            last: device.last,
            own_seen_s: device.own_seen_s,
            streams: device.streams.iter().map(|stream| stream.metric).collect(),
        };
        self.record(RecordKind::Device, |to| saved.write(to));
        if let Some(cadence) = silence.and_then(|silence| silence.cadence(index)) {
            self.record(RecordKind::Cadence, |to| {
                id.write(to);
                cadence.write(to);
            });
        }
    }

    /// Takes streams of a device until the step is full. False if some are left.
    fn take_streams(&mut self, index: u32, device: &DeviceEntry, arena: &Arena) -> bool {
        if !self.taken_devices.has(index as usize) {
            return true;
        }
        let id = DeviceId { index, generation: device.generation };
        for stream in &device.streams {
            if self.taken_bytes >= STEP_BYTES {
                return false;
            }
            self.take_stream(arena, id, stream.metric, stream.place);
        }
        true
    }

    fn take_stream(&mut self, arena: &Arena, id: DeviceId, metric: MetricId, place: StreamIndex) {
        if self.pending_streams.take(place.number()) {
            self.record(RecordKind::Stream, |to| {
                id.write(to);
                metric.write(to);
                arena.write(place, to);
            });
            if arena.is_watched() {
                self.record(RecordKind::Watch, |to| {
                    id.write(to);
                    metric.write(to);
                    arena.write_watch(place, to);
                });
            }
        }
    }

    fn record(&mut self, kind: RecordKind, content: impl FnOnce(&mut Vec<u8>)) {
        let before = self.block.len();
        push(&mut self.block, kind, content);
        self.taken_bytes += self.block.len() - before;
        self.complete_block(BLOCK_BYTES);
    }

    /// Ends the block if it has `bytes`.
    fn complete_block(&mut self, bytes: usize) {
        if self.block.len() >= bytes {
            // The last record may go past the length of a block.
            let next = Vec::with_capacity(BLOCK_BYTES + BLOCK_BYTES / 8);
            let block = std::mem::replace(&mut self.block, next);
            self.complete_bytes += block.len();
            self.complete.push_back(block);
        }
    }
}
