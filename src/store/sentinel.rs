//! Sentinels: which Redis is the master, and whether it still is.
//!
//! A planned failover promotes a replica while the old master goes on to take writes, for some seconds: they are
//! lost. So the sentinels are asked again and again, and what was written shortly before they name another
//! master is written again, to that one.

use redis::Value;

use super::ErrorKind;
use super::connection::{ClientIdentity, NodeConnection};
use super::error::LinkError;
use super::url::{Address, Login, Target};

/// The connection to the master, and to a sentinel that watches it.
pub(super) struct Master {
    pub node: NodeConnection,
    /// The one that named it. None after it has failed.
    sentinel: Option<NodeConnection>,
    /// Number of sentinels that have failed: the next one is asked instead.
    failed: usize,
    sentinels: SentinelGroup,
}

/// Sentinels that watch the same master.
#[derive(Clone)]
pub(super) struct SentinelGroup {
    pub addresses: Vec<Address>,
    /// The name of the master.
    pub master: String,
    pub login: Option<Login>,
    pub target: Target,
    pub identity: ClientIdentity,
}

impl Master {
    /// Asks one sentinel after the other, and connects to the master that it names. No master is tried twice.
    /// An error of a master is returned rather than that of a sentinel: it says more.
    pub fn connect(sentinels: SentinelGroup) -> Result<Self, LinkError> {
        let mut tried: Vec<Address> = Vec::new();
        let mut master_error = None;
        let mut sentinel_error = None;
        for place in 0..sentinels.addresses.len() {
            let (sentinel, address) = match sentinels.ask_one(place) {
                Ok(found) => found,
                Err(error) => {
                    sentinel_error = Some(error);
                    continue;
                }
            };
            if tried.contains(&address) {
                continue;
            }
            let SentinelGroup { target, identity, .. } = &sentinels;
            let node = NodeConnection::to_node(&address, target, identity).and_then(|mut node| {
                check_role(&mut node)?;
                Ok(node)
            });
            match node {
                Ok(node) => {
                    return Ok(Self { node, sentinel: Some(sentinel), failed: place, sentinels });
                }
                Err(error) => {
                    master_error = Some(error);
                    tried.push(address);
                }
            }
        }
        Err(master_error.or(sentinel_error).expect("a target names a host"))
    }

    /// True when a sentinel still names this master, which still has the role; false when no sentinel could be
    /// asked.
    ///
    /// # Errors
    /// It is the master no longer, or the connection to it is lost.
    pub fn confirm(&mut self) -> Result<bool, LinkError> {
        check_role(&mut self.node)?;
        let Self { sentinels, failed, .. } = self;
        let asked = match self.sentinel.take() {
            Some(mut sentinel) => sentinels.ask(&mut sentinel).map(|named| (sentinel, named)),
            None => sentinels.ask_one(*failed % sentinels.addresses.len()),
        };
        let Ok((sentinel, named)) = asked else {
            *failed += 1;
            return Ok(false);
        };
        self.sentinel = Some(sentinel);
        if named == *self.node.address() {
            return Ok(true);
        }
        let message =
            format!("{}: the sentinels name another master: {named}", self.node.address());
        Err(LinkError::new(ErrorKind::ReadOnly, message))
    }
}

impl SentinelGroup {
    /// Connects to one sentinel, and asks it for the address of the master.
    fn ask_one(&self, place: usize) -> Result<(NodeConnection, Address), LinkError> {
        let Self { addresses, login, target, identity, .. } = self;
        let login = login.as_ref();
        let mut sentinel =
            NodeConnection::connect(&addresses[place], target.is_tls, login, 0, identity)?;
        let named = self.ask(&mut sentinel)?;
        Ok((sentinel, named))
    }

    fn ask(&self, sentinel: &mut NodeConnection) -> Result<Address, LinkError> {
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master);
        let reply = sentinel.ask(&command)?;
        let (host, port): (String, u16) = redis::from_redis_value(reply).map_err(|_| {
            let (sentinel, name) = (sentinel.address(), &self.master);
            let message = format!("{sentinel}: this sentinel knows no master {name:?}");
            LinkError::new(ErrorKind::ReadOnly, message)
        })?;
        Ok(Address { host, port })
    }
}

/// During a failover a sentinel may name a Redis that is not master yet, or no longer.
fn check_role(node: &mut NodeConnection) -> Result<(), LinkError> {
    let role = node.ask(&redis::cmd("ROLE"))?;
    let is_master = match role.as_sequence().and_then(|parts| parts.first()) {
        Some(Value::BulkString(role)) => role == b"master",
        _ => false,
    };
    if is_master {
        return Ok(());
    }
    let message = format!("{}: the sentinels' master is a replica", node.address());
    Err(LinkError::new(ErrorKind::ReadOnly, message))
}
