//! `/incidents` and `/silences`: what readers ask of the cluster's book, or of this replica's.

use super::errors::{ApiError, answered};
use super::query::Query;
use crate::answers::{incidents as json, incidents_page as html};
use crate::dashboard::page;
use crate::http::message::Response;
use crate::incidents::shared::Incidents;
use sigmad_clock::Now;
use sigmad_incidents::incident::{IncidentId, State};
use sigmad_incidents::list::ListQuery;

/// `GET /incidents`
pub(super) fn list(
    query: &Query<'_>,
    incidents: &Incidents,
    now: Now,
) -> Result<Vec<u8>, ApiError<'static>> {
    let is_local = query.is_local()?;
    let asked = ListQuery {
        state: query.state()?,
        severity: query.severity()?,
        device: query.device()?.map(Into::into),
        since_us: Some(query.since_us()?).filter(|since_us| *since_us != i64::MIN),
        after: query.after()?,
        limit: query.limit()?,
    };
    let (page, scope) = answered(incidents.list(asked, is_local))?;
    Ok(json::incidents(&page, scope, now))
}

/// `GET /incidents.html`
pub(super) fn table(
    query: &Query<'_>,
    incidents: &Incidents,
    now: Now,
) -> Result<Response, ApiError<'static>> {
    let is_local = query.is_local()?;
    let mut found = Vec::new();
    for state in State::ALL {
        let limit = match state {
            State::Resolved => html::RESOLVED_SHOWN_MAX,
            State::Open | State::Acknowledged | State::Silenced => html::UNRESOLVED_SHOWN_MAX,
        };
        let asked = ListQuery { state: Some(state), limit, ..ListQuery::default() };
        found.extend(answered(incidents.list(asked, is_local))?.0.incidents);
    }
    Ok(Response {
        status: 200,
        content_type: "text/html; charset=utf-8",
        fields: page::answer_fields(),
        body: html::page(&found, now),
    })
}

/// `GET /incidents/ID`
pub(super) fn one(
    id: &str,
    query: &Query<'_>,
    incidents: &Incidents,
) -> Result<Vec<u8>, ApiError<'static>> {
    let is_local = query.is_local()?;
    let id: IncidentId = id.parse().map_err(|_| ApiError::Missing("incident"))?;
    let found = answered(incidents.get(id, is_local))?.ok_or(ApiError::Missing("incident"))?;
    Ok(json::incident(&found))
}

/// `GET /silences`
pub(super) fn silences(
    query: &Query<'_>,
    incidents: &Incidents,
    now: Now,
) -> Result<Vec<u8>, ApiError<'static>> {
    let is_local = query.is_local()?;
    let (rules, scope) = answered(incidents.silences(is_local))?;
    Ok(json::silences(&rules, scope, now))
}
