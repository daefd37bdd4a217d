//! A poller over edge-triggered epoll, by mio.
//!
//! Each event is reported once, so a socket remembers that it may have input until a receive has
//! emptied it. A request costs one read and one write besides its share of the wait.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};

use super::{Accepted, PolledSocket, Poller, Progress, RECEIVE_BYTES_MAX, Received, Wake};

/// Events taken at once: the first connection waits until the last one has been read.
const EVENTS_MAX: usize = 256;

const WAKER: Token = Token(usize::MAX);
/// The token of the first listener; those of the others are below it.
const FIRST_LISTENER: usize = usize::MAX - 1;

/// A TCP listener.
#[derive(Debug)]
struct Listening {
    listener: TcpListener,
    /// Its queue may hold a connection.
    may_accept: bool,
}

/// An epoll instance with TCP listeners.
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
    pub fn new(listeners: impl IntoIterator<Item = std::net::TcpListener>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let mut listening = Vec::new();
        for (index, listener) in listeners.into_iter().enumerate() {
            let mut listener = TcpListener::from_std(listener);
            let token = Token(FIRST_LISTENER - index);
            poll.registry().register(&mut listener, token, Interest::READABLE)?;
            listening.push(Listening { listener, may_accept: true });
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

impl Wake for Waker {
    fn wake(&self) {
        Self::wake(self).expect("an eventfd takes a wake-up");
    }
}

/// A TCP connection.
#[derive(Debug)]
pub struct EpollSocket {
    stream: TcpStream,
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
            let Listening { listener, may_accept } = &mut self.listeners[index];
            while *may_accept {
                match listener.accept() {
                    Ok((stream, address)) => {
                        self.turn = index + 1;
                        let socket = EpollSocket { stream, has_input: true, is_half_closed: false };
                        let client = address.ip().to_canonical();
                        return Ok(Some(Accepted { socket, client }));
                    }
                    Err(error) => match error.kind() {
                        io::ErrorKind::WouldBlock => *may_accept = false,
                        // Aborted: the client closed the connection while it was waiting.
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {}
                        _ => return Err(error),
                    },
                }
            }
        }
        Ok(None)
    }

    fn close_listener(&mut self) {
        self.listeners.clear();
    }

    fn register(&mut self, socket: &mut EpollSocket, key: usize) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket.stream, Token(key), interest)
    }

    fn receive(&mut self, socket: &mut EpollSocket) -> Received<'_> {
        match socket.stream.read(&mut self.buffer) {
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
            match socket.stream.write(&bytes[sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    fn shutdown_write(&mut self, socket: &mut EpollSocket) -> io::Result<()> {
        socket.stream.shutdown(std::net::Shutdown::Write)
    }

    fn close(&mut self, socket: EpollSocket) {
        // The kernel ends the registration with the last descriptor of the socket.
        drop(socket);
    }
}
