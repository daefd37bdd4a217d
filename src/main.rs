//! The `sigmad` binary.
fn main() {}
