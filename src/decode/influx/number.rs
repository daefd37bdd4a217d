//! Values of fields: floats, integers with `i` or `u`, booleans.

use crate::decode::decimal::{integer, magnitude, short_decimal};

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

fn unsigned(text: &[u8]) -> Option<f64> {
    magnitude(text).map(|value| value as f64)
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
        fn a_decimal_is_rounded_as_the_standard_library_does(text in "-?[0-9]{0,18}(\\.[0-9]{0,18})?") {
            let expected = text.parse::<f64>().ok();
            prop_assert_eq!(value(text.as_bytes()).ok(), expected, "{}", text);
        }
    }
}
