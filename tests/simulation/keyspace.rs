//! The data of one simulated Redis, and the commands on it.
//!
//! Scripts are not modelled: the text that the store sends runs in Lua 5.1, as in Redis. Maps are ordered, so that
//! a replay gives the same replies.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mlua::{Lua, Value as LuaValue, Variadic};
use redis::Value;

/// A command: its name and its arguments.
pub type Command = Vec<Vec<u8>>;

/// The keys of one Redis.
#[derive(Clone, Debug, Default)]
pub struct Keyspace {
    keys: BTreeMap<Vec<u8>, Entry>,
    /// The time of the present command, by this Redis' clock.
    pub time_us: i64,
    /// Writes since the last look, for the replicas; scripts are replicated by their effects.
    pub effects: Vec<Command>,
}

#[derive(Clone, Debug)]
struct Entry {
    data: Data,
    expires_us: Option<i64>,
}

#[derive(Clone, Debug)]
enum Data {
    Text(Vec<u8>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    Sorted(SortedSet),
    /// The last id.
    Stream((u64, u64)),
}

#[derive(Clone, Debug, Default)]
struct SortedSet {
    scores: HashMap<Vec<u8>, f64>,
    ranked: BTreeSet<(Score, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Score(f64);

impl Eq for Score {}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl SortedSet {
    fn insert(&mut self, member: &[u8], score: f64) -> bool {
        let old = self.scores.insert(member.to_vec(), score);
        if let Some(old) = old {
            self.ranked.remove(&(Score(old), member.to_vec()));
        }
        self.ranked.insert((Score(score), member.to_vec()));
        old.is_none()
    }

    fn remove(&mut self, member: &[u8]) -> bool {
        let Some(score) = self.scores.remove(member) else { return false };
        self.ranked.remove(&(Score(score), member.to_vec()))
    }

    /// Members of ranks `first` to `last`, which count from the end if negative.
    fn by_rank(&self, first: i64, last: i64) -> Vec<(f64, Vec<u8>)> {
        let len = self.ranked.len() as i64;
        let absolute = |rank: i64| if rank < 0 { (rank + len).max(-1) } else { rank };
        let (first, last) = (absolute(first).max(0), absolute(last).min(len - 1));
        let count = (last - first + 1).max(0) as usize;
        let found = self.ranked.iter().skip(first as usize).take(count);
        found.map(|(score, member)| (score.0, member.clone())).collect()
    }

    fn by_score(&self, low: Bound, high: Bound) -> impl Iterator<Item = (f64, Vec<u8>)> + '_ {
        let within = move |score: f64| low.is_below(score) && high.is_above(score);
        let found = self.ranked.iter().filter(move |(score, _)| within(score.0));
        found.map(|(score, member)| (score.0, member.clone()))
    }
}

/// One end of a range of scores.
#[derive(Clone, Copy)]
struct Bound {
    score: f64,
    is_open: bool,
}

impl Bound {
    fn read(text: &[u8]) -> Option<Self> {
        let text = str::from_utf8(text).ok()?;
        let (text, is_open) = text.strip_prefix('(').map_or((text, false), |text| (text, true));
        Some(Self { score: read_score(text)?, is_open })
    }

    fn is_below(self, score: f64) -> bool {
        if self.is_open { self.score < score } else { self.score <= score }
    }

    fn is_above(self, score: f64) -> bool {
        if self.is_open { self.score > score } else { self.score >= score }
    }
}

fn read_score(text: &str) -> Option<f64> {
    match text {
        "+inf" | "inf" => Some(f64::INFINITY),
        "-inf" => Some(f64::NEG_INFINITY),
        text => text.parse().ok(),
    }
}

fn score_text(score: f64) -> Vec<u8> {
    if score.fract() == 0.0 && score.abs() < 1e17 {
        format!("{score:.0}").into_bytes()
    } else {
        score.to_string().into_bytes()
    }
}

/// True for a command that a replica refuses.
pub fn is_write(name: &str) -> bool {
    matches!(
        name,
        "SET"
            | "DEL"
            | "UNLINK"
            | "ZADD"
            | "ZREM"
            | "ZREMRANGEBYRANK"
            | "ZREMRANGEBYSCORE"
            | "HSET"
            | "HDEL"
            | "XADD"
            | "PEXPIRE"
            | "EXPIRE"
            | "EVAL"
    )
}

/// The name of a command in capitals.
pub fn name_of(command: &[Vec<u8>]) -> String {
    command
        .first()
        .map_or_else(String::new, |name| String::from_utf8_lossy(name).to_ascii_uppercase())
}

const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
const SYNTAX: &str = "ERR syntax error";

fn bulk(text: impl Into<Vec<u8>>) -> Value {
    Value::BulkString(text.into())
}

/// Finds the data of a key, or makes it; a key of another type is refused.
macro_rules! data {
    ($keys:expr, $key:expr, $kind:ident, $empty:expr) => {
        match &mut $keys
            .entry($key.to_vec())
            .or_insert_with(|| Entry { data: Data::$kind($empty), expires_us: None })
            .data
        {
            Data::$kind(data) => data,
            _ => return Err(WRONG_TYPE.into()),
        }
    };
}

/// Finds the data of a key without making it.
macro_rules! found {
    ($keys:expr, $key:expr, $kind:ident) => {
        match $keys.get_mut($key).map(|entry| &mut entry.data) {
            None => None,
            Some(Data::$kind(data)) => Some(data),
            Some(_) => return Err(WRONG_TYPE.into()),
        }
    };
}

impl Keyspace {
    /// The members of a sorted set, in order; for the laws.
    pub fn members(&mut self, key: &str) -> Vec<Vec<u8>> {
        match self.live(key.as_bytes()).map(|entry| &entry.data) {
            Some(Data::Sorted(set)) => {
                set.ranked.iter().map(|(_, member)| member.clone()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The value of a field; for the laws.
    pub fn field(&mut self, key: &[u8], field: &[u8]) -> Option<Vec<u8>> {
        match self.live(key).map(|entry| &entry.data) {
            Some(Data::Hash(hash)) => hash.get(field).cloned(),
            _ => None,
        }
    }

    /// True when the key exists.
    pub fn has(&mut self, key: &str) -> bool {
        self.live(key.as_bytes()).is_some()
    }

    /// Replaces a key by one that sigmad never writes, or deletes that again.
    pub fn set_foreign(&mut self, key: &str, is_foreign: bool) {
        let command =
            if is_foreign { vec!["SET", key, "of another client"] } else { vec!["DEL", key] };
        let command: Command = command.iter().map(|part| part.as_bytes().to_vec()).collect();
        self.call(&command).expect("any key may be set or deleted");
    }

    fn live(&mut self, key: &[u8]) -> Option<&mut Entry> {
        self.expire(key);
        self.keys.get_mut(key)
    }

    fn expire(&mut self, key: &[u8]) {
        let now_us = self.time_us;
        if self.keys.get(key).is_some_and(|entry| entry.expires_us.is_some_and(|at| at <= now_us)) {
            self.keys.remove(key);
        }
    }

    /// Executes a command of a client.
    pub fn execute(&mut self, lua: &Lua, command: &[Vec<u8>]) -> Result<Value, String> {
        if name_of(command) == "EVAL" { self.eval(lua, command) } else { self.call(command) }
    }

    /// Executes a command that is not a script.
    pub fn call(&mut self, command: &[Vec<u8>]) -> Result<Value, String> {
        let name = name_of(command);
        if let Some(key) = command.get(1) {
            self.expire(key);
        }
        let result = match &name[..] {
            "TIME" => Ok(Value::Array(vec![
                bulk((self.time_us / 1_000_000).to_string()),
                bulk((self.time_us % 1_000_000).to_string()),
            ])),
            "GET" | "SET" | "DEL" | "UNLINK" | "EXISTS" | "PEXPIRE" | "EXPIRE" | "PTTL" => {
                self.call_key(&name, command)
            }
            "HGETALL" | "HGET" | "HMGET" | "HSET" | "HDEL" | "HLEN" => {
                self.call_hash(&name, command)
            }
            "XADD" => self.call_stream(command),
            "ZADD" => self.add_sorted(command),
            _ if name.starts_with('Z') => self.call_sorted(&name, command),
            _ => Err(format!("ERR unknown command '{name}'")),
        };
        if result.is_ok() && is_write(&name) {
            self.effects.push(command.to_vec());
        }
        if let Some(key) = command.get(1) {
            self.remove_if_empty(key);
        }
        result
    }

    fn remove_if_empty(&mut self, key: &[u8]) {
        let is_empty = match self.keys.get(key).map(|entry| &entry.data) {
            Some(Data::Hash(hash)) => hash.is_empty(),
            Some(Data::Sorted(set)) => set.ranked.is_empty(),
            _ => false,
        };
        if is_empty {
            self.keys.remove(key);
        }
    }

    fn call_key(&mut self, name: &str, command: &[Vec<u8>]) -> Result<Value, String> {
        let key = command.get(1).ok_or(SYNTAX)?;
        let number = |at: usize| -> Result<i64, String> {
            let text = command.get(at).ok_or(SYNTAX)?;
            let text = str::from_utf8(text).map_err(|_| SYNTAX)?;
            text.parse::<f64>().map(|n| n as i64).map_err(|_| "ERR value is not an integer".into())
        };
        match name {
            "GET" => Ok(found!(self.keys, key, Text).map_or(Value::Nil, |text| bulk(text.clone()))),
            "SET" => {
                let data = Data::Text(command.get(2).ok_or(SYNTAX)?.clone());
                let mut expires_us = None;
                let mut at = 3;
                while let Some(option) = command.get(at) {
                    match &option.to_ascii_uppercase()[..] {
                        b"EX" => expires_us = Some(self.time_us + number(at + 1)? * 1_000_000),
                        b"PX" => expires_us = Some(self.time_us + number(at + 1)? * 1_000),
                        _ => return Err(SYNTAX.into()),
                    }
                    at += 2;
                }
                self.keys.insert(key.clone(), Entry { data, expires_us });
                Ok(Value::Okay)
            }
            "DEL" | "UNLINK" => {
                let gone = command[1..].iter().filter(|key| self.keys.remove(&key[..]).is_some());
                Ok(Value::Int(gone.count() as i64))
            }
            "EXISTS" => Ok(Value::Int(i64::from(self.keys.contains_key(key)))),
            "PTTL" => Ok(Value::Int(match self.keys.get(key) {
                None => -2,
                Some(entry) => entry.expires_us.map_or(-1, |at| (at - self.time_us) / 1_000),
            })),
            _ => {
                let unit_us = if name == "PEXPIRE" { 1_000 } else { 1_000_000 };
                let expires_us = self.time_us + number(2)? * unit_us;
                let entry = self.keys.get_mut(key);
                let is_set = entry.map(|entry| entry.expires_us = Some(expires_us)).is_some();
                Ok(Value::Int(i64::from(is_set)))
            }
        }
    }

    fn call_hash(&mut self, name: &str, command: &[Vec<u8>]) -> Result<Value, String> {
        let key = command.get(1).ok_or(SYNTAX)?;
        let fields = &command[2..];
        if name == "HSET" {
            let hash = data!(self.keys, key, Hash, BTreeMap::new());
            let mut added = 0;
            for pair in fields.chunks(2) {
                let [field, value] = pair else { return Err(SYNTAX.into()) };
                added += i64::from(hash.insert(field.clone(), value.clone()).is_none());
            }
            return Ok(Value::Int(added));
        }
        let mut hash = found!(self.keys, key, Hash);
        let get = |hash: &Option<&mut BTreeMap<Vec<u8>, Vec<u8>>>, field: &Vec<u8>| {
            let value = hash.as_ref().and_then(|hash| hash.get(field));
            value.map_or(Value::Nil, |value| bulk(value.clone()))
        };
        Ok(match name {
            "HGETALL" => Value::Array(hash.map_or_else(Vec::new, |hash| {
                let pairs = hash.iter();
                pairs
                    .flat_map(|(field, value)| [bulk(field.clone()), bulk(value.clone())])
                    .collect()
            })),
            "HGET" => get(&hash, fields.first().ok_or(SYNTAX)?),
            "HMGET" => Value::Array(fields.iter().map(|field| get(&hash, field)).collect()),
            "HLEN" => Value::Int(hash.map_or(0, |hash| hash.len() as i64)),
            _ => {
                let mut gone = 0;
                for field in fields {
                    let removed = hash.as_mut().and_then(|hash| hash.remove(field));
                    gone += i64::from(removed.is_some());
                }
                Value::Int(gone)
            }
        })
    }

    fn add_sorted(&mut self, command: &[Vec<u8>]) -> Result<Value, String> {
        let key = command.get(1).ok_or(SYNTAX)?;
        let set = data!(self.keys, key, Sorted, SortedSet::default());
        let mut added = 0;
        for pair in command[2..].chunks(2) {
            let [score, member] = pair else { return Err(SYNTAX.into()) };
            let score = str::from_utf8(score).ok().and_then(read_score);
            let score = score.ok_or("ERR value is not a valid float")?;
            added += i64::from(set.insert(member, score));
        }
        Ok(Value::Int(added))
    }

    fn call_sorted(&mut self, name: &str, command: &[Vec<u8>]) -> Result<Value, String> {
        let key = command.get(1).ok_or(SYNTAX)?;
        let text = |at: usize| {
            let text = command.get(at).map(|text| str::from_utf8(text).unwrap_or(""));
            text.ok_or_else(|| SYNTAX.to_owned())
        };
        let rank = |at: usize| {
            text(at)?.parse::<f64>().map(|n| n as i64).map_err(|_| "ERR no integer".to_owned())
        };
        let bound = |at: usize| {
            command
                .get(at)
                .and_then(|text| Bound::read(text))
                .ok_or("ERR min or max is not a float")
        };
        let Some(set) = found!(self.keys, key, Sorted) else {
            return Ok(match name {
                "ZRANGE" | "ZRANGEBYSCORE" => Value::Array(Vec::new()),
                "ZSCORE" => Value::Nil,
                _ => Value::Int(0),
            });
        };
        let remove = |set: &mut SortedSet, members: Vec<(f64, Vec<u8>)>| {
            members.iter().for_each(|(_, member)| _ = set.remove(member));
            Value::Int(members.len() as i64)
        };
        let options: Vec<String> = (4..command.len())
            .map(|at| text(at).map(str::to_ascii_uppercase))
            .collect::<Result<_, _>>()?;
        Ok(match name {
            "ZCARD" => Value::Int(set.ranked.len() as i64),
            "ZSCORE" => {
                let score = command.get(2).and_then(|member| set.scores.get(member));
                score.map_or(Value::Nil, |&score| bulk(score_text(score)))
            }
            "ZREM" => {
                let gone = command[2..].iter().filter(|member| set.remove(member)).count();
                Value::Int(gone as i64)
            }
            "ZREMRANGEBYRANK" => {
                let members = set.by_rank(rank(2)?, rank(3)?);
                remove(set, members)
            }
            "ZREMRANGEBYSCORE" => {
                let members = set.by_score(bound(2)?, bound(3)?).collect();
                remove(set, members)
            }
            "ZCOUNT" => Value::Int(set.by_score(bound(2)?, bound(3)?).count() as i64),
            "ZRANGE" => members(&set.by_rank(rank(2)?, rank(3)?), &options),
            "ZRANGEBYSCORE" => {
                let mut found: Vec<_> = set.by_score(bound(2)?, bound(3)?).collect();
                if let Some(at) = options.iter().position(|option| option == "LIMIT") {
                    let (skipped, count) = (rank(5 + at)? as usize, rank(6 + at)?);
                    let count = usize::try_from(count).unwrap_or(usize::MAX);
                    found = found.into_iter().skip(skipped).take(count).collect();
                }
                members(&found, &options)
            }
            _ => return Err(format!("ERR unknown command '{name}'")),
        })
    }

    fn call_stream(&mut self, command: &[Vec<u8>]) -> Result<Value, String> {
        let key = command.get(1).ok_or(SYNTAX)?;
        // XADD key MAXLEN ~ len id field value
        let id = command.get(5).ok_or(SYNTAX)?;
        let parts = str::from_utf8(id).ok().and_then(|id| id.split_once('-'));
        let parsed = parts.and_then(|(ms, seq)| Some((ms.parse().ok()?, seq.parse().ok()?)));
        let parsed: (u64, u64) = parsed.ok_or("ERR Invalid stream ID")?;
        let last = data!(self.keys, key, Stream, (0, 0));
        if parsed <= *last {
            return Err(
                "ERR The ID specified in XADD is equal or smaller than the target stream top item"
                    .into(),
            );
        }
        *last = parsed;
        Ok(bulk(id.clone()))
    }

    /// Runs a script: its text, the number of keys, keys and arguments.
    fn eval(&mut self, lua: &Lua, command: &[Vec<u8>]) -> Result<Value, String> {
        let script = command.get(1).ok_or(SYNTAX)?;
        let keys = command.get(2).and_then(|text| str::from_utf8(text).ok()?.parse::<usize>().ok());
        let (keys, args) = command[3..].split_at_checked(keys.ok_or(SYNTAX)?).ok_or(SYNTAX)?;
        let texts = |texts: &[Vec<u8>]| {
            lua.create_sequence_from(
                texts.iter().map(|text| lua.create_string(text).expect("text")),
            )
        };
        let mut run = || -> mlua::Result<Value> {
            lua.globals().set("KEYS", texts(keys)?)?;
            lua.globals().set("ARGV", texts(args)?)?;
            lua.scope(|scope| {
                let call = scope.create_function_mut(|lua, args: Variadic<LuaValue>| {
                    let command: Command = args.iter().map(argument).collect();
                    let reply = self.call(&command).map_err(mlua::Error::runtime)?;
                    to_lua(lua, &reply)
                })?;
                let redis = lua.create_table()?;
                redis.set("call", call)?;
                lua.globals().set("redis", redis)?;
                Ok(from_lua(&lua.load(&script[..]).eval::<LuaValue>()?))
            })
        };
        run().map_err(|error| {
            let text = error.to_string();
            let text = text.strip_prefix("runtime error: ").unwrap_or(&text);
            text.lines().next().unwrap_or("").to_owned()
        })
    }
}

fn members(found: &[(f64, Vec<u8>)], options: &[String]) -> Value {
    let with_scores = options.iter().any(|option| option == "WITHSCORES");
    let mut reply = Vec::with_capacity(found.len() * 2);
    for (score, member) in found {
        reply.push(bulk(member.clone()));
        if with_scores {
            reply.push(bulk(score_text(*score)));
        }
    }
    Value::Array(reply)
}

fn argument(value: &LuaValue) -> Vec<u8> {
    match value {
        LuaValue::String(text) => text.as_bytes().to_vec(),
        LuaValue::Integer(number) => number.to_string().into_bytes(),
        LuaValue::Number(number) => score_text(*number),
        _ => Vec::new(),
    }
}

fn to_lua(lua: &Lua, reply: &Value) -> mlua::Result<LuaValue> {
    Ok(match reply {
        Value::Nil => LuaValue::Boolean(false),
        Value::Int(number) => LuaValue::Number(*number as f64),
        Value::BulkString(text) => LuaValue::String(lua.create_string(text)?),
        Value::Array(parts) => {
            let table = lua.create_table()?;
            for (at, part) in parts.iter().enumerate() {
                table.set(at + 1, to_lua(lua, part)?)?;
            }
            LuaValue::Table(table)
        }
        _ => {
            let table = lua.create_table()?;
            table.set("ok", "OK")?;
            LuaValue::Table(table)
        }
    })
}

fn from_lua(value: &LuaValue) -> Value {
    match value {
        LuaValue::Integer(number) => Value::Int(*number),
        LuaValue::Number(number) => Value::Int(*number as i64),
        LuaValue::Boolean(true) => Value::Int(1),
        LuaValue::String(text) => bulk(text.as_bytes().to_vec()),
        LuaValue::Table(table) => Value::Array(
            table
                .sequence_values::<LuaValue>()
                .map_while(Result::ok)
                .map(|v| from_lua(&v))
                .collect(),
        ),
        _ => Value::Nil,
    }
}
