//! A target of `--webhook`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

/// What a busy machine needs for a notification: the wait ends as soon as it has come.
const PATIENCE: Duration = Duration::from_secs(240);

/// Takes notifications until the test ends.
pub struct Webhook {
    pub port: u16,
    bodies: Receiver<Value>,
}

impl Webhook {
    /// Listens on a free port.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (sender, bodies) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
                let (mut line, mut length) = (String::new(), 0);
                // Nothing: the process was killed as it connected.
                while reader.read_line(&mut line).is_ok_and(|read| read > 0) && line != "\r\n" {
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().expect("a length");
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                if length == 0 || reader.read_exact(&mut body).is_err() {
                    continue;
                }
                let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
                // Err: it was killed meanwhile.
                let _ = stream.write_all(answer);
                if sender.send(serde_json::from_slice(&body).expect("JSON")).is_err() {
                    return;
                }
            }
        });
        Self { port, bodies }
    }

    /// The next opening or resolution, and of which incident. One may grow worse between them, by its score.
    pub fn next(&self) -> (String, String) {
        loop {
            let found = named(&self.bodies.recv_timeout(PATIENCE).expect("a notification"));
            if found.0 != "worse" {
                return found;
            }
        }
    }

    /// The openings and resolutions that nobody has taken.
    pub fn rest(&self) -> Vec<(String, String)> {
        let all = self.bodies.try_iter().map(|body| named(&body));
        all.filter(|found| found.0 != "worse").collect()
    }
}

fn named(body: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    (text(&body["event"]), text(&body["incident"]["id"]))
}
