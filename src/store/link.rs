//! The link to Redis: sends pipelines and returns their replies, for every topology.
//!
//! Every call ends within seconds, whatever Redis and the network do; the connection to one process has the
//! bounds and their reasons. Only host names are resolved by the system, within its own bounds. Nothing is
//! tried twice here: the caller decides when to connect again, and sends the same batch.
//!
//! ```text
//! redis://            connect
//! redis+sentinel://   ask a sentinel for the master, connect, check its role
//! redis+cluster://    ask a node for the slots, connect to all nodes, send each command by its key
//! ```

use redis::{Pipeline, Value};

use super::cluster::Cluster;
use super::connection::{ClientSession, NodeConnection};
use super::sentinel;
use super::url::{Target, Topology};
pub use super::{connection::ClientIdentity, error::LinkError};

/// A connection to Redis, or one to each node of a cluster.
pub struct Link(Nodes);

enum Nodes {
    /// One process has all keys.
    Single(NodeConnection),
    Cluster(Box<Cluster>),
}

impl Link {
    /// Connects; with sentinels, to the master of this moment.
    ///
    /// Ends within 3 s if one Redis is down. Each sentinel or seed that is down adds as much, and so does the
    /// first node that is down.
    pub fn connect(target: &Target, identity: &ClientIdentity) -> Result<Self, LinkError> {
        let nodes = match &target.topology {
            Topology::Single(address) => {
                Nodes::Single(NodeConnection::to_node(address, target, identity)?)
            }
            Topology::Sentinel { sentinels, master, login } => Nodes::Single(
                sentinel::connect_master(sentinels, master, login.as_ref(), target, identity)?,
            ),
            Topology::Cluster { seeds } => {
                Nodes::Cluster(Box::new(Cluster::connect(seeds, target, identity)?))
            }
        };
        Ok(Self(nodes))
    }

    /// The connections that are lost if this is dropped after an error: see [`ClientIdentity::set_lost`].
    pub fn sessions(&self) -> Vec<ClientSession> {
        match &self.0 {
            Nodes::Single(node) => node.session().into_iter().collect(),
            Nodes::Cluster(cluster) => cluster.sessions(),
        }
    }

    /// Sends commands and reads their replies: [`Link::send`] and [`Link::receive`] at once.
    ///
    /// # Errors
    /// As those two.
    pub fn run(&mut self, pipeline: &Pipeline) -> Result<Vec<Result<Value, LinkError>>, LinkError> {
        self.send(pipeline)?;
        self.receive(pipeline)
    }

    /// Sends commands. More may be sent before their replies are received. They are executed in the order in
    /// which they were sent; in a cluster, those with different keys need not be.
    ///
    /// # Errors
    ///
    /// The connection is lost: drop the link. It is not known how many commands were executed.
    pub fn send(&mut self, pipeline: &Pipeline) -> Result<(), LinkError> {
        debug_assert!(!pipeline.is_transaction(), "a transaction has other replies");
        if pipeline.is_empty() {
            return Ok(());
        }
        match &mut self.0 {
            Nodes::Single(node) => node.send(&pipeline.get_packed_pipeline()),
            Nodes::Cluster(cluster) => cluster.send(pipeline),
        }
    }

    /// False while nothing may be sent before what is in flight is received.
    pub fn can_send(&self) -> bool {
        match &self.0 {
            Nodes::Single(_) => true,
            Nodes::Cluster(cluster) => cluster.can_send(),
        }
    }

    /// Receives the replies to the oldest commands that were sent and not received: `pipeline` is the same as
    /// then. The replies come in the order of the commands.
    ///
    /// An inner error is the refusal of one command. If its kind is passing ([`ErrorKind::is_passing`]), the
    /// whole batch may be sent again over a new link: a master may have become a replica.
    ///
    /// # Errors
    ///
    /// The connection is lost, or its next reply would belong to an earlier command: drop the link. It is
    /// not known how many commands were executed.
    ///
    /// [`ErrorKind::is_passing`]: super::ErrorKind::is_passing
    pub fn receive(
        &mut self,
        pipeline: &Pipeline,
    ) -> Result<Vec<Result<Value, LinkError>>, LinkError> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let replies: Vec<_> = match &mut self.0 {
            Nodes::Single(node) => {
                node.begin_receiving();
                (0..pipeline.len()).map(|_| node.receive()).collect::<Result<_, _>>()?
            }
            Nodes::Cluster(cluster) => cluster.receive(pipeline)?,
        };
        let refused = |reply: Result<Value, _>| reply.map_err(|error| LinkError::refusal(&error));
        Ok(replies.into_iter().map(refused).collect())
    }
}
