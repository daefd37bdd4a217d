//! One book of incidents for all replicas on a Redis: the same answer from each, one that tells, and it goes on through
//! the death of that one and the loss of Redis' data.

#![allow(clippy::disallowed_methods, reason = "tests bound their waits on real processes")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Launch, Response, Server, now_s, request};
use crate::redis_server::{Cluster, Redis, Sentinels, ask};
use crate::webhook::Webhook;

/// What a busy machine needs for any step: each wait ends as soon as it has happened.
const PATIENCE: Duration = Duration::from_secs(240);
const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Replicas that share what is at this URL.
struct Replicas {
    url: String,
    webhook: Webhook,
    /// Values sent so far.
    sent: u32,
}

impl Replicas {
    fn sharing(url: String) -> Self {
        Self { url, webhook: Webhook::start(), sent: 0 }
    }

    fn start(&self) -> Server {
        let hook = format!("http://127.0.0.1:{}", self.webhook.port);
        let args = [
            "--workers=1",
            "--redis-url",
            &self.url,
            "--incident-interval=100ms",
            // A machine that stalls must not make a device a silent one.
            "--silence-ignore=*",
            "--webhook",
            &hook,
        ];
        Launch { args: &args, ..Launch::default() }.start()
    }

    /// A value, one an interval: the pace is the server's clock of arrivals.
    fn post(&mut self, server: &Server, level: u32) {
        self.sent += 1;
        let rps = level + self.sent * 7 % 10;
        server.ingest(&json!({"device": "ams-1-edge-17", "rps": rps}).to_string()).expect(202);
        std::thread::sleep(Duration::from_millis(105));
    }

    /// Posts values until it is so.
    fn post_until(
        &mut self,
        server: &Server,
        level: u32,
        what: &str,
        is_so: impl Fn(&Server) -> bool,
    ) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(server) {
            assert!(Instant::now() < deadline, "never {what}: {}", server.log_text());
            self.post(server, level);
        }
    }
}

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn list(server: &Server, query: &str) -> Value {
    server.get(&format!("/incidents{query}")).expect(200).json()
}

/// The cluster's incidents, once this replica knows of the others.
fn of_cluster(server: &Server) -> Option<Vec<Value>> {
    let list = list(server, "");
    let is_whole = list["scope"] == "cluster" && list["degradedSince"].is_null();
    is_whole.then(|| list["incidents"].as_array().expect("a list").clone())
}

/// The states of the cluster's incidents with their ids.
fn states(server: &Server) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let all = of_cluster(server).unwrap_or_default();
    all.iter().map(|one| (text(&one["id"]), text(&one["state"]))).collect()
}

fn is_holder(server: &Server) -> bool {
    let scrape = server.get("/metrics").expect(200);
    scrape.text().lines().any(|line| line == "sigmad_cluster_holder 1")
}

/// Notifications that this replica has sent, and noted.
fn told(server: &Server) -> u64 {
    let scrape = server.get("/metrics").expect(200);
    let is_sent = |line: &&str| {
        line.starts_with("sigmad_notifications_total{") && line.contains(r#"result="sent""#)
    };
    let line = scrape.text().lines().find(is_sent).expect("a target");
    line.rsplit(' ').next().and_then(|count| count.parse().ok()).expect("a number")
}

/// Asks until the cluster has done it: where its holder stalls, the answer is 503.
#[track_caller]
fn order(server: &Server, method: &str, path: &str, body: &[u8], status: u16) -> Response {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let fields: &[(&str, &str)] = if body.is_empty() { &[] } else { &[JSON] };
        let answer = server.ask(&request(method, path, fields, body));
        if answer.status != 503 {
            return answer.expect(status);
        }
        assert!(Instant::now() < deadline, "{method} {path} is never done");
    }
}

/// Two replicas that both know of one incident, and its id. The first is the holder, and only the second hears the device.
#[track_caller]
fn with_one_incident(replicas: &mut Replicas) -> (Server, Server, String) {
    let first = replicas.start();
    wait_until("the first is the holder", || is_holder(&first));
    let second = replicas.start();
    wait_until("both hear of each other", || of_cluster(&second).is_some());
    (0..170).for_each(|_| replicas.post(&second, 100));
    let is_open = |server: &Server| states(server).iter().any(|(_, state)| state == "open");
    replicas.post_until(&second, 900, "open", is_open);
    wait_until("the first knows of it", || is_open(&first));
    let id = states(&first).remove(0).0;
    (first, second, id)
}

#[test]
fn replicas_have_one_book_and_one_that_tells() {
    let mut redis = Redis::start(&[]);
    let mut replicas = Replicas::sharing(redis.url());
    let (first, second, id) = with_one_incident(&mut replicas);
    let path = format!("/incidents/{id}");
    let shown = first.get(&path).expect(200).json();
    assert_eq!(shown["suspect"]["device"], "ams-1-edge-17");
    assert_eq!(second.get(&path).expect(200).json()["id"], shown["id"]);
    let local = list(&first, "?scope=local");
    assert_eq!((&local["scope"], &local["incidents"]), (&json!("local"), &json!([])));
    assert_eq!(replicas.webhook.next(), ("opened".to_owned(), id.clone()));
    // What is noted here is in Redis once the holder has done the next order.
    wait_until("it is noted", || told(&first) + told(&second) == 1);

    // What an operator says to one of them, both know once it is answered, or a moment later.
    let ack = br#"{"by":"ann"}"#;
    let acked = order(&second, "POST", &format!("{path}/ack"), ack, 200);
    assert_eq!(acked.json()["state"], "acknowledged");
    assert_eq!(second.get(&path).expect(200).json()["ack"]["by"], "ann");
    wait_until("the first knows of it", || !states(&first).iter().any(|one| one.1 == "open"));
    let silence = json!({"device": "other-*", "endsAt": now_s() + 36_000.0, "createdBy": "ann"});
    let body = silence.to_string().into_bytes();
    let rule = order(&first, "POST", "/silences", &body, 201).json();
    let rules = |server: &Server| -> Vec<Value> {
        let list = server.get("/silences").expect(200).json();
        list["silences"].as_array().expect("a list").clone()
    };
    wait_until("the second has the silence", || rules(&second).contains(&rule));
    // More than one where an answer was late.
    for rule in rules(&second) {
        let path = format!("/silences/{}", rule["id"].as_str().expect("an id"));
        order(&second, "DELETE", &path, b"", 204);
    }
    wait_until("the first has no silence", || rules(&first).is_empty());

    // The one that told dies, and another one goes on with what it knew.
    let mut first = first;
    first.signal(libc::SIGKILL);
    first.wait_exit(PATIENCE).expect("it is killed");
    replicas.post_until(&second, 900, "the second is the holder", is_holder);
    assert_eq!(states(&second), [(id.clone(), "acknowledged".to_owned())]);

    // Redis loses all that it has.
    redis.kill();
    replicas.post_until(&second, 900, "without Redis", |server| {
        list(server, "")["degradedSince"].is_number()
    });
    redis.restart();
    replicas.post_until(&second, 900, "with Redis", |server| of_cluster(server).is_some());
    let third = replicas.start();
    wait_until("the third knows of it", || {
        states(&third) == [(id.clone(), "acknowledged".to_owned())]
    });

    let is_over = |server: &Server| states(server) == [(id.clone(), "resolved".to_owned())];
    replicas.post_until(&second, 100, "resolved", is_over);
    wait_until("the third knows of it", || is_over(&third));
    assert_eq!(replicas.webhook.next(), ("resolved".to_owned(), id.clone()));
    for server in [second, third] {
        let (code, log) = server.stop();
        assert_eq!(code, Some(0), "{log}");
    }
    assert_eq!(replicas.webhook.rest(), [], "nothing is told twice");
}

/// An incident from its opening to its end, with `disturb` between.
#[track_caller]
fn one_incident_through(url: String, disturb: impl FnOnce()) {
    let mut replicas = Replicas::sharing(url);
    let (first, second, id) = with_one_incident(&mut replicas);
    assert_eq!(replicas.webhook.next(), ("opened".to_owned(), id.clone()));
    wait_until("it is noted", || told(&first) + told(&second) == 1);

    disturb();
    // Done by the holder, in Redis as it is now.
    order(&second, "POST", &format!("/incidents/{id}/ack"), br#"{"by":"ann"}"#, 200);
    let are = |server: &Server, state: &str| states(server) == [(id.clone(), state.to_owned())];
    wait_until("the first knows who knows", || are(&first, "acknowledged"));
    replicas.post_until(&second, 100, "resolved", |server| are(server, "resolved"));
    wait_until("the first knows of the end", || are(&first, "resolved"));
    assert_eq!(replicas.webhook.next(), ("resolved".to_owned(), id.clone()));
    for server in [second, first] {
        let (code, log) = server.stop();
        assert_eq!(code, Some(0), "{log}");
    }
    assert_eq!(replicas.webhook.rest(), [], "nothing is told twice");
}

#[test]
fn the_book_follows_its_slot_to_another_node() {
    let cluster = Cluster::start();
    one_incident_through(cluster.url(), || {
        let (slot, from) = (cluster.slot("{sigmad}"), cluster.first_owner("{sigmad}"));
        cluster.migrate(slot, from, (from + 1) % cluster.nodes.len());
    });
}

#[test]
fn the_book_goes_on_with_the_new_master() {
    let group = Sentinels::start();
    one_incident_through(group.url(), || {
        let old_port = group.master_port();
        // The other one has all that was written before.
        let mut master = group.master().connection();
        ask::<()>(&mut master, &["SET", "last", "1"]);
        assert_eq!(ask::<i64>(&mut master, &["WAIT", "1", "0"]), 1);
        group.fail_over(old_port);
    });
}

#[test]
fn without_incidents_there_is_no_cluster_of_them() {
    let redis = Redis::start(&[]);
    let args = ["--redis-url", &redis.url(), "--workers=1", "--incidents=off"];
    let server = Launch { args: &args, ..Launch::default() }.start();
    let list = list(&server, "");
    assert_eq!((&list["scope"], list.get("degradedSince")), (&json!("local"), None));
}
