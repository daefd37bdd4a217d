//! A CPU timer for each thread: it interrupts its thread after each period of CPU time, and reports missed
//! expirations.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use libc::timer_t;

use super::capture::{CaptureReason, CaptureSession, signal};
use super::samples::ProfileSamples;
use super::threads;
use super::unwind::Unwinder;

/// Timers on all threads.
pub struct TimerSampler {
    session: CaptureSession,
    period_ns: u64,
    timers: HashMap<i32, ThreadTimer>,
    stack: Vec<u64>,
    random: u64,
}

/// The timer of one thread.
struct ThreadTimer(timer_t);

// SAFETY: the number of a timer of the process; any of its threads may use it.
unsafe impl Send for ThreadTimer {}

impl Drop for ThreadTimer {
    fn drop(&mut self) {
        // SAFETY: a timer that timer_create gave out, and that nobody else deletes.
        unsafe { libc::timer_delete(self.0) };
    }
}

impl TimerSampler {
    /// Starts a timer on every thread.
    ///
    /// # Errors
    /// When the kernel takes no handler or gives no timer.
    pub fn start(period_ns: u64, seed: u64) -> io::Result<Self> {
        let session = CaptureSession::begin(CaptureReason::Timer)?;
        let session = session.ok_or(io::ErrorKind::ResourceBusy)?;
        let mut timers = Self {
            session,
            period_ns,
            timers: HashMap::new(),
            stack: Vec::new(),
            random: seed | 1,
        };
        let refused = timers.find_threads();
        // Some thread may have ended meanwhile, but not all of them.
        match (timers.timers.is_empty(), refused) {
            (true, Some(error)) => Err(error),
            _ => Ok(timers),
        }
    }

    /// Takes the copied stacks, and starts timers on new threads.
    pub fn look(&mut self, samples: &mut ProfileSamples, unwinder: &mut Unwinder) {
        let Self { session, period_ns, stack, .. } = self;
        session.take(|capture| {
            stack.clear();
            unwinder.unwind(&capture.registers, &capture.stack, stack);
            samples.cut += u64::from(capture.is_cut);
            samples.add(capture.tid, stack, capture.weight, capture.weight * *period_ns);
        });
        samples.lost += session.take_lost();
        // A thread without a timer is not sampled; the captured share shows it.
        let _ = self.find_threads();
    }

    fn find_threads(&mut self) -> Option<io::Error> {
        let tids = match threads::all() {
            Ok(tids) => tids,
            Err(error) => return Some(error),
        };
        self.timers.retain(|tid, _| tids.contains(tid));
        let mut refused = None;
        for tid in tids {
            if self.timers.contains_key(&tid) {
                continue;
            }
            match ThreadTimer::new(tid, self.period_ns, self.phase_ns()) {
                Ok(timer) => {
                    self.timers.insert(tid, timer);
                }
                Err(error) => refused = Some(error),
            }
        }
        refused
    }

    /// The first sample of each thread comes at a random point within a period. On average this makes up for
    /// the unfinished period at the end.
    fn phase_ns(&mut self) -> u64 {
        // Marsaglia's xorshift.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        1 + self.random % self.period_ns
    }
}

impl ThreadTimer {
    fn new(tid: i32, period_ns: u64, first_ns: u64) -> io::Result<Self> {
        let mut event = MaybeUninit::<libc::sigevent>::zeroed();
        // SAFETY: zeroes are a sigevent.
        let event = unsafe { event.assume_init_mut() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal();
        event.sigev_notify_thread_id = tid;
        let mut timer = ptr::null_mut();
        // SAFETY: both pointers are to live values, of which the call reads one and writes the other.
        if unsafe { libc::timer_create(threads::cpu_clock(tid), event, &raw mut timer) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let timer = Self(timer);
        let times = libc::itimerspec { it_interval: span(period_ns), it_value: span(first_ns) };
        // SAFETY: the timer made above, and a live value that the call reads.
        match unsafe { libc::timer_settime(timer.0, 0, &raw const times, ptr::null_mut()) } {
            0 => Ok(timer),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn span(ns: u64) -> libc::timespec {
    libc::timespec { tv_sec: (ns / 1_000_000_000) as _, tv_nsec: (ns % 1_000_000_000) as _ }
}
