//! A poller over edge-triggered epoll, by mio, for TCP and Unix sockets.
//!
//! Each event is reported once, so a socket remembers that it may have input until a receive has
//! emptied it. A request costs one read and one write besides its share of the wait.

mod listening;

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::Socket;

use self::listening::Listening;
use super::{Accepted, PolledSocket, Poller, Progress, RECEIVE_BYTES_MAX, Received, Wake};
use crate::http::client_address::ClientAddress;
use crate::http::listen::Listener;

/// Events taken at once: the first connection waits until the last one has been read.
const EVENTS_MAX: usize = 256;

const WAKER: Token = Token(usize::MAX);
/// The token of the first listener; those of the others are below it.
const FIRST_LISTENER: usize = usize::MAX - 1;

/// An epoll instance with its listeners.
#[derive(Debug)]
pub struct EpollPoller {
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    listeners: Vec<Listening>,
    /// The listener whose turn it is, so that no address starves another.
    turn: usize,
    buffer: Box<[u8]>,
}

impl EpollPoller {
    /// Polls non-blocking listeners.
    ///
    /// # Errors
    /// When the kernel gives no epoll instance or no eventfd.
    pub fn new(listeners: impl IntoIterator<Item = impl Into<Listener>>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let mut listening = Vec::new();
        for (index, listener) in listeners.into_iter().enumerate() {
            let token = Token(FIRST_LISTENER - index);
            listening.push(Listening::new(listener.into(), &poll, token)?);
        }
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            waker,
            listeners: listening,
            turn: 0,
            buffer: vec![0; RECEIVE_BYTES_MAX].into_boxed_slice(),
        })
    }
}

impl EpollSocket {
    fn new(socket: Socket, client: ClientAddress) -> Self {
        Self { socket, client, key: 0, has_input: true, is_half_closed: false }
    }
}

impl EpollPoller {
    /// Progress will be reported once the kernel takes more.
    #[cold]
    fn await_room(&self, socket: &EpollSocket) -> io::Result<()> {
        match socket.client {
            // It is registered for it.
            ClientAddress::Ip(_) => Ok(()),
            ClientAddress::Unix => {
                let interest = Interest::READABLE | Interest::WRITABLE;
                let mut source = SourceFd(&socket.socket.as_raw_fd());
                self.poll.registry().reregister(&mut source, Token(socket.key), interest)
            }
        }
    }
}

impl Wake for Waker {
    fn wake(&self) {
        Self::wake(self).expect("an eventfd takes a wake-up");
    }
}

/// A connection of either family: reads and writes are the same calls.
#[derive(Debug)]
pub struct EpollSocket {
    socket: Socket,
    client: ClientAddress,
    key: usize,
    has_input: bool,
    is_half_closed: bool,
}

impl PolledSocket for EpollSocket {
    fn update(&mut self, progress: Progress) {
        self.has_input |= progress.has_input;
        self.is_half_closed |= progress.is_half_closed;
    }

    fn has_input(&self) -> bool {
        self.has_input
    }

    fn is_half_closed(&self) -> bool {
        self.is_half_closed
    }
}

fn progress(event: &Event, key: usize) -> Progress {
    Progress {
        key,
        has_input: event.is_readable() || event.is_error(),
        is_half_closed: event.is_read_closed(),
        is_broken: event.is_error() || event.is_write_closed(),
    }
}

impl Poller for EpollPoller {
    type Socket = EpollSocket;

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn progress(&mut self) -> impl Iterator<Item = Progress> {
        let Self { events, listeners, .. } = self;
        events.iter().filter_map(|event| match event.token() {
            WAKER => None,
            Token(key) => match listeners.get_mut(FIRST_LISTENER - key) {
                Some(listening) => {
                    listening.may_accept = true;
                    None
                }
                None => Some(progress(event, key)),
            },
        })
    }

    fn is_listening(&self) -> bool {
        !self.listeners.is_empty()
    }

    fn may_accept(&self) -> bool {
        self.listeners.iter().any(|listening| listening.may_accept)
    }

    fn accept(&mut self) -> io::Result<Option<Accepted<EpollSocket>>> {
        let (count, turn) = (self.listeners.len(), self.turn);
        for index in (0..count).map(|offset| (turn + offset) % count) {
            let listening = &mut self.listeners[index];
            while listening.may_accept {
                match listening.accept(&self.poll) {
                    Ok((socket, client)) => {
                        self.turn = index + 1;
                        return Ok(Some(Accepted {
                            socket: EpollSocket::new(socket, client),
                            client,
                        }));
                    }
                    Err(error) => match error.kind() {
                        io::ErrorKind::WouldBlock => listening.may_accept = false,
                        // Aborted: the client closed the connection while it was waiting.
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {}
                        _ => return Err(error),
                    },
                }
            }
        }
        Ok(None)
    }

    fn empty_listener(&mut self) {
        for listening in &mut self.listeners {
            (listening.may_accept, listening.is_closing) = (true, true);
        }
    }

    fn close_listener(&mut self) {
        for listening in self.listeners.drain(..) {
            listening.close(&self.poll);
        }
    }

    fn register(&mut self, socket: &mut EpollSocket, key: usize) -> io::Result<()> {
        socket.key = key;
        let interest = match socket.client {
            ClientAddress::Ip(_) => Interest::READABLE | Interest::WRITABLE,
            // A Unix socket reports that it is writable whenever its client has read something: up to one more wait
            // for each response. It is asked for when a response does not fit.
            ClientAddress::Unix => Interest::READABLE,
        };
        self.poll.registry().register(
            &mut SourceFd(&socket.socket.as_raw_fd()),
            Token(key),
            interest,
        )
    }

    fn receive(&mut self, socket: &mut EpollSocket) -> Received<'_> {
        match socket.socket.read(&mut self.buffer) {
            Ok(0) => {
                socket.has_input = false;
                Received::End
            }
            Ok(length) => {
                // A short read has emptied the socket (epoll(7)); an end would still be unread.
                socket.has_input = length == RECEIVE_BYTES_MAX || socket.is_half_closed;
                Received::Bytes(&mut self.buffer[..length])
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                socket.has_input = false;
                Received::Nothing
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Received::Nothing,
            Err(_) => Received::Failed,
        }
    }

    fn send(&mut self, socket: &mut EpollSocket, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        while sent < bytes.len() {
            match socket.socket.send_with_flags(&bytes[sent..], libc::MSG_NOSIGNAL) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.await_room(socket)?;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    fn shutdown_write(&mut self, socket: &mut EpollSocket) -> io::Result<()> {
        socket.socket.shutdown(std::net::Shutdown::Write)
    }

    fn close(&mut self, socket: EpollSocket) {
        // The kernel ends the registration with the last descriptor of the socket.
        drop(socket);
    }
}
