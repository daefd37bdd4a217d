//! Whether the end of this thread's sleep interrupts a worker, where both have one core.
//!
//! The scheduler lets a thread that has slept run at once. At a low rate that is in the middle of the round of the worker
//! that has sent a chunk: the core is switched to this thread, and back to the worker for its response. With `SCHED_BATCH`
//! (sched(7)) this thread begins when the worker waits for its next request: one context switch less, and the response
//! does not wait for verdicts. Under load a worker seldom waits, so then it interrupts: where it dozes, and where chunks are
//! of rounds of many requests.

/// With more samples in a chunk its worker has many requests, and may go on until the scheduler stops it. A verdict would
/// wait for that, some milliseconds.
pub(super) const SHORT_ROUND_SAMPLES: usize = 8;

/// How the scheduler treats the calling thread, which must be the same for all calls.
#[derive(Debug)]
pub(super) struct Preemption {
    /// False where nobody shares the core, and where the scheduler was told otherwise from outside.
    may_change: bool,
    is_batch: bool,
}

impl Preemption {
    /// As the thread begins: it interrupts.
    pub fn new(shares_core: bool) -> Self {
        // SAFETY: no pointers; zero is the calling thread.
        let may_change = shares_core && unsafe { libc::sched_getscheduler(0) } == libc::SCHED_OTHER;
        Self { may_change, is_batch: false }
    }

    /// From now on its wake-ups wait for the thread that runs, or do not.
    #[inline]
    pub fn set_batch(&mut self, is_batch: bool) {
        if self.may_change && is_batch != self.is_batch {
            self.change(is_batch);
        }
    }

    #[cold]
    fn change(&mut self, is_batch: bool) {
        let policy = if is_batch { libc::SCHED_BATCH } else { libc::SCHED_OTHER };
        let parameters = libc::sched_param { sched_priority: 0 };
        // SAFETY: the parameters outlive the call; zero is the calling thread.
        let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
        // A sandbox may forbid it. Then it stays as it is, which costs a context switch more.
        self.may_change = result == 0;
        self.is_batch = is_batch;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> i32 {
        // SAFETY: no pointers; zero is the calling thread.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn it_changes_where_a_core_is_shared_and_nothing_was_set_before() {
        let mut preemption = Preemption::new(false);
        preemption.set_batch(true);
        assert_eq!(policy(), libc::SCHED_OTHER);

        let mut preemption = Preemption::new(true);
        preemption.set_batch(true);
        // A sandbox may forbid it.
        if preemption.may_change {
            assert_eq!(policy(), libc::SCHED_BATCH);
            let mut other = Preemption::new(true);
            other.set_batch(false);
            assert_eq!(policy(), libc::SCHED_BATCH, "it was set before");
        }
        preemption.set_batch(false);
        assert_eq!(policy(), libc::SCHED_OTHER);
    }
}
