//! What the journal counts.

use std::sync::Arc;

use sigmad_counters::{Counter, Families, Histogram, MetricSource, REQUEST_EDGES_NS};

use super::JournalQueueCounters;

/// Why a record is not in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalLoss {
    /// The directory holds as much as it may.
    Full,
    /// The disk refused it.
    Disk,
    /// A name was evicted on the way.
    Unnamed,
}

impl JournalLoss {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Full, Self::Disk, Self::Unnamed];

    const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Disk => "disk",
            Self::Unnamed => "unnamed",
        }
    }
}

/// Counters of the thread `journal`, and of the queues to it.
#[derive(Debug, Default)]
pub struct JournalCounters {
    /// Of each shard.
    pub queues: Vec<Arc<JournalQueueCounters>>,
    /// Records written: one for each judged chunk.
    pub records_total: Counter,
    /// Their bytes.
    pub bytes_total: Counter,
    /// Samples of records written.
    pub samples_total: Counter,
    /// Those of them that are durable.
    pub synced_samples_total: Counter,
    /// Samples that are not in the journal, by [`JournalLoss`].
    pub lost_total: [Counter; JournalLoss::ALL.len()],
    /// Times of making the journal of a shard durable.
    pub syncs: Histogram,
    /// Bytes of all files of the directory.
    pub directory_bytes: Counter,
}

impl MetricSource for JournalCounters {
    fn collect(&self, families: &mut Families) {
        families
            .counter("sigmad_state_records_total", "Records written to the journal: judged chunks.")
            .add_counter(&[], &self.records_total);
        families
            .counter("sigmad_state_record_bytes_total", "Bytes of these records.")
            .add_counter(&[], &self.bytes_total);
        families
            .counter(
                "sigmad_state_synced_samples_total",
                "Samples that a crash can't lose any more. With several analytics shards, those of the fleet's are counted as well.",
            )
            .add_counter(&[], &self.synced_samples_total);
        families
            .gauge("sigmad_state_bytes", "Bytes of all files of the state directory.")
            .add_counter(&[], &self.directory_bytes);
        families
            .histogram(
                "sigmad_state_sync_seconds",
                "Time of making the journal of one shard durable.",
                &REQUEST_EDGES_NS,
            )
            .add_histogram(&[], &self.syncs);
        let lost = families.counter(
            "sigmad_state_lost_samples_total",
            "Samples that are not in the journal, by reason: queue (the disk is slow), full (no room), disk (it refused), unnamed (a name was evicted on the way). The next snapshot has what they led to.",
        );
        let queue: u64 = self.queues.iter().map(|queue| queue.dropped_total.get()).sum();
        lost.add(&[("reason", "queue")], queue as f64);
        for (loss, counter) in JournalLoss::ALL.iter().zip(&self.lost_total) {
            lost.add_counter(&[("reason", loss.name())], counter);
        }
    }
}
