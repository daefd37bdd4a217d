//! Incidents, by the routes of the real binary.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Engine, Server, now_s, request};

#[test]
fn without_incidents_the_lists_are_empty() {
    for engine in [Engine::Native, Engine::May] {
        let server = Server::start(engine, &[]);
        let list = server.get("/incidents").expect(200).json();
        assert_eq!(list["scope"], "local");
        assert_eq!((&list["incidents"], &list["next"]), (&json!([]), &json!(null)));
        assert!(list["computedAt"].as_i64().expect("a time") > 1_700_000_000);
        assert_eq!(server.get("/silences").expect(200).json()["count"], 0);
        let error = server.get("/incidents/01JFY09SVVZZZZZZZZZW000007").expect(404).json();
        assert_eq!(error["error"]["message"], "there is no such incident");
        for query in
            ["state=x", "severity=x", "after=x", "since=x", "limit=0", "device=", "scope=x"]
        {
            let error = server.get(&format!("/incidents?{query}")).expect(400).json();
            let name = query.split('=').next().expect("a name");
            assert!(error["error"]["message"].as_str().expect("text").contains(name), "{error}");
        }
        // The label is the route, whatever was asked for.
        let scrape = server.get("/metrics").expect(200);
        let text = String::from_utf8_lossy(&scrape.body).into_owned();
        assert!(text.contains(r#"method="GET",path="/incidents/{id}",code="404""#), "{text}");
        assert!(text.contains("sigmad_incidents_open{severity=\"critical\"} 0"), "{text}");
    }
}

const JSON: (&str, &str) = ("Content-Type", "application/json");
const PAST: &[u8] = br#"{"device":"ams-*","endsAt":"2020-01-01T00:00:00Z"}"#;

/// A silence of the next hour.
fn silence() -> Vec<u8> {
    let ends_at = now_s() + 3_600.0;
    json!({"device": "ams-*", "endsAt": ends_at, "createdBy": "ann"}).to_string().into_bytes()
}

#[test]
fn silences_are_added_listed_and_ended() {
    for engine in [Engine::Native, Engine::May] {
        let server = Server::start(engine, &[]);
        let added = server.ask(&request("POST", "/silences", &[JSON], &silence())).expect(201);
        let added = added.json();
        assert_eq!((&added["device"], &added["isActive"]), (&json!("ams-*"), &json!(true)));
        let list = server.get("/silences").expect(200).json();
        assert_eq!(list["silences"], json!([added]));
        let path = format!("/silences/{}", added["id"].as_str().expect("an id"));
        for status in [204, 404] {
            server.ask(&request("DELETE", &path, &[], b"")).expect(status);
        }
        assert_eq!(server.get("/silences").expect(200).json()["count"], 0);
        for (body, status, part) in
            [(PAST, 400, "`endsAt`"), (b"{", 400, "not JSON"), (&[b' '; 16_385], 413, "16384")]
        {
            let answer = server.ask(&request("POST", "/silences", &[JSON], body));
            assert!(answer.expect(status).error(status).contains(part));
        }
        server.ask(&request("POST", "/silences", &[], &silence())).expect(415);
        let unknown = "/incidents/01JFY09SVVZZZZZZZZZW000007/ack";
        server.ask(&request("POST", unknown, &[JSON], b"")).expect(404);
        let methods = server.ask(&request("GET", unknown, &[], b"")).expect(405);
        assert_eq!(methods.header("allow"), Some("POST, OPTIONS"));
        let methods = server.ask(&request("OPTIONS", &path, &[], b"")).expect(204);
        assert_eq!(methods.header("allow"), Some("DELETE, OPTIONS"));
    }
}

#[test]
fn only_an_operator_on_this_machine_or_with_the_token_may_change_anything() {
    let server = Server::start(Engine::Native, &["--ingest-token", "in", "--read-token", "re"]);
    let own = format!("http://127.0.0.1:{}", server.address.port());
    let post = |server: &Server, fields: &[(&str, &str)], host: &str| {
        let fields = [&[JSON], fields].concat();
        let text = String::from_utf8(request("POST", "/silences", &fields, &silence()));
        let text = text.expect("UTF-8").replacen("Host: localhost", &format!("Host: {host}"), 1);
        assert!(text.contains(host));
        server.ask(text.as_bytes()).status
    };
    let host = format!("127.0.0.1:{}", server.address.port());
    assert_eq!(post(&server, &[], &host), 201);
    assert_eq!(post(&server, &[("Origin", &own)], &host), 201, "our own page");
    for fields in [
        ("Origin", "http://evil.example"),
        ("Origin", "null"),
        ("Sec-Fetch-Site", "cross-site"),
        ("X-Forwarded-For", "192.0.2.1"),
    ] {
        assert_eq!(post(&server, &[fields], &host), 403, "{fields:?}");
    }
    assert_eq!(post(&server, &[], "sigmad.example"), 403);
    // A name that DNS leads here is another site.
    let rebound = [("Origin", "http://evil.example")];
    assert_eq!(post(&server, &rebound, "evil.example"), 403);
    // What agents and readers have is not enough, and not needed.
    assert_eq!(server.get("/silences").status, 401);
    drop(server);

    let args = ["--ingest-token", "in", "--read-token", "re", "--operator-token", "op"];
    let server = Server::start(Engine::Native, &args);
    let bearer = |token: &str| format!("Bearer {token}");
    assert_eq!(post(&server, &[], "sigmad.example"), 401);
    for token in ["in", "re"] {
        assert_eq!(post(&server, &[("Authorization", &bearer(token))], "sigmad.example"), 403);
    }
    let right = bearer("op");
    let fields = [("Authorization", right.as_str()), ("X-Forwarded-For", "192.0.2.1")];
    assert_eq!(post(&server, &fields, "sigmad.example"), 201);
    let of_page = [fields[0], ("Origin", "https://sigmad.example")];
    assert_eq!(post(&server, &of_page, "sigmad.example"), 201);
    let of_other = [fields[0], ("Origin", "https://evil.example")];
    assert_eq!(post(&server, &of_other, "sigmad.example"), 403);
}

#[test]
fn a_device_is_forgotten_and_its_streams_are_given_back() {
    let server = Server::start(Engine::Native, &["--max-streams", "1"]);
    let sample = |name: &str| json!({"device": name, "rps": 1}).to_string();
    server.ingest(&sample("größe/1")).expect(202);
    server.ingest(&sample("b")).expect(429);
    let path = "/devices/gr%C3%B6%C3%9Fe%2F1";
    for status in [204, 404] {
        server.ask(&request("DELETE", path, &[], b"")).expect(status);
    }
    server.ask(&request("DELETE", "/devices/%FF", &[], b"")).expect(404);
    server.ingest(&sample("b")).expect(202);
    let devices = server.get("/devices").expect(200).json();
    assert_eq!((&devices["count"], &devices["devices"][0]["device"]), (&json!(1), &json!("b")));
}

/// A device that has learned needs 150 intervals; the slowest machine is far from these seconds.
const LEARNED_WITHIN_S: f64 = 120.0;

#[test]
fn a_stream_that_jumps_is_one_incident_from_its_opening_to_its_end() {
    // A machine that stalls must not make the device a silent one.
    let args = ["--incident-interval", "100ms", "--silence-ignore", "*"];
    let server = Server::start(Engine::Native, &args);
    let deadline = now_s() + LEARNED_WITHIN_S;
    let mut sent = 0_u32;
    // A value an interval: the pace is the server's clock of arrivals.
    let mut post = |level: u32| {
        sent += 1;
        let rps = level + sent * 7 % 10;
        server.ingest(&json!({"device": "ams-1-edge-17", "rps": rps}).to_string()).expect(202);
        std::thread::sleep(Duration::from_millis(105));
        assert!(now_s() < deadline, "{rps} after {sent} values");
    };
    let list = |state: &str| {
        let list = server.get(&format!("/incidents?state={state}")).expect(200).json();
        list["incidents"].as_array().expect("a list").clone()
    };
    (0..170).for_each(|_| post(100));
    assert_eq!(server.get("/incidents").expect(200).json()["incidents"], json!([]));
    while list("open").is_empty() {
        post(900);
    }
    let opened = &list("open")[0];
    assert_eq!((&opened["kind"], &opened["memberCount"]), (&json!("deviation"), &json!(1)));
    assert_eq!(opened["suspect"]["device"], "ams-1-edge-17");
    assert_eq!(opened["suspect"]["series"], "rps");
    let path = format!("/incidents/{}", opened["id"].as_str().expect("an id"));
    let whole = server.get(&path).expect(200).json();
    assert_eq!((&whole["title"], &whole["members"][0]), (&opened["title"], &opened["suspect"]));

    let ack = br#"{"by":"ann","comment":"known"}"#;
    let known = server.ask(&request("POST", &format!("{path}/ack"), &[JSON], ack)).expect(200);
    assert_eq!(
        (&known.json()["state"], &known.json()["ack"]["by"]),
        (&json!("acknowledged"), &json!("ann"))
    );
    assert_eq!((list("open").len(), list("acknowledged").len()), (0, 1));
    let silence = server.ask(&request("POST", "/silences", &[JSON], &silence())).expect(201);
    assert_eq!((list("acknowledged").len(), list("silenced").len()), (0, 1));
    let id = silence.json()["id"].as_str().expect("an id").to_owned();
    server.ask(&request("DELETE", &format!("/silences/{id}"), &[], b"")).expect(204);
    assert_eq!(list("acknowledged").len(), 1);
    while list("resolved").is_empty() {
        post(100);
    }
    let end = server.get(&path).expect(200).json();
    assert!(end["resolvedAt"].as_f64() > end["startedAt"].as_f64(), "{end}");
    server.ask(&request("POST", &format!("{path}/ack"), &[JSON], ack)).expect(409);
}
