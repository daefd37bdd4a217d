//! The keys and commands of the thread `replicas`, and their replies. No I/O.

use std::collections::BTreeMap;

use redis::{Cmd, Pipeline, RedisWrite, Value};
use sigmad_incidents::shared::heard::Replica;

use super::lease::{LEASE_MS, Take};
use super::packed;
use crate::shared_history::BLOCKS_KEPT;
use crate::store::keys::{self, CountSource, ReplicaCounters, ReplicaId};
use crate::store::reply::Reply;

// All have one hash tag: a cluster of Redis has them on one node, and scripts may use several.
const LEASE: &str = "{sigmad}:incidents:lease";
const TERM: &str = "{sigmad}:incidents:term";
const REPLICAS: &str = "{sigmad}:incidents:replicas";
const VERSION: &str = "{sigmad}:incidents:version";
const BOOK: &str = "{sigmad}:incidents:book";
const ORDERS: &str = "{sigmad}:incidents:orders";
const ORDER: &str = "{sigmad}:incidents:order";
const TOLD: &str = "{sigmad}:incidents:told";
/// The blocks of recorded history, by the time of their last change.
const BLOCKS: &str = "{sigmad}:history:blocks";
/// Followed by the number of a block: the page of each replica.
const BLOCK: &str = "{sigmad}:history:block:";
/// Followed by the id of a replica.
const CLAIMS: &str = "{sigmad}:incidents:claims:";

const TURN: &str = include_str!("scripts/turn.lua");
const COMMIT: &str = include_str!("scripts/commit.lua");
const PUSH_ORDER: &str = include_str!("scripts/order.lua");
const KEEP_TOLD: &str = include_str!("scripts/told.lua");
const LEAVE: &str = include_str!("scripts/leave.lua");

/// Life of the claims of a replica, unless it states them again.
const CLAIMS_MS: u64 = 60_000;
/// A replica that has not stated anything for this long has ended. Longer than the lease and an attempt to connect.
pub const LEFT_MS: u64 = 15_000;
/// Life of the book: the incidents of the last month, as long as any replica changes one.
const BOOK_MS: u64 = 30 * 24 * 3_600_000;
/// Life of an order: the holder of the lease looks twice a second.
const ORDERS_MS: u64 = 60_000;
/// Life of a block of history after its last change: a day and an hour.
const BLOCK_MS: u64 = 25 * 3_600_000;
/// Orders that wait in Redis.
const ORDERS_MAX: usize = 256;

/// The commands of one replica.
#[derive(Clone, Debug)]
pub struct Commands {
    own: ReplicaId,
    claims_key: String,
}

/// The reply to a turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TurnReply {
    /// Redis' time, in microseconds since 1970.
    pub now_us: i64,
    /// Nobody has the lease.
    pub is_free: bool,
    /// The term of this replica, if it has the lease.
    pub term: Option<u64>,
    /// The version of the book, if there is one.
    pub version: Option<u64>,
    /// What this replica claims is in Redis.
    pub has_claims: bool,
    /// The replicas that live, and the versions of their claims; for the holder of the lease.
    pub replicas: Vec<(ReplicaId, u64)>,
}

impl Commands {
    /// Those of that replica.
    pub fn new(own: ReplicaId) -> Self {
        Self { own, claims_key: format!("{CLAIMS}{own}") }
    }

    /// Writes what this replica claims.
    pub fn state(&self, claims: &[u8]) -> Cmd {
        let mut cmd = redis::cmd("SET");
        cmd.arg(&self.claims_key).arg(claims).arg("PX").arg(CLAIMS_MS);
        cmd
    }

    /// One turn: says that this replica lives, and renews or takes the lease.
    pub fn turn(&self, claims: u64, take: Take) -> Cmd {
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(TURN).arg(5).arg(LEASE).arg(TERM).arg(REPLICAS).arg(VERSION).arg(&self.claims_key);
        cmd.arg(self.own.as_str()).arg(LEASE_MS).arg(claims).arg(take.argument());
        cmd.arg(BOOK_MS).arg(LEFT_MS);
        cmd
    }

    fn lease(&self, term: u64) -> String {
        format!("{}:{term}", self.own)
    }

    /// Writes the book, unless another replica has the lease.
    pub fn commit(&self, term: u64, book: &[u8], orders_done: usize) -> Cmd {
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(COMMIT).arg(4).arg(LEASE).arg(BOOK).arg(VERSION).arg(ORDERS);
        cmd.arg(self.lease(term)).arg(book).arg(BOOK_MS).arg(orders_done);
        cmd
    }

    /// Writes what targets were told, unless another replica has the lease.
    pub fn keep_told(&self, term: u64, notes: &[(String, Vec<u8>)]) -> Cmd {
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(KEEP_TOLD).arg(2).arg(LEASE).arg(TOLD).arg(self.lease(term)).arg(BOOK_MS);
        for (target, note) in notes {
            cmd.arg(target).arg(packed::pack(note));
        }
        cmd
    }

    /// Gives up the lease, and what this replica claims.
    pub fn leave(&self, term: Option<u64>) -> Cmd {
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(LEAVE).arg(3).arg(LEASE).arg(REPLICAS).arg(&self.claims_key);
        cmd.arg(self.own.as_str()).arg(term.map_or_else(String::new, |term| self.lease(term)));
        cmd
    }
}

/// Reads the version of the book and the book.
pub fn read_book() -> Cmd {
    let mut cmd = redis::cmd("MGET");
    cmd.arg(VERSION).arg(BOOK);
    cmd
}

/// Reads what a replica claims.
pub fn read_claims(replica: ReplicaId) -> Cmd {
    let mut cmd = redis::cmd("GET");
    cmd.arg(format!("{CLAIMS}{replica}"));
    cmd
}

/// Reads what targets were told.
pub fn read_told() -> Cmd {
    let mut cmd = redis::cmd("HGETALL");
    cmd.arg(TOLD);
    cmd
}

/// Reads the orders that wait.
pub fn read_orders() -> Cmd {
    let mut cmd = redis::cmd("LRANGE");
    cmd.arg(ORDERS).arg(0).arg(ORDERS_MAX - 1);
    cmd
}

/// Adds an order.
pub fn push_order(order: &[u8]) -> Cmd {
    let mut cmd = redis::cmd("EVAL");
    cmd.arg(PUSH_ORDER).arg(2).arg(ORDERS).arg(ORDER).arg(order).arg(ORDERS_MAX).arg(ORDERS_MS);
    cmd
}

/// Reads when each replica heard a device, or anybody, last.
pub fn read_heard(device: Option<&str>) -> Cmd {
    let mut key = Vec::new();
    keys::write_counts_key(&mut key, device);
    let mut cmd = redis::cmd("HGETALL");
    cmd.write_arg(&key);
    cmd
}

/// Writes a page of recorded history.
pub fn write_page(pipeline: &mut Pipeline, own: ReplicaId, block: u32, page: &[u8], redis_us: i64) {
    let key = format!("{BLOCK}{block}");
    let mut set = redis::cmd("HSET");
    set.arg(&key).arg(own.as_str()).arg(page);
    let mut expire = redis::cmd("PEXPIRE");
    expire.arg(&key).arg(BLOCK_MS);
    let mut list = redis::cmd("ZADD");
    list.arg(BLOCKS).arg(redis_us).arg(block);
    let mut shorten = redis::cmd("ZREMRANGEBYRANK");
    // Those that Redis has forgotten, and no others: several may change at a time.
    shorten.arg(BLOCKS).arg(0).arg(-2 * BLOCKS_KEPT as i64);
    let mut expire_list = redis::cmd("PEXPIRE");
    expire_list.arg(BLOCKS).arg(BLOCK_MS);
    for command in [set, expire, list, shorten, expire_list] {
        pipeline.add_command(command);
    }
}

/// Reads which blocks have changed since a time of Redis.
pub fn changed_blocks(since_us: i64) -> Cmd {
    let mut cmd = redis::cmd("ZRANGEBYSCORE");
    cmd.arg(BLOCKS).arg(since_us).arg("+inf");
    cmd
}

/// Reads the pages of a block.
pub fn read_pages(block: u32) -> Cmd {
    let mut cmd = redis::cmd("HGETALL");
    cmd.arg(format!("{BLOCK}{block}"));
    cmd
}

/// The numbers of blocks.
pub fn blocks_reply(reply: &Reply) -> Vec<u32> {
    let Reply::Strings(strings) = reply else { return Vec::new() };
    strings.iter().filter_map(|block| str::from_utf8(block).ok()?.parse().ok()).collect()
}

/// The pages of a block by replica, as they were packed.
pub fn pages_reply(reply: &Reply) -> Vec<(ReplicaId, &[u8])> {
    let Reply::Strings(strings) = reply else { return Vec::new() };
    let (mut strings, mut pages) = (strings.iter(), Vec::new());
    while let (Some(replica), Some(page)) = (strings.next(), strings.next()) {
        if let Some(replica) = ReplicaId::read(replica) {
            pages.push((replica, page));
        }
    }
    pages
}

/// A replica as a number.
pub fn number(replica: ReplicaId) -> Replica {
    Replica::from(replica.number())
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => str::from_utf8(bytes).ok(),
        _ => None,
    }
}

fn optional(text: &str) -> Option<u64> {
    text.parse().ok()
}

/// None for what the script never returns.
pub fn turn_reply(reply: Reply) -> Option<TurnReply> {
    let Value::Array(parts) = reply.into_value() else { return None };
    let [now, lease, term, version, Value::Int(has_claims), Value::Array(replicas)] = &parts[..]
    else {
        return None;
    };
    let replicas = replicas.chunks_exact(2).filter_map(|pair| {
        let replica = ReplicaId::read(text(&pair[0])?.as_bytes())?;
        let (version, _) = text(&pair[1])?.split_once(':')?;
        Some((replica, version.parse().ok()?))
    });
    Some(TurnReply {
        now_us: text(now)?.parse().ok()?,
        is_free: text(lease)?.is_empty(),
        term: optional(text(term)?),
        version: optional(text(version)?),
        has_claims: *has_claims == 1,
        replicas: replicas.collect(),
    })
}

/// The number that a script returns; None for an empty text.
pub fn number_reply(reply: Reply) -> Option<u64> {
    optional(text(&reply.into_value())?)
}

/// The version of the book, and the book. None inside where there is none.
pub fn book_reply(reply: Reply) -> Option<(u64, Vec<u8>)> {
    let Value::Array(parts) = reply.into_value() else { return None };
    match <[Value; 2]>::try_from(parts).ok()? {
        [version, Value::BulkString(book)] => Some((optional(text(&version)?)?, book)),
        _ => None,
    }
}

/// The bytes of a string; None where there is none.
pub fn bytes_reply(reply: Reply) -> Option<Vec<u8>> {
    match reply.into_value() {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

/// What each target was told, without notes that are damaged.
pub fn told_reply(reply: &Reply) -> BTreeMap<String, Vec<u8>> {
    let Reply::Strings(strings) = reply else { return BTreeMap::new() };
    let (mut strings, mut told) = (strings.iter(), BTreeMap::new());
    while let (Some(target), Some(note)) = (strings.next(), strings.next()) {
        if let Some(note) = packed::unpack(note) {
            told.insert(String::from_utf8_lossy(target).into_owned(), note);
        }
    }
    told
}

/// Orders with their numbers; None for what sigmad does not write. They are all removed.
pub fn orders_reply(reply: Reply) -> Vec<Option<(u64, Vec<u8>)>> {
    let read = |order: Value| {
        let Value::BulkString(bytes) = order else { return None };
        let colon = bytes.iter().position(|byte| *byte == b':')?;
        let number = str::from_utf8(&bytes[..colon]).ok()?.parse().ok()?;
        Some((number, bytes[colon + 1..].to_vec()))
    };
    match reply.into_value() {
        Value::Array(orders) => orders.into_iter().map(read).collect(),
        _ => Vec::new(),
    }
}

/// When each replica heard a device last. A time after `now_us` is of a clock that was wrong.
pub fn heard_reply(reply: &Reply, now_us: i64) -> Vec<(Replica, i64)> {
    let Reply::Strings(strings) = reply else { return Vec::new() };
    let (mut strings, mut heard) = (strings.iter(), Vec::new());
    while let (Some(field), Some(value)) = (strings.next(), strings.next()) {
        if let Some((CountSource::Replica(replica), None)) = keys::read_field(field)
            && let Some(counters) = ReplicaCounters::read(value)
            && counters.time_us <= now_us
        {
            heard.push((number(replica), counters.time_us));
        }
    }
    heard
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn replies_of_scripts_are_read_and_foreign_ones_are_left_out() {
        let replicas = ["0000000a", "7:5", "not-an-id", "8:5", "0000000b", "no number"];
        let replicas = Value::Array(replicas.map(bytes).to_vec());
        let parts =
            vec![bytes("17"), bytes("0000000a:9"), bytes("9"), bytes(""), Value::Int(1), replicas];
        let own = ReplicaId::new(10);
        let expected = TurnReply {
            now_us: 17,
            is_free: false,
            term: Some(9),
            version: None,
            has_claims: true,
            replicas: vec![(own, 7)],
        };
        assert_eq!(turn_reply(Value::Array(parts.clone()).into()), Some(expected));
        assert_eq!(turn_reply(Value::Array(parts[1..].to_vec()).into()), None);
        assert_eq!(number(own), 10);
        assert_eq!([bytes("5"), bytes("")].map(|one| number_reply(one.into())), [Some(5), None]);
        let book = |parts: Vec<Value>| book_reply(Value::Array(parts).into());
        assert_eq!(book(vec![bytes("5"), bytes("b")]), Some((5, b"b".to_vec())));
        assert_eq!(book(vec![Value::Nil, Value::Nil]), None);
        let orders = Value::Array(vec![bytes("5:a:b"), bytes("x"), bytes("y:z")]);
        assert_eq!(orders_reply(orders.into()), [Some((5, b"a:b".to_vec())), None, None]);
    }

    #[test]
    fn who_heard_a_device_is_read_from_its_counts() {
        let fields = ["0000000a", "40:9:3:0", "0000000a:rps", "3:0", "past", "50:9:3:0"];
        let late = ["0000000b", "60:9:3:0", "0000000c", "61:9:3:0", "foreign", "?"];
        let reply = Value::Array(fields.into_iter().chain(late).map(bytes).collect());
        assert_eq!(heard_reply(&reply.into(), 60), [(10, 40), (11, 60)]);
    }

    #[test]
    fn notes_that_are_damaged_are_left_out() {
        let note = Value::BulkString(packed::pack(b"told"));
        let reply = Value::Array(vec![bytes("a"), note, bytes("b"), bytes("?")]);
        assert_eq!(told_reply(&reply.into()), [("a".to_owned(), b"told".to_vec())].into());
    }
}
