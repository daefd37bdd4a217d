//! What the decoders of all workers share.

use super::histogram_table::HistogramTable;
use super::metric_types::MetricTypes;
use super::rates::{RateTable, SavedCounter};
use super::rules::SeriesRules;
use crate::registry::Registry;

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

    /// Passes on the last values of all counters. No worker decodes any more.
    pub fn saved_counters(&self, registry: &Registry, each: impl FnMut(SavedCounter)) {
        self.rates.saved(registry, each);
    }

    /// Takes the last values of a counter, before its next one comes.
    pub fn restore_counter(&self, saved: SavedCounter, registry: &Registry) {
        self.rates.restore(saved, registry);
    }
}
