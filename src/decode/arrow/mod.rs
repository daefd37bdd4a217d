//! Tables: an Arrow IPC stream, a row a sample.
//!
//! A column of texts is the device, one the time, and every column of numbers a metric. Other columns are ignored,
//! as texts in JSON are. [`stream`] checks the messages, arrow-rs reads them, and [`columns`] finds what is what.

mod columns;
mod stream;

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamDecoder;

use self::columns::Roles;
use super::admission::Decoded;
use super::fault::{BodyError, PointFault};
use super::gauge_rows::{GaugeColumn, GaugeRows};
use super::points::PointReader;
use super::series_cache::{Scope, SeriesKey};

/// Of the keys of this format: a device, within which the names of its columns are.
const DEVICE: Scope = Scope::of_format(b'A', 0);
/// The same without a place for the device: the name of a column, and the device.
const SPELLED: Scope = Scope::of_format(b'A', 1);
const NO_NUMBERS: BodyError =
    BodyError::Unsupported("an Arrow stream needs a column of numbers beside device and time");

const NOT_A_STREAM: BodyError =
    BodyError::Unsupported("the body is not an Arrow IPC stream, or is not whole");

/// One worker's memory for tables, used again for each body.
#[derive(Debug, Default)]
pub(super) struct ArrowReader {
    /// The name of a column and the device of a row, while the cache of series has no room for the device.
    key: Vec<u8>,
    /// What is known of columns.
    gauges: GaugeRows,
}

impl ArrowReader {
    /// Reads a body.
    pub(super) fn read(
        &mut self,
        mut points: PointReader<'_>,
        body: &[u8],
    ) -> Result<Decoded, BodyError> {
        let read = self.read_stream(&mut points, body).map_err(|error| match error {
            BodyError::Malformed { .. } => NOT_A_STREAM,
            error => error,
        });
        points.end(read)
    }

    fn read_stream(&mut self, points: &mut PointReader<'_>, body: &[u8]) -> Result<(), BodyError> {
        let mut rest = stream::aligned(body);
        stream::check(&rest)?;
        let mut decoder = StreamDecoder::new();
        let mut roles = None;
        let mut first_row = 0;
        loop {
            let offset = body.len() - rest.len();
            match decoder.decode(&mut rest) {
                Ok(Some(batch)) => {
                    let roles =
                        roles.get_or_insert_with(|| Roles::of(batch.schema_ref(), points.rules()));
                    if !roles.has_numbers() {
                        return Err(NO_NUMBERS);
                    }
                    self.rows(points, roles, &batch, first_row)?;
                    first_row += batch.num_rows();
                }
                Ok(None) if first_row == 0 => return Err(BodyError::Empty),
                Ok(None) if decoder.finish().is_ok() => return Ok(()),
                Ok(None) | Err(_) => return Err(BodyError::Malformed { offset }),
            }
        }
    }

    fn rows(
        &mut self,
        points: &mut PointReader<'_>,
        roles: &Roles,
        batch: &RecordBatch,
        first_row: usize,
    ) -> Result<(), BodyError> {
        let (device, time) = (roles.device(batch), roles.time(batch));
        let schema = batch.schema_ref();
        let names = roles.names(schema).map(str::as_bytes);
        let columns: Vec<_> = names
            .zip(roles.numbers(batch))
            .filter_map(|(name, numbers)| {
                let numbers = numbers?;
                Some((name, numbers.plain(), numbers))
            })
            .collect();
        let plain: Option<Vec<_>> = columns
            .iter()
            .map(|(name, plain, _)| Some(GaugeColumn::new(name, (*plain)?)))
            .collect();
        let Self { key: spelled, gauges } = self;
        let mut gauges = plain.and_then(|plain| gauges.begin(points, plain));
        for row in 0..batch.num_rows() {
            points.set_index(first_row + row);
            let Ok(time) = time.as_ref().map_or(Ok(None), |times| times.get(row)) else {
                points.refuse(PointFault::Time);
                continue;
            };
            let device = device.as_ref().and_then(|texts| texts.get(row)).unwrap_or_default();
            let device = device.as_bytes();
            if let Some(gauges) = &mut gauges
                && gauges.take(points, device, time, row)?
            {
                continue;
            }
            let before = points.taken();
            let common = points.common(SeriesKey { scope: DEVICE, bytes: device });
            let scope = common.map(|common| Scope::within(common, 0));
            for (name, plain, numbers) in &columns {
                let value = plain.map_or_else(|| numbers.get(row), |values| Some(values[row]));
                let Some(value) = value else { continue };
                let key = match scope {
                    Some(scope) => SeriesKey { scope, bytes: name },
                    None => SeriesKey { scope: SPELLED, bytes: spell(spelled, name, device) },
                };
                points.keyed_value(key, time, value, |description| {
                    description.name(name);
                    if !device.is_empty() {
                        description.set_device(device);
                    }
                    Ok(())
                })?;
            }
            if let Some(gauges) = &mut gauges {
                gauges.learn(points, (device, before), |points, name| {
                    let key = SeriesKey { scope: scope?, bytes: name };
                    points.known(key)
                });
            }
        }
        Ok(())
    }
}

/// A key for the name of a column and a device.
fn spell<'k>(key: &'k mut Vec<u8>, name: &[u8], device: &[u8]) -> &'k [u8] {
    key.clear();
    key.extend_from_slice(&name.len().to_ne_bytes());
    key.extend_from_slice(name);
    key.extend_from_slice(device);
    key
}

#[cfg(test)]
mod tests;
