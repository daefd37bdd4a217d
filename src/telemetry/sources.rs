//! The list of sources that the scrape walks.

use std::sync::Arc;

use sigmad_counters::MetricSource;

/// Every source of the process. Those that count what has left a queue precede those that count what has
/// entered it, so that a scrape between the two does not find less than nothing in the queue.
pub type Sources = Arc<[Arc<dyn MetricSource>]>;
