//! remote_write 1.0.

use prost::Message;

use super::{Expected, Histogram, Sample};

#[derive(Clone, PartialEq, Message)]
pub struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    pub timeseries: Vec<TimeSeries>,
    #[prost(message, repeated, tag = "3")]
    pub metadata: Vec<MetricMetadata>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    pub labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    pub samples: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    pub histograms: Vec<Histogram>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Label {
    #[prost(bytes = "vec", tag = "1")]
    pub name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct MetricMetadata {
    #[prost(int32, tag = "1")]
    pub kind: i32,
    #[prost(bytes = "vec", tag = "2")]
    pub metric_family_name: Vec<u8>,
}

/// The labels of a series.
pub fn labels(labels: &[(&str, &str)]) -> Vec<Label> {
    let label = |&(name, value): &(&str, &str)| Label { name: name.into(), value: value.into() };
    labels.iter().map(label).collect()
}

/// What a body gives, None for what is no `WriteRequest`.
pub fn read(body: &[u8]) -> Option<Expected> {
    let request = WriteRequest::decode(body).ok()?;
    let mut expected = Expected::default();
    for series in &request.timeseries {
        let labels: Vec<_> =
            series.labels.iter().map(|label| (&label.name[..], &label.value[..])).collect();
        let name = labels.iter().find(|(label, _)| *label == b"__name__").map(|(_, name)| *name);
        // Types come in requests of their own: a test of a single body has none.
        let is_counter = name.is_some_and(|name| name.ends_with(b"_total"));
        expected.take(&labels, is_counter, &series.samples);
        expected.histograms += series.histograms.len();
    }
    Some(expected)
}
