//! What one value costs a window of 50, with mean and deviation read after each.

mod measure;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use measure::CpuTime;
use sigmad::analytics::arena::Arena;
use sigmad_detectors::DetectorSettings;
use sigmad_detectors::window::Window;

const WINDOW: usize = 50;
const VALUES: usize = 4_096;

/// Near 1e9 with a spread of some units: where naive sums lose all their digits.
fn values() -> Vec<f64> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        1e9 + (state >> 40) as f64 / f64::from(1 << 22)
    };
    (0..VALUES).map(|_| next()).collect()
}

fn two_pass(ring: &[f64]) -> (f64, f64) {
    let mean = ring.iter().map(|v| v - 1e9).sum::<f64>() / ring.len() as f64 + 1e9;
    let squares = ring.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>();
    (mean, (squares / ring.len() as f64).sqrt())
}

fn window(c: &mut Criterion<CpuTime>) {
    let values = values();
    let mut group = c.benchmark_group("window");
    group.throughput(Throughput::Elements(VALUES as u64));

    let (mut window, mut ring) = (Window::default(), [0.0; WINDOW]);
    group.bench_function("one stream", |b| {
        b.iter(|| {
            for &value in &values {
                window.push(&mut ring, value);
                let moments = window.moments();
                black_box((moments.mean, moments.std_dev()));
            }
        });
    });
    let (moments, expected) = (window.moments(), two_pass(&ring));
    assert!((moments.mean / expected.0 - 1.0).abs() < 1e-12);
    assert!((moments.std_dev() / expected.1 - 1.0).abs() < 1e-9);

    let mut arena = Arena::new(WINDOW, DetectorSettings::default());
    let places: Vec<_> = (0..4_096).map(|_| arena.open()).collect();
    group.bench_function("4096 streams in turn", |b| {
        b.iter(|| {
            for (&place, &value) in places.iter().zip(&values) {
                let (stream, ring) = arena.get_mut(place);
                stream.window.push(ring, value);
                let moments = stream.window.moments();
                black_box((moments.mean, moments.std_dev()));
            }
        });
    });

    group.bench_function("two passes, for comparison", |b| {
        let mut next = 0;
        b.iter(|| {
            for &value in &values {
                ring[next] = value;
                next = (next + 1) % WINDOW;
                black_box(two_pass(&ring));
            }
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = window
}
criterion_main!(benches);
