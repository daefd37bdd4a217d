//! The parts of a key: bytes with their length in front, so that two keys are equal only if all their parts are.

use super::super::protobuf::take_varint;

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
