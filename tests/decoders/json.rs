//! The decoder agrees with a naive one on serde_json, whatever the body.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::Union;

use crate::reference::Checked;

const NAMES: &[&str] = &[
    "timestamp",
    "device",
    "device_id",
    "cpu",
    "rps",
    "disk",
    "net",
    "metrics",
    "host",
    "",
    "ä",
    "c\\u0070u",
    "a name of more than eight bytes",
    "\\u0000",
    "\\ud800",
    "\\n",
    "metri\\u0063s",
    "hostname",
    "deviceId",
    "node",
    "CPU",
    "Rps",
    "ts",
    "time",
    "Date",
    "@timestamp",
    "created_at",
    "metric",
    "value",
    "name",
    "fields",
    "tags",
    "values",
    "plugin",
    "interval",
    "gauge",
    "resourceMetrics",
    "series",
    "status",
    "data",
];

const NUMBERS: &[&str] = &[
    "0",
    "-0",
    "1",
    "60.5",
    "2000",
    "-1",
    "1e3",
    "1E+2",
    "1e-3",
    "1e15",
    "1000000000000001",
    "1e400",
    "-1e400",
    "1e-400",
    "0.1",
    "0.30000000000000004",
    "123456789012345678901234567890",
    "9007199254740993",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "-9223372036854775809",
    "9223372036854775807",
    "9223372036854775808",
    "1735100000",
    "1735100000.123456",
    "1735100000.1234567",
    "1735100000123",
    "1735100000123456",
    "1735100000123456789",
    "1.7351e9",
    "99999999999.9999",
    "01",
    "1.",
    ".5",
    "+1",
    "1e",
    "0x10",
    "-",
    "0.0000000000000000000001",
    "4.9e-324",
    "1.7976931348623157e308",
    "1.7976931348623159e308",
    "100000000000000000000000000000000000000.5e-38",
    "0e999",
];

const STRINGS: &[&str] = &[
    "",
    "edge-17",
    "2024-12-25T04:13:20Z",
    "2024-12-25T04:13:20.5+02:00",
    "0001-01-01T00:00:00Z",
    "é",
    "\\n",
    "\\\"",
    "\\u00e9",
    "\\ud83d\\ude00",
    "\\ud83d",
    "\\ude00",
    "\\u007f",
    "\\u0085",
    "\\/",
    "\\x",
    "]",
    "{\\\"cpu\\\":1}",
    "a device with a name that is longer than the cache's entries hold",
    "2024-12-25t04:13:20z",
    "2016-12-31T23:59:60Z",
    "12345",
    "\u{7f}",
    "\u{85}",
];

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => select(NAMES).prop_map(str::to_owned),
        1 => "[a-z]{1,12}",
        1 => Just("x".repeat(128)),
        1 => Just("x".repeat(129)),
    ]
}

fn space() -> impl Strategy<Value = &'static str> {
    prop_oneof![12 => Just(""), 3 => Just(" "), 1 => select(&["\n", "\r\n", "\t", "  ", "\u{c}", "\0"][..])]
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => select(NUMBERS).prop_map(str::to_owned),
        2 => "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
        2 => any::<f64>().prop_map(|number| format!("{number}")),
        2 => any::<i64>().prop_map(|number| format!("{number}")),
        4 => (0_u32..10_000, 0_u32..100).prop_map(|(whole, part)| format!("{whole}.{part}")),
    ]
}

fn string() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => select(STRINGS).prop_map(|text| format!("\"{text}\"")),
        1 => (0_usize..140).prop_map(|length| format!("\"{}\"", "d".repeat(length))),
        1 => "\"[ -~]{0,20}\"",
    ]
}

/// Any JSON, and some that is nearly so.
fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        6 => number(),
        4 => string(),
        2 => select(&["null", "true", "false"][..]).prop_map(str::to_owned),
        1 => select(&["nul", "True", "NaN", "Infinity", "", "'x'"][..]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec((space(), inner.clone()), 0..4).prop_map(|items| list('[', &items, ']')),
            vec((name(), space(), inner), 0..4).prop_map(|fields| object(&fields)),
        ]
    })
}

fn list(open: char, items: &[(&str, String)], close: char) -> String {
    let items: Vec<_> = items.iter().map(|(space, item)| format!("{space}{item}{space}")).collect();
    format!("{open}{}{close}", items.join(","))
}

fn object(fields: &[(String, &str, String)]) -> String {
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, space, value)| format!("{space}\"{name}\"{space}:{space}{value}{space}"))
        .collect();
    format!("{{{}}}", fields.join(","))
}

/// A sample as clients send it, now and then with something odd.
fn sample() -> impl Strategy<Value = String> {
    let field = prop_oneof![
        4 => (select(&["cpu", "rps", "disk", "net", "temp"][..]), number()),
        2 => (select(&["timestamp", "timestamp", "ts", "time"][..]), prop_oneof![number(), string()]),
        2 => (select(&["device", "device_id", "host", "hostname"][..]), string()),
        1 => (select(&["host", "cpu", "disk", "date"][..]), value()),
        1 => (select(NAMES), value()),
    ];
    let field = (field, space()).prop_map(|((name, value), space)| (name.to_owned(), space, value));
    vec(field, 0..6).prop_map(|fields| object(&fields))
}

fn body() -> impl Strategy<Value = String> {
    let one = || Union::new_weighted(vec![(6, sample().boxed()), (1, value().boxed())]);
    let spaced = || (space(), one());
    prop_oneof![
        2 => one().prop_map(|sample| sample),
        2 => spaced().prop_map(|(space, sample)| format!("{space}{sample}{space}")),
        4 => vec(spaced(), 0..5).prop_map(|items| list('[', &items, ']')),
        3 => vec(one(), 0..5).prop_map(|samples| samples.join("\n")),
        1 => vec(one(), 0..5).prop_map(|samples| samples.join("\r\n\r\n") + "\n"),
        3 => (vec(spaced(), 0..4), vec((name(), space(), value()), 0..3), 0_usize..3).prop_map(
            |(items, mut fields, at)| {
                let metrics = ("metrics".to_owned(), "", list('[', &items, ']'));
                fields.insert(at.min(fields.len()), metrics);
                object(&fields)
            }
        ),
        1 => (one(), select(&[" ", "x", ",", "}", "\n", " \n "][..]), one())
            .prop_map(|(one, between, other)| format!("{one}{between}{other}")),
    ]
}

#[derive(Clone, Debug)]
pub(super) enum Mutation {
    Truncate(usize),
    Replace(usize, u8),
    Insert(usize, u8),
    Remove(usize),
    Mark,
}

pub(super) fn mutation() -> impl Strategy<Value = Mutation> {
    let byte = || {
        prop_oneof![
            4 => select(&b"{}[]\":,\\ \n\t0123456789.-+eEtfn\0"[..]),
            1 => any::<u8>(),
        ]
    };
    let at = || 0_usize..1_024;
    prop_oneof![
        at().prop_map(Mutation::Truncate),
        (at(), byte()).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        (at(), byte()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        at().prop_map(Mutation::Remove),
        Just(Mutation::Mark),
    ]
}

pub(super) fn mutate(mut body: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        let length = body.len().max(1);
        match *mutation {
            Mutation::Truncate(at) => body.truncate(at % length),
            Mutation::Insert(at, byte) => body.insert(at % length.min(body.len() + 1), byte),
            Mutation::Mark => drop(body.splice(0..0, *b"\xEF\xBB\xBF")),
            Mutation::Replace(..) | Mutation::Remove(_) if body.is_empty() => {}
            Mutation::Replace(at, byte) => body[at % length] = byte,
            Mutation::Remove(at) => drop(body.remove(at % length)),
        }
    }
    body
}

const EXAMPLES: &[&str] = &[
    r#"{"timestamp":1735100000,"cpu":60.5,"rps":2000}"#,
    r#"{"cpu":12,"rps":120}"#,
    r#"{"timestamp":0,"cpu":50,"rps":1500}"#,
    r#"{"timestamp": 1735100000, "device": "edge-17", "cpu": 60.5, "rps": 2000}"#,
    r#"{"device_id":"edge-17","cpu":60.5,"temperature":-20.25,"region":"eu-west-1"}"#,
    r#"{"timestamp":"2024-12-25T04:13:20Z","cpu":1e1,"note":"a \"quoted\" word","tags":[1,{"a":null}]}"#,
    r#"[{"cpu":1,"rps":2},{"cpu":3,"rps":4}]"#,
    r#"{"date":1735100000.5,"hostname":"a","instance":"b","CPU":60.5,"created_at":1735100000}"#,
    r#"{"metric":"sys.cpu","timestamp":1735100000,"value":18,"tags":{"host":"a"}}"#,
    r#"{"resourceMetrics":[{"resource":{"attributes":[]},"scopeMetrics":[]}]}"#,
    r#"[{"values":[1.5],"dstypes":["gauge"],"dsnames":["value"],"time":1735100000.5,"interval":10,"host":"a","plugin":"load"}]"#,
    r#"{"metrics":[{"fields":{"usage_idle":91.5},"name":"cpu","tags":{"host":"a"},"timestamp":1735100001}]}"#,
    r#"{"name":"load1","namespace":"host","tags":{"host":"a"},"kind":"absolute","gauge":{"value":0.25}}"#,
    "cpu,host=a usage_idle=91.5 1735100000000000000\n",
    r#"{"source":"agent","metrics":[{"cpu":1,"rps":2},{"cpu":3}],"count":2}"#,
    "{\"cpu\":1}\n{\"cpu\":2}\r\n\n{\"cpu\":tru}\n{\"cpu\":3}\n",
    "\u{feff} [ {\"cpu\":1} , 5 , null , [ 1 ] , {\"cpu\":1e400} ] ",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn on_any_body(body in body(), lines in any::<bool>()) {
        Checked::new().check(body.as_bytes(), lines);
    }

    #[test]
    fn on_damaged_bodies(
        body in prop_oneof![body(), select(EXAMPLES).prop_map(str::to_owned)],
        mutations in vec(mutation(), 1..4),
        lines in any::<bool>(),
    ) {
        Checked::new().check(&mutate(body.into_bytes(), &mutations), lines);
    }

    /// The scanner reads what it can, simd-json the rest; an escape in an ignored field decides.
    #[test]
    fn on_one_sample_by_scanner_and_by_simd_json(sample in sample()) {
        let mut checked = Checked::new();
        for _ in 0..2 {
            checked.check(sample.as_bytes(), false);
            checked.check(sample.replacen('{', r#"{"\u0065scaped":null,"#, 1).as_bytes(), false);
        }
    }
}

#[test]
fn on_every_prefix_of_every_example() {
    let mut checked = Checked::new();
    for example in EXAMPLES {
        for end in 0..=example.len() {
            checked.check(&example.as_bytes()[..end], false);
            checked.check(&example.as_bytes()[..end], true);
        }
    }
}

#[test]
fn on_every_byte_of_every_example_replaced() {
    let mut checked = Checked::new();
    for example in EXAMPLES {
        for at in 0..example.len() {
            for byte in b"{}[]\":,\\ \n0.-e\0\x7F\x80\xFF" {
                let mut body = example.as_bytes().to_vec();
                body[at] = *byte;
                checked.check(&body, false);
                checked.check(&body, true);
            }
        }
    }
}
