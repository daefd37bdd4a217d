//! A registered socket of [`super::UringPoller`]: what has arrived of it and what is sent to it.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::Shutdown;

use socket2::Socket;

use crate::http::poller::{PolledSocket, Progress};

/// A response that is longer is sent at once, without a copy. A socket keeps so much of its buffer for the others, and
/// does not count it: no more than the kernel keeps for a send.
pub(super) const SEND_KEPT_BYTES: usize = 4 * 1024;

/// Bytes that have arrived and are unread.
#[derive(Debug)]
pub(super) enum Arrived {
    /// In a buffer of the pool.
    Lent { id: u16, length: usize },
    /// Copied, for want of buffers.
    Copied(Box<[u8]>),
}

/// A registered socket. It lives until the kernel has completed its last operation.
#[derive(Debug)]
pub(super) struct Slot {
    pub socket: Socket,
    pub key: usize,
    pub arrived: VecDeque<Arrived>,
    /// Bytes of `arrived` that are copied.
    pub copied_bytes: usize,
    /// What the kernel sends, from `sent` on. It may grow until it is submitted.
    pub output: Vec<u8>,
    pub sent: usize,
    pub is_submitted: bool,
    pub is_receiving: bool,
    /// The epoll instance has it: its client sends no more, and may go.
    pub is_watched: bool,
    /// The peer sends no more.
    pub has_ended: bool,
    pub is_broken: bool,
    /// The worker wants to send more once the response is sent.
    pub wants_room: bool,
    /// The peer is to be told of the end behind the response.
    pub shuts_write: bool,
    /// The worker has closed it.
    pub is_closed: bool,
    /// Its receive is told to end, for it is closed.
    pub is_cancelled: bool,
    /// It is in the list of those with progress.
    pub is_listed: bool,
}

impl Slot {
    pub fn new(socket: Socket, key: usize) -> Self {
        Self {
            socket,
            key,
            arrived: VecDeque::new(),
            copied_bytes: 0,
            output: Vec::new(),
            sent: 0,
            is_submitted: false,
            is_receiving: false,
            is_watched: false,
            has_ended: false,
            is_broken: false,
            wants_room: false,
            shuts_write: false,
            is_closed: false,
            is_cancelled: false,
            is_listed: false,
        }
    }

    pub fn has_input(&self) -> bool {
        !self.arrived.is_empty() || self.has_ended || self.is_broken
    }

    pub fn held_bytes(&self) -> usize {
        self.copied_bytes + self.output.capacity().saturating_sub(SEND_KEPT_BYTES)
    }

    pub fn progress(&mut self) -> Progress {
        self.is_listed = false;
        Progress {
            key: self.key,
            has_input: self.has_input(),
            is_half_closed: self.has_ended,
            is_broken: self.is_broken,
            held_bytes: self.held_bytes(),
        }
    }

    /// Its own index, unless it is among those with progress already.
    pub fn list(&mut self, index: usize) -> Option<usize> {
        (!mem::replace(&mut self.is_listed, true)).then_some(index)
    }

    /// What the kernel takes at once of a response that is not worth a copy.
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        let mut sent = 0;
        while sent < bytes.len() {
            match self.socket.send_with_flags(&bytes[sent..], flags) {
                Ok(length) => sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    pub fn is_sending(&self) -> bool {
        !self.output.is_empty()
    }

    /// A response is sent, or is not sent any more.
    pub fn end_send(&mut self) {
        self.is_submitted = false;
        self.sent = 0;
        self.output.clear();
        self.output.shrink_to(SEND_KEPT_BYTES);
        if mem::take(&mut self.shuts_write) {
            // It fails when the peer has gone, which is said by the receive.
            let _ = self.socket.shutdown(Shutdown::Write);
        }
    }

    /// True when the kernel uses neither its descriptor nor its memory.
    pub fn is_at_rest(&self) -> bool {
        !self.is_sending() && !self.is_receiving
    }
}

/// A connection of either family.
#[derive(Debug)]
pub struct UringSocket {
    pub(super) place: Place,
    pub(super) has_input: bool,
    pub(super) is_half_closed: bool,
    pub(super) held_bytes: usize,
}

/// Where the descriptor is.
#[derive(Debug)]
pub(super) enum Place {
    /// Not registered yet.
    Here(Socket),
    Slot(usize),
    Moving,
}

impl UringSocket {
    pub(super) fn slot(&self) -> usize {
        match self.place {
            Place::Slot(slot) => slot,
            Place::Here(_) | Place::Moving => unreachable!("a worker registers a socket first"),
        }
    }
}

impl PolledSocket for UringSocket {
    fn update(&mut self, progress: Progress) {
        self.has_input |= progress.has_input;
        self.is_half_closed |= progress.is_half_closed;
        self.held_bytes = progress.held_bytes;
    }

    fn has_input(&self) -> bool {
        self.has_input
    }

    fn is_half_closed(&self) -> bool {
        self.is_half_closed
    }

    fn held_bytes(&self) -> usize {
        self.held_bytes
    }
}
