//! How unusual a number is in its own past: −log₁₀ of the share of earlier ones that were as large.
//!
//! The past is a histogram of quarter octaves. Beyond its largest value the tail is taken for a power
//! law, with the exponent that the largest twentieth shows (Hill, 1975), kept within 1 to 8. When the
//! histogram is full all counts are halved, so that it forgets.

/// Four bins an octave, from 2⁻¹⁶ to 2⁸: distances in deviations of their stream.
const BINS: usize = 96;
/// Bits below the quarter of an octave in a float.
const BIN_SHIFT: u32 = 21;
/// The bin of 2⁻¹⁶, counted from the float 0.
const FIRST: u32 = (127 - 16) << 2;
/// Halved here: weeks of one value a minute. Keeps every count within 16 bits.
const COUNT_MAX: u16 = 20_000;
/// Before it a share says nothing.
const COUNT_MIN: u16 = 20;
/// What a tenth of the past has reached is usual, and worth 0.
const USUAL: f32 = 0.1;
/// No past is long enough to say more than 10⁻¹².
const SURPRISE_MAX: f32 = 12.0;

/// The past of one number, 0 and up.
#[derive(Clone, Debug)]
pub struct TailProbability {
    bins: [u16; BINS],
    count: u16,
    max: f32,
    /// The first bin that no more than [`USUAL`] of the past lies above, and how many do.
    usual: u8,
    above_usual: u16,
}

impl Default for TailProbability {
    fn default() -> Self {
        Self { bins: [0; BINS], count: 0, max: 0.0, usual: 0, above_usual: 0 }
    }
}

impl TailProbability {
    /// −log₁₀ of the share of the past that reached `value`, 0 to 12; then it is past, too.
    #[inline]
    pub fn surprise(&mut self, value: f32) -> f32 {
        debug_assert!(value >= 0.0);
        let bin = bin(value);
        let surprise = if self.count < COUNT_MIN || bin < usize::from(self.usual) {
            0.0
        } else {
            let share = self.share(bin, value);
            if share > USUAL { 0.0 } else { (-share.log10()).min(SURPRISE_MAX) }
        };
        self.bins[bin] += 1;
        self.count += 1;
        self.max = self.max.max(value);
        self.above_usual += u16::from(bin > usize::from(self.usual));
        if self.count == COUNT_MAX {
            self.halve();
        }
        self.settle();
        surprise
    }

    /// Moves `usual` to where it belongs; by a bin now and then.
    #[inline]
    fn settle(&mut self) {
        let most = USUAL * (f32::from(self.count) + 1.0);
        while f32::from(self.above_usual) > most {
            self.usual += 1;
            self.above_usual -= self.bins[usize::from(self.usual)];
        }
        while self.usual > 0 {
            let above = self.above_usual + self.bins[usize::from(self.usual)];
            if f32::from(above) > most {
                break;
            }
            self.usual -= 1;
            self.above_usual = above;
        }
    }

    /// The share that reached `value`, counting half a value more than there is: nothing is impossible.
    #[cold]
    fn share(&self, bin: usize, value: f32) -> f32 {
        let one = 1.0 / (f32::from(self.count) + 1.0);
        if value > self.max && self.max > 0.0 {
            return 0.5 * one * (self.max / value).powf(self.exponent());
        }
        let (from, to) = (edge(bin), edge(bin + 1));
        let rest = ((to - value) / (to - from)).clamp(0.0, 1.0);
        let above: u16 = self.bins[bin + 1..].iter().sum();
        (f32::from(above) + f32::from(self.bins[bin]) * rest + 0.5) * one
    }

    /// How fast the largest twentieth thins out towards the largest.
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
        self.above_usual = self.bins[usize::from(self.usual) + 1..].iter().sum();
    }
}

#[inline]
fn bin(value: f32) -> usize {
    let quarter = value.to_bits() >> BIN_SHIFT;
    (quarter.saturating_sub(FIRST) as usize).min(BINS - 1)
}

/// Where a bin begins.
fn edge(bin: usize) -> f32 {
    f32::from_bits((bin as u32 + FIRST) << BIN_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_surprise_is_the_share_of_the_past_that_came_as_far() {
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
    fn the_bar_of_what_is_usual_is_where_a_count_puts_it() {
        let mut tail = TailProbability::default();
        let mut state = 1u32;
        for i in 0..60_000u32 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let level = if i % 30_000 < 15_000 { 1.0 } else { 64.0 };
            tail.surprise(level * (state >> 8) as f32 / (1 << 24) as f32);
            let above =
                |bin: usize| -> u32 { tail.bins[bin + 1..].iter().map(|&n| u32::from(n)).sum() };
            let most = USUAL * (f32::from(tail.count) + 1.0);
            let usual = usize::from(tail.usual);
            assert_eq!(above(usual), u32::from(tail.above_usual));
            assert!(above(usual) as f32 <= most);
            assert!(usual == 0 || above(usual - 1) as f32 > most);
            assert!(tail.count < COUNT_MAX);
        }
    }

    #[test]
    fn the_first_values_and_the_extremes_of_floats_are_taken() {
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
