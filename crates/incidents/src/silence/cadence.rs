//! How often one device is heard, in 16 bytes, and for how long it may plausibly be silent.
//!
//! Learned are the mean gap between samples and the longest one. Accrual detectors (Hayashibara et al., *The φ Accrual
//! Failure Detector*, 2004; Cassandra, Akka) take a distribution of gaps, normal or exponential, and raise the
//! threshold until false alarms are rare. Here the tail follows from the gaps themselves: of n gaps with an exponential
//! tail the longest exceeds the mean by b ln n, so b = (longest − mean) / ln n. The longest of all gaps of a thousand
//! weeks follows with their number in place of n. A regular device has no tail, and is silent after three gaps.
//! Passive checks elsewhere (freshness thresholds of Icinga and Sensu, staleness of Prometheus) have a fixed time.
//!
//! A device that pauses for an hour or more, as at the end of a working day, does so at certain hours. Pauses that
//! begin at such an hour, or the ones beside it, are expected.

use sigmad_detectors::saved::Saved;

/// No device is silent before: a lost packet is sent again for seconds, and agents restart.
const SILENT_MIN_S: f32 = 10.0;
/// A silence is at least so many mean gaps.
const GAPS_MIN: f32 = 3.0;
/// ln of the seconds in a thousand weeks: past the longest gap of these there is one false alarm.
const THOUSAND_WEEKS_LN: f32 = 20.2;
/// By how much the tail is taken to be longer than it seems: it is known from few gaps. Of a device that has been heard in
/// n slots, more by [`FEW`] / n: it has just begun to show them.
const CAUTION: f32 = 1.5;
const FEW: f32 = 24.0;
/// Slots of time in which a device must have been heard before it is judged.
const LEARNED: u8 = 16;
/// log₂ of the seconds in a slot: a device that is heard each second learns for a quarter of an hour, and a slow one for
/// as many samples.
const SLOT_BITS: u32 = 6;
/// Slots that are counted one by one. More are counted in steps at random moments (Morris, *Counting large numbers of
/// events in small registers*, 1978), so that 8 bits hold half a year.
const EXACT: u8 = 64;
/// Steps in which the number of slots doubles, and the slots of each of the first.
const STEPS: u8 = 16;
const SLOTS_A_STEP: u32 = EXACT as u32 / STEPS as u32;
/// The count of a device that has shown its rare gaps: 16,384 slots, which are twelve days.
const KNOWN: u8 = EXACT + 8 * STEPS;
/// ln n at most: the longest gap of all is forgotten in time.
const GAPS_LN_MAX: f32 = 6.9;
/// One slot in so many shrinks the longest gap: three days of a device that is heard each second. In less time the gap of a
/// daily restart would be forgotten before the next long one.
const SHRINK_MASK: u32 = 4_095;
/// Smallest learning rate of the mean.
const RATE_MIN: f32 = 1.0 / 64.0;
/// The count from which it holds: most samples need no division.
const RATE_MIN_FROM: u8 = 63;
/// One silence counts for no more than this many times what was plausible before: after an outage a device is still
/// watched.
const LONGER_MAX: f32 = 4.0;
/// A pause: a silence of this many seconds or more.
pub(crate) const PAUSE_S: f32 = 3_600.0;
/// The longest pause that is expected: a long weekend.
const PAUSE_MAX_S: f32 = 4.0 * 86_400.0;
/// A device with a longer mean gap learns for a day: three of its gaps may be a night.
const SLOW_S: f32 = 900.0;
const DAY_S: f32 = 86_400.0;
/// One day in so many without a pause near an hour takes this hour back.
const TAKE_BACK_MASK: u32 = 31;

const LINKED: u8 = 1;
const SILENT: u8 = 2;
const GONE: u8 = 4;
const IGNORED: u8 = 8;

/// The cadence of one device. A struct without pointers.
#[derive(Clone, Debug, Default)]
pub struct Cadence {
    /// When it was last heard, on the clock of silences. 0: never.
    pub(crate) last_s: u32,
    /// The next device of the same slot of the wheel.
    pub(crate) next: u32,
    /// Mean and longest gap: codes of floats.
    mean: u16,
    longest: u8,
    /// Slots of time in which it was heard: a code ([`Cadence::slots_ln`]).
    count: u8,
    /// The hours of the day in which a pause has begun.
    pauses: [u8; 3],
    flags: u8,
}

const _: () = assert!(size_of::<Cadence>() == 16);

/// A float of 1 and more in 16 bits: 32 octaves of 2,048 steps.
fn encode(value: f32) -> u16 {
    ((value.max(1.0).to_bits() - 1f32.to_bits()) >> 12) as u16
}

fn decode(code: u16) -> f32 {
    f32::from_bits(1f32.to_bits() + (u32::from(code) << 12))
}

/// The same in 8 bits, rounded up: 32 octaves of 8 steps.
fn encode_up(value: f32) -> u8 {
    let bits = value.max(1.0).to_bits() - 1f32.to_bits();
    ((bits + ((1 << 20) - 1)) >> 20).min(255) as u8
}

fn decode_up(code: u8) -> f32 {
    f32::from_bits(1f32.to_bits() + (u32::from(code) << 20))
}

/// Without its place in the wheel, and whether it is ignored.
impl Saved for Cadence {
    fn write(&self, to: &mut Vec<u8>) {
        self.last_s.write(to);
        self.mean.write(to);
        [self.longest, self.count, self.pauses[0], self.pauses[1], self.pauses[2]].write(to);
        (self.flags & (SILENT | GONE)).write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let (last_s, mean) = (u32::read(from)?, u16::read(from)?);
        let [longest, count, pauses @ ..] = <[u8; 5]>::read(from)?;
        let flags = u8::read(from)? & (SILENT | GONE);
        Some(Self { last_s, next: 0, mean, longest, count, pauses, flags })
    }
}

/// What a device's cadence has learned, without what belongs to the process that heard it: its clock and its wheel.
pub type LearnedCadence = [u8; 7];

impl Cadence {
    /// What it has learned, for another process that hears the device from now on.
    pub fn learned(&self) -> LearnedCadence {
        let [low, high] = self.mean.to_le_bytes();
        let [first, second, third] = self.pauses;
        [low, high, self.longest, self.count, first, second, third]
    }

    /// Goes on with what another process has learned, unless this one has learned for longer.
    pub(crate) fn learn(&mut self, learned: LearnedCadence) {
        let [low, high, longest, count, pauses @ ..] = learned;
        if count >= self.count {
            self.mean = u16::from_le_bytes([low, high]);
            (self.longest, self.count, self.pauses) = (longest, count, pauses);
        }
    }

    /// Takes a sample. `hour` says the hour of the day of a second on this clock: rarely asked, for the second in
    /// which the device was last heard. True when it was silent.
    #[inline]
    pub fn heard(&mut self, now_s: u32, hour: impl Fn(u32) -> u32) -> bool {
        let before_s = std::mem::replace(&mut self.last_s, now_s);
        if before_s == 0 || now_s <= before_s {
            return false;
        }
        let gap = (now_s - before_s) as f32;
        let was = self.flags;
        if was & (SILENT | GONE) != 0 {
            self.returned(gap, hour(before_s));
            return was & (SILENT | GONE) == SILENT;
        }
        if gap >= PAUSE_S && gap > GAPS_MIN * decode(self.mean) {
            // A pause is no gap: the day after it is watched as the one before.
            self.set_pause(hour(before_s), true);
        } else {
            self.take(gap);
        }
        if now_s >> SLOT_BITS != before_s >> SLOT_BITS {
            self.slot_ended(now_s, hour(before_s));
        }
        false
    }

    #[inline]
    fn take(&mut self, gap: f32) {
        let mean = decode(self.mean);
        let is_learned = self.count >= RATE_MIN_FROM;
        let rate = if is_learned { RATE_MIN } else { 1.0 / (f32::from(self.count) + 1.0) };
        self.mean = encode(mean + rate * (gap - mean));
        if gap > decode_up(self.longest) {
            self.longest = encode_up(gap);
        }
    }

    fn slot_ended(&mut self, now_s: u32, hour_before: u32) {
        self.count_slot(mixed(!now_s));
        let random = mixed(now_s);
        if random & SHRINK_MASK == 0 && decode_up(self.longest) > decode(self.mean) {
            self.longest = self.longest.saturating_sub(1);
        }
        // Heard in this hour: two hours ago no pause began.
        if random >> 16 & TAKE_BACK_MASK == 0 && now_s % 3_600 < 1 << SLOT_BITS {
            self.set_pause((hour_before + 22) % 24, false);
        }
    }

    /// Counts a slot: each one up to [`EXACT`], then one step for so many that [`STEPS`] of them double the number.
    fn count_slot(&mut self, random: u32) {
        let octave = u32::from(self.count.saturating_sub(EXACT) / STEPS);
        let counts = self.count < EXACT || random.is_multiple_of(SLOTS_A_STEP << octave);
        self.count = self.count.saturating_add(u8::from(counts));
    }

    /// ln of the slots in which it was heard.
    fn slots_ln(&self) -> f32 {
        let steps = f32::from(self.count.saturating_sub(EXACT)) / f32::from(STEPS);
        f32::from(self.count.clamp(1, EXACT)).ln() + steps * std::f32::consts::LN_2
    }

    /// Whether it has not been heard for long enough to have shown its rare gaps.
    pub(crate) fn is_new(&self) -> bool {
        self.count < KNOWN
    }

    /// A device that is heard again after it was silent.
    #[cold]
    fn returned(&mut self, gap: f32, hour_before: u32) {
        let plausible = self.plausible_s();
        self.flags &= !(SILENT | GONE);
        if gap >= PAUSE_S && gap > GAPS_MIN * decode(self.mean) {
            self.set_pause(hour_before, true);
        }
        let counted = gap.min(LONGER_MAX * plausible);
        if counted > decode_up(self.longest) {
            self.longest = encode_up(counted);
        }
    }

    fn set_pause(&mut self, hour: u32, begins: bool) {
        let (byte, bit) = ((hour / 8) as usize, 1 << (hour % 8));
        if begins {
            self.pauses[byte] |= bit;
        } else {
            self.pauses[byte] &= !bit;
        }
    }

    fn pauses_near(&self, hour: u32) -> bool {
        [hour + 23, hour, hour + 1].iter().any(|hour| {
            let hour = hour % 24;
            self.pauses[(hour / 8) as usize] & 1 << (hour % 8) != 0
        })
    }

    /// No gap that is shorter is a silence: the longest plausible one without the tail, which costs two logarithms.
    pub(crate) fn plausible_at_least_s(&self) -> u32 {
        (GAPS_MIN * decode(self.mean)).max(decode_up(self.longest)).max(SILENT_MIN_S) as u32
    }

    /// The longest plausible gap, in seconds, without regard to pauses.
    fn plausible_s(&self) -> f32 {
        let (mean, longest) = (decode(self.mean), decode_up(self.longest));
        let gaps_ln = self.slots_ln().clamp(1.0, GAPS_LN_MAX);
        let more_ln = (THOUSAND_WEEKS_LN - mean.ln() - gaps_ln).max(0.0);
        let tail = (longest - mean).max(0.0) / gaps_ln;
        let caution = CAUTION + FEW / f32::from(self.count.max(1));
        (GAPS_MIN * mean).max(longest + caution * tail * more_ln).max(SILENT_MIN_S)
    }

    /// Seconds after its last sample from which a device is silent, which was last heard in that hour of the day. None
    /// while its cadence is not known.
    pub fn silent_after_s(&self, hour: u32) -> Option<u32> {
        let is_slow = decode(self.mean) >= SLOW_S;
        if self.count < LEARNED || is_slow && self.heard_s() < DAY_S {
            return None;
        }
        let plausible = self.plausible_s();
        let expected = if self.pauses_near(hour) { plausible.max(PAUSE_MAX_S) } else { plausible };
        Some(expected.ceil() as u32)
    }

    /// The mean gap in seconds.
    pub fn interval_s(&self) -> f32 {
        decode(self.mean)
    }

    /// For how long it was heard: a slow one for one gap a slot.
    fn heard_s(&self) -> f32 {
        self.slots_ln().exp() * decode(self.mean).max((1 << SLOT_BITS) as f32)
    }

    /// Whether it may rest when like devices do: it has not been heard for a day, or is new and has rested before.
    pub(crate) fn may_rest_with_others(&self) -> bool {
        self.heard_s() < DAY_S || self.is_new() && self.pauses != [0; 3]
    }

    /// Forgets everything but the place in the wheel.
    pub(crate) fn reset(&mut self, is_ignored: bool) {
        let flags = self.flags & LINKED | if is_ignored { IGNORED } else { 0 };
        *self = Self { next: self.next, flags, ..Self::default() };
    }

    pub(crate) fn is_ignored(&self) -> bool {
        self.flags & IGNORED != 0
    }

    pub(crate) fn set_ignored(&mut self) {
        self.flags |= IGNORED;
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.flags & GONE != 0
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.flags & SILENT != 0
    }

    pub(crate) fn is_linked(&self) -> bool {
        self.flags & LINKED != 0
    }

    pub(crate) fn set_linked(&mut self, is_linked: bool) {
        self.flags = self.flags & !LINKED | if is_linked { LINKED } else { 0 };
    }

    pub(crate) fn set_silent(&mut self) {
        self.flags |= SILENT;
    }

    pub(crate) fn set_gone(&mut self) {
        self.flags |= GONE;
    }
}

/// Bits that look random, the same each time.
fn mixed(value: u32) -> u32 {
    let mixed = value.wrapping_mul(0x9e37_79b1);
    (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca77) ^ mixed >> 13
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(gaps: impl Iterator<Item = u32>) -> Cadence {
        let (mut cadence, mut now_s) = (Cadence::default(), 1_000_000);
        for gap in gaps {
            now_s += gap;
            cadence.heard(now_s, |_| 0);
        }
        cadence
    }

    #[test]
    fn codes_keep_their_digits_and_longest_is_not_below() {
        for value in [1.0, 1.5, 10.0, 61.0, 3_600.0, 1e6] {
            assert!((decode(encode(value)) / value - 1.0).abs() < 1e-3, "{value}");
            let up = decode_up(encode_up(value));
            assert!(up >= value && up < value * 1.13, "{value}: {up}");
        }
    }

    #[test]
    fn a_regular_device_is_silent_after_three_gaps() {
        for gap in [10, 60, 600] {
            let cadence = learned((0..400).map(|i| gap + i % 2));
            let silent = cadence.silent_after_s(0).expect("it is known") as f32;
            assert!((2.9..3.3).contains(&(silent / gap as f32)), "{gap}: {silent}");
        }
        let cadence = learned((0..2_000).map(|_| 1));
        assert_eq!(cadence.silent_after_s(0), Some(10));
        assert_eq!(learned((0..10).map(|_| 60)).silent_after_s(0), None, "it learns");
    }

    #[test]
    fn slots_are_counted_for_half_a_year() {
        let mut cadence = Cadence::default();
        let mut is_known_at = None;
        for slot in 1..300_000u32 {
            cadence.count_slot(mixed(!(slot << SLOT_BITS)));
            let counted = cadence.slots_ln().exp() / slot as f32;
            assert!((0.5..2.0).contains(&counted), "{slot}: {counted}");
            if !cadence.is_new() && is_known_at.is_none() {
                is_known_at = Some(slot);
            }
        }
        let days = is_known_at.expect("half a year has passed") / 1_350;
        assert!((6..24).contains(&days), "1,350 slots are a day: {days}");
        assert!(cadence.count >= 240);
    }

    #[test]
    fn an_irregular_device_has_longer() {
        let gap =
            |i: u32| (-(f32::from((mixed(i) % 1_000) as u16 + 1) / 1_001.0).ln() * 30.0) as u32 + 1;
        let cadence = learned((0..2_000).map(gap));
        let silent = cadence.silent_after_s(0).expect("it is known");
        assert!((400..900).contains(&silent), "{silent}");
    }
}
