//! The descriptor of a connection that may_minihttp owns, with the system calls that the engine makes
//! on it. All `unsafe` of the engine about descriptors is here.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv4Addr, Shutdown};
use std::os::fd::{BorrowedFd, RawFd};

use socket2::SockRef;

use crate::http::client_address::ClientAddress;

/// A borrowed descriptor. It must not be used once the connection's service is dropped, because
/// may_minihttp then closes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct BorrowedSocket(RawFd);

/// The result of a non-blocking call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SocketResult {
    /// This many bytes, at least one.
    Bytes(usize),
    /// It would block.
    Nothing,
    /// The end of the stream, or an error.
    End,
}

/// The kernel's `struct tcp_info` (linux/tcp.h) up to the counters of bytes, which `libc` leaves out.
#[repr(C)]
struct TcpInfo {
    _before: [u64; 15],
    bytes_acked: u64,
    bytes_received: u64,
}

impl BorrowedSocket {
    /// Borrows the descriptor `id` that may_minihttp has outcome to the service of a connection.
    pub fn borrow(id: usize) -> Self {
        Self(RawFd::try_from(id).expect("may_minihttp passes a descriptor"))
    }

    fn with<R>(self, use_it: impl FnOnce(SockRef<'_>) -> R) -> R {
        // SAFETY: the type's contract: the descriptor is open until the service is dropped. Were it
        // closed, a system call would fail or reach another socket, but no memory.
        let borrowed = unsafe { BorrowedFd::borrow_raw(self.0) };
        use_it(SockRef::from(&borrowed))
    }

    /// The number by which may assigns connections to its threads.
    pub fn number(self) -> usize {
        self.0 as usize
    }

    /// The peer's address; that of nobody when the peer has gone.
    pub fn client(self) -> ClientAddress {
        let peer = self.with(|socket| socket.peer_addr()).ok().and_then(|peer| peer.as_socket());
        peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.ip().into())
    }

    /// Turns off Nagle's algorithm, which may_minihttp leaves on.
    pub fn set_nodelay(self) -> io::Result<()> {
        self.with(|socket| socket.set_tcp_nodelay(true))
    }

    /// Sends as many bytes as the kernel takes now.
    pub fn send(self, bytes: &[u8]) -> SocketResult {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        found(self.with(|socket| socket.send_with_flags(bytes, flags)))
    }

    /// Receives and drops bytes.
    pub fn discard(self) -> SocketResult {
        let mut dropped = [MaybeUninit::uninit(); 4096];
        found(self.with(|socket| socket.recv_with_flags(&mut dropped, libc::MSG_DONTWAIT)))
    }

    /// Shuts one or both directions down. It is no error when the client has done so before.
    pub fn shut(self, directions: Shutdown) {
        let _ = self.with(|socket| socket.shutdown(directions));
    }

    /// True when the kernel would take bytes now.
    pub fn is_writable(self) -> bool {
        let mut poll = libc::pollfd { fd: self.0, events: libc::POLLOUT, revents: 0 };
        // SAFETY: one valid pollfd, which the call fills in; no waiting.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
        ready != 0
    }

    /// Bytes outcome to the kernel since the connection began; None where it does not count them.
    ///
    /// An acknowledgement between the two system calls makes the result too small, never too large.
    pub fn written(self) -> Option<u64> {
        let acknowledged = self.info()?.bytes_acked;
        // SIOCOUTQ has the same number.
        Some(acknowledged + self.queued(libc::TIOCOUTQ)?)
    }

    /// Bytes taken from the kernel since the connection began; None where it does not count them.
    ///
    /// Bytes that arrive between the two system calls make the result too small, never too large.
    pub fn taken(self) -> Option<u64> {
        let received = self.info()?.bytes_received;
        Some(received.saturating_sub(self.queued(libc::FIONREAD)?))
    }

    /// None before Linux 4.1, which has no counters of bytes.
    fn info(self) -> Option<TcpInfo> {
        let mut info = TcpInfo { _before: [0; 15], bytes_acked: 0, bytes_received: 0 };
        let mut length = size_of::<TcpInfo>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes of plain integers into `info`.
        let result = unsafe {
            libc::getsockopt(
                self.0,
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast(),
                &raw mut length,
            )
        };
        (result == 0 && length as usize == size_of::<TcpInfo>()).then_some(info)
    }

    fn queued(self, request: libc::Ioctl) -> Option<u64> {
        let mut bytes: libc::c_int = 0;
        // SAFETY: both requests of this file write one int.
        let result = unsafe { libc::ioctl(self.0, request, &raw mut bytes) };
        (result == 0).then_some(bytes.max(0) as u64)
    }

    /// Makes the poller report bytes again that it has reported before.
    ///
    /// On Linux, setting the low-water mark to its present value does so (`tcp_set_rcvlowat`).
    pub fn report_again(self) {
        let one: libc::c_int = 1;
        // SAFETY: the kernel reads one int.
        let result = unsafe {
            libc::setsockopt(
                self.0,
                libc::SOL_SOCKET,
                libc::SO_RCVLOWAT,
                (&raw const one).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        debug_assert_eq!(result, 0, "SO_RCVLOWAT can always be set to 1");
    }
}

fn found(result: io::Result<usize>) -> SocketResult {
    match result {
        Ok(0) => SocketResult::End,
        Ok(length) => SocketResult::Bytes(length),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
        {
            SocketResult::Nothing
        }
        Err(_) => SocketResult::End,
    }
}
