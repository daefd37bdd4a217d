//! What this replica adds to the lists of the cluster.

use super::Analytics;
use crate::judged_queue::ListedChanges;

impl Analytics {
    /// The next changes of anomalies for the list of the cluster, `limit` at most. None when there are none.
    #[inline]
    pub fn take_changed_anomalies(&mut self, limit: usize) -> Option<ListedChanges> {
        if !self.has_unlisted_anomalies() {
            return None;
        }
        let detectors = self.devices.arena.states().settings();
        Some(self.anomalies.take_changes(limit, detectors))
    }

    /// True while there are changes to take.
    pub fn has_unlisted_anomalies(&self) -> bool {
        self.anomalies.has_changes()
    }

    /// Anomalies that made room before their last change was taken.
    pub fn unlisted_anomalies(&self) -> u64 {
        self.anomalies.unlisted()
    }

    /// Samples that the list of the cluster has, from before a restart.
    pub fn samples_listed_before(&self) -> u64 {
        self.listed_before
    }

    /// Samples judged.
    pub fn samples(&self) -> u64 {
        self.samples
    }
}
