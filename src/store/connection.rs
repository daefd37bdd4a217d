//! One connection to one Redis process.
//!
//! Every connect, write and read ends within a timeout, whatever the other side does, and after the first
//! failure the connection is not used again. Pipelines are therefore sent and read here: after a reply that
//! does not come, the redis crate would wait once more for each of the rest.

use std::time::{Duration, Instant};

use redis::io::tcp::TcpSettings;
use redis::{
    Client, Cmd, Connection, ConnectionAddr, IntoConnectionInfo, Pipeline, RedisConnectionInfo,
    ServerError, Value,
};

use super::ErrorKind;
use super::error::LinkError;
use super::url::{Address, Login, Target};

/// For the SYN to be acknowledged: three round trips around the world; a lost SYN costs an attempt.
/// It applies to each address of a host name.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// For each write, and for each read of a reply: past it Redis or the network hangs.
/// A script or a fork stops a healthy Redis for a tenth of it.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// For all replies to one write: a batch has hundreds, and each may come just before its timeout. Redis
/// takes milliseconds for them, a bad network a second or two.
const REPLIES_TIMEOUT: Duration = Duration::from_secs(5);

/// The name of this client at Redis, and its lost connections.
///
/// Commands on a connection that sigmad has dropped may still be in flight. They would be executed after
/// those of the next connection, and replace newer values by older ones. Each new connection therefore first
/// makes Redis close the lost ones.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// No other process has it.
    name: String,
    /// Start of the process.
    start: Instant,
    lost: Vec<ClientSession>,
}

impl ClientIdentity {
    /// `name` has no spaces, and no other process has it. Times count from `start`.
    pub fn new(name: String, start: Instant) -> Self {
        Self { name, start, lost: Vec::new() }
    }

    /// Sets the lost connections. Those that were lost before are closed, or out of reach.
    pub fn set_lost(&mut self, sessions: Vec<ClientSession>) {
        self.lost = sessions;
    }
}

/// One connection, by its id at Redis.
#[derive(Clone, Debug)]
pub struct ClientSession {
    address: Address,
    id: i64,
}

/// The reply to one command.
pub(super) type RedisReply = Result<Value, ServerError>;

/// One connection.
pub(super) struct NodeConnection {
    connection: Connection,
    address: Address,
    /// Its id at Redis, if Redis returned one.
    id: Option<i64>,
    start: Instant,
    /// When the last write began, since the start.
    sent: Duration,
}

impl NodeConnection {
    /// Connects to a node that holds data.
    pub fn to_node(
        address: &Address,
        target: &Target,
        identity: &ClientIdentity,
    ) -> Result<Self, LinkError> {
        Self::connect(address, target.is_tls, target.login.as_ref(), target.database, identity)
    }

    /// Connects, logs in, selects the database, waits for the reply to PING, and makes Redis close the lost
    /// connections.
    pub fn connect(
        address: &Address,
        is_tls: bool,
        login: Option<&Login>,
        database: u32,
        identity: &ClientIdentity,
    ) -> Result<Self, LinkError> {
        Self::open(address, is_tls, identity.start)
            .and_then(|mut connection| {
                connection.log_in(login, database, &identity.name)?;
                connection.close_lost(identity)?;
                Ok(connection)
            })
            .map_err(|error| {
                // No command was sent yet: any failure means that there is no connection.
                let kind = match error.kind {
                    ErrorKind::Broken | ErrorKind::Other | ErrorKind::WrongType => {
                        ErrorKind::Connect
                    }
                    kind => kind,
                };
                error.with_kind(kind).at(address)
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
            // A flush is one write: waiting for more data only delays its end.
            .set_nodelay(true)
            // The write timeout starts again with each part that is written. This one counts from the last
            // byte that the other side has acknowledged.
            .set_user_timeout(REPLY_TIMEOUT);
        let open = || {
            let info = to
                .into_connection_info()?
                .set_tcp_settings(tcp)
                // The crate would wait for each reply to its own setup commands, one timeout after another.
                .set_redis_settings(RedisConnectionInfo::default().set_skip_set_lib_name());
            let connection = Client::open(info)?.get_connection_with_timeout(CONNECT_TIMEOUT)?;
            connection.set_read_timeout(Some(REPLY_TIMEOUT))?;
            connection.set_write_timeout(Some(REPLY_TIMEOUT))?;
            Ok(connection)
        };
        match open() {
            Ok(connection) => {
                let (address, sent) = (address.clone(), sigmad_clock::elapsed(start));
                Ok(Self { connection, address, id: None, start, sent })
            }
            Err(error) => Err(LinkError::lost(error)),
        }
    }

    fn log_in(
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
                    // AUTH to a Redis without passwords, or without AUTH.
                    if error.kind == ErrorKind::Other {
                        error.kind = ErrorKind::Auth;
                    }
                    error = error.without(password);
                }
                return Err(error);
            }
        }
        // A user without the right to do this may still connect: only late commands are not prevented.
        let is_named = self.read()?.is_ok();
        if let Ok(Value::Int(id)) = self.read()?
            && is_named
        {
            self.id = Some(id);
        }
        Ok(())
    }

    fn close_lost(&mut self, identity: &ClientIdentity) -> Result<(), LinkError> {
        let is_here = |session: &&ClientSession| session.address == self.address;
        let ids: Vec<i64> =
            identity.lost.iter().filter(is_here).map(|session| session.id).collect();
        for id in ids {
            // After a restart of Redis the id may belong to another client.
            let mut command = redis::cmd("CLIENT");
            command.arg("LIST").arg("ID").arg(id);
            self.write(&command.get_packed_command())?;
            let is_ours = match self.read()? {
                Ok(Value::BulkString(line)) => {
                    let line = String::from_utf8_lossy(&line);
                    line.split(' ').any(|field| field.strip_prefix("name=") == Some(&identity.name))
                }
                _ => false,
            };
            if is_ours {
                let mut command = redis::cmd("CLIENT");
                command.arg("KILL").arg("ID").arg(id);
                self.write(&command.get_packed_command())?;
                // Refused: it was closed in between, or this user has no right to.
                drop(self.read()?);
            }
        }
        Ok(())
    }

    /// None when Redis has not returned an id.
    pub fn session(&self) -> Option<ClientSession> {
        Some(ClientSession { address: self.address.clone(), id: self.id? })
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Sends commands and reads their replies.
    pub fn run(&mut self, pipeline: &Pipeline) -> Result<Vec<RedisReply>, LinkError> {
        self.send(&pipeline.get_packed_pipeline())?;
        (0..pipeline.len()).map(|_| self.receive()).collect()
    }

    /// Sends one command and reads its reply. A refusal is an error like any other.
    pub fn ask(&mut self, command: &Cmd) -> Result<Value, LinkError> {
        self.send(&command.get_packed_command())?;
        self.receive()?.map_err(|error| LinkError::refusal(&error).at(&self.address))
    }

    /// Sends commands. Each has a reply to be received.
    pub fn send(&mut self, packed: &[u8]) -> Result<(), LinkError> {
        self.write(packed).map_err(|error| error.at(&self.address))
    }

    /// Reads the next reply.
    pub fn receive(&mut self) -> Result<RedisReply, LinkError> {
        self.read().map_err(|error| error.at(&self.address))
    }

    fn write(&mut self, packed: &[u8]) -> Result<(), LinkError> {
        self.sent = sigmad_clock::elapsed(self.start);
        self.connection.send_packed_command(packed).map_err(LinkError::lost)
    }

    fn read(&mut self) -> Result<RedisReply, LinkError> {
        if sigmad_clock::elapsed(self.start) - self.sent > REPLIES_TIMEOUT {
            return Err(LinkError::new(ErrorKind::Timeout, "the replies come too slowly"));
        }
        match self.connection.recv_response() {
            Ok(Value::ServerError(error)) => Ok(Err(error)),
            Ok(value) => Ok(Ok(value)),
            Err(error) => Err(LinkError::lost(error)),
        }
    }
}
