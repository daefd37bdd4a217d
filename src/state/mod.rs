//! The thread `state`: what analytics knows, to and from the state directory.
//!
//! At the start it reads the newest whole snapshot of each shard, admits the names in the [`registry`](crate::registry),
//! and passes the records to the shards that have their devices now ([`restore`]). Then it asks one shard after the
//! other for a snapshot, each `--snapshot-interval`, and writes what they send ([`thread`]). The last ones come when the
//! analytics threads end.
//!
//! Snapshots of another number of shards are restored as well. While snapshots are read, HTTP is served: samples wait
//! in their queues, and `/readyz` says how far the start is.
//!
//! Invariant: only this thread writes and reads files here, and analytics never waits for it but at the end of a drain.

pub mod counters;
pub mod history;
mod packing;
mod replay;
pub mod replica;
mod restore;
#[cfg(test)]
mod tests;
pub mod thread;
mod translation;
