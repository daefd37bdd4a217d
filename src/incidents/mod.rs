//! The thread `incidents`: it owns the book of incidents ([`sigmad_incidents`]).
//!
//! Analytics sends events ([`events`]), readers and notifiers ask ([`asker`]). The thread sleeps until either comes, or
//! until a silence begins or ends. With a state directory the thread `keeper` ([`keeper`]) keeps the book there.

pub mod asker;
pub mod counters;
pub mod events;
pub mod keeper;
pub mod thread;
