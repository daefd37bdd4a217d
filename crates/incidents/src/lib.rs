//! Incidents: what a person is told.
//!
//! A flag is said of one value. An incident is one cause, with a start, a severity, members in the order in which they
//! began, and a first suspect. [`event`] has what begins and ends to be wrong, [`incident`] what is made of it, and
//! [`book`] how: [`grouping`] says which onsets have one cause, by the parts of device names ([`tokens`]) and by what
//! began [`together`] before. [`rules`] has the silences of operators, [`list`] the reads.
//!
//! [`shared`] makes one book of what several replicas notice.
//!
//! Before that, [`fold`] makes one value of those of an interval, [`watch`] says by it when a stream deviates and when it
//! no longer does, and [`watches`] has all streams. [`silence`] says which devices are
//! no longer heard, and [`reception`] whether anybody is.
//!
//! [`form`] is all of it as bytes, for what outlives the process or goes to another one.
//!
//! Pure: no I/O, no clock, no locks. Time is an argument.

pub mod book;
mod cluster;
pub mod event;
mod explain;
mod extremes;
pub mod fold;
pub mod form;
pub mod grouping;
pub mod incident;
pub mod list;
mod rate;
pub mod reception;
mod resumption;
pub mod rules;
pub mod shared;
pub mod silence;
pub mod together;
pub mod tokens;
mod usual;
pub mod watch;
pub mod watches;
