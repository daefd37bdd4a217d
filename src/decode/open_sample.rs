//! The sample that takes the next values of a body: values of one device and one time that follow each other.

use super::rates::SeriesIds;
use sigmad_sample::{Batch, DeviceId, MetricId, READINGS_MAX};

/// The sample whose readings are the draft of the batch.
#[derive(Debug)]
pub(super) struct OpenSample {
    pub(super) time_us: i64,
    pub(super) device: Option<DeviceId>,
    readings: usize,
    /// The greatest of its metrics: a greater one is not among them. Senders repeat the order in which metrics got
    /// their ids, so most need no search.
    greatest: MetricId,
}

impl OpenSample {
    /// One that nothing joins.
    pub(super) fn none() -> Self {
        Self { time_us: 0, device: None, readings: 0, greatest: MetricId::CPU }
    }

    /// Readings in the draft.
    #[inline]
    pub(super) fn readings(&self) -> usize {
        self.readings
    }

    /// Whether a value joins the sample, which is the draft of the batch.
    #[inline(always)]
    pub(super) fn takes(&self, ids: SeriesIds, time_us: i64, batch: &mut Batch) -> bool {
        (1..READINGS_MAX).contains(&self.readings)
            && self.time_us == time_us
            && self.device == ids.device
            && (ids.metric > self.greatest || is_new(ids.metric, batch))
    }

    /// Takes note of a reading that was drafted.
    #[inline(always)]
    pub(super) fn add(&mut self, metric: MetricId) {
        self.readings += 1;
        self.greatest = self.greatest.max(metric);
    }
}

/// Whether no reading of the draft has that metric.
#[inline(never)]
fn is_new(metric: MetricId, batch: &mut Batch) -> bool {
    batch.drafted().iter().all(|reading| reading.metric != metric)
}
