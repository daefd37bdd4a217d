//! What one worker counts of its connections.

use super::head::Refusal;
use crate::tally::{Histogram, Tally};

/// Written by one worker, read by the scrape.
#[derive(Debug)]
pub struct Tallies {
    /// Connections taken from the kernel.
    pub accepted_total: Tally,
    /// Connections open now.
    pub open: Tally,
    /// Closed because no request came for `--idle-timeout`.
    pub closed_idle_total: Tally,
    /// Closed, though idle, to make room for others.
    pub closed_evicted_total: Tally,
    /// Closed because the client did not take its answer.
    pub closed_stalled_total: Tally,
    /// Cut at the end of the drain.
    pub closed_drain_total: Tally,
    /// Times that accept failed for want of descriptors or memory.
    pub accept_failures_total: Tally,
    /// Requests refused before any service saw them, in the order of [`Refusal::ALL`].
    pub refusals: [Tally; Refusal::ALL.len()],
    /// From the return of the poller to the read, behind the others of the round. This and what follows is
    /// of the first request of one read in [`super::worker::TIMED_EVERY`], if the round answers it.
    pub turn_ns: Histogram,
    /// The read call.
    pub read_ns: Histogram,
    /// From bytes to a request.
    pub parse_ns: Histogram,
    /// The write call.
    pub write_ns: Histogram,
    /// From the return of the poller to the end of the write: all stages, and what lies between them.
    pub whole_ns: Histogram,
}

impl Default for Tallies {
    fn default() -> Self {
        Self {
            accepted_total: Tally::default(),
            open: Tally::default(),
            closed_idle_total: Tally::default(),
            closed_evicted_total: Tally::default(),
            closed_stalled_total: Tally::default(),
            closed_drain_total: Tally::default(),
            accept_failures_total: Tally::default(),
            refusals: std::array::from_fn(|_| Tally::default()),
            turn_ns: Histogram::default(),
            read_ns: Histogram::default(),
            parse_ns: Histogram::default(),
            write_ns: Histogram::default(),
            whole_ns: Histogram::default(),
        }
    }
}
