//! What outlives a moment: samples and verdicts, in memory.

pub mod memory;
