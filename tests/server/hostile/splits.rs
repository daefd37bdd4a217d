//! Valid requests cut after each prefix, and sent in pieces at every place.

use super::cases::{BODY, chunks, with_lines};
use super::limits::{gzip, packed, snappy};
use crate::harness::{Connection, Engine, Failure, Server, post, request, shown};

fn valid_requests() -> Vec<Vec<u8>> {
    vec![
        post("/ingest", BODY),
        chunks(&[b"8;x=y\r\n", &BODY[..8], b"\r\n9\r\n", &BODY[8..], b"\r\n0\r\nX-T: 1\r\n\r\n"]),
        request("POST", "/ingest", &[("Expect", "100-continue")], BODY),
        request("POST", "/ingest?a=b", &[("Content-Encoding", "gzip")], &gzip(BODY)),
        packed("snappy", &snappy(BODY)),
        with_lines("X-Forwarded-For: 1.2.3.4\r\nConnection: close\r\n"),
    ]
}

#[test]
fn every_prefix_then_fin() {
    let server = Server::start(Engine::Native, &[]);
    for bytes in valid_requests() {
        for end in 0..bytes.len() {
            let mut connection = server.connect();
            connection.send(&bytes[..end]);
            connection.finish();
            let what = || shown(&bytes[..end]);
            loop {
                match connection.read() {
                    Ok(answer) if answer.status == 100 => {}
                    Ok(answer) => {
                        assert!(
                            (400..500).contains(&answer.status),
                            "{} to {}",
                            answer.status,
                            what()
                        );
                    }
                    Err(failure) => {
                        assert_eq!(failure, Failure::Closed, "after {}", what());
                        break;
                    }
                }
            }
        }
    }
    assert_eq!(server.total(), 0);
    server.ingest(r#"{"rps":1}"#).expect(202);
}

fn expect_accepted(connection: &mut Connection, what: &str) {
    loop {
        match connection.read() {
            Ok(answer) if answer.status == 100 => {}
            Ok(answer) => return assert_eq!(answer.accepted(), 1, "{what}"),
            Err(failure) => panic!("{failure:?}: {what}"),
        }
    }
}

#[test]
fn split_at_every_byte() {
    let server = Server::start(Engine::Native, &[]);
    let mut count = 0;
    for bytes in valid_requests() {
        for at in 1..bytes.len() {
            let mut connection = server.connect();
            connection.send_parts([&bytes[..at], &bytes[at..]]);
            expect_accepted(&mut connection, &format!("split at {at} of {}", shown(&bytes)));
            count += 1;
        }
    }
    assert_eq!(server.total(), count);
}

#[test]
fn byte_by_byte() {
    let server = Server::start(Engine::Native, &[]);
    for bytes in valid_requests() {
        let mut connection = server.connect();
        connection.send_parts(bytes.chunks(1));
        expect_accepted(&mut connection, "byte by byte");
    }
    assert_eq!(server.total(), valid_requests().len() as u64);
}

#[test]
fn two_requests_split_at_every_byte() {
    let server = Server::start(Engine::Native, &[]);
    let bytes = [post("/ingest", BODY), chunks(&[b"11\r\n", BODY, b"\r\n0\r\n\r\n"])].concat();
    let mut connection = server.connect();
    for at in 1..bytes.len() {
        connection.send_parts([&bytes[..at], &bytes[at..]]);
        expect_accepted(&mut connection, "the first");
        expect_accepted(&mut connection, "the second");
    }
    assert_eq!(server.total(), 2 * (bytes.len() as u64 - 1));
}
