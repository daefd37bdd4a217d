//! What is usual at this time of the day: a running mean of every half-hour.

use crate::normalizer::{Conversion, Normalizer};

const SLOTS: usize = 48;
const SLOT_US: i64 = 24 * 60 * 60 * 1_000_000 / SLOTS as i64;
/// A half-hour's mean is that of its latest twenty values or so.
const RATE_MIN: f32 = 0.05;
/// From here on the rate is the least, and counting ends.
const VISITS_MAX: u8 = 20;
const _: () = assert!(RATE_MIN * VISITS_MAX as f32 == 1.0);

/// The means of one stream, in its [`Normalizer`]'s coordinates.
#[derive(Clone, Debug)]
pub struct DailyProfile {
    means: [f32; SLOTS],
    visits: [u8; SLOTS],
}

impl Default for DailyProfile {
    fn default() -> Self {
        Self { means: [0.0; SLOTS], visits: [0; SLOTS] }
    }
}

impl DailyProfile {
    /// How far a value lies from the mean of its half-hour (of UTC), in the stream's own units. None on
    /// the first visit.
    #[inline]
    pub fn error(&mut self, scale: &Normalizer, timestamp_us: i64, value: f64) -> Option<f32> {
        let slot = Self::slot(timestamp_us);
        let (mean, visits) = (&mut self.means[slot], &mut self.visits[slot]);
        let first = *visits == 0;
        *visits = (*visits + 1).min(VISITS_MAX);
        let apart = scale.at(value) - *mean;
        *mean += apart / f32::from(*visits);
        (!first).then(|| apart.abs() * scale.unit())
    }

    /// The half-hour of a moment.
    #[inline]
    pub fn slot(timestamp_us: i64) -> usize {
        timestamp_us.div_euclid(SLOT_US).rem_euclid(SLOTS as i64) as usize
    }

    /// The mean of a half-hour. None before the first visit.
    pub fn usual(&self, slot: usize) -> Option<f32> {
        (self.visits[slot] > 0).then(|| self.means[slot])
    }

    /// Follows the coordinates.
    pub fn convert(&mut self, conversion: Conversion) {
        for mean in &mut self.means {
            *mean = conversion.apply(*mean);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_hour_has_its_own_mean() {
        let (mut scale, mut day) = (Normalizer::default(), DailyProfile::default());
        let mut error = |hour: f64, value: f64| {
            if let Some(conversion) = scale.take(value) {
                day.convert(conversion);
            }
            day.error(&scale, (hour * 3_600e6) as i64, value)
        };
        assert_eq!(error(-1.0, 10.0), None);
        assert_eq!(error(0.0, 50.0), None);
        assert!((error(23.2, 10.0).expect("visited")).abs() < 1e-3);
        assert!((error(24.4, 56.0).expect("visited") - 6.0).abs() < 1e-3);
        assert_eq!(error(24.6, 56.0), None);
        assert!((error(48.1, 53.0).expect("visited")).abs() < 1e-3);
    }
}
