//! The slow path: simd-json parses one sample of any shape.
//!
//! It writes a flat tape of values, which is read here without recursion, however deep the sample nests.

use simd_json::{Buffers, Node, StaticNode, Tape};
use smallvec::SmallVec;

use crate::decode::draft::DraftSample;
use crate::decode::fault::SampleFault;
use crate::decode::names::MetricCache;
use sigmad_sample::timestamp;
use sigmad_sample::{Batch, MetricId, READINGS_MAX, VALUE_MAX, is_metric_name, is_name};

/// Values in one sample, ignored ones included: simd-json needs some 100 bytes for each.
pub(super) const VALUES_MAX: usize = 16_384;
/// After a longer text the buffers (2.5 bytes per byte of text) are freed.
const TEXT_BYTES_KEPT: usize = 256 * 1024;
/// After more values than that the tape (24 bytes for each) is freed.
const NODES_KEPT: usize = 16 * 1024;
/// Deeper nesting needs more values than a sample may have.
const DEPTH_MAX: usize = VALUES_MAX + 1;

/// The memory of simd-json, reused for each text.
pub(crate) struct Parser {
    buffers: Buffers,
    tape: Tape<'static>,
}

/// The text is not JSON, near `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotJson {
    pub(super) offset: usize,
}

impl Parser {
    pub(crate) fn new() -> Self {
        Self { buffers: Buffers::with_max_depth(0, DEPTH_MAX), tape: Tape(Vec::new()) }
    }

    /// Parses `text`, in which [`skip_value`](super::skip::skip_value) has found at most
    /// [`VALUES_MAX`] values. The caller returns the tape with [`Parser::recycle`].
    pub(super) fn parse<'a>(&mut self, text: &'a mut [u8]) -> Result<Tape<'a>, NotJson> {
        let length = text.len();
        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let filled = simd_json::fill_tape(text, &mut self.buffers, &mut tape);
        if length > TEXT_BYTES_KEPT {
            self.buffers = Buffers::with_max_depth(0, DEPTH_MAX);
        }
        match filled {
            Ok(()) => Ok(tape),
            Err(error) => {
                self.recycle(tape);
                Err(NotJson { offset: error.index().min(length) })
            }
        }
    }

    /// Takes back the memory of a tape.
    pub(super) fn recycle(&mut self, tape: Tape<'_>) {
        if tape.0.capacity() <= NODES_KEPT {
            self.tape = tape.reset();
        }
    }
}

/// The value of a field that may be a number.
#[derive(Clone, Copy, PartialEq)]
enum FieldValue {
    Number(f64),
    Null,
    Other,
}

fn value_of(node: &Node<'_>) -> FieldValue {
    match *node {
        Node::Static(StaticNode::I64(number)) => FieldValue::Number(number as f64),
        Node::Static(StaticNode::U64(number)) => FieldValue::Number(number as f64),
        Node::Static(StaticNode::F64(number)) => FieldValue::Number(number),
        Node::Static(StaticNode::Null) => FieldValue::Null,
        Node::Static(StaticNode::Bool(_))
        | Node::String(_)
        | Node::Object { .. }
        | Node::Array { .. } => FieldValue::Other,
    }
}

/// Number of nodes of a value on the tape.
fn width(node: &Node<'_>) -> usize {
    match *node {
        Node::Object { count, .. } | Node::Array { count, .. } => count + 1,
        Node::Static(_) | Node::String(_) => 1,
    }
}

/// Reads a sample from its tape. Readings go to the draft of `batch`, which the caller discards after an error.
pub(super) fn read<'a>(
    tape: &[Node<'a>],
    metrics: &MetricCache,
    draft: &mut DraftSample<'a>,
    batch: &mut Batch,
) -> Result<(), SampleFault<'a>> {
    let Some((Node::Object { len, .. }, mut rest)) = tape.split_first() else {
        return Err(SampleFault::NotAnObject);
    };
    // Of several fields with one name the last one counts.
    let mut timestamp_field = None;
    let mut device_field = None;
    let mut device_id_field = None;
    let mut usual =
        [("cpu", MetricId::CPU, FieldValue::Null), ("rps", MetricId::RPS, FieldValue::Null)];
    let mut others: SmallVec<[(&str, FieldValue); READINGS_MAX]> = SmallVec::new();
    for _ in 0..*len {
        let [Node::String(name), node, ..] = rest else {
            unreachable!("the tape of an object alternates keys and values");
        };
        let value = value_of(node);
        match *name {
            "timestamp" => timestamp_field = Some(node),
            "device" => device_field = Some(node),
            "device_id" => device_id_field = Some(node),
            "cpu" => usual[0].2 = value,
            "rps" => usual[1].2 = value,
            name => {
                if let Some(field) = others.iter_mut().find(|(other, _)| *other == name) {
                    field.1 = value;
                } else if let FieldValue::Number(_) = value {
                    if others.len() == READINGS_MAX {
                        return Err(SampleFault::TooManyReadings);
                    }
                    others.push((name, value));
                }
            }
        }
        rest = &rest[1 + width(node)..];
    }
    draft.timestamp_us = timestamp_field.map_or(Ok(None), timestamp_of)?;
    let device = device_field.map_or(Ok(None), |node| device_of(node, "device"))?;
    let device_id = device_id_field.map_or(Ok(None), |node| device_of(node, "device_id"))?;
    if device.zip(device_id).is_some_and(|(one, other)| one != other) {
        return Err(SampleFault::DevicesDiffer);
    }
    draft.device = device.or(device_id).map(str::as_bytes);
    for (name, id, value) in usual {
        match value {
            FieldValue::Number(number) if number < 0.0 => return Err(SampleFault::Negative(name)),
            FieldValue::Number(number) if number > VALUE_MAX => {
                return Err(SampleFault::TooLarge(name));
            }
            FieldValue::Number(number) => draft.push_masked(id, number, batch),
            FieldValue::Null => {}
            FieldValue::Other => return Err(SampleFault::NumberType(name)),
        }
    }
    push_others(&others, metrics, draft, batch)?;
    if draft.readings == 0 { Err(SampleFault::NoNumber) } else { Ok(()) }
}

/// Drafts the readings of metrics other than `cpu` and `rps`.
#[inline]
fn push_others<'a>(
    others: &[(&'a str, FieldValue)],
    metrics: &MetricCache,
    draft: &mut DraftSample<'a>,
    batch: &mut Batch,
) -> Result<(), SampleFault<'a>> {
    for &(name, value) in others {
        let FieldValue::Number(number) = value else { continue };
        if !is_metric_name(name) {
            return Err(SampleFault::MetricName(name));
        }
        if number.abs() > VALUE_MAX {
            return Err(SampleFault::TooLarge(name));
        }
        if draft.readings == READINGS_MAX {
            return Err(SampleFault::TooManyReadings);
        }
        draft.push(name.as_bytes(), metrics.get(name.as_bytes()), number, batch);
    }
    Ok(())
}

fn timestamp_of<'a>(node: &Node<'a>) -> Result<timestamp::Stamp, SampleFault<'a>> {
    let stamp = match *node {
        Node::Static(StaticNode::Null) => Ok(None),
        Node::Static(StaticNode::U64(number)) => timestamp::from_integer(number),
        Node::Static(StaticNode::I64(number)) => match u64::try_from(number) {
            Ok(number) => timestamp::from_integer(number),
            Err(_) => Err(timestamp::OutOfRange),
        },
        Node::Static(StaticNode::F64(number)) => timestamp::from_float(number),
        Node::String(text) => timestamp::from_text(text).ok_or(SampleFault::TimestampText)?,
        Node::Static(StaticNode::Bool(_)) | Node::Object { .. } | Node::Array { .. } => {
            return Err(SampleFault::TimestampType);
        }
    };
    stamp.map_err(|timestamp::OutOfRange| SampleFault::TimestampRange)
}

fn device_of<'a>(node: &Node<'a>, field: &'static str) -> Result<Option<&'a str>, SampleFault<'a>> {
    match *node {
        Node::Static(StaticNode::Null) => Ok(None),
        Node::String(name) if is_name(name) => Ok(Some(name)),
        Node::String(_) => Err(SampleFault::DeviceName(field)),
        Node::Static(_) | Node::Object { .. } | Node::Array { .. } => {
            Err(SampleFault::DeviceType(field))
        }
    }
}
