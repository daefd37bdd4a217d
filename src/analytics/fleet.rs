//! The fleet's windows: one for each metric, over the values of all devices in the order of their arrival.
//!
//! They need that one order, so one shard has them all. A few streams take every value, so they stay in the cache.

mod saved;

use crate::analytics::anomalies::{AnomalousValue, AnomalyLog, OpenAnomaly, Subject};
use crate::analytics::arena::{Arena, MetricStream, RingSource, StreamIndex, StreamToJudge};
use crate::analytics::last_sample::{LastSample, was_sent};
use crate::analytics::merge::ReplicaMerge;
use crate::analytics::metrics::KnownMetrics;
use crate::analytics::onsets::Onsets;
use crate::judged_queue::{JudgedCounts, SharedWindows};
use sigmad_sample::{Batch, MetricId, Reading, Sample};

/// Streams in one report, and metrics with series of their own in the scrape: copying more would delay samples.
pub const METRICS_REPORTED_MAX: usize = 1_024;

/// The fleet's windows. An id of an earlier name is not that of the stream in its slot.
#[derive(Debug)]
pub struct FleetWindows {
    slots: Vec<Option<MetricStream>>,
    len: usize,
    /// The streams' memory.
    pub arena: Arena,
    /// Samples that this replica judged since the start.
    pub samples: u64,
    /// Samples of other replicas, as last reported.
    pub others: JudgedCounts,
    /// The last sample.
    pub last: LastSample,
    /// When it arrived here, by [`LastSample::seconds`].
    pub own_seen_s: u32,
    /// Open anomalies of streams that were given back.
    pub left_open: Vec<(OpenAnomaly, Subject)>,
    /// What begins and ends to be wrong.
    pub onsets: Onsets,
}

impl FleetWindows {
    /// Windows in this memory, which has no streams.
    pub fn new(arena: Arena) -> Self {
        Self {
            slots: Vec::new(),
            len: 0,
            arena,
            samples: 0,
            others: JudgedCounts::default(),
            last: LastSample::default(),
            own_seen_s: 0,
            left_open: Vec::new(),
            onsets: Onsets::default(),
        }
    }

    /// How many streams there are.
    pub fn streams(&self) -> usize {
        self.len
    }

    /// The stream of that metric. None if its name is new, or gone.
    #[inline]
    pub fn get(&self, metric: MetricId) -> Option<MetricStream> {
        (*self.slots.get(metric.slot())?).filter(|stream| stream.metric == metric)
    }

    /// In the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = MetricStream> {
        self.slots.iter().flatten().copied()
    }

    /// The stream of that metric, opened when the metric is new. None when its name has been evicted.
    #[inline]
    fn stream(&mut self, metric: MetricId, metrics: &mut KnownMetrics) -> Option<StreamIndex> {
        match self.get(metric) {
            Some(stream) => Some(stream.place),
            None => self.open(metric, metrics),
        }
    }

    #[cold]
    fn open(&mut self, metric: MetricId, metrics: &mut KnownMetrics) -> Option<StreamIndex> {
        metrics.admit(metric)?;
        let (slot, place) = (metric.slot(), self.arena.open());
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, None);
        }
        let gone = self.slots[slot].replace(MetricStream { metric, place });
        self.len += usize::from(gone.is_none());
        gone.into_iter().for_each(|gone| self.close(gone));
        Some(place)
    }

    fn close(&mut self, stream: MetricStream) {
        let open = self.arena.give_back(stream.place);
        self.left_open.extend(open.map(|open| (open, (None, stream.metric))));
    }

    /// Gives back the streams whose metrics have been evicted.
    pub fn free_stale(&mut self, metrics: &KnownMetrics) {
        for slot in 0..self.slots.len() {
            let stale = self.slots[slot].take_if(|stream| !metrics.is_current(stream.metric));
            self.len -= usize::from(stale.is_some());
            stale.into_iter().for_each(|stale| self.close(stale));
        }
    }

    /// Judges a sample, and returns the number of readings judged: all but those whose names have been evicted on
    /// the way here.
    #[inline]
    pub fn judge(
        &mut self,
        sample: &Sample,
        readings: &[Reading],
        arrived_us: i64,
        metrics: &mut KnownMetrics,
        anomalies: &mut AnomalyLog,
    ) -> usize {
        let mut judged = 0;
        for &Reading { metric, value } in readings {
            let Some(place) = self.stream(metric, metrics) else { continue };
            judged += 1;
            let mut stream = self.arena.get_to_judge(place);
            // A value of a device belongs to the device's stream, as its anomaly does.
            let is_due = sample.device.is_none() && stream.fold(arrived_us, value);
            if !stream.take_usual(value) {
                self.judge_fully((metric, place), sample, (arrived_us, value), metrics, anomalies);
            }
            if is_due {
                let of = (None, metric, place);
                self.onsets.judge(&mut self.arena, of, metrics, arrived_us, value);
            }
        }
        self.last.update(arrived_us, sample.timestamp_us);
        judged
    }

    /// Judges the first samples of a batch, as many as are of devices and have known metrics alone; returns how many.
    ///
    /// A run of samples with the same metrics is judged metric by metric. Each stream has its values in their order, and
    /// nothing but its counts comes of a value of a device: so the result is that of [`FleetWindows::judge`].
    #[inline(never)] // once a batch
    pub fn judge_of_devices(
        &mut self,
        batch: &Batch,
        arrived_us: i64,
        metrics: &mut KnownMetrics,
        anomalies: &mut AnomalyLog,
    ) -> usize {
        let (samples, mut readings) = batch.columns();
        let mut judged = 0;
        while let Some(run) = Run::first_of(&samples[judged..], readings) {
            let (columns, rest) = readings.split_at(run.len * run.width);
            let row = &columns[..run.width];
            if !row.iter().all(|reading| self.stream(reading.metric, metrics).is_some()) {
                break;
            }
            let of_run = &samples[judged..][..run.len];
            for at in 0..run.width {
                self.judge_column(at, (of_run, columns), arrived_us, metrics, anomalies);
            }
            judged += run.len;
            readings = rest;
        }
        if let Some(last) = samples[..judged].last() {
            self.last.update(arrived_us, last.timestamp_us);
        }
        judged
    }

    /// Judges the readings at one position of samples of devices, which have the same metrics.
    #[inline(always)]
    fn judge_column(
        &mut self,
        at: usize,
        (samples, readings): (&[Sample], &[Reading]),
        arrived_us: i64,
        metrics: &mut KnownMetrics,
        anomalies: &mut AnomalyLog,
    ) {
        let metric = readings[at].metric;
        let Some(MetricStream { place, .. }) = self.get(metric) else { return };
        let width = readings.len() / samples.len();
        let mut judged = 0;
        loop {
            let rows = readings[judged * width..].chunks_exact(width);
            let values = rows.map(|row| row[at].value);
            judged += self.arena.get_to_judge(place).take_usual_run(values);
            let Some(sample) = samples.get(judged) else { return };
            let value = readings[judged * width + at].value;
            self.judge_fully((metric, place), sample, (arrived_us, value), metrics, anomalies);
            judged += 1;
        }
    }

    /// Judges a value of a stream with all that can come of it.
    #[inline(never)]
    fn judge_fully(
        &mut self,
        (metric, place): (MetricId, StreamIndex),
        sample: &Sample,
        (arrived_us, value): (i64, f64),
        metrics: &mut KnownMetrics,
        anomalies: &mut AnomalyLog,
    ) {
        let timestamp_us = sample.timestamp_us;
        let StreamToJudge { record: stream, ring, states, .. } = self.arena.get_to_judge(place);
        let before = stream.window.moments();
        let verdict = states.judge(stream.state, &before, timestamp_us, value);
        stream.enter(ring, value, verdict);
        if sample.device.is_none() {
            if verdict.is_anomaly {
                let flag = AnomalousValue { value, before, verdict, timestamp_us, arrived_us };
                let known = metrics.admit(metric).expect("it was admitted with its stream");
                known.anomalies += 1;
                let names = || (None, known.name.clone());
                stream.open = Some(anomalies.flag(stream.open, (None, metric), names, flag));
            } else if let Some(open) = stream.open.take() {
                anomalies.end(open, (None, metric), timestamp_us, arrived_us);
            }
        }
        if stream.ring_source != RingSource::Own {
            self.arena.enter_own(place, value, verdict);
        }
    }

    /// Counts samples and streams anew, from the last sample.
    pub fn count_anew(&mut self) {
        self.samples = self.samples.min(1);
        self.arena.count_anew();
    }

    /// Applies what other replicas have changed.
    pub fn apply(
        &mut self,
        shared: &SharedWindows,
        metrics: &mut KnownMetrics,
        merge: &mut ReplicaMerge,
    ) {
        self.others = shared.others;
        self.samples = self.samples.max(shared.own_total);
        let all_sent = was_sent(self.own_seen_s, shared);
        self.last.update_from_replicas(shared, all_sent || self.samples == shared.own_total);
        for stream in &shared.metrics {
            if stream.values.is_empty() && self.get(stream.metric).is_none() {
                continue;
            }
            let Some(place) = self.stream(stream.metric, metrics) else { continue };
            merge.stream(&mut self.arena, place, stream, all_sent);
        }
    }

    /// This replica's counts of a stream.
    #[inline]
    pub fn counts(&self, metric: MetricId) -> JudgedCounts {
        let stream = self.get(metric);
        stream.map_or(JudgedCounts::default(), |stream| self.arena.get(stream.place).0.own)
    }

    /// The streams that a report has room for, in the order of their ids: all of them, or `cpu`, `rps` and
    /// those with the most values.
    pub fn reported(&self) -> Vec<MetricStream> {
        most_used(self.iter().collect(), &self.arena)
    }
}

/// Samples of devices, one after another, that have the same metrics in the same order, and none twice.
struct Run {
    len: usize,
    /// Readings of each.
    width: usize,
}

impl Run {
    /// The run that begins there. None without a sample of a device, or without readings.
    fn first_of(samples: &[Sample], readings: &[Reading]) -> Option<Self> {
        let (first, others) = samples.split_first()?;
        let width = first.readings as usize;
        if first.device.is_none() || width == 0 {
            return None;
        }
        let (row, readings) = readings.split_at(width);
        let is_alike = |(sample, other): &(&Sample, &[Reading])| {
            sample.device.is_some()
                && sample.readings as usize == width
                && row.iter().zip(*other).all(|(one, other)| one.metric == other.metric)
        };
        let alike = others.iter().zip(readings.chunks_exact(width)).take_while(is_alike).count();
        let is_twice =
            |at| row[..at].iter().any(|reading: &Reading| reading.metric == row[at].metric);
        let has_twice = alike > 0 && (1..width).any(is_twice);
        Some(Self { len: if has_twice { 1 } else { 1 + alike }, width })
    }
}

/// The [`METRICS_REPORTED_MAX`] streams with the most values, `cpu` and `rps` before all others, in the order of
/// their ids.
pub fn most_used(mut streams: Vec<MetricStream>, arena: &Arena) -> Vec<MetricStream> {
    if streams.len() > METRICS_REPORTED_MAX {
        let rank = |stream: &MetricStream| {
            let (record, _) = arena.get(stream.place);
            (stream.metric > MetricId::RPS, std::cmp::Reverse((record.own + record.others).total))
        };
        streams.select_nth_unstable_by_key(METRICS_REPORTED_MAX, rank);
        streams.truncate(METRICS_REPORTED_MAX);
    }
    streams.sort_unstable_by_key(|stream| stream.metric);
    streams
}
