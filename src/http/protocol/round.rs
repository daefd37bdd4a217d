//! What the connections of a worker share during a round.

use std::sync::Arc;

use super::refusal::RefusalWriter;
use super::unpacking_place::UnpackingPlace;
use crate::http::Limits;
use crate::http::coding::{BodyDecoder, CodingError};
use crate::http::counters::HttpCounters;
use crate::http::encode::{DateLine, LastHead};
use crate::http::head_cache::HeadCache;
use crate::http::message::CompletionSink;
use crate::http::stages::StageTimes;
use sigmad_clock::{Clock, Now};

/// Bytes of bodies after which further large or coded ones wait for the next round: about 10 ms of work. What decoding
/// reads and writes counts, too. So no more than one body that takes longer is served before others have their turn.
pub(super) const ROUND_BYTES_MAX: usize = 1024 * 1024;
/// Bytes that one turn reads and writes to decode a body: half of a round, so that others of its kind have the rest.
pub(super) const PIECE_WORK_BYTES: usize = 512 * 1024;
const _: () = assert!(2 * PIECE_WORK_BYTES <= ROUND_BYTES_MAX);
/// A larger buffer for decoded bodies is freed after the request that needed it.
const DECODED_KEPT_BYTES: usize = 1024 * 1024;
/// Of larger input buffers one is kept, and none past the second bound.
const INPUTS_KEPT_BYTES: usize = 64 * 1024;
const INPUT_KEPT_BYTES: usize = 1024 * 1024;
/// Input buffers kept for the next requests that arrive in pieces.
const SPARE_INPUTS_MAX: usize = 16;

/// What all connections of a worker use in turn.
pub struct Round<'a, S> {
    /// Answers the requests.
    pub service: &'a mut S,
    /// Takes the responses.
    pub out: &'a mut Vec<u8>,
    /// Kept from round to round.
    pub buffers: &'a mut Buffers,
    /// The date of all responses.
    pub date: &'a DateLine,
    /// Bounds of heads and bodies.
    pub limits: &'a Limits,
    /// Counts the refusals.
    pub counters: &'a HttpCounters,
    /// Takes the completions of deferred responses.
    pub sink: &'a Arc<dyn CompletionSink>,
    /// For requests whose stages are timed.
    pub clock: &'a Clock,
    /// When the round began.
    pub now: Now,
    /// Every response closes its connection.
    pub is_draining: bool,
    /// Requests called by this connection.
    pub calls: usize,
    /// Set when the stages of the next request are timed.
    pub stages: Option<StageTimes>,
}

impl<S> Round<'_, S> {
    /// Where the refusal of a request goes.
    pub(super) fn refusal(&mut self) -> RefusalWriter<'_, S> {
        let Self { service, out, date, limits, counters, .. } = self;
        RefusalWriter { service, out, date, limits, counters }
    }
}

/// Buffers that outlive the connection that filled them.
#[derive(Debug, Default)]
pub struct Buffers {
    /// A body without its content coding.
    pub(super) decoded: Vec<u8>,
    spare_inputs: Vec<Vec<u8>>,
    /// The one that is kept for a larger request.
    large_input: Option<Vec<u8>>,
    /// The place for a body that takes several rounds to decode.
    pub(super) place: UnpackingPlace,
    /// Bytes of the bodies that services have received in this round, and of the work of decoding them.
    pub(super) round_bytes: usize,
    /// Responders that the worker has given out.
    pub(super) deferred_total: u64,
    pub(super) head_cache: HeadCache,
    pub(super) last_head: LastHead,
}

impl Buffers {
    /// Another round begins.
    pub fn begin_round(&mut self) {
        self.round_bytes = 0;
    }

    /// True once a body that is much work must wait for the next round.
    pub(super) fn is_round_spent(&self) -> bool {
        self.round_bytes >= ROUND_BYTES_MAX
    }

    /// Decodes the piece of `body` that one turn may; true when it is the last.
    pub(super) fn decode_piece(
        &mut self,
        decoder: &mut BodyDecoder,
        body: &[u8],
        into: &mut Vec<u8>,
    ) -> Result<bool, CodingError> {
        let mut work = PIECE_WORK_BYTES;
        let advanced = decoder.advance(body, into, &mut work);
        self.round_bytes += PIECE_WORK_BYTES - work;
        advanced
    }

    /// An empty input buffer for a request of so many bytes, as far as that is known.
    pub(super) fn take_input(&mut self, bytes: usize) -> Vec<u8> {
        let kept = if bytes <= INPUTS_KEPT_BYTES {
            self.spare_inputs.pop()
        } else {
            // Growing a smaller one would copy it.
            self.large_input.take_if(|large| large.capacity() >= bytes)
        };
        kept.unwrap_or_default()
    }

    pub(super) fn return_input(&mut self, mut input: Vec<u8>) {
        input.clear();
        if input.capacity() <= INPUTS_KEPT_BYTES {
            if self.spare_inputs.len() < SPARE_INPUTS_MAX {
                self.spare_inputs.push(input);
            }
        } else if input.capacity() <= INPUT_KEPT_BYTES {
            self.large_input = Some(input);
        }
    }

    /// The decoded body is no longer needed.
    pub(super) fn release_decoded(&mut self) {
        if self.decoded.capacity() > DECODED_KEPT_BYTES {
            self.decoded = Vec::new();
        }
    }
}
