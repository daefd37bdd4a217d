//! Runs a detector over a whole series, as the server does.

use sigmad_detectors::window::Window;
use sigmad_detectors::{DetectorKind, DetectorSettings, DetectorStates};

use crate::series::Series;

/// The server's default window.
const WINDOW: usize = 50;
/// The server's default threshold of `zscore`.
pub const Z_THRESHOLD: f64 = 2.0;

/// The score of each value.
pub fn scores_of(detector: DetectorKind, series: &Series) -> Vec<f64> {
    let settings = DetectorSettings { kinds: vec![detector], ..DetectorSettings::default() };
    let mut states = DetectorStates::new(settings);
    let state = states.take();
    let (mut window, mut ring) = (Window::default(), [0.0; WINDOW]);
    let rows = series.timestamps_us.iter().zip(&series.values);
    rows.map(|(&timestamp_us, &value)| {
        let verdict = states.judge(state, &window.moments(), timestamp_us, value);
        window.push(&mut ring, value);
        verdict.score
    })
    .collect()
}
