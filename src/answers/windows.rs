//! `/analyze` and `/stats`: the windows of the fleet or of one device.

use serde::Serialize;
use serde::ser::Serializer;

use super::json::{Seconds, body};
use crate::analytics::report::{MetricReport, Scope, WindowsReport};
use sigmad_clock::Now;
use sigmad_detectors::Finding;
use sigmad_detectors::quantile::WindowQuantiles;
use sigmad_sample::number::Plain;

/// The detection settings that `/analyze` shows.
#[derive(Clone, Copy, Debug)]
pub struct DetectionSettings {
    /// Values in a window.
    pub window: usize,
    /// An anomaly of `zscore` has a `|z|` above it.
    pub threshold: f64,
    /// Name of the detector that decides `isAnomaly`.
    pub detector: &'static str,
}

/// The scope of an answer, and whether it shows `syncedAt`.
#[derive(Clone, Copy, Debug)]
pub struct AnswerScope {
    /// Windows of the whole cluster, or of this replica alone.
    pub scope: Scope,
    /// Replicas share their windows, so the answer says when this one last synchronized.
    pub is_shared: bool,
}

impl AnswerScope {
    const fn name(self) -> &'static str {
        match self.scope {
            Scope::Cluster => "cluster",
            Scope::Local => "local",
        }
    }

    /// Absent when windows are not shared; null before the first synchronization.
    fn synced_at(self, report: &WindowsReport) -> Option<Option<Seconds>> {
        self.is_shared.then(|| report.synced_at_us.map(Seconds))
    }
}

/// `/analyze` and `/stats` show whole seconds: clients of earlier services expect integers there.
fn whole_seconds(us: i64) -> i64 {
    us.div_euclid(1_000_000)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AnalyzeJson<'a> {
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
    metrics: MetricsJson<'a>,
    /// Metrics that the answer has no room for.
    #[serde(skip_serializing_if = "Option::is_none")]
    other_metrics: Option<usize>,
}

/// An object with a field for each metric.
pub(crate) struct MetricsJson<'a>(pub &'a [MetricReport]);

impl Serialize for MetricsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer
            .collect_map(self.0.iter().map(|report| (&*report.metric, MetricJson::new(report))))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MetricJson<'a> {
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
    detectors: FindingsJson<'a>,
}

/// An object with a field for each detector.
struct FindingsJson<'a>(&'a [Finding]);

impl Serialize for FindingsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(
            |&Finding { detector, score, is_anomaly, threshold }| {
                (detector.name(), FindingJson { score, is_anomaly, threshold })
            },
        ))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FindingJson {
    score: f64,
    is_anomaly: bool,
    threshold: f64,
}

impl<'a> MetricJson<'a> {
    fn new(report: &'a MetricReport) -> Self {
        let quantiles =
            WindowQuantiles::of(&report.values).expect("a reported window is never empty");
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
            detectors: FindingsJson(&report.findings),
        }
    }
}

fn last(report: &MetricReport) -> Plain {
    Plain(*report.values.last().expect("a reported window is never empty"))
}

fn find<'a>(report: &'a WindowsReport, metric: &str) -> Option<&'a MetricReport> {
    report.metrics.iter().find(|found| &*found.metric == metric)
}

/// `/analyze`: the fields at the top level are those of `rps`.
pub fn analyze(
    device: Option<&str>,
    report: &WindowsReport,
    scope: AnswerScope,
    settings: &DetectionSettings,
    now: Now,
) -> Vec<u8> {
    let rps = find(report, "rps");
    body(&AnalyzeJson {
        scope: scope.name(),
        synced_at: scope.synced_at(report),
        device,
        count: rps.map_or(0, |rps| rps.values.len()),
        window_size: settings.window,
        rolling_avg: rps.map(|rps| rps.mean),
        std_dev: rps.map(|rps| rps.std_dev),
        z_score: rps.map(|rps| rps.verdict.z_score),
        is_anomaly: rps.is_some_and(|rps| rps.verdict.is_anomaly),
        threshold_z: settings.threshold,
        anomaly_count: rps.map_or(0, |rps| rps.anomaly_count),
        total_count: rps.map_or(0, |rps| rps.total_count),
        last_rps: rps.map(last),
        last_cpu: find(report, "cpu").map(last),
        last_timestamp: report.last_timestamp_us.map(whole_seconds),
        computed_at: now.wall_s(),
        detector: settings.detector,
        metrics: MetricsJson(&report.metrics),
        other_metrics: (report.other_metrics > 0).then_some(report.other_metrics),
    })
}

#[derive(Serialize)]
struct StatsJson {
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

/// `/stats`: the counts are those of `rps`, or of `cpu` if no `rps` was ever sent.
pub fn stats(report: &WindowsReport, scope: AnswerScope) -> Vec<u8> {
    let (rps, cpu) = (find(report, "rps"), find(report, "cpu"));
    let counted = rps.or(cpu);
    let count = counted.map_or(0, |metric| metric.values.len());
    body(&StatsJson {
        scope: scope.name(),
        synced_at: scope.synced_at(report),
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use sigmad_detectors::DetectorKind;
    use sigmad_sample::Verdict;

    const SETTINGS: DetectionSettings =
        DetectionSettings { window: 50, threshold: 2.0, detector: "zscore" };
    const NOW: Now = Now { monotonic_ns: 5, wall_us: 1_766_925_730_250_000 };

    const LOCAL: AnswerScope = AnswerScope { scope: Scope::Local, is_shared: false };

    fn metric(name: &str, values: &[f64]) -> MetricReport {
        MetricReport {
            metric: name.into(),
            values: values.to_vec(),
            mean: 120.3,
            std_dev: 1.76,
            verdict: Verdict {
                score: 0.18,
                z_score: -0.18,
                is_anomaly: false,
                is_zscore_anomaly: false,
            },
            findings: vec![Finding {
                detector: DetectorKind::Pager,
                score: 0.25,
                is_anomaly: false,
                threshold: 1.0,
            }],
            total_count: 9,
            anomaly_count: 2,
            folded_values: None,
        }
    }

    fn parse(body: &[u8]) -> Value {
        serde_json::from_slice(body).expect("JSON")
    }

    #[test]
    fn analyze_has_the_documented_fields() {
        let report = WindowsReport {
            metrics: vec![metric("cpu", &[50.0, 12.0]), metric("rps", &[119.5, 120.0])],
            last_timestamp_us: Some(1_766_925_730_000_000),
            ..WindowsReport::default()
        };
        let body = analyze(Some("edge-17"), &report, LOCAL, &SETTINGS, NOW);
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
        let answer = parse(&analyze(None, &WindowsReport::default(), LOCAL, &SETTINGS, NOW));
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
        let many = WindowsReport { other_metrics: 9, ..WindowsReport::default() };
        assert_eq!(parse(&analyze(None, &many, LOCAL, &SETTINGS, NOW))["otherMetrics"], 9);
        let answer = parse(&stats(&WindowsReport::default(), LOCAL));
        assert_eq!((&answer["count"], &answer["avg_rps"]), (&json!(0), &Value::Null));
    }

    #[test]
    fn shared_windows_show_their_scope_and_last_synchronization() {
        let mut report = WindowsReport::default();
        for (scope, name) in [(Scope::Cluster, "cluster"), (Scope::Local, "local")] {
            let answer_scope = AnswerScope { scope, is_shared: true };
            for (synced_at_us, text) in [(None, "null"), (Some(1_500_000), "1.5")] {
                report.synced_at_us = synced_at_us;
                let body = analyze(None, &report, answer_scope, &SETTINGS, NOW);
                let text = format!(r#"{{"scope":"{name}","syncedAt":{text},"device":null,"#);
                assert!(body.starts_with(text.as_bytes()), "{text}");
                let text =
                    text.replace("syncedAt", "synced_at").replace("device\":null", "count\":0");
                assert!(stats(&report, answer_scope).starts_with(text.as_bytes()), "{text}");
            }
        }
    }

    #[test]
    fn stats_count_cpu_where_there_is_no_rps() {
        let cpu = metric("cpu", &[50.0, 12.0, 13.0]);
        let mut report = WindowsReport {
            metrics: vec![cpu],
            last_timestamp_us: Some(1),
            ..WindowsReport::default()
        };
        let answer = parse(&stats(&report, LOCAL));
        assert_eq!((&answer["count"], &answer["window_size_used"]), (&json!(3), &json!(3)));
        assert_eq!((&answer["avg_rps"], &answer["avg_cpu"]), (&Value::Null, &json!(120.3)));
        report.metrics.push(metric("rps", &[1.0]));
        assert_eq!(parse(&stats(&report, LOCAL))["count"], 1);
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
        let text = String::from_utf8(stats(&report, LOCAL)).expect("UTF-8");
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
                ..WindowsReport::default()
            };
            parse(&analyze(None, &report, LOCAL, &SETTINGS, NOW));
            parse(&stats(&report, LOCAL));
        }
    }
}
