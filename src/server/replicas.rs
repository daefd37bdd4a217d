//! The thread `replicas`, which exists with Redis and incidents.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use sigmad_clock::{Clock, elapsed};
use sigmad_incidents::shared::joined::JoinSettings;

use super::counters::ServerCounters;
use super::incidents::book_settings;
use super::shared::Shared;
use super::threads::spawn;
use crate::config::{ServerSettings, Switch};
use crate::incidents::asker::IncidentsAsker;
use crate::incidents::notes::ToldNotes;
use crate::incidents::shared::{ClusterLink, ORDERS_WAITING_MAX, SharedState};
use crate::replicas::thread::{ReplicasParts, ReplicasThread};
use crate::shared_history::SharedHistory;
use crate::store::dial::TcpDialer;
use crate::store::keys::ReplicaId;

/// How often the end looks whether the thread has ended.
const JOIN_INTERVAL: Duration = Duration::from_millis(5);

/// The thread before it runs.
pub(super) struct ClusterParts {
    thread: ReplicasThread,
    link: ClusterLink,
    stop: Sender<()>,
    deadline_ns: Arc<AtomicU64>,
    history: Arc<SharedHistory>,
}

/// The thread.
pub(super) struct RunningCluster {
    thread: JoinHandle<()>,
    link: ClusterLink,
    stop: Sender<()>,
    deadline_ns: Arc<AtomicU64>,
}

impl ClusterParts {
    /// None without incidents.
    pub fn new(
        settings: &ServerSettings,
        shared: &Shared,
        counters: &ServerCounters,
        replica: ReplicaId,
        local: &IncidentsAsker,
    ) -> Option<Self> {
        let target = settings.redis_target().expect("the settings were checked")?;
        let counted = counters.cluster.clone().filter(|_| settings.incidents == Switch::On)?;
        let mut clock = Clock::new(shared.start);
        let state = Arc::new(SharedState::new(clock.now().wall_us));
        let (orders, ordered) = bounded(ORDERS_WAITING_MAX);
        let (stop, stopped) = bounded(1);
        let (notes, noted) = ToldNotes::new();
        let history = Arc::new(SharedHistory::new(replica.number(), clock.now().wall_us));
        let deadline_ns = Arc::<AtomicU64>::default();
        let book = book_settings(settings.incident_interval);
        let idle_us = settings.stream_idle.as_micros() as i64;
        let thread = ReplicasThread::new(ReplicasParts {
            target,
            replica,
            dialer: Arc::new(TcpDialer::new(shared.start, deadline_ns.clone())),
            clock,
            seed: RandomState::new().hash_one("replicas"),
            local: local.clone(),
            orders: ordered,
            stop: stopped,
            state: state.clone(),
            notes: notes.clone(),
            noted,
            registry: shared.registry.clone(),
            settings: book,
            join: JoinSettings { moved_us: book.window_us, idle_us },
            counters: counted,
            incidents: counters.incidents.clone(),
            history: history.clone(),
        });
        let link = ClusterLink { state, notes, orders };
        Some(Self { thread, link, stop, deadline_ns, history })
    }

    /// The ways to the thread.
    pub fn link(&self) -> ClusterLink {
        self.link.clone()
    }

    /// The way of recorded history.
    pub fn history(&self) -> Arc<SharedHistory> {
        self.history.clone()
    }

    /// Starts the thread.
    pub fn start(self) -> io::Result<RunningCluster> {
        let Self { thread, link, stop, deadline_ns, history: _ } = self;
        let thread = spawn("replicas".into(), None, move || thread.run())?;
        Ok(RunningCluster { thread, link, stop, deadline_ns })
    }
}

impl RunningCluster {
    /// The ways to the thread.
    pub fn link(&self) -> ClusterLink {
        self.link.clone()
    }

    /// Has the thread give up the lease, so that another replica takes it: by the deadline at the latest.
    pub fn leave(self, deadline: Duration) -> JoinHandle<()> {
        // Relaxed: no other data depends on it; the dialer reads it again and again. 0 means that there is none.
        self.deadline_ns.store((deadline.as_nanos() as u64).max(1), Ordering::Relaxed);
        // Err: the thread has ended.
        let _ = self.stop.send(());
        self.thread
    }
}

/// Waits until the thread has left. False if Redis has not answered by the deadline: then the lease ends by itself.
pub(super) fn join_left(thread: &JoinHandle<()>, start: Instant, deadline: Duration) -> bool {
    while !thread.is_finished() && elapsed(start) < deadline {
        std::thread::sleep(JOIN_INTERVAL);
    }
    thread.is_finished()
}
