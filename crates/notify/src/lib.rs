//! Tells others of incidents: Alertmanager, and webhooks as JSON, for Slack or for ntfy.
//!
//! Each target has a thread of its own, so that one which does not answer delays no other and nothing else of sigmad.
//! The thread asks the book of incidents what has changed, and sends what is due.
//!
//! | file | content |
//! | --- | --- |
//! | [`settings`], [`target`] | the flags; a URL without its secrets |
//! | [`alerts`] | what Alertmanager is told when. Pure |
//! | [`outbox`] | what a webhook is told when. Pure |
//! | [`notes`] | what was told, as bytes for a restart |
//! | [`message`] | the bodies for webhooks |
//! | [`retry`] | when a target that failed is tried again. Pure |
//! | [`client`] | one HTTP request and its answer |
//! | [`sender`] | the thread of one target |
//! | [`trial`] | `sigmad notify-test` |
//!
//! Invariant: only [`client`] does I/O, and only [`sender`] and [`trial`] call it.

pub mod alerts;
pub mod client;
pub mod counters;
pub mod message;
pub mod notes;
pub mod outbox;
pub mod retry;
pub mod sender;
pub mod settings;
pub mod target;
#[cfg(test)]
mod testing;
pub mod trial;
