//! Finds the end of a value by its brackets, quotes and commas, without parsing it.
//!
//! That separates the elements of a body, so that an invalid one is refused alone, and bounds the memory
//! that simd-json needs for it. Whether the value is JSON is left to simd-json.

use std::ops::Range;

use memchr::memchr2;

use super::number::number_end;

/// A value that was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SkippedValue {
    /// The index after its last byte.
    pub(super) end: usize,
    /// Number of values inside; an empty object or array counts as one.
    pub(super) values: usize,
}

/// The text ends within the value, or there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SkipError {
    pub(super) offset: usize,
}

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
/// Overwrites a number that fits no i64, u64 or finite f64: simd-json would reject the whole sample.
/// This one is out of range too, and is refused with the name of its field.
const OUT_OF_RANGE: &[u8; 4] = b"1e99";
/// Shorter numbers without an exponent fit an i64.
const LONG_DIGITS: usize = 19;

/// The index of the first byte after a byte order mark.
pub(super) fn start_of(body: &[u8]) -> usize {
    if body.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 }
}

pub(super) fn skip_space(text: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\t' | b'\r') = text.get(at) {
        at += 1;
    }
    at
}

/// Skips the string that opens at `at`; returns the index after the closing quote.
pub(super) fn skip_string(text: &[u8], at: usize) -> Result<usize, SkipError> {
    debug_assert_eq!(text.get(at), Some(&b'"'));
    let mut end = at + 1;
    loop {
        let rest = text.get(end..).unwrap_or_default();
        match memchr2(b'"', b'\\', rest) {
            Some(found) if rest[found] == b'"' => return Ok(end + found + 1),
            Some(found) => end += found + 2,
            None => return Err(SkipError { offset: text.len() }),
        }
    }
}

/// Skips the value that starts at `at`.
pub(super) fn skip_value(text: &mut [u8], mut at: usize) -> Result<SkippedValue, SkipError> {
    let start = at;
    let mut depth = 0_usize;
    let mut values = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => at = skip_string(text, at)?,
            b'{' | b'[' => {
                depth += 1;
                values += 1;
                at += 1;
            }
            // The end of a bare word or a number.
            b'}' | b']' | b',' | b':' | b' ' | b'\n' | b'\t' | b'\r' if depth == 0 => break,
            b'}' | b']' => {
                depth -= 1;
                at += 1;
            }
            b',' => {
                values += 1;
                at += 1;
            }
            b'-' | b'0'..=b'9' => at = skip_number(text, at),
            _ => at += 1,
        }
        if depth == 0 && matches!(byte, b'"' | b'}' | b']') {
            break;
        }
    }
    if depth > 0 || at == start {
        return Err(SkipError { offset: at });
    }
    Ok(SkippedValue { end: at, values })
}

/// The range of the key at `at`, without its quotes, and the start of its value.
pub(super) fn key(body: &[u8], at: usize) -> Result<(Range<usize>, usize), SkipError> {
    if body.get(at) != Some(&b'"') {
        return Err(SkipError { offset: at });
    }
    let end = skip_string(body, at)?;
    let colon = skip_space(body, end);
    if body.get(colon) != Some(&b':') {
        return Err(SkipError { offset: colon });
    }
    Ok((at + 1..end - 1, skip_space(body, colon + 1)))
}

fn skip_number(text: &mut [u8], at: usize) -> usize {
    let Some(end) = number_end(text, at) else { return at + 1 };
    let number = &mut text[at..end];
    if number.len() >= LONG_DIGITS || number.iter().any(|byte| matches!(byte, b'e' | b'E')) {
        let value: f64 = str::from_utf8(number)
            .ok()
            .and_then(|number| number.parse().ok())
            .expect("JSON numbers are ASCII, and Rust reads all of them");
        // A whole number within this range fits a u64 or an i64.
        if !(-9e18..1e19).contains(&value) {
            number.fill(b' ');
            number[..OUT_OF_RANGE.len()].copy_from_slice(OUT_OF_RANGE);
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(text: &str) -> Result<(usize, usize), usize> {
        let mut bytes = text.as_bytes().to_vec();
        let skipped = skip_value(&mut bytes, 0);
        skipped.map(|value| (value.end, value.values)).map_err(|error| error.offset)
    }

    #[test]
    fn values_end_where_their_brackets_and_quotes_do() {
        assert_eq!(skip(r#"{"a":1,"b":2},3"#), Ok((13, 2)));
        assert_eq!(skip(r#"{"a":"}\"]","b":[[]]} "#), Ok((21, 4)));
        assert_eq!(skip(r#""a,b",1"#), Ok((5, 0)));
        assert_eq!(skip("12.5]"), Ok((4, 0)));
        assert_eq!(skip("true\n"), Ok((4, 0)));
        assert_eq!(skip("[1,2,[3,4]]"), Ok((11, 5)));
        for broken in ["", ",", "]", "{", r#"{"a"#, r#"["\"]"#, "[[]", " 1"] {
            assert!(skip(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_overwritten() {
        for (text, expected) in [
            ("[1e400]", "[1e99 ]"),
            ("[-1e400,1]", "[1e99  ,1]"),
            ("[123456789012345678901234567890]", "[1e99                          ]"),
            ("[9900000000000000000]", "[9900000000000000000]"),
            ("[-9223372036854775809]", "[1e99                ]"),
            ("[9223372036854775807,1e3,\"1e400\"]", "[9223372036854775807,1e3,\"1e400\"]"),
        ] {
            let mut bytes = text.as_bytes().to_vec();
            skip_value(&mut bytes, 0).expect("balanced");
            assert_eq!(String::from_utf8_lossy(&bytes), expected);
        }
    }
}
