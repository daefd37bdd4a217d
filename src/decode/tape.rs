//! The general case: one sample by simd-json, which writes a flat tape of values that is walked here
//! without recursion, however deep the sample nests.

use simd_json::{Buffers, Node, StaticNode, Tape};
use smallvec::SmallVec;

use super::fields::{Fault, Fields, VALUES_MAX};
use super::names::MetricCache;
use sigmad_sample::timestamp;
use sigmad_sample::{Batch, MetricId, READINGS_MAX, VALUE_MAX, is_name};

/// After a longer text the buffers (some 2.5 bytes for each of its bytes) are given back.
const TEXT_BYTES_KEPT: usize = 256 * 1024;
/// After more values than that the tape (24 bytes for each) is given back.
const NODES_KEPT: usize = 16 * 1024;
/// Deeper nesting needs more values than a sample may have.
const DEPTH_MAX: usize = VALUES_MAX + 1;

/// simd-json's memory, used again for each text.
pub(super) struct Parser {
    buffers: Buffers,
    tape: Tape<'static>,
}

/// Not JSON, near that byte of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotJson {
    pub(super) offset: usize,
}

impl Parser {
    pub(super) fn new() -> Self {
        Self { buffers: Buffers::with_max_depth(0, DEPTH_MAX), tape: Tape(Vec::new()) }
    }

    /// Parses `text`, which [`skip_value`](super::skip::skip_value) has gone over and found to hold
    /// at most [`VALUES_MAX`] values. The tape is to be given back with [`Parser::keep`].
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
                self.keep(tape);
                Err(NotJson { offset: error.index().min(length) })
            }
        }
    }

    /// Takes the memory of a tape back.
    pub(super) fn keep(&mut self, tape: Tape<'_>) {
        if tape.0.capacity() <= NODES_KEPT {
            self.tape = tape.reset();
        }
    }
}

/// A field that may hold a number.
#[derive(Clone, Copy, PartialEq)]
enum Value {
    Number(f64),
    Null,
    Other,
}

fn value_of(node: &Node<'_>) -> Value {
    match *node {
        Node::Static(StaticNode::I64(number)) => Value::Number(number as f64),
        Node::Static(StaticNode::U64(number)) => Value::Number(number as f64),
        Node::Static(StaticNode::F64(number)) => Value::Number(number),
        Node::Static(StaticNode::Null) => Value::Null,
        Node::Static(StaticNode::Bool(_))
        | Node::String(_)
        | Node::Object { .. }
        | Node::Array { .. } => Value::Other,
    }
}

/// How many nodes a value takes on the tape.
fn width(node: &Node<'_>) -> usize {
    match *node {
        Node::Object { count, .. } | Node::Array { count, .. } => count + 1,
        Node::Static(_) | Node::String(_) => 1,
    }
}

/// Fills in what a sample's tape says, when nothing is wrong with it. Readings are drafted in `batch`, where
/// those of a faulty sample are left for the caller to discard.
pub(super) fn read<'a>(
    tape: &[Node<'a>],
    metrics: &MetricCache,
    fields: &mut Fields<'a>,
    batch: &mut Batch,
) -> Result<(), Fault<'a>> {
    let Some((Node::Object { len, .. }, mut rest)) = tape.split_first() else {
        return Err(Fault::NotAnObject);
    };
    // The last of several fields of one name counts.
    let mut timestamp_field = None;
    let mut device_field = None;
    let mut device_id_field = None;
    let mut usual = [("cpu", MetricId::CPU, Value::Null), ("rps", MetricId::RPS, Value::Null)];
    let mut others: SmallVec<[(&str, Value); READINGS_MAX]> = SmallVec::new();
    for _ in 0..*len {
        let [Node::String(name), node, ..] = rest else {
            unreachable!("on the tape of an object a key and a value follow each other");
        };
        let value = value_of(node);
        match *name {
            "timestamp" => timestamp_field = Some(node),
            "device" => device_field = Some(node),
            "device_id" => device_id_field = Some(node),
            "cpu" => usual[0].2 = value,
            "rps" => usual[1].2 = value,
            name => {
                if let Some(field) = others.iter_mut().find(|(met, _)| *met == name) {
                    field.1 = value;
                } else if let Value::Number(_) = value {
                    if others.len() == READINGS_MAX {
                        return Err(Fault::TooManyReadings);
                    }
                    others.push((name, value));
                }
            }
        }
        rest = &rest[1 + width(node)..];
    }
    fields.timestamp_us = timestamp_field.map_or(Ok(None), timestamp_of)?;
    let device = device_field.map_or(Ok(None), |node| device_of(node, "device"))?;
    let device_id = device_id_field.map_or(Ok(None), |node| device_of(node, "device_id"))?;
    if device.zip(device_id).is_some_and(|(one, other)| one != other) {
        return Err(Fault::DevicesDiffer);
    }
    fields.device = device.or(device_id).map(str::as_bytes);
    for (name, id, value) in usual {
        match value {
            Value::Number(number) if number < 0.0 => return Err(Fault::Negative(name)),
            Value::Number(number) if number > VALUE_MAX => return Err(Fault::TooLarge(name)),
            Value::Number(number) => fields.push_masked(id, number, batch),
            Value::Null => {}
            Value::Other => return Err(Fault::NumberType(name)),
        }
    }
    for &(name, value) in &others {
        let Value::Number(number) = value else { continue };
        if !is_name(name) {
            return Err(Fault::MetricName(name));
        }
        if number.abs() > VALUE_MAX {
            return Err(Fault::TooLarge(name));
        }
        if fields.readings == READINGS_MAX {
            return Err(Fault::TooManyReadings);
        }
        fields.push(name.as_bytes(), metrics.find(name.as_bytes()), number, batch);
    }
    if fields.readings == 0 { Err(Fault::NoNumber) } else { Ok(()) }
}

fn timestamp_of<'a>(node: &Node<'a>) -> Result<timestamp::Stamp, Fault<'a>> {
    let stamp = match *node {
        Node::Static(StaticNode::Null) => Ok(None),
        Node::Static(StaticNode::U64(number)) => timestamp::from_integer(number),
        Node::Static(StaticNode::I64(number)) => match u64::try_from(number) {
            Ok(number) => timestamp::from_integer(number),
            Err(_) => Err(timestamp::OutOfRange),
        },
        Node::Static(StaticNode::F64(number)) => timestamp::from_float(number),
        Node::String(text) => timestamp::from_text(text).ok_or(Fault::TimestampText)?,
        Node::Static(StaticNode::Bool(_)) | Node::Object { .. } | Node::Array { .. } => {
            return Err(Fault::TimestampType);
        }
    };
    stamp.map_err(|timestamp::OutOfRange| Fault::TimestampRange)
}

fn device_of<'a>(node: &Node<'a>, field: &'static str) -> Result<Option<&'a str>, Fault<'a>> {
    match *node {
        Node::Static(StaticNode::Null) => Ok(None),
        Node::String(name) if is_name(name) => Ok(Some(name)),
        Node::String(_) => Err(Fault::DeviceName(field)),
        Node::Static(_) | Node::Object { .. } | Node::Array { .. } => Err(Fault::DeviceType(field)),
    }
}
