//! The lists of the cluster: writes the entries of this replica, and reads those of all.
//!
//! Entries are written before the marks of their samples, so that a replica that sees a mark finds them. What Redis
//! refuses of the lists delays no sample.

use redis::Pipeline;

use super::{CHUNKS_BETWEEN_BATCHES, StoreThread};
use crate::shared_lists::{ListKind, NumberedEntry};
use crate::store::ListResult;
use crate::store::commands::lists::{ListReply, WrittenEntry, first_number, read_list};
use crate::store::link::LinkError;
use crate::store::list_desk::ListWrite;
use crate::store::reply::Reply;

impl StoreThread {
    /// Takes what analytics says of changed anomalies.
    pub(super) fn take_anomalies(&mut self) {
        for (shard, changes) in self.consumer.take_anomalies() {
            self.lists.take_anomalies(shard, changes);
        }
        for kind in ListKind::ALL {
            let left_out = self.lists.take_left_out(kind);
            self.count_listed(kind, ListResult::LeftOut, left_out);
        }
    }

    fn count_listed(&self, kind: ListKind, result: ListResult, entries: u64) {
        self.counters.list_entries_total[kind as usize][result as usize].add(entries);
    }

    /// Writes the entries of this replica that Redis does not have, and all that it may have lost.
    pub(super) fn write_lists(&mut self) -> Result<(), LinkError> {
        self.take_anomalies();
        if self.lists.change_set != self.change_set {
            let before = std::mem::replace(&mut self.lists.change_set, self.change_set);
            if before.is_some() {
                self.lists.begin_again();
            }
        }
        if !self.lists.has_unwritten() {
            return Ok(());
        }
        while !self.lists.to_restate().is_empty() {
            let writes = self.lists.to_restate().to_vec();
            let written = self.send_entries(&writes)?;
            for (kind, entries) in ListKind::ALL.into_iter().zip(written) {
                self.lists.lists.add(kind, entries);
            }
            self.lists.restated(writes.len());
            self.gather(CHUNKS_BETWEEN_BATCHES);
        }
        let now = self.clock.now();
        let (redis_us, wall_us) = (self.redis_offset_us(now), self.clock_offset_us(now));
        let writes = self.lists.unwritten(redis_us, wall_us, &self.registry);
        let written = self.send_entries(&writes)?;
        self.lists.written(written);
        if self.queue.is_empty() {
            // No sample marks anything: the others learn of the entries by the fleet.
            self.add_unmarked([Box::from("")]);
        }
        Ok(())
    }

    /// Writes entries. Returns those of this replica that Redis has from then on, of each list.
    fn send_entries(
        &mut self,
        writes: &[ListWrite],
    ) -> Result<[Vec<NumberedEntry>; ListKind::ALL.len()], LinkError> {
        let mut written: [Vec<NumberedEntry>; ListKind::ALL.len()] = Default::default();
        let mut pipeline = Pipeline::new();
        for ListWrite { kind, is_own, entries } in writes {
            pipeline.add_command(self.encoder.add_to_list(*kind, entries, !is_own));
        }
        let replies = self.send_optional(&pipeline)?;
        for (reply, ListWrite { kind, is_own, entries }) in replies.into_iter().zip(writes) {
            let first = match reply {
                Ok(reply) => first_number(reply),
                Err(error) => {
                    self.log_refusal(&error);
                    self.lists.is_refused = true;
                    None
                }
            };
            let result = if first.is_some() { ListResult::Written } else { ListResult::LeftOut };
            self.count_listed(*kind, result, entries.len() as u64);
            if let Some(first) = first.filter(|_| *is_own) {
                let numbered = |(number, one): (u64, &WrittenEntry)| NumberedEntry {
                    number,
                    replica: one.replica.number(),
                    serial: one.serial,
                    entry: one.entry.clone(),
                };
                written[*kind as usize].extend((first..).zip(entries).map(numbered));
            }
        }
        Ok(written)
    }

    /// Reads what is new in the lists, if anything may be.
    pub(super) fn read_lists(&mut self) -> Result<(), LinkError> {
        let mut kinds: Vec<ListKind> = ListKind::ALL.into();
        while self.lists.is_due && !kinds.is_empty() {
            let mut pipeline = Pipeline::new();
            for &kind in &kinds {
                pipeline.add_command(read_list(kind, self.lists.cursors[kind as usize]));
            }
            let replies = self.send_optional(&pipeline)?;
            let full = kinds.drain(..).zip(replies);
            kinds = full.filter_map(|(kind, reply)| self.take_page(kind, reply)).collect();
            self.gather(CHUNKS_BETWEEN_BATCHES);
        }
        if self.lists.is_refused {
            return Ok(());
        }
        self.lists.is_due = false;
        let now = self.clock.now();
        self.lists.lists.reached(self.clock_offset_us(now));
        Ok(())
    }

    /// Takes a page of a list. The list again if there may be more.
    fn take_page(&mut self, kind: ListKind, reply: Result<Reply, LinkError>) -> Option<ListKind> {
        let page = match reply {
            Ok(reply) => ListReply::read(&reply),
            Err(error) => {
                self.log_refusal(&error);
                self.lists.is_refused = true;
                return None;
            }
        };
        self.count_listed(kind, ListResult::Read, page.entries.len() as u64);
        self.count_listed(kind, ListResult::Unreadable, page.unreadable as u64);
        self.lists.lists.add(kind, page.entries);
        let cursor = page.cursor.filter(|cursor| *cursor > self.lists.cursors[kind as usize])?;
        self.lists.cursors[kind as usize] = cursor;
        page.is_full.then_some(kind)
    }

    /// Says that the lists are not the cluster's.
    pub(super) fn lists_are_away(&mut self) {
        let now_us = self.clock.now().wall_us;
        self.lists.lists.away(now_us);
    }
}
