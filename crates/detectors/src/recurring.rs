//! Values that keep coming back, and how often.
//!
//! A score promises a number of alarms a day. In a stream that mostly repeats its value, like a switch that is mostly 0,
//! another value is a state of its own: it recurs at a rate, and no score can honestly be above −log₁₀ of it.
//! Remembered are the last few values that would have been alarms, exact to the bit. Streams of measurements never repeat
//! themselves for long, and are not judged by this: there the same value may be another event.

use crate::saved::saved;

/// Values that are remembered: the codes of a few errors, or the levels of a few modes.
const VALUES: usize = 6;
/// The time that a rate covers.
const MEMORY_DAYS: f32 = 30.0;
/// A rate is that of a day at least: two sightings within an hour are no rate of many a day.
const DAYS_MIN: f32 = 1.0;
/// Values after a sighting that belong to it.
const SIGHTING_VALUES: u32 = 8;
/// A severity this many times that of the sighting does not belong to it: a burst, where there were single values.
const RATIO_MIN: f32 = 1.3;
/// The fraction of values equal to the one before, from which a stream mostly repeats its value.
const REPEATS_MIN: f32 = 0.5;
/// The weight of each value in this fraction.
const REPEATS_WEIGHT: f32 = 1.0 / 256.0;

/// One value.
#[derive(Clone, Copy, Debug, Default)]
struct Sighted {
    /// A hash of its bits and of how long it had stayed; 0 where there is none yet.
    key: u32,
    /// Which value of the stream was the last sighting.
    last: u32,
    /// The day of the first one, on the stream's own clock.
    since: f32,
    count: f32,
}

saved!(Sighted { key, last, since, count });

/// The recurring values of one stream.
#[derive(Clone, Debug, Default)]
pub struct Recurring {
    values: [Sighted; VALUES],
    /// The stream's own clock.
    days: f32,
    /// The fraction of values that were equal to the one before.
    repeats: f32,
    /// Of the last value that was known to recur: its number, its severity, and what was left of that.
    last: u32,
    severity: f32,
    left: f32,
}

saved!(Recurring { values, days, repeats, last, severity, left });

/// A value that would be an alarm.
#[derive(Clone, Copy, Debug)]
pub struct Standout {
    /// The value.
    pub value: f64,
    /// For how many values the stream has been at it.
    pub stayed: u32,
    /// Which value of the stream it is.
    pub number: u32,
    /// How severe it is.
    pub severity: f32,
}

impl Recurring {
    /// Advances the time, to a value that is the same as the one before, or is not.
    #[inline]
    pub fn advance(&mut self, days: f32, is_repeated: bool) {
        self.days += days;
        self.repeats += REPEATS_WEIGHT * (f32::from(u8::from(is_repeated)) - self.repeats);
    }

    /// Whether the stream mostly repeats its value.
    #[inline]
    pub fn is_repetitive(&self) -> bool {
        self.repeats >= REPEATS_MIN
    }

    /// What is left of the severity of a value that would be an alarm: no more than `severity_of` the rate a day at which
    /// it recurs. The values that follow a recurring one have no more, unless they are clearly more severe.
    #[cold]
    pub fn left(&mut self, standout: Standout, severity_of: impl Fn(f32) -> f32) -> f32 {
        let Standout { number, severity, .. } = standout;
        if !self.is_repetitive() {
            return severity;
        }
        if let Some(per_day) = self.per_day(standout) {
            let left = severity.min(severity_of(per_day));
            (self.last, self.severity, self.left) = (number, severity, left);
            return left;
        }
        let follows = self.last > 0 && number.saturating_sub(self.last) <= SIGHTING_VALUES;
        if follows && severity <= RATIO_MIN * self.severity {
            severity.min(self.left)
        } else {
            severity
        }
    }

    /// How often a day a value recurs. None if it is new, or belongs to the sighting before.
    fn per_day(&mut self, standout: Standout) -> Option<f32> {
        let Standout { value, stayed, number, .. } = standout;
        let key = key(value, stayed);
        let Some(sighted) = self.values.iter_mut().find(|sighted| sighted.key == key) else {
            let oldest = self.values.iter_mut().min_by_key(|sighted| sighted.last)?;
            *oldest = Sighted { key, last: number, since: self.days, count: 1.0 };
            return None;
        };
        let ago = number.saturating_sub(std::mem::replace(&mut sighted.last, number));
        if ago <= SIGHTING_VALUES {
            return None;
        }
        sighted.count += 1.0;
        let age = self.days - sighted.since;
        if age > MEMORY_DAYS {
            sighted.count *= MEMORY_DAYS / age;
            sighted.since = self.days - MEMORY_DAYS;
        }
        // The first sighting begins the time, and is not one of those in it.
        Some((sighted.count - 1.0).max(0.0) / age.clamp(DAYS_MIN, MEMORY_DAYS))
    }
}

/// A hash of a value and of the octave of its stay. Never 0.
fn key(value: f64, stayed: u32) -> u32 {
    let bits = value.to_bits() ^ u64::from(stayed.max(1).ilog2());
    ((bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of a severity of 3 at each of these numbers of a stream of a value an hour.
    fn left(repeats: bool, numbers: &[u32]) -> Vec<f32> {
        let (mut recurring, mut left) = (Recurring::default(), Vec::new());
        for number in 1..=numbers[numbers.len() - 1] {
            recurring.advance(1.0 / 24.0, repeats);
            if numbers.contains(&number) {
                let standout = Standout { value: 1.0, stayed: 1, number, severity: 3.0 };
                left.push(recurring.left(standout, |per_day| -per_day.log10()));
            }
        }
        left
    }

    #[test]
    fn a_value_has_no_more_than_its_rate_is_worth() {
        // Once in ten days, then a second time within a day.
        let left = left(true, &[480, 720, 744]);
        assert_eq!(left[0], 3.0);
        assert!((left[1] - 1.0).abs() < 0.01, "{left:?}");
        assert!((left[2] + (2.0f32 / 11.0).log10()).abs() < 0.01, "{left:?}");
    }

    #[test]
    fn what_follows_a_sighting_belongs_to_it() {
        let left = left(true, &[480, 500, 504, 508]);
        assert_eq!(left, [3.0, 0.0, 0.0, 0.0]);
        let mut recurring = Recurring::default();
        for _ in 0..1_000 {
            recurring.advance(0.01, true);
        }
        let mut left = |value, number, severity| {
            let standout = Standout { value, stayed: 1, number, severity };
            recurring.left(standout, |_| 0.0)
        };
        assert_eq!([left(1.0, 100, 3.0), left(1.0, 200, 3.0)], [3.0, 0.0]);
        assert_eq!(
            [left(0.0, 201, 3.5), left(7.0, 202, 4.0), left(8.0, 209, 3.5)],
            [0.0, 4.0, 3.5]
        );
    }

    #[test]
    fn streams_that_do_not_repeat_themselves_are_not_judged_by_it() {
        assert_eq!(left(false, &[480, 500, 520]), [3.0; 3]);
    }
}
