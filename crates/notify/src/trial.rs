//! `sigmad notify-test`: one marked notification to each target.

use std::io::{self, Write};
use std::sync::Arc;

use sigmad_clock::Now;
use sigmad_incidents::incident::{Incident, IncidentId, Kind, Member, Severity, State};

use crate::alerts::Alerts;
use crate::client::{self, TIMEOUT};
use crate::message::{self, Change, Circumstances, Request};
use crate::retry::Outcome;
use crate::settings::NotifySettings;
use crate::target::{Target, TargetKind};

/// Tells each target, and prints what it answered. `replica` and `external_url` name this machine. Returns whether
/// each target has taken its notification.
///
/// # Errors
/// When `out` can't be written.
pub fn run(
    settings: &NotifySettings,
    replica: &str,
    external_url: &str,
    now: Now,
    out: &mut dyn Write,
) -> io::Result<bool> {
    let of = Circumstances { external_url, is_test: true };
    let incident = Arc::new(test_incident(replica, now));
    let mut is_each_told = true;
    for target in settings.targets() {
        let name = target.name();
        match client::post(&target, &request(&target, &incident, now, of), TIMEOUT) {
            Ok(answer) => {
                let is_told = Outcome::of(answer.status, None) == Outcome::Delivered;
                is_each_told &= is_told;
                let word = if is_told { "ok" } else { "failed" };
                let text = answer.text.lines().next().unwrap_or_default();
                writeln!(
                    out,
                    "{}",
                    format!("{name}: {word}, {} {text}", answer.status).trim_end()
                )?;
            }
            Err(error) => {
                is_each_told = false;
                writeln!(out, "{name}: failed, {error}")?;
            }
        }
    }
    Ok(is_each_told)
}

fn request(target: &Target, incident: &Arc<Incident>, now: Now, of: Circumstances<'_>) -> Request {
    match target.kind {
        TargetKind::Alertmanager => {
            let mut alerts = Alerts::default();
            alerts.update(incident, now);
            alerts.next(now, of).expect("an alert is due at once")
        }
        TargetKind::Webhook(format) => {
            let topic = target.url.last_segment();
            message::request(incident, Change::Opened, format, topic, of)
        }
    }
}

/// An incident that no stream has.
fn test_incident(replica: &str, now: Now) -> Incident {
    let at_us = now.wall_us;
    let member = Member {
        kind: Kind::Deviation,
        device: Some(Arc::from("sigmad-notify-test")),
        series: Some(Arc::from("test")),
        started_at_us: at_us,
        ended_at_us: None,
        is_gone: false,
        score: 1.0,
        value: 1.0,
        usual: 0.0,
        low: 0.0,
        high: 0.0,
    };
    Incident {
        id: IncidentId::new(at_us, 0, 0),
        kind: Kind::Deviation,
        state: State::Open,
        severity: Severity::Warning,
        score: 1.0,
        started_at_us: at_us,
        opened_at_us: at_us,
        updated_at_us: at_us,
        resolved_at_us: None,
        members: vec![member],
        member_count: 1,
        open_count: 1,
        device_count: 1,
        suspect: 0,
        site: None,
        title: format!("test notification from {replica}; nothing is wrong"),
        because: String::new(),
        ack: None,
        merged_into: None,
        revision: 1,
    }
}
