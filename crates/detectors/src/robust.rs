//! `robust`: the distance of a value from the median of the last fifty, in median absolute deviations.
//!
//! The score is the modified z-score 0.6745 |x − median| / MAD, where MAD is the median of |x − median|; above
//! 3.5 a value is an outlier (Iglewicz and Hoaglin, *How to Detect and Handle Outliers*, 1993). Where more than
//! half of the values are equal the MAD is 0, and the mean absolute deviation replaces it, with their factor
//! of 1.2533. Up to 24 outliers among fifty values move neither median, so they cannot hide one another.

use crate::detector::Detector;
use crate::ranked::Ranked;
use crate::saved::saved;
use sigmad_sample::Z_MAX;

/// Values that the next one is compared with.
const VALUES: usize = 50;
/// Values before the first score, as for `zscore`.
const COUNT_MIN: usize = 10;
/// The median absolute deviation of a normal distribution, in standard deviations.
const OF_MEDIAN: f64 = 0.6745;
/// Its mean absolute deviation, in standard deviations.
const OF_MEAN: f64 = 1.0 / 1.253_314;

/// The state of one stream.
#[derive(Clone, Debug, Default)]
pub struct Robust {
    last: Ranked<f64, VALUES>,
}

saved!(Robust { last });

impl Detector for Robust {
    const THRESHOLD: f64 = 3.5;
    const STATE_VERSION: u16 = 1;

    #[inline]
    fn observe(&mut self, _timestamp_us: i64, value: f64) -> f64 {
        let score = if self.last.count() < COUNT_MIN { 0.0 } else { self.score(value) };
        self.last.take(value);
        score
    }
}

impl Robust {
    fn score(&self, value: f64) -> f64 {
        let median = self.last.median();
        let distance = (value - median).abs();
        if distance == 0.0 {
            return 0.0;
        }
        let median_distance = self.last.median_distance(median);
        let deviation = if median_distance > 0.0 {
            median_distance / OF_MEDIAN
        } else {
            self.last.mean_distance(median) / OF_MEAN
        };
        if deviation > 0.0 { (distance / deviation).min(Z_MAX) } else { Z_MAX }
    }
}
