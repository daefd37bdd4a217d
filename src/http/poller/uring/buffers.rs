//! Buffers that the kernel receives into: a pool that all sockets of a worker share.
//!
//! The kernel takes the next one when bytes have arrived (io_uring_register_buf_ring(3)), so a silent connection holds
//! none. Each is lent until it is given back.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::ring::Ring;

/// Buffers of a worker: a power of two. Memory is used once the kernel has written to it, 4 MiB at most.
pub(super) const BUFFERS: u16 = 128;
const _: () = assert!(BUFFERS.is_power_of_two(), "io_uring asks for it");
/// Bytes of each: a batch of a few hundred samples.
pub(super) const BUFFER_BYTES: usize = 32 * 1024;
const _: () = assert!(BUFFER_BYTES <= super::super::RECEIVE_BYTES_MAX);
/// The only group of buffers of a ring.
pub(super) const GROUP: u16 = 0;
const PAGE_BYTES: usize = 4096;
const _: () = assert!(BUFFERS as usize * size_of::<BufRingEntry>() <= PAGE_BYTES);

/// The pool of one worker.
#[derive(Debug)]
pub(super) struct Buffers {
    /// One page of entries that the kernel reads, then the buffers.
    memory: NonNull<u8>,
    tail: u16,
    free: u16,
    is_leaked: bool,
}

// SAFETY: it owns its memory, like a Box.
unsafe impl Send for Buffers {}

impl Buffers {
    fn layout() -> Layout {
        let bytes = PAGE_BYTES + BUFFERS as usize * BUFFER_BYTES;
        Layout::from_size_align(bytes, PAGE_BYTES).expect("a few MiB, aligned to a page")
    }

    /// A pool that `ring` takes buffers from. It must live until the ring receives no more.
    ///
    /// # Errors
    /// When the kernel is older than 5.19, or has no memory.
    pub fn new(ring: &Ring) -> io::Result<Self> {
        // SAFETY: the layout has a size.
        let memory = unsafe { alloc_zeroed(Self::layout()) };
        let memory = NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(Self::layout()));
        let mut buffers = Self { memory, tail: 0, free: 0, is_leaked: false };
        let entries = memory.as_ptr() as u64;
        // SAFETY: the entries are a page of their own, and live as long as the ring receives.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries, BUFFERS, GROUP, 0)? };
        for id in 0..BUFFERS {
            buffers.give_back(id);
        }
        Ok(buffers)
    }

    /// The kernel may write to it for ever: its memory is never given back.
    pub fn leak(&mut self) {
        self.is_leaked = true;
    }

    fn address(&self, id: u16) -> *mut u8 {
        debug_assert!(id < BUFFERS, "the kernel returns what it was given");
        // SAFETY: inside the allocation.
        unsafe { self.memory.as_ptr().add(PAGE_BYTES + usize::from(id) * BUFFER_BYTES) }
    }

    /// Buffers that the kernel may take.
    pub fn free(&self) -> u16 {
        self.free
    }

    /// Takes note that the kernel has taken a buffer.
    pub fn note_taken(&mut self) {
        self.free -= 1;
    }

    /// The first `length` bytes of a buffer that the kernel has filled and that was not given back yet.
    pub fn bytes(&mut self, id: u16, length: usize) -> &mut [u8] {
        debug_assert!(length <= BUFFER_BYTES);
        // SAFETY: the kernel writes to it again only after it was given back; `self` is borrowed until then.
        unsafe { slice::from_raw_parts_mut(self.address(id), length) }
    }

    /// The kernel may fill the buffer again.
    pub fn give_back(&mut self, id: u16) {
        let address = self.address(id);
        let entries = self.memory.as_ptr().cast::<BufRingEntry>();
        let index = usize::from(self.tail & (BUFFERS - 1));
        // SAFETY: inside the page of entries. The kernel does not read this one before the tail is past it, and the
        // tail, which lies in a part of the first entry that has no other use, is written by nobody else.
        unsafe {
            let entry = &mut *entries.add(index);
            entry.set_addr(address as u64);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(entries).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
        self.free += 1;
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        if !self.is_leaked {
            // SAFETY: of this layout; the kernel writes to it no more.
            unsafe { dealloc(self.memory.as_ptr(), Self::layout()) };
        }
    }
}
