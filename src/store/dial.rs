//! Opens connections to Redis: bytes out, replies in.
//!
//! What is above sees Redis and the network through these two traits alone, so that a simulation of both can
//! stand in their place.

use std::fmt::Debug;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redis::RedisResult;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use sigmad_clock::elapsed;
use socket2::SockRef;

use super::replies::ReplyBuffer;
use super::reply::Reply;
use super::url::Address;

/// For the SYN to be acknowledged: three round trips around the world; a lost SYN costs an attempt.
/// It applies to each address of a host name.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// For each write, and for each read of a reply: past it Redis or the network hangs.
/// A script or a fork stops a healthy Redis for a tenth of it.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest wait for a reply before the deadline is looked at again: a drain may begin meanwhile.
pub const WAIT_MAX: Duration = Duration::from_millis(100);

/// Opens connections.
pub trait Dialer: Debug + Send + Sync {
    /// Connects to one Redis process, within a bounded time.
    fn dial(&self, address: &Address, is_tls: bool) -> RedisResult<Box<dyn RedisStream>>;
}

/// One open connection. Every call ends within a bounded time; after an error it is not used again.
pub trait RedisStream: Send {
    /// Sends encoded commands.
    fn write(&mut self, packed: &[u8]) -> RedisResult<()>;
    /// Reads the next reply. A refusal is a [`redis::Value::ServerError`].
    fn read(&mut self) -> RedisResult<Reply>;
}

/// Connects over TCP, with or without TLS.
#[derive(Clone, Debug)]
pub struct TcpDialer {
    start: Instant,
    deadline_ns: Arc<AtomicU64>,
}

impl TcpDialer {
    /// Times count from `start`. No call ends after `deadline_ns`, unless that is 0. Two may, if they began before it
    /// was set: a connect, by [`CONNECT_TIMEOUT`] at most, and the system's search for the address of a host name.
    pub fn new(start: Instant, deadline_ns: Arc<AtomicU64>) -> Self {
        Self { start, deadline_ns }
    }
}

impl Dialer for TcpDialer {
    fn dial(&self, address: &Address, is_tls: bool) -> RedisResult<Box<dyn RedisStream>> {
        let tls = if is_tls { Some(tls_to(&address.host)?) } else { None };
        let socket = TimedSocket::connect(address, self)?;
        Ok(match tls {
            None => Box::new(TcpRedis { socket, replies: ReplyBuffer::default() }),
            Some(tls) => {
                let socket = StreamOwned::new(tls, socket);
                Box::new(TcpRedis { socket, replies: ReplyBuffer::default() })
            }
        })
    }
}

/// The roots are the system's, or those of `SSL_CERT_FILE`. They are read for each connection, as certificates
/// are renewed.
fn tls_to(host: &str) -> io::Result<ClientConnection> {
    let mut found = rustls_native_certs::load_native_certs();
    if let Some(error) = found.errors.pop() {
        return Err(io::Error::other(error));
    }
    let mut roots = RootCertStore::empty();
    for certificate in found.certs {
        roots.add(certificate).map_err(io::Error::other)?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)
}

/// A connection over TCP.
struct TcpRedis<S> {
    socket: S,
    replies: ReplyBuffer,
}

impl<S: Timed + Read + Write + Send> RedisStream for TcpRedis<S> {
    fn write(&mut self, packed: &[u8]) -> RedisResult<()> {
        self.socket.timed().begin(REPLY_TIMEOUT);
        self.socket.write_all(packed)?;
        Ok(self.socket.flush()?)
    }

    fn read(&mut self) -> RedisResult<Reply> {
        self.socket.timed().begin(REPLY_TIMEOUT);
        loop {
            if let Some(reply) = self.replies.next()? {
                return Ok(reply);
            }
            self.replies.fill(&mut self.socket)?;
        }
    }
}

/// What has a [`TimedSocket`] in it.
trait Timed {
    fn timed(&mut self) -> &mut TimedSocket;
}

impl Timed for TimedSocket {
    fn timed(&mut self) -> &mut TimedSocket {
        self
    }
}

impl Timed for StreamOwned<ClientConnection, TimedSocket> {
    fn timed(&mut self) -> &mut TimedSocket {
        &mut self.sock
    }
}

/// A socket whose calls end in time. One that a signal interrupts goes on: a CPU profiler interrupts threads.
#[derive(Debug)]
struct TimedSocket {
    tcp: TcpStream,
    dialer: TcpDialer,
    /// The end of the present call, since the start.
    end: Duration,
}

impl TimedSocket {
    /// Tries one address of the host after the other.
    fn connect(address: &Address, dialer: &TcpDialer) -> io::Result<Self> {
        let mut failure = None;
        for address in (address.host.as_str(), address.port).to_socket_addrs()? {
            let end = elapsed(dialer.start) + CONNECT_TIMEOUT;
            match TcpStream::connect_timeout(&address, dialer.left(end)?) {
                Ok(tcp) => {
                    // A flush is one write: waiting for more data only delays its end.
                    tcp.set_nodelay(true)?;
                    // Bytes that the other side does not acknowledge in that time end the connection.
                    SockRef::from(&tcp).set_tcp_user_timeout(Some(REPLY_TIMEOUT))?;
                    return Ok(Self { tcp, dialer: dialer.clone(), end });
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| io::Error::other("the host name has no address")))
    }

    /// The next calls together end within that time.
    fn begin(&mut self, within: Duration) {
        self.end = elapsed(self.dialer.start) + within;
    }

    /// True when a call that returns `result` goes on: a signal has interrupted it, or its end is not reached.
    fn goes_on<T>(result: &io::Result<T>) -> bool {
        use ErrorKind::{Interrupted, WouldBlock};
        matches!(result, Err(error) if matches!(error.kind(), Interrupted | WouldBlock))
    }
}

impl TcpDialer {
    /// The time until `end`, or until the deadline if that is sooner.
    fn left(&self, end: Duration) -> io::Result<Duration> {
        // Relaxed: no other data depends on it.
        let end = match self.deadline_ns.load(Ordering::Relaxed) {
            0 => end,
            deadline_ns => end.min(Duration::from_nanos(deadline_ns)),
        };
        let left = end.saturating_sub(elapsed(self.start));
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for TimedSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.tcp.set_read_timeout(Some(self.dialer.left(self.end)?.min(WAIT_MAX)))?;
            let result = self.tcp.read(buffer);
            if !Self::goes_on(&result) {
                return result;
            }
        }
    }
}

impl Write for TimedSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.tcp.set_write_timeout(Some(self.dialer.left(self.end)?.min(WAIT_MAX)))?;
            let result = self.tcp.write(bytes);
            if !Self::goes_on(&result) {
                return result;
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
