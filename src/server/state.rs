//! The thread `state`, from the settings of the state directory.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, unbounded};
use sigmad_clock::Clock;
use sigmad_state::RealDisk;

use super::error::ServerError;
use super::shared::{MainEvent, Shared};
use super::threads::{join, spawn};
use crate::analytics::Asker;
use crate::analytics::saved::link::{RESTORE_MESSAGES_MAX, SNAPSHOT_MESSAGES_MAX, StateLink};
use crate::config::ServerSettings;
use crate::readiness::DirectoryState;
use crate::state::counters::StateCounters;
use crate::state::thread::{StateThread, StateThreadParts};

/// What the last snapshot has of the drain: a gigabyte takes some seconds. At most this part, for a short one.
const LAST_SNAPSHOT: (Duration, u32) = (Duration::from_secs(6), 4);

/// The thread before it runs, and what the shards have of it.
pub(super) struct StateParts {
    thread: StateThreadParts,
    deadline: Sender<Duration>,
    /// One for each shard.
    links: Vec<StateLink>,
}

/// The running thread.
pub(super) struct RunningState {
    thread: JoinHandle<()>,
    deadline: Sender<Duration>,
}

impl StateParts {
    /// Locks the directory; None without one.
    pub fn new(
        settings: &ServerSettings,
        shared: &Shared,
        asker: &Asker,
        counters: Option<&Arc<StateCounters>>,
    ) -> Result<Option<Self>, ServerError> {
        let Some((directory, counters)) = settings.state_dir.as_ref().zip(counters) else {
            return Ok(None);
        };
        let disk = RealDisk::lock(directory)
            .map_err(|error| ServerError::StateDir(directory.clone(), error))?;
        shared.readiness.set_directory(DirectoryState::Restoring(0));
        let shards = shared.layout.threads();
        let (snapshots_sender, snapshots) = bounded(SNAPSHOT_MESSAGES_MAX);
        let (restored_sender, restored) = bounded(shards);
        let (deadline_sender, deadline) = unbounded();
        let mut links = Vec::new();
        let mut ways = Vec::new();
        for shard in 0..shards {
            let (way, restore) = bounded(RESTORE_MESSAGES_MAX);
            ways.push(way);
            let (restored, snapshots) = (restored_sender.clone(), snapshots_sender.clone());
            links.push(StateLink { shard, restore, restored, snapshots });
        }
        let main = shared.main.clone();
        let thread = StateThreadParts {
            disk: Arc::new(disk),
            bytes_max: settings.state_max as u64,
            interval: settings.snapshot_interval,
            layout: shared.layout,
            registry: shared.registry.clone(),
            asker: asker.clone(),
            restore: ways,
            restored,
            snapshots,
            deadline,
            readiness: shared.readiness.clone(),
            on_restored: Box::new(move || {
                // Err: the main thread has ended.
                let _ = main.send(MainEvent::Restored);
            }),
            counters: counters.clone(),
            clock: Clock::new(shared.start),
        };
        Ok(Some(Self { thread, deadline: deadline_sender, links }))
    }

    /// What the shards have of it, one for each.
    pub fn take_links(&mut self) -> Vec<StateLink> {
        std::mem::take(&mut self.links)
    }

    /// Starts the thread.
    pub fn start(self) -> io::Result<RunningState> {
        let Self { thread, deadline, .. } = self;
        let thread = spawn("state".into(), None, move || StateThread::run(thread))?;
        Ok(RunningState { thread, deadline })
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
    }

    /// Waits until the last snapshot is written, or the drain is over.
    pub fn join(self) {
        join(self.thread);
    }
}
