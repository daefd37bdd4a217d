//! The usual sample, read at a glance.
//!
//! One object of plain strings (printable ASCII without escapes) and numbers, with nothing wrong in
//! it. Anything else is "unusual", and simd-json decides (see [`super::tape`]): so nothing is refused
//! here, and the two agree on everything that is accepted.
//!
//! Bytes are looked at eight at a time, as a little-endian word: the first byte of the text is the
//! lowest of the word.

use smallvec::SmallVec;

use super::fields::Fields;
use super::names::MetricCache;
use super::timestamp;
use crate::registry::mask_of;
use crate::sample::{MetricId, NAME_BYTES_MAX, READINGS_MAX, VALUE_MAX};

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;
const LOWS: u64 = !HIGHS;

/// Integers below it are exact as f64.
const EXACT_BELOW: u64 = 1 << 53;
/// Powers of ten that are exact as f64: an exact integer divided by one is rounded once, as the
/// decimal itself would be (Clinger's fast path).
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];
const INTEGER_POWERS: [u64; 9] =
    [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];
/// Digits that a u64 always holds.
const DIGITS_MAX: usize = 19;
const _: () = assert!(DIGITS_MAX < POWERS.len());
/// Ignored fields whose names are remembered, to see whether one of them comes twice.
const IGNORED_MAX: usize = 16;

enum Key<'a> {
    Metric(MetricId),
    Timestamp,
    Device,
    Other(&'a [u8]),
}

/// A number in the text.
enum Number {
    /// `digits / 10^decimals`, and its sign; whole when `decimals` is 0.
    Decimal { negative: bool, digits: u64, decimals: usize },
    /// With an exponent, or too many digits.
    Float(f64),
}

impl Number {
    #[inline(always)]
    fn value(&self, text: &[u8]) -> Option<f64> {
        match *self {
            Self::Decimal { negative, digits, decimals } if digits < EXACT_BELOW => {
                let magnitude = digits as f64 / POWERS[decimals];
                Some(if negative { -magnitude } else { magnitude })
            }
            Self::Decimal { .. } => parse_float(text),
            Self::Float(value) => Some(value),
        }
    }
}

#[cold]
fn parse_float(text: &[u8]) -> Option<f64> {
    str::from_utf8(text).ok()?.parse().ok()
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

/// Reads the object that opens at `start`; says where it ends, or None when it is unusual.
#[inline]
pub(super) fn scan<'a>(
    text: &'a [u8],
    start: usize,
    metrics: &MetricCache,
    fields: &mut Fields<'a>,
) -> Option<usize> {
    let mut scanner = Scanner { text, at: start };
    let mut has_timestamp = false;
    let mut ignored: SmallVec<[&[u8]; IGNORED_MAX]> = SmallVec::new();
    if scanner.next()? != b'{' {
        return None;
    }
    scanner.skip_space();
    loop {
        let key = scanner.key()?;
        scanner.skip_space();
        match key {
            Key::Metric(id) => {
                let value = scanner.number()?;
                if value.is_sign_negative() && value != 0.0 {
                    return None;
                }
                fields.add_known(id, value)?;
            }
            Key::Timestamp => {
                if std::mem::replace(&mut has_timestamp, true) {
                    return None;
                }
                fields.timestamp_us = scanner.timestamp()?;
            }
            Key::Device => {
                let device = scanner.string()?;
                if fields.device.is_some() || !(1..=NAME_BYTES_MAX).contains(&device.len()) {
                    return None;
                }
                fields.device = Some(device);
            }
            Key::Other(name) => {
                let known = metrics.find(name);
                let is_known_twice = known.is_some_and(|id| fields.metrics_mask & mask_of(id) != 0);
                if is_known_twice || ignored.contains(&name) {
                    return None;
                }
                if scanner.peek()? == b'"' {
                    scanner.string()?;
                    if fields.names.contains(&name) || ignored.len() == IGNORED_MAX {
                        return None;
                    }
                    ignored.push(name);
                } else {
                    let value = scanner.number()?;
                    fields.add(name, known, value)?;
                }
            }
        }
        scanner.skip_space();
        match scanner.next()? {
            b',' => scanner.skip_space(),
            b'}' => break,
            _ => return None,
        }
    }
    (!fields.readings.is_empty()).then_some(scanner.at)
}

impl<'a> Fields<'a> {
    #[inline(always)]
    fn add_known(&mut self, id: MetricId, value: f64) -> Option<()> {
        let bit = mask_of(id);
        if self.metrics_mask & bit != 0 {
            return None;
        }
        self.metrics_mask |= bit;
        self.keep(b"", Some(id), value)
    }

    #[inline]
    fn add(&mut self, name: &'a [u8], known: Option<MetricId>, value: f64) -> Option<()> {
        match known {
            Some(id) if mask_of(id) != 0 => return self.add_known(id, value),
            _ if self.names.contains(&name) => return None,
            _ => self.all_masked = false,
        }
        if !(1..=NAME_BYTES_MAX).contains(&name.len()) {
            return None;
        }
        self.keep(name, known, value)
    }

    #[inline(always)]
    fn keep(&mut self, name: &'a [u8], known: Option<MetricId>, value: f64) -> Option<()> {
        if value.abs() > VALUE_MAX || self.readings.len() == READINGS_MAX {
            return None;
        }
        self.push(name, known, value);
        Some(())
    }
}

impl<'a> Scanner<'a> {
    #[inline(always)]
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    #[inline(always)]
    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    #[inline(always)]
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// The eight bytes at `at`; zeros past the end.
    #[inline(always)]
    fn word(&self, at: usize) -> u64 {
        match self.text.get(at..).and_then(|rest| rest.first_chunk()) {
            Some(bytes) => u64::from_le_bytes(*bytes),
            None => self.last_word(at),
        }
    }

    fn last_word(&self, at: usize) -> u64 {
        let rest = self.text.get(at..).unwrap_or_default();
        match self.text.last_chunk() {
            // As the end of the last eight bytes, without a loop.
            Some(bytes) if !rest.is_empty() => u64::from_le_bytes(*bytes) >> (64 - 8 * rest.len()),
            _ => rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
        }
    }

    /// The key at hand, and the colon after it.
    #[inline(always)]
    fn key(&mut self) -> Option<Key<'a>> {
        const CPU: u64 = u64::from_le_bytes(*b"\"cpu\":\0\0");
        const RPS: u64 = u64::from_le_bytes(*b"\"rps\":\0\0");
        const SIX_BYTES: u64 = (1 << 48) - 1;
        let word = self.word(self.at);
        if word & SIX_BYTES == CPU {
            self.at += 6;
            return Some(Key::Metric(MetricId::CPU));
        }
        if word & SIX_BYTES == RPS {
            self.at += 6;
            return Some(Key::Metric(MetricId::RPS));
        }
        if word == u64::from_le_bytes(*b"\"timesta")
            && self.word(self.at + 8) as u32 == u32::from_le_bytes(*b"mp\":")
        {
            self.at += 12;
            return Some(Key::Timestamp);
        }
        if word == u64::from_le_bytes(*b"\"device\"") && self.text.get(self.at + 8) == Some(&b':') {
            self.at += 9;
            return Some(Key::Device);
        }
        let name = self.string()?;
        self.skip_space();
        if self.next()? != b':' {
            return None;
        }
        Some(match name {
            b"cpu" => Key::Metric(MetricId::CPU),
            b"rps" => Key::Metric(MetricId::RPS),
            b"timestamp" => Key::Timestamp,
            b"device" | b"device_id" => Key::Device,
            _ => Key::Other(name),
        })
    }

    /// The string at hand, when it is plain.
    #[inline(always)]
    fn string(&mut self) -> Option<&'a [u8]> {
        if self.next()? != b'"' {
            return None;
        }
        let start = self.at;
        loop {
            let special = not_plain(self.word(self.at));
            if special != 0 {
                self.at += special.trailing_zeros() as usize / 8;
                break;
            }
            self.at += 8;
        }
        let string = self.text.get(start..self.at)?;
        (self.next()? == b'"').then_some(string)
    }

    #[inline(always)]
    fn timestamp(&mut self) -> Option<timestamp::Stamp> {
        if self.peek()? == b'"' {
            let text = str::from_utf8(self.string()?).ok()?;
            return timestamp::from_text(text)?.ok();
        }
        let start = self.at;
        let number = self.decimal()?;
        let stamp = match number {
            Number::Decimal { negative: false, digits, decimals: 0 } => {
                timestamp::from_integer(digits)
            }
            number => timestamp::from_float(number.value(&self.text[start..self.at])?),
        };
        stamp.ok()
    }

    #[inline(always)]
    fn number(&mut self) -> Option<f64> {
        let start = self.at;
        let number = self.decimal()?;
        number.value(&self.text[start..self.at])
    }

    #[inline(always)]
    fn decimal(&mut self) -> Option<Number> {
        let start = self.at;
        let negative = self.peek()? == b'-';
        self.at += usize::from(negative);
        let has_leading_zero = self.peek()? == b'0';
        let mut digits = 0;
        let whole = self.digits(&mut digits);
        if whole == 0 || has_leading_zero && whole > 1 {
            return None;
        }
        let mut decimals = 0;
        if self.peek() == Some(b'.') {
            self.at += 1;
            decimals = self.digits(&mut digits);
            if decimals == 0 {
                return None;
            }
        }
        if whole + decimals > DIGITS_MAX || matches!(self.peek(), Some(b'e' | b'E')) {
            self.at = number_end(self.text, start)?;
            return parse_float(&self.text[start..self.at]).map(Number::Float);
        }
        Some(Number::Decimal { negative, digits, decimals })
    }

    /// Appends the digits at hand to `number`; says how many. Past [`DIGITS_MAX`] the number is
    /// meaningless.
    #[inline(always)]
    fn digits(&mut self, number: &mut u64) -> usize {
        let mut total = 0;
        loop {
            let word = self.word(self.at);
            let count = digits_in(word);
            if count != 0 {
                let shifted = word << (64 - 8 * count);
                *number =
                    number.wrapping_mul(INTEGER_POWERS[count]).wrapping_add(to_number(shifted));
            }
            self.at += count;
            total += count;
            if count < 8 {
                return total;
            }
        }
    }
}

/// A high bit for each byte that can't stand in a plain string, and for the quote that ends it.
#[inline(always)]
fn not_plain(word: u64) -> u64 {
    // No sum or difference here leaves its byte.
    let from_del_on = ((word & LOWS) + ONES) | word;
    let controls = !((word | HIGHS) - ONES * 0x20);
    (from_del_on | controls | equal(word, b'"') | equal(word, b'\\')) & HIGHS
}

#[inline(always)]
fn equal(word: u64, byte: u8) -> u64 {
    let differing = word ^ (ONES * byte as u64);
    !(((differing & LOWS) + LOWS) | differing)
}

/// How many bytes from the first on are digits.
#[inline(always)]
fn digits_in(word: u64) -> usize {
    let values = word ^ (ONES * b'0' as u64);
    let others = (((values & LOWS) + ONES * (0x80 - 10)) | values) & HIGHS;
    others.trailing_zeros() as usize / 8
}

/// The number that eight digits spell. Bytes that are 0 count as the digit 0.
#[inline(always)]
fn to_number(word: u64) -> u64 {
    let digits = word & (ONES * 0x0F);
    // Pairs, then fours, then all eight: each step multiplies and adds in all lanes at once.
    let pairs = digits * 10 + (digits >> 8);
    let lane = 0x0000_00FF_0000_00FF;
    let high = (pairs & lane).wrapping_mul(0x000F_4240_0000_0064);
    let low = ((pairs >> 16) & lane).wrapping_mul(0x0000_2710_0000_0001);
    high.wrapping_add(low) >> 32
}

/// Where the JSON number that starts at `at` ends, None when there is none.
pub(super) fn number_end(text: &[u8], at: usize) -> Option<usize> {
    let byte = |at: usize| text.get(at).copied().unwrap_or_default();
    let digits = |mut at: usize| {
        while byte(at).is_ascii_digit() {
            at += 1;
        }
        at
    };
    let whole = at + usize::from(byte(at) == b'-');
    let mut end = if byte(whole) == b'0' { whole + 1 } else { digits(whole) };
    if end == whole {
        return None;
    }
    if byte(end) == b'.' {
        let decimals = end + 1;
        end = digits(decimals);
        if end == decimals {
            return None;
        }
    }
    if let b'e' | b'E' = byte(end) {
        let exponent = end + 1 + usize::from(matches!(byte(end + 1), b'+' | b'-'));
        end = digits(exponent);
        if end == exponent {
            return None;
        }
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Option<f64> {
        let mut scanner = Scanner { text: text.as_bytes(), at: 0 };
        scanner.number().filter(|_| scanner.at == text.len())
    }

    #[test]
    fn numbers_are_exact_at_every_length() {
        for text in [
            "0",
            "-0",
            "7",
            "12",
            "123",
            "1234567",
            "12345678",
            "123456789",
            "1234567890123456",
            "9007199254740991",
            "9007199254740993",
            "1234567890123456789",
            "12345678901234567890",
            "0.1",
            "60.5",
            "-60.5",
            "0.0001",
            "123.456789012",
            "12345678.12345678",
            "1e3",
            "1E-7",
            "1.5e+10",
            "0.1234567890123456789012",
            "1735100000.1234567",
        ] {
            assert_eq!(number(text), text.parse().ok(), "{text}");
        }
        for text in
            ["", "-", "00", "01", "-01", "1.", ".5", "1e", "1e+", "+1", "0x1", "1.e3", "--1"]
        {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn a_plain_string_holds_printable_ascii() {
        for byte in 0..=255_u8 {
            let is_plain = (0x20..0x7F).contains(&byte) && byte != b'"' && byte != b'\\';
            for lane in 0..8 {
                let mut bytes = *b"abcdefgh";
                bytes[lane] = byte;
                let special = not_plain(u64::from_le_bytes(bytes));
                let expected = if is_plain { 0 } else { 0x80 << (8 * lane) };
                assert_eq!(special, expected, "{byte} in {lane}");
            }
        }
    }

    #[test]
    fn the_last_word_ends_in_zeros() {
        let text = b"0123456789";
        for end in 0..=text.len() {
            let scanner = Scanner { text: &text[..end], at: 0 };
            for at in 0..=end + 1 {
                let mut bytes = [0; 8];
                let rest = text[..end].get(at..).unwrap_or_default();
                let count = rest.len().min(8);
                bytes[..count].copy_from_slice(&rest[..count]);
                assert_eq!(scanner.word(at), u64::from_le_bytes(bytes));
            }
        }
    }
}
