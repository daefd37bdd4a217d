//! What every detector that keeps a state implements.

use crate::saved::Saved;

/// A detector's state of one stream.
pub trait Detector: Default + Saved {
    /// The score from which a value is an anomaly.
    const THRESHOLD: f64;

    /// The version of what [`Saved`] writes: raised when the fields or their meaning change. A restart begins a state of
    /// another version anew.
    const STATE_VERSION: u16;

    /// Scores a value, then adds it to the stream's past. The score is finite, 0 and up.
    fn observe(&mut self, timestamp_us: i64, value: f64) -> f64;
}
