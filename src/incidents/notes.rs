//! What the targets of notifications were told, by whichever replica told them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

/// What each target of notifications was told, for the next replica that tells.
#[derive(Debug)]
pub struct ToldNotes {
    notes: Mutex<Kept>,
    noted: Sender<()>,
}

#[derive(Debug, Default)]
struct Kept {
    by_target: BTreeMap<String, Vec<u8>>,
    /// Those that Redis does not have.
    changed: BTreeSet<String>,
}

impl ToldNotes {
    /// Without notes. Something arrives at the receiver after each change.
    pub fn new() -> (Arc<Self>, Receiver<()>) {
        let (noted, changes) = bounded(1);
        (Arc::new(Self { notes: Mutex::default(), noted }), changes)
    }

    /// Replaces the note of a target.
    pub fn keep(&self, target: &str, note: Vec<u8>) {
        let mut kept = self.notes.lock();
        kept.by_target.insert(target.to_owned(), note);
        kept.changed.insert(target.to_owned());
        drop(kept);
        // Full: the thread will look. Disconnected: it has ended.
        let _ = self.noted.try_send(());
    }

    /// The note of a target.
    pub fn of(&self, target: &str) -> Option<Vec<u8>> {
        self.notes.lock().by_target.get(target).cloned()
    }

    /// Takes what Redis has in place of all notes.
    pub fn replace(&self, by_target: BTreeMap<String, Vec<u8>>) {
        *self.notes.lock() = Kept { by_target, changed: BTreeSet::new() };
    }

    /// The notes that Redis does not have.
    pub fn changed(&self) -> Vec<(String, Vec<u8>)> {
        let mut kept = self.notes.lock();
        let changed = std::mem::take(&mut kept.changed).into_iter();
        let note = |key: String| {
            let note = kept.by_target.get(&key).cloned()?;
            Some((key, note))
        };
        changed.filter_map(note).collect()
    }

    /// Redis has none of the notes.
    pub fn change_all(&self) {
        let mut kept = self.notes.lock();
        kept.changed = kept.by_target.keys().cloned().collect();
    }
}
