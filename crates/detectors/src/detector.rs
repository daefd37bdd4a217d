//! What every detector that keeps a state implements.

/// A detector's state of one stream.
pub trait Detector: Default {
    /// The score from which a value is an anomaly.
    const THRESHOLD: f64;

    /// Scores a value, then adds it to the stream's past. The score is finite, 0 and up.
    fn observe(&mut self, timestamp_us: i64, value: f64) -> f64;
}
