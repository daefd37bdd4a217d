//! A segment: judged samples that are flushed to Redis together.
//!
//! Of the samples with the same key the last one wins, but the values of all are kept for the windows: of
//! each stream as many as a window reads back. Pure: no I/O and no clock.

mod rows;

use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use rows::NONE;
pub(super) use rows::{
    HistoryEntry, SegmentKey, SegmentReading, SegmentStream, SegmentSubject, TimestampGroup,
};
use rows::{SegmentMetric, WindowValue};

use crate::judged_queue::{JudgedChunk, JudgedCounts, JudgedReading, JudgedSample};
use sigmad_sample::{DeviceId, MetricId};

/// The index of the fleet among the subjects. Samples without a device have it too.
pub(super) const FLEET: u32 = 0;

/// The outcome of the samples of a flushed segment: the sum is the number of samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentOutcome {
    /// The key was written with the sample's value, or the history has the sample.
    pub stored: u64,
    /// The key was written with the value of a later sample.
    pub coalesced: u64,
    /// Redis refused the key for good, or without keys a window of the sample's subject.
    pub refused: u64,
}

/// Samples of a segment whose commands failed for good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Samples whose key was not written.
    pub keys: u64,
    /// Coalesced samples that the history did not take.
    pub history: u64,
    /// Subjects of the segment with a window that was not written, by their index. Most often none: then it takes no
    /// memory.
    pub windows: BTreeSet<u32>,
}

/// The keys that each sample has in Redis, beside the windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SampleKeys {
    /// One of its timestamp, and with a device one of both.
    #[default]
    Two,
    /// One of its device and timestamp, or of its timestamp if it has no device.
    One,
    /// None: a sample is stored once the windows of its device are written, or those of the fleet if it has no device.
    None,
}

/// Samples that are flushed together.
#[derive(Debug)]
pub struct Segment {
    pub(super) sample_keys: SampleKeys,
    samples: u64,
    /// True once its samples have their outcome: it is written again, to another master.
    pub(super) is_counted: bool,
    since_us: i64,
    /// What is added to the times of its samples when they are written. Set once, so that the segment is sent
    /// again with the same bytes.
    pub(super) base_us: Option<i64>,
    name_bytes: usize,
    pub(super) subjects: Vec<SegmentSubject>,
    metrics: Vec<SegmentMetric>,
    /// The probable index of a metric, by the slot of its id.
    metric_hints: Vec<u32>,
    pub(super) streams: Vec<SegmentStream>,
    values: Vec<WindowValue>,
    pub(super) keys: Vec<SegmentKey>,
    pub(super) groups: Vec<TimestampGroup>,
    readings: Vec<SegmentReading>,
    /// Every sample, if a history is kept.
    pub(super) history: Vec<HistoryEntry>,
    keys_by_name: HashTable<u32>,
    groups_by_timestamp: HashTable<u32>,
}

/// What is the same for all segments of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentOptions<'a> {
    /// Values of a stream that are kept.
    pub window_values: u32,
    pub keeps_history: bool,
    pub hasher: &'a RandomState,
}

/// The index of a metric in a segment. None for one that it does not have.
fn known_metric(metrics: &[SegmentMetric], hints: &[u32], id: MetricId) -> Option<u32> {
    let hint = *hints.get(id.slot())?;
    match metrics.get(hint as usize) {
        Some(metric) if metric.id == id => Some(hint),
        // The slot has had several names since the segment began.
        Some(_) => metrics.iter().position(|metric| metric.id == id).map(|at| at as u32),
        None => None,
    }
}

impl Segment {
    pub(super) fn new() -> Self {
        let mut segment = Self {
            sample_keys: SampleKeys::default(),
            samples: 0,
            is_counted: false,
            since_us: 0,
            base_us: None,
            name_bytes: 0,
            subjects: Vec::new(),
            metrics: Vec::new(),
            metric_hints: Vec::new(),
            streams: Vec::new(),
            values: Vec::new(),
            keys: Vec::new(),
            groups: Vec::new(),
            readings: Vec::new(),
            history: Vec::new(),
            keys_by_name: HashTable::new(),
            groups_by_timestamp: HashTable::new(),
        };
        segment.subjects.push(SegmentSubject::new(None, Arc::from("")));
        segment
    }

    /// Number of samples.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// When its oldest sample arrived, microseconds since the start of the process.
    pub fn since_us(&self) -> i64 {
        self.since_us
    }

    /// When its newest sample arrived.
    pub fn until_us(&self) -> i64 {
        self.subjects[FLEET as usize].time_us
    }

    /// Redis' time of a sample; that of the process as long as Redis' is not known.
    pub(super) fn redis_us(&self, time_us: i64) -> i64 {
        time_us + self.base_us.unwrap_or(0)
    }

    /// Names of the subjects whose windows it changes; the fleet has an empty name.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.subjects.iter().map(|subject| &*subject.name)
    }

    /// Those names, each with Redis' time of its oldest sample.
    pub fn oldest_samples(&self) -> impl Iterator<Item = (&str, i64)> {
        self.subjects.iter().map(|subject| (&*subject.name, self.redis_us(subject.since_us)))
    }

    /// The bytes it takes, with the spare capacity of vectors and tables.
    pub fn bytes(&self) -> usize {
        fn of<T>(vec: &[T]) -> usize {
            grown(vec.len()) * size_of::<T>()
        }
        let table = |len: usize| grown(len * 8 / 7) * (size_of::<u32>() + 1);
        self.name_bytes
            + of(&self.subjects)
            + of(&self.metrics)
            + of(&self.metric_hints)
            + of(&self.streams)
            + of(&self.values)
            + of(&self.keys)
            + of(&self.groups)
            + of(&self.readings)
            + of(&self.history)
            + table(self.keys.len())
            + table(self.groups.len())
    }

    /// The name of a metric, by its index.
    pub(super) fn metric_name(&self, metric: u32) -> &str {
        &self.metrics[metric as usize].name
    }

    /// The streams of a subject, in the order of their first values.
    pub(super) fn streams_of(
        &self,
        subject: &SegmentSubject,
    ) -> impl Iterator<Item = &SegmentStream> {
        let stream = |at: u32| self.streams.get(at as usize);
        std::iter::successors(stream(subject.first_stream), move |found| stream(found.next))
    }

    /// The kept values of a stream, oldest first.
    pub(super) fn values_of(&self, stream: &SegmentStream) -> impl Iterator<Item = &WindowValue> {
        let mut at = stream.newest as usize;
        (0..stream.len).map(move |_| {
            at = self.values[at].next as usize;
            &self.values[at]
        })
    }

    /// The readings of a key's last sample.
    pub(super) fn readings_of(&self, key: &SegmentKey) -> &[SegmentReading] {
        &self.readings[key.first_reading as usize..][..usize::from(key.width)]
    }

    /// The readings of a history entry.
    pub(super) fn readings_of_entry(&self, entry: &HistoryEntry) -> &[SegmentReading] {
        &self.readings[entry.first_reading as usize..][..usize::from(entry.width)]
    }

    /// True when a later sample has the same key.
    pub(super) fn is_coalesced(&self, entry: &HistoryEntry) -> bool {
        let key = &self.keys[entry.key as usize];
        key.first_reading != entry.first_reading || !self.is_key_written(entry.key)
    }

    /// With two keys, false for the key of a sample without a device when a later sample has the same timestamp.
    fn is_key_written(&self, key: u32) -> bool {
        let SegmentKey { subject, group, .. } = self.keys[key as usize];
        match self.sample_keys {
            SampleKeys::Two => subject != FLEET || self.groups[group as usize].newest == key,
            SampleKeys::One => true,
            SampleKeys::None => false,
        }
    }

    /// What became of its samples, once all its commands are answered.
    pub(super) fn outcome(&self, refusals: &Refusals, keeps_history: bool) -> SegmentOutcome {
        if self.sample_keys == SampleKeys::None {
            let samples = |&subject: &u32| u64::from(self.subjects[subject as usize].samples);
            let refused = refusals.windows.iter().map(samples).sum();
            return SegmentOutcome { stored: self.samples - refused, coalesced: 0, refused };
        }
        let keys =
            (0..self.keys.len() as u32).filter(|&key| self.is_key_written(key)).count() as u64;
        let coalesced = if keeps_history { refusals.history } else { self.samples - keys };
        debug_assert!(refusals.keys <= keys && coalesced <= self.samples - keys);
        SegmentOutcome {
            stored: self.samples - coalesced - refusals.keys,
            coalesced,
            refused: refusals.keys,
        }
    }

    /// Removes all samples and keeps the memory.
    pub(super) fn clear(&mut self) {
        let Self {
            sample_keys: _,
            samples,
            is_counted,
            since_us: _,
            base_us,
            name_bytes,
            subjects,
            metrics,
            metric_hints,
            streams,
            values,
            keys,
            groups,
            readings,
            history,
            keys_by_name,
            groups_by_timestamp,
        } = self;
        *samples = 0;
        *is_counted = false;
        *base_us = None;
        *name_bytes = 0;
        subjects.truncate(1);
        subjects[0] = SegmentSubject::new(None, subjects[0].name.clone());
        metrics.clear();
        metric_hints.clear();
        streams.clear();
        values.clear();
        keys.clear();
        groups.clear();
        readings.clear();
        history.clear();
        keys_by_name.clear();
        groups_by_timestamp.clear();
    }

    /// Adds the samples of a chunk. `name` returns the name of a device, or None once it was evicted: then
    /// its samples count for the fleet alone. `metric_name` does the same for metrics, whose values are then
    /// left out. `hints` has the probable index of a device's subject.
    pub(super) fn add(
        &mut self,
        chunk: &JudgedChunk,
        hints: &mut Vec<u32>,
        name: impl Fn(DeviceId) -> Option<Arc<str>>,
        metric_name: impl Fn(MetricId) -> Option<Arc<str>>,
        options: SegmentOptions<'_>,
    ) {
        let SegmentOptions { window_values, keeps_history, hasher } = options;
        for (sample, readings) in chunk.iter() {
            let subject = match sample.device {
                Some(device) => self.subject(device, hints, &name),
                None => FLEET,
            };
            self.add_to_windows(sample, readings, subject, &metric_name, window_values);
            if keeps_history || self.sample_keys != SampleKeys::None {
                self.add_to_key(sample, readings, subject, keeps_history, hasher);
            }
        }
    }

    fn subject(
        &mut self,
        device: DeviceId,
        hints: &mut Vec<u32>,
        name: impl Fn(DeviceId) -> Option<Arc<str>>,
    ) -> u32 {
        let index = device.index as usize;
        let hint = hints.get(index).copied().unwrap_or(NONE);
        if self.subjects.get(hint as usize).is_some_and(|subject| subject.device == Some(device)) {
            return hint;
        }
        let Some(name) = name(device) else { return FLEET };
        if hints.len() <= index {
            hints.resize(index + 1, NONE);
        }
        let subject = self.subjects.len() as u32;
        hints[index] = subject;
        self.name_bytes += name.len();
        self.subjects.push(SegmentSubject::new(Some(device), name));
        subject
    }

    fn add_to_windows(
        &mut self,
        sample: &JudgedSample,
        readings: &[JudgedReading],
        subject: u32,
        metric_name: impl Fn(MetricId) -> Option<Arc<str>>,
        window_values: u32,
    ) {
        if self.samples == 0 {
            self.since_us = sample.time_us;
        }
        self.samples += 1;
        self.subjects[subject as usize].samples += 1;
        let of_fleet = JudgedCounts { total: sample.of_replica, anomalies: 0 };
        self.subjects[FLEET as usize].update(sample, of_fleet);
        let mut hint = NONE;
        for reading in readings {
            let Some(metric) = self.metric(reading.metric, &metric_name) else { continue };
            let stream = self.metrics[metric as usize].fleet_stream;
            self.add_to_window(stream, sample, reading.value, reading.fleet, window_values);
            if subject != FLEET {
                let stream = self.stream(subject, metric, hint);
                self.add_to_window(stream, sample, reading.value, reading.stream, window_values);
                hint = self.streams[stream as usize].next;
            }
        }
        if subject != FLEET {
            self.subjects[subject as usize].update(sample, sample.of_device);
        }
    }

    /// The index of a metric, which gets a stream of the fleet when it is new.
    fn metric(&mut self, id: MetricId, name: impl Fn(MetricId) -> Option<Arc<str>>) -> Option<u32> {
        known_metric(&self.metrics, &self.metric_hints, id)
            .or_else(|| self.open_metric(id, name(id)?))
    }

    #[cold]
    fn open_metric(&mut self, id: MetricId, name: Arc<str>) -> Option<u32> {
        let metric = self.metrics.len() as u32;
        if self.metric_hints.len() <= id.slot() {
            self.metric_hints.resize(id.slot() + 1, NONE);
        }
        self.metric_hints[id.slot()] = metric;
        self.name_bytes += name.len();
        let fleet_stream = self.open_stream(FLEET, metric);
        self.metrics.push(SegmentMetric { id, name, fleet_stream });
        Some(metric)
    }

    /// The stream of that metric of a device. `hint` is its probable index: most samples of a device have
    /// the same metrics in the same order.
    fn stream(&mut self, subject: u32, metric: u32, hint: u32) -> u32 {
        let first = self.subjects[subject as usize].first_stream;
        let start = if hint == NONE { first } else { hint };
        for (from, end) in [(start, NONE), (first, start)] {
            let mut at = from;
            while at != end {
                let stream = &self.streams[at as usize];
                if stream.metric == metric {
                    return at;
                }
                at = stream.next;
            }
        }
        self.open_stream(subject, metric)
    }

    fn open_stream(&mut self, subject: u32, metric: u32) -> u32 {
        let at = self.streams.len() as u32;
        let counts = JudgedCounts::default();
        self.streams.push(SegmentStream {
            subject,
            next: NONE,
            metric,
            newest: NONE,
            len: 0,
            counts,
        });
        let SegmentSubject { first_stream, last_stream, .. } = &mut self.subjects[subject as usize];
        match self.streams.get_mut(*last_stream as usize) {
            Some(last) => last.next = at,
            None => *first_stream = at,
        }
        *last_stream = at;
        at
    }

    /// Adds a value to a stream. It replaces the oldest once there are as many as a window reads back.
    fn add_to_window(
        &mut self,
        stream: u32,
        sample: &JudgedSample,
        value: f64,
        counts: JudgedCounts,
        window_values: u32,
    ) {
        let stream = &mut self.streams[stream as usize];
        stream.counts = counts;
        let mut entering =
            WindowValue { time_us: sample.time_us, value, next: NONE, sequence: sample.sequence };
        if stream.len < window_values {
            let at = self.values.len() as u32;
            entering.next = match self.values.get_mut(stream.newest as usize) {
                Some(newest) => std::mem::replace(&mut newest.next, at),
                None => at,
            };
            self.values.push(entering);
            stream.newest = at;
            stream.len += 1;
        } else {
            let at = self.values[stream.newest as usize].next;
            let oldest = &mut self.values[at as usize];
            entering.next = oldest.next;
            *oldest = entering;
            stream.newest = at;
        }
    }

    fn add_to_key(
        &mut self,
        sample: &JudgedSample,
        readings: &[JudgedReading],
        subject: u32,
        keeps_history: bool,
        hasher: &RandomState,
    ) {
        let at = self.key(subject, sample.timestamp_us, hasher);
        self.subjects[subject as usize].newest_key = at;
        let Self { metrics, metric_hints, keys, groups, readings: kept, history, .. } = self;
        let key = &mut keys[at as usize];
        groups[key.group as usize].newest = at;
        let named = |reading: &JudgedReading| {
            let metric = known_metric(metrics, metric_hints, reading.metric)?;
            Some(SegmentReading { metric, value: reading.value })
        };
        let readings = readings.iter().filter_map(named);
        key.width = readings.clone().count() as u16;
        if key.width <= key.room && !keeps_history {
            let first = key.first_reading as usize;
            for (place, reading) in kept[first..].iter_mut().zip(readings) {
                *place = reading;
            }
        } else {
            key.room = key.width;
            key.first_reading = kept.len() as u32;
            kept.extend(readings);
        }
        if keeps_history {
            history.push(HistoryEntry {
                time_us: sample.time_us,
                key: at,
                first_reading: key.first_reading,
                width: key.width,
                sequence: sample.sequence,
            });
        }
    }

    fn key(&mut self, subject: u32, timestamp_us: i64, hasher: &RandomState) -> u32 {
        let newest = self.subjects[subject as usize].newest_key;
        if self.keys.get(newest as usize).is_some_and(|key| key.timestamp_us == timestamp_us) {
            return newest;
        }
        let hash = hasher.hash_one((subject, timestamp_us));
        let same = |&at: &u32| {
            let key = &self.keys[at as usize];
            key.timestamp_us == timestamp_us && key.subject == subject
        };
        if let Some(&at) = self.keys_by_name.find(hash, same) {
            return at;
        }
        let at = self.keys.len() as u32;
        let group = self.group(timestamp_us, hasher);
        self.keys.push(SegmentKey {
            timestamp_us,
            subject,
            group,
            first_reading: 0,
            width: 0,
            room: 0,
        });
        let keys = &self.keys;
        self.keys_by_name.insert_unique(hash, at, |&at| {
            let key = &keys[at as usize];
            hasher.hash_one((key.subject, key.timestamp_us))
        });
        at
    }

    fn group(&mut self, timestamp_us: i64, hasher: &RandomState) -> u32 {
        // Most devices send the same second as the one before.
        if self.keys.last().is_some_and(|key| key.timestamp_us == timestamp_us) {
            return self.keys[self.keys.len() - 1].group;
        }
        let hash = hasher.hash_one(timestamp_us);
        let same = |&at: &u32| self.groups[at as usize].timestamp_us == timestamp_us;
        if let Some(&at) = self.groups_by_timestamp.find(hash, same) {
            return at;
        }
        let at = self.groups.len() as u32;
        self.groups.push(TimestampGroup { timestamp_us, newest: NONE });
        let groups = &self.groups;
        self.groups_by_timestamp
            .insert_unique(hash, at, |&at| hasher.hash_one(groups[at as usize].timestamp_us));
        at
    }
}

/// The capacity of a vector that has grown to `len` elements.
fn grown(len: usize) -> usize {
    if len == 0 { 0 } else { len.next_power_of_two() }
}
