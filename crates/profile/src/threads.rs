//! The threads of this process: who they are, and where each of them is.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::Duration;

use super::capture::{CaptureReason, CaptureSession, signal};
use super::unwind::Unwinder;

/// A thread that has not answered by then is not shown with a stack: it is in the kernel, and can't be
/// interrupted there.
const PATIENCE: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(1);

/// One thread, and where it is.
#[derive(Clone, Debug)]
pub struct Thread {
    /// Its number.
    pub tid: i32,
    /// Its name.
    pub name: String,
    /// As `ps` shows it: R runs, S sleeps.
    pub state: char,
    /// Innermost first; empty when it did not answer.
    pub stack: Vec<u64>,
    /// It ends early: see [`CUT`](super::capture::CUT).
    pub is_cut: bool,
}

/// The numbers of all threads.
///
/// # Errors
/// Without `/proc`.
pub fn all() -> io::Result<Vec<i32>> {
    let mut tids = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task")? {
        tids.extend(entry?.file_name().to_str().and_then(|tid| tid.parse::<i32>().ok()));
    }
    tids.sort_unstable();
    Ok(tids)
}

/// The name of a thread; None when it has ended.
pub fn name(tid: i32) -> Option<String> {
    let name = std::fs::read(format!("/proc/self/task/{tid}/comm")).ok()?;
    Some(String::from_utf8_lossy(&name).trim_end().to_owned())
}

/// The clock of the CPU time of a thread, as the kernel numbers it (posix-timers_types.h).
pub fn cpu_clock(tid: i32) -> libc::clockid_t {
    const PER_THREAD: libc::c_int = 4;
    const SCHEDULED: libc::c_int = 2;
    (!tid << 3) | PER_THREAD | SCHEDULED
}

/// The CPU time that a thread has had; None when it has ended.
pub fn cpu_ns(tid: i32) -> Option<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec, which the call fills.
    let told = unsafe { libc::clock_gettime(cpu_clock(tid), &raw mut time) };
    (told == 0).then_some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

fn state(tid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).ok()?;
    // The name before it may hold spaces and brackets.
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// The stacks of all threads, one by one: each is right, but they are not of one moment. None while
/// somebody else looks.
///
/// # Errors
/// Without `/proc`, or when the kernel takes no signal.
pub fn stacks(unwinder: &mut Unwinder) -> io::Result<Option<Vec<Thread>>> {
    let Some(session) = CaptureSession::begin(CaptureReason::Look)? else { return Ok(None) };
    let mut asked = HashSet::new();
    let mut threads = Vec::new();
    for tid in all()? {
        // What it does before it is asked.
        let (Some(name), Some(state)) = (name(tid), state(tid)) else { continue };
        // SAFETY: a signal with a handler, to a thread of this process; one that has ended is an error.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal()) };
        if sent == 0 {
            asked.insert(tid);
            threads.push(Thread { tid, name, state, stack: Vec::new(), is_cut: false });
        }
    }
    let mut stacks = HashMap::new();
    let mut waited = Duration::ZERO;
    while !asked.is_empty() && waited < PATIENCE {
        session.take(|capture| {
            asked.remove(&capture.tid);
            let mut stack = Vec::new();
            unwinder.unwind(&capture.registers, &capture.stack, &mut stack);
            stacks.insert(capture.tid, (stack, capture.is_cut));
        });
        if !asked.is_empty() {
            std::thread::sleep(LOOK);
            waited += LOOK;
        }
    }
    for thread in &mut threads {
        (thread.stack, thread.is_cut) = stacks.remove(&thread.tid).unwrap_or_default();
    }
    Ok(Some(threads))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::super::symbols::Symbols;
    use super::*;

    #[inline(never)]
    fn waits_for_the_end(until: &std::sync::mpsc::Receiver<()>) -> bool {
        // Done after the wait: else the call is a jump, and this function has no frame.
        std::hint::black_box(until.recv()).is_err()
    }

    #[test]
    fn a_sleeping_thread_is_found_where_it_sleeps() {
        let mut symbols = Symbols::of_this_process();
        let mut unwinder = Unwinder::new(&symbols);
        let (end, until) = channel::<()>();
        let (is_up, started) = channel();
        let sleeper = std::thread::Builder::new().name("sleeper".into()).spawn(move || {
            is_up.send(()).expect("the test waits");
            waits_for_the_end(&until)
        });
        started.recv().expect("it starts");
        // It may not have come to its wait yet, and a listing leaves out a thread while others end. It sleeps until
        // it has been found.
        loop {
            let Some(threads) = stacks(&mut unwinder).expect("signals") else { continue };
            let found = threads.iter().find(|thread| thread.name == "sleeper");
            let Some(thread) = found else { continue };
            let frames = thread.stack.iter().flat_map(|at| symbols.resolve(at - 1).to_vec());
            let names: Vec<_> = frames.map(|frame| frame.function).collect();
            if names.iter().any(|name| name.contains("waits_for_the_end")) {
                assert!(names.iter().any(|name| name.ends_with("thread_start")), "{names:?}");
                break;
            }
        }
        drop(end);
        assert!(sleeper.expect("a thread").join().expect("no panic"));
    }
}
