//! One small whole file that is replaced again and again: what a process knows beside its records.
//!
//! A content is written under a temporary name, made durable, and then takes the name of the one before. So after a
//! crash there is the last content or the one before it, and each of them is whole.

use std::sync::Arc;

use crate::damage::{DamageKind, Damaged, StateError};
use crate::disk::Disk;
use crate::frame::{self, FrameReader, ReadFault};
use crate::names::{Aside, FileKind, FileName};

/// A longer content is refused: whoever writes it bounds what is in it.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The content of one frame: few checksums, and a buffer of a reader that is not large.
const PART_BYTES: usize = 1024 * 1024;
const _: () = assert!(PART_BYTES <= crate::CONTENT_BYTES_MAX);

/// The file of the incidents.
const INCIDENTS: FileName =
    FileName { generation: 0, kind: FileKind::Document, shard: 0, position: 0 };
/// The file of what the live page shows of the past.
const HISTORY: FileName = FileName { position: 1, ..INCIDENTS };
/// The file of which replica this is.
const REPLICA: FileName = FileName { position: 2, ..INCIDENTS };

/// The file, which one process writes. It does not count towards [`StateOptions::bytes_max`](crate::StateOptions).
#[derive(Debug)]
pub struct Document {
    disk: Arc<dyn Disk>,
    name: FileName,
}

impl Document {
    /// That of the incidents, with its content: None before the first. Damage ends nothing: the next content replaces what
    /// is there. A file of a newer version, or one that can't be read, is renamed and kept.
    pub fn incidents(disk: Arc<dyn Disk>) -> (Self, Result<Option<Vec<u8>>, Damaged>) {
        Self::open(disk, INCIDENTS)
    }

    /// That of the history, as [`Document::incidents`].
    pub fn history(disk: Arc<dyn Disk>) -> (Self, Result<Option<Vec<u8>>, Damaged>) {
        Self::open(disk, HISTORY)
    }

    /// That of which replica this is, as [`Document::incidents`].
    pub fn replica(disk: Arc<dyn Disk>) -> (Self, Result<Option<Vec<u8>>, Damaged>) {
        Self::open(disk, REPLICA)
    }

    fn open(disk: Arc<dyn Disk>, name: FileName) -> (Self, Result<Option<Vec<u8>>, Damaged>) {
        let document = Self { disk, name };
        // Err: there is none, or the next content replaces it.
        let _ = document.disk.remove(&document.name.temporary());
        // What a killed process has renamed may be in the system's memory alone. Err: the next content does it.
        let _ = document.disk.sync_dir();
        let content = match document.read() {
            Err(ReadFault::Damage(DamageKind::Missing)) => Ok(None),
            Ok(content) => Ok(Some(content)),
            Err(fault) => {
                if let Some(why) = fault.aside() {
                    document.rename(why);
                }
                Err(document.damaged(fault.kind()))
            }
        };
        (document, content)
    }

    /// What is wrong with the file, for a content that can't be used.
    pub fn damaged(&self, kind: DamageKind) -> Damaged {
        Damaged { kind, file: self.name.to_string() }
    }

    /// Renames the file, whose content is of a newer version, so that it is kept.
    pub fn set_aside(&self, version: u16) {
        self.rename(Aside::Newer(version));
    }

    fn rename(&self, why: Aside) {
        let aside = format!("{}{why}", self.name);
        // Err: the next content replaces it.
        if self.disk.rename(&self.name.to_string(), &aside).is_ok() {
            let _ = self.disk.sync_dir();
        }
    }

    /// Replaces the content. Returns the length of the file.
    ///
    /// # Errors
    /// When the disk refuses: then the content before stays, or this one is there.
    pub fn write(&self, content: &[u8]) -> Result<u64, StateError> {
        if content.len() > DOCUMENT_BYTES_MAX {
            return Err(StateError::ContentLength(content.len()));
        }
        let written = frame::write_file(&*self.disk, &self.name, content.chunks(PART_BYTES));
        if written.is_err() {
            // Err: it had got its name, or the next one replaces it.
            let _ = self.disk.remove(&self.name.temporary());
        }
        Ok(written?)
    }

    fn read(&self) -> Result<Vec<u8>, ReadFault> {
        let mut reader = FrameReader::open(&*self.disk, &self.name)?;
        let mut content = Vec::new();
        while let Some(part) = reader.next_block()? {
            content.extend_from_slice(part);
        }
        Ok(content)
    }
}

#[cfg(test)]
mod tests;
