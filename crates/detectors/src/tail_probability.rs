//! The tail probability of a number: −log₁₀ of the fraction of earlier numbers that were as large.
//!
//! The earlier numbers are a histogram of quarter octaves. Beyond the largest the tail is assumed to be a power
//! law, whose exponent follows from the largest twentieth (Hill, *A Simple General Approach to Inference About
//! the Tail of a Distribution*, 1975), limited to 1 to 8. When the histogram is full all counts are halved, so
//! that it forgets.

use crate::saved::saved;

/// Four bins an octave, from 2⁻¹⁶ to 2⁸: distances in deviations of their stream.
const BINS: usize = 96;
/// Bits below the quarter of an octave in a float.
const BIN_SHIFT: u32 = 21;
/// The bin of 2⁻¹⁶, counted from the float 0.
const FIRST: u32 = (127 - 16) << 2;
/// Counts are halved at this total: two weeks of one value a minute.
const COUNT_MAX: u16 = 20_000;
/// Of faster streams the total is larger, up to so many times: a week of one value in ten seconds. Keeps every count
/// within 16 bits.
const FASTER_MAX: f32 = 3.0;
const _: () = assert!(COUNT_MAX as f32 * FASTER_MAX < u16::MAX as f32);
/// Numbers before the first surprise.
const COUNT_MIN: u16 = 20;
/// A number that this fraction of the past has reached has no surprise.
const COMMON: f32 = 0.1;
/// The largest surprise: no past is long enough for a probability below 10⁻¹².
const SURPRISE_MAX: f32 = 12.0;

/// How many numbers a stream remembers that is so many times faster than one value a minute.
#[inline]
pub fn memory(faster: f32) -> u16 {
    (f32::from(COUNT_MAX) * faster.clamp(1.0, FASTER_MAX)) as u16
}

/// The distribution of a number, 0 and up.
#[derive(Clone, Debug)]
pub struct TailProbability {
    bins: [u16; BINS],
    count: u16,
    max: f32,
    /// The first bin with no more than [`COMMON`] of the past above it, and how many are above it.
    common: u8,
    above_common: u16,
}

// Counts that do not add up would overflow.
saved!(TailProbability { bins, count, max, common, above_common } if |it| {
    let above = |from: usize| it.bins[from..].iter().try_fold(0u16, |sum, &n| sum.checked_add(n));
    it.count < memory(FASTER_MAX)
        && usize::from(it.common) < BINS
        && above(0) == Some(it.count)
        && above(usize::from(it.common) + 1) == Some(it.above_common)
});

impl Default for TailProbability {
    fn default() -> Self {
        Self { bins: [0; BINS], count: 0, max: 0.0, common: 0, above_common: 0 }
    }
}

impl TailProbability {
    /// −log₁₀ of the fraction of the past that reached `value`, 0 to 12; then the past includes `value`.
    #[inline]
    pub fn surprise(&mut self, value: f32) -> f32 {
        self.surprise_within(value, COUNT_MAX)
    }

    /// The same with that [`memory`].
    #[inline]
    pub fn surprise_within(&mut self, value: f32, memory: u16) -> f32 {
        debug_assert!(value >= 0.0);
        let bin = bin(value);
        let surprise = if self.count < COUNT_MIN || bin < usize::from(self.common) {
            0.0
        } else {
            let fraction = self.fraction(bin, value);
            if fraction > COMMON { 0.0 } else { (-fraction.log10()).min(SURPRISE_MAX) }
        };
        self.bins[bin] += 1;
        self.count += 1;
        self.max = self.max.max(value);
        self.above_common += u16::from(bin > usize::from(self.common));
        while self.count >= memory {
            self.halve();
        }
        self.update_common();
        surprise
    }

    /// Moves `common` where the counts require it, mostly by no bin or by one.
    #[inline]
    fn update_common(&mut self) {
        let most = COMMON * (f32::from(self.count) + 1.0);
        while f32::from(self.above_common) > most {
            self.common += 1;
            self.above_common -= self.bins[usize::from(self.common)];
        }
        while self.common > 0 {
            let above = self.above_common + self.bins[usize::from(self.common)];
            if f32::from(above) > most {
                break;
            }
            self.common -= 1;
            self.above_common = above;
        }
    }

    /// The fraction that reached `value`; half a number is added, so that it is never 0.
    #[cold]
    fn fraction(&self, bin: usize, value: f32) -> f32 {
        let one = 1.0 / (f32::from(self.count) + 1.0);
        if value > self.max && self.max > 0.0 {
            return 0.5 * one * (self.max / value).powf(self.exponent());
        }
        let (from, to) = (edge(bin), edge(bin + 1));
        let rest = ((to - value) / (to - from)).clamp(0.0, 1.0);
        let above: u16 = self.bins[bin + 1..].iter().sum();
        (f32::from(above) + f32::from(self.bins[bin]) * rest + 0.5) * one
    }

    /// The number that so small a fraction of the past reaches, beyond the largest so far at least. None before the
    /// first surprise.
    pub fn reached_by(&self, fraction: f32) -> Option<f32> {
        if self.count < COUNT_MIN || self.max <= 0.0 {
            return None;
        }
        // The inverse of `fraction` beyond the largest.
        let beyond_max = 0.5 / (f32::from(self.count) + 1.0);
        Some(self.max * (beyond_max / fraction).max(1.0).powf(1.0 / self.exponent()))
    }

    /// The exponent of the power law, by the largest twentieth.
    #[cold]
    fn exponent(&self) -> f32 {
        let wanted = self.count / 20 + 1;
        let mut reached = 0u16;
        let mut bin = BINS;
        while reached < wanted && bin > 0 {
            bin -= 1;
            reached += self.bins[bin];
        }
        let spread = (self.max / edge(bin)).max(1.01);
        (f32::from(reached).ln() / spread.ln()).clamp(1.0, 8.0)
    }

    #[cold]
    fn halve(&mut self) {
        for n in &mut self.bins {
            *n /= 2;
        }
        self.count = self.bins.iter().sum();
        self.above_common = self.bins[usize::from(self.common) + 1..].iter().sum();
    }
}

#[inline]
fn bin(value: f32) -> usize {
    let quarter = value.to_bits() >> BIN_SHIFT;
    (quarter.saturating_sub(FIRST) as usize).min(BINS - 1)
}

/// The lower edge of a bin.
fn edge(bin: usize) -> f32 {
    f32::from_bits((bin as u32 + FIRST) << BIN_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_surprise_is_the_fraction_of_the_past_that_was_as_large() {
        let mut tail = TailProbability::default();
        // 1 to 1000, well mixed.
        for i in 0..10_000u32 {
            tail.surprise(((i * 617) % 1_000 + 1) as f32 / 100.0);
        }
        for (value, share) in [(9.21, 0.08), (9.51, 0.05), (9.91, 0.01)] {
            let surprise = tail.clone().surprise(value);
            let expected = -f32::log10(share);
            assert!((surprise - expected).abs() < 0.15, "{value}: {surprise}, not {expected}");
        }
        assert_eq!(tail.clone().surprise(5.0), 0.0);
        let mut before = 0.0;
        for value in [10.0, 10.5, 12.0, 14.0] {
            let surprise = tail.clone().surprise(value);
            assert!(surprise > before, "{value}: {surprise}");
            before = surprise;
        }
        assert_eq!(tail.surprise(1e6), SURPRISE_MAX);
    }

    #[test]
    fn what_a_fraction_reaches_has_that_surprise() {
        let mut tail = TailProbability::default();
        assert_eq!(tail.reached_by(1e-6), None);
        for i in 0..1_000u32 {
            tail.surprise((i * 617 % 1_000 + 1) as f32 / 100.0);
        }
        for surprise in [4.0, 6.0] {
            let reached = tail.reached_by(10f32.powf(-surprise)).expect("there is a past");
            assert!(reached > 10.0);
            let again = tail.clone().surprise(reached);
            assert!((again - surprise).abs() < 0.01, "{reached}: {again}");
        }
        assert_eq!(tail.reached_by(0.01), Some(10.0), "the largest at least");
    }

    #[test]
    fn the_common_bin_is_where_a_full_count_puts_it() {
        for memory in [memory(0.1), memory(2.0), memory(100.0)] {
            the_common_bin_is_right(memory);
        }
    }

    fn the_common_bin_is_right(memory: u16) {
        let mut tail = TailProbability::default();
        let mut state = 1u32;
        for i in 0..3 * u32::from(memory) {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let level = if i % 30_000 < 15_000 { 1.0 } else { 64.0 };
            tail.surprise_within(level * (state >> 8) as f32 / (1 << 24) as f32, memory);
            let above =
                |bin: usize| -> u32 { tail.bins[bin + 1..].iter().map(|&n| u32::from(n)).sum() };
            let most = COMMON * (f32::from(tail.count) + 1.0);
            let common = usize::from(tail.common);
            assert_eq!(above(common), u32::from(tail.above_common));
            assert!(above(common) as f32 <= most);
            assert!(common == 0 || above(common - 1) as f32 > most);
            assert!(tail.count < memory);
        }
    }

    #[test]
    fn first_values_and_extreme_floats_are_accepted() {
        let mut tail = TailProbability::default();
        for value in [0.0, 1e-40, 3e38, 0.0, 1.0] {
            assert_eq!(tail.surprise(value), 0.0);
        }
        for _ in 0..100 {
            tail.surprise(0.0);
        }
        assert!((1.0..=SURPRISE_MAX).contains(&tail.surprise(3e38)));
    }
}
