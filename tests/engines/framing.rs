//! Laws of requests: the engine serves what the grammar of the RFCs accepts and nothing else, and neither
//! the split of the bytes nor the kind of framing changes the requests.

use crate::agreement::agree;
use crate::conversation::{Call, converse, converse_both_ways};
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

/// Bytes that decide something in a grammar of HTTP; a mutation takes them more often than others.
const DECIDING: &[u8] = b"\r\n\0\t :;,=\"\\/?#%[]*01aAfgG+-_.@<{|\x7f\x80\xe9";

/// One change of one place, as a client, a proxy or an attacker may make it.
#[derive(Clone, Debug)]
enum Mutation {
    Insert(u8),
    Replace(u8),
    Remove,
    Repeat(usize),
    Move(usize),
}

fn mutation() -> impl Strategy<Value = (prop::sample::Index, Mutation)> {
    let byte = || prop_oneof![4 => prop::sample::select(DECIDING), 1 => any::<u8>()];
    let kind = prop_oneof![
        byte().prop_map(Mutation::Insert),
        byte().prop_map(Mutation::Replace),
        Just(Mutation::Remove),
        (1..24usize).prop_map(Mutation::Repeat),
        (1..24usize).prop_map(Mutation::Move),
    ];
    (any::<prop::sample::Index>(), kind)
}

fn mutate(data: &mut Vec<u8>, mutations: &[(prop::sample::Index, Mutation)]) {
    for (index, mutation) in mutations {
        if data.is_empty() {
            return;
        }
        let at = index.index(data.len());
        match *mutation {
            Mutation::Insert(byte) => data.insert(at, byte),
            Mutation::Replace(byte) => data[at] = byte,
            Mutation::Remove => drop(data.remove(at)),
            Mutation::Repeat(length) => {
                let part = data[at..data.len().min(at + length)].to_vec();
                data.splice(at..at, part);
            }
            Mutation::Move(length) => {
                let end = data.len().min(at + length);
                let part: Vec<u8> = data.drain(at..end).collect();
                data.extend(part);
            }
        }
    }
}

/// Bytes that a rule of the grammar generates.
fn generated(rule: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let form = format!("(?s-u:{})", crate::grammar::rule(rule));
    proptest::string::bytes_regex(&form).expect("a regular expression")
}

/// A request made of generated parts: line, Host, further fields, and a body in chunks or with a length.
fn generated_request() -> impl Strategy<Value = Vec<u8>> {
    let target = prop_oneof![generated("origin-form"), generated("absolute-form")];
    let chunk = (1..20usize, generated("chunk-ext"));
    let body = prop_oneof![
        (0..20usize).prop_map(|length| {
            [format!("Content-Length: {length}\r\n\r\n").into_bytes(), vec![b'x'; length]].concat()
        }),
        (vec(chunk, 0..3), generated("chunk-ext"), generated("trailer-section")).prop_map(
            |(chunks, last, trailers)| {
                let mut data = b"Transfer-Encoding: chunked\r\n\r\n".to_vec();
                for (length, extension) in chunks {
                    data.extend(format!("{length:x}").bytes().chain(extension));
                    data.extend([b"\r\n", &vec![b'y'; length][..], b"\r\n"].concat());
                }
                data.extend([b"0", &last[..], b"\r\n", &trailers].concat());
                data
            }
        ),
    ];
    let field = generated("field-line");
    let parts =
        (generated("method"), target, "[0-9]", generated("authority"), vec(field, 0..3), body);
    parts.prop_map(|(method, target, minor, authority, fields, body)| {
        let mut data =
            [&method[..], b" ", &target, b" HTTP/1.", minor.as_bytes(), b"\r\n"].concat();
        data.extend([b"Host: ", &authority[..], b"\r\n"].concat());
        for field in fields {
            data.extend([&field[..], b"\r\n"].concat());
        }
        data.extend(body);
        data
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_the_grammar_generates_is_served(data in generated_request()) {
        agree(&data);
    }

    #[test]
    fn what_is_served_is_what_the_grammar_accepts(
        mut data in generated_request(),
        mutations in vec(mutation(), 1..4),
        sizes in vec(any::<u8>(), 1..4),
    ) {
        mutate(&mut data, &mutations);
        agree(&data);
        converse_both_ways(&data, &sizes);
    }

    #[test]
    fn a_host_is_an_authority(
        mut host in generated("authority"),
        mutations in vec(mutation(), 0..3),
    ) {
        mutate(&mut host, &mutations);
        for (before, after) in [("GET / HTTP/1.1\r\nHost:", "\r\n\r\n"), ("GET http://", "/a HTTP/1.0\r\n\r\n")] {
            agree(&[before.as_bytes(), &host, after.as_bytes()].concat());
        }
    }

    #[test]
    fn a_request_line_follows_its_grammar(
        mut line in generated("request-line"),
        mutations in vec(mutation(), 0..3),
    ) {
        mutate(&mut line, &mutations);
        agree(&[&line, &b"\r\nHost: a\r\n\r\n"[..]].concat());
    }

    #[test]
    fn a_chunk_line_follows_its_grammar(
        extension in generated("chunk-ext"),
        mutations in vec(mutation(), 0..3),
    ) {
        let mut line = [b"00003", &extension[..]].concat();
        mutate(&mut line, &mutations);
        let head = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        agree(&[head, &line[..], b"\r\nabc\r\n0", &extension, b"\r\n\r\n"].concat());
    }

    #[test]
    fn framing_fields_decide_alone(
        fields in vec(prop::sample::select(FRAMING_FIELDS), 1..4),
        minor in 0..3u8,
        mutations in vec(mutation(), 0..2),
    ) {
        let mut lines = fields.join("\r\n").into_bytes();
        mutate(&mut lines, &mutations);
        let line = format!("POST /a HTTP/1.{minor}\r\nHost: a\r\n").into_bytes();
        agree(&[&line, &lines[..], b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n"].concat());
    }
}

const FRAMING_FIELDS: &[&str] = &[
    "Content-Length: 15",
    "Content-Length:5",
    "content-length: 015",
    "Content-Length: 15, 15",
    "Transfer-Encoding: chunked",
    "transfer-encoding:\tChunked ",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding:",
    "Connection: close",
    "Connection: keep-alive, x",
    "Expect: 100-continue",
    "Expect: x",
    "Host: b",
    "X: y",
    "X:",
];
