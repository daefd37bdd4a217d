//! What a directory holds when it is opened: the way from snapshots through journals to where each shard ended.
//!
//! Everything is read and checked once when the directory is opened, and a second time by the caller. So what is
//! handed out is whole, and memory holds one buffer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::Position;
use crate::damage::{DamageKind, Damaged};
use crate::disk::Disk;
use crate::frame::{FrameReader, ReadFault};
use crate::names::{Aside, FileKind, FileName};
use crate::readers::{Recovery, SegmentPart, ShardJournal, ShardSnapshot};
use crate::start::{self, NOWHERE, Parent, Place, Start};

/// What [`find`] has found.
#[derive(Debug)]
pub(crate) struct Found {
    pub recovery: Recovery,
    /// What the next generation goes on from.
    pub parent: Option<Parent>,
    /// The files that the recovery reads.
    pub used: BTreeSet<FileName>,
    /// Files that are to be kept and not used, and why.
    pub aside: Vec<(FileName, Aside)>,
    /// Files that no recovery can use.
    pub unusable: Vec<FileName>,
}

/// Reads and checks the files.
pub(crate) fn find(disk: &Arc<dyn Disk>, files: &BTreeMap<FileName, u64>) -> Found {
    let mut finder = Finder {
        disk,
        files,
        recovery: Recovery::default(),
        used: BTreeSet::new(),
        aside: Vec::new(),
        unusable: Vec::new(),
    };
    let lineage = finder.lineage();
    let parent = (!lineage.is_empty()).then(|| finder.follow(&lineage));
    let Finder { recovery, used, aside, unusable, .. } = finder;
    Found { recovery, parent, used, aside, unusable }
}

struct Finder<'a> {
    disk: &'a Arc<dyn Disk>,
    files: &'a BTreeMap<FileName, u64>,
    recovery: Recovery,
    used: BTreeSet<FileName>,
    aside: Vec<(FileName, Aside)>,
    unusable: Vec<FileName>,
}

impl Finder<'_> {
    /// The newest generation and those that it goes on from, oldest first. The files of all others are unusable.
    fn lineage(&mut self) -> Vec<(u64, Start)> {
        let generations: BTreeSet<u64> = self.files.keys().map(|name| name.generation).collect();
        let mut lineage: Vec<(u64, Start)> = Vec::new();
        let mut is_whole = true;
        for &generation in generations.iter().rev() {
            // Each goes on from an older one, so no file can lead in a circle.
            let is_next = lineage.last().is_none_or(|(_, start)| {
                start.parent.as_ref().is_some_and(|parent| parent.generation == generation)
            });
            if !is_next {
                continue;
            }
            match Start::read(&**self.disk, generation) {
                Ok(start) => {
                    self.used.insert(start::name(generation));
                    lineage.push((generation, start));
                }
                Err(fault) => {
                    self.damaged(start::name(generation), fault.kind());
                    if let Some(why) = fault.aside() {
                        let theirs = self.files.keys().filter(|name| name.generation == generation);
                        self.aside.extend(theirs.map(|name| (*name, why)));
                        is_whole &= why != Aside::Unreadable;
                    }
                }
            }
        }
        lineage.reverse();
        let is_aside = |name: &FileName| self.aside.iter().any(|(aside, _)| aside == name);
        let is_kept = |name: &FileName| lineage.iter().any(|(kept, _)| *kept == name.generation);
        let others = self.files.keys().filter(|name| !is_kept(name) && !is_aside(name));
        let others: Vec<FileName> = others.copied().collect();
        if is_whole {
            self.unusable = others;
        } else {
            // A start that can't be read now may be what leads to them.
            self.aside.extend(others.into_iter().map(|name| (name, Aside::Unreadable)));
        }
        lineage
    }

    /// Goes from the newest snapshots through the journals.
    fn follow(&mut self, lineage: &[(u64, Start)]) -> Parent {
        let (base, snapshots) = self.base(lineage);
        let (generation, start) = &lineage[base];
        let is_first = start.parent.is_none();
        let mut from: Vec<Place> = Vec::new();
        for (shard, snapshot) in snapshots.into_iter().enumerate() {
            let name = FileName {
                generation: *generation,
                kind: FileKind::Snapshot,
                shard: shard as u32,
                position: snapshot.unwrap_or(0),
            };
            if snapshot.is_some() {
                self.used.insert(name);
                self.recovery.snapshots.push(ShardSnapshot {
                    shard: name.shard,
                    shards: start.shards,
                    position: name.position,
                    bytes: self.files[&name],
                    name,
                    disk: self.disk.clone(),
                });
            } else if !is_first {
                self.damaged(name, DamageKind::Missing);
                from.push(NOWHERE);
                continue;
            }
            from.push((*generation, name.position));
        }
        for (at, (generation, start)) in lineage.iter().enumerate().skip(base) {
            let next = lineage.get(at + 1).map(|(_, next)| next);
            let ends = next.and_then(|next| next.parent.as_ref()).map(|parent| &parent.ends);
            for (shard, place) in from.iter_mut().enumerate() {
                if place.0 == *generation {
                    // The newest that says so: what was damaged before an earlier start is known.
                    let later = lineage[at + 1..].iter().rev();
                    let ends =
                        later.filter_map(|(_, start)| start.parent.as_ref()?.ends.get(shard));
                    let end = ends.copied().find(|end| end.0 == *generation).map(|end| end.1);
                    place.1 = self.journal(*generation, (shard as u32, start.shards), place.1, end);
                }
            }
            let (Some(next), Some(ends)) = (next, ends) else { break };
            let is_reached: Vec<bool> =
                from.iter().zip(ends).map(|(place, end)| place == end).collect();
            let is_all = ends.len() == from.len() && is_reached.iter().all(|is| *is);
            let next_generation = lineage[at + 1].0;
            if is_all {
                from = vec![(next_generation, 0); next.shards as usize];
            } else if next.shards == start.shards && ends.len() == from.len() {
                for (place, is_reached) in from.iter_mut().zip(is_reached) {
                    if is_reached {
                        *place = (next_generation, 0);
                    }
                }
            } else {
                return Parent { generation: *generation, ends: from };
            }
        }
        let (generation, _) = lineage.last().expect("a lineage has a generation");
        Parent { generation: *generation, ends: from }
    }

    /// The newest generation with a whole snapshot of each shard, else the oldest; and these snapshots.
    fn base(&mut self, lineage: &[(u64, Start)]) -> (usize, Vec<Option<Position>>) {
        for (at, (generation, start)) in lineage.iter().enumerate().rev() {
            let has_all = (0..start.shards)
                .all(|shard| !self.positions(*generation, FileKind::Snapshot, shard).is_empty());
            if !has_all && at > 0 {
                continue;
            }
            let newest = |shard| self.newest_snapshot(*generation, shard);
            let snapshots: Vec<_> = (0..start.shards).map(newest).collect();
            if at == 0 || snapshots.iter().all(Option::is_some) {
                return (at, snapshots);
            }
        }
        unreachable!("a lineage has a generation")
    }

    /// The positions of files of one kind, ascending.
    fn positions(&self, generation: u64, kind: FileKind, shard: u32) -> Vec<Position> {
        let first = FileName { generation, kind, shard, position: 0 };
        let last = FileName { position: Position::MAX, ..first };
        self.files.range(first..=last).map(|(name, _)| name.position).collect()
    }

    fn newest_snapshot(&mut self, generation: u64, shard: u32) -> Option<Position> {
        let positions = self.positions(generation, FileKind::Snapshot, shard);
        for position in positions.into_iter().rev() {
            let name = FileName { generation, kind: FileKind::Snapshot, shard, position };
            match check_snapshot(&**self.disk, &name) {
                Ok(()) => return Some(position),
                Err(fault) => {
                    self.damaged(name, fault.kind());
                    match fault.aside() {
                        Some(why) => self.aside.push((name, why)),
                        None => self.unusable.push(name),
                    }
                }
            }
        }
        None
    }

    /// Finds the records of a shard from a position on, up to `end` where that is known. Returns where they end.
    fn journal(
        &mut self,
        generation: u64,
        (shard, shards): (u32, u32),
        first: Position,
        end: Option<Position>,
    ) -> Position {
        let positions = self.positions(generation, FileKind::Journal, shard);
        let limit = end.unwrap_or(Position::MAX);
        let (mut next, mut segments) = (first, Vec::new());
        // What ended the last segment. It is no damage if the next one goes on from there.
        let mut fault: Option<(FileName, DamageKind)> = None;
        for (at, position) in positions.iter().copied().enumerate() {
            let name = FileName { generation, kind: FileKind::Journal, shard, position };
            let is_past = positions.get(at + 1).is_some_and(|following| *following <= next);
            if is_past || next >= limit {
                continue;
            }
            if position > next {
                let (name, kind) = fault.take().unwrap_or((name, DamageKind::Missing));
                fault = Some((name, kind));
                break;
            }
            let Counted { records, is_proven, fault: ended } =
                count_records(&**self.disk, &name, limit - position);
            fault = ended.map(|ended| {
                if let ReadFault::Version(version) = ended {
                    self.aside.push((name, Aside::Newer(version)));
                }
                (name, ended.kind())
            });
            if position + records > next {
                let skip = next - position;
                segments.push(SegmentPart { name, skip, take: records - skip, is_proven });
                next = position + records;
            }
        }
        match (fault, end) {
            (Some((name, kind)), _) if next < limit => self.damaged(name, kind),
            (None, Some(end)) if next < end => {
                let name = FileName { generation, kind: FileKind::Journal, shard, position: next };
                self.damaged(name, DamageKind::Missing);
            }
            _ => {}
        }
        if !segments.is_empty() {
            self.used.extend(segments.iter().map(|part| part.name));
            let bytes = segments.iter().map(|part| self.files[&part.name]).sum();
            let disk = self.disk.clone();
            let journal = ShardJournal { shard, shards, first, end: next, bytes, segments, disk };
            self.recovery.journals.push(journal);
        }
        next
    }

    fn damaged(&mut self, name: FileName, kind: DamageKind) {
        self.recovery.damage.push(Damaged { kind, file: name.to_string() });
    }
}

fn check_snapshot(disk: &dyn Disk, name: &FileName) -> Result<(), ReadFault> {
    let mut reader = FrameReader::open(disk, name)?;
    while reader.next_block()?.is_some() {}
    Ok(())
}

/// What [`count_records`] has found.
struct Counted {
    records: u64,
    /// Whether a mark of the end follows them.
    is_proven: bool,
    /// What is wrong after them.
    fault: Option<ReadFault>,
}

/// The whole records at the beginning of a segment, `max` at most.
fn count_records(disk: &dyn Disk, name: &FileName, max: u64) -> Counted {
    let mut counted = Counted { records: 0, is_proven: false, fault: None };
    let mut reader = match FrameReader::open(disk, name) {
        Ok(reader) => reader,
        Err(fault) => return Counted { fault: Some(fault), ..counted },
    };
    loop {
        match reader.next_record() {
            Ok(Some(_)) if counted.records < max => counted.records += 1,
            // Those from `max` on count no more, and what is wrong with them neither.
            Ok(Some(_)) => return counted,
            Ok(None) => return Counted { is_proven: reader.has_ended(), ..counted },
            Err(_) if counted.records == max => return counted,
            Err(kind) => {
                counted.fault = Some(kind.into());
                return counted;
            }
        }
    }
}
