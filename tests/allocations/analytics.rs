//! What analytics takes from the allocator: nothing for a sample once its streams exist, whatever
//! detectors run, and at most 1 KiB for each stream, or 4 KiB with `pager`.

use std::sync::Arc;

use sigmad::analytics::latest::LatestSamples;
use sigmad::analytics::names::NameLookup;
use sigmad::analytics::{Analytics, AnalyticsSettings};
use sigmad::judged_queue;
use sigmad_detectors::DetectorKind;
use sigmad_detectors::DetectorSettings;
use sigmad_sample::{Batch, DeviceId, MetricId, Reading};

use crate::counting;

fn analytics() -> Analytics {
    analytics_with(&[DetectorKind::Zscore])
}

fn analytics_with(kinds: &[DetectorKind]) -> Analytics {
    let names = NameLookup::new(
        |id| Some(format!("device-{:07}", id.index).into()),
        |id| format!("metric-{}", id.slot()).into(),
    );
    let detectors = DetectorSettings { kinds: kinds.to_vec(), ..DetectorSettings::default() };
    Analytics::new(AnalyticsSettings { detectors, ..AnalyticsSettings::default() }, names)
}

const MINUTE_US: i64 = 60_000_000;

/// One sample of two metrics from each of these devices, a round a minute.
fn batch(devices: std::ops::Range<u32>, round: u32) -> Batch {
    let mut batch = Batch::default();
    for index in devices {
        // Every 97th value is an anomaly.
        let strange = if (index + round).is_multiple_of(97) { 1e6 } else { 0.0 };
        let value = strange + f64::from((index * 31 + round * 17) % 101);
        let device = (index % 10 > 0).then_some(DeviceId { index, generation: 0 });
        let readings = [MetricId::CPU, MetricId::RPS].map(|metric| Reading { metric, value });
        batch.push(i64::from(round) * MINUTE_US, device, &readings);
    }
    batch
}

#[test]
fn a_sample_allocates_nothing_once_its_streams_exist() {
    for kinds in [
        &[DetectorKind::Zscore][..],
        &[DetectorKind::Pager, DetectorKind::Zscore],
        DetectorKind::ALL,
    ] {
        judges_without_the_allocator(kinds);
    }
}

fn judges_without_the_allocator(kinds: &[DetectorKind]) {
    let (mut analytics, mut latest) = (analytics_with(kinds), LatestSamples::default());
    let batches: Vec<_> = (0..300).map(|round| batch(0..128, round)).collect();
    for batch in &batches[..1] {
        analytics.judge(batch, 0);
    }
    let before = counting::calls();
    for (round, batch) in batches.iter().enumerate() {
        analytics.judge(batch, round as i64);
        latest.keep(batch, round as i64);
    }
    assert_eq!(counting::calls() - before, 0);
    assert_eq!(analytics.totals().samples, 301 * 128);
    assert!(analytics.totals().anomalies.iter().all(|(_, n)| *n > 30), "{kinds:?}");
}

#[test]
fn a_sample_for_the_store_allocates_nothing_while_blocks_come_back() {
    let mut analytics = analytics();
    let (mut judged_producer, judged_consumer) =
        judged_queue::channel(64 << 20, Arc::default(), Arc::default());
    let batches: Vec<_> = (0..100).map(|round| batch(0..128, round)).collect();
    let mut handed_on = 0;
    let mut run = || {
        for (round, batch) in batches.iter().enumerate() {
            analytics.judge_and_publish(batch, 0, round as i64, &mut judged_producer);
            // Partly filled ones too, and several on their way at once.
            if round % 7 == 0 {
                judged_producer.send(&analytics);
                for chunk in judged_consumer.take_all() {
                    handed_on += chunk.len();
                    judged_consumer.recycle(chunk);
                }
            }
        }
    };
    run();
    let before = counting::calls();
    (0..10).for_each(|_| run());
    assert_eq!(counting::calls() - before, 0);
    assert!(handed_on > 10 * 99 * 128);
}

/// Fills two windows for each device and returns the bytes of memory that one stream takes, names and
/// device table included.
fn bytes_per_stream(kinds: &[DetectorKind], devices: u32) -> usize {
    let before = counting::bytes();
    let mut analytics = analytics_with(kinds);
    for round in 0..60 {
        for from in (0..devices).step_by(1_000) {
            let mut samples = Batch::default();
            for index in from..from + 1_000 {
                let device = Some(DeviceId { index, generation: 0 });
                let value = f64::from(index + round);
                let readings =
                    [MetricId::CPU, MetricId::RPS].map(|metric| Reading { metric, value });
                samples.push(0, device, &readings);
            }
            analytics.judge(&samples, 0);
        }
    }
    assert_eq!(analytics.totals().streams, 2 * devices as usize);
    let resident = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let resident = resident.lines().find(|line| line.starts_with("VmRSS")).expect("always there");
    let bytes = counting::bytes().wrapping_sub(before) / (2 * devices as usize);
    println!("{bytes} bytes a stream of {devices} devices with two; {resident}");
    bytes
}

#[test]
fn a_stream_takes_less_than_a_kibibyte() {
    assert!(bytes_per_stream(&[DetectorKind::Zscore], 20_000) <= 1_024);
}

#[test]
fn with_pager_a_stream_takes_less_than_four() {
    assert!(bytes_per_stream(&[DetectorKind::Pager, DetectorKind::Zscore], 10_000) <= 4_096);
}

#[test]
#[ignore = "takes 600 MB of memory"]
fn a_million_streams_leave_a_third_of_their_room_to_the_registry() {
    assert!(bytes_per_stream(&[DetectorKind::Zscore], 500_000) <= 640);
}
