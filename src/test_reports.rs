//! Test double of the analytics thread: fixed reports.

use std::cmp::Reverse;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::analytics::report::{
    AnomaliesReport, AnomalyReport, DeviceRank, DeviceReport, MetricReport, PartTotals, Question,
    RankedDevice, SampleReport, Scope, SeriesSelection, TotalsReport, WindowsReport,
};
use crate::analytics::{Asker, questions};
use crate::shards::ShardLayout;
use sigmad_detectors::DetectorKind;
use sigmad_sample::{MetricId, Verdict};

/// An asker whose analytics thread answers with fixed reports; the thread ends with the last asker.
pub fn asker() -> (Asker, JoinHandle<()>) {
    let (asker, asked) = questions(ShardLayout::ONE, &[Arc::default()]);
    let analytics = std::thread::spawn(move || asked.into_iter().flatten().for_each(answer));
    (asker, analytics)
}

/// A name that breaks out of any string in which it is not escaped.
pub const HOSTILE: &str = "m\"} 1\n\\é☃";

/// Windows of `rps` and of a metric with a hostile name.
pub fn fleet() -> WindowsReport {
    let metric = |name: &str, value: f64| MetricReport {
        metric: name.into(),
        values: vec![value; 3],
        mean: value,
        std_dev: 0.0,
        verdict: Verdict { score: 1e6, z_score: -1e6, is_anomaly: true, is_zscore_anomaly: true },
        findings: Vec::new(),
        total_count: 70,
        anomaly_count: 2,
        folded_values: None,
    };
    WindowsReport {
        metrics: vec![metric("rps", 1e15), metric(HOSTILE, -40.5)],
        last_timestamp_us: Some(1_735_100_000_500_000),
        synced_at_us: Some(1_735_100_001_250_000),
        other_metrics: 0,
    }
}

/// Totals that go with [`fleet`].
pub fn totals() -> TotalsReport {
    TotalsReport::merge(vec![part_totals()])
}

fn part_totals() -> PartTotals {
    let (rps, other) = (MetricId::RPS, MetricId::new(2, 0));
    PartTotals {
        samples: 70,
        listed: vec![(rps, "rps".into()), (other, HOSTILE.into())],
        metrics: 2,
        anomalies: vec![(rps, 2), (other, 1)],
        devices: 3,
        streams: 5,
        ..PartTotals::default()
    }
}

fn answer(question: Question) {
    let verdict = Verdict { score: 5.0, z_score: 5.0, is_anomaly: true, is_zscore_anomaly: true };
    // Err: the reader no longer waits.
    match question {
        Question::Windows(_, scope, to) => {
            let mut report = fleet();
            if scope == Scope::Local {
                report.metrics.iter_mut().for_each(|metric| metric.total_count /= 10);
            }
            drop(to.send(report));
        }
        Question::Series(query, to) => {
            let mut report = fleet();
            report.metrics.retain(|metric| match &query.selection {
                SeriesSelection::Containing(part) => metric.metric.contains(&**part),
                SeriesSelection::All | SeriesSelection::Named(_) => true,
            });
            report.other_metrics = report.metrics.len().saturating_sub(query.limit);
            report.metrics.truncate(query.limit);
            drop(to.send(report));
        }
        Question::Snapshot => {}
        Question::Totals(to) => drop(to.send(part_totals())),
        Question::Devices(query, to) => {
            let report = DeviceReport {
                device: format!("{:?}", query.sort).into(),
                score: 5.0,
                is_anomaly: true,
                metric: "rps".into(),
                last: 1.0,
                last_seen_us: 1,
                total_count: 1,
                anomaly_count: 1,
            };
            let name = Reverse(report.device.clone());
            let rank = DeviceRank { is_exact: false, key: 0, name };
            let device = RankedDevice { rank, report };
            drop(to.send(vec![device; query.limit]));
        }
        Question::Anomalies(query, to) => {
            let report = AnomalyReport {
                serial: query.limit as u64,
                device: None,
                metric: "rps".into(),
                value: 9.0,
                mean: 1.0,
                std_dev: 1.0,
                reach: 2.0,
                verdict,
                timestamp_us: query.since_us.max(0),
                arrived_us: 1,
                detector: DetectorKind::Zscore,
                start_us: 0,
                began_us: 0,
                end_us: None,
                flags: 1,
                changed_us: 1,
                change: 0,
            };
            let serials =
                (query.listed_change.unwrap_or(query.after_change) + 1..=query.limit as u64).rev();
            let reports =
                serials.map(|serial| AnomalyReport { serial, change: serial, ..report.clone() });
            let last = query.limit as u64;
            let (begun, serial, change) = (last, last, last);
            let anomalies = reports.collect();
            drop(to.send(AnomaliesReport { anomalies, begun, serial, change }));
        }
        Question::Latest(query, to) => {
            let readings = vec![("rps".into(), 1.5)];
            let report = SampleReport { device: None, timestamp_us: 1, arrived_us: 1, readings };
            drop(to.send(vec![report; query.limit]));
        }
    }
}
