//! The latest samples for snapshots, and from them.

use super::{LatestSamples, READINGS_KEPT, SAMPLES_KEPT};
use crate::analytics::saved::form::SavedSample;
use sigmad_sample::Sample;

impl LatestSamples {
    /// The first of those that [`LatestSamples::newest_first`] has, oldest first, from the sample with this number on; and
    /// the number after it.
    pub fn saved_from(&self, number: u64) -> Option<(u64, SavedSample)> {
        let readings_from = self.readings_total.saturating_sub(READINGS_KEPT as u64);
        let oldest = self.samples_total - self.samples_total.min(SAMPLES_KEPT as u64);
        (number.max(oldest)..self.samples_total).find_map(|number| {
            let entry = &self.samples[number as usize % SAMPLES_KEPT];
            (entry.first_reading >= readings_from).then(|| {
                let kept = self.kept(entry);
                let saved = SavedSample {
                    timestamp_us: kept.sample.timestamp_us,
                    arrived_us: kept.arrived_us,
                    device: kept.sample.device,
                    readings: kept.readings().collect(),
                };
                (number + 1, saved)
            })
        })
    }

    /// Adds one that was saved; they come oldest first.
    pub fn restore(&mut self, saved: &SavedSample) {
        let SavedSample { timestamp_us, arrived_us, device, readings } = saved;
        let sample = Sample {
            timestamp_us: *timestamp_us,
            device: *device,
            readings: readings.len() as u32,
        };
        self.keep_one(sample, readings, *arrived_us);
    }
}
