//! Writes segments of the store queue, in batches of which several are on their way.

use super::{BATCHES_IN_FLIGHT_MAX, CHUNKS_BETWEEN_BATCHES, StoreThread, monotonic_us};
use crate::store::DropReason;
use crate::store::batch::CommandBatch;
use crate::store::commands::BatchCursor;
use crate::store::link::LinkError;
use crate::store::queue::Refusals;

/// No further batch is sent while those in flight have more bytes: what a slow network takes in a part of the write
/// timeout.
const BYTES_IN_FLIGHT_MAX: usize = 2 * 1024 * 1024;

impl StoreThread {
    /// Writes the oldest segment and marks its subjects as changed. Without a segment it only queries the
    /// changes of others.
    pub(super) fn write_segment(&mut self) -> Result<(), LinkError> {
        let begun_ns = self.clock.monotonic_ns();
        if self.queue.begin().is_some() {
            let now = self.clock.now();
            let offset_us = self.redis_offset_us(now);
            let clock = &mut self.redis_clock;
            self.queue.set_base(|spans| clock.base_us(spans, offset_us));
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
        self.outcomes.count(|| {
            self.counters.stored_total.add(outcome.stored);
            self.counters.coalesced_total.add(outcome.coalesced);
            self.count_dropped(DropReason::Refused, outcome.refused);
        });
        self.update_gauges();
        let now = self.clock.now();
        let delay_us = monotonic_us(now).saturating_sub(since_us).max(0);
        self.counters.flushes_total.add(1);
        self.counters.flush.record(now.monotonic_ns - begun_ns, 1);
        self.counters.delay.record(delay_us as u64 * 1_000, 1);
        Ok(())
    }

    /// Writes all batches of the oldest segment, if there is one, and receives all their replies.
    pub(super) fn write_batches(&mut self) -> Result<Refusals, LinkError> {
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

    pub(super) fn may_send_batch(&mut self) -> bool {
        let bytes = self.in_flight.iter().map(CommandBatch::bytes).sum::<usize>();
        self.in_flight.len() < BATCHES_IN_FLIGHT_MAX
            && bytes < BYTES_IN_FLIGHT_MAX
            && self.linked().can_send()
    }
}
