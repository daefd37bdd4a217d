//! The windows: the last values of each metric, of each device and of the fleet, and what they say of
//! the next value, computed afresh from all of them.

use std::collections::{HashMap, VecDeque};

use crate::report::{Report, StreamReport};
use crate::sample::Sample;

/// Values in a window.
pub const WINDOW: usize = 50;
/// An anomaly lies more than so many standard deviations from the mean.
pub const THRESHOLD: f64 = 2.0;
/// Values that a window must hold before anything is an anomaly.
pub const MIN_SAMPLES: usize = 10;
/// What stands for an infinite score.
pub const Z_MAX: f64 = 1e6;

/// What was judged of one value by the fleet's window.
#[derive(Clone, Copy, Debug)]
pub struct Judged {
    /// The metric.
    pub metric: &'static str,
    /// Mean of the fleet's window with the value in it.
    pub mean: f64,
    /// Its score.
    pub z_score: f64,
    /// True when it was an anomaly, by its device's window or, without a device, by the fleet's.
    pub is_anomaly: bool,
}

#[derive(Debug, Default)]
struct Stream {
    values: VecDeque<f64>,
    total: u64,
    anomalies: u64,
    z_score: f64,
    is_anomaly: bool,
}

impl Stream {
    /// Mean and population standard deviation.
    fn moments(&self) -> (f64, f64) {
        if self.values.is_empty() {
            return (0.0, 0.0);
        }
        let count = self.values.len() as f64;
        let mean = self.values.iter().sum::<f64>() / count;
        let squares = self.values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>();
        (mean, (squares / count).sqrt())
    }

    /// Judges a value by the window, then lets it in.
    fn observe(&mut self, value: f64) {
        let (mean, std_dev) = self.moments();
        let enough = self.values.len() >= MIN_SAMPLES;
        (self.z_score, self.is_anomaly) = if std_dev > 0.0 {
            let z = (value - mean) / std_dev;
            (z, enough && z.abs() > THRESHOLD)
        } else if self.values.is_empty() || value == mean {
            (0.0, false)
        } else {
            (Z_MAX.copysign(value - mean), enough)
        };
        if self.values.len() == WINDOW {
            self.values.pop_front();
        }
        self.values.push_back(value);
        self.total += 1;
        self.anomalies += u64::from(self.is_anomaly);
    }

    fn report(&self) -> StreamReport {
        let (mean, std_dev) = self.moments();
        StreamReport {
            count: self.values.len(),
            mean,
            std_dev,
            z_score: self.z_score,
            is_anomaly: self.is_anomaly,
            anomalies: self.anomalies,
            total: self.total,
            last: self.values.back().copied().unwrap_or_default(),
        }
    }
}

#[derive(Debug, Default)]
struct Streams {
    by_metric: HashMap<&'static str, Stream>,
    last_timestamp: i64,
}

impl Streams {
    fn observe(&mut self, sample: &Sample) {
        for (metric, value) in sample.readings() {
            self.by_metric.entry(metric).or_default().observe(value);
        }
        self.last_timestamp = sample.timestamp;
    }
}

/// Every window.
#[derive(Debug, Default)]
pub struct Windows {
    fleet: Streams,
    devices: HashMap<String, Streams>,
}

impl Windows {
    /// Judges a sample's values, each by the windows that it then enters.
    pub fn observe(&mut self, sample: &Sample) -> Vec<Judged> {
        self.fleet.observe(sample);
        let device = sample.device.as_ref().map(|device| {
            let streams = self.devices.entry(device.clone()).or_default();
            streams.observe(sample);
            &*streams
        });
        let readings = sample.readings().map(|(metric, _)| {
            let fleet = &self.fleet.by_metric[metric];
            let of_device = device.map_or(fleet, |streams| &streams.by_metric[metric]);
            let is_anomaly = of_device.is_anomaly;
            Judged { metric, mean: fleet.moments().0, z_score: fleet.z_score, is_anomaly }
        });
        readings.collect()
    }

    /// The windows of one device, or of the fleet.
    pub fn report(&self, device: Option<&str>) -> Report {
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
