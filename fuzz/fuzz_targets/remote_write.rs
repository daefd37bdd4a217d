//! remote_write against prost and the naive reader of the agreement tests. The first byte of the input says the version;
//! the rest is the body, which is read twice, the second time with what the caches know.
#![no_main]

#[path = "../../tests/prometheus/mod.rs"]
#[allow(dead_code)] // Builders of the tests.
mod prometheus;

use libfuzzer_sys::fuzz_target;
use prometheus::server::{Server, check};
use sigmad::decode::Format;

fuzz_target!(|input: &[u8]| {
    if let Some((version, body)) = input.split_first() {
        let format = if version & 1 == 1 { Format::RemoteWrite1 } else { Format::RemoteWrite2 };
        // Anew each time: names that stay would fill the registry.
        let mut server = Server::new(4_096);
        check(&mut server, body, format);
        check(&mut server, body, format);
    }
});
