//! Listening sockets: one for each worker, all on the same address.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait in the kernel for a worker; the kernel lowers it to `somaxconn`.
const BACKLOG: i32 = 4_096;

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
