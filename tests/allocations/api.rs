//! Nothing is allocated between the first byte of a body and the last verdict on it, nor for an answer
//! that refuses it, once names are known and buffers warm.

use std::sync::Arc;

use crossbeam_channel::bounded;
use sigmad::analytics::latest::LatestSamples;
use sigmad::analytics::{Analytics, AnalyticsSettings};
use sigmad::api::router::{Router, RouterParts};
use sigmad::api::tokens::Tokens;
use sigmad::decode::Decoder;
use sigmad::http::message::{
    HeaderField, Headers, Method, Request, Responder, ResponseWriter, Service as _,
};
use sigmad::http::stages::{StageTimer, StageTimes};
use sigmad::registry::Registry;
use sigmad::reloadable::Reloadable;
use sigmad::sample_queue::{self, SampleConsumer};
use sigmad_clock::{self, Clock, Now};

use crate::counting;

/// Keeps the status of the last answer.
struct LastStatus(u16);

impl ResponseWriter for LastStatus {
    fn send(&mut self, status: u16, _kind: &'static str, _fields: &[HeaderField], _body: &[u8]) {
        self.0 = status;
    }

    fn defer(&mut self) -> Responder {
        unreachable!("nothing here is read")
    }
}

struct Worker {
    router: Router,
    sample_consumer: SampleConsumer,
    analytics: Analytics,
    latest: LatestSamples,
    scratch: Vec<u8>,
}

impl Worker {
    fn new() -> Self {
        let (samples, sample_consumer) = sample_queue::channel(Arc::default(), Arc::default());
        let registry = Arc::new(Registry::new(1_000, 3_600));
        let router = Router::new(RouterParts {
            decoder: Decoder::new(registry.clone()),
            samples,
            acknowledger: None,
            clock: Clock::new(sigmad_clock::start()),
            counters: Arc::default(),
            reads: bounded(1).0,
            debug: bounded(1).0,
            tokens: Reloadable::new(Tokens::default()).reader(),
            readiness: Arc::default(),
        });
        let analytics = Analytics::new(AnalyticsSettings::default(), registry.into());
        Self {
            router,
            sample_consumer,
            analytics,
            latest: LatestSamples::default(),
            scratch: Vec::new(),
        }
    }

    fn round(&mut self, method: Method, path: &str, body: &[u8]) -> u16 {
        self.scratch.clear();
        self.scratch.extend_from_slice(body);
        let fields = [
            httparse::Header { name: "Host", value: b"localhost:8080" },
            httparse::Header { name: "Content-Type", value: b"application/json" },
        ];
        let now = Now { monotonic_ns: 7_000_000_000, wall_us: 1_735_100_000_000_000 };
        let mut times = StageTimes::new(0);
        let request = Request {
            method,
            path,
            query: "source=cron",
            headers: Headers(&fields),
            body: &mut self.scratch,
            client: std::net::Ipv4Addr::LOCALHOST.into(),
            is_http10: false,
            now,
            stages: StageTimer(Some(&mut times)),
        };
        let mut answer = LastStatus(0);
        self.router.call(request, &mut answer);
        self.router.round_called(now, StageTimer(Some(&mut times)));
        self.router.round_answered(40_000);
        answer.0
    }

    /// What the analytics thread does.
    fn judge(&mut self) {
        while let Ok(Some(chunk)) = self.sample_consumer.receive() {
            self.analytics.judge(&chunk.batch, chunk.sent.wall_us);
            self.latest.keep(&chunk.batch, chunk.sent.wall_us);
            self.sample_consumer.recycle(chunk);
        }
    }
}

fn allocations_of(mut run: impl FnMut()) -> usize {
    // Twice warm: the first run opens streams and sizes buffers, the second finds what came back.
    run();
    run();
    let before = counting::calls();
    for _ in 0..100 {
        run();
    }
    counting::calls() - before
}

#[test]
fn a_sample_allocates_nothing_from_body_to_verdict() {
    let single = r#"{"timestamp":1735100000,"device":"edge-17","cpu":60.5,"rps":2000}"#;
    let batch = format!("[{}]", vec![single; 300].join(","));
    let lines = vec![single; 100].join("\n");
    let mut worker = Worker::new();
    for (method, path, body, status) in [
        (Method::Post, "/ingest", single, 202),
        (Method::Post, "/metrics", single, 200),
        (Method::Post, "/ingest", &*batch, 202),
        (Method::Post, "/ingest", &*lines, 202),
        (Method::Get, "/health", "", 200),
        (Method::Head, "/readyz", "", 503),
        (Method::Get, "/nowhere", "", 404),
        (Method::Post, "/ingest", " ", 400),
    ] {
        let allocations = allocations_of(|| {
            assert_eq!(worker.round(method, path, body.as_bytes()), status, "{path}");
            worker.judge();
        });
        assert_eq!(allocations, 0, "{path} {status}");
    }
    while worker.round(Method::Post, "/ingest", batch.as_bytes()) == 202 {}
    let allocations = allocations_of(|| {
        assert_eq!(worker.round(Method::Post, "/ingest", batch.as_bytes()), 503);
    });
    assert_eq!(allocations, 0, "a full queue");
}
