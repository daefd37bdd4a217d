//! `pager`: what a person should be woken for. The detector to recommend.
//!
//! It asks whether the stream has ever been like this, as [`novelty`](super::novelty) does, and also
//! whether it has left its level and whether its trend explains it. Then it asks how often it has said
//! so: the score is −log₁₀ of the false alarms a day that such a score costs a stream, so that the
//! threshold of 1 means one in ten days, and 2 one in a hundred.
//!
//! # The parts
//!
//! A, B, C are the surprises of [`Past`]; D that of the value less its moving average of span 64; S the
//! error against the half-hour of the day ([`NormalizedError`]); N, on leaving the range of n values so far,
//! min(3, 1.1 log₁₀(n/2)): of n values in any order one in n/2 is the least or the largest; L, at more
//! than 3 median distances d from the level ([`RobustBaseline`]), min(3.5, 2 log₁₀(d/3)), less for a stream that
//! is often far off it: divided by 1 + 2.5 such events a day; E, that it has repeated the same value for
//! longer than ever, and F, that it has stayed on one side of the usual at this time of the day for
//! longer ([`RunLength`], [`BaselineSide`]). What they say together:
//!
//! loudness = ∛(((0.9 A)³ + B³ + (1.1 C)³ + (0.7 D)³ + (0.6 S)³ + N³ + L³ + E³ + (0.8 F)³) / 5)
//! + 0.4 log₁₀(interval / 5 min)
//!
//! The last term is for the day in the score: what happens once in a thousand values happens every
//! quarter of an hour to one stream and every month to another.
//!
//! # From loudness to alarms
//!
//! An alarm holds off those that are not clearly louder for 15 hours ([`Cooldown`]). A stream that has alarmed
//! more than once in four days over the last month raises its own bar, by ln(alarms a day / 0.25): so
//! noise that none of the parts knows teaches the stream its price. What is left becomes the score by the
//! line that fits the false alarms on the public data (docs/DETECTION.md).

use crate::Detector;
use crate::baseline_side::BaselineSide;
use crate::cooldown::Cooldown;
use crate::daily_profile::DailyProfile;
use crate::leader_clusters::{Habit, LeaderClusters};
use crate::normalized_error::NormalizedError;
use crate::novelty::{COUNT_MIN, Past, ValueRange, together};
use crate::rate::Rate;
use crate::robust_baseline::RobustBaseline;
use crate::run_length::RunLength;
use crate::sample_interval::SampleInterval;
use crate::tail_probability::TailProbability;

const DETRENDED: Habit = Habit { reach: 0.3, fading: 1e-4 };

/// From so many median distances on a value is off the level.
const OFF_LEVEL: f32 = 3.0;
/// From so many on it is an event, unless one of the last values was: the event goes on.
const OFF_LEVEL_EVENT: f32 = 10.0;
const OFF_LEVEL_GOES_ON: u8 = 6;
/// Off the level so many times a day counts for half.
const OFF_LEVEL_PER_DAY: f32 = 0.4;
const OFF_LEVEL_MAX: f32 = 3.5;
const LEFT_RANGE_MAX: f32 = 3.0;

const DAY_S: f32 = 86_400.0;
/// Loudness is as it is for a stream of this interval.
const INTERVAL_S: f32 = 300.0;
/// Loudness for ten times the interval.
const PER_DECADE: f32 = 0.4;
/// How long an alarm holds off others,
const HOLD_S: f32 = 15.0 * 3_600.0;
/// but for no fewer and no more values than these.
const HOLD_VALUES: [f32; 2] = [15.0, 400.0];
/// So loud is an alarm to the stream's own count,
const ALARM: f32 = 1.5;
/// when the one before it is nearly out of the hold-off: else it is the same.
const ALARM_GOES_ON: f32 = 0.8;
/// A stream may alarm so often before it raises its bar.
const ALARMS_PER_DAY: f32 = 0.25;
/// The loudness of one false alarm in ten days, and the score of one more.
const LOUDNESS: f32 = 1.63;
const SCORE_PER_LOUDNESS: f32 = 0.8;

/// One stream.
#[derive(Clone, Debug, Default)]
pub struct Pager {
    past: Past,
    range: ValueRange,
    day: DailyProfile,
    day_errors: NormalizedError,
    side: BaselineSide,
    one_sided: RunLength,
    last: f64,
    repeated: RunLength,
    detrended: LeaderClusters<1>,
    detrended_tail: TailProbability,
    level: RobustBaseline,
    off_level: Rate,
    /// Values since the stream was that far off its level.
    off_level_ago: u8,
    pace: SampleInterval,
    hold: Cooldown,
    alarms: Rate,
    /// Time since an alarm, in hold-offs.
    alarm_ago: f32,
}

/// With a million streams in mind.
const _: () = assert!(size_of::<Pager>() <= 4096);

impl Detector for Pager {
    const THRESHOLD: f64 = 1.0;

    #[inline]
    fn observe(&mut self, timestamp_us: i64, value: f64) -> f64 {
        let elapsed_s = self.pace.elapsed_s(timestamp_us);
        let loudness = self.loudness(timestamp_us, value, elapsed_s / DAY_S);
        if self.past.scale().count() <= COUNT_MIN {
            return 0.0;
        }
        let alarm = self.alarm(loudness, elapsed_s);
        f64::from((1.0 + SCORE_PER_LOUDNESS * (alarm - LOUDNESS)).max(0.0))
    }
}

impl Pager {
    #[inline]
    fn loudness(&mut self, timestamp_us: i64, value: f64, days: f32) -> f32 {
        let (surprises, conversion) = self.past.take(value);
        if let Some(conversion) = conversion {
            self.day.convert(conversion);
            self.side.convert(conversion);
            self.level.convert(conversion);
            self.detrended.convert(|c| conversion.apply_to_difference(c));
        }
        let scale = self.past.scale();
        let above_trend = scale.at(value) - scale.at(self.past.long());
        let distance = self.detrended.visit(DETRENDED, [above_trend], scale.inverse());
        let detrended = self.detrended_tail.surprise(distance);
        let repeated = self.repeated.surprise(value == self.last);
        self.last = value;
        let stays = self.side.stays(&self.day, scale, timestamp_us, value);
        let one_sided = self.one_sided.surprise(stays);
        let error = self.day.error(scale, timestamp_us, value);
        let day = error.map_or(0.0, |error| self.day_errors.judge(error));
        let left_range = if self.range.leaves(value) {
            (1.1 * (scale.count() as f32 / 2.0).log10()).min(LEFT_RANGE_MAX)
        } else {
            0.0
        };
        let off_level = self.level.distance(scale, value);
        let off_level = self.off_level(off_level, days);
        let together = together(&[
            0.9 * surprises.value,
            surprises.curve,
            1.1 * surprises.blocks,
            0.7 * detrended,
            0.6 * day,
            left_range,
            off_level,
            repeated,
            0.8 * one_sided,
        ]);
        if together == 0.0 {
            return 0.0;
        }
        together + PER_DECADE * (self.pace.interval_s() / INTERVAL_S).log10()
    }

    #[inline]
    fn off_level(&mut self, distance: f32, days: f32) -> f32 {
        self.off_level.pass(days);
        self.off_level_ago = self.off_level_ago.saturating_add(1);
        if distance <= OFF_LEVEL {
            return 0.0;
        }
        let weight = 1.0 / (1.0 + self.off_level.per_day() / OFF_LEVEL_PER_DAY);
        if distance > OFF_LEVEL_EVENT {
            if self.off_level_ago > OFF_LEVEL_GOES_ON {
                self.off_level.count();
            }
            self.off_level_ago = 0;
        }
        weight * (2.0 * (distance / OFF_LEVEL).log10()).min(OFF_LEVEL_MAX)
    }

    /// What is left of the loudness after hold-off and the stream's own bar.
    #[inline]
    fn alarm(&mut self, loudness: f32, elapsed_s: f32) -> f32 {
        let [least, most] = HOLD_VALUES;
        let held = (elapsed_s / HOLD_S).clamp(1.0 / most, 1.0 / least);
        self.alarms.pass(elapsed_s / DAY_S);
        self.alarm_ago += held;
        let passed = self.hold.pass(loudness, held);
        if passed <= 0.0 {
            return 0.0;
        }
        let bar = (self.alarms.per_day() / ALARMS_PER_DAY).max(1.0).ln();
        if passed >= ALARM {
            if self.alarm_ago > ALARM_GOES_ON {
                self.alarms.count();
            }
            self.alarm_ago = 0.0;
        }
        passed - bar
    }
}
