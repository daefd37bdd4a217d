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
mod asker;
mod devices;
pub mod families;
pub mod fleet;
mod handover;
mod judge;
mod last_sample;
pub mod latest;
mod merge;
mod metrics;
pub mod names;
mod onset_settings;
mod onsets;
pub mod report;
pub mod saved;
mod scan;
mod silence;
pub mod thread;

/// Bytes of a stream that is the only one of its device.
pub fn stream_bytes(settings: &AnalyticsSettings, is_shared: bool) -> usize {
    arena::stream_bytes(settings.window, &settings.detectors, is_shared) + devices::DEVICE_BYTES
}

/// Bytes of the present interval of a stream, where incidents are on.
pub const FOLD_BYTES: usize = size_of::<sigmad_incidents::fold::Fold>();
/// Bytes of the cadence of a device.
pub const CADENCE_BYTES: usize = sigmad_incidents::silence::DEVICE_BYTES;
/// Bytes that are kept of a stream for incidents.
pub const INCIDENT_BYTES: usize = sigmad_incidents::watches::WATCH_BYTES;

/// Bytes for all streams together: the latest samples and anomalies.
pub const SHARED_BYTES: usize = latest::RING_BYTES + anomalies::RING_BYTES;

pub use anomalies::{AnomalyNumbers, read_listed, write_listed};
pub use asker::{Asker, QuestionsOf, questions};
pub use judge::{Analytics, AnalyticsSettings};
pub use onset_settings::OnsetSettings;
pub use silence::{KnownSilences, SilenceIgnore};
