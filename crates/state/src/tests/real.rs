//! The real disk.

use std::path::PathBuf;
use std::sync::Arc;

use super::restore;
use crate::{RealDisk, StateDir, StateError, StateOptions};

/// A directory that is removed again.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("sigmad-state-{name}-{}", std::process::id())))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Err: it was never made.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn records_and_snapshots_come_back() {
    let directory = Directory::new("round-trip");
    let open = || {
        let disk = Arc::new(RealDisk::lock(&directory.0).expect("nobody else has it"));
        StateDir::open(disk, StateOptions::default()).expect("it can be listed")
    };
    {
        let (state, recovery) = open();
        assert!(recovery.snapshots.is_empty() && recovery.journals.is_empty());
        let mut journal = state.journal(0);
        journal.append(0, &super::block(1, &[10])).expect("there is room");
        let mut snapshot = state.snapshot(0, 1).expect("there is room");
        snapshot.block(&super::block(1, &[10])).expect("there is room");
        snapshot.finish().expect("there is room");
        journal.append(1, &super::block(1, &[11])).expect("there is room");
        assert_eq!(journal.sync().expect("the disk works"), 2);
    }
    let (_state, recovery) = open();
    assert_eq!(recovery.damage, []);
    assert_eq!(recovery.snapshots[0].position, 1);
    assert_eq!(restore(&recovery)[&1], [10, 11]);
}

#[test]
fn a_second_process_is_refused_and_told_by_whom() {
    let directory = Directory::new("lock");
    let _first = RealDisk::lock(&directory.0).expect("nobody else has it");
    match RealDisk::lock(&directory.0) {
        Err(StateError::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
}
