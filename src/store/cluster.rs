//! A cluster: which node has which slot, and each command to the node that has its key.
//!
//! Slots move while we look: a node that has lost one says where it is (MOVED, or ASK for one command),
//! and the command goes there. Whatever else a node refuses is the answer of that command alone.

use redis::{Arg, Cmd, Pipeline, ServerError, Value};

use super::ErrorKind;
use super::link::to;
use super::url::{Address, Target};
use super::wire::{Answer, ClientIdentity, LinkError, Session, Wire};

/// Into so many slots the keys are divided.
const SLOTS: usize = 16_384;
/// A command that is sent on more often meets nodes that do not agree: its last refusal is its answer.
const REDIRECTIONS_MAX: usize = 5;
/// Allows the next command on a slot that is on its way to this node.
const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";

/// Connections to all nodes that have slots.
pub(super) struct Cluster {
    target: Target,
    origin: ClientIdentity,
    nodes: Vec<Wire>,
    /// The node of each slot; of one that nobody has, any: it will say so.
    owners: Vec<usize>,
}

/// One command on its way.
struct RoutedCommand {
    command: usize,
    node: usize,
    is_asking: bool,
}

impl Cluster {
    /// Asks one seed after the other for the slots, and connects to all nodes that have some. What went
    /// wrong with such a node says more than a seed that is away; no node is tried twice.
    pub fn connect(
        seeds: &[Address],
        target: &Target,
        origin: &ClientIdentity,
    ) -> Result<Self, LinkError> {
        let mut tried: Vec<Address> = Vec::new();
        let mut of_node = None;
        let mut of_seed = None;
        'seeds: for seed in seeds {
            let (wire, ranges) = match slots_by(seed, target, origin) {
                Ok(found) => found,
                Err(error) => {
                    of_seed = Some(error);
                    continue;
                }
            };
            if ranges.iter().any(|range| tried.contains(&range.master)) {
                continue;
            }
            let (target, origin) = (target.clone(), origin.clone());
            let mut cluster = Self { target, origin, nodes: vec![wire], owners: vec![0; SLOTS] };
            for SlotRange { first, last, master } in ranges {
                match cluster.node(&master) {
                    Ok(node) => cluster.owners[first..=last].fill(node),
                    Err(error) => {
                        of_node = Some(error);
                        tried.push(master);
                        continue 'seeds;
                    }
                }
            }
            return Ok(cluster);
        }
        Err(of_node.or(of_seed).expect("a target names a host"))
    }

    /// The node at that address, connected now if need be.
    fn node(&mut self, address: &Address) -> Result<usize, LinkError> {
        if let Some(node) = self.nodes.iter().position(|wire| wire.address() == address) {
            return Ok(node);
        }
        self.nodes.push(to(address, &self.target, &self.origin)?);
        Ok(self.nodes.len() - 1)
    }

    pub fn sessions(&self) -> Vec<Session> {
        self.nodes.iter().filter_map(Wire::session).collect()
    }

    /// Sends every command to its node, all nodes at once, and puts the answers in order.
    pub fn run(&mut self, pipeline: &Pipeline) -> Result<Vec<Answer>, LinkError> {
        let commands: Vec<&Cmd> = pipeline.cmd_iter().collect();
        let mut answers: Vec<Answer> = vec![Ok(Value::Nil); commands.len()];
        let mut errands: Vec<RoutedCommand> = commands
            .iter()
            .enumerate()
            .map(|(command, cmd)| {
                let node = self.owners[slot_of(key_of(cmd))];
                RoutedCommand { command, node, is_asking: false }
            })
            .collect();
        for _ in 0..=REDIRECTIONS_MAX {
            if errands.is_empty() {
                break;
            }
            errands = self.round(&commands, errands, &mut answers)?;
        }
        Ok(answers)
    }

    /// Sends, receives, and returns what must be sent on.
    fn round(
        &mut self,
        commands: &[&Cmd],
        errands: Vec<RoutedCommand>,
        answers: &mut [Answer],
    ) -> Result<Vec<RoutedCommand>, LinkError> {
        let mut by_node: Vec<Vec<RoutedCommand>> = Vec::new();
        by_node.resize_with(self.nodes.len(), Vec::new);
        for errand in errands {
            by_node[errand.node].push(errand);
        }
        for (wire, errands) in self.nodes.iter_mut().zip(&by_node) {
            let mut packed = Vec::new();
            for errand in errands {
                if errand.is_asking {
                    packed.extend_from_slice(ASKING);
                }
                commands[errand.command].write_packed_command(&mut packed);
            }
            if !packed.is_empty() {
                wire.send(&packed)?;
            }
        }
        let mut to_send_on = Vec::new();
        for (node, errands) in by_node.into_iter().enumerate() {
            for errand in errands {
                if errand.is_asking {
                    // A node that refuses ASKING refuses the command too.
                    drop(self.nodes[node].receive()?);
                }
                let answer = self.nodes[node].receive()?;
                if let Err(error) = &answer
                    && let Some(redirection) = redirection(error, self.nodes[node].address())
                {
                    to_send_on.push((errand.command, redirection));
                }
                answers[errand.command] = answer;
            }
        }
        // Only now: the answers of all others are read, so a node that is away loses none of them.
        let mut errands = Vec::new();
        for (command, Redirection { slot, address, is_asking }) in to_send_on {
            let node = self.node(&address)?;
            if !is_asking {
                self.owners[slot] = node;
            }
            errands.push(RoutedCommand { command, node, is_asking });
        }
        Ok(errands)
    }
}

/// Slots that follow one another, at one node.
#[derive(Debug, PartialEq, Eq)]
struct SlotRange {
    first: usize,
    last: usize,
    master: Address,
}

fn slots_by(
    seed: &Address,
    target: &Target,
    origin: &ClientIdentity,
) -> Result<(Wire, Vec<SlotRange>), LinkError> {
    let mut wire = to(seed, target, origin)?;
    let mut question = redis::cmd("CLUSTER");
    question.arg("SLOTS");
    let answer = match wire.ask(&question) {
        Ok(answer) => answer,
        // Cluster support is disabled there.
        Err(error) if error.kind == ErrorKind::Other => {
            return Err(LinkError { kind: ErrorKind::Cluster, ..error });
        }
        Err(error) => return Err(error),
    };
    match ranges(&answer, seed) {
        Some(ranges) => Ok((wire, ranges)),
        None => {
            let message = format!("{seed}: CLUSTER SLOTS is answered with something else");
            Err(LinkError::new(ErrorKind::Cluster, message))
        }
    }
}

/// What CLUSTER SLOTS says: `[first, last, [host, port, …] of the master, replicas…]` for each range.
fn ranges(answer: &Value, asked: &Address) -> Option<Vec<SlotRange>> {
    let mut ranges = Vec::new();
    for range in answer.as_sequence()? {
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
        // A node that does not know where its master is.
        if host == "?" {
            continue;
        }
        let master = address(host, u16::try_from(*port).ok()?, asked);
        ranges.push(SlotRange { first, last, master });
    }
    Some(ranges)
}

/// A node without a host is where the one is that names it.
fn address(host: &str, port: u16, named_by: &Address) -> Address {
    let host = if host.is_empty() { &named_by.host } else { host };
    Address { host: host.to_owned(), port }
}

/// Where a command should go instead.
#[derive(Debug, PartialEq, Eq)]
struct Redirection {
    slot: usize,
    address: Address,
    is_asking: bool,
}

/// What `MOVED 3999 host:port` says, and ASK.
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

/// The key that decides where a command goes: its first argument, or a script's first key.
fn key_of(command: &Cmd) -> &[u8] {
    let mut arguments = command.args_iter().map(|argument| match argument {
        Arg::Simple(bytes) => bytes,
        _ => b"",
    });
    let name = arguments.next().unwrap_or(b"");
    let before = if name.eq_ignore_ascii_case(b"EVAL") { 2 } else { 0 };
    // A command without a key is answered by any node.
    arguments.nth(before).unwrap_or(b"")
}

/// The slot of a key: of what is between its first braces, if something is.
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
    fn slots_are_those_of_the_specification() {
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
    fn slots_are_read_and_nonsense_is_not() {
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
    fn redirections_are_read_and_other_refusals_are_none() {
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
