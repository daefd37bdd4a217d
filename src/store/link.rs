//! The way to Redis, however it is arranged: pipelines in, answers out.
//!
//! Every call ends within seconds, whatever Redis and the network do (bounds and reasons are in the wire,
//! the connection to one process). Only names are resolved by the system, within its own bounds. Nothing
//! is tried twice here: who calls decides when to connect again, and sends the same batch.
//!
//! ```text
//! redis://            connect
//! redis+sentinel://   ask a sentinel who is master; connect; ask whether it is
//! redis+cluster://    ask a node who has which slots; connect to all; each command goes where its key is
//! ```

use redis::{Pipeline, Value};

use super::ErrorKind;
use super::cluster::Cluster;
use super::url::{Address, Login, Target, Topology};
pub use super::wire::{ClientIdentity, LinkError};
use super::wire::{Session, Wire};
use sigmad_profile::capture::SignalsBlocked;

/// A connection to Redis, or one to each node of a cluster.
pub struct Link(Route);

enum Route {
    /// To one process, which has all keys.
    Whole(Wire),
    ByKey(Cluster),
}

impl Link {
    /// Connects; a master is asked for anew each time.
    ///
    /// Ends within 3 s for one Redis that is away. Each sentinel or seed that is away adds as much, and so does the
    /// first node that is.
    pub fn connect(target: &Target, origin: &ClientIdentity) -> Result<Self, LinkError> {
        let _undisturbed = SignalsBlocked::begin();
        let route = match &target.topology {
            Topology::Single(address) => Route::Whole(to(address, target, origin)?),
            Topology::Sentinel { sentinels, master, login } => {
                Route::Whole(master_of(sentinels, master, login.as_ref(), target, origin)?)
            }
            Topology::Cluster { seeds } => Route::ByKey(Cluster::connect(seeds, target, origin)?),
        };
        Ok(Self(route))
    }

    /// What is lost when this is dropped after an error: see [`ClientIdentity::has_lost`].
    pub fn sessions(&self) -> Vec<Session> {
        match &self.0 {
            Route::Whole(wire) => wire.session().into_iter().collect(),
            Route::ByKey(cluster) => cluster.sessions(),
        }
    }

    /// Sends commands and reads their answers, in the commands' order. In a cluster the commands of one
    /// key stay in order, those of different keys need not.
    ///
    /// An inner error is Redis' refusal of one command. When its kind is passing
    /// ([`ErrorKind::is_passing`]), the whole batch may be sent again, over a new link: the refusal may be
    /// that of a replica which was master.
    ///
    /// # Errors
    ///
    /// The connection is lost, or what it says next would not be the answer to what is asked next: drop
    /// the link. How many of the commands were done is not known.
    pub fn run(&mut self, pipeline: &Pipeline) -> Result<Vec<Result<Value, LinkError>>, LinkError> {
        debug_assert!(!pipeline.is_transaction(), "a transaction has other answers");
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        // An interrupted read would be the last of its connection.
        let _undisturbed = SignalsBlocked::begin();
        let answers = match &mut self.0 {
            Route::Whole(wire) => wire.run(pipeline)?,
            Route::ByKey(cluster) => cluster.run(pipeline)?,
        };
        let told = |answer: Result<Value, _>| answer.map_err(|error| LinkError::refusal(&error));
        Ok(answers.into_iter().map(told).collect())
    }
}

/// To a node that holds data.
pub(super) fn to(
    address: &Address,
    target: &Target,
    origin: &ClientIdentity,
) -> Result<Wire, LinkError> {
    Wire::connect(address, target.is_tls, target.login.as_ref(), target.database, origin)
}

/// Asks one sentinel after the other. What went wrong with a master that one of them gave says more than
/// a sentinel that is away; no master is tried twice.
fn master_of(
    sentinels: &[Address],
    name: &str,
    login: Option<&Login>,
    target: &Target,
    origin: &ClientIdentity,
) -> Result<Wire, LinkError> {
    let mut tried: Vec<Address> = Vec::new();
    let mut of_master = None;
    let mut of_sentinel = None;
    for sentinel in sentinels {
        match given_master(sentinel, name, login, target.is_tls, origin) {
            Err(error) => of_sentinel = Some(error),
            Ok(address) if tried.contains(&address) => {}
            Ok(address) => match to(&address, target, origin).and_then(checked_master) {
                Ok(wire) => return Ok(wire),
                Err(error) => {
                    of_master = Some(error);
                    tried.push(address);
                }
            },
        }
    }
    Err(of_master.or(of_sentinel).expect("a target names a host"))
}

/// The master's address, as one sentinel knows it.
fn given_master(
    sentinel: &Address,
    name: &str,
    login: Option<&Login>,
    is_tls: bool,
    origin: &ClientIdentity,
) -> Result<Address, LinkError> {
    let mut wire = Wire::connect(sentinel, is_tls, login, 0, origin)?;
    let mut question = redis::cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let answer = wire.ask(&question)?;
    let (host, port): (String, u16) = redis::from_redis_value(answer).map_err(|_| {
        let message = format!("{sentinel}: this sentinel knows no master {name:?}");
        LinkError::new(ErrorKind::ReadOnly, message)
    })?;
    Ok(Address { host, port })
}

/// During a failover a sentinel may give a master that is none, or is none any more.
fn checked_master(mut wire: Wire) -> Result<Wire, LinkError> {
    let role = wire.ask(&redis::cmd("ROLE"))?;
    let is_master = match role.as_sequence().and_then(|parts| parts.first()) {
        Some(Value::BulkString(role)) => role == b"master",
        _ => false,
    };
    if is_master {
        return Ok(wire);
    }
    let message = format!("{}: the sentinels' master is a replica", wire.address());
    Err(LinkError::new(ErrorKind::ReadOnly, message))
}
