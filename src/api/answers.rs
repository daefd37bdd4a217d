//! The JSON of reports. Pure: a report in, a body out.
//!
//! Always valid JSON: what is not finite has been refused by the decoder, and serde_json would write
//! it as null.

use std::sync::Arc;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::analytics::report::{
    AnomalyReport, DeviceReport, Finding, MetricReport, SampleReport, Scope, WindowsReport,
};
use sigmad_clock::Now;
use sigmad_detectors::quantile::Quantiles;
use sigmad_sample::number::Plain;

/// The description of this interface; a test in [`super::routes`] holds it against the routes.
pub const OPENAPI: &str = include_str!("openapi.json");

/// How values are judged, as answers show it.
#[derive(Clone, Copy, Debug)]
pub struct Judging {
    /// Values in a window.
    pub window: usize,
    /// What `|z|` must exceed.
    pub threshold: f64,
    /// The name of the detector that gives `isAnomaly`.
    pub detector: &'static str,
}

/// Whose windows an answer shows.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// Whose.
    pub scope: Scope,
    /// Replicas share their windows, so an answer says how far this one is in step.
    pub is_shared: bool,
}

impl Shown {
    const fn scope(self) -> &'static str {
        match self.scope {
            Scope::Cluster => "cluster",
            Scope::Local => "local",
        }
    }

    /// None where there is nobody to be in step with, null before it was told for the first time.
    fn synced_at(self, report: &WindowsReport) -> Option<Option<Seconds>> {
        self.is_shared.then(|| report.synced_at_us.map(Seconds))
    }
}

/// Microseconds, shown as seconds: with a fraction where there is one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seconds(i64);

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 % 1_000_000 == 0 {
            serializer.serialize_i64(self.0 / 1_000_000)
        } else {
            // The nearest f64: its shortest form has the microseconds until the year 2242.
            serializer.serialize_f64(self.0 as f64 / 1e6)
        }
    }
}

/// `/analyze` and `/stats` tell whole seconds: clients of the services before us read integers there.
fn whole_seconds(us: i64) -> i64 {
    us.div_euclid(1_000_000)
}

fn body(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).expect("reports hold nothing that JSON can't say")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Analyze<'a> {
    scope: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    synced_at: Option<Option<Seconds>>,
    device: Option<&'a str>,
    count: usize,
    window_size: usize,
    rolling_avg: Option<f64>,
    std_dev: Option<f64>,
    z_score: Option<f64>,
    is_anomaly: bool,
    threshold_z: f64,
    anomaly_count: u64,
    total_count: u64,
    last_rps: Option<Plain>,
    last_cpu: Option<Plain>,
    last_timestamp: Option<i64>,
    computed_at: i64,
    detector: &'static str,
    metrics: Metrics<'a>,
}

/// An object with a field for each metric.
pub(crate) struct Metrics<'a>(pub &'a [MetricReport]);

impl Serialize for Metrics<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|report| (&*report.metric, Metric::new(report))))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metric<'a> {
    count: usize,
    mean: f64,
    std_dev: f64,
    z_score: f64,
    score: f64,
    is_anomaly: bool,
    anomaly_count: u64,
    min: Plain,
    max: Plain,
    last: Plain,
    p50: f64,
    p95: f64,
    p99: f64,
    detectors: Findings<'a>,
}

/// An object with a field for each detector.
struct Findings<'a>(&'a [Finding]);

impl Serialize for Findings<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(
            |&Finding { detector, score, is_anomaly, threshold }| {
                (detector.name(), Detected { score, is_anomaly, threshold })
            },
        ))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Detected {
    score: f64,
    is_anomaly: bool,
    threshold: f64,
}

impl<'a> Metric<'a> {
    fn new(report: &'a MetricReport) -> Self {
        let quantiles = Quantiles::of(&report.values).expect("a reported window is never empty");
        Self {
            count: report.values.len(),
            mean: report.mean,
            std_dev: report.std_dev,
            z_score: report.verdict.z_score,
            score: report.verdict.score,
            is_anomaly: report.verdict.is_anomaly,
            anomaly_count: report.anomaly_count,
            min: Plain(quantiles.min),
            max: Plain(quantiles.max),
            last: last(report),
            p50: quantiles.p50,
            p95: quantiles.p95,
            p99: quantiles.p99,
            detectors: Findings(&report.findings),
        }
    }
}

fn last(report: &MetricReport) -> Plain {
    Plain(*report.values.last().expect("a reported window is never empty"))
}

fn find<'a>(report: &'a WindowsReport, metric: &str) -> Option<&'a MetricReport> {
    report.metrics.iter().find(|found| &*found.metric == metric)
}

/// `/analyze`: the top level speaks of `rps`.
pub fn analyze(
    device: Option<&str>,
    report: &WindowsReport,
    shown: Shown,
    judging: &Judging,
    now: Now,
) -> Vec<u8> {
    let rps = find(report, "rps");
    body(&Analyze {
        scope: shown.scope(),
        synced_at: shown.synced_at(report),
        device,
        count: rps.map_or(0, |rps| rps.values.len()),
        window_size: judging.window,
        rolling_avg: rps.map(|rps| rps.mean),
        std_dev: rps.map(|rps| rps.std_dev),
        z_score: rps.map(|rps| rps.verdict.z_score),
        is_anomaly: rps.is_some_and(|rps| rps.verdict.is_anomaly),
        threshold_z: judging.threshold,
        anomaly_count: rps.map_or(0, |rps| rps.anomaly_count),
        total_count: rps.map_or(0, |rps| rps.total_count),
        last_rps: rps.map(last),
        last_cpu: find(report, "cpu").map(last),
        last_timestamp: report.last_timestamp_us.map(whole_seconds),
        computed_at: now.wall_s(),
        detector: judging.detector,
        metrics: Metrics(&report.metrics),
    })
}

#[derive(Serialize)]
struct Stats {
    scope: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    synced_at: Option<Option<Seconds>>,
    count: usize,
    avg_cpu: Option<f64>,
    avg_rps: Option<f64>,
    last_rps: Option<Plain>,
    last_cpu: Option<Plain>,
    last_timestamp: Option<i64>,
    zscore_rps: Option<f64>,
    is_anomaly_rps: bool,
    zscore_cpu: Option<f64>,
    is_anomaly_cpu: bool,
    anomaly_count: u64,
    window_size_used: usize,
}

/// `/stats`: the counts are those of `rps`, of `cpu` where no `rps` was ever sent.
pub fn stats(report: &WindowsReport, shown: Shown) -> Vec<u8> {
    let (rps, cpu) = (find(report, "rps"), find(report, "cpu"));
    let counted = rps.or(cpu);
    let count = counted.map_or(0, |metric| metric.values.len());
    body(&Stats {
        scope: shown.scope(),
        synced_at: shown.synced_at(report),
        count,
        avg_cpu: cpu.map(|cpu| cpu.mean),
        avg_rps: rps.map(|rps| rps.mean),
        last_rps: rps.map(last),
        last_cpu: cpu.map(last),
        last_timestamp: report.last_timestamp_us.map(whole_seconds),
        zscore_rps: rps.map(|rps| rps.verdict.z_score),
        is_anomaly_rps: rps.is_some_and(|rps| rps.verdict.is_anomaly),
        zscore_cpu: cpu.map(|cpu| cpu.verdict.z_score),
        is_anomaly_cpu: cpu.is_some_and(|cpu| cpu.verdict.is_anomaly),
        anomaly_count: counted.map_or(0, |metric| metric.anomaly_count),
        window_size_used: count,
    })
}

#[derive(Serialize)]
struct Devices<'a> {
    devices: Vec<Device<'a>>,
    count: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Device<'a> {
    device: &'a str,
    score: f64,
    is_anomaly: bool,
    metric: &'a str,
    last: Plain,
    last_seen: Seconds,
    total_count: u64,
    anomaly_count: u64,
}

impl<'a> From<&'a DeviceReport> for Device<'a> {
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
pub fn devices(reports: &[DeviceReport]) -> Vec<u8> {
    body(&Devices { devices: reports.iter().map(Device::from).collect(), count: reports.len() })
}

#[derive(Serialize)]
struct Anomalies<'a> {
    anomalies: Vec<Anomaly<'a>>,
    count: usize,
}

/// One anomaly.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Anomaly<'a> {
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
    expected: Range,
    start: Seconds,
    end: Option<Seconds>,
    is_open: bool,
    flags: u64,
}

/// Where a value was to be expected.
#[derive(Serialize)]
struct Range {
    low: f64,
    high: f64,
}

impl<'a> From<&'a AnomalyReport> for Anomaly<'a> {
    fn from(report: &'a AnomalyReport) -> Self {
        Self {
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
            expected: Range { low: report.mean - report.reach, high: report.mean + report.reach },
            start: Seconds(report.start_us),
            end: report.end_us.map(Seconds),
            is_open: report.end_us.is_none(),
            flags: report.flags,
        }
    }
}

/// `/anomalies`
pub fn anomalies(reports: &[AnomalyReport]) -> Vec<u8> {
    body(&Anomalies {
        anomalies: reports.iter().map(Anomaly::from).collect(),
        count: reports.len(),
    })
}

#[derive(Serialize)]
struct Latest<'a> {
    samples: Vec<Sample<'a>>,
    count: usize,
}

/// A sample as it was sent, with the time of its arrival.
pub(crate) struct Sample<'a>(pub &'a SampleReport);

/// Taken by the time of arrival: a metric of that name is left out of `/latest`.
const ARRIVED_AT: &str = "arrivedAt";

impl Serialize for Sample<'_> {
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
pub fn latest(reports: &[SampleReport]) -> Vec<u8> {
    body(&Latest { samples: reports.iter().map(Sample).collect(), count: reports.len() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use sigmad_detectors::Kind;
    use sigmad_sample::Verdict;

    const JUDGING: Judging = Judging { window: 50, threshold: 2.0, detector: "zscore" };
    const NOW: Now = Now { monotonic_ns: 5, wall_us: 1_766_925_730_250_000 };

    const ALONE: Shown = Shown { scope: Scope::Local, is_shared: false };

    fn metric(name: &str, values: &[f64]) -> MetricReport {
        MetricReport {
            metric: name.into(),
            values: values.to_vec(),
            mean: 120.3,
            std_dev: 1.76,
            verdict: Verdict { score: 0.18, z_score: -0.18, is_anomaly: false, is_far: false },
            findings: vec![Finding {
                detector: Kind::Pager,
                score: 0.25,
                is_anomaly: false,
                threshold: 1.0,
            }],
            total_count: 9,
            anomaly_count: 2,
        }
    }

    fn parse(body: &[u8]) -> Value {
        serde_json::from_slice(body).expect("JSON")
    }

    #[test]
    fn analyze_is_as_in_the_contract() {
        let report = WindowsReport {
            metrics: vec![metric("cpu", &[50.0, 12.0]), metric("rps", &[119.5, 120.0])],
            last_timestamp_us: Some(1_766_925_730_000_000),
            synced_at_us: None,
        };
        let body = analyze(Some("edge-17"), &report, ALONE, &JUDGING, NOW);
        let text = String::from_utf8(body).expect("UTF-8");
        let top = r#"{"scope":"local","device":"edge-17","count":2,"windowSize":50,"rollingAvg":120.3,"stdDev":1.76,"zScore":-0.18,"isAnomaly":false,"thresholdZ":2.0,"anomalyCount":2,"totalCount":9,"lastRps":120,"lastCpu":12,"lastTimestamp":1766925730,"computedAt":1766925730,"detector":"zscore","metrics":{"#;
        assert!(text.starts_with(top), "{text}");
        let rps = r#""rps":{"count":2,"mean":120.3,"stdDev":1.76,"zScore":-0.18,"score":0.18,"isAnomaly":false,"anomalyCount":2,"min":119.5,"max":120,"last":120,"p50":119.75,"p95":"#;
        assert!(text.contains(rps), "{text}");
        let detectors =
            r#""detectors":{"pager":{"score":0.25,"isAnomaly":false,"threshold":1.0}}}"#;
        assert!(text.contains(detectors), "{text}");
    }

    #[test]
    fn without_samples_there_are_nulls() {
        let answer = parse(&analyze(None, &WindowsReport::default(), ALONE, &JUDGING, NOW));
        assert_eq!(
            answer,
            json!({
                "scope": "local", "device": null, "count": 0, "windowSize": 50, "rollingAvg": null,
                "stdDev": null, "zScore": null, "isAnomaly": false, "thresholdZ": 2.0,
                "anomalyCount": 0, "totalCount": 0, "lastRps": null, "lastCpu": null,
                "lastTimestamp": null, "computedAt": 1766925730, "detector": "zscore",
                "metrics": {}
            })
        );
        let answer = parse(&stats(&WindowsReport::default(), ALONE));
        assert_eq!((&answer["count"], &answer["avg_rps"]), (&json!(0), &Value::Null));
    }

    #[test]
    fn replicas_that_share_say_whose_windows_and_since_when() {
        let mut report = WindowsReport::default();
        for (scope, name) in [(Scope::Cluster, "cluster"), (Scope::Local, "local")] {
            let shown = Shown { scope, is_shared: true };
            for (synced_at_us, text) in [(None, "null"), (Some(1_500_000), "1.5")] {
                report.synced_at_us = synced_at_us;
                let body = analyze(None, &report, shown, &JUDGING, NOW);
                let text = format!(r#"{{"scope":"{name}","syncedAt":{text},"device":null,"#);
                assert!(body.starts_with(text.as_bytes()), "{text}");
                let text =
                    text.replace("syncedAt", "synced_at").replace("device\":null", "count\":0");
                assert!(stats(&report, shown).starts_with(text.as_bytes()), "{text}");
            }
        }
    }

    #[test]
    fn stats_count_cpu_where_there_is_no_rps() {
        let cpu = metric("cpu", &[50.0, 12.0, 13.0]);
        let mut report =
            WindowsReport { metrics: vec![cpu], last_timestamp_us: Some(1), synced_at_us: None };
        let answer = parse(&stats(&report, ALONE));
        assert_eq!((&answer["count"], &answer["window_size_used"]), (&json!(3), &json!(3)));
        assert_eq!((&answer["avg_rps"], &answer["avg_cpu"]), (&Value::Null, &json!(120.3)));
        report.metrics.push(metric("rps", &[1.0]));
        assert_eq!(parse(&stats(&report, ALONE))["count"], 1);
        let order = [
            "scope",
            "count",
            "avg_cpu",
            "avg_rps",
            "last_rps",
            "last_cpu",
            "last_timestamp",
            "zscore_rps",
            "is_anomaly_rps",
            "zscore_cpu",
            "is_anomaly_cpu",
            "anomaly_count",
            "window_size_used",
        ];
        let text = String::from_utf8(stats(&report, ALONE)).expect("UTF-8");
        let places = order.map(|name| text.find(&format!("\"{name}\":")).expect(name));
        assert!(places.is_sorted());
    }

    #[test]
    fn extreme_numbers_stay_numbers() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (-40.5, "-40.5"),
            (1e15, "1000000000000000"),
            (-1e15, "-1000000000000000"),
            (1e-300, "1e-300"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::NAN, "null"),
            (f64::INFINITY, "null"),
        ] {
            assert_eq!(serde_json::to_string(&Plain(value)).expect("JSON"), text);
            let report = WindowsReport {
                metrics: vec![MetricReport { mean: value, ..metric("rps", &[value; 3]) }],
                last_timestamp_us: Some(i64::MAX),
                synced_at_us: None,
            };
            parse(&analyze(None, &report, ALONE, &JUDGING, NOW));
            parse(&stats(&report, ALONE));
        }
        for (us, text) in [
            (1_735_100_000_000_000, "1735100000"),
            (1_735_100_000_000_001, "1735100000.000001"),
            (-1_500_000, "-1.5"),
            (0, "0"),
        ] {
            assert_eq!(serde_json::to_string(&Seconds(us)).expect("JSON"), text);
        }
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
        let answer = parse(&latest(&[sample, unnamed]));
        assert_eq!(answer["count"], 2);
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
        assert_eq!(parse(&devices(&[device])), json!({"devices": [row], "count": 1}));
        let anomaly = AnomalyReport {
            serial: 7,
            device: None,
            metric: name.clone(),
            value: 500.0,
            mean: 10.0,
            std_dev: 1.0,
            reach: 2.0,
            verdict: Verdict { score: 490.0, z_score: 490.0, is_anomaly: true, is_far: true },
            timestamp_us: 1_000_000,
            arrived_us: 1_000_000,
            detector: Kind::Zscore,
            start_us: 500_000,
            end_us: None,
            flags: 3,
            changed_us: 2_000_000,
            change: 9,
        };
        let row = json!({"serial": 7, "device": null, "metric": &*name, "value": 500, "mean": 10.0,
            "stdDev": 1.0, "zScore": 490.0, "score": 490.0, "timestamp": 1, "arrivedAt": 1,
            "detector": "zscore", "expected": {"low": 8.0, "high": 12.0}, "start": 0.5, "end": null,
            "isOpen": true, "flags": 3});
        assert_eq!(parse(&anomalies(&[anomaly])), json!({"anomalies": [row], "count": 1}));
    }
}
