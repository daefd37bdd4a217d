//! The walk through the samples of a batch: each is judged by the windows before it.

use sigmad_sample::{Batch, BatchIter, DeviceId, MetricId, Reading, Sample};

use crate::analytics::anomalies::{AnomalyLog, OpenAnomaly, Subject};
use crate::analytics::judge::Analytics;
use crate::analytics::last_sample::LastSample;
use crate::judged_queue::{CurrentCounts, JudgedCounts, JudgedProducer, MetricCounts};
use crate::shards::ShardPart;

impl Analytics {
    /// Judges the samples in order, each by the windows before it.
    pub fn judge(&mut self, batch: &Batch, arrived_us: i64) {
        self.prepare(batch, arrived_us);
        self.judge_all(batch, arrived_us, |_, _| {});
        self.count(batch, arrived_us);
    }

    /// Judges the samples by a part of the windows that this shard has.
    pub fn judge_part(&mut self, part: ShardPart, batch: &Batch, arrived_us: i64) {
        let whole = std::mem::replace(&mut self.part, part);
        self.judge(batch, arrived_us);
        self.part = whole;
    }

    /// Judges the samples, and publishes them to the store with `time_us`, which must be larger than that of any
    /// batch before.
    pub fn judge_and_publish(
        &mut self,
        batch: &Batch,
        arrived_us: i64,
        time_us: i64,
        judged_producer: &mut JudgedProducer,
    ) {
        self.prepare(batch, arrived_us);
        if !judged_producer.has_room(batch.len(), batch.readings()) {
            judged_producer.send(self);
        }
        judged_producer.begin_batch(time_us, self.samples, self.fleet.samples);
        self.judge_all(batch, arrived_us, |samples, readings| {
            judged_producer.add(samples, readings);
        });
        self.count(batch, arrived_us);
    }

    /// Judges the samples, and calls `judged` with them in order, and with their readings that were judged; others may come
    /// after those.
    #[inline(always)] // so that without a store there is nothing to call
    fn judge_all(
        &mut self,
        batch: &Batch,
        arrived_us: i64,
        mut judged: impl FnMut(&[Sample], &[Reading]),
    ) {
        let mut samples = batch.iter();
        self.judge_of_devices(batch, &mut samples, arrived_us, &mut judged);
        if samples.len() > 0 {
            self.judge_each(batch, samples, arrived_us, judged);
        }
    }

    /// What comes before the samples of a batch.
    fn prepare(&mut self, batch: &Batch, arrived_us: i64) {
        if self.export.is_some() {
            self.take_before(batch);
        }
        if self.part.has_fleet()
            && LastSample::seconds(arrived_us) != self.fleet.own_seen_s
            && let Some(silence) = &mut self.silence
        {
            // First, because the clock of silences goes by it.
            silence.heard_anyone(arrived_us, &mut self.devices);
        }
    }

    /// Judges the first samples of a batch, as many as the fleet's windows take without a look at those of devices:
    /// first by the one, then by the others. `samples` advances past them.
    #[inline(always)] // as judge_all
    fn judge_of_devices(
        &mut self,
        batch: &Batch,
        samples: &mut BatchIter<'_>,
        arrived_us: i64,
        mut judged: impl FnMut(&[Sample], &[Reading]),
    ) {
        let Self { fleet, metrics, anomalies, .. } = self;
        let taken = match self.part.has_fleet() {
            true => fleet.judge_of_devices(batch, arrived_us, metrics, anomalies),
            false => batch.len(),
        };
        let (all, all_readings) = batch.columns();
        let prefetches = self.devices.prefetches();
        for (at, (sample, readings)) in samples.take(taken).enumerate() {
            if prefetches {
                self.devices.prefetch(all, at);
            }
            if let Some(id) = sample.device
                && self.part.has_devices()
            {
                self.judge_of_device(id, &sample, readings, arrived_us);
            }
        }
        // Without a store nothing is left of this.
        judged(all.get(..taken).unwrap_or_default(), all_readings);
    }

    #[inline(always)]
    fn judge_of_device(
        &mut self,
        id: DeviceId,
        sample: &Sample,
        readings: &[Reading],
        arrived_us: i64,
    ) {
        let Self { devices, metrics, anomalies, silence, .. } = self;
        let is_new_second = devices.judge(id, sample, readings, arrived_us, metrics, anomalies);
        if is_new_second && let Some(silence) = silence {
            let is_first = devices.get(id).is_some_and(|device| device.own.total == 1);
            silence.heard(id, is_first, arrived_us, devices);
        }
    }

    /// Judges samples one after another by all windows that this shard has.
    #[inline(always)] // as judge_all
    fn judge_each(
        &mut self,
        batch: &Batch,
        samples: BatchIter<'_>,
        arrived_us: i64,
        mut judged: impl FnMut(&[Sample], &[Reading]),
    ) {
        let (has_fleet, has_devices) = (self.part.has_fleet(), self.part.has_devices());
        let (all, _) = batch.columns();
        let prefetches = has_devices && self.devices.prefetches();
        let first = batch.len() - samples.len();
        for (at, (mut sample, readings)) in (first..).zip(samples) {
            if prefetches {
                self.devices.prefetch(all, at);
            }
            let kept;
            let mut readings = readings;
            if has_fleet {
                let Self { fleet, metrics, anomalies, .. } = self;
                let judged = fleet.judge(&sample, readings, arrived_us, metrics, anomalies);
                if judged < readings.len() {
                    kept = self.current(readings);
                    readings = &kept;
                    sample.readings = kept.len() as u32;
                }
            }
            if has_devices && let Some(id) = sample.device {
                self.judge_of_device(id, &sample, readings, arrived_us);
            }
            judged(std::slice::from_ref(&sample), readings);
        }
    }

    /// Counts the samples of a batch that was judged.
    fn count(&mut self, batch: &Batch, arrived_us: i64) {
        self.samples += self.samples_counted(batch) as u64;
        if self.part.has_fleet() {
            self.fleet.samples += batch.len() as u64;
            self.fleet.own_seen_s = LastSample::seconds(arrived_us);
        }
        for left_open in [&mut self.devices.left_open, &mut self.fleet.left_open] {
            if !left_open.is_empty() {
                abandon(&mut self.anomalies, left_open, arrived_us);
            }
        }
    }

    /// The readings whose metrics have not been evicted on the way here.
    #[cold]
    fn current(&mut self, readings: &[Reading]) -> Vec<Reading> {
        let known = |reading: &&Reading| self.fleet.get(reading.metric).is_some();
        let kept: Vec<Reading> = readings.iter().filter(known).copied().collect();
        self.unnamed_values += (readings.len() - kept.len()) as u64;
        kept
    }
}

impl CurrentCounts for Analytics {
    fn of_device(&self, id: DeviceId, streams: &mut [MetricCounts]) -> Option<JudgedCounts> {
        let device = self.devices.get(id)?;
        for (at, MetricCounts { metric, counts }) in streams.iter_mut().enumerate() {
            *counts = self.devices.counts(device, *metric, at);
        }
        Some(device.own)
    }

    fn of_fleet(&self, metric: MetricId) -> JudgedCounts {
        self.fleet.counts(metric)
    }
}

/// Ends the anomalies of streams that were given back.
#[cold]
fn abandon(
    anomalies: &mut AnomalyLog,
    left_open: &mut Vec<(OpenAnomaly, Subject)>,
    arrived_us: i64,
) {
    for (open, subject) in left_open.drain(..) {
        anomalies.abandon(open, subject, arrived_us);
    }
}
