//! The wire format of protocol buffers, read in place: fields of a message, and packed numbers.
//!
//! Knows no message. Allocates nothing, and is as strict as prost, which judges it in tests and under the fuzzer
//! (<https://protobuf.dev/programming-guides/encoding/>).

/// Groups, which nobody sends any more, are skipped to this depth: prost's bound.
const GROUPS_MAX: usize = 100;
/// Bytes of the longest varint.
const VARINT_BYTES_MAX: usize = 10;

/// The bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum FieldValue<'a> {
    Varint(u64),
    Fixed64(u64),
    /// A string, a message, or packed numbers.
    Bytes(&'a [u8]),
    Fixed32(u32),
}

impl<'a> FieldValue<'a> {
    #[inline(always)]
    pub(super) fn bytes(self) -> Result<&'a [u8], Malformed> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(Malformed) }
    }

    #[inline(always)]
    pub(super) fn varint(self) -> Result<u64, Malformed> {
        if let Self::Varint(number) = self { Ok(number) } else { Err(Malformed) }
    }

    #[inline(always)]
    pub(super) fn double(self) -> Result<f64, Malformed> {
        if let Self::Fixed64(bits) = self { Ok(f64::from_bits(bits)) } else { Err(Malformed) }
    }
}

/// The fields of one message, in the order in which they were sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    #[inline(always)]
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The bytes that have not been read.
    #[inline(always)]
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next field and its number; groups are skipped.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Result<Option<(u32, FieldValue<'a>)>, Malformed> {
        while let Some((number, kind)) = self.key()? {
            if let Some(value) = self.value(kind)? {
                return Ok(Some((number, value)));
            }
            self.skip_group(number, GROUPS_MAX)?;
        }
        Ok(None)
    }

    #[inline(always)]
    fn key(&mut self) -> Result<Option<(u32, u8)>, Malformed> {
        // Nearly every key: a field number below 16.
        let key = match *self.rest {
            [] => return Ok(None),
            [key @ ..0x80, ref rest @ ..] => {
                self.rest = rest;
                u32::from(key)
            }
            _ => u32::try_from(take_varint(&mut self.rest)?).map_err(|_| Malformed)?,
        };
        let number = key >> 3;
        if number == 0 { Err(Malformed) } else { Ok(Some((number, key as u8 & 7))) }
    }

    /// None at the start of a group.
    #[inline(always)]
    fn value(&mut self, kind: u8) -> Result<Option<FieldValue<'a>>, Malformed> {
        Ok(Some(match kind {
            0 => FieldValue::Varint(take_varint(&mut self.rest)?),
            1 => FieldValue::Fixed64(take_fixed64(&mut self.rest)?),
            2 => {
                let length = take_varint(&mut self.rest)?;
                let length = usize::try_from(length).map_err(|_| Malformed)?;
                let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
                self.rest = rest;
                FieldValue::Bytes(bytes)
            }
            3 => return Ok(None),
            5 => {
                let (bytes, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
                self.rest = rest;
                FieldValue::Fixed32(u32::from_le_bytes(*bytes))
            }
            _ => return Err(Malformed),
        }))
    }

    #[cold]
    fn skip_group(&mut self, group: u32, depth: usize) -> Result<(), Malformed> {
        const END: u8 = 4;
        let depth = depth.checked_sub(1).ok_or(Malformed)?;
        loop {
            match self.key()?.ok_or(Malformed)? {
                (number, END) if number == group => return Ok(()),
                (number, kind) => {
                    if self.value(kind)?.is_none() {
                        self.skip_group(number, depth)?;
                    }
                }
            }
        }
    }
}

/// Takes a field off the front that has a length, if it begins with `key`: its content, and what follows. None if it has
/// another key, or no end.
#[inline(always)]
pub(super) fn take_part(message: &[u8], key: u8) -> Option<(&[u8], &[u8])> {
    let (first, mut rest) = message.split_first()?;
    if *first != key {
        return None;
    }
    let length = take_varint(&mut rest).ok()?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

/// Takes a varint off the front.
#[inline(always)]
pub(super) fn take_varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    match **bytes {
        [byte @ ..0x80, ref rest @ ..] => {
            *bytes = rest;
            Ok(u64::from(byte))
        }
        [low, high @ ..0x80, ref rest @ ..] => {
            *bytes = rest;
            Ok(u64::from(low & 0x7f) | u64::from(high) << 7)
        }
        _ => take_long_varint(bytes),
    }
}

#[inline]
fn take_long_varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let mut number = 0;
    for (place, &byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        // Bits past the 64th are an overflow.
        if place == VARINT_BYTES_MAX - 1 && byte > 1 {
            return Err(Malformed);
        }
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            *bytes = &bytes[place + 1..];
            return Ok(number);
        }
    }
    Err(Malformed)
}

/// The number of a varint of six bytes; None if it has fewer or more.
#[inline(always)]
pub(super) fn varint_of_six(bytes: [u8; 6]) -> Option<u64> {
    /// In all bytes but the last: more follow.
    const MORE: u64 = 0x0080_8080_8080;
    let [a, b, c, d, e, f] = bytes;
    let number = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
    if number & 0x8080_8080_8080 != MORE {
        return None;
    }
    // Seven bits of each byte, then fourteen of each pair, then twenty-eight of each four.
    let number = number & 0x007f_007f_007f | (number & 0x7f00_7f00_7f00) >> 1;
    let number = number & 0x3fff_0000_3fff | (number & 0x3fff_0000) >> 2;
    Some(number & 0x0fff_ffff | (number >> 32) << 28)
}

/// Takes eight bytes off the front.
#[inline(always)]
pub(super) fn take_fixed64(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let (taken, rest) = bytes.split_first_chunk().ok_or(Malformed)?;
    *bytes = rest;
    Ok(u64::from_le_bytes(*taken))
}

/// The number of a `sint32` or `sint64`: signs in the lowest bit.
#[inline(always)]
pub(super) fn zigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// Calls `each` with the numbers of a repeated varint field, packed or alone.
#[inline(always)]
pub(super) fn each_varint(
    value: FieldValue<'_>,
    mut each: impl FnMut(u64),
) -> Result<(), Malformed> {
    match value {
        FieldValue::Varint(number) => each(number),
        FieldValue::Bytes(mut packed) => {
            while !packed.is_empty() {
                each(take_varint(&mut packed)?);
            }
        }
        FieldValue::Fixed64(_) | FieldValue::Fixed32(_) => return Err(Malformed),
    }
    Ok(())
}

/// The same for a repeated field of doubles.
#[inline(always)]
pub(super) fn each_double(
    value: FieldValue<'_>,
    mut each: impl FnMut(f64),
) -> Result<(), Malformed> {
    match value {
        FieldValue::Fixed64(bits) => each(f64::from_bits(bits)),
        FieldValue::Bytes(mut packed) => {
            while !packed.is_empty() {
                each(f64::from_bits(take_fixed64(&mut packed)?));
            }
        }
        FieldValue::Varint(_) | FieldValue::Fixed32(_) => return Err(Malformed),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(bytes: &[u8]) -> Result<(u64, usize), Malformed> {
        let mut rest = bytes;
        let number = take_varint(&mut rest)?;
        Ok((number, bytes.len() - rest.len()))
    }

    #[test]
    fn varints_have_at_most_64_bits() {
        for (bytes, expected) in [
            (&[0][..], Ok((0, 1))),
            (&[0x7f, 0xff], Ok((127, 1))),
            (&[0x80, 0x01], Ok((128, 2))),
            (&[0xff, 0xff, 0x03], Ok((65_535, 3))),
            (&[0x80, 0x00], Ok((0, 2))),
            (&[0xff; 9], Err(Malformed)),
            (&[], Err(Malformed)),
        ] {
            assert_eq!(varint(bytes), expected, "{bytes:?}");
        }
        let mut most = [0xff; 10];
        most[9] = 1;
        assert_eq!(varint(&most), Ok((u64::MAX, 10)));
        most[9] = 2;
        assert_eq!(varint(&most), Err(Malformed));
        assert_eq!(varint(&[0x80; 11]), Err(Malformed));
    }

    #[test]
    fn six_bytes_are_read_at_once() {
        for number in [1 << 35, 1_735_100_000_123, (1 << 42) - 1, 0x155_5555_5555, 0x2aa_aaaa_aaaa]
        {
            let byte = |place: u32| (number >> (7 * place)) as u8 & 0x7f | 0x80;
            let mut bytes: [u8; 6] = std::array::from_fn(|place| byte(place as u32));
            assert_eq!(varint_of_six(bytes), None, "a seventh follows");
            bytes[5] &= 0x7f;
            assert_eq!(varint_of_six(bytes), Some(number));
            assert_eq!(varint(&bytes), Ok((number, 6)));
            bytes[2] &= 0x7f;
            assert_eq!(varint_of_six(bytes), None, "three bytes");
        }
    }

    #[test]
    fn zigzag_numbers_have_signs() {
        for (coded, number) in
            [(0, 0), (1, -1), (2, 1), (u64::MAX, i64::MIN), (u64::MAX - 1, i64::MAX)]
        {
            assert_eq!(zigzag(coded), number);
        }
    }

    #[test]
    fn fields_are_read_and_groups_are_skipped() {
        // 1: varint 150; group 2 { 1: fixed32, group 3 {} }; 4: "ab"; 5: fixed64.
        let mut message = vec![0x08, 0x96, 0x01, 0x13, 0x0d, 1, 2, 3, 4, 0x1b, 0x1c, 0x14, 0x22, 2];
        message.extend_from_slice(b"ab");
        message.push(0x29);
        message.extend_from_slice(&1.5_f64.to_le_bytes());
        let mut fields = Fields::new(&message);
        assert_eq!(fields.next(), Ok(Some((1, FieldValue::Varint(150)))));
        assert_eq!(fields.next(), Ok(Some((4, FieldValue::Bytes(b"ab")))));
        let (number, value) = fields.next().expect("good").expect("a field");
        assert_eq!((number, value.double()), (5, Ok(1.5)));
        assert_eq!(fields.next(), Ok(None));
        for end in [1, 2, 4, 6, 10, 11, 13, 15, 17, 24] {
            let mut fields = Fields::new(&message[..end]);
            let error = loop {
                match fields.next() {
                    Ok(Some(_)) => {}
                    other => break other,
                }
            };
            assert_eq!(error, Err(Malformed), "{end}");
        }
    }

    #[test]
    fn what_is_no_field_is_malformed() {
        for message in [
            &[0x00, 0x00][..],                           // field 0
            &[0x0e],                                     // wire type 6
            &[0x0c],                                     // the end of a group
            &[0x0b, 0x14],                               // the end of another one
            &[0xf8, 0xff, 0xff, 0xff, 0xff, 0x01, 0],    // a key of more than 32 bits
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], // a length past the end
        ] {
            assert_eq!(Fields::new(message).next(), Err(Malformed), "{message:?}");
        }
        let nested = |depth| [vec![0x0b; depth], vec![0x0c; depth]].concat();
        assert_eq!(Fields::new(&nested(GROUPS_MAX)).next(), Ok(None));
        assert_eq!(Fields::new(&nested(GROUPS_MAX + 1)).next(), Err(Malformed));
    }

    #[test]
    fn a_part_is_taken_by_its_key_alone() {
        for (message, key, expected) in [
            (&b"\x0a\x02abc"[..], 0x0a, Some((&b"ab"[..], &b"c"[..]))),
            (b"\x0a\x00", 0x0a, Some((b"", b""))),
            (b"\x12\x02abc", 0x0a, None),
            (b"\x0a\x02a", 0x0a, None),
            (b"\x0a\x80", 0x0a, None),
            (b"\x0a", 0x0a, None),
            (b"", 0x0a, None),
        ] {
            assert_eq!(take_part(message, key), expected, "{message:?}");
        }
    }
}
