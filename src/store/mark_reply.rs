//! The reply of Redis to a mark: the subjects that were changed, and the time. No I/O.

use redis::Value;

use super::keys;
use sigmad_detectors::window::WINDOW_MAX;

/// The reply to [`CommandEncoder::mark`](super::commands::CommandEncoder::mark).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkReply {
    /// The cursor for the next mark.
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
}

impl MarkReply {
    /// Reads the reply to a mark with `cursor`; None for a reply that the script never returns.
    pub fn read(reply: &Value, cursor: u64) -> Option<Self> {
        let Value::Array(parts) = reply else { return None };
        let [number, next, Value::Array(names), time, Value::Array(windows)] = &parts[..] else {
            return None;
        };
        let number = read_number(number)?;
        let next = read_number(next)?;
        let mut marked = Self {
            cursor: next,
            is_all: next == number,
            has_lost: number <= cursor,
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

fn read_number(value: &Value) -> Option<u64> {
    let Value::BulkString(digits) = value else { return None };
    str::from_utf8(digits).ok()?.parse().ok()
}
