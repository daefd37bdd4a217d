//! JSON of OTLP written again as protobuf, value by value, without a tree in between.
//!
//! So a body can make us allocate in proportion to its bytes only: the shortest JSON of a number has two bytes, and
//! its field nine. The rules are those of ProtoJSON (<https://protobuf.dev/programming-guides/json/>) with OTLP's
//! exceptions: names in lower camel case only, enums as numbers; fields that are not known are ignored.

use std::fmt;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};

use super::super::decimal::magnitude;
use super::super::fault::BodyError;
use super::schema::{Field, Kind, Message, REQUEST};

/// Bytes of the length of a message, which is written after the message: a varint of four bytes.
const LENGTH_BYTES: usize = 4;
/// What a length of that many bytes can say.
const LENGTH_MAX: usize = (1 << (7 * LENGTH_BYTES)) - 1;

/// Wire types.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

/// Adds the request in `body` to `out` as protobuf.
pub(super) fn transcode(body: &[u8], out: &mut Vec<u8>) -> Result<(), BodyError> {
    // Once for the whole, not for each string.
    let text = str::from_utf8(body)
        .map_err(|error| BodyError::Malformed { offset: error.valid_up_to() })?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = MessageSeed { message: &REQUEST, out }.deserialize(&mut reader);
    read.and_then(|_| reader.end()).map_err(|error| {
        let line = error.line().saturating_sub(1);
        let mut lines = memchr::memchr_iter(b'\n', body);
        let start = line.checked_sub(1).and_then(|before| lines.nth(before));
        let offset = start.map_or(0, |end| end + 1) + error.column().saturating_sub(1);
        BodyError::Malformed { offset: offset.min(body.len()) }
    })
}

/// Whether a value was written: null stands for a field that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    Value,
    Null,
}

/// Writes the fields of a message.
struct MessageSeed<'o> {
    message: &'static Message,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = Written;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Written, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_> {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E: Error>(self) -> Result<Written, E> {
        Ok(Written::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Written, A::Error> {
        while let Some(field) = map.next_key_seed(NameSeed(self.message))? {
            match field {
                Some(field) if field.is_repeated => {
                    map.next_value_seed(ListSeed { field, out: &mut *self.out })?;
                }
                Some(field) => {
                    map.next_value_seed(ValueSeed { field, out: &mut *self.out })?;
                }
                None => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(Written::Value)
    }
}

/// Finds the field of a name; None for one that is not known.
struct NameSeed(&'static Message);

impl<'de> DeserializeSeed<'de> for NameSeed {
    type Value = Option<&'static Field>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for NameSeed {
    type Value = Option<&'static Field>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.0.iter().find(|field| field.name == name))
    }
}

/// Writes the values of a repeated field.
struct ListSeed<'o> {
    field: &'static Field,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for ListSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ListSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(written) =
            list.next_element_seed(ValueSeed { field: self.field, out: &mut *self.out })?
        {
            if written == Written::Null {
                return Err(A::Error::invalid_type(Unexpected::Unit, &"a value"));
            }
        }
        Ok(())
    }
}

/// Writes one value of a field.
struct ValueSeed<'o> {
    field: &'static Field,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Written;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Written, D::Error> {
        let Self { field, out } = self;
        let Kind::Message(message) = field.kind else {
            return reader.deserialize_any(Self { field, out });
        };
        let before = out.len();
        push_key(field.number, BYTES, out);
        let start = out.len() + LENGTH_BYTES;
        out.resize(start, 0);
        let written = MessageSeed { message, out: &mut *out }.deserialize(reader)?;
        if written == Written::Null {
            out.truncate(before);
            return Ok(written);
        }
        let length = out.len() - start;
        if length > LENGTH_MAX {
            return Err(D::Error::custom("a message is too long"));
        }
        for place in 0..LENGTH_BYTES {
            let more = if place + 1 < LENGTH_BYTES { 0x80 } else { 0 };
            out[start - LENGTH_BYTES + place] = (length >> (7 * place)) as u8 & 0x7f | more;
        }
        Ok(written)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.field.kind {
            Kind::Message(_) => "an object",
            Kind::Text => "a string",
            Kind::Bytes => "a string of Base64",
            Kind::Bool => "true or false",
            Kind::Double => "a number",
            Kind::Fixed64 | Kind::Unsigned => "an integer that is not negative",
            Kind::SignedFixed64 | Kind::Signed | Kind::Zigzag => "an integer",
        })
    }

    fn visit_unit<E: Error>(self) -> Result<Written, E> {
        Ok(Written::Null)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Written, E> {
        match self.field.kind {
            Kind::Bool => self.varint(u64::from(flag)),
            _ => Err(E::invalid_type(Unexpected::Bool(flag), &self)),
        }
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Written, E> {
        self.integer(i128::from(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Written, E> {
        self.integer(i128::from(number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Written, E> {
        /// Whole numbers up to here are exact.
        const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
        match self.field.kind {
            Kind::Double => self.fixed64(number.to_bits()),
            _ if number.fract() == 0.0 && number.abs() <= WHOLE_MAX => self.integer(number as i128),
            _ => Err(E::invalid_value(Unexpected::Float(number), &self)),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Written, E> {
        let invalid = |seed: &Self| E::invalid_value(Unexpected::Str(text), seed);
        match self.field.kind {
            Kind::Text => self.bytes(text.as_bytes()),
            Kind::Bytes => {
                let standard = BASE64_STANDARD.decode(text);
                match standard.or_else(|_| BASE64_URL_SAFE.decode(text)) {
                    Ok(bytes) => self.bytes(&bytes),
                    Err(_) => Err(invalid(&self)),
                }
            }
            Kind::Double => match text {
                "NaN" => self.fixed64(f64::NAN.to_bits()),
                "Infinity" => self.fixed64(f64::INFINITY.to_bits()),
                "-Infinity" => self.fixed64(f64::NEG_INFINITY.to_bits()),
                _ => match text.parse::<f64>() {
                    Ok(number) if number.is_finite() => self.fixed64(number.to_bits()),
                    _ => Err(invalid(&self)),
                },
            },
            Kind::Message(_) | Kind::Bool => Err(E::invalid_type(Unexpected::Str(text), &self)),
            // Most are moments: digits alone.
            _ => match magnitude(text.as_bytes()).map(i128::from).or_else(|| text.parse().ok()) {
                Some(number) => self.integer(number),
                None => Err(invalid(&self)),
            },
        }
    }
}

impl ValueSeed<'_> {
    fn integer<E: Error>(self, number: i128) -> Result<Written, E> {
        let name = self.field.name;
        let out_of_range = || E::custom(format_args!("`{name}` does not have room for {number}"));
        match self.field.kind {
            Kind::Double => self.fixed64((number as f64).to_bits()),
            Kind::Fixed64 => match u64::try_from(number) {
                Ok(number) => self.fixed64(number),
                Err(_) => Err(out_of_range()),
            },
            Kind::SignedFixed64 => match i64::try_from(number) {
                Ok(number) => self.fixed64(number as u64),
                Err(_) => Err(out_of_range()),
            },
            Kind::Unsigned => match u64::try_from(number) {
                Ok(number) => self.varint(number),
                Err(_) => Err(out_of_range()),
            },
            Kind::Signed => match i64::try_from(number) {
                Ok(number) => self.varint(number as u64),
                Err(_) => Err(out_of_range()),
            },
            Kind::Zigzag => match i32::try_from(number) {
                Ok(number) => self.varint(u64::from((number << 1 ^ number >> 31) as u32)),
                Err(_) => Err(out_of_range()),
            },
            Kind::Message(_) | Kind::Text | Kind::Bytes | Kind::Bool => {
                Err(E::invalid_type(Unexpected::Other("a number"), &self))
            }
        }
    }

    fn varint<E>(self, number: u64) -> Result<Written, E> {
        push_key(self.field.number, VARINT, self.out);
        push_varint(number, self.out);
        Ok(Written::Value)
    }

    fn fixed64<E>(self, bits: u64) -> Result<Written, E> {
        push_key(self.field.number, FIXED64, self.out);
        self.out.extend_from_slice(&bits.to_le_bytes());
        Ok(Written::Value)
    }

    fn bytes<E>(self, bytes: &[u8]) -> Result<Written, E> {
        push_key(self.field.number, BYTES, self.out);
        push_varint(bytes.len() as u64, self.out);
        self.out.extend_from_slice(bytes);
        Ok(Written::Value)
    }
}

fn push_key(number: u32, wire: u32, out: &mut Vec<u8>) {
    push_varint(u64::from(number << 3 | wire), out);
}

fn push_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
