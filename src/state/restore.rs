//! Snapshots to shards: names are admitted, ids translated, and each record goes to the shard that has it now.

use std::sync::Arc;

use crossbeam_channel::Sender;
use sigmad_detectors::saved::Saved;
use sigmad_sample::{DeviceId, MetricId, Reading};

use super::counters::StateCounters;
use super::packing;
use super::translation::{NO_DEVICE, Translation};
use crate::analytics::saved::export::BLOCK_BYTES;
use crate::analytics::saved::form::{
    Record, RecordKind, Records, SavedAnomaly, SavedDevice, SavedMetric, SavedSample, SavedTotals,
    push, value,
};
use crate::analytics::saved::link::RestoreMessage;
use crate::decode::{PointTables, SavedCounter};
use crate::registry::Registry;
use crate::shards::ShardLayout;

/// The shard of a snapshot, and how many there were.
#[derive(Clone, Copy, Debug)]
pub(super) struct SnapshotShard {
    pub shard: usize,
    pub shards: usize,
}

/// Passes what snapshots hold to the shards of this process.
#[derive(Debug)]
pub(super) struct Restorer {
    registry: Arc<Registry>,
    layout: ShardLayout,
    counters: Arc<StateCounters>,
    /// Takes counters. None where chunks were judged after their last values: these have the rates.
    points: Option<Arc<PointTables>>,
    translation: Translation,
    ways: Vec<ShardWay>,
    /// Of all snapshots: they are sorted when all are read.
    anomalies: Vec<SavedAnomaly>,
    samples: Vec<SavedSample>,
    /// Anomalies begun, of all shards.
    begun: u64,
}

/// The way to one shard.
#[derive(Debug)]
struct ShardWay {
    messages: Sender<RestoreMessage>,
    block: Vec<u8>,
}

impl ShardWay {
    fn push(&mut self, kind: RecordKind, content: impl FnOnce(&mut Vec<u8>)) {
        push(&mut self.block, kind, content);
        if self.block.len() >= BLOCK_BYTES {
            self.send();
        }
    }

    /// Waits for the shard: it takes blocks as fast as it can.
    fn send(&mut self) {
        let block = std::mem::take(&mut self.block);
        if !block.is_empty() {
            // Err: the shard's thread has ended, and with it the process.
            let _ = self.messages.send(RestoreMessage::Block(block));
        }
    }
}

impl Restorer {
    /// `ways` has a way to each shard of the layout.
    pub fn new(
        registry: Arc<Registry>,
        layout: ShardLayout,
        counters: Arc<StateCounters>,
        points: Option<Arc<PointTables>>,
        ways: Vec<Sender<RestoreMessage>>,
    ) -> Self {
        let way = |messages| ShardWay { messages, block: Vec::new() };
        Self {
            registry,
            layout,
            counters,
            points,
            translation: Translation::default(),
            ways: ways.into_iter().map(way).collect(),
            anomalies: Vec::new(),
            samples: Vec::new(),
            begun: 0,
        }
    }

    /// Passes a block of a snapshot on. What can't be is counted.
    pub fn block(&mut self, of: SnapshotShard, block: &[u8]) {
        for record in Records(block) {
            let is_passed = match record {
                Record::Known(RecordKind::Packed, content) => match packing::unpack(content) {
                    // One level: what is packed is records.
                    Some(unpacked) => {
                        self.records(of, &unpacked);
                        true
                    }
                    None => false,
                },
                Record::Known(kind, content) => self.record(of, kind, content).is_some(),
                Record::Unknown | Record::Broken => false,
            };
            self.counters.records_lost_total.add(u64::from(!is_passed));
        }
    }

    fn records(&mut self, of: SnapshotShard, block: &[u8]) {
        for record in Records(block) {
            let is_passed = match record {
                Record::Known(kind, content) => self.record(of, kind, content).is_some(),
                Record::Unknown | Record::Broken => false,
            };
            self.counters.records_lost_total.add(u64::from(!is_passed));
        }
    }

    /// Passes on what was kept until all snapshots are read.
    pub fn finish(&mut self) {
        // Reports add those of all shards, so any shard does.
        let begun = self.begun.saturating_sub(self.anomalies.len() as u64);
        let totals = SavedTotals { begun, ..SavedTotals::default() };
        push_value_to(&mut self.ways[0], RecordKind::Totals, &totals);
        self.anomalies.sort_by_key(|anomaly| anomaly.serial);
        for mut anomaly in std::mem::take(&mut self.anomalies) {
            let device = anomaly.device.map(|there| self.translation.device(there));
            // No value will follow where there is no stream, so its shard does not matter.
            let shard = match device {
                Some(Some(here)) => self.layout.of_device(here),
                Some(None) => 0,
                None => self.layout.of_fleet(),
            };
            anomaly.device = device.map(|here| here.unwrap_or(NO_DEVICE));
            anomaly.metric = self.translation.metric(anomaly.metric).unwrap_or(MetricId::NONE);
            self.ways[shard].push(RecordKind::Anomaly, |to| anomaly.write(to));
        }
        self.samples.sort_by_key(|sample| sample.arrived_us);
        for sample in std::mem::take(&mut self.samples) {
            self.sample(sample);
        }
        self.ways.iter_mut().for_each(ShardWay::send);
    }

    fn record(&mut self, of: SnapshotShard, kind: RecordKind, content: &[u8]) -> Option<()> {
        let shard = self.shard_of(of);
        match kind {
            // The devices of a shard are of all of them now.
            RecordKind::Returns if of.shards != self.layout.threads() => {
                for way in &mut self.ways {
                    way.push(kind, |to| to.extend_from_slice(content));
                }
            }
            RecordKind::Returns => self.ways[shard].push(kind, |to| to.extend_from_slice(content)),
            // Each shard needs the clock before the first of its devices.
            RecordKind::Form | RecordKind::Silences => {
                for way in &mut self.ways {
                    way.push(kind, |to| to.extend_from_slice(content));
                }
            }
            RecordKind::Totals => {
                let totals: SavedTotals = value(content)?;
                self.begun += totals.begun;
                let of_shard = SavedTotals { begun: 0, ..totals };
                self.ways[shard].push(kind, |to| of_shard.write(to));
            }
            RecordKind::Fleet => {
                let fleet = self.layout.of_fleet();
                self.ways[fleet].push(kind, |to| to.extend_from_slice(content));
            }
            RecordKind::Packed => return None,
            RecordKind::Counter => self.counter(value(content)?),
            RecordKind::Metric => self.metric(shard, value(content)?)?,
            RecordKind::Anomaly => self.anomalies.push(value(content)?),
            RecordKind::Sample => self.samples.push(value(content)?),
            RecordKind::FleetStream | RecordKind::FleetWatch => {
                let mut rest = content;
                let there = MetricId::read(&mut rest)?;
                // Without room for its name it is counted with that.
                let Some(metric) = self.translation.metric(there) else { return Some(()) };
                self.ways[self.layout.of_fleet()].push(kind, |to| {
                    metric.write(to);
                    to.extend_from_slice(rest);
                });
            }
            RecordKind::Device => self.device(value(content)?),
            RecordKind::Cadence => {
                let mut rest = content;
                let there = DeviceId::read(&mut rest)?;
                // Without room for the device: counted with it.
                let Some(id) = self.translation.device(there) else { return Some(()) };
                self.ways[self.layout.of_device(id)].push(kind, |to| {
                    id.write(to);
                    to.extend_from_slice(rest);
                });
            }
            RecordKind::Stream | RecordKind::Watch => {
                let mut rest = content;
                let there = DeviceId::read(&mut rest)?;
                let metric = MetricId::read(&mut rest)?;
                // Without room for the device or the metric there is none: counted with them.
                let here = self.translation.device(there).zip(self.translation.metric(metric));
                let Some((id, metric)) = here else { return Some(()) };
                self.ways[self.layout.of_device(id)].push(kind, |to| {
                    id.write(to);
                    metric.write(to);
                    to.extend_from_slice(rest);
                });
            }
        }
        Some(())
    }

    /// Without room for its device or its metric there is none: counted with them.
    fn counter(&self, mut saved: SavedCounter) {
        let device = saved.device.map(|there| self.translation.device(there));
        let metric = self.translation.metric(saved.metric);
        if let (Some(points), Some(metric), None | Some(Some(_))) = (&self.points, metric, device) {
            (saved.device, saved.metric) = (device.flatten(), metric);
            points.restore_counter(saved, &self.registry);
        }
    }

    /// The shard that takes the counts of one: the same, as long as there are as many.
    fn shard_of(&self, of: SnapshotShard) -> usize {
        if of.shards == self.layout.threads() { of.shard } else { 0 }
    }

    fn metric(&mut self, shard: usize, saved: SavedMetric) -> Option<()> {
        let here = self.registry.restore_metric(&saved.name, saved.metric.slot())?;
        self.translation.note_metric(saved.metric, here);
        let saved = SavedMetric { metric: here, ..saved };
        push_value_to(&mut self.ways[shard], RecordKind::Metric, &saved);
        Some(())
    }

    fn device(&mut self, mut saved: SavedDevice) {
        let metrics: Vec<MetricId> =
            saved.streams.iter().filter_map(|there| self.translation.metric(*there)).collect();
        let there = saved.device;
        match self.registry.restore_device(&saved.name, there.index, &metrics) {
            Ok(here) => {
                self.translation.note_device(there, here);
                (saved.device, saved.streams) = (here, metrics);
                let shard = self.layout.of_device(here);
                push_value_to(&mut self.ways[shard], RecordKind::Device, &saved);
                self.counters.restored_devices.add(1);
            }
            Err(_) => self.counters.devices_without_room_total.add(1),
        }
    }

    fn sample(&mut self, mut sample: SavedSample) {
        let device = match sample.device {
            None => None,
            Some(there) => match self.translation.device(there) {
                None => return,
                here => here,
            },
        };
        let here = |reading: &Reading| {
            let metric = self.translation.metric(reading.metric)?;
            Some(Reading { metric, value: reading.value })
        };
        let readings: Vec<_> = sample.readings.iter().filter_map(here).collect();
        if readings.is_empty() {
            return;
        }
        (sample.device, sample.readings) = (device, readings);
        let shard = device.map_or(self.layout.of_fleet(), |here| self.layout.of_device(here));
        push_value_to(&mut self.ways[shard], RecordKind::Sample, &sample);
    }
}

fn push_value_to(way: &mut ShardWay, kind: RecordKind, value: &impl Saved) {
    way.push(kind, |to| value.write(to));
}
