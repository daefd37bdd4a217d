//! Detectors: what a value is worth, given the window before it.

pub mod zscore;
