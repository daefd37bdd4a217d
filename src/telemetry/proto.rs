//! Families as the types of the [`prometheus`] crate, which writes them as text.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use sigmad_counters::{Counts, Family, FamilyKind, FamilySeries, SeriesValue};

/// The same family for the encoders.
pub fn family(source: &Family) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(source.name.to_owned());
    family.set_help(source.help.to_owned());
    family.set_field_type(match source.kind {
        FamilyKind::Counter => MetricType::COUNTER,
        FamilyKind::Gauge => MetricType::GAUGE,
        FamilyKind::Histogram => MetricType::HISTOGRAM,
    });
    family.set_metric(source.series.iter().map(|series| metric(source, series)).collect());
    family
}

fn metric(family: &Family, series: &FamilySeries) -> Metric {
    let labels = series.labels.iter().map(|(name, value)| {
        let mut label = LabelPair::default();
        label.set_name((*name).to_owned());
        label.set_value(value.to_string());
        label
    });
    let mut metric = Metric::from_label(labels.collect());
    match &series.value {
        SeriesValue::Durations(counts) => metric.set_histogram(histogram(counts, family.edges_ns)),
        SeriesValue::Number(value) if family.kind == FamilyKind::Counter => {
            let mut counter = Counter::default();
            counter.set_value(*value);
            metric.set_counter(counter);
        }
        SeriesValue::Number(value) => {
            let mut gauge = Gauge::default();
            gauge.set_value(*value);
            metric.set_gauge(gauge);
        }
    }
    metric
}

/// In seconds.
fn histogram(counts: &Counts, edges_ns: &[u64]) -> Histogram {
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
    histogram
}
