//! The parts of a key: bytes with their length in front, so that two keys are equal only if all their parts are.

use super::super::protobuf::{take_part as take_field, take_varint};
use super::super::series_cache::{is_same, strip};

/// What an attribute begins with in a `NumberDataPoint`.
const ATTRIBUTE_KEY: u8 = 7 << 3 | 2;

/// Adds bytes to a key, with their length in front.
#[inline]
pub(super) fn push_part(part: &[u8], key: &mut Vec<u8>) {
    let mut length = part.len();
    while length >= 0x80 {
        key.push(length as u8 | 0x80);
        length >>= 7;
    }
    key.push(length as u8);
    key.extend_from_slice(part);
}

/// Takes bytes off a key that [`push_part`] has added.
pub(super) fn take_part<'k>(key: &mut &'k [u8]) -> Option<&'k [u8]> {
    if key.is_empty() {
        return None;
    }
    let length = take_varint(key).expect("push_part wrote it");
    let (part, rest) = key.split_at(length as usize);
    *key = rest;
    Some(part)
}

/// Adds the name of a metric behind the attributes of a point.
pub(super) fn push_name(name: &[u8], key: &mut Vec<u8>) {
    key.extend_from_slice(name);
    key.extend_from_slice(&name.len().to_ne_bytes());
}

/// Whether a key is that of a point with those attributes, as fields of its message, of the metric of that name: the
/// name alone if there are none.
#[inline(always)]
pub(super) fn is_of(key: &[u8], attributes: &[u8], name: &[u8]) -> bool {
    if attributes.is_empty() { is_same(key, name) } else { has_attributes(key, attributes, name) }
}

fn has_attributes(mut key: &[u8], mut attributes: &[u8], name: &[u8]) -> bool {
    while let Some((_, after)) = take_field(attributes, ATTRIBUTE_KEY) {
        // In a key as in the message, but for what a field begins with.
        let part = &attributes[1..attributes.len() - after.len()];
        let Some(rest) = strip(key, part) else { return false };
        (key, attributes) = (rest, after);
    }
    let is_end = |rest| rest == name.len().to_ne_bytes();
    attributes.is_empty() && strip(key, name).is_some_and(is_end)
}
