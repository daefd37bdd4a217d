//! The records of a snapshot: kinds, and what each holds.
//!
//! A record is a kind (1 byte), a length (4 bytes) and content. The kind is its version too: a record with other
//! content gets a new kind, and a process that does not know a kind leaves the record out.

use std::sync::Arc;

use crate::analytics::anomalies::AnomalousValue;
use crate::analytics::last_sample::LastSample;
use crate::judged_queue::JudgedCounts;
use sigmad_detectors::SavedDetector;
use sigmad_detectors::saved;
use sigmad_detectors::saved::Saved;
use sigmad_incidents::reception::SavedReception;
use sigmad_sample::{DeviceId, MetricId, Reading};

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// [`SavedForm`]: how streams are written. Before all others.
    Form = 1,
    /// [`SavedTotals`].
    Totals = 2,
    /// [`SavedFleet`], of the shard that has the fleet's windows.
    Fleet = 3,
    /// [`SavedMetric`]. Before what names the metric.
    Metric = 4,
    /// [`SavedAnomaly`], oldest first.
    Anomaly = 5,
    /// [`SavedSample`], oldest first.
    Sample = 6,
    /// A [`MetricId`], and a stream of the fleet.
    FleetStream = 7,
    /// [`SavedDevice`]. Before its streams.
    Device = 8,
    /// A [`DeviceId`], a [`MetricId`], and a stream of that device.
    Stream = 9,
    /// [`SavedSilences`]. Before all devices.
    Silences = 10,
    /// A [`DeviceId`], and how often that device is heard. After it.
    Cadence = 11,
    /// A [`MetricId`], and what a stream of the fleet is judged for incidents by. After the stream.
    FleetWatch = 12,
    /// A [`DeviceId`], a [`MetricId`], and the same of a stream of that device. After the stream.
    Watch = 13,
    /// Records, compressed: what the disk has. No shard sees it.
    Packed = 14,
    /// The last values of a counter, of all shards, in the last snapshot of a process. No shard sees it.
    Counter = 15,
    /// [`Returns`](sigmad_incidents::silence::returns::Returns): what like devices have shown. After the clock of silences.
    Returns = 16,
}

impl RecordKind {
    const ALL: [Self; 16] = [
        Self::Form,
        Self::Totals,
        Self::Fleet,
        Self::Metric,
        Self::Anomaly,
        Self::Sample,
        Self::FleetStream,
        Self::Device,
        Self::Stream,
        Self::Silences,
        Self::Cadence,
        Self::FleetWatch,
        Self::Watch,
        Self::Packed,
        Self::Counter,
        Self::Returns,
    ];
}

/// How the streams of a snapshot are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedForm {
    /// Values in a full window.
    pub window: u32,
    /// The detectors whose states each stream has.
    pub detectors: Vec<SavedDetector>,
}

/// What a shard has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SavedTotals {
    /// Samples judged.
    pub samples: u64,
    /// Values whose names were evicted on the way.
    pub unnamed_values: u64,
    /// Anomalies begun. When they are restored: those that are not in the snapshot.
    pub begun: u64,
    /// The last serial of an anomaly that any shard had given out.
    pub serial: u64,
    /// The last number of a change of an anomaly.
    pub change: u64,
}

/// The fleet, without its streams.
#[derive(Clone, Copy, Debug, Default)]
pub struct SavedFleet {
    /// Samples judged.
    pub samples: u64,
    /// The last of them.
    pub last: LastSample,
    /// When it arrived, in seconds.
    pub own_seen_s: u32,
}

/// A metric.
#[derive(Clone, Debug)]
pub struct SavedMetric {
    /// Its id.
    pub metric: MetricId,
    /// Anomalous values of it that the shard has found.
    pub anomalies: u64,
    /// Its name.
    pub name: Arc<str>,
}

/// A device, without its streams.
#[derive(Clone, Debug)]
pub struct SavedDevice {
    /// Its id.
    pub device: DeviceId,
    /// Its name.
    pub name: Arc<str>,
    /// Samples judged, and anomalies in them.
    pub own: JudgedCounts,
    /// The last sample.
    pub last: LastSample,
    /// When it arrived, in seconds.
    pub own_seen_s: u32,
    /// The metrics of its streams, in their order.
    pub streams: Vec<MetricId>,
}

/// The clock of silences, and reception.
#[derive(Clone, Debug)]
pub struct SavedSilences {
    /// Seconds that have passed on the clock.
    pub now_s: u32,
    /// What is added to get seconds since 1970.
    pub offset_s: i64,
    /// Of the shard that has the fleet's windows alone.
    pub reception: Option<SavedReception>,
}

/// An anomaly.
#[derive(Clone, Debug)]
pub struct SavedAnomaly {
    /// Its number among all.
    pub serial: u64,
    /// The device of its stream.
    pub device: Option<DeviceId>,
    /// The metric of its stream.
    pub metric: MetricId,
    /// The name of the device; empty for the fleet.
    pub device_name: Arc<str>,
    /// The name of the metric.
    pub metric_name: Arc<str>,
    /// The value with the highest score.
    pub highest: AnomalousValue,
    /// The timestamp of its first value.
    pub start_us: i64,
    /// Its number of values.
    pub flags: u64,
    /// The timestamp of the normal value after it.
    pub end_us: Option<i64>,
    /// When its last value or its end arrived.
    pub changed_us: i64,
    /// The number of that change.
    pub change: u64,
}

/// One of the latest samples.
#[derive(Clone, Debug)]
pub struct SavedSample {
    /// Its timestamp.
    pub timestamp_us: i64,
    /// When it arrived.
    pub arrived_us: i64,
    /// Its device.
    pub device: Option<DeviceId>,
    /// Its values.
    pub readings: Vec<Reading>,
}

saved!(JudgedCounts { total, anomalies });
saved!(LastSample { seen_us, timestamp_us, own_timestamp_us });
saved!(AnomalousValue { value, before, verdict, timestamp_us, arrived_us });
saved!(SavedForm { window, detectors });
saved!(SavedTotals { samples, unnamed_values, begun, serial, change });
saved!(SavedFleet { samples, last, own_seen_s });
saved!(SavedMetric { metric, anomalies, name });
saved!(SavedDevice { device, name, own, last, own_seen_s, streams });
saved!(SavedAnomaly {
    serial,
    device,
    metric,
    device_name,
    metric_name,
    highest,
    start_us,
    flags,
    end_us,
    changed_us,
    change,
});
saved!(SavedSilences { now_s, offset_s, reception });
saved!(SavedSample { timestamp_us, arrived_us, device, readings });

/// Appends a record.
pub fn push(to: &mut Vec<u8>, kind: RecordKind, content: impl FnOnce(&mut Vec<u8>)) {
    to.push(kind as u8);
    let len_at = to.len();
    0u32.write(to);
    content(to);
    let len = (to.len() - len_at - size_of::<u32>()) as u32;
    to[len_at..len_at + size_of::<u32>()].copy_from_slice(&len.to_le_bytes());
}

/// Appends a record of one value.
pub fn push_value(to: &mut Vec<u8>, kind: RecordKind, value: &impl Saved) {
    push(to, kind, |to| value.write(to));
}

/// Reads a record of one value. None if it has other content.
pub fn value<T: Saved>(mut content: &[u8]) -> Option<T> {
    T::read(&mut content).filter(|_| content.is_empty())
}

/// The records of a block.
#[derive(Clone, Debug)]
pub struct Records<'a>(pub &'a [u8]);

/// A record, or what stands where one should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A record.
    Known(RecordKind, &'a [u8]),
    /// One of a kind that this version does not know.
    Unknown,
    /// Bytes that are no record; nothing follows.
    Broken,
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let from = &mut self.0;
        if from.is_empty() {
            return None;
        }
        let head = u8::read(from).zip(u32::read(from));
        let split = head.and_then(|(kind, len)| Some((kind, from.split_at_checked(len as usize)?)));
        let Some((kind, (content, rest))) = split else {
            *from = &[];
            return Some(Record::Broken);
        };
        *from = rest;
        let known = RecordKind::ALL.into_iter().find(|known| *known as u8 == kind);
        Some(known.map_or(Record::Unknown, |known| Record::Known(known, content)))
    }
}
