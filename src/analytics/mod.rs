//! Samples to verdicts.
//!
//! [`Analytics`] keeps every window and judges samples by them. It is pure: it does no I/O, reads no clock
//! and takes no lock. One thread drives it ([`thread`]), so nothing in it is shared; readers get copies
//! ([`report`]).
//!
//! Every sample enters the fleet's window of each of its metrics and, with a device, the device's. A sample
//! allocates nothing unless it opens a stream.

mod anomalies;
pub mod arena;
pub mod families;
mod judge;
pub mod latest;
mod merge;
pub mod names;
pub mod report;
mod scan;
mod streams;
pub mod thread;

pub use judge::{Analytics, AnalyticsSettings};
