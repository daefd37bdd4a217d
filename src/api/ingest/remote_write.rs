//! Prometheus remote_write: 204, with what was written; 400 when sending again is pointless, 503 when it is not.
//!
//! [1.0](https://prometheus.io/docs/specs/prw/remote_write_spec/) and
//! [2.0](https://prometheus.io/docs/specs/prw/remote_write_spec_2_0/). Prometheus drops what is answered 4xx, so what
//! is past a limit of sigmad is left out, counted, and answered 204.

use std::fmt::Write;

use super::answer::{Answer, Fields};
use crate::api::TEXT;
use crate::api::errors::ApiError;
use crate::decode::{BodyError, Decoded, Format, SERIES_TOO_LONG, SampleRefusal, Written};
use crate::http::message::Headers;

const VERSION_1: &[u8] = b"prometheus.WriteRequest";
const VERSION_2: &[u8] = b"io.prometheus.write.v2.Request";
const TAKEN: &str = "application/x-protobuf, with proto=prometheus.WriteRequest or proto=io.prometheus.write.v2.Request";

/// The version by `Content-Type`: 1.0 without `proto`, as its senders wrote before there was another.
pub fn format(headers: &Headers<'_>) -> Result<Format, ApiError<'static>> {
    let Some(kind) = headers.get("content-type") else { return Ok(Format::RemoteWrite1) };
    let mut parts = kind.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let is_protobuf =
        parts.next().is_some_and(|part| part.eq_ignore_ascii_case(b"application/x-protobuf"));
    if !is_protobuf {
        return Err(ApiError::MediaType(TAKEN));
    }
    let mut protos = parts.filter_map(|part| {
        let (name, value) = part.split_at(part.iter().position(|byte| *byte == b'=')?);
        let value = value[1..].trim_ascii();
        let value =
            value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        name.trim_ascii().eq_ignore_ascii_case(b"proto").then_some(value)
    });
    match protos.next() {
        None | Some(VERSION_1) => Ok(Format::RemoteWrite1),
        Some(VERSION_2) => Ok(Format::RemoteWrite2),
        Some(_) => Err(ApiError::MediaType(TAKEN)),
    }
}

/// Answers a body that was read. `written` is None for 1.0.
pub fn answer(
    decoded: Decoded,
    refusals: &[SampleRefusal],
    written: Option<Written>,
    body: &mut Vec<u8>,
) -> Answer {
    body.clear();
    let mut wrong = refusals
        .iter()
        .filter(|refusal| refusal.status == 400 && refusal.code != SERIES_TOO_LONG)
        .peekable();
    let status = if wrong.peek().is_some() { 400 } else { 204 };
    if status == 400 {
        let mut text = format!("{} values were refused, the others are kept\n", decoded.invalid);
        for refusal in wrong {
            writeln!(text, "series {}: {}", refusal.index, refusal.message)
                .expect("a String takes what is written");
        }
        body.extend_from_slice(text.as_bytes());
    }
    Answer { status, content_type: TEXT, fields: written.map(fields).unwrap_or_default() }
}

fn fields(written: Written) -> Fields {
    [
        ("X-Prometheus-Remote-Write-Samples-Written", written.samples),
        ("X-Prometheus-Remote-Write-Histograms-Written", written.histograms),
        // They are not used.
        ("X-Prometheus-Remote-Write-Exemplars-Written", 0),
    ]
    .into_iter()
    .map(|(name, count)| (name, count.to_string().into()))
    .collect()
}

/// Answers a request of which nothing is kept.
pub fn refuse(error: &ApiError<'_>, body: &mut Vec<u8>) -> Answer {
    let message = match error {
        ApiError::Body(BodyError::Malformed { offset }) => {
            format!("the body is not the message that the Content-Type says, near byte {offset}")
                .into()
        }
        error => error.message(),
    };
    Answer::refusal(error, &message, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format_of(kind: &str) -> Option<Format> {
        let fields = [httparse::Header { name: "Content-Type", value: kind.as_bytes() }];
        format(&Headers(&fields)).ok()
    }

    #[test]
    fn the_content_type_says_the_version() {
        for (kind, expected) in [
            ("application/x-protobuf", Some(Format::RemoteWrite1)),
            ("Application/X-Protobuf; proto=prometheus.WriteRequest", Some(Format::RemoteWrite1)),
            (
                "application/x-protobuf;proto=io.prometheus.write.v2.Request",
                Some(Format::RemoteWrite2),
            ),
            (
                "application/x-protobuf ; Proto = \"io.prometheus.write.v2.Request\"",
                Some(Format::RemoteWrite2),
            ),
            ("application/x-protobuf; charset=utf-8", Some(Format::RemoteWrite1)),
            ("application/x-protobuf;proto=io.prometheus.write.v3.Request", None),
            ("application/json", None),
            ("", None),
        ] {
            assert_eq!(format_of(kind), expected, "{kind}");
        }
        assert_eq!(format(&Headers(&[])).ok(), Some(Format::RemoteWrite1));
    }

    fn refusal(status: u16, code: &'static str) -> SampleRefusal {
        SampleRefusal { index: 7, code, status, message: "why".to_owned() }
    }

    #[test]
    fn only_what_is_wrong_is_answered_400() {
        let decoded = Decoded { is_batch: true, accepted: 1, invalid: 2, ..Decoded::default() };
        let mut body = b"from before".to_vec();
        let left_out = [refusal(429, "too_many_streams"), refusal(400, SERIES_TOO_LONG)];
        let answered = answer(decoded, &left_out, None, &mut body);
        assert_eq!((answered.status, answered.fields, &body[..]), (204, Fields::new(), &b""[..]));
        let wrong = [refusal(429, "too_many_streams"), refusal(400, "invalid_sample")];
        let written = Written { samples: 3, histograms: 1 };
        let answered = answer(decoded, &wrong, Some(written), &mut body);
        assert_eq!(answered.status, 400);
        assert_eq!(
            answered.fields.iter().map(|(_, count)| &**count).collect::<Vec<_>>(),
            ["3", "1", "0"]
        );
        assert_eq!(body, b"2 values were refused, the others are kept\nseries 7: why\n");
    }

    #[test]
    fn what_may_be_sent_again_says_when() {
        let mut body = Vec::new();
        let full = refuse(&ApiError::QueueFull, &mut body);
        assert_eq!((full.status, full.fields[0].0), (503, "Retry-After"));
        let malformed = refuse(&ApiError::Body(BodyError::Malformed { offset: 9 }), &mut body);
        assert_eq!((malformed.status, malformed.fields.len()), (400, 0));
        assert!(body.ends_with(b"near byte 9\n"));
    }
}
