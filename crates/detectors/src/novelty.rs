//! `novelty`: whether the stream has been in this state before.
//!
//! [`LeaderClusters`] compare three descriptions of the present with the stream's own past: the value; the
//! value with two moving averages (spans 8 and 64), a short piece of the curve; and the last three means of
//! twelve values, a long piece. The distance of each from the nearest known state becomes a surprise A, B, C,
//! by the distribution of such distances so far ([`TailProbability`]). R and S are the two normalized errors
//! of [`residual`](super::residual); N is 3 where the value leaves the range seen so far, else 0:
//!
//! score = ∛(((0.85 A)³ + B³ + (1.2 C)³ + (0.6 R)³ + (0.6 S)³ + N³) / 5) + 0.6 log₁₀(interval / 5 min)
//!
//! The score is 0 for the first 150 values. After those it is 0 unless it is clearly higher than the last
//! hundred scores ([`Cooldown`]).

use crate::cooldown::Cooldown;
use crate::daily_profile::DailyProfile;
use crate::detector::Detector;
use crate::leader_clusters::{LeaderClusters, LeaderParameters};
use crate::normalized_error::NormalizedError;
use crate::normalizer::{Conversion, Normalizer};
use crate::sample_interval::SampleInterval;
use crate::saved::saved;
use crate::tail_probability::{TailProbability, memory};

/// Values before the first score: until then every state is new.
pub const COUNT_MIN: u32 = 150;
/// Values in each mean of the long piece.
const BLOCK: u32 = 12;
const VALUE: LeaderParameters = LeaderParameters { radius: 0.3, growth: 1e-4 };
const CURVE: LeaderParameters = LeaderParameters { radius: 0.4, growth: 2e-4 };
/// Gets one point in twelve values, so each point adds more weight.
const BLOCKS: LeaderParameters = LeaderParameters { radius: 0.4, growth: 1.2e-2 };
/// A value leaves the range when it is outside by more than this fraction of its width.
const RANGE_MARGIN: f64 = 0.005;

/// Below this sum of cubes the score is 0: a cube root takes longer than most of the other steps.
const CUBES_MIN: f32 = 1.0;

/// The descriptions of one stream's present, and the clusters of its past.
#[derive(Clone, Debug, Default)]
pub struct Past {
    normalizer: Normalizer,
    /// Moving averages of spans 8 and 64.
    short: f64,
    long: f64,
    /// The sum of the current block, and the means of the two blocks before it.
    block: f64,
    means: [f32; 2],
    values: LeaderClusters<1>,
    curves: LeaderClusters<3>,
    blocks: LeaderClusters<3>,
    tails: [TailProbability; 3],
}

saved!(Past { normalizer, short, long, block, means, values, curves, blocks, tails });

/// The surprise of each description, 0 to 12.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Surprises {
    /// Of the value alone.
    pub value: f32,
    /// Of the value and two moving averages.
    pub curve: f32,
    /// Of the last three means of twelve values; 0 except for every twelfth value.
    pub blocks: f32,
}

impl Past {
    /// The stream's normalizer.
    #[inline]
    pub fn normalizer(&self) -> &Normalizer {
        &self.normalizer
    }

    /// The moving average of span 64, before the next value.
    #[inline]
    pub fn long(&self) -> f64 {
        self.long
    }

    /// Compares a value with the past, then adds it. `faster`: by how much the stream is faster than one value a minute, as
    /// its memory is one of days. `grain`: how far the value may be from its past without surprise. The caller applies the
    /// conversion, if there is one, to whatever else it keeps in the normalizer's coordinates.
    #[inline]
    pub fn take(&mut self, value: f64, faster: f32, grain: f32) -> (Surprises, Option<Conversion>) {
        let memory = memory(faster);
        let conversion = self.normalizer.take(value);
        if let Some(conversion) = conversion {
            self.convert(conversion);
        }
        let (count, inverse) = (self.normalizer.count(), self.normalizer.inverse());
        if count == 1 {
            (self.short, self.long) = (value, value);
        }
        self.short += 2.0 / 9.0 * (value - self.short);
        self.long += 2.0 / 65.0 * (value - self.long);
        let [at, short, long] = [value, self.short, self.long].map(|v| self.normalizer.at(v));
        let [values, curves, blocks] = &mut self.tails;
        let distance = self.values.add(VALUE.slower(faster), [at], inverse);
        let beyond = (distance - self.normalizer.deviations(grain)).max(0.0);
        let mut surprises = Surprises {
            value: values.surprise_within(beyond, memory),
            curve: curves.surprise_within(
                self.curves.add(CURVE.slower(faster), [at, short, long], inverse),
                memory,
            ),
            blocks: 0.0,
        };
        self.block += value;
        if count.is_multiple_of(BLOCK) {
            let mean = self.normalizer.at(self.block / f64::from(BLOCK));
            let point = [self.means[0], self.means[1], mean];
            if count >= 3 * BLOCK {
                surprises.blocks = blocks.surprise_within(
                    self.blocks.add(BLOCKS.slower(faster), point, inverse),
                    memory,
                );
            }
            self.means = [self.means[1], mean];
            self.block = 0.0;
        }
        (surprises, conversion)
    }

    #[cold]
    fn convert(&mut self, conversion: Conversion) {
        self.values.convert(|c| conversion.apply(c));
        self.curves.convert(|c| conversion.apply(c));
        self.blocks.convert(|c| conversion.apply(c));
        self.means = self.means.map(|c| conversion.apply(c));
    }
}

/// The range of the values so far.
#[derive(Clone, Debug)]
pub struct ValueRange {
    low: f64,
    high: f64,
}

saved!(ValueRange { low, high });

impl Default for ValueRange {
    fn default() -> Self {
        Self { low: f64::INFINITY, high: f64::NEG_INFINITY }
    }
}

impl ValueRange {
    /// Whether the value is clearly outside the range; then the range includes it. False for the first value.
    #[inline]
    pub fn leaves(&mut self, value: f64) -> bool {
        let width = self.high - self.low;
        let margin = RANGE_MARGIN * width;
        let leaves = width >= 0.0 && (value > self.high + margin || value < self.low - margin);
        self.low = self.low.min(value);
        self.high = self.high.max(value);
        leaves
    }
}

/// Combines the parts of a score: the cube root of a fifth of the sum of their cubes, so that one high part
/// counts, or two of half the height. Less than about a half becomes 0.
#[inline]
pub fn combine(parts: &[f32]) -> f32 {
    let cubes: f32 = parts.iter().map(|p| p * p * p).sum();
    if cubes > CUBES_MIN { (cubes / 5.0).cbrt() } else { 0.0 }
}

/// The part of a value that leaves the range.
const LEFT_RANGE: f32 = 3.0;
/// The weight of each value in the moving average.
const AVERAGE_WEIGHT: f64 = 0.3;
/// The interval at which the score has no term for the interval.
const INTERVAL_S: f32 = 300.0;
/// The score added for ten times the interval: what happens once in a thousand values happens more rarely there.
const SCORE_PER_DECADE: f32 = 0.6;
/// The cooldown period, in values.
const COOLDOWN_VALUES: f32 = 100.0;

/// The state of one stream.
#[derive(Clone, Debug, Default)]
pub struct Novelty {
    past: Past,
    range: ValueRange,
    average: f64,
    average_errors: NormalizedError,
    profile: DailyProfile,
    profile_errors: NormalizedError,
    interval: SampleInterval,
    cooldown: Cooldown,
}

saved!(Novelty {
    past,
    range,
    average,
    average_errors,
    profile,
    profile_errors,
    interval,
    cooldown,
});

impl Detector for Novelty {
    const THRESHOLD: f64 = 2.0;
    const STATE_VERSION: u16 = 2;

    #[inline]
    fn observe(&mut self, timestamp_us: i64, value: f64) -> f64 {
        self.interval.elapsed_s(timestamp_us);
        let (surprises, conversion) = self.past.take(value, self.interval.faster(), 0.0);
        if let Some(conversion) = conversion {
            self.profile.convert(conversion);
        }
        let count = self.past.normalizer.count();
        if count == 1 {
            self.average = value;
        }
        let average_error = self.average_errors.normalize((value - self.average).abs() as f32);
        self.average += AVERAGE_WEIGHT * (value - self.average);
        let step_max = self.profile_errors.step_max();
        let error = self.profile.error(&self.past.normalizer, timestamp_us, value, step_max);
        let profile_error = error.map_or(0.0, |error| self.profile_errors.normalize(error));
        let left = self.range.leaves(value);
        if count <= COUNT_MIN {
            return 0.0;
        }
        let score = combine(&[
            0.85 * surprises.value,
            surprises.curve,
            1.2 * surprises.blocks,
            0.6 * average_error,
            0.6 * profile_error,
            if left { LEFT_RANGE } else { 0.0 },
        ]);
        let score = if score > 0.0 {
            let decades = (self.interval.interval_s() / INTERVAL_S).log10();
            (score + SCORE_PER_DECADE * decades).max(0.0)
        } else {
            0.0
        };
        f64::from(self.cooldown.pass(score, 1.0 / COOLDOWN_VALUES))
    }
}
