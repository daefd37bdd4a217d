//! What the connections of all workers take together: their number, and the memory for what has arrived of their
//! requests and for what they do not read.
//!
//! Each worker counts its own connections, and reserves what they hold from the budget that all workers share.
//! It reserves and returns whole steps, so that small requests write no memory of other workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Reserved at a time: one receive.
const STEP_BYTES: usize = 64 * 1024;
/// The sizes of buffers: most heads in pieces fit the first, a receive the second.
const TINY_BYTES: usize = 4 * 1024;
const SMALL_BYTES: usize = 64 * 1024;
/// Above half of it the allocator gives a buffer pages of its own.
const LARGE_BYTES_MIN: usize = 1024 * 1024;
/// A worker keeps this much for its next connections.
pub const WORKER_KEPT_BYTES: usize = 1024 * 1024;

/// What the connections of all workers have, and may have.
#[derive(Debug)]
pub struct ConnectionBudget {
    /// Connections open now, without the reserved ones.
    pub(super) open: AtomicUsize,
    /// Connections open now above the limit.
    pub(super) above_limit: AtomicUsize,
    bytes_max: usize,
    reserved: AtomicUsize,
    /// How often a worker has found too little.
    shortages: AtomicU64,
}

impl ConnectionBudget {
    /// A budget of `bytes_max`.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            open: AtomicUsize::new(0),
            above_limit: AtomicUsize::new(0),
            bytes_max,
            reserved: AtomicUsize::new(0),
            shortages: AtomicU64::new(0),
        }
    }

    /// The count of connections of that kind.
    pub(super) fn places(&self, is_reserved: bool) -> &AtomicUsize {
        if is_reserved { &self.above_limit } else { &self.open }
    }
}

/// What the connections of one worker hold.
#[derive(Debug)]
pub(super) struct WorkerMemory {
    budget: Arc<ConnectionBudget>,
    held: usize,
    reserved: usize,
    /// Shortages that have been answered here.
    shortages_seen: u64,
    /// The connection that has grown last while the budget was exceeded.
    short: Option<usize>,
}

impl WorkerMemory {
    pub fn new(budget: Arc<ConnectionBudget>) -> Self {
        Self { budget, held: 0, reserved: 0, shortages_seen: 0, short: None }
    }

    /// Bytes that the connections of this worker hold.
    pub fn held(&self) -> usize {
        self.held
    }

    /// The connection `key` holds `after` bytes instead of `before`.
    pub fn change(&mut self, key: usize, before: usize, after: usize) {
        self.held = self.held + after - before;
        // Relaxed throughout: sums, which order nothing.
        if self.held > self.reserved {
            let missing = (self.held - self.reserved).next_multiple_of(STEP_BYTES);
            self.reserved += missing;
            let reserved = self.budget.reserved.fetch_add(missing, Ordering::Relaxed) + missing;
            if reserved > self.budget.bytes_max {
                self.budget.shortages.fetch_add(1, Ordering::Relaxed);
                self.short = Some(key);
            }
        } else if after < before {
            // Past the budget nothing is kept: the next connection would grow without being counted.
            let kept = if self.is_over() { 0 } else { WORKER_KEPT_BYTES };
            let spare = self.reserved - self.held;
            if spare > kept {
                self.reserved -= spare;
                self.budget.reserved.fetch_sub(spare, Ordering::Relaxed);
            }
        }
    }

    /// True until [`WorkerMemory::take_short`], once a connection has grown past the budget.
    pub fn is_short(&self) -> bool {
        self.short.is_some()
    }

    /// The connection that has grown past the budget, once.
    pub fn take_short(&mut self) -> Option<usize> {
        self.short.take()
    }

    /// True once for each time in which some worker has found too little.
    pub fn has_shortage(&mut self) -> bool {
        let shortages = self.budget.shortages.load(Ordering::Relaxed);
        std::mem::replace(&mut self.shortages_seen, shortages) != shortages
    }

    /// True while all connections together hold too much.
    pub fn is_over(&self) -> bool {
        self.budget.reserved.load(Ordering::Relaxed) > self.budget.bytes_max
    }
}

impl Drop for WorkerMemory {
    fn drop(&mut self) {
        self.budget.reserved.fetch_sub(self.reserved, Ordering::Relaxed);
    }
}

/// Makes room for `more` bytes, up to `bound` where that is enough.
///
/// A buffer has one of few sizes, because the allocator keeps a run of pages for each and returns it when every buffer
/// in it is free. A buffer past [`SMALL_BYTES`] has pages of its own, so it may be much larger than what it holds:
/// a page takes memory when it is written.
pub(super) fn reserve_within(buffer: &mut Vec<u8>, more: usize, bound: usize) {
    let needed = buffer.len() + more;
    if needed <= buffer.capacity() {
        return;
    }
    let room = if needed <= TINY_BYTES {
        TINY_BYTES
    } else if needed <= SMALL_BYTES {
        SMALL_BYTES
    } else {
        (4 * buffer.capacity()).min(bound).max(needed).max(LARGE_BYTES_MIN)
    };
    buffer.reserve_exact(room - buffer.len());
}

/// Bytes of memory that such a buffer takes.
#[inline]
pub(super) fn bytes_taken(buffer: &Vec<u8>) -> usize {
    buffer.capacity().min(buffer.len().next_multiple_of(STEP_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_the_budget_and_return_what_they_reserved() {
        let budget = Arc::new(ConnectionBudget::new(4 << 20));
        let mut one = WorkerMemory::new(budget.clone());
        let mut two = WorkerMemory::new(budget.clone());
        one.change(7, 0, 3 << 20);
        assert!(!one.is_over() && !one.is_short() && !two.has_shortage());
        two.change(9, 0, 2 << 20);
        assert!(one.is_over() && two.is_over());
        assert_eq!((two.take_short(), two.take_short(), one.take_short()), (Some(9), None, None));
        assert!(one.has_shortage() && !one.has_shortage());
        two.change(9, 2 << 20, 0);
        assert!(!one.is_over() && one.held() == 3 << 20 && two.held() == 0);
        drop((one, two));
        assert_eq!(budget.reserved.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn refusals_do_not_raise_the_budget() {
        let budget = Arc::new(ConnectionBudget::new(4 << 20));
        let mut worker = WorkerMemory::new(budget.clone());
        worker.change(0, 0, 4 << 20);
        for key in 1..100 {
            worker.change(key, 0, 60_000);
            assert_eq!(worker.take_short(), Some(key));
            worker.change(key, 60_000, 0);
            assert!(!worker.is_over());
        }
    }

    #[test]
    fn small_requests_do_not_touch_what_workers_share() {
        let budget = Arc::new(ConnectionBudget::new(4 << 20));
        let mut worker = WorkerMemory::new(budget.clone());
        worker.change(1, 0, 1_000);
        let reserved = budget.reserved.load(Ordering::Relaxed);
        for key in 0..10 {
            worker.change(key, 0, 6_000);
        }
        for key in 0..10 {
            worker.change(key, 6_000, 0);
        }
        assert_eq!((reserved, budget.reserved.load(Ordering::Relaxed)), (STEP_BYTES, STEP_BYTES));
    }

    #[test]
    fn a_buffer_grows_in_few_sizes_and_counts_for_what_it_holds() {
        let mut buffer = Vec::new();
        let mut sizes = vec![0];
        while buffer.len() < 5_000_000 {
            reserve_within(&mut buffer, 1_000, 5_000_000);
            buffer.extend_from_slice(&[0; 1_000]);
            assert!(bytes_taken(&buffer) < buffer.len() + STEP_BYTES);
            if sizes.last() != Some(&buffer.capacity()) {
                sizes.push(buffer.capacity());
            }
        }
        assert_eq!(sizes, [0, TINY_BYTES, SMALL_BYTES, LARGE_BYTES_MIN, 4 << 20, 5_000_000]);
        assert_eq!(bytes_taken(&Vec::with_capacity(1 << 20)), 0);
    }
}
