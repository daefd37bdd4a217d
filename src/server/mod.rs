//! The life of the server: it builds the queues, starts the threads, and stops them in the order of the data.
//!
//! | file | content |
//! | --- | --- |
//! | `shared` | what several threads use: registry, readiness, the main thread's events |
//! | `counters` | every counter, and which of them the scrape and the live page read |
//! | `workers`, `analytics`, `incidents`, `store`, `state`, `reads` | each builds its threads from plain values of the settings |
//! | `replicas` | the cluster's book of incidents |
//! | `past` | what a simulated fleet has measured before the start |
//! | `notify` | who tells others of incidents |
//! | `engine` | the HTTP engine: starts, drains |
//! | `reload` | what SIGHUP reads again |
//! | `limits`, `memory` | the file limit and the memory limit, divided |
//! | `signals`, `threads`, `summary`, `host` | SIGTERM, spawning and joining, the last log lines, the name of the machine |

mod analytics;
mod counters;
mod engine;
mod error;
mod host;
mod incidents;
mod limits;
mod memory;
mod notify;
mod past;
mod reads;
mod reload;
mod replicas;
mod shared;
mod signals;
mod state;
mod store;
mod summary;
mod threads;
mod workers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, unbounded};
use sigmad_clock::elapsed;
use sigmad_incidents::book::Book;
use tracing::info;

use self::analytics::{AnalyticsThreads, ToThreads};
use self::counters::ServerCounters;
use self::engine::RunningEngine;
pub use self::error::ServerError;
use self::incidents::RunningKeeper;
pub use self::notify::notify_test;
use self::notify::{Notifiers, Told};
use self::reads::ReadThreads;
use self::reload::Reloads;
use self::replicas::{ClusterParts, RunningCluster};
use self::shared::{MainEvent, Shared};
use self::state::{KeptRecording, StateParts};
use self::store::RedisParts;
use self::threads::join;
use self::workers::Queues;
use crate::analytics::KnownSilences;
use crate::config::{Ack, ServerSettings, Switch};
use crate::incidents::keeper::Kept;
use crate::incidents::shared::Incidents;
use crate::placement::{self, Asked, Machine};
use crate::readiness::ReadinessPhase;

/// Serves until SIGTERM, SIGINT or SIGQUIT, then drains. Clocks count from `start`. A simulated fleet has a `past`, which is
/// judged first. `is_listening` is called once, when the server accepts connections, with its first address of TCP.
///
/// # Errors
/// When the server can't start, or when a worker fails.
pub fn run(
    settings: &ServerSettings,
    start: Instant,
    past: Option<&sigmad_demo::Past>,
    is_listening: impl FnOnce(Option<SocketAddr>),
) -> Result<(), ServerError> {
    let (main, main_events) = unbounded();
    let machine = Machine::of_this_process();
    let asked = Asked {
        workers: settings.workers,
        shards: settings.analytics,
        pin: settings.pin,
        is_shared: settings.redis_url.is_some(),
    };
    let placement = placement::decide(&machine, asked);
    let plan = memory::plan(settings, &machine, &placement);
    let limits = limits::connection_limits(settings, placement.workers(), &plan)?;

    let shared = Shared::new(settings, plan.max_streams, placement.shards, start, main);
    let (redis, to_store) = RedisParts::new(settings, &plan, &shared).unzip();
    let redis_counters = redis.as_ref().map(|redis| redis.counters.clone());
    let has_state = settings.state_dir.is_some();
    let (workers, shards) = (placement.workers(), placement.shards);
    let mut counters = ServerCounters::new(workers, shards, redis_counters, has_state);
    counters.notify = notify::counters(settings);
    counters.acknowledge = (settings.ack == Ack::Disk).then(Arc::default);
    let counters = Arc::new(counters);
    signals::watch(start, shared.main.clone(), counters.clone()).map_err(ServerError::Start)?;
    let disk = state::lock(settings)?;
    let mut kept = incidents::kept(disk.as_ref(), settings, &shared, &counters);
    let book = kept.as_mut().and_then(|kept| kept.book.take());
    let known_silences =
        KnownSilences(Arc::new(book.as_ref().map(Book::silent).unwrap_or_default()));
    let (mut event_senders, incidents_asker, incidents) =
        incidents::thread(book, settings, &shared, &counters);
    let cluster = redis.as_ref().and_then(|redis| {
        ClusterParts::new(settings, &shared, &counters, redis.replica, &incidents_asker)
    });
    let asked = Incidents::new(incidents_asker.clone(), cluster.as_ref().map(ClusterParts::link))
        .kept(kept.as_ref().map(Kept::keep_now));
    let lists = (redis.as_ref().map(|redis| redis.lists.clone()), settings.ttl);
    let (queues, queue_ends) = Queues::new(&shared, &counters, asked, lists);
    let asker = &queues.requests.asker;
    let mut state = StateParts::new(disk, settings, &shared, asker, counters.state.as_ref());
    let (links, journals) = state.as_mut().map(StateParts::take_ways).unwrap_or_default();
    let history = state.as_mut().map_or(KeptRecording::NONE, StateParts::take_history);
    if settings.incidents == Switch::Off {
        // Else the thread would wait for their events at the end.
        event_senders.clear();
    }
    let to_threads = ToThreads {
        to_store,
        events: event_senders,
        links,
        pasts: past.map_or_else(Vec::new, |past| past::of_shards(past, &shared)),
        journals,
        known_silences,
    };
    let analytics = analytics::threads(settings, &plan, &shared, &counters, queue_ends, to_threads);

    let analytics =
        AnalyticsThreads::start(analytics, &shared, &placement).map_err(ServerError::Start)?;
    let incidents = incidents::start(incidents).map_err(ServerError::Start)?;
    let cluster = cluster.map(ClusterParts::start).transpose().map_err(ServerError::Start)?;
    let mut reloads = Reloads::default();
    if let Some(redis) = &redis {
        redis.reload_password(settings, &mut reloads);
    }
    let store = redis.map(RedisParts::start).transpose().map_err(ServerError::Start)?;
    let state = state.map(StateParts::start).transpose().map_err(ServerError::Start)?;
    let reads = ReadThreads::start(settings, &shared, &counters, queues.requests, history)
        .map_err(ServerError::Start)?;
    let workers = workers::parts(
        settings,
        plan.readings_max,
        &shared,
        &counters,
        queues.to_workers,
        &mut reloads,
    );
    let engine =
        RunningEngine::start(settings, limits, &placement, workers, &shared, &mut reloads)?;
    let keeper = RunningKeeper::start(kept, settings, &shared, &counters, &incidents_asker)
        .map_err(ServerError::Start)?;
    let told = Told {
        tcp: engine.tcp,
        incidents: &incidents_asker,
        notes: keeper.as_ref().map(RunningKeeper::notes),
        cluster: cluster.as_ref().map(RunningCluster::link),
    };
    let notifiers =
        Notifiers::start(settings, &shared, &counters, told).map_err(ServerError::Start)?;
    if store.is_none() && state.is_none() {
        shared.readiness.set(ReadinessPhase::Ready);
    }
    info!(
        address = engine.addresses.join(", "),
        workers = placement.workers(),
        workers_because = %placement.workers_reason,
        cores = ?placement.worker_cores,
        analytics_shards = placement.shards.of_devices(),
        analytics_cores = ?placement.analytics_cores,
        pinned_because = %placement.pin_reason,
        connections_max = limits.connections_max,
        started_ms = elapsed(start).as_millis() as u64,
        "listening"
    );
    is_listening(engine.tcp);

    let failure = wait(&main_events, &shared, &reloads);

    shared.readiness.set(ReadinessPhase::Draining);
    let deadline = elapsed(start) + settings.drain;
    if let Some(store) = &store {
        store.set_deadline(deadline, settings.drain);
    }
    if let Some(state) = &state {
        state.set_deadline(deadline);
    }
    engine.drain(match (&store, &state) {
        (Some(_), _) => store::drain_of_requests(settings.drain),
        (None, Some(_)) => state::drain_of_requests(settings.drain),
        (None, None) => settings.drain,
    });
    // The workers have ended, so readers and sample queues see closed channels, and end once they are empty.
    reads.join();
    let totals = analytics.join();
    drop(incidents_asker);
    // Nobody sends events any more; once no target is told either and the book is kept, nobody asks.
    let have_told = notifiers.stop(start, deadline);
    let has_kept = keeper.is_none_or(|keeper| keeper.stop(start, deadline));
    let leaving = cluster.map(|cluster| cluster.leave(deadline));
    if let Some(state) = state {
        state.join(start, deadline);
    }
    // Analytics has ended: the store writes what is left.
    if let Some(store) = store {
        store.join(start, deadline);
    }
    let has_left = leaving.is_none_or(|thread| replicas::join_left(&thread, start, deadline));
    if have_told && has_kept && has_left {
        join(incidents);
    }
    summary::log(&totals, &counters);
    failure.map_or(Ok(()), Err)
}

/// Waits for a signal, or for the failure of a worker. Meanwhile the first state of Redis, or the restored state, ends
/// the start.
fn wait(events: &Receiver<MainEvent>, shared: &Shared, reloads: &Reloads) -> Option<ServerError> {
    loop {
        match events.recv().expect("Shared holds a sender") {
            MainEvent::StoreState | MainEvent::Restored => {
                shared.readiness.set(ReadinessPhase::Ready)
            }
            MainEvent::Reload => reloads.run(),
            MainEvent::Signal(signal) => {
                info!(signal, "draining");
                return None;
            }
            MainEvent::WorkerFailed(error) => return Some(ServerError::Worker(error)),
        }
    }
}
