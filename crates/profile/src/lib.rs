#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! [`cpu`] takes a CPU profile by one of three samplers: [`perf`], where the kernel copies stacks,
//! [`timer`], where threads copy their own ([`capture`]), or [`pprof_crate`]. [`unwind`] turns copied
//! stacks into return addresses. [`threads`] lists all threads with their stacks.
//!
//! [`heap`] is the allocator and its statistics; [`memory`] makes profiles of them. [`symbols`] turns
//! addresses into functions, [`proto`] encodes a profile, and [`flame`] draws one. Callers run each profile
//! on a thread of its own.

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
