//! The descriptor of a connection that may_minihttp owns, and what can be learnt and done through it
//! from outside. All of the engine's `unsafe` about descriptors is here.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, RawFd};

use socket2::SockRef;

/// A borrowed descriptor. Whoever holds it must not use it once the connection's service is dropped:
/// may_minihttp closes it right after that.
#[derive(Clone, Copy, Debug)]
pub struct BorrowedSocket(RawFd);

/// What a non-blocking call found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketResult {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The end, or an error that is one.
    End,
}

/// The part of the kernel's `struct tcp_info` (linux/tcp.h) up to what is needed; `libc`'s ends before.
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

    /// The number by which may spreads connections over its threads.
    pub fn number(self) -> usize {
        self.0 as usize
    }

    /// True when the peer's address is a loopback one.
    pub fn is_loopback(self) -> bool {
        let peer = self.with(|socket| socket.peer_addr()).ok().and_then(|peer| peer.as_socket());
        peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback())
    }

    /// Sends small answers at once; may_minihttp leaves Nagle's algorithm on.
    pub fn set_nodelay(self) -> io::Result<()> {
        self.with(|socket| socket.set_tcp_nodelay(true))
    }

    /// Sends what the kernel takes now.
    pub fn send(self, bytes: &[u8]) -> SocketResult {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        found(self.with(|socket| socket.send_with_flags(bytes, flags)))
    }

    /// Takes and drops what the client has sent.
    pub fn discard(self) -> SocketResult {
        let mut dropped = [MaybeUninit::uninit(); 4096];
        found(self.with(|socket| socket.recv_with_flags(&mut dropped, libc::MSG_DONTWAIT)))
    }

    /// Ends one or both directions. That the client has done so before is no error.
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
    /// An acknowledgement that arrives in between makes it less than it is, never more.
    pub fn written(self) -> Option<u64> {
        let acknowledged = self.info()?.bytes_acked;
        // SIOCOUTQ has the same number.
        Some(acknowledged + self.queued(libc::TIOCOUTQ)?)
    }

    /// Bytes taken from the kernel since the connection began; None where it does not count them.
    ///
    /// Bytes that arrive in between make it less than it is, never more.
    pub fn taken(self) -> Option<u64> {
        let received = self.info()?.bytes_received;
        Some(received.saturating_sub(self.queued(libc::FIONREAD)?))
    }

    /// None before Linux 4.1, which counts less.
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

    /// Makes the poller report again what is there to read.
    ///
    /// Setting the low-water mark does so on Linux (`tcp_set_rcvlowat`), to the value it has.
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
