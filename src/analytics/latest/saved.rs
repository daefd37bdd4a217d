//! The latest samples for snapshots, and from them.

use super::LatestSamples;
use crate::analytics::saved::form::SavedSample;
use sigmad_sample::Sample;

impl LatestSamples {
    /// The first of those that [`LatestSamples::newest_first`] has, oldest first, from the sample with this number on; and
    /// the number after it.
    pub fn saved_from(&self, number: u64) -> Option<(u64, SavedSample)> {
        let readings_from = self.readings.numbers().start;
        let numbers = self.samples.numbers();
        (number.max(numbers.start)..numbers.end).find_map(|number| {
            let (sample, arrived_us, first_reading) = self.entry(number);
            (first_reading >= readings_from).then(|| {
                let kept = self.kept(sample, arrived_us, first_reading);
                let saved = SavedSample {
                    timestamp_us: sample.timestamp_us,
                    arrived_us,
                    device: sample.device,
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
        self.keep_all(&[sample], readings, *arrived_us);
    }
}
