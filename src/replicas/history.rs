//! Pages of recorded history, to Redis and from it.
//!
//! A block has a hash with the page of each replica. A sorted set has the blocks by the time of their last change, so a
//! replica reads what is new, be it of a block long ago.

use std::collections::BTreeSet;
use std::sync::Arc;

use redis::Pipeline;
use tracing::warn;

use super::counters::ClusterCounters;
use super::{commands, packed};
use crate::shared_history::{BLOCKS_KEPT, ReadPage, SharedHistory};
use crate::store::keys::ReplicaId;
use crate::store::link::{Link, LinkError};
use crate::store::reply::Reply;
use sigmad_clock::Now;

/// Interval between two exchanges: a point is over every ten seconds.
const EXCHANGE_NS: u64 = 5_000_000_000;
/// Blocks that one turn reads: their pages are some hundred kilobytes a replica at most.
const BLOCKS_READ_MAX: usize = 4;
/// Blocks that one turn writes.
const BLOCKS_WRITTEN_MAX: usize = 16;
/// Changes of the last minute are read again: a writer had Redis' time that long before it wrote.
const AGAIN_US: i64 = 60_000_000;

/// What the thread knows of the pages in Redis.
#[derive(Debug)]
pub struct HistoryExchange {
    own: ReplicaId,
    desk: Arc<SharedHistory>,
    counters: Arc<ClusterCounters>,
    due_ns: u64,
    /// Changes are known up to this time of Redis.
    known_us: i64,
    to_read: BTreeSet<u32>,
    is_logged: bool,
}

/// A turn that Redis answered: the link, the time, and Redis' time.
pub struct HistoryTurn<'a> {
    /// What the turn used.
    pub link: &'a mut Link,
    /// The time here.
    pub now: Now,
    /// Redis' time, in microseconds since 1970.
    pub redis_us: i64,
}

impl HistoryExchange {
    /// Nothing is known yet.
    pub fn new(own: ReplicaId, desk: Arc<SharedHistory>, counters: Arc<ClusterCounters>) -> Self {
        let (to_read, is_logged) = (BTreeSet::new(), false);
        Self { own, desk, counters, due_ns: 0, known_us: 0, to_read, is_logged }
    }

    /// Redis is away.
    pub fn away(&self, now_us: i64) {
        self.desk.away(now_us);
    }

    /// Writes and reads pages, if that is due. An error means that the connection is to be dropped.
    pub fn exchange(&mut self, mut turn: HistoryTurn<'_>) -> Result<(), LinkError> {
        let is_due = turn.now.monotonic_ns >= self.due_ns;
        if !is_due && self.to_read.is_empty() {
            return Ok(());
        }
        if is_due {
            self.due_ns = turn.now.monotonic_ns + EXCHANGE_NS;
            if !self.write(&mut turn)? || !self.list(&mut turn)? {
                return Ok(());
            }
        }
        self.read(&mut turn)
    }

    /// Writes what was offered. False if Redis refuses it.
    pub fn write(&mut self, turn: &mut HistoryTurn<'_>) -> Result<bool, LinkError> {
        let mut pages = self.desk.take_offered();
        while !pages.is_empty() {
            let later = pages.keys().nth(BLOCKS_WRITTEN_MAX).copied();
            let mut part = pages;
            pages = later.map_or_else(Default::default, |later| part.split_off(&later));
            let mut pipeline = Pipeline::new();
            for (block, page) in &part {
                let page = packed::pack(page);
                commands::write_page(&mut pipeline, self.own, *block, &page, turn.redis_us);
            }
            let written = self.run(turn, &pipeline);
            if matches!(written, Ok(Some(_))) {
                self.counters.pages_written_total.add(part.len() as u64);
            } else {
                part.append(&mut pages);
                self.desk.put_back(part);
                return written.map(|_| false);
            }
        }
        Ok(true)
    }

    fn list(&mut self, turn: &mut HistoryTurn<'_>) -> Result<bool, LinkError> {
        let mut pipeline = Pipeline::new();
        pipeline.add_command(commands::changed_blocks(self.known_us - AGAIN_US));
        let Some(replies) = self.run(turn, &pipeline)? else { return Ok(false) };
        self.to_read.extend(replies.iter().flat_map(commands::blocks_reply));
        while self.to_read.len() > BLOCKS_KEPT {
            self.to_read.pop_first();
        }
        self.known_us = turn.redis_us;
        Ok(true)
    }

    /// Reads some of the blocks that have changed, the newest first.
    fn read(&mut self, turn: &mut HistoryTurn<'_>) -> Result<(), LinkError> {
        if self.desk.is_full() {
            return Ok(());
        }
        let newest = self.to_read.iter().rev().take(BLOCKS_READ_MAX);
        let blocks: Vec<u32> = newest.copied().collect();
        let mut pipeline = Pipeline::new();
        for block in &blocks {
            pipeline.add_command(commands::read_pages(*block));
        }
        let Some(replies) = self.run(turn, &pipeline)? else { return Ok(()) };
        for (block, reply) in blocks.into_iter().zip(&replies) {
            self.to_read.remove(&block);
            let pages = commands::pages_reply(reply).into_iter();
            for (replica, page) in pages.filter(|(replica, _)| *replica != self.own) {
                let Some(content) = packed::unpack(page) else {
                    self.counters.pages_unreadable_total.add(1);
                    continue;
                };
                self.counters.pages_read_total.add(1);
                self.desk.add_read([ReadPage { replica: replica.number(), block, content }]);
            }
        }
        if self.to_read.is_empty() {
            self.desk.reached(turn.now.wall_us - turn.redis_us);
            self.is_logged = false;
        }
        Ok(())
    }

    /// The replies. None if Redis refuses one, as if the history of others were away: incidents go on.
    fn run(
        &mut self,
        turn: &mut HistoryTurn<'_>,
        pipeline: &Pipeline,
    ) -> Result<Option<Vec<Reply>>, LinkError> {
        match turn.link.run(pipeline)?.into_iter().collect::<Result<Vec<_>, _>>() {
            Ok(replies) => Ok(Some(replies)),
            Err(error) => {
                self.counters.pages_refused_total.add(1);
                self.away(turn.now.wall_us);
                if !std::mem::replace(&mut self.is_logged, true) {
                    warn!(%error, "Redis refuses the history of replicas");
                }
                Ok(None)
            }
        }
    }
}
