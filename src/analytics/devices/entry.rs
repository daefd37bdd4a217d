//! One device: its streams, its counts, and judging a sample of it.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::analytics::anomalies::{AnomalousValue, AnomalyLog};
use crate::analytics::arena::{Arena, MetricStream, RingSource, StreamRecord, StreamToJudge};
use crate::analytics::last_sample::LastSample;
use crate::analytics::metrics::KnownMetrics;
use crate::analytics::onsets::Onsets;
use crate::judged_queue::JudgedCounts;
use sigmad_sample::{DeviceId, MetricId, Reading};

/// Judges a value of a stream of the device with that name and those counts.
#[inline(always)] // in the loop over the readings of a sample
fn judge_value(
    stream: MetricStream,
    of: OfDevice<'_>,
    times_us: (i64, i64),
    value: f64,
    (arena, onsets): (&mut Arena, &mut Onsets),
    metrics: &mut KnownMetrics,
    anomalies: &mut AnomalyLog,
) {
    let (MetricStream { metric, place }, name, arrived_us) = (stream, of.1, times_us.1);
    let mut to_judge = arena.get_to_judge(place);
    let is_due = to_judge.fold(arrived_us, value);
    if !to_judge.take_usual(value) {
        judge_fully(stream, of, times_us, value, arena, metrics, anomalies);
    }
    if is_due {
        onsets.judge(arena, (name, metric, place), metrics, arrived_us, value);
    }
}

/// Judges a value with all that can come of it.
#[inline(never)]
fn judge_fully(
    MetricStream { metric, place }: MetricStream,
    of: OfDevice<'_>,
    (timestamp_us, arrived_us): (i64, i64),
    value: f64,
    arena: &mut Arena,
    metrics: &mut KnownMetrics,
    anomalies: &mut AnomalyLog,
) {
    let StreamToJudge { record: stream, ring, states, .. } = arena.get_to_judge(place);
    let before = stream.window.moments();
    let verdict = states.judge(stream.state, &before, timestamp_us, value);
    stream.enter(ring, value, verdict);
    if verdict.is_anomaly || stream.open.is_some() {
        let flag = AnomalousValue { value, before, verdict, timestamp_us, arrived_us };
        note_verdict(of, (metric, stream), flag, metrics, anomalies);
    }
    if stream.ring_source != RingSource::Own {
        arena.enter_own(place, value, verdict);
    }
}

/// A device: its id, its name, and the samples and anomalies of this replica.
type OfDevice<'a> = (DeviceId, Option<&'a Arc<str>>, &'a mut JudgedCounts);

/// One device, or an entry without a device so far. Two cache lines.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct DeviceEntry {
    /// None before the first device.
    pub name: Option<Arc<str>>,
    /// The generation of the device's id.
    pub generation: u32,
    /// In the order in which they were first sent.
    pub streams: SmallVec<[MetricStream; 2]>,
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
    /// Its stream of that metric, opened when the metric is new; None when its name has been evicted. `hint` is its
    /// probable position: most samples of a device name the same metrics in the same order.
    #[inline]
    pub(super) fn stream(
        &mut self,
        metric: MetricId,
        hint: usize,
        arena: &mut Arena,
        metrics: &mut KnownMetrics,
    ) -> Option<MetricStream> {
        match self.find(metric, hint) {
            Some(at) => Some(self.streams[at]),
            None => self.open(metric, arena, metrics),
        }
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
    fn open(
        &mut self,
        metric: MetricId,
        arena: &mut Arena,
        metrics: &mut KnownMetrics,
    ) -> Option<MetricStream> {
        metrics.admit(metric)?;
        let stream = MetricStream { metric, place: arena.open() };
        self.streams.push(stream);
        Some(stream)
    }

    /// What its verdicts are noted for.
    pub(super) fn of(&mut self, id: DeviceId) -> OfDevice<'_> {
        (id, self.name.as_ref(), &mut self.own)
    }

    /// Whether it is that of the device.
    #[inline]
    pub(super) fn is(&self, id: DeviceId) -> bool {
        self.generation == id.generation && self.name.is_some()
    }

    /// Judges a sample with its time and its arrival. True when it is the first of its second.
    #[inline(always)] // as DeviceWindows::judge
    pub(super) fn judge(
        &mut self,
        (id, timestamp_us, arrived_us): (DeviceId, i64, i64),
        readings: &[Reading],
        (arena, onsets): (&mut Arena, &mut Onsets),
        metrics: &mut KnownMetrics,
        anomalies: &mut AnomalyLog,
    ) -> bool {
        let Self { name, own, streams, .. } = self;
        let times_us = (timestamp_us, arrived_us);
        let mut judged = 0;
        // Most samples of a device name the same metrics in the same order.
        for (&stream, &Reading { metric, value }) in streams.iter().zip(readings) {
            if stream.metric != metric {
                break;
            }
            let of = (id, name.as_ref(), &mut *own);
            judge_value(stream, of, times_us, value, (arena, onsets), metrics, anomalies);
            judged += 1;
        }
        if judged < readings.len() {
            self.judge_unordered(
                id,
                times_us,
                (readings, judged),
                (arena, onsets),
                metrics,
                anomalies,
            );
        }
        self.count(timestamp_us, arrived_us)
    }

    /// Judges the readings from a position on, whichever streams they are of.
    #[inline(never)]
    fn judge_unordered(
        &mut self,
        id: DeviceId,
        times_us: (i64, i64),
        (readings, from): (&[Reading], usize),
        (arena, onsets): (&mut Arena, &mut Onsets),
        metrics: &mut KnownMetrics,
        anomalies: &mut AnomalyLog,
    ) {
        for (at, &Reading { metric, value }) in readings.iter().enumerate().skip(from) {
            let Some(stream) = self.stream(metric, at, arena, metrics) else { continue };
            let of = self.of(id);
            judge_value(stream, of, times_us, value, (arena, onsets), metrics, anomalies);
        }
    }

    /// Counts a sample whose readings were judged. True when it is the first of its second.
    #[inline]
    pub(super) fn count(&mut self, timestamp_us: i64, arrived_us: i64) -> bool {
        self.own.total += 1;
        self.last.update(arrived_us, timestamp_us);
        let before_s = std::mem::replace(&mut self.own_seen_s, LastSample::seconds(arrived_us));
        self.own_seen_s != before_s || self.own.total == 1
    }
}

/// Takes the verdict on a value for the anomaly that it belongs to, or ends.
#[cold] // most values are in no anomaly
pub(super) fn note_verdict(
    (id, name, own): OfDevice<'_>,
    (metric, stream): (MetricId, &mut StreamRecord),
    flag: AnomalousValue,
    metrics: &mut KnownMetrics,
    anomalies: &mut AnomalyLog,
) {
    let of = (Some(id), metric);
    if flag.verdict.is_anomaly {
        own.anomalies += 1;
        // None: its name has been evicted since its stream was opened, and the stream will be given back.
        if let Some(known) = metrics.admit(metric) {
            known.anomalies += 1;
            let names = || (name.cloned(), known.name.clone());
            stream.open = Some(anomalies.flag(stream.open, of, names, flag));
        }
    } else if let Some(open) = stream.open.take() {
        anomalies.end(open, of, flag.timestamp_us, flag.arrived_us);
    }
}
