//! The words everyone shares: sample, reading, batch, verdict, and the ids that stand for names.
//!
//! Data only. A [`Batch`] has passed the decoder's checks: every value is finite, at most
//! [`VALUE_MAX`] in magnitude, and every id was given out by the registry of the server.

pub mod glob;
pub mod number;
pub mod timestamp;

/// Larger magnitudes are refused: their squares would leave no digits for the rest of a window.
pub const VALUE_MAX: f64 = 1e15;
/// Readings in one sample; a wider one is answered 400.
pub const READINGS_MAX: usize = 32;
/// Bytes in the name of a device.
pub const NAME_BYTES_MAX: usize = 128;
/// The readings of a full queue when every sample has all that it may have; less memory bounds them further.
pub const QUEUE_READINGS_MAX: usize = QUEUE_SAMPLES_MAX * READINGS_MAX;
/// Bytes in the name of a metric: its labels are part of it.
pub const METRIC_BYTES_MAX: usize = 1_024;
/// Distinct names of metrics: what an id of four bytes has room for beside its generation.
pub const METRICS_MAX: usize = 1 << 16;
/// A worker's samples on their way to analytics; past it requests are answered 503. A body that
/// holds more could never be kept, so the decoder stops there.
pub const QUEUE_SAMPLES_MAX: usize = 65_536;

/// True for what may be the name of a device: not empty, not too long, and without control characters.
pub fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// True for what may be the name of a metric, as [`is_name`].
pub fn is_metric_name(name: &str) -> bool {
    (1..=METRIC_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// A device, by its slot in the registry.
///
/// Slots are used again once their device has been silent for long; the generation tells the
/// occupants apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DeviceId {
    /// The slot.
    pub index: u32,
    /// How often the slot had been given out before.
    pub generation: u32,
}

/// A metric, by its slot in the registry.
///
/// Slots are used again once their name has been silent for long; the generation tells the names apart. Four
/// bytes, so that a [`Reading`] has 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MetricId(u32);

impl MetricId {
    /// `cpu` is always the first metric.
    pub const CPU: Self = Self::new(0, 0);
    /// `rps` is always the second metric.
    pub const RPS: Self = Self::new(1, 0);
    /// Generations of a slot, after which they begin again at 0. A slot lives through all of them in 36 hours at
    /// the least, and no id is kept for as long without a check.
    pub const GENERATIONS: u16 = u16::MAX;
    /// No metric: a generation that is never given out.
    pub const NONE: Self = Self::new(u16::MAX, Self::GENERATIONS);

    /// The id of a slot's name of that generation.
    pub const fn new(slot: u16, generation: u16) -> Self {
        Self((generation as u32) << 16 | slot as u32)
    }

    /// The slot, below [`METRICS_MAX`].
    #[inline]
    pub const fn slot(self) -> usize {
        self.0 as u16 as usize
    }

    /// How often the slot had been given out before.
    #[inline]
    pub const fn generation(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

/// One named number of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// Which metric.
    pub metric: MetricId,
    /// Finite, at most [`VALUE_MAX`] in magnitude.
    pub value: f64,
}

const _: () = assert!(size_of::<Reading>() == 16);

/// One sample; its readings stand in the batch that holds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Microseconds since 1970, as the client said or the time of arrival.
    pub timestamp_us: i64,
    /// None for a sample that counts for the fleet alone.
    pub device: Option<DeviceId>,
    /// How many readings it has, 1 to [`READINGS_MAX`].
    pub readings: u32,
}

/// Samples in the order in which they were sent, with their readings.
///
/// Keeps its memory when cleared.
///
/// A sample can be built in place: [`Batch::draft`] its readings, then [`Batch::complete`] or
/// [`Batch::discard`] it. A draft belongs to no sample until then.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    samples: Vec<Sample>,
    /// Those of all samples, then those of the draft.
    readings: Vec<Reading>,
    /// How many belong to samples.
    completed: usize,
}

impl Batch {
    /// How many samples.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// True without samples.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Forgets the samples, keeps the memory.
    pub fn clear(&mut self) {
        self.samples.clear();
        self.readings.clear();
        self.completed = 0;
    }

    /// Becomes equal to another one without a draft, in the memory that it has.
    #[inline]
    pub fn copy_from(&mut self, other: &Self) {
        self.clear();
        self.samples.extend_from_slice(&other.samples);
        self.readings.extend_from_slice(&other.readings[..other.completed]);
        self.completed = other.completed;
    }

    /// Forgets the samples after the first `len`, keeps the memory.
    pub fn truncate(&mut self, len: usize) {
        let dropped = self.samples.get(len..).unwrap_or_default();
        let width: usize = dropped.iter().map(|sample| sample.readings as usize).sum();
        self.completed -= width;
        self.readings.truncate(self.completed);
        self.samples.truncate(len);
    }

    /// Adds a reading to the draft.
    #[inline]
    pub fn draft(&mut self, reading: Reading) {
        self.readings.push(reading);
    }

    /// Adds readings to the draft.
    #[inline]
    pub fn draft_all(&mut self, readings: impl Iterator<Item = Reading>) {
        self.readings.extend(readings);
    }

    /// The readings of the draft.
    #[inline]
    pub fn drafted(&mut self) -> &mut [Reading] {
        &mut self.readings[self.completed..]
    }

    /// Makes a sample of the draft.
    #[inline]
    pub fn complete(&mut self, timestamp_us: i64, device: Option<DeviceId>) {
        let readings = self.readings.len() - self.completed;
        debug_assert!((1..=READINGS_MAX).contains(&readings));
        debug_assert!(self.drafted().iter().all(|r| r.value.abs() <= VALUE_MAX));
        self.samples.push(Sample { timestamp_us, device, readings: readings as u32 });
        self.completed = self.readings.len();
    }

    /// Removes the readings without a metric ([`MetricId::NONE`]) from the draft.
    pub fn drop_unnamed(&mut self) {
        let mut kept = self.completed;
        for at in self.completed..self.readings.len() {
            if self.readings[at].metric != MetricId::NONE {
                self.readings[kept] = self.readings[at];
                kept += 1;
            }
        }
        self.readings.truncate(kept);
    }

    /// Forgets the draft.
    #[inline]
    pub fn discard(&mut self) {
        self.readings.truncate(self.completed);
    }

    /// Adds one sample.
    #[inline]
    pub fn push(&mut self, timestamp_us: i64, device: Option<DeviceId>, readings: &[Reading]) {
        debug_assert!(self.drafted().is_empty());
        self.readings.extend_from_slice(readings);
        self.complete(timestamp_us, device);
    }

    /// The samples with their readings, in order.
    pub fn iter(&self) -> BatchIter<'_> {
        BatchIter { samples: &self.samples, readings: &self.readings[..self.completed] }
    }

    /// The samples, and the readings of all of them, one after another.
    #[inline]
    pub fn columns(&self) -> (&[Sample], &[Reading]) {
        (&self.samples, &self.readings[..self.completed])
    }

    /// Readings of all samples.
    #[inline]
    pub fn readings(&self) -> usize {
        self.completed
    }

    /// Moves the samples of `from` that fit until `self` holds `samples_max`, or no fewer than `readings_max`; `from`
    /// advances past them.
    pub fn take_from(&mut self, from: &mut BatchIter<'_>, samples_max: usize, readings_max: usize) {
        let mut count = from.samples.len().min(samples_max.saturating_sub(self.samples.len()));
        let width = |taken: &[Sample]| taken.iter().map(|sample| sample.readings as usize).sum();
        let mut taken_readings: usize = width(&from.samples[..count]);
        if self.completed + taken_readings > readings_max {
            let mut left = readings_max.saturating_sub(self.completed);
            let fits = |sample: &&Sample| {
                let has_room = left > 0;
                left = left.saturating_sub(sample.readings as usize);
                has_room
            };
            count = from.samples[..count].iter().take_while(fits).count();
            taken_readings = width(&from.samples[..count]);
        }
        let (taken, rest) = from.samples.split_at(count);
        let (readings, readings_rest) = from.readings.split_at(taken_readings);
        self.samples.extend_from_slice(taken);
        self.readings.extend_from_slice(readings);
        self.completed = self.readings.len();
        *from = BatchIter { samples: rest, readings: readings_rest };
    }
}

/// Goes through a [`Batch`] in order.
#[derive(Clone, Debug)]
pub struct BatchIter<'a> {
    samples: &'a [Sample],
    readings: &'a [Reading],
}

impl<'a> Iterator for BatchIter<'a> {
    type Item = (Sample, &'a [Reading]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (&sample, samples) = self.samples.split_first()?;
        let (readings, rest) = self.readings.split_at(sample.readings as usize);
        *self = Self { samples, readings: rest };
        Some((sample, readings))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.samples.len(), Some(self.samples.len()))
    }
}

impl ExactSizeIterator for BatchIter<'_> {}

/// What a detector says of one value, given the window before it.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Verdict {
    /// How strange, 0 and up: the detector's own scale (`zscore`: |z|).
    pub score: f64,
    /// Standard score against the window before the value, within ±[`Z_MAX`].
    pub z_score: f64,
    /// Past the threshold, with enough values to say so.
    pub is_anomaly: bool,
    /// The same of `zscore`, whichever detector the rest is of.
    pub is_zscore_anomaly: bool,
}

impl Verdict {
    /// The same by a detector that says this: what `zscore` says stays.
    #[inline]
    #[must_use]
    pub const fn by(self, score: f64, is_anomaly: bool) -> Self {
        Self { score, is_anomaly, ..self }
    }
}

/// The z-score of a value that differs from a window without spread: finite, as JSON needs.
pub const Z_MAX: f64 = 1e6;
