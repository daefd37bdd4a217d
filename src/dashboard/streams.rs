//! Which streams have a history, and what is asked of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::counters::EventsCounters;
use super::day::{DAY_BYTES, DayColumns, DayRange};
use crate::cluster_scope::ClusterScope;

/// Streams with a history: the first members of some ten incidents, and the charts of some pages.
pub const STREAMS_MAX: usize = 64;
const _: () = assert!(STREAMS_MAX * DAY_BYTES < 14 << 20, "after a day: a sixteenth of 256 MiB");
const _: () = assert!((STREAMS_MAX + 1) * DAY_BYTES < sigmad_state::CONTENT_BYTES_MAX, "one block");

/// A stream: a series of a device, or of the fleet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamName {
    /// The device; None for the fleet.
    pub device: Option<Arc<str>>,
    /// The series.
    pub series: Arc<str>,
}

/// Makes room for another stream: `going` goes. False, and counted, if none may go.
pub fn make_room<T>(
    streams: &mut BTreeMap<StreamName, T>,
    going: Option<StreamName>,
    counters: &EventsCounters,
) -> bool {
    let Some(name) = going else {
        counters.history_refused_total.add(1);
        return false;
    };
    streams.remove(&name);
    counters.history_evicted_total.add(1);
    true
}

/// The query of `/history`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// The device; None for the fleet.
    pub device: Option<Box<str>>,
    /// Only these series; without any, those that are recorded.
    pub series: Arc<[Box<str>]>,
    /// Which points.
    pub range: DayRange,
    /// Only what this replica has recorded.
    pub is_local: bool,
}

impl HistoryQuery {
    /// True for a stream that is asked for.
    pub fn is_for(&self, name: &StreamName) -> bool {
        let is_chosen = self.series.iter().any(|chosen| **chosen == *name.series);
        name.device.as_deref() == self.device.as_deref() && (self.series.is_empty() || is_chosen)
    }
}

/// The answer of `/history`.
#[derive(Clone, Debug)]
pub struct HistoryReport {
    /// Whose recordings they are.
    pub scope: ClusterScope,
    /// Each series, by name.
    pub series: Vec<(Arc<str>, DayColumns)>,
    /// Samples accepted per second, and anomalies as flags; for the fleet.
    pub load: Option<DayColumns>,
}
