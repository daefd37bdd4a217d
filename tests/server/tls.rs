//! HTTPS on the real binary: curl and rustls as clients, and clients that break off, trickle or flood.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::harness::{
    Connection, End, Family, Launch, Server, WAIT, eventually, get, post, request,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// A folder with certificates; removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("sigmad-tls-{name}-{}", std::process::id());
        let folder = Self(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&folder.0).expect("a temporary directory");
        crate::redis_server::certificates::make(&folder.0);
        folder
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn server(&self, args: &[&str]) -> Server {
        let (certificate, key) = (self.file("server.crt"), self.file("server.key"));
        let tls = ["--workers", "1", "--tls-cert", &certificate, "--tls-key", &key];
        Launch { args: &[&tls, args].concat(), ..Launch::default() }.start()
    }

    /// A client that trusts the present authority.
    fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.0.join("ca.crt"))).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

type TlsStream = StreamOwned<ClientConnection, TcpStream>;

fn certificate(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).expect("a certificate")
}

fn session(client: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("localhost").expect("a name");
    ClientConnection::new(client.clone(), name).expect("a session")
}

fn connect(server: &Server, client: &Arc<ClientConfig>) -> TlsStream {
    let stream = TcpStream::connect(server.address).expect("it listens");
    stream.set_read_timeout(Some(WAIT)).expect("a socket");
    stream.set_nodelay(true).expect("a socket");
    StreamOwned::new(session(client), stream)
}

/// One request, and everything until the orderly end of the session.
fn ask(server: &Server, client: &Arc<ClientConfig>, request: &[u8]) -> String {
    let mut stream = connect(server, client);
    stream.write_all(request).expect("it reads");
    let mut answer = String::new();
    // Without close_notify this would be an error.
    stream.read_to_string(&mut answer).expect("an answer, then close_notify");
    answer
}

#[test]
fn a_unix_socket_beside_it_has_no_tls() {
    let folder = Folder::new("unix");
    let (certificate, key) = (folder.file("server.crt"), folder.file("server.key"));
    let args = &["--workers", "2", "--tls-cert", &certificate, "--tls-key", &key];
    let server = Launch { family: Family::Unix, args, ..Launch::default() }.start();
    let mut connection = server.connect();
    for _ in 0..3 {
        connection.exchange(&request("GET", "/livez", &[], b"")).expect(200);
    }
    assert!(ask(&server, &folder.client(), &closing("/livez")).starts_with("HTTP/1.1 200 "));
}

fn closing(path: &str) -> Vec<u8> {
    request("GET", path, &[("Connection", "close")], b"")
}

/// The value of a series in the scrape.
fn scraped(server: &Server, client: &Arc<ClientConfig>, series: &str) -> u64 {
    let scrape = ask(server, client, &closing("/metrics"));
    let line = scrape.lines().find_map(|line| line.strip_prefix(series)).expect("the series");
    line.trim().parse().expect("a count")
}

/// Reads one answer with `Content-Length`; returns it whole.
fn read_answer(stream: &mut TlsStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut wanted = usize::MAX;
    let mut part = [0; 4096];
    while answer.len() < wanted {
        let room = part.len().min(wanted - answer.len());
        let length = stream.read(&mut part[..room]).expect("more of the answer");
        assert!(length > 0, "ended early");
        answer.extend_from_slice(&part[..length]);
        if wanted == usize::MAX
            && let Some(end) = crate::harness::find(&answer, b"\r\n\r\n")
        {
            let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
            let (_, rest) = head.split_once("content-length: ").expect("a length");
            let digits = rest.lines().next().expect("a value");
            wanted = end + 4 + digits.parse::<usize>().expect("a number");
        }
    }
    answer
}

#[test]
fn curl_is_served_by_tls_12_and_13() {
    let folder = Folder::new("curl");
    let server = folder.server(&[]);
    let port = server.address.port();
    let url = |path: &str| format!("https://localhost:{port}{path}");
    // Both requests fit into the queue, if nothing of the first is judged before the second comes.
    let body = format!("[{}]", vec![r#"{"device":"a","rps":1}"#; 20_000].join(","));
    std::fs::write(folder.0.join("body.json"), &body).expect("a file");
    for version in ["1.2", "1.3"] {
        let output = Command::new("curl")
            .args(["-sS", "--cacert", "ca.crt", "--http2", "--max-time", "20"])
            .args(["--resolve", &format!("localhost:{port}:127.0.0.1")])
            .args([&format!("--tlsv{version}"), "--tls-max", version])
            .args(["-w", "%{http_version} %{http_code} %{num_connects}\n", "-o", "answer"])
            .args(["--data-binary", "@body.json", &url("/ingest")])
            .args(["--next", "-sS", "--cacert", "ca.crt", "--http2", "--max-time", "20"])
            .args([&format!("--tlsv{version}"), "--tls-max", version])
            .args(["-w", "%{http_version} %{http_code} %{num_connects}\n"])
            .args(["-o", "openapi.json", &url("/openapi.json")])
            .current_dir(&folder.0)
            .output()
            .expect("curl starts (Debian: curl)");
        let said = String::from_utf8_lossy(&output.stdout);
        // ALPN chose HTTP/1.1, and the second request used the same connection.
        assert_eq!(said, "1.1 202 1\n1.1 200 0\n", "{}", String::from_utf8_lossy(&output.stderr));
        let answer = std::fs::read_to_string(folder.0.join("answer")).expect("an answer");
        assert!(answer.contains("\"accepted\":20000"), "{answer}");
        let document = std::fs::read(folder.0.join("openapi.json")).expect("an answer");
        serde_json::from_slice::<serde_json::Value>(&document).expect("whole");
    }
    let (code, _) = server.stop();
    assert_eq!(code, Some(0));
}

#[test]
fn a_plain_request_is_told_to_use_https() {
    let folder = Folder::new("plain");
    let server = folder.server(&[]);
    for plain in [get("/health"), post("/ingest", b"{}"), b"\r\n".to_vec(), b"x".to_vec()] {
        let mut connection = server.connect();
        connection.send(&plain);
        let message = connection.read().expect("an answer in plain text").error(400);
        assert!(message.contains("https://"), "{message}");
        connection.finish();
        assert_eq!(connection.read_end(), End::Closed);
    }
    let refused = "http_requests_refused_total{reason=\"plain_http\",code=\"400\"} ";
    assert_eq!(scraped(&server, &folder.client(), refused), 4);
}

#[test]
fn a_handshake_has_a_deadline_and_a_silent_client_too() {
    let folder = Folder::new("half");
    let server = folder.server(&["--read-timeout", "2s", "--idle-timeout", "1h"]);
    let client = folder.client();
    let mut hello = Vec::new();
    session(&client).write_tls(&mut hello).expect("a ClientHello");
    for sent in [&b""[..], &hello[..1], &hello[..hello.len() - 1], &hello] {
        let mut connection = server.connect();
        connection.send(sent);
        let rest = connection.read_rest();
        assert!(rest.is_ok(), "closed after {} bytes: {rest:?}", sent.len());
    }
    // After the handshake the time for a request counts, which is the idle one here.
    let mut stream = connect(&server, &client);
    stream.conn.complete_io(&mut stream.sock).expect("a handshake");
    let late = "http_connections_closed_total{reason=\"handshake\"} ";
    let mut trickling = server.connect();
    trickling.send(&hello[..10]);
    eventually("five handshakes were too late", || scraped(&server, &client, late) >= 5);
    stream.write_all(&get("/health")).expect("still open");
    assert!(read_answer(&mut stream).starts_with(b"HTTP/1.1 200 "));
}

#[test]
fn what_breaks_tls_is_closed() {
    let folder = Folder::new("broken");
    let server = folder.server(&[]);
    let client = folder.client();
    let mut hello = Vec::new();
    session(&client).write_tls(&mut hello).expect("a ClientHello");
    let mut flood = hello.clone();
    // A handshake message of the greatest length, which never ends.
    flood[6..9].copy_from_slice(&[0, 0xff, 0xff]);
    let record = [&[22, 3, 1, 0x40, 0][..], &[0; 0x4000]].concat();
    let flood = [&flood, &record, &record].map(|part| &part[..]).concat();
    let mut torn = hello.clone();
    torn[5] = 99;
    for broken in [&flood[..], &torn, &[22; 100], &[22, 3, 3, 0xff, 0xff]] {
        let mut connection = server.connect();
        // The server may close before it has read all.
        let _ = connection.try_send(broken);
        let _ = connection.stream().shutdown(Shutdown::Write);
        assert!(!matches!(connection.read_rest(), Err(crate::harness::Failure::Timeout(_))));
    }
    assert!(ask(&server, &client, &closing("/health")).starts_with("HTTP/1.1 200 "));
}

#[test]
fn bytes_may_come_one_by_one() {
    let folder = Folder::new("bytes");
    let server = folder.server(&[]);
    let mut stream = connect(&server, &folder.client());
    // Each write is a record of one byte.
    for _ in 0..3 {
        for byte in post("/ingest", br#"{"rps":1}"#) {
            stream.write_all(&[byte]).expect("it reads");
        }
        assert!(read_answer(&mut stream).starts_with(b"HTTP/1.1 202 "));
    }
    // Each byte of ciphertext is a segment of its own, the handshake included.
    let mut session = session(&folder.client());
    session.writer().write_all(&closing("/health")).expect("room");
    let mut socket = TcpStream::connect(server.address).expect("it listens");
    socket.set_nodelay(true).expect("a socket");
    socket.set_read_timeout(Some(WAIT)).expect("a socket");
    let mut answer = Vec::new();
    while session.is_handshaking() || answer.is_empty() {
        let mut bytes = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut bytes).expect("a vector grows");
        }
        for byte in bytes {
            socket.write_all(&[byte]).expect("it reads");
        }
        session.read_tls(&mut socket).expect("an answer");
        session.process_new_packets().expect("TLS");
        // WouldBlock: nothing yet.
        let _ = session.reader().read_to_end(&mut answer);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
}

#[test]
fn a_client_that_reads_late_gets_every_byte() {
    const REQUESTS: usize = 60;
    let folder = Folder::new("late");
    let server = folder.server(&[]);
    let client = folder.client();
    let whole = ask(&server, &client, &closing("/openapi.json"));
    let (_, document) = whole.split_once("\r\n\r\n").expect("a body");

    let narrow = Connection::open_narrow(server.address, 4096).expect("connect");
    let stream = narrow.stream().try_clone().expect("a socket");
    stream.set_read_timeout(Some(WAIT)).expect("a socket");
    let mut stream = StreamOwned::new(session(&client), stream);
    stream.write_all(&get("/openapi.json").repeat(REQUESTS)).expect("it reads");
    stream.write_all(&closing("/health")).expect("it reads");
    // The kernel's buffers are full now: answers wait as ciphertext and as plaintext.
    for neighbour in 0..20 {
        let answer = ask(&server, &client, &closing("/health"));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{neighbour}: {answer}");
    }
    for number in 0..REQUESTS {
        let answer = read_answer(&mut stream);
        assert!(answer.ends_with(document.as_bytes()), "answer {number} differs");
    }
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("the last answer, then close_notify");
    assert!(rest.starts_with("HTTP/1.1 200 "), "{rest}");
}

#[test]
fn a_hangup_changes_the_certificate_and_closes_nothing() {
    let folder = Folder::new("reload");
    let server = folder.server(&[]);
    let old = folder.client();
    let mut kept = connect(&server, &old);
    kept.write_all(&get("/health")).expect("it reads");
    assert!(read_answer(&mut kept).starts_with(b"HTTP/1.1 200 "));

    crate::redis_server::certificates::make(&folder.0);
    server.signal(libc::SIGHUP);
    server.wait_for_log(&["certificate", "read again"]).expect("a line");
    kept.write_all(&get("/health")).expect("still open");
    assert!(read_answer(&mut kept).starts_with(b"HTTP/1.1 200 "));
    let new = folder.client();
    assert!(ask(&server, &new, &closing("/health")).starts_with("HTTP/1.1 200 "));
    let mut distrusted = connect(&server, &old);
    assert!(distrusted.write_all(&get("/health")).and_then(|()| distrusted.flush()).is_err());

    // Half of a change: the key is there, its certificate is not.
    let certificate = std::fs::read(folder.file("server.crt")).expect("a file");
    crate::redis_server::certificates::make(&folder.0);
    std::fs::write(folder.file("server.crt"), certificate).expect("a file");
    server.signal(libc::SIGHUP);
    let line = server.wait_for_log(&["certificate", "stays in force"]).expect("a line");
    assert!(line.contains("--tls-key"), "{line}");
    assert!(ask(&server, &new, &closing("/health")).starts_with("HTTP/1.1 200 "));
    kept.write_all(&get("/health")).expect("still open");
    assert!(read_answer(&mut kept).starts_with(b"HTTP/1.1 200 "));
}

#[test]
fn unfinished_handshakes_make_room_for_others() {
    const OPENED: usize = 1_500;
    let folder = Folder::new("flood");
    let server = folder.server(&[]);
    let client = folder.client();
    let mut hello = Vec::new();
    session(&client).write_tls(&mut hello).expect("a ClientHello");
    let mut open = Vec::new();
    for _ in 0..OPENED {
        let mut connection = server.connect();
        connection.send(&hello[..hello.len() - 1]);
        open.push(connection);
    }
    assert!(ask(&server, &client, &closing("/health")).starts_with("HTTP/1.1 200 "));
    let evicted = "http_connections_closed_total{reason=\"evicted\"} ";
    let evicted = scraped(&server, &client, evicted);
    assert!(evicted >= 900, "{evicted} of {OPENED} made room");
}

#[test]
fn idle_sessions_count_in_the_memory_of_all_connections() {
    const OPENED: usize = 1_600;
    let folder = Folder::new("idle");
    // An eighth is for connections: about a thousand sessions.
    let server = folder.server(&["--memory-limit", "64MiB"]);
    let client = folder.client();
    let mut open = Vec::new();
    for _ in 0..OPENED {
        let mut stream = connect(&server, &client);
        stream.conn.complete_io(&mut stream.sock).expect("a handshake");
        open.push(stream);
    }
    let newest = open.last_mut().expect("one");
    newest.write_all(&get("/health")).expect("the newest is open");
    assert!(read_answer(newest).starts_with(b"HTTP/1.1 200 "));
    let evicted = "http_connections_closed_total{reason=\"evicted\"} ";
    let evicted = scraped(&server, &client, evicted);
    assert!((300..1_000).contains(&evicted), "{evicted} of {OPENED} made room");
    // The oldest have gone.
    assert_eq!(open[0].read(&mut [0]).expect("close_notify"), 0);
}

#[test]
fn what_cannot_be_used_is_named() {
    let folder = Folder::new("named");
    let (certificate, key) = (folder.file("server.crt"), folder.file("server.key"));
    let (other_key, empty) = (folder.file("ca.key"), folder.file("empty"));
    std::fs::write(&empty, "").expect("a file");
    let cases: [(&[&str], &[&str]); 8] = [
        (&["--tls-cert", &certificate], &["--tls-cert needs --tls-key"]),
        (&["--tls-key", &key], &["--tls-key needs --tls-cert"]),
        (
            &["--tls-cert", "/no/such", "--tls-key", &key],
            &["--tls-cert: can't read /no/such", "No such"],
        ),
        (
            &["--tls-cert", &certificate, "--tls-key", "/no/such"],
            &["--tls-key: can't read /no/such"],
        ),
        (&["--tls-cert", &empty, "--tls-key", &key], &["--tls-cert", "empty has no certificate"]),
        (&["--tls-cert", &certificate, "--tls-key", &empty], &["--tls-key", "no such item"]),
        (&["--tls-cert", &key, "--tls-key", &key], &["--tls-cert", "has no certificate"]),
        (
            &["--tls-cert", &certificate, "--tls-key", &other_key],
            &["--tls-key", "ca.key", "is not that of"],
        ),
    ];
    for (args, words) in cases {
        let (code, _, log) = Launch { args, ..Launch::default() }.run();
        assert_eq!(code, Some(78), "{args:?}: {log}");
        assert!(words.iter().all(|word| log.contains(word)), "{args:?}: {log}");
    }
    let tls = ["--tls-cert", &certificate, "--tls-key", &key];
    let may = Launch { engine: crate::harness::Engine::May, args: &tls, ..Launch::default() };
    let (code, _, log) = may.run();
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("--engine may has no TLS"), "{log}");
}
