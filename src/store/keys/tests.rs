use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::member::TIME_MAX;
use super::*;
use crate::judged_queue::JudgedCounts;

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
