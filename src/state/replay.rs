//! The journal to shards: names are admitted, and each chunk is judged again by the shards that have its samples now.

use std::collections::HashSet;
use std::sync::Arc;

use crossbeam_channel::Sender;
use sigmad_sample::{Batch, DeviceId, MetricId, Reading, Sample};
use sigmad_state::{ShardJournal, StateError};

use super::counters::StateCounters;
use crate::analytics::saved::link::{ReplayedChunk, RestoreMessage};
use crate::journal::record::{Admission, RecordDecoder};
use crate::registry::Registry;
use crate::shards::{ShardLayout, ShardPart};

/// Passes the chunks of journals to the shards of this process.
#[derive(Debug)]
pub(super) struct Replay {
    names: Names,
    layout: ShardLayout,
    counters: Arc<StateCounters>,
    ways: Vec<Sender<RestoreMessage>>,
    batch: Batch,
}

/// Admits what records name.
#[derive(Debug)]
struct Names {
    registry: Arc<Registry>,
    counters: Arc<StateCounters>,
    /// Streams that have room, by index and slot.
    streams: HashSet<(u32, u16)>,
}

impl Admission for Names {
    fn device(&mut self, there: DeviceId, name: &str) -> Option<DeviceId> {
        let here = self.registry.restore_device(name, there.index, &[]).ok();
        self.counters.devices_without_room_total.add(u64::from(here.is_none()));
        here
    }

    fn metric(&mut self, there: MetricId, name: &str) -> Option<MetricId> {
        let here = self.registry.restore_metric(name, there.slot());
        self.counters.records_lost_total.add(u64::from(here.is_none()));
        here
    }
}

impl Names {
    /// Whether a stream has room: it gets it where there is some.
    fn has_stream(&mut self, device: DeviceId, metric: MetricId) -> bool {
        let stream = (device.index, metric.slot() as u16);
        if self.streams.contains(&stream) {
            return true;
        }
        let name = self.registry.device_name(device);
        let has_room = name.is_some_and(|name| {
            self.registry.restore_device(&name, device.index, &[metric]).is_ok()
        });
        if has_room {
            self.streams.insert(stream);
        }
        has_room
    }
}

impl Replay {
    /// `ways` has a way to each shard of the layout.
    pub fn new(
        registry: Arc<Registry>,
        layout: ShardLayout,
        counters: Arc<StateCounters>,
        ways: Vec<Sender<RestoreMessage>>,
    ) -> Self {
        let names = Names { registry, counters: counters.clone(), streams: HashSet::new() };
        Self { names, layout, counters, ways, batch: Batch::default() }
    }

    /// Passes the records of a journal on. `progress` is told the bytes of each, and ends it by false.
    ///
    /// # Errors
    /// When a file has been damaged since it was checked: the rest of the journal is lost.
    pub fn journal(
        &mut self,
        journal: &ShardJournal,
        mut progress: impl FnMut(usize) -> bool,
    ) -> Result<bool, StateError> {
        let there = part_of(journal.shard as usize, journal.shards as usize);
        let mut decoder = RecordDecoder::default();
        // The names of a segment stand at its beginning, and a snapshot may replace that.
        let mut records = journal.records_and_replaced();
        let mut next = journal.first;
        while let Some((position, record)) = records.next_record()? {
            if position < next {
                decoder.learn(record);
                if !progress(record.len()) {
                    return Ok(false);
                }
                continue;
            }
            next = position + 1;
            match decoder.decode(record, &mut self.names, &mut self.batch) {
                Some(arrived_us) => self.chunk(there, arrived_us),
                None => self.counters.records_lost_total.add(1),
            }
            self.counters.replayed_records_total.add(1);
            if !progress(record.len()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Passes a chunk to each shard that has a part of it.
    fn chunk(&mut self, there: ShardPart, arrived_us: i64) {
        let batch = std::mem::take(&mut self.batch);
        for shard in 0..self.layout.threads() {
            let Some(part) = common_part(there, self.layout.part(shard)) else { continue };
            let mut ours = Batch::default();
            for (sample, readings) in batch.iter() {
                self.sample(shard, part, &sample, readings, &mut ours);
            }
            if !ours.is_empty() {
                let chunk = ReplayedChunk { part, arrived_us, batch: ours };
                // Err: the shard's thread has ended, and with it the process.
                let _ = self.ways[shard].send(RestoreMessage::Chunk(chunk));
            }
        }
        self.batch = batch;
    }

    /// Adds a sample if the shard has it. A value whose stream has no room is left out where the stream would be.
    fn sample(
        &mut self,
        shard: usize,
        part: ShardPart,
        sample: &Sample,
        readings: &[Reading],
        ours: &mut Batch,
    ) {
        let device = match sample.device {
            Some(id) if part == ShardPart::Devices && self.layout.of_device(id) != shard => return,
            // The fleet's shard has those alone.
            None if part == ShardPart::Devices => return,
            device => device,
        };
        let mut any = false;
        for reading in readings {
            if part.has_devices()
                && let Some(id) = device
                && !self.names.has_stream(id, reading.metric)
            {
                continue;
            }
            ours.draft(*reading);
            any = true;
        }
        if any {
            ours.complete(sample.timestamp_us, device);
        }
    }
}

/// Which windows a shard had, of so many.
fn part_of(shard: usize, shards: usize) -> ShardPart {
    match shards {
        1 => ShardPart::Whole,
        _ if shard + 1 == shards => ShardPart::Fleet,
        _ => ShardPart::Devices,
    }
}

/// The windows that both have.
fn common_part(there: ShardPart, here: ShardPart) -> Option<ShardPart> {
    match (there, here) {
        (ShardPart::Whole, part) | (part, ShardPart::Whole) => Some(part),
        (there, here) => (there == here).then_some(here),
    }
}
