//! The store queue: judged samples that wait for Redis, coalesced and bounded.
//!
//! A [`StoreQueue`] holds [`Segment`]s, oldest first. The newest takes the samples that arrive; the oldest is
//! flushed whole, and sent again until all its commands are answered. Behind sentinels it is then kept for a while:
//! if another Redis becomes the master, it is written again.
//!
//! Past the bound, the oldest segment that is not in flight is dropped and counted. Pure: no I/O, no clock.

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::keys;
pub use super::segment::{ArrivalSpan, Refusals, Segment, SegmentOutcome};
use super::segment::{ChunkRows, SampleKeys, SegmentOptions};
use crate::judged_queue::{ByteBudget, JudgedChunk};
use sigmad_sample::{DeviceId, MetricId};

/// A segment past this part of the bound is full and takes no more samples, so that an overflow drops a
/// small part of the queue.
const SEGMENTS_IN_BOUND: usize = 16;
/// Written segments may take this part of the bound; past it the oldest is released before its master is confirmed.
const WRITTEN_PART: usize = 2;

/// Samples that wait or are in flight.
#[derive(Debug)]
pub struct StoreQueue {
    budget: Arc<ByteBudget>,
    /// Values of a stream that a segment keeps.
    window_values: u32,
    keeps_history: bool,
    sample_keys: SampleKeys,
    hasher: RandomState,
    segments: VecDeque<Segment>,
    /// True while the oldest segment is in flight.
    is_flushing: bool,
    samples: u64,
    /// Segments that are written and whose master is not confirmed, oldest first.
    written: VecDeque<WrittenSegment>,
    /// Samples that were released before their master was confirmed.
    unconfirmed: u64,
    /// What segments add samples by: the rows of a chunk, and four bytes for each device. Not counted in
    /// [`StoreQueue::bytes`].
    rows: ChunkRows,
    /// One empty segment, kept for its memory.
    spare: Option<Segment>,
}

/// A segment, and when Redis had answered all its commands.
#[derive(Debug)]
struct WrittenSegment {
    segment: Segment,
    at_ns: u64,
}

impl StoreQueue {
    /// Bounded by `budget`. `window`: values in a window.
    pub fn new(budget: Arc<ByteBudget>, window: usize, keeps_history: bool) -> Self {
        Self {
            budget,
            window_values: keys::window_values(window),
            keeps_history,
            sample_keys: SampleKeys::default(),
            hasher: RandomState::default(),
            segments: VecDeque::new(),
            is_flushing: false,
            samples: 0,
            written: VecDeque::new(),
            unconfirmed: 0,
            rows: ChunkRows::default(),
            spare: None,
        }
    }

    /// The same, whose samples have these keys.
    pub fn with_sample_keys(self, sample_keys: SampleKeys) -> Self {
        Self { sample_keys, ..self }
    }

    /// Takes the samples of a chunk. `name` returns the name of a device, or None once it was evicted: then
    /// its samples count for the fleet alone. `metric_name` does the same for metrics, whose values are then
    /// left out.
    ///
    /// Returns how many samples were dropped to stay within the bound.
    pub fn take(
        &mut self,
        chunk: &JudgedChunk,
        name: impl Fn(DeviceId) -> Option<Arc<str>>,
        metric_name: impl Fn(MetricId) -> Option<Arc<str>>,
    ) -> u64 {
        if chunk.is_empty() {
            return 0;
        }
        if !self.is_newest_open() {
            let mut segment = self.spare.take().unwrap_or_else(Segment::new);
            segment.sample_keys = self.sample_keys;
            self.segments.push_back(segment);
        }
        let Self { window_values, keeps_history, ref hasher, .. } = *self;
        let options = SegmentOptions { window_values, keeps_history, hasher };
        let segment = self.segments.back_mut().expect("one is open");
        segment.add(chunk, &mut self.rows, name, metric_name, options);
        self.samples += chunk.counted() as u64;
        let dropped = self.drop_past_bound();
        self.update_budget();
        dropped
    }

    /// The oldest segment, which is in flight until [`StoreQueue::done`]. Returns the same segment each time until
    /// then; None when the queue is empty.
    pub fn begin(&mut self) -> Option<&Segment> {
        self.is_flushing = !self.segments.is_empty();
        self.segments.front()
    }

    /// Sets what is added to the times of the segment in flight, unless it is set. `base_us` is called with the
    /// times of the first and the last sample of each shard.
    pub fn set_base(&mut self, base_us: impl FnOnce(&[Option<ArrivalSpan>]) -> i64) {
        if self.is_flushing
            && let Some(segment) = self.segments.front_mut()
            && segment.base_us.is_none()
        {
            segment.base_us = Some(base_us(segment.spans()));
        }
    }

    /// Sets how many values of a stream the next samples keep: those of the largest `--window` in use.
    pub fn set_window(&mut self, window: usize) {
        self.window_values = keys::window_values(window);
    }

    /// The segment that [`StoreQueue::begin`] returned.
    pub fn in_flight(&self) -> Option<&Segment> {
        if self.is_flushing { self.segments.front() } else { None }
    }

    /// Removes the segment in flight: all its commands are answered, and `refusals` failed for good.
    ///
    /// # Panics
    /// When no segment is in flight.
    pub fn done(&mut self, refusals: Refusals) -> SegmentOutcome {
        let (segment, outcome) = self.finish(refusals);
        self.recycle(segment);
        self.update_budget();
        outcome
    }

    /// As [`StoreQueue::done`], but keeps the segment until [`StoreQueue::confirm`].
    ///
    /// # Panics
    /// When no segment is in flight.
    pub fn done_unconfirmed(&mut self, refusals: Refusals, at_ns: u64) -> SegmentOutcome {
        let (segment, outcome) = self.finish(refusals);
        self.written.push_back(WrittenSegment { segment, at_ns });
        while self.written_bytes() > self.budget.bytes_max() / WRITTEN_PART {
            self.release_oldest();
        }
        self.update_budget();
        outcome
    }

    fn finish(&mut self, refusals: Refusals) -> (Segment, SegmentOutcome) {
        assert!(self.is_flushing, "done() comes after begin()");
        self.is_flushing = false;
        let segment = self.segments.pop_front().expect("one is in flight");
        if segment.is_counted {
            return (segment, SegmentOutcome::default());
        }
        self.samples -= segment.samples();
        let outcome = segment.outcome(&refusals, self.keeps_history);
        (segment, outcome)
    }

    fn recycle(&mut self, mut segment: Segment) {
        segment.clear();
        self.spare = Some(segment);
    }

    /// The master has all segments that were written before that time.
    pub fn confirm(&mut self, before_ns: u64) {
        while self.written.front().is_some_and(|written| written.at_ns < before_ns) {
            let written = self.written.pop_front().expect("it is there");
            self.recycle(written.segment);
        }
        self.update_budget();
    }

    /// Another Redis is the master: what was written to the last one is written again, in the same order.
    /// Returns how many samples. They have their outcome already.
    pub fn write_again(&mut self) -> u64 {
        self.is_flushing = false;
        let mut samples = 0;
        while let Some(WrittenSegment { mut segment, .. }) = self.written.pop_back() {
            samples += segment.samples();
            segment.is_counted = true;
            self.segments.push_front(segment);
        }
        samples
    }

    /// Samples released before their master was confirmed, since the last call.
    pub fn take_unconfirmed(&mut self) -> u64 {
        std::mem::take(&mut self.unconfirmed)
    }

    /// True when written segments wait for their master to be confirmed.
    pub fn is_unconfirmed(&self) -> bool {
        !self.written.is_empty()
    }

    fn written_bytes(&self) -> usize {
        self.written.iter().map(|written| written.segment.bytes()).sum()
    }

    fn release_oldest(&mut self) -> bool {
        let Some(written) = self.written.pop_front() else { return false };
        self.unconfirmed += written.segment.samples();
        self.recycle(written.segment);
        true
    }

    /// Releases what was written, confirmed or not.
    pub fn release_all(&mut self) {
        while self.release_oldest() {}
    }

    /// Drops all samples; returns how many had no outcome.
    pub fn drop_all(&mut self) -> u64 {
        self.is_flushing = false;
        self.release_all();
        for segment in self.segments.drain(..).filter(|segment| segment.is_counted) {
            self.unconfirmed += segment.samples();
        }
        self.update_budget();
        std::mem::take(&mut self.samples)
    }

    /// True when no segment waits or is in flight.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// True when a full segment waits to be flushed, or one that is written again.
    pub fn has_full_segment(&self) -> bool {
        let mut waiting = self.segments.iter().skip(usize::from(self.is_flushing));
        waiting.any(|segment| segment.is_counted || self.is_full(segment))
    }

    /// When the oldest sample of a shard in the queue arrived, microseconds since the start of the process.
    pub fn since_us(&self, shard: usize) -> Option<i64> {
        let mut spans = self.segments.iter().filter_map(|of| *of.spans().get(shard)?);
        spans.next().map(|oldest| oldest.since_us)
    }

    /// Number of samples without an outcome, in flight or waiting.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// The bytes they take.
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(Segment::bytes).sum::<usize>() + self.written_bytes()
    }

    fn is_full(&self, segment: &Segment) -> bool {
        segment.bytes() > self.budget.bytes_max() / SEGMENTS_IN_BOUND
    }

    fn is_newest_open(&self) -> bool {
        let is_newest_flushed = self.is_flushing && self.segments.len() == 1;
        let is_open = |newest: &Segment| !newest.is_counted && !self.is_full(newest);
        !is_newest_flushed && self.segments.back().is_some_and(is_open)
    }

    fn drop_past_bound(&mut self) -> u64 {
        let mut dropped = 0;
        while self.bytes() > self.budget.store_bytes_max() {
            if self.release_oldest() {
                continue;
            }
            let Some(oldest) = self.segments.remove(usize::from(self.is_flushing)) else { break };
            if oldest.is_counted {
                self.unconfirmed += oldest.samples();
            } else {
                dropped += oldest.samples();
            }
        }
        self.samples -= dropped;
        dropped
    }

    fn update_budget(&self) {
        self.budget.set_store_bytes(self.bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::judged_queue::{ChunkHints, JudgedCounts};
    use crate::store::segment::FLEET;
    use sigmad_sample::{Reading, Sample};

    fn queue(bytes_max: usize, keeps_history: bool) -> (StoreQueue, Arc<ByteBudget>) {
        let held = Arc::new(ByteBudget::new(bytes_max));
        (StoreQueue::new(held.clone(), 3, keeps_history), held)
    }

    /// A chunk of samples whose times are serial numbers.
    fn chunk(from: u64, samples: &[(u32, i64, u16)]) -> JudgedChunk {
        let (mut chunk, mut hints) = (JudgedChunk::default(), ChunkHints::default());
        for (serial, &(device, timestamp_us, width)) in (from..).zip(samples) {
            chunk.begin_batch(serial as i64, serial);
            let device = (device > 0).then_some(DeviceId { index: device, generation: 0 });
            let reading =
                |metric| Reading { metric: MetricId::new(metric, 0), value: serial as f64 };
            let readings: Vec<_> = (0..width).map(reading).collect();
            let sample = Sample { timestamp_us, device, readings: u32::from(width) };
            chunk.add(&[sample], &readings, &mut hints);
        }
        chunk.set_counts(&JudgedCounts::default(), &mut hints);
        chunk
    }

    fn name(device: DeviceId) -> Option<Arc<str>> {
        // Every seventh has been evicted.
        (device.index % 7 != 6).then(|| format!("device-{}", device.index).into())
    }

    fn metric_name(metric: MetricId) -> Option<Arc<str>> {
        Some(format!("m{}", metric.slot()).into())
    }

    #[derive(Clone, Debug)]
    enum QueueStep {
        Take(Vec<(u32, i64, u16)>),
        Begin,
        Done,
    }

    fn step() -> impl Strategy<Value = QueueStep> {
        let sample = (0..40_u32, 0..60_i64, 1..6_u16);
        prop_oneof![
            6 => proptest::collection::vec(sample, 1..60).prop_map(QueueStep::Take),
            1 => Just(QueueStep::Begin),
            1 => Just(QueueStep::Done),
        ]
    }

    proptest! {
        #[test]
        fn the_oldest_are_dropped_past_the_bound_and_all_are_counted(
            steps in proptest::collection::vec(step(), 1..80),
            bytes_max in 1_000..200_000_usize,
            keeps_history in any::<bool>(),
        ) {
            let (mut queue, budget) = queue(bytes_max, keeps_history);
            let (mut taken, mut finished, mut dropped) = (0, 0, 0);
            for step in steps {
                match step {
                    QueueStep::Take(samples) => {
                        dropped += queue.take(&chunk(taken, &samples), name, metric_name);
                        taken += samples.len() as u64;
                    }
                    QueueStep::Begin => {
                        let samples = queue.begin().map(Segment::samples);
                        prop_assert_eq!(queue.begin().map(Segment::samples), samples);
                        prop_assert!(samples.is_some() || taken == finished + dropped);
                    }
                    QueueStep::Done => if let Some(flight) = queue.in_flight() {
                        let samples = flight.samples();
                        let outcome = queue.done(Refusals::default());
                        prop_assert_eq!(outcome.stored + outcome.coalesced + outcome.refused, samples);
                        prop_assert!(outcome.refused == 0 && outcome.stored > 0);
                        prop_assert!(!keeps_history || outcome.coalesced == 0);
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
                // The samples that wait are the newest ones, without a gap.
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
    fn a_segment_in_flight_takes_no_more_samples() {
        let (mut queue, _) = queue(1 << 20, false);
        assert!(queue.begin().is_none() && queue.in_flight().is_none());
        assert_eq!(queue.take(&JudgedChunk::default(), name, metric_name), 0);
        assert!(queue.begin().is_none());
        queue.take(&chunk(0, &[(1, 5, 1), (1, 5, 1)]), name, metric_name);
        assert_eq!(queue.begin().expect("one").samples(), 2);
        queue.take(&chunk(2, &[(1, 5, 1)]), name, metric_name);
        assert_eq!((queue.begin().expect("one").samples(), queue.samples()), (2, 3));
        let refusals = Refusals { keys: 1, ..Refusals::default() };
        assert_eq!(queue.done(refusals), SegmentOutcome { stored: 0, coalesced: 1, refused: 1 });
        assert_eq!(queue.begin().expect("one").samples(), 1);
        assert_eq!(
            queue.done(Refusals::default()),
            SegmentOutcome { stored: 1, ..SegmentOutcome::default() }
        );
        assert!(queue.begin().is_none());
    }

    #[test]
    fn coalesced_samples_take_no_memory() {
        let (mut queue, budget) = queue(1 << 20, false);
        let samples: Vec<_> = (0..200).map(|at| (1 + at % 5, i64::from(at % 2), 2)).collect();
        queue.take(&chunk(0, &samples), name, metric_name);
        let bytes = queue.bytes();
        for round in 1..1_000 {
            assert_eq!(queue.take(&chunk(round * 200, &samples), name, metric_name), 0);
        }
        assert_eq!((queue.bytes(), queue.samples()), (bytes, 200_000));
        assert!(bytes < budget.bytes_max() / SEGMENTS_IN_BOUND && !queue.has_full_segment());
        let segment = queue.begin().expect("one");
        for stream in &segment.streams {
            let values: Vec<_> = segment.values_of(stream).map(|value| value.value).collect();
            let newest = values[3] as u64;
            let apart = if stream.subject == FLEET { 1 } else { 5 };
            let expected: Vec<_> =
                (0..4).map(|back| (newest - (3 - back) * apart) as f64).collect();
            assert_eq!(values, expected);
        }
        let outcome = queue.done(Refusals::default());
        assert_eq!(outcome, SegmentOutcome { stored: 10, coalesced: 199_990, refused: 0 });
    }

    #[test]
    fn written_segments_are_kept_until_confirmed_and_written_again_in_order() {
        let (mut queue, budget) = queue(1 << 20, false);
        let times = |queue: &StoreQueue| -> Vec<i64> {
            queue.segments.iter().map(Segment::since_us).collect()
        };
        for serial in 0..4 {
            queue.take(&chunk(serial, &[(1, serial as i64, 1)]), name, metric_name);
            queue.begin();
            assert_eq!(queue.done_unconfirmed(Refusals::default(), serial).stored, 1);
        }
        assert!(queue.is_empty() && queue.samples() == 0 && queue.is_unconfirmed());
        queue.confirm(1);
        queue.take(&chunk(4, &[(1, 4, 1)]), name, metric_name);
        queue.begin();
        assert_eq!((queue.write_again(), queue.samples()), (3, 1));
        assert_eq!(times(&queue), [1, 2, 3, 4]);
        assert!(queue.has_full_segment() && !queue.is_unconfirmed());
        // What arrives enters none of those.
        queue.begin();
        queue.take(&chunk(5, &[(1, 5, 1)]), name, metric_name);
        for stored in [0, 0, 0, 2] {
            queue.begin();
            assert_eq!(queue.done_unconfirmed(Refusals::default(), 9).stored, stored);
        }
        queue.confirm(10);
        assert!(queue.is_empty() && !queue.is_unconfirmed() && queue.take_unconfirmed() == 0);
        assert_eq!(format!("{budget:?}"), format!("{:?}", ByteBudget::new(1 << 20)));
    }

    #[test]
    fn the_bound_releases_written_segments_first() {
        let (mut queue, budget) = queue(100_000, false);
        let mut serial = 0;
        while queue.take_unconfirmed() == 0 {
            let samples: Vec<_> = (0..50).map(|at| (1, serial as i64 + at, 1)).collect();
            assert_eq!(queue.take(&chunk(serial, &samples), name, metric_name), 0);
            serial += 50;
            queue.begin();
            queue.done_unconfirmed(Refusals::default(), serial);
            assert!(queue.bytes() <= budget.bytes_max() / WRITTEN_PART);
        }
        assert!(queue.write_again() > 0);
        assert_eq!(queue.drop_all(), 0);
        assert!(queue.take_unconfirmed() > 0 && queue.bytes() == 0);
    }

    /// The bytes of a segment with one sample.
    fn bytes_of_one() -> usize {
        let (mut queue, _) = queue(1 << 20, false);
        assert_eq!((queue.is_empty(), queue.since_us(0)), (true, None));
        queue.take(&chunk(7, &[(1, 7, 1)]), name, metric_name);
        assert_eq!((queue.is_empty(), queue.since_us(0)), (false, Some(7)));
        queue.bytes()
    }

    #[test]
    fn a_queue_may_reach_each_of_its_bounds() {
        let one = bytes_of_one();
        // A segment that reaches its part of the bound is not full.
        let (mut queue, budget) = queue(one * SEGMENTS_IN_BOUND, false);
        queue.take(&chunk(0, &[(1, 0, 1)]), name, metric_name);
        assert!(!queue.has_full_segment() && queue.bytes() == one);
        // Written segments that reach their part are kept; one more releases the oldest.
        let written_max = budget.bytes_max() / WRITTEN_PART / one;
        queue.begin();
        queue.done_unconfirmed(Refusals::default(), 0);
        for serial in 1..=written_max as u64 {
            assert_eq!(queue.take_unconfirmed(), 0, "before {serial}");
            queue.take(&chunk(serial, &[(1, serial as i64, 1)]), name, metric_name);
            queue.begin();
            queue.done_unconfirmed(Refusals::default(), serial);
        }
        assert_eq!((queue.take_unconfirmed(), queue.bytes()), (1, written_max * one));
        // A queue that reaches the bound of the store drops nothing.
        let bound = (one..10 * one).find(|&max| ByteBudget::new(max).store_bytes_max() == one);
        let (mut queue, _) = super::tests::queue(bound.expect("a bound of one"), false);
        assert_eq!(queue.take(&chunk(0, &[(1, 0, 1)]), name, metric_name), 0);
        assert_eq!((queue.bytes(), queue.samples()), (one, 1));
    }

    #[test]
    fn what_is_released_or_dropped_unconfirmed_counts_as_such() {
        let (mut queue, budget) = queue(1 << 20, false);
        let write = |queue: &mut StoreQueue| {
            for serial in 0..3 {
                queue.take(&chunk(serial, &[(1, serial as i64, 1)]), name, metric_name);
                assert_ne!(format!("{budget:?}"), format!("{:?}", ByteBudget::new(1 << 20)));
                queue.begin();
                queue.done_unconfirmed(Refusals::default(), serial);
            }
        };
        write(&mut queue);
        queue.release_all();
        assert_eq!(
            (queue.take_unconfirmed(), queue.is_unconfirmed(), queue.bytes()),
            (3, false, 0)
        );
        write(&mut queue);
        assert_eq!((queue.drop_all(), queue.take_unconfirmed(), queue.bytes()), (0, 3, 0));
        assert!(!queue.is_unconfirmed());
        // Past the bound, segments that are written again go first, and are no loss of the queue.
        write(&mut queue);
        assert_eq!(queue.write_again(), 3);
        let (mut taken, mut again, mut dropped) = (3, 0, 0);
        while again < 3 {
            assert_eq!(dropped, 0, "they go first");
            let samples: Vec<_> = (0..50).map(|at| (1, taken as i64 + at, 1)).collect();
            dropped += queue.take(&chunk(taken, &samples), name, metric_name);
            taken += 50;
            again += queue.take_unconfirmed();
        }
        assert_eq!((again, queue.samples()), (3, taken - 3 - dropped));
    }

    #[test]
    fn the_memory_of_a_segment_is_used_again() {
        let (mut queue, _) = queue(1 << 20, false);
        queue.take(&chunk(0, &[(1, 0, 1)]), name, metric_name);
        assert!(queue.spare.is_none());
        queue.begin();
        queue.done(Refusals::default());
        assert!(queue.spare.is_some());
        queue.take(&chunk(1, &[(1, 1, 1)]), name, metric_name);
        assert!(queue.spare.is_none());
    }

    #[test]
    fn a_full_segment_takes_no_more_samples() {
        let (mut queue, _) = queue(1 << 20, false);
        let mut taken = 0;
        while !queue.has_full_segment() {
            let samples: Vec<_> = (0..50).map(|at| (1, taken as i64 + at, 1)).collect();
            assert_eq!(queue.take(&chunk(taken, &samples), name, metric_name), 0);
            taken += 50;
        }
        let bytes = queue.bytes();
        assert!((65_536..140_000).contains(&bytes), "{bytes}");
        queue.take(&chunk(taken, &[(1, 0, 1)]), name, metric_name);
        assert_eq!(queue.begin().expect("one").samples(), taken);
        assert!(!queue.has_full_segment());
    }

    /// What is added to the times of a segment is set once, so that it is sent again with the same bytes.
    #[test]
    fn the_base_of_a_segment_in_flight_is_set_once() {
        let (mut queue, _) = queue(1 << 20, true);
        queue.set_base(|_| panic!("nothing is in flight"));
        queue.take(&chunk(5, &[(1, 0, 1), (2, 0, 1), (1, 0, 1)]), name, metric_name);
        queue.set_base(|_| panic!("nothing is in flight"));
        assert!(queue.begin().is_some());
        queue.set_base(|spans| {
            assert_eq!(spans, [Some(ArrivalSpan { since_us: 5, until_us: 7 })]);
            1_000
        });
        queue.set_base(|_| panic!("it is set"));
        assert_eq!(queue.in_flight().map(|segment| segment.redis_us(6)), Some(1_006));
    }
}
