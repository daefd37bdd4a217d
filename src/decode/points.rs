//! Points to samples: what every format but the JSON of samples gives its values to.
//!
//! A point is one value of a series at a time. The bytes by which the sender names the series lead to its ids in this
//! worker's cache ([`super::series_cache`]); only a new one is described, by its name and labels
//! ([`SeriesDescription`]). Values of one device and one time that follow each other join one sample.
//!
//! A point that is wrong is refused alone, and one without room is left out. Both are counted, as is every value that
//! gives none: see [`ValueCounts`].

use std::sync::Arc;

use super::admission::{BodyAdmission, Decoded};
use super::fault::{BodyError, SampleFault};
use super::histogram_table::HistogramScratch;
use super::histograms::Part;
use super::labels::{SeriesDescription, ValueKind};
use super::open_sample::OpenSample;
use super::rates::{Arrival, BodyIds, Point, Rate, RateSlot, SeriesIds};
use super::rules::SeriesRules;
use super::series_cache::{EntryIndex, Known, Scope, SeriesCache, SeriesKey};
use super::tables::PointTables;
use super::values::ValueCounts;
use crate::registry::{Full, NameSource};
use sigmad_sample::timestamp::Stamp;
use sigmad_sample::{Reading, VALUE_MAX};

pub use super::fault::PointFault;

/// What one worker keeps from body to body.
#[derive(Debug)]
pub(super) struct Points {
    pub(super) tables: Arc<PointTables>,
    bodies: BodyIds,
    pub(super) cache: SeriesCache,
    /// The evictions of the registry that the cache knows of.
    evictions: u64,
    pub(super) description: SeriesDescription,
    pub(super) series: String,
    pub(super) histogram: HistogramScratch,
    pub(super) counts: ValueCounts,
}

impl Points {
    pub(super) fn new(tables: Arc<PointTables>) -> Self {
        Self {
            bodies: tables.rates.bodies(),
            cache: SeriesCache::default(),
            evictions: 0,
            description: SeriesDescription::new(tables.clone()),
            series: String::new(),
            histogram: HistogramScratch::default(),
            counts: ValueCounts::default(),
            tables,
        }
    }

    /// The rules for series.
    #[inline]
    pub(super) fn rules(&self) -> &SeriesRules {
        &self.tables.rules
    }

    /// The values of the last body.
    pub(super) fn counts(&self) -> ValueCounts {
        self.counts
    }
}

/// Takes the points of one body.
pub struct PointReader<'p> {
    pub(super) admission: BodyAdmission<'p>,
    pub(super) points: &'p mut Points,
    pub(super) arrival: Arrival,
    /// The point that is read, for its refusal.
    index: usize,
    pub(super) open: OpenSample,
}

impl<'p> PointReader<'p> {
    pub(super) fn new(admission: BodyAdmission<'p>, points: &'p mut Points) -> Self {
        let registry = admission.registry();
        if points.evictions != registry.metric_evictions() {
            points.evictions = registry.metric_evictions();
            points.cache.clear();
        }
        points.counts = ValueCounts::default();
        let arrival = Arrival { body: points.bodies.next(), now_s: admission.now_s() };
        Self { admission, points, arrival, index: 0, open: OpenSample::none() }
    }
}

impl PointReader<'_> {
    /// What all workers share.
    pub(super) fn tables(&self) -> Arc<PointTables> {
        self.points.tables.clone()
    }

    /// The rules for series.
    pub(super) fn rules(&self) -> &SeriesRules {
        &self.points.tables.rules
    }

    /// The index of the point that follows, from 0, for its refusal: the line, or the place in the body.
    #[inline]
    pub fn set_index(&mut self, index: usize) {
        self.index = index;
    }

    /// Takes one value of a series. The same `key` means the same series, in every body of this format: a format puts
    /// a byte of its own in front. `describe` runs only when the key is not in the cache.
    ///
    /// # Errors
    /// When the body has more samples than a queue holds; the format ends then.
    #[inline]
    pub fn value(
        &mut self,
        key: &[u8],
        time: Stamp,
        value: f64,
        describe: impl FnOnce(&mut SeriesDescription) -> Result<(), PointFault>,
    ) -> Result<(), BodyError> {
        let key = SeriesKey { scope: Scope::TAGGED, bytes: key };
        self.keyed_value(key, time, value, describe).map(drop)
    }

    /// As [`PointReader::value`], for a key in any scope. Returns its place in the cache, if it is there.
    #[inline(always)]
    pub(super) fn keyed_value(
        &mut self,
        key: SeriesKey<'_>,
        time: Stamp,
        value: f64,
        describe: impl FnOnce(&mut SeriesDescription) -> Result<(), PointFault>,
    ) -> Result<Option<EntryIndex>, BodyError> {
        let found = self.points.cache.find(key);
        if let Some(index) = found
            && self.value_at(index, time, value)?
        {
            return Ok(found);
        }
        if !value.is_finite() {
            self.skip();
            return Ok(None);
        }
        let point = self.point(time, value);
        self.describe_and_take(key, point, describe)?;
        Ok(self.points.cache.find(key))
    }

    /// Takes one value of a series by its place in the cache. False if that does not say enough: then nothing has
    /// happened, and the value is to be given with its key.
    #[inline(always)]
    pub(super) fn value_at(
        &mut self,
        index: EntryIndex,
        time: Stamp,
        value: f64,
    ) -> Result<bool, BodyError> {
        let point = self.point(time, value);
        let (_, batch) = self.admission.draft_parts();
        // Nearly every value: of a gauge, and of the sample of the value before. NaN is not within the bounds.
        if value.abs() <= VALUE_MAX
            && let Some(&mut Known::Gauge(ids)) = self.points.cache.known(index)
            && self.open.takes(ids, point.time_us, batch)
            && self.admission.registry().touch_metric(ids.metric, self.arrival.now_s)
        {
            self.points.cache.found(index);
            self.draft(ids, point);
            return Ok(true);
        }
        self.value_apart(index, point)
    }

    /// The same for any value.
    #[inline(never)]
    fn value_apart(&mut self, index: EntryIndex, point: Point) -> Result<bool, BodyError> {
        if !point.value.is_finite() {
            self.skip();
            return Ok(true);
        }
        self.points.cache.found(index);
        self.take_known(index, point)
    }

    /// The cache of series, in which formats look for what they expect next.
    #[inline]
    pub(super) fn cache(&self) -> &SeriesCache {
        &self.points.cache
    }

    /// The place of what some series have in common. None if the cache is full.
    #[inline]
    pub(super) fn common(&mut self, key: SeriesKey<'_>) -> Option<EntryIndex> {
        let cache = &mut self.points.cache;
        cache.find(key).or_else(|| cache.insert(key, Known::Common, self.arrival.now_s))
    }

    #[inline]
    fn point(&self, time: Stamp, value: f64) -> Point {
        Point { time_us: time.unwrap_or(self.admission.now_us()), value }
    }

    /// Takes a value of a known series. False if it must be described again; then nothing has happened.
    fn take_known(&mut self, index: EntryIndex, point: Point) -> Result<bool, BodyError> {
        match self.points.cache.known(index) {
            Some(&mut Known::Gauge(ids)) => {
                let is_current = self.touch(ids);
                if is_current {
                    self.push(ids, point)?;
                }
                Ok(is_current)
            }
            Some(&mut Known::Counter(ids, slot)) => {
                let is_current = self.touch(ids);
                if is_current {
                    let mut new_slot = slot;
                    self.count(ids, &mut new_slot, point)?;
                    if new_slot != slot
                        && let Some(known) = self.points.cache.known(index)
                    {
                        *known = Known::Counter(ids, new_slot);
                    }
                }
                Ok(is_current)
            }
            Some(&mut known) => self.take_other(known, point),
            None => Ok(false),
        }
    }

    /// Takes a value of what is known, and no series of its own.
    #[inline(never)]
    fn take_other(&mut self, known: Known, point: Point) -> Result<bool, BodyError> {
        match known {
            Known::Dropped => self.points.counts.dropped += 1,
            Known::Full { second, full }
                if second == self.arrival.now_s && self.admission.is_list_full() =>
            {
                self.leave_out(full);
            }
            Known::Part(ids, part) if self.touch_histogram(ids) => {
                self.take_part(ids, part, point)?;
            }
            Known::Gauge(_)
            | Known::Counter(..)
            | Known::Full { .. }
            | Known::Histogram(_)
            | Known::Common
            | Known::Part(..) => return Ok(false),
        }
        Ok(true)
    }

    /// Refuses a point that cannot be read; the others are kept.
    #[cold]
    pub fn refuse(&mut self, fault: PointFault) {
        self.admission.refuse_point(self.index, SampleFault::Point(fault));
    }

    /// Counts a value that says nothing: NaN, an infinity, a staleness marker, no recorded value.
    #[inline]
    pub fn skip(&mut self) {
        self.points.counts.skipped += 1;
    }

    /// Values and points so far that are refused, or left out for want of room.
    #[inline]
    pub(super) fn lost(&self) -> usize {
        self.admission.invalid() + self.points.counts.left_out()
    }

    /// Ends the body; `read` is the result of its format. After an error the batch is as before. A body without
    /// points is no error.
    ///
    /// # Errors
    /// That of `read`.
    pub fn end(mut self, read: Result<(), BodyError>) -> Result<Decoded, BodyError> {
        if read.is_ok() {
            self.close();
        } else {
            self.points.counts = ValueCounts::default();
        }
        let left_out = self.points.counts.left_out();
        self.admission.end_points(read, left_out)
    }

    /// What the cache knows of a key.
    pub(super) fn known(&mut self, key: SeriesKey<'_>) -> Option<Known> {
        let cache = &mut self.points.cache;
        let index = cache.find(key)?;
        cache.known(index).copied()
    }

    /// Whether the ids are still those of the series. The device of the open sample was asked in this second.
    #[inline]
    pub(super) fn touch(&self, ids: SeriesIds) -> bool {
        let registry = self.admission.registry();
        let now_s = self.arrival.now_s;
        registry.touch_metric(ids.metric, now_s)
            && (self.open.readings() > 0 && self.open.device == ids.device
                || ids.device.is_none_or(|device| registry.touch(device, now_s)))
    }

    /// Takes a value of a counter.
    #[inline(never)]
    fn count(
        &mut self,
        ids: SeriesIds,
        slot: &mut RateSlot,
        point: Point,
    ) -> Result<(), BodyError> {
        let rates = &self.points.tables.rates;
        match rates.rate(slot, ids, point, self.arrival, self.admission.registry()) {
            Rate::PerSecond(rate) => return self.push(ids, Point { value: rate, ..point }),
            Rate::First => self.points.counts.first += 1,
            Rate::Reset => self.points.counts.resets += 1,
            Rate::Old => self.points.counts.old += 1,
            Rate::Full => self.leave_out(Full::Streams),
        }
        Ok(())
    }

    /// Adds a value to the open sample, or opens the next one.
    pub(super) fn push(&mut self, ids: SeriesIds, point: Point) -> Result<(), BodyError> {
        let (_, batch) = self.admission.draft_parts();
        if point.value.abs() > VALUE_MAX || !self.open.takes(ids, point.time_us, batch) {
            return self.push_apart(ids, point);
        }
        self.draft(ids, point);
        Ok(())
    }

    /// Takes a value that does not join the open sample.
    #[inline(never)]
    fn push_apart(&mut self, ids: SeriesIds, point: Point) -> Result<(), BodyError> {
        if point.value.abs() > VALUE_MAX {
            self.skip();
            return Ok(());
        }
        self.close();
        self.admission.check_capacity()?;
        self.open.time_us = point.time_us;
        self.open.device = ids.device;
        self.draft(ids, point);
        Ok(())
    }

    #[inline(always)]
    fn draft(&mut self, ids: SeriesIds, point: Point) {
        let (_, batch) = self.admission.draft_parts();
        // Adding zero turns -0 into 0.
        batch.draft(Reading { metric: ids.metric, value: point.value + 0.0 });
        self.open.add(ids.metric);
    }

    /// Completes the open sample.
    #[inline]
    pub(super) fn close(&mut self) {
        let OpenSample { time_us, device, .. } = self.open;
        let readings = std::mem::replace(&mut self.open, OpenSample::none()).readings();
        if readings > 0 {
            self.admission.complete(time_us, device);
            self.points.counts.accepted += readings;
        }
    }

    /// Takes a value whose series is not in the cache.
    #[cold]
    fn describe_and_take(
        &mut self,
        key: SeriesKey<'_>,
        point: Point,
        describe: impl FnOnce(&mut SeriesDescription) -> Result<(), PointFault>,
    ) -> Result<(), BodyError> {
        let Points { description, .. } = &mut *self.points;
        description.clear();
        let described = describe(description);
        let bucket = description.take_bucket();
        if let Err(fault) = described.and_then(|()| description.finish()) {
            self.refuse(fault);
            return Ok(());
        }
        if let Some(bound) = bucket {
            let histogram = self.histogram_hash();
            self.points.tables.histograms.add_classic(histogram);
            return self.describe_part(key, Part::Bucket(bound), point);
        }
        if self.is_of_histogram("_sum") {
            self.points.description.strip("_sum");
            return self.describe_part(key, Part::Sum, point);
        }
        let is_count = self.is_of_histogram("_count");
        self.describe_value(key, point, is_count)
    }

    /// Whether the described series is that part of a histogram whose buckets have come.
    fn is_of_histogram(&mut self, suffix: &str) -> bool {
        let description = &mut self.points.description;
        if description.value_kind() == ValueKind::Gauge || !description.strip(suffix) {
            return false;
        }
        let histogram = self.histogram_hash();
        self.points.description.unstrip(suffix);
        self.points.tables.histograms.is_classic(histogram)
    }

    /// The hash of the device and the series that are described.
    fn histogram_hash(&mut self) -> u64 {
        let Points { description, series, .. } = &mut *self.points;
        let registry = self.admission.registry();
        let device = description.device().unwrap_or_default();
        let device = registry.hash_name(device.as_bytes());
        // A series that is too long has no histogram either.
        if description.write("", series).is_err() {
            series.clear();
        }
        device.rotate_left(1) ^ registry.hash_name(series.as_bytes())
    }

    /// Takes a value whose series is described; if it is the count of a histogram, it is a counter.
    fn describe_value(
        &mut self,
        key: SeriesKey<'_>,
        point: Point,
        is_count: bool,
    ) -> Result<(), BodyError> {
        let Points { tables, description, series, cache, .. } = &mut *self.points;
        if let Err(fault) = description.write("", series) {
            self.refuse(fault);
            return Ok(());
        }
        let now_s = self.arrival.now_s;
        if tables.rules.drops(series) {
            cache.insert(key, Known::Dropped, now_s);
            self.points.counts.dropped += 1;
            return Ok(());
        }
        let is_counter = match description.value_kind() {
            ValueKind::Gauge => false,
            ValueKind::Counter => true,
            ValueKind::Untyped => is_count || tables.rules.is_counter(description.metric()),
        };
        if !is_counter && point.value.abs() > VALUE_MAX {
            // Before it takes a name: some gauges are never within the bounds.
            self.skip();
            return Ok(());
        }
        let mut metrics = [(&**series, None)];
        let device = description.device();
        let admitted =
            self.admission.registry().admit(NameSource::Client, device, &mut metrics, now_s);
        let known = match (admitted, metrics[0].1) {
            (Ok(admitted), Some(metric)) => {
                let ids = SeriesIds { device: admitted.map(|admitted| admitted.device), metric };
                if is_counter {
                    Known::Counter(ids, RateSlot::default())
                } else {
                    Known::Gauge(ids)
                }
            }
            (Err(Full::Streams), _) => Known::Full { second: now_s, full: Full::Streams },
            (Err(Full::Metrics), _) | (Ok(_), None) => {
                Known::Full { second: now_s, full: Full::Metrics }
            }
        };
        cache.insert(key, known, now_s);
        match known {
            Known::Gauge(ids) => self.push(ids, point),
            Known::Counter(ids, mut slot) => self.count(ids, &mut slot, point),
            Known::Full { full, .. } => {
                self.leave_out(full);
                Ok(())
            }
            Known::Dropped | Known::Histogram(_) | Known::Part(..) | Known::Common => Ok(()),
        }
    }

    /// Counts a value for which there is no room.
    #[cold]
    pub(super) fn leave_out(&mut self, full: Full) {
        match full {
            Full::Streams => self.points.counts.unroomed += 1,
            Full::Metrics => self.points.counts.unnamed += 1,
        }
        self.admission.leave_out(self.index, full, &self.points.series);
    }
}

#[cfg(test)]
mod tests;
