//! `--redis-url`: the address of Redis, its topology, and the credentials; `--redis-password`.
//!
//! ```text
//! redis://[user:password@]host[:port][/database]
//! redis+sentinel://[user:password@]host[:port][,host[:port]…]/master[/database][?sentinel_password=…]
//! redis+cluster://[user:password@]host[:port][,host[:port]…]
//! ```
//!
//! `rediss` instead of `redis` means TLS to sentinels and to all nodes. The user may be omitted
//! (`:password@`), and so may the password (`user@`) where `--redis-password` has it. Characters that end a part
//! of the URL (`/ ? # @ :`) are percent-encoded. User and password are for the nodes that hold data. Sentinels
//! have users of their own and get only `sentinel_password`.
//!
//! Neither [`Target`] nor [`UrlError`] ever prints a password.

mod error;
mod login;

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use error::HOSTS_MAX;
pub use error::UrlError;
use login::decoded;
pub use login::{Login, LoginError, Password};

/// Default port of Redis.
const REDIS_PORT: u16 = 6379;
/// Default port of sentinels.
const SENTINEL_PORT: u16 = 26_379;

/// The address of one Redis process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// How many Redis processes there are, and what they are to each other.
#[derive(Clone, PartialEq, Eq)]
pub enum Topology {
    /// One process.
    Single(Address),
    /// A master and its replicas; sentinels know which one is master.
    Sentinel {
        /// The sentinels, in the order in which they are asked.
        sentinels: Vec<Address>,
        /// The name of the master.
        master: String,
        /// The credentials for sentinels.
        login: Option<Login>,
    },
    /// Nodes that each hold a part of the keys.
    Cluster {
        /// Some of its nodes, in the order in which they are asked for the slots.
        seeds: Vec<Address>,
    },
}

/// A parsed URL. Prints as the URL with `***` for every password.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// The topology and its addresses.
    pub topology: Topology,
    /// TLS for every connection, those to sentinels included.
    pub is_tls: bool,
    /// The credentials for nodes that hold data.
    pub login: Option<Login>,
    /// The number for `SELECT`; 0 in a cluster.
    pub database: u32,
}

/// The second half of the scheme.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrangement {
    Single,
    Sentinel,
    Cluster,
}

impl FromStr for Target {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::Scheme)?;
        let (protocol, arrangement) = match scheme.split_once('+') {
            None => (scheme, Arrangement::Single),
            Some((protocol, "sentinel")) => (protocol, Arrangement::Sentinel),
            Some((protocol, "cluster")) => (protocol, Arrangement::Cluster),
            Some(_) => return Err(UrlError::Scheme),
        };
        let is_tls = match protocol {
            "redis" => false,
            "rediss" => true,
            _ => return Err(UrlError::Scheme),
        };

        let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(authority_end);
        if rest.contains(['@', '#']) {
            return Err(UrlError::Unencoded);
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = path.strip_prefix('/').unwrap_or(path);
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login.parse()?), hosts),
            None => (None, authority),
        };
        let addresses = addresses(hosts, arrangement)?;
        if !query.is_empty() && arrangement != Arrangement::Sentinel {
            return Err(UrlError::Parameter);
        }
        let (topology, database) = match arrangement {
            Arrangement::Single => {
                let [address] =
                    <[Address; 1]>::try_from(addresses).map_err(|_| UrlError::SeveralHosts)?;
                (Topology::Single(address), database(path)?)
            }
            Arrangement::Sentinel => {
                let (master, path) = path.split_once('/').unwrap_or((path, ""));
                // The characters that sentinels allow.
                let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
                if master.is_empty() || !master.bytes().all(is_allowed) {
                    return Err(UrlError::Master);
                }
                let login = sentinel_login(query)?;
                let master = master.to_owned();
                (Topology::Sentinel { sentinels: addresses, master, login }, database(path)?)
            }
            Arrangement::Cluster => {
                if database(path)? != 0 {
                    return Err(UrlError::ClusterDatabase);
                }
                (Topology::Cluster { seeds: addresses }, 0)
            }
        };
        Ok(Self { topology, is_tls, login, database })
    }
}

fn sentinel_login(query: &str) -> Result<Option<Login>, UrlError> {
    if query.is_empty() {
        return Ok(None);
    }
    let password = query.strip_prefix("sentinel_password=").ok_or(UrlError::Parameter)?;
    if password.contains('&') {
        return Err(UrlError::Parameter);
    }
    let password = decoded(password)?;
    if password.is_empty() {
        return Err(UrlError::Parameter);
    }
    Ok(Some(Login { user: None, password: Some(Password::Text(password)) }))
}

fn database(path: &str) -> Result<u32, UrlError> {
    if path.is_empty() {
        return Ok(0);
    }
    number(path).ok_or(UrlError::Database)
}

/// Digits only: `parse` alone would accept a sign.
fn number<T: FromStr>(digits: &str) -> Option<T> {
    let is_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_digits.then(|| digits.parse().ok()).flatten()
}

fn addresses(hosts: &str, arrangement: Arrangement) -> Result<Vec<Address>, UrlError> {
    let port = match arrangement {
        Arrangement::Sentinel => SENTINEL_PORT,
        Arrangement::Single | Arrangement::Cluster => REDIS_PORT,
    };
    let addresses: Vec<Address> =
        hosts.split(',').map(|host| address(host, port)).collect::<Result<_, _>>()?;
    if addresses.len() > HOSTS_MAX {
        return Err(UrlError::TooManyHosts);
    }
    Ok(addresses)
}

fn address(text: &str, default_port: u16) -> Result<Address, UrlError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(UrlError::Host)?;
            host.parse::<Ipv6Addr>().map_err(|_| UrlError::Host)?;
            if port.is_empty() {
                (host, None)
            } else {
                (host, Some(port.strip_prefix(':').ok_or(UrlError::Host)?))
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
    if host.is_empty() || !host.bytes().all(is_allowed) {
        return Err(UrlError::Host);
    }
    let port = match port {
        None => default_port,
        Some(digits) => number(digits).filter(|&port| port != 0).ok_or(UrlError::Port)?,
    };
    Ok(Address { host: host.to_owned(), port })
}

impl Target {
    /// Adds the password of `--redis-password`, or none, to the user of the URL.
    ///
    /// # Errors
    /// When both have a password, or neither and there is a user.
    pub fn with_password(mut self, password: Option<Password>) -> Result<Self, LoginError> {
        let from_url = self.login.as_ref().map(|login| login.password.is_some());
        match (password, from_url) {
            (Some(_), Some(true)) => return Err(LoginError::TwoPasswords),
            (None, Some(false)) => return Err(LoginError::NoPassword),
            (None, _) => {}
            (password, _) => {
                self.login.get_or_insert(Login { user: None, password: None }).password = password
            }
        }
        Ok(self)
    }

    /// True when it holds a password.
    pub fn has_secret(&self) -> bool {
        let of_sentinels = match &self.topology {
            Topology::Sentinel { login, .. } => login.is_some(),
            Topology::Single(_) | Topology::Cluster { .. } => false,
        };
        self.login.as_ref().is_some_and(|login| login.password.is_some()) || of_sentinels
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_tls { "rediss" } else { "redis" })?;
        f.write_str(match &self.topology {
            Topology::Single(_) => "://",
            Topology::Sentinel { .. } => "+sentinel://",
            Topology::Cluster { .. } => "+cluster://",
        })?;
        if let Some(login) = &self.login {
            let user = login.user.as_deref().unwrap_or("");
            let password = if login.password.is_some() { ":***" } else { "" };
            write!(f, "{}{password}@", utf8_percent_encode(user, NON_ALPHANUMERIC))?;
        }
        let hosts = match &self.topology {
            Topology::Single(address) => std::slice::from_ref(address),
            Topology::Sentinel { sentinels: hosts, .. } | Topology::Cluster { seeds: hosts } => {
                hosts
            }
        };
        for (index, host) in hosts.iter().enumerate() {
            write!(f, "{}{host}", if index == 0 { "" } else { "," })?;
        }
        if let Topology::Sentinel { master, .. } = &self.topology {
            write!(f, "/{master}")?;
        }
        if self.database != 0 {
            write!(f, "/{}", self.database)?;
        }
        if let Topology::Sentinel { login: Some(_), .. } = &self.topology {
            f.write_str("?sentinel_password=***")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
