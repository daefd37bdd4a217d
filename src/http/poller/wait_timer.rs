//! The moment at which a wait ends at the latest: a timer that is polled like a socket.
//!
//! A limit of the wait itself would be a timer that the kernel starts and cancels for each wait, so for each request
//! of a quiet server. Deadlines of connections are seconds away and seldom come nearer: this timer stays armed.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};

/// A moment that never comes.
const NEVER: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct WaitTimer {
    timer: OwnedFd,
    /// When it ends a wait; that is over unless it is later than now.
    armed_ms: u64,
}

impl WaitTimer {
    /// A timer that ends waits of `poll` by an event with `token`.
    ///
    /// # Errors
    /// When the kernel gives no timer.
    pub fn new(poll: &Poll, token: Token) -> io::Result<Self> {
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: no pointers.
        let timer = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
        if timer < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just opened it, and nothing else owns it.
        let timer = unsafe { OwnedFd::from_raw_fd(timer) };
        // Each end is one event, whether the timer is read or not: mio registers edge-triggered.
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { timer, armed_ms: 0 })
    }

    /// A wait that begins at `now_ms` ends by `until_ms`, or sooner: for an earlier moment that is no longer wanted.
    ///
    /// # Errors
    /// When the kernel does not set the timer.
    #[inline]
    pub fn arm(&mut self, now_ms: u64, until_ms: u64) -> io::Result<()> {
        let is_armed = self.armed_ms > now_ms && self.armed_ms <= until_ms;
        if is_armed || until_ms == NEVER { Ok(()) } else { self.set(now_ms, until_ms) }
    }

    #[cold]
    fn set(&mut self, now_ms: u64, until_ms: u64) -> io::Result<()> {
        // One more, so that the moment has passed after the wait; never zero, which would disarm it.
        let after_ms = until_ms.saturating_sub(now_ms) + 1;
        let after = libc::timespec {
            tv_sec: (after_ms / 1_000).cast_signed(),
            tv_nsec: (after_ms % 1_000 * 1_000_000).cast_signed(),
        };
        let once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = libc::itimerspec { it_interval: once, it_value: after };
        let timer = self.timer.as_raw_fd();
        // SAFETY: the descriptor is open, the setting outlives the call, and null asks for no earlier one.
        let result =
            unsafe { libc::timerfd_settime(timer, 0, &raw const setting, std::ptr::null_mut()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        self.armed_ms = until_ms;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::Events;

    use super::*;

    const TOKEN: Token = Token(7);
    /// Only a timer that does not work takes so long.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn ends_a_wait(poll: &mut Poll, limit: Duration) -> bool {
        let mut events = Events::with_capacity(4);
        poll.poll(&mut events, Some(limit)).expect("a wait");
        events.iter().any(|event| event.token() == TOKEN)
    }

    #[test]
    fn it_ends_one_wait_for_each_moment() {
        let mut poll = Poll::new().expect("epoll");
        let mut timer = WaitTimer::new(&poll, TOKEN).expect("a timer");
        for now_ms in [0, 1_000, 2_000] {
            timer.arm(now_ms, now_ms + 5).expect("set");
            assert!(ends_a_wait(&mut poll, PATIENCE));
            assert!(!ends_a_wait(&mut poll, Duration::ZERO), "once");
        }
    }

    #[test]
    fn it_stays_armed_until_a_nearer_moment_is_wanted() {
        let poll = Poll::new().expect("epoll");
        let mut timer = WaitTimer::new(&poll, TOKEN).expect("a timer");
        let mut armed_ms = |now_ms, until_ms| {
            timer.arm(now_ms, until_ms).expect("set");
            timer.armed_ms
        };
        assert_eq!(armed_ms(1, NEVER), 0);
        assert_eq!(armed_ms(1, 75_001), 75_001);
        assert_eq!(armed_ms(2, 75_002), 75_001);
        assert_eq!(armed_ms(3, NEVER), 75_001);
        assert_eq!(armed_ms(4, 10_004), 10_004);
        assert_eq!(armed_ms(10_003, 10_005), 10_004);
        assert_eq!(armed_ms(10_004, 10_005), 10_005, "it has ended");
    }
}
