use super::*;
use crate::simulated::{Faults, SimulatedDisk};
use crate::{StateDir, StateOptions};

const NAME: &str = "incidents";

fn open(disk: &SimulatedDisk) -> (Document, Result<Option<Vec<u8>>, Damaged>) {
    Document::incidents(Arc::new(disk.clone()))
}

/// Longer than one part, and told apart by its number.
fn content(number: u8) -> Vec<u8> {
    vec![number; if number.is_multiple_of(8) { PART_BYTES + 7 } else { 700 }]
}

#[test]
fn the_content_is_the_last_that_was_written() {
    let disk = SimulatedDisk::new(1);
    let (document, found) = open(&disk);
    assert_eq!(found, Ok(None));
    for number in [1, 2, 8] {
        let bytes = document.write(&content(number)).expect("the disk works");
        assert_eq!(bytes, disk.content(NAME).expect("it is there").len() as u64);
        assert_eq!(open(&disk).1, Ok(Some(content(number))));
    }
    document.write(&[]).expect("the disk works");
    assert_eq!(open(&disk).1, Ok(Some(Vec::new())));
}

#[test]
fn after_a_crash_there_is_the_last_content_or_the_one_before() {
    for seed in 0..300 {
        let disk = SimulatedDisk::new(seed);
        let (document, _) = open(&disk);
        let faults = Faults { sync_fails_one_in: 5, append_fails_one_in: 5, ..Faults::default() };
        disk.set_faults(faults);
        // What may be found: from the last one that is durable on.
        let mut durable = 0;
        let last = (seed % 12) as u8;
        for number in 1..=last {
            if document.write(&content(number)).is_ok() {
                durable = number;
            }
        }
        disk.crash();
        disk.set_faults(Faults::default());
        let (document, found) = open(&disk);
        let found = found.unwrap_or_else(|damaged| panic!("seed {seed}: {damaged:?}"));
        let number = found.as_ref().map_or(0, |content| content[0]);
        assert!((durable..=last).contains(&number), "seed {seed}: {number} of {durable}..={last}");
        assert_eq!(found, (number > 0).then(|| content(number)), "seed {seed}");
        document.write(&content(99)).expect("the disk works");
        disk.crash();
        assert_eq!(open(&disk).1, Ok(Some(content(99))), "seed {seed}");
    }
}

#[test]
fn a_full_disk_keeps_the_content() {
    let disk = SimulatedDisk::new(1);
    let (document, _) = open(&disk);
    document.write(&content(1)).expect("the disk works");
    for faults in [
        Faults { capacity: Some(1_000), ..Faults::default() },
        Faults { is_read_only: true, ..Faults::default() },
    ] {
        disk.set_faults(faults);
        assert!(matches!(document.write(&content(2)), Err(StateError::Io(_))));
        assert_eq!(open(&disk).1, Ok(Some(content(1))));
    }
    disk.set_faults(Faults::default());
    assert_eq!(disk.content("incidents.tmp"), None, "nothing is left behind");
    document.write(&content(2)).expect("there is room again");
    assert_eq!(open(&disk).1, Ok(Some(content(2))));
    let too_long = vec![0; DOCUMENT_BYTES_MAX + 1];
    assert!(matches!(document.write(&too_long), Err(StateError::ContentLength(_))));
}

#[test]
fn each_damaged_byte_is_found_and_the_next_content_replaces_it() {
    let disk = SimulatedDisk::new(1);
    let (document, _) = open(&disk);
    document.write(&content(1)).expect("the disk works");
    let whole = disk.content(NAME).expect("it is there");
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        for damaged in [flipped, whole[..at].to_vec()] {
            disk.set_content(NAME, damaged);
            let (document, found) = open(&disk);
            assert_eq!(found.expect_err("damaged").file, NAME, "byte {at}");
            document.write(&content(2)).expect("the disk works");
            assert_eq!(open(&disk).1, Ok(Some(content(2))));
        }
    }
}

#[test]
fn a_newer_version_is_set_aside_and_kept() {
    let disk = SimulatedDisk::new(1);
    let (document, _) = open(&disk);
    document.write(&content(1)).expect("the disk works");
    let mut newer = disk.content(NAME).expect("it is there");
    newer[8] += 1;
    let checksum = crc32c::crc32c(&newer[..32]).to_le_bytes();
    newer[32..36].copy_from_slice(&checksum);
    disk.set_content(NAME, newer.clone());
    let (document, found) = open(&disk);
    assert_eq!(found.expect_err("newer").kind, DamageKind::OtherVersion);
    assert_eq!(disk.content("incidents.version-2"), Some(newer));
    document.write(&content(3)).expect("the disk works");
    // Of a content whose own version is newer.
    document.set_aside(7);
    assert!(disk.content("incidents.version-7").is_some() && disk.content(NAME).is_none());
}

#[test]
fn the_directory_leaves_it_alone() {
    let disk = SimulatedDisk::new(1);
    let (document, _) = open(&disk);
    document.write(&content(1)).expect("the disk works");
    for _ in 0..3 {
        StateDir::open(Arc::new(disk.clone()), StateOptions::default()).expect("it can be listed");
    }
    assert_eq!(open(&disk).1, Ok(Some(content(1))));
}
