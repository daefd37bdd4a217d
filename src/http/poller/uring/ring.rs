//! The ring of one worker: submissions, completions, and the one system call of a round.

use std::io;
use std::time::Duration;

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, squeue};

/// Operations that are submitted together; more take another system call.
const SUBMISSIONS: u32 = 1_024;
/// Completions that the ring holds. What comes beyond it waits in the kernel.
const COMPLETIONS: u32 = 8_192;
/// A cancelled operation ends at once; this bounds the end of a worker should the kernel have a defect.
const CANCEL_LIMIT_S: u64 = 5;

/// What a completion is of, in the lowest bits of its user data. The others are the index of the slot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Receive,
    Send,
    Cancel,
    Epoll,
}

impl Operation {
    const BITS: u32 = 2;

    pub fn user_data(self, slot: usize) -> u64 {
        (slot as u64) << Self::BITS | self as u64
    }

    pub fn of(user_data: u64) -> (Self, usize) {
        let operation = match user_data & ((1 << Self::BITS) - 1) {
            0 => Self::Receive,
            1 => Self::Send,
            2 => Self::Cancel,
            _ => Self::Epoll,
        };
        (operation, (user_data >> Self::BITS) as usize)
    }
}

/// An io_uring instance that one thread uses.
pub(super) struct Ring {
    ring: IoUring,
    is_enabled: bool,
}

impl Ring {
    /// Disabled until [`Self::enable`], since it is the worker's thread that submits and not this one.
    ///
    /// # Errors
    /// When the kernel has no io_uring, is older than 6.1, or forbids it.
    pub fn new() -> io::Result<Self> {
        // One thread submits, and completions are made when it asks for them (Linux 6.1): no interrupts in between.
        let ring = IoUring::builder()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        Ok(Self { ring, is_enabled: false })
    }

    /// For what is registered.
    pub fn submitter(&self) -> io_uring::Submitter<'_> {
        self.ring.submitter()
    }

    pub fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// From now on the calling thread is the only one that uses it.
    pub fn enable(&mut self) -> io::Result<()> {
        if !self.is_enabled {
            self.ring.submitter().register_enable_rings()?;
            self.is_enabled = true;
        }
        Ok(())
    }

    /// Appends an operation.
    ///
    /// # Safety
    /// What it points to lives until it has completed.
    pub unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: the caller's promise.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.enter(0, None)?;
        }
    }

    /// Submits, and waits for completions.
    pub fn enter(&mut self, wanted: u32, limit: Option<Duration>) -> io::Result<()> {
        let submitted = self.ring.submission().len() as u32;
        let result = match limit {
            Some(limit) if wanted > 0 => {
                let limit = Timespec::from(limit);
                let arguments = SubmitArgs::new().timespec(&limit);
                self.ring.submitter().submit_with_args(wanted as usize, &arguments)
            }
            _ => {
                let flags = EnterFlags::GETEVENTS.bits();
                // SAFETY: no argument is given; the entries were pushed by the rules of `push`.
                unsafe {
                    self.ring.submitter().enter::<libc::sigset_t>(submitted, wanted, flags, None)
                }
            }
        };
        match result {
            Ok(_) => Ok(()),
            // Time has passed, a signal has come, or completions are to be taken first.
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// The next completion, if there is one.
    pub fn completed(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    /// Ends all operations. False when the kernel may go on with some.
    pub fn cancel_all(&self) -> bool {
        let limit = Timespec::new().sec(CANCEL_LIMIT_S);
        let result = self.ring.submitter().register_sync_cancel(Some(limit), CancelBuilder::any());
        // Not found: there was none.
        result.map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |()| true)
    }
}
