//! Replicas that have a disk as well: what each has learned outlives its process, and Redis has the windows of all.

use crate::handover::{
    alone, findings, ids, kill, post, received, replica_with, taken_over, until, waits, written,
};
use crate::harness::Server;
use crate::redis_server::{Directory, Redis};

const DEVICE: &str = "edge-1";

/// A replica on a disk. What it acknowledges is on that, so that a kill loses nothing of it.
fn on_disk(redis: &Redis, disk: &Directory, name: &str) -> Server {
    sharded(redis, disk, name, 1)
}

/// The same with so many analytics threads.
fn sharded(redis: &Redis, disk: &Directory, name: &str, shards: usize) -> Server {
    let (path, shards) = (disk.file(name).display().to_string(), shards.to_string());
    let flags = ["--ack", "disk", "--state-dir", &path, "--analytics", &shards];
    let server = replica_with(redis, &flags);
    server.wait_for_log(&["\"restored\""]).expect("a line");
    server
}

/// Samples of a device, or of all, that all replicas have counted.
fn count(server: &Server, device: Option<&str>) -> Option<u64> {
    let of = device.map_or_else(String::new, |device| format!("?device={device}"));
    server.get(&format!("/analyze{of}")).expect(200).json()["totalCount"].as_u64()
}

#[track_caller]
fn is_as_alone(alone: &Server, replica: &Server, device: &str) {
    let expected = findings(alone, device);
    until("its detectors say the same", || findings(replica, device) == expected);
}

#[track_caller]
fn counts(server: &Server, device: Option<&str>, samples: u64) {
    until(&format!("{samples} of {device:?} are counted"), || {
        count(server, device) == Some(samples)
    });
}

/// Samples that Redis has of a replica.
fn own_count(redis: &Redis, id: &str) -> Option<u64> {
    let counts: Option<String> = redis.ask(&["HGET", &format!("sigmad:{{{DEVICE}}}:counts"), id]);
    counts?.split(':').nth(2)?.parse().ok()
}

#[test]
fn a_replica_that_is_killed_goes_on_as_the_same() {
    [1, 2].into_iter().for_each(goes_on_as_the_same);
}

fn goes_on_as_the_same(shards: usize) {
    let (redis, disk) = (Redis::start(&[]), Directory::new());
    let (alone, mut server) = (alone(), sharded(&redis, &disk, "a", shards));
    let id = ids(&redis).pop().expect("it says that it lives");
    let mut at = 0;
    for until_at in [300, 330, 600] {
        post(&alone, DEVICE, at..until_at);
        post(&server, DEVICE, at..until_at);
        written(&server);
        kill(&mut server);
        server = sharded(&redis, &disk, "a", shards);
        is_as_alone(&alone, &server, DEVICE);
        counts(&server, Some(DEVICE), until_at);
        counts(&server, None, until_at);
        at = until_at;
    }
    assert_eq!(ids(&redis), std::slice::from_ref(&id));
    post(&alone, DEVICE, at..at + 10);
    post(&server, DEVICE, at..at + 10);
    is_as_alone(&alone, &server, DEVICE);
    until("Redis has all", || own_count(&redis, &id) == Some(at + 10));
    // It was the owner before, so it waits for nobody.
    assert_eq!((waits(&server, "unknown"), waits(&server, "late")), (1, 0));
}

/// The next replica asks for states while the one that has them is away.
#[test]
fn states_on_a_disk_go_to_the_replica_that_waits_for_them() {
    let (redis, disk) = (Redis::start(&[]), Directory::new());
    let (alone, mut first) = (alone(), on_disk(&redis, &disk, "a"));
    let first_id = ids(&redis).pop().expect("it says that it lives");
    post(&alone, DEVICE, 0..340);
    post(&first, DEVICE, 0..300);
    written(&first);
    taken_over(&redis, DEVICE, &first_id);
    let second = on_disk(&redis, &disk, "b");
    // Nobody takes it for dead while it starts, however long that lasts.
    let mut as_first = redis.connection();
    let name = format!("sigmad-{first_id}");
    let named = redis::cmd("CLIENT").arg("SETNAME").arg(name).query::<()>(&mut as_first);
    named.expect("it takes a name");
    kill(&mut first);
    post(&second, DEVICE, 300..340);
    until("it has taken the device over", || {
        let owner: String = redis.ask(&["HGET", "sigmad:{edge-1}:counts", "owner"]);
        owner.ends_with(&first_id)
    });
    let first = on_disk(&redis, &disk, "a");
    received(&second, 1);
    is_as_alone(&alone, &second, DEVICE);
    // And back.
    post(&alone, DEVICE, 340..350);
    post(&first, DEVICE, 340..350);
    received(&first, 1);
    is_as_alone(&alone, &first, DEVICE);
    counts(&first, Some(DEVICE), 350);
}

#[test]
fn a_redis_without_data_gets_what_the_disk_has() {
    let (redis, disk) = (Redis::start(&[]), Directory::new());
    let (alone, mut server) = (alone(), on_disk(&redis, &disk, "a"));
    let id = ids(&redis).pop().expect("it says that it lives");
    post(&alone, DEVICE, 0..300);
    post(&server, DEVICE, 0..300);
    written(&server);
    kill(&mut server);
    redis.ask::<()>(&["FLUSHALL"]);
    let server = on_disk(&redis, &disk, "a");
    counts(&server, Some(DEVICE), 300);
    is_as_alone(&alone, &server, DEVICE);
    post(&alone, DEVICE, 300..310);
    post(&server, DEVICE, 300..310);
    is_as_alone(&alone, &server, DEVICE);
    counts(&server, Some(DEVICE), 310);
    until("Redis has all counts", || own_count(&redis, &id) == Some(310));
}

#[test]
fn a_replica_whose_disk_is_lost_is_another_one() {
    let (redis, disk) = (Redis::start(&[]), Directory::new());
    let (alone, server) = (alone(), on_disk(&redis, &disk, "a"));
    post(&alone, DEVICE, 0..310);
    post(&server, DEVICE, 0..300);
    written(&server);
    assert_eq!(server.stop().0, Some(0));
    let server = on_disk(&redis, &disk, "b");
    counts(&server, Some(DEVICE), 300);
    post(&server, DEVICE, 300..310);
    received(&server, 1);
    is_as_alone(&alone, &server, DEVICE);
    counts(&server, Some(DEVICE), 310);
    until("the other one is among those that lived", || ids(&redis).len() == 2);
}

#[test]
fn three_replicas_with_a_disk_each_count_nothing_twice() {
    let (redis, disk) = (Redis::start(&[]), Directory::new());
    let (alone, names) = (alone(), ["a", "b", "c"]);
    let start = || [1, 2, 3].map(|shards| sharded(&redis, &disk, names[shards - 1], shards));
    let mut servers = start();
    for round in 0..2 {
        let values = round * 200..(round + 1) * 200;
        for (server, device) in servers.iter().zip(names) {
            post(&alone, device, values.clone());
            post(server, device, values.clone());
        }
        servers.iter().for_each(written);
        // One that ends goes on by its last snapshot, one that is killed by its journal.
        match round {
            0 => servers.iter_mut().for_each(kill),
            _ => servers.into_iter().for_each(|server| assert_eq!(server.stop().0, Some(0))),
        }
        servers = start();
        for server in &servers {
            counts(server, None, 3 * values.end);
            names.iter().for_each(|device| counts(server, Some(device), values.end));
        }
        for (server, device) in servers.iter().zip(names) {
            is_as_alone(&alone, server, device);
        }
    }
    assert_eq!(ids(&redis).len(), 3);
}
