//! How fast a stream runs: the time since the value before, and the usual one.

/// The usual interval is that of the last thousand or so.
const RATE_MIN: f32 = 1e-3;
/// A gap counts for so many usual intervals, and no more.
const GAP_MAX: f32 = 10.0;
/// Clocks are not read finer than this.
const INTERVAL_MIN_S: f32 = 1e-3;
/// Slower streams count as daily.
const INTERVAL_MAX_S: f32 = 86_400.0;

/// The pace of one stream, by its timestamps.
#[derive(Clone, Debug, Default)]
pub struct SampleInterval {
    last_us: i64,
    count: u32,
    /// Mean seconds between values.
    interval_s: f32,
}

impl SampleInterval {
    /// Seconds since the value before: none before the first and when clocks go back, a long gap as a
    /// few usual intervals.
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

    /// The usual seconds between two values.
    #[inline]
    pub fn interval_s(&self) -> f32 {
        self.interval_s.max(INTERVAL_MIN_S)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_the_usual_one() {
        let mut pace = SampleInterval::default();
        for minute in 0..1_000i64 {
            let elapsed = pace.elapsed_s(1_700_000_000_000_000 + minute * 60_000_000);
            assert_eq!(elapsed, if minute == 0 { 0.0 } else { 60.0 });
        }
        assert!((pace.interval_s() - 60.0).abs() < 1e-3);
        // A day's gap, and a clock set back.
        assert!((pace.elapsed_s(1_700_200_000_000_000) - 600.0).abs() < 0.1);
        assert_eq!(pace.elapsed_s(i64::MIN), 0.0);
        assert_eq!(pace.elapsed_s(i64::MIN), 0.0);
        assert!((50.0..70.0).contains(&pace.interval_s()));
    }
}
