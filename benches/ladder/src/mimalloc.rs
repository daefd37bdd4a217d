//! The rungs with sigmad's allocator; `ladder` starts this program for them.

#[path = "program.rs"]
mod program;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    program::main(true)
}
