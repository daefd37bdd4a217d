//! What senders of notifications ask: the book of the cluster, while this replica is the one that tells, or its own.

use std::sync::Arc;

use sigmad_clock::Clock;
use sigmad_incidents::incident::Incident;
use sigmad_notify::sender::{ALONE, Book};

use super::asker::IncidentsAsker;
use super::notes::ToldNotes;
use super::shared::SharedState;

/// The book that one sender asks.
#[derive(Debug)]
pub enum ToldBook {
    /// That of this replica.
    Own(IncidentsAsker),
    /// That of the cluster.
    Cluster {
        /// What is known of the cluster.
        state: Arc<SharedState>,
        /// What was told.
        notes: Arc<ToldNotes>,
        /// Names the target in the notes.
        target: String,
        /// Says whether this replica is still the one that tells.
        clock: Clock,
    },
}

impl Book for ToldBook {
    fn changes_since(&mut self, revision: u64, limit: usize) -> Option<Vec<Incident>> {
        match self {
            Self::Own(asker) => asker.changes_since(revision, limit),
            Self::Cluster { state, .. } => {
                Some(state.get().book.as_ref()?.changes_since(revision, limit))
            }
        }
    }

    fn term(&mut self) -> Option<u64> {
        match self {
            Self::Own(_) => Some(ALONE),
            Self::Cluster { state, clock, .. } => {
                let tenure = state.get().tenure?;
                (clock.monotonic_ns() < tenure.until_ns).then_some(tenure.number)
            }
        }
    }

    fn notes(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Own(_) => None,
            Self::Cluster { notes, target, .. } => notes.of(target),
        }
    }
}
