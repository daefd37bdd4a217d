//! The store thread: owns the link to Redis, flushes judged samples, and sends analytics the windows that
//! other replicas have changed.
//!
//! One flush writes a segment of the store queue, marks its subjects as changed, queries the subjects that
//! others have changed, and reads their windows and the lists of the cluster. Then it writes and reads detector states.
//! Several batches of a segment are on their way at once, so that a round trip limits the rate little. After any failure the link is dropped and the same segment is sent again
//! whole: every command may be executed twice. New chunks are taken from the judged-sample queue between two
//! batches, so that a slow Redis delays no other thread.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::TryRecvError;
use redis::Pipeline;
use tracing::{info, warn};

mod handing;
mod linking;
mod listing;
mod marking;
mod reading;
mod writing;

use super::batch::CommandBatch;
use super::commands::{CommandEncoder, StoreOptions};
use super::dial::Dialer;
use super::handover_desk::HandoverDesk;
use super::known_windows::KnownWindows;
use super::link::{ClientIdentity, Link, LinkError};
use super::list_desk::ListDesk;
use super::mark_reply::ChangeSet;
use super::queue::StoreQueue;
use super::redis_clock::RedisClock;
use super::reply::Reply;
use super::url::{Address, Target};
use super::{DropReason, ErrorKind, OutcomeGate, StoreCounters};
use crate::handover::HandoverConsumer;
use crate::judged_queue::JudgedConsumer;
use crate::registry::Registry;
use crate::shared_lists::SharedLists;
use sigmad_backoff::Backoff;
use sigmad_clock::{Clock, Now};

/// Interval between reads of the judged-sample queue: long enough to cost nothing at rest, short enough that
/// a million samples a second take little memory in between.
const GATHER_EVERY: Duration = Duration::from_millis(25);
/// The same once analytics has ended: it waits for its last states to be taken.
const LAST_GATHER_EVERY: Duration = Duration::from_millis(1);
/// Chunks taken between two batches, and while a full segment waits: more than Redis can store of samples
/// that do not coalesce. The rest is dropped in the judged-sample queue, where that costs least.
const CHUNKS_BETWEEN_BATCHES: usize = 4;
/// Batches that are sent before the replies to the first are read: at 5 ms of round trip, 1.6 million commands a
/// second, more than one Redis executes.
const BATCHES_IN_FLIGHT_MAX: usize = 16;
/// A sample is in the store queue this long after its arrival, on the busiest machine.
const ARRIVAL_TO_QUEUE_US: i64 = 1_000_000;
/// A clock of this replica that is further from Redis' clock is logged: people compare times by it.
const CLOCK_OFFSET_US_MAX: i64 = 1_000_000;
/// Refusals for good are logged again only after this long without one: every flush may repeat them.
const REFUSAL_LOG_PAUSE_NS: u64 = 60_000_000_000;
/// The first wait before another attempt to connect. Some restarts of Redis are that short; trying sooner gains nothing.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// The longest: windows are at most this much staler than necessary once Redis is back.
const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// The part of the drain that is left for the last flush, at least, after analytics has ended.
pub const LAST_FLUSH: Duration = Duration::from_secs(2);

/// What the thread is made of.
pub struct StoreThreadParts {
    /// Where Redis is.
    pub target: Target,
    /// What is written.
    pub options: StoreOptions,
    /// Interval between two flushes.
    pub flush_interval: Duration,
    /// Samples come from here, and updates go back.
    pub consumer: JudgedConsumer,
    /// Detector states come from here. None where no detector keeps any.
    pub handover: Option<HandoverConsumer>,
    /// Where readers find the lists of the cluster.
    pub lists: Arc<SharedLists>,
    /// Resolves ids to names, and admits the names of other replicas.
    pub registry: Arc<Registry>,
    /// Written by the thread.
    pub counters: Arc<StoreCounters>,
    /// Reads the time.
    pub clock: Clock,
    /// Opens connections.
    pub dialer: Arc<dyn Dialer>,
    /// Called with true once the windows of other replicas are read, with false after the first failure, and
    /// then at every change.
    pub on_state: Box<dyn Fn(bool) + Send>,
    /// Seeds the backoff; different for each replica.
    pub seed: u64,
    /// When to drop the samples that are left, on the monotonic clock; 0 before the drain. The dialer ends every
    /// call by then.
    pub deadline_ns: Arc<AtomicU64>,
    /// Set to true when the password was read again: the present connections log in with it.
    pub logs_in_again: Arc<AtomicBool>,
    /// Closed once the process counts what is left without this thread.
    pub outcomes: Arc<OutcomeGate>,
}

/// The thread's state; [`StoreThread::run`] is its loop.
pub struct StoreThread {
    target: Target,
    encoder: CommandEncoder,
    queue: StoreQueue,
    flush_interval_ns: u64,
    consumer: JudgedConsumer,
    handover: Option<HandoverDesk>,
    lists: ListDesk,
    registry: Arc<Registry>,
    counters: Arc<StoreCounters>,
    clock: Clock,
    on_state: Box<dyn Fn(bool) + Send>,
    deadline_ns: Arc<AtomicU64>,
    logs_in_again: Arc<AtomicBool>,
    outcomes: Arc<OutcomeGate>,
    /// Samples that came after the deadline. They are counted, and not put into the store queue.
    too_late: u64,

    link: Option<Link>,
    identity: ClientIdentity,
    /// The master that the segments kept by the queue were written to, with sentinels.
    master: Option<Address>,
    /// When to ask a sentinel again.
    confirm_ns: u64,
    /// When one has named the master last.
    confirmed_ns: u64,
    /// When to ask Redis for its memory again.
    info_ns: u64,
    backoff: Backoff,
    /// The next attempt is not before this time.
    retry_ns: u64,
    /// Batches that were sent and whose replies are not read, oldest first.
    in_flight: VecDeque<CommandBatch>,
    /// Empty batches, kept for their memory.
    spare_batches: Vec<CommandBatch>,
    /// The number of the last change that was read.
    cursor: u64,
    /// The set of changes that it belongs to. None before the first mark.
    change_set: Option<ChangeSet>,
    /// Subjects that others have changed and that are still to be read; None for the fleet.
    changed: Vec<Option<Box<str>>>,
    /// Subjects to read again once our next samples of them are written, with the time of the last sample
    /// that was read. Samples of ours were in flight then, and some may be older than that.
    overlapping: HashMap<Option<Box<str>>, i64>,
    known: KnownWindows,
    redis_clock: RedisClock,
    /// True once a clock that is off was logged, until it is right again.
    is_clock_off: bool,
    /// The `--window` of another replica, if it differs from ours.
    other_window: Option<usize>,
    /// When to name our `--window` again.
    name_window_ns: u64,
    /// Names whose changes Redis refused to mark or has lost; at most as many as there may be devices.
    unmarked: BTreeSet<Box<str>>,
    /// Subjects of which Redis refused a read; read again with the next flush.
    unread: Vec<Option<Box<str>>>,
    /// True while Redis refuses what replicas share their windows by.
    is_sharing_refused: bool,
    outage: Option<Outage>,
    is_up: Option<bool>,
    /// When a command was last refused for good, by [`ErrorKind`].
    last_refusal_ns: [Option<u64>; ErrorKind::ALL.len()],
}

/// A time in which Redis fails.
#[derive(Debug)]
struct Outage {
    since_ns: u64,
    /// Kinds of failure that were logged since.
    is_logged: [bool; ErrorKind::ALL.len()],
}

impl StoreThread {
    /// Not connected yet.
    pub fn new(parts: StoreThreadParts) -> Self {
        let StoreThreadParts {
            target,
            options,
            flush_interval,
            consumer,
            registry,
            counters,
            handover,
            ..
        } = parts;
        let StoreThreadParts { clock, dialer, on_state, seed, deadline_ns, .. } = parts;
        let StoreThreadParts { logs_in_again, outcomes, lists, .. } = parts;
        let keeps_history = options.history_len.is_some();
        let name = options.replica.client_name();
        Self {
            target,
            lists: ListDesk::new(lists, options.replica),
            encoder: CommandEncoder::new(options),
            queue: StoreQueue::new(consumer.budget.clone(), options.window, keeps_history)
                .with_sample_keys(options.sample_keys),
            flush_interval_ns: flush_interval.as_nanos() as u64,
            consumer,
            handover: handover.map(HandoverDesk::new),
            registry,
            counters,
            identity: ClientIdentity::new(name, clock.clone(), dialer),
            clock,
            on_state,
            deadline_ns,
            logs_in_again,
            outcomes,
            too_late: 0,
            link: None,
            master: None,
            confirm_ns: 0,
            confirmed_ns: 0,
            info_ns: 0,
            backoff: Backoff::new(seed, FIRST_RETRY, LONGEST_RETRY),
            retry_ns: 0,
            in_flight: VecDeque::with_capacity(BATCHES_IN_FLIGHT_MAX),
            spare_batches: Vec::with_capacity(BATCHES_IN_FLIGHT_MAX),
            cursor: 0,
            change_set: None,
            changed: Vec::new(),
            overlapping: HashMap::new(),
            known: KnownWindows::default(),
            redis_clock: RedisClock::default(),
            is_clock_off: false,
            other_window: None,
            name_window_ns: 0,
            unmarked: BTreeSet::new(),
            unread: Vec::new(),
            is_sharing_refused: false,
            outage: None,
            is_up: None,
            last_refusal_ns: [None; ErrorKind::ALL.len()],
        }
    }

    /// Runs on the calling thread until analytics has ended and Redis has all samples, or until the deadline.
    pub fn run(mut self) {
        let mut due_ns = 0;
        loop {
            let is_behind = self.link.is_some() && self.queue.has_full_segment();
            let is_open = self.gather(if is_behind { CHUNKS_BETWEEN_BATCHES } else { usize::MAX });
            let now_ns = self.clock.monotonic_ns();
            let is_due = now_ns >= due_ns || !is_open || self.queue.has_full_segment();
            if is_due && now_ns >= self.retry_ns {
                due_ns = now_ns + self.flush_interval_ns;
                match self.flush() {
                    Ok(()) => self.flush_succeeded(),
                    Err(error) => self.flush_failed(&error),
                }
            } else if self.link.is_some()
                && self.handover.as_ref().is_some_and(|desk| desk.is_due(now_ns))
                && let Err(error) = self.hand_over()
            {
                self.flush_failed(&error);
            }
            if !is_open {
                self.take_messages();
                let is_stated = self.handover.as_ref().is_none_or(HandoverDesk::is_done);
                let is_listed = !self.lists.has_unwritten();
                let is_written = self.queue.is_empty() && self.too_late == 0 && is_listed;
                if is_written && is_stated && self.has_confirmed() {
                    // Those of the last seconds: a sentinel may not know yet that their master is none any more.
                    self.queue.release_all();
                    return self.update_gauges();
                } else if self.is_past_deadline() {
                    return self.drop_rest();
                }
            }
            let longest = if is_open { GATHER_EVERY } else { LAST_GATHER_EVERY };
            let wait_ns = due_ns.max(self.retry_ns).saturating_sub(self.clock.monotonic_ns());
            self.clock.sleep(longest.min(Duration::from_nanos(wait_ns)));
        }
    }

    fn is_past_deadline(&self) -> bool {
        // Relaxed: no other data depends on it.
        let deadline_ns = self.deadline_ns.load(Ordering::Relaxed);
        deadline_ns != 0 && self.clock.monotonic_ns() >= deadline_ns
    }

    /// Moves the waiting chunks to the store queue, one more than `chunks_max` at most. Past the deadline they are only
    /// counted: that takes no time, however many there are. False once analytics has ended and all chunks are taken.
    fn gather(&mut self, chunks_max: usize) -> bool {
        let mut is_open = true;
        for _ in 0..=self.consumer.waiting().min(chunks_max) {
            let chunk = match self.consumer.take() {
                Ok(chunk) => chunk,
                Err(error) => {
                    is_open = error == TryRecvError::Empty;
                    break;
                }
            };
            self.counters.taken_total.add(chunk.counted() as u64);
            let emptied = if self.is_past_deadline() {
                self.too_late += chunk.counted() as u64;
                chunk
            } else {
                let (name, metric_name) = (
                    |device| self.registry.device_name(device),
                    |metric| self.registry.metric_name(metric),
                );
                let dropped = self.queue.take(&chunk, name, metric_name);
                self.outcomes.count(|| self.count_dropped(DropReason::QueueFull, dropped));
                self.lists.take_samples(chunk)
            };
            self.consumer.recycle(emptied);
        }
        self.take_anomalies();
        self.update_gauges();
        is_open
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        self.changed.append(&mut self.unread);
        let was_refused = std::mem::take(&mut self.is_sharing_refused);
        self.connect()?;
        self.log_in_again()?;
        self.confirm_master()?;
        self.ask_info()?;
        self.lists.is_refused = false;
        self.write_lists()?;
        let begun_ns = self.clock.monotonic_ns();
        loop {
            if self.is_past_deadline() {
                return Err(LinkError::new(ErrorKind::Timeout, "the drain has ended"));
            }
            self.write_segment()?;
            // Where samples come faster than Redis takes them there is always another one, and what others have written
            // would never be read.
            let is_long = self.clock.monotonic_ns() - begun_ns >= self.flush_interval_ns;
            if is_long || !self.queue.has_full_segment() {
                break;
            }
        }
        let asked = self.clock.now();
        let sent_us = self.sent_us(asked);
        self.overlapping.retain(|_, last_us| *last_us > sent_us);
        self.lists.is_due |= !self.changed.is_empty();
        self.read_changed(asked)?;
        self.read_lists()?;
        if !self.is_sharing_refused {
            self.consumer.set_synced_at(asked.wall_us);
            if was_refused {
                info!("windows are shared again");
            }
        }
        self.hand_over()
    }

    /// All samples that arrived here by that time, which is Redis', are written, of whatever shard.
    fn sent_us(&self, now: Now) -> i64 {
        let of_shard = |shard| match self.queue.since_us(shard) {
            Some(since_us) => since_us - 1,
            None => monotonic_us(now) - ARRIVAL_TO_QUEUE_US,
        };
        let shards = 0..self.consumer.layout().threads();
        let sent_us = shards.map(of_shard).min().expect("there is one shard at least");
        sent_us + self.redis_offset_us(now) - self.redis_clock.error_us()
    }

    /// What is added to the monotonic time to get Redis'. A Redis that refuses to tell it shares no windows
    /// either, and then the wall clock is good enough.
    fn redis_offset_us(&self, now: Now) -> i64 {
        self.redis_clock.offset_us().unwrap_or(now.wall_us - monotonic_us(now))
    }

    /// The wall clock less Redis' clock.
    fn clock_offset_us(&self, now: Now) -> i64 {
        now.wall_us - monotonic_us(now) - self.redis_offset_us(now)
    }

    fn linked(&mut self) -> &mut Link {
        self.link.as_mut().expect("a flush begins with a link")
    }

    /// Sends commands and waits for their replies. A refusal that is passing is a failure of all commands.
    fn send(&mut self, pipeline: &Pipeline) -> Result<Vec<Result<Reply, LinkError>>, LinkError> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let replies = self.linked().run(pipeline)?;
        self.executed(replies)
    }

    /// The replies, unless one is a refusal that is passing.
    fn executed(
        &mut self,
        mut replies: Vec<Result<Reply, LinkError>>,
    ) -> Result<Vec<Result<Reply, LinkError>>, LinkError> {
        let passing = |reply: &Result<Reply, LinkError>| {
            reply.as_ref().is_err_and(|error| error.kind.is_passing())
        };
        if let Some(at) = replies.iter().position(passing) {
            return Err(replies.swap_remove(at).expect_err("it is one"));
        }
        self.counters.commands_total.add(replies.len() as u64);
        Ok(replies)
    }

    /// As [`StoreThread::send`], for what no sample needs: a user without the permission loses that alone.
    fn send_optional(
        &mut self,
        pipeline: &Pipeline,
    ) -> Result<Vec<Result<Reply, LinkError>>, LinkError> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let mut replies = self.linked().run(pipeline)?;
        let passing = |reply: &Result<Reply, LinkError>| {
            let kind = reply.as_ref().err().map(|error| error.kind);
            kind.is_some_and(|kind| kind.is_passing() && kind != ErrorKind::Auth)
        };
        if let Some(at) = replies.iter().position(passing) {
            return Err(replies.swap_remove(at).expect_err("it is one"));
        }
        self.counters.commands_total.add(replies.len() as u64);
        Ok(replies)
    }

    fn log_refusal(&mut self, error: &LinkError) {
        let now_ns = self.clock.monotonic_ns();
        self.counters.errors_total[error.kind as usize].add(1);
        let last_ns = self.last_refusal_ns[error.kind as usize].replace(now_ns);
        if last_ns.is_none_or(|last_ns| now_ns - last_ns > REFUSAL_LOG_PAUSE_NS) {
            warn!(kind = error.kind.name(), error = %error, "Redis refuses a command");
        }
    }

    fn flush_succeeded(&mut self) {
        self.set_up(!self.is_sharing_refused);
        if self.lists.is_refused {
            self.lists_are_away();
        }
        self.backoff.succeeded();
        if let Some(outage) = self.outage.take() {
            let outage_ms = (self.clock.monotonic_ns() - outage.since_ns) / 1_000_000;
            info!(outage_ms, "Redis is back");
        }
    }

    fn flush_failed(&mut self, error: &LinkError) {
        if let Some(link) = self.link.take() {
            self.identity.set_lost(link.sessions());
        }
        // What comes next may be another Redis, or have lost data.
        self.known.clear();
        if let Some(desk) = &mut self.handover {
            // Others may have lost their connections at the same time.
            desk.absent.clear();
        }
        // The segment is sent again from its first batch on.
        self.spare_batches.extend(self.in_flight.drain(..));
        self.set_up(false);
        self.lists_are_away();
        self.counters.errors_total[error.kind as usize].add(1);
        let now_ns = self.clock.monotonic_ns();
        self.retry_ns = now_ns + self.backoff.after_failure().as_nanos() as u64;
        let outage = self
            .outage
            .get_or_insert(Outage { since_ns: now_ns, is_logged: [false; ErrorKind::ALL.len()] });
        let is_logged = std::mem::replace(&mut outage.is_logged[error.kind as usize], true);
        if !is_logged {
            let kind = error.kind.name();
            warn!(kind, error = %error, "Redis fails; samples wait for it");
        }
    }

    fn set_up(&mut self, is_up: bool) {
        if self.is_up.replace(is_up) != Some(is_up) {
            self.counters.up.set(u64::from(is_up));
            (self.on_state)(is_up);
        }
    }

    fn drop_rest(&mut self) {
        let lost = self.queue.drop_all() + self.too_late;
        self.outcomes.count(|| {
            self.count_dropped(DropReason::Shutdown, lost);
            warn!(samples = lost, "Redis did not take the last samples; they are dropped");
        });
        self.update_gauges();
        self.drop_states();
    }

    fn count_dropped(&self, reason: DropReason, samples: u64) {
        self.counters.dropped_total[reason as usize].add(samples);
    }

    fn update_gauges(&mut self) {
        self.counters.unconfirmed_total.add(self.queue.take_unconfirmed());
        self.counters.queue_samples.set(self.queue.samples());
        self.counters.queue_bytes.set(self.queue.bytes() as u64);
    }
}

fn monotonic_us(now: Now) -> i64 {
    (now.monotonic_ns / 1_000) as i64
}
