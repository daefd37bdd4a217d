//! Errors of whole requests, each with its status, code and message.

use std::borrow::Cow;

use serde::Serialize;
use tracing::debug;

use super::routes::{self, Label};
use super::tokens::Denied;
use crate::dashboard::subscriber::CLIENTS_MAX;
use crate::decode::{BodyError, SampleRefusal};
use crate::http::client_address::ClientAddress;
use crate::http::message::{HeaderField, Response};
use sigmad_incidents::rules::RULES_MAX;
use sigmad_sample::QUEUE_SAMPLES_MAX;

/// Why a request fails.
#[derive(Clone, Copy, Debug)]
pub enum ApiError<'a> {
    /// No such path as this one.
    NotFound(&'a str),
    /// The path has only these methods.
    WrongMethod(&'static str),
    /// The token is missing or wrong.
    Denied(Denied),
    /// The path takes only bodies of these media types.
    MediaType(&'static str),
    /// The body cannot be read.
    Body(BodyError),
    /// The one sample of the body is refused.
    Sample(&'a SampleRefusal),
    /// The samples do not fit into the worker's queue.
    QueueFull,
    /// The samples are judged, and may be lost: the state directory has not taken them.
    NotDurable,
    /// Too many reads are queued.
    ReadsFull,
    /// Too many clients of `/events`.
    EventsFull,
    /// Too many requests below `/debug/` at once.
    DebugFull,
    /// Another profile of this kind is running, for this many seconds more.
    ProfileRuns(u64),
    /// The kernel or the container does not permit profiling.
    Unprofilable(&'a str),
    /// The analytics thread has stopped.
    Stopping,
    /// A bug in sigmad.
    Internal,
    /// The body is larger than any of this path needs to be: so many bytes.
    TooLarge(usize),
    /// The incident is resolved already.
    Resolved,
    /// Too many silences.
    SilencesFull,
    /// The cluster has not done what an operator asked for.
    NotDone,
    /// There is no such incident, silence or device.
    Missing(&'static str),
    /// An invalid query parameter.
    Parameter {
        /// Its name.
        name: &'static str,
        /// What is allowed.
        allowed: &'static str,
    },
}

/// The body of every error.
#[derive(Serialize)]
struct ErrorJson<'a> {
    error: ErrorFields<'a>,
}

/// The fields of an error.
#[derive(Serialize)]
pub struct ErrorFields<'a> {
    /// Error code in snake case.
    pub code: &'a str,
    /// Names the field, line or limit at fault.
    pub message: Cow<'a, str>,
}

/// The report of a thread; None once it has stopped.
pub(super) fn answered<T>(report: Option<T>) -> Result<T, ApiError<'static>> {
    report.ok_or(ApiError::Stopping)
}

impl ApiError<'_> {
    /// One line a refusal, at `debug`: strangers must not be able to fill a log at `info`.
    #[cold]
    pub fn log(&self, client: ClientAddress, label: Label) {
        let (path, status, reason) = (label.path(), self.status(), self.code());
        debug!(%client, path, status, reason, "refused");
    }

    /// The status code.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Body(
                BodyError::Empty
                | BodyError::Malformed { .. }
                | BodyError::NotAnObject
                | BodyError::Foreign(_)
                | BodyError::Unsupported(_),
            )
            | Self::Parameter { .. } => 400,
            Self::Denied(Denied::Missing) => 401,
            Self::Denied(Denied::Wrong | Denied::Remote | Denied::ForeignOrigin) => 403,
            Self::Denied(Denied::Throttled) | Self::SilencesFull => 429,
            Self::NotFound(_) | Self::Missing(_) => 404,
            Self::WrongMethod(_) => 405,
            Self::ProfileRuns(_) | Self::Resolved => 409,
            Self::Body(BodyError::TooManySamples) | Self::TooLarge(_) => 413,
            Self::MediaType(_) => 415,
            Self::Sample(refusal) => refusal.status,
            Self::Internal | Self::Unprofilable(_) => 500,
            Self::QueueFull
            | Self::NotDurable
            | Self::ReadsFull
            | Self::EventsFull
            | Self::DebugFull
            | Self::NotDone
            | Self::Stopping => 503,
        }
    }

    /// The header field of the answer, if it has one.
    pub fn field(&self) -> Option<HeaderField> {
        match self {
            Self::WrongMethod(allow) => Some(("Allow", Cow::Borrowed(allow))),
            Self::Denied(Denied::Missing) => Some(("WWW-Authenticate", Cow::Borrowed("Bearer"))),
            Self::Denied(Denied::Throttled) => Some(("Retry-After", Cow::Borrowed("60"))),
            Self::QueueFull
            | Self::NotDurable
            | Self::ReadsFull
            | Self::EventsFull
            | Self::DebugFull
            | Self::NotDone => Some(("Retry-After", Cow::Borrowed("1"))),
            Self::ProfileRuns(seconds) => Some(("Retry-After", seconds.to_string().into())),
            _ => None,
        }
    }

    /// The code of the answer, in snake case.
    pub const fn code(&self) -> &str {
        match self {
            Self::NotFound(_) | Self::Missing(_) => "not_found",
            Self::WrongMethod(_) => "method_not_allowed",
            Self::Denied(Denied::Missing) => "token_missing",
            Self::Denied(Denied::Wrong) => "token_wrong",
            Self::Denied(Denied::Throttled) => "too_many_wrong_tokens",
            Self::Denied(Denied::Remote) => "loopback_only",
            Self::Denied(Denied::ForeignOrigin) => "foreign_origin",
            Self::TooLarge(_) => "body_too_large",
            Self::Resolved => "resolved",
            Self::SilencesFull => "too_many_silences",
            Self::MediaType(_) => "unsupported_media_type",
            Self::Body(BodyError::Empty) => "empty_body",
            Self::Body(BodyError::NotAnObject) => "not_an_object",
            Self::Body(BodyError::Malformed { .. }) => "malformed_json",
            Self::Body(BodyError::TooManySamples) => "too_many_samples",
            Self::Body(BodyError::Foreign(_)) => "wrong_format",
            Self::Body(BodyError::Unsupported(_)) => "unsupported",
            Self::Sample(refusal) => refusal.code,
            Self::QueueFull => "queue_full",
            Self::NotDurable => "not_durable",
            Self::ReadsFull => "too_many_reads",
            Self::EventsFull => "too_many_clients",
            Self::DebugFull => "too_many_profiles",
            Self::ProfileRuns(_) => "profile_runs",
            Self::Unprofilable(_) => "unprofilable",
            Self::NotDone => "not_done",
            Self::Stopping => "stopping",
            Self::Internal => "internal",
            Self::Parameter { .. } => "bad_parameter",
        }
    }

    /// Names what is at fault.
    pub fn message(&self) -> Cow<'_, str> {
        match self {
            Self::NotFound(path) => routes::no_such_path(path).into(),
            Self::Missing(what) => format!("there is no such {what}").into(),
            Self::WrongMethod(allow) => format!("this path allows only {allow}").into(),
            Self::Denied(Denied::Missing) => {
                "this path requires a token: `Authorization: Bearer …`".into()
            }
            Self::Denied(Denied::Wrong) => "the token is wrong".into(),
            Self::Denied(Denied::Throttled) => {
                "the token is wrong, as many others from this address were".into()
            }
            Self::Denied(Denied::Remote) => {
                "this path is open to local requests only: from loopback or a Unix socket, with a Host that names \
                 loopback, by HTTP/1.1, and without fields of a proxy or of another site; \
                 others need --debug-token, or --operator-token, and its token"
                    .into()
            }
            Self::Denied(Denied::ForeignOrigin) => {
                "a page of another site may not do this: `Origin` must be that of the Host".into()
            }
            Self::TooLarge(bytes) => format!("the body is larger than {bytes} bytes").into(),
            Self::Resolved => "the incident is resolved".into(),
            Self::SilencesFull => format!("there are {RULES_MAX} silences already").into(),
            Self::MediaType(taken) => format!("the Content-Type must be {taken}").into(),
            Self::Body(BodyError::Empty) => "the body holds no sample".into(),
            Self::Body(BodyError::NotAnObject) => {
                "the body must be a JSON object, or an array of objects".into()
            }
            Self::Body(BodyError::Malformed { offset }) => {
                format!("the body is not JSON, near byte {offset}").into()
            }
            Self::Body(BodyError::Foreign(format)) => format.message().into(),
            Self::Body(BodyError::Unsupported(advice)) => (*advice).into(),
            Self::Body(BodyError::TooManySamples) => {
                format!("the body holds more than {QUEUE_SAMPLES_MAX} samples, or more readings than the queue").into()
            }
            Self::Sample(refusal) => refusal.message.as_str().into(),
            // No allocation: this is the answer under overload.
            Self::QueueFull => {
                "the queue to analytics is full; no sample of this request was accepted".into()
            }
            Self::NotDurable => {
                "the state directory did not take these samples: they are judged, and a crash may lose them".into()
            }
            Self::ReadsFull => "too many reads are queued".into(),
            Self::EventsFull => format!("{CLIENTS_MAX} clients already receive events").into(),
            Self::DebugFull => "too many requests below /debug/ are running".into(),
            Self::ProfileRuns(seconds) => {
                format!("another profile of this kind is running, for {seconds} s more").into()
            }
            Self::Unprofilable(why) => (*why).into(),
            Self::NotDone => {
                "the replicas have not agreed on it in time; ask again, and look at Redis".into()
            }
            Self::Stopping => "the server is stopping".into(),
            Self::Internal => "internal error; the log has the details".into(),
            Self::Parameter { name, allowed } => format!("`{name}` must be {allowed}").into(),
        }
    }

    fn fields(&self) -> ErrorFields<'_> {
        ErrorFields { code: self.code(), message: self.message() }
    }

    /// Replaces `body` by the body of the answer.
    pub fn write(&self, body: &mut Vec<u8>) {
        body.clear();
        let written = serde_json::to_writer(body, &ErrorJson { error: self.fields() });
        written.expect("strings have a JSON form, and writing to a Vec cannot fail");
    }

    /// The whole answer.
    pub fn response(&self) -> Response {
        let mut body = Vec::new();
        self.write(&mut body);
        let fields = self.field().into_iter().collect();
        Response { status: self.status(), content_type: super::JSON, fields, body }
    }

    /// The whole answer, marked so that `go tool pprof` shows its message.
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
    fn errors_name_the_cause() {
        let malformed = ApiError::Body(BodyError::Malformed { offset: 17 });
        assert!(body(malformed)["error"]["message"].as_str().expect("text").contains("byte 17"));
        let too_many = ApiError::Body(BodyError::TooManySamples);
        assert_eq!(too_many.status(), 413);
        assert!(body(too_many)["error"]["message"].as_str().expect("text").contains("65536"));
        let media_type = ApiError::MediaType("application/json");
        assert_eq!((media_type.status(), media_type.code()), (415, "unsupported_media_type"));
        assert_eq!(
            body(media_type)["error"]["message"],
            "the Content-Type must be application/json"
        );
        let parameter = ApiError::Parameter { name: "limit", allowed: "1 to 1000" };
        assert_eq!(body(parameter)["error"]["message"], "`limit` must be 1 to 1000");
    }

    #[test]
    fn hostile_names_are_escaped() {
        let refusal = SampleRefusal {
            index: 0,
            code: "bad_device",
            status: 400,
            message: "device \"},{\"a\":1\n\u{1}\u{7f}\u{2028}\\ is …".into(),
        };
        assert_eq!(body(ApiError::Sample(&refusal))["error"]["message"], refusal.message);
    }
}
