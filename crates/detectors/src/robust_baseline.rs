//! How far a value lies from where the stream has been for long, by median and median distance.
//!
//! The long past is 64 values, one in 32 of the last two thousand (all, while there are fewer), so that
//! neither a day's wave nor a day's trouble moves the medians. They are found when the sample changes.

use crate::normalizer::{Conversion, Normalizer};
use crate::ranked::Ranked;

/// Values in the sample.
const SAMPLE: usize = 64;
/// One value in so many is taken, once there are enough.
const STRIDE_MAX: u32 = 32;
/// Before so many there is no level.
const COUNT_MIN: usize = 30;
/// What a stream without any spread is left by.
const DISTANCE_MAX: f32 = 1e3;

/// The level of one stream, in its [`Normalizer`]'s coordinates.
#[derive(Clone, Debug, Default)]
pub struct RobustBaseline {
    sample: Ranked<f32, SAMPLE>,
    median: f32,
    /// Median distance from it, or the mean one where that is 0.
    spread: f32,
}

impl RobustBaseline {
    /// The distance from the level in median distances; then the value may enter the sample. The scale
    /// has taken the value.
    #[inline]
    pub fn distance(&mut self, scale: &Normalizer, value: f64) -> f32 {
        let at = scale.at(value);
        let apart = (at - self.median).abs();
        let distance = if self.sample.count() < COUNT_MIN || apart == 0.0 {
            0.0
        } else if self.spread > 0.0 {
            (apart / self.spread).min(DISTANCE_MAX)
        } else {
            DISTANCE_MAX
        };
        let stride = (scale.count() / SAMPLE as u32).clamp(1, STRIDE_MAX);
        if scale.count().is_multiple_of(stride) {
            self.sample.take(at);
            self.measure();
        }
        distance
    }

    /// Follows the coordinates.
    pub fn convert(&mut self, conversion: Conversion) {
        self.sample.convert(|c| conversion.apply(c));
        if self.sample.count() > 0 {
            self.measure();
        }
    }

    fn measure(&mut self) {
        let median = self.sample.median();
        self.median = median as f32;
        self.spread = self.sample.median_distance(median) as f32;
        if self.spread == 0.0 {
            self.spread = self.sample.mean_distance(median) as f32;
        }
    }
}
