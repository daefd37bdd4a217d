//! The detectors as the server runs them, over a whole series.

use crate::series::Series;
use sigmad_detectors::novelty::Novelty;
use sigmad_detectors::pager::Pager;
use sigmad_detectors::residual::Residual;
use sigmad_detectors::robust::Robust;
use sigmad_detectors::window::Window;
use sigmad_detectors::zscore::ZScore;
use sigmad_detectors::{Detector, Kind};

/// The window and minimum of the contract.
const WINDOW: usize = 50;
const MIN_SAMPLES: u32 = 10;
/// Its threshold.
pub const Z_THRESHOLD: f64 = 2.0;

/// One score for each value.
pub fn scores_of(kind: Kind, series: &Series) -> Vec<f64> {
    match kind {
        Kind::Zscore => z_scores(series),
        Kind::Robust => observed::<Robust>(series),
        Kind::Residual => observed::<Residual>(series),
        Kind::Novelty => observed::<Novelty>(series),
        Kind::Pager => observed::<Pager>(series),
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
