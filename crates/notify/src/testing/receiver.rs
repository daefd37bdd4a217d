//! A target on this machine: takes requests one by one, and answers as it is told.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};

/// A test that waits longer has failed.
pub(crate) const WAIT: Duration = Duration::from_secs(30);

/// A target, and the requests that it has received.
pub(crate) struct TestReceiver {
    pub(crate) port: u16,
    pub(crate) requests: Receiver<Received>,
}

/// A request.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl TestReceiver {
    /// `answers`: the first words of each answer, in order; the last one is repeated. An empty one closes the connection.
    pub(crate) fn start(answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (sender, requests) = unbounded();
        std::thread::spawn(move || {
            let mut answers = answers.iter();
            let mut answer = answers.next().expect("an answer");
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let Some(received) = read(&mut stream) else { continue };
                let last = "Content-Length: 2\r\nConnection: close\r\n\r\nok";
                if !answer.is_empty() {
                    // Err: the client is gone, and its test will say so.
                    let _ = write!(stream, "HTTP/1.1 {answer}\r\n{last}");
                }
                answer = answers.next().unwrap_or(answer);
                if sender.send(received).is_err() {
                    return;
                }
            }
        });
        Self { port, requests }
    }

    /// The next request.
    pub(crate) fn next(&self) -> Received {
        self.requests.recv_timeout(WAIT).expect("a request")
    }
}

/// None if the client closes first.
fn read(stream: &mut TcpStream) -> Option<Received> {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().expect("a length"));
            if body.len() >= length {
                return Some(Received { head: head.clone(), body: body.to_owned() });
            }
        }
        match stream.read(&mut part) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&part[..count]),
        }
    }
}
