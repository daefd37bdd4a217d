//! Tests of detector states that follow their device.

use std::sync::Arc;

use super::*;
use crate::analytics::names::NameLookup;
use crate::handover::{FoundStates, HandoverCounters, HandoverMessage, StreamStates, WaitOutcome};
use crate::judged_queue::OtherTakeover;
use sigmad_detectors::DetectorKind;
use sigmad_sample::Reading;

const DEVICE: DeviceId = DeviceId { index: 3, generation: 0 };
const SECOND_US: i64 = 1_000_000;

struct Replica {
    analytics: Analytics,
    counters: Arc<HandoverCounters>,
}

impl Replica {
    fn new(kinds: &[DetectorKind]) -> Self {
        let names = NameLookup::new(
            |id| (id.generation < 9).then(|| format!("{}", id.index).into()),
            |id| id.slot().to_string().into(),
        );
        let detectors = DetectorSettings { kinds: kinds.to_vec(), ..DetectorSettings::default() };
        let onsets = OnsetSettings::new(10 * SECOND_US as u64, 86_400 * SECOND_US, 1_000, 1);
        let onsets = Some(onsets);
        let settings = AnalyticsSettings { detectors, onsets, ..AnalyticsSettings::default() };
        Self { analytics: Analytics::new(settings, names), counters: Arc::default() }
    }

    fn sharing(kinds: &[DetectorKind]) -> Self {
        let mut replica = Self::new(kinds);
        assert!(replica.analytics.hand_over(replica.counters.clone()));
        replica
    }

    fn judge(&mut self, values: std::ops::Range<u32>) {
        self.judge_by(values, value);
    }

    fn judge_by(&mut self, values: std::ops::Range<u32>, value: impl Fn(u32) -> f64) {
        for at in values {
            let mut batch = Batch::default();
            let readings = [0, 1].map(|metric| Reading {
                metric: MetricId::new(metric, 0),
                value: value(at) + f64::from(metric),
            });
            let at_us = i64::from(at) * 60 * SECOND_US;
            batch.push(at_us, Some(DEVICE), &readings);
            self.analytics.judge(&batch, at_us);
        }
    }

    /// Another replica hears the device.
    fn hears_of_a_move(&mut self) {
        self.hears_of(OtherTakeover { number: u32::MAX, is_from_here: true });
    }

    fn hears_of(&mut self, takeover: OtherTakeover) {
        let own_total = self.analytics.devices.get(DEVICE).map_or(0, |device| device.own.total);
        self.analytics.apply(&SharedWindows {
            device: Some(DEVICE),
            others: JudgedCounts { total: 1, anomalies: 0 },
            own_total,
            last_seen_us: 1,
            last_timestamp_us: 1,
            other_takeover: Some(takeover),
            metrics: Vec::new(),
        });
    }

    fn messages(&mut self) -> Vec<HandoverMessage> {
        std::iter::from_fn(|| self.analytics.next_handover()).collect()
    }

    /// The states that it states now.
    fn stated(&mut self) -> Vec<StreamStates> {
        let parts = self.messages().into_iter().filter_map(|message| match message {
            HandoverMessage::Stated(part) => Some(part.streams),
            HandoverMessage::Wanted(_) | HandoverMessage::Kept(_) => None,
        });
        parts.flatten().collect()
    }

    /// Another replica takes the device, which hears these values before it has the states.
    fn moves_to(&mut self, next: &mut Self, values: std::ops::Range<u32>) {
        next.judge(values);
        assert_eq!(next.messages(), [HandoverMessage::Wanted(DEVICE)]);
        self.hears_of_a_move();
        let found =
            FoundStates { device: DEVICE, streams: self.stated(), cadence: None, is_older: false };
        next.analytics.receive_states(found, 0);
    }

    /// What began and ended to be wrong with streams since the last call.
    fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.analytics.pass_events(|event| events.push(event));
        events.retain(|event| matches!(event, Event::Deviation { .. } | Event::Recovery { .. }));
        events
    }

    fn waits(&self, outcome: WaitOutcome) -> u64 {
        self.counters.waits_total[outcome as usize].get()
    }

    /// What it says of the last values, and its anomalies since a value.
    fn says(&self, since: u32) -> String {
        let report = self.analytics.windows(Some(DEVICE), Scope::Local);
        // The window of `zscore` comes another way.
        let mut findings: Vec<_> = report.metrics.into_iter().map(|m| m.findings).collect();
        findings.iter_mut().for_each(|of| of.retain(|f| f.detector != DetectorKind::Zscore));
        let scores = findings.iter().map(|of| format!("{of:?}"));
        let query =
            AnomaliesQuery { limit: 1_000, since_us: i64::MIN, ..AnomaliesQuery::default() };
        let since_us = i64::from(since) * 60 * SECOND_US;
        let anomalies = self.analytics.anomalies(&query).anomalies;
        let anomalies = anomalies.iter().filter(|anomaly| anomaly.start_us >= since_us);
        let anomalies = anomalies.map(|a| {
            format!("{} {} {:?} {} {:?}", a.metric, a.value, a.verdict.score, a.flags, a.end_us)
        });
        scores.chain(anomalies).collect::<Vec<_>>().join("\n")
    }
}

fn value(at: u32) -> f64 {
    let noise = f64::from(at.wrapping_mul(2_654_435_761) >> 16) / 65_536.0;
    let is_event = [160, 420, 690].iter().any(|&from| (from..from + 12).contains(&at));
    100.0 + noise + if is_event { 60.0 } else { 0.0 }
}

#[test]
fn states_go_to_the_replica_that_hears_the_device_and_back() {
    for kinds in [
        &[DetectorKind::Pager, DetectorKind::Zscore][..],
        &[DetectorKind::Pager, DetectorKind::Robust, DetectorKind::Novelty],
    ] {
        let mut alone = Replica::new(kinds);
        let (mut first, mut second) = (Replica::sharing(kinds), Replica::sharing(kinds));
        alone.judge(0..410);
        first.judge(0..300);
        assert_eq!(first.messages(), [HandoverMessage::Wanted(DEVICE)]);
        first.analytics.receive_states(
            FoundStates { device: DEVICE, streams: Vec::new(), cadence: None, is_older: false },
            0,
        );
        assert_eq!(first.waits(WaitOutcome::Unknown), 1);
        first.judge(300..410);
        assert_eq!(first.says(0), alone.says(0));

        // Values wait until the states are there.
        second.judge(410..430);
        assert_eq!(second.messages(), [HandoverMessage::Wanted(DEVICE)]);
        assert_eq!((second.counters.waiting.get(), second.counters.values_total.get()), (1, 40));
        first.hears_of_a_move();
        let streams = first.stated();
        assert_eq!(streams.len(), 2);
        second.analytics.receive_states(
            FoundStates { device: DEVICE, streams, cadence: None, is_older: false },
            0,
        );
        assert_eq!((second.counters.waiting.get(), second.waits(WaitOutcome::Received)), (0, 1));
        alone.judge(410..430);
        assert_eq!(second.says(410), alone.says(410));
        alone.judge(430..680);
        second.judge(430..680);
        assert_eq!(second.says(410), alone.says(410));

        // And back.
        first.judge(680..720);
        assert_eq!(first.messages(), [HandoverMessage::Wanted(DEVICE)]);
        second.hears_of_a_move();
        let streams = second.stated();
        first.analytics.receive_states(
            FoundStates { device: DEVICE, streams, cadence: None, is_older: false },
            0,
        );
        alone.judge(680..720);
        assert_eq!(first.says(680), alone.says(680));
        assert!(alone.says(0).lines().count() > 2, "there are anomalies to compare");
    }
}

#[test]
fn what_incidents_are_judged_by_follows_the_device() {
    for kinds in [&[DetectorKind::Zscore][..], &[DetectorKind::Pager]] {
        let mut alone = Replica::new(kinds);
        alone.judge(0..900);
        let alone = alone.events();
        let at = |event: &Event| (event.at_us() / SECOND_US / 60) as u32;
        let since = |values: std::ops::Range<u32>| -> Vec<_> {
            alone.iter().filter(|event| values.contains(&at(event))).cloned().collect()
        };
        // It moves while it deviates, and back while it deviates again.
        let (mut first, mut second) = (Replica::sharing(kinds), Replica::sharing(kinds));
        first.judge(0..165);
        first.messages();
        first.analytics.receive_states(
            FoundStates { device: DEVICE, streams: Vec::new(), cadence: None, is_older: false },
            0,
        );
        let begun = first.events();
        assert_eq!(begun, since(0..165));
        assert!(begun.len() == 2 && begun.iter().all(|event| at(event) == 160), "{begun:?}");
        first.moves_to(&mut second, 165..168);
        assert_eq!(first.events(), []);
        second.judge(168..425);
        let events = second.events();
        let (standing, events): (Vec<_>, Vec<_>) = events.into_iter().partition(|e| at(e) < 165);
        let onsets = |events: &[Event]| -> Vec<_> {
            events.iter().map(|e| (at(e), device_and_series(e))).collect()
        };
        assert_eq!(onsets(&standing), onsets(&begun));
        assert_eq!(events, since(165..425));
        second.moves_to(&mut first, 425..428);
        first.judge(428..900);
        let events = first.events();
        let (before, events): (Vec<_>, Vec<_>) = events.into_iter().partition(|e| at(e) < 425);
        // What was wrong here before the move, and what has been wrong there since.
        let is_end = |event: &&Event| matches!(event, Event::Recovery { .. });
        assert_eq!((before.iter().filter(is_end).count(), before.len()), (2, 4));
        assert_eq!(events, since(425..900));
    }
}

fn device_and_series(event: &Event) -> String {
    match event {
        Event::Deviation { device, series, .. } => format!("{device:?} {series}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn states_take_no_more_room_than_a_stream_may_have() {
    // With the most that can run at once and is of use.
    let mut replica = Replica::sharing(&[DetectorKind::Pager, DetectorKind::Zscore]);
    replica.judge(0..10);
    replica.messages();
    replica.analytics.receive_states(
        FoundStates { device: DEVICE, streams: Vec::new(), cadence: None, is_older: false },
        0,
    );
    // All digits of each value are noise: nothing repeats.
    replica.judge_by(10..5_000, |at| 1e3 * (f64::from(at) * 1.234_567).sin().exp());
    replica.hears_of_a_move();
    for StreamStates { bytes, .. } in replica.stated() {
        let packed = crate::store::states::StatesCodec::new().expect("memory").pack(&bytes);
        let length = packed.expect("short enough").len();
        println!("{} bytes, {length} packed", bytes.len());
        assert!(length <= crate::store::states::STATES_BYTES_MAX);
    }
}

#[test]
fn who_waits_too_long_goes_on_without() {
    let kinds = [DetectorKind::Pager, DetectorKind::Zscore];
    let (mut alone, mut late) = (Replica::new(&kinds), Replica::sharing(&kinds));
    late.judge(0..10);
    late.analytics.end_waits(5, 1_000);
    late.judge(10..300);
    late.analytics.end_waits(1_004, 1_000);
    assert_eq!(late.waits(WaitOutcome::Late), 0);
    late.analytics.end_waits(1_005, 1_000);
    assert_eq!((late.waits(WaitOutcome::Late), late.counters.waiting.get()), (1, 0));
    alone.judge(0..300);
    assert_eq!(late.says(0), alone.says(0));
    // What comes after that is not used.
    let streams = vec![StreamStates { metric: MetricId::new(0, 0), bytes: vec![1, 2, 3] }];
    late.analytics
        .receive_states(FoundStates { device: DEVICE, streams, cadence: None, is_older: false }, 0);
    assert_eq!(late.says(0), alone.says(0));
}

#[test]
fn a_device_that_two_replicas_hear_in_turn_is_left_to_both() {
    let kinds = [DetectorKind::Pager];
    let mut replica = Replica::sharing(&kinds);
    let mut stated = 0;
    for at in 0..100 {
        let mut batch = Batch::default();
        let reading = Reading { metric: MetricId::new(0, 0), value: 1.0 };
        batch.push(at * 1_000, Some(DEVICE), &[reading]);
        replica.analytics.judge(&batch, at * 1_000);
        replica.messages();
        replica.analytics.receive_states(
            FoundStates { device: DEVICE, streams: Vec::new(), cadence: None, is_older: false },
            0,
        );
        replica.hears_of_a_move();
        stated += replica.stated().len();
    }
    assert!((1..=4).contains(&stated), "{stated}");
    assert_eq!((replica.counters.contended_total.get(), replica.counters.waiting.get()), (1, 0));
}

#[test]
fn a_drain_states_what_is_here_and_nothing_with_a_gap() {
    let kinds = [DetectorKind::Pager];
    let mut replica = Replica::sharing(&kinds);
    replica.judge(0..10);
    assert_eq!(replica.messages().len(), 1);
    replica.analytics.give_up_waits();
    assert_eq!((replica.analytics.count_here(0), replica.analytics.state_next(0)), (0, None));
    let mut replica = Replica::sharing(&kinds);
    replica.judge(0..10);
    assert_eq!(replica.messages().len(), 1);
    replica.analytics.receive_states(
        FoundStates { device: DEVICE, streams: Vec::new(), cadence: None, is_older: false },
        0,
    );
    assert_eq!(replica.analytics.count_here(0), 1);
    assert_eq!(replica.analytics.state_next(0), Some(4));
    assert_eq!(replica.stated().len(), 2);
    assert_eq!(replica.analytics.state_next(4), None);
}

#[test]
fn what_a_cadence_has_learned_follows_its_device() {
    let kinds = [DetectorKind::Pager, DetectorKind::Zscore];
    let (mut first, mut next) = (Replica::sharing(&kinds), Replica::sharing(&kinds));
    first.judge(0..100);
    let learned = |replica: &Replica| {
        let silence = replica.analytics.silence.as_ref().expect("incidents are on");
        silence.cadence(DEVICE.index).expect("it is heard").learned()
    };
    let expected = learned(&first);
    next.judge(100..101);
    assert_ne!(learned(&next), expected);
    next.messages();
    first.messages();
    let found =
        |cadence| FoundStates { device: DEVICE, streams: Vec::new(), cadence, is_older: false };
    first.analytics.receive_states(found(None), 0);
    first.hears_of_a_move();
    let cadences: Vec<_> = first
        .messages()
        .into_iter()
        .filter_map(|message| match message {
            HandoverMessage::Stated(part) => part.cadence,
            HandoverMessage::Wanted(_) | HandoverMessage::Kept(_) => None,
        })
        .collect();
    assert_eq!(cadences, [expected], "with the last part");
    next.analytics.receive_states(found(Some(expected)), 0);
    assert_eq!(learned(&next), expected);
    // One that has learned for longer goes on with what it knows.
    next.analytics.receive_states(found(Some([0; 7])), 0);
    assert_eq!(learned(&next), expected);
}

/// A replica that was restarted states what another one has asked for meanwhile, and nothing that others have had since.
#[test]
fn what_was_restored_is_stated_once_if_it_was_asked_of_this_replica() {
    let kinds = &[DetectorKind::Pager, DetectorKind::Robust];
    for (is_from_here, hears_first) in [(true, false), (true, true), (false, false), (false, true)]
    {
        let mut replica = Replica::sharing(kinds);
        let paused = replica.analytics.pause_handover();
        replica.judge(0..200);
        replica.analytics.go_on_with(paused);
        if hears_first {
            replica.judge(200..201);
            assert_eq!(replica.messages(), [HandoverMessage::Wanted(DEVICE)]);
        }
        replica.hears_of(OtherTakeover { number: 5, is_from_here });
        let stated = replica.messages().into_iter().filter_map(|message| match message {
            HandoverMessage::Stated(part) => Some(part.takeover),
            HandoverMessage::Wanted(_) | HandoverMessage::Kept(_) => None,
        });
        assert_eq!(stated.collect::<Vec<_>>(), if is_from_here { vec![4] } else { vec![] });
        replica.hears_of(OtherTakeover { number: 6, is_from_here: true });
        assert_eq!(replica.messages(), []);
    }
}
