//! Parsers of flag values: counts, durations, sizes, bearer tokens and names of Unix sockets.
//!
//! Each parser checks its range, so a value that was parsed needs no further check. The error names the range.

mod token;
mod unix;

use std::ops::RangeInclusive;
use std::time::Duration;

use bytesize::ByteSize;

pub use token::{TokenError, TokenFlag};
pub use unix::{UNIX_SCHEME, UnixName};

/// Parses a whole number within `range`.
pub fn count(range: RangeInclusive<usize>) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| {
        let value = text.parse().map_err(|_| "must be a whole number".to_owned())?;
        within(value, &range, usize::to_string)
    }
}

/// Parses a duration with its unit, such as `100ms` or `1h30m`, within `range`.
pub fn duration(
    range: RangeInclusive<Duration>,
) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| {
        let value = humantime::parse_duration(text).map_err(|error| error.to_string())?;
        within(value, &range, |limit| humantime::format_duration(*limit).to_string())
    }
}

/// Parses a size in bytes, such as `65536` or `8MiB`, within `range`.
pub fn bytes(range: RangeInclusive<usize>) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| {
        let size = text.parse::<ByteSize>().map_err(|_| "must be like 65536, 16KiB or 8MiB")?;
        let size = usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        within(size, &range, |limit| ByteSize(*limit as u64).to_string())
    }
}

fn within<T: PartialOrd>(
    value: T,
    range: &RangeInclusive<T>,
    show: impl Fn(&T) -> String,
) -> Result<T, String> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!("must be {} to {}", show(range.start()), show(range.end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_parsed_in_their_units() {
        assert_eq!(count(1..=9)("9"), Ok(9));
        let hour = Duration::from_secs(3600);
        assert_eq!(duration(Duration::ZERO..=hour)("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(bytes(0..=1 << 20)("16KiB"), Ok(16_384));
        assert_eq!(bytes(0..=1 << 20)("2000"), Ok(2_000));
    }

    #[test]
    fn errors_name_the_range() {
        assert_eq!(count(1..=9)("10"), Err("must be 1 to 9".into()));
        assert_eq!(count(1..=9)("1.5"), Err("must be a whole number".into()));
        let hour = Duration::from_secs(3600);
        assert_eq!(duration(Duration::ZERO..=hour)("2h"), Err("must be 0s to 1h".into()));
        assert_eq!(bytes(64..=1024)("1"), Err("must be 64 B to 1.0 KiB".into()));
    }
}
