//! The decoders of points that no plain reader judges: what they keep is within the bounds, whatever the body. Used by the
//! tests of decoders and by the fuzz target `points`.

use std::sync::Arc;

use sigmad::decode::{Decoder, Exposition, Format};
use sigmad::registry::Registry;
use sigmad_clock::Now;
use sigmad_sample::{Batch, VALUE_MAX, is_metric_name, is_name};

const NOW: Now = Now { monotonic_ns: 5_000_000_000, wall_us: 1_735_100_000_000_000 };

/// The decoder of one worker, kept from body to body so that its caches and buffers are used again.
pub struct Checked {
    registry: Arc<Registry>,
    decoder: Decoder,
    batch: Batch,
}

impl Checked {
    pub fn new() -> Self {
        // Full soon, so that points without room occur too.
        let registry = Arc::new(Registry::new(4_096, 60));
        let decoder = Decoder::new(registry.clone());
        Self { registry, decoder, batch: Batch::default() }
    }

    /// Decodes a body. The first byte of the input says the format, and the rest is the body.
    pub fn check(&mut self, input: &[u8]) {
        let Some((format, body)) = input.split_first() else { return };
        let exposition = Exposition { seconds: format & 4 != 0, strict: format & 8 != 0 };
        let format = match format & 3 {
            0 => Format::Arrow,
            1 => Format::Exposition(exposition),
            2 => Format::OtlpJson,
            _ => Format::Json,
        };
        self.batch.clear();
        let decoded = self.decoder.decode(&mut body.to_vec(), format, NOW, &mut self.batch);
        // Nothing is half done.
        assert_eq!(decoded.map_or(0, |decoded| decoded.accepted), self.batch.len());
        for (sample, readings) in self.batch.iter() {
            if let Some(id) = sample.device {
                assert!(is_name(&self.registry.device_name(id).expect("known")));
            }
            assert!(!readings.is_empty());
            for reading in readings {
                let name = self.registry.metric_name(reading.metric).expect("known");
                assert!(is_metric_name(&name), "{name}");
                assert!(reading.value.abs() <= VALUE_MAX, "{name} {}", reading.value);
            }
        }
    }
}
