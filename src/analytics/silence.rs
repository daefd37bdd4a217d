//! Devices that are usually heard and are silent, as events for the incidents.

use std::fmt;
use std::sync::Arc;

use sigmad_incidents::event::Event;
use sigmad_incidents::reception::{self, Reception, SilenceClock};
use sigmad_incidents::silence::{Finding, Silences};
use sigmad_sample::DeviceId;

use crate::analytics::devices::DeviceWindows;
use crate::analytics::last_sample::LastSample;

const SECOND_US: i64 = 1_000_000;

/// Which devices may be silent, by their names.
#[derive(Clone)]
pub struct SilenceIgnore(pub Arc<dyn Fn(&str) -> bool + Send + Sync>);

impl fmt::Debug for SilenceIgnore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SilenceIgnore")
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
            let is_ignored = self.ignore.as_ref().is_some_and(|ignore| (ignore.0)(&name));
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
