//! `process_*`: the prometheus crate's collector, with CPU time to the microsecond.
//!
//! The crate counts whole seconds: at 1 % of a core its value would change every 100 seconds.

use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Counter, MetricFamily};

/// The collector of this process.
#[derive(Debug)]
pub struct Process(ProcessCollector);

impl Default for Process {
    fn default() -> Self {
        Self(ProcessCollector::for_self())
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.0.collect();
        let cpu = families.iter_mut().find(|family| family.name() == "process_cpu_seconds_total");
        if let Some(cpu) = cpu {
            let mut counter = Counter::default();
            counter.set_value(cpu_time().as_secs_f64());
            for metric in cpu.mut_metric() {
                metric.set_counter(counter.clone());
            }
        }
        families
    }
}

/// User and system time of all threads, those that ended included.
fn cpu_time() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage writes one rusage to the pointer, which is valid for that.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    // SAFETY: an rusage is plain integers, for which zeros, and what getrusage wrote, are valid.
    let usage = unsafe { usage.assume_init() };
    [usage.ru_utime, usage.ru_stime]
        .iter()
        .map(|time| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1_000))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_has_fractions_and_grows() {
        let before = cpu_time();
        let mut sum = 0_u64;
        while cpu_time() - before < Duration::from_millis(20) {
            sum = std::hint::black_box(sum.wrapping_mul(31) + 1);
        }
        let families = Process::default().collect();
        let cpu = families.iter().find(|family| family.name() == "process_cpu_seconds_total");
        let value = cpu.expect("on Linux").get_metric()[0].get_counter().get_value();
        assert!(value >= (before + Duration::from_millis(20)).as_secs_f64(), "{value}");
    }
}
