//! The names that a field of a sample may have, and what each means.

/// The fields that may hold the time of a sample, the first one first. They are compared without case, and are never metrics.
pub(super) const TIME_NAMES: [&str; 6] =
    ["timestamp", "ts", "time", "date", "@timestamp", "datetime"];

/// The smallest number that may be a moment.
pub(super) const MOMENT_MIN: f64 = 1e9;
/// Numbers that may be moments: from the year 2001 to 2096, in seconds, milliseconds, microseconds and nanoseconds.
const MOMENTS: std::ops::RangeInclusive<f64> = MOMENT_MIN..=4e9;
const UNITS: [f64; 4] = [1.0, 1e3, 1e6, 1e9];

/// What the name of a field says of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldName {
    Device,
    DeviceId,
    Cpu,
    Rps,
    /// Holds the index in [`TIME_NAMES`].
    Time(usize),
    Other,
}

impl FieldName {
    #[inline]
    pub(super) fn of(name: &[u8]) -> Self {
        match name {
            b"cpu" => Self::Cpu,
            b"rps" => Self::Rps,
            b"timestamp" => Self::Time(0),
            b"device" => Self::Device,
            b"device_id" => Self::DeviceId,
            _ => Self::alias(name),
        }
    }

    #[inline]
    fn alias(name: &[u8]) -> Self {
        // No other lengths: most names leave here.
        match name.len() {
            3 if name.eq_ignore_ascii_case(b"cpu") => Self::Cpu,
            3 if name.eq_ignore_ascii_case(b"rps") => Self::Rps,
            2 | 4 | 8..=10 => time_rank(name).map_or(Self::Other, Self::Time),
            _ => Self::Other,
        }
    }
}

fn time_rank(name: &[u8]) -> Option<usize> {
    TIME_NAMES.iter().position(|time| name.eq_ignore_ascii_case(time.as_bytes()))
}

/// True for a number whose name and value both say that it is a moment: `created_at` with 1735100000.
#[inline]
pub(super) fn is_moment(name: &[u8], value: f64) -> bool {
    value >= MOMENT_MIN && is_named_moment(name, value)
}

#[cold]
fn is_named_moment(name: &[u8], value: f64) -> bool {
    let name = name.to_ascii_lowercase();
    let holds = |word: &[u8]| name.windows(word.len()).any(|part| part == word);
    UNITS.iter().any(|unit| MOMENTS.contains(&(value / unit)))
        && (holds(b"time") || holds(b"date") || holds(b"epoch") || name.ends_with(b"_at"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_found_by_length() {
        for (rank, name) in TIME_NAMES.iter().enumerate() {
            assert_eq!(FieldName::of(name.as_bytes()), FieldName::Time(rank));
            assert_eq!(FieldName::of(name.to_uppercase().as_bytes()), FieldName::Time(rank));
        }
        for (name, expected) in [
            ("CPU", FieldName::Cpu),
            ("Rps", FieldName::Rps),
            ("device_id", FieldName::DeviceId),
            ("Device", FieldName::Other),
            ("cpus", FieldName::Other),
            ("times", FieldName::Other),
            ("", FieldName::Other),
        ] {
            assert_eq!(FieldName::of(name.as_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn a_moment_has_the_name_and_the_value_of_one() {
        for (name, value) in [("createdDate", 1_735_100_000.5), ("Epoch_ms", 1.7351e12)] {
            assert!(is_moment(name.as_bytes(), value), "{name}");
        }
        for (name, value) in [("response_time", 0.3), ("bytes", 1_735_100_000.0), ("time_ns", 1e11)]
        {
            assert!(!is_moment(name.as_bytes(), value), "{name}");
        }
    }
}
