//! Questions of readers to the analytics threads, and their reports.
//!
//! A thread answers a question after it has judged every chunk sent before it, so a read includes each sample whose
//! 202 was sent. A report is a copy: the reader computes percentiles and JSON from it, and the analytics thread never
//! waits. [`Asker`](super::Asker) joins the reports of several threads.

use std::cmp::Reverse;
use std::ops::AddAssign;
use std::sync::Arc;

use crossbeam_channel::Sender;

use sigmad_detectors::{DetectorKind, Finding};
use sigmad_sample::{DeviceId, MetricId, Verdict};

/// The most devices in one report: copying them delays samples.
pub const DEVICES_REPORTED_MAX: usize = 1_000;
/// The most samples in one report, for the same reason.
pub const SAMPLES_REPORTED_MAX: usize = 1_000;
/// The most windows in a report of chosen series, for the same reason.
pub const SERIES_REPORTED_MAX: usize = 1_000;

/// A question, with the sender for its report. A dropped sender means that the server is stopping.
#[derive(Debug)]
pub enum Question {
    /// The windows of one device, or of the fleet.
    Windows(Option<DeviceId>, Scope, Sender<WindowsReport>),
    /// Some windows of one device, or of the fleet.
    Series(SeriesQuery, Sender<WindowsReport>),
    /// Devices, sorted.
    Devices(DevicesQuery, Sender<Vec<RankedDevice>>),
    /// The latest anomalies, newest first.
    Anomalies(AnomaliesQuery, Sender<AnomaliesReport>),
    /// The latest samples, newest first.
    Latest(RecentQuery, Sender<Vec<SampleReport>>),
    /// The counts since the start.
    Totals(Sender<PartTotals>),
    /// None: the shard begins a snapshot of what it knows.
    Snapshot,
}

/// What was counted since the start.
#[derive(Clone, Debug, Default)]
pub struct TotalsReport {
    /// Samples judged.
    pub samples: u64,
    /// Anomalies by metric: by the device's window, or by the fleet's for samples without a device.
    pub anomalies: Vec<(Arc<str>, u64)>,
    /// Metrics that `anomalies` has no room for.
    pub other_metrics: usize,
    /// Their anomalies.
    pub other_anomalies: u64,
    /// Values of metrics whose names were evicted before they were judged.
    pub unnamed_values: u64,
    /// Devices with windows.
    pub devices: usize,
    /// Streams (device × metric) with windows.
    pub streams: usize,
    /// How many of them are judged for incidents.
    pub watched: WatchedStreams,
}

/// How many streams are judged for incidents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchedStreams {
    /// They have a past by which they are judged.
    pub judged: usize,
    /// They have room, and too short a past.
    pub learning: usize,
    /// Those of devices that have no room, or one value so far.
    pub unjudged: usize,
}

impl AddAssign for WatchedStreams {
    fn add_assign(&mut self, other: Self) {
        self.judged += other.judged;
        self.learning += other.learning;
        self.unjudged += other.unjudged;
    }
}

/// What one shard has counted since the start.
#[derive(Clone, Debug, Default)]
pub struct PartTotals {
    /// Samples judged, each counted by one shard.
    pub samples: u64,
    /// The metrics whose anomalies are listed, in the order of their ids; of the shard that has the fleet's windows.
    pub listed: Vec<(MetricId, Arc<str>)>,
    /// The fleet's metrics.
    pub metrics: usize,
    /// Anomalies by metric, where there are any.
    pub anomalies: Vec<(MetricId, u64)>,
    /// As [`TotalsReport::unnamed_values`].
    pub unnamed_values: u64,
    /// As [`TotalsReport::devices`].
    pub devices: usize,
    /// As [`TotalsReport::streams`].
    pub streams: usize,
    /// As [`TotalsReport::watched`].
    pub watched: WatchedStreams,
}

/// A query for some of the series of a device, or of the fleet.
#[derive(Clone, Debug)]
pub struct SeriesQuery {
    /// The device, None for the fleet.
    pub device: Option<DeviceId>,
    /// Which replicas' values.
    pub scope: Scope,
    /// Which series.
    pub selection: SeriesSelection,
    /// The most results, highest score first.
    pub limit: usize,
}

/// Which series a query is for.
#[derive(Clone, Debug)]
pub enum SeriesSelection {
    /// All of them.
    All,
    /// Those whose names contain this, without regard to the case of ASCII letters. That of exactly this name comes
    /// first.
    Containing(Box<str>),
    /// These; the others are counted as those left out.
    Named(Vec<MetricId>),
}

/// The query of `/devices`.
#[derive(Clone, Debug)]
pub struct DevicesQuery {
    /// The most results.
    pub limit: usize,
    /// Largest first.
    pub sort: DevicesSort,
    /// Only devices whose names contain this, without regard to the case of ASCII letters. A device of exactly
    /// this name comes first.
    pub search: Option<Box<str>>,
    /// Only devices after the one of this name: the next page of [`DevicesSort::Device`].
    pub after: Option<Box<str>>,
    /// Which replicas' values. Of this replica alone are only those that it has heard.
    pub scope: Scope,
}

/// The order of `/devices`; ties in the order of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DevicesSort {
    /// By the highest score of the last verdicts.
    Score,
    /// By the arrival of the last sample, latest first.
    LastSeen,
    /// By the number of anomalies, most first.
    Anomalies,
    /// By name: an order that is the same on each replica, and does not change while somebody pages through it.
    Device,
}

/// The query of `/anomalies`.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnomaliesQuery {
    /// Only this device.
    pub device: Option<DeviceId>,
    /// The most results.
    pub limit: usize,
    /// Only anomalies that changed by a sample that arrived at or after this time, microseconds since 1970.
    pub since_us: i64,
    /// Only anomalies that changed after the change of this number.
    pub after_change: u64,
    /// Only what the list of the cluster may lack: of the shard that is asked it has all changes up to this one.
    pub listed_change: Option<u64>,
}

/// The query of `/latest`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecentQuery {
    /// Only this device.
    pub device: Option<DeviceId>,
    /// The most results.
    pub limit: usize,
    /// Only samples that arrived at or after this time, microseconds since 1970.
    pub since_us: i64,
    /// Only what the list of the cluster may lack: of the shard that is asked it has so many samples, counted from the
    /// start.
    pub listed_samples: Option<u64>,
}

/// Which replicas' values a report covers. Without Redis both are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All replicas': the windows by which values are judged.
    Cluster,
    /// This replica's own.
    Local,
}

/// The windows of one device, or of the fleet.
#[derive(Clone, Debug, Default)]
pub struct WindowsReport {
    /// One for each metric with values, in the order of metric ids:
    /// [`METRICS_REPORTED_MAX`](super::fleet::METRICS_REPORTED_MAX) at most. Of chosen series, highest score first:
    /// [`SERIES_REPORTED_MAX`] at most.
    pub metrics: Vec<MetricReport>,
    /// How many the report has no room for.
    pub other_metrics: usize,
    /// The timestamp of the last sample.
    pub last_timestamp_us: Option<i64>,
    /// It includes everything that other replicas had written by this time, microseconds since 1970. None
    /// without Redis and before the first synchronisation.
    pub synced_at_us: Option<i64>,
}

/// One stream.
#[derive(Clone, Debug)]
pub struct MetricReport {
    /// The metric's name.
    pub metric: Arc<str>,
    /// The window, oldest first; never empty.
    pub values: Vec<f64>,
    /// Mean of the window.
    pub mean: f64,
    /// Population standard deviation of the window.
    pub std_dev: f64,
    /// The verdict on the last value.
    pub verdict: Verdict,
    /// What each detector says of the last value; first the one that gives the verdict.
    pub findings: Vec<Finding>,
    /// Values since the start.
    pub total_count: u64,
    /// Anomalies since the start.
    pub anomaly_count: u64,
    /// Folded values by which it is judged for incidents; below [`LEARNED`](sigmad_incidents::watch::LEARNED) it
    /// learns. None without room for it.
    pub folded_values: Option<u32>,
}

/// The sort key of a device, largest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceRank {
    /// Its name is exactly the one searched for.
    pub is_exact: bool,
    /// The value of the sort field.
    pub key: u64,
    /// Its name, first in the order of letters.
    pub name: Reverse<Arc<str>>,
}

/// One device of one shard in `/devices`.
#[derive(Clone, Debug, PartialEq)]
pub struct RankedDevice {
    /// Its place among the devices of all shards.
    pub rank: DeviceRank,
    /// The device.
    pub report: DeviceReport,
}

/// One device in `/devices`.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceReport {
    /// Its name.
    pub device: Arc<str>,
    /// The highest score of the last verdicts.
    pub score: f64,
    /// True when the last verdict of any metric was an anomaly.
    pub is_anomaly: bool,
    /// The metric with that score.
    pub metric: Arc<str>,
    /// That metric's last value.
    pub last: f64,
    /// When its last sample arrived, microseconds since 1970.
    pub last_seen_us: i64,
    /// Samples since the start.
    pub total_count: u64,
    /// Anomalies since the start.
    pub anomaly_count: u64,
}

/// The latest anomalies.
#[derive(Clone, Debug, PartialEq)]
pub struct AnomaliesReport {
    /// Newest first.
    pub anomalies: Vec<AnomalyReport>,
    /// Anomalies since the start.
    pub begun: u64,
    /// Each anomaly of this serial or a lower one has been found, unless the query leaves it out. Some of higher ones
    /// may be missing.
    pub serial: u64,
    /// The same for changes.
    pub change: u64,
}

/// One anomaly in `/anomalies`: judged by the window of its device, or by the fleet's without one.
#[derive(Clone, Debug, PartialEq)]
pub struct AnomalyReport {
    /// Counts up from 1 for each anomaly of this process.
    pub serial: u64,
    /// The device, None for the fleet.
    pub device: Option<Arc<str>>,
    /// The metric.
    pub metric: Arc<str>,
    /// Its value with the highest score.
    pub value: f64,
    /// Mean of the window before that.
    pub mean: f64,
    /// Population standard deviation of the window before it.
    pub std_dev: f64,
    /// The distance from the mean that is still normal.
    pub reach: f64,
    /// The verdict on it.
    pub verdict: Verdict,
    /// The value's timestamp.
    pub timestamp_us: i64,
    /// When it arrived.
    pub arrived_us: i64,
    /// Which detector found it.
    pub detector: DetectorKind,
    /// The timestamp of its first value.
    pub start_us: i64,
    /// When that arrived.
    pub began_us: i64,
    /// The timestamp of the next normal value. None while it is open.
    pub end_us: Option<i64>,
    /// Its number of values.
    pub flags: u64,
    /// When its last value or its end arrived.
    pub changed_us: i64,
    /// The number of that change, counted over all anomalies of this process.
    pub change: u64,
}

/// One sample in `/latest`.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleReport {
    /// The device, None for none.
    pub device: Option<Arc<str>>,
    /// Its timestamp.
    pub timestamp_us: i64,
    /// When it arrived.
    pub arrived_us: i64,
    /// Names and values.
    pub readings: Vec<(Arc<str>, f64)>,
}
