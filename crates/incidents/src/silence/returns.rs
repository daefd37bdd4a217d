//! How long devices were away that seemed silent and came back.
//!
//! A new device has not shown its rare gaps: a daily restart, a stall of its network. What devices with a like mean gap
//! have shown is expected of it too, until it has been heard for long enough. So a fleet of new devices costs some false
//! silences in all, and not one for each device.
//!
//! Regular devices do not come back, so nothing is expected where all are regular.

/// Mean gaps of 1 s, 2 s, 4 s and so on up to nine hours have a row each.
const OCTAVES: usize = 16;
/// Gaps of a row: the last ones. Few, so that a row follows the fleet.
const KEPT: u8 = 8;
/// So many gaps tell something.
const ENOUGH: usize = 3;
/// By how much the next gap may be longer.
const CAUTION: f32 = 1.5;
/// Devices that come back within this time may have had one outage, and count as one.
const APART_S: u32 = 64;

/// Devices with a like mean gap.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    gaps_s: [u16; KEPT as usize],
    /// Gaps that it has.
    kept: u8,
    /// Where the next one goes.
    next: u8,
    /// When the last one ended.
    at_s: u32,
}

/// The last gaps of devices that came back, by mean gap.
#[derive(Clone, Debug, Default)]
pub struct Returns {
    rows: [Row; OCTAVES],
}

fn octave(mean_s: f32) -> usize {
    (mean_s.max(1.0).log2() as usize).min(OCTAVES - 1)
}

impl Returns {
    /// Takes a device that seemed silent and is back.
    pub fn add(&mut self, mean_s: f32, gap_s: u32, now_s: u32) {
        let row = &mut self.rows[octave(mean_s)];
        if row.kept > 0 && now_s < row.at_s.saturating_add(APART_S) {
            return;
        }
        row.gaps_s[usize::from(row.next)] = u16::try_from(gap_s).unwrap_or(u16::MAX);
        row.next = (row.next + 1) % KEPT;
        row.kept = (row.kept + 1).min(KEPT);
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
}
