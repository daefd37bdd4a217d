//! Noise without anything wrong, to hold what a score promises against what it costs.
//!
//! A score of s promises 10⁻ˢ false alarms per stream and day. Here every alarm is false, whatever the shape of the
//! noise and the interval between values. The second table is the price of few alarms: how many of forty spikes are
//! found, each of seven deviations in normal noise.

use sigmad_detectors::Detector;
use sigmad_detectors::pager::Pager;

use crate::synthetic::{Random, START_US};

/// The scores whose promise is held against the alarms.
pub const SCORES: [f64; 2] = [1.0, 2.0];
/// Streams that have a spike.
pub const SPIKES: u64 = 40;
/// Values before the spike.
pub const SPIKE_AFTER: [usize; 2] = [400, 5_000];
/// The height of a spike, in deviations.
const SPIKE: f64 = 7.0;
const DAY_S: u64 = 86_400;

/// Noise sampled at an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// Seconds between values.
    pub interval_s: u64,
    /// Streams of each kind.
    pub streams: u64,
    /// Days that each lasts, from its first value on.
    pub days: u64,
}

/// Slower streams have more days, as they have fewer alarms a value.
pub const SAMPLED: [Sampled; 5] = [
    Sampled { interval_s: 1, streams: 4, days: 10 },
    Sampled { interval_s: 10, streams: 50, days: 14 },
    Sampled { interval_s: 60, streams: 100, days: 28 },
    Sampled { interval_s: 300, streams: 100, days: 90 },
    Sampled { interval_s: 3_600, streams: 100, days: 180 },
];

/// A kind of noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noise {
    /// Normal.
    Normal,
    /// The exponential of normal noise of deviation 0.5.
    Lognormal,
    /// Exponential.
    Exponential,
    /// Student's t with three degrees of freedom.
    HeavyTails,
    /// Each value depends on the one before (0.95).
    Autoregressive,
    /// Normal, on a wave of the day.
    Daily,
}

impl Noise {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::Normal,
        Self::Lognormal,
        Self::Exponential,
        Self::HeavyTails,
        Self::Autoregressive,
        Self::Daily,
    ];

    /// For tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Lognormal => "lognormal",
            Self::Exponential => "exponential",
            Self::HeavyTails => "Student's t, 3 degrees",
            Self::Autoregressive => "autoregressive",
            Self::Daily => "daily wave",
        }
    }

    /// The next value. `level`: what an autoregressive stream is at.
    fn value(self, random: &mut Random, at_s: u64, level: &mut f64) -> f64 {
        match self {
            Self::Normal => 100.0 + 10.0 * random.normal(),
            Self::Lognormal => (1.0 + 0.5 * random.normal()).exp(),
            Self::Exponential => -10.0 * (1.0 - random.uniform()).ln(),
            Self::HeavyTails => {
                let squares: f64 = (0..3).map(|_| random.normal().powi(2)).sum();
                100.0 + 10.0 * random.normal() / (squares / 3.0).sqrt()
            }
            Self::Autoregressive => {
                *level = 0.95 * *level + random.normal();
                50.0 + *level
            }
            Self::Daily => {
                let turn = at_s as f64 / DAY_S as f64 * std::f64::consts::TAU;
                50.0 + 20.0 * turn.sin() + 3.0 * random.normal()
            }
        }
    }

    /// The scores of one stream, each with its second.
    fn scores(self, interval_s: u64, seed: u64) -> impl Iterator<Item = (u64, f64)> {
        let (mut pager, mut random, mut level) = (Pager::default(), Random(seed), 0.0);
        (0..).map(move |row| {
            let at_s = row * interval_s;
            let value = self.value(&mut random, at_s, &mut level);
            (at_s, pager.observe(START_US + at_s as i64 * 1_000_000, value))
        })
    }

    /// Alarms per stream and day, for each of the scores.
    pub fn per_day(self, sampled: Sampled, seed: u64) -> [f64; SCORES.len()] {
        let mut alarms = [0u32; SCORES.len()];
        for stream in 0..sampled.streams {
            let scores = self.scores(sampled.interval_s, seed_of(self, seed, stream));
            for (_, score) in scores.take_while(|&(at_s, _)| at_s < sampled.days * DAY_S) {
                for (count, bar) in alarms.iter_mut().zip(SCORES) {
                    *count += u32::from(score >= bar);
                }
            }
        }
        let days = (sampled.streams * sampled.days) as f64;
        alarms.map(|count| f64::from(count) / days)
    }
}

/// Of [`SPIKES`] streams of normal noise, those whose spike after so many values has a score of 1.
pub fn spikes_found(interval_s: u64, after: usize, seed: u64) -> usize {
    let found = |&stream: &u64| {
        let (mut pager, mut random) =
            (Pager::default(), Random(seed_of(Noise::Normal, seed, stream)));
        let mut score = |row: usize, value: f64| {
            let at_us = START_US + (row as u64 * interval_s) as i64 * 1_000_000;
            pager.observe(at_us, 100.0 + 10.0 * value)
        };
        for row in 0..after {
            score(row, random.normal());
        }
        score(after, SPIKE) >= Pager::THRESHOLD
    };
    (0..SPIKES).filter(found).count()
}

/// A seed for each stream of each kind.
fn seed_of(noise: Noise, seed: u64, stream: u64) -> u64 {
    let mut random = Random(seed.wrapping_mul(1 << 20) + stream + ((noise as u64) << 40));
    (random.uniform() * (1u64 << 53) as f64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A few streams, and room for chance: `make eval` has thousands of days.
    #[test]
    fn noise_costs_about_what_the_score_promises() {
        for noise in [Noise::Normal, Noise::Autoregressive, Noise::Daily] {
            for sampled in [
                Sampled { interval_s: 10, streams: 2, days: 7 },
                Sampled { interval_s: 60, streams: 4, days: 14 },
            ] {
                let [at_1, at_2] = noise.per_day(sampled, 5);
                assert!(at_1 <= 0.4 && at_2 <= 0.1, "{noise:?}, {sampled:?}: {at_1} {at_2}");
            }
        }
    }

    #[test]
    fn spikes_are_found_after_an_hour_of_noise() {
        for interval_s in [10, 60, 300] {
            let found = spikes_found(interval_s, 5_000, 5);
            assert!(found >= 36, "every {interval_s} s: {found}");
        }
    }
}
