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
//! - D: the surprise of the value less its moving average of span 64. In A and D a value is closer to its past by the
//!   smallest step that the stream has taken: of whole numbers the next one is rounding.
//! - R, S: the errors against a moving average and against the half-hour of the day ([`NormalizedError`]). R is what exceeds 1,
//!   and weighs √(60 s / interval) where the interval is longer than a minute. They are limited to 3.8 and 4, so that a ratio of
//!   errors needs another part beside it: it can be large for little reason, as where a stream hardly moves.
//! - N: on leaving the range of n values so far, min(3, 1.1 log₁₀(n/2)): of n values in random order one in n/2
//!   is the smallest or the largest.
//! - L: at more than 3 median distances d from the baseline ([`RobustBaseline`]), min(3.5, 2 log₁₀(d/3)). It is
//!   divided by 1 + 2.5 such events a day, for streams that are often far off.
//! - E: that the stream repeats a value for longer than ever ([`RunLength`]).
//! - F: that it stays on one side of its daily baseline for longer than ever ([`BaselineSide`]).
//!
//! severity = ∛(((0.77 A)³ + B³ + (1.1 C)³ + (0.83 D)³ + R³ + (0.7 S)³ + N³ + (1.39 L)³ + E³ + (0.85 F)³) / 5)
//! + 0.56 log₁₀(interval / 5 min)
//!
//! The last term is there because the score counts days: what happens once in a thousand values happens every
//! quarter of an hour to one stream and every month to another. Its factor is 0.8 between five minutes and a minute, because R and S
//! are large more often there, and 0.42 below, where the past is one of days. It does not grow beyond an hour: the past of such
//! streams is too short for it.
//!
//! # From severity to alarms
//!
//! An alarm suppresses those that are not clearly more severe for a time ([`Hold`]): an hour and a half at a value a minute or
//! more, 15 hours at one in five minutes or fewer, and never more than 236 values. A stream with more than 0.85 alarms a
//! day over the last month raises its own bar by 0.85 ln(alarms a day / 0.85), so that noise that no part models raises the
//! bar too. Where values are independent of each other ([`Independence`]), one rare value is rare to many parts at once, and their
//! sum says no more than one of them. There the rate of severities of 2 is held to 0.08 a day in the same way. The rest becomes the score, by the line that fits the false alarms on the public data (docs/DETECTION.md). Below
//! one value a minute the rate of 0.85 is lower, and the past of A to D is longer, so that noise costs no more there. What
//! recurs has no higher score than its rate is worth ([`Recurring`]). Where a stream mostly repeats itself, the severity of a
//! value that it has had is divided by 1.3, as there a single part can be high for little reason; but not by E, which is about
//! such values.

use crate::baseline_side::BaselineSide;
use crate::daily_profile::DailyProfile;
use crate::detector::Detector;
use crate::hold::Hold;
use crate::independence::Independence;
use crate::leader_clusters::{LeaderClusters, LeaderParameters};
use crate::normalized_error::NormalizedError;
use crate::novelty::{COUNT_MIN, Past, ValueRange, combine};
use crate::rate::{Rate, SpacedRate};
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
const STEP_USUAL: f32 = 1.0;
/// The interval up to which R has its whole weight.
const STEP_INTERVAL_S: f32 = 60.0;
/// The largest values of these parts. R or S alone raises no alarm in a stream of a value a minute.
const STEP_MAX: f32 = 3.8;
const OF_DAY_MAX: f32 = 4.0;
const OFF_BASELINE_MAX: f32 = 3.5;
const LEFT_RANGE_MAX: f32 = 3.0;

const DAY_S: f32 = 86_400.0;
/// The interval at which the severity has no term for the interval.
const INTERVAL_S: f32 = 300.0;
/// Severity added for ten times the interval; and taken away for a tenth of it down to a minute, and below a minute.
const SEVERITY_PER_DECADE: f32 = 0.557;
const SEVERITY_PER_DECADE_FASTER: f32 = 0.8;
const SEVERITY_PER_DECADE_FASTEST: f32 = 0.42;
/// One minute and one hour over five minutes, in decades.
const DECADES_OF_MINUTE: f32 = -0.698_97;
const DECADES_OF_HOUR: f32 = 1.079_18;
/// In a stream that mostly repeats itself, a value that it has had needs this many times the severity. Fourteen ghosts
/// without it, seven with it, and no other figure changes.
const REPEATED_RATIO: f32 = 1.3;
/// How long an alarm holds off others, in a stream of a value a minute and of one in five minutes. In between in proportion.
/// Streams of many values have their events of an hour, which the hold of the others would hide.
const HOLD_S: [f32; 2] = [1.5 * 3_600.0, 15.0 * 3_600.0];
const HOLD_INTERVAL_S: [f32; 2] = [60.0, 300.0];
/// The fewest and the most values in this time.
pub const HOLD_VALUES: [f32; 2] = [15.0, 236.0];
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
/// Where values are independent, the rate of what would be alarms above which a stream raises its bar: what a score of 1
/// promises, less what passes before the rate is known.
const INDEPENDENT_PER_DAY: f32 = 0.08;
/// So many of these say nothing of the rate at a value in five minutes, and fewer in proportion in faster streams, which
/// show in less time what they are. One of two real events in half A of NAB is lost without this.
const INDEPENDENT_BEYOND: f32 = 2.0;
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
    /// The smallest step from one value to another; 0 before the first.
    grain: f32,
    repeated: RunLength,
    detrended: LeaderClusters<1>,
    detrended_tail: TailProbability,
    baseline: RobustBaseline,
    baseline_events: Rate,
    /// Values since the last event.
    baseline_event_ago: u8,
    recurring: Recurring,
    interval: SampleInterval,
    independence: Independence,
    hold: Hold,
    /// What is as severe as [`ALARM`], and as [`SEVERITY`].
    alarms: SpacedRate,
    severe: SpacedRate,
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
    grain,
    repeated,
    detrended,
    detrended_tail,
    baseline,
    baseline_events,
    baseline_event_ago,
    recurring,
    interval,
    independence,
    hold,
    alarms,
    severe,
});

/// A million streams take 4 GB.
const _: () = assert!(size_of::<Pager>() <= 4096);

impl Detector for Pager {
    const THRESHOLD: f64 = 1.0;
    const STATE_VERSION: u16 = 4;

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
    /// For how long an alarm holds off others, in seconds; but not for fewer or more than [`HOLD_VALUES`].
    #[inline]
    pub fn hold_s(&self) -> f32 {
        let ([short, long], [from, to]) = (HOLD_S, HOLD_INTERVAL_S);
        let between = (self.interval.interval_s() - from) / (to - from);
        short + (long - short) * between.clamp(0.0, 1.0)
    }

    #[inline]
    fn severity(&mut self, timestamp_us: i64, value: f64, days: f32) -> f32 {
        self.recurring.advance(days, value == self.last);
        let faster = self.interval.faster();
        let (surprises, conversion) = self.past.take(value, faster, self.grain);
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
        let beyond = (distance - normalizer.deviations(self.grain)).max(0.0);
        let detrended = self.detrended_tail.surprise_within(beyond, memory(faster));
        let repeated = self.repeated.surprise(value == self.last);
        let step = (value - self.last).abs() as f32;
        self.last = value;
        let stays = self.side.stays(&self.profile, normalizer, timestamp_us, value);
        let one_sided = self.one_sided.surprise(stays);
        if normalizer.count() == 1 {
            self.average = value;
        } else {
            self.independence.add(step, (value - normalizer.mean()).abs() as f32);
            if step > 0.0 && (step < self.grain || self.grain == 0.0) {
                self.grain = step;
            }
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
            self.step(average_error),
            0.7 * profile_error.min(OF_DAY_MAX),
            left_range,
            1.392 * off_baseline,
            repeated,
            0.85 * one_sided,
        ]);
        if combined == 0.0 {
            return 0.0;
        }
        let severity = combined + self.of_interval();
        if severity <= SEVERITY {
            return severity;
        }
        let is_usual = surprises.value == 0.0 && repeated == 0.0 && self.recurring.is_repetitive();
        self.unless_recurring(if is_usual { severity / REPEATED_RATIO } else { severity }, value)
    }

    /// R.
    #[inline]
    fn step(&self, average_error: f32) -> f32 {
        if average_error <= STEP_USUAL {
            return 0.0;
        }
        let weight = (STEP_INTERVAL_S / self.interval.interval_s()).min(1.0).sqrt();
        weight * (average_error - STEP_USUAL).min(STEP_MAX)
    }

    /// What the interval adds to the severity.
    #[inline]
    fn of_interval(&self) -> f32 {
        let decades = (self.interval.interval_s() / INTERVAL_S).log10();
        if decades >= 0.0 {
            return SEVERITY_PER_DECADE * decades.min(DECADES_OF_HOUR);
        }
        let to_minute = decades.max(DECADES_OF_MINUTE);
        SEVERITY_PER_DECADE_FASTER * to_minute + SEVERITY_PER_DECADE_FASTEST * (decades - to_minute)
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
        let elapsed = (elapsed_s / self.hold_s()).clamp(1.0 / most, 1.0 / fewest);
        self.alarms.advance(elapsed_s / DAY_S, elapsed);
        self.severe.advance(elapsed_s / DAY_S, elapsed);
        self.hold.advance(elapsed);
        if severity <= 0.0 || !self.hold.passes(severity) {
            return 0.0;
        }
        let left = severity - self.bar();
        if severity >= ALARM {
            self.alarms.count(ALARM_GAP);
        }
        if severity >= SEVERITY {
            self.severe.count(ALARM_GAP);
        }
        if left >= SEVERITY {
            self.hold.begin(severity);
        }
        left
    }

    /// The stream's own bar, by its alarms so far.
    #[inline]
    fn bar(&self) -> f32 {
        let usual = ALARMS_PER_DAY * self.interval.faster().powf(-FASTER_EXPONENT);
        let mut too_often = self.alarms.rate().per_day() / usual;
        // A value that is repeated is not independent, and is severe for how long the stream has been at it.
        if self.independence.holds() && self.repeated.length() < 2 {
            let slower = self.interval.interval_s() / INTERVAL_S;
            let severe = self.severe.rate().per_day_beyond(INDEPENDENT_BEYOND * slower, slower);
            too_often = too_often.max(severe / INDEPENDENT_PER_DAY);
        }
        BAR * too_often.max(1.0).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noise without a repeated value; then what stands still.
    fn value(row: u64, noise: u64) -> f64 {
        (row.min(noise).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64
    }

    /// After noise of one value in so many seconds.
    fn after_noise(interval_s: i64) -> Pager {
        let mut pager = Pager::default();
        for row in 0..400 {
            pager.observe(row * interval_s * 1_000_000, value(row as u64, u64::MAX));
        }
        pager
    }

    #[test]
    fn the_hold_and_the_severity_follow_the_interval() {
        for (interval_s, hold_h, severity) in [
            (10, 1.5, -0.886),
            (60, 1.5, -0.559),
            (180, 8.25, -0.177),
            (300, 15.0, 0.0),
            (3_600, 15.0, 0.601),
            (86_400, 15.0, 0.601),
        ] {
            let pager = after_noise(interval_s);
            let (hold_s, of_interval) = (pager.hold_s(), pager.of_interval());
            assert!((hold_s - hold_h * 3_600.0).abs() < 36.0, "{interval_s} s: {hold_s}");
            assert!((of_interval - severity).abs() < 0.005, "{interval_s} s: {of_interval}");
        }
    }

    #[test]
    fn a_step_counts_from_its_usual_size_to_its_largest_and_less_in_slow_streams() {
        let fast = after_noise(60);
        assert_eq!(
            [0.5, 1.0, 3.0, 4.8, 100.0].map(|error| fast.step(error)),
            [0.0, 0.0, 2.0, 3.8, 3.8]
        );
        let slow = after_noise(240);
        assert!((slow.step(3.0) - 1.0).abs() < 0.01, "{}", slow.step(3.0));
    }

    #[test]
    fn what_stands_still_is_an_alarm_again_after_the_hold() {
        const NOISE: u64 = 2_000;
        let mut pager = Pager::default();
        let mut stood = Vec::new();
        for row in 0..NOISE + 400 {
            let score = pager.observe(row as i64 * 60_000_000, value(row, NOISE));
            if row > NOISE && score >= Pager::THRESHOLD {
                stood.push(row - NOISE);
            }
        }
        // By then most of its last values are repeated, so that any other part would be divided.
        assert!(pager.recurring.is_repetitive());
        assert!(stood.first().is_some_and(|&row| row < 60), "{stood:?}");
        assert!(stood.last().is_some_and(|&row| row > 180), "{stood:?}");
    }
}
