//! remote_write against prost and a naive reader; hostile bodies; types, and what the sender is told.

use proptest::prelude::*;
use prost::Message;
use sigmad::decode::{BodyError, Format};

use crate::prometheus::server::{Server, check};
use crate::prometheus::{BucketSpan, Histogram, Sample, Value, v1, v2};

/// 2024-12-25, in milliseconds.
const TIME_MS: i64 = 1_735_100_000_000;
const COUNTER: i32 = 1;
const GAUGE: i32 = 2;
const HISTOGRAM: i32 = 3;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z_]{1,6}",
        1 => Just(String::new()),
        1 => "[a-zé{}\",=\\\\\n ]{1,8}",
        1 => Just("x".repeat(300)),
    ]
}

fn label_name() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => Just("__name__".to_owned()),
        3 => prop::sample::select(vec!["instance", "device", "host", "job", "le", "cpu"]).prop_map(str::to_owned),
        2 => text(),
    ]
}

type LabelsAndSamples = (Vec<(String, String)>, Vec<Sample>, i32);

fn series() -> impl Strategy<Value = LabelsAndSamples> {
    let timestamp = prop_oneof![5 => Just(TIME_MS), 1 => Just(0), 1 => any::<i64>()];
    let value = prop_oneof![5 => -1e6..1e6, 1 => any::<f64>(), 1 => Just(f64::from_bits(0x7ff0_0000_0000_0002))];
    let sample = (value, timestamp).prop_map(|(value, timestamp)| Sample { value, timestamp });
    (
        prop::collection::vec((label_name(), text()), 0..6),
        prop::collection::vec(sample, 0..4),
        -1..9,
    )
}

fn request_1(all: &[LabelsAndSamples]) -> v1::WriteRequest {
    let series = |(labels, samples, _): &LabelsAndSamples| {
        let labels: Vec<_> = labels.iter().map(|(name, value)| (&**name, &**value)).collect();
        v1::TimeSeries { labels: v1::labels(&labels), samples: samples.clone(), histograms: vec![] }
    };
    v1::WriteRequest { timeseries: all.iter().map(series).collect(), metadata: vec![] }
}

fn request_2(all: &[LabelsAndSamples]) -> v2::Request {
    let mut request = v2::Request::default();
    for (labels, samples, kind) in all {
        let labels: Vec<_> = labels.iter().map(|(name, value)| (&**name, &**value)).collect();
        request.push(*kind, &labels, samples);
    }
    request
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// A decoder that is warm, and has a cache of series, reads what a naive one reads.
    #[test]
    fn prost_agrees(bodies in prop::collection::vec(prop::collection::vec(series(), 0..6), 1..4)) {
        let mut server = Server::new(100_000);
        for body in bodies.iter().chain(&bodies) {
            check(&mut server, &request_1(body).encode_to_vec(), Format::RemoteWrite1);
            check(&mut server, &request_2(body).encode_to_vec(), Format::RemoteWrite2);
        }
    }

    /// So it does when bytes are changed.
    #[test]
    fn prost_agrees_about_damaged_bodies(
        body in prop::collection::vec(series(), 1..4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let bodies = [
            (request_1(&body).encode_to_vec(), Format::RemoteWrite1),
            (request_2(&body).encode_to_vec(), Format::RemoteWrite2),
        ];
        for (mut body, format) in bodies {
            if body.is_empty() {
                continue;
            }
            let mut server = Server::new(100_000);
            check(&mut server, &body, format);
            for (index, byte) in &changes {
                let place = index.index(body.len());
                body[place] = *byte;
            }
            check(&mut Server::new(100_000), &body, format);
            // And when the series of the good body are known.
            check(&mut server, &body, format);
        }
    }
}

fn host_request() -> ([(&'static str, &'static str); 4], Sample) {
    let labels = [
        ("__name__", "node_disk_busy"),
        ("device", "sda"),
        ("instance", "web-1:9100"),
        ("job", "node"),
    ];
    (labels, Sample { value: 0.5, timestamp: TIME_MS })
}

#[test]
fn the_device_is_the_host_and_not_the_disk() {
    let (labels, sample) = host_request();
    let mut request = v2::Request::default();
    request.push(GAUGE, &labels, &[sample]);
    let body_1 = v1::WriteRequest {
        timeseries: vec![v1::TimeSeries {
            labels: v1::labels(&labels),
            samples: vec![sample],
            histograms: vec![],
        }],
        metadata: vec![],
    };
    let expected = [Value {
        device: Some("web-1:9100".to_owned()),
        series: r#"node_disk_busy{device="sda",job="node"}"#.to_owned(),
        time_us: Some(TIME_MS * 1_000),
        value: 0.5,
    }];
    let mut server = Server::new(100);
    for _ in 0..2 {
        let values = server.values(&body_1.encode_to_vec(), Format::RemoteWrite1);
        assert_eq!(values, expected);
        let values = server.values(&request.encode_to_vec(), Format::RemoteWrite2);
        assert_eq!(values, expected);
    }
}

#[test]
fn a_body_cut_anywhere_is_refused_or_a_prefix() {
    let (labels, sample) = host_request();
    let mut request = v2::Request::default();
    for cpu in ["0", "1", "2"] {
        let labels = [&labels[..], &[("cpu", cpu)]].concat();
        request.push(COUNTER, &labels, &[sample, Sample { timestamp: TIME_MS + 1_000, ..sample }]);
    }
    let body = request.encode_to_vec();
    for end in 0..body.len() {
        check(&mut Server::new(100), &body[..end], Format::RemoteWrite2);
        // What is one version is read as the other, too, without harm.
        check(&mut Server::new(100), &body[..end], Format::RemoteWrite1);
    }
}

#[test]
fn hostile_bodies_are_refused() {
    let malformed = |body: &[u8], format| {
        let decoded = Server::new(100).decode(body, format);
        assert!(matches!(decoded, Err(BodyError::Malformed { .. })), "{decoded:?}");
    };
    for format in [Format::RemoteWrite1, Format::RemoteWrite2] {
        // Lengths past the end, in varints of every length, and one of more than 64 bits.
        for length in 1..=10 {
            let mut body = vec![0x0a];
            body.extend(vec![0xff; length - 1]);
            body.push(0x01);
            malformed(&body, format);
        }
        malformed(&[&[0x0a][..], &[0xff; 11]].concat(), format);
        malformed(b"\x1f\x8b\x08 still coded", format);
    }
    let mut request = v2::Request::default();
    let (labels, sample) = host_request();
    request.push(GAUGE, &labels, &[sample]);
    for (refs, name) in
        [(vec![1, 99], "out of range"), (vec![1], "odd"), (vec![u32::MAX; 2], "far")]
    {
        let mut request = request.clone();
        request.timeseries[0].labels_refs = refs;
        let decoded = Server::new(100).decode(&request.encode_to_vec(), Format::RemoteWrite2);
        assert!(matches!(decoded, Err(BodyError::Malformed { .. })), "{name}: {decoded:?}");
    }
    let mut request = request.clone();
    request.symbols = vec![Vec::new(); 70_000];
    let decoded = Server::new(100).decode(&request.encode_to_vec(), Format::RemoteWrite2);
    assert_eq!(decoded, Err(BodyError::TooManySamples));
}

#[test]
fn a_series_that_is_too_long_is_left_out_alone() {
    let many: Vec<_> = (0..10_000).map(|label| (format!("l{label}"), "v".to_owned())).collect();
    let long = vec![("path".to_owned(), "x".repeat(1 << 20))];
    for wide in [many, long] {
        let name = ("__name__", "wide");
        let wide: Vec<_> = wide.iter().map(|(name, value)| (&**name, &**value)).collect();
        let (labels, sample) = host_request();
        let mut request = v2::Request { symbols: vec![Vec::new()], timeseries: vec![] };
        // By hand: the look-up of a symbol is slow with so many.
        let mut labels_refs = Vec::new();
        for (label, value) in [name].iter().chain(&wide) {
            labels_refs.push(request.symbols.len() as u32);
            labels_refs.push(request.symbols.len() as u32 + 1);
            request.symbols.extend([label.as_bytes().to_vec(), value.as_bytes().to_vec()]);
        }
        request.timeseries.push(v2::TimeSeries {
            labels_refs,
            samples: vec![sample; 3],
            ..v2::TimeSeries::default()
        });
        request.push(GAUGE, &labels, &[sample]);
        let series = |labels: &[(&str, &str)]| v1::TimeSeries {
            labels: v1::labels(labels),
            samples: vec![sample],
            histograms: vec![],
        };
        let all = [&[name][..], &wide].concat();
        let request_1 =
            v1::WriteRequest { timeseries: vec![series(&all), series(&labels)], metadata: vec![] };
        for (body, format, refused) in [
            (request.encode_to_vec(), Format::RemoteWrite2, 3),
            (request_1.encode_to_vec(), Format::RemoteWrite1, 1),
        ] {
            let mut server = Server::new(100);
            for _ in 0..2 {
                let (decoded, values) = server.decode(&body, format).expect("a good body");
                assert_eq!((decoded.invalid, values.len()), (refused, 1));
                assert_eq!(server.decoder.refusals()[0].code, "series_too_long");
            }
        }
    }
}

#[test]
fn native_histograms_become_rate_mean_and_quantiles() {
    let spans = vec![span(0, 2), span(1, 1)];
    let histogram = |scale: i64, second: i64| Histogram {
        count_int: 10 * scale as u64,
        sum: 30.0 * scale as f64,
        zero_threshold: 1e-9,
        positive_spans: spans.clone(),
        // 2, 6 and 2 values in (0.5, 1], (1, 2] and (4, 8].
        positive_deltas: vec![2 * scale, 4 * scale, -4 * scale],
        timestamp: TIME_MS + second * 1_000,
        ..Histogram::default()
    };
    let mut server = Server::new(100);
    let mut send = |histogram: Histogram| {
        let mut request = v2::Request::default();
        let labels = [("__name__", "rpc"), ("instance", "a")];
        request.push(HISTOGRAM, &labels, &[]).histograms.push(histogram);
        let values = server.values(&request.encode_to_vec(), Format::RemoteWrite2);
        let written = server.decoder.written().expect("2.0 is told");
        (values.iter().map(|v| (v.series.clone(), v.value)).collect::<Vec<_>>(), written.histograms)
    };
    assert_eq!(send(histogram(1, 0)), (vec![], 1));
    let (values, written) = send(histogram(3, 10));
    let names: Vec<_> = values.iter().map(|(name, _)| &**name).collect();
    assert_eq!((names, written), (vec!["rpc_count", "rpc_mean", "rpc_p50", "rpc_p99"], 1));
    assert_eq!((values[0].1, values[1].1), (2.0, 3.0));
    assert!((1.0..2.0).contains(&values[2].1) && (4.0..8.0).contains(&values[3].1), "{values:?}");
    // A staleness marker, and histograms that are none.
    assert_eq!(
        send(Histogram { sum: f64::from_bits(0x7ff0_0000_0000_0002), ..histogram(1, 20) }),
        (vec![], 1)
    );
    for wrong in [
        Histogram { schema: 9, ..histogram(4, 30) },
        Histogram { positive_deltas: vec![1, 2], ..histogram(4, 30) },
        Histogram { positive_deltas: vec![1, -2, 0], ..histogram(4, 30) },
        Histogram { positive_spans: vec![span(0, u32::MAX), span(0, 4)], ..histogram(4, 30) },
        Histogram { positive_spans: vec![span(i32::MAX, 3)], ..histogram(4, 30) },
        Histogram { timestamp: -1, ..histogram(4, 30) },
    ] {
        assert_eq!(send(wrong.clone()), (vec![], 0), "{wrong:?}");
    }
    let own = Histogram {
        schema: -53,
        custom_values: vec![1.0, 2.0, 4.0],
        positive_spans: vec![span(1, 3)],
        ..histogram(1, 40)
    };
    assert_eq!(send(own.clone()).1, 1);
    assert_eq!(send(Histogram { custom_values: vec![1.0], ..own }).1, 0);
}

/// A gauge histogram is a distribution of its own: its values follow from the one message.
#[test]
fn histograms_of_floats_have_buckets_of_both_signs() {
    let histogram = Histogram {
        count_float: 11.0,
        sum: -22.0,
        zero_threshold: 0.5,
        zero_count_float: 4.0,
        // Four values in [-2, -1), and three in (1, 2].
        negative_spans: vec![span(1, 1)],
        negative_counts: vec![4.0],
        positive_spans: vec![span(1, 1)],
        positive_counts: vec![3.0],
        reset_hint: 3,
        timestamp: TIME_MS,
        ..Histogram::default()
    };
    let integers = Histogram {
        count_float: 0.0,
        count_int: 11,
        zero_count_float: 0.0,
        zero_count_int: 4,
        negative_counts: vec![],
        negative_deltas: vec![4],
        positive_counts: vec![],
        positive_deltas: vec![3],
        ..histogram.clone()
    };
    let labels = [("__name__", "rpc"), ("instance", "a")];
    let of = |histogram: &Histogram| {
        let mut request = v2::Request::default();
        request.push(HISTOGRAM, &labels, &[]).histograms.push(histogram.clone());
        let of_2 = Server::new(100).values(&request.encode_to_vec(), Format::RemoteWrite2);
        let series = v1::TimeSeries {
            labels: v1::labels(&labels),
            samples: vec![],
            histograms: vec![histogram.clone()],
        };
        let request = v1::WriteRequest { timeseries: vec![series], metadata: vec![] };
        let of_1 = Server::new(100).values(&request.encode_to_vec(), Format::RemoteWrite1);
        assert_eq!(of_1, of_2);
        of_1.into_iter().map(|value| (value.series, value.value)).collect::<Vec<_>>()
    };
    // p50 is the 5.5th of 11: 1.5 of 4 into the zero bucket from -0.5 to 0.5. p99: 2.89 of 3 into the last one.
    let expected = [
        ("rpc_count".to_owned(), 11.0),
        ("rpc_mean".to_owned(), -2.0),
        ("rpc_p50".to_owned(), -0.125),
        ("rpc_p99".to_owned(), 2_f64.powf(2.89 / 3.0)),
    ];
    for histogram in [&histogram, &integers] {
        let found = of(histogram);
        let is_close =
            |(a, b): (&(String, f64), &(String, f64))| a.0 == b.0 && (a.1 - b.1).abs() < 1e-12;
        assert!(found.len() == 4 && found.iter().zip(&expected).all(is_close), "{found:?}");
    }
    for wrong in [
        Histogram { negative_counts: vec![-4.0], ..histogram.clone() },
        Histogram { positive_counts: vec![f64::NAN], ..histogram.clone() },
        Histogram { positive_counts: vec![f64::INFINITY], ..histogram.clone() },
        Histogram { positive_spans: vec![span(1, 1), span(-1, 0)], ..histogram.clone() },
        Histogram { negative_spans: vec![], ..histogram.clone() },
        // Bounds of its own: none below, ascending, finite, and a count for each at most.
        Histogram { schema: -53, custom_values: vec![1.0], ..histogram.clone() },
        custom(&[1.0, f64::INFINITY]),
        custom(&[2.0, 1.0]),
        custom(&[1.0, 1.0]),
        custom(&[]),
    ] {
        assert_eq!(of(&wrong), [], "{wrong:?}");
    }
    let found = of(&custom(&[1.0, 2.0]));
    assert_eq!(found[2], ("rpc_p50".to_owned(), 1.5));
    assert!((found[3].1 - 1.99).abs() < 1e-12, "{found:?}");
}

/// Three values in the second of the buckets with these bounds.
fn custom(bounds: &[f64]) -> Histogram {
    Histogram {
        count_float: 3.0,
        sum: 4.5,
        schema: -53,
        positive_spans: vec![span(1, 1)],
        positive_counts: vec![3.0],
        reset_hint: 3,
        timestamp: TIME_MS,
        custom_values: bounds.to_vec(),
        ..Histogram::default()
    }
}

/// More strings than a worker remembers: the series of those past it are kept all the same.
#[test]
fn series_of_strings_without_a_number_are_kept() {
    let mut request = v2::Request::default();
    let sample = Sample { value: 0.5, timestamp: TIME_MS };
    for at in 0..1_100 {
        request.symbols.push(format!("{at:01000}").into_bytes());
    }
    let labels = [("__name__", "up"), ("instance", "a"), ("zone", "eu")];
    request.push(GAUGE, &labels, &[sample]);
    request.push(COUNTER, &[("__name__", "hits"), ("instance", "a")], &[sample]);
    let mut server = Server::new(100);
    for _ in 0..2 {
        let body = request.encode_to_vec();
        let (decoded, values) = server.decode(&body, Format::RemoteWrite2).expect("a good body");
        assert_eq!((values.len(), decoded.invalid), (1, 0), "{:?}", server.decoder.refusals());
        assert_eq!((&*values[0].series, values[0].value), (r#"up{zone="eu"}"#, 0.5));
        assert_eq!(values[0].device.as_deref(), Some("a"));
    }
}

fn span(offset: i32, length: u32) -> BucketSpan {
    BucketSpan { offset, length }
}

/// The rates of one series whose values are sent in bodies of their own.
fn rates(server: &mut Server, format: Format, bodies: impl Iterator<Item = Vec<u8>>) -> Vec<f64> {
    bodies.flat_map(|body| server.values(&body, format)).map(|value| value.value).collect()
}

#[test]
fn types_of_2_0_make_counters() {
    let labels = [("__name__", "requests"), ("instance", "a")];
    let body = |kind, value, second: i64| {
        let mut request = v2::Request::default();
        let timestamp = TIME_MS + second * 1_000;
        request.push(kind, &labels, &[Sample { value, timestamp }]);
        request.encode_to_vec()
    };
    let mut server = Server::new(100);
    let bodies = [(10.0, 0), (30.0, 10), (5.0, 20), (6.0, 30)];
    let counter = bodies.map(|(value, second)| body(COUNTER, value, second));
    assert_eq!(rates(&mut server, Format::RemoteWrite2, counter.into_iter()), [2.0, 0.1]);
    let gauge = bodies.map(|(value, second)| body(GAUGE, value, second));
    assert_eq!(rates(&mut server, Format::RemoteWrite2, gauge.into_iter()), [10.0, 30.0, 5.0, 6.0]);
}

/// The numbers of `MetricType`, and what they say of a part of a family.
#[test]
fn types_of_2_0_say_which_parts_are_counters() {
    for (kind, name, is_counter) in [
        (COUNTER, "a", true),
        (GAUGE, "b_sum", false),
        (HISTOGRAM, "c_sum", true),
        (HISTOGRAM, "d_count", true),
        (HISTOGRAM, "e", false),
        (4, "f_sum", false),
        (5, "g_sum", true),
        (5, "h_count", true),
        (5, "i", false),
        (6, "j_sum", false),
        (7, "k_sum", false),
        (0, "l_sum", false),
        (8, "m_sum", false),
    ] {
        let bodies = [(10.0, 0), (30.0, 10)].map(|(value, second): (f64, i64)| {
            let mut request = v2::Request::default();
            let timestamp = TIME_MS + second * 1_000;
            request.push(kind, &[("__name__", name)], &[Sample { value, timestamp }]);
            request.encode_to_vec()
        });
        let found = rates(&mut Server::new(100), Format::RemoteWrite2, bodies.into_iter());
        let expected = if is_counter { &[2.0][..] } else { &[10.0, 30.0] };
        assert_eq!(found, expected, "{kind} {name}");
    }
}

#[test]
fn types_of_1_0_come_in_their_own_bodies() {
    let mut server = Server::new(100);
    let body = |value, second: i64| {
        let labels = v1::labels(&[("__name__", "requests"), ("instance", "a")]);
        let samples = vec![Sample { value, timestamp: TIME_MS + second * 1_000 }];
        let series = v1::TimeSeries { labels, samples, histograms: vec![] };
        v1::WriteRequest { timeseries: vec![series], metadata: vec![] }.encode_to_vec()
    };
    let before = [body(10.0, 0), body(30.0, 10)];
    assert_eq!(rates(&mut server, Format::RemoteWrite1, before.into_iter()), [10.0, 30.0]);
    let told = v1::MetricMetadata { kind: COUNTER, metric_family_name: "requests".into() };
    let metadata = v1::WriteRequest { timeseries: vec![], metadata: vec![told] }.encode_to_vec();
    let (decoded, values) =
        server.decode(&metadata, Format::RemoteWrite1).expect("no values, no error");
    assert_eq!((decoded.accepted, values.len()), (0, 0));
    let after = [body(50.0, 20), body(70.0, 30)];
    assert_eq!(rates(&mut server, Format::RemoteWrite1, after.into_iter()), [2.0]);
}

#[test]
fn the_sender_of_2_0_is_told_what_is_written() {
    let mut server = Server::new(2);
    let mut request = v2::Request::default();
    let stale = Sample { value: f64::from_bits(0x7ff0_0000_0000_0002), timestamp: TIME_MS };
    let good = Sample { value: 1.0, timestamp: TIME_MS };
    for instance in ["a", "b", "c", "d"] {
        request.push(GAUGE, &[("__name__", "up"), ("instance", instance)], &[good]);
    }
    request.push(GAUGE, &[("__name__", "up"), ("instance", "a")], &[stale]);
    request.push(GAUGE, &[("instance", "a")], &[good]);
    let (decoded, values) =
        server.decode(&request.encode_to_vec(), Format::RemoteWrite2).expect("good");
    assert_eq!((values.len(), decoded.invalid), (2, 1));
    assert_eq!((server.decoder.values().skipped, server.decoder.values().left_out()), (1, 2));
    // Two are kept, and there is nothing to keep of the marker.
    assert_eq!(server.decoder.written().map(|written| written.samples), Some(3));
}
