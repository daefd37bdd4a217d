//! Answers that wait until what they acknowledge is durable: `--ack disk`.
//!
//! A router holds the answers to samples of its round with a responder each. When the round ends, the thread that ends it
//! (the journal's, or whoever has lost a chunk) sends them: as they are, or a 503 in their convention.

use std::sync::Arc;

use parking_lot::Mutex;

use super::actions::Convention;
use super::counters::RequestCounters;
use super::errors::ApiError;
use super::ingest;
use super::routes::Label;
use crate::acknowledgement::{AckRight, Durability, RoundAcknowledgement};
use crate::http::message::{Method, Responder, Response};
use sigmad_clock::Clock;
use sigmad_counters::{Counter, Families, MetricSource};

/// What is counted of held answers.
#[derive(Debug, Default)]
pub struct AcknowledgeCounters {
    /// The requests, with their time to the answer.
    pub requests: RequestCounters,
    /// Requests whose samples were durable before their answer.
    pub durable_total: Counter,
    /// Requests that were answered 503, because samples of their round were lost on the way to the disk.
    pub lost_total: Counter,
}

impl MetricSource for AcknowledgeCounters {
    fn collect(&self, families: &mut Families) {
        self.requests.collect(families);
        families
            .counter(
                "sigmad_acknowledgements_total",
                "With --ack disk: requests that waited for the disk, by result: durable, lost (answered 503).",
            )
            .add_counter(&[("result", "durable")], &self.durable_total)
            .add_counter(&[("result", "lost")], &self.lost_total);
    }
}

/// What all routers share.
#[derive(Debug)]
pub struct Acknowledger {
    counters: Arc<AcknowledgeCounters>,
    /// Who has it counts: a counter has one writer.
    counting: Mutex<Clock>,
}

/// An answer that waits.
#[derive(Debug)]
pub struct HeldAnswer {
    /// How its client understands a refusal.
    pub convention: Convention,
    /// For the counters.
    pub label: Label,
    /// For the counters.
    pub method: Method,
    /// When the request was read, nanoseconds on the monotonic clock.
    pub read_ns: u64,
    /// The answer if the samples are durable.
    pub response: Response,
    /// Sends it.
    pub responder: Responder,
}

impl Acknowledger {
    /// With these counters, whose only writer it is.
    pub fn new(counters: Arc<AcknowledgeCounters>, clock: Clock) -> Arc<Self> {
        Arc::new(Self { counters, counting: Mutex::new(clock) })
    }

    fn end(&self, answers: Vec<HeldAnswer>, durability: Durability) {
        let is_durable = durability == Durability::Durable;
        let mut ended = Vec::with_capacity(answers.len());
        {
            let clock = self.counting.lock();
            let now_ns = clock.monotonic_ns();
            for answer in answers {
                let HeldAnswer { convention, label, method, read_ns, response, responder } = answer;
                let response = if is_durable { response } else { refusal(convention) };
                self.counters.requests.count(label, method, response.status);
                self.counters.requests.time(label, now_ns.saturating_sub(read_ns), 1);
                ended.push((responder, response));
            }
            let counters = &self.counters;
            let total = if is_durable { &counters.durable_total } else { &counters.lost_total };
            total.add(ended.len() as u64);
        }
        for (responder, response) in ended {
            responder.send(response);
        }
    }
}

fn refusal(convention: Convention) -> Response {
    let mut body = Vec::new();
    let answer = ingest::refuse(convention, &ApiError::NotDurable, &mut body);
    answer.into_response(body)
}

/// The answers that a router holds in its round.
#[derive(Debug, Default)]
pub struct HeldRound {
    acknowledgement: RoundAcknowledgement,
    answers: Vec<HeldAnswer>,
}

impl HeldRound {
    /// A right for the chunks of the round.
    pub fn right(&self) -> AckRight {
        self.acknowledgement.right()
    }

    /// Holds an answer.
    pub fn hold(&mut self, answer: HeldAnswer) {
        self.answers.push(answer);
    }

    /// All chunks of the round have been sent.
    pub fn sent(self, acknowledger: &Arc<Acknowledger>) {
        let Self { acknowledgement, answers } = self;
        let acknowledger = acknowledger.clone();
        acknowledgement.then(move |durability| acknowledger.end(answers, durability));
    }
}
