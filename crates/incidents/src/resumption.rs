//! What a book that was read waits for: analytics, which restores what it knew.

use std::collections::BTreeSet;

use crate::event::{Event, Subject};

/// A book that goes on.
#[derive(Clone, Debug)]
pub(crate) struct Resumption {
    /// When it was written.
    pub written_us: i64,
    /// Shards that have not said what is wrong.
    pub shards: usize,
    /// What the others have said, and what has begun since.
    pub standing: BTreeSet<Subject>,
}

impl Resumption {
    /// Whether the book was told of an event before it was written.
    pub fn knows(&self, event: &Event) -> bool {
        !matches!(event, Event::Restored { .. }) && event.at_us() <= self.written_us
    }
}
