//! Judged samples that wait for Redis: coalesced, bounded, each with one fate.
//!
//! A [`Queue`] holds [`Segment`]s, oldest first. The newest takes what comes; the oldest is flushed
//! whole, and sent again until all of it is answered. Within a segment the last sample of a key wins,
//! while the values of the others stay for the windows, as many of each stream as a window reads back.
//!
//! Past the bound the oldest segment that is not in flight goes, counted. Pure: no I/O and no clock.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::commands::Options;
use super::keys;
use crate::judged_queue::{ByteBudget, JudgedChunk, JudgedCounts, JudgedReading, JudgedSample};
use sigmad_sample::{DeviceId, MetricId, Reading};

/// A segment that takes more than this part of the bound is closed, so that an overflow drops a small
/// part of what waits.
const SEGMENTS_IN_BOUND: usize = 16;
/// No index.
const NONE: u32 = u32::MAX;
/// The owner of the fleet's streams, and of samples that count for the fleet alone.
pub(super) const FLEET: u32 = 0;

/// What became of the samples of a flushed segment: their sum is its samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    /// Its key was written with its value, or the history has it.
    pub stored: u64,
    /// Its key was written with the value of a later sample.
    pub coalesced: u64,
    /// Its key was refused for good.
    pub refused: u64,
}

/// Samples of a segment whose commands failed for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Their key was not written.
    pub keys: u64,
    /// Coalesced, and the history did not take them.
    pub history: u64,
}

/// Samples that wait for Redis, or are on their way.
#[derive(Debug)]
pub struct Queue {
    budget: Arc<ByteBudget>,
    /// Values of a stream that are kept.
    window_values: u32,
    keeps_history: bool,
    hasher: RandomState,
    segments: VecDeque<Segment>,
    /// True when the oldest segment is being flushed.
    is_flushing: bool,
    samples: u64,
    /// Where in the newest segment a device probably stands, by the index of its id: looked at only
    /// together with the owner found there, so never cleared. Four bytes for each device there is, not
    /// counted among those that wait.
    owner_hints: Vec<u32>,
    /// One emptied segment, kept for its memory.
    spare: Option<Segment>,
}

/// Samples that are flushed together.
#[derive(Debug)]
pub struct Segment {
    samples: u64,
    since_us: i64,
    name_bytes: usize,
    pub(super) owners: Vec<Owner>,
    /// The fleet's streams, by metric.
    fleet_streams: Vec<u32>,
    pub(super) streams: Vec<Stream>,
    values: Vec<Value>,
    pub(super) keys: Vec<Key>,
    pub(super) moments: Vec<TimestampGroup>,
    readings: Vec<Reading>,
    /// Every sample, when a history is kept.
    pub(super) log: Vec<Logged>,
    keys_by_name: HashTable<u32>,
    moments_by_timestamp: HashTable<u32>,
}

/// The fleet, or a device: who has streams.
#[derive(Debug)]
pub(super) struct Owner {
    /// None for the fleet.
    device: Option<DeviceId>,
    /// Empty for the fleet.
    name: Arc<str>,
    first_stream: u32,
    last_stream: u32,
    newest_key: u32,
    /// Samples and anomalies; of the fleet only samples, its anomalies are those of its streams.
    pub(super) counts: JudgedCounts,
    /// Of the last sample.
    pub(super) time_us: i64,
    /// Of the last sample.
    pub(super) timestamp_us: i64,
}

/// The newest values of a metric of an owner.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) owner: u32,
    /// The owner's next one.
    next: u32,
    pub(super) metric: MetricId,
    newest: u32,
    len: u32,
    /// After the newest value.
    pub(super) counts: JudgedCounts,
}

/// One value of a stream; those of a stream form a ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value {
    pub(super) time_us: i64,
    pub(super) value: f64,
    /// After the newest comes the oldest.
    next: u32,
    pub(super) sequence: u16,
}

/// Samples of one owner and one timestamp, of which the last one counts.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) timestamp_us: i64,
    pub(super) owner: u32,
    moment: u32,
    first_reading: u32,
    width: u16,
    /// Readings that its place has room for.
    room: u16,
}

/// Samples of one timestamp, whoever sent them.
#[derive(Debug)]
pub(super) struct TimestampGroup {
    pub(super) timestamp_us: i64,
    /// The key of the last one.
    pub(super) newest: u32,
}

/// One sample of the history.
#[derive(Debug)]
pub(super) struct Logged {
    pub(super) time_us: i64,
    pub(super) key: u32,
    first_reading: u32,
    width: u16,
    pub(super) sequence: u16,
}

impl Queue {
    /// Holds as many bytes as `budget` allows.
    pub fn new(budget: Arc<ByteBudget>, options: &Options) -> Self {
        Self {
            budget,
            window_values: keys::window_values(options.window),
            keeps_history: options.history_len.is_some(),
            hasher: RandomState::default(),
            segments: VecDeque::new(),
            is_flushing: false,
            samples: 0,
            owner_hints: Vec::new(),
            spare: None,
        }
    }

    /// Takes the samples of a block. `name`: of a device, None once it has been evicted; its samples
    /// count for the fleet alone then.
    ///
    /// Returns how many samples were dropped to keep the bound.
    pub fn take(
        &mut self,
        block: &JudgedChunk,
        name: impl Fn(DeviceId) -> Option<Arc<str>>,
    ) -> u64 {
        if block.is_empty() {
            return 0;
        }
        if !self.is_newest_open() {
            self.segments.push_back(self.spare.take().unwrap_or_else(Segment::new));
        }
        let segment = self.segments.back_mut().expect("one is open");
        for (sample, readings) in block.iter() {
            let owner = match sample.device {
                Some(device) => segment.owner(device, &mut self.owner_hints, &name),
                None => FLEET,
            };
            segment.enter_windows(sample, readings, owner, self.window_values);
            segment.enter_key(sample, readings, owner, self.keeps_history, &self.hasher);
        }
        self.samples += block.len() as u64;
        let dropped = self.drop_past_bound();
        self.account();
        dropped
    }

    /// The oldest segment, in flight from now on until [`Queue::done`]; the same each time until then.
    /// None when nothing waits.
    pub fn begin(&mut self) -> Option<&Segment> {
        self.is_flushing = !self.segments.is_empty();
        self.segments.front()
    }

    /// The segment that [`Queue::begin`] gave out.
    pub fn in_flight(&self) -> Option<&Segment> {
        if self.is_flushing { self.segments.front() } else { None }
    }

    /// Forgets the segment in flight: all its commands are answered, and `refusals` failed for good.
    ///
    /// # Panics
    /// When none is in flight.
    pub fn done(&mut self, refusals: Refusals) -> Fates {
        assert!(self.is_flushing, "only what was begun is done");
        self.is_flushing = false;
        let mut segment = self.segments.pop_front().expect("one is in flight");
        let fates = segment.fates(refusals, self.keeps_history);
        self.samples -= segment.samples;
        segment.clear();
        self.spare = Some(segment);
        self.account();
        fates
    }

    /// Gives up all that waits or is in flight; returns how many samples.
    pub fn drop_all(&mut self) -> u64 {
        self.is_flushing = false;
        self.segments.clear();
        self.account();
        std::mem::take(&mut self.samples)
    }

    /// True when a segment is full and waits to be flushed.
    pub fn has_full(&self) -> bool {
        self.segments.iter().skip(usize::from(self.is_flushing)).any(|s| self.is_full(s))
    }

    /// When the oldest sample that waits or is in flight arrived, microseconds since 1970.
    pub fn since_us(&self) -> Option<i64> {
        self.segments.front().map(Segment::since_us)
    }

    /// Samples that wait or are in flight.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// The bytes they take.
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(Segment::bytes).sum()
    }

    fn is_full(&self, segment: &Segment) -> bool {
        segment.bytes() > self.budget.bytes_max() / SEGMENTS_IN_BOUND
    }

    fn is_newest_open(&self) -> bool {
        let is_newest_flushed = self.is_flushing && self.segments.len() == 1;
        !is_newest_flushed && self.segments.back().is_some_and(|newest| !self.is_full(newest))
    }

    fn drop_past_bound(&mut self) -> u64 {
        let mut dropped = 0;
        while self.bytes() > self.budget.store_bytes_max() {
            let Some(oldest) = self.segments.remove(usize::from(self.is_flushing)) else { break };
            dropped += oldest.samples;
        }
        self.samples -= dropped;
        dropped
    }

    fn account(&self) {
        self.budget.set_store_bytes(self.bytes());
    }
}

impl Segment {
    fn new() -> Self {
        let mut segment = Self {
            samples: 0,
            since_us: 0,
            name_bytes: 0,
            owners: Vec::new(),
            fleet_streams: Vec::new(),
            streams: Vec::new(),
            values: Vec::new(),
            keys: Vec::new(),
            moments: Vec::new(),
            readings: Vec::new(),
            log: Vec::new(),
            keys_by_name: HashTable::new(),
            moments_by_timestamp: HashTable::new(),
        };
        segment.owners.push(Owner::new(None, Arc::from("")));
        segment
    }

    /// Samples in it.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// When the oldest of them arrived, microseconds since 1970.
    pub fn since_us(&self) -> i64 {
        self.since_us
    }

    /// Whose windows it changes: devices by name, the fleet as an empty name.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.owners.iter().map(|owner| &*owner.name)
    }

    /// What it takes, with the room that vectors and tables keep for growing.
    pub fn bytes(&self) -> usize {
        fn of<T>(vec: &[T]) -> usize {
            grown(vec.len()) * size_of::<T>()
        }
        let table = |len: usize| grown(len * 8 / 7) * (size_of::<u32>() + 1);
        self.name_bytes
            + of(&self.owners)
            + of(&self.fleet_streams)
            + of(&self.streams)
            + of(&self.values)
            + of(&self.keys)
            + of(&self.moments)
            + of(&self.readings)
            + of(&self.log)
            + table(self.keys.len())
            + table(self.moments.len())
    }

    /// The streams of an owner, in the order in which they were first heard.
    pub(super) fn streams_of(&self, owner: &Owner) -> impl Iterator<Item = &Stream> {
        let stream = |at: u32| self.streams.get(at as usize);
        std::iter::successors(stream(owner.first_stream), move |found| stream(found.next))
    }

    /// The kept values of a stream, oldest first.
    pub(super) fn values_of(&self, stream: &Stream) -> impl Iterator<Item = &Value> {
        let mut at = stream.newest as usize;
        (0..stream.len).map(move |_| {
            at = self.values[at].next as usize;
            &self.values[at]
        })
    }

    /// The readings of a key's last sample.
    pub(super) fn readings_of(&self, key: &Key) -> &[Reading] {
        &self.readings[key.first_reading as usize..][..usize::from(key.width)]
    }

    /// The readings of a sample of the history.
    pub(super) fn readings_logged(&self, logged: &Logged) -> &[Reading] {
        &self.readings[logged.first_reading as usize..][..usize::from(logged.width)]
    }

    /// True when a later sample had its key.
    pub(super) fn is_coalesced(&self, logged: &Logged) -> bool {
        let key = &self.keys[logged.key as usize];
        key.first_reading != logged.first_reading || !self.is_written(logged.key)
    }

    /// True unless it is the key of a timestamp alone, and a later sample had that.
    fn is_written(&self, key: u32) -> bool {
        let Key { owner, moment, .. } = self.keys[key as usize];
        owner != FLEET || self.moments[moment as usize].newest == key
    }

    fn fates(&self, refusals: Refusals, keeps_history: bool) -> Fates {
        let keys = (0..self.keys.len() as u32).filter(|&key| self.is_written(key)).count() as u64;
        let coalesced = if keeps_history { refusals.history } else { self.samples - keys };
        debug_assert!(refusals.keys <= keys && coalesced <= self.samples - keys);
        Fates {
            stored: self.samples - coalesced - refusals.keys,
            coalesced,
            refused: refusals.keys,
        }
    }

    fn clear(&mut self) {
        let Self {
            samples,
            since_us: _,
            name_bytes,
            owners,
            fleet_streams,
            streams,
            values,
            keys,
            moments,
            readings,
            log,
            keys_by_name,
            moments_by_timestamp,
        } = self;
        *samples = 0;
        *name_bytes = 0;
        owners.truncate(1);
        owners[0] = Owner::new(None, owners[0].name.clone());
        fleet_streams.clear();
        streams.clear();
        values.clear();
        keys.clear();
        moments.clear();
        readings.clear();
        log.clear();
        keys_by_name.clear();
        moments_by_timestamp.clear();
    }

    fn owner(
        &mut self,
        device: DeviceId,
        hints: &mut Vec<u32>,
        name: impl Fn(DeviceId) -> Option<Arc<str>>,
    ) -> u32 {
        let index = device.index as usize;
        let hint = hints.get(index).copied().unwrap_or(NONE);
        if self.owners.get(hint as usize).is_some_and(|owner| owner.device == Some(device)) {
            return hint;
        }
        let Some(name) = name(device) else { return FLEET };
        if hints.len() <= index {
            hints.resize(index + 1, NONE);
        }
        let owner = self.owners.len() as u32;
        hints[index] = owner;
        self.name_bytes += name.len();
        self.owners.push(Owner::new(Some(device), name));
        owner
    }

    fn enter_windows(
        &mut self,
        sample: &JudgedSample,
        readings: &[JudgedReading],
        owner: u32,
        window_values: u32,
    ) {
        if self.samples == 0 {
            self.since_us = sample.time_us;
        }
        self.samples += 1;
        let of_fleet = JudgedCounts { total: sample.of_replica, anomalies: 0 };
        self.owners[FLEET as usize].heard(sample, of_fleet);
        let mut hint = NONE;
        for reading in readings {
            let stream = self.fleet_stream(reading.metric);
            self.enter_window(stream, sample, reading.value, reading.fleet, window_values);
            if owner != FLEET {
                let stream = self.stream(owner, reading.metric, hint);
                self.enter_window(stream, sample, reading.value, reading.stream, window_values);
                hint = self.streams[stream as usize].next;
            }
        }
        if owner != FLEET {
            self.owners[owner as usize].heard(sample, sample.of_device);
        }
    }

    fn fleet_stream(&mut self, metric: MetricId) -> u32 {
        let index = usize::from(metric.0);
        if self.fleet_streams.len() <= index {
            self.fleet_streams.resize(index + 1, NONE);
        }
        if self.fleet_streams[index] == NONE {
            self.fleet_streams[index] = self.open_stream(FLEET, metric);
        }
        self.fleet_streams[index]
    }

    /// A device's stream of that metric. `hint`: where it probably stands, for most samples of a device
    /// name the same metrics in the same order.
    fn stream(&mut self, owner: u32, metric: MetricId, hint: u32) -> u32 {
        let first = self.owners[owner as usize].first_stream;
        let start = if hint == NONE { first } else { hint };
        for (from, end) in [(start, NONE), (first, start)] {
            let mut at = from;
            while at != end {
                let stream = &self.streams[at as usize];
                if stream.metric == metric {
                    return at;
                }
                at = stream.next;
            }
        }
        self.open_stream(owner, metric)
    }

    fn open_stream(&mut self, owner: u32, metric: MetricId) -> u32 {
        let at = self.streams.len() as u32;
        let counts = JudgedCounts::default();
        self.streams.push(Stream { owner, next: NONE, metric, newest: NONE, len: 0, counts });
        let Owner { first_stream, last_stream, .. } = &mut self.owners[owner as usize];
        match self.streams.get_mut(*last_stream as usize) {
            Some(last) => last.next = at,
            None => *first_stream = at,
        }
        *last_stream = at;
        at
    }

    /// Adds a value to a stream, in the place of the oldest once it has as many as a window reads back.
    fn enter_window(
        &mut self,
        stream: u32,
        sample: &JudgedSample,
        value: f64,
        counts: JudgedCounts,
        window_values: u32,
    ) {
        let stream = &mut self.streams[stream as usize];
        stream.counts = counts;
        let mut entering =
            Value { time_us: sample.time_us, value, next: NONE, sequence: sample.sequence };
        if stream.len < window_values {
            let at = self.values.len() as u32;
            entering.next = match self.values.get_mut(stream.newest as usize) {
                Some(newest) => std::mem::replace(&mut newest.next, at),
                None => at,
            };
            self.values.push(entering);
            stream.newest = at;
            stream.len += 1;
        } else {
            let at = self.values[stream.newest as usize].next;
            let oldest = &mut self.values[at as usize];
            entering.next = oldest.next;
            *oldest = entering;
            stream.newest = at;
        }
    }

    fn enter_key(
        &mut self,
        sample: &JudgedSample,
        readings: &[JudgedReading],
        owner: u32,
        keeps_history: bool,
        hasher: &RandomState,
    ) {
        let at = self.key(owner, sample.timestamp_us, hasher);
        self.owners[owner as usize].newest_key = at;
        let key = &mut self.keys[at as usize];
        self.moments[key.moment as usize].newest = at;
        let readings = readings.iter().map(|r| Reading { metric: r.metric, value: r.value });
        key.width = sample.readings;
        if key.width <= key.room && !keeps_history {
            let first = key.first_reading as usize;
            for (place, reading) in self.readings[first..].iter_mut().zip(readings) {
                *place = reading;
            }
        } else {
            key.room = key.width;
            key.first_reading = self.readings.len() as u32;
            self.readings.extend(readings);
        }
        if keeps_history {
            self.log.push(Logged {
                time_us: sample.time_us,
                key: at,
                first_reading: key.first_reading,
                width: key.width,
                sequence: sample.sequence,
            });
        }
    }

    fn key(&mut self, owner: u32, timestamp_us: i64, hasher: &RandomState) -> u32 {
        let newest = self.owners[owner as usize].newest_key;
        if self.keys.get(newest as usize).is_some_and(|key| key.timestamp_us == timestamp_us) {
            return newest;
        }
        let hash = hasher.hash_one((owner, timestamp_us));
        let same = |&at: &u32| {
            let key = &self.keys[at as usize];
            key.timestamp_us == timestamp_us && key.owner == owner
        };
        if let Some(&at) = self.keys_by_name.find(hash, same) {
            return at;
        }
        let at = self.keys.len() as u32;
        let moment = self.moment(timestamp_us, hasher);
        self.keys.push(Key { timestamp_us, owner, moment, first_reading: 0, width: 0, room: 0 });
        let keys = &self.keys;
        self.keys_by_name.insert_unique(hash, at, |&at| {
            let key = &keys[at as usize];
            hasher.hash_one((key.owner, key.timestamp_us))
        });
        at
    }

    fn moment(&mut self, timestamp_us: i64, hasher: &RandomState) -> u32 {
        // Most devices say the same second as the one before.
        if self.keys.last().is_some_and(|key| key.timestamp_us == timestamp_us) {
            return self.keys[self.keys.len() - 1].moment;
        }
        let hash = hasher.hash_one(timestamp_us);
        let same = |&at: &u32| self.moments[at as usize].timestamp_us == timestamp_us;
        if let Some(&at) = self.moments_by_timestamp.find(hash, same) {
            return at;
        }
        let at = self.moments.len() as u32;
        self.moments.push(TimestampGroup { timestamp_us, newest: NONE });
        let moments = &self.moments;
        self.moments_by_timestamp
            .insert_unique(hash, at, |&at| hasher.hash_one(moments[at as usize].timestamp_us));
        at
    }
}

impl Owner {
    fn new(device: Option<DeviceId>, name: Arc<str>) -> Self {
        Self {
            device,
            name,
            first_stream: NONE,
            last_stream: NONE,
            newest_key: NONE,
            counts: JudgedCounts::default(),
            time_us: 0,
            timestamp_us: 0,
        }
    }

    /// The device's name, None for the fleet.
    pub(super) fn device(&self) -> Option<&str> {
        self.device.map(|_| &*self.name)
    }

    fn heard(&mut self, sample: &JudgedSample, counts: JudgedCounts) {
        self.counts = counts;
        self.time_us = sample.time_us;
        self.timestamp_us = sample.timestamp_us;
    }
}

impl Stream {
    /// Values that are kept.
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }
}

/// Elements that a vector which has grown to `len` has room for.
fn grown(len: usize) -> usize {
    if len == 0 { 0 } else { len.next_power_of_two() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::store::keys::Replica;

    fn options(history_len: Option<usize>) -> Options {
        Options {
            replica: Replica::new(1),
            window: 3,
            ttl: Duration::from_secs(300),
            stream_idle: Duration::from_secs(3_600),
            history_len,
            devices_max: 1_000,
        }
    }

    fn queue(bytes_max: usize, history_len: Option<usize>) -> (Queue, Arc<ByteBudget>) {
        let held = Arc::new(ByteBudget::new(bytes_max));
        (Queue::new(held.clone(), &options(history_len)), held)
    }

    /// A block of samples with serial numbers as times.
    fn block(from: u64, samples: &[(u32, i64, u16)]) -> JudgedChunk {
        let mut block = JudgedChunk::default();
        for (serial, &(device, timestamp_us, width)) in (from..).zip(samples) {
            for metric in 0..width {
                let counts = JudgedCounts { total: serial, anomalies: 0 };
                let (metric, value) = (MetricId(metric), serial as f64);
                block.push_reading(JudgedReading { metric, value, stream: counts, fleet: counts });
            }
            block.push_sample(JudgedSample {
                time_us: serial as i64,
                sequence: 0,
                readings: width,
                timestamp_us,
                device: (device > 0).then_some(DeviceId { index: device, generation: 0 }),
                of_device: JudgedCounts::default(),
                of_replica: 1,
            });
        }
        block
    }

    fn name(device: DeviceId) -> Option<Arc<str>> {
        // Every seventh has been evicted.
        (device.index % 7 != 6).then(|| format!("device-{}", device.index).into())
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take(Vec<(u32, i64, u16)>),
        Begin,
        Done,
    }

    fn step() -> impl Strategy<Value = Step> {
        let sample = (0..40_u32, 0..60_i64, 1..6_u16);
        prop_oneof![
            6 => proptest::collection::vec(sample, 1..60).prop_map(Step::Take),
            1 => Just(Step::Begin),
            1 => Just(Step::Done),
        ]
    }

    proptest! {
        #[test]
        fn bounded_oldest_first_and_each_sample_counted(
            steps in proptest::collection::vec(step(), 1..80),
            bytes_max in 1_000..200_000_usize,
            history_len in proptest::option::of(Just(100)),
        ) {
            let (mut queue, budget) = queue(bytes_max, history_len);
            let (mut taken, mut finished, mut dropped) = (0, 0, 0);
            for step in steps {
                match step {
                    Step::Take(samples) => {
                        dropped += queue.take(&block(taken, &samples), name);
                        taken += samples.len() as u64;
                    }
                    Step::Begin => {
                        let samples = queue.begin().map(Segment::samples);
                        prop_assert_eq!(queue.begin().map(Segment::samples), samples);
                        prop_assert!(samples.is_some() || taken == finished + dropped);
                    }
                    Step::Done => if let Some(flight) = queue.in_flight() {
                        let samples = flight.samples();
                        let fates = queue.done(Refusals::default());
                        prop_assert_eq!(fates.stored + fates.coalesced + fates.refused, samples);
                        prop_assert!(fates.refused == 0 && fates.stored > 0);
                        prop_assert!(history_len.is_none() || fates.coalesced == 0);
                        finished += samples;
                    },
                }
                prop_assert_eq!(queue.samples(), taken - finished - dropped);
                let mut sum = 0;
                queue.segments.iter().for_each(|segment| sum += segment.samples());
                prop_assert_eq!(sum, queue.samples());
                let flight = queue.in_flight();
                let most = budget.store_bytes_max().max(flight.map_or(0, Segment::bytes));
                prop_assert!(queue.bytes() <= most);
                // What waits is the newest, without a gap.
                let waiting = sum - flight.map_or(0, Segment::samples);
                if let Some(oldest) = queue.segments.get(usize::from(queue.is_flushing)) {
                    prop_assert_eq!(oldest.since_us() as u64, taken - waiting);
                }
            }
            let waiting = queue.samples();
            prop_assert_eq!(queue.drop_all(), waiting);
            prop_assert_eq!((queue.samples(), queue.bytes()), (0, 0));
            prop_assert_eq!(format!("{budget:?}"), format!("{:?}", ByteBudget::new(bytes_max)));
        }
    }

    #[test]
    fn a_segment_in_flight_takes_no_more() {
        let (mut queue, _) = queue(1 << 20, None);
        assert!(queue.begin().is_none() && queue.in_flight().is_none());
        assert_eq!(queue.take(&JudgedChunk::default(), name), 0);
        assert!(queue.begin().is_none());
        queue.take(&block(0, &[(1, 5, 1), (1, 5, 1)]), name);
        assert_eq!(queue.begin().expect("one").samples(), 2);
        queue.take(&block(2, &[(1, 5, 1)]), name);
        assert_eq!((queue.begin().expect("one").samples(), queue.samples()), (2, 3));
        let refusals = Refusals { keys: 1, history: 0 };
        assert_eq!(queue.done(refusals), Fates { stored: 0, coalesced: 1, refused: 1 });
        assert_eq!(queue.begin().expect("one").samples(), 1);
        assert_eq!(queue.done(Refusals::default()), Fates { stored: 1, ..Fates::default() });
        assert!(queue.begin().is_none());
    }

    #[test]
    fn coalesced_samples_take_no_room() {
        let (mut queue, budget) = queue(1 << 20, None);
        let samples: Vec<_> = (0..200).map(|at| (1 + at % 5, i64::from(at % 2), 2)).collect();
        queue.take(&block(0, &samples), name);
        let bytes = queue.bytes();
        for round in 1..1_000 {
            assert_eq!(queue.take(&block(round * 200, &samples), name), 0);
        }
        assert_eq!((queue.bytes(), queue.samples()), (bytes, 200_000));
        assert!(bytes < budget.bytes_max() / SEGMENTS_IN_BOUND && !queue.has_full());
        let segment = queue.begin().expect("one");
        for stream in &segment.streams {
            let values: Vec<_> = segment.values_of(stream).map(|value| value.value).collect();
            let newest = values[3] as u64;
            let apart = if stream.owner == FLEET { 1 } else { 5 };
            let expected: Vec<_> =
                (0..4).map(|back| (newest - (3 - back) * apart) as f64).collect();
            assert_eq!(values, expected);
        }
        let fates = queue.done(Refusals::default());
        assert_eq!(fates, Fates { stored: 10, coalesced: 199_990, refused: 0 });
    }

    #[test]
    fn a_full_segment_is_closed() {
        let (mut queue, _) = queue(1 << 20, None);
        let mut taken = 0;
        while !queue.has_full() {
            let samples: Vec<_> = (0..50).map(|at| (1, taken as i64 + at, 1)).collect();
            assert_eq!(queue.take(&block(taken, &samples), name), 0);
            taken += 50;
        }
        let bytes = queue.bytes();
        assert!((65_536..140_000).contains(&bytes), "{bytes}");
        queue.take(&block(taken, &[(1, 0, 1)]), name);
        assert_eq!(queue.begin().expect("one").samples(), taken);
        assert!(!queue.has_full());
    }
}
