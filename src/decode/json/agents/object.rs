//! What the objects of all agents have in common.

use simd_json::Node;

use crate::decode::fault::{BodyError, PointFault};
use crate::decode::json::tape::{FieldsOf, timestamp_of};
use sigmad_sample::timestamp::Stamp;

/// Why the reading of an object ends.
pub(super) enum ObjectError {
    /// The object is wrong; the others are read.
    Point(PointFault),
    /// The body ends.
    Body(BodyError),
}

impl From<PointFault> for ObjectError {
    fn from(fault: PointFault) -> Self {
        Self::Point(fault)
    }
}

impl From<BodyError> for ObjectError {
    fn from(error: BodyError) -> Self {
        Self::Body(error)
    }
}

/// The bytes that name a series for the cache: parts with their lengths, so that no two series have the same.
pub(super) struct SeriesKey<'k> {
    pub(super) bytes: &'k mut Vec<u8>,
}

impl<'k> SeriesKey<'k> {
    /// `agent` sets the keys of one agent apart from those of all other formats.
    pub(super) fn new(bytes: &'k mut Vec<u8>, agent: &[u8]) -> Self {
        bytes.clear();
        bytes.extend_from_slice(agent);
        Self { bytes }
    }

    pub(super) fn push(&mut self, part: &str) {
        self.bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(part.as_bytes());
    }

    /// Bytes of the parts that several series have in common.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets the parts after those.
    pub(super) fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }
}

pub(super) fn text<'a>(node: &Node<'a>) -> Option<&'a str> {
    match *node {
        Node::String(text) => Some(text),
        _ => None,
    }
}

/// The last value of that name, and the nodes after it.
pub(super) fn field<'t, 'a>(tape: &'t [Node<'a>], wanted: &str) -> Option<&'t [Node<'a>]> {
    FieldsOf::new(tape).filter(|(name, _)| *name == wanted).map(|(_, value)| value).last()
}

/// A text that an object must have.
pub(super) fn text_in<'a>(tape: &[Node<'a>], name: &str) -> Option<&'a str> {
    field(tape, name).and_then(|value| text(value.first()?))
}

/// The time in the field of that name; that of arrival if it is absent.
pub(super) fn time_in(tape: &[Node<'_>], name: &'static str) -> Result<Stamp, PointFault> {
    let Some([node, ..]) = field(tape, name) else { return Ok(None) };
    timestamp_of(node, name).map_err(|_| PointFault::Time)
}
