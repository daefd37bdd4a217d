//! What the clients know, and the laws that it must obey.
//!
//! | law | when |
//! | --- | --- |
//! | samples taken by the store = those with an outcome + those in its queue | each time a store thread waits |
//! | a read includes all samples of its process with a 202, and never fewer than an earlier read | each read |
//! | readiness is not ok long after the last reply of a Redis | each read |
//! | `syncedAt` stands still while Redis refuses to mark changes | each read |
//! | every 202 has exactly one outcome, and a drain ends by its deadline | each exit |
//! | what is counted as stored is in Redis, unless its process was killed during a failover | at rest |
//! | the counts that Redis has of a process are the last that it wrote | at rest |
//! | all replicas show the window that Redis has, and its verdict | at rest |
//! | a window holds the newest values, by the true time of their arrival | at rest |
//! | the counts of all replicas together are those of the clients | at rest |
//! | all replicas list the same anomalies and samples, the last of each replica among them | at rest |

use std::collections::HashMap;

use sigmad::analytics::report::{Scope, WindowsReport};
use sigmad::shared_lists::{ListKind, ListPlace};
use sigmad::store::commands::SampleKeys;
use sigmad::store::keys;

use crate::keyspace::Keyspace;
use crate::process::{PendingRead, Phase, Process};
use crate::random::Random;
use crate::simulation::{Violation, timestamp_us};
use crate::world::{EPOCH_US, MS, SECOND, now_ns, with};

/// The metrics of the clients.
const METRICS: [&str; 2] = ["rps", "cpu"];
/// Values that arrive within this time may be in any order: replicas know Redis' time by half a round trip, and
/// the clocks of two Redis differ a little.
const ORDER_WITHIN_NS: u64 = 3 * SECOND;
/// A process says that Redis is ok for so long without a reply: it waits 5 s for the replies to one batch, and before
/// for a sentinel, and begins a flush every half second.
const SILENT_NS: u64 = 15 * SECOND;
/// `syncedAt` is a time after the mark of its flush: a round trip of 400 ms each way, and drifting clocks.
const SYNCED_WITHIN_US: i64 = 2_000_000;
/// Verdicts are computed from the same values by different sums.
const VERDICT_TOLERANCE: f64 = 1e-6;
/// A window needs so many values before a verdict.
const MIN_SAMPLES: usize = 10;

/// A sample that a client posts.
pub struct Drawn {
    subject: usize,
    pub device: Option<String>,
    pub timestamp_us: i64,
    pub readings: Vec<(&'static str, f64)>,
}

/// A sample with a 202.
struct Accepted {
    process: usize,
    device: Option<String>,
    timestamp_us: i64,
}

/// One value with a 202.
#[derive(Clone, Copy)]
struct AcceptedValue {
    at_ns: u64,
    process: usize,
}

/// What a process says at rest; no report for a device that it does not know.
pub struct RestReport {
    pub process: usize,
    pub subject: usize,
    pub report: Option<WindowsReport>,
}

pub struct Ledger {
    devices: usize,
    serial: u64,
    samples: Vec<Accepted>,
    /// By the bits of the value: no two are the same.
    values: HashMap<u64, AcceptedValue>,
    /// By subject and metric, in the order of their arrival.
    streams: HashMap<(usize, usize), Vec<AcceptedValue>>,
    /// Readings of the first metric, by process and subject.
    own: Vec<Vec<u64>>,
    /// The most that a read of that process and subject has shown.
    seen: Vec<Vec<u64>>,
}

fn violated<T>(text: String) -> Result<T, Violation> {
    Err(Violation(text))
}

impl Ledger {
    pub fn new(devices: usize) -> Self {
        Self {
            devices,
            serial: 0,
            samples: Vec::new(),
            values: HashMap::new(),
            streams: HashMap::new(),
            own: Vec::new(),
            seen: Vec::new(),
        }
    }

    pub fn add_process(&mut self) {
        self.own.push(vec![0; self.devices + 1]);
        self.seen.push(vec![0; self.devices + 1]);
    }

    /// None for the fleet.
    pub fn name_of(subject: usize) -> Option<String> {
        (subject > 0).then(|| format!("device-{subject}"))
    }

    pub fn own(&self, process: usize, subject: usize) -> u64 {
        self.own[process][subject]
    }

    pub fn accepted(&self) -> u64 {
        self.samples.len() as u64
    }

    pub fn draw(&mut self, samples: usize, random: &mut Random) -> Vec<Drawn> {
        let mut drawn = Vec::with_capacity(samples);
        for _ in 0..samples {
            self.serial += 1;
            let subject = random.below(self.devices + 1);
            let metrics = if random.chance(30) { 2 } else { 1 };
            // The last digits are the number of the sample, so that no two values are the same.
            let value =
                |random: &mut Random| (random.within(0..1_000) * 10_000_000 + self.serial) as f64;
            let readings = (0..metrics)
                .map(|metric| (METRICS[metric], value(random) + 0.5 * metric as f64))
                .collect();
            let device = Self::name_of(subject);
            let timestamp_us = timestamp_us(self.serial);
            drawn.push(Drawn { subject, device, timestamp_us, readings });
        }
        drawn
    }

    /// The samples have their 202.
    pub fn accept(&mut self, process: usize, drawn: Vec<Drawn>) {
        let value = AcceptedValue { at_ns: now_ns(), process };
        for Drawn { subject, device, timestamp_us, readings } in drawn {
            for (metric, (_, number)) in readings.iter().enumerate() {
                self.values.insert(number.to_bits(), value);
                self.streams.entry((0, metric)).or_default().push(value);
                if subject > 0 {
                    self.streams.entry((subject, metric)).or_default().push(value);
                }
            }
            self.own[process][0] += 1;
            self.own[process][subject] += u64::from(subject > 0);
            self.samples.push(Accepted { process, device, timestamp_us });
        }
    }

    pub fn check_queue(&self, process: &Process) -> Result<(), Violation> {
        if process.is_queue_counted() {
            return Ok(());
        }
        violated(format!(
            "process {}: samples are neither in the queue nor finished",
            process.index
        ))
    }

    pub fn check_read(
        &mut self,
        process: usize,
        read: &PendingRead,
        report: &WindowsReport,
        never_back: bool,
    ) -> Result<(), Violation> {
        let PendingRead { subject, scope, own, .. } = *read;
        let found = report.metrics.iter().find(|metric| &*metric.metric == METRICS[0]);
        let total = found.map_or(0, |metric| metric.total_count);
        if total < own {
            return violated(format!(
                "process {process}: a read of subject {subject} shows {total} of {own} own values"
            ));
        }
        if scope == Scope::Cluster {
            let seen = &mut self.seen[process][subject];
            if never_back && total < *seen {
                return violated(format!(
                    "process {process}: reads of subject {subject} go back from {seen} to {total}"
                ));
            }
            *seen = total.max(*seen);
        }
        Ok(())
    }

    /// Readiness says what is true: it is not ok long after the last reply of a Redis.
    pub fn check_readiness(&self, process: &Process) -> Result<(), Violation> {
        let silent_ns = now_ns() - with(|world| world.replied_ns[process.index]);
        if !process.says_up() || silent_ns < SILENT_NS {
            return Ok(());
        }
        violated(format!(
            "process {}: says that Redis is ok, without a reply for {} ms",
            process.index,
            silent_ns / MS
        ))
    }

    pub fn check_exit(&self, process: &Process) -> Result<(), Violation> {
        let (accepted, outcomes) = (process.accepted, process.outcomes());
        if process.judged() != Some(accepted) {
            return violated(format!(
                "process {}: {accepted} accepted, {:?} judged",
                process.index,
                process.judged()
            ));
        }
        if process.is_store_lost {
            return violated(format!("process {}: its store ends after the drain", process.index));
        }
        if outcomes != accepted {
            return violated(format!(
                "process {}: {accepted} accepted, but {outcomes} outcomes at exit",
                process.index
            ));
        }
        Ok(())
    }

    pub fn check_rest(
        &self,
        data: &mut Keyspace,
        processes: &[Process],
        reports: &[RestReport],
        may_lose: bool,
    ) -> Result<(), Violation> {
        if may_lose {
            return Ok(());
        }
        let waits = |process: &&Process| process.is_alive() && process.waiting() > 0;
        if let Some(process) = processes.iter().find(waits) {
            return violated(format!("process {}: values wait for detector states", process.index));
        }
        self.check_stored(data, processes)?;
        if processes.iter().any(|process| process.dropped() > 0) {
            return Ok(());
        }
        self.check_counts(data, processes)?;
        for RestReport { process, subject, report } in reports {
            for metric in 0..METRICS.len() {
                self.check_stream(data, processes, *process, (*subject, metric), report.as_ref())?;
            }
        }
        Ok(())
    }

    /// What is counted as stored is in Redis. A process that is killed while another Redis becomes the master cannot
    /// write again what that one lacks.
    fn check_stored(&self, data: &mut Keyspace, processes: &[Process]) -> Result<(), Violation> {
        if processes.iter().any(|process| process.sample_keys == SampleKeys::None) {
            return Ok(());
        }
        let mut present = vec![0; processes.len()];
        for sample in &self.samples {
            let mut key = Vec::new();
            keys::write_sample_key(&mut key, sample.device.as_deref(), sample.timestamp_us);
            let is_present = data.has(str::from_utf8(&key).expect("it is text"));
            present[sample.process] += u64::from(is_present);
        }
        for (process, present) in processes.iter().zip(present) {
            let stored = process.safe_stored();
            if present < stored {
                return violated(format!(
                    "process {}: {stored} samples are counted as stored, and Redis has {present}",
                    process.index
                ));
            }
        }
        Ok(())
    }

    /// The lists of all processes that run are the same, and have the last sample of each.
    pub fn check_lists(processes: &[&Process]) -> Result<(), Violation> {
        for kind in ListKind::ALL {
            let listed = |process: &Process| {
                let page = process.lists.newest(kind, usize::MAX, |_, entry| Some(entry.change));
                (page.rows, page.own.map_or(0, |own| own.sum()))
            };
            let mut first = None;
            for process in processes {
                let what = format!("process {}, {}", process.index, kind.name());
                if !process.lists.scope().is_cluster {
                    return violated(format!("{what}: not the cluster's, and Redis answers"));
                }
                let (rows, last) = listed(process);
                if kind == ListKind::Samples && last != process.accepted {
                    return violated(format!("{what}: {last} of {} are listed", process.accepted));
                }
                match &first {
                    None => first = Some((process.index, rows)),
                    Some((_, known)) if *known == rows => {}
                    Some((other, known)) => {
                        let only = |of: &[(ListPlace, u64)], not: &[(ListPlace, u64)]| {
                            of.iter().filter(|row| !not.contains(row)).copied().collect::<Vec<_>>()
                        };
                        return violated(format!(
                            "{what}: {:?} are only here, {:?} only at process {other}",
                            only(&rows, known),
                            only(known, &rows)
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// The counts that Redis has of each process are its last.
    fn check_counts(&self, data: &mut Keyspace, processes: &[Process]) -> Result<(), Violation> {
        for process in processes.iter().filter(|process| process.phase != Phase::Killed) {
            for (subject, &own) in self.own[process.index].iter().enumerate() {
                let (mut key, mut field) = (Vec::new(), Vec::new());
                keys::write_counts_key(&mut key, Self::name_of(subject).as_deref());
                keys::write_field(&mut field, process.id, Some(METRICS[0]));
                let counts = data.field(&key, &field);
                let total = counts.and_then(|text| keys::read_counts(&text)).map_or(0, |c| c.total);
                if total != own {
                    return violated(format!(
                        "process {}: Redis has {total} values of subject {subject}, and it wrote {own}",
                        process.index
                    ));
                }
            }
        }
        Ok(())
    }

    /// The window of one stream, as a process shows it and as Redis has it.
    fn check_stream(
        &self,
        data: &mut Keyspace,
        processes: &[Process],
        process: usize,
        stream: (usize, usize),
        report: Option<&WindowsReport>,
    ) -> Result<(), Violation> {
        let (subject, metric) = stream;
        let mut key = Vec::new();
        let name = Self::name_of(subject);
        keys::write_window_key(&mut key, name.as_deref(), METRICS[metric]);
        let members = data.members(str::from_utf8(&key).expect("it is text"));
        let read = |member: &Vec<u8>| keys::Member::read(member).expect("sigmad wrote it").value;
        let all: Vec<f64> = members.iter().map(read).collect();
        let window_len = processes[process].window;
        let window = &all[all.len().saturating_sub(window_len)..];
        let what = format!("process {process}, {} of subject {subject}", METRICS[metric]);
        let found = report.and_then(|report| {
            report.metrics.iter().find(|found| &*found.metric == METRICS[metric])
        });
        let Some(found) = found else {
            if window.is_empty() || self.is_forgotten(data, processes, subject) {
                return Ok(());
            }
            return violated(format!("{what}: no window, and Redis has {} values", window.len()));
        };
        if found.values != window {
            return violated(format!(
                "{what}: the window is not that of Redis: {:?} and {window:?}",
                found.values
            ));
        }
        self.check_order(&what, (window, window_len), processes, stream)?;
        self.check_count(&what, found.total_count, processes, stream)?;
        check_verdict(&what, found.verdict.z_score, &all, window_len)
    }

    /// Every process that had samples of a device was killed before Redis took its mark, or before the marks were
    /// lost: nobody knows of it until its next sample.
    fn is_forgotten(&self, data: &mut Keyspace, processes: &[Process], subject: usize) -> bool {
        let knows = |process: &&Process| self.own[process.index][subject] > 0;
        let name = Self::name_of(subject).unwrap_or_default();
        processes.iter().filter(knows).all(|process| process.phase == Phase::Killed)
            && !data.members(keys::CHANGED).contains(&name.into_bytes())
    }

    /// No value is in the window whose place belongs to one that came later.
    fn check_order(
        &self,
        what: &str,
        (window, window_len): (&[f64], usize),
        processes: &[Process],
        stream: (usize, usize),
    ) -> Result<(), Violation> {
        let accepted = self.streams.get(&stream).map_or(&[][..], |values| values);
        // A process that was killed may have lost its last ones.
        let kept = accepted.iter().filter(|value| processes[value.process].phase != Phase::Killed);
        let times: Vec<u64> = kept.map(|value| value.at_ns).collect();
        let Some(at) = times.len().checked_sub(window_len) else { return Ok(()) };
        let oldest_ns = times[at].saturating_sub(ORDER_WITHIN_NS);
        for value in window {
            let Some(known) = self.values.get(&value.to_bits()) else {
                return violated(format!("{what}: no client sent {value}"));
            };
            if known.at_ns < oldest_ns {
                return violated(format!(
                    "{what}: a value of {} ms in the window, though {} newer ones came after {} ms",
                    known.at_ns / 1_000_000,
                    window_len,
                    times[at] / 1_000_000
                ));
            }
        }
        Ok(())
    }

    fn check_count(
        &self,
        what: &str,
        total: u64,
        processes: &[Process],
        stream: (usize, usize),
    ) -> Result<(), Violation> {
        let accepted = self.streams.get(&stream).map_or(&[][..], |values| values);
        let is_killed = |value: &&AcceptedValue| processes[value.process].phase == Phase::Killed;
        let lost = accepted.iter().filter(is_killed).count() as u64;
        let all = accepted.len() as u64;
        if (all - lost..=all).contains(&total) {
            return Ok(());
        }
        violated(format!("{what}: {total} values in all, and clients have {all} accepted"))
    }
}

/// `syncedAt` stands still while Redis refuses to mark changes. The wall clock of the process is right.
pub fn check_synced(process: &Process, report: &WindowsReport) -> Result<(), Violation> {
    let Some(synced_us) = report.synced_at_us else { return Ok(()) };
    let marked_us = EPOCH_US + (with(|world| world.marked_ns[process.index]) / 1_000) as i64;
    if synced_us <= marked_us + SYNCED_WITHIN_US {
        return Ok(());
    }
    violated(format!(
        "process {}: syncedAt is {} ms after the last mark that Redis has taken",
        process.index,
        (synced_us - marked_us) / 1_000
    ))
}

/// The verdict on the last value follows from the window before it.
fn check_verdict(what: &str, z_score: f64, all: &[f64], window: usize) -> Result<(), Violation> {
    let Some((last, before)) = all.split_last() else { return Ok(()) };
    let before = &before[before.len().saturating_sub(window)..];
    if before.len() < MIN_SAMPLES.min(window) {
        return Ok(());
    }
    let count = before.len() as f64;
    let mean = before.iter().sum::<f64>() / count;
    let variance = before.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    let expected = (last - mean) / variance.sqrt();
    if !expected.is_finite()
        || (z_score - expected).abs() <= VERDICT_TOLERANCE * expected.abs().max(1.0)
    {
        return Ok(());
    }
    violated(format!("{what}: the z-score is {z_score}, and the window says {expected}"))
}
