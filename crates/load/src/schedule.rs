//! The schedule of an open loop: when each request is due. Pure.
//!
//! Request `i` is due at `start + i / rate`, independent of earlier requests. Threads share one schedule: each
//! takes every n-th request.

/// One thread's part of a schedule.
#[derive(Clone, Debug)]
pub struct Schedule {
    start_ns: u64,
    rate: u64,
    /// The number of the next request.
    next: u64,
    step: u64,
}

const NS_PER_S: u128 = 1_000_000_000;

impl Schedule {
    /// `rate` requests per second from `start_ns` on; this part has number `first` and every `step`-th after it.
    pub fn new(start_ns: u64, rate: u64, first: u64, step: u64) -> Self {
        debug_assert!(rate > 0 && first < step);
        Self { start_ns, rate, next: first, step }
    }

    /// When the next request is due.
    #[inline]
    pub fn due_ns(&self) -> u64 {
        // From the start and not from the last request, so that rounding does not add up.
        self.start_ns + (u128::from(self.next) * NS_PER_S / u128::from(self.rate)) as u64
    }

    /// The number of the next request, among the requests of all threads.
    #[inline]
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// Takes the next request; returns its number.
    #[inline]
    pub fn take(&mut self) -> u64 {
        let number = self.next;
        self.next += self.step;
        number
    }

    /// The number of requests of this part that are due before `end_ns` and not taken.
    pub fn left_before(&self, end_ns: u64) -> u64 {
        let span = u128::from(end_ns.saturating_sub(self.start_ns));
        // The first number that is due at `end_ns` or later.
        let end = (span * u128::from(self.rate)).div_ceil(NS_PER_S) as u64;
        end.saturating_sub(self.next).div_ceil(self.step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn nothing_adds_up_over_a_day() {
        let mut schedule = Schedule::new(7, 3, 0, 1);
        assert_eq!(schedule.due_ns(), 7);
        for number in 0..3 * 86_400 {
            assert_eq!(schedule.take(), number);
        }
        assert_eq!(schedule.due_ns(), 7 + 86_400 * S);
    }

    #[test]
    fn threads_share_one_schedule() {
        let mut whole = Schedule::new(S, 999, 0, 1);
        let mut parts: Vec<_> = (0..3).map(|first| Schedule::new(S, 999, first, 3)).collect();
        for number in 0..2000 {
            let part = &mut parts[number % 3];
            assert_eq!(part.due_ns(), whole.due_ns());
            assert_eq!((part.take(), whole.take()), (number as u64, number as u64));
        }
    }

    #[test]
    fn what_is_left_is_what_would_be_taken() {
        for (rate, step, end_ns) in [(1000, 1, 3 * S), (7, 2, S), (3, 1, S + 1), (10_000_000, 4, S)]
        {
            let start_ns = 5;
            for first in 0..step {
                let mut schedule = Schedule::new(start_ns, rate, first, step);
                let left = schedule.left_before(start_ns + end_ns);
                let mut taken = 0;
                while schedule.due_ns() < start_ns + end_ns {
                    schedule.take();
                    taken += 1;
                }
                assert_eq!(left, taken, "rate {rate}, {first} of {step}");
                assert_eq!(schedule.left_before(start_ns + end_ns), 0);
            }
        }
    }
}
