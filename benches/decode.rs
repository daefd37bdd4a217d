//! What does it cost to turn the bytes of one sample into ids and numbers?
//!
//! Nanoseconds per sample (criterion's throughput counts samples), for the shapes of a body, for
//! samples that the scanner reads and for one that it leaves to simd-json.

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use sigmad::decode::{Decoder, Format};
use sigmad::registry::Registry;
use sigmad_clock::Now;
use sigmad_sample::Batch;

const SAMPLES: usize = 100;
const DEVICES: usize = 50;

fn plain(_: usize) -> String {
    r#"{"timestamp":1735100000,"cpu":60.5,"rps":2000}"#.to_owned()
}

fn with_device(index: usize) -> String {
    let device = index % DEVICES;
    format!(r#"{{"timestamp":1735100000,"device":"edge-{device}","cpu":60.5,"rps":2000}}"#)
}

/// As Python's json.dumps writes it.
fn spaced(index: usize) -> String {
    let device = index % DEVICES;
    format!(
        r#"{{"timestamp": 1735100000.1234567, "device": "edge-{device}", "cpu": 60.5, "rps": 2000}}"#
    )
}

fn unusual(index: usize) -> String {
    let device = index % DEVICES;
    format!(
        r#"{{"timestamp":1735100000,"device":"edge-{device}","ok":true,"cpu":60.5,"rps":2000}}"#
    )
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    type Shape = (&'static str, fn(usize) -> String);
    let shapes: [Shape; 4] =
        [("plain", plain), ("device", with_device), ("spaced", spaced), ("unusual", unusual)];
    for (shape, sample) in shapes {
        let many: Vec<_> = (0..SAMPLES).map(sample).collect();
        let bodies = [
            ("object", sample(0), 1),
            ("array", format!("[{}]", many.join(",")), SAMPLES),
            ("lines", many.join("\n"), SAMPLES),
        ];
        for (form, body, count) in bodies {
            let mut decoder = Decoder::new(Arc::new(Registry::new(1_000_000, 3_600)));
            let mut batch = Batch::default();
            let now = Now { monotonic_ns: 0, wall_us: 1_735_100_000_000_000 };
            // simd-json unescapes in place; these bodies have no escapes, so they can be read again.
            let mut bytes = body.into_bytes();
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(format!("{shape}/{form}"), |b| {
                b.iter(|| {
                    batch.clear();
                    decoder.decode(&mut bytes, Format::Json, now, &mut batch)
                });
            });
            assert_eq!(batch.len(), count);
            for (sample, readings) in batch.iter() {
                let values: Vec<_> = readings.iter().map(|reading| reading.value).collect();
                assert_eq!(values, [60.5, 2000.0]);
                assert_eq!(sample.timestamp_us / 1_000_000, 1_735_100_000);
                assert_eq!(sample.device.is_some(), shape != "plain");
            }
        }
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
