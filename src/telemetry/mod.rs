//! What is counted and timed, as the scrape shows it.
//!
//! Nothing is counted here: each thread has its own [`tally`](sigmad_counters) beside the code that it
//! counts, and the scrape adds them up, on a reader, without stopping anyone. What is not a tally (the
//! process, later the store) stands in a [`prometheus::Registry`].

mod families;
pub mod latency;
pub mod openmetrics;
mod process;
mod store;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;

use prometheus::TextEncoder;
use prometheus::proto::MetricFamily;

use self::families::Family;
use crate::analytics::report::{TotalsReport, WindowsReport};
use crate::analytics::thread::AnalyticsCounters;
use crate::api::counters::{CODES, METHODS, RequestCounters, RouterCounters};
use crate::api::routes::{Get, Label};
use crate::dashboard::events::EventsCounters;
use crate::http;
use crate::http::head::RequestError;
use crate::http::message::Method;
use crate::judged_queue::JudgedQueueCounters;
use crate::registry::Registry;
use crate::sample_queue::SampleQueueCounters;
use crate::store::StoreCounters;
use sigmad_counters::{Counter, Counts, Histogram};

/// The media type of [`text`].
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The media type of [`openmetrics::encode`].
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper ends of the buckets of requests: 33 µs to 8.6 s by powers of two, which a
/// [`Histogram`] tells apart exactly.
const REQUEST_EDGES_NS: [u64; 19] = edges(15);
/// Upper ends of the buckets of stages: 64 ns to 16.8 ms.
const STAGE_EDGES_NS: [u64; 19] = edges(6);

/// Powers of two, the first 2^`exponent`.
const fn edges<const N: usize>(exponent: u32) -> [u64; N] {
    let mut edges = [0; N];
    let mut at = 0;
    while at < N {
        edges[at] = 1 << (exponent + at as u32);
        at += 1;
    }
    edges
}

/// What runs here, for `sigmad_build_info`.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// The version of sigmad.
    pub version: &'static str,
    /// The HTTP engine.
    pub engine: &'static str,
    /// The detector that gives `isAnomaly`.
    pub detector: &'static str,
    /// Values in a window.
    pub window: usize,
}

/// Everything that counts, thread by thread.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Connections, of each worker.
    pub http: Vec<Arc<http::counters::HttpCounters>>,
    /// Requests and samples, of each worker.
    pub routers: Vec<Arc<RouterCounters>>,
    /// Samples on their way, of each worker.
    pub sample_queues: Vec<Arc<SampleQueueCounters>>,
    /// Reads, of each reader.
    pub readers: Vec<Arc<RequestCounters>>,
    /// Of the thread behind `/debug/`.
    pub debug: Arc<RequestCounters>,
    /// The analytics thread.
    pub analytics: Arc<AnalyticsCounters>,
    /// The thread behind `/events`.
    pub events: Arc<EventsCounters>,
    /// The names in use.
    pub registry: Arc<Registry>,
    /// Redis, when it is on.
    pub store: Option<StoreSources>,
}

/// What counts on both sides of the judged-sample queue.
#[derive(Clone, Debug)]
pub struct StoreSources {
    /// Where analytics hands samples over.
    pub queue: Arc<JudgedQueueCounters>,
    /// The store.
    pub store: Arc<StoreCounters>,
}

/// Answers the scrape.
#[derive(Debug)]
pub struct Telemetry {
    build: Build,
    sources: Sources,
    registry: prometheus::Registry,
}

impl Telemetry {
    /// Shows `sources`, and the process that asks.
    pub fn new(build: Build, sources: Sources) -> Self {
        let registry = prometheus::Registry::new();
        let process = Box::new(process::Process::default());
        registry.register(process).expect("the registry is empty");
        Self { build, sources, registry }
    }

    /// Where those register who count with the prometheus crate.
    pub fn registry(&self) -> &prometheus::Registry {
        &self.registry
    }

    /// All there is to show, in the order of names. `totals` and `fleet` come from analytics.
    pub fn gather(&self, totals: &TotalsReport, fleet: &WindowsReport) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        families.extend(self.requests());
        families.extend(self.connections());
        families.extend(self.samples());
        families.extend(self.stages());
        families.extend(store::ledger(&self.sources));
        families.extend(self.sources.store.as_ref().map(store::redis).into_iter().flatten());
        families.extend(self.events());
        families.extend(streams(totals, fleet));
        families.push(self.build_info());
        let mut families: Vec<_> = families.into_iter().filter_map(Family::finish).collect();
        families.extend(self.registry.gather());
        families.sort_by(|one, other| one.name().cmp(other.name()));
        families
    }

    fn requests(&self) -> [Family; 3] {
        let Sources { http, routers, readers, debug, .. } = &self.sources;
        let all = || {
            let workers = routers.iter().map(|router| &router.requests);
            workers.chain(readers.iter().map(|reader| &**reader)).chain([&**debug])
        };

        let mut requests = Family::counter(
            "http_requests_total",
            "Requests answered, by route; those refused before their route was known: see http_requests_refused_total.",
        );
        let mut durations = Family::histogram(
            "http_request_duration_seconds",
            "From the moment that a request was read to the moment that its answer had left, or was handed to its worker.",
        );
        for label in Label::all() {
            let path = label.path();
            for (method, (kind, method_name)) in METHODS.iter().enumerate() {
                for (code, status) in CODES.iter().enumerate() {
                    let count: u64 = all().map(|t| t.answered(label, method, code)).sum();
                    if count > 0 || is_usual(label, *kind, *status) {
                        let code = status.to_string();
                        let labels = [("method", *method_name), ("path", path), ("code", &code)];
                        requests.add(&labels, count as f64);
                    }
                }
            }
            let counts = merged(all().map(|counters| counters.durations(label)));
            if counts.count() > 0 || !is_debug(label) {
                durations.add_histogram(&[("path", path)], &counts, &REQUEST_EDGES_NS);
            }
        }

        let mut refused = Family::counter(
            "http_requests_refused_total",
            "Requests refused before their route was known, by reason.",
        );
        for (place, error) in RequestError::ALL.iter().enumerate() {
            let count = sum(http, |counters| &counters.refusals[place]);
            let code = error.status().to_string();
            refused.add(&[("reason", error.code()), ("code", &code)], count);
        }
        [requests, durations, refused]
    }

    fn connections(&self) -> [Family; 4] {
        let http = &self.sources.http;
        let mut open = Family::gauge("http_connections_open", "Connections open now.");
        open.add(&[], sum(http, |counters| &counters.open));
        let mut accepted = Family::counter(
            "http_connections_accepted_total",
            "Connections taken from the kernel.",
        );
        accepted.add(&[], sum(http, |counters| &counters.accepted_total));
        let mut failures = Family::counter(
            "http_accept_failures_total",
            "Times that accept failed for want of descriptors or memory.",
        );
        failures.add(&[], sum(http, |counters| &counters.accept_failures_total));
        let mut closed = Family::counter(
            "http_connections_closed_total",
            "Connections closed by this side, by reason: idle, evicted to make room, stalled in reading their answer, cut at the end of the drain.",
        );
        closed.add(&[("reason", "idle")], sum(http, |counters| &counters.closed_idle_total));
        closed.add(&[("reason", "evicted")], sum(http, |counters| &counters.closed_evicted_total));
        closed.add(&[("reason", "stalled")], sum(http, |counters| &counters.closed_stalled_total));
        closed.add(&[("reason", "drain")], sum(http, |counters| &counters.closed_drain_total));
        [open, accepted, failures, closed]
    }

    fn samples(&self) -> [Family; 5] {
        let Sources { routers, sample_queues, registry, .. } = &self.sources;
        let mut requests = Family::counter("ingest_requests_total", "POSTs that bring samples.");
        requests.add(&[], sum(routers, |counters| &counters.ingest_requests_total));
        let mut reads =
            Family::counter("sigmad_reads_refused_total", "Reads refused because too many waited.");
        reads.add(&[], sum(routers, |counters| &counters.reads_refused_total));
        let mut samples = Family::counter(
            "ingest_samples_total",
            "Samples received, by result: accepted, invalid, too_many_streams (--max-streams), queue_full.",
        );
        for (result, count) in [
            ("accepted", sum(routers, |counters| &counters.accepted_total)),
            ("invalid", sum(routers, |counters| &counters.invalid_total)),
            ("too_many_streams", sum(routers, |counters| &counters.too_many_streams_total)),
            ("queue_full", sum(routers, |counters| &counters.queue_full_total)),
        ] {
            samples.add(&[("result", result)], count);
        }
        let mut queued = Family::gauge(
            "sigmad_analytics_queue_samples",
            "Samples in the queue from this worker to analytics, as the worker last saw it.",
        );
        for (worker, queue) in sample_queues.iter().enumerate() {
            queued.add(&[("worker", &worker.to_string())], queue.samples_in_flight.get() as f64);
        }
        let mut evicted = Family::counter(
            "sigmad_devices_evicted_total",
            "Silent devices that made room for others.",
        );
        evicted.add(&[], registry.evicted() as f64);
        [requests, reads, samples, queued, evicted]
    }

    fn stages(&self) -> [Family; 2] {
        let Sources { http, routers, analytics, .. } = &self.sources;
        let mut stages = Family::histogram(
            "sigmad_stage_duration_seconds",
            "Time per stage of a request, of one read in 64. queue_wait: from the poller's return to the read; enqueue: from decoded samples to the analytics queue; analytics: from there to the last verdict of a chunk.",
        );
        for (stage, counts) in [
            ("queue_wait", merged(http.iter().map(|counters| &counters.queue_wait_ns))),
            ("read", merged(http.iter().map(|counters| &counters.read_ns))),
            ("parse", merged(http.iter().map(|counters| &counters.parse_ns))),
            ("decode", merged(routers.iter().map(|counters| &counters.decode_ns))),
            ("enqueue", merged(routers.iter().map(|counters| &counters.enqueue_ns))),
            ("analytics", merged([&analytics.lag])),
            ("write", merged(http.iter().map(|counters| &counters.write_ns))),
        ] {
            stages.add_histogram(&[("stage", stage)], &counts, &STAGE_EDGES_NS);
        }
        let mut judge = Family::histogram(
            "sigmad_judge_duration_seconds",
            "Judging one sample, a few of many timed.",
        );
        judge.add_histogram(&[], &merged([&analytics.judge]), &STAGE_EDGES_NS);
        [stages, judge]
    }

    fn events(&self) -> [Family; 3] {
        let events = &self.sources.events;
        let mut clients = Family::gauge("sigmad_events_clients", "Clients of /events now.");
        clients.add(&[], events.clients.get() as f64);
        let mut sent = Family::counter(
            "sigmad_events_sent_bytes_total",
            "Bytes handed to the workers for the clients of /events.",
        );
        sent.add(&[], events.sent_bytes_total.get() as f64);
        let mut dropped = Family::counter(
            "sigmad_events_clients_dropped_total",
            "Clients of /events that were let go because they read too slowly.",
        );
        dropped.add(&[], events.dropped_total.get() as f64);
        [clients, sent, dropped]
    }

    fn build_info(&self) -> Family {
        let Build { version, engine, detector, window } = self.build;
        let mut info =
            Family::gauge("sigmad_build_info", "Always 1; the labels say what runs here.");
        let window = window.to_string();
        let labels =
            [("version", version), ("engine", engine), ("detector", detector), ("window", &window)];
        info.add(&labels, 1.0);
        info
    }
}

/// What analytics reports of its streams.
fn streams(totals: &TotalsReport, fleet: &WindowsReport) -> [Family; 6] {
    let mut judged = Family::counter("sigmad_samples_judged_total", "Samples judged.");
    judged.add(&[], totals.samples as f64);
    let mut devices = Family::gauge("sigmad_devices", "Devices with windows.");
    devices.add(&[], totals.devices as f64);
    let mut streams = Family::gauge("sigmad_streams", "Streams (device × metric) with windows.");
    streams.add(&[], totals.streams as f64);

    let mut anomalies = Family::counter(
        "anomalies_total",
        "Anomalies, judged by the windows of devices, or the fleet's for samples without one.",
    );
    for metric in ["cpu", "rps"] {
        if !totals.anomalies.iter().any(|(name, _)| &**name == metric) {
            anomalies.add(&[("metric", metric)], 0.0);
        }
    }
    for (metric, count) in &totals.anomalies {
        anomalies.add(&[("metric", metric)], *count as f64);
    }
    let mut averages = Family::gauge("rolling_avg", "Mean of the fleet's window.");
    let mut z_scores = Family::gauge("zscore", "Standard score of the fleet's last value.");
    for report in &fleet.metrics {
        averages.add(&[("metric", &report.metric)], report.mean);
        z_scores.add(&[("metric", &report.metric)], report.verdict.z_score);
    }
    [judged, devices, streams, anomalies, averages, z_scores]
}

/// Shown from the start, at 0: `increase()` misses the jump with which a series appears.
fn is_usual(label: Label, method: Method, status: u16) -> bool {
    let Some(route) = label.route() else { return method == Method::Get && status == 404 };
    match method {
        Method::Get => {
            (route.get.is_some() && !is_debug(label) && status == 200)
                || (route.get == Some(Get::Ready) && status == 503)
        }
        Method::Post => route
            .ingest_status()
            .is_some_and(|success| status == success || matches!(status, 400 | 413 | 429 | 503)),
        Method::Head | Method::Other => false,
    }
}

/// Hardly anyone asks for these: their series begin when somebody does.
fn is_debug(label: Label) -> bool {
    label.route().is_some_and(|route| matches!(route.get, Some(Get::Debug(_))))
}

fn sum<T>(sources: &[Arc<T>], tally: impl Fn(&T) -> &Counter) -> f64 {
    sources.iter().map(|source| tally(source).get()).sum::<u64>() as f64
}

fn merged<'a>(histograms: impl IntoIterator<Item = &'a Histogram>) -> Counts {
    let mut counts = Counts::default();
    histograms.into_iter().for_each(|histogram| histogram.merge_into(&mut counts));
    counts
}

/// The families in Prometheus text 0.0.4.
pub fn text(families: &[MetricFamily]) -> String {
    TextEncoder::new().encode_to_string(families).expect("every family has a name and a metric")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_reports::{fleet, totals};

    fn telemetry() -> Telemetry {
        testing::telemetry(Arc::new(Registry::new(10, 3_600)))
    }

    fn lines(telemetry: &Telemetry) -> Vec<String> {
        let families = telemetry.gather(&totals(), &fleet());
        text(&families).lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_happens_rarely_is_shown_from_the_start() {
        let telemetry = telemetry();
        let none = telemetry.gather(&TotalsReport::default(), &WindowsReport::default());
        let text = text(&none);
        for line in [
            r#"http_requests_total{method="POST",path="/ingest",code="202"} 0"#,
            r#"http_requests_total{method="POST",path="/ingest",code="503"} 0"#,
            r#"http_requests_total{method="POST",path="/metrics",code="200"} 0"#,
            r#"http_requests_total{method="GET",path="/analyze",code="200"} 0"#,
            r#"http_requests_total{method="GET",path="/readyz",code="503"} 0"#,
            r#"http_requests_total{method="GET",path="other",code="404"} 0"#,
            r#"http_requests_refused_total{reason="head_too_large",code="431"} 0"#,
            r#"ingest_samples_total{result="accepted"} 0"#,
            r#"ingest_samples_total{result="queue_full"} 0"#,
            r#"anomalies_total{metric="cpu"} 0"#,
            r#"anomalies_total{metric="rps"} 0"#,
            "ingest_requests_total 0",
            "sigmad_samples_judged_total 0",
            r#"http_request_duration_seconds_count{path="/ingest"} 0"#,
            r#"sigmad_stage_duration_seconds_count{stage="write"} 0"#,
            r#"sigmad_build_info{version="0.1.0",engine="native",detector="zscore",window="50"} 1"#,
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn the_counters_of_all_threads_add_up() {
        let telemetry = telemetry();
        let label = crate::api::routes::find("/metrics");
        let Sources { routers, readers, http, sample_queues, analytics, .. } = &telemetry.sources;
        routers[0].requests.count(label, Method::Post, 200);
        routers[1].requests.count(label, Method::Post, 200);
        readers[0].count(label, Method::Get, 200);
        routers[1].requests.count(label, Method::Head, 401);
        routers[0].requests.time(label, 32_767, 2);
        readers[0].time(label, 32_768, 1);
        readers[0].time(label, 60_000_000_000, 1);
        routers[0].accepted_total.add(5);
        routers[1].accepted_total.add(6);
        http[1].refusals[0].add(3);
        http[0].open.set(2);
        sample_queues[1].samples_in_flight.set(9);
        analytics.lag.record(100, 4);
        let lines = lines(&telemetry);
        for line in [
            r#"http_requests_total{method="POST",path="/metrics",code="200"} 2"#,
            r#"http_requests_total{method="GET",path="/metrics",code="200"} 1"#,
            r#"http_requests_total{method="HEAD",path="/metrics",code="401"} 1"#,
            r#"http_request_duration_seconds_bucket{path="/metrics",le="0.000032768"} 2"#,
            r#"http_request_duration_seconds_bucket{path="/metrics",le="0.000065536"} 3"#,
            r#"http_request_duration_seconds_bucket{path="/metrics",le="8.589934592"} 3"#,
            r#"http_request_duration_seconds_bucket{path="/metrics",le="+Inf"} 4"#,
            r#"http_request_duration_seconds_count{path="/metrics"} 4"#,
            r#"http_request_duration_seconds_sum{path="/metrics"} 60.000098302"#,
            r#"ingest_samples_total{result="accepted"} 11"#,
            r#"http_requests_refused_total{reason="bad_request_line",code="400"} 3"#,
            "http_connections_open 2",
            r#"sigmad_analytics_queue_samples{worker="0"} 0"#,
            r#"sigmad_analytics_queue_samples{worker="1"} 9"#,
            r#"sigmad_stage_duration_seconds_bucket{stage="analytics",le="0.000000128"} 4"#,
            r#"anomalies_total{metric="rps"} 2"#,
            r#"anomalies_total{metric="m\"} 1\n\\é☃"} 1"#,
            r#"rolling_avg{metric="rps"} 1000000000000000"#,
            r#"zscore{metric="rps"} -1000000"#,
            "sigmad_devices 3",
            "sigmad_streams 5",
        ] {
            assert!(lines.iter().any(|shown| shown == line), "{line} is missing in {lines:#?}");
        }
        for family in ["process_resident_memory_bytes", "process_cpu_seconds_total"] {
            assert!(lines.iter().any(|line| line.starts_with(family)), "{family}");
        }
        let once: std::collections::HashSet<_> = lines.iter().collect();
        assert_eq!(once.len(), lines.len(), "no line twice");
    }

    #[test]
    fn metrics_document_is_current() {
        let sources = Sources {
            store: Some(StoreSources { queue: Arc::default(), store: Arc::default() }),
            ..testing::sources(Arc::new(Registry::new(10, 3_600)))
        };
        let telemetry = Telemetry::new(telemetry().build, sources);
        let families = telemetry.gather(&totals(), &fleet());
        crate::testing::check_document("docs/METRICS.md", &document(&families));
    }

    /// docs/METRICS.md: a table row for each family.
    fn document(families: &[MetricFamily]) -> String {
        let mut text = String::from(
            "# Metrics\n\n\
             Every metric family of `GET /metrics` and `GET /metrics/prometheus`. `make docs` writes this file\n\
             from the code, and `cargo test` compares them. The `sigmad_store_*` families are present with\n\
             `--redis-url` only.\n\n\
             | name | type | labels | meaning |\n| --- | --- | --- | --- |\n",
        );
        for family in families {
            let kind = format!("{:?}", family.get_field_type()).to_lowercase();
            let labels = family.get_metric()[0].get_label().iter();
            let labels: Vec<_> = labels.map(|label| format!("`{}`", label.name())).collect();
            let (name, help, labels) = (family.name(), family.help(), labels.join(", "));
            text += &format!("| `{name}` | {kind} | {labels} | {help} |\n");
        }
        text
    }

    #[test]
    fn families_stand_in_the_order_of_their_names() {
        let names: Vec<String> = lines(&telemetry())
            .iter()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned))
            .collect();
        assert!(names.is_sorted(), "{names:?}");
    }

    #[test]
    fn buckets_end_where_the_histogram_tells_them_apart() {
        for edge_ns in REQUEST_EDGES_NS.into_iter().chain(STAGE_EDGES_NS) {
            let histogram = Histogram::default();
            histogram.record(edge_ns - 1, 1);
            histogram.record(edge_ns, 1);
            assert_eq!(merged([&histogram]).below(edge_ns), 1, "{edge_ns}");
        }
    }
}
