//! Where memory is held, and by whom: profiles of the running process.

pub mod heap;
