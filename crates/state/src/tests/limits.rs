//! A directory that is full, a disk that refuses.

use super::Process;
use crate::{Faults, SimulatedDisk, StateError, StateOptions};

fn options() -> StateOptions {
    StateOptions { shards: 1, bytes_max: 4_000, segment_bytes: 400 }
}

#[test]
fn a_full_journal_stops_and_goes_on_after_a_snapshot() {
    let disk = SimulatedDisk::new(1);
    let mut process = Process::start(&disk, options());
    let mut value = 0;
    let mut wanted = false;
    let full = loop {
        match process.judge(0, value) {
            Ok(()) => wanted |= process.directory.wants_snapshot(),
            Err(error) => break error,
        }
        process.sync_all();
        value += 1;
        assert!(process.directory.bytes() <= options().bytes_max);
    };
    assert!(matches!(full, StateError::Full));
    assert!(wanted, "a snapshot is asked for before it is full");
    process.judge(0, value + 1).expect_err("it is still full");
    // The first snapshot replaces nothing that may be needed if it is damaged.
    process.snapshot_all();
    process.directory.make_room();
    let next = value + 2;
    process.judge(0, next).expect("there is room");
    assert!(!process.journals[0].needs_snapshot() || process.journals[0].sync().is_ok());
    process.snapshot_all();
    process.judge(0, next + 1).expect("there is room");
    process.sync_all();
    assert!(!process.journals[0].needs_snapshot());
    let judged = process.devices.clone();
    let process = Process::start(&disk, options());
    assert_eq!(process.devices, judged);
}

#[test]
fn snapshots_alone_make_room_for_the_journal_again() {
    let options = StateOptions { segment_bytes: 1 << 20, ..options() };
    let disk = SimulatedDisk::new(1);
    let mut process = Process::start(&disk, options.clone());
    let mut value = 0;
    while process.judge(0, value).is_ok() {
        process.sync_all();
        value += 1;
    }
    // Whatever is judged meanwhile finds no room. Each snapshot asks for no other.
    for _ in 0..2 {
        process.judge(0, value).expect_err("it is full");
        process.devices.values_mut().for_each(|values| values.truncate(3));
        process.snapshot_all();
    }
    process.judge(0, 7).expect("the segment that filled it is gone");
    process.snapshot_all();
    process.judge(0, 8).expect("there is room");
    process.sync_all();
    assert!(!process.journals[0].needs_snapshot());
    let judged = process.devices.clone();
    assert_eq!(Process::start(&disk, options).devices, judged);
}

#[test]
fn nothing_is_durable_after_a_gap_until_a_snapshot_covers_it() {
    let disk = SimulatedDisk::new(1);
    let mut process = Process::start(&disk, options());
    process.judge(0, 0).expect("the disk works");
    assert_eq!(process.journals[0].sync().expect("the disk works"), 1);
    disk.set_faults(Faults { sync_fails_one_in: 1, ..Faults::default() });
    process.judge(0, 1).expect("it is in the buffer");
    process.journals[0].sync().expect_err("the disk refuses");
    disk.set_faults(Faults::default());
    process.judge(0, 2).expect("the disk works");
    assert_eq!(process.journals[0].sync().expect("the disk works"), 1);
    assert!(process.journals[0].needs_snapshot());
    process.snapshot_all();
    assert_eq!(process.journals[0].sync().expect("the disk works"), 3);
    disk.crash();
    assert_eq!(Process::start(&disk, options()).devices[&0], [0, 1, 2]);
}

/// The second process reads what the first one left in the system's memory, and fails to make it durable. From then on
/// the system reports success to the third one.
#[test]
fn what_one_process_failed_to_sync_is_in_doubt_for_the_next_one() {
    for seed in 0..200 {
        let disk = SimulatedDisk::new(seed);
        let mut first = Process::start(&disk, options());
        for value in 0..4 {
            first.judge(0, value).expect("it is in the buffer");
        }
        disk.set_faults(Faults { append_fails_one_in: 1, ..Faults::default() });
        first.journals[0].sync().expect_err("a part arrives, and is not synced");
        disk.set_faults(Faults { sync_fails_one_in: 3, ..Faults::default() });
        Process::start(&disk, options());
        disk.set_faults(Faults::default());
        let mut third = Process::start(&disk, options());
        third.judge(1, 7).expect("the disk works");
        let is_durable = third.journals[0].sync().expect("the disk works") == 1;
        let known = third.devices.clone();
        disk.crash();
        let devices = Process::start(&disk, options()).devices;
        assert!(!is_durable || devices == known, "seed {seed}: {devices:?} of {known:?}");
    }
}

/// A process that is killed after a failed sync leaves bytes that are not durable, where the truncation failed as well. From
/// then on the system reports success for them, so the next process must write them anew.
#[test]
fn bytes_whose_sync_and_truncation_failed_are_not_trusted() {
    let failing = Faults { sync_fails_one_in: 1, truncate_fails_one_in: 1, ..Faults::default() };
    for seed in 0..200 {
        let disk = SimulatedDisk::new(seed);
        let mut first = Process::start(&disk, options());
        first.judge(0, 1).expect("it is in the buffer");
        disk.set_faults(failing);
        first.journals[0].sync().expect_err("the disk refuses");
        disk.set_faults(Faults::default());
        let mut second = Process::start(&disk, options());
        assert_eq!(second.devices[&0], [1], "the system still shows it");
        second.judge(0, 2).expect("the disk works");
        assert_eq!(second.journals[0].sync().expect("the disk works"), 1);
        disk.crash();
        assert_eq!(Process::start(&disk, options()).devices[&0], [1, 2], "seed {seed}");
    }
}

#[test]
fn a_second_snapshot_at_a_position_replaces_the_first() {
    let disk = SimulatedDisk::new(1);
    let mut process = Process::start(&disk, options());
    process.judge(0, 1).expect("there is room");
    process.sync_all();
    for _ in 0..3 {
        process.snapshot_all();
        let listed = crate::Disk::list(&disk).expect("it is in memory");
        assert_eq!(process.directory.bytes(), listed.iter().map(|entry| entry.bytes).sum::<u64>());
    }
    assert_eq!(Process::start(&disk, options()).devices[&0], [1]);
}

#[test]
fn kills_before_the_first_snapshot_leave_what_follows_durable() {
    let disk = SimulatedDisk::new(1);
    for start in 0..5 {
        let mut process = Process::start(&disk, options());
        process.judge(0, start).expect("there is room");
        assert_eq!(process.journals[0].sync().expect("the disk works"), 1, "start {start}");
        assert!(!process.journals[0].needs_snapshot(), "start {start}");
        // Killed with a record that is in the system's memory alone.
        process.judge(0, 100 + start).expect("there is room");
        process.journals[0].segment_for(100).expect("there is room");
    }
    disk.crash();
    let known: Vec<u32> = (0..5).flat_map(|start| [start, 100 + start]).collect();
    assert_eq!(Process::start(&disk, options()).devices[&0], known);
}

/// Whether the name of a snapshot is durable is not known after a failed sync of the directory.
#[test]
fn room_is_made_by_snapshots_whose_names_are_durable_only() {
    for seed in 0..200 {
        let disk = SimulatedDisk::new(seed);
        let mut process = Process::start(&disk, options());
        process.judge(0, 1).expect("the disk works");
        process.sync_all();
        // Its first snapshot replaces the files of the process before.
        let process = Process::start(&disk, options());
        disk.set_faults(Faults { sync_fails_one_in: 3, ..Faults::default() });
        let _ = process.snapshot(0);
        process.directory.make_room();
        disk.crash();
        disk.set_faults(Faults::default());
        assert_eq!(Process::start(&disk, options()).devices[&0], [1], "seed {seed}");
    }
}

/// A start whose name is durable and that of its parent is not would cut off all that is older.
#[test]
fn no_start_outlives_the_name_of_the_one_before() {
    for seed in 0..200 {
        let disk = SimulatedDisk::new(seed);
        let mut process = Process::start(&disk, options());
        process.judge(0, 1).expect("the disk works");
        process.sync_all();
        disk.set_faults(Faults { sync_fails_one_in: 2, ..Faults::default() });
        Process::start(&disk, options());
        Process::start(&disk, options());
        disk.crash();
        disk.set_faults(Faults::default());
        assert_eq!(Process::start(&disk, options()).devices[&0], [1], "seed {seed}");
    }
}

#[test]
fn a_read_only_disk_gives_its_state_and_takes_writes_later() {
    let disk = SimulatedDisk::new(1);
    let mut process = Process::start(&disk, options());
    process.judge(0, 7).expect("the disk works");
    process.sync_all();
    disk.set_faults(Faults { is_read_only: true, ..Faults::default() });
    let mut process = Process::start(&disk, options());
    assert_eq!(process.devices[&0], [7]);
    process.judge(0, 8).expect_err("nothing can be written");
    disk.set_faults(Faults::default());
    process.snapshot_all();
    process.judge(0, 9).expect("the disk works");
    process.sync_all();
    assert_eq!(Process::start(&disk, options()).devices[&0], [7, 8, 9]);
}

#[test]
fn two_snapshots_are_kept_with_the_journal_of_the_older_one() {
    let disk = SimulatedDisk::new(1);
    let mut process = Process::start(&disk, options());
    for value in 0..200 {
        process.judge(0, value).expect("there is room");
        if value % 10 == 9 {
            process.sync_all();
            process.snapshot_all();
        }
    }
    let names: Vec<String> =
        crate::Disk::list(&disk).expect("it is in memory").into_iter().map(|e| e.name).collect();
    let expected = [
        "journal-00000001-000-000000000190",
        "snapshot-00000001-000-000000000190",
        "snapshot-00000001-000-000000000200",
        "start-00000001",
    ];
    assert_eq!(names, expected);
}

#[test]
fn an_empty_record_is_refused() {
    let disk = SimulatedDisk::new(1);
    let process = Process::start(&disk, options());
    let mut journal = process.directory.journal(0);
    assert!(matches!(journal.append(0, &[]), Err(StateError::ContentLength(0))));
}
