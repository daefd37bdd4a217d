//! Unix sockets: who may connect, what becomes of the file, and that they serve as TCP does.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};

use crate::harness::{
    Connection, End, Engine, Family, Launch, Server, SocketDirectory, WAIT, eventually, get, post,
    request,
};
use sigmad::http::listen::unix::UnixSocket;
use sigmad::http::listen::{ListenAddress, Listener};
use sigmad::http::poller::epoll::EpollPoller;
use sigmad::http::poller::{Poller, Wake};

/// A server with the socket of this directory, and TCP.
fn start_at(directory: &SocketDirectory, args: &[&str]) -> Server {
    let address = directory.address();
    let listen = ["--listen", "127.0.0.1:0", "--listen", &address];
    Server::start(Engine::Native, &[&listen, args].concat())
}

/// Why a server with these flags does not start: its exit code and its log.
fn refusal(args: &[&str]) -> (Option<i32>, String) {
    let (code, _, log) = Launch { args, ..Launch::default() }.run();
    (code, log)
}

#[test]
fn both_families_lead_to_the_same_server() {
    let directory = SocketDirectory::default();
    let abstract_name = format!("@sigmad-test-{}", std::process::id());
    let server = start_at(&directory, &["--workers=3", &format!("--listen=unix:{abstract_name}")]);
    let log = server.log_text();
    assert!(log.contains(&directory.address()) && log.contains(&abstract_name), "{log}");
    let mode = fs::metadata(directory.path()).expect("a file").mode();
    assert_eq!(mode & 0o777, 0o660);

    let body = br#"{"rps":1}"#;
    // More than there are workers.
    for _ in 0..10 {
        let mut connection = Connection::open_unix(&directory.path()).expect("connect");
        connection.exchange(&post("/ingest", body)).expect(202);
        connection.exchange(&post("/ingest", body)).expect(202);
    }
    assert_eq!(server.total(), 20);
    let output = curl(&["--abstract-unix-socket", &abstract_name[1..], "http://localhost/livez"]);
    assert!(output.contains("200"), "{output}");
    let (code, log) = server.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(!directory.path().exists(), "the file is removed");
}

/// The status code of curl's request.
fn curl(args: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["--silent", "--max-time", "30", "--write-out", "%{http_code}", "--output", "-"]);
    let output = command.args(args).output().expect("curl is installed");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn curl_speaks_to_it() {
    let directory = SocketDirectory::default();
    let server = start_at(&directory, &[]);
    let path = directory.path();
    let path = path.to_str().expect("text");
    let url = "http://localhost/ingest";
    let sent = curl(&["--unix-socket", path, "--json", r#"{"rps":7}"#, url]);
    assert!(sent.ends_with("202"), "{sent}");
    let line = ["--unix-socket", path, "--data-binary", "load,host=a v=1"];
    let sent = curl(&[&line[..], &["http://localhost/write?db=x"]].concat());
    assert_eq!(sent, "204");
    // Larger than the buffers of the socket, in both directions.
    let samples = vec![r#"{"rps":7}"#; 60_000].join("\n");
    let file = directory.path().with_file_name("samples");
    fs::write(&file, samples).expect("a file");
    let data = format!("@{}", file.display());
    let sent = curl(&["--unix-socket", path, "--data-binary", &data, url]);
    assert!(sent.ends_with("202") || sent.ends_with("503"), "{sent}");
    let seen = curl(&["--unix-socket", path, "http://localhost/stats"]);
    assert!(seen.ends_with("200") && seen.contains("last_rps"), "{seen}");
    drop(server);
}

#[test]
fn a_live_socket_is_refused_and_that_of_a_killed_server_replaced() {
    let directory = SocketDirectory::default();
    let mut first = start_at(&directory, &[]);
    let listen = format!("--listen={}", directory.address());
    let (code, log) = refusal(&["--listen", "127.0.0.1:0", &listen]);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("--listen") && log.contains("another process listens there"), "{log}");
    let mut connection = Connection::open_unix(&directory.path()).expect("the first one serves");
    connection.exchange(&get("/livez")).expect(200);

    first.signal(libc::SIGKILL);
    first.wait_exit(WAIT).expect("it is killed");
    assert!(directory.path().exists() && UnixStream::connect(directory.path()).is_err());
    let second = start_at(&directory, &[]);
    let mut connection = Connection::open_unix(&directory.path()).expect("it was replaced");
    connection.exchange(&get("/livez")).expect(200);
    assert_eq!(second.stop().0, Some(0));
}

#[test]
fn what_is_in_the_way_stays() {
    let directory = SocketDirectory::default();
    fs::write(directory.path(), "precious").expect("a file");
    let (code, log) = refusal(&["--listen", &directory.address()]);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("is no socket"), "{log}");
    assert_eq!(fs::read(directory.path()).expect("it is there"), b"precious");
    // An address that fails later takes the file of an earlier one with it.
    fs::remove_file(directory.path()).expect("it is there");
    let listen = format!("{},unix:/no/such/directory/s", directory.address());
    let (code, log) = refusal(&["--listen", &listen]);
    assert!(code == Some(1) && log.contains("/no/such/directory/s"), "{log}");
    assert!(!directory.path().exists());
}

#[test]
fn settings_that_need_tcp_name_it() {
    for args in [
        &["--engine", "may", "--listen", "unix:@x"][..],
        &["--tls-cert", "x", "--tls-key", "x", "--listen", "unix:@x"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_sigmad")).args(args).output();
        let output = output.expect("the binary runs");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{message}");
        assert!(message.contains(args[0]) && message.contains("--listen"), "{message}");
    }
    let demo =
        Command::new(env!("CARGO_BIN_EXE_sigmad")).args(["demo", "--listen=unix:@x"]).output();
    let demo = demo.expect("the binary runs");
    assert_eq!(demo.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&demo.stderr).contains("--listen of sigmad demo"));
}

#[test]
fn a_process_of_this_machine_is_local_and_a_proxy_is_not() {
    let server = Server::start_on(Family::Unix, &[]);
    let path = "/debug/pprof/cmdline";
    server.get(path).expect(200);
    for fields in [&[("X-Forwarded-For", "192.0.2.1")][..], &[("Origin", "http://evil.example")]] {
        server.ask(&request("GET", path, fields, b"")).expect(403);
    }
    let elsewhere = format!("GET {path} HTTP/1.1\r\nHost: sigmad.example\r\n\r\n");
    server.ask(elsewhere.as_bytes()).expect(403);
}

#[test]
fn its_clients_are_one_address() {
    let args =
        ["--ingest-token", "s3cret", "--log", "debug", "--log-format", "json", "--workers", "1"];
    let server = Server::start_on(Family::Unix, &args);
    let wrong = request("POST", "/ingest", &[("Authorization", "Bearer 0ther")], b"{}");
    for _ in 0..10 {
        server.ask(&wrong).expect(403);
    }
    server.ask(&wrong).error(429);
    let right = request("POST", "/ingest", &[("Authorization", "Bearer s3cret")], br#"{"rps":1}"#);
    assert_eq!(server.ask(&right).accepted(), 1);
    server.wait_for_log(&["wrong token", r#""client":"unix""#]).expect("a line about guesses");
    server.wait_for_log(&["refused", r#""client":"unix""#]).expect("a line about a refusal");
}

#[test]
fn requests_that_have_begun_are_answered_in_a_drain() {
    let directory = SocketDirectory::default();
    let mut server = start_at(&directory, &["--workers=2"]);
    let mut begun = Connection::open_unix(&directory.path()).expect("connect");
    begun.send(
        b"POST /ingest HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
    );
    begun.read().expect("its head has been read").expect(100);
    // More than one round of workers accepts; they wait in the queue of the socket when the drain begins.
    let mut waiting: Vec<_> = (0..50)
        .map(|_| {
            let mut connection = Connection::open_unix(&directory.path()).expect("connect");
            connection.send(&get("/livez"));
            connection
        })
        .collect();
    server.terminate();
    for connection in &mut waiting {
        connection.read().expect("none of them is reset").expect(200);
    }
    eventually("the file is gone", || !directory.path().exists());
    begun.send(br#"{"rps":1}"#);
    let answer = begun.read().expect("an answer");
    assert!(answer.closes());
    assert_eq!(answer.accepted(), 1);
    assert_eq!(begun.read_end(), End::Closed);
    drop(waiting);
    assert_eq!(server.wait_exit(WAIT).and_then(|status| status.code()), Some(0));
}

#[test]
fn a_client_that_reads_late_gets_all_of_it() {
    let server = Server::start_on(Family::Unix, &["--workers=1"]);
    let mut late = server.connect();
    // Far more than the kernel takes for a client that does not read.
    let requests = get("/openapi.json").repeat(100);
    late.send(&requests);
    let lengths: Vec<_> =
        (0..100).map(|_| late.read().expect("an answer").expect(200).body.len()).collect();
    assert!(lengths[0] > 10_000 && lengths.iter().all(|length| *length == lengths[0]));
    // It is served at once as before.
    late.exchange(&get("/livez")).expect(200);
}

const WORKERS: usize = 3;
/// Connections that are the share of one.
const EACH: usize = 20;

/// A thread that accepts as a worker does, and says each time which one it is.
struct Accepting {
    /// Connections that it had accepted when it last went to sleep.
    seen: Arc<AtomicU64>,
    tid: i32,
    waker: Arc<dyn Wake>,
    thread: std::thread::JoinHandle<()>,
}

/// Not asleep yet.
const AWAKE: u64 = u64::MAX;

impl Accepting {
    fn start(
        worker: usize,
        listener: Listener,
        has_ended: Arc<AtomicBool>,
        accepted: Sender<usize>,
    ) -> Self {
        let mut poller = EpollPoller::new([listener]).expect("an epoll instance");
        let waker = poller.waker();
        let seen = Arc::new(AtomicU64::new(AWAKE));
        let (own_tid, tid) = mpsc::channel();
        let sees = seen.clone();
        let run = move || {
            // SAFETY: a plain system call.
            own_tid.send(unsafe { libc::gettid() }).expect("the test receives");
            let mut sockets = Vec::new();
            while !has_ended.load(Ordering::Relaxed) {
                while let Some(connection) = poller.accept().expect("a descriptor") {
                    sees.store(AWAKE, Ordering::SeqCst);
                    sockets.push(connection.socket);
                    accepted.send(worker).expect("the test receives");
                }
                sees.store(sockets.len() as u64, Ordering::SeqCst);
                poller.wait(0, u64::MAX).expect("a poller");
                assert_eq!(poller.progress().count(), 0);
            }
        };
        let thread = std::thread::spawn(run);
        let tid = tid.recv().expect("it starts");
        Self { seen, tid, waker, thread }
    }

    /// True once it waits for another connection than these. After it has said so it sleeps nowhere else.
    fn sleeps(&self, accepted: u64) -> bool {
        if self.seen.load(Ordering::SeqCst) != accepted {
            return false;
        }
        let stat = std::fs::read_to_string(format!("/proc/self/task/{}/stat", self.tid));
        let stat = stat.expect("the thread runs");
        stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('S'))
    }
}

#[test]
fn connections_of_a_quiet_server_go_to_every_worker() {
    let directory = SocketDirectory::default();
    let name = directory.address().parse().expect("a name");
    let socket = UnixSocket { name, mode: None, user: None, group: None };
    let bound = ListenAddress::Unix(socket).bind(WORKERS).expect("a free name");
    let has_ended = Arc::new(AtomicBool::new(false));
    let (sender, accepted) = mpsc::channel();
    let listeners = bound.listeners.into_iter().enumerate();
    let workers: Vec<_> = listeners
        .map(|(worker, listener)| {
            Accepting::start(worker, listener, has_ended.clone(), sender.clone())
        })
        .collect();
    let mut counts = [0_u64; WORKERS];
    let mut clients = Vec::new();
    // One after another, as agents come: the first worker that sleeps would get them all.
    for _ in 0..EACH * WORKERS {
        eventually("all workers sleep", || {
            workers.iter().zip(&counts).all(|(worker, count)| worker.sleeps(*count))
        });
        clients.push(UnixStream::connect(directory.path()).expect("it listens"));
        counts[accepted.recv_timeout(WAIT).expect("somebody accepts")] += 1;
    }
    println!("connections of each worker: {counts:?}");
    // 20 each. Without turns the first one had 49 to 55 of them in three runs.
    assert!(counts.iter().all(|count| *count >= EACH as u64 / 4), "{counts:?}");
    has_ended.store(true, Ordering::Relaxed);
    for Accepting { waker, thread, .. } in workers {
        waker.wake();
        thread.join().expect("it ends");
    }
}
