//! A server for tests of formats: bodies in, values out.

use std::sync::Arc;

use sigmad_clock::Now;
use sigmad_sample::Batch;

use super::{BodyError, Decoded, Decoder, Format};
use crate::registry::Registry;

pub(super) const NOW: Now = Now { monotonic_ns: 5_000_000_000, wall_us: 1_735_100_000_000_000 };

/// Device, series, time in microseconds, value.
pub(super) type Value = (Option<String>, String, i64, f64);

pub(super) struct Server {
    pub(super) registry: Arc<Registry>,
    pub(super) decoder: Decoder,
    pub(super) batch: Batch,
}

impl Server {
    pub(super) fn new() -> Self {
        let registry = Arc::new(Registry::new(1 << 14, 60));
        Self { decoder: Decoder::new(registry.clone()), registry, batch: Batch::default() }
    }

    pub(super) fn decode(&mut self, body: &[u8], format: Format) -> Result<Decoded, BodyError> {
        self.batch.clear();
        self.decoder.decode(&mut body.to_vec(), format, NOW, &mut self.batch)
    }

    /// The values of a good body.
    pub(super) fn read(&mut self, body: &[u8], format: Format) -> Vec<Value> {
        self.decode(body, format).expect("a good body");
        self.values()
    }

    /// The values of the last body.
    pub(super) fn values(&self) -> Vec<Value> {
        let mut values = Vec::new();
        for (sample, readings) in self.batch.iter() {
            let device = sample.device.and_then(|id| self.registry.device_name(id));
            for reading in readings {
                let series = self.registry.metric_name(reading.metric).expect("a known metric");
                let device = device.as_deref().map(str::to_owned);
                values.push((device, series.to_string(), sample.timestamp_us, reading.value));
            }
        }
        values
    }

    /// Index and message of each refusal of the last body.
    pub(super) fn refusals(&self) -> Vec<(usize, &str)> {
        self.decoder.refusals().iter().map(|r| (r.index, &*r.message)).collect()
    }
}

pub(super) fn value(device: Option<&str>, series: &str, time_us: i64, value: f64) -> Value {
    (device.map(str::to_owned), series.to_owned(), time_us, value)
}
