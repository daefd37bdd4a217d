//! Every way to reach Redis, and every way in which it refuses, against real processes.

mod redis_server;

use std::time::Duration;

use redis_server::{Cluster, Redis, Sentinels, ask};

#[test]
fn the_harness_starts_what_it_says() {
    let mut redis = Redis::with_password("s3cret");
    redis.ask::<()>(&["SET", "a", "1"]);
    redis.stop();
    redis.restart();
    assert_eq!(redis.ask::<u32>(&["DBSIZE"]), 0);
    redis.restart_loading(Duration::from_secs(1));
    let user = Redis::with_user("sigmad", "p", "~* +@all");
    assert_eq!(user.ask::<String>(&["ACL", "WHOAMI"]), "sigmad");
    let tls = Redis::with_tls();
    assert_eq!(tls.ask::<String>(&["PING"]), "PONG");
    let cluster = Cluster::start();
    let key = "a";
    let owner = cluster.first_owner(key);
    cluster.nodes[owner].ask::<()>(&["SET", key, "1"]);
    cluster.migrate(cluster.slot(key), owner, (owner + 1) % 3);
    let moved = &cluster.nodes[(owner + 1) % 3];
    assert_eq!(ask::<String>(&mut moved.connection(), &["GET", key]), "1");
    let mut group = Sentinels::start_with(Some("s3cret"), Some("sentinel"));
    let port = group.master_port();
    group.nodes[0].kill();
    assert_ne!(group.wait_for_failover(port).port(), port);
}
