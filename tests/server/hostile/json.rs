//! Bodies of JSON at the edges of its grammar.

use std::panic::catch_unwind;

use super::assert_none_failed;
use super::cases::BAD;
use crate::harness::{Engine, Model, Server, assert_close, get, post, shown};
use serde_json::{Value, json};

pub(super) struct JsonCase {
    pub(super) name: &'static str,
    /// `DEVICE` stands for the device of the row.
    body: Vec<u8>,
    statuses: &'static [u16],
    /// Values of `rps` that enter the device's window.
    enters: &'static [f64],
}

pub(super) fn json_cases() -> Vec<JsonCase> {
    fn row(
        name: &'static str,
        body: &str,
        statuses: &'static [u16],
        enters: &'static [f64],
    ) -> JsonCase {
        JsonCase { name, body: body.as_bytes().to_vec(), statuses, enters }
    }
    fn bytes(name: &'static str, body: &[u8], statuses: &'static [u16]) -> JsonCase {
        JsonCase { name, body: body.to_vec(), statuses, enters: &[] }
    }
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"device":"DEVICE","extra":{open}{close},"rps":10}}"#)
    };
    let objects = |depth: usize| {
        let (open, close) = (r#"{"a":"#.repeat(depth), "}".repeat(depth));
        format!(r#"{{"device":"DEVICE","extra":{open}1{close},"rps":10}}"#)
    };
    // Deeper nesting may be refused; where it is served the value is the usual one.
    let deep = |name: &'static str, body: String| JsonCase {
        name,
        body: body.replace(r#""rps":10"#, r#""other":10"#).into_bytes(),
        statuses: &[202, 400],
        enters: &[],
    };
    let wide = |count: usize| {
        let fields: Vec<String> = (0..count).map(|i| format!("\"m{i}\":1")).collect();
        format!(r#"{{"device":"DEVICE",{}}}"#, fields.join(","))
    };
    vec![
        row("1e308", r#"{"device":"DEVICE","rps":1e308}"#, BAD, &[]),
        row("1e309", r#"{"device":"DEVICE","rps":1e309}"#, BAD, &[]),
        row("-1e308", r#"{"device":"DEVICE","level":-1e308}"#, BAD, &[]),
        row("1e400", r#"{"device":"DEVICE","rps":1e400}"#, BAD, &[]),
        row(
            "1e99999999999999999999",
            r#"{"device":"DEVICE","rps":1e99999999999999999999}"#,
            BAD,
            &[],
        ),
        row("NaN", r#"{"device":"DEVICE","rps":NaN}"#, BAD, &[]),
        row("Infinity", r#"{"device":"DEVICE","rps":Infinity}"#, BAD, &[]),
        row("-Infinity", r#"{"device":"DEVICE","rps":-Infinity}"#, BAD, &[]),
        row("Infinity as a string", r#"{"device":"DEVICE","rps":"Infinity"}"#, BAD, &[]),
        row("NaN as a string", r#"{"device":"DEVICE","rps":"NaN"}"#, BAD, &[]),
        row("a number as a string", r#"{"device":"DEVICE","rps":"10"}"#, BAD, &[]),
        row("40 levels in an ignored field", &nested(40), &[202], &[10.0]),
        row("40 objects in an ignored field", &objects(40), &[202], &[10.0]),
        deep("300 levels", nested(300)),
        deep("10,000 levels", nested(10_000)),
        deep("100,000 levels", nested(100_000)),
        deep("100,000 objects", objects(100_000)),
        row("brackets without an end", &"[".repeat(100_000), BAD, &[]),
        row("objects without an end", &r#"{"a":"#.repeat(100_000), BAD, &[]),
        row("a sample of 32 metrics", &wide(32), &[202], &[]),
        row("a sample of 33 metrics", &wide(33), BAD, &[]),
        row("a sample of 10,000 metrics", &wide(10_000), BAD, &[]),
        row("lone surrogate in a device", r#"{"device":"\ud800","rps":10}"#, BAD, &[]),
        row("low surrogate first", r#"{"device":"\udc00\ud800","rps":10}"#, BAD, &[]),
        row(
            "lone surrogate in an ignored field",
            r#"{"device":"DEVICE","x":"\ud800","other":1}"#,
            &[202, 400],
            &[],
        ),
        row(
            "surrogate pair",
            r#"{"device":"DEVICE","x":"\ud83d\ude00","rps":10}"#,
            &[202],
            &[10.0],
        ),
        row("bad escape", r#"{"device":"DEVICE","x":"\q","rps":10}"#, BAD, &[]),
        row("short escape", r#"{"device":"DEVICE","x":"\u12","rps":10}"#, BAD, &[]),
        bytes("invalid UTF-8 in a device", b"{\"device\":\"\xff\xfe\",\"rps\":10}", BAD),
        bytes("overlong UTF-8 in a device", b"{\"device\":\"\xc0\xaf\",\"rps\":10}", BAD),
        bytes("surrogate in UTF-8", b"{\"device\":\"\xed\xa0\x80\",\"rps\":10}", BAD),
        bytes(
            "invalid UTF-8 in an ignored field",
            b"{\"device\":\"DEVICE\",\"x\":\"\xff\",\"rps\":10}",
            BAD,
        ),
        bytes("invalid UTF-8 in a name", b"{\"device\":\"DEVICE\",\"\xff\":1,\"rps\":10}", BAD),
        bytes(
            "control character in a string",
            b"{\"device\":\"DEVICE\",\"x\":\"a\nb\",\"rps\":10}",
            BAD,
        ),
        bytes("NUL after the end", b"{\"device\":\"DEVICE\",\"rps\":10}\0", BAD),
        bytes(
            "UTF-16",
            &"{\"rps\":10}".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>(),
            BAD,
        ),
        row("the same metric twice", r#"{"device":"DEVICE","rps":900,"rps":10}"#, &[202], &[10.0]),
        row(
            "the same metric escaped",
            r#"{"device":"DEVICE","rps":900,"\u0072ps":10}"#,
            &[202],
            &[10.0],
        ),
        row(
            "the same device twice",
            r#"{"device":"another","device":"DEVICE","rps":10}"#,
            &[202],
            &[10.0],
        ),
        row(
            "device and device_id agree",
            r#"{"device":"DEVICE","device_id":"DEVICE","rps":10}"#,
            &[202],
            &[10.0],
        ),
        row(
            "huge integer",
            r#"{"device":"DEVICE","rps":123456789012345678901234567890}"#,
            BAD,
            &[],
        ),
        row("2^64", r#"{"device":"DEVICE","rps":18446744073709551616}"#, BAD, &[]),
        row(
            "huge timestamp",
            r#"{"device":"DEVICE","timestamp":1e300,"other":1}"#,
            &[202, 400],
            &[],
        ),
        row(
            "negative timestamp",
            r#"{"device":"DEVICE","timestamp":-1,"other":1}"#,
            &[202, 400],
            &[],
        ),
        row(
            "many digits",
            r#"{"device":"DEVICE","rps":10.00000000000000000000000000000000000000000001}"#,
            &[202],
            &[10.0],
        ),
        row("a smallest number", r#"{"device":"DEVICE","other":5e-324}"#, &[202], &[]),
        row("leading zero", r#"{"device":"DEVICE","rps":010}"#, BAD, &[]),
        row("leading plus", r#"{"device":"DEVICE","rps":+10}"#, BAD, &[]),
        row("hex number", r#"{"device":"DEVICE","rps":0x10}"#, BAD, &[]),
        row("trailing comma", r#"{"device":"DEVICE","rps":10,}"#, BAD, &[]),
        row("single quotes", "{'device':'DEVICE','rps':10}", BAD, &[]),
        row("comment", r#"{"device":"DEVICE",/*x*/"rps":10}"#, BAD, &[]),
        row("no quotes around names", r#"{device:"DEVICE","rps":10}"#, BAD, &[]),
        row("text after the end", r#"{"device":"DEVICE","rps":10}]"#, BAD, &[]),
        row("an empty name", r#"{"device":"DEVICE","":1,"rps":-1}"#, BAD, &[]),
        row("negative rps", r#"{"device":"DEVICE","rps":-1}"#, BAD, &[]),
        row(
            "1e400 inside a batch",
            r#"[{"device":"DEVICE","rps":10},{"device":"DEVICE","rps":1e400},{"device":"DEVICE","rps":12}]"#,
            &[202],
            &[10.0, 12.0],
        ),
        row(
            "33 metrics inside a batch",
            &format!(r#"[{{"device":"DEVICE","rps":10}},{}]"#, wide(33)),
            &[202],
            &[10.0],
        ),
        row(
            "strangers inside a batch",
            r#"[null,1,"x",[],[{"rps":1}],{"device":"DEVICE","rps":10},true,{}]"#,
            &[202],
            &[10.0],
        ),
        row(
            "a batch that ends early",
            r#"[{"device":"DEVICE","rps":10},{"device":"DEVICE","rps":"#,
            BAD,
            &[],
        ),
        row(
            "a batch in a batch",
            r#"{"metrics":{"metrics":[{"device":"DEVICE","rps":10}]}}"#,
            BAD,
            &[],
        ),
        row(
            "white space of every kind",
            " \t\r\n{ \"device\"\t:\n\"DEVICE\" , \"rps\" : 10 }\r\n\t ",
            &[202],
            &[10.0],
        ),
    ]
}

#[test]
fn hostile_json() {
    let server = Server::start(Engine::Native, &["--workers", "1"]);
    let mut connection = server.connect();
    let mut failed = Vec::new();
    let cases = json_cases();
    for (index, case) in cases.iter().enumerate() {
        let device = format!("json-{index}");
        let mut model = Model::default();
        let mut batch = Vec::new();
        for i in 0..12 {
            let value = f64::from(9 + 2 * (i % 2));
            model.push(value);
            batch.push(json!({"device": device, "rps": value}));
        }
        connection
            .exchange(&post("/ingest", Value::from(batch).to_string().as_bytes()))
            .expect(202);
        let body = replaced(&case.body, b"DEVICE", device.as_bytes());
        connection.send(&post("/ingest", &body));
        let answer = match connection.read() {
            Ok(answer) => answer,
            Err(failure) => {
                failed.push(format!("{}: {failure:?}", case.name));
                connection = server.connect();
                continue;
            }
        };
        if !case.statuses.contains(&answer.status) {
            failed.push(format!("{}: {}: {}", case.name, answer.status, shown(&answer.body)));
            continue;
        }
        answer.json();
        // The next good sample's verdict is right, and so is the window.
        for &value in case.enters.iter().chain(&[50.0]) {
            model.push(value);
        }
        let good = format!(r#"{{"device":"{device}","rps":50}}"#);
        connection.exchange(&post("/ingest", good.as_bytes())).expect(202);
        let report = connection.exchange(&get(&format!("/analyze?device={device}"))).json();
        let outcome = catch_unwind(|| {
            assert_eq!(report["totalCount"], model.total, "{report}");
            assert_eq!(report["isAnomaly"], true);
            assert_close(&report["zScore"], model.z_score, "zScore");
        });
        if outcome.is_err() {
            failed.push(format!("{}: then the verdict is wrong: {report}", case.name));
        }
    }
    println!("{} cases", cases.len());
    assert_none_failed(&failed, cases.len());
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = crate::harness::find(rest, from) {
        result.extend_from_slice(&rest[..at]);
        result.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    result.extend_from_slice(rest);
    result
}
