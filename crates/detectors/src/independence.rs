//! Whether the values of a stream are independent of each other.
//!
//! From one value to the next an independent stream moves as far as between any two of its values: 1.33 times the mean
//! distance from the mean for a uniform distribution, 1.41 for a normal one, up to 1.5 with long tails. Where the last value says
//! something of the next, the steps are smaller: 0.05 to 0.5 in most streams of measurements.

use crate::saved::saved;

/// Steps this many times the mean distance are those of independent values.
const RATIO_MIN: f32 = 1.2;
/// The weight of each value: the mean covers about a thousand. It starts at 0, so that its sign is right from the start.
const WEIGHT: f32 = 1e-3;

/// How much the steps of one stream exceed what they may be of values that follow from others.
#[derive(Clone, Debug, Default)]
pub struct Independence {
    /// The mean of a step, less [`RATIO_MIN`] distances from the mean value.
    excess: f32,
}

saved!(Independence { excess });

impl Independence {
    /// Adds a value: its step from the one before, and its distance from the mean of all.
    #[inline]
    pub fn add(&mut self, step: f32, distance: f32) {
        self.excess += WEIGHT * (step - RATIO_MIN * distance - self.excess);
    }

    /// Whether the values are independent of each other.
    #[inline]
    pub fn holds(&self) -> bool {
        self.excess > 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of values made of numbers from 0 to 1 in random order.
    fn holds(values: usize, value: impl Fn(usize, f64) -> f64) -> bool {
        let (mut independence, mut state, mut mean, mut last) =
            (Independence::default(), 1u32, 0.0, f64::NAN);
        for row in 0..values {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = value(row, (f64::from(state >> 8) + 0.5) / f64::from(1 << 24));
            mean += (value - mean) / (row + 1) as f64;
            if row > 0 {
                independence.add((value - last).abs() as f32, (value - mean).abs() as f32);
            }
            last = value;
        }
        independence.holds()
    }

    #[test]
    fn independent_values_of_any_distribution_are_known() {
        for values in [300, 5_000] {
            assert!(holds(values, |_, uniform| uniform));
            assert!(holds(values, |_, uniform| -uniform.ln()), "exponential");
            assert!(holds(values, |_, uniform| 1e9 + uniform.powf(-0.3)), "a tail of power 3.3");
        }
    }

    #[test]
    fn values_that_follow_from_others_are_known() {
        for values in [300, 5_000] {
            let wave = |row: usize| (row as f64 / 200.0).sin();
            assert!(!holds(values, |row, uniform| wave(row) + 0.2 * uniform));
            assert!(!holds(values, |row, uniform| row as f64 + uniform), "a counter");
            assert!(!holds(values, |_, _| 7.0), "a constant");
            assert!(!holds(values, |_, uniform| f64::from(uniform < 0.03)), "a switch");
        }
    }
}
