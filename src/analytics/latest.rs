//! The latest samples, in rings allocated at the start: what `/latest` shows.
//!
//! Holds ids, not names; the reader resolves them and drops samples whose device has no name any more.

mod saved;

use crate::shards::ShardPart;
use sigmad_sample::{Batch, DeviceId, MetricId, Reading, Sample};

/// Samples kept at most.
pub const SAMPLES_KEPT: usize = 16_384;
/// Readings kept at most: four for every sample; with wider samples fewer are kept.
pub const READINGS_KEPT: usize = 65_536;
const _: () = assert!(SAMPLES_KEPT.is_power_of_two() && READINGS_KEPT.is_power_of_two());

/// Bytes of both rings.
pub const RING_BYTES: usize =
    SAMPLES_KEPT * size_of::<Entry>() + READINGS_KEPT * size_of::<Reading>();

/// A sample that is kept.
#[derive(Clone, Copy, Debug)]
pub struct KeptSample<'a> {
    /// The sample.
    pub sample: Sample,
    /// When it arrived, microseconds since 1970.
    pub arrived_us: i64,
    readings: (&'a [Reading], &'a [Reading]),
}

impl<'a> KeptSample<'a> {
    /// Its readings, in order.
    pub fn readings(&self) -> impl Iterator<Item = Reading> + use<'a> {
        let (first, rest) = self.readings;
        first.iter().chain(rest).copied()
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    sample: Sample,
    arrived_us: i64,
    /// The number of readings before it since the start; modulo the ring this is its position.
    first_reading: u64,
}

/// The rings.
#[derive(Clone, Debug)]
pub struct LatestSamples {
    samples: Box<[Entry]>,
    readings: Box<[Reading]>,
    samples_total: u64,
    readings_total: u64,
}

impl Default for LatestSamples {
    fn default() -> Self {
        let sample = Sample { timestamp_us: 0, device: None, readings: 0 };
        let entry = Entry { sample, arrived_us: 0, first_reading: 0 };
        let reading = Reading { metric: MetricId::CPU, value: 0.0 };
        Self {
            samples: vec![entry; SAMPLES_KEPT].into(),
            readings: vec![reading; READINGS_KEPT].into(),
            samples_total: 0,
            readings_total: 0,
        }
    }
}

impl LatestSamples {
    /// Adds the samples, which replace the oldest.
    pub fn keep(&mut self, batch: &Batch, arrived_us: i64) {
        let (samples, readings) = batch.columns();
        let mut first_reading = self.readings_total;
        for &sample in samples {
            self.keep_sample(Entry { sample, arrived_us, first_reading });
            first_reading += u64::from(sample.readings);
        }
        self.keep_readings(readings);
    }

    /// Adds the samples that are kept by the shard with this part: all, but the fleet's keeps those without a device.
    #[inline]
    pub fn keep_of(&mut self, part: ShardPart, batch: &Batch, arrived_us: i64) {
        match part {
            ShardPart::Whole | ShardPart::Devices => self.keep(batch, arrived_us),
            ShardPart::Fleet => {
                let without = batch.iter().filter(|(sample, _)| sample.device.is_none());
                without.for_each(|(sample, readings)| self.keep_one(sample, readings, arrived_us));
            }
        }
    }

    fn keep_one(&mut self, sample: Sample, readings: &[Reading], arrived_us: i64) {
        let first_reading = self.readings_total;
        self.keep_sample(Entry { sample, arrived_us, first_reading });
        self.keep_readings(readings);
    }

    #[inline]
    fn keep_sample(&mut self, entry: Entry) {
        self.samples[self.samples_total as usize % SAMPLES_KEPT] = entry;
        self.samples_total += 1;
    }

    /// Adds the readings of samples that were kept.
    fn keep_readings(&mut self, mut readings: &[Reading]) {
        while !readings.is_empty() {
            let place = &mut self.readings[self.readings_total as usize % READINGS_KEPT..];
            let (fit, rest) = readings.split_at(readings.len().min(place.len()));
            place[..fit.len()].copy_from_slice(fit);
            self.readings_total += fit.len() as u64;
            readings = rest;
        }
    }

    /// Of the last `samples` those that arrived at or after `since_us`, newest first; of one device, or of all.
    pub fn newest_first(
        &self,
        device: Option<DeviceId>,
        since_us: i64,
        samples: u64,
    ) -> impl Iterator<Item = KeptSample<'_>> {
        let readings_from = self.readings_total.saturating_sub(READINGS_KEPT as u64);
        (0..self.samples_total.min(SAMPLES_KEPT as u64).min(samples))
            .map(|back| &self.samples[(self.samples_total - 1 - back) as usize % SAMPLES_KEPT])
            .take_while(move |entry| entry.first_reading >= readings_from)
            .filter(move |entry| entry.arrived_us >= since_us)
            .filter(move |entry| device.is_none() || entry.sample.device == device)
            .map(|entry| self.kept(entry))
    }

    fn kept(&self, entry: &Entry) -> KeptSample<'_> {
        let start = entry.first_reading as usize % READINGS_KEPT;
        let count = entry.sample.readings as usize;
        let (head, tail) = self.readings.split_at(start);
        let first = &tail[..count.min(tail.len())];
        let readings = (first, &head[..count - first.len()]);
        KeptSample { sample: entry.sample, arrived_us: entry.arrived_us, readings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(from: usize, samples: usize, width: usize) -> Batch {
        let mut batch = Batch::default();
        for i in from..from + samples {
            let readings: Vec<_> = (0..width)
                .map(|m| Reading { metric: MetricId::new(m as u16, 0), value: (i + m) as f64 })
                .collect();
            let device = (i % 3 > 0).then_some(DeviceId { index: (i % 3) as u32, generation: 7 });
            batch.push(i as i64, device, &readings);
        }
        batch
    }

    fn check(latest: &LatestSamples, expected: impl Iterator<Item = usize>, width: usize) {
        let mut expected = expected;
        for kept in latest.newest_first(None, i64::MIN, u64::MAX) {
            let i = expected.next().expect("not more than expected");
            assert_eq!(kept.sample.timestamp_us, i as i64);
            assert_eq!(kept.arrived_us, 10 * i as i64);
            let values: Vec<_> = kept.readings().map(|r| (r.metric.slot(), r.value)).collect();
            let wanted: Vec<_> = (0..width).map(|m| (m, (i + m) as f64)).collect();
            assert_eq!(values, wanted);
        }
        assert_eq!(expected.next(), None);
    }

    #[test]
    fn the_newest_come_first_and_the_oldest_go() {
        for width in [1, 2, 3, 4, 5, 7, 32] {
            let mut latest = LatestSamples::default();
            check(&latest, 0..0, width);
            let pushed = SAMPLES_KEPT + 1_000;
            for i in 0..pushed {
                latest.keep(&batch(i, 1, width), 10 * i as i64);
                if i < 10 {
                    check(&latest, (0..=i).rev(), width);
                }
            }
            let kept = SAMPLES_KEPT.min(READINGS_KEPT / width);
            check(&latest, (pushed - kept..pushed).rev(), width);
        }
    }

    #[test]
    fn one_device_and_one_span() {
        let mut latest = LatestSamples::default();
        latest.keep(&batch(0, 30, 2), 5);
        latest.keep(&batch(30, 30, 2), 6);
        let ask = |device, since_us| latest.newest_first(device, since_us, u64::MAX).count();
        let device = |index, generation| Some(DeviceId { index, generation });
        assert_eq!((ask(None, 0), ask(None, 6), ask(None, 7)), (60, 30, 0));
        assert_eq!(latest.newest_first(None, 0, 7).count(), 7);
        assert_eq!((ask(device(1, 7), 0), ask(device(1, 8), 0)), (20, 0));
    }
}
