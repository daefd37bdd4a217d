//! Listening sockets: one for each worker, all on the same address.

pub mod unix;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;

use socket2::{Domain, Protocol, Socket, Type};

use self::unix::{SocketFile, UnixSocket, unix_listeners};

/// Connections that wait in the kernel for a worker; the kernel lowers it to `somaxconn`.
const BACKLOG: i32 = 4_096;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(UnixSocket),
}

impl ListenAddress {
    /// The address of TCP.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Its listeners for this many workers.
    ///
    /// # Errors
    /// When the address can't be bound.
    pub fn bind(&self, workers: usize) -> io::Result<BoundAddress> {
        match self {
            Self::Tcp(address) => {
                let listeners = listeners(*address, workers)?;
                let name = listeners[0].local_addr()?.to_string();
                let listeners = listeners.into_iter().map(Listener::Tcp).collect();
                Ok(BoundAddress { name, listeners, file: None })
            }
            Self::Unix(socket) => {
                let (listeners, file) = unix_listeners(socket, workers, BACKLOG)?;
                let unix = |listener| Listener::Unix { listener, is_shared: workers > 1 };
                let listeners = listeners.into_iter().map(unix).collect();
                Ok(BoundAddress { name: socket.name.to_string(), listeners, file })
            }
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(socket) => socket.fmt(f),
        }
    }
}

/// An address with its listeners.
#[derive(Debug)]
pub struct BoundAddress {
    /// As the log has it: with the port that the kernel has chosen, and without options.
    pub name: String,
    /// One for each worker.
    pub listeners: Vec<Listener>,
    /// The file of a Unix socket.
    pub file: Option<SocketFile>,
}

/// A non-blocking listener of one worker.
#[derive(Debug)]
pub enum Listener {
    /// Among several on one address the kernel distributes connections.
    Tcp(TcpListener),
    /// A descriptor of a Unix socket.
    Unix {
        /// The descriptor.
        listener: UnixListener,
        /// Other workers have descriptors of the same socket.
        is_shared: bool,
    },
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

/// `count` non-blocking listeners on `address`, among which the kernel distributes connections.
///
/// # Errors
/// When the address cannot be bound, also when another process listens there with SO_REUSEPORT: two
/// servers that share their clients by accident are worse than one that does not start.
pub fn listeners(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let alone = socket(address, false)?;
    let address = alone.local_addr()?.as_socket().unwrap_or(address);
    drop(alone);
    (0..count)
        .map(|_| {
            let socket = socket(address, true)?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        })
        .collect()
}

fn socket(address: SocketAddr, shares_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A restart must not wait until old connections have left TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shares_port)?;
    // On Linux accepted connections inherit it: one system call instead of one for each.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_address_is_refused() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let ours = listeners(any, 3).expect("a free port");
        let address = ours[0].local_addr().expect("bound");
        assert!(ours.iter().all(|listener| listener.local_addr().is_ok_and(|a| a == address)));
        assert!(listeners(address, 1).is_err());
        drop(ours);
        assert!(listeners(address, 1).is_ok());
    }
}
