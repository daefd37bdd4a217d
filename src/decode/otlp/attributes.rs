//! Attributes of resources and points: `KeyValue` messages, with values as the text of a label.
//!
//! A text is taken as it is; other values are written as the Collector's Prometheus exporters write them: lists and
//! maps as JSON, bytes as Base64 (<https://opentelemetry.io/docs/specs/otel/common/#anyvalue>).

use std::fmt::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;

use super::super::fault::PointFault;
use super::super::protobuf::{FieldValue, Fields, Malformed};
use sigmad_sample::METRIC_BYTES_MAX;

/// Lists in lists, and maps in maps: nobody groups by what is deeper.
const DEPTH_MAX: usize = 8;

/// Not a message, or too deep.
const MALFORMED: PointFault =
    PointFault::Syntax("an attribute is malformed, or its value has more than 8 levels");

impl From<Malformed> for PointFault {
    fn from(_: Malformed) -> Self {
        MALFORMED
    }
}

/// A `KeyValue`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Attribute<'a> {
    pub(super) key: &'a [u8],
    value: AnyValue<'a>,
}

/// An `AnyValue`; of several values in one message the last counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum AnyValue<'a> {
    #[default]
    Empty,
    Text(&'a [u8]),
    Bool(bool),
    Int(i64),
    Double(f64),
    Bytes(&'a [u8]),
    /// An `ArrayValue`.
    List(&'a [u8]),
    /// A `KeyValueList`.
    Map(&'a [u8]),
}

impl<'a> Attribute<'a> {
    pub(super) fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut attribute = Self { key: &[], value: AnyValue::Empty };
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => attribute.key = value.bytes()?,
                2 => attribute.value = attribute.value.merge(value.bytes()?)?,
                _ => {}
            }
        }
        Ok(attribute)
    }

    /// The text of the value; `text` is memory for one that must be written.
    pub(super) fn value<'t>(&'t self, text: &'t mut String) -> Result<&'t [u8], PointFault> {
        text.clear();
        match self.value {
            AnyValue::Text(bytes) => return Ok(bytes),
            AnyValue::Empty => {}
            AnyValue::Bytes(bytes) => write_base64(bytes, text)?,
            other => other.write(text, DEPTH_MAX)?,
        }
        Ok(text.as_bytes())
    }
}

impl<'a> AnyValue<'a> {
    /// What this value becomes when `message` follows it. Lists and maps would join; nobody sends such parts, and
    /// the last one counts.
    fn merge(self, message: &'a [u8]) -> Result<Self, Malformed> {
        let mut merged = self;
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            merged = match (number, value) {
                (1, value) => Self::Text(value.bytes()?),
                (2, value) => Self::Bool(value.varint()? != 0),
                (3, value) => Self::Int(value.varint()? as i64),
                (4, FieldValue::Fixed64(bits)) => Self::Double(f64::from_bits(bits)),
                (5, value) => Self::List(value.bytes()?),
                (6, value) => Self::Map(value.bytes()?),
                (7, value) => Self::Bytes(value.bytes()?),
                (4, _) => return Err(Malformed),
                _ => merged,
            };
        }
        Ok(merged)
    }

    /// Writes the value as JSON.
    fn write(self, text: &mut String, depth: usize) -> Result<(), PointFault> {
        check_length(text.len())?;
        match self {
            Self::Empty => text.push_str("null"),
            Self::Text(bytes) => write_string(bytes, text)?,
            Self::Bytes(bytes) => {
                text.push('"');
                write_base64(bytes, text)?;
                text.push('"');
            }
            Self::Bool(flag) => text.push_str(if flag { "true" } else { "false" }),
            Self::Int(number) => write!(text, "{number}").expect("a String takes all"),
            Self::Double(number) => write!(text, "{number}").expect("a String takes all"),
            Self::List(message) => {
                text.push('[');
                each(message, depth, |message, depth| {
                    separate(text);
                    Self::Empty.merge(message)?.write(text, depth)
                })?;
                text.push(']');
            }
            Self::Map(message) => {
                text.push('{');
                each(message, depth, |message, depth| {
                    separate(text);
                    let entry = Attribute::read(message)?;
                    write_string(entry.key, text)?;
                    text.push(':');
                    entry.value.write(text, depth)
                })?;
                text.push('}');
            }
        }
        Ok(())
    }
}

/// Calls `write` with each value of a list, or entry of a map.
fn each(
    message: &[u8],
    depth: usize,
    mut write: impl FnMut(&[u8], usize) -> Result<(), PointFault>,
) -> Result<(), PointFault> {
    let depth = depth.checked_sub(1).ok_or(MALFORMED)?;
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next()? {
        if number == 1 {
            write(value.bytes()?, depth)?;
        }
    }
    Ok(())
}

/// A comma, unless the list or the map has just begun.
fn separate(text: &mut String) {
    if !text.ends_with(['[', '{']) {
        text.push(',');
    }
}

fn write_string(bytes: &[u8], text: &mut String) -> Result<(), PointFault> {
    check_length(bytes.len())?;
    let string = str::from_utf8(bytes).map_err(|_| PointFault::NotUtf8)?;
    text.push_str(&serde_json::Value::from(string).to_string());
    Ok(())
}

/// Base64 with padding.
fn write_base64(bytes: &[u8], text: &mut String) -> Result<(), PointFault> {
    check_length(bytes.len())?;
    STANDARD.encode_string(bytes, text);
    Ok(())
}

/// A longer text makes a series that is refused; it is not written first.
fn check_length(length: usize) -> Result<(), PointFault> {
    if length > METRIC_BYTES_MAX { Err(PointFault::SeriesTooLong) } else { Ok(()) }
}
