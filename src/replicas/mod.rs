//! What replicas that share one Redis do together: one book of incidents.
//!
//! The [`thread`] `replicas` has a connection of its own, so that it never waits for samples. Each turn it writes what
//! this replica claims, and asks for the lease ([`lease`]). The replica that has the lease joins the claims of all
//! ([`sigmad_incidents::shared`]) and writes the book ([`document`]); the others read it. An order of an operator goes
//! through Redis to the holder, and is done once the book shows it.
//!
//! The thread also carries what replicas record for `/history` ([`history`]).
//!
//! Nobody waits for Redis: readers take what the thread left ([`crate::incidents::shared`]).

mod commands;
pub mod counters;
mod document;
mod history;
mod holder;
mod lease;
mod packed;
pub mod thread;
