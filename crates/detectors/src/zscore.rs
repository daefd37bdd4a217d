//! `zscore`: the distance of a value from the mean of the window before it, in standard deviations.

use crate::window::Moments;
use sigmad_sample::{Verdict, Z_MAX};

/// Below this fraction of the mean a deviation is so small that the rounding of the mean moves the z-score by
/// more than 1e-7.
const SPREAD_MIN: f64 = 1e-9;

/// What rounding could add to a square that [`ZScore::judge_usual`] compares, and more: values so close to a bound
/// are judged with the root.
const SQUARE_MARGIN: f64 = 1e-9;
/// Squares this small have lost no digits yet: doubles end at 1e-308.
const SQUARE_MIN: f64 = 1e-280;

/// A value that is no anomaly. Its scores are a root and a division away, which take longer than all else that a window
/// needs, and most are never read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UsualValue {
    /// The value less the mean of the window before it.
    distance: f64,
    /// The variance of that window. 1 for a value that all in the window are equal to.
    variance: f64,
}

/// The verdict on the last value of a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LastVerdict {
    /// Of `zscore`.
    Usual(UsualValue),
    /// Any.
    Judged(Verdict),
}

impl LastVerdict {
    /// The verdict.
    pub fn verdict(&self) -> Verdict {
        match *self {
            Self::Usual(UsualValue { distance, variance }) => {
                let z_score = distance / variance.sqrt();
                let score = z_score.abs();
                Verdict { score, z_score, is_anomaly: false, is_zscore_anomaly: false }
            }
            Self::Judged(verdict) => verdict,
        }
    }
}

impl Default for LastVerdict {
    fn default() -> Self {
        Self::Judged(Verdict::default())
    }
}

impl From<Verdict> for LastVerdict {
    fn from(verdict: Verdict) -> Self {
        Self::Judged(verdict)
    }
}

/// The detector and its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ZScore {
    /// A value farther from the mean than this, in standard deviations, is an anomaly.
    pub threshold: f64,
    /// Values that the window must hold before a value can be an anomaly.
    pub min_samples: u32,
}

impl ZScore {
    /// [`ZScore::judge`] where that is a dozen instructions: the value is well inside, or equal to all in the window. None
    /// for any other, which may be an anomaly or not.
    #[inline(always)] // so that the sums of a window stay in registers
    pub fn judge_usual(&self, before: &Moments, value: f64) -> Option<UsualValue> {
        let (distance, variance) = (value - before.mean, before.variance);
        let limit = self.threshold.min(Z_MAX);
        let inside = limit * limit * (1.0 - SQUARE_MARGIN) * variance;
        let is_inside = distance * distance + SQUARE_MIN < inside;
        let spread_min = SPREAD_MIN * before.mean;
        if is_inside & (spread_min * spread_min * (1.0 + SQUARE_MARGIN) < variance) {
            return Some(UsualValue { distance, variance });
        }
        let is_equal = variance == 0.0 && distance == 0.0 && before.mean_rest == 0.0;
        is_equal.then_some(UsualValue { distance: 0.0, variance: 1.0 })
    }

    /// Judges a value by the window that it is about to enter.
    #[inline]
    pub fn judge(&self, before: &Moments, value: f64) -> Verdict {
        let std_dev = before.std_dev();
        let mut distance = value - before.mean;
        if std_dev < SPREAD_MIN * before.mean.abs() {
            distance -= before.mean_rest;
        }
        let (z_score, is_outside) = if before.count == 0 {
            (0.0, false)
        } else if std_dev > 0.0 {
            let z = (distance / std_dev).clamp(-Z_MAX, Z_MAX);
            (z, z.abs() > self.threshold)
        } else if distance * distance == 0.0 {
            // Equal to the values in the window, or so close that the square of the distance is 0.
            (0.0, false)
        } else {
            (Z_MAX.copysign(distance), true)
        };
        let is_anomaly = is_outside && before.count >= self.min_samples;
        Verdict { score: z_score.abs(), z_score, is_anomaly, is_zscore_anomaly: is_anomaly }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::window::Window;

    const DETECTOR: ZScore = ZScore { threshold: 2.0, min_samples: 10 };

    fn moments(count: u32, mean: f64, std_dev: f64) -> Moments {
        Moments { count, mean, variance: std_dev * std_dev, mean_rest: 0.0 }
    }

    fn judged(z_score: f64, is_anomaly: bool) -> Verdict {
        Verdict { score: z_score.abs(), z_score, is_anomaly, is_zscore_anomaly: is_anomaly }
    }

    #[test]
    fn an_outlier_is_an_anomaly() {
        let verdict = DETECTOR.judge(&moments(50, 100.0, 5.0), 115.0);
        assert_eq!(verdict, judged(3.0, true));
        let verdict = DETECTOR.judge(&moments(50, 100.0, 5.0), 90.0);
        assert_eq!(verdict, judged(-2.0, false));
    }

    #[test]
    fn few_values_are_no_anomaly() {
        assert_eq!(DETECTOR.judge(&moments(0, 0.0, 0.0), 5.0), Verdict::default());
        let verdict = DETECTOR.judge(&moments(9, 100.0, 5.0), 1e9);
        assert_eq!((verdict.z_score, verdict.is_anomaly), (Z_MAX, false));
        assert!(DETECTOR.judge(&moments(10, 100.0, 5.0), 1e9).is_anomaly);
    }

    #[test]
    fn without_spread_any_other_value_is_an_anomaly() {
        let flat = moments(50, 7.0, 0.0);
        assert_eq!(DETECTOR.judge(&flat, 7.0), Verdict::default());
        let verdict = DETECTOR.judge(&flat, 7.0f64.next_down());
        assert_eq!(verdict, judged(-Z_MAX, true));
        let deaf = ZScore { threshold: 2.0 * Z_MAX, ..DETECTOR };
        assert!(deaf.judge(&flat, 8.0).is_anomaly);
        assert!(!DETECTOR.judge(&moments(9, 7.0, 0.0), 8.0).is_anomaly);
    }

    /// SPEC section 3, word for word.
    fn naive(history: &[f64], window_size: usize, value: f64) -> (f64, bool) {
        let window = &history[history.len().saturating_sub(window_size)..];
        let n = window.len() as f64;
        if window.is_empty() {
            return (0.0, false);
        }
        let enough = window.len() >= 10;
        if window.iter().all(|&v| v == window[0]) {
            return if value == window[0] {
                (0.0, false)
            } else {
                (Z_MAX.copysign(value - window[0]), enough)
            };
        }
        let mean = window.iter().sum::<f64>() / n;
        let variance = window.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        let z = ((value - mean) / variance.sqrt()).clamp(-Z_MAX, Z_MAX);
        (z, enough && z.abs() > 2.0)
    }

    /// Values a few units in the last place apart, whose z-scores are those of the small whole numbers.
    #[test]
    fn a_spread_of_one_unit_in_the_last_place_keeps_its_digits() {
        const BASE: f64 = 4_503_599_627_370_496.0 * 0.75; // units of a half between 2^51 and 2^52
        let (mut fine, mut coarse) = (Window::default(), Window::default());
        let (mut fine_ring, mut coarse_ring) = ([0.0; 50], [0.0; 50]);
        let mut state = 1u32;
        for _ in 0..100_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let units = f64::from((state >> 28).saturating_sub(12));
            let value = (BASE + 0.5 * units) / 4.0;
            let verdict = DETECTOR.judge(&fine.moments(), value);
            let expected = DETECTOR.judge(&coarse.moments(), units);
            let off = (verdict.z_score - expected.z_score).abs();
            assert!(off <= 1e-9 * expected.z_score.abs().max(1.0), "{verdict:?} {expected:?}");
            fine.push(&mut fine_ring, value);
            coarse.push(&mut coarse_ring, units);
        }
    }

    proptest! {
        #[test]
        fn the_usual_way_says_the_same(
            count in 0..60u32,
            mean in prop_oneof![Just(0.0), -1e15..1e15f64, -1e3..1e3f64],
            std_dev in prop_oneof![Just(0.0), Just(1e-7), 0.0..1e6f64],
            distance in prop_oneof![Just(0.0), -1e3..1e3f64, -1e12..1e12f64],
            mean_rest in prop_oneof![Just(0.0), Just(1e-9)],
            threshold in prop_oneof![Just(2.0), Just(0.5), Just(2.0 * Z_MAX)],
        ) {
            let std_dev = if count == 0 { 0.0 } else { std_dev };
            let detector = ZScore { threshold, ..DETECTOR };
            let before = Moments { mean_rest, ..moments(count, mean, std_dev) };
            let value = mean + distance;
            let verdict = detector.judge(&before, value);
            if let Some(usual) = detector.judge_usual(&before, value) {
                let usual = LastVerdict::Usual(usual).verdict();
                prop_assert_eq!(usual, verdict);
                prop_assert_eq!(usual.z_score.to_bits(), verdict.z_score.to_bits());
            } else {
                let is_inside = verdict.score <= threshold.min(Z_MAX) * (1.0 - 1e-8);
                let is_wide = before.std_dev() > SPREAD_MIN * mean.abs() * (1.0 + 1e-8);
                prop_assert!(!(is_wide && is_inside), "{:?}", verdict);
            }
        }

        /// Around both bounds, where squares and roots round apart, and where squares end.
        #[test]
        fn what_is_usual_at_the_bounds_is_no_anomaly(
            mean in prop_oneof![Just(0.0), -1e15..1e15f64, -1e3..1e3f64, -1e-150..1e-150f64],
            deviation in prop_oneof![-330..10i32].prop_map(|exponent| 10f64.powi(exponent)),
            around in prop_oneof![Just(2.0), Just(1e-9), Just(1e-160), Just(Z_MAX), Just(0.5)],
            ulps in -4..4i64,
            threshold in prop_oneof![Just(2.0), Just(1e-160), Just(2.0 * Z_MAX), Just(0.0)],
            is_narrow in any::<bool>(),
        ) {
            let detector = ZScore { threshold, ..DETECTOR };
            let step = |value: f64| f64::from_bits((value.to_bits() as i64 + ulps).max(0) as u64);
            let std_dev = if is_narrow { step(SPREAD_MIN * mean.abs()) } else { deviation };
            let before = moments(50, mean, std_dev);
            let value = mean + step(around * std_dev);
            if let Some(usual) = detector.judge_usual(&before, value) {
                let usual = LastVerdict::Usual(usual).verdict();
                prop_assert_eq!(usual, detector.judge(&before, value));
            }
        }

        #[test]
        fn verdicts_agree_with_the_contract(
            values in prop::collection::vec(
                prop_oneof![6 => 90.0..110.0f64, 3 => Just(100.0), 1 => 0.0..1e6f64], 1..300),
            constant in 0..80usize,
        ) {
            let mut window = Window::default();
            let mut ring = [0.0; 50];
            let mut history = Vec::new();
            for value in std::iter::repeat_n(42.5, constant).chain(values) {
                let verdict = DETECTOR.judge(&window.moments(), value);
                let (z, is_anomaly) = naive(&history, 50, value);
                prop_assert!((verdict.z_score - z).abs() <= 1e-7 * z.abs().max(1.0), "{verdict:?} {z}");
                // A z within rounding of the threshold may fall on either side.
                prop_assert!(verdict.is_anomaly == is_anomaly || (z.abs() - 2.0).abs() < 1e-6);
                window.push(&mut ring, value);
                history.push(value);
            }
        }
    }
}
