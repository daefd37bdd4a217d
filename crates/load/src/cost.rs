//! CPU time of a process, with threads that have ended.
//!
//! The total is the CPU clock of the process, in nanoseconds. `/proc/PID/stat` separates user and system time in
//! ticks of 10 ms on most machines, so only the total is useful for a short run.

use std::io;

/// CPU time that a process has used.
#[derive(Clone, Copy, Debug)]
pub struct CpuTime {
    /// User and system, in nanoseconds.
    pub total_ns: u64,
    /// In ticks of [`ticks_per_s`].
    pub user_ticks: u64,
    /// In ticks of [`ticks_per_s`].
    pub system_ticks: u64,
}

/// The number of ticks in a second.
pub fn ticks_per_s() -> u64 {
    // SAFETY: a plain call without pointers.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).expect("Linux has ticks")
}

impl CpuTime {
    /// The CPU time of the process `pid`.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> io::Result<Self> {
        let mut clock: libc::clockid_t = 0;
        // SAFETY: the pointer is to a live clockid_t, which the call fills.
        match unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) } {
            0 => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a live timespec, which the call fills.
        if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let total_ns = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (user_ticks, system_ticks) = ticks(&stat)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/stat"))?;
        Ok(Self { total_ns, user_ticks, system_ticks })
    }
}

/// The fields `utime` and `stime`, 14 and 15 of proc(5).
fn ticks(stat: &str) -> Option<(u64, u64)> {
    // The name, field 2, can hold any character; it ends at the last parenthesis.
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ').skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_burns_is_counted() {
        let before = CpuTime::of(std::process::id()).expect("it is this one");
        let mut now = before;
        let mut sum = 0_u64;
        while now.total_ns - before.total_ns < 30_000_000 {
            for n in 0..100_000 {
                sum = std::hint::black_box(sum.wrapping_mul(31) + n);
            }
            now = CpuTime::of(std::process::id()).expect("it is this one");
        }
        let ticks = now.user_ticks + now.system_ticks - before.user_ticks - before.system_ticks;
        assert!(ticks > 0);
        // Above the highest number that Linux gives.
        assert!(CpuTime::of(1 << 30).is_err());
    }

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_confuse() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 111 222 0 0 20";
        assert_eq!(ticks(stat), Some((111, 222)));
    }
}
