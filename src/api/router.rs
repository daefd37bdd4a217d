//! The service of one worker: answers requests one after the other.
//!
//! Samples are decoded into a staging batch, and accepted only if the whole batch fits into the worker's
//! sample queue. The producer sends before the answers of the round leave. The worker answers health
//! checks and the page itself; other reads go to the readers with a responder.

use std::sync::Arc;

use crossbeam_channel::{Sender, TrySendError};

use super::JSON;
use super::accept::{takes_brotli, takes_gzip};
use super::acknowledge::{Acknowledger, HeldAnswer, HeldRound};
use super::actions::{Action, Convention, DebugRead, Get, InfluxVersion, Operation, TokenRule};
use super::counters::RouterCounters;
use super::debug::DebugRequest;
use super::errors::ApiError;
use super::exchange::{Exchange, RouterRound};
use super::influx;
use super::ingest;
use super::query::parameter;
use super::reader::{ReadRequest, ReaderTask};
use super::routes::{self, Label, PathShape};
use super::tokens::{self, Denied, Tokens};
use super::wrong_tokens::WrongTokens;
use crate::dashboard::page::{self, Asset, AssetCoding};
use crate::decode::Decoder;
use crate::http::message::{Method, Request, Response, ResponseWriter, Service};
use crate::http::stages::{Stage, StageTimer};
use crate::readiness::Readiness;
use crate::reloadable::ReloadableReader;
use crate::sample_queue::SampleProducer;
use sigmad_clock::{Clock, Now};
use sigmad_sample::Batch;

/// No body of an operator needs more: names and comments are bounded.
const OPERATION_BYTES_MAX: usize = 16 * 1024;

/// The parts of a router.
#[derive(Debug)]
pub struct RouterParts {
    /// Decodes bodies into samples.
    pub decoder: Decoder,
    /// Sends the samples to analytics.
    pub samples: SampleProducer,
    /// With `--ack disk`: answers wait until their samples are durable.
    pub acknowledger: Option<Arc<Acknowledger>>,
    /// Times stages.
    pub clock: Clock,
    /// Counters of this router.
    pub counters: Arc<RouterCounters>,
    /// Queue of the readers.
    pub reads: Sender<ReadRequest>,
    /// Queue of the debug thread.
    pub debug: Sender<DebugRequest>,
    /// Tokens that clients must present.
    pub tokens: ReloadableReader<Tokens>,
    /// The answer of `/readyz`.
    pub readiness: Arc<Readiness>,
}

/// The service of one worker.
#[derive(Debug)]
pub struct Router {
    parts: RouterParts,
    wrong_tokens: WrongTokens,
    staging: Batch,
    /// The body of the current answer; reused.
    body: Vec<u8>,
    round: RouterRound,
    /// The answers of the round that wait for the disk.
    held: Option<HeldRound>,
}

impl Router {
    /// A router before its first request.
    pub fn new(parts: RouterParts) -> Self {
        Self {
            parts,
            wrong_tokens: WrongTokens::default(),
            staging: Batch::default(),
            body: Vec::new(),
            round: RouterRound::default(),
            held: None,
        }
    }

    fn ingest(
        &mut self,
        exchange: &mut Exchange<'_>,
        mut request: Request<'_>,
        convention: Convention,
    ) {
        self.parts.counters.ingest_requests_total.add(1);
        let convention = ingest::of_request(convention, &request);
        if let Err(denied) = self.admit(convention.token(), &request) {
            let error = self.denied(denied, &request);
            return self.refuse_samples(exchange, convention, error);
        }
        let format = match ingest::format(convention, &request, &mut self.parts.decoder) {
            Ok(format) => format,
            Err(error) => return self.refuse_samples(exchange, convention, error),
        };
        let RouterParts { decoder, samples, clock, counters, acknowledger, .. } = &mut self.parts;
        request.stages.begin(clock);
        self.staging.clear();
        let decoded = decoder.decode(request.body, format, request.now, &mut self.staging);
        request.stages.end(Stage::Decode, clock);
        let decoded = match decoded {
            Ok(decoded) => decoded,
            Err(error) => {
                let error = ingest::body_error(convention, &request.headers, error);
                return self.refuse_samples(exchange, convention, error);
            }
        };
        debug_assert_eq!(decoded.accepted, self.staging.len());
        counters.invalid_total.add(decoded.invalid as u64);
        counters.too_many_streams_total.add(decoded.unroomed as u64);
        counters.too_many_metrics_total.add(decoded.unnamed as u64);
        if decoded.accepted > 0 {
            if !samples.has_room(decoded.accepted, self.staging.readings()) {
                counters.queue_full_total.add(decoded.accepted as u64);
                return self.refuse_samples(exchange, convention, ApiError::QueueFull);
            }
            if acknowledger.is_some() && self.held.is_none() {
                samples.carry(self.held.insert(HeldRound::default()).right());
            }
            samples.push(&self.staging, request.now);
            counters.accepted_total.add(decoded.accepted as u64);
        }
        if decoded.are_points {
            counters.values.add(decoder.values());
        } else {
            counters.values_refused_total.add(decoded.left_out_values as u64);
        }
        request.stages.end(Stage::Enqueue, clock);
        let is_held = decoded.accepted > 0 && self.held.is_some();
        match convention {
            Convention::Json { success } if decoded.is_whole() => {
                ingest::json::write_accepted(decoded.accepted, &mut self.body);
                if is_held {
                    let answer = ingest::Answer::json(success);
                    return self.hold(exchange, convention, request.now, answer);
                }
                exchange.send(&self.parts.counters, &mut self.round, success, &[], &self.body);
            }
            _ => {
                let answer = ingest::answer(convention, &request, decoded, decoder, &mut self.body);
                if is_held {
                    self.hold(exchange, convention, request.now, answer);
                } else {
                    self.send_answer(exchange, &answer);
                }
            }
        }
    }

    /// Keeps an answer, whose body is in the buffer, until the samples of the round are durable.
    fn hold(
        &mut self,
        exchange: &mut Exchange<'_>,
        convention: Convention,
        now: Now,
        answer: ingest::Answer,
    ) {
        let held = HeldAnswer {
            convention,
            label: exchange.label,
            method: exchange.method,
            read_ns: now.monotonic_ns,
            response: answer.into_response(self.body.clone()),
            responder: exchange.answer.defer(),
        };
        self.held.get_or_insert_default().hold(held);
    }

    /// Refuses a whole request that brings samples, as its sender understands it.
    #[cold]
    fn refuse_samples(
        &mut self,
        exchange: &mut Exchange<'_>,
        convention: Convention,
        error: ApiError<'_>,
    ) {
        error.log(exchange.client, exchange.label);
        let answer = ingest::refuse(convention, &error, &mut self.body);
        self.send_answer(exchange, &answer);
    }

    /// Sends an answer whose body is in the buffer.
    fn send_answer(&mut self, exchange: &mut Exchange<'_>, answer: &ingest::Answer) {
        exchange.count(&self.parts.counters, &mut self.round, answer.status);
        exchange.answer.send(answer.status, answer.content_type, &answer.fields, &self.body);
    }

    /// Checks the token that a request must present.
    #[inline]
    fn admit(&mut self, rule: TokenRule, request: &Request<'_>) -> Result<(), Denied> {
        let tokens = self.parts.tokens.get();
        match rule {
            TokenRule::Open => Ok(()),
            TokenRule::Ingest => tokens::check_sender(tokens.ingest.as_ref(), &request.headers),
            TokenRule::IngestOrParameter => {
                let ingest = tokens.ingest.as_ref();
                match (ingest, parameter(request.query, "p")) {
                    (Some(token), Some(password)) => token.check(password.as_bytes()),
                    _ => tokens::check_sender(ingest, &request.headers),
                }
            }
            TokenRule::Read => tokens::check(tokens.read.as_ref(), &request.headers),
            TokenRule::Debug => tokens::check_debug(tokens.debug.as_ref(), request),
            TokenRule::Operator => tokens::check_operator(tokens.operator.as_ref(), request),
        }
    }

    fn get(&mut self, exchange: &mut Exchange<'_>, request: &Request<'_>, get: Get) {
        if let Err(denied) = self.admit(get.token(), request) {
            let error = self.denied(denied, request);
            return match get {
                Get::Debug(_) => self.refuse_debug(exchange, error),
                Get::InfluxQuery => {
                    self.refuse_samples(exchange, Convention::Influx(InfluxVersion::V1), error);
                }
                _ => self.refuse(exchange, error),
            };
        }
        match get {
            Get::Health => {
                let body = br#"{"status":"ok"}"#;
                exchange.send(&self.parts.counters, &mut self.round, 200, &[], body);
            }
            Get::Ready => {
                let (status, body) = self.parts.readiness.answer();
                exchange.send(&self.parts.counters, &mut self.round, status, &[], body.as_bytes());
            }
            Get::InfluxPing => {
                let status = influx::ping(request.query, &mut self.body);
                exchange.count(&self.parts.counters, &mut self.round, status);
                exchange.answer.send(status, JSON, &influx::PING_FIELDS, &self.body);
            }
            Get::InfluxQuery => {
                let status = influx::query(request, &mut self.body);
                exchange.send(&self.parts.counters, &mut self.round, status, &[], &self.body);
            }
            Get::Page(asset) => self.send_asset(exchange, request, asset),
            Get::Read(read) => self.pass_to_reader(exchange, request, ReaderTask::Read(read)),
            Get::Debug(debug) => self.pass_to_debug(exchange, request, debug),
        }
    }

    /// Passes the request to the debug thread.
    fn pass_to_debug(
        &mut self,
        exchange: &mut Exchange<'_>,
        request: &Request<'_>,
        debug: DebugRead,
    ) {
        let RouterParts { counters, debug: debugs, .. } = &mut self.parts;
        let passed = debugs.try_send(DebugRequest {
            debug,
            label: exchange.label,
            method: exchange.method,
            path: request.path.to_owned(),
            query: request.query.to_owned(),
            accept: text(request, "accept").to_owned(),
            body: request.body.to_vec(),
            read_ns: request.now.monotonic_ns,
            responder: exchange.answer.defer(),
        });
        let (request, error) = match passed {
            Ok(()) => return,
            Err(TrySendError::Full(request)) => (request, ApiError::DebugFull),
            Err(TrySendError::Disconnected(request)) => (request, ApiError::Stopping),
        };
        error.log(exchange.client, exchange.label);
        exchange.count(counters, &mut self.round, error.status());
        request.responder.send(error.debug_response());
    }

    /// Refuses a request below `/debug/`: `go tool pprof` shows the reason.
    fn refuse_debug(&mut self, exchange: &mut Exchange<'_>, error: ApiError<'_>) {
        error.log(exchange.client, exchange.label);
        let Response { status, content_type, fields, body } = error.debug_response();
        exchange.count(&self.parts.counters, &mut self.round, status);
        exchange.answer.send(status, content_type, &fields, &body);
    }

    /// Answers with a file of the page, which was compressed at build time.
    fn send_asset(&mut self, exchange: &mut Exchange<'_>, request: &Request<'_>, asset: Asset) {
        let accepted = text(request, "accept-encoding");
        let packing = match accepted {
            _ if takes_brotli(accepted) => AssetCoding::Brotli,
            _ if takes_gzip(accepted) => AssetCoding::Gzip,
            _ => AssetCoding::Identity,
        };
        exchange.count(&self.parts.counters, &mut self.round, 200);
        let fields = page::fields(packing);
        exchange.answer.send(200, asset.content_type(), fields.as_ref(), asset.body(packing));
    }

    /// Passes what an operator asks for to a reader.
    fn operate(
        &mut self,
        exchange: &mut Exchange<'_>,
        request: &Request<'_>,
        operation: Operation,
    ) {
        if let Err(denied) = self.admit(TokenRule::Operator, request) {
            let error = self.denied(denied, request);
            return self.refuse(exchange, error);
        }
        // A form of another site can't have this type without asking first (Fetch, section 4.8).
        if operation.has_body() && !is_json(text(request, "content-type")) {
            return self.refuse(exchange, ApiError::MediaType(JSON));
        }
        if request.body.len() > OPERATION_BYTES_MAX {
            return self.refuse(exchange, ApiError::TooLarge(OPERATION_BYTES_MAX));
        }
        self.pass_to_reader(exchange, request, ReaderTask::Operate(operation));
    }

    /// Passes the request to a reader.
    fn pass_to_reader(
        &mut self,
        exchange: &mut Exchange<'_>,
        request: &Request<'_>,
        task: ReaderTask,
    ) {
        // A read includes the samples that its connection sent before, even without their 202.
        self.parts.samples.send(request.now);
        let passed = self.parts.reads.try_send(ReadRequest {
            task,
            label: exchange.label,
            method: exchange.method,
            id: id_of(exchange.label, request.path).to_owned(),
            query: request.query.to_owned(),
            accept: text(request, "accept").to_owned(),
            accept_encoding: text(request, "accept-encoding").to_owned(),
            last_event_id: text(request, "last-event-id").to_owned(),
            body: match task {
                ReaderTask::Read(_) => Vec::new(),
                ReaderTask::Operate(_) => request.body.to_vec(),
            },
            client: exchange.client,
            read_ns: request.now.monotonic_ns,
            responder: exchange.answer.defer(),
        });
        let (request, error) = match passed {
            Ok(()) => return,
            Err(TrySendError::Full(request)) => (request, ApiError::ReadsFull),
            Err(TrySendError::Disconnected(request)) => (request, ApiError::Stopping),
        };
        error.log(exchange.client, exchange.label);
        self.parts.counters.reads_refused_total.add(1);
        exchange.count(&self.parts.counters, &mut self.round, error.status());
        request.responder.send(error.response());
    }

    /// The refusal of a request whose token is missing or wrong.
    fn denied(&mut self, denied: Denied, request: &Request<'_>) -> ApiError<'static> {
        ApiError::Denied(match denied {
            Denied::Wrong => self.wrong_tokens.count(request.client, request.now),
            denied => denied,
        })
    }

    fn send_options(&mut self, exchange: &mut Exchange<'_>, allow: &'static str) {
        let fields = [("Allow", allow.into())];
        exchange.send(&self.parts.counters, &mut self.round, 204, &fields, b"");
    }

    fn refuse(&mut self, exchange: &mut Exchange<'_>, error: ApiError<'_>) {
        error.log(exchange.client, exchange.label);
        error.write(&mut self.body);
        let fields = error.field();
        let Self { parts, round, body, .. } = self;
        exchange.send(&parts.counters, round, error.status(), fields.as_slice(), body);
    }
}

/// The part of a path that names what the request is about; empty without one.
fn id_of(label: Label, path: &str) -> &str {
    let route = label.route().filter(|route| route.shape == PathShape::WithId);
    route.and_then(|route| route.id_of(path)).unwrap_or_default()
}

/// Whether a Content-Type is JSON, with any parameters.
fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case(JSON)
}

/// A header field; empty if it is absent or not UTF-8.
fn text<'a>(request: &Request<'a>, name: &str) -> &'a str {
    let value = request.headers.get(name).and_then(|value| std::str::from_utf8(value).ok());
    value.unwrap_or_default()
}

impl Service for Router {
    #[inline]
    fn call(&mut self, request: Request<'_>, answer: &mut dyn ResponseWriter) {
        let label = routes::find(request.path);
        let mut exchange =
            Exchange { client: request.client, label, method: request.method, answer };
        match routes::action(label, request.method) {
            Action::Ingest(convention) => self.ingest(&mut exchange, request, convention),
            Action::Get(get) => self.get(&mut exchange, &request, get),
            Action::Operate(operation) => self.operate(&mut exchange, &request, operation),
            Action::Options(allow) => self.send_options(&mut exchange, allow),
            // The engine takes the asterisk for OPTIONS only: it asks about the whole server.
            Action::Unknown if request.path == "*" => {
                self.send_options(&mut exchange, routes::ALLOW_ALL);
            }
            Action::WrongMethod(allow) => {
                self.refuse(&mut exchange, ApiError::WrongMethod(allow));
            }
            Action::Unknown if routes::is_debug(request.path) => {
                self.refuse_debug(&mut exchange, ApiError::NotFound(request.path));
            }
            Action::Unknown => self.refuse(&mut exchange, ApiError::NotFound(request.path)),
        }
    }

    fn refuse_by_head(&mut self, request: Request<'_>, answer: &mut dyn ResponseWriter) -> bool {
        let rule = routes::action(routes::find(request.path), request.method).token();
        let is_admitted = rule.is_some_and(|rule| self.admit(rule, &request).is_ok());
        if !is_admitted {
            // By the same rules, so it answers now.
            self.call(request, answer);
        }
        !is_admitted
    }

    fn serves_when_full(&self, path: &str) -> bool {
        let get = routes::find(path).route().and_then(|route| route.get);
        matches!(get, Some(Get::Health | Get::Ready))
    }

    fn refused(&mut self, method: Method, path: &str, status: u16) {
        self.parts.counters.requests.count(routes::find(path), method, status);
    }

    fn round_called(&mut self, now: Now, stages: StageTimer<'_>) {
        let RouterParts { samples, clock, acknowledger, .. } = &mut self.parts;
        match stages.0.filter(|times| times.has(Stage::Enqueue)) {
            None => samples.send(now),
            Some(times) => {
                let since_ns = clock.monotonic_ns();
                times.begin(since_ns);
                samples.send_timed(now, since_ns);
                times.end(Stage::Enqueue, clock.monotonic_ns());
            }
        }
        if let Some(held) = self.held.take()
            && let Some(acknowledger) = acknowledger
        {
            samples.carried();
            held.sent(acknowledger);
        }
    }

    fn round_answered(&mut self, elapsed_ns: u64) {
        let mut labels = std::mem::take(&mut self.round.labels);
        while labels != 0 {
            let label = Label::at(labels.trailing_zeros() as usize);
            labels &= labels - 1;
            let count = std::mem::take(&mut self.round.answered[label.index()]);
            self.parts.counters.requests.time(label, elapsed_ns, u64::from(count));
        }
    }
}

#[cfg(test)]
mod tests;
