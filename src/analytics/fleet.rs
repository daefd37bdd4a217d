//! The fleet's streams: one for each metric, by the slot of its id.

use std::sync::Arc;

use crate::analytics::arena::{Arena, StreamIndex};
use sigmad_sample::MetricId;

/// Streams in one report, and metrics with series of their own in the scrape: copying more would delay samples.
pub const METRICS_REPORTED_MAX: usize = 1_024;

/// One metric, over all devices.
#[derive(Debug)]
pub struct FleetStream {
    /// The metric's name.
    pub name: Arc<str>,
    /// Its id.
    pub metric: MetricId,
    /// Its stream.
    pub place: StreamIndex,
    /// Anomalous values, of devices or of samples without one.
    pub anomalies: u64,
}

/// The fleet's streams. An id of an earlier name is not that of the stream in its slot.
#[derive(Debug, Default)]
pub struct FleetStreams {
    slots: Vec<Option<FleetStream>>,
    len: usize,
}

impl FleetStreams {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without streams.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The stream of that metric. None if its name is new, or gone.
    #[inline]
    pub fn get(&self, metric: MetricId) -> Option<&FleetStream> {
        self.slots.get(metric.slot())?.as_ref().filter(|stream| stream.metric == metric)
    }

    /// The same, mutable.
    pub fn get_mut(&mut self, metric: MetricId) -> Option<&mut FleetStream> {
        self.slots.get_mut(metric.slot())?.as_mut().filter(|stream| stream.metric == metric)
    }

    /// In the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = &FleetStream> {
        self.slots.iter().flatten()
    }

    /// Adds a stream. Returns the one that had its slot.
    pub fn insert(&mut self, stream: FleetStream) -> Option<FleetStream> {
        let slot = stream.metric.slot();
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        let gone = self.slots[slot].replace(stream);
        self.len += usize::from(gone.is_none());
        gone
    }

    /// Removes the streams whose metrics are gone, and passes each to `remove`.
    pub fn retain(
        &mut self,
        is_current: impl Fn(MetricId) -> bool,
        mut remove: impl FnMut(FleetStream),
    ) {
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|stream| !is_current(stream.metric)) {
                slot.take().into_iter().for_each(&mut remove);
                self.len -= 1;
            }
        }
    }

    /// The streams that a report has room for, in the order of their ids: all of them, or `cpu`, `rps` and
    /// those with the most values.
    pub fn reported(&self, arena: &Arena) -> Vec<&FleetStream> {
        most_used(self.iter().collect(), |stream| (stream.metric, stream.place), arena)
    }
}

/// The [`METRICS_REPORTED_MAX`] streams with the most values, `cpu` and `rps` before all others, in the order of
/// their ids.
pub fn most_used<T>(
    mut streams: Vec<T>,
    of: impl Fn(&T) -> (MetricId, StreamIndex),
    arena: &Arena,
) -> Vec<T> {
    if streams.len() > METRICS_REPORTED_MAX {
        let rank = |stream: &T| {
            let (metric, place) = of(stream);
            let (record, _) = arena.get(place);
            (metric > MetricId::RPS, std::cmp::Reverse((record.own + record.others).total))
        };
        streams.select_nth_unstable_by_key(METRICS_REPORTED_MAX, rank);
        streams.truncate(METRICS_REPORTED_MAX);
    }
    streams.sort_unstable_by_key(|stream| of(stream).0);
    streams
}
