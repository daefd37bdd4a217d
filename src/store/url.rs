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

use std::fmt;
use std::io;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Default port of Redis.
const REDIS_PORT: u16 = 6379;
/// Default port of sentinels.
const SENTINEL_PORT: u16 = 26_379;
/// Hosts in a URL at most: each host that is down costs a timeout before the next is tried.
const HOSTS_MAX: usize = 16;

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

/// User and password. Prints without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// None: the default user.
    pub user: Option<String>,
    /// None until `--redis-password` gives it.
    pub password: Option<Password>,
}

/// Where a password comes from. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// The password.
    Text(String),
    /// The file that holds it. Each login reads it, so that a file that changes needs no restart.
    File(PathBuf),
}

impl Password {
    /// The password of this moment: never empty, without the line end of its file.
    ///
    /// # Errors
    /// When the file can't be read, or when there is no password.
    pub fn read(&self) -> io::Result<String> {
        let password = match self {
            Self::Text(text) => text.clone(),
            Self::File(file) => {
                std::fs::read_to_string(file)?.trim_end_matches(['\r', '\n']).to_owned()
            }
        };
        if password.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the password is empty"));
        }
        Ok(password)
    }

    /// The value of the flag if it names a file: the name is no secret.
    pub fn given_file(&self) -> Option<String> {
        match self {
            Self::Text(_) => None,
            Self::File(file) => Some(format!("@{}", file.display())),
        }
    }
}

impl FromStr for Password {
    type Err = std::convert::Infallible;

    /// The value of a flag: the password, or `@` and the path of its file.
    fn from_str(given: &str) -> Result<Self, Self::Err> {
        Ok(match given.strip_prefix('@') {
            Some(file) => Self::File(file.into()),
            None => Self::Text(given.to_owned()),
        })
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("set")
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.user.as_deref().unwrap_or("default"))
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

/// Why a URL is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// Another scheme, or none.
    Scheme,
    /// A user or a password has a character that must be percent-encoded.
    Unencoded,
    /// User or password is not UTF-8 once decoded.
    NotUtf8,
    /// An empty password, or neither user nor password before the `@`.
    Password,
    /// No host, or not a valid one.
    Host,
    /// A port that is not 1 to 65535.
    Port,
    /// Several hosts without sentinels or cluster.
    SeveralHosts,
    /// More hosts than the limit.
    TooManyHosts,
    /// Not a valid name of a master.
    Master,
    /// The database is not a number.
    Database,
    /// A cluster with a database other than 0.
    ClusterDatabase,
    /// An unknown parameter, or one that does not belong to this scheme.
    Parameter,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme => f.write_str(
                "must start with redis://, redis+sentinel://, redis+cluster://, or rediss for TLS",
            ),
            Self::Unencoded => f.write_str("/ ? # in a user or password must be percent-encoded"),
            Self::NotUtf8 => f.write_str("user and password must be UTF-8"),
            Self::Password => f.write_str(
                "must have user:password@ or :password@ before the host, or user@ with --redis-password",
            ),
            Self::Host => f.write_str("must have a host: a name, an IPv4 address or an [IPv6] one"),
            Self::Port => f.write_str("the port must be 1 to 65535"),
            Self::SeveralHosts => {
                f.write_str("several hosts need redis+sentinel:// or redis+cluster://")
            }
            Self::TooManyHosts => write!(f, "must name at most {HOSTS_MAX} hosts"),
            Self::Master => f.write_str(
                "must name the sentinels' master after the hosts: letters, digits, '.', '-', '_'",
            ),
            Self::Database => f.write_str("the database after the '/' must be a number"),
            Self::ClusterDatabase => f.write_str("a cluster has no databases"),
            Self::Parameter => f.write_str(
                "after the '?' only sentinel_password is known, and only with redis+sentinel://",
            ),
        }
    }
}

impl std::error::Error for UrlError {}

/// Why URL and `--redis-password` do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginError {
    /// Both have a password.
    TwoPasswords,
    /// A user without a password.
    NoPassword,
}

impl fmt::Display for LoginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TwoPasswords => {
                "--redis-url has a password, and so has --redis-password: give only one of them"
            }
            Self::NoPassword => {
                "--redis-url has a user without a password: give it as user:password@, or in --redis-password"
            }
        })
    }
}

impl std::error::Error for LoginError {}

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

impl FromStr for Login {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (user, password) = match text.split_once(':') {
            Some((user, password)) => (decoded(user)?, Some(decoded(password)?)),
            None => (decoded(text)?, None),
        };
        if password.as_ref().map_or(&user, |password| password).is_empty() {
            return Err(UrlError::Password);
        }
        let user = Some(user).filter(|user| !user.is_empty());
        Ok(Self { user, password: password.map(Password::Text) })
    }
}

fn decoded(text: &str) -> Result<String, UrlError> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| UrlError::NotUtf8)?;
    Ok(text.into_owned())
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
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        url.parse().unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    #[test]
    fn every_form_is_parsed_and_printed_without_passwords() {
        for (url, shown) in [
            ("redis://localhost", "redis://localhost:6379"),
            ("redis://localhost/", "redis://localhost:6379"),
            ("redis://127.0.0.1:7000/0", "redis://127.0.0.1:7000"),
            ("redis://127.0.0.1:7000/3", "redis://127.0.0.1:7000/3"),
            ("rediss://my-redis.internal", "rediss://my-redis.internal:6379"),
            ("redis://[::1]", "redis://[::1]:6379"),
            ("redis://[fd00::7]:7000/1", "redis://[fd00::7]:7000/1"),
            ("redis://:s3cret@h", "redis://:***@h:6379"),
            ("redis://sigmad:s3cret@h:1", "redis://sigmad:***@h:1"),
            ("redis://si%40gmad:s3cret@h", "redis://si%40gmad:***@h:6379"),
            ("redis+sentinel://a,b:1/main", "redis+sentinel://a:26379,b:1/main"),
            (
                "rediss+sentinel://u:s3cret@a,b/my-master.1/2?sentinel_password=s3cret",
                "rediss+sentinel://u:***@a:26379,b:26379/my-master.1/2?sentinel_password=***",
            ),
            ("redis+cluster://:s3cret@a,[::1]:1/", "redis+cluster://:***@a:6379,[::1]:1"),
            ("rediss+cluster://a/0", "rediss+cluster://a:6379"),
        ] {
            let target = target(url);
            assert_eq!(target.to_string(), shown, "{url}");
            assert_eq!(format!("{target:?}"), shown, "{url}");
            assert!(!format!("{:?}", target.login).contains("s3cret"));
        }
    }

    fn text(password: Option<&Password>) -> Option<String> {
        password.map(|password| password.read().expect("a password"))
    }

    #[test]
    fn a_password_is_in_the_url_or_in_its_own_flag() {
        let given = || "s3cret".parse::<Password>().ok();
        for (url, user) in
            [("redis://h", None), ("redis://u@h", Some("u")), ("redis+cluster://u@h", Some("u"))]
        {
            let target = target(url).with_password(given()).expect("one password");
            assert!(target.has_secret() && !format!("{target:?} {:?}", given()).contains("s3cret"));
            let login = target.login.expect("a login");
            assert_eq!(
                (login.user.as_deref(), text(login.password.as_ref())),
                (user, Some("s3cret".into()))
            );
        }
        let both = target("redis://u:p@h").with_password(given()).expect_err("two");
        assert_eq!(both, LoginError::TwoPasswords);
        let message = both.to_string();
        assert!(message.contains("--redis-url") && message.contains("--redis-password"));
        assert_eq!(target("redis://s3cret@h").with_password(None), Err(LoginError::NoPassword));
        assert!(target("redis://h").with_password(None).is_ok_and(|target| target.login.is_none()));
        assert!(target("redis://:p@h").with_password(None).is_ok());
    }

    #[test]
    fn a_password_is_read_from_its_file_each_time() {
        let file = std::env::temp_dir().join(format!("sigmad-password-{}", std::process::id()));
        let given = format!("@{}", file.display());
        let Ok(password) = given.parse::<Password>();
        for (content, expected) in [
            ("first\n", Some("first")),
            ("second", Some("second")),
            ("a b\r\n", Some("a b")),
            ("\n", None),
        ] {
            std::fs::write(&file, content).expect("a temporary file");
            assert_eq!(password.read().ok().as_deref(), expected);
        }
        std::fs::remove_file(&file).expect("it was written");
        assert!(password.read().is_err());
        assert_eq!(password.given_file(), Some(given));
    }

    #[test]
    fn users_and_passwords_are_decoded() {
        for (url, user, password) in [
            ("redis://:p%40%2F%3a%25@h", None, "p@/:%"),
            ("redis://u:p:q@h", Some("u"), "p:q"),
            ("redis://u:p@q@h", Some("u"), "p@q"),
            ("redis://u:100%@h", Some("u"), "100%"),
            ("redis://u:a+b@h", Some("u"), "a+b"),
            ("redis://%C3%BC:%C3%A9@h", Some("ü"), "é"),
        ] {
            let login = target(url).login.expect("a login");
            let found = text(login.password.as_ref());
            assert_eq!((login.user.as_deref(), found.as_deref()), (user, Some(password)), "{url}");
        }
        assert_eq!(target("redis://h").login, None);
    }

    #[test]
    fn sentinels_get_their_own_password_and_no_other() {
        for (url, expected) in [
            ("redis+sentinel://u:p@a/m", None),
            ("redis+sentinel://u:p@a/m?sentinel_password=q%26", Some("q&")),
        ] {
            let Topology::Sentinel { login, .. } = target(url).topology else {
                panic!("{url}: no sentinels");
            };
            assert!(login.as_ref().is_none_or(|login| login.user.is_none()));
            let found = text(login.and_then(|login| login.password).as_ref());
            assert_eq!(found.as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn errors_name_the_cause_without_the_password() {
        for (url, error) in [
            ("", UrlError::Scheme),
            ("localhost:6379", UrlError::Scheme),
            ("http://localhost", UrlError::Scheme),
            ("unix:///run/redis.sock", UrlError::Scheme),
            ("redis+unix:///run/redis.sock", UrlError::Scheme),
            ("redis+://h", UrlError::Scheme),
            ("redis:/h", UrlError::Scheme),
            ("redis://", UrlError::Host),
            ("redis:///1", UrlError::Host),
            ("redis://:s3cret@", UrlError::Host),
            ("redis://h h", UrlError::Host),
            ("redis://[h]", UrlError::Host),
            ("redis://[::1", UrlError::Host),
            ("redis://[::1]7000", UrlError::Host),
            ("redis+cluster://a,,b", UrlError::Host),
            ("redis://::1", UrlError::Host),
            ("redis://h:", UrlError::Port),
            ("redis://h:0", UrlError::Port),
            ("redis://h:65536", UrlError::Port),
            ("redis://h:+1", UrlError::Port),
            ("redis://a,b", UrlError::SeveralHosts),
            ("redis://@h", UrlError::Password),
            ("redis://:@h", UrlError::Password),
            ("redis://u:@h", UrlError::Password),
            ("redis://:%ff@h", UrlError::NotUtf8),
            ("redis://:s3/cret@h", UrlError::Unencoded),
            ("redis://:s3?cret@h", UrlError::Unencoded),
            ("redis://:s3#cret@h", UrlError::Unencoded),
            ("redis://h/one", UrlError::Database),
            ("redis://h/-1", UrlError::Database),
            ("redis://h/+1", UrlError::Database),
            ("redis://h/1/2", UrlError::Database),
            ("redis://h?db=1", UrlError::Parameter),
            ("redis+cluster://a/1", UrlError::ClusterDatabase),
            ("redis+cluster://a?sentinel_password=s3cret", UrlError::Parameter),
            ("redis+sentinel://a", UrlError::Master),
            ("redis+sentinel://a/", UrlError::Master),
            ("redis+sentinel://a/my master", UrlError::Master),
            ("redis+sentinel://a/m/x", UrlError::Database),
            ("redis+sentinel://a/m?password=s3cret", UrlError::Parameter),
            ("redis+sentinel://a/m?sentinel_password=", UrlError::Parameter),
            ("redis+sentinel://a/m?sentinel_password=s3cret&x=1", UrlError::Parameter),
        ] {
            assert_eq!(url.parse::<Target>(), Err(error), "{url}");
            assert!(!error.to_string().contains("s3cret"));
        }
        let many = format!("redis+cluster://{}", vec!["h"; HOSTS_MAX + 1].join(","));
        assert_eq!(many.parse::<Target>(), Err(UrlError::TooManyHosts));
    }
}
