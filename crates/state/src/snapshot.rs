//! The writer of a snapshot: to a temporary file, which gets its name once it is durable.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::damage::StateError;
use crate::disk::FileWriter;
use crate::files::Files;
use crate::frame::{self, FRAME_BYTES};
use crate::names::{FileKind, FileName, TEMPORARY};
use crate::{CONTENT_BYTES_MAX, Position};

/// Passed to the system at once: few calls, little memory.
const BUFFER_BYTES: usize = 256 * 1024;

/// Writes one snapshot. One that is dropped before [`SnapshotWriter::finish`] leaves nothing.
#[derive(Debug)]
pub struct SnapshotWriter {
    directory: Arc<Files>,
    name: FileName,
    file: Box<dyn FileWriter>,
    seed: u32,
    frames: u64,
    buffer: Vec<u8>,
    /// Bytes passed to the system.
    bytes: u64,
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
        let (header, seed) = frame::header(&name);
        let file = directory.disk.create(&format!("{name}{TEMPORARY}"))?;
        // Relaxed: a segment may begin a little later.
        directory.shards[shard as usize].begins_segment.store(true, Relaxed);
        let buffer = header.to_vec();
        Ok(Self { directory, name, file, seed, frames: 0, buffer, bytes: 0, is_finished: false })
    }

    /// Adds a block.
    ///
    /// # Errors
    /// [`StateError::Full`] when the directory has no room; else what the disk says. The snapshot is to be dropped then.
    pub fn block(&mut self, block: &[u8]) -> Result<(), StateError> {
        if !(1..=CONTENT_BYTES_MAX).contains(&block.len()) {
            return Err(StateError::ContentLength(block.len()));
        }
        let bytes = self.buffer.len() + FRAME_BYTES + block.len();
        if !self.directory.snapshot_has_room(bytes as u64) {
            return Err(StateError::Full);
        }
        frame::push(&mut self.buffer, self.seed, self.frames, block);
        self.frames += 1;
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Makes the snapshot durable, and removes what is needed no more. Returns its length in bytes.
    ///
    /// # Errors
    /// What the disk says. Then the older snapshots stay.
    pub fn finish(mut self) -> Result<u64, StateError> {
        frame::push_end(&mut self.buffer, self.seed, self.frames);
        self.flush()?;
        self.file.sync_data()?;
        let (disk, name) = (&self.directory.disk, self.name.to_string());
        // An earlier file of the temporary name must not get the name of a snapshot after a crash.
        disk.sync_dir()?;
        disk.rename(&format!("{name}{TEMPORARY}"), &name)?;
        self.is_finished = true;
        self.directory.note(self.name, self.bytes);
        disk.sync_dir()?;
        self.directory.finished(self.name, self.bytes);
        Ok(self.bytes)
    }

    fn flush(&mut self) -> Result<(), StateError> {
        let appended = self.file.append(&self.buffer);
        // What arrived is not known after an error, so all of it is counted.
        self.bytes += self.buffer.len() as u64;
        self.directory.grow(self.buffer.len() as u64);
        self.buffer.clear();
        Ok(appended?)
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.is_finished {
            // Err: the next start removes it.
            let _ = self.directory.disk.remove(&format!("{}{TEMPORARY}", self.name));
            self.directory.shrink(self.bytes);
        }
    }
}
