//! Prometheus remote_write 1.0 and 2.0, without their snappy coding.
//!
//! - 1.0: `prometheus.WriteRequest` (<https://prometheus.io/docs/specs/prw/remote_write_spec/>), read by [`v1`].
//! - 2.0: `io.prometheus.write.v2.Request` (<https://prometheus.io/docs/specs/prw/remote_write_spec_2_0/>), by [`v2`].
//!
//! Messages are read in place: see [`protobuf`](super::protobuf). Values with the time 0, which the wire format does not
//! tell from none, have the time of arrival. Exemplars and created timestamps are not used.

mod histogram;
mod messages;
mod symbols;
mod v1;
mod v2;

use self::histogram::NativeHistogram;
use self::messages::{NAME_LABEL, SamplePoint, stamp};
use self::symbols::Symbols;
use super::fault::BodyError;
use super::labels::{SeriesDescription, ValueKind};
use super::metric_types::MetricType;
use super::points::{PointFault, PointReader};
use super::protobuf::Malformed;
use super::series_cache::{EntryIndex, SeriesKey};
use sigmad_sample::METRIC_BYTES_MAX;

pub(super) use self::{v1::read as read_v1, v2::read as read_v2};

/// Bytes that one worker keeps for this format at most, beside one body's longest series.
pub(super) const PARSER_BYTES: usize = symbols::SYMBOLS_BYTES;

/// Bytes of the labels of one series as they are sent, past which it is refused without a look at them: what is kept
/// has [`METRIC_BYTES_MAX`], and a device.
const LABEL_BYTES_MAX: usize = 8 * METRIC_BYTES_MAX;

/// Of the keys of each version: their bytes may be alike.
const TAG_V1: u8 = b'1';
const TAG_V2: u8 = b'2';
const TAG_V2_SPELLED: u8 = b'3';

/// What one worker keeps from body to body.
#[derive(Debug, Default)]
pub(super) struct Parser {
    symbols: Symbols,
    /// The key of the series that is read.
    key: Vec<u8>,
    histogram: NativeHistogram,
    /// What was written of the last body; None unless its sender is told.
    written: Option<Written>,
}

/// Parts of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Values of series. What is left out by the settings counts, and so does what has no value to keep: a staleness
    /// marker, the first value of a counter.
    pub samples: usize,
    /// Native histograms.
    pub histograms: usize,
}

impl Parser {
    /// What was written of the last body, if its sender is told.
    pub(super) fn written(&self) -> Option<Written> {
        self.written
    }
}

impl From<Malformed> for BodyError {
    /// The offset is that of the series, which only the caller knows.
    fn from(_: Malformed) -> Self {
        Self::Malformed { offset: 0 }
    }
}

/// The error of the field that ends `offset` bytes into the body.
fn at(error: BodyError, offset: usize) -> BodyError {
    match error {
        BodyError::Malformed { .. } => BodyError::Malformed { offset },
        error => error,
    }
}

/// Gives one value to `points` whose series is in the cache. False if it must be given with its key.
#[inline(always)]
fn take_expected(
    index: EntryIndex,
    message: &[u8],
    points: &mut PointReader<'_>,
) -> Result<bool, BodyError> {
    let sample = SamplePoint::read(message)?;
    match stamp(sample.timestamp_ms) {
        Ok(time) => points.value_at(index, time, sample.value),
        Err(fault) => {
            points.refuse(fault);
            Ok(true)
        }
    }
}

/// Gives one value to `points`.
#[inline(always)]
fn take_sample(
    message: &[u8],
    key: SeriesKey<'_>,
    points: &mut PointReader<'_>,
    describe: impl FnOnce(&mut SeriesDescription) -> Result<(), PointFault>,
) -> Result<(), BodyError> {
    let sample = SamplePoint::read(message)?;
    match stamp(sample.timestamp_ms) {
        Ok(time) => points.keyed_value(key, time, sample.value, describe).map(drop),
        Err(fault) => {
            points.refuse(fault);
            Ok(())
        }
    }
}

/// Describes one label; `__name__` is the name.
fn describe_label(
    description: &mut SeriesDescription,
    has_name: &mut bool,
    name: &[u8],
    value: &[u8],
) -> Result<(), PointFault> {
    if name != NAME_LABEL {
        description.label(name, value);
    } else if std::mem::replace(has_name, true) {
        return Err(PointFault::LabelTwice);
    } else {
        description.name(value);
    }
    Ok(())
}

/// How values of a metric of that type and name are judged.
fn kind_of(metric: &[u8], metric_type: MetricType) -> ValueKind {
    let has_end = |ends: &[&[u8]]| ends.iter().any(|end| metric.ends_with(end));
    match metric_type {
        MetricType::Counter => ValueKind::Counter,
        MetricType::Histogram if has_end(&[b"_bucket", b"_sum", b"_count"]) => ValueKind::Counter,
        MetricType::Summary if has_end(&[b"_sum", b"_count"]) => ValueKind::Counter,
        MetricType::Gauge | MetricType::Summary => ValueKind::Gauge,
        MetricType::Histogram | MetricType::Unknown => ValueKind::Untyped,
    }
}
