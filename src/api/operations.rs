//! What operators do: acknowledge, silence, forget a device. A reader has it done by the cluster, or by this replica.

use std::borrow::Cow;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::JSON;
use super::actions::Operation;
use super::errors::{ApiError, answered};
use crate::answers::incidents as json;
use crate::decode::BodyError;
use crate::http::message::Response;
use crate::incidents::asker::NewSilence;
use crate::incidents::shared::{Incidents, NotDone};
use crate::registry::Registry;
use sigmad_clock::Now;
use sigmad_incidents::book::AckError;
use sigmad_incidents::incident::{Ack, IncidentId};
use sigmad_sample::timestamp;
use sigmad_sample::{METRIC_BYTES_MAX, NAME_BYTES_MAX, is_metric_name, is_name};

/// The parts of a request that its answer depends on.
pub(super) struct Asked<'a> {
    /// The part of the path, as sent.
    pub id: &'a str,
    pub body: &'a [u8],
    pub now: Now,
}

/// Does what the operator asks for.
pub(super) fn answer(
    operation: Operation,
    asked: Asked<'_>,
    incidents: &Incidents,
    registry: &Registry,
) -> Result<Response, ApiError<'static>> {
    let id = percent_decode_str(asked.id).decode_utf8().ok();
    let body = match operation {
        Operation::Acknowledge => acknowledge(id, &asked, incidents)?,
        Operation::AddSilence => {
            let silence = new_silence(&fields(asked.body)?, asked.now)?;
            let rule = done(incidents.add_silence(silence, asked.now.wall_us))?;
            json::silence(&rule.ok_or(ApiError::SilencesFull)?, asked.now)
        }
        Operation::EndSilence => {
            let is_known = match id {
                Some(id) => done(incidents.end_silence(&id))?,
                None => false,
            };
            is_known.then(Vec::new).ok_or(ApiError::Missing("silence"))?
        }
        Operation::ForgetDevice => {
            let id = id.filter(|id| registry.forget_device(id));
            let id = id.ok_or(ApiError::Missing("device"))?;
            done(incidents.forget(&id, asked.now.wall_us))?;
            Vec::new()
        }
    };
    let status = operation.success();
    Ok(Response { status, content_type: JSON, fields: Vec::new(), body })
}

/// What was done by all replicas, or by this one.
fn done<T>(report: Option<Result<T, NotDone>>) -> Result<T, ApiError<'static>> {
    answered(report)?.map_err(|NotDone| ApiError::NotDone)
}

fn acknowledge(
    id: Option<Cow<'_, str>>,
    asked: &Asked<'_>,
    incidents: &Incidents,
) -> Result<Vec<u8>, ApiError<'static>> {
    let missing = ApiError::Missing("incident");
    let id: IncidentId = id.and_then(|id| id.parse().ok()).ok_or(missing)?;
    let fields = if asked.body.is_empty() { Map::new() } else { fields(asked.body)? };
    let ack = Ack {
        at_us: asked.now.wall_us,
        by: text(&fields, "by", is_name)?,
        comment: text(&fields, "comment", is_metric_name)?,
    };
    match done(incidents.acknowledge(id, ack))? {
        Ok(incident) => Ok(json::incident(&incident)),
        Err(AckError::Unknown) => Err(missing),
        Err(AckError::Resolved) => Err(ApiError::Resolved),
    }
}

fn new_silence(fields: &Map<String, Value>, now: Now) -> Result<NewSilence, ApiError<'static>> {
    let device = text(fields, "device", is_name)?;
    let series = text(fields, "series", is_metric_name)?;
    if device.is_none() && series.is_none() {
        return Err(wrong("device", "a pattern, unless `series` is one; `*` is for all"));
    }
    let starts_at_us = time_us(fields, "startsAt")?.unwrap_or(now.wall_us);
    let end = time_us(fields, "endsAt")?.filter(|at_us| *at_us > starts_at_us.max(now.wall_us));
    let allowed = "a time after `startsAt`, and in the future";
    Ok(NewSilence {
        device,
        series,
        starts_at_us,
        ends_at_us: end.ok_or(wrong("endsAt", allowed))?,
        created_by: text(fields, "createdBy", is_name)?.unwrap_or_default(),
        comment: text(fields, "comment", is_metric_name)?.unwrap_or_default(),
    })
}

const fn wrong(name: &'static str, allowed: &'static str) -> ApiError<'static> {
    ApiError::Parameter { name, allowed }
}

fn fields(body: &[u8]) -> Result<Map<String, Value>, ApiError<'static>> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(ApiError::Body(BodyError::NotAnObject)),
        Err(error) => {
            let lines = body.split_inclusive(|byte| *byte == b'\n');
            let before: usize = lines.take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
            Err(ApiError::Body(BodyError::Malformed { offset: before + error.column() }))
        }
    }
}

/// A text that a check accepts; None when it is absent or null.
fn text(
    fields: &Map<String, Value>,
    name: &'static str,
    is_allowed: fn(&str) -> bool,
) -> Result<Option<Arc<str>>, ApiError<'static>> {
    const _: () = assert!(NAME_BYTES_MAX == 128 && METRIC_BYTES_MAX == 1_024);
    let allowed = match name {
        "series" | "comment" => "a text of 1 to 1024 bytes without control characters",
        _ => "a text of 1 to 128 bytes without control characters",
    };
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if is_allowed(text) => Ok(Some(text.as_str().into())),
        Some(_) => Err(wrong(name, allowed)),
    }
}

/// A time in any form of a sample's, in microseconds since 1970; None when it is absent or null.
fn time_us(
    fields: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<i64>, ApiError<'static>> {
    let allowed = "a time since 1970 in seconds, milliseconds, microseconds or nanoseconds, \
                   or as in RFC 3339";
    let stamp = match fields.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => match number.as_u64() {
            Some(number) => timestamp::from_integer(number).ok(),
            None => number.as_f64().and_then(|number| timestamp::from_float(number).ok()),
        },
        Some(Value::String(text)) => timestamp::from_text(text).and_then(Result::ok),
        Some(_) => None,
    };
    stamp.flatten().map(Some).ok_or(wrong(name, allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { monotonic_ns: 5, wall_us: 1_735_100_000_000_000 };

    fn silence(body: &str) -> Result<NewSilence, String> {
        let parsed = fields(body.as_bytes()).and_then(|fields| new_silence(&fields, NOW));
        parsed.map_err(|error| error.message().into_owned())
    }

    #[test]
    fn a_silence_has_a_pattern_and_an_end() {
        let body = r#"{"device":"ams-*","endsAt":"2024-12-25T05:13:20Z","createdBy":"ann","x":1}"#;
        let taken = silence(body).expect("valid");
        assert_eq!((taken.device.as_deref(), taken.series), (Some("ams-*"), None));
        assert_eq!(
            (taken.starts_at_us, taken.ends_at_us - NOW.wall_us),
            (NOW.wall_us, 3_600_000_000)
        );
        assert_eq!((&*taken.created_by, &*taken.comment), ("ann", ""));
        let later = r#"{"series":"rps","startsAt":1735100100,"endsAt":1735100200.5,"comment":"x"}"#;
        let taken = silence(later).expect("valid");
        assert_eq!(
            (taken.starts_at_us, taken.ends_at_us),
            (1_735_100_100_000_000, 1_735_100_200_500_000)
        );
    }

    #[test]
    fn errors_name_the_field() {
        for (body, part) in [
            (r#"{"endsAt":1735100200}"#, "`device`"),
            (r#"{"device":7,"endsAt":1735100200}"#, "`device`"),
            (r#"{"device":"","endsAt":1735100200}"#, "`device`"),
            (r#"{"series":"a\u0000","endsAt":1735100200}"#, "`series`"),
            (r#"{"device":"a"}"#, "`endsAt`"),
            (r#"{"device":"a","endsAt":1735100000}"#, "`endsAt`"),
            (r#"{"device":"a","endsAt":"soon"}"#, "`endsAt`"),
            (r#"{"device":"a","endsAt":[1]}"#, "`endsAt`"),
            (r#"{"device":"a","startsAt":1735100300,"endsAt":1735100200}"#, "`endsAt`"),
            (r#"{"device":"a","startsAt":true,"endsAt":1735100200}"#, "`startsAt`"),
            (r#"{"device":"a","endsAt":1735100200,"createdBy":""}"#, "`createdBy`"),
            (r#"{"device":"a","endsAt":1735100200,"comment":{}}"#, "`comment`"),
            ("{\"a\":\n1,}", "byte 9"),
            ("[]", "object"),
            ("", "byte 0"),
        ] {
            let error = silence(body).expect_err(body);
            assert!(error.contains(part), "{body}: {error}");
        }
    }
}
