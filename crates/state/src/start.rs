//! What a generation began with: the number of its shards, and where the recovery of that start ended.

use crate::Position;
use crate::damage::DamageKind;
use crate::disk::Disk;
use crate::frame::{self, FrameReader, ReadFault};
use crate::names::{FileKind, FileName};

/// The start of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// How many shards it has.
    pub shards: u32,
    /// The generation that it goes on from, if there was one.
    pub parent: Option<Parent>,
}

/// What a generation goes on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub generation: u64,
    /// Where each of its shards ended. One that had ended before stands in an older generation.
    pub ends: Vec<Place>,
}

/// A generation, and a position in it.
pub(crate) type Place = (u64, Position);

/// The place of a shard of which nothing was found. Generations begin at 1.
pub(crate) const NOWHERE: Place = (0, 0);

pub(crate) fn name(generation: u64) -> FileName {
    FileName { generation, kind: FileKind::Start, shard: 0, position: 0 }
}

impl Start {
    fn content(&self) -> Vec<u8> {
        let mut content = self.shards.to_le_bytes().to_vec();
        if let Some(Parent { generation, ends }) = &self.parent {
            content.extend_from_slice(&generation.to_le_bytes());
            for (generation, position) in ends {
                content.extend_from_slice(&generation.to_le_bytes());
                content.extend_from_slice(&position.to_le_bytes());
            }
        }
        content
    }

    fn parse(content: &[u8]) -> Option<Self> {
        let (shards, rest) = content.split_first_chunk()?;
        let shards = u32::from_le_bytes(*shards);
        if rest.is_empty() {
            return Some(Self { shards, parent: None });
        }
        let (generation, rest) = rest.split_first_chunk()?;
        let (words, []) = rest.as_chunks::<8>() else { return None };
        let (ends, []) = words.as_chunks::<2>() else { return None };
        let end = |[generation, position]: &[[u8; 8]; 2]| {
            (u64::from_le_bytes(*generation), u64::from_le_bytes(*position))
        };
        let generation = u64::from_le_bytes(*generation);
        let parent = Parent { generation, ends: ends.iter().map(end).collect() };
        Some(Self { shards, parent: Some(parent) })
    }

    pub fn read(disk: &dyn Disk, generation: u64) -> Result<Self, ReadFault> {
        let mut reader = FrameReader::open(disk, &name(generation))?;
        let start = reader.next_block()?.and_then(Self::parse);
        let is_whole = reader.next_block()?.is_none();
        Ok(start.filter(|_| is_whole).ok_or(DamageKind::BadChecksum)?)
    }

    /// Writes the file whole, and returns its length.
    pub fn write(&self, disk: &dyn Disk, generation: u64) -> std::io::Result<u64> {
        frame::write_file(disk, &name(generation), std::iter::once(&*self.content()))
    }
}
