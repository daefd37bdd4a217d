//! A process that was restored goes on as the one that was saved, to the last bit.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::{bounded, unbounded};
use proptest::prelude::*;

use super::counters::StateCounters;
use super::packing::Packer;
use super::restore::{Restorer, SnapshotShard};
use crate::analytics::latest::LatestSamples;
use crate::analytics::report::{
    AnomaliesQuery, AnomalyReport, DevicesQuery, DevicesSort, Scope, TotalsReport,
};
use crate::analytics::saved::form::{Record, RecordKind, Records, push};
use crate::analytics::saved::link::RestoreMessage;
use crate::analytics::saved::restore::{NotRestored, Restoring};
use crate::analytics::{
    Analytics, AnalyticsSettings, AnomalyNumbers, KnownSilences, OnsetSettings,
};
use crate::registry::{NameSource, Registry};
use crate::shards::{ShardLayout, ShardPart};
use sigmad_detectors::{DetectorKind, DetectorSettings};
use sigmad_incidents::event::Event;
use sigmad_sample::{Batch, Reading};

/// A sample by names.
#[derive(Clone, Debug)]
struct Sent {
    device: Option<u8>,
    /// Metrics and values.
    readings: Vec<(u8, f64)>,
}

/// All shards of a process, without threads.
struct World {
    registry: Arc<Registry>,
    layout: ShardLayout,
    shards: Vec<(Analytics, LatestSamples)>,
    batches: i64,
    /// What began and ended to be wrong.
    events: Vec<Event>,
    /// Whether the latest samples are compared by their times: of several shards only those tell their order.
    sorts_latest: bool,
}

const STREAM_IDLE_S: u32 = 3;

impl World {
    fn new(shards: usize, settings: &AnalyticsSettings, max_streams: usize) -> Self {
        let layout = ShardLayout::new(shards);
        // Each world has a clock of its own.
        let onsets = settings.onsets.clone();
        let onsets = onsets.map(|all| OnsetSettings { silence_clock: Default::default(), ..all });
        let settings = AnalyticsSettings { onsets, ..settings.clone() };
        let registry = Arc::new(Registry::new(max_streams, STREAM_IDLE_S));
        let numbers = AnomalyNumbers::default();
        let shard = |shard| {
            let (part, names) = (layout.part(shard), registry.clone().into());
            Analytics::of_part(part, settings.clone(), names, numbers.clone())
        };
        let shards = (0..layout.threads()).map(|at| (shard(at), LatestSamples::default()));
        Self {
            layout,
            shards: shards.collect(),
            registry: registry.clone(),
            batches: 0,
            events: Vec::new(),
            sorts_latest: false,
        }
    }

    /// Admits and judges a batch. Samples that find no room are left out.
    fn send(&mut self, sent: &[Sent]) {
        self.batches += 1;
        let (now_us, mut all) = (self.batches * 700_000, Batch::default());
        for (at, sample) in sent.iter().enumerate() {
            let device = sample.device.map(|device| format!("device-{device}"));
            let names: Vec<_> = sample.readings.iter().map(|(m, _)| format!("m{m}")).collect();
            let mut metrics: Vec<_> = names.iter().map(|name| (&**name, None)).collect();
            let admitted = self.registry.admit(
                NameSource::Client,
                device.as_deref(),
                &mut metrics,
                (now_us / 1_000_000) as u32 + 1,
            );
            let Ok(admitted) = admitted else { continue };
            let values = metrics.iter().zip(&sample.readings);
            let readings: Vec<_> = values
                .filter_map(|((_, metric), (_, value))| {
                    Some(Reading { metric: (*metric)?, value: *value })
                })
                .collect();
            let id = admitted.map(|admitted| admitted.device);
            all.push(now_us + at as i64, id, &readings);
        }
        for (shard, (analytics, latest)) in self.shards.iter_mut().enumerate() {
            let mut batch = Batch::default();
            for (sample, readings) in all.iter() {
                let of = sample.device.map(|id| self.layout.of_device(id));
                if analytics.part() != ShardPart::Devices || of == Some(shard) {
                    batch.push(sample.timestamp_us, sample.device, readings);
                }
            }
            analytics.tick(now_us);
            if !batch.is_empty() {
                analytics.judge(&batch, now_us);
                latest.keep_of(analytics.part(), &batch, now_us);
            }
            analytics.pass_events(|event| self.events.push(event));
        }
    }

    /// What it would answer of the devices that have names, whatever the layout; `{:?}` of a float tells all apart.
    fn shown(&mut self, has_numbers: bool) -> BTreeMap<String, String> {
        let mut shown = BTreeMap::new();
        let names = self.registry.device_names(0..usize::MAX).unwrap_or_default();
        for name in names {
            let id = self.registry.find_device(&name).expect("it has a name");
            let shard = &self.shards[self.layout.of_device(id)].0;
            shown
                .insert(name.to_string(), format!("{:?}", shard.windows(Some(id), Scope::Cluster)));
        }
        let fleet = &self.shards[self.layout.of_fleet()].0;
        shown.insert("fleet".into(), format!("{:?}", fleet.windows(None, Scope::Cluster)));
        let query = AnomaliesQuery { limit: usize::MAX, ..AnomaliesQuery::default() };
        let mut anomalies = Vec::new();
        let mut begun = 0;
        for (shard, _) in &self.shards {
            let report = shard.anomalies(&query);
            begun += report.begun;
            anomalies.extend(report.anomalies.into_iter().map(|anomaly| {
                let serial = if has_numbers { anomaly.serial } else { 0 };
                let change = if has_numbers { anomaly.change } else { 0 };
                // It is not saved; only lists of several replicas are sorted by it.
                format!("{:?}", AnomalyReport { serial, change, began_us: 0, ..anomaly })
            }));
        }
        anomalies.sort();
        shown.insert("anomalies".into(), format!("{begun} {anomalies:?}"));
        let mut ranked = Vec::new();
        for (shard, _) in self.shards.iter_mut().filter(|(shard, _)| shard.part().has_devices()) {
            let (reply, report) = bounded(1);
            let query = DevicesQuery {
                limit: 100,
                sort: DevicesSort::Score,
                search: None,
                after: None,
                scope: Scope::Cluster,
            };
            shard.scan_devices(query, reply);
            let found = std::iter::from_fn(|| {
                shard.advance();
                Some(report.try_recv().ok())
            });
            ranked.extend(found.flatten().next().expect("it ends"));
        }
        ranked.sort_unstable_by_key(|device| std::cmp::Reverse(device.rank.clone()));
        let ranked: Vec<_> = ranked.into_iter().map(|device| device.report).collect();
        shown.insert("devices".into(), format!("{ranked:?}"));
        let totals =
            TotalsReport::merge(self.shards.iter().map(|(s, _)| s.part_totals()).collect());
        let counts = (totals.samples, totals.unnamed_values, totals.anomalies);
        shown.insert("totals".into(), format!("{counts:?}"));
        shown.insert("latest".into(), self.latest());
        shown
    }

    /// Takes the events so far: of several shards only their texts have an order.
    fn take_events(&mut self) -> Vec<String> {
        let mut events: Vec<_> = self.events.drain(..).map(|event| format!("{event:?}")).collect();
        if self.layout != ShardLayout::ONE || self.sorts_latest {
            events.sort();
        }
        events
    }

    /// An onset of all that is wrong, once it is restored.
    fn begin_again(&mut self, known: &KnownSilences) -> Vec<Event> {
        let now_us = self.batches * 700_000;
        let shards = self.shards.iter_mut();
        let mut standing: Vec<_> =
            shards.flat_map(|(shard, _)| shard.begin_again(now_us, known)).collect();
        standing.sort_by_key(|event| format!("{event:?}"));
        standing
    }

    fn latest(&self) -> String {
        let mut kept = Vec::new();
        for (shard, latest) in &self.shards {
            for sample in latest.newest_first(None, 0, u64::MAX) {
                let device = match sample.sample.device {
                    Some(id) => match shard.device_name(id).filter(|_| self.registry.is_device(id))
                    {
                        Some(name) => Some(name.clone()),
                        None => continue,
                    },
                    None => None,
                };
                let named = |r: Reading| Some((self.registry.metric_name(r.metric)?, r.value));
                let readings: Vec<_> = sample.readings().filter_map(named).collect();
                let arrived = (sample.arrived_us, sample.sample.timestamp_us);
                if !readings.is_empty() {
                    kept.push((arrived, format!("{device:?} {readings:?}")));
                }
            }
        }
        if self.sorts_latest {
            kept.sort();
            kept.reverse();
        }
        format!("{kept:?}")
    }

    fn begin_snapshots(&mut self) {
        self.shards.iter_mut().for_each(|(shard, latest)| shard.begin_snapshot(latest));
    }

    /// Takes steps of the snapshots, and what is ready of their blocks.
    fn step_snapshots(&mut self, steps: usize, blocks: &mut [Vec<Vec<u8>>]) {
        for (at, (shard, _)) in self.shards.iter_mut().enumerate() {
            for _ in 0..steps {
                blocks[at].extend(std::iter::from_fn(|| shard.next_block()));
                shard.step_snapshot();
                shard.end_snapshot();
            }
        }
    }

    /// Restores the blocks of each shard of a process. Returns what was left out.
    fn restore(&mut self, blocks: &[Vec<Vec<u8>>]) -> (NotRestored, Arc<StateCounters>) {
        let (ways, ends): (Vec<_>, Vec<_>) = self.shards.iter().map(|_| unbounded()).unzip();
        let counters = Arc::<StateCounters>::default();
        let (registry, layout) = (self.registry.clone(), self.layout);
        let mut restorer = Restorer::new(registry, layout, counters.clone(), None, ways);
        for (shard, blocks_of_shard) in blocks.iter().enumerate() {
            let of = SnapshotShard { shard, shards: blocks.len() };
            // Every second one as the disk has it.
            let mut packer = Packer::default();
            for (number, block) in blocks_of_shard.iter().enumerate() {
                match number % 2 {
                    0 => restorer.block(of, &packer.pack(block.clone())),
                    _ => restorer.block(of, block),
                }
            }
        }
        restorer.finish();
        drop(restorer);
        let mut not_restored = NotRestored::default();
        for ((analytics, latest), end) in self.shards.iter_mut().zip(ends) {
            let mut restoring = Restoring::default();
            for message in end {
                let RestoreMessage::Block(block) = message else { panic!("there is no journal") };
                restoring.restore(&block, analytics, latest);
            }
            not_restored.records += restoring.not_restored.records;
            not_restored.states += restoring.not_restored.states;
        }
        (not_restored, counters)
    }
}

/// All detectors, and windows that turn often.
fn settings(window: usize) -> AnalyticsSettings {
    let kinds = vec![
        DetectorKind::Zscore,
        DetectorKind::Pager,
        DetectorKind::Novelty,
        DetectorKind::Residual,
        DetectorKind::Robust,
    ];
    AnalyticsSettings {
        window,
        detectors: DetectorSettings { kinds, ..DetectorSettings::default() },
        onsets: None,
    }
}

/// Values of two batches are one.
fn onsets() -> OnsetSettings {
    OnsetSettings::new(1_400_000, 3_600_000_000, 1_000, 1)
}

fn any_sent(devices: u8) -> impl Strategy<Value = Sent> {
    let value = prop_oneof![6 => 90.0..110.0f64, 3 => Just(100.0), 1 => -1e6..1e6f64];
    (prop::option::weighted(0.85, 0..devices), prop::collection::vec(value, 1..4), 0..6u8).prop_map(
        |(device, values, first)| {
            let readings = values.into_iter().enumerate();
            let readings = readings.map(|(at, value)| (first + at as u8, value)).collect();
            Sent { device, readings }
        },
    )
}

fn batches(devices: u8, count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<Sent>>> {
    prop::collection::vec(prop::collection::vec(any_sent(devices), 1..20), count)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// `before` is judged, then a snapshot begins, and `during` is judged between its steps. A new process that takes
    /// the snapshot is where the first one was, and both go on alike.
    #[test]
    fn a_restored_process_goes_on_as_the_saved_one(
        before in batches(12, 1..60),
        during in prop::collection::vec((prop::collection::vec(any_sent(16), 1..20), 0..2usize), 0..12),
        after in batches(12, 1..30),
        shards in prop_oneof![Just((1, 1)), Just((2, 2)), Just((4, 4)), Just((1, 3)), Just((4, 1)), Just((2, 4))],
        window in 4..30usize,
        has_room in any::<bool>(),
    ) {
        let settings = AnalyticsSettings { onsets: Some(onsets()), ..settings(window) };
        let max_streams = if has_room { 1_000 } else { 30 };
        let mut uninterrupted = World::new(shards.0, &settings, max_streams);
        uninterrupted.sorts_latest = shards != (1, 1);
        let mut saved = World::new(shards.0, &settings, max_streams);
        for batch in &before {
            uninterrupted.send(batch);
            saved.send(batch);
        }
        saved.begin_snapshots();
        let mut blocks = vec![Vec::new(); saved.shards.len()];
        for (batch, steps) in &during {
            saved.send(batch);
            saved.step_snapshots(*steps, &mut blocks);
        }
        saved.step_snapshots(20, &mut blocks);
        prop_assert!(saved.shards.iter().all(|(shard, _)| !shard.is_exporting()));

        // Room for all, and the devices of both: nothing is evicted from here on.
        let mut restored = World::new(shards.1, &settings, 1_000);
        restored.batches = uninterrupted.batches;
        restored.sorts_latest = shards != (1, 1);
        let (not_restored, counters) = restored.restore(&blocks);
        prop_assert_eq!(not_restored, NotRestored::default());
        prop_assert_eq!(counters.records_lost_total.get(), 0);
        let is_same_layout = shards.0 == shards.1;
        if has_room {
            prop_assert_eq!(restored.shown(true), uninterrupted.shown(true));
            for batch in &after {
                restored.send(batch);
                uninterrupted.send(batch);
            }
            uninterrupted.sorts_latest = true;
            restored.sorts_latest = true;
            prop_assert_eq!(restored.shown(is_same_layout), uninterrupted.shown(is_same_layout));
        } else {
            // Some were evicted before, others while the snapshot was taken. What both know is the same.
            let (theirs, ours) = (uninterrupted.shown(true), restored.shown(true));
            for name in ours.keys().filter(|name| name.starts_with("device-")) {
                let is_same = theirs.get(name) == ours.get(name);
                let has_metrics_evicted = uninterrupted.registry.metrics_evicted() > 0
                    || saved.registry.metrics_evicted() > 0;
                prop_assert!(is_same || has_metrics_evicted, "{}: {:?} {:?}", name, theirs.get(name), ours[name]);
            }
        }
    }
}

/// A device deviates, one is silent, and the streams of all have learned.
#[test]
fn what_is_wrong_and_what_was_learned_is_restored() {
    let settings = AnalyticsSettings { onsets: Some(onsets()), ..settings(10) };
    let noise = |at: u32| f64::from(at.wrapping_mul(2_654_435_761) >> 20) / 4_096.0;
    let round = |at: u32, is_off: bool, is_silent: bool| -> Vec<Sent> {
        let devices = (0..6u8).filter(|device| *device != 3 || !is_silent);
        let value = |device: u8| noise(at * 7 + u32::from(device));
        let off = |device: u8| if is_off && device == 2 { 50.0 } else { 10.0 };
        let of_device = |device| Sent {
            device: Some(device),
            readings: vec![(0, off(device) + value(device)), (1, value(device))],
        };
        let of_fleet = Sent { device: None, readings: vec![(2, off(2) + value(9))] };
        devices.map(of_device).chain([of_fleet]).collect()
    };
    for (before, after) in [(1, 1), (2, 2), (1, 3), (4, 1)] {
        let mut uninterrupted = World::new(before, &settings, 1_000);
        uninterrupted.sorts_latest = true;
        for at in 0..2_600 {
            uninterrupted.send(&round(at, at >= 2_560, at >= 2_500));
        }
        let told = uninterrupted.take_events();
        uninterrupted.begin_snapshots();
        let mut blocks = vec![Vec::new(); uninterrupted.shards.len()];
        uninterrupted.step_snapshots(20, &mut blocks);

        let mut restored = World::new(after, &settings, 1_000);
        (restored.batches, restored.sorts_latest) = (uninterrupted.batches, true);
        assert_eq!(restored.restore(&blocks).0, NotRestored::default());
        let standing = restored.begin_again(&KnownSilences::default());
        let kinds = standing.iter().map(|event| match event {
            Event::Deviation { device, .. } => format!("deviation {device:?}"),
            Event::Silence { device, .. } => format!("silence {device}"),
            event => panic!("{event:?}"),
        });
        let expected = ["deviation None", "deviation Some(\"device-2\")", "silence device-3"]
            .map(str::to_owned);
        let mut kinds: Vec<_> = kinds.collect();
        kinds.sort();
        assert_eq!(kinds, expected, "{told:?}");
        for at in 2_600..2_800 {
            for world in [&mut uninterrupted, &mut restored] {
                world.send(&round(at, at < 2_610, at < 2_650));
            }
        }
        let events = restored.take_events();
        assert_eq!(events, uninterrupted.take_events());
        assert!(events.iter().any(|event| event.starts_with("Return")), "{events:?}");
        assert!(events.iter().any(|event| event.starts_with("Recovery")), "{events:?}");
    }
}

/// Three devices were away for a while. What that tells of a fourth outlives a restart; a snapshot without it is read as before.
#[test]
fn what_like_devices_have_shown_is_restored() {
    let settings = AnalyticsSettings { onsets: Some(onsets()), ..settings(10) };
    const LEARNED: u32 = 1_600;
    let send = |world: &mut World, away: Option<u8>| {
        let devices = (0..5u8).filter(|device| away != Some(*device));
        let sent = devices.map(|device| Sent { device: Some(device), readings: vec![(0, 1.0)] });
        world.send(&sent.collect::<Vec<_>>());
    };
    // Some 50 s, each time longer.
    let is_away = |at: u32| at % 200 < 60 + at / 200 * 4;
    for (before, after) in [(1, 1), (1, 2), (3, 1)] {
        let mut saved = World::new(before, &settings, 100);
        for at in 0..LEARNED + 600 {
            let device = at.checked_sub(LEARNED).map(|since| (since / 200) as u8 + 1);
            send(&mut saved, device.filter(|_| is_away(at)));
        }
        let told = saved.take_events();
        let silences = told.iter().filter(|event| event.starts_with("Silence")).count();
        assert!(silences >= 1, "{told:?}");
        saved.begin_snapshots();
        let mut blocks = vec![Vec::new(); saved.shards.len()];
        saved.step_snapshots(20, &mut blocks);
        let mut without = blocks.clone();
        for block in without.iter_mut().flatten() {
            let mut kept = Vec::new();
            for record in Records(block) {
                let Record::Known(kind, content) = record else { panic!("{record:?}") };
                if kind != RecordKind::Returns {
                    push(&mut kept, kind, |to| to.extend_from_slice(content));
                }
            }
            *block = kept;
        }
        let silences = [blocks, without].map(|blocks| {
            let mut restored = World::new(after, &settings, 100);
            restored.batches = saved.batches;
            assert_eq!(restored.restore(&blocks).0, NotRestored::default());
            restored.begin_again(&KnownSilences::default());
            (0..200).for_each(|at| send(&mut restored, Some(4).filter(|_| is_away(at))));
            let events = restored.take_events();
            events.iter().filter(|event| event.starts_with("Silence")).count()
        });
        assert_eq!(silences, [0, 1], "{before} {after}");
    }
}

/// The book may know of a silence that no snapshot has: it was noticed after the last one.
#[test]
fn a_silence_that_was_known_is_not_noticed_again() {
    let settings = AnalyticsSettings { onsets: Some(onsets()), ..settings(10) };
    let send = |world: &mut World, device| {
        world.send(&[Sent { device: Some(device), readings: vec![(0, 1.0)] }]);
    };
    for shards in [1, 3] {
        let mut saved = World::new(shards, &settings, 100);
        (0..4_000).for_each(|at| send(&mut saved, (at % 4) as u8));
        saved.begin_snapshots();
        let mut blocks = vec![Vec::new(); saved.shards.len()];
        saved.step_snapshots(30, &mut blocks);
        let last_us = saved.batches * 700_000;
        let known = |name: Option<&str>, since_us: i64| {
            KnownSilences(Arc::new([(name.map(Into::into), since_us)].into()))
        };
        for (known, expected, later) in [
            (known(Some("device-2"), last_us), 1, "Return"),
            (known(Some("device-2"), last_us - 9_000_000), 0, ""),
            (known(None, last_us), 1, "ReceptionBack"),
            (known(None, last_us - 9_000_000), 0, ""),
        ] {
            let mut restored = World::new(shards, &settings, 100);
            restored.batches = saved.batches;
            restored.restore(&blocks);
            assert_eq!(restored.begin_again(&known).len(), expected, "{known:?}");
            (0..4).for_each(|device| send(&mut restored, device));
            let events = restored.take_events();
            assert_eq!(events.len(), expected, "{known:?} {events:?}");
            assert!(events.iter().all(|event| event.starts_with(later)), "{events:?}");
        }
    }
}

#[test]
fn a_window_of_another_length_takes_the_latest_values() {
    let sent = |value: f64| [Sent { device: Some(1), readings: vec![(0, value)] }];
    for (before, after, expected) in [(20, 8, 8), (8, 20, 8)] {
        let mut saved = World::new(1, &settings(before), 100);
        (0..50).for_each(|at| saved.send(&sent(f64::from(at))));
        saved.begin_snapshots();
        let mut blocks = vec![Vec::new()];
        saved.step_snapshots(20, &mut blocks);
        let mut restored = World::new(1, &settings(after), 100);
        assert_eq!(restored.restore(&blocks).0, NotRestored::default());
        for device in [None, restored.registry.find_device("device-1")] {
            let report = restored.shards[0].0.windows(device, Scope::Cluster);
            let latest: Vec<f64> = (50 - expected..50).map(f64::from).collect();
            assert_eq!(report.metrics[0].values, latest);
            assert_eq!(report.metrics[0].total_count, 50);
        }
    }
}

#[test]
fn devices_without_room_are_counted_and_others_are_restored() {
    let mut saved = World::new(1, &settings(10), 100);
    for device in 0..20 {
        let readings = vec![(0, 1.0), (1, 2.0)];
        saved.send(&[Sent { device: Some(device), readings }]);
    }
    saved.begin_snapshots();
    let mut blocks = vec![Vec::new()];
    saved.step_snapshots(20, &mut blocks);
    let mut restored = World::new(1, &settings(10), 15);
    let (not_restored, counters) = restored.restore(&blocks);
    assert_eq!(not_restored, NotRestored::default());
    assert_eq!(
        (counters.restored_devices.get(), counters.devices_without_room_total.get()),
        (7, 13)
    );
    assert_eq!(restored.registry.devices(), 7);
}

/// Whatever the bytes, the restored process judges: a checksum that fits is no promise of a version that does.
#[test]
fn no_bytes_panic() {
    let settings = AnalyticsSettings { onsets: Some(onsets()), ..settings(10) };
    let mut saved = World::new(1, &settings, 100);
    for at in 0..40u8 {
        let value = if at % 13 == 12 { 1e6 } else { f64::from(at % 3) };
        saved.send(&[
            Sent { device: Some(at % 3), readings: vec![(0, value), (1, value)] },
            Sent { device: None, readings: vec![(2, value)] },
        ]);
    }
    saved.begin_snapshots();
    let mut blocks = vec![Vec::new()];
    saved.step_snapshots(20, &mut blocks);
    let whole = blocks.concat().concat();
    let mut random = 1u32;
    for cut in (0..whole.len()).step_by(whole.len() / 200) {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mut flipped = whole.clone();
        flipped[cut] ^= (random >> 24) as u8;
        for damaged in [whole[..cut].to_vec(), flipped] {
            let mut restored = World::new(1, &settings, 100);
            restored.restore(&[vec![damaged]]);
            restored.begin_again(&KnownSilences::default());
            restored.shown(true);
            restored.send(&[Sent { device: Some(0), readings: vec![(0, 1.0)] }]);
        }
    }
}
