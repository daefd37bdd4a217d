//! The fast path: the usual shape of a sample.
//!
//! One valid object of plain strings (printable ASCII without escapes) and numbers. Any other sample
//! is left to simd-json ([`tape`](super::tape)). So nothing is refused here, and both accept the same.

use smallvec::SmallVec;

use super::fields::{FieldName, is_moment};
use super::plain::{byte_at, number_at, skip_space, string_at, timestamp_at, word_at};
use super::shape::{Shape, ShapeValue};
use crate::decode::draft::DraftSample;
use crate::decode::names::MetricCache;
use crate::decode::rules::SeriesRules;
use crate::registry::mask_of;
use sigmad_sample::{Batch, METRIC_BYTES_MAX, MetricId, NAME_BYTES_MAX, READINGS_MAX, VALUE_MAX};

/// Ignored fields whose names are kept, to detect a duplicate.
const IGNORED_MAX: usize = 16;

enum FieldKey<'a> {
    Metric(MetricId),
    Timestamp,
    Device,
    Other(&'a [u8]),
}

/// Reads the object that opens at `start` and returns its end, and notes its shape. None if the object needs the slow path;
/// the caller then discards the draft of `batch`.
#[inline]
pub(super) fn scan<'a>(
    text: &'a [u8],
    start: usize,
    rules: &SeriesRules,
    mut shape: Option<&mut Shape>,
    metrics: &MetricCache,
    draft: &mut DraftSample<'a>,
    batch: &mut Batch,
) -> Option<usize> {
    let mut has_timestamp = false;
    // The end of the value before.
    let mut noted = start;
    // Where the device is from a field of another name: its place, from 1.
    let mut device_rank = 0;
    let mut ignored: SmallVec<[&[u8]; IGNORED_MAX]> = SmallVec::new();
    if text.get(start) != Some(&b'{') {
        return None;
    }
    // The index of the bracket or the comma before a key.
    let mut at = start;
    loop {
        let (key, key_end) = key_at(text, at + 1)?;
        let value_at = skip_space(text, key_end);
        let value_kind;
        match key {
            FieldKey::Metric(id) => {
                value_kind = Some(ShapeValue::Number(id, 0.0));
                at = usual_at(id, text, value_at, draft, batch)?;
            }
            FieldKey::Timestamp => {
                if std::mem::replace(&mut has_timestamp, true) {
                    return None;
                }
                value_kind = Some(ShapeValue::Timestamp);
                (draft.timestamp_us, at) = timestamp_at(text, value_at)?;
            }
            FieldKey::Device => {
                value_kind = Some(ShapeValue::Device);
                at = device_at(text, value_at, draft, &mut device_rank)?;
            }
            FieldKey::Other(name) => {
                let mut field = OtherField {
                    name,
                    rules,
                    ignored: &mut ignored,
                    device_rank: &mut device_rank,
                };
                (at, value_kind) = field.read(text, value_at, metrics, draft, batch)?;
            }
        }
        note(&mut shape, &text[noted..value_at], value_kind);
        noted = at;
        at = skip_space(text, at);
        match byte_at(text, at) {
            b',' => {}
            b'}' => break,
            _ => return None,
        }
    }
    if !(1..=READINGS_MAX).contains(&draft.readings) {
        return None;
    }
    if let Some(shape) = shape {
        shape.complete(&text[noted..=at]);
    }
    Some(at + 1)
}

/// Notes a field in the shape, or gives the notes up.
#[inline]
fn note(shape: &mut Option<&mut Shape>, before: &[u8], kind: Option<ShapeValue>) {
    if let Some(noting) = shape
        && !kind.is_some_and(|kind| noting.note(before, kind))
    {
        *shape = None;
    }
}

/// Reads the value of `cpu` or `rps` at `at`; returns its end.
#[inline(always)]
fn usual_at(
    id: MetricId,
    text: &[u8],
    at: usize,
    draft: &mut DraftSample<'_>,
    batch: &mut Batch,
) -> Option<usize> {
    let (number, end) = number_at::<false>(text, at)?;
    let value = number.value();
    if draft.metrics_mask & mask_of(id) != 0 || !(0.0..=VALUE_MAX).contains(&value) {
        return None;
    }
    draft.push_masked(id, value, batch);
    Some(end)
}

/// Reads the name of the device at `at`, in a field of its own; returns its end.
#[inline(always)]
fn device_at<'a>(
    text: &'a [u8],
    at: usize,
    draft: &mut DraftSample<'a>,
    device_rank: &mut usize,
) -> Option<usize> {
    let (device, end) = string_at(text, at)?;
    let is_second = draft.device.is_some() && std::mem::take(device_rank) == 0;
    if is_second || !(1..=NAME_BYTES_MAX).contains(&device.len()) {
        return None;
    }
    draft.device = Some(device);
    Some(end)
}

/// A field that has no place of its own.
struct OtherField<'s, 'a> {
    name: &'a [u8],
    rules: &'s SeriesRules,
    ignored: &'s mut SmallVec<[&'a [u8]; IGNORED_MAX]>,
    device_rank: &'s mut usize,
}

impl<'a> OtherField<'_, 'a> {
    /// Reads the value at `at`: a number is a reading; a string may be the device, or is ignored. Returns the end
    /// of the value, and what it is in the shape of the sample, if it can be in one.
    #[inline(always)]
    fn read(
        &mut self,
        text: &'a [u8],
        at: usize,
        metrics: &MetricCache,
        draft: &mut DraftSample<'a>,
        batch: &mut Batch,
    ) -> Option<(usize, Option<ShapeValue>)> {
        let name = self.name;
        let known = metrics.get(name);
        let is_known_twice = known.is_some_and(|id| draft.metrics_mask & mask_of(id) != 0);
        let is_unknown_twice = draft.unmasked.iter().any(|(_, other)| *other == name);
        if is_known_twice || is_unknown_twice || self.ignored.contains(&name) {
            return None;
        }
        if text.get(at) == Some(&b'"') {
            let (string, end) = string_at(text, at)?;
            let kind = self.text(string, draft)?;
            return Some((end, kind));
        }
        let (number, end) = number_at::<false>(text, at)?;
        let value = number.value();
        let is_named = (1..=METRIC_BYTES_MAX).contains(&name.len());
        if value.abs() > VALUE_MAX || !is_named || is_moment(name, value) {
            return None;
        }
        draft.push(name, known, value, batch);
        Some((end, known.map(|metric| ShapeValue::Number(metric, -VALUE_MAX))))
    }

    /// Takes a string; returns what it is in the shape of the sample, unless another string there may be something else.
    fn text(
        &mut self,
        string: &'a [u8],
        draft: &mut DraftSample<'a>,
    ) -> Option<Option<ShapeValue>> {
        // Such a sample may be another format's.
        if self.ignored.len() == IGNORED_MAX || self.name == b"metric" {
            return None;
        }
        self.ignored.push(self.name);
        let Some(rank) = self.rules.device_rank(self.name).map(|rank| rank + 1) else {
            return Some(Some(ShapeValue::Ignored));
        };
        let is_first = match *self.device_rank {
            0 => draft.device.is_none(),
            other => rank < other,
        };
        if is_first && !string.is_empty() {
            if string.len() > NAME_BYTES_MAX {
                return None;
            }
            draft.device = Some(string);
            *self.device_rank = rank;
            return Some(Some(ShapeValue::Device));
        }
        // It never is the device beside the field `device`.
        Some((*self.device_rank == 0 && draft.device.is_some()).then_some(ShapeValue::Ignored))
    }
}

/// The key at `at`, and the index after its colon.
#[inline(always)]
fn key_at(text: &[u8], at: usize) -> Option<(FieldKey<'_>, usize)> {
    const CPU: u64 = u64::from_le_bytes(*b"\"cpu\":\0\0");
    const RPS: u64 = u64::from_le_bytes(*b"\"rps\":\0\0");
    const SIX_BYTES: u64 = (1 << 48) - 1;
    const TIMESTAMP: u64 = u64::from_le_bytes(*b"\"timesta");
    const DEVICE: u64 = u64::from_le_bytes(*b"\"device\"");
    let word = word_at(text, at);
    if word & SIX_BYTES == CPU {
        return Some((FieldKey::Metric(MetricId::CPU), at + 6));
    }
    if word & SIX_BYTES == RPS {
        return Some((FieldKey::Metric(MetricId::RPS), at + 6));
    }
    if word == TIMESTAMP && text.get(at + 8..at + 12) == Some(b"mp\":") {
        return Some((FieldKey::Timestamp, at + 12));
    }
    if word == DEVICE && text.get(at + 8) == Some(&b':') {
        return Some((FieldKey::Device, at + 9));
    }
    spaced_key_at(text, at)
}

#[inline]
fn spaced_key_at(text: &[u8], at: usize) -> Option<(FieldKey<'_>, usize)> {
    let (name, at) = string_at(text, skip_space(text, at))?;
    let colon = skip_space(text, at);
    if text.get(colon) != Some(&b':') {
        return None;
    }
    let key = match FieldName::of(name) {
        FieldName::Cpu => FieldKey::Metric(MetricId::CPU),
        FieldName::Rps => FieldKey::Metric(MetricId::RPS),
        FieldName::Time(_) => FieldKey::Timestamp,
        FieldName::Device | FieldName::DeviceId => FieldKey::Device,
        FieldName::Other => FieldKey::Other(name),
    };
    Some((key, colon + 1))
}
