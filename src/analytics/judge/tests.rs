//! Tests of [`Analytics`](super::Analytics): samples in, reports out.

use std::collections::BTreeMap;

use crate::analytics::fleet::METRICS_REPORTED_MAX;
use crate::analytics::report::{DeviceReport, DevicesSort, SeriesQuery, SeriesSelection};
use crate::registry::{NameSource, Registry};
use crossbeam_channel::bounded;
use proptest::prelude::*;

use super::*;
use sigmad_detectors::DetectorKind;
use sigmad_sample::{READINGS_MAX, Reading, Z_MAX};

/// Device `i` of generation `g` is called `i.g`; metric `m` is called `m`.
fn names() -> NameLookup {
    NameLookup::new(
        |id| Some(format!("{}.{}", id.index, id.generation).into()),
        |id| id.slot().to_string().into(),
    )
}

fn analytics() -> Analytics {
    Analytics::new(AnalyticsSettings::default(), names())
}

fn id(index: u32, generation: u32) -> DeviceId {
    DeviceId { index, generation }
}

fn everything() -> AnomaliesQuery {
    AnomaliesQuery { limit: usize::MAX, ..AnomaliesQuery::default() }
}

fn one(device: Option<DeviceId>, readings: &[(u16, f64)]) -> Batch {
    let mut batch = Batch::default();
    let readings: Vec<_> = readings
        .iter()
        .map(|&(metric, value)| Reading { metric: MetricId::new(metric, 0), value })
        .collect();
    batch.push(7, device, &readings);
    batch
}

fn streams_in_use(analytics: &Analytics) -> usize {
    analytics.devices.arena.in_use() + analytics.fleet.arena.in_use()
}

fn devices(analytics: &mut Analytics, sort: DevicesSort, limit: usize) -> Vec<DeviceReport> {
    scan(analytics, DevicesQuery { limit, sort, search: None, after: None, scope: Scope::Cluster })
}

fn scan(analytics: &mut Analytics, query: DevicesQuery) -> Vec<DeviceReport> {
    let (reply, report) = bounded(1);
    analytics.scan_devices(query, reply);
    while analytics.advance() {}
    let found = report.try_recv().expect("the scan has ended");
    found.into_iter().map(|device| device.report).collect()
}

/// One stream as SPEC section 3 has it, keeping everything.
#[derive(Default)]
struct NaiveStream {
    values: Vec<f64>,
    z: f64,
    is_anomaly: bool,
    anomalies: u64,
}

impl NaiveStream {
    fn window(&self) -> &[f64] {
        &self.values[self.values.len().saturating_sub(50)..]
    }

    fn mean_and_deviation(&self) -> (f64, f64) {
        let window = self.window();
        let n = window.len() as f64;
        if window.iter().all(|&v| v == window[0]) {
            return (window[0], 0.0);
        }
        let mean = window.iter().sum::<f64>() / n;
        (mean, (window.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt())
    }

    fn judge(&mut self, value: f64) {
        (self.z, self.is_anomaly) = (0.0, false);
        if !self.values.is_empty() {
            let (mean, deviation) = self.mean_and_deviation();
            self.z = match (value - mean, deviation) {
                (0.0, 0.0) => 0.0,
                (distance, 0.0) => Z_MAX.copysign(distance),
                (distance, deviation) => (distance / deviation).clamp(-Z_MAX, Z_MAX),
            };
            self.is_anomaly = self.window().len() >= 10 && self.z.abs() > 2.0;
        }
        self.anomalies += u64::from(self.is_anomaly);
        self.values.push(value);
    }
}

/// Flags of a stream in a row: value, arrival and |z| of each.
#[derive(Default)]
struct NaiveAnomaly {
    device: Option<String>,
    metric: u16,
    flags: Vec<(f64, i64, f64)>,
    has_ended: bool,
}

#[derive(Default)]
struct NaiveAnomalies {
    all: Vec<NaiveAnomaly>,
    open: BTreeMap<(Option<String>, u16), usize>,
}

impl NaiveAnomalies {
    fn judged(&mut self, of: (Option<String>, u16), value: f64, at: i64, stream: &NaiveStream) {
        if !stream.is_anomaly {
            if let Some(ended) = self.open.remove(&of) {
                self.all[ended].has_ended = true;
            }
            return;
        }
        let all = &mut self.all;
        let open = *self.open.entry(of).or_insert_with_key(|(device, metric)| {
            let (device, metric) = (device.clone(), *metric);
            all.push(NaiveAnomaly { device, metric, ..NaiveAnomaly::default() });
            all.len() - 1
        });
        all[open].flags.push((value, at, stream.z.abs()));
    }

    /// Another takes the place of that device with its next sample.
    fn left(&mut self, name: &str) {
        let all = &mut self.all;
        self.open.retain(|(device, _), open| {
            let stays = device.as_deref() != Some(name);
            all[*open].has_ended = !stays;
            stays
        });
    }
}

#[derive(Clone, Debug)]
struct TestSample {
    device: Option<u32>,
    replaces: bool,
    readings: Vec<(u16, f64)>,
}

fn any_sent() -> impl Strategy<Value = TestSample> {
    // Whole numbers: the naive sums are exact, so that thresholds are met on the same side.
    let value = prop_oneof![8 => 90..110i32, 1 => -1_000_000..1_000_000i32].prop_map(f64::from);
    let device = prop_oneof![1 => Just(None), 4 => (0..4u32).prop_map(Some)];
    let readings = prop::collection::btree_map(0..4u16, value, 1..4);
    (device, 0..200u32, readings).prop_map(|(device, r, readings)| TestSample {
        device,
        replaces: r == 0,
        readings: readings.into_iter().collect(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn reports_are_what_the_contract_says(sent in prop::collection::vec(any_sent(), 1..800)) {
        let mut analytics = analytics();
        let mut fleet: BTreeMap<u16, NaiveStream> = BTreeMap::new();
        let mut windows: BTreeMap<u32, BTreeMap<u16, NaiveStream>> = BTreeMap::new();
        let mut generations = [0; 4];
        let mut anomalies = NaiveAnomalies::default();
        for (at, sample) in sent.iter().enumerate() {
            let device = sample.device.map(|index| {
                if sample.replaces {
                    anomalies.left(&format!("{index}.{}", generations[index as usize]));
                    generations[index as usize] += 1;
                    windows.remove(&index);
                }
                id(index, generations[index as usize])
            });
            analytics.judge(&one(device, &sample.readings), at as i64);
            for &(metric, value) in &sample.readings {
                let stream = fleet.entry(metric).or_default();
                stream.judge(value);
                if device.is_none() {
                    anomalies.judged((None, metric), value, at as i64, stream);
                }
            }
            for &(metric, value) in &sample.readings {
                if let Some(id) = device {
                    let streams = windows.entry(id.index).or_default();
                    let stream = streams.entry(metric).or_default();
                    stream.judge(value);
                    let name = format!("{}.{}", id.index, id.generation);
                    anomalies.judged((Some(name), metric), value, at as i64, stream);
                }
            }
        }

        let agree = |report: WindowsReport, naive: &BTreeMap<u16, NaiveStream>| {
            assert_eq!(report.metrics.len(), naive.len());
            for (got, (metric, naive)) in report.metrics.iter().zip(naive) {
                let (mean, deviation) = naive.mean_and_deviation();
                assert_eq!(*got.metric, *metric.to_string());
                assert_eq!(got.values, naive.window());
                assert!((got.mean - mean).abs() <= 1e-9 * (deviation + mean.abs()));
                assert!((got.std_dev - deviation).abs() <= 1e-9 * deviation);
                assert!((got.verdict.z_score - naive.z).abs() <= 1e-8 * naive.z.abs().max(1.0));
                assert_eq!(got.verdict.is_anomaly, naive.is_anomaly);
                assert_eq!(got.total_count as usize, naive.values.len());
                assert_eq!(got.anomaly_count, naive.anomalies);
            }
        };
        agree(analytics.windows(None, Scope::Cluster), &fleet);
        for (&index, naive) in &windows {
            let id = id(index, generations[index as usize]);
            agree(analytics.windows(Some(id), Scope::Cluster), naive);
        }

        let found = analytics.anomalies(&everything()).anomalies;
        prop_assert_eq!(found.len(), anomalies.all.len());
        for (got, naive) in found.iter().rev().zip(&anomalies.all) {
            prop_assert_eq!(&got.device, &naive.device.as_deref().map(Arc::from));
            prop_assert_eq!(&*got.metric, &*naive.metric.to_string());
            prop_assert_eq!(got.flags as usize, naive.flags.len());
            prop_assert_eq!(got.end_us.is_some(), naive.has_ended);
            let strangest = naive.flags.iter().map(|flag| flag.2).fold(0.0, f64::max);
            let shown = naive.flags.iter().find(|flag| flag.1 == got.arrived_us);
            let (value, _, z) = shown.expect("one of its flags");
            prop_assert_eq!(got.value, *value);
            prop_assert!(z * (1.0 + 1e-6) >= strangest);
        }
        let totals = analytics.totals();
        prop_assert_eq!(totals.samples as usize, sent.len());
        prop_assert_eq!(totals.devices, windows.len());
        prop_assert_eq!(totals.streams, windows.values().map(BTreeMap::len).sum::<usize>());
        let counted: u64 = totals.anomalies.iter().map(|(_, n)| n).sum();
        let flags: usize = anomalies.all.iter().map(|anomaly| anomaly.flags.len()).sum();
        prop_assert_eq!(counted as usize, flags);
    }

    #[test]
    fn devices_come_in_order(
        values in prop::collection::vec((0..60u32, 0..50i32), 1..600),
        limit in 0..70usize,
    ) {
        let mut analytics = analytics();
        for (at, &(index, value)) in values.iter().enumerate() {
            // Far apart, so that a scan takes several steps.
            let device = id(index * 97, 0);
            analytics.judge(&one(Some(device), &[(0, f64::from(value))]), at as i64);
        }
        let sorts = [DevicesSort::Score, DevicesSort::LastSeen, DevicesSort::Anomalies];
        for sort in sorts {
            let all = devices(&mut analytics, sort, usize::MAX);
            let key = |device: &DeviceReport| match sort {
                DevicesSort::Score => device.score,
                DevicesSort::LastSeen => device.last_seen_us as f64,
                DevicesSort::Anomalies => device.anomaly_count as f64,
                DevicesSort::Device => 0.0,
            };
            let in_order = |a: &DeviceReport, b: &DeviceReport| {
                key(a) > key(b) || key(a) == key(b) && a.device < b.device
            };
            prop_assert!(all.is_sorted_by(in_order));
            prop_assert_eq!(all.len(), analytics.totals().devices);
            let some = devices(&mut analytics, sort, limit);
            prop_assert_eq!(&some[..], &all[..limit.min(all.len())]);
        }
        // Page by page, each device once.
        let (sort, mut after, mut paged) = (DevicesSort::Device, None, Vec::new());
        loop {
            let page = scan(&mut analytics, DevicesQuery { limit: limit.max(1), sort, search: None, after, scope: Scope::Cluster });
            let Some(last) = page.last() else { break };
            after = Some(Box::from(&*last.device));
            paged.extend(page);
        }
        prop_assert_eq!(paged, devices(&mut analytics, sort, usize::MAX));
        let sort = DevicesSort::Score;
        let all = devices(&mut analytics, sort, usize::MAX);
        for part in ["9", "97.0", "0.0", "x"] {
            let search = Some(part.into());
            let found = scan(&mut analytics, DevicesQuery { limit: usize::MAX, sort, search, after: None, scope: Scope::Cluster });
            let has_part = all.iter().filter(|device| device.device.contains(part));
            let (exact, others): (Vec<_>, Vec<_>) =
                has_part.cloned().partition(|device| &*device.device == part);
            prop_assert_eq!(found, [exact, others].concat());
        }
    }
}

#[test]
fn a_new_occupant_starts_afresh_and_gives_nothing_away() {
    let mut analytics = analytics();
    for i in 0..60 {
        let readings = [(0, f64::from(i % 5)), (1, 1.0), (2, 2.0)];
        analytics.judge(&one(Some(id(5, 0)), &readings), 1);
    }
    analytics.judge(&one(Some(id(5, 0)), &[(0, 1e6)]), 2);
    let streams = streams_in_use(&analytics);
    analytics.judge(&one(Some(id(5, 3)), &[(1, 9.0)]), 3);
    assert_eq!(streams_in_use(&analytics), streams - 2);
    assert!(analytics.windows(Some(id(5, 0)), Scope::Cluster).metrics.is_empty());
    assert_eq!(analytics.device_name(id(5, 0)), None);
    let report = analytics.windows(Some(id(5, 3)), Scope::Cluster);
    assert_eq!(report.metrics.len(), 1);
    assert_eq!(
        (report.metrics[0].values.as_slice(), report.metrics[0].total_count),
        (&[9.0][..], 1)
    );
    assert_eq!((analytics.totals().devices, analytics.totals().streams), (1, 1));

    // A straggler of the old occupant, from another worker's sample queue.
    analytics.judge(&one(Some(id(5, 1)), &[(1, 77.0)]), 4);
    assert_eq!(analytics.windows(Some(id(5, 3)), Scope::Cluster).metrics[0].values, [9.0]);
    assert_eq!(analytics.windows(None, Scope::Cluster).metrics[1].total_count, 62);

    // The old occupant's anomaly stays its own.
    let query = everything();
    let latest = analytics.anomalies(&query).anomalies;
    assert!(latest[0].end_us.is_some(), "nothing more will come of it");
    assert_eq!((latest[0].device.as_deref(), latest[0].value), (Some("5.0"), 1e6));
    let query = AnomaliesQuery { device: Some(id(5, 3)), ..query };
    assert!(analytics.anomalies(&query).anomalies.is_empty());
}

/// The same samples by every choice of detectors: the figures of `zscore` never change, and each
/// detector says what it says alone.
#[test]
fn detectors_run_beside_each_other() {
    let values = |device: u32, row: usize| {
        let noise = ((row * 7_919 + device as usize * 104_729) % 1_009) as f64 / 1_009.0;
        let level = if row > 700 { 40.0 } else { 10.0 };
        level + noise + if row.is_multiple_of(97) { 25.0 } else { 0.0 }
    };
    let run = |kinds: &[DetectorKind]| {
        let detectors = DetectorSettings { kinds: kinds.to_vec(), ..DetectorSettings::default() };
        let mut analytics =
            Analytics::new(AnalyticsSettings { window: 50, detectors, onsets: None }, names());
        let mut said = Vec::new();
        for row in 0..1_000 {
            for device in 0..3 {
                let mut batch = Batch::default();
                let reading = Reading { metric: MetricId::RPS, value: values(device, row) };
                batch.push(row as i64 * 60_000_000, Some(id(device, 0)), &[reading]);
                analytics.judge(&batch, row as i64);
                let report = analytics.windows(Some(id(device, 0)), Scope::Cluster);
                said.push(report.metrics.into_iter().next().expect("heard of"));
            }
        }
        (said, analytics.totals().anomalies[0].1)
    };
    let (alone, _) = run(&[DetectorKind::Zscore]);
    for &first in DetectorKind::ALL {
        let mut kinds = vec![first];
        kinds.extend(DetectorKind::ALL.iter().filter(|&&kind| kind != first));
        let ((all, flags), (single, flags_alone)) = (run(&kinds), run(&[first]));
        assert_eq!((flags, flags > 0), (flags_alone, true), "{}", first.name());
        for ((all, single), zscore) in all.iter().zip(&single).zip(&alone) {
            let (verdict, z) = (all.verdict, zscore.verdict);
            assert_eq!(verdict, single.verdict);
            assert_eq!(
                (verdict.z_score, verdict.is_zscore_anomaly),
                (z.z_score, z.is_zscore_anomaly)
            );
            assert_eq!(all.findings.len(), kinds.len());
            assert_eq!(all.findings[0], single.findings[0]);
            assert_eq!(all.findings[0].score, verdict.score);
            assert_eq!(all.findings[0].is_anomaly, verdict.is_anomaly);
            let place = kinds.iter().position(|kind| *kind == DetectorKind::Zscore);
            assert_eq!(all.findings[place.expect("it runs")], zscore.findings[0]);
        }
    }
}

#[test]
fn a_stream_that_goes_takes_its_memory_along() {
    let detectors = DetectorSettings {
        kinds: vec![DetectorKind::Pager, DetectorKind::Robust],
        ..DetectorSettings::default()
    };
    let mut analytics =
        Analytics::new(AnalyticsSettings { window: 50, detectors, onsets: None }, names());
    let states = |analytics: &Analytics| {
        analytics.devices.arena.states().in_use() + analytics.fleet.arena.states().in_use()
    };
    for row in 0..400i64 {
        let value = if row == 399 { 1e6 } else { (row % 7) as f64 };
        let readings = [(0, value), (1, 1.0)]
            .map(|(metric, value)| Reading { metric: MetricId::new(metric, 0), value });
        let mut batch = Batch::default();
        // A value a minute: `pager` expects more of streams that are faster.
        batch.push(row * 60_000_000, Some(id(5, 0)), &readings);
        analytics.judge(&batch, row);
    }
    assert!(analytics.windows(Some(id(5, 0)), Scope::Cluster).metrics[0].verdict.is_anomaly);
    assert_eq!(states(&analytics), 4);
    // The next in its place begins with nothing: neither a score nor a past.
    for row in 0..100 {
        let value = f64::from(row % 7);
        analytics.judge(&one(Some(id(5, 1)), &[(0, value + 1e9)]), i64::from(row));
        let report = analytics.windows(Some(id(5, 1)), Scope::Cluster);
        assert_eq!(report.metrics[0].findings[0].score, 0.0);
    }
    assert_eq!(states(&analytics), 3);
    let without = self::analytics();
    assert_eq!(states(&without), 0);
}

#[test]
fn a_device_evicted_before_it_was_heard_counts_for_the_fleet_alone() {
    let nobody = NameLookup::new(|_| None, |id| id.slot().to_string().into());
    let mut analytics = Analytics::new(AnalyticsSettings::default(), nobody);
    analytics.judge(&one(Some(id(3, 1)), &[(0, 5.0)]), 1);
    assert_eq!(analytics.windows(None, Scope::Cluster).metrics[0].values, [5.0]);
    let totals = analytics.totals();
    assert_eq!((totals.samples, totals.devices, totals.streams), (1, 0, 0));
}

#[test]
fn a_scan_drops_who_was_evicted_meanwhile() {
    let gone = |id: DeviceId| (id.generation > 0).then(|| Arc::from("new"));
    let known = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let still = known.clone();
    let names = NameLookup::new(
        move |id| {
            let all = still.load(std::sync::atomic::Ordering::Relaxed);
            if all { Some("old".into()) } else { gone(id) }
        },
        |_| "cpu".into(),
    );
    let mut analytics = Analytics::new(AnalyticsSettings::default(), names);
    for index in 0..3 {
        analytics.judge(&one(Some(id(index, u32::from(index == 1))), &[(0, 1.0)]), 1);
    }
    assert_eq!(devices(&mut analytics, DevicesSort::Score, 10).len(), 3);
    known.store(false, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(devices(&mut analytics, DevicesSort::Score, 10).len(), 1);
}

#[test]
fn metrics_may_come_in_any_order_and_change_from_sample_to_sample() {
    let mut analytics = analytics();
    analytics.judge(&one(Some(id(0, 0)), &[(1, 1.0), (0, 2.0)]), 1);
    analytics.judge(&one(Some(id(0, 0)), &[(0, 3.0)]), 1);
    analytics.judge(&one(Some(id(0, 0)), &[(9, 5.0), (0, 4.0), (1, 6.0)]), 1);
    for device in [None, Some(id(0, 0))] {
        let report = analytics.windows(device, Scope::Cluster);
        let got: Vec<_> = report.metrics.iter().map(|m| (&*m.metric, m.values.clone())).collect();
        let expected = [("0", vec![2.0, 3.0, 4.0]), ("1", vec![1.0, 6.0]), ("9", vec![5.0])];
        assert_eq!(got, expected);
    }
}

#[test]
fn a_report_leaves_out_the_least_used_metrics_and_says_how_many() {
    let metrics_max = METRICS_REPORTED_MAX as u16;
    // cpu and rps are used as little as those that are left out.
    let rare = [0, 1, 2, 500, metrics_max - 1];
    for (metrics, left_out) in [
        (metrics_max - 1, &[][..]),
        (metrics_max, &[]),
        (metrics_max + 1, &[2]),
        (metrics_max + 3, &[2, 500, metrics_max - 1]),
    ] {
        // The first of them is used least.
        let counts: Vec<_> = (0..metrics)
            .map(|metric| match metric {
                2 => 1,
                metric if rare.contains(&metric) => 2,
                _ => 3,
            })
            .collect();
        let mut analytics = analytics();
        let device = Some(id(0, 0));
        for round in 0..3 {
            let used: Vec<_> =
                (0..metrics).filter(|metric| counts[usize::from(*metric)] > round).collect();
            for metrics in used.chunks(READINGS_MAX) {
                let readings: Vec<_> = metrics.iter().map(|&metric| (metric, 1.0)).collect();
                analytics.judge(&one(device, &readings), 0);
            }
        }
        let listed: Vec<_> = (0..metrics)
            .filter(|metric| !left_out.contains(metric))
            .map(|metric| metric.to_string())
            .collect();
        for subject in [None, device] {
            let report = analytics.windows(subject, Scope::Cluster);
            let names: Vec<_> = report.metrics.iter().map(|metric| &*metric.metric).collect();
            assert_eq!(names, listed, "{metrics} metrics of {subject:?}");
            assert_eq!(report.other_metrics, left_out.len());
        }
        let totals = analytics.totals();
        let names: Vec<_> = totals.anomalies.iter().map(|(name, _)| &**name).collect();
        assert_eq!(
            (names, totals.other_metrics),
            (listed.iter().map(|n| &**n).collect(), left_out.len())
        );
    }
}

#[test]
fn values_of_an_evicted_metric_enter_no_window() {
    let registry = Arc::new(Registry::new(2, 10));
    let mut analytics =
        Analytics::new(AnalyticsSettings::default(), NameLookup::from(registry.clone()));
    let admit = |name, now_s| {
        let mut metrics = [("cpu", None), (name, None)];
        let admitted =
            registry.admit(NameSource::Client, Some("a"), &mut metrics, now_s).expect("room");
        (admitted.expect("a device").device, metrics[1].1.expect("room"))
    };
    let judge = |analytics: &mut Analytics, device, metric, value| {
        let mut batch = Batch::default();
        batch.push(0, Some(device), &[Reading { metric, value }]);
        analytics.judge(&batch, 0);
    };
    let (device, old) = admit("old", 1);
    judge(&mut analytics, device, old, 1.0);
    let (_, new) = admit("new", 12);
    assert_eq!((new.slot(), new.generation()), (old.slot(), 1));
    judge(&mut analytics, device, new, 2.0);
    judge(&mut analytics, device, old, 3.0);
    assert_eq!(analytics.totals().unnamed_values, 1);
    while analytics.advance() {}
    assert_eq!(analytics.totals().streams, 1);
    for subject in [None, Some(device)] {
        let report = analytics.windows(subject, Scope::Cluster);
        let windows: Vec<_> = report.metrics.iter().map(|m| (&*m.metric, &*m.values)).collect();
        assert_eq!(windows, [("new", &[2.0][..])]);
    }
}

#[test]
fn chosen_series_come_by_score_and_the_others_are_counted() {
    let mut analytics = analytics();
    for turn in 0..12_u8 {
        let value = |at| if at == 17 && turn == 11 { 99.0 } else { 10.0 };
        let readings: Vec<_> = (0..30).map(|at| (at, value(at))).collect();
        analytics.judge(&one(Some(id(5, 0)), &readings), i64::from(turn));
    }
    let (device, scope) = (Some(id(5, 0)), Scope::Cluster);
    let ask = |device, selection, limit| {
        let report = analytics.series(&SeriesQuery { device, scope, selection, limit });
        let names = report.metrics.iter().map(|metric| metric.metric.to_string());
        (names.collect::<Vec<_>>(), report.other_metrics)
    };
    assert_eq!(ask(device, SeriesSelection::All, 2), (vec!["17".into(), "0".into()], 28));
    let (names, others) = ask(device, SeriesSelection::All, 1_000);
    assert_eq!((names.len(), others), (30, 0));
    // The exact name before the highest score; 10 to 19 and 21 contain it too.
    let containing = || SeriesSelection::Containing("1".into());
    assert_eq!(ask(device, containing(), 2), (vec!["1".into(), "17".into()], 10));
    assert_eq!(ask(None, containing(), 100).0.len(), 12);
    assert_eq!(ask(device, SeriesSelection::Containing("x".into()), 100), (vec![], 0));
    for device in [device, None] {
        let metrics = [3, 17, 77].map(|slot| MetricId::new(slot, 0)).to_vec();
        let named = ask(device, SeriesSelection::Named(metrics), 3);
        assert_eq!(named, (vec!["17".into(), "3".into()], 28));
    }
    assert_eq!(ask(Some(id(6, 0)), SeriesSelection::All, 3), (vec![], 0));
}
