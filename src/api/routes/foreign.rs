//! Paths of other receivers: a sender that is set up for one of them is told the path here, not the list of all.

/// The ends of paths, and what their senders are told; the first that fits counts.
const FOREIGN: [(&[&str], &str); 8] = [
    (
        &["/loki/api/v1/push"],
        "no such path; these are Loki's logs, of which sigmad takes none: send metrics to /v1/metrics, /api/v1/write or /write",
    ),
    (
        &["/v1/traces", "/v1/logs", "/v1development/profiles"],
        "no such path; of OTLP sigmad takes metrics, at /v1/metrics",
    ),
    (&["/otlp/v1/metrics", "/opentelemetry/v1/metrics"], "no such path; POST OTLP to /v1/metrics"),
    (
        &["/api/v1/write", "/api/v1/push", "/api/prom/push", "/api/v1/receive"],
        "no such path; POST remote_write to /api/v1/write",
    ),
    (
        &["/api/v1/import", "/api/v1/import/native", "/api/v1/import/csv", "/import/prometheus"],
        "no such path; POST Prometheus text to /api/v1/import/prometheus or /metrics/job/NAME",
    ),
    (
        &["/write", "/write/", "/write_lp", "/influx"],
        "no such path; POST the Influx line protocol to /write, /api/v2/write or /api/v3/write_lp",
    ),
    (
        &["/api/put", "/api/put/"],
        "no such path; sigmad does not take OpenTSDB's format: send Influx lines to /write, or samples to /ingest",
    ),
    (
        &["/api/v1/series", "/api/v2/series", "/api/beta/sketches"],
        "no such path; sigmad does not take Datadog's format: send Influx lines to /write, or OTLP to /v1/metrics",
    ),
];

/// What the sender to a path of another receiver is told.
pub(super) fn advice(path: &str) -> Option<&'static str> {
    let fits = |(ends, _): &&(&[&str], &str)| ends.iter().any(|end| path.ends_with(end));
    FOREIGN.iter().find(fits).map(|(_, message)| *message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::routes::{Label, find};

    #[test]
    fn a_path_of_another_receiver_is_told_the_one_here() {
        for (path, told) in [
            ("/api/v1/push", "/api/v1/write"),
            ("/prometheus/api/v1/write", "/api/v1/write"),
            ("/api/v1/otlp/v1/metrics", "/v1/metrics"),
            ("/v1/logs", "/v1/metrics"),
            ("/influx/api/v2/write", "/write"),
            ("/api/v1/import", "/api/v1/import/prometheus"),
            ("/api/put", "/write"),
            ("/api/v2/series", "/v1/metrics"),
            ("/loki/api/v1/push", "/v1/metrics"),
        ] {
            assert_eq!(find(path), Label::OTHER, "{path}");
            let message = advice(path).expect(path);
            assert!(message.contains(told), "{path}: {message}");
        }
        for path in ["/", "/nope", "/v1", "/metrics/", "/api/v1/metrics", "/writes"] {
            assert_eq!(advice(path), None, "{path}");
        }
    }

    #[test]
    fn each_path_that_is_named_is_there() {
        let words = FOREIGN.iter().flat_map(|(_, message)| message.split([' ', ',', ':']));
        for path in words.filter(|word| word.starts_with('/')) {
            assert_ne!(find(path), Label::OTHER, "{path}");
        }
    }
}
