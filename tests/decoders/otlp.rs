//! The reader of OTLP agrees with a naive one on the messages of opentelemetry-proto, whatever the body; JSON gives
//! what the same request gives as protobuf.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint,
    number_data_point, summary_data_point::ValueAtQuantile,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use prost::Message;

use crate::reference_otlp::{Checked, expected};
use sigmad::decode::Format;

const NAMES: &[&str] =
    &["system.cpu.utilization", "http.server.duration", "a b", "x{y}", "", "é", "bad\u{1}name"];
const KEYS: &[&str] =
    &["host.name", "service.name", "service.instance.id", "cpu", "device", "state", "", "q,", "é"];
const TEXTS: &[&str] =
    &["", "edge-17", "unknown_service:python", "checkout", "a\"b\\c\nd", "eth0", "é", "\u{85}"];
const VALUES: &[f64] =
    &[0.0, -0.0, 1.5, -2.0, 1e15, 1.1e15, f64::NAN, f64::INFINITY, 5e-324, 0.1, 0.3];
const TIMES: &[u64] =
    &[0, 1, 1_735_100_000_000_000_000, 1_735_100_000_123_456_789, i64::MAX as u64, u64::MAX];

fn any_value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        8 => select(TEXTS).prop_map(|text| Value::StringValue(text.to_owned())),
        1 => any::<bool>().prop_map(Value::BoolValue),
        1 => any::<i64>().prop_map(Value::IntValue),
        // JSON has no NaN, and the crate writes null for it.
        1 => select(&[0.0, -2.0, 0.1, 1e300][..]).prop_map(Value::DoubleValue),
        1 => vec(any::<u8>(), 0..6).prop_map(Value::BytesValue),
    ];
    let value = leaf.prop_recursive(10, 12, 3, |inner| {
        let any = || option::of(inner.clone()).prop_map(|value| AnyValue { value });
        prop_oneof![
            vec(any(), 0..3).prop_map(|values| Value::ArrayValue(ArrayValue { values })),
            vec((select(KEYS), option::of(any())), 0..3).prop_map(|entries| {
                let values = entries.into_iter().map(|(key, value)| key_value(key, value));
                Value::KvlistValue(KeyValueList { values: values.collect() })
            }),
        ]
    });
    option::weighted(0.9, value).prop_map(|value| AnyValue { value })
}

fn key_value(key: &str, value: Option<AnyValue>) -> KeyValue {
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    vec((select(KEYS), option::weighted(0.95, any_value())), 0..4)
        .prop_map(|list| list.into_iter().map(|(key, value)| key_value(key, value)).collect())
}

fn number_point() -> impl Strategy<Value = NumberDataPoint> {
    let value = prop_oneof![
        select(VALUES).prop_map(number_data_point::Value::AsDouble),
        any::<f64>().prop_map(number_data_point::Value::AsDouble),
        any::<i64>().prop_map(number_data_point::Value::AsInt),
        (0_i64..100).prop_map(number_data_point::Value::AsInt),
    ];
    let flags = prop_oneof![6 => Just(0_u32), 1 => Just(1), 1 => Just(2)];
    (attributes(), select(TIMES), option::weighted(0.9, value), flags).prop_map(
        |(attributes, time_unix_nano, value, flags)| NumberDataPoint {
            attributes,
            time_unix_nano,
            value,
            flags,
            ..NumberDataPoint::default()
        },
    )
}

fn summary_point() -> impl Strategy<Value = SummaryDataPoint> {
    let quantile = (select(&[0.0, 0.5, 0.99, 1.0][..]), select(VALUES));
    let quantiles = vec(quantile, 0..3).prop_map(|list| {
        let quantile = |(quantile, value)| ValueAtQuantile { quantile, value };
        list.into_iter().map(quantile).collect()
    });
    (attributes(), select(TIMES), quantiles).prop_map(
        |(attributes, time_unix_nano, quantile_values)| SummaryDataPoint {
            attributes,
            time_unix_nano,
            quantile_values,
            ..SummaryDataPoint::default()
        },
    )
}

/// Any metric whose values are judged as they are.
fn metric() -> impl Strategy<Value = Metric> {
    let points = || vec(number_point(), 0..4);
    let data = prop_oneof![
        4 => points().prop_map(|data_points| Data::Gauge(Gauge { data_points })),
        2 => (points(), 0..3_i32).prop_map(|(data_points, aggregation_temporality)| {
            Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic: false })
        }),
        2 => points().prop_map(|data_points| {
            Data::Sum(Sum { data_points, aggregation_temporality: 1, is_monotonic: true })
        }),
    ];
    (select(NAMES), option::weighted(0.95, data)).prop_map(|(name, data)| Metric {
        name: name.to_owned(),
        unit: "By".to_owned(),
        data,
        ..Metric::default()
    })
}

fn request_of(
    metric: impl Strategy<Value = Metric>,
) -> impl Strategy<Value = ExportMetricsServiceRequest> {
    let scope =
        vec(metric, 0..4).prop_map(|metrics| ScopeMetrics { metrics, ..ScopeMetrics::default() });
    let resource =
        attributes().prop_map(|attributes| Resource { attributes, ..Resource::default() });
    let resource_metrics = (option::weighted(0.9, resource), vec(scope, 0..3)).prop_map(
        |(resource, scope_metrics)| ResourceMetrics {
            resource,
            scope_metrics,
            ..ResourceMetrics::default()
        },
    );
    vec(resource_metrics, 0..3)
        .prop_map(|resource_metrics| ExportMetricsServiceRequest { resource_metrics })
}

fn request() -> impl Strategy<Value = ExportMetricsServiceRequest> {
    request_of(metric())
}

fn example() -> ExportMetricsServiceRequest {
    let text = |text: &str| Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) });
    let point = |cpu: &str, value| NumberDataPoint {
        attributes: vec![key_value("cpu", text(cpu)), key_value("state", text("idle"))],
        start_time_unix_nano: 1_735_000_000_000_000_000,
        time_unix_nano: 1_735_100_000_000_000_000,
        value: Some(number_data_point::Value::AsDouble(value)),
        ..NumberDataPoint::default()
    };
    let metric = |name: &str, data| Metric {
        name: name.to_owned(),
        description: "what it is".to_owned(),
        data: Some(data),
        ..Metric::default()
    };
    let metrics = vec![
        metric(
            "system.cpu.utilization",
            Data::Gauge(Gauge { data_points: vec![point("0", 0.5), point("1", 0.25)] }),
        ),
        metric(
            "requests",
            Data::Sum(Sum {
                data_points: vec![point("0", 7.0)],
                aggregation_temporality: 1,
                is_monotonic: true,
            }),
        ),
    ];
    let resource = Resource {
        attributes: vec![
            key_value("service.name", text("checkout")),
            key_value("host.name", text("edge-17")),
            key_value("telemetry.sdk.language", text("python")),
        ],
        ..Resource::default()
    };
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    let resource_metrics = vec![ResourceMetrics {
        resource: Some(resource),
        scope_metrics,
        ..ResourceMetrics::default()
    }];
    ExportMetricsServiceRequest { resource_metrics }
}

#[test]
fn a_request_becomes_series_of_its_host() {
    let found = Checked::new().read(&example().encode_to_vec(), Format::OtlpProtobuf);
    let found = found.expect("it is good");
    let named: Vec<_> = found
        .iter()
        .map(|point| (point.device.as_deref(), &*point.series, point.time_us, point.value))
        .collect();
    let (host, time_us) = (Some("edge-17"), 1_735_100_000_000_000);
    let labels = |cpu| format!(r#"{{cpu="{cpu}",service.name="checkout",state="idle"}}"#);
    let [first, second] = ["0", "1"].map(|cpu| format!("system.cpu.utilization{}", labels(cpu)));
    let third = format!("requests{}", labels("0"));
    assert_eq!(
        named,
        [
            (host, &*first, time_us, 0.5),
            (host, &*second, time_us, 0.25),
            (host, &*third, time_us, 7.0),
        ]
    );
}

#[test]
fn on_every_prefix_and_every_byte_of_an_example() {
    let body = example().encode_to_vec();
    let mut checked = Checked::new();
    for end in 0..=body.len() {
        checked.check(&body[..end]);
    }
    for at in 0..body.len() {
        for byte in [0, 1, 7, 8, 10, 0x7f, 0x80, 0xff] {
            let mut damaged = body.clone();
            damaged[at] = byte;
            checked.check(&damaged);
        }
    }
}

#[test]
fn parts_of_a_message_join() {
    let example = example();
    let [metrics] = &*example.resource_metrics else { panic!("one") };
    let mut body = Vec::new();
    // The resource after its metrics, in two parts; each metric in a scope of its own.
    for metric in metrics.scope_metrics[0].metrics.iter().rev() {
        let scope = ScopeMetrics { metrics: vec![metric.clone()], ..ScopeMetrics::default() };
        prost::encoding::message::encode(2, &scope, &mut body);
    }
    for attribute in metrics.resource.iter().flat_map(|resource| &resource.attributes) {
        let resource = Resource { attributes: vec![attribute.clone()], ..Resource::default() };
        prost::encoding::message::encode(1, &resource, &mut body);
    }
    let mut request = Vec::new();
    prost::encoding::bytes::encode(1, &body, &mut request);
    let mut checked = Checked::new();
    checked.check(&request);
    assert_eq!(checked.read(&request, Format::OtlpProtobuf).expect("good").len(), 3);
}

#[test]
fn hostile_bodies_cost_no_more_than_their_bytes() {
    let text = |length| AnyValue { value: Some(Value::StringValue("x".repeat(length))) };
    let with = |attributes: Vec<KeyValue>| {
        let mut request = example();
        let metric = &mut request.resource_metrics[0].scope_metrics[0].metrics[0];
        let Some(Data::Gauge(gauge)) = &mut metric.data else { panic!("a gauge") };
        gauge.data_points[0].attributes = attributes;
        request.encode_to_vec()
    };
    let many = (0..10_000).map(|at| key_value(&format!("k{at}"), Some(text(1)))).collect();
    let nested = (0..90).fold(text(1), |inner, _| AnyValue {
        value: Some(Value::ArrayValue(ArrayValue { values: vec![inner] })),
    });
    for attributes in [
        many,
        vec![key_value("long", Some(text(1 << 20)))],
        vec![key_value(&"k".repeat(1 << 20), Some(text(1)))],
        vec![key_value("deep", Some(nested))],
    ] {
        let mut checked = Checked::new();
        let body = with(attributes);
        checked.check(&body);
        // The point is refused alone.
        assert_eq!(checked.read(&body, Format::OtlpProtobuf).expect("good").len(), 2);
    }
    // A length of 2 GiB, and fields in fields.
    assert_eq!(Checked::new().read(b"\x0a\xff\xff\xff\xff\x07", Format::OtlpProtobuf), None);
    let deep = format!("{{\"resourceMetrics\":{}", "[".repeat(1 << 20));
    assert_eq!(Checked::new().read(deep.as_bytes(), Format::OtlpJson), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn on_any_request(request in request()) {
        let body = request.encode_to_vec();
        let mut checked = Checked::new();
        for _ in 0..2 {
            prop_assert_eq!(checked.read(&body, Format::OtlpProtobuf), Some(expected(&request)));
        }
    }

    #[test]
    fn on_damaged_requests(
        request in request(),
        damages in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut body = request.encode_to_vec();
        for (at, byte) in damages {
            if !body.is_empty() {
                let at = at.index(body.len());
                body[at] = byte;
            }
        }
        Checked::new().check(&body);
    }

    #[test]
    fn quantiles_are_gauges(points in vec(summary_point(), 0..4)) {
        let metric = Metric {
            name: "latency".to_owned(),
            data: Some(Data::Summary(Summary { data_points: points })),
            ..Metric::default()
        };
        let scope = ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() };
        let resource = ResourceMetrics { scope_metrics: vec![scope], ..ResourceMetrics::default() };
        let request = ExportMetricsServiceRequest { resource_metrics: vec![resource] };
        let found = Checked::new().read(&request.encode_to_vec(), Format::OtlpProtobuf);
        let mut found = found.expect("good");
        found.retain(|point| point.series.contains("quantile="));
        prop_assert_eq!(found, expected(&request));
    }

    /// As the crate writes it, which is as the Collector does.
    #[test]
    fn json_gives_what_protobuf_gives(request in request()) {
        let json = serde_json::to_vec(&request).expect("JSON");
        let of_json = Checked::new().read(&json, Format::OtlpJson);
        let of_protobuf = Checked::new().read(&request.encode_to_vec(), Format::OtlpProtobuf);
        prop_assert_eq!(of_json, of_protobuf, "{}", String::from_utf8_lossy(&json));
    }
}

#[test]
fn json_may_write_numbers_and_strings_in_other_ways() {
    let body = r#"{"resourceMetrics":[{"resource":null,"scopeMetrics":[{"metrics":[{"sum":
        {"dataPoints":[{"asInt":7,"timeUnixNano":1735100000000000000},{"asInt":"8"},
        {"asDouble":"0.1"},{"asDouble":3},{"asDouble":"NaN"},{"asDouble":null},{"asInt":9.0}],
        "unknown":[{"x":1}]},"name":"n\u0061me"}]}],"later":{}}],"more":0}"#;
    let found = Checked::new().read(body.as_bytes(), Format::OtlpJson).expect("good");
    let values: Vec<_> = found.iter().map(|point| point.value).collect();
    assert_eq!(values, [7.0, 8.0, 0.1, 3.0, 9.0]);
    assert!(found.iter().all(|point| point.series == "name" && point.device.is_none()));
    assert_eq!(found[0].time_us, 1_735_100_000_000_000);
    for wrong in [
        "",
        "{",
        "5",
        "[]",
        r#"{"resourceMetrics":{}}"#,
        r#"{"resourceMetrics":[5]}"#,
        r#"{"resourceMetrics":[{}]} x"#,
        r#"{"resourceMetrics":[{"scopeMetrics":[null]}]}"#,
    ] {
        assert_eq!(Checked::new().read(wrong.as_bytes(), Format::OtlpJson), None, "{wrong}");
    }
    for empty in ["{}", "null", r#"{"resourceMetrics":[]}"#, r#"{"resource_metrics":[5]}"#] {
        let found = Checked::new().read(empty.as_bytes(), Format::OtlpJson);
        assert_eq!(found, Some(Vec::new()), "{empty}");
    }
}
