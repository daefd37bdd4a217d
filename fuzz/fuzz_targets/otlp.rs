//! OTLP's protobuf against the messages of opentelemetry-proto and the plain reader of the agreement tests.
#![no_main]

#[path = "../../tests/reference_otlp/mod.rs"]
mod reference_otlp;

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use reference_otlp::Checked;

thread_local! {
    /// Kept from input to input, so that its caches and buffers are used again as in a worker.
    static CHECKED: RefCell<Checked> = RefCell::new(Checked::new());
}

fuzz_target!(|body: &[u8]| {
    CHECKED.with_borrow_mut(|checked| checked.check(body));
});
