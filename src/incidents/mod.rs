//! The thread `incidents`: it owns the book of incidents ([`sigmad_incidents`]).
//!
//! Analytics sends events ([`events`]), readers and notifiers ask ([`asker`]). The thread sleeps until either comes, or
//! until a silence begins or ends. With a state directory the thread `keeper` ([`keeper`]) keeps the book there.
//! With Redis there is a book of the cluster too: [`shared`] says which one answers.

pub mod asker;
pub mod counters;
pub mod events;
pub mod fleet;
pub mod keeper;
pub mod notes;
pub mod shared;
pub mod thread;
pub mod told;
