//! The running mean and deviation of a stream, and coordinates made of them.
//!
//! Detectors keep 32-bit floats: values less an origin near the mean, in units near the deviation, so that
//! values near 1e9 with a spread of 1 keep their digits. When mean or deviation have moved far from origin
//! or unit, everything kept is converted, which is rare.

use crate::saved::saved;

/// Smallest learning rate: the mean covers about ten thousand values, a week of one a minute.
const RATE_MIN: f64 = 1e-4;
/// A deviation below this fraction of the mean is rounding, not spread.
const SPREAD_MIN: f64 = 1e-9;
/// The largest distance of the origin from the mean, in units: 2⁻²⁴ of it is far below a deviation.
const ORIGIN_UNITS_MAX: f64 = 1024.0;
/// The largest ratio of unit and deviation, either way.
const UNIT_RATIO_MAX: f64 = 256.0;

/// From old coordinates to new: `factor · c + shift`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conversion {
    factor: f64,
    shift: f64,
}

impl Conversion {
    /// Converts a coordinate.
    pub fn apply(self, coordinate: f32) -> f32 {
        (f64::from(coordinate) * self.factor + self.shift) as f32
    }

    /// Converts a difference of two coordinates.
    pub fn apply_to_difference(self, difference: f32) -> f32 {
        (f64::from(difference) * self.factor) as f32
    }
}

/// Running mean and deviation: m += a(x − m), s² = (1 − a)(s² + a(x − m)²), a = max(1/n, 1e-4).
#[derive(Clone, Debug)]
pub struct Normalizer {
    mean: f64,
    variance: f64,
    origin: f64,
    /// One over the unit, a power of two.
    per_unit: f64,
    count: u32,
    inverse: f32,
}

saved!(Normalizer { mean, variance, origin, per_unit, count, inverse });

impl Default for Normalizer {
    fn default() -> Self {
        Self { mean: 0.0, variance: 0.0, origin: 0.0, per_unit: 1.0, count: 0, inverse: 0.0 }
    }
}

impl Normalizer {
    /// How many values it has taken; stops at the largest `u32`.
    #[inline]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The mean, which includes the last value.
    #[inline]
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// One over the deviation, in units; 0 without spread.
    #[inline]
    pub fn inverse(&self) -> f32 {
        self.inverse
    }

    /// The length of one unit.
    #[inline]
    pub fn unit(&self) -> f32 {
        (1.0 / self.per_unit) as f32
    }

    /// A distance of two values, in deviations; 0 without spread.
    #[inline]
    pub fn deviations(&self, distance: f32) -> f32 {
        (f64::from(distance) * self.per_unit) as f32 * self.inverse
    }

    /// The coordinate of a value.
    #[inline]
    pub fn at(&self, value: f64) -> f32 {
        ((value - self.origin) * self.per_unit) as f32
    }

    /// Takes a value. When this moves the coordinates, the caller converts what it keeps.
    #[inline]
    pub fn take(&mut self, value: f64) -> Option<Conversion> {
        self.count = self.count.saturating_add(1);
        if self.count == 1 {
            self.mean = value;
            self.origin = value;
        }
        let rate = (1.0 / f64::from(self.count)).max(RATE_MIN);
        let distance = value - self.mean;
        self.mean += rate * distance;
        self.variance = (1.0 - rate) * (self.variance + rate * distance * distance);
        let deviation = self.variance.sqrt();
        if deviation <= SPREAD_MIN * self.mean.abs() {
            self.inverse = 0.0;
            return None;
        }
        let units = deviation * self.per_unit;
        self.inverse = (1.0 / units) as f32;
        let off = (self.mean - self.origin).abs() * self.per_unit > ORIGIN_UNITS_MAX;
        if off || !(1.0 / UNIT_RATIO_MAX..=UNIT_RATIO_MAX).contains(&units) {
            return Some(self.recentre(deviation));
        }
        None
    }

    #[cold]
    fn recentre(&mut self, deviation: f64) -> Conversion {
        // The power of two at or below the deviation: its exponent without its fraction.
        const FRACTION: u64 = (1 << 52) - 1;
        let unit = f64::from_bits(deviation.to_bits() & !FRACTION).max(f64::MIN_POSITIVE);
        let conversion = Conversion {
            factor: 1.0 / self.per_unit / unit,
            shift: (self.origin - self.mean) / unit,
        };
        self.origin = self.mean;
        self.per_unit = 1.0 / unit;
        self.inverse = (unit / deviation) as f32;
        conversion
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_keep_their_distances_through_every_conversion() {
        let mut normalizer = Normalizer::default();
        let mut kept: Vec<(f64, f32)> = Vec::new();
        let mut conversions = 0;
        for i in 0..200_000u32 {
            let noise = f64::from(i.wrapping_mul(2_654_435_761) >> 8) / f64::from(1 << 24) - 0.5;
            // From noise around 0 to much noise around a billion, then to little.
            let value = match i {
                0..50_000 => noise,
                50_000..100_000 => 1e9 + 1e3 * noise,
                _ => 1e9 + noise,
            };
            if let Some(conversion) = normalizer.take(value) {
                conversions += 1;
                for (_, at) in &mut kept {
                    *at = conversion.apply(*at);
                }
            }
            kept.push((value, normalizer.at(value)));
            if kept.len() > 4 {
                kept.remove(0);
            }
            if normalizer.inverse() > 0.0 {
                for &(value, at) in &kept {
                    let off = (at - normalizer.at(value)).abs() * normalizer.inverse();
                    assert!(off < 1e-2, "{value}: {off} deviations off after {i}");
                }
            }
        }
        assert!((1..100).contains(&conversions), "{conversions}");
    }

    #[test]
    fn without_spread_there_is_no_distance() {
        let mut normalizer = Normalizer::default();
        for _ in 0..100 {
            assert_eq!(normalizer.take(0.1), None);
            assert_eq!((normalizer.inverse(), normalizer.at(0.1)), (0.0, 0.0));
        }
        normalizer.take(0.2);
        assert!(normalizer.inverse() > 0.0);
    }
}
