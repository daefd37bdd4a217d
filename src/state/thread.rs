//! The thread: restores, then writes the snapshots that the shards take.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, never, select};
use sigmad_clock::Clock;
use sigmad_state::{
    Disk, Recovery, ShardSnapshot, SnapshotWriter, StateDir, StateError, StateOptions,
};
use tracing::{error, info, warn};

use super::counters::StateCounters;
use super::history::KeptHistory;
use super::packing::Packer;
use super::replay::Replay;
use super::restore::{Restorer, SnapshotShard};
use crate::analytics::Asker;
use crate::analytics::saved::export::BLOCK_BYTES;
use crate::analytics::saved::form::{RecordKind, push_value};
use crate::analytics::saved::link::{RestoreMessage, SNAPSHOT_MESSAGES_MAX, SnapshotMessage};
use crate::analytics::saved::restore::NotRestored;
use crate::decode::PointTables;
use crate::readiness::{DirectoryState, Readiness};
use crate::registry::Registry;
use crate::shards::ShardLayout;

/// What a [`StateThread`] is made of.
pub struct StateThreadParts {
    /// The locked directory.
    pub disk: Arc<dyn Disk>,
    /// Bytes of all files together.
    pub bytes_max: u64,
    /// From one round of snapshots to the next.
    pub interval: Duration,
    /// How analytics is divided.
    pub layout: ShardLayout,
    /// Names of devices and metrics.
    pub registry: Arc<Registry>,
    /// Has the last values of counters.
    pub points: Arc<PointTables>,
    /// Asks shards for snapshots.
    pub asker: Asker,
    /// A way to each shard, for what it knew.
    pub restore: Vec<Sender<RestoreMessage>>,
    /// A report of each shard, once it is restored.
    pub restored: Receiver<NotRestored>,
    /// What the shards send. Disconnected when all have ended.
    pub snapshots: Receiver<SnapshotMessage>,
    /// Takes the time, since the start of the process, at which the drain ends. Disconnected: at once.
    pub deadline: Receiver<Duration>,
    /// Takes the directory once it is open: the way to the journal.
    pub journal: Sender<StateDir>,
    /// The journal has a gap, or needs room: a snapshot of all shards helps.
    pub wanted: Receiver<()>,
    /// The document of the history, and what is to be written into it.
    pub history: (KeptHistory, Receiver<Vec<u8>>),
    /// Shows how far it is.
    pub readiness: Arc<Readiness>,
    /// Called once, when all shards are restored.
    pub on_restored: Box<dyn FnOnce() + Send>,
    /// What the thread counts.
    pub counters: Arc<StateCounters>,
    /// Reads the time.
    pub clock: Clock,
}

/// The state of the thread; [`StateThread::run`] is its loop.
pub struct StateThread {
    directory: StateDir,
    layout: ShardLayout,
    registry: Arc<Registry>,
    points: Arc<PointTables>,
    asker: Asker,
    interval_ns: u64,
    snapshots: Receiver<SnapshotMessage>,
    wanted: Receiver<()>,
    history: KeptHistory,
    recorded: Receiver<Vec<u8>>,
    deadline: Receiver<Duration>,
    readiness: Arc<Readiness>,
    counters: Arc<StateCounters>,
    clock: Clock,
    /// The snapshot of each shard that is being written.
    writers: Vec<Option<SnapshotWriter>>,
    /// Of the newest snapshot of each shard.
    positions: Vec<Positions>,
    /// Its bytes.
    bytes: Vec<u64>,
    /// The shard that was asked last, until it has ended its snapshot.
    asked: Option<usize>,
    has_failed: bool,
    /// The snapshot under way of the last shard is its last one.
    takes_counters: bool,
    packer: Packer,
}

/// Chunks that a shard had judged.
#[derive(Clone, Copy, Debug, Default)]
struct Positions {
    /// When its last snapshot began.
    begun: u64,
    /// When the last one that was written began.
    written: Option<u64>,
}

impl StateThread {
    /// Restores, and writes snapshots until all shards have ended, or the time of the drain is over.
    pub fn run(mut parts: StateThreadParts) {
        let options = StateOptions {
            shards: parts.layout.threads() as u32,
            bytes_max: parts.bytes_max,
            ..StateOptions::default()
        };
        parts.readiness.set_directory(DirectoryState::Restoring(0));
        let opened = StateDir::open(parts.disk.clone(), options);
        let (directory, recovery) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                error!(%error, "the state directory can't be read: serving without it");
                parts.readiness.set_directory(DirectoryState::Degraded);
                // Nothing is restored, and that is all: what was wrong before is known to nobody any more.
                send_whole(&parts.restore);
                (parts.on_restored)();
                return;
            }
        };
        let is_complete = restore(&mut parts, &recovery);
        let StateThreadParts { layout, asker, snapshots, deadline, clock, wanted, .. } = parts;
        let (readiness, counters) = (parts.readiness, parts.counters);
        let (history, recorded) = parts.history;
        if !is_complete {
            // What is on the disk is more than what the shards know now.
            return;
        }
        readiness.set_directory(DirectoryState::Ok);
        // Err: the thread has ended, and with it the process.
        let _ = parts.journal.send(directory.clone());
        (parts.on_restored)();
        let thread = Self {
            directory,
            layout,
            registry: parts.registry,
            points: parts.points,
            asker,
            interval_ns: parts.interval.as_nanos() as u64,
            snapshots,
            wanted,
            history,
            recorded,
            deadline,
            readiness,
            counters,
            clock,
            writers: (0..layout.threads()).map(|_| None).collect(),
            positions: vec![Positions::default(); layout.threads()],
            bytes: vec![0; layout.threads()],
            asked: None,
            has_failed: false,
            takes_counters: false,
            packer: Packer::default(),
        };
        thread.write();
    }

    fn write(mut self) {
        let mut next_ns = self.clock.monotonic_ns() + self.interval_ns;
        let mut deadline_ns = u64::MAX;
        let mut deadline = self.deadline.clone();
        let mut wanted = self.wanted.clone();
        loop {
            let now_ns = self.clock.monotonic_ns();
            if now_ns >= deadline_ns {
                warn!("the time of the drain is over before the last snapshot is written");
                return;
            }
            if now_ns >= next_ns && self.asked.is_none() && deadline_ns == u64::MAX {
                next_ns = now_ns + self.interval_ns;
                self.ask(0);
            }
            let until_ns =
                if self.asked.is_some() { deadline_ns } else { next_ns.min(deadline_ns) };
            let wait = Duration::from_nanos(until_ns.saturating_sub(now_ns));
            select! {
                recv(self.snapshots) -> message => match message {
                    Ok(message) => self.take(message),
                    // All shards have ended, and before them the thread that records.
                    Err(_) => return self.write_last_history(),
                },
                recv(self.recorded) -> recorded => match recorded {
                    Ok(recorded) => self.write_history(&recorded),
                    Err(_) => self.recorded = never(),
                },
                recv(deadline) -> set => {
                    deadline_ns = set.map_or(0, |deadline| deadline.as_nanos() as u64);
                    deadline = never();
                }
                recv(wanted) -> message => match message {
                    Ok(()) => next_ns = self.clock.monotonic_ns(),
                    // The journal has ended: the last snapshots follow.
                    Err(_) => wanted = never(),
                },
                default(wait) => {}
            }
        }
    }

    fn write_last_history(&self) {
        if let Some(recorded) = self.recorded.try_iter().last() {
            self.write_history(&recorded);
        }
    }

    fn write_history(&self, recorded: &[u8]) {
        match self.history.write(recorded) {
            Ok(()) => self.counters.history_written_total.add(1),
            Err(error) => {
                self.counters.history_failed_total.add(1);
                warn!(%error, "the history can't be written; the one before is kept");
            }
        }
    }

    fn ask(&mut self, shard: usize) {
        self.asked = (shard < self.layout.threads()).then_some(shard);
        if self.asked.is_some() {
            self.asker.begin_snapshot(shard);
        }
    }

    fn take(&mut self, message: SnapshotMessage) {
        match message {
            SnapshotMessage::Begin { shard, position, is_last } => {
                // One that has not ended is dropped first: it has the same name if nothing was judged since.
                self.writers[shard] = None;
                self.takes_counters |= is_last && shard + 1 == self.layout.threads();
                if self.positions[shard].written == Some(position) && !self.takes_counters {
                    // Nothing was judged since the last one.
                    return;
                }
                self.positions[shard].begun = position;
                match self.directory.snapshot(shard as u32, position) {
                    Ok(writer) => self.writers[shard] = Some(writer),
                    Err(error) => self.failed(shard, &error),
                }
            }
            SnapshotMessage::Block { shard, block } => {
                // A shard that is under full load changes what is to be taken faster than it can be packed.
                let is_late = self.snapshots.len() >= SNAPSHOT_MESSAGES_MAX / 2;
                let block = if is_late { block } else { self.packer.pack(block) };
                if let Some(writer) = &mut self.writers[shard]
                    && let Err(error) = writer.block(&block)
                {
                    self.failed(shard, &error);
                }
            }
            SnapshotMessage::End { shard } => {
                match self.writers[shard].take().map(|writer| self.finish(shard, writer)) {
                    Some(Ok(bytes)) => self.written(shard, bytes),
                    Some(Err(error)) => self.failed(shard, &error),
                    None => {}
                }
                self.ended(shard);
            }
            SnapshotMessage::GivenUp { shard, rest } => {
                drop(rest);
                self.writers[shard] = None;
                self.counters.given_up_total.add(1);
                warn!(shard, "a snapshot is given up: the disk is too slow for it");
                self.ended(shard);
            }
        }
    }

    /// The last snapshot of the last shard has the counters of all: their devices are in the others.
    fn finish(&mut self, shard: usize, mut writer: SnapshotWriter) -> Result<u64, StateError> {
        if shard + 1 == self.layout.threads() && self.takes_counters {
            let (mut block, mut blocks) = (Vec::new(), Vec::new());
            self.points.saved_counters(&self.registry, |counter| {
                push_value(&mut block, RecordKind::Counter, &counter);
                if block.len() >= BLOCK_BYTES {
                    blocks.push(self.packer.pack(std::mem::take(&mut block)));
                }
            });
            if !block.is_empty() {
                blocks.push(self.packer.pack(block));
            }
            blocks.iter().try_for_each(|block| writer.block(block))?;
        }
        writer.finish()
    }

    /// The next shard takes its snapshot.
    fn ended(&mut self, shard: usize) {
        if self.asked == Some(shard) {
            self.ask(shard + 1);
        }
    }

    fn written(&mut self, shard: usize, bytes: u64) {
        self.bytes[shard] = bytes;
        self.positions[shard].written = Some(self.positions[shard].begun);
        self.counters.written_total.add(1);
        self.counters.snapshot_bytes.set(self.bytes.iter().sum());
        if std::mem::replace(&mut self.has_failed, false) {
            info!("snapshots are written again");
        }
        self.readiness.set_directory(DirectoryState::Ok);
    }

    fn failed(&mut self, shard: usize, error: &StateError) {
        self.writers[shard] = None;
        self.counters.failed_total.add(1);
        if matches!(error, StateError::Full) {
            self.directory.make_room();
        }
        // One line until it succeeds again.
        if !std::mem::replace(&mut self.has_failed, true) {
            warn!(shard, %error, "a snapshot can't be written; the older ones are kept");
        }
        self.readiness.set_directory(DirectoryState::Degraded);
    }
}

/// Passes what was recovered to the shards, and waits until all have it. False if the drain was over before.
fn restore(parts: &mut StateThreadParts, recovery: &Recovery) -> bool {
    let begun_ns = parts.clock.monotonic_ns();
    for damaged in &recovery.damage {
        parts.counters.damaged_total[damaged.kind as usize].add(1);
        warn!(file = damaged.file, kind = damaged.kind.name(), "a file of the state is damaged");
    }
    // The shards begin to judge when the last way to them is gone.
    let ways = std::mem::take(&mut parts.restore);
    // After a kill the journal has rates that the last values of counters do not know of.
    let points = recovery.journals.is_empty().then(|| parts.points.clone());
    let (registry, counters) = (parts.registry.clone(), parts.counters.clone());
    let mut restorer = Restorer::new(registry, parts.layout, counters, points, ways.clone());
    let mut progress = Progress { bytes: recovery.bytes().max(1), read: 0, shown: 0 };
    for snapshot in &recovery.snapshots {
        if !read_snapshot(snapshot, &mut restorer, &mut progress, parts) {
            return false;
        }
    }
    restorer.finish();
    drop(restorer);
    if !replay(ways, recovery, &mut progress, parts) {
        return false;
    }
    let mut not_restored = NotRestored::default();
    for shard in parts.restored.iter().take(parts.layout.threads()) {
        not_restored.records += shard.records;
        not_restored.states += shard.states;
    }
    let counters = &parts.counters;
    counters.records_lost_total.add(not_restored.records);
    counters.states_anew_total.add(not_restored.states);
    info!(
        bytes = recovery.bytes(),
        snapshots = recovery.snapshots.len(),
        devices = counters.restored_devices.get(),
        devices_without_room = counters.devices_without_room_total.get(),
        records_lost = counters.records_lost_total.get(),
        detector_states_anew = counters.states_anew_total.get(),
        ms = (parts.clock.monotonic_ns() - begun_ns) / 1_000_000,
        "restored"
    );
    true
}

/// Has the journals judged again. False if the drain is over.
fn replay(
    ways: Vec<Sender<RestoreMessage>>,
    recovery: &Recovery,
    progress: &mut Progress,
    parts: &StateThreadParts,
) -> bool {
    let (registry, counters) = (parts.registry.clone(), parts.counters.clone());
    let mut replay = Replay::new(registry, parts.layout, counters, ways.clone());
    let is_whole = recovery.journals.iter().all(|journal| {
        let goes_on = replay.journal(journal, |bytes| progress.advance(bytes, parts));
        goes_on.unwrap_or_else(|error| lost(&error, parts))
    });
    if is_whole {
        send_whole(&ways);
    }
    is_whole
}

/// Tells the shards that nothing follows.
fn send_whole(ways: &[Sender<RestoreMessage>]) {
    // Err: the shard's thread has ended, and with it the process.
    ways.iter().for_each(|way| _ = way.send(RestoreMessage::Whole));
}

/// How much of the files is read.
struct Progress {
    bytes: u64,
    read: u64,
    /// The last tenth that was logged.
    shown: u64,
}

impl Progress {
    /// Shows that so many bytes more are read. False if the drain is over.
    fn advance(&mut self, bytes: usize, parts: &StateThreadParts) -> bool {
        self.read += bytes as u64;
        // Disconnected: the main thread has failed, and the process ends.
        let deadline = match parts.deadline.try_recv() {
            Ok(deadline) => Some(deadline),
            Err(TryRecvError::Disconnected) => Some(Duration::ZERO),
            Err(TryRecvError::Empty) => None,
        };
        if deadline.is_some() {
            warn!("stopped while the state was read: it stays as it is on the disk");
            return false;
        }
        let percent = self.read * 100 / self.bytes;
        parts.readiness.set_directory(DirectoryState::Restoring(percent.min(100) as u8));
        if percent / 10 > self.shown {
            self.shown = percent / 10;
            info!(percent, "restoring");
        }
        true
    }
}

/// Reads a snapshot to its end. One that is damaged since it was checked ends early: the rest is lost, and counted.
/// False if the drain is over.
fn read_snapshot(
    snapshot: &ShardSnapshot,
    restorer: &mut Restorer,
    progress: &mut Progress,
    parts: &StateThreadParts,
) -> bool {
    let of = SnapshotShard { shard: snapshot.shard as usize, shards: snapshot.shards as usize };
    let mut blocks = match snapshot.blocks() {
        Ok(blocks) => blocks,
        Err(error) => return lost(&error, parts),
    };
    loop {
        match blocks.next_block() {
            Ok(None) => return true,
            Ok(Some(block)) => {
                restorer.block(of, block);
                if !progress.advance(block.len(), parts) {
                    return false;
                }
            }
            Err(error) => return lost(&error, parts),
        }
    }
}

fn lost(error: &StateError, parts: &StateThreadParts) -> bool {
    parts.counters.records_lost_total.add(1);
    error!(%error, "a part of the state is lost");
    true
}
