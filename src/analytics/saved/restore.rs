//! Puts the records of snapshots into a shard. Their ids are those of this process.

use crate::analytics::Analytics;
use crate::analytics::latest::LatestSamples;
use crate::analytics::saved::form::{Record, RecordKind, Records, SavedForm, value};
use sigmad_incidents::watches::Restored;

/// What a shard could not restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NotRestored {
    /// Records that can't be read, or whose name has been evicted meanwhile.
    pub records: u64,
    /// States of detectors whose version is another one: they begin anew.
    pub states: u64,
}

/// Puts records into a shard that has judged nothing so far.
#[derive(Debug, Default)]
pub struct Restoring {
    form: Option<SavedForm>,
    /// What was not restored so far.
    pub not_restored: NotRestored,
}

impl Restoring {
    /// Restores the records of a block. Anomalies come after the streams, those of several snapshots in their order.
    pub fn restore(&mut self, block: &[u8], analytics: &mut Analytics, latest: &mut LatestSamples) {
        for record in Records(block) {
            let is_restored = match record {
                Record::Known(kind, content) => {
                    self.restore_record(kind, content, analytics, latest).is_some()
                }
                Record::Unknown | Record::Broken => false,
            };
            self.not_restored.records += u64::from(!is_restored);
        }
    }

    fn restore_record(
        &mut self,
        kind: RecordKind,
        content: &[u8],
        analytics: &mut Analytics,
        latest: &mut LatestSamples,
    ) -> Option<()> {
        match kind {
            // The thread `state` has unpacked one, and has restored the other.
            RecordKind::Packed | RecordKind::Counter => return None,
            RecordKind::Form => self.form = Some(value(content)?),
            RecordKind::Totals => analytics.restore_totals(&value(content)?),
            RecordKind::Fleet => analytics.restore_fleet(&value(content)?),
            RecordKind::Metric => analytics.restore_metric(&value(content)?).then_some(())?,
            RecordKind::Anomaly => analytics.restore_anomaly(value(content)?),
            RecordKind::Sample => latest.restore(&value(content)?),
            RecordKind::Device => analytics.restore_device(&value(content)?).then_some(())?,
            RecordKind::Silences => analytics.restore_silences(value(content)?),
            RecordKind::Returns => analytics.restore_returns(&value(content)?),
            RecordKind::Cadence => analytics.restore_cadence(content)?,
            RecordKind::FleetWatch => {
                let restored = analytics.restore_fleet_watch(content)?;
                self.not_restored.states += u64::from(restored == Restored::BeginsAnew);
            }
            RecordKind::Watch => {
                let restored = analytics.restore_watch(content)?;
                self.not_restored.states += u64::from(restored == Restored::BeginsAnew);
            }
            RecordKind::FleetStream => {
                let anew = analytics.restore_fleet_stream(self.form.as_ref()?, content)?;
                self.not_restored.states += anew as u64;
            }
            RecordKind::Stream => {
                let anew = analytics.restore_stream(self.form.as_ref()?, content)?;
                self.not_restored.states += anew as u64;
            }
        }
        Some(())
    }
}
