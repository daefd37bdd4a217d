//! Refusals of whole requests: each knows its status, its word for machines and its sentence.

use std::borrow::Cow;

use serde::Serialize;

use super::tokens::Denied;
use crate::dashboard::subscriber::CLIENTS_MAX;
use crate::decode::{BodyError, SampleRefusal};
use crate::http::message::{HeaderField, Response};
use sigmad_sample::QUEUE_SAMPLES_MAX;

/// Why a request is not answered with what it asked for.
#[derive(Clone, Copy, Debug)]
pub enum ApiError<'a> {
    /// No such path.
    NotFound,
    /// The path has these methods.
    WrongMethod(&'static str),
    /// The token is missing or wrong.
    Denied(Denied),
    /// The body can't be read.
    Body(BodyError),
    /// The one sample of the body is refused.
    Sample(&'a SampleRefusal),
    /// The samples do not fit into the worker's queue.
    QueueFull,
    /// Too many reads wait.
    ReadsFull,
    /// Too many clients stream events.
    EventsFull,
    /// Too many look into the process at once.
    DebugFull,
    /// Another such profile is being taken; it ends in so many seconds.
    ProfileRuns(u64),
    /// The kernel, or what surrounds the process, does not let it be looked into.
    Unprofilable(&'a str),
    /// The analytics thread has stopped.
    Stopping,
    /// A mistake of ours.
    Internal,
    /// A query parameter, and what it may be.
    Parameter {
        /// Its name.
        name: &'static str,
        /// What is allowed.
        allowed: &'static str,
    },
}

/// The body of every error.
#[derive(Serialize)]
struct Body<'a> {
    error: Error<'a>,
}

/// What an error says.
#[derive(Serialize)]
pub struct Error<'a> {
    /// Snake-case word for machines.
    pub code: &'a str,
    /// Names the field, line or limit at fault.
    pub message: Cow<'a, str>,
}

impl ApiError<'_> {
    /// The status code.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Body(BodyError::Empty | BodyError::Malformed { .. }) | Self::Parameter { .. } => {
                400
            }
            Self::Denied(Denied::Missing) => 401,
            Self::Denied(Denied::Wrong | Denied::Remote) => 403,
            Self::NotFound => 404,
            Self::WrongMethod(_) => 405,
            Self::ProfileRuns(_) => 409,
            Self::Body(BodyError::TooManySamples) => 413,
            Self::Sample(refusal) => refusal.status,
            Self::Internal | Self::Unprofilable(_) => 500,
            Self::QueueFull
            | Self::ReadsFull
            | Self::EventsFull
            | Self::DebugFull
            | Self::Stopping => 503,
        }
    }

    /// The header field that goes with it.
    pub fn field(&self) -> Option<HeaderField> {
        match self {
            Self::WrongMethod(allow) => Some(("Allow", Cow::Borrowed(allow))),
            Self::Denied(Denied::Missing) => Some(("WWW-Authenticate", Cow::Borrowed("Bearer"))),
            Self::QueueFull | Self::ReadsFull | Self::EventsFull | Self::DebugFull => {
                Some(("Retry-After", Cow::Borrowed("1")))
            }
            Self::ProfileRuns(seconds) => Some(("Retry-After", seconds.to_string().into())),
            _ => None,
        }
    }

    const fn code(&self) -> &str {
        match self {
            Self::NotFound => "not_found",
            Self::WrongMethod(_) => "method_not_allowed",
            Self::Denied(Denied::Missing) => "token_missing",
            Self::Denied(Denied::Wrong) => "token_wrong",
            Self::Denied(Denied::Remote) => "loopback_only",
            Self::Body(BodyError::Empty) => "empty_body",
            Self::Body(BodyError::Malformed { .. }) => "malformed_json",
            Self::Body(BodyError::TooManySamples) => "too_many_samples",
            Self::Sample(refusal) => refusal.code,
            Self::QueueFull => "queue_full",
            Self::ReadsFull => "too_many_reads",
            Self::EventsFull => "too_many_clients",
            Self::DebugFull => "too_many_profiles",
            Self::ProfileRuns(_) => "profile_runs",
            Self::Unprofilable(_) => "unprofilable",
            Self::Stopping => "stopping",
            Self::Internal => "internal",
            Self::Parameter { .. } => "bad_parameter",
        }
    }

    fn message(&self) -> Cow<'_, str> {
        match self {
            Self::NotFound => "no such path; /openapi.json lists those there are".into(),
            Self::WrongMethod(allow) => format!("this path has {allow}").into(),
            Self::Denied(Denied::Missing) => {
                "this path asks for a token: `Authorization: Bearer …`".into()
            }
            Self::Denied(Denied::Wrong) => "the bearer token is not the right one".into(),
            Self::Denied(Denied::Remote) => {
                "only loopback clients may look into the process, not ones behind a proxy either; \
                 with --debug-token set, others may with that token"
                    .into()
            }
            Self::Body(BodyError::Empty) => "the body holds no sample".into(),
            Self::Body(BodyError::Malformed { offset }) => {
                format!("the body is not JSON, near byte {offset}").into()
            }
            Self::Body(BodyError::TooManySamples) => {
                format!("the body holds more than {QUEUE_SAMPLES_MAX} samples").into()
            }
            Self::Sample(refusal) => refusal.message.as_str().into(),
            // No allocation: this is the answer under overload.
            Self::QueueFull => {
                "the queue to analytics is full; nothing of this request was kept".into()
            }
            Self::ReadsFull => "too many reads are waiting".into(),
            Self::EventsFull => format!("{CLIENTS_MAX} clients stream events already").into(),
            Self::DebugFull => "too many profiles are being made".into(),
            Self::ProfileRuns(seconds) => {
                format!("another such profile is being taken, for {seconds} s more").into()
            }
            Self::Unprofilable(why) => (*why).into(),
            Self::Stopping => "the server is stopping".into(),
            Self::Internal => "the request was given up; the log says why".into(),
            Self::Parameter { name, allowed } => format!("`{name}` must be {allowed}").into(),
        }
    }

    /// What an answer says of it.
    pub fn error(&self) -> Error<'_> {
        Error { code: self.code(), message: self.message() }
    }

    /// Writes the body over `body`.
    pub fn write(&self, body: &mut Vec<u8>) {
        body.clear();
        let written = serde_json::to_writer(body, &Body { error: self.error() });
        written.expect("strings always become JSON, and a Vec takes them");
    }

    /// The whole answer.
    pub fn response(&self) -> Response {
        let mut body = Vec::new();
        self.write(&mut body);
        let fields = self.field().into_iter().collect();
        Response { status: self.status(), content_type: super::JSON, fields, body }
    }

    /// The whole answer, marked so that `go tool pprof` shows what it says.
    pub fn debug_response(&self) -> Response {
        let mut response = self.response();
        response.content_type = super::TEXT;
        response.fields.push(("X-Go-Pprof", Cow::Borrowed("1")));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(error: ApiError<'_>) -> serde_json::Value {
        serde_json::from_slice(&error.response().body).expect("JSON")
    }

    #[test]
    fn errors_name_what_is_at_fault() {
        let malformed = ApiError::Body(BodyError::Malformed { offset: 17 });
        assert!(body(malformed)["error"]["message"].as_str().expect("text").contains("byte 17"));
        let too_many = ApiError::Body(BodyError::TooManySamples);
        assert_eq!(too_many.status(), 413);
        assert!(body(too_many)["error"]["message"].as_str().expect("text").contains("65536"));
        let parameter = ApiError::Parameter { name: "limit", allowed: "1 to 1000" };
        assert_eq!(body(parameter)["error"]["message"], "`limit` must be 1 to 1000");
    }

    #[test]
    fn hostile_names_stay_inside_their_string() {
        let refusal = SampleRefusal {
            index: 0,
            code: "bad_device",
            status: 400,
            message: "device \"},{\"a\":1\n\u{1}\u{7f}\u{2028}\\ is …".into(),
        };
        assert_eq!(body(ApiError::Sample(&refusal))["error"]["message"], refusal.message);
    }
}
