//! Runs a detector over a whole series, as the server does; or a baseline, for comparison.

use sigmad_detectors::window::Window;
use sigmad_detectors::{DetectorKind, DetectorSettings, DetectorStates};

use crate::baselines::Baseline;
use crate::series::Series;

/// The server's default window.
const WINDOW: usize = 50;
/// The server's default threshold of `zscore`.
pub const Z_THRESHOLD: f64 = 2.0;

/// What scores the values of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Judge {
    /// A detector of the server.
    Detector(DetectorKind),
    /// A simple rule.
    Baseline(Baseline),
}

impl Judge {
    /// As tables name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Detector(kind) => kind.name(),
            Self::Baseline(baseline) => baseline.name(),
        }
    }

    /// The smallest score of an anomaly, by the threshold `set` or its own. `zscore` must exceed its threshold.
    pub fn threshold(self, set: Option<f64>) -> f64 {
        match self {
            Self::Detector(DetectorKind::Zscore) => set.unwrap_or(Z_THRESHOLD).next_up(),
            Self::Detector(kind) => set.unwrap_or(kind.threshold(Z_THRESHOLD)),
            Self::Baseline(baseline) => set.unwrap_or(baseline.threshold()),
        }
    }

    /// The score of each value. A baseline has a hold, which depends on its threshold.
    pub fn scores(self, series: &Series, threshold: f64) -> Vec<f64> {
        match self {
            Self::Detector(kind) => scores_of(kind, series),
            Self::Baseline(baseline) => baseline.scores(&series.values, threshold),
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zscore_exceeds_its_threshold_and_others_reach_it() {
        for set in [None, Some(3.5)] {
            let zscore = Judge::Detector(DetectorKind::Zscore);
            let at = set.unwrap_or(Z_THRESHOLD);
            assert!(zscore.threshold(set) > at, "as the server, which says > and not ≥");
            assert!(zscore.threshold(set) <= at * (1.0 + f64::EPSILON));
        }
        assert_eq!(Judge::Detector(DetectorKind::Pager).threshold(None), 1.0);
        assert_eq!(Judge::Baseline(Baseline::Sigma).threshold(None), 3.0);
    }
}
