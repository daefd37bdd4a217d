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
use super::points::PointReader;

/// First in every key of this format.
const KEY_TAG: u8 = b'A';
const NO_NUMBERS: BodyError =
    BodyError::Unsupported("an Arrow stream needs a column of numbers beside device and time");

const NOT_A_STREAM: BodyError =
    BodyError::Unsupported("the body is not an Arrow IPC stream, or is not whole");

/// One worker's memory for tables, used again for each body.
#[derive(Debug, Default)]
pub(super) struct ArrowReader {
    /// The series of a column: tag and name, then the device of the row.
    keys: Vec<Vec<u8>>,
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
                    let roles = roles.get_or_insert_with(|| self.begin(points, &batch));
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

    /// Finds out what the columns are, and begins the key of each.
    fn begin(&mut self, points: &PointReader<'_>, batch: &RecordBatch) -> Roles {
        let schema = batch.schema_ref();
        let roles = Roles::of(schema, points.rules());
        self.keys.clear();
        for name in roles.names(schema) {
            let length = (name.len() as u64).to_ne_bytes();
            self.keys.push([&[KEY_TAG], &length[..], name.as_bytes()].concat());
        }
        roles
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
        let numbers: Vec<_> = roles.numbers(batch).collect();
        for row in 0..batch.num_rows() {
            points.set_index(first_row + row);
            let Ok(time) = time.as_ref().map_or(Ok(None), |times| times.get(row)) else {
                points.refuse(PointFault::Time);
                continue;
            };
            let device =
                device.as_ref().and_then(|texts| texts.get(row)).filter(|name| !name.is_empty());
            for ((key, name), numbers) in
                self.keys.iter_mut().zip(roles.names(schema)).zip(&numbers)
            {
                let Some(value) = numbers.as_ref().and_then(|numbers| numbers.get(row)) else {
                    continue;
                };
                let prefix = key.len();
                key.extend_from_slice(device.unwrap_or_default().as_bytes());
                let taken = points.value(key, time, value, |description| {
                    description.name(name.as_bytes());
                    if let Some(device) = device {
                        description.set_device(device.as_bytes());
                    }
                    Ok(())
                });
                key.truncate(prefix);
                taken?;
            }
        }
        Ok(())
    }
}
