//! The format of data in Redis: keys, members, fields, JSON.
//!
//! Writers append to a buffer. Readers accept any bytes and return None for what sigmad does not write: names
//! must pass [`is_name`] or [`is_metric_name`], values must be finite and within [`VALUE_MAX`].

use std::fmt;

use super::reply::digits;
use crate::judged_queue::JudgedCounts;
use sigmad_sample::number::Plain;
use sigmad_sample::{VALUE_MAX, is_metric_name, is_name};

/// Key: the number of the last change by any replica.
pub const CHANGE: &str = "{sigmad}:change";
/// Key: a sorted set of names with the number of their last change. The fleet has an empty name.
pub const CHANGED: &str = "{sigmad}:changed";
/// Key: a sorted set of the `--window` in use, each with the time of its last use.
pub const WINDOWS: &str = "{sigmad}:windows";
/// Field in a hash of counts: the counts of replicas that are gone.
pub const PAST: &str = "past";
/// Digits of a time in a member: until the year 2286, bytewise order is order of time.
const TIME_DIGITS: usize = 16;
const TIME_MAX: i64 = 9_999_999_999_999_999;
/// Digits of a sequence in a member.
const SEQUENCE_DIGITS: usize = 3;

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

/// Whose counts a field of a hash has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountSource {
    /// Those of a replica.
    Replica(ReplicaId),
    /// The sum of replicas that are gone.
    Past,
}

impl CountSource {
    fn as_str(&self) -> &str {
        match self {
            Self::Replica(replica) => replica.as_str(),
            Self::Past => PAST,
        }
    }
}

/// Writes the field of a metric: `<replica>:<metric>`, `past:<metric>`.
pub fn write_metric_field(text: &mut Vec<u8>, source: &CountSource, metric: &str) {
    text.extend_from_slice(source.as_str().as_bytes());
    text.push(b':');
    text.extend_from_slice(metric.as_bytes());
}

/// Writes the field of a replica, or of one of its metrics: `<replica>`, `<replica>:<metric>`.
pub fn write_field(text: &mut Vec<u8>, replica: ReplicaId, metric: Option<&str>) {
    text.extend_from_slice(&replica.0);
    if let Some(metric) = metric {
        text.push(b':');
        text.extend_from_slice(metric.as_bytes());
    }
}

/// Whose counts, and of which metric (None: samples). None for a field that sigmad does not write.
pub fn read_field(text: &[u8]) -> Option<(CountSource, Option<&str>)> {
    let (source, metric) = match text.iter().position(|&byte| byte == b':') {
        Some(colon) => (&text[..colon], Some(&text[colon + 1..])),
        None => (text, None),
    };
    let source = match source {
        past if past == PAST.as_bytes() => CountSource::Past,
        replica => CountSource::Replica(ReplicaId::read(replica)?),
    };
    match metric {
        Some(metric) => Some((source, Some(read_metric_name(metric)?))),
        None => Some((source, None)),
    }
}

/// What one replica has counted of a device, or of the fleet, and when its last sample arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaCounters {
    /// When the last sample arrived, microseconds since 1970, by Redis' clock.
    pub time_us: i64,
    /// The timestamp of that sample.
    pub timestamp_us: i64,
    /// Samples and anomalies.
    pub counts: JudgedCounts,
}

impl ReplicaCounters {
    /// Writes `<time_us>:<timestamp_us>:<samples>:<anomalies>`.
    pub fn write(&self, text: &mut Vec<u8>) {
        for number in [self.time_us, self.timestamp_us] {
            write_number(text, number);
            text.push(b':');
        }
        write_counts(text, self.counts);
    }

    /// None for text that sigmad does not write.
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
pub fn write_counts(text: &mut Vec<u8>, counts: JudgedCounts) {
    write_number(text, counts.total);
    text.push(b':');
    write_number(text, counts.anomalies);
}

/// None for text that sigmad does not write.
pub fn read_counts(text: &[u8]) -> Option<JudgedCounts> {
    let colon = text.iter().position(|&byte| byte == b':')?;
    let (total, anomalies) = (read_number(&text[..colon])?, read_number(&text[colon + 1..])?);
    Some(JudgedCounts { total: total as u64, anomalies: anomalies as u64 })
}

/// None for what is not a valid name of a device.
pub fn read_name(text: &[u8]) -> Option<&str> {
    str::from_utf8(text).ok().filter(|name| is_name(name))
}

/// None for what is not a valid name of a metric.
fn read_metric_name(text: &[u8]) -> Option<&str> {
    str::from_utf8(text).ok().filter(|name| is_metric_name(name))
}

/// Writes a whole number.
pub fn write_number(text: &mut Vec<u8>, number: impl itoa::Integer) {
    text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Digits alone, at most `i64::MAX`.
#[inline]
fn read_number(text: &[u8]) -> Option<i64> {
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
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut text = Vec::new();
        write(&mut text);
        String::from_utf8(text).expect("UTF-8")
    }

    /// A client's timestamp in microseconds: its magnitude decides the unit.
    fn micros(timestamp: &str) -> i64 {
        match timestamp.parse::<i64>() {
            Ok(number @ ..100_000_000_000) => number * 1_000_000,
            Ok(number @ ..100_000_000_000_000) => number * 1_000,
            Ok(number) => number,
            Err(_) => (timestamp.parse::<f64>().expect("a number") * 1e6).round() as i64,
        }
    }

    fn name() -> impl Strategy<Value = String> {
        // Characters that names may have, many of them special in some format.
        let hostile = "[:{}%\"\\\\ 0-9a-f\u{e9}\u{2603}\u{1f980}\u{2028}']{1,12}";
        prop_oneof![hostile, "\\PC{1,30}", Just("past".into()), Just("fleet".into())]
            .prop_filter("names only", |name: &String| is_name(name))
    }

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<f64>().prop_filter("within bounds", |value| value.abs() <= VALUE_MAX),
            (-VALUE_MAX..=VALUE_MAX),
            (-10_000..10_000).prop_map(f64::from),
            Just(VALUE_MAX),
            Just(5e-324),
        ]
        .prop_map(|value| value + 0.0)
    }

    fn counts() -> impl Strategy<Value = JudgedCounts> {
        let number = || 0..=i64::MAX as u64;
        (number(), number()).prop_map(|(total, anomalies)| JudgedCounts { total, anomalies })
    }

    fn member() -> impl Strategy<Value = Member> {
        (0..=TIME_MAX, any::<u32>(), 0..1_000_u16, value()).prop_map(
            |(time_us, random, sequence, value)| Member {
                time_us,
                replica: ReplicaId::new(random),
                sequence,
                value,
            },
        )
    }

    proptest! {
        #[test]
        fn members_are_read_back_and_sorted_by_time(a in member(), b in member()) {
            let texts = [a, b].map(|member| text(|text| member.write(text)));
            prop_assert_eq!(Member::read(texts[0].as_bytes()), Some(a));
            let order = |m: &Member| (m.time_us, m.replica, m.sequence);
            if order(&a) != order(&b) {
                prop_assert_eq!(order(&a) < order(&b), texts[0] < texts[1]);
            }
        }

        #[test]
        fn fields_and_counts_read_back(
            random in any::<u32>(),
            metric in proptest::option::of(name()),
            (time_us, timestamp_us) in (0..i64::MAX, 0..i64::MAX),
            counts in counts(),
        ) {
            let replica = ReplicaId::new(random);
            let field = text(|text| write_field(text, replica, metric.as_deref()));
            let expected = (CountSource::Replica(replica), metric.as_deref());
            prop_assert_eq!(read_field(field.as_bytes()), Some(expected));
            let past = field.replacen(replica.as_str(), PAST, 1);
            prop_assert_eq!(read_field(past.as_bytes()), Some((CountSource::Past, metric.as_deref())));
            let counters = ReplicaCounters { time_us, timestamp_us, counts };
            let written = text(|text| counters.write(text));
            prop_assert_eq!(ReplicaCounters::read(written.as_bytes()), Some(counters));
            let written = text(|text| write_counts(text, counts));
            prop_assert_eq!(read_counts(written.as_bytes()), Some(counts));
        }

        #[test]
        fn any_bytes_are_accepted(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Some(member) = Member::read(&bytes) {
                prop_assert!(member.value.abs() <= VALUE_MAX);
            }
            if let Some((_, Some(metric))) = read_field(&bytes) {
                prop_assert!(is_name(metric));
            }
            ReplicaCounters::read(&bytes);
            read_counts(&bytes);
        }

        #[test]
        fn a_damaged_member_is_none(member in member(), at in 0..29_usize, byte in any::<u8>()) {
            let mut bytes = text(|text| member.write(text)).into_bytes();
            bytes[at] = byte;
            if let Some(read) = Member::read(&bytes) {
                prop_assert_eq!(text(|text| read.write(text)).into_bytes(), bytes);
            }
        }

        #[test]
        fn timestamps_are_exact_to_the_microsecond(
            us in prop_oneof![0..200_000_000_000_000_i64, 0..9_000_000_000_000_000_i64],
            unit in prop_oneof![Just(1), Just(1_000), Just(1_000_000)],
        ) {
            let us = us / unit * unit;
            let written = text(|text| write_timestamp(text, us));
            prop_assert_eq!(micros(&written), us, "{}", written);
        }

        #[test]
        fn samples_are_written_as_a_client_sends_them(
            timestamp_us in 0..9_000_000_000_000_000_i64,
            device in proptest::option::of(name()),
            readings in proptest::collection::btree_map(name(), value(), 1..5),
        ) {
            let pairs = readings.iter().map(|(name, &value)| (&**name, value));
            let sample = text(|text| write_sample(text, timestamp_us, device.as_deref(), pairs));
            // Raw values: serde_json is off by one unit in the last digit.
            let mut read: BTreeMap<String, Box<RawValue>> =
                serde_json::from_str(&sample).expect("JSON");
            let mut raw = |name: &str| read.remove(name).map(|value| value.get().to_owned());
            prop_assert_eq!(micros(&raw("timestamp").expect("always there")), timestamp_us);
            let named = raw("device").map(|name| serde_json::from_str::<String>(&name).expect("name"));
            prop_assert_eq!(named, device);
            for (name, value) in readings {
                prop_assert_eq!(raw(&name).expect(&name).parse(), Ok(value));
            }
            prop_assert!(read.is_empty());
        }

        #[test]
        fn all_keys_are_distinct(
            devices in proptest::collection::hash_set(name(), 1..4),
            metrics in proptest::collection::hash_set(name(), 1..4),
            timestamps in proptest::collection::hash_set(0..5_000_000_000_000_000_i64, 1..4),
        ) {
            let mut keys = HashSet::new();
            let mut is_new = |key: String| keys.insert(key);
            for device in devices.iter().map(|name| Some(&**name)).chain([None]) {
                prop_assert!(is_new(text(|text| write_counts_key(text, device))));
                for metric in &metrics {
                    prop_assert!(is_new(text(|text| write_window_key(text, device, metric))));
                }
                for &timestamp_us in &timestamps {
                    prop_assert!(is_new(text(|text| write_sample_key(text, device, timestamp_us))));
                }
            }
        }

        #[test]
        fn history_ids_increase(a in (0..TIME_MAX, 0..1_000_u16), b in (0..TIME_MAX, 0..1_000_u16)) {
            let id = |(time_us, sequence)| {
                let id = text(|text| write_history_id(text, time_us, sequence));
                let (ms, rest) = id.split_once('-').expect("two parts");
                (ms.parse::<u64>().expect("ms"), rest.parse::<u64>().expect("the rest"))
            };
            prop_assert_eq!(a.cmp(&b), id(a).cmp(&id(b)));
        }
    }

    #[test]
    fn formats_are_as_documented() {
        let replica = ReplicaId::new(0x0a1b_2c3d);
        assert_eq!(replica.as_str(), "0a1b2c3d");
        for (us, expected) in [
            (1_735_100_000_000_000, "1735100000"),
            (1_735_100_000_120_000, "1735100000120"),
            (1_735_100_000_120_001, "1735100000120001"),
            (5_000, "0.005"),
            (0, "0"),
        ] {
            assert_eq!(text(|text| write_timestamp(text, us)), expected);
        }
        let key = |device, metric| text(|text| write_window_key(text, device, metric));
        assert_eq!(key(Some("edge-17"), "cpu"), "sigmad:{edge-17}:window:cpu");
        assert_eq!(key(Some("a}b%"), "cpu"), "sigmad:{a%7Db%25}:window:cpu");
        assert_eq!(key(None, "cpu"), "sigmad:fleet:window:cpu");
        assert_eq!(text(|text| write_counts_key(text, Some("e"))), "sigmad:{e}:counts");
        let us = 1_735_100_000_000_000;
        assert_eq!(text(|text| write_sample_key(text, Some("e:1"), us)), "metric:e:1:1735100000");
        assert_eq!(text(|text| write_sample_key(text, None, us)), "metric:1735100000");
        let readings = [("cpu", 60.5), ("rps", 2000.0)].into_iter();
        assert_eq!(
            text(|text| write_sample(text, us, Some("edge-17"), readings)),
            r#"{"timestamp":1735100000,"device":"edge-17","cpu":60.5,"rps":2000}"#
        );
        let member = Member { time_us: us + 7, replica, sequence: 5, value: -1e-7 };
        assert_eq!(text(|text| member.write(text)), "1735100000000007:0a1b2c3d:005:-1e-7");
        for foreign in [
            "",
            "1735100000000007:0a1b2c3d:005:",
            "1735100000000007:0a1b2c3d:005:inf",
            "1735100000000007:0a1b2c3d:005:NaN",
            "1735100000000007:0a1b2c3d:005:1e16",
            "1735100000000007:0A1B2C3D:005:1",
            "173510000000007:0a1b2c3d:005:1",
            "1735100000000007:0a1b2c3d:05:1",
            "1735100000000007:0a1b2c3d:1",
        ] {
            assert_eq!(Member::read(foreign.as_bytes()), None, "{foreign}");
        }
        for foreign in ["", "past:", "0a1b2c3", "0a1b2c3d:", "0a1b2c3d:\u{7}", "x:cpu", "passed"] {
            assert_eq!(read_field(foreign.as_bytes()), None, "{foreign}");
        }
        for foreign in ["", ":", "1:", "1:-1", "1:+1", "1:2:3", "1:9223372036854775808"] {
            assert_eq!(read_counts(foreign.as_bytes()), None, "{foreign}");
        }
    }
}
