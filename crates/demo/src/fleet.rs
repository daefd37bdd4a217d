//! The readings of a simulated fleet.
//!
//! A day takes a quarter of an hour. The noise stays below the default threshold, so that anomalies come from
//! faults. Five devices have a fault each, again and again.

use std::f64::consts::TAU;

/// Racks of devices; each posts its own batch.
const RACKS: [&str; 6] = ["ams-1", "ams-2", "fra-1", "fra-2", "sgp-1", "sgp-2"];
const DEVICES_PER_RACK: usize = 6;
/// The length of a day.
const DAY_S: f64 = 900.0;
/// The amplitude of the daily cycle, as a fraction of the mean.
const TIDE: f64 = 0.12;
/// The largest noise, as a fraction of the load.
const NOISE: f64 = 0.08;

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

/// The kind of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeviceFault {
    /// One reading several times as high.
    Spike,
    /// Next to nothing for some seconds.
    Drop,
    /// A leak: slow for a while, then ever faster, until it is restarted.
    Drift,
    /// The same reading again and again: a stuck sensor.
    FlatLine,
    /// Up and down between two extremes.
    Oscillation,
}

/// The faults: index of the device, kind, time of the first, and period. No two periods are equal.
const FAULTS: [(usize, DeviceFault, f64, f64); 5] = [
    (2, DeviceFault::Spike, WARM_UP_S + 3.0, 37.0),
    (10, DeviceFault::Drop, WARM_UP_S + 6.0, 71.0),
    (16, DeviceFault::Drift, -16.0, 53.0),
    (21, DeviceFault::FlatLine, WARM_UP_S + 12.0, 83.0),
    (33, DeviceFault::Oscillation, WARM_UP_S + 18.0, 61.0),
];
/// The time for which the devices have measured when the server starts: enough for a full window, so that all
/// anomalies come from faults.
pub const WARM_UP_S: f64 = 12.5;

#[derive(Debug)]
struct SimulatedDevice {
    name: Box<str>,
    /// The load of this device, relative to the mean of all.
    share: f64,
    /// Its fault: kind, time of the first, and period.
    fault: Option<(DeviceFault, f64, f64)>,
    /// The reading at which it is stuck.
    held: Option<(f64, f64)>,
}

/// All devices.
#[derive(Debug)]
pub struct SimulatedFleet {
    devices: Vec<SimulatedDevice>,
    dice: PseudoRandom,
}

impl Default for SimulatedFleet {
    fn default() -> Self {
        let mut dice = PseudoRandom(7);
        let names = RACKS.iter().flat_map(|rack| {
            (1..=DEVICES_PER_RACK).map(move |number| format!("{rack}-edge-{number:02}").into())
        });
        let device = |(place, name): (usize, Box<str>)| {
            let fault = FAULTS.iter().find(|(at, ..)| *at == place);
            let fault = fault.map(|&(_, fault, first_s, every_s)| (fault, first_s, every_s));
            SimulatedDevice { name, share: 1.0 + 0.08 * dice.swing(), fault, held: None }
        };
        Self { devices: names.enumerate().map(device).collect(), dice }
    }
}

impl SimulatedFleet {
    /// The readings of all devices `at_s` seconds after the start, by rack.
    pub fn measure(&mut self, at_s: f64) -> Vec<Vec<DeviceReading>> {
        let Self { devices, dice } = self;
        // Begins in the morning, when the load rises.
        let tide = 1.0 + TIDE * (TAU * (at_s / DAY_S - 0.1)).sin();
        let readings: Vec<DeviceReading> =
            devices.iter_mut().map(|device| device.measure(at_s, tide, dice)).collect();
        readings.chunks(DEVICES_PER_RACK).map(<[DeviceReading]>::to_vec).collect()
    }
}

impl SimulatedDevice {
    fn measure(&mut self, at_s: f64, tide: f64, dice: &mut PseudoRandom) -> DeviceReading {
        let load = tide * self.share;
        let mut rps = 2000.0 * load * (1.0 + NOISE * dice.swing());
        let mut cpu = 46.0 * load * (1.0 + NOISE * dice.swing());
        if let Some((fault, first_s, every_s)) = self.fault {
            // Seconds since the fault began, for the last time.
            let since_s = (at_s - first_s).rem_euclid(every_s);
            let has_begun = at_s >= first_s;
            match fault {
                DeviceFault::Spike if has_begun && since_s < 0.5 => rps *= 3.2,
                DeviceFault::Drop if has_begun && since_s < 5.0 => {
                    (rps, cpu) = (rps * 0.04, cpu * 0.3)
                }
                DeviceFault::Drift => {
                    let left_s = every_s - since_s;
                    cpu += (0.3 * ((16.0 - left_s) / 3.0).exp()).min(95.0 - cpu);
                }
                DeviceFault::Oscillation if has_begun && since_s < 9.0 => {
                    rps *= 1.0 + 0.7 * (TAU * since_s / 2.0).sin();
                }
                DeviceFault::FlatLine if has_begun && since_s < 14.0 => {
                    (rps, cpu) = *self.held.get_or_insert((rps, cpu));
                }
                DeviceFault::FlatLine => self.held = None,
                DeviceFault::Spike | DeviceFault::Drop | DeviceFault::Oscillation => {}
            }
        }
        DeviceReading { device: self.name.clone(), rps, cpu: cpu.clamp(0.0, 100.0) }
    }
}

/// Pseudo-random numbers, the same in every run (SplitMix64: Steele, Lea and Flood, 2014).
#[derive(Debug)]
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

    use super::super::MIN_SAMPLES;
    use super::*;
    use sigmad_detectors::window::Moments;
    use sigmad_detectors::zscore::ZScore;

    /// Anomalies by device after so many seconds, judged as the demo is unless told otherwise.
    fn anomalies(seconds: u32) -> BTreeMap<Box<str>, Vec<f64>> {
        let detector = ZScore { threshold: 2.0, min_samples: MIN_SAMPLES as u32 };
        let mut windows: BTreeMap<(Box<str>, bool), Vec<f64>> = BTreeMap::new();
        let mut found: BTreeMap<Box<str>, Vec<f64>> = BTreeMap::new();
        let mut fleet = SimulatedFleet::default();
        for turn in 0..seconds * 4 {
            let at_s = f64::from(turn) / 4.0;
            for reading in fleet.measure(at_s).into_iter().flatten() {
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
                        found.entry(reading.device.clone()).or_default().push(at_s);
                    }
                    window.push(value);
                }
            }
        }
        found
    }

    #[test]
    fn what_breaks_is_flagged_and_hardly_anything_else() {
        let found = anomalies(600);
        let fleet = SimulatedFleet::default();
        let mut others = 0;
        for device in &fleet.devices {
            let count = found.get(&device.name).map_or(0, Vec::len);
            match device.fault {
                Some((fault, ..)) => assert!(count >= 10, "{fault:?}: {count}"),
                None => others += count,
            }
        }
        // One reading in a thousand, of 31 devices with two metrics and 2,400 readings each.
        assert!(others < 150, "{others}");
    }

    #[test]
    fn a_newcomer_sees_something_break_within_ten_seconds() {
        let until_s = WARM_UP_S as u32 + 10;
        assert!(anomalies(until_s).values().flatten().any(|at_s| *at_s > WARM_UP_S));
    }

    #[test]
    fn loads_are_believable() {
        let mut fleet = SimulatedFleet::default();
        for turn in 0..2_400 {
            let racks = fleet.measure(f64::from(turn) / 4.0);
            assert_eq!(racks.len(), RACKS.len());
            for reading in racks.into_iter().flatten() {
                assert!((0.0..=10_000.0).contains(&reading.rps), "{reading:?}");
                assert!((0.0..=100.0).contains(&reading.cpu), "{reading:?}");
            }
        }
    }
}
