//! Time, network and Redis of one simulation, as its replicas see them.
//!
//! A store thread is blocking code. It runs as a coroutine: whoever sleeps, connects or waits for a reply in it
//! suspends it, and an event resumes it at its time. All that happens is an event of one queue, so a seed decides
//! the whole run. Bytes of a connection arrive in order; those of a connection that was dropped may still arrive.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use corosensei::{Coroutine, CoroutineResult, Yielder};
use mlua::Lua;
use redis::{RedisError, RedisResult, Value};
use sigmad::store::dial::{CONNECT_TIMEOUT, Dialer, REPLY_TIMEOUT, RedisStream, WAIT_MAX};
use sigmad::store::reply::Reply;
use sigmad::store::url::Address;
use sigmad_clock::TimeSource;

use crate::keyspace::Command;
use crate::random::Random;
use crate::redis_node::{Node, NodeFaults, Role};

/// Wall clocks start here: December 2025.
pub const EPOCH_US: i64 = 1_766_000_000_000_000;
pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000 * MS;

/// What happens at one moment.
#[derive(Debug)]
pub enum Event {
    /// A store thread goes on, unless it has gone on since.
    Wake { process: usize, serial: u64 },
    /// Something of a client reaches Redis.
    Up(usize, Upstream),
    /// Something of Redis reaches a client.
    Down(usize, Downstream),
    /// Writes of the master reach a replica of Redis.
    Replicate { node: usize, from: usize, sent_ns: u64, effects: Vec<Command> },
    /// One step of the plan, by its index.
    Plan(usize),
    /// An analytics thread of a process takes its turns: that of a shard.
    Turn(usize, usize),
    /// A client posts samples.
    Post,
    /// A client reads a window.
    Read,
    /// The workers of a process end, and its drain goes on.
    WorkersEnd(usize),
    /// The main thread of a process looks whether its store has ended.
    Join(usize),
    /// A process starts in a slot.
    Start(usize),
    /// Faults end.
    Heal,
    /// All is quiet: the laws at rest.
    Rest,
}

#[derive(Debug)]
pub enum Upstream {
    Bytes(Vec<u8>),
    Close,
}

#[derive(Debug)]
pub enum Downstream {
    Replies(Vec<Value>),
    Close(io::ErrorKind),
}

/// One TCP connection between a process and a Redis.
#[derive(Debug)]
pub struct Conn {
    pub slot: usize,
    pub process: usize,
    pub node: usize,
    pub id: i64,
    pub name: Vec<u8>,
    /// Redis executes what arrives.
    pub is_open_at_server: bool,
    is_open_at_client: bool,
    /// Bytes towards Redis are held until then, as by a proxy or by lost packets.
    pub stalled_until_ns: u64,
    inbox: VecDeque<Value>,
    broken: Option<io::ErrorKind>,
    held_up: Vec<Upstream>,
    held_down: Vec<Downstream>,
    up_ns: u64,
    down_ns: u64,
}

/// The way between one slot and one Redis.
#[derive(Clone, Debug)]
pub struct Way {
    pub latency_ns: u64,
    pub jitter_ns: u64,
    pub is_up_blocked: bool,
    pub is_down_blocked: bool,
}

/// What a suspended store thread waits for.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    serial: u64,
    conn: Option<usize>,
}

pub struct World {
    pub random: Random,
    events: BinaryHeap<Reverse<(u64, u64, Boxed)>>,
    pushed: u64,
    pub nodes: Vec<Node>,
    pub conns: Vec<Conn>,
    /// By slot and node.
    pub ways: Vec<Vec<Way>>,
    waiting: Vec<Waiting>,
    /// When the last reply reached each process.
    pub replied_ns: Vec<u64>,
    /// When a Redis last executed a script that marks changes, for each process.
    pub marked_ns: Vec<u64>,
    pub lua: Lua,
    log: u64,
    pub events_seen: u64,
    pub replication_lag_ns: u64,
}

/// An event without an order of its own: time and number decide.
struct Boxed(Event);

impl PartialEq for Boxed {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Boxed {}

impl PartialOrd for Boxed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Boxed {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
    static NOW_NS: Cell<u64> = const { Cell::new(0) };
    /// The store thread that runs: its process, and where it suspends.
    static RUNNING: Cell<Option<(usize, *const Yielder<(), ()>)>> = const { Cell::new(None) };
}

/// Works on the world of this thread.
pub fn with<R>(work: impl FnOnce(&mut World) -> R) -> R {
    WORLD.with_borrow_mut(|world| work(world.as_mut().expect("a simulation runs")))
}

/// Sets the world of this thread, or ends it.
pub fn set(world: Option<World>) {
    NOW_NS.set(0);
    WORLD.set(world);
}

/// Nanoseconds since the simulation began.
pub fn now_ns() -> u64 {
    NOW_NS.get()
}

/// One store thread.
pub struct StoreRoutine {
    process: usize,
    routine: Coroutine<(), (), ()>,
    yielder: *const Yielder<(), ()>,
}

impl StoreRoutine {
    pub fn new(process: usize, run: impl FnOnce() + 'static) -> Self {
        let routine = Coroutine::new(move |yielder: &Yielder<(), ()>, ()| {
            RUNNING.set(Some((process, std::ptr::from_ref(yielder))));
            run();
        });
        Self { process, routine, yielder: std::ptr::null() }
    }

    /// Runs it until it waits. True once it has ended.
    pub fn resume(&mut self) -> bool {
        RUNNING.set(Some((self.process, self.yielder)));
        let result = self.routine.resume(());
        self.yielder = RUNNING.take().map_or(self.yielder, |(_, yielder)| yielder);
        matches!(result, CoroutineResult::Return(()))
    }
}

/// Suspends the store thread that runs, until that time or until something arrives on the connection.
fn wait(until_ns: u64, conn: Option<usize>) {
    let (process, yielder) = RUNNING.get().expect("only store threads wait");
    with(|world| {
        let waiting = &mut world.waiting[process];
        waiting.serial += 1;
        waiting.conn = conn;
        let serial = waiting.serial;
        world.push(until_ns, Event::Wake { process, serial });
    });
    // SAFETY: the yielder lives on the stack of the coroutine that runs, and `resume` has set it for this one.
    unsafe { &*yielder }.suspend(());
    RUNNING.set(Some((process, yielder)));
}

/// The clocks of one process.
#[derive(Debug)]
pub struct SimulatedClock {
    start_ns: u64,
    /// The wall clock less the true time.
    skew_us: Arc<AtomicI64>,
    /// How much too fast both clocks run, in parts per million.
    drift_ppm: i64,
}

impl SimulatedClock {
    pub fn new(skew_us: Arc<AtomicI64>, drift_ppm: i64) -> Self {
        Self { start_ns: now_ns(), skew_us, drift_ppm }
    }

    /// Nanoseconds of this process as nanoseconds of the simulation.
    fn simulated(&self, ns: u64) -> u64 {
        self.start_ns + (ns as i64 - ns as i64 / 1_000_000 * self.drift_ppm) as u64
    }

    /// Nanoseconds of the simulation as nanoseconds of this process.
    pub fn at(&self, ns: u64) -> u64 {
        let since = (ns - self.start_ns) as i64;
        (since + since / 1_000_000 * self.drift_ppm) as u64
    }
}

impl TimeSource for SimulatedClock {
    fn monotonic_ns(&self) -> u64 {
        self.at(now_ns())
    }

    fn wall_us(&self) -> i64 {
        let true_us = (now_ns() / 1_000) as i64;
        let drifted = true_us + true_us / 1_000_000 * self.drift_ppm;
        EPOCH_US + drifted + self.skew_us.load(Ordering::Relaxed)
    }

    fn sleep(&self, duration: Duration) {
        // Never for no time: other threads would not get on.
        wait(now_ns() + (duration.as_nanos() as u64).max(1_000), None);
    }
}

/// Connects a process to the simulated Redis.
#[derive(Clone, Debug)]
pub struct SimulatedDialer {
    pub slot: usize,
    pub process: usize,
    pub clock: Arc<SimulatedClock>,
    /// No call ends after it, unless it is 0; on the clock of the process.
    pub deadline_ns: Arc<AtomicU64>,
}

impl SimulatedDialer {
    /// When a call ends that would end at `end_ns`.
    fn end_ns(&self, end_ns: u64) -> u64 {
        match self.deadline_ns.load(Ordering::Relaxed) {
            0 => end_ns,
            deadline_ns => end_ns.min(self.clock.simulated(deadline_ns)),
        }
    }
}

fn timed_out() -> RedisError {
    io::Error::from(io::ErrorKind::TimedOut).into()
}

/// What becomes of an attempt to connect.
enum Dialled {
    Open(u64),
    Refused(u64),
    Lost,
}

impl Dialer for SimulatedDialer {
    fn dial(&self, address: &Address, _is_tls: bool) -> RedisResult<Box<dyn RedisStream>> {
        let Self { slot, process, .. } = *self;
        // As in the server: once it has begun, it does not see a deadline.
        let end_ns = self.end_ns(now_ns() + CONNECT_TIMEOUT.as_nanos() as u64);
        let node = node_at(address.port);
        let dialled = |world: &mut World| {
            let way = world.ways[slot][node].clone();
            let round_ns = world.delay(&way) + world.delay(&way);
            let faults = &world.nodes[node].faults;
            if way.is_up_blocked || way.is_down_blocked || faults.is_silent {
                Dialled::Lost
            } else if faults.is_down {
                Dialled::Refused(round_ns)
            } else {
                Dialled::Open(round_ns)
            }
        };
        match with(dialled) {
            Dialled::Open(round_ns) if now_ns() + round_ns < end_ns => {
                wait(now_ns() + round_ns, None);
                let conn = with(|world| world.connect(slot, process, node));
                Ok(Box::new(SimulatedStream { conn, dialer: self.clone() }))
            }
            Dialled::Refused(round_ns) if now_ns() + round_ns < end_ns => {
                wait(now_ns() + round_ns, None);
                Err(io::Error::from(io::ErrorKind::ConnectionRefused).into())
            }
            Dialled::Open(_) | Dialled::Refused(_) | Dialled::Lost => {
                wait(end_ns, None);
                Err(timed_out())
            }
        }
    }
}

struct SimulatedStream {
    conn: usize,
    dialer: SimulatedDialer,
}

impl RedisStream for SimulatedStream {
    fn write(&mut self, packed: &[u8]) -> RedisResult<()> {
        if now_ns() >= self.dialer.end_ns(u64::MAX) {
            return Err(timed_out());
        }
        match with(|world| world.send(self.conn, packed)) {
            Some(error) => Err(io::Error::from(error).into()),
            None => Ok(()),
        }
    }

    fn read(&mut self) -> RedisResult<Reply> {
        let timeout_ns = now_ns() + REPLY_TIMEOUT.as_nanos() as u64;
        loop {
            let end_ns = self.dialer.end_ns(timeout_ns);
            let found = with(|world| {
                let conn = &mut world.conns[self.conn];
                conn.inbox.pop_front().map(Ok).or_else(|| conn.broken.map(Err))
            });
            match found {
                Some(Ok(value)) => return Ok(value.into()),
                Some(Err(error)) => return Err(io::Error::from(error).into()),
                None if now_ns() >= end_ns => return Err(timed_out()),
                None => {
                    let look_ns = now_ns() + WAIT_MAX.as_nanos() as u64;
                    wait(end_ns.min(look_ns), Some(self.conn));
                }
            }
        }
    }
}

impl Drop for SimulatedStream {
    /// The kernel sends what was written, and then the end.
    fn drop(&mut self) {
        with(|world| {
            let conn = &mut world.conns[self.conn];
            conn.is_open_at_client = false;
            conn.inbox.clear();
            let at_ns = conn.up_ns.max(now_ns()) + 1;
            world.push(at_ns, Event::Up(self.conn, Upstream::Close));
        });
    }
}

impl World {
    pub fn new(random: Random, nodes: Vec<Node>, ways: Vec<Vec<Way>>) -> Self {
        Self {
            random,
            events: BinaryHeap::new(),
            pushed: 0,
            nodes,
            conns: Vec::new(),
            ways,
            waiting: Vec::new(),
            replied_ns: Vec::new(),
            marked_ns: Vec::new(),
            lua: Lua::new(),
            log: 0,
            events_seen: 0,
            replication_lag_ns: MS,
        }
    }

    pub fn push(&mut self, at_ns: u64, event: Event) {
        self.pushed += 1;
        self.events.push(Reverse((at_ns.max(now_ns()), self.pushed, Boxed(event))));
    }

    /// Goes on to the next event.
    pub fn pop(&mut self) -> Option<Event> {
        let Reverse((at_ns, number, Boxed(event))) = self.events.pop()?;
        debug_assert!(at_ns >= now_ns());
        NOW_NS.set(at_ns);
        self.events_seen += 1;
        self.log(&[at_ns, number, kind(&event)]);
        Some(event)
    }

    /// Adds to the log, of which only the hash is kept.
    pub fn log(&mut self, words: &[u64]) {
        for word in words {
            self.log = (self.log ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }

    pub fn log_hash(&self) -> u64 {
        self.log
    }

    pub fn new_process(&mut self) -> usize {
        self.waiting.push(Waiting::default());
        self.replied_ns.push(now_ns());
        self.marked_ns.push(0);
        self.waiting.len() - 1
    }

    /// True when that wait has not ended since.
    pub fn take_wake(&mut self, process: usize, serial: u64) -> bool {
        let waiting = &mut self.waiting[process];
        let is_due = waiting.serial == serial;
        waiting.serial += u64::from(is_due);
        is_due
    }

    fn delay(&mut self, way: &Way) -> u64 {
        way.latency_ns + self.random.within(0..way.jitter_ns.max(1))
    }

    fn connect(&mut self, slot: usize, process: usize, node: usize) -> usize {
        let is_open = !self.nodes[node].faults.is_down;
        let id = self.nodes[node].new_client();
        self.conns.push(Conn {
            slot,
            process,
            node,
            id,
            name: Vec::new(),
            is_open_at_server: is_open,
            is_open_at_client: true,
            stalled_until_ns: 0,
            inbox: VecDeque::new(),
            broken: (!is_open).then_some(io::ErrorKind::ConnectionReset),
            held_up: Vec::new(),
            held_down: Vec::new(),
            up_ns: 0,
            down_ns: 0,
        });
        self.conns.len() - 1
    }

    fn send(&mut self, conn: usize, packed: &[u8]) -> Option<io::ErrorKind> {
        if let Some(error) = self.conns[conn].broken {
            return Some(error);
        }
        self.log(&[packed.len() as u64]);
        for part in packed.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.log(&[u64::from_le_bytes(word)]);
        }
        // Sometimes in two parts, between which others get their turn. Redis waits for the rest of a command.
        let cut = if self.random.chance(20) { self.random.below(packed.len()) } else { 0 };
        for part in [&packed[..cut], &packed[cut..]] {
            if !part.is_empty() {
                let at_ns = self.up_time(conn);
                self.push(at_ns, Event::Up(conn, Upstream::Bytes(part.to_vec())));
            }
        }
        None
    }

    fn up_time(&mut self, conn: usize) -> u64 {
        let way = self.ways[self.conns[conn].slot][self.conns[conn].node].clone();
        let at_ns = (now_ns() + self.delay(&way)).max(self.conns[conn].up_ns + 1);
        self.conns[conn].up_ns = at_ns;
        at_ns
    }

    fn send_down(&mut self, conn: usize, after_ns: u64, what: Downstream) {
        let way = self.ways[self.conns[conn].slot][self.conns[conn].node].clone();
        let at_ns = (now_ns() + after_ns + self.delay(&way)).max(self.conns[conn].down_ns + 1);
        self.conns[conn].down_ns = at_ns;
        self.push(at_ns, Event::Down(conn, what));
    }

    /// Something of a client reaches Redis, unless it is held on the way.
    pub fn arrive(&mut self, conn: usize, what: Upstream) {
        let Conn { slot, node, stalled_until_ns, is_open_at_server, .. } = self.conns[conn];
        if self.ways[slot][node].is_up_blocked || self.nodes[node].faults.is_silent {
            self.conns[conn].held_up.push(what);
            return;
        }
        let paused_until_ns = self.nodes[node].faults.paused_until_ns;
        let held_until_ns = stalled_until_ns.max(paused_until_ns);
        if held_until_ns > now_ns() {
            return self.push(held_until_ns, Event::Up(conn, what));
        }
        if !is_open_at_server {
            return;
        }
        match what {
            Upstream::Close => self.conns[conn].is_open_at_server = false,
            Upstream::Bytes(bytes) => {
                let (replies, took_ns) = self.serve(conn, &bytes);
                if !replies.is_empty() {
                    self.send_down(conn, took_ns, Downstream::Replies(replies));
                }
            }
        }
    }

    /// Something of Redis reaches a client, unless it is held on the way.
    pub fn deliver(&mut self, conn: usize, what: Downstream) {
        let Conn { slot, node, process, is_open_at_client, .. } = self.conns[conn];
        if self.ways[slot][node].is_down_blocked || self.nodes[node].faults.is_silent {
            self.conns[conn].held_down.push(what);
            return;
        }
        if !is_open_at_client {
            return;
        }
        let entry = &mut self.conns[conn];
        match what {
            Downstream::Replies(replies) => {
                entry.inbox.extend(replies);
                self.replied_ns[process] = now_ns();
            }
            Downstream::Close(error) => entry.broken = Some(error),
        }
        let Waiting { serial, conn: awaited } = self.waiting[process];
        if awaited == Some(conn) {
            self.push(now_ns(), Event::Wake { process, serial });
        }
    }

    /// Lets through what was held between that slot and node.
    pub fn unblock(&mut self, slot: usize, node: usize) {
        let way = &mut self.ways[slot][node];
        way.is_up_blocked = false;
        way.is_down_blocked = false;
        for conn in 0..self.conns.len() {
            if (self.conns[conn].slot, self.conns[conn].node) == (slot, node) {
                self.release(conn);
            }
        }
    }

    fn release(&mut self, conn: usize) {
        let now_ns = now_ns();
        for what in std::mem::take(&mut self.conns[conn].held_up) {
            self.push(now_ns, Event::Up(conn, what));
        }
        for what in std::mem::take(&mut self.conns[conn].held_down) {
            self.push(now_ns, Event::Down(conn, what));
        }
    }

    /// Redis closes a connection.
    pub fn close_at_server(&mut self, conn: usize) {
        if std::mem::replace(&mut self.conns[conn].is_open_at_server, false) {
            self.send_down(conn, 0, Downstream::Close(io::ErrorKind::UnexpectedEof));
        }
    }

    /// The network breaks a connection: what is on its way to Redis arrives, or does not.
    pub fn cut(&mut self, conn: usize, arrives: bool) {
        self.conns[conn].is_open_at_server &= arrives;
        self.deliver(conn, Downstream::Close(io::ErrorKind::ConnectionReset));
    }

    /// The open connections of a slot.
    pub fn open_conns(&self, slot: usize) -> Vec<usize> {
        let is_open = |conn: &Conn| conn.slot == slot && conn.is_open_at_client;
        (0..self.conns.len()).filter(|&at| is_open(&self.conns[at])).collect()
    }

    /// A Redis ends, or comes back.
    pub fn set_down(&mut self, node: usize, is_down: bool) {
        self.nodes[node].faults.is_down = is_down;
        if is_down {
            for conn in self.conns_of(node) {
                self.close_at_server(conn);
            }
        }
    }

    /// A Redis that was down is up again, with all data, those of its disk, or none. A replica copies its master.
    pub fn restart(&mut self, node: usize, keeps_all: bool, has_disk: bool) {
        if !self.nodes[node].faults.is_down {
            return;
        }
        self.nodes[node].starts += 1;
        if let Role::Replica(master) = self.nodes[node].role {
            self.nodes[node].data = self.nodes[master].data.clone();
        } else if self.nodes[node].faults.is_dead {
            // It is back before another one was promoted: its replicas copy what they had not got.
            self.copy_to_replicas(node);
        } else if !keeps_all {
            let disk = self.nodes[node].disk.take().filter(|_| has_disk);
            self.nodes[node].data = disk.unwrap_or_default();
            self.copy_to_replicas(node);
        }
        self.nodes[node].faults.is_dead = false;
        self.set_down(node, false);
    }

    fn copy_to_replicas(&mut self, master: usize) {
        for replica in 0..self.nodes.len() {
            if self.nodes[replica].role == Role::Replica(master) {
                self.nodes[replica].data = self.nodes[master].data.clone();
            }
        }
    }

    /// The machine of a master is gone, with what has not reached its replicas.
    pub fn crash(&mut self, node: usize) {
        self.nodes[node].faults.is_dead = true;
        self.nodes[node].died_ns = now_ns();
        self.set_down(node, true);
    }

    pub fn set_latency(&mut self, slot: usize, one_way_ns: u64) {
        for way in &mut self.ways[slot] {
            way.latency_ns = one_way_ns;
            way.jitter_ns = one_way_ns / 4 + 1;
        }
    }

    pub fn conns_of(&self, node: usize) -> Vec<usize> {
        (0..self.conns.len()).filter(|&conn| self.conns[conn].node == node).collect()
    }

    /// All faults end.
    pub fn heal(&mut self) {
        for node in 0..self.nodes.len() {
            self.restart(node, true, false);
            self.nodes[node].end_faults();
            for slot in 0..self.ways.len() {
                self.ways[slot][node].latency_ns = MS;
                self.ways[slot][node].jitter_ns = MS;
                self.unblock(slot, node);
            }
        }
    }

    /// What makes a node fail, for the plan.
    pub fn faults(&mut self, node: usize) -> &mut NodeFaults {
        &mut self.nodes[node].faults
    }
}

/// The port of a node. Port 0 is none.
pub fn port_of(node: usize) -> u16 {
    node as u16 + 1
}

fn node_at(port: u16) -> usize {
    usize::from(port) - 1
}

/// A number for the log.
fn kind(event: &Event) -> u64 {
    match event {
        Event::Wake { process, .. } => 100 + *process as u64,
        Event::Up(conn, _) => 1_000 + *conn as u64,
        Event::Down(conn, _) => 1_000_000 + *conn as u64,
        Event::Replicate { .. } => 1,
        Event::Plan(_) => 2,
        Event::Turn(..) => 3,
        Event::Post => 4,
        Event::Read => 5,
        Event::WorkersEnd(_) => 6,
        Event::Join(_) => 7,
        Event::Start(_) => 8,
        Event::Heal => 9,
        Event::Rest => 10,
    }
}
