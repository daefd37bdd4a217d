//! Allocations and bytes, counted by thread. One binary: each links the whole server, and tests have threads of their own.

mod analytics;
mod api;
mod counting;
mod decode;
mod detectors;
mod store;
