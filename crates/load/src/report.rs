//! The results of a run: one summary, which is the JSON output; [`table`](super::table) shows it to people.
//!
//! Throughput counts responses with 2xx only. `notes` names what makes the figures less reliable: a rate that
//! was not reached, or a late generator.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::cost::{CpuTime, ticks_per_s};
use super::numbers::grouped;
use super::outcome::LoadOutcome;
use super::settings::LoadSettings;

/// Past this 99th percentile of its own lateness, a note says that the generator was late.
const OWN_LATENESS_NS: u64 = 1_000_000;
/// A thread that uses more of a core leaves responses unread for too long.
const BUSY_CORES: f64 = 0.9;
/// With fewer ticks of CPU time, user and system time can't be separated.
const SPLIT_TICKS_MIN: u64 = 20;

/// The results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct LoadSummary {
    /// Version of the generator.
    pub sigmad: &'static str,
    /// The target of the requests.
    pub url: String,
    /// `open` or `closed`.
    #[serde(rename = "loop")]
    pub loop_: &'static str,
    /// Requests per second of an open loop.
    pub rate: Option<usize>,
    /// `--duration`, in seconds.
    pub duration_s: f64,
    /// Seconds from the start to the end or to the last response, whichever is later.
    pub elapsed_s: f64,
    /// `--connections`
    pub connections: usize,
    /// `--pipeline`
    pub pipeline: usize,
    /// `--batch`
    pub batch: usize,
    /// `--threads`
    pub threads: usize,
    /// `--profile`
    pub profile: &'static str,
    /// `--devices`, for profiles with devices.
    pub devices: Option<usize>,
    /// `--anomaly-rate`, for `--profile anomalies`.
    pub anomaly_rate: Option<f64>,
    /// `--seed`
    pub seed: u64,
    /// Timestamp of the first sample, microseconds since 1970.
    pub from_us: u64,
    /// Requests by their result.
    pub requests: RequestCounts,
    /// Responses by status.
    pub status: BTreeMap<u16, u64>,
    /// Samples.
    pub samples: SampleCounts,
    /// Anomalies, with `--truth`.
    pub anomalies: Option<AnomalyCounts>,
    /// Connections.
    pub connected: ConnectionCounts,
    /// Latency of responses with 2xx in microseconds: from the time when the request was due (open loop) or
    /// was sent (closed loop).
    pub latency_us: Option<TimeQuantiles>,
    /// Latency of other responses.
    pub refusal_latency_us: Option<TimeQuantiles>,
    /// From the time when a request was due to the time when it was sent; open loop.
    pub lateness_us: Option<TimeQuantiles>,
    /// The part of it while a connection was free: the generator's own lateness.
    pub own_lateness_us: Option<TimeQuantiles>,
    /// Whether every request that was due was sent; open loop.
    pub rate_held: Option<bool>,
    /// Whether the 99th percentile of own lateness is below a millisecond; open loop.
    pub generator_on_time: Option<bool>,
    /// CPU time of the process of `--pid`.
    pub server_cpu: Option<CpuPerRequest>,
    /// CPU time of the generator.
    pub generator_cpu: Option<CpuPerRequest>,
    /// What limits the use of the figures.
    pub notes: Vec<String>,
}

/// Requests by their result.
#[derive(Clone, Debug, Serialize)]
pub struct RequestCounts {
    /// Due by the schedule; open loop.
    pub due: Option<u64>,
    /// Written to a connection.
    pub sent: u64,
    /// Due, and never written.
    pub unsent: u64,
    /// Due while no connection was free.
    pub waited: u64,
    /// Answered with any status.
    pub answered: u64,
    /// Answered with 2xx.
    pub good: u64,
    /// Sent, and not answered with 2xx.
    pub failed: u64,
    /// Their connection ended first.
    pub lost: u64,
    /// Not answered in time.
    pub timeouts: u64,
    /// Answered with invalid HTTP.
    pub malformed: u64,
    /// `sent` per second.
    pub sent_per_s: f64,
    /// `good` per second: goodput.
    pub good_per_s: f64,
}

/// Samples by their result.
#[derive(Clone, Debug, Serialize)]
pub struct SampleCounts {
    /// In all requests that were sent.
    pub sent: u64,
    /// As the responses say.
    pub accepted: u64,
    /// `accepted` per second.
    pub accepted_per_s: f64,
}

/// Anomalies by the result of their requests.
#[derive(Clone, Debug, Serialize)]
pub struct AnomalyCounts {
    /// Lines of `--truth`: their requests were accepted whole.
    pub accepted: u64,
    /// Unknown: their requests were accepted in part, or not answered.
    pub unknown: u64,
}

/// Connections over the run.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionCounts {
    /// All, with those at the start.
    pub opened: u64,
    /// To replace a lost connection.
    pub reopened: u64,
    /// Failed attempts.
    pub errors: u64,
    /// The last of them.
    pub error: Option<String>,
}

/// The distribution of a time, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TimeQuantiles {
    /// The number of values.
    pub count: u64,
    /// Mean.
    pub mean: f64,
    /// 50 %
    pub p50: f64,
    /// 90 %
    pub p90: f64,
    /// 99 %
    pub p99: f64,
    /// 99.9 %
    pub p999: f64,
    /// 99.99 %
    pub p9999: f64,
    /// The maximum.
    pub max: f64,
}

impl RequestCounts {
    fn new(settings: &LoadSettings, outcome: &LoadOutcome, elapsed_s: f64) -> Self {
        Self {
            due: settings.rate.map(|_| outcome.sent + outcome.unsent),
            sent: outcome.sent,
            unsent: outcome.unsent,
            waited: outcome.waited,
            answered: outcome.answered(),
            good: outcome.good(),
            failed: outcome.failed(),
            lost: outcome.lost,
            timeouts: outcome.timeouts,
            malformed: outcome.malformed,
            sent_per_s: outcome.sent as f64 / elapsed_s,
            good_per_s: outcome.good() as f64 / elapsed_s,
        }
    }
}

impl ConnectionCounts {
    fn new(outcome: &LoadOutcome) -> Self {
        Self {
            opened: outcome.opened,
            reopened: outcome.reopened,
            errors: outcome.connect_errors,
            error: outcome.connect_error.clone(),
        }
    }
}

impl TimeQuantiles {
    fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        (!histogram.is_empty()).then(|| Self {
            count: histogram.len(),
            mean: histogram.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: histogram.max() as f64 / 1e3,
        })
    }
}

/// CPU time of a process during a run.
#[derive(Clone, Copy, Debug)]
pub struct CpuCost {
    total_ns: u64,
    user_ticks: u64,
    system_ticks: u64,
}

impl CpuCost {
    /// Between two readings; None if one of them is.
    pub fn between(before: Option<CpuTime>, after: Option<CpuTime>) -> Option<Self> {
        let (before, after) = (before?, after?);
        Some(Self {
            total_ns: after.total_ns - before.total_ns,
            // The kernel corrects its estimate of the two, sometimes downwards.
            user_ticks: after.user_ticks.saturating_sub(before.user_ticks),
            system_ticks: after.system_ticks.saturating_sub(before.system_ticks),
        })
    }
}

/// CPU time per request and per sample.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CpuPerRequest {
    /// User and system time of all threads.
    pub total_ns: u64,
    /// Per answered request.
    pub ns_per_request: Option<f64>,
    /// Per accepted sample.
    pub ns_per_sample: Option<f64>,
    /// Share of user time, 0 to 1; None if there were too few ticks.
    pub user_share: Option<f64>,
    /// User and system time count in ticks of this length.
    pub tick_ns: u64,
    /// Cores in use, on average.
    pub cores: f64,
}

impl CpuPerRequest {
    fn new(cost: CpuCost, answered: u64, accepted: u64, elapsed_s: f64) -> Self {
        let by = |count: u64| (count > 0).then(|| cost.total_ns as f64 / count as f64);
        let ticks = cost.user_ticks + cost.system_ticks;
        Self {
            total_ns: cost.total_ns,
            ns_per_request: by(answered),
            ns_per_sample: by(accepted),
            user_share: (ticks >= SPLIT_TICKS_MIN).then(|| cost.user_ticks as f64 / ticks as f64),
            tick_ns: 1_000_000_000 / ticks_per_s(),
            cores: cost.total_ns as f64 / 1e9 / elapsed_s,
        }
    }
}

impl LoadSummary {
    /// The summary of a run that began at `start_ns`, with timestamps from `from_us`.
    pub fn new(
        settings: &LoadSettings,
        outcome: &LoadOutcome,
        start_ns: u64,
        from_us: u64,
        server: Option<CpuCost>,
        generator: Option<CpuCost>,
    ) -> Self {
        let is_open_loop = settings.rate.is_some();
        let was_stopped = outcome.end_ns < start_ns + settings.duration.as_nanos() as u64;
        let end_ns = outcome.end_ns.max(outcome.last_answer_ns);
        // Never zero: rates divide by it.
        let elapsed_s = end_ns.saturating_sub(start_ns).max(1) as f64 / 1e9;
        let cpu = |cost| CpuPerRequest::new(cost, outcome.answered(), outcome.accepted, elapsed_s);
        let has_devices = settings.profile.has_devices();
        let own_lateness_ns = outcome.own_lateness.value_at_quantile(0.99);
        let mut summary = Self {
            sigmad: env!("CARGO_PKG_VERSION"),
            url: settings.url.to_string(),
            loop_: if is_open_loop { "open" } else { "closed" },
            rate: settings.rate,
            duration_s: settings.duration.as_secs_f64(),
            elapsed_s,
            connections: settings.connections,
            pipeline: settings.pipeline,
            batch: settings.batch,
            threads: settings.threads,
            profile: settings.profile.name(),
            devices: has_devices.then(|| settings.devices()),
            anomaly_rate: (settings.anomaly_rate() > 0.0).then(|| settings.anomaly_rate()),
            seed: settings.seed,
            from_us,
            requests: RequestCounts::new(settings, outcome, elapsed_s),
            status: outcome.statuses.clone(),
            samples: SampleCounts {
                sent: outcome.sent * settings.batch as u64,
                accepted: outcome.accepted,
                accepted_per_s: outcome.accepted as f64 / elapsed_s,
            },
            anomalies: settings.truth.as_ref().map(|_| AnomalyCounts {
                accepted: outcome.anomalies,
                unknown: outcome.anomalies_unknown,
            }),
            connected: ConnectionCounts::new(outcome),
            latency_us: TimeQuantiles::of(&outcome.latency),
            refusal_latency_us: TimeQuantiles::of(&outcome.refusal_latency),
            lateness_us: TimeQuantiles::of(&outcome.lateness),
            own_lateness_us: TimeQuantiles::of(&outcome.own_lateness),
            rate_held: is_open_loop.then_some(outcome.unsent == 0),
            generator_on_time: is_open_loop.then_some(own_lateness_ns < OWN_LATENESS_NS),
            server_cpu: server.map(cpu),
            generator_cpu: generator.map(cpu),
            notes: Vec::new(),
        };
        summary.notes = summary.notes(settings, was_stopped);
        summary
    }

    /// As JSON, with a line end.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("it is plain data");
        text.push('\n');
        text
    }

    fn notes(&self, settings: &LoadSettings, was_stopped: bool) -> Vec<String> {
        let mut notes = Vec::new();
        let RequestCounts { unsent, waited, good, .. } = self.requests;
        let own = self.own_lateness_us.filter(|_| self.generator_on_time == Some(false));
        if was_stopped {
            notes.push(format!("STOPPED EARLY, after {:.1} s", self.elapsed_s));
        }
        if good == 0 {
            notes.push("NO REQUEST SUCCEEDED".into());
        }
        if let (Some(rate), Some(due), true) = (self.rate, self.requests.due, unsent > 0) {
            let is_busy =
                self.generator_cpu.is_some_and(|cpu| cpu.cores > BUSY_CORES * self.threads as f64);
            let blame = if is_busy || (own.is_some() && waited < self.requests.sent / 2) {
                "the generator itself was too slow: use more --threads or a lower --rate"
            } else {
                "the connections waited for responses: the server, or the cores that both share, \
                 are too slow, or --connections is too low"
            };
            notes.push(format!(
                "THE RATE WAS NOT HELD: asked for {} requests/s, sent {}; {} of {} were never sent, \
                 and the latencies omit them; {blame}",
                grouped(rate as u64),
                grouped(self.requests.sent_per_s.round() as u64),
                grouped(unsent),
                grouped(due),
            ));
        }
        if let Some(own) = own {
            notes.push(format!(
                "THE GENERATOR WAS LATE: 1 request in 100 by {:.1} ms or more while a connection was \
                 free; the latencies include that",
                own.p99 / 1e3
            ));
        }
        if unsent == 0 && waited > 0 {
            notes.push(format!(
                "{} requests were due while every connection waited for a response; their latencies \
                 include the wait",
                grouped(waited)
            ));
        }
        if let (Some(pid), None) = (settings.pid, self.server_cpu) {
            notes.push(format!("the process of --pid {pid} has ended"));
        }
        if self.anomalies.as_ref().is_some_and(|anomalies| anomalies.unknown > 0) {
            notes.push(
                "it is unknown whether some anomalies were accepted; --truth omits them".into(),
            );
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::testing::settings;
    use crate::table::table;

    const S: u64 = 1_000_000_000;

    fn outcome(sent: u64, good: u64, busy: u64) -> LoadOutcome {
        let mut outcome = LoadOutcome { sent, accepted: good, ..LoadOutcome::default() };
        (outcome.opened, outcome.end_ns, outcome.last_answer_ns) = (1, 11 * S, 10 * S);
        for (status, count) in [(202, good), (503, busy)] {
            if count > 0 {
                outcome.statuses.insert(status, count);
            }
        }
        for _ in 0..good {
            outcome.latency.saturating_record(50_000);
        }
        outcome
    }

    fn summary(args: &[&str], outcome: &LoadOutcome) -> LoadSummary {
        LoadSummary::new(&settings(args), outcome, S, 0, None, None)
    }

    #[test]
    fn a_503_is_not_throughput() {
        let summary = summary(&[], &outcome(1000, 250, 700));
        assert_eq!((summary.requests.good, summary.requests.failed), (250, 750));
        assert_eq!((summary.requests.good_per_s, summary.samples.accepted_per_s), (25.0, 25.0));
        assert_eq!(summary.latency_us.expect("some").count, 250);
        let none = self::summary(&[], &outcome(10, 0, 10));
        assert_eq!(none.requests.good_per_s, 0.0);
        assert_eq!(none.notes, ["NO REQUEST SUCCEEDED"]);
    }

    #[test]
    fn a_rate_that_was_not_held_is_noted_with_its_cause() {
        let held = summary(&["--rate=100"], &outcome(1000, 1000, 0));
        assert_eq!((held.rate_held, held.generator_on_time), (Some(true), Some(true)));
        assert!(held.notes.is_empty());

        let mut slow_server = outcome(600, 600, 0);
        (slow_server.unsent, slow_server.waited) = (400, 590);
        let slow_server = summary(&["--rate=100"], &slow_server);
        assert_eq!((slow_server.rate_held, slow_server.requests.due), (Some(false), Some(1000)));
        let note = &slow_server.notes[0];
        assert!(note.starts_with("THE RATE WAS NOT HELD: asked for 100 requests/s, sent 60; 400"));
        assert!(note.contains("the server, or"), "{note}");

        let mut slow_self = outcome(600, 600, 0);
        slow_self.unsent = 400;
        for _ in 0..600 {
            slow_self.own_lateness.saturating_record(S);
        }
        let slow_self = summary(&["--rate=100"], &slow_self);
        assert_eq!(slow_self.generator_on_time, Some(false));
        assert!(slow_self.notes[0].contains("the generator itself"), "{}", slow_self.notes[0]);
        assert!(slow_self.notes[1].starts_with("THE GENERATOR WAS LATE"));
    }

    #[test]
    fn cpu_time_is_given_per_request_and_per_sample() {
        let before = CpuTime { total_ns: 5, user_ticks: 1, system_ticks: 1 };
        let after = CpuTime { total_ns: S + 5, user_ticks: 26, system_ticks: 76 };
        let cost = CpuCost::between(Some(before), Some(after)).expect("both");
        let cpu = CpuPerRequest::new(cost, 1_000, 100_000, 2.0);
        assert_eq!(cpu.ns_per_request, Some(1e6));
        assert_eq!((cpu.ns_per_sample, cpu.user_share, cpu.cores), (Some(1e4), Some(0.25), 0.5));
        let short = CpuCost { user_ticks: 1, ..cost };
        let short = CpuCost { system_ticks: 2, ..short };
        assert_eq!(CpuPerRequest::new(short, 0, 0, 1.0).user_share, None);
        assert!(CpuCost::between(None, Some(after)).is_none());
    }

    #[test]
    fn the_table_shows_the_summary() {
        let args = ["--rate=100", "--profile=devices"];
        let mut outcome = outcome(1000, 900, 100);
        outcome.lost = 3;
        let text = table(&settings(&args), &summary(&args, &outcome));
        for part in [
            "sigmad load http://127.0.0.1:8080/ingest",
            "open loop, 100 requests/s for 10s, 64 connections × 1, 1 sample(s) of devices, 100 devices",
            "1,000 due, 1,000 sent, 900 answered with 2xx, 100 failed",
            "90.0 requests/s",
            "202: 900, 503: 100",
            "3 lost with their connection",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
