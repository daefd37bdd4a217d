//! Counters to rates: the last values of each cumulative series, shared by all workers.
//!
//! A rate is the increase per second between two values of a series. A value below the one before it is a reset, as
//! in Prometheus's `rate()`: the counter began again at an unknown time, so there is no rate for that interval.
//!
//! Each series keeps its last value, and the one before the last body that changed it. So a body that is sent again,
//! after a 503 or because its answer was lost, gives the same rates again. A value that is older than that, or a
//! second one at the same time within a body, has none.

mod saved;

pub use self::saved::SavedCounter;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use hashbrown::HashTable;
use parking_lot::Mutex;

use crate::registry::Registry;
use sigmad_sample::{DeviceId, METRICS_MAX, MetricId};

/// Workers rarely wait for each other: senders keep their connections, and with them their workers.
const SHARDS: usize = 64;
/// Bodies of one worker, after which their numbers begin again: a body is compared with the last one of a series.
const BODIES: u32 = 1 << 22;
/// A series whose times stay before its last one begins anew after this time: its sender's clock was ahead.
const BEHIND_S: u32 = 300;
pub(super) const MICROS: f64 = 1e6;

/// Bytes of one series at worst: vectors and tables double, and the old ones are there meanwhile.
pub(super) const RATE_BYTES: usize = 2 * (size_of::<State>() + 2 * size_of::<u32>());

/// The ids of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SeriesIds {
    /// None for a series of the fleet alone.
    pub(super) device: Option<DeviceId>,
    pub(super) metric: MetricId,
}

/// Where the state of a series was last: a hint, as states move when others are removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RateSlot(u32);

/// A value of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) time_us: i64,
    pub(super) value: f64,
}

/// What a value of a counter gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rate {
    /// Nothing yet: there is no value before it.
    First,
    /// Per second since the value before it.
    PerSecond(f64),
    /// The counter began again.
    Reset,
    /// The value is not newer than the one before it.
    Old,
    /// No room for another series.
    Full,
}

/// Names a body among those of all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BodyId(u32);

/// Gives the bodies of one worker their names.
#[derive(Debug)]
pub(super) struct BodyIds {
    worker: u32,
    count: u32,
}

impl BodyIds {
    pub(super) fn next(&mut self) -> BodyId {
        self.count = (self.count + 1) % BODIES;
        BodyId(self.worker.wrapping_mul(BODIES) | self.count)
    }
}

/// The moment and the body of a value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) body: BodyId,
    /// The second in which it came.
    pub(super) now_s: u32,
}

#[derive(Debug)]
struct State {
    ids: SeriesIds,
    body: BodyId,
    /// The second in which `last` came.
    seen_s: u32,
    /// The last value before `body`; the time is [`NEVER`] without one.
    before: Point,
    last: Point,
}

/// The time of no value.
pub(super) const NEVER: i64 = i64::MIN;
const NO_POINT: Point = Point { time_us: NEVER, value: 0.0 };

#[derive(Debug, Default)]
struct Shard {
    by_ids: HashTable<u32>,
    states: Vec<State>,
}

/// The states of all counters.
#[derive(Debug)]
pub(super) struct RateTable {
    shards: Box<[Mutex<Shard>]>,
    states_max: usize,
    states: AtomicUsize,
    swept_s: AtomicU32,
    workers: AtomicU32,
}

impl RateTable {
    /// Room for the counters among `max_streams` streams, and for those of the fleet alone.
    pub(super) fn new(max_streams: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            states_max: max_streams.saturating_add(METRICS_MAX),
            states: AtomicUsize::new(0),
            swept_s: AtomicU32::new(0),
            workers: AtomicU32::new(0),
        }
    }

    /// The names of the bodies of one more worker.
    pub(super) fn bodies(&self) -> BodyIds {
        BodyIds { worker: self.workers.fetch_add(1, Ordering::Relaxed), count: 0 }
    }

    /// Takes a value of a counter, and gives its rate. `slot` is where its state was last, and is brought up to date.
    #[inline]
    pub(super) fn rate(
        &self,
        slot: &mut RateSlot,
        ids: SeriesIds,
        point: Point,
        arrival: Arrival,
        registry: &Registry,
    ) -> Rate {
        let mut shard = self.shard(ids).lock();
        if let Some(state) = shard.states.get_mut(slot.0 as usize)
            && state.ids == ids
        {
            return state.rate(point, arrival);
        }
        let hash = hash_of(ids, registry);
        let Shard { by_ids, states } = &mut *shard;
        if let Some(&index) = by_ids.find(hash, |&index| states[index as usize].ids == ids) {
            *slot = RateSlot(index);
            return states[index as usize].rate(point, arrival);
        }
        drop(shard);
        self.begin(slot, ids, point, arrival, registry)
    }

    /// Takes the first value of a counter.
    #[cold]
    fn begin(
        &self,
        slot: &mut RateSlot,
        ids: SeriesIds,
        point: Point,
        arrival: Arrival,
        registry: &Registry,
    ) -> Rate {
        // Relaxed: the bound may be passed by a state for each worker.
        if self.states.load(Ordering::Relaxed) >= self.states_max {
            self.sweep(registry, arrival.now_s);
            if self.states.load(Ordering::Relaxed) >= self.states_max {
                return Rate::Full;
            }
        }
        let hash = hash_of(ids, registry);
        let mut shard = self.shard(ids).lock();
        let Shard { by_ids, states } = &mut *shard;
        // Another worker may have been first.
        if let Some(&index) = by_ids.find(hash, |&index| states[index as usize].ids == ids) {
            *slot = RateSlot(index);
            return states[index as usize].rate(point, arrival);
        }
        let index = states.len() as u32;
        states.push(State {
            ids,
            body: arrival.body,
            seen_s: arrival.now_s,
            before: NO_POINT,
            last: point,
        });
        by_ids.insert_unique(hash, index, |&index| hash_of(states[index as usize].ids, registry));
        self.states.fetch_add(1, Ordering::Relaxed);
        *slot = RateSlot(index);
        Rate::First
    }

    /// Removes the states of names that were evicted, once a second at most.
    fn sweep(&self, registry: &Registry, now_s: u32) {
        if self.swept_s.swap(now_s, Ordering::Relaxed) == now_s {
            return;
        }
        for shard in &self.shards {
            let mut shard = shard.lock();
            let before = shard.states.len();
            let is_live = |ids: SeriesIds| {
                registry.is_metric(ids.metric)
                    && ids.device.is_none_or(|device| registry.is_device(device))
            };
            shard.states.retain(|state| is_live(state.ids));
            let Shard { by_ids, states } = &mut *shard;
            by_ids.clear();
            for (index, state) in states.iter().enumerate() {
                let hasher = |&index: &u32| hash_of(states[index as usize].ids, registry);
                by_ids.insert_unique(hash_of(state.ids, registry), index as u32, hasher);
            }
            self.states.fetch_sub(before - states.len(), Ordering::Relaxed);
        }
    }

    /// All counters of a device are in one shard.
    #[inline]
    fn shard(&self, ids: SeriesIds) -> &Mutex<Shard> {
        let spread = ids.device.map_or(ids.metric.slot(), |device| device.index as usize);
        &self.shards[spread % SHARDS]
    }
}

impl State {
    #[inline]
    fn rate(&mut self, point: Point, arrival: Arrival) -> Rate {
        if self.body != arrival.body {
            if point.time_us > self.last.time_us {
                self.before = self.last;
            } else if point.time_us > self.before.time_us {
                // The body that brought `last` is here again.
                self.last = self.before;
            } else {
                return self.old(point, arrival);
            }
            self.body = arrival.body;
        } else if point.time_us <= self.last.time_us {
            return self.old(point, arrival);
        }
        self.seen_s = arrival.now_s;
        let previous = std::mem::replace(&mut self.last, point);
        if previous.time_us == NEVER {
            Rate::First
        } else if point.value < previous.value {
            Rate::Reset
        } else {
            let micros = point.time_us - previous.time_us;
            Rate::PerSecond((point.value - previous.value) * MICROS / micros as f64)
        }
    }

    #[cold]
    fn old(&mut self, point: Point, arrival: Arrival) -> Rate {
        if arrival.now_s.saturating_sub(self.seen_s) < BEHIND_S {
            return Rate::Old;
        }
        (self.before, self.last) = (NO_POINT, point);
        (self.body, self.seen_s) = (arrival.body, arrival.now_s);
        Rate::First
    }
}

fn hash_of(ids: SeriesIds, registry: &Registry) -> u64 {
    let device = ids
        .device
        .map_or(u64::MAX, |device| u64::from(device.index) << 32 | u64::from(device.generation));
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&device.to_ne_bytes());
    bytes[8..].copy_from_slice(&(ids.metric.slot() as u64).to_ne_bytes());
    registry.hash_name(&bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::registry::NameSource;

    /// The whole history of a counter, body by body.
    #[derive(Default)]
    struct Model {
        bodies: Vec<Vec<Point>>,
    }

    impl Model {
        fn last(&self) -> Option<Point> {
            self.bodies.iter().flatten().last().copied()
        }

        fn read(&mut self, body: &[Point]) -> Vec<Rate> {
            let mut is_open = false;
            let mut rate = |&point: &Point| {
                if !is_open {
                    let is_newer =
                        |last: Option<Point>| last.is_none_or(|last| point.time_us > last.time_us);
                    let mut without_last = Model { bodies: self.bodies.clone() };
                    without_last.bodies.pop();
                    if !is_newer(self.last()) {
                        if !is_newer(without_last.last()) {
                            return Rate::Old;
                        }
                        *self = without_last;
                    }
                    is_open = true;
                    self.bodies.push(Vec::new());
                }
                let before = self.last();
                if before.is_some_and(|before| point.time_us <= before.time_us) {
                    return Rate::Old;
                }
                self.bodies.last_mut().expect("a body is open").push(point);
                match before {
                    None => Rate::First,
                    Some(before) if point.value < before.value => Rate::Reset,
                    Some(before) => {
                        let micros = point.time_us - before.time_us;
                        Rate::PerSecond((point.value - before.value) * MICROS / micros as f64)
                    }
                }
            };
            body.iter().map(&mut rate).collect()
        }
    }

    proptest! {
        #[test]
        fn rates_are_those_of_the_whole_history(
            bodies in proptest::collection::vec(
                proptest::collection::vec((0..20_i64, 0..9_u8), 1..5), 1..12),
            repeats in proptest::collection::vec(1..4_usize, 12),
        ) {
            let registry = Registry::new(10, 60);
            let table = RateTable::new(10);
            let mut names = table.bodies();
            let ids = SeriesIds { device: None, metric: MetricId::CPU };
            let (mut model, mut slot) = (Model::default(), RateSlot::default());
            for (body, times) in bodies.iter().zip(repeats) {
                let points: Vec<_> = body.iter().map(|&(second, value)| {
                    Point { time_us: second * 1_000_000, value: f64::from(value) }
                }).collect();
                let mut first = None;
                for _ in 0..times {
                    let arrival = Arrival { body: names.next(), now_s: 1 };
                    let rates: Vec<_> = points.iter().map(|&point| {
                        table.rate(&mut slot, ids, point, arrival, &registry)
                    }).collect();
                    prop_assert_eq!(&rates, &model.read(&points));
                    // A body in the order of time gives the same when it is sent again.
                    if points.is_sorted_by_key(|point| point.time_us) {
                        prop_assert_eq!(first.get_or_insert(rates.clone()), &rates);
                    }
                }
            }
        }
    }

    #[test]
    fn a_clock_that_was_ahead_holds_a_series_for_five_minutes() {
        let registry = Registry::new(10, 60);
        let table = RateTable::new(10);
        let mut names = table.bodies();
        let ids = SeriesIds { device: None, metric: MetricId::CPU };
        let mut slot = RateSlot::default();
        let mut rate = |second: i64, now_s: u32| {
            let arrival = Arrival { body: names.next(), now_s };
            let point = Point { time_us: second * 1_000_000, value: second as f64 };
            table.rate(&mut slot, ids, point, arrival, &registry)
        };
        assert_eq!(rate(900_000, 0), Rate::First);
        assert_eq!(rate(900_001, 1), Rate::PerSecond(1.0));
        assert_eq!(rate(10, 2), Rate::Old);
        assert_eq!(rate(299, BEHIND_S), Rate::Old);
        assert_eq!(rate(301, BEHIND_S + 1), Rate::First);
        assert_eq!(rate(303, BEHIND_S + 3), Rate::PerSecond(1.0));
    }

    #[test]
    fn states_are_bounded_and_those_of_evicted_names_make_room() {
        let registry = Registry::new(4, 10);
        let table = RateTable { states_max: 7, ..RateTable::new(0) };
        let mut names = table.bodies();
        let mut rate = |device: &str, now_s: u32| {
            let mut metrics = [("x_total", None)];
            let admitted = registry
                .admit(NameSource::Client, Some(device), &mut metrics, now_s)
                .expect("room");
            let device = admitted.map(|admitted| admitted.device);
            let ids = SeriesIds { device, metric: metrics[0].1.expect("room") };
            let arrival = Arrival { body: names.next(), now_s };
            let point = Point { time_us: i64::from(now_s), value: 1.0 };
            table.rate(&mut RateSlot::default(), ids, point, arrival, &registry)
        };
        for device in ["a", "b", "c", "d"] {
            assert_eq!(rate(device, 1), Rate::First);
        }
        assert_eq!(rate("a", 20), Rate::PerSecond(0.0));
        for device in ["e", "f", "g"] {
            assert_eq!(rate(device, 21), Rate::First, "{device} takes the place of a silent one");
        }
        assert_eq!(rate("a", 22), Rate::PerSecond(0.0));
        assert_eq!(rate("h", 40), Rate::First, "the states of three silent ones went");
        assert_eq!(table.states.load(Ordering::Relaxed), 4);
    }
}
