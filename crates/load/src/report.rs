//! What a run found: one summary, as JSON for machines and as a table for people.
//!
//! Throughput is what was answered with 2xx; everything else is counted apart. What makes the
//! numbers mean less than they seem (a rate that was not held, a generator that was late) is said in
//! `notes`, in plain words.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::cost::{CpuTime, ticks_per_s};
use super::outcome::Outcome;
use super::settings::LoadSettings;

/// A generator whose own part of the lateness is larger at the 99th percentile says so.
const OWN_LATENESS_NS: u64 = 1_000_000;
/// A thread that is on a core for a larger part of the time leaves answers unread.
const BUSY_CORES: f64 = 0.9;
/// Ticks of CPU time below which user and system can't be told apart.
const SPLIT_TICKS_MIN: u64 = 20;

/// Everything that a run found.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Version of the generator.
    pub sigmad: &'static str,
    /// Where the requests went.
    pub url: String,
    /// `open` or `closed`.
    #[serde(rename = "loop")]
    pub loop_: &'static str,
    /// Requests a second, of an open loop.
    pub rate: Option<usize>,
    /// Seconds asked for.
    pub duration_s: f64,
    /// Seconds from the start to the end, or to the last answer.
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
    /// Of the profiles with devices.
    pub devices: Option<usize>,
    /// Of `--profile anomalies`.
    pub anomaly_rate: Option<f64>,
    /// `--seed`
    pub seed: u64,
    /// Timestamp of the first sample, microseconds since 1970.
    pub from_us: u64,
    /// Requests, by what became of them.
    pub requests: Requests,
    /// Answers by status.
    pub status: BTreeMap<u16, u64>,
    /// Samples.
    pub samples: Samples,
    /// Anomalies, when their truth was asked for.
    pub anomalies: Option<Anomalies>,
    /// Connections.
    pub connected: Connected,
    /// Of answers with 2xx, microseconds: from the moment when the request was due (open loop) or
    /// left (closed loop).
    pub latency_us: Option<Quantiles>,
    /// Of other answers.
    pub refusal_latency_us: Option<Quantiles>,
    /// From the moment when a request was due to that when it left; open loop.
    pub lateness_us: Option<Quantiles>,
    /// The generator's own part of it: a connection was free.
    pub own_lateness_us: Option<Quantiles>,
    /// Every request that was due has left; open loop.
    pub rate_held: Option<bool>,
    /// The generator's own part of the lateness stayed below a millisecond for 99 of 100; open loop.
    pub generator_on_time: Option<bool>,
    /// CPU time of the process of `--pid`.
    pub server_cpu: Option<CpuPerRequest>,
    /// CPU time of the generator.
    pub generator_cpu: Option<CpuPerRequest>,
    /// What to know before the numbers are used.
    pub notes: Vec<String>,
}

/// Requests, by what became of them.
#[derive(Clone, Debug, Serialize)]
pub struct Requests {
    /// By the timetable; open loop.
    pub due: Option<u64>,
    /// Written to a connection.
    pub sent: u64,
    /// Due, and never written.
    pub unsent: u64,
    /// Due while no connection was free.
    pub waited: u64,
    /// Answered, whatever the answer.
    pub answered: u64,
    /// Answered with 2xx.
    pub good: u64,
    /// Sent, and not answered with 2xx.
    pub failed: u64,
    /// Their connection ended first.
    pub lost: u64,
    /// Not answered in time.
    pub timeouts: u64,
    /// Answered with something else than HTTP.
    pub malformed: u64,
    /// `sent` by seconds.
    pub sent_per_s: f64,
    /// `good` by seconds: goodput.
    pub good_per_s: f64,
}

/// Samples, by what became of them.
#[derive(Clone, Debug, Serialize)]
pub struct Samples {
    /// In all requests that were sent.
    pub sent: u64,
    /// As the answers say.
    pub accepted: u64,
    /// `accepted` by seconds.
    pub accepted_per_s: f64,
}

/// Anomalies, by what is known of them.
#[derive(Clone, Debug, Serialize)]
pub struct Anomalies {
    /// Lines of the truth: their requests were accepted whole.
    pub accepted: u64,
    /// Whether they arrived nobody knows: their requests were accepted in part, or not answered.
    pub unknown: u64,
}

/// Connections over the run.
#[derive(Clone, Debug, Serialize)]
pub struct Connected {
    /// Those at the start included.
    pub opened: u64,
    /// In the place of one that had ended.
    pub reopened: u64,
    /// Attempts that failed.
    pub errors: u64,
    /// The last of them.
    pub error: Option<String>,
}

/// The distribution of a time, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quantiles {
    /// How many.
    pub count: u64,
    /// Mean.
    pub mean: f64,
    /// Half are shorter.
    pub p50: f64,
    /// 90 %
    pub p90: f64,
    /// 99 %
    pub p99: f64,
    /// 99.9 %
    pub p999: f64,
    /// 99.99 %
    pub p9999: f64,
    /// The longest.
    pub max: f64,
}

impl Quantiles {
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
pub struct Cost {
    total_ns: u64,
    user_ticks: u64,
    system_ticks: u64,
}

impl Cost {
    /// Between two moments; None when one of them is.
    pub fn between(before: Option<CpuTime>, after: Option<CpuTime>) -> Option<Self> {
        let (before, after) = (before?, after?);
        Some(Self {
            total_ns: after.total_ns - before.total_ns,
            // The kernel corrects its estimate of the two, not always upwards.
            user_ticks: after.user_ticks.saturating_sub(before.user_ticks),
            system_ticks: after.system_ticks.saturating_sub(before.system_ticks),
        })
    }
}

/// CPU time by requests and samples.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CpuPerRequest {
    /// User and system, all threads.
    pub total_ns: u64,
    /// By requests that were answered.
    pub ns_per_request: Option<f64>,
    /// By samples that were accepted.
    pub ns_per_sample: Option<f64>,
    /// User time in the total, 0 to 1; None when the ticks were too few to tell.
    pub user_share: Option<f64>,
    /// The total counts nanoseconds; user and system are told apart in these.
    pub tick_ns: u64,
    /// Cores in use, on average.
    pub cores: f64,
}

impl CpuPerRequest {
    fn new(cost: Cost, answered: u64, accepted: u64, elapsed_s: f64) -> Self {
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

impl Summary {
    /// Of a run that began at `start_ns` with samples from `from_us` on.
    pub fn new(
        settings: &LoadSettings,
        outcome: &Outcome,
        start_ns: u64,
        from_us: u64,
        server: Option<Cost>,
        generator: Option<Cost>,
    ) -> Self {
        let is_open_loop = settings.rate.is_some();
        let due = settings.rate.map(|_| outcome.sent + outcome.unsent);
        let duration_s = settings.duration.as_secs_f64();
        let was_stopped = outcome.end_ns < start_ns + settings.duration.as_nanos() as u64;
        let end_ns = outcome.end_ns.max(outcome.last_answer_ns);
        // Stopped at once, it has still taken some time.
        let elapsed_s = end_ns.saturating_sub(start_ns).max(1) as f64 / 1e9;
        let per_s = |count: u64| count as f64 / elapsed_s;
        let (answered, good) = (outcome.answered(), outcome.good());
        let cpu = |cost| CpuPerRequest::new(cost, answered, outcome.accepted, elapsed_s);
        let has_devices = settings.profile.has_devices();
        let own_lateness_ns = outcome.own_lateness.value_at_quantile(0.99);
        let mut summary = Self {
            sigmad: env!("CARGO_PKG_VERSION"),
            url: settings.url.to_string(),
            loop_: if is_open_loop { "open" } else { "closed" },
            rate: settings.rate,
            duration_s,
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
            requests: Requests {
                due,
                sent: outcome.sent,
                unsent: outcome.unsent,
                waited: outcome.waited,
                answered,
                good,
                failed: outcome.failed(),
                lost: outcome.lost,
                timeouts: outcome.timeouts,
                malformed: outcome.malformed,
                sent_per_s: per_s(outcome.sent),
                good_per_s: per_s(good),
            },
            status: outcome.statuses.clone(),
            samples: Samples {
                sent: outcome.sent * settings.batch as u64,
                accepted: outcome.accepted,
                accepted_per_s: per_s(outcome.accepted),
            },
            anomalies: settings.truth.as_ref().map(|_| Anomalies {
                accepted: outcome.anomalies,
                unknown: outcome.anomalies_unknown,
            }),
            connected: Connected {
                opened: outcome.opened,
                reopened: outcome.reopened,
                errors: outcome.connect_errors,
                error: outcome.connect_error.clone(),
            },
            latency_us: Quantiles::of(&outcome.latency),
            refusal_latency_us: Quantiles::of(&outcome.refusal_latency),
            lateness_us: Quantiles::of(&outcome.lateness),
            own_lateness_us: Quantiles::of(&outcome.own_lateness),
            rate_held: is_open_loop.then_some(outcome.unsent == 0),
            generator_on_time: is_open_loop.then_some(own_lateness_ns < OWN_LATENESS_NS),
            server_cpu: server.map(cpu),
            generator_cpu: generator.map(cpu),
            notes: Vec::new(),
        };
        summary.notes = summary.remarks(settings, was_stopped);
        summary
    }

    /// As JSON, with a line end.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("it is plain data");
        text.push('\n');
        text
    }

    fn remarks(&self, settings: &LoadSettings, was_stopped: bool) -> Vec<String> {
        let mut notes = Vec::new();
        let Requests { unsent, waited, good, .. } = self.requests;
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
                "the generator itself was too slow: give it --threads, or ask for less"
            } else {
                "the connections were waiting for answers: the server, or the cores that the two \
                 share, are too slow for it, or --connections too few"
            };
            notes.push(format!(
                "THE RATE WAS NOT HELD: asked for {} requests/s, sent {}; {} of {} never left, and \
                 the latencies leave them out; {blame}",
                grouped(rate as u64),
                grouped(self.requests.sent_per_s.round() as u64),
                grouped(unsent),
                grouped(due),
            ));
        }
        if let Some(own) = own {
            notes.push(format!(
                "THE GENERATOR WAS LATE ITSELF: 1 request in 100 by {:.1} ms or more while a \
                 connection was free; the latencies include that",
                own.p99 / 1e3
            ));
        }
        if unsent == 0 && waited > 0 {
            notes.push(format!(
                "{} requests were due while every connection was waiting for an answer; their \
                 latencies include the wait",
                grouped(waited)
            ));
        }
        if let (Some(pid), None) = (settings.pid, self.server_cpu) {
            notes.push(format!("the process of --pid {pid} has gone"));
        }
        if self.anomalies.as_ref().is_some_and(|anomalies| anomalies.unknown > 0) {
            notes.push(
                "of some anomalies nobody knows whether they arrived; the truth leaves them out"
                    .into(),
            );
        }
        notes
    }
}

/// The summary for people.
pub fn table(settings: &LoadSettings, summary: &Summary) -> String {
    let Summary { requests, samples, connected, .. } = summary;
    let mut rows: Vec<(&str, String)> = Vec::new();
    let pace = match summary.rate {
        Some(rate) => format!("open loop, {} requests/s", grouped(rate as u64)),
        None => "closed loop".to_owned(),
    };
    let fleet = match summary.devices {
        Some(devices) => format!(", {} devices", grouped(devices as u64)),
        None => String::new(),
    };
    rows.push((
        "load",
        format!(
            "{pace} for {}, {} connections × {}, {} sample(s) of {}{fleet} in each",
            humantime::format_duration(settings.duration),
            grouped(summary.connections as u64),
            summary.pipeline,
            grouped(summary.batch as u64),
            summary.profile,
        ),
    ));
    let due = requests.due.map_or_else(String::new, |due| format!("{} due, ", grouped(due)));
    rows.push((
        "requests",
        format!(
            "{due}{} sent, {} answered with 2xx, {} failed",
            grouped(requests.sent),
            grouped(requests.good),
            grouped(requests.failed)
        ),
    ));
    rows.push((
        "goodput",
        format!(
            "{} requests/s, {} samples/s; {} samples accepted",
            rate(requests.good_per_s),
            rate(samples.accepted_per_s),
            grouped(samples.accepted)
        ),
    ));
    let by_status = summary.status.iter().map(|(status, n)| format!("{status}: {}", grouped(*n)));
    rows.push(("answers", by_status.collect::<Vec<_>>().join(", ")));
    let errors = [
        ("lost with their connection", requests.lost),
        ("not answered in time", requests.timeouts),
        ("answered with no HTTP", requests.malformed),
        ("failed attempts to connect", connected.errors),
        ("connections opened again", connected.reopened),
    ];
    let errors: Vec<_> = errors
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(name, n)| format!("{} {name}", grouped(*n)))
        .collect();
    rows.push(("errors", if errors.is_empty() { "none".into() } else { errors.join(", ") }));
    if let Some(anomalies) = &summary.anomalies {
        let unknown = match anomalies.unknown {
            0 => String::new(),
            n => format!(", {} unknown", grouped(n)),
        };
        rows.push(("anomalies", format!("{} accepted{unknown}", grouped(anomalies.accepted))));
    }
    for (name, cpu) in [("server", summary.server_cpu), ("generator", summary.generator_cpu)] {
        if let Some(cpu) = cpu {
            rows.push((name, cpu_text(cpu)));
        }
    }

    let mut text = format!("sigmad load {}\n\n", summary.url);
    for (name, value) in rows {
        writeln!(text, "  {name:<10} {value}").expect("a string grows");
    }
    let columns = ["µs", "p50", "p90", "p99", "p99.9", "p99.99", "max"];
    let mut line = format!("\n  {:<22}", columns[0]);
    for column in &columns[1..] {
        write!(line, "{column:>11}").expect("a string grows");
    }
    text += &line;
    text.push('\n');
    let from = if summary.rate.is_some() { "latency from due" } else { "latency from sent" };
    for (name, quantiles) in [
        (from, summary.latency_us),
        ("refusals", summary.refusal_latency_us),
        ("lateness of sending", summary.lateness_us),
        ("… generator's own", summary.own_lateness_us),
    ] {
        let Some(q) = quantiles else { continue };
        write!(text, "  {name:<22}").expect("a string grows");
        for value in [q.p50, q.p90, q.p99, q.p999, q.p9999, q.max] {
            write!(text, "{:>11}", grouped(value.round() as u64)).expect("a string grows");
        }
        text.push('\n');
    }
    for note in &summary.notes {
        writeln!(text, "\n  {note}").expect("a string grows");
    }
    text
}

fn cpu_text(cpu: CpuPerRequest) -> String {
    let ns = |value: Option<f64>| match value {
        Some(ns) => format!("{} ns", grouped(ns.round() as u64)),
        None => "no".to_owned(),
    };
    let split = match cpu.user_share {
        Some(user) => format!(
            "{:.0} % user, {:.0} % system (in ticks of {} ms)",
            user * 100.0,
            (1.0 - user) * 100.0,
            cpu.tick_ns / 1_000_000
        ),
        None => format!(
            "too little to tell user from system (in ticks of {} ms)",
            cpu.tick_ns / 1_000_000
        ),
    };
    format!(
        "{} of CPU a request, {} a sample; {:.2} cores; {split}",
        ns(cpu.ns_per_request),
        ns(cpu.ns_per_sample),
        cpu.cores
    )
}

/// Whole from a hundred on, with a decimal below.
fn rate(per_s: f64) -> String {
    if per_s < 100.0 { format!("{per_s:.1}") } else { grouped(per_s.round() as u64) }
}

/// With commas between thousands.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::testing::settings;

    const S: u64 = 1_000_000_000;

    fn outcome(sent: u64, good: u64, busy: u64) -> Outcome {
        let mut outcome = Outcome { sent, accepted: good, ..Outcome::default() };
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

    fn summary(args: &[&str], outcome: &Outcome) -> Summary {
        Summary::new(&settings(args), outcome, S, 0, None, None)
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
    fn a_rate_that_was_not_held_is_said_with_who_was_to_blame() {
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
    fn cpu_time_is_told_by_request_and_by_sample() {
        let before = CpuTime { total_ns: 5, user_ticks: 1, system_ticks: 1 };
        let after = CpuTime { total_ns: S + 5, user_ticks: 26, system_ticks: 76 };
        let cost = Cost::between(Some(before), Some(after)).expect("both");
        let cpu = CpuPerRequest::new(cost, 1_000, 100_000, 2.0);
        assert_eq!(cpu.ns_per_request, Some(1e6));
        assert_eq!((cpu.ns_per_sample, cpu.user_share, cpu.cores), (Some(1e4), Some(0.25), 0.5));
        let short = Cost { user_ticks: 1, ..cost };
        let short = Cost { system_ticks: 2, ..short };
        assert_eq!(CpuPerRequest::new(short, 0, 0, 1.0).user_share, None);
        assert!(Cost::between(None, Some(after)).is_none());
    }

    #[test]
    fn the_table_says_what_the_summary_says() {
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

    #[test]
    fn numbers_are_grouped() {
        for (n, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(n), text);
        }
    }
}
