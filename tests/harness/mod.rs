//! The real binary, and raw sockets to speak to it.
//!
//! Every wait is bounded and ends at an event (a line of the log, bytes, a close), never at a guess.
//! [`Server`] owns the process and its log, [`Connection`] one socket, [`Response`] what came back
//! through a parser that forgives nothing.

#![allow(dead_code, reason = "each suite uses its own part")]
#![allow(clippy::disallowed_methods, reason = "tests bound their waits on real sockets")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// For what has no limit in the server: a start, a line of the log, a count. They take milliseconds; an unoptimised build
/// on a machine that stands still for a while takes longer.
pub const START_TIMEOUT: Duration = Duration::from_secs(180);
/// Any answer, close or exit that a test waits for comes within it, or the test fails. It is shorter than the server's own
/// limits ([`PATIENT`]), so a server that only ends with its drain is found, and judges no speed.
pub const WAIT: Duration = Duration::from_secs(60);
/// The server's own limits are 10 s for a request to arrive and 25 s for a drain. A machine that stands still so long must
/// not turn an answer into a 408, or end a drain with requests under way; tests of these limits set them.
const PATIENT: [(&str, &str); 2] = [("--read-timeout", "120s"), ("--drain", "120s")];
/// No answer is larger: a parser that waits for more has lost its place.
const RESPONSE_BYTES_MAX: usize = 64 << 20;

/// Which engine the binary is told to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Native,
    May,
}

impl Engine {
    fn flag(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::May => "may",
        }
    }
}

/// By which sockets a test speaks to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    #[default]
    Tcp,
    Unix,
}

/// For tests that hold for both.
pub const FAMILIES: [Family; 2] = [Family::Tcp, Family::Unix];

/// A directory for one Unix socket, removed with what is in it.
pub struct SocketDirectory(PathBuf);

impl Default for SocketDirectory {
    fn default() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("sigmad-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a new directory");
        Self(path)
    }
}

impl SocketDirectory {
    /// The path of its socket.
    pub fn path(&self) -> PathBuf {
        self.0.join("s")
    }

    /// The address for `--listen` and `--url`.
    pub fn address(&self) -> String {
        format!("unix:{}", self.path().display())
    }
}

impl Drop for SocketDirectory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// What the server wrote to its standard error so far.
#[derive(Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Default)]
struct LogState {
    lines: Vec<String>,
    has_ended: bool,
}

impl Log {
    fn follow(&self, stderr: impl Read) {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            self.state.lock().expect("log").lines.push(line);
            self.changed.notify_all();
        }
        self.state.lock().expect("log").has_ended = true;
        self.changed.notify_all();
    }

    fn wait<T>(
        &self,
        timeout: Duration,
        mut find: impl FnMut(&LogState) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut state = self.state.lock().expect("log");
        loop {
            if let Some(found) = find(&state) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            state = self.changed.wait_timeout(state, left).expect("log").0;
        }
    }
}

/// How to start a server; `Launch::default()` is the native engine without further flags.
#[derive(Clone, Copy)]
pub struct Launch<'a> {
    pub engine: Engine,
    /// By which [`Server::connect`] reaches it. TCP is there as well.
    pub family: Family,
    pub args: &'a [&'a str],
    pub env: &'a [(&'a str, &'a str)],
    /// `ulimit -n` of the process.
    pub open_files: Option<u32>,
}

impl Default for Launch<'_> {
    fn default() -> Self {
        let family = Family::default();
        Self { engine: Engine::Native, family, args: &[], env: &[], open_files: None }
    }
}

impl Launch<'_> {
    fn command(&self) -> Command {
        // SIGMAD names another build of it: the static one, or the one in an image.
        let binary = std::env::var("SIGMAD");
        let binary = binary.unwrap_or_else(|_| env!("CARGO_BIN_EXE_sigmad").to_owned());
        let mut command = match self.open_files {
            None => Command::new(&binary),
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(format!("ulimit -n {limit}; exec \"$0\" \"$@\"")).arg(&binary);
                shell
            }
        };
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SIGMAD")) {
            command.env_remove(name);
        }
        if !self.args.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(["--engine", self.engine.flag()]).args(self.args);
        command.envs(self.env.iter().copied());
        command
    }

    /// Runs the binary until it exits by itself (usage errors, `--help`): code, output, log.
    pub fn run(&self) -> (Option<i32>, String, String) {
        let mut command = self.command();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sigmad starts");
        let log = Arc::new(Log::default());
        let reader = follow(&mut child, &log);
        if log.wait(WAIT, |state| state.has_ended.then_some(())).is_none() {
            child.kill().expect("kill");
        }
        let output = child.wait_with_output().expect("output");
        reader.join().expect("log reader");
        let lines = log.state.lock().expect("log").lines.join("\n");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), lines)
    }

    /// Starts the server and waits until it listens.
    pub fn start(&self) -> Server {
        let mut command = self.command();
        for (name, value) in PATIENT {
            if !self.args.iter().any(|arg| arg.starts_with(name)) {
                command.args([name, value]);
            }
        }
        let unix = (self.family == Family::Unix).then(SocketDirectory::default);
        if let Some(directory) = &unix {
            command.args(["--listen", &directory.address()]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sigmad starts");
        let log = Arc::new(Log::default());
        let reader = Some(follow(&mut child, &log));
        let address = log.wait(START_TIMEOUT, |state| {
            let found = state.lines.iter().find_map(|line| listening_address(line));
            if found.is_none() && state.has_ended { Some(None) } else { found.map(Some) }
        });
        let address_unknown = (Ipv4Addr::LOCALHOST, 0).into();
        let mut server = Server { child, log, reader, address: address_unknown, unix, exit: None };
        match address.flatten() {
            Some(address) => server.address = address,
            None => {
                let log = server.log_text();
                let last = log.lines().next_back().unwrap_or("nothing");
                panic!("no line with \"listening\" and the address, the last is: {last}");
            }
        }
        server
    }
}

fn follow(child: &mut Child, log: &Arc<Log>) -> JoinHandle<()> {
    let stderr = child.stderr.take().expect("piped");
    let log = log.clone();
    std::thread::spawn(move || log.follow(stderr))
}

fn listening_address(line: &str) -> Option<SocketAddr> {
    const HOST: &str = "127.0.0.1:";
    if !line.contains("listening") {
        return None;
    }
    let digits = &line[line.find(HOST)? + HOST.len()..];
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let port = digits[..end].parse::<u16>().ok().filter(|&port| port != 0)?;
    Some((Ipv4Addr::LOCALHOST, port).into())
}

/// A running sigmad; killed when dropped.
pub struct Server {
    child: Child,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
    exit: Option<ExitStatus>,
    pub address: SocketAddr,
    unix: Option<SocketDirectory>,
}

impl Server {
    /// Starts the engine with some flags.
    pub fn start(engine: Engine, args: &[&str]) -> Self {
        Launch { engine, args, ..Launch::default() }.start()
    }

    /// The same, reached by sockets of that family.
    pub fn start_on(family: Family, args: &[&str]) -> Self {
        Launch { family, args, ..Launch::default() }.start()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A new connection.
    pub fn connect(&self) -> Connection {
        match &self.unix {
            None => Connection::open(self.address).expect("connect"),
            Some(directory) => Connection::open_unix(&directory.path()).expect("connect"),
        }
    }

    /// One request on a connection of its own.
    pub fn ask(&self, request: &[u8]) -> Response {
        self.connect().exchange(request)
    }

    /// GET on a connection of its own.
    pub fn get(&self, path: &str) -> Response {
        self.ask(&get(path))
    }

    /// POST of JSON to `/ingest` on a connection of its own.
    pub fn ingest(&self, body: &str) -> Response {
        self.ask(&post("/ingest", body.as_bytes()))
    }

    /// Samples with `rps` so far, over all devices.
    pub fn total(&self) -> u64 {
        self.get("/analyze").json()["totalCount"].as_u64().unwrap_or(0)
    }

    pub fn log_text(&self) -> String {
        self.log.state.lock().expect("log").lines.join("\n")
    }

    /// Waits for a line of the log that has all these words (any case).
    pub fn wait_for_log(&self, words: &[&str]) -> Option<String> {
        let has = |line: &&String| {
            let line = line.to_ascii_lowercase();
            words.iter().all(|word| line.contains(word))
        };
        self.log.wait(START_TIMEOUT, |state| state.lines.iter().find(has).cloned())
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: plain system call; the child has not been waited for, so the pid is ours.
        let sent = unsafe { libc::kill(self.pid().cast_signed(), signal) };
        assert_eq!(sent, 0, "kill: {}", io::Error::last_os_error());
    }

    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Waits for the exit, which is when standard error closes. None: it still runs.
    pub fn wait_exit(&mut self, timeout: Duration) -> Option<ExitStatus> {
        self.log.wait(timeout, |state| state.has_ended.then_some(()))?;
        let status = self.child.wait().expect("wait");
        self.exit = Some(status);
        Some(status)
    }

    /// SIGTERM, then the exit code and the whole log.
    pub fn stop(mut self) -> (Option<i32>, String) {
        self.terminate();
        let status = self.wait_exit(WAIT).expect("exits after SIGTERM");
        (status.code(), self.log_text())
    }

    pub fn is_running(&mut self) -> bool {
        self.exit.is_none() && self.child.try_wait().expect("wait").is_none()
    }

    /// Memory in use, from `/proc/PID/status`.
    pub fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).expect("the server runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("number")
    }

    /// Open file descriptors.
    pub fn open_files(&self) -> usize {
        let path = format!("/proc/{}/fd", self.pid());
        std::fs::read_dir(path).expect("the server runs").count()
    }

    /// CPU time used so far, all threads.
    pub fn cpu_time(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = std::fs::read_to_string(path).expect("the server runs");
        let after_name = &stat[stat.rfind(')').expect("name") + 2..];
        let ticks = |index: usize| -> u64 {
            after_name.split(' ').nth(index).and_then(|field| field.parse().ok()).expect("ticks")
        };
        Duration::from_millis((ticks(11) + ticks(12)) * 10)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.exit.is_none() {
            // It may have gone on its own: then there is nothing to kill.
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
        if std::thread::panicking() {
            let log = self.log_text();
            eprintln!("--- log of sigmad ({}):\n{log}\n---", self.address);
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Closed before the first byte of an answer.
    Closed,
    /// Closed in the middle of an answer.
    Truncated(String),
    /// Reset.
    Reset,
    /// Nothing came for too long.
    Timeout(String),
    /// Not HTTP.
    Malformed(String),
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// An orderly close.
    Closed,
    Reset,
    /// Still open after the timeout.
    Open,
    /// Further bytes came first.
    Bytes(String),
}

/// One socket, with what was read and not yet taken.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    pub timeout: Duration,
}

impl Connection {
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, WAIT)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WAIT))?;
        Ok(Self { stream, buffer: Vec::new(), timeout: WAIT })
    }

    pub fn open_unix(path: &Path) -> io::Result<Self> {
        // Reads, writes and half closes are the same calls for both families.
        let stream = TcpStream::from(OwnedFd::from(UnixStream::connect(path)?));
        stream.set_write_timeout(Some(WAIT))?;
        Ok(Self { stream, buffer: Vec::new(), timeout: WAIT })
    }

    /// With a small receive buffer, so that a client which does not read is felt soon.
    pub fn open_narrow(address: SocketAddr, receive_bytes: usize) -> io::Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.set_recv_buffer_size(receive_bytes)?;
        socket.connect_timeout(&address.into(), WAIT)?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WAIT))?;
        Ok(Self { stream, buffer: Vec::new(), timeout: WAIT })
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send");
    }

    /// For bytes that the server may refuse to read to the end.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends the parts one segment each, with a moment between them for the server to read.
    pub fn send_parts<'a>(&mut self, parts: impl IntoIterator<Item = &'a [u8]>) {
        for (index, part) in parts.into_iter().enumerate() {
            if index > 0 {
                // No event tells that the other side has read; missing it costs coverage only.
                std::thread::sleep(Duration::from_micros(200));
            }
            self.send(part);
        }
    }

    /// FIN: no more requests.
    pub fn finish(&self) {
        // A connection that the server has reset already cannot be shut down: the read will tell.
        drop(self.stream.shutdown(Shutdown::Write));
    }

    pub fn exchange(&mut self, request: &[u8]) -> Response {
        self.send(request);
        let is_head = request.starts_with(b"HEAD ");
        match self.read_answer(is_head) {
            Ok(response) => response,
            Err(failure) => panic!("{failure:?} after {}", shown(request)),
        }
    }

    /// The next answer to a request that was not HEAD.
    pub fn read(&mut self) -> Result<Response, Failure> {
        self.read_answer(false)
    }

    /// The next answer; interim ones (100) are answers too.
    pub fn read_answer(&mut self, is_head: bool) -> Result<Response, Failure> {
        let deadline = Instant::now() + self.timeout;
        let head_end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            self.more(deadline)?;
        };
        let mut response = parse_head(&self.buffer[..head_end])?;
        let (body, end) = self.read_body(&response, head_end, is_head, deadline)?;
        response.body = body;
        self.buffer.drain(..end);
        Ok(response)
    }

    fn read_body(
        &mut self,
        response: &Response,
        start: usize,
        is_head: bool,
        deadline: Instant,
    ) -> Result<(Vec<u8>, usize), Failure> {
        let length = response.only("content-length")?;
        let coding = response.only("transfer-encoding")?;
        let has_none = is_head || response.status < 200 || matches!(response.status, 204 | 304);
        match (length, coding) {
            (Some(_), Some(_)) => Err(Failure::Malformed("both lengths".into())),
            _ if has_none => Ok((Vec::new(), start)),
            (Some(length), None) => {
                let length: usize = length
                    .parse()
                    .map_err(|_| Failure::Malformed(format!("Content-Length: {length}")))?;
                while self.buffer.len() < start + length {
                    self.more(deadline)?;
                }
                Ok((self.buffer[start..start + length].to_vec(), start + length))
            }
            (None, Some("chunked")) => self.read_chunks(start, deadline),
            (None, Some(other)) => Err(Failure::Malformed(format!("Transfer-Encoding: {other}"))),
            (None, None) if response.closes() => loop {
                match self.more(deadline) {
                    Ok(()) => {}
                    Err(Failure::Truncated(_) | Failure::Closed) => {
                        return Ok((self.buffer[start..].to_vec(), self.buffer.len()));
                    }
                    Err(failure) => return Err(failure),
                }
            },
            (None, None) => Err(Failure::Malformed("an answer without a length".into())),
        }
    }

    fn read_chunks(
        &mut self,
        start: usize,
        deadline: Instant,
    ) -> Result<(Vec<u8>, usize), Failure> {
        let mut body = Vec::new();
        let mut at = start;
        loop {
            let line_end = loop {
                if let Some(found) = find(&self.buffer[at..], b"\r\n") {
                    break at + found;
                }
                self.more(deadline)?;
            };
            let digits = String::from_utf8_lossy(&self.buffer[at..line_end]).into_owned();
            let size = usize::from_str_radix(&digits, 16)
                .map_err(|_| Failure::Malformed(format!("chunk size {digits:?}")))?;
            let data = line_end + 2;
            while self.buffer.len() < data + size + 2 {
                self.more(deadline)?;
            }
            if &self.buffer[data + size..data + size + 2] != b"\r\n" {
                return Err(Failure::Malformed("no line end after a chunk".into()));
            }
            body.extend_from_slice(&self.buffer[data..data + size]);
            at = data + size + 2;
            if size == 0 {
                return Ok((body, at));
            }
        }
    }

    /// Reads more into the buffer, or says why not.
    fn more(&mut self, deadline: Instant) -> Result<(), Failure> {
        if self.buffer.len() > RESPONSE_BYTES_MAX {
            return Err(Failure::Malformed("an answer without an end".into()));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        // Zero would mean "for ever".
        let left = left.max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left)).expect("timeout");
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) if self.buffer.is_empty() => Err(Failure::Closed),
            Ok(0) => Err(Failure::Truncated(shown(&self.buffer))),
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Ok(())
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    Err(Failure::Timeout(shown(&self.buffer)))
                }
                io::ErrorKind::Interrupted => Ok(()),
                _ => Err(Failure::Reset),
            },
        }
    }

    /// Waits for the close; nothing else may come before it.
    pub fn read_end(&mut self) -> End {
        if !self.buffer.is_empty() {
            return End::Bytes(shown(&self.buffer));
        }
        match self.more(Instant::now() + self.timeout) {
            Ok(()) => End::Bytes(shown(&self.buffer)),
            Err(Failure::Timeout(_)) => End::Open,
            Err(Failure::Reset) => End::Reset,
            Err(_) => End::Closed,
        }
    }

    /// Every byte until the close.
    pub fn read_rest(&mut self) -> Result<Vec<u8>, Failure> {
        let deadline = Instant::now() + self.timeout;
        loop {
            match self.more(deadline) {
                Ok(()) => {}
                Err(Failure::Closed | Failure::Truncated(_)) => {
                    return Ok(std::mem::take(&mut self.buffer));
                }
                Err(failure) => return Err(failure),
            }
        }
    }
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The only field of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.only(name).expect("at most once")
    }

    fn only(&self, name: &str) -> Result<Option<&str>, Failure> {
        let mut values = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let first = values.next().map(|(_, value)| value.as_str());
        match values.next() {
            None => Ok(first),
            Some(_) => Err(Failure::Malformed(format!("two {name} fields"))),
        }
    }

    /// True when the server says that it closes.
    pub fn closes(&self) -> bool {
        self.headers.iter().any(|(name, value)| {
            name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close")
        })
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    pub fn json(&self) -> Value {
        let kind = self.header("content-type").unwrap_or("none");
        assert!(kind.starts_with("application/json"), "content type {kind}: {}", shown(&self.body));
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("{error} in {}", shown(&self.body)),
        }
    }

    /// The status is that; else the test fails with the answer.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", shown(&self.body));
        self
    }

    /// The message of an error of that status.
    #[track_caller]
    pub fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", shown(&self.body));
        let json = self.json();
        let error = &json["error"];
        assert!(error["code"].as_str().is_some_and(|code| !code.is_empty()), "{json}");
        error["message"].as_str().filter(|text| !text.is_empty()).expect("message").to_owned()
    }

    /// Samples accepted.
    #[track_caller]
    pub fn accepted(&self) -> u64 {
        assert_eq!(self.status, 202, "{}", shown(&self.body));
        self.json()["accepted"].as_u64().expect("accepted")
    }
}

fn parse_head(head: &[u8]) -> Result<Response, Failure> {
    let malformed = |what: &str| Failure::Malformed(format!("{what}: {}", shown(head)));
    let head = std::str::from_utf8(head).map_err(|_| malformed("not ASCII"))?;
    let mut lines = head[..head.len() - 4].split("\r\n");
    let status_line = lines.next().unwrap_or("");
    let rest = status_line.strip_prefix("HTTP/1.1 ").ok_or_else(|| malformed("version"))?;
    let (code, _reason) = rest.split_once(' ').ok_or_else(|| malformed("status line"))?;
    let is_code = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    let status = code.parse().ok().filter(|_| is_code).ok_or_else(|| malformed("status"))?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| malformed("no colon"))?;
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!~*'".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(malformed("field name"));
        }
        if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            return Err(malformed("field value"));
        }
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    Ok(Response { status, headers, body: Vec::new() })
}

/// A request with these header lines besides `Host` and, with a body, `Content-Length`.
pub fn request(method: &str, path: &str, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n").into_bytes();
    for (name, value) in fields {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    if !body.is_empty() || method == "POST" {
        bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

pub fn get(path: &str) -> Vec<u8> {
    request("GET", path, &[], b"")
}

pub fn post(path: &str, body: &[u8]) -> Vec<u8> {
    request("POST", path, &[("Content-Type", "application/json")], body)
}

/// The start of some bytes, readable.
pub fn shown(bytes: &[u8]) -> String {
    const SHOWN_BYTES: usize = 300;
    let start = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let more = if bytes.len() > SHOWN_BYTES { "…" } else { "" };
    format!("{}{more} ({} bytes)", start.escape_ascii(), bytes.len())
}

pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}

/// Asks again until it is so, for what has no event to wait for.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + START_TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Seconds since 1970.
pub fn now_s() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    since.as_secs_f64()
}

/// The windows of the contract, computed the slow way: SPEC section 3.
pub struct Model {
    pub window: usize,
    pub min_samples: usize,
    pub threshold: f64,
    pub values: Vec<f64>,
    pub total: u64,
    pub anomalies: u64,
    pub z_score: f64,
    pub is_anomaly: bool,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            window: 50,
            min_samples: 10,
            threshold: 2.0,
            values: Vec::new(),
            total: 0,
            anomalies: 0,
            z_score: 0.0,
            is_anomaly: false,
        }
    }
}

impl Model {
    pub fn push(&mut self, value: f64) {
        let (mean, std_dev) = (self.mean(), self.std_dev());
        self.z_score = if self.values.is_empty() || value == mean {
            0.0
        } else if std_dev == 0.0 {
            1e6_f64.copysign(value - mean)
        } else {
            ((value - mean) / std_dev).clamp(-1e6, 1e6)
        };
        self.is_anomaly =
            self.values.len() >= self.min_samples && self.z_score.abs() > self.threshold;
        self.anomalies += u64::from(self.is_anomaly);
        self.total += 1;
        if self.values.len() == self.window {
            self.values.remove(0);
        }
        self.values.push(value);
    }

    pub fn mean(&self) -> f64 {
        self.values.iter().sum::<f64>() / self.values.len() as f64
    }

    pub fn std_dev(&self) -> f64 {
        let mean = self.mean();
        let squares: f64 = self.values.iter().map(|value| (value - mean).powi(2)).sum();
        (squares / self.values.len() as f64).sqrt()
    }
}

/// Equal but for rounding.
#[track_caller]
pub fn assert_close(actual: &Value, expected: f64, what: &str) {
    let actual = actual.as_f64().unwrap_or_else(|| panic!("{what}: {actual} is no number"));
    let tolerance = 1e-6 * expected.abs().max(1e-3);
    assert!((actual - expected).abs() <= tolerance, "{what}: {actual} instead of {expected}");
}
