//! One sample as a format reads it, before the registry turns its names into ids.

use smallvec::SmallVec;

use crate::registry::mask_of;
use sigmad_sample::timestamp::Stamp;
use sigmad_sample::{Batch, MetricId, READINGS_MAX, Reading};

/// A valid sample; its readings are the draft of the batch.
pub(super) struct DraftSample<'a> {
    /// None for the time of arrival.
    pub(super) timestamp_us: Stamp,
    pub(super) device: Option<&'a [u8]>,
    /// The readings whose metrics have a bit in a device's mask.
    pub(super) metrics_mask: u64,
    /// Number of readings in the draft.
    pub(super) readings: usize,
    /// All other readings: index in the draft, and name. An array would be initialized for each sample.
    pub(super) unmasked: SmallVec<[(usize, &'a [u8]); READINGS_MAX]>,
}

impl<'a> DraftSample<'a> {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self {
            timestamp_us: None,
            device: None,
            metrics_mask: 0,
            readings: 0,
            unmasked: SmallVec::new(),
        }
    }

    /// Adds a reading whose metric has a bit in the mask.
    #[inline(always)]
    pub(super) fn push_masked(&mut self, metric: MetricId, value: f64, batch: &mut Batch) {
        self.metrics_mask |= mask_of(metric);
        self.readings += 1;
        // Adding zero turns -0 into 0.
        batch.draft(Reading { metric, value: value + 0.0 });
    }

    /// Adds a reading; `known` is the metric of `name` in this worker's cache, [`MetricId::NONE`] stands for none.
    pub(super) fn push(
        &mut self,
        name: &'a [u8],
        known: Option<MetricId>,
        value: f64,
        batch: &mut Batch,
    ) {
        match known {
            Some(metric) if mask_of(metric) != 0 => self.push_masked(metric, value, batch),
            _ => {
                self.unmasked.push((self.readings, name));
                self.readings += 1;
                let metric = known.unwrap_or(MetricId::NONE);
                batch.draft(Reading { metric, value: value + 0.0 });
            }
        }
    }
}
