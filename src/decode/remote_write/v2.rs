//! remote_write 2.0: series whose labels are places in a table of symbols, with their types.

use super::super::admission::Decoded;
use super::super::fault::BodyError;
use super::super::labels::SeriesDescription;
use super::super::metric_types::MetricType;
use super::super::points::{PointFault, PointReader};
use super::super::protobuf::{Fields, Malformed, each_varint, take_part};
use super::super::series_cache::{Scope, SeriesKey};
use super::messages::{self, NAME_LABEL};
use super::symbols::{Symbols, UNNUMBERED};
use super::{
    LABEL_BYTES_MAX, Parser, TAG_V2, TAG_V2_SPELLED, Written, at, describe_label, kind_of,
    take_expected, take_sample,
};

/// Fields of `Request`.
const SYMBOLS: u32 = 4;
const TIMESERIES: u32 = 5;
const TIMESERIES_KEY: u8 = (TIMESERIES as u8) << 3 | 2;
/// Fields of `TimeSeries`.
const LABELS_REFS: u32 = 1;
const SAMPLES: u32 = 2;
const HISTOGRAMS: u32 = 3;
const METADATA: u32 = 5;
/// What metadata and the type in it begin with.
const METADATA_KEY: u8 = (METADATA as u8) << 3 | 2;
const TYPE_KEY: u8 = 1 << 3;

/// Labels, as names and values, of which a series that is kept has no more.
const REFS_MAX: usize = 1_024;

/// Reads a `Request`.
pub(in super::super) fn read(
    parser: &mut Parser,
    mut points: PointReader<'_>,
    body: &[u8],
) -> Result<Decoded, BodyError> {
    parser.written = Some(Written::default());
    let read = read_symbols(&mut parser.symbols, body)
        .and_then(|()| read_request(parser, &mut points, body));
    points.end(read)
}

/// Reads the table first, wherever it stands among the fields.
fn read_symbols(symbols: &mut Symbols, body: &[u8]) -> Result<(), BodyError> {
    symbols.begin();
    let mut rest = body;
    loop {
        while let Some((_, after)) = take_part(rest, TIMESERIES_KEY) {
            rest = after;
        }
        let offset = body.len() - rest.len();
        let malformed = |_: Malformed| BodyError::Malformed { offset };
        let mut fields = Fields::new(rest);
        let Some((number, value)) = fields.next().map_err(malformed)? else { return Ok(()) };
        rest = fields.rest();
        if number == SYMBOLS {
            let symbol = value.bytes().map_err(malformed)?;
            let start = body.len() - rest.len() - symbol.len();
            symbols.push(symbol, start).map_err(|_| BodyError::TooManySamples)?;
        }
    }
}

fn read_request(
    parser: &mut Parser,
    points: &mut PointReader<'_>,
    body: &[u8],
) -> Result<(), BodyError> {
    let mut index = 0;
    let mut rest = body;
    loop {
        rest = take_expected_series(parser, points, rest, &mut index)
            .map_err(|(error, rest)| at(error, body.len() - rest.len()))?;
        let offset = body.len() - rest.len();
        let mut fields = Fields::new(rest);
        let field = fields.next().map_err(|error| at(error.into(), offset))?;
        let Some((number, value)) = field else { return Ok(()) };
        rest = fields.rest();
        if number == TIMESERIES {
            points.set_index(index);
            index += 1;
            let read = value.bytes().map_err(BodyError::from);
            let read = read.and_then(|series| read_series(parser, points, body, series));
            read.map_err(|error| at(error, offset))?;
        }
    }
}

/// Takes the series in front that are those which are expected next, of one sample each. Returns what follows; with an
/// error, what begins with the wrong series.
#[inline]
fn take_expected_series<'b>(
    parser: &mut Parser,
    points: &mut PointReader<'_>,
    mut rest: &'b [u8],
    index: &mut usize,
) -> Result<&'b [u8], (BodyError, &'b [u8])> {
    let Parser { symbols, written, .. } = parser;
    let lost_before = points.lost();
    let mut taken = 0;
    while let Some((series, after)) = take_part(rest, TIMESERIES_KEY) {
        let Some(usual) = UsualSeries::read(series) else { break };
        let expected = points.cache().expected(numbered(symbols, usual.metric_type));
        let Some((entry, _)) = expected.filter(|(_, key)| symbols.are(usual.refs, key)) else {
            break;
        };
        points.set_index(*index);
        if !take_expected(entry, usual.sample, points).map_err(|error| (error, rest))? {
            break;
        }
        *index += 1;
        taken += 1;
        rest = after;
    }
    if let Some(written) = written {
        written.samples += taken - (points.lost() - lost_before);
    }
    Ok(rest)
}

fn read_series(
    parser: &mut Parser,
    points: &mut PointReader<'_>,
    body: &[u8],
    series: &[u8],
) -> Result<(), BodyError> {
    let Parser { symbols, key, histogram, written } = parser;
    let SeriesHead { metric_type, values, scope, is_too_long } =
        read_head(symbols, key, body, series)?;
    let key = SeriesKey { scope, bytes: key };
    let describe = |description: &mut SeriesDescription| {
        if is_too_long {
            return Err(PointFault::SeriesTooLong);
        }
        describe(description, symbols, body, series, metric_type)
    };
    let mut of_series = Written::default();
    let mut fields = Fields::new(values);
    while let Some((number, value)) = fields.next()? {
        let lost_before = points.lost();
        let kind = match number {
            SAMPLES => {
                take_sample(value.bytes()?, key, points, describe)?;
                &mut of_series.samples
            }
            HISTOGRAMS => {
                histogram.read(value.bytes()?)?;
                histogram.give(key, points, describe)?;
                &mut of_series.histograms
            }
            _ => continue,
        };
        *kind += usize::from(points.lost() == lost_before);
    }
    if let Some(written) = written {
        written.samples += of_series.samples;
        written.histograms += of_series.histograms;
    }
    Ok(())
}

/// A series as senders write it: references, one sample, and the type.
struct UsualSeries<'a> {
    /// Packed.
    refs: &'a [u8],
    sample: &'a [u8],
    metric_type: MetricType,
}

impl<'a> UsualSeries<'a> {
    #[inline(always)]
    fn read(series: &'a [u8]) -> Option<Self> {
        let (refs, rest) = take_short(series, LABELS_REFS)?;
        let (sample, rest) = take_short(rest, SAMPLES)?;
        let metric_type = match *rest {
            [] => MetricType::default(),
            // Whatever else a field of metadata may say, this one has the type alone.
            [METADATA_KEY, 2, TYPE_KEY, metric_type @ ..0x80] => {
                messages::type_of(i32::from(metric_type))
            }
            _ => return None,
        };
        Some(Self { refs, sample, metric_type })
    }
}

/// Takes a field of that number off the front, if it has less than 128 bytes.
#[inline(always)]
fn take_short(message: &[u8], number: u32) -> Option<(&[u8], &[u8])> {
    match message {
        [key, length @ ..0x80, rest @ ..] if u32::from(*key) == number << 3 | 2 => {
            rest.split_at_checked(usize::from(*length))
        }
        _ => None,
    }
}

/// The scope of keys of numbers.
#[inline]
fn numbered(symbols: &Symbols, metric_type: MetricType) -> Scope {
    Scope::of_format(TAG_V2, u64::from(symbols.epoch()) << 8 | metric_type as u64)
}

/// What stands around the values of a series.
struct SeriesHead<'a> {
    metric_type: MetricType,
    /// Fields among which all values are.
    values: &'a [u8],
    /// That of its key.
    scope: Scope,
    /// No such series is kept; it has no key.
    is_too_long: bool,
}

/// Reads the labels and the type of a series, and writes its key.
#[inline(always)]
fn read_head<'a>(
    symbols: &Symbols,
    key: &mut Vec<u8>,
    body: &[u8],
    series: &'a [u8],
) -> Result<SeriesHead<'a>, Malformed> {
    key.clear();
    let metric_type = MetricType::default();
    let scope = numbered(symbols, metric_type);
    let mut head = SeriesHead { metric_type, values: series, scope, is_too_long: false };
    let (mut refs, mut is_numbered) = (0_usize, true);
    let mut fields = Fields::new(series);
    let mut is_first = true;
    while let Some((number, value)) = fields.next()? {
        match number {
            LABELS_REFS => {
                if is_first {
                    head.values = fields.rest();
                }
                let mut is_known = true;
                each_varint(value, |place| {
                    refs += 1;
                    let number = symbols.number_at(place as u32);
                    is_known &= number.is_some();
                    is_numbered &= number != Some(UNNUMBERED);
                    if refs <= REFS_MAX {
                        key.extend_from_slice(&number.unwrap_or(UNNUMBERED).to_ne_bytes());
                    }
                })?;
                if !is_known {
                    return Err(Malformed);
                }
            }
            METADATA => head.metric_type = read_type(head.metric_type, value.bytes()?)?,
            _ => {}
        }
        is_first = false;
    }
    // A name without a value.
    if !refs.is_multiple_of(2) {
        return Err(Malformed);
    }
    head.is_too_long = refs > REFS_MAX || !is_numbered && !spell_key(symbols, key, body, series)?;
    head.scope = if is_numbered {
        numbered(symbols, head.metric_type)
    } else {
        Scope::of_format(TAG_V2_SPELLED, head.metric_type as u64)
    };
    if head.is_too_long {
        key.clear();
    }
    Ok(head)
}

/// Calls `each` with the references of a series.
fn each_ref(series: &[u8], mut each: impl FnMut(u32)) -> Result<(), Malformed> {
    let mut fields = Fields::new(series);
    while let Some((number, value)) = fields.next()? {
        if number == LABELS_REFS {
            // As every uint32: the low bits.
            each_varint(value, |place| each(place as u32))?;
        }
    }
    Ok(())
}

/// Writes a key of strings: some have no number. False if it is too long for any series that is kept.
#[cold]
fn spell_key(
    symbols: &Symbols,
    key: &mut Vec<u8>,
    body: &[u8],
    series: &[u8],
) -> Result<bool, Malformed> {
    key.clear();
    let mut fits = true;
    each_ref(series, |place| {
        let symbol = symbols.get(body, place).unwrap_or_default();
        fits &= key.len() + symbol.len() <= LABEL_BYTES_MAX;
        if fits {
            key.extend_from_slice(&(symbol.len() as u32).to_ne_bytes());
            key.extend_from_slice(symbol);
        }
    })?;
    Ok(fits)
}

#[cold]
fn describe(
    description: &mut SeriesDescription,
    symbols: &Symbols,
    body: &[u8],
    series: &[u8],
    metric_type: MetricType,
) -> Result<(), PointFault> {
    let mut metric: &[u8] = b"";
    let (mut has_name, mut described) = (false, Ok(()));
    let mut name: Option<&[u8]> = None;
    let read = each_ref(series, |place| {
        let symbol = symbols.get(body, place).unwrap_or_default();
        let Some(name) = name.take() else {
            name = Some(symbol);
            return;
        };
        if name == NAME_LABEL {
            metric = symbol;
        }
        if described.is_ok() {
            described = describe_label(description, &mut has_name, name, symbol);
        }
    });
    debug_assert!(read.is_ok(), "the head was read");
    description.kind(kind_of(metric, metric_type));
    described
}

/// Reads the type of a `Metadata`; a message that is sent in parts is one.
fn read_type(mut metric_type: MetricType, metadata: &[u8]) -> Result<MetricType, Malformed> {
    let mut fields = Fields::new(metadata);
    while let Some((number, value)) = fields.next()? {
        if number == 1 {
            metric_type = messages::read_type(value)?;
        }
    }
    Ok(metric_type)
}
