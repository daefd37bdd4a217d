//! The time that a request spends in each stage, from the poller to the end of its write.
//!
//! One request in many is timed. Its [`StageTimes`] travel with it: each layer ends its own stage, and
//! the worker records them all once the response has been written.

use sigmad_clock::Clock;
use sigmad_counters::{Histogram, StageDurations};

/// The first request of one read in this many is timed, and one request of a round at most.
pub const TIMED_EVERY: u64 = 64;

/// A stage of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From the return of the poller to the read, behind the other connections of the round.
    QueueWait,
    /// The read call.
    Read,
    /// From bytes to a request.
    Parse,
    /// From the request's body to samples.
    Decode,
    /// From samples to the queue of the analytics thread.
    Enqueue,
    /// The write call.
    Write,
    /// From the return of the poller to the end of the write: all stages, and the time between them.
    Whole,
}

impl Stage {
    /// Every stage, in the order of the declaration, which is that of a request.
    pub const ALL: [Self; 7] = [
        Self::QueueWait,
        Self::Read,
        Self::Parse,
        Self::Decode,
        Self::Enqueue,
        Self::Write,
        Self::Whole,
    ];

    /// The value of the label `stage`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueWait => "queue_wait",
            Self::Read => "read",
            Self::Parse => "parse",
            Self::Decode => "decode",
            Self::Enqueue => "enqueue",
            Self::Write => "write",
            Self::Whole => "whole",
        }
    }
}

/// The durations of one request, by stage.
#[derive(Clone, Copy, Debug)]
pub struct StageTimes {
    begun_ns: u64,
    /// The end of the last stage.
    last_ns: u64,
    durations_ns: [Option<u64>; Stage::ALL.len()],
}

impl StageTimes {
    /// The request begins at `begun_ns`, and so does its first stage.
    pub fn new(begun_ns: u64) -> Self {
        Self { begun_ns, last_ns: begun_ns, durations_ns: [None; Stage::ALL.len()] }
    }

    /// A stage begins now; the time since the end of the last one belongs to none.
    pub fn begin(&mut self, now_ns: u64) {
        self.last_ns = now_ns;
    }

    /// A stage ends now, and the next one begins. A stage that is ended twice has both durations.
    pub fn end(&mut self, stage: Stage, now_ns: u64) {
        *self.durations_ns[stage as usize].get_or_insert(0) += now_ns - self.last_ns;
        self.last_ns = now_ns;
    }

    /// True when the stage has ended.
    pub fn has(&self, stage: Stage) -> bool {
        self.durations_ns[stage as usize].is_some()
    }
}

/// The stage times of the current request, if it is timed; without them no clock is read.
#[derive(Debug, Default)]
pub struct StageTimer<'a>(pub Option<&'a mut StageTimes>);

impl StageTimer<'_> {
    /// As [`StageTimes::begin`].
    #[inline]
    pub fn begin(&mut self, clock: &Clock) {
        if let Some(times) = &mut self.0 {
            times.begin(clock.monotonic_ns());
        }
    }

    /// As [`StageTimes::end`].
    #[inline]
    pub fn end(&mut self, stage: Stage, clock: &Clock) {
        if let Some(times) = &mut self.0 {
            times.end(stage, clock.monotonic_ns());
        }
    }
}

/// Durations of timed requests, by stage.
#[derive(Debug, Default)]
pub struct StageCounters([Histogram; Stage::ALL.len()]);

impl StageCounters {
    /// Counts one request. The whole counts only when the response has been written.
    pub fn record(&self, times: &StageTimes) {
        for (histogram, duration_ns) in self.0.iter().zip(times.durations_ns) {
            if let Some(duration_ns) = duration_ns {
                histogram.record(duration_ns, 1);
            }
        }
        if times.has(Stage::Write) {
            self.of(Stage::Whole).record(times.last_ns - times.begun_ns, 1);
        }
    }

    /// Adds all durations, under the names of their stages.
    pub fn collect(&self, stages: &mut StageDurations) {
        for stage in Stage::ALL {
            stages.add(stage.name(), self.of(stage));
        }
    }

    /// The durations of one stage.
    fn of(&self, stage: Stage) -> &Histogram {
        &self.0[stage as usize]
    }
}

#[cfg(test)]
mod tests {
    use sigmad_counters::Counts;

    use super::*;

    fn sum_ns(counters: &StageCounters, stage: Stage) -> (u64, u64) {
        let mut counts = Counts::default();
        counters.of(stage).merge_into(&mut counts);
        (counts.count(), counts.sum_ns)
    }

    #[test]
    fn stages_follow_one_another_and_what_lies_between_belongs_to_the_whole() {
        let counters = StageCounters::default();
        let mut times = StageTimes::new(100);
        times.end(Stage::QueueWait, 110);
        times.end(Stage::Read, 115);
        times.begin(120);
        times.end(Stage::Enqueue, 123);
        times.begin(130);
        times.end(Stage::Enqueue, 134);
        counters.record(&times);
        assert_eq!(sum_ns(&counters, Stage::QueueWait), (1, 10));
        assert_eq!(sum_ns(&counters, Stage::Read), (1, 5));
        assert_eq!(sum_ns(&counters, Stage::Enqueue), (1, 7));
        assert_eq!(sum_ns(&counters, Stage::Decode), (0, 0));
        assert_eq!(sum_ns(&counters, Stage::Whole), (0, 0), "it was not written");
        times.end(Stage::Write, 150);
        counters.record(&times);
        assert_eq!(sum_ns(&counters, Stage::Whole), (1, 50));
    }
}
