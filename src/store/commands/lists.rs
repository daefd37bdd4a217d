//! The commands by which replicas share their lists of anomalies and samples, and the replies.

use redis::{Cmd, RedisWrite, Value};

use super::CommandEncoder;
use crate::shared_lists::{ListEntry, ListKind, NumberedEntry};
use crate::store::keys::{self, ReplicaId};
use crate::store::reply::Reply;

/// Entries in one [`CommandEncoder::add_to_list`] at most: a script blocks all other clients while it runs.
pub const ENTRIES_ADDED_MAX: usize = 256;
/// Entries in one reply at most, some hundred kilobytes; the rest follows page by page.
pub const ENTRIES_READ_MAX: usize = 1_024;
/// Life of the list of anomalies without a change: as that of the cluster's incidents.
const ANOMALIES_MS: u64 = 30 * 24 * 3_600_000;

/// Writes entries, each under the next number. A number is larger than all before and never smaller than the time in
/// microseconds, as that of a change. The entries with the smallest numbers make room. Executed twice it only gives the
/// same entries larger numbers.
const ADD: &str = include_str!("../scripts/list_add.lua");

/// Reads entries in the order of their numbers: number, id and entry of each.
const READ: &str = include_str!("../scripts/list_read.lua");

/// The number of the last write before all.
pub const FIRST_CURSOR: u64 = 0;

impl CommandEncoder {
    /// Writes entries. `only_absent`: those that Redis has stay as they are.
    pub fn add_to_list(
        &mut self,
        kind: ListKind,
        entries: &[WrittenEntry],
        only_absent: bool,
    ) -> Cmd {
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(ADD).arg(2);
        for key in list_keys(kind) {
            cmd.arg(key);
        }
        cmd.arg(kind.kept());
        match kind {
            ListKind::Anomalies => cmd.arg(ANOMALIES_MS),
            // Older samples are shown nowhere.
            ListKind::Samples => cmd.arg(self.options.ttl.as_millis() as u64),
        };
        cmd.arg(u8::from(only_absent));
        for WrittenEntry { replica, serial, entry } in entries {
            self.id.clear();
            keys::write_list_id(&mut self.id, *replica, *serial);
            cmd.write_arg(&self.id);
            cmd.write_arg(&entry.write());
        }
        cmd
    }
}

/// An entry to write.
#[derive(Clone, Debug)]
pub struct WrittenEntry {
    /// The replica whose entry it is.
    pub replica: ReplicaId,
    /// Its number there.
    pub serial: u64,
    /// The entry.
    pub entry: ListEntry,
}

/// The number of the first of the entries that were written; None for what the script never returns.
pub fn first_number(reply: Reply) -> Option<u64> {
    let Value::BulkString(text) = reply.into_value() else { return None };
    keys::read_number(&text)?.try_into().ok()
}

/// Reads the entries that were written after the one of that number.
pub fn read_list(kind: ListKind, cursor: u64) -> Cmd {
    let mut cmd = redis::cmd("EVAL");
    cmd.arg(READ).arg(2);
    for key in list_keys(kind) {
        cmd.arg(key);
    }
    cmd.arg(cursor).arg(ENTRIES_READ_MAX);
    cmd
}

fn list_keys(kind: ListKind) -> [&'static str; 2] {
    match kind {
        ListKind::Anomalies => keys::LISTED_ANOMALIES,
        ListKind::Samples => keys::LISTED_SAMPLES,
    }
}

/// A page of a list.
#[derive(Debug, Default)]
pub struct ListReply {
    /// The entries that this version can read.
    pub entries: Vec<NumberedEntry>,
    /// How many it can't.
    pub unreadable: usize,
    /// The number of the last one of the page.
    pub cursor: Option<u64>,
    /// There may be more.
    pub is_full: bool,
}

impl ListReply {
    /// Reads the reply to [`read_list`].
    pub fn read(reply: &Reply) -> Self {
        let mut page = Self::default();
        let Reply::Strings(strings) = reply else {
            page.unreadable = 1;
            return page;
        };
        page.is_full = strings.len() >= 3 * ENTRIES_READ_MAX;
        let mut strings = strings.iter();
        while let (Some(number), Some(id), Some(entry)) =
            (strings.next(), strings.next(), strings.next())
        {
            let number = keys::read_number(number).and_then(|number| u64::try_from(number).ok());
            page.cursor = number.or(page.cursor);
            let read = || {
                let (replica, serial) = keys::read_list_id(id)?;
                let replica = replica.number();
                Some(NumberedEntry {
                    number: number?,
                    replica,
                    serial,
                    entry: ListEntry::read(entry)?,
                })
            };
            match read() {
                Some(entry) => page.entries.push(entry),
                None => page.unreadable += 1,
            }
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sigmad_does_not_write_is_left_out_and_counted() {
        let entry = ListEntry { began_us: 5, offset_us: 1, change: 2, body: b"body".to_vec() };
        let parts: [&[u8]; 12] = [
            b"17",
            b"0000000a:4",
            &entry.write(),
            b"18",
            b"0000000a",
            &entry.write(),
            b"19",
            b"0000000a:5",
            b"",
            b"twenty",
            b"0000000a:6",
            &entry.write(),
        ];
        let parts = parts.map(|part| Value::BulkString(part.to_vec()));
        let page = ListReply::read(&Value::Array(parts.to_vec()).into());
        assert_eq!((page.unreadable, page.cursor, page.is_full), (3, Some(19), false));
        let [NumberedEntry { number: 17, replica: 10, serial: 4, entry: read }] = &page.entries[..]
        else {
            panic!("{page:?}")
        };
        assert_eq!(*read, entry);
        assert_eq!(ReplicaId::new(10).number(), 10);
        assert_eq!(ListReply::read(&Value::Nil.into()).unreadable, 1);
    }
}
