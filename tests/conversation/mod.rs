//! Runs the protocol of the native engine without a socket: the calls and responses for given bytes.
//! Shared by the property tests and the fuzz targets.

use std::sync::Arc;

use sigmad::http::Limits;
use sigmad::http::counters::HttpCounters;
use sigmad::http::encode::DateLine;
use sigmad::http::message::{Completion, CompletionSink, Request, ResponseWriter, Service};
use sigmad::http::protocol::{Buffers, ConnectionPhase, Protocol, Round};
use sigmad::http::stages::StageTimer;
use sigmad_clock::{self, Clock, Now};

/// Small, so that tests reach them.
pub const LIMITS: Limits = Limits {
    head_bytes_max: 1024,
    body_bytes_max: 4096,
    connections_max: 1,
    memory_bytes_max: 64 << 20,
    read_timeout_ms: 1000,
    body_rate_min: 1024,
    write_stall_ms: 30_000,
    idle_timeout_ms: 1000,
    drain_idle_ms: 1_000,
    cors: None,
};

/// One request, as the service received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub path: String,
    pub query: String,
    pub body: Vec<u8>,
}

#[derive(Default)]
struct Listener(Vec<Call>);

impl Service for Listener {
    fn call(&mut self, request: Request<'_>, answer: &mut dyn ResponseWriter) {
        self.0.push(Call {
            path: request.path.into(),
            query: request.query.into(),
            body: request.body.to_vec(),
        });
        answer.send(200, "text/plain", &[], b"ok");
    }
    fn round_called(&mut self, _now: Now, _stages: StageTimer<'_>) {}
    fn round_answered(&mut self, _elapsed_ns: u64) {}
}

struct NoSink;

impl CompletionSink for NoSink {
    fn complete(&self, _serial: u64, _completion: Completion) {}
}

/// The calls and responses of one connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Conversation {
    pub calls: Vec<Call>,
    /// The status codes of the responses, without 100 Continue.
    pub statuses: Vec<u16>,
    pub is_closing: bool,
}

/// Sends `pieces` one after the other, then the end of the stream if `ends`.
pub fn converse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, ends: bool) -> Conversation {
    let engine: Arc<dyn CompletionSink> = Arc::new(NoSink);
    let mut listener = Listener::default();
    let mut out = Vec::new();
    let mut protocol = Protocol::new(0, std::net::Ipv4Addr::LOCALHOST.into(), false);
    let counters = HttpCounters::default();
    let mut round = Round {
        service: &mut listener,
        out: &mut out,
        buffers: &mut Buffers::default(),
        date: &DateLine::default(),
        limits: &LIMITS,
        counters: &counters,
        sink: &engine,
        clock: &Clock::new(sigmad_clock::start()),
        now: Now::default(),
        is_draining: false,
        calls: 0,
        stages: None,
    };
    for piece in pieces {
        if protocol.phase() == ConnectionPhase::Closing || piece.is_empty() {
            continue;
        }
        protocol.receive(&mut piece.to_vec(), &mut round);
        while protocol.has_backlog() {
            round.buffers.begin_round();
            protocol.resume(&mut round);
        }
    }
    if ends {
        protocol.finish(&mut round);
    }
    let is_closing = protocol.phase() == ConnectionPhase::Closing;
    let text = String::from_utf8(out).expect("answers are text");
    let statuses = text
        .match_indices("HTTP/1.1 ")
        .filter_map(|(at, _)| text[at + 9..].get(..3)?.parse().ok())
        .filter(|&status| status != 100)
        .collect();
    Conversation { calls: listener.0, statuses, is_closing }
}

/// Checks that the bytes have the same effect whole and in pieces of the given sizes (repeated).
pub fn converse_both_ways(data: &[u8], sizes: &[u8]) {
    let whole = converse([data], true);
    let mut pieces = Vec::new();
    let mut rest = data;
    for size in sizes.iter().cycle() {
        if rest.is_empty() || sizes.is_empty() {
            break;
        }
        let (piece, behind) = rest.split_at(rest.len().min(usize::from(*size) + 1));
        pieces.push(piece);
        rest = behind;
    }
    pieces.push(rest);
    let split = converse(pieces, true);
    assert_eq!(whole.calls, split.calls);
    assert_eq!(whole.is_closing, split.is_closing);
    // An invalid request may be refused earlier in pieces, for another of its errors.
    assert_eq!(whole.statuses.len(), split.statuses.len());
}
