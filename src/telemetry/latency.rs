//! The time of a request by stage, for `/debug/latency` and `sigmad_stage_duration_seconds`.
//!
//! Few requests are timed. Its stages follow one another, from the return of
//! the poller to the end of the write; `rest` is the time between them. `analytics` comes after: it judges the
//! samples while the response is on its way.

use std::fmt::Write as _;

use serde::Serialize;

use super::sources::Sources;
use sigmad_counters::{Counts, Families, STAGE_EDGES_NS, StageDurations};

/// The stages that a client waits for, in the order in which a request goes through them, and what each covers.
const STAGES: [(&str, &str); 6] = [
    ("queue_wait", "from the poller's return to the read: other requests of the round"),
    ("read", "the read call"),
    ("parse", "from bytes to a request"),
    ("decode", "from a body to samples"),
    ("enqueue", "from samples to the analytics queue"),
    ("write", "the write call"),
];
const REST: (&str, &str) = (
    "rest",
    "routing, the response, decompression, more requests of the same read, other requests of the round",
);
const WHOLE: (&str, &str) =
    ("whole", "from the poller's return to the end of the write: the sum of the above");
const ANALYTICS: (&str, &str) = (
    "analytics",
    "from the analytics queue to the last verdict, per sample; no client waits for it",
);

/// The time of all requests timed so far, by stage.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LatencyBudget {
    /// One read in this many is timed.
    timed_one_in: u64,
    /// In the order in which a request goes through them.
    stages: Vec<StageRow>,
}

/// One stage. Durations are null before the first timed request.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StageRow {
    stage: &'static str,
    covers: &'static str,
    /// Timed requests; null for a computed stage.
    count: Option<u64>,
    mean_ns: Option<u64>,
    p50_ns: Option<u64>,
    p99_ns: Option<u64>,
    #[serde(rename = "p99.9Ns")]
    p999_ns: Option<u64>,
    /// Of `whole`; null for a stage that no client waits for.
    share: Option<f64>,
}

fn durations(sources: &Sources) -> StageDurations {
    let mut stages = StageDurations::default();
    sources.iter().for_each(|source| source.stages(&mut stages));
    stages
}

impl LatencyBudget {
    /// Adds the family of the stages.
    pub fn collect(sources: &Sources, families: &mut Families) {
        let mut durations = durations(sources);
        let family = families.histogram(
            "sigmad_stage_duration_seconds",
            "Time of a request by stage, of few requests. queue_wait: from the poller's return to the read; enqueue: from decoded samples to the analytics queue; analytics: from there to the last verdict of a chunk.",
            &STAGE_EDGES_NS,
        );
        for (stage, _) in STAGES.into_iter().chain([ANALYTICS]) {
            family.add_counts(&[("stage", stage)], &durations.take(stage));
        }
    }

    /// The budget as of now, of the first request of one read in `timed_one_in`.
    pub fn of(sources: &Sources, timed_one_in: u64) -> Self {
        let mut durations = durations(sources);
        let whole = durations.take(WHOLE.0);
        let share = |sum_ns: u64| (whole.sum_ns > 0).then(|| sum_ns as f64 / whole.sum_ns as f64);
        let mut stages = Vec::new();
        let mut in_stages_ns = 0;
        for (stage, covers) in STAGES {
            let counts = durations.take(stage);
            in_stages_ns += counts.sum_ns;
            stages.push(StageRow::of(stage, covers, &counts, share(counts.sum_ns)));
        }
        // Saturating: the counters change one after the other while they are read.
        let rest_ns = whole.sum_ns.saturating_sub(in_stages_ns);
        stages.push(StageRow {
            stage: REST.0,
            covers: REST.1,
            count: None,
            mean_ns: rest_ns.checked_div(whole.count()),
            p50_ns: None,
            p99_ns: None,
            p999_ns: None,
            share: share(rest_ns),
        });
        stages.push(StageRow::of(WHOLE.0, WHOLE.1, &whole, share(whole.sum_ns)));
        stages.push(StageRow::of(ANALYTICS.0, ANALYTICS.1, &durations.take(ANALYTICS.0), None));
        Self { timed_one_in, stages }
    }

    /// As JSON.
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers")
    }

    /// As a table.
    pub fn text(&self) -> String {
        let mut table = format!(
            "{:<12}{:>12}{:>12}{:>12}{:>12}{:>12}{:>9}\n",
            "stage", "count", "mean", "p50", "p99", "p99.9", "share"
        );
        let shown = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), micros);
        for stage in &self.stages {
            let StageRow { stage, count, mean_ns, p50_ns, p99_ns, p999_ns, share, .. } = stage;
            let count = count.map_or_else(|| "-".to_owned(), |count| count.to_string());
            let share =
                share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0));
            let [mean, p50, p99, p999] = [mean_ns, p50_ns, p99_ns, p999_ns].map(|ns| shown(*ns));
            // Err: never, for a String.
            let _ = writeln!(
                table,
                "{stage:<12}{count:>12}{mean:>12}{p50:>12}{p99:>12}{p999:>12}{share:>9}"
            );
        }
        table.push('\n');
        for StageRow { stage, covers, .. } in &self.stages {
            let _ = writeln!(table, "{stage:<12}{covers}");
        }
        let every = self.timed_one_in;
        let _ = writeln!(
            table,
            "\nSince the start; the first request of one read in {every} is timed. Percentiles are the upper\n\
             edges of buckets that are 12.5 % wide."
        );
        table
    }
}

impl StageRow {
    fn of(stage: &'static str, covers: &'static str, counts: &Counts, share: Option<f64>) -> Self {
        let count = counts.count();
        let quantile = |q| if count > 0 { counts.quantile_ns(q) } else { None };
        Self {
            stage,
            covers,
            count: Some(count),
            mean_ns: counts.sum_ns.checked_div(count),
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
            p999_ns: quantile(0.999),
            share,
        }
    }
}

fn micros(ns: u64) -> String {
    format!("{}.{:02} µs", ns / 1_000, ns % 1_000 / 10)
}
