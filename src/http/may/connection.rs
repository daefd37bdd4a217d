//! One connection under may_minihttp: what its `HttpService` must do around a call of ours.
//!
//! may_minihttp reads heads, splits pipelined requests and writes answers. What it gets wrong and
//! can be put right from inside a call is put right here; see [`super::KNOWN_LIMITS`] for the rest.

use std::collections::{HashSet, VecDeque};
use std::io::{self, BufRead};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use may::coroutine;
use may::sync::Blocker;
use may_minihttp::{HttpService, Request as MayRequest, Response as MayResponse};
use parking_lot::Mutex;

use super::socket::{Found, Socket};
use super::watch::{LINGER_MS, Phase, Registered, refusal_answer, refusal_body};
use super::{Shared, Slot};
use crate::http::coding::unpack;
use crate::http::encode::{self, DateLine, Length, Terms};
use crate::http::head::{self, Framing, HEADERS_MAX, Refusal};
use crate::http::message::{
    Answer, Completion, Deliver, HeaderField, Method, Request, Responder, Service, StreamState,
};
use crate::http::protocol::turn_away;
use crate::http::worker::TIMED_EVERY;
use sigmad_clock::{Clock, Now};

/// Requests of one connection served before others that are ready have their turn.
const CALLS_PER_TURN: u64 = 64;
/// A body's buffer begins no larger, whatever the client announces; a larger one is given back.
const BODY_KEPT_BYTES: usize = 64 * 1024;
/// So many bytes of answers any send buffer takes: behind them the connection may be shut at once.
const SENT_AT_ONCE_BYTES: u64 = 16 * 1024;
/// Answers between two looks at whether the client takes them.
const ROOM_CHECK_BYTES: u64 = 64 * 1024;
/// Answers of which the kernel has taken nothing yet; a client that asks for more of them at once
/// is cut.
const PENDING_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// An answer that its client does not take: long enough for any network, not for ever.
const WRITE_STALL_MS: u64 = 30_000;
/// Between two looks at a socket that can only be polled.
const PAUSE: Duration = Duration::from_millis(5);
/// Between two looks at whether the client of a silent stream is still there.
const STREAM_LOOK: Duration = Duration::from_millis(50);
/// Larger bodies of answers are moved, not copied.
const COPIED_BODY_BYTES: usize = 4096;
/// may_minihttp's `Response` has room for so many header lines, and panics past them.
const HEADER_LINES_MAX: usize = 16;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const NO_CHUNKS: &str = "this engine takes no Transfer-Encoding: send Content-Length";

/// Sleeps without blocking the thread.
pub fn pause(duration: Duration) {
    coroutine::sleep(duration);
    // may runs what has slept on its timer thread, until it next yields.
    coroutine::yield_now();
}

/// The header lines that were ever sent: `Response::header` takes only what lives for ever.
#[derive(Debug, Default)]
pub struct Lines {
    known: HashSet<&'static str>,
    scratch: String,
}

/// Distinct header lines kept; past them a line that was never sent before is left out.
pub const LINES_MAX: usize = 1024;

impl Lines {
    fn get(&mut self, name: &str, value: &str) -> Option<&'static str> {
        self.scratch.clear();
        self.scratch.push_str(name);
        self.scratch.push_str(": ");
        self.scratch.push_str(value);
        if let Some(line) = self.known.get(self.scratch.as_str()) {
            return Some(line);
        }
        if self.known.len() == LINES_MAX {
            return None;
        }
        let line: &'static str = Box::leak(self.scratch.clone().into_boxed_str());
        self.known.insert(line);
        Some(line)
    }
}

/// An answer, borrowed from whoever made it.
struct Whole<'a> {
    status: u16,
    content_type: &'static str,
    fields: &'a [HeaderField],
    body: &'a [u8],
}

/// Puts an answer into may_minihttp's response; returns how many bytes it will be on the wire.
fn fill(response: &mut MayResponse<'_>, lines: &mut Lines, terms: Terms, whole: &Whole<'_>) -> u64 {
    debug_assert!(whole.fields.len() <= HEADER_LINES_MAX - 2, "no answer of ours has so many");
    let status_line = encode::status_line(whole.status);
    let reason = str::from_utf8(&status_line["HTTP/1.1 200 ".len()..status_line.len() - 2])
        .expect("status lines are text");
    response.status_code(usize::from(whole.status), reason);
    let mut wire_bytes = framing_bytes(whole.status, reason, whole.body.len());
    let mut add = |name, value| {
        if let Some(line) = lines.get(name, value) {
            response.header(line);
            wire_bytes += "\r\n".len() + line.len();
        }
    };
    add("content-type", whole.content_type);
    for (name, value) in whole.fields.iter().take(HEADER_LINES_MAX - 2) {
        add(name, value);
    }
    if terms.closes {
        add("connection", "close");
    } else if terms.is_http10 {
        add("connection", "keep-alive");
    }
    if whole.body.len() <= COPIED_BODY_BYTES {
        response.body_mut().extend_from_slice(whole.body);
    } else {
        response.body_vec(whole.body.to_vec());
    }
    wire_bytes as u64
}

/// What may_minihttp 0.1.11 writes around the header lines, and the body.
fn framing_bytes(status: u16, reason: &str, body_bytes: usize) -> usize {
    let reason = if status == 200 { "Ok" } else { reason };
    "HTTP/1.1 200 ".len()
        + reason.len()
        + "\r\nServer: M\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: \r\n\r\n".len()
        + itoa::Buffer::new().format(body_bytes).len()
        + body_bytes
}

/// What a service left behind for one request.
enum Given {
    Nothing,
    /// Filled into may_minihttp's response: so many bytes on the wire.
    Response(u64),
    /// To be sent past may_minihttp, and the last of its connection: it can't leave a body out.
    Head(u16, Vec<u8>),
    Responder(Arc<Mailbox>),
}

struct MayAnswer<'a, 'r> {
    response: &'a mut MayResponse<'r>,
    lines: &'a mut Lines,
    terms: Terms,
    wall_s: i64,
    given: Given,
}

impl Answer for MayAnswer<'_, '_> {
    fn send(
        &mut self,
        status: u16,
        content_type: &'static str,
        fields: &[HeaderField],
        body: &[u8],
    ) {
        let whole = Whole { status, content_type, fields, body };
        self.given = give(self.response, self.lines, self.terms, &whole, self.wall_s);
    }

    fn later(&mut self) -> Responder {
        let mailbox = Arc::new(Mailbox::new());
        self.given = Given::Responder(mailbox.clone());
        // One mailbox for one ticket: the serial says nothing here.
        Responder::new(0, mailbox)
    }
}

fn give(
    response: &mut MayResponse<'_>,
    lines: &mut Lines,
    terms: Terms,
    whole: &Whole<'_>,
    wall_s: i64,
) -> Given {
    if !terms.is_head {
        return Given::Response(fill(response, lines, terms, whole));
    }
    let mut out = Vec::new();
    let mut date = DateLine::default();
    date.update(wall_s);
    let terms = Terms { closes: true, ..terms };
    let Whole { status, content_type, fields, body } = *whole;
    encode::answer(&mut out, terms, &date, status, content_type, fields, body);
    Given::Head(status, out)
}

/// Where the deliveries for one ticket wait; its coroutine parks, not the thread.
struct Mailbox {
    deliveries: Mutex<VecDeque<Completion>>,
    blocker: Blocker,
}

impl Mailbox {
    /// To be called in the coroutine that will receive.
    fn new() -> Self {
        Self { deliveries: Mutex::default(), blocker: Blocker::new(false) }
    }

    fn receive(&self) -> Completion {
        loop {
            if let Some(delivery) = self.receive_within(None) {
                return delivery;
            }
        }
    }

    /// None when nothing came, or before it did: to look again is right in any case.
    fn receive_within(&self, patience: Option<Duration>) -> Option<Completion> {
        if let Some(delivery) = self.deliveries.lock().pop_front() {
            return Some(delivery);
        }
        let (Ok(()) | Err(_)) = self.blocker.park(patience);
        self.deliveries.lock().pop_front()
    }
}

impl Deliver for Mailbox {
    fn deliver(&self, _serial: u64, delivery: Completion) {
        self.deliveries.lock().push_back(delivery);
        self.blocker.unpark();
    }
}

/// Sets the stream's `closed` when its connection goes, whichever way.
struct ClosesStream(Arc<StreamState>);

impl Drop for ClosesStream {
    fn drop(&mut self) {
        // Relaxed: a hint to stop writing; nothing is published with it.
        self.0.closed.store(true, Ordering::Relaxed);
    }
}

/// Why a request is not served, in one word and one sentence.
struct Refused(Refusal, &'static str);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal, refusal.message())
    }
}

/// The service object of one connection.
pub struct Connection<S: Service> {
    shared: Arc<Shared<S>>,
    registered: Registered,
    socket: Socket,
    is_loopback: bool,
    clock: Clock,
    calls: u64,
    /// Answered bytes at the last look at whether the client takes them.
    room_checked_bytes: u64,
    head: Vec<u8>,
    body: Vec<u8>,
    unpacked: Vec<u8>,
}

impl<S: Service> HttpService for Connection<S> {
    fn call(&mut self, request: MayRequest, response: &mut MayResponse) -> io::Result<()> {
        self.calls += 1;
        if self.calls.is_multiple_of(CALLS_PER_TURN) {
            coroutine::yield_now();
        }
        let seen = &self.registered.seen;
        let is_over = seen.phase() == Phase::Closing
            || !seen.enter(Phase::Busy, self.clock.monotonic_ns())
            || !self.has_room();
        if is_over {
            self.answer_too_late(response);
        } else if let Err(Refused(refusal, message)) = self.serve(request, response) {
            self.refuse(refusal, message, response);
        }
        Ok(())
    }
}

impl<S: Service> Connection<S> {
    /// The service of the connection registered there.
    pub fn new(shared: Arc<Shared<S>>, registered: Registered, clock: Clock) -> Self {
        let socket = registered.seen.socket;
        Self {
            shared,
            registered,
            socket,
            is_loopback: socket.is_loopback(),
            clock,
            calls: 0,
            room_checked_bytes: 0,
            head: Vec::new(),
            body: Vec::new(),
            unpacked: Vec::new(),
        }
    }

    /// A connection stays with one slot, so that its samples are handed over in its order; may wakes
    /// it on the thread of the same number, so that the slot is free as a rule.
    fn slot(shared: &Shared<S>, socket: Socket) -> &Mutex<Slot<S>> {
        &shared.slots[socket.number() % shared.slots.len()]
    }

    fn serve(
        &mut self,
        request: MayRequest<'_, '_, '_>,
        response: &mut MayResponse<'_>,
    ) -> Result<(), Refused> {
        let shared = self.shared.clone();
        let limits = shared.watch.limits();
        let mut head_bytes = std::mem::take(&mut self.head);
        copy_head(&request, &mut head_bytes);
        if head_bytes.len() > limits.head_bytes_max {
            return Err(Refusal::HeadTooLarge.into());
        }
        // may_minihttp has read this head; reading it again gives both engines one set of rules.
        let mut slots = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let head = head::parse(&head_bytes, &mut slots, limits.body_bytes_max)?;
        let Framing::Length(length) = head.framing else {
            return Err(Refused(Refusal::TransferCoding, NO_CHUNKS));
        };
        self.read_body(request, length, head.expects_continue)?;
        let mut body = &mut self.body;
        if let Some(value) = head.content_encoding {
            unpack(value, body, limits.body_bytes_max, &mut self.unpacked)
                .map_err(Refusal::from)?;
            body = &mut self.unpacked;
        }

        let now = self.clock.now();
        let terms = Terms {
            is_http10: head.is_http10,
            is_head: head.method == Method::Head,
            closes: !head.keep_alive || shared.watch.is_draining(),
        };
        let given = {
            let mut slot = Self::slot(&shared, self.socket).lock();
            let Slot { service, lines, calls } = &mut *slot;
            let Some(service) = service else {
                drop(slot);
                self.answer_too_late(response);
                return Ok(());
            };
            *calls += 1;
            let request = Request {
                method: head.method,
                path: head.path,
                query: head.query,
                headers: head.headers,
                body,
                is_loopback: self.is_loopback,
                now,
                is_timed: calls.is_multiple_of(TIMED_EVERY),
            };
            let wall_s = now.wall_s();
            let mut answer = MayAnswer { response, lines, terms, wall_s, given: Given::Nothing };
            // A panic in here unwinds past the lock, which opens, and ends this connection without
            // an answer. The service must be sound then: what the request left in its buffers is
            // handed over with the next round, as if acknowledged.
            service.call(request, &mut answer);
            let given = answer.given;
            service.round_called(now);
            service.round_answered(self.clock.monotonic_ns() - now.monotonic_ns);
            given
        };
        self.head = head_bytes;
        for buffer in [&mut self.body, &mut self.unpacked] {
            if buffer.capacity() > BODY_KEPT_BYTES {
                *buffer = Vec::new();
            }
        }
        self.conclude(given, terms, now, response);
        Ok(())
    }

    fn read_body(
        &mut self,
        request: MayRequest<'_, '_, '_>,
        length: usize,
        expects_continue: bool,
    ) -> Result<(), Refusal> {
        self.body.clear();
        if length == 0 {
            return Ok(());
        }
        let seen = &self.registered.seen;
        if expects_continue && seen.is_flushed() && self.socket.send(CONTINUE) != Found::Nothing {
            seen.add_answered(CONTINUE.len() as u64);
        }
        self.body.reserve(length.min(BODY_KEPT_BYTES));
        // Its own length is the first Content-Length, which head::parse has found to be the only one
        // and a number.
        let mut reader = request.body();
        let mut reads = 0;
        while self.body.len() < length {
            if !seen.enter(Phase::Body, self.clock.monotonic_ns()) {
                return Err(Refusal::Timeout);
            }
            let part = reader.fill_buf().map_err(|_: io::Error| Refusal::Truncated)?;
            if part.is_empty() {
                let is_cut = seen.phase() == Phase::Cut;
                return Err(if is_cut { Refusal::Timeout } else { Refusal::Truncated });
            }
            self.body.extend_from_slice(part);
            let taken = part.len();
            reader.consume(taken);
            reads += 1;
        }
        // Reading here, past may_minihttp's own reading, uses up the event that told of the bytes
        // behind the body. Certain after two reads; after one it may have been the buffer's.
        if reads > 1 {
            self.socket.report_again();
        } else {
            seen.may_hold_unread.store(true, Ordering::Relaxed);
        }
        if seen.enter(Phase::Busy, self.clock.monotonic_ns()) {
            Ok(())
        } else {
            Err(Refusal::Timeout)
        }
    }

    fn conclude(
        &mut self,
        given: Given,
        mut terms: Terms,
        now: Now,
        response: &mut MayResponse<'_>,
    ) {
        match given {
            Given::Nothing => unreachable!("a service answers or takes a ticket"),
            Given::Response(bytes) => self.settle(bytes, terms.closes),
            Given::Head(_, head) if self.registered.seen.is_flushed() => self.send_last(&head),
            Given::Head(status, _) => {
                // Earlier answers are still with may_minihttp, so this one must follow them there,
                // with the length of no body.
                let nothing = Whole { status, content_type: "text/plain", fields: &[], body: b"" };
                self.give_later(&nothing, Terms { is_head: false, ..terms }, now, response);
            }
            Given::Responder(mailbox) => match mailbox.receive() {
                Completion::Whole(answer) => {
                    terms.closes |= self.shared.watch.is_draining();
                    let whole = Whole {
                        status: answer.status,
                        content_type: answer.content_type,
                        fields: &answer.fields,
                        body: &answer.body,
                    };
                    self.give_later(&whole, terms, now, response);
                }
                begin @ Completion::Begin(..) if !self.registered.seen.is_flushed() => {
                    turn_away(begin);
                    let body = br#"{"error":{"code":"stream_behind_answers","message":"this engine streams no answer while earlier ones are unsent"}}"#;
                    let whole =
                        Whole { status: 503, content_type: "application/json", fields: &[], body };
                    self.give_later(&whole, terms, now, response);
                }
                Completion::Begin(answer, state) => {
                    terms.closes = true;
                    let mut date = DateLine::default();
                    date.update(now.wall_s());
                    let mut out = Vec::new();
                    let (kind, fields) = (answer.content_type, &answer.fields);
                    encode::head(
                        &mut out,
                        terms,
                        &date,
                        answer.status,
                        kind,
                        fields,
                        Length::Streamed,
                    );
                    encode::part(&mut out, terms, &answer.body);
                    self.stream(&mailbox, state, terms, out, answer.body.len());
                }
                Completion::Part(_) | Completion::End => unreachable!("a stream begins with Begin"),
            },
        }
    }

    /// Answers what had to wait, as if the service had done so at once.
    fn give_later(
        &mut self,
        whole: &Whole<'_>,
        terms: Terms,
        now: Now,
        response: &mut MayResponse<'_>,
    ) {
        let shared = self.shared.clone();
        let given = {
            let lines = &mut Self::slot(&shared, self.socket).lock().lines;
            give(response, lines, terms, whole, now.wall_s())
        };
        match given {
            Given::Response(bytes) => self.settle(bytes, terms.closes),
            given => self.conclude(given, terms, now, response),
        }
    }

    /// The response is filled: the connection waits for the next request, or closes behind it.
    fn settle(&mut self, bytes: u64, closes: bool) {
        let seen = &self.registered.seen;
        seen.add_answered(bytes);
        let next = if closes { Phase::Closing } else { Phase::Waiting };
        // False: cut meanwhile, and nothing is left to say.
        let is_open = seen.enter(next, self.clock.monotonic_ns());
        // may_minihttp closes when it reads the end; what it has not written by then is lost. So
        // where the answer may be larger than the send buffer, the watch shuts when it has left.
        if is_open && closes && seen.answered() <= SENT_AT_ONCE_BYTES {
            self.socket.shut(Shutdown::Read);
        }
    }

    fn refuse(&mut self, refusal: Refusal, message: &str, response: &mut MayResponse<'_>) {
        self.shared.watch.count(refusal);
        if self.registered.seen.is_flushed() {
            let now = self.clock.now();
            return self.send_last(&refusal_answer(refusal, message, now.wall_s()));
        }
        let terms = Terms { is_http10: false, is_head: false, closes: true };
        let body = refusal_body(refusal, message);
        let whole = Whole {
            status: refusal.status(),
            content_type: "application/json",
            fields: &[],
            body: body.as_bytes(),
        };
        let now = self.clock.now();
        self.give_later(&whole, terms, now, response);
    }

    /// The request came behind one after which the connection was to close: it is not served, but
    /// may_minihttp writes something in any case.
    fn answer_too_late(&mut self, response: &mut MayResponse<'_>) {
        response.status_code(503, "Service Unavailable").header("connection: close");
        let bytes = framing_bytes(503, "Service Unavailable", 0) + "\r\nconnection: close".len();
        self.registered.seen.add_answered(bytes as u64);
    }

    /// Sends an answer past may_minihttp and ends the conversation: what may_minihttp adds after
    /// this call finds the socket shut.
    fn send_last(&mut self, bytes: &[u8]) {
        // False: cut meanwhile; the client may still be told why.
        let (true | false) = self.registered.seen.enter(Phase::Closing, self.clock.monotonic_ns());
        if self.send_all(bytes) {
            self.hang_up();
        }
    }

    fn stream(
        &mut self,
        mailbox: &Mailbox,
        state: Arc<StreamState>,
        terms: Terms,
        mut out: Vec<u8>,
        mut queued_bytes: usize,
    ) {
        let state = ClosesStream(state);
        let mut has_ended = false;
        while self.registered.seen.enter(Phase::Stream, self.clock.monotonic_ns())
            && self.send_all(&out)
        {
            // Relaxed: a level; the parts themselves come through the mailbox.
            state.0.queued_bytes.fetch_sub(queued_bytes, Ordering::Relaxed);
            if has_ended {
                return self.hang_up();
            }
            out.clear();
            queued_bytes = 0;
            let Some(delivery) = self.next_part(mailbox) else { break };
            match delivery {
                Completion::Part(part) => {
                    encode::part(&mut out, terms, &part);
                    queued_bytes = part.len();
                }
                Completion::End => {
                    encode::end(&mut out, terms);
                    has_ended = true;
                }
                Completion::Whole(_) | Completion::Begin(..) => {
                    unreachable!("a stream begins once")
                }
            }
        }
        self.socket.shut(Shutdown::Both);
    }

    /// The next part of a stream; None when the client has gone meanwhile. What it sends behind its request
    /// is dropped: a stream is the last answer of its connection.
    fn next_part(&self, mailbox: &Mailbox) -> Option<Completion> {
        loop {
            if let Some(delivery) = mailbox.receive_within(Some(STREAM_LOOK)) {
                return Some(delivery);
            }
            if self.socket.discard() == Found::End {
                return None;
            }
        }
    }

    /// Sends everything, waiting for the client to take it; false when it does not.
    fn send_all(&self, mut bytes: &[u8]) -> bool {
        let mut progress_ms = self.clock.monotonic_ns() / 1_000_000;
        while !bytes.is_empty() {
            let now_ms = self.clock.monotonic_ns() / 1_000_000;
            match self.socket.send(bytes) {
                Found::Bytes(length) => {
                    bytes = &bytes[length..];
                    progress_ms = now_ms;
                }
                Found::Nothing if now_ms - progress_ms < WRITE_STALL_MS => pause(PAUSE),
                Found::Nothing | Found::End => {
                    self.socket.shut(Shutdown::Both);
                    return false;
                }
            }
        }
        true
    }

    /// Closes behind the last answer: what the client is still sending is read and dropped, so that
    /// no reset overtakes the answer.
    fn hang_up(&self) {
        self.socket.shut(Shutdown::Write);
        let since_ns = self.clock.monotonic_ns();
        while self.clock.monotonic_ns() - since_ns < LINGER_MS * 1_000_000 {
            match self.socket.discard() {
                Found::Bytes(_) => coroutine::yield_now(),
                Found::Nothing => pause(PAUSE),
                Found::End => break,
            }
        }
        self.socket.shut(Shutdown::Both);
    }

    /// False when the client asks for more and more and takes nothing.
    ///
    /// may_minihttp keeps what the kernel does not take, without a bound. So now and then a call
    /// waits here until the kernel takes bytes again.
    fn has_room(&mut self) -> bool {
        let seen = &self.registered.seen;
        if seen.answered() - self.room_checked_bytes < ROOM_CHECK_BYTES {
            return true;
        }
        self.room_checked_bytes = seen.answered();
        let since_ns = self.clock.monotonic_ns();
        while !self.socket.is_writable() {
            if self.clock.monotonic_ns() - since_ns >= WRITE_STALL_MS * 1_000_000 {
                self.socket.shut(Shutdown::Both);
                return false;
            }
            pause(PAUSE);
        }
        let pending = self.socket.written().map_or(0, |written| seen.answered() - written);
        if pending > PENDING_BYTES_MAX {
            self.socket.shut(Shutdown::Both);
            return false;
        }
        true
    }
}

/// The head as the client may have sent it.
fn copy_head(request: &MayRequest<'_, '_, '_>, into: &mut Vec<u8>) {
    into.clear();
    for piece in [request.method(), " ", request.path(), " HTTP/1."] {
        into.extend_from_slice(piece.as_bytes());
    }
    into.extend_from_slice(if request.version() == 0 { b"0\r\n" } else { b"1\r\n" });
    for header in request.headers() {
        into.extend_from_slice(header.name.as_bytes());
        into.extend_from_slice(b": ");
        into.extend_from_slice(header.value);
        into.extend_from_slice(b"\r\n");
    }
    into.extend_from_slice(b"\r\n");
}
