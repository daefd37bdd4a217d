//! Building metric families by hand, for what no [`prometheus`] metric holds.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use sigmad_counters::Counts;

/// A family that takes its metrics one by one.
pub struct Family {
    family: MetricFamily,
    kind: MetricType,
}

impl Family {
    /// Something that only grows.
    pub fn counter(name: &str, help: &str) -> Self {
        Self::new(name, help, MetricType::COUNTER)
    }

    /// Something that rises and falls.
    pub fn gauge(name: &str, help: &str) -> Self {
        Self::new(name, help, MetricType::GAUGE)
    }

    /// Durations.
    pub fn histogram(name: &str, help: &str) -> Self {
        Self::new(name, help, MetricType::HISTOGRAM)
    }

    fn new(name: &str, help: &str, kind: MetricType) -> Self {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        Self { family, kind }
    }

    /// Adds one counter or gauge.
    pub fn add(&mut self, labels: &[(&str, &str)], value: f64) {
        let mut metric = Metric::from_label(pairs(labels));
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            debug_assert_eq!(self.kind, MetricType::GAUGE);
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.family.mut_metric().push(metric);
    }

    /// Adds one histogram, in seconds, with buckets that end at `edges_ns`.
    pub fn add_histogram(&mut self, labels: &[(&str, &str)], counts: &Counts, edges_ns: &[u64]) {
        debug_assert_eq!(self.kind, MetricType::HISTOGRAM);
        let buckets = edges_ns.iter().map(|&edge_ns| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(edge_ns as f64 / 1e9);
            bucket.set_cumulative_count(counts.below(edge_ns));
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(counts.count());
        histogram.set_sample_sum(counts.sum_ns as f64 / 1e9);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_histogram(histogram);
        self.family.mut_metric().push(metric);
    }

    /// The family; None without metrics, which no format can say.
    pub fn finish(self) -> Option<MetricFamily> {
        (!self.family.get_metric().is_empty()).then_some(self.family)
    }
}

fn pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}
