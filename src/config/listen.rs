//! `--listen`: an address and a port, in the forms in which people write them, or a Unix socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

use sigmad_flags::UNIX_SCHEME;

use super::unix_listen::unix_socket;
use crate::http::listen::ListenAddress;

/// The address of a port alone.
const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const FORMS: &str = "must be an address and a port, such as 0.0.0.0:8080, [::]:8080, localhost:8080, :8080 or 8080, or unix:/path/of/socket";

/// Parses an address; a name is resolved, once.
pub(super) fn listen(text: &str) -> Result<ListenAddress, String> {
    if text.starts_with(UNIX_SCHEME) {
        return unix_socket(text).map(ListenAddress::Unix);
    }
    tcp(text).map(ListenAddress::Tcp)
}

fn tcp(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    // An IPv6 address without brackets has colons as well; `parse` alone would take a sign.
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|_| is_port && !host.contains([':', '[', ']']));
    let port: u16 = port.ok_or(FORMS)?;
    if host.is_empty() {
        return Ok(SocketAddr::new(ANY, port));
    }
    let found = (host, port).to_socket_addrs();
    let found = found.map_err(|error| format!("{host} can't be resolved: {error}"))?;
    // Of a name with both, most clients try IPv4.
    let address = found.min_by_key(SocketAddr::is_ipv6);
    address.ok_or_else(|| format!("{host} has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_people_write_them() {
        for (text, expected) in [
            ("0.0.0.0:8080", "0.0.0.0:8080"),
            ("8080", "0.0.0.0:8080"),
            (":8080", "0.0.0.0:8080"),
            (":0", "0.0.0.0:0"),
            ("localhost:8080", "127.0.0.1:8080"),
            ("[::]:8080", "[::]:8080"),
            ("[::1]:1", "[::1]:1"),
            ("unix:///run/s?mode=600", "unix:/run/s?mode=0600"),
        ] {
            assert_eq!(listen(text).map(|address| address.to_string()), Ok(expected.into()));
        }
        for text in [
            "",
            ":",
            "nowhere",
            "localhost",
            "localhost:",
            "::1:80",
            "[::1]",
            "+80",
            ":65536",
            "1:-1",
        ] {
            assert_eq!(listen(text), Err(FORMS.to_owned()), "{text}");
        }
        assert!(
            listen("no such host:80").is_err_and(|error| error.starts_with("no such host can't"))
        );
    }
}
