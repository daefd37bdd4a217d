//! The listeners of one worker, and how another thread wakes it: one epoll instance, by mio.
//!
//! TCP has one listener for each worker, and the kernel distributes connections by their ports. A Unix socket has one
//! queue, of which each worker has a descriptor. `EPOLLEXCLUSIVE` (epoll_ctl(2)) wakes one worker that sleeps, not all of
//! them; of those it always takes the one that has been registered first, which would get every connection of a quiet
//! server. So a worker registers anew after each connection: the next one goes to another, as on a carousel.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use mio::net::{TcpListener, UnixListener};
use mio::unix::SourceFd;
use mio::{Interest, Poll, Token, Waker};
use socket2::Socket;

use super::Wake;
use crate::http::client_address::ClientAddress;
use crate::http::listen::Listener;

/// The token of what only ends a wait: the waker, and the timer.
pub(super) const WAKER: Token = Token(usize::MAX);
/// The token of the first listener; those of the others are below it.
const FIRST_LISTENER: usize = usize::MAX - 1;

impl Wake for Waker {
    fn wake(&self) {
        Self::wake(self).expect("an eventfd takes a wake-up");
    }
}

/// The listeners of this worker, in turns.
#[derive(Debug)]
pub(super) struct Listeners {
    listening: Vec<Listening>,
    /// The listener whose turn it is, so that no address starves another.
    turn: usize,
}

impl Listeners {
    /// Polls non-blocking listeners.
    pub fn new(
        listeners: impl IntoIterator<Item = impl Into<Listener>>,
        poll: &Poll,
    ) -> io::Result<Self> {
        let mut listening = Vec::new();
        for (index, listener) in listeners.into_iter().enumerate() {
            let token = Token(FIRST_LISTENER - index);
            listening.push(Listening::new(listener.into(), poll, token)?);
        }
        Ok(Self { listening, turn: 0 })
    }

    /// True until [`Self::close`].
    pub fn is_open(&self) -> bool {
        !self.listening.is_empty()
    }

    /// Takes note of an event; false when its token is none of a listener.
    pub fn note(&mut self, token: Token) -> bool {
        // Tokens of connections are far below: their difference is past the end.
        let listening = self.listening.get_mut(FIRST_LISTENER.wrapping_sub(token.0));
        listening.map(|listening| listening.may_accept = true).is_some()
    }

    /// True when a connection may wait.
    pub fn may_accept(&self) -> bool {
        self.listening.iter().any(|listening| listening.may_accept)
    }

    /// The next connection: a socket that does not block, and its client.
    pub fn accept(&mut self, poll: &Poll) -> io::Result<Option<(Socket, ClientAddress)>> {
        let (count, turn) = (self.listening.len(), self.turn);
        for index in (0..count).map(|offset| (turn + offset) % count) {
            let listening = &mut self.listening[index];
            while listening.may_accept {
                match listening.accept(poll) {
                    Ok(accepted) => {
                        self.turn = index + 1;
                        return Ok(Some(accepted));
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

    /// They will be closed: their queues are emptied, without turns.
    pub fn empty(&mut self) {
        for listening in &mut self.listening {
            (listening.may_accept, listening.is_closing) = (true, true);
        }
    }

    /// Stops listening.
    pub fn close(&mut self, poll: &Poll) {
        for listening in self.listening.drain(..) {
            listening.close(poll);
        }
    }
}

/// A listener of this worker.
#[derive(Debug)]
enum Source {
    Tcp(TcpListener),
    Unix(UnixListener),
    /// Other workers accept from the same queue.
    SharedUnix(UnixListener),
}

/// A listener, and what is known of its queue.
#[derive(Debug)]
struct Listening {
    source: Source,
    token: Token,
    /// The poller reports it. False when the kernel had no memory to register it anew.
    is_registered: bool,
    /// Its queue may hold a connection.
    may_accept: bool,
    /// It will be closed: its queue is emptied, without turns.
    is_closing: bool,
}

impl Listening {
    /// Polls a non-blocking listener.
    fn new(listener: Listener, poll: &Poll, token: Token) -> io::Result<Self> {
        let source = match listener {
            Listener::Tcp(listener) => Source::Tcp(TcpListener::from_std(listener)),
            Listener::Unix { listener, is_shared } => {
                let listener = UnixListener::from_std(listener);
                if is_shared { Source::SharedUnix(listener) } else { Source::Unix(listener) }
            }
        };
        let mut listening =
            Self { source, token, is_registered: true, may_accept: true, is_closing: false };
        match &mut listening.source {
            Source::Tcp(listener) => {
                poll.registry().register(listener, token, Interest::READABLE)?;
            }
            Source::Unix(listener) => {
                poll.registry().register(listener, token, Interest::READABLE)?;
            }
            Source::SharedUnix(listener) => {
                add_exclusive(poll.as_raw_fd(), listener.as_raw_fd(), token)?;
            }
        }
        Ok(listening)
    }

    /// The next connection: a socket that does not block, and its client.
    fn accept(&mut self, poll: &Poll) -> io::Result<(Socket, ClientAddress)> {
        match &mut self.source {
            Source::Tcp(listener) => {
                let (stream, address) = listener.accept()?;
                Ok((std::net::TcpStream::from(stream).into(), address.ip().into()))
            }
            Source::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                Ok((std::os::unix::net::UnixStream::from(stream).into(), ClientAddress::Unix))
            }
            Source::SharedUnix(listener) => {
                let (epoll, descriptor) = (poll.as_raw_fd(), listener.as_raw_fd());
                if !self.is_registered {
                    add_exclusive(epoll, descriptor, self.token)?;
                    self.is_registered = true;
                }
                let (stream, _) = listener.accept()?;
                if !self.is_closing {
                    // It reports at once when another connection waits.
                    poll.registry().deregister(&mut SourceFd(&descriptor))?;
                    self.is_registered = add_exclusive(epoll, descriptor, self.token).is_ok();
                    self.may_accept = !self.is_registered;
                }
                Ok((std::os::unix::net::UnixStream::from(stream).into(), ClientAddress::Unix))
            }
        }
    }

    /// Ends the registration. The descriptors of other workers would keep it alive, and with it wake-ups that are theirs.
    fn close(self, poll: &Poll) {
        if let Source::SharedUnix(listener) = &self.source
            && self.is_registered
        {
            let result = poll.registry().deregister(&mut SourceFd(&listener.as_raw_fd()));
            debug_assert!(result.is_ok(), "it is registered");
        }
    }
}

/// Registers a listener so that one of its workers is woken, edge-triggered; mio has no such interest.
fn add_exclusive(epoll: RawFd, listener: RawFd, token: Token) -> io::Result<()> {
    let events = libc::EPOLLIN | libc::EPOLLET | libc::EPOLLEXCLUSIVE;
    let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: token.0 as u64 };
    // SAFETY: both descriptors are open, and the kernel reads one event.
    let result = unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, listener, &raw mut event) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
