//! Incidents and silences as bytes: on the disk, and between replicas.
//!
//! Whoever keeps or sends such bytes puts [`VERSION`] before them: fields have no names.

pub use sigmad_detectors::saved::{Saved, saved};

use crate::cluster::Cluster;
use crate::grouping::{GROUP_TOKENS_MAX, GroupTokens, Link};
use crate::incident::{Ack, Incident, IncidentId, Kind, MEMBERS_KEPT_MAX, Member, Severity, State};
use crate::rate::Rate;
use crate::rules::SilenceRule;
use crate::together::{PLACES, Together};

/// The version of all forms here. Raised when a field comes, goes, or means something else.
pub const VERSION: u16 = 1;

saved!(enum Kind { 0 => Deviation, 1 => Silence, 2 => Reception });
saved!(enum State { 0 => Open, 1 => Acknowledged, 2 => Silenced, 3 => Resolved });
saved!(enum Severity { 0 => Warning, 1 => Critical });
saved!(enum Link { 0 => SameDevice, 1 => Token(token), 2 => Together(times), 3 => Storm(at_once) });

impl Saved for IncidentId {
    fn write(&self, to: &mut Vec<u8>) {
        ((self.0 >> 64) as u64).write(to);
        (self.0 as u64).write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let high = u128::from(u64::read(from)?);
        Some(Self(high << 64 | u128::from(u64::read(from)?)))
    }
}

saved!(Member {
    kind,
    device,
    series,
    started_at_us,
    ended_at_us,
    is_gone,
    score,
    value,
    usual,
    low,
    high,
});

saved!(Ack { at_us, by, comment });

saved!(Incident {
    id,
    kind,
    state,
    severity,
    score,
    started_at_us,
    opened_at_us,
    updated_at_us,
    resolved_at_us,
    members,
    member_count,
    open_count,
    device_count,
    suspect,
    site,
    title,
    because,
    ack,
    merged_into,
    revision,
} if |it| it.suspect < it.members.len() && it.members.len() <= MEMBERS_KEPT_MAX);

saved!(SilenceRule { id, device, series, starts_at_us, ends_at_us, created_by, comment });

saved!(GroupTokens { counts, devices } if |it| it.counts.len() <= GROUP_TOKENS_MAX);
saved!(Cluster { incident, tokens, last_start_us, link }
    if |it| it.incident.open_count > 0 && it.incident.open_count <= it.incident.member_count);
saved!(Rate { opened, at_us, first_us });

/// The places that are taken, each with its number: most are not.
impl Saved for Together {
    fn write(&self, to: &mut Vec<u8>) {
        let taken = self.places.iter().enumerate().filter(|(_, (_, count))| *count > 0);
        let taken: Vec<_> = taken.map(|(number, place)| (number as u16, *place)).collect();
        taken.write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let taken = Vec::<(u16, (u32, u32))>::read(from)?;
        let mut places = vec![(0, 0); if taken.is_empty() { 0 } else { PLACES }];
        for (number, place) in taken {
            *places.get_mut(usize::from(number))? = place;
        }
        Some(Self { places })
    }
}

const _: () = assert!(PLACES <= 1 << 16);
