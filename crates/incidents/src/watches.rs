//! What is kept of all streams that are judged for incidents, as far as there is room.
//!
//! A stream takes its room with its second interval, so that a stream of one value takes none, and gives it back when
//! it closes. Streams that found none look again once an interval, so that room that was given back is used.

use std::num::NonZeroU32;

use sigmad_detectors::pager::Pager;
use sigmad_detectors::saved::Saved;
use sigmad_detectors::{Detector as _, prefetch};

use crate::fold::{Fold, Folded, WatchIndex};
use crate::watch::{Finding, Watch, WatchSettings};

/// log₂ of the streams in a chunk: some 900 kB. Chunks never move.
const CHUNK_BITS: usize = 8;

/// Bytes that are kept of one stream.
pub const WATCH_BYTES: usize = size_of::<Watch>();
/// docs/DETECTION.md promises 4 KiB.
const _: () = assert!(WATCH_BYTES <= 4_096);

/// The version of what [`Watches::write`] writes: raised when fields or their meaning change. `pager` has its own.
const STATE_VERSION: u16 = 1;

/// What became of a stream that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// It goes on.
    GoesOn,
    /// It begins anew: another version, another length of intervals, or no room.
    BeginsAnew,
}

/// The chunk of an index, and the place in it.
fn split(index: WatchIndex) -> (usize, usize) {
    let index = index.0.get() as usize - 1;
    (index >> CHUNK_BITS, index & ((1 << CHUNK_BITS) - 1))
}

/// What is kept of all streams.
#[derive(Debug)]
pub struct Watches {
    settings: WatchSettings,
    chunks: Vec<Vec<Watch>>,
    /// Indices up to it have been taken at least once.
    taken: u32,
    /// The most that may be in use.
    most: u32,
    free: Vec<WatchIndex>,
    /// Those in use that have a past.
    learned: usize,
}

impl Watches {
    /// Without streams, and with room for `most` of them.
    pub fn new(settings: WatchSettings, most: usize) -> Self {
        let most = u32::try_from(most).unwrap_or(u32::MAX - 1);
        Self { settings, chunks: Vec::new(), taken: 0, most, free: Vec::new(), learned: 0 }
    }

    /// The length of an interval.
    #[inline]
    pub fn interval_us(&self) -> u64 {
        self.settings.interval_us
    }

    /// Streams that have room here.
    pub fn in_use(&self) -> usize {
        self.taken as usize - self.free.len()
    }

    /// Those that are judged; the others learn.
    pub fn learned(&self) -> usize {
        self.learned
    }

    /// What is kept of one stream.
    pub fn get(&self, index: WatchIndex) -> &Watch {
        let (chunk, within) = split(index);
        &self.chunks[chunk][within]
    }

    /// The same, mutable.
    pub fn get_mut(&mut self, index: WatchIndex) -> &mut Watch {
        let (chunk, within) = split(index);
        &mut self.chunks[chunk][within]
    }

    /// Takes a value that [`Fold::add`] refused, and passes on what it changes.
    #[inline(never)] // once an interval
    pub fn take(
        &mut self,
        fold: &mut Fold,
        arrived_us: i64,
        value: f64,
        mut found: impl FnMut(Finding),
    ) {
        let settings = self.settings;
        if fold.includes(settings.interval_us, arrived_us) {
            return self.enter(fold, arrived_us, value, found);
        }
        let index = if fold.is_new() { None } else { fold.watch().or_else(|| self.open(fold)) };
        let Some(index) = index else {
            fold.begin(arrived_us, false);
            fold.enter(value);
            return;
        };
        self.prefetch(index);
        let watch = self.get_mut(index);
        let (had_learned, is_slow) = (watch.has_learned(), fold.was_slow());
        if let Some(folded) = fold.folded() {
            watch.judge(&settings, &folded).into_iter().for_each(&mut found);
        }
        if is_slow {
            let folded = Folded::of_one(arrived_us, value);
            watch.judge(&settings, &folded).into_iter().for_each(&mut found);
        }
        let range = if watch.deviates() {
            [f64::NEG_INFINITY, f64::INFINITY]
        } else {
            watch.range(&settings)
        };
        let learns = !had_learned && watch.has_learned();
        self.learned += usize::from(learns);
        fold.begin(arrived_us, is_slow);
        fold.set_range(range);
        if !is_slow {
            self.enter(fold, arrived_us, value, found);
        }
    }

    /// Prefetches a stream that was last judged an interval ago, and the one after it: mostly that is the device's next
    /// stream, whose interval ends with the same sample.
    #[inline]
    fn prefetch(&self, index: WatchIndex) {
        prefetch(self.get(index));
        let next = WatchIndex(index.0.saturating_add(1));
        if next.0.get() <= self.taken {
            prefetch(self.get(next));
        }
    }

    /// Adds a value to the interval, and judges it at once if it is out of range.
    fn enter(&mut self, fold: &mut Fold, arrived_us: i64, value: f64, found: impl FnMut(Finding)) {
        fold.enter(value);
        if fold.is_outside(value)
            && let Some(index) = fold.watch()
        {
            let settings = self.settings;
            let finding = self.get_mut(index).judge_extreme(&settings, arrived_us, value);
            finding.into_iter().for_each(found);
            fold.set_range([f64::NEG_INFINITY, f64::INFINITY]);
        }
    }

    /// Appends a stream, so that it goes on after a restart.
    pub fn write(&self, fold: &Fold, to: &mut Vec<u8>) {
        STATE_VERSION.write(to);
        Pager::STATE_VERSION.write(to);
        self.settings.interval_us.write(to);
        fold.write(to);
        fold.watch().is_some().write(to);
        if let Some(index) = fold.watch() {
            self.get(index).write(to);
        }
    }

    /// Gives a new stream what was written. None if the bytes are of no stream.
    pub fn read(&mut self, fold: &mut Fold, mut from: &[u8]) -> Option<Restored> {
        let versions = (u16::read(&mut from)?, u16::read(&mut from)?);
        let interval_us = u64::read(&mut from)?;
        let is_ours = versions == (STATE_VERSION, Pager::STATE_VERSION);
        if !is_ours || interval_us != self.settings.interval_us {
            return Some(Restored::BeginsAnew);
        }
        let kept = Fold::read(&mut from)?;
        let watch = if bool::read(&mut from)? { Some(Watch::read(&mut from)?) } else { None };
        if !from.is_empty() || fold.watch().is_some() {
            return None;
        }
        let Some(watch) = watch else {
            *fold = kept;
            return Some(Restored::GoesOn);
        };
        let Some(index) = self.open(fold) else { return Some(Restored::BeginsAnew) };
        self.learned += usize::from(watch.has_learned());
        *self.get_mut(index) = watch;
        *fold = kept;
        fold.set_watch(index);
        Some(Restored::GoesOn)
    }

    /// Takes room for a new stream. None when there is none.
    #[cold]
    fn open(&mut self, fold: &mut Fold) -> Option<WatchIndex> {
        let index = match self.free.pop() {
            Some(index) => {
                *self.get_mut(index) = Watch::default();
                index
            }
            None if self.taken < self.most => {
                self.taken += 1;
                let index = WatchIndex(NonZeroU32::new(self.taken)?);
                let (chunk, _) = split(index);
                if chunk == self.chunks.len() {
                    self.chunks.push(Vec::with_capacity(1 << CHUNK_BITS));
                }
                self.chunks[chunk].push(Watch::default());
                index
            }
            None => return None,
        };
        fold.set_watch(index);
        Some(index)
    }

    /// Gives back the room of a stream.
    pub fn give_back(&mut self, fold: &mut Fold) {
        if let Some(index) = fold.watch() {
            self.learned -= usize::from(self.get(index).has_learned());
            self.free.push(index);
        }
        *fold = Fold::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::LEARNED;

    const INTERVAL_US: i64 = 10_000_000;

    fn watches(most: usize) -> Watches {
        Watches::new(WatchSettings::new(INTERVAL_US as u64), most)
    }

    fn add(watches: &mut Watches, fold: &mut Fold, at_us: i64, value: f64) -> Vec<Finding> {
        let mut findings = Vec::new();
        if !fold.add(watches.interval_us(), at_us, value) {
            watches.take(fold, at_us, value, |found| findings.push(found));
        }
        findings
    }

    #[test]
    fn a_slow_stream_is_judged_value_by_value() {
        let (mut watches, mut fold) = (watches(1), Fold::default());
        let learned = |watches: &Watches, fold: &Fold| {
            fold.watch().map_or(0, |index| watches.get(index).learned())
        };
        let mut seen = Vec::new();
        for minute in 0..5 {
            add(&mut watches, &mut fold, minute * 60_000_000, 1.0);
            seen.push(learned(&watches, &fold));
        }
        // The first value waits for the second, which shows the cadence.
        assert_eq!(seen, [0, 2, 3, 4, 5]);
        // A value a second: the first of an interval is judged at once, the others when it ends.
        let start = 5 * 60_000_000;
        for second in 0..20 {
            add(&mut watches, &mut fold, start + second * 1_000_000, 1.0);
        }
        assert_eq!(learned(&watches, &fold), 7);
        add(&mut watches, &mut fold, start + 20_000_000, 1.0);
        assert_eq!(learned(&watches, &fold), 8);
    }

    #[test]
    fn streams_heard_first_keep_their_room_and_others_follow() {
        let mut watches = watches(1);
        let (mut first, mut second) = (Fold::default(), Fold::default());
        for i in 0..400 {
            add(&mut watches, &mut first, i * INTERVAL_US, 1.0);
            add(&mut watches, &mut second, i * INTERVAL_US, 1.0);
        }
        assert!(first.watch().is_some() && second.watch().is_none());
        assert_eq!((watches.in_use(), watches.learned()), (1, 1));
        watches.give_back(&mut first);
        assert_eq!((watches.in_use(), watches.learned()), (0, 0));
        add(&mut watches, &mut second, 400 * INTERVAL_US, 1.0);
        assert_eq!((watches.in_use(), watches.learned()), (1, 0));
    }

    #[test]
    fn a_stream_that_was_read_goes_on_as_the_one_that_was_written() {
        let (mut watches, mut fold) = (watches(9), Fold::default());
        let value = |i: i64| if i > 7_100 { 40.0 } else { (i * 617 % 1_000) as f64 / 1_000.0 };
        for i in 0..7_110 {
            add(&mut watches, &mut fold, i * INTERVAL_US / 20, value(i));
        }
        let mut bytes = Vec::new();
        watches.write(&fold, &mut bytes);
        let (mut again, mut fold_again) = (self::watches(9), Fold::default());
        assert_eq!(again.read(&mut fold_again, &bytes), Some(Restored::GoesOn));
        assert_eq!((again.in_use(), again.learned()), (1, 1));
        let index = fold_again.watch().expect("there is room");
        assert!(again.get(index).deviates() && again.get(index).deviation().is_some());
        let mut ended = 0;
        for i in 7_110..12_000 {
            let found = add(&mut watches, &mut fold, i * INTERVAL_US / 20, value(i));
            let found_again = add(&mut again, &mut fold_again, i * INTERVAL_US / 20, value(i));
            assert_eq!(found_again, found, "{i}");
            ended += found.len();
        }
        assert!(ended > 0, "the level is usual");
        for length in 0..bytes.len() {
            assert_eq!(self::watches(9).read(&mut Fold::default(), &bytes[..length]), None);
        }
    }

    #[test]
    fn a_stream_of_another_form_or_without_room_begins_anew() {
        let (mut watches, mut fold) = (watches(1), Fold::default());
        for i in 0..400 {
            add(&mut watches, &mut fold, i * INTERVAL_US, 1.0);
        }
        let mut bytes = Vec::new();
        watches.write(&fold, &mut bytes);
        let read = |watches: &mut Watches, bytes: &[u8]| {
            let (mut fold, in_use) = (Fold::default(), watches.in_use());
            assert_eq!(watches.read(&mut fold, bytes), Some(Restored::BeginsAnew));
            assert!(fold.is_new() && watches.in_use() == in_use);
        };
        read(&mut watches, &bytes);
        read(&mut Watches::new(WatchSettings::new(1_000_000), 9), &bytes);
        let mut newer = bytes;
        newer[0] += 1;
        read(&mut self::watches(9), &newer);
    }

    #[test]
    fn a_spike_among_many_values_deviates_as_it_arrives() {
        let (mut watches, mut fold) = (watches(1), Fold::default());
        let mut at_us = 0;
        for i in 0..i64::from(LEARNED) * 50 {
            at_us = i * INTERVAL_US / 20;
            let value = 10.0 + (i * 617 % 1_000) as f64 / 1_000.0;
            assert_eq!(add(&mut watches, &mut fold, at_us, value), [], "{i}");
        }
        let found = add(&mut watches, &mut fold, at_us + 1, 40.0);
        assert!(matches!(found[..], [Finding::Deviates(_)]), "{found:?}");
        assert_eq!(add(&mut watches, &mut fold, at_us + 2, 40.0), [], "once");
    }
}
