//! Detectors: what a value is worth, given what its stream has been.
//!
//! [`zscore`] is the contract, and judges by the window. The others keep a memory of their own for every
//! stream, a fixed number of bytes without a pointer in it. All are causal and have one set of
//! parameters for every stream: what they say of a value depends on that value and those before it, on
//! their timestamps, and on nothing else.

mod baseline_side;
mod cooldown;
mod daily_profile;
mod leader_clusters;
mod normalized_error;
mod normalizer;
pub mod novelty;
pub mod pager;
pub mod quantile;
mod ranked;
mod rate;
pub mod residual;
pub mod robust;
mod robust_baseline;
mod run_length;
mod sample_interval;
mod tail_probability;
pub mod window;
pub mod zscore;

use clap::ValueEnum;

/// The detectors, as flags, answers and tables call them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// The distance from the window's mean, in standard deviations: the contract.
    Zscore,
    /// The distance from the median of the last fifty, in median distances.
    Robust,
    /// Errors of two forecasts.
    Residual,
    /// Has the stream ever been like this?
    Novelty,
    /// What to wake a person for.
    Pager,
}

impl Kind {
    /// As flags, answers and tables call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zscore => "zscore",
            Self::Robust => "robust",
            Self::Residual => "residual",
            Self::Novelty => "novelty",
            Self::Pager => "pager",
        }
    }

    /// From here on a score is an anomaly; `z` is what |z| must exceed.
    pub const fn threshold(self, z: f64) -> f64 {
        match self {
            Self::Zscore => z,
            Self::Robust => robust::Robust::THRESHOLD,
            Self::Residual => residual::Residual::THRESHOLD,
            Self::Novelty => novelty::Novelty::THRESHOLD,
            Self::Pager => pager::Pager::THRESHOLD,
        }
    }

    /// Whether a score is an anomaly by a threshold: at it, but |z| must be past it.
    pub fn is_anomaly(self, score: f64, threshold: f64) -> bool {
        match self {
            Self::Zscore => score > threshold,
            Self::Robust | Self::Residual | Self::Novelty | Self::Pager => score >= threshold,
        }
    }
}

/// The memory that a detector has of one stream.
pub trait Detector: Default {
    /// From this score on a value is an anomaly.
    const THRESHOLD: f64;

    /// How strange a value is, 0 and up and finite; then it is part of the stream's past.
    fn observe(&mut self, timestamp_us: i64, value: f64) -> f64;
}
