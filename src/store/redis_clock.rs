//! Redis' time, as this replica knows it: the one clock by which all replicas order their values.
//!
//! A reply that carries Redis' time proves that Redis' clock and the monotonic clock of this process were at most
//! a round trip apart from it. [`RedisClock`] intersects these proofs, so the shortest round trip decides. The
//! replica's wall clock takes no part: it may be wrong, and it may step. Pure: no I/O, no clock.

use super::queue::ArrivalSpan;

/// A time in Redis that is further ahead of Redis' clock was written by a clock that is wrong. The estimate of a
/// replica is off by half a round trip at most, and a reply that takes longer than two seconds is a timeout.
pub const FUTURE_US_MAX: i64 = 2_000_000;
/// Two clocks drift apart by 200 millionths at most: twice what a bad quartz does.
const DRIFT_PART: i64 = 5_000;

/// Measures Redis' clock against the monotonic clock, and gives the times under which values are written. All
/// times are in microseconds: `_us` since the start of the process, `redis_us` since 1970 by Redis' clock.
#[derive(Clone, Debug, Default)]
pub struct RedisClock {
    measured: Option<Measured>,
    /// The newest time under which a value was written, of each shard.
    written_redis_us: Vec<i64>,
}

/// Redis' time less the monotonic time lies between two bounds.
#[derive(Clone, Copy, Debug)]
struct Measured {
    least_us: i64,
    most_us: i64,
    at_us: i64,
}

impl Measured {
    fn offset_us(self) -> i64 {
        self.least_us.midpoint(self.most_us)
    }
}

impl RedisClock {
    /// Takes the time in a reply, which Redis read between `sent_us` and `received_us`.
    pub fn measure(&mut self, sent_us: i64, received_us: i64, redis_us: i64) {
        let (mut least_us, mut most_us) = (redis_us - received_us, redis_us - sent_us);
        if let Some(before) = self.measured {
            let drift_us = (received_us - before.at_us) / DRIFT_PART;
            let (kept_least_us, kept_most_us) =
                (before.least_us - drift_us, before.most_us + drift_us);
            // Without a common part Redis' clock has stepped, or another Redis replies: begin anew.
            if kept_least_us <= most_us && least_us <= kept_most_us {
                (least_us, most_us) = (least_us.max(kept_least_us), most_us.min(kept_most_us));
            }
        }
        self.measured = Some(Measured { least_us, most_us, at_us: received_us });
    }

    /// Redis' time less the monotonic time; None before the first measurement.
    pub fn offset_us(&self) -> Option<i64> {
        self.measured.map(Measured::offset_us)
    }

    /// By how much [`RedisClock::offset_us`] may be wrong.
    pub fn error_us(&self) -> i64 {
        self.measured.map_or(0, |Measured { least_us, most_us, .. }| (most_us - least_us) / 2 + 1)
    }

    /// What is added to the times of values, so that they are in Redis' time and later than all that were written before
    /// of the same shard. A stream has the values of one shard. `spans`: when those of each shard arrived. `offset_us`
    /// replaces the measurement.
    ///
    /// An estimate that becomes smaller is followed as fast as that allows; a step of Redis' own clock at once, for
    /// times in the future are not read.
    pub fn base_us(&mut self, spans: &[Option<ArrivalSpan>], offset_us: i64) -> i64 {
        let written = &mut self.written_redis_us;
        written.resize(written.len().max(spans.len()), 0);
        let of_shards = || spans.iter().enumerate().filter_map(|(at, span)| Some((at, (*span)?)));
        let later_us = of_shards().map(|(shard, span)| written[shard] + 1 - span.since_us);
        let later_us = later_us.max().unwrap_or(offset_us);
        let has_stepped = later_us - offset_us > FUTURE_US_MAX;
        let base_us = if has_stepped { offset_us } else { offset_us.max(later_us) };
        of_shards().for_each(|(shard, span)| written[shard] = base_us + span.until_us);
        base_us
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Redis' time at the start of the process.
    const START: i64 = 1_800_000_000_000_000;

    fn base(clock: &mut RedisClock, since_us: i64, until_us: i64) -> i64 {
        let offset_us = clock.offset_us().expect("measured");
        clock.base_us(&[Some(ArrivalSpan { since_us, until_us })], offset_us)
    }

    #[test]
    fn the_shortest_round_trip_decides() {
        let mut clock = RedisClock::default();
        assert_eq!(clock.offset_us(), None);
        // The reply waits, then the request, then neither.
        clock.measure(0, 400_000, START);
        assert_eq!((clock.offset_us(), clock.error_us()), (Some(START - 200_000), 200_001));
        clock.measure(1_000_000, 1_300_000, START + 1_300_000);
        clock.measure(2_000_000, 2_000_100, START + 2_000_050);
        let offset_us = clock.offset_us().expect("measured");
        assert!((offset_us - START).abs() <= 50 && clock.error_us() <= 51, "{clock:?}");
        // A long one afterwards changes nothing but for the drift since.
        clock.measure(3_000_000, 4_000_000, START + 3_000_000);
        assert!((clock.offset_us().expect("measured") - START).abs() <= 500);
    }

    #[test]
    fn a_step_of_redis_is_followed() {
        let mut clock = RedisClock::default();
        clock.measure(0, 100, START);
        let first = base(&mut clock, 50, 90) + 90;
        for step in [-3_600_000_000, 3_600_000_000] {
            clock.measure(1_000, 1_100, START + step);
            let offset_us = clock.offset_us().expect("measured");
            assert!((offset_us - START - step).abs() <= 1_100);
            assert_eq!(base(&mut clock, 1_050, 1_090), offset_us);
        }
        assert!(first < base(&mut clock, 2_000, 2_000) + 2_000);
    }

    #[test]
    fn a_smaller_estimate_is_followed_without_a_step_back() {
        let mut clock = RedisClock::default();
        // The first round trip is bad: the estimate is half a second ahead.
        clock.measure(0, 1_000_000, START + 1_000_000);
        let mut written = base(&mut clock, 1_000_000, 1_100_000) + 1_100_000;
        for at in 2..200 {
            let us = at * 1_000_000;
            clock.measure(us, us + 100, START + us + 50);
            let from = base(&mut clock, us, us + 100_000) + us;
            assert!(from > written);
            written = from + 100_000;
        }
        assert!((written - START - 199_100_000).abs() <= 50);
    }

    proptest! {
        #[test]
        fn the_true_offset_is_within_the_error(
            trips in proptest::collection::vec((0..500_000_i64, 0..500_000_i64, 0..5_000_000_i64), 1..50),
        ) {
            let mut clock = RedisClock::default();
            let mut us = 0;
            for (there, back, pause) in trips {
                clock.measure(us, us + there + back, START + us + there);
                us += there + back + pause;
                let off_us = clock.offset_us().expect("measured") - START;
                prop_assert!(off_us.abs() <= clock.error_us(), "{} {:?}", off_us, clock);
            }
        }

        #[test]
        fn times_never_step_back(
            segments in proptest::collection::vec(
                (1..1_000_000_i64, 0..1_000_000_i64, 0..300_000_i64, 0..300_000_i64), 1..50
            ),
        ) {
            let mut clock = RedisClock::default();
            let (mut us, mut written) = (0, 0);
            for (pause, length, there, back) in segments {
                clock.measure(us, us + there + back, START + us + there);
                us += there + back + pause;
                let base_us = base(&mut clock, us, us + length);
                prop_assert!(base_us + us > written);
                written = base_us + us + length;
                us += length;
            }
        }
    }
}
