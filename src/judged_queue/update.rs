//! What the store tells analytics of other replicas.

use super::JudgedCounts;
use crate::handover::FoundStates;
use crate::shards::ShardLayout;
use sigmad_sample::{DeviceId, MetricId};

/// The windows of all replicas for one device, or for the fleet, as the store read them.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedWindows {
    /// None for the fleet.
    pub device: Option<DeviceId>,
    /// Samples and anomalies that the other replicas counted.
    pub others: JudgedCounts,
    /// Samples that this replica had counted when it last wrote. The last sample of all is among them, or is of
    /// another replica: Redis has their order.
    pub own_total: u64,
    /// When any replica last received a sample, microseconds since 1970, by the clock of this replica; 0 when
    /// that is not known.
    pub last_seen_us: i64,
    /// The timestamp of that sample.
    pub last_timestamp_us: i64,
    /// That by another replica which has the detector states of the device. None if this one has them, or nobody.
    pub other_takeover: Option<OtherTakeover>,
    /// Its metrics.
    pub metrics: Vec<SharedMetric>,
}

/// A takeover of a device by another replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherTakeover {
    /// Its number.
    pub number: u32,
    /// The other replica waits for the states that this one had.
    pub is_from_here: bool,
}

/// One stream as all replicas see it.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedMetric {
    /// Which metric.
    pub metric: MetricId,
    /// What the other replicas counted.
    pub others: JudgedCounts,
    /// Values that this replica had counted when it last wrote; later ones are not in `values`.
    pub own_total: u64,
    /// Number of `values` that this replica wrote.
    pub own_values: usize,
    /// The newest values, oldest first: one more than a window, so that the last one can be judged.
    pub values: Vec<f64>,
}

/// What the store sends to analytics.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplicaUpdate {
    /// Windows that other replicas have changed. If samples of ours were in flight when they were read, they
    /// are sent again once those are written: only then is the order of all samples known.
    Windows(Vec<SharedWindows>),
    /// Redis has this replica's takeover of that number of a device.
    TakenOver(DeviceId, u32),
    /// The detector states of a device that was wanted.
    States(FoundStates),
}

impl ReplicaUpdate {
    /// The parts of it, each with the shard that has its windows.
    pub fn of_shards(self, layout: ShardLayout) -> Vec<(usize, Self)> {
        match self {
            Self::Windows(windows) if layout.threads() > 1 => {
                let mut parts: Vec<Vec<SharedWindows>> = vec![Vec::new(); layout.threads()];
                for shared in windows {
                    parts[layout.of_subject(shared.device)].push(shared);
                }
                let changed = parts.into_iter().enumerate().filter(|(_, part)| !part.is_empty());
                changed.map(|(shard, part)| (shard, Self::Windows(part))).collect()
            }
            Self::Windows(windows) => vec![(layout.of_fleet(), Self::Windows(windows))],
            Self::TakenOver(device, takeover) => {
                vec![(layout.of_device(device), Self::TakenOver(device, takeover))]
            }
            Self::States(found) => vec![(layout.of_device(found.device), Self::States(found))],
        }
    }
}
