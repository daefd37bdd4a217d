//! Whole requests, head and body. Pure.
//!
//! A request is a template in which only digits change. Its length is constant, and preparing one takes about ten
//! nanoseconds a sample.

use std::ops::Range;

use super::fleet::{FleetReadings, LoadFleet};
use super::settings::{LoadProfile, LoadSettings, TargetUrl};

/// The sample of `--profile seed`.
const SEED: &str = r#"{"timestamp":1735100000,"cpu":60.5,"rps":2000}"#;

/// Timestamps in microseconds, 2001 to 2286.
const TIMESTAMP_DIGITS: usize = 16;
/// The offsets of the digits of one sample in a request.
#[derive(Clone, Copy, Debug)]
struct TemplateOffsets {
    timestamp: usize,
    device: usize,
    cpu: usize,
    rps: usize,
}

/// The buffer of one request, head and body; [`RequestBodies::prepare`] sets its digits.
#[derive(Clone, Debug)]
pub struct RequestBodies {
    request: Vec<u8>,
    places: Vec<TemplateOffsets>,
    batch: u64,
    fleet: LoadFleet,
}

impl RequestBodies {
    /// Requests to `--url`, with timestamps from `from_us` on (microseconds since 1970, 2001 to 2286).
    pub fn new(settings: &LoadSettings, from_us: u64) -> Self {
        let fleet = LoadFleet::new(settings, from_us);
        let mut body = Vec::new();
        let mut places = Vec::new();
        for index in 0..settings.batch {
            body.push(if index == 0 { b'[' } else { b',' });
            match settings.profile {
                LoadProfile::Seed => body.extend_from_slice(SEED.as_bytes()),
                LoadProfile::Devices | LoadProfile::Anomalies => {
                    places.push(sample(&mut body, &fleet))
                }
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

    /// The fleet of the samples.
    pub fn fleet(&self) -> &LoadFleet {
        &self.fleet
    }

    /// The numbers of the samples of request `number`.
    pub fn samples(&self, number: u64) -> Range<u64> {
        number * self.batch..(number + 1) * self.batch
    }

    /// Prepares request `number`.
    #[inline]
    pub fn prepare(&mut self, number: u64) {
        let first = number * self.batch;
        for (n, place) in (first..).zip(&self.places) {
            let FleetReadings { cpu_hundredths, rps, .. } = self.fleet.readings(n);
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

/// Appends a sample with zeros as digits; returns their offsets.
fn sample(body: &mut Vec<u8>, fleet: &LoadFleet) -> TemplateOffsets {
    let mut with_digits = |text: &str, digits: &str| {
        body.extend_from_slice(text.as_bytes());
        body.extend_from_slice(digits.as_bytes());
        body.len() - digits.len()
    };
    let places = TemplateOffsets {
        timestamp: with_digits(r#"{"timestamp":"#, &"0".repeat(TIMESTAMP_DIGITS)),
        device: with_digits(r#","device":"edge-"#, &"0".repeat(fleet.name_digits)),
        cpu: with_digits(r#"","cpu":"#, "00.00"),
        rps: with_digits(r#","rps":"#, "0000"),
    };
    body.push(b'}');
    places
}

fn head(url: &TargetUrl, token: Option<&str>, body: &[u8]) -> Vec<u8> {
    let TargetUrl { target, authority, .. } = url;
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

/// Fills `place` with the last digits of `value`, zero-padded.
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
    use crate::fleet::{
        ANOMALY_SIGMAS, AnomalousMetric, CLEAN_SAMPLES, CPU_SIGMA, RPS_SIGMA, WAVE, WAVE_SAMPLES,
    };
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
        let mut bodies = RequestBodies::new(&settings(args), FROM_US);
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
        let mut bodies = RequestBodies::new(&settings(&[]), FROM_US);
        bodies.prepare(3);
        assert_eq!(body(bodies.request()), SEED.as_bytes());
        let request = String::from_utf8(bodies.request().to_vec()).expect("ASCII");
        assert!(request.starts_with("POST /ingest HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"));
        let batch = RequestBodies::new(&settings(&["--batch=3"]), FROM_US);
        assert_eq!(parsed(batch.request()).len(), 3);
        let with_token = RequestBodies::new(&settings(&["--token=s3cret"]), FROM_US);
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
        // The batch size does not change the samples.
        let one_by_one = all(&["--profile=anomalies", "--devices=7", "--seed=42"], 1000);
        assert_eq!(one_by_one.1, first.1);
    }

    #[test]
    fn the_truth_is_what_the_bodies_hold() {
        let args = ["--profile=anomalies", "--devices=13", "--batch=10", "--rate=1000"];
        let args = [&args[..], &["--anomaly-rate=0.05"]].concat();
        let mut bodies = RequestBodies::new(&settings(&args), FROM_US);
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
        let fleet = LoadFleet::new(&settings, FROM_US);
        let metrics = [(CPU_SIGMA, AnomalousMetric::Cpu), (RPS_SIGMA, AnomalousMetric::Rps)];
        for device in 0..3 {
            let of_device: Vec<_> =
                (0..10 * WAVE_SAMPLES).map(|turn| fleet.readings(turn * 3 + device)).collect();
            let early = &of_device[..CLEAN_SAMPLES as usize];
            assert!(early.iter().all(|readings| readings.anomaly.is_none()));
            for (sigma, metric) in metrics {
                let value = |readings: &FleetReadings| match metric {
                    AnomalousMetric::Cpu => readings.cpu_hundredths as f64,
                    AnomalousMetric::Rps => readings.rps as f64,
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
        let mut bodies = RequestBodies::new(&settings, FROM_US);
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
    fn timestamps_follow_the_schedule() {
        let args = ["--profile=devices", "--rate=500", "--batch=2", "--devices=1"];
        let fleet = LoadFleet::new(&settings(&args), FROM_US);
        assert_eq!(fleet.timestamp_us(0), FROM_US);
        assert_eq!(fleet.timestamp_us(1000), FROM_US + 1_000_000);
        let closed = LoadFleet::new(&settings(&["--profile=devices", "--devices=1"]), FROM_US);
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
