//! What a webhook is told, and when. Pure: time is an argument.
//!
//! Each incident is told at most three times: opened, worse, resolved. What is due follows from what was told and what
//! the incident is now, so that a target which is away for long costs no more than that.
//!
//! At least once: a message leaves the queue with the answer of the target alone. It is repeated, with the same id, only
//! if that answer was lost, or this process died before it was recorded.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use sigmad_clock::Now;
use sigmad_incidents::incident::{Incident, IncidentId, Severity, State};

use crate::message::Change;
use crate::retry::Outcome;

/// From an opening until it is told: meanwhile the incident finds its members. Devices report at different moments of
/// `--incident-interval`, which is 10 s.
const GATHER_MS: u64 = 10_000;
/// Messages that wait. Past it the oldest are dropped: the newest say best what is wrong now.
pub const QUEUE_MAX: usize = 1_024;
/// Incidents whose news are known: the open ones of a full book, and as many that have ended while the target was away.
pub const INCIDENTS_MAX: usize = 8_192;

/// The messages of one webhook.
#[derive(Clone, Debug)]
pub struct Outbox {
    /// What ended before is no news.
    started_at_us: i64,
    /// What was told before a restart, of incidents that the book has not shown since.
    noted: BTreeMap<IncidentId, Option<Severity>>,
    /// Changes of the book after it are news. None without notes.
    noted_revision: Option<u64>,
    incidents: BTreeMap<IncidentId, Known>,
    /// Openings that are not yet told, and from when they are, in milliseconds of monotonic time.
    gathering: VecDeque<(u64, IncidentId)>,
    queue: VecDeque<(IncidentId, Change)>,
}

#[derive(Clone, Debug)]
struct Known {
    incident: Arc<Incident>,
    /// Gathers, waits in the queue, or was told.
    is_opening_due: bool,
    /// The severity of the last message; None before the first.
    told: Option<Severity>,
    is_worse_due: bool,
    is_end_due: bool,
}

impl Outbox {
    /// Nothing is known yet. An incident that was resolved before `started_at_us` is not told.
    pub fn new(started_at_us: i64) -> Self {
        let (incidents, gathering, queue) = Default::default();
        let (noted, noted_revision) = Default::default();
        Self { started_at_us, noted, noted_revision, incidents, gathering, queue }
    }

    /// Goes on from what was told before a restart. What the book has of the incidents follows.
    pub fn go_on(&mut self, revision: u64, told: BTreeMap<IncidentId, Option<Severity>>) {
        (self.noted, self.noted_revision) = (told, Some(revision));
    }

    /// The book has shown all that it has: what it has not shown is no more.
    pub fn has_looked(&mut self) {
        self.noted.clear();
    }

    /// What was told, and what is to be told.
    pub fn told(&self) -> BTreeMap<IncidentId, Option<Severity>> {
        let known = self.incidents.iter().map(|(id, known)| (*id, known.told));
        self.noted.iter().map(|(id, told)| (*id, *told)).chain(known).collect()
    }

    /// Takes an incident that has changed. Returns how many messages are dropped for lack of room.
    pub fn update(&mut self, incident: &Arc<Incident>, now: Now) -> u64 {
        let id = incident.id;
        let note = self.noted.remove(&id);
        let is_seen = self.noted_revision.is_none_or(|revision| incident.revision <= revision);
        let is_over = incident.resolved_at_us.is_some_and(|at_us| at_us < self.started_at_us);
        let is_old = is_over && is_seen && note.is_none();
        let is_merged = incident.merged_into.is_some();
        let was_told = note.flatten();
        let is_no_news = is_old || is_merged || incident.state == State::Silenced;
        if !self.incidents.contains_key(&id) && is_no_news && was_told.is_none() {
            return 0;
        }
        let mut dropped = 0;
        if !self.incidents.contains_key(&id) && self.incidents.len() >= INCIDENTS_MAX {
            dropped += self.forget_oldest();
        }
        let new = || Known::new(incident.clone(), was_told);
        let known = self.incidents.entry(id).or_insert_with(new);
        known.incident = incident.clone();
        match incident.state {
            State::Open | State::Acknowledged => {
                if !known.is_opening_due {
                    known.is_opening_due = true;
                    self.gathering.push_back((now.monotonic_ms() + GATHER_MS, id));
                } else if known.told.is_some_and(|told| told < incident.severity)
                    && !known.is_worse_due
                {
                    known.is_worse_due = true;
                    dropped += self.enqueue(id, Change::Worse);
                }
            }
            State::Silenced => self.silence(id),
            // Nobody knows of it: the incident that it is a part of says all.
            State::Resolved if is_merged && known.told.is_none() => self.silence(id),
            State::Resolved if known.is_end_due => {}
            State::Resolved => {
                known.is_end_due = true;
                if !known.is_opening_due {
                    // Silenced from its first moment, or opened and resolved between two looks at the book.
                    known.is_opening_due = true;
                    dropped += self.enqueue(id, Change::Opened);
                }
                // Its opening is still gathered: the end waits for it.
                if !self.gathering.iter().any(|(_, gathered)| *gathered == id) {
                    dropped += self.enqueue(id, Change::Resolved);
                }
            }
        }
        dropped
    }

    /// What was not told of the incident is not told: a silence covers it, or it is a part of another one.
    fn silence(&mut self, id: IncidentId) {
        self.gathering.retain(|(_, gathered)| *gathered != id);
        self.queue.retain(|(queued, _)| *queued != id);
        let Some(known) = self.incidents.get_mut(&id) else { return };
        known.is_worse_due = false;
        known.is_opening_due = known.told.is_some();
        if known.told.is_none() {
            self.incidents.remove(&id);
        }
    }

    fn forget_oldest(&mut self) -> u64 {
        let Some((id, _)) = self.incidents.pop_first() else { return 0 };
        self.gathering.retain(|(_, gathered)| *gathered != id);
        let before = self.queue.len();
        self.queue.retain(|(queued, _)| *queued != id);
        (before - self.queue.len()) as u64
    }

    fn enqueue(&mut self, id: IncidentId, change: Change) -> u64 {
        self.queue.push_back((id, change));
        if self.queue.len() <= QUEUE_MAX {
            return 0;
        }
        if let Some((id, change)) = self.queue.pop_front() {
            self.note_told(id, change);
        }
        1
    }

    /// Openings that have gathered long enough are due. Returns how many messages are dropped for lack of room.
    pub fn gather(&mut self, now: Now) -> u64 {
        self.gather_until(now.monotonic_ms())
    }

    /// The process ends: what is gathered is due.
    pub fn end_gathering(&mut self) -> u64 {
        self.gather_until(u64::MAX)
    }

    fn gather_until(&mut self, until_ms: u64) -> u64 {
        let mut dropped = 0;
        while let Some((_, id)) = self.gathering.pop_front_if(|(due_ms, _)| *due_ms <= until_ms) {
            dropped += self.enqueue(id, Change::Opened);
            if self.incidents.get(&id).is_some_and(|known| known.is_end_due) {
                dropped += self.enqueue(id, Change::Resolved);
            }
        }
        dropped
    }

    /// Messages that wait.
    pub fn waiting(&self) -> u64 {
        (self.queue.len() + self.gathering.len()) as u64
    }

    /// Milliseconds until the next message is due; None if there is none.
    pub fn wait_ms(&self, now: Now) -> Option<u64> {
        if !self.queue.is_empty() {
            return Some(0);
        }
        let (due_ms, _) = self.gathering.front()?;
        Some(due_ms.saturating_sub(now.monotonic_ms()))
    }

    /// The message that is due. [`Outbox::record`] takes its outcome.
    pub fn next(&self) -> Option<(&Incident, Change)> {
        let (id, change) = self.queue.front()?;
        let known = self.incidents.get(id).expect("what is in the queue is known");
        Some((&known.incident, *change))
    }

    /// Takes the outcome of the message that [`Outbox::next`] gave.
    pub fn record(&mut self, outcome: Outcome) {
        if matches!(outcome, Outcome::Failed { .. }) {
            return;
        }
        if let Some((id, change)) = self.queue.pop_front() {
            self.note_told(id, change);
        }
    }

    /// This message is not sent again.
    fn note_told(&mut self, id: IncidentId, change: Change) {
        let Some(known) = self.incidents.get_mut(&id) else { return };
        known.told = Some(known.incident.severity);
        if change == Change::Worse {
            known.is_worse_due = false;
        }
        if change == Change::Resolved {
            self.incidents.remove(&id);
        }
    }
}

impl Known {
    /// `told`: the severity that was told before a restart.
    const fn new(incident: Arc<Incident>, told: Option<Severity>) -> Self {
        let is_opening_due = told.is_some();
        Self { incident, is_opening_due, told, is_worse_due: false, is_end_due: false }
    }
}

#[cfg(test)]
mod tests;
