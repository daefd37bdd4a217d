//! Plain strings and short numbers: what the usual sample consists of.
//!
//! Bytes are read eight at a time as a little-endian word: the first byte of the text is the lowest.

use super::number::number_end;
use super::skip;
use sigmad_sample::timestamp;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;
const LOWS: u64 = !HIGHS;

/// Longest number read here. 15 digits and a point are below 2^53, so exact as f64; 16 digits without a
/// point are rounded once, as the text itself would be. Microseconds have 16 digits.
pub(super) const SHORT_BYTES: usize = 16;
/// Bytes of a word.
pub(super) const WORD_BYTES: usize = 8;
/// Exact as f64: dividing an exact number by one of them rounds once (Clinger's fast path).
const POWERS: [f64; SHORT_BYTES] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// Skips white space, of which there mostly is none.
#[inline(always)]
pub(super) fn skip_space(text: &[u8], at: usize) -> usize {
    match text.get(at) {
        Some(..=b' ') => skip::skip_space(text, at),
        _ => at,
    }
}

/// The byte at `at`; 0, which JSON never contains, past the end.
#[inline(always)]
pub(super) fn byte_at(text: &[u8], at: usize) -> u8 {
    text.get(at).copied().unwrap_or_default()
}

/// The eight bytes at `at`; zeros past the end.
#[inline(always)]
pub(super) fn word_at(text: &[u8], at: usize) -> u64 {
    match bytes_at(text, at) {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => last_word(text, at) as u64,
    }
}

/// The 16 bytes at `at`; zeros past the end.
#[inline(always)]
pub(super) fn wide_word_at(text: &[u8], at: usize) -> u128 {
    match bytes_at(text, at) {
        Some(bytes) => u128::from_le_bytes(*bytes),
        None => last_word(text, at),
    }
}

/// Bytes that are all there: one comparison.
#[inline(always)]
fn bytes_at<const N: usize>(text: &[u8], at: usize) -> Option<&[u8; N]> {
    text.get(at..at.checked_add(N)?)?.first_chunk()
}

#[inline(never)]
fn last_word(text: &[u8], at: usize) -> u128 {
    let rest = text.get(at..).unwrap_or_default();
    match text.last_chunk() {
        // The end of the last sixteen bytes, without a loop.
        Some(bytes) if !rest.is_empty() => u128::from_le_bytes(*bytes) >> (128 - 8 * rest.len()),
        _ => rest.iter().rev().fold(0, |word, &byte| word << 8 | u128::from(byte)),
    }
}

/// The string at `at`, if it is plain, and the index after it.
#[inline(always)]
pub(super) fn string_at(text: &[u8], at: usize) -> Option<(&[u8], usize)> {
    if text.get(at) != Some(&b'"') {
        return None;
    }
    let start = at + 1;
    let mut end = start;
    loop {
        let special = not_plain(word_at(text, end));
        if special != 0 {
            end += special.trailing_zeros() as usize / 8;
            break;
        }
        end += 8;
    }
    (text.get(end) == Some(&b'"')).then(|| (&text[start..end], end + 1))
}

/// A timestamp of digits alone, as most are.
#[inline(always)]
pub(super) fn whole_timestamp_at(text: &[u8], at: usize) -> Option<(timestamp::Stamp, usize)> {
    let (number, end) = whole_number_at(text, at)?;
    Some((timestamp::from_integer(number).ok()?, end))
}

#[inline(always)]
pub(super) fn timestamp_at(text: &[u8], at: usize) -> Option<(timestamp::Stamp, usize)> {
    if let Some(whole) = whole_timestamp_at(text, at) {
        return Some(whole);
    }
    if text.get(at) == Some(&b'"') {
        let (string, end) = string_at(text, at)?;
        let stamp = timestamp::from_text(str::from_utf8(string).ok()?)?;
        return Some((stamp.ok()?, end));
    }
    let (number, end) = number_at::<true>(text, at)?;
    let stamp = match number {
        Number::Decimal { digits, decimals: 0, negative: false } => {
            timestamp::from_integer(digits as u64)
        }
        // Nanoseconds have 19 digits.
        Number::Long(_) if let Ok(whole) = str::from_utf8(&text[at..end]).ok()?.parse() => {
            timestamp::from_integer(whole)
        }
        number => timestamp::from_float(number.value()),
    };
    Some((stamp.ok()?, end))
}

pub(super) enum Number {
    /// `digits / 10^decimals`, and its sign: at most [`SHORT_BYTES`] long.
    Decimal { negative: bool, digits: i64, decimals: usize },
    /// With an exponent, or longer.
    Long(f64),
}

impl Number {
    #[inline(always)]
    pub(super) fn value(self) -> f64 {
        match self {
            Self::Decimal { negative, digits, decimals } => {
                let digits = digits as f64;
                // The only rounding: without decimals of the conversion, else of the division.
                let magnitude = if decimals == 0 { digits } else { digits / POWERS[decimals] };
                if negative { -magnitude } else { magnitude }
            }
            Self::Long(value) => value,
        }
    }
}

/// The number at `at`, and its end.
///
/// If `IS_LONG`, numbers are usually long, and the first eight digits are read at once; else those with their point.
#[inline(always)]
pub(super) fn number_at<const IS_LONG: bool>(text: &[u8], start: usize) -> Option<(Number, usize)> {
    if !IS_LONG {
        let (mut at, mut word) = (start, word_at(text, start));
        let negative = word as u8 == b'-';
        if negative {
            at += 1;
            word = word_at(text, at);
        }
        if let Some((digits, decimals, bytes)) = short_number(word) {
            return Some((Number::Decimal { negative, digits, decimals }, at + bytes));
        }
    }
    any_number_at::<IS_LONG>(text, start)
}

/// The number that a word begins with: its digits, how many of them are decimals, and its bytes. None for one that is not
/// whole in the word, has an exponent, or is none.
#[inline(always)]
fn short_number(word: u64) -> Option<(i64, usize, usize)> {
    let others = not_digits(word);
    // The index of the first other byte, in bits.
    let whole = others.trailing_zeros() & !7;
    if others == 0 || whole == 0 || word as u8 == b'0' && whole > 8 {
        return None;
    }
    if (word >> whole) as u8 != b'.' {
        return ends_number(word >> whole)
            .then(|| (first_digits(word, whole), 0, whole as usize / 8));
    }
    let others = others & (others - 1);
    let end = others.trailing_zeros() & !7;
    let decimals = (end - whole) / 8 - 1;
    if others == 0 || decimals == 0 || !ends_number(word >> end) {
        return None;
    }
    let digits = first_digits(without_byte(word, whole), end - 8);
    Some((digits, decimals as usize, end as usize / 8))
}

/// Whether a number without an exponent may end before this byte.
#[inline(always)]
fn ends_number(next: u64) -> bool {
    next as u8 | 0x20 != b'e'
}

/// The value of the digits in the first `bits` of a word: at least one.
#[inline(always)]
fn first_digits(word: u64, bits: u32) -> i64 {
    to_number(word << (64 - bits)) as i64
}

/// The number at `at` and its end, if it has at most [`SHORT_BYTES`] digits and nothing else.
#[inline(always)]
fn whole_number_at(text: &[u8], at: usize) -> Option<(u64, usize)> {
    let word = wide_word_at(text, at);
    let (first, second) = (not_digits(word as u64), not_digits((word >> 64) as u64));
    // Without another byte the count of zeros is that of all bits.
    let digits = match first {
        0 => 8 + second.trailing_zeros() as usize / 8,
        _ => first.trailing_zeros() as usize / 8,
    };
    let next = byte_at(text, at + digits);
    let goes_on = next.is_ascii_digit() || next == b'.' || !ends_number(next.into());
    if digits == 0 || word as u8 == b'0' && digits > 1 || goes_on {
        return None;
    }
    Some((digits_of(word, digits), at + digits))
}

/// The value of the first digits of a word.
#[inline(always)]
fn digits_of(word: u128, digits: usize) -> u64 {
    // The digits stand at the end, behind zeros.
    let word = word << (8 * (SHORT_BYTES - digits));
    to_number(word as u64) * 100_000_000 + to_number((word >> 64) as u64)
}

/// How to read a number whose lengths are known from the word that ends with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct DecimalForm {
    /// The bits of the digits before a point, and of those after it, or of all.
    before_point: u64,
    others: u64,
    /// What the digits are divided by.
    power: f64,
}

impl DecimalForm {
    /// For so many digits before and after the point, [`WORD_BYTES`] with it at most.
    pub(super) fn new(whole: usize, decimals: usize) -> Self {
        let (before_point, others) = match decimals {
            0 => (0, last_digits(whole, 0)),
            _ => (last_digits(whole, decimals + 1), last_digits(decimals, 0)),
        };
        Self { before_point, others, power: POWERS[decimals] }
    }

    /// The number that ends at `end`, which is a number of this form.
    #[inline(always)]
    pub(super) fn value(self, text: &[u8], end: usize) -> f64 {
        let word = word_before(text, end);
        let digits = word & self.others | (word & self.before_point) << 8;
        // Exact but for the division, as in `Number::value`.
        value_of(digits) as f64 / self.power
    }
}

/// The same for digits alone, [`SHORT_BYTES`] at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct LongForm {
    /// The bits of the digits in the word before the last one, and in that.
    first: u64,
    last: u64,
}

impl LongForm {
    pub(super) fn new(digits: usize) -> Self {
        let in_last = digits.min(WORD_BYTES);
        Self { first: last_digits(digits - in_last, 0), last: last_digits(in_last, 0) }
    }

    /// The number that ends at `end`, which is a number of this form.
    #[inline(always)]
    pub(super) fn value(self, text: &[u8], end: usize) -> i64 {
        let first = word_before(text, end - WORD_BYTES) & self.first;
        let last = word_before(text, end) & self.last;
        (value_of(first) * 100_000_000 + value_of(last)) as i64
    }
}

/// The word that ends at `end`; 0 where there is none.
#[inline(always)]
fn word_before(text: &[u8], end: usize) -> u64 {
    let bytes = text.get(..end).and_then(|before| before.last_chunk());
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The bits that tell a digit from others, of so many digits with so many bytes after them, in a word that ends there.
fn last_digits(digits: usize, after: usize) -> u64 {
    let kept = |shift: usize, bits: u64| bits.checked_shl(8 * shift as u32).unwrap_or(0);
    kept(WORD_BYTES - digits, ONES * 0x0F) >> (8 * after)
}

/// The digits before and after the point of the number at `at`, and its end, if a [`DecimalForm`] has it.
pub(super) fn short_decimal_lengths(text: &[u8], at: usize) -> Option<(usize, usize, usize)> {
    let (_, decimals, bytes) = short_number(word_at(text, at))?;
    let whole = if decimals == 0 { bytes } else { bytes - 1 - decimals };
    Some((whole, decimals, at + bytes))
}

/// A word without the byte from this bit on.
#[inline(always)]
fn without_byte(word: u64, bit: u32) -> u64 {
    let before = (1 << bit) - 1;
    word & before | (word >> 8) & !before
}

/// [`number_at`] for numbers of any length: digits are read one by one.
#[inline(never)] // so that short numbers keep their registers
fn any_number_at<const IS_LONG: bool>(text: &[u8], start: usize) -> Option<(Number, usize)> {
    let mut at = start;
    let mut byte = byte_at(text, at);
    let negative = byte == b'-';
    if negative {
        at += 1;
        byte = byte_at(text, at);
    }
    let whole = at;
    let has_leading_zero = byte == b'0';
    let mut digits = 0_i64;
    if IS_LONG
        && let Some(word) = text.get(at..).and_then(|rest| rest.first_chunk())
        && not_digits(u64::from_le_bytes(*word)) == 0
    {
        digits = to_number(u64::from_le_bytes(*word)) as i64;
        at += 8;
        byte = byte_at(text, at);
    }
    while byte.is_ascii_digit() {
        digits = digits.wrapping_mul(10).wrapping_add(i64::from(byte - b'0'));
        at += 1;
        byte = byte_at(text, at);
    }
    if at == whole || has_leading_zero && at > whole + 1 {
        return None;
    }
    let mut decimals = 0;
    if byte == b'.' {
        let point = at;
        at += 1;
        byte = byte_at(text, at);
        while byte.is_ascii_digit() {
            digits = digits.wrapping_mul(10).wrapping_add(i64::from(byte - b'0'));
            at += 1;
            byte = byte_at(text, at);
        }
        decimals = at - point - 1;
        if decimals == 0 {
            return None;
        }
    }
    if at - whole > SHORT_BYTES || byte | 0x20 == b'e' {
        return long_number_at(text, start);
    }
    Some((Number::Decimal { negative, digits, decimals }, at))
}

#[cold]
#[inline(never)]
fn long_number_at(text: &[u8], at: usize) -> Option<(Number, usize)> {
    let end = number_end(text, at)?;
    let value = str::from_utf8(&text[at..end]).ok()?.parse().ok()?;
    Some((Number::Long(value), end))
}

/// The high bit of each byte that a plain string cannot contain, and of the quote that ends it.
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

/// The high bit of each byte that is no digit.
#[inline(always)]
fn not_digits(word: u64) -> u64 {
    let values = word ^ (ONES * b'0' as u64);
    (((values & LOWS) + ONES * (0x80 - 10)) | values) & HIGHS
}

/// The value of eight digits.
#[inline(always)]
fn to_number(word: u64) -> u64 {
    value_of(word & (ONES * 0x0F))
}

/// The number whose eight digits have these values.
#[inline(always)]
fn value_of(digits: u64) -> u64 {
    // Pairs, then fours, then all eight: each step multiplies and adds in all lanes at once.
    let pairs = digits * 10 + (digits >> 8);
    let lane = 0x0000_00FF_0000_00FF;
    let high = (pairs & lane).wrapping_mul(0x000F_4240_0000_0064);
    let low = ((pairs >> 16) & lane).wrapping_mul(0x0000_2710_0000_0001);
    high.wrapping_add(low) >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Option<f64> {
        let short =
            number_at::<false>(text.as_bytes(), 0).map(|(number, end)| (number.value(), end));
        let long = number_at::<true>(text.as_bytes(), 0).map(|(number, end)| (number.value(), end));
        assert_eq!(short, long);
        for after in [",\"rps\":2000}", "}]       ", "\n{\"cpu\":"] {
            let more = [text, after].concat();
            let value = number_at::<false>(more.as_bytes(), 0);
            assert_eq!(value.map(|(number, end)| (number.value(), end)), short, "{more}");
        }
        short.filter(|&(_, end)| end == text.len()).map(|(value, _)| value)
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
        let text = b"0123456789abcdefghij";
        for end in 0..=text.len() {
            for at in 0..=end + 1 {
                let mut bytes = [0; 16];
                let rest = text[..end].get(at..).unwrap_or_default();
                let count = rest.len().min(16);
                bytes[..count].copy_from_slice(&rest[..count]);
                assert_eq!(wide_word_at(&text[..end], at).to_le_bytes(), bytes);
                assert_eq!(word_at(&text[..end], at).to_le_bytes(), bytes[..8]);
            }
        }
    }
}
