//! What is sent: whole requests, and which of their values are wrong on purpose. Pure.
//!
//! A request is a template in which only digits change, so its length never does and preparing one
//! costs some ten nanoseconds a sample. Every value is a function of the seed and the number of its
//! sample alone: threads need not agree on anything, and what was injected is not stored but asked
//! for again ([`Fleet::truth`]) once the answer says that it arrived.
//!
//! Sample `n` is of device `n mod devices`. Each device has its own level of cpu and rps, a slow wave
//! around it, and noise that never passes 3.47 standard deviations, while an anomaly
//! is at least [`ANOMALY_SIGMAS`] of them away: what is not in the truth is not an anomaly.

use std::io::Write as _;
use std::ops::{Range, RangeInclusive};

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};

use super::settings::{LoadSettings, Profile, Url};

/// The sample of `--profile seed`.
const SEED: &str = r#"{"timestamp":1735100000,"cpu":60.5,"rps":2000}"#;

/// cpu in hundredths of a percent, rps as such: between the levels of the calmest and the busiest.
const CPU_LEVEL: RangeInclusive<i64> = 2_000..=4_500;
const RPS_LEVEL: RangeInclusive<i64> = 2_000..=5_000;
/// One standard deviation of the noise is this part of the level.
const CPU_SIGMA: i64 = 20;
const RPS_SIGMA: i64 = 33;
/// The wave's height is this part of the level.
const WAVE: i64 = 10;
/// A wave takes so many samples of a device: slow beside any window that is of use.
const WAVE_SAMPLES: u64 = 1_024;
const WAVE_STEPS: usize = 256;
/// Of the values of the wave's table.
const WAVE_ONE: i64 = 1_000;

/// The sum of four 16-bit numbers is close to a normal distribution, and bounded by 3.47 standard
/// deviations. This is one of them: 65,536 / √3.
const NOISE_ONE: i64 = 37_837;
const NOISE_MEAN: i64 = 2 * 65_535;
/// How far from its level (with its wave) an anomaly is, in standard deviations.
pub const ANOMALY_SIGMAS: RangeInclusive<i64> = 8..=12;
/// Of each device: nothing can be said of a value before there is a window.
pub const CLEAN_SAMPLES: u64 = 20;

// Digits are set in place: every value keeps its width.
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

/// Timestamps in microseconds, 2001 to 2286.
const TIMESTAMP_DIGITS: usize = 16;
/// A closed loop has no timetable: its samples are a microsecond apart.
const CLOSED_LOOP_STEP_NS: u64 = 1_000;

/// Which reading is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Up: there is no room below.
    Cpu,
    /// Up or down.
    Rps,
}

/// The readings of one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readings {
    /// Hundredths of a percent.
    pub cpu_hundredths: u64,
    /// Requests a second.
    pub rps: u64,
    /// Which of the two is an anomaly.
    pub anomaly: Option<Metric>,
}

/// Devices and what they report.
#[derive(Clone, Debug)]
pub struct Fleet {
    devices: u64,
    name_digits: usize,
    keys: Keys,
    /// A number below it makes an anomaly.
    anomaly_below: u64,
    wave: Vec<i64>,
    from_us: u64,
    step_ns: u64,
}

/// One for each thing that is drawn, so that no draw knows of another.
#[derive(Clone, Debug)]
struct Keys {
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

/// Evenly from the range.
#[inline]
fn within(range: &RangeInclusive<i64>, bits: u64) -> i64 {
    let span = (range.end() - range.start() + 1) as u64;
    range.start() + (bits & 0xffff_ffff).wrapping_mul(span).wrapping_shr(32) as i64
}

/// Noise of that standard deviation.
#[inline]
fn noise(sigma: i64, bits: u64) -> i64 {
    let sum: u64 = (0..4).map(|part| (bits >> (16 * part)) & 0xffff).sum();
    (sum as i64 - NOISE_MEAN) * sigma / NOISE_ONE
}

impl Fleet {
    fn new(settings: &LoadSettings, from_us: u64) -> Self {
        let devices = settings.devices() as u64;
        let mut keys = SplitMix64::seed_from_u64(settings.seed);
        let keys = Keys {
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

    /// Microseconds since 1970 of sample `n`.
    #[inline]
    pub fn timestamp_us(&self, n: u64) -> u64 {
        self.from_us + n * self.step_ns / 1_000
    }

    #[inline]
    fn anomaly_bits(&self, n: u64) -> Option<u64> {
        let bits = draw(self.keys.anomaly, n);
        (bits < self.anomaly_below && n / self.devices >= CLEAN_SAMPLES).then_some(bits)
    }

    /// What sample `n` reads.
    #[inline]
    pub fn readings(&self, n: u64) -> Readings {
        let (device, turn) = (n % self.devices, n / self.devices);
        let own = draw(self.keys.device, device);
        let cpu_level = within(&CPU_LEVEL, own);
        let rps_level = within(&RPS_LEVEL, own >> 32);
        // The high half chose the level of rps: its place in the wave is as good as any other.
        let step = (turn + (own >> 48)) % WAVE_SAMPLES * WAVE_STEPS as u64 / WAVE_SAMPLES;
        let wave = self.wave[step as usize];
        let at = |level: i64| level + level / WAVE * wave / WAVE_ONE;
        let (cpu_sigma, rps_sigma) = (cpu_level / CPU_SIGMA, rps_level / RPS_SIGMA);
        let mut cpu = at(cpu_level) + noise(cpu_sigma, draw(self.keys.cpu, n));
        let mut rps = at(rps_level) + noise(rps_sigma, draw(self.keys.rps, n));
        let anomaly = self.anomaly_bits(n).map(|bits| {
            // The high bits are small, or it would be none; the low ones are free.
            let sigmas = within(&ANOMALY_SIGMAS, bits << 8);
            if bits & 1 == 0 {
                cpu = at(cpu_level) + sigmas * (cpu_sigma + 1);
                Metric::Cpu
            } else {
                let up = if bits & 2 == 0 { 1 } else { -1 };
                rps = at(rps_level) + up * sigmas * (rps_sigma + 1);
                Metric::Rps
            }
        });
        debug_assert!((1_000..=9_999).contains(&cpu) && (1_000..=9_999).contains(&rps));
        Readings { cpu_hundredths: cpu as u64, rps: rps as u64, anomaly }
    }

    /// Adds the line of each anomaly among these samples to `lines`; returns how many there are.
    pub fn truth(&self, samples: Range<u64>, lines: &mut Vec<u8>) -> u64 {
        let mut found = 0;
        if self.anomaly_below == 0 {
            return found;
        }
        for n in samples.filter(|&n| self.anomaly_bits(n).is_some()) {
            let Readings { cpu_hundredths, rps, anomaly } = self.readings(n);
            let device = n % self.devices;
            let width = self.name_digits;
            let timestamp = self.timestamp_us(n);
            let (metric, value) = match anomaly {
                Some(Metric::Cpu) => {
                    ("cpu", format!("{}.{:02}", cpu_hundredths / 100, cpu_hundredths % 100))
                }
                Some(Metric::Rps) => ("rps", rps.to_string()),
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

/// Where the digits of one sample stand in a request.
#[derive(Clone, Copy, Debug)]
struct Places {
    timestamp: usize,
    device: usize,
    cpu: usize,
    rps: usize,
}

/// One whole request, head and body, made anew for each number.
#[derive(Clone, Debug)]
pub struct Bodies {
    request: Vec<u8>,
    places: Vec<Places>,
    batch: u64,
    fleet: Fleet,
}

impl Bodies {
    /// Requests to `--url` as the settings say, with timestamps from `from_us` on (microseconds since
    /// 1970, 2001 to 2286).
    pub fn new(settings: &LoadSettings, from_us: u64) -> Self {
        let fleet = Fleet::new(settings, from_us);
        let mut body = Vec::new();
        let mut places = Vec::new();
        for index in 0..settings.batch {
            body.push(if index == 0 { b'[' } else { b',' });
            match settings.profile {
                Profile::Seed => body.extend_from_slice(SEED.as_bytes()),
                Profile::Devices | Profile::Anomalies => places.push(sample(&mut body, &fleet)),
            }
        }
        body.push(b']');
        let body = if settings.batch == 1 { &body[1..body.len() - 1] } else { &body[..] };
        let mut request = head(&settings.url, settings.token.as_ref().map(|t| t.secret()), body);
        let shift = request.len() - usize::from(settings.batch == 1);
        for place in &mut places {
            for digits in [&mut place.timestamp, &mut place.device, &mut place.cpu, &mut place.rps]
            {
                *digits += shift;
            }
        }
        request.extend_from_slice(body);
        Self { request, places, batch: settings.batch as u64, fleet }
    }

    /// The fleet that reports.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// The numbers of the samples of request `number`.
    pub fn samples(&self, number: u64) -> Range<u64> {
        number * self.batch..(number + 1) * self.batch
    }

    /// Makes request `number`.
    #[inline]
    pub fn prepare(&mut self, number: u64) {
        let first = number * self.batch;
        for (n, place) in (first..).zip(&self.places) {
            let Readings { cpu_hundredths, rps, .. } = self.fleet.readings(n);
            let at = &mut self.request;
            set_digits(&mut at[place.timestamp..][..TIMESTAMP_DIGITS], self.fleet.timestamp_us(n));
            set_digits(&mut at[place.device..][..self.fleet.name_digits], n % self.fleet.devices);
            set_digits(&mut at[place.cpu..][..2], cpu_hundredths / 100);
            set_digits(&mut at[place.cpu + 3..][..2], cpu_hundredths % 100);
            set_digits(&mut at[place.rps..][..4], rps);
        }
    }

    /// The request that was prepared last.
    #[inline]
    pub fn request(&self) -> &[u8] {
        &self.request
    }
}

/// Appends a sample without its digits, and says where they belong.
fn sample(body: &mut Vec<u8>, fleet: &Fleet) -> Places {
    let mut with_digits = |text: &str, digits: &str| {
        body.extend_from_slice(text.as_bytes());
        body.extend_from_slice(digits.as_bytes());
        body.len() - digits.len()
    };
    let places = Places {
        timestamp: with_digits(r#"{"timestamp":"#, &"0".repeat(TIMESTAMP_DIGITS)),
        device: with_digits(r#","device":"edge-"#, &"0".repeat(fleet.name_digits)),
        cpu: with_digits(r#"","cpu":"#, "00.00"),
        rps: with_digits(r#","rps":"#, "0000"),
    };
    body.push(b'}');
    places
}

fn head(url: &Url, token: Option<&str>, body: &[u8]) -> Vec<u8> {
    let Url { target, authority, .. } = url;
    let authorization =
        token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    format!(
        "POST {target} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\n\
         {authorization}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes()
}

/// "00" to "99".
const PAIRS: [u8; 200] = {
    let mut pairs = [0; 200];
    let mut n = 0;
    while n < 100 {
        pairs[2 * n] = b'0' + (n / 10) as u8;
        pairs[2 * n + 1] = b'0' + (n % 10) as u8;
        n += 1;
    }
    pairs
};

/// Fills the place with the last digits of `value`, zeros in front.
#[inline]
fn set_digits(place: &mut [u8], mut value: u64) {
    let mut pairs = place.rchunks_exact_mut(2);
    for pair in &mut pairs {
        let two = (value % 100) as usize * 2;
        pair.copy_from_slice(&PAIRS[two..two + 2]);
        value /= 100;
    }
    if let [digit] = pairs.into_remainder() {
        *digit = b'0' + (value % 10) as u8;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::*;
    use crate::settings::testing::settings;

    /// The largest sum of four 16-bit numbers, in standard deviations from their mean.
    const NOISE_SIGMAS_MAX: f64 = 3.47;
    const FROM_US: u64 = 1_735_100_000_000_000;

    fn body(request: &[u8]) -> &[u8] {
        let text = std::str::from_utf8(request).expect("ASCII");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        body.as_bytes()
    }

    fn parsed(request: &[u8]) -> Vec<Value> {
        match serde_json::from_slice(body(request)).expect("JSON") {
            Value::Array(samples) => samples,
            sample => vec![sample],
        }
    }

    fn all(args: &[&str], requests: u64) -> (Vec<u8>, Vec<u8>) {
        let mut bodies = Bodies::new(&settings(args), FROM_US);
        let (mut bytes, mut truth) = (Vec::new(), Vec::new());
        for number in 0..requests {
            bodies.prepare(number);
            bytes.extend_from_slice(bodies.request());
            bodies.fleet().truth(bodies.samples(number), &mut truth);
        }
        (bytes, truth)
    }

    #[test]
    fn the_seed_is_sent_as_it_is() {
        let mut bodies = Bodies::new(&settings(&[]), FROM_US);
        bodies.prepare(3);
        assert_eq!(body(bodies.request()), SEED.as_bytes());
        let request = String::from_utf8(bodies.request().to_vec()).expect("ASCII");
        assert!(request.starts_with("POST /ingest HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"));
        let batch = Bodies::new(&settings(&["--batch=3"]), FROM_US);
        assert_eq!(parsed(batch.request()).len(), 3);
        let with_token = Bodies::new(&settings(&["--token=s3cret"]), FROM_US);
        let request = String::from_utf8(with_token.request().to_vec()).expect("ASCII");
        assert!(request.contains("\r\nAuthorization: Bearer s3cret\r\n"));
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_does_not() {
        let args = ["--profile=anomalies", "--devices=7", "--batch=5", "--seed=42"];
        let first = all(&args, 200);
        assert_eq!(first, all(&args, 200));
        assert!(!first.1.is_empty());
        let other = all(&["--profile=anomalies", "--devices=7", "--batch=5", "--seed=43"], 200);
        assert_ne!(first, other);
        // How many samples stand in one request does not change them.
        let one_by_one = all(&["--profile=anomalies", "--devices=7", "--seed=42"], 1000);
        assert_eq!(one_by_one.1, first.1);
    }

    #[test]
    fn the_truth_is_what_the_bodies_hold() {
        let args = ["--profile=anomalies", "--devices=13", "--batch=10", "--rate=1000"];
        let args = [&args[..], &["--anomaly-rate=0.05"]].concat();
        let mut bodies = Bodies::new(&settings(&args), FROM_US);
        let mut sent = BTreeMap::new();
        let mut truth = Vec::new();
        let mut found = 0;
        for number in 0..2000 {
            bodies.prepare(number);
            for sample in parsed(bodies.request()) {
                let key = (sample["device"].to_string(), sample["timestamp"].to_string());
                assert!(sent.insert(key, sample).is_none(), "a device has one sample a moment");
            }
            found += bodies.fleet().truth(bodies.samples(number), &mut truth);
        }
        assert_eq!(sent.len(), 20_000);
        let truth = String::from_utf8(truth).expect("UTF-8");
        assert_eq!(truth.lines().count() as u64, found);
        let eligible = 20_000.0 - 13.0 * CLEAN_SAMPLES as f64;
        assert!((found as f64 / eligible - 0.05).abs() < 0.01, "{found}");
        for line in truth.lines() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            let key = (line["device"].to_string(), line["timestamp"].to_string());
            let metric = line["metric"].as_str().expect("a name");
            assert_eq!(sent[&key][metric].to_string(), line["value"].to_string());
        }
    }

    #[test]
    fn anomalies_stand_out_and_nothing_else_does() {
        let settings = settings(&["--profile=anomalies", "--devices=3"]);
        let fleet = Fleet::new(&settings, FROM_US);
        let metrics = [(CPU_SIGMA, Metric::Cpu), (RPS_SIGMA, Metric::Rps)];
        for device in 0..3 {
            let of_device: Vec<_> =
                (0..10 * WAVE_SAMPLES).map(|turn| fleet.readings(turn * 3 + device)).collect();
            let early = &of_device[..CLEAN_SAMPLES as usize];
            assert!(early.iter().all(|readings| readings.anomaly.is_none()));
            for (sigma, metric) in metrics {
                let value = |readings: &Readings| match metric {
                    Metric::Cpu => readings.cpu_hundredths as f64,
                    Metric::Rps => readings.rps as f64,
                };
                let good: Vec<_> =
                    of_device.iter().filter(|r| r.anomaly != Some(metric)).map(value).collect();
                let level = good.iter().sum::<f64>() / good.len() as f64;
                let one = level / sigma as f64;
                let wave = level / WAVE as f64;
                for readings in &of_device {
                    let away = (value(readings) - level).abs();
                    if readings.anomaly == Some(metric) {
                        assert!(away > *ANOMALY_SIGMAS.start() as f64 * one - 1.05 * wave);
                    } else {
                        assert!(away < (NOISE_SIGMAS_MAX + 0.1) * one + 1.05 * wave, "{away}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_device_has_its_turn_and_its_own_level() {
        let settings = settings(&["--profile=devices", "--devices=101", "--batch=101"]);
        let mut bodies = Bodies::new(&settings, FROM_US);
        bodies.prepare(5);
        let samples = parsed(bodies.request());
        let names: BTreeSet<_> =
            samples.iter().map(|sample| sample["device"].to_string()).collect();
        assert_eq!(names.len(), 101);
        assert!(names.contains("\"edge-000\"") && names.contains("\"edge-100\""));
        let rps: BTreeSet<_> = samples.iter().map(|sample| sample["rps"].to_string()).collect();
        assert!(rps.len() > 80, "{}", rps.len());
    }

    #[test]
    fn timestamps_keep_the_timetable() {
        let args = ["--profile=devices", "--rate=500", "--batch=2", "--devices=1"];
        let fleet = Fleet::new(&settings(&args), FROM_US);
        assert_eq!(fleet.timestamp_us(0), FROM_US);
        assert_eq!(fleet.timestamp_us(1000), FROM_US + 1_000_000);
        let closed = Fleet::new(&settings(&["--profile=devices", "--devices=1"]), FROM_US);
        assert_eq!(closed.timestamp_us(1000), FROM_US + 1000);
    }

    #[test]
    fn digits_fill_their_place() {
        for (width, value, expected) in
            [(1, 7, "7"), (2, 7, "07"), (3, 123, "123"), (4, 9, "0009"), (2, 123, "23")]
        {
            let mut place = vec![b'x'; width];
            set_digits(&mut place, value);
            assert_eq!(std::str::from_utf8(&place), Ok(expected));
        }
    }
}
