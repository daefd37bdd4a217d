//! The way of recorded history between the thread `events` and the thread `replicas`.
//!
//! Each replica records for itself, and writes what is over into Redis in pages: one for each block of ten minutes. The
//! thread `events` offers its pages here and takes those of other replicas from here; the thread `replicas` writes and
//! reads them. A page is offered again whole as its block grows, so any of them may be written and read twice. No I/O.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::cluster_scope::ClusterScope;

/// Seconds of a block: its page is written again each ten seconds, and a day has 144.
pub const BLOCK_S: i64 = 600;
/// Blocks that are kept: a day and what goes on.
pub const BLOCKS_KEPT: usize = 145;
/// Pages of other replicas that wait for the thread `events`: more are not read meanwhile.
pub const PAGES_WAITING_MAX: usize = 64;

/// A page that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadPage {
    /// The replica whose page it is.
    pub replica: u32,
    /// The number of the block since 1970.
    pub block: u32,
    /// What the replica has recorded in it.
    pub content: Vec<u8>,
}

#[derive(Debug)]
struct State {
    to_write: BTreeMap<u32, Vec<u8>>,
    read: Vec<ReadPage>,
    away_since_us: Option<i64>,
    offset_us: i64,
}

/// Pages on their way to Redis, and from it.
#[derive(Debug)]
pub struct SharedHistory {
    own: u32,
    state: Mutex<State>,
}

impl SharedHistory {
    /// Nothing is known since `now_us`. `own` is this replica.
    pub fn new(own: u32, now_us: i64) -> Self {
        let (to_write, read) = Default::default();
        let state = State { to_write, read, away_since_us: Some(now_us), offset_us: 0 };
        Self { own, state: Mutex::new(state) }
    }

    /// This replica.
    pub fn own(&self) -> u32 {
        self.own
    }

    /// Has a page written, in the place of an earlier one. While Redis is away a day of them waits.
    pub fn offer(&self, block: u32, page: Vec<u8>) {
        let to_write = &mut self.state.lock().to_write;
        to_write.insert(block, page);
        while to_write.len() > BLOCKS_KEPT {
            to_write.pop_first();
        }
    }

    /// The pages to write.
    pub fn take_offered(&self) -> BTreeMap<u32, Vec<u8>> {
        std::mem::take(&mut self.state.lock().to_write)
    }

    /// Pages that were not written wait again, but for those that have grown.
    pub fn put_back(&self, pages: BTreeMap<u32, Vec<u8>>) {
        let mut state = self.state.lock();
        let newer = std::mem::replace(&mut state.to_write, pages);
        state.to_write.extend(newer);
    }

    /// True while pages wait for the thread `events`.
    pub fn is_full(&self) -> bool {
        self.state.lock().read.len() >= PAGES_WAITING_MAX
    }

    /// Leaves what was read for the thread `events`.
    pub fn add_read(&self, pages: impl IntoIterator<Item = ReadPage>) {
        self.state.lock().read.extend(pages);
    }

    /// What was read since the last call.
    pub fn take_read(&self) -> Vec<ReadPage> {
        std::mem::take(&mut self.state.lock().read)
    }

    /// Pages were exchanged. `offset_us` is the wall clock of this replica less Redis' clock.
    pub fn reached(&self, offset_us: i64) {
        let mut state = self.state.lock();
        (state.away_since_us, state.offset_us) = (None, offset_us);
    }

    /// Redis is away, or refuses pages.
    pub fn away(&self, now_us: i64) {
        self.state.lock().away_since_us.get_or_insert(now_us);
    }

    /// The wall clock of this replica less Redis' clock.
    pub fn offset_us(&self) -> i64 {
        self.state.lock().offset_us
    }

    /// Whose data an answer has now. While Redis is away it is the cluster's as it was known last.
    pub fn scope(&self) -> ClusterScope {
        ClusterScope { is_cluster: true, degraded_since_us: self.state.lock().away_since_us }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_wait_until_they_are_written_and_the_newest_replaces_others() {
        let desk = SharedHistory::new(1, 5);
        assert_eq!(desk.scope().degraded_since_us, Some(5));
        for block in 0..BLOCKS_KEPT as u32 + 3 {
            desk.offer(block, vec![1]);
        }
        let taken = desk.take_offered();
        assert_eq!((taken.len(), taken.keys().next()), (BLOCKS_KEPT, Some(&3)));
        assert!(desk.take_offered().is_empty());
        desk.offer(4, vec![2]);
        desk.put_back([(3, vec![1]), (4, vec![1])].into());
        assert_eq!(desk.take_offered(), [(3, vec![1]), (4, vec![2])].into());
        desk.reached(7);
        assert_eq!((desk.scope().degraded_since_us, desk.offset_us()), (None, 7));
        desk.away(9);
        desk.away(10);
        assert_eq!(desk.scope().degraded_since_us, Some(9));
    }

    #[test]
    fn what_was_read_is_taken_once() {
        let desk = SharedHistory::new(1, 5);
        let page = |block| ReadPage { replica: 2, block, content: Vec::new() };
        desk.add_read((0..PAGES_WAITING_MAX as u32).map(page));
        assert!(desk.is_full());
        assert_eq!(desk.take_read().len(), PAGES_WAITING_MAX);
        assert!(!desk.is_full() && desk.take_read().is_empty());
    }
}
