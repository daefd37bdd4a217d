//! What the OTLP reader should say of a body, written for clarity alone, on the messages of opentelemetry-proto. Used
//! by the agreement tests and by the fuzz target `otlp`.
//!
//! Judges gauges, sums that are not counters, deltas, and quantiles of summaries: their values must be these, in
//! this order. The rates of counters and of histograms have tests of their own.

use std::sync::Arc;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint, number_data_point};
use prost::Message;
use sigmad::decode::{DEVICE_LABELS, Decoder, Format};
use sigmad::registry::Registry;
use sigmad_clock::Now;
use sigmad_sample::{Batch, VALUE_MAX, is_metric_name, is_name};

pub const NOW: Now = Now { monotonic_ns: 5_000_000_000, wall_us: 1_735_100_000_000_000 };
const DELTA: i32 = 1;
const DEPTH_MAX: usize = 8;

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    pub device: Option<String>,
    pub series: String,
    pub time_us: i64,
    pub value: f64,
}

/// The values of a request that are judged as they are, but for those that are refused or say nothing.
pub fn expected(request: &ExportMetricsServiceRequest) -> Vec<Point> {
    let mut points = Vec::new();
    for resource_metrics in &request.resource_metrics {
        let resource = resource_metrics.resource.as_ref();
        let attributes = resource.map_or(&[][..], |resource| &resource.attributes);
        for metric in resource_metrics.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
            push_metric(metric, attributes, &mut points);
        }
    }
    points
}

fn push_metric(metric: &Metric, resource: &[KeyValue], points: &mut Vec<Point>) {
    let numbers = match &metric.data {
        Some(Data::Gauge(gauge)) => &gauge.data_points,
        Some(Data::Sum(sum)) if !sum.is_monotonic || sum.aggregation_temporality == DELTA => {
            &sum.data_points
        }
        Some(Data::Summary(summary)) => {
            for point in summary.data_points.iter().filter(|point| point.flags & 1 == 0) {
                for value in &point.quantile_values {
                    let quantile = ("quantile".to_owned(), value.quantile.to_string());
                    let series = series(&metric.name, &point.attributes, resource, Some(quantile));
                    push(series, point.time_unix_nano, value.value, points);
                }
            }
            return;
        }
        _ => return,
    };
    for point in numbers.iter().filter(|point| point.flags & 1 == 0) {
        if let Some(value) = number(point) {
            let series = series(&metric.name, &point.attributes, resource, None);
            push(series, point.time_unix_nano, value, points);
        }
    }
}

fn number(point: &NumberDataPoint) -> Option<f64> {
    match point.value? {
        number_data_point::Value::AsDouble(value) => Some(value),
        number_data_point::Value::AsInt(value) => Some(value as f64),
    }
}

fn push(
    series: Option<(Option<String>, String)>,
    time_ns: u64,
    value: f64,
    points: &mut Vec<Point>,
) {
    let time_us = match i64::try_from(time_ns) {
        Ok(0) => NOW.wall_us,
        Ok(time_ns) => time_ns / 1_000,
        Err(_) => return,
    };
    if let Some((device, series)) = series
        && value.abs() <= VALUE_MAX
    {
        points.push(Point { device, series, time_us, value: value + 0.0 });
    }
}

/// The device and the series of a point; None if they are refused.
fn series(
    name: &str,
    attributes: &[KeyValue],
    resource: &[KeyValue],
    quantile: Option<(String, String)>,
) -> Option<(Option<String>, String)> {
    let rank = |key: &str| DEVICE_LABELS.split(',').position(|label| label == key);
    let mut device: Option<(usize, String)> = None;
    let mut labels: Vec<(String, String)> = Vec::new();
    for attribute in resource {
        let is_service = ["service.name", "service.namespace"].contains(&&*attribute.key);
        if let Some(rank) = rank(&attribute.key) {
            let value = text(attribute.value.as_ref())?;
            if !value.is_empty() && device.as_ref().is_none_or(|(known, _)| rank < *known) {
                device = Some((rank, value));
            }
        } else if is_service {
            let value = text(attribute.value.as_ref())?;
            let is_unknown = value.starts_with("unknown_service");
            if !is_unknown && !attributes.iter().any(|other| other.key == attribute.key) {
                labels.push((attribute.key.clone(), value));
            }
        }
    }
    for attribute in attributes {
        labels.push((attribute.key.clone(), text(attribute.value.as_ref())?));
    }
    labels.extend(quantile);
    labels.retain(|(_, value)| !value.is_empty());
    if device.is_none() {
        let ranks = labels.iter().enumerate().filter_map(|(at, (key, _))| Some((rank(key)?, at)));
        device = ranks.min().map(|(rank, at)| (rank, labels.remove(at).1));
    }
    let device = device.map(|(_, name)| name);
    if device.as_ref().is_some_and(|device| !is_name(device)) || name.is_empty() {
        return None;
    }
    labels.sort();
    if labels.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return None;
    }
    let written = written(name, &labels)?;
    is_metric_name(&written).then_some((device, written))
}

fn written(name: &str, labels: &[(String, String)]) -> Option<String> {
    let is_plain = |text: &str| !text.contains(['{', '}', '"', '=', ',', '\\', ' ', '\n']);
    let quoted = |text: &str| {
        let escaped = text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
        format!("\"{escaped}\"")
    };
    let mut parts = Vec::new();
    if !is_plain(name) {
        parts.push(quoted(name));
    }
    for (key, value) in labels {
        if key.is_empty() {
            return None;
        }
        let key = if is_plain(key) { key.clone() } else { quoted(key) };
        parts.push(format!("{key}={}", quoted(value)));
    }
    let name = if is_plain(name) { name } else { "" };
    if parts.is_empty() {
        return Some(name.to_owned());
    }
    Some(format!("{name}{{{}}}", parts.join(",")))
}

/// The text of a label; None if it is too deep.
fn text(value: Option<&AnyValue>) -> Option<String> {
    match value.and_then(|value| value.value.as_ref()) {
        None => Some(String::new()),
        Some(Value::StringValue(text)) => Some(text.clone()),
        Some(Value::BytesValue(bytes)) => Some(base64(bytes)),
        Some(value) => json(value, DEPTH_MAX),
    }
}

fn json(value: &Value, depth: usize) -> Option<String> {
    let of = |value: &Option<AnyValue>| match value.as_ref().and_then(|any| any.value.as_ref()) {
        Some(value) => json(value, depth - 1),
        None => Some("null".to_owned()),
    };
    Some(match value {
        Value::StringValue(text) => serde_json::Value::from(text.as_str()).to_string(),
        Value::BytesValue(bytes) => format!("\"{}\"", base64(bytes)),
        Value::BoolValue(flag) => flag.to_string(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        Value::ArrayValue(_) | Value::KvlistValue(_) if depth == 0 => return None,
        Value::ArrayValue(list) => {
            let items = list.values.iter().map(|item| of(&Some(item.clone())));
            format!("[{}]", items.collect::<Option<Vec<_>>>()?.join(","))
        }
        Value::KvlistValue(map) => {
            let entries = map.values.iter().map(|entry| {
                let key = serde_json::Value::from(entry.key.as_str());
                Some(format!("{key}:{}", of(&entry.value)?))
            });
            format!("{{{}}}", entries.collect::<Option<Vec<_>>>()?.join(","))
        }
        _ => String::new(),
    })
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::prelude::BASE64_STANDARD.encode(bytes)
}

/// The reader, and what it knows from the bodies before.
pub struct Checked {
    registry: Arc<Registry>,
    decoder: Decoder,
    batch: Batch,
}

impl Checked {
    pub fn new() -> Self {
        let registry = Arc::new(Registry::new(100_000, 60));
        let decoder = Decoder::new(registry.clone());
        Self { registry, decoder, batch: Batch::default() }
    }

    /// The values that the reader finds; None if it refuses the body.
    pub fn read(&mut self, body: &[u8], format: Format) -> Option<Vec<Point>> {
        self.batch.clear();
        self.decoder.decode(&mut body.to_vec(), format, NOW, &mut self.batch).ok()?;
        let mut points = Vec::new();
        for (sample, readings) in self.batch.iter() {
            let device = sample.device.map(|id| self.registry.device_name(id).expect("known"));
            for reading in readings {
                points.push(Point {
                    device: device.as_deref().map(str::to_owned),
                    series: self.registry.metric_name(reading.metric).expect("known").to_string(),
                    time_us: sample.timestamp_us,
                    value: reading.value,
                });
            }
        }
        Some(points)
    }

    /// Compares the reader with the messages of opentelemetry-proto, where those can be read.
    pub fn check(&mut self, body: &[u8]) {
        let found = self.read(body, Format::OtlpProtobuf);
        let Ok(request) = ExportMetricsServiceRequest::decode(body) else { return };
        let found = found.expect("prost reads it");
        let expected = expected(&request);
        if has_rates(&request) {
            return;
        }
        assert_eq!(found, expected);
    }
}

/// Whether some values become rates.
fn has_rates(request: &ExportMetricsServiceRequest) -> bool {
    let scopes = request.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
    scopes.flat_map(|scope| &scope.metrics).any(|metric| match &metric.data {
        Some(Data::Sum(sum)) => sum.is_monotonic && sum.aggregation_temporality != DELTA,
        Some(Data::Summary(summary)) => !summary.data_points.is_empty(),
        Some(Data::Histogram(_) | Data::ExponentialHistogram(_)) => true,
        _ => false,
    })
}
