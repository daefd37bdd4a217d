//! Influx line protocol: `measurement,tag=value field=value,… time`, a point on each line.
//!
//! The grammar is that of InfluxDB (<https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/>). The
//! series of a field is `measurement_field`, with the tags as labels. Fields that are no numbers (strings, booleans,
//! NaN) are skipped and counted. A line is kept or refused as a whole, and does not affect the lines around it.
//!
//! [`mod@line`] splits a line without looking at its tags: the bytes before the fields are the key of the series in the
//! worker's cache. [`series`] reads them when the cache does not know them.

mod line;
mod number;
mod precision;
mod series;

use memchr::memchr_iter;

use self::line::{Field, Line, LineFault};
use super::admission::Decoded;
use super::fault::{BodyError, PointFault};
use super::points::PointReader;

pub use self::precision::{LinePrecision, PrecisionError};

/// Begins the keys of this format in the cache of series.
const KEY_TAG: u8 = b'L';

/// The buffers of one worker.
#[derive(Debug, Default)]
pub(super) struct LineReader {
    fields: Vec<Field>,
    /// Names a series: the tag of the format, measurement and tags as sent, a space, and the field as sent.
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
    let mut lines = Lines { body, at: 0, index: 0 };
    while lines.skip_blank() {
        points.set_index(lines.index);
        match lines.next(&mut reader.fields, precision) {
            Ok(line) => take(reader, points, body, &line)?,
            Err(fault) => points.refuse(fault),
        }
    }
    Ok(())
}

/// The first line that can't be read, with its index.
fn first_fault(
    reader: &mut LineReader,
    body: &[u8],
    precision: LinePrecision,
) -> Option<(usize, PointFault)> {
    let mut lines = Lines { body, at: 0, index: 0 };
    while lines.skip_blank() {
        let index = lines.index;
        let fault = match lines.next(&mut reader.fields, precision) {
            Ok(line) => series::check(&body[line.series]).err(),
            Err(fault) => Some(fault),
        };
        if let Some(fault) = fault {
            return Some((index, fault));
        }
    }
    None
}

/// Gives the values of one line to the points.
#[inline]
fn take(
    reader: &mut LineReader,
    points: &mut PointReader<'_>,
    body: &[u8],
    line: &Line,
) -> Result<(), BodyError> {
    let LineReader { fields, key } = reader;
    let series = &body[line.series.clone()];
    key.clear();
    key.push(KEY_TAG);
    key.extend_from_slice(series);
    key.push(b' ');
    let series_bytes = key.len();
    if fields.iter().all(|field| !field.value.is_finite())
        && let Err(fault) = series::check(series)
    {
        fields.iter().for_each(|_| points.skip());
        points.refuse(fault);
        return Ok(());
    }
    for field in fields.iter() {
        if !field.value.is_finite() {
            points.skip();
            continue;
        }
        let name = &body[field.key.clone()];
        key.truncate(series_bytes);
        key.extend_from_slice(name);
        let mut is_refused = false;
        points.value(key, line.time_us, field.value, |description| {
            let described = series::describe(series, name, description);
            is_refused = described.is_err();
            described
        })?;
        if is_refused {
            // The other fields have the same tags: the line is refused once.
            break;
        }
    }
    Ok(())
}

/// The lines of a body.
struct Lines<'b> {
    body: &'b [u8],
    at: usize,
    /// Line ends before `at`.
    index: usize,
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

    /// Reads the line at hand, up to its end.
    #[inline]
    fn next(
        &mut self,
        fields: &mut Vec<Field>,
        precision: LinePrecision,
    ) -> Result<Line, PointFault> {
        let start = self.at;
        match line::parse(self.body, start, fields, precision) {
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
