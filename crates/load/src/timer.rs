//! A timer with microseconds for a poller, whose own timeout has milliseconds.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

const NS_PER_S: u64 = 1_000_000_000;

/// A timerfd.
#[derive(Debug)]
pub struct WakeTimer(OwnedFd);

impl WakeTimer {
    /// A timer that wakes the poller with `token`.
    ///
    /// # Errors
    /// When the kernel has no free descriptor.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        // SAFETY: a plain system call without pointers.
        let fd = unsafe {
            libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just created it, and no other code has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // mio reports edges, and each expiry is one: the descriptor need not be read.
        registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self(fd))
    }

    /// Wakes the poller once after `after_ns`; replaces the time set before.
    pub fn set(&self, after_ns: u64) {
        // Zero would stop it.
        let after_ns = after_ns.max(1);
        let moment = libc::itimerspec {
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: libc::timespec {
                tv_sec: (after_ns / NS_PER_S) as libc::time_t,
                tv_nsec: (after_ns % NS_PER_S) as libc::c_long,
            },
        };
        // SAFETY: the descriptor is ours and open; the pointers are to a live itimerspec, and null.
        let set = unsafe {
            libc::timerfd_settime(self.0.as_raw_fd(), 0, &raw const moment, std::ptr::null_mut())
        };
        assert_eq!(set, 0, "a timerfd takes every time: {}", io::Error::last_os_error());
    }
}
