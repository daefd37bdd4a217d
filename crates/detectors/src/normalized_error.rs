//! A forecast error, normalized by the earlier errors of its stream.
//!
//! The error is divided by the running mean of errors, and the quotient by its own 98 % quantile, so that one
//! value in fifty exceeds 1. The quantile is a stochastic approximation (Robbins and Monro, *A Stochastic
//! Approximation Method*, 1951), which needs a single float.

use crate::saved::saved;

/// Smallest learning rate: the running mean covers about a thousand errors.
const RATE_MIN: f32 = 1e-3;
/// The quantile that is followed.
const QUANTILE: f32 = 0.98;
/// The step of the quantile, as a fraction of it.
const STEP: f32 = 0.02;
/// How many times larger the step is at the start.
const START_STEPS: f32 = 5.0;
/// The first value of the quantile, in means: near that of an exponential distribution.
const QUANTILE_START: f32 = 3.0;
/// Errors before the quantile is followed.
const COUNT_MIN: f32 = 10.0;
/// The largest step of a fit, in mean errors.
const STEP_MAX: f32 = 5.0;
/// The largest normalized error.
pub const RATIO_MAX: f32 = 12.0;

/// The errors of one stream.
#[derive(Clone, Debug, Default)]
pub struct NormalizedError {
    mean: f32,
    /// The quantile of error over mean; 0 until it is followed.
    quantile: f32,
    /// A float, as it only divides; it stops where adding one makes no difference.
    count: f32,
}

saved!(NormalizedError { mean, quantile, count });

impl NormalizedError {
    /// An error counts as at most this many mean errors where something is fitted to the values.
    #[inline]
    pub fn step_max(&self) -> f32 {
        STEP_MAX * self.mean
    }

    /// The normalized error, 0 to 12; then the error is one of the earlier errors.
    #[inline]
    pub fn normalize(&mut self, error: f32) -> f32 {
        debug_assert!(error >= 0.0);
        self.count += 1.0;
        let over_mean = match (self.mean > 0.0, error > 0.0) {
            (true, _) => error / self.mean,
            (false, true) => RATIO_MAX,
            (false, false) => 0.0,
        };
        let ratio = if self.quantile > 0.0 { over_mean / self.quantile } else { 0.0 };
        self.mean += (1.0 / self.count).max(RATE_MIN) * (error - self.mean);
        if self.count > COUNT_MIN {
            self.follow_quantile(over_mean);
        }
        ratio.min(RATIO_MAX)
    }

    #[inline]
    fn follow_quantile(&mut self, over_mean: f32) {
        if self.quantile == 0.0 {
            self.quantile = QUANTILE_START;
        }
        let step = STEP * self.quantile * (50.0 / self.count).clamp(1.0, START_STEPS);
        if over_mean > self.quantile {
            self.quantile += step * QUANTILE;
        } else {
            self.quantile -= step * (1.0 - QUANTILE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_error_in_fifty_is_above_one() {
        let mut errors = NormalizedError::default();
        let mut state = 1u32;
        let mut above = 0;
        for i in 0..200_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let uniform = (state >> 8) as f32 / (1 << 24) as f32;
            let is_above = errors.normalize(-(1.0 - uniform).ln()) > 1.0;
            above += u32::from(is_above && i >= 100_000);
        }
        assert!((1_600..2_400).contains(&above), "{above} of 100,000");
    }

    #[test]
    fn errors_of_zero_are_zero() {
        let mut errors = NormalizedError::default();
        for _ in 0..1_000 {
            assert_eq!(errors.normalize(0.0), 0.0);
        }
        assert!(errors.normalize(1.0) > 1.0);
    }
}
