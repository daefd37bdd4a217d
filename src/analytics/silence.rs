//! Devices that are usually heard and are silent, as events for the incidents.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use sigmad_incidents::event::Event;
use sigmad_incidents::reception::{self, Reception, SilenceClock};
use sigmad_incidents::silence::cadence::{Cadence, LearnedCadence};
use sigmad_incidents::silence::returns::Returns;
use sigmad_incidents::silence::{Finding, SilenceTime, Silences};
use sigmad_sample::DeviceId;

use crate::analytics::devices::DeviceWindows;
use crate::analytics::last_sample::LastSample;
use crate::analytics::saved::form::SavedSilences;

const SECOND_US: i64 = 1_000_000;

/// Which devices may be silent, by their names.
#[derive(Clone)]
pub struct SilenceIgnore(pub Arc<dyn Fn(&str) -> bool + Send + Sync>);

impl fmt::Debug for SilenceIgnore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SilenceIgnore")
    }
}

/// Of what it was known before a restart that it is silent, and since when: devices, and None for reception.
#[derive(Clone, Debug, Default)]
pub struct KnownSilences(pub Arc<BTreeMap<Option<Box<str>>, i64>>);

impl KnownSilences {
    fn device(&self, name: &str) -> Option<i64> {
        // Mostly there is none, and this is asked for every device.
        if self.0.is_empty() { None } else { self.0.get(&Some(name.into())).copied() }
    }

    fn reception(&self) -> Option<i64> {
        self.0.get(&None).copied()
    }
}

/// Looks for silent devices of one shard. All shards share the clock; the one with the fleet's windows advances it.
#[derive(Debug)]
pub struct SilenceWatch {
    silences: Silences,
    clock: SilenceClock,
    /// Of the shard with the fleet's windows.
    reception: Option<Reception>,
    ignore: Option<SilenceIgnore>,
    idle_s: u32,
}

impl SilenceWatch {
    /// Without devices. `has_fleet`: it sees the samples of all.
    pub fn new(
        clock: SilenceClock,
        ignore: Option<SilenceIgnore>,
        idle_us: i64,
        has_fleet: bool,
    ) -> Self {
        let reception = has_fleet.then(|| Reception::new(clock.clone()));
        let idle_s = LastSample::seconds(idle_us);
        Self { silences: Silences::default(), clock, reception, ignore, idle_s }
    }

    /// Takes the samples of one second, of anyone.
    pub fn heard_anyone(&mut self, arrived_us: i64, devices: &mut DeviceWindows) {
        if let Some(reception) = &mut self.reception {
            let found = |finding| devices.onsets.push(event_of(finding, arrived_us));
            reception.heard(arrived_us.div_euclid(SECOND_US), found);
        }
    }

    /// Takes the first sample of a second of a device. `is_first`: of all its samples.
    #[inline(never)] // once a second
    pub fn heard(
        &mut self,
        id: DeviceId,
        is_first: bool,
        arrived_us: i64,
        devices: &mut DeviceWindows,
    ) {
        let Some(device) = devices.get(id) else { return };
        let Some(name) = device.name.clone() else { return };
        if is_first || !self.silences.is_known(id.index) {
            let is_ignored = self.is_ignored(&name);
            self.silences.begin(id.index, is_ignored);
        }
        if self.silences.heard(id.index, self.clock.at(arrived_us.div_euclid(SECOND_US))) {
            devices.onsets.push(Event::Return { device: name, at_us: arrived_us });
        }
    }

    /// Looks for devices that are silent by now.
    pub fn tick(&mut self, now_us: i64, devices: &mut DeviceWindows) {
        if let Some(reception) = &mut self.reception {
            let found = |finding| devices.onsets.push(event_of(finding, now_us));
            reception.tick(now_us.div_euclid(SECOND_US), found);
        }
        self.silences.advance(self.clock.time(), self.idle_s, |index, finding| {
            let Some(entry) = devices.at(index) else { return };
            let (Some(device), since_us) = (entry.name.clone(), entry.last.seen_us) else { return };
            devices.onsets.push(match finding {
                Finding::Gone => Event::Gone { device, at_us: now_us },
                Finding::Silent(interval_s) => {
                    let usual_interval_us = (f64::from(interval_s) * 1e6) as i64;
                    Event::Silence { device, since_us, at_us: now_us, usual_interval_us }
                }
            });
        });
    }

    fn is_ignored(&self, name: &str) -> bool {
        self.ignore.as_ref().is_some_and(|ignore| (ignore.0)(name))
    }

    /// The clock and reception, for a snapshot.
    pub fn saved(&self) -> SavedSilences {
        let SilenceTime { now_s, offset_s } = self.clock.time();
        let reception = self.reception.as_ref().map(Reception::saved);
        SavedSilences { now_s, offset_s, reception }
    }

    /// What like devices have shown, for a snapshot.
    pub fn returns(&self) -> &Returns {
        self.silences.returns()
    }

    /// From now on nothing is expected of a device because others have shown it.
    pub fn close_returns(&mut self) {
        self.silences.close_returns();
    }

    /// Takes from a snapshot what like devices had shown.
    pub fn restore_returns(&mut self, saved: &Returns) {
        self.silences.restore_returns(saved);
    }

    /// How often a device is heard, for a snapshot. None of one that has not been heard.
    pub fn cadence(&self, index: u32) -> Option<&Cadence> {
        self.silences.cadence(index)
    }

    /// Takes what another replica has learned of a device that is heard here now.
    pub fn learn(&mut self, id: DeviceId, learned: LearnedCadence) {
        self.silences.learn(id.index, learned);
    }

    /// Takes the clock and reception from a snapshot.
    pub fn restore(&mut self, saved: SavedSilences) {
        let SavedSilences { now_s, offset_s, reception } = saved;
        self.clock.restore(SilenceTime { now_s, offset_s });
        if let Some((own, saved)) = self.reception.as_mut().zip(reception) {
            own.restore(saved);
        }
    }

    /// Takes from a snapshot how often a device is heard. False if it has no windows.
    pub fn restore_cadence(
        &mut self,
        id: DeviceId,
        cadence: Cadence,
        devices: &DeviceWindows,
    ) -> bool {
        let Some(name) = devices.get(id).and_then(|device| device.name.as_ref()) else {
            return false;
        };
        let is_ignored = self.is_ignored(name);
        self.silences.restore(id.index, cadence, is_ignored);
        true
    }

    /// Goes on after a restart, and returns an onset of each device that is silent, and of reception that is lost.
    /// `known`: what was known of before, which snapshots and journal need not have.
    pub fn begin_again(&mut self, known: &KnownSilences, devices: &DeviceWindows) -> Vec<Event> {
        let time = self.clock.time();
        let mut standing = Vec::new();
        for index in 0..devices.entries() as u32 {
            let Some(entry) = devices.at(index) else { continue };
            let (Some(device), since_us) = (entry.name.clone(), entry.last.seen_us) else {
                continue;
            };
            if known.device(&device).is_some_and(|known_us| since_us <= known_us) {
                self.silences.set_silent(index);
            }
            if let Some((interval_s, after_s)) = self.silences.silent(index, time) {
                let usual_interval_us = (f64::from(interval_s) * 1e6) as i64;
                let at_us = since_us + i64::from(after_s) * SECOND_US;
                standing.push(Event::Silence { device, since_us, at_us, usual_interval_us });
            }
        }
        if let Some(reception) = &mut self.reception {
            reception.begin_again(known.reception().map(|us| us.div_euclid(SECOND_US)));
            if let Some(since_s) = reception.lost_since_s() {
                let since_us = since_s * SECOND_US;
                standing.push(Event::Reception { since_us, at_us: since_us });
            }
        }
        standing
    }

    /// Whether time brings anything while nobody is heard here.
    pub fn needs_ticks(&self) -> bool {
        let is_lost = self.reception.as_ref().is_some_and(Reception::is_lost);
        self.silences.watched() > 0 && !is_lost
    }
}

fn event_of(finding: reception::Finding, at_us: i64) -> Event {
    match finding {
        reception::Finding::Lost(since_s) => {
            Event::Reception { since_us: since_s * SECOND_US, at_us }
        }
        reception::Finding::Back => Event::ReceptionBack { at_us },
    }
}
