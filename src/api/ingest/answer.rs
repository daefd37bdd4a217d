//! What a convention answers.

use smallvec::SmallVec;

use crate::http::message::HeaderField;

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
