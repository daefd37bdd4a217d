//! The thread of one target: asks the book what has changed, and sends what is due.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, never, select};
use sigmad_clock::{Clock, Now};
use sigmad_incidents::incident::Incident;
use tracing::{info, warn};

use crate::alerts::Alerts;
use crate::client::{self, Answer, SendError, TIMEOUT};
use crate::counters::TargetCounters;
use crate::message::{self, Circumstances, Request};
use crate::notes::Notes;
use crate::outbox::Outbox;
use crate::retry::{self, Outcome, Retry};
use crate::target::{Target, TargetKind, WebhookFormat};

/// The thread wakes at least this often; nothing depends on it.
const WAIT_MS_MAX: u64 = 60_000;
/// How often one that does not tell looks whether it is to tell; the book says so too.
const TERM_WAIT_MS: u64 = 1_000;
/// Incidents that are asked for at once.
const CHANGES_MAX: usize = 256;

/// The term of a process that shares its book with no other.
pub const ALONE: u64 = 0;

/// What a sender asks.
pub trait Book: Send {
    /// At most `limit` incidents that have changed since `revision`, in their present form and in the order of their
    /// revisions. None if the book is no more.
    fn changes_since(&mut self, revision: u64, limit: usize) -> Option<Vec<Incident>>;

    /// The term in which this process is the one that tells; None while another one is. In another term a sender knows
    /// what the notes say.
    fn term(&mut self) -> Option<u64> {
        Some(ALONE)
    }

    /// What the target was told by the one that told before.
    fn notes(&mut self) -> Option<Vec<u8>> {
        None
    }
}

/// What a thread is made of.
pub struct SenderParts<B> {
    /// Who is told.
    pub target: Target,
    /// Where people reach this server, with a slash at the end.
    pub external_url: String,
    /// What is told.
    pub book: B,
    /// Something arrives here after each change of the book.
    pub changes: Receiver<()>,
    /// Written by the thread.
    pub counters: Arc<TargetCounters>,
    /// The time.
    pub clock: Clock,
    /// Spreads the attempts of several processes.
    pub seed: u64,
    /// The end: until this many nanoseconds of monotonic time the thread may go on sending.
    pub stop: Receiver<u64>,
    /// Where notes are kept for a restart. None where nothing outlives the process.
    pub notes: Option<NotesKept>,
}

/// Where a sender keeps what it has told.
pub struct NotesKept {
    /// What was kept before the restart.
    pub before: Option<Vec<u8>>,
    /// Takes the notes after each change.
    pub keep: Box<dyn FnMut(Vec<u8>) + Send>,
}

/// What is due for one target.
enum Agenda {
    Alerts(Alerts),
    Messages(Outbox, WebhookFormat),
}

/// The thread of one target.
pub struct Sender<B> {
    target: Target,
    external_url: String,
    book: B,
    changes: Receiver<()>,
    counters: Arc<TargetCounters>,
    clock: Clock,
    stop: Receiver<u64>,
    agenda: Agenda,
    retry: Retry,
    revision: u64,
    has_looked: bool,
    term: u64,
    keep: Option<Box<dyn FnMut(Vec<u8>) + Send>>,
}

impl<B: Book> Sender<B> {
    /// A sender that knows of nothing, or of what was kept.
    pub fn new(parts: SenderParts<B>) -> Self {
        let SenderParts { target, external_url, book, changes, counters, mut clock, .. } = parts;
        let SenderParts { seed, stop, notes, .. } = parts;
        let (before, keep) = notes.map(|notes| (notes.before, notes.keep)).unzip();
        let agenda = Agenda::new(&target, before.flatten(), clock.now());
        let (retry, revision) = (Retry::new(seed), 0);
        Self {
            target,
            external_url,
            book,
            changes,
            counters,
            clock,
            stop,
            agenda,
            retry,
            revision,
            has_looked: false,
            term: ALONE,
            keep,
        }
    }

    /// Whether this process is the one that tells now. In another term it begins anew, with the notes.
    fn may_tell(&mut self) -> bool {
        let Some(term) = self.book.term() else { return false };
        if term != self.term {
            let notes = self.book.notes();
            self.agenda = Agenda::new(&self.target, notes, self.clock.now());
            (self.term, self.revision, self.has_looked) = (term, 0, false);
        }
        true
    }

    /// Keeps what was told so far.
    fn note(&mut self) {
        if let Some(keep) = &mut self.keep {
            keep(self.agenda.notes(self.revision).to_bytes());
        }
    }

    /// Runs until the end.
    pub fn run(mut self) {
        loop {
            let wait_ms = if self.may_tell() {
                self.look();
                self.send().min(WAIT_MS_MAX)
            } else {
                self.counters.waiting.set(0);
                TERM_WAIT_MS
            };
            let wait = Duration::from_millis(wait_ms);
            select! {
                // Err: whoever would set the deadline has gone.
                recv(self.stop) -> deadline_ns => return self.end(deadline_ns.unwrap_or(0)),
                // Err: the book has ended, and the end of this thread follows.
                recv(self.changes) -> change => if change.is_err() {
                    self.changes = never();
                },
                default(wait) => {}
            }
        }
    }

    /// Takes what the book says.
    fn look(&mut self) {
        let now = self.clock.now();
        let before = self.revision;
        loop {
            let changed = self.book.changes_since(self.revision, CHANGES_MAX).unwrap_or_default();
            let is_last = changed.len() < CHANGES_MAX;
            for incident in changed {
                self.revision = self.revision.max(incident.revision);
                let dropped = self.agenda.update(&Arc::new(incident), now);
                self.counters.dropped_total.add(dropped);
            }
            if is_last {
                break;
            }
        }
        if self.revision != before || !std::mem::replace(&mut self.has_looked, true) {
            self.agenda.has_looked(now);
            self.note();
        }
        self.counters.dropped_total.add(self.agenda.gather(now));
        self.counters.waiting.set(self.agenda.waiting(now));
    }

    /// Sends one request if one is due. Returns the milliseconds until the next.
    fn send(&mut self) -> u64 {
        let now = self.clock.now();
        if self.retry.wait_ms(now) == 0
            && let Some(request) = self.agenda.next(&self.target, &self.external_url, now)
        {
            self.attempt(&request, TIMEOUT);
        }
        let now = self.clock.now();
        self.counters.waiting.set(self.agenda.waiting(now));
        let wait_ms = self.agenda.wait_ms(now).unwrap_or(WAIT_MS_MAX);
        wait_ms.max(self.retry.wait_ms(now))
    }

    fn attempt(&mut self, request: &Request, timeout: Duration) -> Outcome {
        let result = client::post(&self.target, request, timeout);
        let now = self.clock.now();
        let outcome = match &result {
            Ok(Answer { status, retry_after, .. }) => {
                let asked = retry_after.as_deref().and_then(|value| retry::retry_after(value, now));
                Outcome::of(*status, asked)
            }
            Err(_) => Outcome::Failed { retry_after: None },
        };
        self.log(&result, outcome);
        self.retry.record(outcome, now);
        self.agenda.record(outcome, now);
        if !matches!(outcome, Outcome::Failed { .. }) {
            self.note();
        }
        // After the note: what is counted as sent is not sent again after a restart.
        let counter = match outcome {
            Outcome::Delivered => &self.counters.sent_total,
            Outcome::Refused => &self.counters.refused_total,
            Outcome::Failed { .. } => &self.counters.failed_total,
        };
        counter.add(request.count);
        outcome
    }

    /// The first failure of several, each refusal, and the return.
    fn log(&self, result: &Result<Answer, SendError>, outcome: Outcome) {
        let target = self.target.name();
        match (outcome, result) {
            (Outcome::Delivered, _) if self.retry.is_failing() => info!(target, "told again"),
            (Outcome::Delivered, _) => {}
            (Outcome::Refused, Ok(Answer { status, text, .. })) => {
                warn!(target, status, answer = text, "refuses a notification");
            }
            (_, _) if self.retry.is_failing() => {}
            (_, Ok(Answer { status, text, .. })) => {
                warn!(target, status, answer = text, "not told; tried again until it is");
            }
            (_, Err(error)) => warn!(target, %error, "not told; tried again until it is"),
        }
    }

    /// What is due leaves until the deadline, or until the first failure. The rest is dropped, or told after the next start
    /// where notes are kept.
    fn end(mut self, deadline_ns: u64) {
        if !self.may_tell() {
            return;
        }
        self.look();
        self.counters.dropped_total.add(self.agenda.end_gathering());
        self.retry.end_wait();
        loop {
            let now = self.clock.now();
            let left = Duration::from_nanos(deadline_ns.saturating_sub(now.monotonic_ns));
            if left.is_zero() {
                break;
            }
            let Some(request) = self.agenda.next(&self.target, &self.external_url, now) else {
                break;
            };
            if matches!(self.attempt(&request, left.min(TIMEOUT)), Outcome::Failed { .. }) {
                break;
            }
        }
        let waiting = self.agenda.waiting(self.clock.now());
        self.counters.waiting.set(0);
        let target = self.target.name();
        if waiting > 0 && self.keep.is_some() {
            info!(target, waiting, "told after the next start");
        } else if waiting > 0 {
            self.counters.dropped_total.add(waiting);
            warn!(target, dropped = waiting, "not told before the end");
        }
    }
}

impl Agenda {
    /// What is due by what was told before.
    fn new(target: &Target, notes: Option<Vec<u8>>, now: Now) -> Self {
        let mut agenda = match target.kind {
            TargetKind::Alertmanager => Self::Alerts(Alerts::default()),
            TargetKind::Webhook(format) => Self::Messages(Outbox::new(now.wall_us), format),
        };
        if let Some(bytes) = notes {
            match Notes::from_bytes(&bytes) {
                Some(notes) => agenda.go_on(notes, now),
                None => {
                    warn!(
                        target = target.name(),
                        "notes of another version: told as if it knew of nothing"
                    );
                }
            }
        }
        agenda
    }

    fn update(&mut self, incident: &Arc<Incident>, now: Now) -> u64 {
        match self {
            Self::Alerts(alerts) => alerts.update(incident, now),
            Self::Messages(outbox, _) => outbox.update(incident, now),
        }
    }

    fn go_on(&mut self, notes: Notes, now: Now) {
        match self {
            Self::Alerts(alerts) => alerts.go_on(notes.alerts, now),
            Self::Messages(outbox, _) => outbox.go_on(notes.revision, notes.told),
        }
    }

    fn has_looked(&mut self, now: Now) {
        match self {
            Self::Alerts(alerts) => alerts.has_looked(now),
            Self::Messages(outbox, _) => outbox.has_looked(),
        }
    }

    fn notes(&self, revision: u64) -> Notes {
        let (told, alerts) = match self {
            Self::Alerts(alerts) => (BTreeMap::new(), alerts.noted()),
            Self::Messages(outbox, _) => (outbox.told(), Vec::new()),
        };
        Notes { revision, told, alerts }
    }

    fn gather(&mut self, now: Now) -> u64 {
        match self {
            Self::Alerts(_) => 0,
            Self::Messages(outbox, _) => outbox.gather(now),
        }
    }

    fn end_gathering(&mut self) -> u64 {
        match self {
            Self::Alerts(_) => 0,
            Self::Messages(outbox, _) => outbox.end_gathering(),
        }
    }

    fn waiting(&self, now: Now) -> u64 {
        match self {
            Self::Alerts(alerts) => alerts.waiting(now),
            Self::Messages(outbox, _) => outbox.waiting(),
        }
    }

    fn wait_ms(&self, now: Now) -> Option<u64> {
        match self {
            Self::Alerts(alerts) => alerts.wait_ms(now),
            Self::Messages(outbox, _) => outbox.wait_ms(now),
        }
    }

    fn next(&mut self, target: &Target, external_url: &str, now: Now) -> Option<Request> {
        let of = Circumstances { external_url, is_test: false };
        match self {
            Self::Alerts(alerts) => alerts.next(now, of),
            Self::Messages(outbox, format) => {
                let (incident, change) = outbox.next()?;
                let topic = target.url.last_segment();
                Some(message::request(incident, change, *format, topic, of))
            }
        }
    }

    fn record(&mut self, outcome: Outcome, now: Now) {
        match self {
            Self::Alerts(alerts) => alerts.record(outcome, now),
            Self::Messages(outbox, _) => outbox.record(outcome),
        }
    }
}

#[cfg(test)]
mod tests;
