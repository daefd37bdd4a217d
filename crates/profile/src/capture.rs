//! Stacks of threads, copied by the threads themselves in a signal handler.
//!
//! The handler is async-signal-safe: it takes a free slot, saves the registers and copies the stack by one
//! system call, which fails where memory ends. The profiling thread unwinds the copies later. Nothing is
//! allocated, locked or unwound while a thread is interrupted, and no frame pointers are needed.
//!
//! The handler is never uninstalled: a late signal would end the process.

use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use libc::{c_int, c_void};
use parking_lot::Mutex;

/// Bytes copied of a stack, from its top. The deepest stacks of sigmad are below 16 KiB.
pub const STACK_BYTES_MAX: usize = 32 * 1024;
/// Stacks that wait to be unwound; the profiling thread takes them every few milliseconds.
const SLOTS: usize = 256;
/// The kernel copies whole pages, or reports how many.
const PAGE_BYTES: usize = 4096;
const PIECES: usize = STACK_BYTES_MAX / PAGE_BYTES + 1;

/// The comment of a profile with truncated stacks.
pub const CUT: &str = "process_vm_readv is refused: stacks end after a page, without the functions towards their root";

/// Why a stack was copied. Each reason has its own session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureReason {
    /// The thread's CPU clock.
    Timer = 1,
    /// A list of all threads.
    Look = 2,
}

/// The registers that unwinding starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Program counter.
    pub pc: u64,
    /// Stack pointer.
    pub sp: u64,
    /// The frame pointer register, whatever it holds.
    pub fp: u64,
    /// The return address, on machines that keep it in a register.
    pub lr: u64,
}

/// A copied stack.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    /// The thread.
    pub tid: i32,
    /// Signals that it represents.
    pub weight: u64,
    /// Its registers.
    pub registers: Registers,
    /// Its stack from `registers.sp` on.
    pub stack: Vec<u8>,
    /// The stack is truncated, because the kernel refused the copy.
    pub is_cut: bool,
}

const FREE: u32 = 0;
const TAKEN: u32 = 0x100;

/// Memory for one stack. `state` names its owner: none, a handler while it is [`TAKEN`], then the session of
/// a [`CaptureReason`].
struct CaptureSlot {
    state: AtomicU32,
    inside: UnsafeCell<SlotContent>,
}

struct SlotContent {
    tid: i32,
    weight: u64,
    registers: Registers,
    length: usize,
    is_cut: bool,
    stack: [u8; STACK_BYTES_MAX],
}

/// The slots; null before the first session, and never unmapped.
static SLOTS_AT: AtomicPtr<CaptureSlot> = AtomicPtr::new(ptr::null_mut());
/// The active reasons: bits of [`CaptureReason`].
static WANTED: AtomicU32 = AtomicU32::new(0);
/// Handlers that are running.
static INSIDE: AtomicUsize = AtomicUsize::new(0);
/// Where the next handler starts its search for a free slot.
static NEXT: AtomicUsize = AtomicUsize::new(0);
/// Signals that found no free slot.
static LOST: AtomicU64 = AtomicU64::new(0);
/// The active reasons; locked while they change.
static SESSIONS: Mutex<u32> = Mutex::new(0);

/// A real-time signal that nothing else uses. SIGPROF belongs to the pprof crate.
pub fn signal() -> c_int {
    libc::SIGRTMIN() + 5
}

/// Takes the stacks that are copied for one reason. There is at most one session for each reason.
#[derive(Debug)]
pub struct CaptureSession(CaptureReason);

impl CaptureSession {
    /// Makes the handler copy stacks for `reason`; None while another session does.
    ///
    /// # Errors
    /// When the kernel gives no memory or takes no handler.
    pub fn begin(reason: CaptureReason) -> io::Result<Option<Self>> {
        let mut sessions = SESSIONS.lock();
        if *sessions & reason as u32 != 0 {
            return Ok(None);
        }
        prepare()?;
        *sessions |= reason as u32;
        // SeqCst, with the load in the handler: see Drop.
        WANTED.store(*sessions, Ordering::SeqCst);
        Ok(Some(Self(reason)))
    }

    /// Calls `each` with every copied stack, and frees its slot.
    pub fn take(&self, mut each: impl FnMut(&Capture)) {
        let mut capture = Capture::default();
        for slot in slots() {
            // Acquire, with the Release in the handler: its writes are visible.
            if slot.state.load(Ordering::Acquire) != self.0 as u32 {
                continue;
            }
            // SAFETY: a slot in this state belongs to this session, of which there is one.
            let inside = unsafe { &*slot.inside.get() };
            capture.tid = inside.tid;
            capture.weight = inside.weight;
            capture.registers = inside.registers;
            capture.is_cut = inside.is_cut;
            capture.stack.clear();
            capture.stack.extend_from_slice(&inside.stack[..inside.length]);
            // Release, with the Acquire of the next handler: this read is finished.
            slot.state.store(FREE, Ordering::Release);
            each(&capture);
        }
    }

    /// Signals that found no free slot since the last call.
    pub fn take_lost(&self) -> u64 {
        LOST.swap(0, Ordering::Relaxed)
    }
}

impl Drop for CaptureSession {
    fn drop(&mut self) {
        let mut sessions = SESSIONS.lock();
        *sessions &= !(self.0 as u32);
        WANTED.store(*sessions, Ordering::SeqCst);
        // SeqCst on both sides: a handler either is seen here, or sees that nothing is wanted.
        while INSIDE.load(Ordering::SeqCst) != 0 {
            std::thread::yield_now();
        }
        self.take(|_| {});
        if *sessions == 0 {
            // SAFETY: the whole mapping of prepare(); no handler and no session looks at it. Zeroes, which the
            // kernel gives for it from now on, are free slots.
            unsafe {
                let at = SLOTS_AT.load(Ordering::Acquire);
                libc::madvise(at.cast(), size_of::<CaptureSlot>() * SLOTS, libc::MADV_DONTNEED);
            }
        }
    }
}

fn slots() -> &'static [CaptureSlot] {
    let at = SLOTS_AT.load(Ordering::Acquire);
    if at.is_null() {
        return &[];
    }
    // SAFETY: prepare() has mapped so many, for good; zeroes are slots, and all access goes by their state.
    unsafe { std::slice::from_raw_parts(at, SLOTS) }
}

/// Maps the slots and installs the handler, once; to be called with the sessions locked.
fn prepare() -> io::Result<()> {
    if !SLOTS_AT.load(Ordering::Acquire).is_null() {
        return Ok(());
    }
    let bytes = size_of::<CaptureSlot>() * SLOTS;
    let (rights, kind) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: asks for fresh memory, wherever there is some.
    let at = unsafe { libc::mmap(ptr::null_mut(), bytes, rights, kind, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    SLOTS_AT.store(at.cast(), Ordering::Release);
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeroes are a sigaction; every field that is not zero is set here. The handler has the form that
    // SA_SIGINFO asks for. No SA_ONSTACK: the alternate stack that std gives its threads is small, and may's
    // have none.
    let installed = unsafe {
        let action = action.assume_init_mut();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigfillset(&raw mut action.sa_mask);
        libc::sigaction(signal(), action, ptr::null_mut())
    };
    if installed == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    SLOTS_AT.store(ptr::null_mut(), Ordering::Release);
    // SAFETY: the mapping made above, which nobody has seen.
    unsafe { libc::munmap(at, bytes) };
    Err(error)
}

extern "C" fn on_signal(_: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the thread's own errno, which the interrupted code may be about to read.
    let errno = unsafe { *libc::__errno_location() };
    INSIDE.fetch_add(1, Ordering::SeqCst);
    // SAFETY: the kernel hands a handler with SA_SIGINFO both of them, filled.
    let (info, context) = unsafe { (&*info, &*context.cast::<libc::ucontext_t>()) };
    let reason =
        if info.si_code == libc::SI_TIMER { CaptureReason::Timer } else { CaptureReason::Look };
    if WANTED.load(Ordering::SeqCst) & reason as u32 != 0 {
        let weight = match reason {
            CaptureReason::Timer => 1 + overrun(info),
            CaptureReason::Look => 1,
        };
        copy(reason, weight, registers(context));
    }
    INSIDE.fetch_sub(1, Ordering::SeqCst);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Expirations of the timer that no signal was sent for.
fn overrun(info: &libc::siginfo_t) -> u64 {
    /// The kernel's siginfo_t of a timer; libc has no name for these fields.
    #[repr(C)]
    struct OfTimer {
        common: [c_int; 3],
        _aligned: [u64; 0],
        timer: c_int,
        overrun: c_int,
    }
    const _: () = assert!(size_of::<OfTimer>() <= size_of::<libc::siginfo_t>());
    // SAFETY: a signal of a timer has this form, and siginfo_t is larger and aligned for it.
    let of_timer = unsafe { &*ptr::from_ref(info).cast::<OfTimer>() };
    u64::try_from(of_timer.overrun).unwrap_or(0)
}

fn copy(reason: CaptureReason, weight: u64, registers: Registers) {
    let slots = slots();
    let start = NEXT.fetch_add(1, Ordering::Relaxed);
    let free = (0..slots.len()).map(|step| &slots[(start + step) % SLOTS]).find(|slot| {
        // Acquire, with the Release in take().
        slot.state.compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok()
    });
    let Some(slot) = free else {
        LOST.fetch_add(weight, Ordering::Relaxed);
        return;
    };
    // SAFETY: whoever turns a slot from FREE to TAKEN has it alone.
    let inside = unsafe { &mut *slot.inside.get() };
    // SAFETY: asks who we are.
    inside.tid = unsafe { libc::syscall(libc::SYS_gettid) } as i32;
    inside.weight = weight;
    inside.registers = registers;
    (inside.length, inside.is_cut) = copy_stack(registers.sp, &mut inside.stack);
    // Release, with the Acquire of take().
    slot.state.store(reason as u32, Ordering::Release);
}

/// Copies from `sp` on as far as there is memory; returns how much, and whether the kernel refused more.
fn copy_stack(sp: u64, into: &mut [u8; STACK_BYTES_MAX]) -> (usize, bool) {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // In pieces that end with their page: each of them is there, or is not.
    let mut pieces = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; PIECES];
    let (mut at, end) = (sp as usize, sp as usize + STACK_BYTES_MAX);
    let mut count = 0;
    while at < end && count < PIECES {
        let next = (at / PAGE_BYTES + 1) * PAGE_BYTES;
        let length = next.min(end) - at;
        pieces[count] = libc::iovec { iov_base: at as *mut c_void, iov_len: length };
        (at, count) = (at + length, count + 1);
    }
    // SAFETY: the kernel writes into `into`, no further, and says what of `pieces` it could not read.
    let copied = unsafe {
        libc::process_vm_readv(
            libc::getpid(),
            &raw const local,
            1,
            pieces.as_ptr(),
            count as u64 as _,
            0,
        )
    };
    if let Ok(copied) = usize::try_from(copied) {
        return (copied, false);
    }
    // Refused, as by the seccomp filters of some containers. Then stacks end with the page of their top: they
    // lack the frames towards the root, the leaf and its weight are right. Reading on would be a guess, since
    // only the kernel can say without a fault where this stack's memory ends.
    let length = pieces[0].iov_len;
    // SAFETY: the thread's own stack from its top to the end of that page, which it has.
    unsafe { ptr::copy_nonoverlapping(sp as *const u8, into.as_mut_ptr(), length) };
    (length, true)
}

#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> Registers {
    let of = |name: c_int| context.uc_mcontext.gregs[name as usize] as u64;
    Registers { pc: of(libc::REG_RIP), sp: of(libc::REG_RSP), fp: of(libc::REG_RBP), lr: 0 }
}

#[cfg(target_arch = "aarch64")]
fn registers(context: &libc::ucontext_t) -> Registers {
    let machine = &context.uc_mcontext;
    Registers { pc: machine.pc, sp: machine.sp, fp: machine.regs[29], lr: machine.regs[30] }
}
