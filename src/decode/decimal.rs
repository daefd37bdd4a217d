//! Decimal numbers in bodies of text, read without a call where they are short.

/// Digits of a number that an f64 holds exactly, whichever they are.
const EXACT_DIGITS_MAX: usize = 15;
/// The last power of ten that an f64 holds exactly.
const EXACT_POWER_MAX: usize = 22;
const POWERS: [f64; EXACT_POWER_MAX + 1] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// The decimal that the text begins with, and its length, if both are short: up to seven bytes after the sign, digits
/// with one point at most. What follows may be anything.
///
/// Eight bytes at once; [`short_decimal`] gives the same, byte by byte.
#[inline(always)]
pub(super) fn leading_decimal(text: &[u8]) -> Option<(f64, usize)> {
    const ZEROS: u64 = u64::from_ne_bytes([b'0'; 8]);
    const HIGH_BITS: u64 = u64::from_ne_bytes([0x80; 8]);
    /// To a digit it adds less than the high bit, to any other value below 0x80 no less.
    const PAST_NINE: u64 = u64::from_ne_bytes([0x80 - 10; 8]);
    let is_negative = text.first() == Some(&b'-');
    let text = &text[usize::from(is_negative)..];
    // The first byte is the lowest.
    let digits = u64::from_le_bytes(*text.first_chunk()?) ^ ZEROS;
    let others = (((digits & !HIGH_BITS) + PAST_NINE) | digits) & HIGH_BITS;
    if others == 0 {
        return None;
    }
    let point = others.trailing_zeros() / 8;
    let (mut end, mut joined) = (point, digits);
    if text.get(point as usize) == Some(&b'.') {
        // The next one ends the number.
        end = (others & (others - 1)).trailing_zeros() / 8;
        // A point at the end has no digits behind it.
        let before = (1 << (8 * point)) - 1;
        joined = digits & before | digits >> 8 & !before;
    }
    let count = end - u32::from(end != point);
    if end == u64::BITS / 8 || count == 0 {
        return None;
    }
    // Zeros in front: the bytes behind the number fall out.
    let whole = eight_digits(joined << (u64::BITS - 8 * count));
    let decimals = if end == point { 0 } else { end - point - 1 };
    let value = whole as f64 / POWERS[decimals as usize];
    Some((if is_negative { -value } else { value }, end as usize + usize::from(is_negative)))
}

/// The number that eight digits make, the first of which is the lowest byte: pairs, then fours, then all.
#[inline(always)]
fn eight_digits(digits: u64) -> u64 {
    let pairs = digits * 10 + (digits >> 8);
    let fours = pairs & 0x00ff_00ff_00ff_00ff;
    let fours = fours * 100 + (fours >> 16);
    let all = fours & 0x0000_ffff_0000_ffff;
    (all * 10_000 + (all >> 32)) & 0xffff_ffff
}

/// A number as Go and Rust write it.
#[inline]
pub(super) fn number(text: &[u8]) -> Option<f64> {
    short_decimal(text).or_else(|| str::from_utf8(text).ok()?.parse().ok())
}

/// A decimal with few digits, and maybe a small exponent: then digits, power and result are rounded once, as the
/// standard library rounds it (W. Clinger, How to Read Floating Point Numbers Accurately, 1990).
#[inline]
pub(super) fn short_decimal(text: &[u8]) -> Option<f64> {
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let (mut whole, mut point, mut exponent) = (0_u64, None, 0);
    let mut end = digits.len();
    for (at, byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => whole = whole.wrapping_mul(10).wrapping_add(u64::from(byte - b'0')),
            b'.' if point.is_none() => point = Some(at),
            b'e' | b'E' => {
                exponent = short_exponent(&digits[at + 1..])?;
                end = at;
                break;
            }
            _ => return None,
        }
    }
    let count = end - usize::from(point.is_some());
    if count == 0 || count > EXACT_DIGITS_MAX {
        return None;
    }
    exponent -= point.map_or(0, |at| end - 1 - at) as i32;
    let power = *POWERS.get(exponent.unsigned_abs() as usize)?;
    let value = if exponent < 0 { whole as f64 / power } else { whole as f64 * power };
    Some(if is_negative { -value } else { value })
}

/// An exponent of two digits.
#[inline]
fn short_exponent(text: &[u8]) -> Option<i32> {
    let (sign, digits) = match text {
        [b'-', digits @ ..] => (-1, digits),
        [b'+', digits @ ..] => (1, digits),
        digits => (1, digits),
    };
    match *digits {
        [ones @ b'0'..=b'9'] => Some(sign * i32::from(ones - b'0')),
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => {
            Some(sign * i32::from(10 * (tens - b'0') + ones - b'0'))
        }
        _ => None,
    }
}

/// An i64.
#[inline]
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let magnitude = magnitude(digits)?;
    if is_negative { 0_i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

/// Digits as a u64.
#[inline]
pub(super) fn magnitude(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_decimal_that_leads_is_the_same(text in "-?[0-9]{0,8}(\\.[0-9]{0,8})?", end in "[, \n.x-]") {
            let padded = format!("{text}{end}        ");
            if let Some((value, length)) = leading_decimal(padded.as_bytes()) {
                prop_assert_eq!(short_decimal(&padded.as_bytes()[..length]), Some(value));
                prop_assert!(length == text.len() || end == "." && length == text.len() + 1);
            } else {
                let digits = text.trim_start_matches('-');
                prop_assert!(digits.len() > 6 || short_decimal(text.as_bytes()).is_none());
            }
        }

        #[test]
        fn a_number_is_that_of_the_standard_library(
            text in "[-+]?[0-9]{0,18}(\\.[0-9]{0,18})?([eE][-+]?[0-9]{0,3})?",
        ) {
            prop_assert_eq!(number(text.as_bytes()), text.parse().ok(), "{}", text);
        }
    }

    #[test]
    fn short_decimals_have_few_digits_and_a_small_exponent() {
        for text in ["7", "-7.25", "1e3", "1e-2", "1.5E+22", "12345.678e10", "0.000001", "5."] {
            assert_eq!(short_decimal(text.as_bytes()), text.parse().ok(), "{text}");
        }
        for text in
            ["", "-", ".", "e3", "1e", "1e123", "1e-+3", "1e99", "1.2.3", "+1", "0x1", "nan"]
        {
            assert_eq!(short_decimal(text.as_bytes()), None, "{text}");
        }
    }
}
