//! Bodies to samples, into structs.

use baseline::sample::{Sample, now_s};
use serde::{Deserialize, Serialize};
use simd_json::Buffers;

/// A sample as it comes, or `{"metrics":[…]}`.
#[derive(Deserialize)]
struct Incoming {
    timestamp: Option<i64>,
    #[serde(alias = "device_id")]
    device: Option<String>,
    cpu: Option<f64>,
    rps: Option<f64>,
    metrics: Option<Vec<Incoming>>,
}

/// The usual answer.
#[derive(Serialize)]
pub struct Accepted {
    status: &'static str,
    accepted: usize,
}

impl Accepted {
    /// All samples of a body were kept.
    pub fn of(samples: usize) -> Self {
        Self { status: "accepted", accepted: samples }
    }
}

/// Appends the samples of a body, by serde_json.
///
/// # Errors
/// With a message for the client.
pub fn typed(body: &[u8], samples: &mut Vec<Sample>) -> Result<(), String> {
    if is_array(body) {
        let all: Vec<Incoming> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        return keep_all(all, samples);
    }
    for one in serde_json::Deserializer::from_slice(body).into_iter() {
        keep(one.map_err(|error| error.to_string())?, samples)?;
    }
    check_some(samples)
}

/// The same, by simd-json, which uses the body as scratch space.
///
/// # Errors
/// With a message for the client.
pub fn simd(
    body: &mut [u8],
    buffers: &mut Buffers,
    samples: &mut Vec<Sample>,
) -> Result<(), String> {
    let mut first_line = body.split(|&byte| byte == b'\n').next().unwrap_or_default();
    first_line = first_line.trim_ascii();
    if is_array(body) {
        let all = simd_json::serde::from_slice_with_buffers::<Vec<Incoming>>(body, buffers);
        return keep_all(all.map_err(|error| error.to_string())?, samples);
    }
    if first_line.len() < body.trim_ascii().len() && first_line.ends_with(b"}") {
        for line in body.split_mut(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            let one = simd_json::serde::from_slice_with_buffers(line, buffers);
            keep(one.map_err(|error| error.to_string())?, samples)?;
        }
    } else if !body.is_empty() {
        let one = simd_json::serde::from_slice_with_buffers(body, buffers);
        keep(one.map_err(|error| error.to_string())?, samples)?;
    }
    check_some(samples)
}

fn is_array(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'[')
}

fn keep(one: Incoming, samples: &mut Vec<Sample>) -> Result<(), String> {
    let Incoming { timestamp, device, cpu, rps, metrics } = one;
    if let Some(metrics) = metrics {
        return keep_all(metrics, samples);
    }
    let timestamp = timestamp.unwrap_or_else(now_s);
    samples.push(Sample { timestamp, device, cpu, rps }.check()?);
    Ok(())
}

fn keep_all(all: Vec<Incoming>, samples: &mut Vec<Sample>) -> Result<(), String> {
    samples.reserve(all.len());
    for one in all {
        keep(one, samples)?;
    }
    check_some(samples)
}

fn check_some(samples: &[Sample]) -> Result<(), String> {
    if samples.is_empty() { Err("no samples".to_owned()) } else { Ok(()) }
}
