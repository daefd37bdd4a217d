//! The thread's part in sharing: what it applies of what the store read.

use crossbeam_channel::TryRecvError;

use super::AnalyticsThread;
use crate::judged_queue::ReplicaUpdate;

/// Values of the store applied before samples have their turn again; a device is never divided. Some hundred
/// windows of usual size hold as many.
const SHARED_VALUES_PER_TURN: usize = 16_384;

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
