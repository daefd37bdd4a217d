//! The writer of a snapshot: to a temporary file, which gets its name once it is durable.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::damage::StateError;
use crate::files::Files;
use crate::frame::{FRAME_BYTES, WholeFile};
use crate::names::{FileKind, FileName};
use crate::{CONTENT_BYTES_MAX, Position};

/// Writes one snapshot. One that is dropped before [`SnapshotWriter::finish`] leaves nothing.
#[derive(Debug)]
pub struct SnapshotWriter {
    directory: Arc<Files>,
    file: WholeFile,
    /// Its bytes that the directory counts.
    counted: u64,
    is_finished: bool,
}

impl SnapshotWriter {
    pub(crate) fn begin(
        directory: Arc<Files>,
        shard: u32,
        position: Position,
    ) -> Result<Self, StateError> {
        directory.begin()?;
        let generation = directory.generation;
        let name = FileName { generation, kind: FileKind::Snapshot, shard, position };
        let file = WholeFile::create(&*directory.disk, name)?;
        // Relaxed: a segment may begin a little later.
        directory.shards[shard as usize].begins_segment.store(true, Relaxed);
        Ok(Self { directory, file, counted: 0, is_finished: false })
    }

    /// Adds a block.
    ///
    /// # Errors
    /// [`StateError::Full`] when the directory has no room; else what the disk says. The snapshot is to be dropped then.
    pub fn block(&mut self, block: &[u8]) -> Result<(), StateError> {
        if !(1..=CONTENT_BYTES_MAX).contains(&block.len()) {
            return Err(StateError::ContentLength(block.len()));
        }
        if !self.directory.snapshot_has_room((FRAME_BYTES + block.len()) as u64) {
            return Err(StateError::Full);
        }
        let pushed = self.file.push(block);
        self.count();
        Ok(pushed?)
    }

    /// Makes the snapshot durable, and removes what is needed no more. Returns its length in bytes.
    ///
    /// # Errors
    /// What the disk says. Then the older snapshots stay.
    pub fn finish(mut self) -> Result<u64, StateError> {
        let finished = self.file.finish();
        self.count();
        finished?;
        let disk = &*self.directory.disk;
        self.file.take_name(disk)?;
        self.is_finished = true;
        let replaced = self.directory.note(self.file.name(), self.counted);
        self.directory.shrink(replaced.unwrap_or(0));
        disk.sync_dir()?;
        self.directory.finished(self.file.name(), self.counted);
        Ok(self.counted)
    }

    fn count(&mut self) {
        let bytes = self.file.bytes();
        self.directory.grow(bytes - self.counted);
        self.counted = bytes;
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.is_finished {
            // Err: the next start removes it.
            let _ = self.directory.disk.remove(&self.file.name().temporary());
            self.directory.shrink(self.counted);
        }
    }
}
