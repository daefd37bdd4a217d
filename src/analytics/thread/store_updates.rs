//! What goes to the store and comes back.

use std::vec;

use crate::analytics::Analytics;
use crate::judged_queue::{JudgedProducer, SharedWindows};

/// Changed anomalies that are sent at a time: as many as one answer of `/anomalies` can have.
const ANOMALIES_SENT_MAX: usize = 1_000;

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
    /// Updates that may be applied once the chunks are judged that waited when these were counted.
    pub counted: usize,
    pub synced_at_us: Option<i64>,
}

impl StoreUpdates {
    pub fn new(judged_producer: JudgedProducer) -> Self {
        Self {
            judged_producer,
            time_us: 0,
            windows: Vec::new().into_iter(),
            pending: 0,
            counted: 0,
            synced_at_us: None,
        }
    }

    /// Sends changed anomalies, if there are any and the store has taken the last ones.
    #[inline]
    pub fn list_anomalies(&self, analytics: &mut Analytics) {
        if self.judged_producer.takes_anomalies()
            && let Some(changed) = analytics.take_changed_anomalies(ANOMALIES_SENT_MAX)
        {
            self.judged_producer.send_anomalies(changed);
            self.judged_producer.set_unlisted(analytics.unlisted_anomalies());
        }
    }

    /// Sends all changed anomalies that are left.
    pub fn list_last_anomalies(&self, analytics: &mut Analytics) {
        if let Some(changed) = analytics.take_changed_anomalies(usize::MAX) {
            self.judged_producer.send_anomalies(changed);
            self.judged_producer.set_unlisted(analytics.unlisted_anomalies());
        }
    }
}
