//! Which files the directory has, how many bytes, and which are needed no more. Shared by all writers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::Mutex;

use crate::Position;
use crate::damage::{DamageKind, Damaged, StateError};
use crate::disk::{Disk, Entry};
use crate::frame::{FrameReader, WholeFile};
use crate::names::{FileKind, FileName};
use crate::readers::{Recovery, SegmentPart};
use crate::start::{self, Start};

/// A part of the directory that the journal leaves to the next snapshots, whatever the last ones took.
const SNAPSHOT_PART: u64 = 4;
/// Snapshots of each shard that are kept: the older one serves when the newest is damaged.
const SNAPSHOTS_KEPT: usize = 2;

/// How a directory is written.
#[derive(Clone, Debug)]
pub struct StateOptions {
    /// The shards of this process, numbered from 0.
    pub shards: u32,
    /// Bytes of all files together.
    pub bytes_max: u64,
    /// A segment of the journal that is as long is followed by another.
    pub segment_bytes: u64,
}

impl Default for StateOptions {
    fn default() -> Self {
        // Segments: few files, and what a snapshot replaces is soon removed.
        Self { shards: 1, bytes_max: 4 << 30, segment_bytes: 64 << 20 }
    }
}

/// The files, and what the writers have to agree on.
#[derive(Debug)]
pub(crate) struct Files {
    pub disk: Arc<dyn Disk>,
    pub options: StateOptions,
    pub generation: u64,
    /// Not written so far, for a disk that refuses it at the start.
    start: Mutex<Option<Start>>,
    /// What the recovery has read.
    used: BTreeSet<FileName>,
    /// True once what the recovery has read is durable ([`Files::secure`]).
    is_parent_durable: AtomicBool,
    table: Mutex<Table>,
    pub shards: Vec<ShardPlaces>,
    /// Bytes of all files, including those that are being written.
    bytes: AtomicU64,
    /// Bytes of the newest snapshots of all shards: the next ones need as many.
    snapshot_bytes: AtomicU64,
    /// Bytes of the journal since a snapshot was finished.
    journal_bytes: AtomicU64,
}

/// What the writers of one shard tell each other.
#[derive(Debug, Default)]
pub(crate) struct ShardPlaces {
    /// The position of its newest snapshot of this generation, and 1; 0 without one.
    after_snapshot: AtomicU64,
    /// True once a snapshot has begun: the journal begins a segment, so that the one before can be removed.
    pub begins_segment: AtomicBool,
    /// Where the newest segment ended, while the journal has none under way; else 0.
    pub left_at: AtomicU64,
}

/// The files with their lengths.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub files: BTreeMap<FileName, u64>,
    /// Files of newer versions, under their present names.
    pub aside: Vec<Entry>,
}

impl Files {
    /// The files of a directory, before the generation of that number has begun.
    pub fn new(
        disk: Arc<dyn Disk>,
        options: StateOptions,
        (generation, start): (u64, Start),
        used: BTreeSet<FileName>,
        table: Table,
        snapshot_bytes: u64,
    ) -> Self {
        let aside = table.aside.iter().map(|entry| entry.bytes);
        let bytes: u64 = table.files.values().copied().chain(aside).sum();
        Self {
            disk,
            shards: (0..options.shards).map(|_| ShardPlaces::default()).collect(),
            options,
            generation,
            start: Mutex::new(Some(start)),
            used,
            is_parent_durable: AtomicBool::new(false),
            table: Mutex::new(table),
            bytes: bytes.into(),
            snapshot_bytes: snapshot_bytes.into(),
            journal_bytes: 0.into(),
        }
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        // Relaxed, here and below: no other data depends on it.
        self.bytes.load(Relaxed)
    }

    pub fn wants_snapshot(&self) -> bool {
        let max = self.options.bytes_max;
        let is_nearly_full = self.bytes() + self.reserved() > max / 4 * 3;
        // A snapshot replaces the journal before it: where there is little of it, nothing is gained.
        is_nearly_full && self.journal_bytes.load(Relaxed) > max / 16
    }

    pub fn make_room(&self) {
        self.prune(1);
        self.remove_spare();
        let aside = std::mem::take(&mut self.table.lock().aside);
        for entry in aside {
            // Err: it keeps its room, and is found again at the next start.
            if self.disk.remove(&entry.name).is_ok() {
                self.shrink(entry.bytes);
            }
        }
    }

    /// Writes the start of this generation, unless that is done.
    pub fn begin(&self) -> Result<(), StateError> {
        let mut pending = self.start.lock();
        if let Some(start) = &*pending {
            let bytes = start.write(&*self.disk, self.generation)?;
            *pending = None;
            self.bytes.fetch_add(bytes, Relaxed);
            self.table.lock().files.insert(start::name(self.generation), bytes);
        }
        Ok(())
    }

    /// Makes what the recovery has read durable. A killed process may have left the last segments in the system's memory, or
    /// have failed to make them durable, and then another sync of the same file proves nothing. So they are written
    /// anew. If that fails, only snapshots of all shards end the doubt.
    pub fn secure(&self, recovery: &Recovery) {
        let segments = recovery.journals.iter().flat_map(|journal| &journal.segments);
        let mut in_doubt = segments.filter(|part| !part.is_proven);
        let is_durable = in_doubt.all(|part| {
            let is_rewritten = self.rewrite(part).is_ok();
            if !is_rewritten {
                // Err: there is none, or the next start removes it.
                let _ = self.disk.remove(&part.name.temporary());
            }
            is_rewritten
        });
        // Relaxed: it is set before there are writers.
        self.is_parent_durable.store(is_durable, Relaxed);
    }

    /// Replaces a segment by one that has the records which count, and is durable.
    fn rewrite(&self, part: &SegmentPart) -> Result<(), StateError> {
        let name = part.name;
        let before = self.table.lock().files.get(&name).copied().unwrap_or(0);
        if !self.snapshot_has_room(before) {
            return Err(StateError::Full);
        }
        let damaged = |kind| StateError::Damaged(Damaged { kind, file: name.to_string() });
        let opened = FrameReader::open(&*self.disk, &name);
        let mut records = opened.map_err(|fault| damaged(fault.kind()))?;
        let mut file = WholeFile::create(&*self.disk, name)?;
        for _ in 0..part.skip + part.take {
            let record = records.next_record().map_err(damaged)?;
            file.push(record.ok_or_else(|| damaged(DamageKind::TornTail))?)?;
        }
        file.finish()?;
        file.take_name(&*self.disk)?;
        self.note(name, file.bytes());
        self.grow(file.bytes());
        self.shrink(before);
        Ok(self.disk.sync_dir()?)
    }

    /// Whether the records of a shard from `first` on can be recovered once they are durable. A snapshot serves when
    /// every shard has one.
    pub fn is_covered(&self, shard: u32, first: Position) -> bool {
        // Acquire, for the Release of a finished snapshot.
        let after_snapshot = |places: &ShardPlaces| places.after_snapshot.load(Acquire);
        if first == 0 && self.is_parent_durable.load(Relaxed) {
            return true;
        }
        after_snapshot(&self.shards[shard as usize]) > first
            && self.shards.iter().all(|places| after_snapshot(places) > 0)
    }

    /// Whether the journal may grow by so many bytes: the next snapshots keep their room.
    pub fn journal_has_room(&self, bytes: u64) -> bool {
        self.bytes() + self.reserved() + bytes <= self.options.bytes_max
    }

    fn reserved(&self) -> u64 {
        self.snapshot_bytes.load(Relaxed).max(self.options.bytes_max / SNAPSHOT_PART)
    }

    /// Whether a snapshot may grow by so many bytes.
    pub fn snapshot_has_room(&self, bytes: u64) -> bool {
        self.bytes() + bytes <= self.options.bytes_max
    }

    pub fn grow(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub fn grow_journal(&self, bytes: u64) {
        self.grow(bytes);
        self.journal_bytes.fetch_add(bytes, Relaxed);
    }

    pub fn shrink(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Relaxed);
    }

    /// Notes a file and its length; the bytes are counted already. Returns the length of one that had its name.
    pub fn note(&self, name: FileName, bytes: u64) -> Option<u64> {
        self.table.lock().files.insert(name, bytes)
    }

    /// Notes a finished snapshot, and removes what it replaces.
    pub fn finished(&self, name: FileName, bytes: u64) {
        let newest = {
            let mut table = self.table.lock();
            table.files.insert(name, bytes);
            self.snapshots(&table, 1)
        };
        let newest: u64 = newest.iter().flatten().map(|(_, bytes)| bytes).sum();
        self.snapshot_bytes.store(newest, Relaxed);
        self.journal_bytes.store(0, Relaxed);
        // Release, for the Acquire in is_covered(): the snapshot is durable.
        self.shards[name.shard as usize].after_snapshot.fetch_max(name.position + 1, Release);
        self.prune(SNAPSHOTS_KEPT);
    }

    /// The newest snapshots of each shard, newest first.
    fn snapshots(&self, table: &Table, count: usize) -> Vec<Vec<(Position, u64)>> {
        let of_shard = |shard| {
            let files = table.files.iter().rev();
            let ours = files.filter(|(name, _)| {
                (name.generation, name.kind, name.shard)
                    == (self.generation, FileKind::Snapshot, shard)
            });
            ours.map(|(name, bytes)| (name.position, *bytes)).take(count).collect()
        };
        (0..self.options.shards).map(of_shard).collect()
    }

    /// Once every shard has so many snapshots of this generation: removes what is older than these.
    fn prune(&self, kept: usize) {
        let unneeded: Vec<FileName> = {
            let table = self.table.lock();
            let oldest: Vec<Position> = self
                .snapshots(&table, kept)
                .iter()
                .filter(|snapshots| snapshots.len() == kept)
                .filter_map(|snapshots| snapshots.last())
                .map(|(position, _)| *position)
                .collect();
            if oldest.len() < self.options.shards as usize {
                return;
            }
            let mut segments: BTreeMap<u32, FileName> = BTreeMap::new();
            let mut unneeded = Vec::new();
            for name in table.files.keys() {
                if name.generation < self.generation {
                    unneeded.push(*name);
                } else if name.kind == FileKind::Snapshot {
                    if name.position < oldest[name.shard as usize] {
                        unneeded.push(*name);
                    }
                } else if name.kind == FileKind::Journal
                    && let Some(before) = segments.insert(name.shard, *name)
                    && name.position <= oldest[name.shard as usize]
                {
                    // The segment before ends where this one begins, at the latest.
                    unneeded.push(before);
                }
            }
            // A full directory gets no next segment before the newest one is gone.
            for (shard, newest) in segments {
                // Relaxed: a segment that has begun is in the table, and was noted there after this was reset.
                let left_at = self.shards[shard as usize].left_at.load(Relaxed);
                if newest.position < left_at && left_at <= oldest[shard as usize] {
                    unneeded.push(newest);
                }
            }
            unneeded
        };
        self.remove_replaced(&unneeded);
    }

    /// Removes what earlier generations have kept for the case of damage.
    fn remove_spare(&self) {
        let is_spare =
            |name: &&FileName| name.generation < self.generation && !self.used.contains(name);
        let spare: Vec<FileName> =
            self.table.lock().files.keys().filter(is_spare).copied().collect();
        self.remove_replaced(&spare);
    }

    /// Removes files that others replace, once the names of these are durable: a snapshot may have got its name, and the
    /// sync of that failed. Else nothing is removed.
    fn remove_replaced(&self, names: &[FileName]) {
        if !names.is_empty() && self.disk.sync_dir().is_ok() {
            self.remove(names);
        }
    }

    /// Removes files. What the disk refuses to remove is tried again with the next snapshot.
    pub fn remove(&self, names: &[FileName]) {
        for name in names {
            let removed = self.disk.remove(&name.to_string());
            let is_gone = match &removed {
                Ok(()) => true,
                Err(error) => error.kind() == std::io::ErrorKind::NotFound,
            };
            if is_gone && let Some(bytes) = self.table.lock().files.remove(name) {
                self.shrink(bytes);
            }
        }
    }
}
