//! What one replica says is wrong: its claims, made of its own events.
//!
//! A claim that has ended stays for a while, so that what began and ended between two looks is seen too.

use std::collections::{BTreeMap, VecDeque};

use sigmad_detectors::saved::Saved;

use crate::book::{OPEN_MEMBERS_MAX, member};
use crate::event::{Event, Subject};
use crate::incident::{Kind, Member};

/// For how long a claim that has ended is still stated. Others look every second, and once they reach Redis again.
pub const ENDED_KEPT_US: i64 = 60_000_000;
/// Ended claims that are stated at most: a site of thousands of devices that returns at once.
pub const ENDED_MAX: usize = 16_384;
/// The version of the form of [`Claims::written`].
const FORM: u8 = 1;

/// The claims of one replica.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    open: BTreeMap<Subject, Member>,
    ended: VecDeque<Member>,
    version: u64,
    dropped: u64,
}

impl Claims {
    /// Takes an event of this replica.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Deviation { .. } | Event::Silence { .. } | Event::Reception { .. } => {
                self.begin(member(event));
            }
            Event::Recovery { device, series, at_us } => {
                self.end(&(device.clone(), Some(series.clone())), *at_us, false);
            }
            Event::Return { device, at_us } => {
                self.end(&(Some(device.clone()), None), *at_us, false);
            }
            Event::Gone { device, at_us } => {
                let device = Some(device.clone());
                let of_device = self.open.range((device.clone(), None)..);
                let subjects = of_device.map(|(subject, _)| subject.clone());
                let subjects: Vec<_> = subjects.take_while(|one| one.0 == device).collect();
                subjects.iter().for_each(|subject| self.end(subject, *at_us, true));
            }
            Event::ReceptionBack { at_us } => self.end(&(None, None), *at_us, false),
            Event::Restored { standing, .. } => standing.iter().for_each(|onset| self.apply(onset)),
        }
        self.forget_ended(event.at_us());
    }

    fn begin(&mut self, member: Member) {
        let subject = member.subject();
        let is_full = self.open.len() >= OPEN_MEMBERS_MAX;
        match self.open.get_mut(&subject) {
            Some(known) if member.score > known.score => {
                *known = Member { started_at_us: known.started_at_us, ..member };
            }
            Some(_) => return,
            None if is_full => {
                self.dropped += 1;
                return;
            }
            None => drop(self.open.insert(subject, member)),
        }
        self.version += 1;
    }

    fn end(&mut self, subject: &Subject, at_us: i64, is_gone: bool) {
        let Some(mut member) = self.open.remove(subject) else { return };
        (member.ended_at_us, member.is_gone) = (Some(at_us), is_gone);
        self.ended.push_back(member);
        self.version += 1;
    }

    fn forget_ended(&mut self, now_us: i64) {
        let is_old = |member: &Member| {
            member.ended_at_us.is_some_and(|at_us| at_us < now_us - ENDED_KEPT_US)
        };
        while self.ended.len() > ENDED_MAX || self.ended.front().is_some_and(is_old) {
            self.ended.pop_front();
        }
    }

    /// Changes with each change of a claim.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Onsets without room.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// All claims, those that have ended first.
    pub fn all(&self) -> impl Iterator<Item = &Member> {
        self.ended.iter().chain(self.open.values())
    }

    /// The claims as bytes.
    pub fn written(&self) -> Vec<u8> {
        let mut bytes = vec![FORM];
        ((self.ended.len() + self.open.len()) as u32).write(&mut bytes);
        self.all().for_each(|member| member.write(&mut bytes));
        bytes
    }
}

/// Reads what [`Claims::written`] has written. None for bytes of another form, and for damaged ones.
pub fn read(mut bytes: &[u8]) -> Option<Vec<Member>> {
    if u8::read(&mut bytes)? != FORM {
        return None;
    }
    let claims = Vec::<Member>::read(&mut bytes)?;
    let is_whole = bytes.is_empty() && claims.len() <= OPEN_MEMBERS_MAX + ENDED_MAX;
    let is_claim = |claim: &Member| match claim.kind {
        Kind::Deviation => claim.series.is_some(),
        Kind::Silence => claim.device.is_some() && claim.series.is_none(),
        Kind::Reception => claim.device.is_none() && claim.series.is_none(),
    };
    (is_whole && claims.iter().all(is_claim)).then_some(claims)
}
