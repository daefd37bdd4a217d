//! What the decoders of all workers share.

use super::histogram_table::HistogramTable;
use super::metric_types::MetricTypes;
use super::rates::RateTable;
use super::rules::SeriesRules;

/// The rules for series, the states of counters and histograms, and the types of metrics.
#[derive(Debug)]
pub struct PointTables {
    pub(super) rules: SeriesRules,
    pub(super) rates: RateTable,
    pub(super) histograms: HistogramTable,
    pub(super) types: MetricTypes,
}

impl PointTables {
    /// Rules for series, and room for the counters among `max_streams` streams.
    pub fn new(rules: SeriesRules, max_streams: usize) -> Self {
        Self {
            rules,
            rates: RateTable::new(max_streams),
            histograms: HistogramTable::new(max_streams),
            types: MetricTypes::default(),
        }
    }
}
