//! Tests of windows that several replicas share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crossbeam_channel::bounded;
use proptest::prelude::*;

use super::*;
use crate::analytics::last_sample::LOST_AFTER_S;
use crate::analytics::latest::LatestSamples;
use crate::analytics::merge::newest;
use crate::analytics::names::NameLookup;
use crate::analytics::report::{
    DeviceReport, DevicesQuery, DevicesSort, MetricReport, Scope, WindowsReport,
};
use crate::analytics::saved::restore::{NotRestored, Restoring};
use crate::judged_queue::SharedMetric;
use crate::judged_queue::{
    self, JudgedChunk, JudgedConsumer, JudgedCounts, JudgedProducer, SharedWindows,
};
use sigmad_detectors::DetectorKind;
use sigmad_detectors::DetectorSettings;
use sigmad_detectors::window::Moments;
use sigmad_detectors::zscore::ZScore;
use sigmad_sample::Verdict;
use sigmad_sample::{Batch, DeviceId, MetricId, Reading};

const WINDOW: usize = 12;

/// A device or the fleet, and a metric.
type StreamKey = (Option<u32>, u16);

fn streams_in_use(analytics: &Analytics) -> usize {
    analytics.devices.arena.in_use() + analytics.fleet.arena.in_use()
}

/// With the copies of own values.
fn places_in_use(analytics: &Analytics) -> usize {
    analytics.devices.arena.places_in_use() + analytics.fleet.arena.places_in_use()
}

fn analytics() -> Analytics {
    analytics_with(DetectorKind::Zscore)
}

fn analytics_with(first: DetectorKind) -> Analytics {
    let names = NameLookup::new(
        |id| (id.generation < 9).then(|| format!("{}", id.index).into()),
        |id| id.slot().to_string().into(),
    );
    let zscore = ZScore { threshold: 2.0, min_samples: 5 };
    let detectors = DetectorSettings { zscore, kinds: vec![first] };
    Analytics::new(AnalyticsSettings { window: WINDOW, detectors, onsets: None }, names)
}

fn id(index: u32) -> DeviceId {
    DeviceId { index, generation: 0 }
}

/// One sample; it says that it was taken when it arrived.
fn push(batch: &mut Batch, at_us: i64, device: Option<u32>, readings: &[(u16, f64)]) {
    let readings: Vec<_> = readings
        .iter()
        .map(|&(metric, value)| Reading { metric: MetricId::new(metric, 0), value })
        .collect();
    batch.push(at_us, device.map(id), &readings);
}

/// What the store is for the windows: everything in one order, of each stream the newest, and
/// counts by replica.
#[derive(Default)]
struct Store {
    windows: BTreeMap<StreamKey, Vec<(i64, usize, u16, f64)>>,
    counts: BTreeMap<StreamKey, BTreeMap<usize, JudgedCounts>>,
    samples: BTreeMap<Option<u32>, BTreeMap<usize, (i64, JudgedCounts)>>,
}

impl Store {
    fn write(&mut self, replica: usize, chunk: &JudgedChunk) {
        for sample in chunk.iter() {
            let device = sample.device.map(|id| id.index);
            for reading in sample.readings() {
                let mut enter = |key: StreamKey| {
                    let window = self.windows.entry(key).or_default();
                    let member = (sample.time_us, replica, sample.sequence, reading.value);
                    let place = window.partition_point(|other| *other < member);
                    window.insert(place, member);
                    window.drain(..window.len().saturating_sub(WINDOW + 1));
                };
                let metric = reading.metric.slot() as u16;
                enter((None, metric));
                if device.is_some() {
                    enter((device, metric));
                }
            }
            let total = JudgedCounts { total: sample.serial, anomalies: 0 };
            for device in BTreeSet::from([None, device]) {
                let samples = self.samples.entry(device).or_default();
                samples.insert(replica, (sample.time_us, total));
            }
        }
        for row in chunk.rows() {
            let Some(device) = row.device.map(|id| Some(id.index)) else { continue };
            for stream in chunk.streams_of(row) {
                let counts = self.counts.entry((device, stream.metric.slot() as u16)).or_default();
                counts.insert(replica, stream.counts);
            }
            let samples = self.samples.entry(device).or_default();
            samples.entry(replica).and_modify(|(_, counts)| *counts = row.counts);
        }
        for of_fleet in chunk.fleet() {
            let counts = self.counts.entry((None, of_fleet.metric.slot() as u16)).or_default();
            counts.insert(replica, of_fleet.counts);
        }
    }

    fn read(&self, replica: usize) -> Vec<SharedWindows> {
        let all = |device: &Option<u32>, samples: &BTreeMap<usize, (i64, JudgedCounts)>| {
            let metrics = self.windows.range((*device, 0)..=(*device, u16::MAX));
            let last_us = samples.values().map(|(at_us, _)| *at_us).max().expect("not empty");
            let others = samples.iter().filter(|(from, _)| **from != replica);
            SharedWindows {
                device: device.map(id),
                others: others.fold(JudgedCounts::default(), |sum, (_, (_, of))| sum + *of),
                own_total: samples.get(&replica).map_or(0, |(_, of)| of.total),
                last_seen_us: last_us,
                other_takeover: None,
                last_timestamp_us: last_us,
                metrics: metrics.map(|(key, window)| self.stream(replica, *key, window)).collect(),
            }
        };
        self.samples.iter().map(|(device, samples)| all(device, samples)).collect()
    }

    fn stream(
        &self,
        replica: usize,
        key: StreamKey,
        window: &[(i64, usize, u16, f64)],
    ) -> SharedMetric {
        let counts = &self.counts[&key];
        let others = counts.iter().filter(|(from, _)| **from != replica);
        SharedMetric {
            metric: MetricId::new(key.1, 0),
            others: others.fold(JudgedCounts::default(), |sum, (_, counts)| sum + *counts),
            own_total: counts.get(&replica).map_or(0, |counts| counts.total),
            own_values: window.iter().filter(|(_, from, _, _)| *from == replica).count(),
            values: window.iter().map(|(_, _, _, value)| *value).collect(),
        }
    }
}

struct TestReplica {
    number: usize,
    analytics: Analytics,
    judged_producer: JudgedProducer,
    judged_consumer: JudgedConsumer,
    time_us: i64,
    #[expect(clippy::vec_box, reason = "boxes are what the queue carries")]
    unsent: Vec<Box<JudgedChunk>>,
    own: BTreeMap<StreamKey, Vec<f64>>,
}

impl TestReplica {
    fn new(number: usize) -> Self {
        let (judged_producer, judged_consumer) =
            judged_queue::channel(1 << 30, Arc::default(), Arc::default());
        let (analytics, own) = (analytics(), BTreeMap::new());
        Self {
            number,
            analytics,
            judged_producer,
            judged_consumer,
            time_us: 0,
            unsent: Vec::new(),
            own,
        }
    }

    /// Returns as of when.
    fn judge(&mut self, at_us: i64, samples: &[SampleSent]) -> i64 {
        self.time_us = at_us.max(self.time_us + 1);
        let mut batch = Batch::default();
        for sample in samples {
            push(&mut batch, self.time_us, sample.device, &sample.readings);
            let keys = BTreeSet::from([None, sample.device]);
            for key in keys {
                for &(metric, value) in &sample.readings {
                    self.own.entry((key, metric)).or_default().push(value);
                }
            }
        }
        self.analytics.judge_and_publish(
            &batch,
            self.time_us,
            self.time_us,
            &mut self.judged_producer,
        );
        self.judged_producer.send(&self.analytics);
        self.unsent.extend(self.judged_consumer.take_all());
        self.time_us
    }

    fn feed(&mut self, at_us: i64, device: u32, values: impl IntoIterator<Item = f64>) {
        for value in values {
            let readings = vec![(0, value)];
            self.judge(at_us, &[SampleSent { device: Some(device), readings }]);
        }
    }

    fn flush(&mut self, chunks: usize, store: &mut Store) {
        for chunk in self.unsent.drain(..chunks.min(self.unsent.len())) {
            store.write(self.number, &chunk);
        }
    }

    fn read(&mut self, store: &Store) {
        store.read(self.number).iter().for_each(|shared| self.analytics.apply(shared));
    }

    fn unsent_values(&self, (device, metric): StreamKey) -> Vec<f64> {
        let samples = self.unsent.iter().flat_map(|chunk| chunk.iter());
        let of_key =
            samples.filter(|sample| device.is_none() || sample.device.map(|id| id.index) == device);
        of_key
            .flat_map(|sample| sample.readings().collect::<Vec<_>>())
            .filter(|reading| reading.metric.slot() == usize::from(metric))
            .map(|reading| reading.value)
            .collect()
    }

    fn devices(&mut self) -> BTreeMap<String, DeviceReport> {
        devices(&mut self.analytics, Scope::Cluster)
    }

    fn metric(&self, device: u32, scope: Scope) -> MetricReport {
        let report = self.analytics.windows(Some(id(device)), scope);
        report.metrics.into_iter().next().expect("heard of")
    }
}

fn devices(analytics: &mut Analytics, scope: Scope) -> BTreeMap<String, DeviceReport> {
    let (reply, report) = bounded(1);
    let query =
        DevicesQuery { limit: 100, sort: DevicesSort::Score, search: None, after: None, scope };
    analytics.scan_devices(query, reply);
    while analytics.advance() {}
    let devices = report.try_recv().expect("the scan has ended").into_iter();
    devices.map(|ranked| (ranked.report.device.to_string(), ranked.report)).collect()
}

fn streams(report: WindowsReport) -> BTreeMap<u16, MetricReport> {
    let metrics = report.metrics.into_iter();
    metrics.map(|metric| (metric.metric.parse().expect("a number"), metric)).collect()
}

#[derive(Clone, Debug)]
struct SampleSent {
    device: Option<u32>,
    readings: Vec<(u16, f64)>,
}

#[derive(Clone, Debug)]
enum ReplicaStep {
    Judge(Vec<SampleSent>),
    Flush(usize),
    Read,
}

fn any_sent() -> impl Strategy<Value = SampleSent> {
    let value = prop_oneof![8 => 90..110i32, 1 => -100_000..100_000i32].prop_map(f64::from);
    let device = prop_oneof![1 => Just(None), 4 => (0..4u32).prop_map(Some)];
    let readings = prop::collection::btree_map(0..3u16, value, 1..3);
    (device, readings).prop_map(|(device, readings)| SampleSent {
        device,
        readings: readings.into_iter().collect(),
    })
}

fn any_step() -> impl Strategy<Value = ReplicaStep> {
    prop_oneof![
        6 => prop::collection::vec(any_sent(), 1..5).prop_map(ReplicaStep::Judge),
        2 => (1..6usize).prop_map(ReplicaStep::Flush),
        2 => Just(ReplicaStep::Read),
    ]
}

fn assert_close(one: f64, other: f64, what: &str) {
    assert!((one - other).abs() <= 1e-9 * one.abs().max(1.0), "{what}: {one} and {other}");
}

fn assert_same_verdict(one: &Verdict, other: &Verdict) {
    assert_close(one.z_score, other.z_score, "z-score");
    assert_close(one.score, other.score, "score");
    // A z within rounding of the threshold may fall on either side.
    assert!(one.is_anomaly == other.is_anomaly || (one.score - 2.0).abs() < 1e-6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Every replica ends with the windows and verdicts of one that heard everything in the order
    /// of the cluster; on the way each shows what the store has, then what it has not got yet.
    #[test]
    fn replicas_agree(
        steps in prop::collection::vec((0..3usize, 0..3i64, any_step()), 1..250),
        replicas in 2..4usize,
    ) {
        let mut store = Store::default();
        let mut all: Vec<_> = (0..replicas).map(TestReplica::new).collect();
        let mut sent = Vec::new();
        let mut now_us = 1_000;
        for (number, later_us, step) in steps {
            let replica = &mut all[number % replicas];
            now_us += later_us;
            match step {
                ReplicaStep::Judge(samples) => {
                    // Clocks differ, and so does the order of arrival from that of the cluster.
                    let at_us = replica.judge(now_us - 4 * replica.number as i64, &samples);
                    sent.push((at_us, replica.number, samples));
                }
                ReplicaStep::Flush(chunks) => replica.flush(chunks, &mut store),
                ReplicaStep::Read => {
                    replica.read(&store);
                    for (key, window) in &store.windows {
                        let mut line: Vec<_> = window.iter().map(|member| member.3).collect();
                        line.extend(replica.unsent_values(*key));
                        let of = replica.analytics.windows(key.0.map(id), Scope::Cluster);
                        prop_assert_eq!(&streams(of)[&key.1].values, newest(&line, WINDOW));
                    }
                }
            }
        }
        all.iter_mut().for_each(|replica| replica.flush(usize::MAX, &mut store));
        all.iter_mut().for_each(|replica| replica.read(&store));

        sent.sort_by_key(|(at_us, replica, _)| (*at_us, *replica));
        let mut one = analytics();
        for (at_us, _, samples) in &sent {
            let mut batch = Batch::default();
            for sample in samples {
                push(&mut batch, *at_us, sample.device, &sample.readings);
            }
            one.judge(&batch, *at_us);
        }
        let (shown, counted) = (devices(&mut one, Scope::Cluster), all[0].devices());
        for replica in &mut all {
            for device in [None, Some(0), Some(1), Some(2), Some(3)] {
                let expected = one.windows(device.map(id), Scope::Cluster);
                let report = replica.analytics.windows(device.map(id), Scope::Cluster);
                prop_assert_eq!(report.last_timestamp_us, expected.last_timestamp_us);
                let (report, expected) = (streams(report), streams(expected));
                prop_assert_eq!(report.len(), expected.len());
                for (metric, expected) in &expected {
                    let got = &report[metric];
                    prop_assert_eq!(&got.values, &expected.values);
                    assert_close(got.mean, expected.mean, "mean");
                    assert_close(got.std_dev, expected.std_dev, "deviation");
                    assert_same_verdict(&got.verdict, &expected.verdict);
                    prop_assert_eq!(got.total_count, expected.total_count);
                }
                let own = replica.analytics.windows(device.map(id), Scope::Local);
                let own = streams(own);
                let heard = replica.own.iter().filter(|((of, _), _)| *of == device);
                prop_assert_eq!(own.len(), heard.clone().count());
                for ((_, metric), values) in heard {
                    prop_assert_eq!(&own[metric].values, newest(values, WINDOW));
                    prop_assert_eq!(own[metric].total_count, values.len() as u64);
                    let (mean, std_dev) = (own[metric].mean, own[metric].std_dev);
                    let moments = Moments::of(newest(values, WINDOW));
                    assert_close(mean, moments.mean, "own mean");
                    assert_close(std_dev, moments.std_dev(), "own deviation");
                }
            }
            let listed = replica.devices();
            prop_assert_eq!(listed.len(), shown.len());
            for (name, expected) in &shown {
                let got = &listed[name];
                assert_close(got.score, expected.score, "score");
                prop_assert_eq!(got.total_count, expected.total_count);
                prop_assert_eq!(got.last_seen_us, expected.last_seen_us);
                // Judged as they came, so they may differ from those of one; not among replicas.
                prop_assert_eq!(got.anomaly_count, counted[name].anomaly_count);
            }
            let own = devices(&mut replica.analytics, Scope::Local);
            let heard: BTreeSet<_> = replica.own.keys().filter_map(|(device, _)| *device).collect();
            prop_assert_eq!(own.len(), heard.len());
            for report in own.values() {
                let is_last = |((_, metric), values): (&StreamKey, &Vec<f64>)| {
                    *report.metric == *metric.to_string() && values.last() == Some(&report.last)
                };
                prop_assert!(replica.own.iter().any(is_last), "{:?}", report);
                prop_assert!(report.total_count > 0);
            }
            let in_use = streams_in_use(&replica.analytics);
            prop_assert_eq!(in_use, streams_in_use(&one));
        }
    }
}

fn wave(count: usize) -> impl Iterator<Item = f64> {
    (0..count).map(|i| (i * i % 17) as f64 + 0.1)
}

#[test]
fn what_is_fed_here_alone_stays_as_it_is() {
    let (mut store, mut replica) = (Store::default(), TestReplica::new(0));
    for fed in [3, WINDOW, 30] {
        replica.feed(1_000, 1, wave(fed));
        // Some of it is on its way.
        replica.flush(replica.unsent.len() - 2, &mut store);
        let show = |replica: &TestReplica| {
            let report = |scope| replica.analytics.windows(Some(id(1)), scope);
            format!("{:?} {:?}", report(Scope::Cluster), report(Scope::Local))
        };
        let (before, devices) = (show(&replica), replica.devices());
        replica.read(&store);
        assert_eq!(show(&replica), before);
        assert_eq!(replica.devices(), devices);
        // The store has lost all but the newest two.
        for window in store.windows.values_mut() {
            window.drain(..window.len().saturating_sub(2));
        }
        replica.read(&store);
        assert_eq!(show(&replica), before);
    }
    assert_eq!(places_in_use(&replica.analytics), 2);
}

/// What a replica has of itself: last timestamps, counts and values. Sums may have been rounded anew.
type OwnWindows = Vec<(Option<i64>, Vec<(u64, u64, Vec<f64>)>)>;

fn own_windows(analytics: &Analytics) -> OwnWindows {
    let subjects = std::iter::once(None).chain((0..4).map(|index| Some(id(index))));
    let reports = subjects.map(|subject| analytics.windows(subject, Scope::Local));
    let own = |of: MetricReport| (of.total_count, of.anomaly_count, of.values);
    reports.map(|of| (of.last_timestamp_us, of.metrics.into_iter().map(own).collect())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// A snapshot has the windows of its replica as they were when it began, whatever is judged and read meanwhile. With
    /// what Redis has it becomes the replica again.
    #[test]
    fn a_snapshot_is_of_one_replica(
        steps in prop::collection::vec((0..2usize, any_step()), 2..120),
        begins_at in 0..120usize,
        goes_on_for in 0..40usize,
    ) {
        let (mut store, mut all) = (Store::default(), [0, 1].map(TestReplica::new));
        let begins_at = begins_at % steps.len();
        let mut began = None;
        for (at, (number, step)) in steps.into_iter().enumerate() {
            if at == begins_at {
                let analytics = &mut all[0].analytics;
                analytics.begin_snapshot(&LatestSamples::default());
                began = Some(own_windows(analytics));
            }
            if at > begins_at + goes_on_for {
                break;
            }
            match step {
                ReplicaStep::Judge(samples) => _ = all[number].judge(at as i64 * 10, &samples),
                ReplicaStep::Flush(chunks) => all[number].flush(chunks, &mut store),
                ReplicaStep::Read => all[number].read(&store),
            }
        }
        let (mut restored, mut restoring) = (analytics(), Restoring::default());
        while all[0].analytics.step_snapshot() {}
        while let Some(block) = all[0].analytics.next_block() {
            restoring.restore(&block, &mut restored, &mut LatestSamples::default());
        }
        prop_assert!(all[0].analytics.end_snapshot());
        prop_assert_eq!(restoring.not_restored, NotRestored::default());
        prop_assert_eq!(Some(own_windows(&restored)), began);

        // Redis has all, also what the snapshot lacks.
        all.iter_mut().for_each(|replica| replica.flush(usize::MAX, &mut store));
        all[0].read(&store);
        store.read(0).iter().for_each(|shared| restored.apply(shared));
        for (device, metric) in store.windows.keys() {
            let of = |analytics: &Analytics| {
                let mut report = analytics.windows(device.map(id), Scope::Cluster);
                report.metrics.retain(|one| *one.metric == *metric.to_string());
                let report = report.metrics.pop().expect("Redis has it");
                (report.values, report.total_count)
            };
            prop_assert_eq!(of(&restored), of(&all[0].analytics));
        }
    }
}

#[test]
fn what_the_store_has_lost_is_made_good_by_own_values() {
    let mut replica = TestReplica::new(0);
    let own: Vec<_> = wave(30).collect();
    replica.feed(1_000, 1, own.iter().copied());
    let anomalies = replica.metric(1, Scope::Local).anomaly_count;
    let told = |own_total, own_values, values: &[f64], last_seen_us| SharedWindows {
        device: Some(id(1)),
        others: JudgedCounts { total: 3, anomalies: 1 },
        own_total,
        last_seen_us,
        last_timestamp_us: last_seen_us,
        other_takeover: None,
        metrics: vec![SharedMetric {
            metric: MetricId::new(0, 0),
            others: JudgedCounts { total: 3, anomalies: 1 },
            own_total,
            own_values,
            values: values.to_vec(),
        }],
    };
    let foreign = [-1.0, -2.0, -3.0];
    let shown = |replica: &mut TestReplica, shared| {
        replica.analytics.apply(&shared);
        let report = replica.metric(1, Scope::Cluster);
        assert_eq!((report.total_count, report.anomaly_count), (33, 1 + anomalies));
        report.values
    };
    // It has three of ours, and has lost the older ones.
    let values = [&foreign[..2], &own[27..], &foreign[2..]].concat();
    let expected = [&own[30 - (WINDOW - 3)..27], &values].concat();
    assert_eq!(shown(&mut replica, told(30, 3, &values, 2_000)), expected);
    // The newest three have not reached it.
    let expected = [&own[30 - (WINDOW - 3)..27], &foreign, &own[27..]].concat();
    assert_eq!(shown(&mut replica, told(27, 0, &foreign, 2_000)), expected);
    // It knows nothing of us, as at the start: all of ours come after.
    assert_eq!(shown(&mut replica, told(0, 0, &foreign, 2_000)), own[30 - WINDOW..]);
    // But not when it has gone on for so long: then it has lost them.
    let later_us = 2_000_000 + i64::from(LOST_AFTER_S) * 1_000_000;
    let expected = [&own[30 - (WINDOW - 3)..], &foreign].concat();
    assert_eq!(shown(&mut replica, told(0, 0, &foreign, later_us)), expected);
    // Nothing at all says nothing.
    assert_eq!(shown(&mut replica, told(0, 0, &[], later_us)), expected);
    assert_eq!(replica.metric(1, Scope::Local).values, own[30 - WINDOW..]);
}

#[test]
fn a_value_is_judged_by_the_window_of_all() {
    let (mut store, mut one, mut other) =
        (Store::default(), TestReplica::new(0), TestReplica::new(1));
    one.feed(1_000, 1, wave(WINDOW));
    one.flush(usize::MAX, &mut store);
    other.feed(2_000, 1, [5.0]);
    other.read(&store);
    other.feed(3_000, 1, [500.0]);
    let verdict = other.metric(1, Scope::Cluster).verdict;
    assert!(verdict.is_anomaly, "{verdict:?}");
    let local = other.metric(1, Scope::Local);
    assert_eq!((local.values, local.verdict), (vec![5.0, 500.0], verdict));
    assert_eq!(other.devices()["1"].score, verdict.score);

    // A calm value of another replica comes after it: the device is calm, our last value was not.
    other.flush(usize::MAX, &mut store);
    one.feed(4_000, 1, [5.0]);
    one.flush(usize::MAX, &mut store);
    other.read(&store);
    let shared = other.metric(1, Scope::Cluster);
    assert!(!shared.verdict.is_anomaly);
    assert_eq!((shared.total_count, shared.anomaly_count), (WINDOW as u64 + 3, 1));
    assert_eq!(other.metric(1, Scope::Local).verdict, verdict);
    let row = &other.devices()["1"];
    assert_eq!((row.score, row.last_seen_us), (shared.verdict.score, 4_000));
    assert_eq!((row.total_count, row.anomaly_count), (WINDOW as u64 + 3, 1));
}

#[test]
fn the_second_ring_goes_when_others_values_have_gone() {
    let (mut store, mut one, mut other) =
        (Store::default(), TestReplica::new(0), TestReplica::new(1));
    one.feed(1_000, 1, [1.0, 2.0]);
    other.feed(1_000, 1, wave(5));
    other.flush(usize::MAX, &mut store);
    one.read(&store);
    let arena = |replica: &TestReplica| {
        (streams_in_use(&replica.analytics), places_in_use(&replica.analytics))
    };
    assert_eq!(arena(&one), (2, 4), "of the device and of the fleet");
    one.feed(2_000, 1, wave(2 * WINDOW));
    one.flush(usize::MAX, &mut store);
    one.read(&store);
    assert_eq!(arena(&one), (2, 2));
    other.read(&store);
    assert_eq!(one.metric(1, Scope::Cluster).values, other.metric(1, Scope::Cluster).values);
    let (one, other) = (one.metric(1, Scope::Cluster), other.metric(1, Scope::Cluster));
    assert_same_verdict(&one.verdict, &other.verdict);
}

#[test]
fn devices_heard_elsewhere_are_opened_unless_they_have_gone() {
    let (mut store, mut one, mut late) =
        (Store::default(), TestReplica::new(0), TestReplica::new(1));
    one.feed(1_000, 5_000, wave(20));
    one.flush(usize::MAX, &mut store);
    let shared = store.read(1);
    let [_, device] = &shared[..] else { panic!("the fleet and one device") };
    let empty = SharedWindows {
        device: Some(id(6_000)),
        metrics: vec![SharedMetric { values: Vec::new(), ..device.metrics[0].clone() }],
        ..device.clone()
    };
    late.analytics.apply(&empty);
    let gone = Some(DeviceId { index: 6_000, generation: 9 });
    late.analytics.apply(&SharedWindows { device: gone, ..device.clone() });
    assert_eq!(late.analytics.totals().devices, 0);
    let newer = DeviceId { index: 5_000, generation: 3 };
    late.analytics.apply(&SharedWindows { device: Some(newer), ..device.clone() });
    late.analytics.apply(device);
    let of = |id| late.analytics.windows(Some(id), Scope::Cluster).metrics.len();
    assert_eq!((of(newer), of(id(5_000))), (1, 0));
    let local = late.analytics.windows(Some(newer), Scope::Local);
    assert_eq!((local.metrics.len(), local.last_timestamp_us), (0, None));

    // The place changes hands: nothing of the old occupant stays.
    let mut batch = Batch::default();
    push(&mut batch, 0, Some(5_000), &[(0, 1.0)]);
    late.analytics.judge(&batch, 5);
    let mut batch = Batch::default();
    let next = DeviceId { index: 5_000, generation: 4 };
    batch.push(0, Some(next), &[Reading { metric: MetricId::new(0, 0), value: 7.0 }]);
    late.analytics.judge(&batch, 6);
    let report = late.analytics.windows(Some(next), Scope::Cluster);
    assert_eq!((&report.metrics[0].values[..], report.metrics[0].total_count), (&[7.0][..], 1));
    assert_eq!(places_in_use(&late.analytics), 2);
}

#[test]
fn what_another_detector_said_of_the_last_value_here_stands() {
    let (mut store, mut one, mut two) =
        (Store::default(), TestReplica::new(1), TestReplica::new(2));
    one.analytics = analytics_with(DetectorKind::Robust);
    one.feed(1_000, 1, (0..20).map(|i| f64::from(100 + i % 3)));
    one.feed(2_000, 1, [500.0]);
    let before = one.metric(1, Scope::Cluster).verdict;
    assert!(before.is_anomaly && before.score != before.z_score, "{before:?}");
    one.flush(usize::MAX, &mut store);
    two.feed(3_000, 1, [7.0, 8.0, 9.0]);
    two.flush(usize::MAX, &mut store);
    one.read(&store);
    let after = one.metric(1, Scope::Cluster);
    assert_eq!(after.values.last(), Some(&9.0));
    assert_eq!((after.verdict.score, after.verdict.is_anomaly), (before.score, true));
    assert_ne!(after.verdict.z_score, before.z_score);
    assert_eq!(after.findings[0].score, before.score);
    assert_eq!(one.devices()["1"].score, before.score);
}

#[test]
fn redis_says_which_sample_is_the_last() {
    let (mut store, mut one, mut two) =
        (Store::default(), TestReplica::new(0), TestReplica::new(1));
    one.feed(5_000, 1, [1.0]);
    one.flush(usize::MAX, &mut store);
    two.feed(4_000, 1, [2.0]);
    two.flush(usize::MAX, &mut store);
    let last = |replica: &mut TestReplica, device| {
        replica.analytics.windows(device, Scope::Cluster).last_timestamp_us
    };
    let mut shared = store.read(0);
    for subject in &mut shared {
        assert_eq!(last(&mut one, subject.device), Some(5_000));
        // By the clock of this replica its own sample is later, by Redis' time that of the other.
        (subject.last_seen_us, subject.last_timestamp_us) = (4_999, 4_000);
        one.analytics.apply(subject);
        assert_eq!(last(&mut one, subject.device), Some(4_000));
    }
    // A sample that Redis does not have comes after those it has.
    one.feed(6_000, 1, [3.0]);
    for subject in &shared {
        one.analytics.apply(subject);
        assert_eq!(last(&mut one, subject.device), Some(6_000));
    }
}
