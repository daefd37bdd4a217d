//! How many workers run, and on which core each thread runs.
//!
//! [`Machine::of_this_process`] reads what the machine offers; [`decide`] is pure.
//!
//! Each worker needs a core of its own, and each analytics thread another. With a CPU quota, cores are shared
//! with other processes: the kernel then places threads better, and two pods on one node would pin their
//! threads to the same cores.

use std::fmt;

use crate::config::{Pin, Shards};
use crate::shards::{SHARDS_MAX, ShardLayout};

mod cgroup;

use self::cgroup::CgroupLimits;

/// With fewer cores, every other process shares a core with a pinned thread, which can't move away: latency
/// is then better without pinning.
const PINNED_CORES_MIN: usize = 4;

/// With fewer cores, one analytics thread has all windows: a second one and the fleet's would take the cores of two
/// workers.
const SHARDED_CORES_MIN: usize = 8;
/// Cores for each shard of devices. With 8 cores that is 5 workers, 2 shards and the fleet's; with 16, 11 and 4.
const CORES_PER_SHARD: usize = 4;
/// The same ratio where `--workers` says how many there are.
const WORKERS_PER_SHARD: usize = 3;
/// `--workers` below this have one shard, as those of fewer than [`SHARDED_CORES_MIN`] cores have.
const SHARDED_WORKERS_MIN: usize = 5;

/// What the machine offers this process.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// The cores of the cpuset; empty if they can't be listed.
    pub cores: Vec<usize>,
    /// How many threads can run at once: bounded by cpuset and quota.
    pub parallelism: usize,
    /// Limits of the cgroups.
    pub limits: CgroupLimits,
    /// The memory of the machine, if it is known.
    pub memory_bytes: Option<u64>,
}

impl Machine {
    /// Reads the machine. Call it before any thread is pinned: a pinned thread sees only its own core.
    pub fn of_this_process() -> Self {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        Self {
            cores: cores.into_iter().map(|core| core.id).collect(),
            // Err: unknown counts as one.
            parallelism: std::thread::available_parallelism().map_or(1, Into::into),
            limits: CgroupLimits::of_this_process(),
            memory_bytes: machine_memory(),
        }
    }
}

/// `MemTotal` of `/proc/meminfo`, which is in KiB.
fn machine_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// How many workers run, and the core of each thread.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// One for each worker: its core, or None if the kernel places it.
    pub worker_cores: Vec<Option<usize>>,
    /// How analytics is divided.
    pub shards: ShardLayout,
    /// One for each analytics thread: its core.
    pub analytics_cores: Vec<Option<usize>>,
    /// All threads have one core.
    pub is_one_core: bool,
    /// Why this number of workers.
    pub workers_reason: WorkersReason,
    /// Why threads are pinned, or not.
    pub pin_reason: PinReason,
}

/// What decided the number of workers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WorkersReason {
    /// `--workers`.
    Asked,
    /// The cores of the cpuset, less those of analytics, but one at least.
    Cores {
        /// Cores of the cpuset.
        cores: usize,
    },
    /// The same for a CPU quota that is below the cpuset.
    Quota {
        /// The quota, in cores.
        quota_cores: f64,
    },
}

/// Why threads are pinned, or not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PinReason {
    /// `--pin on` or `--pin off`.
    Asked,
    /// Every thread has a core of its own.
    CoreForEach,
    /// There is a CPU quota: the cores are shared.
    Quota,
    /// Fewer cores than threads, or than [`PINNED_CORES_MIN`].
    TooFewCores,
    /// The cores could not be listed.
    CoresUnknown,
}

impl Placement {
    /// The number of workers.
    pub fn workers(&self) -> usize {
        self.worker_cores.len()
    }

    /// Whether threads are pinned.
    pub fn is_pinned(&self) -> bool {
        self.worker_cores.iter().any(Option::is_some)
    }
}

/// What the settings ask for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Workers; with 0, cores and quota decide.
    pub workers: usize,
    /// Shards of devices.
    pub shards: Shards,
    /// Whether threads are pinned.
    pub pin: Pin,
}

/// Places the threads on a machine.
pub fn decide(machine: &Machine, asked: Asked) -> Placement {
    let shards = match asked.shards {
        Shards::Auto => shards_for(machine, asked.workers).min(SHARDS_MAX),
        Shards::Count(shards) => shards,
    };
    let shards = ShardLayout::new(shards);
    let (workers, workers_reason) = match asked.workers {
        0 => workers_for(machine, shards),
        workers => (workers, WorkersReason::Asked),
    };
    let threads = workers + shards.threads();
    let (is_pinned, pin_reason) = match asked.pin {
        Pin::Off => (false, PinReason::Asked),
        _ if machine.cores.is_empty() => (false, PinReason::CoresUnknown),
        Pin::On => (true, PinReason::Asked),
        Pin::Auto if machine.limits.quota_cores.is_some() => (false, PinReason::Quota),
        Pin::Auto if machine.cores.len() < PINNED_CORES_MIN.max(threads) => {
            (false, PinReason::TooFewCores)
        }
        Pin::Auto => (true, PinReason::CoreForEach),
    };
    // Workers first, then analytics; round robin if `on` needs more cores than there are.
    let core_of = |thread: usize| is_pinned.then(|| machine.cores[thread % machine.cores.len()]);
    Placement {
        worker_cores: (0..workers).map(core_of).collect(),
        shards,
        analytics_cores: (workers..threads).map(core_of).collect(),
        is_one_core: machine.cores.len() == 1,
        workers_reason,
        pin_reason,
    }
}

/// The shards of devices that `--analytics auto` means.
fn shards_for(machine: &Machine, workers: usize) -> usize {
    match workers {
        0 if machine.parallelism < SHARDED_CORES_MIN => 1,
        0 => machine.parallelism / CORES_PER_SHARD,
        _ if workers < SHARDED_WORKERS_MIN => 1,
        _ => workers.div_ceil(WORKERS_PER_SHARD),
    }
}

fn workers_for(machine: &Machine, shards: ShardLayout) -> (usize, WorkersReason) {
    let cores = machine.cores.len().max(1);
    let reason = match machine.limits.quota_cores {
        Some(quota_cores) if quota_cores < cores as f64 => WorkersReason::Quota { quota_cores },
        _ => WorkersReason::Cores { cores },
    };
    (machine.parallelism.saturating_sub(shards.threads()).max(1), reason)
}

impl fmt::Display for WorkersReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("--workers"),
            Self::Cores { cores } => write!(f, "{cores} cores"),
            Self::Quota { quota_cores } => write!(f, "CPU quota of {quota_cores} cores"),
        }
    }
}

impl fmt::Display for PinReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "--pin",
            Self::CoreForEach => "a core for each thread",
            Self::Quota => "CPU quota",
            Self::TooFewCores => "too few cores",
            Self::CoresUnknown => "the cores could not be listed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cores: usize, quota_cores: Option<f64>) -> Machine {
        of_cores((0..cores).collect(), quota_cores)
    }

    fn of_cores(cores: Vec<usize>, quota_cores: Option<f64>) -> Machine {
        // As std does: a quota counts in whole cores, and one at least.
        let quota = quota_cores.map_or(usize::MAX, |quota| (quota as usize).max(1));
        let parallelism = cores.len().max(1).min(quota);
        let limits = CgroupLimits { quota_cores, memory_bytes: None };
        Machine { cores, parallelism, limits, memory_bytes: None }
    }

    fn decided(machine: &Machine, workers: usize, pin: Pin) -> Placement {
        let shards = Shards::Count(1);
        decide(machine, Asked { workers, shards, pin })
    }

    fn unpinned(workers: usize) -> Vec<Option<usize>> {
        vec![None; workers]
    }

    #[test]
    fn workers_follow_cores_and_quota() {
        let cases = [
            // cores, quota, workers
            (1, None, 1),
            (2, None, 1),
            (3, None, 2),
            (64, None, 63),
            (64, Some(0.25), 1),
            (64, Some(0.999), 1),
            (64, Some(1.0), 1),
            (64, Some(1.5), 1),
            (64, Some(2.0), 1),
            (64, Some(2.9), 1),
            (64, Some(3.0), 2),
            (64, Some(64.0), 63),
            (2, Some(8.0), 1),
            (1, Some(8.0), 1),
            (1, Some(0.001), 1),
            // Cores that can't be listed count as one.
            (0, None, 1),
            (0, Some(4.0), 1),
        ];
        for (cores, quota_cores, workers) in cases {
            let placement = decided(&machine(cores, quota_cores), 0, Pin::Off);
            assert_eq!(placement.workers(), workers, "{cores} cores, quota {quota_cores:?}");
        }
    }

    #[test]
    fn shards_follow_cores_or_workers() {
        let cases = [
            // cores, --workers, --analytics; workers, shards, threads of analytics
            (1, 0, 0, 1, 1, 1),
            (4, 0, 0, 3, 1, 1),
            (7, 0, 0, 6, 1, 1),
            (8, 0, 0, 5, 2, 3),
            (16, 0, 0, 11, 4, 5),
            (64, 0, 0, 47, 16, 17),
            (2, 4, 0, 4, 1, 1),
            (2, 5, 0, 5, 2, 3),
            (64, 1, 0, 1, 1, 1),
            (4, 0, 2, 1, 2, 3),
            (1, 0, 4, 1, 4, 5),
            (4, 3, 4, 3, 4, 5),
        ];
        for (cores, workers, shards, found, found_shards, threads) in cases {
            let shards = if shards == 0 { Shards::Auto } else { Shards::Count(shards) };
            let asked = Asked { workers, shards, pin: Pin::Auto };
            let placement = decide(&machine(cores, None), asked);
            let layout = placement.shards;
            assert_eq!(
                (placement.workers(), layout.of_devices(), layout.threads()),
                (found, found_shards, threads),
                "{asked:?} of {cores}"
            );
            assert_eq!(placement.analytics_cores.len(), threads);
        }
    }

    #[test]
    fn auto_pins_where_each_thread_has_a_core_and_no_quota_applies() {
        let cases = [
            // cores, quota, --workers, pinned, why
            (2, None, 0, false, PinReason::TooFewCores),
            (3, None, 0, false, PinReason::TooFewCores),
            (4, None, 0, true, PinReason::CoreForEach),
            (64, None, 0, true, PinReason::CoreForEach),
            (8, None, 7, true, PinReason::CoreForEach),
            (8, None, 8, false, PinReason::TooFewCores),
            (1, None, 0, false, PinReason::TooFewCores),
            (64, Some(0.25), 0, false, PinReason::Quota),
            (4, Some(4.0), 0, false, PinReason::Quota),
            (4, Some(400.0), 0, false, PinReason::Quota),
            (0, None, 0, false, PinReason::CoresUnknown),
        ];
        for (cores, quota_cores, workers, is_pinned, reason) in cases {
            let placement = decided(&machine(cores, quota_cores), workers, Pin::Auto);
            let case = format!("{cores} cores, quota {quota_cores:?}, --workers {workers}");
            assert_eq!(placement.pin_reason, reason, "{case}");
            assert_eq!(placement.is_pinned(), is_pinned, "{case}");
            assert!(
                placement.worker_cores.iter().all(|core| core.is_some() == is_pinned),
                "{case}"
            );
        }
    }

    #[test]
    fn pinned_threads_share_no_core_where_there_are_enough() {
        assert!(decided(&of_cores(vec![7], None), 0, Pin::Auto).is_one_core);
        let machine = of_cores(vec![3, 5, 8, 13], None);
        assert!(!decided(&machine, 0, Pin::Auto).is_one_core);
        let placement = decided(&machine, 0, Pin::Auto);
        assert_eq!(placement.worker_cores, [Some(3), Some(5), Some(8)]);
        assert_eq!(placement.analytics_cores, [Some(13)]);
    }

    #[test]
    fn on_pins_round_robin_and_off_never() {
        let machine = of_cores(vec![4, 6], Some(0.5));
        let placement = decided(&machine, 3, Pin::On);
        assert_eq!(placement.worker_cores, [Some(4), Some(6), Some(4)]);
        assert_eq!(placement.analytics_cores, [Some(6)]);
        assert_eq!(placement.workers_reason, WorkersReason::Asked);

        let placement = decided(&of_cores(vec![0; 64], None), 3, Pin::Off);
        assert_eq!(placement.worker_cores, unpinned(3));
        assert_eq!(placement.analytics_cores, [None]);

        let placement = decided(&of_cores(Vec::new(), None), 0, Pin::On);
        assert_eq!(
            (placement.worker_cores, placement.pin_reason),
            (unpinned(1), PinReason::CoresUnknown)
        );
    }

    #[test]
    fn reasons_are_shown_in_the_log() {
        let placement = decided(&machine(64, Some(0.25)), 0, Pin::Auto);
        assert_eq!(placement.workers_reason.to_string(), "CPU quota of 0.25 cores");
        assert_eq!(placement.pin_reason.to_string(), "CPU quota");
        let placement = decided(&machine(4, None), 0, Pin::Auto);
        assert_eq!(placement.workers_reason.to_string(), "4 cores");
        assert_eq!(placement.pin_reason.to_string(), "a core for each thread");
    }

    #[test]
    fn this_machine_has_cores_within_its_quota() {
        let Machine { cores, parallelism, limits, memory_bytes } = Machine::of_this_process();
        let quota = limits.quota_cores.map_or(usize::MAX, |quota| (quota as usize).max(1));
        assert_eq!(parallelism, cores.len().min(quota));
        assert!(memory_bytes.is_none_or(|bytes| bytes > 1 << 20));
    }
}
