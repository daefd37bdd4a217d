//! Keeps signals away while a call waits for Redis.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;

/// Signals that the thread raises by its own fault: blocked, they would end the process without a message.
const FAULTS: [libc::c_int; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGABRT];

/// Blocks all signals of the calling thread while it lives, but its own faults.
///
/// A CPU profiler interrupts threads by signals, and the redis crate gives a connection up when one of its
/// system calls is interrupted. A blocked signal arrives later, so a profile misses no CPU time. Signals to
/// the process arrive on other threads.
pub(super) struct SignalsBlocked {
    before: libc::sigset_t,
    /// A signal mask belongs to one thread.
    _not_send: PhantomData<*const ()>,
}

impl SignalsBlocked {
    pub fn begin() -> Self {
        let mut blocked = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the first call fills `blocked`, the others change it; the last reads it and fills `before`.
        let before = unsafe {
            libc::sigfillset(blocked.as_mut_ptr());
            for fault in FAULTS {
                libc::sigdelset(blocked.as_mut_ptr(), fault);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, blocked.as_ptr(), before.as_mut_ptr());
            before.assume_init()
        };
        Self { before, _not_send: PhantomData }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: `before` is the mask that this thread had.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut());
        }
    }
}
