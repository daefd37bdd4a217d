//! The decoder against the naive one of the agreement tests. The first byte of the input says
//! whether the client called its body NDJSON; the rest is the body.
#![no_main]

#[path = "../../tests/reference/mod.rs"]
mod reference;

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use reference::Checked;

thread_local! {
    /// Kept from input to input, so that its caches and buffers are used again as in a worker.
    static CHECKED: RefCell<Checked> = RefCell::new(Checked::new());
}

fuzz_target!(|input: &[u8]| {
    if let Some((flags, body)) = input.split_first() {
        CHECKED.with_borrow_mut(|checked| checked.check(body, flags & 1 == 1));
    }
});
