//! sigmad's own convention: JSON in, and an answer in JSON that lists what was refused.

use serde::Serialize;

use crate::api::errors::{ApiError, ErrorFields};
use crate::decode::{BodyError, Decoded, ForeignFormat, Format, SampleRefusal, ValueCounts};
use crate::http::message::Headers;

const ACCEPTED: &[u8] = br#"{"status":"accepted","accepted":"#;
/// A sample on each line.
const NDJSON: [&[u8]; 3] = [b"application/x-ndjson", b"application/ndjson", b"application/jsonl"];
/// An IPC stream, by the media type that IANA has registered.
const ARROW: &[u8] = b"application/vnd.apache.arrow.stream";

/// Replaces `body` by the usual answer: all `samples` were accepted.
#[inline]
pub fn write_accepted(samples: usize, body: &mut Vec<u8>) {
    body.clear();
    body.extend_from_slice(ACCEPTED);
    body.extend_from_slice(itoa::Buffer::new().format(samples).as_bytes());
    body.push(b'}');
}

/// What the paths of samples take, and where what is often sent to them instead goes.
pub const TAKEN: &str = "application/json, application/x-ndjson or application/vnd.apache.arrow.stream on this path; \
    remote_write goes to /api/v1/write, OTLP to /v1/metrics, Influx lines to /write";

/// The answer to a batch with refused samples.
#[derive(Serialize)]
struct PartialJson<'a> {
    status: &'static str,
    accepted: usize,
    rejected: usize,
    errors: Vec<RejectedJson<'a>>,
    /// Present if nothing was accepted, as in every error.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorFields<'a>>,
}

#[derive(Serialize)]
struct RejectedJson<'a> {
    index: usize,
    message: &'a str,
}

/// Replaces `body` by the answer to a body with refused samples or values, and returns its status.
/// `success` is the status if at least one sample was accepted. `values` are those of `decoded`, if it was a body of
/// points: the first value of a counter gives no sample, but it is kept.
pub fn write_refused(
    decoded: Decoded,
    values: ValueCounts,
    refusals: &[SampleRefusal],
    success: u16,
    body: &mut Vec<u8>,
) -> u16 {
    let rejected = decoded.rejected();
    let first = refusals.first().expect("a refused sample is listed");
    if !decoded.is_batch && decoded.accepted == 0 {
        let error = ApiError::Sample(first);
        error.write(body);
        return error.status();
    }
    let is_kept = decoded.accepted > 0 || decoded.are_points && values.is_any_kept();
    let (status, error) = if is_kept {
        (success, None)
    } else {
        let status = if decoded.invalid > 0 { 400 } else { 429 };
        let none = if decoded.are_points {
            let left_out = decoded.left_out_values;
            format!(
                "no value was accepted: {rejected} samples were wrong, {left_out} values had no room"
            )
        } else {
            format!("none of {rejected} samples was accepted")
        };
        let message = format!("{none}; sample {}: {}", first.index, first.message).into();
        (status, Some(ErrorFields { code: first.code, message }))
    };
    let errors = refusals
        .iter()
        .map(|refusal| RejectedJson { index: refusal.index, message: &refusal.message })
        .collect();
    let partial =
        PartialJson { status: "partial", accepted: decoded.accepted, rejected, errors, error };
    body.clear();
    serde_json::to_writer(body, &partial)
        .expect("strings have a JSON form, and writing to a Vec cannot fail");
    status
}

/// The format of a body: JSON, unless the client says that it is NDJSON or an Arrow stream.
#[inline]
pub fn format(headers: &Headers<'_>) -> Format {
    let Some(kind) = headers.get("content-type") else { return Format::Json };
    // What most send: it costs one comparison.
    if kind == b"application/json" {
        return Format::Json;
    }
    let essence = essence(kind);
    let is = |name: &&[u8]| essence.eq_ignore_ascii_case(name);
    match () {
        () if NDJSON.iter().any(is) => Format::JsonLines,
        () if is(&ARROW) => Format::Arrow,
        () => Format::Json,
    }
}

/// A content type without its parameters.
fn essence(kind: &[u8]) -> &[u8] {
    kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

/// Whether the body, which cannot be read, is of a type that no decoder of these paths has: one of protobuf, or a
/// binary one of any type but JSON's and text. A body without a type is judged by what it holds alone.
pub fn is_of_no_decoder(headers: &Headers<'_>, error: BodyError) -> bool {
    let Some(kind) = headers.get("content-type") else { return false };
    let essence = essence(kind);
    let ends_with = |end: &[u8]| {
        let from = essence.len().saturating_sub(end.len());
        essence[from..].eq_ignore_ascii_case(end)
    };
    let is_protobuf = ends_with(b"protobuf");
    let is_text = essence.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"text/"))
        || ends_with(b"json")
        || essence.is_empty();
    match error {
        BodyError::TooManySamples => false,
        _ if is_protobuf => true,
        BodyError::Foreign(ForeignFormat::Binary) => format(headers) == Format::Json && !is_text,
        BodyError::Empty
        | BodyError::Malformed { .. }
        | BodyError::NotAnObject
        | BodyError::Foreign(_)
        | BodyError::Unsupported(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn refusal(index: usize, status: u16) -> SampleRefusal {
        SampleRefusal { index, code: "bad_value", status, message: format!("`c\"pu\n` {index}") }
    }

    fn answer(decoded: Decoded, refusals: &[SampleRefusal]) -> (u16, Value) {
        let mut body = b"left from before".to_vec();
        let status = write_refused(decoded, ValueCounts::default(), refusals, 202, &mut body);
        (status, serde_json::from_slice(&body).expect("JSON"))
    }

    #[test]
    fn the_usual_answer() {
        for (samples, expected) in [
            (1, r#"{"status":"accepted","accepted":1}"#),
            (65_536, r#"{"status":"accepted","accepted":65536}"#),
            (usize::MAX, r#"{"status":"accepted","accepted":18446744073709551615}"#),
        ] {
            let mut body = b"what was there".to_vec();
            write_accepted(samples, &mut body);
            assert_eq!(body, expected.as_bytes());
        }
    }

    #[test]
    fn a_single_sample_is_refused_as_an_error() {
        for status in [400, 429] {
            let decoded = Decoded { invalid: 1, ..Decoded::default() };
            let (actual, body) = answer(decoded, &[refusal(0, status)]);
            assert_eq!(actual, status);
            assert_eq!(body, json!({"error": {"code": "bad_value", "message": "`c\"pu\n` 0"}}));
        }
    }

    #[test]
    fn a_batch_lists_its_refused_samples() {
        let some =
            Decoded { is_batch: true, accepted: 2, invalid: 1, unroomed: 1, ..Decoded::default() };
        let (status, body) = answer(some, &[refusal(1, 400), refusal(3, 429)]);
        assert_eq!(status, 202);
        let errors = json!([
            {"index": 1, "message": "`c\"pu\n` 1"}, {"index": 3, "message": "`c\"pu\n` 3"}
        ]);
        assert_eq!(
            body,
            json!({"status": "partial", "accepted": 2, "rejected": 2, "errors": errors})
        );
        for (invalid, unroomed, expected) in [(2, 0, 400), (1, 1, 400), (0, 2, 429)] {
            let none = Decoded { is_batch: true, invalid, unroomed, ..Decoded::default() };
            let (status, body) = answer(none, &[refusal(0, 400), refusal(1, 400)]);
            assert_eq!(status, expected);
            assert_eq!((&body["accepted"], &body["rejected"]), (&json!(0), &json!(2)));
            assert_eq!(body["error"]["code"], "bad_value");
            assert!(body["error"]["message"].as_str().expect("text").contains("none of 2"));
        }
    }

    #[test]
    fn a_sample_that_is_kept_in_part_names_its_refused_values() {
        let decoded = Decoded { accepted: 1, left_out_values: 1, ..Decoded::default() };
        let (status, body) = answer(decoded, &[refusal(0, 429)]);
        assert_eq!(status, 202);
        let errors = json!([{"index": 0, "message": "`c\"pu\n` 0"}]);
        let partial = json!({"status": "partial", "accepted": 1, "rejected": 0, "errors": errors});
        assert_eq!(body, partial);
        let decoded = Decoded { unnamed: 1, left_out_values: 1, ..Decoded::default() };
        assert_eq!(answer(decoded, &[refusal(0, 429)]).0, 429);
    }

    #[test]
    fn a_first_value_of_a_counter_is_kept() {
        let points = Decoded { is_batch: true, are_points: true, ..Decoded::default() };
        for (values, status) in [
            (ValueCounts { first: 1, unroomed: 2, ..ValueCounts::default() }, 202),
            (ValueCounts { skipped: 1, unroomed: 2, ..ValueCounts::default() }, 429),
        ] {
            let decoded = Decoded { left_out_values: values.left_out(), ..points };
            let mut body = Vec::new();
            assert_eq!(write_refused(decoded, values, &[refusal(0, 429)], 202, &mut body), status);
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(body["status"], "partial");
        }
    }

    #[test]
    fn a_binary_body_of_a_type_without_a_decoder_is_of_none() {
        let of = |kind: &str, error| {
            let fields = [httparse::Header { name: "Content-Type", value: kind.as_bytes() }];
            is_of_no_decoder(&Headers(&fields), error)
        };
        let binary = BodyError::Foreign(ForeignFormat::Binary);
        let malformed = BodyError::Malformed { offset: 0 };
        for kind in ["application/octet-stream", "Application/X-MsgPack", "image/png"] {
            assert!(of(kind, binary) && !of(kind, malformed), "{kind}");
        }
        for kind in ["application/x-protobuf", "application/vnd.google.protobuf; proto=x"] {
            assert!(of(kind, binary) && of(kind, malformed), "{kind}");
            assert!(!of(kind, BodyError::TooManySamples), "{kind}");
        }
        for kind in ["application/json; charset=utf-8", "text/plain", "application/x-ndjson", ""] {
            assert!(!of(kind, binary), "{kind}");
        }
        assert!(!is_of_no_decoder(&Headers(&[]), binary));
    }

    #[test]
    fn formats_are_announced_by_content_type() {
        let format_of = |kind: &str| {
            let fields = [httparse::Header { name: "CONTENT-TYPE", value: kind.as_bytes() }];
            format(&Headers(&fields))
        };
        for kind in
            ["application/x-ndjson", "Application/NDJSON ; charset=utf-8", "application/jsonl"]
        {
            assert_eq!(format_of(kind), Format::JsonLines, "{kind}");
        }
        for kind in ["", "application/json", "application/json-seq", "text/plain", "x-ndjson"] {
            assert_eq!(format_of(kind), Format::Json, "{kind}");
        }
        assert_eq!(format_of("application/vnd.apache.arrow.stream"), Format::Arrow);
        assert_eq!(format(&Headers(&[])), Format::Json);
    }
}
