//! The native engine with a test service, over each poller: behaviour that no route of sigmad shows.

#![allow(clippy::disallowed_methods, reason = "tests bound their waits on real sockets")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::may::LIMITS;
use sigmad::http::Limits;
use sigmad::http::budget::ConnectionBudget;
use sigmad::http::counters::HttpCounters;
use sigmad::http::listen::listeners;
use sigmad::http::message::{
    Request, Responder, Response, ResponseWriter, STREAM_QUEUE_BYTES_MAX, Service, StreamSendError,
    StreamWriter,
};
use sigmad::http::poller::Poller;
use sigmad::http::poller::epoll::EpollPoller;
use sigmad::http::poller::uring::UringPoller;
use sigmad::http::stages::StageTimer;
use sigmad::http::worker::{Worker, WorkerHandle};
use sigmad_clock::{self, Now};

const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than a client of a test ever stands still.
const WRITE_STALL_MS: u64 = 60_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum PollerKind {
    Epoll,
    IoUring,
}

/// Each test with each poller.
macro_rules! with_each_poller {
    ($($test:ident,)*) => {
        mod epoll {
            $(#[test]
            fn $test() {
                super::$test(super::PollerKind::Epoll);
            })*
        }

        mod io_uring {
            $(#[test]
            fn $test() {
                match sigmad::http::poller::uring::UringPoller::probe() {
                    Ok(()) => super::$test(super::PollerKind::IoUring),
                    Err(error) => eprintln!("not run: no io_uring here: {error}"),
                }
            })*
        }
    };
}

with_each_poller! {
    a_round_is_called_before_it_is_answered,
    a_request_behind_a_deferred_one_waits,
    bytes_that_a_client_sends_are_no_progress_of_what_it_does_not_read,
    a_client_that_reads_slowly_is_progress,
    a_dropped_responder_answers_500,
    a_half_closed_client_gets_its_late_response_and_then_the_end,
    a_stream_arrives_in_chunks_and_the_connection_stays_open,
    a_slow_client_fills_its_own_queue_and_delays_no_other,
    a_stream_writer_learns_that_its_client_has_gone,
    http10_streams_end_with_the_connection,
    an_idle_connection_may_still_send_a_request_while_draining,
    what_follows_a_closing_request_cuts_no_answer,
    a_drain_cuts_no_answer,
    a_client_that_never_stops_sending_is_closed,
    a_client_that_sends_to_a_full_socket_learns_that_it_is_closed,
    of_large_bodies_one_is_called_in_a_round,
}

/// `/now` responds at once; `/later` and `/stream` pass their responder to the test.
struct TestService {
    responders: mpsc::Sender<Responder>,
    in_round: usize,
    log: mpsc::Sender<String>,
}

impl Service for TestService {
    fn call(&mut self, request: Request<'_>, answer: &mut dyn ResponseWriter) {
        self.in_round += 1;
        match request.path {
            "/now" => answer.send(200, "text/plain", &[], request.body),
            _ => self.responders.send(answer.defer()).expect("the test receives"),
        }
    }

    fn round_called(&mut self, _now: Now, _stages: StageTimer<'_>) {
        let _ = self.log.send(format!("called {}", self.in_round));
        self.in_round = 0;
    }

    fn round_answered(&mut self, _elapsed_ns: u64) {
        let _ = self.log.send("answered".into());
    }
}

struct Engine {
    address: SocketAddr,
    responders: mpsc::Receiver<Responder>,
    log: mpsc::Receiver<String>,
    handle: Arc<WorkerHandle>,
    counters: Arc<HttpCounters>,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn engine(poller: PollerKind) -> Engine {
    engine_with_stall(poller, WRITE_STALL_MS)
}

fn free_listener() -> (TcpListener, SocketAddr) {
    let any = "127.0.0.1:0".parse().expect("an address");
    let listener = listeners(any, 1).expect("a free port").remove(0);
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

fn engine_with_stall(poller: PollerKind, write_stall_ms: u64) -> Engine {
    let limits = Limits { write_stall_ms, drain_idle_ms: 60_000, ..LIMITS };
    let (listener, address) = free_listener();
    let (responder_sender, responders) = mpsc::channel();
    let (log_sender, log) = mpsc::channel();
    let counters = Arc::new(HttpCounters::default());
    let service = TestService { responders: responder_sender, in_round: 0, log: log_sender };
    let budget = Arc::new(ConnectionBudget::new(limits.memory_bytes_max));
    let parts = (limits, budget, counters.clone(), service);
    let (handle, thread) = match poller {
        PollerKind::Epoll => run(EpollPoller::new([listener]).expect("an epoll instance"), parts),
        PollerKind::IoUring => run(UringPoller::new([listener]).expect("a ring"), parts),
    };
    Engine { address, responders, log, handle, counters, thread: Some(thread) }
}

type Parts = (Limits, Arc<ConnectionBudget>, Arc<HttpCounters>, TestService);

fn run<P>(poller: P, parts: Parts) -> (Arc<WorkerHandle>, std::thread::JoinHandle<()>)
where
    P: Poller<Socket: Send> + Send + 'static,
{
    let (limits, budget, counters, service) = parts;
    let worker = Worker::new(poller, limits, budget, counters, sigmad_clock::start(), service);
    let handle = worker.handle();
    (handle, std::thread::spawn(move || worker.run().expect("it drains")))
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.handle.drain(Duration::ZERO);
        self.thread.take().expect("once").join().expect("the worker ends");
    }
}

impl Engine {
    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        socket
    }

    fn ask(&self, path: &str) -> TcpStream {
        let mut socket = self.connect();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
        socket
    }

    fn responder(&self) -> Responder {
        self.responders.recv_timeout(PATIENCE).expect("a request")
    }

    fn stream(&self) -> (TcpStream, StreamWriter) {
        let socket = self.ask("/stream");
        (socket, self.responder().stream(response(b"first")))
    }
}

fn response(body: &[u8]) -> Response {
    Response { status: 200, content_type: "text/plain", fields: Vec::new(), body: body.to_vec() }
}

fn read_until(socket: &mut TcpStream, end: &[u8]) -> String {
    let mut seen = Vec::new();
    let mut buffer = [0; 65536];
    while !seen.ends_with(end) {
        let length = match socket.read(&mut buffer) {
            // The end of a ring that this thread has made interrupts its next read.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            length => length.expect("an answer in time"),
        };
        assert!(length > 0, "ended after {:?}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8(seen).expect("text")
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn a_round_is_called_before_it_is_answered(poller: PollerKind) {
    let engine = engine(poller);
    let mut socket = engine.connect();
    socket
        .write_all(&b"POST /now HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na".repeat(3))
        .expect("it reads");
    read_until(&mut socket, b"\r\n\r\na");
    assert_eq!(engine.log.recv_timeout(PATIENCE).expect("a round"), "called 3");
    assert_eq!(engine.log.recv_timeout(PATIENCE).expect("a round"), "answered");
}

fn a_request_behind_a_deferred_one_waits(poller: PollerKind) {
    let engine = engine(poller);
    let mut socket = engine.connect();
    let later = "GET /later HTTP/1.1\r\nHost: x\r\n\r\n";
    let now = "POST /now HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nnow";
    write!(socket, "{later}{now}{later}{now}").expect("it reads");
    for _ in 0..2 {
        engine.responder().send(response(b"later"));
        let text = read_until(&mut socket, b"\r\n\r\nnow");
        assert!(text.contains("\r\n\r\nlaterHTTP/1.1 200 OK"), "{text}");
    }
}

fn bytes_that_a_client_sends_are_no_progress_of_what_it_does_not_read(poller: PollerKind) {
    let engine = engine_with_stall(poller, 1_000);
    let socket = engine.ask("/later");
    // More than any kernel buffers.
    engine.responder().send(response(&vec![b'x'; 16 << 20]));
    wait_until("a client that sends and does not read is disconnected", || {
        // Each byte is an event. Err: disconnected.
        let _ = (&socket).write_all(b"G");
        engine.counters.closed_stalled_total.get() == 1
    });
}

fn a_client_that_reads_slowly_is_progress(poller: PollerKind) {
    let engine = engine_with_stall(poller, 5_000);
    let mut socket = engine.ask("/later");
    engine.responder().send(response(&vec![b'x'; 8 << 20]));
    let mut part = vec![0; 512 << 10];
    for _ in 0..15 {
        // Longer than the stall in total, and each pause is far from it.
        std::thread::sleep(Duration::from_millis(400));
        socket.read_exact(&mut part).expect("the response goes on");
    }
    assert_eq!(engine.counters.closed_stalled_total.get(), 0);
}

fn a_dropped_responder_answers_500(poller: PollerKind) {
    let engine = engine(poller);
    let mut socket = engine.ask("/later");
    drop(engine.responder());
    assert!(read_until(&mut socket, b"}}").starts_with("HTTP/1.1 500 "));
}

fn a_half_closed_client_gets_its_late_response_and_then_the_end(poller: PollerKind) {
    let engine = engine(poller);
    let mut socket = engine.ask("/later");
    let responder = engine.responder();
    socket.shutdown(std::net::Shutdown::Write).expect("open");
    responder.send(response(b"late"));
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("an answer, then the end");
    assert!(text.ends_with("\r\n\r\nlate"), "{text}");
}

fn a_stream_arrives_in_chunks_and_the_connection_stays_open(poller: PollerKind) {
    let engine = engine(poller);
    let (mut socket, writer) = engine.stream();
    read_until(&mut socket, b"first\r\n");
    writer.send(b"second".to_vec()).expect("room");
    assert_eq!(read_until(&mut socket, b"second\r\n"), "6\r\nsecond\r\n");
    drop(writer);
    assert_eq!(read_until(&mut socket, b"\r\n\r\n"), "0\r\n\r\n");
    socket
        .write_all(b"POST /now HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nnext")
        .expect("open");
    read_until(&mut socket, b"\r\n\r\nnext");
}

fn a_slow_client_fills_its_own_queue_and_delays_no_other(poller: PollerKind) {
    let engine = engine(poller);
    let (mut socket, writer) = engine.stream();
    let part = vec![b'x'; 16 * 1024];
    assert!(STREAM_QUEUE_BYTES_MAX > part.len());
    wait_until("the queue is full", || {
        let mut neighbour = engine.connect();
        neighbour
            .write_all(b"POST /now HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok")
            .expect("it reads");
        read_until(&mut neighbour, b"\r\n\r\nok");
        // The worker has tried to write what was queued before.
        let is_full = writer.send(part.clone()) == Err(StreamSendError::Full);
        while !is_full && writer.send(part.clone()).is_ok() {}
        is_full
    });
    // The room is counted after the write: the last bytes may be read before.
    socket.set_nonblocking(true).expect("a socket");
    let mut buffer = vec![0; 1024 * 1024];
    wait_until("the client has read, and there is room", || {
        let _ = socket.read(&mut buffer);
        writer.send(part.clone()) != Err(StreamSendError::Full)
    });
}

fn a_stream_writer_learns_that_its_client_has_gone(poller: PollerKind) {
    let engine = engine(poller);
    let (socket, writer) = engine.stream();
    drop(socket);
    wait_until("closed", || writer.is_closed());
    assert_eq!(writer.send(b"x".to_vec()), Err(StreamSendError::Closed));
    // A responder whose client has gone before the stream starts.
    let socket = engine.ask("/stream");
    let responder = engine.responder();
    drop(socket);
    let (mut other, _writer) = engine.stream();
    read_until(&mut other, b"first\r\n");
    let writer = responder.stream(response(b""));
    wait_until("closed", || writer.send(b"x".to_vec()) == Err(StreamSendError::Closed));
}

fn http10_streams_end_with_the_connection(poller: PollerKind) {
    let engine = engine(poller);
    let mut socket = engine.connect();
    socket.write_all(b"GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").expect("it reads");
    drop(engine.responder().stream(response(b"all")));
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("the answer, then the end");
    assert!(text.contains("\r\nconnection: close\r\n") && text.ends_with("\r\n\r\nall"), "{text}");
}

fn an_idle_connection_may_still_send_a_request_while_draining(poller: PollerKind) {
    let engine = engine(poller);
    let mut socket = engine.connect();
    wait_until("accepted", || engine.counters.open.get() == 1);
    engine.handle.drain(Duration::from_secs(5));
    wait_until("not listening", || TcpStream::connect(engine.address).is_err());
    socket
        .write_all(b"POST /now HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok")
        .expect("open");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("the answer, then the end");
    assert!(text.contains("\r\nconnection: close\r\n") && text.ends_with("ok"), "{text}");
}

/// Bytes of an answer that stay in the kernel while the client does not read.
const LARGE_BYTES: usize = 134 * 1024;
/// Of the client's receive buffer: most of the answer waits on the server's side.
const NARROW_BYTES: usize = 8 * 1024;

/// A client that asks, sends more behind its request once it is answered, and only then reads.
fn read_after_sending_more(engine: &Engine, request: &str, behind: &[u8]) -> Vec<u8> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    socket.set_recv_buffer_size(NARROW_BYTES).expect("a socket");
    socket.connect(&engine.address.into()).expect("it listens");
    let mut socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    write!(socket, "{request}").expect("it reads");
    socket.write_all(&vec![b'x'; LARGE_BYTES]).expect("it reads");
    while engine.log.recv_timeout(PATIENCE).expect("a round") != "answered" {}
    socket.write_all(behind).expect("open");
    let mut all = Vec::new();
    // The reset of the defect arrives while the client reads.
    socket.read_to_end(&mut all).expect("the whole answer, then the end");
    all
}

fn what_follows_a_closing_request_cuts_no_answer(poller: PollerKind) {
    let engine = engine(poller);
    for (line, field) in [("HTTP/1.1", "Connection: close\r\n"), ("HTTP/1.0", "")] {
        let request =
            format!("POST /now {line}\r\nHost: x\r\n{field}Content-Length: {LARGE_BYTES}\r\n\r\n");
        for behind in [&b"\r\n"[..], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
            for _ in 0..5 {
                let answer = read_after_sending_more(&engine, &request, behind);
                assert!(answer.len() > LARGE_BYTES, "{} bytes", answer.len());
            }
        }
    }
    wait_until("all are closed", || engine.counters.open.get() == 0);
}

fn a_drain_cuts_no_answer(poller: PollerKind) {
    let engine = engine(poller);
    let mut socket = engine.ask("/later");
    let responder = engine.responder();
    engine.handle.drain(PATIENCE);
    wait_until("not listening", || TcpStream::connect(engine.address).is_err());
    responder.send(response(&vec![b'x'; LARGE_BYTES]));
    let mut all = vec![0];
    socket.read_exact(&mut all).expect("the start of the answer");
    socket.write_all(b"\r\n").expect("open");
    socket.read_to_end(&mut all).expect("the whole answer, then the end");
    assert!(all.len() > LARGE_BYTES, "{} bytes", all.len());
}

fn a_client_that_never_stops_sending_is_closed(poller: PollerKind) {
    let engine = engine(poller);
    let mut socket = engine.connect();
    socket.write_all(b"POST /now HTTP/1.0\r\nContent-Length: 0\r\n\r\n").expect("it reads");
    let noise = vec![b'x'; 1024 * 1024];
    while socket.write_all(&noise).is_ok() {}
    wait_until("it is closed", || engine.counters.open.get() == 0);
}

/// What it sends fills the memory of the kernel, and then the connection is closed, unread.
fn a_client_that_sends_to_a_full_socket_learns_that_it_is_closed(poller: PollerKind) {
    let (listener, address) = free_listener();
    match poller {
        PollerKind::Epoll => {
            learns_of_a_close(EpollPoller::new([listener]).expect("an epoll instance"), address);
        }
        PollerKind::IoUring => {
            learns_of_a_close(UringPoller::new([listener]).expect("a ring"), address);
        }
    }
}

fn learns_of_a_close(mut poller: impl Poller, address: SocketAddr) {
    let mut client = TcpStream::connect(address).expect("it listens");
    let deadline = Instant::now() + PATIENCE;
    let mut server = loop {
        poller.wait(0, 10).expect("a poller");
        if let Some(accepted) = poller.accept().expect("a connection") {
            break accepted.socket;
        }
        assert!(Instant::now() < deadline, "nobody connects");
    };
    poller.register(&mut server, 0).expect("room");
    poller.wait(0, 0).expect("a poller");
    // As before a connection is closed in stages.
    poller.shutdown_write(&mut server).expect("connected");
    client.set_nonblocking(true).expect("a socket");
    let noise = vec![b'x'; 64 * 1024];
    let (mut sent, mut full) = (0, 0);
    while full < 10 {
        match client.write(&noise) {
            Ok(bytes) => (sent, full) = (sent + bytes, 0),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                full += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    assert!(sent > 0, "the kernel takes some of it");
    poller.close(server);
    loop {
        poller.wait(0, 10).expect("a poller");
        match client.write(&noise) {
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break,
            _ => assert!(Instant::now() < deadline, "it waits for room"),
        }
    }
}

fn of_large_bodies_one_is_called_in_a_round(poller: PollerKind) {
    use std::io::Write as _;
    const BODIES: usize = 8;
    let engine = engine(poller);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&vec![b' '; 1024 * 1024]).expect("memory");
    let packed = encoder.finish().expect("memory");
    let coded = [
        format!(
            "POST /now HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            packed.len()
        )
        .into_bytes(),
        packed.clone(),
    ]
    .concat();
    let chunked = [
        b"POST /now HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
        format!("{:x}\r\n", packed.len()).as_bytes(),
        &packed,
        b"\r\n0\r\n\r\n",
    ]
    .concat();
    // Whatever the connection: one pipelines, others send one each.
    let mut sockets: Vec<_> = (0..4).map(|_| engine.connect()).collect();
    sockets[0].write_all(&[coded.repeat(2), chunked.repeat(2)].concat()).expect("it reads");
    sockets[1].write_all(&[chunked.clone(), coded.clone()].concat()).expect("it reads");
    sockets[2].write_all(&coded).expect("it reads");
    sockets[3].write_all(&chunked).expect("it reads");
    let readers: Vec<_> = sockets
        .into_iter()
        .map(|mut socket| {
            std::thread::spawn(move || {
                socket.shutdown(std::net::Shutdown::Write).expect("open");
                let mut all = Vec::new();
                socket.read_to_end(&mut all).expect("answers, then the end");
                all.len() / (1024 * 1024)
            })
        })
        .collect();
    let answered: usize = readers.into_iter().map(|reader| reader.join().expect("a count")).sum();
    assert_eq!(answered, BODIES);
    let rounds: Vec<_> = engine.log.try_iter().filter(|line| line.starts_with("called")).collect();
    assert_eq!(rounds, vec!["called 1"; BODIES]);
}
