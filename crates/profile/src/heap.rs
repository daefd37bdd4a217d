//! A sampling allocator: which stacks allocated memory, and which still hold it.
//!
//! [`Sampled`] forwards every call and samples one byte in 512 KiB on average, as Go does. The bytes between
//! two samples are exponentially distributed, so a block of n bytes is sampled with probability
//! 1 − e^(−n / mean), independent of earlier blocks. Each sample is weighted by the inverse of its
//! probability, which makes the sums unbiased.
//!
//! Blocks that are not sampled cost little: an allocation subtracts its size from a thread-local countdown,
//! and a free reads one byte of [`MARKS`]. Everything else is behind a lock that is held briefly, also by
//! [`snapshot`].
//!
//! Recording a sample allocates through the same allocator. [`SamplingPaused`] keeps those blocks out of the
//! statistics.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// Mean bytes between two samples, as in Go: the cost is negligible, and 1 GiB in use is known to 2 %.
pub const MEAN_BYTES: u32 = 512 * 1024;
/// Frames of a stack that are kept: the innermost.
pub const FRAMES_MAX: usize = 64;
/// Distinct stacks, 10 MB at worst; further ones are counted under an empty stack.
const SITES_MAX: usize = 16 * 1024;
/// With a thousand blocks sampled and in use, which is half a GiB, one free in 60 looks in vain.
const MARKS_LEN: usize = 64 * 1024;
/// A saturated mark is never decremented.
const MARK_MAX: u8 = u8::MAX;
/// Objects are counted in fractions of one: a sample rarely represents a whole number of them.
const PARTS: u64 = 1 << 10;

/// Forwards to `A` and samples. A process has one: its statistics are global.
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

/// All sites so far. A site keeps its index: later snapshots append new ones.
pub fn snapshot() -> Vec<Site> {
    let Some(_within) = SamplingPaused::enter() else { return Vec::new() };
    // Only copied under the lock: threads that allocate may wait for it.
    let mut taken = Vec::with_capacity(SITES_MAX);
    taken.extend_from_slice(&books().sites);
    drop(_within);
    taken.iter().map(SiteCounts::site).collect()
}

thread_local! {
    // Const and without a destructor: valid from the first instruction of a thread to its last.
    /// Bytes until the next sample; negative when it is due.
    static BYTES_LEFT: Cell<isize> = const { Cell::new(0) };
    /// The state of the random numbers; 0 before the first.
    static RANDOM: Cell<u64> = const { Cell::new(0) };
    static IS_PAUSED: Cell<bool> = const { Cell::new(false) };
}

/// For each hash of an address, the number of sampled blocks in use with that hash.
///
/// Written under the lock of [`ALLOCATIONS`], read without. Relaxed: the mark of a block is set before its
/// address is published, and whatever publishes the address to another thread publishes the mark too.
static MARKS: [AtomicU8; MARKS_LEN] = [const { AtomicU8::new(0) }; MARKS_LEN];

/// A mutex of std: on Linux it never allocates, even under contention.
static ALLOCATIONS: Mutex<AllocationTable> = Mutex::new(AllocationTable::new());

struct AllocationTable {
    places: HashMap<&'static [u64], u32, FixedState>,
    sites: Vec<SiteCounts>,
    /// Sampled blocks in use, by address.
    live: HashMap<usize, LiveBlock, FixedState>,
}

/// A sampled block in use.
#[derive(Clone, Copy)]
struct LiveBlock {
    site: u32,
    weight: BlockWeight,
}

/// What one sampled block represents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BlockWeight {
    object_parts: u64,
    bytes: u64,
}

/// [`Site`], with objects in [`PARTS`]: integer sums, which return to 0 when everything is freed.
#[derive(Clone, Copy)]
struct SiteCounts {
    stack: &'static [u64],
    allocated: BlockWeight,
    freed: BlockWeight,
}

impl<A, const MEAN: u32> Sampled<A, MEAN> {
    /// Records `block`, at which the countdown ended.
    #[cold]
    #[inline(never)]
    fn sample(block: *mut u8, size: usize) {
        if block.is_null() {
            return;
        }
        let Some(mut within) = SamplingPaused::enter() else { return };
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
        books.enter(block.addr(), LiveBlock { site, weight: BlockWeight::of(size, MEAN) });
    }
}

// SAFETY: blocks come from `A` and return to it with their own layout; the statistics use only their
// addresses. Nothing here unwinds: a failed allocation of the statistics aborts the process.
unsafe impl<A: GlobalAlloc, const MEAN: u32> GlobalAlloc for Sampled<A, MEAN> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract, forwarded.
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
            // Before it is freed: afterwards another thread may get it, and sample it.
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
            // The block is unchanged.
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

/// Removes a block from the table, if it is there.
#[cold]
#[inline(never)]
fn forget(address: usize) -> Option<LiveBlock> {
    // None: a block of the table itself, which is never sampled.
    let _within = SamplingPaused::enter()?;
    books().leave(address)
}

/// Restores what [`forget`] removed.
#[cold]
#[inline(never)]
fn restore(address: usize, live: LiveBlock) {
    let Some(_within) = SamplingPaused::enter() else { return };
    let mut books = books();
    let freed = &mut books.sites[live.site as usize].freed;
    freed.object_parts -= live.weight.object_parts;
    freed.bytes -= live.weight.bytes;
    books.mark(address, live);
}

fn books() -> MutexGuard<'static, AllocationTable> {
    // Nothing panics while it holds the lock, and a profile would not be worth the process.
    ALLOCATIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While it lives, nothing that this thread allocates or frees is sampled.
struct SamplingPaused {
    /// The countdown, to be restored.
    bytes_left: isize,
}

impl SamplingPaused {
    /// None when sampling is paused already.
    fn enter() -> Option<Self> {
        if IS_PAUSED.replace(true) {
            return None;
        }
        Some(Self { bytes_left: BYTES_LEFT.replace(isize::MAX) })
    }
}

impl Drop for SamplingPaused {
    fn drop(&mut self) {
        BYTES_LEFT.set(self.bytes_left);
        IS_PAUSED.set(false);
    }
}

impl AllocationTable {
    const fn new() -> Self {
        let hasher = FixedState::with_seed(0);
        let places = HashMap::with_hasher(hasher);
        Self { places, sites: Vec::new(), live: HashMap::with_hasher(FixedState::with_seed(0)) }
    }

    /// The index of a stack's site.
    fn place(&mut self, stack: &[u64]) -> u32 {
        if let Some(&place) = self.places.get(stack) {
            return place;
        }
        // The last site collects all stacks beyond the limit.
        let stack = if self.sites.len() + 1 < SITES_MAX { stack } else { &[] };
        if let Some(&place) = self.places.get(stack) {
            return place;
        }
        // Leaked: a program has a bounded number of allocation sites.
        let stack: &'static [u64] = Box::leak(stack.into());
        let place = self.sites.len() as u32;
        self.sites.push(SiteCounts {
            stack,
            allocated: BlockWeight::NONE,
            freed: BlockWeight::NONE,
        });
        self.places.insert(stack, place);
        place
    }

    fn enter(&mut self, address: usize, live: LiveBlock) {
        self.sites[live.site as usize].allocated.add(live.weight);
        self.mark(address, live);
    }

    fn mark(&mut self, address: usize, live: LiveBlock) {
        let was = self.live.insert(address, live);
        debug_assert!(was.is_none(), "a block is removed before it is freed");
        let mark = &MARKS[mark_of(address)];
        // Not fetch_add: only the holder of the lock writes.
        mark.store(mark.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
    }

    fn leave(&mut self, address: usize) -> Option<LiveBlock> {
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

impl BlockWeight {
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

impl SiteCounts {
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

/// Each thread has its own sequence, the same in every run: it needs not be unpredictable.
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
    // Frames below it belong to this module.
    let here = frames.as_ptr().addr();
    let mut depth = 0;
    let each = |frame: &backtrace::Frame| {
        if frame.sp().addr() > here {
            frames[depth] = frame.ip().addr() as u64;
            // The caller of a thread's first function is 0.
            depth += usize::from(frames[depth] != 0);
        }
        depth < FRAMES_MAX
    };
    // SAFETY: only the debugging library of Windows needs synchronisation. The unwinder of the C library
    // does not allocate.
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
            let weight = BlockWeight::of(size, MEAN_BYTES);
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
        let mut books = AllocationTable::new();
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
