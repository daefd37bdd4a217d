//! The ways in which a client may say when: to microseconds since 1970.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Below it a number counts seconds (until the year 5138) …
const SECONDS_BELOW: f64 = 1e11;
/// … below it milliseconds …
const MILLIS_BELOW: f64 = 1e14;
/// … below it microseconds, and from there on nanoseconds, as far as an i64 goes.
const MICROS_BELOW: f64 = 1e17;

/// A moment that we can't keep: before 1970, or past what an i64 of nanoseconds can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

/// None for the time of arrival.
pub type Stamp = Option<i64>;

/// A number without a fraction.
#[inline]
pub fn from_integer(number: u64) -> Result<Stamp, OutOfRange> {
    let number = i64::try_from(number).map_err(|_| OutOfRange)?;
    Ok(match number {
        0 => None,
        1..100_000_000_000 => Some(number * 1_000_000),
        100_000_000_000..100_000_000_000_000 => Some(number * 1_000),
        100_000_000_000_000..100_000_000_000_000_000 => Some(number),
        _ => Some(number / 1_000),
    })
}

/// The microseconds that one is in a number of so many digits of which the first is not zero. None for nanoseconds.
pub fn unit_us(digits: usize) -> Option<i64> {
    match digits {
        1..=11 => Some(1_000_000),
        12..=14 => Some(1_000),
        15..=17 => Some(1),
        _ => None,
    }
}

/// Any other number.
pub fn from_float(number: f64) -> Result<Stamp, OutOfRange> {
    // NaN is not JSON, and no decoder gives it.
    if number == 0.0 {
        return Ok(None);
    }
    if !(0.0..i64::MAX as f64).contains(&number) {
        return Err(OutOfRange);
    }
    let micros = if number < SECONDS_BELOW {
        number * 1e6
    } else if number < MILLIS_BELOW {
        number * 1e3
    } else if number < MICROS_BELOW {
        number
    } else {
        number / 1e3
    };
    Ok(Some(micros.round() as i64))
}

/// None for a text that is not RFC 3339.
pub fn from_text(text: &str) -> Option<Result<Stamp, OutOfRange>> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let micros = moment.unix_timestamp_nanos().div_euclid(1_000);
    Some(i64::try_from(micros).ok().filter(|&us| us >= 0).map(Some).ok_or(OutOfRange))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_follows_from_the_magnitude() {
        let micros = 1_735_100_000_123_456;
        for (number, expected) in [
            (1_735_100_000, 1_735_100_000_000_000),
            (1_735_100_000_123, 1_735_100_000_123_000),
            (1_735_100_000_123_456, micros),
            (1_735_100_000_123_456_789, micros),
            (1, 1_000_000),
            (99_999_999_999, 99_999_999_999_000_000),
            (100_000_000_000, 100_000_000_000_000),
            (i64::MAX as u64, i64::MAX / 1_000),
        ] {
            assert_eq!(from_integer(number), Ok(Some(expected)), "{number}");
        }
        assert_eq!(from_integer(0), Ok(None));
        for digits in 1..=18 {
            let least = 10_u64.pow(digits - 1);
            for number in [least, 10 * least - 1] {
                let expected = unit_us(digits as usize).map(|unit_us| number as i64 * unit_us);
                let found = from_integer(number).ok().flatten();
                assert!(expected.is_none_or(|expected| found == Some(expected)), "{number}");
            }
            assert_eq!(unit_us(digits as usize).is_some(), digits < 18);
        }
        assert_eq!(from_integer(i64::MAX as u64 + 1), Err(OutOfRange));
        assert_eq!(from_float(1_735_100_000.123_456), Ok(Some(micros)));
        assert_eq!(from_float(1_735_100_000_123.456), Ok(Some(micros)));
        assert_eq!(from_float(-0.0), Ok(None));
        assert_eq!(from_float(-1e-9), Err(OutOfRange));
        assert_eq!(from_float(1e19), Err(OutOfRange));
    }

    #[test]
    fn texts_are_rfc_3339() {
        assert_eq!(from_text("2024-12-25T04:13:20Z"), Some(Ok(Some(1_735_100_000_000_000))));
        assert_eq!(
            from_text("2024-12-25T06:13:20.123456789+02:00"),
            Some(Ok(Some(1_735_100_000_123_456)))
        );
        assert_eq!(from_text("0001-01-01T00:00:00Z"), Some(Err(OutOfRange)));
        for wrong in ["", "now", "1735100000", "2024-12-25", "2024-13-25T04:13:20Z"] {
            assert_eq!(from_text(wrong), None, "{wrong}");
        }
    }
}
