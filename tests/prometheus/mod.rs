//! The messages of remote_write 1.0 and 2.0 for prost, and what a naive reader makes of them.
//!
//! Fields are those of `prometheus/prometheus`, prompb/types.proto, prompb/remote.proto and
//! prompb/io/prometheus/write/v2/types.proto. Strings are bytes here: what is not UTF-8 is refused series by series.

pub mod server;
pub mod v1;
pub mod v2;

use std::collections::BTreeSet;

use prost::Message;

/// One value as it arrives.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    pub device: Option<String>,
    pub series: String,
    /// None for the time of arrival.
    pub time_us: Option<i64>,
    pub value: f64,
}

/// What a body gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expected {
    /// Of gauges, in order.
    pub values: Vec<Value>,
    pub refused: usize,
    pub skipped: usize,
    /// Device and series of what is judged by its rate, which a test of rates looks at.
    pub counters: BTreeSet<(Option<String>, String)>,
    pub samples: usize,
    pub histograms: usize,
}

/// `prometheus.Sample` and `io.prometheus.write.v2.Sample`.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Sample {
    #[prost(double, tag = "1")]
    pub value: f64,
    #[prost(int64, tag = "2")]
    pub timestamp: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct BucketSpan {
    #[prost(sint32, tag = "1")]
    pub offset: i32,
    #[prost(uint32, tag = "2")]
    pub length: u32,
}

/// `prometheus.Histogram` and `io.prometheus.write.v2.Histogram`. Its `oneof`s are two fields each, of which senders
/// set one.
#[derive(Clone, PartialEq, Message)]
pub struct Histogram {
    #[prost(uint64, tag = "1")]
    pub count_int: u64,
    #[prost(double, tag = "2")]
    pub count_float: f64,
    #[prost(double, tag = "3")]
    pub sum: f64,
    #[prost(sint32, tag = "4")]
    pub schema: i32,
    #[prost(double, tag = "5")]
    pub zero_threshold: f64,
    #[prost(uint64, tag = "6")]
    pub zero_count_int: u64,
    #[prost(double, tag = "7")]
    pub zero_count_float: f64,
    #[prost(message, repeated, tag = "8")]
    pub negative_spans: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "9")]
    pub negative_deltas: Vec<i64>,
    #[prost(double, repeated, tag = "10")]
    pub negative_counts: Vec<f64>,
    #[prost(message, repeated, tag = "11")]
    pub positive_spans: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "12")]
    pub positive_deltas: Vec<i64>,
    #[prost(double, repeated, tag = "13")]
    pub positive_counts: Vec<f64>,
    #[prost(int32, tag = "14")]
    pub reset_hint: i32,
    #[prost(int64, tag = "15")]
    pub timestamp: i64,
    #[prost(double, repeated, tag = "16")]
    pub custom_values: Vec<f64>,
}

/// The default of `--device-labels`.
const DEVICE_LABELS: [&str; 10] = [
    "device_id",
    "deviceId",
    "sensor_id",
    "host",
    "hostname",
    "host.name",
    "instance",
    "node",
    "service.instance.id",
    "device",
];
const SERIES_BYTES_MAX: usize = 1_024;
const DEVICE_BYTES_MAX: usize = 128;

/// The series of some labels: its device and its text.
fn series_of(labels: &[(&[u8], &[u8])]) -> Option<(Option<String>, String)> {
    let mut name = None;
    let mut rest = Vec::new();
    for (label, value) in labels {
        if *label == b"__name__" {
            let before = name.replace(str::from_utf8(value).ok()?);
            if before.is_some() {
                return None;
            }
        } else if !value.is_empty() {
            rest.push((str::from_utf8(label).ok()?, str::from_utf8(value).ok()?));
        }
    }
    let name = name.filter(|name| !name.is_empty())?;
    let place =
        DEVICE_LABELS.iter().find_map(|device| rest.iter().position(|(label, _)| label == device));
    let device = place.map(|place| rest.remove(place).1.to_owned());
    if device.as_ref().is_some_and(|device| {
        device.len() > DEVICE_BYTES_MAX || device.chars().any(char::is_control)
    }) {
        return None;
    }
    rest.sort_unstable();
    if rest.windows(2).any(|pair| pair[0].0 == pair[1].0)
        || rest.iter().any(|(label, _)| label.is_empty())
    {
        return None;
    }
    let quoted = |text: &str| {
        format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n"))
    };
    let plain = |text: &str| !text.contains(['{', '}', '"', '=', ',', '\\', ' ', '\n']);
    let mut parts = Vec::new();
    if !plain(name) {
        parts.push(quoted(name));
    }
    for (label, value) in &rest {
        let label = if plain(label) { (*label).to_owned() } else { quoted(label) };
        parts.push(format!("{label}={}", quoted(value)));
    }
    let braced = if parts.is_empty() { String::new() } else { format!("{{{}}}", parts.join(",")) };
    let series = if plain(name) { format!("{name}{braced}") } else { braced };
    let is_kept = series.len() <= SERIES_BYTES_MAX && !series.chars().any(char::is_control);
    is_kept.then_some((device, series))
}

impl Expected {
    fn take(&mut self, labels: &[(&[u8], &[u8])], is_counter: bool, samples: &[Sample]) {
        let series = series_of(labels);
        for sample in samples {
            self.samples += 1;
            let time_us = match sample.timestamp {
                0 => Some(None),
                ms => ms.checked_mul(1_000).filter(|&us| us > 0).map(Some),
            };
            match (time_us, &series) {
                (None, _) => self.refused += 1,
                _ if !sample.value.is_finite() => self.skipped += 1,
                (_, None) => self.refused += 1,
                (_, Some(key)) if is_counter => {
                    self.counters.insert(key.clone());
                }
                _ if sample.value.abs() > 1e15 => self.skipped += 1,
                (Some(time_us), Some((device, series))) => self.values.push(Value {
                    device: device.clone(),
                    series: series.clone(),
                    time_us,
                    value: sample.value + 0.0,
                }),
            }
        }
    }
}
