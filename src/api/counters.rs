//! Counters of requests and samples, one set for each thread; the scrape adds them up.
//!
//! A worker counts the requests that it answers itself, a reader those that it answers.

use super::actions::Get;
use super::routes::{LABELS, Label};
use crate::dashboard::sampler::{IngestCounts, IngestSource};
use crate::decode::ValueCounters;
use crate::http::message::Method;
use sigmad_counters::{
    Counter, Counts, Families, Histogram, MetricSource, REQUEST_EDGES_NS, SampleOutcomes,
};

/// Every status of an answer, those of refusals by the engine included.
pub const CODES: [u16; 21] = [
    200, 201, 202, 204, 400, 401, 403, 404, 405, 408, 409, 413, 414, 415, 417, 429, 431, 500, 501,
    503, 505,
];

/// The values of the metric label `method`, in the order of [`Method`].
pub const METHODS: [(Method, &str); 7] = [
    (Method::Get, "GET"),
    (Method::Head, "HEAD"),
    (Method::Post, "POST"),
    (Method::Put, "PUT"),
    (Method::Delete, "DELETE"),
    (Method::Options, "OPTIONS"),
    (Method::Other, "other"),
];

/// The requests of one thread.
#[derive(Debug)]
pub struct RequestCounters {
    counts: Box<[[[Counter; CODES.len()]; METHODS.len()]; LABELS]>,
    durations: [Histogram; LABELS],
}

impl Default for RequestCounters {
    fn default() -> Self {
        let code = |_| Counter::default();
        let method = |_| std::array::from_fn(code);
        Self {
            counts: Box::new(std::array::from_fn(|_| std::array::from_fn(method))),
            durations: std::array::from_fn(|_| Histogram::default()),
        }
    }
}

impl RequestCounters {
    /// Counts one answer. Only the owning thread may call this.
    #[inline]
    pub fn count(&self, label: Label, method: Method, status: u16) {
        self.counts[label.index()][method as usize][code_index(status)].add(1);
    }

    /// Counts `n` answers that took `ns` each. Only the owning thread may call this.
    #[inline]
    pub fn time(&self, label: Label, ns: u64, n: u64) {
        self.durations[label.index()].record(ns, n);
    }

    /// Answers of one kind so far; `method` and `code` are indices in [`METHODS`] and [`CODES`].
    #[cfg(test)]
    pub fn answered(&self, label: Label, method: usize, code: usize) -> u64 {
        self.counts[label.index()][method][code].get()
    }

    /// The time to the answers of a route.
    pub(super) fn durations(&self, label: Label) -> &Histogram {
        &self.durations[label.index()]
    }
}

impl MetricSource for RequestCounters {
    fn collect(&self, families: &mut Families) {
        let requests = families.counter(
            "http_requests_total",
            "Requests answered, by route; `other` is any other path, or one that is not known.",
        );
        for label in Label::all() {
            for ((kind, method), counters) in METHODS.iter().zip(&self.counts[label.index()]) {
                for (status, counter) in CODES.iter().zip(counters) {
                    if counter.get() > 0 || is_usual(label, *kind, *status) {
                        let code = status.to_string();
                        let labels = [("method", *method), ("path", label.path()), ("code", &code)];
                        requests.add_counter(&labels, counter);
                    }
                }
            }
        }
        let durations = families.histogram(
            "http_request_duration_seconds",
            "From reading a request to the end of writing its response, or to handing the response to its worker.",
            &REQUEST_EDGES_NS,
        );
        for label in Label::all() {
            let histogram = self.durations(label);
            if !is_debug(label) || histogram.count() > 0 {
                durations.add_histogram(&[("path", label.path())], histogram);
            }
        }
    }
}

/// Exported from the start, at 0: `increase()` misses the first increase of a series that appears later.
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
        Method::Head | Method::Put | Method::Delete | Method::Options | Method::Other => false,
    }
}

/// Rarely requested: the series of these routes begin with the first request.
fn is_debug(label: Label) -> bool {
    label.route().is_some_and(|route| matches!(route.get, Some(Get::Debug(_))))
}

#[inline]
fn code_index(status: u16) -> usize {
    // A status that is not listed counts as 500; tests find it by the assertion.
    let index = CODES.iter().position(|code| *code == status);
    debug_assert!(index.is_some(), "{status} is not in CODES");
    index.unwrap_or(CODES.len() - 4)
}
const _: () = assert!(CODES[CODES.len() - 4] == 500);

/// The requests and samples of one worker.
#[derive(Debug, Default)]
pub struct RouterCounters {
    /// Requests answered by the worker itself.
    pub requests: RequestCounters,
    /// POST requests to the paths that take samples.
    pub ingest_requests_total: Counter,
    /// Samples accepted.
    pub accepted_total: Counter,
    /// Samples refused because they are invalid.
    pub invalid_total: Counter,
    /// Samples refused because there was no room for another stream.
    pub too_many_streams_total: Counter,
    /// Samples refused because no name of their metrics had room.
    pub too_many_metrics_total: Counter,
    /// Values refused because their name had no room.
    pub values_refused_total: Counter,
    /// Valid samples refused with their request because the queue was full.
    pub queue_full_total: Counter,
    /// Values of points.
    pub values: ValueCounters,
    /// Reads refused because too many were queued.
    pub reads_refused_total: Counter,
}

impl MetricSource for RouterCounters {
    fn collect(&self, families: &mut Families) {
        self.requests.collect(families);
        families
            .counter("ingest_requests_total", "POSTs that bring samples.")
            .add_counter(&[], &self.ingest_requests_total);
        families
            .counter(
                "sigmad_reads_refused_total",
                "Reads refused because too many waited for a reader.",
            )
            .add_counter(&[], &self.reads_refused_total);
        families
            .counter(
                "ingest_samples_total",
                "Samples received, by result: accepted, invalid, too_many_streams (--max-streams), too_many_metrics, queue_full.",
            )
            .add_counter(&[("result", "accepted")], &self.accepted_total)
            .add_counter(&[("result", "invalid")], &self.invalid_total)
            .add_counter(&[("result", "too_many_streams")], &self.too_many_streams_total)
            .add_counter(&[("result", "too_many_metrics")], &self.too_many_metrics_total)
            .add_counter(&[("result", "queue_full")], &self.queue_full_total);
        families
            .counter(
                "ingest_values_refused_total",
                "Values refused because the name of their metric had no room; the other values of a sample are kept.",
            )
            .add_counter(&[], &self.values_refused_total);
        self.values.collect(families);
        let rejected = self.rejected() + self.queue_full_total.get();
        let received = self.accepted_total.get() + rejected;
        SampleOutcomes { received, rejected, ..SampleOutcomes::default() }.collect(families);
    }
}

impl RouterCounters {
    /// Samples that the client must not send again as they are.
    fn rejected(&self) -> u64 {
        self.invalid_total.get()
            + self.too_many_streams_total.get()
            + self.too_many_metrics_total.get()
    }
}

impl IngestSource for RouterCounters {
    fn counts(&self) -> IngestCounts {
        IngestCounts {
            requests: self.ingest_requests_total.get(),
            accepted: self.accepted_total.get(),
            rejected: self.rejected(),
            dropped: self.queue_full_total.get(),
        }
    }

    fn add_durations(&self, durations: &mut Counts) {
        for label in Label::all() {
            if label.route().is_some_and(|route| route.ingest_status().is_some()) {
                self.requests.durations(label).merge_into(durations);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::RequestError;

    #[test]
    fn methods_are_in_the_order_of_their_enum() {
        for (index, (method, _)) in METHODS.iter().enumerate() {
            assert_eq!(*method as usize, index);
        }
    }

    #[test]
    fn every_refusal_of_the_engine_is_listed() {
        for error in RequestError::ALL {
            assert!(CODES.contains(&error.status()), "{error:?}");
        }
    }

    #[test]
    fn every_status_has_its_own_counter() {
        let counters = RequestCounters::default();
        for (code, status) in CODES.iter().enumerate() {
            counters.count(Label::OTHER, Method::Other, *status);
            assert_eq!(counters.answered(Label::OTHER, Method::Other as usize, code), 1);
        }
    }
}
