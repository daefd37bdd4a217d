//! What the store thread keeps for the lists of the cluster: entries to write, and how far the lists are read.
//!
//! Of the samples between two flushes the newest are listed, as many as one answer of `/latest` can have; the others are
//! counted. Anomalies wait until they are written, each as it was last.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::judged_queue::{ChangedAnomaly, JudgedChunk, ListedChanges, WholeSample};
use crate::registry::Registry;
use crate::shared_lists::{
    ANOMALIES_LISTED, ListEntry, ListKind, NumberedEntry, OwnProgress, SampleBody, SharedLists,
};
use crate::store::commands::lists::{ENTRIES_ADDED_MAX, FIRST_CURSOR, WrittenEntry};
use crate::store::keys::ReplicaId;
use crate::store::mark_reply::ChangeSet;
use sigmad_detectors::saved::Saved;
use sigmad_sample::Reading;

/// Samples that one flush adds to the list.
pub const SAMPLES_PER_FLUSH_MAX: usize = 1_000;

/// Chunks with so many samples are copied into one. A larger one is kept as it is: then at most sixteen are kept for it.
const COPIED_SAMPLES_MAX: usize = 64;
const _: () = assert!(SAMPLES_PER_FLUSH_MAX < 16 * COPIED_SAMPLES_MAX);

/// Commands of what Redis may have lost that are sent at a time: half a megabyte.
const WRITES_RESTATED_MAX: usize = 8;

/// Entries that are written together.
#[derive(Clone, Debug)]
pub struct ListWrite {
    /// The list.
    pub kind: ListKind,
    /// Of this replica, or of another one and only where Redis has none.
    pub is_own: bool,
    /// The entries.
    pub entries: Vec<WrittenEntry>,
}

/// The lists as the store sees them.
#[derive(Debug)]
pub struct ListDesk {
    /// What readers see.
    pub lists: Arc<SharedLists>,
    /// The number of the last write that was read, of each list.
    pub cursors: [u64; ListKind::ALL.len()],
    /// There may be something to read.
    pub is_due: bool,
    /// Redis refuses the lists.
    pub is_refused: bool,
    /// The set of changes that the cursors belong to: another one means that Redis has lost data.
    pub change_set: Option<ChangeSet>,
    /// The processes of Redis that the cursors belong to: another one may have lost data.
    pub run_ids: BTreeSet<Box<str>>,
    /// Samples that are not encoded so far, oldest first: [`SAMPLES_PER_FLUSH_MAX`] and at most two chunks more.
    recent: VecDeque<Box<JudgedChunk>>,
    /// How many these are.
    recent_samples: usize,
    /// Empty chunks, for those that are kept.
    #[expect(clippy::vec_box, reason = "they come and go in their boxes")]
    spare: Vec<Box<JudgedChunk>>,
    /// Encoded samples that Redis does not have: sent again as they are.
    encoded: Vec<WrittenEntry>,
    /// What Redis may have lost, and gets again.
    restated: Vec<ListWrite>,
    own: ReplicaId,
    anomalies: BTreeMap<u64, ChangedAnomaly>,
    /// How many samples were taken, by shard.
    taken: OwnProgress,
    /// Those up to which they are encoded, and the changes up to which anomalies were taken, by shard.
    progress: [OwnProgress; ListKind::ALL.len()],
    /// When each of the last anomalies began, by Redis' clock as it was known first: their places stay.
    began: BTreeMap<u64, i64>,
    last_us: i64,
    /// The serial of the last sample.
    last_serial: u64,
    /// Entries that found no room since [`ListDesk::take_left_out`].
    left_out: [u64; ListKind::ALL.len()],
}

impl ListDesk {
    /// Nothing is read so far.
    pub fn new(lists: Arc<SharedLists>, own: ReplicaId) -> Self {
        Self {
            lists,
            cursors: [FIRST_CURSOR; ListKind::ALL.len()],
            is_due: true,
            is_refused: false,
            change_set: None,
            run_ids: BTreeSet::new(),
            recent: VecDeque::new(),
            recent_samples: 0,
            spare: Vec::new(),
            encoded: Vec::new(),
            restated: Vec::new(),
            own,
            anomalies: BTreeMap::new(),
            taken: OwnProgress::default(),
            progress: Default::default(),
            began: BTreeMap::new(),
            last_us: 0,
            last_serial: 0,
            left_out: [0; ListKind::ALL.len()],
        }
    }

    /// Takes a chunk with its samples, and gives another one for it, whose samples nobody needs any more.
    pub fn take_samples(&mut self, chunk: Box<JudgedChunk>) -> Box<JudgedChunk> {
        if chunk.counted() == 0 {
            // Others have its samples.
            return chunk;
        }
        self.taken.set(chunk.shard, chunk.of_shard());
        self.recent_samples += chunk.len();
        let is_small = chunk.len() <= COPIED_SAMPLES_MAX;
        if is_small && self.recent.back_mut().is_some_and(|last| last.append(&chunk)) {
            return chunk;
        }
        self.recent.push_back(chunk);
        let is_full = |oldest: &mut Box<JudgedChunk>| {
            self.recent_samples >= SAMPLES_PER_FLUSH_MAX + oldest.len()
        };
        let Some(oldest) = self.recent.pop_front_if(is_full) else {
            return self.spare.pop().unwrap_or_default();
        };
        self.recent_samples -= oldest.len();
        self.left_out[ListKind::Samples as usize] += oldest.len() as u64;
        oldest
    }

    /// Takes anomalies of a shard that changed.
    pub fn take_anomalies(&mut self, shard: usize, changes: ListedChanges) {
        self.progress[ListKind::Anomalies as usize].set(shard, changes.until_change);
        for anomaly in changes.changed {
            self.anomalies.insert(anomaly.serial, anomaly);
            if self.anomalies.len() > ANOMALIES_LISTED {
                self.anomalies.pop_first();
                self.left_out[ListKind::Anomalies as usize] += 1;
            }
        }
    }

    /// True when Redis does not have all that was taken.
    pub fn has_unwritten(&self) -> bool {
        let is_written = self.recent.is_empty() && self.encoded.is_empty();
        !(is_written && self.anomalies.is_empty() && self.restated.is_empty())
    }

    /// Encodes the samples that were taken, unless earlier ones wait: in the order of their arrival, whichever shard has sent
    /// them. Those whose device was evicted on the way are left out. `offset_us` is what is added to the monotonic time to
    /// get Redis'.
    fn encode_samples(&mut self, offset_us: i64, registry: &Registry) {
        if !self.encoded.is_empty() {
            return;
        }
        let older = self.recent_samples.saturating_sub(SAMPLES_PER_FLUSH_MAX);
        self.left_out[ListKind::Samples as usize] += older as u64;
        self.progress[ListKind::Samples as usize].clone_from(&self.taken);
        let mut recent: Vec<_> = self.recent.iter().flat_map(|chunk| chunk.iter()).collect();
        // Those of one shard are in that order.
        recent.sort_by_key(|sample| sample.time_us);
        for sample in recent.into_iter().skip(older) {
            self.last_us = self.last_us.max(sample.time_us + offset_us);
            let name = |r: Reading| Some((registry.metric_name(r.metric)?, r.value));
            let readings: Vec<_> = sample.readings().filter_map(name).collect();
            let device = sample.device.map(|device| registry.device_name(device));
            if readings.is_empty() || device == Some(None) {
                self.left_out[ListKind::Samples as usize] += 1;
                continue;
            }
            // Also after a restart as the same replica a serial is a new one.
            self.last_serial = (self.last_us.max(0) as u64).max(self.last_serial + 1);
            let (WholeSample { timestamp_us, .. }, serial) = (sample, self.last_serial);
            let (device, mut body) = (device.flatten(), Vec::new());
            SampleBody { device, timestamp_us, readings }.write(&mut body);
            let entry = ListEntry { began_us: self.last_us, offset_us: 0, change: 0, body };
            self.encoded.push(WrittenEntry { replica: self.own, serial, entry });
        }
        self.recent_samples = 0;
        self.recent.iter_mut().for_each(|chunk| chunk.clear());
        self.spare.extend(self.recent.drain(..));
    }

    /// The anomalies to write. `offset_us`: the wall clock of this replica less Redis' clock.
    fn changed_anomalies(&mut self, offset_us: i64) -> Vec<WrittenEntry> {
        let replica = self.own;
        let entry = |changed: &ChangedAnomaly| {
            let ChangedAnomaly { serial, change, began_us, body } = changed;
            let began_us = *self.began.entry(*serial).or_insert(began_us - offset_us);
            let entry = ListEntry { began_us, offset_us, change: *change, body: body.clone() };
            WrittenEntry { replica, serial: *serial, entry }
        };
        let entries = self.anomalies.values().map(entry).collect();
        while self.began.len() > ANOMALIES_LISTED {
            // It has left the ring of analytics: it never changes again.
            self.began.pop_first();
        }
        entries
    }

    /// What Redis does not have of this replica. It stays until [`ListDesk::written`]. `redis_offset_us` is what is added
    /// to the monotonic time to get Redis', `wall_offset_us` the wall clock less Redis' clock.
    pub fn unwritten(
        &mut self,
        redis_offset_us: i64,
        wall_offset_us: i64,
        registry: &Registry,
    ) -> Vec<ListWrite> {
        self.encode_samples(redis_offset_us, registry);
        let anomalies = self.changed_anomalies(wall_offset_us);
        [(ListKind::Anomalies, &anomalies), (ListKind::Samples, &self.encoded)]
            .into_iter()
            .flat_map(|(kind, entries)| parts(kind, true, entries))
            .collect()
    }

    /// Redis has all that was asked for last, or refuses it. `written`: what it has now, of each list.
    pub fn written(&mut self, written: [Vec<NumberedEntry>; ListKind::ALL.len()]) {
        for (kind, entries) in ListKind::ALL.into_iter().zip(written) {
            if self.is_refused {
                self.lists.add(kind, entries);
            } else {
                self.lists.add_own(kind, entries, &self.progress[kind as usize]);
            }
        }
        self.encoded.clear();
        self.anomalies.clear();
    }

    /// Redis has lost data, or another master may have: gives it all that is known here, and reads the lists from their
    /// beginning.
    pub fn begin_again(&mut self) {
        self.cursors = [FIRST_CURSOR; ListKind::ALL.len()];
        self.is_due = true;
        self.restated.clear();
        for kind in ListKind::ALL {
            let known = self.lists.all(kind).into_iter().map(|(place, entry)| {
                let replica = ReplicaId::new(place.replica);
                WrittenEntry { replica, serial: place.serial, entry }
            });
            let (own, others): (Vec<_>, Vec<_>) = known.partition(|one| one.replica == self.own);
            self.restated.extend(parts(kind, true, &own));
            self.restated.extend(parts(kind, false, &others));
        }
    }

    /// The next entries that Redis may have lost.
    pub fn to_restate(&self) -> &[ListWrite] {
        &self.restated[..self.restated.len().min(WRITES_RESTATED_MAX)]
    }

    /// Redis has those, or refuses them.
    pub fn restated(&mut self, writes: usize) {
        self.restated.drain(..writes);
    }

    /// Entries that found no room since the last call.
    pub fn take_left_out(&mut self, kind: ListKind) -> u64 {
        std::mem::take(&mut self.left_out[kind as usize])
    }
}

/// The entries of a list in parts of which each is one command.
fn parts(
    kind: ListKind,
    is_own: bool,
    entries: &[WrittenEntry],
) -> impl Iterator<Item = ListWrite> {
    let part = move |part: &[WrittenEntry]| ListWrite { kind, is_own, entries: part.to_vec() };
    entries.chunks(ENTRIES_ADDED_MAX).map(part)
}
