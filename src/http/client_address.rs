//! Who is at the other end of a connection.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// The address of a client, for logs, throttles and what is open to local clients only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddress {
    /// Over TCP.
    Ip(IpAddr),
    /// Over a Unix socket: a process of this machine. All of them are one client.
    Unix,
}

impl ClientAddress {
    /// True for a client on this machine. It may be a proxy for others.
    pub fn is_local(self) -> bool {
        match self {
            Self::Ip(address) => address.is_loopback(),
            Self::Unix => true,
        }
    }
}

impl From<IpAddr> for ClientAddress {
    /// IPv4 also when the socket is IPv6.
    fn from(address: IpAddr) -> Self {
        Self::Ip(address.to_canonical())
    }
}

impl From<Ipv4Addr> for ClientAddress {
    fn from(address: Ipv4Addr) -> Self {
        Self::Ip(address.into())
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}
