//! The readings of a simulated fleet.
//!
//! A day takes a quarter of an hour. The noise stays below the default threshold, so that anomalies come from the
//! faults of a [`story`](crate::story).

use std::f64::consts::TAU;

use crate::sites::{DEVICES_PER_RACK, RACKS};
use crate::story::{Fault, FaultKind, faults};

/// The length of a day.
pub const DAY_S: f64 = 900.0;
/// The amplitude of the daily cycle, as a fraction of the mean.
const TIDE: f64 = 0.03;
/// The largest noise, as a fraction of the load.
const NOISE: f64 = 0.03;

/// One device's reading.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceReading {
    /// Its name.
    pub device: Box<str>,
    /// Requests per second.
    pub rps: f64,
    /// Percent.
    pub cpu: f64,
}

#[derive(Clone, Debug)]
struct SimulatedDevice {
    name: Box<str>,
    /// The load of this device, relative to the mean of all.
    share: f64,
}

/// All devices.
#[derive(Clone, Debug)]
pub struct SimulatedFleet {
    devices: Vec<SimulatedDevice>,
    dice: PseudoRandom,
}

impl SimulatedFleet {
    /// The fleet; its noise goes by the seed.
    pub fn new(seed: u64) -> Self {
        let mut dice = PseudoRandom(7);
        let names = RACKS
            .iter()
            .flat_map(|rack| (1..=DEVICES_PER_RACK).map(move |n| format!("{rack}-edge-{n:02}")));
        let device =
            |name: String| SimulatedDevice { name: name.into(), share: 1.0 + 0.08 * dice.swing() };
        Self { devices: names.map(device).collect(), dice: PseudoRandom(seed) }
    }

    /// The readings of all devices that are heard `at_s` seconds after the start, by rack. Before the start nothing
    /// is wrong.
    pub fn measure(&mut self, at_s: f64) -> Vec<Vec<DeviceReading>> {
        let Self { devices, dice } = self;
        // Begins in the morning, when the load rises.
        let tide = 1.0 + TIDE * (TAU * (at_s / DAY_S - 0.1)).sin();
        let faults = faults(at_s);
        let mut racks = vec![Vec::new(); RACKS.len()];
        for (place, device) in devices.iter().enumerate() {
            let fault = faults.iter().find(|fault| fault.devices.contains(&place));
            racks[place / DEVICES_PER_RACK].extend(device.measure(at_s, tide, fault, dice));
        }
        racks
    }

    /// The name of the device at that place.
    pub fn name(&self, place: usize) -> &str {
        &self.devices[place].name
    }
}

impl SimulatedDevice {
    /// None while it is not heard.
    fn measure(
        &self,
        at_s: f64,
        tide: f64,
        fault: Option<&Fault>,
        dice: &mut PseudoRandom,
    ) -> Option<DeviceReading> {
        let load = tide * self.share;
        let mut rps = 2000.0 * load * (1.0 + NOISE * dice.swing());
        let mut cpu = 30.0 * load * (1.0 + NOISE * dice.swing());
        if let Some((fault, since_s)) = fault.and_then(|fault| Some((fault, fault.since_s(at_s)?)))
        {
            match fault.kind {
                FaultKind::Outage | FaultKind::Silent => return None,
                FaultKind::Ramp => rps *= (1.0 + fault.ramp() * since_s).max(0.0),
                FaultKind::Stuck => cpu = fault.stuck_at(),
            }
        }
        // As it is sent: a sensor has so many digits.
        let cpu = (cpu.clamp(0.0, 100.0) * 10.0).round() / 10.0;
        Some(DeviceReading { device: self.name.clone(), rps: rps.round(), cpu })
    }
}

/// Pseudo-random numbers, the same in every run (SplitMix64: Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
struct PseudoRandom(u64);

impl PseudoRandom {
    /// Uniform in [0, 1).
    fn even(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// From -1 to 1, more often near the ends, so that no reading is two deviations from the mean.
    fn swing(&mut self) -> f64 {
        (TAU * self.even()).sin()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::MIN_SAMPLES;
    use crate::story::STORY_S;
    use sigmad_detectors::window::Moments;
    use sigmad_detectors::zscore::ZScore;

    /// Flags by device from one moment to another, in quarters of a second, judged as the demo is unless told otherwise.
    fn flags(from: i32, to: i32) -> BTreeMap<Box<str>, usize> {
        let detector = ZScore { threshold: 2.0, min_samples: MIN_SAMPLES as u32 };
        let mut windows: BTreeMap<(Box<str>, bool), Vec<f64>> = BTreeMap::new();
        let mut found = BTreeMap::new();
        let mut fleet = SimulatedFleet::new(1);
        for turn in from..to {
            for reading in fleet.measure(f64::from(turn) / 4.0).into_iter().flatten() {
                for (is_cpu, value) in [(false, reading.rps), (true, reading.cpu)] {
                    let window = windows.entry((reading.device.clone(), is_cpu)).or_default();
                    let last = &window[window.len().saturating_sub(50)..];
                    let count = last.len() as f64;
                    let mean = last.iter().sum::<f64>() / count;
                    let squares = last.iter().map(|value| (value - mean).powi(2));
                    let variance = squares.sum::<f64>() / count;
                    let moments =
                        Moments { count: last.len() as u32, mean, variance, mean_rest: 0.0 };
                    if !last.is_empty() && detector.judge(&moments, value).is_anomaly {
                        *found.entry(reading.device.clone()).or_default() += 1;
                    }
                    window.push(value);
                }
            }
        }
        found
    }

    #[test]
    fn what_breaks_is_flagged_and_hardly_anything_else() {
        // Of 80 devices with two metrics and 2,400 readings each, one in a thousand.
        assert!(flags(-2_400, 0).values().sum::<usize>() < 384);
        let mut found = flags(-60, STORY_S as i32 * 4);
        let fleet = SimulatedFleet::new(1);
        for fault in faults(0.0) {
            if matches!(fault.kind, FaultKind::Ramp | FaultKind::Stuck) {
                let device = fleet.name(fault.devices.start);
                let count = found.remove(device).unwrap_or(0);
                assert!(count >= 3, "{device}: {count}");
            }
        }
        assert!(found.values().sum::<usize>() < 250, "{found:?}");
    }

    #[test]
    fn loads_are_believable() {
        let mut fleet = SimulatedFleet::new(2);
        for turn in -2_400..2_400 {
            let racks = fleet.measure(f64::from(turn) / 4.0);
            assert_eq!(racks.len(), RACKS.len());
            for reading in racks.into_iter().flatten() {
                assert!((0.0..=10_000.0).contains(&reading.rps), "{reading:?}");
                assert!((0.0..=100.0).contains(&reading.cpu), "{reading:?}");
            }
        }
    }
}
