//! One request of a worker on its way to its answer, and the answers of the round.

use super::JSON;
use super::counters::RouterCounters;
use super::routes::{LABELS, Label};
use crate::http::client_address::ClientAddress;
use crate::http::message::{HeaderField, Method, ResponseWriter};

/// The answers of the current round by label; timed when it ends.
#[derive(Debug)]
pub(super) struct RouterRound {
    pub answered: [u32; LABELS],
    /// A bit for each label with an answer.
    pub labels: u64,
}

impl Default for RouterRound {
    fn default() -> Self {
        Self { answered: [0; LABELS], labels: 0 }
    }
}

/// One request, and the writer of its answer.
pub(super) struct Exchange<'a> {
    pub client: ClientAddress,
    pub label: Label,
    pub method: Method,
    pub answer: &'a mut dyn ResponseWriter,
}

impl Exchange<'_> {
    #[inline]
    pub fn send(
        &mut self,
        counters: &RouterCounters,
        round: &mut RouterRound,
        status: u16,
        fields: &[HeaderField],
        body: &[u8],
    ) {
        self.count(counters, round, status);
        self.answer.send(status, JSON, fields, body);
    }

    #[inline]
    pub fn count(&self, counters: &RouterCounters, round: &mut RouterRound, status: u16) {
        counters.requests.count(self.label, self.method, status);
        round.answered[self.label.index()] += 1;
        round.labels |= 1 << self.label.index();
    }
}
