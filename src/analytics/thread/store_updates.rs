//! What goes to the store and comes back.

use std::vec;

use crate::judged_queue::{JudgedProducer, SharedWindows};

/// What goes to the store and comes back.
#[derive(Debug)]
pub(super) struct StoreUpdates {
    pub judged_producer: JudgedProducer,
    /// The time of the last chunk that was published, on the monotonic clock: grows with each chunk.
    pub time_us: i64,
    /// Windows from the store that are not applied so far.
    pub windows: vec::IntoIter<SharedWindows>,
    /// Updates to apply before the questions taken are answered.
    pub pending: usize,
    pub synced_at_us: Option<i64>,
}

impl StoreUpdates {
    pub fn new(judged_producer: JudgedProducer) -> Self {
        Self {
            judged_producer,
            time_us: 0,
            windows: Vec::new().into_iter(),
            pending: 0,
            synced_at_us: None,
        }
    }
}
