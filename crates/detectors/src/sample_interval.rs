//! The interval between the values of a stream: the last one, and the mean.

use crate::saved::saved;

/// Smallest learning rate: the mean covers about a thousand values.
const RATE_MIN: f32 = 1e-3;
/// The longest gap, in mean intervals; a longer one counts as this.
const GAP_MAX: f32 = 10.0;
/// Shorter intervals are below the resolution of common clocks.
const INTERVAL_MIN_S: f32 = 1e-3;
/// Longer intervals count as a day.
const INTERVAL_MAX_S: f32 = 86_400.0;

/// The sample interval of one stream, by its timestamps.
#[derive(Clone, Debug, Default)]
pub struct SampleInterval {
    last_us: i64,
    count: u32,
    /// Mean seconds between values.
    interval_s: f32,
}

saved!(SampleInterval { last_us, count, interval_s });

impl SampleInterval {
    /// Seconds since the value before: 0 for the first value and where the clock goes back; a long gap is cut
    /// to a few mean intervals.
    #[inline]
    pub fn elapsed_s(&mut self, timestamp_us: i64) -> f32 {
        let elapsed_us = timestamp_us.saturating_sub(self.last_us).max(0);
        self.last_us = timestamp_us;
        self.count = self.count.saturating_add(1);
        if self.count == 1 {
            return 0.0;
        }
        let mut elapsed_s = (elapsed_us as f32 * 1e-6).min(INTERVAL_MAX_S);
        if self.count > 2 {
            elapsed_s = elapsed_s.min(GAP_MAX * self.interval_s.max(INTERVAL_MIN_S));
        }
        let rate = (1.0 / (self.count - 1) as f32).max(RATE_MIN);
        self.interval_s += rate * (elapsed_s - self.interval_s);
        elapsed_s
    }

    /// How many times faster than one value a minute the stream is; 1 where it is slower.
    #[inline]
    pub fn faster(&self) -> f32 {
        if self.count < 2 { 1.0 } else { (60.0 / self.interval_s()).max(1.0) }
    }

    /// The mean seconds between two values.
    #[inline]
    pub fn interval_s(&self) -> f32 {
        self.interval_s.max(INTERVAL_MIN_S)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_the_mean() {
        let mut interval = SampleInterval::default();
        for minute in 0..1_000i64 {
            let elapsed = interval.elapsed_s(1_700_000_000_000_000 + minute * 60_000_000);
            assert_eq!(elapsed, if minute == 0 { 0.0 } else { 60.0 });
        }
        assert!((interval.interval_s() - 60.0).abs() < 1e-3);
        assert!(
            (interval.faster() - 1.0).abs() < 1e-3 && SampleInterval::default().faster() == 1.0
        );
        // A day's gap, and a clock set back.
        assert!((interval.elapsed_s(1_700_200_000_000_000) - 600.0).abs() < 0.1);
        assert_eq!(interval.elapsed_s(i64::MIN), 0.0);
        assert_eq!(interval.elapsed_s(i64::MIN), 0.0);
        assert!((50.0..70.0).contains(&interval.interval_s()));
    }
}
