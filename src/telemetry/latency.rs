//! Where the time of a request goes, stage by stage: `/debug/latency`.
//!
//! The stages of one request in so many are timed, and lie one after the other: from the moment that the
//! poller returned to the moment that the kernel had the answer. What is between them is the rest.
//! Analytics comes after: it judges what has been handed over while the answer is on its way.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Sources, merged};
use crate::http::worker::TIMED_EVERY;
use sigmad_counters::Counts;

/// The budget of all requests timed so far.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// The stages are those of the first request of one read in so many.
    timed_one_in: u64,
    /// In the order in which a request goes through them.
    stages: Vec<Stage>,
}

/// One stage. Durations are null before the first.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Stage {
    stage: &'static str,
    covers: &'static str,
    /// How often it was timed; null for what is only computed.
    count: Option<u64>,
    mean_ns: Option<u64>,
    p50_ns: Option<u64>,
    p99_ns: Option<u64>,
    #[serde(rename = "p99.9Ns")]
    p999_ns: Option<u64>,
    /// Of the whole; null for what no client waits for.
    share: Option<f64>,
}

impl Budget {
    /// The budget as of now.
    pub fn of(sources: &Sources) -> Self {
        let Sources { http, routers, analytics, .. } = sources;
        let whole = merged(http.iter().map(|counters| &counters.whole_ns));
        let share = |sum_ns: u64| (whole.sum_ns > 0).then(|| sum_ns as f64 / whole.sum_ns as f64);
        let mut stages = Vec::new();
        let mut in_sequence_ns = 0;
        for (stage, covers, counts) in [
            (
                "queue_wait",
                "from the poller's return to the read: other requests of the round",
                merged(http.iter().map(|counters| &counters.queue_wait_ns)),
            ),
            ("read", "the read call", merged(http.iter().map(|counters| &counters.read_ns))),
            (
                "parse",
                "from bytes to a request",
                merged(http.iter().map(|counters| &counters.parse_ns)),
            ),
            (
                "decode",
                "from a body to samples",
                merged(routers.iter().map(|counters| &counters.decode_ns)),
            ),
            (
                "enqueue",
                "from samples to the analytics queue",
                merged(routers.iter().map(|counters| &counters.enqueue_ns)),
            ),
            ("write", "the write call", merged(http.iter().map(|counters| &counters.write_ns))),
        ] {
            in_sequence_ns += counts.sum_ns;
            stages.push(Stage::of(stage, covers, &counts, share(counts.sum_ns)));
        }
        // Saturating: counters are written one after the other, and read meanwhile.
        let rest_ns = whole.sum_ns.saturating_sub(in_sequence_ns);
        stages.push(Stage {
            stage: "rest",
            covers: "routing, the response, decompression, more requests of the same read, other requests of the round",
            count: None,
            mean_ns: rest_ns.checked_div(whole.count()),
            p50_ns: None,
            p99_ns: None,
            p999_ns: None,
            share: share(rest_ns),
        });
        let covers = "from the poller's return to the end of the write: the sum of the above";
        stages.push(Stage::of("whole", covers, &whole, share(whole.sum_ns)));
        let covers =
            "from the analytics queue to the last verdict, per sample; no client waits for it";
        stages.push(Stage::of("analytics", covers, &merged([&analytics.lag]), None));
        Self { timed_one_in: TIMED_EVERY, stages }
    }

    /// For tools.
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers")
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut table = format!(
            "{:<12}{:>12}{:>12}{:>12}{:>12}{:>12}{:>9}\n",
            "stage", "count", "mean", "p50", "p99", "p99.9", "share"
        );
        let shown = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), micros);
        for stage in &self.stages {
            let Stage { stage, count, mean_ns, p50_ns, p99_ns, p999_ns, share, .. } = stage;
            let count = count.map_or_else(|| "-".to_owned(), |count| count.to_string());
            let share =
                share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0));
            let [mean, p50, p99, p999] = [mean_ns, p50_ns, p99_ns, p999_ns].map(|ns| shown(*ns));
            // Err: a String takes everything.
            let _ = writeln!(
                table,
                "{stage:<12}{count:>12}{mean:>12}{p50:>12}{p99:>12}{p999:>12}{share:>9}"
            );
        }
        table.push('\n');
        for Stage { stage, covers, .. } in &self.stages {
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

impl Stage {
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
