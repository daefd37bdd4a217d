//! The memory of streams: records and rings, in chunks that never move.
//!
//! A stream is a record of two cache lines and a ring of N values: 128 + 8·N bytes. A stream whose ring holds
//! values of several replicas has a copy of its own values, which takes the memory of a second stream. Growth
//! adds one chunk and copies nothing; a stream that is given back is the next to be taken.
//!
//! The detectors' states are beside the records ([`DetectorStates`]). Where incidents are on, so are one cache line for the
//! present interval of each stream ([`Fold`]), and what is kept of those that have room ([`Watches`]).

mod own_copies;
mod saved;
mod states;

use crate::analytics::anomalies::OpenAnomaly;
use crate::judged_queue::JudgedCounts;
use sigmad_detectors::window::{WINDOW_MAX, Window};
use sigmad_detectors::zscore::{LastVerdict, ZScore};
use sigmad_detectors::{DetectorSettings, DetectorStates, StateIndex, prefetch};
use sigmad_incidents::fold::Fold;
use sigmad_incidents::watch::{Deviation, Finding, Watch};
use sigmad_incidents::watches::Watches;
use sigmad_sample::{MetricId, Verdict};

/// Bytes of the rings in a chunk: some 50 µs of page faults, spread over their use.
const CHUNK_RING_BYTES: usize = 1 << 20;

/// The index of a stream in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamIndex(u32);

impl StreamIndex {
    /// The index as a number.
    #[inline]
    pub fn number(self) -> usize {
        self.0 as usize
    }
}

/// The stream of one metric, of a device or of the fleet.
#[derive(Clone, Copy, Debug)]
pub struct MetricStream {
    /// Its metric.
    pub metric: MetricId,
    /// The stream.
    pub place: StreamIndex,
}

/// Which replicas' values a stream's ring holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RingSource {
    /// This replica's only, or none.
    #[default]
    Own,
    /// Other replicas' only.
    Others,
    /// Both. The stream at the index holds a copy of this replica's values, with the verdict of the last.
    Both(StreamIndex),
}

/// One stream, without its ring.
#[derive(Clone, Debug, Default)]
#[repr(align(64))]
pub struct StreamRecord {
    /// The sums over the ring.
    pub window: Window,
    /// The verdict on the last value.
    pub verdict: LastVerdict,
    /// Values and anomalies that this replica judged since the start.
    pub own: JudgedCounts,
    /// Values and anomalies that other replicas judged, as last reported.
    pub others: JudgedCounts,
    /// Which replicas' values the ring holds.
    pub ring_source: RingSource,
    /// The detectors' states.
    pub state: Option<StateIndex>,
    /// The anomaly that the last value belongs to.
    pub open: Option<OpenAnomaly>,
}

const _: () = assert!(size_of::<StreamRecord>() == 128);

impl StreamRecord {
    /// Adds a value that was judged by the window before it.
    #[inline(always)] // two calls per reading, which would pass their arguments through memory
    pub fn enter(&mut self, ring: &mut [f64], value: f64, verdict: Verdict) {
        self.own.anomalies += u64::from(verdict.is_anomaly);
        self.enter_judged(ring, value, LastVerdict::Judged(verdict));
    }

    #[inline(always)] // as enter
    fn enter_judged(&mut self, ring: &mut [f64], value: f64, verdict: LastVerdict) {
        self.verdict = verdict;
        self.own.total += 1;
        // Last, so that what it calls is the end of all.
        self.window.push(ring, value);
    }

    /// Whether `zscore` alone judges, and the last value was no anomaly.
    #[inline(always)]
    fn is_usual(&self) -> bool {
        self.state.is_none() && self.open.is_none() && self.ring_source == RingSource::Own
    }

    /// Judges a value by the window before it and adds it, where that is all there is to do: `zscore` alone judges, and
    /// the value is usual and ends no anomaly. False otherwise; then nothing has happened.
    #[inline(always)] // in one loop over readings
    pub fn take_usual(&mut self, ring: &mut [f64], zscore: &ZScore, value: f64) -> bool {
        if !self.is_usual() {
            return false;
        }
        let Some(usual) = zscore.judge_usual(&self.window.moments(), value) else { return false };
        self.enter_judged(ring, value, LastVerdict::Usual(usual));
        true
    }

    /// The same for values one after another, up to the first that is not usual; returns how many.
    #[inline(always)] // in one loop over runs, with the sums in registers
    pub fn take_usual_run(
        &mut self,
        ring: &mut [f64],
        zscore: &ZScore,
        values: impl Iterator<Item = f64>,
    ) -> usize {
        if !self.is_usual() {
            return 0;
        }
        let (mut window, mut last, mut taken) = (self.window.clone(), None, 0);
        for value in values {
            let Some(usual) = zscore.judge_usual(&window.moments(), value) else { break };
            window.push(ring, value);
            (last, taken) = (Some(usual), taken + 1);
        }
        self.window = window;
        self.verdict = last.map_or(self.verdict, LastVerdict::Usual);
        self.own.total += taken as u64;
        taken
    }
}

#[derive(Debug)]
struct ArenaChunk {
    streams: Box<[StreamRecord]>,
    rings: Box<[f64]>,
    /// Empty without incidents.
    folds: Box<[Fold]>,
}

/// All streams.
#[derive(Debug)]
pub struct Arena {
    window: usize,
    /// log₂ of the number of streams in a chunk.
    chunk_bits: u32,
    /// That number less one: the bits of an index within its chunk.
    chunk_mask: usize,
    chunks: Vec<ArenaChunk>,
    /// Indices below it have been taken at least once.
    taken: u32,
    free: Vec<StreamIndex>,
    /// How many of those in use are copies of own values.
    own_copies: usize,
    /// Which they are, a bit for each index.
    is_own_copy: Vec<u64>,
    states: DetectorStates,
    /// None without incidents.
    watches: Option<Watches>,
    /// The length of their intervals, where there are any.
    interval_us: u64,
}

/// What judging a value of one stream needs.
#[derive(Debug)]
pub struct StreamToJudge<'a> {
    /// The stream.
    pub record: &'a mut StreamRecord,
    /// Its ring.
    pub ring: &'a mut [f64],
    /// Its present interval. None without incidents.
    pub fold: Option<&'a mut Fold>,
    /// The length of intervals.
    pub interval_us: u64,
    /// The detectors' states of all streams.
    pub states: &'a mut DetectorStates,
}

impl StreamToJudge<'_> {
    /// Adds a value to the present interval. True if it is refused, and is to be judged: [`Arena::judge_folded`].
    #[inline(always)]
    pub fn fold(&mut self, arrived_us: i64, value: f64) -> bool {
        let interval_us = self.interval_us;
        self.fold.as_mut().is_some_and(|fold| !fold.add(interval_us, arrived_us, value))
    }

    /// [`StreamRecord::take_usual`] of the stream.
    #[inline(always)]
    pub fn take_usual(&mut self, value: f64) -> bool {
        self.record.take_usual(self.ring, self.states.zscore(), value)
    }

    /// [`StreamRecord::take_usual_run`] of the stream.
    #[inline(always)]
    pub fn take_usual_run(&mut self, values: impl Iterator<Item = f64>) -> usize {
        self.record.take_usual_run(self.ring, self.states.zscore(), values)
    }
}

/// Bytes of one stream: its record, its ring and the states of these detectors. `is_shared`: replicas share their
/// windows, so that it may have a copy of its own values.
pub fn stream_bytes(window: usize, detectors: &DetectorSettings, is_shared: bool) -> usize {
    let record = size_of::<StreamRecord>() + window * size_of::<f64>();
    let states = detectors.kinds.iter().map(|kind| kind.state_bytes()).sum::<usize>();
    record * (1 + usize::from(is_shared)) + states
}

impl Arena {
    /// Streams with windows of `window` values, judged by these detectors.
    pub fn new(window: usize, detectors: DetectorSettings) -> Self {
        assert!((1..=WINDOW_MAX).contains(&window), "config checks --window");
        let streams = CHUNK_RING_BYTES / (window * size_of::<f64>());
        let chunk_bits = streams.max(1).ilog2();
        Self {
            window,
            chunk_bits,
            chunk_mask: (1 << chunk_bits) - 1,
            chunks: Vec::new(),
            taken: 0,
            free: Vec::new(),
            own_copies: 0,
            is_own_copy: Vec::new(),
            states: DetectorStates::new(detectors),
            watches: None,
            interval_us: u64::MAX,
        }
    }

    /// The same, whose streams are judged for incidents.
    pub fn watched(self, watches: Watches) -> Self {
        assert!(self.chunks.is_empty(), "before the first stream");
        Self { interval_us: watches.interval_us(), watches: Some(watches), ..self }
    }

    /// The detectors' states of all streams.
    #[inline]
    pub fn states(&self) -> &DetectorStates {
        &self.states
    }

    /// Values in a window.
    pub fn window(&self) -> usize {
        self.window
    }

    /// How many streams are in use, without copies.
    pub fn in_use(&self) -> usize {
        self.taken as usize - self.free.len() - self.own_copies
    }

    /// Indices below it have been in use.
    pub fn places(&self) -> usize {
        self.taken as usize
    }

    /// Those of them that are not in use.
    pub fn free_places(&self) -> impl Iterator<Item = StreamIndex> {
        self.free.iter().copied()
    }

    /// How many streams are in use, with copies.
    #[cfg(test)]
    pub fn places_in_use(&self) -> usize {
        self.in_use() + self.own_copies
    }

    /// Opens an empty stream.
    pub fn open(&mut self) -> StreamIndex {
        let place = self.take();
        self.get_mut(place).0.state = self.states.take();
        place
    }

    /// Takes an empty record, without detector states.
    fn take(&mut self) -> StreamIndex {
        if let Some(place) = self.free.pop() {
            *self.get_mut(place).0 = StreamRecord::default();
            return place;
        }
        let place = StreamIndex(self.taken);
        if self.split(place).0 == self.chunks.len() {
            let streams = 1 << self.chunk_bits;
            self.chunks.push(ArenaChunk {
                streams: vec![StreamRecord::default(); streams].into(),
                // Zeroed by the system, page by page as it is used.
                rings: vec![0.0; streams * self.window].into(),
                folds: match self.watches {
                    Some(_) => vec![Fold::default(); streams].into(),
                    None => Box::default(),
                },
            });
        }
        self.taken += 1;
        place
    }

    /// Closes a stream; its memory will be used again. Returns its anomaly if that has not ended.
    pub fn give_back(&mut self, place: StreamIndex) -> Option<OpenAnomaly> {
        self.give_back_own_copy(place);
        self.free.push(place);
        let (stream, _) = self.get_mut(place);
        let (memory, open) = (stream.state.take(), stream.open.take());
        if let Some(memory) = memory {
            self.states.give_back(memory);
        }
        let (chunk, within) = self.split(place);
        if let Some(watches) = &mut self.watches {
            watches.give_back(&mut self.chunks[chunk].folds[within]);
        }
        open
    }

    /// A stream and its ring.
    #[inline]
    pub fn get(&self, place: StreamIndex) -> (&StreamRecord, &[f64]) {
        let (chunk, within) = self.split(place);
        let ArenaChunk { streams, rings, .. } = &self.chunks[chunk];
        (&streams[within], &rings[within * self.window..][..self.window])
    }

    /// A stream and its ring, mutable.
    #[inline]
    pub fn get_mut(&mut self, place: StreamIndex) -> (&mut StreamRecord, &mut [f64]) {
        let (chunk, within) = self.split(place);
        let ArenaChunk { streams, rings, .. } = &mut self.chunks[chunk];
        (&mut streams[within], &mut rings[within * self.window..][..self.window])
    }

    /// The same, with all that judging a value needs.
    #[inline]
    pub fn get_to_judge(&mut self, place: StreamIndex) -> StreamToJudge<'_> {
        let (chunk, within) = self.split(place);
        let ArenaChunk { streams, rings, folds } = &mut self.chunks[chunk];
        StreamToJudge {
            record: &mut streams[within],
            ring: &mut rings[within * self.window..][..self.window],
            fold: folds.get_mut(within),
            interval_us: self.interval_us,
            states: &mut self.states,
        }
    }

    /// Prefetches a stream without its ring.
    #[inline]
    pub fn prefetch(&self, place: StreamIndex) {
        let (chunk, within) = self.split(place);
        let ArenaChunk { streams, folds, .. } = &self.chunks[chunk];
        prefetch(&streams[within]);
        if let Some(fold) = folds.get(within) {
            prefetch(fold);
        }
    }

    /// Prefetches the place of the next value of a stream that was prefetched, and its detector states.
    #[inline]
    pub fn prefetch_ring(&self, place: StreamIndex) {
        let (stream, ring) = self.get(place);
        prefetch(&ring[stream.window.next_place()]);
        if let Some(state) = stream.state {
            self.states.prefetch(state);
        }
    }

    /// Counts each stream anew, from its last value, which is no anomaly.
    pub fn count_anew(&mut self) {
        for place in 0..self.taken {
            let (stream, _) = self.get_mut(StreamIndex(place));
            stream.own = JudgedCounts { total: stream.own.total.min(1), anomalies: 0 };
            stream.open = None;
        }
    }

    /// What is kept of streams for incidents. None without them.
    pub fn watches(&self) -> Option<&Watches> {
        self.watches.as_ref()
    }

    /// Judges a value that the fold of its stream refused.
    pub fn judge_folded(
        &mut self,
        place: StreamIndex,
        arrived_us: i64,
        value: f64,
        found: impl FnMut(Finding),
    ) {
        let (chunk, within) = self.split(place);
        if let Some(watches) = &mut self.watches {
            watches.take(&mut self.chunks[chunk].folds[within], arrived_us, value, found);
        }
    }

    /// Folded values that a stream has had. None where there is no room for it.
    pub fn learned(&self, place: StreamIndex) -> Option<u32> {
        Some(self.watch(place)?.learned())
    }

    /// The deviation of a stream that has not ended.
    pub fn deviation(&self, place: StreamIndex) -> Option<Deviation> {
        self.watch(place)?.deviation()
    }

    /// When the deviation of a stream began. None if it does not deviate.
    pub fn deviates_since(&self, place: StreamIndex) -> Option<i64> {
        self.watch(place)?.deviates_since()
    }

    fn watch(&self, place: StreamIndex) -> Option<&Watch> {
        let (chunk, within) = self.split(place);
        let fold = self.chunks.get(chunk)?.folds.get(within)?;
        Some(self.watches.as_ref()?.get(fold.watch()?))
    }

    /// Ends the deviation of a stream without a value since `since_us`. True if it did.
    pub fn end_if_unheard(&mut self, place: StreamIndex, since_us: i64) -> bool {
        let is_unheard = self.watch(place).is_some_and(|watch| watch.last_us() < since_us);
        let (chunk, within) = self.split(place);
        if is_unheard
            && let Some(watches) = &mut self.watches
            && let Some(index) = self.chunks[chunk].folds[within].watch()
        {
            watches.get_mut(index).end();
        }
        is_unheard
    }

    #[inline]
    fn split(&self, place: StreamIndex) -> (usize, usize) {
        let place = place.0 as usize;
        (place >> self.chunk_bits, place & self.chunk_mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_do_not_touch_each_other_and_do_not_move() {
        for window in [1, 50, WINDOW_MAX] {
            let mut arena = Arena::new(window, DetectorSettings::default());
            let places: Vec<_> = (0..60).map(|_| arena.open()).collect();
            let first = arena.get(places[0]).1.as_ptr();
            for (i, &place) in places.iter().enumerate() {
                let (stream, ring) = arena.get_mut(place);
                assert_eq!(ring.len(), window);
                for _ in 0..=window {
                    stream.window.push(ring, i as f64);
                }
            }
            for (i, &place) in places.iter().enumerate() {
                let (stream, ring) = arena.get(place);
                assert!(ring.iter().all(|&v| v == i as f64));
                assert_eq!(stream.window.moments().mean, i as f64);
            }
            assert_eq!(arena.get(places[0]).1.as_ptr(), first);
        }
    }

    #[test]
    fn a_shared_stream_is_counted_once_and_gives_both_back() {
        let mut arena = Arena::new(4, DetectorSettings::default());
        let (shared, foreign) = (arena.open(), arena.open());
        let (stream, ring) = arena.get_mut(shared);
        stream.window.push(ring, 1.0);
        stream.verdict = Verdict { score: 3.0, ..Verdict::default() }.into();
        arena.share(shared, &[1.0]);
        arena.share(foreign, &[]);
        assert!(arena.own(foreign).is_none());
        for place in [shared, foreign] {
            let (stream, ring) = arena.get_mut(place);
            stream.window.refill(ring, &[8.0, 9.0]);
            arena.share(place, &[]);
        }
        let own = |arena: &Arena, place| {
            let (stream, ring) = arena.own(place).expect("there are values");
            (stream.window.values(ring).collect::<Vec<_>>(), stream.verdict.verdict().score)
        };
        assert_eq!(own(&arena, shared), (vec![1.0], 3.0));
        let verdict = Verdict { score: 7.0, ..Verdict::default() };
        arena.enter_own(shared, 2.0, verdict);
        arena.enter_own(foreign, 2.0, verdict);
        assert_eq!(own(&arena, shared), (vec![1.0, 2.0], 7.0));
        assert_eq!(own(&arena, foreign), (vec![2.0], 7.0));
        assert_eq!((arena.in_use(), arena.taken), (2, 4));
        arena.unshare(shared, &[1.0, 2.0]);
        arena.give_back(foreign);
        assert_eq!((arena.in_use(), arena.free.len()), (1, 3));
        assert_eq!(arena.get(shared).0.ring_source, RingSource::Own);
    }

    #[test]
    fn a_place_free_is_taken_again_empty() {
        let mut arena = Arena::new(50, DetectorSettings::default());
        let (a, b) = (arena.open(), arena.open());
        let (stream, ring) = arena.get_mut(a);
        stream.window.push(ring, 5.0);
        stream.own.total = 1;
        arena.give_back(a);
        assert_eq!(arena.in_use(), 1);
        let again = arena.open();
        assert_eq!(again, a);
        assert_ne!(again, b);
        let (stream, ring) = arena.get(again);
        assert_eq!((stream.own.total, stream.window.last(ring)), (0, None));
    }
}
