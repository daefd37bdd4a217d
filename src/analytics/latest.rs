//! The latest samples, in rings allocated at the start: what `/latest` shows.
//!
//! Holds ids, not names; the reader resolves them and drops samples whose device has no name any more.

mod saved;

use std::ops::Range;

use crate::shards::ShardPart;
use sigmad_sample::{Batch, DeviceId, MetricId, Reading, Sample};

/// Samples kept at most.
pub const SAMPLES_KEPT: usize = 16_384;
/// Readings kept at most: four for every sample; with wider samples fewer are kept.
pub const READINGS_KEPT: usize = 65_536;
const _: () = assert!(SAMPLES_KEPT.is_power_of_two() && READINGS_KEPT.is_power_of_two());

/// Bytes of all rings.
pub const RING_BYTES: usize = SAMPLES_KEPT * (size_of::<Sample>() + size_of::<Arrival>())
    + READINGS_KEPT * size_of::<Reading>();

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

/// Samples that arrived at one time. They end where those of the next arrival begin.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    arrived_us: i64,
    /// Samples before it since the start.
    first_sample: u64,
    /// Readings before it since the start.
    first_reading: u64,
}

/// The last values of a sequence.
#[derive(Clone, Debug)]
struct Ring<T> {
    values: Box<[T]>,
    /// Values since the start; modulo the length this is the place of the next one.
    total: u64,
}

impl<T: Copy> Ring<T> {
    fn new(length: usize, value: T) -> Self {
        assert!(length.is_power_of_two());
        Self { values: vec![value; length].into(), total: 0 }
    }

    fn place(&self, number: u64) -> usize {
        number as usize & (self.values.len() - 1)
    }

    /// The value with this number, which is one of the last.
    fn get(&self, number: u64) -> T {
        self.values[self.place(number)]
    }

    /// Adds a value, which replaces the oldest.
    fn push(&mut self, value: T) {
        let place = self.place(self.total);
        self.values[place] = value;
        self.total += 1;
    }

    /// Adds values, which replace the oldest.
    fn extend(&mut self, mut values: &[T]) {
        while !values.is_empty() {
            let place = self.place(self.total);
            let room = &mut self.values[place..];
            let (fit, rest) = values.split_at(values.len().min(room.len()));
            room[..fit.len()].copy_from_slice(fit);
            self.total += fit.len() as u64;
            values = rest;
        }
    }

    /// The numbers of the values that are here.
    fn numbers(&self) -> Range<u64> {
        self.total.saturating_sub(self.values.len() as u64)..self.total
    }
}

/// The rings.
#[derive(Clone, Debug)]
pub struct LatestSamples {
    samples: Ring<Sample>,
    readings: Ring<Reading>,
    /// As many as samples, so that each that is kept has its own.
    arrivals: Ring<Arrival>,
}

impl Default for LatestSamples {
    fn default() -> Self {
        let sample = Sample { timestamp_us: 0, device: None, readings: 0 };
        let arrival = Arrival { arrived_us: 0, first_sample: 0, first_reading: 0 };
        let reading = Reading { metric: MetricId::CPU, value: 0.0 };
        Self {
            samples: Ring::new(SAMPLES_KEPT, sample),
            readings: Ring::new(READINGS_KEPT, reading),
            arrivals: Ring::new(SAMPLES_KEPT, arrival),
        }
    }
}

impl LatestSamples {
    /// Adds the samples, which replace the oldest.
    pub fn keep(&mut self, batch: &Batch, arrived_us: i64) {
        let (samples, readings) = batch.columns();
        self.keep_all(samples, readings, arrived_us);
    }

    /// Adds the samples that are kept by the shard with this part: all, but the fleet's keeps those without a device.
    #[inline]
    pub fn keep_of(&mut self, part: ShardPart, batch: &Batch, arrived_us: i64) {
        match part {
            ShardPart::Whole | ShardPart::Devices => self.keep(batch, arrived_us),
            ShardPart::Fleet => {
                let without = batch.iter().filter(|(sample, _)| sample.device.is_none());
                without.for_each(|(sample, of)| self.keep_all(&[sample], of, arrived_us));
            }
        }
    }

    fn keep_all(&mut self, samples: &[Sample], readings: &[Reading], arrived_us: i64) {
        if !samples.is_empty() {
            let (first_sample, first_reading) = (self.samples.total, self.readings.total);
            self.arrivals.push(Arrival { arrived_us, first_sample, first_reading });
            match samples {
                [sample] => self.samples.push(*sample),
                samples => self.samples.extend(samples),
            }
            self.readings.extend(readings);
        }
    }

    /// Of the last `samples` those that arrived at or after `since_us`, newest first; of one device, or of all.
    pub fn newest_first(
        &self,
        device: Option<DeviceId>,
        since_us: i64,
        samples: u64,
    ) -> impl Iterator<Item = KeptSample<'_>> {
        let readings_from = self.readings.numbers().start;
        let (mut first_reading, mut arrival) = (self.readings.total, self.arrivals.total);
        let numbers = self.samples.numbers().rev().take(samples.try_into().unwrap_or(usize::MAX));
        let entries = numbers.map(move |number| {
            while arrival == self.arrivals.total || self.arrivals.get(arrival).first_sample > number
            {
                arrival -= 1;
            }
            let sample = self.samples.get(number);
            first_reading -= u64::from(sample.readings);
            (sample, self.arrivals.get(arrival).arrived_us, first_reading)
        });
        entries
            .take_while(move |(_, _, first_reading)| *first_reading >= readings_from)
            .filter(move |(_, arrived_us, _)| *arrived_us >= since_us)
            .filter(move |(sample, ..)| device.is_none() || sample.device == device)
            .map(|(sample, arrived_us, first)| self.kept(sample, arrived_us, first))
    }

    /// The sample with this number, which is kept, when it arrived, and the readings before it.
    fn entry(&self, number: u64) -> (Sample, i64, u64) {
        let Range { start: mut low, end: mut high } = self.arrivals.numbers();
        while low < high {
            let middle = low.midpoint(high);
            match self.arrivals.get(middle).first_sample > number {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        // From the end of its arrival: older samples of that may be gone.
        let (end, end_reading) = if low < self.arrivals.total {
            let Arrival { first_sample, first_reading, .. } = self.arrivals.get(low);
            (first_sample, first_reading)
        } else {
            (self.samples.total, self.readings.total)
        };
        let since = (number..end).map(|number| u64::from(self.samples.get(number).readings));
        let first_reading = end_reading - since.sum::<u64>();
        (self.samples.get(number), self.arrivals.get(low - 1).arrived_us, first_reading)
    }

    fn kept(&self, sample: Sample, arrived_us: i64, first_reading: u64) -> KeptSample<'_> {
        let count = sample.readings as usize;
        let (head, tail) = self.readings.values.split_at(self.readings.place(first_reading));
        let first = &tail[..count.min(tail.len())];
        let readings = (first, &head[..count - first.len()]);
        KeptSample { sample, arrived_us, readings }
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
    fn those_for_a_snapshot_are_those_that_are_kept() {
        for (samples, width) in [(1, 1), (7, 3), (128, 2), (5_000, 4), (300, 32)] {
            let mut latest = LatestSamples::default();
            for from in (0..40_000).step_by(samples) {
                latest.keep(&batch(from, samples, width), from as i64);
            }
            let (mut number, mut saved) = (0, Vec::new());
            while let Some((next, sample)) = latest.saved_from(number) {
                saved.push((sample.timestamp_us, sample.arrived_us, sample.readings));
                number = next;
            }
            let kept = latest.newest_first(None, i64::MIN, u64::MAX);
            let kept = kept
                .map(|kept| (kept.sample.timestamp_us, kept.arrived_us, kept.readings().collect()));
            assert!(saved.into_iter().rev().eq(kept), "{samples} of {width}");
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
