//! `/devices`, `/anomalies` and `/latest`: lists of rows.

use std::sync::Arc;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::json::{Seconds, body};
use crate::analytics::report::{DeviceReport, DevicesSort, SampleReport};
use crate::cluster_scope::ClusterScope;
use crate::lists::{List, ListedAnomaly};
use sigmad_sample::number::Plain;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DevicesJson<'a> {
    scope: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    degraded_since: Option<Seconds>,
    devices: Vec<DeviceJson<'a>>,
    count: usize,
    /// The next page; only with an order that does not change.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeviceJson<'a> {
    device: &'a str,
    score: f64,
    is_anomaly: bool,
    metric: &'a str,
    last: Plain,
    last_seen: Seconds,
    total_count: u64,
    anomaly_count: u64,
}

impl<'a> From<&'a DeviceReport> for DeviceJson<'a> {
    fn from(report: &'a DeviceReport) -> Self {
        Self {
            device: &report.device,
            score: report.score,
            is_anomaly: report.is_anomaly,
            metric: &report.metric,
            last: Plain(report.last),
            last_seen: Seconds(report.last_seen_us),
            total_count: report.total_count,
            anomaly_count: report.anomaly_count,
        }
    }
}

/// `/devices`
pub fn devices(reports: &[DeviceReport], sort: DevicesSort, scope: ClusterScope) -> Vec<u8> {
    // A page that is not full may have devices after it: one that is evicted meanwhile leaves a gap.
    let last = reports.last().filter(|_| sort == DevicesSort::Device);
    body(&DevicesJson {
        scope: scope.name(),
        degraded_since: scope.degraded_since_us.map(Seconds),
        devices: reports.iter().map(DeviceJson::from).collect(),
        count: reports.len(),
        next: last.map(|last| &*last.device),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AnomaliesJson<'a> {
    scope: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    degraded_since: Option<Seconds>,
    anomalies: Vec<AnomalyJson<'a>>,
    count: usize,
}

/// One anomaly.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AnomalyJson<'a> {
    /// Whose serial it is, where there are several replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    replica: Option<String>,
    serial: u64,
    device: Option<&'a str>,
    metric: &'a str,
    value: Plain,
    mean: f64,
    std_dev: f64,
    z_score: f64,
    score: f64,
    timestamp: Seconds,
    arrived_at: Seconds,
    detector: &'static str,
    expected: ExpectedRangeJson,
    start: Seconds,
    end: Option<Seconds>,
    is_open: bool,
    flags: u64,
}

/// The range in which the value would have been normal.
#[derive(Serialize)]
struct ExpectedRangeJson {
    low: f64,
    high: f64,
}

impl<'a> From<&'a ListedAnomaly> for AnomalyJson<'a> {
    fn from(listed: &'a ListedAnomaly) -> Self {
        let ListedAnomaly { replica, report } = listed;
        Self {
            replica: replica.map(|replica| format!("{replica:08x}")),
            serial: report.serial,
            device: report.device.as_deref(),
            metric: &report.metric,
            value: Plain(report.value),
            mean: report.mean,
            std_dev: report.std_dev,
            z_score: report.verdict.z_score,
            score: report.verdict.score,
            timestamp: Seconds(report.timestamp_us),
            arrived_at: Seconds(report.arrived_us),
            detector: report.detector.name(),
            expected: ExpectedRangeJson {
                low: report.mean - report.reach,
                high: report.mean + report.reach,
            },
            start: Seconds(report.start_us),
            end: report.end_us.map(Seconds),
            is_open: report.end_us.is_none(),
            flags: report.flags,
        }
    }
}

/// `/anomalies`
pub fn anomalies(list: &List<ListedAnomaly>) -> Vec<u8> {
    body(&AnomaliesJson {
        scope: list.scope.name(),
        degraded_since: list.scope.degraded_since_us.map(Seconds),
        anomalies: list.rows.iter().map(AnomalyJson::from).collect(),
        count: list.rows.len(),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LatestJson<'a> {
    scope: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    degraded_since: Option<Seconds>,
    samples: Vec<SampleJson<'a>>,
    count: usize,
}

/// A sample as it was sent, with the time of its arrival.
pub(crate) struct SampleJson<'a>(pub &'a SampleReport);

/// The field of the arrival time: a metric of that name is left out.
const ARRIVED_AT: &str = "arrivedAt";

impl Serialize for SampleJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", &Seconds(self.0.timestamp_us))?;
        if let Some(device) = &self.0.device {
            map.serialize_entry("device", &**device)?;
        }
        map.serialize_entry(ARRIVED_AT, &Seconds(self.0.arrived_us))?;
        let is_shown = |name: &Arc<str>| &**name != ARRIVED_AT;
        for (name, value) in self.0.readings.iter().filter(|(name, _)| is_shown(name)) {
            map.serialize_entry(&**name, &Plain(*value))?;
        }
        map.end()
    }
}

/// `/latest`
pub fn latest(list: &List<SampleReport>) -> Vec<u8> {
    body(&LatestJson {
        scope: list.scope.name(),
        degraded_since: list.scope.degraded_since_us.map(Seconds),
        samples: list.rows.iter().map(SampleJson).collect(),
        count: list.rows.len(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::analytics::report::AnomalyReport;
    use sigmad_detectors::DetectorKind;
    use sigmad_sample::Verdict;

    fn parse(body: &[u8]) -> Value {
        serde_json::from_slice(body).expect("JSON")
    }

    #[test]
    fn hostile_names_stay_inside_their_strings() {
        let name: Arc<str> = "a\"},{\\\u{2028}</script>é☃".into();
        let sample = SampleReport {
            device: Some(name.clone()),
            timestamp_us: 1_500_000,
            arrived_us: 2_000_000,
            readings: vec![(name.clone(), -1.0), ("arrivedAt".into(), 7.0), ("rps".into(), 99.5)],
        };
        let unnamed = SampleReport { device: None, ..sample.clone() };
        let scope = ClusterScope { is_cluster: false, degraded_since_us: Some(2_500_000) };
        let answer = parse(&latest(&List { scope, rows: vec![sample, unnamed] }));
        assert_eq!(
            (&answer["count"], &answer["scope"], &answer["degradedSince"]),
            (&json!(2), &json!("local"), &json!(2.5))
        );
        let row =
            json!({"timestamp": 1.5, "device": &*name, "arrivedAt": 2, &*name: -1, "rps": 99.5});
        assert_eq!(answer["samples"][0], row);
        assert_eq!(answer["samples"][1].get("device"), None);
        let device = DeviceReport {
            device: name.clone(),
            score: 1e6,
            is_anomaly: true,
            metric: name.clone(),
            last: 0.5,
            last_seen_us: 1_000_000,
            total_count: 3,
            anomaly_count: 1,
        };
        let row = json!({"device": &*name, "score": 1e6, "isAnomaly": true, "metric": &*name,
            "last": 0.5, "lastSeen": 1, "totalCount": 3, "anomalyCount": 1});
        let scope = ClusterScope { is_cluster: true, degraded_since_us: None };
        let rows = std::slice::from_ref(&device);
        let answer = parse(&devices(rows, DevicesSort::Score, scope));
        assert_eq!(answer, json!({"scope": "cluster", "devices": [row], "count": 1}));
        let answer = parse(&devices(rows, DevicesSort::Device, ClusterScope::LOCAL));
        let page = json!({"scope": "local", "devices": [row], "count": 1, "next": &*name});
        assert_eq!(answer, page);
        let answer = parse(&devices(&[], DevicesSort::Device, ClusterScope::LOCAL));
        assert_eq!(answer, json!({"scope": "local", "devices": [], "count": 0}));
        let anomaly = AnomalyReport {
            serial: 7,
            device: None,
            metric: name.clone(),
            value: 500.0,
            mean: 10.0,
            std_dev: 1.0,
            reach: 2.0,
            verdict: Verdict {
                score: 490.0,
                z_score: 490.0,
                is_anomaly: true,
                is_zscore_anomaly: true,
            },
            timestamp_us: 1_000_000,
            arrived_us: 1_000_000,
            detector: DetectorKind::Zscore,
            start_us: 500_000,
            began_us: 500_000,
            end_us: None,
            flags: 3,
            changed_us: 2_000_000,
            change: 9,
        };
        let row = json!({"serial": 7, "device": null, "metric": &*name, "value": 500, "mean": 10.0,
            "stdDev": 1.0, "zScore": 490.0, "score": 490.0, "timestamp": 1, "arrivedAt": 1,
            "detector": "zscore", "expected": {"low": 8.0, "high": 12.0}, "start": 0.5, "end": null,
            "isOpen": true, "flags": 3});
        let scope = ClusterScope::LOCAL;
        let mut listed = ListedAnomaly { replica: None, report: anomaly };
        let answer = parse(&anomalies(&List { scope, rows: vec![listed.clone()] }));
        assert_eq!(answer, json!({"scope": "local", "anomalies": [row], "count": 1}));
        listed.replica = Some(0xbee);
        let answer = parse(&anomalies(&List { scope, rows: vec![listed] }));
        assert_eq!(answer["anomalies"][0]["replica"], "00000bee");
    }
}
