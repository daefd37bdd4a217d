//! The thread that owns the book.
//!
//! A question is answered after every event that was sent before it. The thread ends with the last analytics thread
//! and the last asker.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, never, select};

use super::asker::{IncidentsAsker, OwnClaims, Question, questions};
use super::counters::IncidentCounters;
use super::fleet::FleetCount;
use crate::registry::Registry;
use sigmad_clock::Clock;
use sigmad_incidents::book::Book;
use sigmad_incidents::event::Event;
use sigmad_incidents::shared::claims::Claims;

/// The thread wakes at least this often; nothing depends on it.
const WAIT_MAX: Duration = Duration::from_secs(3_600);

/// What an [`IncidentsThread`] is made of.
#[derive(Debug)]
pub struct IncidentsParts {
    /// Empty, or what was known before a restart.
    pub book: Book,
    /// What analytics notices.
    pub events: Receiver<Event>,
    /// The names of all devices.
    pub registry: Arc<Registry>,
    /// Reads the time.
    pub clock: Clock,
    /// What the thread counts.
    pub counters: Arc<IncidentCounters>,
    /// Other replicas are told what is wrong here.
    pub is_shared: bool,
}

/// The state of the thread.
#[derive(Debug)]
pub struct IncidentsThread {
    book: Book,
    events: Receiver<Event>,
    questions: Receiver<Question>,
    subscribers: Vec<Sender<()>>,
    /// The revision that subscribers know of.
    told: u64,
    fleet: FleetCount,
    /// What the other replicas are told; None where there are none.
    claims: Option<Claims>,
    clock: Clock,
    counters: Arc<IncidentCounters>,
}

impl IncidentsThread {
    /// A thread with this book, and who asks it.
    pub fn new(parts: IncidentsParts) -> (IncidentsAsker, Self) {
        let (asker, questions) = questions();
        let thread = Self {
            book: parts.book,
            events: parts.events,
            questions,
            subscribers: Vec::new(),
            told: 0,
            fleet: FleetCount::new(parts.registry),
            claims: parts.is_shared.then(Claims::default),
            clock: parts.clock,
            counters: parts.counters,
        };
        (asker, thread)
    }

    /// Runs on the calling thread until nobody can send events or ask.
    pub fn run(mut self) {
        let (mut has_events, mut has_questions) = (true, true);
        while has_events || has_questions {
            let (no_events, no_questions) = (never(), never());
            let events = if has_events { &self.events } else { &no_events };
            let questions = if has_questions { &self.questions } else { &no_questions };
            select! {
                recv(events) -> event => match event {
                    Ok(event) => self.apply(&event),
                    Err(_) => has_events = false,
                },
                recv(questions) -> question => match question {
                    Ok(question) => self.answer(question),
                    Err(_) => has_questions = false,
                },
                default(self.wait()) => self.book.tick(self.clock.now().wall_us),
            }
            self.tell();
        }
    }

    /// Until a silence begins or ends.
    fn wait(&mut self) -> Duration {
        let Some(at_us) = self.book.next_tick_us() else { return WAIT_MAX };
        let wait_us = at_us.saturating_sub(self.clock.now().wall_us).max(0);
        Duration::from_micros(wait_us as u64).min(WAIT_MAX)
    }

    fn apply(&mut self, event: &Event) {
        let has_onset = match event {
            Event::Deviation { .. } | Event::Silence { .. } => true,
            Event::Restored { standing, .. } => {
                // Names have come since.
                self.fleet.count_again();
                !standing.is_empty()
            }
            Event::Recovery { .. }
            | Event::Return { .. }
            | Event::Gone { .. }
            | Event::Reception { .. }
            | Event::ReceptionBack { .. } => false,
        };
        if has_onset {
            self.count_fleet();
        }
        self.book.apply(event);
        if let Some(claims) = &mut self.claims {
            claims.apply(event);
        }
    }

    /// Counts the name parts of all devices, unless that was done lately.
    fn count_fleet(&mut self) {
        if let Some(fleet) = self.fleet.count(self.clock.monotonic_ns()) {
            self.book.set_fleet(fleet);
        }
    }

    fn answer(&mut self, question: Question) {
        while let Ok(event) = self.events.try_recv() {
            self.apply(&event);
        }
        let now_us = self.clock.now().wall_us;
        self.book.tick(now_us);
        let Self { book, subscribers, claims, .. } = self;
        match question {
            Question::List(query, to) => reply(&to, book.list(&query)),
            Question::Get(id, to) => reply(&to, book.get(id).cloned()),
            Question::Changes(revision, limit, to) => {
                reply(&to, book.changes_since(revision, limit));
            }
            Question::Acknowledge(id, ack, to) => reply(&to, book.acknowledge(id, ack)),
            Question::Silences(to) => reply(&to, book.rules().to_vec()),
            Question::AddSilence(new, to) => {
                let rule = new.rule(book.next_rule_id(now_us));
                reply(&to, book.add_rule(rule.clone(), now_us).then_some(rule));
            }
            Question::EndSilence(id, to) => reply(&to, book.remove_rule(&id, now_us)),
            Question::Forget(device, to) => {
                self.apply(&Event::Gone { device, at_us: now_us });
                reply(&to, ());
            }
            Question::Claims(known, to) => {
                reply(&to, own_claims(claims.as_ref(), known, book));
            }
            Question::Subscribe(changed) => subscribers.push(changed),
            Question::Save(to) => {
                let mut bytes = Vec::new();
                book.write(now_us, &mut bytes);
                reply(&to, bytes);
            }
        }
    }

    /// Counts, and wakes those who want to know of changes.
    fn tell(&mut self) {
        self.counters.set(&self.book);
        if self.claims.is_none() {
            self.counters.set_open(self.book.open_by_severity(), self.book.rules().len());
        }
        if std::mem::replace(&mut self.told, self.book.revision()) != self.told {
            self.subscribers.retain(|subscriber| {
                !matches!(subscriber.try_send(()), Err(TrySendError::Disconnected(())))
            });
        }
    }
}

/// What this replica claims, unless it is the version that is known.
fn own_claims(claims: Option<&Claims>, known: Option<u64>, book: &Book) -> OwnClaims {
    let (open, silences) = (book.open_by_severity(), book.rules().len());
    let Some(claims) = claims else { return OwnClaims { open, silences, ..OwnClaims::default() } };
    let version = claims.version();
    let is_new = known != Some(version);
    let all = is_new.then(|| claims.all().cloned().collect());
    let written = if is_new { claims.written() } else { Vec::new() };
    OwnClaims { version, claims: all, written, open, silences }
}

fn reply<T>(to: &Sender<T>, report: T) {
    // Err: who asked has gone.
    let _ = to.try_send(report);
}

/// An asker of a running thread, and the way of events to it. Devices are those of `registry`.
#[cfg(test)]
pub(crate) fn running(registry: Arc<Registry>) -> (IncidentsAsker, super::events::EventSender) {
    let (mut senders, events) = super::events::channel(&[Arc::default()]);
    let (asker, thread) = IncidentsThread::new(IncidentsParts {
        book: Book::default(),
        events,
        registry,
        clock: Clock::new(sigmad_clock::start()),
        counters: Arc::default(),
        is_shared: false,
    });
    std::thread::spawn(move || thread.run());
    (asker, senders.remove(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sigmad_incidents::list::ListQuery;

    fn silence(device: &str, at_us: i64) -> Event {
        Event::Silence { device: device.into(), since_us: at_us, at_us, usual_interval_us: 1 }
    }

    #[test]
    fn a_question_is_answered_after_the_events_before_it() {
        let registry = Arc::new(Registry::new(1_000, 3_600));
        let (asker, events) = running(registry);
        let query = || ListQuery { limit: 99, ..ListQuery::default() };
        for n in 1..=30 {
            events.send(silence(&format!("d{n}"), i64::from(n) * 1_000_000_000));
            let open = asker.list(query()).expect("it runs").incidents;
            assert_eq!(open.iter().map(|one| one.member_count).sum::<usize>(), n as usize);
        }
        // Both ends are needed: this one is there still.
        drop(events);
        assert!(asker.list(query()).is_some());
    }

    #[test]
    fn subscribers_learn_of_changes() {
        let (asker, events) = running(Arc::new(Registry::new(1_000, 3_600)));
        let changes = asker.subscribe().expect("it runs");
        events.send(silence("a", 5));
        changes.recv().expect("a change");
        let changed = asker.changes_since(0, 9).expect("it runs");
        assert_eq!((changed.len(), changed[0].revision), (1, 1));
        assert!(asker.changes_since(1, 9).expect("it runs").is_empty());
    }

    #[test]
    fn names_of_the_fleet_tell_what_a_site_is() {
        use crate::registry::NameSource;
        let registry = Arc::new(Registry::new(1_000, 3_600));
        for n in 0..100 {
            let name = format!("site-{}-{}", n / 10, n % 10);
            let admitted = registry.admit(NameSource::Client, Some(&name), &mut [("rps", None)], 1);
            admitted.expect("room");
        }
        let (asker, events) = running(registry);
        (0..10).for_each(|n| events.send(silence(&format!("site-3-{n}"), 30_000_000)));
        let query = ListQuery {
            limit: 99,
            state: Some(sigmad_incidents::incident::State::Open),
            ..ListQuery::default()
        };
        let open = asker.list(query).expect("it runs").incidents;
        assert_eq!(open.len(), 1);
        assert_eq!(open[0].because, "their names share site-3, as 10 of 100 devices do");
    }
}
