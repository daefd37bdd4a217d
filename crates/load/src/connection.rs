//! One connection: its socket, the bytes still to write, and the requests in flight.
//!
//! The [`driver`](super::driver) schedules and counts.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use mio::{Interest, Registry, Token};

use crate::socket::{LoadSocket, ServerAddress};

/// A request that waits for its response.
#[derive(Clone, Copy, Debug)]
pub struct PendingRequest {
    /// Its number among the requests of all threads.
    pub number: u64,
    /// When it was due, in monotonic nanoseconds.
    pub due_ns: u64,
    /// When it was sent.
    pub sent_ns: u64,
}

#[derive(Debug)]
enum SocketState {
    /// The next attempt is not before `retry_ns`.
    Closed {
        retry_ns: u64,
    },
    Connecting {
        socket: LoadSocket,
        since_ns: u64,
    },
    Open(LoadSocket),
}

/// One of the connections of a thread; reopened when lost.
#[derive(Debug)]
pub struct LoadConnection {
    state: SocketState,
    token: Token,
    /// The poller was asked to report when the kernel accepts more.
    awaits_room: bool,
    /// Bytes read that are no whole response yet.
    pub input: Vec<u8>,
    /// From `written` on: bytes that the kernel did not accept yet.
    output: Vec<u8>,
    written: usize,
    /// In the order of sending, which is the order of responses.
    pub in_flight: VecDeque<PendingRequest>,
    /// Responses since it was opened.
    pub answers: u64,
    /// Whether it was open before.
    pub was_open: bool,
    /// Whether it is in the driver's list of free connections.
    pub is_listed: bool,
}

/// The state of an attempt to connect.
#[derive(Debug)]
pub enum ConnectResult {
    /// The connection is open.
    Opened,
    /// The attempt failed.
    Failed(io::Error),
    /// The attempt continues.
    Unchanged,
}

impl LoadConnection {
    /// A closed connection, ready to open. The poller reports it by `token`.
    pub fn new(pipeline: usize, token: Token) -> Self {
        Self {
            state: SocketState::Closed { retry_ns: 0 },
            token,
            awaits_room: false,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            in_flight: VecDeque::with_capacity(pipeline),
            answers: 0,
            was_open: false,
            is_listed: false,
        }
    }

    /// Whether requests can be sent.
    pub fn is_open(&self) -> bool {
        matches!(self.state, SocketState::Open(_))
    }

    /// Whether bytes wait for the kernel.
    pub fn has_output(&self) -> bool {
        self.written < self.output.len()
    }

    /// Whether it is closed and another attempt is due.
    pub fn wants_retry(&self, now_ns: u64) -> bool {
        matches!(self.state, SocketState::Closed { retry_ns } if retry_ns <= now_ns)
    }

    /// The start of the attempt to connect.
    pub fn connecting_since_ns(&self) -> Option<u64> {
        match self.state {
            SocketState::Connecting { since_ns, .. } => Some(since_ns),
            SocketState::Closed { .. } | SocketState::Open(_) => None,
        }
    }

    /// Starts an attempt to connect; the poller reports its end.
    ///
    /// # Errors
    /// When there is no free descriptor or port.
    pub fn connect(
        &mut self,
        address: &ServerAddress,
        registry: &Registry,
        now_ns: u64,
    ) -> io::Result<()> {
        let mut socket = LoadSocket::connect(address)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(socket.source(), self.token, interest)?;
        self.state = SocketState::Connecting { socket, since_ns: now_ns };
        Ok(())
    }

    /// Checks the attempt to connect.
    pub fn finish_connecting(&mut self, registry: &Registry) -> ConnectResult {
        let SocketState::Connecting { socket, .. } = &mut self.state else {
            return ConnectResult::Unchanged;
        };
        match socket.is_connected() {
            Ok(true) => {}
            Ok(false) => return ConnectResult::Unchanged,
            Err(error) => return ConnectResult::Failed(error),
        }
        self.awaits_room = false;
        if let Err(error) = socket.await_room(registry, self.token, false) {
            return ConnectResult::Failed(error);
        }
        let closed = SocketState::Closed { retry_ns: 0 };
        if let SocketState::Connecting { socket, .. } = std::mem::replace(&mut self.state, closed) {
            self.state = SocketState::Open(socket);
        }
        ConnectResult::Opened
    }

    /// Closes it and drops its requests; the next attempt is at `retry_ns`.
    pub fn close(&mut self, retry_ns: u64) {
        self.state = SocketState::Closed { retry_ns };
        self.input.clear();
        self.output.clear();
        self.written = 0;
        self.in_flight.clear();
        self.answers = 0;
    }

    /// Queues bytes for [`LoadConnection::flush`].
    pub fn queue(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Writes queued bytes, as many as the kernel accepts.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn flush(&mut self, registry: &Registry) -> io::Result<()> {
        let SocketState::Open(socket) = &mut self.state else { return Ok(()) };
        self.written += write_all(socket, &self.output[self.written..])?;
        self.await_room(registry)?;
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
        }
        Ok(())
    }

    /// Writes these bytes, without a copy if the kernel accepts them all.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn send(&mut self, bytes: &[u8], registry: &Registry) -> io::Result<()> {
        debug_assert!(!self.has_output());
        let SocketState::Open(socket) = &mut self.state else { return Ok(()) };
        let taken = write_all(socket, bytes)?;
        self.output.extend_from_slice(&bytes[taken..]);
        self.await_room(registry)
    }

    /// After a write: the poller reports when the kernel accepts more, if something is left.
    fn await_room(&mut self, registry: &Registry) -> io::Result<()> {
        let is_awaited = self.has_output();
        if self.awaits_room != is_awaited
            && let SocketState::Open(socket) = &mut self.state
        {
            socket.await_room(registry, self.token, is_awaited)?;
            self.awaits_room = is_awaited;
        }
        Ok(())
    }

    /// Reads all bytes that have arrived; true if the server has closed the connection. `to_the_end`: the poller has
    /// reported the end, and reports it only once.
    pub fn read(&mut self, scratch: &mut [u8], to_the_end: bool) -> bool {
        let SocketState::Open(socket) = &mut self.state else { return false };
        loop {
            match socket.read(scratch) {
                Ok(0) => return true,
                Ok(length) => {
                    self.input.extend_from_slice(&scratch[..length]);
                    // Later bytes make a new edge.
                    if length < scratch.len() && !to_the_end {
                        return false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A reset is like any other end: requests in flight count as lost.
                Err(_) => return true,
            }
        }
    }
}

/// Writes as many bytes as the kernel accepts; returns their number.
fn write_all(socket: &mut LoadSocket, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match socket.write(&bytes[written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => written += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
