//! Native histograms: `prometheus.Histogram` and `io.prometheus.write.v2.Histogram`, which have the same fields.

use super::super::fault::{BodyError, PointFault};
use super::super::histograms::{Buckets, HistogramPoint, Temporality};
use super::super::labels::SeriesDescription;
use super::super::points::PointReader;
use super::super::protobuf::{FieldValue, Fields, Malformed, each_double, each_varint, zigzag};
use super::super::series_cache::SeriesKey;
use super::messages::stamp;

/// The schemas of buckets that grow by 2^(2^-schema).
const SCHEMAS: std::ops::RangeInclusive<i32> = -4..=8;
/// The schema of buckets with bounds of their own.
const CUSTOM_SCHEMA: i32 = -53;
/// `ResetHint` of a histogram whose counts may fall.
const GAUGE: u64 = 3;
/// The sum of a staleness marker: a NaN with a payload (`value.StaleNaN` of Prometheus).
const STALE: u64 = 0x7ff0_0000_0000_0002;

/// Entries of each list of a histogram, of which Prometheus sends some hundreds; a histogram with more is refused.
const LIST_MAX: usize = 4_096;

const NOT_A_HISTOGRAM: PointFault = PointFault::Syntax(
    "a native histogram has a schema of -4 to 8 or -53, as many counts as its spans have buckets, at most 4096, and no count below 0",
);

/// A histogram as it was sent. Its lists are used again for the next one.
#[derive(Debug, Default, PartialEq)]
pub(super) struct NativeHistogram {
    count: f64,
    sum: f64,
    /// Resolution: buckets grow by 2^(2^-schema); -53 for bounds of its own.
    schema: i32,
    zero_threshold: f64,
    zero_count: f64,
    negative: NativeBuckets,
    positive: NativeBuckets,
    /// `ResetHint`: 3 for a gauge, whose counts may fall.
    reset_hint: u64,
    /// Milliseconds since 1970.
    timestamp_ms: i64,
    /// Upper bounds of the buckets of schema -53.
    custom_bounds: Vec<f64>,
    /// Their counts, and the count past the last.
    custom_counts: Vec<f64>,
}

/// The buckets of one sign.
#[derive(Debug, Default, PartialEq)]
struct NativeBuckets {
    /// Distance from the end of the span before, and number of buckets.
    spans: Vec<(i32, u32)>,
    /// Differences of the counts, of a histogram of integers.
    deltas: Vec<i64>,
    /// The counts, of a histogram of floats.
    counts: Vec<f64>,
    /// Index and count of each bucket.
    buckets: Vec<(i32, f64)>,
}

impl NativeBuckets {
    fn clear(&mut self) {
        self.spans.clear();
        self.deltas.clear();
        self.counts.clear();
    }

    /// Gives each bucket its index. None if the spans have another number of buckets than there are counts.
    fn number(&mut self) -> Option<()> {
        let Self { spans, deltas, counts, buckets } = self;
        buckets.clear();
        let total = if counts.is_empty() { deltas.len() } else { counts.len() };
        let in_spans: u64 = spans.iter().map(|&(_, length)| u64::from(length)).sum();
        if in_spans != total as u64 || total > LIST_MAX || spans.len() > LIST_MAX {
            return None;
        }
        let (mut index, mut count) = (0_i32, 0_i64);
        for (place, &(offset, length)) in spans.iter().enumerate() {
            // Only the first span may begin before the one that it follows: there is none.
            if place > 0 && offset < 0 {
                return None;
            }
            index = index.checked_add(offset)?;
            for _ in 0..length {
                let value = match counts.get(buckets.len()) {
                    Some(&value) => value,
                    None => {
                        count = count.checked_add(deltas[buckets.len()])?;
                        count as f64
                    }
                };
                if !(value >= 0.0 && value.is_finite()) {
                    return None;
                }
                buckets.push((index, value));
                index = index.checked_add(1)?;
            }
        }
        Some(())
    }
}

impl NativeHistogram {
    /// Gives the histogram that was read to `points`.
    pub(super) fn give(
        &mut self,
        key: SeriesKey<'_>,
        points: &mut PointReader<'_>,
        describe: impl FnOnce(&mut SeriesDescription) -> Result<(), PointFault>,
    ) -> Result<(), BodyError> {
        if self.sum.to_bits() == STALE {
            points.skip();
            return Ok(());
        }
        let time = match stamp(self.timestamp_ms) {
            Ok(time) => time,
            Err(fault) => {
                points.refuse(fault);
                return Ok(());
            }
        };
        // A gauge is a distribution of its own, as one with delta temporality.
        let temporality =
            if self.reset_hint == GAUGE { Temporality::Delta } else { Temporality::Cumulative };
        let (count, sum) = (self.count, Some(self.sum).filter(|sum| sum.is_finite()));
        let Some(buckets) = self.buckets() else {
            points.refuse(NOT_A_HISTOGRAM);
            return Ok(());
        };
        let histogram = HistogramPoint { temporality, count, sum, buckets };
        points.keyed_histogram(key, time, &histogram, describe)
    }

    /// None for what is no histogram.
    fn buckets(&mut self) -> Option<Buckets<'_>> {
        self.negative.number()?;
        self.positive.number()?;
        if SCHEMAS.contains(&self.schema) {
            return Some(Buckets::Exponential {
                schema: self.schema,
                zero_threshold: self.zero_threshold,
                zero_count: self.zero_count,
                positive: &self.positive.buckets,
                negative: &self.negative.buckets,
            });
        }
        if self.schema != CUSTOM_SCHEMA || !self.negative.buckets.is_empty() {
            return None;
        }
        let Self { positive, custom_bounds: bounds, custom_counts: counts, .. } = self;
        if bounds.len() > LIST_MAX {
            return None;
        }
        if !bounds.windows(2).all(|pair| pair[0] < pair[1])
            || bounds.iter().any(|bound| !bound.is_finite())
        {
            return None;
        }
        counts.clear();
        counts.resize(bounds.len() + 1, 0.0);
        for &(index, count) in &positive.buckets {
            *counts.get_mut(usize::try_from(index).ok()?)? = count;
        }
        Some(Buckets::Explicit { bounds, counts })
    }

    /// Reads `message` into this histogram, whatever it was before.
    pub(super) fn read(&mut self, message: &[u8]) -> Result<(), Malformed> {
        let Self { negative, positive, custom_bounds, .. } = self;
        negative.clear();
        positive.clear();
        custom_bounds.clear();
        (self.count, self.sum, self.schema) = (0.0, 0.0, 0);
        (self.zero_threshold, self.zero_count) = (0.0, 0.0);
        (self.reset_hint, self.timestamp_ms) = (0, 0);
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            self.field(number, value)?;
        }
        Ok(())
    }

    fn field(&mut self, number: u32, value: FieldValue<'_>) -> Result<(), Malformed> {
        let Self { negative, positive, .. } = self;
        match number {
            1 => self.count = value.varint()? as f64,
            2 => self.count = value.double()?,
            3 => self.sum = value.double()?,
            // An int32 of ten bytes or fewer: prost, too, keeps the low half.
            4 => self.schema = zigzag(u64::from(value.varint()? as u32)) as i32,
            5 => self.zero_threshold = value.double()?,
            6 => self.zero_count = value.varint()? as f64,
            7 => self.zero_count = value.double()?,
            8 => push(&mut negative.spans, read_span(value.bytes()?)?),
            9 => each_varint(value, |number| push(&mut negative.deltas, zigzag(number)))?,
            10 => each_double(value, |count| push(&mut negative.counts, count))?,
            11 => push(&mut positive.spans, read_span(value.bytes()?)?),
            12 => each_varint(value, |number| push(&mut positive.deltas, zigzag(number)))?,
            13 => each_double(value, |count| push(&mut positive.counts, count))?,
            14 => self.reset_hint = value.varint()?,
            15 => self.timestamp_ms = value.varint()? as i64,
            16 => each_double(value, |bound| push(&mut self.custom_bounds, bound))?,
            _ => {}
        }
        Ok(())
    }
}

/// Adds to a list. One more than the most shows that there were too many.
fn push<T>(list: &mut Vec<T>, item: T) {
    if list.len() <= LIST_MAX {
        list.push(item);
    }
}

/// A `BucketSpan`.
fn read_span(message: &[u8]) -> Result<(i32, u32), Malformed> {
    let mut span = (0, 0);
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => span.0 = zigzag(u64::from(value.varint()? as u32)) as i32,
            2 => span.1 = value.varint()? as u32,
            _ => {}
        }
    }
    Ok(span)
}
