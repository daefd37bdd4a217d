//! Reads of the book: one incident, lists by page, and what has changed.

use crate::book::Book;
use crate::incident::{Incident, IncidentId, Severity, State};

/// Which incidents a list has: those that meet every condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// In this state.
    pub state: Option<State>,
    /// Of this severity.
    pub severity: Option<Severity>,
    /// With a member of this device.
    pub device: Option<Box<str>>,
    /// Changed at this time or later, in microseconds since 1970.
    pub since_us: Option<i64>,
    /// Opened before this one: the next page.
    pub after: Option<IncidentId>,
    /// At most so many.
    pub limit: usize,
}

/// A part of the incidents, the latest first.
#[derive(Clone, Debug, PartialEq)]
pub struct ListPage {
    /// By opening.
    pub incidents: Vec<Incident>,
    /// The `after` of the next page, if there is one.
    pub next: Option<IncidentId>,
}

impl Book {
    /// The incident with that id.
    pub fn get(&self, id: IncidentId) -> Option<&Incident> {
        let open = self.open.get(&id).map(|cluster| &cluster.incident);
        open.or_else(|| self.resolved.iter().find(|incident| incident.id == id))
    }

    fn all(&self) -> impl Iterator<Item = &Incident> {
        self.open.values().map(|cluster| &cluster.incident).chain(&self.resolved)
    }

    /// The incidents that `query` asks for, without those that went into another one.
    pub fn list(&self, query: &ListQuery) -> ListPage {
        let has_device = |incident: &Incident, name: &str| {
            incident.members.iter().any(|member| member.device.as_deref() == Some(name))
        };
        let mut found: Vec<&Incident> = self
            .all()
            .filter(|one| one.merged_into.is_none())
            .filter(|one| query.state.is_none_or(|state| one.state == state))
            .filter(|one| query.severity.is_none_or(|severity| one.severity == severity))
            .filter(|one| query.since_us.is_none_or(|since_us| one.updated_at_us >= since_us))
            .filter(|one| query.after.is_none_or(|after| one.id < after))
            .filter(|one| query.device.as_deref().is_none_or(|name| has_device(one, name)))
            .collect();
        found.sort_unstable_by_key(|incident| std::cmp::Reverse(incident.id));
        let has_more = found.len() > query.limit;
        found.truncate(query.limit);
        let next = found.last().filter(|_| has_more).map(|incident| incident.id);
        ListPage { incidents: found.into_iter().cloned().collect(), next }
    }

    /// At most `limit` incidents that changed after `revision`, in the order of their last changes. The last one's
    /// revision is that of the next question.
    pub fn changes_since(&self, revision: u64, limit: usize) -> Vec<Incident> {
        let mut changed: Vec<&Incident> =
            self.all().filter(|incident| incident.revision > revision).collect();
        changed.sort_unstable_by_key(|incident| incident.revision);
        changed.truncate(limit);
        changed.into_iter().cloned().collect()
    }
}
