//! Once the names are known and the buffers warm, decoding allocates nothing, whatever the shape.

use std::sync::Arc;

use sigmad::decode::{
    Buckets, Decoder, Format, HistogramPoint, LineOptions, LinePrecision, SeriesDescription,
    Temporality, ValueKind,
};
use sigmad::registry::{NameSource, Registry};
use sigmad_clock::Now;
use sigmad_sample::Batch;

use crate::counting;

fn now(second: u64) -> Now {
    Now { monotonic_ns: second * 1_000_000_000, wall_us: 1_735_100_000_000_000 }
}

#[test]
fn a_warm_decoder_allocates_nothing() {
    let usual = r#"{"timestamp":1735100000,"device":"edge-17","cpu":60.5,"rps":2000,"disk":7}"#;
    let without_device = r#"{"timestamp":"2024-12-25T04:13:20Z","cpu":60.5,"rps":2000}"#;
    let unusual = r#"{"device":"\u00e9dge","cpu":1.5e2,"tags":[1,{"a":null}],"host":"b"}"#;
    let long_name = format!(r#"{{"device":"{}","cpu":1}}"#, "x".repeat(128));
    let wide: Vec<_> = (0..32).map(|i| format!(r#""metric_{i}":{i}"#)).collect();
    let wide = format!("{{{}}}", wide.join(","));
    let samples = [usual, without_device, unusual, &long_name, &wide];
    let mut bodies: Vec<String> = samples.map(str::to_owned).to_vec();
    for sample in samples {
        let many = vec![sample; 100];
        bodies.push(format!("[{}]", many.join(",")));
        bodies.push(format!(r#"{{"source":"agent","metrics":[{}]}}"#, many.join(", ")));
        bodies.push(many.join("\n"));
    }
    let mut decoder = Decoder::new(Arc::new(Registry::new(1_000, 60)));
    let mut batch = Batch::default();
    let mut body = Vec::with_capacity(1 << 20);
    for second in 0..5 {
        for text in &bodies {
            body.clear();
            body.extend_from_slice(text.as_bytes());
            batch.clear();
            let before = counting::calls();
            let decoded = decoder.decode(&mut body, Format::Json, now(second), &mut batch);
            let allocations = counting::calls() - before;
            let decoded = decoded.expect("the body is good");
            assert_eq!(decoded.accepted, batch.len(), "{:?}", decoder.refusals());
            assert_eq!(decoded.invalid + decoded.unroomed, 0);
            assert!(second == 0 || allocations == 0, "{allocations} for {text}");
        }
    }
}

#[test]
fn a_warm_reader_of_lines_allocates_nothing() {
    let options = LineOptions { precision: LinePrecision::Nanosecond, accepts_partial: true };
    let lines = |count: usize| {
        let line = |index: usize| {
            let (host, path) = (index % 50, index / 50);
            format!(
                "disk\\ io,host=edge-{host},path=/{path} read=60.5,ok=t,bytes_total={index}i,note=\"x\" 1735100000000000000\n"
            )
        };
        (0..count).map(line).collect::<String>()
    };
    let mut decoder = Decoder::new(Arc::new(Registry::new(10_000, 60)));
    let mut batch = Batch::default();
    let mut body = Vec::with_capacity(1 << 20);
    let bodies = [lines(1), lines(1_000), lines(100)];
    for second in 0..5 {
        for text in &bodies {
            body.clear();
            body.extend_from_slice(text.as_bytes());
            batch.clear();
            let before = counting::calls();
            let format = Format::LineProtocol(options);
            let decoded = decoder.decode(&mut body, format, now(second), &mut batch);
            let allocations = counting::calls() - before;
            assert_eq!(decoded.map(|decoded| decoded.invalid), Ok(0), "{:?}", decoder.refusals());
            assert_eq!(decoder.values().left_out(), 0);
            assert!(second == 0 || allocations == 0, "{allocations} for {} bytes", text.len());
        }
    }
}

#[test]
fn a_registry_of_a_million_streams_is_small() {
    // Counted by thread: the memory in use of the process is that of other tests too.
    let before = counting::bytes();
    let registry = Registry::new(1_000_000, 60);
    for device in 0..500_000 {
        let name = format!("device-{device:06}");
        let mut metrics = [("cpu", None), ("rps", None)];
        registry.admit(NameSource::Client, Some(&name), &mut metrics, 1).expect("room");
    }
    assert_eq!((registry.streams(), registry.devices()), (1_000_000, 500_000));
    let bytes = counting::bytes().wrapping_sub(before) / 500_000;
    println!("{bytes} bytes a device in the registry");
    assert!(bytes <= 110, "{bytes} bytes a device");
}

/// One body of points at a second: gauges, counters, a whole histogram and the parts of another.
fn read_points(decoder: &mut Decoder, second: u64, keys: &[String], batch: &mut Batch) {
    let mut reader = decoder.points(now(second), batch);
    let read = keys.iter().enumerate().try_for_each(|(index, key)| {
        let time = Some(second as i64 * 1_000_000);
        let value = (second * 10 + index as u64) as f64;
        let (name, label) = key.split_once(' ').expect("a name and a label");
        let describe = |series: &mut SeriesDescription| {
            series.name(name.as_bytes());
            series.label(b"host", b"h");
            series.label(b"le", label.as_bytes());
            series.kind(if name.starts_with("gauge") {
                ValueKind::Gauge
            } else {
                ValueKind::Counter
            });
            Ok(())
        };
        if name != "whole" {
            return reader.value(key.as_bytes(), time, value, describe);
        }
        let buckets = Buckets::Explicit { bounds: &[1.0, 2.0], counts: &[value, value, value] };
        let temporality = Temporality::Cumulative;
        let histogram =
            HistogramPoint { temporality, count: value * 3.0, sum: Some(value), buckets };
        reader.histogram(key.as_bytes(), time, &histogram, describe)
    });
    reader.end(read).expect("the body is good");
}

#[test]
fn warm_points_allocate_nothing() {
    let mut keys = Vec::new();
    for index in 0..50 {
        keys.extend(["gauge", "counter", "whole"].map(|kind| format!("{kind} {index}")));
        keys.push(format!("parts_bucket {index}"));
    }
    keys.push("parts_bucket +Inf".to_owned());
    let mut decoder = Decoder::new(Arc::new(Registry::new(1_000, 60)));
    let mut batch = Batch::default();
    for second in 1..8 {
        batch.clear();
        let before = counting::calls();
        read_points(&mut decoder, second, &keys, &mut batch);
        let allocations = counting::calls() - before;
        assert_eq!(decoder.refusals(), []);
        // The buffers of the second to last body grow with the first one that has all values.
        assert!(second <= 4 || allocations == 0, "{allocations} in second {second}");
        let values = decoder.values();
        assert!(second == 1 || values.accepted >= 50 + 50 + 50 * 4, "{values:?}");
    }
}
