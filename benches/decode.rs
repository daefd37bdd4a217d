//! What does it cost to turn the bytes of one sample into ids and numbers?
//!
//! Nanoseconds per sample (criterion's throughput counts samples), for the shapes of a body, for
//! samples that the scanner reads and for one that it leaves to simd-json; and per value, for points
//! whose series are known.

#[path = "../tests/prometheus/mod.rs"]
#[allow(dead_code, reason = "the reader of the tests")]
mod prometheus;

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use prometheus::{Sample, v1, v2};
use prost::Message;
use sigmad::decode::{Decoder, Format, LineOptions, LinePrecision, ValueKind};
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

/// One scrape of remote_write: ten gauges of each host, with six labels each.
fn scrape(streams: usize) -> [(&'static str, Format, Vec<u8>); 2] {
    let sample = Sample { value: 60.5, timestamp: 1_735_100_000_000 };
    let mut series_1 = Vec::new();
    let mut series_2 = Vec::new();
    // By hand: the look-up of a symbol among thousands is slow.
    let mut symbols = vec![Vec::new()];
    for index in 0..streams {
        let (metric, host) =
            (format!("node_gauge_{}", index % 10), format!("host-{}:9100", index / 10));
        let labels = [
            ("__name__", &*metric),
            ("cluster", "production"),
            ("device", "sda"),
            ("instance", &host),
            ("job", "node"),
            ("zone", "eu-1"),
        ];
        if index == 0 {
            symbols.extend(
                labels.iter().flat_map(|(name, value)| {
                    [name.as_bytes().to_vec(), value.as_bytes().to_vec()]
                }),
            );
        }
        let mut place = |text: &str| {
            let recent = symbols.iter().take(40).chain(symbols.iter().rev().take(20));
            if !recent.into_iter().any(|symbol| symbol == text.as_bytes()) {
                symbols.push(text.into());
            }
            symbols.iter().rposition(|symbol| symbol == text.as_bytes()).expect("just added") as u32
        };
        let labels_refs =
            labels.iter().flat_map(|&(name, value)| [name, value]).map(&mut place).collect();
        let metadata = Some(v2::Metadata { kind: 2, help_ref: 0, unit_ref: 0 });
        series_2.push(v2::TimeSeries {
            labels_refs,
            samples: vec![sample],
            histograms: vec![],
            metadata,
        });
        series_1.push(v1::TimeSeries {
            labels: v1::labels(&labels),
            samples: vec![sample],
            histograms: vec![],
        });
    }
    let request_1 = v1::WriteRequest { timeseries: series_1, metadata: vec![] };
    let request_2 = v2::Request { symbols, timeseries: series_2 };
    [
        ("1.0", Format::RemoteWrite1, request_1.encode_to_vec()),
        ("2.0", Format::RemoteWrite2, request_2.encode_to_vec()),
    ]
}

fn remote_write(c: &mut Criterion) {
    let mut group = c.benchmark_group("remote_write");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    for streams in [100, 10_000] {
        for (version, format, mut body) in scrape(streams) {
            let mut decoder = Decoder::new(Arc::new(Registry::new(1_000_000, 3_600)));
            let mut batch = Batch::default();
            let now = Now { monotonic_ns: 0, wall_us: 1_735_100_000_000_000 };
            group.throughput(Throughput::Elements(streams as u64));
            group.bench_function(format!("{version}/{streams}"), |b| {
                b.iter(|| {
                    batch.clear();
                    decoder.decode(&mut body, format, now, &mut batch)
                });
            });
            assert_eq!((batch.len(), batch.readings()), (streams / 10, streams));
        }
    }
    group.finish();
}

/// Lines of `fields` numbers each, of as many streams in all as there are devices and fields.
fn lines(fields: usize, streams: usize) -> (String, usize) {
    let devices = streams / fields;
    let line = |index: usize| {
        let fields: Vec<_> = (0..fields).map(|field| format!("usage_{field}=60.{field}")).collect();
        format!(
            "cpu,cpu=cpu0,host=edge-{} {} 1735100000000000000\n",
            index % devices,
            fields.join(",")
        )
    };
    // Every stream once, and enough lines for a body of the usual size.
    let count = devices.max(SAMPLES);
    ((0..count).map(line).collect(), count)
}

/// Nanoseconds a line of one field, and a field of lines of ten (criterion's throughput counts fields).
fn line_protocol(c: &mut Criterion) {
    let options = LineOptions { precision: LinePrecision::Nanosecond, accepts_partial: true };
    let mut group = c.benchmark_group("line_protocol");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    for (fields, streams) in [(1, 100), (1, 10_000), (10, 100), (10, 10_000)] {
        let (body, count) = lines(fields, streams);
        let mut decoder = Decoder::new(Arc::new(Registry::new(1_000_000, 3_600)));
        let mut batch = Batch::default();
        let now = Now { monotonic_ns: 0, wall_us: 1_735_100_000_000_000 };
        let mut bytes = body.into_bytes();
        group.throughput(Throughput::Elements((count * fields) as u64));
        group.bench_function(format!("{fields} fields/{streams} streams"), |b| {
            b.iter(|| {
                batch.clear();
                decoder.decode(&mut bytes, Format::LineProtocol(options), now, &mut batch)
            });
        });
        assert_eq!((batch.len(), batch.readings()), (count, count * fields));
        for (sample, readings) in batch.iter() {
            assert_eq!(readings[0].value, 60.0);
            assert_eq!(sample.timestamp_us, 1_735_100_000_000_000);
            assert!(sample.device.is_some());
        }
    }
    group.finish();
}

/// The bytes of a series as remote_write 1.0 has them, about 150.
fn key(index: usize) -> String {
    let (device, cpu) = (index / 10, index % 10);
    format!(
        "1__name__node_cpu_seconds_totalcpu{cpu}instancehost-{device:05}.example.com:9100jobnode-exporter-of-the-fleetmodeidleregioneu-central-1"
    )
}

/// What a value costs whose series is known: what every format of points pays beside its own reading.
fn points(c: &mut Criterion) {
    let mut group = c.benchmark_group("points");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    for (kind, name) in [(ValueKind::Gauge, "gauge"), (ValueKind::Counter, "counter")] {
        for streams in [100, 10_000] {
            let keys: Vec<_> = (0..streams).map(key).collect();
            let mut decoder = Decoder::new(Arc::new(Registry::new(1_000_000, 3_600)));
            let mut batch = Batch::default();
            let now = Now { monotonic_ns: 0, wall_us: 1_735_100_000_000_000 };
            let mut second = 0;
            group.throughput(Throughput::Elements(streams as u64));
            group.bench_function(format!("{name}/{streams}"), |b| {
                b.iter(|| {
                    batch.clear();
                    second += 1;
                    let mut reader = decoder.points(now, &mut batch);
                    let read = keys.iter().enumerate().try_for_each(|(index, key)| {
                        let time = Some(second * 1_000_000);
                        reader.value(key.as_bytes(), time, 5.0 * second as f64, |series| {
                            series.name(b"node_cpu_seconds_total");
                            series.label(b"instance", format!("host-{}", index / 10).as_bytes());
                            series.label(b"cpu", format!("{}", index % 10).as_bytes());
                            series.kind(kind);
                            Ok(())
                        })
                    });
                    reader.end(read)
                });
            });
            assert_eq!((batch.readings(), batch.len()), (streams, streams / 10));
            let expected = if kind == ValueKind::Counter { 5.0 } else { 5.0 * second as f64 };
            assert!(batch.iter().all(|(_, readings)| readings.iter().all(|r| r.value == expected)));
        }
    }
    group.finish();
}

criterion_group!(benches, decode, remote_write, line_protocol, points);
criterion_main!(benches);
