//! Random operations, faults and crashes. What comes back is a prefix of what was judged, with all that was synced.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Devices, Process};
use crate::{Faults, SimulatedDisk, SnapshotWriter, StateOptions};

#[derive(Clone, Debug)]
enum Step {
    Judge(u8),
    Sync(u32),
    BeginSnapshot(u32),
    FinishSnapshot,
    MakeRoom,
    /// The process is killed; the machine goes on.
    Kill {
        shards: u32,
    },
    /// The power fails.
    Crash {
        shards: u32,
    },
    Faults(Faults),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let faults = (any::<bool>(), 0_u32..8, 0_u32..8, 0_u32..3, 0_u64..6, any::<bool>());
    let faults = faults.prop_map(
        |(is_read_only, syncs, appends, truncations, capacity, has_short_reads)| Faults {
            is_read_only: is_read_only && syncs < 4,
            sync_fails_one_in: syncs,
            append_fails_one_in: appends,
            truncate_fails_one_in: truncations,
            capacity: (capacity > 0).then_some(capacity * 600),
            has_short_reads,
        },
    );
    let step = prop_oneof![
        40 => (0_u8..6).prop_map(Step::Judge),
        12 => (0_u32..3).prop_map(Step::Sync),
        6 => (0_u32..3).prop_map(Step::BeginSnapshot),
        8 => Just(Step::FinishSnapshot),
        1 => Just(Step::MakeRoom),
        2 => (1_u32..4).prop_map(|shards| Step::Kill { shards }),
        4 => (1_u32..4).prop_map(|shards| Step::Crash { shards }),
        1 => Just(Step::Faults(Faults::default())),
        1 => faults.prop_map(Step::Faults),
    ];
    proptest::collection::vec(step, 1..160)
}

/// The world around one process: what it has judged, and what must survive it.
struct World {
    disk: SimulatedDisk,
    process: Process,
    next_value: u32,
    /// Values of each device that must come back.
    durable: BTreeMap<u8, usize>,
    snapshots: Vec<(u32, SnapshotWriter, Vec<Vec<u8>>)>,
}

fn options(shards: u32) -> StateOptions {
    StateOptions { shards, bytes_max: 8_000, segment_bytes: 300 }
}

impl World {
    fn new(seed: u64) -> Self {
        let disk = SimulatedDisk::new(seed);
        let process = Process::start(&disk, options(2));
        Self { disk, process, next_value: 0, durable: BTreeMap::new(), snapshots: Vec::new() }
    }

    fn take(&mut self, step: &Step) {
        let shards = self.process.shards;
        match step {
            Step::Judge(device) => {
                self.next_value += 1;
                // Err: a gap.
                let _ = self.process.judge(*device, self.next_value);
            }
            Step::Sync(shard) => {
                let shard = (shard % shards) as usize;
                if let Ok(position) = self.process.journals[shard].sync() {
                    for (device, count) in &self.process.given[shard][..position as usize] {
                        let durable = self.durable.entry(*device).or_default();
                        *durable = (*durable).max(*count);
                    }
                }
            }
            Step::BeginSnapshot(shard) => {
                // One of each shard at a time.
                self.snapshots.retain(|(of, ..)| *of != shard % shards);
                if let Ok((writer, blocks)) = self.process.begin_snapshot(shard % shards) {
                    self.snapshots.push((shard % shards, writer, blocks));
                }
            }
            Step::FinishSnapshot => {
                for (_, mut writer, blocks) in self.snapshots.drain(..) {
                    if blocks.iter().all(|block| writer.block(block).is_ok()) {
                        // Err: there is none.
                        let _ = writer.finish();
                    }
                }
            }
            Step::MakeRoom => self.process.directory.make_room(),
            Step::Kill { shards } => self.restart(*shards),
            Step::Crash { shards } => {
                self.disk.crash();
                self.restart(*shards);
            }
            Step::Faults(faults) => self.disk.set_faults(*faults),
        }
        assert!(self.process.directory.bytes() <= 8_000 + 3 * 2_000, "bounded, but for buffers");
    }

    fn restart(&mut self, shards: u32) {
        // What a dead process would still do is not done: its writers are forgotten.
        std::mem::forget(std::mem::take(&mut self.snapshots));
        let judged = std::mem::take(&mut self.process.devices);
        self.process = Process::start(&self.disk, options(shards));
        let restored = &self.process.devices;
        check_prefix(restored, &judged);
        for (device, count) in &self.durable {
            let restored = restored.get(device).map_or(0, Vec::len);
            assert!(restored >= *count, "device {device}: {restored} of {count} that were synced");
        }
    }
}

fn check_prefix(restored: &Devices, judged: &Devices) {
    for (device, values) in restored {
        let judged = judged.get(device).map_or(&[][..], Vec::as_slice);
        assert!(
            judged.starts_with(values),
            "device {device}: {values:?} is no prefix of {judged:?}"
        );
    }
}

/// More in `make verify-long`.
fn cases() -> u32 {
    std::env::var("SIGMAD_DISK_CASES").map_or(64, |cases| cases.parse().expect("a number"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn what_was_synced_comes_back_and_nothing_else(seed: u64, steps in steps()) {
        let mut world = World::new(seed);
        for step in &steps {
            world.take(step);
        }
        world.disk.crash();
        world.restart(2);
    }
}
