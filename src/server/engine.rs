//! The HTTP engine: starts it, and drains it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::error::ServerError;
use super::shared::{MainEvent, Shared};
use super::threads::{join_all, spawn};
use super::workers::WorkerParts;
use crate::config::{Engine, ServerSettings};
use crate::http::budget::ConnectionBudget;
use crate::http::listen::listeners;
use crate::http::poller::epoll::EpollPoller;
use crate::http::worker::{Worker, WorkerHandle};
use crate::http::{self, Limits};
use crate::placement::Placement;

/// The engine that serves HTTP.
pub(super) struct RunningEngine {
    pub address: SocketAddr,
    drain: Box<dyn FnOnce(Duration)>,
}

impl RunningEngine {
    /// Starts the engine of the settings.
    pub fn start(
        settings: &ServerSettings,
        limits: Limits,
        placement: &Placement,
        workers: Vec<WorkerParts>,
        shared: &Shared,
    ) -> Result<Self, ServerError> {
        match settings.engine {
            Engine::Native => native(settings.listen, limits, placement, workers, shared),
            Engine::May => may(settings.listen, limits, placement, workers, shared),
        }
    }

    /// Returns when the last connection has closed, or after `limit`.
    pub fn drain(self, limit: Duration) {
        (self.drain)(limit);
    }
}

fn native(
    listen: SocketAddr,
    limits: Limits,
    placement: &Placement,
    workers: Vec<WorkerParts>,
    shared: &Shared,
) -> Result<RunningEngine, ServerError> {
    let unavailable = |error| ServerError::Listen(listen, error);
    let listeners = listeners(listen, workers.len()).map_err(unavailable)?;
    let address = listeners[0].local_addr().map_err(unavailable)?;
    let budget = Arc::new(ConnectionBudget::new(limits.memory_bytes_max));
    let mut threads = Vec::new();
    let mut handles: Vec<Arc<WorkerHandle>> = Vec::new();
    for (index, (parts, listener)) in workers.into_iter().zip(listeners).enumerate() {
        let WorkerParts { router, counters } = parts;
        let poller = EpollPoller::new(listener).map_err(ServerError::Start)?;
        let worker = Worker::new(poller, limits, budget.clone(), counters, shared.start, router);
        handles.push(worker.handle());
        let main = shared.main.clone();
        let core = placement.worker_cores[index];
        let thread = spawn(format!("worker-{index}"), core, move || {
            if let Err(error) = worker.run() {
                // Err: the main thread has ended.
                let _ = main.send(MainEvent::WorkerFailed(error));
            }
        });
        threads.push(thread.map_err(ServerError::Start)?);
    }
    let drain = move |limit| {
        for handle in &handles {
            handle.drain(limit);
        }
        join_all(threads);
    };
    Ok(RunningEngine { address, drain: Box::new(drain) })
}

fn may(
    listen: SocketAddr,
    limits: Limits,
    placement: &Placement,
    workers: Vec<WorkerParts>,
    shared: &Shared,
) -> Result<RunningEngine, ServerError> {
    warn!(limits = ?http::may::KNOWN_LIMITS, "--engine may is for comparisons on trusted networks");
    let counters = workers[0].counters.clone();
    let routers = workers.into_iter().map(|parts| parts.router).collect();
    let is_pinned = placement.analytics_core.is_some();
    let engine = http::may::start(listen, routers, limits, is_pinned, counters, shared.start)
        .map_err(|error| ServerError::Listen(listen, error))?;
    let address = engine.address();
    let drain = move |limit| drop(engine.stop(limit));
    Ok(RunningEngine { address, drain: Box::new(drain) })
}
