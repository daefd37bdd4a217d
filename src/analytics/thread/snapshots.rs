//! The thread's part in snapshots: restores before the first turn, takes a snapshot when asked, and one at the end.

use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, SendTimeoutError};
use sigmad_clock::Clock;

use crate::analytics::Analytics;
use crate::analytics::latest::LatestSamples;
use crate::analytics::saved::link::{ReplayedChunk, RestoreMessage, SnapshotMessage, StateLink};
use crate::analytics::saved::restore::Restoring;

/// How long a turn waits for a disk that is late, so that a shard which is given as much as it can judge still gets its
/// snapshots.
const LATE_WAIT: Duration = Duration::from_millis(1);
/// Between two looks at the deadline of the drain, while the disk does not move.
const DEADLINE_CHECK: Duration = Duration::from_millis(100);

/// The way to the thread `state`, and what waits for it.
#[derive(Debug)]
pub(super) struct Snapshots {
    link: StateLink,
    /// What its queue had no room for.
    waiting: Option<SnapshotMessage>,
}

/// What [`Snapshots::export`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exported {
    /// Something: there may be more to do.
    Worked,
    /// Nothing.
    Idle,
    /// Nothing, until the disk has taken what waits for it.
    Blocked,
}

impl Snapshots {
    pub(super) fn new(link: StateLink) -> Self {
        Self { link, waiting: None }
    }

    /// Sends a message. False while the queue has no room: then it waits here, and nothing else may be sent.
    fn send(&mut self, message: SnapshotMessage) -> bool {
        self.send_within(message, Duration::ZERO)
    }

    /// As [`Snapshots::send`], and waits for room.
    fn send_within(&mut self, message: SnapshotMessage, wait: Duration) -> bool {
        match self.link.snapshots.send_timeout(message, wait) {
            // The thread `state` has ended: what it is sent is of no use.
            Ok(()) | Err(SendTimeoutError::Disconnected(_)) => true,
            Err(SendTimeoutError::Timeout(message)) => {
                self.waiting = Some(message);
                false
            }
        }
    }

    /// Takes what the shard knew before the restart. Samples wait in their queues meanwhile.
    /// `judged` is called after each chunk of the journal. False if the start was ended before that is all.
    pub(super) fn restore(
        &self,
        analytics: &mut Analytics,
        latest: &mut LatestSamples,
        clock: &Clock,
        mut judged: impl FnMut(&mut Analytics),
    ) -> bool {
        let mut restoring = Restoring::default();
        let mut is_whole = false;
        while let Some(message) = self.next_restored(clock) {
            match message {
                RestoreMessage::Block(block) => restoring.restore(&block, analytics, latest),
                RestoreMessage::Chunk(ReplayedChunk { part, arrived_us, batch }) => {
                    analytics.tick(arrived_us);
                    analytics.judge_part(part, &batch, arrived_us);
                    latest.keep_of(part, &batch, arrived_us);
                    judged(analytics);
                }
                RestoreMessage::Whole => is_whole = true,
            }
        }
        // Err: the thread `state` has ended.
        let _ = self.link.restored.send(restoring.not_restored);
        is_whole
    }

    /// The next part of what the shard knew; None after the last, or when the drain is over before the disk has given it.
    fn next_restored(&self, clock: &Clock) -> Option<RestoreMessage> {
        loop {
            match self.link.restore.recv_timeout(DEADLINE_CHECK) {
                Ok(message) => return Some(message),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    if self.link.deadline.has_passed(clock.monotonic_ns()) {
                        return None;
                    }
                }
            }
        }
    }

    /// Sends a message, and waits for the disk until the drain is over. False if nothing more is to be sent.
    fn send_last(&self, mut message: SnapshotMessage, clock: &Clock) -> bool {
        loop {
            match self.link.snapshots.send_timeout(message, DEADLINE_CHECK) {
                Ok(()) => return true,
                Err(SendTimeoutError::Disconnected(_)) => return false,
                Err(SendTimeoutError::Timeout(unsent)) => {
                    if self.link.deadline.has_passed(clock.monotonic_ns()) {
                        return false;
                    }
                    message = unsent;
                }
            }
        }
    }

    /// Begins a snapshot of what was judged so far: `position` chunks.
    pub(super) fn begin(
        &mut self,
        analytics: &mut Analytics,
        latest: &LatestSamples,
        position: u64,
        clock: &Clock,
    ) {
        // One at a time: the thread `state` asks again.
        if !analytics.is_exporting() && self.waiting.is_none() {
            let begun_ns = clock.monotonic_ns();
            analytics.begin_snapshot(latest);
            self.link.pauses.record(clock.monotonic_ns() - begun_ns, 1);
            let shard = self.link.shard;
            self.send(SnapshotMessage::Begin { shard, position, is_last: false });
        }
    }

    /// Does a bounded part of the snapshot under way.
    pub(super) fn export(&mut self, analytics: &mut Analytics, clock: &Clock) -> Exported {
        if !analytics.is_exporting() && self.waiting.is_none() {
            return Exported::Idle;
        }
        let begun_ns = clock.monotonic_ns();
        let exported = self.step(analytics);
        self.link.pauses.record(clock.monotonic_ns() - begun_ns, 1);
        exported
    }

    fn step(&mut self, analytics: &mut Analytics) -> Exported {
        let shard = self.link.shard;
        let wait = if analytics.is_snapshot_late() { LATE_WAIT } else { Duration::ZERO };
        if let Some(message) = self.waiting.take()
            && !self.send_within(message, wait)
        {
            if let Some(rest) = analytics.give_up_if_behind() {
                self.waiting = Some(SnapshotMessage::GivenUp { shard, rest });
            }
            return Exported::Blocked;
        }
        while let Some(block) = analytics.next_block() {
            if !self.send(SnapshotMessage::Block { shard, block }) {
                return Exported::Blocked;
            }
        }
        if !analytics.step_snapshot() && analytics.end_snapshot() {
            self.send(SnapshotMessage::End { shard });
        }
        Exported::Worked
    }

    /// Takes the last snapshot, and waits for the disk until the time of the drain is over.
    pub(super) fn last(
        &mut self,
        analytics: &mut Analytics,
        latest: &LatestSamples,
        position: u64,
        clock: &Clock,
    ) {
        let shard = self.link.shard;
        analytics.begin_snapshot(latest);
        let mut message = Some(SnapshotMessage::Begin { shard, position, is_last: true });
        while let Some(next) = message {
            if !self.send_last(next, clock) {
                return;
            }
            message = loop {
                if let Some(block) = analytics.next_block() {
                    break Some(SnapshotMessage::Block { shard, block });
                }
                if !analytics.step_snapshot() {
                    break analytics.end_snapshot().then_some(SnapshotMessage::End { shard });
                }
            };
        }
    }
}
