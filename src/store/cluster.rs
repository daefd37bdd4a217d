//! A Redis cluster: sends each command to the node that has the slot of its key.
//!
//! Slots may move at any time. A node that no longer has a slot names the node that has it (MOVED, or ASK
//! for one command), and the command is sent there. Any other refusal is the reply to that command alone.

use std::collections::VecDeque;

use redis::{Arg, Cmd, Pipeline, ServerError, Value};

use super::ErrorKind;
use super::connection::{ClientIdentity, ClientSession, NodeConnection, RedisReply};
use super::error::LinkError;
use super::reply::Reply;
use super::url::{Address, Target};

/// Number of slots in every cluster.
const SLOTS: usize = 16_384;
/// A command that is redirected more often meets nodes that disagree: its last redirection is its reply.
const REDIRECTIONS_MAX: usize = 5;
/// Allows the next command on a slot that is migrating to this node.
const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";

/// Connections to all nodes that have slots.
pub(super) struct Cluster {
    target: Target,
    identity: ClientIdentity,
    nodes: Vec<NodeConnection>,
    /// The node of each slot. A slot without a node has any node, which will refuse.
    slot_nodes: Vec<usize>,
    /// Pipelines that were sent and whose replies are not read, oldest first.
    in_flight: VecDeque<Round>,
    /// Pipelines that were in flight when an earlier one was redirected: what their nodes replied.
    settled: VecDeque<Received>,
}

/// Commands that are sent together, by node.
type Round = Vec<Vec<RoutedCommand>>;

/// The replies to a pipeline, as far as they are known.
struct Received {
    replies: Vec<RedisReply>,
    redirected: Vec<(usize, Redirection)>,
}

/// One command and the node that it is sent to.
struct RoutedCommand {
    index: usize,
    node: usize,
    is_asking: bool,
}

impl Cluster {
    /// Asks one seed after the other for the slots, and connects to all nodes that have some. No node is
    /// tried twice. An error of such a node is returned rather than that of a seed: it says more.
    pub fn connect(
        seeds: &[Address],
        target: &Target,
        identity: &ClientIdentity,
    ) -> Result<Self, LinkError> {
        let mut tried: Vec<Address> = Vec::new();
        let mut node_error = None;
        let mut seed_error = None;
        'seeds: for seed in seeds {
            let (node, ranges) = match slots_by(seed, target, identity) {
                Ok(found) => found,
                Err(error) => {
                    seed_error = Some(error);
                    continue;
                }
            };
            if ranges.iter().any(|range| tried.contains(&range.master)) {
                continue;
            }
            let (target, identity) = (target.clone(), identity.clone());
            let mut cluster = Self {
                target,
                identity,
                nodes: vec![node],
                slot_nodes: vec![0; SLOTS],
                in_flight: VecDeque::new(),
                settled: VecDeque::new(),
            };
            for SlotRange { first, last, master } in ranges {
                match cluster.node(&master) {
                    Ok(node) => cluster.slot_nodes[first..=last].fill(node),
                    Err(error) => {
                        node_error = Some(error);
                        tried.push(master);
                        continue 'seeds;
                    }
                }
            }
            return Ok(cluster);
        }
        Err(node_error.or(seed_error).expect("a target names a host"))
    }

    /// The node at that address. Connects if there is no connection yet.
    fn node(&mut self, address: &Address) -> Result<usize, LinkError> {
        if let Some(node) = self.nodes.iter().position(|node| node.address() == address) {
            return Ok(node);
        }
        self.nodes.push(NodeConnection::to_node(address, &self.target, &self.identity)?);
        Ok(self.nodes.len() - 1)
    }

    pub fn sessions(&self) -> Vec<ClientSession> {
        self.nodes.iter().filter_map(NodeConnection::session).collect()
    }

    pub fn nodes(&mut self) -> &mut [NodeConnection] {
        &mut self.nodes
    }

    /// Sends every command to its node, all nodes at once.
    pub fn send(&mut self, pipeline: &Pipeline) -> Result<(), LinkError> {
        debug_assert!(self.can_send(), "it would overtake redirected commands");
        let commands: Vec<&Cmd> = pipeline.cmd_iter().collect();
        let route = |(index, cmd): (usize, &&Cmd)| {
            let node = self.slot_nodes[slot_of(key_of(cmd))];
            RoutedCommand { index, node, is_asking: false }
        };
        let routed = commands.iter().enumerate().map(route).collect();
        let round = self.send_round(&commands, routed)?;
        self.in_flight.push_back(round);
        Ok(())
    }

    /// False while commands that were sent may still be redirected: the next ones could overtake them.
    pub fn can_send(&self) -> bool {
        self.settled.is_empty()
    }

    /// The replies to the oldest pipeline that was sent and not received, in the order of its commands.
    pub fn receive(&mut self, pipeline: &Pipeline) -> Result<Vec<RedisReply>, LinkError> {
        let Received { mut replies, mut redirected } = match self.settled.pop_front() {
            Some(received) => received,
            None => self.receive_oldest(pipeline.len())?,
        };
        if redirected.is_empty() {
            return Ok(replies);
        }
        // The replies to what is sent again come after those that are on their way.
        while let Some(round) = self.in_flight.front() {
            let commands = round.iter().map(Vec::len).sum();
            let received = self.receive_oldest(commands)?;
            self.settled.push_back(received);
        }
        let commands: Vec<&Cmd> = pipeline.cmd_iter().collect();
        for _ in 0..REDIRECTIONS_MAX {
            if redirected.is_empty() {
                break;
            }
            let routed = self.follow(redirected)?;
            let round = self.send_round(&commands, routed)?;
            redirected = self.receive_round(round, &mut replies)?;
        }
        Ok(replies)
    }

    fn receive_oldest(&mut self, commands: usize) -> Result<Received, LinkError> {
        let round = self.in_flight.pop_front().expect("a pipeline is sent before it is received");
        let mut replies: Vec<RedisReply> = vec![Ok(Reply::Value(Value::Nil)); commands];
        let redirected = self.receive_round(round, &mut replies)?;
        Ok(Received { replies, redirected })
    }

    fn send_round(
        &mut self,
        commands: &[&Cmd],
        routed: Vec<RoutedCommand>,
    ) -> Result<Round, LinkError> {
        let mut by_node = Round::new();
        by_node.resize_with(self.nodes.len(), Vec::new);
        for command in routed {
            by_node[command.node].push(command);
        }
        for (node, routed) in self.nodes.iter_mut().zip(&by_node) {
            let mut packed = Vec::new();
            for command in routed {
                if command.is_asking {
                    packed.extend_from_slice(ASKING);
                }
                commands[command.index].write_packed_command(&mut packed);
            }
            if !packed.is_empty() {
                node.send(&packed)?;
            }
        }
        Ok(by_node)
    }

    /// Receives the replies of one round, and returns the commands that are redirected.
    fn receive_round(
        &mut self,
        round: Round,
        replies: &mut [RedisReply],
    ) -> Result<Vec<(usize, Redirection)>, LinkError> {
        let mut redirected = Vec::new();
        for (node, routed) in round.into_iter().enumerate() {
            let node = &mut self.nodes[node];
            node.begin_receiving();
            for command in routed {
                if command.is_asking {
                    // A node that refuses ASKING also refuses the command.
                    drop(node.receive()?);
                }
                let reply = node.receive()?;
                if let Err(error) = &reply
                    && let Some(redirection) = redirection(error, node.address())
                {
                    redirected.push((command.index, redirection));
                }
                replies[command.index] = reply;
            }
        }
        Ok(redirected)
    }

    /// Routes redirected commands. Only after all replies are read, so that a node that is down loses none of
    /// them.
    fn follow(
        &mut self,
        redirected: Vec<(usize, Redirection)>,
    ) -> Result<Vec<RoutedCommand>, LinkError> {
        let mut routed = Vec::with_capacity(redirected.len());
        for (index, Redirection { slot, address, is_asking }) in redirected {
            let node = self.node(&address)?;
            if !is_asking {
                self.slot_nodes[slot] = node;
            }
            routed.push(RoutedCommand { index, node, is_asking });
        }
        Ok(routed)
    }
}

/// Consecutive slots of one node.
#[derive(Debug, PartialEq, Eq)]
struct SlotRange {
    first: usize,
    last: usize,
    master: Address,
}

fn slots_by(
    seed: &Address,
    target: &Target,
    identity: &ClientIdentity,
) -> Result<(NodeConnection, Vec<SlotRange>), LinkError> {
    let mut node = NodeConnection::to_node(seed, target, identity)?;
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    let reply = match node.ask(&command) {
        Ok(reply) => reply,
        // Cluster support is disabled in that Redis.
        Err(error) if error.kind == ErrorKind::Other => {
            return Err(error.with_kind(ErrorKind::Cluster));
        }
        Err(error) => return Err(error),
    };
    match ranges(&reply, seed) {
        Some(ranges) => Ok((node, ranges)),
        None => {
            let message = format!("{seed}: the reply to CLUSTER SLOTS is malformed");
            Err(LinkError::new(ErrorKind::Cluster, message))
        }
    }
}

/// The reply to CLUSTER SLOTS: `[first, last, [host, port, …] of the master, replicas…]` for each range.
fn ranges(reply: &Value, asked: &Address) -> Option<Vec<SlotRange>> {
    let mut ranges = Vec::new();
    for range in reply.as_sequence()? {
        let [Value::Int(first), Value::Int(last), master, ..] = range.as_sequence()? else {
            return None;
        };
        let [host, Value::Int(port), ..] = master.as_sequence()? else {
            return None;
        };
        let host = match host {
            Value::BulkString(host) => std::str::from_utf8(host).ok()?,
            Value::Nil => "",
            _ => return None,
        };
        let (first, last) = (usize::try_from(*first).ok()?, usize::try_from(*last).ok()?);
        if first > last || last >= SLOTS {
            return None;
        }
        // The node does not know the address of its master.
        if host == "?" {
            continue;
        }
        let master = address(host, u16::try_from(*port).ok()?, asked);
        ranges.push(SlotRange { first, last, master });
    }
    Some(ranges)
}

/// A node without a host has the host of the node that named it.
fn address(host: &str, port: u16, named_by: &Address) -> Address {
    let host = if host.is_empty() { &named_by.host } else { host };
    Address { host: host.to_owned(), port }
}

/// The node that a command must be sent to instead.
#[derive(Debug, PartialEq, Eq)]
struct Redirection {
    slot: usize,
    address: Address,
    is_asking: bool,
}

/// Parses `MOVED 3999 host:port`, and ASK.
fn redirection(error: &ServerError, asked: &Address) -> Option<Redirection> {
    let is_asking = match error.code() {
        "MOVED" => false,
        "ASK" => true,
        _ => return None,
    };
    let (slot, place) = error.details()?.split_once(' ')?;
    let slot = slot.parse().ok().filter(|&slot| slot < SLOTS)?;
    let (host, port) = place.rsplit_once(':')?;
    Some(Redirection { slot, address: address(host, port.parse().ok()?, asked), is_asking })
}

/// The key that decides the node of a command: its first argument, or the first key of a script.
fn key_of(command: &Cmd) -> &[u8] {
    let mut arguments = command.args_iter().map(|argument| match argument {
        Arg::Simple(bytes) => bytes,
        _ => b"",
    });
    let name = arguments.next().unwrap_or(b"");
    let before = if name.eq_ignore_ascii_case(b"EVAL") { 2 } else { 0 };
    // Any node replies a command without a key.
    arguments.nth(before).unwrap_or(b"")
}

/// The slot of a key: of the text between its first braces, unless that is empty.
fn slot_of(key: &[u8]) -> usize {
    let tag = key.iter().position(|&byte| byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|&byte| byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    usize::from(crc16(tag.unwrap_or(key))) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| {
            (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Address {
        Address { host: "h".to_owned(), port: 1 }
    }

    #[test]
    fn slots_follow_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        for (key, same_as) in [
            ("{user1000}.following", "user1000"),
            ("foo{}{bar}", "foo{}{bar}"),
            ("foo{{bar}}zap", "{bar"),
            ("foo{bar}{zap}", "bar"),
            ("foo{bar", "foo{bar"),
            ("sigmad:{edge-17}:counts", "edge-17"),
        ] {
            let slot = slot_of(key.as_bytes());
            assert_eq!(slot, usize::from(crc16(same_as.as_bytes())) % SLOTS, "{key}");
        }
        assert_eq!(slot_of(b"foo"), 12_182);
    }

    #[test]
    fn the_key_is_the_first_argument_or_the_first_of_a_script() {
        let mut set = redis::cmd("SET");
        assert_eq!(key_of(set.arg("k").arg("v")), b"k");
        let mut eval = redis::cmd("EVAL");
        assert_eq!(key_of(eval.arg("return 1").arg(2).arg("a").arg("b")), b"a");
        assert_eq!(key_of(&redis::cmd("PING")), b"");
    }

    #[test]
    fn slots_are_parsed_and_malformed_replies_refused() {
        let read = |reply: &str| {
            let value = redis::parse_redis_value(reply.as_bytes()).expect("RESP");
            ranges(&value, &here())
        };
        let range = |first, last, host: &str, port| SlotRange {
            first,
            last,
            master: Address { host: host.to_owned(), port },
        };
        let reply = "*3\r\n\
            *4\r\n:0\r\n:99\r\n*3\r\n$9\r\n127.0.0.1\r\n:7\r\n$2\r\nid\r\n*2\r\n$1\r\nr\r\n:9\r\n\
            *3\r\n:100\r\n:100\r\n*2\r\n$0\r\n\r\n:8\r\n\
            *3\r\n:101\r\n:16383\r\n*2\r\n$1\r\n?\r\n:0\r\n";
        let expected = vec![range(0, 99, "127.0.0.1", 7), range(100, 100, "h", 8)];
        assert_eq!(read(reply), Some(expected));
        assert_eq!(read("*0\r\n"), Some(Vec::new()));
        for reply in [
            "+OK\r\n",
            "*1\r\n+OK\r\n",
            "*1\r\n*2\r\n:0\r\n:1\r\n",
            "*1\r\n*3\r\n:2\r\n:1\r\n*2\r\n$1\r\na\r\n:1\r\n",
            "*1\r\n*3\r\n:0\r\n:16384\r\n*2\r\n$1\r\na\r\n:1\r\n",
            "*1\r\n*3\r\n:-1\r\n:1\r\n*2\r\n$1\r\na\r\n:1\r\n",
            "*1\r\n*3\r\n:0\r\n:1\r\n*2\r\n$1\r\na\r\n:65536\r\n",
        ] {
            assert_eq!(read(reply), None, "{reply:?}");
        }
    }

    #[test]
    fn redirections_are_parsed_and_other_refusals_are_not() {
        let read = |line: &str| {
            let reply = format!("-{line}\r\n");
            let Ok(Value::ServerError(error)) = redis::parse_redis_value(reply.as_bytes()) else {
                panic!("{line}: no error");
            };
            redirection(&error, &here())
        };
        let expected = |slot, host: &str, port, is_asking| {
            Some(Redirection { slot, address: Address { host: host.to_owned(), port }, is_asking })
        };
        assert_eq!(read("MOVED 3999 127.0.0.1:6381"), expected(3_999, "127.0.0.1", 6381, false));
        assert_eq!(read("ASK 0 node-3.local:6381"), expected(0, "node-3.local", 6381, true));
        assert_eq!(read("MOVED 1 ::1:6381"), expected(1, "::1", 6381, false));
        assert_eq!(read("MOVED 1 :6381"), expected(1, "h", 6381, false));
        for line in ["MOVED", "MOVED 1", "MOVED 16384 h:1", "MOVED x h:1", "ASK 1 h", "ERR 1 h:1"] {
            assert_eq!(read(line), None, "{line}");
        }
    }
}
