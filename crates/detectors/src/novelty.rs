//! `novelty`: has this stream ever been like this?
//!
//! Three pictures of the present, each compared with the stream's own past by [`LeaderClusters`]: the value;
//! the value with two moving averages (spans 8 and 64), which is a short piece of the curve; and the
//! last three means of twelve, a long piece. How far each is from anything known becomes its surprise, by
//! what such distances have been so far ([`TailProbability`]). To them come the two ratios of
//! [`residual`](super::residual) and leaving the range seen so far:
//!
//! score = ∛(((0.85 tA)³ + tB³ + (1.2 tC)³ + (0.6 R)³ + (0.6 S)³ + N³) / 5)
//!
//! nothing for the first 150 values, then only what is louder than the last hundred ([`Cooldown`]).

use crate::Detector;
use crate::cooldown::Cooldown;
use crate::daily_profile::DailyProfile;
use crate::leader_clusters::{Habit, LeaderClusters};
use crate::normalized_error::NormalizedError;
use crate::normalizer::{Conversion, Normalizer};
use crate::tail_probability::TailProbability;

/// Before so many values nothing is new: everything is.
pub const COUNT_MIN: u32 = 150;
/// Values in a mean of the long piece.
const BLOCK: u32 = 12;
const VALUE: Habit = Habit { reach: 0.3, fading: 1e-4 };
const CURVE: Habit = Habit { reach: 0.4, fading: 2e-4 };
/// Visited once in twelve values, so it fades faster by the visit.
const BLOCKS: Habit = Habit { reach: 0.4, fading: 1.2e-2 };
/// Leaving the range by less than this part of it is not leaving it.
const RANGE_MARGIN: f64 = 0.005;

/// A root takes longer than most of what else is done for a value.
const CUBES_MIN: f32 = 1.0;

/// The pictures of one stream's present and past.
#[derive(Clone, Debug, Default)]
pub struct Past {
    scale: Normalizer,
    /// Moving averages of spans 8 and 64.
    short: f64,
    long: f64,
    /// Sum of the block that runs, and the two means before it.
    block: f64,
    means: [f32; 2],
    values: LeaderClusters<1>,
    curves: LeaderClusters<3>,
    blocks: LeaderClusters<3>,
    tails: [TailProbability; 3],
}

/// How surprising a value is to the pictures that hold it; 0 to 12 each.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Surprises {
    /// The value alone.
    pub value: f32,
    /// The value and two moving averages.
    pub curve: f32,
    /// The last three means of twelve; 0 but for every twelfth value.
    pub blocks: f32,
}

impl Past {
    /// The yardstick.
    #[inline]
    pub fn scale(&self) -> &Normalizer {
        &self.scale
    }

    /// The moving average of span 64, before the next value.
    #[inline]
    pub fn long(&self) -> f64 {
        self.long
    }

    /// Compares a value with the past, which it then belongs to. What else is kept in the scale's
    /// coordinates must follow the conversion, if there is one.
    #[inline]
    pub fn take(&mut self, value: f64) -> (Surprises, Option<Conversion>) {
        let conversion = self.scale.take(value);
        if let Some(conversion) = conversion {
            self.convert(conversion);
        }
        let (count, inverse) = (self.scale.count(), self.scale.inverse());
        if count == 1 {
            (self.short, self.long) = (value, value);
        }
        self.short += 2.0 / 9.0 * (value - self.short);
        self.long += 2.0 / 65.0 * (value - self.long);
        let [at, short, long] = [value, self.short, self.long].map(|v| self.scale.at(v));
        let [values, curves, blocks] = &mut self.tails;
        let mut surprises = Surprises {
            value: values.surprise(self.values.visit(VALUE, [at], inverse)),
            curve: curves.surprise(self.curves.visit(CURVE, [at, short, long], inverse)),
            blocks: 0.0,
        };
        self.block += value;
        if count.is_multiple_of(BLOCK) {
            let mean = self.scale.at(self.block / f64::from(BLOCK));
            let point = [self.means[0], self.means[1], mean];
            if count >= 3 * BLOCK {
                surprises.blocks = blocks.surprise(self.blocks.visit(BLOCKS, point, inverse));
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

impl Default for ValueRange {
    fn default() -> Self {
        Self { low: f64::INFINITY, high: f64::NEG_INFINITY }
    }
}

impl ValueRange {
    /// Whether the value leaves the range clearly; then it belongs to it. The first leaves none.
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

/// What the parts say together: the cube root of a fifth of the sum of their cubes, so that one loud
/// part or two half as loud count. Less than about a half is silence.
#[inline]
pub fn together(parts: &[f32]) -> f32 {
    let cubes: f32 = parts.iter().map(|p| p * p * p).sum();
    if cubes > CUBES_MIN { (cubes / 5.0).cbrt() } else { 0.0 }
}

/// Leaving the range, on the scale of a surprise.
const LEFT_RANGE: f32 = 3.0;
/// How far the moving average goes towards each value.
const FOLLOW: f64 = 0.3;
/// Scores that an alarm must be louder than.
const HELD: f32 = 100.0;

/// One stream.
#[derive(Clone, Debug, Default)]
pub struct Novelty {
    past: Past,
    range: ValueRange,
    average: f64,
    steps: NormalizedError,
    day: DailyProfile,
    days: NormalizedError,
    hold: Cooldown,
}

impl Detector for Novelty {
    const THRESHOLD: f64 = 2.0;

    #[inline]
    fn observe(&mut self, timestamp_us: i64, value: f64) -> f64 {
        let (surprises, conversion) = self.past.take(value);
        if let Some(conversion) = conversion {
            self.day.convert(conversion);
        }
        let count = self.past.scale.count();
        if count == 1 {
            self.average = value;
        }
        let step = self.steps.judge((value - self.average).abs() as f32);
        self.average += FOLLOW * (value - self.average);
        let error = self.day.error(&self.past.scale, timestamp_us, value);
        let day = error.map_or(0.0, |error| self.days.judge(error));
        let left = self.range.leaves(value);
        if count <= COUNT_MIN {
            return 0.0;
        }
        let score = together(&[
            0.85 * surprises.value,
            surprises.curve,
            1.2 * surprises.blocks,
            0.6 * step,
            0.6 * day,
            if left { LEFT_RANGE } else { 0.0 },
        ]);
        f64::from(self.hold.pass(score, 1.0 / HELD))
    }
}
