//! What the holder of the lease does: joins the claims of all replicas, and does what operators ask. No I/O.

use std::collections::BTreeMap;

use sigmad_detectors::saved::Saved;
use sigmad_incidents::book::BookSettings;
use sigmad_incidents::incident::Member;
use sigmad_incidents::shared::heard::Replica;
use sigmad_incidents::shared::joined::{JoinSettings, Joined};

use super::document::{Document, FORGOTTEN_MAX};
use crate::incidents::fleet::FleetCount;
use crate::incidents::shared::{Forgotten, Order};

/// The state of the holder.
#[derive(Debug)]
pub struct Holder {
    /// Under which it writes.
    pub term: u64,
    /// Counts the times at which this process became the holder.
    pub tenure: u64,
    pub joined: Joined,
    /// The versions of the claims that are joined.
    pub versions: BTreeMap<Replica, u64>,
    /// The number of the last order that is done.
    pub done: u64,
    pub forgotten: Vec<(u64, Forgotten)>,
    /// The revision of the book that is in Redis, and the last order in it; None: neither is.
    written: Option<(u64, u64)>,
}

impl Holder {
    /// Goes on with what is in Redis, if there is a document there, or with what this replica knows, if that is newer.
    pub fn new(
        (term, tenure): (u64, u64),
        settings: (BookSettings, JoinSettings),
        document: Option<Document>,
        is_written: bool,
        now_us: i64,
    ) -> Self {
        let document = document.unwrap_or_else(|| Document::new(settings.0));
        let Document { book, done, seen, forgotten } = document;
        let written = is_written.then(|| (book.revision(), done));
        let joined = Joined::new(settings.1, book, seen, now_us);
        Self { term, tenure, joined, versions: BTreeMap::new(), done, forgotten, written }
    }

    /// Takes the claims of a replica.
    pub fn state(&mut self, replica: Replica, version: u64, claims: Vec<Member>) {
        self.joined.state(replica, claims);
        self.versions.insert(replica, version);
    }

    /// Only these replicas live.
    pub fn living(&mut self, living: &[Replica], now_us: i64) {
        let gone: Vec<_> =
            self.versions.keys().filter(|one| !living.contains(one)).copied().collect();
        for replica in gone {
            self.versions.remove(&replica);
            self.joined.leave(replica, now_us);
        }
    }

    /// Does what an operator asks for. False for bytes of no order.
    pub fn order(&mut self, number: u64, mut bytes: &[u8], now_us: i64) -> bool {
        if number <= self.done {
            return true;
        }
        self.done = number;
        let Some(order) = Order::read(&mut bytes) else { return false };
        self.execute(number, order, now_us);
        true
    }

    /// Does it.
    pub fn execute(&mut self, number: u64, order: Order, now_us: i64) {
        let book = self.joined.book_mut();
        match order {
            // Err: it was resolved meanwhile. Who asked sees that in the book.
            Order::Acknowledge(id, ack) => drop(book.acknowledge(id, ack)),
            Order::AddSilence(rule) => {
                if !book.rules().iter().any(|one| one.id == rule.id) {
                    book.add_rule(rule, now_us);
                }
            }
            Order::EndSilence(id) => {
                book.remove_rule(&id, now_us);
            }
            Order::Forget(forgotten) => {
                self.joined.forget(&forgotten.device, forgotten.at_us);
                self.forgotten.push((number, forgotten));
                let more = self.forgotten.len().saturating_sub(FORGOTTEN_MAX);
                self.forgotten.drain(..more);
            }
        }
    }

    /// Brings the book up to date. `own`: this replica is alone, because Redis is away.
    pub fn settle(
        &mut self,
        fleet: &mut FleetCount,
        now_ns: u64,
        now_us: i64,
        own: Option<Replica>,
    ) {
        if !self.joined.is_quiet()
            && let Some(names) = fleet.count(now_ns)
        {
            self.joined.book_mut().set_fleet(names);
        }
        self.joined.settle(now_us, own);
    }

    /// Whether Redis does not have the book as it is.
    pub fn has_news(&self) -> bool {
        self.written != Some((self.joined.book().revision(), self.done))
    }

    /// Redis has the book.
    pub fn set_written(&mut self, is_written: bool) {
        self.written = is_written.then(|| (self.joined.book().revision(), self.done));
    }

    /// What is written.
    pub fn document(&self) -> Document {
        Document {
            book: self.joined.book().clone(),
            done: self.done,
            seen: self.joined.seen().collect(),
            forgotten: self.forgotten.clone(),
        }
    }
}
