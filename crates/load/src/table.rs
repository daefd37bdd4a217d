//! The summary as a table for people.

use std::fmt::Write as _;

use super::numbers::grouped;
use super::report::{CpuPerRequest, LoadSummary, TimeQuantiles};
use super::settings::LoadSettings;

/// The whole table.
pub fn table(settings: &LoadSettings, summary: &LoadSummary) -> String {
    let mut text = format!("sigmad load {}\n\n", summary.url);
    for (name, value) in rows(settings, summary) {
        writeln!(text, "  {name:<10} {value}").expect("a string grows");
    }
    write!(text, "\n  {:<22}", "µs").expect("a string grows");
    for column in ["p50", "p90", "p99", "p99.9", "p99.99", "max"] {
        write!(text, "{column:>11}").expect("a string grows");
    }
    text.push('\n');
    let from = if summary.rate.is_some() { "latency from due" } else { "latency from sent" };
    for (name, quantiles) in [
        (from, summary.latency_us),
        ("latency of non-2xx", summary.refusal_latency_us),
        ("lateness of sending", summary.lateness_us),
        ("… generator's own", summary.own_lateness_us),
    ] {
        if let Some(quantiles) = quantiles {
            quantile_line(&mut text, name, quantiles);
        }
    }
    for note in &summary.notes {
        writeln!(text, "\n  {note}").expect("a string grows");
    }
    text
}

fn rows(settings: &LoadSettings, summary: &LoadSummary) -> Vec<(&'static str, String)> {
    let LoadSummary { requests, samples, .. } = summary;
    let due = requests.due.map_or_else(String::new, |due| format!("{} due, ", grouped(due)));
    let by_status = summary.status.iter().map(|(status, n)| format!("{status}: {}", grouped(*n)));
    let mut rows = vec![
        ("load", load_text(settings, summary)),
        (
            "requests",
            format!(
                "{due}{} sent, {} answered with 2xx, {} failed",
                grouped(requests.sent),
                grouped(requests.good),
                grouped(requests.failed)
            ),
        ),
        (
            "goodput",
            format!(
                "{} requests/s, {} samples/s; {} samples accepted",
                rate(requests.good_per_s),
                rate(samples.accepted_per_s),
                grouped(samples.accepted)
            ),
        ),
        ("answers", by_status.collect::<Vec<_>>().join(", ")),
        ("errors", errors_text(summary)),
    ];
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
    rows
}

fn load_text(settings: &LoadSettings, summary: &LoadSummary) -> String {
    let mode = match summary.rate {
        Some(rate) => format!("open loop, {} requests/s", grouped(rate as u64)),
        None => "closed loop".to_owned(),
    };
    let fleet = match summary.devices {
        Some(devices) => format!(", {} devices", grouped(devices as u64)),
        None => String::new(),
    };
    format!(
        "{mode} for {}, {} connections × {}, {} sample(s) of {}{fleet} in each",
        humantime::format_duration(settings.duration),
        grouped(summary.connections as u64),
        summary.pipeline,
        grouped(summary.batch as u64),
        summary.profile,
    )
}

fn errors_text(summary: &LoadSummary) -> String {
    let LoadSummary { requests, connected, .. } = summary;
    let errors: Vec<_> = [
        ("lost with their connection", requests.lost),
        ("not answered in time", requests.timeouts),
        ("answered with invalid HTTP", requests.malformed),
        ("failed attempts to connect", connected.errors),
        ("connections opened again", connected.reopened),
    ]
    .iter()
    .filter(|(_, n)| *n > 0)
    .map(|(name, n)| format!("{} {name}", grouped(*n)))
    .collect();
    if errors.is_empty() { "none".into() } else { errors.join(", ") }
}

fn quantile_line(text: &mut String, name: &str, quantiles: TimeQuantiles) {
    let TimeQuantiles { p50, p90, p99, p999, p9999, max, .. } = quantiles;
    write!(text, "  {name:<22}").expect("a string grows");
    for value in [p50, p90, p99, p999, p9999, max] {
        write!(text, "{:>11}", grouped(value.round() as u64)).expect("a string grows");
    }
    text.push('\n');
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
        None => {
            format!("too few ticks of {} ms to separate user and system", cpu.tick_ns / 1_000_000)
        }
    };
    format!(
        "{} of CPU per request, {} per sample; {:.2} cores; {split}",
        ns(cpu.ns_per_request),
        ns(cpu.ns_per_sample),
        cpu.cores
    )
}

/// A whole number from a hundred on, one decimal below.
fn rate(per_s: f64) -> String {
    if per_s < 100.0 { format!("{per_s:.1}") } else { grouped(per_s.round() as u64) }
}
