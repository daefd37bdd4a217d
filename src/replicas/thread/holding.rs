//! The rest of a turn: to follow the holder of the lease, or to be it.

use std::sync::Arc;

use redis::Pipeline;
use sigmad_incidents::book::kept::BookError;
use sigmad_incidents::shared::claims;
use sigmad_incidents::shared::heard::Replica;
use tracing::{info, warn};

use super::ReplicasThread;
use crate::incidents::shared::Forgotten;
use crate::replicas::commands::{self, TurnReply};
use crate::replicas::document::Document;
use crate::replicas::holder::Holder;
use crate::replicas::lease::Take;
use crate::replicas::packed;
use crate::store::keys::ReplicaId;
use crate::store::link::LinkError;

/// Devices that one turn asks about: their hashes take a round trip of a few hundred kilobytes.
const HEARD_MAX: usize = 256;
/// Claims of other replicas that one turn reads: a storm's are a megabyte each.
const CLAIMS_READ_MAX: usize = 16;
/// A book is written again after as many nanoseconds for each of its bytes: the largest every few seconds.
const WRITE_NS_A_BYTE: u64 = 1_000;

impl ReplicasThread {
    /// Another replica has the lease, or nobody: reads the book if it has changed.
    pub(super) fn follow(&mut self, turn: &TurnReply) -> Result<(), LinkError> {
        if !turn.is_free {
            self.holder = None;
        }
        let is_news = turn.version != self.known_version() && turn.version != self.unreadable;
        if turn.version.is_some() && is_news {
            self.read_book()?;
        }
        Ok(())
    }

    fn known_version(&self) -> Option<u64> {
        self.known.as_ref().map(|(version, _)| *version)
    }

    fn read_book(&mut self) -> Result<(), LinkError> {
        let reply = self.run_command(commands::read_book())?;
        let Some((version, bytes)) = commands::book_reply(reply) else { return Ok(()) };
        match Document::unpack(self.parts.settings, &bytes) {
            Ok(document) => {
                self.parts.counters.read_total.add(1);
                self.lease.set_unable(false);
                self.unreadable = None;
                self.know(version, document);
            }
            Err(error) => {
                self.parts.counters.unreadable_total.add(1);
                // Nobody who can't read it may write another one in its place.
                self.lease.set_unable(matches!(error, BookError::Newer(_)));
                warn!(?error, "the cluster's book of incidents can't be read");
                (self.book, self.known, self.unreadable) = (None, None, Some(version));
            }
        }
        Ok(())
    }

    /// Takes a document that is in Redis.
    fn know(&mut self, version: u64, document: Document) {
        self.book = Some(Arc::new(document.book.clone()));
        self.forget(&document.forgotten, document.done);
        self.done = Some(document.done);
        self.known = Some((version, Arc::new(document)));
    }

    /// Forgets the devices that were deleted since the last look. Those from before this replica began are none of its.
    pub(super) fn forget(&mut self, forgotten: &[(u64, Forgotten)], done: u64) {
        let last = self.forgotten.replace(done).unwrap_or(done);
        for (_, one) in forgotten.iter().filter(|(number, _)| *number > last) {
            self.parts.registry.forget_device(&one.device);
            // None: the thread of incidents has ended.
            let _ = self.parts.local.forget(&one.device);
        }
    }

    /// Tells those whose orders are done.
    pub(super) fn answer(&mut self) {
        let (Some(done), Some(book)) = (self.done.take(), &self.book) else { return };
        for waiting in self.waiting.extract_if(.., |one| one.number <= done) {
            // Err: who asked has gone.
            let _ = waiting.done.try_send(book.clone());
        }
    }

    /// This replica has the lease: it joins what all claim, and writes the book.
    pub(super) fn hold(&mut self, term: u64, turn: &TurnReply) -> Result<(), LinkError> {
        let is_mine = self.holder.as_ref().is_some_and(|holder| {
            // With another term others may have written; with an older version, or none, Redis has lost the book.
            holder.term == term || turn.version <= self.known_version()
        });
        if !is_mine {
            self.begin_holding(term, turn)?;
            if self.holder.is_none() {
                return Ok(());
            }
        }
        let known_version = self.known_version();
        let holder = self.holder.as_mut().expect("it holds");
        holder.term = term;
        if turn.version != known_version {
            holder.set_written(false);
            self.parts.notes.change_all();
        }
        let living: Vec<Replica> =
            turn.replicas.iter().map(|(replica, _)| commands::number(*replica)).collect();
        holder.living(&living, turn.now_us);
        let done = self.read_all(turn)?;
        let now_ns = self.parts.clock.monotonic_ns();
        let holder = self.holder.as_mut().expect("it holds");
        holder.settle(&mut self.fleet, now_ns, turn.now_us, None);
        if done > 0 || (holder.has_news() && now_ns >= self.write_ns) {
            self.commit(done, turn.now_us)?;
        }
        self.keep_told(term)
    }

    /// Writes what targets were told since the last time.
    pub(super) fn keep_told(&mut self, term: u64) -> Result<(), LinkError> {
        let notes = self.parts.notes.changed();
        if notes.is_empty() {
            return Ok(());
        }
        let kept = self.run_command(self.commands.keep_told(term, &notes));
        if kept.is_err() {
            self.parts.notes.change_all();
        }
        kept.map(drop)
    }

    fn begin_holding(&mut self, term: u64, turn: &TurnReply) -> Result<(), LinkError> {
        self.holder = None;
        if turn.version > self.known_version() {
            self.read_book()?;
            if self.lease.take(0) == Take::No {
                // Of a newer version: another replica, which can read it, is to hold the lease.
                self.run_command(self.commands.leave(Some(term)))?;
                self.lease.heard(0, true, None);
                self.state_ns = 0;
                return Ok(());
            }
        }
        let told = self.run_command(commands::read_told())?;
        self.parts.notes.replace(commands::told_reply(&told));
        self.tenures += 1;
        let document = self.known.as_ref().map(|(_, document)| Document::clone(document));
        let is_written = turn.version.is_some() && turn.version == self.known_version();
        let settings = (self.parts.settings, self.parts.join);
        self.holder =
            Some(Holder::new((term, self.tenures), settings, document, is_written, turn.now_us));
        self.join_own();
        info!(term, "this replica makes the cluster's book of incidents");
        Ok(())
    }

    /// Reads the claims of the others, when devices were heard, and orders. Returns how many orders were read.
    fn read_all(&mut self, turn: &TurnReply) -> Result<usize, LinkError> {
        let holder = self.holder.as_mut().expect("it holds");
        let own = self.parts.replica;
        let is_new = |(replica, version): &&(ReplicaId, u64)| {
            *replica != own && holder.versions.get(&commands::number(*replica)) != Some(version)
        };
        let changed: Vec<_> =
            turn.replicas.iter().filter(is_new).take(CLAIMS_READ_MAX).copied().collect();
        let devices = holder.joined.to_ask(HEARD_MAX);
        let mut pipeline = Pipeline::new();
        pipeline.add_command(commands::read_orders());
        changed.iter().for_each(|(replica, _)| {
            pipeline.add_command(commands::read_claims(*replica));
        });
        devices.iter().for_each(|device| {
            pipeline.add_command(commands::read_heard(device.as_deref()));
        });
        let mut replies = self.run_commands(&pipeline)?.into_iter();
        let orders = replies.next().map(commands::orders_reply).unwrap_or_default();
        let holder = self.holder.as_mut().expect("it holds");
        for ((replica, version), reply) in changed.into_iter().zip(replies.by_ref()) {
            // None: it has just ended, or writes them with its next turn.
            let Some(bytes) = commands::bytes_reply(reply) else { continue };
            match packed::unpack(&bytes).and_then(|bytes| claims::read(&bytes)) {
                Some(claims) => holder.state(commands::number(replica), version, claims),
                None => {
                    self.parts.counters.unreadable_claims_total.add(1);
                    holder.versions.insert(commands::number(replica), version);
                }
            }
        }
        for (device, reply) in devices.into_iter().zip(replies) {
            let heard = commands::heard_reply(&reply, turn.now_us);
            holder.joined.heard_mut().set(device, heard);
        }
        for (number, bytes) in orders.iter().flatten() {
            if !holder.order(*number, bytes, turn.now_us) {
                self.parts.counters.orders_lost_total.add(1);
            }
        }
        Ok(orders.len())
    }

    /// Writes the book, and shows it once it is written.
    fn commit(&mut self, orders: usize, now_us: i64) -> Result<(), LinkError> {
        let holder = self.holder.as_mut().expect("it holds");
        let document = holder.document();
        let bytes = document.pack(now_us);
        self.write_ns = self.parts.clock.monotonic_ns() + bytes.len() as u64 * WRITE_NS_A_BYTE;
        let command = self.commands.commit(holder.term, &bytes, orders);
        let Some(version) = commands::number_reply(self.run_command(command)?) else {
            // The lease was lost within this turn: the next one says who has it.
            self.lease.heard(0, true, None);
            self.holder = None;
            return Ok(());
        };
        self.parts.counters.written_total.add(1);
        if let Some(holder) = &mut self.holder {
            holder.set_written(true);
        }
        self.know(version, document);
        Ok(())
    }
}
