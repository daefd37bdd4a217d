//! A connection to the server by either family of sockets.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

/// Where the server listens.
#[derive(Clone, Debug)]
pub enum ServerAddress {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(net::SocketAddr),
}

/// A socket that does not block.
#[derive(Debug)]
pub enum LoadSocket {
    /// Of TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

impl LoadSocket {
    /// Starts to connect.
    ///
    /// # Errors
    /// When there is no free descriptor or port, or no server at a Unix socket.
    pub fn connect(address: &ServerAddress) -> io::Result<Self> {
        match address {
            ServerAddress::Tcp(address) => TcpStream::connect(*address).map(Self::Tcp),
            ServerAddress::Unix(address) => UnixStream::connect_addr(address).map(Self::Unix),
        }
    }

    /// Whether it is connected.
    ///
    /// # Errors
    /// When the attempt has failed.
    pub fn is_connected(&self) -> io::Result<bool> {
        let peer = match self {
            Self::Tcp(socket) => {
                socket.take_error()?.map_or(Ok(()), Err)?;
                socket.peer_addr().and_then(|_| socket.set_nodelay(true))
            }
            Self::Unix(socket) => {
                socket.take_error()?.map_or(Ok(()), Err)?;
                socket.peer_addr().map(|_| ())
            }
        };
        match peer {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks the poller to report that the socket takes bytes again, or not to. A Unix socket reports it whenever the
    /// server has read something: a wake-up for each request, where it is not needed.
    ///
    /// # Errors
    /// When the kernel has no memory for it.
    pub fn await_room(
        &mut self,
        registry: &Registry,
        token: Token,
        is_awaited: bool,
    ) -> io::Result<()> {
        match self {
            // It reports what has changed, and nothing has.
            Self::Tcp(_) => Ok(()),
            Self::Unix(socket) => {
                let readable = Interest::READABLE;
                let interest = if is_awaited { readable | Interest::WRITABLE } else { readable };
                registry.reregister(socket, token, interest)
            }
        }
    }

    /// The socket as its poller takes it.
    pub fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(socket) => socket,
            Self::Unix(socket) => socket,
        }
    }
}

impl Read for LoadSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(buffer),
            Self::Unix(socket) => socket.read(buffer),
        }
    }
}

impl Write for LoadSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(bytes),
            Self::Unix(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
