//! Adds judged samples to a segment.
//!
//! What a chunk says of the samples of one device is looked up once. A sample then costs a few comparisons, if it has the
//! key of the one before of its device and later ones fill its windows.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::rows::{
    ArrivalSpan, ChunkRows, HistoryEntry, NONE, RowStream, SegmentKey, SegmentMetric,
    SegmentReading, SegmentRow, SegmentStream, SegmentSubject, TimestampGroup, WindowValue,
};
use super::{FLEET, SampleKeys, Segment, SegmentOptions};
use crate::judged_queue::{FleetCounts, JudgedChunk, JudgedCounts, JudgedSample, MetricCounts};
use sigmad_sample::{DeviceId, MetricId};

/// The first place after a time and a sequence: a microsecond has a thousand.
fn after((time_us, sequence): (i64, u16)) -> (i64, u16) {
    if sequence < 999 { (time_us, sequence + 1) } else { (time_us + 1, 0) }
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
    /// Adds the samples of a chunk. `name` returns the name of a device, or None once it was evicted: then
    /// its samples count for the fleet alone. `metric_name` does the same for metrics, whose values are then
    /// left out.
    pub(in crate::store) fn add(
        &mut self,
        chunk: &JudgedChunk,
        rows: &mut ChunkRows,
        name: impl Fn(DeviceId) -> Option<Arc<str>>,
        metric_name: impl Fn(MetricId) -> Option<Arc<str>>,
        options: SegmentOptions<'_>,
    ) {
        self.count(chunk);
        if chunk.part.has_fleet() {
            self.take_fleet_counts(chunk, &metric_name);
        }
        self.open_rows(chunk, rows, name, metric_name, options.window_values);
        if chunk.part.has_fleet() {
            self.add_to_fleet(chunk, rows, options.window_values);
        }
        if chunk.part.has_devices() {
            self.add_samples(chunk, rows, options);
        }
    }

    /// Counts the samples of a chunk. Of those of the fleet the last one says all.
    fn count(&mut self, chunk: &JudgedChunk) {
        let mut batches = chunk.batches();
        let Some((last, [.., last_sample])) = batches.next_back() else { return };
        let first = batches.next().map_or(last, |(first, _)| first);
        self.since_us = self.since_us.min(first.time_us);
        if chunk.part.has_fleet() || chunk.rows().iter().any(|row| row.device.is_some()) {
            if self.spans.len() <= chunk.shard {
                self.spans.resize(chunk.shard + 1, None);
            }
            let span = &mut self.spans[chunk.shard];
            let since_us = span.map_or(first.time_us, |span| span.since_us);
            *span = Some(ArrivalSpan { since_us, until_us: last.time_us });
        }
        self.samples += chunk.counted() as u64;
        if chunk.part.has_fleet() {
            self.has_fleet = true;
            let fleet = &mut self.subjects[FLEET as usize];
            fleet.counts = JudgedCounts { total: chunk.of_shard(), anomalies: 0 };
            fleet.update(last.time_us, last_sample.timestamp_us);
        }
    }

    fn take_fleet_counts(
        &mut self,
        chunk: &JudgedChunk,
        metric_name: impl Fn(MetricId) -> Option<Arc<str>>,
    ) {
        for &FleetCounts { metric, values, counts } in chunk.fleet() {
            let Some(at) = self.metric(metric, &metric_name) else { continue };
            if self.metrics[at as usize].fleet_stream == NONE {
                self.metrics[at as usize].fleet_stream = self.open_stream(FLEET, at);
            }
            let metric = &mut self.metrics[at as usize];
            // A chunk may have a metric twice.
            metric.due += values;
            self.streams[metric.fleet_stream as usize].counts = counts;
        }
    }

    /// Finds the subject and the streams of each row of a chunk, and takes their counts.
    fn open_rows(
        &mut self,
        chunk: &JudgedChunk,
        ChunkRows { hints, rows, streams, .. }: &mut ChunkRows,
        name: impl Fn(DeviceId) -> Option<Arc<str>>,
        metric_name: impl Fn(MetricId) -> Option<Arc<str>>,
        window_values: u32,
    ) {
        rows.clear();
        streams.clear();
        for row in chunk.rows() {
            let subject = row.device.map_or(FLEET, |device| self.subject(device, hints, &name));
            let (at, first) = (rows.len() as u32, streams.len() as u32);
            let (mut hint, mut named) = (NONE, 0);
            for &MetricCounts { metric, counts } in chunk.streams_of(row) {
                let metric = self.metric(metric, &metric_name).unwrap_or(NONE);
                let mut stream = NONE;
                if metric != NONE && subject != FLEET {
                    stream = self.stream(subject, metric, hint);
                    let found = &mut self.streams[stream as usize];
                    (found.counts, hint) = (counts, found.next);
                }
                named += u16::from(metric != NONE);
                streams.push(RowStream { metric, stream });
            }
            let of_subject = &mut self.subjects[subject as usize];
            if chunk.part.has_devices() {
                of_subject.samples += row.samples;
            }
            if subject != FLEET {
                of_subject.counts = row.counts;
            }
            let before = std::mem::replace(&mut of_subject.row, at);
            let key = of_subject.newest_key;
            let other = rows.get_mut(before as usize).filter(|row| row.subject == subject);
            let is_alone = other.map(|other| other.is_alone = false).is_none();
            rows.push(SegmentRow {
                subject,
                first,
                width: row.width,
                named,
                is_alone,
                left_out: row.samples.saturating_sub(window_values),
                key,
                time_us: 0,
                timestamp_us: 0,
                last: NONE,
            });
        }
    }

    /// Adds the values of a chunk to the windows of the fleet: of each metric the newest, as many as a window reads back.
    fn add_to_fleet(
        &mut self,
        chunk: &JudgedChunk,
        ChunkRows { rows, streams, .. }: &ChunkRows,
        window_values: u32,
    ) {
        let mut due = 0;
        for FleetCounts { metric, .. } in chunk.fleet() {
            let Some(at) = known_metric(&self.metrics, &self.metric_hints, *metric) else {
                continue;
            };
            let metric = &mut self.metrics[at as usize];
            metric.due = metric.due.min(window_values);
            due += metric.due;
        }
        // Back to the first sample with a value that is due.
        let (mut skipped, mut values) = (chunk.len(), chunk.values().len());
        let mut samples = chunk.batches().rev().flat_map(|(_, samples)| samples.iter().rev());
        while due > 0
            && let Some(sample) = samples.next()
        {
            let row = &rows[sample.row as usize];
            (skipped, values) = (skipped - 1, values - usize::from(row.width));
            for &RowStream { metric, .. } in row.of(streams) {
                let Some(metric) = self.metrics.get_mut(metric as usize) else { continue };
                let is_due = u32::from(metric.due > 0);
                (metric.due, due) = (metric.due - is_due, due - is_due);
                metric.left_out += 1 - is_due;
            }
        }
        for (batch, samples) in chunk.batches() {
            let skip = skipped.min(samples.len());
            skipped -= skip;
            for (sequence, sample) in (0..).zip(samples).skip(skip) {
                let row = &rows[sample.row as usize];
                let of_sample = &chunk.values()[values..][..usize::from(row.width)];
                values += of_sample.len();
                for (&RowStream { metric, .. }, &value) in row.of(streams).zip(of_sample) {
                    let Some(metric) = self.metrics.get_mut(metric as usize) else { continue };
                    if metric.left_out > 0 {
                        metric.left_out -= 1;
                    } else {
                        let stream = metric.fleet_stream;
                        self.add_to_window(stream, (batch.time_us, sequence), value, window_values);
                    }
                }
            }
        }
    }

    /// Adds the samples of a chunk to the windows of their devices and to their keys.
    fn add_samples(
        &mut self,
        chunk: &JudgedChunk,
        ChunkRows { rows, streams, last_kept, .. }: &mut ChunkRows,
        options: SegmentOptions<'_>,
    ) {
        let SegmentOptions { window_values, keeps_history, hasher } = options;
        let has_keys = keeps_history || self.sample_keys != SampleKeys::None;
        let (mut at, mut group) = (0, NONE);
        for (batch, samples) in chunk.batches() {
            let time_us = batch.time_us;
            for (sequence, &JudgedSample { timestamp_us, row }) in (0..).zip(samples) {
                let row = &mut rows[row as usize];
                // The next sample of the subject, or with its key, may be of another row.
                let ends_each = !row.is_alone || keeps_history;
                if row.left_out > 0 {
                    row.left_out -= 1;
                } else if row.subject != FLEET {
                    for (&RowStream { stream, .. }, &value) in
                        row.of(streams).zip(&chunk.values()[at..])
                    {
                        if stream != NONE {
                            self.add_to_window(stream, (time_us, sequence), value, window_values);
                        }
                    }
                }
                if has_keys {
                    // Most samples have the timestamp of the one before.
                    if !self.is_group_of(group, timestamp_us) {
                        group = self.group(timestamp_us, hasher);
                    }
                    if self.keys.get(row.key as usize).is_none_or(|key| key.group != group) {
                        if !ends_each {
                            self.end_key(row, streams, chunk, keeps_history);
                        }
                        row.key = self.key_after(row.key, (row.subject, group), hasher);
                    }
                    self.groups[group as usize].newest = row.key;
                }
                (row.time_us, row.timestamp_us, row.last) = (time_us, timestamp_us, at as u32);
                at += usize::from(row.width);
                if ends_each {
                    self.end_row(row, streams, chunk, keeps_history);
                }
                if keeps_history {
                    // Redis takes no entry before the last one, and samples of several shards come in any order.
                    *last_kept = (time_us, sequence).max(after(*last_kept));
                    self.keep(row, *last_kept);
                }
            }
        }
        if !keeps_history {
            for row in rows.iter().filter(|row| row.is_alone) {
                self.end_row(row, streams, chunk, keeps_history);
            }
        }
    }

    /// Writes down what the last sample of a row says.
    fn end_row(
        &mut self,
        row: &SegmentRow,
        streams: &[RowStream],
        chunk: &JudgedChunk,
        keeps_history: bool,
    ) {
        if row.subject != FLEET {
            self.subjects[row.subject as usize].update(row.time_us, row.timestamp_us);
        }
        self.end_key(row, streams, chunk, keeps_history);
    }

    /// Sets the readings of a row's key, if it has one so far, to those of its last sample. Those that a history has stay.
    fn end_key(
        &mut self,
        row: &SegmentRow,
        streams: &[RowStream],
        chunk: &JudgedChunk,
        keeps_history: bool,
    ) {
        let Some(values) = chunk.values().get(row.last as usize..) else { return };
        let Self { keys, readings: kept, subjects, .. } = self;
        let Some(key) = keys.get_mut(row.key as usize) else { return };
        subjects[row.subject as usize].newest_key = row.key;
        let readings = row.of(streams).zip(values).filter_map(|(stream, &value)| {
            let metric = stream.metric;
            (metric != NONE).then_some(SegmentReading { metric, value })
        });
        key.width = row.named;
        if key.width <= key.room && !keeps_history {
            let places = &mut kept[key.first_reading as usize..][..usize::from(key.width)];
            for (place, reading) in places.iter_mut().zip(readings) {
                *place = reading;
            }
        } else {
            key.room = key.width;
            key.first_reading = kept.len() as u32;
            kept.extend(readings);
        }
    }

    /// Keeps the last sample of a row for the history.
    fn keep(&mut self, row: &SegmentRow, (time_us, sequence): (i64, u16)) {
        let SegmentKey { first_reading, width, .. } = self.keys[row.key as usize];
        let key = row.key;
        self.history.push(HistoryEntry { time_us, key, first_reading, width, sequence });
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

    /// The index of a metric.
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
        self.metrics.push(SegmentMetric { id, name, fleet_stream: NONE, due: 0, left_out: 0 });
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
            oldest: NONE,
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
        (time_us, sequence): (i64, u16),
        value: f64,
        window_values: u32,
    ) {
        let stream = &mut self.streams[stream as usize];
        let at = if stream.len < window_values {
            let at = self.values.len() as u32;
            match self.values.get_mut(stream.newest as usize) {
                Some(newest) => newest.next = at,
                None => stream.oldest = at,
            }
            self.values.push(WindowValue { time_us, value, next: stream.oldest, sequence });
            stream.len += 1;
            at
        } else {
            let at = stream.oldest;
            let oldest = &mut self.values[at as usize];
            stream.oldest = oldest.next;
            *oldest = WindowValue { time_us, value, next: oldest.next, sequence };
            at
        };
        stream.newest = at;
    }

    /// The key of a subject and a group that comes after one of the same subject.
    #[inline]
    fn key_after(&mut self, before: u32, of: (u32, u32), hasher: &RandomState) -> u32 {
        // Most often the one that came after it the last time.
        let is_same = |key: &SegmentKey| (key.subject, key.group) == of;
        let probable = self.keys.get(before as usize).map_or(NONE, |key| key.next);
        if self.keys.get(probable as usize).is_some_and(is_same) {
            return probable;
        }
        let at = self.key(of, hasher);
        if let Some(before) = self.keys.get_mut(before as usize) {
            before.next = at;
        }
        at
    }

    #[inline(never)]
    fn key(&mut self, (subject, group): (u32, u32), hasher: &RandomState) -> u32 {
        let hash = hasher.hash_one((subject, group));
        let keys = &mut self.keys;
        let same = |&at: &u32| {
            let key = &keys[at as usize];
            (key.subject, key.group) == (subject, group)
        };
        if let Some(&at) = self.keys_by_name.find(hash, same) {
            return at;
        }
        let at = keys.len() as u32;
        keys.push(SegmentKey { subject, group, next: NONE, first_reading: 0, width: 0, room: 0 });
        self.keys_by_name.insert_unique(hash, at, |&at| {
            let key = &keys[at as usize];
            hasher.hash_one((key.subject, key.group))
        });
        at
    }

    #[inline]
    fn is_group_of(&self, group: u32, timestamp_us: i64) -> bool {
        self.groups.get(group as usize).is_some_and(|group| group.timestamp_us == timestamp_us)
    }

    #[inline(never)]
    fn group(&mut self, timestamp_us: i64, hasher: &RandomState) -> u32 {
        let hash = hasher.hash_one(timestamp_us);
        let same = |&at: &u32| self.is_group_of(at, timestamp_us);
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
