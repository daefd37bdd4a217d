//! The last values of counters, for the last snapshot and from it.

use std::sync::atomic::Ordering;

use super::{BodyId, Point, RateTable, SeriesIds, State, hash_of};
use crate::registry::Registry;
use sigmad_detectors::saved::saved;
use sigmad_sample::{DeviceId, MetricId};

/// No worker's body has this number before it has had four million others.
const BEFORE_THE_START: BodyId = BodyId(0);

/// A counter with the values that its next rate needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SavedCounter {
    /// None for a counter of the fleet alone.
    pub device: Option<DeviceId>,
    /// Its metric.
    pub metric: MetricId,
    before: Point,
    last: Point,
}

saved!(Point { time_us, value });
saved!(SavedCounter { device, metric, before, last });

impl RateTable {
    /// Passes on all counters whose names have not been evicted. Their workers have ended.
    pub fn saved(&self, registry: &Registry, mut each: impl FnMut(SavedCounter)) {
        for shard in &self.shards {
            for State { ids, before, last, .. } in &shard.lock().states {
                let SeriesIds { device, metric } = *ids;
                let has_device = device.is_none_or(|device| registry.is_device(device));
                if has_device && registry.is_metric(metric) {
                    each(SavedCounter { device, metric, before: *before, last: *last });
                }
            }
        }
    }

    /// Takes a counter that was saved, where there is room and no value of it so far.
    pub fn restore(&self, saved: SavedCounter, registry: &Registry) {
        let SavedCounter { device, metric, before, last } = saved;
        let ids = SeriesIds { device, metric };
        let hash = hash_of(ids, registry);
        let mut shard = self.shard(ids).lock();
        let is_known =
            shard.by_ids.find(hash, |&at| shard.states[at as usize].ids == ids).is_some();
        // Relaxed: the bound may be passed by a state for each worker.
        if is_known || self.states.load(Ordering::Relaxed) >= self.states_max {
            return;
        }
        let index = shard.states.len() as u32;
        shard.states.push(State { ids, body: BEFORE_THE_START, seen_s: 0, before, last });
        let super::Shard { by_ids, states } = &mut *shard;
        by_ids.insert_unique(hash, index, |&index| hash_of(states[index as usize].ids, registry));
        self.states.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::rates::{Arrival, Rate, RateSlot};
    use sigmad_detectors::saved::Saved;

    #[test]
    fn a_restored_counter_gives_the_rate_of_its_next_value() {
        let registry = Registry::new(100, 3_600);
        let point = |time_us, value| Point { time_us, value };
        let ids = SeriesIds { device: None, metric: MetricId::CPU };
        let (before, after) = (RateTable::new(100), RateTable::new(100));
        let mut bodies = before.bodies();
        for (time_us, value) in [(1_000_000, 10.0), (2_000_000, 30.0)] {
            let arrival = Arrival { body: bodies.next(), now_s: 5 };
            before.rate(&mut RateSlot::default(), ids, point(time_us, value), arrival, &registry);
        }
        let mut found = Vec::new();
        before.saved(&registry, |counter| found.push(counter));
        let mut bytes = Vec::new();
        found[0].write(&mut bytes);
        let read = SavedCounter::read(&mut &bytes[..]).expect("it was written");
        assert_eq!((found.len(), read), (1, found[0]));
        after.restore(read, &registry);
        // A second one of the same name changes nothing.
        after.restore(SavedCounter { last: point(0, 0.0), ..read }, &registry);
        let mut bodies = after.bodies();
        let mut rate = |time_us, value| {
            let arrival = Arrival { body: bodies.next(), now_s: 0 };
            after.rate(&mut RateSlot::default(), ids, point(time_us, value), arrival, &registry)
        };
        assert_eq!(rate(2_000_000, 30.0), Rate::PerSecond(20.0), "its last body once more");
        assert_eq!(rate(3_000_000, 75.0), Rate::PerSecond(45.0));
    }
}
