//! The conventions of senders: how a request says its format, and how its outcome is answered.
//!
//! A convention is a file here, a variant of [`Convention`], and rows of the route table. The router decodes the body
//! and counts; what is kept and refused does not depend on the convention. [`json`] is sigmad's own.

pub mod json;

use super::errors::ApiError;
use super::routes::Convention;
use crate::decode::{Decoded, Format, SampleRefusal};
use crate::http::message::{HeaderField, Request};

/// An answer whose body is in the buffer of the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The media type of the body.
    pub content_type: &'static str,
    /// Further header fields.
    pub fields: Vec<HeaderField>,
}

/// The format of a body.
///
/// # Errors
/// When the head of the request says that the body is of no format of this path.
#[inline]
pub fn format(convention: Convention, request: &Request<'_>) -> Result<Format, ApiError<'static>> {
    match convention {
        Convention::Json { .. } => Ok(json::format(&request.headers)),
    }
}

/// Answers a body that was read, and of which what could be kept is kept.
pub fn answer(
    convention: Convention,
    decoded: Decoded,
    refusals: &[SampleRefusal],
    body: &mut Vec<u8>,
) -> Answer {
    match convention {
        Convention::Json { success } => {
            let status = json::write_refused(decoded, refusals, success, body);
            Answer { status, content_type: super::JSON, fields: Vec::new() }
        }
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
    }
}
