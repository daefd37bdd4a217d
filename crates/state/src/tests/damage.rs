//! Every byte cut, every bit flipped: what is whole comes back, what is damaged is found.

use super::{Devices, Process};
use crate::frame::HEADER_BYTES;
use crate::{DamageKind, SimulatedDisk, StateOptions};

const SEGMENT: &str = "journal-00000001-000-000000000000";

fn options() -> StateOptions {
    StateOptions { shards: 1, ..StateOptions::default() }
}

/// A disk with the files of another, of which one has another content.
fn copy_with(disk: &SimulatedDisk, name: &str, bytes: Vec<u8>) -> SimulatedDisk {
    let copy = SimulatedDisk::new(0);
    for entry in crate::Disk::list(disk).expect("it is in memory") {
        copy.set_content(&entry.name, disk.content(&entry.name).expect("it is listed"));
    }
    copy.set_content(name, bytes);
    copy
}

fn judged(values: std::ops::Range<u32>) -> (SimulatedDisk, Process) {
    let disk = SimulatedDisk::new(1);
    let mut process = Process::start(&disk, options());
    for value in values {
        process.judge(0, value).expect("the disk works");
    }
    process.sync_all();
    (disk, process)
}

fn values(devices: &Devices) -> &[u32] {
    devices.get(&0).map_or(&[], Vec::as_slice)
}

#[test]
fn a_segment_cut_at_any_byte_gives_the_whole_records_before() {
    let (disk, _) = judged(0..20);
    let whole = disk.content(SEGMENT).expect("it was written");
    let record = (whole.len() - HEADER_BYTES) / 20;
    for length in 0..whole.len() {
        let process =
            Process::start(&copy_with(&disk, SEGMENT, whole[..length].to_vec()), options());
        let records = length.saturating_sub(HEADER_BYTES) / record;
        assert_eq!(values(&process.devices), (0..records as u32).collect::<Vec<_>>());
        let is_torn = length < HEADER_BYTES || !(length - HEADER_BYTES).is_multiple_of(record);
        let kinds: Vec<_> = process.damage.iter().map(|damaged| damaged.kind).collect();
        assert_eq!(kinds, if is_torn { vec![DamageKind::TornTail] } else { Vec::new() });
    }
}

#[test]
fn a_segment_with_any_bit_flipped_gives_the_records_before() {
    let (disk, _) = judged(0..20);
    let whole = disk.content(SEGMENT).expect("it was written");
    let record = (whole.len() - HEADER_BYTES) / 20;
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let process = Process::start(&copy_with(&disk, SEGMENT, bytes), options());
        let records = (bit / 8).saturating_sub(HEADER_BYTES) / record;
        assert_eq!(values(&process.devices), (0..records as u32).collect::<Vec<_>>());
        assert_eq!(process.damage.len(), 1, "bit {bit}");
    }
}

#[test]
fn a_newest_snapshot_cut_or_flipped_anywhere_is_replaced_by_the_older_one_and_its_journal() {
    let (disk, mut process) = judged(0..5);
    process.snapshot_all();
    for value in 5..10 {
        process.judge(0, value).expect("the disk works");
    }
    process.snapshot_all();
    for value in 10..15 {
        process.judge(0, value).expect("the disk works");
    }
    process.sync_all();
    let newest = "snapshot-00000001-000-000000000010";
    let whole = disk.content(newest).expect("it was written");
    let cut = (0..whole.len()).map(|length| whole[..length].to_vec());
    let flipped = (0..whole.len() * 8).map(|bit| {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    });
    for bytes in cut.chain(flipped) {
        let copy = copy_with(&disk, newest, bytes);
        let process = Process::start(&copy, options());
        assert_eq!(values(&process.devices), (0..15).collect::<Vec<_>>());
        assert_eq!(process.damage.len(), 1);
        assert_eq!(copy.content(newest), None, "what nothing can use is removed");
    }
}

#[test]
fn a_newest_snapshot_that_cannot_be_read_is_kept_and_replaced_by_the_older_one() {
    let (disk, mut process) = judged(0..5);
    process.snapshot_all();
    process.judge(0, 5).expect("the disk works");
    process.snapshot_all();
    process.judge(0, 6).expect("the disk works");
    process.sync_all();
    let newest = "snapshot-00000001-000-000000000006";
    let whole = disk.content(newest);
    disk.set_unreadable(newest);
    let mut process = Process::start(&disk, options());
    assert_eq!(values(&process.devices), (0..7).collect::<Vec<_>>());
    assert_eq!(process.damage.len(), 1);
    assert_eq!(process.damage[0].kind, DamageKind::Unreadable);
    assert_eq!(disk.content(newest), None);
    let aside = format!("{newest}.unreadable");
    assert_eq!(disk.content(&aside), whole, "it is kept");
    process.judge(0, 7).expect("the disk works");
    process.sync_all();
    let process = Process::start(&disk, options());
    assert_eq!(values(&process.devices), (0..8).collect::<Vec<_>>());
    assert_eq!(process.damage, [], "it was reported");
    let bytes = process.directory.bytes();
    process.directory.make_room();
    assert_eq!(disk.content(&aside), None, "it makes room where that is needed");
    assert!(process.directory.bytes() < bytes, "it was counted");
}

#[test]
fn a_start_that_cannot_be_read_removes_nothing() {
    let (disk, _) = judged(0..5);
    Process::start(&disk, options());
    Process::start(&disk, options());
    let names = || {
        let listed = crate::Disk::list(&disk).expect("it is in memory").into_iter();
        listed.map(|entry| entry.name.trim_end_matches(".unreadable").to_owned())
    };
    let before: Vec<String> = names().collect();
    disk.set_unreadable("start-00000002");
    let process = Process::start(&disk, options());
    assert_eq!(process.damage[0].kind, DamageKind::Unreadable);
    let after: Vec<String> = names().collect();
    assert!(before.iter().all(|name| after.contains(name)), "{before:?} {after:?}");
}

#[test]
fn a_segment_that_was_proven_is_not_written_anew_and_its_mark_is_checked() {
    let (disk, _) = judged(0..5);
    let not_proven = disk.content(SEGMENT).expect("it was written");
    Process::start(&disk, options());
    let proven = disk.content(SEGMENT).expect("it was written");
    assert_eq!(proven.len(), not_proven.len() + crate::frame::FRAME_BYTES, "a mark of the end");
    for bit in not_proven.len() * 8..proven.len() * 8 {
        let mut bytes = proven.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let copy = copy_with(&disk, SEGMENT, bytes);
        let process = Process::start(&copy, options());
        assert_eq!(values(&process.devices), (0..5).collect::<Vec<_>>());
        assert_eq!(copy.content(SEGMENT).as_ref(), Some(&proven), "it is proven again");
    }
    let full = crate::Faults { capacity: Some(1), ..crate::Faults::default() };
    let copy = copy_with(&disk, SEGMENT, proven.clone());
    copy.set_faults(full);
    Process::start(&copy, options());
    copy.set_faults(crate::Faults::default());
    assert_eq!(copy.content(SEGMENT), Some(proven));
}

#[test]
fn a_start_flipped_anywhere_is_found() {
    let (disk, _) = judged(0..5);
    let mut second = Process::start(&disk, options());
    second.judge(0, 5).expect("the disk works");
    second.sync_all();
    let name = "start-00000002";
    let whole = disk.content(name).expect("it was written");
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let process = Process::start(&copy_with(&disk, name, bytes), options());
        assert_eq!(values(&process.devices), [0, 1, 2, 3, 4]);
        assert_eq!(process.damage.len(), 1);
    }
}

#[test]
fn damage_in_an_old_generation_ends_the_recovery_there() {
    let (disk, _) = judged(0..5);
    let mut second = Process::start(&disk, options());
    for value in 5..10 {
        second.judge(0, value).expect("the disk works");
    }
    second.sync_all();
    let mut bytes = disk.content(SEGMENT).expect("it was written");
    // In the last record, before the mark of the end that the second start has written.
    let in_record = bytes.len() - crate::frame::FRAME_BYTES - 1;
    bytes[in_record] ^= 1;
    disk.set_content(SEGMENT, bytes);
    let mut third = Process::start(&disk, options());
    assert_eq!(values(&third.devices), [0, 1, 2, 3]);
    assert_eq!(third.damage.len(), 1);
    third.judge(0, 100).expect("the disk works");
    third.sync_all();
    let fourth = Process::start(&disk, options());
    assert_eq!(values(&fourth.devices), [0, 1, 2, 3, 100]);
    assert_eq!(fourth.damage, [], "it was reported, and nothing is missing since");
}

#[test]
fn a_missing_segment_is_found() {
    let disk = SimulatedDisk::new(1);
    let options = StateOptions { segment_bytes: 100, ..options() };
    let mut process = Process::start(&disk, options.clone());
    for value in 0..60 {
        process.judge(0, value).expect("the disk works");
        process.sync_all();
    }
    let names: Vec<String> =
        crate::Disk::list(&disk).expect("it is in memory").into_iter().map(|e| e.name).collect();
    let segments: Vec<&String> = names.iter().filter(|name| name.starts_with("journal")).collect();
    assert!(segments.len() > 3);
    crate::Disk::remove(&disk, segments[1]).expect("it is there");
    let process = Process::start(&disk, options);
    let first_lost: u32 = segments[1][21..].parse().expect("a position");
    assert_eq!(values(&process.devices), (0..first_lost).collect::<Vec<_>>());
    assert_eq!(process.damage[0].kind, DamageKind::Missing);
}

#[test]
fn files_of_a_newer_version_are_set_aside_and_kept() {
    let (disk, _) = judged(0..5);
    Process::start(&disk, options());
    let mut bytes = disk.content("start-00000002").expect("it was written");
    bytes[8] = 2;
    let checksum = crc32c::crc32c(&bytes[..32]);
    bytes[32..36].copy_from_slice(&checksum.to_le_bytes());
    disk.set_content("start-00000002", bytes.clone());
    let process = Process::start(&disk, options());
    assert_eq!(values(&process.devices), [0, 1, 2, 3, 4]);
    assert_eq!(process.damage[0].kind, DamageKind::OtherVersion);
    assert_eq!(disk.content("start-00000002.version-2"), Some(bytes));
}
