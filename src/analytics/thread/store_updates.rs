//! What goes to the store and comes back.

use std::vec;

use crossbeam_channel::TryRecvError;

use super::AnalyticsThread;
use crate::analytics::Analytics;
use crate::judged_queue::{JudgedProducer, ReplicaUpdate, SharedWindows};

/// Values of the store applied before samples have their turn again; a device is never divided. Some hundred
/// windows of usual size hold as many.
const SHARED_VALUES_PER_TURN: usize = 16_384;

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
    counted: usize,
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

impl AnalyticsThread {
    /// Counts the updates that wait, and what must be judged before them: all that was accepted before they came. A
    /// device that moves to another replica leaves with all values that were acknowledged here.
    pub(super) fn count_updates(&mut self) {
        let Some(store) = &mut self.store else { return };
        if store.counted > 0 {
            return;
        }
        store.counted = store.judged_producer.updates.len();
        if store.counted > 0 {
            // After the updates: what was sent before one of them is included.
            for source in &mut self.sources {
                source.before_updates = source.consumer.waiting();
            }
        }
    }

    /// Applies a bounded number of the updates counted.
    pub(super) fn apply_updates(&mut self) -> bool {
        let Some(store) = &mut self.store else {
            return false;
        };
        let is_judged = self.sources.iter().all(|source| source.before_updates == 0);
        let mut applied = 0;
        while applied < SHARED_VALUES_PER_TURN {
            if let Some(shared) = store.windows.next() {
                self.analytics.apply(&shared);
                applied += shared.metrics.iter().map(|stream| stream.values.len()).sum::<usize>();
            } else if store.counted > 0 && is_judged {
                store.counted -= 1;
                match store.judged_producer.updates.try_recv() {
                    Ok(ReplicaUpdate::Windows(windows)) => store.windows = windows.into_iter(),
                    Ok(ReplicaUpdate::SyncedAt(at_us)) => store.synced_at_us = Some(at_us),
                    Ok(ReplicaUpdate::TakenOver(device, takeover)) => {
                        self.analytics.taken_over(device, takeover);
                    }
                    Ok(ReplicaUpdate::States(found)) => {
                        self.analytics.receive_states(found, self.clock.now().wall_us);
                    }
                    // No more updates, or the store has stopped.
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            } else {
                break;
            }
            // Counts without values take time too.
            applied += 1;
            if store.windows.len() == 0 {
                store.pending = store.pending.saturating_sub(1);
            }
        }
        applied > 0
    }
}
