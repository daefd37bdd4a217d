//! The incidents of this replica, and those of the cluster: who is asked.
//!
//! With Redis the thread `replicas` keeps the [`ClusterState`]: the book of the cluster, which is the same on each replica.
//! Without it, and while Redis is away, a replica answers for itself.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use sigmad_detectors::saved::saved;
use sigmad_incidents::book::{AckError, Book};
use sigmad_incidents::incident::{Ack, Incident, IncidentId};
use sigmad_incidents::list::{ListPage, ListQuery};
use sigmad_incidents::rules::SilenceRule;

use super::asker::{IncidentsAsker, NewSilence};
use super::keeper::KeepNow;
use super::notes::ToldNotes;
use crate::cluster_scope::ClusterScope;

/// Orders that wait for the thread `replicas`; with more, those who ask block.
pub const ORDERS_WAITING_MAX: usize = 64;
/// An order takes effect within a second, and after the holder of the lease has died within some more.
const ORDER_WAIT: Duration = Duration::from_secs(10);

/// What an operator asks of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Somebody knows of an incident.
    Acknowledge(IncidentId, Ack),
    /// Nobody is to be told for a time.
    AddSilence(SilenceRule),
    /// That is over.
    EndSilence(Arc<str>),
    /// A device was deleted.
    Forget(Forgotten),
}

/// A device that was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// Its name.
    pub device: Arc<str>,
    /// When it was deleted, in microseconds since 1970.
    pub at_us: i64,
}

saved!(Forgotten { device, at_us });

saved!(enum Order { 0 => Acknowledge(id, ack), 1 => AddSilence(rule), 2 => EndSilence(id), 3 => Forget(device) });

/// An order on its way, and who waits for the book after it. The sender is dropped when there is no knowing.
#[derive(Debug)]
pub struct OrderRequest {
    /// What is to be done.
    pub order: Order,
    /// Receives the book in which it is done.
    pub done: Sender<Arc<Book>>,
}

/// What a replica knows of the cluster's incidents.
#[derive(Clone, Debug, Default)]
pub struct ClusterState {
    /// The cluster's book. None before it was read first, and where it can't be.
    pub book: Option<Arc<Book>>,
    /// Since when Redis is away, in microseconds since 1970.
    pub away_since_us: Option<i64>,
    /// This replica makes the book.
    pub is_holder: bool,
    /// This replica tells others of incidents.
    pub tenure: Option<Tenure>,
}

/// A time in which one replica tells others of incidents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// Tells it from others of this process.
    pub number: u64,
    /// Until then, on the monotonic clock, unless it is renewed.
    pub until_ns: u64,
}

/// Where the thread `replicas` leaves what it knows.
#[derive(Debug)]
pub struct SharedState {
    state: Mutex<Arc<ClusterState>>,
    subscribers: Mutex<Vec<Sender<()>>>,
}

impl SharedState {
    /// Nothing is known since `now_us`.
    pub fn new(now_us: i64) -> Self {
        let state = ClusterState { away_since_us: Some(now_us), ..ClusterState::default() };
        Self { state: Mutex::new(Arc::new(state)), subscribers: Mutex::default() }
    }

    /// What is known now.
    pub fn get(&self) -> Arc<ClusterState> {
        self.state.lock().clone()
    }

    /// Replaces it.
    pub fn set(&self, state: ClusterState) {
        let of = |state: &ClusterState| {
            (state.book.as_ref().map(Arc::as_ptr), state.tenure.map(|tenure| tenure.number))
        };
        let after = of(&state);
        // Kept until it is compared: a book that is freed could leave its place to the next one.
        let replaced = std::mem::replace(&mut *self.state.lock(), Arc::new(state));
        let before = of(&replaced);
        if before != after {
            self.subscribers.lock().retain(|subscriber| {
                !matches!(subscriber.try_send(()), Err(TrySendError::Disconnected(())))
            });
        }
    }

    /// Something arrives here after each change of the book, or of who tells.
    pub fn subscribe(&self) -> Receiver<()> {
        let (changed, changes) = bounded(1);
        self.subscribers.lock().push(changed);
        changes
    }
}

/// The ways to the thread `replicas`.
#[derive(Clone, Debug)]
pub struct ClusterLink {
    /// What it knows.
    pub state: Arc<SharedState>,
    /// What targets of notifications were told.
    pub notes: Arc<ToldNotes>,
    /// Takes orders.
    pub orders: Sender<OrderRequest>,
}

/// An order was sent, and it is not known whether it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotDone;

/// Asks for incidents: of the cluster where there is one, or of this replica.
#[derive(Clone, Debug)]
pub struct Incidents {
    local: IncidentsAsker,
    cluster: Option<ClusterLink>,
    keep_now: Option<KeepNow>,
}

// Each returns None once the thread `incidents` has ended.
impl Incidents {
    /// Without `cluster` all are of this replica.
    pub fn new(local: IncidentsAsker, cluster: Option<ClusterLink>) -> Self {
        Self { local, cluster, keep_now: None }
    }

    /// Orders that this replica carries out are done when they are durable.
    #[must_use]
    pub fn kept(self, keep_now: Option<KeepNow>) -> Self {
        Self { keep_now, ..self }
    }

    /// Waits until what this replica was ordered is durable, where it is kept.
    fn keep(&self) {
        if let Some(keep_now) = &self.keep_now {
            keep_now.wait();
        }
    }

    /// Whether there is a cluster.
    pub fn is_shared(&self) -> bool {
        self.cluster.is_some()
    }

    /// The book to answer from, or None for that of this replica. `is_local`: asked for this replica alone.
    fn book(&self, is_local: bool) -> (Option<Arc<Book>>, ClusterScope) {
        let Some(cluster) = self.cluster.as_ref().filter(|_| !is_local) else {
            return (None, ClusterScope::LOCAL);
        };
        let state = cluster.state.get();
        let degraded_since_us = state.away_since_us;
        let is_usable = degraded_since_us.is_none() || state.is_holder;
        let book = state.book.clone().filter(|_| is_usable);
        let is_cluster = book.is_some();
        (book, ClusterScope { is_cluster, degraded_since_us })
    }

    /// A page of incidents.
    pub fn list(&self, query: ListQuery, is_local: bool) -> Option<(ListPage, ClusterScope)> {
        let (book, scope) = self.book(is_local);
        let page = match book {
            Some(book) => book.list(&query),
            None => self.local.list(query)?,
        };
        Some((page, scope))
    }

    /// One incident, if it is known. While Redis is away, also what the cluster knew before.
    pub fn get(&self, id: IncidentId, is_local: bool) -> Option<Option<Incident>> {
        if let (Some(book), _) = self.book(is_local) {
            return Some(book.get(id).cloned());
        }
        if let Some(found) = self.local.get(id)? {
            return Some(Some(found));
        }
        let state = self.cluster.as_ref().filter(|_| !is_local).map(|cluster| cluster.state.get());
        let book = state.and_then(|state| state.book.clone());
        Some(book.and_then(|book| book.get(id).cloned()))
    }

    /// The silences that have not ended.
    pub fn silences(&self, is_local: bool) -> Option<(Vec<SilenceRule>, ClusterScope)> {
        let (book, scope) = self.book(is_local);
        let rules = match book {
            Some(book) => book.rules().to_vec(),
            None => self.local.silences()?,
        };
        Some((rules, scope))
    }

    /// Notes that somebody knows of an incident.
    pub fn acknowledge(
        &self,
        id: IncidentId,
        ack: Ack,
    ) -> Option<Result<Result<Incident, AckError>, NotDone>> {
        let (Some(book), _) = self.book(false) else {
            let here = self.local.acknowledge(id, ack)?.inspect(|_| self.keep());
            let is_unknown = matches!(here, Err(AckError::Unknown));
            return Some(if is_unknown { self.unknown_here(here) } else { Ok(here) });
        };
        let open = match book.get(id) {
            None => Err(AckError::Unknown),
            Some(incident) if incident.resolved_at_us.is_some() => Err(AckError::Resolved),
            Some(_) => Ok(()),
        };
        if let Err(error) = open {
            return Some(Ok(Err(error)));
        }
        let after = match self.order(Order::Acknowledge(id, ack)) {
            Ok(after) => after,
            Err(error) => return Some(Err(error)),
        };
        Some(Ok(match after.get(id) {
            None => Err(AckError::Unknown),
            Some(incident) if incident.ack.is_none() => Err(AckError::Resolved),
            Some(incident) => Ok(incident.clone()),
        }))
    }

    /// Adds a silence; None inside when there are too many. `number`: tells those of one microsecond apart.
    pub fn add_silence(
        &self,
        silence: NewSilence,
        now_us: i64,
    ) -> Option<Result<Option<SilenceRule>, NotDone>> {
        if self.book(false).0.is_none() {
            let added = self.local.add_silence(silence)?;
            return Some(Ok(added.inspect(|_| self.keep())));
        }
        let text = format!("{silence:?}");
        let number = sigmad_incidents::tokens::hash(text.as_bytes());
        let rule = silence.rule(SilenceRule::new_id(now_us, number));
        let after = match self.order(Order::AddSilence(rule.clone())) {
            Ok(after) => after,
            Err(error) => return Some(Err(error)),
        };
        let is_kept = after.rules().iter().any(|one| one.id == rule.id);
        Some(Ok(is_kept.then_some(rule)))
    }

    /// Ends a silence; false when there is none with that id.
    pub fn end_silence(&self, id: &str) -> Option<Result<bool, NotDone>> {
        let (Some(book), _) = self.book(false) else {
            if self.local.end_silence(id)? {
                self.keep();
                return Some(Ok(true));
            }
            return Some(self.unknown_here(false));
        };
        if !book.rules().iter().any(|rule| *rule.id == *id) {
            return Some(Ok(false));
        }
        Some(self.order(Order::EndSilence(id.into())).map(|_| true))
    }

    /// A device was deleted: what was wrong with it is over, here and on all replicas.
    pub fn forget(&self, device: &str, now_us: i64) -> Option<Result<(), NotDone>> {
        self.local.forget(device)?;
        if self.book(false).0.is_none() {
            self.keep();
            return Some(Ok(()));
        }
        let forgotten = Forgotten { device: device.into(), at_us: now_us };
        Some(self.order(Order::Forget(forgotten)).map(drop))
    }

    /// What this replica alone does not know, while it does not hear of the others, may be theirs.
    fn unknown_here<T>(&self, here: T) -> Result<T, NotDone> {
        if self.is_shared() { Err(NotDone) } else { Ok(here) }
    }

    /// Gives an order to the cluster, and waits until it is done.
    fn order(&self, order: Order) -> Result<Arc<Book>, NotDone> {
        let cluster = self.cluster.as_ref().ok_or(NotDone)?;
        let (done, after) = bounded(1);
        cluster.orders.send(OrderRequest { order, done }).map_err(|_| NotDone)?;
        after.recv_timeout(ORDER_WAIT).map_err(|_| NotDone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incidents::thread::running;
    use crate::registry::Registry;
    use sigmad_detectors::saved::Saved as _;
    use sigmad_incidents::event::Event;

    fn silence(device: &str) -> Event {
        Event::Silence { device: device.into(), since_us: 5, at_us: 9, usual_interval_us: 2 }
    }

    /// The devices of the incidents that are listed, and whose they are.
    fn listed(incidents: &Incidents, is_local: bool) -> (Vec<String>, ClusterScope) {
        let query = ListQuery { limit: 9, ..ListQuery::default() };
        let (page, scope) = incidents.list(query, is_local).expect("it runs");
        let device = |one: &Incident| one.suspect().device.as_deref().expect("one").to_owned();
        (page.incidents.iter().map(device).collect(), scope)
    }

    #[test]
    fn the_cluster_answers_while_replicas_hear_of_each_other() {
        let (local, events) = running(Arc::new(Registry::new(1_000, 3_600)));
        events.send(silence("here"));
        let (notes, _noted) = ToldNotes::new();
        let state = Arc::new(SharedState::new(7));
        let (orders, ordered) = bounded(1);
        let link = ClusterLink { state: state.clone(), notes, orders };
        let incidents = Incidents::new(local, Some(link));
        let here = || vec!["here".to_owned()];
        let scope = |is_cluster, degraded_since_us| ClusterScope { is_cluster, degraded_since_us };
        assert_eq!(listed(&incidents, false), (here(), scope(false, Some(7))), "not yet known");

        let mut book = Book::default();
        book.apply(&silence("there"));
        let known = ClusterState { book: Some(Arc::new(book)), ..ClusterState::default() };
        state.set(known.clone());
        let there = || vec!["there".to_owned()];
        assert_eq!(listed(&incidents, false), (there(), scope(true, None)));
        assert_eq!(listed(&incidents, true), (here(), ClusterScope::LOCAL));
        // What is known to be impossible is no order.
        let id = IncidentId::new(1, 2, 3);
        let unknown = incidents.acknowledge(id, Ack::default()).expect("it runs");
        assert_eq!(unknown, Ok(Err(AckError::Unknown)));
        assert_eq!(incidents.end_silence("x"), Some(Ok(false)));

        let away = ClusterState { away_since_us: Some(8), ..known };
        state.set(away.clone());
        assert_eq!(listed(&incidents, false), (here(), scope(false, Some(8))));
        // It may be an incident of the others.
        assert_eq!(incidents.acknowledge(id, Ack::default()), Some(Err(NotDone)));
        assert_eq!(incidents.end_silence("x"), Some(Err(NotDone)));
        state.set(ClusterState { is_holder: true, ..away });
        assert_eq!(listed(&incidents, false), (there(), scope(true, Some(8))));
        // Nobody takes orders any more.
        drop(ordered);
        assert_eq!(incidents.forget("there", 9), Some(Err(NotDone)));
    }

    #[test]
    fn subscribers_learn_of_another_book_and_of_who_tells() {
        let state = SharedState::new(0);
        let changes = state.subscribe();
        let known =
            ClusterState { book: Some(Arc::new(Book::default())), ..ClusterState::default() };
        state.set(known.clone());
        assert!(changes.try_recv().is_ok());
        state.set(ClusterState { away_since_us: Some(5), ..known.clone() });
        assert!(changes.try_recv().is_err(), "the same book");
        let tenure = |number, until_ns| Some(Tenure { number, until_ns });
        state.set(ClusterState { tenure: tenure(1, 5), ..known.clone() });
        assert!(changes.try_recv().is_ok());
        state.set(ClusterState { tenure: tenure(1, 9), ..known });
        assert!(changes.try_recv().is_err(), "renewed");
    }

    #[test]
    fn orders_are_read_as_they_were_written() {
        let rule = SilenceRule {
            id: "9f86d081884c7d65".into(),
            device: Some("ams-*".into()),
            series: None,
            starts_at_us: 1,
            ends_at_us: 2,
            created_by: "ann".into(),
            comment: "".into(),
        };
        let ack = Ack { at_us: 5, by: Some("mia".into()), comment: None };
        for order in [
            Order::Acknowledge(IncidentId::new(1, 2, 3), ack),
            Order::AddSilence(rule),
            Order::EndSilence("x".into()),
            Order::Forget(Forgotten { device: "größe".into(), at_us: 9 }),
        ] {
            let mut bytes = Vec::new();
            order.write(&mut bytes);
            let mut from = &bytes[..];
            assert_eq!((Order::read(&mut from), from), (Some(order), &[][..]));
            for end in 0..bytes.len() {
                assert_eq!(Order::read(&mut &bytes[..end]), None, "{end}");
            }
        }
        assert_eq!(Order::read(&mut &[9][..]), None);
    }
}
