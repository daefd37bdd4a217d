//! Values of one stream that arrive within one interval, folded into one.
//!
//! So `pager` judges each stream once an interval, however many values there are. An interval begins with a value and
//! has a fixed length; the first value past it begins the next one. A stream with one value an interval or fewer is
//! slow: each of its values is judged as it arrives.
//!
//! One cache line for each stream, and for most values it is all that [`Fold::add`] touches.

use std::num::NonZeroU32;

use sigmad_detectors::saved::Saved;

/// Where what is kept of one stream is, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WatchIndex(pub(crate) NonZeroU32);

/// The present interval of one stream.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub struct Fold {
    /// Arrival of the value that began the interval.
    start_us: i64,
    sum: f64,
    min: f64,
    max: f64,
    /// The usual range of single values: a value outside of it is judged at once.
    low: f64,
    high: f64,
    /// Values that are not judged so far.
    count: u32,
    /// The first value of the interval was judged as it arrived, and is not counted.
    is_slow: bool,
    watch: Option<WatchIndex>,
}

const _: () = assert!(size_of::<Fold>() == 64);

impl Default for Fold {
    fn default() -> Self {
        let (low, high) = (f64::NEG_INFINITY, f64::INFINITY);
        Self {
            // Far from any arrival, so that the first value begins an interval.
            start_us: i64::MIN,
            sum: 0.0,
            min: high,
            max: low,
            low,
            high,
            count: 0,
            is_slow: false,
            watch: None,
        }
    }
}

/// What an interval came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Folded {
    /// Arrival of the value that began it.
    pub start_us: i64,
    /// Values.
    pub count: u32,
    /// Their mean.
    pub mean: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Folded {
    /// One value.
    pub fn of_one(arrived_us: i64, value: f64) -> Self {
        Self { start_us: arrived_us, count: 1, mean: value, min: value, max: value }
    }
}

impl Fold {
    /// Adds a value to the interval. False when the interval is over or when the value lies outside the usual range:
    /// then it is not added, and [`Watches::take`](crate::watches::Watches::take) takes it.
    #[inline(always)] // a dozen instructions for each value
    pub fn add(&mut self, interval_us: u64, arrived_us: i64, value: f64) -> bool {
        let elapsed_us = arrived_us.wrapping_sub(self.start_us) as u64;
        if elapsed_us >= interval_us || value < self.low || value > self.high {
            return false;
        }
        self.enter(value);
        true
    }

    #[inline(always)]
    pub(crate) fn enter(&mut self, value: f64) {
        self.sum += value;
        self.min = if value < self.min { value } else { self.min };
        self.max = if value > self.max { value } else { self.max };
        self.count = self.count.wrapping_add(1);
    }

    /// Whether an arrival belongs to the present interval, or comes from another worker that was a little earlier.
    pub(crate) fn includes(&self, interval_us: u64, arrived_us: i64) -> bool {
        arrived_us.wrapping_sub(self.start_us).unsigned_abs() < interval_us
    }

    /// Whether a value lies outside the usual range.
    pub(crate) fn is_outside(&self, value: f64) -> bool {
        value < self.low || value > self.high
    }

    /// The values of the interval that are not judged so far. None without any.
    pub(crate) fn folded(&self) -> Option<Folded> {
        let Self { start_us, sum, min, max, count, .. } = *self;
        let mean = || (sum / f64::from(count)).clamp(min, max);
        (count > 0).then(|| Folded { start_us, count, mean: mean(), min, max })
    }

    /// Whether it has had no value.
    pub(crate) fn is_new(&self) -> bool {
        self.start_us == i64::MIN
    }

    /// Whether the interval that ends had one value at most.
    pub(crate) fn was_slow(&self) -> bool {
        self.count + u32::from(self.is_slow) <= 1
    }

    /// Begins an interval without values. `is_slow`: the value that begins it is judged as it arrives.
    pub(crate) fn begin(&mut self, arrived_us: i64, is_slow: bool) {
        let (watch, low, high) = (self.watch, self.low, self.high);
        *self = Self { start_us: arrived_us, is_slow, watch, low, high, ..Self::default() };
    }

    /// Sets the usual range of single values.
    pub(crate) fn set_range(&mut self, [low, high]: [f64; 2]) {
        (self.low, self.high) = (low, high);
    }

    /// Appends the interval, without its place among the watches.
    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        let Self { start_us, sum, min, max, low, high, count, is_slow, watch: _ } = self;
        start_us.write(to);
        [*sum, *min, *max, *low, *high].write(to);
        count.write(to);
        is_slow.write(to);
    }

    /// What was written; it has no place among the watches.
    pub(crate) fn read(from: &mut &[u8]) -> Option<Self> {
        let start_us = i64::read(from)?;
        let [sum, min, max, low, high] = <[f64; 5]>::read(from)?;
        let (count, is_slow) = (u32::read(from)?, bool::read(from)?);
        Some(Self { start_us, sum, min, max, low, high, count, is_slow, watch: None })
    }

    /// What is kept of the stream. None while there is no room for it.
    pub fn watch(&self) -> Option<WatchIndex> {
        self.watch
    }

    pub(crate) fn set_watch(&mut self, watch: WatchIndex) {
        self.watch = Some(watch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_one_interval_are_one() {
        let mut fold = Fold::default();
        assert!(!fold.add(10, 100, 1.0), "the first value begins an interval");
        fold.begin(100, false);
        for (at, value) in [(100, 4.0), (105, 1.0), (109, 7.0)] {
            assert!(fold.add(10, at, value));
        }
        let folded = Folded { start_us: 100, count: 3, mean: 4.0, min: 1.0, max: 7.0 };
        assert_eq!(fold.folded(), Some(folded));
        assert!(!fold.add(10, 110, 1.0) && !fold.was_slow());
        // The clock of another worker, and a clock that was set back.
        assert!(!fold.add(10, 99, 1.0) && fold.includes(10, 99));
        assert!(!fold.add(10, 90, 1.0) && !fold.includes(10, 90));
        fold.set_range([0.0, 5.0]);
        assert!(!fold.add(10, 105, 6.0) && fold.is_outside(6.0));
        assert_eq!(fold.folded(), Some(folded), "what was refused is not in it");
    }
}
