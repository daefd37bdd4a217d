//! The claims of all replicas, and the book that follows from them.
//!
//! The order in which replicas state their claims does not matter: [`Joined::settle`] looks at all of them, in the order
//! of their onsets. A subject is wrong while a claim about it holds:
//!
//! - a deviation, until the replica that claims it ends it, or another one that has heard the device for some time
//!   since does not claim it;
//! - a silence, while no replica has heard the device for as long as it was silent when that was noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::heard::{Heard, Replica};
use crate::book::Book;
use crate::event::{Event, Subject};
use crate::incident::{Kind, Member};

/// Stands for the replica of a claim that was found in the book and that no replica states.
pub const NOBODY: Replica = u64::MAX;
/// For how long claims about a device that was deleted are not listened to: by then each replica has ended them.
const FORGOTTEN_FOR_US: i64 = 60_000_000;
/// Replicas whose ended claims are known; those of the longest ago make room.
pub const REPLICAS_MAX: usize = 1_024;

/// How long what is not heard counts, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinSettings {
    /// A device that another replica has heard for so long has moved there.
    pub moved_us: i64,
    /// A device that nobody has heard for so long is gone.
    pub idle_us: i64,
}

/// What one replica states about a subject.
#[derive(Clone, Debug)]
struct Stated {
    replica: Replica,
    claim: Member,
    /// Since when its replica states it no more, because that has ended.
    alone_since_us: Option<i64>,
}

/// Whether a claim holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holds {
    No,
    /// Its device is gone.
    Gone,
    /// As before: it is not known when its device was heard.
    AsBefore,
    Yes,
}

/// The claims, and the book.
#[derive(Clone, Debug)]
pub struct Joined {
    settings: JoinSettings,
    book: Book,
    stated: BTreeMap<Subject, Vec<Stated>>,
    /// Subjects that are wrong by the book, and the largest score that it was told.
    settled: BTreeMap<Subject, f64>,
    /// Deviations that began and ended between two statements.
    brief: Vec<Member>,
    /// Subjects that ended because their device is gone.
    gone: BTreeSet<Subject>,
    /// Until when the ended claims of a replica were seen.
    seen: BTreeMap<Replica, i64>,
    forgotten: Vec<(Arc<str>, i64)>,
    heard: Heard,
    /// Where the next devices to ask about are.
    asked: Option<Option<Arc<str>>>,
}

impl Joined {
    /// Goes on with a book at `now_us`. What is wrong in it is wrong until it is known to be well. `seen`: until when
    /// the ended claims of replicas are in it.
    pub fn new(settings: JoinSettings, book: Book, seen: Vec<(Replica, i64)>, now_us: i64) -> Self {
        let (mut stated, mut settled) = (BTreeMap::new(), BTreeMap::new());
        for claim in book.wrong() {
            let subject = claim.subject();
            settled.insert(subject.clone(), claim.score);
            let alone = Stated { replica: NOBODY, claim, alone_since_us: Some(now_us) };
            stated.insert(subject, vec![alone]);
        }
        Self {
            settings,
            book,
            stated,
            settled,
            brief: Vec::new(),
            gone: BTreeSet::new(),
            seen: seen.into_iter().collect(),
            forgotten: Vec::new(),
            heard: Heard::default(),
            asked: None,
        }
    }

    /// The book, as of the last [`Joined::settle`].
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// For what operators do.
    pub fn book_mut(&mut self) -> &mut Book {
        &mut self.book
    }

    /// Until when the ended claims of each replica were seen.
    pub fn seen(&self) -> impl Iterator<Item = (Replica, i64)> {
        self.seen.iter().map(|(replica, at_us)| (*replica, *at_us))
    }

    /// True while nobody claims anything.
    pub fn is_quiet(&self) -> bool {
        self.stated.is_empty() && self.brief.is_empty()
    }

    /// When replicas heard devices.
    pub fn heard_mut(&mut self) -> &mut Heard {
        &mut self.heard
    }

    /// Takes all claims of a replica, in place of those before.
    pub fn state(&mut self, replica: Replica, claims: Vec<Member>) {
        let before = self.take(replica);
        let seen_us = self.seen.get(&replica).copied().unwrap_or(i64::MIN);
        let mut last_us = seen_us;
        for claim in claims {
            let subject = claim.subject();
            if self.is_forgotten(&claim) {
                continue;
            }
            let Some(ended_us) = claim.ended_at_us else {
                // It says by itself what was found in the book.
                let stated = self.stated.entry(subject).or_default();
                stated.retain(|one| one.replica != NOBODY);
                stated.push(Stated { replica, claim, alone_since_us: None });
                continue;
            };
            last_us = last_us.max(ended_us);
            if ended_us <= seen_us {
                continue;
            }
            if claim.is_gone {
                self.gone.insert(subject.clone());
            }
            self.end_of_nobodys(&subject);
            let was_stated = before.get(&subject) == Some(&claim.started_at_us);
            if !was_stated && claim.kind == Kind::Deviation {
                self.brief.push(claim);
            }
        }
        self.stated.retain(|_, stated| !stated.is_empty());
        self.seen.insert(replica, last_us);
        while self.seen.len() > REPLICAS_MAX {
            let oldest = self.seen.iter().min_by_key(|(_, at_us)| **at_us);
            let oldest = *oldest.expect("there are some").0;
            self.seen.remove(&oldest);
        }
    }

    /// Removes what a replica states. Returns when each of it began.
    fn take(&mut self, replica: Replica) -> BTreeMap<Subject, i64> {
        let mut before = BTreeMap::new();
        for (subject, stated) in &mut self.stated {
            for one in stated.extract_if(.., |one| one.replica == replica) {
                before.insert(subject.clone(), one.claim.started_at_us);
            }
        }
        before
    }

    /// A replica has ended what the book has.
    fn end_of_nobodys(&mut self, subject: &Subject) {
        if let Some(stated) = self.stated.get_mut(subject) {
            stated.retain(|one| one.replica != NOBODY);
        }
    }

    fn is_forgotten(&self, claim: &Member) -> bool {
        let is_of = |(device, at_us): &(Arc<str>, i64)| {
            claim.device.as_ref() == Some(device) && claim.started_at_us <= *at_us
        };
        self.forgotten.iter().any(is_of)
    }

    /// A replica has ended: what it stated is wrong until it is known to be well.
    pub fn leave(&mut self, replica: Replica, now_us: i64) {
        let all = self.stated.values_mut().flatten();
        for one in all.filter(|one| one.replica == replica) {
            one.alone_since_us.get_or_insert(now_us);
        }
    }

    /// Replicas that state something, but for those that have left.
    pub fn replicas(&self) -> BTreeSet<Replica> {
        let all = self.stated.values().flatten();
        all.filter(|one| one.alone_since_us.is_none()).map(|one| one.replica).collect()
    }

    /// A device was deleted: what was wrong with it is over.
    pub fn forget(&mut self, device: &Arc<str>, now_us: i64) {
        let of_device = |subject: &Subject| subject.0.as_ref() == Some(device);
        self.stated.retain(|subject, _| !of_device(subject));
        self.settled.retain(|subject, _| !of_device(subject));
        self.brief.retain(|claim| claim.device.as_ref() != Some(device));
        self.forgotten.retain(|(one, at_us)| one != device && *at_us > now_us - FORGOTTEN_FOR_US);
        self.forgotten.push((device.clone(), now_us));
        self.book.apply(&Event::Gone { device: device.clone(), at_us: now_us });
    }

    /// At most `limit` devices of which it matters when they were heard, those of all subjects in turn.
    pub fn to_ask(&mut self, limit: usize) -> Vec<Option<Arc<str>>> {
        let is_asked = |(subject, stated): &(&Subject, &Vec<Stated>)| {
            subject.0.is_some() || stated.iter().any(|one| one.claim.kind != Kind::Deviation)
        };
        let devices: BTreeSet<Option<Arc<str>>> =
            self.stated.iter().filter(is_asked).map(|(subject, _)| subject.0.clone()).collect();
        self.heard.retain(|device| devices.contains(device));
        let is_later = |device: &&Option<Arc<str>>| Some(*device) > self.asked.as_ref();
        let unknown = devices.iter().filter(|device| self.heard.last_us(device).is_none());
        let known = devices.iter().filter(|device| self.heard.last_us(device).is_some());
        let (later, sooner): (Vec<_>, Vec<_>) = known.partition(is_later);
        let chosen: Vec<_> = unknown.chain(later).chain(sooner).take(limit).cloned().collect();
        self.asked = chosen.last().cloned();
        chosen
    }

    /// Brings the book to what the claims say at `now_us`. `own`: without the others. Then what this replica states
    /// holds, and all else is as before.
    pub fn settle(&mut self, now_us: i64, own: Option<Replica>) {
        self.book.tick(now_us);
        let mut begun: Vec<Member> = std::mem::take(&mut self.brief);
        begun.retain(|claim| !self.settled.contains_key(&claim.subject()));
        let mut ended = BTreeMap::new();
        ended.extend(begun.iter().map(|claim| (claim.subject(), claim.is_gone)));
        for (subject, stated) in &self.stated {
            let known = self.settled.get(subject);
            match self.best(stated, now_us, own) {
                Ok(best) => {
                    ended.remove(subject);
                    if known.is_none_or(|score| *score < best.score) {
                        begun.push(best);
                    }
                }
                Err(Holds::AsBefore) => {}
                Err(how) if known.is_some() => {
                    let is_gone = how == Holds::Gone || self.gone.contains(subject);
                    ended.insert(subject.clone(), is_gone);
                }
                Err(_) => {}
            }
        }
        for subject in self.settled.keys().filter(|one| !self.stated.contains_key(*one)) {
            ended.insert(subject.clone(), self.gone.contains(subject));
        }
        self.gone.clear();
        self.apply(begun, ended);
        self.forget_ended();
    }

    fn apply(&mut self, mut begun: Vec<Member>, ended: BTreeMap<Subject, bool>) {
        begun.sort_by(|one, other| {
            let place = |claim: &Member| (claim.started_at_us, claim.subject());
            place(one).cmp(&place(other))
        });
        for claim in begun {
            self.settled.insert(claim.subject(), claim.score);
            self.book.begin(Member { ended_at_us: None, is_gone: false, ..claim });
        }
        for (subject, is_gone) in ended {
            self.settled.remove(&subject);
            self.book.end(&subject, is_gone);
        }
    }

    /// Claims of replicas that have left, and whose subject is well, are no more.
    fn forget_ended(&mut self) {
        let settled = &self.settled;
        self.stated.retain(|subject, stated| {
            if !settled.contains_key(subject) {
                stated.retain(|one| one.alone_since_us.is_none());
            }
            !stated.is_empty()
        });
    }

    /// What the claims that hold say together: the first onset, with the largest score. Err: none holds.
    fn best(&self, stated: &[Stated], now_us: i64, own: Option<Replica>) -> Result<Member, Holds> {
        let mut best: Option<Member> = None;
        let mut most = Holds::No;
        for one in stated {
            let holds = self.holds(one, stated, now_us, own);
            most = most.max(holds);
            if holds != Holds::Yes {
                continue;
            }
            let claim = one.claim.clone();
            best = Some(match best {
                None => claim,
                Some(best) => {
                    let started_at_us = best.started_at_us.min(claim.started_at_us);
                    // Equal scores of two replicas: the later one by its value, so that the order does not matter.
                    let rank = |one: &Member| (one.score, one.value);
                    let worse = if rank(&claim) > rank(&best) { claim } else { best };
                    Member { started_at_us, ..worse }
                }
            });
        }
        best.ok_or(most)
    }

    fn holds(&self, one: &Stated, others: &[Stated], now_us: i64, own: Option<Replica>) -> Holds {
        if let Some(own) = own {
            return if one.replica == own { Holds::Yes } else { Holds::AsBefore };
        }
        let device = &one.claim.device;
        let last_us = self.heard.last_us(device);
        match one.claim.kind {
            Kind::Silence | Kind::Reception => match last_us {
                None => Holds::AsBefore,
                Some(last_us) if now_us - last_us > self.settings.idle_us => Holds::Gone,
                Some(last_us) if is_heard(one, now_us, last_us) => Holds::No,
                Some(_) => Holds::Yes,
            },
            Kind::Deviation => {
                let Some([own_us, other_us]) = self.heard.by(device, one.replica) else {
                    return Holds::Yes;
                };
                // Redis does not know: it has lost its data. A replica that lives will say it again.
                let unknown_us = one.alone_since_us.unwrap_or(i64::MAX);
                let own_us = if own_us == i64::MIN { unknown_us } else { own_us };
                let is_claimed = others
                    .iter()
                    .any(|other| other.replica != one.replica && other.alone_since_us.is_none());
                let has_moved = other_us > own_us.saturating_add(self.settings.moved_us);
                let is_alone = one.alone_since_us.is_some();
                match last_us {
                    _ if has_moved && !is_claimed => Holds::No,
                    Some(last_us) if is_alone && now_us - last_us > self.settings.idle_us => {
                        Holds::Gone
                    }
                    _ => Holds::Yes,
                }
            }
        }
    }
}

/// Whether a device that was silent, when that was noticed, is heard again.
fn is_heard(one: &Stated, now_us: i64, last_us: i64) -> bool {
    let silent_us = one.claim.value * 1e6;
    match one.alone_since_us {
        // Of the book, which did not keep for how long.
        Some(since_us) if silent_us <= 0.0 => last_us > since_us,
        _ => ((now_us - last_us) as f64) < silent_us,
    }
}

#[cfg(test)]
mod tests;
