//! What the thread `state` counts.

use std::sync::Arc;

use sigmad_counters::{Counter, Families, Histogram, MetricSource, REQUEST_EDGES_NS};
use sigmad_state::DamageKind;

/// Counters of snapshots, written by the thread `state`.
#[derive(Debug, Default)]
pub struct StateCounters {
    /// How long turns of each shard have taken for snapshots.
    pub pauses: Vec<Arc<Histogram>>,
    /// Snapshots of a shard that were written.
    pub written_total: Counter,
    /// Snapshots that the disk refused, or that had no room.
    pub failed_total: Counter,
    /// Snapshots for which the disk was too slow.
    pub given_up_total: Counter,
    /// Bytes of the newest snapshots of all shards.
    pub snapshot_bytes: Counter,
    /// Writings of the history.
    pub history_written_total: Counter,
    /// Those that the disk refused.
    pub history_failed_total: Counter,
    /// Devices restored at the start.
    pub restored_devices: Counter,
    /// Devices that found no room at the start.
    pub devices_without_room_total: Counter,
    /// Records of snapshots that could not be restored for another reason.
    pub records_lost_total: Counter,
    /// Records of the journal that were judged again at the start.
    pub replayed_records_total: Counter,
    /// Damaged files found at the start, by [`DamageKind`].
    pub damaged_total: [Counter; DamageKind::ALL.len()],
    /// States of detectors of another version, which began anew.
    pub states_anew_total: Counter,
}

impl MetricSource for StateCounters {
    fn collect(&self, families: &mut Families) {
        let snapshots = families.counter(
            "sigmad_state_snapshots_total",
            "Snapshots of one shard, by result: written, failed (the disk refused, or no room), given_up (the disk is too slow).",
        );
        for (result, counter) in [
            ("written", &self.written_total),
            ("failed", &self.failed_total),
            ("given_up", &self.given_up_total),
        ] {
            snapshots.add_counter(&[("result", result)], counter);
        }
        let pauses = families.histogram(
            "sigmad_state_pause_seconds",
            "Time of analytics for a snapshot: of its beginning, and of each step.",
            &REQUEST_EDGES_NS,
        );
        self.pauses.iter().for_each(|of_shard| _ = pauses.add_histogram(&[], of_shard));
        families
            .gauge("sigmad_state_snapshot_bytes", "Bytes of the newest snapshots of all shards.")
            .add_counter(&[], &self.snapshot_bytes);
        families
            .counter(
                "sigmad_history_written_total",
                "Writings of the history into the state directory, by result: written, failed (what was there before stays).",
            )
            .add_counter(&[("result", "written")], &self.history_written_total)
            .add_counter(&[("result", "failed")], &self.history_failed_total);
        families
            .gauge("sigmad_state_restored_devices", "Devices restored at the start.")
            .add_counter(&[], &self.restored_devices);
        families
            .counter(
                "sigmad_state_replayed_records_total",
                "Records of the journal that were judged again at the start.",
            )
            .add_counter(&[], &self.replayed_records_total);
        let damaged = families.counter(
            "sigmad_state_damaged_files_total",
            "Files found damaged at the start, by kind: torn_tail (usual after a crash), bad_checksum, missing, other_version (set aside), unreadable. What is before the damage was restored.",
        );
        for (kind, counter) in DamageKind::ALL.iter().zip(&self.damaged_total) {
            damaged.add_counter(&[("kind", kind.name())], counter);
        }
        let lost = families.counter(
            "sigmad_state_not_restored_total",
            "What the start left out, by kind: device (no room for it), record (can't be read), detector_state (of another version).",
        );
        for (kind, counter) in [
            ("device", &self.devices_without_room_total),
            ("record", &self.records_lost_total),
            ("detector_state", &self.states_anew_total),
        ] {
            lost.add_counter(&[("kind", kind)], counter);
        }
    }
}
