//! Incidents, moments and targets for tests.

pub(crate) mod receiver;

use std::sync::Arc;

use sigmad_clock::Now;
use sigmad_incidents::incident::{Incident, IncidentId, Kind, Member, Severity, State};

/// 2024-12-25 04:13:20 UTC.
const EPOCH_US: i64 = 1_735_100_000_000_000;

/// So many seconds after the start of the process.
pub(crate) fn at_s(second: u64) -> Now {
    Now { monotonic_ns: second * 1_000_000_000, wall_us: EPOCH_US + second as i64 * 1_000_000 }
}

/// An open warning of one member, which opens with the process.
pub(crate) fn incident(number: u32) -> Incident {
    let member = Member {
        kind: Kind::Deviation,
        device: Some(Arc::from("ams-2-edge-05")),
        series: Some(Arc::from("rps")),
        started_at_us: EPOCH_US,
        ended_at_us: None,
        is_gone: false,
        score: 1.5,
        value: 512.0,
        usual: 100.0,
        low: 90.0,
        high: 110.0,
    };
    Incident {
        id: IncidentId::new(EPOCH_US, 0, number),
        kind: Kind::Deviation,
        state: State::Open,
        severity: Severity::Warning,
        score: 1.5,
        started_at_us: EPOCH_US,
        opened_at_us: EPOCH_US,
        updated_at_us: EPOCH_US,
        resolved_at_us: None,
        members: vec![member],
        member_count: 1,
        open_count: 1,
        device_count: 1,
        suspect: 0,
        site: Some(Arc::from("ams-2")),
        title: "ams-2-edge-05 rps".to_owned(),
        because: "the only one".to_owned(),
        ack: None,
        merged_into: None,
        revision: u64::from(number),
    }
}

/// The same incident in another state.
pub(crate) fn with_state(mut incident: Incident, state: State, now: Now) -> Incident {
    incident.state = state;
    incident.updated_at_us = now.wall_us;
    incident.resolved_at_us = (state == State::Resolved).then_some(now.wall_us);
    incident
}

/// The same incident with the other severity.
pub(crate) fn critical(mut incident: Incident) -> Incident {
    incident.severity = Severity::Critical;
    incident.score = 2.5;
    incident
}
