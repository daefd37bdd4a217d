//! Laws of framing: neither the split of the bytes nor the kind of framing changes the requests.

mod conversation;

use conversation::{Call, converse, converse_both_ways};
use proptest::collection::vec;
use proptest::prelude::*;

fn with_length(body: &[u8]) -> Vec<u8> {
    let mut request =
        format!("POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len())
            .into_bytes();
    request.extend_from_slice(body);
    request
}

fn chunked(body: &[u8], sizes: &[u8]) -> Vec<u8> {
    let mut request =
        b"POST /a?b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let mut rest = body;
    for size in sizes.iter().chain([&u8::MAX]).cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, behind) = rest.split_at(rest.len().min(usize::from(*size) + 1));
        request.extend_from_slice(format!("{:x};e=1\r\n", chunk.len()).as_bytes());
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
        rest = behind;
    }
    request.extend_from_slice(b"0\r\nTrailer: x\r\n\r\n");
    request
}

proptest! {
    #[test]
    fn chunked_and_content_length_carry_the_same_body(
        bodies in vec((vec(any::<u8>(), 0..300), vec(any::<u8>(), 0..8), any::<bool>()), 1..6),
        sizes in vec(any::<u8>(), 1..8),
    ) {
        let mut data = Vec::new();
        for (body, chunks, is_chunked) in &bodies {
            data.extend(if *is_chunked { chunked(body, chunks) } else { with_length(body) });
        }
        let expected: Vec<Call> = bodies
            .iter()
            .map(|(body, ..)| Call { path: "/a".into(), query: "b".into(), body: body.clone() })
            .collect();
        let conversation = converse([&data[..]], false);
        prop_assert_eq!(conversation.calls, expected);
        prop_assert!(!conversation.is_closing);
        converse_both_ways(&data, &sizes);
    }

    #[test]
    fn damaged_requests_are_equal_in_every_split(
        body in vec(any::<u8>(), 0..40),
        chunks in vec(any::<u8>(), 0..4),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        sizes in vec(any::<u8>(), 1..8),
    ) {
        let mut data = chunked(&body, &chunks);
        data.extend(with_length(&body));
        for (index, byte) in damage {
            let at = index.index(data.len());
            data[at] = byte;
        }
        converse_both_ways(&data, &sizes);
    }
}

#[test]
fn no_prefix_of_a_request_calls_anything() {
    for request in [with_length(b"hello"), chunked(b"hello", &[1])] {
        for end in 0..request.len() {
            let conversation = converse([&request[..end]], true);
            assert_eq!(conversation.calls, [], "{end}");
            assert!(conversation.is_closing, "{end}");
            assert!(conversation.statuses.iter().all(|&status| status == 400), "{end}");
        }
    }
}

#[test]
fn a_thousand_pipelined_requests_are_all_called() {
    let data = with_length(b"x").repeat(1000);
    let conversation = converse([&data[..]], false);
    assert_eq!(conversation.statuses, [200; 1000]);
    converse_both_ways(&data, &[254, 3]);
}
