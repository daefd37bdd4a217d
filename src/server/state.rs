//! The thread `state`, from the settings of the state directory.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use sigmad_clock::{Clock, elapsed};
use sigmad_state::{Damaged, Disk, RealDisk, StateDir};
use tracing::warn;

use super::error::ServerError;
use super::shared::{MainEvent, Shared};
use super::threads::spawn;
use crate::analytics::Asker;
use crate::analytics::saved::link::{
    DrainDeadline, RESTORE_MESSAGES_MAX, SNAPSHOT_MESSAGES_MAX, StateLink,
};
use crate::config::{Ack, ServerSettings};
use crate::incidents::keeper::KeeperCounters;
use crate::journal::counters::JournalCounters;
use crate::journal::thread::{JournalThread, JournalThreadParts};
use crate::journal::{self, JournalConsumer, JournalProducer};
use crate::readiness::DirectoryState;
use crate::state::counters::StateCounters;
use crate::state::history::KeptHistory;
use crate::state::replica;
use crate::state::thread::{StateThread, StateThreadParts};

/// What the last snapshot has of the drain: a gigabyte takes some seconds. At most this part, for a short one.
const LAST_SNAPSHOT: (Duration, u32) = (Duration::from_secs(6), 4);

/// From the end of the drain to that of the last write: the next start finds no more than half a file.
const LAST_STEP: Duration = Duration::from_millis(200);
/// Between two looks at threads that are to end.
const JOIN_INTERVAL: Duration = Duration::from_millis(5);

/// The counters of both threads.
#[derive(Clone)]
pub(super) struct StateDirCounters {
    pub snapshots: Arc<StateCounters>,
    pub journal: Arc<JournalCounters>,
    pub incidents: Arc<KeeperCounters>,
}

impl StateDirCounters {
    pub fn new(shards: usize) -> Self {
        let queues = (0..shards).map(|_| Arc::default()).collect();
        let journal = JournalCounters { queues, ..JournalCounters::default() };
        let pauses = (0..shards).map(|_| Arc::default()).collect();
        let snapshots = Arc::new(StateCounters { pauses, ..StateCounters::default() });
        Self { snapshots, journal: Arc::new(journal), incidents: Arc::default() }
    }
}

/// The threads before they run, and what the shards have of it.
pub(super) struct StateParts {
    thread: StateThreadParts,
    journal: JournalThreadParts,
    deadline: Sender<Duration>,
    drain: DrainDeadline,
    /// One for each shard.
    links: Vec<StateLink>,
    /// One for each shard.
    journals: Vec<JournalProducer>,
    history: KeptRecording,
}

/// What the thread `events` had recorded before the restart, and the way to keep it.
pub(super) struct KeptRecording {
    pub recorded: Option<Vec<u8>>,
    pub keeps: Option<Sender<Vec<u8>>>,
}

impl KeptRecording {
    /// Without a state directory.
    pub const NONE: Self = Self { recorded: None, keeps: None };
}

/// The running thread.
pub(super) struct RunningState {
    thread: JoinHandle<()>,
    journal: JoinHandle<()>,
    deadline: Sender<Duration>,
    drain: DrainDeadline,
}

/// Locks the directory; None without one.
pub(super) fn lock(settings: &ServerSettings) -> Result<Option<Arc<dyn Disk>>, ServerError> {
    let lock = |directory: &PathBuf| match RealDisk::lock(directory) {
        Ok(disk) => Ok(Arc::new(disk) as Arc<dyn Disk>),
        Err(error) => Err(ServerError::StateDir(directory.clone(), error)),
    };
    settings.state_dir.as_ref().map(lock).transpose()
}

/// The number of this replica: that in the directory, where there is one.
pub(super) fn replica(
    disk: Option<&Arc<dyn Disk>>,
    new: u32,
    damaged: &mut Option<Damaged>,
) -> u32 {
    let Some(disk) = disk else { return new };
    let number;
    (number, *damaged) = replica::number(disk.clone(), new);
    number
}

/// Counts a document that can't be read.
pub(super) fn count(damaged: Option<&Damaged>, counters: Option<&StateDirCounters>) {
    if let Some((damaged, counters)) = damaged.zip(counters) {
        counters.snapshots.damaged_total[damaged.kind as usize].add(1);
    }
}

impl StateParts {
    /// `disk`: the locked directory; None without one.
    pub fn new(
        disk: Option<Arc<dyn Disk>>,
        settings: &ServerSettings,
        shared: &Shared,
        asker: &Asker,
        counters: Option<&StateDirCounters>,
    ) -> Option<Self> {
        let (disk, counters) = disk.zip(counters)?;
        shared.readiness.set_directory(DirectoryState::Restoring(0));
        let shards = shared.layout.threads();
        let (snapshots_sender, snapshots) = bounded(SNAPSHOT_MESSAGES_MAX);
        let (restored_sender, restored) = bounded(shards);
        let (deadline_sender, deadline) = unbounded();
        let drain = DrainDeadline::default();
        let mut links = Vec::new();
        let mut ways = Vec::new();
        for shard in 0..shards {
            let (way, restore) = bounded(RESTORE_MESSAGES_MAX);
            ways.push(way);
            let (restored, snapshots) = (restored_sender.clone(), snapshots_sender.clone());
            let (deadline, pauses) = (drain.clone(), counters.snapshots.pauses[shard].clone());
            links.push(StateLink { shard, restore, restored, snapshots, deadline, pauses });
        }
        let queues = counters.journal.queues.iter();
        let (journals, consumers) = queues.map(|queue| journal::channel(queue.clone())).unzip();
        let (journal_sender, opened) = bounded(1);
        let (wants_snapshot, wanted) = bounded(1);
        let mut journal = journal_thread(shared, counters, consumers, opened, wants_snapshot);
        journal.acknowledges = settings.ack == Ack::Disk;
        let main = shared.main.clone();
        let (history, found) = KeptHistory::read(disk.clone());
        let recorded = found.unwrap_or_else(|damaged| {
            counters.snapshots.damaged_total[damaged.kind as usize].add(1);
            None
        });
        let (keeps, to_keep) = bounded(1);
        let thread = StateThreadParts {
            disk,
            history: (history, to_keep),
            bytes_max: settings.state_max as u64,
            interval: settings.snapshot_interval,
            layout: shared.layout,
            registry: shared.registry.clone(),
            points: shared.points.clone(),
            asker: asker.clone(),
            restore: ways,
            restored,
            snapshots,
            journal: journal_sender,
            wanted,
            deadline,
            readiness: shared.readiness.clone(),
            on_restored: Box::new(move || {
                // Err: the main thread has ended.
                let _ = main.send(MainEvent::Restored);
            }),
            counters: counters.snapshots.clone(),
            clock: Clock::new(shared.start),
        };
        let history = KeptRecording { recorded, keeps: Some(keeps) };
        Some(Self { thread, journal, deadline: deadline_sender, drain, links, journals, history })
    }

    /// For the thread `events`.
    pub fn take_history(&mut self) -> KeptRecording {
        std::mem::replace(&mut self.history, KeptRecording::NONE)
    }

    /// The ways from the shards to both threads.
    pub fn take_ways(&mut self) -> (Vec<StateLink>, Vec<JournalProducer>) {
        (std::mem::take(&mut self.links), std::mem::take(&mut self.journals))
    }

    /// Starts the thread.
    pub fn start(self) -> io::Result<RunningState> {
        let Self { thread, journal, deadline, drain, .. } = self;
        let thread = spawn("state".into(), None, move || StateThread::run(thread))?;
        let journal = spawn("journal".into(), None, move || JournalThread::run(journal))?;
        Ok(RunningState { thread, journal, deadline, drain })
    }
}

fn journal_thread(
    shared: &Shared,
    counters: &StateDirCounters,
    shards: Vec<JournalConsumer>,
    directory: Receiver<StateDir>,
    wants_snapshot: Sender<()>,
) -> JournalThreadParts {
    let readiness = shared.readiness.clone();
    JournalThreadParts {
        directory,
        shards,
        acknowledges: false,
        registry: shared.registry.clone(),
        wants_snapshot,
        on_state: Box::new(move |is_ok| {
            let state = if is_ok { DirectoryState::Ok } else { DirectoryState::Degraded };
            readiness.set_directory(state);
        }),
        counters: counters.journal.clone(),
        clock: Clock::new(shared.start),
    }
}

/// The part of the drain in which requests are finished. The last snapshot needs the rest.
pub(super) fn drain_of_requests(drain: Duration) -> Duration {
    let (longest, part) = LAST_SNAPSHOT;
    drain - longest.min(drain / part)
}

impl RunningState {
    /// Begins the drain, which ends at `deadline`.
    pub fn set_deadline(&self, deadline: Duration) {
        // Err: the thread has ended.
        let _ = self.deadline.send(deadline);
        self.drain.set(deadline.as_nanos() as u64);
    }

    /// Waits until the last snapshot is written, or the drain is over. A disk that hangs holds its thread, and not the end
    /// of the process.
    pub fn join(self, start: Instant, deadline: Duration) {
        while !self.thread.is_finished() || !self.journal.is_finished() {
            if elapsed(start) > deadline + LAST_STEP {
                return warn!(
                    "the state directory does not respond; what it has not taken is lost"
                );
            }
            std::thread::sleep(JOIN_INTERVAL);
        }
    }
}
