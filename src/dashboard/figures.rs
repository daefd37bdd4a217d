//! The figures of `/events`, as JSON: rates, latencies, the fleet's windows, rows of devices.

use std::sync::Arc;

use serde::Serialize;
use serde::ser::Serializer;

use crate::analytics::report::{MetricReport, WatchedStreams, WindowsReport};
use sigmad_counters::Counts;

/// Series of the fleet in an event for which none are chosen: the charts of four fit a screen.
const METRICS_SHOWN_MAX: usize = 4;
/// Values of a sparkline.
const SPARK_VALUES_MAX: usize = 50;

/// Rates per second over the last second; latencies over the last ten seconds.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadFigures {
    /// POSTs.
    pub requests: f64,
    /// Samples accepted.
    pub accepted: f64,
    /// Samples refused because they were invalid, or because `--max-streams` were in use.
    pub rejected: f64,
    /// Valid samples refused because a queue was full.
    pub dropped: f64,
    /// Anomalies.
    pub anomalies: f64,
    /// From reading a POST to its response.
    pub answer: Option<LatencyQuantiles>,
    /// From sending a sample to analytics to its verdict.
    pub verdict: Option<LatencyQuantiles>,
    /// Samples in the analytics queues.
    pub queue: u64,
    /// The capacity of all analytics queues.
    pub queue_max: u64,
    /// Samples judged since the start.
    pub samples: u64,
    /// Anomalies since the start.
    pub anomalies_total: u64,
    /// Devices with windows.
    pub devices: usize,
    /// Streams with windows.
    pub streams: usize,
    /// How many of them are judged for incidents.
    pub watched: WatchedFigures,
}

/// How many streams are judged for incidents; all zero with `--incidents off`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct WatchedFigures {
    /// They have a past by which they are judged.
    pub judged: usize,
    /// They will have one.
    pub learning: usize,
    /// There is no room for them, or they have one value so far.
    pub unjudged: usize,
}

impl From<WatchedStreams> for WatchedFigures {
    fn from(streams: WatchedStreams) -> Self {
        let WatchedStreams { judged, learning, unjudged } = streams;
        Self { judged, learning, unjudged }
    }
}

/// Quantiles in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LatencyQuantiles {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The 99.9th percentile.
    pub p999: f64,
}

/// One worker; rates per second.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct WorkerFigures {
    /// Samples in the queue to analytics.
    pub queue: u64,
    /// POSTs.
    pub requests: f64,
    /// Samples accepted.
    pub accepted: f64,
    /// Connections open now.
    pub connections: u64,
}

/// One metric of the fleet.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FleetMetric {
    /// Its name.
    #[serde(skip)]
    pub name: Arc<str>,
    /// Mean of the window.
    pub mean: f64,
    /// Population standard deviation of the window.
    pub std_dev: f64,
    /// The last value.
    pub last: f64,
    /// The z-score of the last value.
    pub z_score: f64,
}

/// The metrics of the fleet as an object, by name.
pub struct FleetByName<'a>(pub &'a [FleetMetric]);

impl Serialize for FleetByName<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|metric| (&*metric.name, metric)))
    }
}

/// A row of the table of devices.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceRow {
    device: Box<str>,
    metric: Box<str>,
    last: f64,
    z_score: f64,
    /// The largest score of the last minute, of its anomalies and of one sample per second.
    peak: f64,
    is_anomaly: bool,
    anomaly_count: u64,
    last_timestamp: Option<f64>,
    spark: Vec<f64>,
}

/// Five significant digits, enough for a chart, to keep events small.
pub fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(4 - value.abs().log10().floor() as i32);
    // Beyond 1e300 and below 1e-300 there is no scale; those values are not rounded.
    if scale.is_normal() { (value * scale).round() / scale } else { value }
}

/// A value with four digits more than the range of its column has, so that a small change of a large value is seen.
pub fn digits_of(value: f64, range: f64) -> f64 {
    let digits = if range > 0.0 { 4 - range.log10().floor() as i32 } else { 9 };
    let scale = 10f64.powi(digits.abs());
    let scaled =
        if digits < 0 { (value / scale).round() * scale } else { (value * scale).round() / scale };
    if scaled.is_finite() { scaled } else { value }
}

impl LatencyQuantiles {
    /// None without durations.
    pub fn of(counts: &Counts) -> Option<Self> {
        let ms = |q| counts.quantile_ns(q).map(|ns| rounded(ns as f64 / 1e6));
        Some(Self { p50: ms(0.5)?, p99: ms(0.99)?, p999: ms(0.999)? })
    }
}

/// The metrics, `rps` and `cpu` first.
pub fn usual_first(windows: &WindowsReport) -> impl Iterator<Item = &MetricReport> {
    let order = |report: &&MetricReport| match &*report.metric {
        "rps" => 0,
        "cpu" => 1,
        _ => 2,
    };
    let mut reports: Vec<&MetricReport> = windows.metrics.iter().collect();
    reports.sort_by_key(order);
    reports.into_iter()
}

/// The metrics that have a chart.
pub fn fleet(windows: &WindowsReport) -> Vec<FleetMetric> {
    usual_first(windows).take(METRICS_SHOWN_MAX).map(FleetMetric::from).collect()
}

impl From<&MetricReport> for FleetMetric {
    fn from(report: &MetricReport) -> Self {
        Self {
            name: report.metric.clone(),
            mean: rounded(report.mean),
            std_dev: rounded(report.std_dev),
            last: rounded(last(report)),
            z_score: rounded(report.verdict.z_score),
        }
    }
}

fn last(report: &MetricReport) -> f64 {
    *report.values.last().expect("a reported window is never empty")
}

impl DeviceRow {
    /// The row of a device, with the metric of its peak score.
    pub fn new(device: &str, report: &MetricReport, windows: &WindowsReport, peak: f64) -> Self {
        let from = report.values.len().saturating_sub(SPARK_VALUES_MAX);
        Self {
            device: device.into(),
            metric: (*report.metric).into(),
            last: rounded(last(report)),
            z_score: rounded(report.verdict.z_score),
            peak: rounded(peak),
            is_anomaly: windows.metrics.iter().any(|metric| metric.verdict.is_anomaly),
            anomaly_count: windows.metrics.iter().map(|metric| metric.anomaly_count).sum(),
            last_timestamp: windows.last_timestamp_us.map(|us| (us / 1_000) as f64 / 1e3),
            spark: report.values[from..].iter().map(|value| rounded(*value)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_follow_the_range() {
        for (value, range, expected) in [
            (1e9 + 0.123_456_7, 0.5, 1_000_000_000.123_46),
            (123.456_789, 1_000.0, 123.5),
            (-7.0, 0.0, -7.0),
            (1e15, 1e15, 1e15),
            (5e-320, 1e-320, 5e-320),
        ] {
            assert_eq!(digits_of(value, range), expected);
        }
    }

    #[test]
    fn numbers_are_rounded_to_five_digits() {
        for (value, expected) in [
            (0.0, 0.0),
            (123_456.789, 123_460.0),
            (-0.000_123_456, -0.000_123_46),
            (1e15, 1e15),
            (2000.0, 2000.0),
            (5e-320, 5e-320),
        ] {
            assert_eq!(rounded(value), expected);
        }
    }
}
