//! What became of the values of points: counted for each body, and in total.

use sigmad_counters::{Counter, Families, MetricSource};

/// The values of one body. Each value is in exactly one of the counts, but for those of points that are refused
/// ([`super::Decoded::invalid`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ValueCounts {
    /// Kept: readings of the samples that the body gave.
    pub accepted: usize,
    /// NaN, infinite, past 1e15 in magnitude, or marked as no value by the sender.
    pub skipped: usize,
    /// Of series that `--keep` or `--drop` leave out.
    pub dropped: usize,
    /// The first ones of counters: there is no rate yet.
    pub first: usize,
    /// Of counters that began again: no rate for that interval.
    pub resets: usize,
    /// Of counters, and not newer than the value before.
    pub old: usize,
    /// Parts of histograms that came with others: the last part gives the values.
    pub parts: usize,
    /// Left out: no room for another stream (`--max-streams`).
    pub unroomed: usize,
    /// Left out: no room for the name of another series.
    pub unnamed: usize,
}

impl ValueCounts {
    /// Values for which there was no room.
    pub fn left_out(&self) -> usize {
        self.unroomed + self.unnamed
    }

    /// Whether a value is in a sample, or in the state of a counter or a histogram.
    pub fn is_any_kept(&self) -> bool {
        self.accepted + self.first + self.resets + self.parts > 0
    }

    /// Each count with the value of its label `result`.
    fn results(self) -> [(&'static str, usize); 9] {
        let Self { accepted, skipped, dropped, first, resets, old, parts, unroomed, unnamed } =
            self;
        [
            ("accepted", accepted),
            ("skipped", skipped),
            ("dropped", dropped),
            ("first", first),
            ("reset", resets),
            ("old", old),
            ("part", parts),
            ("too_many_streams", unroomed),
            ("too_many_metrics", unnamed),
        ]
    }
}

/// The values of all bodies of points that one worker has read.
#[derive(Debug, Default)]
pub struct ValueCounters([Counter; 9]);

impl ValueCounters {
    /// The values so far with that `result`.
    #[cfg(test)]
    pub fn total(&self, result: &str) -> u64 {
        let results = ValueCounts::default().results();
        let index = results.iter().position(|(known, _)| *known == result);
        self.0[index.expect("a result")].get()
    }

    /// Adds the values of one body. Only the owning thread may call this.
    pub fn add(&self, counts: ValueCounts) {
        for (counter, (_, count)) in self.0.iter().zip(counts.results()) {
            counter.add(count as u64);
        }
    }
}

impl MetricSource for ValueCounters {
    fn collect(&self, families: &mut Families) {
        let values = families.counter(
            "ingest_values_total",
            "Values of points, by result: accepted, skipped (NaN, infinite, past 1e15), dropped (--keep, --drop), first, reset and old (counters without a rate), part (of a histogram), too_many_streams, too_many_metrics. JSON samples count in ingest_samples_total alone.",
        );
        for (counter, (result, _)) in self.0.iter().zip(ValueCounts::default().results()) {
            values.add_counter(&[("result", result)], counter);
        }
    }
}
