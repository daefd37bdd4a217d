//! The may engine with a toy service: what stands around may_minihttp so that it can be compared.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use sigmad::http::Limits;
use sigmad::http::counters::HttpCounters;
use sigmad::http::head::RequestError;
use sigmad::http::may::{self, MayEngine};
use sigmad::http::message::{Request, Responder, Response, ResponseWriter, Service};
use sigmad::http::stages::StageTimer;
use sigmad_clock::{self, Now};

const PATIENCE: Duration = Duration::from_secs(60);
const LARGE_BYTES: usize = 6 * 1024 * 1024;

/// Those of both engines' tests, but for what a test is about.
pub const LIMITS: Limits = Limits {
    head_bytes_max: 16 * 1024,
    body_bytes_max: 1024 * 1024,
    connections_max: 100,
    memory_bytes_max: 64 << 20,
    read_timeout_ms: 10_000,
    body_rate_min: 1024,
    write_stall_ms: 30_000,
    idle_timeout_ms: 75_000,
    drain_idle_ms: 1_000,
    cors: None,
};

/// `/echo` answers with the body, `/large` with [`LARGE_BYTES`]; `/later` passes its responder to the
/// test; `/panic` panics.
struct Toy {
    responders: mpsc::Sender<Responder>,
    calls: mpsc::Sender<String>,
    has_unhanded: bool,
}

impl Service for Toy {
    fn call(&mut self, request: Request<'_>, answer: &mut dyn ResponseWriter) {
        assert!(request.client.is_local());
        let _ = self.calls.send(format!("{} {}", request.path, request.query));
        match request.path {
            "/later" => self.responders.send(answer.defer()).expect("the test listens"),
            "/large" => answer.send(200, "text/plain", &[], &vec![b'x'; LARGE_BYTES]),
            "/panic" => panic!("as the test asked"),
            _ => answer.send(200, "text/plain", &[("X-Toy", "1".into())], request.body),
        }
        self.has_unhanded = true;
    }

    fn round_called(&mut self, _now: Now, _stages: StageTimer<'_>) {
        assert!(std::mem::take(&mut self.has_unhanded));
    }

    fn round_answered(&mut self, _elapsed_ns: u64) {
        assert!(!self.has_unhanded);
    }
}

struct Engine {
    running: Option<MayEngine<Toy>>,
    address: SocketAddr,
    responders: mpsc::Receiver<Responder>,
    calls: mpsc::Receiver<String>,
    counters: Arc<HttpCounters>,
}

fn engine(limits: Limits) -> Engine {
    let (responder_sender, responders) = mpsc::channel();
    let (call_end, calls) = mpsc::channel();
    let toy = || Toy {
        responders: responder_sender.clone(),
        calls: call_end.clone(),
        has_unhanded: false,
    };
    let counters = Arc::new(HttpCounters::default());
    let any = "127.0.0.1:0".parse().expect("an address");
    let running =
        may::start(any, vec![toy(), toy()], limits, false, counters.clone(), sigmad_clock::start())
            .expect("a free port");
    Engine { address: running.address(), running: Some(running), responders, calls, counters }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            assert_eq!(running.stop(Duration::ZERO).len(), 2);
        }
    }
}

impl Engine {
    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        socket.set_write_timeout(Some(PATIENCE)).expect("a socket");
        socket
    }

    /// Everything the engine says to `text` until it closes.
    fn last_words(&self, text: &str) -> String {
        let mut socket = self.connect();
        socket.write_all(text.as_bytes()).expect("it reads");
        rest(&mut socket)
    }

    fn refused(&self, refusal: RequestError) -> u64 {
        self.counters.refusals[refusal as usize].get()
    }
}

fn post(body: &str) -> String {
    format!("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
}

fn rest(socket: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    match socket.read_to_end(&mut seen) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("not closed: {error}, after {:?}", String::from_utf8_lossy(&seen)),
    }
    String::from_utf8(seen).expect("text")
}

fn head_of(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        let length = socket.read(&mut byte).expect("an answer in time");
        assert!(length > 0, "ended after {:?}", String::from_utf8_lossy(&head));
        head.extend(byte);
    }
    String::from_utf8(head).expect("text")
}

/// One answer with its length: the head and the body.
fn answer(socket: &mut TcpStream) -> (String, String) {
    let head = head_of(socket);
    let lower = head.to_ascii_lowercase();
    let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    let mut body = vec![0; length.and_then(|text| text.parse().ok()).expect("a length")];
    socket.read_exact(&mut body).expect("a body in time");
    (head, String::from_utf8(body).expect("text"))
}

#[test]
fn requests_follow_one_another_and_each_other() {
    let engine = engine(LIMITS);
    let mut socket = engine.connect();
    for body in ["one", "", "three"] {
        socket.write_all(post(body).as_bytes()).expect("it reads");
        let (head, echo) = answer(&mut socket);
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("\r\nX-Toy: 1\r\n"), "{head}");
        assert_eq!(echo, body);
    }
    let many: String = (0..500).map(|i| post(&i.to_string())).collect();
    socket.write_all(many.as_bytes()).expect("it reads");
    for i in 0..500 {
        assert_eq!(answer(&mut socket).1, i.to_string());
    }
    let seen: Vec<_> = engine.calls.try_iter().collect();
    assert_eq!(seen.len(), 503);
}

#[test]
fn a_head_and_then_its_body_with_many_requests_behind_it_do_not_stall() {
    let engine = engine(LIMITS);
    for requests in [300, 3000] {
        let mut socket = engine.connect();
        let many: String = (0..requests).map(|i| post(&i.to_string())).collect();
        let (head, behind) = many.split_once("\r\n\r\n").expect("a head");
        write!(socket, "{head}\r\n\r\n").expect("it reads");
        // Long enough for the head to be read alone; a shorter pause makes the test weaker, not wrong.
        std::thread::sleep(Duration::from_millis(30));
        let mut writer = socket.try_clone().expect("a descriptor");
        let behind = behind.to_owned();
        let writing = std::thread::spawn(move || writer.write_all(behind.as_bytes()));
        for i in 0..requests {
            assert_eq!(answer(&mut socket).1, i.to_string());
        }
        writing.join().expect("no panic").expect("it reads");
    }
}

#[test]
fn connections_close_when_they_should() {
    let engine = engine(LIMITS);
    let closed = engine.last_words("GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(closed.contains("connection: close"), "{closed}");
    assert!(engine.last_words("GET /echo HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 200 "));
    let mut socket = engine.connect();
    for _ in 0..2 {
        socket
            .write_all(b"GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            .expect("it reads");
        assert!(answer(&mut socket).0.contains("connection: keep-alive"));
    }
    let behind =
        format!("GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n{}", get("/smuggled"));
    engine.last_words(&behind);
    assert!(!engine.calls.try_iter().any(|call| call.contains("smuggled")));
}

#[test]
fn a_large_last_answer_arrives_whole() {
    let engine = engine(LIMITS);
    for request in [
        "GET /large HTTP/1.0\r\n\r\n",
        "GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ] {
        let mut socket = engine.connect();
        socket.write_all(request.as_bytes()).expect("it reads");
        let head = head_of(&mut socket);
        assert!(head.contains("connection: close"), "{head}");
        assert_eq!(rest(&mut socket).len(), LARGE_BYTES);
    }
}

#[test]
fn what_is_not_sound_is_refused_and_not_run() {
    let engine = engine(LIMITS);
    let smuggled = get("/smuggled");
    let length = |value: &str| {
        format!("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length:{value}\r\n\r\n{smuggled}")
    };
    let cases = [
        (length(" x"), 400),
        (length(" -1"), 400),
        (length(" +1"), 400),
        (length(""), 400),
        (length(" 99999999999999999999999"), 400),
        (length(" 1\r\nContent-Length: 2"), 400),
        (length(" 3\r\nTransfer-Encoding: chunked"), 400),
        (length(" 1048577"), 413),
        (
            format!(
                "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n{smuggled}"
            ),
            501,
        ),
        (
            format!("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n{smuggled}"),
            501,
        ),
        (format!("POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n{smuggled}"), 400),
        (
            format!(
                "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Encoding: br\r\n\r\nabc{smuggled}"
            ),
            415,
        ),
        (
            format!(
                "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Encoding: gzip\r\n\r\nabc{smuggled}"
            ),
            400,
        ),
        (
            format!(
                "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: more\r\nContent-Length: 3\r\n\r\nabc{smuggled}"
            ),
            417,
        ),
        (format!("GET /echo HTTP/1.1\r\n\r\n{smuggled}"), 400),
        (format!("GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n{smuggled}"), 400),
        (format!("GET /echo HTTP/1.1\r\nHost: a/b\r\n\r\n{smuggled}"), 400),
        (format!("GET /echo HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(17_000)), 431),
    ];
    for (text, status) in &cases {
        let said = engine.last_words(text);
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{text:?}: {said:?}");
        assert_eq!(said.matches("content-length: ").count(), 1, "{text:?}: {said:?}");
        // The same on a connection that has been used: the refusal still arrives, and alone.
        let mut socket = engine.connect();
        socket.write_all(post("first").as_bytes()).expect("it reads");
        assert_eq!(answer(&mut socket).1, "first");
        socket.write_all(text.as_bytes()).expect("it reads");
        let said = rest(&mut socket);
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{text:?}: {said:?}");
    }
    assert!(!engine.calls.try_iter().any(|call| call.contains("smuggled")));
    assert_eq!(engine.refused(RequestError::ContentLength), 12);
    assert_eq!(engine.refused(RequestError::BodyTooLarge), 2);
}

#[test]
fn targets_are_read_as_by_the_native_engine() {
    let engine = engine(LIMITS);
    let mut socket = engine.connect();
    socket.write_all(b"GET http://x/echo?a=b HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
    answer(&mut socket);
    assert_eq!(engine.calls.recv_timeout(PATIENCE).expect("a call"), "/echo a=b");
}

#[test]
fn head_has_the_length_and_no_body() {
    let engine = engine(LIMITS);
    let mut socket = engine.connect();
    // On a used connection: whether earlier answers have left is counted to the byte.
    for body in ["a", "bb", &"c".repeat(5000)] {
        socket.write_all(post(body).as_bytes()).expect("it reads");
        answer(&mut socket);
    }
    socket.write_all(b"HEAD /large HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
    let said = rest(&mut socket);
    assert!(said.contains(&format!("content-length: {LARGE_BYTES}\r\n")), "{said}");
    assert!(said.ends_with("\r\n\r\n"), "{said}");
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it() {
    let engine = engine(LIMITS);
    let mut socket = engine.connect();
    for body in ["one", "two"] {
        let text = post(body).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
        let (head, body) = text.split_at(text.len() - 3);
        socket.write_all(head.as_bytes()).expect("it reads");
        assert_eq!(head_of(&mut socket), "HTTP/1.1 100 Continue\r\n\r\n");
        socket.write_all(body.as_bytes()).expect("it reads");
        assert_eq!(answer(&mut socket).1, body);
    }
}

#[test]
fn coded_bodies_are_unpacked() {
    let engine = engine(LIMITS);
    let packed = zstd::encode_all(&b"unpacked"[..], 1).expect("memory");
    let mut socket = engine.connect();
    let length = packed.len();
    write!(
        socket,
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Encoding: zstd\r\nContent-Length: {length}\r\n\r\n"
    )
    .expect("it reads");
    socket.write_all(&packed).expect("it reads");
    assert_eq!(answer(&mut socket).1, "unpacked");
}

#[test]
fn a_body_in_many_pieces_arrives_whole() {
    let engine = engine(LIMITS);
    let body: String = (0..100_000).map(|i: u32| char::from(b'a' + (i % 26) as u8)).collect();
    let mut socket = engine.connect();
    for piece in post(&body).as_bytes().chunks(3001) {
        socket.write_all(piece).expect("it reads");
    }
    let (head, echo) = answer(&mut socket);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}{echo}");
    let differs = echo.bytes().zip(body.bytes()).position(|(a, b)| a != b);
    assert!(echo == body, "{} bytes, first difference at {differs:?}", echo.len());
    socket.write_all(post("next").as_bytes()).expect("it reads");
    assert_eq!(answer(&mut socket).1, "next");
}

#[test]
fn what_does_not_arrive_is_answered_or_closed() {
    let engine = engine(Limits { read_timeout_ms: 1000, idle_timeout_ms: 1500, ..LIMITS });
    // Cut short: never a 200 for a part of a body. The pause parts the end from the request.
    let mut socket = engine.connect();
    socket.write_all(&post("0123456789").as_bytes()[..60]).expect("it reads");
    std::thread::sleep(Duration::from_millis(30));
    socket.shutdown(Shutdown::Write).expect("a socket");
    assert!(rest(&mut socket).starts_with("HTTP/1.1 400 "));
    // A body that stops, a head that stops.
    let text = post("0123456789");
    assert!(engine.last_words(&text[..text.len() - 1]).starts_with("HTTP/1.1 408 "));
    assert!(engine.last_words("GET /echo HTTP/1.1\r\nHos").starts_with("HTTP/1.1 408 "));
    // Nothing at all, and nothing after a request.
    assert_eq!(rest(&mut engine.connect()), "");
    let idle = engine.last_words(&post("x"));
    assert!(idle.starts_with("HTTP/1.1 200 ") && idle.ends_with("\r\n\r\nx"), "{idle}");
    assert_eq!(engine.counters.closed_idle_total.get(), 2);
    assert_eq!(engine.refused(RequestError::Timeout), 2);
}

#[test]
fn an_endless_head_is_cut() {
    let engine = engine(LIMITS);
    let mut socket = engine.connect();
    let mut writer = socket.try_clone().expect("a descriptor");
    let writing = std::thread::spawn(move || {
        writer.write_all(b"GET /echo HTTP/1.1\r\nHost: x\r\nA: ").expect("it reads");
        while writer.write_all(&[b'a'; 4096]).is_ok() {}
    });
    let said = rest(&mut socket);
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 431 "), "{said}");
    // The end may have arrived while the window was shut: the client gives up, too.
    let _ = socket.shutdown(Shutdown::Both);
    writing.join().expect("no panic");
    assert_eq!(engine.refused(RequestError::HeadTooLarge), 1);
}

#[test]
fn a_ticket_is_answered_from_another_thread() {
    let engine = engine(LIMITS);
    let mut sockets: Vec<_> = (0..4).map(|_| engine.connect()).collect();
    for socket in &mut sockets {
        socket.write_all(get("/later").as_bytes()).expect("it reads");
    }
    // More responders than threads, and the threads are free.
    let responders: Vec<_> =
        (0..4).map(|_| engine.responders.recv_timeout(PATIENCE).expect("a responder")).collect();
    let mut other = engine.connect();
    other.write_all(post("meanwhile").as_bytes()).expect("it reads");
    assert_eq!(answer(&mut other).1, "meanwhile");
    for responder in responders {
        responder.send(Response {
            status: 202,
            content_type: "text/plain",
            fields: vec![("Retry-After", "7".into())],
            body: b"late".to_vec(),
        });
    }
    for socket in &mut sockets {
        let (head, body) = answer(socket);
        assert!(head.starts_with("HTTP/1.1 202 Accepted\r\n"), "{head}");
        assert!(head.contains("\r\nRetry-After: 7\r\n"), "{head}");
        assert_eq!(body, "late");
        socket.write_all(get("/later").as_bytes()).expect("it reads");
    }
    for _ in 0..4 {
        drop(engine.responders.recv_timeout(PATIENCE).expect("a responder"));
    }
    for socket in &mut sockets {
        assert!(answer(socket).0.starts_with("HTTP/1.1 500 "));
    }
}

#[test]
fn a_streamed_answer_leaves_as_it_comes() {
    let engine = engine(LIMITS);
    let mut socket = engine.connect();
    socket.write_all(get("/later").as_bytes()).expect("it reads");
    let responder = engine.responders.recv_timeout(PATIENCE).expect("a responder");
    let head = Response {
        status: 200,
        content_type: "text/plain",
        fields: Vec::new(),
        body: b"one".to_vec(),
    };
    let stream = responder.stream(head.clone());
    let said = head_of(&mut socket);
    assert!(said.contains("transfer-encoding: chunked"), "{said}");
    let mut first = [0; 8];
    socket.read_exact(&mut first).expect("the first part");
    assert_eq!(&first, b"3\r\none\r\n");
    stream.send(b"two".to_vec()).expect("a client");
    drop(stream);
    assert_eq!(rest(&mut socket), "3\r\ntwo\r\n0\r\n\r\n");

    let mut socket = engine.connect();
    socket.write_all(get("/later").as_bytes()).expect("it reads");
    let stream = engine.responders.recv_timeout(PATIENCE).expect("a responder").stream(head);
    drop(socket);
    for _ in 0..2000 {
        if stream.send(b"more".to_vec()).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the writer never learnt that its client has gone");
}

#[test]
fn past_the_limit_the_oldest_idle_connection_goes_else_503() {
    let engine = engine(Limits { connections_max: 3, ..LIMITS });
    let mut held: Vec<_> = (0..3).map(|_| engine.connect()).collect();
    for socket in &mut held {
        socket.write_all(post("x").as_bytes()).expect("it reads");
        answer(socket);
    }
    let mut fourth = engine.connect();
    fourth.write_all(post("y").as_bytes()).expect("it reads");
    assert_eq!(answer(&mut fourth).1, "y");
    assert_eq!(rest(&mut held[0]), "");
    held[0] = fourth;
    for socket in &mut held {
        socket.write_all(get("/later").as_bytes()).expect("it reads");
    }
    let responders: Vec<_> =
        (0..3).map(|_| engine.responders.recv_timeout(PATIENCE).expect("a responder")).collect();
    for _ in 0..100 {
        let mut refused = engine.connect();
        // Past sixteen at a time they are closed without a word.
        let said = rest(&mut refused);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 503 "), "{said:?}");
    }
    assert_eq!(engine.refused(RequestError::TooManyConnections), 100);
    drop(responders);
    for socket in &mut held {
        assert!(answer(socket).0.starts_with("HTTP/1.1 500 "));
    }
}

#[test]
fn a_client_that_never_reads_is_held_back_and_loses_nothing() {
    const REQUESTS: usize = 200_000;
    let engine = engine(LIMITS);
    let mut socket = engine.connect();
    let mut writer = socket.try_clone().expect("a descriptor");
    let asked = get("/echo");
    let (end, sent) = mpsc::channel();
    let writing = std::thread::spawn(move || {
        let thousand = asked.repeat(1000);
        for _ in 0..REQUESTS / 1000 {
            writer.write_all(thousand.as_bytes()).expect("it reads in the end");
        }
        end.send(()).expect("the test listens");
    });
    // 30 MB of answers to a client that takes none: the engine must stop asking for more.
    let held = sent.recv_timeout(Duration::from_millis(1500));
    assert_eq!(held, Err(mpsc::RecvTimeoutError::Timeout), "took everything");
    let called = engine.calls.try_iter().count();
    assert!(called < REQUESTS, "ran everything");
    let mut buffer = vec![0; 1 << 20];
    let mut seen = Vec::new();
    let mut answers = 0;
    while answers < REQUESTS {
        let length = socket.read(&mut buffer).expect("in time");
        assert!(length > 0, "ended after {answers}");
        seen.extend_from_slice(&buffer[..length]);
        let end = seen.windows(4).rposition(|window| window == b"\r\n\r\n").map_or(0, |at| at + 4);
        answers += seen[..end].windows(4).filter(|window| window == b"\r\n\r\n").count();
        seen.drain(..end);
    }
    writing.join().expect("no panic");
}

#[test]
fn a_panic_ends_its_connection_and_no_other() {
    let engine = engine(LIMITS);
    let mut other = engine.connect();
    for _ in 0..4 {
        assert_eq!(engine.last_words(&get("/panic")), "");
        other.write_all(post("alive").as_bytes()).expect("it reads");
        assert_eq!(answer(&mut other).1, "alive");
    }
}

#[test]
fn stopping_finishes_what_is_under_way() {
    let mut engine = engine(LIMITS);
    let mut idle = engine.connect();
    idle.write_all(post("x").as_bytes()).expect("it reads");
    answer(&mut idle);
    let mut busy = engine.connect();
    busy.write_all(get("/later").as_bytes()).expect("it reads");
    let responder = engine.responders.recv_timeout(PATIENCE).expect("a responder");
    let running = engine.running.take().expect("it runs");
    let stopping = std::thread::spawn(move || running.stop(PATIENCE));
    // The idle connection closes, and no new one is taken, while the responder is still out.
    assert_eq!(rest(&mut idle), "");
    assert!(TcpStream::connect(engine.address).is_err());
    assert!(!stopping.is_finished());
    responder.send(Response {
        status: 200,
        content_type: "text/plain",
        fields: Vec::new(),
        body: b"late".to_vec(),
    });
    let (head, body) = answer(&mut busy);
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(body, "late");
    assert_eq!(rest(&mut busy), "");
    assert_eq!(stopping.join().expect("no panic").len(), 2);
}

#[test]
fn stopping_waits_no_longer_than_asked() {
    let mut engine = engine(LIMITS);
    let mut busy = engine.connect();
    busy.write_all(get("/later").as_bytes()).expect("it reads");
    let responder = engine.responders.recv_timeout(PATIENCE).expect("a responder");
    let services = engine.running.take().expect("it runs").stop(Duration::from_millis(50));
    assert_eq!(services.len(), 2);
    assert_eq!(rest(&mut busy), "");
    drop(responder);
}
