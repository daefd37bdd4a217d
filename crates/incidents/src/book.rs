//! The book of incidents: takes events in order, and opens, grows, merges and resolves incidents.
//!
//! Pure and deterministic: the same events give the same incidents. Its memory is bounded: [`OPEN_MAX`] incidents with
//! [`OPEN_MEMBERS_MAX`] members, and the last [`RESOLVED_KEPT_MAX`] that are resolved. What does not fit is counted.
//! A restart goes on with the book as it was: [`Book::write`], [`Book::read`].

pub mod kept;
mod onset;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub(crate) use self::onset::member;
use crate::cluster::Cluster;
use crate::event::{Event, Subject};
use crate::grouping::{self, Link, RECENT_MAX, Recent, SAME_DEVICE_US};
use crate::incident::{Ack, Incident, IncidentId, Kind, Member, Severity, State};
use crate::rate::Rate;
use crate::resumption::Resumption;
use crate::rules::{RULES_MAX, SilenceRule};
use crate::together::Together;
use crate::tokens::{FleetTokens, hash};

/// Incidents that are not resolved.
pub const OPEN_MAX: usize = 4_096;
/// Members of those, also those that are well again: a few hundred bytes each.
pub const OPEN_MEMBERS_MAX: usize = 65_536;
/// Resolved incidents that are kept.
pub const RESOLVED_KEPT_MAX: usize = 1_024;
/// Members that those keep in sum.
pub const RESOLVED_MEMBERS_MAX: usize = 32_768;
/// Members whose devices stand for an incident where pairs of devices are compared.
const DEVICES_COMPARED: usize = 8;
/// A silence is noticed so that a device that is well has one in 7,000 days: −log10 of that.
pub const SILENCE_SCORE: f64 = 3.85;

/// How the book groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BookSettings {
    /// Onsets of different devices that are further apart have different causes, in microseconds.
    pub window_us: i64,
}

impl Default for BookSettings {
    fn default() -> Self {
        Self { window_us: 60_000_000 }
    }
}

/// What the book has counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BookCounts {
    /// Incidents opened, in the order of [`Kind::ALL`].
    pub opened: [u64; 3],
    /// Incidents that turned out to be a part of an earlier one.
    pub merged: u64,
    /// Incidents resolved, without those that were merged.
    pub resolved: u64,
    /// Onsets without room: too many incidents are open, or too many members.
    pub dropped: u64,
}

/// Why an incident can't be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckError {
    /// There is no incident with that id.
    Unknown,
    /// It is resolved already.
    Resolved,
}

/// Where a member is.
#[derive(Clone, Copy, Debug)]
struct Place {
    id: IncidentId,
    is_open: bool,
}

/// All incidents.
#[derive(Clone, Debug, Default)]
pub struct Book {
    settings: BookSettings,
    pub(crate) open: BTreeMap<IncidentId, Cluster>,
    pub(crate) resolved: VecDeque<Incident>,
    resolved_members: usize,
    members: BTreeMap<Subject, Place>,
    rules: Vec<SilenceRule>,
    fleet: FleetTokens,
    together: Together,
    rate: Rate,
    pub(crate) revision: u64,
    opened: u32,
    ruled: u64,
    now_us: i64,
    counts: BookCounts,
    /// Of a book that was read, until analytics knows again what it knew.
    resumption: Option<Resumption>,
}

impl Book {
    /// An empty book.
    pub fn new(settings: BookSettings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Replaces what is known of the names of all devices.
    pub fn set_fleet(&mut self, fleet: FleetTokens) {
        self.fleet = fleet;
    }

    /// What was counted so far.
    pub fn counts(&self) -> BookCounts {
        self.counts
    }

    /// The number of the last change, of an incident or of the silences.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Incidents that are neither silenced nor resolved, in the order of [`Severity::ALL`].
    pub fn open_by_severity(&self) -> [usize; 2] {
        Severity::ALL.map(|severity| {
            let is_counted = |one: &&Cluster| {
                one.incident.severity == severity && one.incident.state != State::Silenced
            };
            self.open.values().filter(is_counted).count()
        })
    }

    /// Takes the next event.
    pub fn apply(&mut self, event: &Event) {
        if self.resumption.as_ref().is_some_and(|resumption| resumption.knows(event)) {
            return;
        }
        self.tick(event.at_us());
        match event {
            Event::Deviation { .. } | Event::Silence { .. } | Event::Reception { .. } => {
                self.begin(member(event));
            }
            Event::Recovery { device, series, .. } => {
                self.end(&(device.clone(), Some(series.clone())), false);
            }
            Event::Return { device, .. } => self.end(&(Some(device.clone()), None), false),
            Event::Gone { device, .. } => {
                for subject in self.subjects_of(Some(device)) {
                    self.end(&subject, true);
                }
            }
            Event::ReceptionBack { .. } => self.end(&(None, None), false),
            Event::Restored { standing, .. } => self.restored(standing),
        }
    }

    /// It is `now_us`: silences begin and end.
    pub fn tick(&mut self, now_us: i64) {
        let before_us = self.now_us;
        self.now_us = before_us.max(now_us);
        let is_between = |at_us: i64| before_us < at_us && at_us <= self.now_us;
        if self
            .rules
            .iter()
            .any(|rule| is_between(rule.starts_at_us) || is_between(rule.ends_at_us))
        {
            self.judge_states();
            let now_us = self.now_us;
            self.rules.retain(|rule| rule.ends_at_us > now_us);
        }
    }

    /// When a silence begins or ends next.
    pub fn next_tick_us(&self) -> Option<i64> {
        let times = self.rules.iter().flat_map(|rule| [rule.starts_at_us, rule.ends_at_us]);
        times.filter(|at_us| *at_us > self.now_us).min()
    }

    /// Notes that somebody knows of an incident.
    ///
    /// # Errors
    /// When there is none with that id, or when it is resolved.
    pub fn acknowledge(&mut self, id: IncidentId, ack: Ack) -> Result<Incident, AckError> {
        self.tick(ack.at_us);
        let Some(cluster) = self.open.get_mut(&id) else {
            let is_resolved = self.resolved.iter().any(|incident| incident.id == id);
            return Err(if is_resolved { AckError::Resolved } else { AckError::Unknown });
        };
        cluster.incident.ack = Some(ack);
        self.changed(id);
        Ok(self.open[&id].incident.clone())
    }

    /// Adds a silence; false when there is no room.
    pub fn add_rule(&mut self, rule: SilenceRule, now_us: i64) -> bool {
        self.tick(now_us);
        if self.rules.len() >= RULES_MAX {
            return false;
        }
        self.rules.push(rule);
        self.revision += 1;
        self.judge_states();
        true
    }

    /// An id for the next silence.
    pub fn next_rule_id(&mut self, now_us: i64) -> Arc<str> {
        self.ruled += 1;
        SilenceRule::new_id(now_us, self.ruled)
    }

    /// Ends a silence; false when there is none with that id.
    pub fn remove_rule(&mut self, id: &str, now_us: i64) -> bool {
        self.tick(now_us);
        let before = self.rules.len();
        self.rules.retain(|rule| *rule.id != *id);
        self.revision += u64::from(self.rules.len() < before);
        self.judge_states();
        self.rules.len() < before
    }

    /// What is wrong now. A member that its incident does not keep is known by its subject alone.
    pub(crate) fn wrong(&self) -> impl Iterator<Item = Member> {
        let open = self.members.iter().filter(|(_, place)| place.is_open);
        open.map(|(subject, place)| {
            let incident = &self.open[&place.id].incident;
            let mut members = incident.members.iter();
            let kept = members.find(|one| one.device == subject.0 && one.series == subject.1);
            let kind = match subject {
                (_, Some(_)) => Kind::Deviation,
                (Some(_), None) => Kind::Silence,
                (None, None) => Kind::Reception,
            };
            let started_at_us = incident.started_at_us;
            let (device, series) = subject.clone();
            let unknown = || Member { started_at_us, ..Member::begun(kind, device, series) };
            kept.cloned().unwrap_or_else(unknown)
        })
    }

    /// The silences that have not ended, in the order in which they were asked for.
    pub fn rules(&self) -> &[SilenceRule] {
        &self.rules
    }

    /// A member begins to be wrong, or is worse than before.
    pub(crate) fn begin(&mut self, member: Member) {
        let subject = member.subject();
        if let Some(resumption) = &mut self.resumption {
            resumption.standing.insert(subject.clone());
        }
        if let Some(place) = self.members.get_mut(&subject) {
            let (id, was_open) = (place.id, std::mem::replace(&mut place.is_open, true));
            return self.worsen(id, &member, was_open);
        }
        if self.members.len() >= OPEN_MEMBERS_MAX {
            self.counts.dropped += 1;
            return;
        }
        let id = match self.find(&member) {
            Some((ids, link)) => {
                let id = self.merge(&ids);
                let is_new_device = !self.has_device(id, member.device.as_ref());
                let cluster = self.open.get_mut(&id).expect("it was found");
                cluster.add(member, is_new_device, Some(link));
                id
            }
            None if self.open.len() < OPEN_MAX => self.open_with(member, &subject),
            None => {
                self.counts.dropped += 1;
                return;
            }
        };
        self.members.insert(subject, Place { id, is_open: true });
        self.changed(id);
    }

    fn open_with(&mut self, member: Member, subject: &Subject) -> IncidentId {
        let (device, series) = (subject.0.as_deref(), subject.1.as_deref());
        let names = [device.unwrap_or("").as_bytes(), &[0], series.unwrap_or("").as_bytes()];
        let id = IncidentId::new(self.now_us, hash(&names.concat()), self.opened);
        self.opened = self.opened.wrapping_add(1);
        self.counts.opened[member.kind as usize] += 1;
        self.rate.add(self.now_us);
        self.open.insert(id, Cluster::new(id, member, self.now_us));
        id
    }

    /// The incidents that a new member belongs to, and why.
    fn find(&mut self, member: &Member) -> Option<(Vec<IncidentId>, Link)> {
        if member.kind == Kind::Reception {
            return None;
        }
        if let Some(id) = self.of_same_device(member) {
            return Some((vec![id], Link::SameDevice));
        }
        let device = member.device.as_deref()?;
        let window_us = self.settings.window_us;
        let is_recent = |cluster: &&Cluster| {
            cluster.incident.kind != Kind::Reception
                && cluster.gap_us(member.started_at_us) <= window_us
        };
        let recent: Vec<&Cluster> =
            self.open.values().rev().filter(is_recent).take(RECENT_MAX).collect();
        let compared: Vec<Recent<'_>> = recent
            .iter()
            .map(|cluster| {
                let times = devices(cluster).filter_map(|one| self.together.times(device, one));
                let (tokens, together) = (&cluster.tokens, times.max());
                Recent { tokens, together, at_once: cluster.at_once() }
            })
            .collect();
        let expected = self.rate.expected(self.now_us, 2 * window_us);
        let found = grouping::group(device, &compared, &self.fleet, expected);
        self.together.began(device);
        for other in recent.iter().take(DEVICES_COMPARED).flat_map(|cluster| devices(cluster)) {
            self.together.began_beside(device, other);
        }
        found
            .map(|(places, link)| (places.iter().map(|at| recent[*at].incident.id).collect(), link))
    }

    /// The latest incident with another member of the same device.
    fn of_same_device(&self, member: &Member) -> Option<IncidentId> {
        let ids = self.places_of(member.device.as_ref()).map(|(_, place)| place.id);
        ids.filter(|id| self.open[id].incident.kind != Kind::Reception)
            .filter(|id| self.open[id].gap_us(member.started_at_us) <= SAME_DEVICE_US)
            .max()
    }

    fn places_of(&self, device: Option<&Arc<str>>) -> impl Iterator<Item = (&Subject, &Place)> {
        let device = device.cloned();
        let from = (device.clone(), None);
        self.members.range(from..).take_while(move |(subject, _)| subject.0 == device)
    }

    fn subjects_of(&self, device: Option<&Arc<str>>) -> Vec<Subject> {
        self.places_of(device).map(|(subject, _)| subject.clone()).collect()
    }

    fn has_device(&self, id: IncidentId, device: Option<&Arc<str>>) -> bool {
        self.places_of(device).any(|(_, place)| place.id == id)
    }

    /// Makes one incident of several: the earliest, whose id is returned.
    fn merge(&mut self, ids: &[IncidentId]) -> IncidentId {
        let first = *ids.iter().min().expect("something was found");
        for id in ids.iter().filter(|id| **id != first) {
            let Some(mut other) = self.open.remove(id) else { continue };
            let is_of_other = |place: &&mut Place| place.id == *id;
            self.members.values_mut().filter(is_of_other).for_each(|place| place.id = first);
            self.open.get_mut(&first).expect("it is open").merge(&other);
            self.counts.merged += 1;
            self.rate.take_back();
            other.incident.merged_into = Some(first);
            other.incident.open_count = 0;
            other.judge_state(&[], self.now_us);
            self.keep_resolved(other.incident);
        }
        first
    }

    fn worsen(&mut self, id: IncidentId, member: &Member, was_open: bool) {
        let cluster = self.open.get_mut(&id).expect("members are of open incidents");
        cluster.incident.open_count += usize::from(!was_open);
        let known = find_member(&mut cluster.incident, member);
        let is_worse = known.as_ref().is_some_and(|known| member.score > known.score);
        if let Some(known) = known {
            known.ended_at_us = None;
            if is_worse {
                *known = Member { started_at_us: known.started_at_us, ..member.clone() };
            }
        }
        cluster.incident.severity = cluster.incident.severity.max(Severity::of_member(member));
        cluster.incident.score = cluster.incident.score.max(member.score);
        if is_worse {
            cluster.incident.members.sort_by(Member::in_order);
        }
        if is_worse || !was_open {
            self.changed(id);
        }
    }

    /// A member is well again, or gone.
    pub(crate) fn end(&mut self, subject: &Subject, is_gone: bool) {
        let Some(place) = self.members.get_mut(subject).filter(|place| place.is_open) else {
            return;
        };
        place.is_open = false;
        let id = place.id;
        let cluster = self.open.get_mut(&id).expect("members are of open incidents");
        cluster.incident.open_count -= 1;
        let mut members = cluster.incident.members.iter_mut();
        if let Some(member) = members.find(|m| m.device == subject.0 && m.series == subject.1) {
            (member.ended_at_us, member.is_gone) = (Some(self.now_us), is_gone);
        }
        self.changed(id);
        if self.open[&id].incident.open_count == 0 {
            let cluster = self.open.remove(&id).expect("it is open");
            self.members.retain(|_, place| place.id != id);
            self.counts.resolved += 1;
            self.keep_resolved(cluster.incident);
        }
    }

    fn keep_resolved(&mut self, mut incident: Incident) {
        self.revision += 1;
        incident.revision = self.revision;
        incident.updated_at_us = self.now_us;
        incident.resolved_at_us = Some(self.now_us);
        self.resolved_members += incident.members.len();
        self.resolved.push_back(incident);
        self.forget_old();
    }

    fn forget_old(&mut self) {
        while self.resolved.len() > RESOLVED_KEPT_MAX
            || self.resolved_members > RESOLVED_MEMBERS_MAX
        {
            let oldest = self.resolved.pop_front().expect("there are some");
            self.resolved_members -= oldest.members.len();
        }
    }

    /// An open incident has changed.
    fn changed(&mut self, id: IncidentId) {
        let cluster = self.open.get_mut(&id).expect("it is open");
        cluster.refresh(&self.fleet, &self.rules, self.now_us);
        self.revision += 1;
        cluster.incident.revision = self.revision;
        cluster.incident.updated_at_us = self.now_us;
    }

    /// Silences have changed.
    fn judge_states(&mut self) {
        let Self { open, rules, now_us, revision, .. } = self;
        for cluster in open.values_mut() {
            if cluster.judge_state(rules, *now_us) {
                *revision += 1;
                cluster.incident.revision = *revision;
                cluster.incident.updated_at_us = *now_us;
            }
        }
    }
}

/// The devices that stand for an incident.
fn devices(cluster: &Cluster) -> impl Iterator<Item = &str> {
    let members = cluster.incident.members.iter().take(DEVICES_COMPARED);
    members.filter_map(|member| member.device.as_deref())
}

fn find_member<'i>(incident: &'i mut Incident, like: &Member) -> Option<&'i mut Member> {
    let mut members = incident.members.iter_mut();
    members.find(|member| member.device == like.device && member.series == like.series)
}

#[cfg(test)]
mod fleets;
#[cfg(test)]
mod tests;
