//! A simulated fleet: the values of each sample, and which of them are anomalies. Pure.
//!
//! Each value is a function of the seed and the number of its sample alone, so threads need no agreement. An
//! injected anomaly is not stored: [`LoadFleet::truth`] computes it again once the sample was accepted.
//!
//! Sample `n` is of device `n mod devices`. Each device has its own level of cpu and rps, and a slow wave around
//! it. Its noise never passes 3.47 standard deviations, while an anomaly is at least [`ANOMALY_SIGMAS`] of them
//! away: no other value is an anomaly.

use std::io::Write as _;
use std::ops::{Range, RangeInclusive};

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};

use super::settings::LoadSettings;

/// The range of device levels: cpu in hundredths of a percent, rps in requests per second.
const CPU_LEVEL: RangeInclusive<i64> = 2_000..=4_500;
const RPS_LEVEL: RangeInclusive<i64> = 2_000..=5_000;
/// One standard deviation of the noise is this part of the level.
pub const CPU_SIGMA: i64 = 20;
/// The same of rps.
pub const RPS_SIGMA: i64 = 33;
/// The height of the wave is this part of the level.
pub const WAVE: i64 = 10;
/// Samples of a device in one wave: slow compared with any useful window.
pub const WAVE_SAMPLES: u64 = 1_024;
const WAVE_STEPS: usize = 256;
/// The scale of the wave table.
const WAVE_ONE: i64 = 1_000;

/// The sum of four 16-bit numbers is close to a normal distribution, and bounded by 3.47 standard
/// deviations. This is one of them: 65,536 / √3.
const NOISE_ONE: i64 = 37_837;
const NOISE_MEAN: i64 = 2 * 65_535;
/// The distance of an anomaly from level and wave, in standard deviations.
pub const ANOMALY_SIGMAS: RangeInclusive<i64> = 8..=12;
/// Samples of each device without anomalies: a detector needs a window first.
pub const CLEAN_SAMPLES: u64 = 20;

// Digits are set in place, so every value has a constant width.
const _: () = assert!(lowest(*CPU_LEVEL.start(), CPU_SIGMA, 4) >= 1_000, "10.00");
const _: () = assert!(highest(*CPU_LEVEL.end(), CPU_SIGMA) <= 9_999, "99.99");
const _: () = assert!(lowest(*RPS_LEVEL.start(), RPS_SIGMA, *ANOMALY_SIGMAS.end()) >= 1_000);
const _: () = assert!(highest(*RPS_LEVEL.end(), RPS_SIGMA) <= 9_999);

const fn lowest(level: i64, sigma: i64, sigmas: i64) -> i64 {
    level - level / WAVE - (level / sigma + 1) * sigmas
}

const fn highest(level: i64, sigma: i64) -> i64 {
    level + level / WAVE + (level / sigma + 1) * *ANOMALY_SIGMAS.end()
}

/// A closed loop has no schedule: its samples are a microsecond apart.
const CLOSED_LOOP_STEP_NS: u64 = 1_000;

/// The metric with the anomaly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnomalousMetric {
    /// Above the level only: a percentage has no room below.
    Cpu,
    /// Above or below the level.
    Rps,
}

/// The readings of one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FleetReadings {
    /// Hundredths of a percent.
    pub cpu_hundredths: u64,
    /// Requests per second.
    pub rps: u64,
    /// The metric that is an anomaly, if one is.
    pub anomaly: Option<AnomalousMetric>,
}

/// Devices and their values.
#[derive(Clone, Debug)]
pub struct LoadFleet {
    /// Their number.
    pub devices: u64,
    /// Digits of the number in each name.
    pub name_digits: usize,
    keys: RandomKeys,
    /// A random number below it makes an anomaly.
    anomaly_below: u64,
    wave: Vec<i64>,
    from_us: u64,
    step_ns: u64,
}

/// One random sequence for each purpose, so that they are independent.
#[derive(Clone, Debug)]
struct RandomKeys {
    device: u64,
    cpu: u64,
    rps: u64,
    anomaly: u64,
}

/// The `n`-th number of the sequence `key`.
#[inline]
fn draw(key: u64, n: u64) -> u64 {
    SplitMix64::seed_from_u64(key.wrapping_add(n)).next_u64()
}

/// A value of the range, uniform over `bits`.
#[inline]
fn within(range: &RangeInclusive<i64>, bits: u64) -> i64 {
    let span = (range.end() - range.start() + 1) as u64;
    range.start() + (bits & 0xffff_ffff).wrapping_mul(span).wrapping_shr(32) as i64
}

/// Noise with the standard deviation `sigma`.
#[inline]
fn noise(sigma: i64, bits: u64) -> i64 {
    let sum: u64 = (0..4).map(|part| (bits >> (16 * part)) & 0xffff).sum();
    (sum as i64 - NOISE_MEAN) * sigma / NOISE_ONE
}

impl LoadFleet {
    /// The fleet of these settings, whose first sample is at `from_us`.
    pub fn new(settings: &LoadSettings, from_us: u64) -> Self {
        let devices = settings.devices() as u64;
        let mut keys = SplitMix64::seed_from_u64(settings.seed);
        let keys = RandomKeys {
            device: keys.next_u64(),
            cpu: keys.next_u64(),
            rps: keys.next_u64(),
            anomaly: keys.next_u64(),
        };
        let turn = |step: usize| std::f64::consts::TAU * step as f64 / WAVE_STEPS as f64;
        let samples_per_s = settings.rate.map(|rate| (rate * settings.batch) as u64);
        let step_ns = samples_per_s.map_or(CLOSED_LOOP_STEP_NS, |n| 1_000_000_000 / n);
        Self {
            devices,
            name_digits: (devices - 1).max(1).ilog10() as usize + 1,
            keys,
            // 2^64 times the rate; rates are well below 1.
            anomaly_below: (settings.anomaly_rate() * 2_f64.powi(64)) as u64,
            wave: (0..WAVE_STEPS)
                .map(|step| (turn(step).sin() * WAVE_ONE as f64).round() as i64)
                .collect(),
            from_us,
            // A device never has two samples with the same timestamp.
            step_ns: step_ns.max(1_000_u64.div_ceil(devices)),
        }
    }

    /// The timestamp of sample `n`, in microseconds since 1970.
    #[inline]
    pub fn timestamp_us(&self, n: u64) -> u64 {
        self.from_us + n * self.step_ns / 1_000
    }

    #[inline]
    fn anomaly_bits(&self, n: u64) -> Option<u64> {
        let bits = draw(self.keys.anomaly, n);
        (bits < self.anomaly_below && n / self.devices >= CLEAN_SAMPLES).then_some(bits)
    }

    /// The readings of sample `n`.
    #[inline]
    pub fn readings(&self, n: u64) -> FleetReadings {
        let (device, turn) = (n % self.devices, n / self.devices);
        let own = draw(self.keys.device, device);
        let cpu_level = within(&CPU_LEVEL, own);
        let rps_level = within(&RPS_LEVEL, own >> 32);
        // The high half chose the level of rps; it can choose the phase of the wave too.
        let step = (turn + (own >> 48)) % WAVE_SAMPLES * WAVE_STEPS as u64 / WAVE_SAMPLES;
        let wave = self.wave[step as usize];
        let at = |level: i64| level + level / WAVE * wave / WAVE_ONE;
        let (cpu_sigma, rps_sigma) = (cpu_level / CPU_SIGMA, rps_level / RPS_SIGMA);
        let mut cpu = at(cpu_level) + noise(cpu_sigma, draw(self.keys.cpu, n));
        let mut rps = at(rps_level) + noise(rps_sigma, draw(self.keys.rps, n));
        let anomaly = self.anomaly_bits(n).map(|bits| {
            // The high bits are small in every anomaly; the low bits are random.
            let sigmas = within(&ANOMALY_SIGMAS, bits << 8);
            if bits & 1 == 0 {
                cpu = at(cpu_level) + sigmas * (cpu_sigma + 1);
                AnomalousMetric::Cpu
            } else {
                let up = if bits & 2 == 0 { 1 } else { -1 };
                rps = at(rps_level) + up * sigmas * (rps_sigma + 1);
                AnomalousMetric::Rps
            }
        });
        debug_assert!((1_000..=9_999).contains(&cpu) && (1_000..=9_999).contains(&rps));
        FleetReadings { cpu_hundredths: cpu as u64, rps: rps as u64, anomaly }
    }

    /// Adds a line for each anomaly of these samples to `lines`; returns their number.
    pub fn truth(&self, samples: Range<u64>, lines: &mut Vec<u8>) -> u64 {
        let mut found = 0;
        if self.anomaly_below == 0 {
            return found;
        }
        for n in samples.filter(|&n| self.anomaly_bits(n).is_some()) {
            let FleetReadings { cpu_hundredths, rps, anomaly } = self.readings(n);
            let device = n % self.devices;
            let width = self.name_digits;
            let timestamp = self.timestamp_us(n);
            let (metric, value) = match anomaly {
                Some(AnomalousMetric::Cpu) => {
                    ("cpu", format!("{}.{:02}", cpu_hundredths / 100, cpu_hundredths % 100))
                }
                Some(AnomalousMetric::Rps) => ("rps", rps.to_string()),
                None => unreachable!("its bits say so"),
            };
            writeln!(
                lines,
                r#"{{"device":"edge-{device:0width$}","timestamp":{timestamp},"metric":"{metric}","value":{value}}}"#
            )
            .expect("a vector takes every byte");
            found += 1;
        }
        found
    }
}
