//! Values of fields: floats, integers with `i` or `u`, booleans.

/// Digits of a number that an f64 holds exactly, whichever they are.
const EXACT_DIGITS_MAX: usize = 15;
/// Powers of ten, all exact in an f64.
const POWERS: [f64; EXACT_DIGITS_MAX + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// The value of a field that is no string; NaN for a boolean, and for what is no finite number.
///
/// # Errors
/// With the reason, if it is no value.
#[inline]
pub(super) fn value(text: &[u8]) -> Result<f64, &'static str> {
    if let Some(value) = short_decimal(text) {
        return Ok(value);
    }
    match text {
        [] => Err("missing field value"),
        [b'0'..=b'9' | b'-' | b'+', .., b'i'] => {
            let digits = &text[..text.len() - 1];
            integer(digits).map(|value| value as f64).ok_or("unable to parse integer")
        }
        [b'0'..=b'9' | b'-', .., b'u'] => {
            unsigned(&text[..text.len() - 1]).ok_or("unable to parse unsigned integer")
        }
        _ => float(text),
    }
}

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

/// A decimal with few digits: then quotient and result are rounded once, as the standard library rounds it
/// (W. Clinger, How to Read Floating Point Numbers Accurately, 1990).
#[inline]
fn short_decimal(text: &[u8]) -> Option<f64> {
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    // One more for the point.
    if digits.len() > EXACT_DIGITS_MAX + 1 {
        return None;
    }
    let mut whole = 0_u64;
    let mut point = None;
    for (at, byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => whole = whole * 10 + u64::from(byte - b'0'),
            b'.' if point.is_none() => point = Some(at),
            _ => return None,
        }
    }
    let count = digits.len() - usize::from(point.is_some());
    if count == 0 || count > EXACT_DIGITS_MAX {
        return None;
    }
    let decimals = point.map_or(0, |at| digits.len() - 1 - at);
    let value = whole as f64 / POWERS[decimals];
    Some(if is_negative { -value } else { value })
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

fn unsigned(text: &[u8]) -> Option<f64> {
    magnitude(text).map(|value| value as f64)
}

/// Digits as a u64.
#[inline]
fn magnitude(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// Any other value.
#[cold]
fn float(text: &[u8]) -> Result<f64, &'static str> {
    if let b"t" | b"T" | b"true" | b"True" | b"TRUE" | b"f" | b"F" | b"false" | b"False"
    | b"FALSE" = text
    {
        return Ok(f64::NAN);
    }
    let unsigned = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
    if [&b"nan"[..], b"inf", b"infinity"].iter().any(|word| unsigned.eq_ignore_ascii_case(word)) {
        return Ok(f64::NAN);
    }
    let is_number =
        text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    let number = str::from_utf8(text).ok().filter(|_| is_number);
    number.and_then(|text| text.parse().ok()).ok_or("invalid number")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_types_of_fields() {
        for (text, expected) in [
            ("60.5", Ok(60.5)),
            ("-0.25", Ok(-0.25)),
            (".5", Ok(0.5)),
            ("1.", Ok(1.0)),
            ("+1", Ok(1.0)),
            ("1e3", Ok(1_000.0)),
            ("-1.5E-3", Ok(-0.001_5)),
            ("123456789012345", Ok(123_456_789_012_345.0)),
            ("0.30000000000000004", Ok(0.300_000_000_000_000_04)),
            ("12i", Ok(12.0)),
            ("-9223372036854775808i", Ok(-9_223_372_036_854_775_808.0)),
            ("9223372036854775808i", Err("unable to parse integer")),
            ("18446744073709551615u", Ok(18_446_744_073_709_551_615.0)),
            ("18446744073709551616u", Err("unable to parse unsigned integer")),
            ("-1u", Err("unable to parse unsigned integer")),
            ("i", Err("invalid number")),
            ("-i", Err("unable to parse integer")),
            ("1.5i", Err("unable to parse integer")),
            ("", Err("missing field value")),
            (".", Err("invalid number")),
            ("-", Err("invalid number")),
            ("1.2.3", Err("invalid number")),
            ("0x10", Err("invalid number")),
            ("tru", Err("invalid number")),
            ("1_000", Err("invalid number")),
        ] {
            assert_eq!(value(text.as_bytes()), expected, "{text}");
        }
        for text in ["t", "TRUE", "False", "f", "nan", "NaN", "inf", "-Inf", "+infinity"] {
            assert!(value(text.as_bytes()).is_ok_and(f64::is_nan), "{text}");
        }
        assert!(value(b"1e400").is_ok_and(f64::is_infinite), "skipped as any infinity");
    }

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
        fn a_decimal_is_rounded_as_the_standard_library_does(text in "-?[0-9]{0,18}(\\.[0-9]{0,18})?") {
            let expected = text.parse::<f64>().ok();
            prop_assert_eq!(value(text.as_bytes()).ok(), expected, "{}", text);
        }
    }
}
