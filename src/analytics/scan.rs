//! `/devices`: a look at all devices in steps, so that a million of them never hold up a sample.
//!
//! Each device is compared as its step finds it; the best are reported, and ordered, as they are at
//! the end.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crossbeam_channel::Sender;

use crate::analytics::report::{DEVICES_REPORTED_MAX, DeviceReport, DevicesQuery, DevicesSort};
use crate::analytics::streams::{DEVICES_PER_CHUNK, DeviceEntry, Streams};
use sigmad_sample::DeviceId;

/// Devices looked at in one step: some 20 µs, and several times that where names are searched.
const CHUNKS_PER_STEP: usize = 2;

/// What a device is ordered by, larger first; of equals the lower index first. True: of the very name
/// that was searched.
type Rank = (bool, u64, Reverse<u32>);

/// One question on its way through the devices.
#[derive(Debug)]
pub struct DeviceScan {
    sort: DevicesSort,
    limit: usize,
    search: Option<Box<str>>,
    reply: Sender<Vec<DeviceReport>>,
    next: usize,
    /// The best so far, the worst of them on top, with their generations.
    best: BinaryHeap<Reverse<(Rank, u32)>>,
}

impl DeviceScan {
    pub fn new(query: DevicesQuery, reply: Sender<Vec<DeviceReport>>) -> Self {
        let limit = query.limit.min(DEVICES_REPORTED_MAX);
        let DevicesQuery { sort, search, .. } = query;
        Self { sort, limit, search, reply, next: 0, best: BinaryHeap::with_capacity(limit) }
    }

    /// Looks at some more devices. True when it has seen all.
    pub fn advance(&mut self, streams: &Streams) -> bool {
        for _ in 0..CHUNKS_PER_STEP {
            for (index, device) in (self.next as u32..).zip(streams.chunk_from(self.next)) {
                if let Some(name) = &device.name
                    && self.search.as_deref().is_none_or(|part| has_part(name, part))
                {
                    self.consider(index, device, name);
                }
            }
            self.next += DEVICES_PER_CHUNK;
        }
        self.next >= streams.places()
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

    /// Reports the best that are still there, both here and in the registry.
    pub fn reply(self, streams: &Streams) {
        let mut found: Vec<(Rank, DeviceReport)> = self
            .best
            .into_iter()
            .filter_map(|Reverse(((is_exact, _, Reverse(index)), generation))| {
                let id = DeviceId { index, generation };
                let device = streams.device(id).filter(|_| streams.is_current(id))?;
                let rank = (is_exact, key(self.sort, device), Reverse(index));
                Some((rank, report(streams, device)?))
            })
            .collect();
        found.sort_unstable_by_key(|(rank, _)| Reverse(*rank));
        // Err: who asked has gone.
        let _ = self.reply.try_send(found.into_iter().map(|(_, report)| report).collect());
    }
}

/// True when `part` stands somewhere in `name`, the case of ASCII letters aside.
fn has_part(name: &str, part: &str) -> bool {
    name.as_bytes().windows(part.len()).any(|found| found.eq_ignore_ascii_case(part.as_bytes()))
}

fn key(sort: DevicesSort, device: &DeviceEntry) -> u64 {
    match sort {
        // The bits of floats that are not negative are ordered as they are.
        DevicesSort::Score => device.strangest().map_or(0, |stream| stream.score.to_bits()),
        DevicesSort::LastSeen => device.last.seen_us.max(0) as u64,
        DevicesSort::Anomalies => device.own.anomalies + device.others.anomalies,
    }
}

fn report(streams: &Streams, device: &DeviceEntry) -> Option<DeviceReport> {
    let strangest = device.strangest()?;
    let (stream, ring) = streams.arena.get(strangest.place);
    let counts = device.own + device.others;
    Some(DeviceReport {
        device: device.name.clone()?,
        score: strangest.score,
        is_anomaly: device.streams.iter().any(|stream| stream.is_anomaly),
        metric: streams.metric_name(strangest.metric),
        last: stream.window.last(ring)?,
        last_seen_us: device.last.seen_us,
        total_count: counts.total,
        anomaly_count: counts.anomalies,
    })
}
