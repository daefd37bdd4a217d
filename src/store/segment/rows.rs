//! The rows of a segment's tables. They refer to one another by index.

use std::sync::Arc;

use crate::judged_queue::JudgedCounts;
use sigmad_sample::{DeviceId, MetricId};

/// No index.
pub const NONE: u32 = u32::MAX;

/// From when to when samples arrived, microseconds since the start of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrivalSpan {
    /// The first.
    pub since_us: i64,
    /// The last.
    pub until_us: i64,
}

/// What streams belong to: the fleet, or a device.
#[derive(Debug)]
pub struct SegmentSubject {
    /// None for the fleet.
    pub device: Option<DeviceId>,
    /// Empty for the fleet.
    pub name: Arc<str>,
    pub first_stream: u32,
    pub last_stream: u32,
    pub newest_key: u32,
    /// The probable index of its last row in the present chunk.
    pub row: u32,
    /// Its samples in the segment; of the fleet those without a device.
    pub samples: u32,
    /// Samples and anomalies. Of the fleet only samples: its anomalies are those of its streams.
    pub counts: JudgedCounts,
    /// When the last sample arrived.
    pub time_us: i64,
    /// The timestamp of the last sample.
    pub timestamp_us: i64,
}

/// A metric of the segment, with its name: it may be evicted before the segment is written.
#[derive(Debug)]
pub struct SegmentMetric {
    pub id: MetricId,
    pub name: Arc<str>,
    /// The fleet's stream of it; [`NONE`] while no chunk has values for it.
    pub fleet_stream: u32,
    /// Values of the present chunk that enter that stream, and are not found so far.
    pub due: u32,
    /// Values of the present chunk that do not, and are passed: later ones fill the window.
    pub left_out: u32,
}

/// A reading, by the index of its metric in the segment.
#[derive(Clone, Copy, Debug)]
pub struct SegmentReading {
    pub metric: u32,
    pub value: f64,
}

/// The newest values of one metric of a subject.
#[derive(Debug)]
pub struct SegmentStream {
    pub subject: u32,
    /// The subject's next stream.
    pub next: u32,
    /// The index of its metric in the segment.
    pub metric: u32,
    pub oldest: u32,
    pub newest: u32,
    pub len: u32,
    /// Including the newest value.
    pub counts: JudgedCounts,
}

/// One value of a stream. The values of a stream form a ring.
#[derive(Clone, Copy, Debug)]
pub struct WindowValue {
    pub time_us: i64,
    pub value: f64,
    /// The next newer value; after the newest comes the oldest.
    pub next: u32,
    pub sequence: u16,
}

/// The samples of one subject and one timestamp. The last of them is written.
#[derive(Debug)]
pub struct SegmentKey {
    pub subject: u32,
    /// The group of its timestamp.
    pub group: u32,
    /// The key that came after it the last time.
    pub next: u32,
    pub first_reading: u32,
    pub width: u16,
    /// Readings that fit in its place.
    pub room: u16,
}

/// All samples of one timestamp, of any device.
#[derive(Debug)]
pub struct TimestampGroup {
    pub timestamp_us: i64,
    /// The key of the last sample.
    pub newest: u32,
}

/// One sample of the history.
#[derive(Debug)]
pub struct HistoryEntry {
    pub time_us: i64,
    pub key: u32,
    pub first_reading: u32,
    pub width: u16,
    pub sequence: u16,
}

impl SegmentSubject {
    pub fn new(device: Option<DeviceId>, name: Arc<str>) -> Self {
        Self {
            device,
            name,
            first_stream: NONE,
            last_stream: NONE,
            newest_key: NONE,
            row: NONE,
            samples: 0,
            counts: JudgedCounts::default(),
            time_us: 0,
            timestamp_us: 0,
        }
    }

    /// The name of the device; None for the fleet.
    pub fn device(&self) -> Option<&str> {
        self.device.map(|_| &*self.name)
    }

    /// Sets the times to those of the last sample.
    pub fn update(&mut self, time_us: i64, timestamp_us: i64) {
        (self.time_us, self.timestamp_us) = (time_us, timestamp_us);
    }
}

impl SegmentStream {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.len as usize
    }
}

/// What the segments of a queue share: each adds its samples by it.
#[derive(Debug, Default)]
pub struct ChunkRows {
    /// The probable index of a device's subject, by the index of the device's id. Each use checks the subject found
    /// there, so it is never cleared.
    pub hints: Vec<u32>,
    /// The rows of the present chunk.
    pub rows: Vec<SegmentRow>,
    pub streams: Vec<RowStream>,
    /// The time and the sequence of the last sample of the history.
    pub last_kept: (i64, u16),
}

/// A row of the present chunk: samples of one subject with the same metrics.
#[derive(Debug)]
pub struct SegmentRow {
    pub subject: u32,
    /// The first of its streams.
    pub first: u32,
    pub width: u16,
    /// Metrics that have a name.
    pub named: u16,
    /// No other row of the chunk is of its subject.
    pub is_alone: bool,
    /// Samples whose values do not enter the windows of the device: later ones of the row fill them.
    pub left_out: u32,
    /// The key of its last sample. Before the first one the subject's newest.
    pub key: u32,
    /// The arrival and the timestamp of its last sample.
    pub time_us: i64,
    pub timestamp_us: i64,
    /// Where the values of its last sample are; [`NONE`] before the first one.
    pub last: u32,
}

/// A metric of a row.
#[derive(Debug)]
pub struct RowStream {
    /// Its index in the segment; [`NONE`] once its name was evicted.
    pub metric: u32,
    /// The device's stream of it.
    pub stream: u32,
}

impl SegmentRow {
    /// What it has of a table.
    #[inline]
    pub fn of<'a, T>(&self, all: &'a [T]) -> std::slice::Iter<'a, T> {
        all[self.first as usize..][..usize::from(self.width)].iter()
    }
}
