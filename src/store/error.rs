//! Why Redis could not do what it was sent.

use std::error::Error;
use std::fmt;

use redis::{RedisError, ServerError};

use super::ErrorKind;
use super::url::Address;

/// The refusal of a command, or the loss of a connection.
#[derive(Clone, Debug)]
pub struct LinkError {
    /// What to count it as, and whether to try again.
    pub kind: ErrorKind,
    address: Option<Address>,
    cause: Cause,
}

#[derive(Clone, Debug)]
enum Cause {
    /// A reply of Redis that is an error, or that makes no sense. Without passwords.
    Reply(String),
    /// The connection failed.
    Connection(RedisError),
}

impl LinkError {
    /// An error with a message of its own.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, address: None, cause: Cause::Reply(message.into()) }
    }

    /// The refusal of a command.
    pub(super) fn refusal(error: &ServerError) -> Self {
        let (code, details) = (error.code(), error.details().unwrap_or(""));
        Self::new(kind_of_refusal(code, details), format!("{code} {details}"))
    }

    /// The loss of a connection. It is not known whether the last commands were executed.
    pub(super) fn lost(error: RedisError) -> Self {
        let kind = if error.is_timeout() { ErrorKind::Timeout } else { ErrorKind::Broken };
        Self { kind, address: None, cause: Cause::Connection(error) }
    }

    /// The same, at that address.
    pub(super) fn at(self, address: &Address) -> Self {
        Self { address: Some(address.clone()), ..self }
    }

    /// The same, of another kind.
    pub(super) fn with_kind(self, kind: ErrorKind) -> Self {
        Self { kind, ..self }
    }

    /// The same, without that password: Redis repeats the arguments of an unknown command.
    pub(super) fn without(mut self, password: &str) -> Self {
        if let Cause::Reply(text) = &mut self.cause {
            *text = text.replace(password, "***");
        }
        self
    }

    /// The error reply of Redis; empty for a lost connection.
    pub(super) fn reply(&self) -> &str {
        match &self.cause {
            Cause::Reply(text) => text,
            Cause::Connection(_) => "",
        }
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = &self.address {
            write!(f, "{address}: ")?;
        }
        match &self.cause {
            Cause::Reply(text) => f.write_str(text),
            Cause::Connection(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl Error for LinkError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.cause {
            Cause::Reply(_) => None,
            Cause::Connection(error) => Some(error),
        }
    }
}

fn kind_of_refusal(code: &str, details: &str) -> ErrorKind {
    match code {
        "NOAUTH" | "WRONGPASS" | "NOPERM" => ErrorKind::Auth,
        "LOADING" | "BUSY" => ErrorKind::Loading,
        "READONLY" | "MASTERDOWN" | "MISCONF" | "NOREPLICAS" => ErrorKind::ReadOnly,
        "OOM" => ErrorKind::OutOfMemory,
        "CLUSTERDOWN" | "TRYAGAIN" | "MOVED" | "ASK" => ErrorKind::Cluster,
        "WRONGTYPE" => ErrorKind::WrongType,
        // Protected mode: Redis refuses connections from other hosts.
        "DENIED" => ErrorKind::Connect,
        // These two have no code of their own: the code is ERR.
        _ if details.starts_with("max number of clients") => ErrorKind::Connect,
        // In a script: before Redis 7.2, and since.
        _ if details.contains("user executing the script can't run") => ErrorKind::Auth,
        _ if details.starts_with("ACL failure in script") => ErrorKind::Auth,
        _ => ErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    #[test]
    fn every_refusal_has_its_kind() {
        for (line, kind) in [
            ("NOAUTH Authentication required.", ErrorKind::Auth),
            ("WRONGPASS invalid username-password pair or user is disabled.", ErrorKind::Auth),
            ("NOPERM this user has no permissions to run the 'set' command", ErrorKind::Auth),
            (
                "ERR The user executing the script can't run this command or subcommand script: x",
                ErrorKind::Auth,
            ),
            (
                "ERR ACL failure in script: User u has no permissions to run the 'time' command",
                ErrorKind::Auth,
            ),
            ("LOADING Redis is loading the dataset in memory", ErrorKind::Loading),
            ("BUSY Redis is busy running a script.", ErrorKind::Loading),
            ("READONLY You can't write against a read only replica.", ErrorKind::ReadOnly),
            ("MASTERDOWN Link with MASTER is down", ErrorKind::ReadOnly),
            ("MISCONF Redis is configured to save RDB snapshots", ErrorKind::ReadOnly),
            ("NOREPLICAS Not enough good replicas to write.", ErrorKind::ReadOnly),
            ("OOM command not allowed when used memory > 'maxmemory'.", ErrorKind::OutOfMemory),
            ("CLUSTERDOWN The cluster is down", ErrorKind::Cluster),
            ("TRYAGAIN Multiple keys request during rehashing of slot", ErrorKind::Cluster),
            ("MOVED 3999 127.0.0.1:6381", ErrorKind::Cluster),
            ("ASK 3999 127.0.0.1:6381", ErrorKind::Cluster),
            ("WRONGTYPE Operation against a key", ErrorKind::WrongType),
            ("DENIED Redis is running in protected mode", ErrorKind::Connect),
            ("ERR max number of clients reached", ErrorKind::Connect),
            ("ERR unknown command 'EVAL'", ErrorKind::Other),
            ("CROSSSLOT Keys in request don't hash to the same slot", ErrorKind::Other),
            ("ERR", ErrorKind::Other),
        ] {
            let reply = format!("-{line}\r\n");
            let Ok(Value::ServerError(error)) = redis::parse_redis_value(reply.as_bytes()) else {
                panic!("{line}: no error");
            };
            let error = LinkError::refusal(&error);
            assert_eq!(error.kind, kind, "{line}");
            assert_eq!(error.to_string().trim_end(), line);
        }
    }

    #[test]
    fn a_timeout_is_distinguished_from_a_broken_connection() {
        use std::io;
        for (error, kind) in [
            (io::ErrorKind::TimedOut, ErrorKind::Timeout),
            (io::ErrorKind::WouldBlock, ErrorKind::Timeout),
            (io::ErrorKind::UnexpectedEof, ErrorKind::Broken),
            (io::ErrorKind::ConnectionReset, ErrorKind::Broken),
            (io::ErrorKind::BrokenPipe, ErrorKind::Broken),
            (io::ErrorKind::InvalidData, ErrorKind::Broken),
        ] {
            assert_eq!(LinkError::lost(io::Error::from(error).into()).kind, kind, "{error:?}");
        }
        // The server is not Redis.
        let error =
            redis::parse_redis_value(b"HTTP/1.1 400 Bad Request\r\n").expect_err("not RESP");
        let error = LinkError::lost(error);
        assert_eq!(error.kind, ErrorKind::Broken);
        assert!(error.source().is_some());
    }
}
