//! The columns of a table: which one is the device, which one the time, and the numbers.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Date64Type, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, RecordBatch};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Schema, TimeUnit};

use super::super::rules::SeriesRules;
use sigmad_sample::timestamp::{self, OutOfRange, Stamp};

/// The columns that can be the time, the first of which a table has; as in JSON.
const TIME_COLUMNS: [&str; 6] = ["timestamp", "ts", "time", "date", "@timestamp", "datetime"];
/// Goes before the labels that can be the device, as in JSON.
const DEVICE_COLUMN: &str = "device";

/// What the columns of a schema are, by their places.
#[derive(Debug, Default)]
pub(super) struct Roles {
    device: Option<usize>,
    time: Option<usize>,
    numbers: Vec<usize>,
}

impl Roles {
    pub(super) fn of(schema: &Schema, rules: &SeriesRules) -> Self {
        let fields = || schema.fields().iter().enumerate();
        let rank = |name: &str| match name {
            DEVICE_COLUMN => Some(0),
            _ => rules.device_rank(name.as_bytes()).map(|rank| rank + 1),
        };
        let device = fields()
            .filter(|(_, field)| is_text(field.data_type()))
            .filter_map(|(at, field)| Some((rank(field.name())?, at)))
            .min();
        let time_rank = |name: &str| TIME_COLUMNS.iter().position(|known| *known == name);
        let time = fields()
            .filter(|(_, field)| is_time(field.data_type()))
            .filter_map(|(at, field)| Some((time_rank(field.name())?, at)))
            .min();
        let numbers = fields()
            .filter(|(_, field)| is_number(field.data_type()) && time_rank(field.name()).is_none())
            .map(|(at, _)| at)
            .collect();
        Self { device: device.map(|(_, at)| at), time: time.map(|(_, at)| at), numbers }
    }

    /// Whether there is anything to judge.
    pub(super) fn has_numbers(&self) -> bool {
        !self.numbers.is_empty()
    }

    pub(super) fn device<'b>(&self, batch: &'b RecordBatch) -> Option<Texts<'b>> {
        Texts::of(batch.column(self.device?))
    }

    pub(super) fn time<'b>(&self, batch: &'b RecordBatch) -> Option<Times<'b>> {
        Times::of(batch.column(self.time?))
    }

    /// The names and the values of the number columns.
    pub(super) fn numbers<'b>(
        &self,
        batch: &'b RecordBatch,
    ) -> impl Iterator<Item = Option<Numbers<'b>>> {
        self.numbers.iter().map(|&at| Numbers::of(batch.column(at)))
    }

    pub(super) fn names<'s>(&self, schema: &'s Schema) -> impl Iterator<Item = &'s str> {
        self.numbers.iter().map(|&at| schema.field(at).name().as_str())
    }
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

fn is_time(kind: &DataType) -> bool {
    matches!(kind, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64)
        || is_number(kind)
        || is_text(kind)
}

fn is_number(kind: &DataType) -> bool {
    kind.is_integer() || kind.is_floating()
}

/// The numbers of one column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers<'b> {
    nulls: Option<&'b NullBuffer>,
    values: Values<'b>,
}

#[derive(Clone, Copy, Debug)]
enum Values<'b> {
    Float16(&'b [<Float16Type as ArrowPrimitiveType>::Native]),
    Float32(&'b [f32]),
    Float64(&'b [f64]),
    Int8(&'b [i8]),
    Int16(&'b [i16]),
    Int32(&'b [i32]),
    Int64(&'b [i64]),
    UInt8(&'b [u8]),
    UInt16(&'b [u16]),
    UInt32(&'b [u32]),
    UInt64(&'b [u64]),
}

impl<'b> Numbers<'b> {
    fn of(column: &'b ArrayRef) -> Option<Self> {
        let values = match column.data_type() {
            DataType::Float16 => Values::Float16(slice::<Float16Type>(column)),
            DataType::Float32 => Values::Float32(slice::<Float32Type>(column)),
            DataType::Float64 => Values::Float64(slice::<Float64Type>(column)),
            DataType::Int8 => Values::Int8(slice::<Int8Type>(column)),
            DataType::Int16 => Values::Int16(slice::<Int16Type>(column)),
            DataType::Int32 => Values::Int32(slice::<Int32Type>(column)),
            DataType::Int64 => Values::Int64(slice::<Int64Type>(column)),
            DataType::UInt8 => Values::UInt8(slice::<UInt8Type>(column)),
            DataType::UInt16 => Values::UInt16(slice::<UInt16Type>(column)),
            DataType::UInt32 => Values::UInt32(slice::<UInt32Type>(column)),
            DataType::UInt64 => Values::UInt64(slice::<UInt64Type>(column)),
            _ => return None,
        };
        Some(Self { nulls: column.nulls(), values })
    }

    /// The numbers of all rows, if they stand so in the column, and none is null.
    #[inline]
    pub(super) fn plain(&self) -> Option<&'b [f64]> {
        match (self.nulls, self.values) {
            (None, Values::Float64(values)) => Some(values),
            _ => None,
        }
    }

    /// The number in a row, which the table has; None for null.
    #[inline(never)]
    pub(super) fn get(&self, row: usize) -> Option<f64> {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            return None;
        }
        Some(match self.values {
            Values::Float16(values) => values[row].to_f64(),
            Values::Float32(values) => f64::from(values[row]),
            Values::Float64(values) => values[row],
            Values::Int8(values) => f64::from(values[row]),
            Values::Int16(values) => f64::from(values[row]),
            Values::Int32(values) => f64::from(values[row]),
            Values::Int64(values) => values[row] as f64,
            Values::UInt8(values) => f64::from(values[row]),
            Values::UInt16(values) => f64::from(values[row]),
            Values::UInt32(values) => f64::from(values[row]),
            Values::UInt64(values) => values[row] as f64,
        })
    }
}

fn slice<T: ArrowPrimitiveType>(column: &ArrayRef) -> &[T::Native] {
    column.as_primitive::<T>().values()
}

/// The times of one column.
#[derive(Debug)]
pub(super) enum Times<'b> {
    /// Numbers of a unit.
    Moments { nulls: Option<&'b NullBuffer>, values: &'b [i64], unit: TimeUnit },
    /// Days since 1970.
    Days { nulls: Option<&'b NullBuffer>, values: &'b [i32] },
    /// Seconds to nanoseconds, by their size.
    Numbers(Numbers<'b>),
    /// RFC 3339.
    Texts(Texts<'b>),
}

impl<'b> Times<'b> {
    fn of(column: &'b ArrayRef) -> Option<Self> {
        let nulls = column.nulls();
        let moments = |values, unit| Some(Self::Moments { nulls, values, unit });
        match column.data_type() {
            DataType::Timestamp(unit @ TimeUnit::Second, _) => {
                moments(slice::<TimestampSecondType>(column), *unit)
            }
            DataType::Timestamp(unit @ TimeUnit::Millisecond, _) => {
                moments(slice::<TimestampMillisecondType>(column), *unit)
            }
            DataType::Timestamp(unit @ TimeUnit::Microsecond, _) => {
                moments(slice::<TimestampMicrosecondType>(column), *unit)
            }
            DataType::Timestamp(unit @ TimeUnit::Nanosecond, _) => {
                moments(slice::<TimestampNanosecondType>(column), *unit)
            }
            DataType::Date64 => moments(slice::<Date64Type>(column), TimeUnit::Millisecond),
            DataType::Date32 => Some(Self::Days { nulls, values: slice::<Date32Type>(column) }),
            _ => Numbers::of(column)
                .map(Self::Numbers)
                .or_else(|| Texts::of(column).map(Self::Texts)),
        }
    }

    /// The time of a row; null is the time of arrival.
    #[inline]
    pub(super) fn get(&self, row: usize) -> Result<Stamp, OutOfRange> {
        /// The last moment that an i64 of nanoseconds can say.
        const MOMENT_MAX_US: i64 = i64::MAX / 1_000;
        const DAY_US: i64 = 86_400_000_000;
        let is_null = |nulls: &Option<&NullBuffer>| nulls.is_some_and(|nulls| nulls.is_null(row));
        let time_us = match self {
            Self::Moments { nulls, .. } | Self::Days { nulls, .. } if is_null(nulls) => {
                return Ok(None);
            }
            Self::Moments { values, unit, .. } => micros(values[row], *unit).ok_or(OutOfRange)?,
            Self::Days { values, .. } => i64::from(values[row]) * DAY_US,
            Self::Numbers(numbers) => {
                return numbers.get(row).map_or(Ok(None), timestamp::from_float);
            }
            Self::Texts(texts) => {
                let Some(text) = texts.get(row) else { return Ok(None) };
                return timestamp::from_text(text).ok_or(OutOfRange)?;
            }
        };
        if (0..=MOMENT_MAX_US).contains(&time_us) { Ok(Some(time_us)) } else { Err(OutOfRange) }
    }
}

/// So many of a unit in microseconds; None past what an i64 can say.
#[inline]
fn micros(count: i64, unit: TimeUnit) -> Option<i64> {
    match unit {
        TimeUnit::Second => count.checked_mul(1_000_000),
        TimeUnit::Millisecond => count.checked_mul(1_000),
        TimeUnit::Microsecond => Some(count),
        TimeUnit::Nanosecond => Some(count.div_euclid(1_000)),
    }
}

/// The texts of one column.
#[derive(Debug)]
pub(super) enum Texts<'b> {
    Plain(&'b arrow_array::StringArray),
    Large(&'b arrow_array::LargeStringArray),
    View(&'b arrow_array::StringViewArray),
    /// The place of each row's text in the dictionary.
    Dictionary {
        nulls: Option<&'b NullBuffer>,
        places: Vec<usize>,
        texts: Box<Texts<'b>>,
    },
}

impl<'b> Texts<'b> {
    fn of(column: &'b ArrayRef) -> Option<Self> {
        match column.data_type() {
            DataType::Utf8 => Some(Self::Plain(column.as_string())),
            DataType::LargeUtf8 => Some(Self::Large(column.as_string())),
            DataType::Utf8View => Some(Self::View(column.as_string_view())),
            DataType::Dictionary(..) => {
                let dictionary = column.as_any_dictionary();
                // Without texts all rows are null: the library checks the places.
                let is_empty = dictionary.values().is_empty();
                let places = if is_empty { Vec::new() } else { dictionary.normalized_keys() };
                let texts = Box::new(Self::of(dictionary.values())?);
                Some(Self::Dictionary { nulls: column.nulls(), places, texts })
            }
            _ => None,
        }
    }

    /// The text in a row, which the table has; None for null.
    #[inline]
    pub(super) fn get(&self, row: usize) -> Option<&'b str> {
        match self {
            Self::Plain(array) => array.is_valid(row).then(|| array.value(row)),
            Self::Large(array) => array.is_valid(row).then(|| array.value(row)),
            Self::View(array) => array.is_valid(row).then(|| array.value(row)),
            Self::Dictionary { nulls, places, texts } => {
                if nulls.is_some_and(|nulls| nulls.is_null(row)) {
                    return None;
                }
                texts.get(*places.get(row)?)
            }
        }
    }
}
