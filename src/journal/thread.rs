//! The thread `journal`: writes what the shards have judged, and makes it durable.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Select, Sender, TryRecvError};
use sigmad_clock::Clock;
use sigmad_sample::{DeviceId, MetricId};
use sigmad_state::{JournalWriter, Position, StateDir, StateError};
use tracing::{info, warn};

use super::counters::{JournalCounters, JournalLoss};
use super::record::{Names, RecordEncoder};
use super::{JournalConsumer, JudgedInput};
use crate::acknowledgement::AckRight;
use crate::registry::Registry;

/// Between two looks at the queues: a sleeping thread costs the shards no system call.
const GATHER_EVERY: Duration = Duration::from_millis(10);
/// What was acknowledged is durable within this time, and that of one sync.
const SYNC_EVERY_NS: u64 = 100_000_000;
/// Chunks of one shard written before the next has its turn.
const CHUNKS_PER_TURN: usize = 256;
/// After a failure the disk is left alone for this long.
const RETRY_AFTER_NS: u64 = 1_000_000_000;
/// A snapshot is asked for again after this time.
const ASK_EVERY_NS: u64 = 1_000_000_000;

/// What the thread is made of.
pub struct JournalThreadParts {
    /// Takes the directory once it is open. Disconnected: it can't be used, and all chunks are lost.
    pub directory: Receiver<StateDir>,
    /// The queue of each shard.
    pub shards: Vec<JournalConsumer>,
    /// Names of devices and metrics.
    pub registry: Arc<Registry>,
    /// Responses wait until their samples are durable: a sync follows at once.
    pub acknowledges: bool,
    /// Asks for a snapshot of all shards: there is a gap, or room is needed. Has room for one.
    pub wants_snapshot: Sender<()>,
    /// Called at each change: whether what is judged can be recovered.
    pub on_state: Box<dyn Fn(bool) + Send>,
    /// What the thread counts.
    pub counters: Arc<JournalCounters>,
    /// Reads the time.
    pub clock: Clock,
}

/// The state of the thread; [`JournalThread::run`] is its loop.
pub struct JournalThread {
    directory: StateDir,
    shards: Vec<ShardJournal>,
    acknowledges: bool,
    registry: Arc<Registry>,
    wants_snapshot: Sender<()>,
    on_state: Box<dyn Fn(bool) + Send>,
    counters: Arc<JournalCounters>,
    clock: Clock,
    /// The next time to ask for a snapshot.
    ask_ns: u64,
    /// Since the first failure, until all is well again.
    is_degraded: bool,
}

/// One shard's way to the disk.
struct ShardJournal {
    consumer: JournalConsumer,
    writer: JournalWriter,
    encoder: RecordEncoder,
    record: Vec<u8>,
    /// The first position of the segment that the encoder knows.
    segment: Option<Position>,
    is_open: bool,
    has_unsynced: bool,
    /// What responses wait for: chunks that are written, in order, with their positions.
    unsynced: Vec<(Position, AckRight)>,
    /// The disk is left alone until then.
    retry_ns: u64,
}

impl Names for Registry {
    fn device_name(&self, id: DeviceId) -> Option<Arc<str>> {
        self.device_name(id)
    }

    fn metric_name(&self, id: MetricId) -> Option<Arc<str>> {
        self.metric_name(id)
    }
}

impl JournalThread {
    /// Waits for the directory, then writes until all shards have ended.
    pub fn run(parts: JournalThreadParts) {
        let Ok(directory) = parts.directory.recv() else {
            return discard(parts.shards, &parts.counters);
        };
        let shard = |(shard, consumer)| ShardJournal {
            consumer,
            writer: directory.journal(shard as u32),
            encoder: RecordEncoder::default(),
            record: Vec::new(),
            segment: None,
            is_open: true,
            has_unsynced: false,
            unsynced: Vec::new(),
            retry_ns: 0,
        };
        let shards = parts.shards.into_iter().enumerate().map(shard).collect();
        Self {
            directory,
            shards,
            acknowledges: parts.acknowledges,
            registry: parts.registry,
            wants_snapshot: parts.wants_snapshot,
            on_state: parts.on_state,
            counters: parts.counters,
            clock: parts.clock,
            ask_ns: 0,
            is_degraded: false,
        }
        .write();
    }

    fn write(mut self) {
        let mut sync_ns = self.clock.monotonic_ns() + SYNC_EVERY_NS;
        loop {
            let now_ns = self.clock.monotonic_ns();
            let has_more = self.gather(now_ns);
            let is_open = self.shards.iter().any(|shard| shard.is_open);
            let is_awaited = self.shards.iter().any(|shard| !shard.unsynced.is_empty());
            if now_ns >= sync_ns || !is_open || is_awaited {
                sync_ns = now_ns + SYNC_EVERY_NS;
                self.sync(now_ns);
            }
            if !is_open {
                return;
            }
            if !has_more {
                self.wait(sync_ns);
            }
        }
    }

    /// Sleeps until there may be something to do.
    fn wait(&self, sync_ns: u64) {
        if !self.acknowledges {
            return self.clock.sleep(GATHER_EVERY);
        }
        let mut chunks = Select::new();
        for shard in self.shards.iter().filter(|shard| shard.is_open) {
            chunks.recv(&shard.consumer.full);
        }
        let wait_ns = sync_ns.saturating_sub(self.clock.monotonic_ns());
        // Err: there is none, and the next sync is due.
        let _ = chunks.ready_timeout(Duration::from_nanos(wait_ns));
    }

    /// Writes what waits. True when there may be more.
    fn gather(&mut self, now_ns: u64) -> bool {
        let Self { shards, registry, counters, is_degraded, on_state, .. } = self;
        let mut has_more = false;
        for (at, shard) in shards.iter_mut().enumerate().filter(|(_, shard)| shard.is_open) {
            for taken in 0..CHUNKS_PER_TURN {
                let mut input = match shard.consumer.full.try_recv() {
                    Ok(input) => input,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        shard.is_open = false;
                        break;
                    }
                };
                let right = input.right.take();
                let written = shard.write(&input, registry, counters, now_ns);
                if let (Ok(()), Some(right)) = (&written, right) {
                    shard.unsynced.push((input.position, right));
                }
                if let Err((loss, error)) = written {
                    counters.lost_total[loss as usize].add(input.batch.len() as u64);
                    if let Some(error) = error
                        && !std::mem::replace(is_degraded, true)
                    {
                        warn!(shard = at, %error, "the journal can't be written");
                        on_state(false);
                    }
                }
                shard.consumer.recycle(input);
                has_more |= taken + 1 == CHUNKS_PER_TURN;
            }
        }
        has_more
    }

    /// Makes all durable, and asks for a snapshot where only that helps.
    fn sync(&mut self, now_ns: u64) {
        let (mut is_well, mut begins_in_doubt) = (true, false);
        let mut needs_snapshot = self.directory.wants_snapshot();
        for (at, shard) in self.shards.iter_mut().enumerate() {
            if std::mem::take(&mut shard.has_unsynced) {
                let begun_ns = self.clock.monotonic_ns();
                let synced = shard.writer.sync();
                shard.acknowledge(synced.as_ref().map_or(0, |durable| *durable));
                if let Err(error) = synced {
                    shard.failed(now_ns);
                    if !std::mem::replace(&mut self.is_degraded, true) {
                        warn!(shard = at, %error, "the journal can't be made durable");
                        (self.on_state)(false);
                    }
                }
                self.counters.syncs.record(self.clock.monotonic_ns() - begun_ns, 1);
            }
            let has_gap = shard.writer.needs_snapshot();
            is_well &= !has_gap && now_ns >= shard.retry_ns;
            needs_snapshot |= has_gap;
            begins_in_doubt |= shard.writer.begins_in_doubt();
        }
        if is_well {
            self.counters.synced_samples_total.set(self.counters.samples_total.get());
        }
        self.counters.directory_bytes.set(self.directory.bytes());
        if needs_snapshot && now_ns >= self.ask_ns {
            self.ask_ns = now_ns + ASK_EVERY_NS;
            // Err: it was asked for already, or the thread `state` has ended.
            let _ = self.wants_snapshot.try_send(());
        }
        if is_well && std::mem::take(&mut self.is_degraded) {
            info!("the journal is whole again");
            (self.on_state)(true);
        } else if !is_well {
            if !std::mem::replace(&mut self.is_degraded, true) {
                let why = if begins_in_doubt {
                    "what the start has read could not be written anew"
                } else {
                    "chunks found its queue full, or names were evicted"
                };
                warn!(why, "the journal is of no use until the next snapshots");
            }
            // Again and again: a snapshot that was written says otherwise.
            (self.on_state)(false);
        }
    }
}

/// Takes what the shards send until they have ended, and loses it. Their queues must not end before: a chunk in a queue that
/// nobody reads would keep its right.
fn discard(mut shards: Vec<JournalConsumer>, counters: &JournalCounters) {
    while !shards.is_empty() {
        let mut chunks = Select::new();
        for shard in &shards {
            chunks.recv(&shard.full);
        }
        let at = chunks.ready();
        match shards[at].full.try_recv() {
            Ok(mut input) => {
                counters.lost_total[JournalLoss::Disk as usize].add(input.batch.len() as u64);
                input.right = None;
                shards[at].recycle(input);
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => drop(shards.swap_remove(at)),
        }
    }
}

impl ShardJournal {
    /// Appends one record. What is not appended leaves a gap, which its position shows.
    fn write(
        &mut self,
        input: &JudgedInput,
        registry: &Registry,
        counters: &JournalCounters,
        now_ns: u64,
    ) -> Result<(), (JournalLoss, Option<StateError>)> {
        if now_ns < self.retry_ns {
            return Err((JournalLoss::Disk, None));
        }
        let begun = self.writer.segment_for(input.position);
        let segment = begun.map_err(|error| self.lost(error, now_ns))?;
        if self.segment.replace(segment) != Some(segment) {
            self.encoder.begin_segment();
        }
        if self.encoder.encode(input, registry, &mut self.record).is_err() {
            self.encoder.begin_segment();
            return Err((JournalLoss::Unnamed, None));
        }
        let appended = self.writer.append(input.position, &self.record);
        appended.map_err(|error| self.lost(error, now_ns))?;
        self.has_unsynced = true;
        counters.records_total.add(1);
        counters.samples_total.add(input.batch.len() as u64);
        counters.bytes_total.add(self.record.len() as u64);
        Ok(())
    }

    /// Everything before `durable` can be recovered. What is behind a gap waits for a snapshot, and counts as lost: its
    /// sender shall not wait as long.
    fn acknowledge(&mut self, durable: Position) {
        for (position, right) in self.unsynced.drain(..) {
            if position < durable {
                right.durable();
            }
        }
    }

    fn lost(&mut self, error: StateError, now_ns: u64) -> (JournalLoss, Option<StateError>) {
        self.failed(now_ns);
        match error {
            StateError::Full => (JournalLoss::Full, Some(error)),
            _ => (JournalLoss::Disk, Some(error)),
        }
    }

    fn failed(&mut self, now_ns: u64) {
        self.segment = None;
        self.retry_ns = now_ns + RETRY_AFTER_NS;
    }
}

#[cfg(test)]
mod tests;
