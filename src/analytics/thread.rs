//! The thread that drives [`Analytics`], and where it meets the store's memory: it takes blocks from
//! the workers and questions from readers, and sleeps when there are neither.
//!
//! A question is taken first, and answered once every block has been judged that lay in a lane at that
//! moment: a block sent before a question was asked is always seen by the answer. All work of one turn
//! is bounded, so neither samples nor questions can starve the other.
//!
//! Under load it dozes between turns, and no worker pays for waking it; once nothing has come for a
//! while it parks, and costs nothing until something does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use crate::analytics::Analytics;
use crate::analytics::report::{
    Question, RecentQuery, SAMPLES_REPORTED_MAX, SampleReport, TotalsReport,
};
use crate::clock::{Clock, Now};
use crate::handover::{Block, LaneClosed, LaneEnd, Sleeper};
use crate::store::memory::Latest;
use crate::tally::{Histogram, Tally};

/// Blocks of one lane judged before the next lane has its turn: half a millisecond of full ones.
const BLOCKS_PER_TURN: usize = 64;
/// Questions answered before samples have their turn again: 10 ms of the dearest, 1 ms of the usual.
const QUESTIONS_PER_TURN: usize = 64;
/// How long a sample waits at most for a thread that has nothing else to do.
const DOZE: Duration = Duration::from_micros(500);
/// Without samples and questions for so long it parks: 40 dozes, whose cost is then behind it.
const PARK_AFTER_NS: u64 = 20_000_000;
/// One block in so many is timed, which takes two clock reads.
const BLOCKS_PER_TIMED: u64 = 64;

/// What is counted and timed here; written by the analytics thread.
#[derive(Debug, Default)]
pub struct AnalyticsTallies {
    /// Samples judged.
    pub samples_total: Tally,
    /// Blocks judged.
    pub blocks_total: Tally,
    /// Questions answered.
    pub questions_total: Tally,
    /// Ends of a sleep.
    pub wakes_total: Tally,
    /// Sleeps begun that only a sample or a question ends.
    pub parks_total: Tally,
    /// From the moment a block was sent to its last verdict; one block in [`BLOCKS_PER_TIMED`].
    pub lag: Histogram,
    /// Judging, per sample; of the same blocks.
    pub judge: Histogram,
}

/// The thread's state; [`AnalyticsThread::run`] is its life.
#[derive(Debug)]
pub struct AnalyticsThread {
    analytics: Analytics,
    latest: Latest,
    ttl_us: i64,
    sources: Vec<Source>,
    questions: Receiver<Question>,
    /// Taken, and waiting for the blocks ahead of them.
    taken: Vec<Question>,
    sleeper: Arc<Sleeper>,
    clock: Clock,
    tallies: Arc<AnalyticsTallies>,
}

/// One worker's samples.
#[derive(Debug)]
struct Source {
    end: LaneEnd,
    /// Blocks to judge before the questions taken may be answered.
    ahead: usize,
}

impl AnalyticsThread {
    /// Samples come from `lanes`, whose workers wake `sleeper`, as do those who ask. `/latest` shows
    /// samples for `ttl_us`.
    pub fn new(
        analytics: Analytics,
        ttl_us: i64,
        lanes: Vec<LaneEnd>,
        questions: Receiver<Question>,
        sleeper: Arc<Sleeper>,
        start: Instant,
        tallies: Arc<AnalyticsTallies>,
    ) -> Self {
        Self {
            analytics,
            latest: Latest::default(),
            ttl_us,
            sources: lanes.into_iter().map(|end| Source { end, ahead: 0 }).collect(),
            questions,
            taken: Vec::with_capacity(QUESTIONS_PER_TURN),
            sleeper,
            clock: Clock::new(start),
            tallies,
        }
    }

    /// Runs on the calling thread until every worker has gone and all they sent is judged; what was
    /// asked by then is answered too.
    pub fn run(mut self) -> TotalsReport {
        self.sleeper.adopt();
        let mut busy_ns = self.clock.monotonic_ns();
        loop {
            let asked = self.take_questions();
            let judged = self.judge();
            self.answer();
            let scanned = self.analytics.advance_scans();

            if asked || judged || scanned {
                busy_ns = self.clock.monotonic_ns();
            } else if self.sources.is_empty() {
                return self.analytics.totals();
            } else {
                self.sleep(busy_ns);
            }
        }
    }

    /// Takes the questions that wait, unless some are taken already.
    fn take_questions(&mut self) -> bool {
        if !self.taken.is_empty() {
            return true;
        }
        self.taken.extend(self.questions.try_iter().take(QUESTIONS_PER_TURN));
        if self.taken.is_empty() {
            return false;
        }
        // Counted after the questions were taken: so with everything that was sent before they were.
        for source in &mut self.sources {
            source.ahead = source.end.len();
        }
        true
    }

    /// Judges what the lanes hold, a bounded number of blocks from each.
    fn judge(&mut self) -> bool {
        let Self { analytics, latest, sources, clock, tallies, .. } = self;
        let mut any = false;
        sources.retain_mut(|source| {
            for _ in 0..BLOCKS_PER_TURN {
                match source.end.receive() {
                    Ok(Some(block)) => {
                        judge_block(analytics, latest, &block, clock, tallies);
                        source.end.give_back(block);
                        source.ahead = source.ahead.saturating_sub(1);
                        any = true;
                    }
                    Ok(None) => return true,
                    Err(LaneClosed) => return false,
                }
            }
            true
        });
        any
    }

    /// Answers the questions taken, once no block is ahead of them.
    fn answer(&mut self) {
        if self.taken.is_empty() || self.sources.iter().any(|source| source.ahead > 0) {
            return;
        }
        let now = self.clock.now();
        self.tallies.questions_total.add(self.taken.len() as u64);
        let Self { analytics, latest, ttl_us, taken, .. } = self;
        for question in taken.drain(..) {
            match question {
                Question::Windows(device, to) => reply(&to, analytics.windows(device)),
                Question::Devices(query, to) => analytics.scan_devices(query, to),
                Question::Anomalies(query, to) => reply(&to, analytics.anomalies(&query)),
                Question::Latest(query, to) => {
                    reply(&to, latest_samples(latest, analytics, &query, now, *ttl_us));
                }
                Question::Totals(to) => reply(&to, analytics.totals()),
            }
        }
    }

    fn sleep(&mut self, busy_ns: u64) {
        let has_work = || {
            self.sources.iter().any(|source| source.end.has_news()) || !self.questions.is_empty()
        };
        if self.clock.monotonic_ns() - busy_ns < PARK_AFTER_NS {
            self.sleeper.doze(DOZE, has_work);
        } else {
            self.tallies.parks_total.add(1);
            self.sleeper.park(has_work);
        }
        self.tallies.wakes_total.add(1);
    }
}

fn judge_block(
    analytics: &mut Analytics,
    latest: &mut Latest,
    block: &Block,
    clock: &Clock,
    tallies: &AnalyticsTallies,
) {
    let timed = tallies.blocks_total.get().is_multiple_of(BLOCKS_PER_TIMED);
    let begun_ns = if timed { clock.monotonic_ns() } else { 0 };
    analytics.judge(&block.batch, block.sent.wall_us);
    latest.keep(&block.batch, block.sent.wall_us);
    let samples = block.batch.len() as u64;
    tallies.samples_total.add(samples);
    tallies.blocks_total.add(1);
    if timed && samples > 0 {
        let judged_ns = clock.monotonic_ns();
        tallies.lag.record(judged_ns.saturating_sub(block.sent.monotonic_ns), samples);
        tallies.judge.record((judged_ns - begun_ns) / samples, samples);
    }
}

/// The samples that `query` asks for; without those whose device has lost its place since.
fn latest_samples(
    latest: &Latest,
    analytics: &Analytics,
    query: &RecentQuery,
    now: Now,
    ttl_us: i64,
) -> Vec<SampleReport> {
    let since_us = query.since_us.max(now.wall_us - ttl_us);
    latest
        .newest_first(query.device, since_us)
        .filter_map(|kept| {
            let device = match kept.sample.device {
                Some(id) => Some(analytics.device_name(id)?.clone()),
                None => None,
            };
            let names = kept.readings().map(|r| (analytics.metric_name(r.metric), r.value));
            Some(SampleReport {
                device,
                timestamp_us: kept.sample.timestamp_us,
                arrived_us: kept.arrived_us,
                readings: names.collect(),
            })
        })
        .take(query.limit.min(SAMPLES_REPORTED_MAX))
        .collect()
}

fn reply<T>(to: &Sender<T>, report: T) {
    // Err: who asked has gone.
    let _ = to.try_send(report);
}
