//! The reply of Redis to a mark: the subjects that were changed, and the time. No I/O.

use redis::Value;

use super::keys;
use sigmad_detectors::window::WINDOW_MAX;

/// The first member of the set of changes when the numbers of changes are older than the set: marks were lost.
const MARKS_LOST: &[u8] = b"\xffmarks";
/// The same when the set and the numbers began together: Redis is new, or has lost its data.
const ALL_LOST: &[u8] = b"\xffall";

/// The reply to [`CommandEncoder::mark`](super::commands::CommandEncoder::mark).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkReply {
    /// The number of this change.
    pub number: u64,
    /// The cursor for the next mark. Of a mark that queries nothing, the number of the change before it.
    pub cursor: u64,
    /// False when one reply has no room for all changes: mark again.
    pub is_all: bool,
    /// True when Redis has lost its data since the last mark: mark again, from cursor 0.
    pub has_lost: bool,
    /// Changed subjects: devices, and None for the fleet. Subjects that this replica has changed itself are
    /// among them only after a reply was lost.
    pub changed: Vec<Option<Box<str>>>,
    /// Names and windows that are not valid.
    pub foreign: usize,
    /// Redis' time when it executed the mark, microseconds since 1970.
    pub time_us: i64,
    /// The different `--window` of the replicas on this Redis; empty unless the mark names ours.
    pub windows: Vec<usize>,
    /// The set of changes that this Redis has.
    pub set: ChangeSet,
}

/// Which set of changes a Redis has. Whatever deletes the set (another client, an eviction) deletes with it the
/// marks that a replica has not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeSet {
    /// The number of the change with which it began.
    pub began: u64,
    /// True when numbers of changes are older: what it had before is lost, and the windows are not.
    pub is_of_older_numbers: bool,
}

impl MarkReply {
    /// Reads the reply to a mark with `cursor`; None for a reply that the script never returns.
    pub fn read(reply: &Value, cursor: Option<u64>) -> Option<Self> {
        let Value::Array(parts) = reply else { return None };
        let [number, next, Value::Array(names), time, Value::Array(windows), kind, began] =
            &parts[..]
        else {
            return None;
        };
        let number = read_number(number)?;
        let next = read_number(next)?;
        let mut marked = Self {
            number,
            cursor: next,
            is_all: next == number || cursor.is_none(),
            has_lost: cursor.is_some_and(|cursor| number <= cursor),
            set: ChangeSet::read(kind, began)?,
            changed: Vec::with_capacity(names.len()),
            foreign: 0,
            time_us: read_number(time)?.try_into().ok()?,
            windows: Vec::with_capacity(windows.len()),
        };
        for window in windows {
            match read_number(window).and_then(|window| usize::try_from(window).ok()) {
                Some(window @ 1..=WINDOW_MAX) => marked.windows.push(window),
                _ => marked.foreign += 1,
            }
        }
        for name in names {
            match name {
                Value::BulkString(name) if name.is_empty() => marked.changed.push(None),
                Value::BulkString(name) => match keys::read_name(name) {
                    Some(name) => marked.changed.push(Some(name.into())),
                    None => marked.foreign += 1,
                },
                _ => marked.foreign += 1,
            }
        }
        Some(marked)
    }
}

impl ChangeSet {
    fn read(kind: &Value, score: &Value) -> Option<Self> {
        let (Value::BulkString(kind), Value::BulkString(score)) = (kind, score) else {
            return None;
        };
        let began = str::from_utf8(score).ok()?.strip_prefix('-')?.parse().ok()?;
        let is_of_older_numbers = match &kind[..] {
            MARKS_LOST => true,
            ALL_LOST => false,
            _ => return None,
        };
        Some(Self { began, is_of_older_numbers })
    }
}

fn read_number(value: &Value) -> Option<u64> {
    let Value::BulkString(digits) = value else { return None };
    str::from_utf8(digits).ok()?.parse().ok()
}
