//! The store thread: owns the link to Redis, flushes judged samples, and sends analytics the windows that
//! other replicas have changed.
//!
//! One flush writes a segment of the store queue, marks its subjects as changed, queries the subjects that
//! others have changed, and reads their windows. Several batches of a segment are on their way at once, so that
//! a round trip limits the rate little. After any failure the link is dropped and the same segment is sent again
//! whole: every command may be executed twice. New chunks are taken from the judged-sample queue between two
//! batches, so that a slow Redis delays no other thread.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::TryRecvError;
use redis::{Pipeline, Value};
use tracing::{info, warn};

mod marking;

use super::backoff::Backoff;
use super::batch::CommandBatch;
use super::commands::{BatchCursor, CommandEncoder, StoreOptions};
use super::dial::Dialer;
use super::info::RedisMemory;
use super::keys;
use super::link::{ClientIdentity, Link, LinkError};
use super::mark_reply::ChangeSet;
use super::queue::{Refusals, StoreQueue};
use super::redis_clock::{FUTURE_US_MAX, RedisClock};
use super::url::{Address, Target};
use super::windows::{SubjectCounts, WindowMembers, share};
use super::{DropReason, ErrorKind, StoreCounters};
use crate::judged_queue::{JudgedConsumer, ReplicaUpdate, SharedWindows};
use crate::registry::Registry;
use sigmad_clock::{Clock, Now};

/// Interval between reads of the judged-sample queue: long enough to cost nothing at rest, short enough that
/// a million samples a second take little memory in between.
const GATHER_EVERY: Duration = Duration::from_millis(25);
/// Chunks taken between two batches, and while a full segment waits: more than Redis can store of samples
/// that do not coalesce. The rest is dropped in the judged-sample queue, where that costs least.
const CHUNKS_BETWEEN_BATCHES: usize = 4;
/// Batches that are sent before the replies to the first are read: at 5 ms of round trip, 1.6 million commands a
/// second, more than one Redis executes.
const BATCHES_IN_FLIGHT_MAX: usize = 16;
/// No further batch is sent while those in flight have more bytes: what a slow network takes in a part of the write
/// timeout.
const BYTES_IN_FLIGHT_MAX: usize = 2 * 1024 * 1024;
/// Subjects whose counts are read in one round trip: as many as make a first read of a large fleet over a slow
/// link short. Their counts take a megabyte.
const SUBJECTS_PER_READ: usize = 1_024;
/// Values that one round trip reads: six megabytes, which come well within the timeout of replies.
const VALUES_PER_READ: usize = 131_072;
/// Interval at which a sentinel is asked whether the master is still the same.
const CONFIRM_EVERY_NS: u64 = 1_000_000_000;
/// The same after no sentinel could be asked: an attempt to connect may take a second.
const CONFIRM_AGAIN_NS: u64 = 5_000_000_000;
/// A sentinel names another master this long after it was promoted, at most: it sees the promotion in INFO, which it
/// reads once a second, and the others hear of it every two seconds.
const SENTINEL_LAG_NS: u64 = 5_000_000_000;
/// Interval at which Redis is asked for its memory: shorter than a scrape is.
const INFO_EVERY_NS: u64 = 5_000_000_000;
/// A sample is in the store queue this long after its arrival, on the busiest machine.
const ARRIVAL_TO_QUEUE_US: i64 = 1_000_000;
/// A clock of this replica that is further from Redis' clock is logged: people compare times by it.
const CLOCK_OFFSET_US_MAX: i64 = 1_000_000;
/// Refusals for good are logged again only after this long without one: every flush may repeat them.
const REFUSAL_LOG_PAUSE_NS: u64 = 60_000_000_000;
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
}

/// The thread's state; [`StoreThread::run`] is its loop.
pub struct StoreThread {
    target: Target,
    encoder: CommandEncoder,
    queue: StoreQueue,
    flush_interval_ns: u64,
    consumer: JudgedConsumer,
    registry: Arc<Registry>,
    counters: Arc<StoreCounters>,
    clock: Clock,
    on_state: Box<dyn Fn(bool) + Send>,
    deadline_ns: Arc<AtomicU64>,
    logs_in_again: Arc<AtomicBool>,

    link: Option<Link>,
    identity: ClientIdentity,
    /// The master that the segments kept by the queue were written to, with sentinels.
    master: Option<Address>,
    /// When to ask a sentinel again.
    confirm_ns: u64,
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

/// A subject whose counts are read, and whose windows are not.
type CountedSubject = (Option<Box<str>>, SubjectCounts);

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
            target, options, flush_interval, consumer, registry, counters, ..
        } = parts;
        let StoreThreadParts { clock, dialer, on_state, seed, deadline_ns, logs_in_again, .. } =
            parts;
        let keeps_history = options.history_len.is_some();
        let name = format!("sigmad-{}", options.replica);
        Self {
            target,
            encoder: CommandEncoder::new(options),
            queue: StoreQueue::new(consumer.budget.clone(), options.window, keeps_history)
                .with_sample_keys(options.sample_keys),
            flush_interval_ns: flush_interval.as_nanos() as u64,
            consumer,
            registry,
            counters,
            identity: ClientIdentity::new(name, clock.clone(), dialer),
            clock,
            on_state,
            deadline_ns,
            logs_in_again,
            link: None,
            master: None,
            confirm_ns: 0,
            info_ns: 0,
            backoff: Backoff::new(seed),
            retry_ns: 0,
            in_flight: VecDeque::with_capacity(BATCHES_IN_FLIGHT_MAX),
            spare_batches: Vec::with_capacity(BATCHES_IN_FLIGHT_MAX),
            cursor: 0,
            change_set: None,
            changed: Vec::new(),
            overlapping: HashMap::new(),
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
            }
            if !is_open {
                if self.queue.is_empty() && self.has_confirmed() {
                    return;
                } else if self.is_past_deadline() {
                    return self.drop_rest();
                }
            }
            let wait_ns = due_ns.max(self.retry_ns).saturating_sub(self.clock.monotonic_ns());
            self.clock.sleep(GATHER_EVERY.min(Duration::from_nanos(wait_ns)));
        }
    }

    fn is_past_deadline(&self) -> bool {
        // Relaxed: no other data depends on it.
        let deadline_ns = self.deadline_ns.load(Ordering::Relaxed);
        deadline_ns != 0 && self.clock.monotonic_ns() >= deadline_ns
    }

    /// Moves the waiting chunks to the store queue, one more than `chunks_max` at most. False once analytics
    /// has ended and all chunks are taken.
    fn gather(&mut self, chunks_max: usize) -> bool {
        let mut is_open = true;
        for _ in 0..=self.consumer.chunks.len().min(chunks_max) {
            let chunk = match self.consumer.chunks.try_recv() {
                Ok(chunk) => chunk,
                Err(error) => {
                    is_open = error == TryRecvError::Empty;
                    break;
                }
            };
            let (name, metric_name) = (
                |device| self.registry.device_name(device),
                |metric| self.registry.metric_name(metric),
            );
            let dropped = self.queue.take(&chunk, name, metric_name);
            self.counters.taken_total.add(chunk.len() as u64);
            self.count_dropped(DropReason::QueueFull, dropped);
            self.consumer.recycle(chunk);
        }
        self.update_gauges();
        is_open
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        self.changed.append(&mut self.unread);
        let was_refused = std::mem::take(&mut self.is_sharing_refused);
        self.connect()?;
        self.log_in_again()?;
        self.confirm_master()?;
        self.ask_memory()?;
        loop {
            if self.is_past_deadline() {
                return Err(LinkError::new(ErrorKind::Timeout, "the drain has ended"));
            }
            self.write_segment()?;
            if !self.queue.has_full_segment() {
                break;
            }
        }
        let asked = self.clock.now();
        let sent_us = self.sent_us(asked);
        self.overlapping.retain(|_, last_us| *last_us > sent_us);
        self.read_changed(asked)?;
        if !self.is_sharing_refused {
            // False: analytics has ended, and no thread reads windows any more.
            let _ = self.consumer.send(ReplicaUpdate::SyncedAt(asked.wall_us), &self.clock);
            if was_refused {
                info!("windows are shared again");
            }
        }
        Ok(())
    }

    /// All samples that arrived here by that time, which is Redis', are written.
    fn sent_us(&self, now: Now) -> i64 {
        let sent_us = match self.queue.since_us() {
            Some(since_us) => since_us - 1,
            None => monotonic_us(now) - ARRIVAL_TO_QUEUE_US,
        };
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

    fn connect(&mut self) -> Result<(), LinkError> {
        if self.link.is_none() {
            let link = Link::connect(&self.target, &self.identity)?;
            self.counters.connections_total.add(1);
            let master = link.master().cloned();
            self.link = Some(link);
            if master != self.master {
                let samples = self.queue.write_again();
                self.counters.rewritten_total.add(samples);
                if samples > 0 {
                    info!(samples, "another master: samples of the last seconds are written again");
                }
                self.master = master;
            }
            // Tells the time, before anything is written under it.
            self.mark()?;
        }
        Ok(())
    }

    /// After SIGHUP, shows whether Redis takes the password that the next connection will give. If not, the present
    /// connections stay as they are.
    fn log_in_again(&mut self) -> Result<(), LinkError> {
        // Relaxed: no other data depends on it.
        if !self.logs_in_again.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let Some(login) = self.target.login.clone() else { return Ok(()) };
        match self.linked().log_in_again(&login)? {
            Ok(is_done) if is_done => info!("logged in to Redis again"),
            Ok(_) => {}
            Err(error) => {
                self.counters.errors_total[error.kind as usize].add(1);
                warn!(%error, "Redis refuses the password that was read again; the connection stays");
            }
        }
        Ok(())
    }

    /// Behind sentinels, asks from time to time whether the master is still the same. What was written to it long
    /// enough before is safe.
    fn confirm_master(&mut self) -> Result<(), LinkError> {
        let now_ns = self.clock.monotonic_ns();
        if self.master.is_none() || now_ns < self.confirm_ns {
            return Ok(());
        }
        let is_confirmed = self.linked().confirm_master()?;
        self.confirm_ns = now_ns + if is_confirmed { CONFIRM_EVERY_NS } else { CONFIRM_AGAIN_NS };
        if is_confirmed {
            self.queue.confirm(now_ns.saturating_sub(SENTINEL_LAG_NS));
        }
        Ok(())
    }

    /// Asks Redis for its memory from time to time. A user without the right to ask has no figures.
    fn ask_memory(&mut self) -> Result<(), LinkError> {
        let now_ns = self.clock.monotonic_ns();
        if now_ns < self.info_ns {
            return Ok(());
        }
        self.info_ns = now_ns + INFO_EVERY_NS;
        let mut memory = RedisMemory::default();
        for reply in self.linked().ask_nodes(&redis::cmd("INFO"))? {
            if !reply.is_ok_and(|reply| memory.add(&reply)) {
                return Ok(());
            }
        }
        self.counters.redis_evicted_total.set(memory.evicted_keys);
        self.counters.redis_used_bytes.set(memory.used_bytes);
        self.counters.redis_bytes_max.set(memory.bytes_max);
        Ok(())
    }

    /// After the last flush: false when the last samples must be written again, to another master. The time in
    /// which a sentinel may not know of it is not waited for.
    fn has_confirmed(&mut self) -> bool {
        if !self.queue.is_unconfirmed() {
            return true;
        }
        if self.link.is_none() {
            return false;
        }
        self.confirm_ns = 0;
        match self.confirm_master() {
            Ok(()) => true,
            Err(error) => {
                self.flush_failed(&error);
                false
            }
        }
    }

    /// Writes the oldest segment and marks its subjects as changed. Without a segment it only queries the
    /// changes of others.
    fn write_segment(&mut self) -> Result<(), LinkError> {
        let begun_ns = self.clock.monotonic_ns();
        if self.queue.begin().is_some() {
            let now = self.clock.now();
            let offset_us = self.redis_offset_us(now);
            let clock = &mut self.redis_clock;
            self.queue.set_base(|since_us, until_us| clock.base_us(since_us, until_us, offset_us));
        }
        let refusals = self.write_batches()?;
        self.mark()?;
        let Some(segment) = self.queue.in_flight() else { return Ok(()) };
        for name in segment.names() {
            if self.overlapping.is_empty() {
                break;
            }
            let subject = (!name.is_empty()).then(|| Box::from(name));
            if let Some((subject, _)) = self.overlapping.remove_entry(&subject) {
                self.changed.push(subject);
            }
        }
        let since_us = segment.since_us();
        let outcome = match self.master {
            Some(_) => self.queue.done_unconfirmed(refusals, self.clock.monotonic_ns()),
            None => self.queue.done(refusals),
        };
        self.counters.stored_total.add(outcome.stored);
        self.counters.coalesced_total.add(outcome.coalesced);
        self.count_dropped(DropReason::Refused, outcome.refused);
        self.update_gauges();
        let now = self.clock.now();
        let delay_us = monotonic_us(now).saturating_sub(since_us).max(0);
        self.counters.flushes_total.add(1);
        self.counters.flush.record(now.monotonic_ns - begun_ns, 1);
        self.counters.delay.record(delay_us as u64 * 1_000, 1);
        Ok(())
    }

    /// Writes all batches of the oldest segment, if there is one, and receives all their replies.
    fn write_batches(&mut self) -> Result<Refusals, LinkError> {
        let mut refusals = Refusals::default();
        let mut cursor = BatchCursor::default();
        loop {
            while self.may_send_batch() {
                let mut batch = self.spare_batches.pop().unwrap_or_default();
                let segment = self.queue.begin();
                if !segment.is_some_and(|s| self.encoder.fill(s, &mut cursor, &mut batch)) {
                    self.spare_batches.push(batch);
                    break;
                }
                self.linked().send(&batch.pipeline)?;
                self.in_flight.push_back(batch);
            }
            let Some(batch) = self.in_flight.pop_front() else { return Ok(refusals) };
            let replies = self.linked().receive(&batch.pipeline)?;
            for (reply, purpose) in self.executed(replies)?.into_iter().zip(&batch.purposes) {
                match reply {
                    Ok(_) => {}
                    Err(error) if purpose.is_done_already(error.reply()) => {}
                    Err(error) => {
                        self.log_refusal(&error);
                        purpose.count_refusal(&mut refusals);
                    }
                }
            }
            self.spare_batches.push(batch);
            self.gather(CHUNKS_BETWEEN_BATCHES);
        }
    }

    fn may_send_batch(&mut self) -> bool {
        let bytes = self.in_flight.iter().map(CommandBatch::bytes).sum::<usize>();
        self.in_flight.len() < BATCHES_IN_FLIGHT_MAX
            && bytes < BYTES_IN_FLIGHT_MAX
            && self.linked().can_send()
    }

    fn linked(&mut self) -> &mut Link {
        self.link.as_mut().expect("a flush begins with a link")
    }

    /// Reads the windows of the subjects that others have changed, and sends them to analytics.
    fn read_changed(&mut self, now: Now) -> Result<(), LinkError> {
        let mut counted = Vec::new();
        while !(self.changed.is_empty() && counted.is_empty()) {
            if let Err(error) = self.read(&mut counted, now) {
                self.changed.extend(counted.into_iter().map(|(subject, _)| subject));
                return Err(error);
            }
            self.gather(CHUNKS_BETWEEN_BATCHES);
        }
        Ok(())
    }

    /// One round trip: reads windows of the subjects whose counts are read, and the counts of the next subjects.
    fn read(&mut self, counted: &mut Vec<CountedSubject>, now: Now) -> Result<(), LinkError> {
        let mut pipeline = Pipeline::new();
        let (mut ready, windows_max) = (0, self.windows_per_read());
        for (subject, counts) in counted.iter() {
            if ready > 0 && pipeline.len() + counts.metrics.len() > windows_max {
                break;
            }
            for metric in &counts.metrics {
                pipeline.add_command(self.encoder.read_window(subject.as_deref(), &metric.name));
            }
            ready += 1;
        }
        let next = match self.changed.len().saturating_sub(SUBJECTS_PER_READ) {
            // So the next round trip has as many windows to read as this one.
            from if counted.len() - ready < SUBJECTS_PER_READ => self.changed.split_off(from),
            _ => Vec::new(),
        };
        for subject in &next {
            pipeline.add_command(self.encoder.read_counts(subject.as_deref()));
        }
        let mut replies = match self.send(&pipeline) {
            Ok(replies) => replies.into_iter(),
            Err(error) => {
                self.changed.extend(next);
                return Err(error);
            }
        };
        pipeline.clear();
        let mut shared = Vec::with_capacity(ready);
        for (subject, counts) in counted.drain(..ready) {
            let replies = replies.by_ref().take(counts.metrics.len());
            shared.extend(self.take_windows(subject, counts, replies, now, &mut pipeline));
        }
        if !shared.is_empty() {
            // False: analytics has ended, and no thread reads windows any more.
            let _ = self.consumer.send(ReplicaUpdate::Windows(shared), &self.clock);
        }
        for (subject, reply) in next.into_iter().zip(replies) {
            self.take_counts(subject, reply, counted, now);
        }
        for reply in self.send(&pipeline)? {
            if let Err(error) = reply {
                self.log_refusal(&error);
            }
        }
        Ok(())
    }

    /// Windows that one round trip reads at most.
    fn windows_per_read(&self) -> usize {
        let values = keys::window_values(self.encoder.options().window) as usize;
        (VALUES_PER_READ / values).max(1)
    }

    /// Redis' time past which a time was written by a clock that is wrong.
    fn latest_us(&self, now: Now) -> i64 {
        monotonic_us(now) + self.redis_offset_us(now) + FUTURE_US_MAX
    }

    /// Takes the counts of a subject, in parts whose windows fit into one round trip.
    fn take_counts(
        &mut self,
        subject: Option<Box<str>>,
        reply: Result<Value, LinkError>,
        counted: &mut Vec<CountedSubject>,
        now: Now,
    ) {
        let own = self.encoder.options().replica;
        match reply {
            Ok(reply) => {
                let counts = SubjectCounts::read(&reply, own, self.latest_us(now));
                self.counters.foreign_entries_total.add(counts.foreign as u64);
                for part in counts.parts(self.windows_per_read()) {
                    counted.push((subject.clone(), part));
                }
            }
            Err(error) => self.read_refused(subject, &error),
        }
    }

    /// Makes an update of the windows in the replies of one subject. Adds commands that heal windows, and fold
    /// the counts of replicas that are gone.
    fn take_windows(
        &mut self,
        subject: Option<Box<str>>,
        mut counts: SubjectCounts,
        mut replies: impl Iterator<Item = Result<Value, LinkError>>,
        now: Now,
        repairs: &mut Pipeline,
    ) -> Option<SharedWindows> {
        let (own, latest_us) = (self.encoder.options().replica, self.latest_us(now));
        let (mut windows, mut refused) = (Vec::with_capacity(counts.metrics.len()), None);
        // A window that Redis refuses to show is not an empty one.
        counts.metrics.retain(|metric| match replies.next().expect("one for each window") {
            Ok(reply) => {
                let members = WindowMembers::read(&reply, own, latest_us);
                self.counters.foreign_entries_total.add(members.foreign as u64);
                self.counters.future_values_total.add(members.future as u64);
                if members.future > 0 {
                    let heal = self.encoder.heal(subject.as_deref(), &metric.name, latest_us);
                    repairs.add_command(heal);
                }
                if members.is_gone {
                    repairs.add_command(self.encoder.forget(subject.as_deref(), metric));
                    return false;
                }
                windows.push(members);
                true
            }
            Err(error) => {
                refused = Some(error);
                false
            }
        });
        self.counters.windows_read_total.add(windows.len() as u64);
        if counts.last.0 > self.sent_us(now) {
            self.overlapping.insert(subject.clone(), counts.last.0);
        }
        let gone = counts.gone(latest_us);
        if !gone.is_empty() {
            repairs.add_command(self.encoder.fold(subject.as_deref(), &gone));
        }
        if counts.last.0 > 0 {
            // What this replica reports is by its own clock.
            counts.last.0 = (counts.last.0 + self.clock_offset_us(now)).max(0);
        }
        // Silence is counted by the monotonic clock, as by the workers.
        let seconds = (now.monotonic_ns / 1_000_000_000) as u32;
        let (update, no_room) =
            share(subject.as_deref(), &counts, windows, &self.registry, seconds);
        self.counters.windows_skipped_total.add(no_room as u64);
        if let Some(error) = refused {
            self.read_refused(subject, &error);
        }
        update
    }

    /// Redis has refused to show a subject: it is read again with the next flush.
    fn read_refused(&mut self, subject: Option<Box<str>>, error: &LinkError) {
        self.log_refusal(error);
        self.is_sharing_refused = true;
        self.unread.push(subject);
    }

    /// Sends commands and waits for their replies. A refusal that is passing is a failure of all commands.
    fn send(&mut self, pipeline: &Pipeline) -> Result<Vec<Result<Value, LinkError>>, LinkError> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let replies = self.linked().run(pipeline)?;
        self.executed(replies)
    }

    /// The replies, unless one is a refusal that is passing.
    fn executed(
        &mut self,
        mut replies: Vec<Result<Value, LinkError>>,
    ) -> Result<Vec<Result<Value, LinkError>>, LinkError> {
        let passing = |reply: &Result<Value, LinkError>| {
            reply.as_ref().is_err_and(|error| error.kind.is_passing())
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
        // The segment is sent again from its first batch on.
        self.spare_batches.extend(self.in_flight.drain(..));
        self.set_up(false);
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
        let lost = self.queue.drop_all();
        self.count_dropped(DropReason::Shutdown, lost);
        self.update_gauges();
        warn!(samples = lost, "Redis did not take the last samples; they are dropped");
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
