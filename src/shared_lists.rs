//! The latest anomalies and samples of all replicas, as Redis has them.
//!
//! Each replica writes entries of its own. Redis numbers every write and keeps the newest of each list; each replica
//! reads what is new, and drops what Redis drops. So all have the same entries, in one order: that of Redis' clock.
//! The store thread leaves them here, and [`Lists`](crate::lists::Lists) answers readers from them. No I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use sigmad_detectors::saved::{Saved, saved};

use crate::cluster_scope::ClusterScope;

/// Anomalies in the list of the cluster: as many as one replica keeps.
pub const ANOMALIES_LISTED: usize = 4_096;
/// Samples in the list of the cluster: as many as one replica keeps.
pub const SAMPLES_LISTED: usize = 16_384;
/// The version of an entry. Those of another one are left out, and counted.
const FORM: u8 = 1;

/// A list of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// Those of `/anomalies`.
    Anomalies,
    /// Those of `/latest`.
    Samples,
}

impl ListKind {
    /// All variants, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Anomalies, Self::Samples];

    /// The name in keys and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Anomalies => "anomalies",
            Self::Samples => "samples",
        }
    }

    /// Entries that are kept.
    pub const fn kept(self) -> usize {
        match self {
            Self::Anomalies => ANOMALIES_LISTED,
            Self::Samples => SAMPLES_LISTED,
        }
    }
}

/// The place of an entry among those of all replicas. It never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListPlace {
    /// When it began, microseconds since 1970, by Redis' clock.
    pub began_us: i64,
    /// The replica whose entry it is.
    pub replica: u32,
    /// Its number there.
    pub serial: u64,
}

/// What a replica says of an anomaly or of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListEntry {
    /// When it began, microseconds since 1970, by Redis' clock.
    pub began_us: i64,
    /// The wall clock of that replica less Redis' clock: what its times are corrected by.
    pub offset_us: i64,
    /// The number of the replica's last change of it.
    pub change: u64,
    /// The rest, in a form that is the list's own.
    pub body: Vec<u8>,
}

impl ListEntry {
    /// The entry as bytes.
    pub fn write(&self) -> Vec<u8> {
        let mut to = Vec::with_capacity(1 + 3 * size_of::<u64>() + self.body.len());
        FORM.write(&mut to);
        self.began_us.write(&mut to);
        self.offset_us.write(&mut to);
        self.change.write(&mut to);
        to.extend_from_slice(&self.body);
        to
    }

    /// None for what this version does not write.
    pub fn read(mut bytes: &[u8]) -> Option<Self> {
        let from = &mut bytes;
        if u8::read(from)? != FORM {
            return None;
        }
        let (began_us, offset_us) = (Saved::read(from)?, Saved::read(from)?);
        Some(Self { began_us, offset_us, change: Saved::read(from)?, body: from.to_vec() })
    }
}

/// The body of an entry for a sample.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleBody {
    /// Its device, None for none.
    pub device: Option<Arc<str>>,
    /// Its timestamp.
    pub timestamp_us: i64,
    /// Names and values.
    pub readings: Vec<(Arc<str>, f64)>,
}

saved!(SampleBody { device, timestamp_us, readings } if |it| {
    !it.readings.is_empty() && it.readings.iter().all(|(_, value)| value.is_finite())
});

/// The device that the body of an entry begins with; None inside for none.
pub fn device_of(mut body: &[u8]) -> Option<Option<Box<str>>> {
    Saved::read(&mut body)
}

/// An entry that was read from Redis.
#[derive(Clone, Debug)]
pub struct NumberedEntry {
    /// The number of its last write, of all replicas.
    pub number: u64,
    /// The replica whose entry it is.
    pub replica: u32,
    /// Its number there.
    pub serial: u64,
    /// The entry.
    pub entry: ListEntry,
}

/// What the list has of each shard of this replica itself, but for what found no room: samples, counted from the start, or
/// the number of the last change of an anomaly. What came later is only here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnProgress(Vec<u64>);

impl OwnProgress {
    /// That of one shard.
    pub fn of(&self, shard: usize) -> u64 {
        self.0.get(shard).copied().unwrap_or(0)
    }

    /// That of all shards together.
    pub fn sum(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Notes how far a shard is.
    pub fn set(&mut self, shard: usize, until: u64) {
        if self.0.len() <= shard {
            self.0.resize(shard + 1, 0);
        }
        self.0[shard] = until;
    }
}

#[derive(Debug, Default)]
struct List {
    entries: BTreeMap<ListPlace, (u64, ListEntry)>,
    by_number: BTreeMap<u64, ListPlace>,
    /// None before it has any entry of this replica.
    own: Option<OwnProgress>,
}

impl List {
    fn add(&mut self, numbered: NumberedEntry, own: u32, kept: usize) {
        let NumberedEntry { number, replica, serial, entry } = numbered;
        let place = ListPlace { began_us: entry.began_us, replica, serial };
        if replica == own {
            self.own.get_or_insert_default();
        }
        // A later number means a later state, whatever the order of replies.
        if self.entries.get(&place).is_some_and(|(known, _)| *known >= number) {
            return;
        }
        if let Some((before, _)) = self.entries.insert(place, (number, entry)) {
            self.by_number.remove(&before);
        }
        if let Some(other) = self.by_number.insert(number, place)
            && other != place
        {
            // No two writes have one number: another client wrote it.
            self.entries.remove(&other);
        }
        while self.by_number.len() > kept
            && let Some((_, oldest)) = self.by_number.pop_first()
        {
            self.entries.remove(&oldest);
        }
    }
}

#[derive(Debug)]
struct State {
    lists: [List; ListKind::ALL.len()],
    /// Since when Redis is away, microseconds since 1970.
    away_since_us: Option<i64>,
    offset_us: i64,
}

/// What the store thread knows of the lists. It alone writes; readers take what they show.
#[derive(Debug)]
pub struct SharedLists {
    own: u32,
    state: Mutex<State>,
}

/// What a reader takes of a list.
#[derive(Debug)]
pub struct ListPage<T> {
    /// Newest first.
    pub rows: Vec<(ListPlace, T)>,
    /// What the list has of this replica. None before it has anything.
    pub own: Option<OwnProgress>,
    /// The wall clock of this replica less Redis' clock.
    pub offset_us: i64,
}

impl SharedLists {
    /// Nothing is known since `now_us`. `own` is this replica.
    pub fn new(own: u32, now_us: i64) -> Self {
        let state = State { lists: Default::default(), away_since_us: Some(now_us), offset_us: 0 };
        Self { own, state: Mutex::new(state) }
    }

    /// This replica.
    pub fn own(&self) -> u32 {
        self.own
    }

    /// Adds what was read.
    pub fn add(&self, kind: ListKind, read: Vec<NumberedEntry>) {
        let mut state = self.state.lock();
        let list = &mut state.lists[kind as usize];
        read.into_iter().for_each(|entry| list.add(entry, self.own, kind.kept()));
    }

    /// Adds what this replica has written; from now on the list has so much of it.
    pub fn add_own(&self, kind: ListKind, written: Vec<NumberedEntry>, progress: &OwnProgress) {
        let mut state = self.state.lock();
        let list = &mut state.lists[kind as usize];
        written.into_iter().for_each(|entry| list.add(entry, self.own, kind.kept()));
        if let Some(own) = &mut list.own {
            own.clone_from(progress);
        }
    }

    /// What `wanted` makes of the entries of other replicas that were written after the write of number `cursor`, in the
    /// order of their writes, up to that of number `until`; advances the cursor. With the wall clock of this replica less
    /// Redis' clock.
    pub fn changed_elsewhere<T>(
        &self,
        kind: ListKind,
        cursor: &mut u64,
        until: u64,
        mut wanted: impl FnMut(&ListPlace, &ListEntry) -> Option<T>,
    ) -> (Vec<T>, i64) {
        let state = self.state.lock();
        let list = &state.lists[kind as usize];
        let new = list.by_number.range(cursor.saturating_add(1)..);
        let mut changed = Vec::new();
        for (number, place) in new.take_while(|(number, _)| **number <= until) {
            *cursor = *number;
            if place.replica != self.own
                && let Some((_, entry)) = list.entries.get(place)
            {
                changed.extend(wanted(place, entry));
            }
        }
        (changed, state.offset_us)
    }

    /// All entries of a list, from the oldest on.
    pub fn all(&self, kind: ListKind) -> Vec<(ListPlace, ListEntry)> {
        let state = self.state.lock();
        let entries = state.lists[kind as usize].entries.iter();
        entries.map(|(place, (_, entry))| (*place, entry.clone())).collect()
    }

    /// All that the other replicas had written a moment ago is here.
    pub fn reached(&self, offset_us: i64) {
        let mut state = self.state.lock();
        (state.away_since_us, state.offset_us) = (None, offset_us);
    }

    /// Redis is away, or refuses the lists.
    pub fn away(&self, now_us: i64) {
        self.state.lock().away_since_us.get_or_insert(now_us);
    }

    /// Whose data an answer has now.
    pub fn scope(&self) -> ClusterScope {
        let degraded_since_us = self.state.lock().away_since_us;
        ClusterScope { is_cluster: degraded_since_us.is_none(), degraded_since_us }
    }

    /// The newest `limit` entries of which `wanted` makes something.
    pub fn newest<T>(
        &self,
        kind: ListKind,
        limit: usize,
        mut wanted: impl FnMut(&ListPlace, &ListEntry) -> Option<T>,
    ) -> ListPage<T> {
        let state = self.state.lock();
        let list = &state.lists[kind as usize];
        let newest_first = list.entries.iter().rev();
        let rows = newest_first
            .filter_map(|(place, (_, entry))| Some((*place, wanted(place, entry)?)))
            .take(limit)
            .collect();
        ListPage { rows, own: list.own.clone(), offset_us: state.offset_us }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(began_us: i64, change: u64) -> ListEntry {
        ListEntry { began_us, offset_us: -3, change, body: vec![1, 2, 3] }
    }

    fn numbered(number: u64, replica: u32, serial: u64) -> NumberedEntry {
        let entry = entry(serial as i64, number);
        NumberedEntry { number, replica, serial, entry }
    }

    fn places(lists: &SharedLists) -> Vec<(u32, u64)> {
        let page = lists.newest(ListKind::Anomalies, usize::MAX, |_, _| Some(()));
        page.rows.iter().map(|(place, ())| (place.replica, place.serial)).collect()
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let written = entry(5, 7).write();
        assert_eq!(ListEntry::read(&written), Some(entry(5, 7)));
        for end in 0..25 {
            assert_eq!(ListEntry::read(&written[..end]), None, "{end}");
        }
        let mut other_version = written;
        other_version[0] += 1;
        assert_eq!(ListEntry::read(&other_version), None);
    }

    proptest! {
        #[test]
        fn all_that_have_read_the_same_have_the_same_entries(
            writes in proptest::collection::vec((0..3_u32, 0..4_000_u64), 1..200),
            again in any::<prop::sample::Index>(),
        ) {
            let read = |writes: &[(u32, u64)]| {
                let numbered = |(at, &(replica, serial))| numbered(at as u64, replica, serial);
                writes.iter().enumerate().map(numbered).collect::<Vec<_>>()
            };
            let (one, other) = (SharedLists::new(0, 9), SharedLists::new(1, 9));
            one.add(ListKind::Anomalies, read(&writes));
            // A page that was read twice, and in two steps.
            let middle = again.index(writes.len());
            other.add(ListKind::Anomalies, read(&writes)[..middle].to_vec());
            other.add(ListKind::Anomalies, read(&writes));
            prop_assert_eq!(places(&one), places(&other));
            prop_assert!(places(&one).is_sorted_by(|next, before| next.1 >= before.1));
        }
    }

    #[test]
    fn what_redis_dropped_is_dropped_and_a_change_keeps_its_place() {
        let lists = SharedLists::new(2, 9);
        let kept = ListKind::Anomalies.kept() as u64;
        let all = (0..kept + 10).map(|at| numbered(at, 1, at)).collect();
        lists.add(ListKind::Anomalies, all);
        // The oldest that is left changes, and stays when another one comes.
        lists.add(ListKind::Anomalies, vec![numbered(kept + 10, 1, 10), numbered(kept + 11, 2, 3)]);
        let left = places(&lists);
        assert_eq!(left.len() as u64, kept);
        assert_eq!((left[0], left[left.len() - 2]), ((1, kept + 9), (1, 10)));
        assert_eq!(left[left.len() - 1], (2, 3));
        let page = lists.newest(ListKind::Anomalies, 1, |_, entry| Some(entry.change));
        assert_eq!((page.rows.len(), page.rows[0].1), (1, kept + 9));
    }

    #[test]
    fn what_was_written_here_is_listed_at_the_moment_it_is_said_to_be() {
        let lists = SharedLists::new(2, 9);
        assert_eq!(lists.newest(ListKind::Samples, 9, |_, _| Some(())).own, None);
        let mut progress = OwnProgress::default();
        progress.set(2, 7);
        progress.set(0, 1);
        lists.add_own(ListKind::Samples, vec![numbered(5, 2, 3)], &progress);
        // Read from Redis it says nothing: it may be of another process of this replica.
        lists.add(ListKind::Samples, vec![numbered(6, 2, 90)]);
        let page = lists.newest(ListKind::Samples, 9, |_, _| Some(()));
        let own = page.own.expect("it has some");
        assert_eq!((page.rows.len(), own.sum()), (2, 8));
        assert_eq!([0, 1, 2, 3].map(|shard| own.of(shard)), [1, 0, 7, 0]);
    }

    #[test]
    fn the_scope_says_since_when_redis_is_away() {
        let lists = SharedLists::new(1, 9);
        lists.away(10);
        let away = ClusterScope { is_cluster: false, degraded_since_us: Some(9) };
        assert_eq!((lists.scope(), lists.scope().name()), (away, "local"));
        lists.reached(4);
        assert_eq!(lists.scope(), ClusterScope { is_cluster: true, degraded_since_us: None });
        assert_eq!(lists.newest(ListKind::Samples, 1, |_, _| Some(())).offset_us, 4);
    }
}
