//! The other engine: may_minihttp 0.1.11 behind the same [`Service`], for comparisons.
//!
//! may_minihttp owns the sockets: one coroutine for each connection reads, calls its service and
//! writes. Around it stand three mends. `connection` puts right, inside a call, what may_minihttp
//! gets wrong about bodies, closing and answers that come later. `monitor` keeps the deadlines and
//! the number of connections from outside. The accept loop waits in `MayConnectionFactory` before descriptors
//! run out. What can't be mended through the public API is [`KNOWN_LIMITS`].
//!
//! It answers request by request, so each request is a round. [`Service::round_answered`] is told
//! when the answer has been handed to may_minihttp, a moment before it is written.

mod connection;
mod monitor;
mod socket;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use may::coroutine::JoinHandle;
use may_minihttp::HttpServiceFactory;
use parking_lot::Mutex;

use self::connection::{HeaderLines, MayConnection, pause};
pub use self::monitor::CONNECTIONS_OVER_MAX;
use self::monitor::ConnectionMonitor;
use self::socket::BorrowedSocket;
use super::Limits;
use super::counters::HttpCounters;
use super::message::Service;
use sigmad_clock::Clock;

/// What a user must know before choosing this engine; printed at start, and the table of docs/ENGINES.md.
pub const KNOWN_LIMITS: &[&str] = &[
    "more than 16 header fields, or a head it can't parse: closed without an answer, and answers not yet sent are lost",
    "no chunked request bodies: 501",
    "a client that ends its side together with its request gets no answer",
    "a head that never ends is noticed 50 ms late and at --max-head plus 64 KiB; bare line feeds in a head are accepted",
    "HEAD and streamed answers close their connection; behind pipelined requests HEAD says Content-Length: 0 and a stream is 503",
    "requests pipelined behind the last one of a connection are answered 503, not ignored",
    "past 1,024 distinct header lines per worker, a line that was never sent before is left out",
    "70 KiB and more for each connection, and 256 KiB of stack reserved",
    "a flood on one connection delays others; idle workers wake 100 times a second",
    "it writes to stderr on every head it can't parse",
];

/// In words of 8 bytes: 256 KiB, since a parser of nested JSON overflows may's 32 KiB.
const STACK_WORDS: usize = 0x8000;
/// Stacks that may maps at start, before the first answer; its own 1000 are 256 MiB of addresses.
const STACKS_KEPT: usize = 100;
/// The accept loop's pause while no further descriptor may be opened.
const FULL_PAUSE: Duration = Duration::from_millis(1);
/// How long connections that were cut may take to notice.
const CUT_GRACE: Duration = Duration::from_millis(500);

/// One of the services, and what it needs to answer. One connection at a time is inside.
struct ServiceSlot<S> {
    /// Taken out when the engine has stopped.
    service: Option<S>,
    lines: HeaderLines,
    calls: u64,
}

/// What all connections share.
struct MayShared<S> {
    slots: Box<[Mutex<ServiceSlot<S>>]>,
    monitor: Arc<ConnectionMonitor>,
}

struct MayConnectionFactory<S> {
    shared: Arc<MayShared<S>>,
    start: Instant,
}

impl<S: Service + Send + 'static> HttpServiceFactory for MayConnectionFactory<S> {
    type Service = MayConnection<S>;

    /// Runs in the accept loop, which therefore waits here when descriptors are about to run out:
    /// past the limit may_minihttp would spin.
    fn new_service(&self, id: usize) -> MayConnection<S> {
        while self.shared.monitor.is_full() {
            pause(FULL_PAUSE);
        }
        let socket = BorrowedSocket::borrow(id);
        // Err: the client has gone already; its first read will tell.
        let (Ok(()) | Err(_)) = socket.set_nodelay();
        let mut clock = Clock::new(self.start);
        let guard = self.shared.monitor.admit(socket, &mut clock);
        MayConnection::new(self.shared.clone(), guard, clock)
    }
}

/// A running engine.
pub struct MayEngine<S> {
    address: SocketAddr,
    shared: Arc<MayShared<S>>,
    accepting: JoinHandle<()>,
    watching: std::thread::JoinHandle<()>,
    start: Instant,
}

/// Starts the engine with one thread for each of `services`; `start` is the moment from which all
/// clocks count, `counters` what the engine counts of all connections together.
///
/// may's threads, their pinning and its stacks are the process's, set by the first engine. `limits` leaves
/// [`CONNECTIONS_OVER_MAX`] descriptors more than connections.
///
/// # Errors
/// When the address can't be bound, or no thread starts.
pub fn start<S: Service + Send + 'static>(
    address: SocketAddr,
    services: Vec<S>,
    limits: Limits,
    is_pinned: bool,
    counters: Arc<HttpCounters>,
    start: Instant,
) -> io::Result<MayEngine<S>> {
    assert!(!services.is_empty(), "an engine without threads");
    may::config()
        .set_workers(services.len())
        .set_stack_size(STACK_WORDS)
        .set_pool_capacity(STACKS_KEPT)
        .set_worker_pin(is_pinned);
    let slot =
        |service| ServiceSlot { service: Some(service), lines: HeaderLines::default(), calls: 0 };
    let shared = Arc::new(MayShared {
        slots: services.into_iter().map(|service| Mutex::new(slot(service))).collect(),
        monitor: Arc::new(ConnectionMonitor::new(limits, counters)),
    });
    // may_minihttp binds by itself, sharing the port with whoever else would, and does not say which
    // port it got.
    let address = TcpListener::bind(address)?.local_addr()?;
    let accepting = MayConnectionFactory { shared: shared.clone(), start }.start(address)?;
    let monitor = shared.monitor.clone();
    let watching = std::thread::Builder::new()
        .name("monitor".into())
        .spawn(move || monitor.run(Clock::new(start)))?;
    Ok(MayEngine { address, shared, accepting, watching, start })
}

impl<S> MayEngine<S> {
    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, answers what is under way with `Connection: close`, closes idle connections a
    /// moment later and all of them after `limit`; returns the services, which are called no more.
    pub fn stop(self, limit: Duration) -> Vec<S> {
        let monitor = &self.shared.monitor;
        monitor.drain(limit, Clock::new(self.start).now().monotonic_ms());
        // SAFETY: cancelling unwinds the accept loop where it waits: in accept or in a pause, with
        // no lock held and nothing half done.
        unsafe { self.accepting.coroutine().cancel() };
        // Err: it ended by that unwinding.
        let (Ok(()) | Err(_)) = self.accepting.join();
        monitor.wait_until_empty(limit + CUT_GRACE);
        let services = self.shared.slots.iter().filter_map(|slot| slot.lock().service.take());
        let services = services.collect();
        monitor.end();
        self.watching.join().expect("the monitor does not panic");
        services
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_known_limit_and_no_other() {
        let document = include_str!("../../docs/ENGINES.md");
        let (_, table) = document.split_once("known limits |").expect("the table");
        let rows = table.lines().skip(2).take_while(|row| row.starts_with('|'));
        let listed: Vec<_> = rows.filter_map(|row| row.split('|').nth(1)).map(str::trim).collect();
        assert_eq!(listed, KNOWN_LIMITS);
    }
}
