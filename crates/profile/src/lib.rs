//! Profiles of this process, as `go tool pprof` reads them.
//!
//! [`cpu`] takes a CPU profile by one of three samplers: [`perf`], where the kernel copies stacks,
//! [`timer`], where threads copy their own ([`capture`]), or [`pprof_crate`]. [`unwind`] makes return
//! addresses of the copies, by the unwind tables that every binary has, so that nothing is built with frame
//! pointers for the sake of profiles. [`threads`] shows where all threads are.
//!
//! [`symbols`] turns addresses into functions, [`proto`] makes a profile of stacks and values, [`flame`] a
//! picture; [`heap`] is the allocator, which knows whose memory it is, and [`memory`] tells it. Nothing here
//! knows HTTP: the caller runs each profile on a thread of its own.

pub mod capture;
pub mod cmdline;
pub mod cpu;
pub mod flame;
pub mod heap;
pub mod kernel;
pub mod maps;
pub mod memory;
pub mod perf;
pub mod pprof_crate;
pub mod proto;
pub mod samples;
pub mod symbols;
pub mod threads;
pub mod timer;
pub mod unwind;
