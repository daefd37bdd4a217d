//! Text exposition: by the rules of Pushgateway, and by those of VictoriaMetrics' import.
//!
//! Pushgateway (<https://github.com/prometheus/pushgateway#api>) keeps groups of metrics until they are deleted. sigmad
//! keeps no groups: a push is a sample of now, and DELETE is answered as if the group were forgotten. Its streams
//! expire with `--stream-idle`, as all do.

use std::borrow::Cow;
use std::fmt::Write;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::percent_decode_str;

use super::answer::{Answer, Fields};
use crate::api::TEXT;
use crate::api::errors::ApiError;
use crate::decode::{BodyError, Decoded, Exposition, Format, Grouping, SampleRefusal};
use crate::http::message::{Headers, Request};

/// Behind the name of a label whose value is coded in base64: it may have slashes.
const BASE64_SUFFIX: &str = "@base64";
const PATH: &str = "/metrics/";
const TAKEN: &str = "text/plain or application/openmetrics-text; clients of Pushgateway for Go need Format(expfmt.NewFormat(expfmt.TypeTextPlain))";

const BAD_GROUP: ApiError<'static> = ApiError::Parameter {
    name: "path",
    allowed: "/metrics/job/<job> and pairs of /<label>/<value>, each label [a-zA-Z_][a-zA-Z0-9_]* and not of two leading underscores",
};
const BAD_LABEL: ApiError<'static> =
    ApiError::Parameter { name: "extra_label", allowed: "<label>=<value>" };

/// The format of a push; its labels go into `grouping`.
pub fn push_format(
    request: &Request<'_>,
    grouping: &mut Grouping,
) -> Result<Format, ApiError<'static>> {
    let seconds = is_openmetrics(&request.headers)?;
    grouping.clear();
    read_group(request.path, grouping).ok_or(BAD_GROUP)?;
    Ok(Format::Exposition(Exposition { seconds, strict: true }))
}

/// The format of an import; its labels go into `grouping`.
pub fn import_format(
    request: &Request<'_>,
    grouping: &mut Grouping,
) -> Result<Format, ApiError<'static>> {
    let seconds = is_openmetrics(&request.headers)?;
    grouping.clear();
    for (name, value) in form_urlencoded::parse(request.query.as_bytes()) {
        if name == "extra_label" {
            let (label, value) = value.split_once('=').ok_or(BAD_LABEL)?;
            grouping.push(label.as_bytes(), value.as_bytes());
        }
    }
    Ok(Format::Exposition(Exposition { seconds, strict: false }))
}

/// Whether the text is OpenMetrics. Without a type it is not, and curl's `--data-binary` says a form.
fn is_openmetrics(headers: &Headers<'_>) -> Result<bool, ApiError<'static>> {
    let Some(kind) = headers.get("content-type") else { return Ok(false) };
    let essence = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let is = |name: &str| essence.eq_ignore_ascii_case(name.as_bytes());
    if is("application/openmetrics-text") {
        Ok(true)
    } else if essence.is_empty()
        || is("text/plain")
        || is("application/x-www-form-urlencoded")
        || is("application/octet-stream")
    {
        Ok(false)
    } else {
        Err(ApiError::MediaType(TAKEN))
    }
}

/// Reads `/metrics/job/<job>{/<label>/<value>}`; None for what is no group.
fn read_group(path: &str, grouping: &mut Grouping) -> Option<()> {
    let mut parts = path.strip_prefix(PATH)?.split('/');
    let mut is_job = true;
    while let Some(name) = parts.next() {
        let value = parts.next()?;
        let name = percent_decode_str(name).decode_utf8().ok()?;
        let value = percent_decode_str(value).decode_utf8().ok()?;
        let (name, value) = match name.strip_suffix(BASE64_SUFFIX) {
            Some(name) => {
                let value = URL_SAFE_NO_PAD.decode(value.trim_end_matches('=')).ok()?;
                (name, Cow::Owned(String::from_utf8(value).ok()?))
            }
            None => (&*name, value),
        };
        if is_job && (name != "job" || value.is_empty()) || !is_label(name) {
            return None;
        }
        is_job = false;
        grouping.push(name.as_bytes(), value.as_bytes());
    }
    Some(())
}

/// `model.LabelNameRE` of Prometheus, without the names that it reserves.
fn is_label(name: &str) -> bool {
    let is_first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    name.bytes().next().is_some_and(is_first)
        && name.bytes().all(|byte| is_first(byte) || byte.is_ascii_digit())
        && !name.starts_with("__")
}

/// Answers a push that was read: 400 if a value was refused, as Pushgateway, but the others are kept.
pub fn answer_push(
    success: u16,
    decoded: Decoded,
    refusals: &[SampleRefusal],
    body: &mut Vec<u8>,
) -> Answer {
    body.clear();
    let mut status = success;
    if decoded.invalid > 0 {
        status = 400;
        let mut text = format!("{} values were refused, the others are kept\n", decoded.invalid);
        for refusal in refusals {
            writeln!(text, "line {}: {}", refusal.index + 1, refusal.message)
                .expect("a String takes what is written");
        }
        body.extend_from_slice(text.as_bytes());
    }
    Answer { status, content_type: TEXT, fields: Fields::new() }
}

/// Answers an import that was read: VictoriaMetrics counts lines that are wrong, and says nothing of them.
pub fn answer_import(body: &mut Vec<u8>) -> Answer {
    body.clear();
    Answer { status: 204, content_type: TEXT, fields: Fields::new() }
}

/// Answers a request of which nothing is kept.
pub fn refuse(error: &ApiError<'_>, body: &mut Vec<u8>) -> Answer {
    let message = match error {
        ApiError::Body(BodyError::Malformed { offset }) => {
            format!("the body is not in the text exposition, in the line at byte {offset}").into()
        }
        error => error.message(),
    };
    Answer::refusal(error, &message, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(path: &str) -> Option<Vec<(String, String)>> {
        let mut grouping = Grouping::default();
        read_group(path, &mut grouping)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some(grouping.iter().map(|(name, value)| (text(name), text(value))).collect())
    }

    #[test]
    fn a_path_names_a_group() {
        for (path, expected) in [
            ("/metrics/job/backup", vec![("job", "backup")]),
            ("/metrics/job/a%20b/instance/web-1", vec![("job", "a b"), ("instance", "web-1")]),
            ("/metrics/job/x/path@base64/L3Zhci90bXA", vec![("job", "x"), ("path", "/var/tmp")]),
            ("/metrics/job@base64/c29tZS9qb2I=/a@base64/=", vec![("job", "some/job"), ("a", "")]),
            ("/metrics/job/x/a/", vec![("job", "x"), ("a", "")]),
            (
                "/metrics/job/x/name@base64/zpHPgM-MzrvOu8-Jzr0=",
                vec![("job", "x"), ("name", "Απόλλων")],
            ),
        ] {
            let expected: Vec<_> =
                expected.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect();
            assert_eq!(group(path), Some(expected), "{path}");
        }
        for path in [
            "/metrics/job/",
            "/metrics/job",
            "/metrics/job/x/a",
            "/metrics/job/x/1a/b",
            "/metrics/job/x/__a/b",
            "/metrics/job/x//b",
            "/metrics/job/x/a@base64/!",
            "/metrics/job/x/a/%ff",
            "/metrics/job@base64/=",
        ] {
            assert_eq!(group(path), None, "{path}");
        }
    }

    #[test]
    fn the_type_says_the_unit_of_times() {
        let seconds = |kind: &str| {
            let fields = [httparse::Header { name: "content-type", value: kind.as_bytes() }];
            is_openmetrics(&Headers(&fields)).ok()
        };
        assert_eq!(seconds("text/plain; version=0.0.4; charset=utf-8"), Some(false));
        assert_eq!(seconds("application/x-www-form-urlencoded"), Some(false));
        assert_eq!(seconds("application/openmetrics-text; version=1.0.0"), Some(true));
        assert_eq!(seconds("application/vnd.google.protobuf;encoding=delimited"), None);
    }
}
