//! Influx line protocol: `measurement,tag=value field=value,… time`, a point on each line.
//!
//! The grammar is that of InfluxDB (<https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/>). The
//! series of a field is `measurement_field`, with the tags as labels. Fields that are no numbers (strings, booleans,
//! NaN) are skipped and counted. A line is kept or refused as a whole, and does not affect the lines around it.
//!
//! [`expected`] reads a line whose series are those that the worker's cache expects, without a look at its names.
//! [`mod@line`] splits any other one without looking at its tags: the bytes before the value are the key of the series in
//! the cache. [`series`] reads them when the cache does not know them.

mod expected;
mod line;
mod number;
mod precision;
mod series;

use memchr::memchr_iter;

use self::expected::{ExpectedField, ExpectedLine};
use self::line::{Field, Line, LineFault, RecentTime};
use super::admission::Decoded;
use super::fault::{BodyError, PointFault};
use super::points::PointReader;
use super::series_cache::{EntryIndex, SeriesKey};

pub use self::precision::{LinePrecision, PrecisionError};

/// The buffers of one worker.
#[derive(Debug, Default)]
pub(super) struct LineReader {
    fields: Vec<Field>,
    expected: Vec<ExpectedField>,
    /// Names a series whose key does not stand in the body: measurement and tags as sent, a space, and the field as
    /// sent.
    key: Vec<u8>,
}

/// What the sender says of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineOptions {
    /// The unit of the times.
    pub precision: LinePrecision,
    /// False if no line is to be kept when one of them can't be read.
    pub accepts_partial: bool,
}

/// Reads a body.
pub(super) fn read(
    reader: &mut LineReader,
    mut points: PointReader<'_>,
    body: &[u8],
    options: LineOptions,
) -> Result<Decoded, BodyError> {
    if !options.accepts_partial
        && let Some((index, fault)) = first_fault(reader, body, options.precision)
    {
        points.set_index(index);
        points.refuse(fault);
        return points.end(Ok(()));
    }
    let read = read_lines(reader, &mut points, body, options.precision);
    points.end(read)
}

fn read_lines(
    reader: &mut LineReader,
    points: &mut PointReader<'_>,
    body: &[u8],
    precision: LinePrecision,
) -> Result<(), BodyError> {
    let mut lines = Lines { body, at: 0, index: 0, recent_time: None };
    while lines.skip_blank() {
        points.set_index(lines.index);
        let given = lines.take_expected(&mut reader.expected, points, precision)?;
        if given == Given::Whole {
            continue;
        }
        match lines.next(&mut reader.fields, precision) {
            Ok(line) => take(reader, points, body, &line, given)?,
            Err(fault) => points.refuse(fault),
        }
    }
    Ok(())
}

/// How much of a line the points have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    Nothing,
    /// So many fields, the first of which has that place in the cache.
    Part(usize, EntryIndex),
    Whole,
}

/// The first line that can't be read, with its index.
fn first_fault(
    reader: &mut LineReader,
    body: &[u8],
    precision: LinePrecision,
) -> Option<(usize, PointFault)> {
    let mut lines = Lines { body, at: 0, index: 0, recent_time: None };
    while lines.skip_blank() {
        let index = lines.index;
        let fault = match lines.next(&mut reader.fields, precision) {
            Ok(line) => series::check(line.series(body)).err(),
            Err(fault) => Some(fault),
        };
        if let Some(fault) = fault {
            return Some((index, fault));
        }
    }
    None
}

/// Gives the values of one line to the points that they do not have.
fn take(
    reader: &mut LineReader,
    points: &mut PointReader<'_>,
    body: &[u8],
    line: &Line,
    given: Given,
) -> Result<(), BodyError> {
    let LineReader { fields, key, .. } = reader;
    let series = line.series(body);
    if fields.iter().all(|field| !field.value.is_finite())
        && let Err(fault) = series::check(series)
    {
        fields.iter().for_each(|_| points.skip());
        points.refuse(fault);
        return Ok(());
    }
    let (had, mut first) = match given {
        Given::Part(had, first) => (had, Some(first)),
        Given::Nothing | Given::Whole => (0, None),
    };
    for (place, field) in fields.iter().enumerate().skip(had) {
        if !field.value.is_finite() {
            points.skip();
            continue;
        }
        let name = &body[field.key.clone()];
        let key = match first.filter(|_| place > 0) {
            Some(first) => SeriesKey { scope: expected::following(first), bytes: name },
            None => SeriesKey { scope: expected::FIRST, bytes: spell(key, series, name) },
        };
        let mut is_refused = false;
        let entry = points.keyed_value(key, line.time_us, field.value, |description| {
            let described = series::describe(series, name, description);
            is_refused = described.is_err();
            described
        })?;
        if is_refused {
            // The other fields have the same tags: the line is refused once.
            break;
        }
        if place == 0 {
            first = entry;
        }
    }
    Ok(())
}

/// Writes the key of a field that is not within that of the first one.
fn spell<'k>(key: &'k mut Vec<u8>, series: &[u8], name: &[u8]) -> &'k [u8] {
    key.clear();
    key.extend_from_slice(series);
    key.push(b' ');
    key.extend_from_slice(name);
    key
}

/// The lines of a body.
struct Lines<'b> {
    body: &'b [u8],
    at: usize,
    /// Line ends before `at`.
    index: usize,
    recent_time: RecentTime,
}

impl Lines<'_> {
    /// Skips white space, empty lines and comments; false at the end of the body.
    #[inline]
    fn skip_blank(&mut self) -> bool {
        loop {
            match self.body.get(self.at) {
                None => return false,
                Some(b'\n') => {
                    self.at += 1;
                    self.index += 1;
                }
                Some(b' ' | b'\t' | b'\r') => self.at += 1,
                Some(b'#') => self.at = line::end_of(self.body, self.at),
                Some(_) => return true,
            }
        }
    }

    /// Gives the line at hand to `points` and passes it, if its series are the expected ones. Otherwise the line is
    /// still at hand.
    #[inline]
    fn take_expected(
        &mut self,
        fields: &mut Vec<ExpectedField>,
        points: &mut PointReader<'_>,
        precision: LinePrecision,
    ) -> Result<Given, BodyError> {
        let (cache, recent) = (points.cache(), &mut self.recent_time);
        let Some(line) = ExpectedLine::read(self.body, self.at, cache, precision, recent, fields)
        else {
            return Ok(Given::Nothing);
        };
        for (place, field) in fields.iter().enumerate() {
            if !points.value_at(field.index, line.time_us, field.value)? {
                return Ok(Given::Part(place, line.first));
            }
        }
        self.at = line.end;
        Ok(Given::Whole)
    }

    /// Reads the line at hand, up to its end.
    fn next(
        &mut self,
        fields: &mut Vec<Field>,
        precision: LinePrecision,
    ) -> Result<Line, PointFault> {
        let start = self.at;
        match line::parse(self.body, start, fields, precision, &mut self.recent_time) {
            Ok(line) => {
                self.at = line.end;
                if line.has_string {
                    self.index += memchr_iter(b'\n', &self.body[start..line.end]).count();
                }
                Ok(line)
            }
            Err(LineFault { fault, at }) => {
                self.at = line::end_of(self.body, at);
                self.index += memchr_iter(b'\n', &self.body[start..self.at]).count();
                Err(fault)
            }
        }
    }
}

#[cfg(test)]
mod tests;
