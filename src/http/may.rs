//! The engine `may`: may_minihttp 0.1.11 behind the same [`Service`], for comparisons.
//!
//! may_minihttp owns the sockets: one coroutine for each connection reads, calls its service and
//! writes. Three parts correct its errors. `connection` handles bodies, closing and deferred responses
//! inside a call. `monitor` keeps the deadlines and the number of connections from outside. The
//! accept loop waits in the factory before descriptors run out. [`KNOWN_LIMITS`] lists what the
//! public API does not allow to correct.
//!
//! Each request is a round. [`Service::round_answered`] is called when may_minihttp has the response,
//! a moment before it writes it.

mod completions;
mod connection;
mod monitor;
mod response;
mod slot;
mod socket;
mod state;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use may::coroutine::JoinHandle;
use may_minihttp::HttpServiceFactory;

use self::connection::{MayConnection, pause};
pub use self::monitor::CONNECTIONS_OVER_MAX;
use self::monitor::ConnectionMonitor;
use self::slot::MayShared;
use self::socket::BorrowedSocket;
use super::Limits;
use super::counters::HttpCounters;
use super::message::Service;
use sigmad_clock::Clock;

/// The limits of this engine: logged at start, and listed in docs/ENGINES.md.
pub const KNOWN_LIMITS: &[&str] = &[
    "more than 16 header fields, or a head it can't parse: closed without an answer, and answers not yet sent are lost",
    "no chunked request bodies: 501",
    "a client that ends its side together with its request gets no answer",
    "a head that never ends is noticed 50 ms late and at --max-head plus 64 KiB; bare line feeds in a head are accepted",
    "HEAD and streamed answers close their connection; behind pipelined requests HEAD says Content-Length: 0 and a stream is 503",
    "requests pipelined behind the last one of a connection are answered 503, not ignored",
    "past 1,024 distinct header lines per worker, a line that was never sent before is left out",
    "70 KiB and more for each connection, and 256 KiB of stack reserved",
    "bodies have no common budget and no least rate: many clients can take all memory",
    "a flood on one connection delays others; idle workers wake 100 times a second",
    "it writes to stderr on every head it can't parse",
];

/// In words of 8 bytes: 256 KiB, since parsing nested JSON overflows may's 32 KiB.
const STACK_WORDS: usize = 0x8000;
/// Stacks that may maps at start. Its default of 1000 would take 256 MiB of addresses.
const STACKS_KEPT: usize = 100;
/// The accept loop's pause while no further descriptor may be opened.
const FULL_PAUSE: Duration = Duration::from_millis(1);
/// The time in which cut connections end.
const CUT_GRACE: Duration = Duration::from_millis(500);

struct MayConnectionFactory<S> {
    shared: Arc<MayShared<S>>,
    start: Instant,
}

impl<S: Service + Send + 'static> HttpServiceFactory for MayConnectionFactory<S> {
    type Service = MayConnection<S>;

    /// Runs in the accept loop, and blocks it while no descriptor may be opened: without one,
    /// may_minihttp would spin.
    fn new_service(&self, id: usize) -> MayConnection<S> {
        while self.shared.monitor.is_full() {
            pause(FULL_PAUSE);
        }
        let socket = BorrowedSocket::borrow(id);
        // Err: the client has gone already, which the first read reports.
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
    monitoring: std::thread::JoinHandle<()>,
    start: Instant,
}

/// Starts the engine with one thread for each of `services`. `start` is the moment from which all
/// clocks count; `counters` are those of all connections.
///
/// may's threads, their pinning and its stacks belong to the process; the first engine sets them. The
/// process must have descriptors for [`CONNECTIONS_OVER_MAX`] more connections than `limits` allows.
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
    let shared = Arc::new(MayShared::new(services, ConnectionMonitor::new(limits, counters)));
    // may_minihttp binds the port itself, shared, and does not return it.
    let address = TcpListener::bind(address)?.local_addr()?;
    let accepting = MayConnectionFactory { shared: shared.clone(), start }.start(address)?;
    let monitor = shared.monitor.clone();
    let monitoring = std::thread::Builder::new()
        .name("monitor".into())
        .spawn(move || monitor.run(Clock::new(start)))?;
    Ok(MayEngine { address, shared, accepting, monitoring, start })
}

impl<S> MayEngine<S> {
    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting and answers requests in progress with `Connection: close`. Closes idle
    /// connections after a moment, and all of them after `limit`. Returns the services.
    pub fn stop(self, limit: Duration) -> Vec<S> {
        let monitor = &self.shared.monitor;
        monitor.drain(limit, Clock::new(self.start).now().monotonic_ms());
        // SAFETY: cancelling unwinds the accept loop where it waits: in accept or in a pause, with
        // no lock held and nothing half done.
        unsafe { self.accepting.coroutine().cancel() };
        // Err: it ended by the cancellation.
        let (Ok(()) | Err(_)) = self.accepting.join();
        monitor.wait_until_empty(limit + CUT_GRACE);
        let services = self.shared.slots.iter().filter_map(|slot| slot.lock().service.take());
        let services = services.collect();
        monitor.end();
        self.monitoring.join().expect("the monitor does not panic");
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
