//! The last sample of a device or of the fleet.

use crate::judged_queue::SharedWindows;

/// By how much the store's last sample must be newer than this replica's before samples that the store
/// lacks count as lost. A store that answers has every sample within seconds, one that was away as soon as
/// older samples are written.
pub const LOST_AFTER_S: u32 = 60;

/// The last sample of a device or of the fleet.
#[derive(Clone, Copy, Debug, Default)]
pub struct LastSample {
    /// When it arrived at any replica, by this replica's clock.
    pub seen_us: i64,
    /// Its timestamp.
    pub timestamp_us: i64,
    /// The timestamp of the last sample that arrived here.
    pub own_timestamp_us: i64,
}

impl LastSample {
    /// Takes a sample that arrived here. It is the last one, whatever the clocks say: if Redis' order differs,
    /// the store reads it again once the sample is written.
    #[inline]
    pub fn update(&mut self, arrived_us: i64, timestamp_us: i64) {
        self.own_timestamp_us = timestamp_us;
        (self.seen_us, self.timestamp_us) = (arrived_us, timestamp_us);
    }

    /// Takes the last sample of all replicas, in Redis' order. Samples that Redis does not have come after it.
    pub fn update_from_replicas(&mut self, shared: &SharedWindows, is_all_written: bool) {
        if is_all_written && shared.others.total > 0 && shared.last_seen_us > 0 {
            (self.seen_us, self.timestamp_us) = (shared.last_seen_us, shared.last_timestamp_us);
        }
    }

    /// A time in whole seconds, to save space; works until 2106.
    pub fn seconds(at_us: i64) -> u32 {
        (at_us / 1_000_000) as u32
    }
}

/// Whether the store must have had all samples of this replica, because it has samples much newer than the last
/// of them. Those that it lacks are lost, not on their way.
pub fn was_sent(own_seen_s: u32, shared: &SharedWindows) -> bool {
    LastSample::seconds(shared.last_seen_us).saturating_sub(own_seen_s) > LOST_AFTER_S
}
