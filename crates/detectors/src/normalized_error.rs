//! How large an error is among the errors of its stream: over their running mean, and that over its own
//! 98 % quantile, so that 1 is what one value in fifty exceeds.

/// The running mean forgets in about a thousand errors.
const RATE_MIN: f32 = 1e-3;
/// The quantile; a stochastic approximation, which needs one float (Robbins and Monro, 1951).
const QUANTILE: f32 = 0.98;
/// The quantile's step, in parts of it.
const STEP: f32 = 0.02;
/// The step is up to so many times larger at the start.
const HASTE_MAX: f32 = 5.0;
/// Where the quantile starts, in means: near that of an exponential.
const QUANTILE_START: f32 = 3.0;
/// Errors before the quantile starts.
const COUNT_MIN: f32 = 10.0;
/// No error counts for more.
pub const RATIO_MAX: f32 = 12.0;

/// The errors of one stream.
#[derive(Clone, Debug, Default)]
pub struct NormalizedError {
    mean: f32,
    /// Of error over mean; 0 until it starts.
    quantile: f32,
    /// As a float: it only divides. Stays where one more makes no difference.
    count: f32,
}

impl NormalizedError {
    /// The error over what one in fifty exceeds, 0 to 12; then it is one of the errors.
    #[inline]
    pub fn judge(&mut self, error: f32) -> f32 {
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
            self.follow(over_mean);
        }
        ratio.min(RATIO_MAX)
    }

    #[inline]
    fn follow(&mut self, over_mean: f32) {
        if self.quantile == 0.0 {
            self.quantile = QUANTILE_START;
        }
        let step = STEP * self.quantile * (50.0 / self.count).clamp(1.0, HASTE_MAX);
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
        let mut ratio = NormalizedError::default();
        let mut state = 1u32;
        let mut above = 0;
        for i in 0..200_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let uniform = (state >> 8) as f32 / (1 << 24) as f32;
            let is_above = ratio.judge(-(1.0 - uniform).ln()) > 1.0;
            above += u32::from(is_above && i >= 100_000);
        }
        assert!((1_600..2_400).contains(&above), "{above} of 100,000");
    }

    #[test]
    fn no_errors_are_no_trouble() {
        let mut ratio = NormalizedError::default();
        for _ in 0..1_000 {
            assert_eq!(ratio.judge(0.0), 0.0);
        }
        assert!(ratio.judge(1.0) > 1.0);
    }
}
