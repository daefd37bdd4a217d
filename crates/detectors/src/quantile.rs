//! Order statistics of the values of a window.
//!
//! A quantile is interpolated linearly between the closest ranks: type 7 of Hyndman and Fan,
//! *Sample WindowQuantiles in Statistical Packages*, 1996; the default of R, NumPy and Excel.

/// The order statistics that reports show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowQuantiles {
    /// Smallest value.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest value.
    pub max: f64,
}

impl WindowQuantiles {
    /// Sorts a copy of the values. None without values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let at = |q| quantile(&sorted, q);
        Some(Self { min, p50: at(0.5), p95: at(0.95), p99: at(0.99), max })
    }
}

/// The value below which a fraction `q` of the `sorted` values are.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (sorted.len() - 1) as f64 * q;
    let below = sorted[rank.floor() as usize];
    let above = sorted[rank.ceil() as usize];
    // In this order two equal neighbours give exactly themselves.
    below + (above - below) * rank.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(WindowQuantiles::of(&[]), None);
        let one = WindowQuantiles::of(&[3.5]).expect("a value");
        assert_eq!(one, WindowQuantiles { min: 3.5, p50: 3.5, p95: 3.5, p99: 3.5, max: 3.5 });
        // numpy.percentile([15, 20, 35, 40, 50], …)
        let five = WindowQuantiles::of(&[35.0, 15.0, 50.0, 20.0, 40.0]).expect("values");
        assert_eq!((five.min, five.p50, five.max), (15.0, 35.0, 50.0));
        assert!((five.p95 - 48.0).abs() < 1e-12 && (five.p99 - 49.6).abs() < 1e-12);
        let hundred: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        let hundred = WindowQuantiles::of(&hundred).expect("values");
        assert_eq!((hundred.p50, hundred.p95, hundred.p99), (50.0, 95.0, 99.0));
    }
}
