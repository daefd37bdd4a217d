//! Adds judged samples to a segment.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::rows::{
    HistoryEntry, NONE, SegmentKey, SegmentMetric, SegmentReading, SegmentStream, SegmentSubject,
    TimestampGroup, WindowValue,
};
use super::{FLEET, RowMetric, SampleKeys, Segment, SegmentOptions};
use crate::judged_queue::{FleetCounts, JudgedChunk, JudgedCounts, JudgedReading, JudgedSample};
use sigmad_sample::{DeviceId, MetricId};

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

/// Whether these are the metrics of the readings, in their order.
fn is_row_of(row: &[RowMetric], readings: &[JudgedReading]) -> bool {
    row.len() == readings.len()
        && row.iter().zip(readings).all(|((id, _), reading)| *id == reading.metric)
}

impl Segment {
    /// Adds the samples of a chunk. `name` returns the name of a device, or None once it was evicted: then
    /// its samples count for the fleet alone. `metric_name` does the same for metrics, whose values are then
    /// left out. `hints` has the probable index of a device's subject.
    pub(in crate::store) fn add(
        &mut self,
        chunk: &JudgedChunk,
        hints: &mut Vec<u32>,
        name: impl Fn(DeviceId) -> Option<Arc<str>>,
        metric_name: impl Fn(MetricId) -> Option<Arc<str>>,
        options: SegmentOptions<'_>,
    ) {
        let SegmentOptions { window_values, keeps_history, hasher } = options;
        self.count(chunk);
        self.begin_chunk(chunk, &metric_name, window_values);
        let has_keys = keeps_history || self.sample_keys != SampleKeys::None;
        let mut row = std::mem::take(&mut self.row);
        for (sample, readings) in chunk.iter() {
            let subject = match sample.device {
                Some(device) => self.subject(device, hints, &name),
                None => FLEET,
            };
            if !is_row_of(&row, readings) {
                row.clear();
                row.extend(readings.iter().map(|&JudgedReading { metric: id, .. }| {
                    (id, self.metric(id, &metric_name).unwrap_or(NONE))
                }));
            }
            self.add_to_windows(sample, (readings, &row), subject, window_values);
            if has_keys {
                self.add_to_key(sample, (readings, &row), subject, keeps_history, hasher);
            }
        }
        self.row = row;
    }

    /// Counts the samples of a chunk. Of those of the fleet the last one says all.
    fn count(&mut self, chunk: &JudgedChunk) {
        let samples = chunk.samples();
        let [first, ..] = samples else { return };
        let [.., last] = samples else { return };
        if self.samples == 0 {
            self.since_us = first.time_us;
        }
        self.samples += samples.len() as u64;
        let of_fleet = JudgedCounts { total: last.of_replica, anomalies: 0 };
        self.subjects[FLEET as usize].update(last, of_fleet);
    }

    /// Takes the fleet's counts of a chunk. Of a metric with more values than a window the first ones are left out: the
    /// others would replace them.
    fn begin_chunk(
        &mut self,
        chunk: &JudgedChunk,
        metric_name: impl Fn(MetricId) -> Option<Arc<str>>,
        window_values: u32,
    ) {
        for &FleetCounts { metric, values, counts } in chunk.fleet() {
            let Some(metric) = self.metric(metric, &metric_name) else { continue };
            let metric = &mut self.metrics[metric as usize];
            metric.left_out = values.saturating_sub(window_values);
            self.streams[metric.fleet_stream as usize].counts = counts;
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
        (readings, row): (&[JudgedReading], &[RowMetric]),
        subject: u32,
        window_values: u32,
    ) {
        self.subjects[subject as usize].samples += 1;
        let mut hint = NONE;
        for (&JudgedReading { value, stream: counts, .. }, &(_, metric)) in readings.iter().zip(row)
        {
            if metric == NONE {
                continue;
            }
            let SegmentMetric { left_out, fleet_stream, .. } = &mut self.metrics[metric as usize];
            if *left_out > 0 {
                *left_out -= 1;
            } else {
                let stream = *fleet_stream;
                self.add_to_window(stream, sample, value, window_values);
            }
            if subject != FLEET {
                let stream = self.stream(subject, metric, hint);
                self.streams[stream as usize].counts = counts;
                self.add_to_window(stream, sample, value, window_values);
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
        self.metrics.push(SegmentMetric { id, name, fleet_stream, left_out: 0 });
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
        window_values: u32,
    ) {
        let stream = &mut self.streams[stream as usize];
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
        (readings, row): (&[JudgedReading], &[RowMetric]),
        subject: u32,
        keeps_history: bool,
        hasher: &RandomState,
    ) {
        let at = self.key(subject, sample.timestamp_us, hasher);
        self.subjects[subject as usize].newest_key = at;
        let Self { keys, groups, readings: kept, history, .. } = self;
        let key = &mut keys[at as usize];
        groups[key.group as usize].newest = at;
        let named = |(reading, &(_, metric)): (&JudgedReading, &RowMetric)| {
            (metric != NONE).then_some(SegmentReading { metric, value: reading.value })
        };
        let readings = readings.iter().zip(row).filter_map(named);
        key.width = row.iter().filter(|(_, metric)| *metric != NONE).count() as u16;
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
