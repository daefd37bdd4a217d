//! Reports of the analytics thread as JSON, for the read paths and the live page.
//!
//! Pure: a report in, a body out. The output is always valid JSON: the decoder has refused values
//! that are not finite, which serde_json would write as null.

pub mod incidents;
pub mod incidents_page;
pub(crate) mod json;
pub mod lists;
pub mod windows;
