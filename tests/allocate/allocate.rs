//! Allocates what is known, and writes its own heap profile: `allocate FILE` prints the truth as JSON.
//!
//! tests/heap.py holds what the real `go tool pprof` reads there against it, with the allocator and the
//! rate of the binary.

use std::hint::black_box;

use mimalloc::MiMalloc;
use sigmad_profile::heap::Sampled;
use sigmad_profile::memory::{self, View};

#[global_allocator]
static ALLOCATOR: Sampled<MiMalloc> = Sampled(MiMalloc);

/// Blocks in use: a GiB, of which nobody touches a page, so that it takes no memory to speak of.
const HELD: usize = 256;
const HELD_BYTES: usize = 4 << 20;
/// Blocks freed at once: 16 GiB are 32,768 samples, and 5 % nine standard deviations.
const CHURNED: usize = 16 << 20;
const CHURNED_BYTES: usize = 1 << 10;

#[inline(never)]
fn hold_large() -> Vec<Vec<u8>> {
    (0..HELD).map(|_| black_box(Vec::with_capacity(HELD_BYTES))).collect()
}

#[inline(never)]
fn churn_small() {
    for _ in 0..CHURNED {
        black_box(Vec::<u8>::with_capacity(CHURNED_BYTES));
    }
}

fn main() {
    let file = std::env::args().nth(1).expect("the file to write");
    let held = hold_large();
    churn_small();
    std::fs::write(file, memory::profile(View::InUse, 0)).expect("the file can be written");
    println!(
        r#"{{"hold_large":{{"inuse_objects":{0},"inuse_space":{1},"alloc_objects":{0},"alloc_space":{1}}},"churn_small":{{"inuse_objects":0,"inuse_space":0,"alloc_objects":{2},"alloc_space":{3}}}}}"#,
        held.len(),
        held.len() * HELD_BYTES,
        CHURNED,
        CHURNED * CHURNED_BYTES
    );
}
