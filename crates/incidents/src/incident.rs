//! One incident, as the page, the notifiers and `GET /incidents` show it.
//!
//! Times are microseconds since 1970.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::event::Subject;

/// Members that an incident keeps; further ones are counted.
pub const MEMBERS_KEPT_MAX: usize = 100;

/// Identifies an incident, also after a restart. Ids sort by the time of opening.
///
/// Printed as a ULID: 26 digits of Crockford's base 32, of which the first ten are the milliseconds of its opening.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IncidentId(pub(crate) u128);

/// Digits of a printed id: 128 bits by five.
const ID_DIGITS: usize = 26;
/// Crockford's base 32: without I, L, O and U.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl IncidentId {
    /// The id of an incident that was opened at `opened_at_us`. `first`: a hash of its first member's names;
    /// `counter`: tells those apart that one process opens.
    pub const fn new(opened_at_us: i64, first: u64, counter: u32) -> Self {
        let ms = opened_at_us.div_euclid(1_000) as u64 & 0xffff_ffff_ffff;
        let first = first & 0xffff_ffff_ffff;
        Self((ms as u128) << 80 | (first as u128) << 32 | counter as u128)
    }

    /// The milliseconds since 1970 of its opening.
    pub const fn opened_at_ms(self) -> i64 {
        (self.0 >> 80) as i64
    }
}

impl fmt::Display for IncidentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; ID_DIGITS];
        for (place, digit) in digits.iter_mut().rev().enumerate() {
            *digit = DIGITS[(self.0 >> (5 * place)) as usize & 31];
        }
        f.write_str(str::from_utf8(&digits).expect("digits are ASCII"))
    }
}

/// Not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdError;

impl FromStr for IncidentId {
    type Err = IdError;

    /// Reads capitals only: an incident has one name.
    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() != ID_DIGITS || text.as_bytes()[0] > b'7' {
            return Err(IdError);
        }
        let value = text.bytes().try_fold(0, |value: u128, byte| {
            let digit = DIGITS.iter().position(|digit| *digit == byte).ok_or(IdError)?;
            Ok(value << 5 | digit as u128)
        })?;
        Ok(Self(value))
    }
}

/// What is wrong with a member, and with an incident whose first member it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A stream left its usual course.
    Deviation,
    /// A device is silent.
    Silence,
    /// Nothing was received from anyone.
    Reception,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Deviation, Self::Silence, Self::Reception];

    /// Its name in JSON and in the metric label `kind`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deviation => "deviation",
            Self::Silence => "silence",
            Self::Reception => "reception",
        }
    }
}

/// Where an incident is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Something is wrong, and nobody has said that they know.
    Open,
    /// Something is wrong, and somebody knows.
    Acknowledged,
    /// A silence of an operator covers each member that is wrong: it is kept, and nobody is told.
    Silenced,
    /// Each member is well again, or gone.
    Resolved,
}

impl State {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Open, Self::Acknowledged, Self::Silenced, Self::Resolved];

    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Acknowledged => "acknowledged",
            Self::Silenced => "silenced",
            Self::Resolved => "resolved",
        }
    }
}

/// How bad it is: how rarely a stream that is well would look like this, and how many devices are concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// A score from 1: at most one false alarm in ten days of a stream.
    #[default]
    Warning,
    /// A score from 2: at most one false alarm in a hundred days of a stream. Or [`Severity::DEVICES`] devices, or no reception.
    Critical,
}

impl Severity {
    /// Both severities.
    pub const ALL: [Self; 2] = [Self::Warning, Self::Critical];
    /// The score from which an incident is critical.
    pub const CRITICAL_SCORE: f64 = 2.0;
    /// An incident of so many devices is critical, whatever is wrong with each. It is what makes a group of devices
    /// ([`GROUP_DEVICES_MIN`](crate::grouping::GROUP_DEVICES_MIN)). That so many began together by chance, each with one false alarm in ten days,
    /// is far rarer than one in a hundred days.
    pub const DEVICES: usize = 3;

    /// The severity of a score.
    pub fn of(score: f64) -> Self {
        if score >= Self::CRITICAL_SCORE { Self::Critical } else { Self::Warning }
    }

    /// The severity of an incident with that member alone. A silent device is a warning: it may have been switched off.
    pub fn of_member(member: &Member) -> Self {
        match member.kind {
            Kind::Deviation => Self::of(member.score),
            Kind::Silence => Self::Warning,
            Kind::Reception => Self::Critical,
        }
    }

    /// The least severity of an incident of so many devices.
    pub fn of_devices(devices: usize) -> Self {
        if devices >= Self::DEVICES { Self::Critical } else { Self::Warning }
    }

    /// Its name in JSON and in the metric label `severity`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// One stream or one device of an incident.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// What is wrong with it.
    pub kind: Kind,
    /// None for the fleet.
    pub device: Option<Arc<str>>,
    /// None for a silent device, and for reception.
    pub series: Option<Arc<str>>,
    /// Arrival of the first value that was wrong, or of the last sample before a silence.
    pub started_at_us: i64,
    /// When it was well again, or gone.
    pub ended_at_us: Option<i64>,
    /// It ended because its device is gone: silent for longer than `--stream-idle`, or deleted.
    pub is_gone: bool,
    /// The largest one so far: −log10 of the false alarms a day that this bar would cost one stream.
    pub score: f64,
    /// The value with the largest score. Of a silence: seconds without a sample when it was noticed.
    pub value: f64,
    /// What was expected. Of a silence: the usual seconds between samples.
    pub usual: f64,
    /// Lower end of the usual band. Of a silence: 0.
    pub low: f64,
    /// Upper end of the usual band. Of a silence: as `usual`.
    pub high: f64,
}

impl Member {
    /// What it is about.
    pub fn subject(&self) -> Subject {
        (self.device.clone(), self.series.clone())
    }

    /// Members are in order of onset; those of one moment, as of one request, in order of surprise.
    pub(crate) fn in_order(&self, other: &Self) -> Ordering {
        let by_onset = self.started_at_us.cmp(&other.started_at_us);
        by_onset.then_with(|| other.score.total_cmp(&self.score))
    }
}

/// Somebody knows of an incident.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// When it was acknowledged.
    pub at_us: i64,
    /// By whom, as they call themselves.
    pub by: Option<Arc<str>>,
    /// What they say.
    pub comment: Option<Arc<str>>,
}

/// One cause, as far as sigmad can tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Incident {
    /// Identifies it.
    pub id: IncidentId,
    /// That of the first suspect.
    pub kind: Kind,
    /// Where it is in its life.
    pub state: State,
    /// The worst so far.
    pub severity: Severity,
    /// The largest score of a member so far.
    pub score: f64,
    /// When the first member began.
    pub started_at_us: i64,
    /// When the first event arrived.
    pub opened_at_us: i64,
    /// When it last changed.
    pub updated_at_us: i64,
    /// When the last member was well again.
    pub resolved_at_us: Option<i64>,
    /// The first [`MEMBERS_KEPT_MAX`], in order of onset; those of one moment in order of their scores.
    pub members: Vec<Member>,
    /// All members, also those that are not kept.
    pub member_count: usize,
    /// Those of [`Incident::member_count`] that are wrong now.
    pub open_count: usize,
    /// Devices of the members.
    pub device_count: usize,
    /// The place of the first suspect among [`Incident::members`].
    pub suspect: usize,
    /// The name token that the devices share.
    pub site: Option<Arc<str>>,
    /// One line: "12 of 14 devices of ams-2 within 9 s, first ams-2-edge-05 rps".
    pub title: String,
    /// Why the members are one incident.
    pub because: String,
    /// Set by an operator.
    pub ack: Option<Ack>,
    /// The incident that its members went to, when both turned out to be one. It is resolved then.
    pub merged_into: Option<IncidentId>,
    /// The number of its last change, over all incidents of the book.
    pub revision: u64,
}

impl Incident {
    /// The member that is most likely the cause.
    pub fn suspect(&self) -> &Member {
        &self.members[self.suspect]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_as_ulids_and_sort_by_opening() {
        let id = IncidentId::new(1_735_100_000_123_456, u64::MAX, 7);
        assert_eq!(id.opened_at_ms(), 1_735_100_000_123);
        assert_eq!(id.to_string(), "01JFY09SVVZZZZZZZZZW000007");
        assert_eq!(id.to_string().parse(), Ok(id));
        let later = IncidentId::new(1_735_100_000_124_000, 0, 0);
        assert!(id < later && id.to_string() < later.to_string());
        for text in [
            "",
            "01JFY09SVVZZZZZZZZZW00000",
            "01JFY09SVVZZZZZZZZZW00000u",
            "81JFY049WVZZZZZZZZZW000007",
        ] {
            assert_eq!(text.parse::<IncidentId>(), Err(IdError), "{text}");
        }
    }

    #[test]
    fn severity_follows_the_score() {
        assert_eq!(
            [1.0, 1.99, 2.0, 9.0].map(Severity::of),
            [Severity::Warning, Severity::Warning, Severity::Critical, Severity::Critical]
        );
        assert_eq!([0, 2, 3].map(Severity::of_devices), [1.0, 1.0, 2.0].map(Severity::of));
    }
}
