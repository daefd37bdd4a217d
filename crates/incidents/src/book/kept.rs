//! The book as bytes, and how a book that was read goes on.
//!
//! At a start analytics judges its journal again, and sends again what it had sent. What happened before the book was
//! written is in the book. At the end each shard says what is wrong in its part ([`Event::Restored`]): what is not, is
//! over, and what the book was not told any more begins. So nothing that was on its way when the process died leaves a
//! member open for ever.

use std::collections::{BTreeMap, BTreeSet};

use sigmad_detectors::saved::{Saved, saved};

use super::{Book, BookSettings, Place, member};
use crate::cluster::Cluster;
use crate::event::{Event, Subject};
use crate::form;
use crate::incident::{Incident, IncidentId, Kind};
use crate::rate::Rate;
use crate::resumption::Resumption;
use crate::rules::SilenceRule;
use crate::together::Together;

/// An onset so long before the book was written may have been on its way to it; an older one has been there.
const ON_THE_WAY_US: i64 = 10_000_000;

/// What is written.
struct Form {
    written_us: i64,
    open: Vec<Cluster>,
    resolved: Vec<Incident>,
    members: Vec<(Subject, Place)>,
    rules: Vec<SilenceRule>,
    together: Together,
    rate: Rate,
    revision: u64,
    opened: u32,
    ruled: u64,
    now_us: i64,
}

saved!(Place { id, is_open });
saved!(Form {
    written_us,
    open,
    resolved,
    members,
    rules,
    together,
    rate,
    revision,
    opened,
    ruled,
    now_us,
} if Form::holds);

impl Form {
    /// Whether each open incident has as many open members as it says, and each member an incident.
    fn holds(&self) -> bool {
        let mut open: BTreeMap<IncidentId, usize> =
            self.open.iter().map(|one| (one.incident.id, 0)).collect();
        for (_, place) in &self.members {
            let Some(count) = open.get_mut(&place.id) else { return false };
            *count += usize::from(place.is_open);
        }
        self.open.iter().all(|one| open.get(&one.incident.id) == Some(&one.incident.open_count))
    }
}

/// Why bytes are no book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BookError {
    /// Of a newer version of sigmad.
    Newer(u16),
    /// Of no version that this one reads.
    Broken,
}

impl Book {
    /// Appends the book as it is at `now_us`, without what it knows of the fleet's names and what it has counted: counters
    /// are those of a process.
    pub fn write(&self, now_us: i64, to: &mut Vec<u8>) {
        let Self { open, resolved, members, rules, together, rate, .. } = self;
        form::VERSION.write(to);
        // Until analytics has said what is wrong, the book is no newer than the one that was read.
        let written_us = self.resumption.as_ref().map_or(now_us, |waits| waits.written_us);
        let members = members.iter().map(|(subject, place)| (subject.clone(), *place));
        let form = Form {
            written_us,
            open: open.values().cloned().collect(),
            resolved: resolved.iter().cloned().collect(),
            members: members.collect(),
            rules: rules.clone(),
            together: together.clone(),
            rate: rate.clone(),
            revision: self.revision,
            opened: self.opened,
            ruled: self.ruled,
            now_us: self.now_us,
        };
        form.write(to);
    }

    /// A book that goes on from the one that was written. It waits for as many [`Event::Restored`] as there are
    /// `shards`; for none, each event is news.
    ///
    /// # Errors
    /// When the bytes are no book.
    pub fn read(settings: BookSettings, shards: usize, mut from: &[u8]) -> Result<Self, BookError> {
        match u16::read(&mut from) {
            Some(form::VERSION) => {}
            Some(version) if version > form::VERSION => return Err(BookError::Newer(version)),
            _ => return Err(BookError::Broken),
        }
        let form = Form::read(&mut from).filter(|_| from.is_empty()).ok_or(BookError::Broken)?;
        let (written_us, standing) = (form.written_us, BTreeSet::new());
        let mut book = Self {
            resolved_members: form.resolved.iter().map(|one| one.members.len()).sum(),
            open: form.open.into_iter().map(|one| (one.incident.id, one)).collect(),
            resolved: form.resolved.into(),
            members: form.members.into_iter().collect(),
            rules: form.rules,
            together: form.together,
            rate: form.rate,
            revision: form.revision,
            opened: form.opened,
            ruled: form.ruled,
            now_us: form.now_us,
            resumption: (shards > 0).then_some(Resumption { written_us, shards, standing }),
            ..Self::new(settings)
        };
        book.forget_old();
        Ok(book)
    }

    /// What is wrong with a device or with reception, and since when: analytics, which may have been kept before that
    /// was noticed, begins with it.
    pub fn silent(&self) -> BTreeMap<Option<Box<str>>, i64> {
        let open = self.open.values().flat_map(|one| &one.incident.members);
        let silent = open.filter(|one| one.kind != Kind::Deviation && one.ended_at_us.is_none());
        silent.map(|one| (one.device.as_deref().map(Into::into), one.started_at_us)).collect()
    }

    /// A shard says what is wrong in its part.
    pub(super) fn restored(&mut self, standing: &[Event]) {
        let written_us = self.resumption.as_ref().map(|resumption| resumption.written_us);
        for onset in standing {
            let found = member(onset);
            let subject = (found.device.clone(), found.series.clone());
            let is_known = self.members.get(&subject).is_some_and(|place| place.is_open);
            let may_be_new =
                written_us.is_none_or(|written_us| onset.at_us() > written_us - ON_THE_WAY_US);
            if !is_known && may_be_new {
                self.begin(found);
            }
            if let Some(resumption) = &mut self.resumption {
                resumption.standing.insert(subject);
            }
        }
        let Some(resumption) = &mut self.resumption else { return };
        resumption.shards = resumption.shards.saturating_sub(1);
        if resumption.shards > 0 {
            return;
        }
        let Some(Resumption { standing, .. }) = self.resumption.take() else { return };
        let is_over =
            |(subject, place): &(&Subject, &Place)| place.is_open && !standing.contains(*subject);
        let over: Vec<Subject> =
            self.members.iter().filter(is_over).map(|(subject, _)| subject.clone()).collect();
        over.iter().for_each(|subject| self.end(subject, false));
    }
}

#[cfg(test)]
mod tests;
