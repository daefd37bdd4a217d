//! Every endpoint of SPEC section 2, the verdicts of section 3 and the settings behind them, asked
//! of both engines through real sockets.
//!
//! Each case gets a server of its own. What `--engine may` cannot pass is listed by name with the
//! reason; a listed case that passes fails the test as much as an unlisted one that does not.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::harness::{
    End, Engine, Launch, Model, Response, Server, WAIT, assert_close, get, now_s, post, request,
    shown,
};
use serde_json::{Value, json};

/// The bodies that the services before this one were fed with.
const SEEDS: [&str; 3] = [
    r#"{"timestamp":1735100000,"cpu":60.5,"rps":2000}"#,
    r#"{"cpu":12,"rps":120}"#,
    r#"{"timestamp":0,"cpu":50,"rps":1500}"#,
];

/// Cases that `--engine may` cannot pass, and why.
const MAY_CANNOT: &[(&str, &str)] = &[
    ("chunked_body", "may_minihttp does not know chunked bodies"),
    (
        "head_keeps_the_connection",
        "an answer to HEAD can only be written past may_minihttp, which ends it",
    ),
    ("a_hundred_headers", "may_minihttp closes without an answer past 16 headers"),
];

type Case = (&'static str, fn(Engine));

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        const CASES: &[Case] = &[$((stringify!($name), $name)),*];
    };
}

cases![
    seed_bodies,
    answer_of_a_post,
    device_and_device_id,
    device_names_at_the_limit,
    bad_devices,
    timestamps,
    bad_timestamps,
    numbers_at_the_limit,
    bad_numbers,
    ignored_fields,
    arrays,
    wrapped_metrics,
    lines,
    lines_without_content_type,
    partial_batches,
    errors_are_capped_at_ten,
    a_batch_of_bad_samples,
    bodies_that_are_no_samples,
    gzip_body,
    zstd_body,
    snappy_body,
    identity_body,
    unknown_content_coding,
    broken_gzip,
    chunked_body,
    a_hundred_headers,
    analyze_without_samples,
    analyze_shape,
    analyze_of_an_unknown_device,
    analyze_agrees_with_two_passes,
    analyze_of_other_metrics,
    fleet_and_devices_are_apart,
    min_samples_hold_back,
    threshold_is_exclusive,
    no_spread,
    outlier_does_not_hide_itself,
    a_huge_value_leaves_no_trace,
    settings_of_the_window,
    detectors_beside_each_other,
    stats,
    devices,
    devices_bad_queries,
    anomalies,
    latest,
    health,
    readiness,
    openapi,
    prometheus_text,
    prometheus_counts,
    openmetrics,
    head_requests,
    head_keeps_the_connection,
    method_not_allowed,
    options_of_the_server,
    cors,
    not_found,
    profile_parameters,
    query_strings,
    head_of_every_answer,
    ingest_token,
    read_token,
    token_from_file,
    setting_from_environment,
    streams_are_limited,
    read_after_write,
];

fn run(engine: Engine) -> Vec<(&'static str, Result<(), String>)> {
    let mut outcomes = Vec::new();
    for &(name, case) in CASES {
        let outcome = catch_unwind(AssertUnwindSafe(|| case(engine))).map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_else(|| "panicked".to_owned())
        });
        outcomes.push((name, outcome));
    }
    outcomes
}

#[test]
fn native_passes_every_case() {
    let failed: Vec<String> = run(Engine::Native)
        .into_iter()
        .filter_map(|(name, outcome)| outcome.err().map(|why| format!("{name}: {why}")))
        .collect();
    println!("{} cases", CASES.len());
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn may_passes_all_but_the_listed() {
    for (name, _) in MAY_CANNOT {
        assert!(CASES.iter().any(|(case, _)| case == name), "{name} is no case");
    }
    let mut wrong = Vec::new();
    for (name, outcome) in run(Engine::May) {
        let listed = MAY_CANNOT.iter().find(|(case, _)| *case == name);
        match (outcome, listed) {
            (Ok(()), None) | (Err(_), Some(_)) => {}
            (Ok(()), Some((_, reason))) => wrong.push(format!("{name} passes, although {reason}")),
            (Err(why), None) => wrong.push(format!("{name}: {why}")),
        }
    }
    println!("{} cases, {} of them beyond may", CASES.len(), MAY_CANNOT.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn start(engine: Engine) -> Server {
    Server::start(engine, &[])
}

/// The rows of a list answer: the array itself, or the only array in the object.
fn rows(answer: &Value) -> Vec<Value> {
    let array = match answer {
        Value::Array(rows) => Some(rows),
        Value::Object(fields) => fields.values().find_map(Value::as_array),
        _ => None,
    };
    array.unwrap_or_else(|| panic!("no list in {answer}")).clone()
}

fn analyze(server: &Server, device: &str) -> Value {
    server.get(&format!("/analyze?device={device}")).expect(200).json()
}

// ---- POST ----

fn seed_bodies(engine: Engine) {
    let server = start(engine);
    for (round, body) in SEEDS.iter().enumerate() {
        let answer = server.ask(&post("/ingest", body.as_bytes()));
        assert_eq!(answer.accepted(), 1);
        let answer = server.ask(&post("/metrics", body.as_bytes())).expect(200);
        assert_eq!(answer.json(), json!({"status": "accepted", "accepted": 1}));
        assert_eq!(server.total(), 2 * round as u64 + 2);
    }
}

fn answer_of_a_post(engine: Engine) {
    let answer = start(engine).ingest(SEEDS[0]);
    assert_eq!(answer.json(), json!({"status": "accepted", "accepted": 1}));
}

fn device_and_device_id(engine: Engine) {
    let server = start(engine);
    server.ingest(r#"{"device":"edge-17","rps":1}"#).expect(202);
    server.ingest(r#"{"device_id":"edge-17","rps":2}"#).expect(202);
    server.ingest(r#"{"device":"größe/1 ☃","rps":3}"#).expect(202);
    assert_eq!(analyze(&server, "edge-17")["totalCount"], 2);
    let snowman = analyze(&server, "gr%C3%B6%C3%9Fe/1%20%E2%98%83");
    assert_eq!(snowman["totalCount"], 1);
    assert_eq!(snowman["device"], "größe/1 ☃");
    assert_eq!(analyze(&server, "gr%c3%b6%c3%9fe%2F1+%e2%98%83")["totalCount"], 1);
}

fn device_names_at_the_limit(engine: Engine) {
    let server = start(engine);
    for (length, status) in [(1, 202), (127, 202), (128, 202), (129, 400)] {
        let device = "d".repeat(length);
        server.ingest(&format!(r#"{{"device":"{device}","rps":1}}"#)).expect(status);
    }
    // The limit counts bytes, not characters.
    let wide = "é".repeat(64);
    server.ingest(&format!(r#"{{"device":"{wide}","rps":1}}"#)).expect(202);
    server.ingest(&format!(r#"{{"device":"{wide}é","rps":1}}"#)).expect(400);
}

fn bad_devices(engine: Engine) {
    let server = start(engine);
    for device in [r#""""#, r#""a\nb""#, r#""a\u0000""#, r#""\u007f""#, "17", "[]", "{}", "true"] {
        let message = server.ingest(&format!(r#"{{"device":{device},"rps":1}}"#)).error(400);
        assert!(message.contains("device"), "{message}");
    }
    assert_eq!(server.total(), 0);
}

fn timestamps(engine: Engine) {
    let server = start(engine);
    let moment = 1_735_100_000.0;
    for form in [
        "1735100000",
        "1735100000.25",
        "1735100000000",
        "1735100000000000",
        "1735100000000000000",
        r#""2024-12-25T04:13:20Z""#,
        r#""2024-12-25T04:13:20.125Z""#,
        r#""2024-12-25T06:13:20+02:00""#,
        r#""2024-12-24T23:13:20.999999999-05:00""#,
    ] {
        server.ingest(&format!(r#"{{"timestamp":{form},"rps":1}}"#)).expect(202);
        let last = server.get("/analyze").json()["lastTimestamp"].as_f64().expect("number");
        assert!((last - moment).abs() <= 1.0, "{form} became {last}");
    }
    for form in [r#""timestamp":0,"#, r#""timestamp":null,"#, ""] {
        server.ingest(&format!(r#"{{{form}"rps":1}}"#)).expect(202);
        let last = server.get("/analyze").json()["lastTimestamp"].as_f64().expect("number");
        assert!((last - now_s()).abs() < 5.0, "{form:?} became {last}");
    }
}

fn bad_timestamps(engine: Engine) {
    let server = start(engine);
    for form in [r#""yesterday""#, r#""2024-13-01T00:00:00Z""#, r#""""#, "true", "[]", "{}"] {
        let answer = server.ingest(&format!(r#"{{"timestamp":{form},"rps":1}}"#));
        let message = answer.error(400);
        assert!(message.contains("timestamp"), "{message}");
    }
    assert_eq!(server.total(), 0);
}

fn numbers_at_the_limit(engine: Engine) {
    let server = start(engine);
    for (name, number, stored) in [
        ("rps", "0", 0.0),
        ("rps", "1e15", 1e15),
        ("rps", "1000000000000000", 1e15),
        ("rps", "0.1e1", 1.0),
        ("rps", "1E+2", 100.0),
        ("rps", "1e-400", 0.0),
        ("cpu", "250.75", 250.75),
        ("cpu", "0.605", 0.605),
        ("temperature", "-40.5", -40.5),
        ("temperature", "-1e15", -1e15),
        ("temperature", "-0", 0.0),
    ] {
        server.ingest(&format!(r#"{{"device":"a","{name}":{number}}}"#)).expect(202);
        let report = analyze(&server, "a");
        assert_eq!(report["metrics"][name]["last"].as_f64(), Some(stored), "{name} {number}");
    }
}

fn bad_numbers(engine: Engine) {
    let server = start(engine);
    for (name, number) in [
        ("rps", "-1"),
        ("cpu", "-0.001"),
        ("rps", "1.0000001e15"),
        ("temperature", "-1.0000001e15"),
        ("rps", "1e308"),
        ("rps", "1e400"),
        ("rps", "123456789012345678901234567890"),
        ("rps", "18446744073709551615"),
        ("rps", "-9223372036854775808"),
    ] {
        let message = server.ingest(&format!(r#"{{"{name}":{number}}}"#)).error(400);
        assert!(message.contains(name), "{name} {number}: {message}");
    }
    for body in [r#"{"cpu":"12"}"#, r#"{"rps":null}"#, r#"{"rps":true}"#, "{}", r#"{"a":"b"}"#] {
        server.ingest(body).error(400);
    }
    for literal in
        ["NaN", "Infinity", "-Infinity", "nan", "inf", "01", "+1", ".5", "1.", "0x10", "1_0"]
    {
        server.ingest(&format!(r#"{{"rps":{literal}}}"#)).error(400);
    }
    assert_eq!(server.total(), 0);
}

fn ignored_fields(engine: Engine) {
    let server = start(engine);
    let body = r#"{"host":"a","tags":["x",{"y":[1,2,{"rps":9}]}],"up":true,"none":null,"rps":7}"#;
    server.ingest(body).expect(202);
    let report = server.get("/analyze").json();
    assert_eq!(report["lastRps"], 7.0);
    assert_eq!(report["metrics"].as_object().expect("metrics").len(), 1, "{report}");
}

fn arrays(engine: Engine) {
    let server = start(engine);
    let batch: Vec<Value> = (0..1000).map(|i| json!({"cpu": i % 100, "rps": i})).collect();
    assert_eq!(server.ingest(&Value::from(batch).to_string()).accepted(), 1000);
    let report = server.get("/analyze").json();
    assert_eq!(report["totalCount"], 1000);
    assert_eq!(report["lastRps"], 999.0);
    assert_eq!(server.ingest(&format!(" \r\n\t[ {} , {} ] \n", SEEDS[0], SEEDS[1])).accepted(), 2);
}

fn wrapped_metrics(engine: Engine) {
    let server = start(engine);
    let body = format!(r#"{{"metrics":[{},{}]}}"#, SEEDS[0], SEEDS[1]);
    assert_eq!(server.ingest(&body).accepted(), 2);
    assert_eq!(server.ask(&post("/metrics", body.as_bytes())).expect(200).json()["accepted"], 2);
    assert_eq!(server.get("/analyze").json()["lastRps"], 120.0);
}

fn lines(engine: Engine) {
    let server = start(engine);
    for kind in ["application/x-ndjson", "application/x-ndjson; charset=utf-8"] {
        for (body, count) in [
            (SEEDS.join("\n"), 3),
            (SEEDS.join("\n") + "\n", 3),
            (SEEDS.join("\r\n") + "\r\n", 3),
            (SEEDS.join("\n\n") + "\n\n", 3),
            (SEEDS[0].to_owned(), 1),
        ] {
            let bytes = request("POST", "/ingest", &[("Content-Type", kind)], body.as_bytes());
            assert_eq!(server.ask(&bytes).accepted(), count, "{body:?}");
        }
    }
    let body = format!("{}\n{{\"rps\":\n{}\n", SEEDS[0], SEEDS[1]);
    let fields = [("Content-Type", "application/x-ndjson")];
    let answer = server.ask(&request("POST", "/ingest", &fields, body.as_bytes())).expect(202);
    let json = answer.json();
    assert_eq!(
        (&json["status"], &json["accepted"], &json["rejected"]),
        (&json!("partial"), &json!(2), &json!(1))
    );
    assert_eq!(json["errors"][0]["index"], 1);
}

fn lines_without_content_type(engine: Engine) {
    // curl --data-binary @samples.ndjson names another type.
    let server = start(engine);
    let fields = [("Content-Type", "application/x-www-form-urlencoded")];
    let body = SEEDS.join("\n");
    assert_eq!(server.ask(&request("POST", "/ingest", &fields, body.as_bytes())).accepted(), 3);
    let fields = [("Content-Type", "application/x-www-form-urlencoded")];
    assert_eq!(server.ask(&request("POST", "/ingest", &fields, SEEDS[0].as_bytes())).accepted(), 1);
    assert_eq!(server.ask(&request("POST", "/ingest", &[], SEEDS[0].as_bytes())).accepted(), 1);
}

fn partial_batches(engine: Engine) {
    let server = start(engine);
    let body = r#"[{"rps":1},{"rps":-1},{"rps":2},{"name":"x"},7,{"rps":1e400},{"rps":3}]"#;
    let json = server.ingest(body).expect(202).json();
    assert_eq!(json["status"], "partial");
    assert_eq!(json["accepted"], 3);
    assert_eq!(json["rejected"], 4);
    let errors = json["errors"].as_array().expect("errors");
    let indexes: Vec<_> = errors.iter().map(|error| error["index"].as_u64()).collect();
    assert_eq!(indexes, [Some(1), Some(3), Some(4), Some(5)]);
    assert!(errors.iter().all(|error| error["message"].as_str().is_some_and(|m| !m.is_empty())));
    let report = server.get("/analyze").json();
    assert_eq!(report["totalCount"], 3);
    assert_close(&report["rollingAvg"], 2.0, "mean of what was kept");
}

fn errors_are_capped_at_ten(engine: Engine) {
    let server = start(engine);
    let bad = vec![r#"{"cpu":-1}"#; 25].join(",");
    let json = server.ingest(&format!(r#"[{{"rps":1}},{bad}]"#)).expect(202).json();
    assert_eq!(json["rejected"], 25);
    assert_eq!(json["errors"].as_array().map(Vec::len), Some(10));
}

fn a_batch_of_bad_samples(engine: Engine) {
    let server = start(engine);
    let answer = server.ingest(r#"[{"cpu":-1},{"rps":1e16}]"#).expect(400);
    answer.json();
    assert_eq!(server.total(), 0);
}

fn bodies_that_are_no_samples(engine: Engine) {
    let server = start(engine);
    for body in [
        "",
        " ",
        "[]",
        "null",
        "true",
        "7",
        "\"rps\"",
        "{",
        "[",
        "[{\"rps\":1}",
        "{\"rps\":1",
        "{\"rps\":1}}",
        "[{\"rps\":1},]",
        "{'rps':1}",
        "{rps:1}",
        "{\"rps\" 1}",
        "{\"rps\":1,}",
        "{\"rps\":1} x",
        "/* */{\"rps\":1}",
        "\u{feff}[",
        "{\"metrics\":[]}",
        "hello",
        "\0",
    ] {
        server.ingest(body).error(400);
    }
    assert_eq!(server.total(), 0);
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body).expect("memory");
    encoder.finish().expect("memory")
}

fn packed(coding: &str, body: &[u8]) -> Vec<u8> {
    request("POST", "/ingest", &[("Content-Encoding", coding)], body)
}

fn gzip_body(engine: Engine) {
    let server = start(engine);
    let batch = format!("[{}]", vec![SEEDS[0]; 500].join(","));
    assert_eq!(server.ask(&packed("gzip", &gzip(batch.as_bytes()))).accepted(), 500);
    assert_eq!(server.ask(&packed("GZIP", &gzip(SEEDS[1].as_bytes()))).accepted(), 1);
    assert_eq!(server.total(), 501);
}

fn zstd_body(engine: Engine) {
    let server = start(engine);
    let batch = format!("[{}]", vec![SEEDS[0]; 500].join(","));
    let bytes = zstd::encode_all(batch.as_bytes(), 3).expect("memory");
    assert_eq!(server.ask(&packed("zstd", &bytes)).accepted(), 500);
    assert_eq!(server.total(), 500);
}

fn snappy_body(engine: Engine) {
    let server = start(engine);
    let batch = format!("[{}]", vec![SEEDS[0]; 500].join(","));
    let snappy =
        |body: &str| snap::raw::Encoder::new().compress_vec(body.as_bytes()).expect("memory");
    let packed_batch = snappy(&batch);
    assert_eq!(server.ask(&packed("snappy", &packed_batch)).accepted(), 500);
    let good = snappy(SEEDS[0]);
    for bytes in [&good[..good.len() - 1], &good[1..], b"", SEEDS[0].as_bytes()] {
        server.ask(&packed("snappy", bytes)).error(400);
    }
    assert_eq!(server.total(), 500);
}

fn identity_body(engine: Engine) {
    assert_eq!(start(engine).ask(&packed("identity", SEEDS[0].as_bytes())).accepted(), 1);
}

fn unknown_content_coding(engine: Engine) {
    let server = start(engine);
    server.ask(&packed("br", b"xx")).error(415);
    server.ask(&packed("rot13", SEEDS[0].as_bytes())).error(415);
    assert_eq!(server.total(), 0);
}

fn broken_gzip(engine: Engine) {
    let server = start(engine);
    let good = gzip(SEEDS[0].as_bytes());
    let mut flipped = good.clone();
    let checksum = flipped.len() - 6;
    flipped[checksum] ^= 1;
    for bytes in [&good[..good.len() - 4], &good[..5], b"", SEEDS[0].as_bytes(), &flipped] {
        server.ask(&packed("gzip", bytes)).error(400);
    }
    let zstd = zstd::encode_all(SEEDS[0].as_bytes(), 3).expect("memory");
    for bytes in [&zstd[..zstd.len() - 4], &zstd[..3], SEEDS[0].as_bytes()] {
        server.ask(&packed("zstd", bytes)).error(400);
    }
    assert_eq!(server.total(), 0);
}

fn chunked_body(engine: Engine) {
    let server = start(engine);
    let mut bytes =
        b"POST /ingest HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for part in SEEDS[0].as_bytes().chunks(7) {
        bytes.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        bytes.extend_from_slice(part);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(server.ask(&bytes).accepted(), 1);
    assert_eq!(server.get("/analyze").json()["lastRps"], 2000.0);
}

fn a_hundred_headers(engine: Engine) {
    let server = start(engine);
    let names: Vec<String> = (0..98).map(|i| format!("X-Header-{i}")).collect();
    let fields: Vec<_> = names.iter().map(|name| (name.as_str(), "v")).collect();
    // Host and Content-Length make it a hundred.
    let bytes = request("POST", "/ingest", &fields, SEEDS[0].as_bytes());
    assert_eq!(server.ask(&bytes).accepted(), 1);
    assert_eq!(
        server.ask(&request("POST", "/ingest", &fields[..20], SEEDS[0].as_bytes())).accepted(),
        1
    );
}

// ---- GET /analyze and what it says ----

const ANALYZE_FIELDS: [&str; 18] = [
    "scope",
    "device",
    "count",
    "windowSize",
    "rollingAvg",
    "stdDev",
    "zScore",
    "isAnomaly",
    "thresholdZ",
    "anomalyCount",
    "totalCount",
    "lastRps",
    "lastCpu",
    "lastTimestamp",
    "computedAt",
    "detector",
    "metrics",
    "metrics",
];
const METRIC_FIELDS: [&str; 14] = [
    "count",
    "mean",
    "stdDev",
    "zScore",
    "score",
    "isAnomaly",
    "anomalyCount",
    "min",
    "max",
    "last",
    "p50",
    "p95",
    "p99",
    "detectors",
];

fn analyze_without_samples(engine: Engine) {
    let report = start(engine).get("/analyze").expect(200).json();
    for field in ANALYZE_FIELDS {
        assert!(report.get(field).is_some(), "{field} missing in {report}");
    }
    assert_eq!(report["count"], 0);
    assert_eq!(report["totalCount"], 0);
    assert_eq!(report["isAnomaly"], false);
    assert_eq!(report["windowSize"], 50);
    assert_eq!(report["metrics"], json!({}));
    for field in ["device", "rollingAvg", "stdDev", "zScore", "lastRps", "lastCpu", "lastTimestamp"]
    {
        assert_eq!(report[field], Value::Null, "{field}");
    }
}

fn analyze_shape(engine: Engine) {
    let server = start(engine);
    for body in SEEDS {
        server.ingest(body).expect(202);
    }
    for path in ["/analyze", "/analyze?scope=local"] {
        let report = server.get(path).expect(200).json();
        for field in ANALYZE_FIELDS {
            assert!(report.get(field).is_some(), "{field} missing in {report}");
        }
        assert_eq!(report["scope"], "local");
        assert_eq!(report["device"], Value::Null);
        assert_eq!(report["detector"], "zscore");
        assert_eq!(report["thresholdZ"], 2.0);
        assert_eq!(report["count"], 3);
        assert_eq!(report["lastRps"], 1500.0);
        assert_eq!(report["lastCpu"], 50.0);
        let computed_at = report["computedAt"].as_f64().expect("number");
        assert!((computed_at - now_s()).abs() < 5.0);
        for metric in ["rps", "cpu"] {
            for field in METRIC_FIELDS {
                let value = &report["metrics"][metric][field];
                let is_shown = value.is_number() || value.is_boolean() || field == "detectors";
                assert!(is_shown, "{metric}.{field} in {report}");
            }
            let figures = &report["metrics"][metric];
            let zscore = json!({"score": figures["score"], "isAnomaly": false, "threshold": 2.0});
            assert_eq!(figures["detectors"], json!({ "zscore": zscore }));
        }
    }
}

/// The first gives the verdict; what `zscore` says is the same wherever it stands.
fn detectors_beside_each_other(engine: Engine) {
    let all = ["zscore", "robust", "residual", "novelty", "pager"];
    let servers = [&all[..1], &all[..], &["robust", "zscore"]].map(|detectors| {
        (Server::start(engine, &[&format!("--detector={}", detectors.join(","))]), detectors)
    });
    let mut values = readings(5, 60);
    // Eleven in the window hide the twelfth from mean and deviation, not from the medians.
    values.extend([1e6; 12]);
    let reports = servers.each_ref().map(|(server, _)| feed(server, "d", &values));
    for (report, (server, detectors)) in reports.iter().zip(&servers) {
        let figures = &report["metrics"]["rps"];
        let said = figures["detectors"].as_object().expect("an object");
        assert_eq!(said.len(), detectors.len());
        assert_eq!(report["detector"], detectors[0]);
        for field in ["score", "isAnomaly"] {
            assert_eq!(figures[field], said[detectors[0]][field], "{report}");
        }
        assert_eq!(report["isAnomaly"], detectors[0] == "robust", "{report}");
        assert_eq!(said["zscore"], reports[0]["metrics"]["rps"]["detectors"]["zscore"]);
        assert_eq!(report["zScore"], reports[0]["zScore"]);
        assert_eq!(report["thresholdZ"], 2.0);
        let row = &rows(&server.get("/devices").json())[0];
        assert_eq!((&row["score"], &row["isAnomaly"]), (&figures["score"], &report["isAnomaly"]));
    }
    let count = |server: &Server| server.get("/analyze?device=d").json()["anomalyCount"].clone();
    assert_eq!(count(&servers[0].0), count(&servers[1].0));
    let rows = rows(&servers[2].0.get("/anomalies?limit=1").json());
    assert_eq!((&rows[0]["detector"], &rows[0]["isOpen"]), (&json!("robust"), &json!(true)));
    assert_eq!(rows[0]["flags"], 12);
}

fn analyze_of_an_unknown_device(engine: Engine) {
    let report = analyze(&start(engine), "nobody");
    assert_eq!(report["count"], 0);
    assert_eq!(report["device"], "nobody");
    assert_eq!(report["rollingAvg"], Value::Null);
}

/// Numbers that look measured, the same in every run.
fn readings(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed;
    let mut values = Vec::with_capacity(count);
    for index in 0..count {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let noise = (state >> 40) as f64 / (1u64 << 24) as f64;
        let spike = if index % 17 == 16 { 400.0 } else { 0.0 };
        values.push(((100.0 + 20.0 * noise + spike) * 1000.0).round() / 1000.0);
    }
    values
}

fn check_report(report: &Value, model: &Model) {
    let mut sorted = model.values.clone();
    sorted.sort_by(f64::total_cmp);
    let last = model.values.last().copied().expect("values");
    assert_eq!(report["count"], model.values.len());
    assert_close(&report["stdDev"], model.std_dev(), "stdDev");
    assert_eq!(report["anomalyCount"], model.anomalies);
    assert_eq!(report["isAnomaly"], model.is_anomaly, "{report}");
    assert_close(&report["min"], sorted[0], "min");
    assert_close(&report["max"], sorted[sorted.len() - 1], "max");
    assert_close(&report["last"], last, "last");
    assert_close(&report["mean"], model.mean(), "mean");
    if model.total > model.min_samples as u64 {
        assert_close(&report["zScore"], model.z_score, "zScore");
        assert_close(&report["score"], model.z_score.abs(), "score");
    }
    for (field, share) in [("p50", 0.50), ("p95", 0.95), ("p99", 0.99)] {
        // Percentiles have more than one definition: any between the neighbouring values will do.
        let rank = share * (sorted.len() - 1) as f64;
        let low = sorted[(rank.floor() as usize).saturating_sub(1)];
        let high = sorted[(rank.ceil() as usize + 1).min(sorted.len() - 1)];
        let value = report[field].as_f64().expect("number");
        assert!((low..=high).contains(&value), "{field} {value} is not in {low}..={high}");
    }
}

fn analyze_agrees_with_two_passes(engine: Engine) {
    let server = start(engine);
    let mut connection = server.connect();
    let (mut rps, mut cpu) = (Model::default(), Model::default());
    for (x, y) in readings(1, 140).into_iter().zip(readings(2, 140)) {
        let body = format!(r#"{{"device":"a","rps":{x},"cpu":{y}}}"#);
        connection.exchange(&post("/ingest", body.as_bytes())).expect(202);
        rps.push(x);
        cpu.push(y);
        for path in ["/analyze?device=a", "/analyze"] {
            let report = connection.exchange(&get(path)).expect(200).json();
            check_report(&report["metrics"]["rps"], &rps);
            check_report(&report["metrics"]["cpu"], &cpu);
            assert_eq!(report["totalCount"], rps.total);
            assert_eq!(report["count"], rps.values.len());
            assert_eq!(report["anomalyCount"], rps.anomalies);
            assert_eq!(report["isAnomaly"], rps.is_anomaly);
            assert_close(&report["rollingAvg"], rps.mean(), "rollingAvg");
            assert_close(&report["stdDev"], rps.std_dev(), "stdDev");
            assert_close(&report["lastRps"], x, "lastRps");
            assert_close(&report["lastCpu"], y, "lastCpu");
        }
    }
    assert!(rps.anomalies > 3, "the readings hold anomalies");
}

fn analyze_of_other_metrics(engine: Engine) {
    let server = start(engine);
    server.ingest(r#"{"device":"a","temperature":21.5,"queue depth":-3}"#).expect(202);
    let report = analyze(&server, "a");
    assert_eq!(report["count"], 0, "the top level speaks of rps");
    assert_eq!(report["lastRps"], Value::Null);
    assert_eq!(report["metrics"]["temperature"]["last"], 21.5);
    assert_eq!(report["metrics"]["queue depth"]["mean"], -3.0);
}

fn fleet_and_devices_are_apart(engine: Engine) {
    let server = start(engine);
    server.ingest(r#"[{"device":"a","rps":1},{"device":"b","rps":3},{"rps":5}]"#).expect(202);
    assert_eq!(analyze(&server, "a")["totalCount"], 1);
    assert_eq!(analyze(&server, "b")["rollingAvg"], 3.0);
    let fleet = server.get("/analyze").json();
    assert_eq!(fleet["totalCount"], 3);
    assert_close(&fleet["rollingAvg"], 3.0, "fleet mean");
}

fn min_samples_hold_back(engine: Engine) {
    let server = start(engine);
    for (device, before, is_anomaly) in [("nine", 9, false), ("ten", 10, true)] {
        for i in 0..before {
            let rps = 100 + i % 2;
            server.ingest(&format!(r#"{{"device":"{device}","rps":{rps}}}"#)).expect(202);
        }
        server.ingest(&format!(r#"{{"device":"{device}","rps":900}}"#)).expect(202);
        let report = analyze(&server, device);
        assert_eq!(report["isAnomaly"], is_anomaly, "{device}: {report}");
        assert_eq!(report["anomalyCount"], u64::from(is_anomaly));
    }
}

fn feed(server: &Server, device: &str, values: &[f64]) -> Value {
    let batch: Vec<Value> =
        values.iter().map(|value| json!({"device": device, "rps": value})).collect();
    assert_eq!(server.ingest(&Value::from(batch).to_string()).accepted(), values.len() as u64);
    analyze(server, device)
}

fn threshold_is_exclusive(engine: Engine) {
    let server = start(engine);
    // Mean 10, deviation 1.
    let base: Vec<f64> = (0..20).map(|i| if i % 2 == 0 { 9.0 } else { 11.0 }).collect();
    for (device, value, z, is_anomaly) in [
        ("at", 12.0, 2.0, false),
        ("over", 12.001, 2.001, true),
        ("low-at", 8.0, -2.0, false),
        ("low-under", 7.999, -2.001, true),
        ("mean", 10.0, 0.0, false),
    ] {
        feed(&server, device, &base);
        let report = feed(&server, device, &[value]);
        assert_close(&report["zScore"], z, device);
        assert_eq!(report["isAnomaly"], is_anomaly, "{device}");
    }
}

fn no_spread(engine: Engine) {
    let server = start(engine);
    for (device, value, z) in [("equal", 5.0, 0.0), ("over", 5.5, 1e6), ("under", 4.0, -1e6)] {
        feed(&server, device, &[5.0; 12]);
        let report = feed(&server, device, &[value]);
        assert_eq!(report["zScore"].as_f64(), Some(z), "{device}");
        assert_eq!(report["isAnomaly"], z != 0.0, "{device}");
    }
}

fn outlier_does_not_hide_itself(engine: Engine) {
    // Judged with itself in the window, one value among 11 never has a z above 3.2.
    let server = start(engine);
    let report =
        feed(&server, "a", &[9.0, 11.0, 9.0, 11.0, 9.0, 11.0, 9.0, 11.0, 9.0, 11.0, 1000.0]);
    assert_close(&report["zScore"], 990.0, "zScore");
    assert_eq!(report["isAnomaly"], true);
    assert_eq!(report["anomalyCount"], 1);
}

fn a_huge_value_leaves_no_trace(engine: Engine) {
    let server = start(engine);
    let mut model = Model::default();
    let mut values = readings(3, 60);
    values.push(1e15);
    values.extend(readings(4, 75));
    for &value in &values {
        model.push(value);
    }
    let report = feed(&server, "a", &values);
    check_report(&report["metrics"]["rps"], &model);
}

fn settings_of_the_window(engine: Engine) {
    let args = ["--window", "5", "--threshold", "3.5", "--min-samples", "3"];
    let server = Server::start(engine, &args);
    let mut model = Model { window: 5, threshold: 3.5, min_samples: 3, ..Model::default() };
    let values = [9.0, 11.0, 9.0, 13.6, 9.0, 11.0, 10.0, 30.0];
    for value in values {
        model.push(value);
    }
    let report = feed(&server, "a", &values);
    assert_eq!(report["windowSize"], 5);
    assert_eq!(report["thresholdZ"], 3.5);
    check_report(&report["metrics"]["rps"], &model);
    assert!(model.anomalies > 0);
}

fn stats(engine: Engine) {
    let server = start(engine);
    let empty = server.get("/stats").expect(200).json();
    assert_eq!(empty["count"], 0);
    let mut rps = Model::default();
    let mut cpu = Model::default();
    for (x, y) in readings(5, 70).into_iter().zip(readings(6, 70)) {
        server.ingest(&format!(r#"{{"timestamp":1735100000,"rps":{x},"cpu":{y}}}"#)).expect(202);
        rps.push(x);
        cpu.push(y);
    }
    let report = server.get("/stats?scope=local").expect(200).json();
    assert_eq!(report["scope"], "local");
    assert_close(&report["avg_rps"], rps.mean(), "avg_rps");
    assert_close(&report["avg_cpu"], cpu.mean(), "avg_cpu");
    assert_close(&report["last_rps"], rps.values[49], "last_rps");
    assert_close(&report["last_cpu"], cpu.values[49], "last_cpu");
    assert_close(&report["last_timestamp"], 1_735_100_000.0, "last_timestamp");
    assert_close(&report["zscore_rps"], rps.z_score, "zscore_rps");
    assert_close(&report["zscore_cpu"], cpu.z_score, "zscore_cpu");
    assert_eq!(report["is_anomaly_rps"], rps.is_anomaly);
    assert_eq!(report["is_anomaly_cpu"], cpu.is_anomaly);
    assert_eq!(report["window_size_used"], 50);
    assert!(report["anomaly_count"].is_u64(), "{report}");
    assert!(report["count"].is_u64(), "{report}");
}

// ---- lists ----

fn devices(engine: Engine) {
    let server = start(engine);
    assert_eq!(rows(&server.get("/devices").expect(200).json()).len(), 0);
    let base: Vec<f64> = (0..12).map(|i| f64::from(9 + 2 * (i % 2))).collect();
    for (device, last) in [("calm", 10.0), ("wild", 90.0), ("odd", 14.0)] {
        feed(&server, device, &base);
        feed(&server, device, &[last]);
    }
    let names = |path: &str| -> Vec<String> {
        rows(&server.get(path).expect(200).json())
            .iter()
            .map(|row| row["device"].as_str().expect("device").to_owned())
            .collect()
    };
    assert_eq!(names("/devices"), ["wild", "odd", "calm"]);
    assert_eq!(names("/devices?sort=score&limit=2"), ["wild", "odd"]);
    assert_eq!(names("/devices?sort=last_seen"), ["odd", "wild", "calm"]);
    assert_eq!(names("/devices?search=D"), ["wild", "odd"]);
    assert_eq!(names("/devices?search=nobody"), [""; 0]);
    server.ingest(r#"{"device":"calm","rps":10}"#).expect(202);
    assert_eq!(names("/devices?sort=last_seen&limit=1"), ["calm"]);
    server.ingest(r#"{"device":"odd","rps":200}"#).expect(202);
    assert_eq!(names("/devices?sort=anomalies&limit=1"), ["odd"]);
    let row = &rows(&server.get("/devices?limit=1").json())[0];
    assert!(row["score"].as_f64().is_some_and(|score| score > 2.0), "{row}");
    assert_eq!(row["isAnomaly"], true, "{row}");
}

fn devices_bad_queries(engine: Engine) {
    let server = start(engine);
    for path in [
        "/devices?sort=size",
        "/devices?search=",
        "/devices?limit=many",
        "/devices?limit=-1",
        "/anomalies?limit=x",
        "/anomalies?since=soon",
        "/latest?limit=1e3",
        "/analyze?scope=moon",
        "/analyze?scope=cluster",
        "/stats?scope=cluster",
    ] {
        server.get(path).error(400);
    }
}

fn anomalies(engine: Engine) {
    let server = start(engine);
    assert_eq!(rows(&server.get("/anomalies").expect(200).json()).len(), 0);
    for device in ["a", "b"] {
        feed(&server, device, &[9.0, 11.0, 9.0, 11.0, 9.0, 11.0, 9.0, 11.0, 9.0, 11.0]);
        feed(&server, device, &[50.0]);
        feed(&server, device, &[500.0]);
    }
    // Two flags in a row are one anomaly, and show the stranger.
    let all = rows(&server.get("/anomalies").expect(200).json());
    assert_eq!(all.len(), 2);
    assert_eq!(all[0]["device"], "b", "newest first");
    assert_eq!(all[0]["metric"], "rps");
    assert_eq!(all[0]["value"], 500.0);
    assert!(all[0]["zScore"].as_f64().is_some_and(|z| z > 40.0), "{}", all[0]);
    assert_eq!((&all[0]["score"], &all[0]["detector"]), (&all[0]["zScore"], &json!("zscore")));
    assert_eq!((&all[0]["isOpen"], &all[0]["end"]), (&json!(true), &Value::Null));
    assert_eq!(all[0]["flags"], 2);
    let [mean, deviation] = ["mean", "stdDev"].map(|name| all[0][name].as_f64().expect(name));
    assert_close(&all[0]["expected"]["low"], mean - 2.0 * deviation, "low");
    assert_close(&all[0]["expected"]["high"], mean + 2.0 * deviation, "high");
    let scrape = server.get("/metrics").expect(200);
    assert!(
        scrape.text().contains("anomalies_total{metric=\"rps\"} 4"),
        "flags are what is counted"
    );
    // It ends with the next value that is none; the next after that is another.
    let at = |minute: i64| 1_735_100_000 + 60 * minute;
    let calm = (0..60).map(|minute| (minute - 60, 9 + 2 * (minute % 2)));
    let wild = [400, 300, 11, 400].into_iter().zip(1..).map(|(value, minute)| (minute, value));
    for (minute, value) in calm.chain(wild) {
        let sample = json!({"device": "c", "rps": value, "timestamp": at(minute)});
        server.ingest(&sample.to_string()).expect(202);
    }
    let of_c = rows(&server.get("/anomalies?device=c").json());
    let shown = |row: &Value| {
        ["value", "start", "end", "isOpen", "flags", "timestamp"].map(|name| row[name].clone())
    };
    assert_eq!(of_c.len(), 2, "{of_c:?}");
    assert_eq!(
        shown(&of_c[0]),
        [json!(400), json!(at(4)), Value::Null, json!(true), json!(1), json!(at(4))]
    );
    assert_eq!(
        shown(&of_c[1]),
        [json!(400), json!(at(1)), json!(at(3)), json!(false), json!(2), json!(at(1))]
    );
    feed(&server, "a", &[10.0]);
    let of_a = rows(&server.get("/anomalies?device=a&limit=1").json());
    assert_eq!(of_a.len(), 1);
    assert_eq!(of_a[0]["device"], "a");
    let since = now_s() as u64 + 3600;
    assert_eq!(rows(&server.get(&format!("/anomalies?since={since}")).json()).len(), 0);
    let since = now_s() as u64 - 3600;
    assert_eq!(rows(&server.get(&format!("/anomalies?since={since}")).json()).len(), 4);
    assert_eq!(rows(&server.get("/anomalies?device=a").json())[0]["isOpen"], false);
    assert_eq!(rows(&server.get("/anomalies?device=nobody").json()).len(), 0);
}

fn latest(engine: Engine) {
    let server = start(engine);
    assert_eq!(rows(&server.get("/latest").expect(200).json()).len(), 0);
    for i in 0..5 {
        let device = if i % 2 == 0 { "even" } else { "odd" };
        server.ingest(&format!(r#"{{"device":"{device}","rps":{i},"load":-1}}"#)).expect(202);
    }
    server.ingest(r#"{"rps":99}"#).expect(202);
    let all = rows(&server.get("/latest").json());
    assert_eq!(all.len(), 6);
    assert_eq!(all[0]["device"], Value::Null, "newest first");
    assert_eq!(rows(&server.get("/latest?limit=2").json()).len(), 2);
    let odd = rows(&server.get("/latest?device=odd").json());
    assert_eq!(odd.len(), 2);
    assert!(odd.iter().all(|row| row["device"] == "odd"));
    let text = odd[0].to_string();
    assert!(text.contains("rps") && text.contains("load"), "{text}");
}

// ---- the rest ----

fn health(engine: Engine) {
    let server = start(engine);
    for path in ["/health", "/healthz", "/livez"] {
        server.get(path).expect(200);
    }
}

fn readiness(engine: Engine) {
    let answer = start(engine).get("/readyz").expect(200);
    let json = answer.json();
    assert!(json.to_string().contains("redis"), "{json}");
    assert!(json.to_string().contains("off"), "{json}");
}

/// Every path of SPEC section 2 that this server has, with its methods.
const ROUTES: &[(&str, &[&str])] = &[
    ("/ingest", &["POST"]),
    ("/metrics", &["GET", "HEAD", "POST"]),
    ("/metrics/prometheus", &["GET", "HEAD"]),
    ("/analyze", &["GET", "HEAD"]),
    ("/stats", &["GET", "HEAD"]),
    ("/devices", &["GET", "HEAD"]),
    ("/anomalies", &["GET", "HEAD"]),
    ("/latest", &["GET", "HEAD"]),
    ("/health", &["GET", "HEAD"]),
    ("/healthz", &["GET", "HEAD"]),
    ("/livez", &["GET", "HEAD"]),
    ("/readyz", &["GET", "HEAD"]),
    ("/openapi.json", &["GET", "HEAD"]),
];

fn openapi(engine: Engine) {
    let document = start(engine).get("/openapi.json").expect(200).json();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    for (path, methods) in ROUTES {
        for method in methods.iter().filter(|method| **method != "HEAD") {
            let operation = &document["paths"][path][method.to_ascii_lowercase()];
            assert!(operation["responses"].is_object(), "{method} {path} is not described");
        }
    }
}

/// Reads an exposition as a scraper would: samples by name and labels.
fn exposition(text: &str, is_open_metrics: bool) -> Vec<(String, f64)> {
    let mut samples: Vec<(String, f64)> = Vec::new();
    let mut families = Vec::new();
    let mut has_ended = false;
    for line in text.lines() {
        assert!(!has_ended, "a line after # EOF: {line}");
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            match (words.next(), words.next(), words.next()) {
                (Some("EOF"), None, None) => has_ended = true,
                (Some("TYPE"), Some(name), Some(kind)) => {
                    assert!(!families.contains(&name), "{name} is declared twice");
                    let kinds =
                        ["counter", "gauge", "histogram", "summary", "info", "unknown", "untyped"];
                    assert!(kinds.contains(&kind), "{line}");
                    families.push(name);
                }
                (Some("HELP"), Some(_), Some(_)) | (Some("UNIT"), Some(_), Some(_)) => {}
                _ => panic!("a strange comment: {line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        let number = match value {
            "NaN" | "+Inf" | "-Inf" => f64::NAN,
            digits => digits.parse().unwrap_or_else(|_| panic!("not a number: {line}")),
        };
        let name = series.split('{').next().expect("name");
        let family = families.last().expect("a TYPE first");
        let suffix =
            name.strip_prefix(family).unwrap_or_else(|| panic!("{line} is not of {family}"));
        let suffixes = ["", "_total", "_bucket", "_sum", "_count", "_info", "_created"];
        assert!(suffixes.contains(&suffix), "{line} is not of {family}");
        assert!(samples.iter().all(|(known, _)| known != series), "{series} twice");
        samples.push((series.to_owned(), number));
    }
    assert!(text.ends_with('\n'));
    assert_eq!(has_ended, is_open_metrics);
    samples
}

fn prometheus_text(engine: Engine) {
    let server = start(engine);
    feed(&server, "secret-device", &[1.0; 12]);
    feed(&server, "secret-device", &[9.0]);
    for path in ["/metrics", "/metrics/prometheus"] {
        let answer = server.get(path).expect(200);
        let kind = answer.header("content-type").expect("content type");
        assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
        let samples = exposition(answer.text(), false);
        for line in answer.text().lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = line.split(' ').next().expect("a name");
            let document = include_str!("../../docs/METRICS.md");
            assert!(document.contains(&format!("| `{name}` |")), "{name} is not in METRICS.md");
        }
        for family in [
            "http_requests_total",
            "http_request_duration_seconds_bucket",
            "ingest_requests_total",
            "ingest_samples_total",
            "anomalies_total",
            "rolling_avg",
            "zscore",
            "sigmad_build_info",
            "process_resident_memory_bytes",
            "process_cpu_seconds_total",
        ] {
            let has_it = samples.iter().any(|(series, _)| series.split('{').next() == Some(family));
            assert!(has_it, "{family} is missing");
        }
        assert!(!answer.text().contains("secret-device"), "no label carries a device");
    }
}

fn value_of(samples: &[(String, f64)], name: &str, labels: &[&str]) -> f64 {
    let matches = |series: &str| {
        series.split('{').next() == Some(name) && labels.iter().all(|label| series.contains(label))
    };
    samples.iter().filter(|(series, _)| matches(series)).map(|(_, value)| value).sum()
}

fn prometheus_counts(engine: Engine) {
    let server = start(engine);
    let mut connection = server.connect();
    for _ in 0..12 {
        connection.exchange(&post("/ingest?x=1", br#"[{"rps":5},{"rps":5}]"#)).expect(202);
    }
    connection.exchange(&post("/ingest", br#"[{"rps":50},{"rps":-5}]"#)).expect(202);
    connection.exchange(&get("/nowhere/at/all")).expect(404);
    connection.exchange(&get("/analyze")).expect(200);
    let requests = |samples: &[(String, f64)], path: &str, code: &str| {
        let labels = [format!("path=\"{path}\""), format!("code=\"{code}\"")];
        value_of(samples, "http_requests_total", &[&labels[0], &labels[1]])
    };
    let mut samples = Vec::new();
    crate::harness::eventually("13 requests in the scrape", || {
        samples = exposition(server.get("/metrics").text(), false);
        requests(&samples, "/ingest", "202") == 13.0
    });
    assert_eq!(requests(&samples, "/analyze", "200"), 1.0);
    let unknown: f64 = value_of(&samples, "http_requests_total", &["code=\"404\""]);
    assert_eq!(unknown, 1.0);
    assert!(!samples.iter().any(|(series, _)| series.contains("nowhere")), "a URL in a label");
    assert_eq!(value_of(&samples, "ingest_requests_total", &[]), 13.0);
    assert_eq!(value_of(&samples, "ingest_samples_total", &["accepted"]), 25.0);
    assert_eq!(value_of(&samples, "ingest_samples_total", &[]), 26.0);
    assert_eq!(value_of(&samples, "anomalies_total", &["metric=\"rps\""]), 1.0);
    assert_eq!(value_of(&samples, "http_request_duration_seconds_count", &["/ingest"]), 13.0);
}

fn openmetrics(engine: Engine) {
    let server = start(engine);
    server.ingest(SEEDS[0]).expect(202);
    let accept = "application/openmetrics-text;version=1.0.0;q=0.9,text/plain;version=0.0.4;q=0.3";
    for path in ["/metrics", "/metrics/prometheus"] {
        let answer = server.ask(&request("GET", path, &[("Accept", accept)], b"")).expect(200);
        let kind = answer.header("content-type").expect("content type");
        assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
        let samples = exposition(answer.text(), true);
        assert!(!samples.is_empty());
        assert!(!answer.text().contains("_total counter"), "OpenMetrics names families bare");
    }
    for accept in ["text/plain", "*/*", "application/json"] {
        let answer = server.ask(&request("GET", "/metrics", &[("Accept", accept)], b""));
        assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
    }
}

fn head_requests(engine: Engine) {
    let server = start(engine);
    server.ingest(SEEDS[0]).expect(202);
    for (path, _) in ROUTES.iter().filter(|(_, methods)| methods.contains(&"HEAD")) {
        let got = server.get(path);
        let mut connection = server.connect();
        let head = connection.exchange(&request("HEAD", path, &[], b""));
        assert_eq!(got.status, head.status, "{path}");
        assert_eq!(got.header("content-type"), head.header("content-type"), "{path}");
        let length = head.header("content-length").expect("length");
        assert!(length.parse::<usize>().is_ok_and(|length| length > 0), "{path}: {length}");
        connection.finish();
        assert_eq!(connection.read_end(), End::Closed, "{path}: a body after HEAD");
    }
    server.ask(&request("HEAD", "/nowhere", &[], b"")).expect(404);
    server.ask(&request("HEAD", "/ingest", &[], b"")).expect(405);
}

fn head_keeps_the_connection(engine: Engine) {
    let server = start(engine);
    let mut connection = server.connect();
    for _ in 0..3 {
        connection.exchange(&request("HEAD", "/metrics", &[], b"")).expect(200);
        connection.exchange(&get("/health")).expect(200);
    }
}

fn method_not_allowed(engine: Engine) {
    let server = start(engine);
    for (path, methods) in ROUTES {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "get"] {
            if methods.contains(&method) {
                continue;
            }
            let answer = server.ask(&request(method, path, &[], b""));
            if method == "OPTIONS" {
                assert_eq!((answer.status, &*answer.body), (204, &b""[..]));
                assert_eq!(answer.header("content-type"), None);
            } else {
                answer.error(405);
            }
            let allow = answer.header("allow").expect("Allow");
            let mut allowed: Vec<_> = allow.split(',').map(str::trim).collect();
            assert_eq!(allowed.pop(), Some("OPTIONS"), "{method} {path}");
            allowed.sort_unstable();
            assert_eq!(allowed, *methods, "{method} {path}");
        }
    }
}

fn options_of_the_server(engine: Engine) {
    let server = start(engine);
    let answer = server.ask(&request("OPTIONS", "*", &[], b""));
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("allow"), Some("GET, HEAD, POST, OPTIONS"));
    server.ask(&request("OPTIONS", "/nowhere", &[], b"")).error(404);
}

fn cors(engine: Engine) {
    const FIELD: &str = "access-control-allow-origin";
    let server = Server::start(engine, &["--cors-origin", "https://a.example,http://b:1"]);
    let ask = |method: &str, path: &str, origin: &str, body: &str| {
        server.ask(&request(method, path, &[("Origin", origin)], body.as_bytes()))
    };
    for (method, path, status, body) in [
        ("POST", "/ingest", 202, SEEDS[0]),
        ("GET", "/health", 200, ""),
        ("GET", "/stats", 200, ""),
        ("GET", "/nowhere", 404, ""),
    ] {
        let answer = ask(method, path, "http://b:1", body).expect(status);
        assert_eq!(answer.header(FIELD), Some("http://b:1"), "{method} {path}");
        let answer = ask(method, path, "https://c.example", body).expect(status);
        assert_eq!(answer.header(FIELD), None, "{method} {path}");
        let varies = |(name, value): &(String, String)| name == "vary" && value == "origin";
        assert!(answer.headers.iter().any(varies), "{method} {path}");
    }
    // The engine's own refusals, too.
    let refused = [("Content-Encoding", "br"), ("Origin", "http://b:1")];
    let answer = server.ask(&request("POST", "/ingest", &refused, b"x")).expect(415);
    assert_eq!(answer.header(FIELD), Some("http://b:1"));
    let refused = [("Expect", "a miracle"), ("Origin", "https://c.example")];
    let answer = server.ask(&request("GET", "/health", &refused, b"")).expect(417);
    assert_eq!((answer.header(FIELD), answer.header("vary")), (None, Some("origin")));
    let preflight = ask("OPTIONS", "/ingest", "https://a.example", "").expect(204);
    assert_eq!(preflight.header(FIELD), Some("https://a.example"));
    assert!(preflight.header("access-control-allow-methods").is_some_and(|m| m.contains("POST")));
    let headers = preflight.header("access-control-allow-headers").expect("headers");
    assert!(headers.contains("authorization") && headers.contains("content-type"));
    let without = start(engine).ask(&request("GET", "/health", &[("Origin", "http://b:1")], b""));
    assert_eq!((without.header(FIELD), without.header("vary")), (None, None));
}

fn not_found(engine: Engine) {
    let server = start(engine);
    for path in
        ["/nope", "/ingest/", "/analyze/x", "//ingest", "/INGEST", "/ingest%00", "/%2e%2e/x"]
    {
        server.get(path).error(404);
        server.ask(&post(path, SEEDS[0].as_bytes())).error(404);
    }
    assert_eq!(server.total(), 0);
    // The answer lists what there is.
    let answer = server.get("/api/v1/metrics");
    answer.error(404);
    assert!(
        ["/ingest, ", "/metrics, ", "/analyze"].iter().all(|path| answer.text().contains(path))
    );
    assert!(!answer.text().contains("/debug/"));
    for path in ["/debug/pprof/mutex", "/debug/pprof/block", "/debug/pprof/trace", "/debug/"] {
        let answer = server.get(path).expect(404);
        // `go tool pprof` shows such a text.
        assert_eq!(answer.header("x-go-pprof"), Some("1"), "{path}");
        assert!(answer.text().contains("/debug/pprof/heap") && !answer.text().contains("/ingest"));
    }
}

fn profile_parameters(engine: Engine) {
    let server = start(engine);
    for (query, named) in [
        ("profile?seconds=0", "`seconds` must be a whole number from 1 to 300"),
        ("profile?seconds=301", "`seconds` must be a whole number from 1 to 300"),
        ("flamegraph?seconds=-1", "`seconds` must be a whole number from 1 to 300"),
        ("heap?seconds=0", "`seconds` must be a whole number from 1 to 300"),
        ("profile?hz=99999", "`hz` must be a whole number from 1 to 1000"),
        ("profile?seconds=1&hz=0", "`hz` must be a whole number from 1 to 1000"),
    ] {
        let answer = server.get(&format!("/debug/pprof/{query}")).expect(400);
        assert!(answer.text().contains(named), "{query}: {}", answer.text());
    }
}

fn query_strings(engine: Engine) {
    let server = start(engine);
    server.ask(&post("/ingest?source=cron&x=%zz&=&&", SEEDS[0].as_bytes())).expect(202);
    for path in ["/analyze?", "/analyze?x", "/analyze?x=1&y", "/analyze?&&", "/health?%"] {
        server.get(path).expect(200);
    }
    assert_eq!(server.total(), 1);
}

fn head_of_every_answer(engine: Engine) {
    let server = start(engine);
    let answers: [Response; 4] =
        [server.get("/health"), server.get("/nope"), server.ingest(SEEDS[0]), server.ingest("x")];
    for answer in answers {
        let date = answer.header("date").expect("Date");
        assert!(date.ends_with(" GMT") && date.len() == 29, "{date}");
        let length: usize =
            answer.header("content-length").expect("length").parse().expect("number");
        assert_eq!(length, answer.body.len());
        assert!(answer.header("content-type").is_some());
    }
}

fn bearer(method: &str, path: &str, token: &str, body: &str) -> Vec<u8> {
    request(method, path, &[("Authorization", &format!("Bearer {token}"))], body.as_bytes())
}

fn ingest_token(engine: Engine) {
    let server = Server::start(engine, &["--ingest-token", "s3cret"]);
    for path in ["/ingest", "/metrics"] {
        let answer = server.ask(&post(path, SEEDS[0].as_bytes()));
        answer.error(401);
        let challenge = answer.header("www-authenticate").expect("a challenge");
        assert!(challenge.starts_with("Bearer"), "{challenge}");
        for wrong in ["s3cre", "s3cret2", "S3CRET", "x"] {
            server.ask(&bearer("POST", path, wrong, SEEDS[0])).error(403);
        }
        let basic = [("Authorization", "Basic czNjcmV0")];
        let status = server.ask(&request("POST", path, &basic, SEEDS[0].as_bytes())).status;
        assert!(matches!(status, 401 | 403), "{status}");
    }
    assert_eq!(server.total(), 0);
    server.ask(&bearer("POST", "/ingest", "s3cret", SEEDS[0])).expect(202);
    let lower = [("authorization", "bearer s3cret")];
    server.ask(&request("POST", "/ingest", &lower, SEEDS[0].as_bytes())).expect(202);
    assert_eq!(server.total(), 2, "reads ask for no token");
    assert!(!server.log_text().contains("s3cret"), "the token is in the log");
}

fn read_token(engine: Engine) {
    let server = Server::start(engine, &["--read-token", "r3ad"]);
    server.ingest(SEEDS[0]).expect(202);
    for path in ["/analyze", "/stats", "/devices", "/anomalies", "/latest"] {
        server.get(path).error(401);
        server.ask(&bearer("GET", path, "wrong", "")).error(403);
        server.ask(&bearer("GET", path, "r3ad", "")).expect(200);
    }
    for path in ["/health", "/healthz", "/livez", "/readyz"] {
        server.get(path).expect(200);
    }
}

fn token_from_file(engine: Engine) {
    let path = std::env::temp_dir().join(format!("sigmad-token-{}-{engine:?}", std::process::id()));
    std::fs::write(&path, "from-a-file\n").expect("temp");
    let server = Server::start(engine, &["--ingest-token", &format!("@{}", path.display())]);
    std::fs::remove_file(&path).expect("temp");
    server.ingest(SEEDS[0]).error(401);
    server.ask(&bearer("POST", "/ingest", "from-a-file", SEEDS[0])).expect(202);
}

fn setting_from_environment(engine: Engine) {
    let env = [("SIGMAD_WINDOW", "17"), ("SIGMAD_INGEST_TOKEN", "e")];
    let server = Launch { engine, env: &env, ..Launch::default() }.start();
    assert_eq!(server.get("/analyze").json()["windowSize"], 17);
    server.ingest(SEEDS[0]).error(401);
}

fn streams_are_limited(engine: Engine) {
    let server = Server::start(engine, &["--max-streams", "4"]);
    server.ingest(r#"[{"device":"a","rps":1,"cpu":1},{"device":"b","rps":1,"cpu":1}]"#).expect(202);
    let message = server.ingest(r#"{"device":"c","rps":1,"cpu":1}"#).error(429);
    assert!(message.contains("stream"), "{message}");
    let json =
        server.ingest(r#"[{"device":"c","rps":1},{"device":"a","rps":2}]"#).expect(202).json();
    assert_eq!((&json["accepted"], &json["rejected"]), (&json!(1), &json!(1)));
    server.ingest(r#"{"device":"b","rps":3}"#).expect(202);
    assert_eq!(server.total(), 4);
}

fn read_after_write(engine: Engine) {
    const ROUNDS: u64 = 1000;
    let server = Server::start(engine, &["--workers", "2"]);
    let mut connections: Vec<_> = (0..8).map(|_| server.connect()).collect();
    for connection in &mut connections {
        connection.timeout = WAIT;
    }
    for round in 0..ROUNDS {
        let writer = (round % 8) as usize;
        let reader = (round * 3 + 1) as usize % 8;
        let body = format!(r#"{{"device":"d{}","rps":{round}}}"#, round % 10);
        connections[writer].exchange(&post("/ingest", body.as_bytes())).expect(202);
        let answer = connections[reader].exchange(&get("/analyze")).expect(200);
        let report = answer.json();
        assert_eq!(report["totalCount"], round + 1, "{}", shown(&answer.body));
        assert_eq!(report["lastRps"].as_f64(), Some(round as f64));
    }
}

#[test]
fn an_address_in_use_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = taken.local_addr().expect("address").to_string();
    let (code, _, log) = Launch { args: &["--listen", &address], ..Launch::default() }.run();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains(&address), "{log}");
}
