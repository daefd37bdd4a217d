//! What a target was told, as bytes, so that a restart neither repeats nor forgets it.
//!
//! Notes belong to a book: they say up to which of its revisions the sender had looked.

use std::collections::BTreeMap;

use sigmad_incidents::form::{self, Saved, saved};
use sigmad_incidents::incident::{Incident, IncidentId, Severity};

/// The version of the form. Incidents have their own.
const VERSION: u16 = 1;

/// Notes of one target.
#[derive(Clone, Debug, PartialEq)]
pub struct Notes {
    /// The last change of the book that the sender had seen.
    pub revision: u64,
    /// Of a webhook: what is told or to be told, and the severity of the last message, None before the first.
    pub told: BTreeMap<IncidentId, Option<Severity>>,
    /// Of Alertmanager: the alerts that it has.
    pub alerts: Vec<NotedAlert>,
}

/// An alert that is sent again and again.
#[derive(Clone, Debug, PartialEq)]
pub struct NotedAlert {
    /// Its severity.
    pub severity: Severity,
    /// The incident as it was first, for its labels: with its suspect alone.
    pub first: Incident,
    /// When the alert ended.
    pub ended_at_us: Option<i64>,
}

impl NotedAlert {
    /// Keeps of the incident what labels need.
    pub fn new(severity: Severity, first: &Incident, ended_at_us: Option<i64>) -> Self {
        let members = vec![first.suspect().clone()];
        Self { severity, first: Incident { members, suspect: 0, ..first.clone() }, ended_at_us }
    }
}

saved!(NotedAlert { severity, first, ended_at_us });

impl Notes {
    /// The notes as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut to = Vec::new();
        [VERSION, form::VERSION].write(&mut to);
        self.revision.write(&mut to);
        let told: Vec<_> = self.told.iter().map(|(id, told)| (*id, *told)).collect();
        told.write(&mut to);
        self.alerts.write(&mut to);
        to
    }

    /// None for bytes of another version.
    pub fn from_bytes(mut from: &[u8]) -> Option<Self> {
        let from = &mut from;
        if <[u16; 2]>::read(from)? != [VERSION, form::VERSION] {
            return None;
        }
        let revision = u64::read(from)?;
        let told = Vec::<(IncidentId, Option<Severity>)>::read(from)?.into_iter().collect();
        let alerts = Vec::read(from)?;
        from.is_empty().then_some(Self { revision, told, alerts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::incident;

    #[test]
    fn notes_are_read_as_they_were_written() {
        let ids = [1, 2].map(|number| incident(number).id);
        let notes = Notes {
            revision: 7,
            told: [(ids[0], None), (ids[1], Some(Severity::Critical))].into(),
            alerts: vec![NotedAlert::new(Severity::Warning, &incident(3), Some(5))],
        };
        let bytes = notes.to_bytes();
        assert_eq!(Notes::from_bytes(&bytes), Some(notes));
        for length in 0..bytes.len() {
            assert_eq!(Notes::from_bytes(&bytes[..length]), None, "{length}");
        }
        assert_eq!(Notes::from_bytes(&[&[9, 9], &bytes[2..]].concat()), None);
    }
}
