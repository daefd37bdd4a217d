//! `/incidents` and `/silences`: what readers ask the thread `incidents`.

use super::errors::{ApiError, answered};
use super::query::Query;
use crate::answers::{incidents as json, incidents_page as html};
use crate::dashboard::page;
use crate::http::message::Response;
use crate::incidents::asker::IncidentsAsker;
use sigmad_clock::Now;
use sigmad_incidents::incident::{IncidentId, State};
use sigmad_incidents::list::ListQuery;

/// `GET /incidents`
pub(super) fn list(
    query: &Query<'_>,
    incidents: &IncidentsAsker,
    now: Now,
) -> Result<Vec<u8>, ApiError<'static>> {
    query.scope_of_incidents()?;
    let asked = ListQuery {
        state: query.state()?,
        severity: query.severity()?,
        device: query.device()?.map(Into::into),
        since_us: Some(query.since_us()?).filter(|since_us| *since_us != i64::MIN),
        after: query.after()?,
        limit: query.limit()?,
    };
    Ok(json::incidents(&answered(incidents.list(asked))?, now))
}

/// `GET /incidents.html`
pub(super) fn table(
    query: &Query<'_>,
    incidents: &IncidentsAsker,
    now: Now,
) -> Result<Response, ApiError<'static>> {
    query.scope_of_incidents()?;
    let mut found = Vec::new();
    for state in State::ALL {
        let limit = match state {
            State::Resolved => html::RESOLVED_SHOWN_MAX,
            State::Open | State::Acknowledged | State::Silenced => html::UNRESOLVED_SHOWN_MAX,
        };
        let asked = ListQuery { state: Some(state), limit, ..ListQuery::default() };
        found.extend(answered(incidents.list(asked))?.incidents);
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
    incidents: &IncidentsAsker,
) -> Result<Vec<u8>, ApiError<'static>> {
    query.scope_of_incidents()?;
    let id: IncidentId = id.parse().map_err(|_| ApiError::Missing("incident"))?;
    let found = answered(incidents.get(id))?.ok_or(ApiError::Missing("incident"))?;
    Ok(json::incident(&found))
}

/// `GET /silences`
pub(super) fn silences(
    query: &Query<'_>,
    incidents: &IncidentsAsker,
    now: Now,
) -> Result<Vec<u8>, ApiError<'static>> {
    query.scope_of_incidents()?;
    Ok(json::silences(&answered(incidents.silences())?, now))
}
