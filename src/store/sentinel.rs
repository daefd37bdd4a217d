//! Sentinels: which Redis is the master.

use redis::Value;

use super::ErrorKind;
use super::connection::{ClientIdentity, NodeConnection};
use super::error::LinkError;
use super::url::{Address, Login, Target};

/// Asks one sentinel after the other, and connects to the master that it names. No master is tried twice.
/// An error of a master is returned rather than that of a sentinel: it says more.
pub(super) fn connect_master(
    sentinels: &[Address],
    name: &str,
    login: Option<&Login>,
    target: &Target,
    identity: &ClientIdentity,
) -> Result<NodeConnection, LinkError> {
    let mut tried: Vec<Address> = Vec::new();
    let mut master_error = None;
    let mut sentinel_error = None;
    for sentinel in sentinels {
        match ask_master(sentinel, name, login, target.is_tls, identity) {
            Err(error) => sentinel_error = Some(error),
            Ok(address) if tried.contains(&address) => {}
            Ok(address) => {
                match NodeConnection::to_node(&address, target, identity).and_then(check_role) {
                    Ok(master) => return Ok(master),
                    Err(error) => {
                        master_error = Some(error);
                        tried.push(address);
                    }
                }
            }
        }
    }
    Err(master_error.or(sentinel_error).expect("a target names a host"))
}

/// The address of the master, according to one sentinel.
fn ask_master(
    sentinel: &Address,
    name: &str,
    login: Option<&Login>,
    is_tls: bool,
    identity: &ClientIdentity,
) -> Result<Address, LinkError> {
    let mut node = NodeConnection::connect(sentinel, is_tls, login, 0, identity)?;
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let reply = node.ask(&command)?;
    let (host, port): (String, u16) = redis::from_redis_value(reply).map_err(|_| {
        let message = format!("{sentinel}: this sentinel knows no master {name:?}");
        LinkError::new(ErrorKind::ReadOnly, message)
    })?;
    Ok(Address { host, port })
}

/// During a failover a sentinel may name a Redis that is not master yet, or no longer.
fn check_role(mut node: NodeConnection) -> Result<NodeConnection, LinkError> {
    let role = node.ask(&redis::cmd("ROLE"))?;
    let is_master = match role.as_sequence().and_then(|parts| parts.first()) {
        Some(Value::BulkString(role)) => role == b"master",
        _ => false,
    };
    if is_master {
        return Ok(node);
    }
    let message = format!("{}: the sentinels' master is a replica", node.address());
    Err(LinkError::new(ErrorKind::ReadOnly, message))
}
