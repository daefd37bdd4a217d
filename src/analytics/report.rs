//! What readers ask the analytics thread, and what it tells them.
//!
//! A question travels to the analytics thread, which first judges every block sent before it: so a
//! read sees each sample whose 202 had left. The report is a copy; the reader works on it in its own
//! time (percentiles, JSON), and the writer never waits.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::sample_queue::Sleeper;
use sigmad_detectors::{DetectorKind, Finding};
use sigmad_sample::{DeviceId, Verdict};

/// Questions waiting; past it askers wait too.
pub const QUESTIONS_MAX: usize = 1_024;
/// Devices in one report, whatever was asked: what is copied for one reader holds up the samples.
pub const DEVICES_REPORTED_MAX: usize = 1_000;
/// Samples in one report, whatever was asked, for the same reason.
pub const SAMPLES_REPORTED_MAX: usize = 1_000;

/// A question, with where to send the report. A dropped sender means that the server is stopping.
#[derive(Debug)]
pub enum Question {
    /// The windows of one device, or of the fleet.
    Windows(Option<DeviceId>, Scope, Sender<WindowsReport>),
    /// Devices in order.
    Devices(DevicesQuery, Sender<Vec<DeviceReport>>),
    /// The latest anomalies, newest first.
    Anomalies(AnomaliesQuery, Sender<Vec<AnomalyReport>>),
    /// The latest samples, newest first.
    Latest(RecentQuery, Sender<Vec<SampleReport>>),
    /// What was counted since the start.
    Totals(Sender<TotalsReport>),
}

/// Asks the analytics thread, from any thread but a worker: it waits for the report.
#[derive(Clone, Debug)]
pub struct Asker {
    questions: Sender<Question>,
    sleeper: Arc<Sleeper>,
}

/// Where questions go in, and where the analytics thread, which sleeps in `sleeper`, takes them out.
pub fn questions(sleeper: Arc<Sleeper>) -> (Asker, Receiver<Question>) {
    let (questions, asked) = bounded(QUESTIONS_MAX);
    (Asker { questions, sleeper }, asked)
}

impl Asker {
    /// Waits for the report. None once the analytics thread has stopped.
    pub fn ask<T>(&self, question: impl FnOnce(Sender<T>) -> Question) -> Option<T> {
        let (reply, report) = bounded(1);
        self.questions.send(question(reply)).ok()?;
        self.sleeper.wake();
        report.recv().ok()
    }
}

/// What the analytics thread has counted since the start.
#[derive(Clone, Debug, Default)]
pub struct TotalsReport {
    /// Samples judged.
    pub samples: u64,
    /// Anomalies by metric, of device windows and, for samples without a device, the fleet's.
    pub anomalies: Vec<(Arc<str>, u64)>,
    /// Devices with windows.
    pub devices: usize,
    /// Streams (device × metric) with windows.
    pub streams: usize,
}

/// What `/devices` asks for.
#[derive(Clone, Debug)]
pub struct DevicesQuery {
    /// At most so many.
    pub limit: usize,
    /// Largest first.
    pub sort: DevicesSort,
    /// Only those with this in their names, the case of ASCII letters aside; the one of exactly that
    /// name before all others.
    pub search: Option<Box<str>>,
}

/// The order of `/devices`; ties in the order of device ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DevicesSort {
    /// Largest score of any metric's last verdict.
    Score,
    /// Most recently heard from.
    LastSeen,
    /// Most anomalies so far.
    Anomalies,
}

/// What `/anomalies` asks for.
#[derive(Clone, Copy, Debug)]
pub struct AnomaliesQuery {
    /// Only this device.
    pub device: Option<DeviceId>,
    /// At most so many.
    pub limit: usize,
    /// Only those that began, went on or ended with a sample that arrived at or after it, microseconds
    /// since 1970.
    pub since_us: i64,
    /// Only those that changed after that change.
    pub after_change: u64,
}

/// What `/latest` asks for.
#[derive(Clone, Copy, Debug)]
pub struct RecentQuery {
    /// Only this device.
    pub device: Option<DeviceId>,
    /// At most so many.
    pub limit: usize,
    /// Only what arrived at or after it, microseconds since 1970.
    pub since_us: i64,
}

/// Whose values a report is about. Without a store beyond this process there is no difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All replicas': the windows that values are judged by.
    Cluster,
    /// This replica's own.
    Local,
}

/// The windows of one device, or of the fleet.
#[derive(Clone, Debug, Default)]
pub struct WindowsReport {
    /// One for each metric that was ever sent, in the order of metric ids.
    pub metrics: Vec<MetricReport>,
    /// The timestamp of the last sample.
    pub last_timestamp_us: Option<i64>,
    /// What other replicas had written by then is in it, microseconds since 1970. None without a store
    /// beyond this process, and before that has told anything.
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
    /// Of the last value, by the window of all.
    pub verdict: Verdict,
    /// What every detector said of the last value, the one that gives the verdict first.
    pub findings: Vec<Finding>,
    /// Values since the start.
    pub total_count: u64,
    /// Anomalies since the start.
    pub anomaly_count: u64,
}

/// One device in `/devices`.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceReport {
    /// Its name.
    pub device: Arc<str>,
    /// Largest score of any metric's last verdict.
    pub score: f64,
    /// True when the last verdict of any metric was an anomaly.
    pub is_anomaly: bool,
    /// The metric with that score.
    pub metric: Arc<str>,
    /// That metric's last value.
    pub last: f64,
    /// When it was last heard from, microseconds since 1970, by our clock.
    pub last_seen_us: i64,
    /// Samples since the start.
    pub total_count: u64,
    /// Anomalies since the start.
    pub anomaly_count: u64,
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
    /// The strangest value of it.
    pub value: f64,
    /// Mean of the window before that.
    pub mean: f64,
    /// Population standard deviation of the window before it.
    pub std_dev: f64,
    /// How far from the mean a value was to be expected.
    pub reach: f64,
    /// The verdict on it.
    pub verdict: Verdict,
    /// When it was, as the client said.
    pub timestamp_us: i64,
    /// When it arrived.
    pub arrived_us: i64,
    /// Which detector found it.
    pub detector: DetectorKind,
    /// When it began, as the client said.
    pub start_us: i64,
    /// When the next value was that is no anomaly, as the client said. None while it goes on.
    pub end_us: Option<i64>,
    /// Values flagged.
    pub flags: u64,
    /// When its last flag or its end arrived.
    pub changed_us: i64,
    /// Which change of all anomalies of this process that was.
    pub change: u64,
}

/// One sample in `/latest`.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleReport {
    /// The device, None for none.
    pub device: Option<Arc<str>>,
    /// As the client said.
    pub timestamp_us: i64,
    /// When it arrived.
    pub arrived_us: i64,
    /// Names and values.
    pub readings: Vec<(Arc<str>, f64)>,
}
