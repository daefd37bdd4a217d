//! OTLP over HTTP: protobuf or JSON, answered in the same coding.
//!
//! What was read is answered 200, with a partial success that says how many points were not kept and why; senders do
//! not send those again. A request of which nothing is kept has a `google.rpc.Status`
//! (<https://opentelemetry.io/docs/specs/otlp/#otlphttp-response>). Senders repeat it after 429, 502, 503 and 504,
//! and drop it after any other error.

use serde::Serialize;

use super::answer::{Answer, Fields};
use crate::api::actions::OtlpCoding;
use crate::api::errors::ApiError;
use crate::decode::{BodyError, Decoded, Format, SampleRefusal, ValueCounts};
use crate::http::message::Headers;

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

impl OtlpCoding {
    /// The coding of a request; None if it is of another type.
    pub fn of(headers: &Headers<'_>) -> Option<Self> {
        let kind = headers.get("content-type")?;
        let essence = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let is = |name: &str| essence.eq_ignore_ascii_case(name.as_bytes());
        match () {
            () if is(PROTOBUF) => Some(Self::Protobuf),
            () if is(JSON) => Some(Self::Json),
            () => None,
        }
    }

    const fn media_type(self) -> &'static str {
        match self {
            Self::Protobuf => PROTOBUF,
            Self::Json => JSON,
        }
    }
}

/// The format of a body.
///
/// # Errors
/// If it is neither protobuf nor JSON.
pub fn format(headers: &Headers<'_>) -> Result<Format, ApiError<'static>> {
    match OtlpCoding::of(headers) {
        Some(OtlpCoding::Protobuf) => Ok(Format::OtlpProtobuf),
        Some(OtlpCoding::Json) => Ok(Format::OtlpJson),
        None => Err(ApiError::MediaType("application/x-protobuf or application/json")),
    }
}

/// Answers a body that was read: an `ExportMetricsServiceResponse`.
pub fn answer(
    coding: OtlpCoding,
    decoded: Decoded,
    values: ValueCounts,
    refusals: &[SampleRefusal],
    body: &mut Vec<u8>,
) -> Answer {
    body.clear();
    let rejected = decoded.invalid + values.left_out();
    let message = refusals
        .first()
        .map(|first| format!("{rejected} not kept; data point {}: {}", first.index, first.message));
    match coding {
        OtlpCoding::Protobuf => {
            if let Some(message) = &message {
                let mut partial = Vec::new();
                push_number(1, rejected as u64, &mut partial);
                push_bytes(2, message.as_bytes(), &mut partial);
                push_bytes(1, &partial, body);
            }
        }
        OtlpCoding::Json => write_json(&Response::new(rejected, message.as_deref()), body),
    }
    Answer { status: 200, content_type: coding.media_type(), fields: Fields::new() }
}

/// Answers a request of which nothing is kept: a `google.rpc.Status`.
pub fn refuse(coding: OtlpCoding, error: &ApiError<'_>, body: &mut Vec<u8>) -> Answer {
    body.clear();
    let code = rpc_code(error.status());
    let message = match error {
        ApiError::Body(BodyError::Malformed { offset }) => {
            format!("the body is not an ExportMetricsServiceRequest, near byte {offset}").into()
        }
        error => error.message(),
    };
    match coding {
        OtlpCoding::Protobuf => {
            push_number(1, code, body);
            push_bytes(2, message.as_bytes(), body);
        }
        OtlpCoding::Json => write_json(&Status { code, message: &message }, body),
    }
    let fields = error.field().into_iter().collect();
    Answer { status: error.status(), content_type: coding.media_type(), fields }
}

/// The code of `google.rpc.Code` that stands for a status of HTTP
/// (<https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto>).
const fn rpc_code(status: u16) -> u64 {
    const INVALID_ARGUMENT: u64 = 3;
    const PERMISSION_DENIED: u64 = 7;
    const RESOURCE_EXHAUSTED: u64 = 8;
    const INTERNAL: u64 = 13;
    const UNAVAILABLE: u64 = 14;
    const UNAUTHENTICATED: u64 = 16;
    match status {
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        413 | 429 => RESOURCE_EXHAUSTED,
        503 => UNAVAILABLE,
        500.. => INTERNAL,
        _ => INVALID_ARGUMENT,
    }
}

/// `ExportMetricsServiceResponse`
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    partial_success: Option<PartialSuccess<'a>>,
}

/// `ExportMetricsPartialSuccess`
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PartialSuccess<'a> {
    /// A number of 64 bits is a string in the JSON of protobuf.
    rejected_data_points: String,
    error_message: &'a str,
}

impl<'a> Response<'a> {
    fn new(rejected: usize, message: Option<&'a str>) -> Self {
        let partial_success = message.map(|error_message| PartialSuccess {
            rejected_data_points: rejected.to_string(),
            error_message,
        });
        Self { partial_success }
    }
}

/// `google.rpc.Status`
#[derive(Serialize)]
struct Status<'a> {
    code: u64,
    message: &'a str,
}

fn write_json(answer: &impl Serialize, body: &mut Vec<u8>) {
    serde_json::to_writer(body, answer)
        .expect("strings have a JSON form, and writing to a Vec cannot fail");
}

/// Adds a field that is a varint.
fn push_number(field: u8, number: u64, out: &mut Vec<u8>) {
    out.push(field << 3);
    push_varint(number, out);
}

/// Adds a field that is a string or a message.
fn push_bytes(field: u8, bytes: &[u8], out: &mut Vec<u8>) {
    const BYTES: u8 = 2;
    out.push(field << 3 | BYTES);
    push_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn push_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::metrics::v1::{
        ExportMetricsPartialSuccess, ExportMetricsServiceResponse,
    };
    use prost::Message;
    use serde_json::{Value, json};

    use super::*;

    /// `google.rpc.Status`, as a client reads it.
    #[derive(Message)]
    struct RpcStatus {
        #[prost(int32, tag = "1")]
        code: i32,
        #[prost(string, tag = "2")]
        message: String,
    }

    fn refusal() -> SampleRefusal {
        SampleRefusal { index: 4, code: "invalid_sample", status: 400, message: "no".to_owned() }
    }

    #[test]
    fn a_content_type_is_a_coding() {
        for (kind, expected) in [
            ("application/x-protobuf", Some(Format::OtlpProtobuf)),
            ("Application/JSON; charset=utf-8", Some(Format::OtlpJson)),
            ("application/protobuf", None),
            ("text/plain", None),
            ("", None),
        ] {
            let fields = [httparse::Header { name: "Content-Type", value: kind.as_bytes() }];
            assert_eq!(format(&Headers(&fields)).ok(), expected, "{kind}");
        }
        assert_eq!(format(&Headers(&[])).map_err(|error| error.status()), Err(415));
    }

    #[test]
    fn what_is_not_kept_is_a_partial_success() {
        let (decoded, values) = (
            Decoded { accepted: 2, invalid: 1, ..Decoded::default() },
            ValueCounts { accepted: 2, unroomed: 200, ..ValueCounts::default() },
        );
        let mut body = b"left from before".to_vec();
        let sent = answer(OtlpCoding::Protobuf, decoded, values, &[refusal()], &mut body);
        assert_eq!((sent.status, sent.content_type), (200, PROTOBUF));
        let response = ExportMetricsServiceResponse::decode(&*body).expect("a message");
        let error_message = "201 not kept; data point 4: no".to_owned();
        let partial = ExportMetricsPartialSuccess { rejected_data_points: 201, error_message };
        assert_eq!(response.partial_success, Some(partial));
        let sent = answer(OtlpCoding::Json, decoded, values, &[refusal()], &mut body);
        assert_eq!((sent.status, sent.content_type), (200, JSON));
        let response: Value = serde_json::from_slice(&body).expect("JSON");
        let partial =
            json!({"rejectedDataPoints": "201", "errorMessage": "201 not kept; data point 4: no"});
        assert_eq!(response, json!({"partialSuccess": partial}));
    }

    #[test]
    fn a_whole_success_is_an_empty_message() {
        let decoded = Decoded { accepted: 2, ..Decoded::default() };
        for (coding, expected) in [(OtlpCoding::Protobuf, &b""[..]), (OtlpCoding::Json, b"{}")] {
            let mut body = b"left from before".to_vec();
            let sent = answer(coding, decoded, ValueCounts::default(), &[], &mut body);
            assert_eq!((sent.status, &*body), (200, expected));
        }
    }

    #[test]
    fn an_error_is_a_status_in_the_same_coding() {
        for (error, status, code) in [
            (ApiError::QueueFull, 503, 14),
            (ApiError::MediaType("x"), 415, 3),
            (ApiError::Denied(crate::api::tokens::Denied::Missing), 401, 16),
            (ApiError::Internal, 500, 13),
        ] {
            let mut body = Vec::new();
            let sent = refuse(OtlpCoding::Protobuf, &error, &mut body);
            let read = RpcStatus::decode(&*body).expect("a message");
            assert_eq!((sent.status, read.code, &*read.message), (status, code, &*error.message()));
            let sent = refuse(OtlpCoding::Json, &error, &mut body);
            let read: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!((sent.status, &read["code"]), (status, &json!(code)));
            let is_retried = sent.fields.iter().any(|(name, _)| *name == "Retry-After");
            assert_eq!(is_retried, status == 503);
        }
    }
}
