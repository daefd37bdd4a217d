//! `pager`: events worth waking a person for. The recommended detector.
//!
//! The severity of a value combines whether the stream has been in this state before, as in
//! [`novelty`](super::novelty), whether it has left its baseline, and whether its trend explains the value. The
//! score then follows from how often the stream has alarmed: it is −log₁₀ of the false alarms a day that a
//! threshold at this score costs. The threshold of 1 means one false alarm in ten days, 2 one in a hundred.
//!
//! # The parts
//!
//! - A, B, C: the surprises of [`Past`].
//! - D: the surprise of the value less its moving average of span 64.
//! - R, S: the errors against a moving average and against the half-hour of the day ([`NormalizedError`]), as
//!   2 ln(1 + x/2) of x = R − 0.85 and x = S: a ratio of errors can be large for little reason, as where a stream hardly moves.
//! - N: on leaving the range of n values so far, min(3, 1.1 log₁₀(n/2)): of n values in random order one in n/2
//!   is the smallest or the largest.
//! - L: at more than 3 median distances d from the baseline ([`RobustBaseline`]), min(3.5, 2 log₁₀(d/3)). It is
//!   divided by 1 + 2.5 such events a day, for streams that are often far off.
//! - E: that the stream repeats a value for longer than ever ([`RunLength`]).
//! - F: that it stays on one side of its daily baseline for longer than ever ([`BaselineSide`]).
//!
//! severity = ∛(((0.77 A)³ + B³ + (1.1 C)³ + (0.83 D)³ + (0.94 R)³ + (0.84 S)³ + N³ + (1.39 L)³ + E³ + (0.8 F)³) / 5)
//! + 0.56 log₁₀(interval / 5 min)
//!
//! The last term is there because the score counts days: what happens once in a thousand values happens every
//! quarter of an hour to one stream and every month to another.
//!
//! # From severity to alarms
//!
//! An alarm suppresses those that are not clearly more severe for 15 hours ([`Hold`]), or for 236 values. A
//! stream with more than 0.85 alarms a day over the last month raises its own bar by 0.85 ln(alarms a day / 0.85), so that
//! noise that no part models raises the bar too. The rest becomes the score, by the line that fits the false
//! alarms on the public data (docs/DETECTION.md). Below one value a minute the rate of 0.85 is lower, and the past of A to D
//! is longer, so that noise costs no more there. What recurs has no higher score than its rate is worth ([`Recurring`]).

use crate::baseline_side::BaselineSide;
use crate::daily_profile::DailyProfile;
use crate::detector::Detector;
use crate::hold::Hold;
use crate::leader_clusters::{LeaderClusters, LeaderParameters};
use crate::normalized_error::NormalizedError;
use crate::novelty::{COUNT_MIN, Past, ValueRange, combine};
use crate::rate::Rate;
use crate::recurring::{Recurring, Standout};
use crate::robust_baseline::RobustBaseline;
use crate::run_length::RunLength;
use crate::sample_interval::SampleInterval;
use crate::saved::saved;
use crate::tail_probability::{TailProbability, memory};

const DETRENDED: LeaderParameters = LeaderParameters { radius: 0.3, growth: 1e-4 };

/// The distance from which a value is off the baseline, in median distances.
const OFF_BASELINE: f32 = 3.0;
/// The distance from which a value is an event, in median distances.
const OFF_BASELINE_EVENT: f32 = 10.0;
/// Values after an event in which another one continues it.
const OFF_BASELINE_EVENT_VALUES: u8 = 6;
/// The rate of such events, a day, at which the part is halved.
const OFF_BASELINE_PER_DAY: f32 = 0.4;
/// The weight of each value in the moving average.
const AVERAGE_WEIGHT: f64 = 0.3;
/// A normalized error that is no part of R.
const STEP_USUAL: f32 = 0.85;
/// The largest values of these parts.
const OFF_BASELINE_MAX: f32 = 3.5;
const LEFT_RANGE_MAX: f32 = 3.0;

const DAY_S: f32 = 86_400.0;
/// The interval at which the severity has no term for the interval.
const INTERVAL_S: f32 = 300.0;
/// Severity added for ten times the interval.
const SEVERITY_PER_DECADE: f32 = 0.557;
/// How long an alarm holds off others.
const HOLD_S: f32 = 15.0 * 3_600.0;
/// The fewest and the most values in this time.
const HOLD_VALUES: [f32; 2] = [15.0, 236.0];
/// The severity of an alarm that counts towards the stream's rate.
const ALARM: f32 = 1.5;
/// It counts when this fraction of a hold has passed since the last one; else it is the same alarm.
const ALARM_GAP: f32 = 0.8;
/// The rate of alarms above which a stream raises its bar.
const ALARMS_PER_DAY: f32 = 0.85;
/// That rate falls with the interval to this power below a minute. Combinations of rare values are as rare in each thousand
/// values, and such a stream has a thousand more often.
const FASTER_EXPONENT: f32 = 0.7;
/// The rise of the bar for each e-fold of the rate.
const BAR: f32 = 0.85;
/// The severity that costs one false alarm in ten days.
const SEVERITY: f32 = 2.0;
/// The score for each unit of severity above it.
const SCORE_PER_SEVERITY: f32 = 0.8;

/// The state of one stream.
#[derive(Clone, Debug, Default)]
pub struct Pager {
    past: Past,
    range: ValueRange,
    average: f64,
    average_errors: NormalizedError,
    profile: DailyProfile,
    profile_errors: NormalizedError,
    side: BaselineSide,
    one_sided: RunLength,
    last: f64,
    repeated: RunLength,
    detrended: LeaderClusters<1>,
    detrended_tail: TailProbability,
    baseline: RobustBaseline,
    baseline_events: Rate,
    /// Values since the last event.
    baseline_event_ago: u8,
    recurring: Recurring,
    interval: SampleInterval,
    hold: Hold,
    alarms: Rate,
    /// The time since an alarm, in holds.
    alarm_ago: f32,
}

saved!(Pager {
    past,
    range,
    average,
    average_errors,
    profile,
    profile_errors,
    side,
    one_sided,
    last,
    repeated,
    detrended,
    detrended_tail,
    baseline,
    baseline_events,
    baseline_event_ago,
    recurring,
    interval,
    hold,
    alarms,
    alarm_ago,
});

/// A million streams take 4 GB.
const _: () = assert!(size_of::<Pager>() <= 4096);

impl Detector for Pager {
    const THRESHOLD: f64 = 1.0;
    const STATE_VERSION: u16 = 2;

    #[inline]
    fn observe(&mut self, timestamp_us: i64, value: f64) -> f64 {
        let elapsed_s = self.interval.elapsed_s(timestamp_us);
        let severity = self.severity(timestamp_us, value, elapsed_s / DAY_S);
        if self.past.normalizer().count() <= COUNT_MIN {
            return 0.0;
        }
        let alarm = self.alarm(severity, elapsed_s);
        f64::from((1.0 + SCORE_PER_SEVERITY * (alarm - SEVERITY)).max(0.0))
    }
}

impl Pager {
    #[inline]
    fn severity(&mut self, timestamp_us: i64, value: f64, days: f32) -> f32 {
        self.recurring.advance(days, value == self.last);
        let faster = self.interval.faster();
        let (surprises, conversion) = self.past.take(value, faster);
        if let Some(conversion) = conversion {
            self.profile.convert(conversion);
            self.side.convert(conversion);
            self.baseline.convert(conversion);
            self.detrended.convert(|c| conversion.apply_to_difference(c));
        }
        let normalizer = self.past.normalizer();
        let above_trend = normalizer.at(value) - normalizer.at(self.past.long());
        let slower = DETRENDED.slower(faster);
        let distance = self.detrended.add(slower, [above_trend], normalizer.inverse());
        let detrended = self.detrended_tail.surprise_within(distance, memory(faster));
        let repeated = self.repeated.surprise(value == self.last);
        self.last = value;
        let stays = self.side.stays(&self.profile, normalizer, timestamp_us, value);
        let one_sided = self.one_sided.surprise(stays);
        if normalizer.count() == 1 {
            self.average = value;
        }
        let average_error = self.average_errors.normalize((value - self.average).abs() as f32);
        self.average += AVERAGE_WEIGHT * (value - self.average);
        let step_max = self.profile_errors.step_max();
        let error = self.profile.error(normalizer, timestamp_us, value, step_max);
        let profile_error = error.map_or(0.0, |error| self.profile_errors.normalize(error));
        let left_range = if self.range.leaves(value) {
            (1.1 * (normalizer.count() as f32 / 2.0).log10()).min(LEFT_RANGE_MAX)
        } else {
            0.0
        };
        let distance = self.baseline.distance(normalizer, value);
        let off_baseline = self.off_baseline(distance, days);
        let combined = combine(&[
            0.765 * surprises.value,
            surprises.curve,
            1.1 * surprises.blocks,
            0.826 * detrended,
            0.944 * damped((average_error - STEP_USUAL).max(0.0)),
            0.835 * damped(profile_error),
            left_range,
            1.392 * off_baseline,
            repeated,
            0.8 * one_sided,
        ]);
        if combined == 0.0 {
            return 0.0;
        }
        let decades = (self.interval.interval_s() / INTERVAL_S).log10();
        let severity = combined + SEVERITY_PER_DECADE * decades;
        if severity > SEVERITY { self.unless_recurring(severity, value) } else { severity }
    }

    /// The severity, or that of the rate at which the value recurs if it is lower.
    #[cold]
    fn unless_recurring(&mut self, severity: f32, value: f64) -> f32 {
        let (stayed, number) = (self.repeated.length(), self.past.normalizer().count());
        let severity_of = |per_day: f32| SEVERITY - (1.0 + per_day.log10()) / SCORE_PER_SEVERITY;
        self.recurring.left(Standout { value, stayed, number, severity }, severity_of)
    }

    /// The part of the severity for a value this far off the baseline.
    #[inline]
    fn off_baseline(&mut self, distance: f32, days: f32) -> f32 {
        self.baseline_events.advance(days);
        self.baseline_event_ago = self.baseline_event_ago.saturating_add(1);
        if distance <= OFF_BASELINE {
            return 0.0;
        }
        let weight = 1.0 / (1.0 + self.baseline_events.per_day() / OFF_BASELINE_PER_DAY);
        if distance > OFF_BASELINE_EVENT {
            if self.baseline_event_ago > OFF_BASELINE_EVENT_VALUES {
                self.baseline_events.count();
            }
            self.baseline_event_ago = 0;
        }
        weight * (2.0 * (distance / OFF_BASELINE).log10()).min(OFF_BASELINE_MAX)
    }

    /// The severity that is left after the hold and the stream's own bar.
    #[inline]
    fn alarm(&mut self, severity: f32, elapsed_s: f32) -> f32 {
        let [fewest, most] = HOLD_VALUES;
        let elapsed = (elapsed_s / HOLD_S).clamp(1.0 / most, 1.0 / fewest);
        self.alarms.advance(elapsed_s / DAY_S);
        self.alarm_ago += elapsed;
        self.hold.advance(elapsed);
        if severity <= 0.0 || !self.hold.passes(severity) {
            return 0.0;
        }
        let usual = ALARMS_PER_DAY * self.interval.faster().powf(-FASTER_EXPONENT);
        let bar = BAR * (self.alarms.per_day() / usual).max(1.0).ln();
        if severity >= ALARM {
            if self.alarm_ago > ALARM_GAP {
                self.alarms.count();
            }
            self.alarm_ago = 0.0;
        }
        let left = severity - bar;
        if left >= SEVERITY {
            self.hold.begin(severity);
        }
        left
    }
}

/// Grows like its argument at first, then like its logarithm.
#[inline]
fn damped(x: f32) -> f32 {
    2.0 * (0.5 * x).ln_1p()
}
