//! The name of a Unix socket, as the flags of servers and clients write it.

use std::fmt;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What a name of a Unix socket starts with.
pub const UNIX_SCHEME: &str = "unix:";
/// `sun_path` of unix(7) has 108 bytes: one more ends a path, or begins an abstract name.
const NAME_BYTES_MAX: usize = 107;
const FORMS: &str = "must be unix:/path/of/socket or unix:@abstract-name";

/// `unix:/run/sigmad.sock`, or `unix:@sigmad` for a name in Linux's abstract namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnixName {
    /// An absolute path.
    Path(PathBuf),
    /// A name without a file; every process of the network namespace can connect to it.
    Abstract(String),
}

impl UnixName {
    /// The path of its file.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::Abstract(_) => None,
        }
    }

    /// The address for the kernel.
    pub fn address(&self) -> SocketAddr {
        let address = match self {
            Self::Path(path) => SocketAddr::from_pathname(path),
            Self::Abstract(name) => SocketAddr::from_abstract_name(name),
        };
        address.expect("`from_str` has checked its length and its bytes")
    }
}

impl FromStr for UnixName {
    type Err = String;

    /// Takes `unix:///path` as well, the form of Docker and Telegraf.
    ///
    /// # Errors
    /// When the name is relative, too long, or has bytes that separate it from options and paths of URLs.
    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix(UNIX_SCHEME).ok_or(FORMS)?;
        let name = if name.starts_with("///") { &name[2..] } else { name };
        let is_path = name.starts_with('/') && !name.starts_with("//") && !name.ends_with('/');
        let bare = name.strip_prefix('@').unwrap_or(name);
        if bare.is_empty() || (bare.len() == name.len() && !is_path) {
            return Err(FORMS.to_owned());
        }
        if bare.contains([',', ':', '?', '#']) || bare.contains(char::is_control) {
            return Err("a name of a Unix socket has no `,`, `:`, `?`, `#` and control characters"
                .to_owned());
        }
        if bare.len() > NAME_BYTES_MAX {
            return Err(format!("a name of a Unix socket has at most {NAME_BYTES_MAX} bytes"));
        }
        Ok(if is_path { Self::Path(name.into()) } else { Self::Abstract(bare.to_owned()) })
    }
}

impl fmt::Display for UnixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{UNIX_SCHEME}{}", path.display()),
            Self::Abstract(name) => write!(f, "{UNIX_SCHEME}@{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_as_people_write_them() {
        let longest = format!("unix:/{}", "x".repeat(NAME_BYTES_MAX - 1));
        let longest_abstract = format!("unix:@{}", "x".repeat(NAME_BYTES_MAX));
        for (text, shown) in [
            ("unix:/run/a.sock", "unix:/run/a.sock"),
            ("unix:///run/a.sock", "unix:/run/a.sock"),
            ("unix:@a/b", "unix:@a/b"),
            (&longest, &longest),
            (&longest_abstract, &longest_abstract),
        ] {
            let name: UnixName = text.parse().expect("a name");
            assert_eq!(name.to_string(), shown);
            let address = name.address();
            assert_eq!(address.as_pathname(), name.path());
            assert_eq!(address.as_abstract_name().is_some(), text.contains('@'));
        }
    }

    #[test]
    fn what_names_no_socket_is_refused() {
        let long = format!("unix:/{}", "x".repeat(NAME_BYTES_MAX));
        for text in [
            "",
            "unix",
            "unix:",
            "unix:@",
            "unix:/",
            "unix:a.sock",
            "unix:./a",
            "unix://run/a",
            "unix:////a",
            "unix:/run/",
            "unix:/a:b",
            "unix:/a,b",
            "unix:/a?b",
            "unix:/a\0",
            "unix:@a:b",
            "/run/a.sock",
            &long,
        ] {
            assert!(text.parse::<UnixName>().is_err(), "{text}");
        }
    }
}
