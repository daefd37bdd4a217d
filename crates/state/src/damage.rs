//! What can be wrong with a state directory.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// What is wrong with a file that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// It ends within a record. Usual after a crash, for the last one.
    TornTail,
    /// A checksum, a length or the header is wrong.
    BadChecksum,
    /// It, or a part of it, is not there.
    Missing,
    /// It has a newer format. It is renamed and kept.
    OtherVersion,
    /// The system refuses to read it. A start, a snapshot and a document are renamed and kept.
    Unreadable,
}

impl DamageKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::TornTail, Self::BadChecksum, Self::Missing, Self::OtherVersion, Self::Unreadable];

    /// The name in metrics and in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TornTail => "torn_tail",
            Self::BadChecksum => "bad_checksum",
            Self::Missing => "missing",
            Self::OtherVersion => "other_version",
            Self::Unreadable => "unreadable",
        }
    }
}

/// A file that was found damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// What is wrong.
    pub kind: DamageKind,
    /// Its name in the directory.
    pub file: String,
}

/// Why something can't be written or read now.
#[derive(Debug)]
pub enum StateError {
    /// Another process has the directory.
    Locked {
        /// The directory.
        directory: PathBuf,
        /// The process id of its owner, where that is known.
        pid: Option<u32>,
    },
    /// The directory holds as much as it may.
    Full,
    /// A record or block is empty or longer than [`CONTENT_BYTES_MAX`](crate::CONTENT_BYTES_MAX).
    ContentLength(usize),
    /// The system refuses.
    Io(io::Error),
    /// A file that was whole at the start is damaged now.
    Damaged(Damaged),
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked { directory, pid } => {
                write!(f, "another process uses {}", directory.display())?;
                pid.map_or(Ok(()), |pid| write!(f, ": process {pid}"))
            }
            Self::Full => f.write_str("the state directory is full"),
            Self::ContentLength(bytes) => write!(f, "a record of {bytes} bytes"),
            Self::Io(error) => error.fmt(f),
            Self::Damaged(Damaged { kind, file }) => write!(f, "{file}: {}", kind.name()),
        }
    }
}

impl std::error::Error for StateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for StateError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
