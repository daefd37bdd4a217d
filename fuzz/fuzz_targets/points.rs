//! The decoders of points that no plain reader judges: what they keep is within the bounds, whatever the body.
#![no_main]

#[path = "../../tests/points_bounds/mod.rs"]
mod points_bounds;

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use points_bounds::Checked;

thread_local! {
    /// Kept from input to input, so that its caches and buffers are used again as in a worker.
    static CHECKED: RefCell<Checked> = RefCell::new(Checked::new());
}

fuzz_target!(|input: &[u8]| {
    CHECKED.with_borrow_mut(|checked| checked.check(input));
});
