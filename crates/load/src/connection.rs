//! One connection: its socket, what it still has to write, and the requests it waits for.
//!
//! It knows no schedule and counts nothing: the [`driver`](super::driver) does.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

/// A request without its answer.
#[derive(Clone, Copy, Debug)]
pub struct PendingRequest {
    /// Its number among those of all threads.
    pub number: u64,
    /// When it should have left, in monotonic nanoseconds.
    pub due_ns: u64,
    /// When it left.
    pub sent_ns: u64,
}

#[derive(Debug)]
enum SocketState {
    /// Not before that moment is another attempt worth it.
    Closed {
        retry_ns: u64,
    },
    Connecting {
        socket: TcpStream,
        since_ns: u64,
    },
    Open(TcpStream),
}

/// One of the connections of a thread; opened again and again.
#[derive(Debug)]
pub struct LoadConnection {
    state: SocketState,
    /// What was read and is no whole answer yet.
    pub input: Vec<u8>,
    /// What the kernel did not take yet, from `written` on.
    output: Vec<u8>,
    written: usize,
    /// In the order in which they were sent, which is that of the answers.
    pub in_flight: VecDeque<PendingRequest>,
    /// Answers since it was opened.
    pub answers: u64,
    /// It was open before.
    pub was_open: bool,
    /// It stands in the driver's list of those that are free.
    pub is_listed: bool,
}

/// What became of an attempt to connect.
#[derive(Debug)]
pub enum ConnectResult {
    /// It is open now.
    Opened,
    /// It has failed.
    Failed(io::Error),
    /// Nothing new.
    Unchanged,
}

impl LoadConnection {
    /// Closed, and to be opened at once.
    pub fn new(pipeline: usize) -> Self {
        Self {
            state: SocketState::Closed { retry_ns: 0 },
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            in_flight: VecDeque::with_capacity(pipeline),
            answers: 0,
            was_open: false,
            is_listed: false,
        }
    }

    /// Requests can be sent.
    pub fn is_open(&self) -> bool {
        matches!(self.state, SocketState::Open(_))
    }

    /// Bytes wait for the kernel.
    pub fn has_output(&self) -> bool {
        self.written < self.output.len()
    }

    /// It is closed, and it is time for another attempt.
    pub fn wants_retry(&self, now_ns: u64) -> bool {
        matches!(self.state, SocketState::Closed { retry_ns } if retry_ns <= now_ns)
    }

    /// Since when it has been connecting.
    pub fn connecting_since_ns(&self) -> Option<u64> {
        match self.state {
            SocketState::Connecting { since_ns, .. } => Some(since_ns),
            SocketState::Closed { .. } | SocketState::Open(_) => None,
        }
    }

    /// Begins to connect; the poller tells when there is an answer.
    ///
    /// # Errors
    /// When there is no descriptor or port left.
    pub fn connect(
        &mut self,
        address: SocketAddr,
        registry: &Registry,
        token: Token,
        now_ns: u64,
    ) -> io::Result<()> {
        let mut socket = TcpStream::connect(address)?;
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        self.state = SocketState::Connecting { socket, since_ns: now_ns };
        Ok(())
    }

    /// Asks how the attempt to connect went.
    pub fn finish_connecting(&mut self) -> ConnectResult {
        let SocketState::Connecting { socket, .. } = &self.state else {
            return ConnectResult::Unchanged;
        };
        match socket.take_error() {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => return ConnectResult::Failed(error),
        }
        match socket.peer_addr().and_then(|_| socket.set_nodelay(true)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                return ConnectResult::Unchanged;
            }
            Err(error) => return ConnectResult::Failed(error),
        }
        let closed = SocketState::Closed { retry_ns: 0 };
        if let SocketState::Connecting { socket, .. } = std::mem::replace(&mut self.state, closed) {
            self.state = SocketState::Open(socket);
        }
        ConnectResult::Opened
    }

    /// Closes it and forgets what it waited for; another attempt is worth it at `retry_ns`.
    pub fn close(&mut self, retry_ns: u64) {
        self.state = SocketState::Closed { retry_ns };
        self.input.clear();
        self.output.clear();
        self.written = 0;
        self.in_flight.clear();
        self.answers = 0;
    }

    /// Adds bytes to what [`LoadConnection::flush`] will write.
    pub fn queue(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Writes what was queued, as far as the kernel takes it.
    ///
    /// # Errors
    /// When the connection has gone.
    pub fn flush(&mut self) -> io::Result<()> {
        let SocketState::Open(socket) = &mut self.state else { return Ok(()) };
        self.written += write_all(socket, &self.output[self.written..])?;
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
        }
        Ok(())
    }

    /// Writes these bytes, without a copy where the kernel takes them all.
    ///
    /// # Errors
    /// When the connection has gone.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        debug_assert!(!self.has_output());
        let SocketState::Open(socket) = &mut self.state else { return Ok(()) };
        let taken = write_all(socket, bytes)?;
        self.output.extend_from_slice(&bytes[taken..]);
        Ok(())
    }

    /// Reads what is there; true when the server has ended the connection. `to_the_end`: the poller
    /// has seen the end, and will not tell again.
    pub fn read(&mut self, scratch: &mut [u8], to_the_end: bool) -> bool {
        let SocketState::Open(socket) = &mut self.state else { return false };
        loop {
            match socket.read(scratch) {
                Ok(0) => return true,
                Ok(length) => {
                    self.input.extend_from_slice(&scratch[..length]);
                    // What comes later makes a new edge.
                    if length < scratch.len() && !to_the_end {
                        return false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A reset ends it like any other end: what was not answered counts as lost.
                Err(_) => return true,
            }
        }
    }
}

/// Writes as much as the kernel takes; returns how many bytes.
fn write_all(socket: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
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
