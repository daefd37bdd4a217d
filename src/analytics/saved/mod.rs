//! What a shard knows, as bytes: taken while it judges, and put back at a start.
//!
//! A snapshot is a sequence of records ([`form`]): first what all others need, then the fleet's streams, then devices and
//! their streams. It is what the shard knew when the snapshot began, to the last bit. [`export`] takes it in
//! steps: a batch that would change something not taken so far takes that first, so judging never waits.
//!
//! Ids in a snapshot are those of the process that took it. The start translates them (`src/state`), and
//! [`restore`] puts the records into the shard that has them now.

pub mod export;
pub mod form;
pub mod link;
pub mod restore;
