//! The format of data in Redis: keys, members, fields, JSON.
//!
//! Writers append to a buffer. Readers accept any bytes and return None for what sigmad does not write: names
//! must pass [`is_name`] or [`is_metric_name`], values must be finite and within [`VALUE_MAX`].

mod counts;
mod member;

use std::fmt;

pub use counts::{
    CountSource, OWNER, PAST, ReplicaCounters, read_counts, read_field, read_owner, write_counts,
    write_field, write_metric_field,
};
pub use member::Member;

use super::reply::digits;
use sigmad_sample::number::Plain;
use sigmad_sample::{VALUE_MAX, is_metric_name, is_name};

/// Key: the number of the last change by any replica.
pub const CHANGE: &str = "{sigmad}:change";
/// Key: a sorted set of names with the number of their last change. The fleet has an empty name.
pub const CHANGED: &str = "{sigmad}:changed";
/// Key: a sorted set of the `--window` in use, each with the time of its last use.
pub const WINDOWS: &str = "{sigmad}:windows";
/// Keys: the latest anomalies of all replicas, and their order.
pub const LISTED_ANOMALIES: [&str; 2] =
    ["{sigmad}:lists:anomalies", "{sigmad}:lists:anomalies:order"];
/// Keys: the latest samples of all replicas, and their order.
pub const LISTED_SAMPLES: [&str; 2] = ["{sigmad}:lists:samples", "{sigmad}:lists:samples:order"];
/// Key: a sorted set of replicas, each with the time at which it last said that it lives.
pub const ALIVE: &str = "{sigmad}:alive";
/// Values of a stream that Redis keeps: one more than a window, so that the last can be judged by the window
/// before it.
pub const fn window_values(window: usize) -> u32 {
    window as u32 + 1
}

/// The id of a replica: eight lower-case hex digits, new at each start.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplicaId([u8; Self::LEN]);

impl ReplicaId {
    const LEN: usize = 8;

    /// Makes an id from a random number.
    pub fn new(random: u32) -> Self {
        Self(std::array::from_fn(|at| b"0123456789abcdef"[(random >> (28 - 4 * at)) as usize % 16]))
    }

    /// The name of the connections of its store thread, by which others see whether it lives.
    pub fn client_name(self) -> String {
        format!("sigmad-{self}")
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("they are hex digits")
    }

    /// The number that the digits are of.
    pub fn number(&self) -> u32 {
        u32::from_str_radix(self.as_str(), 16).expect("they are hex digits")
    }

    /// Reads the digits. None for what is no id.
    pub fn read(text: &[u8]) -> Option<Self> {
        let digits = <[u8; Self::LEN]>::try_from(text).ok()?;
        digits
            .iter()
            .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
            .then_some(Self(digits))
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Writes `timestamp_us` in the coarsest unit that is exact: seconds, milliseconds, or microseconds.
///
/// Readers derive the unit from the magnitude. In the first years after 1970 that works for seconds only, so
/// there a fraction of a second is written.
pub fn write_timestamp(text: &mut Vec<u8>, timestamp_us: i64) {
    /// 1973: from here on the magnitude distinguishes the units.
    const UNITS_FROM_US: i64 = 100_000_000_000_000;
    if timestamp_us % 1_000_000 == 0 {
        write_number(text, timestamp_us / 1_000_000);
    } else if timestamp_us < UNITS_FROM_US {
        write_number(text, timestamp_us / 1_000_000);
        text.push(b'.');
        write_digits::<6>(text, timestamp_us.unsigned_abs() % 1_000_000);
        while text.last() == Some(&b'0') {
            text.pop();
        }
    } else if timestamp_us % 1_000 == 0 {
        write_number(text, timestamp_us / 1_000);
    } else {
        write_number(text, timestamp_us);
    }
}

/// Writes `metric:<timestamp>`, or `metric:<device>:<timestamp>`.
pub fn write_sample_key(text: &mut Vec<u8>, device: Option<&str>, timestamp_us: i64) {
    text.extend_from_slice(b"metric:");
    if let Some(device) = device {
        text.extend_from_slice(device.as_bytes());
        text.push(b':');
    }
    write_timestamp(text, timestamp_us);
}

/// Writes `sigmad:{<device>}:window:<metric>`, or `sigmad:fleet:window:<metric>`.
pub fn write_window_key(text: &mut Vec<u8>, device: Option<&str>, metric: &str) {
    write_subject(text, device);
    text.extend_from_slice(b":window:");
    text.extend_from_slice(metric.as_bytes());
}

/// Writes `sigmad:{<device>}:counts`, or `sigmad:fleet:counts`.
pub fn write_counts_key(text: &mut Vec<u8>, device: Option<&str>) {
    write_subject(text, device);
    text.extend_from_slice(b":counts");
}

/// Writes `sigmad:{<device>}:states`.
pub fn write_states_key(text: &mut Vec<u8>, device: &str) {
    write_subject(text, Some(device));
    text.extend_from_slice(b":states");
}

/// Writes `sigmad:history:<replica>`.
pub fn write_history_key(text: &mut Vec<u8>, replica: ReplicaId) {
    text.extend_from_slice(b"sigmad:history:");
    text.extend_from_slice(&replica.0);
}

/// A cluster places a key by the text in its first braces. A closing brace in a device name would end that
/// text, and two devices could get the same key, so it is percent-encoded.
fn write_subject(text: &mut Vec<u8>, device: Option<&str>) {
    let Some(device) = device else { return text.extend_from_slice(b"sigmad:fleet") };
    text.extend_from_slice(b"sigmad:{");
    for &byte in device.as_bytes() {
        match byte {
            b'}' => text.extend_from_slice(b"%7D"),
            b'%' => text.extend_from_slice(b"%25"),
            byte => text.push(byte),
        }
    }
    text.push(b'}');
}

/// Writes `<replica>:<serial>`, the id of an entry of a list.
pub fn write_list_id(text: &mut Vec<u8>, replica: ReplicaId, serial: u64) {
    text.extend_from_slice(&replica.0);
    text.push(b':');
    write_number(text, serial);
}

/// None for what is no id of an entry.
pub fn read_list_id(text: &[u8]) -> Option<(ReplicaId, u64)> {
    let (replica, serial) = text.split_at_checked(ReplicaId::LEN)?;
    let serial = read_number(serial.strip_prefix(b":")?)?;
    Some((ReplicaId::read(replica)?, serial as u64))
}

/// Writes the id of a sample in a history: larger than those of all earlier samples.
pub fn write_history_id(text: &mut Vec<u8>, time_us: i64, sequence: u16) {
    write_number(text, time_us / 1_000);
    text.push(b'-');
    write_number(text, time_us % 1_000 * 1_000 + i64::from(sequence));
}

/// Writes a sample as JSON in the form in which clients send it.
pub fn write_sample<'a>(
    text: &mut Vec<u8>,
    timestamp_us: i64,
    device: Option<&str>,
    readings: impl Iterator<Item = (&'a str, f64)>,
) {
    text.extend_from_slice(br#"{"timestamp":"#);
    write_timestamp(text, timestamp_us);
    if let Some(device) = device {
        text.extend_from_slice(br#","device":"#);
        write_string(text, device);
    }
    for (metric, value) in readings {
        text.push(b',');
        write_string(text, metric);
        text.push(b':');
        write_value(text, value);
    }
    text.push(b'}');
}

/// None for what is not a valid name of a device.
pub fn read_name(text: &[u8]) -> Option<&str> {
    str::from_utf8(text).ok().filter(|name| is_name(name))
}

/// None for what is not a valid name of a metric.
pub fn read_metric_name(text: &[u8]) -> Option<&str> {
    str::from_utf8(text).ok().filter(|name| is_metric_name(name))
}

/// Writes a whole number.
pub fn write_number(text: &mut Vec<u8>, number: impl itoa::Integer) {
    text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Digits alone, at most `i64::MAX`.
#[inline]
pub fn read_number(text: &[u8]) -> Option<i64> {
    match digits(text) {
        Some((number, [])) => number.try_into().ok(),
        _ => None,
    }
}

fn write_digits<const DIGITS: usize>(text: &mut Vec<u8>, mut number: u64) {
    let mut digits = [b'0'; DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    text.extend_from_slice(&digits);
}

fn write_value(text: &mut Vec<u8>, value: f64) {
    debug_assert!(value.abs() <= VALUE_MAX);
    serde_json::to_writer(text, &Plain(value)).expect("a number, into memory");
}

fn write_string(text: &mut Vec<u8>, string: &str) {
    serde_json::to_writer(text, string).expect("a string, into memory");
}

#[cfg(test)]
mod tests;
