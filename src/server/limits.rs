//! The limits of one connection, and how many the file limit allows.

use tracing::warn;

use super::error::ServerError;
use crate::config::ServerSettings;
use crate::http::Limits;
use crate::http::cors::CorsPolicy;
use crate::http::may::CONNECTIONS_OVER_MAX;
use crate::memory::MemoryPlan;

/// Descriptors that are no connections: standard streams, logs, listeners and pollers of four workers.
const FILES_RESERVED: usize = 64;
/// Descriptors of one more worker, beside its listeners: poller, wake-up.
const FILES_PER_WORKER: usize = 2;
/// The client does not take a response: long enough for any network, but not unlimited.
const WRITE_STALL_MS: u64 = 30_000;
/// During a drain an idle connection stays open for this time: a request can be on its way.
const DRAIN_IDLE_MS: u64 = 1_000;

/// Raises the file limit, and bounds `--max-connections` by it.
pub(super) fn connection_limits(
    settings: &ServerSettings,
    workers: usize,
    plan: &MemoryPlan,
) -> Result<Limits, ServerError> {
    // The soft limit becomes the hard one.
    let files = rlimit::increase_nofile_limit(u64::MAX).map_err(ServerError::Start)?;
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    // The native engine accepts fewer above the limit, to answer 503.
    let per_worker = FILES_PER_WORKER + settings.listen.len();
    let reserved = FILES_RESERVED + workers * per_worker + CONNECTIONS_OVER_MAX;
    let room = files.checked_sub(reserved).filter(|&room| room > 0);
    let room = room.ok_or(ServerError::FileLimit(files))?;
    if room < settings.max_connections {
        warn!(
            connections_max = room,
            files, "the file limit allows fewer connections than --max-connections"
        );
    }
    Ok(Limits {
        head_bytes_max: settings.max_head,
        body_bytes_max: settings.max_body,
        connections_max: settings.max_connections.min(room),
        memory_bytes_max: plan.bodies_bytes,
        read_timeout_ms: settings.read_timeout.as_millis() as u64,
        body_rate_min: settings.body_rate_min as u64,
        write_stall_ms: WRITE_STALL_MS,
        idle_timeout_ms: settings.idle_timeout.as_millis() as u64,
        drain_idle_ms: DRAIN_IDLE_MS,
        cors: CorsPolicy::new(&settings.cors_origin),
    })
}
