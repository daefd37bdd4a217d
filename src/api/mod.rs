//! The HTTP interface: what each path does.
//!
//! [`routes`] is the table of paths, and [`actions`] what they can do. A worker's [`router`] takes samples ([`ingest`]) and passes reads
//! to the threads of [`reader`]. A reader asks analytics, writes the report as JSON
//! ([`answers`](crate::answers)) and answers through a responder, so a worker never does slow work.
//! Paths below `/debug/` are answered by [`debug`], on threads of its own.

pub mod accept;
pub mod acknowledge;
pub mod actions;
pub mod counters;
pub mod debug;
pub mod errors;
mod exchange;
mod incidents;
mod influx;
pub mod ingest;
mod operations;
pub mod query;
pub mod reader;
pub mod router;
pub mod routes;
#[cfg(test)]
pub(crate) mod testing;
pub mod tokens;
mod wrong_tokens;

/// The media type of most answers.
pub const JSON: &str = "application/json";
/// The media type of plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";
