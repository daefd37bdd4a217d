//! The thread `replicas`: one turn with Redis after the other.

mod holding;

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, never, select};
use redis::Pipeline;
use sigmad_backoff::Backoff;
use sigmad_clock::Clock;
use sigmad_detectors::saved::Saved;
use sigmad_incidents::book::{Book, BookSettings};
use sigmad_incidents::incident::Member;
use sigmad_incidents::shared::heard::Replica;
use sigmad_incidents::shared::joined::JoinSettings;
use tracing::{info, warn};

use super::commands::{self, Commands};
use super::counters::ClusterCounters;
use super::document::Document;
use super::history::{HistoryExchange, HistoryTurn};
use super::holder::Holder;
use super::lease::Lease;
use super::packed;
use crate::incidents::asker::{IncidentsAsker, OwnClaims};
use crate::incidents::counters::IncidentCounters;
use crate::incidents::fleet::FleetCount;
use crate::incidents::notes::ToldNotes;
use crate::incidents::shared::{ClusterState, OrderRequest, SharedState, Tenure};
use crate::registry::Registry;
use crate::shared_history::SharedHistory;
use crate::store::ErrorKind;
use crate::store::dial::Dialer;
use crate::store::keys::ReplicaId;
use crate::store::link::{ClientIdentity, Link, LinkError};
use crate::store::reply::Reply;
use crate::store::url::Target;

/// Interval between two turns: others learn of a change within two of them.
const TURN: Duration = Duration::from_millis(500);
/// The same while an order waits, and the least pause between two turns.
const SHORT_TURN: Duration = Duration::from_millis(50);
/// Claims are written again after this time: half of their life.
const STATE_AGAIN_NS: u64 = 30_000_000_000;
/// How often a sentinel is asked whether the master is still the same.
const CONFIRM_NS: u64 = 1_000_000_000;
/// The first and the longest wait before another attempt to connect: as the store's.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// An order that is not done after this time is lost: who asked does not wait any more.
const ORDER_NS: u64 = 15_000_000_000;

/// What the thread is made of.
pub struct ReplicasParts {
    /// Where Redis is.
    pub target: Target,
    /// This replica.
    pub replica: ReplicaId,
    /// Opens connections.
    pub dialer: Arc<dyn Dialer>,
    /// Reads the time.
    pub clock: Clock,
    /// Seeds the backoff.
    pub seed: u64,
    /// Says what is wrong here.
    pub local: IncidentsAsker,
    /// What operators ask of this replica.
    pub orders: Receiver<OrderRequest>,
    /// The end.
    pub stop: Receiver<()>,
    /// What readers see.
    pub state: Arc<SharedState>,
    /// What targets of notifications were told.
    pub notes: Arc<ToldNotes>,
    /// Something arrives here after each change of those.
    pub noted: Receiver<()>,
    /// The names of devices, from which deleted ones are removed.
    pub registry: Arc<Registry>,
    /// How the book groups.
    pub settings: BookSettings,
    /// How claims are joined.
    pub join: JoinSettings,
    /// Written by the thread.
    pub counters: Arc<ClusterCounters>,
    /// Of which the thread writes what is open.
    pub incidents: Arc<IncidentCounters>,
    /// Recorded history, on its way to Redis and from it.
    pub history: Arc<SharedHistory>,
}

/// An order whose end is waited for.
struct Waiting {
    number: u64,
    since_ns: u64,
    done: Sender<Arc<Book>>,
}

/// The state of the thread.
pub struct ReplicasThread {
    parts: ReplicasParts,
    own: Replica,
    commands: Commands,
    identity: ClientIdentity,
    link: Option<Link>,
    backoff: Backoff,
    retry_ns: u64,
    confirm_ns: u64,
    lease: Lease,
    holder: Option<Holder>,
    tenures: u64,
    fleet: FleetCount,

    claims: Vec<Member>,
    claims_packed: Vec<u8>,
    claims_version: Option<u64>,
    /// When this process began, in microseconds since 1970: what the versions of its claims are counted from.
    versions_from: u64,
    /// When the claims in Redis are to be written again.
    state_ns: u64,
    own_counts: ([usize; 2], usize),

    /// The last document that was read or written, with its version; the book of readers.
    known: Option<(u64, Arc<Document>)>,
    book: Option<Arc<Book>>,
    /// The version of a book that can't be read.
    unreadable: Option<u64>,
    write_ns: u64,
    /// Orders of this replica that are not sent.
    new_orders: Vec<OrderRequest>,
    waiting: Vec<Waiting>,
    /// The book has all orders up to this one.
    done: Option<u64>,
    /// Deleted devices are forgotten up to this order; None before the first book.
    forgotten: Option<u64>,
    away_since_us: Option<i64>,
    is_logged: bool,
    /// Redis' time in the last turn.
    redis_us: i64,
    history: HistoryExchange,
}

impl ReplicasThread {
    /// Not connected yet.
    pub fn new(mut parts: ReplicasParts) -> Self {
        let name = format!("sigmad-incidents-{}", parts.replica);
        let identity = ClientIdentity::new(name, parts.clock.clone(), parts.dialer.clone());
        let begun_us = parts.clock.now().wall_us;
        Self {
            own: commands::number(parts.replica),
            commands: Commands::new(parts.replica),
            identity,
            link: None,
            backoff: Backoff::new(parts.seed, RETRY.0, RETRY.1),
            retry_ns: 0,
            confirm_ns: 0,
            lease: Lease::default(),
            holder: None,
            tenures: 0,
            fleet: FleetCount::new(parts.registry.clone()),
            claims: Vec::new(),
            claims_packed: Vec::new(),
            claims_version: None,
            versions_from: begun_us.max(0) as u64,
            state_ns: 0,
            own_counts: ([0; 2], 0),
            known: None,
            book: None,
            unreadable: None,
            write_ns: 0,
            new_orders: Vec::new(),
            waiting: Vec::new(),
            done: None,
            forgotten: None,
            away_since_us: Some(begun_us),
            is_logged: false,
            redis_us: 0,
            history: HistoryExchange::new(
                parts.replica,
                parts.history.clone(),
                parts.counters.clone(),
            ),
            parts,
        }
    }

    /// Runs on the calling thread until it is told to stop.
    pub fn run(mut self) {
        let mut changes = self.parts.local.subscribe().unwrap_or_else(never);
        loop {
            self.turn();
            let pause = if self.waiting.is_empty() { TURN } else { SHORT_TURN };
            select! {
                // Err: whoever would say so has gone.
                recv(self.parts.stop) -> _ => return self.leave(),
                recv(self.parts.orders) -> order => match order {
                    Ok(order) => self.new_orders.push(order),
                    Err(_) => self.parts.orders = never(),
                },
                recv(self.parts.noted) -> noted => if noted.is_err() {
                    self.parts.noted = never();
                },
                recv(changes) -> change => {
                    if change.is_err() {
                        changes = never();
                    }
                    self.parts.clock.sleep(SHORT_TURN);
                }
                default(pause) => {}
            }
            self.new_orders.extend(self.parts.orders.try_iter());
        }
    }

    fn turn(&mut self) {
        let Some(own) = self.parts.local.claims(self.claims_version) else { return };
        self.take_own(own);
        let now_ns = self.parts.clock.monotonic_ns();
        if now_ns >= self.retry_ns {
            match self.exchange() {
                Ok(()) => self.reached(),
                Err(error) => self.failed(&error),
            }
        }
        if self.away_since_us.is_some() {
            self.go_alone();
        }
        self.show();
        // After that: whoever is told that an order is done asks for it next.
        self.answer();
        if self.link.is_some()
            && self.away_since_us.is_none()
            && let Err(error) = self.exchange_history(false)
        {
            self.failed(&error);
        }
    }

    fn take_own(&mut self, own: OwnClaims) {
        self.own_counts = (own.open, own.silences);
        let Some(claims) = own.claims else { return };
        (self.claims, self.claims_version) = (claims, Some(own.version));
        self.claims_packed = packed::pack(&own.written);
        self.state_ns = 0;
        self.join_own();
    }

    /// The version of own claims as the holder knows it: no other one than that of the same replica before a restart.
    fn stated_version(&self) -> Option<u64> {
        self.claims_version.map(|version| self.versions_from + version)
    }

    /// The holder needs no Redis for its own claims.
    fn join_own(&mut self) {
        let version = self.stated_version();
        if let (Some(holder), Some(version)) = (&mut self.holder, version) {
            holder.state(self.own, version, self.claims.clone());
        }
    }

    /// One exchange with Redis. An error means that the connection is to be dropped.
    fn exchange(&mut self) -> Result<(), LinkError> {
        self.connect()?;
        let sent_ns = self.parts.clock.monotonic_ns();
        let mut pipeline = Pipeline::new();
        if sent_ns >= self.state_ns {
            pipeline.add_command(self.commands.state(&self.claims_packed));
        }
        for request in &self.new_orders {
            let mut bytes = Vec::new();
            request.order.write(&mut bytes);
            pipeline.add_command(commands::push_order(&bytes));
        }
        let claims_version = self.stated_version().unwrap_or(0);
        pipeline.add_command(self.commands.turn(claims_version, self.lease.take(sent_ns)));
        let has_stated = sent_ns >= self.state_ns;
        let mut replies = self.run_commands(&pipeline)?.into_iter().skip(usize::from(has_stated));
        if has_stated {
            self.state_ns = sent_ns + STATE_AGAIN_NS;
        }
        for request in self.new_orders.drain(..) {
            match replies.next().and_then(commands::number_reply) {
                Some(number) => {
                    self.parts.counters.orders_total.add(1);
                    self.waiting.push(Waiting { number, done: request.done, since_ns: sent_ns });
                }
                // Too many wait: who asked learns it as the sender is dropped.
                None => self.parts.counters.orders_lost_total.add(1),
            }
        }
        let turn = replies.next().and_then(commands::turn_reply).ok_or_else(foreign)?;
        self.redis_us = turn.now_us;
        if !turn.has_claims {
            self.state_ns = 0;
        }
        self.lease.heard(sent_ns, turn.is_free, turn.term);
        match turn.term {
            Some(term) => self.hold(term, &turn),
            None => self.follow(&turn),
        }
    }

    fn connect(&mut self) -> Result<(), LinkError> {
        let now_ns = self.parts.clock.monotonic_ns();
        let Some(link) = &mut self.link else {
            self.link = Some(Link::connect(&self.parts.target, &self.identity)?);
            self.state_ns = 0;
            return Ok(());
        };
        if link.master().is_some() && now_ns >= self.confirm_ns {
            self.confirm_ns = now_ns + CONFIRM_NS;
            link.confirm_master()?;
        }
        Ok(())
    }

    /// The replies, unless one is a refusal.
    fn run_commands(&mut self, pipeline: &Pipeline) -> Result<Vec<Reply>, LinkError> {
        let link = self.link.as_mut().expect("an exchange begins with a link");
        link.run(pipeline)?.into_iter().collect()
    }

    fn run_command(&mut self, command: redis::Cmd) -> Result<Reply, LinkError> {
        let mut pipeline = Pipeline::new();
        pipeline.add_command(command);
        self.run_commands(&pipeline)?.pop().ok_or_else(foreign)
    }

    /// `is_end`: only what others do not have yet.
    fn exchange_history(&mut self, is_end: bool) -> Result<(), LinkError> {
        let link = self.link.as_mut().expect("an exchange begins with a link");
        let (now, redis_us) = (self.parts.clock.now(), self.redis_us);
        let mut turn = HistoryTurn { link, now, redis_us };
        match is_end {
            true => self.history.write(&mut turn).map(drop),
            false => self.history.exchange(turn),
        }
    }

    fn reached(&mut self) {
        self.parts.counters.turns_total.add(1);
        let since_ns = self.parts.clock.monotonic_ns().saturating_sub(ORDER_NS);
        let lost = self.waiting.extract_if(.., |one| one.since_ns < since_ns).count();
        self.parts.counters.orders_lost_total.add(lost as u64);
        self.backoff.succeeded();
        self.retry_ns = 0;
        if self.away_since_us.take().is_some() && std::mem::take(&mut self.is_logged) {
            info!("the replicas hear of each other's incidents again");
        }
    }

    fn failed(&mut self, error: &LinkError) {
        if let Some(link) = self.link.take() {
            self.identity.set_lost(link.sessions());
        }
        self.parts.counters.failed_total.add(1);
        self.lease.interrupted();
        let pause_ns = self.backoff.after_failure().as_nanos() as u64;
        self.retry_ns = self.parts.clock.monotonic_ns() + pause_ns;
        let now_us = self.parts.clock.now().wall_us;
        self.away_since_us.get_or_insert(now_us);
        self.history.away(now_us);
        if !std::mem::replace(&mut self.is_logged, true) {
            warn!(kind = error.kind.name(), %error, "no word of the other replicas' incidents");
        }
    }

    /// Redis is away: the last holder goes on with its book, others answer for themselves.
    fn go_alone(&mut self) {
        let now = self.parts.clock.now();
        let Some(holder) = &mut self.holder else {
            let lost = self.new_orders.drain(..).count() + self.waiting.drain(..).count();
            self.parts.counters.orders_lost_total.add(lost as u64);
            return;
        };
        for request in self.new_orders.drain(..) {
            // Those that go through Redis later have numbers by its time, which are far larger.
            holder.done += 1;
            let number = holder.done;
            holder.execute(number, request.order, now.wall_us);
            self.waiting.push(Waiting { number, done: request.done, since_ns: now.monotonic_ns });
        }
        holder.settle(&mut self.fleet, now.monotonic_ns, now.wall_us, Some(self.own));
        if holder.has_news() {
            self.book = Some(Arc::new(holder.joined.book().clone()));
            let (forgotten, done) = (holder.forgotten.clone(), holder.done);
            self.forget(&forgotten, done);
            self.done = Some(done);
        }
    }

    /// Shows readers and the scrape what is known.
    fn show(&mut self) {
        let away_since_us = self.away_since_us;
        let is_holder = self.holder.is_some();
        let (counters, incidents) = (&self.parts.counters, &self.parts.incidents);
        counters.is_holder.set(u64::from(is_holder));
        counters.is_up.set(u64::from(away_since_us.is_none()));
        let book = self.book.as_ref().filter(|_| is_holder || away_since_us.is_none());
        let (open, silences) = match book {
            Some(book) => (book.open_by_severity(), book.rules().len()),
            None => self.own_counts,
        };
        incidents.set_open(open, silences);
        // While Redis is away the last holder goes on telling: better twice than not at all.
        let held_until_ns = self.lease.held_until_ns();
        let until_ns = if away_since_us.is_some() { u64::MAX } else { held_until_ns };
        let number = self.holder.as_ref().map(|holder| holder.tenure);
        let tenure = number.map(|number| Tenure { number, until_ns });
        let book = self.book.clone();
        self.parts.state.set(ClusterState { book, away_since_us, is_holder, tenure });
    }

    /// The process ends: another replica may take the lease at once.
    fn leave(mut self) {
        if self.away_since_us.is_some() || self.link.is_none() {
            return;
        }
        let term = self.holder.as_ref().map(|holder| holder.term);
        if let Some(Err(error)) = term.map(|term| self.keep_told(term)) {
            warn!(%error, "what was told last is not known to the next replica that tells");
            return;
        }
        if let Err(error) = self.exchange_history(true) {
            warn!(%error, "the last seconds of the history are not known to other replicas");
            return;
        }
        let leave = self.commands.leave(term);
        if let Err(error) = self.run_command(leave) {
            warn!(%error, "the lease ends by itself");
        }
    }
}

fn foreign() -> LinkError {
    LinkError::new(ErrorKind::Other, "a reply that sigmad's scripts never give")
}
