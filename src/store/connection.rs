//! One connection to one Redis process.
//!
//! Every connect, write and read ends within a timeout, whatever the other side does, and after the first
//! failure the connection is not used again. Several pipelines may be sent before the replies to the first are
//! read: Redis replies in the order of the commands.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, ServerError, Value};
use sigmad_clock::Clock;

use super::ErrorKind;
use super::dial::{Dialer, RedisStream};
use super::error::LinkError;
use super::reply::Reply;
use super::url::{Address, Login, Target};

/// For all replies to one pipeline, from the moment in which they are waited for: a batch has hundreds, and each
/// may come just before its timeout. Redis takes milliseconds for them, a bad network a second or two.
const REPLIES_TIMEOUT: Duration = Duration::from_secs(5);

/// The name of this client at Redis, how it connects, and its lost connections.
///
/// Commands on a connection that sigmad has dropped may still be in flight. They would be executed after
/// those of the next connection, and replace newer values by older ones. Each new connection therefore first
/// makes Redis close the lost ones.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// No other process has it.
    name: String,
    clock: Clock,
    dialer: Arc<dyn Dialer>,
    lost: Vec<ClientSession>,
}

impl ClientIdentity {
    /// `name` has no spaces, and no other process has it.
    pub fn new(name: String, clock: Clock, dialer: Arc<dyn Dialer>) -> Self {
        Self { name, clock, dialer, lost: Vec::new() }
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

/// The command that logs in, with the password of this moment.
pub(super) struct Auth {
    pub command: Cmd,
    password: String,
}

impl Auth {
    /// None for a login without a password.
    pub fn read(login: &Login) -> Result<Option<Self>, LinkError> {
        let Some(password) = &login.password else { return Ok(None) };
        let password = password.read().map_err(|error| {
            LinkError::new(ErrorKind::Auth, format!("the file of --redis-password: {error}"))
        })?;
        let mut command = redis::cmd("AUTH");
        command.arg(login.user.as_ref()).arg(&password);
        Ok(Some(Self { command, password }))
    }

    /// What its refusal means, without the password: also Redis without passwords or without AUTH refuses it.
    pub fn refused(&self, error: LinkError) -> LinkError {
        let kind = if error.kind == ErrorKind::Other { ErrorKind::Auth } else { error.kind };
        error.with_kind(kind).without(&self.password)
    }
}

/// The reply to one command.
pub(super) type RedisReply = Result<Reply, ServerError>;

/// One connection.
pub(super) struct NodeConnection {
    stream: Box<dyn RedisStream>,
    address: Address,
    /// Its id at Redis, if Redis returned one.
    id: Option<i64>,
    clock: Clock,
    /// Since when the present replies are waited for, on the monotonic clock.
    waiting_ns: u64,
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
        Self::open(address, is_tls, identity)
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

    fn open(address: &Address, is_tls: bool, identity: &ClientIdentity) -> Result<Self, LinkError> {
        let stream = identity.dialer.dial(address, is_tls).map_err(LinkError::lost)?;
        let clock = identity.clock.clone();
        let waiting_ns = clock.monotonic_ns();
        Ok(Self { stream, address: address.clone(), id: None, clock, waiting_ns })
    }

    fn log_in(
        &mut self,
        login: Option<&Login>,
        database: u32,
        name: &str,
    ) -> Result<(), LinkError> {
        let mut hello = redis::pipe();
        let auth = login.map(Auth::read).transpose()?.flatten();
        if let Some(auth) = &auth {
            hello.add_command(auth.command.clone());
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
                if let (0, Some(auth)) = (index, &auth) {
                    error = auth.refused(error);
                }
                return Err(error);
            }
        }
        // A user without the right to do this may still connect: only late commands are not prevented.
        let is_named = self.read()?.is_ok();
        if let Ok(Reply::Value(Value::Int(id))) = self.read()?
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
                Ok(Reply::Value(Value::BulkString(line))) => {
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

    /// Sends one command and reads its reply. A refusal is an error like any other.
    pub fn ask(&mut self, command: &Cmd) -> Result<Value, LinkError> {
        self.send(&command.get_packed_command())?;
        let reply =
            self.receive()?.map_err(|error| LinkError::refusal(&error).at(&self.address))?;
        Ok(reply.into_value())
    }

    /// Sends commands. Each has a reply, to be received after those of all commands sent before.
    pub fn send(&mut self, packed: &[u8]) -> Result<(), LinkError> {
        self.write(packed).map_err(|error| error.at(&self.address))
    }

    /// The replies to come are waited for from now on.
    pub fn begin_receiving(&mut self) {
        self.waiting_ns = self.clock.monotonic_ns();
    }

    /// Reads the next replies, which are waited for from now on.
    pub fn receive_all(&mut self, replies: usize) -> Result<Vec<RedisReply>, LinkError> {
        self.begin_receiving();
        (0..replies).map(|_| self.receive()).collect()
    }

    /// Reads the next reply.
    pub fn receive(&mut self) -> Result<RedisReply, LinkError> {
        self.read().map_err(|error| error.at(&self.address))
    }

    fn write(&mut self, packed: &[u8]) -> Result<(), LinkError> {
        self.begin_receiving();
        self.stream.write(packed).map_err(LinkError::lost)
    }

    fn read(&mut self) -> Result<RedisReply, LinkError> {
        let waited_ns = self.clock.monotonic_ns() - self.waiting_ns;
        if u128::from(waited_ns) > REPLIES_TIMEOUT.as_nanos() {
            return Err(LinkError::new(ErrorKind::Timeout, "the replies come too slowly"));
        }
        match self.stream.read() {
            Ok(Reply::Value(Value::ServerError(error))) => Ok(Err(error)),
            Ok(reply) => Ok(Ok(reply)),
            Err(error) => Err(LinkError::lost(error)),
        }
    }
}
