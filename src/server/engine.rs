//! The HTTP engine: starts it, and drains it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::ServerConfig;
use tracing::warn;

use super::error::ServerError;
use super::reload::Reloads;
use super::shared::{MainEvent, Shared};
use super::threads::{join_all, spawn};
use super::workers::WorkerParts;
use crate::config::{Engine, PollerKind, ServerSettings, SettingsError};
use crate::http::budget::ConnectionBudget;
use crate::http::listen::{ListenAddress, Listener};
use crate::http::poller::Poller;
use crate::http::poller::epoll::EpollPoller;
use crate::http::poller::tls::TlsPoller;
use crate::http::poller::uring::UringPoller;
use crate::http::worker::{Worker, WorkerHandle};
use crate::http::{self, Limits};
use crate::placement::Placement;
use crate::reloadable::Reloadable;

/// The engine that serves HTTP.
pub(super) struct RunningEngine {
    /// Where it listens, in the order of `--listen`, as the log has it.
    pub addresses: Vec<String>,
    /// The first of them that is TCP.
    pub tcp: Option<SocketAddr>,
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
        reloads: &mut Reloads,
    ) -> Result<Self, ServerError> {
        match settings.engine {
            Engine::Native => {
                let tls = tls(settings, reloads).map_err(ServerError::Tls)?;
                native(settings, limits, placement, workers, shared, tls.as_ref())
            }
            Engine::May => may(&settings.listen[0], limits, placement, workers, shared),
        }
    }

    /// Returns when the last connection has closed, or after `limit`.
    pub fn drain(self, limit: Duration) {
        (self.drain)(limit);
    }
}

/// The certificate of new connections, which SIGHUP reads again.
fn tls(
    settings: &ServerSettings,
    reloads: &mut Reloads,
) -> Result<Option<Arc<Reloadable<ServerConfig>>>, SettingsError> {
    let Some(config) = settings.tls()? else { return Ok(None) };
    let tls = Reloadable::new(config);
    let (settings, in_force) = (settings.clone(), tls.clone());
    reloads.add("certificate", move || {
        if let Some(config) = settings.tls()? {
            in_force.replace(config);
        }
        Ok::<_, SettingsError>(())
    });
    Ok(Some(tls))
}

/// The poller of the settings, or epoll where the kernel does not allow it.
fn allowed(poller: PollerKind) -> PollerKind {
    if poller == PollerKind::IoUring
        && let Err(error) = UringPoller::probe()
    {
        warn!(%error, "io_uring can't be used here: epoll is used instead");
        return PollerKind::Epoll;
    }
    poller
}

fn native(
    settings: &ServerSettings,
    limits: Limits,
    placement: &Placement,
    workers: Vec<WorkerParts>,
    shared: &Shared,
    tls: Option<&Arc<Reloadable<ServerConfig>>>,
) -> Result<RunningEngine, ServerError> {
    let (mut addresses, mut files) = (Vec::new(), Vec::new());
    // Of each worker, one for each address.
    let mut own: Vec<Vec<Listener>> = workers.iter().map(|_| Vec::new()).collect();
    for address in &settings.listen {
        let bound = address.bind(workers.len());
        let bound = bound.map_err(|error| ServerError::Listen(address.clone(), error))?;
        addresses.push(bound.name);
        files.extend(bound.file);
        own.iter_mut().zip(bound.listeners).for_each(|(own, listener)| own.push(listener));
    }
    let tcp = own.iter().flatten().find_map(|listener| match listener {
        Listener::Tcp(listener) => listener.local_addr().ok(),
        Listener::Unix { .. } => None,
    });
    let budget = Arc::new(ConnectionBudget::new(limits.memory_bytes_max));
    let mut running = RunningWorkers::default();
    let kind = allowed(settings.poller);
    for (index, (parts, listeners)) in workers.into_iter().zip(own).enumerate() {
        let core = placement.worker_cores[index];
        let start = StartingWorker { parts, limits, budget: budget.clone(), core, shared, tls };
        let started = match kind {
            PollerKind::Epoll => {
                EpollPoller::new(listeners).and_then(|poller| running.start(poller, start))
            }
            PollerKind::IoUring => {
                UringPoller::new(listeners).and_then(|poller| running.start(poller, start))
            }
        };
        started.map_err(ServerError::Start)?;
    }
    let RunningWorkers { handles, threads } = running;
    let drain = move |limit| {
        // Before the listeners close: who comes now is told that nobody listens, and is not reset.
        drop(files);
        for handle in &handles {
            handle.drain(limit);
        }
        join_all(threads);
    };
    Ok(RunningEngine { addresses, tcp, drain: Box::new(drain) })
}

/// The workers that have been started.
#[derive(Default)]
struct RunningWorkers {
    handles: Vec<Arc<WorkerHandle>>,
    threads: Vec<JoinHandle<()>>,
}

/// What a worker is started with, besides its poller.
struct StartingWorker<'a> {
    parts: WorkerParts,
    limits: Limits,
    budget: Arc<ConnectionBudget>,
    core: Option<usize>,
    shared: &'a Shared,
    tls: Option<&'a Arc<Reloadable<ServerConfig>>>,
}

impl RunningWorkers {
    fn start<P>(&mut self, poller: P, worker: StartingWorker<'_>) -> io::Result<()>
    where
        P: Poller<Socket: Send> + Send + 'static,
    {
        match worker.tls {
            None => self.spawn(poller, worker),
            Some(tls) => self.spawn(TlsPoller::new(poller, tls.reader()), worker),
        }
    }

    fn spawn(
        &mut self,
        poller: impl Poller<Socket: Send> + Send + 'static,
        worker: StartingWorker<'_>,
    ) -> io::Result<()> {
        let StartingWorker { parts, limits, budget, core, shared, .. } = worker;
        let WorkerParts { router, counters } = parts;
        let worker = Worker::new(poller, limits, budget, counters, shared.start, router);
        self.handles.push(worker.handle());
        let main = shared.main.clone();
        let name = format!("worker-{}", self.threads.len());
        self.threads.push(spawn(name, core, move || {
            if let Err(error) = worker.run() {
                // Err: the main thread has ended.
                let _ = main.send(MainEvent::WorkerFailed(error));
            }
        })?);
        Ok(())
    }
}

fn may(
    listen: &ListenAddress,
    limits: Limits,
    placement: &Placement,
    workers: Vec<WorkerParts>,
    shared: &Shared,
) -> Result<RunningEngine, ServerError> {
    warn!(limits = ?http::may::KNOWN_LIMITS, "--engine may is for comparisons on trusted networks");
    let counters = workers[0].counters.clone();
    let routers = workers.into_iter().map(|parts| parts.router).collect();
    let is_pinned = placement.is_pinned();
    let address = listen.tcp().expect("settings with this engine have one address, of TCP");
    let engine = http::may::start(address, routers, limits, is_pinned, counters, shared.start)
        .map_err(|error| ServerError::Listen(listen.clone(), error))?;
    let (addresses, tcp) = (vec![engine.address().to_string()], Some(engine.address()));
    let drain = move |limit| drop(engine.stop(limit));
    Ok(RunningEngine { addresses, tcp, drain: Box::new(drain) })
}
