//! One sample, and what may be a number in it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

/// Larger magnitudes are refused.
const VALUE_MAX: f64 = 1e15;

/// One reading of both metrics, or of one.
#[derive(Clone, Debug)]
pub struct Sample {
    /// As the client said, or the second of arrival.
    pub timestamp: i64,
    /// None for a sample of the fleet alone.
    pub device: Option<String>,
    /// Load of the CPU, in percent.
    pub cpu: Option<f64>,
    /// Requests per second.
    pub rps: Option<f64>,
}

impl Sample {
    /// Where Redis keeps it: the last one of each device.
    pub fn key(&self) -> String {
        format!("sample:{}", self.device.as_deref().unwrap_or_default())
    }

    /// What Redis keeps.
    pub fn to_json(&self) -> String {
        json!({
            "timestamp": self.timestamp, "device": self.device, "cpu": self.cpu, "rps": self.rps
        })
        .to_string()
    }

    /// Its numbers by name.
    pub fn readings(&self) -> impl Iterator<Item = (&'static str, f64)> + use<> {
        [("cpu", self.cpu), ("rps", self.rps)]
            .into_iter()
            .filter_map(|(metric, value)| Some((metric, value?)))
    }

    /// Checks what a client may say.
    ///
    /// # Errors
    /// With a message for the client.
    pub fn check(self) -> Result<Self, String> {
        if self.readings().next().is_none() {
            return Err("a sample needs cpu or rps".to_owned());
        }
        match self.readings().find(|(_, value)| !(0.0..=VALUE_MAX).contains(value)) {
            Some((metric, _)) => Err(format!("{metric} is out of range")),
            None => Ok(self),
        }
    }
}

/// Seconds since 1970.
pub fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as i64)
}
