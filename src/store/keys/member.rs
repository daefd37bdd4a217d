//! The members of a window: one for each value.

use super::{ReplicaId, read_number, write_digits, write_value};
use sigmad_sample::VALUE_MAX;

/// Digits of a time in a member: until the year 2286, bytewise order is order of time.
const TIME_DIGITS: usize = 16;
pub(super) const TIME_MAX: i64 = 9_999_999_999_999_999;
/// Digits of a sequence in a member.
const SEQUENCE_DIGITS: usize = 3;

/// One value in a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Member {
    /// When it arrived, microseconds since 1970, by Redis' clock.
    pub time_us: i64,
    /// The replica that received it.
    pub replica: ReplicaId,
    /// Orders the values of one time and replica: below 1,000.
    pub sequence: u16,
    /// The value.
    pub value: f64,
}

impl Member {
    /// What is in the order of the members of a window, and different for any two.
    pub fn order(&self) -> (i64, ReplicaId, u16) {
        (self.time_us, self.replica, self.sequence)
    }

    /// Writes `<time>:<replica>:<sequence>:<value>`, whose bytewise order is the order of arrival.
    pub fn write(&self, text: &mut Vec<u8>) {
        debug_assert!((0..=TIME_MAX).contains(&self.time_us) && self.sequence < 1_000);
        write_digits::<TIME_DIGITS>(text, self.time_us.clamp(0, TIME_MAX) as u64);
        text.push(b':');
        text.extend_from_slice(&self.replica.0);
        text.push(b':');
        write_digits::<SEQUENCE_DIGITS>(text, u64::from(self.sequence));
        text.push(b':');
        write_value(text, self.value);
    }

    /// None for a member that sigmad does not write.
    pub fn read(text: &[u8]) -> Option<Self> {
        // The lengths are fixed: a search for the colons would take as long as the rest.
        let mut rest = text;
        let mut part = |len: usize| {
            let (part, after) = rest.split_at_checked(len)?;
            rest = after.strip_prefix(b":")?;
            Some(part)
        };
        let time = part(TIME_DIGITS)?;
        let (replica, sequence) = (part(ReplicaId::LEN)?, part(SEQUENCE_DIGITS)?);
        let value: f64 = str::from_utf8(rest).ok()?.parse().ok()?;
        Some(Self {
            time_us: read_number(time)?,
            replica: ReplicaId::read(replica)?,
            sequence: u16::try_from(read_number(sequence)?).ok()?,
            // Adding zero turns -0 into 0.
            value: Some(value + 0.0).filter(|value| value.abs() <= VALUE_MAX)?,
        })
    }
}
