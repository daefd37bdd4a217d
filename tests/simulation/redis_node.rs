//! One simulated Redis or sentinel: its clients, its role and its failures. Its data is in the keyspace.

use redis::Value;

use crate::keyspace::{Command, Keyspace, is_write, name_of};
use crate::world::{EPOCH_US, Event, World, now_ns, port_of};

/// Time that one command takes.
const COMMAND_NS: u64 = 3_000;

/// What a process is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Master,
    /// The node that it copies.
    Replica(usize),
    /// The node that it takes for the master.
    Sentinel(usize),
}

/// A refusal of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Loading,
    OutOfMemory,
    NoScripts,
    NoWrites,
    /// SET is refused for good: another client has the keys.
    NoSet,
    /// ZADD is refused for good, outside of scripts.
    NoWindows,
}

impl Refusal {
    /// What any run may have.
    pub const ALL: [Self; 5] =
        [Self::Loading, Self::OutOfMemory, Self::NoScripts, Self::NoWrites, Self::NoSet];

    fn of(self, name: &str) -> Option<&'static str> {
        match self {
            Self::Loading => Some("LOADING Redis is loading the dataset in memory"),
            Self::OutOfMemory if matches!(name, "SET" | "ZADD" | "HSET" | "XADD" | "EVAL") => {
                Some("OOM command not allowed when used memory > 'maxmemory'.")
            }
            Self::NoScripts if name == "EVAL" => {
                Some("NOPERM this user has no permissions to run the 'eval' command")
            }
            Self::NoWrites if is_write(name) => {
                Some("NOPERM this user has no permissions to run this command")
            }
            Self::NoWindows if name == "ZADD" => Some("ERR refused for good"),
            Self::NoSet if name == "SET" => Some("ERR refused for good"),
            _ => None,
        }
    }
}

/// What makes a node fail at this moment.
#[derive(Clone, Debug, Default)]
pub struct NodeFaults {
    /// Its process has ended: connections are refused.
    pub is_down: bool,
    /// It went down before its replicas had all of its writes.
    pub is_dead: bool,
    /// Its machine does not answer.
    pub is_silent: bool,
    /// It executes nothing until then.
    pub paused_until_ns: u64,
    /// Time that each command takes more.
    pub slow_ns: u64,
    pub refusal: Option<Refusal>,
}

/// One process.
pub struct Node {
    pub role: Role,
    pub data: Keyspace,
    /// What it finds after a restart.
    pub disk: Option<Keyspace>,
    pub faults: NodeFaults,
    /// When it last crashed: what it sent to its replicas and had not arrived is lost.
    pub died_ns: u64,
    /// Starts so far.
    pub starts: u64,
    /// Its wall clock less the true time.
    pub skew_us: i64,
    clients: i64,
    /// Bytes of commands that are not complete, by connection.
    partial: Vec<(usize, Vec<u8>)>,
}

impl Node {
    pub fn new(role: Role, skew_us: i64) -> Self {
        Self {
            role,
            data: Keyspace::default(),
            disk: None,
            faults: NodeFaults::default(),
            died_ns: 0,
            starts: 0,
            skew_us,
            clients: 0,
            partial: Vec::new(),
        }
    }

    pub fn new_client(&mut self) -> i64 {
        self.clients += 1;
        self.clients
    }

    pub fn wall_us(&self) -> i64 {
        EPOCH_US + (now_ns() / 1_000) as i64 + self.skew_us
    }

    pub fn end_faults(&mut self) {
        self.faults = NodeFaults::default();
    }

    /// Its data as its clients see it now.
    pub fn data_now(&mut self) -> &mut Keyspace {
        self.data.time_us = self.wall_us();
        &mut self.data
    }
}

fn error(text: &str) -> Value {
    let line = format!("-{text}\r\n");
    redis::parse_redis_value(line.as_bytes()).expect("it is an error reply")
}

fn bulk(text: impl Into<Vec<u8>>) -> Value {
    Value::BulkString(text.into())
}

impl World {
    /// Executes what has arrived. Returns the replies, and how long they took.
    pub fn serve(&mut self, conn: usize, bytes: &[u8]) -> (Vec<Value>, u64) {
        let node = self.conns[conn].node;
        let partial = &mut self.nodes[node].partial;
        let mut waiting = match partial.iter().position(|(of, _)| *of == conn) {
            Some(at) => partial.swap_remove(at).1,
            None => Vec::new(),
        };
        waiting.extend_from_slice(bytes);
        let mut at = 0;
        let (mut replies, mut took_ns) = (Vec::new(), 0);
        while let Some((command, len)) = read_command(&waiting[at..]) {
            at += len;
            if !self.conns[conn].is_open_at_server {
                break;
            }
            took_ns += COMMAND_NS + self.nodes[node].faults.slow_ns;
            replies.push(self.reply(conn, node, &command));
        }
        waiting.drain(..at);
        if !waiting.is_empty() {
            self.nodes[node].partial.push((conn, waiting));
        }
        self.replicate(node);
        (replies, took_ns)
    }

    fn reply(&mut self, conn: usize, node: usize, command: &Command) -> Value {
        let name = name_of(command);
        let argument =
            |at: usize| command.get(at).map_or("", |text| str::from_utf8(text).unwrap_or(""));
        let subcommand = argument(1).to_ascii_uppercase();
        match (&name[..], &subcommand[..]) {
            ("PING", _) => return Value::SimpleString("PONG".into()),
            ("AUTH" | "SELECT", _) => return Value::Okay,
            ("CLIENT", "SETNAME") => {
                self.conns[conn].name = command[2].clone();
                return Value::Okay;
            }
            ("CLIENT", "ID") => return Value::Int(self.conns[conn].id),
            ("CLIENT", "LIST") => {
                let id = (command.len() > 3).then(|| argument(3));
                return bulk(self.client_lines(node, id));
            }
            ("CLIENT", "KILL") => {
                let Some(killed) = self.client(node, argument(3)) else {
                    return error("ERR No such client");
                };
                self.close_at_server(killed);
                return Value::Int(1);
            }
            ("SENTINEL", "GET-MASTER-ADDR-BY-NAME") => {
                let Role::Sentinel(master) = self.nodes[node].role else {
                    return error("ERR unknown command 'SENTINEL'");
                };
                return Value::Array(vec![bulk("node"), bulk(port_of(master).to_string())]);
            }
            ("ROLE", _) => return role(self.nodes[node].role),
            ("WAIT", _) => return Value::Int(self.replicas_of(node).len() as i64),
            ("INFO", _) => {
                let run_id = format!("{node:x}{:039x}", self.nodes[node].starts);
                let figures = "evicted_keys:0\r\nused_memory:1\r\nmaxmemory:0";
                return bulk(format!("# Server\r\nrun_id:{run_id}\r\n{figures}\r\n"));
            }
            _ => {}
        }
        let Self { nodes, lua, .. } = self;
        let Node { role, faults, .. } = &nodes[node];
        if let Some(text) = faults.refusal.and_then(|refusal| refusal.of(&name)) {
            return error(text);
        }
        match role {
            Role::Replica(_) if is_write(&name) => {
                error("READONLY You can't write against a read only replica.")
            }
            Role::Sentinel(_) => error(&format!("ERR unknown command '{name}'")),
            _ => match nodes[node].data_now().execute(lua, command) {
                Ok(reply) => {
                    if name == "EVAL" {
                        self.marked_ns[self.conns[conn].process] = now_ns();
                    }
                    reply
                }
                Err(text) => error(&text),
            },
        }
    }

    fn client(&self, node: usize, id: &str) -> Option<usize> {
        let id: i64 = id.parse().ok()?;
        self.conns.iter().position(|c| c.node == node && c.id == id && c.is_open_at_server)
    }

    /// The client of that id, or all.
    fn client_lines(&self, node: usize, id: Option<&str>) -> String {
        let is_meant = |client: i64| id.is_none_or(|id| id.parse() == Ok(client));
        let clients = self.conns.iter().filter(|c| c.node == node && c.is_open_at_server);
        let lines = clients.filter(|client| is_meant(client.id)).map(|client| {
            let (id, name) = (client.id, String::from_utf8_lossy(&client.name));
            format!("id={id} addr=10.0.0.1:5 laddr=10.0.0.2:6379 name={name} db=0\n")
        });
        lines.collect()
    }

    fn replicas_of(&self, master: usize) -> Vec<usize> {
        let is_replica = |node: &Node| node.role == Role::Replica(master) && !node.faults.is_down;
        (0..self.nodes.len()).filter(|&at| is_replica(&self.nodes[at])).collect()
    }

    /// Sends the latest writes to the replicas of a node.
    fn replicate(&mut self, node: usize) {
        let effects = std::mem::take(&mut self.nodes[node].data.effects);
        if effects.is_empty() {
            return;
        }
        for replica in self.replicas_of(node) {
            let at_ns = now_ns() + self.replication_lag_ns;
            self.push(
                at_ns,
                Event::Replicate {
                    node: replica,
                    from: node,
                    sent_ns: now_ns(),
                    effects: effects.clone(),
                },
            );
        }
    }

    /// Another client replaces a key of a master, or deletes it.
    pub fn set_foreign(&mut self, node: usize, key: &str, is_foreign: bool) {
        if self.nodes[node].role == Role::Master {
            self.nodes[node].data_now().set_foreign(key, is_foreign);
            self.replicate(node);
        }
    }

    /// Writes of the master reach a replica.
    pub fn apply(&mut self, node: usize, from: usize, sent_ns: u64, effects: &[Command]) {
        let died_ns = self.nodes[from].died_ns;
        if died_ns > 0 && sent_ns <= died_ns && died_ns <= now_ns() {
            return;
        }
        let replica = &mut self.nodes[node];
        if !matches!(replica.role, Role::Replica(_)) || replica.faults.is_down {
            return;
        }
        let data = replica.data_now();
        for command in effects {
            data.call(command).expect("the master has executed it");
        }
        data.effects.clear();
    }

    /// A replica becomes the master, with what it has.
    pub fn promote(&mut self, node: usize) {
        self.nodes[node].role = Role::Master;
    }

    /// A node becomes a replica: it copies the data of the master, and its clients must connect again.
    pub fn demote(&mut self, node: usize, master: usize) {
        self.nodes[node].role = Role::Replica(master);
        self.nodes[node].data = self.nodes[master].data.clone();
        for conn in self.conns_of(node) {
            self.close_at_server(conn);
        }
    }

    /// What the sentinels say from now on.
    pub fn name_master(&mut self, master: usize) {
        for node in &mut self.nodes {
            if matches!(node.role, Role::Sentinel(_)) {
                node.role = Role::Sentinel(master);
            }
        }
    }
}

fn role(role: Role) -> Value {
    match role {
        Role::Master => Value::Array(vec![bulk("master"), Value::Int(0), Value::Array(Vec::new())]),
        Role::Replica(master) => Value::Array(vec![
            bulk("slave"),
            bulk("node"),
            Value::Int(master as i64),
            bulk("connected"),
            Value::Int(0),
        ]),
        Role::Sentinel(_) => Value::Array(vec![bulk("sentinel"), Value::Array(Vec::new())]),
    }
}

/// The first command of these bytes and its length; None until it is complete.
fn read_command(bytes: &[u8]) -> Option<(Command, usize)> {
    let mut at = 0;
    let number = |mark: u8, at: &mut usize| -> Option<usize> {
        let line = bytes.get(*at..)?;
        let end = line.windows(2).position(|pair| pair == b"\r\n")?;
        assert_eq!(line[0], mark, "a client sends arrays of bulk strings");
        *at += end + 2;
        str::from_utf8(&line[1..end]).ok()?.parse().ok()
    };
    let parts = number(b'*', &mut at)?;
    let mut command = Vec::with_capacity(parts);
    for _ in 0..parts {
        let len = number(b'$', &mut at)?;
        let text = bytes.get(at..at + len)?;
        bytes.get(at + len..at + len + 2)?;
        command.push(text.to_vec());
        at += len + 2;
    }
    Some((command, at))
}
