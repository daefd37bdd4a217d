//! Metric families, rendered by the modules that count.
//!
//! Each module implements [`MetricSource`] beside its counters. The scrape walks a list of sources; values of
//! equal name and labels are added up, so that every worker can have counters of its own.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

use crate::{Counter, Counts, Histogram};

/// Upper bounds of the buckets of requests and flushes: 33 µs to 8.6 s by powers of two, which are edges of
/// a [`Histogram`].
pub const REQUEST_EDGES_NS: [u64; 19] = edges(15);
/// Upper bounds of the buckets of stages: 64 ns to 16.8 ms.
pub const STAGE_EDGES_NS: [u64; 19] = edges(6);

/// Powers of two, the first 2^`exponent`.
const fn edges<const N: usize>(exponent: u32) -> [u64; N] {
    let mut edges = [0; N];
    let mut at = 0;
    while at < N {
        edges[at] = 1 << (exponent + at as u32);
        at += 1;
    }
    edges
}

/// Counters that render themselves.
pub trait MetricSource: Debug + Send + Sync {
    /// Adds this source's families, or its part of a family that several sources share.
    fn collect(&self, families: &mut Families);

    /// Adds the durations of the request stages that this source times.
    fn stages(&self, _stages: &mut StageDurations) {}
}

/// How the values of a family behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKind {
    /// A number that only grows.
    Counter,
    /// A number that rises and falls.
    Gauge,
    /// Durations.
    Histogram,
}

/// The families of one scrape.
#[derive(Debug, Default)]
pub struct Families(BTreeMap<&'static str, Family>);

impl Families {
    /// The counter family `name`.
    pub fn counter(&mut self, name: &'static str, help: &'static str) -> &mut Family {
        self.family(name, help, FamilyKind::Counter)
    }

    /// The gauge family `name`.
    pub fn gauge(&mut self, name: &'static str, help: &'static str) -> &mut Family {
        self.family(name, help, FamilyKind::Gauge)
    }

    /// The histogram family `name`, in seconds, with buckets that end at `edges_ns`.
    pub fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        edges_ns: &'static [u64],
    ) -> &mut Family {
        let family = self.family(name, help, FamilyKind::Histogram);
        family.edges_ns = edges_ns;
        family
    }

    fn family(&mut self, name: &'static str, help: &'static str, kind: FamilyKind) -> &mut Family {
        let family = self.0.entry(name).or_insert_with(|| Family::new(name, help, kind));
        debug_assert_eq!((family.help, family.kind), (help, kind), "{name} has two definitions");
        family
    }

    /// The families that have values, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Family> {
        self.0.values().filter(|family| !family.series.is_empty())
    }
}

/// One family: a name, and a series for each set of labels.
#[derive(Debug)]
pub struct Family {
    /// The name in every exposition.
    pub name: &'static str,
    /// One sentence for people.
    pub help: &'static str,
    /// How the values behave.
    pub kind: FamilyKind,
    /// Upper bounds of the buckets of a histogram.
    pub edges_ns: &'static [u64],
    /// In the order in which they were first added.
    pub series: Vec<FamilySeries>,
    /// Positions in `series`, by label values, each of which ends with a byte that UTF-8 has not.
    by_labels: HashMap<Vec<u8>, usize>,
}

/// The value for one set of labels.
#[derive(Debug)]
pub struct FamilySeries {
    /// Names and values.
    pub labels: Vec<(&'static str, Box<str>)>,
    /// The sum over all sources.
    pub value: SeriesValue,
}

/// A number, or a distribution.
#[derive(Debug)]
pub enum SeriesValue {
    /// Of a counter or a gauge.
    Number(f64),
    /// Of a histogram.
    Durations(Counts),
}

impl Family {
    fn new(name: &'static str, help: &'static str, kind: FamilyKind) -> Self {
        let (series, by_labels) = Default::default();
        Self { name, help, kind, edges_ns: &[], series, by_labels }
    }

    /// Adds a number to the series of these labels.
    pub fn add(&mut self, labels: &[(&'static str, &str)], value: f64) -> &mut Self {
        debug_assert_ne!(self.kind, FamilyKind::Histogram, "{}", self.name);
        if let SeriesValue::Number(sum) = self.series(labels, SeriesValue::Number(0.0)) {
            *sum += value;
        }
        self
    }

    /// Adds a counter to the series of these labels.
    pub fn add_counter(&mut self, labels: &[(&'static str, &str)], counter: &Counter) -> &mut Self {
        self.add(labels, counter.get() as f64)
    }

    /// Adds durations to the series of these labels.
    pub fn add_histogram(
        &mut self,
        labels: &[(&'static str, &str)],
        histogram: &Histogram,
    ) -> &mut Self {
        if let SeriesValue::Durations(sum) = self.durations(labels) {
            histogram.merge_into(sum);
        }
        self
    }

    /// Adds durations that were merged before to the series of these labels.
    pub fn add_counts(&mut self, labels: &[(&'static str, &str)], counts: &Counts) -> &mut Self {
        if let SeriesValue::Durations(sum) = self.durations(labels) {
            sum.add(counts);
        }
        self
    }

    fn durations(&mut self, labels: &[(&'static str, &str)]) -> &mut SeriesValue {
        debug_assert_eq!(self.kind, FamilyKind::Histogram, "{}", self.name);
        self.series(labels, SeriesValue::Durations(Counts::default()))
    }

    fn series(&mut self, labels: &[(&'static str, &str)], zero: SeriesValue) -> &mut SeriesValue {
        let key = labels.iter().flat_map(|(_, value)| value.bytes().chain([0xFF])).collect();
        let index = *self.by_labels.entry(key).or_insert_with(|| {
            let labels = labels.iter().map(|(name, value)| (*name, Box::from(*value))).collect();
            self.series.push(FamilySeries { labels, value: zero });
            self.series.len() - 1
        });
        &mut self.series[index].value
    }
}

/// Durations of the stages of timed requests, added up over all sources.
#[derive(Debug, Default)]
pub struct StageDurations(HashMap<&'static str, Counts>);

impl StageDurations {
    /// Adds what one source has timed.
    pub fn add(&mut self, stage: &'static str, histogram: &Histogram) {
        histogram.merge_into(self.0.entry(stage).or_default());
    }

    /// The durations of one stage; empty if no source times it.
    pub fn take(&mut self, stage: &str) -> Counts {
        self.0.remove(stage).unwrap_or_default()
    }
}

/// One source's part of the outcomes of samples. Over all sources, and at rest,
/// received = rejected + stored + coalesced + dropped + pending, where pending is what was queued and has no outcome.
#[derive(Clone, Copy, Debug, Default)]
pub struct SampleOutcomes {
    /// Samples in requests, whatever their outcome.
    pub received: u64,
    /// Rejected in the response.
    pub rejected: u64,
    /// Stored in Redis; without Redis, in memory.
    pub stored: u64,
    /// Replaced by a later sample of the same key before they were written.
    pub coalesced: u64,
    /// Lost to a full queue, to Redis, or at shutdown.
    pub dropped: u64,
    /// Accepted. A scrape must read it after the outcomes: else a sample might have its outcome before it is accepted.
    pub queued: u64,
}

impl MetricSource for SampleOutcomes {
    fn collect(&self, families: &mut Families) {
        families
            .counter("sigmad_samples_received_total", "Samples received, whatever their outcome.")
            .add(&[], self.received as f64);
        families
            .counter(
                "sigmad_samples_total",
                "Samples by outcome: rejected in the response, stored, coalesced with a later one of the same key, dropped.",
            )
            .add(&[("outcome", "rejected")], self.rejected as f64)
            .add(&[("outcome", "stored")], self.stored as f64)
            .add(&[("outcome", "coalesced")], self.coalesced as f64)
            .add(&[("outcome", "dropped")], self.dropped as f64);
        families
            .gauge(
                "sigmad_pending_samples",
                "Accepted samples without an outcome so far: in the analytics queue or the store queue.",
            )
            .add(&[], self.queued as f64 - (self.stored + self.coalesced + self.dropped) as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_one_family_add_up() {
        let mut families = Families::default();
        let histogram = Histogram::default();
        for n in 1..=3 {
            histogram.record(100, 1);
            families.counter("b_total", "B.").add(&[("k", "x"), ("l", "")], f64::from(n));
            families.counter("b_total", "B.").add(&[("k", ""), ("l", "x")], 1.0);
            families.histogram("a_seconds", "A.", &STAGE_EDGES_NS).add_histogram(&[], &histogram);
        }
        families.gauge("c", "C.");
        let found: Vec<_> = families.iter().map(|family| family.name).collect();
        assert_eq!(found, ["a_seconds", "b_total"], "by name; without series there is no family");
        let [durations, numbers] = families.iter().collect::<Vec<_>>()[..] else { panic!() };
        let SeriesValue::Durations(counts) = &durations.series[0].value else { panic!() };
        assert_eq!((counts.count(), counts.sum_ns), (6, 600));
        let numbers: Vec<_> = numbers
            .series
            .iter()
            .map(|series| match series.value {
                SeriesValue::Number(sum) => sum,
                SeriesValue::Durations(_) => panic!(),
            })
            .collect();
        assert_eq!(numbers, [6.0, 3.0]);
    }

    #[test]
    fn bucket_bounds_are_edges_of_the_histogram() {
        for edge_ns in REQUEST_EDGES_NS.into_iter().chain(STAGE_EDGES_NS) {
            let histogram = Histogram::default();
            histogram.record(edge_ns - 1, 1);
            histogram.record(edge_ns, 1);
            let mut counts = Counts::default();
            histogram.merge_into(&mut counts);
            assert_eq!(counts.below(edge_ns), 1, "{edge_ns}");
        }
    }
}
