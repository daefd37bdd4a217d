//! What a convention answers.

use smallvec::SmallVec;

use crate::api::TEXT;
use crate::api::errors::ApiError;
use crate::http::message::{HeaderField, Response};

/// One is in place: a full queue answers 503 with `Retry-After`, and must not allocate for it.
pub type Fields = SmallVec<[HeaderField; 1]>;

/// An answer whose body is in the buffer of the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The media type of the body.
    pub content_type: &'static str,
    /// Further header fields.
    pub fields: Fields,
}

impl Answer {
    /// One of JSON, without further fields.
    pub fn json(status: u16) -> Self {
        Self { status, content_type: crate::api::JSON, fields: Fields::new() }
    }

    /// One of plain text, to a request of which nothing is kept.
    pub fn refusal(error: &ApiError<'_>, message: &str, body: &mut Vec<u8>) -> Self {
        body.clear();
        body.extend_from_slice(message.as_bytes());
        body.push(b'\n');
        let fields = error.field().into_iter().collect();
        Self { status: error.status(), content_type: TEXT, fields }
    }

    /// The answer with this body.
    pub fn into_response(self, body: Vec<u8>) -> Response {
        let Self { status, content_type, fields } = self;
        Response { status, content_type, fields: fields.into_vec(), body }
    }
}
