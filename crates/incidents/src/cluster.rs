//! An incident that is not resolved, with what its growth needs.

use crate::explain;
use crate::grouping::{GroupTokens, Link};
use crate::incident::{Incident, IncidentId, MEMBERS_KEPT_MAX, Member, Severity, State};
use crate::rules::SilenceRule;
use crate::tokens::FleetTokens;

/// One incident that grows.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub incident: Incident,
    pub tokens: GroupTokens,
    /// The latest onset.
    pub last_start_us: i64,
    pub(crate) link: Option<Link>,
}

impl Cluster {
    /// An incident whose only member began now.
    pub fn new(id: IncidentId, member: Member, now_us: i64) -> Self {
        let incident = Incident {
            id,
            kind: member.kind,
            state: State::Open,
            severity: Severity::of_member(&member),
            score: member.score,
            started_at_us: member.started_at_us,
            opened_at_us: now_us,
            updated_at_us: now_us,
            resolved_at_us: None,
            members: Vec::new(),
            member_count: 0,
            open_count: 0,
            device_count: 0,
            suspect: 0,
            site: None,
            title: String::new(),
            because: String::new(),
            ack: None,
            merged_into: None,
            revision: 0,
        };
        let last_start_us = member.started_at_us;
        let tokens = GroupTokens::default();
        let mut cluster = Self { incident, tokens, last_start_us, link: None };
        cluster.add(member, true, None);
        cluster
    }

    /// How far an onset is from those of this incident.
    pub fn gap_us(&self, start_us: i64) -> i64 {
        let first_us = self.incident.started_at_us;
        (first_us.saturating_sub(start_us)).max(start_us.saturating_sub(self.last_start_us)).max(0)
    }

    /// Incidents that this one counts as, where so many at once are a storm.
    pub fn at_once(&self) -> usize {
        match self.link {
            Some(Link::Storm(at_once)) => at_once,
            _ => 1,
        }
    }

    /// Adds a member that is wrong. `is_new_device`: none of its device is there.
    pub fn add(&mut self, member: Member, is_new_device: bool, link: Option<Link>) {
        if is_new_device && let Some(device) = &member.device {
            self.tokens.add(device);
        }
        self.incident.device_count += usize::from(is_new_device);
        self.incident.member_count += 1;
        self.incident.open_count += 1;
        // What made a group says more than that one of its devices has another series; a storm more than a name.
        let is_said = match (&self.link, &link) {
            (_, None) => true,
            (None, _) | (_, Some(Link::Storm(_))) => false,
            (Some(Link::Storm(_)), _) | (_, Some(Link::SameDevice)) => true,
            _ => false,
        };
        if !is_said {
            self.link = link;
        }
        self.keep(member);
    }

    /// Keeps a member in its place, unless there are too many before it.
    fn keep(&mut self, member: Member) {
        let incident = &mut self.incident;
        incident.started_at_us = incident.started_at_us.min(member.started_at_us);
        self.last_start_us = self.last_start_us.max(member.started_at_us);
        incident.score = incident.score.max(member.score);
        // Also of one that is not kept.
        incident.severity = incident.severity.max(Severity::of_member(&member));
        let place = incident.members.partition_point(|one| one.in_order(&member).is_le());
        incident.members.insert(place, member);
        incident.members.truncate(MEMBERS_KEPT_MAX);
    }

    /// Takes over the members of an incident that turned out to be the same.
    pub fn merge(&mut self, other: &Self) {
        self.tokens.merge(&other.tokens);
        if other.at_once() > self.at_once() {
            self.link.clone_from(&other.link);
        }
        self.incident.device_count += other.incident.device_count;
        self.incident.member_count += other.incident.member_count;
        self.incident.open_count += other.incident.open_count;
        if self.incident.ack.is_none() {
            self.incident.ack.clone_from(&other.incident.ack);
        }
        // Also of members that the other one did not keep.
        self.incident.severity = self.incident.severity.max(other.incident.severity);
        self.incident.score = self.incident.score.max(other.incident.score);
        other.incident.members.iter().for_each(|member| self.keep(member.clone()));
    }

    /// Recomputes what follows from the members.
    pub fn refresh(&mut self, fleet: &FleetTokens, rules: &[SilenceRule], now_us: i64) {
        let incident = &mut self.incident;
        // The first onset: where a score, or further series of a device, made up for a delay, fewer causes were found.
        incident.suspect = 0;
        incident.kind = incident.suspect().kind;
        incident.severity = incident.severity.max(Severity::of_devices(incident.device_count));
        incident.site = self.tokens.site(fleet).map(Into::into);
        incident.title = explain::title(incident, fleet);
        incident.because = explain::because(incident, self.link.as_ref(), fleet);
        self.judge_state(rules, now_us);
    }

    /// Recomputes the state; true if it is another one.
    pub fn judge_state(&mut self, rules: &[SilenceRule], now_us: i64) -> bool {
        let incident = &mut self.incident;
        let is_covered = |member: &Member| {
            let (device, series) = (member.device.as_deref(), member.series.as_deref());
            rules.iter().any(|rule| rule.is_active(now_us) && rule.covers(device, series))
        };
        let mut open = incident.members.iter().filter(|member| member.ended_at_us.is_none());
        let before = incident.state;
        incident.state = if incident.open_count == 0 {
            State::Resolved
        } else if !rules.is_empty() && open.clone().next().is_some() && open.all(is_covered) {
            State::Silenced
        } else if incident.ack.is_some() {
            State::Acknowledged
        } else {
            State::Open
        };
        incident.state != before
    }
}
