//! The allocator: counts what the calling thread asks of it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

/// Calls for memory so far.
pub fn calls() -> usize {
    CALLS.get()
}

/// Bytes taken and not given back, modulo 2^64: a thread may give back what another took.
pub fn bytes() -> usize {
    BYTES.get()
}

struct Counting;

fn count(calls: usize, taken: usize, given_back: usize) {
    CALLS.set(CALLS.get() + calls);
    // A thread may give back what another took.
    BYTES.set(BYTES.get().wrapping_add(taken).wrapping_sub(given_back));
}

// SAFETY: every call goes to the system's allocator as it came; counting touches only thread locals
// that are const-initialised and need no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size(), 0);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size(), 0);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(0, 0, layout.size());
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size, layout.size());
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
