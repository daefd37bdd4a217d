//! What a convention answers.

use crate::http::message::HeaderField;

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
