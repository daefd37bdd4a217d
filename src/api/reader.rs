//! The reader threads: they answer reads, so that no worker does slow work.
//!
//! A reader takes a request with its responder and asks analytics, which first judges every sample sent
//! before. It writes the report as JSON, compresses it if the client accepts that, and answers. It ends
//! with the last worker.

use std::any::Any;
use std::borrow::Cow;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::Receiver;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::accept::{Exposition, exposition, takes_gzip};
use super::actions::{Operation, Read};
use super::counters::RequestCounters;
use super::errors::{ApiError, answered};
use super::incidents;
use super::operations::{self, Asked};
use super::query::Query;
use super::routes::{Label, OPENAPI};
use crate::analytics::Asker;
use crate::analytics::families::FleetGauges;
use crate::analytics::report::{DevicesQuery, Scope, SeriesQuery, SeriesSelection, WindowsReport};
use crate::answers::lists;
use crate::answers::windows::{self, AnswerScope, DetectionSettings};
use crate::dashboard::history_answer;
use crate::dashboard::streams::HistoryQuery;
use crate::dashboard::subscriber::{self, SubscribeError, Subscriber, Subscription};
use crate::http::client_address::ClientAddress;
use crate::http::message::{HeaderField, Method, Responder, Response};
use crate::incidents::shared::Incidents;
use crate::lists::{LatestQuery, Lists};
use crate::registry::Registry;
use crate::telemetry::{OPENMETRICS, TEXT, Telemetry, openmetrics};
use sigmad_clock::{Clock, Now};

/// Reader threads: one answers while the other compresses a scrape.
pub const READERS: usize = 2;
/// Queued reads, then 503. It is a second of work for two readers of slow scrapes.
pub const READS_WAITING_MAX: usize = 256;
/// A smaller body fits one packet uncompressed.
pub const GZIP_BYTES_MIN: usize = 1_024;

/// What a reader does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReaderTask {
    /// Answers a read.
    Read(Read),
    /// Does what an operator asks for.
    Operate(Operation),
}

/// One request for a reader.
#[derive(Debug)]
pub struct ReadRequest {
    /// What to do.
    pub task: ReaderTask,
    /// Its metric label.
    pub label: Label,
    /// GET or HEAD, or that of the operation.
    pub method: Method,
    /// The part of the path that names what it is about, as sent; empty without one.
    pub id: String,
    /// The query string, as sent.
    pub query: String,
    /// The field `Accept`, empty without one.
    pub accept: String,
    /// The field `Accept-Encoding`, empty without one.
    pub accept_encoding: String,
    /// The field `Last-Event-ID`, empty without one.
    pub last_event_id: String,
    /// The body of an operation.
    pub body: Vec<u8>,
    /// The client's address.
    pub client: ClientAddress,
    /// When a worker read the request, by the monotonic clock.
    pub read_ns: u64,
    /// Sends the answer.
    pub responder: Responder,
}

/// The dependencies that all readers share.
#[derive(Debug)]
pub struct ReaderDeps {
    /// Asks the analytics thread.
    pub asker: Asker,
    /// Answers for the lists of anomalies and samples.
    pub lists: Lists,
    /// Asks for incidents.
    pub incidents: Incidents,
    /// Names and ids.
    pub registry: Arc<Registry>,
    /// Subscribes clients to events.
    pub subscriber: Subscriber,
    /// The metrics for the scrape.
    pub telemetry: Telemetry,
    /// Settings that `/analyze` shows.
    pub settings: DetectionSettings,
    /// Replicas share their windows through the store.
    pub is_shared: bool,
}

/// Starts the reader `index`.
pub fn start(
    index: usize,
    reads: Receiver<ReadRequest>,
    deps: Arc<ReaderDeps>,
    counters: Arc<RequestCounters>,
    mut clock: Clock,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("reader-{index}")).spawn(move || {
        for request in reads {
            serve(request, &deps, &counters, &mut clock);
        }
    })
}

fn serve(request: ReadRequest, deps: &ReaderDeps, counters: &RequestCounters, clock: &mut Clock) {
    if request.task == ReaderTask::Read(Read::Events) && request.method != Method::Head {
        return subscribe(request, deps, counters, clock);
    }
    let ReadRequest { label, method, client, read_ns, responder, .. } = request;
    let now = clock.now();
    // A bug in one answer must not end the thread.
    let answered = catch_unwind(AssertUnwindSafe(|| {
        let answered = match request.task {
            ReaderTask::Read(read) => ReadQuery {
                read,
                id: &request.id,
                query: &request.query,
                accept: &request.accept,
                now,
            }
            .answer(deps),
            ReaderTask::Operate(operation) => {
                let asked = Asked { id: &request.id, body: &request.body, now };
                operations::answer(operation, asked, &deps.incidents, &deps.registry)
            }
        };
        let answer = answered.unwrap_or_else(|error| {
            error.log(client, label);
            error.response()
        });
        compress(answer, &request.accept_encoding)
    }));
    let response = answered.unwrap_or_else(|panic| internal_error(&*panic));
    counters.count(label, method, response.status);
    responder.send(response);
    counters.time(label, clock.monotonic_ns().saturating_sub(read_ns), 1);
}

/// Subscribes a client to the event stream.
fn subscribe(request: ReadRequest, deps: &ReaderDeps, counters: &RequestCounters, clock: &Clock) {
    let ReadRequest { label, method, query, last_event_id, client, read_ns, responder, .. } =
        request;
    let query = Query::new(&query);
    let chosen = query.device().and_then(|device| Ok((device, query.series()?)));
    let (status, refused) = match chosen {
        Err(error) => (error.status(), Some((error, responder))),
        Ok((device, series)) => {
            let device = device.map(Box::from);
            let subscription = Subscription { responder, device, series, last_event_id };
            match deps.subscriber.subscribe(subscription) {
                Ok(()) => (200, None),
                Err(SubscribeError::Full(responder)) => {
                    (503, Some((ApiError::EventsFull, responder)))
                }
                Err(SubscribeError::Stopping(responder)) => {
                    (503, Some((ApiError::Stopping, responder)))
                }
            }
        }
    };
    counters.count(label, method, status);
    if let Some((error, responder)) = refused {
        error.log(client, label);
        responder.send(error.response());
    }
    counters.time(label, clock.monotonic_ns().saturating_sub(read_ns), 1);
}

fn internal_error(panic: &(dyn Any + Send)) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic");
    tracing::error!("a read panicked: {text}");
    ApiError::Internal.response()
}

/// The parts of a read that its answer depends on.
struct ReadQuery<'a> {
    read: Read,
    id: &'a str,
    query: &'a str,
    accept: &'a str,
    now: Now,
}

impl ReadQuery<'_> {
    fn answer(&self, deps: &ReaderDeps) -> Result<Response, ApiError<'static>> {
        let query = Query::new(self.query);
        let body = match self.read {
            Read::Analyze => {
                let (scope, device) = (answer_scope(&query, deps)?, query.device()?);
                let report = windows_report(device, scope.scope, series_selection(&query)?, deps)?;
                windows::analyze(device, &report, scope, &deps.settings, self.now)
            }
            Read::Stats => {
                let scope = answer_scope(&query, deps)?;
                windows::stats(&windows_report(query.device()?, scope.scope, None, deps)?, scope)
            }
            Read::Devices => {
                let search = query.search()?.map(Box::from);
                let (limit, sort) = (query.limit()?, query.sort()?);
                let (after, is_local) =
                    (query.after_device(sort)?.map(Box::from), query.is_local()?);
                let scope = if is_local { Scope::Local } else { Scope::Cluster };
                let asked = DevicesQuery { limit, sort, search, after, scope };
                let found = answered(deps.asker.devices(&asked))?;
                lists::devices(&found, sort, deps.lists.windows_scope(is_local))
            }
            Read::Anomalies => {
                let asked = list_query(&query, query.since_us()?)?;
                lists::anomalies(&answered(deps.lists.anomalies(asked))?)
            }
            Read::Latest => {
                let asked = list_query(&query, i64::MIN)?;
                lists::latest(&answered(deps.lists.latest(asked, self.now))?)
            }
            Read::Incidents => incidents::list(&query, &deps.incidents, self.now)?,
            Read::Incident => incidents::one(self.id, &query, &deps.incidents)?,
            Read::Silences => incidents::silences(&query, &deps.incidents, self.now)?,
            Read::IncidentsPage => {
                return incidents::table(&query, &deps.incidents, self.now);
            }
            Read::History => {
                let (device, range) = (query.device()?.map(Box::from), query.range(self.now)?);
                let (series, is_local) = (query.series()?, query.is_local()?);
                let asked = HistoryQuery { device, series, range, is_local };
                history_answer::history(&asked, &answered(deps.subscriber.history(asked.clone()))?)
            }
            Read::Scrape => return self.scrape(deps),
            // Only HEAD gets here: the head of a GET.
            Read::Events => {
                query.device()?;
                query.series()?;
                return Ok(subscriber::response_head(Vec::new()));
            }
            Read::OpenApi => OPENAPI.as_bytes().to_vec(),
        };
        Ok(ok(super::JSON, Vec::new(), body))
    }

    fn scrape(&self, deps: &ReaderDeps) -> Result<Response, ApiError<'static>> {
        let totals = answered(deps.asker.totals())?;
        let fleet = answered(deps.asker.windows(None, Scope::Cluster))?;
        let families = deps.telemetry.gather(&[&totals, &FleetGauges(fleet)]);
        let (content_type, text) = match exposition(self.accept) {
            Exposition::Text => (TEXT, crate::telemetry::text(&families)),
            Exposition::OpenMetrics => (OPENMETRICS, openmetrics::encode(&families)),
        };
        Ok(ok(content_type, vec![("Vary", Cow::Borrowed("Accept"))], text.into_bytes()))
    }
}

fn ok(content_type: &'static str, fields: Vec<HeaderField>, body: Vec<u8>) -> Response {
    Response { status: 200, content_type, fields, body }
}

fn answer_scope(query: &Query<'_>, deps: &ReaderDeps) -> Result<AnswerScope, ApiError<'static>> {
    Ok(AnswerScope { scope: query.scope(deps.is_shared)?, is_shared: deps.is_shared })
}

/// The windows of the fleet, or of a device, all or those of `chosen` series; none for an unknown device.
fn windows_report(
    device: Option<&str>,
    scope: Scope,
    chosen: Option<(SeriesSelection, usize)>,
    deps: &ReaderDeps,
) -> Result<WindowsReport, ApiError<'static>> {
    let device = match device.map(|name| deps.registry.find_device(name)) {
        None => None,
        Some(Some(id)) => Some(id),
        Some(None) => {
            // The answer for an unknown device has `syncedAt` too.
            let fleet = answered(deps.asker.windows(None, scope))?;
            return Ok(WindowsReport { metrics: Vec::new(), last_timestamp_us: None, ..fleet });
        }
    };
    let Some((selection, limit)) = chosen else {
        return answered(deps.asker.windows(device, scope));
    };
    answered(deps.asker.series(SeriesQuery { device, scope, selection, limit }))
}

/// The series that `/analyze` is asked for, and how many of them. None for all that there is room for.
fn series_selection(
    query: &Query<'_>,
) -> Result<Option<(SeriesSelection, usize)>, ApiError<'static>> {
    let (search, limit) = (query.search_series()?, query.limit()?);
    Ok(match search {
        Some(part) => Some((SeriesSelection::Containing(part.into()), limit)),
        None => query.has_limit().then_some((SeriesSelection::All, limit)),
    })
}

/// The query of `/anomalies` and `/latest`.
fn list_query<'q>(
    query: &'q Query<'_>,
    since_us: i64,
) -> Result<LatestQuery<'q>, ApiError<'static>> {
    let (limit, device) = (query.limit()?, query.device()?);
    Ok(LatestQuery { device, limit, since_us, is_local: query.is_local()? })
}

/// Compresses a large body if the client accepts gzip.
fn compress(mut response: Response, accept_encoding: &str) -> Response {
    if response.body.len() <= GZIP_BYTES_MIN {
        return response;
    }
    response.fields.push(("Vary", Cow::Borrowed("Accept-Encoding")));
    if takes_gzip(accept_encoding) {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let compressed = encoder.write_all(&response.body).and_then(|()| encoder.finish());
        response.body = compressed.expect("writing to a Vec cannot fail");
        response.fields.push(("Content-Encoding", Cow::Borrowed("gzip")));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use serde_json::{Value, json};

    use super::super::actions::{Action, Get};
    use super::super::counters::{CODES, METHODS};
    use super::super::routes;
    use super::super::testing::{FakeEngine, field, json};
    use super::*;
    use crate::analytics::questions;
    use crate::analytics::report::Question;
    use crate::dashboard::subscriber::EventsRequest;
    use crate::http::message::ResponseWriter;
    use crate::incidents::thread::running;
    use crate::shards::ShardLayout;
    use crate::test_reports::{asker, fleet};
    use sigmad_counters::{Counts, MetricSource};

    struct ReaderTest {
        deps: Arc<ReaderDeps>,
        engine: FakeEngine,
        counters: RequestCounters,
        clock: Clock,
    }

    fn reader_test() -> ReaderTest {
        let source: Arc<dyn MetricSource> = Arc::<RequestCounters>::default();
        let (asker, registry) = (asker().0, Arc::new(Registry::new(1_000, 3_600)));
        let deps = ReaderDeps {
            lists: Lists::new(asker.clone(), registry.clone(), None, i64::MAX / 4),
            asker,
            incidents: Incidents::new(running(Arc::new(Registry::new(1_000, 3_600))).0, None),
            subscriber: subscriber::channel(Arc::default()).0,
            telemetry: Telemetry::new([source].into()),
            registry,
            settings: DetectionSettings { window: 50, threshold: 2.0, detector: "zscore" },
            is_shared: false,
        };
        ReaderTest {
            deps: Arc::new(deps),
            engine: FakeEngine::default(),
            counters: RequestCounters::default(),
            clock: Clock::new(sigmad_clock::start()),
        }
    }

    fn request(engine: &mut FakeEngine, target: &str, accept: [&str; 2]) -> ReadRequest {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let label = routes::find(path);
        let Action::Get(Get::Read(read)) = routes::action(label, Method::Get) else {
            panic!("{path} is not read")
        };
        ReadRequest {
            task: ReaderTask::Read(read),
            label,
            method: Method::Get,
            id: label.route().and_then(|route| route.id_of(path)).unwrap_or_default().to_owned(),
            query: query.to_owned(),
            accept: accept[0].to_owned(),
            accept_encoding: accept[1].to_owned(),
            last_event_id: String::new(),
            body: Vec::new(),
            client: std::net::Ipv4Addr::LOCALHOST.into(),
            read_ns: 0,
            responder: engine.defer(),
        }
    }

    impl ReaderTest {
        fn ask(&mut self, target: &str, accept: [&str; 2]) -> Response {
            let request = request(&mut self.engine, target, accept);
            serve(request, &self.deps, &self.counters, &mut self.clock);
            self.engine.completed()
        }

        fn get(&mut self, target: &str) -> Response {
            self.ask(target, ["", ""])
        }

        fn rows(&mut self, target: &str, list: &str) -> Vec<Value> {
            let response = self.get(target);
            assert_eq!(response.status, 200, "{target}");
            json(&response)[list].as_array().expect("a list").clone()
        }
    }

    #[test]
    fn every_read_is_answered() {
        let mut test = reader_test();
        for target in [
            "/analyze",
            "/analyze?scope=local&x=1",
            "/stats",
            "/stats?device=nobody",
            "/openapi.json",
        ] {
            let response = test.get(target);
            assert_eq!((response.status, response.content_type), (200, "application/json"));
            assert!(json(&response).is_object());
        }
        let report = json(&test.get("/analyze"));
        assert_eq!((&report["lastRps"], &report["zScore"]), (&json!(1e15 as u64), &json!(-1e6)));
        let report = json(&test.get("/analyze?device=no+one"));
        assert_eq!((&report["device"], &report["count"]), (&json!("no one"), &json!(0)));
        assert_eq!(report["metrics"], json!({}));
    }

    #[test]
    fn shared_windows_have_a_scope_and_a_synchronization_time() {
        let mut test = reader_test();
        let alone = json(&test.get("/analyze"));
        assert_eq!((&alone["scope"], alone.get("syncedAt")), (&json!("local"), None));
        Arc::get_mut(&mut test.deps).expect("the only owner").is_shared = true;
        for (query, scope, total) in [("", "cluster", 70), ("scope=local", "local", 7)] {
            let report = json(&test.get(&format!("/analyze?{query}")));
            assert_eq!((&report["scope"], &report["totalCount"]), (&json!(scope), &json!(total)));
            assert_eq!(report["syncedAt"], json!(1_735_100_001.25));
            let report = json(&test.get(&format!("/analyze?device=nobody&{query}")));
            assert_eq!((&report["count"], &report["metrics"]), (&json!(0), &json!({})));
            assert_eq!(report["syncedAt"], json!(1_735_100_001.25));
            let report = json(&test.get(&format!("/stats?{query}")));
            assert_eq!(report["scope"], scope);
            assert_eq!(report["synced_at"], json!(1_735_100_001.25));
        }
        assert_eq!(test.get("/analyze?scope=moon").status, 400);
    }

    #[test]
    fn lists_have_limits_and_an_order() {
        let mut test = reader_test();
        assert_eq!(test.rows("/devices", "devices").len(), 100);
        let rows = test.rows("/devices?limit=3&sort=last_seen", "devices");
        assert_eq!((rows.len(), &rows[0]["device"]), (3, &json!("LastSeen")));
        let rows = test.rows("/anomalies?limit=1000&since=1735100000", "anomalies");
        assert_eq!((rows.len(), &rows[0]["timestamp"]), (1000, &json!(1_735_100_000)));
        assert_eq!(test.rows("/anomalies?device=nobody", "anomalies").len(), 0);
        assert_eq!(test.rows("/latest?limit=2", "samples").len(), 2);
        assert_eq!(test.rows("/latest?device=nobody", "samples").len(), 0);
    }

    #[test]
    fn errors_name_invalid_parameters() {
        let mut test = reader_test();
        for (target, name) in [
            ("/analyze?scope=moon", "scope"),
            ("/analyze?scope=cluster", "scope"),
            ("/stats?scope=cluster", "scope"),
            ("/analyze?device=", "device"),
            ("/stats?device=%00", "device"),
            ("/devices?limit=0", "limit"),
            ("/devices?sort=size", "sort"),
            ("/anomalies?since=soon", "since"),
            ("/anomalies?limit=x", "limit"),
            ("/latest?limit=1001", "limit"),
            ("/events?device=", "device"),
        ] {
            let response = test.get(target);
            let body = json(&response);
            assert_eq!(response.status, 400, "{target}");
            assert_eq!(body["error"]["code"], "bad_parameter");
            assert!(body["error"]["message"].as_str().expect("text").contains(name), "{body}");
        }
    }

    #[test]
    fn the_scrape_has_the_accepted_format() {
        let mut test = reader_test();
        for path in ["/metrics", "/metrics/prometheus"] {
            let response = test.get(path);
            assert_eq!(response.content_type, "text/plain; version=0.0.4; charset=utf-8");
            let text = String::from_utf8(response.body).expect("UTF-8");
            assert!(text.contains("# TYPE http_requests_total counter\n"), "{text}");
            let accept = "application/openmetrics-text;version=1.0.0;q=0.9,text/plain;q=0.3";
            let response = test.ask(path, [accept, ""]);
            assert!(response.content_type.starts_with("application/openmetrics-text; version=1"));
            assert_eq!(field(&response, "Vary"), Some("Accept"));
            assert!(response.body.ends_with(b"\n# EOF\n"));
        }
    }

    #[test]
    fn large_bodies_are_compressed_if_accepted() {
        let mut test = reader_test();
        let plain = test.get("/openapi.json");
        assert_eq!(field(&plain, "Content-Encoding"), None);
        assert_eq!(field(&plain, "Vary"), Some("Accept-Encoding"));
        let compressed = test.ask("/openapi.json", ["", "gzip, br"]);
        assert_eq!(field(&compressed, "Content-Encoding"), Some("gzip"));
        assert!(compressed.body.len() < plain.body.len() / 4);
        let mut unpacked = Vec::new();
        let mut decoder = flate2::read::GzDecoder::new(&*compressed.body);
        decoder.read_to_end(&mut unpacked).expect("gzip");
        assert_eq!(unpacked, plain.body);
        let small = test.ask("/stats", ["", "gzip"]);
        assert_eq!((field(&small, "Content-Encoding"), field(&small, "Vary")), (None, None));
    }

    #[test]
    fn reads_are_counted_and_timed() {
        let mut test = reader_test();
        test.get("/devices");
        test.get("/devices?limit=x");
        let label = routes::find("/devices");
        let count = |status| {
            let code = CODES.iter().position(|code| *code == status).expect("listed");
            let method = METHODS.iter().position(|(method, _)| *method == Method::Get);
            test.counters.answered(label, method.expect("listed"), code)
        };
        assert_eq!((count(200), count(400)), (1, 1));
        let mut counts = Counts::default();
        test.counters.durations(label).merge_into(&mut counts);
        assert_eq!(counts.count(), 2);
        assert!(counts.sum_ns > 0);
    }

    #[test]
    fn a_panic_ends_one_read_only() {
        let mut test = reader_test();
        let (asker, asked) = questions(ShardLayout::ONE, &[Arc::default()]);
        Arc::get_mut(&mut test.deps).expect("the only owner").asker = asker;
        std::thread::spawn(move || {
            for question in asked.into_iter().flatten() {
                let Question::Windows(_, _, to) = question else { panic!("{question:?}") };
                let mut report = fleet();
                report.metrics[0].values.clear();
                to.send(report).expect("the reader waits");
            }
        });
        let response = test.get("/analyze");
        assert_eq!((response.status, &json(&response)["error"]["code"]), (500, &json!("internal")));
        assert_eq!(test.get("/openapi.json").status, 200);
    }

    #[test]
    fn reads_without_analytics_are_503_stopping() {
        let mut test = reader_test();
        let (asker, _) = questions(ShardLayout::ONE, &[Arc::default()]);
        let deps = Arc::get_mut(&mut test.deps).expect("the only owner");
        deps.lists = Lists::new(asker.clone(), deps.registry.clone(), None, i64::MAX / 4);
        deps.asker = asker;
        for target in ["/analyze", "/metrics", "/latest"] {
            let response = test.get(target);
            assert_eq!(response.status, 503);
            assert_eq!(json(&response)["error"]["code"], "stopping");
        }
        assert_eq!(test.get("/openapi.json").status, 200);
    }

    #[test]
    fn clients_of_events_are_subscribed() {
        let mut test = reader_test();
        let (subscriber, subscriptions) = subscriber::channel(Arc::default());
        Arc::get_mut(&mut test.deps).expect("the only owner").subscriber = subscriber;
        let mut head = request(&mut test.engine, "/events?device=a", ["", ""]);
        head.method = Method::Head;
        serve(head, &test.deps, &test.counters, &mut test.clock);
        let response = test.engine.completed();
        assert_eq!((response.status, response.content_type), (200, subscriber::EVENT_STREAM));
        assert_eq!(field(&response, "X-Accel-Buffering"), Some("no"));

        let mut get = request(&mut test.engine, "/events?device=a", ["", ""]);
        get.last_event_id = "7-9".to_owned();
        serve(get, &test.deps, &test.counters, &mut test.clock);
        assert!(test.engine.is_silent());
        let arrival = subscriptions.queue.recv().expect("a client");
        let EventsRequest::Subscribe(arrival) = arrival else { panic!("{arrival:?}") };
        assert_eq!((arrival.device.as_deref(), &*arrival.last_event_id), (Some("a"), "7-9"));
        drop(subscriptions);
        let response = test.get("/events");
        assert_eq!((response.status, &json(&response)["error"]["code"]), (503, &json!("stopping")));
    }

    #[test]
    fn readers_end_with_the_last_worker() {
        let ReaderTest { deps, mut engine, clock, .. } = reader_test();
        let (reads, asked) = crossbeam_channel::bounded(READS_WAITING_MAX);
        let reader = start(0, asked, deps, Arc::default(), clock).expect("a thread");
        assert_eq!(reader.thread().name(), Some("reader-0"));
        for _ in 0..3 {
            reads.send(request(&mut engine, "/stats", ["", ""])).expect("room");
            assert_eq!(engine.completed().status, 200);
        }
        drop(reads);
        reader.join().expect("no panic");
    }
}
