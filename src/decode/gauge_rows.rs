//! Rows of a table whose numbers are gauges of one device each: nearly all that tables have.
//!
//! A column is a gauge or not, whatever the device. Where all are, and this worker knows the device with these metrics
//! ([`names`](super::names)), a row becomes a sample without a look at the cache of series. All other rows are taken value by
//! value, and say what is learned here.

use super::fault::BodyError;
use super::open_sample::OpenSample;
use super::points::PointReader;
use super::series_cache::Known;
use crate::registry::mask_of;
use sigmad_sample::timestamp::Stamp;
use sigmad_sample::{MetricId, READINGS_MAX, Reading, VALUE_MAX};

/// Gauges of tables that are remembered from body to body: those of the widest one.
const GAUGES_MAX: usize = READINGS_MAX;
/// A row in vain costs as much as several others gain. After so many tables in a row in which more than a tenth was in vain,
/// as of fleets with more devices than a worker remembers, as many as [`TABLES_PAUSED`] are taken value by value.
const POOR_TABLES_MAX: u16 = 16;
const TABLES_PAUSED: u16 = 256;

/// The columns that were gauges in earlier bodies.
#[derive(Debug, Default)]
pub(super) struct GaugeRows {
    known: Vec<(Box<[u8]>, MetricId)>,
    /// Rows of the last table that were asked for here, and those of them that were taken.
    asked: usize,
    taken: usize,
    poor_tables: u16,
    pause: u16,
}

/// A column of numbers of which none is null.
#[derive(Debug)]
pub(super) struct GaugeColumn<'b> {
    name: &'b [u8],
    values: &'b [f64],
    /// Its metric, once it is known to be a gauge; else [`MetricId::NONE`].
    metric: MetricId,
}

impl<'b> GaugeColumn<'b> {
    pub(super) fn new(name: &'b [u8], values: &'b [f64]) -> Self {
        Self { name, values, metric: MetricId::NONE }
    }

    /// Whether all values may be judged. NaN is not within the bounds.
    fn is_bounded(&self) -> bool {
        // Without an end before the last one, so that several are compared at once.
        self.values.iter().fold(true, |all, value| all & (value.abs() <= VALUE_MAX))
    }
}

/// The columns of one table.
#[derive(Debug)]
pub(super) struct GaugeTable<'g, 'b> {
    known: &'g mut GaugeRows,
    columns: Vec<GaugeColumn<'b>>,
    /// The bits of all metrics, once each is known to be a gauge and has a bit of its own.
    mask: Option<u64>,
    /// No value is out of bounds.
    is_bounded: bool,
}

impl GaugeRows {
    /// Begins a table. None while few rows are known here.
    pub(super) fn begin<'g, 'b>(
        &'g mut self,
        points: &PointReader<'_>,
        mut columns: Vec<GaugeColumn<'b>>,
    ) -> Option<GaugeTable<'g, 'b>> {
        let is_poor = self.asked - self.taken > self.asked / 10;
        (self.asked, self.taken) = (0, 0);
        self.poor_tables = if is_poor { self.poor_tables + 1 } else { 0 };
        if self.poor_tables > POOR_TABLES_MAX {
            (self.poor_tables, self.pause) = (0, TABLES_PAUSED);
        }
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        for column in &mut columns {
            let known = self.known.iter().find(|(name, _)| **name == *column.name);
            let known = known.map(|(_, metric)| *metric).filter(|id| points.touch_metric(*id));
            column.metric = known.unwrap_or(MetricId::NONE);
        }
        let mask = mask_of_all(&columns);
        let is_bounded = columns.iter().all(GaugeColumn::is_bounded);
        Some(GaugeTable { known: self, columns, mask, is_bounded })
    }

    fn remember(&mut self, name: &[u8], metric: MetricId) {
        self.known.retain(|(known, _)| **known != *name);
        if self.known.len() >= GAUGES_MAX {
            self.known.clear();
        }
        self.known.push((name.into(), metric));
    }
}

/// None for columns that do not have one bit each.
fn mask_of_all(columns: &[GaugeColumn<'_>]) -> Option<u64> {
    if !(1..=READINGS_MAX).contains(&columns.len()) {
        return None;
    }
    columns.iter().try_fold(0, |mask, column| {
        let bit = mask_of(column.metric);
        (bit != 0 && mask & bit == 0).then_some(mask | bit)
    })
}

impl GaugeTable<'_, '_> {
    /// Takes a row of a device as one sample, if all of it is known. False: then nothing has happened.
    #[inline]
    pub(super) fn take(
        &mut self,
        points: &mut PointReader<'_>,
        device: &[u8],
        time: Stamp,
        row: usize,
    ) -> Result<bool, BodyError> {
        let Some(mask) = self.mask else { return Ok(false) };
        // Adding zero turns -0 into 0.
        let reading =
            |of: &GaugeColumn<'_>| Reading { metric: of.metric, value: of.values[row] + 0.0 };
        let readings = self.columns.iter().map(reading);
        let is_bounded =
            self.is_bounded || self.columns.iter().all(|of| of.values[row].abs() <= VALUE_MAX);
        let is_taken = is_bounded && points.take_gauges(device, mask, time, readings)?;
        self.known.asked += 1;
        self.known.taken += usize::from(is_taken);
        Ok(is_taken)
    }

    /// Learns from a row that was taken value by value: its device, and what was taken before it. `known` says what is known
    /// of the series of a column.
    pub(super) fn learn(
        &mut self,
        points: &mut PointReader<'_>,
        (device, before): (&[u8], usize),
        known: impl Fn(&mut PointReader<'_>, &[u8]) -> Option<Known>,
    ) {
        if let Some(mask) = self.mask {
            if points.taken() - before == self.columns.len() {
                points.learn_device(device, mask, self.columns.len());
            }
            return;
        }
        for column in &mut self.columns {
            if column.metric == MetricId::NONE
                && let Some(Known::Gauge(ids)) = known(points, column.name)
            {
                column.metric = ids.metric;
                self.known.remember(column.name, ids.metric);
            }
        }
        self.mask = mask_of_all(&self.columns);
    }
}

impl PointReader<'_> {
    /// Whether a metric still has its name, which is in use now.
    fn touch_metric(&self, metric: MetricId) -> bool {
        self.admission.registry().touch_metric(metric, self.arrival.now_s)
    }

    /// Values taken so far.
    pub(super) fn taken(&self) -> usize {
        self.points.counts.accepted + self.open.readings()
    }

    /// Takes values of gauges as one sample, where the device is known with these metrics, which have one bit each. False
    /// otherwise: then nothing has happened.
    #[inline]
    fn take_gauges(
        &mut self,
        device: &[u8],
        mask: u64,
        time: Stamp,
        readings: impl ExactSizeIterator<Item = Reading>,
    ) -> Result<bool, BodyError> {
        let Some(device) = self.admission.known_device(device, mask) else { return Ok(false) };
        if self.open.readings() > 0 {
            let OpenSample { time_us, device: of, .. } = self.open;
            if (time_us, of) == (time.unwrap_or(self.admission.now_us()), Some(device)) {
                return Ok(false);
            }
            self.close();
        }
        self.admission.check_capacity()?;
        self.points.counts.accepted += readings.len();
        self.admission.take(time, Some(device), readings);
        Ok(true)
    }

    /// Learns the device of the open sample, if that has so many readings: of gauges with these bits.
    fn learn_device(&mut self, name: &[u8], mask: u64, readings: usize) {
        if self.open.readings() == readings
            && let Some(device) = self.open.device
        {
            self.admission.learn_device(name, device, mask);
        }
    }
}
