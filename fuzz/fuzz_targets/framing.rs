//! Whole conversations from strangers: the split of the bytes changes nothing.
#![no_main]

#[path = "../../tests/conversation/mod.rs"]
mod conversation;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, &[u8])| {
    let (sizes, data) = input;
    conversation::converse_both_ways(data, &sizes[..sizes.len().min(16)]);
});
