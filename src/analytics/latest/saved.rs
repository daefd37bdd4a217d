//! The latest samples for snapshots, and from them.

use super::{LatestSamples, READINGS_KEPT, SAMPLES_KEPT};
use crate::analytics::saved::form::SavedSample;
use sigmad_sample::Sample;

impl LatestSamples {
    /// Those that [`LatestSamples::newest_first`] has, oldest first.
    pub fn saved(&self) -> impl Iterator<Item = SavedSample> {
        let readings_from = self.readings_total.saturating_sub(READINGS_KEPT as u64);
        let kept = self.samples_total.min(SAMPLES_KEPT as u64);
        let oldest_first = (self.samples_total - kept)..self.samples_total;
        oldest_first
            .map(|at| &self.samples[at as usize % SAMPLES_KEPT])
            .filter(move |entry| entry.first_reading >= readings_from)
            .map(|entry| {
                let kept = self.kept(entry);
                SavedSample {
                    timestamp_us: kept.sample.timestamp_us,
                    arrived_us: kept.arrived_us,
                    device: kept.sample.device,
                    readings: kept.readings().collect(),
                }
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
