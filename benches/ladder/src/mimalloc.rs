//! The rungs with sigmad's allocator, its sampling of the heap included; `ladder` starts this program for
//! them.

use mimalloc::MiMalloc;
use sigmad_profile::heap::Sampled;

#[path = "program.rs"]
mod program;

#[global_allocator]
static ALLOCATOR: Sampled<MiMalloc> = Sampled(MiMalloc);

fn main() -> std::process::ExitCode {
    program::main(true)
}
