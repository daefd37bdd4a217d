//! What things are called in Redis, and how they are written there: keys, members, fields, JSON.
//!
//! Writers append to a buffer. Readers take what anyone may have written, and answer None to what is
//! not ours: names keep the rules of [`is_name`], values are finite and within [`VALUE_MAX`].

use std::fmt;

use crate::exchange::Counts;
use crate::number::Plain;
use crate::sample::{VALUE_MAX, is_name};

/// The number of the last change, whoever made it.
pub const CHANGE: &str = "{sigmad}:change";
/// Who was changed, by the number of the change: devices by name, the fleet as an empty name.
pub const CHANGED: &str = "{sigmad}:changed";
/// In a hash of counts: what replicas of the past have counted.
pub const PAST: &str = "past";
/// Digits of a time in a member: until the year 2286, in order of time.
const TIME_DIGITS: usize = 16;
const TIME_MAX: i64 = 9_999_999_999_999_999;
/// Digits of a sequence in a member.
const SEQUENCE_DIGITS: usize = 3;

/// Values of a stream that Redis keeps: one more than a window, so that the last one can be judged
/// against the window before it.
pub const fn window_values(window: usize) -> u32 {
    window as u32 + 1
}

/// Which replica of the cluster: eight lower-case hex digits, new at each start.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Replica([u8; Self::LEN]);

impl Replica {
    const LEN: usize = 8;

    /// Of a random number.
    pub fn new(random: u32) -> Self {
        Self(std::array::from_fn(|at| b"0123456789abcdef"[(random >> (28 - 4 * at)) as usize % 16]))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("they are hex digits")
    }

    fn read(text: &[u8]) -> Option<Self> {
        let digits = <[u8; Self::LEN]>::try_from(text).ok()?;
        digits
            .iter()
            .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
            .then_some(Self(digits))
    }
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Writes the timestamp that says `timestamp_us` in the coarsest unit that says it exactly: seconds,
/// milliseconds, or microseconds.
///
/// Readers tell the unit from the magnitude. The first years after 1970 are too small for that in any
/// unit but seconds, so there a fraction is written.
pub fn write_timestamp(text: &mut Vec<u8>, timestamp_us: i64) {
    /// From here on milliseconds and microseconds can be told from seconds: 1973.
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
    write_owner(text, device);
    text.extend_from_slice(b":window:");
    text.extend_from_slice(metric.as_bytes());
}

/// Writes `sigmad:{<device>}:counts`, or `sigmad:fleet:counts`.
pub fn write_counts_key(text: &mut Vec<u8>, device: Option<&str>) {
    write_owner(text, device);
    text.extend_from_slice(b":counts");
}

/// Writes `sigmad:history:<replica>`.
pub fn write_history_key(text: &mut Vec<u8>, replica: Replica) {
    text.extend_from_slice(b"sigmad:history:");
    text.extend_from_slice(&replica.0);
}

/// A cluster places a key by what stands in its first braces. A brace that closes them in the name
/// would end that, and could make the keys of two devices one; so it is written as in a URL.
fn write_owner(text: &mut Vec<u8>, device: Option<&str>) {
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

/// Writes the id of a sample in a history: larger than that of each sample before it.
pub fn write_history_id(text: &mut Vec<u8>, time_us: i64, sequence: u16) {
    write_number(text, time_us / 1_000);
    text.push(b'-');
    write_number(text, time_us % 1_000 * 1_000 + i64::from(sequence));
}

/// Writes a sample as JSON, as its client would send it.
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

/// One value in a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Member {
    /// When it arrived, microseconds since 1970, by the replica's clock.
    pub time_us: i64,
    /// Where it arrived.
    pub replica: Replica,
    /// Orders those of one time and replica: below 1,000.
    pub sequence: u16,
    /// The value.
    pub value: f64,
}

impl Member {
    /// Writes `<time>:<replica>:<sequence>:<value>`: in bytewise order as in order of arrival.
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

    /// None for what is not a member of ours.
    pub fn read(text: &[u8]) -> Option<Self> {
        let mut parts = text.splitn(4, |&byte| byte == b':');
        let mut part = || parts.next();
        let (time, replica, sequence, value) = (part()?, part()?, part()?, part()?);
        if time.len() != TIME_DIGITS || sequence.len() != SEQUENCE_DIGITS {
            return None;
        }
        let value: f64 = str::from_utf8(value).ok()?.parse().ok()?;
        Some(Self {
            time_us: read_number(time)?,
            replica: Replica::read(replica)?,
            sequence: u16::try_from(read_number(sequence)?).ok()?,
            // Plus zero: -0 is 0 here.
            value: Some(value + 0.0).filter(|value| value.abs() <= VALUE_MAX)?,
        })
    }
}

/// Who has counted a field of a hash of counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// That replica.
    Replica(Replica),
    /// Replicas that have gone.
    Past,
}

/// Writes the field of a replica, or of a metric of it: `<replica>`, `<replica>:<metric>`.
pub fn write_field(text: &mut Vec<u8>, replica: Replica, metric: Option<&str>) {
    text.extend_from_slice(&replica.0);
    if let Some(metric) = metric {
        text.push(b':');
        text.extend_from_slice(metric.as_bytes());
    }
}

/// Who has counted, and which metric (None: samples); None for a field that is not ours.
pub fn read_field(text: &[u8]) -> Option<(Counter, Option<&str>)> {
    let (counter, metric) = match text.iter().position(|&byte| byte == b':') {
        Some(colon) => (&text[..colon], Some(&text[colon + 1..])),
        None => (text, None),
    };
    let counter = match counter {
        past if past == PAST.as_bytes() => Counter::Past,
        replica => Counter::Replica(Replica::read(replica)?),
    };
    match metric {
        Some(metric) => Some((counter, Some(read_name(metric)?))),
        None => Some((counter, None)),
    }
}

/// What a replica knows of a device, or of the fleet: when it last heard, and what it has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// When the last sample arrived, microseconds since 1970, by the replica's clock.
    pub time_us: i64,
    /// The timestamp of that sample.
    pub timestamp_us: i64,
    /// Samples and anomalies.
    pub counts: Counts,
}

impl Heard {
    /// Writes `<time_us>:<timestamp_us>:<samples>:<anomalies>`.
    pub fn write(&self, text: &mut Vec<u8>) {
        for number in [self.time_us, self.timestamp_us] {
            write_number(text, number);
            text.push(b':');
        }
        write_counts(text, self.counts);
    }

    /// None for what is not ours.
    pub fn read(text: &[u8]) -> Option<Self> {
        let mut parts = text.splitn(3, |&byte| byte == b':');
        Some(Self {
            time_us: read_number(parts.next()?)?,
            timestamp_us: read_number(parts.next()?)?,
            counts: read_counts(parts.next()?)?,
        })
    }
}

/// Writes `<total>:<anomalies>`.
pub fn write_counts(text: &mut Vec<u8>, counts: Counts) {
    write_number(text, counts.total);
    text.push(b':');
    write_number(text, counts.anomalies);
}

/// None for what is not ours.
pub fn read_counts(text: &[u8]) -> Option<Counts> {
    let colon = text.iter().position(|&byte| byte == b':')?;
    let (total, anomalies) = (read_number(&text[..colon])?, read_number(&text[colon + 1..])?);
    Some(Counts { total: total as u64, anomalies: anomalies as u64 })
}

/// None for what is not the name of a device or a metric.
pub fn read_name(text: &[u8]) -> Option<&str> {
    str::from_utf8(text).ok().filter(|name| is_name(name))
}

/// Writes a whole number.
pub fn write_number(text: &mut Vec<u8>, number: impl itoa::Integer) {
    text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Digits alone, at most `i64::MAX`.
fn read_number(text: &[u8]) -> Option<i64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if is_number { str::from_utf8(text).ok()?.parse().ok() } else { None }
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
