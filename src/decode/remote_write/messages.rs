//! What the messages of both versions share: samples, labels, and the types of metrics.

use super::super::metric_types::MetricType;
use super::super::points::PointFault;
use super::super::protobuf::{FieldValue, Fields, Malformed, varint_of_six};
use sigmad_sample::timestamp::Stamp;

/// The label that holds the name of the metric.
pub(super) const NAME_LABEL: &[u8] = b"__name__";

/// Milliseconds since 1970 as the time of a point.
#[inline(always)]
pub(super) fn stamp(timestamp_ms: i64) -> Result<Stamp, PointFault> {
    match timestamp_ms {
        0 => Ok(None),
        1.. => timestamp_ms.checked_mul(1_000).map(Some).ok_or(PointFault::Time),
        _ => Err(PointFault::Time),
    }
}

/// What the fields of a sample begin with.
const VALUE_KEY: u8 = 1 << 3 | 1;
const TIME_KEY: u8 = 2 << 3;

/// One value: `prometheus.Sample`, `io.prometheus.write.v2.Sample`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct SamplePoint {
    pub(super) value: f64,
    /// Milliseconds since 1970.
    pub(super) timestamp_ms: i64,
}

impl SamplePoint {
    #[inline(always)]
    pub(super) fn read(message: &[u8]) -> Result<Self, Malformed> {
        // As senders write it: the value, then a time of six bytes, which are the milliseconds from 1971 to 2109.
        if let [VALUE_KEY, value @ .., TIME_KEY, a, b, c, d, e, f] = message
            && let Ok(value) = value.try_into()
            && let Some(time) = varint_of_six([*a, *b, *c, *d, *e, *f])
        {
            return Ok(Self { value: f64::from_le_bytes(value), timestamp_ms: time as i64 });
        }
        let mut sample = Self::default();
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => sample.value = value.double()?,
                2 => sample.timestamp_ms = value.varint()? as i64,
                _ => {}
            }
        }
        Ok(sample)
    }
}

/// The name and value of a `prometheus.Label`.
pub(super) fn read_label(message: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut label: (&[u8], &[u8]) = (b"", b"");
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => label.0 = value.bytes()?,
            2 => label.1 = value.bytes()?,
            _ => {}
        }
    }
    Ok(label)
}

/// Reads `MetricType`, which is numbered alike in both versions. Types that sigmad does not know are as good as none.
pub(super) fn read_type(value: FieldValue<'_>) -> Result<MetricType, Malformed> {
    Ok(type_of(value.varint()? as i32))
}

/// The type of that number.
#[inline]
pub(super) fn type_of(number: i32) -> MetricType {
    match number {
        1 => MetricType::Counter,
        // Gauge, gauge histogram, info, state set.
        2 | 4 | 6 | 7 => MetricType::Gauge,
        3 => MetricType::Histogram,
        5 => MetricType::Summary,
        _ => MetricType::Unknown,
    }
}
