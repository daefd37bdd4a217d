//! `/incidents` and `/silences`.

use serde::Serialize;

use super::json::{Seconds, body};
use crate::cluster_scope::ClusterScope;
use sigmad_clock::Now;
use sigmad_incidents::incident::{Ack, Incident, IncidentId, Member};
use sigmad_incidents::list::ListPage;
use sigmad_incidents::rules::SilenceRule;
use sigmad_sample::number::Plain;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IncidentsJson<'a> {
    scope: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    degraded_since: Option<Seconds>,
    computed_at: i64,
    incidents: Vec<IncidentJson<'a>>,
    next: Option<String>,
}

/// One incident; `members` only where one is asked for.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IncidentJson<'a> {
    id: String,
    kind: &'static str,
    state: &'static str,
    severity: &'static str,
    score: f64,
    title: &'a str,
    because: &'a str,
    started_at: Seconds,
    opened_at: Seconds,
    updated_at: Seconds,
    resolved_at: Option<Seconds>,
    suspect: MemberJson<'a>,
    site: Option<&'a str>,
    member_count: usize,
    open_count: usize,
    device_count: usize,
    ack: Option<AckJson<'a>>,
    merged_into: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<Vec<MemberJson<'a>>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MemberJson<'a> {
    kind: &'static str,
    device: Option<&'a str>,
    series: Option<&'a str>,
    started_at: Seconds,
    ended_at: Option<Seconds>,
    is_gone: bool,
    score: f64,
    value: Plain,
    usual: f64,
    expected: RangeJson,
}

#[derive(Serialize)]
struct RangeJson {
    low: f64,
    high: f64,
}

#[derive(Serialize)]
struct AckJson<'a> {
    at: Seconds,
    by: Option<&'a str>,
    comment: Option<&'a str>,
}

impl<'a> From<&'a Member> for MemberJson<'a> {
    fn from(member: &'a Member) -> Self {
        Self {
            kind: member.kind.name(),
            device: member.device.as_deref(),
            series: member.series.as_deref(),
            started_at: Seconds(member.started_at_us),
            ended_at: member.ended_at_us.map(Seconds),
            is_gone: member.is_gone,
            score: member.score,
            value: Plain(member.value),
            usual: member.usual,
            expected: RangeJson { low: member.low, high: member.high },
        }
    }
}

impl<'a> IncidentJson<'a> {
    fn new(incident: &'a Incident, has_members: bool) -> Self {
        let ack = |ack: &'a Ack| AckJson {
            at: Seconds(ack.at_us),
            by: ack.by.as_deref(),
            comment: ack.comment.as_deref(),
        };
        Self {
            id: incident.id.to_string(),
            kind: incident.kind.name(),
            state: incident.state.name(),
            severity: incident.severity.name(),
            score: incident.score,
            title: &incident.title,
            because: &incident.because,
            started_at: Seconds(incident.started_at_us),
            opened_at: Seconds(incident.opened_at_us),
            updated_at: Seconds(incident.updated_at_us),
            resolved_at: incident.resolved_at_us.map(Seconds),
            suspect: incident.suspect().into(),
            site: incident.site.as_deref(),
            member_count: incident.member_count,
            open_count: incident.open_count,
            device_count: incident.device_count,
            ack: incident.ack.as_ref().map(ack),
            merged_into: incident.merged_into.as_ref().map(IncidentId::to_string),
            members: has_members.then(|| incident.members.iter().map(Into::into).collect()),
        }
    }
}

/// `/incidents`: without their members.
pub fn incidents(page: &ListPage, scope: ClusterScope, now: Now) -> Vec<u8> {
    body(&IncidentsJson {
        scope: scope.name(),
        degraded_since: scope.degraded_since_us.map(Seconds),
        computed_at: now.wall_s(),
        incidents: page.incidents.iter().map(|one| IncidentJson::new(one, false)).collect(),
        next: page.next.as_ref().map(IncidentId::to_string),
    })
}

/// `/incidents/ID`, and the answer of `/incidents/ID/ack`.
pub fn incident(incident: &Incident) -> Vec<u8> {
    body(&IncidentJson::new(incident, true))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SilenceJson<'a> {
    id: &'a str,
    device: Option<&'a str>,
    series: Option<&'a str>,
    starts_at: Seconds,
    ends_at: Seconds,
    is_active: bool,
    created_by: &'a str,
    comment: &'a str,
}

impl<'a> SilenceJson<'a> {
    fn new(rule: &'a SilenceRule, now: Now) -> Self {
        Self {
            id: &rule.id,
            device: rule.device.as_deref(),
            series: rule.series.as_deref(),
            starts_at: Seconds(rule.starts_at_us),
            ends_at: Seconds(rule.ends_at_us),
            is_active: rule.is_active(now.wall_us),
            created_by: &rule.created_by,
            comment: &rule.comment,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SilencesJson<'a> {
    scope: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    degraded_since: Option<Seconds>,
    silences: Vec<SilenceJson<'a>>,
    count: usize,
}

/// `/silences`
pub fn silences(rules: &[SilenceRule], scope: ClusterScope, now: Now) -> Vec<u8> {
    let silences = rules.iter().map(|rule| SilenceJson::new(rule, now)).collect();
    let degraded_since = scope.degraded_since_us.map(Seconds);
    body(&SilencesJson { scope: scope.name(), degraded_since, silences, count: rules.len() })
}

/// The answer of `POST /silences`.
pub fn silence(rule: &SilenceRule, now: Now) -> Vec<u8> {
    body(&SilenceJson::new(rule, now))
}
