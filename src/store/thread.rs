//! The thread that owns the connection to Redis: takes in judged samples, flushes them, and tells
//! analytics what other replicas have changed.
//!
//! One flush writes a segment of the queue, says whom it changed and learns whom others have changed,
//! then reads the windows of those. Whatever fails, the connection is dropped and the same segment is
//! sent again whole: every command may be sent twice. Between two batches what analytics has handed over
//! is taken in, so that a slow Redis makes nobody wait but this thread.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::TryRecvError;
use redis::{Pipeline, Value};
use tracing::{info, warn};

use super::backoff::Backoff;
use super::commands::{Batch, Commands, MARKED_MAX, Marked, Progress};
use super::link::{ClientIdentity, Link, LinkError};
use super::queue::{Queue, Refusals};
use super::url::Target;
use super::windows::{Counted, Values, share};
use super::{DropReason, ErrorKind, StoreCounters};
use crate::judged_queue::{JudgedConsumer, ReplicaUpdate, SharedWindows};
use crate::registry::Registry;
use sigmad_clock::{Clock, Now};

/// How often the samples handed over are taken in: seldom enough to cost nothing at rest, often enough
/// that a million a second take little memory in between.
const GATHER_EVERY: Duration = Duration::from_millis(25);
/// Blocks taken in between two batches, and while a full segment waits: more than Redis can be given of
/// what does not coalesce. What it can't be given anyway is dropped unread, where it costs least.
const BLOCKS_BETWEEN_BATCHES: usize = 4;
/// Owners read in one round trip: half a megabyte of windows.
const OWNERS_PER_READ: usize = 128;
/// A sample that has arrived is in the queue by then, on the busiest machine.
const ON_ITS_WAY_US: i64 = 1_000_000;
/// A command refused for good is named again only after so long without: the same key is refused anew
/// at every flush.
const REFUSAL_OVER_NS: u64 = 60_000_000_000;
/// After the last sample has come, Redis has so long at least to take what is left.
pub const LAST_FLUSH: Duration = Duration::from_secs(2);

/// What the thread is given.
pub struct Parts {
    /// Where Redis is.
    pub target: Target,
    /// What is written.
    pub commands: Commands,
    /// What waits.
    pub queue: Queue,
    /// Between two flushes.
    pub flush_interval: Duration,
    /// Where samples come from and windows go to.
    pub consumer: JudgedConsumer,
    /// Knows the names.
    pub registry: Arc<Registry>,
    /// What is counted.
    pub counters: Arc<StoreCounters>,
    /// Tells the time.
    pub clock: Clock,
    /// Told whether Redis does what it is asked: when the windows of the cluster are read or it is away,
    /// and whenever that changes.
    pub on_state: Box<dyn Fn(bool) + Send>,
    /// Another for each replica, for the waits between attempts.
    pub seed: u64,
    /// When to give up what is left, on the monotonic clock; 0 until somebody knows.
    pub deadline_ns: Arc<AtomicU64>,
}

/// The thread's state; [`StoreThread::run`] is its life.
pub struct StoreThread {
    target: Target,
    commands: Commands,
    queue: Queue,
    flush_interval_ns: u64,
    consumer: JudgedConsumer,
    registry: Arc<Registry>,
    counters: Arc<StoreCounters>,
    clock: Clock,
    on_state: Box<dyn Fn(bool) + Send>,
    deadline_ns: Arc<AtomicU64>,

    link: Option<Link>,
    origin: ClientIdentity,
    backoff: Backoff,
    /// No attempt before.
    retry_ns: u64,
    batch: Batch,
    /// The last change that is known here.
    cursor: u64,
    /// Whom others have changed, still to be read; None for the fleet.
    changed: Vec<Option<Box<str>>>,
    /// Whom to read again once our next samples of them are written, and the time of the last sample
    /// that was read: ours were on their way, and some may be older.
    overlapping: HashMap<Option<Box<str>>, i64>,
    outage: Option<Outage>,
    is_up: Option<bool>,
    /// When a command was last refused for good, by kind.
    refused_ns: [Option<u64>; ErrorKind::ALL.len()],
}

/// Redis does not do what it is asked.
#[derive(Debug)]
struct Outage {
    since_ns: u64,
    /// Kinds of failure that the log has named since.
    is_named: [bool; ErrorKind::ALL.len()],
}

impl StoreThread {
    /// Not connected yet.
    pub fn new(parts: Parts) -> Self {
        let Parts { target, commands, queue, flush_interval, consumer, registry, counters, .. } =
            parts;
        let Parts { clock, on_state, seed, deadline_ns, .. } = parts;
        let origin =
            ClientIdentity::new(format!("sigmad-{}", commands.options().replica), clock.start());
        Self {
            target,
            commands,
            queue,
            flush_interval_ns: flush_interval.as_nanos() as u64,
            consumer,
            registry,
            counters,
            clock,
            on_state,
            deadline_ns,
            link: None,
            origin,
            backoff: Backoff::new(seed),
            retry_ns: 0,
            batch: Batch::default(),
            cursor: 0,
            changed: Vec::new(),
            overlapping: HashMap::new(),
            outage: None,
            is_up: None,
            refused_ns: [None; ErrorKind::ALL.len()],
        }
    }

    /// Runs on the calling thread until analytics has gone and Redis has everything, or the time to wait
    /// for that is over.
    pub fn run(mut self) {
        let mut due_ns = 0;
        let mut closed_ns = None;
        loop {
            let is_behind = self.link.is_some() && self.queue.has_full();
            let is_open = self.gather(if is_behind { BLOCKS_BETWEEN_BATCHES } else { usize::MAX });
            let now_ns = self.clock.monotonic_ns();
            let is_due = now_ns >= due_ns || !is_open || self.queue.has_full();
            if is_due && now_ns >= self.retry_ns {
                due_ns = now_ns + self.flush_interval_ns;
                match self.flush() {
                    Ok(()) => self.works(),
                    Err(error) => self.fails(&error),
                }
            }
            if !is_open {
                let closed_ns = *closed_ns.get_or_insert(now_ns);
                let deadline_ns = self.deadline_ns.load(Ordering::Relaxed);
                if self.queue.samples() == 0 {
                    return;
                } else if now_ns >= deadline_ns.max(closed_ns + LAST_FLUSH.as_nanos() as u64) {
                    return self.give_up();
                }
            }
            let wait_ns = due_ns.max(self.retry_ns).saturating_sub(self.clock.monotonic_ns());
            std::thread::sleep(GATHER_EVERY.min(Duration::from_nanos(wait_ns)));
        }
    }

    /// Takes in what analytics has handed over by now, a block more than `blocks_max` at most. False once
    /// it has gone and all is taken.
    fn gather(&mut self, blocks_max: usize) -> bool {
        for _ in 0..=self.consumer.chunks.len().min(blocks_max) {
            let block = match self.consumer.chunks.try_recv() {
                Ok(block) => block,
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return false,
            };
            let dropped = self.queue.take(&block, |device| self.registry.device_name(device));
            self.counters.taken_total.add(block.len() as u64);
            self.count_dropped(DropReason::QueueFull, dropped);
            self.consumer.recycle(block);
        }
        self.count_held();
        true
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        self.connect()?;
        loop {
            self.write_segment()?;
            if !self.queue.has_full() {
                break;
            }
        }
        let asked = self.clock.now();
        let sent_us = self.sent_us(asked);
        self.overlapping.retain(|_, last_us| *last_us > sent_us);
        self.read_changed(asked)?;
        // False: analytics has gone, and nobody reads windows any more.
        let _ = self.consumer.send(ReplicaUpdate::SyncedAt(asked.wall_us));
        Ok(())
    }

    /// What arrived here until then has been written.
    fn sent_us(&self, now: Now) -> i64 {
        match self.queue.since_us() {
            Some(since_us) => since_us - 1,
            None => now.wall_us - ON_ITS_WAY_US,
        }
    }

    fn connect(&mut self) -> Result<(), LinkError> {
        if self.link.is_none() {
            self.link = Some(Link::connect(&self.target, &self.origin)?);
            self.counters.connections_total.add(1);
        }
        Ok(())
    }

    /// Writes the oldest segment, says whom it changed, and learns whom others have; without a segment
    /// only the last.
    fn write_segment(&mut self) -> Result<(), LinkError> {
        let begun_ns = self.clock.monotonic_ns();
        let mut refusals = Refusals::default();
        let mut progress = Progress::default();
        while let Some(segment) = self.queue.begin()
            && self.commands.fill(segment, &mut progress, &mut self.batch)
        {
            let batch = std::mem::take(&mut self.batch);
            let replies = self.send(&batch.pipeline)?;
            for (reply, purpose) in replies.into_iter().zip(&batch.purposes) {
                match reply {
                    Ok(_) => {}
                    Err(error) if purpose.is_done_by(&error.message) => {}
                    Err(error) => {
                        self.refused(&error);
                        purpose.refused(&mut refusals);
                    }
                }
            }
            self.batch = batch;
            self.gather(BLOCKS_BETWEEN_BATCHES);
        }
        self.mark()?;
        let Some(segment) = self.queue.in_flight() else { return Ok(()) };
        for name in segment.names() {
            if self.overlapping.is_empty() {
                break;
            }
            let owner = (!name.is_empty()).then(|| Box::from(name));
            if let Some((owner, _)) = self.overlapping.remove_entry(&owner) {
                self.changed.push(owner);
            }
        }
        let since_us = segment.since_us();
        let fates = self.queue.done(refusals);
        self.counters.stored_total.add(fates.stored);
        self.counters.coalesced_total.add(fates.coalesced);
        self.count_dropped(DropReason::Refused, fates.refused);
        self.count_held();
        let Now { monotonic_ns, wall_us } = self.clock.now();
        self.counters.flushes_total.add(1);
        self.counters.flush.record(monotonic_ns - begun_ns, 1);
        self.counters.delay.record(wall_us.saturating_sub(since_us).max(0) as u64 * 1_000, 1);
        Ok(())
    }

    /// Says whom the segment in flight has changed, and learns whom others have.
    fn mark(&mut self) -> Result<(), LinkError> {
        let mut marked = 0;
        loop {
            let names = self.queue.in_flight().into_iter().flat_map(|segment| segment.names());
            let command = self.commands.mark(self.cursor, names.skip(marked));
            marked += MARKED_MAX;
            let mut pipeline = Pipeline::with_capacity(1);
            pipeline.add_command(command);
            let reply = self.send_one(&pipeline)?;
            let Some(reply) = reply else { return Ok(()) };
            let Some(told) = Marked::read(&reply, self.cursor) else {
                self.counters.foreign_entries_total.add(1);
                return Ok(());
            };
            self.counters.foreign_entries_total.add(told.foreign as u64);
            self.changed.extend(told.changed);
            self.cursor = if told.has_lost { 0 } else { told.cursor };
            let are_all_marked = self.queue.in_flight().is_none_or(|s| s.names().len() <= marked);
            if are_all_marked && told.is_all && !told.has_lost {
                return Ok(());
            }
        }
    }

    /// Reads the windows of those whom others have changed, and hands them to analytics.
    fn read_changed(&mut self, now: Now) -> Result<(), LinkError> {
        while !self.changed.is_empty() {
            let from = self.changed.len().saturating_sub(OWNERS_PER_READ);
            let owners = self.changed.split_off(from);
            match self.read(&owners, now) {
                // False: analytics has gone, and nobody reads windows any more.
                Ok(windows) => _ = self.consumer.send(ReplicaUpdate::Windows(windows)),
                Err(error) => {
                    self.changed.extend(owners);
                    return Err(error);
                }
            }
            self.gather(BLOCKS_BETWEEN_BATCHES);
        }
        Ok(())
    }

    fn read(
        &mut self,
        owners: &[Option<Box<str>>],
        now: Now,
    ) -> Result<Vec<SharedWindows>, LinkError> {
        let own = self.commands.options().replica;
        let mut pipeline = Pipeline::with_capacity(owners.len());
        for owner in owners {
            pipeline.add_command(self.commands.read_counts(owner.as_deref()));
        }
        let replies = self.send(&pipeline)?;
        let mut counted: Vec<Counted> = Vec::with_capacity(owners.len());
        pipeline.clear();
        for (reply, owner) in replies.into_iter().zip(owners) {
            let read = match reply {
                Ok(reply) => Counted::read(&reply, own),
                Err(error) => {
                    self.refused(&error);
                    Counted::default()
                }
            };
            self.counters.foreign_entries_total.add(read.foreign as u64);
            for metric in &read.metrics {
                pipeline.add_command(self.commands.read_window(owner.as_deref(), &metric.name));
            }
            counted.push(read);
        }
        let mut replies = self.send(&pipeline)?.into_iter();

        let sent_us = self.sent_us(now);
        let mut shared = Vec::with_capacity(owners.len());
        pipeline.clear();
        for (owner, counted) in owners.iter().zip(&counted) {
            if counted.last.0 > sent_us {
                self.overlapping.insert(owner.clone(), counted.last.0);
            }
            let mut windows = Vec::with_capacity(counted.metrics.len());
            for reply in replies.by_ref().take(counted.metrics.len()) {
                let read = match reply {
                    Ok(reply) => Values::read(&reply, own),
                    Err(error) => {
                        self.refused(&error);
                        Values::default()
                    }
                };
                self.counters.foreign_entries_total.add(read.foreign as u64);
                windows.push(read);
            }
            self.counters.windows_read_total.add(windows.len() as u64);
            let seconds = u32::try_from(now.wall_s()).unwrap_or(u32::MAX);
            let (told, no_room) =
                share(owner.as_deref(), counted, windows, &self.registry, seconds);
            self.counters.windows_skipped_total.add(no_room as u64);
            shared.extend(told);
            let gone = counted.gone(now.wall_us);
            if !gone.is_empty() {
                pipeline.add_command(self.commands.fold(owner.as_deref(), &gone));
            }
        }
        for reply in self.send(&pipeline)? {
            if let Err(error) = reply {
                self.refused(&error);
            }
        }
        Ok(shared)
    }

    /// Sends commands and waits for their replies. A refusal that may pass is a failure of all of them.
    fn send(&mut self, pipeline: &Pipeline) -> Result<Vec<Result<Value, LinkError>>, LinkError> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let link = self.link.as_mut().expect("a flush begins with a connection");
        let mut replies = link.run(pipeline)?;
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
                self.refused(&error);
                Ok(None)
            }
        }
    }

    fn refused(&mut self, error: &LinkError) {
        let now_ns = self.clock.monotonic_ns();
        self.counters.errors_total[error.kind as usize].add(1);
        let last_ns = self.refused_ns[error.kind as usize].replace(now_ns);
        if last_ns.is_none_or(|last_ns| now_ns - last_ns > REFUSAL_OVER_NS) {
            warn!(kind = error.kind.name(), error = %error.message, "Redis refuses a command");
        }
    }

    fn works(&mut self) {
        self.say(true);
        self.backoff.succeeded();
        if let Some(outage) = self.outage.take() {
            let outage_ms = (self.clock.monotonic_ns() - outage.since_ns) / 1_000_000;
            info!(outage_ms, "Redis is back");
        }
    }

    fn fails(&mut self, error: &LinkError) {
        if let Some(link) = self.link.take() {
            self.origin.has_lost(link.sessions());
        }
        self.say(false);
        self.counters.errors_total[error.kind as usize].add(1);
        let now_ns = self.clock.monotonic_ns();
        self.retry_ns = now_ns + self.backoff.after_failure().as_nanos() as u64;
        let outage = self
            .outage
            .get_or_insert(Outage { since_ns: now_ns, is_named: [false; ErrorKind::ALL.len()] });
        let is_named = std::mem::replace(&mut outage.is_named[error.kind as usize], true);
        if !is_named {
            let kind = error.kind.name();
            warn!(kind, error = %error.message, "Redis fails; samples wait for it");
        }
    }

    fn say(&mut self, is_up: bool) {
        if self.is_up.replace(is_up) != Some(is_up) {
            self.counters.up.set(u64::from(is_up));
            (self.on_state)(is_up);
        }
    }

    fn give_up(&mut self) {
        let lost = self.queue.drop_all();
        self.count_dropped(DropReason::Shutdown, lost);
        self.count_held();
        warn!(samples = lost, "Redis could not be given what is left");
    }

    fn count_dropped(&self, reason: DropReason, samples: u64) {
        self.counters.dropped_total[reason as usize].add(samples);
    }

    fn count_held(&self) {
        self.counters.queue_samples.set(self.queue.samples());
        self.counters.queue_bytes.set(self.queue.bytes() as u64);
    }
}
