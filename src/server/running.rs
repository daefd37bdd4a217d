//! The threads of a running server, and the order in which they stop: that of the data.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sigmad_clock::elapsed;

use super::analytics::AnalyticsThreads;
use super::counters::ServerCounters;
use super::engine::RunningEngine;
use super::incidents::RunningKeeper;
use super::notify::Notifiers;
use super::reads::ReadThreads;
use super::replicas::{self, RunningCluster};
use super::state::{self, RunningState};
use super::store::{self, RunningStore};
use super::summary;
use super::threads::join;
use crate::incidents::asker::IncidentsAsker;

/// In the order in which they stop.
pub(super) struct RunningServer {
    pub engine: RunningEngine,
    pub reads: ReadThreads,
    pub analytics: AnalyticsThreads,
    pub incidents_asker: IncidentsAsker,
    pub notifiers: Notifiers,
    pub keeper: Option<RunningKeeper>,
    pub cluster: Option<RunningCluster>,
    pub state: Option<RunningState>,
    pub store: Option<RunningStore>,
    pub incidents: JoinHandle<()>,
    pub counters: Arc<ServerCounters>,
}

impl RunningServer {
    /// Where it listens.
    pub fn addresses(&self) -> &[String] {
        &self.engine.addresses
    }

    /// The first address of TCP.
    pub fn tcp(&self) -> Option<SocketAddr> {
        self.engine.tcp
    }

    /// Stops within `drain`; `start` is that of all clocks.
    pub fn drain(self, start: Instant, drain: Duration) {
        let deadline = elapsed(start) + drain;
        if let Some(store) = &self.store {
            store.set_deadline(deadline, drain);
        }
        if let Some(state) = &self.state {
            state.set_deadline(deadline);
        }
        self.engine.drain(match (&self.store, &self.state) {
            (Some(_), None) => store::drain_of_requests(drain),
            (None, Some(_)) => state::drain_of_requests(drain),
            // One after the other at worst: the states to Redis, then the last snapshot.
            (Some(_), Some(_)) => {
                store::drain_of_requests(drain).min(state::drain_of_requests(drain))
            }
            (None, None) => drain,
        });
        // The workers have ended, so readers and sample queues see closed channels, and end once they are empty.
        self.reads.join();
        let totals = self.analytics.join();
        drop(self.incidents_asker);
        // Nobody sends events any more; once no target is told either and the book is kept, nobody asks.
        let have_told = self.notifiers.stop(start, deadline);
        let has_kept = self.keeper.is_none_or(|keeper| keeper.stop(start, deadline));
        let leaving = self.cluster.map(|cluster| cluster.leave(deadline));
        if let Some(state) = self.state {
            state.join(start, deadline);
        }
        // Analytics has ended: the store writes what is left.
        if let Some(store) = self.store {
            store.join(start, deadline);
        }
        let has_left = leaving.is_none_or(|thread| replicas::join_left(&thread, start, deadline));
        if have_told && has_kept && has_left {
            join(self.incidents);
        }
        summary::log(&totals, &self.counters);
    }
}
