//! Every topology of Redis, and every kind of failure, against real processes.

#![allow(clippy::disallowed_methods, reason = "tests measure how long a call takes")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::redis_server::{Cluster, MASTER_NAME, Redis, Sentinels, ask, until, unused_port};
use redis::{Pipeline, Value};
use sigmad::store::ErrorKind;
use sigmad::store::dial::TcpDialer;
use sigmad::store::link::{ClientIdentity, Link, LinkError};
use sigmad::store::reply::Reply;
use sigmad_clock::Clock;

/// An attempt waits 1 s to connect and 2 s for a reply, once. One that waited for every command or
/// address in turn would take longer than this, on any machine.
const ATTEMPT: Duration = Duration::from_secs(60);

type Replies = Vec<Result<Value, Refusal>>;

/// The refusal of one command, as a value that can be compared.
#[derive(Debug, PartialEq)]
struct Refusal {
    kind: ErrorKind,
    message: String,
}

#[track_caller]
fn connect(url: &str) -> Link {
    try_connect(url).unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn try_connect(url: &str) -> Result<Link, LinkError> {
    connect_from(&identity("a-test"), url)
}

fn connect_from(identity: &ClientIdentity, url: &str) -> Result<Link, LinkError> {
    let target = url.parse().unwrap_or_else(|error| panic!("{url}: {error}"));
    Link::connect(&target, identity)
}

fn identity(name: &str) -> ClientIdentity {
    let clock = Clock::new(sigmad_clock::start());
    let dialer = TcpDialer::new(sigmad_clock::start(), Arc::default());
    ClientIdentity::new(name.to_owned(), clock, Arc::new(dialer))
}

/// The error of an attempt that must fail within its time.
#[track_caller]
fn refusal(url: &str) -> LinkError {
    let start = Instant::now();
    let error = try_connect(url).err().unwrap_or_else(|| panic!("{url} connects"));
    let took = start.elapsed();
    assert!(took < ATTEMPT, "{url}: {took:?} for {error}");
    error
}

fn commands(lines: &[&[&str]]) -> Pipeline {
    let mut pipeline = redis::pipe();
    for line in lines {
        pipeline.cmd(line[0]).arg(&line[1..]);
    }
    pipeline
}

#[track_caller]
fn run(link: &mut Link, lines: &[&[&str]]) -> Replies {
    let replies = link.run(&commands(lines)).unwrap_or_else(|error| panic!("{lines:?}: {error}"));
    assert_eq!(replies.len(), lines.len());
    comparable(replies)
}

fn comparable(replies: Vec<Result<Reply, LinkError>>) -> Replies {
    let refusal = |error: LinkError| Refusal { kind: error.kind, message: error.to_string() };
    replies.into_iter().map(|reply| reply.map(Reply::into_value).map_err(refusal)).collect()
}

fn kinds(replies: &Replies) -> Vec<Option<ErrorKind>> {
    replies.iter().map(|reply| reply.as_ref().err().map(|error| error.kind)).collect()
}

fn bytes(text: &str) -> Value {
    Value::BulkString(text.into())
}

#[test]
fn replies_come_in_order_and_a_refusal_hides_no_other() {
    let redis = Redis::start(&[]);
    let mut link = connect(&redis.url());
    let replies = run(
        &mut link,
        &[
            &["SET", "a", "1"],
            &["ZADD", "a", "1", "m"],
            &["GET", "a"],
            &["NONSENSE"],
            &["XADD", "s", "5-1", "f", "v"],
            &["XADD", "s", "5-1", "f", "v"],
            &["XADD", "s", "5-2", "f", "v"],
        ],
    );
    let kinds = kinds(&replies);
    let (wrong, other) = (Some(ErrorKind::WrongType), Some(ErrorKind::Other));
    assert_eq!(kinds, [None, wrong, None, other, None, other, None]);
    assert_eq!(replies[2], Ok(bytes("1")));
    let is_there = |index: usize| {
        replies[index].as_ref().is_err_and(|error| error.message.contains("equal or smaller"))
    };
    assert!(is_there(5) && !is_there(3) && !is_there(1), "{replies:?}");
    assert_eq!(run(&mut link, &[]), []);
}

#[test]
fn passwords_users_and_databases() {
    let open = Redis::start(&[]);
    let mut link = connect(&format!("{}/3", open.url()));
    run(&mut link, &[&["SET", "a", "1"]]);
    let (keyspace, none): (String, u32) =
        (ask(&mut open.connection(), &["INFO", "keyspace"]), open.ask(&["DBSIZE"]));
    assert!(keyspace.contains("db3:keys=1") && none == 0, "{keyspace}");
    assert_eq!(refusal(&format!("{}/99", open.url())).kind, ErrorKind::Connect);
    let no_password_needed = format!("redis://:s3cret@127.0.0.1:{}", open.port());
    assert_eq!(refusal(&no_password_needed).kind, ErrorKind::Auth);

    let locked = Redis::with_password("s3cret/@");
    let at = |login: &str| format!("redis://{login}127.0.0.1:{}", locked.port());
    for login in [":s3cret%2F%40@", "default:s3cret%2F%40@"] {
        assert_eq!(kinds(&run(&mut connect(&at(login)), &[&["SET", "a", "1"]])), [None]);
    }
    for login in ["", ":wrong@", "nobody:s3cret%2F%40@"] {
        let error = refusal(&at(login));
        assert_eq!(error.kind, ErrorKind::Auth, "{login}: {error}");
        let place = format!("127.0.0.1:{}", locked.port());
        assert!(
            error.to_string().contains(&place) && !error.to_string().contains("s3cret"),
            "{error}"
        );
    }

    // A Redis that repeats the arguments of an unknown command.
    let renamed = Redis::start(&["--rename-command", "AUTH", "auth-of-ours"]);
    let error = refusal(&format!("redis://:s3cret@127.0.0.1:{}", renamed.port()));
    assert!(error.kind == ErrorKind::Auth && !error.to_string().contains("s3cret"), "{error}");
}

#[test]
fn commands_against_the_rules_of_a_user_are_refused() {
    let redis = Redis::with_user("sigmad", "p", "~metric:* +@all -zadd");
    let mut link = connect(&redis.url());
    let zadd_in_script = "return redis.call('ZADD', KEYS[1], 1, 'm')";
    let replies = run(
        &mut link,
        &[
            &["SET", "metric:1", "1"],
            &["SET", "other", "1"],
            &["ZADD", "metric:z", "1", "m"],
            &["EVAL", zadd_in_script, "1", "metric:z"],
            &["GET", "metric:1"],
        ],
    );
    let auth = Some(ErrorKind::Auth);
    assert_eq!(kinds(&replies), [None, auth, auth, auth, None], "{replies:?}");
    assert_eq!(refusal(&format!("redis://127.0.0.1:{}", redis.port())).kind, ErrorKind::Auth);
}

/// The URL to which the child of the test below connects.
const CHILD_URL: &str = "TOPOLOGIES_CHILD_URL";

/// Connects in a child process with the root certificates of that file; returns what it prints.
fn connect_trusting(authority: &std::path::Path, url: &str) -> String {
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "topologies::prints_how_its_connection_went", "--ignored", "--nocapture"])
        .env("SSL_CERT_FILE", authority)
        .env(CHILD_URL, url)
        .output()
        .expect("this binary starts");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[ignore = "the child of tls_trusts_the_given_roots_only"]
fn prints_how_its_connection_went() {
    let url = std::env::var(CHILD_URL).expect("a URL");
    match try_connect(&url) {
        Ok(mut link) => println!("replies {:?}", run(&mut link, &[&["GET", "a"]])),
        Err(error) => println!("fails {}: {error}", error.kind.name()),
    }
}

#[test]
fn tls_trusts_the_given_roots_only() {
    let (redis, other) = (Redis::with_tls(), Redis::with_tls());
    redis.ask::<()>(&["SET", "a", "1"]);
    let url = redis.url();
    let by_name = format!("rediss://localhost:{}", redis.port());
    let by_other_name = format!("rediss://127.0.0.2:{}", redis.port());
    for (authority, url, said) in [
        (redis.authority(), &url, "replies [Ok(bulk-string('\"1\"'))]"),
        (redis.authority(), &by_name, "replies [Ok(bulk-string('\"1\"'))]"),
        (other.authority(), &url, "fails connect: "),
        (redis.authority(), &by_other_name, "fails connect: "),
    ] {
        let output = connect_trusting(&authority, url);
        assert!(output.contains(said), "{url}: {output}");
    }
    // The roots of the system do not include it, and both sides must use TLS.
    let plain = Redis::start(&[]);
    for url in [
        &url,
        &format!("redis://127.0.0.1:{}", redis.port()),
        &format!("rediss://127.0.0.1:{}", plain.port()),
    ] {
        let error = refusal(url);
        assert!(matches!(error.kind, ErrorKind::Connect | ErrorKind::Timeout), "{url}: {error}");
    }
}

#[test]
fn a_closed_port_is_a_connect_error() {
    for url in [
        format!("redis://127.0.0.1:{}", unused_port()),
        format!("rediss://127.0.0.1:{}", unused_port()),
        format!("redis+sentinel://127.0.0.1:{},127.0.0.1:{}/main", unused_port(), unused_port()),
        format!("redis+cluster://127.0.0.1:{},127.0.0.1:{}", unused_port(), unused_port()),
        "redis://0.0.0.0".to_owned(),
        "redis://sigmad.invalid".to_owned(),
    ] {
        let error = refusal(&url);
        assert_eq!(error.kind, ErrorKind::Connect, "{url}: {error}");
    }

    let redis = Redis::start(&[]);
    let mut first = redis.connection();
    ask::<()>(&mut first, &["CONFIG", "SET", "maxclients", "1"]);
    let error = refusal(&redis.url());
    assert_eq!(error.kind, ErrorKind::Connect, "{error}");
}

/// A server whose kernel accepts connections, and that never replies.
fn mute() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

#[test]
fn a_server_that_never_replies_times_out() {
    let (_listener, address) = mute();
    for url in [
        format!("redis://{address}"),
        format!("redis://u:p@{address}/3"),
        format!("rediss://{address}"),
        format!("redis+sentinel://{address}/main"),
        format!("redis+cluster://{address}"),
    ] {
        let error = refusal(&url);
        assert_eq!(error.kind, ErrorKind::Timeout, "{url}: {error}");
    }
}

#[test]
fn a_dropped_syn_times_out() {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a port");
    socket.listen(0).expect("listens");
    let address = socket.local_addr().expect("an address").as_socket().expect("an IP address");
    // Connections are never accepted: once the queue is full, the kernel drops every SYN.
    let waiting = Duration::from_millis(200);
    let mut queued = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, waiting) {
        queued.push(stream);
        assert!(queued.len() < 100, "the queue never fills");
    }
    let start = Instant::now();
    let error = refusal(&format!("redis://{address}"));
    assert_eq!(error.kind, ErrorKind::Timeout, "{error}");
    assert!(start.elapsed() < ATTEMPT, "{:?}", start.elapsed());
}

#[test]
fn a_stopped_redis_costs_one_timeout_and_not_one_per_command() {
    let redis = Redis::start(&[]);
    let mut link = connect(&redis.url());
    let mut batch = redis::pipe();
    for key in 0..300 {
        batch.cmd("SET").arg(key).arg("1");
    }
    redis.pause();
    let start = Instant::now();
    let error = link.run(&batch).expect_err("nobody replies");
    assert_eq!(error.kind, ErrorKind::Timeout, "{error}");
    assert!(start.elapsed() < ATTEMPT, "{:?}", start.elapsed());
    assert_eq!(refusal(&redis.url()).kind, ErrorKind::Timeout);
    redis.resume();
    let replies = connect(&redis.url()).run(&batch).expect("it is back");
    assert!(replies.iter().all(Result::is_ok));
}

#[test]
fn a_batch_larger_than_every_buffer_times_out_too() {
    let redis = Redis::start(&[]);
    let mut link = connect(&redis.url());
    redis.pause();
    let mut batch = redis::pipe();
    batch.cmd("SET").arg("a").arg(vec![b'x'; 32 << 20]);
    let start = Instant::now();
    let error = link.run(&batch).expect_err("nobody reads");
    assert_eq!(error.kind, ErrorKind::Timeout, "{error}");
    assert!(start.elapsed() < ATTEMPT, "{:?}", start.elapsed());
}

#[test]
fn a_closed_connection_is_broken() {
    let mut redis = Redis::start(&[]);
    let mut link = connect(&redis.url());
    redis.ask::<()>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    let error = link.run(&commands(&[&["PING"]])).expect_err("cut");
    assert_eq!(error.kind, ErrorKind::Broken, "{error}");
    let mut link = connect(&redis.url());
    redis.kill();
    let error = link.run(&commands(&[&["PING"]])).expect_err("gone");
    assert_eq!(error.kind, ErrorKind::Broken, "{error}");
    assert_eq!(refusal(&redis.url()).kind, ErrorKind::Connect);
    redis.restart();
    assert_eq!(kinds(&run(&mut connect(&redis.url()), &[&["PING"]])), [None]);
}

#[test]
fn passing_refusals_are_distinguished_from_lasting_ones() {
    let redis = Redis::start(&[]);
    let mut link = connect(&redis.url());
    redis.ask::<()>(&["SET", "a", "1"]);
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    let replies = run(&mut link, &[&["SET", "b", "1"], &["GET", "a"], &["PEXPIRE", "a", "9999"]]);
    assert_eq!(kinds(&replies), [Some(ErrorKind::OutOfMemory), None, None], "{replies:?}");
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);

    let replica = Redis::start(&["--replicaof", "127.0.0.1", &redis.port().to_string()]);
    until("the replica follows", || (replica.info("master_link_status") == "up").then_some(()));
    let replies = run(&mut connect(&replica.url()), &[&["SET", "b", "1"], &["GET", "a"]]);
    assert_eq!(kinds(&replies), [Some(ErrorKind::ReadOnly), None], "{replies:?}");

    redis.lose_disk();
    let replies = run(&mut link, &[&["SET", "b", "1"], &["GET", "a"]]);
    assert_eq!(kinds(&replies), [Some(ErrorKind::ReadOnly), None], "{replies:?}");
    assert!(replies[0].as_ref().is_err_and(|error| error.message.starts_with("MISCONF")));
}

#[test]
fn a_redis_that_loads_its_data_is_loading() {
    let mut redis = Redis::start(&[]);
    redis.ask::<()>(&["SET", "a", "1"]);
    redis.restart_loading(Duration::from_secs(2));
    let error = refusal(&redis.url());
    assert_eq!(error.kind, ErrorKind::Loading, "{error}");
    let mut link = until("it has loaded", || try_connect(&redis.url()).ok());
    assert_eq!(run(&mut link, &[&["GET", "a"]]), [Ok(bytes("1"))]);
}

#[test]
fn each_command_goes_to_the_node_of_its_key() {
    let cluster = Cluster::start();
    let mut link = connect(&cluster.url());
    let keys: Vec<String> = (0..100).map(|number| format!("key:{number}")).collect();
    let mut batch = redis::pipe();
    for key in &keys {
        batch.cmd("SET").arg(key).arg(key);
        batch.cmd("ZADD").arg(key).arg(1).arg("m");
        batch.cmd("EVAL").arg("return redis.call('GET', KEYS[1])").arg(1).arg(key);
    }
    let replies = comparable(link.run(&batch).expect("all nodes reply"));
    let (kinds, wrong) = (kinds(&replies), Some(ErrorKind::WrongType));
    for (index, key) in keys.iter().enumerate() {
        assert_eq!(kinds[index * 3..index * 3 + 3], [None, wrong, None], "{key}");
        assert_eq!(replies[index * 3 + 2], Ok(bytes(key)));
    }
    for node in &cluster.nodes {
        assert!(node.ask::<u32>(&["DBSIZE"]) > 10);
    }

    // A seed that is down does not prevent finding the other nodes.
    let url = format!(
        "redis+cluster://127.0.0.1:{},127.0.0.1:{}",
        unused_port(),
        cluster.nodes[2].port()
    );
    assert_eq!(run(&mut connect(&url), &[&["GET", &keys[0]]]), [Ok(bytes(&keys[0]))]);

    // A single Redis is not a cluster, and a cluster is not a single Redis.
    let single = Redis::start(&[]);
    let error = refusal(&format!("redis+cluster://127.0.0.1:{}", single.port()));
    assert_eq!(error.kind, ErrorKind::Cluster, "{error}");
    let away = (cluster.first_owner("a") + 1) % cluster.nodes.len();
    let replies = run(&mut connect(&cluster.nodes[away].url()), &[&["GET", "a"]]);
    assert_eq!(self::kinds(&replies), [Some(ErrorKind::Cluster)], "{replies:?}");
}

#[test]
fn commands_follow_a_slot_that_migrates() {
    let cluster = Cluster::start();
    let mut link = connect(&cluster.url());
    let (old, new) = ("{moving}:old", "{moving}:new");
    let slot = cluster.slot(old);
    let from = cluster.first_owner(old);
    let to = (from + 1) % cluster.nodes.len();
    run(&mut link, &[&["SET", old, "1"]]);

    // During the migration: keys that are still there are served there, others by the other node.
    cluster.begin_migration(slot, from, to);
    let replies = run(
        &mut link,
        &[&["GET", old], &["SET", new, "2"], &["GET", new], &["SET", "elsewhere", "3"]],
    );
    assert_eq!(kinds(&replies), [None; 4], "{replies:?}");
    assert_eq!((&replies[0], &replies[2]), (&Ok(bytes("1")), &Ok(bytes("2"))));

    // After it: the first command is redirected, the others are sent to the new node at once.
    cluster.migrate(slot, from, to);
    for _ in 0..2 {
        let replies = run(&mut link, &[&["GET", old], &["GET", new], &["GET", "elsewhere"]]);
        assert_eq!(replies, [Ok(bytes("1")), Ok(bytes("2")), Ok(bytes("3"))]);
    }
    let moved: String = cluster.nodes[from].info("errorstat_MOVED");
    assert_eq!(moved, "count=2", "GET and GET, once");

    // A slot without a node: one command is refused.
    let slot = slot.to_string();
    for node in &cluster.nodes {
        node.ask::<()>(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
    }
    cluster.nodes[to].ask::<()>(&["CLUSTER", "DELSLOTS", &slot]);
    let replies = run(&mut link, &[&["GET", old], &["GET", "elsewhere"]]);
    assert_eq!(kinds(&replies), [Some(ErrorKind::Cluster), None], "{replies:?}");
}

/// Pipelines in flight whose slot has moved: none overtakes another, and each gets its own replies.
#[test]
fn pipelines_in_flight_follow_a_slot_in_their_order() {
    let cluster = Cluster::start();
    let mut link = connect(&cluster.url());
    let (moved, stays) = ("{moving}:text", "elsewhere");
    let slot = cluster.slot(moved);
    let from = cluster.first_owner(moved);
    assert_ne!(slot, cluster.slot(stays));
    cluster.migrate(slot, from, (from + 1) % cluster.nodes.len());

    let sent = ["a", "b", "c", "d"].map(|text| {
        commands(&[&["APPEND", moved, text], &["APPEND", stays, text], &["GET", moved]])
    });
    for pipeline in &sent {
        assert!(link.can_send());
        link.send(pipeline).expect("sent");
    }
    for (place, pipeline) in sent.iter().enumerate() {
        let replies = link.receive(pipeline).expect("replies");
        let replies: Vec<Value> =
            replies.into_iter().map(|reply| reply.expect("a value").into_value()).collect();
        let length = place as i64 + 1;
        let so_far = bytes(&"abcd"[..=place]);
        assert_eq!(replies, [Value::Int(length), Value::Int(length), so_far]);
        // What is sent now would overtake those that are redirected.
        assert_eq!(link.can_send(), place + 1 == sent.len());
    }
    assert_eq!(run(&mut link, &[&["GET", stays]]), [Ok(bytes("abcd"))]);
}

#[test]
fn a_node_that_is_down_fails_the_batch_and_the_next_connect() {
    let mut cluster = Cluster::start();
    let mut link = connect(&cluster.url());
    let key = "a";
    let owner = cluster.first_owner(key);
    cluster.nodes[owner].kill();
    let error = link.run(&commands(&[&["SET", key, "1"]])).expect_err("its node is gone");
    assert_eq!(error.kind, ErrorKind::Broken, "{error}");
    let error = refusal(&cluster.url());
    assert_eq!(error.kind, ErrorKind::Connect, "{error}");
    assert!(error.to_string().contains(&cluster.nodes[owner].port().to_string()), "{error}");
    cluster.nodes[owner].restart();
}

#[test]
fn after_a_failover_the_link_leads_to_the_new_master() {
    let mut group = Sentinels::start_with(Some("s3cret"), Some("sentinels"));
    let url = group.url();
    let mut link = connect(&url);
    run(&mut link, &[&["SET", "a", "1"]]);
    let old_port = group.master_port();
    let error = refusal(&url.replace("sentinel_password=sentinels", "sentinel_password=wrong"));
    assert_eq!(error.kind, ErrorKind::Auth, "{error}");
    let error = refusal(&url.replace(MASTER_NAME, "unknown"));
    assert_eq!(error.kind, ErrorKind::ReadOnly, "{error}");

    // One sentinel that is down does not matter.
    group.sentinels[0].kill();
    assert_eq!(run(&mut connect(&url), &[&["GET", "a"]]), [Ok(bytes("1"))]);
    group.sentinels.remove(0);

    let master = group.nodes.iter_mut().find(|node| node.port() == old_port).expect("one of ours");
    master.kill();
    let error = link.run(&commands(&[&["SET", "a", "2"]])).expect_err("killed");
    assert_eq!(error.kind, ErrorKind::Broken, "{error}");
    let mut link = until("a link to the new master", || {
        let start = Instant::now();
        let attempt = try_connect(&url);
        assert!(start.elapsed() < ATTEMPT, "{:?}", start.elapsed());
        attempt.ok()
    });
    assert_eq!(kinds(&run(&mut link, &[&["SET", "a", "2"]])), [None]);
    let master = group.wait_for_failover(old_port);
    assert_eq!(master.ask::<String>(&["GET", "a"]), "2");
}

#[test]
fn a_demoted_master_refuses_and_is_not_connected_to_again() {
    let group = Sentinels::start();
    let url = group.url();
    let mut link = connect(&url);
    let old_port = group.master_port();
    group.sentinels[0].ask::<()>(&["SENTINEL", "FAILOVER", MASTER_NAME]);
    let master = group.wait_for_failover(old_port);
    let old = group.nodes.iter().find(|node| node.port() == old_port).expect("one of ours");
    until("the old master is a replica", || {
        // Err: a Redis that is demoted ends the connections of its clients.
        let info: String = redis::cmd("INFO").query(&mut old.connection()).ok()?;
        info.contains("role:slave").then_some(())
    });
    match link.run(&commands(&[&["SET", "a", "1"]])) {
        Ok(replies) => assert_eq!(kinds(&comparable(replies)), [Some(ErrorKind::ReadOnly)]),
        Err(error) => assert_eq!(error.kind, ErrorKind::Broken, "{error}"),
    }
    run(&mut connect(&url), &[&["SET", "a", "1"]]);
    assert_eq!(master.ask::<String>(&["GET", "a"]), "1");
}

#[test]
fn lost_connections_are_closed_before_anything_is_sent() {
    let redis = Redis::start(&[]);
    let cluster = Cluster::start();
    for url in [redis.url(), cluster.url()] {
        let (mut ours, theirs) = (identity("ours"), identity("theirs"));
        let mut lost = connect_from(&ours, &url).expect("connects");
        let mut other = connect_from(&theirs, &url).expect("connects");
        // Ids that now belong to another client are left alone.
        ours.set_lost(other.sessions());
        drop(connect_from(&ours, &url).expect("connects"));
        run(&mut other, &[&["SET", "a", "1"], &["SET", "b", "1"], &["SET", "c", "1"]]);

        ours.set_lost(lost.sessions());
        let mut next = connect_from(&ours, &url).expect("connects");
        // a, b and c are each on a node of their own.
        for key in ["a", "b", "c"] {
            let error = lost.run(&commands(&[&["SET", key, "late"]])).expect_err("ended");
            assert_eq!(error.kind, ErrorKind::Broken, "{error}");
        }
        assert_eq!(run(&mut next, &[&["GET", "a"]]), [Ok(bytes("1"))]);
        // It was lost before, and is closed already.
        drop(connect_from(&ours, &url).expect("connects"));
    }
}

#[test]
fn a_user_without_the_right_to_close_connections_connects() {
    let redis = Redis::with_user("writer", "secret", "~* +@all -client");
    let mut ours = identity("ours");
    let mut lost = connect_from(&ours, &redis.url()).expect("connects");
    ours.set_lost(lost.sessions());
    let mut next = connect_from(&ours, &redis.url()).expect("connects");
    for link in [&mut lost, &mut next] {
        run(link, &[&["SET", "a", "1"]]);
    }
}
