//! `/devices`: a scan of all devices in steps, so that a million devices delay no sample.
//!
//! Each step compares devices as they are; the result is sorted by what they are at the end. Ties go by name, so that
//! replicas that know the same devices give the same order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::analytics::arena::{MetricStream, StreamRecord};
use crate::analytics::devices::{DEVICES_PER_CHUNK, DeviceEntry, DeviceWindows};
use crate::analytics::last_sample::LastSample;
use crate::analytics::metrics::KnownMetrics;
use crate::analytics::report::{
    DEVICES_REPORTED_MAX, DeviceRank, DeviceReport, DevicesQuery, DevicesSort, RankedDevice, Scope,
};
use crate::judged_queue::JudgedCounts;
use sigmad_detectors::window::Window;
use sigmad_sample::{DeviceId, MetricId, Verdict};

/// One scan that is under way.
#[derive(Debug)]
pub struct DeviceScan {
    query: DevicesQuery,
    limit: usize,
    reply: Sender<Vec<RankedDevice>>,
    next: usize,
    /// The first devices so far, the last of them on top, with index and generation.
    best: BinaryHeap<Reverse<(DeviceRank, u32, u32)>>,
}

impl DeviceScan {
    pub fn new(query: DevicesQuery, reply: Sender<Vec<RankedDevice>>) -> Self {
        let limit = query.limit.min(DEVICES_REPORTED_MAX);
        Self { query, limit, reply, next: 0, best: BinaryHeap::with_capacity(limit) }
    }

    /// Takes one step: a chunk of devices, some 10 µs, and several times that where names or scores are searched. True when
    /// all devices have been compared.
    pub fn advance(&mut self, devices: &DeviceWindows, metrics: &KnownMetrics) -> bool {
        for (index, device) in (self.next as u32..).zip(devices.chunk_from(self.next)) {
            let DevicesQuery { search, after, scope, .. } = &self.query;
            if let Some(name) = &device.name
                && after.as_deref().is_none_or(|after| &**name > after)
                && search.as_deref().is_none_or(|part| has_part(name, part))
                && (*scope == Scope::Cluster || device.own.total > 0)
            {
                self.consider(index, device, name, devices, metrics);
            }
        }
        self.next += DEVICES_PER_CHUNK;
        self.next >= devices.entries()
    }

    #[inline]
    fn consider(
        &mut self,
        index: u32,
        device: &DeviceEntry,
        name: &Arc<str>,
        devices: &DeviceWindows,
        metrics: &KnownMetrics,
    ) {
        let (is_exact, key) = (self.is_exact(name), key(&self.query, device, devices));
        if self.best.len() >= self.limit {
            let Some(Reverse((worst, ..))) = self.best.peek() else { return };
            let is_better = (is_exact, key, Reverse(&**name))
                > (worst.is_exact, worst.key, Reverse(&*worst.name.0));
            if !is_better {
                return;
            }
        }
        // An evicted device takes no place on a page: one of these alone would look like the end.
        let generation = device.generation;
        let is_paged = self.query.sort == DevicesSort::Device;
        if is_paged && !metrics.is_device(DeviceId { index, generation }) {
            return;
        }
        if self.best.len() >= self.limit {
            self.best.pop();
        }
        let rank = DeviceRank { is_exact, key, name: Reverse(name.clone()) };
        self.best.push(Reverse((rank, index, generation)));
    }

    /// The device of exactly the name that is searched for comes first, but where devices are paged through.
    fn is_exact(&self, name: &str) -> bool {
        self.query.sort != DevicesSort::Device && self.query.search.as_deref() == Some(name)
    }

    /// Reports the first devices that still exist, here and in the registry.
    pub fn reply(self, devices: &DeviceWindows, metrics: &KnownMetrics) {
        let Self { query, reply, best, .. } = self;
        let mut found: Vec<RankedDevice> = best
            .into_iter()
            .filter_map(|Reverse((rank, index, generation))| {
                let id = DeviceId { index, generation };
                // An evicted device keeps its entry here until another takes it.
                let device = devices.get(id).filter(|_| metrics.device_name(id).is_some())?;
                let rank = DeviceRank { key: key(&query, device, devices), ..rank };
                Some(RankedDevice { rank, report: report(query.scope, devices, metrics, device)? })
            })
            .collect();
        found.sort_unstable_by(|one, other| other.rank.cmp(&one.rank));
        // Err: the reader has gone.
        let _ = reply.try_send(found);
    }
}

/// Whether `name` contains `part`, without regard to the case of ASCII letters.
pub fn has_part(name: &str, part: &str) -> bool {
    name.as_bytes().windows(part.len()).any(|found| found.eq_ignore_ascii_case(part.as_bytes()))
}

fn key(query: &DevicesQuery, device: &DeviceEntry, devices: &DeviceWindows) -> u64 {
    let scope = query.scope;
    match query.sort {
        // The bits of floats of 0 and up have the order of the floats.
        DevicesSort::Score => {
            highest(scope, device, devices).map_or(0, |stream| stream.verdict.score.to_bits())
        }
        DevicesSort::LastSeen => last_seen_us(device, scope).max(0) as u64,
        DevicesSort::Device => 0,
        DevicesSort::Anomalies => counts(scope, device).anomalies,
    }
}

/// Samples of a device and anomalies in them, of all replicas or of this one.
fn counts(scope: Scope, device: &DeviceEntry) -> JudgedCounts {
    match scope {
        Scope::Cluster => device.own + device.others,
        Scope::Local => device.own,
    }
}

/// When its last sample arrived, at any replica or at this one.
fn last_seen_us(device: &DeviceEntry, scope: Scope) -> i64 {
    let seen_us = device.last.seen_us;
    if scope == Scope::Cluster || LastSample::seconds(seen_us) == device.own_seen_s {
        return seen_us;
    }
    i64::from(device.own_seen_s) * 1_000_000
}

/// A stream of a device by the values of a scope.
struct ScopedStream<'a> {
    metric: MetricId,
    verdict: Verdict,
    window: &'a Window,
    ring: &'a [f64],
}

/// Those that have values.
fn streams<'a>(
    scope: Scope,
    device: &'a DeviceEntry,
    devices: &'a DeviceWindows,
) -> impl Iterator<Item = ScopedStream<'a>> {
    device.streams.iter().filter_map(move |&MetricStream { metric, place }| {
        let (stream, ring) = match scope {
            Scope::Cluster => devices.arena.get(place),
            Scope::Local => devices.arena.own(place)?,
        };
        let StreamRecord { window, verdict, .. } = stream;
        let verdict = verdict.verdict();
        (window.count() > 0).then_some(ScopedStream { metric, verdict, window, ring })
    })
}

/// The stream with the highest score, the first of equals.
fn highest<'a>(
    scope: Scope,
    device: &'a DeviceEntry,
    devices: &'a DeviceWindows,
) -> Option<ScopedStream<'a>> {
    streams(scope, device, devices)
        .reduce(|best, next| if next.verdict.score > best.verdict.score { next } else { best })
}

fn report(
    scope: Scope,
    devices: &DeviceWindows,
    metrics: &KnownMetrics,
    device: &DeviceEntry,
) -> Option<DeviceReport> {
    let ScopedStream { metric, verdict, window, ring } = highest(scope, device, devices)?;
    let counts = counts(scope, device);
    Some(DeviceReport {
        device: device.name.clone()?,
        score: verdict.score,
        is_anomaly: streams(scope, device, devices).any(|stream| stream.verdict.is_anomaly),
        metric: metrics.name(metric)?,
        last: window.last(ring)?,
        last_seen_us: last_seen_us(device, scope),
        total_count: counts.total,
        anomaly_count: counts.anomalies,
    })
}
