//! The names of the files.

use std::fmt;

use crate::Position;

/// The end of the name of a file that is being written.
pub const TEMPORARY: &str = ".tmp";
/// Within the name of a file of a newer version that is set aside, before its number.
const NEWER: &str = ".version-";
/// The end of the name of a file that is set aside because the system refuses to read it.
const UNREADABLE: &str = ".unreadable";

/// Why a file is kept and not used: the end of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aside {
    /// It is of a newer version.
    Newer(u16),
    /// The system refuses to read it, perhaps not forever.
    Unreadable,
}

impl fmt::Display for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newer(version) => write!(f, "{NEWER}{version}"),
            Self::Unreadable => f.write_str(UNREADABLE),
        }
    }
}

/// Whether a name is that of a file which is set aside.
pub fn is_set_aside(name: &str) -> bool {
    let newer = name.split_once(NEWER).map(|(name, _)| name);
    newer.or_else(|| name.strip_suffix(UNREADABLE)).and_then(FileName::parse).is_some()
}

/// A file of ours, in the order of generation, shard and position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileName {
    /// Which start has written it; 0 for a document.
    pub generation: u64,
    /// What it holds.
    pub kind: FileKind,
    /// Of which shard; 0 for a start and a document.
    pub shard: u32,
    /// Its first record, or the snapshot's position; of documents it tells which; 0 for others.
    pub position: Position,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileKind {
    /// What a generation began with.
    Start,
    /// A segment of a journal.
    Journal,
    /// A snapshot.
    Snapshot,
    /// What is known beside the shards.
    Document,
}

impl FileKind {
    /// The byte in the header.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Start => b'g',
            Self::Journal => b'j',
            Self::Snapshot => b's',
            Self::Document => b'd',
        }
    }
}

impl fmt::Display for FileName {
    /// Padded, so that a listing shows the order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, kind, shard, position } = self;
        let word = match kind {
            FileKind::Start => return write!(f, "start-{generation:08}"),
            FileKind::Journal => "journal",
            FileKind::Snapshot => "snapshot",
            FileKind::Document if *position == 0 => return f.write_str("incidents"),
            FileKind::Document if *position == 1 => return f.write_str("history"),
            FileKind::Document => return f.write_str("replica"),
        };
        write!(f, "{word}-{generation:08}-{shard:03}-{position:012}")
    }
}

impl FileName {
    /// Its name while it is being written.
    pub fn temporary(&self) -> String {
        format!("{self}{TEMPORARY}")
    }

    /// None for the name of another's file, of one that is not whole, and of the document, which is of no generation.
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('-');
        let kind = match parts.next()? {
            "start" => FileKind::Start,
            "journal" => FileKind::Journal,
            "snapshot" => FileKind::Snapshot,
            _ => return None,
        };
        let generation = parts.next()?.parse().ok()?;
        let (shard, position) = match kind {
            FileKind::Start => (0, 0),
            _ => (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?),
        };
        let parsed = Self { generation, kind, shard, position };
        // Only what we write: no other spelling of a number.
        (parsed.to_string() == name).then_some(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_not_ours() {
        for kind in [FileKind::Start, FileKind::Journal, FileKind::Snapshot] {
            let (shard, position) = if kind == FileKind::Start { (0, 0) } else { (7, u64::MAX) };
            let name = FileName { generation: 3, kind, shard, position };
            assert_eq!(FileName::parse(&name.to_string()), Some(name));
            assert!(!is_set_aside(&name.to_string()));
            for why in [Aside::Newer(7), Aside::Unreadable] {
                assert!(is_set_aside(&format!("{name}{why}")));
            }
        }
        let others = [
            "lock",
            "incidents",
            "start-1",
            "start-00000001.tmp",
            "journal-00000001-001",
            "journal-00000001-001-000000000001-2",
            "snapshot-00000001-001-000000000001.version-2",
            "start-00000001-000-000000000000",
        ];
        for other in others {
            assert_eq!(FileName::parse(other), None, "{other}");
        }
    }
}
