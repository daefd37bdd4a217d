//! The daily profile of a stream: a running mean for every half-hour of the day (UTC).

use crate::normalizer::{Conversion, Normalizer};
use crate::saved::saved;

const SLOTS: usize = 48;
const SLOT_US: i64 = 24 * 60 * 60 * 1_000_000 / SLOTS as i64;
/// Smallest learning rate: a mean covers about the latest twenty values of its half-hour.
const RATE_MIN: f32 = 0.05;
/// From this count on the learning rate is the smallest, and counting ends.
const COUNT_MAX: u8 = 20;
const _: () = assert!(RATE_MIN * COUNT_MAX as f32 == 1.0);

/// The means of one stream, in its [`Normalizer`]'s coordinates.
#[derive(Clone, Debug)]
pub struct DailyProfile {
    means: [f32; SLOTS],
    counts: [u8; SLOTS],
}

saved!(DailyProfile { means, counts });

impl Default for DailyProfile {
    fn default() -> Self {
        Self { means: [0.0; SLOTS], counts: [0; SLOTS] }
    }
}

impl DailyProfile {
    /// The distance of a value from the mean of its half-hour, in the stream's own units. Then the mean takes
    /// the value, as if it were at most `step_max` away, so that a blip is no part of what is usual at its
    /// hour. None for the first value of a half-hour.
    #[inline]
    pub fn error(
        &mut self,
        normalizer: &Normalizer,
        timestamp_us: i64,
        value: f64,
        step_max: f32,
    ) -> Option<f32> {
        let slot = Self::slot(timestamp_us);
        let (mean, counts) = (&mut self.means[slot], &mut self.counts[slot]);
        let first = *counts == 0;
        *counts = (*counts + 1).min(COUNT_MAX);
        let distance = normalizer.at(value) - *mean;
        let error = distance.abs() * normalizer.unit();
        let step = if first || error <= step_max {
            distance
        } else {
            (step_max / normalizer.unit()).copysign(distance)
        };
        *mean += step / f32::from(*counts);
        (!first).then_some(error)
    }

    /// The half-hour of the day that a timestamp is in.
    #[inline]
    pub fn slot(timestamp_us: i64) -> usize {
        timestamp_us.div_euclid(SLOT_US).rem_euclid(SLOTS as i64) as usize
    }

    /// The mean of a half-hour. None before its first value.
    pub fn mean(&self, slot: usize) -> Option<f32> {
        (self.counts[slot] > 0).then(|| self.means[slot])
    }

    /// Converts to new coordinates.
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
        let (mut normalizer, mut day) = (Normalizer::default(), DailyProfile::default());
        let mut error = |hour: f64, value: f64| {
            if let Some(conversion) = normalizer.take(value) {
                day.convert(conversion);
            }
            day.error(&normalizer, (hour * 3_600e6) as i64, value, f32::INFINITY)
        };
        assert_eq!(error(-1.0, 10.0), None);
        assert_eq!(error(0.0, 50.0), None);
        assert!((error(23.2, 10.0).expect("seen before")).abs() < 1e-3);
        assert!((error(24.4, 56.0).expect("seen before") - 6.0).abs() < 1e-3);
        assert_eq!(error(24.6, 56.0), None);
        assert!((error(48.1, 53.0).expect("seen before")).abs() < 1e-3);
    }

    /// Once the stream moves at all, a blip is no part of what is usual at its hour.
    #[test]
    fn a_blip_moves_the_mean_by_no_more_than_a_step() {
        let (mut normalizer, mut day) = (Normalizer::default(), DailyProfile::default());
        let mut error = |value: f64, step_max: f32| {
            if let Some(conversion) = normalizer.take(value) {
                day.convert(conversion);
            }
            day.error(&normalizer, 0, value, step_max)
        };
        assert_eq!((error(50.0, 0.0), error(50.0, 0.0)), (None, Some(0.0)));
        assert_eq!((error(80.0, 0.0), error(50.0, 0.0)), (Some(30.0), Some(0.0)));
        assert_eq!((error(80.0, 5.0), error(50.0, 5.0)), (Some(30.0), Some(1.0)));
    }
}
