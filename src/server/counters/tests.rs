use prometheus::proto::MetricFamily;

use super::*;
use crate::analytics::families::FleetGauges;
use crate::analytics::report::{TotalsReport, WindowsReport};
use crate::api::routes;
use crate::http::message::Method;
use crate::shards::ShardLayout;
use crate::telemetry::{Telemetry, text};
use crate::test_reports;

fn redis_counters() -> RedisCounters {
    RedisCounters::new(ShardLayout::ONE)
}

fn telemetry(counters: &ServerCounters) -> Telemetry {
    let build = Build { version: "0.1.0", engine: "native", detector: "zscore", window: 50 };
    Telemetry::new(counters.sources(build, Arc::new(Registry::new(10, 3_600))))
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
    let telemetry = telemetry(&ServerCounters::new(2, ShardLayout::ONE, None, true));
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
    let counters = ServerCounters::new(2, ShardLayout::ONE, None, true);
    let label = routes::find("/metrics");
    let ServerCounters { workers, readers, analytics, .. } = &counters;
    let reader = &readers[0];
    workers[0].router.requests.count(label, Method::Post, 200);
    workers[1].router.requests.count(label, Method::Post, 200);
    reader.count(label, Method::Get, 200);
    workers[1].router.requests.count(label, Method::Head, 401);
    workers[0].router.requests.time(label, 32_767, 2);
    reader.time(label, 32_768, 1);
    reader.time(label, 60_000_000_000, 1);
    workers[0].router.accepted_total.add(5);
    workers[1].router.accepted_total.add(6);
    workers[1].http.refusals[0].add(3);
    workers[0].http.open.set(2);
    workers[1].queue.samples_in_flight.set(9);
    analytics[0].lag.record(100, 4);
    let lines = lines(&telemetry(&counters));
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
    let mut counters = ServerCounters::new(2, ShardLayout::ONE, None, true);
    counters.workers[0].router.accepted_total.add(10);
    counters.workers[1].router.invalid_total.add(2);
    counters.workers[1].router.queue_full_total.add(1);
    counters.workers[0].queue.samples_total.add(10);
    counters.analytics[0].samples_total.add(7);
    let expected = [
        "sigmad_samples_received_total 13",
        r#"sigmad_samples_total{outcome="rejected"} 3"#,
        r#"sigmad_samples_total{outcome="stored"} 7"#,
        "sigmad_pending_samples 3",
    ];
    assert_lines(&lines(&telemetry(&counters)), &expected);

    // One shard has made room for its chunk.
    let redis = RedisCounters::new(ShardLayout::new(2));
    let store = &redis.store;
    redis.queues[1].dropped_total.add(1);
    store.stored_total.add(2);
    store.coalesced_total.add(1);
    store.dropped_total[0].add(1);
    // The gauge of its queue is late: it has taken two samples more.
    store.queue_samples.set(0);
    let expected = [
        "sigmad_samples_received_total 13",
        r#"sigmad_samples_total{outcome="rejected"} 3"#,
        r#"sigmad_samples_total{outcome="stored"} 2"#,
        r#"sigmad_samples_total{outcome="coalesced"} 1"#,
        r#"sigmad_samples_total{outcome="dropped"} 2"#,
        r#"sigmad_store_dropped_total{reason="queue_full"} 2"#,
        "sigmad_pending_samples 5",
    ];
    counters.redis = Some(redis);
    assert_lines(&lines(&telemetry(&counters)), &expected);
}

#[test]
fn families_are_in_the_order_of_their_names() {
    let names: Vec<String> =
        lines(&telemetry(&ServerCounters::new(2, ShardLayout::ONE, None, true)))
            .iter()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned))
            .collect();
    assert!(names.is_sorted(), "{names:?}");
}

#[test]
fn metrics_document_is_current() {
    let mut counters = ServerCounters::new(2, ShardLayout::ONE, Some(redis_counters()), true);
    counters.notify.push(Arc::new(TargetCounters::new("webhook host".to_owned())));
    counters.acknowledge = Some(Arc::default());
    let telemetry = telemetry(&counters);
    crate::testing::check_document("docs/METRICS.md", &document(&families(&telemetry)));
}

/// docs/METRICS.md: a table row for each family.
fn document(families: &[MetricFamily]) -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         Every metric family of `GET /metrics` and `GET /metrics/prometheus`. `make docs` writes this file\n\
         from the code, and `cargo test` compares them. The `sigmad_store_*` and `sigmad_handover_*` families are present with\n\
         `--redis-url` only, the `sigmad_notifications_*` families with a target of notifications, the `sigmad_state_*`\n\
         families with `--state-dir`, and `sigmad_acknowledgements_total` with `--ack disk`.\n\n\
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
