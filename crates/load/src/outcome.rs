//! The results of all requests of one thread; the run adds up the threads at its end.
//!
//! A request that was due counts once, as `sent` or `unsent`. A request that was sent counts once: by status, or as
//! `lost`, `timeouts` or `malformed`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use hdrhistogram::Histogram;

/// An hour in nanoseconds; longer times count as an hour.
const LONGEST_NS: u64 = 3_600_000_000_000;
/// Significant digits of recorded times.
const DIGITS: u8 = 3;

/// The statuses that count as throughput.
pub const GOOD: RangeInclusive<u16> = 200..=299;

/// An empty histogram of nanoseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_NS, DIGITS).expect("the bounds are right")
}

/// The results of one thread, or of all threads once merged.
#[derive(Clone, Debug)]
pub struct LoadOutcome {
    /// Requests that were sent.
    pub sent: u64,
    /// Requests that were due and never sent: every connection waited for responses until the end.
    pub unsent: u64,
    /// Requests that were due while every connection waited for responses.
    pub waited: u64,
    /// Responses by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Samples that the server accepted.
    pub accepted: u64,
    /// Requests whose connection ended before their response.
    pub lost: u64,
    /// Requests without a response in time, and those after them on the connection.
    pub timeouts: u64,
    /// Requests with a response that is not HTTP, and those after them.
    pub malformed: u64,
    /// Connections that were opened, at the start or later.
    pub opened: u64,
    /// Connections that were opened to replace a lost one.
    pub reopened: u64,
    /// Attempts to connect that failed.
    pub connect_errors: u64,
    /// The last of these errors.
    pub connect_error: Option<String>,
    /// Anomalies in requests that were accepted whole: the lines of `--truth`.
    pub anomalies: u64,
    /// Anomalies in requests that were accepted in part, or have no response.
    pub anomalies_unknown: u64,
    /// When sending ended, by schedule or by a signal; in monotonic nanoseconds.
    pub end_ns: u64,
    /// When the last response arrived.
    pub last_answer_ns: u64,
    /// Latency of 2xx responses: from the due time (open loop) or the time of sending (closed loop).
    pub latency: Histogram<u64>,
    /// The same for all other responses.
    pub refusal_latency: Histogram<u64>,
    /// From the due time to the time of sending, for any reason.
    pub lateness: Histogram<u64>,
    /// The generator's part of it: from the time when the request was due and a connection was free.
    pub own_lateness: Histogram<u64>,
}

impl Default for LoadOutcome {
    fn default() -> Self {
        Self {
            sent: 0,
            unsent: 0,
            waited: 0,
            statuses: BTreeMap::new(),
            accepted: 0,
            lost: 0,
            timeouts: 0,
            malformed: 0,
            opened: 0,
            reopened: 0,
            connect_errors: 0,
            connect_error: None,
            anomalies: 0,
            anomalies_unknown: 0,
            end_ns: 0,
            last_answer_ns: 0,
            latency: histogram(),
            refusal_latency: histogram(),
            lateness: histogram(),
            own_lateness: histogram(),
        }
    }
}

impl LoadOutcome {
    /// Adds the results of another thread.
    pub fn merge(&mut self, other: Self) {
        // Without `..`: a new count does not compile until it is added.
        let Self {
            sent,
            unsent,
            waited,
            statuses,
            accepted,
            lost,
            timeouts,
            malformed,
            opened,
            reopened,
            connect_errors,
            connect_error,
            anomalies,
            anomalies_unknown,
            end_ns,
            last_answer_ns,
            latency,
            refusal_latency,
            lateness,
            own_lateness,
        } = other;
        self.sent += sent;
        self.unsent += unsent;
        self.waited += waited;
        for (status, count) in statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.accepted += accepted;
        self.lost += lost;
        self.timeouts += timeouts;
        self.malformed += malformed;
        self.opened += opened;
        self.reopened += reopened;
        self.connect_errors += connect_errors;
        self.connect_error = connect_error.or(self.connect_error.take());
        self.anomalies += anomalies;
        self.anomalies_unknown += anomalies_unknown;
        self.end_ns = self.end_ns.max(end_ns);
        self.last_answer_ns = self.last_answer_ns.max(last_answer_ns);
        for (mine, theirs) in [
            (&mut self.latency, latency),
            (&mut self.refusal_latency, refusal_latency),
            (&mut self.lateness, lateness),
            (&mut self.own_lateness, own_lateness),
        ] {
            mine.add(&theirs).expect("all have the same bounds");
        }
    }

    /// Requests with any response.
    pub fn answered(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Requests with a 2xx response.
    pub fn good(&self) -> u64 {
        self.statuses.iter().filter(|(status, _)| GOOD.contains(status)).map(|(_, n)| n).sum()
    }

    /// Requests that were sent and got no 2xx response.
    pub fn failed(&self) -> u64 {
        self.sent - self.good()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut outcome = LoadOutcome::default();
        for us in 1..=10_000 {
            outcome.latency.saturating_record(us * 1_000);
        }
        for (quantile, us) in [(0.5, 5_000.0), (0.99, 9_900.0), (0.999, 9_990.0), (1.0, 10_000.0)] {
            let found = outcome.latency.value_at_quantile(quantile) as f64 / 1e3;
            assert!((found / us - 1.0).abs() < 1e-3, "{quantile}: {found}");
        }
        outcome.latency.saturating_record(u64::MAX);
        assert!(outcome.latency.max() >= LONGEST_NS);
    }

    #[test]
    fn threads_add_up() {
        let mut all = LoadOutcome::default();
        for (status, error) in [(202, None), (503, Some("refused")), (202, None)] {
            let mut one = LoadOutcome { sent: 2, lost: 1, ..LoadOutcome::default() };
            one.statuses.insert(status, 1);
            one.connect_error = error.map(str::to_owned);
            one.latency.saturating_record(u64::from(status));
            all.merge(one);
        }
        assert_eq!((all.sent, all.lost, all.answered(), all.good()), (6, 3, 3, 2));
        assert_eq!(all.failed(), 4);
        assert_eq!(all.connect_error.as_deref(), Some("refused"));
        assert_eq!(all.latency.len(), 3);
    }
}
