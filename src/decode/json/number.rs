//! The grammar of JSON numbers.

/// The end of the JSON number that starts at `at`; None if there is none.
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
