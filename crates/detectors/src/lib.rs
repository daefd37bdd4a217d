//! Streaming anomaly detectors: each scores a value by the values of its stream that came before.
//!
//! [`zscore`] judges by the [`window`], which the caller keeps. Each other detector has a state for every
//! stream: a fixed number of bytes without a pointer. [`DetectorStates`] holds the states of all streams,
//! and [`DetectorKind`] names the detectors; both follow from one table (`table.rs`).
//!
//! Every detector is causal and has one set of parameters for all streams: a score depends on the value,
//! on those before it and on their timestamps, and on nothing else.
//!
//! Invariant: no I/O, no clock, no locks, and no allocation after a stream's state exists.

mod baseline_side;
mod cooldown;
mod daily_profile;
mod detector;
mod hold;
mod independence;
mod leader_clusters;
mod normalized_error;
mod normalizer;
pub mod novelty;
pub mod pager;
pub mod quantile;
mod ranked;
mod rate;
mod recurring;
pub mod residual;
pub mod robust;
mod robust_baseline;
mod run_length;
mod sample_interval;
pub mod saved;
mod slab;
mod states;
mod table;
pub mod tail_probability;
pub mod window;
pub mod zscore;

pub use detector::Detector;
pub use slab::prefetch;
pub use states::{DetectorSettings, DetectorStates, Finding, SavedDetector, StateIndex};
pub use table::DetectorKind;
