//! What breaks in the simulated fleet, and when.
//!
//! One story after another: a site loses its uplink, the requests of one device climb, a sensor is stuck and a device
//! falls silent. Each fault has a cause of its own, in a city of its own: names that share a part have one cause. All are
//! found within a minute, and the rest of the story is quiet.
//!
//! What a detector has seen is no news to it. So the fleet does what operators do after repairs: it forgets the devices
//! that broke (`DELETE /devices/ID`), and they are learned anew before they break again.

use std::ops::Range;

use crate::sites::{CITIES, DEVICES_PER_RACK, RACKS, RACKS_PER_CITY};

/// From the start of one story to that of the next.
pub const STORY_S: f64 = 300.0;
/// When what broke is forgotten, after the start of its story: its incidents are resolved.
const FORGET_S: f64 = 120.0;

/// The site without an uplink: found ten seconds later, because no device is silent before.
const OUTAGE_S: Range<f64> = 2.0..37.0;
/// The climbing requests: after the outage is found, so that it is whole when the next fault begins.
const RAMP_S: Range<f64> = 14.0..48.0;
/// The stuck sensor.
const STUCK_S: Range<f64> = 19.0..54.0;
/// The silent device.
const SILENT_S: Range<f64> = 23.0..57.0;
/// The change of requests, as a fraction of the usual ones, each second, by story; none are fewer than zero.
const RAMPS: [f64; 3] = [0.08, -0.05, 0.12];
/// At which percentage a sensor is stuck, by story: the ends of its scale.
const STUCK_AT: [f64; 2] = [100.0, 0.0];

/// The kind of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A site loses its uplink: none of its devices is heard.
    Outage,
    /// Its requests climb or fall until it is restarted.
    Ramp,
    /// Its sensor of the load reports the end of its scale.
    Stuck,
    /// It is not heard.
    Silent,
}

/// The faults of a story, in the order in which they begin; each city has one.
const FAULTS: [(FaultKind, Range<f64>); CITIES] = [
    (FaultKind::Outage, OUTAGE_S),
    (FaultKind::Ramp, RAMP_S),
    (FaultKind::Stuck, STUCK_S),
    (FaultKind::Silent, SILENT_S),
];

/// A fault of one story.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What breaks.
    pub kind: FaultKind,
    /// The places of its devices in the fleet.
    pub devices: Range<usize>,
    /// When, in seconds after the start of the demo.
    pub span_s: Range<f64>,
    /// When its devices are forgotten.
    pub forgotten_s: f64,
    story: usize,
}

impl Fault {
    /// The seconds since it began, where it is there at that time.
    pub fn since_s(&self, at_s: f64) -> Option<f64> {
        self.span_s.contains(&at_s).then_some(at_s - self.span_s.start)
    }

    /// What the log says as it begins. `device`: the name of its first device.
    pub fn begins(&self, device: &str) -> String {
        match self.kind {
            FaultKind::Outage => format!("site {} loses its uplink", self.site()),
            FaultKind::Ramp if self.ramp() < 0.0 => format!("the requests of {device} fall"),
            FaultKind::Ramp => format!("the requests of {device} climb"),
            FaultKind::Stuck => {
                format!("the cpu sensor of {device} is stuck at {} %", self.stuck_at())
            }
            FaultKind::Silent => format!("{device} falls silent"),
        }
    }

    /// What the log says as it ends.
    pub fn ends(&self, device: &str) -> String {
        match self.kind {
            FaultKind::Outage => format!("site {} has its uplink again", self.site()),
            FaultKind::Ramp => format!("{device} is restarted, and its requests are usual"),
            FaultKind::Stuck => format!("the cpu sensor of {device} moves again"),
            FaultKind::Silent => format!("{device} is heard again"),
        }
    }

    /// By which fraction its requests change each second.
    pub fn ramp(&self) -> f64 {
        RAMPS[self.story % RAMPS.len()]
    }

    /// The percentage that its sensor reports.
    pub fn stuck_at(&self) -> f64 {
        STUCK_AT[self.story % STUCK_AT.len()]
    }

    /// The site of its devices.
    pub fn site(&self) -> &'static str {
        RACKS[self.devices.start / DEVICES_PER_RACK]
    }
}

/// The faults of the story that is told at that time: none before the start.
pub fn faults(at_s: f64) -> Vec<Fault> {
    if at_s < 0.0 {
        return Vec::new();
    }
    let story = (at_s / STORY_S) as usize;
    let begun_s = story as f64 * STORY_S;
    let fault = |(number, (kind, span_s)): (usize, (FaultKind, Range<f64>))| Fault {
        kind,
        devices: places(kind, number, story),
        span_s: begun_s + span_s.start..begun_s + span_s.end,
        forgotten_s: begun_s + FORGET_S,
        story,
    };
    FAULTS.into_iter().enumerate().map(fault).collect()
}

/// Where a fault is. The cities change roles with each story and, once each had every role, their racks: that of the outage
/// is two before that of the other faults, so that devices are learned again in between. Once all racks had their turn, other
/// devices of them have it: those that often break together would be taken for one cause.
fn places(kind: FaultKind, number: usize, story: usize) -> Range<usize> {
    let (city, round) = ((number + story) % CITIES, story / CITIES);
    let first_of = |rack: usize| (city * RACKS_PER_CITY + rack % RACKS_PER_CITY) * DEVICES_PER_RACK;
    if kind == FaultKind::Outage {
        let first = first_of(round);
        return first..first + DEVICES_PER_RACK;
    }
    let cycle = round / RACKS_PER_CITY;
    let place = first_of(round + 2) + (number + cycle * (1 + 2 * city)) % DEVICES_PER_RACK;
    place..place + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is known of a device after so many seconds: its course, of 150 intervals, and its cadence, of 16 minutes.
    const LEARNED_S: f64 = 1_100.0;

    #[test]
    fn faults_of_one_story_have_no_name_in_common() {
        for story in 0..100 {
            let faults = faults(f64::from(story) * STORY_S + 1.0);
            let mut cities: Vec<_> = faults.iter().map(|fault| &fault.site()[..3]).collect();
            cities.sort_unstable();
            cities.dedup();
            assert_eq!((cities.len(), faults.len()), (4, 4), "{faults:?}");
            for fault in faults {
                let rack = fault.devices.start / DEVICES_PER_RACK;
                assert_eq!(rack, (fault.devices.end - 1) / DEVICES_PER_RACK, "{fault:?}");
                assert!(fault.span_s.end < fault.forgotten_s);
                assert!(fault.forgotten_s < f64::from(story + 1) * STORY_S);
            }
        }
    }

    #[test]
    fn what_breaks_was_forgotten_and_learned_again_before() {
        let mut forgotten_s = vec![-LEARNED_S; RACKS.len() * DEVICES_PER_RACK];
        for story in 0..288 {
            for fault in faults(f64::from(story) * STORY_S) {
                for place in fault.devices.clone() {
                    let known_s = fault.span_s.start - forgotten_s[place];
                    assert!(known_s >= LEARNED_S, "{known_s} s: {fault:?}");
                    forgotten_s[place] = fault.forgotten_s;
                }
            }
        }
        // All of them break in the course of a day.
        assert!(forgotten_s.iter().all(|&at_s| at_s > 0.0));
    }

    #[test]
    fn a_newcomer_sees_all_of_it_within_a_minute() {
        let first = faults(0.0);
        assert!(first.iter().all(|fault| fault.span_s.start < 30.0 && fault.span_s.end < 60.0));
        assert_eq!(first[0].begins("ams-1-edge-01"), "site ams-1 loses its uplink");
        assert_eq!(faults(-1.0), []);
    }
}
