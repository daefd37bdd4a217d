//! The files of a state directory: for each shard a journal of records and snapshots of what they led to, and two
//! documents beside them.
//!
//! Bytes only: what a record or a block means is the caller's business. Nothing here starts a thread, logs or reads a
//! clock.
//!
//! # Words
//!
//! A *generation* is one process that has written the directory, a *position* the number of records of one shard since
//! its generation began. A snapshot at position `p` replaces the records before `p`. The state of a shard is its newest
//! whole snapshot and the records after it, then the records of later generations ([`Recovery`]).
//!
//! # Files
//!
//! | name | content |
//! | --- | --- |
//! | `start-GENERATION` | the number of shards, and where the recovery of that start ended: generation and positions |
//! | `journal-GENERATION-SHARD-FIRST` | a segment: the records from position `FIRST` on |
//! | `snapshot-GENERATION-SHARD-POSITION` | blocks, and a mark of the end |
//! | `incidents`, `history` | a [`Document`] each: one content, which the next one replaces |
//! | `lock` | the process id of the owner; the lock itself is on the directory |
//!
//! Each begins with a header ([`frame`]): magic, kind, format version, place. Each record and block has a length and a
//! CRC32C, which also covers its place. So a file that is damaged, renamed or mixed up is found.
//!
//! # Promises
//!
//! - Recovered is a prefix of what was appended to each shard, with all that [`JournalWriter::sync`] has reported and
//!   that is undamaged.
//! - After a failed sync nothing that it was for is taken as durable, by this process or a later one. A start writes anew
//!   what no mark proves to be durable; else snapshots of all shards end the doubt.
//! - No damage ends the start, and none needs a person to remove a file: it is reported by kind ([`Damaged`]). Files of
//!   a newer version, and those that the system refuses to read, are renamed and kept.
//! - Two snapshots are kept, each with its journal, so that one may be damaged.
//! - The directory holds no more than [`StateOptions::bytes_max`], but for one buffer of each writer, and the documents.

mod damage;
mod directory;
mod disk;
mod document;
mod files;
pub mod frame;
mod journal;
mod names;
mod readers;
mod recovery;
mod simulated;
mod snapshot;
mod start;
#[cfg(test)]
mod tests;

pub use damage::{DamageKind, Damaged, StateError};
pub use directory::StateDir;
pub use disk::{Disk, Entry, FileReader, FileWriter, RealDisk};
pub use document::Document;
pub use files::StateOptions;
pub use journal::JournalWriter;
pub use readers::{Blocks, Records, Recovery, ShardJournal, ShardSnapshot};
pub use simulated::{Faults, SimulatedDisk};
pub use snapshot::SnapshotWriter;

/// Records of one shard since its generation began.
pub type Position = u64;

/// A longer record or block is refused: a damaged length must not take all memory.
pub const CONTENT_BYTES_MAX: usize = 16 * 1024 * 1024;
