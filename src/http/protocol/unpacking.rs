//! Bodies whose content coding takes more than one round to decode.
//!
//! A turn decodes one piece of a body; then other connections have theirs. A worker has one place for a body that needs
//! several pieces, so that one buffer grows at a time. Bodies that need one piece do not wait for the place.

use super::round::Buffers;
use super::unpacking_place::UnpackingPlace;
use crate::http::coding::{BodyDecoder, CodingError, ContentCoding};

/// How far the coded body of a connection is.
#[derive(Debug, Default)]
pub(super) enum Unpacking {
    /// It has had no turn.
    #[default]
    New,
    /// It needs several pieces, and another body has the place for that.
    Waits,
    /// It has the place.
    Runs(Box<RunningUnpacking>),
}

#[derive(Debug)]
pub(super) struct RunningUnpacking {
    decoder: BodyDecoder,
    decoded: Vec<u8>,
    /// Held, and given back when this is dropped.
    _place: UnpackingPlace,
}

impl Unpacking {
    /// Decodes the next piece of `body`. True once the whole is in the worker's buffer for decoded bodies.
    ///
    /// # Errors
    /// When the body is damaged, or larger than `limit`; its memory is then freed.
    pub fn advance(
        &mut self,
        coding: ContentCoding,
        body: &[u8],
        limit: usize,
        buffers: &mut Buffers,
    ) -> Result<bool, CodingError> {
        let place = buffers.place.take();
        let mut running = match std::mem::take(self) {
            Self::Runs(running) => *running,
            Self::New => return self.begin(coding, body, limit, buffers, place),
            Self::Waits => match place {
                Some(place) => {
                    let decoder = BodyDecoder::new(coding, limit)?;
                    RunningUnpacking { decoder, decoded: Vec::new(), _place: place }
                }
                None => {
                    *self = Self::Waits;
                    return Ok(false);
                }
            },
        };
        let RunningUnpacking { decoder, decoded, .. } = &mut running;
        let is_done = buffers.decode_piece(decoder, body, decoded)?;
        if is_done {
            buffers.decoded = running.decoded;
        } else {
            *self = Self::Runs(Box::new(running));
        }
        Ok(is_done)
    }

    /// The first piece is often the whole, and the worker's buffer is large enough for it.
    fn begin(
        &mut self,
        coding: ContentCoding,
        body: &[u8],
        limit: usize,
        buffers: &mut Buffers,
        place: Option<UnpackingPlace>,
    ) -> Result<bool, CodingError> {
        let mut decoder = BodyDecoder::new(coding, limit)?;
        let mut decoded = std::mem::take(&mut buffers.decoded);
        decoded.clear();
        let is_done = buffers.decode_piece(&mut decoder, body, &mut decoded)?;
        if is_done {
            buffers.decoded = decoded;
            return Ok(true);
        }
        *self = match place {
            Some(place) => {
                Self::Runs(Box::new(RunningUnpacking { decoder, decoded, _place: place }))
            }
            None => {
                buffers.decoded = decoded;
                Self::Waits
            }
        };
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use sigmad_clock::{Clock, Now};

    use super::super::round::PIECE_WORK_BYTES;
    use super::*;
    use crate::http::Limits;
    use crate::http::counters::HttpCounters;
    use crate::http::encode::DateLine;
    use crate::http::message::{Completion, CompletionSink, Request, ResponseWriter, Service};
    use crate::http::protocol::{ConnectionPhase, Protocol, Round};
    use crate::http::request_error::RequestError;
    use crate::http::stages::StageTimer;

    const BODY_BYTES: usize = 8 * 1024 * 1024;
    /// A piece may overshoot by one step of the decoder.
    const PIECES_MIN: usize = BODY_BYTES / (PIECE_WORK_BYTES + 128 * 1024);
    const LIMITS: Limits = Limits {
        head_bytes_max: 1024,
        body_bytes_max: BODY_BYTES,
        connections_max: 8,
        memory_bytes_max: 64 << 20,
        read_timeout_ms: 1_000,
        body_rate_min: 1024,
        write_stall_ms: 1_000,
        idle_timeout_ms: 1_000,
        drain_idle_ms: 1_000,
        cors: None,
    };

    /// The lengths of the bodies that it was called with.
    #[derive(Default)]
    struct Lengths(Vec<usize>);

    impl Service for Lengths {
        fn call(&mut self, request: Request<'_>, response: &mut dyn ResponseWriter) {
            self.0.push(request.body.len());
            response.send(200, "text/plain", &[], b"");
        }
        fn round_called(&mut self, _: Now, _: StageTimer<'_>) {}
        fn round_answered(&mut self, _: u64) {}
    }

    struct NoSink;

    impl CompletionSink for NoSink {
        fn complete(&self, _: u64, _: Completion) {}
    }

    /// A worker without sockets; what arrives first is received in the first round.
    struct Rounds {
        connections: Vec<Protocol>,
        buffers: Buffers,
        service: Lengths,
        counters: HttpCounters,
    }

    impl Rounds {
        fn new(connections: usize) -> Self {
            let protocol = |key| Protocol::new(key, Ipv4Addr::LOCALHOST.into(), false);
            Self {
                connections: (0..connections).map(protocol).collect(),
                buffers: Buffers::default(),
                service: Lengths::default(),
                counters: HttpCounters::default(),
            }
        }

        /// One connection's turn: it receives, or goes on with what it has.
        fn turn(&mut self, key: usize, data: Option<&[u8]>) {
            let sink: Arc<dyn CompletionSink> = Arc::new(NoSink);
            let mut round = Round {
                service: &mut self.service,
                out: &mut Vec::new(),
                buffers: &mut self.buffers,
                date: &DateLine::default(),
                limits: &LIMITS,
                counters: &self.counters,
                sink: &sink,
                clock: &Clock::new(sigmad_clock::start()),
                now: Now::default(),
                is_draining: false,
                calls: 0,
                stages: None,
            };
            let connection = &mut self.connections[key];
            match data {
                Some(data) => connection.receive(&mut data.to_vec(), &mut round),
                None => connection.resume(&mut round),
            }
        }

        /// All connections with a backlog have a turn; returns the lengths that were called.
        fn round(&mut self) -> Vec<usize> {
            self.buffers.begin_round();
            for key in 0..self.connections.len() {
                if self.connections[key].has_backlog() {
                    self.turn(key, None);
                }
            }
            std::mem::take(&mut self.service.0)
        }
    }

    fn gzip(length: usize) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&vec![b' '; length]).and_then(|()| encoder.finish()).expect("memory")
    }

    fn post(body: &[u8], framing: &str) -> Vec<u8> {
        let head =
            format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n{framing}\r\n\r\n");
        [head.as_bytes(), body].concat()
    }

    fn coded(length: usize) -> Vec<u8> {
        let body = gzip(length);
        post(&body, &format!("Content-Length: {}", body.len()))
    }

    fn chunked(length: usize) -> Vec<u8> {
        let body = gzip(length);
        let chunk = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
        post(&chunk, "Transfer-Encoding: chunked")
    }

    #[test]
    fn a_large_body_is_decoded_over_many_rounds_and_small_ones_pass_it() {
        for large in [coded(BODY_BYTES), chunked(BODY_BYTES)] {
            let mut rounds = Rounds::new(2);
            rounds.turn(0, Some(&large));
            let mut called = Vec::new();
            for _ in 0..1_000 {
                // Whatever else is done in the round, a small body is called in it.
                rounds.turn(1, Some(&coded(1_000)));
                called.push(rounds.round());
                if called.last().is_some_and(|lengths| lengths.contains(&BODY_BYTES)) {
                    break;
                }
            }
            let (last, before) = called.split_last().expect("rounds");
            assert!(last.contains(&BODY_BYTES), "{last:?}");
            assert!(before.len() >= PIECES_MIN, "{} rounds", before.len());
            assert!(before.iter().all(|lengths| *lengths == [1_000]), "{before:?}");
            assert_eq!(rounds.connections[0].phase(), ConnectionPhase::Idle);
        }
    }

    #[test]
    fn one_large_body_is_decoded_at_a_time_in_the_order_of_arrival() {
        let mut rounds = Rounds::new(3);
        for key in 0..3 {
            rounds.turn(key, Some(&coded(BODY_BYTES - key)));
        }
        let running = |rounds: &Rounds| {
            let runs = |one: &&Protocol| matches!(one.unpacking, Unpacking::Runs(_));
            rounds.connections.iter().filter(runs).count()
        };
        let mut called = Vec::new();
        while called.len() < 3 && rounds.connections.iter().any(Protocol::has_backlog) {
            called.extend(rounds.round());
            assert!(running(&rounds) <= 1);
        }
        assert_eq!(called, [BODY_BYTES, BODY_BYTES - 1, BODY_BYTES - 2]);
    }

    #[test]
    fn a_connection_that_ends_gives_its_place_back() {
        for end in [Protocol::abandon as fn(&mut Protocol), |one| {
            *one = Protocol::new(0, Ipv4Addr::LOCALHOST.into(), false);
        }] {
            let mut rounds = Rounds::new(2);
            rounds.turn(0, Some(&coded(BODY_BYTES)));
            rounds.turn(1, Some(&coded(BODY_BYTES)));
            assert!(rounds.round().is_empty());
            end(&mut rounds.connections[0]);
            let mut called = Vec::new();
            while called.is_empty() && rounds.connections[1].has_backlog() {
                called = rounds.round();
            }
            assert_eq!(called, [BODY_BYTES]);
        }
    }

    #[test]
    fn a_large_body_that_is_damaged_is_refused_at_its_last_piece() {
        let mut damaged = coded(BODY_BYTES);
        let checksum = damaged.len() - 8;
        damaged[checksum] ^= 1;
        let too_large = coded(BODY_BYTES + 1);
        for (data, reason) in
            [(damaged, RequestError::CodedBody), (too_large, RequestError::BodyTooLarge)]
        {
            let mut rounds = Rounds::new(1);
            rounds.turn(0, Some(&data));
            let mut pieces = 0;
            while rounds.connections[0].has_backlog() {
                assert!(rounds.round().is_empty());
                pieces += 1;
            }
            assert!(pieces >= PIECES_MIN, "{pieces}");
            assert_eq!(rounds.counters.refusals[reason as usize].get(), 1);
            assert_eq!(rounds.connections[0].phase(), ConnectionPhase::Closing);
        }
    }
}
