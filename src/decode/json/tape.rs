//! The slow path: simd-json parses one object of any shape.
//!
//! It writes a flat tape of values, which is read without recursion, however deep the object nests.

use simd_json::{Buffers, Node, StaticNode, Tape};

use super::shape::Shape;
use crate::decode::fault::SampleFault;
use sigmad_sample::timestamp;

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
    /// The shape of the sample before.
    pub(super) shape: Shape,
    /// Where the key of a series is written: see [`agents`](super::agents).
    pub(super) key: Vec<u8>,
}

/// The text is not JSON, near `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotJson {
    pub(super) offset: usize,
}

impl Parser {
    pub(crate) fn new() -> Self {
        Self {
            buffers: Buffers::with_max_depth(0, DEPTH_MAX),
            tape: Tape(Vec::new()),
            shape: Shape::default(),
            key: Vec::new(),
        }
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

/// The value of a number.
pub(super) fn number(node: &Node<'_>) -> Option<f64> {
    match *node {
        Node::Static(StaticNode::I64(number)) => Some(number as f64),
        Node::Static(StaticNode::U64(number)) => Some(number as f64),
        Node::Static(StaticNode::F64(number)) => Some(number),
        _ => None,
    }
}

/// Number of nodes of a value on the tape.
fn width(node: &Node<'_>) -> usize {
    match *node {
        Node::Object { count, .. } | Node::Array { count, .. } => count + 1,
        Node::Static(_) | Node::String(_) => 1,
    }
}

/// The fields of an object on the tape, in their order.
pub(super) struct FieldsOf<'t, 'a> {
    left: usize,
    rest: &'t [Node<'a>],
}

impl<'t, 'a> FieldsOf<'t, 'a> {
    /// No fields if the tape holds no object.
    pub(super) fn new(tape: &'t [Node<'a>]) -> Self {
        match tape.split_first() {
            Some((Node::Object { len, .. }, rest)) => Self { left: *len, rest },
            _ => Self { left: 0, rest: &[] },
        }
    }
}

impl<'t, 'a> Iterator for FieldsOf<'t, 'a> {
    /// A name, and the nodes from its value on, which is the first of them.
    type Item = (&'a str, &'t [Node<'a>]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let [Node::String(name), node, ..] = self.rest else {
            unreachable!("the tape of an object alternates keys and values");
        };
        let value = &self.rest[1..];
        self.rest = &value[width(node)..];
        Some((name, value))
    }
}

/// The elements of an array on the tape.
#[derive(Clone)]
pub(super) struct ItemsOf<'t, 'a> {
    left: usize,
    rest: &'t [Node<'a>],
}

impl<'t, 'a> ItemsOf<'t, 'a> {
    /// No elements if the tape holds no array.
    pub(super) fn new(tape: &'t [Node<'a>]) -> Self {
        match tape.split_first() {
            Some((Node::Array { len, .. }, rest)) => Self { left: *len, rest },
            _ => Self { left: 0, rest: &[] },
        }
    }

    /// Number of elements that follow.
    pub(super) fn left(&self) -> usize {
        self.left
    }
}

impl<'t, 'a> Iterator for ItemsOf<'t, 'a> {
    /// The nodes from an element on, which is the first of them.
    type Item = &'t [Node<'a>];

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let item = self.rest;
        self.rest = &item[width(item.first()?)..];
        Some(item)
    }
}

/// The time in a field.
pub(super) fn timestamp_of<'a>(
    node: &Node<'a>,
    field: &'a str,
) -> Result<timestamp::Stamp, SampleFault<'a>> {
    let stamp = match *node {
        Node::Static(StaticNode::Null) => Ok(None),
        Node::Static(StaticNode::U64(number)) => timestamp::from_integer(number),
        Node::Static(StaticNode::I64(number)) => match u64::try_from(number) {
            Ok(number) => timestamp::from_integer(number),
            Err(_) => Err(timestamp::OutOfRange),
        },
        Node::Static(StaticNode::F64(number)) => timestamp::from_float(number),
        Node::String(text) => {
            timestamp::from_text(text).ok_or(SampleFault::TimestampText(field))?
        }
        Node::Static(StaticNode::Bool(_)) | Node::Object { .. } | Node::Array { .. } => {
            return Err(SampleFault::TimestampType(field));
        }
    };
    stamp.map_err(|timestamp::OutOfRange| SampleFault::TimestampRange(field))
}
