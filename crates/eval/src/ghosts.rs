//! Streams of usual values, in which nearly every alarm is a ghost: an alarm on a value that is usual for its
//! stream.
//!
//! Constants, switches, counters, coarse and sparse values: spreads are near zero and most values are equal, so
//! that ratios of errors lose their meaning. A stream lasts two weeks. Alarms of the first two days do not
//! count, nor do those close to a blip that happens once.

use crate::series::Series;
use crate::synthetic::{Random, START_US};

/// Minutes.
const DAY: usize = 24 * 60;
const DAYS: usize = 14;
/// Days in which a stream becomes known.
const LEARNING_DAYS: usize = 2;
/// When the blip happens, in minutes.
const BLIP: usize = 3 * DAY + 777;
/// An alarm this long after the start of a blip belongs to it, in minutes.
const BLIP_MINUTES: usize = 30;
/// Streams of each kind.
const STREAMS: u64 = 4;

/// A kind of usual values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usual {
    /// One value, and another one once.
    ConstantAndBlip,
    /// 0, and 1 for a fraction of the values, in per mille.
    Switch(u32),
    /// 100, and 101 for half of the values.
    TwoLevels,
    /// A total that grows by random steps.
    Counter,
    /// A total that starts from 0 every night.
    DailyCounter,
    /// A daily wave, rounded to few steps.
    CoarseWave,
    /// Whole numbers, mostly the same.
    CoarseNoise,
    /// Mostly 0, and a number of errors once in a few hours.
    Errors,
    /// A blip every day at the same time, on a constant.
    DailyBlip,
    /// A level with noise, at irregular intervals of an hour on average.
    Sparse,
}

/// All kinds, and the minutes between values.
pub const USUAL: [(Usual, usize); 16] = [
    (Usual::ConstantAndBlip, 1),
    (Usual::ConstantAndBlip, 5),
    (Usual::Switch(3), 1),
    (Usual::Switch(3), 5),
    (Usual::Switch(30), 1),
    (Usual::Switch(30), 5),
    (Usual::TwoLevels, 1),
    (Usual::Counter, 1),
    (Usual::DailyCounter, 1),
    (Usual::CoarseWave, 1),
    (Usual::CoarseWave, 5),
    (Usual::CoarseNoise, 1),
    (Usual::Errors, 1),
    (Usual::Errors, 5),
    (Usual::DailyBlip, 1),
    (Usual::Sparse, 60),
];

impl Usual {
    /// For tables.
    pub fn name(self) -> String {
        match self {
            Self::ConstantAndBlip => "constant, one blip".to_owned(),
            Self::Switch(per_mille) => format!("0, and 1 at {} %", f64::from(per_mille) / 10.0),
            Self::TwoLevels => "100 or 101".to_owned(),
            Self::Counter => "counter".to_owned(),
            Self::DailyCounter => "counter from 0 every day".to_owned(),
            Self::CoarseWave => "daily wave in few steps".to_owned(),
            Self::CoarseNoise => "noise in whole numbers".to_owned(),
            Self::Errors => "errors, mostly 0".to_owned(),
            Self::DailyBlip => "blip every day".to_owned(),
            Self::Sparse => "noise, irregular".to_owned(),
        }
    }

    /// Its series, `minutes` between values.
    pub fn series(self, minutes: usize) -> Vec<Series> {
        (0..STREAMS).map(|seed| self.one(seed, minutes)).collect()
    }

    fn one(self, seed: u64, minutes: usize) -> Series {
        let mut random = Random(1_000 + seed);
        let mut series = Series::default();
        let mut total = 0.0;
        let mut at_us = START_US;
        for row in 0..DAYS * DAY / minutes {
            let minute = row * minutes;
            let chance = random.uniform();
            let (blip, of_day) = (BLIP / minutes * minutes, minute % DAY);
            let value = match self {
                Self::ConstantAndBlip => {
                    if minute == blip {
                        80.0
                    } else {
                        50.0
                    }
                }
                Self::Switch(per_mille) => f64::from(chance < f64::from(per_mille) / 1_000.0),
                Self::TwoLevels => 100.0 + f64::from(chance < 0.5),
                Self::Counter | Self::DailyCounter => {
                    if self == Self::DailyCounter && of_day == 0 {
                        total = 0.0;
                    }
                    total += (10.0 * chance).floor();
                    total
                }
                Self::CoarseWave => {
                    let turn = of_day as f64 / DAY as f64 * std::f64::consts::TAU;
                    (3.0 - 3.0 * turn.cos() + 0.3 * random.normal()).round()
                }
                Self::CoarseNoise => (20.0 + 0.4 * random.normal()).round(),
                Self::Errors if chance < minutes as f64 / 200.0 => {
                    1.0 + (3.0 * random.uniform()).floor()
                }
                Self::Errors => 0.0,
                Self::DailyBlip => f64::from(of_day == BLIP % DAY),
                Self::Sparse => 100.0 + 10.0 * random.normal(),
            };
            series.timestamps_us.push(at_us);
            series.values.push(value);
            let irregular =
                if self == Self::Sparse { -2.0 * random.uniform().max(1e-3).ln() } else { 1.0 };
            at_us += (minutes as f64 * irregular * 60e6) as i64;
        }
        series.present = vec![true; series.values.len()];
        series
    }

    /// The alarms in a series that count as ghosts.
    pub fn ghosts(self, series: &Series, is_alarm: impl Fn(usize) -> bool) -> usize {
        let counts = |row: &usize| {
            let minute = (series.timestamps_us[*row] - START_US) / 60_000_000;
            let minute = usize::try_from(minute).expect("times go up");
            let after_blip =
                minute.checked_sub(BLIP / 5 * 5).is_some_and(|after| after < BLIP_MINUTES);
            minute >= LEARNING_DAYS * DAY && !(self == Self::ConstantAndBlip && after_blip)
        };
        (0..series.values.len()).filter(counts).filter(|&row| is_alarm(row)).count()
    }
}

/// Which values lie between the smallest and the largest before them.
pub fn within_range(values: &[f64]) -> Vec<bool> {
    let mut range = f64::INFINITY..=f64::NEG_INFINITY;
    let is_within = |&value: &f64| {
        let is_within = range.contains(&value);
        range = range.start().min(value)..=range.end().max(value);
        is_within
    };
    values.iter().map(is_within).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_extreme_is_outside_the_range_so_far() {
        let within = within_range(&[1.0, 1.0, 3.0, 2.0, 0.0, 3.0, 4.0]);
        assert_eq!(within, [false, true, false, true, false, true, false]);
    }

    #[test]
    fn a_blip_is_no_ghost_and_what_follows_is() {
        for minutes in [1, 5] {
            let series = &Usual::ConstantAndBlip.series(minutes)[0];
            let blips: Vec<usize> =
                (0..series.values.len()).filter(|&row| series.values[row] != 50.0).collect();
            assert_eq!(blips.len(), 1);
            assert_eq!(Usual::ConstantAndBlip.ghosts(series, |row| row == blips[0]), 0);
            assert_eq!(
                Usual::ConstantAndBlip.ghosts(series, |row| row == blips[0] + DAY / minutes),
                1
            );
            assert_eq!(Usual::Counter.ghosts(series, |row| row < LEARNING_DAYS * DAY / minutes), 0);
        }
    }
}
