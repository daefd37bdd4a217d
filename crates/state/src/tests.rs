//! A process that keeps values by device, and what its directory must give back.

mod damage;
mod limits;
mod model;
mod real;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{
    Damaged, JournalWriter, Recovery, SimulatedDisk, SnapshotWriter, StateDir, StateError,
    StateOptions,
};

/// What a process knows: the values of each device, in order.
type Devices = BTreeMap<u8, Vec<u32>>;

/// Devices are divided among shards as in the server: each has one.
fn shard_of(device: u8, shards: u32) -> u32 {
    u32::from(device) % shards
}

fn block(device: u8, values: &[u32]) -> Vec<u8> {
    let mut block = vec![device];
    block.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    block
}

fn unblock(block: &[u8]) -> (u8, Vec<u32>) {
    let (values, rest) = block[1..].as_chunks::<4>();
    assert!(rest.is_empty());
    (block[0], values.iter().map(|value| u32::from_le_bytes(*value)).collect())
}

/// Snapshots, then records.
fn restore(recovery: &Recovery) -> Devices {
    let mut devices = Devices::new();
    for snapshot in &recovery.snapshots {
        let mut blocks = snapshot.blocks().expect("it was checked");
        while let Some(block) = blocks.next_block().expect("it was checked") {
            let (device, values) = unblock(block);
            assert!(devices.insert(device, values).is_none());
        }
    }
    for journal in &recovery.journals {
        let (mut records, mut next) = (journal.records(), journal.first);
        let mut with_replaced = journal.records_and_replaced();
        while let Some((position, record)) = records.next_record().expect("it was checked") {
            assert_eq!(position, next);
            next += 1;
            // The same, after what a snapshot has replaced.
            let mut other = with_replaced.next_record().expect("it was checked");
            while let Some((replaced, _)) = other
                && replaced < journal.first
            {
                other = with_replaced.next_record().expect("it was checked");
            }
            assert_eq!(other, Some((position, record)));
            let (device, values) = unblock(record);
            devices.entry(device).or_default().extend(values);
        }
        assert_eq!(next, journal.end);
    }
    devices
}

/// A process with its directory.
struct Process {
    directory: StateDir,
    shards: u32,
    journals: Vec<JournalWriter>,
    /// Records judged, by shard.
    positions: Vec<u64>,
    devices: Devices,
    damage: Vec<Damaged>,
    /// What each shard was given since the start: the device and how many values that has since.
    given: Vec<Vec<(u8, usize)>>,
}

impl Process {
    fn start(disk: &SimulatedDisk, options: StateOptions) -> Self {
        let shards = options.shards;
        let (directory, recovery) =
            StateDir::open(Arc::new(disk.clone()), options).expect("it can be listed");
        Self {
            journals: (0..shards).map(|shard| directory.journal(shard)).collect(),
            positions: vec![0; shards as usize],
            devices: restore(&recovery),
            damage: recovery.damage,
            given: vec![Vec::new(); shards as usize],
            directory,
            shards,
        }
    }

    fn judge(&mut self, device: u8, value: u32) -> Result<(), StateError> {
        let shard = shard_of(device, self.shards) as usize;
        let values = self.devices.entry(device).or_default();
        values.push(value);
        self.given[shard].push((device, values.len()));
        let position = self.positions[shard];
        self.positions[shard] += 1;
        self.journals[shard].append(position, &block(device, &[value]))
    }

    fn begin_snapshot(&self, shard: u32) -> Result<(SnapshotWriter, Vec<Vec<u8>>), StateError> {
        let ours =
            self.devices.iter().filter(|(device, _)| shard_of(**device, self.shards) == shard);
        let blocks = ours.map(|(device, values)| block(*device, values)).collect();
        Ok((self.directory.snapshot(shard, self.positions[shard as usize])?, blocks))
    }

    fn snapshot(&self, shard: u32) -> Result<u64, StateError> {
        let (mut writer, blocks) = self.begin_snapshot(shard)?;
        for block in blocks {
            writer.block(&block)?;
        }
        writer.finish()
    }

    fn snapshot_all(&self) {
        for shard in 0..self.shards {
            self.snapshot(shard).expect("the disk works");
        }
    }

    fn sync_all(&mut self) {
        for journal in &mut self.journals {
            journal.sync().expect("the disk works");
        }
    }
}
