//! Samples to verdicts.

pub mod report;
