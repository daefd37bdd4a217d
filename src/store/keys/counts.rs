//! The counts of replicas: fields of a hash, and their values.

use super::{ReplicaId, read_metric_name, read_number, write_number};
use crate::judged_queue::JudgedCounts;

/// Field in a hash of counts: the counts of replicas that are gone.
pub const PAST: &str = "past";
/// Field in a hash of counts: the replica that has the detector states of the device, or waits for them.
pub const OWNER: &str = "owner";
/// Whose counts a field of a hash has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountSource {
    /// Those of a replica.
    Replica(ReplicaId),
    /// The sum of replicas that are gone.
    Past,
}

impl CountSource {
    fn as_str(&self) -> &str {
        match self {
            Self::Replica(replica) => replica.as_str(),
            Self::Past => PAST,
        }
    }
}

/// Writes the field of a metric: `<replica>:<metric>`, `past:<metric>`.
pub fn write_metric_field(text: &mut Vec<u8>, source: &CountSource, metric: &str) {
    text.extend_from_slice(source.as_str().as_bytes());
    text.push(b':');
    text.extend_from_slice(metric.as_bytes());
}

/// Writes the field of a replica, or of one of its metrics: `<replica>`, `<replica>:<metric>`.
pub fn write_field(text: &mut Vec<u8>, replica: ReplicaId, metric: Option<&str>) {
    text.extend_from_slice(&replica.0);
    if let Some(metric) = metric {
        text.push(b':');
        text.extend_from_slice(metric.as_bytes());
    }
}

/// Whose counts, and of which metric (None: samples). None for a field that sigmad does not write.
pub fn read_field(text: &[u8]) -> Option<(CountSource, Option<&str>)> {
    let (source, metric) = match text.iter().position(|&byte| byte == b':') {
        Some(colon) => (&text[..colon], Some(&text[colon + 1..])),
        None => (text, None),
    };
    let source = match source {
        past if past == PAST.as_bytes() => CountSource::Past,
        replica => CountSource::Replica(ReplicaId::read(replica)?),
    };
    match metric {
        Some(metric) => Some((source, Some(read_metric_name(metric)?))),
        None => Some((source, None)),
    }
}

/// Reads `<replica>:<number of the takeover>:<replica before>`, the last of which may be empty. None for text that sigmad
/// does not write.
pub fn read_owner(text: &[u8]) -> Option<(ReplicaId, u32, Option<ReplicaId>)> {
    let mut parts = text.splitn(3, |&byte| byte == b':');
    let replica = ReplicaId::read(parts.next()?)?;
    let takeover = read_number(parts.next()?)?.try_into().ok()?;
    Some((replica, takeover, parts.next().and_then(ReplicaId::read)))
}

/// What one replica has counted of a device, or of the fleet, and when its last sample arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaCounters {
    /// When the last sample arrived, microseconds since 1970, by Redis' clock.
    pub time_us: i64,
    /// The timestamp of that sample.
    pub timestamp_us: i64,
    /// Samples and anomalies.
    pub counts: JudgedCounts,
}

impl ReplicaCounters {
    /// Writes `<time_us>:<timestamp_us>:<samples>:<anomalies>`.
    pub fn write(&self, text: &mut Vec<u8>) {
        for number in [self.time_us, self.timestamp_us] {
            write_number(text, number);
            text.push(b':');
        }
        write_counts(text, self.counts);
    }

    /// None for text that sigmad does not write.
    pub fn read(text: &[u8]) -> Option<Self> {
        let mut parts = text.splitn(3, |&byte| byte == b':');
        Some(Self {
            time_us: read_number(parts.next()?)?,
            timestamp_us: read_number(parts.next()?)?,
            counts: read_counts(parts.next()?)?,
        })
    }
}

/// Writes `<total>:<anomalies>`.
pub fn write_counts(text: &mut Vec<u8>, counts: JudgedCounts) {
    write_number(text, counts.total);
    text.push(b':');
    write_number(text, counts.anomalies);
}

/// None for text that sigmad does not write.
pub fn read_counts(text: &[u8]) -> Option<JudgedCounts> {
    let colon = text.iter().position(|&byte| byte == b':')?;
    let (total, anomalies) = (read_number(&text[..colon])?, read_number(&text[colon + 1..])?);
    Some(JudgedCounts { total: total as u64, anomalies: anomalies as u64 })
}
