//! The Redis of the simulation (`tests/simulation/keyspace.rs`) against a real one: the same random commands and
//! scripts get the same replies.

#![allow(clippy::disallowed_methods, reason = "tests bound their waits on real processes")]

use crate::keyspace::{Command, Keyspace};
use crate::random::Random;
use crate::redis_server::Redis;
use mlua::Lua;
use redis::Value;

/// Commands of one sequence: enough that keys are made, filled, trimmed, emptied and of the wrong type.
const COMMANDS: usize = 600;
const SEQUENCES: u64 = 20;
/// Far past the present, so that numbers of changes do not depend on the time.
const CHANGE: &str = "8000000000000000";
const MARK: &str = include_str!("../../src/store/scripts/mark.lua");
const STATES: &str = include_str!("../../src/store/scripts/states.lua");
const FOLD: &str = include_str!("../../src/store/scripts/fold.lua");

fn command(parts: &[&str]) -> Command {
    parts.iter().map(|part| part.as_bytes().to_vec()).collect()
}

/// One command that the store sends, or that another client might.
fn draw(random: &mut Random) -> Command {
    let key = |random: &mut Random| format!("k{}", random.below(6));
    let member = |random: &mut Random| match random.below(12) {
        // Fields of replicas, which the scripts look for.
        0..=2 => random.pick(&["0000000a", "0000000b", "past"]).to_owned(),
        3..=5 => random.pick(&["0000000a:rps", "0000000b:rps", "past:rps"]).to_owned(),
        other => format!("m{other}"),
    };
    let rank = |random: &mut Random| (random.below(15) as i64 - 7).to_string();
    let score = |random: &mut Random| random.pick(&["-inf", "0", "(2", "3", "5.5", "(7", "+inf"]);
    let number = |random: &mut Random| random.below(9).to_string();
    let (key, field) = (key(random), member(random));
    let (low, high) = (rank(random), rank(random));
    let parts: Vec<String> = match random.below(20) {
        0 => vec!["SET".into(), key, field, "EX".into(), "100".into()],
        1 => vec!["GET".into(), key],
        2..=5 => vec!["ZADD".into(), key, number(random), field, number(random), member(random)],
        6 => vec!["ZREMRANGEBYRANK".into(), key, low, high],
        7 => vec!["ZREMRANGEBYSCORE".into(), key, score(random).into(), score(random).into()],
        8 => vec!["ZRANGE".into(), key, low, high, "WITHSCORES".into()],
        9 => {
            let mut parts =
                vec!["ZRANGEBYSCORE".into(), key, score(random).into(), score(random).into()];
            let limit = ["WITHSCORES", "LIMIT", "1", "3"].map(str::to_owned);
            parts.extend(limit.into_iter().take(random.pick(&[0, 1, 4])));
            parts
        }
        10 | 11 => vec!["HSET".into(), key, field, counts(random), member(random), counts(random)],
        12 => vec!["HDEL".into(), key, field, member(random)],
        13 => vec!["HGETALL".into(), key],
        14 => vec![random.pick(&["HLEN", "ZCARD", "EXISTS", "DEL"]).into(), key],
        15 => vec!["PEXPIRE".into(), key, "100000".into()],
        16 => mark(random),
        17 => states(random, key),
        18 => vec!["HGET".into(), key, random.pick(&["", "m4"]).into()],
        _ => {
            vec!["EVAL".into(), FOLD.into(), "1".into(), key, "0000000a".into(), "0000000b".into()]
        }
    };
    parts.into_iter().map(String::into_bytes).collect()
}

fn counts(random: &mut Random) -> String {
    let parts: Vec<_> = (0..random.pick(&[2, 4])).map(|_| random.below(99).to_string()).collect();
    parts.join(":")
}

/// The script of the store, on keys of any type and with any cursor.
fn mark(random: &mut Random) -> Vec<String> {
    let cursor = (8_000_000_000_000_000 + random.within(0..30)).to_string();
    let page = random.pick(&["1", "2", "4000"]).to_owned();
    let (hour, most) = ("3600000".to_owned(), random.pick(&["3", "8"]).to_owned());
    let keys = ["change", "changed", "windows", "alive"].map(str::to_owned);
    let mut parts = vec!["EVAL".to_owned(), MARK.to_owned(), "4".to_owned()];
    parts.extend(keys);
    parts.extend([cursor, page, hour.clone(), most, "50".to_owned(), hour, "0000000a".to_owned()]);
    parts.extend((0..random.below(4)).map(|_| format!("device-{}", random.below(9))));
    parts
}

/// Detector states of a device, also on keys of other types and of a newer version.
fn states(random: &mut Random, key: String) -> Vec<String> {
    let header = random.pick(&["", "1:0000000a:7", "3:later"]).to_owned();
    let parts = ["EVAL", STATES, "1", &key, random.pick(&["1", "2"]), random.pick(&["0", "1"])];
    let mut parts: Vec<String> = parts.map(str::to_owned).into();
    parts.extend(["3600000".to_owned(), header]);
    for at in 0..random.below(3) {
        parts.extend([format!("m{at}"), format!("states {}", random.below(9))]);
    }
    parts
}

/// What of a reply must be the same. Fields have no order, the text of an error and the time are of no account.
fn comparable(command: &Command, reply: Result<Value, String>) -> String {
    let reply = match reply {
        Err(error) => return error.split(' ').next().unwrap_or("").to_owned(),
        Ok(reply) => reply,
    };
    match reply {
        Value::Array(mut parts) if command[0] == b"EVAL" => {
            parts.truncate(3);
            format!("{parts:?}")
        }
        Value::Array(parts) if command[0] == b"HGETALL" => {
            let mut pairs: Vec<_> = parts.chunks(2).map(|pair| format!("{pair:?}")).collect();
            pairs.sort();
            pairs.join(" ")
        }
        reply => format!("{reply:?}"),
    }
}

#[test]
fn the_simulated_redis_replies_as_a_real_one() {
    let redis = Redis::start(&[]);
    let mut connection = redis.connection();
    let lua = Lua::new();
    for seed in 0..SEQUENCES {
        let mut random = Random::new(seed);
        let mut model = Keyspace::default();
        model.time_us = 1_766_000_000_000_000;
        let mut real = |command: &Command| {
            let name = String::from_utf8_lossy(&command[0]).into_owned();
            let mut cmd = redis::cmd(&name);
            command[1..].iter().for_each(|part| _ = cmd.arg(&part[..]));
            let reply: redis::RedisResult<Value> = cmd.query(&mut connection);
            reply.map_err(|error| error.code().unwrap_or("ERR").to_owned())
        };
        real(&command(&["FLUSHALL"])).expect("it is our own");
        let first = command(&["SET", "change", CHANGE]);
        let start = (real(&first).is_ok(), model.execute(&lua, &first).is_ok());
        assert_eq!(start, (true, true));
        for at in 0..COMMANDS {
            let command = draw(&mut random);
            let expected = comparable(&command, real(&command));
            let found = comparable(&command, model.execute(&lua, &command));
            let text: Vec<_> = command.iter().map(|part| String::from_utf8_lossy(part)).collect();
            assert_eq!(found, expected, "seed {seed}, command {at}: {text:?}");
        }
    }
}
