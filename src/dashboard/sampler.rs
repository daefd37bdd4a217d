//! What is new, once a tick: rates and latencies from the counters, windows and anomalies from
//! analytics.
//!
//! Rates are those of the last second, latencies those of the last ten: a figure that people read
//! must not jump four times a second.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;

use serde::Serialize;
use serde::ser::Serializer;

use crate::analytics::report::{
    AnomaliesQuery, AnomalyReport, Asker, DeviceReport, DevicesQuery, DevicesSort, MetricReport,
    Question, RecentQuery, SampleReport, Scope, TotalsReport, WindowsReport,
};
use crate::analytics::thread::AnalyticsCounters;
use crate::http::counters::HttpCounters;
use crate::registry::Registry;
use crate::sample_queue::SampleQueueCounters;
use sigmad_clock::Now;
use sigmad_counters::Counts;
use sigmad_sample::{DeviceId, QUEUE_SAMPLES_MAX};

/// Metrics of the fleet that the page has charts for: four fit a screen.
pub const METRICS_SHOWN_MAX: usize = 4;
/// Anomalies in one event; more are only counted.
pub const ANOMALIES_TOLD_MAX: usize = 32;
/// Anomalies that a new page begins with.
pub const ANOMALIES_REMEMBERED_MAX: usize = 64;
/// Rows of the table of devices.
pub const DEVICES_SHOWN_MAX: usize = 20;
/// Values of a sparkline.
const SPARK_VALUES_MAX: usize = 50;
/// Samples of one device that a page which shows it begins with.
pub const SAMPLES_TOLD_MAX: usize = 1_000;
/// A device that was strange stays in the table for so long: a spike shorter than a tick is seen too.
const STRANGE_FOR_MS: u64 = 60_000;
/// What is looked back on for that: a table a second, and anomalies.
const STRANGE_MAX: usize = 60 * DEVICES_SHOWN_MAX + 512;

const RATES_OVER_MS: u64 = 1_000;
const LATENCIES_OVER_MS: u64 = 10_000;
/// Between two snapshots of the histograms.
const LATENCIES_STEP_MS: u64 = 1_000;

/// Counts of one worker since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct IngestCounts {
    /// POSTs with samples.
    pub requests: u64,
    /// Samples accepted.
    pub accepted: u64,
    /// Samples refused because they were wrong, or because `--max-streams` were in use.
    pub rejected: u64,
    /// Good samples refused because a queue was full.
    pub dropped: u64,
}

/// The counters of the POSTs of one worker.
pub trait IngestSource: Debug + Send + Sync {
    /// The counts so far.
    fn counts(&self) -> IngestCounts;

    /// Adds the durations of POSTs with samples.
    fn add_durations(&self, durations: &mut Counts);
}

/// The counters that the sampler reads; the vectors have one value for each worker.
#[derive(Debug)]
pub struct SamplerCounters {
    /// POSTs.
    pub ingest: Vec<Arc<dyn IngestSource>>,
    /// Connections.
    pub http: Vec<Arc<HttpCounters>>,
    /// Samples on their way to analytics.
    pub sample_queues: Vec<Arc<SampleQueueCounters>>,
    /// The analytics thread.
    pub analytics: Arc<AnalyticsCounters>,
}

/// Asks, and remembers what was told before.
#[derive(Debug)]
pub struct Sampler {
    asker: Asker,
    registry: Arc<Registry>,
    counters: SamplerCounters,
    counted: VecDeque<Counted>,
    timed: VecDeque<Timed>,
    anomalies: Latest,
    strange: VecDeque<Strange>,
}

/// The counters at one moment.
#[derive(Clone, Debug)]
struct Counted {
    at_ms: u64,
    workers: Vec<IngestCounts>,
    anomalies: u64,
}

/// The histograms at one moment.
#[derive(Clone, Debug)]
struct Timed {
    at_ms: u64,
    answers: Counts,
    verdicts: Counts,
}

/// The newest anomalies, oldest first, with the serial and the change of the last that was told.
#[derive(Debug, Default)]
struct Latest {
    serial: u64,
    change: u64,
    kept: VecDeque<AnomalyReport>,
}

/// A device that was stranger than others lately.
#[derive(Clone, Debug)]
struct Strange {
    device: Arc<str>,
    metric: Arc<str>,
    score: f64,
    at_ms: u64,
}

/// What one tick found of the whole.
#[derive(Debug)]
pub struct Snapshot {
    /// When.
    pub now: Now,
    /// Rates, latencies, totals.
    pub load: Load,
    /// Each worker.
    pub workers: Vec<Worker>,
    /// The fleet's windows.
    pub fleet: Vec<FleetMetric>,
    /// Anomalies that began, went on or ended since the last tick, newest first.
    pub anomalies: Vec<AnomalyReport>,
    /// Those that were only counted.
    pub anomalies_left_out: u64,
}

/// Rates a second over the last second; latencies over the last ten.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Load {
    /// POSTs.
    pub requests: f64,
    /// Samples accepted.
    pub accepted: f64,
    /// Samples refused because they were wrong, or for want of room for another stream.
    pub rejected: f64,
    /// Good samples refused because a queue was full.
    pub dropped: f64,
    /// Anomalies.
    pub anomalies: f64,
    /// Reading a POST to its answer.
    pub answer: Option<Latency>,
    /// Hand-over of a sample to its verdict.
    pub verdict: Option<Latency>,
    /// Samples that wait to be judged.
    pub queue: u64,
    /// What all queues hold.
    pub queue_max: u64,
    /// Samples judged since the start.
    pub samples: u64,
    /// Anomalies since the start.
    pub anomalies_total: u64,
    /// Devices with windows.
    pub devices: usize,
    /// Streams with windows.
    pub streams: usize,
}

/// Quantiles in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    p50: f64,
    p99: f64,
    p999: f64,
}

/// One worker; rates a second.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Worker {
    /// Samples that wait.
    pub queue: u64,
    /// POSTs.
    pub requests: f64,
    /// Samples accepted.
    pub accepted: f64,
    /// Open now.
    pub connections: u64,
}

/// One metric of the fleet.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FleetMetric {
    /// Its name.
    #[serde(skip)]
    pub name: Arc<str>,
    /// Mean of the window.
    pub mean: f64,
    /// Population standard deviation of the window.
    pub std_dev: f64,
    /// The last value.
    pub last: f64,
    /// Of the last value.
    pub z_score: f64,
}

/// The metrics of the fleet as an object.
pub struct ByName<'a>(pub &'a [FleetMetric]);

impl Serialize for ByName<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|metric| (&*metric.name, metric)))
    }
}

/// One row of the table of devices.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceRow {
    device: Box<str>,
    metric: Box<str>,
    last: f64,
    z_score: f64,
    /// The largest score of the last minute: of its anomalies, and as seen once a second.
    peak: f64,
    is_anomaly: bool,
    anomaly_count: u64,
    last_timestamp: Option<f64>,
    spark: Vec<f64>,
}

/// What one tick found of one device.
#[derive(Debug)]
pub struct DeviceSnapshot {
    /// Its windows; empty for a device that nobody has heard of.
    pub windows: WindowsReport,
    /// New samples, oldest first.
    pub samples: Vec<SampleReport>,
    /// Anomalies that began, went on or ended, oldest first.
    pub anomalies: Vec<AnomalyReport>,
}

/// What a page that shows one device was told before.
#[derive(Clone, Copy, Debug)]
pub struct DeviceIndex {
    /// The arrival of the last sample.
    pub arrived_us: i64,
    /// The last change of an anomaly.
    pub change: u64,
}

/// As few digits as a chart shows, to keep events small.
pub fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(4 - value.abs().log10().floor() as i32);
    // Past 1e300 and below 1e-300 there is no scale; those values stay as they are.
    if scale.is_normal() { (value * scale).round() / scale } else { value }
}

impl Sampler {
    /// Nothing told so far.
    pub fn new(asker: Asker, registry: Arc<Registry>, counters: SamplerCounters) -> Self {
        Self {
            asker,
            registry,
            counters,
            counted: VecDeque::new(),
            timed: VecDeque::new(),
            anomalies: Latest::default(),
            strange: VecDeque::new(),
        }
    }

    /// What is new of the whole. None once analytics has stopped.
    pub fn pulse(&mut self, now: Now) -> Option<Snapshot> {
        // Before the questions, which are answered once nothing waits any more.
        let queue = self.waiting();
        let totals = self.asker.ask(Question::Totals)?;
        let windows = self.asker.ask(|to| Question::Windows(None, Scope::Cluster, to))?;
        let (anomalies, anomalies_left_out) = self.new_anomalies(now)?;
        let at_ms = now.monotonic_ms();
        let counted = self.count(at_ms, &totals);
        let before = self.before(&counted);
        let (answer, verdict) = self.latencies(at_ms);
        let (load, workers) = self.load(&counted, &before, &totals, queue);
        self.counted.push_back(counted);
        Some(Snapshot {
            now,
            load: Load { answer, verdict, ..load },
            workers,
            fleet: fleet(&windows),
            anomalies,
            anomalies_left_out,
        })
    }

    /// Those that have changed since the last call, newest first, and how many more began.
    fn new_anomalies(&mut self, now: Now) -> Option<(Vec<AnomalyReport>, u64)> {
        let Latest { serial, change, kept } = &mut self.anomalies;
        let query = changed(None, ANOMALIES_TOLD_MAX, *change);
        let found = self.asker.ask(|to| Question::Anomalies(query, to))?;
        let last = *serial;
        let begun = found.iter().filter(|anomaly| anomaly.serial > last).count();
        *serial = found.first().map_or(last, |anomaly| anomaly.serial.max(last));
        let left_out = *serial - last - begun as u64;
        for anomaly in found.iter().rev() {
            *change = anomaly.change.max(*change);
            if let Some(known) = kept.iter_mut().find(|known| known.serial == anomaly.serial) {
                known.clone_from(anomaly);
            } else if anomaly.serial > last {
                if kept.len() == ANOMALIES_REMEMBERED_MAX {
                    kept.pop_front();
                }
                kept.push_back(anomaly.clone());
            }
            if let Some(device) = &anomaly.device {
                let (device, metric) = (device.clone(), anomaly.metric.clone());
                let (score, at_ms) = (anomaly.verdict.score, now.monotonic_ms());
                self.strange.push_back(Strange { device, metric, score, at_ms });
            }
        }
        Some((found, left_out))
    }

    /// The newest anomalies, of those that changed after that moment, oldest first.
    pub fn remembered(&self, after_us: i64) -> Vec<AnomalyReport> {
        let kept = self.anomalies.kept.iter();
        kept.filter(|anomaly| anomaly.changed_us > after_us).cloned().collect()
    }

    /// Samples handed over and not yet judged.
    fn waiting(&self) -> u64 {
        // The judged first: what is judged between the two reads is not below zero.
        let judged = self.counters.analytics.samples_total.get();
        let sent: u64 =
            self.counters.sample_queues.iter().map(|queue| queue.samples_total.get()).sum();
        sent.saturating_sub(judged)
    }

    fn count(&self, at_ms: u64, totals: &TotalsReport) -> Counted {
        let workers = self.counters.ingest.iter().map(|ingest| ingest.counts());
        let anomalies = totals.anomalies.iter().map(|(_, count)| count).sum();
        Counted { at_ms, workers: workers.collect(), anomalies }
    }

    /// What was counted a second ago, or, after a longer silence, last.
    fn before(&mut self, counted: &Counted) -> Counted {
        while self.counted.get(1).is_some_and(|next| next.at_ms + RATES_OVER_MS <= counted.at_ms) {
            self.counted.pop_front();
        }
        self.counted.front().unwrap_or(counted).clone()
    }

    fn load(
        &self,
        counted: &Counted,
        before: &Counted,
        totals: &TotalsReport,
        queue: u64,
    ) -> (Load, Vec<Worker>) {
        let elapsed_s = (counted.at_ms - before.at_ms) as f64 / 1e3;
        let rate = |now: u64, before: u64| {
            if elapsed_s > 0.0 { rounded((now - before) as f64 / elapsed_s) } else { 0.0 }
        };
        let both = || counted.workers.iter().zip(&before.workers);
        let sum = |of: fn(&IngestCounts) -> u64| {
            rate(both().map(|(now, _)| of(now)).sum(), both().map(|(_, before)| of(before)).sum())
        };
        let workers = both().enumerate().map(|(index, (now, before))| Worker {
            // A producer learns what was judged when it next sends: until then its own count is too high.
            queue: self.counters.sample_queues[index].samples_in_flight.get().min(queue),
            requests: rate(now.requests, before.requests),
            accepted: rate(now.accepted, before.accepted),
            connections: self.counters.http[index].open.get(),
        });
        let workers: Vec<Worker> = workers.collect();
        let load = Load {
            requests: sum(|worker| worker.requests),
            accepted: sum(|worker| worker.accepted),
            rejected: sum(|worker| worker.rejected),
            dropped: sum(|worker| worker.dropped),
            anomalies: rate(counted.anomalies, before.anomalies),
            answer: None,
            verdict: None,
            queue,
            queue_max: (QUEUE_SAMPLES_MAX * workers.len()) as u64,
            samples: totals.samples,
            anomalies_total: counted.anomalies,
            devices: totals.devices,
            streams: totals.streams,
        };
        (load, workers)
    }

    /// Of answers to POSTs, and of verdicts.
    fn latencies(&mut self, at_ms: u64) -> (Option<Latency>, Option<Latency>) {
        let mut answers = Counts::default();
        self.counters.ingest.iter().for_each(|ingest| ingest.add_durations(&mut answers));
        let mut verdicts = Counts::default();
        self.counters.analytics.lag.merge_into(&mut verdicts);
        let timed = Timed { at_ms, answers, verdicts };
        while self.timed.get(1).is_some_and(|next| next.at_ms + LATENCIES_OVER_MS <= at_ms) {
            self.timed.pop_front();
        }
        let before = self.timed.front().unwrap_or(&timed);
        let told = (
            Latency::of(&timed.answers.since(&before.answers)),
            Latency::of(&timed.verdicts.since(&before.verdicts)),
        );
        if self.timed.back().is_none_or(|last| last.at_ms + LATENCIES_STEP_MS <= at_ms) {
            self.timed.push_back(timed);
        }
        told
    }

    /// The strangest devices, of this moment and of the last minute. None once analytics has stopped.
    pub fn devices(&mut self, now: Now) -> Option<Vec<DeviceRow>> {
        let at_ms = now.monotonic_ms();
        let (limit, sort) = (DEVICES_SHOWN_MAX, DevicesSort::Score);
        let query = DevicesQuery { limit, sort, search: None };
        let strangest = self.asker.ask(|to| Question::Devices(query, to))?;
        self.strange.extend(strangest.into_iter().map(
            |DeviceReport { device, metric, score, .. }| Strange { device, metric, score, at_ms },
        ));
        let oldest_ms = at_ms.saturating_sub(STRANGE_FOR_MS);
        let forgotten = self.strange.partition_point(|strange| strange.at_ms < oldest_ms);
        let too_many = self.strange.len().saturating_sub(STRANGE_MAX);
        self.strange.drain(..forgotten.max(too_many));

        // The largest score of each, and of what metric it was.
        let mut peaks: HashMap<&str, &Strange> = HashMap::new();
        for strange in &self.strange {
            let peak = peaks.entry(&strange.device).or_insert(strange);
            if strange.score > peak.score {
                *peak = strange;
            }
        }
        let mut peaks: Vec<&Strange> = peaks.into_values().collect();
        peaks.sort_by(|one, other| {
            other.score.total_cmp(&one.score).then_with(|| one.device.cmp(&other.device))
        });
        let mut rows = Vec::new();
        for Strange { device, metric, score, .. } in peaks.into_iter().take(DEVICES_SHOWN_MAX) {
            let Some(id) = self.registry.find_device(device) else { continue };
            let windows = self.asker.ask(|to| Question::Windows(Some(id), Scope::Cluster, to))?;
            let found = windows.metrics.iter().find(|report| report.metric == *metric);
            rows.extend(found.map(|report| row(device, report, &windows, *score)));
        }
        Some(rows)
    }

    /// What is new of one device behind `place`, which moves on. None once analytics has stopped.
    pub fn device(&self, name: &str, place: &mut DeviceIndex) -> Option<DeviceSnapshot> {
        let Some(id) = self.registry.find_device(name) else {
            let windows = WindowsReport::default();
            return Some(DeviceSnapshot { windows, samples: Vec::new(), anomalies: Vec::new() });
        };
        let windows = self.asker.ask(|to| Question::Windows(Some(id), Scope::Cluster, to))?;
        let since_us = place.arrived_us.saturating_add(1);
        let query = RecentQuery { device: Some(id), limit: SAMPLES_TOLD_MAX, since_us };
        let mut samples = self.asker.ask(|to| Question::Latest(query, to))?;
        let query = changed(Some(id), ANOMALIES_REMEMBERED_MAX, place.change);
        let mut anomalies = self.asker.ask(|to| Question::Anomalies(query, to))?;
        samples.reverse();
        anomalies.reverse();
        place.arrived_us = samples.last().map_or(place.arrived_us, |sample| sample.arrived_us);
        let last = anomalies.iter().map(|anomaly| anomaly.change).max();
        place.change = last.unwrap_or(place.change);
        Some(DeviceSnapshot { windows, samples, anomalies })
    }
}

fn changed(device: Option<DeviceId>, limit: usize, after_change: u64) -> AnomaliesQuery {
    AnomaliesQuery { device, limit, since_us: i64::MIN, after_change }
}

impl Latency {
    fn of(counts: &Counts) -> Option<Self> {
        let ms = |q| counts.quantile_ns(q).map(|ns| rounded(ns as f64 / 1e6));
        Some(Self { p50: ms(0.5)?, p99: ms(0.99)?, p999: ms(0.999)? })
    }
}

/// The metrics that have a chart: the usual two first.
fn fleet(windows: &WindowsReport) -> Vec<FleetMetric> {
    let place = |report: &&MetricReport| match &*report.metric {
        "rps" => 0,
        "cpu" => 1,
        _ => 2,
    };
    let mut reports: Vec<&MetricReport> = windows.metrics.iter().collect();
    reports.sort_by_key(place);
    let shown = reports.into_iter().take(METRICS_SHOWN_MAX).map(|report| FleetMetric {
        name: report.metric.clone(),
        mean: rounded(report.mean),
        std_dev: rounded(report.std_dev),
        last: rounded(last(report)),
        z_score: rounded(report.verdict.z_score),
    });
    shown.collect()
}

fn last(report: &MetricReport) -> f64 {
    *report.values.last().expect("a reported window is never empty")
}

fn row(device: &str, report: &MetricReport, windows: &WindowsReport, peak: f64) -> DeviceRow {
    let from = report.values.len().saturating_sub(SPARK_VALUES_MAX);
    DeviceRow {
        device: device.into(),
        metric: (*report.metric).into(),
        last: rounded(last(report)),
        z_score: rounded(report.verdict.z_score),
        peak: rounded(peak),
        is_anomaly: windows.metrics.iter().any(|metric| metric.verdict.is_anomaly),
        anomaly_count: windows.metrics.iter().map(|metric| metric.anomaly_count).sum(),
        last_timestamp: windows.last_timestamp_us.map(|us| (us / 1_000) as f64 / 1e3),
        spark: report.values[from..].iter().map(|value| rounded(*value)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::testing::{FakeIngest, counters};
    use crate::test_reports::asker;

    fn sampler(ingest: Arc<FakeIngest>) -> Sampler {
        let registry = Arc::new(Registry::new(1_000, 3_600));
        Sampler::new(asker().0, registry, counters(ingest))
    }

    fn at(ms: u64) -> Now {
        Now { monotonic_ns: ms * 1_000_000, wall_us: 1_735_100_000_000_000 + ms as i64 * 1_000 }
    }

    #[test]
    fn rates_are_those_of_the_last_second() {
        let ingest = Arc::<FakeIngest>::default();
        let mut sampler = sampler(ingest.clone());
        let mut rates = Vec::new();
        for tick in 0..20 {
            // A thousand a second at first, then silence.
            ingest.accepted.add(if tick < 8 { 250 } else { 0 });
            ingest.dropped.add(1);
            rates.push(sampler.pulse(at(tick * 250)).expect("running").load.accepted);
        }
        assert_eq!(rates[..2], [0.0, 1000.0]);
        assert_eq!(rates[5], 1000.0);
        assert_eq!(rates[9], 500.0);
        assert!(rates[12..].iter().all(|rate| *rate == 0.0), "{rates:?}");
        assert!(sampler.counted.len() <= 6, "what is older is forgotten");
    }

    #[test]
    fn latencies_are_those_of_the_last_ten_seconds() {
        let ingest = Arc::<FakeIngest>::default();
        let mut sampler = sampler(ingest.clone());
        let mut told = Vec::new();
        for second in 0..30 {
            let ns = if second < 10 { 1_000_000 } else { 50_000 };
            ingest.durations.record(ns, 100);
            let load = sampler.pulse(at(second * 1_000)).expect("running").load;
            told.push(load.answer.map(|answer| answer.p99));
        }
        assert_eq!(told[0], None);
        assert!((1.0..1.2).contains(&told[9].expect("known")));
        assert!((0.05..0.06).contains(&told[29].expect("known")));
        assert!(sampler.timed.len() <= 12);
    }

    #[test]
    fn an_anomaly_is_told_once_and_remembered() {
        let mut sampler = sampler(Arc::default());
        // The doubled analytics thread tells the same anomalies whenever it is asked.
        assert_eq!(sampler.pulse(at(0)).expect("running").anomalies[0].serial, 32);
        assert!(sampler.pulse(at(250)).expect("running").anomalies.is_empty());
        assert!(!sampler.remembered(i64::MIN).is_empty());
        assert!(sampler.remembered(1).is_empty());
    }

    #[test]
    fn numbers_are_cut_to_what_a_chart_shows() {
        for (value, expected) in [
            (0.0, 0.0),
            (123_456.789, 123_460.0),
            (-0.000_123_456, -0.000_123_46),
            (1e15, 1e15),
            (2000.0, 2000.0),
            (5e-320, 5e-320),
        ] {
            assert_eq!(rounded(value), expected);
        }
    }
}
