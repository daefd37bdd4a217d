//! The link to Redis: sends pipelines and returns their replies, for every topology.
//!
//! Every call ends within seconds, whatever Redis and the network do; the connection to one process has the
//! bounds and their reasons. Only host names are resolved by the system, within its own bounds. Nothing is
//! tried twice here: the caller decides when to connect again, and sends the same batch.
//!
//! ```text
//! redis://            connect
//! redis+sentinel://   ask a sentinel for the master, connect, check its role; again from time to time
//! redis+cluster://    ask a node for the slots, connect to all nodes, send each command by its key
//! ```

use redis::{Cmd, Pipeline};

use super::cluster::Cluster;
use super::connection::{Auth, ClientSession, NodeConnection};
use super::reply::Reply;
use super::sentinel::{Master, SentinelGroup};
use super::url::{Address, Login, Target, Topology};
pub use super::{connection::ClientIdentity, error::LinkError};

/// A connection to Redis, or one to each node of a cluster.
pub struct Link(Nodes);

enum Nodes {
    /// One process has all keys.
    Single(NodeConnection),
    /// The master of a group has all keys, as long as it is the master.
    Master(Box<Master>),
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
            Topology::Sentinel { sentinels, master, login } => {
                let group = SentinelGroup {
                    addresses: sentinels.clone(),
                    master: master.clone(),
                    login: login.clone(),
                    target: target.clone(),
                    identity: identity.clone(),
                };
                Nodes::Master(Box::new(Master::connect(group)?))
            }
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
            Nodes::Master(master) => master.node.session().into_iter().collect(),
            Nodes::Cluster(cluster) => cluster.sessions(),
        }
    }

    /// The address of the master that sentinels named; None without sentinels.
    pub fn master(&self) -> Option<&Address> {
        match &self.0 {
            Nodes::Master(master) => Some(master.node.address()),
            Nodes::Single(_) | Nodes::Cluster(_) => None,
        }
    }

    /// True when a sentinel still names the master of this link; false when no sentinel could be asked, or
    /// without sentinels. Nothing is in flight.
    ///
    /// # Errors
    /// Another Redis is the master, or the connection is lost: drop the link.
    pub fn confirm_master(&mut self) -> Result<bool, LinkError> {
        match &mut self.0 {
            Nodes::Master(master) => master.confirm(),
            Nodes::Single(_) | Nodes::Cluster(_) => Ok(false),
        }
    }

    /// Logs in on the present connections with the password of this moment. Nothing is in flight. False when there is
    /// none. A refusal leaves the connections as they are.
    ///
    /// # Errors
    /// The outer one: a connection is lost, drop the link. The inner one: a node refuses the password, or it cannot be
    /// read.
    pub fn log_in_again(&mut self, login: &Login) -> Result<Result<bool, LinkError>, LinkError> {
        let auth = match Auth::read(login) {
            Ok(Some(auth)) => auth,
            Ok(None) => return Ok(Ok(false)),
            Err(error) => return Ok(Err(error)),
        };
        let refusal = self.ask_nodes(&auth.command)?.into_iter().find_map(Result::err);
        Ok(refusal.map_or(Ok(true), |error| Err(auth.refused(error))))
    }

    /// Sends one command to every node, whatever its key, and returns their replies. Nothing is in flight.
    ///
    /// # Errors
    /// A connection is lost: drop the link.
    pub fn ask_nodes(&mut self, command: &Cmd) -> Result<Vec<Result<Reply, LinkError>>, LinkError> {
        let nodes = match &mut self.0 {
            Nodes::Single(node) => std::slice::from_mut(node),
            Nodes::Master(master) => std::slice::from_mut(&mut master.node),
            Nodes::Cluster(cluster) => cluster.nodes(),
        };
        let packed = command.get_packed_command();
        nodes.iter_mut().try_for_each(|node| node.send(&packed))?;
        let mut replies = Vec::with_capacity(nodes.len());
        for node in nodes {
            replies.push(node.receive()?.map_err(|error| LinkError::refusal(&error)));
        }
        Ok(replies)
    }

    /// Sends commands and reads their replies: [`Link::send`] and [`Link::receive`] at once.
    ///
    /// # Errors
    /// As those two.
    pub fn run(&mut self, pipeline: &Pipeline) -> Result<Vec<Result<Reply, LinkError>>, LinkError> {
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
            Nodes::Master(master) => master.node.send(&pipeline.get_packed_pipeline()),
            Nodes::Cluster(cluster) => cluster.send(pipeline),
        }
    }

    /// False while nothing may be sent before what is in flight is received.
    pub fn can_send(&self) -> bool {
        match &self.0 {
            Nodes::Single(_) | Nodes::Master(_) => true,
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
    ) -> Result<Vec<Result<Reply, LinkError>>, LinkError> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let replies: Vec<_> = match &mut self.0 {
            Nodes::Single(node) => node.receive_all(pipeline.len())?,
            Nodes::Master(master) => master.node.receive_all(pipeline.len())?,
            Nodes::Cluster(cluster) => cluster.receive(pipeline)?,
        };
        let refused = |reply: Result<Reply, _>| reply.map_err(|error| LinkError::refusal(&error));
        Ok(replies.into_iter().map(refused).collect())
    }
}
