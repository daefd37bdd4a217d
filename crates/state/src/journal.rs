//! The writer of one shard's journal.
//!
//! Records have positions. One that is not appended, or whose writing failed, leaves a gap: what follows stands in a new
//! segment, and is of use only with a snapshot at its beginning or after. Until then nothing new counts as durable.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::damage::StateError;
use crate::disk::FileWriter;
use crate::files::Files;
use crate::frame::{self, FRAME_BYTES, WRITE_BYTES};
use crate::names::{FileKind, FileName};
use crate::{CONTENT_BYTES_MAX, Position};

/// Less room is none, so that a full directory gets no segments without records; of a small one, this part.
const ROOM_BYTES_MIN: u64 = 64 * 1024;
const ROOM_PART_MIN: u64 = 64;

/// Appends the records of one shard.
#[derive(Debug)]
pub struct JournalWriter {
    directory: Arc<Files>,
    shard: u32,
    segment: Option<Segment>,
    /// Frames that are not passed to the system so far.
    buffer: Vec<u8>,
    /// The position of the next record.
    next: Position,
    /// The first record since the last gap; 0 before the first one.
    run_first: Position,
    durable: Position,
    /// The record that [`JournalWriter::segment_for`] has made room for: its segment must not end before it.
    prepared: Option<Position>,
}

#[derive(Debug)]
struct Segment {
    name: FileName,
    file: Box<dyn FileWriter>,
    seed: u32,
    frames: u64,
    /// Bytes passed to the system.
    bytes: u64,
    /// Bytes that are durable.
    synced: u64,
}

impl JournalWriter {
    pub(crate) fn new(directory: Arc<Files>, shard: u32) -> Self {
        let buffer = Vec::new();
        Self {
            directory,
            shard,
            segment: None,
            buffer,
            next: 0,
            run_first: 0,
            durable: 0,
            prepared: None,
        }
    }

    /// Appends the record at `position`. After an error the record is not there: the next one leaves a gap.
    ///
    /// # Errors
    /// [`StateError::Full`] when the directory has no room; else what the disk says.
    ///
    /// # Panics
    /// In debug builds: when a position is not above the last one.
    pub fn append(&mut self, position: Position, record: &[u8]) -> Result<(), StateError> {
        debug_assert!(position >= self.next, "positions grow");
        if !(1..=CONTENT_BYTES_MAX).contains(&record.len()) {
            return Err(StateError::ContentLength(record.len()));
        }
        let bytes = (FRAME_BYTES + record.len()) as u64;
        if self.prepared != Some(position) {
            self.segment_for(position)?;
        }
        if !self.directory.journal_has_room(self.buffer.len() as u64 + bytes) {
            return Err(StateError::Full);
        }
        let segment = self.segment.as_mut().expect("it was begun");
        frame::push(&mut self.buffer, segment.seed, segment.frames, record);
        segment.frames += 1;
        self.next = position + 1;
        self.prepared = None;
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    /// The first position of the segment that the record at `position` will stand in. The segment is begun where that is
    /// needed, so that a caller who says names once a segment knows when.
    ///
    /// # Errors
    /// What the disk says.
    pub fn segment_for(&mut self, position: Position) -> Result<Position, StateError> {
        if position != self.next {
            self.skip_to(position);
        }
        let max = self.directory.options.bytes_max;
        let room = ROOM_BYTES_MIN.min(max / ROOM_PART_MIN);
        if !self.directory.journal_has_room(self.buffer.len() as u64 + room) {
            return Err(StateError::Full);
        }
        self.prepared = Some(position);
        if self.segment.as_ref().is_some_and(|segment| self.is_over(segment)) {
            self.sync_segment()?;
            self.end_segment();
        }
        match &self.segment {
            Some(segment) => Ok(segment.name.position),
            None => {
                self.segment = Some(self.begin_segment(position)?);
                Ok(position)
            }
        }
    }

    /// Makes what was appended durable, and returns the position up to which it can be recovered. It stands still
    /// after a gap, until a snapshot covers that.
    ///
    /// # Errors
    /// What the disk says. What was not durable then is a gap.
    pub fn sync(&mut self) -> Result<Position, StateError> {
        self.sync_segment()?;
        if !self.needs_snapshot() {
            self.durable = self.next;
        }
        Ok(self.durable)
    }

    /// True when a gap has no snapshot after it: one is needed before anything more is durable.
    pub fn needs_snapshot(&self) -> bool {
        !self.directory.is_covered(self.shard, self.run_first)
    }

    /// True when that is because what the start has read may not be durable: nothing has been left out since.
    pub fn begins_in_doubt(&self) -> bool {
        self.run_first == 0 && self.needs_snapshot()
    }

    /// The position after the last record.
    pub fn next(&self) -> Position {
        self.next
    }

    /// Whether a segment is long enough, or a snapshot has begun.
    fn is_over(&self, segment: &Segment) -> bool {
        let places = &self.directory.shards[self.shard as usize];
        // Relaxed: a segment may begin a little later.
        places.begins_segment.swap(false, Relaxed)
            || segment.bytes >= self.directory.options.segment_bytes
    }

    /// Leaves a gap before `position`.
    fn skip_to(&mut self, position: Position) {
        // Err: what was before is a gap as well.
        if self.sync().is_ok() && self.segment.is_some() {
            self.end_segment();
            self.left_at(self.next);
        }
        self.prepared = None;
        self.next = position;
        self.run_first = position;
    }

    /// Leaves the segment, all of which is durable, and says so in it: a later start need not prove it.
    fn end_segment(&mut self) {
        let Some(mut segment) = self.segment.take() else { return };
        let mut end = Vec::new();
        frame::push_end(&mut end, segment.seed, segment.frames);
        // Err: a later start proves it.
        let _ = segment.file.append(&end);
        self.directory.note(segment.name, segment.bytes + end.len() as u64);
        self.directory.grow_journal(end.len() as u64);
    }

    fn left_at(&self, end: Position) {
        // Relaxed: see Files::prune.
        self.directory.shards[self.shard as usize].left_at.store(end, Relaxed);
    }

    fn begin_segment(&mut self, first: Position) -> Result<Segment, StateError> {
        self.directory.begin()?;
        self.left_at(0);
        let name = FileName {
            generation: self.directory.generation,
            kind: FileKind::Journal,
            shard: self.shard,
            position: first,
        };
        let (header, seed) = frame::header(&name);
        let file = self.directory.disk.create(&name.to_string())?;
        self.directory.note(name, 0);
        self.directory.disk.sync_dir()?;
        self.buffer.extend_from_slice(&header);
        Ok(Segment { name, file, seed, frames: 0, bytes: 0, synced: 0 })
    }

    /// Passes the buffer to the system.
    fn flush(&mut self) -> Result<(), StateError> {
        let Some(segment) = &mut self.segment else { return Ok(()) };
        if self.buffer.is_empty() {
            return Ok(());
        }
        let appended = segment.file.append(&self.buffer);
        // What arrived is not known after an error, so all of it is counted.
        segment.bytes += self.buffer.len() as u64;
        self.directory.note(segment.name, segment.bytes);
        self.directory.grow_journal(self.buffer.len() as u64);
        self.buffer.clear();
        appended.map_err(|error| self.failed(error))
    }

    fn sync_segment(&mut self) -> Result<(), StateError> {
        self.flush()?;
        match &mut self.segment {
            Some(segment) if segment.synced < segment.bytes => match segment.file.sync_data() {
                Ok(()) => segment.synced = segment.bytes,
                Err(error) => {
                    // The system may show the rest until it loses it: the next start must not go on from that.
                    // Err: the disk is broken; what was durable is not touched.
                    let _ = segment.file.truncate(segment.synced);
                    return Err(self.failed(error));
                }
            },
            _ => {}
        }
        Ok(())
    }

    /// What is in doubt is a gap. The file is left alone: a second sync would report success without having written.
    fn failed(&mut self, error: std::io::Error) -> StateError {
        if self.segment.take().is_some() {
            // What comes next stands in another segment, which may have to wait for room.
            self.left_at(self.next);
        }
        self.prepared = None;
        self.buffer.clear();
        self.run_first = self.next;
        error.into()
    }
}
