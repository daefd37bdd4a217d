//! Real Redis processes: single, with password, user or TLS, as a cluster, or with sentinels.
//!
//! Each listens on free ports of 127.0.0.1 and has its files in a temporary directory. Dropping it kills the
//! process and removes the directory. Every wait is bounded, and ends on a reply of Redis.

#![allow(dead_code, reason = "each suite uses its own part")]
#![allow(clippy::disallowed_methods, reason = "tests bound their waits on real processes")]

#[path = "../certificates/mod.rs"]
pub mod certificates;

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use redis::{
    Client, Connection, ConnectionAddr, FromRedisValue, IntoConnectionInfo, RedisConnectionInfo,
    TlsCertificates,
};

/// A start takes 30 ms, a cluster 3 s, a failover 4 s; a loaded machine takes longer.
pub const START_TIMEOUT: Duration = Duration::from_secs(180);
/// Time limit for any reply.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The name of the master at the sentinels.
pub const MASTER_NAME: &str = "main";
/// Sentinels that must agree that a master is down.
const QUORUM: &str = "2";
/// Long enough for a paused thread, short enough for a test.
pub const DOWN_AFTER_MS: &str = "1000";
/// If the vote for the leader of a failover is split, the next one comes after twice this time.
const FAILOVER_TIMEOUT_MS: &str = "2000";
/// Number of slots of a cluster.
const SLOTS: u16 = 16_384;

/// Ports below those of outgoing connections, so that a stopped Redis keeps its port.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id() as u16 % 200 * 100;
    loop {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + first.wrapping_add(turn) % (PORTS.end - PORTS.start);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// A temporary directory; removed when dropped.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sigmad-redis-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a temporary directory");
        Self(path)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // A file left in /tmp is no reason to fail.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Polls until there is a result.
#[track_caller]
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How a process listens.
#[derive(Clone, Debug, Default)]
struct Access {
    user: Option<String>,
    password: Option<String>,
    is_tls: bool,
}

/// One process; killed when dropped.
pub struct Redis {
    child: Child,
    directory: Directory,
    port: u16,
    access: Access,
    args: Vec<String>,
}

impl Redis {
    /// A Redis with further arguments of redis-server.
    pub fn start(args: &[&str]) -> Self {
        Self::start_with(Access::default(), args, |_| {})
    }

    /// `requirepass`.
    pub fn with_password(password: &str) -> Self {
        let access = Access { password: Some(password.to_owned()), ..Access::default() };
        Self::start_with(access, &["--requirepass", password], |_| {})
    }

    /// Only this user, with these rules (`~* +@all`).
    pub fn with_user(user: &str, password: &str, rules: &str) -> Self {
        let access = Access {
            user: Some(user.to_owned()),
            password: Some(password.to_owned()),
            is_tls: false,
        };
        Self::start_with(access, &["--aclfile", "users.acl"], |directory| {
            let users = format!("user default off\nuser {user} on >{password} {rules}\n");
            std::fs::write(directory.file("users.acl"), users).expect("users.acl");
        })
    }

    /// TLS only, with a certificate for 127.0.0.1 and localhost by its own authority.
    pub fn with_tls() -> Self {
        let args = ["--tls-cert-file", "server.crt", "--tls-key-file", "server.key"];
        let more = ["--tls-ca-cert-file", "ca.crt", "--tls-auth-clients", "no"];
        let access = Access { is_tls: true, ..Access::default() };
        Self::start_with(access, &[args, more].concat(), |directory| {
            certificates::make(&directory.0)
        })
    }

    fn start_with(access: Access, args: &[&str], prepare: impl FnOnce(&Directory)) -> Self {
        let mut directory = Directory::new();
        prepare(&directory);
        let mut args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        for arg in ["--save", "", "--appendonly", "no", "--enable-debug-command", "local"] {
            args.push(arg.to_owned());
        }
        loop {
            let port = free_port();
            let child = spawn(&directory, port, access.is_tls, &args);
            let mut redis =
                Self { child, directory, port, access: access.clone(), args: args.clone() };
            if redis.wait_for_pong() {
                return redis;
            }
            // Another process took the port in between: try the next one.
            assert!(redis.log().contains("already in use"), "redis-server: {}", redis.log());
            directory = std::mem::replace(&mut redis.directory, Directory::new());
        }
    }

    /// False when it has exited instead.
    fn wait_for_pong(&mut self) -> bool {
        until("PING is answered", || {
            if self.child.try_wait().expect("wait").is_some() {
                return Some(false);
            }
            // Its log proves it: another process may answer at the port.
            let log = self.log();
            if !log.contains("Ready to accept connections") && !log.contains("Sentinel ID is") {
                return None;
            }
            let mut connection = self.try_connection().ok()?;
            redis::cmd("PING").query::<String>(&mut connection).ok().map(|_| true)
        })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The value for `--redis-url`.
    pub fn url(&self) -> String {
        let scheme = if self.access.is_tls { "rediss" } else { "redis" };
        let Access { user, password, .. } = &self.access;
        format!("{scheme}://{}127.0.0.1:{}", login(user.as_deref(), password.as_deref()), self.port)
    }

    /// The certificate of its authority, for `SSL_CERT_FILE`.
    pub fn authority(&self) -> PathBuf {
        self.directory.file("ca.crt")
    }

    /// Its log.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.directory.file("redis.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// A direct connection, for assertions.
    pub fn connection(&self) -> Connection {
        self.try_connection().expect("redis answers")
    }

    fn try_connection(&self) -> redis::RedisResult<Connection> {
        let mut login = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some(user) = &self.access.user {
            login = login.set_username(user);
        }
        if let Some(password) = &self.access.password {
            login = login.set_password(password);
        }
        let info = self.url().into_connection_info()?.set_redis_settings(login);
        let client = if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            let authority = std::fs::read(self.authority()).expect("ca.crt");
            let certificates = TlsCertificates { client_tls: None, root_cert: Some(authority) };
            Client::build_with_tls(info, certificates)?
        } else {
            Client::open(info)?
        };
        let connection = client.get_connection_with_timeout(ANSWER_TIMEOUT)?;
        connection.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        connection.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(connection)
    }

    /// Sends one command on a new connection.
    #[track_caller]
    pub fn ask<T: FromRedisValue>(&self, command: &[&str]) -> T {
        ask(&mut self.connection(), command)
    }

    /// One field of INFO.
    #[track_caller]
    pub fn info(&self, field: &str) -> String {
        let info: String = self.ask(&["INFO", "everything"]);
        field_of(&info, field).unwrap_or_else(|| panic!("no {field} in {info}"))
    }

    /// Removes its directory, and waits until it reports that it cannot save.
    pub fn lose_disk(&self) {
        std::fs::remove_dir_all(&self.directory.0).expect("its directory");
        self.ask::<()>(&["CONFIG", "SET", "save", "3600 1"]);
        until("it cannot save", || {
            // Err: it saves already, or its child that fed a replica has not exited yet.
            let (Ok(()) | Err(_)) = redis::cmd("BGSAVE").query::<()>(&mut self.connection());
            (self.info("rdb_last_bgsave_status") == "err").then_some(())
        });
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: plain system call; the child has not been waited for, so the pid is ours.
        let sent = unsafe { libc::kill(self.pid().cast_signed(), signal) };
        assert_eq!(sent, 0, "kill: {}", io::Error::last_os_error());
    }

    /// SIGSTOP: the kernel accepts connections, no command is answered.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    /// SIGTERM, and waits for the exit: connections are closed, the port refuses.
    pub fn stop(&mut self) {
        self.signal(libc::SIGTERM);
        let child = &mut self.child;
        until("redis-server exits", || child.try_wait().expect("wait"));
    }

    /// SIGKILL, and waits for the exit: the port refuses.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Starts it again after [`Redis::stop`] or [`Redis::kill`]: same port, no data.
    pub fn restart(&mut self) {
        // Files of replication or SAVE; mostly there are none.
        drop(std::fs::remove_file(self.directory.file("dump.rdb")));
        self.child = spawn(&self.directory, self.port, self.access.is_tls, &self.args);
        assert!(self.wait_for_pong(), "redis-server: {}", self.log());
    }

    /// Starts it again with its data, which takes about that long to load: LOADING.
    pub fn restart_loading(&mut self, duration: Duration) {
        // It serves clients once per number of bytes loaded, not per time: hence long values.
        self.ask::<()>(&["DEBUG", "POPULATE", "200", "padding", "2000"]);
        self.ask::<()>(&["CONFIG", "SET", "rdbcompression", "no"]);
        let keys: u32 = self.ask(&["DBSIZE"]);
        self.ask::<()>(&["SAVE"]);
        self.kill();
        let delay_us = duration.as_micros() / u128::from(keys);
        let mut args = self.args.clone();
        for arg in ["--key-load-delay", &delay_us.to_string()] {
            args.push(arg.to_owned());
        }
        args.extend(["--loading-process-events-interval-bytes".to_owned(), "1024".to_owned()]);
        self.child = spawn(&self.directory, self.port, self.access.is_tls, &args);
        until("it loads", || {
            let mut connection = self.try_connection().ok()?;
            let error = redis::cmd("PING").query::<String>(&mut connection).err()?;
            (error.code() == Some("LOADING")).then_some(())
        });
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have exited already: then there is nothing to kill.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(20)..];
            eprintln!("--- log of Redis at {}:\n{}\n---", self.port, last.join("\n"));
        }
    }
}

fn spawn(directory: &Directory, port: u16, is_tls: bool, args: &[String]) -> Child {
    let mut command = redis_server();
    if is_tls {
        command.args(["--port", "0", "--tls-port"]);
    } else {
        command.arg("--port");
    }
    command.arg(port.to_string()).args(["--bind", "127.0.0.1"]).args(args);
    spawn_logged(&mut command, directory)
}

/// REDIS_SERVER names another binary: an older Redis, or Valkey.
fn redis_server() -> Command {
    Command::new(std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into()))
}

fn spawn_logged(command: &mut Command, directory: &Directory) -> Child {
    let log = File::create(directory.file("redis.log")).expect("redis.log");
    command
        .current_dir(&directory.0)
        .stdin(Stdio::null())
        .stderr(log.try_clone().expect("redis.log"))
        .stdout(log)
        .spawn()
        .expect("redis-server starts (Debian: redis-server)")
}

fn encoded(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

/// The part of a URL before the host.
fn login(user: Option<&str>, password: Option<&str>) -> String {
    match password {
        Some(password) => format!("{}:{}@", encoded(user.unwrap_or("")), encoded(password)),
        None => String::new(),
    }
}

/// One command.
#[track_caller]
pub fn ask<T: FromRedisValue>(connection: &mut Connection, command: &[&str]) -> T {
    match redis::cmd(command[0]).arg(&command[1..]).query(connection) {
        Ok(answer) => answer,
        Err(error) => panic!("{command:?}: {error}"),
    }
}

/// The value of a line `field:value`.
fn field_of(info: &str, field: &str) -> Option<String> {
    info.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .map(|value| value.trim().to_owned())
}

/// Three masters that share the slots, without replicas.
pub struct Cluster {
    pub nodes: Vec<Redis>,
}

impl Cluster {
    const NODES: u16 = 3;

    /// Waits until every node reports that the cluster is complete.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With further arguments of redis-server for every node.
    pub fn start_with(args: &[&str]) -> Self {
        let start = || {
            let bus = free_port().to_string();
            let own = ["--cluster-enabled", "yes", "--cluster-port", &bus];
            let timeout = ["--cluster-node-timeout", "2000"];
            Redis::start(&[args, &own, &timeout].concat())
        };
        let nodes: Vec<Redis> = (0..Self::NODES).map(|_| start()).collect();
        for (index, node) in (0..).zip(&nodes) {
            let first = (SLOTS / Self::NODES) * index;
            let last = if index + 1 == Self::NODES { SLOTS } else { first + SLOTS / Self::NODES };
            let (first, last) = (first.to_string(), (last - 1).to_string());
            node.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
            // Otherwise the nodes vote on configuration epochs, and the state flaps.
            node.ask::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
        }
        for node in &nodes[1..] {
            let (_, bus): (String, String) = node.ask(&["CONFIG", "GET", "cluster-port"]);
            let port = node.port.to_string();
            nodes[0].ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
        }
        let cluster = Self { nodes };
        cluster.wait_until_whole();
        cluster
    }

    /// Waits until every node knows all others and serves.
    pub fn wait_until_whole(&self) {
        for node in &self.nodes {
            until("cluster_state:ok", || {
                let info: String = node.ask(&["CLUSTER", "INFO"]);
                let is =
                    |field: &str, value: &str| field_of(&info, field).as_deref() == Some(value);
                let all = Self::NODES.to_string();
                (is("cluster_state", "ok")
                    && is("cluster_known_nodes", &all)
                    && is("cluster_size", &all))
                .then_some(())
            });
        }
    }

    /// The value for `--redis-url`, with every node.
    pub fn url(&self) -> String {
        let hosts: Vec<_> =
            self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// The slot of a key.
    pub fn slot(&self, key: &str) -> u16 {
        self.nodes[0].ask(&["CLUSTER", "KEYSLOT", key])
    }

    /// The index of the node that had the slot of this key at the start.
    pub fn first_owner(&self, key: &str) -> usize {
        let index = self.slot(key) / (SLOTS / Self::NODES);
        usize::from(index.min(Self::NODES - 1))
    }

    /// Migrates a slot with all its keys to another node, with every step of a real migration.
    pub fn migrate(&self, slot: u16, from: usize, to: usize) {
        self.begin_migration(slot, from, to);
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let slot_text = slot.to_string();
        let keys: Vec<String> = source.ask(&["CLUSTER", "GETKEYSINSLOT", &slot_text, "1000"]);
        for key in keys {
            let port = target.port.to_string();
            source.ask::<()>(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]);
        }
        let id: String = target.ask(&["CLUSTER", "MYID"]);
        for node in [target, source] {
            node.ask::<()>(&["CLUSTER", "SETSLOT", &slot_text, "NODE", &id]);
        }
    }

    /// Starts the migration of a slot without its keys: new keys are answered with ASK.
    pub fn begin_migration(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let (source_id, target_id): (String, String) =
            (source.ask(&["CLUSTER", "MYID"]), target.ask(&["CLUSTER", "MYID"]));
        target.ask::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]);
        source.ask::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]);
    }
}

/// A master, its replica, and three sentinels that watch both.
pub struct Sentinels {
    /// Master and replica; after a failover, replica and master.
    pub nodes: [Redis; 2],
    pub sentinels: Vec<Redis>,
}

impl Sentinels {
    const SENTINELS: usize = 3;

    /// Waits until the sentinels know each other and the replica.
    pub fn start() -> Self {
        Self::start_with(None, None)
    }

    /// With a password on master and replica, and one on the sentinels.
    pub fn start_with(password: Option<&str>, sentinel_password: Option<&str>) -> Self {
        let access = Access { password: password.map(str::to_owned), ..Access::default() };
        let passwords: Vec<&str> = match password {
            Some(password) => vec!["--requirepass", password, "--masterauth", password],
            None => Vec::new(),
        };
        let master = Redis::start_with(access.clone(), &passwords, |_| {});
        let port = master.port.to_string();
        let args = [&passwords[..], &["--replicaof", "127.0.0.1", &port]].concat();
        // A replica syncs at once, without the 5 s in which the master waits for more replicas.
        master.ask::<()>(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
        let replica = Redis::start_with(access, &args, |_| {});
        until("the replica follows", || (replica.info("master_link_status") == "up").then_some(()));
        let start = || start_sentinel(&master, sentinel_password);
        let sentinels: Vec<Redis> = (0..Self::SENTINELS).map(|_| start()).collect();
        let group = Self { nodes: [master, replica], sentinels };
        for sentinel in &group.sentinels {
            until("the sentinels know each other and the replica", || {
                let (others, replicas) =
                    (group.known(sentinel, "SENTINELS"), group.known(sentinel, "REPLICAS"));
                (others == Self::SENTINELS - 1 && replicas == 1).then_some(())
            });
        }
        group
    }

    /// Sets how long a node does not answer until it counts as down.
    pub fn set_down_after(&self, ms: &str) {
        for sentinel in &self.sentinels {
            sentinel.ask::<()>(&["SENTINEL", "SET", MASTER_NAME, "down-after-milliseconds", ms]);
        }
    }

    fn known(&self, sentinel: &Redis, what: &str) -> usize {
        sentinel.ask::<Vec<redis::Value>>(&["SENTINEL", what, MASTER_NAME]).len()
    }

    /// The value for `--redis-url`.
    pub fn url(&self) -> String {
        let hosts: Vec<_> =
            self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
        let login = login(None, self.nodes[0].access.password.as_deref());
        let query = match &self.sentinels[0].access.password {
            Some(password) => format!("?sentinel_password={}", encoded(password)),
            None => String::new(),
        };
        format!("redis+sentinel://{login}{}/{MASTER_NAME}{query}", hosts.join(","))
    }

    /// The port of the master according to the sentinels.
    pub fn master_port(&self) -> u16 {
        let address: (String, u16) =
            self.sentinels[0].ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME]);
        address.1
    }

    /// The node whose role is master.
    pub fn master(&self) -> &Redis {
        let port = self.master_port();
        self.nodes.iter().find(|node| node.port == port).expect("one of ours")
    }

    /// Has the first sentinel make the other node master. It is asked again when it has given up, for on a busy machine
    /// its time limit can pass; while it is at work it refuses.
    pub fn fail_over(&self, from: u16) -> &Redis {
        let mut sentinel = self.sentinels[0].connection();
        until("a failover that is not given up", || {
            let named = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME];
            let (_, port): (String, u16) = ask(&mut sentinel, &named);
            if port != from {
                return Some(());
            }
            let mut begin = redis::cmd("SENTINEL");
            let _: Result<(), _> = begin.arg("FAILOVER").arg(MASTER_NAME).query(&mut sentinel);
            None
        });
        self.wait_for_failover(from)
    }

    /// Waits until all sentinels name the other node, and its role is master.
    pub fn wait_for_failover(&self, from: u16) -> &Redis {
        let other = self.nodes.iter().find(|node| node.port != from).expect("two nodes");
        until("a failover", || {
            let agree = self.sentinels.iter().all(|sentinel| {
                let (_, port): (String, u16) =
                    sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME]);
                port == other.port
            });
            (agree && other.info("role") == "master").then_some(())
        });
        other
    }
}

/// Sentinels rewrite their configuration, so it is a file.
fn start_sentinel(master: &Redis, password: Option<&str>) -> Redis {
    let mut directory = Directory::new();
    loop {
        let port = free_port();
        let mut lines = vec![
            format!("port {port}"),
            "bind 127.0.0.1".to_owned(),
            format!("sentinel monitor {MASTER_NAME} 127.0.0.1 {} {QUORUM}", master.port),
            format!("sentinel down-after-milliseconds {MASTER_NAME} {DOWN_AFTER_MS}"),
            format!("sentinel failover-timeout {MASTER_NAME} {FAILOVER_TIMEOUT_MS}"),
        ];
        if let Some(password) = &master.access.password {
            lines.push(format!("sentinel auth-pass {MASTER_NAME} {password}"));
        }
        if let Some(password) = password {
            lines.push(format!("requirepass {password}"));
            lines.push(format!("sentinel sentinel-pass {password}"));
        }
        std::fs::write(directory.file("sentinel.conf"), lines.join("\n")).expect("sentinel.conf");
        let mut command = redis_server();
        let child = spawn_logged(command.args(["sentinel.conf", "--sentinel"]), &directory);
        let access = Access { password: password.map(str::to_owned), ..Access::default() };
        let mut sentinel = Redis { child, directory, port, access, args: Vec::new() };
        if sentinel.wait_for_pong() {
            // Intervals of hello messages and pings; by default they are seconds. A replica can be promoted only
            // if its INFO is younger than five ping intervals, and sentinels then ask for it once a second.
            let periods = ["publish-period", "200", "info-period", "500", "ping-period", "300"];
            let command = [&["SENTINEL", "DEBUG"][..], &periods, &["ask-period", "100"]].concat();
            sentinel.ask::<()>(&command);
            return sentinel;
        }
        assert!(sentinel.log().contains("already in use"), "redis-server: {}", sentinel.log());
        directory = std::mem::replace(&mut sentinel.directory, Directory::new());
    }
}

/// For a test that needs a closed port.
pub fn unused_port() -> u16 {
    free_port()
}
