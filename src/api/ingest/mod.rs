//! The conventions of senders: how a request says its format, and how its outcome is answered.
//!
//! A convention is a file here, a variant of [`Convention`], and rows of the route table. The router decodes the body
//! and counts; what is kept and refused does not depend on the convention. [`json`] is sigmad's own.

mod answer;
pub mod influx;
pub mod json;
pub mod otlp;
pub mod remote_write;
pub mod text;

use super::actions::{Convention, OtlpCoding};
use super::errors::ApiError;
use crate::decode::{BodyError, Decoded, Decoder, Format};
use crate::http::message::{Headers, Request};

pub use self::answer::{Answer, Fields};

/// The convention of a request to a path of `convention`: the answer to OTLP is written as the request was.
#[inline]
pub fn of_request(convention: Convention, request: &Request<'_>) -> Convention {
    match convention {
        Convention::Otlp(default) => {
            Convention::Otlp(OtlpCoding::of(&request.headers).unwrap_or(default))
        }
        other => other,
    }
}

/// The format of a body. What the head says of all its series is told to `decoder`.
///
/// # Errors
/// When the head of the request says that the body is of no format of this path.
#[inline]
pub fn format(
    convention: Convention,
    request: &Request<'_>,
    decoder: &mut Decoder,
) -> Result<Format, ApiError<'static>> {
    match convention {
        Convention::Json { .. } => Ok(json::format(&request.headers)),
        Convention::RemoteWrite => remote_write::format(&request.headers),
        Convention::Influx(version) => influx::format(version, request),
        Convention::Push => text::push_format(request, decoder.grouping()),
        Convention::Import => text::import_format(request, decoder.grouping()),
        Convention::Forget => {
            text::push_format(request, decoder.grouping()).map(|_| Format::Nothing)
        }
        Convention::Otlp(_) => otlp::format(&request.headers),
    }
}

/// The error of a body that cannot be read: on the paths of JSON the type that the head says tells more.
#[cold]
pub fn body_error(
    convention: Convention,
    headers: &Headers<'_>,
    error: BodyError,
) -> ApiError<'static> {
    match convention {
        Convention::Json { .. } if json::is_of_no_decoder(headers, error) => {
            ApiError::MediaType(json::TAKEN)
        }
        _ => ApiError::Body(error),
    }
}

/// Answers a body that `decoder` has read, and of which what could be kept is kept. The body of the `request` is as
/// the decoder left it.
pub fn answer(
    convention: Convention,
    request: &Request<'_>,
    decoded: Decoded,
    decoder: &Decoder,
    body: &mut Vec<u8>,
) -> Answer {
    let refusals = decoder.refusals();
    match convention {
        Convention::Json { success } => {
            let values = decoder.values();
            let status = json::write_refused(decoded, values, refusals, success, body);
            Answer { status, content_type: super::JSON, fields: Fields::new() }
        }
        Convention::RemoteWrite => remote_write::answer(decoded, refusals, decoder.written(), body),
        Convention::Influx(version) => influx::answer(version, request, decoded, refusals, body),
        Convention::Push | Convention::Forget => {
            text::answer_push(convention.success(), decoded, refusals, body)
        }
        Convention::Import => text::answer_import(body),
        Convention::Otlp(coding) => otlp::answer(coding, decoded, decoder.values(), refusals, body),
    }
}

/// Answers a request of which nothing is kept.
pub fn refuse(convention: Convention, error: &ApiError<'_>, body: &mut Vec<u8>) -> Answer {
    match convention {
        Convention::Json { .. } => {
            error.write(body);
            let fields = error.field().into_iter().collect();
            Answer { status: error.status(), content_type: super::JSON, fields }
        }
        Convention::RemoteWrite => remote_write::refuse(error, body),
        Convention::Influx(version) => influx::refuse(version, error, body),
        Convention::Push | Convention::Forget | Convention::Import => text::refuse(error, body),
        Convention::Otlp(coding) => otlp::refuse(coding, error, body),
    }
}
