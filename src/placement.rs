//! How many threads there are, and on which cores: decided from what the machine gives.
//!
//! Pure: [`Machine::of_this_process`] looks at the machine, [`decide`] does not.
//!
//! Each worker wants a core of its own and the analytics thread another. A CPU quota says that
//! cores are shared with others: the kernel then places threads better than we can, and two pods on
//! one node would pin themselves to the same cores.

use std::fmt;

use crate::config::Pin;

pub mod machine;

pub use machine::Machine;

/// With fewer cores, whatever else runs there has nowhere to go but to the core of a pinned thread,
/// which then can't give way: `benches/openloop.py --pin on` beside `--pin off` shows it.
const PINNED_CORES_MIN: usize = 4;

/// Which threads run where.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// One for each worker: its core, or None for wherever the kernel likes.
    pub worker_cores: Vec<Option<usize>>,
    /// The core of the analytics thread.
    pub analytics_core: Option<usize>,
    /// Why so many workers.
    pub workers_reason: WorkersReason,
    /// Why pinned, or not.
    pub pin_reason: PinReason,
}

/// Why there are so many workers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WorkersReason {
    /// `--workers` says so.
    Asked,
    /// The cores of the cpuset, less one for analytics where there are two.
    Cores {
        /// Cores of the cpuset.
        cores: usize,
    },
    /// The same, of the cores that the quota is worth.
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
    /// A quota applies: the cores are shared.
    Quota,
    /// Fewer cores than threads, or than [`PINNED_CORES_MIN`].
    TooFewCores,
    /// The cores could not be listed.
    CoresUnknown,
}

impl Placement {
    /// How many workers.
    pub fn workers(&self) -> usize {
        self.worker_cores.len()
    }
}

/// Decides for a machine; `workers` 0 leaves their number to us.
pub fn decide(machine: &Machine, workers: usize, pin: Pin) -> Placement {
    let (workers, workers_reason) = match workers {
        0 => workers_for(machine),
        asked => (asked, WorkersReason::Asked),
    };
    let threads = workers + 1;
    let (is_pinned, pin_reason) = match pin {
        Pin::Off => (false, PinReason::Asked),
        _ if machine.cores.is_empty() => (false, PinReason::CoresUnknown),
        Pin::On => (true, PinReason::Asked),
        Pin::Auto if machine.quota_cores.is_some() => (false, PinReason::Quota),
        Pin::Auto if machine.cores.len() < PINNED_CORES_MIN.max(threads) => {
            (false, PinReason::TooFewCores)
        }
        Pin::Auto => (true, PinReason::CoreForEach),
    };
    // Workers first, analytics after them; round robin where `on` asks for more than there is.
    let core_of = |thread: usize| is_pinned.then(|| machine.cores[thread % machine.cores.len()]);
    Placement {
        worker_cores: (0..workers).map(core_of).collect(),
        analytics_core: core_of(workers),
        workers_reason,
        pin_reason,
    }
}

fn workers_for(machine: &Machine) -> (usize, WorkersReason) {
    let cores = machine.cores.len().max(1);
    let (usable, reason) = match machine.quota_cores {
        // A worker more than the quota is worth would be throttled in the middle of a request.
        Some(quota_cores) if quota_cores < cores as f64 => {
            ((quota_cores as usize).max(1), WorkersReason::Quota { quota_cores })
        }
        _ => (cores, WorkersReason::Cores { cores }),
    };
    (if usable >= 2 { usable - 1 } else { 1 }, reason)
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
            Self::Quota => "a CPU quota applies",
            Self::TooFewCores => "too few cores",
            Self::CoresUnknown => "the cores could not be listed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cores: usize, quota_cores: Option<f64>) -> Machine {
        Machine { cores: (0..cores).collect(), quota_cores }
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
            // What can't be listed counts as one core.
            (0, None, 1),
            (0, Some(4.0), 1),
        ];
        for (cores, quota_cores, workers) in cases {
            let layout = decide(&machine(cores, quota_cores), 0, Pin::Off);
            assert_eq!(layout.workers(), workers, "{cores} cores, quota {quota_cores:?}");
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
            let layout = decide(&machine(cores, quota_cores), workers, Pin::Auto);
            let case = format!("{cores} cores, quota {quota_cores:?}, --workers {workers}");
            assert_eq!(layout.pin_reason, reason, "{case}");
            assert_eq!(layout.analytics_core.is_some(), is_pinned, "{case}");
            assert!(layout.worker_cores.iter().all(|core| core.is_some() == is_pinned), "{case}");
        }
    }

    #[test]
    fn pinned_threads_share_no_core_where_there_are_enough() {
        let machine = Machine { cores: vec![3, 5, 8, 13], quota_cores: None };
        let layout = decide(&machine, 0, Pin::Auto);
        assert_eq!(layout.worker_cores, [Some(3), Some(5), Some(8)]);
        assert_eq!(layout.analytics_core, Some(13));
    }

    #[test]
    fn on_pins_round_robin_and_off_never() {
        let machine = Machine { cores: vec![4, 6], quota_cores: Some(0.5) };
        let layout = decide(&machine, 3, Pin::On);
        assert_eq!(layout.worker_cores, [Some(4), Some(6), Some(4)]);
        assert_eq!(layout.analytics_core, Some(6));
        assert_eq!(layout.workers_reason, WorkersReason::Asked);

        let layout = decide(&Machine { cores: vec![0; 64], quota_cores: None }, 3, Pin::Off);
        assert_eq!(layout.worker_cores, unpinned(3));
        assert_eq!(layout.analytics_core, None);

        let layout = decide(&Machine { cores: Vec::new(), quota_cores: None }, 0, Pin::On);
        assert_eq!(
            (layout.worker_cores, layout.pin_reason),
            (unpinned(1), PinReason::CoresUnknown)
        );
    }

    #[test]
    fn the_log_says_why() {
        let layout = decide(&machine(64, Some(0.25)), 0, Pin::Auto);
        assert_eq!(layout.workers_reason.to_string(), "CPU quota of 0.25 cores");
        assert_eq!(layout.pin_reason.to_string(), "a CPU quota applies");
        let layout = decide(&machine(4, None), 0, Pin::Auto);
        assert_eq!(layout.workers_reason.to_string(), "4 cores");
        assert_eq!(layout.pin_reason.to_string(), "a core for each thread");
    }
}
