//! The unit of the times of a body.

use std::str::FromStr;

/// The unit of a time, as a sender names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinePrecision {
    /// Nanoseconds, unless a sender says otherwise.
    #[default]
    Nanosecond,
    /// Microseconds.
    Microsecond,
    /// Milliseconds.
    Millisecond,
    /// Seconds.
    Second,
    /// Minutes: InfluxDB 1 only.
    Minute,
    /// Hours: InfluxDB 1 only.
    Hour,
    /// By the magnitude of each time: InfluxDB 3 only.
    Auto,
}

/// No unit of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrecisionError;

impl FromStr for LinePrecision {
    type Err = PrecisionError;

    /// The names of all versions of InfluxDB; none means two things.
    fn from_str(name: &str) -> Result<Self, PrecisionError> {
        Ok(match name {
            "n" | "ns" | "nanosecond" => Self::Nanosecond,
            "u" | "us" | "µ" | "microsecond" => Self::Microsecond,
            "ms" | "millisecond" => Self::Millisecond,
            "s" | "second" => Self::Second,
            "m" => Self::Minute,
            "h" => Self::Hour,
            "auto" => Self::Auto,
            _ => return Err(PrecisionError),
        })
    }
}

/// The last moment that an i64 of nanoseconds can say.
const MICROS_MAX: i64 = i64::MAX / 1_000;

impl LinePrecision {
    /// A time in microseconds since 1970, rounded down; None before 1970 and past the year 2262.
    #[inline]
    pub(super) fn micros(self, time: i64) -> Option<i64> {
        if time < 0 {
            return None;
        }
        let unit = match self {
            Self::Nanosecond => return Some(time / 1_000),
            Self::Microsecond => 1,
            Self::Millisecond => 1_000,
            Self::Second => 1_000_000,
            Self::Minute => 60_000_000,
            Self::Hour => 3_600_000_000,
            Self::Auto => return guess(time).micros(time),
        };
        time.checked_mul(unit).filter(|micros| *micros <= MICROS_MAX)
    }
}

/// The unit of a time by its magnitude, with the limits of InfluxDB 3: each unit reaches to the year 2128.
fn guess(time: i64) -> LinePrecision {
    match time {
        ..5_000_000_000 => LinePrecision::Second,
        5_000_000_000..5_000_000_000_000 => LinePrecision::Millisecond,
        5_000_000_000_000..5_000_000_000_000_000 => LinePrecision::Microsecond,
        _ => LinePrecision::Nanosecond,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_becomes_microseconds() {
        let micros = Some(1_735_100_000_000_000);
        for (name, time) in [
            ("ns", 1_735_100_000_000_000_999),
            ("us", 1_735_100_000_000_000),
            ("ms", 1_735_100_000_000),
            ("s", 1_735_100_000),
            ("auto", 1_735_100_000_000_000_999),
            ("auto", 1_735_100_000_000_000),
            ("auto", 1_735_100_000_000),
            ("auto", 1_735_100_000),
        ] {
            let precision: LinePrecision = name.parse().expect(name);
            assert_eq!(precision.micros(time), micros, "{name} {time}");
            assert_eq!(precision.micros(-1), None);
            assert_eq!(precision.micros(0), Some(0), "not the time of arrival");
        }
        assert_eq!(LinePrecision::Minute.micros(3), Some(180_000_000));
        assert_eq!(LinePrecision::Hour.micros(2), Some(7_200_000_000));
        assert_eq!(LinePrecision::Nanosecond.micros(i64::MAX), Some(MICROS_MAX));
        assert_eq!(LinePrecision::Microsecond.micros(MICROS_MAX), Some(MICROS_MAX));
        assert_eq!(LinePrecision::Microsecond.micros(MICROS_MAX + 1), None);
        assert_eq!(LinePrecision::Second.micros(i64::MAX), None);
        for (name, precision) in [
            ("n", LinePrecision::Nanosecond),
            ("nanosecond", LinePrecision::Nanosecond),
            ("u", LinePrecision::Microsecond),
            ("\u{b5}", LinePrecision::Microsecond),
            ("microsecond", LinePrecision::Microsecond),
            ("millisecond", LinePrecision::Millisecond),
            ("second", LinePrecision::Second),
            ("m", LinePrecision::Minute),
            ("h", LinePrecision::Hour),
        ] {
            assert_eq!(name.parse(), Ok(precision), "{name}");
        }
        assert_eq!("minute".parse::<LinePrecision>(), Err(PrecisionError));
    }
}
