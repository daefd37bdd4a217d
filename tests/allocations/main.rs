//! Allocations and bytes, counted by thread. One binary: each links the whole server, and tests have threads of their own.

mod analytics;
mod api;
mod counting;
mod decode;
mod detectors;
mod formats;
mod store;

#[path = "../prometheus/mod.rs"]
#[allow(dead_code, reason = "the tests of remote_write use the rest")]
mod prometheus;
