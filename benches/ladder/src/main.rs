//! The servers between the one that one would write first and sigmad, each one change from the one
//! before, and others to compare with.
//!
//! ```text
//! ladder --list                                   what the rungs are, as JSON
//! ladder --rung 3 --listen 127.0.0.1:8080         by number or name
//!        [--redis-url URL] [--workers N] [--cpu 0,1]
//! ```
//!
//! All answer sigmad's API as far as the measurement asks, and do the same work: every value is judged
//! by the windows of its device and of the fleet, and enters both. The allocator belongs to a program as
//! a whole, so the upper rungs are in a second one, `ladder-mimalloc`, which this one becomes.

#[path = "program.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::main(false)
}
