//! What the sampling allocator adds to a pair of alloc and free: mimalloc alone, and wrapped, in turns; and
//! wrapped with a rate at which nothing is sampled, which is what most pairs of a program cost.
//!
//! Each measurement takes both in short turns within the same moments, so that whatever else happens to
//! the machine happens to both; the answer is that the samples account for all that was allocated.

mod measure;

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::thread;
use std::time::Duration;

use criterion::measurement::Measurement;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use measure::CpuTime;
use mimalloc::MiMalloc;
use sigmad_profile::heap::{self, Sampled};

static WRAPPED: Sampled<MiMalloc> = Sampled(MiMalloc);
/// One sample in 4 GiB.
static UNSAMPLED: Sampled<MiMalloc, { u32::MAX }> = Sampled(MiMalloc);

/// One turn: some tens of microseconds.
const PAIRS_PER_TURN: u64 = 10_000;
/// Blocks in use, of which the oldest is freed for each that is allocated.
const HELD: usize = 1_000;

fn allocated_bytes() -> u64 {
    heap::snapshot().iter().map(|site| site.alloc_bytes).sum()
}

/// Allocates and frees; inlined for each allocator, as the binary's is.
#[inline(always)]
fn turn<A: GlobalAlloc>(allocator: &A, layout: Layout, held: &mut [*mut u8]) {
    let mut next = 0;
    for _ in 0..PAIRS_PER_TURN {
        // SAFETY: the layout is not empty; each block is freed once, with its layout, by its allocator.
        unsafe {
            let block = black_box(allocator.alloc(layout));
            assert!(!block.is_null());
            allocator.dealloc(std::mem::replace(&mut held[next], block), layout);
        }
        next = if next + 1 == held.len() { 0 } else { next + 1 };
    }
}

#[inline(never)]
fn turn_bare(layout: Layout, held: &mut [*mut u8]) {
    turn(&MiMalloc, layout, held);
}

#[inline(never)]
fn turn_wrapped(layout: Layout, held: &mut [*mut u8]) {
    turn(&WRAPPED, layout, held);
}

#[inline(never)]
fn turn_unsampled(layout: Layout, held: &mut [*mut u8]) {
    turn(&UNSAMPLED, layout, held);
}

type Turn = fn(Layout, &mut [*mut u8]);

/// CPU time of the turns of mimalloc or of `wrap`, while the other has its own between.
fn interleaved(size: usize, held: usize, pairs: u64, wrap: Turn, wants_wrapped: bool) -> Duration {
    let layout = Layout::from_size_align(size, 8).expect("a layout");
    // SAFETY: the layout is not empty.
    let fill = |_| unsafe { MiMalloc.alloc(layout) };
    let mut bare: Vec<_> = (0..held).map(fill).collect();
    let mut wrapped: Vec<_> = (0..held).map(fill).collect();
    let turns = pairs.div_ceil(PAIRS_PER_TURN);
    let mut spent = Duration::ZERO;
    for _ in 0..turns {
        for is_wrapped in [false, true] {
            let begun = CpuTime.start();
            if is_wrapped {
                wrap(layout, &mut wrapped);
            } else {
                turn_bare(layout, &mut bare);
            }
            if is_wrapped == wants_wrapped {
                spent += CpuTime.end(begun);
            }
        }
    }
    for block in bare {
        // SAFETY: as above.
        unsafe { MiMalloc.dealloc(block, layout) };
    }
    for block in wrapped {
        // SAFETY: as above.
        unsafe { WRAPPED.dealloc(block, layout) };
    }
    spent.mul_f64(pairs as f64 / (turns * PAIRS_PER_TURN) as f64)
}

fn pair(c: &mut Criterion<CpuTime>) {
    for (held, name) in [(1, "freed at once"), (HELD, "freed after 1000")] {
        let mut group = c.benchmark_group(format!("pair, {name}"));
        group.throughput(Throughput::Elements(1));
        for size in [16, 64, 1024] {
            for (name, wrap, wants_wrapped) in [
                ("mimalloc", turn_wrapped as Turn, false),
                ("unsampled", turn_unsampled as Turn, true),
                ("sampled", turn_wrapped as Turn, true),
            ] {
                group.bench_function(BenchmarkId::new(name, size), |b| {
                    b.iter_custom(|pairs| {
                        // The countdown to the next sample is the thread's: each rate has threads of its own.
                        let measured = thread::spawn(move || {
                            interleaved(size, held, pairs, wrap, wants_wrapped)
                        });
                        measured.join().expect("no panic")
                    });
                });
            }
        }
        group.finish();
    }
}

/// The answer: 16 GiB are 32,768 samples, so 5 % are nine standard deviations.
fn check() {
    const BYTES: u64 = 16 << 30;
    for size in [64, 1024, 100_000] {
        let layout = Layout::from_size_align(size, 8).expect("a layout");
        let before = allocated_bytes();
        let turns = BYTES / size as u64 / PAIRS_PER_TURN;
        // SAFETY: the layout is not empty.
        let mut held = [unsafe { WRAPPED.alloc(layout) }];
        for _ in 0..turns {
            turn_wrapped(layout, &mut held);
        }
        // SAFETY: as above.
        unsafe { WRAPPED.dealloc(held[0], layout) };
        let truth = (turns * PAIRS_PER_TURN) as f64 * size as f64;
        let error = (allocated_bytes() - before) as f64 / truth - 1.0;
        println!("{size} bytes: the samples account for {:+.2} %", error * 100.0);
        assert!(error.abs() < 0.05);
    }
    assert_eq!(heap::snapshot().iter().map(|site| site.inuse_bytes).sum::<u64>(), 0);
}

fn checked(c: &mut Criterion<CpuTime>) {
    check();
    pair(c);
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = checked
}
criterion_main!(benches);
