//! Tests of the proxy itself, in front of a server that echoes and remembers the bytes it reads.

#![allow(clippy::disallowed_methods, reason = "tests measure how long a delay takes")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::fault_proxy::{Fault, Proxy};

const WAIT: Duration = Duration::from_secs(60);

/// An echo server. When a connection has ended, it sends the bytes read to the test.
fn echo() -> (SocketAddr, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let address = listener.local_addr().expect("bound");
    let (told, heard) = channel();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let told = told.clone();
            std::thread::spawn(move || {
                let mut all = Vec::new();
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    all.extend_from_slice(&bytes[..count]);
                    if stream.write_all(&bytes[..count]).is_err() {
                        break;
                    }
                }
                // The test may have ended.
                drop(told.send(all));
            });
        }
    });
    (address, heard)
}

fn start() -> (Proxy, Receiver<Vec<u8>>) {
    let (address, heard) = echo();
    (Proxy::start(address), heard)
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address).expect("connect");
    stream.set_read_timeout(Some(WAIT)).expect("timeout");
    stream
}

fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).expect("as many bytes");
    bytes
}

/// The bytes until the close or a reset.
fn read_rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    bytes
}

fn text(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}

#[test]
fn passes_everything_both_ways() {
    let (proxy, heard) = start();
    let mut stream = connect(&proxy);
    let sent = text(3 << 20);
    let mut writer = stream.try_clone().expect("clone");
    let to_send = sent.clone();
    let writing = std::thread::spawn(move || writer.write_all(&to_send));
    assert!(read(&mut stream, sent.len()) == sent);
    writing.join().expect("joined").expect("written");
    stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
    assert_eq!(read_rest(&mut stream), b"");
    assert!(heard.recv_timeout(WAIT).expect("ended") == sent);
    assert_eq!(proxy.counters().connections, 1);
}

#[test]
fn a_request_is_cut_at_the_given_byte_and_once() {
    let (proxy, heard) = start();
    let mut stream = connect(&proxy);
    stream.write_all(&text(50)).expect("write");
    read(&mut stream, 50);
    for after in [0, 1, 70_000] {
        let mut stream = connect(&proxy);
        stream.write_all(b"before").expect("write");
        read(&mut stream, 6);
        proxy.set(Fault::CutRequest { after });
        // The close may come before the last write.
        drop(stream.write_all(&text(200_000)));
        read_rest(&mut stream);
        let expected = [b"before".to_vec(), text(after as usize)].concat();
        assert!(heard.recv_timeout(WAIT).expect("ended") == expected, "{after}");
        assert_eq!(read_all_of(&proxy, b"again"), b"again");
        assert_eq!(heard.recv_timeout(WAIT).expect("ended"), b"again");
    }
    assert_eq!(proxy.counters().cuts, 3);
}

/// A request and its reply on a new connection.
fn read_all_of(proxy: &Proxy, sent: &[u8]) -> Vec<u8> {
    let mut stream = connect(proxy);
    stream.write_all(sent).expect("write");
    stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
    read_rest(&mut stream)
}

#[test]
fn replies_are_cut_after_the_whole_request() {
    let (proxy, heard) = start();
    for after in [0, 1, 1_000] {
        let mut stream = connect(&proxy);
        stream.write_all(b"before").expect("write");
        read(&mut stream, 6);
        proxy.set(Fault::CutReplies { after });
        let sent = text(200_000);
        stream.write_all(&sent).expect("write");
        assert!(read_rest(&mut stream) == sent[..after as usize], "{after}");
        let all = [b"before".to_vec(), sent].concat();
        assert!(heard.recv_timeout(WAIT).expect("ended") == all, "{after}");
        assert_eq!(read_all_of(&proxy, b"again"), b"again");
        assert_eq!(heard.recv_timeout(WAIT).expect("ended"), b"again");
    }
    assert_eq!(proxy.counters().cuts, 3);
}

#[test]
fn a_delay_applies_to_each_byte_not_to_each_read() {
    let (proxy, heard) = start();
    let (requests, replies) = (Duration::from_millis(100), Duration::from_millis(150));
    proxy.set(Fault::Delay { requests, replies });
    let mut stream = connect(&proxy);
    let start = Instant::now();
    let bytes = text(200);
    for byte in &bytes {
        stream.write_all(&[*byte]).expect("write");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(read(&mut stream, bytes.len()), bytes);
    let took = start.elapsed();
    assert!(took >= requests + replies, "{took:?}");
    // Each delayed after the one before, they would take 50 s; so they take less than one.
    assert!(took < Duration::from_secs(30), "{took:?}");
    // In flight when its sender closes.
    stream.write_all(b"late").expect("write");
    drop(stream);
    assert_eq!(heard.recv_timeout(WAIT).expect("ended"), [&bytes[..], b"late"].concat());
}

#[test]
fn replies_dribble() {
    let (proxy, _heard) = start();
    let pause = Duration::from_millis(30);
    proxy.set(Fault::Dribble { bytes: 1, pause });
    let mut stream = connect(&proxy);
    let start = Instant::now();
    stream.write_all(&text(10)).expect("write");
    for byte in 0..10 {
        assert_eq!(read(&mut stream, 1), [byte]);
        let (took, least) = (start.elapsed(), pause * (u32::from(byte) + 1));
        assert!(took >= least, "{took:?} for {byte}");
    }
}

#[test]
fn a_black_hole_takes_everything_and_gives_nothing() {
    let (proxy, heard) = start();
    let mut stream = connect(&proxy);
    stream.write_all(b"before").expect("write");
    read(&mut stream, 6);
    proxy.set(Fault::BlackHole);
    let mut later = connect(&proxy);
    for stream in [&mut stream, &mut later] {
        stream.write_all(b"lost").expect("write");
        stream.set_read_timeout(Some(Duration::from_millis(50))).expect("timeout");
        let error = stream.read(&mut [0]).expect_err("no answer");
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        stream.set_read_timeout(Some(WAIT)).expect("timeout");
    }
    proxy.wait(WAIT, "both were swallowed", |counters| counters.swallowed == 8);
    // A connection that has lost bytes cannot continue.
    proxy.set(Fault::None);
    assert_eq!(read_rest(&mut stream), b"");
    assert_eq!(read_rest(&mut later), b"");
    let mut ended =
        [heard.recv_timeout(WAIT), heard.recv_timeout(WAIT)].map(|all| all.expect("ended"));
    ended.sort();
    assert_eq!(ended, [b"".to_vec(), b"before".to_vec()]);
    assert_eq!(read_all_of(&proxy, b"again"), b"again");
}

#[test]
fn a_reset_is_a_reset() {
    let (proxy, _heard) = start();
    let mut stream = connect(&proxy);
    stream.write_all(b"before").expect("write");
    read(&mut stream, 6);
    proxy.set(Fault::Reset);
    let error = stream.read(&mut [0]).expect_err("reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let error = connect(&proxy).read(&mut [0]).expect_err("reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(proxy.counters().resets, 2);
    proxy.set(Fault::None);
    assert_eq!(read_all_of(&proxy, b"again"), b"again");
}

#[test]
fn a_server_that_is_down_is_a_close() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let proxy = Proxy::start(address);
    let mut stream = connect(&proxy);
    // It may be closed already.
    drop(stream.write_all(b"x"));
    assert_eq!(read_rest(&mut stream), b"");
}
