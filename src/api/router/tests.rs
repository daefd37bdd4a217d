//! A router between a fake engine and bare queues.

use std::net::Ipv4Addr;

use crossbeam_channel::{Receiver, bounded};
use serde_json::json;

use super::*;
use crate::api::JSON;
use crate::api::acknowledge::AcknowledgeCounters;
use crate::api::actions::{Post, Read};
use crate::api::counters::{CODES, METHODS};
use crate::api::testing::{FakeEngine, field, json};
use crate::api::tokens::BearerToken;
use crate::http::message::Headers;
use crate::http::stages::StageTimes;
use crate::readiness::{ReadinessPhase, StoreState};
use crate::registry::Registry;
use crate::reloadable::Reloadable;
use crate::sample_queue::{self, SampleConsumer};
use sigmad_counters::Counts;
use sigmad_sample::QUEUE_SAMPLES_MAX;

struct RouterTest {
    times: StageTimes,
    router: Router,
    engine: FakeEngine,
    sample_consumer: SampleConsumer,
    reads: Receiver<ReadRequest>,
    debugs: Receiver<DebugRequest>,
    counters: Arc<RouterCounters>,
    readiness: Arc<Readiness>,
}

fn router_test_with(tokens: Tokens, reads_max: usize, max_streams: usize) -> RouterTest {
    let (samples, sample_consumer) = sample_queue::channel(Arc::default(), Arc::default());
    let (sender, reads) = bounded(reads_max);
    let (debug, debugs) = bounded(1);
    let counters: Arc<RouterCounters> = Arc::default();
    let readiness: Arc<Readiness> = Arc::default();
    let router = Router::new(RouterParts {
        decoder: Decoder::new(Arc::new(Registry::new(max_streams, 3600))),
        samples,
        acknowledger: None,
        clock: Clock::new(sigmad_clock::start()),
        counters: counters.clone(),
        reads: sender,
        debug,
        tokens: Reloadable::new(tokens).reader(),
        readiness: readiness.clone(),
    });
    RouterTest {
        times: StageTimes::new(0),
        router,
        engine: FakeEngine::default(),
        sample_consumer,
        reads,
        debugs,
        counters,
        readiness,
    }
}

fn router_test() -> RouterTest {
    router_test_with(Tokens::default(), 8, 1_000)
}

impl RouterTest {
    fn call(&mut self, method: Method, target: &str, fields: &[(&str, &str)], body: &str) {
        let has_host = fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
        let host = (!has_host).then_some(&("Host", "localhost:8080"));
        let fields: Vec<_> = host
            .into_iter()
            .chain(fields)
            .map(|(name, value)| httparse::Header { name, value: value.as_bytes() })
            .collect();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let request = Request {
            method,
            path,
            query,
            headers: Headers(&fields),
            body: &mut body.as_bytes().to_vec(),
            client: if fields.iter().any(|field| field.name == "test-from-elsewhere") {
                Ipv4Addr::new(192, 0, 2, 1).into()
            } else {
                Ipv4Addr::LOCALHOST.into()
            },
            is_http10: fields.iter().any(|field| field.name == "test-http10"),
            now: Now { monotonic_ns: 7, wall_us: 1_735_100_000_000_000 },
            stages: StageTimer(Some(&mut self.times)),
        };
        self.router.call(request, &mut self.engine);
    }

    fn ask(&mut self, method: Method, target: &str, fields: &[(&str, &str)]) -> Response {
        self.call(method, target, fields, "");
        self.engine.sent()
    }

    fn post(&mut self, path: &str, body: &str) -> Response {
        self.call(Method::Post, path, &[], body);
        self.engine.sent()
    }

    /// The request reaches the debug thread.
    fn admitted(&mut self, path: &str, fields: &[(&str, &str)]) {
        self.call(Method::Get, path, fields, "");
        let request = self.debugs.try_recv().expect(path);
        assert_eq!(request.path, path);
        drop(request);
        assert_eq!(self.engine.completed().status, 500, "a dropped responder answers");
    }

    fn counted(&self, path: &str, method: Method, status: u16) -> u64 {
        let code = CODES.iter().position(|code| *code == status).expect("listed");
        self.counters.requests.answered(routes::find(path), method as usize, code)
    }

    fn accepted(&mut self) -> usize {
        self.router.round_called(Now::default(), StageTimer::default());
        let mut accepted = 0;
        while let Ok(Some(chunk)) = self.sample_consumer.receive() {
            accepted += chunk.batch.len();
            self.sample_consumer.recycle(chunk);
        }
        accepted
    }
}

fn error_code(response: &Response) -> String {
    json(response)["error"]["code"].as_str().expect("a code").to_owned()
}

#[test]
fn samples_leave_at_the_end_of_the_round() {
    let mut test = router_test();
    for (path, status) in [("/ingest", 202), ("/metrics", 200)] {
        let response = test.post(path, r#"{"timestamp":1735100000,"cpu":60.5,"rps":2000}"#);
        assert_eq!((response.status, response.content_type), (status, JSON));
        assert_eq!(response.body, br#"{"status":"accepted","accepted":1}"#);
        assert_eq!(test.counted(path, Method::Post, status), 1);
    }
    let response = test.post("/ingest?source=cron", r#"[{"rps":1},{"rps":2},{"cpu":3}]"#);
    assert_eq!(json(&response)["accepted"], 3);
    assert!(test.sample_consumer.waiting() == 0, "nothing leaves before the round ends");
    assert_eq!(test.accepted(), 5);
    assert_eq!(test.counters.accepted_total.get(), 5);
    assert_eq!(test.counters.ingest_requests_total.get(), 3);
}

#[test]
fn refused_samples_are_answered_and_counted() {
    let mut test = router_test();
    let response = test.post("/ingest", r#"{"rps":-1}"#);
    assert_eq!(response.status, 400);
    let message = json(&response)["error"]["message"].as_str().expect("text").to_owned();
    assert!(message.contains("rps"), "{message}");

    let response = test.post("/ingest", r#"[{"rps":1},{"cpu":-1},{"rps":2}]"#);
    assert_eq!(response.status, 202);
    let body = json(&response);
    assert_eq!((&body["status"], &body["accepted"]), (&json!("partial"), &json!(2)));
    assert_eq!((&body["rejected"], &body["errors"][0]["index"]), (&json!(1), &json!(1)));
    assert_eq!(test.post("/metrics", r#"[{"rps":1},{"cpu":-1}]"#).status, 200);

    let response = test.post("/ingest", r#"[{"cpu":-1},{"cpu":-2}]"#);
    assert_eq!((response.status, &json(&response)["rejected"]), (400, &json!(2)));
    for (body, code) in [("", "empty_body"), ("[]", "empty_body"), ("{", "malformed_json")] {
        let response = test.post("/ingest", body);
        assert_eq!((response.status, &*error_code(&response)), (400, code), "{body:?}");
    }
    assert_eq!(test.accepted(), 3);
    assert_eq!(test.counters.invalid_total.get(), 5);
    assert_eq!(test.counted("/ingest", Method::Post, 400), 5);
}

#[test]
fn too_many_streams_are_429() {
    let mut test = router_test_with(Tokens::default(), 8, 1);
    assert_eq!(test.post("/ingest", r#"{"device":"a","rps":1}"#).status, 202);
    assert_eq!(test.post("/ingest", r#"{"device":"b","rps":1}"#).status, 429);
    let none = test.post("/ingest", r#"[{"device":"b","rps":1},{"device":"c","rps":1}]"#);
    assert_eq!(none.status, 429);
    let some = test.post("/ingest", r#"[{"device":"b","rps":1},{"device":"a","rps":1}]"#);
    assert_eq!(some.status, 202);
    let mixed = test.post("/ingest", r#"[{"device":"b","rps":1},{"device":"a","rps":-1}]"#);
    assert_eq!(mixed.status, 400);
    assert_eq!(test.counters.too_many_streams_total.get(), 5);
    assert_eq!(test.accepted(), 2);
}

#[test]
fn values_of_agents_without_room_are_not_called_accepted() {
    const TELEGRAF: &str = r#"{"name":"m","tags":{"host":"HOST"},"fields":{"x":1}}"#;
    const VECTOR: &str =
        r#"{"name":"m","tags":{"host":"HOST"},"kind":"absolute","gauge":{"value":1}}"#;
    const COLLECTD: &str = r#"{"plugin":"m","host":"HOST","type":"m","values":[1],"dstypes":["gauge"],"dsnames":["value"]}"#;
    for body in [TELEGRAF, VECTOR, COLLECTD] {
        let mut test = router_test_with(Tokens::default(), 8, 1);
        let of = |host: &str| body.replace("HOST", host);
        let known = test.post("/ingest", &of("a"));
        assert_eq!((known.status, &json(&known)["accepted"]), (202, &json!(1)), "{body}");
        let none = test.post("/ingest", &format!("[{},{}]", of("b"), of("c")));
        assert_eq!((none.status, error_code(&none)), (429, "too_many_streams".to_owned()));
        let message = json(&none)["error"]["message"].to_string();
        assert!(message.contains("2 values had no room"), "{message}");
        let some = test.post("/ingest", &format!("[{},{}]", of("a"), of("b")));
        let answer = json(&some);
        assert_eq!((some.status, &answer["status"]), (202, &json!("partial")), "{body}");
        assert_eq!((&answer["accepted"], &answer["errors"][0]["index"]), (&json!(1), &json!(1)));
        assert_eq!(test.counters.values.total("too_many_streams"), 3, "{body}");
        assert_eq!(test.counters.values_refused_total.get(), 0, "counted once");
        assert_eq!(test.accepted(), 2);
    }
}

#[test]
fn binary_bodies_are_415_and_told_their_path() {
    let mut test = router_test();
    for kind in ["application/octet-stream", "application/x-protobuf"] {
        test.call(Method::Post, "/ingest", &[("Content-Type", kind)], "\n\u{12}\n\u{5}");
        let refused = test.engine.sent();
        assert_eq!((refused.status, &*error_code(&refused)), (415, "unsupported_media_type"));
        let message = json(&refused)["error"]["message"].to_string();
        assert!(message.contains("/api/v1/write") && message.contains("/v1/metrics"), "{message}");
        assert_eq!(test.counted("/ingest", Method::Post, 415), 1);
        test = router_test();
    }
    assert_eq!(test.post("/ingest", "\n\u{12}\n\u{5}").status, 400);
}

#[test]
fn a_full_queue_accepts_nothing_of_a_request() {
    let mut test = router_test();
    let half = format!("[{}]", vec![r#"{"rps":1}"#; QUEUE_SAMPLES_MAX / 2].join(","));
    assert_eq!(test.post("/ingest", &half).status, 202);
    assert_eq!(test.post("/ingest", &half).status, 202);
    let response = test.post("/ingest", r#"[{"rps":1},{"rps":1}]"#);
    assert_eq!((response.status, field(&response, "Retry-After")), (503, Some("1")));
    assert_eq!(error_code(&response), "queue_full");
    assert_eq!(test.counters.queue_full_total.get(), 2);
    assert_eq!(test.accepted(), QUEUE_SAMPLES_MAX);
    assert_eq!(test.post("/ingest", r#"{"rps":1}"#).status, 202);
    let too_many = format!("[{}]", vec![r#"{"rps":1}"#; QUEUE_SAMPLES_MAX + 1].join(","));
    let response = test.post("/ingest", &too_many);
    assert_eq!((response.status, &*error_code(&response)), (413, "too_many_samples"));
    assert_eq!(test.accepted(), 1);
}

#[test]
fn unknown_paths_are_404_and_other_methods_405() {
    let mut test = router_test();
    for path in ["//", "/nope", "/ingest/", "/events/", "/page.html"] {
        for (method, _) in METHODS {
            let response = test.ask(method, path, &[]);
            assert_eq!((response.status, &*error_code(&response)), (404, "not_found"));
        }
    }
    for (path, allow) in [
        ("*", "GET, HEAD, POST, OPTIONS"),
        ("/metrics", "GET, HEAD, POST, OPTIONS"),
        ("/stats", "GET, HEAD, OPTIONS"),
        ("/ingest", "POST, OPTIONS"),
    ] {
        let response = test.ask(Method::Options, path, &[]);
        assert_eq!((response.status, field(&response, "Allow")), (204, Some(allow)), "{path}");
        assert_eq!((&*response.body, test.counted(path, Method::Options, 204)), (&b""[..], 1));
    }
    assert_eq!(test.counted("/nope", Method::Post, 404), 5);
    for (path, method, allow) in [
        ("/ingest", Method::Get, "POST, OPTIONS"),
        ("/ingest", Method::Head, "POST, OPTIONS"),
        ("/metrics", Method::Other, "GET, HEAD, POST, OPTIONS"),
        ("/health", Method::Post, "GET, HEAD, OPTIONS"),
        ("/analyze", Method::Other, "GET, HEAD, OPTIONS"),
    ] {
        let response = test.ask(method, path, &[]);
        assert_eq!((response.status, field(&response, "Allow")), (405, Some(allow)), "{path}");
        assert_eq!(error_code(&response), "method_not_allowed");
        assert_eq!(test.counted(path, method, 405), 1);
    }
}

#[test]
fn the_page_has_the_coding_that_its_client_accepts() {
    let mut test = router_test();
    for (path, kind) in [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/java")] {
        for (accepted, coding) in
            [("gzip, br", Some("br")), ("gzip", Some("gzip")), ("", None), ("br;q=0", None)]
        {
            let response = test.ask(Method::Get, path, &[("Accept-Encoding", accepted)]);
            assert_eq!(response.status, 200);
            assert!(response.content_type.starts_with(kind), "{}", response.content_type);
            assert_eq!(field(&response, "Content-Encoding"), coding, "{path} {accepted}");
            let policy = field(&response, "Content-Security-Policy").expect("a policy");
            assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"));
        }
        assert_eq!(test.counted(path, Method::Get, 200), 4);
    }
}

#[test]
fn the_worker_answers_health_checks() {
    let mut test = router_test();
    for path in ["/health", "/healthz", "/livez"] {
        for method in [Method::Get, Method::Head] {
            let response = test.ask(method, path, &[]);
            assert_eq!((response.status, json(&response)), (200, json!({"status": "ok"})));
        }
    }
    for (phase, status) in [
        (ReadinessPhase::Starting, 503),
        (ReadinessPhase::Ready, 200),
        (ReadinessPhase::Draining, 503),
    ] {
        test.readiness.set(phase);
        assert_eq!(test.ask(Method::Get, "/readyz", &[]).status, status);
        assert_eq!(test.ask(Method::Get, "/health", &[]).status, 200);
    }
    test.readiness.set(ReadinessPhase::Ready);
    test.readiness.set_store(StoreState::Degraded);
    let response = test.ask(Method::Get, "/readyz", &[]);
    assert_eq!((response.status, &json(&response)["status"]), (200, &json!("degraded")));
    let response = test.ask(Method::Get, "/livez", &[]);
    assert_eq!((response.status, json(&response)), (200, json!({"status": "ok"})));
}

#[test]
fn ingest_and_reads_have_a_token_each() {
    let (ingest, read) = (Some(BearerToken::new("wri-te")), Some(BearerToken::new("re-ad")));
    let tokens = Tokens { ingest, read, ..Tokens::default() };
    let mut test = router_test_with(tokens, 100, 1_000);
    for route in &routes::ROUTES {
        for (method, token, is_asked) in [
            (Method::Post, "wri-te", route.ingest_status().is_some()),
            (Method::Get, "re-ad", route.get.is_some_and(|get| get.token() == TokenRule::Read)),
        ] {
            if !is_asked {
                continue;
            }
            // A job of Pushgateway's, coded or not.
            let path = format!(
                "{}{}",
                route.path,
                if route.shape == PathShape::Prefix { "eA" } else { "" }
            );
            let response = test.ask(method, &path, &[]);
            assert_eq!(response.status, 401, "{}", route.path);
            let challenge = match path_of(method, route) {
                Some(Convention::Influx(InfluxVersion::V1)) => r#"Basic realm="InfluxDB""#,
                Some(Convention::Influx(_)) => "Token",
                Some(_) | None => "Bearer",
            };
            assert_eq!(field(&response, "WWW-Authenticate"), Some(challenge));
            let wrong = [("authorization", "Bearer 0ther")];
            // 429 after ten of them.
            assert!(matches!(test.ask(method, &path, &wrong).status, 403 | 429));
            let right = format!("Bearer {token}");
            let body = match path_of(method, route) {
                Some(Convention::Influx(_)) => "load rps=1",
                Some(Convention::Json { .. }) | None => r#"{"rps":1}"#,
                Some(_) => "",
            };
            let kind = match path_of(method, route) {
                Some(Convention::Otlp(_) | Convention::RemoteWrite) => "application/x-protobuf",
                _ => "",
            };
            test.call(method, &path, &[("Authorization", &right), ("Content-Type", kind)], body);
            if method == Method::Post {
                assert_eq!(Some(test.engine.sent().status), route.ingest_status());
            }
        }
    }
    for path in ["/health", "/healthz", "/livez"] {
        assert_eq!(test.ask(Method::Get, path, &[]).status, 200);
    }
    assert_eq!(test.accepted(), 5);
    test.call(Method::Get, "/openapi.json", &[], "");
    assert_eq!(test.reads.len(), 14, "thirteen reads of data, and the description");
}

/// The convention of senders, if there is one.
fn path_of(method: Method, route: &routes::PathRoute) -> Option<Convention> {
    match route.post {
        Some(Post::Ingest(convention)) if method == Method::Post => Some(convention),
        _ => None,
    }
}

#[test]
fn influx_clients_may_present_the_token_in_their_own_ways() {
    let tokens = Tokens { ingest: Some(BearerToken::new("wri-te")), ..Tokens::default() };
    let mut test = router_test_with(tokens, 1, 1_000);
    // base64 of telegraf:wri-te
    let basic = [("Authorization", "Basic dGVsZWdyYWY6d3JpLXRl")];
    let token = [("Authorization", "Token wri-te")];
    for (target, fields, status) in [
        ("/write?u=telegraf&p=wri-te", &[][..], 204),
        ("/write?db=x&p=wri%2Dte", &[], 204),
        ("/write", &basic, 204),
        ("/api/v2/write?bucket=b", &token, 204),
        ("/api/v3/write_lp?db=x", &token, 204),
        ("/write?p=other", &[], 403),
        ("/write?u=telegraf", &[], 401),
        ("/api/v2/write?p=wri-te", &[], 401),
        ("/query?q=SHOW+DATABASES&p=wri-te", &[], 200),
        ("/query?q=SHOW+DATABASES", &[], 401),
        ("/ping", &[], 405),
    ] {
        test.call(Method::Post, target, fields, "m v=1");
        let response = test.engine.sent();
        assert_eq!(response.status, status, "{target}");
        assert!(status < 400 || json(&response).is_object(), "{target}");
    }
    let response = test.ask(Method::Get, "/ping", &[]);
    assert_eq!((response.status, field(&response, "X-Influxdb-Build")), (204, Some("OSS")));
}

#[test]
fn influx_clients_are_told_which_lines_were_dropped() {
    let body = "m v=1\nm,a v=2\nm v=3";
    let reason = "unable to parse 'm,a v=2': missing tag value";
    let line =
        json!({"original_line": "m,a v=2", "line_number": 2, "error_message": "missing tag value"});
    let v3 = "partial write of line protocol occurred";
    let whole = "parsing failed for write_lp endpoint";
    for (target, kept, expected) in [
        ("/write", 2, json!({"error": format!("partial write: {reason} dropped=1")})),
        (
            "/api/v2/write",
            2,
            json!({"code": "invalid", "message": format!("partial write: {reason} dropped=1")}),
        ),
        ("/api/v3/write_lp", 2, json!({"error": v3, "data": [line.clone()]})),
        ("/api/v3/write_lp?accept_partial=false", 0, json!({"error": whole, "data": line})),
    ] {
        let mut test = router_test();
        let response = test.post(target, body);
        assert_eq!((response.status, json(&response)), (400, expected), "{target}");
        test.accepted();
        assert_eq!(test.counters.invalid_total.get(), 1);
        assert_eq!(test.router.parts.decoder.values().accepted, kept, "{target}");
        let wrong = test.post("/api/v2/write?precision=minute", "m v=1");
        assert_eq!((wrong.status, &json(&wrong)["code"]), (400, &json!("invalid")));
        for body in ["", "# nothing\n", "m s=\"a string\""] {
            assert_eq!(test.post(target, body).status, 204, "{body}");
        }
    }
}

#[test]
fn influx_clients_retry_when_the_queue_is_full_and_not_without_room_for_streams() {
    let mut test = router_test_with(Tokens::default(), 1, 2);
    let full = "m,host=a v=1 1\n".repeat(QUEUE_SAMPLES_MAX);
    assert_eq!(test.post("/write", &full).status, 204);
    for (path, message) in
        [("/write", "error"), ("/api/v2/write", "message"), ("/api/v3/write_lp", "error")]
    {
        let response = test.post(path, "m,host=a v=1");
        assert_eq!((response.status, field(&response, "Retry-After")), (503, Some("1")), "{path}");
        assert!(json(&response)[message].is_string(), "{path}");
    }
    test.accepted();
    for path in ["/write", "/api/v2/write", "/api/v3/write_lp"] {
        assert_eq!(test.post(path, "m,host=b v=1\nm,host=c v=1\nm,host=a v=1").status, 204);
    }
    assert!(test.router.parts.decoder.values().left_out() > 0);
}

/// What shows that a request is not local: the client, the version, or a field.
const NOT_LOCAL: [(&str, &str); 17] = [
    ("test-from-elsewhere", ""),
    ("test-http10", ""),
    ("X-Forwarded-For", "127.0.0.1"),
    ("forwarded", "for=127.0.0.1"),
    ("X-REAL-IP", "127.0.0.1"),
    ("Via", "1.1 proxy"),
    ("X-Forwarded-Proto", "http"),
    ("X-Forwarded-Host", "localhost"),
    ("CF-Connecting-IP", "127.0.0.1"),
    ("True-Client-IP", "127.0.0.1"),
    ("X-Envoy-External-Address", "127.0.0.1"),
    ("Origin", "http://localhost:8080"),
    ("Origin", "null"),
    ("Sec-Fetch-Site", "cross-site"),
    ("Host", "sigmad.example.com"),
    ("Host", "10.0.0.7:8080"),
    ("Host", ""),
];

#[test]
fn without_a_debug_token_debug_paths_are_for_local_requests() {
    let paths = routes::ROUTES.iter().filter(|r| matches!(r.get, Some(Get::Debug(_))));
    for path in paths.map(|route| route.path) {
        // The other tokens open nothing here.
        let (ingest, read) = (Some(BearerToken::new("look")), Some(BearerToken::new("look")));
        let mut test = router_test_with(Tokens { ingest, read, ..Tokens::default() }, 1, 1_000);
        for stranger in NOT_LOCAL {
            let fields = [stranger, ("Authorization", "Bearer look")];
            let response = test.ask(Method::Get, path, &fields);
            assert_eq!((response.status, &*error_code(&response)), (403, "loopback_only"));
            assert_eq!(field(&response, "X-Go-Pprof"), Some("1"));
            assert_eq!(response.content_type, super::super::TEXT);
        }
        for fields in [&[][..], &[("Sec-Fetch-Site", "none")], &[("Host", "[::1]:80")]] {
            test.admitted(path, fields);
        }
    }
}

#[test]
fn a_debug_token_is_required_of_everyone() {
    let paths = routes::ROUTES.iter().filter(|r| matches!(r.get, Some(Get::Debug(_))));
    for path in paths.map(|route| route.path) {
        let debug = Some(BearerToken::new("look"));
        let mut test = router_test_with(Tokens { debug, ..Tokens::default() }, 1, 1_000);
        assert_eq!(test.ask(Method::Get, path, &[]).status, 401, "local requests too");
        test.admitted(path, &[("Authorization", "Bearer look")]);
        for stranger in NOT_LOCAL {
            assert_eq!(test.ask(Method::Get, path, &[stranger]).status, 401);
            test.admitted(path, &[stranger, ("Authorization", "Bearer look")]);
        }
        let wrong = [("Authorization", "Bearer 0ook")];
        assert_eq!(test.ask(Method::Head, path, &wrong).status, 403);
    }
}

#[test]
fn many_wrong_tokens_are_throttled_and_right_ones_never() {
    let (ingest, read) = (Some(BearerToken::new("wri-te")), Some(BearerToken::new("re-ad")));
    let mut test = router_test_with(Tokens { ingest, read, ..Tokens::default() }, 100, 1_000);
    let wrong = ("Authorization", "Bearer 0ther");
    let mut statuses = [0; 2];
    for guess in 0..100 {
        let (method, path) =
            if guess % 2 == 0 { (Method::Post, "/ingest") } else { (Method::Get, "/stats") };
        let response = test.ask(method, path, &[wrong]);
        match response.status {
            403 => statuses[0] += 1,
            status => {
                assert_eq!((status, field(&response, "Retry-After")), (429, Some("60")));
                assert_eq!(error_code(&response), "too_many_wrong_tokens");
                statuses[1] += 1;
            }
        }
        let right = [("Authorization", "Bearer wri-te")];
        test.call(Method::Post, "/ingest", &right, r#"{"rps":1}"#);
        assert_eq!(test.engine.sent().status, 202);
        assert_eq!(test.ask(Method::Get, "/stats", &[]).status, 401);
    }
    assert_eq!(statuses, [10, 90]);
    let elsewhere = ("test-from-elsewhere", "");
    assert_eq!(test.ask(Method::Get, "/stats", &[wrong, elsewhere]).status, 403);
}

#[test]
fn too_many_debug_requests_are_503() {
    let mut test = router_test();
    test.call(Method::Post, "/debug/pprof/symbol", &[], "0x1");
    test.call(Method::Get, "/debug/pprof/threads", &[], "");
    let refused = test.engine.completed();
    assert_eq!((refused.status, field(&refused, "Retry-After")), (503, Some("1")));
    let request = test.debugs.recv().expect("the first");
    assert_eq!((request.debug, &*request.body), (DebugRead::Symbol, &b"0x1"[..]));
}

#[test]
fn reads_go_to_the_readers_until_their_queue_is_full() {
    let mut test = router_test_with(Tokens::default(), 1, 1_000);
    let fields = [("ACCEPT", "text/plain"), ("accept-encoding", "gzip")];
    test.call(Method::Head, "/analyze?device=a&x", &fields, "");
    assert!(test.engine.is_silent());
    test.call(Method::Get, "/stats", &[], "");
    let refused = test.engine.completed();
    assert_eq!((refused.status, &*error_code(&refused)), (503, "too_many_reads"));
    assert_eq!(field(&refused, "Retry-After"), Some("1"));
    assert_eq!(test.counters.reads_refused_total.get(), 1);
    assert_eq!(test.counted("/stats", Method::Get, 503), 1);
    let request = test.reads.recv().expect("the first read");
    assert_eq!((request.task, request.method), (ReaderTask::Read(Read::Analyze), Method::Head));
    assert_eq!(request.query, "device=a&x");
    assert_eq!((&*request.accept, &*request.accept_encoding), ("text/plain", "gzip"));
    assert_eq!(request.read_ns, 7);
    drop(request);
    assert_eq!(test.engine.completed().status, 500, "a dropped responder answers");
    let (_, nobody) = bounded(1);
    test.reads = nobody;
    test.call(Method::Get, "/stats", &[], "");
    assert_eq!(error_code(&test.engine.completed()), "stopping");
}

#[test]
fn samples_of_the_round_are_sent_before_a_read() {
    let mut test = router_test();
    test.post("/ingest", r#"{"rps":1}"#);
    assert!(test.sample_consumer.waiting() == 0);
    test.call(Method::Get, "/analyze", &[], "");
    assert_eq!((test.sample_consumer.waiting(), test.reads.len()), (1, 1));
}

#[test]
fn a_round_times_its_answers() {
    let mut test = router_test();
    for _ in 0..3 {
        test.post("/ingest", r#"{"rps":1}"#);
    }
    test.ask(Method::Get, "/nope", &[]);
    test.router.round_called(Now::default(), StageTimer(Some(&mut test.times)));
    test.router.round_answered(40_000);
    test.router.round_answered(1);
    for (path, count) in [("/ingest", 3), ("/nope", 1), ("/metrics", 0)] {
        let mut counts = Counts::default();
        test.counters.requests.durations(routes::find(path)).merge_into(&mut counts);
        assert_eq!((counts.count(), counts.sum_ns), (count, count * 40_000), "{path}");
    }
    assert!(test.times.has(Stage::Decode) && test.times.has(Stage::Enqueue));
}

#[test]
fn answers_to_samples_wait_for_the_disk_and_others_do_not() {
    for is_durable in [true, false] {
        let mut test = router_test();
        let counters: Arc<AcknowledgeCounters> = Arc::default();
        let clock = Clock::new(sigmad_clock::start());
        test.router.parts.acknowledger = Some(Acknowledger::new(counters.clone(), clock));
        let lines = "up rps=1";
        test.call(Method::Post, "/ingest", &[], r#"{"rps":1}"#);
        test.call(Method::Post, "/ingest", &[], r#"[{"rps":1},{"rps":"x"}]"#);
        test.call(Method::Post, "/write", &[], lines);
        assert!(test.engine.is_silent());
        assert_eq!(test.post("/ingest", r#"{"rps":"x"}"#).status, 400, "nothing is to be kept");
        assert_eq!(test.ask(Method::Get, "/health", &[]).status, 200);

        test.router.round_called(Now::default(), StageTimer::default());
        let mut chunk = test.sample_consumer.receive().expect("open").expect("a chunk");
        assert!(test.engine.is_silent());
        let right = chunk.right.take().expect("its right");
        if is_durable {
            right.durable()
        } else {
            drop(right)
        }
        let statuses = [(); 3].map(|()| test.engine.completed().status);
        assert_eq!(statuses, if is_durable { [202, 202, 204] } else { [503; 3] });
        assert_eq!(
            (counters.durable_total.get(), counters.lost_total.get()),
            if is_durable { (3, 0) } else { (0, 3) }
        );
        test.sample_consumer.recycle(chunk);

        // The next round has a right of its own, and one without samples has none.
        test.call(Method::Post, "/ingest", &[], r#"{"rps":1}"#);
        test.router.round_called(Now::default(), StageTimer::default());
        test.router.round_called(Now::default(), StageTimer::default());
        let mut chunk = test.sample_consumer.receive().expect("open").expect("a chunk");
        chunk.right.take().expect("its right").durable();
        assert_eq!(test.engine.completed().status, 202);
    }
}
