//! One judged chunk as bytes: columns, with names by number. All numbers are little-endian.
//!
//! ```text
//! u8 1, i64 arrival in µs
//! u32 count of devices that are named here, each: u32 slot, u32 generation, u8 length, name
//! u32 count of metrics, each: u16 slot, u16 generation, u16 length, name
//! u32 samples, then columns: i64 timestamp in µs, u32 slot of the device (all bits for none), u32 readings
//! and of the readings: u16 slot of the metric, f64 value
//! ```
//!
//! A segment names each id once, before its first use: a slot means what it was last said to be.

use std::collections::HashMap;
use std::sync::Arc;

use sigmad_sample::{Batch, DeviceId, MetricId, READINGS_MAX, Reading, VALUE_MAX};

use super::JudgedInput;

/// The kind of the record; others may come.
const CHUNK: u8 = 1;
const NO_DEVICE: u32 = u32::MAX;

/// Where the encoder finds names.
pub trait Names {
    /// The name of a device, None once it has been evicted.
    fn device_name(&self, id: DeviceId) -> Option<Arc<str>>;
    /// The name of a metric, None once it has been evicted.
    fn metric_name(&self, id: MetricId) -> Option<Arc<str>>;
}

/// A name of the chunk was evicted on the way to the disk: the chunk can't be written.
#[derive(Debug, PartialEq, Eq)]
pub struct Unnamed;

/// What a slot was last said to be: its generation, and in which segment. Segment 0: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Named<G> {
    generation: G,
    segment: u32,
}

/// Writes the records of one shard.
#[derive(Debug, Default)]
pub struct RecordEncoder {
    segment: u32,
    devices: Vec<Named<u32>>,
    metrics: Vec<Named<u16>>,
    names: Vec<u8>,
}

impl RecordEncoder {
    /// A segment begins, or a record was not written: all names are said again.
    pub fn begin_segment(&mut self) {
        self.segment = self.segment.wrapping_add(1);
        if self.segment == 0 {
            // After four billion segments: what they named is forgotten.
            self.devices.clear();
            self.metrics.clear();
            self.segment = 1;
        }
    }

    /// Replaces the content of `record`.
    ///
    /// # Errors
    /// When a name has been evicted. Then the segment must begin anew.
    pub fn encode(
        &mut self,
        input: &JudgedInput,
        names: &impl Names,
        record: &mut Vec<u8>,
    ) -> Result<(), Unnamed> {
        if self.segment == 0 {
            self.begin_segment();
        }
        record.clear();
        record.push(CHUNK);
        record.extend_from_slice(&input.arrived_us.to_le_bytes());
        let batch = &input.batch;
        self.names.clear();
        let mut count = 0_u32;
        for (sample, _) in batch.iter() {
            if let Some(id) = sample.device {
                count += u32::from(self.name_device(id, names)?);
            }
        }
        record.extend_from_slice(&count.to_le_bytes());
        record.extend_from_slice(&self.names);
        self.names.clear();
        let mut count = 0_u32;
        for reading in batch.iter().flat_map(|(_, readings)| readings) {
            count += u32::from(self.name_metric(reading.metric, names)?);
        }
        record.extend_from_slice(&count.to_le_bytes());
        record.extend_from_slice(&self.names);
        push_columns(batch, record);
        Ok(())
    }

    /// True when the name had to be said.
    fn name_device(&mut self, id: DeviceId, names: &impl Names) -> Result<bool, Unnamed> {
        let named = Named { generation: id.generation, segment: self.segment };
        if !is_new(&mut self.devices, id.index as usize, named) {
            return Ok(false);
        }
        let name = names.device_name(id).ok_or(Unnamed)?;
        self.names.extend_from_slice(&id.index.to_le_bytes());
        self.names.extend_from_slice(&id.generation.to_le_bytes());
        self.names.push(u8::try_from(name.len()).map_err(|_| Unnamed)?);
        self.names.extend_from_slice(name.as_bytes());
        Ok(true)
    }

    /// True when the name had to be said.
    fn name_metric(&mut self, id: MetricId, names: &impl Names) -> Result<bool, Unnamed> {
        let named = Named { generation: id.generation(), segment: self.segment };
        if !is_new(&mut self.metrics, id.slot(), named) {
            return Ok(false);
        }
        let name = names.metric_name(id).ok_or(Unnamed)?;
        self.names.extend_from_slice(&(id.slot() as u16).to_le_bytes());
        self.names.extend_from_slice(&id.generation().to_le_bytes());
        self.names
            .extend_from_slice(&u16::try_from(name.len()).map_err(|_| Unnamed)?.to_le_bytes());
        self.names.extend_from_slice(name.as_bytes());
        Ok(true)
    }
}

/// Notes what a slot is. True unless the segment has said so.
fn is_new<G: Copy + Default + PartialEq>(
    slots: &mut Vec<Named<G>>,
    slot: usize,
    named: Named<G>,
) -> bool {
    if slot >= slots.len() {
        slots.resize(slot + 1, Named::default());
    }
    std::mem::replace(&mut slots[slot], named) != named
}

fn push_columns(batch: &Batch, record: &mut Vec<u8>) {
    record.extend_from_slice(&(batch.len() as u32).to_le_bytes());
    for (sample, _) in batch.iter() {
        record.extend_from_slice(&sample.timestamp_us.to_le_bytes());
    }
    for (sample, _) in batch.iter() {
        let slot = sample.device.map_or(NO_DEVICE, |id| id.index);
        record.extend_from_slice(&slot.to_le_bytes());
    }
    for (_, readings) in batch.iter() {
        record.extend_from_slice(&(readings.len() as u32).to_le_bytes());
    }
    let readings = || batch.iter().flat_map(|(_, readings)| readings);
    for reading in readings() {
        record.extend_from_slice(&(reading.metric.slot() as u16).to_le_bytes());
    }
    for reading in readings() {
        record.extend_from_slice(&reading.value.to_le_bytes());
    }
}

/// Who turns the names of a record into ids of this process.
pub trait Admission {
    /// The id of a device, None without room for it.
    fn device(&mut self, there: DeviceId, name: &str) -> Option<DeviceId>;
    /// The id of a metric, None without room for it.
    fn metric(&mut self, there: MetricId, name: &str) -> Option<MetricId>;
}

/// What a slot was last said to be.
#[derive(Debug)]
enum Said<T> {
    /// With its id of the other process; not used so far.
    There(T, Box<str>),
    /// Its id of this process, None without room.
    Here(Option<T>),
}

impl<T: Copy> Said<T> {
    /// Its id of this process: it is admitted when a record uses it first.
    fn here(&mut self, admit: impl FnOnce(T, &str) -> Option<T>) -> Option<T> {
        if let Self::There(there, name) = self {
            *self = Self::Here(admit(*there, name));
        }
        match self {
            Self::Here(here) => *here,
            Self::There(..) => unreachable!("it was admitted"),
        }
    }
}

/// Reads the records of one shard, in order.
#[derive(Debug, Default)]
pub struct RecordDecoder {
    devices: HashMap<u32, Said<DeviceId>>,
    metrics: HashMap<u16, Said<MetricId>>,
}

impl RecordDecoder {
    /// Replaces the content of `batch`, and returns when it arrived, in microseconds since 1970. A sample whose device
    /// has no room counts for the fleet alone; a value whose metric has none is left out. None for a record that is none.
    pub fn decode(
        &mut self,
        record: &[u8],
        admission: &mut impl Admission,
        batch: &mut Batch,
    ) -> Option<i64> {
        batch.clear();
        let mut rest = record;
        let arrived_us = self.names(&mut rest)?;
        self.columns(rest, admission, batch)?;
        Some(arrived_us)
    }

    /// Learns the names of a record whose samples a snapshot has. One that is none names nothing.
    pub fn learn(&mut self, mut record: &[u8]) {
        let (Some(_) | None) = self.names(&mut record);
    }

    /// Takes the arrival and the names from the beginning of a record.
    fn names(&mut self, rest: &mut &[u8]) -> Option<i64> {
        if take::<1>(rest)? != [CHUNK] {
            return None;
        }
        let arrived_us = i64::from_le_bytes(take(rest)?);
        for _ in 0..u32::from_le_bytes(take(rest)?) {
            let index = u32::from_le_bytes(take(rest)?);
            let generation = u32::from_le_bytes(take(rest)?);
            let [length] = take(rest)?;
            let name = take_name(rest, usize::from(length))?.into();
            self.devices.insert(index, Said::There(DeviceId { index, generation }, name));
        }
        for _ in 0..u32::from_le_bytes(take(rest)?) {
            let slot = u16::from_le_bytes(take(rest)?);
            let generation = u16::from_le_bytes(take(rest)?);
            let length = u16::from_le_bytes(take(rest)?);
            let name = take_name(rest, usize::from(length))?.into();
            self.metrics.insert(slot, Said::There(MetricId::new(slot, generation), name));
        }
        Some(arrived_us)
    }

    fn columns(
        &mut self,
        mut rest: &[u8],
        admission: &mut impl Admission,
        batch: &mut Batch,
    ) -> Option<()> {
        let samples = u32::from_le_bytes(take(&mut rest)?) as usize;
        let timestamps = take_column::<8>(&mut rest, samples)?;
        let devices = take_column::<4>(&mut rest, samples)?;
        let widths = take_column::<4>(&mut rest, samples)?;
        let width = |width: &[u8; 4]| u32::from_le_bytes(*width) as usize;
        let readings: usize = widths.iter().map(width).sum();
        let mut metrics = take_column::<2>(&mut rest, readings)?.iter();
        let mut values = take_column::<8>(&mut rest, readings)?.iter();
        if !rest.is_empty() {
            return None;
        }
        for ((timestamp, device), readings) in timestamps.iter().zip(devices).zip(widths) {
            let slot = u32::from_le_bytes(*device);
            let device = match slot {
                NO_DEVICE => None,
                slot => {
                    self.devices.get_mut(&slot)?.here(|there, name| admission.device(there, name))
                }
            };
            let mut any = false;
            if !(1..=READINGS_MAX).contains(&width(readings)) {
                return None;
            }
            for (metric, value) in metrics.by_ref().zip(values.by_ref()).take(width(readings)) {
                let value = f64::from_le_bytes(*value);
                if !value.is_finite() || value.abs() > VALUE_MAX {
                    return None;
                }
                let said = self.metrics.get_mut(&u16::from_le_bytes(*metric))?;
                if let Some(metric) = said.here(|there, name| admission.metric(there, name)) {
                    batch.draft(Reading { metric, value });
                    any = true;
                }
            }
            if any {
                batch.complete(i64::from_le_bytes(*timestamp), device);
            }
        }
        Some(())
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

fn take_name<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a str> {
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    std::str::from_utf8(taken).ok()
}

fn take_column<'a, const N: usize>(rest: &mut &'a [u8], count: usize) -> Option<&'a [[u8; N]]> {
    let (taken, after) = rest.split_at_checked(count.checked_mul(N)?)?;
    *rest = after;
    Some(taken.as_chunks().0)
}

#[cfg(test)]
mod tests;
