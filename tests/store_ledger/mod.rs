//! Compares the samples that clients sent with the scrape and with the contents of Redis.
//!
//! [`Ledger`] has every sample that was sent, in order, and its response; [`Load`] is the ledger while its
//! clients post; [`Contents`] is what Redis has. At rest they must agree: each accepted sample has one outcome,
//! its keys have the last value sent, and each window has the newest values once.
//!
//! Every value is sent once in a ledger, so a member of a window identifies its sample. Clients share neither
//! devices nor timestamps, so the order of a client's requests is the order of their samples.

#![allow(dead_code, reason = "each suite uses its own part")]
#![allow(clippy::disallowed_methods, reason = "tests bound their waits on real sockets")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Connection, Failure, Server, post, shown};
use crate::redis_server::Redis;

/// Default number of values in a window.
pub const WINDOW: usize = 50;
/// Redis keeps one value more, so that the last can be judged.
const MEMBERS_MAX: usize = WINDOW + 1;
/// Devices of one client; every seventh sample has none.
const DEVICES: u64 = 6;
/// Clients of one ledger at most.
const CLIENTS_MAX: u64 = 8;
/// The first timestamp, seconds since 1970.
const FIRST_S: u64 = 1_735_100_000;
/// Time limit until queued samples are written and updates of other replicas are applied.
const REST: Duration = Duration::from_secs(180);
/// Differences that are printed at most.
const SHOWN: usize = 12;

/// A response that waits for a Redis that does not reply takes at least as long as its timeout: two seconds.
const HELD_UP: Duration = Duration::from_millis(1_500);
/// One request in this many may take as long because the machine stands still.
const BUSY_ONE_IN: usize = 10;

/// Which samples share a timestamp, and with it a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// None: the outcome of every sample is visible.
    Unique,
    /// Every second run of 16 samples of a client.
    Mixed,
    /// Every run of this many samples of a client.
    Runs(u64),
}

impl Keys {
    /// The number of the timestamp of a client's sample.
    fn timestamp(self, number: u64) -> u64 {
        match self {
            Self::Unique => number,
            Self::Mixed if (number / 16).is_multiple_of(2) => number,
            Self::Mixed => number / 16 * 16,
            Self::Runs(length) => number / length * length,
        }
    }
}

/// What the clients post, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub clients: u64,
    /// Between two requests of a client.
    pub interval: Duration,
    /// Numbers of samples per request, used in turn.
    pub sizes: &'static [u64],
    pub keys: Keys,
    /// The clients wait for [`Load::step`] before each request.
    pub is_stepped: bool,
}

impl Default for Plan {
    /// 400 requests and 1,300 samples a second: not too many for two busy cores.
    fn default() -> Self {
        Self {
            clients: 4,
            interval: Duration::from_millis(10),
            sizes: &[1, 1, 1, 10],
            keys: Keys::Mixed,
            is_stepped: false,
        }
    }
}

/// A part of a load, with latencies of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Redis works: the normal latency on this machine.
    Control,
    /// Redis fails.
    Fault,
    /// Redis works again.
    After,
}

const PHASES: usize = 3;

/// One sample that was sent.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    client: u64,
    /// Counts the samples of the client, from 1.
    number: u64,
    pub sent: Instant,
    /// None without a response.
    pub accepted: Option<Instant>,
}

impl Sample {
    /// Its `rps`, which identifies it.
    fn id(self) -> u64 {
        self.number * CLIENTS_MAX + self.client
    }

    fn of_id(value: f64) -> Option<(u64, u64)> {
        let id = value as u64;
        (value >= 0.0 && id as f64 == value).then_some((id % CLIENTS_MAX, id / CLIENTS_MAX))
    }

    fn device(self) -> Option<String> {
        let device = self.number % (DEVICES + 1);
        (device < DEVICES).then(|| device_name(self.client, device))
    }

    /// Microseconds since 1970, and the text of it: seconds, milliseconds or microseconds.
    fn timestamp(self, keys: Keys) -> u64 {
        let number = keys.timestamp(self.number);
        let seconds = FIRST_S + number * CLIENTS_MAX + self.client;
        match number % 3 {
            0 => seconds,
            1 => seconds * 1_000 + 123,
            _ => seconds * 1_000_000 + 123_456,
        }
    }

    /// The JSON that is sent and stored: whole numbers without a fraction.
    fn json(self, keys: Keys) -> Value {
        let id = self.id();
        let mut json = json!({
            "timestamp": self.timestamp(keys),
            "cpu": id as f64 + 0.5,
            "rps": id,
        });
        if let Some(device) = self.device() {
            json["device"] = device.into();
        }
        if self.has_level() {
            json["level"] = (-id.cast_signed()).into();
        }
        json
    }

    fn has_level(self) -> bool {
        self.number.is_multiple_of(3)
    }

    fn has(self, metric: &str) -> bool {
        metric != "level" || self.has_level()
    }

    /// The keys that have it as their value.
    fn keys(self, keys: Keys) -> Vec<String> {
        let timestamp = self.timestamp(keys);
        let of_device = self.device().map(|device| format!("metric:{device}:{timestamp}"));
        [format!("metric:{timestamp}")].into_iter().chain(of_device).collect()
    }
}

fn device_name(client: u64, device: u64) -> String {
    format!("edge-{client}-{device}")
}

const METRICS: [&str; 3] = ["cpu", "rps", "level"];

/// The sample that a value of a stream belongs to: client and number.
fn named_by(metric: &str, value: f64) -> Option<(u64, u64)> {
    match metric {
        "cpu" => Sample::of_id(value - 0.5),
        "level" => Sample::of_id(-value),
        _ => Sample::of_id(value),
    }
}

/// The latency of one request.
#[derive(Clone, Copy, Debug)]
struct Timing {
    phase: usize,
    answer: Duration,
    /// That of a plain echo just before.
    echo: Duration,
}

/// One client and its connection.
struct Client {
    client: u64,
    plan: Plan,
    requests: u64,
    number: u64,
    samples: Vec<Sample>,
    timings: Vec<Timing>,
    /// Since the first request to this server.
    accepted: u64,
    rejected: u64,
    /// Unexpected responses, with or without Redis.
    wrong: Vec<String>,
    /// Why it stopped early.
    ended: Option<Failure>,
}

struct Control {
    address: SocketAddr,
    echo: SocketAddr,
    is_over: AtomicBool,
    phase: AtomicUsize,
    /// Requests that each client may send, with [`Plan::is_stepped`].
    allowed: AtomicU64,
    answered: [AtomicU64; PHASES],
}

impl Client {
    fn run(mut self, control: &Control) -> Self {
        let mut connection = Connection::open(control.address).expect("connect");
        let mut echo = TcpStream::connect(control.echo).expect("echo");
        echo.set_nodelay(true).expect("no delay");
        let mut due = Instant::now();
        while !control.is_over.load(Ordering::Relaxed) {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            due += self.plan.interval;
            if self.plan.is_stepped && self.requests >= control.allowed.load(Ordering::Relaxed) {
                continue;
            }
            let phase = control.phase.load(Ordering::Relaxed);
            let before = Instant::now();
            exchange(&mut echo).expect("echo");
            let echo = before.elapsed();
            let Some((answer, closes)) = self.post(&mut connection) else { break };
            self.timings.push(Timing { phase, answer, echo });
            control.answered[phase].fetch_add(1, Ordering::Relaxed);
            if closes {
                break;
            }
        }
        self
    }

    /// Sends the next request. None when the connection is closed.
    fn post(&mut self, connection: &mut Connection) -> Option<(Duration, bool)> {
        let (body, bad) = self.next_body();
        let first = self.samples.len();
        let request = post("/ingest", body.as_bytes());
        let sent = Instant::now();
        let size = self.size();
        for _ in 0..size {
            self.number += 1;
            let (client, number) = (self.client, self.number);
            self.samples.push(Sample { client, number, sent, accepted: None });
        }
        self.requests += 1;
        // Where analytics does not get a core for seconds, its queue fills: nothing of the request is kept, and it is sent
        // again. A store that made analytics wait would make that last for as long as the fault, and the test with it.
        let answer = loop {
            let answer = match connection.try_send(&request) {
                Ok(()) => connection.read(),
                Err(_) => Err(Failure::Reset),
            };
            match &answer {
                Ok(full) if full.status == 503 && full.text().contains("queue_full") => {
                    if full.closes() {
                        break answer;
                    }
                    std::thread::sleep(self.plan.interval);
                }
                _ => break answer,
            }
        };
        let took = sent.elapsed();
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => {
                self.ended = Some(failure);
                return None;
            }
        };
        let mut expected = json!({"status": "accepted", "accepted": size});
        if bad > 0 {
            expected = json!({"status": "partial", "accepted": size, "rejected": bad});
        }
        let mut actual: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        if let Some(fields) = actual.as_object_mut() {
            fields.remove("errors");
        }
        if answer.status == 202 && actual == expected {
            let accepted = Some(sent + took);
            self.samples[first..].iter_mut().for_each(|sample| sample.accepted = accepted);
            self.accepted += size;
            self.rejected += bad;
        } else {
            self.samples.truncate(first);
            self.wrong.push(format!("{} {}", answer.status, shown(&answer.body)));
        }
        Some((took, answer.closes()))
    }

    fn size(&self) -> u64 {
        self.plan.sizes[self.requests as usize % self.plan.sizes.len()]
    }

    /// The body of the next request, and the number of invalid samples in it.
    fn next_body(&self) -> (String, u64) {
        let sent = Instant::now();
        let sample = |number| Sample { client: self.client, number, sent, accepted: None };
        let samples: Vec<Value> = (1..=self.size())
            .map(|number| sample(self.number + number).json(self.plan.keys))
            .collect();
        if let [sample] = &samples[..] {
            return (sample.to_string(), 0);
        }
        match self.requests / 4 % 4 {
            0 => (json!({"metrics": samples}).to_string(), 0),
            1 => {
                let mut lines = String::new();
                for sample in &samples {
                    writeln!(lines, "{sample}").expect("a String takes all");
                }
                (lines, 0)
            }
            2 => {
                let bad = json!({"device": device_name(self.client, 0), "rps": -1});
                let with_bad: Vec<Value> = [vec![bad], samples].concat();
                (Value::from(with_bad).to_string(), 1)
            }
            _ => (Value::from(samples).to_string(), 0),
        }
    }
}

const ECHO_BYTES: usize = 256;

fn exchange(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(&[b'x'; ECHO_BYTES])?;
    stream.read_exact(&mut [0; ECHO_BYTES])
}

/// An echo server with one thread per connection; ends with its clients.
fn start_echo(clients: u64) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for _ in 0..clients {
            let (mut stream, _) = listener.accept().expect("accept");
            stream.set_nodelay(true).expect("no delay");
            std::thread::spawn(move || {
                let mut bytes = [0; ECHO_BYTES];
                while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok() {}
            });
        }
    });
    address
}

/// All samples that were sent, and their responses.
pub struct Ledger {
    plan: Plan,
    clients: Vec<Client>,
}

/// A ledger whose clients post.
pub struct Load {
    plan: Plan,
    control: Arc<Control>,
    clients: Vec<JoinHandle<Client>>,
}

impl Ledger {
    pub fn new(plan: Plan) -> Self {
        assert!(plan.clients <= CLIENTS_MAX);
        let client = |client| Client {
            client,
            plan,
            requests: 0,
            number: 0,
            samples: Vec::new(),
            timings: Vec::new(),
            accepted: 0,
            rejected: 0,
            wrong: Vec::new(),
            ended: None,
        };
        Self { plan, clients: (0..plan.clients).map(client).collect() }
    }

    /// Starts the clients, in [`Phase::Control`].
    pub fn post_to(self, server: &Server) -> Load {
        let control = Arc::new(Control {
            address: server.address,
            echo: start_echo(self.plan.clients),
            is_over: AtomicBool::new(false),
            phase: AtomicUsize::new(Phase::Control as usize),
            allowed: AtomicU64::new(0),
            answered: [const { AtomicU64::new(0) }; PHASES],
        });
        let start = |client: Client| {
            let control = control.clone();
            std::thread::spawn(move || client.run(&control))
        };
        let clients = self.clients.into_iter().map(start).collect();
        Load { plan: self.plan, control, clients }
    }

    /// The next process counts from 0.
    pub fn forget_counts(&mut self) {
        for client in &mut self.clients {
            client.accepted = 0;
            client.rejected = 0;
            client.ended = None;
        }
    }

    fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.clients.iter().flat_map(|client| &client.samples)
    }

    /// Samples answered with 202 since the server started.
    pub fn accepted(&self) -> u64 {
        self.clients.iter().map(|client| client.accepted).sum()
    }

    fn rejected(&self) -> u64 {
        self.clients.iter().map(|client| client.rejected).sum()
    }

    /// Every request got the response that it gets without Redis.
    #[track_caller]
    pub fn assert_all_answered(&self) {
        self.assert_answers();
        for client in &self.clients {
            assert_eq!(client.ended, None, "client {} lost its connection", client.client);
        }
    }

    /// Every response was the one that it gets with a working Redis.
    #[track_caller]
    pub fn assert_answers(&self) {
        let wrong: Vec<&String> = self.clients.iter().flat_map(|client| &client.wrong).collect();
        assert!(wrong.is_empty(), "{} wrong answers: {:#?}", wrong.len(), first(&wrong));
    }

    /// No response waited for Redis. Latencies are measured by benches, not here: a busy machine makes every
    /// response slow, and then the echo too.
    #[track_caller]
    pub fn assert_not_held_up(&self) {
        let timings = self.clients.iter().flat_map(|client| &client.timings);
        let fault: Vec<_> =
            timings.filter(|timing| timing.phase == Phase::Fault as usize).collect();
        let held_up = fault.iter().filter(|timing| timing.answer > timing.echo + HELD_UP).count();
        println!("{held_up} of {} answers took longer than {HELD_UP:?}", fault.len());
        let allowed = fault.len() / BUSY_ONE_IN;
        assert!(held_up <= allowed, "{held_up} of {} answers took over {HELD_UP:?}", fault.len());
    }

    /// Waits until every accepted sample has its outcome, and checks that the outcomes add up.
    #[track_caller]
    pub fn settle(&self, server: &Server) -> Scrape {
        let received = self.accepted() + self.rejected();
        let deadline = Instant::now() + REST;
        let scrape = loop {
            let scrape = Scrape::of(server);
            let is_at_rest = scrape.get("sigmad_pending_samples") == 0
                && scrape.get("sigmad_samples_received_total") >= received;
            if is_at_rest {
                break scrape;
            }
            let (queued, total) =
                (scrape.get("sigmad_pending_samples"), scrape.get("sigmad_samples_received_total"));
            assert!(
                Instant::now() < deadline,
                "not at rest: {queued} queued, {total} of {received} received"
            );
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(scrape.get("sigmad_samples_received_total"), received, "received");
        assert_eq!(scrape.outcome("rejected"), self.rejected(), "rejected");
        let outcomes =
            ["rejected", "stored", "coalesced", "dropped"].map(|outcome| scrape.outcome(outcome));
        assert_eq!(
            received,
            outcomes.iter().sum::<u64>(),
            "rejected, stored, coalesced, dropped: {outcomes:?}"
        );
        assert_eq!(
            scrape.outcome("dropped"),
            scrape.sum("sigmad_store_dropped_total"),
            "every drop has a reason"
        );
        if self.plan.keys == Keys::Unique {
            assert_eq!(scrape.outcome("coalesced"), 0, "no two samples have the same key");
        }
        scrape
    }

    /// Compares Redis with the accepted samples, except those that are excused.
    #[track_caller]
    pub fn check(&self, redis: &Redis, excuse: &Excuse) -> Findings {
        let contents = Contents::read(redis);
        let comparison = Comparison { ledger: self, contents: &contents, excuse };
        let (problems, missing) = comparison.run();
        assert!(
            problems.is_empty(),
            "{} differences, {} samples missing:\n{}",
            problems.len(),
            missing.len(),
            first(&problems).join("\n")
        );
        Findings { missing, contents }
    }

    /// The totals of `/analyze` equal those of Redis, for the fleet and every device.
    #[track_caller]
    pub fn check_answers(&self, server: &Server, contents: &Contents) {
        let mut connection = server.connect();
        let devices = self
            .clients
            .iter()
            .flat_map(|client| (0..DEVICES).map(|device| Some(device_name(client.client, device))));
        for device in devices.chain([None]) {
            let path = match &device {
                Some(device) => format!("/analyze?device={device}"),
                None => "/analyze".to_owned(),
            };
            let stream = device.as_deref().unwrap_or(FLEET);
            let expected: u64 = contents.total(stream, "rps");
            let report = connection.exchange(&crate::harness::get(&path)).expect(200).json();
            assert_eq!(report["totalCount"], expected, "{path}: {report}");
        }
    }
}

fn first<T: Clone>(all: &[T]) -> Vec<T> {
    all.iter().take(SHOWN).cloned().collect()
}

impl Load {
    /// Starts a phase, and waits until this many of its requests were answered.
    #[track_caller]
    pub fn run(&self, phase: Phase, requests: u64) {
        let answered = self.enter(phase);
        self.wait(phase, answered, requests);
    }

    /// Starts a phase; returns how many of its requests were answered before.
    fn enter(&self, phase: Phase) -> u64 {
        self.control.phase.store(phase as usize, Ordering::Relaxed);
        self.control.answered[phase as usize].load(Ordering::Relaxed)
    }

    #[track_caller]
    fn wait(&self, phase: Phase, before: u64, requests: u64) {
        let answered = &self.control.answered[phase as usize];
        let target = before + requests;
        // The planned time, and as much again for a busy machine.
        let planned = self.plan.interval * requests.div_ceil(self.plan.clients) as u32;
        let deadline = Instant::now() + planned * 3 + REST;
        while answered.load(Ordering::Relaxed) < target {
            let is_over = self.clients.iter().all(JoinHandle::is_finished);
            assert!(!is_over && Instant::now() < deadline, "{requests} requests of {phase:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Lets each client of a stepped plan send one more request, and waits for the responses.
    #[track_caller]
    pub fn step(&self, phase: Phase) {
        // Before they are allowed: the responses may be here before the next line.
        let answered = self.enter(phase);
        self.control.allowed.fetch_add(1, Ordering::Relaxed);
        self.wait(phase, answered, self.plan.clients);
    }

    /// Waits until every client has finished its request.
    #[track_caller]
    pub fn stop(self) -> Ledger {
        self.control.is_over.store(true, Ordering::Relaxed);
        self.join()
    }

    /// Waits until every client has lost its connection, or got `Connection: close`.
    #[track_caller]
    pub fn join(self) -> Ledger {
        let clients =
            self.clients.into_iter().map(|client| client.join().expect("client")).collect();
        Ledger { plan: self.plan, clients }
    }
}

/// Differences that are allowed.
pub struct Excuse<'a> {
    /// These samples may be there or not: they got no response, or a process died at that time.
    pub may_miss: &'a dyn Fn(&Sample) -> bool,
    /// This many accepted samples are missing, as counted.
    pub dropped: u64,
    /// Keys that the test itself has changed.
    pub spoiled: &'a [&'a str],
}

impl Excuse<'_> {
    /// No difference.
    pub const NONE: Self = Self { may_miss: &|_| false, dropped: 0, spoiled: &[] };
}

/// The result of a comparison.
pub struct Findings {
    /// Accepted samples that are missing: client and number, in the order of their responses.
    pub missing: Vec<(u64, u64)>,
    pub contents: Contents,
}

/// The part of a key that stands for the fleet.
const FLEET: &str = "fleet";

/// One member of a window.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
struct Member {
    time_us: u64,
    replica: String,
    sequence: u64,
    value: f64,
}

impl Member {
    /// `<time_us, 16 digits>:<replica, 8 hex digits>:<sequence, 3 digits>:<value>`.
    fn parse(member: &str, score: f64) -> Option<Self> {
        let mut parts = member.split(':');
        let (time, replica, sequence) = (parts.next()?, parts.next()?, parts.next()?);
        let value = parts.next()?.parse().ok()?;
        let time_us: u64 = time.parse().ok()?;
        let is_right = parts.next().is_none()
            && (time.len(), replica.len(), sequence.len()) == (16, 8, 3)
            && replica.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
            && time_us as f64 == score;
        is_right.then_some(Self {
            time_us,
            replica: replica.to_owned(),
            sequence: sequence.parse().ok()?,
            value,
        })
    }

    fn place(&self) -> (u64, &str, u64) {
        (self.time_us, &self.replica, self.sequence)
    }
}

/// The contents of Redis.
pub struct Contents {
    /// `metric:…`: text and seconds to live.
    samples: HashMap<String, (String, i64)>,
    /// Windows by key, oldest value first.
    windows: HashMap<String, Vec<(String, f64)>>,
    /// Counts by device, or [`FLEET`]: fields by name.
    counts: HashMap<String, BTreeMap<String, String>>,
    /// Milliseconds to live of windows and counts.
    lives: HashMap<String, i64>,
    /// Entries of all histories.
    pub history: u64,
}

impl Contents {
    pub fn read(redis: &Redis) -> Self {
        const CHUNK: usize = 1_000;
        let mut connection = redis.connection();
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).expect("KEYS");
        let mut contents = Self {
            samples: HashMap::new(),
            windows: HashMap::new(),
            counts: HashMap::new(),
            lives: HashMap::new(),
            history: 0,
        };
        let (samples, others): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|key| key.starts_with("metric:"));
        for chunk in samples.chunks(CHUNK) {
            let mut pipe = redis::pipe();
            chunk.iter().for_each(|key| {
                pipe.cmd("GET").arg(key).cmd("TTL").arg(key);
            });
            let answers: Vec<redis::Value> = pipe.query(&mut connection).expect("GET");
            for (key, answer) in chunk.iter().zip(answers.chunks(2)) {
                let text = redis::from_redis_value(answer[0].clone()).expect("a text");
                let life = redis::from_redis_value(answer[1].clone()).expect("a number");
                contents.samples.insert(key.clone(), (text, life));
            }
        }
        for key in others {
            let mut ask = |command: &[&str]| -> redis::Value {
                let mut with_key = redis::cmd(command[0]);
                with_key.arg(&key).arg(&command[1..]);
                with_key.query(&mut connection).expect("an answer")
            };
            let kind: String = redis::from_redis_value(ask(&["TYPE"])).expect("a type");
            if key.starts_with("sigmad:history:") {
                contents.history +=
                    redis::from_redis_value::<u64>(ask(&["XLEN"])).expect("a number");
            } else if key.contains(":window:") && kind == "zset" {
                let members = ask(&["ZRANGE", "0", "-1", "WITHSCORES"]);
                let members = redis::from_redis_value(members).expect("members with scores");
                contents.windows.insert(key.clone(), members);
            } else if let Some(stream) = key.strip_suffix(":counts") {
                let mut fields: BTreeMap<String, String> =
                    redis::from_redis_value(ask(&["HGETALL"])).expect("fields");
                // Who has its detector states.
                fields.remove("owner");
                let stream = stream.strip_prefix("sigmad:").expect("ours");
                let stream = stream.trim_start_matches('{').trim_end_matches('}');
                contents.counts.insert(stream.to_owned(), fields);
            } else {
                continue;
            }
            let life = redis::from_redis_value(ask(&["PTTL"])).expect("a number");
            contents.lives.insert(key, life);
        }
        contents
    }

    /// Samples of a device, or of all, as counted by the replicas: `<replica>` has
    /// `<time_us>:<timestamp_us>:<samples>:<anomalies>`.
    fn samples_counted(&self, stream: &str) -> u64 {
        let fields = self.counts.get(stream).into_iter().flatten();
        fields.filter(|(name, _)| !name.contains(':')).map(|(_, value)| number(value, 2)).sum()
    }

    /// Values of a stream, as counted by the replicas: `<replica>:<metric>` has `<total>:<anomalies>`.
    fn total(&self, stream: &str, metric: &str) -> u64 {
        let fields = self.counts.get(stream).into_iter().flatten();
        let of_metric =
            fields.filter(|(name, _)| name.split_once(':').is_some_and(|(_, m)| m == metric));
        of_metric.map(|(_, value)| number(value, 0)).sum()
    }

    /// The shortest and the longest time to live of samples, in seconds.
    pub fn lives_s(&self) -> (i64, i64) {
        let lives = || self.samples.values().map(|(_, life)| *life);
        (lives().min().expect("samples"), lives().max().expect("samples"))
    }

    /// Replicas that have counts of the fleet.
    pub fn replicas(&self) -> usize {
        let fields = self.counts.get(FLEET).into_iter().flatten();
        fields.filter(|(name, _)| !name.contains(':')).count()
    }
}

fn number(value: &str, place: usize) -> u64 {
    let part = value.split(':').nth(place).and_then(|part| part.parse().ok());
    part.unwrap_or_else(|| panic!("no number at {place} of {value:?}"))
}

/// The expectation for one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It must be there.
    Certain,
    /// It may be there or not.
    Excused,
    /// Its key is missing, and it was counted as dropped.
    Missing,
}

struct Comparison<'a> {
    ledger: &'a Ledger,
    contents: &'a Contents,
    excuse: &'a Excuse<'a>,
}

impl Comparison<'_> {
    fn run(&self) -> (Vec<String>, Vec<(u64, u64)>) {
        let mut problems = Vec::new();
        let standings = self.standings();
        let mut missing: Vec<&Sample> = self
            .ledger
            .samples()
            .filter(|sample| standings[&(sample.client, sample.number)] == Standing::Missing)
            .collect();
        missing.sort_by_key(|sample| sample.accepted);
        let count = missing.len() as u64;
        if count != self.excuse.dropped {
            let dropped = self.excuse.dropped;
            problems.push(format!("{count} samples are missing, {dropped} were dropped"));
        }
        self.compare_samples(&standings, &mut problems);
        let clients = &self.ledger.clients;
        for client in clients {
            for device in 0..DEVICES {
                let name = device_name(client.client, device);
                let mut of_device = client.samples.clone();
                of_device.retain(|sample| sample.device().as_deref() == Some(&name));
                self.compare_stream(&name, &[of_device], &standings, &mut problems);
            }
        }
        let all: Vec<Vec<Sample>> = clients.iter().map(|client| client.samples.clone()).collect();
        self.compare_stream(FLEET, &all, &standings, &mut problems);
        self.compare_fleet_with_devices(&mut problems);
        (problems, missing.iter().map(|sample| (sample.client, sample.number)).collect())
    }

    fn standings(&self) -> HashMap<(u64, u64), Standing> {
        let keys = self.ledger.plan.keys;
        let standing = |sample: &Sample| {
            if sample.accepted.is_none() || (self.excuse.may_miss)(sample) {
                return Standing::Excused;
            }
            // Where keys are shared, a missing key is found by its name.
            let is_there =
                sample.keys(keys).iter().any(|key| self.contents.samples.contains_key(key));
            if is_there || keys != Keys::Unique { Standing::Certain } else { Standing::Missing }
        };
        self.ledger
            .samples()
            .map(|sample| ((sample.client, sample.number), standing(sample)))
            .collect()
    }

    fn compare_samples(
        &self,
        standings: &HashMap<(u64, u64), Standing>,
        problems: &mut Vec<String>,
    ) {
        let keys = self.ledger.plan.keys;
        let mut expected: HashMap<String, &Sample> = HashMap::new();
        for sample in self.ledger.samples() {
            let standing = standings[&(sample.client, sample.number)];
            for key in sample.keys(keys) {
                let is_there = self.contents.samples.contains_key(&key);
                if standing == Standing::Certain || standing == Standing::Excused && is_there {
                    expected.insert(key, sample);
                }
            }
        }
        for (key, sample) in &expected {
            let Some((text, life)) = self.contents.samples.get(key) else {
                problems.push(format!("{key} is missing: {sample:?}"));
                continue;
            };
            let value: Value = serde_json::from_str(text).unwrap_or(Value::Null);
            if value != sample.json(keys) {
                problems.push(format!("{key} is {text}, not {}", sample.json(keys)));
            }
            if *life <= 0 {
                problems.push(format!("{key} lives for ever"));
            }
        }
        for key in self.contents.samples.keys().filter(|&key| !expected.contains_key(key)) {
            problems.push(format!("{key} holds what nobody was promised"));
        }
    }

    /// The samples of a stream, by client, each in order.
    fn compare_stream(
        &self,
        stream: &str,
        samples: &[Vec<Sample>],
        standings: &HashMap<(u64, u64), Standing>,
        problems: &mut Vec<String>,
    ) {
        let bounds = |metric: Option<&str>| {
            let has = |sample: &&Sample| metric.is_none_or(|metric| sample.has(metric));
            counted(samples, standings, has)
        };
        let actual = self.contents.samples_counted(stream);
        let expected = bounds(None);
        if !expected.contains(&actual) {
            problems.push(format!("{stream}: {actual} samples counted, not {expected:?}"));
        }
        for metric in METRICS {
            let actual = self.contents.total(stream, metric);
            let expected = bounds(Some(metric));
            if !expected.contains(&actual) {
                problems.push(format!("{stream}: {actual} of {metric} counted, not {expected:?}"));
            }
            let key = window_key(stream, metric);
            if !self.excuse.spoiled.contains(&&*key) {
                self.compare_window(&key, metric, samples, standings, problems);
            }
        }
    }

    fn members(&self, key: &str, problems: &mut Vec<String>) -> Vec<Member> {
        let members = self.contents.windows.get(key).map_or(&[][..], Vec::as_slice);
        let mut parsed = Vec::new();
        for (member, score) in members {
            match Member::parse(member, *score) {
                Some(member) => parsed.push(member),
                None => problems.push(format!("{key}: member {member:?} with score {score}")),
            }
        }
        parsed
    }

    fn compare_window(
        &self,
        key: &str,
        metric: &str,
        samples: &[Vec<Sample>],
        standings: &HashMap<(u64, u64), Standing>,
        problems: &mut Vec<String>,
    ) {
        let members = self.members(key, problems);
        if !members.is_sorted_by(|one, next| one.place() < next.place()) {
            problems.push(format!("{key}: a member twice, or out of order"));
        }
        if !members.is_empty() && self.contents.lives[key] <= 0 {
            problems.push(format!("{key} lives for ever"));
        }
        let mut named: HashMap<u64, Vec<u64>> = HashMap::new();
        for member in &members {
            match named_by(metric, member.value) {
                Some((client, number)) => named.entry(client).or_default().push(number),
                None => problems.push(format!("{key}: {} was never sent", member.value)),
            }
        }
        let mut certain = 0;
        for samples in samples {
            let with_metric: Vec<&Sample> = samples.iter().filter(|s| s.has(metric)).collect();
            let is_certain = |s: &&&Sample| standings[&(s.client, s.number)] == Standing::Certain;
            certain += with_metric.iter().filter(is_certain).count();
            let Some(client) = samples.first().map(|sample| sample.client) else { continue };
            let newest = named.remove(&client).unwrap_or_default();
            if let Err(problem) = is_newest(&with_metric, &newest, standings) {
                problems.push(format!("{key}: {problem}"));
            }
        }
        for (client, numbers) in named {
            problems.push(format!("{key}: {numbers:?} are of client {client}"));
        }
        let fewest = certain.min(MEMBERS_MAX);
        if !(fewest..=MEMBERS_MAX).contains(&members.len()) {
            problems.push(format!("{key}: {} members, at least {fewest} expected", members.len()));
        }
    }

    /// The order of the samples of several clients in the fleet's windows is unknown to the clients. The windows
    /// of devices have times: values newer than the fleet's oldest must be in the fleet's window too.
    fn compare_fleet_with_devices(&self, problems: &mut Vec<String>) {
        for metric in METRICS {
            let fleet_key = window_key(FLEET, metric);
            let spoiled = |key: &str| self.excuse.spoiled.contains(&key);
            let fleet = self.members(&fleet_key, problems);
            let Some(oldest) = fleet.first() else { continue };
            let in_fleet: HashSet<_> = fleet.iter().map(Member::place).collect();
            if spoiled(&fleet_key) {
                continue;
            }
            let suffix = format!(":window:{metric}");
            for key in self.contents.windows.keys().filter(|key| key.ends_with(&suffix)) {
                let members = self.members(key, problems);
                let absent = members
                    .iter()
                    .filter(|member| member.place() > oldest.place())
                    .filter(|member| !in_fleet.contains(&member.place()))
                    .count();
                if absent > 0 {
                    problems.push(format!("{fleet_key}: {absent} newer ones of {key} are absent"));
                }
            }
        }
    }
}

fn window_key(stream: &str, metric: &str) -> String {
    if stream == FLEET {
        format!("sigmad:{FLEET}:window:{metric}")
    } else {
        format!("sigmad:{{{stream}}}:window:{metric}")
    }
}

/// The possible sums of the replicas' absolute counts. A dropped sample counts as soon as a later one is
/// written; an excused sample counts or not.
fn counted(
    samples: &[Vec<Sample>],
    standings: &HashMap<(u64, u64), Standing>,
    has: impl Fn(&&Sample) -> bool,
) -> std::ops::RangeInclusive<u64> {
    let standing = |sample: &&Sample| standings[&(sample.client, sample.number)];
    let all: Vec<&Sample> = samples.iter().flatten().filter(|s| has(s)).collect();
    let most = all.len() as u64;
    let is_excused = |sample: &&Sample| standing(sample) == Standing::Excused;
    let mut fewest = most - all.iter().filter(|sample| is_excused(sample)).count() as u64;
    // Samples dropped at the end of a client's samples: no later one was written.
    for of_client in samples {
        let with_metric = of_client.iter().filter(|s| has(s)).rev();
        let lost = with_metric.take_while(|sample| standing(sample) == Standing::Missing);
        fewest -= lost.count() as u64;
    }
    fewest..=most
}

/// `numbers` are the newest of a client's samples in a stream, in order, except those that may be missing.
fn is_newest(
    samples: &[&Sample],
    numbers: &[u64],
    standings: &HashMap<(u64, u64), Standing>,
) -> Result<(), String> {
    let mut expected = samples.iter().rev();
    for &number in numbers.iter().rev() {
        loop {
            let Some(sample) = expected.next() else {
                return Err(format!("{number} is not expected there"));
            };
            if sample.number == number {
                break;
            }
            if standings[&(sample.client, sample.number)] == Standing::Certain {
                let Sample { client, number: absent, .. } = sample;
                return Err(format!("{absent} of client {client} is absent, {number} is there"));
            }
        }
    }
    Ok(())
}

/// A scrape of the server.
pub struct Scrape(BTreeMap<String, u64>);

impl Scrape {
    #[track_caller]
    pub fn of(server: &Server) -> Self {
        let answer = server.get("/metrics").expect(200);
        let lines = answer.text().lines().filter(|line| !line.starts_with('#'));
        let parse = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse::<f64>().ok()? as u64))
        };
        Self(lines.filter_map(parse).collect())
    }

    /// The value of one line, by name and labels.
    #[track_caller]
    pub fn get(&self, name: &str) -> u64 {
        *self.0.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.lines("sigmad_s")))
    }

    fn outcome(&self, outcome: &str) -> u64 {
        self.get(&format!("sigmad_samples_total{{outcome=\"{outcome}\"}}"))
    }

    pub fn errors(&self, kind: &str) -> u64 {
        self.get(&format!("sigmad_store_errors_total{{kind=\"{kind}\"}}"))
    }

    pub fn dropped(&self, reason: &str) -> u64 {
        self.get(&format!("sigmad_store_dropped_total{{reason=\"{reason}\"}}"))
    }

    /// The sum over all labels.
    pub fn sum(&self, family: &str) -> u64 {
        self.lines(family).iter().map(|(_, value)| *value).sum()
    }

    fn lines(&self, family: &str) -> Vec<(&String, u64)> {
        let of_family = |name: &&String| name.starts_with(family);
        self.0.iter().filter(|(name, _)| of_family(name)).map(|(n, v)| (n, *v)).collect()
    }
}

/// The maximum of a value that a thread samples until this is dropped.
pub struct Watch {
    is_over: Arc<AtomicBool>,
    largest: Arc<Mutex<u64>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// The resident memory of the server in KiB, sampled every 100 ms.
    pub fn resident_kib(pid: u32) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let largest = Arc::new(Mutex::new(0));
        let thread = {
            let (is_over, largest) = (is_over.clone(), largest.clone());
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    if let Some(kib) = resident_kib(pid) {
                        let mut largest = largest.lock().expect("watch");
                        *largest = kib.max(*largest);
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            })
        };
        Self { is_over, largest, thread: Some(thread) }
    }

    /// The maximum since the last call.
    pub fn take(&self) -> u64 {
        std::mem::take(&mut self.largest.lock().expect("watch"))
    }
}

fn resident_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
