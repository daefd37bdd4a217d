//! The heap profile of a known pattern of allocations: what it says is within 5 % of what was done, and
//! stands under the function that did it.

use std::collections::VecDeque;
use std::hint::black_box;
use std::thread;

use crossbeam_channel::bounded;
use mimalloc::MiMalloc;
use sigmad_profile::heap::{self, Sampled, Site};

/// So many bytes between two samples that a hundred MB give thousands: 5 % is five standard deviations.
const MEAN: u32 = 8 * 1024;
const SAMPLES: usize = 10_000;

#[global_allocator]
static ALLOCATOR: Sampled<MiMalloc, MEAN> = Sampled(MiMalloc);

/// The sum of all sites below a function of that name.
fn below(function: &str) -> Site {
    let is_below = |site: &Site| {
        site.stack.iter().any(|&address| {
            let mut is_it = false;
            // The call itself: the address it returns to may be of another function.
            backtrace::resolve((address - 1) as *mut _, |symbol| {
                is_it |= symbol.name().is_some_and(|name| name.to_string().contains(function));
            });
            is_it
        })
    };
    let mut sum =
        Site { stack: &[], alloc_objects: 0, alloc_bytes: 0, inuse_objects: 0, inuse_bytes: 0 };
    for site in heap::snapshot().iter().filter(|site| is_below(site)) {
        sum.alloc_objects += site.alloc_objects;
        sum.alloc_bytes += site.alloc_bytes;
        sum.inuse_objects += site.inuse_objects;
        sum.inuse_bytes += site.inuse_bytes;
    }
    sum
}

#[track_caller]
fn assert_near(estimate: u64, truth: usize) {
    let error = estimate as f64 / truth as f64 - 1.0;
    assert!(error.abs() < 0.05, "{estimate} for {truth}: {:+.1} %", error * 100.0);
}

fn blocks(size: usize) -> usize {
    // Larger blocks than the mean are nearly all sampled, one sample each.
    SAMPLES * (MEAN as usize).max(size) / size
}

#[inline(never)]
fn held_small(sizes: &[usize]) -> Vec<Vec<u8>> {
    sizes
        .iter()
        .flat_map(|&size| (0..blocks(size)).map(move |_| black_box(vec![1; size])))
        .collect()
}

#[test]
fn what_is_held_is_in_use_until_it_is_freed() {
    let sizes = [40, 100, 3_000];
    let held = held_small(&sizes);
    // The list of blocks itself has the same function on its stack.
    let (objects, bytes) = (held.len(), held.iter().map(Vec::len).sum::<usize>());
    let list = held.capacity() * size_of::<Vec<u8>>();
    let site = below("held_small");
    assert_near(site.inuse_objects, objects);
    assert_near(site.inuse_bytes, bytes + list);
    drop(held);
    let site = below("held_small");
    assert_eq!((site.inuse_objects, site.inuse_bytes), (0, 0));
    assert_near(site.alloc_objects, objects);
}

#[inline(never)]
fn churned(size: usize) {
    for _ in 0..blocks(size) {
        black_box(vec![0u8; size]);
    }
}

#[test]
fn what_is_freed_at_once_was_allocated() {
    let sizes = [16, 500, 20_000];
    sizes.into_iter().for_each(churned);
    let site = below("churned");
    assert_near(site.alloc_bytes, sizes.iter().map(|&size| size * blocks(size)).sum());
    assert_near(site.alloc_objects, sizes.iter().map(|&size| blocks(size)).sum());
    assert_eq!((site.inuse_objects, site.inuse_bytes), (0, 0));
}

#[inline(never)]
fn grown_list() -> Vec<u64> {
    let mut list = Vec::new();
    for n in 0..black_box(4_000_000) {
        list.push(n);
    }
    list
}

#[test]
fn what_grows_is_in_use_at_its_last_size() {
    let list = grown_list();
    assert_near(below("grown_list").inuse_bytes, list.capacity() * size_of::<u64>());
    drop(list);
    assert_eq!(below("grown_list").inuse_bytes, 0);
}

#[inline(never)]
fn passed_on(size: usize) -> Vec<u8> {
    black_box(vec![2; size])
}

#[test]
fn threads_free_what_others_took_while_profiles_are_read() {
    const THREADS: usize = 4;
    const EACH: usize = 100_000;
    const BYTES: usize = 800;
    let (sender, receiver) = bounded::<Vec<u8>>(1_000);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            let (sender, receiver) = (sender.clone(), receiver.clone());
            scope.spawn(move || {
                let mut kept = VecDeque::new();
                for n in 0..EACH {
                    kept.push_back(passed_on(BYTES));
                    if let Some(block) = kept.pop_front().filter(|_| n % 2 == 0) {
                        sender.send(block).expect("somebody receives");
                        drop(receiver.try_recv());
                    }
                }
            });
        }
        for _ in 0..20 {
            assert!(heap::snapshot().iter().all(|site| site.inuse_bytes <= site.alloc_bytes));
        }
    });
    drop((sender, receiver));
    let site = below("passed_on");
    assert_near(site.alloc_bytes, THREADS * EACH * BYTES);
    assert_near(site.alloc_objects, THREADS * EACH);
    assert_eq!((site.inuse_objects, site.inuse_bytes), (0, 0));
}
