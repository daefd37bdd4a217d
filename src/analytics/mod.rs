//! Samples to verdicts.
//!
//! [`Analytics`] is pure: it does no I/O, reads no clock and takes no lock. One thread drives it
//! ([`thread`]), so nothing in it is shared; readers get copies ([`report`]).
//!
//! Every sample enters the fleet's window of each of its metrics and, with a device, that device's. A
//! sample allocates nothing unless it opens a stream.

pub mod anomalies;
pub mod arena;
pub mod detectors;
pub mod names;
pub mod quantile;
pub mod report;
mod scan;
mod streams;
pub mod thread;
pub mod window;

use std::collections::VecDeque;
use std::sync::Arc;

use anomalies::{Anomalies, Anomaly};
use arena::{Stream, StreamPlace};
use crossbeam_channel::Sender;
use detectors::zscore::ZScore;
use names::Names;
use report::{
    AnomalyReport, DeviceReport, DevicesQuery, MetricReport, RecentQuery, TotalsReport,
    WindowsReport,
};
use scan::Scan;
use streams::Streams;
use window::Moments;

use crate::sample::{Batch, DeviceId, MetricId, Reading, Sample, Verdict};

/// How to judge.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Values in a window, 1 to [`window::WINDOW_MAX`].
    pub window: usize,
    /// The detector.
    pub detector: ZScore,
}

impl Default for Settings {
    fn default() -> Self {
        Self { window: 50, detector: ZScore { threshold: 2.0, min_samples: 10 } }
    }
}

/// Every window, and what was found in them.
#[derive(Debug)]
pub struct Analytics {
    detector: ZScore,
    streams: Streams,
    anomalies: Anomalies,
    samples: u64,
    last_timestamp_us: Option<i64>,
    scans: VecDeque<Scan>,
}

impl Analytics {
    /// Without samples so far.
    pub fn new(settings: Settings, names: Names) -> Self {
        Self {
            detector: settings.detector,
            streams: Streams::new(settings.window, names),
            anomalies: Anomalies::default(),
            samples: 0,
            last_timestamp_us: None,
            scans: VecDeque::new(),
        }
    }

    /// Judges the samples, in order, each by the windows before it.
    pub fn judge(&mut self, batch: &Batch, arrived_us: i64) {
        for (sample, readings) in batch.iter() {
            self.judge_for_fleet(&sample, readings, arrived_us);
            if let Some(id) = sample.device {
                self.judge_for_device(id, &sample, readings, arrived_us);
            }
            self.last_timestamp_us = Some(sample.timestamp_us);
        }
        self.samples += batch.len() as u64;
    }

    #[inline]
    fn judge_for_fleet(&mut self, sample: &Sample, readings: &[Reading], arrived_us: i64) {
        for &Reading { metric, value } in readings {
            let (stream, ring) = self.streams.fleet_mut(metric);
            let (before, verdict) = enter(&self.detector, stream, ring, value);
            if verdict.is_anomaly && sample.device.is_none() {
                let timestamp_us = sample.timestamp_us;
                let device = None;
                self.anomalies.push(Anomaly {
                    device,
                    metric,
                    value,
                    before,
                    verdict,
                    timestamp_us,
                    arrived_us,
                });
            }
        }
    }

    #[inline]
    fn judge_for_device(
        &mut self,
        id: DeviceId,
        sample: &Sample,
        readings: &[Reading],
        arrived_us: i64,
    ) {
        let Some((device, arena)) = self.streams.device_mut(id) else {
            return;
        };
        for (at, &Reading { metric, value }) in readings.iter().enumerate() {
            let place = device.stream(metric, at, arena);
            let (stream, ring) = arena.get_mut(place.place);
            let (before, verdict) = enter(&self.detector, stream, ring, value);
            place.score = verdict.score;
            place.is_anomaly = verdict.is_anomaly;
            if verdict.is_anomaly {
                device.anomaly_count += 1;
                self.anomalies.push(Anomaly {
                    device: device.name.clone().map(|name| (id, name)),
                    metric,
                    value,
                    before,
                    verdict,
                    timestamp_us: sample.timestamp_us,
                    arrived_us,
                });
            }
        }
        device.total_count += 1;
        device.last_seen_us = arrived_us;
        device.last_timestamp_us = sample.timestamp_us;
    }

    /// The name of a device that has windows. None once another has its place.
    pub fn device_name(&self, id: DeviceId) -> Option<&Arc<str>> {
        self.streams.device(id)?.name.as_ref()
    }

    /// The name of a metric.
    pub fn metric_name(&self, id: MetricId) -> Arc<str> {
        self.streams.metric_name(id)
    }

    /// The windows of one device, or of the fleet. Empty for a device without.
    pub fn windows(&self, device: Option<DeviceId>) -> WindowsReport {
        let Some(id) = device else {
            let fleet = self.streams.fleet();
            return WindowsReport {
                metrics: fleet.map(|f| self.metric_report(f.metric, f.place)).collect(),
                last_timestamp_us: self.last_timestamp_us,
            };
        };
        let Some(device) = self.streams.device(id) else {
            return WindowsReport::default();
        };
        let mut streams = device.streams.clone();
        streams.sort_unstable_by_key(|stream| stream.metric);
        WindowsReport {
            metrics: streams.iter().map(|s| self.metric_report(s.metric, s.place)).collect(),
            last_timestamp_us: Some(device.last_timestamp_us),
        }
    }

    fn metric_report(&self, metric: MetricId, place: StreamPlace) -> MetricReport {
        let (stream, ring) = self.streams.arena.get(place);
        let moments = stream.window.moments();
        let mut values = Vec::with_capacity(stream.window.count());
        values.extend(stream.window.values(ring));
        MetricReport {
            metric: self.metric_name(metric),
            values,
            mean: moments.mean,
            std_dev: moments.std_dev(),
            verdict: stream.verdict,
            total_count: stream.total_count,
            anomaly_count: stream.anomaly_count,
        }
    }

    /// The latest anomalies, newest first.
    pub fn anomalies(&self, query: &RecentQuery) -> Vec<AnomalyReport> {
        self.anomalies.latest(query, |metric| self.metric_name(metric))
    }

    /// What was counted since the start.
    pub fn totals(&self) -> TotalsReport {
        let fleet = self.streams.fleet();
        TotalsReport {
            samples: self.samples,
            anomalies: fleet.map(|f| (f.name.clone(), self.anomalies.count(f.metric))).collect(),
            devices: self.streams.devices(),
            streams: self.streams.device_streams(),
        }
    }

    /// Queues a look at all devices, which [`Analytics::advance_scans`] takes step by step.
    pub fn scan_devices(&mut self, query: DevicesQuery, reply: Sender<Vec<DeviceReport>>) {
        self.scans.push_back(Scan::new(query, reply));
    }

    /// Takes the first scan one step further and replies at its end. False when none was queued.
    pub fn advance_scans(&mut self) -> bool {
        let Some(scan) = self.scans.front_mut() else {
            return false;
        };
        if scan.advance(&self.streams) {
            let scan = self.scans.pop_front().expect("it was at the front");
            scan.reply(&self.streams);
        }
        true
    }
}

/// Judges a value by the window before it, and lets it enter.
#[inline]
fn enter(
    detector: &ZScore,
    stream: &mut Stream,
    ring: &mut [f64],
    value: f64,
) -> (Moments, Verdict) {
    let before = stream.window.moments();
    let verdict = detector.judge(&before, value);
    stream.window.push(ring, value);
    stream.verdict = verdict;
    stream.total_count += 1;
    stream.anomaly_count += u64::from(verdict.is_anomaly);
    (before, verdict)
}
