//! The life of the server: it builds the queues, starts the threads, and stops them in the order of the data.
//!
//! | file | content |
//! | --- | --- |
//! | `parts` | what is built before the first thread starts, and the order of the start |
//! | `running` | the threads, and the order in which they stop |
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
mod parts;
mod past;
mod reads;
mod reload;
mod replicas;
mod running;
mod shared;
mod signals;
mod state;
mod store;
mod summary;
mod threads;
mod workers;

use std::net::SocketAddr;
use std::time::Instant;

use crossbeam_channel::{Receiver, unbounded};
use sigmad_clock::elapsed;
use tracing::info;

pub use self::error::ServerError;
pub use self::notify::notify_test;
use self::parts::ServerParts;
use self::reload::Reloads;
use self::shared::{MainEvent, Shared};
use crate::config::ServerSettings;
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
    let asked = Asked { workers: settings.workers, shards: settings.analytics, pin: settings.pin };
    let placement = placement::decide(&machine, asked);
    let plan = memory::plan(settings, &machine, &placement);
    let limits = limits::connection_limits(settings, placement.workers(), &plan)?;

    let shared = Shared::new(settings, plan.max_streams, placement.shards, start, main);
    let parts = ServerParts::new(settings, &plan, &placement, &shared, past)?;
    let (running, reloads) = parts.start(settings, &placement, &plan, limits, &shared)?;
    info!(
        address = running.addresses().join(", "),
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
    is_listening(running.tcp());

    let failure = wait(settings, &main_events, &shared, &reloads);
    shared.readiness.set(ReadinessPhase::Draining);
    running.drain(start, settings.drain);
    failure.map_or(Ok(()), Err)
}

/// Waits for a signal, or for the failure of a worker. Meanwhile the first state of Redis and the restored state, where there
/// are these, end the start.
fn wait(
    settings: &ServerSettings,
    events: &Receiver<MainEvent>,
    shared: &Shared,
    reloads: &Reloads,
) -> Option<ServerError> {
    let mut waits_for_store = settings.redis_url.is_some();
    let mut waits_for_state = settings.state_dir.is_some();
    loop {
        match events.recv().expect("Shared holds a sender") {
            MainEvent::StoreState => waits_for_store = false,
            MainEvent::Restored => waits_for_state = false,
            MainEvent::Reload => reloads.run(),
            MainEvent::Signal(signal) => {
                info!(signal, "draining");
                return None;
            }
            MainEvent::WorkerFailed(error) => return Some(ServerError::Worker(error)),
        }
        if !waits_for_store && !waits_for_state {
            shared.readiness.set(ReadinessPhase::Ready);
        }
    }
}
