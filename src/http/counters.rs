//! What one worker counts of its connections.

use super::head::RequestError;
use sigmad_counters::{Counter, Families, Histogram, Source, StageDurations};

/// Written by one worker, read by the scrape.
#[derive(Debug)]
pub struct HttpCounters {
    /// Connections taken from the kernel.
    pub accepted_total: Counter,
    /// Connections open now.
    pub open: Counter,
    /// Closed because no request came for `--idle-timeout`.
    pub closed_idle_total: Counter,
    /// Closed, though idle, to make room for others.
    pub closed_evicted_total: Counter,
    /// Closed because the client did not take its answer.
    pub closed_stalled_total: Counter,
    /// Cut at the end of the drain.
    pub closed_drain_total: Counter,
    /// Times that accept failed for want of descriptors or memory.
    pub accept_failures_total: Counter,
    /// Requests refused before any service saw them, in the order of [`RequestError::ALL`].
    pub refusals: [Counter; RequestError::ALL.len()],
    /// From the return of the poller to the read, behind the others of the round. This and what follows is
    /// of the first request of one read in [`super::worker::TIMED_EVERY`], if the round answers it.
    pub queue_wait_ns: Histogram,
    /// The read call.
    pub read_ns: Histogram,
    /// From bytes to a request.
    pub parse_ns: Histogram,
    /// The write call.
    pub write_ns: Histogram,
    /// From the return of the poller to the end of the write: all stages, and what lies between them.
    pub whole_ns: Histogram,
}

impl Default for HttpCounters {
    fn default() -> Self {
        Self {
            accepted_total: Counter::default(),
            open: Counter::default(),
            closed_idle_total: Counter::default(),
            closed_evicted_total: Counter::default(),
            closed_stalled_total: Counter::default(),
            closed_drain_total: Counter::default(),
            accept_failures_total: Counter::default(),
            refusals: std::array::from_fn(|_| Counter::default()),
            queue_wait_ns: Histogram::default(),
            read_ns: Histogram::default(),
            parse_ns: Histogram::default(),
            write_ns: Histogram::default(),
            whole_ns: Histogram::default(),
        }
    }
}

impl Source for HttpCounters {
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
                "Connections closed by the server, by reason: idle, evicted to make room, stalled because the client did not read, drain.",
            )
            .add_counter(&[("reason", "idle")], &self.closed_idle_total)
            .add_counter(&[("reason", "evicted")], &self.closed_evicted_total)
            .add_counter(&[("reason", "stalled")], &self.closed_stalled_total)
            .add_counter(&[("reason", "drain")], &self.closed_drain_total);
        let refused = families.counter(
            "http_requests_refused_total",
            "Requests refused before their route was known, by reason.",
        );
        for (error, counter) in RequestError::ALL.iter().zip(&self.refusals) {
            let status = error.status().to_string();
            refused.add_counter(&[("reason", error.code()), ("code", &status)], counter);
        }
    }

    fn stages(&self, stages: &mut StageDurations) {
        stages.add("queue_wait", &self.queue_wait_ns);
        stages.add("read", &self.read_ns);
        stages.add("parse", &self.parse_ns);
        stages.add("write", &self.write_ns);
        stages.add("whole", &self.whole_ns);
    }
}
