//! The robust baseline of a stream: the median of its long past, and the median distance from it.
//!
//! The long past is 64 values, one in 32 of the last two thousand (all, while there are fewer), so that
//! neither a daily cycle nor a day of anomalies moves the medians. They are updated when the values change.

use crate::normalizer::{Conversion, Normalizer};
use crate::ranked::Ranked;
use crate::saved::saved;

/// Values that are kept.
const VALUES: usize = 64;
/// Of this many values one is kept, once there are enough.
const STRIDE_MAX: u32 = 32;
/// Kept values before the first distance.
const COUNT_MIN: usize = 30;
/// The largest distance, and that of a value that leaves a stream without spread.
const DISTANCE_MAX: f32 = 1e3;

/// The baseline of one stream, in its [`Normalizer`]'s coordinates.
#[derive(Clone, Debug, Default)]
pub struct RobustBaseline {
    values: Ranked<f32, VALUES>,
    median: f32,
    /// The median distance from the median, or the mean distance where that is 0.
    spread: f32,
}

saved!(RobustBaseline { values, median, spread });

impl RobustBaseline {
    /// The distance of a value from the median, in median distances; then the value may be kept. The
    /// normalizer has taken the value.
    #[inline]
    pub fn distance(&mut self, normalizer: &Normalizer, value: f64) -> f32 {
        let at = normalizer.at(value);
        let from_median = (at - self.median).abs();
        let distance = if self.values.count() < COUNT_MIN || from_median == 0.0 {
            0.0
        } else if self.spread > 0.0 {
            (from_median / self.spread).min(DISTANCE_MAX)
        } else {
            DISTANCE_MAX
        };
        let stride = (normalizer.count() / VALUES as u32).clamp(1, STRIDE_MAX);
        if normalizer.count().is_multiple_of(stride) {
            self.values.take(at);
            self.measure();
        }
        distance
    }

    /// Converts to new coordinates.
    pub fn convert(&mut self, conversion: Conversion) {
        self.values.convert(|c| conversion.apply(c));
        if self.values.count() > 0 {
            self.measure();
        }
    }

    fn measure(&mut self) {
        let median = self.values.median();
        self.median = median as f32;
        self.spread = self.values.median_distance(median) as f32;
        if self.spread == 0.0 {
            self.spread = self.values.mean_distance(median) as f32;
        }
    }
}
