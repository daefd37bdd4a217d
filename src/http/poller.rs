//! The boundary between a worker's policy and the kernel.
//!
//! A worker asks for operations and takes what has completed: an accepted socket, received bytes, a
//! count of sent bytes, a closed peer, a wake-up. How the kernel reports it stays behind [`Poller`]:
//! [`epoll`] makes a system call when the worker takes the result, because readiness says that it
//! will not block; [`uring`] has had the kernel do it before. [`listening`] accepts for both, [`wait_timer`] ends their waits, and [`tls`] is a
//! layer over either.

pub mod epoll;
mod listening;
pub mod tls;
pub mod uring;
mod wait_timer;

use std::io;
use std::sync::Arc;

use super::client_address::ClientAddress;

/// Bytes of one receive: room for two thousand samples, so that a body that is here is read where it has arrived. A worker
/// has one buffer of this size; a page of it takes memory when it is written.
pub const RECEIVE_BYTES_MAX: usize = 256 * 1024;
const _: () = assert!(RECEIVE_BYTES_MAX >= 2 * 16 * 1024, "a whole head and the start of a body");

/// What has happened on one connection since the last wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The key under which the socket was registered.
    pub key: usize,
    /// Bytes, the end of the stream or an error have arrived.
    pub has_input: bool,
    /// The peer sends no more.
    pub is_half_closed: bool,
    /// The peer takes no more.
    pub is_broken: bool,
    /// Memory that its poller holds for its client.
    pub held_bytes: usize,
}

/// The result of [`Poller::receive`].
#[derive(Debug)]
pub enum Received<'a> {
    /// At least one byte.
    Bytes(&'a mut [u8]),
    /// No byte has arrived yet.
    Nothing,
    /// The peer sends no more, and everything before the end has been received.
    End,
    /// The first bytes are none of TLS, on a port that speaks it. From now on bytes pass as they are.
    NotTls,
    /// The connection is broken.
    Failed,
}

/// A connection that has been accepted and is not registered yet.
#[derive(Debug)]
pub struct Accepted<S> {
    /// The socket.
    pub socket: S,
    /// The peer's address.
    pub client: ClientAddress,
}

/// Ends the wait of a poller from another thread.
pub trait Wake: Send + Sync {
    /// The present wait, or the next one, returns at once.
    fn wake(&self);
}

/// A connected socket, with what its poller remembers of it.
pub trait PolledSocket {
    /// Takes note of progress.
    fn update(&mut self, progress: Progress);
    /// True when a receive may return more than [`Received::Nothing`].
    fn has_input(&self) -> bool;
    /// True when the peer sends no more; unread bytes may be left.
    fn is_half_closed(&self) -> bool;
    /// Memory that it holds for its client.
    fn held_bytes(&self) -> usize {
        0
    }
    /// True until bytes of a request can arrive: TLS is still negotiated.
    fn is_handshaking(&self) -> bool {
        false
    }
}

/// One worker's listeners and sockets. Only [`Poller::wait`] blocks.
pub trait Poller {
    /// A connected socket.
    type Socket: PolledSocket;

    /// Ends the wait from another thread.
    fn waker(&self) -> Arc<dyn Wake>;

    /// Blocks until an operation has completed, another thread wakes the poller, or it is `until_ms`; for `u64::MAX` there
    /// is no such moment. It is `now_ms`: with an `until_ms` that is not later nothing blocks. A wait may end early.
    ///
    /// # Errors
    /// When the kernel refuses to wait.
    fn wait(&mut self, now_ms: u64, until_ms: u64) -> io::Result<()>;

    /// The progress since the last wait: at most one for each connection.
    fn progress(&mut self) -> impl Iterator<Item = Progress>;

    /// True until [`Poller::close_listener`].
    fn is_listening(&self) -> bool;

    /// True when a connection may be waiting to be accepted.
    fn may_accept(&self) -> bool;

    /// The next connection; None when none is waiting.
    ///
    /// # Errors
    /// When there is no descriptor or no memory for it. It stays in the kernel's queue.
    fn accept(&mut self) -> io::Result<Option<Accepted<Self::Socket>>>;

    /// Open sockets whose TLS is still negotiated.
    fn handshakes(&self) -> usize {
        0
    }

    /// The listener will be closed. From now on [`Poller::accept`] asks the kernel whether it has reported a connection or
    /// not, until its queue is empty.
    fn empty_listener(&mut self);

    /// Stops listening; connections that were not accepted are reset.
    fn close_listener(&mut self);

    /// Reports progress of `socket` under `key` from now on.
    ///
    /// # Errors
    /// When the kernel has no memory for it.
    fn register(&mut self, socket: &mut Self::Socket, key: usize) -> io::Result<()>;

    /// Bytes that have arrived, at most [`RECEIVE_BYTES_MAX`] and what is left of a record of TLS.
    fn receive(&mut self, socket: &mut Self::Socket) -> Received<'_>;

    /// Sends `bytes`; returns how many have been sent. The caller offers the rest again, from the first
    /// byte that was not counted, after the next progress of the socket.
    ///
    /// # Errors
    /// When the connection is broken.
    fn send(&mut self, socket: &mut Self::Socket, bytes: &[u8]) -> io::Result<usize>;

    /// Tells the peer that nothing more is sent.
    ///
    /// # Errors
    /// When the connection is broken.
    fn shutdown_write(&mut self, socket: &mut Self::Socket) -> io::Result<()>;

    /// Closes the socket and ends its registration.
    fn close(&mut self, socket: Self::Socket);
}
