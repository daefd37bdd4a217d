//! remote_write 1.0: series with their labels spelled out.
//!
//! The key of a series is the bytes of its labels; where they are those that are expected next, they are not looked at
//! further. Types come in requests of their own, once a minute.

use super::super::admission::Decoded;
use super::super::fault::BodyError;
use super::super::labels::SeriesDescription;
use super::super::metric_types::{MetricType, MetricTypes};
use super::super::points::{PointFault, PointReader};
use super::super::protobuf::{Fields, Malformed, take_part};
use super::super::series_cache::{Scope, SeriesKey, strip};
use super::messages::{NAME_LABEL, read_label, read_type};
use super::{
    LABEL_BYTES_MAX, Parser, TAG_V1, at, describe_label, kind_of, take_expected, take_sample,
};

/// Fields of `WriteRequest`.
const TIMESERIES: u32 = 1;
const METADATA: u32 = 3;
const TIMESERIES_KEY: u8 = (TIMESERIES as u8) << 3 | 2;
/// Fields of `TimeSeries`.
const LABELS: u32 = 1;
const SAMPLES: u32 = 2;
const HISTOGRAMS: u32 = 4;
/// What a sample begins with, before its length.
const SAMPLES_KEY: u8 = (SAMPLES as u8) << 3 | 2;

/// Reads a `WriteRequest`.
pub(in super::super) fn read(
    parser: &mut Parser,
    mut points: PointReader<'_>,
    body: &[u8],
) -> Result<Decoded, BodyError> {
    parser.written = None;
    let tables = points.tables();
    let read = read_request(parser, &mut points, &tables.types, body);
    // Labels that stood apart may have been many; the memory for those of a series that is kept stays.
    parser.key.shrink_to(LABEL_BYTES_MAX);
    points.end(read)
}

fn read_request(
    parser: &mut Parser,
    points: &mut PointReader<'_>,
    types: &MetricTypes,
    body: &[u8],
) -> Result<(), BodyError> {
    let mut index = 0;
    let mut rest = body;
    loop {
        rest = take_expected_series(points, scope_of(types), rest, &mut index)
            .map_err(|(error, rest)| at(error, body.len() - rest.len()))?;
        let offset = body.len() - rest.len();
        let mut fields = Fields::new(rest);
        let field = fields.next().map_err(|error| at(error.into(), offset))?;
        let Some((number, value)) = field else { return Ok(()) };
        rest = fields.rest();
        let read = match number {
            TIMESERIES => {
                points.set_index(index);
                index += 1;
                value
                    .bytes()
                    .map_err(BodyError::from)
                    .and_then(|series| read_series(parser, points, types, series))
            }
            METADATA => {
                value.bytes().and_then(|told| read_metadata(types, told)).map_err(BodyError::from)
            }
            _ => Ok(()),
        };
        read.map_err(|error| at(error, offset))?;
    }
}

/// The scope of keys. What is known of a type is in it, so that a series is described again once it is told.
fn scope_of(types: &MetricTypes) -> Scope {
    Scope::of_format(TAG_V1, u64::from(types.told()))
}

/// Takes the series in front that are those which are expected next, of one sample each. Returns what follows; with an
/// error, what begins with the wrong series.
#[inline]
fn take_expected_series<'b>(
    points: &mut PointReader<'_>,
    scope: Scope,
    mut rest: &'b [u8],
    index: &mut usize,
) -> Result<&'b [u8], (BodyError, &'b [u8])> {
    while let Some((series, after)) = take_part(rest, TIMESERIES_KEY) {
        let Some((entry, labels)) = points.cache().expected(scope) else { break };
        let Some([SAMPLES_KEY, length, sample @ ..]) = strip(series, labels) else { break };
        if usize::from(*length) != sample.len() {
            break;
        }
        points.set_index(*index);
        if !take_expected(entry, sample, points).map_err(|error| (error, rest))? {
            break;
        }
        *index += 1;
        rest = after;
    }
    Ok(rest)
}

fn read_series(
    parser: &mut Parser,
    points: &mut PointReader<'_>,
    types: &MetricTypes,
    series: &[u8],
) -> Result<(), BodyError> {
    let scope = scope_of(types);
    let Parser { key, histogram, .. } = parser;
    let (labels, values) = split_labels(series, key)?;
    let is_too_long = labels.len() > LABEL_BYTES_MAX;
    // Such a series has no key.
    let key = SeriesKey { scope, bytes: if is_too_long { &[] } else { labels } };
    let mut is_malformed = false;
    let mut describe = |description: &mut SeriesDescription| {
        if is_too_long {
            return Err(PointFault::SeriesTooLong);
        }
        let described = describe(description, labels, |name| types.of(name));
        is_malformed = described.is_err();
        described.unwrap_or(Err(PointFault::Label))
    };
    let mut fields = Fields::new(values);
    while let Some((number, value)) = fields.next()? {
        match number {
            SAMPLES => take_sample(value.bytes()?, key, points, &mut describe)?,
            HISTOGRAMS => {
                histogram.read(value.bytes()?)?;
                histogram.give(key, points, &mut describe)?;
            }
            _ => {}
        }
    }
    if is_malformed { Err(Malformed.into()) } else { Ok(()) }
}

/// The labels of a series, as they were sent, and fields among which all others are. Labels that stand apart are
/// gathered in `key`.
#[inline(always)]
fn split_labels<'a>(
    series: &'a [u8],
    key: &'a mut Vec<u8>,
) -> Result<(&'a [u8], &'a [u8]), Malformed> {
    let mut fields = Fields::new(series);
    let mut values = series;
    // Senders put all labels first: one piece.
    while let Some((number, _)) = fields.next()? {
        if number != LABELS {
            break;
        }
        values = fields.rest();
    }
    let labels = &series[..series.len() - values.len()];
    key.clear();
    gather_labels(fields, key)?;
    if key.is_empty() {
        return Ok((labels, values));
    }
    key.splice(..0, labels.iter().copied());
    Ok((key, values))
}

/// Appends the labels among the remaining fields.
fn gather_labels(mut fields: Fields<'_>, key: &mut Vec<u8>) -> Result<(), Malformed> {
    loop {
        let rest = fields.rest();
        match fields.next()? {
            None => return Ok(()),
            Some((LABELS, _)) => {
                key.extend_from_slice(&rest[..rest.len() - fields.rest().len()]);
            }
            Some(_) => {}
        }
    }
}

fn describe(
    description: &mut SeriesDescription,
    labels: &[u8],
    type_of: impl FnOnce(&[u8]) -> MetricType,
) -> Result<Result<(), PointFault>, Malformed> {
    let mut metric: &[u8] = b"";
    let mut has_name = false;
    let mut fields = Fields::new(labels);
    while let Some((number, value)) = fields.next()? {
        // A group may stand before a label.
        debug_assert_eq!(number, LABELS);
        let (name, value) = read_label(value.bytes()?)?;
        if name == NAME_LABEL {
            metric = value;
        }
        if let Err(fault) = describe_label(description, &mut has_name, name, value) {
            return Ok(Err(fault));
        }
    }
    description.kind(kind_of(metric, type_of(metric)));
    Ok(Ok(()))
}

/// Reads a `MetricMetadata`.
fn read_metadata(types: &MetricTypes, told: &[u8]) -> Result<(), Malformed> {
    let (mut kind, mut family) = (MetricType::default(), &b""[..]);
    let mut fields = Fields::new(told);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => kind = read_type(value)?,
            2 => family = value.bytes()?,
            _ => {}
        }
    }
    types.tell(family, kind);
    Ok(())
}
