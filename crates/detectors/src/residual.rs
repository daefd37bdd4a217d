//! `residual`: how badly a value was foretold, by the latest values or by the time of the day.
//!
//! Two forecasts, each with its error measured by the errors so far ([`NormalizedError`]: 1 is what one in fifty
//! exceeds): the moving average e ← e + 0.3(x − e) (Holt, 1957), and the mean of the half-hour of the
//! day ([`DailyProfile`]). The score is the larger of the two, 0 to 12.

use crate::Detector;
use crate::daily_profile::DailyProfile;
use crate::normalized_error::NormalizedError;
use crate::normalizer::Normalizer;

/// How far the moving average goes towards each value.
const FOLLOW: f64 = 0.3;
/// Errors before any of them is strange.
const COUNT_MIN: u32 = 50;

/// One stream.
#[derive(Clone, Debug, Default)]
pub struct Residual {
    scale: Normalizer,
    average: f64,
    steps: NormalizedError,
    day: DailyProfile,
    days: NormalizedError,
}

impl Detector for Residual {
    const THRESHOLD: f64 = 3.0;

    #[inline]
    fn observe(&mut self, timestamp_us: i64, value: f64) -> f64 {
        if let Some(conversion) = self.scale.take(value) {
            self.day.convert(conversion);
        }
        if self.scale.count() == 1 {
            self.average = value;
        }
        let step = self.steps.judge((value - self.average).abs() as f32);
        self.average += FOLLOW * (value - self.average);
        let error = self.day.error(&self.scale, timestamp_us, value);
        let day = error.map_or(0.0, |error| self.days.judge(error));
        if self.scale.count() <= COUNT_MIN { 0.0 } else { f64::from(step.max(day)) }
    }
}
