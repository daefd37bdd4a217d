//! What one thread counts of the requests it answers: a worker of those answered at once, a reader of
//! those answered through a responder. Merged by the scrape.

use super::routes::{LABELS, Label};
use crate::http::message::Method;
use sigmad_counters::{Counter, Histogram};

/// Every status that this module answers with.
pub const CODES: [u16; 12] = [200, 202, 400, 401, 403, 404, 405, 409, 413, 429, 500, 503];

/// The values of the metric label `method`, in the order of [`Method`].
pub const METHODS: [(Method, &str); 4] = [
    (Method::Get, "GET"),
    (Method::Head, "HEAD"),
    (Method::Post, "POST"),
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

    /// How many answers of that kind so far; `method` and `code` are places in [`METHODS`] and
    /// [`CODES`].
    pub fn answered(&self, label: Label, method: usize, code: usize) -> u64 {
        self.counts[label.index()][method][code].get()
    }

    /// How long the answers of that route took.
    pub fn durations(&self, label: Label) -> &Histogram {
        &self.durations[label.index()]
    }
}

#[inline]
fn code_index(status: u16) -> usize {
    // 500 stands for a status that nobody has listed, which the assertion finds first.
    let place = CODES.iter().position(|code| *code == status);
    debug_assert!(place.is_some(), "{status} is not in CODES");
    place.unwrap_or(CODES.len() - 2)
}
const _: () = assert!(CODES[CODES.len() - 2] == 500);

/// The requests and samples of one worker.
#[derive(Debug, Default)]
pub struct RouterCounters {
    /// Requests answered by the worker itself.
    pub requests: RequestCounters,
    /// POSTs to the paths that take samples.
    pub ingest_requests_total: Counter,
    /// Samples kept.
    pub accepted_total: Counter,
    /// Samples refused because they are wrong.
    pub invalid_total: Counter,
    /// Samples refused for want of room for another stream.
    pub too_many_streams_total: Counter,
    /// Good samples refused with their request because the queue was full.
    pub queue_full_total: Counter,
    /// Reads refused because the readers had too many waiting.
    pub reads_refused_total: Counter,
    /// Body to samples, of timed requests.
    pub decode_ns: Histogram,
    /// Samples to the analytics thread's queue, of timed requests.
    pub enqueue_ns: Histogram,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_stand_in_the_order_of_their_enum() {
        for (place, (method, _)) in METHODS.iter().enumerate() {
            assert_eq!(*method as usize, place);
        }
    }

    #[test]
    fn answers_are_counted_where_they_belong() {
        let counters = RequestCounters::default();
        for (code, status) in CODES.iter().enumerate() {
            counters.count(Label::OTHER, Method::Other, *status);
            assert_eq!(counters.answered(Label::OTHER, Method::Other as usize, code), 1);
        }
    }
}
