//! The last buckets of each cumulative histogram, shared by all workers.
//!
//! As [`super::rates`], for whole histograms: the last one, and the one before the last body that changed it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};

use super::histograms::{Assembled, Assembly, Bucket, Part, write_change};
use super::rates::{Arrival, BodyId, MICROS, NEVER, Point, SeriesIds};
use crate::registry::Registry;

/// As of rates.
const SHARDS: usize = 64;
/// A histogram whose times stay before its last one begins anew after this time.
const BEHIND_S: u32 = 300;
/// Buckets that there is room for, of all histograms: one for each stream, and some where there are few streams. A
/// histogram has three or four streams of its own.
const BUCKETS_FEW: usize = 1_024;

/// Bytes of one bucket: in two snapshots and the assembly, whose vectors double.
const BUCKET_BYTES: usize = 2 * 3 * size_of::<Bucket>();
/// Bytes of histograms for each stream, of which each has three at least.
pub(super) const HISTOGRAM_BYTES: usize = BUCKET_BYTES + size_of::<State>() / 2;

/// A histogram at one time.
#[derive(Debug)]
struct Snapshot {
    time_us: i64,
    count: f64,
    sum: Option<f64>,
    buckets: Vec<Bucket>,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { time_us: NEVER, count: 0.0, sum: None, buckets: Vec::new() }
    }
}

#[derive(Debug)]
struct State {
    body: BodyId,
    seen_s: u32,
    before: Snapshot,
    last: Snapshot,
    assembly: Assembly,
    /// The body of the last part.
    part_body: BodyId,
    /// Buckets that are counted.
    counted: usize,
}

/// The buckets of a histogram as they came, and then their change: memory of one worker.
#[derive(Debug, Default)]
pub(super) struct HistogramScratch {
    pub(super) buckets: Vec<Bucket>,
    pub(super) change: Vec<Bucket>,
}

/// The increase of a histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Increase {
    pub(super) time_us: i64,
    /// Values.
    pub(super) count: f64,
    pub(super) sum: Option<f64>,
    /// The time in which they came.
    pub(super) seconds: f64,
}

/// What a cumulative histogram gives; the change of its buckets is in the scratch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Change {
    First,
    Reset,
    Old,
    Full,
    Increase(Increase),
    /// Other parts are missing.
    Partly,
}

type States = HashMap<SeriesIds, State, foldhash::fast::RandomState>;

/// The states of all histograms.
#[derive(Debug)]
pub(super) struct HistogramTable {
    shards: Box<[Mutex<States>]>,
    /// Hashes of the series whose buckets have come as series of their own.
    classic: Mutex<HashSet<u64, foldhash::fast::RandomState>>,
    buckets_max: usize,
    buckets: AtomicUsize,
}

impl HistogramTable {
    pub(super) fn new(max_streams: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            classic: Mutex::default(),
            buckets_max: max_streams.max(BUCKETS_FEW),
            buckets: AtomicUsize::new(0),
        }
    }

    /// Takes note of a series with buckets of their own. A hash may stand for two series: then a sum counts as that of
    /// a histogram.
    pub(super) fn add_classic(&self, series: u64) {
        let mut classic = self.classic.lock();
        if classic.len() >= self.buckets_max {
            classic.clear();
        }
        classic.insert(series);
    }

    /// Whether a series has buckets of their own.
    pub(super) fn is_classic(&self, series: u64) -> bool {
        self.classic.lock().contains(&series)
    }

    /// Takes a whole histogram, whose buckets are in `scratch`.
    pub(super) fn take(
        &self,
        ids: SeriesIds,
        point: Point,
        sum: Option<f64>,
        arrival: Arrival,
        registry: &Registry,
        scratch: &mut HistogramScratch,
    ) -> Change {
        let Some(mut state) = self.state(ids, scratch.buckets.len(), arrival, registry) else {
            return Change::Full;
        };
        let state = &mut *state;
        let change = state.take(point, sum, arrival, scratch);
        self.count(state);
        change
    }

    /// Takes one part of a histogram.
    pub(super) fn take_part(
        &self,
        ids: SeriesIds,
        (part, point): (Part, Point),
        arrival: Arrival,
        registry: &Registry,
        scratch: &mut HistogramScratch,
    ) -> Change {
        let Some(mut state) = self.state(ids, 1, arrival, registry) else { return Change::Full };
        let state = &mut *state;
        let mut change = Change::Partly;
        if state.assembly.ends_before(point.time_us) {
            state.assembly.keep_fresh();
            // In the name of the body that brought them, so that this one can be sent again.
            change = state.take_assembled(Arrival { body: state.part_body, ..arrival }, scratch);
        }
        state.part_body = arrival.body;
        match state.assembly.take(part, point) {
            // A body that is sent again finds it whole at its first part.
            Assembled::Whole if state.is_taken(arrival) => change = Change::Partly,
            Assembled::Whole => change = state.take_assembled(arrival, scratch),
            Assembled::Partly => {}
            Assembled::Old => return Change::Old,
            Assembled::Full => return Change::Full,
        }
        self.count(state);
        change
    }

    /// The state of a histogram. None: it is new, and there is no room for so many buckets.
    fn state(
        &self,
        ids: SeriesIds,
        buckets: usize,
        arrival: Arrival,
        registry: &Registry,
    ) -> Option<MappedMutexGuard<'_, State>> {
        let mut shard = self.shard(ids).lock();
        if !shard.contains_key(&ids) {
            drop(shard);
            if !self.make_room(buckets, registry) {
                return None;
            }
            shard = self.shard(ids).lock();
        }
        Some(MutexGuard::map(shard, |shard| {
            shard.entry(ids).or_insert_with(|| State::new(arrival))
        }))
    }

    /// Whether there is room for more buckets, once histograms whose names were evicted are gone.
    fn make_room(&self, buckets: usize, registry: &Registry) -> bool {
        // Relaxed: the bound may be passed by a histogram for each worker.
        let has_room = || self.buckets.load(Ordering::Relaxed) + buckets <= self.buckets_max;
        if has_room() {
            return true;
        }
        for shard in &self.shards {
            shard.lock().retain(|ids, state| {
                let is_live = registry.is_metric(ids.metric)
                    && ids.device.is_none_or(|device| registry.is_device(device));
                if !is_live {
                    self.buckets.fetch_sub(state.counted, Ordering::Relaxed);
                }
                is_live
            });
        }
        has_room()
    }

    fn count(&self, state: &mut State) {
        let held = state.last.buckets.len().max(state.assembly.len());
        if held > state.counted {
            self.buckets.fetch_add(held - state.counted, Ordering::Relaxed);
            state.counted = held;
        }
    }

    fn shard(&self, ids: SeriesIds) -> &Mutex<States> {
        let spread = ids.device.map_or(ids.metric.slot(), |device| device.index as usize);
        &self.shards[spread % SHARDS]
    }
}

impl State {
    fn new(arrival: Arrival) -> Self {
        Self {
            body: arrival.body,
            seen_s: arrival.now_s,
            before: Snapshot::default(),
            last: Snapshot::default(),
            assembly: Assembly::default(),
            part_body: arrival.body,
            counted: 0,
        }
    }

    /// Whether this body has completed the histogram at the time of its parts.
    fn is_taken(&self, arrival: Arrival) -> bool {
        self.body == arrival.body && self.last.time_us == self.assembly.time_us()
    }

    fn take_assembled(&mut self, arrival: Arrival, scratch: &mut HistogramScratch) -> Change {
        self.assembly.write(&mut scratch.buckets);
        let value = scratch.buckets.iter().map(|bucket| bucket.count).sum();
        let point = Point { time_us: self.assembly.time_us(), value };
        self.take(point, self.assembly.sum(), arrival, scratch)
    }

    /// The rule of [`super::rates`], for whole histograms.
    fn take(
        &mut self,
        point: Point,
        sum: Option<f64>,
        arrival: Arrival,
        scratch: &mut HistogramScratch,
    ) -> Change {
        let Point { time_us, value: count } = point;
        let mut is_after_last = true;
        if self.body != arrival.body {
            if time_us > self.last.time_us {
                std::mem::swap(&mut self.before, &mut self.last);
                is_after_last = false;
            } else if time_us > self.before.time_us {
                is_after_last = false;
            } else if arrival.now_s.saturating_sub(self.seen_s) < BEHIND_S {
                return Change::Old;
            } else {
                self.before.time_us = NEVER;
                is_after_last = false;
            }
            self.body = arrival.body;
        } else if time_us <= self.last.time_us {
            return Change::Old;
        }
        self.seen_s = arrival.now_s;
        let earlier = if is_after_last { &self.last } else { &self.before };
        let change = if earlier.time_us == NEVER {
            Change::First
        } else if count < earlier.count
            || write_change(&earlier.buckets, &scratch.buckets, &mut scratch.change).is_err()
        {
            Change::Reset
        } else {
            let sum = sum.zip(earlier.sum).map(|(sum, before)| sum - before);
            let seconds = (time_us - earlier.time_us) as f64 / MICROS;
            Change::Increase(Increase { time_us, count: count - earlier.count, sum, seconds })
        };
        self.last.time_us = time_us;
        (self.last.count, self.last.sum) = (count, sum);
        self.last.buckets.clone_from(&scratch.buckets);
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::NameSource;

    /// A table with the names of its histograms.
    struct Fixture {
        registry: Registry,
        table: HistogramTable,
        scratch: HistogramScratch,
        bodies: super::super::rates::BodyIds,
    }

    impl Fixture {
        fn new() -> Self {
            Self {
                registry: Registry::new(100, 60),
                table: HistogramTable::new(100),
                scratch: HistogramScratch::default(),
                bodies: super::super::rates::RateTable::new(100).bodies(),
            }
        }

        fn ids(&self, device: &str) -> SeriesIds {
            let mut metrics = [("h", None)];
            let admitted = self.registry.admit(NameSource::Client, Some(device), &mut metrics, 5);
            let device = admitted.expect("room").map(|admitted| admitted.device);
            SeriesIds { device, metric: metrics[0].1.expect("room") }
        }

        /// Takes a histogram of that many buckets, each with as many values as there are seconds.
        fn take(&mut self, ids: SeriesIds, buckets: usize, second: i64) -> Change {
            self.scratch.buckets.clear();
            self.scratch.buckets.extend((0..buckets).map(|at| Bucket {
                lower: at as f64,
                upper: at as f64 + 1.0,
                count: second as f64,
            }));
            let arrival = Arrival { body: self.bodies.next(), now_s: 5 };
            let value = buckets as f64 * second as f64;
            let point = Point { time_us: second * 1_000_000, value };
            self.table.take(ids, point, None, arrival, &self.registry, &mut self.scratch)
        }

        fn take_part(&mut self, ids: SeriesIds, bound: f64, second: i64) -> Change {
            let arrival = Arrival { body: self.bodies.next(), now_s: 5 };
            let point = Point { time_us: second * 1_000_000, value: 1.0 };
            let part = (Part::Bucket(bound), point);
            self.table.take_part(ids, part, arrival, &self.registry, &mut self.scratch)
        }
    }

    #[test]
    fn buckets_have_a_bound_and_those_of_evicted_names_make_room() {
        let mut fixture = Fixture::new();
        let half = BUCKETS_FEW / 2;
        let [a, b, c] = ["a", "b", "c"].map(|device| fixture.ids(device));
        assert_eq!(fixture.take(a, half, 1), Change::First);
        assert_eq!(fixture.take(b, half, 1), Change::First);
        assert_eq!(fixture.take(c, 1, 1), Change::Full);
        assert_eq!(fixture.take_part(c, 1.0, 1), Change::Full);
        // One that is known goes on.
        assert!(matches!(fixture.take(a, half, 2), Change::Increase(_)));
        assert!(fixture.registry.forget_device("a"));
        assert_eq!(fixture.take(c, half, 1), Change::First);
        assert!(matches!(fixture.take(b, half, 2), Change::Increase(_)), "b was kept");
        assert_eq!(fixture.take(fixture.ids("d"), 1, 1), Change::Full, "no room is counted twice");
    }

    #[test]
    fn a_histogram_counts_as_many_buckets_as_it_had_at_most() {
        let mut fixture = Fixture::new();
        let [a, b] = ["a", "b"].map(|device| fixture.ids(device));
        for (second, buckets) in [(1, 1), (2, BUCKETS_FEW - 1), (3, 2)] {
            fixture.take(a, buckets, second);
        }
        assert_eq!(fixture.take(b, 2, 1), Change::Full);
        assert_eq!(fixture.take(b, 1, 1), Change::First);
    }

    #[test]
    fn parts_count_as_buckets() {
        let mut fixture = Fixture::new();
        let ids = fixture.ids("a");
        for bound in 0..10 {
            assert_eq!(fixture.take_part(ids, f64::from(bound), 1), Change::Partly);
        }
        let most = BUCKETS_FEW - 10;
        let other = fixture.ids("b");
        assert_eq!(fixture.take(other, most + 1, 1), Change::Full);
        assert_eq!(fixture.take(other, most, 1), Change::First);
    }

    #[test]
    fn a_histogram_that_stays_behind_its_last_time_begins_anew() {
        let mut fixture = Fixture::new();
        let ids = fixture.ids("a");
        let mut take = |second: i64, now_s: u32| {
            fixture.scratch.buckets.clear();
            let arrival = Arrival { body: fixture.bodies.next(), now_s };
            let point = Point { time_us: second * 1_000_000, value: second as f64 };
            let scratch = &mut fixture.scratch;
            fixture.table.take(ids, point, None, arrival, &fixture.registry, scratch)
        };
        assert_eq!(take(1_000, 5), Change::First);
        assert_eq!(take(1_000, 5), Change::First, "sent again");
        assert!(matches!(take(1_002, 5), Change::Increase(_)));
        assert!(matches!(take(1_001, 5), Change::Increase(_)), "in place of the last one");
        assert_eq!(take(7, 5), Change::Old);
        assert_eq!(take(7, 5 + BEHIND_S - 1), Change::Old);
        assert_eq!(take(8, 5 + BEHIND_S), Change::First);
        assert!(matches!(take(9, 5 + BEHIND_S), Change::Increase(_)));
    }
}
