//! Silence of devices that are usually heard.
//!
//! Each device has a [`Cadence`]; a [`wheel`] says when to look at it. Time runs while anybody is heard
//! ([`Reception`](super::reception)): seconds in which nothing was received from anyone count for no device.

pub mod cadence;
pub mod returns;
mod wheel;

use cadence::{Cadence, LearnedCadence, PAUSE_S};
use returns::Returns;
use wheel::{NONE, Wheel};

/// Cadences are added this many at a time.
const CHUNK: usize = 1_024;
/// A device that learns is looked at again after this time.
const LEARNS_AGAIN_S: u32 = 64;
/// So is a silent one: it may be heard again meanwhile, and is not silent anew in less time.
const SILENT_AGAIN_S: u32 = 10;

/// How long a device may rest with like ones: they are back a day later.
const REST_S: u32 = 86_400;

/// Bytes of one device.
pub const DEVICE_BYTES: usize = size_of::<Cadence>();

/// What became of a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Finding {
    /// It is silent. Its mean gap in seconds.
    Silent(f32),
    /// It is silent for longer than devices are kept.
    Gone,
}

/// The time in which silences are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SilenceTime {
    /// Seconds that have passed on this clock.
    pub now_s: u32,
    /// What is added to get seconds since 1970.
    pub offset_s: i64,
}

impl SilenceTime {
    /// The hour of the day in which this clock stands.
    pub(crate) fn hour_before(self) -> u32 {
        self.hour(self.now_s)
    }

    /// The hour of the day, in UTC, of a second on this clock.
    pub(crate) fn hour(self, at_s: u32) -> u32 {
        ((i64::from(at_s) + self.offset_s).rem_euclid(86_400) / 3_600) as u32
    }
}

/// The cadences of all devices of a shard, by index.
#[derive(Debug, Default)]
pub struct Silences {
    cadences: Vec<Box<[Cadence]>>,
    wheel: Wheel,
    returns: Returns,
}

impl Silences {
    /// Devices that are watched.
    pub fn watched(&self) -> usize {
        self.wheel.len()
    }

    /// Whether a device has been heard.
    pub fn is_known(&self, device: u32) -> bool {
        let chunk = self.cadences.get(device as usize / CHUNK);
        chunk.is_some_and(|cadences| cadences[device as usize % CHUNK].last_s > 0)
    }

    fn get_mut(&mut self, device: u32) -> &mut Cadence {
        &mut self.cadences[device as usize / CHUNK][device as usize % CHUNK]
    }

    /// Takes the first sample of a device. `is_ignored`: it may be silent.
    #[cold]
    pub fn begin(&mut self, device: u32, is_ignored: bool) {
        self.make_room(device);
        self.get_mut(device).reset(is_ignored);
    }

    fn make_room(&mut self, device: u32) {
        while self.cadences.len() <= device as usize / CHUNK {
            self.cadences.push(vec![Cadence::default(); CHUNK].into());
        }
    }

    /// The cadence of a device, None of one that has not been heard.
    pub fn cadence(&self, device: u32) -> Option<&Cadence> {
        let cadences = self.cadences.get(device as usize / CHUNK)?;
        Some(&cadences[device as usize % CHUNK]).filter(|cadence| cadence.last_s > 0)
    }

    /// Gives a device, of which nothing is known, the cadence that it had. `is_ignored`: it may be silent.
    pub fn restore(&mut self, device: u32, mut cadence: Cadence, is_ignored: bool) {
        self.make_room(device);
        if self.get_mut(device).is_linked() {
            return;
        }
        if is_ignored {
            cadence.set_ignored();
        }
        let is_looked_at = !is_ignored && !cadence.is_gone() && cadence.last_s > 0;
        *self.get_mut(device) = cadence;
        if is_looked_at {
            // At the first look: what is due is known then.
            self.link(device, 0);
        }
    }

    /// What like devices have shown.
    pub fn returns(&self) -> &Returns {
        &self.returns
    }

    /// From now on nothing is expected of a device because others have shown it.
    pub fn close_returns(&mut self) {
        self.returns.close();
    }

    /// Adds what like devices had shown before a restart.
    pub fn restore_returns(&mut self, saved: &Returns) {
        self.returns.restore(saved);
    }

    /// Takes what another process has learned of a device that is heard here now.
    pub fn learn(&mut self, device: u32, learned: LearnedCadence) {
        if self.is_known(device) {
            self.get_mut(device).learn(learned);
        }
    }

    /// That a device is silent was noticed before.
    pub fn set_silent(&mut self, device: u32) {
        if self.cadence(device).is_some_and(|cadence| !cadence.is_ignored() && !cadence.is_gone()) {
            self.get_mut(device).set_silent();
        }
    }

    /// A silent device: its mean gap, and after how long it was silent, in seconds. None of one that is heard.
    pub fn silent(&self, device: u32, time: SilenceTime) -> Option<(f32, u32)> {
        let cadence = self.cadence(device).filter(|cadence| cadence.is_silent())?;
        let after_s = silent_after_s(cadence, &self.returns, time).unwrap_or(0);
        Some((cadence.interval_s(), after_s))
    }

    /// Takes a sample of a device that has begun. True when it was silent.
    #[inline]
    pub fn heard(&mut self, device: u32, time: SilenceTime) -> bool {
        let cadence = self.get_mut(device);
        let before_s = cadence.last_s;
        let was_silent = cadence.heard(time.now_s, |at_s| time.hour(at_s));
        if was_silent {
            self.returned(device, before_s, time.now_s);
        }
        let cadence = self.get_mut(device);
        if !cadence.is_linked() && !cadence.is_ignored() {
            self.link(device, time.now_s + LEARNS_AGAIN_S);
        }
        was_silent
    }

    /// Takes a device that seemed silent. A pause is no gap.
    #[cold]
    fn returned(&mut self, device: u32, before_s: u32, now_s: u32) {
        let (gap_s, mean_s) = (now_s - before_s, self.get_mut(device).interval_s());
        if (gap_s as f32) < PAUSE_S {
            self.returns.add(mean_s, gap_s, now_s);
            self.returns.take_rest_back(mean_s, before_s);
        }
    }

    fn link(&mut self, device: u32, due_s: u32) {
        let next = self.wheel.link(device, due_s);
        let cadence = self.get_mut(device);
        cadence.next = next;
        cadence.set_linked(true);
    }

    /// Looks at the devices that are due. `idle_s`: for how long devices are kept.
    pub fn advance(&mut self, time: SilenceTime, idle_s: u32, mut found: impl FnMut(u32, Finding)) {
        while let Some(first) = self.wheel.take_next(time.now_s) {
            let mut device = first;
            while device != NONE {
                let cadence = &mut self.cadences[device as usize / CHUNK][device as usize % CHUNK];
                let next = cadence.next;
                let returns = &mut self.returns;
                let due = look(cadence, returns, time, idle_s, |finding| found(device, finding));
                cadence.set_linked(false);
                self.wheel.unlinked();
                if let Some(due_s) = due {
                    self.link(device, due_s);
                }
                device = next;
            }
        }
    }
}

/// Seconds after its last sample from which a device is silent. None while its cadence is not known.
fn silent_after_s(cadence: &Cadence, returns: &Returns, time: SilenceTime) -> Option<u32> {
    let after_s = cadence.silent_after_s(time.hour(cadence.last_s))?;
    if cadence.is_new() {
        return Some(after_s.max(returns.expected_s(cadence.interval_s()) as u32));
    }
    Some(after_s)
}

/// Looks at one device, and returns when to look again.
fn look(
    cadence: &mut Cadence,
    returns: &mut Returns,
    time: SilenceTime,
    idle_s: u32,
    mut found: impl FnMut(Finding),
) -> Option<u32> {
    if cadence.is_ignored() || cadence.last_s == 0 {
        return None;
    }
    let (now_s, last_s) = (time.now_s, cadence.last_s);
    let gone_s = last_s.saturating_add(idle_s);
    if now_s >= gone_s {
        cadence.set_gone();
        found(Finding::Gone);
        return None;
    }
    let silent_again_s = gone_s.min(now_s + SILENT_AGAIN_S);
    if cadence.is_silent() {
        return Some(silent_again_s);
    }
    let least_s = last_s.saturating_add(cadence.plausible_at_least_s());
    if now_s < least_s {
        return Some(least_s.min(gone_s));
    }
    let Some(after_s) = silent_after_s(cadence, returns, time) else {
        return Some(gone_s.min(now_s + LEARNS_AGAIN_S));
    };
    let due_s = last_s.saturating_add(after_s).saturating_add(1);
    if now_s < due_s {
        return Some(due_s.min(gone_s));
    }
    let mean_s = cadence.interval_s();
    let may_rest = cadence.may_rest_with_others();
    let rests = may_rest && returns.rest_near(mean_s, last_s);
    if may_rest {
        returns.add_rest(mean_s, last_s);
    }
    if rests && now_s < last_s.saturating_add(REST_S) {
        return Some(last_s.saturating_add(REST_S).min(gone_s));
    }
    cadence.set_silent();
    found(Finding::Silent(cadence.interval_s()));
    Some(silent_again_s)
}

#[cfg(test)]
mod fleets;

#[cfg(test)]
mod tests {
    use super::*;
    use sigmad_detectors::saved::Saved;

    #[test]
    fn a_device_is_silent_once_returns_and_is_gone() {
        let mut silences = Silences::default();
        silences.begin(7, false);
        let mut found = Vec::new();
        let mut now_s = 100_000;
        let mut run = |silences: &mut Silences, seconds: u32, is_heard: bool| {
            let mut returned = false;
            for _ in 0..seconds {
                now_s += 1;
                let time = SilenceTime { now_s, offset_s: 0 };
                if is_heard && now_s % 10 == 0 {
                    returned |= silences.heard(7, time);
                }
                silences.advance(time, 3_600, |device, finding| found.push((device, finding)));
            }
            (std::mem::take(&mut found), returned)
        };
        assert_eq!(run(&mut silences, 3_000, true), (vec![], false));
        assert_eq!(silences.watched(), 1);
        assert_eq!(run(&mut silences, 29, false), (vec![], false));
        let (found, _) = run(&mut silences, 30, false);
        assert!(
            matches!(found[..], [(7, Finding::Silent(interval))] if (9.0..11.0).contains(&interval))
        );
        assert_eq!(run(&mut silences, 100, true), (vec![], true));
        let (found, _) = run(&mut silences, 3_700, false);
        assert!(matches!(found[..], [(7, Finding::Silent(_)), (7, Finding::Gone)]), "{found:?}");
        assert_eq!(silences.watched(), 0);
        assert_eq!(run(&mut silences, 100, true), (vec![], false));
        assert_eq!(silences.watched(), 1);
    }

    #[test]
    fn a_device_that_returned_is_watched_as_before() {
        let mut silences = Silences::default();
        silences.begin(0, false);
        let mut found = Vec::new();
        // Heard for two hours but for two outages, a quarter of an hour apart.
        for now_s in 1..7_200 {
            let time = SilenceTime { now_s, offset_s: 0 };
            if !(5_000..5_030).contains(&now_s) && !(5_930..6_800).contains(&now_s) {
                silences.heard(0, time);
            }
            silences.advance(time, 86_400, |_, finding| found.push((now_s, finding)));
        }
        let at_s: Vec<u32> = found.iter().map(|&(at_s, _)| at_s).collect();
        assert_eq!(at_s[0], 5_010, "{found:?}");
        // What is plausible has grown, by the cadence alone.
        assert!(at_s.len() == 2 && (5_930..6_200).contains(&at_s[1]), "{found:?}");
    }

    #[test]
    fn a_device_that_was_restored_goes_on() {
        let heard = |silences: &mut Silences, device, from_s: u32| {
            (0..3_000).for_each(|s| _ = silences.heard(device, time(from_s + s)));
        };
        fn time(now_s: u32) -> SilenceTime {
            SilenceTime { now_s, offset_s: 0 }
        }
        let mut silences = Silences::default();
        for device in [3, 4, 5] {
            silences.begin(device, false);
            heard(&mut silences, device, 100_000);
        }
        let end_s = 102_999;
        for s in 0..=12 {
            silences.heard(4, time(end_s + s));
            silences.heard(5, time(end_s + s));
        }
        silences.advance(time(end_s + 12), 3_600, |device, _| assert_eq!(device, 3));
        assert!(silences.silent(3, time(end_s + 12)).is_some());
        let mut again = Silences::default();
        for device in [3, 4, 5] {
            let mut bytes = Vec::new();
            silences.cadence(device).expect("it was heard").write(&mut bytes);
            let read = Cadence::read(&mut &bytes[..]).expect("a cadence");
            again.restore(device, read, device == 5);
        }
        assert_eq!((again.watched(), again.cadence(6).is_none()), (2, true));
        let mut found = Vec::new();
        again.advance(time(end_s + 20), 3_600, |device, _| found.push(device));
        assert_eq!(found, [0; 0], "one is silent, and known to be");
        again.advance(time(end_s + 40), 3_600, |device, _| found.push(device));
        assert_eq!(found, [4], "the other is ignored");
        assert!(again.heard(3, time(end_s + 41)) && again.heard(4, time(end_s + 41)));
        again.set_silent(4);
        assert!(again.heard(4, time(end_s + 42)));
    }

    #[test]
    fn fleets_that_are_well_are_not_silent() {
        for fleet in fleets::Fleet::TUNED.into_iter().chain(fleets::Fleet::HELD_OUT) {
            // Two devices for three weeks: the example has thousands.
            let outcome = fleets::simulate(fleet, 2, 3, 7);
            assert!(outcome.false_alarms <= 1 && outcome.first_week <= 4, "{fleet:?}: {outcome:?}");
        }
    }

    #[test]
    fn new_devices_learn_from_those_that_came_back() {
        let outcome = fleets::simulate(fleets::Fleet::Restarting, 40, 1, 1);
        assert!(outcome.first_week <= 15, "one of three devices, not each: {outcome:?}");
        let outcome = fleets::simulate(fleets::Fleet::Regular, 40, 1, 1);
        assert!(outcome.first_week == 0 && outcome.gaps_to_notice < 3.0, "{outcome:?}");
    }

    #[test]
    fn a_fleet_that_rests_at_night_is_some_silences_and_not_one_a_device() {
        for fleet in [fleets::Fleet::OfficeHours, fleets::Fleet::Shops] {
            let outcome = fleets::simulate(fleet, 40, 1, 1);
            // Their end at noon is noticed.
            assert!(outcome.first_week <= 14 && outcome.missed <= 2, "{fleet:?}: {outcome:?}");
        }
    }

    /// New devices, heard each ten seconds, of which one stops each `apart_s`. How many are found silent within an hour, and
    /// by a day later.
    fn stop_one_by_one(devices: u32, apart_s: u32) -> [usize; 2] {
        let (mut silences, mut found) = (Silences::default(), Vec::new());
        (0..devices).for_each(|device| silences.begin(device, false));
        let stop_s = 3_000;
        for now_s in 1..stop_s + 100_000 {
            let time = SilenceTime { now_s, offset_s: 0 };
            for device in 0..devices {
                if now_s % 10 == device % 10 && now_s < stop_s + device * apart_s {
                    silences.heard(device, time);
                }
            }
            silences.advance(time, u32::MAX, |_, _| found.push(now_s));
        }
        let soon = found.iter().filter(|at_s| **at_s < stop_s + devices * apart_s + 60).count();
        [soon, found.len()]
    }

    #[test]
    fn new_devices_that_stop_at_once_are_silent_and_those_that_stop_one_by_one_may_rest() {
        assert_eq!(stop_one_by_one(20, 0), [20, 20]);
        assert_eq!(stop_one_by_one(20, 20), [20, 20], "within seven minutes");
        assert_eq!(stop_one_by_one(9, 400), [4, 9], "for a day");
    }

    /// 104,000 device-weeks: minutes of CPU time in the optimised profile.
    #[test]
    #[ignore = "it simulates 104,000 device-weeks"]
    fn false_silences_are_rare() {
        const DEVICES: u32 = 400;
        for fleet in fleets::Fleet::TUNED.into_iter().chain(fleets::Fleet::HELD_OUT) {
            let outcome = fleets::simulate(fleet, DEVICES, 26, 8);
            let per_1000 = f64::from(outcome.false_alarms) / f64::from(DEVICES * 25) * 1_000.0;
            println!("{fleet:?}: {per_1000:.2} in 1,000 device-weeks, {outcome:?}");
            assert!(per_1000 <= 1.0, "{fleet:?}");
        }
    }

    #[test]
    fn an_ignored_device_is_never_silent() {
        let mut silences = Silences::default();
        silences.begin(0, true);
        for now_s in 1..10_000 {
            let time = SilenceTime { now_s, offset_s: 0 };
            if now_s < 5_000 {
                silences.heard(0, time);
            }
            silences.advance(time, 3_600, |_, finding| panic!("{finding:?}"));
        }
        assert_eq!(silences.watched(), 0);
    }
}
