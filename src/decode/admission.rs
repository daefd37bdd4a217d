//! Admission: the verdict on each sample of a body, whatever its format.
//!
//! A sample is accepted, refused because it is wrong, or refused because there is no room for its
//! streams. A metric without room for its name is refused alone: the other values of its sample are kept.
//! Known names are found in this worker's caches ([`names`](super::names)), without a lock and
//! without an allocation. A refused sample leaves no trace.

use std::sync::Arc;

use smallvec::SmallVec;

use super::draft::DraftSample;
use super::fault::{BodyError, SampleFault, SampleRefusal};
use super::names::{DeviceCache, MetricCache, StreamCache};
use crate::registry::{Admitted, Full, NameSource, Registry};
use sigmad_clock::Now;
use sigmad_sample::timestamp::Stamp;
use sigmad_sample::{
    Batch, DeviceId, MetricId, QUEUE_READINGS_MAX, QUEUE_SAMPLES_MAX, READINGS_MAX, Reading,
};

/// Refused samples and values that an answer lists; the rest are only counted.
pub const REFUSALS_LISTED_MAX: usize = 10;

/// The result of decoding a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// False if the body is one sample: then its refusal is the error of the whole request.
    pub is_batch: bool,
    /// Samples added to the batch.
    pub accepted: usize,
    /// Samples refused because they are wrong.
    pub invalid: usize,
    /// Samples refused because there was no room for another stream.
    pub unroomed: usize,
    /// Samples refused because there was no room for the name of any of their metrics.
    pub unnamed: usize,
    /// Values left out for want of room, of samples of which others were kept, and of points: for their names, and
    /// of points also for their streams.
    pub left_out_values: usize,
    /// It was a body of points: [`super::Decoder::values`] has its values.
    pub are_points: bool,
}

impl Decoded {
    /// True when every value of the body was kept.
    #[inline]
    pub fn is_whole(&self) -> bool {
        self.rejected() == 0 && self.left_out_values == 0
    }

    /// Samples of which nothing was kept.
    #[inline]
    pub fn rejected(&self) -> usize {
        self.invalid + self.unroomed + self.unnamed
    }
}

/// The names that one worker knows, and the refusals of its last body.
pub(super) struct Admission {
    registry: Arc<Registry>,
    devices: DeviceCache,
    metrics: MetricCache,
    /// Of those metrics that the mask of a device has no bit for.
    streams: StreamCache,
    /// Readings of one body, for their memory.
    pub(super) readings_max: usize,
    /// The evictions of the registry that the caches know of.
    evictions: u64,
    refusals: Vec<SampleRefusal>,
}

impl Admission {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self {
            devices: DeviceCache::new(),
            streams: StreamCache::default(),
            metrics: MetricCache::new(registry.clone()),
            readings_max: QUEUE_READINGS_MAX,
            evictions: registry.metric_evictions(),
            refusals: Vec::new(),
            registry,
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
        let now_s = (now.monotonic_ns / 1_000_000_000) as u32;
        self.metrics.now_s = now_s;
        if self.evictions != self.registry.metric_evictions() {
            self.forget_names();
        }
        BodyAdmission {
            samples_before: batch.len(),
            admission: self,
            batch,
            now_us: now.wall_us,
            now_s,
            decoded: Decoded { is_batch: true, ..Decoded::default() },
        }
    }

    /// Empties the caches: the masks of devices have bits of metrics that were evicted.
    #[cold]
    fn forget_names(&mut self) {
        self.evictions = self.registry.metric_evictions();
        self.devices.clear();
        self.metrics.clear();
        self.streams.clear();
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

    /// Known metrics.
    pub(super) fn metrics(&self) -> &MetricCache {
        &self.admission.metrics
    }

    /// Known metrics, and the batch in which a format drafts the readings of a sample.
    #[inline(always)]
    pub(super) fn draft_parts(&mut self) -> (&MetricCache, &mut Batch) {
        (&self.admission.metrics, self.batch)
    }

    /// Samples and points refused so far.
    #[inline]
    pub(super) fn invalid(&self) -> usize {
        self.decoded.invalid
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

    pub(super) fn registry(&self) -> &Registry {
        &self.admission.registry
    }

    /// The second of arrival, of the clock of the server.
    pub(super) fn now_s(&self) -> u32 {
        self.now_s
    }

    /// The time of arrival, in microseconds since 1970.
    pub(super) fn now_us(&self) -> i64 {
        self.now_us
    }

    /// Makes a sample of the draft, whose names are known.
    #[inline(always)] // in the loops over samples and rows
    pub(super) fn complete(&mut self, timestamp_us: i64, device: Option<DeviceId>) {
        self.batch.complete(timestamp_us, device);
        self.decoded.accepted += 1;
    }

    /// Makes a sample of these readings, whose names are known. There is no draft.
    #[inline(always)] // in the loops over samples and rows
    pub(super) fn take(
        &mut self,
        time: Stamp,
        device: Option<DeviceId>,
        readings: impl Iterator<Item = Reading>,
    ) {
        debug_assert!(self.batch.drafted().is_empty());
        self.batch.draft_all(readings);
        self.complete(time.unwrap_or(self.now_us), device);
    }

    /// The device of that name, if this worker knows it with these metrics.
    #[inline(always)] // in the loops over samples and rows
    pub(super) fn known_device(&mut self, name: &[u8], mask: u64) -> Option<DeviceId> {
        let known = self.looked_up(name)?;
        self.current(known, mask)
    }

    /// The same for a name as JSON writes it: None also where that has escapes, or is not valid.
    #[inline(always)] // as `known_device`
    pub(super) fn known_plain_device(&mut self, text: &[u8], mask: u64) -> Option<DeviceId> {
        let known = self.looked_up(text)?;
        if self.admission.devices.needs_escapes() { None } else { self.current(known, mask) }
    }

    /// What this worker knows of the device of that name.
    #[inline(always)] // as `known_device`
    fn looked_up(&mut self, name: &[u8]) -> Option<Admitted> {
        let Admission { registry, devices, .. } = &mut *self.admission;
        match devices.expected(name) {
            None => devices.get(registry.hash_name(name), name),
            known => known,
        }
    }

    /// A known device, if it still is one, and has streams of these metrics.
    #[inline(always)] // as `known_device`
    fn current(&self, Admitted { device, metrics_mask }: Admitted, mask: u64) -> Option<DeviceId> {
        let is_known = mask & !metrics_mask == 0;
        (is_known && self.admission.registry.touch(device, self.now_s)).then_some(device)
    }

    /// Takes note that a device has streams of these metrics.
    pub(super) fn learn_device(&mut self, name: &[u8], device: DeviceId, mask: u64) {
        let Admission { registry, devices, .. } = &mut *self.admission;
        let hash = registry.hash_name(name);
        let before = devices.get(hash, name).filter(|known| known.device == device);
        let metrics_mask = mask | before.map_or(0, |known| known.metrics_mask);
        devices.insert(hash, name, Admitted { device, metrics_mask });
    }

    /// Refuses the point `index`; the draft stays.
    pub(super) fn refuse_point(&mut self, index: usize, fault: SampleFault<'_>) {
        self.list_at(index, fault);
        self.decoded.invalid += 1;
    }

    /// Lists a value of the point `index` for which there is no room; the caller counts it.
    pub(super) fn leave_out(&mut self, index: usize, full: Full, series: &str) {
        self.list_at(
            index,
            match full {
                Full::Streams => SampleFault::NoStream,
                Full::Metrics => SampleFault::NoName(series, self.admission.registry.metrics_max()),
            },
        );
    }

    /// Whether another refusal would only be counted.
    pub(super) fn is_list_full(&self) -> bool {
        self.admission.refusals.len() >= REFUSALS_LISTED_MAX
    }

    /// As [`BodyAdmission::end`], for a format in which a body may be empty, and whose reader counts what is left out.
    pub(super) fn end_points(
        self,
        read: Result<(), BodyError>,
        left_out_values: usize,
    ) -> Result<Decoded, BodyError> {
        if read.is_ok() {
            Ok(Decoded { are_points: true, left_out_values, ..self.decoded })
        } else {
            self.end(read)
        }
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

    /// True before the first sample of the body.
    #[inline]
    pub(super) fn is_first(&self) -> bool {
        self.samples_read() == 0
    }

    #[inline]
    fn samples_read(&self) -> usize {
        // Not by `accepted`: it was written a few instructions ago, and as a part of two words it would be waited for.
        self.batch.len() - self.samples_before + self.decoded.rejected()
    }

    /// Completes the draft of the batch with `draft`.
    #[inline(always)]
    pub(super) fn accept(&mut self, draft: &DraftSample<'_>) {
        let mut device = None;
        if let Some(name) = draft.device {
            device = self.known_device(name, draft.metrics_mask);
            if device.is_none() {
                return self.register(draft);
            }
        }
        if !draft.unmasked.is_empty() && !self.are_known(draft, device) {
            return self.register(draft);
        }
        self.complete(draft.timestamp_us.unwrap_or(self.now_us), device);
    }

    /// Whether the metrics without a bit are known, and the device has streams of them.
    #[inline(never)]
    fn are_known(&mut self, draft: &DraftSample<'_>, device: Option<DeviceId>) -> bool {
        let (readings, streams) = (self.batch.drafted(), &self.admission.streams);
        draft.unmasked.iter().all(|&(at, _)| {
            let metric = readings[at].metric;
            metric != MetricId::NONE && device.is_none_or(|device| streams.has(device, metric))
        })
    }

    /// Accepts a sample with a name that is not in this worker's caches, as far as the registry has room.
    #[cold]
    fn register(&mut self, draft: &DraftSample<'_>) {
        let text = |name| str::from_utf8(name).expect("the names of a valid sample are UTF-8");
        let mut metrics: SmallVec<[(&str, Option<MetricId>); READINGS_MAX]> = SmallVec::new();
        for reading in self.batch.drafted() {
            metrics.push(("", (reading.metric != MetricId::NONE).then_some(reading.metric)));
        }
        for &(index, name) in &draft.unmasked {
            metrics[index].0 = text(name);
        }
        let Admission { registry, devices, metrics: cache, streams, .. } = &mut *self.admission;
        let admitted = match registry.admit(
            NameSource::Client,
            draft.device.map(text),
            &mut metrics,
            self.now_s,
        ) {
            Ok(admitted) => admitted,
            Err(full) => return self.refuse_full(full, &metrics),
        };
        for (reading, &(name, id)) in self.batch.drafted().iter_mut().zip(&metrics) {
            if reading.metric == MetricId::NONE
                && let Some(id) = id
            {
                cache.insert(name, id);
                reading.metric = id;
            }
        }
        if let Some((admitted, name)) = admitted.zip(draft.device) {
            devices.insert(registry.hash_name(name), name, admitted);
            for id in draft.unmasked.iter().filter_map(|&(at, _)| metrics[at].1) {
                streams.insert(admitted.device, id);
            }
        }
        self.refuse_values(&metrics);
        self.batch.drop_unnamed();
        let device = admitted.map(|admitted| admitted.device);
        self.complete(draft.timestamp_us.unwrap_or(self.now_us), device);
    }

    /// Refuses a sample for which the registry has no room.
    fn refuse_full(&mut self, full: Full, metrics: &[(&str, Option<MetricId>)]) {
        match full {
            Full::Streams => self.refuse(SampleFault::NoStream),
            Full::Metrics => {
                self.refuse_values(metrics);
                self.batch.discard();
                self.decoded.unnamed += 1;
            }
        }
    }

    /// Refuses the values whose names have no room.
    fn refuse_values(&mut self, metrics: &[(&str, Option<MetricId>)]) {
        for (name, _) in metrics.iter().filter(|(_, id)| id.is_none()) {
            self.list(SampleFault::NoName(name, self.admission.registry.metrics_max()));
            self.decoded.left_out_values += 1;
        }
    }

    /// Lists a fault of the present sample, unless the list is full.
    fn list(&mut self, fault: SampleFault<'_>) {
        self.list_at(self.samples_read(), fault);
    }

    fn list_at(&mut self, index: usize, fault: SampleFault<'_>) {
        let refusals = &mut self.admission.refusals;
        if refusals.len() < REFUSALS_LISTED_MAX {
            refusals.push(SampleRefusal::new(index, fault));
        }
    }

    /// Refuses the sample, and drops its draft.
    #[cold]
    pub(super) fn refuse(&mut self, fault: SampleFault<'_>) {
        self.batch.discard();
        self.list(fault);
        match fault {
            SampleFault::NoStream => self.decoded.unroomed += 1,
            _ => self.decoded.invalid += 1,
        }
    }
}
