//! Asks the analytics threads, and joins the parts of an answer.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::analytics::report::{
    AnomaliesQuery, AnomaliesReport, DEVICES_REPORTED_MAX, DeviceReport, DevicesQuery, PartTotals,
    Question, RankedDevice, RecentQuery, SAMPLES_REPORTED_MAX, SampleReport, Scope, SeriesQuery,
    TotalsReport, WindowsReport,
};
use crate::questions::{self, QUESTIONS_MAX};
use crate::sample_queue::Sleeper;
use crate::shards::ShardLayout;
use sigmad_sample::{DeviceId, MetricId};

/// Asks the analytics threads. It waits for their reports, so workers must not use it.
#[derive(Clone, Debug)]
pub struct Asker {
    layout: ShardLayout,
    /// One for each shard.
    shards: Vec<QuestionsOf>,
}

/// The way to one thread.
#[derive(Clone, Debug)]
pub struct QuestionsOf {
    questions: Sender<Question>,
    sleeper: Arc<Sleeper>,
}

/// The ends of the queues of questions, one for each shard. Its thread sleeps in the sleeper at its place.
pub fn questions(
    layout: ShardLayout,
    sleepers: &[Arc<Sleeper>],
) -> (Asker, Vec<Receiver<Question>>) {
    assert_eq!(sleepers.len(), layout.threads());
    let ends = sleepers.iter().map(|sleeper| {
        let (questions, asked) = bounded(QUESTIONS_MAX);
        (QuestionsOf { questions, sleeper: sleeper.clone() }, asked)
    });
    let (shards, asked) = ends.unzip();
    (Asker { layout, shards }, asked)
}

// Each returns None once an analytics thread that it asks has stopped.
impl Asker {
    /// The windows of one device, or of the fleet.
    pub fn windows(&self, device: Option<DeviceId>, scope: Scope) -> Option<WindowsReport> {
        self.of(device).ask(|to| Question::Windows(device, scope, to))
    }

    /// Some windows of one device, or of the fleet.
    pub fn series(&self, query: SeriesQuery) -> Option<WindowsReport> {
        self.of(query.device).ask(|to| Question::Series(query, to))
    }

    /// Devices, sorted.
    pub fn devices(&self, query: &DevicesQuery) -> Option<Vec<DeviceReport>> {
        let shards = 0..self.layout.of_devices();
        let parts = self.ask_each(shards, |_, to| Question::Devices(query.clone(), to))?;
        let mut found: Vec<RankedDevice> = parts.into_iter().flatten().collect();
        found.sort_unstable_by(|one, other| other.rank.cmp(&one.rank));
        found.truncate(query.limit.min(DEVICES_REPORTED_MAX));
        Some(found.into_iter().map(|device| device.report).collect())
    }

    /// The latest anomalies.
    pub fn anomalies(&self, query: AnomaliesQuery) -> Option<AnomaliesReport> {
        self.anomalies_after(query, |_| None)
    }

    /// Those that the list of the cluster may lack. Of each shard it has all changes up to one.
    pub fn unlisted_anomalies(
        &self,
        query: AnomaliesQuery,
        listed: impl Fn(usize) -> u64,
    ) -> Option<AnomaliesReport> {
        self.anomalies_after(query, |shard| Some(listed(shard)))
    }

    fn anomalies_after(
        &self,
        query: AnomaliesQuery,
        listed: impl Fn(usize) -> Option<u64>,
    ) -> Option<AnomaliesReport> {
        let shards = self.of_list(query.device);
        let of_shard = |shard| AnomaliesQuery { listed_change: listed(shard), ..query };
        let parts = self.ask_each(shards, |shard, to| Question::Anomalies(of_shard(shard), to))?;
        Some(AnomaliesReport::merge(parts, query.limit))
    }

    /// The latest samples, newest first.
    pub fn latest(&self, query: RecentQuery) -> Option<Vec<SampleReport>> {
        self.latest_after(query, |_| None)
    }

    /// Those that the list of the cluster may lack. Of each shard it has so many, counted from the start.
    pub fn unlisted_samples(
        &self,
        query: RecentQuery,
        listed: impl Fn(usize) -> u64,
    ) -> Option<Vec<SampleReport>> {
        self.latest_after(query, |shard| Some(listed(shard)))
    }

    fn latest_after(
        &self,
        query: RecentQuery,
        listed: impl Fn(usize) -> Option<u64>,
    ) -> Option<Vec<SampleReport>> {
        let shards = self.of_list(query.device);
        let of_shard = |shard| RecentQuery { listed_samples: listed(shard), ..query };
        let parts = self.ask_each(shards, |shard, to| Question::Latest(of_shard(shard), to))?;
        Some(merge_latest(parts, query.limit.min(SAMPLES_REPORTED_MAX)))
    }

    /// The counts since the start.
    pub fn totals(&self) -> Option<TotalsReport> {
        let shards = 0..self.layout.threads();
        self.ask_each(shards, |_, to| Question::Totals(to)).map(TotalsReport::merge)
    }

    /// Lets a shard begin a snapshot, unless it takes one.
    pub fn begin_snapshot(&self, shard: usize) {
        let QuestionsOf { questions, sleeper } = &self.shards[shard];
        // Err: the thread has ended, and takes its last one.
        if questions.send(Question::Snapshot).is_ok() {
            sleeper.wake();
        }
    }

    /// The shard that has the windows of a device, or of the fleet.
    pub fn of(&self, device: Option<DeviceId>) -> &QuestionsOf {
        &self.shards[self.layout.of_subject(device)]
    }

    /// The shards that know something of a device, or of all.
    fn of_list(&self, device: Option<DeviceId>) -> Range<usize> {
        let one = device.map(|id| self.layout.of_device(id));
        one.map_or(0..self.layout.threads(), |shard| shard..shard + 1)
    }

    /// Asks each of these shards, and then waits for all of them.
    fn ask_each<T>(
        &self,
        shards: Range<usize>,
        question: impl Fn(usize, Sender<T>) -> Question,
    ) -> Option<Vec<T>> {
        let ask = |shard: usize| self.shards[shard].send(|to| question(shard, to));
        let asked: Option<Vec<_>> = shards.clone().map(ask).collect();
        shards.zip(asked?).map(|(shard, report)| self.shards[shard].wait(&report)).collect()
    }
}

impl QuestionsOf {
    fn ask<T>(&self, question: impl FnOnce(Sender<T>) -> Question) -> Option<T> {
        self.wait(&self.send(question)?)
    }

    /// Sends a question; its report will be in the receiver. None once the thread has stopped.
    pub fn send<T>(&self, question: impl FnOnce(Sender<T>) -> Question) -> Option<Receiver<T>> {
        let (reply, report) = bounded(1);
        self.questions.send(question(reply)).ok()?;
        self.sleeper.wake();
        Some(report)
    }

    fn wait<T>(&self, report: &Receiver<T>) -> Option<T> {
        questions::wait(report, &self.questions, || Question::Totals(bounded(1).0))
    }
}

impl TotalsReport {
    /// The totals of all shards.
    pub fn merge(parts: Vec<PartTotals>) -> Self {
        let mut totals = Self::default();
        let mut by_metric = HashMap::<MetricId, u64>::new();
        let mut metrics = 0;
        for part in &parts {
            totals.samples += part.samples;
            totals.unnamed_values += part.unnamed_values;
            totals.devices += part.devices;
            totals.streams += part.streams;
            totals.watched += part.watched;
            metrics += part.metrics;
            for (metric, count) in &part.anomalies {
                *by_metric.entry(*metric).or_default() += count;
            }
        }
        for (metric, name) in parts.into_iter().flat_map(|part| part.listed) {
            totals.anomalies.push((name, by_metric.remove(&metric).unwrap_or(0)));
        }
        totals.other_metrics = metrics - totals.anomalies.len();
        totals.other_anomalies = by_metric.into_values().sum();
        totals
    }
}

impl AnomaliesReport {
    /// The latest `limit` anomalies of all shards: complete up to where each part is.
    fn merge(parts: Vec<Self>, limit: usize) -> Self {
        let mut merged =
            Self { anomalies: Vec::new(), begun: 0, serial: u64::MAX, change: u64::MAX };
        for part in parts {
            merged.anomalies.extend(part.anomalies);
            merged.begun += part.begun;
            merged.serial = merged.serial.min(part.serial);
            merged.change = merged.change.min(part.change);
        }
        // Of one shard they are in that order.
        merged.anomalies.sort_by_key(|anomaly| Reverse(anomaly.serial));
        merged.anomalies.truncate(limit);
        merged
    }
}

/// The latest samples of all shards, newest first; those of one shard stay in their order.
fn merge_latest(parts: Vec<Vec<SampleReport>>, limit: usize) -> Vec<SampleReport> {
    let mut parts: Vec<_> = parts.into_iter().map(|part| part.into_iter().peekable()).collect();
    let next_of_all = move || {
        let arrivals = parts.iter_mut().map(|part| part.peek().map(|sample| sample.arrived_us));
        let (newest, _) = arrivals.enumerate().max_by_key(|(_, arrived)| *arrived)?;
        parts[newest].next()
    };
    std::iter::from_fn(next_of_all).take(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_came_as_the_thread_ended_has_no_report() {
        let (asker, mut asked) = questions(ShardLayout::ONE, &[Arc::default()]);
        let asked = asked.pop().expect("one shard");
        let asking = std::thread::spawn(move || asker.totals().is_none());
        while asked.is_empty() {
            std::thread::yield_now();
        }
        drop(asked);
        assert!(asking.join().expect("no panic"));
    }

    #[test]
    fn the_latest_of_several_shards_are_in_the_order_of_arrival() {
        let part = |arrivals: &[i64]| {
            let sample = |&arrived_us: &i64| SampleReport {
                device: None,
                timestamp_us: 0,
                arrived_us,
                readings: Vec::new(),
            };
            arrivals.iter().map(sample).collect::<Vec<_>>()
        };
        let arrivals = |parts: &[&[i64]], limit| {
            let merged = merge_latest(parts.iter().map(|arrivals| part(arrivals)).collect(), limit);
            merged.iter().map(|sample| sample.arrived_us).collect::<Vec<_>>()
        };
        // Two workers' chunks may come in another order than their rounds began.
        assert_eq!(arrivals(&[&[5, 7, 1]], 9), [5, 7, 1]);
        assert_eq!(arrivals(&[&[9, 4, 1], &[], &[8, 4, 3]], 5), [9, 8, 4, 4, 3]);
        assert_eq!(arrivals(&[], 5), [0; 0]);
    }

    #[test]
    fn totals_are_sums_and_list_what_the_fleet_lists() {
        let ids = [0, 1, 2].map(|slot| MetricId::new(slot, 0));
        let fleet = PartTotals {
            samples: 1,
            listed: vec![(ids[0], "a".into()), (ids[1], "b".into())],
            metrics: 3,
            anomalies: vec![(ids[1], 2)],
            unnamed_values: 4,
            ..PartTotals::default()
        };
        let of_devices = |anomalies: u64| PartTotals {
            samples: 10,
            anomalies: vec![(ids[1], anomalies), (ids[2], 1)],
            devices: 2,
            streams: 5,
            ..PartTotals::default()
        };
        let totals = TotalsReport::merge(vec![of_devices(7), of_devices(8), fleet]);
        assert_eq!((totals.samples, totals.devices, totals.streams), (21, 4, 10));
        assert_eq!(totals.anomalies, [("a".into(), 0), ("b".into(), 17)]);
        assert_eq!((totals.other_metrics, totals.other_anomalies), (1, 2));
        assert_eq!(totals.unnamed_values, 4);
    }
}
