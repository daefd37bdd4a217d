//! The answer of `/analyze`, as sigmad gives it, less the quantiles.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::windows::{THRESHOLD, WINDOW};

/// One window.
#[derive(Clone, Debug)]
pub struct StreamReport {
    /// Values in it.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Their population standard deviation.
    pub std_dev: f64,
    /// Of the last value.
    pub z_score: f64,
    /// Of the last value.
    pub is_anomaly: bool,
    /// Since the start.
    pub anomalies: u64,
    /// Values since the start.
    pub total: u64,
    /// The last value.
    pub last: f64,
}

/// The windows of one device, or of the fleet.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By metric.
    pub metrics: BTreeMap<String, StreamReport>,
    /// Of the last sample.
    pub last_timestamp: i64,
}

impl Report {
    /// As JSON; the top level speaks of `rps`.
    pub fn to_json(&self, device: Option<&str>) -> Value {
        let rps = self.metrics.get("rps");
        let last = |metric: &str| self.metrics.get(metric).map(|stream| stream.last);
        let metrics: serde_json::Map<String, Value> = self
            .metrics
            .iter()
            .map(|(name, stream)| {
                let figures = json!({
                    "count": stream.count, "mean": stream.mean, "stdDev": stream.std_dev,
                    "zScore": stream.z_score, "isAnomaly": stream.is_anomaly,
                    "anomalyCount": stream.anomalies, "totalCount": stream.total,
                    "last": stream.last
                });
                (name.clone(), figures)
            })
            .collect();
        json!({
            "scope": "local", "device": device, "detector": "zscore",
            "windowSize": WINDOW, "thresholdZ": THRESHOLD,
            "count": rps.map_or(0, |stream| stream.count),
            "rollingAvg": rps.map(|stream| stream.mean),
            "stdDev": rps.map(|stream| stream.std_dev),
            "zScore": rps.map(|stream| stream.z_score),
            "isAnomaly": rps.is_some_and(|stream| stream.is_anomaly),
            "anomalyCount": rps.map_or(0, |stream| stream.anomalies),
            "totalCount": rps.map_or(0, |stream| stream.total),
            "lastRps": last("rps"), "lastCpu": last("cpu"),
            "lastTimestamp": (!self.metrics.is_empty()).then_some(self.last_timestamp),
            "metrics": metrics
        })
    }
}
