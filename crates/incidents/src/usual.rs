//! What is usual for a stream now: the mean and the spread of its last values.
//!
//! It is what a person is shown beside a value that is not usual, and what says that a stream is back. `pager` has
//! its own past, which is longer.

use sigmad_detectors::saved::saved;

/// Smallest learning rate: ten minutes of one value in ten seconds.
const RATE_MIN: f64 = 1.0 / 64.0;
/// Half the width of the band, in mean absolute deviations: three standard deviations of a normal distribution.
const BAND: f64 = 3.76;
/// A narrower band would be rounding.
const BAND_MIN: f64 = 1e-9;

/// The course of one stream.
#[derive(Clone, Debug, Default)]
pub struct Usual {
    mean: f64,
    /// Mean absolute deviation.
    spread: f64,
    /// The smallest value so far.
    lowest: f64,
    count: u32,
}

saved!(Usual { mean, spread, lowest, count });

impl Usual {
    /// Takes a value.
    pub fn take(&mut self, value: f64) {
        if self.count == 0 {
            (self.mean, self.lowest) = (value, value);
        }
        self.count = self.count.saturating_add(1);
        let rate = (1.0 / f64::from(self.count)).max(RATE_MIN);
        let error = value - self.mean;
        self.mean += rate * error;
        self.spread += rate * (error.abs() - self.spread);
        self.lowest = self.lowest.min(value);
    }

    /// Values taken.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The mean.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The usual band. It does not go below zero for a stream that never has.
    pub fn band(&self) -> [f64; 2] {
        let half = (BAND * self.spread).max(BAND_MIN * self.mean.abs());
        [self.above_lowest(self.mean - half), self.mean + half]
    }

    /// A lower end, raised to zero for a stream that never was below it.
    pub fn above_lowest(&self, low: f64) -> f64 {
        if self.lowest >= 0.0 { low.max(0.0) } else { low }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_band_follows_and_stays_above_zero() {
        let mut usual = Usual::default();
        for i in 0..1_000 {
            usual.take(if i % 2 == 0 { 1.0 } else { 3.0 });
        }
        let [low, high] = usual.band();
        assert!((usual.mean() - 2.0).abs() < 0.1);
        assert!(low == 0.0 && (5.5..6.0).contains(&high), "{low} {high}");
        for _ in 0..1_000 {
            usual.take(-1.0);
        }
        let [low, high] = usual.band();
        assert!(low < -1.0 && high > -1.0 && high - low < 1e-3, "{low} {high}");
    }
}
