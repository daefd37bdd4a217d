//! How the memory that the process may use is divided: streams, bodies, queues, profiles, and what stays free.
//!
//! Pure. [`crate::placement`] reads the limits of cgroups and machine; [`crate::server`] prints the plan and passes
//! its parts on. A part is a bound, not memory that is taken: each is used only as it is needed.
//!
//! | part of the limit | for |
//! | --- | --- |
//! | 1/2 | streams, with the names of devices and the states of detectors; a quarter of it, and what streams leave, for incidents |
//! | 1/8 | bodies, heads in pieces and responses that wait for their client, but room for one `--max-body` at least |
//! | 1/8 | queues; half of it, and 64 MiB at most, for what waits for Redis |
//! | 1/32, 16 MiB at most | profiles |
//! | 1/8 | nothing: what the kernel counts beside it, and errors of this table |
//! | the rest | the program itself |

use std::fmt;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// More streams are for those who ask for them: every read of all devices takes longer.
const STREAMS_MAX: u64 = 1_000_000;
/// A small limit still serves a small fleet.
const STREAMS_MIN: u64 = 1_000;
/// A body of a thousand wide samples fits wherever the program runs.
const READINGS_MIN: usize = 32 * 1024;
/// `--redis-queue` unless it is set.
const REDIS_QUEUE_BYTES_MAX: u64 = 64 * MIB;
/// The least that `--redis-queue` may be.
const REDIS_QUEUE_BYTES_MIN: u64 = MIB;
const PROFILE_BYTES_MAX: u64 = 16 * MIB;

/// Where the limit comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitSource {
    /// `--memory-limit`.
    Asked,
    /// The tightest cgroup.
    Cgroup,
    /// The memory of the machine.
    Machine,
    /// None could be read.
    Unknown,
}

/// The memory that this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Bytes.
    pub bytes: u64,
    /// Where it comes from.
    pub source: LimitSource,
}

/// What the division depends on beside the limit.
#[derive(Clone, Copy, Debug)]
pub struct MemoryNeeds {
    /// Bytes of one stream with everything that its device has, at worst.
    pub stream_bytes: usize,
    /// Bytes for all streams together that do not depend on how many there are.
    pub shared_bytes: usize,
    /// Bytes that the largest body takes while it arrives.
    pub body_bytes: usize,
    /// Workers: each has a queue.
    pub workers: usize,
    /// Bytes of a reading on its way.
    pub reading_bytes: usize,
    /// Readings of a queue where memory is no bound.
    pub readings_max: usize,
    /// Bytes that are kept of one stream for incidents. 0 without incidents.
    pub incident_bytes: usize,
    /// `--max-streams`, if it is set.
    pub max_streams: Option<usize>,
    /// `--redis-queue`, if it is set.
    pub redis_queue_bytes: Option<usize>,
}

/// The parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// What is divided.
    pub limit: MemoryLimit,
    /// For streams.
    pub streams_bytes: u64,
    /// For one of them.
    pub stream_bytes: u64,
    /// Streams that fit, or those that were asked for.
    pub max_streams: usize,
    /// Streams that can be judged for incidents: their memory is a part of that for streams.
    pub incident_streams: usize,
    /// For bodies.
    pub bodies_bytes: usize,
    /// For queues, that to Redis included.
    pub queues_bytes: u64,
    /// For samples that wait for Redis.
    pub redis_queue_bytes: usize,
    /// Readings of one body, and of one worker's queue.
    pub readings_max: usize,
    /// For profiles.
    pub profiles_bytes: u64,
}

impl MemoryLimit {
    /// The limit that was asked for, else the smaller of cgroup and machine.
    pub fn new(asked: Option<usize>, cgroup: Option<u64>, machine: Option<u64>) -> Self {
        /// Where nothing can be read: a small machine.
        const UNKNOWN_BYTES: u64 = 1024 * MIB;
        let found = [(cgroup, LimitSource::Cgroup), (machine, LimitSource::Machine)];
        let found = found.into_iter().filter_map(|(bytes, source)| Some((bytes?, source)));
        let (bytes, source) = match asked {
            Some(bytes) => (bytes as u64, LimitSource::Asked),
            None => found
                .min_by_key(|(bytes, _)| *bytes)
                .unwrap_or((UNKNOWN_BYTES, LimitSource::Unknown)),
        };
        Self { bytes, source }
    }
}

impl MemoryPlan {
    /// Divides the limit. What is set counts as it is set.
    pub fn new(limit: MemoryLimit, needs: MemoryNeeds) -> Self {
        let bytes = limit.bytes;
        let (streams_bytes, stream_bytes) = (bytes / 2, needs.stream_bytes as u64);
        let incident_bytes = needs.incident_bytes as u64;
        let least_for_incidents = if incident_bytes == 0 { 0 } else { streams_bytes / 4 };
        let for_streams = streams_bytes.saturating_sub(needs.shared_bytes as u64);
        let room = for_streams.saturating_sub(least_for_incidents) / stream_bytes;
        let fitting = room.clamp(STREAMS_MIN, STREAMS_MAX) as usize;
        let max_streams = needs.max_streams.unwrap_or(fitting);
        let left = for_streams.saturating_sub(max_streams as u64 * stream_bytes);
        // Each stream has one of its device, and perhaps one of the fleet.
        let incident_streams = (left.max(least_for_incidents).checked_div(incident_bytes))
            .map_or(0, |streams| streams.min(2 * max_streams as u64) as usize);
        // Half of the queues: a body is decoded into one buffer, and copied into the queue.
        let readings = (bytes / 32) as usize / (needs.workers * needs.reading_bytes);
        let redis = (bytes / 16).clamp(REDIS_QUEUE_BYTES_MIN, REDIS_QUEUE_BYTES_MAX) as usize;
        Self {
            limit,
            streams_bytes,
            stream_bytes,
            max_streams,
            incident_streams,
            bodies_bytes: ((bytes / 8) as usize).max(needs.body_bytes),
            queues_bytes: bytes / 8,
            redis_queue_bytes: needs.redis_queue_bytes.unwrap_or(redis),
            readings_max: readings.clamp(READINGS_MIN, needs.readings_max),
            profiles_bytes: (bytes / 32).min(PROFILE_BYTES_MAX),
        }
    }

    /// The bytes of all streams, if they exceed the part of streams.
    pub fn streams_excess(&self) -> Option<u64> {
        let taken = self.max_streams as u64 * self.stream_bytes;
        (taken > self.streams_bytes).then_some(taken)
    }

    /// The bytes of the queue to Redis, if they exceed the part of queues.
    pub fn redis_queue_excess(&self) -> Option<usize> {
        let taken = self.redis_queue_bytes;
        (taken as u64 > self.queues_bytes).then_some(taken)
    }
}

impl fmt::Display for LimitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "--memory-limit",
            Self::Cgroup => "cgroup",
            Self::Machine => "memory of the machine",
            Self::Unknown => "unknown",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: MemoryNeeds = MemoryNeeds {
        stream_bytes: 1024,
        shared_bytes: 4 << 20,
        body_bytes: 9 << 20,
        workers: 1,
        reading_bytes: 16,
        readings_max: 2 << 20,
        incident_bytes: 0,
        max_streams: None,
        redis_queue_bytes: None,
    };

    fn plan(mib: u64) -> MemoryPlan {
        let limit = MemoryLimit { bytes: mib * MIB, source: LimitSource::Cgroup };
        MemoryPlan::new(limit, NEEDS)
    }

    #[test]
    fn the_tightest_limit_counts_unless_one_is_asked_for() {
        let limit = |asked, cgroup, machine| {
            let limit = MemoryLimit::new(asked, cgroup, machine);
            (limit.bytes, limit.source)
        };
        assert_eq!(limit(None, Some(5), Some(9)), (5, LimitSource::Cgroup));
        assert_eq!(limit(None, Some(9), Some(5)), (5, LimitSource::Machine));
        assert_eq!(limit(None, None, Some(5)), (5, LimitSource::Machine));
        assert_eq!(limit(Some(7), Some(5), Some(9)), (7, LimitSource::Asked));
        assert_eq!(limit(None, None, None).1, LimitSource::Unknown);
    }

    #[test]
    fn the_parts_never_exceed_the_limit() {
        for mib in [64, 100, 128, 256, 512, 2_048, 24_000, 1 << 20] {
            let plan = plan(mib);
            let streams = plan.max_streams as u64 * plan.stream_bytes + (4 << 20);
            assert!(streams <= plan.streams_bytes && plan.streams_excess().is_none(), "{mib}");
            let bodies = if mib >= 72 { (mib * MIB / 8) as usize } else { 9 << 20 };
            assert_eq!(plan.bodies_bytes, bodies);
            assert!(plan.redis_queue_bytes as u64 <= plan.queues_bytes / 2, "{mib}");
            let parts = plan.streams_bytes + bodies as u64 + plan.queues_bytes;
            assert!(parts + plan.profiles_bytes <= plan.limit.bytes * 13 / 16 + MIB, "{mib}");
        }
        assert_eq!(plan(64).max_streams, 28 * 1024);
        assert_eq!((plan(64).readings_max, plan(24_000).readings_max), (128 << 10, 2 << 20));
        assert_eq!(plan(24_000).max_streams, 1_000_000);
        assert_eq!(plan(24_000).redis_queue_bytes, 64 << 20);
        assert_eq!(plan(1).max_streams, 1_000);
    }

    #[test]
    fn incidents_have_a_quarter_of_the_streams_part_and_what_is_left() {
        let plan = |mib: u64, max_streams| {
            let limit = MemoryLimit { bytes: mib * MIB, source: LimitSource::Cgroup };
            let needs = MemoryNeeds { incident_bytes: 4096, max_streams, ..NEEDS };
            let plan = MemoryPlan::new(limit, needs);
            (plan.max_streams, plan.incident_streams)
        };
        assert_eq!(plan(64, None), (20 << 10, 2 << 10));
        assert_eq!(plan(24_000, None), (1_000_000, 2_000_000));
        assert_eq!(plan(64, Some(8 << 10)), (8 << 10, 5 << 10));
        assert_eq!(plan(64, Some(50_000)), (50_000, 2 << 10));
        assert_eq!(
            super::MemoryPlan::new(MemoryLimit::new(None, None, None), NEEDS).incident_streams,
            0
        );
    }

    #[test]
    fn what_is_set_counts_as_it_is_set() {
        let limit = MemoryLimit { bytes: 64 * MIB, source: LimitSource::Machine };
        let needs =
            MemoryNeeds { max_streams: Some(50_000), redis_queue_bytes: Some(16 << 20), ..NEEDS };
        let plan = MemoryPlan::new(limit, needs);
        assert_eq!((plan.max_streams, plan.redis_queue_bytes), (50_000, 16 << 20));
        assert_eq!(plan.streams_excess(), Some(50_000 * 1024));
        assert_eq!(plan.redis_queue_excess(), Some(16 << 20));
    }
}
