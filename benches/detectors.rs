//! What one value costs each detector, with 4,096 streams in turn; and what one sample costs analytics, from
//! as many devices in no order, by the detectors that run.

mod measure;

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::Measurement;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use measure::CpuTime;
use sigmad::analytics::names::NameLookup;
use sigmad::analytics::{Analytics, AnalyticsSettings};
use sigmad_detectors::DetectorSettings;
use sigmad_detectors::novelty::Novelty;
use sigmad_detectors::pager::Pager;
use sigmad_detectors::residual::Residual;
use sigmad_detectors::robust::Robust;
use sigmad_detectors::window::Window;
use sigmad_detectors::zscore::ZScore;
use sigmad_detectors::{Detector, DetectorKind};
use sigmad_sample::{Batch, DeviceId, MetricId, Reading};

const STREAMS: usize = 4_096;
/// Values each stream has before it is measured: past every warm-up, with full tables.
const BEFORE: usize = 1_500;
const MINUTE_US: i64 = 60_000_000;

/// A wave of the day with noise, other for every stream; and a spike in a thousand.
fn value(stream: usize, row: usize) -> f64 {
    let mixed = ((stream * 1_000_003 + row) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let noise = (mixed >> 40) as f64 / f64::from(1 << 24);
    let spike = if mixed.is_multiple_of(1_000) { 100.0 } else { 0.0 };
    let wave = ((row + stream) as f64 / 1_440.0 * std::f64::consts::TAU).sin();
    1_000.0 + 10.0 * wave + 5.0 * noise + spike
}

fn observed<D: Detector, M: Measurement>(group: &mut BenchmarkGroup<'_, M>, name: &str) {
    let mut detectors: Vec<D> = (0..STREAMS).map(|_| D::default()).collect();
    let mut row = 0;
    let mut alarms = 0usize;
    let mut turn = |values: &[f64], row: usize| {
        for (detector, &value) in detectors.iter_mut().zip(values) {
            let score = detector.observe(row as i64 * MINUTE_US, value);
            alarms += usize::from(black_box(score) >= D::THRESHOLD);
        }
    };
    let rows: Vec<Vec<f64>> =
        (0..BEFORE).map(|row| (0..STREAMS).map(|stream| value(stream, row)).collect()).collect();
    while row < BEFORE {
        turn(&rows[row], row);
        row += 1;
    }
    group.bench_function(format!("{name}, {} bytes a stream", size_of::<D>()), |b| {
        b.iter(|| {
            turn(&rows[row % BEFORE], row);
            row += 1;
        });
    });
    assert!(alarms > 0, "{name} has seen spikes and found none");
}

fn detectors(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("detectors");
    group.throughput(Throughput::Elements(STREAMS as u64));
    let zscore = ZScore { threshold: 2.0, min_samples: 10 };
    let mut windows = vec![(Window::default(), [0.0; 50]); STREAMS];
    let mut row = 0;
    group.bench_function("zscore, with its window", |b| {
        let values: Vec<f64> = (0..STREAMS).map(|stream| value(stream, 0)).collect();
        b.iter(|| {
            for ((window, ring), &value) in windows.iter_mut().zip(&values) {
                let value = value + f64::from(row % 17);
                black_box(zscore.judge(&window.moments(), value));
                window.push(ring, value);
            }
            row += 1;
        });
    });
    observed::<Robust, _>(&mut group, "robust");
    observed::<Residual, _>(&mut group, "residual");
    observed::<Novelty, _>(&mut group, "novelty");
    observed::<Pager, _>(&mut group, "pager");
    group.finish();
}

/// Devices in no order, as they come from a network: here no prefetcher guesses whose turn is next.
fn analytics(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("analytics");
    group.throughput(Throughput::Elements(STREAMS as u64));
    let runs: [&[DetectorKind]; 3] =
        [&[DetectorKind::Zscore], &[DetectorKind::Pager, DetectorKind::Zscore], DetectorKind::ALL];
    for kinds in runs {
        let names = NameLookup::new(|_| Some("a device".into()), |_| "a metric".into());
        let detectors = DetectorSettings { kinds: kinds.to_vec(), ..DetectorSettings::default() };
        let mut analytics =
            Analytics::new(AnalyticsSettings { window: 50, detectors, onsets: None }, names);
        let batches: Vec<Batch> = (0..BEFORE)
            .map(|row| {
                let mut batch = Batch::default();
                // An odd step goes through all of a power of two.
                for stream in (0..STREAMS).map(|turn| (turn * 2_003 + row) % STREAMS) {
                    let device = Some(DeviceId { index: stream as u32, generation: 0 });
                    let reading = Reading { metric: MetricId::RPS, value: value(stream, row) };
                    batch.push(row as i64 * MINUTE_US, device, &[reading]);
                }
                batch
            })
            .collect();
        batches.iter().for_each(|batch| analytics.judge(batch, 0));
        let flags: u64 = analytics.totals().anomalies.iter().map(|(_, flags)| flags).sum();
        assert!(flags > 0, "it has seen spikes and found none");
        let named: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
        let mut row = 0;
        group.bench_function(format!("{}, device and fleet", named.join(",")), |b| {
            b.iter(|| {
                analytics.judge(&batches[row % BEFORE], 0);
                row += 1;
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = detectors, analytics
}
criterion_main!(benches);
