//! The metric families of analytics: of its counters, and of its reports.

use std::sync::Arc;

use sigmad_counters::{Families, MetricSource, STAGE_EDGES_NS, SampleOutcomes, StageDurations};

use super::report::{TotalsReport, WatchedStreams, WindowsReport};
use super::thread::AnalyticsCounters;

/// Metrics that `anomalies_total` has from the start: `increase()` misses the first increase of a series that
/// appears later.
const USUAL_METRICS: [&str; 2] = ["cpu", "rps"];

impl MetricSource for AnalyticsCounters {
    fn collect(&self, families: &mut Families) {
        families
            .histogram(
                "sigmad_judge_duration_seconds",
                "Time to judge one sample, of the requests whose stages are timed.",
                &STAGE_EDGES_NS,
            )
            .add_histogram(&[], &self.judge);
    }

    fn stages(&self, stages: &mut StageDurations) {
        stages.add("analytics", &self.lag);
    }
}

/// The outcome of samples without Redis: a sample is stored, in memory, once it is judged.
#[derive(Debug)]
pub struct StoredInMemory(pub Arc<AnalyticsCounters>);

impl MetricSource for StoredInMemory {
    fn collect(&self, families: &mut Families) {
        let stored = self.0.samples_total.get();
        SampleOutcomes { stored, ..SampleOutcomes::default() }.collect(families);
    }
}

impl MetricSource for TotalsReport {
    fn collect(&self, families: &mut Families) {
        families
            .counter("sigmad_samples_judged_total", "Samples judged.")
            .add(&[], self.samples as f64);
        families.gauge("sigmad_devices", "Devices with windows.").add(&[], self.devices as f64);
        families
            .gauge("sigmad_streams", "Streams (device × metric) with windows.")
            .add(&[], self.streams as f64);
        let WatchedStreams { judged, learning, unjudged } = self.watched;
        let watched = families.gauge(
            "sigmad_incidents_streams",
            "Streams by whether they are judged for incidents: judged, learning (150 folded values), unjudged (no room, or one value so far).",
        );
        for (state, count) in [("judged", judged), ("learning", learning), ("unjudged", unjudged)] {
            watched.add(&[("state", state)], count as f64);
        }
        let anomalies = families.counter(
            "anomalies_total",
            "Anomalies by metric, judged by the window of the device, or of the fleet for samples without a device.",
        );
        for metric in USUAL_METRICS {
            if !self.anomalies.iter().any(|(name, _)| &**name == metric) {
                anomalies.add(&[("metric", metric)], 0.0);
            }
        }
        for (metric, count) in &self.anomalies {
            anomalies.add(&[("metric", metric)], *count as f64);
        }
        families
            .gauge(
                "sigmad_metrics_unlisted",
                "Metrics without series of their own in this scrape: past 1,024 the most used have one.",
            )
            .add(&[], self.other_metrics as f64);
        families
            .gauge("sigmad_anomalies_unlisted", "Anomalies since the start of those metrics.")
            .add(&[], self.other_anomalies as f64);
        families
            .counter(
                "sigmad_unnamed_values_total",
                "Values not judged because their metric was evicted on the way to analytics.",
            )
            .add(&[], self.unnamed_values as f64);
    }
}

/// The gauges of the fleet's windows.
#[derive(Debug)]
pub struct FleetGauges(pub WindowsReport);

impl MetricSource for FleetGauges {
    fn collect(&self, families: &mut Families) {
        for report in &self.0.metrics {
            let labels = [("metric", &*report.metric)];
            families.gauge("rolling_avg", "Mean of the fleet's window.").add(&labels, report.mean);
            families
                .gauge("zscore", "Z-score of the fleet's last value.")
                .add(&labels, report.verdict.z_score);
        }
    }
}
