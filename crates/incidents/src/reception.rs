//! Whether anybody is heard at all, and the clock of silences, which runs only then.
//!
//! When nothing is received from anyone, the cause is here or on the way here, and no device is silent for it. All
//! together are one device with a [`Cadence`]: past its plausible gap reception is lost, and its seconds are taken out of
//! the clock of silences. So after a restart, or a gap of the network, each device has as long as before.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use sigmad_detectors::saved::saved;

use crate::silence::SilenceTime;
use crate::silence::cadence::Cadence;

/// The clock of silences, which one thread advances and all shards read. Each reads it by itself: a shard that sees a
/// second later notices a silence that much later.
#[derive(Clone, Debug, Default)]
pub struct SilenceClock(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// When somebody was last heard, on this clock.
    heard_s: AtomicU32,
    /// From this clock to seconds since 1970.
    offset_s: AtomicI64,
}

// Relaxed: nothing else follows from either.
impl SilenceClock {
    /// The time up to which somebody was heard.
    pub fn time(&self) -> SilenceTime {
        SilenceTime {
            now_s: self.0.heard_s.load(Ordering::Relaxed),
            offset_s: self.0.offset_s.load(Ordering::Relaxed),
        }
    }

    /// Goes on from a time, unless it is past that already.
    pub fn restore(&self, SilenceTime { now_s, offset_s }: SilenceTime) {
        if now_s > self.time().now_s {
            self.0.offset_s.store(offset_s, Ordering::Relaxed);
            self.0.heard_s.store(now_s, Ordering::Relaxed);
        }
    }

    /// The same for an arrival here, in seconds since 1970.
    pub fn at(&self, wall_s: i64) -> SilenceTime {
        let offset_s = self.0.offset_s.load(Ordering::Relaxed);
        SilenceTime { now_s: (wall_s - offset_s).max(1) as u32, offset_s }
    }
}

/// What became of reception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing was received since, in seconds since 1970.
    Lost(i64),
    /// Somebody was heard again.
    Back,
}

/// Reception of one process.
#[derive(Debug, Default)]
pub struct Reception {
    all: Cadence,
    is_lost: bool,
    clock: SilenceClock,
    /// Nobody has been heard since the process began: the time before is no time in which devices were silent.
    has_begun_again: bool,
}

/// What a restart keeps of [`Reception`]. The clock has its own.
#[derive(Clone, Debug, Default)]
pub struct SavedReception {
    all: Cadence,
    is_lost: bool,
}

saved!(SavedReception { all, is_lost });

impl Reception {
    /// Reception that advances this clock.
    pub fn new(clock: SilenceClock) -> Self {
        Self { clock, ..Self::default() }
    }

    /// What a restart keeps.
    pub fn saved(&self) -> SavedReception {
        SavedReception { all: self.all.clone(), is_lost: self.is_lost }
    }

    /// Goes on from what was kept.
    pub fn restore(&mut self, SavedReception { all, is_lost }: SavedReception) {
        (self.all, self.is_lost) = (all, is_lost);
    }

    /// The process goes on after a restart. `lost_since_s`: it was noticed that nothing is received since then.
    pub fn begin_again(&mut self, lost_since_s: Option<i64>) {
        let SilenceTime { now_s, offset_s } = self.clock.time();
        self.has_begun_again = now_s > 0;
        self.is_lost |= lost_since_s.is_some_and(|since_s| i64::from(now_s) + offset_s <= since_s);
    }

    /// When somebody was last heard, in seconds since 1970, if reception is lost.
    pub fn lost_since_s(&self) -> Option<i64> {
        let SilenceTime { now_s, offset_s } = self.clock.time();
        self.is_lost.then(|| i64::from(now_s) + offset_s)
    }

    /// Takes samples of anyone that arrived in that second.
    pub fn heard(&mut self, wall_s: i64, mut found: impl FnMut(Finding)) {
        let clock = self.clock.clone();
        let Shared { heard_s, offset_s } = &*clock.0;
        let before = clock.time();
        let gap_s = wall_s - (i64::from(before.now_s) + before.offset_s);
        if before.now_s == 0 {
            heard_s.store(wall_s.max(1) as u32, Ordering::Relaxed);
            self.all.heard(wall_s.max(1) as u32, |_| 0);
            return;
        }
        self.tick(wall_s, &mut found);
        let hour = |at_s| before.hour(at_s);
        let is_after_restart = std::mem::take(&mut self.has_begun_again) && gap_s > 0;
        if self.is_lost || gap_s < 0 || is_after_restart {
            // This clock goes on one second later; also where the clock of the system was set back.
            offset_s.store(before.offset_s + gap_s - 1, Ordering::Relaxed);
            heard_s.store(before.now_s + 1, Ordering::Relaxed);
            self.all.heard(before.now_s + 1, hour);
            if std::mem::take(&mut self.is_lost) {
                found(Finding::Back);
            }
        } else if gap_s > 0 {
            let now_s = self.clock.at(wall_s).now_s;
            heard_s.store(now_s, Ordering::Relaxed);
            self.all.heard(now_s, hour);
        }
    }

    /// Looks whether reception is lost by that second.
    pub fn tick(&mut self, wall_s: i64, mut found: impl FnMut(Finding)) {
        let SilenceTime { now_s, offset_s } = self.clock.time();
        if self.is_lost || now_s == 0 {
            return;
        }
        let heard_s = i64::from(now_s) + offset_s;
        let after_s = self.all.silent_after_s(self.clock.time().hour_before());
        if after_s.is_some_and(|after_s| wall_s - heard_s > i64::from(after_s)) {
            self.is_lost = true;
            found(Finding::Lost(heard_s));
        }
    }

    /// Whether nothing is received now.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sigmad_detectors::saved::Saved;

    #[test]
    fn a_restart_is_no_time_of_silence() {
        let start_s = 1_735_100_000;
        let mut reception = Reception::new(SilenceClock::default());
        (0..3_000).for_each(|s| reception.heard(start_s + s, |finding| panic!("{finding:?}")));
        let (saved, time) = (reception.saved(), reception.clock.time());
        let mut bytes = Vec::new();
        saved.write(&mut bytes);
        // Short, of an hour, and one in which it was known that nothing is received.
        let cases = [(5, None, 0), (3_600, None, 2), (3_600, Some(start_s + 2_999), 1)];
        for (gap_s, lost_since_s, found) in cases {
            let clock = SilenceClock::default();
            let mut reception = Reception::new(clock.clone());
            clock.restore(time);
            clock.restore(SilenceTime { now_s: time.now_s - 9, offset_s: 7 });
            reception.restore(SavedReception::read(&mut &bytes[..]).expect("it was written"));
            reception.begin_again(lost_since_s);
            assert_eq!(reception.lost_since_s(), lost_since_s);
            let mut findings = Vec::new();
            reception.heard(start_s + 2_999 + gap_s, |finding| findings.push(finding));
            assert_eq!(findings.len(), found, "{gap_s} s: {findings:?}");
            assert_eq!(clock.time().now_s, time.now_s + 1, "{gap_s} s");
            reception.heard(start_s + 3_001 + gap_s, |finding| panic!("{finding:?}"));
            assert_eq!(clock.time().now_s, time.now_s + 3, "as always");
        }
    }

    #[test]
    fn a_gap_of_all_is_lost_reception_and_no_time() {
        let clock = SilenceClock::default();
        let mut reception = Reception::new(clock.clone());
        let mut found = Vec::new();
        let start_s = 1_735_100_000;
        for wall_s in start_s..start_s + 3_000 {
            reception.heard(wall_s, |finding| found.push(finding));
        }
        assert_eq!((clock.time().now_s, found.len()), ((start_s + 2_999) as u32, 0));
        for wall_s in start_s + 3_000..start_s + 3_600 {
            reception.tick(wall_s, |finding| found.push(finding));
        }
        assert_eq!(found, [Finding::Lost(start_s + 2_999)]);
        reception.heard(start_s + 3_600, |finding| found.push(finding));
        assert_eq!(found[1..], [Finding::Back]);
        let time = clock.time();
        assert_eq!(time.now_s, (start_s + 3_000) as u32);
        assert_eq!(i64::from(time.now_s) + time.offset_s, start_s + 3_600);
        // A restart: nobody looked in between.
        reception.heard(start_s + 9_600, |finding| found.push(finding));
        assert_eq!(found[2..], [Finding::Lost(start_s + 3_600), Finding::Back]);
        assert_eq!(clock.time().now_s, time.now_s + 1);
        // The clock of the system is set back.
        reception.heard(start_s, |finding| found.push(finding));
        assert_eq!((clock.time().now_s, found.len()), (time.now_s + 2, 4));
    }
}
