//! A chunk of judged samples: columns, and this replica's counts as they are after its last sample.
//!
//! A chunk says whose windows its values enter. With one shard they enter all. With several, that of a shard of devices has
//! samples that count, and leaves the fleet's windows out; that of the fleet's shard has nothing but values of the fleet's
//! windows. Samples without a device exist for the fleet's shard alone, which sends them as a shard of devices does.
//!
//! The samples of one device with the same metrics are a [`JudgedRow`]. What the store needs to know of a device it
//! looks up for each row, not for each sample, and the counts travel once a row as well.

use sigmad_sample::{DeviceId, MetricId, Reading, Sample};

use super::JudgedCounts;
use crate::shards::ShardPart;

/// Readings in one chunk at most, unless it has one batch: two for each sample.
pub const CHUNK_READINGS_MAX: usize = 2 * CHUNK_SAMPLES_MAX;
/// Samples in one chunk at most: so many that the counts of a hundred devices cost little of each.
pub const CHUNK_SAMPLES_MAX: usize = 1_024;
/// Bytes that one chunk counts for, however full it is: those of samples that have no row in common.
pub const CHUNK_BYTES: usize = CHUNK_SAMPLES_MAX
    * (size_of::<JudgedSample>() + size_of::<JudgedRow>() + size_of::<JudgedBatch>())
    + CHUNK_READINGS_MAX
        * (size_of::<f64>() + size_of::<MetricCounts>() + size_of::<FleetCounts>());
/// No index.
const NONE: u32 = u32::MAX;

/// This replica's counts, as they are now.
pub trait CurrentCounts {
    /// Those of a device, and of these streams of it. None for one that is not here any more.
    fn of_device(&self, id: DeviceId, streams: &mut [MetricCounts]) -> Option<JudgedCounts>;
    /// Those of a stream of the fleet.
    fn of_fleet(&self, metric: MetricId) -> JudgedCounts;
}

/// Every device and stream has these.
impl CurrentCounts for JudgedCounts {
    fn of_device(&self, _: DeviceId, streams: &mut [MetricCounts]) -> Option<JudgedCounts> {
        streams.iter_mut().for_each(|stream| stream.counts = *self);
        Some(*self)
    }

    fn of_fleet(&self, _: MetricId) -> JudgedCounts {
        *self
    }
}

/// A metric, and the counts of a stream of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricCounts {
    /// The metric.
    pub metric: MetricId,
    /// The counts; zeros without a device.
    pub counts: JudgedCounts,
}

/// This replica's counts of one stream of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FleetCounts {
    /// Its metric.
    pub metric: MetricId,
    /// Values of it in the chunk.
    pub values: u32,
    /// The counts.
    pub counts: JudgedCounts,
}

/// The samples of one device, or without one, that have the same metrics in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JudgedRow {
    /// None for samples that count only for the fleet.
    pub device: Option<DeviceId>,
    /// This replica's samples and anomalies of the device; zeros without a device.
    pub counts: JudgedCounts,
    /// How many samples of the chunk have it.
    pub samples: u32,
    /// Readings of each sample.
    pub width: u16,
    /// The first of its streams.
    first: u32,
}

/// One judged sample. Its values are in the same chunk, in the order of the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JudgedSample {
    /// The client's timestamp, microseconds since 1970.
    pub timestamp_us: i64,
    /// The index of its row.
    pub row: u32,
}

/// Samples that arrived together. Its first sample has the sequence 0, the next one 1, and so on, always below 1,000:
/// times with sequences increase from each sample of a shard to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JudgedBatch {
    /// When they arrived, microseconds since the start of the process, by the monotonic clock. The store turns it into
    /// Redis' time.
    pub time_us: i64,
    /// All samples that its shard had counted before them.
    pub before: u64,
    first: u32,
}

/// Judged samples that are sent together, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JudgedChunk {
    /// The shard that has sent it.
    pub shard: usize,
    /// Whose windows its values enter. Of the fleet's alone: its samples are counted in other chunks.
    pub part: ShardPart,
    batches: Vec<JudgedBatch>,
    samples: Vec<JudgedSample>,
    values: Vec<f64>,
    rows: Vec<JudgedRow>,
    /// Those of all rows.
    streams: Vec<MetricCounts>,
    fleet: Vec<FleetCounts>,
}

/// Where a chunk probably has the row of a device, or a metric of the fleet. Each use checks what is found there, so this
/// is never cleared.
#[derive(Debug, Default)]
pub struct ChunkHints {
    /// By the index of the device's id; the first is that of samples without a device.
    rows: Vec<u32>,
    /// By the slot of the metric.
    metrics: Vec<u32>,
}

/// The hint at an index, which exists from now on.
#[inline]
fn hint(hints: &mut Vec<u32>, at: usize) -> &mut u32 {
    if hints.len() <= at {
        hints.resize(at + 1, NONE);
    }
    &mut hints[at]
}

/// A sample of a chunk with all that is known of it.
#[derive(Clone, Copy, Debug)]
pub struct WholeSample<'a> {
    /// When it arrived, as [`JudgedBatch::time_us`].
    pub time_us: i64,
    /// Its place in its batch.
    pub sequence: u16,
    /// All samples that its shard had counted up to it.
    pub serial: u64,
    /// The client's timestamp.
    pub timestamp_us: i64,
    /// Its device.
    pub device: Option<DeviceId>,
    streams: &'a [MetricCounts],
    values: &'a [f64],
}

impl WholeSample<'_> {
    /// Its readings, in order.
    pub fn readings(&self) -> impl Iterator<Item = Reading> {
        let metrics = self.streams.iter().map(|stream| stream.metric);
        metrics.zip(self.values).map(|(metric, &value)| Reading { metric, value })
    }
}

impl JudgedChunk {
    /// Without samples.
    pub fn of(shard: usize, part: ShardPart) -> Self {
        Self { shard, part, ..Self::default() }
    }

    /// True when so many samples with so many readings in all still fit.
    #[inline]
    pub fn has_room(&self, samples: usize, readings: usize) -> bool {
        self.samples.len() + samples <= CHUNK_SAMPLES_MAX
            && self.values.len() + readings <= CHUNK_READINGS_MAX
    }

    /// Begins a batch: the next samples arrived at that time, and the shard had so many before them.
    #[inline]
    pub fn begin_batch(&mut self, time_us: i64, before: u64) {
        let first = self.samples.len() as u32;
        self.batches.push(JudgedBatch { time_us, before, first });
    }

    /// Adds samples to the batch that was begun last. The first readings are theirs, one after another.
    #[inline]
    pub fn add(&mut self, samples: &[Sample], readings: &[Reading], hints: &mut ChunkHints) {
        let mut rest = readings;
        for &Sample { timestamp_us, device, readings } in samples {
            let (of_sample, after) = rest.split_at(readings as usize);
            rest = after;
            let at = device.map_or(0, |id| id.index as usize + 1);
            let hint = hint(&mut hints.rows, at);
            if !self.is_row_of(*hint, device, of_sample) {
                *hint = self.open_row(device, of_sample);
            }
            self.rows[*hint as usize].samples += 1;
            self.samples.push(JudgedSample { timestamp_us, row: *hint });
        }
        let added = &readings[..readings.len() - rest.len()];
        self.values.extend(added.iter().map(|reading| reading.value));
    }

    /// As [`JudgedChunk::add`], for the fleet's windows alone: whose the values are makes no difference.
    pub fn add_to_fleet(
        &mut self,
        samples: &[Sample],
        readings: &[Reading],
        hints: &mut ChunkHints,
    ) {
        let mut rest = readings;
        for sample in samples {
            let (of_sample, after) = rest.split_at(sample.readings as usize);
            rest = after;
            let hint = hint(&mut hints.rows, sample.device.map_or(0, |id| id.index as usize + 1));
            // Most devices have the metrics of another one.
            let last = (self.rows.len() as u32).wrapping_sub(1);
            let known = [*hint, last].into_iter().find(|&row| self.is_row_of(row, None, of_sample));
            *hint = known.unwrap_or_else(|| self.open_row(None, of_sample));
            self.rows[*hint as usize].samples += 1;
            self.samples.push(JudgedSample { timestamp_us: sample.timestamp_us, row: *hint });
            self.values.extend(of_sample.iter().map(|reading| reading.value));
        }
    }

    /// Whether the row of that index has the samples of the device with these metrics.
    #[inline]
    fn is_row_of(&self, row: u32, device: Option<DeviceId>, readings: &[Reading]) -> bool {
        let Some(row) = self.rows.get(row as usize) else { return false };
        let streams = self.streams_of(row);
        row.device == device
            && streams.len() == readings.len()
            && streams.iter().zip(readings).all(|(stream, reading)| stream.metric == reading.metric)
    }

    #[inline(never)] // once a row
    fn open_row(&mut self, device: Option<DeviceId>, readings: &[Reading]) -> u32 {
        let (row, counts) = (self.rows.len() as u32, JudgedCounts::default());
        let (width, first) = (readings.len() as u16, self.streams.len() as u32);
        self.rows.push(JudgedRow { device, counts, samples: 0, width, first });
        let stream = |reading: &Reading| MetricCounts { metric: reading.metric, counts };
        self.streams.extend(readings.iter().map(stream));
        row
    }

    /// Sets this replica's counts. A device that is not here any more has lost its windows: its samples count for the
    /// fleet alone.
    pub fn set_counts(&mut self, counts: &impl CurrentCounts, hints: &mut ChunkHints) {
        let Self { part, rows, streams, fleet, .. } = self;
        fleet.clear();
        for row in rows {
            let streams = &mut streams[row.first as usize..][..usize::from(row.width)];
            if let Some(id) = row.device {
                match counts.of_device(id, streams) {
                    Some(of_device) => row.counts = of_device,
                    None => row.device = None,
                }
            }
            if !part.has_fleet() {
                continue;
            }
            for &mut MetricCounts { metric, .. } in streams {
                let hint = hint(&mut hints.metrics, metric.slot());
                if fleet.get(*hint as usize).is_none_or(|known| known.metric != metric) {
                    *hint = fleet.len() as u32;
                    let counts = counts.of_fleet(metric);
                    fleet.push(FleetCounts { metric, values: 0, counts });
                }
                fleet[*hint as usize].values += row.samples;
            }
        }
    }

    /// The rows of its samples.
    pub fn rows(&self) -> &[JudgedRow] {
        &self.rows
    }

    /// The streams of a row: a metric each, with the counts of the device's stream.
    #[inline]
    pub fn streams_of(&self, row: &JudgedRow) -> &[MetricCounts] {
        &self.streams[row.first as usize..][..usize::from(row.width)]
    }

    /// This replica's counts of the fleet's streams that its samples have values of. After the eviction of a metric there
    /// may be two of one slot, and one of them twice.
    pub fn fleet(&self) -> &[FleetCounts] {
        &self.fleet
    }

    /// The batches, with their samples.
    #[inline]
    pub fn batches(
        &self,
    ) -> impl ExactSizeIterator<Item = (&JudgedBatch, &[JudgedSample])> + DoubleEndedIterator {
        self.batches.iter().enumerate().map(|(at, batch)| {
            let end =
                self.batches.get(at + 1).map_or(self.samples.len(), |next| next.first as usize);
            (batch, &self.samples[batch.first as usize..end])
        })
    }

    /// All samples that its shard had counted up to the last one.
    pub fn of_shard(&self) -> u64 {
        let up_to =
            |(batch, samples): (&JudgedBatch, &[JudgedSample])| batch.before + samples.len() as u64;
        self.batches().next_back().map_or(0, up_to)
    }

    /// The values of all samples, one after another.
    #[inline]
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The samples with all that is known of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = WholeSample<'_>> {
        let mut rest = &*self.values;
        let samples = self.batches().flat_map(|(batch, samples)| {
            (0..).zip(samples).map(move |(sequence, sample)| (batch, sequence, sample))
        });
        samples.map(move |(batch, sequence, sample)| {
            let row = &self.rows[sample.row as usize];
            let (values, after) = rest.split_at(usize::from(row.width));
            rest = after;
            WholeSample {
                time_us: batch.time_us,
                sequence,
                serial: batch.before + u64::from(sequence) + 1,
                timestamp_us: sample.timestamp_us,
                device: row.device,
                streams: self.streams_of(row),
                values,
            }
        })
    }

    /// Adds the samples of another chunk, without the fleet's counts, if there is room.
    pub fn append(&mut self, other: &Self) -> bool {
        let has_room = self.has_room(other.samples.len(), other.values.len());
        if has_room {
            let first = |at: usize| at as u32;
            let (samples, rows, streams) =
                (first(self.samples.len()), first(self.rows.len()), first(self.streams.len()));
            let batch =
                |batch: &JudgedBatch| JudgedBatch { first: batch.first + samples, ..*batch };
            self.batches.extend(other.batches.iter().map(batch));
            let sample = |sample: &JudgedSample| JudgedSample { row: sample.row + rows, ..*sample };
            self.samples.extend(other.samples.iter().map(sample));
            let row = |row: &JudgedRow| JudgedRow { first: row.first + streams, ..*row };
            self.rows.extend(other.rows.iter().map(row));
            self.streams.extend_from_slice(&other.streams);
            self.values.extend_from_slice(&other.values);
        }
        has_room
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Number of samples that have an outcome of their own.
    pub fn counted(&self) -> usize {
        if self.part.has_devices() { self.samples.len() } else { 0 }
    }

    /// True when there are no samples.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Removes the samples and keeps the memory.
    pub fn clear(&mut self) {
        let Self { shard: _, part: _, batches, samples, values, rows, streams, fleet } = self;
        batches.clear();
        samples.clear();
        values.clear();
        rows.clear();
        streams.clear();
        fleet.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    /// Values by device and metric, samples by device. Device 3 is not here any more.
    #[derive(Default)]
    struct Ledger {
        values: BTreeMap<(Option<u32>, MetricId), u64>,
        samples: BTreeMap<u32, u64>,
    }

    fn counts(total: u64) -> JudgedCounts {
        JudgedCounts { total, anomalies: total / 2 }
    }

    impl CurrentCounts for Ledger {
        fn of_device(&self, id: DeviceId, streams: &mut [MetricCounts]) -> Option<JudgedCounts> {
            for stream in streams {
                stream.counts = counts(self.values[&(Some(id.index), stream.metric)]);
            }
            (id.index != 3).then(|| counts(self.samples[&id.index]))
        }

        fn of_fleet(&self, metric: MetricId) -> JudgedCounts {
            counts(self.values[&(None, metric)])
        }
    }

    type SentSample = (Option<u32>, Vec<u16>);

    fn batch() -> impl Strategy<Value = Vec<SentSample>> {
        vec((option::of(0..4_u32), vec(0..4_u16, 0..4)), 1..6)
    }

    proptest! {
        #[test]
        fn a_chunk_has_its_samples_and_the_counts_after_them(
            chunks in vec(vec(batch(), 1..6), 1..4),
            appended in vec(batch(), 0..3),
        ) {
            let (mut hints, mut ledger) = (ChunkHints::default(), Ledger::default());
            let mut serial = 0;
            let mut fill = |chunk: &mut JudgedChunk, batches: Vec<Vec<SentSample>>| {
                let mut sent = Vec::new();
                for batch in batches {
                    chunk.begin_batch(serial as i64, serial);
                    let time_us = serial as i64;
                    for (sequence, (device, metrics)) in (0_u16..).zip(batch) {
                        let readings: Vec<_> = metrics.iter().map(|&metric| {
                            Reading { metric: MetricId::new(metric, 0), value: serial as f64 }
                        }).collect();
                        for reading in &readings {
                            *ledger.values.entry((None, reading.metric)).or_default() += 1;
                            *ledger.values.entry((device, reading.metric)).or_default() += u64::from(device.is_some());
                        }
                        device.into_iter().for_each(|device| *ledger.samples.entry(device).or_default() += 1);
                        let device = device.map(|index| DeviceId { index, generation: 7 });
                        let sample = Sample { timestamp_us: -(serial as i64), device, readings: readings.len() as u32 };
                        chunk.add(&[sample], &readings, &mut hints);
                        serial += 1;
                        sent.push((time_us, sequence, serial, device.filter(|id| id.index != 3), readings));
                    }
                }
                chunk.set_counts(&ledger, &mut hints);
                let mut of_fleet = BTreeMap::new();
                for reading in sent.iter().flat_map(|(.., readings)| readings) {
                    *of_fleet.entry(reading.metric).or_default() += 1;
                }
                let known: BTreeMap<_, u32> = chunk.fleet().iter().map(|of| (of.metric, of.values)).collect();
                assert_eq!(known, of_fleet);
                assert!(chunk.fleet().iter().all(|of| of.counts == ledger.of_fleet(of.metric)));
                assert_eq!(chunk.fleet().len(), known.len());
                assert_eq!(chunk.of_shard(), if sent.is_empty() { 0 } else { serial });
                for row in chunk.rows() {
                    let mut streams = chunk.streams_of(row).to_vec();
                    let of_device = row.device.and_then(|id| ledger.of_device(id, &mut streams));
                    assert_eq!((row.counts, &*streams), (of_device.unwrap_or_default(), chunk.streams_of(row)));
                }
                sent
            };
            let all = |chunk: &JudgedChunk| -> Vec<_> {
                let whole = |of: WholeSample<'_>| {
                    assert_eq!(of.timestamp_us, 1 - of.serial as i64);
                    (of.time_us, of.sequence, of.serial, of.device, of.readings().collect::<Vec<_>>())
                };
                chunk.iter().map(whole).collect()
            };
            let (mut chunk, mut sent) = (JudgedChunk::default(), Vec::new());
            for batches in chunks {
                chunk.clear();
                sent = fill(&mut chunk, batches);
                prop_assert_eq!(all(&chunk), &*sent);
            }
            let mut other = JudgedChunk::default();
            sent.extend(fill(&mut other, appended));
            prop_assert!(chunk.append(&other));
            prop_assert_eq!((all(&chunk), chunk.len()), (sent.clone(), sent.len()));
        }
    }
}
