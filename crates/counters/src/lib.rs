//! Counters and histograms with one writer and any number of readers, and the [`MetricSource`] that renders them.
//!
//! The writer adds with a plain load and store, without a locked instruction; the scrape reads at any time.
//! One thread owns the writing side of each. Two writers would lose counts, and nothing else.

mod families;

pub use families::{
    Families, Family, FamilyKind, FamilySeries, MetricSource, REQUEST_EDGES_NS, STAGE_EDGES_NS,
    SampleOutcomes, SeriesValue, StageDurations,
};

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A count that one thread adds to.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning thread may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        // Relaxed: the count orders nothing else; a reader sees it a moment late at worst.
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Replaces the count, for gauges. Only the owning thread may call this.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The count so far.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Sub-buckets per power of two: a bucket is at most 12.5 % wide.
const SUB_BITS: u32 = 3;
/// 2^40 ns is 18 minutes; longer durations count in the last bucket.
const EXPONENT_MAX: u32 = 40;
const BUCKETS: usize = ((EXPONENT_MAX - SUB_BITS + 1) << SUB_BITS) as usize + (1 << SUB_BITS);

/// Durations in nanoseconds, in buckets of log₂ × 8.
#[derive(Debug)]
pub struct Histogram {
    buckets: Box<[Counter; BUCKETS]>,
    sum_ns: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: Box::new(std::array::from_fn(|_| Counter::default())),
            sum_ns: Counter::default(),
        }
    }
}

impl Histogram {
    /// Counts `n` durations of `ns` each. Only the owning thread may call this.
    #[inline]
    pub fn record(&self, ns: u64, n: u64) {
        self.buckets[bucket_of(ns)].add(n);
        self.sum_ns.add(ns.wrapping_mul(n));
    }

    /// The number of durations so far.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::get).sum()
    }

    /// Adds the counts so far to `merged`.
    pub fn merge_into(&self, merged: &mut Counts) {
        for (total, bucket) in merged.buckets.iter_mut().zip(self.buckets.iter()) {
            *total += bucket.get();
        }
        merged.sum_ns += self.sum_ns.get();
    }
}

/// The merged contents of histograms at one moment.
#[derive(Clone, Debug)]
pub struct Counts {
    buckets: Vec<u64>,
    /// Sum of all durations.
    pub sum_ns: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], sum_ns: 0 }
    }
}

impl Counts {
    /// Adds the counts of other histograms.
    pub fn add(&mut self, other: &Self) {
        for (total, bucket) in self.buckets.iter_mut().zip(&other.buckets) {
            *total += bucket;
        }
        self.sum_ns += other.sum_ns;
    }

    /// The counts since `earlier`, an earlier state of the same histograms.
    pub fn since(&self, earlier: &Self) -> Self {
        let buckets = self.buckets.iter().zip(&earlier.buckets);
        Self {
            // Wrapping, as the counters do.
            buckets: buckets.map(|(now, then)| now.wrapping_sub(*then)).collect(),
            sum_ns: self.sum_ns.wrapping_sub(earlier.sum_ns),
        }
    }

    /// The number of durations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The number of durations below `ns`; exact where `ns` is a bucket's edge, else rounded down to one.
    pub fn below(&self, ns: u64) -> u64 {
        self.buckets[..bucket_of(ns)].iter().sum()
    }

    /// The quantile `q` (0 to 1): the upper edge of its bucket.
    pub fn quantile_ns(&self, q: f64) -> Option<u64> {
        let rank = ((self.count() as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, n) in self.buckets.iter().enumerate() {
            seen += n;
            if seen >= rank {
                return Some(lower_edge(index + 1));
            }
        }
        None
    }
}

fn bucket_of(ns: u64) -> usize {
    let exponent = 63 - (ns | 1).leading_zeros();
    if exponent < SUB_BITS {
        return ns as usize;
    }
    let shift = exponent - SUB_BITS;
    let index =
        ((shift + 1) << SUB_BITS) as usize + ((ns >> shift) as usize & ((1 << SUB_BITS) - 1));
    index.min(BUCKETS - 1)
}

fn lower_edge(index: usize) -> u64 {
    let group = index >> SUB_BITS;
    let sub = (index & ((1 << SUB_BITS) - 1)) as u64;
    if group == 0 { sub } else { ((1 << SUB_BITS) | sub) << (group - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_in_its_bucket() {
        for exponent in 0..40 {
            for offset in [0, 1, 3, 7] {
                let ns = (1u64 << exponent) + offset * (1u64 << exponent) / 8;
                let index = bucket_of(ns);
                assert!(lower_edge(index) <= ns && ns < lower_edge(index + 1), "{ns} in {index}");
            }
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_bound_the_recorded_durations() {
        let histogram = Histogram::default();
        for ns in 1..=1000 {
            histogram.record(ns, 1);
        }
        let mut counts = Counts::default();
        histogram.merge_into(&mut counts);
        assert_eq!(counts.count(), 1000);
        assert_eq!(counts.sum_ns, 500_500);
        assert_eq!(counts.below(512), 511);
        histogram.record(7, 3);
        let mut later = Counts::default();
        histogram.merge_into(&mut later);
        let between = later.since(&counts);
        assert_eq!((between.count(), between.sum_ns, between.below(8)), (3, 21, 3));
        let median = counts.quantile_ns(0.5).expect("not empty");
        assert!((500..=576).contains(&median), "{median}");
    }
}
