//! A decoder whose values are held against what prost and the naive reader say.

use std::sync::Arc;

use sigmad::decode::{BodyError, Decoded, Decoder, Format};
use sigmad::registry::Registry;
use sigmad_clock::Now;
use sigmad_sample::Batch;

use super::{Expected, Value, v1, v2};

const NOW: Now = Now { monotonic_ns: 5_000_000_000, wall_us: 1_735_100_000_000_000 };

/// A decoder, and the names that it gives out.
pub struct Server {
    registry: Arc<Registry>,
    pub decoder: Decoder,
}

impl Server {
    pub fn new(max_streams: usize) -> Self {
        let registry = Arc::new(Registry::new(max_streams, 3_600));
        Self { decoder: Decoder::new(registry.clone()), registry }
    }

    /// The values of a body.
    pub fn decode(
        &mut self,
        body: &[u8],
        format: Format,
    ) -> Result<(Decoded, Vec<Value>), BodyError> {
        let mut batch = Batch::default();
        let decoded = self.decoder.decode(&mut body.to_vec(), format, NOW, &mut batch)?;
        let mut values = Vec::new();
        for (sample, readings) in batch.iter() {
            let device = sample.device.and_then(|id| self.registry.device_name(id));
            for reading in readings {
                let series = self.registry.metric_name(reading.metric).expect("it was just given");
                values.push(Value {
                    device: device.as_ref().map(ToString::to_string),
                    series: series.to_string(),
                    time_us: Some(sample.timestamp_us),
                    value: reading.value,
                });
            }
        }
        Ok((decoded, values))
    }

    /// Those of a good one.
    pub fn values(&mut self, body: &[u8], format: Format) -> Vec<Value> {
        self.decode(body, format).expect("a good body").1
    }
}

/// Holds what is decoded against what prost and the naive reader say.
pub fn check(server: &mut Server, body: &[u8], format: Format) {
    let expected: Option<Expected> = match format {
        Format::RemoteWrite1 => v1::read(body),
        _ => v2::read(body),
    };
    let decoded = server.decode(body, format);
    let Some(mut expected) = expected else {
        // What is not used is not read, so some bodies are good enough here that prost refuses.
        return;
    };
    let (decoded, mut values) = decoded.expect("prost reads it");
    if expected.histograms > 0 {
        // Their values and refusals have tests of their own.
        assert!(decoded.invalid >= expected.refused);
        assert!(decoded.invalid <= expected.refused + expected.histograms);
        return;
    }
    for value in &mut expected.values {
        value.time_us.get_or_insert(NOW.wall_us);
    }
    let is_rate =
        |value: &Value| expected.counters.contains(&(value.device.clone(), value.series.clone()));
    values.retain(|value| !is_rate(value));
    expected
        .values
        .retain(|value| !expected.counters.contains(&(value.device.clone(), value.series.clone())));
    assert_eq!(values, expected.values);
    assert_eq!(decoded.invalid, expected.refused, "{:?}", server.decoder.refusals());
    if format == Format::RemoteWrite2 {
        let written = server.decoder.written().expect("2.0 is told");
        assert_eq!(written.samples, expected.samples - expected.refused);
    }
}
