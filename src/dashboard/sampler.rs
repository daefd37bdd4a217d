//! The changes since the last tick: rates and latencies from the counters, windows and anomalies from analytics.
//!
//! Rates cover one second and latencies ten, so that the figures on a page stay readable at four ticks a second.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;

use super::figures::{
    self, DeviceRow, FleetMetric, LatencyQuantiles, LoadFigures, WorkerFigures, rounded,
};
use crate::analytics::Asker;
use crate::analytics::report::{
    AnomaliesQuery, AnomalyReport, DeviceReport, DevicesQuery, DevicesSort, RecentQuery,
    SampleReport, Scope, SeriesQuery, SeriesSelection, TotalsReport, WindowsReport,
};
use crate::analytics::thread::AnalyticsCounters;
use crate::http::counters::HttpCounters;
use crate::lists::{Elsewhere, ListedAnomaly, Lists};
use crate::registry::Registry;
use crate::sample_queue::SampleQueueCounters;
use sigmad_clock::Now;
use sigmad_counters::Counts;
use sigmad_sample::{DeviceId, QUEUE_SAMPLES_MAX};

/// Anomalies in one event; the rest are only counted.
const ANOMALIES_PER_EVENT_MAX: usize = 32;
/// Anomalies in the first event of a client.
const ANOMALIES_KEPT_MAX: usize = 64;
/// Rows of the table of devices.
const DEVICES_SHOWN_MAX: usize = 20;
/// Samples of one device in one event.
const SAMPLES_PER_EVENT_MAX: usize = 1_000;
/// How long an unusual device stays in the table, so that a spike shorter than a tick is shown.
const UNUSUAL_FOR_MS: u64 = 60_000;
/// Unusual devices kept: one table a second, and anomalies.
const UNUSUAL_MAX: usize = 60 * DEVICES_SHOWN_MAX + 512;

/// The interval that rates cover.
const RATES_OVER_MS: u64 = 1_000;
/// The interval that latencies cover.
const LATENCIES_OVER_MS: u64 = 10_000;
/// Interval between copies of the histograms.
const LATENCIES_STEP_MS: u64 = 1_000;

/// Counts of one worker since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct IngestCounts {
    /// POSTs with samples.
    pub requests: u64,
    /// Samples accepted.
    pub accepted: u64,
    /// Samples refused because they were invalid, or because `--max-streams` were in use.
    pub rejected: u64,
    /// Valid samples refused because a queue was full.
    pub dropped: u64,
}

/// The counters of the POSTs of one worker.
pub trait IngestSource: Debug + Send + Sync {
    /// The counts so far.
    fn counts(&self) -> IngestCounts;

    /// Adds the durations of POSTs with samples.
    fn add_durations(&self, durations: &mut Counts);
}

/// The counters that the sampler reads; each vector has one value per worker.
#[derive(Debug)]
pub struct SamplerCounters {
    /// POSTs.
    pub ingest: Vec<Arc<dyn IngestSource>>,
    /// Connections.
    pub http: Vec<Arc<HttpCounters>>,
    /// Samples in the analytics queues.
    pub sample_queues: Vec<Arc<SampleQueueCounters>>,
    /// The analytics thread.
    pub analytics: Vec<Arc<AnalyticsCounters>>,
}

/// Computes the changes; keeps the state of the last tick.
#[derive(Debug)]
pub struct Sampler {
    asker: Asker,
    lists: Lists,
    registry: Arc<Registry>,
    counters: SamplerCounters,
    counted: VecDeque<CountsAt>,
    timed: VecDeque<LatenciesAt>,
    anomalies: RecentAnomalies,
    unusual: VecDeque<UnusualDevice>,
}

/// The counters at one moment.
#[derive(Clone, Debug)]
struct CountsAt {
    at_ms: u64,
    workers: Vec<IngestCounts>,
    anomalies: u64,
}

/// The histograms at one moment.
#[derive(Clone, Debug)]
struct LatenciesAt {
    at_ms: u64,
    answers: Counts,
    verdicts: Counts,
}

/// The newest anomalies, oldest first, and how many there were.
#[derive(Debug, Default)]
struct RecentAnomalies {
    begun: u64,
    /// All up to this serial have been asked for.
    serial: u64,
    /// All changes up to this one have been asked for.
    change: u64,
    /// What other replicas have changed is known that far. None before the first look: then it is no news.
    elsewhere: Option<Elsewhere>,
    kept: VecDeque<ListedAnomaly>,
}

/// A device with one of the largest scores at one moment.
#[derive(Clone, Debug)]
struct UnusualDevice {
    device: Arc<str>,
    metric: Arc<str>,
    score: f64,
    at_ms: u64,
}

/// The figures of one tick for the whole server.
#[derive(Debug)]
pub struct Snapshot {
    /// The time of the tick.
    pub now: Now,
    /// Rates, latencies, totals.
    pub load: LoadFigures,
    /// One value per worker.
    pub workers: Vec<WorkerFigures>,
    /// The fleet's windows that have a chart.
    pub fleet: Vec<FleetMetric>,
    /// How many others the fleet has.
    pub fleet_left_out: usize,
    /// Anomalies that began, went on or ended since the last tick, newest first.
    pub anomalies: Vec<ListedAnomaly>,
    /// New anomalies that are only counted.
    pub anomalies_left_out: u64,
}

/// The changes of one device.
#[derive(Debug)]
pub struct DeviceSnapshot {
    /// Its windows; empty for an unknown device.
    pub windows: WindowsReport,
    /// New samples, oldest first.
    pub samples: Vec<SampleReport>,
    /// Anomalies that began, went on or ended, oldest first.
    pub anomalies: Vec<ListedAnomaly>,
}

/// The position of a device feed: what its clients have received.
#[derive(Clone, Copy, Debug)]
pub struct DeviceCursor {
    /// The arrival of the last sample.
    pub arrived_us: i64,
    /// The number of the last change of an anomaly.
    pub change: u64,
    /// What other replicas have received and changed.
    pub elsewhere: Elsewhere,
}

impl DeviceCursor {
    /// Whatever there is.
    pub const ALL: Self =
        Self { arrived_us: i64::MAX, change: u64::MAX, elsewhere: Elsewhere::ALL };

    /// Its clients have received what arrived by that time, and no anomalies.
    pub const fn after(arrived_us: i64) -> Self {
        Self { arrived_us, change: 0, elsewhere: Elsewhere::NOTHING }
    }
}

impl RecentAnomalies {
    /// Keeps an anomaly in place of what it was; a new one only if `is_new`. True if it was not kept before.
    fn keep(&mut self, anomaly: &ListedAnomaly, is_new: bool) -> bool {
        let id = |one: &ListedAnomaly| (one.replica, one.report.serial);
        if let Some(known) = self.kept.iter_mut().find(|known| id(known) == id(anomaly)) {
            known.clone_from(anomaly);
            return false;
        }
        if is_new {
            if self.kept.len() == ANOMALIES_KEPT_MAX {
                self.kept.pop_front();
            }
            self.kept.push_back(anomaly.clone());
        }
        is_new
    }
}

impl Sampler {
    /// A sampler before its first tick.
    pub fn new(
        asker: Asker,
        lists: Lists,
        registry: Arc<Registry>,
        counters: SamplerCounters,
    ) -> Self {
        Self {
            asker,
            lists,
            registry,
            counters,
            counted: VecDeque::new(),
            timed: VecDeque::new(),
            anomalies: RecentAnomalies::default(),
            unusual: VecDeque::new(),
        }
    }

    /// The figures of the whole server. None once analytics has stopped.
    pub fn snapshot(&mut self, now: Now) -> Option<Snapshot> {
        // Before the questions: analytics empties the queues before it answers.
        let queue = self.queued_samples();
        let totals = self.asker.totals()?;
        let windows = self.asker.windows(None, Scope::Cluster)?;
        let (anomalies, anomalies_left_out) = self.new_anomalies(now)?;
        let at_ms = now.monotonic_ms();
        let counted = self.count(at_ms, &totals);
        let before = self.before(&counted);
        let (answer, verdict) = self.latencies(at_ms);
        let (load, workers) = self.load(&counted, &before, &totals, queue);
        self.counted.push_back(counted);
        let fleet = figures::fleet(&windows);
        Some(Snapshot {
            now,
            load: LoadFigures { answer, verdict, ..load },
            workers,
            fleet_left_out: windows.metrics.len() + windows.other_metrics - fleet.len(),
            fleet,
            anomalies,
            anomalies_left_out,
        })
    }

    /// Anomalies that changed since the last call, newest first, and the number of further new ones.
    fn new_anomalies(&mut self, now: Now) -> Option<(Vec<ListedAnomaly>, u64)> {
        let replica = self.lists.replica();
        let known = &mut self.anomalies;
        let query = changed(None, ANOMALIES_PER_EVENT_MAX, known.change);
        let report = self.asker.anomalies(query)?;
        let listed = |report| ListedAnomaly { replica, report };
        let mut anomalies: Vec<_> = report.anomalies.into_iter().map(listed).collect();
        let mut new = 0;
        for anomaly in anomalies.iter().rev() {
            known.change = anomaly.report.change.max(known.change);
            let is_new = anomaly.report.serial > known.serial;
            new += u64::from(known.keep(anomaly, is_new));
        }
        // What came later from some shards, and may be missing from others, is asked for again.
        known.change = report.change.min(known.change);
        known.serial = report.serial.max(known.serial);
        let mut left_out = (report.begun - known.begun).saturating_sub(new);
        known.begun = report.begun;
        let is_first = known.elsewhere.is_none();
        let elsewhere = known.elsewhere.get_or_insert(Elsewhere::NOTHING);
        let mut others = self.lists.anomalies_elsewhere((elsewhere, Elsewhere::ALL), None);
        let kept = if is_first { ANOMALIES_KEPT_MAX } else { ANOMALIES_PER_EVENT_MAX };
        let too_many = others.len().saturating_sub(kept);
        others.drain(..too_many);
        others.iter().for_each(|anomaly| _ = known.keep(anomaly, true));
        if !is_first {
            left_out += too_many as u64;
            anomalies.extend(others.into_iter().rev());
        }
        for anomaly in anomalies.iter().rev() {
            let AnomalyReport { device, metric, verdict, .. } = &anomaly.report;
            if let Some(device) = device {
                let (device, metric) = (device.clone(), metric.clone());
                let (score, at_ms) = (verdict.score, now.monotonic_ms());
                self.unusual.push_back(UnusualDevice { device, metric, score, at_ms });
            }
        }
        Some((anomalies, left_out))
    }

    /// Recent anomalies that changed after that moment, oldest first.
    pub fn recent_anomalies(&self, after_us: i64) -> Vec<ListedAnomaly> {
        let kept = self.anomalies.kept.iter();
        kept.filter(|anomaly| anomaly.report.changed_us > after_us).cloned().collect()
    }

    /// Samples sent to analytics and not yet judged.
    fn queued_samples(&self) -> u64 {
        // Judged samples first: those judged between the two reads must not give a negative number.
        let shards = self.counters.analytics.iter();
        let judged: u64 = shards.map(|shard| shard.samples_total.get()).sum();
        let sent: u64 =
            self.counters.sample_queues.iter().map(|queue| queue.samples_total.get()).sum();
        sent.saturating_sub(judged)
    }

    fn count(&self, at_ms: u64, totals: &TotalsReport) -> CountsAt {
        let workers = self.counters.ingest.iter().map(|ingest| ingest.counts());
        let anomalies = totals.anomalies.iter().map(|(_, count)| count).sum();
        CountsAt { at_ms, workers: workers.collect(), anomalies }
    }

    /// The counts of one second ago, or the last ones before that.
    fn before(&mut self, counted: &CountsAt) -> CountsAt {
        while self.counted.get(1).is_some_and(|next| next.at_ms + RATES_OVER_MS <= counted.at_ms) {
            self.counted.pop_front();
        }
        self.counted.front().unwrap_or(counted).clone()
    }

    fn load(
        &self,
        counted: &CountsAt,
        before: &CountsAt,
        totals: &TotalsReport,
        queue: u64,
    ) -> (LoadFigures, Vec<WorkerFigures>) {
        let elapsed_s = (counted.at_ms - before.at_ms) as f64 / 1e3;
        let rate = |now: u64, before: u64| {
            if elapsed_s > 0.0 { rounded((now - before) as f64 / elapsed_s) } else { 0.0 }
        };
        let both = || counted.workers.iter().zip(&before.workers);
        let sum = |of: fn(&IngestCounts) -> u64| {
            rate(both().map(|(now, _)| of(now)).sum(), both().map(|(_, before)| of(before)).sum())
        };
        let workers = both().enumerate().map(|(index, (now, before))| WorkerFigures {
            // A producer learns what was judged when it next sends; until then its own count is too high.
            queue: self.counters.sample_queues[index].samples_in_flight.get().min(queue),
            requests: rate(now.requests, before.requests),
            accepted: rate(now.accepted, before.accepted),
            connections: self.counters.http[index].open.get(),
        });
        let workers: Vec<WorkerFigures> = workers.collect();
        let load = LoadFigures {
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
            watched: totals.watched.into(),
        };
        (load, workers)
    }

    /// The latencies of responses to POSTs, and of verdicts.
    fn latencies(&mut self, at_ms: u64) -> (Option<LatencyQuantiles>, Option<LatencyQuantiles>) {
        let mut answers = Counts::default();
        self.counters.ingest.iter().for_each(|ingest| ingest.add_durations(&mut answers));
        let mut verdicts = Counts::default();
        self.counters.analytics.iter().for_each(|shard| shard.lag.merge_into(&mut verdicts));
        let timed = LatenciesAt { at_ms, answers, verdicts };
        while self.timed.get(1).is_some_and(|next| next.at_ms + LATENCIES_OVER_MS <= at_ms) {
            self.timed.pop_front();
        }
        let before = self.timed.front().unwrap_or(&timed);
        let latencies = (
            LatencyQuantiles::of(&timed.answers.since(&before.answers)),
            LatencyQuantiles::of(&timed.verdicts.since(&before.verdicts)),
        );
        if self.timed.back().is_none_or(|last| last.at_ms + LATENCIES_STEP_MS <= at_ms) {
            self.timed.push_back(timed);
        }
        latencies
    }

    /// The devices with the largest scores, now and within the last minute. None once analytics has stopped.
    pub fn devices(&mut self, now: Now) -> Option<Vec<DeviceRow>> {
        let at_ms = now.monotonic_ms();
        let (limit, sort) = (DEVICES_SHOWN_MAX, DevicesSort::Score);
        let query = DevicesQuery { limit, sort, search: None, after: None, scope: Scope::Cluster };
        let devices = self.asker.devices(&query)?;
        self.unusual.extend(devices.into_iter().map(
            |DeviceReport { device, metric, score, .. }| UnusualDevice {
                device,
                metric,
                score,
                at_ms,
            },
        ));
        let oldest_ms = at_ms.saturating_sub(UNUSUAL_FOR_MS);
        let expired = self.unusual.partition_point(|device| device.at_ms < oldest_ms);
        let too_many = self.unusual.len().saturating_sub(UNUSUAL_MAX);
        self.unusual.drain(..expired.max(too_many));

        // The largest score of each device, with its metric.
        let mut peaks: HashMap<&str, &UnusualDevice> = HashMap::new();
        for device in &self.unusual {
            let peak = peaks.entry(&device.device).or_insert(device);
            if device.score > peak.score {
                *peak = device;
            }
        }
        let mut peaks: Vec<&UnusualDevice> = peaks.into_values().collect();
        peaks.sort_by(|one, other| {
            other.score.total_cmp(&one.score).then_with(|| one.device.cmp(&other.device))
        });
        let mut rows = Vec::new();
        for UnusualDevice { device, metric, score, .. } in peaks.into_iter().take(DEVICES_SHOWN_MAX)
        {
            let Some(id) = self.registry.find_device(device) else { continue };
            let windows = self.asker.windows(Some(id), Scope::Cluster)?;
            let found = windows.metrics.iter().find(|report| report.metric == *metric);
            rows.extend(found.map(|report| DeviceRow::new(device, report, &windows, *score)));
        }
        Some(rows)
    }

    /// Chosen series of the fleet, and how many others it has. None once analytics has stopped.
    pub fn fleet_series(&self, series: &[Box<str>]) -> Option<(Vec<FleetMetric>, usize)> {
        let report = self.windows(None, series)?;
        Some((report.metrics.iter().map(FleetMetric::from).collect(), report.other_metrics))
    }

    /// The windows of a device or of the fleet: these series, or without any those that there is room for.
    fn windows(&self, device: Option<DeviceId>, series: &[Box<str>]) -> Option<WindowsReport> {
        if series.is_empty() {
            return self.asker.windows(device, Scope::Cluster);
        }
        let named = series.iter().filter_map(|name| self.registry.find_metric(name)).collect();
        let (selection, limit) = (SeriesSelection::Named(named), series.len());
        let query = SeriesQuery { device, scope: Scope::Cluster, selection, limit };
        self.asker.series(query)
    }

    /// The changes of one device after `cursor`, which advances, up to `until`: of these series, or without any of all.
    /// None once analytics has stopped.
    pub fn device(
        &self,
        name: &str,
        series: &[Box<str>],
        cursor: &mut DeviceCursor,
        until: &DeviceCursor,
    ) -> Option<DeviceSnapshot> {
        let Some(id) = self.registry.find_device(name) else {
            let windows = WindowsReport::default();
            return Some(DeviceSnapshot { windows, samples: Vec::new(), anomalies: Vec::new() });
        };
        let windows = self.windows(Some(id), series)?;
        let since_us = cursor.arrived_us.saturating_add(1);
        let limit = SAMPLES_PER_EVENT_MAX;
        let query = RecentQuery { device: Some(id), limit, since_us, listed_samples: None };
        let mut samples = self.asker.latest(query)?;
        let query = changed(Some(id), ANOMALIES_KEPT_MAX, cursor.change);
        let reports = self.asker.anomalies(query)?.anomalies.into_iter();
        let replica = self.lists.replica();
        let mut anomalies: Vec<_> =
            reports.map(|report| ListedAnomaly { replica, report }).collect();
        samples.retain(|sample| sample.arrived_us <= until.arrived_us);
        anomalies.retain(|anomaly| anomaly.report.change <= until.change);
        samples.reverse();
        anomalies.reverse();
        cursor.arrived_us = samples.last().map_or(cursor.arrived_us, |sample| sample.arrived_us);
        let last = anomalies.iter().map(|anomaly| anomaly.report.change).max();
        cursor.change = last.unwrap_or(cursor.change);
        let elsewhere = &mut cursor.elsewhere;
        let others = self.lists.anomalies_elsewhere((elsewhere, until.elsewhere), Some(name));
        anomalies.extend(others);
        samples.extend(self.lists.samples_elsewhere((elsewhere, until.elsewhere), name));
        samples.sort_by_key(|sample| sample.arrived_us);
        samples.drain(..samples.len().saturating_sub(SAMPLES_PER_EVENT_MAX));
        if !series.is_empty() {
            for sample in &mut samples {
                let is_chosen = |name: &str| series.iter().any(|chosen| **chosen == *name);
                sample.readings.retain(|(name, _)| is_chosen(name));
            }
            samples.retain(|sample| !sample.readings.is_empty());
        }
        Some(DeviceSnapshot { windows, samples, anomalies })
    }
}

fn changed(device: Option<DeviceId>, limit: usize, after_change: u64) -> AnomaliesQuery {
    AnomaliesQuery { device, limit, since_us: i64::MIN, after_change, listed_change: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dashboard::testing::{FakeIngest, counters};
    use crate::test_reports::asker;

    fn sampler(ingest: Arc<FakeIngest>) -> Sampler {
        let registry = Arc::new(Registry::new(1_000, 3_600));
        let asker = asker().0;
        let lists = Lists::new(asker.clone(), registry.clone(), None, i64::MAX / 4);
        Sampler::new(asker, lists, registry, counters(ingest))
    }

    fn at(ms: u64) -> Now {
        Now { monotonic_ns: ms * 1_000_000, wall_us: 1_735_100_000_000_000 + ms as i64 * 1_000 }
    }

    #[test]
    fn rates_cover_the_last_second() {
        let ingest = Arc::<FakeIngest>::default();
        let mut sampler = sampler(ingest.clone());
        let mut rates = Vec::new();
        for tick in 0..20 {
            // A thousand per second at first, then none.
            ingest.accepted.add(if tick < 8 { 250 } else { 0 });
            ingest.dropped.add(1);
            rates.push(sampler.snapshot(at(tick * 250)).expect("running").load.accepted);
        }
        assert_eq!(rates[..2], [0.0, 1000.0]);
        assert_eq!(rates[5], 1000.0);
        assert_eq!(rates[9], 500.0);
        assert!(rates[12..].iter().all(|rate| *rate == 0.0), "{rates:?}");
        assert!(sampler.counted.len() <= 6, "older counts are removed");
    }

    #[test]
    fn latencies_cover_the_last_ten_seconds() {
        let ingest = Arc::<FakeIngest>::default();
        let mut sampler = sampler(ingest.clone());
        let mut p99s = Vec::new();
        for second in 0..30 {
            let ns = if second < 10 { 1_000_000 } else { 50_000 };
            ingest.durations.record(ns, 100);
            let load = sampler.snapshot(at(second * 1_000)).expect("running").load;
            p99s.push(load.answer.map(|answer| answer.p99));
        }
        assert_eq!(p99s[0], None);
        assert!((1.0..1.2).contains(&p99s[9].expect("known")));
        assert!((0.05..0.06).contains(&p99s[29].expect("known")));
        assert!(sampler.timed.len() <= 12);
    }

    #[test]
    fn an_anomaly_is_reported_once_and_kept() {
        let mut sampler = sampler(Arc::default());
        // The analytics double reports the same anomalies each time.
        assert_eq!(sampler.snapshot(at(0)).expect("running").anomalies[0].report.serial, 32);
        assert!(sampler.snapshot(at(250)).expect("running").anomalies.is_empty());
        assert!(!sampler.recent_anomalies(i64::MIN).is_empty());
        assert!(sampler.recent_anomalies(1).is_empty());
    }
}
