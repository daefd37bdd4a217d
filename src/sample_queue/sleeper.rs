//! Lets one thread sleep and others wake it.
//!
//! Under `--cfg loom` the atomics and the park are loom's: `loom/sleeper.rs` includes this file and
//! checks every interleaving.

#[cfg(not(loom))]
use std::sync::atomic::{AtomicU8, Ordering, fence};
#[cfg(not(loom))]
use std::thread::{Thread, current, park, park_timeout};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU8, Ordering, fence};
#[cfg(loom)]
use loom::thread::{Thread, current, park};

use std::sync::OnceLock;
use std::time::Duration;

const AWAKE: u8 = 0;
const DOZING: u8 = 1;
const PARKED: u8 = 2;

/// Puts the analytics thread to sleep in one of two ways. A doze has a time limit, and only
/// [`Sleeper::wake`] ends it sooner. A park has none, and [`Sleeper::wake_if_parked`] ends it too.
#[derive(Debug)]
pub struct Sleeper {
    state: AtomicU8,
    thread: OnceLock<Thread>,
}

impl Default for Sleeper {
    fn default() -> Self {
        Self { state: AtomicU8::new(AWAKE), thread: OnceLock::new() }
    }
}

impl Sleeper {
    /// Registers the calling thread as the one that sleeps. Called once, before its first sleep.
    pub fn register(&self) {
        self.thread.set(current()).expect("one thread sleeps here");
    }

    /// Sleeps until `limit` has passed or [`Sleeper::wake`] is called. Returns at once when `has_work`
    /// returns true.
    pub fn doze(&self, limit: Duration, has_work: impl FnOnce() -> bool) {
        self.sleep(DOZING, has_work, || park_timeout(limit));
    }

    /// Sleeps until another thread wakes it. Returns at once when `has_work` returns true.
    pub fn park(&self, has_work: impl FnOnce() -> bool) {
        self.sleep(PARKED, has_work, park);
    }

    /// The same, and no longer than `limit`.
    #[cfg_attr(loom, allow(dead_code, reason = "loom has no clock: park and doze model it"))]
    pub fn park_for(&self, limit: Duration, has_work: impl FnOnce() -> bool) {
        self.sleep(PARKED, has_work, || park_timeout(limit));
    }

    fn sleep(&self, state: u8, has_work: impl FnOnce() -> bool, block: impl FnOnce()) {
        self.state.store(state, Ordering::Relaxed);
        // Pairs with the fence in wake_from: either the waker sees our state, or we see its work.
        fence(Ordering::SeqCst);
        if !has_work() {
            block();
        }
        self.state.store(AWAKE, Ordering::Relaxed);
    }

    /// Ends a park, not a doze. Called after the work was queued.
    #[inline]
    pub fn wake_if_parked(&self) {
        self.wake_from(PARKED);
    }

    /// Ends a park or a doze. Called after the work was queued.
    #[inline]
    pub fn wake(&self) {
        self.wake_from(DOZING);
    }

    #[inline]
    fn wake_from(&self, least: u8) {
        // Pairs with the fence in sleep.
        fence(Ordering::SeqCst);
        // Relaxed suffices after the fence. The compare-exchange lets only one of several wakers make the
        // system call. If it fails, the sleeper has been awake since, and looked for work after our fence.
        let seen = self.state.load(Ordering::Relaxed);
        let set_awake = || {
            let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
            self.state.compare_exchange(seen, AWAKE, success, failure).is_ok()
        };
        if seen >= least
            && set_awake()
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}

/// loom has no clock: a doze may end at any time.
#[cfg(loom)]
fn park_timeout(_: Duration) {
    loom::thread::yield_now();
}
