//! The division of memory, from the settings and the machine; the start logs it.

use tracing::{info, warn};

use super::analytics::detection;
use crate::analytics;
use crate::config::{ServerSettings, Switch};
use crate::decode;
use crate::http::budget::WORKER_KEPT_BYTES;
use crate::http::poller::RECEIVE_BYTES_MAX;
use crate::memory::{MemoryLimit, MemoryNeeds, MemoryPlan};
use crate::placement::{Machine, Placement};
use crate::sample_queue;
use sigmad_sample::{QUEUE_READINGS_MAX, Reading};

use crate::registry::{DEVICE_BYTES, METRIC_BYTES, METRICS_FEW, STREAMS_PER_METRIC};

/// Divides the memory limit, and logs its parts.
pub(super) fn plan(
    settings: &ServerSettings,
    machine: &Machine,
    placement: &Placement,
) -> MemoryPlan {
    let (cgroup, ram) = (machine.limits.memory_bytes, machine.memory_bytes);
    let limit = MemoryLimit::new(settings.memory_limit, cgroup, ram);
    let plan = MemoryPlan::new(limit, needs(settings, placement));
    info!(
        limit_bytes = plan.limit.bytes,
        limit_from = %plan.limit.source,
        streams_bytes = plan.streams_bytes,
        stream_bytes = plan.stream_bytes,
        max_streams = plan.max_streams,
        incident_streams = plan.incident_streams,
        bodies_bytes = plan.bodies_bytes,
        queues_bytes = plan.queues_bytes,
        redis_queue_bytes = plan.redis_queue_bytes,
        readings_max = plan.readings_max,
        profiles_bytes = plan.profiles_bytes,
        "memory"
    );
    if let Some(bytes) = plan.streams_excess() {
        let share_bytes = plan.streams_bytes;
        warn!(bytes, share_bytes, "--max-streams takes more than half of the memory limit");
    }
    if let Some(bytes) = plan.redis_queue_excess() {
        let share_bytes = plan.queues_bytes;
        warn!(bytes, share_bytes, "--redis-queue takes more than an eighth of the memory limit");
    }
    plan
}

fn needs(settings: &ServerSettings, placement: &Placement) -> MemoryNeeds {
    let (workers, shards) = (placement.workers(), placement.shards.threads());
    let of_analytics = analytics::stream_bytes(&detection(settings), settings.redis_url.is_some());
    let has_incidents = settings.incidents == Switch::On;
    let of_analytics = of_analytics
        + if has_incidents { analytics::FOLD_BYTES + analytics::CADENCE_BYTES } else { 0 };
    // Each metric has a stream of the fleet.
    let metric_bytes = of_analytics + METRIC_BYTES;
    MemoryNeeds {
        stream_bytes: of_analytics
            + decode::STATE_BYTES
            + DEVICE_BYTES
            + metric_bytes / STREAMS_PER_METRIC,
        shared_bytes: shards * analytics::SHARED_BYTES
            + workers * decode::CACHE_BYTES
            + decode::TYPES_BYTES
            + METRICS_FEW * metric_bytes,
        // What idle workers keep must not take its place.
        body_bytes: settings.max_head
            + settings.max_body
            + RECEIVE_BYTES_MAX
            + workers * WORKER_KEPT_BYTES,
        workers,
        reading_bytes: size_of::<Reading>() * sample_queue::copies(placement.shards),
        readings_max: QUEUE_READINGS_MAX,
        incident_bytes: if has_incidents { analytics::INCIDENT_BYTES } else { 0 },
        max_streams: settings.max_streams,
        redis_queue_bytes: settings.redis_queue,
    }
}
