//! Judging samples from before the start.
//!
//! Windows, folded values and cadences are then as if the samples had been heard; nothing is flagged, told or counted.
//! Of each device and stream the last sample alone counts: a device without any would begin to learn its cadence anew.

use sigmad_sample::Batch;

use crate::analytics::anomalies::{AnomalyLog, AnomalyNumbers};
use crate::analytics::judge::Analytics;

impl Analytics {
    /// Judges batches with their arrivals, in order. Called before the first sample that counts, and does nothing where
    /// a snapshot was restored: that is the past. True if it was learned.
    pub fn learn(&mut self, past: impl Iterator<Item = (i64, Batch)>) -> bool {
        if self.samples > 0 || self.fleet.samples > 0 {
            return false;
        }
        // With numbers of its own: they would be missing among those that are shown.
        let log =
            std::mem::replace(&mut self.anomalies, AnomalyLog::new(AnomalyNumbers::default()));
        for (arrived_us, batch) in past {
            self.judge(&batch, arrived_us);
        }
        self.anomalies = log;
        self.metrics.count_anew();
        self.devices.count_anew();
        self.fleet.count_anew();
        self.samples = self.devices.occupied() as u64;
        // A fleet with a past that was made up breaks on purpose, again and again: soon that would be expected of all.
        if let Some(silence) = &mut self.silence {
            silence.close_returns();
        }
        // What began in the past is not told; what ends of it has no incident.
        self.pass_events(drop);
        true
    }
}
