//! Whole conversations from strangers: the engine serves what the grammar of the RFCs accepts, and the split of the
//! bytes changes nothing.
#![no_main]

#[path = "../../tests/grammar/agreement.rs"]
mod agreement;
#[path = "../../tests/conversation/mod.rs"]
mod conversation;
#[path = "../../tests/grammar/mod.rs"]
mod grammar;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, &[u8])| {
    let (sizes, data) = input;
    conversation::converse_both_ways(data, &sizes[..sizes.len().min(16)]);
    // The grammar knows no content codings.
    if !data.to_ascii_lowercase().windows(16).any(|name| name == b"content-encoding") {
        agreement::agree(data);
    }
});
