//! What begins and ends to be wrong: the same however samples are cut into batches, and for each number of shards.

use sigmad_incidents::event::Event;

use super::*;
use crate::shards::ShardLayout;
use sigmad_sample::Reading;

const SECOND_US: i64 = 1_000_000;
const START_US: i64 = 1_735_100_000_000_000;
const DEVICES: u32 = 4;

fn settings() -> AnalyticsSettings {
    let onsets = OnsetSettings::new(4 * SECOND_US as u64, 3_600 * SECOND_US, 1_000, 1);
    AnalyticsSettings { onsets: Some(onsets), ..AnalyticsSettings::default() }
}

fn names() -> NameLookup {
    NameLookup::new(
        |id| Some(format!("d{}", id.index).into()),
        |id| format!("m{}", id.slot()).into(),
    )
}

/// What devices send in one second: 800 s of noise, a jump of one device and of the samples without one, and what
/// follows.
fn second(second: i64) -> Vec<(Option<DeviceId>, [Reading; 2])> {
    let noise = |seed: i64| (seed.wrapping_mul(2_654_435_761) >> 7 & 1_023) as f64 / 1_024.0;
    let devices = (0..DEVICES).map(|index| Some(DeviceId { index, generation: 0 }));
    let devices = devices.chain([None]).enumerate();
    let samples = devices.map(|(at, device)| {
        let is_off = (at == 2 || device.is_none()) && (800..830).contains(&second);
        let value = noise(second * 31 + at as i64) + if is_off { 40.0 } else { 10.0 };
        let readings = [MetricId::CPU, MetricId::RPS];
        (
            device,
            readings
                .map(|metric| Reading { metric, value: value + f64::from(metric.slot() as u32) }),
        )
    });
    samples.collect()
}

/// The events of each device in their order, then those without one.
fn events(layout: ShardLayout, samples_a_batch: usize) -> Vec<Vec<Event>> {
    let mut shards: Vec<_> = (0..layout.threads())
        .map(|shard| {
            Analytics::of_part(layout.part(shard), settings(), names(), AnomalyNumbers::default())
        })
        .collect();
    let mut by_device = vec![Vec::new(); DEVICES as usize + 1];
    for at in 0..900 {
        let (samples, arrived_us) = (second(at), START_US + at * SECOND_US);
        for samples in samples.chunks(samples_a_batch) {
            for (shard, analytics) in shards.iter_mut().enumerate() {
                let mut batch = Batch::default();
                for (device, readings) in samples {
                    let is_here = match layout.part(shard) {
                        ShardPart::Devices => {
                            device.is_some_and(|id| layout.of_device(id) == shard)
                        }
                        ShardPart::Whole | ShardPart::Fleet => true,
                    };
                    if is_here {
                        batch.push(arrived_us, *device, readings);
                    }
                }
                analytics.tick(arrived_us);
                analytics.judge(&batch, arrived_us);
                analytics.pass_events(|event| {
                    let (Event::Deviation { device, .. } | Event::Recovery { device, .. }) = &event
                    else {
                        panic!("{event:?}")
                    };
                    let index =
                        device.as_deref().map(|name| name[1..].parse().expect("d and an index"));
                    by_device[index.unwrap_or(DEVICES as usize)].push(event);
                });
            }
        }
    }
    by_device
}

#[test]
fn events_do_not_depend_on_batches_or_shards() {
    let whole = events(ShardLayout::ONE, 100);
    for (index, events) in whole.iter().enumerate() {
        // Two metrics, each with an onset and an end; where the noise was, nothing.
        let deviates = |event: &&Event| matches!(event, Event::Deviation { .. });
        let recovers = events.iter().filter(|event| !deviates(event)).count();
        let expected = if [2, DEVICES as usize].contains(&index) { 2 } else { 0 };
        assert_eq!(recovers, expected, "{index}: {events:?}");
        assert!(events.iter().filter(deviates).count() >= expected, "{index}: {events:?}");
    }
    let first = whole[2].first().expect("the jump");
    // A jump of single values beyond their range is not held back until its interval ends.
    assert_eq!(first.at_us(), START_US + 800 * SECOND_US);
    for (shards, samples_a_batch) in [(1, 1), (1, 3), (2, 100), (4, 1)] {
        let cut = events(ShardLayout::new(shards), samples_a_batch);
        assert_eq!(cut, whole, "{shards} shards, {samples_a_batch} samples a batch");
    }
}

#[test]
fn a_stream_that_is_not_heard_recovers() {
    let mut analytics = Analytics::new(settings(), names());
    let mut found = Vec::new();
    let mut post = |analytics: &mut Analytics, at: i64, value: f64| {
        let mut batch = Batch::default();
        let device = Some(DeviceId { index: 0, generation: 0 });
        batch.push(0, device, &[Reading { metric: MetricId::CPU, value }]);
        analytics.judge(&batch, START_US + at * SECOND_US);
        analytics.pass_events(|event| found.push(event));
    };
    for at in 0..400 {
        post(&mut analytics, at * 60, (at * 617 % 100) as f64 / 100.0);
    }
    post(&mut analytics, 400 * 60, 50.0);
    for at in 400..=465 {
        analytics.tick(START_US + at * 60 * SECOND_US);
    }
    analytics.pass_events(|event| found.push(event));
    let [Event::Deviation { .. }, Event::Reception { .. }, Event::Recovery { .. }] = found[..]
    else {
        panic!("{found:?}")
    };
    let total = analytics.totals().watched;
    assert_eq!((total.judged, total.learning, total.unjudged), (1, 0, 0));
}

/// One device stops among others, all stop, and all come back.
#[test]
fn a_device_is_silent_among_others_and_all_are_reception() {
    let mut analytics = Analytics::new(settings(), names());
    let mut found = Vec::new();
    for at in 0..4_000i64 {
        let arrived_us = START_US + at * SECOND_US;
        analytics.tick(arrived_us);
        for index in 0..3 {
            let is_heard = !(2_000..2_500).contains(&at) || index > 0;
            let is_heard = is_heard && !(3_000..3_500).contains(&at);
            if is_heard && at % 10 == i64::from(index) {
                let mut batch = Batch::default();
                let device = Some(DeviceId { index, generation: 0 });
                batch.push(0, device, &[Reading { metric: MetricId::CPU, value: 1.0 }]);
                analytics.judge(&batch, arrived_us);
            }
        }
        analytics.pass_events(|event| found.push(event));
    }
    let [
        Event::Silence { device, since_us, at_us, usual_interval_us },
        Event::Return { device: returned, .. },
        Event::Reception { since_us: lost_us, .. },
        Event::ReceptionBack { .. },
    ] = &found[..]
    else {
        panic!("{found:?}")
    };
    assert_eq!((&**device, &**returned, *since_us), ("d0", "d0", START_US + 1_990 * SECOND_US));
    assert!((25..45).contains(&((at_us - since_us) / SECOND_US)), "{at_us}");
    assert!((9_900_000..10_100_000).contains(usual_interval_us), "{usual_interval_us}");
    assert_eq!(*lost_us, START_US + 2_992 * SECOND_US);
    assert!(analytics.needs_ticks());
}
