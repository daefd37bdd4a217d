//! The kernel's perf events, one for each thread: the kernel interrupts the thread after each period of CPU
//! time, and writes the kernel's stack and a copy of the user's stack into a ring buffer.
//!
//! The CPU clock of a thread weights its samples: those found in one poll share the time since the poll
//! before, and the last one also gets the time after it. The event's own clock would be wrong twice. It runs
//! on while a hypervisor takes the core, which the scheduler charges to no thread. And it starts only after
//! the switch to a thread, which the scheduler charges to that thread.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use libc::{c_long, c_void};

use super::capture::Registers;
use super::samples::ProfileSamples;
use super::threads;
use super::unwind::Unwinder;

/// Bytes copied of a stack, from its top. Every sample takes as much of the ring, however deep the stack is.
const STACK_BYTES: u32 = 16 * 1024;
/// The samples of 7 ms at 1,000 Hz. A page more tells where they are.
const RING_BYTES: usize = 128 * 1024;
const _: () =
    assert!(RING_BYTES.is_power_of_two() && RING_BYTES > 7 * (STACK_BYTES as usize + 2048));
/// Looks from one search for new threads to the next: the list of threads costs more than their rings.
const LOOKS_PER_SEARCH: u32 = 3;
const PAGE_BYTES: usize = 4096;
/// No frame of the kernel: what divides its frames from the user's.
const CONTEXT_MARKS: u64 = -4095_i64 as u64;

/// `struct perf_event_attr` of linux/perf_event.h, as far as version 3 of it goes.
#[repr(C)]
#[derive(Default)]
struct PerfEventAttributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
    branch_sample_type: u64,
    sample_regs_user: u64,
    sample_stack_user: u32,
    reserved: u32,
}
const _: () = assert!(size_of::<PerfEventAttributes>() == 96, "PERF_ATTR_SIZE_VER3");

const TYPE_SOFTWARE: u32 = 1;
const CPU_CLOCK: u64 = 0;
const SAMPLE_IP: u64 = 1 << 0;
const SAMPLE_TID: u64 = 1 << 1;
const SAMPLE_CALLCHAIN: u64 = 1 << 5;
const SAMPLE_REGS_USER: u64 = 1 << 12;
const SAMPLE_STACK_USER: u64 = 1 << 13;
const FLAG_EXCLUDE_HYPERVISOR: u64 = 1 << 6;
const FLAG_EXCLUDE_CALLCHAIN_USER: u64 = 1 << 22;
const FLAG_CLOSE_ON_EXEC: u64 = 1 << 3;
const RECORD_LOST: u32 = 2;
const RECORD_SAMPLE: u32 = 9;

/// The registers asked for: bits as the kernel numbers them, in the order in which it writes them.
#[cfg(target_arch = "x86_64")]
const REGISTERS: u64 = 1 << 6 | 1 << 7 | 1 << 8;
#[cfg(target_arch = "aarch64")]
const REGISTERS: u64 = 1 << 29 | 1 << 30 | 1 << 31 | 1 << 32;

#[cfg(target_arch = "x86_64")]
fn registers(values: &[u64]) -> Option<Registers> {
    let [fp, sp, pc] = values else { return None };
    Some(Registers { pc: *pc, sp: *sp, fp: *fp, lr: 0 })
}

#[cfg(target_arch = "aarch64")]
fn registers(values: &[u64]) -> Option<Registers> {
    let [fp, lr, sp, pc] = values else { return None };
    Some(Registers { pc: *pc, sp: *sp, fp: *fp, lr: *lr })
}

/// Events on all threads.
pub struct PerfSampler {
    period_ns: u64,
    events: HashMap<i32, PerfEvent>,
    looks: u32,
    record: Vec<u8>,
    /// Of the samples of one look, one after the other, and where each of them ends.
    stacks: Vec<u64>,
    ends: Vec<usize>,
}

/// The event of one thread, and its ring.
struct PerfEvent {
    /// Closing it ends the event.
    _file: OwnedFd,
    ring: NonNull<c_void>,
    /// What the clock of the thread said when its last samples were found.
    cpu_ns: u64,
    /// The stack of the last; empty before the first.
    last: Vec<u64>,
}

// SAFETY: the ring is a mapping of the process, and has one owner.
unsafe impl Send for PerfEvent {}

impl Drop for PerfEvent {
    fn drop(&mut self) {
        // SAFETY: the mapping made in open(), which nobody else knows.
        unsafe { libc::munmap(self.ring.as_ptr(), PAGE_BYTES + RING_BYTES) };
    }
}

impl PerfSampler {
    /// Opens an event on every thread.
    ///
    /// # Errors
    /// When the kernel does not allow it, as in most containers.
    pub fn start(period_ns: u64) -> io::Result<Self> {
        let mut perf = Self {
            period_ns,
            events: HashMap::new(),
            looks: 0,
            record: Vec::new(),
            stacks: Vec::new(),
            ends: Vec::new(),
        };
        // What they have had is not of this profile.
        let refused = perf.open_missing(&threads::all()?, threads::cpu_ns);
        match refused {
            Some(error) if perf.events.is_empty() => Err(error),
            // The first is as allowed as the others; more rings than may be locked are not.
            Some(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
            _ => Ok(perf),
        }
    }

    /// Takes the samples; at intervals also opens events on new threads, and closes those that ended.
    pub fn look(&mut self, samples: &mut ProfileSamples, unwinder: &mut Unwinder) {
        self.looks += 1;
        if !self.looks.is_multiple_of(LOOKS_PER_SEARCH) {
            return self.drain(samples, unwinder);
        }
        // Before the rings are read: what has ended by now has all its samples in its ring.
        let tids = threads::all();
        self.drain(samples, unwinder);
        // Without the list the threads stay those of before, which the captured share tells.
        let Ok(tids) = tids else { return };
        self.events.retain(|tid, _| tids.contains(tid));
        // A thread without an event is not sampled, which the captured share tells too. All that a new one has
        // had is of this profile.
        let _ = self.open_missing(&tids, |_| Some(0));
    }

    /// Takes what is left.
    pub fn end(mut self, samples: &mut ProfileSamples, unwinder: &mut Unwinder) {
        self.drain(samples, unwinder);
        for (tid, event) in self.events {
            // A thread that was never sampled has no stack to give its time to, and stays out of the profile.
            if let (false, Some(cpu_ns)) = (event.last.is_empty(), threads::cpu_ns(tid)) {
                samples.add(tid, &event.last, 0, cpu_ns.saturating_sub(event.cpu_ns));
            }
        }
    }

    fn drain(&mut self, samples: &mut ProfileSamples, unwinder: &mut Unwinder) {
        let Self { period_ns, events, record, stacks, ends, .. } = self;
        for (tid, event) in events {
            stacks.clear();
            ends.clear();
            event.drain(record, |kind, body| match kind {
                RECORD_SAMPLE => {
                    let start = stacks.len();
                    match sampled(body, unwinder, stacks) {
                        Some(()) => ends.push(stacks.len()),
                        None => stacks.truncate(start),
                    }
                }
                RECORD_LOST => samples.lost += word(body, 8).unwrap_or(0),
                // Of throttling, which says itself in what is captured.
                _ => {}
            });
            if ends.is_empty() {
                continue;
            }
            let found = ends.len() as u64;
            // A thread that has ended took its clock along.
            let each_ns = threads::cpu_ns(*tid)
                .map_or(*period_ns, |cpu_ns| cpu_ns.saturating_sub(event.cpu_ns) / found);
            event.cpu_ns += found * each_ns;
            let mut start = 0;
            for &end in &*ends {
                samples.add(*tid, &stacks[start..end], 1, each_ns);
                event.last.clear();
                event.last.extend_from_slice(&stacks[start..end]);
                start = end;
            }
        }
    }

    /// Gives each thread an event that has none, and what its clock is to begin with; returns why one of them
    /// can't have it.
    fn open_missing(
        &mut self,
        tids: &[i32],
        begin_ns: impl Fn(i32) -> Option<u64>,
    ) -> Option<io::Error> {
        let mut refused = None;
        for &tid in tids {
            if self.events.contains_key(&tid) {
                continue;
            }
            // None: it has ended.
            let Some(cpu_ns) = begin_ns(tid) else { continue };
            match PerfEvent::open(tid, self.period_ns, cpu_ns) {
                Ok(event) => {
                    self.events.insert(tid, event);
                }
                Err(error) => refused = Some(error),
            }
        }
        refused
    }
}

impl PerfEvent {
    fn open(tid: i32, period_ns: u64, cpu_ns: u64) -> io::Result<Self> {
        let attributes = PerfEventAttributes {
            kind: TYPE_SOFTWARE,
            size: size_of::<PerfEventAttributes>() as u32,
            config: CPU_CLOCK,
            sample_period: period_ns,
            sample_type: SAMPLE_IP
                | SAMPLE_TID
                | SAMPLE_CALLCHAIN
                | SAMPLE_REGS_USER
                | SAMPLE_STACK_USER,
            flags: FLAG_EXCLUDE_HYPERVISOR | FLAG_EXCLUDE_CALLCHAIN_USER,
            sample_regs_user: REGISTERS,
            sample_stack_user: STACK_BYTES,
            ..PerfEventAttributes::default()
        };
        let (any_cpu, no_group): (c_long, c_long) = (-1, -1);
        // SAFETY: the pointer is to live attributes that say their size; the call reads them.
        let file = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                c_long::from(tid),
                any_cpu,
                no_group,
                FLAG_CLOSE_ON_EXEC,
            )
        };
        let file = i32::try_from(file).map_err(io::Error::other)?;
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given it to us, and nobody else has it.
        let file = unsafe { OwnedFd::from_raw_fd(file) };
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let length = PAGE_BYTES + RING_BYTES;
        let fd = file.as_raw_fd();
        // SAFETY: asks for a mapping of the event, wherever there is room.
        let ring = unsafe { libc::mmap(ptr::null_mut(), length, rights, libc::MAP_SHARED, fd, 0) };
        if ring == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let ring = NonNull::new(ring).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { _file: file, ring, cpu_ns, last: Vec::new() })
    }

    /// Hands out each record of the ring: its type and what follows its header.
    fn drain(&mut self, record: &mut Vec<u8>, mut each: impl FnMut(u32, &[u8])) {
        /// Of `struct perf_event_mmap_page`.
        const HEAD_AT: usize = 1024;
        const TAIL_AT: usize = 1032;
        const HEADER_BYTES: usize = 8;
        let page = self.ring.as_ptr().cast::<u8>();
        // SAFETY: two aligned words in the first page of the mapping, which the kernel and we share; it writes
        // the first and reads the second.
        let (head, tail) = unsafe {
            (&*page.add(HEAD_AT).cast::<AtomicU64>(), &*page.add(TAIL_AT).cast::<AtomicU64>())
        };
        // Acquire, with the kernel's barrier before it moves the head: the records before it are whole.
        let end = head.load(Ordering::Acquire);
        let mut at = tail.load(Ordering::Relaxed);
        let copy = |at: u64, length: usize, into: &mut Vec<u8>| {
            into.clear();
            let start = at as usize % RING_BYTES;
            let first = length.min(RING_BYTES - start);
            // SAFETY: both parts lie in the ring, and the kernel does not write between tail and head.
            unsafe {
                let ring = page.add(PAGE_BYTES);
                into.extend_from_slice(std::slice::from_raw_parts(ring.add(start), first));
                into.extend_from_slice(std::slice::from_raw_parts(ring, length - first));
            }
        };
        while at < end {
            copy(at, HEADER_BYTES, record);
            let kind = u32::from_ne_bytes(record[..4].try_into().expect("four bytes"));
            let length = u16::from_ne_bytes(record[6..8].try_into().expect("two bytes"));
            let length = usize::from(length);
            if length < HEADER_BYTES {
                break;
            }
            copy(at, length, record);
            each(kind, &record[HEADER_BYTES..]);
            at += length as u64;
        }
        // Release, with the kernel's look at the tail: we have read what lies before.
        tail.store(end, Ordering::Release);
    }
}

fn word(body: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(body.get(at..at + 8)?.try_into().ok()?))
}

/// Appends the stack of one sample; None where it is not whole.
fn sampled(body: &[u8], unwinder: &mut Unwinder, stack: &mut Vec<u64>) -> Option<()> {
    const WORD: usize = 8;
    // The address, process and thread.
    let mut at = 2 * WORD;
    let mut next = || {
        at += WORD;
        word(body, at - WORD)
    };
    let frames = next()?;
    for _ in 0..frames {
        let frame = next()?;
        if frame < CONTEXT_MARKS {
            stack.push(frame);
        }
    }
    // Without a user's side there are neither registers nor a stack.
    let abi = next()?;
    if abi != 0 {
        let mut values = [0; REGISTERS.count_ones() as usize];
        for value in &mut values {
            *value = next()?;
        }
        let size = next()? as usize;
        let start = at;
        if size > 0 {
            let copied = word(body, start + size)? as usize;
            let bytes = body.get(start..start + copied.min(size))?;
            unwinder.unwind(&registers(&values)?, bytes, stack);
        }
    }
    Some(())
}
