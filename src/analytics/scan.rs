//! `/devices`: a scan of all devices in steps, so that a million devices delay no sample.
//!
//! Each step compares devices as they are; the result is sorted by what they are at the end.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crossbeam_channel::Sender;

use crate::analytics::devices::{DEVICES_PER_CHUNK, DeviceEntry, DeviceStream, DeviceWindows};
use crate::analytics::metrics::KnownMetrics;
use crate::analytics::report::{
    DEVICES_REPORTED_MAX, DeviceRank, DeviceReport, DevicesQuery, DevicesSort, RankedDevice,
};
use sigmad_sample::DeviceId;

/// Chunks of devices in one step: some 20 µs, several times that where names are searched.
const CHUNKS_PER_STEP: usize = 2;

/// One scan that is under way.
#[derive(Debug)]
pub struct DeviceScan {
    sort: DevicesSort,
    limit: usize,
    search: Option<Box<str>>,
    after: Option<u32>,
    reply: Sender<Vec<RankedDevice>>,
    next: usize,
    /// The first devices so far, the last of them on top, with their generations.
    best: BinaryHeap<Reverse<(DeviceRank, u32)>>,
}

impl DeviceScan {
    pub fn new(query: DevicesQuery, reply: Sender<Vec<RankedDevice>>) -> Self {
        let limit = query.limit.min(DEVICES_REPORTED_MAX);
        let DevicesQuery { sort, search, after, .. } = query;
        let best = BinaryHeap::with_capacity(limit);
        // What comes before the page is not looked at.
        let first = after.map_or(0, |after| after as usize + 1);
        let next = first - first % DEVICES_PER_CHUNK;
        Self { sort, limit, search, after, reply, next, best }
    }

    /// Takes one step. True when all devices have been compared.
    pub fn advance(&mut self, devices: &DeviceWindows, metrics: &KnownMetrics) -> bool {
        for _ in 0..CHUNKS_PER_STEP {
            for (index, device) in (self.next as u32..).zip(devices.chunk_from(self.next)) {
                if let Some(name) = &device.name
                    && self.after.is_none_or(|after| index > after)
                    && self.search.as_deref().is_none_or(|part| has_part(name, part))
                    && (self.sort != DevicesSort::Device
                        || self.is_of_page(index, device.generation, metrics))
                {
                    self.consider(index, device, name);
                }
            }
            self.next += DEVICES_PER_CHUNK;
        }
        self.next >= devices.entries()
    }

    /// Indexes ascend, so the first ones are the page. An evicted device takes no place on it: a page of
    /// these alone would look like the end.
    fn is_of_page(&self, index: u32, generation: u32, metrics: &KnownMetrics) -> bool {
        self.best.len() < self.limit && metrics.is_device(DeviceId { index, generation })
    }

    #[inline]
    fn consider(&mut self, index: u32, device: &DeviceEntry, name: &str) {
        let is_exact = self.search.as_deref() == Some(name);
        let rank = (is_exact, key(self.sort, device), Reverse(index));
        if self.best.len() < self.limit {
            self.best.push(Reverse((rank, device.generation)));
        } else if let Some(mut worst) = self.best.peek_mut()
            && rank > worst.0.0
        {
            *worst = Reverse((rank, device.generation));
        }
    }

    /// Reports the first devices that still exist, here and in the registry.
    pub fn reply(self, devices: &DeviceWindows, metrics: &KnownMetrics) {
        let mut found: Vec<RankedDevice> = self
            .best
            .into_iter()
            .filter_map(|Reverse(((is_exact, _, Reverse(index)), generation))| {
                let id = DeviceId { index, generation };
                // An evicted device keeps its entry here until another takes it.
                let device = devices.get(id).filter(|_| metrics.device_name(id).is_some())?;
                let rank = (is_exact, key(self.sort, device), Reverse(index));
                Some(RankedDevice { rank, report: report(devices, metrics, device, index)? })
            })
            .collect();
        found.sort_unstable_by_key(|device| Reverse(device.rank));
        // Err: the reader has gone.
        let _ = self.reply.try_send(found);
    }
}

/// Whether `name` contains `part`, without regard to the case of ASCII letters.
pub fn has_part(name: &str, part: &str) -> bool {
    name.as_bytes().windows(part.len()).any(|found| found.eq_ignore_ascii_case(part.as_bytes()))
}

fn key(sort: DevicesSort, device: &DeviceEntry) -> u64 {
    match sort {
        // The bits of floats of 0 and up have the order of the floats.
        DevicesSort::Score => device.highest_score().map_or(0, |stream| stream.score.to_bits()),
        DevicesSort::LastSeen => device.last.seen_us.max(0) as u64,
        DevicesSort::Device => 0,
        DevicesSort::Anomalies => device.own.anomalies + device.others.anomalies,
    }
}

fn report(
    devices: &DeviceWindows,
    metrics: &KnownMetrics,
    device: &DeviceEntry,
    index: u32,
) -> Option<DeviceReport> {
    let highest = device.highest_score()?;
    let (stream, ring) = devices.arena.get(highest.place());
    let counts = device.own + device.others;
    Some(DeviceReport {
        index,
        device: device.name.clone()?,
        score: highest.score,
        is_anomaly: device.streams.iter().any(DeviceStream::is_anomaly),
        metric: metrics.name(highest.metric)?,
        last: stream.window.last(ring)?,
        last_seen_us: device.last.seen_us,
        total_count: counts.total,
        anomaly_count: counts.anomalies,
    })
}
