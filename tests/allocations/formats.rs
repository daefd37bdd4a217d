//! Once series are known, a body of points allocates nothing for its values, whatever its format.
//!
//! OTLP JSON is left out: serde_json makes a tree of it.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, DictionaryArray, Float64Array, RecordBatch, TimestampMillisecondArray,
};
use arrow_ipc::writer::StreamWriter;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use sigmad::decode::{Decoder, Exposition, Format};
use sigmad::registry::Registry;
use sigmad_clock::Now;
use sigmad_sample::Batch;

use crate::counting;
use crate::prometheus::{Sample, v1, v2};

const METRICS: usize = 10;
/// Small enough that a body of any format is one row of a table, and large enough that a buffer would grow.
const HOSTS: [usize; 3] = [1, 20, 200];
const GAUGE: i32 = 2;

/// The value of each metric of a host: new in each second.
fn value(second: u64, host: usize, metric: usize) -> f64 {
    (second as usize * 7 + host * METRICS + metric) as f64 / 4.0
}

fn names(host: usize) -> impl Iterator<Item = (String, String, usize)> {
    (0..METRICS).map(move |metric| (format!("gauge_{metric}"), format!("host-{host}"), metric))
}

fn text(second: u64, hosts: usize) -> Vec<u8> {
    let series = (0..hosts).flat_map(names);
    let line = |(at, (name, host, metric)): (usize, (String, String, usize))| {
        let value = value(second, at / METRICS, metric);
        format!("{name}{{instance=\"{host}\",zone=\"eu\"}} {value} {}\n", second * 1_000)
    };
    series.enumerate().map(line).collect::<String>().into_bytes()
}

fn remote_write_1(second: u64, hosts: usize) -> Vec<u8> {
    let mut request = v1::WriteRequest::default();
    for host in 0..hosts {
        for (name, device, metric) in names(host) {
            let labels = [("__name__", &*name), ("instance", &*device), ("zone", "eu")];
            let timestamp = second as i64 * 1_000;
            let samples = vec![Sample { value: value(second, host, metric), timestamp }];
            let labels = v1::labels(&labels);
            request.timeseries.push(v1::TimeSeries { labels, samples, histograms: Vec::new() });
        }
    }
    request.encode_to_vec()
}

fn remote_write_2(second: u64, hosts: usize) -> Vec<u8> {
    let mut request = v2::Request::default();
    for host in 0..hosts {
        for (name, device, metric) in names(host) {
            let labels = [("__name__", &*name), ("instance", &*device), ("zone", "eu")];
            let timestamp = second as i64 * 1_000;
            let value = value(second, host, metric);
            request.push(GAUGE, &labels, &[Sample { value, timestamp }]);
        }
    }
    request.encode_to_vec()
}

fn otlp(second: u64, hosts: usize) -> Vec<u8> {
    let attribute = |key: &str, text: &str| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(text.to_owned())) }),
        ..KeyValue::default()
    };
    let metric = |host, (name, _, metric): (String, String, usize)| {
        let point = NumberDataPoint {
            attributes: vec![attribute("cpu", "cpu0")],
            time_unix_nano: second * 1_000_000_000,
            value: Some(number_data_point::Value::AsDouble(value(second, host, metric))),
            ..NumberDataPoint::default()
        };
        let data = Some(metric::Data::Gauge(Gauge { data_points: vec![point] }));
        Metric { name, data, ..Metric::default() }
    };
    let resource = |host: usize| {
        let metrics = names(host).map(|named| metric(host, named)).collect();
        let attributes =
            vec![attribute("host.name", &format!("host-{host}")), attribute("zone", "eu")];
        ResourceMetrics {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_metrics: vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }],
            ..ResourceMetrics::default()
        }
    };
    let resource_metrics = (0..hosts).map(resource).collect();
    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
}

fn arrow(second: u64, hosts: usize) -> Vec<u8> {
    let devices: Vec<_> = (0..hosts).map(|host| format!("host-{host}")).collect();
    let devices: DictionaryArray<arrow_array::types::Int32Type> =
        devices.iter().map(String::as_str).collect();
    let times = TimestampMillisecondArray::from(vec![second as i64 * 1_000; hosts]);
    let mut columns: Vec<(String, ArrayRef)> =
        vec![("device".to_owned(), Arc::new(devices)), ("timestamp".to_owned(), Arc::new(times))];
    for metric in 0..METRICS {
        let values: Float64Array =
            (0..hosts).map(|host| Some(value(second, host, metric))).collect();
        columns.push((format!("gauge_{metric}"), Arc::new(values)));
    }
    let table = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let mut writer = StreamWriter::try_new(Vec::new(), &table.schema()).expect("into memory");
    writer.write(&table).expect("into memory");
    writer.into_inner().expect("into memory")
}

/// What bodies of each size allocate in the steady state.
fn allocations(format: Format, encode: impl Fn(u64, usize) -> Vec<u8>) -> Vec<usize> {
    let mut decoder = Decoder::new(Arc::new(Registry::new(10_000, 60)));
    let mut batch = Batch::default();
    let mut found = Vec::new();
    for second in 1..6 {
        found.clear();
        for hosts in HOSTS {
            let mut body = encode(second, hosts);
            let wall_us = second as i64 * 1_000_000;
            let now = Now { monotonic_ns: second * 1_000_000_000, wall_us };
            batch.clear();
            let before = counting::calls();
            let decoded = decoder.decode(&mut body, format, now, &mut batch);
            found.push(counting::calls() - before);
            assert!(decoded.is_ok(), "{format:?}: {decoded:?}");
            assert_eq!(decoder.refusals(), [], "{format:?}");
            assert_eq!(batch.readings(), hosts * METRICS, "{format:?}");
            let read = batch.iter().flat_map(|(_, readings)| readings).map(|one| one.value);
            let sent = (0..hosts)
                .flat_map(|host| (0..METRICS).map(move |metric| value(second, host, metric)));
            assert!(read.eq(sent), "{format:?}: other values");
        }
    }
    found
}

#[test]
fn values_of_every_format_allocate_nothing() {
    let lenient = Format::Exposition(Exposition { seconds: false, strict: false });
    assert_eq!(allocations(lenient, text), [0; 3], "text exposition");
    assert_eq!(allocations(Format::RemoteWrite1, remote_write_1), [0; 3], "remote_write 1.0");
    assert_eq!(allocations(Format::RemoteWrite2, remote_write_2), [0; 3], "remote_write 2.0");
    assert_eq!(allocations(Format::OtlpProtobuf, otlp), [0; 3], "OTLP");
}

/// arrow-rs makes a schema, and arrays that borrow their values, for each table.
#[test]
fn a_table_allocates_for_its_columns_and_not_for_its_values() {
    const EACH_COLUMN: usize = 16;
    let found = allocations(Format::Arrow, arrow);
    println!("{found:?} allocations for a table of {METRICS} metrics");
    assert!(found.iter().all(|&one| one == found[0]), "{found:?}");
    assert!(found[0] <= (METRICS + 2) * EACH_COLUMN, "{found:?}");
}
