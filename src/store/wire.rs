//! One connection to one process of Redis, and what its errors mean.
//!
//! No call waits without a bound, whatever the other side does or leaves undone: every connect, every
//! write and every read ends within a timeout, and the first that fails is the last of its connection.
//! That is why pipelines are sent and read here: the crate goes on after an answer that does not come,
//! and waits once more for each of the rest.

use std::fmt;
use std::time::{Duration, Instant};

use redis::io::tcp::TcpSettings;
use redis::{
    Client, Cmd, Connection, ConnectionAddr, IntoConnectionInfo, Pipeline, RedisConnectionInfo,
    RedisError, ServerError, Value,
};

use super::ErrorKind;
use super::url::{Address, Login};

/// For the SYN to be answered: three round trips around the world; a lost SYN costs an attempt.
/// Each address that a host's name has gets as long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// For each write, and for each read of an answer: past it Redis hangs, or the network does.
/// A script or a fork that stops a healthy Redis takes tenths of it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// For all answers to what was sent at once: a batch has hundreds, and each may come just in time. Redis
/// takes milliseconds for them, a bad network a second or two.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(5);

/// What went wrong, for counters and for a line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkError {
    /// What to do about it.
    pub kind: ErrorKind,
    /// In the words of Redis or of the system, without passwords.
    pub message: String,
}

impl LinkError {
    /// True when Redis refuses XADD because the stream has that id, or a later one: when all ids of a
    /// stream come from here and in order, the entry is there already.
    pub fn is_in_stream_already(&self) -> bool {
        self.kind == ErrorKind::Other && self.message.contains("equal or smaller")
    }

    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What Redis said.
    pub(super) fn refusal(error: &ServerError) -> Self {
        let (code, details) = (error.code(), error.details().unwrap_or(""));
        Self::new(kind_of_refusal(code, details), format!("{code} {details}"))
    }

    fn at(self, address: &Address) -> Self {
        Self { message: format!("{address}: {}", self.message), ..self }
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.message)
    }
}

impl std::error::Error for LinkError {}

fn kind_of_refusal(code: &str, details: &str) -> ErrorKind {
    match code {
        "NOAUTH" | "WRONGPASS" | "NOPERM" => ErrorKind::Auth,
        "LOADING" | "BUSY" => ErrorKind::Loading,
        "READONLY" | "MASTERDOWN" | "MISCONF" | "NOREPLICAS" => ErrorKind::ReadOnly,
        "OOM" => ErrorKind::OutOfMemory,
        "CLUSTERDOWN" | "TRYAGAIN" | "MOVED" | "ASK" => ErrorKind::Cluster,
        "WRONGTYPE" => ErrorKind::WrongType,
        // Protected mode: it talks to nobody from outside.
        "DENIED" => ErrorKind::Connect,
        // These two have no code of their own.
        _ if details.starts_with("max number of clients") => ErrorKind::Connect,
        _ if details.contains("user executing the script can't run") => ErrorKind::Auth,
        _ => ErrorKind::Other,
    }
}

/// A connection that broke: whether the last commands were done is not known.
fn kind_of_loss(error: &RedisError) -> ErrorKind {
    if error.is_timeout() { ErrorKind::Timeout } else { ErrorKind::Broken }
}

/// Who connects, and which of its connections are lost.
///
/// What was sent on a connection may be on its way still when sigmad gives it up, and would arrive after
/// what the next connection brings: older values in the place of newer ones. So whoever connects has
/// Redis end first what was lost.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// Nobody else's.
    name: String,
    /// Of the process.
    start: Instant,
    lost: Vec<Session>,
}

impl ClientIdentity {
    /// Of a name without spaces that no other process has. Times count from `start`.
    pub fn new(name: String, start: Instant) -> Self {
        Self { name, start, lost: Vec::new() }
    }

    /// These are lost, and none that were lost before: those are ended, or out of reach.
    pub fn has_lost(&mut self, sessions: Vec<Session>) {
        self.lost = sessions;
    }
}

/// One connection, as Redis calls it.
#[derive(Clone, Debug)]
pub struct Session {
    address: Address,
    id: i64,
}

/// Redis' answer to one command.
pub(super) type Answer = Result<Value, ServerError>;

/// One connection.
pub(super) struct Wire {
    connection: Connection,
    address: Address,
    /// By which Redis knows it, if it tells.
    id: Option<i64>,
    start: Instant,
    /// When something was last sent, after the start.
    sent: Duration,
}

impl Wire {
    /// Connects, says who we are, chooses the database, waits until Redis answers PING, and has it end
    /// what was lost.
    pub fn connect(
        address: &Address,
        is_tls: bool,
        login: Option<&Login>,
        database: u32,
        origin: &ClientIdentity,
    ) -> Result<Self, LinkError> {
        Self::open(address, is_tls, origin.start)
            .and_then(|mut wire| {
                wire.introduce(login, database, &origin.name)?;
                wire.end_lost(origin)?;
                Ok(wire)
            })
            .map_err(|error| {
                // Nothing was asked yet: whatever went wrong, there is no connection.
                let kind = match error.kind {
                    ErrorKind::Broken | ErrorKind::Other | ErrorKind::WrongType => {
                        ErrorKind::Connect
                    }
                    kind => kind,
                };
                LinkError { kind, ..error }.at(address)
            })
    }

    fn open(address: &Address, is_tls: bool, start: Instant) -> Result<Self, LinkError> {
        let Address { host, port } = address.clone();
        let to = if is_tls {
            // Without parameters the roots are the system's, or those of SSL_CERT_FILE.
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let tcp = TcpSettings::default()
            // A flush is one write: waiting for more of it only delays the end.
            .set_nodelay(true)
            // A write of many parts has a timeout for each, as long as some of it is taken; this one
            // counts from the last byte that the other side took.
            .set_user_timeout(ANSWER_TIMEOUT);
        let open = || {
            let info = to
                .into_connection_info()?
                .set_tcp_settings(tcp)
                // The crate would wait for each answer of its introduction, one timeout after another.
                .set_redis_settings(RedisConnectionInfo::default().set_skip_set_lib_name());
            let connection = Client::open(info)?.get_connection_with_timeout(CONNECT_TIMEOUT)?;
            connection.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            connection.set_write_timeout(Some(ANSWER_TIMEOUT))?;
            Ok(connection)
        };
        match open() {
            Ok(connection) => {
                let (address, sent) = (address.clone(), sigmad_clock::elapsed(start));
                Ok(Self { connection, address, id: None, start, sent })
            }
            Err(error) => Err(lost(&error)),
        }
    }

    fn introduce(
        &mut self,
        login: Option<&Login>,
        database: u32,
        name: &str,
    ) -> Result<(), LinkError> {
        let mut hello = redis::pipe();
        if let Some(Login { user, password }) = login {
            hello.cmd("AUTH").arg(user).arg(password);
        }
        if database != 0 {
            hello.cmd("SELECT").arg(database);
        }
        hello.cmd("PING");
        let needed = hello.len();
        hello.cmd("CLIENT").arg("SETNAME").arg(name).cmd("CLIENT").arg("ID");
        self.write(&hello.get_packed_pipeline())?;
        for index in 0..needed {
            if let Err(error) = self.read()? {
                let mut error = LinkError::refusal(&error);
                if let (0, Some(Login { password, .. })) = (index, login) {
                    // AUTH where there are no passwords, or no AUTH.
                    if error.kind == ErrorKind::Other {
                        error.kind = ErrorKind::Auth;
                    }
                    // An unknown command is repeated with its arguments.
                    error.message = error.message.replace(password, "***");
                }
                return Err(error);
            }
        }
        // Whoever may not do this is not hindered: only what arrives late is not kept out.
        let is_named = self.read()?.is_ok();
        if let Ok(Value::Int(id)) = self.read()?
            && is_named
        {
            self.id = Some(id);
        }
        Ok(())
    }

    fn end_lost(&mut self, origin: &ClientIdentity) -> Result<(), LinkError> {
        let is_here = |session: &&Session| session.address == self.address;
        let ids: Vec<i64> = origin.lost.iter().filter(is_here).map(|session| session.id).collect();
        for id in ids {
            // A Redis that has started anew may have given the number to somebody else.
            let mut question = redis::cmd("CLIENT");
            question.arg("LIST").arg("ID").arg(id);
            self.write(&question.get_packed_command())?;
            let is_ours = match self.read()? {
                Ok(Value::BulkString(line)) => {
                    let line = String::from_utf8_lossy(&line);
                    line.split(' ').any(|field| field.strip_prefix("name=") == Some(&origin.name))
                }
                _ => false,
            };
            if is_ours {
                let mut command = redis::cmd("CLIENT");
                command.arg("KILL").arg("ID").arg(id);
                self.write(&command.get_packed_command())?;
                // Refused: it has ended in between, or this user may not.
                drop(self.read()?);
            }
        }
        Ok(())
    }

    /// None when Redis does not tell.
    pub fn session(&self) -> Option<Session> {
        Some(Session { address: self.address.clone(), id: self.id? })
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Sends commands, and reads as many answers.
    pub fn run(&mut self, pipeline: &Pipeline) -> Result<Vec<Answer>, LinkError> {
        self.send(&pipeline.get_packed_pipeline())?;
        (0..pipeline.len()).map(|_| self.receive()).collect()
    }

    /// One command; its refusal is an error like any other.
    pub fn ask(&mut self, command: &Cmd) -> Result<Value, LinkError> {
        self.send(&command.get_packed_command())?;
        self.receive()?.map_err(|error| LinkError::refusal(&error).at(&self.address))
    }

    /// Sends commands; each has an answer to be received.
    pub fn send(&mut self, packed: &[u8]) -> Result<(), LinkError> {
        self.write(packed).map_err(|error| error.at(&self.address))
    }

    /// The next answer.
    pub fn receive(&mut self) -> Result<Answer, LinkError> {
        self.read().map_err(|error| error.at(&self.address))
    }

    fn write(&mut self, packed: &[u8]) -> Result<(), LinkError> {
        self.sent = sigmad_clock::elapsed(self.start);
        self.connection.send_packed_command(packed).map_err(|error| lost(&error))
    }

    fn read(&mut self) -> Result<Answer, LinkError> {
        if sigmad_clock::elapsed(self.start) - self.sent > ANSWERS_TIMEOUT {
            return Err(LinkError::new(ErrorKind::Timeout, "the answers come too slowly"));
        }
        match self.connection.recv_response() {
            Ok(Value::ServerError(error)) => Ok(Err(error)),
            Ok(value) => Ok(Ok(value)),
            Err(error) => Err(lost(&error)),
        }
    }
}

fn lost(error: &RedisError) -> LinkError {
    LinkError::new(kind_of_loss(error), error.to_string())
}

#[cfg(test)]
mod tests {
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
            assert_eq!(error.message.trim_end(), line);
        }
    }

    #[test]
    fn an_entry_that_is_there_is_told_from_other_refusals() {
        let message =
            "ERR The ID specified in XADD is equal or smaller than the target stream top item";
        assert!(LinkError::new(ErrorKind::Other, message).is_in_stream_already());
        assert!(!LinkError::new(ErrorKind::Other, "ERR syntax error").is_in_stream_already());
    }

    #[test]
    fn a_timeout_is_told_from_a_loss() {
        use std::io;
        for (error, kind) in [
            (io::ErrorKind::TimedOut, ErrorKind::Timeout),
            (io::ErrorKind::WouldBlock, ErrorKind::Timeout),
            (io::ErrorKind::UnexpectedEof, ErrorKind::Broken),
            (io::ErrorKind::ConnectionReset, ErrorKind::Broken),
            (io::ErrorKind::BrokenPipe, ErrorKind::Broken),
            (io::ErrorKind::InvalidData, ErrorKind::Broken),
        ] {
            assert_eq!(kind_of_loss(&io::Error::from(error).into()), kind, "{error:?}");
        }
        // No Redis at the other end.
        let error =
            redis::parse_redis_value(b"HTTP/1.1 400 Bad Request\r\n").expect_err("not RESP");
        assert_eq!(kind_of_loss(&error), ErrorKind::Broken);
    }
}
