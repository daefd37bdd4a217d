//! Admission: the verdict on each sample of a body, whatever its format.
//!
//! A sample is accepted, refused because it is wrong, or refused because there is no room for its
//! stream. Known names are found in this worker's caches ([`names`](super::names)), without a lock and
//! without an allocation. A refused sample leaves no trace.

use std::sync::Arc;

use smallvec::SmallVec;

use super::draft::{DraftSample, UNKNOWN_METRIC};
use super::fault::{BodyError, SampleFault, SampleRefusal};
use super::names::{DeviceCache, MetricCache};
use crate::registry::Registry;
use sigmad_clock::Now;
use sigmad_sample::{Batch, MetricId, QUEUE_READINGS_MAX, QUEUE_SAMPLES_MAX, READINGS_MAX};

/// Refused samples that an answer lists; the rest are only counted.
pub const REFUSALS_LISTED_MAX: usize = 10;

/// The result of decoding a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// False if the body is one sample: then its refusal is the error of the whole request.
    pub is_batch: bool,
    /// Samples added to the batch.
    pub accepted: usize,
    /// Samples refused because they are wrong.
    pub invalid: usize,
    /// Samples refused because there was no room for another stream.
    pub unroomed: usize,
}

/// The names that one worker knows, and the refusals of its last body.
pub(super) struct Admission {
    registry: Arc<Registry>,
    devices: DeviceCache,
    metrics: MetricCache,
    /// Readings of one body, for their memory.
    pub(super) readings_max: usize,
    refusals: Vec<SampleRefusal>,
}

impl Admission {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        let mut metrics = MetricCache::new();
        for id in [MetricId::CPU, MetricId::RPS] {
            metrics.insert(&registry.metric_name(id), id);
        }
        Self {
            registry,
            devices: DeviceCache::new(),
            metrics,
            readings_max: QUEUE_READINGS_MAX,
            refusals: Vec::new(),
        }
    }

    /// The first refusals of the last body.
    pub(super) fn refusals(&self) -> &[SampleRefusal] {
        &self.refusals
    }

    /// Starts a body, whose samples go to `batch`.
    #[inline]
    pub(super) fn begin<'p>(&'p mut self, now: Now, batch: &'p mut Batch) -> BodyAdmission<'p> {
        self.refusals.clear();
        BodyAdmission {
            samples_before: batch.len(),
            admission: self,
            batch,
            now_us: now.wall_us,
            now_s: (now.monotonic_ns / 1_000_000_000) as u32,
            decoded: Decoded { is_batch: true, accepted: 0, invalid: 0, unroomed: 0 },
        }
    }
}

/// The admission of the samples of one body into a batch.
pub(super) struct BodyAdmission<'p> {
    admission: &'p mut Admission,
    batch: &'p mut Batch,
    /// Samples that the batch held before this body.
    samples_before: usize,
    now_us: i64,
    now_s: u32,
    decoded: Decoded,
}

impl BodyAdmission<'_> {
    /// Ends the body; `read` is the result of its format. After an error the batch is as before.
    #[inline]
    pub(super) fn end(self, read: Result<(), BodyError>) -> Result<Decoded, BodyError> {
        let error = match read {
            Ok(()) if self.samples_read() > 0 => return Ok(self.decoded),
            Ok(()) => BodyError::Empty,
            Err(error) => error,
        };
        self.admission.refusals.clear();
        self.batch.truncate(self.samples_before);
        Err(error)
    }

    /// Known metrics, and the batch in which a format drafts the readings of a sample.
    #[inline(always)]
    pub(super) fn draft_parts(&mut self) -> (&MetricCache, &mut Batch) {
        (&self.admission.metrics, self.batch)
    }

    /// Drops the readings in the draft.
    #[inline]
    pub(super) fn discard(&mut self) {
        self.batch.discard();
    }

    /// The body is one sample, not a batch.
    #[inline]
    pub(super) fn set_single(&mut self) {
        self.decoded.is_batch = false;
    }

    /// Checks that there may be another sample in a batch.
    #[inline]
    pub(super) fn check_capacity(&self) -> Result<(), BodyError> {
        let is_full = self.batch.readings() >= self.admission.readings_max;
        if is_full || self.samples_read() == QUEUE_SAMPLES_MAX {
            Err(BodyError::TooManySamples)
        } else {
            Ok(())
        }
    }

    #[inline]
    fn samples_read(&self) -> usize {
        self.decoded.accepted + self.decoded.invalid + self.decoded.unroomed
    }

    /// Completes the draft of the batch with `draft`.
    #[inline(always)]
    pub(super) fn accept(&mut self, draft: &DraftSample<'_>) {
        if !draft.unmasked.is_empty() {
            return self.register(draft);
        }
        let mut device = None;
        if let Some(name) = draft.device {
            let hash = self.admission.registry.hash_name(name);
            match self.admission.devices.get(hash, name) {
                Some(known)
                    if draft.metrics_mask & !known.metrics_mask == 0
                        && self.admission.registry.touch(known.device, self.now_s) =>
                {
                    device = Some(known.device);
                }
                _ => return self.register(draft),
            }
        }
        self.batch.complete(draft.timestamp_us.unwrap_or(self.now_us), device);
        self.decoded.accepted += 1;
    }

    /// Accepts a sample with a name that is not in this worker's caches, if the registry has room.
    #[cold]
    fn register(&mut self, draft: &DraftSample<'_>) {
        let text = |name| str::from_utf8(name).expect("the names of a valid sample are UTF-8");
        let mut metrics: SmallVec<[(&str, Option<MetricId>); READINGS_MAX]> = SmallVec::new();
        for reading in self.batch.drafted() {
            metrics.push(("", (reading.metric != UNKNOWN_METRIC).then_some(reading.metric)));
        }
        for &(index, name) in &draft.unmasked {
            metrics[index].0 = text(name);
        }
        let Admission { registry, devices, metrics: cache, .. } = &mut *self.admission;
        match registry.admit(draft.device.map(text), &mut metrics, self.now_s) {
            Ok(admitted) => {
                for (reading, (name, id)) in self.batch.drafted().iter_mut().zip(metrics) {
                    let id = id.expect("an admitted metric has an id");
                    if reading.metric == UNKNOWN_METRIC {
                        cache.insert(name, id);
                        reading.metric = id;
                    }
                }
                if let Some((admitted, name)) = admitted.zip(draft.device) {
                    devices.insert(registry.hash_name(name), name, admitted);
                }
                let device = admitted.map(|admitted| admitted.device);
                self.batch.complete(draft.timestamp_us.unwrap_or(self.now_us), device);
                self.decoded.accepted += 1;
            }
            Err(full) => self.refuse(SampleFault::Full(full)),
        }
    }

    /// Refuses the sample, and drops its draft.
    #[cold]
    pub(super) fn refuse(&mut self, fault: SampleFault<'_>) {
        self.batch.discard();
        let index = self.samples_read();
        let refusals = &mut self.admission.refusals;
        if refusals.len() < REFUSALS_LISTED_MAX {
            refusals.push(SampleRefusal::new(index, fault));
        }
        match fault {
            SampleFault::Full(_) => self.decoded.unroomed += 1,
            _ => self.decoded.invalid += 1,
        }
    }
}
