//! Profiles of this process, as `go tool pprof` reads them.
//!
//! [`symbols`] turns addresses into functions, [`proto`] makes a profile of stacks and values; [`heap`] is
//! the allocator, which knows whose memory it is, and [`memory`] tells it. Nothing here knows HTTP:
//! [`crate::api::debug`] asks, on threads of its own.

pub mod cmdline;
pub mod heap;
pub mod kernel;
pub mod maps;
pub mod memory;
pub mod proto;
pub mod symbols;
