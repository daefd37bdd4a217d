//! Judges samples by their windows, and reports what was judged.

mod series;

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::Sender;
use sigmad_detectors::DetectorSettings;
use sigmad_sample::{Batch, DeviceId, MetricId, Reading, Sample};

use crate::analytics::anomalies::{AnomalousValue, AnomalyLog};
use crate::analytics::arena::{RingSource, StreamIndex};
use crate::analytics::fleet::most_used;
use crate::analytics::merge::ReplicaMerge;
use crate::analytics::names::NameLookup;
use crate::analytics::report::{
    AnomaliesQuery, AnomalyReport, DeviceReport, DevicesQuery, MetricReport, Scope, TotalsReport,
    WindowsReport,
};
use crate::analytics::scan::DeviceScan;
use crate::analytics::streams::{LastSample, Streams};
use crate::judged_queue::{
    JudgedCounts, JudgedProducer, JudgedReading, JudgedSample, SharedWindows,
};

/// By how much the store's last sample must be newer than this replica's before samples that the store
/// lacks count as lost. A store that answers has every sample within seconds, one that was away as soon as
/// older samples are written.
const LOST_AFTER_S: u32 = 60;

/// How samples are judged.
#[derive(Clone, Debug)]
pub struct AnalyticsSettings {
    /// Values in a window, 1 to [`WINDOW_MAX`](sigmad_detectors::window::WINDOW_MAX).
    pub window: usize,
    /// Which detectors run.
    pub detectors: DetectorSettings,
}

impl Default for AnalyticsSettings {
    fn default() -> Self {
        Self { window: 50, detectors: DetectorSettings::default() }
    }
}

/// Every window, and the anomalies found in them.
#[derive(Debug)]
pub struct Analytics {
    streams: Streams,
    anomalies: AnomalyLog,
    samples: u64,
    /// Values whose names were evicted on the way here.
    unnamed_values: u64,
    /// Samples of other replicas, as last reported.
    others: JudgedCounts,
    last: LastSample,
    /// As [`super::streams::DeviceEntry::own_seen_s`].
    own_seen_s: u32,
    merge: ReplicaMerge,
    scans: VecDeque<DeviceScan>,
}

impl Analytics {
    /// Without samples.
    pub fn new(settings: AnalyticsSettings, names: NameLookup) -> Self {
        Self {
            streams: Streams::new(settings.window, settings.detectors, names),
            anomalies: AnomalyLog::default(),
            samples: 0,
            unnamed_values: 0,
            others: JudgedCounts::default(),
            last: LastSample::default(),
            own_seen_s: 0,
            merge: ReplicaMerge::default(),
            scans: VecDeque::new(),
        }
    }

    /// Judges the samples in order, each by the windows before it.
    pub fn judge(&mut self, batch: &Batch, arrived_us: i64) {
        self.judge_each(batch, arrived_us, |_, _, _, _| {});
    }

    /// Judges the samples, and publishes each to the store with `time_us`, which must be larger than that of any
    /// batch before.
    pub fn judge_and_publish(
        &mut self,
        batch: &Batch,
        arrived_us: i64,
        time_us: i64,
        judged_producer: &mut JudgedProducer,
    ) {
        self.judge_each(batch, arrived_us, |analytics, sequence, sample, readings| {
            analytics.publish(time_us, sequence, sample, readings, judged_producer);
        });
    }

    #[inline(always)] // so that without a store there is nothing to call
    fn judge_each(
        &mut self,
        batch: &Batch,
        arrived_us: i64,
        mut judged: impl FnMut(&Self, u16, &Sample, &[Reading]),
    ) {
        let keeps_states = self.streams.arena.states().keeps_states();
        let mut ahead = batch.iter().skip(1);
        for (at, (sample, readings)) in batch.iter().enumerate() {
            if keeps_states && let Some((Sample { device: Some(id), .. }, _)) = ahead.next() {
                self.streams.prefetch(id);
            }
            let kept;
            let mut readings = readings;
            if self.judge_for_fleet(&sample, readings, arrived_us) < readings.len() {
                kept = self.current(readings);
                readings = &kept;
            }
            if let Some(id) = sample.device {
                self.judge_for_device(id, &sample, readings, arrived_us);
            }
            self.last.update(arrived_us, sample.timestamp_us);
            judged(self, at as u16, &sample, readings);
        }
        self.samples += batch.len() as u64;
        self.own_seen_s = LastSample::seconds(arrived_us);
        for (open, subject) in self.streams.left_open.drain(..) {
            self.anomalies.abandon(open, subject, arrived_us);
        }
    }

    /// The readings whose metrics have not been evicted on the way here.
    #[cold]
    fn current(&mut self, readings: &[Reading]) -> Vec<Reading> {
        let known = |reading: &&Reading| self.streams.fleet.get(reading.metric).is_some();
        let kept: Vec<Reading> = readings.iter().filter(known).copied().collect();
        self.unnamed_values += (readings.len() - kept.len()) as u64;
        kept
    }

    /// Publishes a sample with the counts as they are after it, so that a later sample corrects the counts where
    /// an earlier one is lost.
    fn publish(
        &self,
        time_us: i64,
        sequence: u16,
        sample: &Sample,
        readings: &[Reading],
        judged_producer: &mut JudgedProducer,
    ) {
        let device = sample.device.and_then(|id| Some((id, self.streams.device(id)?)));
        let chunk = judged_producer.chunk_for(readings.len());
        for (at, &Reading { metric, value }) in readings.iter().enumerate() {
            let fleet = self.streams.fleet_counts(metric);
            let stream = device.map_or(JudgedCounts::default(), |(_, device)| {
                self.streams.counts(device, metric, at)
            });
            chunk.push_reading(JudgedReading { metric, value, stream, fleet });
        }
        chunk.push_sample(JudgedSample {
            time_us,
            sequence,
            readings: readings.len() as u16,
            timestamp_us: sample.timestamp_us,
            device: device.map(|(id, _)| id),
            of_device: device.map_or(JudgedCounts::default(), |(_, device)| device.own),
            of_replica: self.samples + u64::from(sequence) + 1,
        });
    }

    /// Returns the number of readings judged: all but those whose names have been evicted on the way here.
    #[inline]
    fn judge_for_fleet(&mut self, sample: &Sample, readings: &[Reading], arrived_us: i64) -> usize {
        let mut judged = 0;
        for &Reading { metric, value } in readings {
            let Some(place) = self.streams.fleet_stream(metric) else { continue };
            judged += 1;
            let (stream, ring, states) = self.streams.arena.get_to_judge(place);
            let before = stream.window.moments();
            let timestamp_us = sample.timestamp_us;
            let verdict = states.judge(stream.state, &before, timestamp_us, value);
            stream.enter(ring, value, verdict);
            // An anomaly of a device belongs to the device's stream.
            if sample.device.is_none() {
                if verdict.is_anomaly {
                    let flag = AnomalousValue { value, before, verdict, timestamp_us, arrived_us };
                    let fleet = self.streams.fleet.get_mut(metric).expect("it has this stream");
                    fleet.anomalies += 1;
                    let names = || (None, fleet.name.clone());
                    let open = self.anomalies.flag(stream.open, (None, metric), names, flag);
                    stream.open = Some(open);
                } else if let Some(open) = stream.open.take() {
                    self.anomalies.end(open, (None, metric), timestamp_us, arrived_us);
                }
            }
            if stream.ring_source != RingSource::Own {
                self.streams.arena.enter_own(place, value, verdict);
            }
        }
        judged
    }

    #[inline]
    fn judge_for_device(
        &mut self,
        id: DeviceId,
        sample: &Sample,
        readings: &[Reading],
        arrived_us: i64,
    ) {
        let Some((device, arena, fleet)) = self.streams.device_mut(id) else {
            return;
        };
        let timestamp_us = sample.timestamp_us;
        for (at, &Reading { metric, value }) in readings.iter().enumerate() {
            let entry = device.stream(metric, at, arena);
            let (stream, ring, states) = arena.get_to_judge(entry.place());
            let before = stream.window.moments();
            let verdict = states.judge(stream.state, &before, timestamp_us, value);
            stream.enter(ring, value, verdict);
            entry.set_verdict(&verdict);
            let (place, of) = (entry.place(), (Some(id), metric));
            if verdict.is_anomaly {
                device.own.anomalies += 1;
                let flag = AnomalousValue { value, before, verdict, timestamp_us, arrived_us };
                let fleet = fleet.get_mut(metric).expect("it was judged for the fleet");
                fleet.anomalies += 1;
                let names = || (device.name.clone(), fleet.name.clone());
                stream.open = Some(self.anomalies.flag(stream.open, of, names, flag));
            } else if let Some(open) = stream.open.take() {
                self.anomalies.end(open, of, timestamp_us, arrived_us);
            }
            if stream.ring_source != RingSource::Own {
                arena.enter_own(place, value, verdict);
            }
        }
        device.own.total += 1;
        device.last.update(arrived_us, sample.timestamp_us);
        device.own_seen_s = LastSample::seconds(arrived_us);
    }

    /// Applies what other replicas have changed. A device that is new here is opened, unless it has been
    /// evicted.
    pub fn apply(&mut self, shared: &SharedWindows) {
        match shared.device {
            None => self.apply_to_fleet(shared),
            Some(id) => self.apply_to_device(id, shared),
        }
    }

    fn apply_to_fleet(&mut self, shared: &SharedWindows) {
        self.others = shared.others;
        let all_sent = was_sent(self.own_seen_s, shared);
        self.last.update_from_replicas(shared, all_sent || self.samples == shared.own_total);
        for stream in &shared.metrics {
            let is_known = self.streams.fleet.get(stream.metric).is_some();
            if stream.values.is_empty() && !is_known {
                continue;
            }
            let Some(place) = self.streams.fleet_stream(stream.metric) else { continue };
            let arena = &mut self.streams.arena;
            self.merge.stream(arena, place, stream, all_sent);
        }
    }

    fn apply_to_device(&mut self, id: DeviceId, shared: &SharedWindows) {
        let is_empty = shared.metrics.iter().all(|stream| stream.values.is_empty());
        if is_empty && self.streams.device(id).is_none() {
            return;
        }
        let is_current: Vec<bool> =
            shared.metrics.iter().map(|stream| self.streams.is_metric(stream.metric)).collect();
        let Some((device, arena, _)) = self.streams.device_mut(id) else {
            return;
        };
        device.others = shared.others;
        let all_sent = was_sent(device.own_seen_s, shared);
        device.last.update_from_replicas(shared, all_sent || device.own.total == shared.own_total);
        for (at, stream) in shared.metrics.iter().enumerate() {
            let opens = is_current[at] && !stream.values.is_empty();
            if !opens && device.find(stream.metric, at).is_none() {
                continue;
            }
            let entry = device.stream(stream.metric, at, arena);
            let verdict = self.merge.stream(arena, entry.place(), stream, all_sent);
            if let Some(verdict) = verdict {
                entry.set_verdict(&verdict);
            }
        }
    }

    /// The name of a device that has windows. None once another device has its entry.
    pub fn device_name(&self, id: DeviceId) -> Option<&Arc<str>> {
        self.streams.device(id)?.name.as_ref()
    }

    /// The name of a metric, None once it has been evicted.
    pub fn metric_name(&self, id: MetricId) -> Option<Arc<str>> {
        self.streams.metric_name(id)
    }

    /// The windows of one device, or of the fleet: those with the most values, where there are many. Empty for
    /// a device without windows.
    pub fn windows(&self, device: Option<DeviceId>, scope: Scope) -> WindowsReport {
        let arena = &self.streams.arena;
        let Some(id) = device else {
            let fleet = self.streams.fleet.reported(arena);
            return WindowsReport {
                other_metrics: self.streams.fleet.len() - fleet.len(),
                metrics: fleet
                    .into_iter()
                    .filter_map(|f| self.metric_report(f.metric, f.place, scope))
                    .collect(),
                last_timestamp_us: last_timestamp(&self.last, self.samples, self.others, scope),
                synced_at_us: None,
            };
        };
        let Some(device) = self.streams.device(id) else {
            return WindowsReport::default();
        };
        let streams = device.streams.to_vec();
        let streams = most_used(streams, |stream| (stream.metric, stream.place()), arena);
        let other_metrics = device.streams.len() - streams.len();
        let reports = streams.iter().filter_map(|s| self.metric_report(s.metric, s.place(), scope));
        WindowsReport {
            metrics: reports.collect(),
            other_metrics,
            last_timestamp_us: last_timestamp(&device.last, device.own.total, device.others, scope),
            synced_at_us: None,
        }
    }

    /// One stream. None when it has no values of that scope.
    fn metric_report(
        &self,
        metric: MetricId,
        place: StreamIndex,
        scope: Scope,
    ) -> Option<MetricReport> {
        let (all, ring_of_all) = self.streams.arena.get(place);
        let (stream, ring, counts) = match scope {
            Scope::Cluster => (all, ring_of_all, all.own + all.others),
            Scope::Local => {
                let (own, ring) = self.streams.arena.own(place)?;
                (own, ring, all.own)
            }
        };
        let moments = stream.window.moments();
        let mut values = Vec::with_capacity(stream.window.count());
        values.extend(stream.window.values(ring));
        Some(MetricReport {
            metric: self.metric_name(metric)?,
            values,
            mean: moments.mean,
            std_dev: moments.std_dev(),
            verdict: stream.verdict,
            findings: self.streams.arena.states().findings(all.state, &stream.verdict),
            total_count: counts.total,
            anomaly_count: counts.anomalies,
        })
    }

    /// The latest anomalies, newest first.
    pub fn anomalies(&self, query: &AnomaliesQuery) -> Vec<AnomalyReport> {
        let detectors = self.streams.arena.states().settings();
        self.anomalies.latest(query, detectors)
    }

    /// The counts since the start. Metrics past those that a report has room for are counted together.
    pub fn totals(&self) -> TotalsReport {
        let fleet = &self.streams.fleet;
        let reported = fleet.reported(&self.streams.arena);
        let all: u64 = fleet.iter().map(|stream| stream.anomalies).sum();
        let listed: u64 = reported.iter().map(|stream| stream.anomalies).sum();
        TotalsReport {
            samples: self.samples,
            anomalies: reported.iter().map(|f| (f.name.clone(), f.anomalies)).collect(),
            other_metrics: fleet.len() - reported.len(),
            other_anomalies: all - listed,
            unnamed_values: self.unnamed_values,
            devices: self.streams.devices(),
            streams: self.streams.device_streams(),
        }
    }

    /// Queues a scan of all devices, which [`Analytics::advance`] advances.
    pub fn scan_devices(&mut self, query: DevicesQuery, reply: Sender<Vec<DeviceReport>>) {
        self.scans.push_back(DeviceScan::new(query, reply));
    }

    /// Advances what is done in steps: the first scan, and giving back streams of evicted metrics. False when
    /// there is nothing to do.
    pub fn advance(&mut self) -> bool {
        let has_freed = self.streams.free_stale();
        let Some(scan) = self.scans.front_mut() else {
            return has_freed;
        };
        if scan.advance(&self.streams) {
            let scan = self.scans.pop_front().expect("it was at the front");
            scan.reply(&self.streams);
        }
        true
    }
}

/// Whether the store must have had all samples of this replica, because it has samples much newer than the last
/// of them. Those that it lacks are lost, not on their way.
fn was_sent(own_seen_s: u32, shared: &SharedWindows) -> bool {
    LastSample::seconds(shared.last_seen_us).saturating_sub(own_seen_s) > LOST_AFTER_S
}

fn last_timestamp(last: &LastSample, own: u64, others: JudgedCounts, scope: Scope) -> Option<i64> {
    match scope {
        Scope::Cluster => (own > 0 || others.total > 0).then_some(last.timestamp_us),
        Scope::Local => (own > 0).then_some(last.own_timestamp_us),
    }
}

#[cfg(test)]
mod replica_tests;
#[cfg(test)]
mod tests;
