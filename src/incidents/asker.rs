//! Asks the thread `incidents`.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::questions;
use sigmad_incidents::book::AckError;
use sigmad_incidents::incident::{Ack, Incident, IncidentId, Member};
use sigmad_incidents::list::{ListPage, ListQuery};
use sigmad_incidents::rules::SilenceRule;

/// A silence that an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSilence {
    /// As in [`SilenceRule`].
    pub device: Option<Arc<str>>,
    /// As in [`SilenceRule`].
    pub series: Option<Arc<str>>,
    /// As in [`SilenceRule`].
    pub starts_at_us: i64,
    /// As in [`SilenceRule`].
    pub ends_at_us: i64,
    /// As in [`SilenceRule`].
    pub created_by: Arc<str>,
    /// As in [`SilenceRule`].
    pub comment: Arc<str>,
}

impl NewSilence {
    /// The rule with that id.
    pub fn rule(self, id: Arc<str>) -> SilenceRule {
        let Self { device, series, starts_at_us, ends_at_us, created_by, comment } = self;
        SilenceRule { id, device, series, starts_at_us, ends_at_us, created_by, comment }
    }
}

/// What a replica says of itself to the others.
#[derive(Clone, Debug, Default)]
pub struct OwnClaims {
    /// Changes with each change of the claims.
    pub version: u64,
    /// All that is wrong, and what ended lately; None when that is the version that was asked about.
    pub claims: Option<Vec<Member>>,
    /// The same as bytes.
    pub written: Vec<u8>,
    /// Incidents of this replica that are neither silenced nor resolved, by severity.
    pub open: [usize; 2],
    /// Its silences.
    pub silences: usize,
}

/// What the thread answers.
#[derive(Debug)]
pub(super) enum Question {
    List(ListQuery, Sender<ListPage>),
    Get(IncidentId, Sender<Option<Incident>>),
    Changes(u64, usize, Sender<Vec<Incident>>),
    Acknowledge(IncidentId, Ack, Sender<Result<Incident, AckError>>),
    Silences(Sender<Vec<SilenceRule>>),
    AddSilence(NewSilence, Sender<Option<SilenceRule>>),
    EndSilence(Box<str>, Sender<bool>),
    Forget(Arc<str>, Sender<()>),
    Subscribe(Sender<()>),
    Save(Sender<Vec<u8>>),
    Claims(Option<u64>, Sender<OwnClaims>),
}

/// Asks the thread, and waits for its answers: workers must not use it.
#[derive(Clone, Debug)]
pub struct IncidentsAsker(Sender<Question>);

/// An asker, and what the thread takes from it.
pub(super) fn questions() -> (IncidentsAsker, Receiver<Question>) {
    let (to_thread, asked) = bounded(questions::QUESTIONS_MAX);
    (IncidentsAsker(to_thread), asked)
}

// Each returns None once the thread has ended.
impl IncidentsAsker {
    /// A page of incidents.
    pub fn list(&self, query: ListQuery) -> Option<ListPage> {
        self.ask(|to| Question::List(query, to))
    }

    /// One incident, if it is known.
    pub fn get(&self, id: IncidentId) -> Option<Option<Incident>> {
        self.ask(|to| Question::Get(id, to))
    }

    /// At most `limit` incidents that changed after `revision`, in the order of their last changes.
    pub fn changes_since(&self, revision: u64, limit: usize) -> Option<Vec<Incident>> {
        self.ask(|to| Question::Changes(revision, limit, to))
    }

    /// Notes that somebody knows of an incident.
    pub fn acknowledge(&self, id: IncidentId, ack: Ack) -> Option<Result<Incident, AckError>> {
        self.ask(|to| Question::Acknowledge(id, ack, to))
    }

    /// The silences that have not ended.
    pub fn silences(&self) -> Option<Vec<SilenceRule>> {
        self.ask(Question::Silences)
    }

    /// Adds a silence; None inside when there are too many.
    pub fn add_silence(&self, silence: NewSilence) -> Option<Option<SilenceRule>> {
        self.ask(|to| Question::AddSilence(silence, to))
    }

    /// Ends a silence; false when there is none with that id.
    pub fn end_silence(&self, id: &str) -> Option<bool> {
        self.ask(|to| Question::EndSilence(id.into(), to))
    }

    /// A device was deleted: what was wrong with it is over.
    pub fn forget(&self, device: &str) -> Option<()> {
        self.ask(|to| Question::Forget(device.into(), to))
    }

    /// The book as bytes.
    pub fn save(&self) -> Option<Vec<u8>> {
        self.ask(Question::Save)
    }

    /// What this replica claims, unless it is the version that is `known`.
    pub fn claims(&self, known: Option<u64>) -> Option<OwnClaims> {
        self.ask(|to| Question::Claims(known, to))
    }

    /// Something arrives here after each change; of several that nobody took, one.
    pub fn subscribe(&self) -> Option<Receiver<()>> {
        let (changed, changes) = bounded(1);
        self.0.send(Question::Subscribe(changed)).ok()?;
        Some(changes)
    }

    fn ask<T>(&self, question: impl FnOnce(Sender<T>) -> Question) -> Option<T> {
        let (reply, report) = bounded(1);
        self.0.send(question(reply)).ok()?;
        questions::wait(&report, &self.0, || Question::Silences(bounded(1).0))
    }
}
