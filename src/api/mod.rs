//! What each path answers.
//!
//! [`routes`] is the table of paths. A worker's [`router`] takes samples in ([`ingest`]) and passes
//! what reads to the threads of [`reader`], which ask analytics, lay the reports out as
//! [`answers`](crate::answers) and send them through a responder: a worker does no slow work. What tells of the process itself
//! is answered by [`debug`], on threads of its own.

pub mod accept;
pub mod counters;
pub mod debug;
pub mod errors;
pub mod ingest;
pub mod query;
pub mod reader;
pub mod router;
pub mod routes;
#[cfg(test)]
pub(crate) mod testing;
pub mod tokens;

/// The media type of every answer but the scrape.
pub const JSON: &str = "application/json";
/// Text for people.
pub const TEXT: &str = "text/plain; charset=utf-8";
