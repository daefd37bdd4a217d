//! The allocator of the binary, and what it knows: which stacks took the memory, and which hold it.
//!
//! [`Sampled`] passes every call on and looks at one byte in so many (512 KiB, as Go does): the bytes
//! from one sampled block to the next are drawn from an exponential distribution, so that a block of n
//! bytes is sampled with the probability 1 − e^(−n / mean), whatever came before it. Each sampled
//! block counts for as many as its probability says, which makes the sums true on average.
//!
//! Most blocks are not sampled, and cost little: an allocation takes its size from a countdown of its
//! thread, a free reads one byte of [`MARKS`]. The rest is behind a lock, which is held for moments,
//! by [`snapshot`] too.
//!
//! What is done here about a block allocates through the same allocator; [`Within`] says so, and no
//! block taken or freed meanwhile is looked at.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// Bytes between two samples, on average. Go's: two samples for each MiB allocated cost nothing to
/// speak of, and 1 GiB in use is known to 2 %.
pub const MEAN_BYTES: u32 = 512 * 1024;
/// Frames of a stack that are kept: the innermost.
pub const FRAMES_MAX: usize = 64;
/// Stacks told apart, 10 MB of them at worst; the rest is counted under none.
const SITES_MAX: usize = 16 * 1024;
/// With a thousand blocks sampled and in use, which is half a GiB, one free in 60 looks in vain.
const MARKS_LEN: usize = 64 * 1024;
/// A mark that got here is never taken back: nobody counts further.
const MARK_MAX: u8 = u8::MAX;
/// Objects are counted in parts of one: a sampled block rarely stands for a whole number of them.
const PARTS: u64 = 1 << 10;

/// Passes everything on to `A`, and samples it. There is one in a process: threads and books are shared.
#[derive(Debug)]
pub struct Sampled<A, const MEAN: u32 = MEAN_BYTES>(pub A);

/// What was allocated with one stack, as estimated from the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Where each function returns to, the innermost first; empty for all stacks past the limit.
    pub stack: &'static [u64],
    /// Blocks allocated since the start. What is reallocated counts as freed and allocated.
    pub alloc_objects: u64,
    /// Their bytes.
    pub alloc_bytes: u64,
    /// Blocks not freed yet.
    pub inuse_objects: u64,
    /// Their bytes.
    pub inuse_bytes: u64,
}

/// All sites so far. A site keeps its place: later snapshots add what is new at the end.
pub fn snapshot() -> Vec<Site> {
    let Some(_within) = Within::enter() else { return Vec::new() };
    // Copied under the lock, and nothing else: who allocates may be waiting for it.
    let mut taken = Vec::with_capacity(SITES_MAX);
    taken.extend_from_slice(&books().sites);
    drop(_within);
    taken.iter().map(SiteParts::site).collect()
}

thread_local! {
    // Const and without a destructor: there from the first instruction of a thread to its last.
    /// Bytes until the next sample; negative: it is due.
    static BYTES_LEFT: Cell<isize> = const { Cell::new(0) };
    /// The state of the random numbers; 0 before the first.
    static RANDOM: Cell<u64> = const { Cell::new(0) };
    static IS_WITHIN: Cell<bool> = const { Cell::new(false) };
}

/// For each hash of an address, how many sampled blocks in use have it: where it is 0, none has.
///
/// Written under the lock of [`BOOKS`], read without. Relaxed: the mark of a block is set before its
/// address is known to anybody, and whatever lets another thread know the address lets it see the mark.
static MARKS: [AtomicU8; MARKS_LEN] = [const { AtomicU8::new(0) }; MARKS_LEN];

/// A mutex of std: on Linux it never allocates, not even where threads wait for it.
static BOOKS: Mutex<Books> = Mutex::new(Books::new());

struct Books {
    places: HashMap<&'static [u64], u32, FixedState>,
    sites: Vec<SiteParts>,
    /// Sampled blocks in use, by address.
    live: HashMap<usize, Live, FixedState>,
}

/// A sampled block in use.
#[derive(Clone, Copy)]
struct Live {
    site: u32,
    weight: Weight,
}

/// What one sampled block stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Weight {
    object_parts: u64,
    bytes: u64,
}

/// [`Site`], with objects in [`PARTS`]: sums of integers, from which nothing is left when all is freed.
#[derive(Clone, Copy)]
struct SiteParts {
    stack: &'static [u64],
    allocated: Weight,
    freed: Weight,
}

impl<A, const MEAN: u32> Sampled<A, MEAN> {
    /// Notes `block`, which is where the countdown ended.
    #[cold]
    #[inline(never)]
    fn sample(block: *mut u8, size: usize) {
        if block.is_null() {
            return;
        }
        let Some(mut within) = Within::enter() else { return };
        if RANDOM.get() == 0 {
            // The first block of a thread: the countdown begins with it.
            seed();
            within.bytes_left = next_interval(MEAN).wrapping_sub_unsigned(size);
            if within.bytes_left >= 0 {
                return;
            }
        }
        within.bytes_left = next_interval(MEAN);
        let mut frames = [0; FRAMES_MAX];
        let depth = capture(&mut frames);
        let mut books = books();
        let site = books.place(&frames[..depth]);
        books.enter(block.addr(), Live { site, weight: Weight::of(size, MEAN) });
    }
}

// SAFETY: blocks come from `A` and go back to it with the layout they came with; what is done besides
// neither touches nor keeps them, only their addresses. Nothing here unwinds: an allocation that fails
// in our own books ends the process, as it would anywhere.
unsafe impl<A: GlobalAlloc, const MEAN: u32> GlobalAlloc for Sampled<A, MEAN> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise, passed on.
        let block = unsafe { self.0.alloc(layout) };
        if is_due(layout.size()) {
            Self::sample(block, layout.size());
        }
        block
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise, passed on.
        let block = unsafe { self.0.alloc_zeroed(layout) };
        if is_due(layout.size()) {
            Self::sample(block, layout.size());
        }
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_marked(block) {
            // Before it is freed: then another thread may have it, and sample it.
            forget(block.addr());
        }
        // SAFETY: the caller's promise, passed on.
        unsafe { self.0.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let was = if is_marked(block) { forget(block.addr()) } else { None };
        // SAFETY: the caller's promise, passed on.
        let moved = unsafe { self.0.realloc(block, layout, size) };
        if moved.is_null() {
            // Then the block is still what it was.
            if let Some(was) = was {
                restore(block.addr(), was);
            }
        } else if is_due(size) {
            Self::sample(moved, size);
        }
        moved
    }
}

/// Counts down; true when a sample is due.
#[inline(always)]
fn is_due(size: usize) -> bool {
    let left = BYTES_LEFT.get().wrapping_sub_unsigned(size);
    BYTES_LEFT.set(left);
    left < 0
}

#[inline(always)]
fn is_marked(block: *mut u8) -> bool {
    MARKS[mark_of(block.addr())].load(Ordering::Relaxed) != 0
}

#[inline(always)]
fn mark_of(address: usize) -> usize {
    // Fibonacci hashing: the high bits of the product depend on all bits of the address.
    const SHIFT: u32 = u64::BITS - MARKS_LEN.ilog2();
    ((address as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> SHIFT) as usize
}

/// Takes a block out of the books, if it stands there.
#[cold]
#[inline(never)]
fn forget(address: usize) -> Option<Live> {
    // None: a block of the books themselves, which is in none.
    let _within = Within::enter()?;
    books().leave(address)
}

/// Puts back what [`forget`] took out.
#[cold]
#[inline(never)]
fn restore(address: usize, live: Live) {
    let Some(_within) = Within::enter() else { return };
    let mut books = books();
    let freed = &mut books.sites[live.site as usize].freed;
    freed.object_parts -= live.weight.object_parts;
    freed.bytes -= live.weight.bytes;
    books.mark(address, live);
}

fn books() -> MutexGuard<'static, Books> {
    // Nothing panics while it holds the lock; were it otherwise, a profile would not be worth the process.
    BOOKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This thread is at work on the books: nothing it allocates or frees meanwhile is sampled.
struct Within {
    /// The countdown, to go on from afterwards.
    bytes_left: isize,
}

impl Within {
    /// None: it is already.
    fn enter() -> Option<Self> {
        if IS_WITHIN.replace(true) {
            return None;
        }
        Some(Self { bytes_left: BYTES_LEFT.replace(isize::MAX) })
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        BYTES_LEFT.set(self.bytes_left);
        IS_WITHIN.set(false);
    }
}

impl Books {
    const fn new() -> Self {
        let hasher = FixedState::with_seed(0);
        let places = HashMap::with_hasher(hasher);
        Self { places, sites: Vec::new(), live: HashMap::with_hasher(FixedState::with_seed(0)) }
    }

    /// Where the site of a stack stands.
    fn place(&mut self, stack: &[u64]) -> u32 {
        if let Some(&place) = self.places.get(stack) {
            return place;
        }
        // The last one is for all the stacks that come too late.
        let stack = if self.sites.len() + 1 < SITES_MAX { stack } else { &[] };
        if let Some(&place) = self.places.get(stack) {
            return place;
        }
        // Never given back: a program has so many places that allocate, and no more.
        let stack: &'static [u64] = Box::leak(stack.into());
        let place = self.sites.len() as u32;
        self.sites.push(SiteParts { stack, allocated: Weight::NONE, freed: Weight::NONE });
        self.places.insert(stack, place);
        place
    }

    fn enter(&mut self, address: usize, live: Live) {
        self.sites[live.site as usize].allocated.add(live.weight);
        self.mark(address, live);
    }

    fn mark(&mut self, address: usize, live: Live) {
        let was = self.live.insert(address, live);
        debug_assert!(was.is_none(), "a block is taken out before it is freed");
        let mark = &MARKS[mark_of(address)];
        // Not fetch_add: only who holds the lock writes.
        mark.store(mark.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
    }

    fn leave(&mut self, address: usize) -> Option<Live> {
        let live = self.live.remove(&address)?;
        self.sites[live.site as usize].freed.add(live.weight);
        let mark = &MARKS[mark_of(address)];
        let count = mark.load(Ordering::Relaxed);
        if count < MARK_MAX {
            mark.store(count - 1, Ordering::Relaxed);
        }
        Some(live)
    }
}

impl Weight {
    const NONE: Self = Self { object_parts: 0, bytes: 0 };

    /// Of a block of `size`, which was sampled with the probability 1 − e^(−size / mean).
    fn of(size: usize, mean: u32) -> Self {
        let size = size.max(1) as f64;
        let stands_for = 1.0 / -(-size / f64::from(mean)).exp_m1();
        let object_parts = (stands_for * PARTS as f64).round() as u64;
        Self { object_parts, bytes: (stands_for * size).round() as u64 }
    }

    fn add(&mut self, other: Self) {
        self.object_parts += other.object_parts;
        self.bytes += other.bytes;
    }
}

impl SiteParts {
    fn site(&self) -> Site {
        let Self { stack, allocated, freed } = *self;
        let objects = |parts: u64| (parts + PARTS / 2) / PARTS;
        Site {
            stack,
            alloc_objects: objects(allocated.object_parts),
            alloc_bytes: allocated.bytes,
            inuse_objects: objects(allocated.object_parts - freed.object_parts),
            inuse_bytes: allocated.bytes - freed.bytes,
        }
    }
}

/// Each thread draws numbers of its own, and the same ones in every run: nobody has to guess them.
fn seed() {
    static THREADS: AtomicU64 = AtomicU64::new(0);
    // Relaxed: only that they differ matters.
    let thread = THREADS.fetch_add(1, Ordering::Relaxed);
    RANDOM.set(thread.wrapping_mul(0xD1B5_4A32_D192_ED03) | 1);
}

/// Bytes to the next sample, exponentially distributed.
fn next_interval(mean: u32) -> isize {
    // SplitMix64.
    let state = RANDOM.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
    RANDOM.set(state);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    let mixed = mixed ^ (mixed >> 31);
    // Above 0 and at most 1.
    let share = ((mixed >> 11) + 1) as f64 / (1u64 << 53) as f64;
    (-share.ln() * f64::from(mean)) as isize
}

/// The stack above [`Sampled::sample`]; returns its depth.
fn capture(frames: &mut [u64; FRAMES_MAX]) -> usize {
    // Frames that begin below it are of this module.
    let here = frames.as_ptr().addr();
    let mut depth = 0;
    let each = |frame: &backtrace::Frame| {
        if frame.sp().addr() > here {
            frames[depth] = frame.ip().addr() as u64;
            // Nothing called the first function of a thread: 0.
            depth += usize::from(frames[depth] != 0);
        }
        depth < FRAMES_MAX
    };
    // SAFETY: what has to be synchronised is the debugging library of Windows. The unwinder of the C
    // library takes no memory.
    unsafe { backtrace::trace_unsynchronized(each) };
    depth
}

#[cfg(test)]
mod tests {
    use std::alloc::System;
    use std::thread;

    use super::*;

    /// The books are of the process; tests that look at them take turns.
    static TURN: Mutex<()> = Mutex::new(());

    /// Samples all but the smallest blocks, which makes the sums exact.
    static ALL: Sampled<System, 1> = Sampled(System);

    /// What is in use, and what was ever allocated, in bytes.
    fn sums() -> (u64, u64) {
        let sites = snapshot();
        let sum = |of: fn(&Site) -> u64| sites.iter().map(of).sum();
        (sum(|site| site.inuse_bytes), sum(|site| site.alloc_bytes))
    }

    #[test]
    fn every_kind_of_call_is_booked() {
        let _turn = TURN.lock();
        for align in [1, 8, 64, 4096] {
            let layout = |size| Layout::from_size_align(size, align).expect("a layout");
            let (inuse, allocated) = sums();
            // SAFETY: sizes are above 0; each block is freed or reallocated once, with the layout it has.
            unsafe {
                let one = ALL.alloc(layout(100));
                let two = ALL.alloc_zeroed(layout(1_000));
                assert_eq!(two.addr() % align, 0);
                assert_eq!(*two.add(999), 0);
                assert_eq!(sums(), (inuse + 1_100, allocated + 1_100));
                let one = ALL.realloc(one, layout(100), 10_000);
                assert_eq!(sums(), (inuse + 11_000, allocated + 11_100));
                let one = ALL.realloc(one, layout(10_000), 50);
                assert_eq!(sums(), (inuse + 1_050, allocated + 11_150));
                ALL.dealloc(two, layout(1_000));
                ALL.dealloc(one, layout(50));
            }
            assert_eq!(sums(), (inuse, allocated + 11_150));
        }
    }

    /// Has nothing to give, but what it gave before.
    struct Exhausted;

    // SAFETY: null is an answer; what is freed came from the system.
    unsafe impl GlobalAlloc for Exhausted {
        unsafe fn alloc(&self, _: Layout) -> *mut u8 {
            std::ptr::null_mut()
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: the caller's promise, passed on.
            unsafe { System.dealloc(block, layout) }
        }
    }

    #[test]
    fn what_could_not_be_had_changes_nothing() {
        let _turn = TURN.lock();
        let exhausted: Sampled<Exhausted, 1> = Sampled(Exhausted);
        let layout = Layout::new::<[u8; 500]>();
        let before = sums();
        // SAFETY: one block, which fails to grow, and is freed as it was.
        unsafe {
            assert!(exhausted.alloc(layout).is_null());
            assert_eq!(sums(), before);
            let block = ALL.alloc(layout);
            let held = sums();
            assert_eq!(held.0, before.0 + 500);
            assert!(exhausted.realloc(block, layout, 700).is_null());
            assert_eq!(sums(), held);
            exhausted.dealloc(block, layout);
        }
        assert_eq!(sums().0, before.0);
    }

    #[test]
    fn one_thread_frees_what_another_took_even_at_its_end() {
        struct AtExit(Cell<*mut u8>);
        impl Drop for AtExit {
            fn drop(&mut self) {
                let layout = Layout::new::<[u8; 300]>();
                // SAFETY: both blocks are freed once, with their layout.
                unsafe {
                    ALL.dealloc(self.0.get(), layout);
                    let last = ALL.alloc(layout);
                    ALL.dealloc(last, layout);
                }
            }
        }
        thread_local! {
            static AT_EXIT: AtExit = const { AtExit(Cell::new(std::ptr::null_mut())) };
        }
        let _turn = TURN.lock();
        let (inuse, allocated) = sums();
        for _ in 0..4 {
            // SAFETY: the layout is not empty.
            let address = unsafe { ALL.alloc(Layout::new::<[u8; 300]>()) };
            let given = std::sync::atomic::AtomicPtr::new(address);
            thread::spawn(move || AT_EXIT.with(|at| at.0.set(given.into_inner())))
                .join()
                .expect("no panic");
        }
        assert_eq!(sums(), (inuse, allocated + 2_400));
    }

    #[test]
    fn a_sample_stands_for_all_that_were_not_taken() {
        for size in [1, 100, 10_000, 1_000_000, 100_000_000] {
            let weight = Weight::of(size, MEAN_BYTES);
            let probability = 1.0 - (-(size as f64) / f64::from(MEAN_BYTES)).exp();
            let objects = weight.object_parts as f64 / PARTS as f64;
            assert!((objects * probability - 1.0).abs() < 1e-3, "{size}");
            let bytes = weight.bytes as f64;
            assert!((bytes * probability / size as f64 - 1.0).abs() < 1e-5, "{size}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "nothing unsafe in it, and many rounds")]
    fn intervals_are_exponential() {
        thread::spawn(|| {
            seed();
            const DRAWS: usize = 20_000;
            let mut drawn: Vec<_> = (0..DRAWS).map(|_| next_interval(MEAN_BYTES)).collect();
            drawn.sort_unstable();
            assert!(drawn[0] >= 0);
            // The quantile q of the distribution is −ln(1 − q) means.
            for (q, means) in
                [(0.1, 0.105_36), (0.5, std::f64::consts::LN_2), (0.9, std::f64::consts::LN_10)]
            {
                let found = drawn[(q * DRAWS as f64) as usize] as f64 / f64::from(MEAN_BYTES);
                assert!((found / means - 1.0).abs() < 0.06, "{q}: {found}");
            }
        })
        .join()
        .expect("no panic");
    }

    #[test]
    #[cfg_attr(miri, ignore = "nothing unsafe in it, and many rounds")]
    fn past_the_limit_stacks_are_one() {
        let mut books = Books::new();
        let extra = 10;
        // Places above what the kernel maps.
        let stacks = (0..SITES_MAX + extra).map(|n| [u64::MAX - n as u64, 7]);
        let places: Vec<_> = stacks.map(|stack| books.place(&stack)).collect();
        assert_eq!(books.sites.len(), SITES_MAX);
        assert_eq!(places[places.len() - extra..], vec![SITES_MAX as u32 - 1; extra]);
        assert!(books.sites[SITES_MAX - 1].stack.is_empty());
        assert_eq!(books.place(&[u64::MAX, 7]), places[0]);
    }
}
