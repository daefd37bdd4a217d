//! What a recovery hands out: snapshots and journals that were checked, read a second time with one buffer.

use std::sync::Arc;

use crate::Position;
use crate::damage::{DamageKind, Damaged, StateError};
use crate::disk::Disk;
use crate::frame::FrameReader;
use crate::names::FileName;

/// What was found: snapshots, then journals, to be applied in this order.
#[derive(Debug, Default)]
pub struct Recovery {
    /// One a shard at most.
    pub snapshots: Vec<ShardSnapshot>,
    /// After the snapshots, by generation and shard. The shards of another generation may be others.
    pub journals: Vec<ShardJournal>,
    /// What was wrong on the way.
    pub damage: Vec<Damaged>,
}

impl Recovery {
    /// Bytes to read, for the progress.
    pub fn bytes(&self) -> u64 {
        let snapshots = self.snapshots.iter().map(|snapshot| snapshot.bytes);
        snapshots.chain(self.journals.iter().map(|journal| journal.bytes)).sum()
    }
}

/// A whole snapshot of one shard.
#[derive(Debug)]
pub struct ShardSnapshot {
    /// Which shard of `shards`.
    pub shard: u32,
    /// How many shards there were.
    pub shards: u32,
    /// The records that it replaces.
    pub position: Position,
    /// Its length.
    pub bytes: u64,
    pub(crate) name: FileName,
    pub(crate) disk: Arc<dyn Disk>,
}

/// Records of one shard, in one generation.
#[derive(Debug)]
pub struct ShardJournal {
    /// Which shard of `shards`.
    pub shard: u32,
    /// How many shards there were.
    pub shards: u32,
    /// The position of the first record.
    pub first: Position,
    /// The position after the last record.
    pub end: Position,
    /// The length of its segments.
    pub bytes: u64,
    pub(crate) segments: Vec<SegmentPart>,
    pub(crate) disk: Arc<dyn Disk>,
}

/// The records of a segment that count.
#[derive(Clone, Debug)]
pub(crate) struct SegmentPart {
    pub name: FileName,
    pub skip: u64,
    pub take: u64,
    /// Whether the segment says that all of it is durable, and nothing else is in it.
    pub is_proven: bool,
}

impl ShardSnapshot {
    /// Begins to read the blocks.
    ///
    /// # Errors
    /// When the file has been damaged since it was checked.
    pub fn blocks(&self) -> Result<Blocks, StateError> {
        let file = self.name.to_string();
        match FrameReader::open(&*self.disk, &self.name) {
            Ok(reader) => Ok(Blocks { file, reader }),
            Err(fault) => Err(StateError::Damaged(Damaged { kind: fault.kind(), file })),
        }
    }
}

/// The blocks of a snapshot, in order.
#[derive(Debug)]
pub struct Blocks {
    file: String,
    reader: FrameReader,
}

impl Blocks {
    /// The next block, None after the last.
    ///
    /// # Errors
    /// When the file has been damaged since it was checked.
    pub fn next_block(&mut self) -> Result<Option<&[u8]>, StateError> {
        let Self { file, reader } = self;
        reader
            .next_block()
            .map_err(|kind| StateError::Damaged(Damaged { kind, file: file.clone() }))
    }
}

impl ShardJournal {
    /// Begins to read the records.
    pub fn records(&self) -> Records {
        self.read(false)
    }

    /// As [`ShardJournal::records`], and before them those of the same segments that a snapshot has replaced: their
    /// positions are below `first`. A segment may say there what is needed after it.
    pub fn records_and_replaced(&self) -> Records {
        self.read(true)
    }

    fn read(&self, has_replaced: bool) -> Records {
        Records {
            disk: self.disk.clone(),
            segments: self.segments.clone().into_iter(),
            has_replaced,
            present: None,
            position: self.first,
        }
    }
}

/// The records of a journal, in order.
#[derive(Debug)]
pub struct Records {
    disk: Arc<dyn Disk>,
    segments: std::vec::IntoIter<SegmentPart>,
    /// Whether records are read that a snapshot has replaced.
    has_replaced: bool,
    /// The segment that is read: `take` counts what is left.
    present: Option<(SegmentPart, FrameReader)>,
    position: Position,
}

impl Records {
    /// The next record with its position, None after the last.
    ///
    /// # Errors
    /// When a file has been damaged since it was checked.
    pub fn next_record(&mut self) -> Result<Option<(Position, &[u8])>, StateError> {
        let damaged =
            |name: &FileName, kind| StateError::Damaged(Damaged { kind, file: name.to_string() });
        while self.present.as_ref().is_none_or(|(part, _)| part.take == 0) {
            let Some(mut part) = self.segments.next() else { return Ok(None) };
            if self.has_replaced {
                (part.skip, part.take) = (0, part.skip + part.take);
            }
            self.position = part.name.position + part.skip;
            let opened = FrameReader::open(&*self.disk, &part.name);
            let mut reader = opened.map_err(|fault| damaged(&part.name, fault.kind()))?;
            for _ in 0..part.skip {
                reader.next_record().map_err(|kind| damaged(&part.name, kind))?;
            }
            self.present = Some((part, reader));
        }
        let (part, reader) = self.present.as_mut().expect("the loop ends with one");
        part.take -= 1;
        let position = self.position;
        self.position += 1;
        match reader.next_record() {
            Ok(Some(record)) => Ok(Some((position, record))),
            Ok(None) => Err(damaged(&part.name, DamageKind::TornTail)),
            Err(kind) => Err(damaged(&part.name, kind)),
        }
    }
}
