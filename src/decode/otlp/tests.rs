//! Histograms and summaries, against what their definitions say of them.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Attribute;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogram, ExponentialHistogramDataPoint, Histogram, HistogramDataPoint, Metric,
    ResourceMetrics, ScopeMetrics, Summary, SummaryDataPoint,
};
use prost::Message;

use super::super::testing::{NOW, Server};
use super::super::{BodyError, Format};
use super::data_point::BUCKETS_MAX;

const DELTA: i32 = 1;
const CUMULATIVE: i32 = 2;
const TIME_NS: u64 = 1_735_100_001_000_000_000;
const MISFIT: &str = "the buckets do not fit to their bounds, or are more than 2048";

fn request(data: Data) -> ExportMetricsServiceRequest {
    let metric = Metric { name: "h".to_owned(), data: Some(data), ..Metric::default() };
    let scope = ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() };
    let resource = ResourceMetrics { scope_metrics: vec![scope], ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![resource] }
}

fn explicit(points: Vec<HistogramDataPoint>, aggregation_temporality: i32) -> Data {
    Data::Histogram(Histogram { data_points: points, aggregation_temporality })
}

fn exponential(points: Vec<ExponentialHistogramDataPoint>, aggregation_temporality: i32) -> Data {
    Data::ExponentialHistogram(ExponentialHistogram {
        data_points: points,
        aggregation_temporality,
    })
}

fn of_host(host: &str) -> Vec<KeyValue> {
    let value = Some(AnyValue { value: Some(Attribute::StringValue(host.to_owned())) });
    vec![KeyValue { key: "host.name".to_owned(), value, ..KeyValue::default() }]
}

fn close(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= 1e-12 * expected.abs().max(1.0)
}

/// Series and value of what a request gives, as protobuf and as JSON.
fn read(server: &mut Server, data: Data) -> Vec<(String, f64)> {
    let request = request(data);
    let values: Vec<_> = server
        .read(&request.encode_to_vec(), Format::OtlpProtobuf)
        .into_iter()
        .map(|(_, series, _, value)| (series, value))
        .collect();
    let json = serde_json::to_vec(&request).expect("no maps in it");
    let (mut of_json, mut of_protobuf) = (Server::new(), Server::new());
    assert_eq!(
        of_json.read(&json, Format::OtlpJson),
        of_protobuf.read(&request.encode_to_vec(), Format::OtlpProtobuf),
        "JSON of {}",
        String::from_utf8_lossy(&json)
    );
    values
}

#[track_caller]
fn assert_values(found: &[(String, f64)], expected: &[(&str, f64)]) {
    let is_same = found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|(found, expected)| found.0 == expected.0 && close(found.1, expected.1));
    assert!(is_same, "{found:?} for {expected:?}");
}

fn explicit_point(bounds: &[f64], counts: &[u64]) -> HistogramDataPoint {
    HistogramDataPoint {
        time_unix_nano: TIME_NS,
        count: counts.iter().sum(),
        sum: Some(25.0),
        explicit_bounds: bounds.to_vec(),
        bucket_counts: counts.to_vec(),
        ..HistogramDataPoint::default()
    }
}

fn exponential_point(
    scale: i32,
    zero_count: u64,
    positive: (i32, &[u64]),
    negative: (i32, &[u64]),
) -> ExponentialHistogramDataPoint {
    let buckets = |(offset, counts): (i32, &[u64])| {
        let bucket_counts = counts.to_vec();
        (!counts.is_empty()).then_some(Buckets { offset, bucket_counts })
    };
    let counted = positive.1.iter().chain(negative.1).sum::<u64>();
    ExponentialHistogramDataPoint {
        time_unix_nano: TIME_NS,
        count: zero_count + counted,
        sum: Some(10.0),
        scale,
        zero_count,
        zero_threshold: 0.5,
        positive: buckets(positive),
        negative: buckets(negative),
        ..ExponentialHistogramDataPoint::default()
    }
}

#[test]
fn a_histogram_is_its_count_mean_and_quantiles() {
    let mut server = Server::new();
    let point = explicit_point(&[1.0, 2.0, 4.0], &[10, 10, 0, 0]);
    let found = read(&mut server, explicit(vec![point.clone()], DELTA));
    let expected = [("h_count", 20.0), ("h_mean", 1.25), ("h_p50", 1.0), ("h_p99", 1.98)];
    assert_values(&found, &expected);
    // Without the sum no mean, without buckets no quantiles, and without values neither.
    let without_sum = HistogramDataPoint { sum: None, ..point.clone() };
    let found = read(&mut server, explicit(vec![without_sum], DELTA));
    assert_values(&found, &[("h_count", 20.0), ("h_p50", 1.0), ("h_p99", 1.98)]);
    let without_buckets = HistogramDataPoint { count: 4, ..explicit_point(&[], &[]) };
    let found = read(&mut server, explicit(vec![without_buckets], DELTA));
    assert_values(&found, &[("h_count", 4.0), ("h_mean", 6.25)]);
    let found = read(&mut server, explicit(vec![explicit_point(&[1.0], &[0, 0])], DELTA));
    assert_values(&found, &[("h_count", 0.0)]);
}

#[test]
fn buckets_of_an_exponential_histogram_grow_by_their_base() {
    let half = 0.5_f64;
    // Of scale, zero count, positive and negative buckets: the mean of the sum 10, p50 and p99.
    for (point, p50, p99) in [
        // One bucket from 1 to 2, in which quantiles lie geometrically.
        (exponential_point(0, 0, (0, &[8]), (0, &[])), 2_f64.powf(0.5), 2_f64.powf(0.99)),
        // From 8 to 16, and from 32 to 64.
        (exponential_point(0, 0, (3, &[4, 0, 4]), (0, &[])), 16.0, 32.0 * 2_f64.powf(0.98)),
        // The base is the root of 2: from 1/2 to its root, and on to 1.
        (exponential_point(1, 0, (-2, &[2, 2]), (0, &[])), half.sqrt(), half.sqrt().powf(0.02)),
        // The base is 4.
        (exponential_point(-1, 0, (0, &[4]), (0, &[])), 2.0, 4_f64.powf(0.99)),
        // From -2 to -1.
        (
            exponential_point(0, 0, (0, &[]), (0, &[4])),
            -2.0 * half.powf(0.5),
            -2.0 * half.powf(0.99),
        ),
        // Up to the threshold of zero, linearly.
        (exponential_point(0, 4, (0, &[]), (0, &[])), 0.25, 0.495),
        (exponential_point(0, 4, (0, &[]), (1, &[1])), -0.3125, -0.00625),
        (exponential_point(0, 2, (1, &[4]), (1, &[4])), 0.0, 2.0 * 2_f64.powf(0.975)),
    ] {
        let mut server = Server::new();
        let count = point.count as f64;
        let found = read(&mut server, exponential(vec![point], DELTA));
        let expected =
            [("h_count", count), ("h_mean", 10.0 / count), ("h_p50", p50), ("h_p99", p99)];
        assert_values(&found, &expected);
    }
    let empty = exponential_point(0, 0, (5, &[0, 0]), (5, &[0]));
    let found = read(&mut Server::new(), exponential(vec![empty], DELTA));
    assert_values(&found, &[("h_count", 0.0)]);
}

#[test]
fn a_cumulative_histogram_is_its_change() {
    let mut server = Server::new();
    let later = TIME_NS + 2_000_000_000;
    let point = explicit_point(&[1.0, 2.0], &[10, 10, 0]);
    assert_values(&read(&mut server, explicit(vec![point], CUMULATIVE)), &[]);
    assert_eq!(server.decoder.values().first, 1);
    let point = HistogramDataPoint {
        time_unix_nano: later,
        sum: Some(31.0),
        ..explicit_point(&[1.0, 2.0], &[10, 14, 0])
    };
    let found = read(&mut server, explicit(vec![point], CUMULATIVE));
    let expected = [("h_count", 2.0), ("h_mean", 1.5), ("h_p50", 1.5), ("h_p99", 1.99)];
    assert_values(&found, &expected);

    let mut server = Server::new();
    let point = exponential_point(0, 1, (0, &[3]), (0, &[]));
    assert_values(&read(&mut server, exponential(vec![point], CUMULATIVE)), &[]);
    let point = ExponentialHistogramDataPoint {
        time_unix_nano: later,
        sum: Some(16.0),
        ..exponential_point(0, 1, (0, &[7]), (0, &[]))
    };
    let found = read(&mut server, exponential(vec![point], CUMULATIVE));
    let expected = [
        ("h_count", 2.0),
        ("h_mean", 1.5),
        ("h_p50", 2_f64.powf(0.5)),
        ("h_p99", 2_f64.powf(0.99)),
    ];
    assert_values(&found, &expected);
}

#[test]
fn a_summary_is_its_quantiles_and_the_rate_of_its_count() {
    let mut server = Server::new();
    let summary = |seconds: u64, count, sum, flags| {
        let quantile_values = vec![
            ValueAtQuantile { quantile: 0.5, value: 3.0 },
            ValueAtQuantile { quantile: 0.99, value: 8.0 },
        ];
        let time_unix_nano = TIME_NS + seconds * 1_000_000_000;
        let point = SummaryDataPoint {
            attributes: of_host("a"),
            time_unix_nano,
            count,
            sum,
            flags,
            quantile_values,
            ..SummaryDataPoint::default()
        };
        Data::Summary(Summary { data_points: vec![point] })
    };
    let quantiles = [("h{quantile=\"0.5\"}", 3.0), ("h{quantile=\"0.99\"}", 8.0)];
    assert_values(&read(&mut server, summary(0, 10, 5.0, 0)), &quantiles);
    let found = read(&mut server, summary(4, 18, 21.0, 0));
    assert_values(&found, &[&[("h_count", 2.0), ("h_mean", 2.0)][..], &quantiles[..]].concat());
    assert_values(&read(&mut server, summary(8, 30, 30.0, 1)), &[]);
    assert_eq!(server.decoder.values().skipped, 1);
}

#[test]
fn a_point_that_says_it_has_no_value_gives_none() {
    let mut server = Server::new();
    let point = HistogramDataPoint { flags: 1, ..explicit_point(&[1.0], &[1, 1]) };
    assert_values(&read(&mut server, explicit(vec![point], DELTA)), &[]);
    let point =
        ExponentialHistogramDataPoint { flags: 1, ..exponential_point(0, 1, (0, &[1]), (0, &[])) };
    assert_values(&read(&mut server, exponential(vec![point], DELTA)), &[]);
    assert_eq!(server.decoder.values().skipped, 1);
}

/// Each point of a body is read as if it were alone, whatever the one before it had.
#[test]
fn points_of_a_body_do_not_mix() {
    let mut points = vec![
        exponential_point(3, 7, (5, &[1, 2, 3]), (-9, &[4, 0, 6])),
        exponential_point(0, 0, (0, &[8]), (0, &[])),
        exponential_point(0, 0, (0, &[]), (0, &[2])),
        exponential_point(0, 4, (0, &[]), (0, &[])),
        ExponentialHistogramDataPoint { flags: 1, ..exponential_point(0, 1, (0, &[]), (0, &[])) },
        ExponentialHistogramDataPoint {
            zero_threshold: 0.0,
            ..exponential_point(0, 5, (0, &[]), (0, &[1]))
        },
        ExponentialHistogramDataPoint::default(),
    ];
    for (at, point) in points.iter_mut().enumerate() {
        point.attributes = of_host(&format!("e{at}"));
    }
    let mut explicits = vec![
        explicit_point(&[1.0, 2.0], &[3, 4, 5]),
        explicit_point(&[7.0], &[1, 1]),
        HistogramDataPoint { sum: None, ..explicit_point(&[], &[]) },
        HistogramDataPoint { flags: 1, ..explicit_point(&[7.0], &[1, 1]) },
        HistogramDataPoint::default(),
    ];
    for (at, point) in explicits.iter_mut().enumerate() {
        point.attributes = of_host(&format!("x{at}"));
    }
    let exponentials = points.into_iter().map(|point| exponential(vec![point], DELTA));
    let explicits = explicits.into_iter().map(|point| explicit(vec![point], DELTA));
    let all: Vec<_> = exponentials.chain(explicits).map(request).collect();
    let alone = |request: &ExportMetricsServiceRequest| {
        Server::new().read(&request.encode_to_vec(), Format::OtlpProtobuf)
    };
    for first in &all {
        for second in &all {
            let both = [first.encode_to_vec(), second.encode_to_vec()].concat();
            let together = Server::new().read(&both, Format::OtlpProtobuf);
            assert_eq!(together, [alone(first), alone(second)].concat(), "{first:?} {second:?}");
        }
    }
}

#[test]
fn buckets_that_do_not_fit_refuse_their_point() {
    let many = vec![1; BUCKETS_MAX + 1];
    let bounds: Vec<_> = (0..=BUCKETS_MAX).map(|bound| bound as f64).collect();
    let refused = [
        explicit(vec![explicit_point(&[2.0, 1.0], &[1, 1, 1])], DELTA),
        explicit(vec![explicit_point(&[1.0, 1.0], &[1, 1, 1])], DELTA),
        explicit(vec![explicit_point(&[1.0], &[1])], DELTA),
        explicit(vec![explicit_point(&[1.0], &[1, 1, 1])], DELTA),
        explicit(vec![explicit_point(&[], &[1, 1])], DELTA),
        explicit(vec![explicit_point(&[1.0], &[])], DELTA),
        explicit(vec![explicit_point(&bounds[1..], &many)], DELTA),
        explicit(vec![explicit_point(&bounds, &[])], DELTA),
        exponential(vec![exponential_point(0, 0, (0, &many), (0, &[]))], DELTA),
        exponential(vec![exponential_point(0, 0, (0, &[]), (0, &many))], DELTA),
        // The upper bound of the bucket has no index.
        exponential(vec![exponential_point(0, 0, (i32::MAX, &[1]), (0, &[]))], DELTA),
        exponential(vec![exponential_point(0, 0, (0, &[]), (i32::MAX, &[1]))], DELTA),
    ];
    for data in refused {
        let mut server = Server::new();
        let body = request(data.clone()).encode_to_vec();
        assert_eq!(server.read(&body, Format::OtlpProtobuf), [], "{data:?}");
        assert_eq!(server.refusals(), [(0, MISFIT)], "{data:?}");
    }
    let kept = [
        explicit(vec![explicit_point(&[], &[3])], DELTA),
        explicit(vec![explicit_point(&bounds[2..], &many[1..])], DELTA),
        exponential(vec![exponential_point(0, 0, (0, &many[1..]), (0, &[]))], DELTA),
        exponential(vec![exponential_point(0, 0, (i32::MAX, &[0]), (0, &[]))], DELTA),
        exponential(vec![exponential_point(0, 0, (i32::MAX - 1, &[1]), (0, &[]))], DELTA),
    ];
    for data in kept {
        let mut server = Server::new();
        let body = request(data.clone()).encode_to_vec();
        assert_ne!(server.read(&body, Format::OtlpProtobuf), [], "{data:?}");
        assert_eq!(server.refusals(), [], "{data:?}");
    }
}

/// A field of 64 bits, and one with a length.
fn fixed(number: u8, bits: u64) -> Vec<u8> {
    [&[number << 3 | 1][..], &bits.to_le_bytes()].concat()
}

fn part(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, content.len() as u8][..], content].concat()
}

/// Senders may write a list of numbers as a field each.
#[test]
fn lists_are_packed_or_not() {
    let fields: Vec<u8> = [
        fixed(3, TIME_NS),
        fixed(4, 20),
        [10, 10, 0].map(|count| fixed(6, count)).concat(),
        [1.0, 2.0].map(|bound: f64| fixed(7, bound.to_bits())).concat(),
    ]
    .concat();
    let metric = [part(1, b"h"), part(9, &[part(1, &fields), vec![2 << 3, 1]].concat())].concat();
    let body = part(1, &part(2, &part(2, &metric)));
    let found: Vec<_> = Server::new()
        .read(&body, Format::OtlpProtobuf)
        .into_iter()
        .map(|(_, series, time, value)| (series, time, value))
        .collect();
    let of = |series: &str, value| (series.to_owned(), (TIME_NS / 1_000) as i64, value);
    assert_eq!(found, [of("h_count", 20.0), of("h_p50", 1.0), of("h_p99", 1.98)]);
    // Bits that end early are no list.
    let short = [part(1, b"h"), part(9, &part(1, &part(6, &[1; 9])))].concat();
    let body = part(1, &part(2, &part(2, &short)));
    let error = Server::new().decode(&body, Format::OtlpProtobuf);
    assert_eq!(error, Err(BodyError::Malformed { offset: 0 }));
}

/// A gauge with one point in JSON.
fn gauge(point: &str) -> String {
    let metric = format!("{{\"name\":\"g\",\"gauge\":{{\"dataPoints\":[{point}]}}}}");
    format!("{{\"resourceMetrics\":[{{\"scopeMetrics\":[{{\"metrics\":[{metric}]}}]}}]}}")
}

#[test]
fn numbers_of_json_are_texts_or_numbers() {
    for (point, expected) in [
        (r#"{"asDouble":1.5}"#, Some(1.5_f64)),
        (r#"{"asDouble":"1.5"}"#, Some(1.5)),
        (r#"{"asDouble":2}"#, Some(2.0)),
        (r#"{"asInt":"-3"}"#, Some(-3.0)),
        (r#"{"asInt":-3}"#, Some(-3.0)),
        (r#"{"asInt":3.0}"#, Some(3.0)),
        // Past the largest value that is judged, and exact.
        (r#"{"asInt":9007199254740992.0}"#, None),
        (r#"{"asDouble":"NaN"}"#, None),
        (r#"{"asDouble":"Infinity"}"#, None),
        (r#"{"asDouble":"-Infinity"}"#, None),
    ] {
        let mut server = Server::new();
        let found = server.read(gauge(point).as_bytes(), Format::OtlpJson);
        let found: Vec<_> = found.into_iter().map(|(.., time, value)| (time, value)).collect();
        let expected: Vec<_> = expected.map(|value| (NOW.wall_us, value)).into_iter().collect();
        assert_eq!(found, expected, "{point}");
        assert_eq!(server.decoder.values().skipped, 1 - expected.len(), "{point}");
    }
    for point in [
        r#"{"asInt":1.5}"#,
        r#"{"asInt":18014398509481984.0}"#,
        r#"{"asInt":"x"}"#,
        r#"{"asInt":"9223372036854775808"}"#,
        r#"{"asDouble":"inf"}"#,
        r#"{"asDouble":true}"#,
        r#"{"timeUnixNano":-1}"#,
        r#"{"flags":-1}"#,
        r#"{"attributes":"x"}"#,
        r#"{"attributes":["x"]}"#,
        r#"{"attributes":[null]}"#,
        r#"{"attributes":[7]}"#,
        r#"{"attributes":[{"key":7}]}"#,
        r#"{"attributes":[{"key":"k","value":{"boolValue":"true"}}]}"#,
        r#"{"attributes":[{"key":"k","value":{"boolValue":1}}]}"#,
    ] {
        let error = Server::new().decode(gauge(point).as_bytes(), Format::OtlpJson);
        assert!(matches!(error, Err(BodyError::Malformed { .. })), "{point}: {error:?}");
    }
}

#[test]
fn an_error_in_json_has_its_place() {
    let whole = gauge(r#"{"asInt":true}"#);
    let place = whole.find("true").expect("in it");
    let error = |body: &str| Server::new().decode(body.as_bytes(), Format::OtlpJson);
    let offset = |body: &str| match error(body) {
        Err(BodyError::Malformed { offset }) => offset,
        other => panic!("{body}: {other:?}"),
    };
    let of_one_line = offset(&whole);
    assert!((place..=place + 4).contains(&of_one_line), "{of_one_line} of {place}");
    // Lines before it, and after it, change nothing.
    let lines = "{\n \"a\":\n1,\n";
    let many = whole.replacen('{', lines, 1) + "\n\n";
    assert_eq!(offset(&many), of_one_line + lines.len() - 1);
}

/// The double of an attribute has 64 bits.
#[test]
fn an_attribute_of_another_wire_type_refuses_its_point() {
    let body = |value: &[u8]| {
        let attribute = [part(1, b"k"), part(2, value)].concat();
        let point = [part(7, &attribute), fixed(4, 1.0_f64.to_bits())].concat();
        let metric = [part(1, b"h"), part(5, &part(1, &point))].concat();
        part(1, &part(2, &part(2, &metric)))
    };
    let good = Server::new().read(&body(&fixed(4, 2.5_f64.to_bits())), Format::OtlpProtobuf);
    assert_eq!(good.len(), 1);
    assert_eq!((&*good[0].1, good[0].3), (r#"h{k="2.5"}"#, 1.0));
    for wrong in [&[4 << 3, 1][..], &[4 << 3 | 5, 0, 0, 0, 0], &[1 << 3, 1], &part(2, b"x")] {
        let decoded = Server::new().decode(&body(wrong), Format::OtlpProtobuf);
        let counts = decoded.map(|decoded| (decoded.accepted, decoded.invalid));
        assert_eq!(counts, Ok((0, 1)), "{wrong:?}");
    }
}
