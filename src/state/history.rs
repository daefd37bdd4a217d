//! The history of streams in the state directory: one document, which the thread `events` fills and the thread `state`
//! writes.

use std::sync::Arc;

use sigmad_detectors::saved::Saved;
use sigmad_state::{DamageKind, Damaged, Disk, Document, StateError};
use tracing::warn;

use super::packing;

/// The version of the content. A newer one is renamed and kept.
const VERSION: u16 = 1;

/// The document, opened.
#[derive(Debug)]
pub struct KeptHistory(Document);

impl KeptHistory {
    /// Opens it, and returns what it holds; None before the first, or where it is damaged.
    pub fn read(disk: Arc<dyn Disk>) -> (Self, Result<Option<Vec<u8>>, Damaged>) {
        let (document, content) = Document::history(disk);
        let content = match content {
            Ok(Some(content)) => unpacked(&document, &content).map(Some),
            other => other,
        };
        if let Err(Damaged { kind, file }) = &content {
            warn!(file, kind = kind.name(), "the history can't be read: it begins anew");
        }
        (Self(document), content)
    }

    /// Replaces it.
    ///
    /// # Errors
    /// When the disk refuses: then what was there stays.
    pub fn write(&self, history: &[u8]) -> Result<(), StateError> {
        let mut content = Vec::new();
        VERSION.write(&mut content);
        content.extend_from_slice(&packing::compressed(history).map_err(StateError::Io)?);
        self.0.write(&content).map(drop)
    }
}

fn unpacked(document: &Document, mut content: &[u8]) -> Result<Vec<u8>, Damaged> {
    let unpacked = match u16::read(&mut content) {
        Some(VERSION) => packing::unpack(content),
        Some(version) if version > VERSION => {
            document.set_aside(version);
            return Err(document.damaged(DamageKind::OtherVersion));
        }
        _ => None,
    };
    unpacked.ok_or_else(|| document.damaged(DamageKind::BadChecksum))
}
