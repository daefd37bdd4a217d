//! A poller over edge-triggered epoll, by mio, for TCP and Unix sockets.
//!
//! Each event is reported once, so a socket remembers that it may have input until a receive has
//! emptied it. A request costs one read and one write besides its share of the wait.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::Socket;

use super::listening::{Listeners, WAKER};
use super::wait_timer::WaitTimer;
use super::{Accepted, PolledSocket, Poller, Progress, RECEIVE_BYTES_MAX, Received, Wake};
use crate::http::client_address::ClientAddress;
use crate::http::listen::Listener;

/// Events taken at once: the first connection waits until the last one has been read.
const EVENTS_MAX: usize = 256;

/// An epoll instance with its listeners.
#[derive(Debug)]
pub struct EpollPoller {
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    timer: WaitTimer,
    listeners: Listeners,
    buffer: Box<[u8]>,
}

impl EpollPoller {
    /// Polls non-blocking listeners.
    ///
    /// # Errors
    /// When the kernel gives no epoll instance, eventfd or timer.
    pub fn new(listeners: impl IntoIterator<Item = impl Into<Listener>>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let timer = WaitTimer::new(&poll, WAKER)?;
        let listeners = Listeners::new(listeners, &poll)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            waker,
            timer,
            listeners,
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
        held_bytes: 0,
    }
}

impl Poller for EpollPoller {
    type Socket = EpollSocket;

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    fn wait(&mut self, now_ms: u64, until_ms: u64) -> io::Result<()> {
        let timeout = if until_ms <= now_ms {
            Some(Duration::ZERO)
        } else {
            self.timer.arm(now_ms, until_ms)?;
            None
        };
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
        let of_sockets =
            events.iter().filter(|event| event.token() != WAKER && !listeners.note(event.token()));
        of_sockets.map(|event| progress(event, event.token().0))
    }

    fn is_listening(&self) -> bool {
        self.listeners.is_open()
    }

    fn may_accept(&self) -> bool {
        self.listeners.may_accept()
    }

    fn accept(&mut self) -> io::Result<Option<Accepted<EpollSocket>>> {
        let accepted = self.listeners.accept(&self.poll)?;
        Ok(accepted
            .map(|(socket, client)| Accepted { socket: EpollSocket::new(socket, client), client }))
    }

    fn empty_listener(&mut self) {
        self.listeners.empty();
    }

    fn close_listener(&mut self) {
        self.listeners.close(&self.poll);
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
