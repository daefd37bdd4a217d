//! The detectors as the server runs them, over a whole series.

use crate::analytics::detectors::novelty::Novelty;
use crate::analytics::detectors::pager::Pager;
use crate::analytics::detectors::residual::Residual;
use crate::analytics::detectors::robust::Robust;
use crate::analytics::detectors::zscore::ZScore;
use crate::analytics::detectors::{Detector, Kind};
use crate::analytics::window::Window;
use crate::eval::series::Series;

/// The window and minimum of the contract.
const WINDOW: usize = 50;
const MIN_SAMPLES: u32 = 10;
/// Its threshold.
pub const Z_THRESHOLD: f64 = 2.0;

impl Kind {
    /// Whether a score is an anomaly by a threshold: at it, but |z| must be past it.
    pub fn is_anomaly(self, score: f64, threshold: f64) -> bool {
        match self {
            Self::Zscore => score > threshold,
            Self::Robust | Self::Residual | Self::Novelty | Self::Pager => score >= threshold,
        }
    }

    /// One score for each value.
    pub fn scores(self, series: &Series) -> Vec<f64> {
        match self {
            Self::Zscore => z_scores(series),
            Self::Robust => observed::<Robust>(series),
            Self::Residual => observed::<Residual>(series),
            Self::Novelty => observed::<Novelty>(series),
            Self::Pager => observed::<Pager>(series),
        }
    }
}

fn observed<D: Detector>(series: &Series) -> Vec<f64> {
    let mut detector = D::default();
    let rows = series.timestamps_us.iter().zip(&series.values);
    rows.map(|(&at_us, &value)| detector.observe(at_us, value)).collect()
}

fn z_scores(series: &Series) -> Vec<f64> {
    let detector = ZScore { threshold: Z_THRESHOLD, min_samples: MIN_SAMPLES };
    let (mut window, mut ring) = (Window::default(), [0.0; WINDOW]);
    let mut judge = |value| {
        let verdict = detector.judge(&window.moments(), value);
        window.push(&mut ring, value);
        verdict.score
    };
    series.values.iter().map(|&value| judge(value)).collect()
}
