//! Histograms to samples: the rate of their count, their mean, and p50 and p99 where the buckets say so.

use smallvec::SmallVec;

use super::fault::{BodyError, PointFault};
use super::histogram_table::{Change, Increase};
use super::histograms::{HistogramPoint, Part, Temporality, quantile};
use super::labels::SeriesDescription;
use super::points::PointReader;
use super::rates::{Point, SeriesIds};
use super::series_cache::{HistogramIds, Known, Scope, SeriesKey};
use crate::registry::{Full, NameSource};
use sigmad_sample::MetricId;
use sigmad_sample::timestamp::Stamp;

/// The series of a histogram, by what follows its name.
const SUFFIXES: [&str; 4] = ["_count", "_mean", "_p50", "_p99"];
/// Those of a histogram whose count is a series of its own.
const PART_SUFFIXES: [&str; 3] = ["_mean", "_p50", "_p99"];

impl PointReader<'_> {
    /// Takes a whole histogram. `key` and `describe` are as those of [`PointReader::value`], for the name of the
    /// histogram.
    ///
    /// # Errors
    /// When the body has more samples than a queue holds; the format ends then.
    pub fn histogram(
        &mut self,
        key: &[u8],
        time: Stamp,
        histogram: &HistogramPoint<'_>,
        describe: impl FnOnce(&mut SeriesDescription) -> Result<(), PointFault>,
    ) -> Result<(), BodyError> {
        let key = SeriesKey { scope: Scope::TAGGED, bytes: key };
        self.keyed_histogram(key, time, histogram, describe)
    }

    /// The same for a key in any scope.
    pub(super) fn keyed_histogram(
        &mut self,
        key: SeriesKey<'_>,
        time: Stamp,
        histogram: &HistogramPoint<'_>,
        describe: impl FnOnce(&mut SeriesDescription) -> Result<(), PointFault>,
    ) -> Result<(), BodyError> {
        if !histogram.count.is_finite() {
            self.skip();
            return Ok(());
        }
        let known = self.known(key);
        let ids = match known {
            Some(Known::Histogram(ids)) if self.touch_histogram(ids) => ids,
            Some(Known::Dropped) => return self.leave(Known::Dropped),
            _ => match self.describe_histogram(key, describe) {
                Some(Known::Histogram(ids)) => ids,
                Some(known) => return self.leave(known),
                None => return Ok(()),
            },
        };
        let time_us = time.unwrap_or(self.admission.now_us());
        let is_exponential = histogram.buckets.is_exponential();
        histogram.buckets.write(&mut self.points.histogram.buckets);
        if histogram.temporality == Temporality::Delta {
            let points = &mut *self.points;
            std::mem::swap(&mut points.histogram.buckets, &mut points.histogram.change);
            let (count, sum) = (histogram.count, histogram.sum);
            // As it is, as other values with delta temporality.
            let increase = Increase { time_us, count, sum, seconds: 1.0 };
            return self.push_increase(ids, increase, is_exponential);
        }
        let point = Point { time_us, value: histogram.count };
        let points = &mut *self.points;
        let change = points.tables.histograms.take(
            ids.key(),
            point,
            histogram.sum,
            self.arrival,
            self.admission.registry(),
            &mut points.histogram,
        );
        self.push_change(ids, change, is_exponential)
    }

    /// Takes one part of a histogram whose buckets are series of their own.
    pub(super) fn take_part(
        &mut self,
        ids: HistogramIds,
        part: Part,
        point: Point,
    ) -> Result<(), BodyError> {
        let points = &mut *self.points;
        let change = points.tables.histograms.take_part(
            ids.key(),
            (part, point),
            self.arrival,
            self.admission.registry(),
            &mut points.histogram,
        );
        self.push_change(ids, change, false)
    }

    fn push_change(
        &mut self,
        ids: HistogramIds,
        change: Change,
        is_exponential: bool,
    ) -> Result<(), BodyError> {
        match change {
            Change::Increase(increase) => {
                return self.push_increase(ids, increase, is_exponential);
            }
            Change::First => self.points.counts.first += 1,
            Change::Reset => self.points.counts.resets += 1,
            Change::Old => self.points.counts.old += 1,
            Change::Full => self.leave_out(Full::Streams),
            Change::Partly => self.points.counts.parts += 1,
        }
        Ok(())
    }

    /// Adds the values of an increase, whose buckets are the change in the scratch.
    fn push_increase(
        &mut self,
        ids: HistogramIds,
        increase: Increase,
        is_exponential: bool,
    ) -> Result<(), BodyError> {
        let Increase { time_us, count, sum, seconds } = increase;
        let change = &self.points.histogram.change;
        let of = |q| quantile(q, change, is_exponential);
        let mean = sum.filter(|_| count > 0.0).map(|sum| sum / count);
        let values = [
            (ids.count, Some(count / seconds)),
            (ids.mean, mean),
            (ids.p50, of(0.5)),
            (ids.p99, of(0.99)),
        ];
        for (metric, value) in values {
            if let Some(value) = value.filter(|value| value.is_finite() && metric != MetricId::NONE)
            {
                let ids = SeriesIds { device: ids.device, metric };
                self.push(ids, Point { time_us, value })?;
            }
        }
        Ok(())
    }

    pub(super) fn touch_histogram(&self, ids: HistogramIds) -> bool {
        let metrics = [ids.count, ids.mean, ids.p50, ids.p99];
        metrics
            .into_iter()
            .filter(|metric| *metric != MetricId::NONE)
            .all(|metric| self.touch(SeriesIds { device: ids.device, metric }))
    }

    #[cold]
    fn describe_histogram(
        &mut self,
        key: SeriesKey<'_>,
        describe: impl FnOnce(&mut SeriesDescription) -> Result<(), PointFault>,
    ) -> Option<Known> {
        let description = &mut self.points.description;
        description.clear();
        if let Err(fault) = describe(description).and_then(|()| description.finish()) {
            self.refuse(fault);
            return None;
        }
        let known = self.admit_histogram(&SUFFIXES)?;
        self.points.cache.insert(key, known, self.arrival.now_s);
        Some(known)
    }

    /// Admits a part of a described histogram.
    #[cold]
    pub(super) fn describe_part(
        &mut self,
        key: SeriesKey<'_>,
        part: Part,
        point: Point,
    ) -> Result<(), BodyError> {
        let Some(known) = self.admit_histogram(&PART_SUFFIXES) else { return Ok(()) };
        let known = match known {
            Known::Histogram(ids) => Known::Part(ids, part),
            known => known,
        };
        self.points.cache.insert(key, known, self.arrival.now_s);
        match known {
            Known::Part(ids, part) => self.take_part(ids, part, point),
            known => self.leave(known),
        }
    }

    /// Gives the described histogram a stream for each of `suffixes` that is kept.
    fn admit_histogram(&mut self, suffixes: &[&str]) -> Option<Known> {
        let points = &mut *self.points;
        let mut names: SmallVec<[String; SUFFIXES.len()]> = SmallVec::new();
        for suffix in suffixes {
            if let Err(fault) = points.description.write(suffix, &mut points.series) {
                self.refuse(fault);
                return None;
            }
            names.push(points.series.clone());
        }
        let mut metrics: SmallVec<[(&str, Option<MetricId>); SUFFIXES.len()]> = SmallVec::new();
        let rules = &points.tables.rules;
        metrics.extend(names.iter().filter(|name| !rules.drops(name)).map(|name| (&**name, None)));
        if metrics.is_empty() {
            return Some(Known::Dropped);
        }
        let now_s = self.arrival.now_s;
        let device = points.description.device();
        let device = match self.admission.registry().admit(
            NameSource::Client,
            device,
            &mut metrics,
            now_s,
        ) {
            Ok(admitted) => admitted.map(|admitted| admitted.device),
            Err(full) => return Some(Known::Full { second: now_s, full }),
        };
        let id = |suffix: &str| {
            let at = suffixes.iter().position(|known| *known == suffix)?;
            metrics.iter().find(|(name, _)| *name == names[at])?.1
        };
        let id = |suffix| id(suffix).unwrap_or(MetricId::NONE);
        let [count, mean, p50, p99] = SUFFIXES.map(id);
        Some(Known::Histogram(HistogramIds { device, count, mean, p50, p99 }))
    }

    /// Counts a value that is not kept.
    fn leave(&mut self, known: Known) -> Result<(), BodyError> {
        match known {
            Known::Full { full, .. } => self.leave_out(full),
            _ => self.points.counts.dropped += 1,
        }
        Ok(())
    }
}
