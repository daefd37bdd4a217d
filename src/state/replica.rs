//! Which replica this is, where replicas share a Redis: a restart goes on as the same one.
//!
//! So what this process has restored is what Redis has of it already, and nothing counts twice.

use std::sync::Arc;

use sigmad_detectors::saved::Saved;
use sigmad_state::{DamageKind, Damaged, Disk, Document};
use tracing::warn;

/// The version of the content. A newer one is renamed and kept.
const VERSION: u16 = 1;

/// The number of this replica in the directory. Without one, or with one that can't be read, it is `new`, and the
/// directory has that from now on. Returns the damage too, if there is any.
pub fn number(disk: Arc<dyn Disk>, new: u32) -> (u32, Option<Damaged>) {
    let (document, content) = Document::replica(disk);
    let damaged = match content.map(|content| content.map(|content| read(&document, &content))) {
        Ok(Some(Ok(number))) => return (number, None),
        Ok(None) => None,
        Ok(Some(Err(damaged))) | Err(damaged) => Some(damaged),
    };
    if let Some(Damaged { kind, file }) = &damaged {
        warn!(file, kind = kind.name(), "which replica this was can't be read: it is another one");
    }
    let mut content = Vec::new();
    VERSION.write(&mut content);
    new.write(&mut content);
    if let Err(error) = document.write(&content) {
        warn!(%error, "which replica this is can't be kept: after a restart it is another one");
    }
    (new, damaged)
}

fn read(document: &Document, mut content: &[u8]) -> Result<u32, Damaged> {
    let number = match u16::read(&mut content) {
        Some(VERSION) => u32::read(&mut content).filter(|_| content.is_empty()),
        Some(version) if version > VERSION => {
            document.set_aside(version);
            return Err(document.damaged(DamageKind::OtherVersion));
        }
        _ => None,
    };
    number.ok_or_else(|| document.damaged(DamageKind::BadChecksum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sigmad_state::SimulatedDisk;

    #[test]
    fn the_first_number_stays_and_a_damaged_one_is_replaced() {
        let disk = SimulatedDisk::new(1);
        let number = |new| number(Arc::new(disk.clone()), new);
        assert_eq!(number(7), (7, None));
        assert_eq!(number(8), (7, None));
        disk.crash();
        assert_eq!(number(8), (7, None));
        let mut content = disk.content("replica").expect("it was written");
        *content.last_mut().expect("it has content") ^= 1;
        disk.set_content("replica", content);
        let (again, damaged) = number(9);
        assert_eq!((again, damaged.is_some()), (9, true));
        assert_eq!(number(10), (9, None));
    }
}
