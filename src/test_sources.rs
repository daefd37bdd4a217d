//! Tests of the scrape with the sources of the whole server.

use std::sync::Arc;

use prometheus::proto::MetricFamily;
use sigmad_counters::MetricSource;

use crate::analytics::families::{FleetGauges, StoredInMemory};
use crate::analytics::report::{TotalsReport, WindowsReport};
use crate::analytics::thread::AnalyticsCounters;
use crate::api::counters::{RequestCounters, RouterCounters};
use crate::api::routes;
use crate::dashboard::counters::EventsCounters;
use crate::http::counters::HttpCounters;
use crate::http::message::Method;
use crate::judged_queue::JudgedQueueCounters;
use crate::registry::Registry;
use crate::sample_queue::SampleQueueCounters;
use crate::store::StoreCounters;
use crate::telemetry::{Build, Telemetry, text};
use crate::test_reports;

/// The telemetry of a server without Redis.
pub fn telemetry(registry: Arc<Registry>) -> Telemetry {
    ServerSources::new(registry).without_redis()
}

/// The counters of two workers and a reader.
struct ServerSources {
    http: [Arc<HttpCounters>; 2],
    routers: [Arc<RouterCounters>; 2],
    sample_queues: [Arc<SampleQueueCounters>; 2],
    reader: Arc<RequestCounters>,
    analytics: Arc<AnalyticsCounters>,
    others: Vec<Arc<dyn MetricSource>>,
}

impl ServerSources {
    fn new(registry: Arc<Registry>) -> Self {
        let build = Build { version: "0.1.0", engine: "native", detector: "zscore", window: 50 };
        let queue = |worker| Arc::new(SampleQueueCounters { worker, ..Default::default() });
        Self {
            http: Default::default(),
            routers: Default::default(),
            sample_queues: [queue(0), queue(1)],
            reader: Arc::default(),
            analytics: Arc::default(),
            others: vec![registry, Arc::new(build), Arc::<EventsCounters>::default()],
        }
    }

    fn sources(&self) -> Vec<Arc<dyn MetricSource>> {
        let mut sources: Vec<Arc<dyn MetricSource>> =
            vec![self.analytics.clone(), self.reader.clone()];
        sources.extend(self.http.iter().map(|counters| counters.clone() as Arc<dyn MetricSource>));
        sources
            .extend(self.routers.iter().map(|counters| counters.clone() as Arc<dyn MetricSource>));
        let queues = self.sample_queues.iter();
        sources.extend(queues.map(|counters| counters.clone() as Arc<dyn MetricSource>));
        sources.extend(self.others.iter().cloned());
        sources
    }

    fn without_redis(&self) -> Telemetry {
        let mut sources = self.sources();
        sources.insert(0, Arc::new(StoredInMemory(self.analytics.clone())));
        Telemetry::new(sources.into())
    }

    fn with_redis(&self, queue: Arc<JudgedQueueCounters>, store: Arc<StoreCounters>) -> Telemetry {
        let mut sources: Vec<Arc<dyn MetricSource>> = vec![queue, store];
        sources.extend(self.sources());
        Telemetry::new(sources.into())
    }
}

fn server_sources() -> ServerSources {
    ServerSources::new(Arc::new(Registry::new(10, 3_600)))
}

fn families(telemetry: &Telemetry) -> Vec<MetricFamily> {
    telemetry.gather(&[&test_reports::totals(), &FleetGauges(test_reports::fleet())])
}

fn lines(telemetry: &Telemetry) -> Vec<String> {
    text(&families(telemetry)).lines().map(str::to_owned).collect()
}

fn assert_lines(lines: &[String], expected: &[&str]) {
    for line in expected {
        assert!(lines.iter().any(|shown| shown == line), "{line} is missing in {lines:#?}");
    }
}

#[test]
fn rare_series_are_exported_from_the_start() {
    let telemetry = server_sources().without_redis();
    let reports: [&dyn MetricSource; 2] =
        [&TotalsReport::default(), &FleetGauges(WindowsReport::default())];
    let text = text(&telemetry.gather(&reports));
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    assert_lines(
        &lines,
        &[
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
            r#"sigmad_samples_total{outcome="dropped"} 0"#,
            r#"http_request_duration_seconds_count{path="/ingest"} 0"#,
            r#"sigmad_stage_duration_seconds_count{stage="write"} 0"#,
            r#"sigmad_build_info{version="0.1.0",engine="native",detector="zscore",window="50"} 1"#,
        ],
    );
}

#[test]
fn counters_of_all_threads_add_up() {
    let sources = server_sources();
    let label = routes::find("/metrics");
    let ServerSources { routers, reader, http, sample_queues, analytics, .. } = &sources;
    routers[0].requests.count(label, Method::Post, 200);
    routers[1].requests.count(label, Method::Post, 200);
    reader.count(label, Method::Get, 200);
    routers[1].requests.count(label, Method::Head, 401);
    routers[0].requests.time(label, 32_767, 2);
    reader.time(label, 32_768, 1);
    reader.time(label, 60_000_000_000, 1);
    routers[0].accepted_total.add(5);
    routers[1].accepted_total.add(6);
    http[1].refusals[0].add(3);
    http[0].open.set(2);
    sample_queues[1].samples_in_flight.set(9);
    analytics.lag.record(100, 4);
    let lines = lines(&sources.without_redis());
    assert_lines(
        &lines,
        &[
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
        ],
    );
    for family in ["process_resident_memory_bytes", "process_cpu_seconds_total"] {
        assert!(lines.iter().any(|line| line.starts_with(family)), "{family}");
    }
    let distinct: std::collections::HashSet<_> = lines.iter().collect();
    assert_eq!(distinct.len(), lines.len(), "no line twice");
}

#[test]
fn outcomes_and_pending_samples_add_up_to_the_received() {
    let sources = server_sources();
    sources.routers[0].accepted_total.add(10);
    sources.routers[1].invalid_total.add(2);
    sources.routers[1].queue_full_total.add(1);
    sources.sample_queues[0].samples_total.add(10);
    sources.analytics.samples_total.add(7);
    let expected = [
        "sigmad_samples_received_total 13",
        r#"sigmad_samples_total{outcome="rejected"} 3"#,
        r#"sigmad_samples_total{outcome="stored"} 7"#,
        "sigmad_pending_samples 3",
    ];
    assert_lines(&lines(&sources.without_redis()), &expected);

    let (queue, store) = (Arc::<JudgedQueueCounters>::default(), Arc::<StoreCounters>::default());
    queue.dropped_total.add(1);
    store.taken_total.add(6);
    store.stored_total.add(2);
    store.coalesced_total.add(1);
    store.dropped_total[0].add(1);
    store.queue_samples.set(2);
    let expected = [
        "sigmad_samples_received_total 13",
        r#"sigmad_samples_total{outcome="rejected"} 3"#,
        r#"sigmad_samples_total{outcome="stored"} 2"#,
        r#"sigmad_samples_total{outcome="coalesced"} 1"#,
        r#"sigmad_samples_total{outcome="dropped"} 2"#,
        r#"sigmad_store_dropped_total{reason="queue_full"} 2"#,
        "sigmad_pending_samples 5",
    ];
    assert_lines(&lines(&sources.with_redis(queue, store)), &expected);
}

#[test]
fn families_are_in_the_order_of_their_names() {
    let names: Vec<String> = lines(&server_sources().without_redis())
        .iter()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned))
        .collect();
    assert!(names.is_sorted(), "{names:?}");
}

#[test]
fn metrics_document_is_current() {
    let telemetry = server_sources().with_redis(Arc::default(), Arc::default());
    crate::testing::check_document("docs/METRICS.md", &document(&families(&telemetry)));
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
