//! Heap profiles of [`heap`]'s statistics, for `go tool pprof` and as text.
//!
//! Both views have the same values, as in Go; they differ in which one is shown first.

use std::fmt::Write as _;

use super::heap::{self, Site};
use super::proto::{self, ProfileHeader, ProfileSample, ValueKind};
use super::symbols::Symbols;

/// As Go's, in its order.
const SAMPLE_TYPES: [ValueKind; 4] = [
    ("alloc_objects", "count"),
    ("alloc_space", "bytes"),
    ("inuse_objects", "count"),
    ("inuse_space", "bytes"),
];

/// Which value is shown first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Bytes in use.
    InUse,
    /// Bytes allocated since the start.
    Allocated,
}

/// A gzipped profile.proto of everything since the start, taken at `wall_us`.
pub fn profile(view: View, wall_us: i64) -> Vec<u8> {
    difference(view, &[], wall_us, 0)
}

/// The change since the snapshot `before`, which was taken at `wall_us`. A site that freed more than it
/// allocated has negative values in use.
pub fn difference(view: View, before: &[Site], wall_us: i64, duration_ns: u64) -> Vec<u8> {
    let mut symbols = Symbols::of_this_process().hide(is_of_allocator);
    let sites = sites(&mut symbols);
    let mut values: Vec<_> = sites.iter().map(values).collect();
    for (values, before) in values.iter_mut().zip(before.iter().map(self::values)) {
        for (value, before) in values.iter_mut().zip(before) {
            *value -= before;
        }
    }
    let rows = sites.iter().zip(&values).filter(|(_, values)| **values != [0; 4]);
    let samples = rows.map(|(site, values)| ProfileSample {
        stack: site.stack,
        is_leaf_exact: false,
        values,
        labels: &[],
    });
    let about = ProfileHeader {
        sample_types: &SAMPLE_TYPES,
        default_sample_type: match view {
            View::InUse => "inuse_space",
            View::Allocated => "alloc_space",
        },
        period_type: ("space", "bytes"),
        period: i64::from(heap::MEAN_BYTES),
        wall_us,
        duration_ns,
        comments: &[format!(
            "one sample in {} bytes allocated, on average; values are scaled to all allocations",
            heap::MEAN_BYTES
        )],
    };
    proto::encode(&about, samples, &mut symbols)
}

/// The profile as text, sorted by `view`: the format of Go's `?debug=1`, but with values already scaled.
pub fn text(view: View) -> String {
    let mut symbols = Symbols::of_this_process().hide(is_of_allocator);
    let mut sites = sites(&mut symbols);
    sites.sort_by_key(|site| {
        std::cmp::Reverse(match view {
            View::InUse => (site.inuse_bytes, site.alloc_bytes),
            View::Allocated => (site.alloc_bytes, site.inuse_bytes),
        })
    });
    let sum = |of: fn(&Site) -> u64| sites.iter().map(of).sum::<u64>();
    let mut text = format!(
        "heap profile: {}: {} [{}: {}] @ heapprofile\n",
        sum(|site| site.inuse_objects),
        sum(|site| site.inuse_bytes),
        sum(|site| site.alloc_objects),
        sum(|site| site.alloc_bytes)
    );
    for site in &sites {
        // Writing to a String never fails.
        let _ = write!(
            text,
            "{}: {} [{}: {}] @",
            site.inuse_objects, site.inuse_bytes, site.alloc_objects, site.alloc_bytes
        );
        for address in site.stack {
            let _ = write!(text, " {address:#x}");
        }
        text.push('\n');
        for address in site.stack {
            for frame in symbols.resolve(address.saturating_sub(1)).iter() {
                let (function, file, line) = (&frame.function, &frame.file, frame.line);
                let _ = writeln!(text, "#\t{address:#x}\t{function}\t{file}:{line}");
            }
        }
        text.push('\n');
    }
    text
}

/// All sites, without the allocator's own frames.
fn sites(symbols: &mut Symbols) -> Vec<Site> {
    let mut sites = heap::snapshot();
    for site in &mut sites {
        let is_below = |address: &&u64| {
            let frames = symbols.resolve(address.saturating_sub(1));
            frames.iter().all(|frame| is_of_allocator(&frame.function))
        };
        let below = site.stack.iter().take_while(is_below).count();
        site.stack = &site.stack[below..];
    }
    sites
}

/// Every stack begins with frames of the allocator, which are left out.
fn is_of_allocator(function: &str) -> bool {
    // With and without the path: the name depends on the debug information.
    const OWN: [&str; 2] = ["heap::Sampled<", "<mimalloc::MiMalloc"];
    // Shims of the compiler: `__rust_alloc`, `__rust_realloc` and others.
    const SHIMS: [&str; 2] = ["__rust_", "__rg_"];
    OWN.iter().chain(&SHIMS).any(|part| function.contains(part))
}

fn values(site: &Site) -> [i64; 4] {
    [site.alloc_objects, site.alloc_bytes, site.inuse_objects, site.inuse_bytes]
        .map(|value| value as i64)
}
