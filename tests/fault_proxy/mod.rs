//! A TCP proxy between a client and its server that injects faults on demand.
//!
//! One thread accepts; one thread per pair of sockets checks the current [`Fault`] between reads, so a change
//! affects existing and future connections. Bytes held by a [`Delay`] are delivered even after the client has
//! closed, as by a network.
//!
//! [`Delay`]: Fault::Delay

#![allow(dead_code, reason = "each suite uses its own part")]
#![allow(clippy::disallowed_methods, reason = "tests bound their waits on real sockets")]

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::SockRef;

/// How soon a change of the fault takes effect.
const LOOK: Duration = Duration::from_millis(10);
/// A request is whole after a pause this long: the client waits for replies then, and is not only without a core.
const QUIET: Duration = Duration::from_millis(500);
/// Time limit for the server to read the bytes before a cut, and to close.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Bytes buffered for a side that does not read; past it the other side is not read either.
const HELD_BYTES_MAX: usize = 4 << 20;
/// Bytes of one read.
const READ_BYTES: usize = 64 << 10;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// None.
    None,
    /// Closes, once, the first connection that delivers this many more bytes of requests.
    CutRequest { after: u64 },
    /// Cuts, once, the replies of the first connection after this many more bytes: its requests are delivered
    /// whole, then it is closed.
    CutReplies { after: u64 },
    /// Delays every byte by this much.
    Delay { requests: Duration, replies: Duration },
    /// Delivers requests at once, but replies in pieces of this many bytes with this pause between them.
    Dribble { bytes: usize, pause: Duration },
    /// Accepts and reads everything; forwards nothing, replies nothing.
    BlackHole,
    /// Resets every connection, new ones too.
    Reset,
}

#[derive(Debug)]
struct State {
    fault: Fault,
    /// Increases with each change of the fault.
    change: u64,
    has_ended: bool,
    counters: HttpCounters,
}

/// Counters of the proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HttpCounters {
    /// Connections accepted.
    pub connections: u64,
    /// Connections that [`Fault::CutRequest`] or [`Fault::CutReplies`] has ended.
    pub cuts: u64,
    /// Connections that [`Fault::Reset`] has ended.
    pub resets: u64,
    /// Bytes of requests that went into [`Fault::BlackHole`].
    pub swallowed: u64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().expect("proxy"));
        self.changed.notify_all();
        result
    }

    fn set(&self, fault: Fault) {
        self.update(|state| {
            state.fault = fault;
            state.change += 1;
        });
    }

    /// Ends a one-time fault, unless the test has set another meanwhile.
    fn spent(&self, change: u64) {
        self.update(|state| {
            state.counters.cuts += 1;
            if state.change == change {
                state.fault = Fault::None;
                state.change += 1;
            }
        });
    }
}

/// The proxy; ends with all its connections when dropped.
pub struct Proxy {
    /// The address for clients.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Accepts on a free port and forwards to `server`, which need not run yet.
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        listener.set_nonblocking(true).expect("nonblocking");
        let address = listener.local_addr().expect("bound");
        let state = State {
            fault: Fault::None,
            change: 0,
            has_ended: false,
            counters: HttpCounters::default(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let acceptor = {
            let shared = shared.clone();
            std::thread::spawn(move || accept(&listener, server, &shared))
        };
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// Sets the fault from now on.
    pub fn set(&self, fault: Fault) {
        self.shared.set(fault);
    }

    /// The counters so far.
    pub fn counters(&self) -> HttpCounters {
        self.shared.state.lock().expect("proxy").counters
    }

    /// Waits until the counters fulfil a condition.
    #[track_caller]
    pub fn wait(&self, timeout: Duration, what: &str, is_so: impl Fn(&HttpCounters) -> bool) {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.state.lock().expect("proxy");
        while !is_so(&state.counters) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "never came true: {what}: {:?}", state.counters);
            state = self.shared.changed.wait_timeout(state, left).expect("proxy").0;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.update(|state| state.has_ended = true);
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

fn accept(listener: &TcpListener, server: SocketAddr, shared: &Arc<Shared>) {
    let mut pairs: Vec<JoinHandle<()>> = Vec::new();
    while !shared.state.lock().expect("proxy").has_ended {
        let wanted = [(listener.as_raw_fd(), libc::POLLIN)];
        poll(wanted, LOOK);
        match listener.accept() {
            Ok((client, _)) => {
                shared.update(|state| state.counters.connections += 1);
                let shared = shared.clone();
                pairs.push(std::thread::spawn(move || Pair::run(client, server, &shared)));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("accept: {error}"),
        }
        pairs.retain(|pair| !pair.is_finished());
    }
    for pair in pairs {
        pair.join().expect("a pair of sockets");
    }
}

/// Waits until one of the descriptors is ready, or `timeout` has passed.
fn poll<const N: usize>(wanted: [(i32, i16); N], timeout: Duration) {
    let mut polled = wanted.map(|(fd, events)| libc::pollfd { fd, events, revents: 0 });
    let timeout = i32::try_from(timeout.as_millis()).expect("short");
    // SAFETY: the array lives until the call returns, and its length is right. The only failure is EINTR: the
    // caller checks again in any case.
    unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, timeout) };
}

/// One direction: bytes that were read from one side and wait for the other.
#[derive(Default)]
struct ByteQueue {
    /// With the time from which they may be written.
    waiting: VecDeque<(Instant, Vec<u8>)>,
    waiting_bytes: usize,
    /// Bytes read since the fault changed.
    taken: u64,
    read_at: Option<Instant>,
    /// The side it reads from has closed.
    has_ended: bool,
    /// The other side was closed for writing.
    is_shut: bool,
}

/// A side has closed or reset the connection.
struct Gone;

impl ByteQueue {
    fn wants_reading(&self) -> bool {
        !self.has_ended && self.waiting_bytes < HELD_BYTES_MAX
    }

    fn due(&self) -> Option<Instant> {
        self.waiting.front().map(|(due, _)| *due)
    }

    /// Reads the available bytes.
    fn read(&mut self, mut from: &TcpStream, now: Instant) -> Result<Vec<u8>, Gone> {
        if !self.wants_reading() {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; READ_BYTES];
        match from.read(&mut bytes) {
            Ok(0) => {
                self.has_ended = true;
                Ok(Vec::new())
            }
            Ok(count) => {
                bytes.truncate(count);
                self.read_at = Some(now);
                Ok(bytes)
            }
            Err(error) if is_later(&error) => Ok(Vec::new()),
            Err(_) => Err(Gone),
        }
    }

    fn hold(&mut self, due: Instant, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.taken += bytes.len() as u64;
            self.waiting_bytes += bytes.len();
            self.waiting.push_back((due, bytes));
        }
    }

    /// Writes the bytes that are due, as far as the other side takes them.
    fn write(&mut self, mut to: &TcpStream, now: Instant) -> Result<(), Gone> {
        while let Some((due, bytes)) = self.waiting.front_mut() {
            if *due > now {
                return Ok(());
            }
            match to.write(bytes) {
                Ok(count) => {
                    self.waiting_bytes -= count;
                    bytes.drain(..count);
                    if bytes.is_empty() {
                        self.waiting.pop_front();
                    }
                }
                Err(error) if is_later(&error) => return Ok(()),
                Err(_) => return Err(Gone),
            }
        }
        if self.has_ended && !self.is_shut {
            self.is_shut = true;
            // The other side may have closed already.
            drop(to.shutdown(Shutdown::Write));
        }
        Ok(())
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// A client's connection and the one made for it.
struct Pair<'a> {
    client: TcpStream,
    server: TcpStream,
    requests: ByteQueue,
    replies: ByteQueue,
    shared: &'a Shared,
    /// The version of the fault that was last seen.
    change: u64,
    /// Bytes are missing: the connection can't continue after the fault.
    has_lost: bool,
}

impl<'a> Pair<'a> {
    fn run(client: TcpStream, server: SocketAddr, shared: &'a Shared) {
        let fault = shared.state.lock().expect("proxy").fault;
        if fault == Fault::Reset {
            shared.update(|state| state.counters.resets += 1);
            reset(&client);
            return;
        }
        // Refused: the client sees a close, the only signal of a proxy.
        let Ok(server) = TcpStream::connect_timeout(&server, LAST_WORDS) else { return };
        for stream in [&client, &server] {
            stream.set_nonblocking(true).expect("nonblocking");
            stream.set_nodelay(true).expect("no delay");
        }
        let change = shared.state.lock().expect("proxy").change;
        let (requests, replies) = (ByteQueue::default(), ByteQueue::default());
        let mut pair = Self { client, server, requests, replies, shared, change, has_lost: false };
        while let Ok(true) = pair.step() {}
    }

    /// Serves both sides once. False once the connection is closed.
    fn step(&mut self) -> Result<bool, Gone> {
        // First, so that the current fault is the one set before the bytes that end the wait were sent.
        self.wait();
        let (fault, change, has_ended) = {
            let state = self.shared.state.lock().expect("proxy");
            (state.fault, state.change, state.has_ended)
        };
        if has_ended {
            return Ok(false);
        }
        if change != self.change {
            if self.has_lost {
                return Ok(false);
            }
            self.change = change;
            self.requests.taken = 0;
            self.replies.taken = 0;
        }
        if fault == Fault::Reset {
            self.shared.update(|state| state.counters.resets += 1);
            reset(&self.client);
            reset(&self.server);
            return Ok(false);
        }

        let now = Instant::now();
        let mut requests = self.requests.read(&self.client, now).unwrap_or_else(|Gone| {
            // The bytes that it sent before still arrive.
            self.requests.has_ended = true;
            Vec::new()
        });
        let mut replies = self.replies.read(&self.server, now)?;
        let mut due = (now, now);
        match fault {
            Fault::None | Fault::Reset => {}
            Fault::CutRequest { after } => {
                let left = after.saturating_sub(self.requests.taken);
                if requests.len() as u64 > left {
                    requests.truncate(left as usize);
                    self.requests.hold(now, requests);
                    self.shared.spent(change);
                    self.end_request();
                    return Ok(false);
                }
            }
            Fault::CutReplies { after } => {
                let left = after.saturating_sub(self.replies.taken);
                if replies.len() as u64 > left || self.has_lost {
                    replies.truncate(left as usize);
                    self.has_lost = true;
                }
                let is_whole = self.requests.read_at.is_none_or(|at| now - at > QUIET)
                    && self.requests.waiting.is_empty();
                if self.has_lost && is_whole {
                    self.shared.spent(change);
                    return Ok(false);
                }
            }
            Fault::Delay { requests, replies } => due = (now + requests, now + replies),
            Fault::Dribble { bytes, pause } => {
                for part in std::mem::take(&mut replies).chunks(bytes) {
                    let last = self.replies.waiting.back().map_or(now, |(due, _)| *due);
                    self.replies.hold(last + pause, part.to_vec());
                }
            }
            Fault::BlackHole => {
                self.has_lost |= !requests.is_empty() || !replies.is_empty();
                let swallowed = requests.len() as u64;
                self.shared.update(|state| state.counters.swallowed += swallowed);
                requests.clear();
                replies.clear();
            }
        }
        self.requests.hold(due.0, requests);
        self.replies.hold(due.1, replies);
        self.requests.write(&self.server, now)?;
        // The bytes of a client that has closed still arrive.
        if self.replies.write(&self.client, now).is_err() {
            self.replies = ByteQueue { has_ended: true, is_shut: true, ..ByteQueue::default() };
            self.requests.has_ended = true;
        }
        Ok(!(self.requests.is_shut && self.replies.is_shut))
    }

    /// Waits until a side is readable, or can take due bytes, or the fault may have changed.
    fn wait(&self) {
        let now = Instant::now();
        let mut timeout = LOOK;
        let mut wanted = [(self.client.as_raw_fd(), 0), (self.server.as_raw_fd(), 0)];
        for (lane, from, to) in [(&self.requests, 0, 1), (&self.replies, 1, 0)] {
            if lane.wants_reading() {
                wanted[from].1 |= libc::POLLIN;
            }
            match lane.due() {
                Some(due) if due <= now => wanted[to].1 |= libc::POLLOUT,
                Some(due) => timeout = timeout.min(due - now + Duration::from_millis(1)),
                None => {}
            }
        }
        // A side without events to wait for is left out: poll would return at once with its close.
        let wanted = wanted.map(|(fd, events)| if events == 0 { (-1, 0) } else { (fd, events) });
        poll(wanted, timeout);
    }

    /// Closes the client. The server still gets the buffered bytes, then the close.
    fn end_request(&mut self) {
        // It may be closed already.
        drop(self.client.shutdown(Shutdown::Both));
        self.requests.has_ended = true;
        let deadline = Instant::now() + LAST_WORDS;
        loop {
            let now = Instant::now();
            // Replies are read and discarded, so that the server can close in order.
            let is_over = self.requests.write(&self.server, now).is_err()
                || self.replies.read(&self.server, now).is_err()
                || self.replies.has_ended;
            if is_over || now > deadline {
                return;
            }
            self.wait();
        }
    }
}

/// Makes the next close a reset.
fn reset(stream: &TcpStream) {
    // Fails only if the peer has reset it first.
    drop(SockRef::from(stream).set_linger(Some(Duration::ZERO)));
}
