//! InfluxDB's conventions for line protocol: 204, or an error that says which lines were dropped.
//!
//! The errors have the forms of InfluxDB 1.8 (`/write`), 2 (`/api/v2/write`) and 3 (`/api/v3/write_lp`), because its
//! clients read them. Lines that can be read are kept in any case but that of `accept_partial=false`. Values without
//! room are counted and left out, and the answer stays 204: an agent would send the same values for ever after a 429,
//! and drop all of them after a 400.

use std::borrow::Cow;

use serde::Serialize;

use crate::api::JSON;
use crate::api::actions::InfluxVersion;
use crate::api::errors::ApiError;
use crate::api::ingest::answer::{Answer, Fields};
use crate::api::query::parameter;
use crate::api::tokens::Denied;
use crate::decode::{Decoded, Format, LineOptions, LinePrecision, SampleRefusal};
use crate::http::message::Request;

/// Characters of a line that an error repeats.
const LINE_CHARS_SHOWN: usize = 200;

/// The error of InfluxDB 1.
#[derive(Serialize)]
struct Error1<'a> {
    error: &'a str,
}

/// The error of InfluxDB 2.
#[derive(Serialize)]
struct Error2<'a> {
    code: &'static str,
    message: &'a str,
}

/// The error of InfluxDB 3; `data` lists lines, or is the one line that nothing was kept for.
#[derive(Serialize)]
struct Error3<'a, D> {
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<D>,
}

/// A line in an error of InfluxDB 3.
#[derive(Serialize)]
struct RefusedLine<'a> {
    original_line: Cow<'a, str>,
    /// From 1.
    line_number: usize,
    error_message: &'a str,
}

/// The format of a body: the query has the unit of its times.
///
/// # Errors
/// When a parameter has a value that this version does not know.
pub fn format(version: InfluxVersion, request: &Request<'_>) -> Result<Format, ApiError<'static>> {
    let precision = parameter(request.query, "precision").filter(|name| !name.is_empty());
    let precision = match precision {
        None if version == InfluxVersion::V3 => LinePrecision::Auto,
        None => LinePrecision::Nanosecond,
        Some(name) => name
            .parse()
            .map_err(|_| ApiError::Parameter { name: "precision", allowed: "ns, us, ms or s" })?,
    };
    let accepts_partial = version != InfluxVersion::V3
        || parameter(request.query, "accept_partial").is_none_or(|value| value != "false");
    Ok(Format::LineProtocol(LineOptions { precision, accepts_partial }))
}

/// Answers a body that was read.
pub fn answer(
    version: InfluxVersion,
    request: &Request<'_>,
    decoded: Decoded,
    refusals: &[SampleRefusal],
    body: &mut Vec<u8>,
) -> Answer {
    body.clear();
    if decoded.invalid == 0 {
        return Answer { status: 204, content_type: JSON, fields: Fields::new() };
    }
    let lines: Vec<_> = refusals
        .iter()
        .filter(|refusal| refusal.status == 400)
        .map(|refusal| RefusedLine {
            original_line: line_at(request.body, refusal.index),
            line_number: refusal.index + 1,
            error_message: &refusal.message,
        })
        .collect();
    match version {
        InfluxVersion::V1 | InfluxVersion::V2 => {
            write_error(version, 400, &partial_write(&lines, decoded.invalid), body);
        }
        InfluxVersion::V3 if is_all_or_nothing(request) => {
            let error = "parsing failed for write_lp endpoint";
            write_json(&Error3 { error, data: lines.first() }, body);
        }
        InfluxVersion::V3 => {
            let error = "partial write of line protocol occurred";
            write_json(&Error3 { error, data: Some(lines) }, body);
        }
    }
    Answer { status: 400, content_type: JSON, fields: Fields::new() }
}

/// Answers a request of which nothing is kept.
pub fn refuse(version: InfluxVersion, error: &ApiError<'_>, body: &mut Vec<u8>) -> Answer {
    let status = error.status();
    write_error(version, status, &error.message(), body);
    let field = match (version, error) {
        (InfluxVersion::V1, ApiError::Denied(Denied::Missing)) => {
            Some(("WWW-Authenticate", Cow::Borrowed(r#"Basic realm="InfluxDB""#)))
        }
        (InfluxVersion::V2 | InfluxVersion::V3, ApiError::Denied(Denied::Missing)) => {
            Some(("WWW-Authenticate", Cow::Borrowed("Token")))
        }
        _ => error.field(),
    };
    Answer { status, content_type: JSON, fields: field.into_iter().collect() }
}

/// Replaces `body` by an error.
pub fn write_error(version: InfluxVersion, status: u16, message: &str, body: &mut Vec<u8>) {
    match version {
        InfluxVersion::V1 => write_json(&Error1 { error: message }, body),
        InfluxVersion::V2 => write_json(&Error2 { code: code(status), message }, body),
        InfluxVersion::V3 => write_json(&Error3::<()> { error: message, data: None }, body),
    }
}

/// The words of InfluxDB 2 for a status.
const fn code(status: u16) -> &'static str {
    match status {
        400 | 415 => "invalid",
        401 => "unauthorized",
        403 => "forbidden",
        413 => "request too large",
        429 => "too many requests",
        503 => "unavailable",
        _ => "internal error",
    }
}

fn write_json(error: &impl Serialize, body: &mut Vec<u8>) {
    body.clear();
    serde_json::to_writer(body, error)
        .expect("strings have a JSON form, and writing to a Vec cannot fail");
}

/// The message of InfluxDB 1: Telegraf and others look for `partial write`, and must not send the rest again.
fn partial_write(lines: &[RefusedLine<'_>], dropped: usize) -> String {
    let mut message = "partial write: ".to_owned();
    for (at, line) in lines.iter().enumerate() {
        let separator = if at == 0 { "" } else { "\n" };
        let RefusedLine { original_line, error_message, .. } = line;
        message += &format!("{separator}unable to parse '{original_line}': {error_message}");
    }
    message + &format!(" dropped={dropped}")
}

fn is_all_or_nothing(request: &Request<'_>) -> bool {
    parameter(request.query, "accept_partial").is_some_and(|value| value == "false")
}

/// The line after so many line ends, cut for a message.
fn line_at(body: &[u8], index: usize) -> Cow<'_, str> {
    let line = body.split(|byte| *byte == b'\n').nth(index).unwrap_or_default().trim_ascii();
    // A character has at most four bytes.
    let line = String::from_utf8_lossy(&line[..line.len().min(4 * LINE_CHARS_SHOWN)]);
    match line.char_indices().nth(LINE_CHARS_SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]).into(),
        None => line,
    }
}
