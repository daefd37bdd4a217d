//! The store thread: owns the link to Redis, flushes judged samples, and sends analytics the windows that
//! other replicas have changed.
//!
//! One flush writes a segment of the store queue, marks its subjects as changed, queries the subjects that
//! others have changed, and reads their windows. Several batches of a segment are on their way at once, so that
//! a round trip limits the rate little. After any failure the link is dropped and the same segment is sent again
//! whole: every command may be executed twice. New chunks are taken from the judged-sample queue between two
//! batches, so that a slow Redis delays no other thread.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::TryRecvError;
use redis::{Pipeline, Value};
use tracing::{info, warn};

use super::backoff::Backoff;
use super::batch::CommandBatch;
use super::commands::{BatchCursor, CommandEncoder, MARKED_MAX, StoreOptions};
use super::dial::Dialer;
use super::link::{ClientIdentity, Link, LinkError};
use super::mark_reply::MarkReply;
use super::queue::{Refusals, StoreQueue};
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
/// Subjects read in one round trip: half a megabyte of windows.
const SUBJECTS_PER_READ: usize = 128;
/// Interval at which a sentinel is asked whether the master is still the same.
const CONFIRM_EVERY_NS: u64 = 1_000_000_000;
/// The same after no sentinel could be asked: an attempt to connect may take a second.
const CONFIRM_AGAIN_NS: u64 = 5_000_000_000;
/// A sentinel names another master this long after it was promoted, at most: it sees the promotion in INFO, which it
/// reads once a second, and the others hear of it every two seconds.
const SENTINEL_LAG_NS: u64 = 5_000_000_000;
/// A sample is in the store queue this long after its arrival, on the busiest machine.
const ARRIVAL_TO_QUEUE_US: i64 = 1_000_000;
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

    link: Option<Link>,
    identity: ClientIdentity,
    /// The master that the segments kept by the queue were written to, with sentinels.
    master: Option<Address>,
    /// When to ask a sentinel again.
    confirm_ns: u64,
    backoff: Backoff,
    /// The next attempt is not before this time.
    retry_ns: u64,
    /// Batches that were sent and whose replies are not read, oldest first.
    in_flight: VecDeque<CommandBatch>,
    /// Empty batches, kept for their memory.
    spare_batches: Vec<CommandBatch>,
    /// The number of the last change that was read.
    cursor: u64,
    /// Subjects that others have changed and that are still to be read; None for the fleet.
    changed: Vec<Option<Box<str>>>,
    /// Subjects to read again once our next samples of them are written, with the time of the last sample
    /// that was read. Samples of ours were in flight then, and some may be older than that.
    overlapping: HashMap<Option<Box<str>>, i64>,
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
            target, options, flush_interval, consumer, registry, counters, ..
        } = parts;
        let StoreThreadParts { clock, dialer, on_state, seed, deadline_ns, .. } = parts;
        let names = registry.clone();
        let keeps_history = options.history_len.is_some();
        let name = format!("sigmad-{}", options.replica);
        Self {
            target,
            encoder: CommandEncoder::new(options, move |metric| names.metric_name(metric)),
            queue: StoreQueue::new(consumer.budget.clone(), options.window, keeps_history),
            flush_interval_ns: flush_interval.as_nanos() as u64,
            consumer,
            registry,
            counters,
            identity: ClientIdentity::new(name, clock.clone(), dialer),
            clock,
            on_state,
            deadline_ns,
            link: None,
            master: None,
            confirm_ns: 0,
            backoff: Backoff::new(seed),
            retry_ns: 0,
            in_flight: VecDeque::with_capacity(BATCHES_IN_FLIGHT_MAX),
            spare_batches: Vec::with_capacity(BATCHES_IN_FLIGHT_MAX),
            cursor: 0,
            changed: Vec::new(),
            overlapping: HashMap::new(),
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
        for _ in 0..=self.consumer.chunks.len().min(chunks_max) {
            let chunk = match self.consumer.chunks.try_recv() {
                Ok(chunk) => chunk,
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return false,
            };
            let dropped = self.queue.take(&chunk, |device| self.registry.device_name(device));
            self.counters.taken_total.add(chunk.len() as u64);
            self.count_dropped(DropReason::QueueFull, dropped);
            self.consumer.recycle(chunk);
        }
        self.update_gauges();
        true
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        self.connect()?;
        self.confirm_master()?;
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
        // False: analytics has ended, and no thread reads windows any more.
        let _ = self.consumer.send(ReplicaUpdate::SyncedAt(asked.wall_us), &self.clock);
        Ok(())
    }

    /// All samples that arrived here by that time are written.
    fn sent_us(&self, now: Now) -> i64 {
        match self.queue.since_us() {
            Some(since_us) => since_us - 1,
            None => now.wall_us - ARRIVAL_TO_QUEUE_US,
        }
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
        let Now { monotonic_ns, wall_us } = self.clock.now();
        self.counters.flushes_total.add(1);
        self.counters.flush.record(monotonic_ns - begun_ns, 1);
        self.counters.delay.record(wall_us.saturating_sub(since_us).max(0) as u64 * 1_000, 1);
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

    /// Marks the subjects of the segment in flight as changed, and queries those that others have changed.
    fn mark(&mut self) -> Result<(), LinkError> {
        let mut marked = 0;
        loop {
            let names = self.queue.in_flight().into_iter().flat_map(|segment| segment.names());
            let command = self.encoder.mark(self.cursor, names.skip(marked));
            marked += MARKED_MAX;
            let mut pipeline = Pipeline::with_capacity(1);
            pipeline.add_command(command);
            let reply = self.send_one(&pipeline)?;
            let Some(reply) = reply else { return Ok(()) };
            let Some(marks) = MarkReply::read(&reply, self.cursor) else {
                self.counters.foreign_entries_total.add(1);
                return Ok(());
            };
            self.counters.foreign_entries_total.add(marks.foreign as u64);
            self.changed.extend(marks.changed);
            self.cursor = if marks.has_lost { 0 } else { marks.cursor };
            let are_all_marked = self.queue.in_flight().is_none_or(|s| s.names().len() <= marked);
            if are_all_marked && marks.is_all && !marks.has_lost {
                return Ok(());
            }
        }
    }

    /// Reads the windows of the subjects that others have changed, and sends them to analytics.
    fn read_changed(&mut self, now: Now) -> Result<(), LinkError> {
        while !self.changed.is_empty() {
            let from = self.changed.len().saturating_sub(SUBJECTS_PER_READ);
            let subjects = self.changed.split_off(from);
            match self.read(&subjects, now) {
                // False: analytics has ended, and no thread reads windows any more.
                Ok(windows) => {
                    _ = self.consumer.send(ReplicaUpdate::Windows(windows), &self.clock);
                }
                Err(error) => {
                    self.changed.extend(subjects);
                    return Err(error);
                }
            }
            self.gather(CHUNKS_BETWEEN_BATCHES);
        }
        Ok(())
    }

    /// Reads the counts and windows of subjects, and folds the counts of replicas that are gone.
    fn read(
        &mut self,
        subjects: &[Option<Box<str>>],
        now: Now,
    ) -> Result<Vec<SharedWindows>, LinkError> {
        let counts = self.read_counts(subjects)?;
        let mut pipeline = Pipeline::new();
        for (subject, counts) in subjects.iter().zip(&counts) {
            for metric in &counts.metrics {
                pipeline.add_command(self.encoder.read_window(subject.as_deref(), &metric.name));
            }
        }
        let mut replies = self.send(&pipeline)?.into_iter();

        let sent_us = self.sent_us(now);
        let mut shared = Vec::with_capacity(subjects.len());
        pipeline.clear();
        for (subject, counts) in subjects.iter().zip(&counts) {
            if counts.last.0 > sent_us {
                self.overlapping.insert(subject.clone(), counts.last.0);
            }
            let windows = self.read_windows(replies.by_ref().take(counts.metrics.len()));
            let seconds = u32::try_from(now.wall_s()).unwrap_or(u32::MAX);
            let (update, no_room) =
                share(subject.as_deref(), counts, windows, &self.registry, seconds);
            self.counters.windows_skipped_total.add(no_room as u64);
            shared.extend(update);
            let gone = counts.gone(now.wall_us);
            if !gone.is_empty() {
                pipeline.add_command(self.encoder.fold(subject.as_deref(), &gone));
            }
        }
        for reply in self.send(&pipeline)? {
            if let Err(error) = reply {
                self.log_refusal(&error);
            }
        }
        Ok(shared)
    }

    fn read_counts(
        &mut self,
        subjects: &[Option<Box<str>>],
    ) -> Result<Vec<SubjectCounts>, LinkError> {
        let own = self.encoder.options().replica;
        let mut pipeline = Pipeline::with_capacity(subjects.len());
        for subject in subjects {
            pipeline.add_command(self.encoder.read_counts(subject.as_deref()));
        }
        let replies = self.send(&pipeline)?;
        let mut all = Vec::with_capacity(subjects.len());
        for reply in replies {
            let counts = match reply {
                Ok(reply) => SubjectCounts::read(&reply, own),
                Err(error) => {
                    self.log_refusal(&error);
                    SubjectCounts::default()
                }
            };
            self.counters.foreign_entries_total.add(counts.foreign as u64);
            all.push(counts);
        }
        Ok(all)
    }

    /// The windows in the replies of one subject.
    fn read_windows(
        &mut self,
        replies: impl Iterator<Item = Result<Value, LinkError>>,
    ) -> Vec<WindowMembers> {
        let own = self.encoder.options().replica;
        let mut windows = Vec::with_capacity(replies.size_hint().0);
        for reply in replies {
            let members = match reply {
                Ok(reply) => WindowMembers::read(&reply, own),
                Err(error) => {
                    self.log_refusal(&error);
                    WindowMembers::default()
                }
            };
            self.counters.foreign_entries_total.add(members.foreign as u64);
            windows.push(members);
        }
        self.counters.windows_read_total.add(windows.len() as u64);
        windows
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

    /// Sends one command; None when it was refused for good.
    fn send_one(&mut self, pipeline: &Pipeline) -> Result<Option<Value>, LinkError> {
        match self.send(pipeline)?.pop().expect("one reply for each command") {
            Ok(reply) => Ok(Some(reply)),
            Err(error) => {
                self.log_refusal(&error);
                Ok(None)
            }
        }
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
        self.set_up(true);
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
