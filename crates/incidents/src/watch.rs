//! Judging the folded values of one stream, and whether it deviates now.
//!
//! A deviation begins with a score of [`BAR`]: of `pager` for the interval's mean, or of its farthest value
//! ([`Extremes`]). It ends when the stream is back, or when its new course has become usual:
//!
//! - Back: [`CALM_VALUES`] folded values in a row lie within the band that was usual when it began. A stream that was
//!   stuck must also have moved.
//! - Usual: `pager` raises one alarm for one event, then holds off for a time of its own ([`Pager::hold_s`]). When this time has
//!   passed, the past includes the new level, and what follows is judged by it. So a level that stays ends the
//!   deviation at the end of the hold, which begins anew when the deviation gets worse.

use sigmad_detectors::pager::{HOLD_VALUES, Pager};
use sigmad_detectors::saved::saved;
use sigmad_detectors::{Detector as _, novelty::COUNT_MIN};

use crate::extremes::Extremes;
use crate::fold::Folded;
use crate::usual::Usual;

/// The score from which a stream deviates: one false alarm in ten days.
pub const BAR: f32 = 1.0;
/// Folded values before a stream is judged.
pub const LEARNED: u32 = COUNT_MIN;
/// Folded values within the usual band that end a deviation: a minute of intervals of ten seconds. Fewer would end
/// and begin it again where a stream swings.
pub const CALM_VALUES: u16 = 6;
/// By how much a score must exceed the largest so far to count as worse.
const WORSE: f32 = 0.3;

/// A value that deviates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Deviation {
    /// The value.
    pub value: f64,
    /// What was expected.
    pub usual: f64,
    /// The usual band.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// −log10 of the false alarms a day.
    pub score: f64,
}

/// What a value changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Finding {
    /// The stream deviates, or is worse than before.
    Deviates(Deviation),
    /// It no longer does.
    Recovers,
}

/// A deviation that has not ended.
#[derive(Clone, Debug, Default)]
struct OpenDeviation {
    /// The largest score so far.
    score: f32,
    /// What was usual when it began.
    low: f64,
    high: f64,
    /// The band is one of single values, not of means.
    is_of_extreme: bool,
    /// The stream repeated a value as it began.
    stuck_at: Option<f64>,
    /// Folded values within the band, up to now.
    calm: u16,
    /// Folded values since it began or was last worse, and when that was.
    values: u32,
    worse_us: i64,
    began_us: i64,
}

/// What is kept of one stream. A struct without pointers.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    pager: Pager,
    extremes: Extremes,
    usual: Usual,
    /// The last folded value.
    last: f64,
    last_us: i64,
    open: Option<OpenDeviation>,
}

saved!(OpenDeviation {
    score,
    low,
    high,
    is_of_extreme,
    stuck_at,
    calm,
    values,
    worse_us,
    began_us,
});
saved!(Watch { pager, extremes, usual, last, last_us, open });

/// What all streams have in common.
#[derive(Clone, Copy, Debug)]
pub struct WatchSettings {
    /// The length of an interval.
    pub interval_us: u64,
    /// log10 of the intervals in a day.
    intervals_log10: f32,
}

impl WatchSettings {
    /// Intervals of that length.
    pub fn new(interval_us: u64) -> Self {
        const DAY_US: f32 = 86_400e6;
        Self { interval_us, intervals_log10: (DAY_US / interval_us as f32).log10() }
    }
}

impl Watch {
    /// Folded values that it has had.
    pub fn learned(&self) -> u32 {
        self.usual.count()
    }

    /// Whether the stream is judged: it has a past.
    pub fn has_learned(&self) -> bool {
        self.learned() >= LEARNED
    }

    /// Whether the stream deviates now.
    pub fn deviates(&self) -> bool {
        self.open.is_some()
    }

    /// When the deviation began. None if the stream does not deviate.
    pub fn deviates_since(&self) -> Option<i64> {
        self.open.as_ref().map(|open| open.began_us)
    }

    /// The deviation that has not ended, with the last folded value.
    pub fn deviation(&self) -> Option<Deviation> {
        let OpenDeviation { score, low, high, .. } = *self.open.as_ref()?;
        let (value, usual) = (self.last, self.usual.mean());
        Some(Deviation { value, usual, low, high, score: f64::from(score) })
    }

    /// When its last folded value began.
    pub fn last_us(&self) -> i64 {
        self.last_us
    }

    /// Ends the deviation of a stream that is no longer heard.
    pub fn end(&mut self) {
        self.open = None;
    }

    /// Judges what an interval came to, and adds it to the past.
    pub fn judge(&mut self, settings: &WatchSettings, folded: &Folded) -> Option<Finding> {
        let Folded { start_us, count, mean, .. } = *folded;
        let [low, high] = self.usual.band();
        let by_mean = self.pager.observe(start_us, mean) as f32;
        let (mut score, mut deviation) = (by_mean, [mean, low, high]);
        let was_learned = self.has_learned();
        if count > 1 {
            let extreme = self.extreme(folded);
            let distance = (extreme - self.usual.mean()).abs();
            let before = self.extremes.clone();
            let by_extreme = self.extremes.take(distance, settings.intervals_log10);
            if by_extreme > score {
                // Rarely, because a range takes two powers, which cost more than the copy.
                let range = self.range_by(&before, settings);
                (score, deviation) = (by_extreme, [extreme, range[0], range[1]]);
            }
        }
        let is_repeated = mean == self.last && was_learned;
        let usual = self.usual.mean();
        self.usual.take(mean);
        (self.last, self.last_us) = (mean, start_us);
        if !was_learned {
            return None;
        }
        let [value, low, high] = deviation;
        let is_of_extreme = score > by_mean;
        let deviation = Deviation { value, usual, low, high, score: f64::from(score) };
        let stuck_at = (is_repeated && !is_of_extreme).then_some(mean);
        if self.opens(&deviation, is_of_extreme, stuck_at, start_us) {
            return Some(Finding::Deviates(deviation));
        }
        let open = self.open.as_mut()?;
        if open.goes_on(folded, self.pager.hold_s()) {
            return None;
        }
        self.open = None;
        Some(Finding::Recovers)
    }

    /// Judges a single value outside the usual range, without adding it to the past.
    pub fn judge_extreme(
        &mut self,
        settings: &WatchSettings,
        arrived_us: i64,
        value: f64,
    ) -> Option<Finding> {
        if !self.has_learned() {
            return None;
        }
        let (usual, [low, high]) = (self.usual.mean(), self.range(settings));
        let score = self.extremes.score((value - usual).abs(), settings.intervals_log10);
        let deviation = Deviation { value, usual, low, high, score: f64::from(score) };
        let opens = self.opens(&deviation, true, None, arrived_us);
        opens.then_some(Finding::Deviates(deviation))
    }

    /// The usual range of single values, past which the score is that of the bar. Without end where there is none.
    pub fn range(&self, settings: &WatchSettings) -> [f64; 2] {
        self.range_by(&self.extremes, settings)
    }

    fn range_by(&self, extremes: &Extremes, settings: &WatchSettings) -> [f64; 2] {
        let reach =
            if self.has_learned() { extremes.reach(BAR, settings.intervals_log10) } else { None };
        match reach {
            Some(reach) => {
                let usual = self.usual.mean();
                [self.usual.above_lowest(usual - reach), usual + reach]
            }
            None => [f64::NEG_INFINITY, f64::INFINITY],
        }
    }

    /// The value of an interval that lies farther from what is usual.
    fn extreme(&self, folded: &Folded) -> f64 {
        let usual = self.usual.mean();
        if folded.max - usual >= usual - folded.min { folded.max } else { folded.min }
    }

    /// Whether a deviation begins, or gets worse.
    fn opens(
        &mut self,
        found: &Deviation,
        is_of_extreme: bool,
        stuck_at: Option<f64>,
        at_us: i64,
    ) -> bool {
        let score = found.score as f32;
        if score < BAR {
            return false;
        }
        match &mut self.open {
            Some(open) if score < open.score + WORSE => {
                open.calm = 0;
                false
            }
            Some(open) => {
                (open.score, open.calm, open.values, open.worse_us) = (score, 0, 0, at_us);
                true
            }
            None => {
                let Deviation { low, high, .. } = *found;
                self.open = Some(OpenDeviation {
                    score,
                    low,
                    high,
                    is_of_extreme,
                    stuck_at,
                    calm: 0,
                    values: 0,
                    worse_us: at_us,
                    began_us: at_us,
                });
                true
            }
        }
    }
}

impl OpenDeviation {
    /// Whether it goes on after an interval that did not make it worse. `hold_s`: that of `pager`.
    fn goes_on(&mut self, folded: &Folded, hold_s: f32) -> bool {
        self.values += 1;
        let [least, most] =
            if self.is_of_extreme { [folded.min, folded.max] } else { [folded.mean, folded.mean] };
        let is_calm = least >= self.low && most <= self.high && self.stuck_at != Some(folded.mean);
        self.calm = if is_calm { self.calm + 1 } else { 0 };
        let [fewest, most] = HOLD_VALUES.map(|values| values as u32);
        let held_us = folded.start_us.saturating_sub(self.worse_us);
        let has_passed = held_us as f64 >= f64::from(hold_s) * 1e6;
        let is_usual = self.values >= most || (self.values >= fewest && has_passed);
        self.calm < CALM_VALUES && !is_usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_SECONDS_US: i64 = 10_000_000;

    /// What each folded value, one in ten seconds, changes in a stream that alternates around 10.
    struct Stream {
        watch: Watch,
        settings: WatchSettings,
        at: i64,
    }

    impl Stream {
        fn learned() -> Self {
            let settings = WatchSettings::new(TEN_SECONDS_US as u64);
            let mut stream = Self { watch: Watch::default(), settings, at: 0 };
            for i in 0..2_000u32 {
                let value = 10.0 + f64::from(i * 617 % 1_000) / 1_000.0;
                let found = stream.take(value);
                assert!(found.is_none(), "{i}: {found:?}");
            }
            stream
        }

        fn take(&mut self, value: f64) -> Option<Finding> {
            self.at += TEN_SECONDS_US;
            self.watch.judge(&self.settings, &Folded::of_one(self.at, value))
        }

        fn noise(&self) -> f64 {
            (self.at / TEN_SECONDS_US * 617 % 1_000) as f64 / 1_000.0
        }
    }

    #[test]
    fn a_jump_begins_and_the_way_back_ends_a_deviation() {
        let mut stream = Stream::learned();
        let Some(Finding::Deviates(found)) = stream.take(30.0) else { panic!("no deviation") };
        assert!(found.score >= 1.0 && found.value == 30.0, "{found:?}");
        assert!(
            (9.0..10.5).contains(&found.low) && (10.5..12.5).contains(&found.high),
            "{found:?}"
        );
        let findings: Vec<_> =
            (0..CALM_VALUES).map(|_| stream.take(10.0 + stream.noise())).collect();
        assert_eq!(findings.iter().position(Option::is_some), Some(usize::from(CALM_VALUES) - 1));
        assert_eq!(findings.last(), Some(&Some(Finding::Recovers)));
    }

    #[test]
    fn a_level_that_stays_is_usual_after_the_hold() {
        let mut stream = Stream::learned();
        let findings: Vec<_> = (0..400).map(|_| stream.take(30.0 + stream.noise())).collect();
        assert!(matches!(findings[0], Some(Finding::Deviates(_))));
        let recovers = findings.iter().position(|found| *found == Some(Finding::Recovers));
        let recovers = recovers.expect("it became usual");
        assert!((150..300).contains(&recovers), "{recovers}");
    }

    /// 200 spikes of 8 to 12 deviations in 80,000 values of 50 streams, one value in ten seconds. A spike that comes again
    /// within hours is usual for its stream, so the first of each is found.
    #[test]
    fn what_deviates_is_what_was_injected() {
        const SPIKES: [u32; 4] = [400, 700, 1_050, 1_400];
        let settings = WatchSettings::new(TEN_SECONDS_US as u64);
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let (mut found, mut wrong) = (0, 0);
        for _ in 0..50 {
            let mut watch = Watch::default();
            for row in 0..1_600 {
                let noise = (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
                let spikes = SPIKES.contains(&row);
                let value = if spikes { 8.0 + 4.0 * uniform() } else { noise };
                let was_open = watch.deviates();
                let folded = Folded::of_one(i64::from(row) * TEN_SECONDS_US, 100.0 + 10.0 * value);
                let finding = watch.judge(&settings, &folded);
                if matches!(finding, Some(Finding::Deviates(_))) && !was_open {
                    found += u32::from(spikes);
                    wrong += u32::from(!spikes);
                }
            }
        }
        assert!(found >= 48 && wrong * 9 <= found, "{found} of 200, {wrong} wrong");
    }

    #[test]
    fn a_value_far_out_of_range_deviates_at_once() {
        let settings = WatchSettings::new(TEN_SECONDS_US as u64);
        let mut watch = Watch::default();
        for i in 0..2_000u32 {
            let spread = 1.0 + f64::from(i * 617 % 1_000) / 1_000.0;
            let mean = 10.0 + f64::from(i * 331 % 100) / 1_000.0;
            let start_us = i64::from(i) * TEN_SECONDS_US;
            let (min, max) = (mean - spread, mean + 0.9 * spread);
            let folded = Folded { start_us, count: 50, mean, min, max };
            assert_eq!(watch.judge(&settings, &folded), None, "{i}");
        }
        let [low, high] = watch.range(&settings);
        assert!((0.0..8.0).contains(&low) && (12.0..20.0).contains(&high), "{low} {high}");
        assert_eq!(watch.judge_extreme(&settings, 1, 11.5), None);
        assert!(matches!(watch.judge_extreme(&settings, 1, 100.0), Some(Finding::Deviates(_))));
        assert_eq!(watch.judge_extreme(&settings, 1, 100.0), None, "once");
    }
}
