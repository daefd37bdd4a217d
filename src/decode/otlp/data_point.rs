//! The messages of data points: what they say beside their attributes.
//!
//! The attributes go to the key of the series as they were sent, so that a point of a known series is not looked at
//! further.

use super::super::histograms;
use super::super::protobuf::{FieldValue, Fields, Malformed, each_varint, take_fixed64};
use super::key::push_part;
use sigmad_sample::timestamp::{OutOfRange, Stamp};

/// `DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK`: the series has ended, or had no value at that time.
const NO_RECORDED_VALUE: u64 = 1;
/// Buckets of one histogram: those that are not empty are fewer, and past 512 there are no quantiles.
pub(super) const BUCKETS_MAX: usize = 2_048;

/// What all points have.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct PointHead {
    time_ns: u64,
    flags: u64,
}

impl PointHead {
    /// True if the sender says that there is no value.
    #[inline]
    pub(super) fn is_without_value(self) -> bool {
        self.flags & NO_RECORDED_VALUE != 0
    }

    /// The time of the point; 0 is that of arrival.
    #[inline]
    pub(super) fn time(self) -> Result<Stamp, OutOfRange> {
        match i64::try_from(self.time_ns) {
            Ok(0) => Ok(None),
            Ok(time_ns) => Ok(Some(time_ns / 1_000)),
            Err(_) => Err(OutOfRange),
        }
    }
}

/// What the fields of a `NumberDataPoint` begin with.
const START_KEY: u8 = 2 << 3 | 1;
const TIME_KEY: u8 = 3 << 3 | 1;
const DOUBLE_KEY: u8 = 4 << 3 | 1;
const INT_KEY: u8 = 6 << 3 | 1;

/// A `NumberDataPoint`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Number {
    pub(super) head: PointHead,
    pub(super) value: Option<f64>,
}

impl Number {
    /// Reads the point in front that senders write: maybe a start, a time and a number. Returns also what follows: its
    /// attributes, if it has any.
    #[inline(always)]
    pub(super) fn usual(message: &[u8]) -> Option<(PointHead, f64, &[u8])> {
        let rest = take_fixed(message, START_KEY).map_or(message, |(_, after)| after);
        let (time_ns, rest) = take_fixed(rest, TIME_KEY)?;
        let (value, rest) = match take_fixed(rest, DOUBLE_KEY) {
            Some((bits, rest)) => (f64::from_bits(bits), rest),
            None => {
                let (number, rest) = take_fixed(rest, INT_KEY)?;
                (number as i64 as f64, rest)
            }
        };
        Some((PointHead { time_ns, flags: 0 }, value, rest))
    }

    /// Reads a point, and adds its attributes to `key`.
    pub(super) fn read(message: &[u8], key: &mut Vec<u8>) -> Result<Self, Malformed> {
        let mut point = Self::default();
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                3 => point.head.time_ns = fixed64(value)?,
                4 => point.value = Some(value.double()?),
                6 => point.value = Some(fixed64(value)? as i64 as f64),
                7 => push_part(value.bytes()?, key),
                8 => point.head.flags = value.varint()?,
                _ => {}
            }
        }
        Ok(point)
    }
}

/// A `HistogramDataPoint`, or an `ExponentialHistogramDataPoint`.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    pub(super) head: PointHead,
    pub(super) count: u64,
    /// None when some values can be negative.
    pub(super) sum: Option<f64>,
    /// Counts of the buckets between the bounds, and of the one past the last bound.
    pub(super) counts: Vec<f64>,
    /// Upper bounds, ascending.
    pub(super) bounds: Vec<f64>,
    pub(super) exponential: Exponential,
}

/// The buckets of an exponential histogram.
#[derive(Debug, Default)]
pub(super) struct Exponential {
    /// Buckets grow by 2^(2^-scale).
    pub(super) scale: i32,
    pub(super) zero_count: u64,
    pub(super) zero_threshold: f64,
    pub(super) positive: Buckets,
    pub(super) negative: Buckets,
}

/// The buckets of one sign.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    /// The index of the first one.
    offset: i32,
    counts: Vec<f64>,
    /// Index and count of those that are not empty.
    by_index: Vec<(i32, f64)>,
}

impl Histogram {
    fn clear(&mut self) {
        self.counts.clear();
        self.bounds.clear();
        let Exponential { positive, negative, .. } = &mut self.exponential;
        let [positive, negative] = [positive, negative].map(|buckets| {
            buckets.clear();
            std::mem::take(buckets)
        });
        *self = Self {
            counts: std::mem::take(&mut self.counts),
            bounds: std::mem::take(&mut self.bounds),
            exponential: Exponential { positive, negative, ..Exponential::default() },
            ..Self::default()
        };
    }

    /// Reads a `HistogramDataPoint`, and adds its attributes to `key`.
    pub(super) fn read(&mut self, message: &[u8], key: &mut Vec<u8>) -> Result<(), Malformed> {
        self.clear();
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                3 => self.head.time_ns = fixed64(value)?,
                4 => self.count = fixed64(value)?,
                5 => self.sum = Some(value.double()?),
                6 => each_fixed64(value, |count| push(count as f64, &mut self.counts))?,
                7 => each_fixed64(value, |bits| push(f64::from_bits(bits), &mut self.bounds))?,
                9 => push_part(value.bytes()?, key),
                10 => self.head.flags = value.varint()?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads an `ExponentialHistogramDataPoint`, and adds its attributes to `key`.
    pub(super) fn read_exponential(
        &mut self,
        message: &[u8],
        key: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        self.clear();
        let exponential = &mut self.exponential;
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => push_part(value.bytes()?, key),
                3 => self.head.time_ns = fixed64(value)?,
                4 => self.count = fixed64(value)?,
                5 => self.sum = Some(value.double()?),
                6 => exponential.scale = sint32(value)?,
                7 => exponential.zero_count = fixed64(value)?,
                8 => exponential.positive.read(value.bytes()?)?,
                9 => exponential.negative.read(value.bytes()?)?,
                10 => self.head.flags = value.varint()?,
                14 => exponential.zero_threshold = value.double()?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The buckets, if they fit to the bounds and are not too many.
    pub(super) fn buckets(&mut self) -> Option<histograms::Buckets<'_>> {
        let Self { counts, bounds, exponential, .. } = self;
        let is_ascending = bounds.windows(2).all(|pair| pair[0] < pair[1]);
        if !is_ascending || counts.len().max(bounds.len()) > BUCKETS_MAX {
            return None;
        }
        match (counts.len(), bounds.len()) {
            (0, 0) => {}
            (counts_len, bounds_len) if counts_len == bounds_len + 1 => {
                return Some(histograms::Buckets::Explicit { bounds, counts });
            }
            _ => return None,
        }
        exponential.buckets()
    }
}

impl Exponential {
    fn buckets(&mut self) -> Option<histograms::Buckets<'_>> {
        let Self { scale, zero_count, zero_threshold, positive, negative } = self;
        positive.index()?;
        negative.index()?;
        if *zero_count == 0 && positive.by_index.is_empty() && negative.by_index.is_empty() {
            return Some(histograms::Buckets::None);
        }
        Some(histograms::Buckets::Exponential {
            schema: *scale,
            zero_threshold: *zero_threshold,
            zero_count: *zero_count as f64,
            positive: &positive.by_index,
            negative: &negative.by_index,
        })
    }
}

impl Buckets {
    fn clear(&mut self) {
        self.offset = 0;
        self.counts.clear();
        self.by_index.clear();
    }

    /// Lists the buckets that are not empty; None if they are too many, or past what an index can say.
    fn index(&mut self) -> Option<()> {
        if self.counts.len() > BUCKETS_MAX {
            return None;
        }
        // OpenTelemetry calls the bucket from base^i to base^(i+1) by i, Prometheus by i+1.
        let first = i64::from(self.offset) + 1;
        for (index, &count) in (first..).zip(&self.counts) {
            if count > 0.0 {
                self.by_index.push((i32::try_from(index).ok()?, count));
            }
        }
        Some(())
    }

    /// Reads a message `Buckets`; parts join.
    fn read(&mut self, message: &[u8]) -> Result<(), Malformed> {
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => self.offset = sint32(value)?,
                2 => each_varint(value, |count| push(count as f64, &mut self.counts))?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// A `SummaryDataPoint`, without its quantiles.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Summary {
    pub(super) head: PointHead,
    pub(super) count: u64,
    pub(super) sum: f64,
}

impl Summary {
    /// Reads a point, and adds its attributes to `key`.
    pub(super) fn read(message: &[u8], key: &mut Vec<u8>) -> Result<Self, Malformed> {
        let mut point = Self::default();
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                3 => point.head.time_ns = fixed64(value)?,
                4 => point.count = fixed64(value)?,
                5 => point.sum = value.double()?,
                7 => push_part(value.bytes()?, key),
                8 => point.head.flags = value.varint()?,
                _ => {}
            }
        }
        Ok(point)
    }
}

/// A `ValueAtQuantile`: the quantile, and its value.
pub(super) fn read_quantile(message: &[u8]) -> Result<(f64, f64), Malformed> {
    let mut quantile = (0.0, 0.0);
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => quantile.0 = value.double()?,
            2 => quantile.1 = value.double()?,
            _ => {}
        }
    }
    Ok(quantile)
}

/// Keeps one more than there may be, so that it is known that there were too many.
fn push(number: f64, list: &mut Vec<f64>) {
    if list.len() <= BUCKETS_MAX {
        list.push(number);
    }
}

/// Takes a field of 64 bits off the front, if it begins with `key`.
#[inline(always)]
fn take_fixed(message: &[u8], key: u8) -> Option<(u64, &[u8])> {
    let (&[first, a, b, c, d, e, f, g, h], rest) = message.split_first_chunk()?;
    (first == key).then(|| (u64::from_le_bytes([a, b, c, d, e, f, g, h]), rest))
}

#[inline(always)]
fn fixed64(value: FieldValue<'_>) -> Result<u64, Malformed> {
    if let FieldValue::Fixed64(number) = value { Ok(number) } else { Err(Malformed) }
}

/// Calls `each` with the bits of a repeated field of 64 bits, packed or alone.
fn each_fixed64(value: FieldValue<'_>, mut each: impl FnMut(u64)) -> Result<(), Malformed> {
    let FieldValue::Bytes(mut packed) = value else {
        each(fixed64(value)?);
        return Ok(());
    };
    while !packed.is_empty() {
        each(take_fixed64(&mut packed)?);
    }
    Ok(())
}

/// Signs are in the lowest bit. It is a varint of up to ten bytes, of which the low half counts: prost keeps it, too.
fn sint32(value: FieldValue<'_>) -> Result<i32, Malformed> {
    let number = value.varint()? as u32;
    Ok((number >> 1) as i32 ^ -((number & 1) as i32))
}
