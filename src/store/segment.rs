//! A segment: judged samples that are flushed to Redis together.
//!
//! Of the samples with the same key the last one wins, but the values of all are kept for the windows: of
//! each stream as many as a window reads back. Pure: no I/O and no clock.

mod adding;
mod rows;

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

pub use rows::ArrivalSpan;
pub(super) use rows::{
    ChunkRows, HistoryEntry, SegmentKey, SegmentReading, SegmentStream, SegmentSubject,
    TimestampGroup,
};
use rows::{SegmentMetric, WindowValue};

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
    /// When its oldest sample arrived.
    since_us: i64,
    /// When the samples of each shard arrived that have entered windows; None for one that has none here.
    spans: Vec<Option<ArrivalSpan>>,
    /// It has counts of the fleet.
    pub(super) has_fleet: bool,
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

impl Segment {
    pub(super) fn new() -> Self {
        let mut segment = Self {
            sample_keys: SampleKeys::default(),
            samples: 0,
            is_counted: false,
            since_us: i64::MAX,
            spans: Vec::new(),
            has_fleet: false,
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

    /// When the samples of each shard arrived that have entered windows: those of one stream are of one shard.
    pub fn spans(&self) -> &[Option<ArrivalSpan>] {
        &self.spans
    }

    /// Redis' time of a sample; that of the process as long as Redis' is not known.
    pub(super) fn redis_us(&self, time_us: i64) -> i64 {
        time_us + self.base_us.unwrap_or(0)
    }

    /// Names of the subjects whose windows it changes; the fleet has an empty name.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.subjects.iter().map(|subject| &*subject.name)
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
        let mut at = stream.oldest;
        (0..stream.len).map(move |_| {
            let value = &self.values[at as usize];
            at = value.next;
            value
        })
    }

    /// The timestamp of a key's samples.
    pub(super) fn timestamp_us(&self, key: &SegmentKey) -> i64 {
        self.groups[key.group as usize].timestamp_us
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
            since_us,
            spans,
            has_fleet,
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
        *since_us = i64::MAX;
        spans.clear();
        *has_fleet = false;
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
}

/// The capacity of a vector that has grown to `len` elements.
fn grown(len: usize) -> usize {
    if len == 0 { 0 } else { len.next_power_of_two() }
}
