//! Windows by name: the baseline's, or the same with sums that are kept.

use std::collections::HashMap;

use baseline::metrics::Metrics;
use baseline::report::{Report, StreamReport};
use baseline::sample::Sample;
use baseline::windows::{Judged, MIN_SAMPLES, THRESHOLD, WINDOW};
use sigmad_detectors::window::Window;
use sigmad_detectors::zscore::ZScore;
use sigmad_sample::Verdict;

use crate::rungs::Statistics;

/// Judges as sigmad does.
pub const DETECTOR: ZScore = ZScore { threshold: THRESHOLD, min_samples: MIN_SAMPLES as u32 };

/// Every window.
pub enum Windows {
    /// The baseline's.
    Recomputed(baseline::windows::Windows),
    /// With sums that are kept.
    Running(RunningWindows),
}

impl Windows {
    /// Without samples.
    pub fn new(statistics: Statistics) -> Self {
        match statistics {
            Statistics::Recomputed => Self::Recomputed(baseline::windows::Windows::default()),
            Statistics::Running => Self::Running(RunningWindows::default()),
        }
    }

    /// Judges a sample's values; each then enters its windows. What was judged is told to `metrics`.
    pub fn observe(&mut self, sample: &Sample, metrics: Option<&Metrics>) {
        match (self, metrics) {
            (Self::Recomputed(windows), metrics) => {
                let judged = windows.observe(sample);
                if let Some(metrics) = metrics {
                    metrics.judged(&judged);
                }
            }
            (Self::Running(windows), Some(metrics)) => metrics.judged(&windows.observe(sample)),
            (Self::Running(windows), None) => windows.enter(sample),
        }
    }

    /// The windows of one device, or of the fleet.
    pub fn report(&self, device: Option<&str>) -> Report {
        match self {
            Self::Recomputed(windows) => windows.report(device),
            Self::Running(windows) => windows.report(device),
        }
    }
}

struct Stream {
    window: Window,
    ring: Box<[f64; WINDOW]>,
    verdict: Verdict,
    total: u64,
    anomalies: u64,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            window: Window::default(),
            ring: Box::new([0.0; WINDOW]),
            verdict: Verdict::default(),
            total: 0,
            anomalies: 0,
        }
    }
}

impl Stream {
    fn enter(&mut self, value: f64) {
        self.verdict = DETECTOR.judge(&self.window.moments(), value);
        self.window.push(&mut self.ring[..], value);
        self.total += 1;
        self.anomalies += u64::from(self.verdict.is_anomaly);
    }

    fn report(&self) -> StreamReport {
        let moments = self.window.moments();
        StreamReport {
            count: self.window.count(),
            mean: moments.mean,
            std_dev: moments.std_dev(),
            z_score: self.verdict.z_score,
            is_anomaly: self.verdict.is_anomaly,
            anomalies: self.anomalies,
            total: self.total,
            last: self.window.last(&self.ring[..]).unwrap_or_default(),
        }
    }
}

#[derive(Default)]
struct Streams {
    by_metric: HashMap<&'static str, Stream>,
    last_timestamp: i64,
}

impl Streams {
    fn enter(&mut self, sample: &Sample) {
        for (metric, value) in sample.readings() {
            self.by_metric.entry(metric).or_default().enter(value);
        }
        self.last_timestamp = sample.timestamp;
    }
}

/// The baseline's windows, with sums that are kept.
#[derive(Default)]
pub struct RunningWindows {
    fleet: Streams,
    devices: HashMap<String, Streams>,
}

impl RunningWindows {
    fn enter(&mut self, sample: &Sample) {
        self.fleet.enter(sample);
        if let Some(device) = &sample.device {
            self.devices.entry(device.clone()).or_default().enter(sample);
        }
    }

    fn observe(&mut self, sample: &Sample) -> Vec<Judged> {
        self.enter(sample);
        let device = sample.device.as_ref().map(|device| &self.devices[device]);
        let readings = sample.readings().map(|(metric, _)| {
            let fleet = &self.fleet.by_metric[metric];
            let of_device = device.map_or(fleet, |streams| &streams.by_metric[metric]);
            Judged {
                metric,
                mean: fleet.window.moments().mean,
                z_score: fleet.verdict.z_score,
                is_anomaly: of_device.verdict.is_anomaly,
            }
        });
        readings.collect()
    }

    fn report(&self, device: Option<&str>) -> Report {
        let streams = match device {
            None => Some(&self.fleet),
            Some(device) => self.devices.get(device),
        };
        streams.map_or_else(Report::default, |streams| Report {
            last_timestamp: streams.last_timestamp,
            metrics: streams.by_metric.iter().map(|(&m, s)| (m.to_owned(), s.report())).collect(),
        })
    }
}
