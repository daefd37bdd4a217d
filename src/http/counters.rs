//! The connection counters of one worker.

use super::head::RequestError;
use super::stages::StageCounters;
use sigmad_counters::{Counter, Families, MetricSource, StageDurations};

/// Written by one worker, read by the scrape.
#[derive(Debug)]
pub struct HttpCounters {
    /// Connections accepted.
    pub accepted_total: Counter,
    /// Connections open now.
    pub open: Counter,
    /// Closed because no request came for `--idle-timeout`.
    pub closed_idle_total: Counter,
    /// Closed to make room for others: idle, or too slow to read while memory was short.
    pub closed_evicted_total: Counter,
    /// Closed because the client did not take its response.
    pub closed_stalled_total: Counter,
    /// Closed because the TLS handshake was not complete in time.
    pub closed_handshake_total: Counter,
    /// Closed by the drain.
    pub closed_drain_total: Counter,
    /// Times that accept failed for want of descriptors or memory.
    pub accept_failures_total: Counter,
    /// Requests refused before a service was called, in the order of [`RequestError::ALL`].
    pub refusals: [Counter; RequestError::ALL.len()],
    /// Durations of timed requests.
    pub stages: StageCounters,
}

impl Default for HttpCounters {
    fn default() -> Self {
        Self {
            accepted_total: Counter::default(),
            open: Counter::default(),
            closed_idle_total: Counter::default(),
            closed_evicted_total: Counter::default(),
            closed_stalled_total: Counter::default(),
            closed_handshake_total: Counter::default(),
            closed_drain_total: Counter::default(),
            accept_failures_total: Counter::default(),
            refusals: std::array::from_fn(|_| Counter::default()),
            stages: StageCounters::default(),
        }
    }
}

impl MetricSource for HttpCounters {
    fn collect(&self, families: &mut Families) {
        families
            .gauge("http_connections_open", "Connections open now.")
            .add_counter(&[], &self.open);
        families
            .counter("http_connections_accepted_total", "Connections accepted.")
            .add_counter(&[], &self.accepted_total);
        families
            .counter(
                "http_accept_failures_total",
                "Failures of accept for lack of file descriptors or memory.",
            )
            .add_counter(&[], &self.accept_failures_total);
        families
            .counter(
                "http_connections_closed_total",
                "Connections closed by the server, by reason: idle, evicted to make room, stalled because the client did not read, handshake of TLS not complete in time, drain.",
            )
            .add_counter(&[("reason", "idle")], &self.closed_idle_total)
            .add_counter(&[("reason", "evicted")], &self.closed_evicted_total)
            .add_counter(&[("reason", "stalled")], &self.closed_stalled_total)
            .add_counter(&[("reason", "handshake")], &self.closed_handshake_total)
            .add_counter(&[("reason", "drain")], &self.closed_drain_total);
        let refused = families.counter(
            "http_requests_refused_total",
            "Requests refused before a route was called, by reason; http_requests_total has them by code.",
        );
        for (error, counter) in RequestError::ALL.iter().zip(&self.refusals) {
            let status = error.status().to_string();
            refused.add_counter(&[("reason", error.code()), ("code", &status)], counter);
        }
    }

    fn stages(&self, stages: &mut StageDurations) {
        self.stages.collect(stages);
    }
}
