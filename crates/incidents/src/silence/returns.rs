//! What like devices have shown that a new device has not shown so far: rare gaps, and when it rests.
//!
//! - A daily restart, a stall of its network: how long devices were away that seemed silent and came back. It is expected of a new
//!   device too, until it has been heard for long enough. So a fleet of new devices costs some false silences in all, and not
//!   one for each device. Regular devices do not come back, so nothing is expected where all are regular.
//! - The first evening of a fleet that rests at night: devices fall silent one after the other within an hour, and do not come
//!   back. An outage takes all at once, or a site of them. Of a device that has not been heard for a day this rest is
//!   expected, for a day.
//!
//! Like devices have a like mean gap.

use sigmad_detectors::saved::{Saved, saved};

/// Mean gaps of 1 s, 2 s, 4 s and so on up to nine hours have a row each.
const OCTAVES: usize = 16;
/// Gaps of a row: the last ones. Few, so that a row follows the fleet.
const KEPT: u8 = 8;
/// Rests of a row: the last ones.
const RESTS_KEPT: u8 = 16;
/// So many gaps tell something.
const ENOUGH: usize = 3;
/// So many devices that fell silent apart from one another, within [`EVENING_S`], are a fleet that rests.
const RESTS: usize = 4;
/// How far from theirs the last sample of a device may be that rests with them, in time of day.
const EVENING_S: i64 = 3_600;
/// By how much the next gap may be longer.
const CAUTION: f32 = 1.5;
/// Devices that come back within this time may have had one outage, and count as one.
const APART_S: u32 = 64;
/// Devices whose last samples are closer may have one outage, and count as one. So they do within two mean gaps: in an outage each
/// device sent its last sample at any time of a gap.
const RESTS_APART_S: u32 = 300;
const APART_GAPS: f32 = 2.0;
const DAY_S: i64 = 86_400;
/// Rests that began earlier tell nothing: a weekend lies between.
const REST_KNOWN_S: i64 = 4 * DAY_S;

/// Devices with a like mean gap.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Row {
    gaps_s: [u16; KEPT as usize],
    /// Gaps that it has.
    kept: u8,
    /// Where the next one goes.
    next: u8,
    /// When the last one ended.
    at_s: u32,
    /// Since when devices are silent that have not come back, 0 for none: on the clock of silences.
    rests_s: [u32; RESTS_KEPT as usize],
    next_rest: u8,
}

saved!(Row { gaps_s, kept, next, at_s, rests_s, next_rest });

/// What devices have shown, by mean gap.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Returns {
    rows: [Row; OCTAVES],
    /// Nothing is taken any more.
    is_closed: bool,
}

impl Saved for Returns {
    fn write(&self, to: &mut Vec<u8>) {
        self.rows.write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let rows = <[Row; OCTAVES]>::read(from)?;
        let is_row = |row: &Row| row.kept <= KEPT && row.next < KEPT && row.next_rest < RESTS_KEPT;
        rows.iter().all(is_row).then_some(Self { rows, is_closed: false })
    }
}

fn octave(mean_s: f32) -> usize {
    (mean_s.max(1.0).log2() as usize).min(OCTAVES - 1)
}

impl Row {
    fn add_gap(&mut self, gap_s: u16) {
        self.gaps_s[usize::from(self.next)] = gap_s;
        self.next = (self.next + 1) % KEPT;
        self.kept = (self.kept + 1).min(KEPT);
    }

    fn add_rest(&mut self, since_s: u32, apart_s: u32) {
        if self.rests_s.iter().all(|rest_s| since_s.abs_diff(*rest_s) >= apart_s) {
            self.rests_s[usize::from(self.next_rest)] = since_s;
            self.next_rest = (self.next_rest + 1) % RESTS_KEPT;
        }
    }
}

impl Returns {
    /// From now on nothing is expected of a device because others have shown it.
    pub fn close(&mut self) {
        *self = Self { is_closed: true, ..Self::default() };
    }

    /// Takes a device that seemed silent and is back.
    pub fn add(&mut self, mean_s: f32, gap_s: u32, now_s: u32) {
        if self.is_closed {
            return;
        }
        let row = &mut self.rows[octave(mean_s)];
        if row.kept > 0 && now_s < row.at_s.saturating_add(APART_S) {
            return;
        }
        row.add_gap(u16::try_from(gap_s).unwrap_or(u16::MAX));
        row.at_s = now_s;
    }

    /// The gap in seconds that is expected of a new device, 0 where nothing is known. It goes by the second longest gap
    /// of its row: the longest may have been an outage.
    pub fn expected_s(&self, mean_s: f32) -> f32 {
        let row = &self.rows[octave(mean_s)];
        let kept = usize::from(row.kept);
        if kept < ENOUGH {
            return 0.0;
        }
        let mut gaps_s = row.gaps_s;
        gaps_s[..kept].sort_unstable();
        CAUTION * f32::from(gaps_s[kept - 2])
    }

    /// Takes a device that is silent since then, and may rest: others that die tell nothing of those that are new.
    pub fn add_rest(&mut self, mean_s: f32, since_s: u32) {
        if self.is_closed {
            return;
        }
        let apart_s = (APART_GAPS * mean_s).max(RESTS_APART_S as f32) as u32;
        self.rows[octave(mean_s)].add_rest(since_s, apart_s);
    }

    /// Takes back a device that was silent since then: it was no rest.
    pub fn take_rest_back(&mut self, mean_s: f32, since_s: u32) {
        let rests_s = &mut self.rows[octave(mean_s)].rests_s;
        rests_s.iter_mut().filter(|rest_s| **rest_s == since_s).for_each(|rest_s| *rest_s = 0);
    }

    /// Whether like devices rest from that time of day on.
    pub fn rest_near(&self, mean_s: f32, since_s: u32) -> bool {
        let is_near = |rest_s: &&u32| {
            let ago_s = i64::from(since_s) - i64::from(**rest_s);
            let apart_s = ago_s.rem_euclid(DAY_S);
            let is_known = **rest_s > 0 && ago_s.abs() <= REST_KNOWN_S;
            is_known && apart_s.min(DAY_S - apart_s) <= EVENING_S
        };
        self.rows[octave(mean_s)].rests_s.iter().filter(is_near).count() >= RESTS
    }

    /// Adds what a shard knew before a restart. There were perhaps several, which may have known the same.
    pub fn restore(&mut self, saved: &Self) {
        for (row, saved) in self.rows.iter_mut().zip(&saved.rows) {
            if *row == Row::default() {
                *row = *saved;
                continue;
            }
            for gap_s in &saved.gaps_s[..usize::from(saved.kept)] {
                if !row.gaps_s[..usize::from(row.kept)].contains(gap_s) {
                    row.add_gap(*gap_s);
                }
            }
            let rests_s = saved.rests_s.iter().filter(|rest_s| **rest_s > 0);
            rests_s.for_each(|rest_s| row.add_rest(*rest_s, RESTS_APART_S));
            row.at_s = row.at_s.max(saved.at_s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_returns_tell_and_one_outage_does_not() {
        let mut returns = Returns::default();
        returns.add(10.0, 40, 1_000);
        returns.add(11.0, 3_000, 2_000);
        assert_eq!(returns.expected_s(10.0), 0.0);
        returns.add(15.0, 60, 3_000);
        assert_eq!((returns.expected_s(8.0), returns.expected_s(16.0)), (90.0, 0.0));
        (0..20).for_each(|i| returns.add(10.0, 50, 4_000 + i * APART_S));
        assert_eq!(returns.expected_s(10.0), 75.0, "what is past is forgotten");
    }

    #[test]
    fn a_site_that_comes_back_counts_as_one() {
        let mut returns = Returns::default();
        (0..100).for_each(|i| returns.add(10.0, 600, 5_000 + i / 4));
        assert_eq!(returns.expected_s(10.0), 0.0);
        assert_eq!(returns.expected_s(f32::MAX), 0.0);
    }

    #[test]
    fn devices_that_fall_silent_one_by_one_rest_and_a_site_does_not() {
        let mut returns = Returns::default();
        // A site of 100 devices, and one whose devices send once in five minutes.
        (0..100).for_each(|i| returns.add_rest(10.0, 5_000 + i / 10));
        (0..100).for_each(|i| returns.add_rest(300.0, 5_000 + i * 3));
        assert!(!returns.rest_near(10.0, 5_200) && !returns.rest_near(300.0, 5_200));
        (1..4).for_each(|i| returns.add_rest(10.0, 5_000 + i * 400));
        assert!(returns.rest_near(10.0, 6_500) && returns.rest_near(10.0, 6_500 + 86_400));
        assert!(!returns.rest_near(10.0, 20_000) && !returns.rest_near(40.0, 6_500));
        assert!(!returns.rest_near(10.0, 6_500 + 5 * 86_400), "it is long ago");
        returns.take_rest_back(10.0, 5_800);
        assert!(!returns.rest_near(10.0, 6_500), "one is back");
    }

    #[test]
    fn what_several_shards_knew_is_one() {
        let mut first = Returns::default();
        let mut second = Returns::default();
        (0..2).for_each(|i| first.add(10.0, 40, 1_000 + i * 100));
        (0..2).for_each(|i| second.add(10.0, 40 + 20 * i, 2_000 + i * 100));
        (1..4).for_each(|i| first.add_rest(10.0, i * 500));
        second.add_rest(10.0, 1_900);
        let mut all = Returns::default();
        all.restore(&first);
        assert_eq!(all, first);
        all.restore(&second);
        // 40 s was known already.
        assert_eq!((all.rows[octave(10.0)].kept, all.expected_s(10.0)), (3, 60.0));
        first.add(10.0, 50, 3_000);
        (0..3).for_each(|_| all.restore(&first));
        assert_eq!((all.rows[octave(10.0)].kept, all.expected_s(10.0)), (4, 75.0));
        assert!(all.rest_near(10.0, 1_900) && !first.rest_near(10.0, 1_900));
        let mut bytes = Vec::new();
        all.write(&mut bytes);
        assert_eq!(Returns::read(&mut &bytes[..]), Some(all));
        bytes.fill(0xff);
        assert_eq!(Returns::read(&mut &bytes[..]), None);
    }
}
