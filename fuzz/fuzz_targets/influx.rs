//! The decoder of line protocol against the plain reader of the agreement tests.
#![no_main]

#[path = "../../tests/lines/mod.rs"]
mod lines;

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use lines::Checked;

thread_local! {
    /// Kept from input to input, so that its caches and buffers are used again as in a worker.
    static CHECKED: RefCell<Checked> = RefCell::new(Checked::new());
}

fuzz_target!(|body: &[u8]| {
    CHECKED.with_borrow_mut(|checked| checked.check(body));
});
