//! Incidents: what a person is told.
//!
//! A flag is said of one value. An incident is one cause, with a start, a severity, members in the order in which they
//! began, and a first suspect. [`event`] has what begins and ends to be wrong, [`incident`] what is made of it.
//!
//! Pure: no I/O, no clock, no locks. Time is an argument.

pub mod event;
pub mod incident;
