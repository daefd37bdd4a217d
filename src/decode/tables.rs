//! What the decoders of all workers share.

use super::rates::RateTable;
use super::rules::SeriesRules;

/// The rules for series, and the states of counters.
#[derive(Debug)]
pub struct PointTables {
    pub(super) rules: SeriesRules,
    pub(super) rates: RateTable,
}

impl PointTables {
    /// Rules for series, and room for the counters among `max_streams` streams.
    pub fn new(rules: SeriesRules, max_streams: usize) -> Self {
        Self { rules, rates: RateTable::new(max_streams) }
    }
}
