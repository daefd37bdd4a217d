//! Why a URL is refused.

use std::fmt;

/// Hosts in a URL at most: each host that is down costs a timeout before the next is tried.
pub const HOSTS_MAX: usize = 16;

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
