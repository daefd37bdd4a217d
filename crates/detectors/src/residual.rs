//! `residual`: the error of two forecasts, by the latest values and by the time of the day.
//!
//! The forecasts are the exponential moving average e ← e + 0.3(x − e) (Holt, *Forecasting Seasonals and Trends
//! by Exponentially Weighted Moving Averages*, 1957), and the mean of the half-hour of the day
//! ([`DailyProfile`]). Each error is normalized by the errors so far ([`NormalizedError`]: one in fifty exceeds
//! 1). The score is the larger of the two, 0 to 12.

use crate::daily_profile::DailyProfile;
use crate::detector::Detector;
use crate::normalized_error::NormalizedError;
use crate::normalizer::Normalizer;
use crate::saved::saved;

/// The weight of each value in the moving average.
const AVERAGE_WEIGHT: f64 = 0.3;
/// Values before the first score.
const COUNT_MIN: u32 = 50;

/// The state of one stream.
#[derive(Clone, Debug, Default)]
pub struct Residual {
    normalizer: Normalizer,
    average: f64,
    average_errors: NormalizedError,
    profile: DailyProfile,
    profile_errors: NormalizedError,
}

saved!(Residual { normalizer, average, average_errors, profile, profile_errors });

impl Detector for Residual {
    const THRESHOLD: f64 = 3.0;
    const STATE_VERSION: u16 = 1;

    #[inline]
    fn observe(&mut self, timestamp_us: i64, value: f64) -> f64 {
        if let Some(conversion) = self.normalizer.take(value) {
            self.profile.convert(conversion);
        }
        if self.normalizer.count() == 1 {
            self.average = value;
        }
        let average_error = self.average_errors.normalize((value - self.average).abs() as f32);
        self.average += AVERAGE_WEIGHT * (value - self.average);
        let step_max = self.profile_errors.step_max();
        let error = self.profile.error(&self.normalizer, timestamp_us, value, step_max);
        let profile_error = error.map_or(0.0, |error| self.profile_errors.normalize(error));
        if self.normalizer.count() <= COUNT_MIN {
            0.0
        } else {
            f64::from(average_error.max(profile_error))
        }
    }
}
