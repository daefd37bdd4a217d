//! What breaks in the simulated fleet, and when.
//!
//! One story after another: a site loses its uplink, the requests of one device climb, a sensor is stuck and a device
//! falls silent. Each fault has a cause of its own. All are found within a minute, and the rest of the story is
//! quiet. The next one takes another site and other devices: what a detector has seen is no news to it, and devices
//! that break together again and again would be taken for one cause. After three quarters of an hour each site has
//! been silent once, and such a silence is usual. What comes then is another round: a site whose load is another,
//! requests that fall or climb faster, and a sensor that is stuck at another value.

use std::ops::Range;

use crate::sites::{DEVICES_PER_RACK, RACKS, RACKS_PER_CITY};

/// From the start of one story to that of the next.
pub const STORY_S: f64 = 300.0;

/// The site without an uplink: found ten seconds later, because no device is silent before.
const OUTAGE_S: Range<f64> = 2.0..37.0;
/// The climbing requests: after the outage is found, so that it is whole when the next fault begins.
const RAMP_S: Range<f64> = 14.0..48.0;
/// The stuck sensor.
const STUCK_S: Range<f64> = 19.0..54.0;
/// The silent device.
const SILENT_S: Range<f64> = 23.0..57.0;
/// The load of a site that had its outage, as a fraction of the usual one, by round.
const SHIFTS: [f64; 4] = [2.4, 0.1, 3.2, 0.4];
/// At which percentage a sensor is stuck, by round: the ends of its scale, and values near them.
const STUCK_AT: [f64; 4] = [100.0, 0.0, 96.0, 5.0];
/// The change of requests, as a fraction of the usual ones, each second, by round; none are fewer than zero.
const RAMPS: [f64; 4] = [0.08, -0.03, 0.14, -0.05];

/// Racks that lose their uplink in turn: those of the last city have the silent devices, which are heard otherwise.
const OUTAGE_RACKS: usize = RACKS.len() - RACKS_PER_CITY;

/// Devices that are silent in turn: those of the last city.
const SILENT_DEVICES: usize = RACKS_PER_CITY * DEVICES_PER_RACK;

/// The kind of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A site loses its uplink: none of its devices is heard.
    Outage,
    /// The load of a site is another.
    Shift,
    /// Its requests climb until it is restarted.
    Ramp,
    /// Its sensor of the load reports the end of its scale.
    Stuck,
    /// It is not heard.
    Silent,
}

/// A fault of one story.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What breaks.
    pub kind: FaultKind,
    /// The places of its devices in the fleet.
    pub devices: Range<usize>,
    /// When, in seconds after the start of the demo.
    pub span_s: Range<f64>,
    /// How often all sites had their outage before.
    pub round: usize,
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
            FaultKind::Shift => {
                format!("site {} has {:.1} times its load", self.site(), self.shift())
            }
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
            FaultKind::Shift => format!("site {} has its usual load again", self.site()),
            FaultKind::Ramp => format!("{device} is restarted, and its requests are usual"),
            FaultKind::Stuck => format!("the cpu sensor of {device} moves again"),
            FaultKind::Silent => format!("{device} is heard again"),
        }
    }

    /// By which fraction its requests change each second.
    pub fn ramp(&self) -> f64 {
        RAMPS[self.round % RAMPS.len()]
    }

    /// The load of the site, as a fraction of the usual one.
    pub fn shift(&self) -> f64 {
        SHIFTS[self.round.saturating_sub(1) % SHIFTS.len()]
    }

    /// The percentage that its sensor reports.
    pub fn stuck_at(&self) -> f64 {
        STUCK_AT[self.round % STUCK_AT.len()]
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
    let outage = (story + 1) % OUTAGE_RACKS;
    let (city, cities) = (outage / RACKS_PER_CITY, OUTAGE_RACKS / RACKS_PER_CITY);
    // Of the cities after it, so that the faults of a story share no part of a name.
    let device = |city: usize, rack: usize, number: usize| {
        let rack = city % (cities + 1) * RACKS_PER_CITY + rack % RACKS_PER_CITY;
        let place = rack * DEVICES_PER_RACK + number % DEVICES_PER_RACK;
        place..place + 1
    };
    // All sites had their outage: other devices of the same racks.
    let round = story / OUTAGE_RACKS;
    let site = outage * DEVICES_PER_RACK..(outage + 1) * DEVICES_PER_RACK;
    let ramp = device((city + 1) % cities, story, round);
    let stuck = device((city + 2) % cities, story + 1, round + 2);
    let silent = device(cities, story, story / RACKS_PER_CITY);
    let begun_s = story as f64 * STORY_S;
    let fault = |kind, devices, span_s: Range<f64>| Fault {
        kind,
        devices,
        span_s: begun_s + span_s.start..begun_s + span_s.end,
        round,
    };
    let of_site = if round == 0 { FaultKind::Outage } else { FaultKind::Shift };
    let mut faults = vec![
        fault(of_site, site, OUTAGE_S),
        fault(FaultKind::Ramp, ramp, RAMP_S),
        fault(FaultKind::Stuck, stuck, STUCK_S),
    ];
    // Each was silent once: no news.
    if story < SILENT_DEVICES {
        faults.push(fault(FaultKind::Silent, silent, SILENT_S));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_one_story_have_no_device_in_common() {
        for story in 0..100 {
            let faults = faults(f64::from(story) * STORY_S + 1.0);
            let places: Vec<usize> =
                faults.iter().flat_map(|fault| fault.devices.clone()).collect();
            let mut different = places.clone();
            different.sort_unstable();
            different.dedup();
            assert_eq!(different.len(), places.len(), "{faults:?}");
            assert_eq!(faults.len(), if story < 12 { 4 } else { 3 });
            assert!(faults.iter().all(|fault| fault.span_s.end < f64::from(story + 1) * STORY_S));
        }
    }

    #[test]
    fn each_round_differs_from_those_before() {
        let of_round = |round: usize| faults((round * OUTAGE_RACKS) as f64 * STORY_S + 1.0);
        for round in 1..4 {
            let now = of_round(round);
            for earlier in 0..round {
                let earlier = of_round(earlier);
                assert_eq!(earlier[0].site(), now[0].site());
                assert_ne!(earlier[0].begins("x"), now[0].begins("x"));
                assert_ne!(earlier[1].ramp().to_bits(), now[1].ramp().to_bits());
                assert_ne!(earlier[2].begins("x"), now[2].begins("x"));
            }
        }
    }

    #[test]
    fn a_newcomer_sees_all_of_it_within_a_minute() {
        let first = faults(0.0);
        assert!(first.iter().all(|fault| fault.span_s.start < 30.0 && fault.span_s.end < 70.0));
        assert_eq!(first[0].begins("ams-2-edge-01"), "site ams-2 loses its uplink");
        assert_eq!(faults(-1.0), []);
    }
}
