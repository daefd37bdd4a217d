//! What the server is made of before its first thread starts: every queue has both of its ends here.

use std::sync::Arc;

use sigmad_incidents::book::Book;

use super::analytics::{self, AnalyticsThreads, ToThreads};
use super::counters::ServerCounters;
use super::engine::RunningEngine;
use super::error::ServerError;
use super::incidents::{self, RunningKeeper};
use super::notify::{self, Notifiers, Told};
use super::past;
use super::reads::ReadThreads;
use super::reload::Reloads;
use super::replicas::{ClusterParts, RunningCluster};
use super::running::RunningServer;
use super::shared::Shared;
use super::signals;
use super::state::{self, KeptRecording, StateParts};
use super::store::RedisParts;
use super::workers::{self, Queues};
use crate::analytics::KnownSilences;
use crate::analytics::thread::AnalyticsThread;
use crate::config::{Ack, ServerSettings, Switch};
use crate::http::Limits;
use crate::incidents::asker::IncidentsAsker;
use crate::incidents::keeper::Kept;
use crate::incidents::shared::Incidents;
use crate::incidents::thread::IncidentsThread;
use crate::memory::MemoryPlan;
use crate::placement::Placement;
use crate::readiness::ReadinessPhase;
use crate::shared_history::SharedHistory;

pub(super) struct ServerParts {
    counters: Arc<ServerCounters>,
    analytics: Vec<AnalyticsThread>,
    incidents: IncidentsThread,
    incidents_asker: IncidentsAsker,
    cluster: Option<ClusterParts>,
    redis: Option<RedisParts>,
    state: Option<StateParts>,
    history: (KeptRecording, Option<Arc<SharedHistory>>),
    kept: Option<Kept>,
    queues: Queues,
}

impl ServerParts {
    /// A simulated fleet has a `past`.
    pub fn new(
        settings: &ServerSettings,
        plan: &MemoryPlan,
        placement: &Placement,
        shared: &Shared,
        past: Option<&sigmad_demo::Past>,
    ) -> Result<Self, ServerError> {
        let disk = state::lock(settings)?;
        let mut damaged = None;
        let number = |new| state::replica(disk.as_ref(), new, &mut damaged);
        let (redis, to_store) = RedisParts::new(settings, plan, shared, number).unzip();
        let to_store = to_store.unwrap_or_default();
        let redis_counters = redis.as_ref().map(|redis| redis.counters.clone());
        let has_state = settings.state_dir.is_some();
        let (workers, shards) = (placement.workers(), placement.shards);
        let mut counters = ServerCounters::new(workers, shards, redis_counters, has_state);
        counters.notify = notify::counters(settings);
        counters.acknowledge = (settings.ack == Ack::Disk).then(Arc::default);
        let counters = Arc::new(counters);
        signals::watch(shared.start, shared.main.clone(), counters.clone())
            .map_err(ServerError::Start)?;
        state::count(damaged.as_ref(), counters.state.as_ref());
        let mut kept = incidents::kept(disk.as_ref(), settings, shared, &counters);
        let book = kept.as_mut().and_then(|kept| kept.book.take());
        let known_silences =
            KnownSilences(Arc::new(book.as_ref().map(Book::silent).unwrap_or_default()));
        let (mut events, incidents_asker, incidents) =
            incidents::thread(book, settings, shared, &counters);
        let cluster = redis.as_ref().and_then(|redis| {
            ClusterParts::new(settings, shared, &counters, redis.replica, &incidents_asker)
        });
        let asked =
            Incidents::new(incidents_asker.clone(), cluster.as_ref().map(ClusterParts::link))
                .kept(kept.as_ref().map(Kept::keep_now));
        let lists = (redis.as_ref().map(|redis| redis.lists.clone()), settings.ttl);
        let (queues, queue_ends) = Queues::new(shared, &counters, asked, lists);
        let asker = &queues.requests.asker;
        let mut state = StateParts::new(disk, settings, shared, asker, counters.state.as_ref());
        let (links, journals) = state.as_mut().map(StateParts::take_ways).unwrap_or_default();
        let recorded = state.as_mut().map_or(KeptRecording::NONE, StateParts::take_history);
        let history = (recorded, cluster.as_ref().map(ClusterParts::history));
        if settings.incidents == Switch::Off {
            // Else the thread would wait for their events at the end.
            events.clear();
        }
        let pasts = past.map_or_else(Vec::new, |past| past::of_shards(past, shared));
        let to_threads = ToThreads { to_store, events, links, pasts, journals, known_silences };
        let analytics =
            analytics::threads(settings, plan, shared, &counters, queue_ends, to_threads);
        Ok(Self {
            counters,
            analytics,
            incidents,
            incidents_asker,
            cluster,
            redis,
            state,
            history,
            kept,
            queues,
        })
    }

    /// Starts the threads, those that others wait for first, and says what SIGHUP reads again.
    pub fn start(
        self,
        settings: &ServerSettings,
        placement: &Placement,
        plan: &MemoryPlan,
        limits: Limits,
        shared: &Shared,
    ) -> Result<(RunningServer, Reloads), ServerError> {
        let Self { counters, incidents_asker, redis, queues, history, kept, .. } = self;
        let failed = ServerError::Start;
        let analytics =
            AnalyticsThreads::start(self.analytics, shared, placement).map_err(failed)?;
        let incidents = incidents::start(self.incidents).map_err(failed)?;
        let cluster = self.cluster.map(ClusterParts::start).transpose().map_err(failed)?;
        let mut reloads = Reloads::default();
        if let Some(redis) = &redis {
            redis.reload_password(settings, &mut reloads);
        }
        let store = redis.map(RedisParts::start).transpose().map_err(failed)?;
        let state = self.state.map(StateParts::start).transpose().map_err(failed)?;
        let reads = ReadThreads::start(settings, shared, &counters, queues.requests, history)
            .map_err(failed)?;
        let (to_workers, readings_max) = (queues.to_workers, plan.readings_max);
        let workers =
            workers::parts(settings, readings_max, shared, &counters, to_workers, &mut reloads);
        let engine =
            RunningEngine::start(settings, limits, placement, workers, shared, &mut reloads)?;
        let keeper = RunningKeeper::start(kept, settings, shared, &counters, &incidents_asker)
            .map_err(failed)?;
        let told = Told {
            tcp: engine.tcp,
            incidents: &incidents_asker,
            notes: keeper.as_ref().map(RunningKeeper::notes),
            cluster: cluster.as_ref().map(RunningCluster::link),
        };
        let notifiers = Notifiers::start(settings, shared, &counters, told).map_err(failed)?;
        if store.is_none() && state.is_none() {
            shared.readiness.set(ReadinessPhase::Ready);
        }
        let running = RunningServer {
            engine,
            reads,
            analytics,
            incidents_asker,
            notifiers,
            keeper,
            cluster,
            state,
            store,
            incidents,
            counters,
        };
        Ok((running, reloads))
    }
}
