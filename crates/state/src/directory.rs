//! The directory: what it held, and the writers of what it will hold.

use std::sync::Arc;

use crate::Position;
use crate::damage::StateError;
use crate::disk::{Disk, Entry};
use crate::files::{Files, StateOptions, Table};
use crate::journal::JournalWriter;
use crate::names::{self, FileName, TEMPORARY};
use crate::readers::Recovery;
use crate::recovery;
use crate::snapshot::SnapshotWriter;
use crate::start::Start;

/// An open directory. Clones share it.
#[derive(Clone, Debug)]
pub struct StateDir(pub(crate) Arc<Files>);

impl StateDir {
    /// Finds what the directory holds, and prepares it for a new generation. Damage is in the [`Recovery`], and ends
    /// nothing. Files that can't be used any more are removed.
    ///
    /// # Errors
    /// When the directory can't be listed.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: StateOptions,
    ) -> Result<(Self, Recovery), StateError> {
        let mut table = Table::default();
        let mut temporary = Vec::new();
        for entry in disk.list()? {
            if let Some(name) = FileName::parse(&entry.name) {
                table.files.insert(name, entry.bytes);
            } else if entry.name.strip_suffix(TEMPORARY).and_then(FileName::parse).is_some() {
                temporary.push(entry.name);
            } else if names::is_set_aside(&entry.name) {
                table.aside.push(entry);
            }
        }
        for name in temporary {
            // Err: it is found again at the next start.
            let _ = disk.remove(&name);
        }
        let found = recovery::find(&disk, &table.files);
        for (name, why) in found.aside {
            let aside = format!("{name}{why}");
            // Err: it is found again at the next start; nothing else reads it.
            if disk.rename(&name.to_string(), &aside).is_ok()
                && let Some(bytes) = table.files.remove(&name)
            {
                table.aside.push(Entry { name: aside, bytes });
            }
        }
        let newest = table.files.keys().map(|name| name.generation).max();
        let start = Start { shards: options.shards, parent: found.parent };
        let generation = newest.map_or(1, |newest| newest + 1);
        let snapshots = found.recovery.snapshots.iter();
        let snapshot_bytes = snapshots.map(|snapshot| snapshot.bytes).sum();
        let files =
            Files::new(disk, options, (generation, start), found.used, table, snapshot_bytes);
        let directory = Self(Arc::new(files));
        directory.0.remove(&found.unusable);
        // Err: tried again with each file.
        if directory.0.begin().is_ok() {
            directory.0.secure(&found.recovery);
        }
        Ok((directory, found.recovery))
    }

    /// The journal of a shard. It is to be asked for once.
    pub fn journal(&self, shard: u32) -> JournalWriter {
        JournalWriter::new(self.0.clone(), shard)
    }

    /// Begins a snapshot of a shard at a position of its journal. One of the same shard must have ended before.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn snapshot(&self, shard: u32, position: Position) -> Result<SnapshotWriter, StateError> {
        SnapshotWriter::begin(self.0.clone(), shard, position)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    /// True when a snapshot of all shards would make room that is needed soon.
    pub fn wants_snapshot(&self) -> bool {
        self.0.wants_snapshot()
    }

    /// Keeps the newest snapshots only, with their journals, and no files of other versions: for when nothing fits.
    pub fn make_room(&self) {
        self.0.make_room();
    }
}
